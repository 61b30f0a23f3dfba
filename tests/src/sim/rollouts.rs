//! How versions are rolled out in a world, and what must hold of them whatever happens.

use std::collections::BTreeMap;

use cloud_hub::core::ModelSpec;
use cloud_hub::core::drift::DriftRules;
use cloud_hub::core::registry::Release;
use cloud_hub::core::retrain::RetrainRules;
use cloud_hub::core::rollout::evidence::StageMode;
use cloud_hub::core::rollout::{RolloutRules, RolloutState, Stage};
use edge_agent::core::limits::TRIAL_STARTS;
use shared::drift::DriftReference;
use shared::ids::{Digest, ModelVersion};

use super::edge::EdgeBox;
use super::hub::Hub;
use super::models::{self, Nature, PACKAGE_BYTES};
use super::truth::Violation;

/// The models that the hub keeps. A rollout may begin with a stage in which nothing of the version is served.
pub(super) fn specs(has_models: bool, begins_in_shadow: bool) -> Vec<ModelSpec> {
    let stage = |percent, soak_ms, mode| Stage { percent, boxes: Vec::new(), soak_ms, approval: false, mode };
    let shadow = begins_in_shadow.then_some(stage(60, 500, StageMode::Mirror { percent: 100 }));
    let serve = [stage(40, 2_000, StageMode::Serve), stage(100, 1_000, StageMode::Serve)];
    let rollout = RolloutRules {
        stages: shadow.into_iter().chain(serve).collect(),
        deadline_ms: 3_600_000,
        min_answers: 20,
        ..RolloutRules::default()
    };
    let spec = ModelSpec {
        name: models::model(),
        streams: vec!["*".to_owned()],
        boxes: vec!["*".to_owned()],
        drift: DriftRules::default(),
        retrain: RetrainRules::default(),
        min_segments: 1,
        rollout,
    };
    if has_models { vec![spec] } else { Vec::new() }
}

/// A version as the hub keeps it.
pub(super) fn release(version: ModelVersion, digest: Digest) -> Release {
    Release {
        model: models::model(),
        version,
        digest,
        bytes: PACKAGE_BYTES,
        created_ms: 0,
        parent: None,
        trigger: "somebody brought it".to_owned(),
        trained_on: Vec::new(),
        details: serde_json::Value::Null,
        drift_reference: DriftReference { channels: Vec::new(), half_life: 100.0 },
    }
}

/// An account of rollouts that is kept beside the hub's.
#[derive(Debug, Default)]
pub(super) struct Rollouts {
    over: BTreeMap<i64, RolloutState>,
}

impl Rollouts {
    /// What holds at every step.
    pub(super) fn check(&mut self, edge: &EdgeBox, hub: &Hub) -> Result<(), Violation> {
        let name = &edge.name;
        // In shadow, and on trial.
        if let Some((digest, count)) = edge.ended.iter().find(|(_, count)| **count > 2 * TRIAL_STARTS) {
            return Err(format!("{name}: version {} ended the agent {count} times", version(*digest)));
        }
        if let Some(serving) = edge.core.serving().filter(|serving| edge.has_ruled_out(serving.digest)) {
            return Err(format!("{name} went back from version {} and serves it again", serving.model.version));
        }
        for rollout in hub.registry().rollouts().filter(|rollout| rollout.state.is_over()) {
            let before = *self.over.entry(rollout.id).or_insert(rollout.state);
            if before != rollout.state {
                return Err(format!("rollout {} had ended as {before:?}, and is {:?}", rollout.id, rollout.state));
            }
        }
        let lost = self.over.keys().find(|id| {
            let known = hub.registry().rollouts().find(|rollout| rollout.id == **id);
            known.is_none_or(|rollout| !rollout.state.is_over())
        });
        lost.map_or(Ok(()), |id| Err(format!("rollout {id} was over, and is not any more")))
    }

    /// What holds when everything has come to rest.
    pub(super) fn check_rest(&self, boxes: &[EdgeBox], hub: &Hub) -> Result<(), Violation> {
        let Some(champion) = hub.registry().champion(&models::model()) else {
            return Ok(());
        };
        if Nature::of(champion.digest) != Nature::Good {
            return Err(format!("version {} was released: it is {:?}", champion.version, Nature::of(champion.digest)));
        }
        for rollout in hub.registry().rollouts().filter(|rollout| rollout.state != RolloutState::Released) {
            let beyond =
                boxes.iter().find(|edge| edge.served.contains(&rollout.digest) && !rollout.boxes.contains(&edge.name));
            if let Some(edge) = beyond {
                return Err(format!("{} served version {}, which was not for it", edge.name, rollout.version));
            }
        }
        Ok(())
    }
}

/// Whether nothing is on its way to a box any more: no rollout is under way, and the box serves the champion, or what it had
/// before because it went back from the champion.
pub(super) fn is_settled(edge: &EdgeBox, hub: &Hub) -> bool {
    let registry = hub.registry();
    let Some(champion) = registry.champion(&models::model()) else {
        return true;
    };
    let serves = edge.core.serving().map(|serving| serving.digest);
    let is_over = registry.rollouts().all(|rollout| rollout.state.is_over());
    is_over && (serves == Some(champion.digest) || (serves.is_some() && edge.has_ruled_out(champion.digest)))
}

/// Which version a box serves and which rollouts are not over, for whoever looks for what does not come to rest.
pub(super) fn describe(edge: &EdgeBox, hub: &Hub) -> String {
    let serves = edge.core.serving().map(|serving| serving.model.version.0);
    let champion = hub.registry().champion(&models::model()).map(|release| release.version.0);
    let open = hub.registry().rollouts().filter(|rollout| !rollout.state.is_over());
    let open: Vec<String> = open
        .map(|rollout| {
            let last = rollout.log.last().map(|(_, said)| said.as_str()).unwrap_or_default();
            format!("{} of version {}, {:?}, {last}", rollout.id, rollout.version, rollout.state)
        })
        .collect();
    let shadow = edge.core.shadow();
    format!("serves {serves:?} of champion {champion:?}, rollouts {open:?}, {shadow:?}")
}

fn version(digest: Digest) -> u32 {
    let [a, b, c, d, ..] = digest.0;
    u32::from_le_bytes([a, b, c, d])
}
