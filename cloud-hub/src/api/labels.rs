//! Labels over HTTP: what people say of stretches of readings.

use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use chrono::{DateTime, Utc};
use serde::Deserialize;
use utoipa::{IntoParams, ToSchema};

use super::alarms::check_comment;
use super::error::Problem;
use super::extract::{At, Body, Params};
use super::page::{Page, page};
use super::{Command, Context, NewLabel};
use crate::core::access::Principal;
use crate::core::labels::LabelKind;
use crate::view::{LabelView, View};

/// How long a labelled stretch is at most: what lies in it is counted, file by file.
const MAX_LABEL_MS: i64 = 31 * 24 * 3_600_000;
/// Labels that are imported at once.
const MAX_IMPORTED: usize = 1_000;
/// The columns of an import, in this order; the last may be left out.
const COLUMNS: &str = "agent,stream,from,to,kind,comment";

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct LabelsQuery {
    /// Only those of this box.
    agent: Option<String>,
    /// Only those of this stream.
    stream: Option<String>,
    /// Items of a page.
    #[param(minimum = 1, maximum = 1000)]
    limit: Option<u32>,
    /// Where the page before ended.
    #[param(pattern = "^([0-9a-f]{2})*$")]
    cursor: Option<String>,
}

/// Labels, in order of the times they begin.
#[utoipa::path(get, path = "/api/v1/labels", tag = "Alarms and labels", params(LabelsQuery),
    responses((status = 200, body = Page<LabelView>)))]
pub(super) async fn list(
    State(context): State<Context>,
    Params(LabelsQuery { agent, stream, limit, cursor }): Params<LabelsQuery>,
) -> Result<Json<Page<LabelView>>, Problem> {
    let all = context.ask(|answer| Command::ReadLabels { answer }).await?;
    let is_wanted = |label: &&LabelView| {
        agent.as_ref().is_none_or(|agent| label.agent.as_str() == agent)
            && stream.as_ref().is_none_or(|stream| label.stream.as_str() == stream)
    };
    let key = |label: &LabelView| format!("{:020}{}", label.from.0.max(0), label.id);
    page(all.iter().filter(is_wanted), key, limit, cursor.as_deref()).map(Json)
}

/// A label to make.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct LabelBody {
    /// The box.
    agent: String,
    /// The stream.
    stream: String,
    /// The first time.
    #[schema(value_type = String, format = DateTime)]
    from: DateTime<Utc>,
    /// The last one.
    #[schema(value_type = String, format = DateTime)]
    to: DateTime<Utc>,
    /// What it is. What is normal is trained on, what is a fault is left out.
    kind: LabelKind,
    /// What there is to say.
    #[serde(default)]
    #[schema(max_length = 2000)]
    comment: String,
}

/// Says what a stretch of readings is.
#[utoipa::path(post, path = "/api/v1/labels", tag = "Alarms and labels", request_body = LabelBody,
    responses((status = 201, body = LabelView)))]
pub(super) async fn add(
    State(context): State<Context>,
    Extension(who): Extension<Principal>,
    Body(body): Body<LabelBody>,
) -> Result<Response, Problem> {
    let label = checked(&context.now(), body, &who)?;
    let made = make(&context, vec![label]).await?;
    let made = made.into_iter().next().ok_or_else(Problem::stopping)?;
    Ok((StatusCode::CREATED, Json(made)).into_response())
}

/// Imports labels: CSV with a header `agent,stream,from,to,kind,comment`. Either all of them are taken or none.
#[utoipa::path(post, path = "/api/v1/labels/import", tag = "Alarms and labels",
    request_body(content = String, content_type = "text/csv"), responses((status = 201, body = Page<LabelView>)))]
pub(super) async fn import(
    State(context): State<Context>,
    Extension(who): Extension<Principal>,
    headers: HeaderMap,
    bytes: Bytes,
) -> Result<Response, Problem> {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    if !kind.starts_with("text/csv") {
        return Err(Problem::not_csv());
    }
    let view = context.now();
    let labels = rows(&bytes)?
        .into_iter()
        .map(|(line, body)| checked(&view, body, &who).map_err(|problem| problem.in_line(line)))
        .collect::<Result<Vec<_>, _>>()?;
    let made = make(&context, labels).await?;
    Ok((StatusCode::CREATED, Json(Page::whole(made))).into_response())
}

/// Takes back what was said.
#[utoipa::path(delete, path = "/api/v1/labels/{label}", tag = "Alarms and labels",
    params(("label" = String, Path, description = "Its name")), responses((status = 204)))]
