//! What a stage finds out about a version beside serving it: in shadow, and held against the version before.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use shared::ids::{AgentId, ModelVersion};
use shared::wire::message::ShadowCounts;
use statrs::distribution::{ContinuousCDF, StudentsT};
use utoipa::ToSchema;

use super::{Member, Rollout, RolloutRules};
use crate::core::limits::{AB_ANSWERS, AB_BOXES};
use crate::core::observe::PredictionCounts;

/// How a stage puts a version to the test.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum StageMode {
    /// Its boxes serve it.
    #[default]
    Serve,
    /// Its boxes run it beside the version before; nothing of it is served.
    Mirror {
        /// How many of a hundred readings it sees: with 100 it is in shadow of every one.
        percent: u8,
    },
    /// Its boxes serve it and are held against the others, which serve the version before.
    Ab {
        /// The chance of calling two versions different that are not, at most: 0 to 1.
        significance: f64,
    },
}

/// What a stage found out.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Evidence {
    /// In shadow.
    Mirror(MirrorEvidence),
    /// Held against the version before.
    Ab(AbEvidence),
}

/// What a version said in shadow, over the boxes of a stage.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MirrorEvidence {
    /// The stage, from 1.
    pub stage: usize,
    /// Boxes it ran on.
    pub boxes: usize,
    /// How many of a hundred readings it was to see.
    pub wanted_percent: u8,
    /// What it said there, over all of them.
    #[serde(flatten)]
    pub counts: ShadowCounts,
}

/// Two versions on boxes of their own, over the same time.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AbEvidence {
    /// The stage, from 1.
    pub stage: usize,
    /// The version before.
    pub before: Arm,
    /// The version that is rolled out.
    pub new: Arm,
    /// The chance of a difference this large if there were none: Welch's t-test over boxes.
    pub p_value: f64,
    /// The version with fewer anomalous answers, if the difference is significant.
    pub better: Option<ModelVersion>,
}

/// One side of a comparison.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Arm {
    /// The version.
    pub version: ModelVersion,
    /// Boxes with enough answers.
    pub boxes: usize,
    /// The mean over boxes of the share of anomalous answers, 0 to 1.
    pub anomalous_share: f64,
}

/// What both versions had answered on a box when a comparison began.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BoxAnswers {
    /// The version before.
    pub old: PredictionCounts,
    /// The version that is rolled out.
    pub new: PredictionCounts,
}

impl MirrorEvidence {
    /// What a rollout's version said on the boxes that mirror.
    pub(super) fn of(rollout: &Rollout, members: &[Member]) -> Self {
        let wanted_percent = match rollout.rules.stages[rollout.stage].mode {
            StageMode::Mirror { percent } => percent,
            StageMode::Serve | StageMode::Ab { .. } => 0,
        };
        let (stage, counts) = (rollout.stage + 1, ShadowCounts::of(rollout.digest));
        let mut sum = Self { stage, boxes: 0, wanted_percent, counts };
        let mirroring = members.iter().filter(|member| rollout.mirrors.contains(&member.agent));
        for counts in mirroring.filter_map(|member| member.shadow) {
            sum.boxes += 1;
            sum.counts.add(&counts);
        }
        sum
    }

    /// Why the version is to be taken back, if it is.
    pub(super) fn speaks_against(&self, rules: &RolloutRules) -> Option<String> {
        let ShadowCounts { compared, anomalous, served_anomalous, .. } = self.counts;
        let share = |count: u64| if compared == 0 { 0.0 } else { count as f64 / compared as f64 };
        let (new, old) = (share(anomalous), share(served_anomalous));
        let is_loud = compared >= rules.min_answers.max(1) && new > old + rules.alarm_margin;
        is_loud.then(|| {
            let (new, old, margin) = (100.0 * new, 100.0 * old, 100.0 * rules.alarm_margin);
            format!(
                "rolled back: in shadow {new:.1} % of {compared} answers are anomalous, of those served {old:.1} %; \
                 {margin:.1} % more are allowed"
            )
        })
    }

    pub(super) fn sentence(&self) -> String {
        let percent = |count: u64, of: u64| if of == 0 { 0.0 } else { 100.0 * count as f64 / of as f64 };
        let ShadowCounts { readings, mirrored, compared, agreed, anomalous, served_anomalous, busy_us, .. } =
            self.counts;
        format!(
            "in shadow on {} boxes it saw {mirrored} of {readings} readings ({:.1} %): {:.1} % of {compared} answers are \
             the same, {:.1} % anomalous where {:.1} % of those served are, {:.0} us a reading",
            self.boxes,
            percent(mirrored, readings),
            percent(agreed, compared),
            percent(anomalous, compared),
            percent(served_anomalous, compared),
            busy_us as f64 / mirrored.max(1) as f64,
        )
    }
}

