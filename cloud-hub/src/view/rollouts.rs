//! Rollouts, as they are shown.

use serde::Serialize;
use shared::ids::{AgentId, ModelName};
use utoipa::ToSchema;

use super::Timestamp;
use super::agents::ShadowView;
use crate::core::HubCore;
use crate::core::rollout::evidence::{AbEvidence, Arm, Evidence, MirrorEvidence};
use crate::core::rollout::{Rollout, RolloutState, Stage};

/// Rollouts shown; all of them are in the database.
const ROLLOUTS_SHOWN: usize = 50;

/// A version on its way to the boxes.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct RolloutView {
    /// Its number.
    pub rollout: i64,
    /// The model.
    #[schema(value_type = String)]
    pub model: ModelName,
    /// The version.
    pub version: u32,
    /// The version that boxes go back to.
    pub from: u32,
    /// How it stands.
    pub state: RolloutState,
    /// The stage that it is in, from 1.
    pub stage: usize,
    /// Its stages.
    pub stages: Vec<Stage>,
    /// What it is held to.
    pub gates: GatesView,
    /// Since when every connected box of the stage answers with the version.
    pub soaking_since: Option<Timestamp>,
    /// When it began.
    pub started: Timestamp,
    /// When it ended.
    pub ended: Option<Timestamp>,
    /// Boxes that have the version or are to have it.
    pub box_count: usize,
    /// Boxes that run the version in shadow.
    pub mirror_count: usize,
    /// What stages found out.
    pub evidence: Vec<EvidenceView>,
    /// Boxes that could not serve it.
    pub failed_count: usize,
    /// Boxes that have the version or are to have it; only of the newest rollout, and of those that are not over.
    pub boxes: Vec<RolloutBox>,
    /// What happened, in order.
    pub log: Vec<SaidAt>,
}

/// When a rollout is taken back.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct GatesView {
    /// By how much the share of anomalous answers may exceed that of the version before, 0 to 1.
    pub alarm_margin: f64,
    /// Answers of the version, before which that share is not judged and no stage is over.
    pub min_answers: u64,
    /// Boxes that may fail, as a share of those that got the version.
    pub failure_share: f64,
    /// When it is taken back if it is not over.
    pub deadline: Timestamp,
}

/// What a stage found out.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum EvidenceView {
    /// In shadow.
    Mirror(MirrorView),
    /// Held against the version before.
    Ab(AbView),
}

/// What a version said in shadow, over the boxes of a stage.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct MirrorView {
    /// The stage, from 1.
    pub stage: usize,
    /// Boxes it ran on.
    pub boxes: usize,
    /// How many of a hundred readings it was to see.
    pub wanted_percent: u8,
    /// What it said there, over all of them.
    #[serde(flatten)]
    pub counts: ShadowView,
}

/// Two versions on boxes of their own, over the same time.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct AbView {
    /// The stage, from 1.
    pub stage: usize,
    /// The version before.
    pub before: ArmView,
    /// The version that is rolled out.
    pub new: ArmView,
    /// The chance of a difference this large if there were none: Welch's t-test over boxes.
    pub p_value: Option<f64>,
    /// The version with fewer anomalous answers, if the difference is significant.
    pub better: Option<u32>,
}

/// One side of a comparison.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct ArmView {
    /// The version.
    pub version: u32,
    /// Boxes with enough answers.
    pub boxes: usize,
    /// The mean over boxes of the share of anomalous answers, 0 to 1.
    pub anomalous_share: f64,
}

impl From<&Evidence> for EvidenceView {
    fn from(evidence: &Evidence) -> Self {
        let arm =
            |arm: &Arm| ArmView { version: arm.version.0, boxes: arm.boxes, anomalous_share: arm.anomalous_share };
        match evidence {
            Evidence::Mirror(MirrorEvidence { stage, boxes, wanted_percent, counts }) => {
                let counts = ShadowView::from(counts);
                Self::Mirror(MirrorView { stage: *stage, boxes: *boxes, wanted_percent: *wanted_percent, counts })
            }
            Evidence::Ab(AbEvidence { stage, before, new, p_value, better }) => Self::Ab(AbView {
                stage: *stage,
                before: arm(before),
                new: arm(new),
                p_value: super::finite(*p_value),
                better: better.map(|version| version.0),
            }),
        }
    }
}

/// A box in a rollout.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct RolloutBox {
    /// The box.
    #[schema(value_type = String)]
    pub agent: AgentId,
    /// Whether it serves the version.
    pub serving: bool,
    /// Why it could not, if it could not.
    pub failed: Option<String>,
}

/// A sentence, and when it was said.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct SaidAt {
    /// When.
    pub at: Timestamp,
    /// What.
    pub said: String,
}

/// The newest rollouts, oldest first. Boxes are listed while they matter: a fleet is large, and a picture is often taken.
pub(super) fn newest(core: &HubCore) -> Vec<RolloutView> {
    let newest = core.registry().rollouts().next_back().map(|rollout| rollout.id);
    let mut shown: Vec<RolloutView> = core
        .registry()
        .rollouts()
        .rev()
        .take(ROLLOUTS_SHOWN)
        .map(|rollout| show(core, rollout, !rollout.state.is_over() || Some(rollout.id) == newest))
        .collect();
    shown.reverse();
    shown
}

fn show(core: &HubCore, rollout: &Rollout, lists_boxes: bool) -> RolloutView {
    let serves = |agent: &AgentId| {
        let facts = core.sessions().facts(agent);
        facts.and_then(|facts| facts.hello.serving.as_ref()).is_some_and(|serving| serving.digest == rollout.digest)
    };
    let rules = &rollout.rules;
    let of_box = |agent: &AgentId| RolloutBox {
        agent: agent.clone(),
        serving: serves(agent),
        failed: rollout.failed.get(agent).cloned(),
    };
    RolloutView {
        rollout: rollout.id,
        model: rollout.model.clone(),
        version: rollout.version.0,
        from: rollout.from.0,
        state: rollout.state,
        stage: rollout.stage + 1,
        stages: rules.stages.clone(),
        gates: GatesView {
            alarm_margin: rules.alarm_margin,
            min_answers: rules.min_answers,
            failure_share: rules.failure_share,
            deadline: Timestamp(rollout.started_ms.saturating_add(rules.deadline_ms)),
        },
        soaking_since: rollout.soaking_since_ms.map(Timestamp),
        started: Timestamp(rollout.started_ms),
        ended: rollout.ended_ms.map(Timestamp),
        box_count: rollout.boxes.len(),
        mirror_count: rollout.mirrors.len(),
        evidence: rollout.evidence.iter().map(EvidenceView::from).collect(),
        failed_count: rollout.failed.len(),
        boxes: rollout.boxes.iter().filter(|_| lists_boxes).map(of_box).collect(),
        log: rollout.log.iter().map(|(at, said)| SaidAt { at: Timestamp(*at), said: said.clone() }).collect(),
    }
}
