//! Between what the core knows and what the database keeps.

use serde_json::{Value, json};
use shared::event::{ModelRef, UnixMillis};
use shared::ids::Digest;
use shared::package::Package;
use shared::wire::PROTOCOL_VERSION;
use shared::wire::message::{Hello, ModelOutcome, ServedModel};

use super::HubError;
use crate::artifacts::Artifacts;
use crate::core::Effect;
use crate::core::drift::DriftAlarm;
use crate::core::registry::Release;
use crate::core::retrain::{CandidateReport, INTERRUPTED, Run, RunState};
use crate::core::rollout::{Rollout, RolloutState};
use crate::core::session::AgentFacts;
use crate::store::history::HistoryHead;
use crate::store::{
    AgentRow, DeploymentRow, DriftRow, RolloutRow, RunRow, RunState as StoredState, Store, StoreError, Stored,
    VersionRow,
};
use crate::view::show_range;

/// Carries out an effect that records something. Returns the newest row of the history, if there is a new one.
pub(super) async fn record(
    store: &Store,
    now_ms: UnixMillis,
    effect: Effect,
) -> Result<Option<HistoryHead>, StoreError> {
    match effect {
        Effect::RecordRun(run) => store.upsert_run(&run_row(&run)).await.map(|()| None),
        Effect::RecordRelease(release, run) => {
            store.insert_version(&version_row(&release, run.id), &run_row(&run)).await.map(Some)
        }
        Effect::RecordRollout(rollout) => store.upsert_rollout(&rollout_row(&rollout), now_ms).await.map(Some),
        Effect::RecordAgent(facts) => store.upsert_agent(&agent_row(&facts)).await.map(|()| None),
        Effect::RecordDrift(alarm) => store.upsert_drift(&drift_row(&alarm)).await.map(|()| None),
        Effect::RecordAlarm(alarm) => store.upsert_alarm(&alarm).await.map(|()| None),
        Effect::RecordDeployment { agent, report, at_ms } => {
            let (outcome, reason) = match report.outcome {
                ModelOutcome::Serving => ("serving", None),
                ModelOutcome::Refused { reason } => ("refused", Some(reason)),
                ModelOutcome::RolledBack { reason } => ("rolled_back", Some(reason)),
            };
            store
                .insert_deployment(&DeploymentRow {
                    agent,
                    model: report.model.name,
                    version: report.model.version,
                    digest: report.digest,
                    at_ms,
                    outcome: outcome.to_owned(),
                    reason,
                })
                .await
        }
        Effect::Append { .. }
        | Effect::Send { .. }
        | Effect::SendPart { .. }
        | Effect::Close { .. }
        | Effect::Compact { .. }
        | Effect::Train(_) => Ok(None),
    }
}

/// A release from its package.
pub(super) fn release(package: &Package, digest: Digest, bytes: u64) -> Release {
    let manifest = &package.manifest;
    let lineage = &manifest.lineage;
    let metrics: serde_json::Map<String, Value> =
        manifest.metrics.iter().map(|(name, value)| (name.clone(), json!(value))).collect();
    Release {
        model: manifest.model.clone(),
        version: manifest.version,
        digest,
        bytes,
        created_ms: manifest.created_ms,
        parent: lineage.parent,
        trigger: lineage.trigger.clone(),
        trained_on: lineage.trained_on.clone(),
        details: json!({
            "lineage": {
                "data": lineage.data.to_string(),
                "recipe": lineage.recipe.to_string(),
                "seed": lineage.seed,
                "code_version": lineage.code_version,
            },
            "metrics": metrics,
        }),
        drift_reference: manifest.drift_reference.clone(),
    }
}

/// The releases the database knows, from their packages.
pub(super) fn releases(stored: &Stored, artifacts: &Artifacts) -> Result<Vec<Release>, HubError> {
    stored
        .versions
        .iter()
        .map(|row| {
            let bytes = artifacts.load(row.digest)?;
            let (package, digest) = Package::open(&bytes, Some(row.digest))
                .map_err(|error| HubError::Record(format!("{} version {}: {error}", row.model, row.version)))?;
            Ok(release(&package, digest, bytes.len() as u64))
        })
        .collect()
}

/// The rollouts the database knows.
pub(super) fn rollouts(stored: &Stored) -> Result<Vec<Rollout>, HubError> {
    let read = |row: &RolloutRow| {
        serde_json::from_value(row.record.clone())
            .map_err(|error| HubError::Record(format!("rollout {}: {error}", row.id)))
    };
    stored.rollouts.iter().map(read).collect()
}

