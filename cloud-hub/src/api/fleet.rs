//! The fleet over HTTP: boxes, and what became of their readings.

use axum::Json;
use axum::extract::State;
use serde::Deserialize;
use utoipa::{IntoParams, ToSchema};

use super::Context;
use super::error::Problem;
use super::extract::{At, Params};
use super::page::{Page, page};
use crate::view::{AgentView, FleetMap, Health, LedgerView, Overview, View};

/// The fleet in figures.
#[utoipa::path(get, path = "/api/v1/overview", tag = "Fleet", responses((status = 200, body = Overview)))]
pub(super) async fn overview(State(context): State<Context>) -> Json<Overview> {
    Json(context.now().overview.clone())
}

/// Every box at a glance, for a map of a large fleet.
#[utoipa::path(get, path = "/api/v1/fleet-map", tag = "Fleet", responses((status = 200, body = FleetMap)))]
pub(super) async fn map(State(context): State<Context>) -> Json<FleetMap> {
    Json(FleetMap::of(&context.now().agents))
}

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct AgentsQuery {
    /// Only those whose name contains this.
    name: Option<String>,
    /// Only those that are so.
    health: Option<Health>,
    /// Only those that serve this version.
    #[param(value_type = Option<i64>, minimum = 0, maximum = 4_294_967_295_i64)]
    version: Option<u32>,
    /// In which order.
    order: Option<AgentOrder>,
    /// Items of a page.
    #[param(minimum = 1, maximum = 1000)]
    limit: Option<u32>,
    /// Where the page before ended.
    #[param(pattern = "^([0-9a-f]{2})*$")]
    cursor: Option<String>,
}

/// An order of boxes.
#[derive(Debug, Clone, Copy, Default, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum AgentOrder {
    /// By name.
    #[default]
    Name,
    /// Those first that somebody should look at.
    Attention,
}

/// Boxes.
#[utoipa::path(get, path = "/api/v1/agents", tag = "Fleet", params(AgentsQuery),
    responses((status = 200, body = Page<AgentView>)))]
pub(super) async fn agents(
    State(context): State<Context>,
    Params(query): Params<AgentsQuery>,
) -> Result<Json<Page<AgentView>>, Problem> {
    let view = context.now();
    let AgentsQuery { name, health, version, order, limit, cursor } = query;
    let is_wanted = |agent: &&AgentView| {
        name.as_ref().is_none_or(|name| agent.agent.as_str().contains(name.as_str()))
            && health.is_none_or(|health| agent.health == health)
            && version.is_none_or(|version| agent.serving.as_ref().is_some_and(|serving| serving.version == version))
    };
    let key = |agent: &AgentView| match order.unwrap_or_default() {
        AgentOrder::Name => agent.agent.to_string(),
        AgentOrder::Attention => format!("{}{}", urgency(agent), agent.agent),
    };
    page(view.agents.iter().filter(is_wanted), key, limit, cursor.as_deref()).map(Json)
}

/// A letter that sorts those first that somebody should look at.
fn urgency(agent: &AgentView) -> char {
    use crate::view::Severity;
    match agent.attention.first().map(|worst| worst.severity) {
        Some(Severity::Critical) => 'a',
        Some(Severity::Warning) => 'b',
        Some(Severity::Note) => 'c',
        None => 'd',
    }
}

/// A box.
#[utoipa::path(get, path = "/api/v1/agents/{agent}", tag = "Fleet", params(("agent" = String, Path, description = "The box")),
    responses((status = 200, body = AgentView)))]
pub(super) async fn agent(State(context): State<Context>, At(name): At<String>) -> Result<Json<AgentView>, Problem> {
    let view = context.now();
    known_agent(&view, &name).cloned().map(Json)
}

/// The box of this name.
pub(super) fn known_agent<'a>(view: &'a View, name: &str) -> Result<&'a AgentView, Problem> {
    view.agent(name).ok_or_else(|| Problem::not_found("agent", format!("there is no agent {name:?}")))
}

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct LedgerQuery {
    /// Only of this box.
    agent: Option<String>,
}

/// What became of every reading.
#[utoipa::path(get, path = "/api/v1/ledger", tag = "Fleet", params(LedgerQuery), responses((status = 200, body = LedgerView)))]
pub(super) async fn ledger(
    State(context): State<Context>,
    Params(LedgerQuery { agent }): Params<LedgerQuery>,
) -> Json<LedgerView> {
    let mut ledger = context.now().ledger.clone();
    if let Some(agent) = agent {
        ledger.streams.retain(|stream| stream.agent.as_str() == agent);
    }
    Json(ledger)
}
