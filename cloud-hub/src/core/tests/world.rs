//! A seeded world: a hub, its shells and some agents, with everything going wrong that can.
//!
//! Agents number their events, keep them until they are acknowledged, and send them again from where the hub greets
//! them, cut into other batches. Connections break and are replaced, the disk refuses appends, the hub is killed
//! between any two effects. What must hold meanwhile is asserted where it happens; what must be true in the end is
//! computed from the log anew, by other code.

mod agent;
mod truth;

use std::collections::{BTreeMap, VecDeque};
use std::panic::{catch_unwind, resume_unwind};

use shared::event::{SpoolEntry, UnixMillis};
use shared::ids::{AgentId, Digest, Epoch, ModelName, Sequence, StreamId};
use shared::wire::message::HubToEdge;

use self::agent::{Connection, FakeAgent, SplitMix64};
use self::truth::Truth;
use super::shells::{Outgoing, Shells};
use super::support::{MOVED, NORMAL, hello, lasting, release, specs};
use crate::core::drift::DriftAlarm;
use crate::core::limits::REGIMES_KEPT;
use crate::core::observe::Observed;
use crate::core::retrain::curve::Curve;
use crate::core::retrain::{RunOutcome, RunState, TrainingJob};
use crate::core::{ConnectionId, Event, HubCore, Now};

const SEEDS: u64 = 800;
const STEPS: usize = 400;
const AGENTS: usize = 3;
/// Rounds in which an undisturbed world must come to rest.
const ROUNDS: usize = 5_000;

#[test]
fn whatever_breaks_every_event_is_observed_once_in_order_and_a_restart_changes_nothing() {
    let mut seen = Seen::default();
    for seed in 0..SEEDS {
        match catch_unwind(|| live(seed)) {
            Ok(world) => seen.add(&world),
            Err(panic) => {
                println!("this was seed {seed}");
                resume_unwind(panic);
            }
        }
    }
    // Worlds in which nothing happens prove nothing.
    let wanted = Seen { crashes: 3_000, failures: 500, resent: 30_000, epochs: 1_000, alarms: 500, runs: 5_000 };
    assert!(seen.at_least(wanted), "{seen:?}");
}

fn live(seed: u64) -> World {
    // Every third world drifts. There a restart delays alarms, so that regimes may begin later.
    let mut world = World::new(seed, seed % 3 == 2);
    (0..STEPS).for_each(|_| world.step());
    world.settle();
    world.check();
    world
}

/// What happened in all worlds.
#[derive(Debug, Default, Clone, Copy)]
struct Seen {
    crashes: usize,
    failures: usize,
    resent: u64,
    epochs: usize,
    alarms: usize,
    runs: usize,
}

impl Seen {
    fn add(&mut self, world: &World) {
        self.crashes += world.seen.crashes;
        self.failures += world.seen.failures;
        self.resent += world.seen.resent;
        self.epochs += world.seen.epochs;
        self.alarms += world.shells.alarms.len();
        self.runs += world.shells.runs.len();
    }

    fn at_least(self, wanted: Self) -> bool {
        self.crashes >= wanted.crashes
            && self.failures >= wanted.failures
            && self.resent >= wanted.resent
            && self.epochs >= wanted.epochs
            && self.alarms >= wanted.alarms
            && self.runs >= wanted.runs
    }
}

struct World {
    random: SplitMix64,
    now: Now,
    drifts: bool,
    core: HubCore,
    shells: Shells,
    agents: Vec<FakeAgent>,
    /// What connections, also abandoned ones, still have to tell the hub.
    wires: BTreeMap<ConnectionId, VecDeque<Event>>,
    connections: u64,
    seen: Seen,
}

impl World {
    fn new(seed: u64, drifts: bool) -> Self {
        let in_service = ["pump", "fan"].map(|name| release(name, 1, NORMAL, Vec::new()));
        let mut shells = Shells::with(if drifts { in_service.into() } else { Vec::new() });
        Self {
            random: SplitMix64(seed),
            now: 1_000_000,
            drifts,
            core: shells.start(),
            shells,
            agents: (0..AGENTS).map(|index| FakeAgent::new(index, drifts)).collect(),
            wires: BTreeMap::new(),
            connections: 0,
            seen: Seen::default(),
        }
    }