/// The runs the database knows. One that was running when the hub stopped has failed.
pub(super) fn runs(stored: &Stored) -> Result<Vec<Run>, HubError> {
    stored
        .runs
        .iter()
        .map(|row| {
            let candidates: Vec<CandidateReport> = serde_json::from_value(row.report["candidates"].clone())
                .map_err(|error| HubError::Record(format!("run {}: {error}", row.id)))?;
            // Runs of before there were curves have none.
            let curve = serde_json::from_value(row.report["curve"].clone()).unwrap_or_default();
            let reason = row.report["reason"].as_str().unwrap_or(INTERRUPTED).to_owned();
            Ok(Run {
                id: row.id,
                model: row.model.clone(),
                trigger: row.trigger.clone(),
                requested_ms: row.requested_ms,
                finished_ms: row.finished_ms,
                state: match row.state {
                    StoredState::Released => RunState::Released,
                    StoredState::Refused => RunState::Refused,
                    StoredState::Running | StoredState::Failed => RunState::Failed { reason },
                },
                version: row.version,
                candidates,
                curve,
            })
        })
        .collect()
}

/// The rows of runs that a stop interrupted.
pub(super) fn interrupted(runs: &[Run]) -> Vec<RunRow> {
    runs.iter().filter(|run| run.finished_ms.is_none()).map(run_row).collect()
}

/// The agents the database knows. None is connected.
pub(super) fn agents(stored: &Stored) -> Vec<AgentFacts> {
    stored
        .agents
        .iter()
        .map(|row| AgentFacts {
            agent: row.agent.clone(),
            first_seen_ms: row.first_seen_ms,
            last_seen_ms: row.last_seen_ms,
            connected: false,
            has_twin: false,
            hello: Hello {
                protocol: PROTOCOL_VERSION,
                agent_version: row.agent_version.clone(),
                epoch: row.epoch,
                boot_nonce: row.boot_nonce,
                base: Default::default(),
                serving: row
                    .serving
                    .clone()
                    .map(|(name, version, digest)| ServedModel { model: ModelRef { name, version }, digest }),
                pinned: row.pinned,
                device: row.device.clone(),
            },
            status: None,
        })
        .collect()
}

/// The alarms the database knows.
pub(super) fn alarms(stored: &Stored) -> Result<Vec<DriftAlarm>, HubError> {
    stored
        .drift
        .iter()
        .map(|row| {
            let (channels, rows, cause) = serde_json::from_value(row.channels.clone())
                .map_err(|error| HubError::Record(format!("drift of {}: {error}", row.stream)))?;
            Ok(DriftAlarm {
                model: row.model.clone(),
                version: row.version,
                agent: row.agent.clone(),
                stream: row.stream.clone(),
                raised_ms: row.raised_ms,
                cleared_ms: row.cleared_ms,
                channels,
                rows,
                cause,
            })
        })
        .collect()
}

fn run_row(run: &Run) -> RunRow {
    let (state, reason) = match &run.state {
        RunState::Running => (StoredState::Running, None),
        RunState::Released => (StoredState::Released, None),
        RunState::Refused => (StoredState::Refused, None),
        RunState::Failed { reason } => (StoredState::Failed, Some(reason.clone())),
    };
    RunRow {
        id: run.id,
        model: run.model.clone(),
        trigger: run.trigger.clone(),
        requested_ms: run.requested_ms,
        finished_ms: run.finished_ms,
        state,
        version: run.version,
        report: json!({ "candidates": run.candidates, "reason": reason, "curve": run.curve }),
    }
}

fn rollout_row(rollout: &Rollout) -> RolloutRow {
    // A rollout always has a JSON form.
    let record = serde_json::to_value(rollout).unwrap_or_default();
    RolloutRow {
        id: rollout.id,
        model: rollout.model.clone(),
        version: rollout.version,
        state: record["state"].as_str().unwrap_or_default().to_owned(),
        started_ms: rollout.started_ms,
        ended_ms: rollout.ended_ms,
        released: rollout.state == RolloutState::Released,
        record,
    }
}

fn version_row(release: &Release, run: i64) -> VersionRow {
    VersionRow {
        model: release.model.clone(),
        version: release.version,
        digest: release.digest,
        bytes: release.bytes,
        created_ms: release.created_ms,
        parent: release.parent,
        trigger: release.trigger.clone(),
        lineage: json!({
            "trained_on": release.trained_on.iter().map(show_range).collect::<Vec<_>>(),
            "facts": release.details["lineage"],
        }),
        metrics: release.details["metrics"].clone(),
        run,
    }
}

fn agent_row(facts: &AgentFacts) -> AgentRow {
    AgentRow {
        agent: facts.agent.clone(),
        first_seen_ms: facts.first_seen_ms,
        last_seen_ms: facts.last_seen_ms,
        agent_version: facts.hello.agent_version.clone(),
        device: facts.hello.device.clone(),
        pinned: facts.hello.pinned,
        serving: facts
            .hello
            .serving
            .as_ref()
            .map(|serving| (serving.model.name.clone(), serving.model.version, serving.digest)),
        epoch: facts.hello.epoch,
        boot_nonce: facts.hello.boot_nonce,
    }
}

fn drift_row(alarm: &DriftAlarm) -> DriftRow {
    DriftRow {
        model: alarm.model.clone(),
        agent: alarm.agent.clone(),
        stream: alarm.stream.clone(),
        raised_ms: alarm.raised_ms,
        cleared_ms: alarm.cleared_ms,
        version: alarm.version,
        channels: json!([alarm.channels, alarm.rows, alarm.cause]),
    }
}
