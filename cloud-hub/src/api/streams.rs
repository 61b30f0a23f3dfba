//! Streams over HTTP: what they are, their readings, and how far they are from what their model was trained on.

use axum::Json;
use axum::extract::State;
use serde::Deserialize;
use utoipa::IntoParams;

use super::error::Problem;
use super::extract::{At, Params};
use super::page::{Page, page};
use super::{Command, Context, Window};
use crate::clock;
use crate::view::{HistogramsView, ReadingsView, StreamView, View};

/// Parts of a window, unless it is said: about as many as a plot has columns of pixels.
const DEFAULT_PARTS: u32 = 600;
/// Parts of a window at most.
const MAX_PARTS: u32 = 4_000;
/// How long a window is at most: every file of its days is looked at.
const MAX_WINDOW_MS: i64 = 31 * 24 * 3_600_000;
/// How far back a window reaches, unless it is said.
const DEFAULT_WINDOW_MS: i64 = 15 * 60 * 1_000;

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct StreamsQuery {
    /// Only those of this box.
    agent: Option<String>,
    /// Only those whose name contains this.
    name: Option<String>,
    /// Items of a page.
    #[param(minimum = 1, maximum = 1000)]
    limit: Option<u32>,
    /// Where the page before ended.
    #[param(pattern = "^([0-9a-f]{2})*$")]
    cursor: Option<String>,
}

/// Streams.
#[utoipa::path(get, path = "/api/v1/streams", tag = "Streams", params(StreamsQuery),
    responses((status = 200, body = Page<StreamView>)))]
pub(super) async fn streams(
    State(context): State<Context>,
    Params(query): Params<StreamsQuery>,
) -> Result<Json<Page<StreamView>>, Problem> {
    let view = context.now();
    let StreamsQuery { agent, name, limit, cursor } = query;
    let is_wanted = |stream: &&StreamView| {
        agent.as_ref().is_none_or(|agent| stream.agent.as_str() == agent)
            && name.as_ref().is_none_or(|name| stream.stream.as_str().contains(name.as_str()))
    };
    // No name has a control character, so names of boxes are sorted first.
    let key = |stream: &StreamView| format!("{}\n{}", stream.agent, stream.stream);
    page(view.streams.iter().filter(is_wanted), key, limit, cursor.as_deref()).map(Json)
}

/// A stream.
#[utoipa::path(get, path = "/api/v1/agents/{agent}/streams/{stream}", tag = "Streams",
    params(("agent" = String, Path, description = "The box"), ("stream" = String, Path, description = "The stream")),
    responses((status = 200, body = StreamView)))]
pub(super) async fn stream(
    State(context): State<Context>,
    At((agent, stream)): At<(String, String)>,
) -> Result<Json<StreamView>, Problem> {
    let view = context.now();
    known_stream(&view, &agent, &stream).cloned().map(Json)
}

fn known_stream<'a>(view: &'a View, agent: &str, stream: &str) -> Result<&'a StreamView, Problem> {
    let found = view.streams.iter().find(|known| known.agent.as_str() == agent && known.stream.as_str() == stream);
    found.ok_or_else(|| Problem::not_found("stream", format!("{agent:?} has no stream {stream:?}")))
}

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct ReadingsQuery {
    /// The first time; unless it is said, a quarter of an hour before `to`.
    #[param(value_type = Option<String>, format = DateTime)]
    from: Option<chrono::DateTime<chrono::Utc>>,
    /// The last time; unless it is said, that of the newest reading.
    #[param(value_type = Option<String>, format = DateTime)]
    to: Option<chrono::DateTime<chrono::Utc>>,
    /// Parts of the same length that the time is cut into. Of each the least, the greatest and the mean are given, so
    /// that no extreme is hidden.
    #[param(minimum = 1, maximum = 4000)]
    parts: Option<u32>,
}

/// A stream's readings over some time, and what was said of them.
#[utoipa::path(get, path = "/api/v1/agents/{agent}/streams/{stream}/readings", tag = "Streams",
    params(("agent" = String, Path, description = "The box"), ("stream" = String, Path, description = "The stream"), ReadingsQuery),
    responses((status = 200, body = ReadingsView)))]
pub(super) async fn readings(
    State(context): State<Context>,
    At((agent, stream)): At<(String, String)>,
    Params(query): Params<ReadingsQuery>,
) -> Result<Json<ReadingsView>, Problem> {
    let view = context.now();
    let known = known_stream(&view, &agent, &stream)?;
    let newest_ms = known.last_time.map_or_else(clock::unix_ms, |time| time.0);
    let to_ms = query.to.map_or(newest_ms, |to| to.timestamp_millis());
    let from_ms = query.from.map_or(to_ms.saturating_sub(DEFAULT_WINDOW_MS), |from| from.timestamp_millis());
    if from_ms > to_ms {
        return Err(Problem::bad_query("from must not be after to"));
    }
    if to_ms.saturating_sub(from_ms) > MAX_WINDOW_MS {
        return Err(Problem::refused("window_too_long", "a window is at most 31 days; ask for several"));
    }
    let parts = query.parts.unwrap_or(DEFAULT_PARTS);
    if !(1..=MAX_PARTS).contains(&parts) {
        return Err(Problem::bad_query(format!("parts must be 1 to {MAX_PARTS}, not {parts}")));
    }
    let window = Window { agent: known.agent.clone(), stream: known.stream.clone(), from_ms, to_ms, parts };
    let read = context.ask(|answer| Command::ReadReadings { window, answer }).await?;
    read.map(Json).map_err(Problem::failed)
}

/// A stream's values beside what its model was trained on, channel by channel, and the same over the boxes of its model.
#[utoipa::path(get, path = "/api/v1/agents/{agent}/streams/{stream}/histograms", tag = "Streams",
    params(("agent" = String, Path, description = "The box"), ("stream" = String, Path, description = "The stream")),
    responses((status = 200, body = HistogramsView)))]
pub(super) async fn histograms(
    State(context): State<Context>,
    At((agent, stream)): At<(String, String)>,
) -> Result<Json<HistogramsView>, Problem> {
    let view = context.now();
    let known = known_stream(&view, &agent, &stream)?;
    let (agent, stream) = (known.agent.clone(), known.stream.clone());
    let unwatched = format!("no model answers {stream} of {agent} yet, so there is nothing to hold it against");
    let found = context.ask(|answer| Command::ReadHistograms { agent, stream, answer }).await?;
    found.map(Json).ok_or_else(|| Problem::not_found("reference", unwatched))
}