impl AbEvidence {
    /// Holds boxes against each other over what they answered since `begun`; nothing while there is too little of it.
    ///
    /// A box is one observation: what it says now is much like what it said a moment ago, so that counting answers as if
    /// they were independent would find differences everywhere.
    pub(super) fn of(
        rollout: &Rollout,
        members: &[Member],
        begun: &BTreeMap<AgentId, BoxAnswers>,
        significance: f64,
    ) -> Option<Self> {
        let shares = |is_in: &dyn Fn(&AgentId) -> bool, of: fn(&BoxAnswers) -> PredictionCounts| -> Vec<f64> {
            members
                .iter()
                .filter(|member| is_in(&member.agent) && !rollout.failed.contains_key(&member.agent))
                .filter_map(|member| {
                    let before = begun.get(&member.agent).map(of).unwrap_or_default();
                    let now = of(&member.answers);
                    let since = PredictionCounts {
                        total: now.total.saturating_sub(before.total),
                        anomalous: now.anomalous.saturating_sub(before.anomalous),
                    };
                    (since.total >= AB_ANSWERS).then(|| since.share())
                })
                .collect()
        };
        let boxes: &BTreeSet<AgentId> = &rollout.boxes;
        let old = shares(&|agent| !boxes.contains(agent), |answers| answers.old);
        let new = shares(&|agent| boxes.contains(agent), |answers| answers.new);
        if old.len() < AB_BOXES || new.len() < AB_BOXES {
            return None;
        }
        let p_value = welch(&old, &new);
        let arm = |version, shares: &[f64]| Arm { version, boxes: shares.len(), anomalous_share: mean(shares) };
        let (before, new) = (arm(rollout.from, &old), arm(rollout.version, &new));
        let better = if p_value >= significance {
            None
        } else if new.anomalous_share < before.anomalous_share {
            Some(rollout.version)
        } else {
            Some(rollout.from)
        };
        Some(Self { stage: rollout.stage + 1, before, new, p_value, better })
    }

    pub(super) fn sentence(&self) -> String {
        let side = |arm: &Arm| {
            let share = 100.0 * arm.anomalous_share;
            format!("version {} calls {share:.1} % anomalous on {} boxes", arm.version, arm.boxes)
        };
        let p = if self.p_value < 1e-4 { "p < 0.0001".to_owned() } else { format!("p = {:.4}", self.p_value) };
        let verdict = match self.better {
            Some(version) => format!("version {version} is better, {p}"),
            None => format!("no difference is found, {p}"),
        };
        format!("{}, {}: {verdict} (Welch's t-test over boxes)", side(&self.new), side(&self.before))
    }
}

/// The two-sided p-value of two samples having one mean, with variances of their own (B. L. Welch, "The generalization of
/// 'Student's' problem when several different population variances are involved", Biometrika 34, 1947).
fn welch(one: &[f64], other: &[f64]) -> f64 {
    let of_mean = |sample: &[f64]| {
        let mean = mean(sample);
        let squares: f64 = sample.iter().map(|value| (value - mean).powi(2)).sum();
        squares / (sample.len() - 1) as f64 / sample.len() as f64
    };
    let (first, second) = (of_mean(one), of_mean(other));
    let difference = mean(one) - mean(other);
    let variance = first + second;
    if variance <= f64::EPSILON * f64::EPSILON {
        return if difference == 0.0 { 1.0 } else { 0.0 };
    }
    let parts = first.powi(2) / (one.len() - 1) as f64 + second.powi(2) / (other.len() - 1) as f64;
    let t = difference.abs() / variance.sqrt();
    StudentsT::new(0.0, 1.0, variance.powi(2) / parts).map_or(1.0, |student| 2.0 * student.sf(t))
}

fn mean(sample: &[f64]) -> f64 {
    sample.iter().sum::<f64>() / sample.len() as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_test_gives_the_area_under_the_tails_of_the_density() {
        // t = 4.855 241 at 6.436 645 degrees of freedom; the density integrated over two million steps.
        let p = welch(&[0.10, 0.12, 0.09, 0.11], &[0.15, 0.17, 0.14, 0.20, 0.16]);
        assert!((p - 0.002_334_420_4).abs() < 1e-9, "{p}");
        assert_eq!((welch(&[0.5; 3], &[0.5; 4]), welch(&[1.0; 3], &[0.0; 3])), (1.0, 0.0));
    }
}
