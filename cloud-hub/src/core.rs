//! What the hub decides, without IO: [`HubCore::handle`] takes an [`Event`] and the time, and says which [`Effect`]s to
//! perform, in order.
//!
//! [`session`] takes batches from agents exactly once, [`observe`] draws everything the hub knows of its streams from
//! durable batches (and from nothing else, so that a snapshot and the log's tail restore it), [`drift`] and
//! [`segments`] watch, [`retrain`] decides when to train on what, [`registry`] keeps versions, and [`rollout`] decides which box
//! gets which.

pub mod access;
mod admission;
pub mod alarms;
pub mod diagnoses;
pub mod drift;
pub mod identities;
pub mod labels;
pub mod limits;
mod messages;
pub mod newest;
pub mod observe;
pub mod programs;
pub mod registry;
mod releases;
pub mod retrain;
pub mod rollout;
pub mod segments;
pub mod session;
pub mod tracking;
mod twins;

use std::collections::{BTreeMap, VecDeque};

use shared::event::{SpoolEntry, UnixMillis};
use shared::ids::{AgentId, Epoch, ModelName, ModelVersion, Sequence, StreamId};
use shared::wire::message::{Hello, HubToEdge};

use alarms::Alarms;
use identities::IdentityBook;
use labels::Labels;
pub use messages::{Effect, Event};
use newest::Newest;
use observe::Observed;
use registry::{Registry, Release};
use retrain::Retraining;
use session::{Sessions, Verdict};

/// The hub's wall clock in milliseconds. Only intervals depend on it; data is ordered by position and event time.
pub type Now = UnixMillis;

/// One connection of an agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ConnectionId(pub u64);

/// A model the hub keeps: which streams it serves, and the recipe's rules for it.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelSpec {
    /// Its name.
    pub name: ModelName,
    /// The streams it answers; a pattern is a stream's name or a prefix that ends in `*`.
    pub streams: Vec<String>,
    /// The boxes it is for, its cohort; patterns like those of streams.
    pub boxes: Vec<String>,
    /// How drift is judged.
    pub drift: drift::DriftRules,
    /// When to train.
    pub retrain: retrain::RetrainRules,
    /// Known-normal segments that a candidate must be trained on: before a regime has them, it is not tried.
    pub min_segments: usize,
    /// How versions reach boxes.
    pub rollout: rollout::RolloutRules,
}

impl ModelSpec {
    /// Whether the model answers `stream` of `agent`.
    #[must_use]
    pub fn covers(&self, agent: &AgentId, stream: &StreamId) -> bool {
        self.is_for(agent) && self.streams.iter().any(|pattern| matches_pattern(pattern, stream.as_str()))
    }

    /// Whether a box belongs to the model's cohort.
    #[must_use]
    pub fn is_for(&self, agent: &AgentId) -> bool {
        self.boxes.iter().any(|pattern| matches_pattern(pattern, agent.as_str()))
    }

    /// The model that answers `stream` of `agent`: the first that covers it.
    #[must_use]
    pub fn of<'a>(specs: &'a [Self], agent: &AgentId, stream: &StreamId) -> Option<&'a Self> {
        specs.iter().find(|spec| spec.covers(agent, stream))
    }
}

/// Whether a pattern means a name: it is that name, or a beginning of it and `*`.
fn matches_pattern(pattern: &str, name: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(prefix) => name.starts_with(prefix),
        None => name == pattern,
    }
}

/// The hub's decisions.
#[derive(Debug)]
pub struct HubCore {
    specs: Vec<ModelSpec>,
    sessions: Sessions,
    observed: Observed,
    newest: Newest,
    alarms: Alarms,
    labels: Labels,
    registry: Registry,
    retraining: Retraining,
    /// Who is let in.
    identities: IdentityBook,
    shown: admission::Shown,
    /// Connections whose greeting waits for what an older one brought.
    greeting: BTreeMap<ConnectionId, Hello>,
    /// Entries on their way to the disk, in order.
    appending: VecDeque<Appending>,
    next_position: u64,
    compacted: u64,
    compacting: bool,
    compact_at: Now,
    rules: CompactionRules,
    /// When rollouts are looked at again.
    rollouts_at: Now,
    /// The gate said something of a regime that no snapshot holds.
    unsaved_verdict: bool,
    /// What the start has to record; performed with the first event.
    at_start: Vec<Effect>,
}