pub(super) async fn remove(State(context): State<Context>, At(id): At<String>) -> Result<StatusCode, Problem> {
    let all = context.ask(|answer| Command::ReadLabels { answer }).await?;
    if !all.iter().any(|label| label.id == id) {
        return Err(Problem::not_found("label", format!("there is no label {id:?}")));
    }
    context.ask(|answer| Command::RemoveLabel { id, answer }).await?.map_err(Problem::failed)?;
    Ok(StatusCode::NO_CONTENT)
}

async fn make(context: &Context, labels: Vec<NewLabel>) -> Result<Vec<LabelView>, Problem> {
    let made = context.ask(|answer| Command::AddLabels { labels, answer }).await?;
    made.map_err(|reason| Problem::refused("label_refused", reason))
}

fn checked(view: &View, body: LabelBody, who: &Principal) -> Result<NewLabel, Problem> {
    let LabelBody { agent, stream, from, to, kind, comment } = body;
    check_comment(&comment)?;
    let known = view.streams.iter().find(|known| known.agent.as_str() == agent && known.stream.as_str() == stream);
    let known = known.ok_or_else(|| Problem::not_found("stream", format!("{agent:?} has no stream {stream:?}")))?;
    let (from_ms, to_ms) = (from.timestamp_millis(), to.timestamp_millis());
    if from_ms > to_ms || to_ms - from_ms > MAX_LABEL_MS {
        return Err(Problem::refused("bad_stretch", "a stretch ends after it begins, and within 31 days"));
    }
    let (agent, stream, by) = (known.agent.clone(), known.stream.clone(), who.name.clone());
    Ok(NewLabel { agent, stream, from_ms, to_ms, kind, comment, by, id: None })
}

/// The rows of an import, each with its line in the file.
fn rows(bytes: &[u8]) -> Result<Vec<(u64, LabelBody)>, Problem> {
    let mut reader = csv::ReaderBuilder::new().flexible(false).from_reader(bytes);
    let header: Vec<String> =
        reader.headers().map_err(|error| wrong_file(error.to_string()))?.iter().map(str::to_owned).collect();
    let wanted: Vec<&str> = COLUMNS.split(',').collect();
    if header != wanted && header != wanted[..wanted.len() - 1] {
        return Err(wrong_file(format!("line 1 must be {COLUMNS}; the last column may be left out")));
    }
    let mut found = Vec::new();
    for record in reader.records() {
        let record = record.map_err(|error| wrong_file(error.to_string()))?;
        let line = record.position().map_or(0, csv::Position::line);
        if found.len() == MAX_IMPORTED {
            return Err(wrong_file(format!("line {line}: at most {MAX_IMPORTED} labels are imported at once")));
        }
        let field = |index: usize| record.get(index).unwrap_or_default().to_owned();
        let time = |index: usize| {
            let text = field(index);
            let time = text.parse::<DateTime<Utc>>();
            time.map_err(|_| wrong_file(format!("line {line}: {text:?} is no time like 2026-11-28T12:00:00Z")))
        };
        let kind = field(4);
        let kind = LabelKind::named(&kind)
            .ok_or_else(|| wrong_file(format!("line {line}: the kind is normal or fault, not {kind:?}")))?;
        let (agent, stream, comment) = (field(0), field(1), field(5));
        found.push((line, LabelBody { agent, stream, from: time(2)?, to: time(3)?, kind, comment }));
    }
    Ok(found)
}

fn wrong_file(detail: String) -> Problem {
    Problem::refused("bad_labels", detail)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_of_labels_is_read_and_what_is_wrong_in_it_is_named() {
        let good = "agent,stream,from,to,kind,comment\nbox,plant/1,2026-01-01T00:00:00Z,2026-01-01T00:05:00+01:00,fault,\"a, b\"\n";
        let found = rows(good.as_bytes()).expect("reads");
        assert_eq!((found[0].0, found[0].1.comment.as_str(), found.len()), (2, "a, b", 1));
        assert_eq!(found[0].1.to.timestamp_millis(), 1_767_222_300_000);
        let short = "agent,stream,from,to,kind\nbox,s,2026-01-01T00:00:00Z,2026-01-01T00:05:00Z,normal\n";
        assert_eq!(rows(short.as_bytes()).expect("reads").len(), 1);
        for (file, part) in [
            ("stream,agent,from,to,kind\n", "line 1 must be"),
            ("agent,stream,from,to,kind\nbox,s,yesterday,2026-01-01T00:05:00Z,normal\n", "line 2: \"yesterday\""),
            ("agent,stream,from,to,kind\nbox,s,2026-01-01T00:00:00Z,2026-01-01T00:05:00Z,bad\n", "line 2: the kind"),
            ("agent,stream,from,to,kind\nbox,s\n", "line: 2"),
        ] {
            let problem = rows(file.as_bytes()).expect_err("it is wrong");
            assert!(problem.detail().contains(part), "{file:?}: {problem:?}");
        }
    }
}