    fn step(&mut self) {
        self.now += self.random.below(100) as i64;
        match self.random.below(1_000) {
            0..200 => {
                let index = self.random.below(AGENTS);
                let made = 1 + self.random.below(60) as u64;
                self.agents[index].made = self.agents[index].made.plus(made);
            }
            200..670 => {
                for _ in 0..1 + self.random.below(8) {
                    self.talk();
                }
            }
            670..780 => {
                let count = self.random.below(self.shells.appending.len() + 1);
                self.shells.sync(count);
            }
            780..870 => self.tell_report(),
            870..910 => self.compact(),
            910..930 => self.train(),
            930..945 => self.handle(Event::Tick),
            945..960 => {
                let model = specs()[self.random.below(2)].name.clone();
                self.handle(Event::RetrainRequested { model, by: "a person".to_owned() });
            }
            960..970 => self.misbehave(),
            970..978 => {
                let count = self.random.below(self.shells.appending.len() + 1);
                self.shells.fail(count);
            }
            978..982 => self.begin_epoch(),
            982..990 => {
                let index = self.random.below(AGENTS);
                self.hang_up(index);
            }
            _ => self.crash(),
        }
    }

    /// One agent connects, listens or sends, or one connection's next word reaches the hub.
    fn talk(&mut self) {
        let index = self.random.below(AGENTS);
        match self.random.below(4) {
            0 if self.agents[index].connection.is_none() => self.connect(index),
            0 | 1 => {
                let listener = &mut self.agents[index];
                let heard = listener.connection.as_mut().and_then(|connection| connection.incoming.pop_front());
                if let Some(heard) = heard {
                    self.hear(index, heard);
                }
            }
            2 => {
                if let Some(event) = self.agents[index].send(&mut self.random) {
                    self.put(event);
                }
            }
            _ => {
                let waiting: Vec<ConnectionId> =
                    self.wires.iter().filter(|(_, wire)| !wire.is_empty()).map(|(id, _)| *id).collect();
                let choice = self.random.below(waiting.len());
                if let Some(connection) = waiting.get(choice) {
                    self.deliver(*connection);
                }
            }
        }
    }

    fn connect(&mut self, index: usize) {
        self.connections += 1;
        let id = ConnectionId(self.connections);
        let FakeAgent { name, epoch, acked, connection, .. } = &mut self.agents[index];
        let hello = hello(*epoch, *acked);
        self.shells.connections.insert(id, (name.clone(), *acked));
        let words = [
            Event::Connected { connection: id, agent: name.clone(), certificate: lasting() },
            Event::Hello { connection: id, hello },
        ];
        self.wires.insert(id, words.into());
        *connection = Some(Connection {
            id,
            welcomed: false,
            sent: *acked,
            under_way: VecDeque::new(),
            incoming: VecDeque::new(),
            deserves_refusal: false,
        });
    }

    fn hear(&mut self, index: usize, heard: Outgoing) {
        let before = self.agents[index].connection.as_ref().map(|connection| connection.id);
        let answers = self.agents[index].take(heard, &mut self.random);
        answers.into_iter().for_each(|event| self.put(event));
        if let (Some(id), None) = (before, &self.agents[index].connection) {
            self.cut(id);
        }
    }

    fn put(&mut self, event: Event) {
        #[expect(clippy::wildcard_enum_match_arm, reason = "anything else is a mistake of this test")]
        let connection = match &event {
            Event::Entry { connection, .. }
            | Event::Fetch { connection, .. }
            | Event::ModelReport { connection, .. } => *connection,
            other => panic!("agents do not say {other:?}"),
        };
        self.wires.entry(connection).or_default().push_back(event);
    }

    fn hang_up(&mut self, index: usize) {
        if let Some(connection) = self.agents[index].connection.take() {
            self.cut(connection.id);
        }
    }

    /// Of what is on the wire, a part still arrives.
    fn cut(&mut self, connection: ConnectionId) {
        let wire = self.wires.entry(connection).or_default();
        // The handshake is over before an agent can hear or break anything.
        let kept = 1 + self.random.below(wire.len());
        wire.truncate(kept);
        wire.push_back(Event::Disconnected { connection });
    }

    fn deliver(&mut self, connection: ConnectionId) {
        let Some(event) = self.wires.get_mut(&connection).and_then(VecDeque::pop_front) else {
            return;
        };
        if matches!(event, Event::Disconnected { .. }) {
            self.wires.remove(&connection);
        }
        if let Event::Entry { connection, entry: SpoolEntry::Events(batch) } = &event {
            let (name, _) = &self.shells.connections[connection];
            let durable = self.shells.delivered(name, batch.epoch).unwrap_or_default();
            self.seen.resent += durable.0.min(batch.end().0).saturating_sub(batch.first.0);
        }
        self.handle(event);
    }

