//! The fleet in figures: what somebody sees first.

use std::collections::BTreeMap;

use serde::Serialize;
use shared::event::UnixMillis;
use shared::ids::{AgentId, ModelName};
use utoipa::ToSchema;

use super::Timestamp;
use super::agents::{AgentView, Health};
use crate::core::HubCore;

/// The fleet in figures.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct Overview {
    /// When this was so.
    pub time: Timestamp,
    /// Boxes by health.
    pub agents: HealthCounts,
    /// Boxes by model and version.
    pub serving: Vec<ModelShare>,
    /// Streams.
    pub streams: usize,
    /// Readings at the hub.
    pub readings: u64,
    /// Events that boxes have and the hub has not.
    pub pending: u64,
    /// Events that are gone, as boxes say.
    pub gone: u64,
    /// Streams that have drifted.
    pub drifting: usize,
    /// Alarms that are up.
    pub alarms: usize,
    /// Alarms that nobody has looked at.
    pub unreviewed: usize,
    /// Rollouts that are not over.
    pub rollouts: usize,
    /// Those of them that wait for somebody.
    pub awaiting_approval: usize,
    /// Trainings that run or wait.
    pub training: usize,
}

/// Every box at a glance, for a map of a large fleet: lists of the same length, by name of the box.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, ToSchema)]
pub struct FleetMap {
    /// The boxes.
    #[schema(value_type = Vec<String>)]
    pub agents: Vec<AgentId>,
    /// How they are.
    pub health: Vec<Health>,
    /// The models that they serve.
    #[schema(value_type = Vec<Option<String>>)]
    pub models: Vec<Option<ModelName>>,
    /// The versions that they serve.
    pub versions: Vec<Option<u32>>,
}

impl FleetMap {
    /// That of these boxes.
    #[must_use]
    pub fn of(agents: &[AgentView]) -> Self {
        Self {
            agents: agents.iter().map(|agent| agent.agent.clone()).collect(),
            health: agents.iter().map(|agent| agent.health).collect(),
            models: agents.iter().map(|agent| agent.serving.as_ref().map(|serving| serving.model.clone())).collect(),
            versions: agents.iter().map(|agent| agent.serving.as_ref().map(|serving| serving.version)).collect(),
        }
    }
}

/// Boxes by health.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, ToSchema)]
pub struct HealthCounts {
    /// All.
    pub total: usize,
    /// Those that nobody needs to look at.
    pub healthy: usize,
    /// Those that somebody should look at.
    pub attention: usize,
    /// Those that are not connected.
    pub offline: usize,
}

/// How many boxes serve a version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct ModelShare {
    /// The model.
    pub model: String,
    /// The version.
    pub version: u32,
    /// Boxes that serve it.
    pub boxes: usize,
    /// Whether it is the version that boxes get.
    pub is_champion: bool,
}

impl Default for Overview {
    fn default() -> Self {
        let (agents, serving) = (HealthCounts::default(), Vec::new());
        let (streams, readings, pending, gone, drifting) = (0, 0, 0, 0, 0);
        let (rollouts, awaiting_approval, training, alarms, unreviewed) = (0, 0, 0, 0, 0);
        let time = Timestamp(0);
        Self {
            time,
            agents,
            serving,
            streams,
            readings,
            pending,
            gone,
            drifting,
            alarms,
            unreviewed,
            rollouts,
            awaiting_approval,
            training,
        }
    }
}

pub(super) fn of(core: &HubCore, now: UnixMillis, agents: &[AgentView]) -> Overview {
    use crate::core::retrain::RunState;
    use crate::core::rollout::RolloutState;
    let count = |health| agents.iter().filter(|agent| agent.health == health).count();
    let rollouts = || core.registry().rollouts().filter(|rollout| !rollout.state.is_over());
    let gone_of = |facts: &crate::core::session::AgentFacts| {
        facts.status.as_ref().map_or(0, |status| status.gone.iter().map(|(_, count)| *count).sum::<u64>())
    };
    Overview {
        time: Timestamp(now),
        agents: HealthCounts {
            total: agents.len(),
            healthy: count(Health::Healthy),
            attention: count(Health::Attention),
            offline: count(Health::Offline),
        },
        serving: shares(core, agents),
        streams: core.observed().stream_count(),
        readings: core.observed().streams().map(|(_, facts)| facts.readings).sum(),
        pending: agents.iter().map(|agent| agent.pending).sum(),
        gone: core.sessions().agents().map(gone_of).sum(),
        drifting: core.observed().watches().filter(|(_, watch)| watch.is_raised()).count(),
        alarms: core.alarms().up().count(),
        unreviewed: core.alarms().known().filter(|alarm| alarm.review.is_none()).count(),
        rollouts: rollouts().count(),
        awaiting_approval: rollouts().filter(|rollout| rollout.state == RolloutState::AwaitingApproval).count(),
        training: core.retraining().runs().filter(|run| run.state == RunState::Running).count(),
    }
}

fn shares(core: &HubCore, agents: &[AgentView]) -> Vec<ModelShare> {
    let mut boxes: BTreeMap<(String, u32), usize> = BTreeMap::new();
    for serving in agents.iter().filter_map(|agent| agent.serving.as_ref()) {
        *boxes.entry((serving.model.to_string(), serving.version)).or_default() += 1;
    }
    let champions: BTreeMap<String, u32> = core
        .specs()
        .iter()
        .filter_map(|spec| Some((spec.name.to_string(), core.registry().champion(&spec.name)?.version.0)))
        .collect();
    let share = |((model, version), boxes)| {
        let is_champion = champions.get(&model) == Some(&version);
        ModelShare { model, version, boxes, is_champion }
    };
    boxes.into_iter().map(share).collect()
}
