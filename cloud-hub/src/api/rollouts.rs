//! Rollouts over HTTP: how they stand, and what a person wants of them.

use axum::extract::State;
use axum::response::Response;
use axum::{Extension, Json};
use serde::Deserialize;
use utoipa::IntoParams;

use super::error::Problem;
use super::extract::{At, Params};
use super::learning::newest_first;
use super::page::{Page, page};
use super::{Accepted, Command, Context};
use crate::core::access::Principal;
use crate::core::rollout::{RolloutState, Wish};
use crate::view::{RolloutView, View};

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct RolloutsQuery {
    /// Only of this model.
    model: Option<String>,
    /// Items of a page.
    #[param(minimum = 1, maximum = 1000)]
    limit: Option<u32>,
    /// Where the page before ended.
    #[param(pattern = "^([0-9a-f]{2})*$")]
    cursor: Option<String>,
}

/// The newest rollouts, newest first.
#[utoipa::path(get, path = "/api/v1/rollouts", tag = "Rollouts", params(RolloutsQuery),
    responses((status = 200, body = Page<RolloutView>)))]
pub(super) async fn list(
    State(context): State<Context>,
    Params(RolloutsQuery { model, limit, cursor }): Params<RolloutsQuery>,
) -> Result<Json<Page<RolloutView>>, Problem> {
    let view = context.now();
    let of_model = |rollout: &&RolloutView| model.as_ref().is_none_or(|model| rollout.model.as_str() == model);
    let rollouts = view.rollouts.iter().filter(of_model);
    page(rollouts, |rollout| newest_first(rollout.rollout), limit, cursor.as_deref()).map(Json)
}

/// A rollout.
#[utoipa::path(get, path = "/api/v1/rollouts/{rollout}", tag = "Rollouts", params(("rollout" = i64, Path, description = "Its number")),
    responses((status = 200, body = RolloutView)))]
pub(super) async fn one(State(context): State<Context>, At(number): At<i64>) -> Result<Json<RolloutView>, Problem> {
    let view = context.now();
    known_rollout(&view, number).cloned().map(Json)
}

fn known_rollout(view: &View, number: i64) -> Result<&RolloutView, Problem> {
    let found = view.rollouts.iter().find(|rollout| rollout.rollout == number);
    found.ok_or_else(|| Problem::not_found("rollout", format!("there is no rollout {number}")))
}

/// Lets the next stage begin.
#[utoipa::path(post, path = "/api/v1/rollouts/{rollout}/approve", tag = "Rollouts",
    params(("rollout" = i64, Path, description = "Its number")), responses((status = 202, body = Accepted)))]
pub(super) async fn approve(
    context: State<Context>,
    who: Extension<Principal>,
    number: At<i64>,
) -> Result<Response, Problem> {
    wish(context, who, number, Wish::Approve).await
}

/// Holds a rollout: no other box gets the version.
#[utoipa::path(post, path = "/api/v1/rollouts/{rollout}/pause", tag = "Rollouts",
    params(("rollout" = i64, Path, description = "Its number")), responses((status = 202, body = Accepted)))]
pub(super) async fn pause(
    context: State<Context>,
    who: Extension<Principal>,
    number: At<i64>,
) -> Result<Response, Problem> {
    wish(context, who, number, Wish::Pause).await
}

/// Lets a rollout go on.
#[utoipa::path(post, path = "/api/v1/rollouts/{rollout}/resume", tag = "Rollouts",
    params(("rollout" = i64, Path, description = "Its number")), responses((status = 202, body = Accepted)))]
pub(super) async fn resume(
    context: State<Context>,
    who: Extension<Principal>,
    number: At<i64>,
) -> Result<Response, Problem> {
    wish(context, who, number, Wish::Resume).await
}

/// Takes a version back from every box that has it.
#[utoipa::path(post, path = "/api/v1/rollouts/{rollout}/abort", tag = "Rollouts",
    params(("rollout" = i64, Path, description = "Its number")), responses((status = 202, body = Accepted)))]
pub(super) async fn abort(
    context: State<Context>,
    who: Extension<Principal>,
    number: At<i64>,
) -> Result<Response, Problem> {
    wish(context, who, number, Wish::Abort).await
}

async fn wish(
    State(context): State<Context>,
    Extension(who): Extension<Principal>,
    At(number): At<i64>,
    wish: Wish,
) -> Result<Response, Problem> {
    let state = known_rollout(&context.now(), number)?.state;
    let makes_sense = match wish {
        Wish::Pause => state == RolloutState::Running,
        Wish::Resume => state == RolloutState::Paused,
        Wish::Approve => state == RolloutState::AwaitingApproval,
        Wish::Abort => !state.is_over(),
    };
    if !makes_sense {
        return Err(Problem::conflict("rollout_state", format!("rollout {number} is {}", state.in_words())));
    }
    context.order(Command::Wish { id: number, wish, by: who.name }).await?;
    Ok(Accepted::at(format!("/api/v1/rollouts/{number}")))
}