    /// Sends a batch that leaves a hole, one of another epoch, or asks for a package that nobody released.
    fn misbehave(&mut self) {
        let index = self.random.below(AGENTS);
        let choice = self.random.below(3);
        let rogue = &mut self.agents[index];
        let (from, to) = (rogue.made.plus(1), rogue.made.plus(3));
        let mut batch = rogue.batch(from, to);
        let Some(connection) = rogue.connection.as_mut().filter(|connection| connection.welcomed) else {
            return;
        };
        connection.deserves_refusal = true;
        let id = connection.id;
        if choice == 0 {
            batch.epoch = Epoch(batch.epoch.0 + 1);
        }
        self.put(match choice {
            0 | 1 => Event::Entry { connection: id, entry: SpoolEntry::Events(batch) },
            _ => Event::Fetch { connection: id, digest: Digest::of(b"nothing"), offset: 0, base: None },
        });
    }

    /// The box lost its spool: what the hub does not have is gone, and numbers begin anew.
    fn begin_epoch(&mut self) {
        let index = self.random.below(AGENTS);
        self.hang_up(index);
        let first = Sequence(self.random.below(500) as u64);
        let FakeAgent { epoch, acked, made, .. } = &mut self.agents[index];
        *epoch = Epoch(epoch.0 + 1);
        (*acked, *made) = (first, first);
        self.seen.epochs += 1;
    }

    fn tell_report(&mut self) {
        if let Some(report) = self.shells.report() {
            self.seen.failures += usize::from(matches!(report, Event::AppendFailed));
            self.handle(report);
        }
    }

    fn compact(&mut self) {
        if let Some(done) = self.shells.compact() {
            self.handle(done);
        }
    }

    fn train(&mut self) {
        let running: Vec<ModelName> = self.shells.training.keys().cloned().collect();
        if let Some(name) = running.first() {
            let outcome = self.outcome(&self.shells.training[name].clone());
            let event = self.shells.finish_training(name, outcome);
            self.handle(event);
        }
    }

    /// Selections are tried in order, until one is good.
    fn outcome(&mut self, job: &TrainingJob) -> RunOutcome {
        let mut outcome = RunOutcome {
            candidates: vec![],
            blind_since: vec![],
            released: None,
            failure: None,
            curve: Curve::default(),
        };
        if self.random.chance(20) {
            outcome.failure = Some("train: stopped".to_owned());
            return outcome;
        }
        for selection in &job.selections {
            match self.random.below(10) {
                0 => outcome.blind_since.push(selection.since_position),
                1..4 => {}
                _ => {
                    let value = if self.drifts && self.random.chance(50) { MOVED } else { NORMAL };
                    let release = release(job.model.as_str(), job.version.0, value, selection.segments.clone());
                    outcome.released = Some((release, selection.since_position));
                    break;
                }
            }
        }
        outcome
    }

    /// The hub takes an event and is sometimes killed before it has done all that follows.
    fn handle(&mut self, event: Event) {
        let mut effects = Vec::new();
        self.core.handle(self.now, event, &mut effects);
        for effect in effects {
            if self.random.below(2_000) == 0 {
                self.crash();
                return;
            }
            self.shells.perform(effect);
            self.dispatch();
        }
        self.check_alarms();
    }

    fn dispatch(&mut self) {
        while let Some((id, outgoing)) = self.shells.sent.pop_front() {
            let receiver = self.agents.iter_mut().find(|a| a.connection.as_ref().is_some_and(|c| c.id == id));
            let Some(receiver) = receiver else {
                continue;
            };
            if let Outgoing::Message(HubToEdge::Welcome { next, .. }) = &outgoing {
                // The agent may forget what it is told the hub has.
                let durable = self.shells.delivered(&receiver.name, receiver.epoch).unwrap_or(receiver.acked);
                assert!(*next <= durable, "{}: welcomed to {next}, durable is {durable}", receiver.name);
            }
            if let Some(connection) = receiver.connection.as_mut() {
                connection.incoming.push_back(outgoing);
            }
        }
    }

    fn crash(&mut self) {
        self.seen.crashes += 1;
        let survivors = self.random.below(self.shells.appending.len() + 1);
        self.shells.crash(survivors);
        self.wires.clear();
        self.agents.iter_mut().for_each(|agent| agent.connection = None);
        self.core = self.shells.start();
        self.check_observed(&self.core);
    }

