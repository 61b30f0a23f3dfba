//! A training that is interrupted, and asked for again.

use std::time::Duration;

use anyhow::Context;
use serde_json::{Value, json};

use super::{Fleet, POLL, seconds};
use crate::play::pause;
use crate::site::MODEL;
use crate::story::Tone;

/// Time that the hub trains before it is stopped: enough for a step or two, and longer each time.
const TRAINS_FOR: Duration = Duration::from_millis(400);

/// What a training did.
struct Trained {
    run: Value,
    steps: usize,
    computed: usize,
}

impl Fleet<'_> {
    /// Lets the hub train with so many interruptions, and the same once more.
    pub(super) fn retrain(&mut self, hub_restarts: usize) -> anyhow::Result<Value> {
        let started = seconds(&self.clock);
        let mut interrupted = 0;
        let mut wanted = self.ask_for_training()?;
        for attempt in 1..=hub_restarts {
            pause(TRAINS_FOR * u32::try_from(attempt)?);
            if self.api.get("ledger")?["training_idle"] == true {
                break;
            }
            self.site.restart_hub()?;
            (interrupted, wanted) = (interrupted + 1, wanted + 1);
        }
        let first = self.trained(wanted)?;
        self.wait("the rollout's end", |fleet| {
            let rollouts = fleet.api.rollouts().unwrap_or_default();
            rollouts.iter().all(|rollout| !rollout["ended"].is_null())
        })?;
        let again = self.ask_for_training()?;
        let again = self.trained(again)?;
        let as_planned = (hub_restarts == 0 || (interrupted > 0 && first.computed < first.steps))
            && again.steps > 0
            && again.computed == 0;
        let took = seconds(&self.clock) - started;
        let tone = if as_planned { Tone::Good } else { Tone::Refused };
        self.story.tell(
            tone,
            &format!(
                "a training that was interrupted {interrupted} times computed {} of {} steps in its last run; the same again \
                 {} of {}",
                first.computed, first.steps, again.computed, again.steps
            ),
        );
        Ok(json!({
            "step": "retrain", "interrupted": interrupted, "steps": first.steps, "computed_in_the_last_run": first.computed,
            "ended": first.run["state"], "computed_again": again.computed, "seconds": took, "as_planned": as_planned,
        }))
    }

    /// Gives the number of the run that follows.
    fn ask_for_training(&self) -> anyhow::Result<u64> {
        let last = self.api.runs()?.iter().filter_map(|run| run["run"].as_u64()).max();
        self.api.post(&format!("models/{MODEL}/retraining"), &json!({}))?;
        Ok(last.unwrap_or(0) + 1)
    }

    /// Waits for a run's end.
    fn trained(&self, number: u64) -> anyhow::Result<Trained> {
        let run = || {
            let runs = self.api.runs().unwrap_or_default();
            runs.into_iter().find(|run| run["run"] == number && !run["finished"].is_null())
        };
        self.wait("the training", |_| run().is_some())?;
        pause(POLL);
        let run = run().context("find the run")?;
        let steps: Vec<&Value> = run["candidates"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|candidate| candidate["steps"].as_array())
            .flatten()
            .collect();
        let computed = steps.iter().filter(|step| step["cached"] == false).count();
        Ok(Trained { steps: steps.len(), computed, run })
    }
}
