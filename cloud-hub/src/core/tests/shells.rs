//! Everything around the core, faked: the ingest log, the database, compaction and training. Time passes only when a
//! test says so, and every promise the core makes to a shell is checked where it is made.

use std::collections::{BTreeMap, VecDeque};

use shared::event::{Event as StoredEvent, EventBatch, SpoolEntry};
use shared::ids::{AgentId, Epoch, ModelName, ModelVersion, Sequence};
use shared::package::DataRange;
use shared::wire::message::HubToEdge;

use super::support::{COMPACTION, specs, with_cohort};
use crate::core::alarms::Alarm;
use crate::core::drift::DriftAlarm;
use crate::core::identities::IdentityBook;
use crate::core::registry::Release;
use crate::core::retrain::{INTERRUPTED, Run, RunOutcome, RunState, TrainingJob};
use crate::core::rollout::{Rollout, RolloutRules, RolloutState};
use crate::core::session::AgentFacts;
use crate::core::{ConnectionId, Effect, Event, HubCore, Start};

/// What goes to an agent.
#[derive(Debug)]
pub(super) enum Outgoing {
    Message(HubToEdge),
    /// The connection is closed, after everything before it.
    Closed,
}

/// What the gate said of regimes.
#[derive(Debug, Clone)]
pub(super) struct Verdict {
    pub(super) model: ModelName,
    pub(super) blind_since: Vec<u64>,
    pub(super) settled: Option<u64>,
}

/// A compaction under way.
#[derive(Debug)]
struct Compaction {
    to: u64,
    snapshot: Vec<u8>,
    /// Verdicts that the snapshot holds.
    verdicts: usize,
    /// Whether the plan is durable: from then on a start completes it.
    planned: bool,
}

#[derive(Debug, Default)]
pub(super) struct Shells {
    /// Batches that are durable, from position 0 on. What is compacted stays here, for the tests to look at.
    pub(super) log: Vec<(AgentId, EventBatch)>,
    /// Batches on their way to the disk.
    pub(super) appending: VecDeque<(AgentId, EventBatch)>,
    /// An append failed, and the hub does not know.
    failed: bool,
    reports: VecDeque<Event>,
    /// The first sequence that is not durable.
    delivered: BTreeMap<(AgentId, Epoch), Sequence>,
    pub(super) checkpoint: Option<(u64, Vec<u8>)>,
    compaction: Option<Compaction>,
    pub(super) training: BTreeMap<ModelName, TrainingJob>,
    /// What the gate said, as far as it is not forgotten by a crash.
    pub(super) verdicts: Vec<Verdict>,
    /// Those the checkpoint holds.
    saved_verdicts: usize,
    pub(super) releases: Vec<Release>,
    pub(super) champions: BTreeMap<ModelName, ModelVersion>,
    pub(super) rollouts: BTreeMap<i64, Rollout>,
    /// How models are rolled out, if not at once.
    pub(super) rules: Option<RolloutRules>,
    /// Whether there is a model for some boxes.
    pub(super) has_cohort: bool,
    pub(super) runs: BTreeMap<i64, Run>,
    pub(super) alarms: Vec<DriftAlarm>,
    pub(super) machine_alarms: BTreeMap<String, Alarm>,
    agents: BTreeMap<AgentId, AgentFacts>,
    /// Who connected, and the oldest sequence it still had.
    pub(super) connections: BTreeMap<ConnectionId, (AgentId, Sequence)>,
    pub(super) sent: VecDeque<(ConnectionId, Outgoing)>,
}

impl Shells {
    /// Nothing happened yet, but there are releases.
    pub(super) fn with(releases: Vec<Release>) -> Self {
        // The newest serves.
        let champions = releases.iter().map(|release| (release.model.clone(), release.version)).collect();
        Self { releases, champions, ..Self::default() }
    }