    /// What is in the database of alarms is what is shown, and a stream has one alarm at a time.
    fn check_alarms(&self) {
        let open = |alarms: Vec<_>| -> Vec<_> {
            let mut open: Vec<(ModelName, AgentId, StreamId, UnixMillis)> = alarms;
            open.sort();
            open
        };
        let key = |a: &DriftAlarm| (a.model.clone(), a.agent.clone(), a.stream.clone(), a.raised_ms);
        let stored = open(self.shells.alarms.iter().filter(|a| a.cleared_ms.is_none()).map(key).collect());
        let shown = open(self.core.observed().alarms().filter(|a| a.cleared_ms.is_none()).map(key).collect());
        assert_eq!(stored, shown);
        assert!(stored.windows(2).all(|two| (&two[0].0, &two[0].1, &two[0].2) != (&two[1].0, &two[1].1, &two[1].2)));
    }

    /// Nothing breaks any more, and everything that was begun is brought to its end.
    fn settle(&mut self) {
        for _ in 0..ROUNDS {
            self.now += 100;
            for index in 0..AGENTS {
                if self.agents[index].connection.is_none() {
                    self.connect(index);
                }
                while let Some(event) = self.agents[index].send(&mut self.random) {
                    self.put(event);
                }
            }
            while let Some(id) = self.wires.iter().find(|(_, wire)| !wire.is_empty()).map(|(id, _)| *id) {
                self.deliver(id);
            }
            self.shells.sync(usize::MAX);
            self.tell_report();
            self.compact();
            self.train();
            self.handle(Event::Tick);
            for index in 0..AGENTS {
                while let Some(heard) = self.agents[index].connection.as_mut().and_then(|c| c.incoming.pop_front()) {
                    self.hear(index, heard);
                }
            }
            let delivered = self.agents.iter().all(|agent| agent.acked == agent.made);
            if delivered && self.shells.is_idle() && self.core.retraining().is_idle() {
                return;
            }
        }
        let agents: Vec<_> = self.agents.iter().map(|a| (&a.name, a.acked, a.made)).collect();
        panic!("the world does not come to rest: {agents:?}, {:?}", self.core.positions());
    }

    fn check(&mut self) {
        self.check_delivery();
        assert!(self.shells.runs.values().all(|run| run.state != RunState::Running), "no run is left running");
        let end = self.shells.log.len() as u64;
        let (appended, observed, compacted) = self.core.positions();
        assert_eq!((appended, observed), (end, end), "positions are the log's");
        assert_eq!(compacted, self.shells.compacted());
        assert!(self.shells.has_saved_verdicts(), "what the gate said is in a snapshot, also when no batch came since");
        self.check_observed(&self.core);
        let restarted = self.shells.start();
        self.check_observed(&restarted);
    }

    /// A hub that knows the whole log knows what it says, and what the gate said, however often it was started anew.
    fn check_observed(&self, core: &HubCore) {
        Truth::of(&self.shells.log).check(core.observed(), self.drifts);
        for spec in specs() {
            let regimes = core.observed().regimes(&spec.name);
            assert!(!regimes.is_empty() && regimes.len() <= REGIMES_KEPT, "{regimes:?}");
            assert!(regimes.windows(2).all(|two| two[0].since_position < two[1].since_position), "{regimes:?}");
        }
        if !self.drifts {
            assert!(core.observed().snapshot() == self.never_stopped(), "as a hub that never stopped");
        }
    }

    /// The log holds what agents made, once, in order; of the newest epochs all of it.
    fn check_delivery(&self) {
        for agent in &self.agents {
            let mut at = BTreeMap::new();
            for (_, batch) in self.shells.log.iter().filter(|(name, _)| *name == agent.name) {
                let next = at.insert(batch.epoch, batch.end());
                assert!(next.is_none_or(|next| next == batch.first), "{}: {next:?}, {}", agent.name, batch.first);
                let made = FakeAgent { epoch: batch.epoch, ..FakeAgent::new(0, agent.drifts) };
                let made = made.batch(batch.first, batch.end());
                assert!(batch.events == made.events, "{}: events from {}", agent.name, batch.first);
            }
            assert_eq!(at.get(&agent.epoch).copied().unwrap_or(agent.acked), agent.made, "{}", agent.name);
        }
    }

    /// The snapshot of a hub that took the whole log and every verdict without a break.
    fn never_stopped(&self) -> Vec<u8> {
        let mut observed = Observed::default();
        for (position, (agent, batch)) in self.shells.log.iter().enumerate() {
            let entry = SpoolEntry::Events(batch.clone());
            observed.entry(position as u64, agent, &entry, &specs(), &mut Vec::new());
        }
        for verdict in &self.shells.verdicts {
            observed.mark_blind(&verdict.model, &verdict.blind_since);
            verdict.settled.into_iter().for_each(|since| observed.settle_regime(&verdict.model, since));
        }
        observed.snapshot()
    }
}
