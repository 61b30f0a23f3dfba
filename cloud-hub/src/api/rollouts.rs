//! Rollouts over HTTP: how they stand, what a person wants of them, and packages that are brought by hand.

use axum::body::Bytes;
use axum::extract::rejection::{JsonRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use serde::Deserialize;
use serde_json::{Value, json};
use shared::ids::ModelVersion;
use tokio::sync::oneshot;

use super::error::Problem;
use super::{Command, Context, find, items, known_model};
use crate::core::access::Principal;
use crate::core::rollout::Wish;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RollOut {
    version: u32,
}

pub(super) async fn list(State(context): State<Context>) -> Json<Value> {
    items(&context.now().rollouts)
}

pub(super) async fn one(State(context): State<Context>, Path(id): Path<String>) -> Result<Json<Value>, Problem> {
    find(&context.now().rollouts, "rollout", &id, "rollout")
}

/// `POST /api/v1/rollouts/{id}/{pause|resume|approve|abort}`.
pub(super) async fn wish(
    State(context): State<Context>,
    Extension(who): Extension<Principal>,
    Path((id, wish)): Path<(String, String)>,
) -> Result<Response, Problem> {
    let Json(rollout) = find(&context.now().rollouts, "rollout", &id, "rollout")?;
    let wish = match wish.as_str() {
        "pause" => Wish::Pause,
        "resume" => Wish::Resume,
        "approve" => Wish::Approve,
        "abort" => Wish::Abort,
        other => {
            let detail = format!("a rollout can be told to pause, resume, approve or abort, not {other:?}");
            return Err(Problem::not_found("path", detail));
        }
    };
    let state = rollout["state"].as_str().unwrap_or_default();
    let makes_sense = match wish {
        Wish::Pause => state == "running",
        Wish::Resume => state == "paused",
        Wish::Approve => state == "awaiting_approval",
        Wish::Abort => rollout["ended"].is_null(),
    };
    if !makes_sense {
        return Err(Problem::conflict("rollout_state", format!("rollout {id} is {}", state.replace('_', " "))));
    }
    let id = rollout["rollout"].as_i64().unwrap_or_default();
    context.order(Command::Wish { id, wish, by: who.name }).await?;
    Ok((StatusCode::ACCEPTED, Json(json!({ "status": "accepted" }))).into_response())
}

/// `POST /api/v1/models/{model}/rollouts`: rolls a version out that is there, for example the one before.
pub(super) async fn begin(
    State(context): State<Context>,
    Extension(who): Extension<Principal>,
    Path(name): Path<String>,
    body: Result<Json<RollOut>, JsonRejection>,
) -> Result<Response, Problem> {
    let (model, shown) = known_model(&context, &name)?;
    let Json(RollOut { version }) = body.map_err(|rejection| Problem::bad_body(rejection.body_text()))?;
    let is_there = shown["versions"].as_array().is_some_and(|all| all.iter().any(|one| one["version"] == version));
    if !is_there {
        return Err(Problem::not_found("version", format!("{name} has no version {version}")));
    }
    if shown["champion"] == version {
        return Err(Problem::conflict(
            "version_serves",
            format!("version {version} of {name} is its champion already"),
        ));
    }
    let version = ModelVersion(version);
    context.order(Command::RollOut { model, version, by: who.name }).await?;
    let location = [(header::LOCATION, "/api/v1/rollouts")];
    Ok((StatusCode::ACCEPTED, location, Json(json!({ "status": "accepted" }))).into_response())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Upload {
    #[serde(default)]
    skip_proof: bool,
}

/// `POST /api/v1/models/{model}/versions`: a package, as it lies in its file. It must prove itself on the readings that
/// the version in service was trained on, unless `skip_proof=true`; which is noted.
pub(super) async fn upload(
    State(context): State<Context>,
    Extension(who): Extension<Principal>,
    Path(name): Path<String>,
    query: Result<Query<Upload>, QueryRejection>,
    body: Bytes,
) -> Result<Response, Problem> {
    let (model, _) = known_model(&context, &name)?;
    let Query(Upload { skip_proof }) = query.map_err(|rejection| Problem::bad_body(rejection.body_text()))?;
    let (answer, answered) = oneshot::channel();
    context.order(Command::Bring { model, bytes: body.to_vec(), by: who.name, skip_proof, answer }).await?;
    let (version, digest) = answered
        .await
        .map_err(|_| Problem::stopping())?
        .map_err(|reason| Problem::refused("package_refused", format!("the package is refused: {reason}")))?;
    let (version, digest) = (version.0, digest.to_string());
    let location = [(header::LOCATION, format!("/api/v1/models/{name}/versions"))];
    Ok((StatusCode::ACCEPTED, location, Json(json!({ "version": version, "digest": digest }))).into_response())
}
