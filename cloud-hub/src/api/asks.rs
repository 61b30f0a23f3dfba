//! Boxes that ask to be let in with a claim, over HTTP.

use axum::extract::State;
use axum::http::StatusCode;
use axum::{Extension, Json};
use serde::Deserialize;
use shared::ids::AgentId;
use utoipa::ToSchema;

use super::enrolment::check_labels;
use super::error::Problem;
use super::extract::{At, Body, Params};
use super::page::{Page, PageQuery, page};
use super::{Command, Context};
use crate::core::access::Principal;
use crate::core::identities::BoxLabels;
use crate::view::AskView;

/// Boxes that ask to be let in.
#[utoipa::path(get, path = "/api/v1/enrolment-asks", tag = "Enrolment", params(PageQuery),
    responses((status = 200, body = Page<AskView>)))]
pub(super) async fn asks(
    State(context): State<Context>,
    Params(PageQuery { limit, cursor }): Params<PageQuery>,
) -> Result<Json<Page<AskView>>, Problem> {
    let asks = context.ask(|answer| Command::ReadAsks { answer }).await?;
    page(asks.iter(), |ask: &AskView| ask.id.clone(), limit, cursor.as_deref()).map(Json)
}

/// As what a box is let in. Everything may be left out.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ApproveAskBody {
    /// The name that the box gets, also if another box has it and goes; without it, the one that it wished for.
    #[schema(min_length = 1, max_length = 64, pattern = "^[A-Za-z0-9._-]+$")]
    agent: Option<String>,
    /// What it is labelled with, beside what its claim says.
    #[serde(default)]
    #[schema(value_type = Option<BoxLabels>)]
    labels: Option<BoxLabels>,
}

/// A box that asks is let in. It hears of it when it asks again, a few seconds later.
#[utoipa::path(post, path = "/api/v1/enrolment-asks/{ask}/approve", tag = "Enrolment", request_body = ApproveAskBody,
    params(("ask" = String, Path, description = "What it is called")), responses((status = 200, body = AskView)))]
pub(super) async fn approve(
    State(context): State<Context>,
    Extension(who): Extension<Principal>,
    At(id): At<String>,
    Body(ApproveAskBody { agent, labels }): Body<ApproveAskBody>,
) -> Result<Json<AskView>, Problem> {
    let agent = agent.map(|agent| AgentId::new(&agent)).transpose();
    let agent = agent.map_err(|error| Problem::bad_body(format!("agent: {error}")))?;
    let labels = labels.unwrap_or_default();
    check_labels(&labels).map_err(|says| Problem::conflict("enrolment", format!("labels: {says}")))?;
    known(&context, &id).await?;
    let approved =
        context.ask(|answer| Command::ApproveAsk { id: id.clone(), agent, labels, by: who.name, answer }).await?;
    approved.map_err(|reason| Problem::conflict("enrolment", reason))?;
    known(&context, &id).await.map(Json)
}

/// A box that asks is not let in. If it asks again, it is heard again; its claim is what can be removed.
#[utoipa::path(delete, path = "/api/v1/enrolment-asks/{ask}", tag = "Enrolment",
    params(("ask" = String, Path, description = "What it is called")), responses((status = 204)))]
pub(super) async fn remove(State(context): State<Context>, At(id): At<String>) -> Result<StatusCode, Problem> {
    known(&context, &id).await?;
    let removed = context.ask(|answer| Command::RemoveAsk { id, answer }).await?;
    removed.map_err(|reason| Problem::conflict("enrolment", reason))?;
    Ok(StatusCode::NO_CONTENT)
}

async fn known(context: &Context, id: &str) -> Result<AskView, Problem> {
    let asks = context.ask(|answer| Command::ReadAsks { answer }).await?;
    let missing = || Problem::not_found("enrolment_ask", format!("no box asks as {id:?}"));
    asks.into_iter().find(|ask| ask.id == id).ok_or_else(missing)
}
