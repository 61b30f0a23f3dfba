//! Models over HTTP: their versions, and packages that come and go.

use axum::body::Bytes;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use serde::{Deserialize, Serialize};
use shared::ids::ModelVersion;
use utoipa::{IntoParams, ToSchema};

use super::error::Problem;
use super::extract::{At, Body, Params};
use super::page::{Page, PageQuery, page};
use super::{Accepted, Command, Context};
use crate::core::access::Principal;
use crate::view::{ModelView, VersionView, View};

/// Models.
#[utoipa::path(get, path = "/api/v1/models", tag = "Models", responses((status = 200, body = Page<ModelView>)))]
pub(super) async fn models(State(context): State<Context>) -> Json<Page<ModelView>> {
    Json(Page::whole(context.now().models.iter().map(|(_, model)| model.clone()).collect()))
}

/// A model and its versions.
#[utoipa::path(get, path = "/api/v1/models/{model}", tag = "Models", params(("model" = String, Path, description = "The model")),
    responses((status = 200, body = ModelView)))]
pub(super) async fn model(State(context): State<Context>, At(name): At<String>) -> Result<Json<ModelView>, Problem> {
    let view = context.now();
    known_model(&view, &name).cloned().map(Json)
}

pub(super) fn known_model<'a>(view: &'a View, name: &str) -> Result<&'a ModelView, Problem> {
    let found = view.models.iter().find(|(known, _)| known.as_str() == name);
    found.map(|(_, model)| model).ok_or_else(|| Problem::not_found("model", format!("there is no model {name:?}")))
}

/// A model's versions, oldest first.
#[utoipa::path(get, path = "/api/v1/models/{model}/versions", tag = "Models",
    params(("model" = String, Path, description = "The model"), PageQuery),
    responses((status = 200, body = Page<VersionView>)))]
pub(super) async fn versions(
    State(context): State<Context>,
    At(name): At<String>,
    Params(PageQuery { limit, cursor }): Params<PageQuery>,
) -> Result<Json<Page<VersionView>>, Problem> {
    let view = context.now();
    let versions = &known_model(&view, &name)?.versions;
    page(versions.iter(), |version| format!("{:010}", version.version), limit, cursor.as_deref()).map(Json)
}

/// A version.
#[utoipa::path(get, path = "/api/v1/models/{model}/versions/{version}", tag = "Models",
    params(("model" = String, Path, description = "The model"), ("version" = u32, Path, description = "The version")),
    responses((status = 200, body = VersionView)))]
pub(super) async fn version(
    State(context): State<Context>,
    At((name, version)): At<(String, u32)>,
) -> Result<Json<VersionView>, Problem> {
    let view = context.now();
    known_version(&view, &name, version).cloned().map(Json)
}

pub(super) fn known_version<'a>(view: &'a View, name: &str, version: u32) -> Result<&'a VersionView, Problem> {
    let found = known_model(view, name)?.versions.iter().find(|known| known.version == version);
    found.ok_or_else(|| Problem::not_found("version", format!("{name} has no version {version}")))
}

/// A version's package, signed, as boxes get it.
#[utoipa::path(get, path = "/api/v1/models/{model}/versions/{version}/package", tag = "Models",
    params(("model" = String, Path, description = "The model"), ("version" = u32, Path, description = "The version")),
    responses((status = 200, content_type = "application/octet-stream", body = [u8])))]
pub(super) async fn package(
    State(context): State<Context>,
    At((name, version)): At<(String, u32)>,
) -> Result<Response, Problem> {
    let view = context.now();
    let known = known_version(&view, &name, version)?;
    let digest = shared::ids::Digest::from_hex(&known.digest)
        .ok_or_else(|| Problem::failed(format!("the digest of {name} version {version} is none")))?;
    let bytes = context.ask(|answer| Command::ReadPackage { digest, answer }).await?.map_err(Problem::failed)?;
    let named = format!("attachment; filename=\"{name}-{version}.tide\"");
    let tag = format!("\"{}\"", known.digest);
    let headers = [
        (header::CONTENT_TYPE, "application/octet-stream".to_owned()),
        (header::CONTENT_DISPOSITION, named),
        (header::ETAG, tag),
    ];
    Ok((headers, bytes).into_response())
}

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct Upload {
    /// Whether it need not prove itself on the hub's readings; which is noted.
    #[serde(default)]
    skip_proof: bool,
}

/// A version that was brought.
#[derive(Serialize, ToSchema)]
pub(super) struct Brought {
    /// The version.
    version: u32,
    /// The package's BLAKE3 hash.
    digest: String,
}

/// Brings a package, as it lies in its file. It must prove itself on the readings that the version in service was
/// trained on.
#[utoipa::path(post, path = "/api/v1/models/{model}/versions", tag = "Models",
    params(("model" = String, Path, description = "The model"), Upload),
    request_body(content = [u8], content_type = "application/octet-stream"),
    responses((status = 202, body = Brought)))]
pub(super) async fn upload(
    State(context): State<Context>,
    Extension(who): Extension<Principal>,
    At(name): At<String>,
    Params(Upload { skip_proof }): Params<Upload>,
    body: Bytes,
) -> Result<Response, Problem> {
    let model = known_model(&context.now(), &name)?.model.clone();
    let bring = |answer| Command::Bring { model, bytes: body.to_vec(), by: who.name, skip_proof, answer };
    let (version, digest) = context
        .ask(bring)
        .await?
        .map_err(|reason| Problem::refused("package_refused", format!("the package is refused: {reason}")))?;
    let location = [(header::LOCATION, format!("/api/v1/models/{name}/versions/{}", version.0))];
    let brought = Brought { version: version.0, digest: digest.to_string() };
    Ok((StatusCode::ACCEPTED, location, Json(brought)).into_response())
}

/// What to roll out.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RollOut {
    /// The version.
    #[serde(deserialize_with = "super::extract::whole")]
    version: u32,
}

/// Rolls a version out that is there, for example the one before.
#[utoipa::path(post, path = "/api/v1/models/{model}/rollouts", tag = "Rollouts",
    params(("model" = String, Path, description = "The model")), request_body = RollOut,
    responses((status = 202, body = Accepted)))]
pub(super) async fn roll_out(
    State(context): State<Context>,
    Extension(who): Extension<Principal>,
    At(name): At<String>,
    Body(RollOut { version }): Body<RollOut>,
) -> Result<Response, Problem> {
    let view = context.now();
    let known = known_model(&view, &name)?;
    known_version(&view, &name, version)?;
    if known.champion == Some(version) {
        let detail = format!("version {version} of {name} is its champion already");
        return Err(Problem::conflict("version_serves", detail));
    }
    let (model, version) = (known.model.clone(), ModelVersion(version));
    context.order(Command::RollOut { model, version, by: who.name }).await?;
    Ok(Accepted::at("/api/v1/rollouts".to_owned()))
}
