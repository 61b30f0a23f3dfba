//! What the HTTP interface shows: a picture of the core's state, made anew when it changed.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use shared::event::{Outcome, UnixMillis, Verdict};
use shared::ids::{AgentId, ModelName, ModelVersion, StreamId};
use shared::package::DataRange;
use shared::wire::message::StreamLedger;

use crate::core::HubCore;
use crate::core::newest::{NewestOf, Said};
use crate::core::observe::StreamFacts;
use crate::core::registry::Release;
use crate::core::retrain::{Run, RunState};
use crate::core::rollout::Rollout;
use crate::train::Progress;

/// Rollouts shown; all of them are in the database.
const ROLLOUTS_SHOWN: usize = 50;

/// A picture of the hub.
#[derive(Debug, Clone, Default)]
pub struct View {
    /// Agents.
    pub agents: Vec<Value>,
    /// Streams.
    pub streams: Vec<Value>,
    /// Models with their versions, by name.
    pub models: Vec<(ModelName, Value)>,
    /// Drift: alarms and how far every channel is now.
    pub drift: Value,
    /// Training runs, oldest first.
    pub runs: Vec<Value>,
    /// Rollouts, oldest first.
    pub rollouts: Vec<Value>,
    /// The ledger.
    pub ledger: Value,
    /// Whether agents can deliver.
    pub ready: bool,
}

/// Takes a picture, when `pictures` were taken before it.
#[must_use]
pub fn picture(core: &HubCore, progress: Option<&(i64, Progress)>, pictures: u64) -> View {
    let (appended, observed, compacted) = core.positions();
    View {
        agents: agents(core),
        streams: streams(core),
        models: core.specs().iter().map(|spec| (spec.name.clone(), model(core, &spec.name))).collect(),
        drift: drift(core),
        runs: core.retraining().runs().map(|run| show_run(run, progress)).collect(),
        rollouts: rollouts(core),
        ledger: ledger(core, [appended, observed, compacted], pictures),
        ready: true,
    }
}

/// The fields of a release that lineage and metrics need, as they are stored and shown.
#[must_use]
pub fn show_range(range: &DataRange) -> Value {
    json!({
        "agent": range.agent.as_str(),
        "stream": range.stream.as_str(),
        "from": time(range.from_ms),
        "to": time(range.to_ms),
        "rows": range.rows,
    })
}

/// A time in RFC 3339, UTC.
#[must_use]
pub fn time(ms: UnixMillis) -> Value {
    match chrono::DateTime::from_timestamp_millis(ms) {
        Some(time) => Value::String(time.to_rfc3339_opts(chrono::SecondsFormat::Millis, true)),
        None => Value::Null,
    }
}

fn agents(core: &HubCore) -> Vec<Value> {
    core.sessions()
        .agents()
        .map(|facts| {
            json!({
                "agent": facts.agent.as_str(),
                "connected": facts.connected,
                "has_twin": facts.has_twin,
                "first_seen": time(facts.first_seen_ms),
                "last_seen": time(facts.last_seen_ms),
                "release": facts.hello.agent_version,
                "device": facts.hello.device,
                "epoch": facts.hello.epoch.0,
                "pinned": facts.hello.pinned.map(|version| version.0),
                "serving": facts.hello.serving.as_ref().map(|serving| json!({
                    "model": serving.model.name.as_str(),
                    "version": serving.model.version.0,
                    "digest": serving.digest.to_string(),
                })),
                "pending": core.newest().pending(&facts.agent, core.reached(facts)),
                "shadow": facts.status.as_ref().and_then(|status| status.shadow),
                "spool_bytes": facts.status.as_ref().map(|status| status.spool_bytes),
            })
        })
        .collect()
}

