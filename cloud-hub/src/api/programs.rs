//! Programs for boxes, over HTTP.

use axum::body::Bytes;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use serde::Deserialize;
use shared::ids::{AgentId, Digest};
use utoipa::ToSchema;

use super::error::Problem;
use super::extract::{At, Body, Params};
use super::page::{Page, PageQuery, page};
use super::{Command, Context};
use crate::core::access::Principal;
use crate::view::programs::{BoxProgramView, ProgramView};

/// Boxes that are named in one request: their names fit into a body as others are.
const MAX_AGENTS: usize = 200;

/// Programs for boxes, by the hash of their files.
#[utoipa::path(get, path = "/api/v1/programs", tag = "Programs", params(PageQuery),
    responses((status = 200, body = Page<ProgramView>)))]
pub(super) async fn programs(
    State(context): State<Context>,
    Params(PageQuery { limit, cursor }): Params<PageQuery>,
) -> Result<Json<Page<ProgramView>>, Problem> {
    let programs = context.ask(|answer| Command::ReadPrograms { answer }).await?;
    page(programs.iter(), |program: &ProgramView| program.file.clone(), limit, cursor.as_deref()).map(Json)
}

/// What boxes run, and should run, by name.
#[utoipa::path(get, path = "/api/v1/box-programs", tag = "Programs", params(PageQuery),
    responses((status = 200, body = Page<BoxProgramView>)))]
pub(super) async fn boxes(
    State(context): State<Context>,
    Params(PageQuery { limit, cursor }): Params<PageQuery>,
) -> Result<Json<Page<BoxProgramView>>, Problem> {
    let boxes = context.ask(|answer| Command::ReadBoxPrograms { answer }).await?;
    page(boxes.iter(), |known: &BoxProgramView| known.agent.to_string(), limit, cursor.as_deref()).map(Json)
}

/// A program.
#[utoipa::path(get, path = "/api/v1/programs/{file}", tag = "Programs",
    params(("file" = String, Path, description = "The hash of its file")), responses((status = 200, body = ProgramView)))]
pub(super) async fn program(
    State(context): State<Context>,
    At(file): At<String>,
) -> Result<Json<ProgramView>, Problem> {
    known(&context, &file).await.map(|(_, program)| Json(program))
}

/// Brings a program, as it lies in its file. It must be signed; boxes run it once they are told to, and if they trust a key that signed it.
#[utoipa::path(post, path = "/api/v1/programs", tag = "Programs",
    request_body(content = [u8], content_type = "application/octet-stream"),
    responses((status = 201, body = ProgramView)))]
pub(super) async fn bring(
    State(context): State<Context>,
    Extension(who): Extension<Principal>,
    body: Bytes,
) -> Result<Response, Problem> {
    let bring = |answer| Command::BringProgram { bytes: body.to_vec(), by: who.name, answer };
    let brought = context.ask(bring).await?;
    let program =
        brought.map_err(|reason| Problem::refused("program_refused", format!("the program is refused: {reason}")))?;
    let location = [(header::LOCATION, format!("/api/v1/programs/{}", program.file))];
    Ok((StatusCode::CREATED, location, Json(program)).into_response())
}

/// A box's name.
#[derive(ToSchema)]
#[schema(min_length = 1, max_length = 64, pattern = "^[A-Za-z0-9._-]+$")]
#[expect(dead_code, reason = "it is there for the document")]
pub(super) struct AgentName(String);

/// Which boxes should run a program.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct OfferBody {
    /// The boxes.
    #[schema(max_items = 200, value_type = Vec<AgentName>)]
    agents: Vec<String>,
}

/// Boxes should run a program. Each fetches it when it asks next, keeps it if all is well with it, and goes back if not; the first that does
/// halts it for all others.
#[utoipa::path(post, path = "/api/v1/programs/{file}/offers", tag = "Programs", request_body = OfferBody,
    params(("file" = String, Path, description = "The hash of its file")), responses((status = 200, body = ProgramView)))]
pub(super) async fn offer(
    State(context): State<Context>,
    Extension(who): Extension<Principal>,
    At(name): At<String>,
    Body(OfferBody { agents }): Body<OfferBody>,
) -> Result<Json<ProgramView>, Problem> {
    if agents.len() > MAX_AGENTS {
        return Err(Problem::bad_body(format!("agents: at most {MAX_AGENTS} are allowed")));
    }
    let agents: Result<Vec<AgentId>, _> = agents.iter().map(|agent| AgentId::new(agent)).collect();
    let agents = agents.map_err(|error| Problem::bad_body(format!("agents: {error}")))?;
    let (file, _) = known(&context, &name).await?;
    let useless = |reason: String| Problem::conflict("program", reason);
    let now = context.now();
    let boxes = context.ask(|answer| Command::ReadBoxPrograms { answer }).await?;
    let is_known =
        |agent: &AgentId| now.agent(agent.as_str()).is_some() || boxes.iter().any(|known| known.agent == *agent);
    if let Some(stranger) = agents.iter().find(|agent| !is_known(agent)) {
        return Err(useless(format!("agents: there is no box {stranger}")));
    }
    let offered = context.ask(|answer| Command::OfferProgram { file, agents, by: who.name, answer }).await?;
    offered.map(Json).map_err(useless)
}

/// A program that was halted may be offered again.
#[utoipa::path(post, path = "/api/v1/programs/{file}/resume", tag = "Programs",
    params(("file" = String, Path, description = "The hash of its file")), responses((status = 200, body = ProgramView)))]
pub(super) async fn resume(State(context): State<Context>, At(name): At<String>) -> Result<Json<ProgramView>, Problem> {
    let (file, _) = known(&context, &name).await?;
    let resumed = context.ask(|answer| Command::ResumeProgram { file, answer }).await?;
    resumed.map(Json).map_err(|reason| Problem::conflict("program", reason))
}

/// A program goes. Boxes that run it keep it.
#[utoipa::path(delete, path = "/api/v1/programs/{file}", tag = "Programs",
    params(("file" = String, Path, description = "The hash of its file")), responses((status = 204)))]
pub(super) async fn remove(State(context): State<Context>, At(name): At<String>) -> Result<StatusCode, Problem> {
    let (file, _) = known(&context, &name).await?;
    let removed = context.ask(|answer| Command::RemoveProgram { file, answer }).await?;
    removed.map_err(|reason| Problem::conflict("program", reason))?;
    Ok(StatusCode::NO_CONTENT)
}

async fn known(context: &Context, name: &str) -> Result<(Digest, ProgramView), Problem> {
    let programs = context.ask(|answer| Command::ReadPrograms { answer }).await?;
    let found = programs.into_iter().find(|program| program.file == name);
    let found = found.and_then(|program| Some((Digest::from_hex(name)?, program)));
    found.ok_or_else(|| Problem::not_found("program", format!("there is no program {name:?}")))
}
