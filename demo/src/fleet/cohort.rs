//! Machines of a cohort that run in another way: alarms, training and rollout must stay within it.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use shared::ids::AgentId;

use super::live::Live;
use super::{Fleet, seconds};
use crate::site;
use crate::story::Tone;

/// Answers of each box from which the share of false alarms is taken.
const ANSWERS_PER_BOX: u64 = 200;

/// Answers, and those that were alarms.
#[derive(Debug, Clone, Copy, Default)]
struct Said {
    total: u64,
    anomalous: u64,
}

impl Said {
    fn since(self, before: Self) -> Self {
        Self { total: self.total - before.total, anomalous: self.anomalous - before.anomalous }
    }

    fn share(self) -> f64 {
        self.anomalous as f64 / self.total.max(1) as f64
    }
}

impl Fleet<'_> {
    /// Lets a cohort's machines run in another way until its model is used to it.
    pub(super) fn move_cohort(&self, live: &Live, cohort: &str) -> anyhow::Result<Value> {
        let started = seconds(&self.clock);
        let model = site::model_of(cohort);
        let prefix = format!("{cohort}-");
        let boxes: Vec<AgentId> =
            self.names.iter().filter(|name| name.as_str().starts_with(&prefix)).cloned().collect();
        let (old, runs) = (self.champion_of(&model), self.api.runs()?.len());
        let before = self.said(&boxes, old)?;
        live.move_to(&boxes);
        self.wait("the cohort's new champion", |fleet| fleet.champion_of(&model) > old)?;
        let new = self.champion_of(&model);
        let far_before = self.said(&boxes, old)?.since(before).share();
        let enough = ANSWERS_PER_BOX * boxes.len() as u64;
        self.wait("answers of the new version", |fleet| {
            fleet.said(&boxes, new).is_ok_and(|said| said.total >= enough)
        })?;
        let far_after = self.said(&boxes, new)?.share();

        let drift = self.api.get("drift")?;
        let alarms = drift["alarms"].as_array().cloned().unwrap_or_default();
        let alarmed: BTreeSet<&str> = alarms.iter().filter_map(|alarm| alarm["agent"].as_str()).collect();
        let elsewhere = alarmed.iter().filter(|agent| !agent.starts_with(&prefix)).count();
        // A run that found too little to learn from trained nothing.
        let trains = |run: &&Value| run["candidates"][0]["steps"].as_array().is_some_and(|steps| !steps.is_empty());
        let runs = self.api.runs()?.split_off(runs);
        let trained: Vec<&Value> = runs.iter().filter(trains).collect();
        let of_others = trained.iter().filter(|run| run["model"] != model.as_str()).count();
        let rollout = self.api.rollouts()?.into_iter().rfind(|rollout| rollout["model"] == model.as_str());
        let rollout = rollout.unwrap_or_default();
        let as_planned = !alarmed.is_empty()
            && elsewhere == 0
            && (trained.len(), of_others) == (1, 0)
            && rollout["state"] == "released"
            && far_after < far_before;
        let took = seconds(&self.clock) - started;
        let tone = if as_planned { Tone::Good } else { Tone::Refused };
        self.story.tell(
            tone,
            &format!(
                "{cohort} runs in another way: {} of its {} boxes raised an alarm, {elsewhere} elsewhere; {} trained, version \
                 {new} released after {took:.0} s; false alarms {:.1} % before, {:.1} % after",
                alarmed.len() - elsewhere,
                boxes.len(),
                trained.len(),
                100.0 * far_before,
                100.0 * far_after
            ),
        );
        Ok(json!({
            "step": "move_cohort", "cohort": cohort, "boxes": boxes.len(), "boxes_in_alarm": alarmed.len() - elsewhere,
            "boxes_in_alarm_elsewhere": elsewhere, "trainings": trained.len(), "trainings_elsewhere": of_others,
            "because": trained.first().map(|run| run["trigger"].clone()), "version": new, "rollout": rollout["state"],
            "stages": rollout["stages"].as_array().map(Vec::len), "false_alarms_before": far_before,
            "false_alarms_after": far_after, "seconds": took, "as_planned": as_planned,
        }))
    }

    /// What boxes answered with a version.
    fn said(&self, boxes: &[AgentId], version: u64) -> anyhow::Result<Said> {
        let mut said = Said::default();
        for stream in self.api.items("streams")? {
            let is_ours = boxes.iter().any(|name| stream["agent"] == name.as_str());
            let counts = stream["predictions"].as_array().cloned().unwrap_or_default();
            for counts in counts.iter().filter(|counts| is_ours && counts["version"] == version) {
                said.total += counts["total"].as_u64().unwrap_or(0);
                said.anomalous += counts["anomalous"].as_u64().unwrap_or(0);
            }
        }
        Ok(said)
    }
}