#[derive(Debug)]
struct Appending {
    connection: ConnectionId,
    agent: AgentId,
    entry: SpoolEntry,
}

/// When to compact.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CompactionRules {
    /// Milliseconds between two compactions.
    pub interval_ms: i64,
}

/// What the hub knows when it starts, before the tail of the ingest log is replayed.
#[derive(Debug, Default)]
pub struct Start {
    /// The newest snapshot of what was observed, and the position it was taken at.
    pub snapshot: Option<(u64, Vec<u8>)>,
    /// Every version, in order.
    pub releases: Vec<Release>,
    /// The champion of each model that has one.
    pub champions: Vec<(ModelName, ModelVersion)>,
    /// Every rollout.
    pub rollouts: Vec<rollout::Rollout>,
    /// The number of the newest run.
    pub last_run: i64,
    /// The newest alarms, oldest first.
    pub alarms: Vec<alarms::Alarm>,
    /// Every label.
    pub labels: Vec<labels::Label>,
    /// Who is let in.
    pub identities: IdentityBook,
}

/// A snapshot cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("read the hub's snapshot: {0}")]
pub struct SnapshotError(#[from] postcard::Error);

impl HubCore {
    /// A hub that starts with what it remembered. Replay the log's tail next, then handle events.
    ///
    /// # Errors
    /// If the snapshot is not one of this release.
    pub fn new(specs: Vec<ModelSpec>, rules: CompactionRules, start: Start) -> Result<Self, SnapshotError> {
        let (position, observed) = match start.snapshot {
            Some((position, snapshot)) => (position, Observed::restore(&snapshot)?),
            None => (0, Observed::default()),
        };
        let mut core = Self {
            sessions: Sessions::default(),
            registry: Registry::new(start.releases, start.champions, start.rollouts),
            rollouts_at: 0,
            retraining: Retraining::new(&specs, start.last_run),
            observed,
            newest: Newest::default(),
            alarms: Alarms::default(),
            labels: Labels::default(),
            identities: start.identities,
            shown: admission::Shown::default(),
            specs,
            greeting: BTreeMap::new(),
            appending: VecDeque::new(),
            next_position: position,
            compacted: position,
            compacting: false,
            compact_at: 0,
            rules,
            unsaved_verdict: false,
            at_start: Vec::new(),
        };
        core.alarms.remember(start.alarms);
        core.labels.remember(start.labels);
        core.at_start = core.watch_champions();
        Ok(core)
    }

    /// Takes an entry that was durable before the hub stopped.
    pub fn replay(&mut self, position: u64, agent: &AgentId, entry: &SpoolEntry) {
        // The watches start empty, so an alarm may come at another reading than the first time: it is recorded anew.
        self.observed.entry(position, agent, entry, &self.specs, &mut self.at_start);
        self.newest.entry(agent, entry);
        self.alarms.entry(agent, entry, &mut self.at_start);
    }

    /// The log ends here. Positions that were not replayed are damaged, and lost.
    pub fn replayed(&mut self, end: u64) {
        self.observed.skip_to(end);
        self.next_position = end;
    }

    /// Puts back what the database remembers beside the log: agents, runs and alarms.
    pub fn remember(
        &mut self,
        agents: Vec<session::AgentFacts>,
        runs: Vec<retrain::Run>,
        alarms: Vec<drift::DriftAlarm>,
    ) {
        agents.into_iter().for_each(|facts| self.sessions.remember(facts));
        runs.into_iter().for_each(|run| self.retraining.remember(run));
        self.observed.remember(alarms, &mut self.at_start);
    }

    /// Takes one event. Effects are to be performed in order.
    pub fn handle(&mut self, now: Now, event: Event, effects: &mut Vec<Effect>) {
        effects.append(&mut self.at_start);
        match event {
            Event::Connected { connection, agent, certificate } => {
                self.connected(now, connection, agent, certificate, effects);
            }
            Event::Disconnected { connection } => self.disconnected(now, connection),
            Event::IdentityChanged(change) => self.identity_changed(*change, effects),
            Event::Hello { connection, hello } => self.hello(now, connection, hello, effects),
            Event::Entry { connection, entry } => self.entry(connection, entry, effects),
            Event::Fetch { connection, digest, offset, base } => {
                if self.registry.knows(digest) {
                    // A base from elsewhere is none: only what was released here is sure to be here.
                    let base = base.filter(|base| self.registry.knows(*base));
                    effects.push(Effect::SendPart { connection, digest, offset, base });
                } else {
                    self.refuse(connection, format!("there is no package {digest}"), effects);
                }
            }
            Event::ModelReport { connection, report } => self.model_report(now, connection, report, effects),
            Event::Status { connection, status } => {
                let news = self.sessions.status(now, connection, status);
                if news.has_kept {
                    self.rollouts_at = now;
                }
                if news.has_stray_shadow {
                    self.offer(connection, effects);
                }
            }
            Event::Live { connection, picture } => {
                if let Some(agent) = self.sessions.greeted_agent(connection) {
                    self.newest.picture(agent, picture);
                }
            }
            Event::Durable { end } => self.durable(now, end, effects),
            Event::AppendFailed => self.append_failed(effects),
            Event::Compacted { to } => {
                self.compacted = to;
                self.compacting = false;
            }
            Event::Trained { run, outcome } => self.trained(now, run, outcome, effects),
            Event::AlarmReviewed { id, review } => self.alarms.review(&id, review),
            Event::LabelsAdded(labels) => self.labels.add(labels),
            Event::LabelRemoved { id } => self.labels.remove(&id),
            Event::RetrainRequested { model, by } => self.retraining.request(&model, &by),
            Event::Uploaded(release) => self.uploaded(now, *release, effects),
            Event::Signed { model, version, bytes } => self.signed(&model, version, bytes, effects),
            Event::RolloutWished { id, wish, by } => self.wished(now, id, wish, &by, effects),
            Event::RolloutRequested { model, version, by } => self.roll_out(now, &model, version, &by, effects),
            Event::Tick => self.close_expired(now, effects),
        }
        self.settle(now, effects);
    }

    /// Everything observed, for the view.
    #[must_use]
    pub fn observed(&self) -> &Observed {
        &self.observed
    }

    /// The newest of every stream, for the view.
    #[must_use]
    pub fn newest(&self) -> &Newest {
        &self.newest
    }

    /// The first sequence of an agent's row that is not here.
    #[must_use]
    pub fn reached(&self, facts: &session::AgentFacts) -> Sequence {
        self.observed.next_of(&(facts.agent.clone(), facts.hello.epoch)).unwrap_or(facts.hello.base)
    }

    /// Alarms, for the view.
    #[must_use]
    pub fn alarms(&self) -> &Alarms {
        &self.alarms
    }

    /// What people said of readings.
    #[must_use]
    pub fn labels(&self) -> &Labels {
        &self.labels
    }

    /// Who is let in.
    #[must_use]
    pub fn identities(&self) -> &IdentityBook {
        &self.identities
    }

    /// The agents' sessions, for the view.
    #[must_use]
    pub fn sessions(&self) -> &Sessions {
        &self.sessions
    }

    /// Versions and champions, for the view.
    #[must_use]
    pub fn registry(&self) -> &Registry {
        &self.registry
    }

    /// Training, for the view.
    #[must_use]
    pub fn retraining(&self) -> &Retraining {
        &self.retraining
    }

    /// The models the hub keeps.
    #[must_use]
    pub fn specs(&self) -> &[ModelSpec] {
        &self.specs
    }

    /// Positions: appended, observed, compacted.
    #[must_use]
    pub fn positions(&self) -> (u64, u64, u64) {
        (self.next_position, self.observed.position(), self.compacted)
    }

    /// Asks for a compaction now, for shutdown.
    pub fn flush(&mut self, effects: &mut Vec<Effect>) {
        self.compact(effects);
    }

    fn hello(&mut self, now: Now, connection: ConnectionId, hello: Hello, effects: &mut Vec<Effect>) {
        let agent_epoch = self.sessions.agent(connection).map(|agent| (agent.clone(), hello.epoch));
        let Some(key) = agent_epoch else {
            return;
        };
        if !self.sessions.admit(now, connection, &hello, effects) {
            return;
        }
        // What is on its way to the disk was sent, and may be durable in a moment: an agent that heard of less would
        // believe that nobody has it.
        if self.appending.iter().any(|appending| appending.agent == key.0 && appending.entry.epoch() == key.1) {
            self.greeting.insert(connection, hello);
            return;
        }
        let (next, mark) = self.observed.reached(&key).unwrap_or((hello.base, None));
        let newest_epoch = self.observed.newest_epoch(&key.0).max(key.1);
        self.note_served(now, &key.0, &hello, effects);
        if self.sessions.facts(&key.0).is_none_or(|facts| facts.hello.epoch != key.1) {
            self.newest.begins_anew(&key.0);
        }
        self.sessions.hello(now, connection, hello, next, effects);
        let message = HubToEdge::Welcome { next, mark, newest_epoch, time_ms: now };
        effects.push(Effect::Send { connection, message });
        self.offer(connection, effects);
    }

    fn entry(&mut self, connection: ConnectionId, entry: SpoolEntry, effects: &mut Vec<Effect>) {
        match self.sessions.entry(connection, entry) {
            Verdict::Unknown => effects.push(Effect::Close { connection }),
            Verdict::Refused(reason) => self.refuse(connection, reason, effects),
            Verdict::Known { agent, epoch } => {
                // Acked again, because the first ack may be what was lost.
                let next = self.observed.next_of(&(agent, epoch)).unwrap_or_default();
                effects.push(Effect::Send { connection, message: HubToEdge::Acked { epoch, next } });
            }
            Verdict::New { agent, entry } => {
                effects.push(Effect::Append { agent: agent.clone(), entry: entry.clone() });
                self.appending.push_back(Appending { connection, agent, entry });
                self.next_position += 1;
            }
        }
    }

    fn durable(&mut self, now: Now, end: u64, effects: &mut Vec<Effect>) {
        let mut advanced: BTreeMap<(AgentId, Epoch), ConnectionId> = BTreeMap::new();
        while self.observed.position() < end {
            let Some(Appending { connection, agent, entry }) = self.appending.pop_front() else {
                break;
            };
            let (position, streams) = (self.observed.position(), self.observed.stream_count());
            self.observed.entry(position, &agent, &entry, &self.specs, effects);
            if self.observed.stream_count() > streams {
                // Its streams say which model it is to serve.
                self.offer(connection, effects);
            }
            self.newest.entry(&agent, &entry);
            self.alarms.entry(&agent, &entry, effects);
            advanced.insert((agent, entry.epoch()), connection);
        }
        for (key, sender) in advanced {
            let durable = self.observed.next_of(&key).unwrap_or_default();
            let (agent, epoch) = key;
            if let Some(next) = self.sessions.ack(sender, &agent, epoch, durable) {
                effects.push(Effect::Send { connection: sender, message: HubToEdge::Acked { epoch, next } });
            }
        }
        for (connection, hello) in std::mem::take(&mut self.greeting) {
            self.hello(now, connection, hello, effects);
        }
    }

    /// Nothing of what was under way is in the log: agents send it again after a new greeting.
    fn append_failed(&mut self, effects: &mut Vec<Effect>) {
        self.appending.clear();
        self.greeting.clear();
        self.next_position = self.observed.position();
        for connection in self.sessions.connections() {
            self.refuse(connection, "the hub's disk failed; try again".to_owned(), effects);
        }
    }

    fn refuse(&mut self, connection: ConnectionId, reason: String, effects: &mut Vec<Effect>) {
        let message = HubToEdge::Refused { reason, retry_after_ms: limits::RETRY_AFTER_MS };
        effects.push(Effect::Send { connection, message });
        self.sessions.forget(connection);
        effects.push(Effect::Close { connection });
    }

    /// What follows from the state, whatever the event was.
    fn settle(&mut self, now: Now, effects: &mut Vec<Effect>) {
        self.advance_rollouts(now, effects);
        let wanted =
            self.retraining.decide(now, &self.specs, (&self.observed, &self.labels), &self.registry, self.compacted);
        effects.extend(wanted.effects);
        let full = self.observed.position() >= self.compacted + limits::COMPACT_BATCHES;
        if now >= self.compact_at || full || wanted.compaction || self.unsaved_verdict {
            self.compact_at = now + self.rules.interval_ms;
            self.compact(effects);
        }
    }

    fn compact(&mut self, effects: &mut Vec<Effect>) {
        let to = self.observed.position();
        if !self.compacting && (to > self.compacted || self.unsaved_verdict) {
            self.compacting = true;
            self.unsaved_verdict = false;
            self.alarms.save(effects);
            effects.push(Effect::Compact { from: self.compacted, to, snapshot: self.observed.snapshot() });
        }
    }
}

#[cfg(test)]
mod tests;
