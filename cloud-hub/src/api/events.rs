//! What happens, as it happens: server-sent events (WHATWG HTML section 9.2). Rows of the history have numbers, so that whoever
//! was away gets what was missed; how the fleet is and how far trainings are has none, for only the newest counts.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::Extension;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use tokio::sync::{OwnedSemaphorePermit, watch};
use tokio::time::{Interval, MissedTickBehavior};
use utoipa::IntoParams;

use super::error::Problem;
use super::extract::Params;
use super::guard::recognise;
use super::{Command, Context, HistoryRows};
use crate::core::access::{Principal, Role};
use crate::view::{HistoryView, Overview, RunStateView, RunView};

/// How often somebody who follows is told how things are, at most.
const PACE: Duration = Duration::from_millis(500);
/// How often a word is said that keeps proxies from closing the connection.
const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// Rows of the history that are read at once.
const ROWS_AT_ONCE: u32 = 200;
/// Rows of the history that are for admins: who did what, from where.
const FOR_ADMINS: &str = "request";

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct EventsQuery {
    /// Begin after this row of the history. A `Last-Event-ID` header says the same, and counts more.
    #[param(minimum = 0)]
    after: Option<i64>,
}

/// Follows what happens, as server-sent events. `history` is a row of the history, with its number as id: whoever comes
/// back with it as `Last-Event-ID` misses nothing. `overview` is the fleet in figures, `training` a training that runs,
/// each when it changed.
#[utoipa::path(get, path = "/api/v1/events", tag = "Live", params(EventsQuery,
        ("Last-Event-ID" = Option<i64>, Header, description = "The id of the last event that was seen")),
    responses((status = 200, content_type = "text/event-stream", body = String)))]
pub(super) async fn events(
    State(context): State<Context>,
    Extension(who): Extension<Principal>,
    headers: HeaderMap,
    Params(EventsQuery { after }): Params<EventsQuery>,
) -> Result<Response, Problem> {
    let said = headers.get("last-event-id").map(|value| value.to_str().ok().and_then(|text| text.parse().ok()));
    let after = match said {
        Some(None) => return Err(Problem::bad_query("Last-Event-ID is the number of a row of the history")),
        Some(Some(id)) => Some(id),
        None => after,
    };
    if after.is_some_and(|after: i64| after < 0) {
        return Err(Problem::bad_query("rows of the history are counted from 1"));
    }
    let permit = Arc::clone(&context.followers).try_acquire_owned();
    let permit = permit.map_err(|_| Problem::busy("too many follow what happens; try again later"))?;
    let head = context.shown.head.clone();
    let seen = after.unwrap_or_else(|| *head.borrow());
    let mut pace = tokio::time::interval(PACE);
    pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let follower = Follower {
        context,
        who,
        headers,
        seen,
        head,
        pace,
        waiting: VecDeque::new(),
        overview: None,
        trainings: Vec::new(),
        _permit: permit,
    };
    let events = futures_util::stream::unfold(follower, Follower::next);
    let mut response = Sse::new(events).keep_alive(KeepAlive::new().interval(KEEP_ALIVE)).into_response();
    // What is told is told at once, whatever is in between.
    response.headers_mut().insert("x-accel-buffering", HeaderValue::from_static("no"));
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(response)
}

/// Somebody who follows.
struct Follower {
    context: Context,
    who: Principal,
    /// With which they were recognised.
    headers: HeaderMap,
    /// The row of the history up to which they were told.
    seen: i64,
    head: watch::Receiver<i64>,
    pace: Interval,
    waiting: VecDeque<Event>,
    overview: Option<Overview>,
    trainings: Vec<RunView>,
    _permit: OwnedSemaphorePermit,
}

impl Follower {
    /// The next event; nothing once the hub stops, or whoever follows has no business here any more.
    async fn next(mut self) -> Option<(Result<Event, Infallible>, Self)> {
        loop {
            if let Some(event) = self.waiting.pop_front() {
                return Some((Ok(event), self));
            }
            if *self.head.borrow_and_update() > self.seen {
                self.read_history().await?;
                continue;
            }
            let shutdown = self.context.shutdown.clone();
            tokio::select! {
                () = shutdown.cancelled() => return None,
                changed = self.head.changed() => changed.ok()?,
                _ = self.pace.tick() => self.look()?,
            }
        }
    }

    async fn read_history(&mut self) -> Option<()> {
        let rows = HistoryRows::After(self.seen);
        let read = |answer| Command::ReadHistory { rows, limit: ROWS_AT_ONCE, answer };
        let rows = self.context.ask(read).await.ok()?.ok()?;
        // A head that cannot be read up to would be asked for without end.
        self.seen = rows.last()?.sequence;
        let is_admin = self.who.role == Role::Admin;
        let shown = rows.iter().filter(|row| is_admin || row.kind != FOR_ADMINS);
        self.waiting.extend(shown.filter_map(HistoryView::as_event));
        Some(())
    }

    /// What changed since it was last looked at.
    fn look(&mut self) -> Option<()> {
        // They may have logged out, or may do less than they could.
        self.who = recognise(&self.context, &self.headers)?;
        let view = self.context.now();
        let is_news = |before: &Overview| Overview { time: before.time, ..view.overview.clone() } != *before;
        if self.overview.as_ref().is_none_or(is_news) {
            self.waiting.extend(event("overview", &view.overview));
            self.overview = Some(view.overview.clone());
        }
        let is_running = |run: &&RunView| run.state == RunStateView::Running;
        let running: Vec<RunView> = view.runs.iter().filter(is_running).cloned().collect();
        let ended = self.trainings.iter().filter_map(|before| view.runs.iter().find(|run| run.run == before.run));
        let changed = running.iter().chain(ended).filter(|run| !self.trainings.contains(run));
        let mut changed: Vec<&RunView> = changed.collect();
        changed.dedup_by_key(|run| run.run);
        self.waiting.extend(changed.into_iter().filter_map(|run| event("training", run)));
        self.trainings = running;
        Some(())
    }
}

impl HistoryView {
    fn as_event(&self) -> Option<Event> {
        event("history", self).map(|event| event.id(self.sequence.to_string()))
    }
}

fn event(kind: &str, said: &impl Serialize) -> Option<Event> {
    Event::default().event(kind).json_data(said).ok()
}
