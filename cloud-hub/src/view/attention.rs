//! What somebody should look at, and why: of each box, the worst first.

use std::collections::BTreeMap;

use serde::Serialize;
use shared::event::UnixMillis;
use shared::ids::{AgentId, StreamId};
use utoipa::ToSchema;

use super::agents::wanted;
use crate::core::HubCore;
use crate::core::drift::DriftAlarm;
use crate::core::session::AgentFacts;

/// Events behind at which a box is worth a look: more than a healthy link holds back.
const BACKLOG_EVENTS: u64 = 10_000;
/// Messages that are no readings, as a share of all that came, above which an input is worth a look.
const REJECTED_SHARE: f64 = 0.05;
/// A connected box says how it is four times a minute.
const SILENT_MS: i64 = 120_000;

/// Something to look at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct Attention {
    /// How bad it is.
    pub severity: Severity,
    /// What it is, for programs.
    pub code: &'static str,
    /// What it is, for people.
    pub says: String,
}

/// How bad something is, the least first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// Good to know.
    Note,
    /// Look today.
    Warning,
    /// Look now.
    Critical,
}

/// What is said of streams, by box.
#[derive(Default)]
pub(super) struct OfStreams<'a> {
    drifting: BTreeMap<&'a AgentId, Vec<&'a DriftAlarm>>,
    anomalous: BTreeMap<&'a AgentId, Vec<&'a StreamId>>,
}

impl<'a> OfStreams<'a> {
    pub(super) fn new(core: &'a HubCore) -> Self {
        let mut found = Self::default();
        for alarm in core.observed().alarms().filter(|alarm| alarm.cleared_ms.is_none()) {
            found.drifting.entry(&alarm.agent).or_default().push(alarm);
        }
        for alarm in core.alarms().up().filter(|alarm| alarm.review.is_none()) {
            found.anomalous.entry(&alarm.agent).or_default().push(&alarm.stream);
        }
        found
    }
}

/// What is to be looked at of a box.
pub(super) fn of(core: &HubCore, streams: &OfStreams<'_>, facts: &AgentFacts, now: UnixMillis) -> Vec<Attention> {
    let mut found = Vec::new();
    let mut say = |severity, code, says| found.push(Attention { severity, code, says });
    if facts.has_twin {
        say(Severity::Critical, "twin", "another box uses its identity, and was refused".to_owned());
    }
    if !facts.connected {
        say(Severity::Critical, "offline", "it is not connected".to_owned());
    }
    if let Some(reason) = failure(core, &facts.agent) {
        say(Severity::Warning, "version_failed", reason);
    }
    for alarm in streams.drifting.get(&facts.agent).into_iter().flatten() {
        say(Severity::Warning, "drift", format!("{} has drifted: {}", alarm.stream, alarm.cause.in_words()));
    }
    for stream in streams.anomalous.get(&facts.agent).into_iter().flatten() {
        say(Severity::Warning, "alarm", format!("{stream} is anomalous"));
    }
    if facts.connected {
        for (severity, code, says) in behind(core, facts, now) {
            say(severity, code, says);
        }
    }
    found.sort_by_key(|item| std::cmp::Reverse(item.severity));
    found
}

/// Why the newest rollout that could not put its version on the box could not.
fn failure(core: &HubCore, agent: &AgentId) -> Option<String> {
    let spec = core.specs().iter().find(|spec| spec.is_for(agent))?;
    let rollout = core.registry().rollout_of(&spec.name)?;
    let reason = rollout.failed.get(agent)?;
    Some(format!("version {} did not do here: {reason}", rollout.version.0))
}

fn behind(core: &HubCore, facts: &AgentFacts, now: UnixMillis) -> Vec<(Severity, &'static str, String)> {
    let mut found = Vec::new();
    let pending = core.newest().pending(&facts.agent, core.reached(facts));
    if pending > BACKLOG_EVENTS {
        found.push((Severity::Warning, "backlog", format!("{pending} events are still to come")));
    }
    let serves = facts.hello.serving.as_ref().map(|serving| serving.model.version.0);
    match (facts.hello.pinned, wanted(core, &facts.agent)) {
        (Some(pinned), Some(wanted)) if pinned.0 != wanted => {
            let says = format!("its own configuration pins it to version {}; the hub has {wanted}", pinned.0);
            found.push((Severity::Note, "pinned", says));
        }
        (None, Some(wanted)) if serves != Some(wanted) => {
            let has = serves.map_or_else(|| "no model".to_owned(), |version| format!("version {version}"));
            found.push((Severity::Note, "version_behind", format!("it serves {has}, and is to serve {wanted}")));
        }
        (Some(_) | None, _) => {}
    }
    let Some(status) = &facts.status else { return found };
    let rejected: u64 = status.rejected.iter().map(|(_, count)| count).sum();
    let accepted: u64 = status.ledger.iter().map(|entry| entry.accepted).sum();
    if rejected as f64 > REJECTED_SHARE * (rejected + accepted) as f64 {
        let (reason, count) = status.rejected.iter().max_by_key(|(_, count)| *count).cloned().unwrap_or_default();
        let says = format!("{rejected} messages were no readings, {count} of them because of {reason}");
        found.push((Severity::Warning, "rejected", says));
    }
    let gone: u64 = status.gone.iter().map(|(_, count)| count).sum();
    if gone > 0 {
        let reasons: Vec<&str> = status.gone.iter().map(|(reason, _)| reason.as_str()).collect();
        found.push((Severity::Warning, "lost", format!("{gone} events are gone: {}", reasons.join(", "))));
    }
    if facts.last_seen_ms < now - SILENT_MS {
        found.push((Severity::Warning, "silent", "it is connected and says nothing".to_owned()));
    }
    found
}
