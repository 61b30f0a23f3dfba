//! How a world ends: without trouble, everything must come to rest.

use cloud_hub::core::rollout::Wish;

use super::super::edge::EdgeBox;
use super::super::rollouts;
use super::super::truth::Violation;
use super::World;

/// Rounds in which an undisturbed world must come to rest.
const ROUNDS: usize = 4_000;
/// Readings that each box gets in a round in which a version is still rolled out.
const READINGS_A_ROUND: usize = 20;

impl World {
    /// Ends all trouble, and lets everything come to rest as it must.
    pub(super) fn settle(&mut self) -> Result<(), Violation> {
        std::mem::take(&mut self.ending).into_iter().for_each(|(_, ending)| self.end(ending));
        self.wish(Wish::Resume);
        for _ in 0..ROUNDS {
            // A version that nobody asks is never judged.
            let is_rolling_out = self.hub.registry().rollouts().any(|rollout| !rollout.state.is_over());
            for at in 0..self.boxes.len() {
                for _ in 0..if is_rolling_out { READINGS_A_ROUND } else { 0 } {
                    let content = self.new_reading(at);
                    self.boxes[at].broker.publish(content);
                }
                self.boxes[at].broker.connect();
                self.run_until_idle(at)?;
            }
            if (0..self.boxes.len()).all(|at| self.is_at_rest(at)) {
                let entries = self.hub.entries();
                self.truth.check_hub(&self.boxes, &entries)?;
                self.rollouts.check_rest(&self.boxes, &self.hub)?;
                return self.truth.check_rest(&self.boxes, &entries, &self.hub.counts());
            }
            let due = self.boxes.iter().filter_map(EdgeBox::due_at).min();
            self.pass(due.map_or(1_000, |due| due.0.saturating_sub(self.now.0).clamp(1, 5_000)))?;
        }
        let stuck: Vec<String> = (0..self.boxes.len())
            .filter(|at| !self.is_at_rest(*at))
            .map(|at| {
                let edge = &self.boxes[at];
                let hub = self.hub.next_of(&edge.name, edge.epoch());
                let ledger = edge.core.status().ledger;
                format!(
                    "{} (spool up to {}, hub up to {hub:?}, idle {}, broker empty {}, flushed {}, {:?}, {}, {ledger:?})",
                    edge.name,
                    edge.next(),
                    edge.is_idle(),
                    edge.broker.is_empty(),
                    edge.core.is_flushed(),
                    edge.core.hub_problem(),
                    rollouts::describe(edge, &self.hub)
                )
            })
            .collect();
        Err(format!("no rest although all trouble ended: {}", stuck.join(", ")))
    }

    fn run_until_idle(&mut self, at: usize) -> Result<(), Violation> {
        for _ in 0..10_000 {
            self.boxes[at].receive(usize::MAX, &mut self.random);
            self.broker_works(at, usize::MAX);
            self.with_box(at, |edge, now, seen| edge.take_messages(now, 256, seen))?;
            self.disk_works(at)?;
            self.boxes[at].work_state();
            self.with_box(at, |edge, _, _| edge.infer())?;
            self.link_works(at)?;
            self.hub.work_disk(&mut self.random);
            self.hub_reports(usize::MAX)?;
            self.hub.compact();
            self.with_box(at, |edge, now, seen| edge.report(now, usize::MAX, seen))?;
            let is_idle = self.boxes[at].is_idle() || (self.boxes[at].is_blocked() && self.boxes[at].link.is_idle());
            if is_idle && self.hub.is_idle() {
                break;
            }
        }
        Ok(())
    }

    /// A box with a full spool that blocks rests with messages at its broker until the hub has taken some.
    fn is_at_rest(&self, at: usize) -> bool {
        let edge = &self.boxes[at];
        let is_delivered = edge.next().0 == 0 || self.hub.next_of(&edge.name, edge.epoch()) == Some(edge.next().0);
        let pending: u64 = edge.core.status().ledger.iter().map(|ledger| ledger.pending()).sum();
        let is_settled = !self.climate.rolls_out || rollouts::is_settled(edge, &self.hub);
        let is_quiet = edge.is_idle() && edge.broker.is_empty() && edge.core.is_flushed();
        is_quiet && is_delivered && pending == 0 && is_settled
    }
}