/// Streams of which there is anything, and those that are only known from what boxes show ahead of a backlog.
fn streams(core: &HubCore) -> Vec<Value> {
    let of_none = StreamFacts::default();
    let mut all: BTreeMap<(&AgentId, &StreamId), &StreamFacts> =
        core.observed().streams().map(|((agent, stream), facts)| ((agent, stream), facts)).collect();
    for (agent, stream, _) in core.newest().all() {
        all.entry((agent, stream)).or_insert(&of_none);
    }
    let show = |((agent, stream), facts): (_, &StreamFacts)| {
        let newest = core.newest().of(agent, stream);
        let channels = newest.map(|newest| &newest.channels).filter(|_| facts.channels.is_empty());
        json!({
            "agent": agent.as_str(),
            "stream": stream.as_str(),
            "channels": channels.unwrap_or(&facts.channels),
            "readings": facts.readings,
            "known_normal": facts.known_normal,
            "last_time": (facts.readings > 0).then(|| time(facts.last_time_ms)),
            "known_normal_segments": facts.segments.all().count(),
            "predictions": facts.predictions.iter().map(|(version, counts)| json!({
                "version": version, "total": counts.total, "anomalous": counts.anomalous,
            })).collect::<Vec<_>>(),
            "newest": newest.map(|newest| {
                let reached = core.sessions().facts(agent).map(|facts| core.reached(facts)).unwrap_or_default();
                show_newest(newest, newest.told_before.is_some_and(|told_before| told_before > reached))
            }),
        })
    };
    all.into_iter().map(show).collect()
}

fn show_newest(newest: &NewestOf, is_ahead: bool) -> Value {
    let said = |said: &Said| {
        let mut shown = match &said.outcome {
            Outcome::Anomaly(Verdict { score, threshold, anomaly }) => {
                json!({ "score": score, "threshold": threshold, "anomaly": anomaly })
            }
            Outcome::Label { label, confidence, sure } => {
                json!({ "label": label, "confidence": confidence, "sure": sure })
            }
            Outcome::Forecast { values } => json!({ "forecast": values }),
        };
        shown["model"] = json!(said.model.name.as_str());
        shown["version"] = json!(said.model.version.0);
        shown["time"] = time(said.time_ms);
        shown
    };
    json!({
        "time": time(newest.time_ms),
        "values": newest.values,
        "prediction": newest.prediction.as_ref().map(said),
        "alarm": newest.alarm.as_ref().map(said),
        "ahead_of_backlog": is_ahead,
    })
}

fn model(core: &HubCore, name: &ModelName) -> Value {
    json!({
        "model": name.as_str(),
        "champion": core.registry().champion(name).map(|release| release.version.0),
        "versions": core.registry().versions(name).map(show_release).collect::<Vec<_>>(),
    })
}

fn show_release(release: &Release) -> Value {
    json!({
        "model": release.model.as_str(),
        "version": release.version.0,
        "digest": release.digest.to_string(),
        "bytes": release.bytes,
        "created": time(release.created_ms),
        "parent": release.parent.map(|version: ModelVersion| version.0),
        "trigger": release.trigger,
        "trained_on": release.trained_on.iter().map(show_range).collect::<Vec<_>>(),
        "details": release.details,
    })
}

/// The newest rollouts, oldest first. Boxes are listed while they matter: a fleet is large, and a picture is often taken.
fn rollouts(core: &HubCore) -> Vec<Value> {
    let newest = core.registry().rollouts().next_back().map(|rollout| rollout.id);
    let mut shown: Vec<Value> = core
        .registry()
        .rollouts()
        .rev()
        .take(ROLLOUTS_SHOWN)
        .map(|rollout| show_rollout(core, rollout, !rollout.state.is_over() || Some(rollout.id) == newest))
        .collect();
    shown.reverse();
    shown
}

fn show_rollout(core: &HubCore, rollout: &Rollout, lists_boxes: bool) -> Value {
    let serves = |agent: &AgentId| {
        let facts = core.sessions().facts(agent);
        facts.and_then(|facts| facts.hello.serving.as_ref()).is_some_and(|serving| serving.digest == rollout.digest)
    };
    json!({
        "rollout": rollout.id,
        "model": rollout.model.as_str(),
        "version": rollout.version.0,
        "from": rollout.from.0,
        "state": rollout.state,
        "stage": rollout.stage + 1,
        "stages": rollout.rules.stages,
        "started": time(rollout.started_ms),
        "ended": rollout.ended_ms.map(time),
        "box_count": rollout.boxes.len(),
        "mirror_count": rollout.mirrors.len(),
        "evidence": rollout.evidence,
        "failed_count": rollout.failed.len(),
        "boxes": rollout.boxes.iter().filter(|_| lists_boxes).map(|agent| json!({
            "agent": agent.as_str(),
            "serving": serves(agent),
            "failed": rollout.failed.get(agent),
        })).collect::<Vec<_>>(),
        "log": rollout.log.iter().map(|(at, said)| json!({ "at": time(*at), "said": said })).collect::<Vec<_>>(),
    })
}