    /// Starts the hub from what is durable, as `hub/start.rs` does.
    pub(super) fn start(&mut self) -> HubCore {
        if let Some(plan) = self.compaction.take().filter(|compaction| compaction.planned) {
            self.saved_verdicts = plan.verdicts;
            self.checkpoint = Some((plan.to, plan.snapshot));
        }
        self.verdicts.truncate(self.saved_verdicts);
        self.training.clear();
        for run in self.runs.values_mut().filter(|run| run.state == RunState::Running) {
            run.state = RunState::Failed { reason: INTERRUPTED.to_owned() };
        }
        let start = Start {
            snapshot: self.checkpoint.clone(),
            releases: self.releases.clone(),
            champions: self.champions.clone().into_iter().collect(),
            rollouts: self.rollouts.values().cloned().collect(),
            last_run: self.runs.keys().next_back().copied().unwrap_or(0),
            alarms: self.machine_alarms.values().cloned().collect(),
            labels: Vec::new(),
            identities: IdentityBook::default(),
        };
        let mut specs = if self.has_cohort { with_cohort() } else { specs() };
        for (spec, rules) in specs.iter_mut().zip(self.rules.iter().cycle()) {
            spec.rollout = rules.clone();
        }
        let mut core = HubCore::new(specs, COMPACTION, start).expect("a snapshot of this release");
        for (position, (agent, batch)) in self.log.iter().enumerate().skip(self.compacted() as usize) {
            core.replay(position as u64, agent, &SpoolEntry::Events(batch.clone()));
        }
        core.replayed(self.log.len() as u64);
        self.alarms.sort_by_key(|alarm| alarm.raised_ms);
        core.remember(
            self.agents.values().cloned().collect(),
            self.runs.values().cloned().collect(),
            self.alarms.clone(),
        );
        core
    }

    /// Everything stops. Of what is on its way to the disk, the first `survivors` are there afterwards.
    pub(super) fn crash(&mut self, survivors: usize) {
        self.sync(survivors);
        self.appending.clear();
        self.reports.clear();
        self.failed = false;
        self.connections.clear();
        self.sent.clear();
    }

    /// Makes the first `count` batches on their way durable.
    pub(super) fn sync(&mut self, count: usize) {
        let count = count.min(self.appending.len());
        for (agent, batch) in self.appending.drain(..count) {
            let expected = self.delivered.insert((agent.clone(), batch.epoch), batch.end());
            assert!(expected.is_none_or(|next| next == batch.first), "{agent}: {expected:?}, then {}", batch.first);
            self.log.push((agent, batch));
        }
        if count > 0 {
            self.reports.push_back(Event::Durable { end: self.log.len() as u64 });
        }
    }

    /// The disk takes the first `count` batches on their way, and nothing of the others.
    pub(super) fn fail(&mut self, count: usize) {
        self.sync(count);
        if !self.appending.is_empty() {
            self.appending.clear();
            self.failed = true;
            self.reports.push_back(Event::AppendFailed);
        }
    }

    /// What the log tells the hub next.
    pub(super) fn report(&mut self) -> Option<Event> {
        let report = self.reports.pop_front();
        if matches!(report, Some(Event::AppendFailed)) {
            self.failed = false;
        }
        report
    }

    /// The compaction gets one step further: planned, then finished.
    pub(super) fn compact(&mut self) -> Option<Event> {
        let compaction = self.compaction.as_mut()?;
        if !compaction.planned {
            compaction.planned = true;
            return None;
        }
        let Compaction { to, snapshot, verdicts, .. } = self.compaction.take()?;
        self.checkpoint = Some((to, snapshot));
        self.saved_verdicts = verdicts;
        Some(Event::Compacted { to })
    }

    /// A model's training ends.
    pub(super) fn finish_training(&mut self, model: &ModelName, outcome: RunOutcome) -> Event {
        let job = self.training.remove(model).expect("it runs");
        let settled = outcome.released.as_ref().map(|(_, since)| *since);
        if settled.is_some() || !outcome.blind_since.is_empty() {
            self.verdicts.push(Verdict { model: job.model, blind_since: outcome.blind_since.clone(), settled });
        }
        Event::Trained { run: job.run, outcome }
    }

    /// Where the log is compacted to.
    pub(super) fn compacted(&self) -> u64 {
        self.checkpoint.as_ref().map_or(0, |(position, _)| *position)
    }

    /// The first sequence of an agent's epoch that is not durable.
    pub(super) fn delivered(&self, agent: &AgentId, epoch: Epoch) -> Option<Sequence> {
        self.delivered.get(&(agent.clone(), epoch)).copied()
    }

    /// Whether the checkpoint holds everything that the gate said.
    pub(super) fn has_saved_verdicts(&self) -> bool {
        self.saved_verdicts == self.verdicts.len()
    }

    pub(super) fn is_idle(&self) -> bool {
        self.appending.is_empty() && self.reports.is_empty() && self.compaction.is_none() && self.training.is_empty()
    }

