//! Boxes that are asked how they are, over HTTP.

use axum::extract::State;
use axum::response::Response;
use axum::{Extension, Json};
use serde::Serialize;
use serde_json::Value;
use shared::ids::AgentId;
use utoipa::ToSchema;

use super::error::Problem;
use super::extract::At;
use super::{Accepted, Command, Context};
use crate::core::access::Principal;
use crate::core::diagnoses::Diagnosis;
use crate::view::Timestamp;

/// What a box said of itself.
#[derive(Serialize, ToSchema)]
pub(super) struct DiagnosisView {
    /// The box.
    agent: String,
    /// When it was asked.
    #[schema(value_type = String, format = DateTime)]
    asked: Timestamp,
    /// Who asked.
    asked_by: String,
    /// When it answered; nothing: not yet.
    #[schema(value_type = Option<String>, format = DateTime)]
    said: Option<Timestamp>,
    /// What it said: `doctor`, `status`, `configuration`, `log`, `crashes`, `programs`, `system`. Secrets are left out on the box.
    #[schema(value_type = Option<Object>)]
    document: Option<Value>,
}

/// Asks a box for everything it can say of itself. It takes some seconds until it is there.
#[utoipa::path(post, path = "/api/v1/agents/{agent}/diagnosis", tag = "Fleet", params(("agent" = String, Path, description = "The box")),
    responses((status = 202, body = Accepted)))]
pub(super) async fn ask(
    State(context): State<Context>,
    Extension(who): Extension<Principal>,
    At(agent): At<String>,
) -> Result<Response, Problem> {
    let known = known(&context, &agent)?;
    let asked = context.ask(|answer| Command::Diagnose { agent: known, by: who.name, answer }).await?;
    asked.map_err(|reason| Problem::conflict("not_connected", reason))?;
    Ok(Accepted::at(format!("/api/v1/agents/{agent}/diagnosis")))
}

/// What a box said when it was asked last.
#[utoipa::path(get, path = "/api/v1/agents/{agent}/diagnosis", tag = "Fleet", params(("agent" = String, Path, description = "The box")),
    responses((status = 200, body = DiagnosisView)))]
pub(super) async fn diagnosis(
    State(context): State<Context>,
    At(name): At<String>,
) -> Result<Json<DiagnosisView>, Problem> {
    let agent = known(&context, &name)?;
    let found = context.ask(|answer| Command::ReadDiagnosis { agent, answer }).await?;
    let nobody = || Problem::not_found("diagnosis", format!("nobody asked {name} since the hub started"));
    let Diagnosis { asked_ms, asked_by, said, .. } = found.ok_or_else(nobody)?;
    let document = said.as_ref().and_then(|(_, document)| serde_json::from_slice(&document.unpack().ok()?).ok());
    let said = said.map(|(said_ms, _)| Timestamp(said_ms));
    Ok(Json(DiagnosisView { agent: name, asked: Timestamp(asked_ms), asked_by, said, document }))
}

fn known(context: &Context, name: &str) -> Result<AgentId, Problem> {
    let view = context.now();
    let found = view.agents.iter().map(|known| &known.agent).find(|known| known.as_str() == name).cloned();
    found.ok_or_else(|| Problem::not_found("agent", format!("there is no agent {name:?}")))
}