fn drift(core: &HubCore) -> Value {
    let alarms: Vec<Value> = core
        .observed()
        .alarms()
        .map(|alarm| {
            json!({
                "model": alarm.model.as_str(),
                "version": alarm.version.0,
                "agent": alarm.agent.as_str(),
                "stream": alarm.stream.as_str(),
                "raised": time(alarm.raised_ms),
                "cleared": alarm.cleared_ms.map(time),
                "rows_in_excess": alarm.rows,
                "cause": alarm.cause,
                "because": alarm.cause.in_words(),
                "statistic": "jensen_shannon_bits",
                "channels": alarm.channels,
            })
        })
        .collect();
    let now: Vec<Value> = core
        .observed()
        .watches()
        .map(|((agent, stream), watch)| {
            json!({
                "agent": agent.as_str(),
                "stream": stream.as_str(),
                "against_version": watch.version().0,
                "drifting": watch.is_raised(),
                "channels": watch.channels(),
            })
        })
        .collect();
    json!({ "alarms": alarms, "now": now })
}

fn show_run(run: &Run, progress: Option<&(i64, Progress)>) -> Value {
    let (state, reason) = match &run.state {
        RunState::Running => ("running", None),
        RunState::Released => ("released", None),
        RunState::Refused => ("refused", None),
        RunState::Failed { reason } => ("failed", Some(reason)),
    };
    let progress = progress.filter(|(id, _)| *id == run.id && run.state == RunState::Running);
    json!({
        "run": run.id,
        "model": run.model.as_str(),
        "trigger": run.trigger,
        "requested": time(run.requested_ms),
        "finished": run.finished_ms.map(time),
        "state": state,
        "reason": reason,
        "version": run.version.map(|version| version.0),
        "progress": progress.map(|(_, progress)| json!({
            "stage": progress.stage, "done": progress.done, "loss": progress.loss,
        })),
        "candidates": run.candidates.iter().map(|candidate| json!({
            "selection": candidate.selection,
            "trained_on": candidate.trained_on.iter().map(show_range).collect::<Vec<_>>(),
            "blessed": candidate.blessed,
            "reasons": candidate.reasons,
            "metrics": candidate.metrics,
            "steps": candidate.steps,
        })).collect::<Vec<_>>(),
    })
}

/// Readings by agent and stream: what the agent says it accepted, and what is here. The hub takes every sequence
/// once, so what is here is delivered.
fn ledger(core: &HubCore, [appended, observed, compacted]: [u64; 3], pictures: u64) -> Value {
    let mut rows = Vec::new();
    for ((agent, stream), facts) in core.observed().streams() {
        let at_agent = core
            .sessions()
            .agents()
            .find(|known| known.agent == *agent)
            .and_then(|known| known.status.as_ref())
            .and_then(|status| status.ledger.iter().find(|entry| entry.stream == *stream));
        rows.push(json!({
            "agent": agent.as_str(),
            "stream": stream.as_str(),
            "accepted": at_agent.map(|entry| entry.accepted),
            "delivered": at_agent.map(|entry| entry.delivered),
            "duplicates_dropped_at_agent": at_agent.map(|entry| entry.duplicates),
            "pending": at_agent.map(StreamLedger::pending),
            "dropped": at_agent.map(|entry| entry.dropped.iter().cloned().collect::<BTreeMap<_, _>>()),
            "at_hub": facts.readings,
            "gone_at_hub": facts.dropped.iter().map(|(reason, count)| (reason.name(), *count)).collect::<BTreeMap<_, _>>(),
        }));
    }
    json!({
        "streams": rows,
        "ingest_log": { "appended": appended, "durable": observed, "compacted": compacted },
        "training_idle": core.retraining().is_idle(),
        "pictures": pictures,
    })
}
