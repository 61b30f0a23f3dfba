//! Drift and training over HTTP.

use axum::extract::State;
use axum::response::Response;
use axum::{Extension, Json};
use serde::Deserialize;
use utoipa::IntoParams;

use super::error::Problem;
use super::extract::{At, Params};
use super::models::known_model;
use super::page::{Page, PageQuery, page};
use super::{Accepted, Command, Context};
use crate::core::access::Principal;
use crate::core::retrain::curve::Curve;
use crate::view::{DriftView, RunView};

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct DriftQuery {
    /// Only of this box.
    agent: Option<String>,
}

/// Drift: alarms, and how far every watched stream is now.
#[utoipa::path(get, path = "/api/v1/drift", tag = "Learning", params(DriftQuery), responses((status = 200, body = DriftView)))]
pub(super) async fn drift(
    State(context): State<Context>,
    Params(DriftQuery { agent }): Params<DriftQuery>,
) -> Json<DriftView> {
    let mut drift = context.now().drift.clone();
    if let Some(agent) = agent {
        drift.alarms.retain(|alarm| alarm.agent.as_str() == agent);
        drift.now.retain(|now| now.agent.as_str() == agent);
    }
    Json(drift)
}

/// Trainings, newest first.
#[utoipa::path(get, path = "/api/v1/retraining-runs", tag = "Learning", params(PageQuery),
    responses((status = 200, body = Page<RunView>)))]
pub(super) async fn runs(
    State(context): State<Context>,
    Params(PageQuery { limit, cursor }): Params<PageQuery>,
) -> Result<Json<Page<RunView>>, Problem> {
    let view = context.now();
    page(view.runs.iter(), |run| newest_first(run.run), limit, cursor.as_deref()).map(Json)
}

/// A key that sorts greater numbers first.
pub(super) fn newest_first(number: i64) -> String {
    format!("{:020}", i64::MAX.saturating_sub(number))
}

/// A training.
#[utoipa::path(get, path = "/api/v1/retraining-runs/{run}", tag = "Learning", params(("run" = i64, Path, description = "Its number")),
    responses((status = 200, body = RunView)))]
pub(super) async fn run(State(context): State<Context>, At(number): At<i64>) -> Result<Json<RunView>, Problem> {
    let view = context.now();
    let found = view.runs.iter().find(|run| run.run == number);
    found.cloned().map(Json).ok_or_else(|| Problem::not_found("run", format!("there is no run {number}")))
}

/// How the loss of a training went, or goes.
#[utoipa::path(get, path = "/api/v1/retraining-runs/{run}/curve", tag = "Learning",
    params(("run" = i64, Path, description = "Its number")), responses((status = 200, body = Curve)))]
pub(super) async fn curve(State(context): State<Context>, At(run): At<i64>) -> Result<Json<Curve>, Problem> {
    let curve = context.ask(|answer| Command::ReadCurve { run, answer }).await?;
    curve.map(Json).ok_or_else(|| Problem::not_found("run", format!("there is no run {run}")))
}

/// Asks for a training of a model on what its boxes sent.
#[utoipa::path(post, path = "/api/v1/models/{model}/retraining", tag = "Learning",
    params(("model" = String, Path, description = "The model")), responses((status = 202, body = Accepted)))]
pub(super) async fn retrain(
    State(context): State<Context>,
    Extension(who): Extension<Principal>,
    At(name): At<String>,
) -> Result<Response, Problem> {
    let model = known_model(&context.now(), &name)?.model.clone();
    context.order(Command::Retrain { model, by: who.name }).await?;
    Ok(Accepted::at("/api/v1/retraining-runs".to_owned()))
}
