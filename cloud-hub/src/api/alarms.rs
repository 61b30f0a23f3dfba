//! Alarms over HTTP: what is up, and what people make of it.

use axum::extract::State;
use axum::{Extension, Json};
use serde::Deserialize;
use utoipa::{IntoParams, ToSchema};

use super::error::Problem;
use super::extract::{At, Body, Params};
use super::page::{Page, page};
use super::{Command, Context, NewLabel};
use crate::clock;
use crate::core::access::Principal;
use crate::core::alarms::{AlarmVerdict, Review};
use crate::core::labels::LabelKind;
use crate::view::AlarmView;

/// Bytes of a comment.
const MAX_COMMENT_BYTES: usize = 2_000;

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct AlarmsQuery {
    /// Only those of this box.
    agent: Option<String>,
    /// Only those of this stream.
    stream: Option<String>,
    /// Only those that are up, or that are over.
    up: Option<bool>,
    /// Only those that somebody has looked at, or that nobody has.
    reviewed: Option<bool>,
    /// Items of a page.
    #[param(minimum = 1, maximum = 1000)]
    limit: Option<u32>,
    /// Where the page before ended.
    #[param(pattern = "^([0-9a-f]{2})*$")]
    cursor: Option<String>,
}

/// The newest alarms, newest first: stretches in which a stream was mostly called anomalous.
#[utoipa::path(get, path = "/api/v1/alarms", tag = "Alarms and labels", params(AlarmsQuery),
    responses((status = 200, body = Page<AlarmView>)))]
pub(super) async fn list(
    State(context): State<Context>,
    Params(query): Params<AlarmsQuery>,
) -> Result<Json<Page<AlarmView>>, Problem> {
    let AlarmsQuery { agent, stream, up, reviewed, limit, cursor } = query;
    let all = context.ask(|answer| Command::ReadAlarms { answer }).await?;
    let is_wanted = |alarm: &&AlarmView| {
        agent.as_ref().is_none_or(|agent| alarm.agent.as_str() == agent)
            && stream.as_ref().is_none_or(|stream| alarm.stream.as_str() == stream)
            && up.is_none_or(|up| alarm.is_up == up)
            && reviewed.is_none_or(|reviewed| alarm.review.is_some() == reviewed)
    };
    let newest_first = |alarm: &AlarmView| format!("{:020}{}", i64::MAX.saturating_sub(alarm.began.0.max(0)), alarm.id);
    page(all.iter().filter(is_wanted), newest_first, limit, cursor.as_deref()).map(Json)
}

/// An alarm.
#[utoipa::path(get, path = "/api/v1/alarms/{alarm}", tag = "Alarms and labels",
    params(("alarm" = String, Path, description = "Its name")), responses((status = 200, body = AlarmView)))]
pub(super) async fn one(State(context): State<Context>, At(id): At<String>) -> Result<Json<AlarmView>, Problem> {
    known_alarm(&context, &id).await.map(Json)
}

async fn known_alarm(context: &Context, id: &str) -> Result<AlarmView, Problem> {
    let all = context.ask(|answer| Command::ReadAlarms { answer }).await?;
    let found = all.into_iter().find(|alarm| alarm.id == id);
    found.ok_or_else(|| Problem::not_found("alarm", format!("there is no alarm {id:?}")))
}

/// What somebody makes of an alarm.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct NewReview {
    /// What it was. A fault labels the readings as one; a false alarm labels them as normal, and the next version learns
    /// from them if they are as many as a segment must have.
    verdict: AlarmVerdict,
    /// What they have to say.
    #[serde(default)]
    #[schema(max_length = 2000)]
    comment: String,
}

/// Says what an alarm was.
#[utoipa::path(post, path = "/api/v1/alarms/{alarm}/review", tag = "Alarms and labels",
    params(("alarm" = String, Path, description = "Its name")), request_body = NewReview,
    responses((status = 200, body = AlarmView)))]
pub(super) async fn review(
    State(context): State<Context>,
    Extension(who): Extension<Principal>,
    At(id): At<String>,
    Body(NewReview { verdict, comment }): Body<NewReview>,
) -> Result<Json<AlarmView>, Problem> {
    check_comment(&comment)?;
    let alarm = known_alarm(&context, &id).await?;
    let kind = match verdict {
        AlarmVerdict::Fault => Some(LabelKind::Fault),
        AlarmVerdict::FalseAlarm => Some(LabelKind::Normal),
        AlarmVerdict::Seen => None,
    };
    // Whoever thinks again changes what they said.
    let of_alarm = id.replace("alm_", "lbl_");
    if let Some(kind) = kind {
        let (agent, stream) = (alarm.agent.clone(), alarm.stream.clone());
        let (from_ms, to_ms, by) = (alarm.began.0, alarm.last.0, who.name.clone());
        let label = NewLabel { agent, stream, from_ms, to_ms, kind, comment: comment.clone(), by, id: Some(of_alarm) };
        let labelled = context.ask(|answer| Command::AddLabels { labels: vec![label], answer }).await?;
        labelled.map_err(|reason| Problem::refused("label_refused", reason))?;
    } else {
        context.ask(|answer| Command::RemoveLabel { id: of_alarm, answer }).await?.map_err(Problem::failed)?;
    }
    let review = Review { verdict, comment, by: who.name, at_ms: clock::unix_ms() };
    let named = id.clone();
    context.ask(|answer| Command::ReviewAlarm { id: named, review, answer }).await?.map_err(Problem::failed)?;
    known_alarm(&context, &id).await.map(Json)
}

pub(super) fn check_comment(comment: &str) -> Result<(), Problem> {
    if comment.len() <= MAX_COMMENT_BYTES {
        return Ok(());
    }
    Err(Problem::bad_body(format!("a comment has at most {MAX_COMMENT_BYTES} bytes, this one {}", comment.len())))
}