    pub(super) fn perform(&mut self, effect: Effect) {
        match effect {
            Effect::Append { entry: SpoolEntry::Gap(_), .. } => unreachable!("no agent here drops anything"),
            Effect::Append { agent, entry: SpoolEntry::Events(batch) } => {
                if !self.failed {
                    self.appending.push_back((agent, batch));
                }
            }
            Effect::Send { connection, message } => {
                self.check_ack(connection, &message);
                self.sent.push_back((connection, Outgoing::Message(message)));
            }
            Effect::SendPart { digest, .. } => {
                assert!(self.releases.iter().any(|release| release.digest == digest), "{digest} was never released");
            }
            Effect::Close { connection } => self.sent.push_back((connection, Outgoing::Closed)),
            Effect::Compact { from, to, snapshot } => {
                assert!(self.compaction.is_none(), "one compaction at a time");
                assert_eq!(from, self.compacted(), "ranges follow each other without gap or overlap");
                assert!(from <= to && to <= self.log.len() as u64, "{from}..{to} of {}", self.log.len());
                let verdicts = self.verdicts.len();
                self.compaction = Some(Compaction { to, snapshot, verdicts, planned: false });
            }
            Effect::Train(job) => self.train(job),
            Effect::RecordRun(run) => drop(self.runs.insert(run.id, run)),
            Effect::RecordRelease(release, run) => {
                let newest = self.releases.iter().filter(|other| other.model == release.model).map(|r| r.version).max();
                assert!(newest.is_none_or(|newest| newest < release.version), "{newest:?}, {}", release.version);
                self.champions.entry(release.model.clone()).or_insert(release.version);
                self.releases.push(*release);
                self.runs.insert(run.id, run);
            }
            Effect::RecordRollout(rollout) => {
                if rollout.state == RolloutState::Released {
                    self.champions.insert(rollout.model.clone(), rollout.version);
                }
                self.rollouts.insert(rollout.id, *rollout);
            }
            Effect::RecordAgent(facts) => drop(self.agents.insert(facts.agent.clone(), *facts)),
            Effect::RecordAlarm(alarm) => drop(self.machine_alarms.insert(alarm.id.clone(), alarm)),
            Effect::RecordDeployment { .. } => {}
            Effect::RecordDrift(alarm) => {
                let key = |a: &DriftAlarm| (a.model.clone(), a.agent.clone(), a.stream.clone(), a.raised_ms);
                self.alarms.retain(|other| key(other) != key(&alarm));
                self.alarms.push(alarm);
            }
        }
    }

    /// An ack promises that the agent may forget.
    fn check_ack(&self, connection: ConnectionId, message: &HubToEdge) {
        if let HubToEdge::Acked { epoch, next } = message {
            let (agent, oldest) = &self.connections[&connection];
            let durable = self.delivered(agent, *epoch).unwrap_or(*oldest);
            assert!(*next <= durable, "{agent}: acked up to {next}, durable is {durable}");
        }
    }

    fn train(&mut self, job: TrainingJob) {
        for range in job.selections.iter().flat_map(|selection| &selection.segments) {
            let compacted = &self.log[..self.compacted() as usize];
            assert_eq!(rows_in(compacted, range), range.rows, "{range:?} is not all in the sample store");
        }
        let said = self.verdicts.iter().filter(|verdict| verdict.model == job.model);
        let blind: Vec<u64> = said.flat_map(|verdict| verdict.blind_since.clone()).collect();
        let again = job.selections.iter().find(|selection| blind.contains(&selection.since_position));
        assert!(again.is_none(), "{again:?} is blind, and is tried again");
        let running = self.training.insert(job.model.clone(), job);
        assert!(running.is_none(), "{running:?} runs, and another run of its model is started");
    }
}

/// Known-normal readings of a range.
fn rows_in(log: &[(AgentId, EventBatch)], range: &DataRange) -> u64 {
    let is_meant = |batch: &EventBatch, event: &StoredEvent| match event {
        StoredEvent::Reading(reading) => {
            reading.known_normal
                && batch.streams[usize::from(reading.stream)].stream == range.stream
                && (range.from_ms..=range.to_ms).contains(&reading.time_ms)
        }
        StoredEvent::Prediction(_) | StoredEvent::Shed(_) => false,
    };
    let batches = log.iter().filter(|(agent, _)| *agent == range.agent);
    batches.map(|(_, batch)| batch.events.iter().filter(|event| is_meant(batch, event)).count() as u64).sum()
}
