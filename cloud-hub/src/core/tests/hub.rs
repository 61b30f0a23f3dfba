//! A hub whose shells answer at once, unless a test says otherwise, and one machine per stream.

use std::collections::BTreeMap;

use shared::event::{SpoolEntry, UnixMillis};
use shared::ids::{Epoch, ModelVersion, Sequence, StreamId};
use shared::wire::message::{AgentStatus, Hello, HubToEdge, ModelOffer, ModelOutcome, ModelReport};

use super::shells::{Outgoing, Shells};
use super::support::{COMPACTION, agent, batch, hello, lasting, model, reading, stream};
use crate::core::drift::DriftAlarm;
use crate::core::registry::Release;
use crate::core::retrain::curve::Curve;
use crate::core::retrain::{CandidateReport, RunOutcome, TrainingJob};
use crate::core::session::AgentFacts;
use crate::core::{ConnectionId, Event, HubCore};

/// Readings of one batch.
const BATCH_ROWS: u64 = 10;

pub(super) struct Hub {
    pub(super) core: HubCore,
    pub(super) shells: Shells,
    /// Whether appends become durable only with [`Hub::sync`].
    pub(super) slow_disk: bool,
    /// Whether compactions end only with [`Hub::compact`].
    pub(super) slow_compaction: bool,
    pub(super) now: UnixMillis,
    connections: u64,
    /// Per connection its epoch, and the sequence and time of its next event.
    sources: BTreeMap<ConnectionId, (u64, UnixMillis)>,
    heard: BTreeMap<ConnectionId, Vec<Outgoing>>,
}

impl Hub {
    pub(super) fn new(releases: Vec<Release>) -> Self {
        Self::on(Shells::with(releases))
    }

    /// A hub that also has a model for the boxes in the north.
    pub(super) fn with_cohort(releases: Vec<Release>) -> Self {
        let mut shells = Shells::with(releases);
        shells.has_cohort = true;
        Self::on(shells)
    }

    fn on(mut shells: Shells) -> Self {
        Self {
            core: shells.start(),
            shells,
            slow_disk: false,
            slow_compaction: false,
            now: 0,
            connections: 0,
            sources: BTreeMap::new(),
            heard: BTreeMap::new(),
        }
    }

    /// Tells the core something and does what follows, and what follows from that.
    pub(super) fn tell(&mut self, event: Event) {
        let mut events = vec![event];
        while let Some(event) = events.pop() {
            let mut effects = Vec::new();
            self.core.handle(self.now, event, &mut effects);
            effects.into_iter().for_each(|effect| self.shells.perform(effect));
            while let Some((connection, outgoing)) = self.shells.sent.pop_front() {
                self.heard.entry(connection).or_default().push(outgoing);
            }
            if !self.slow_disk {
                self.shells.sync(usize::MAX);
            }
            events.extend(self.shells.report());
            if !self.slow_compaction {
                events.extend(self.shells.compact().or_else(|| self.shells.compact()));
            }
        }
    }

    /// Everything on its way becomes durable, and the hub learns of it.
    pub(super) fn sync(&mut self) {
        self.shells.sync(usize::MAX);
        while let Some(report) = self.shells.report() {
            self.tell(report);
        }
    }

    /// The compaction under way ends.
    pub(super) fn compact(&mut self) {
        if let Some(done) = self.shells.compact().or_else(|| self.shells.compact()) {
            self.tell(done);
        }
    }

    /// Time passes, long enough for a compaction.
    pub(super) fn pass(&mut self) {
        self.now += 2 * COMPACTION.interval_ms;
        self.tell(Event::Tick);
    }

    /// The hub is killed and starts from what is durable. Times of sources go on.
    pub(super) fn restart(&mut self) {
        self.shells.crash(0);
        self.core = self.shells.start();
        self.tell(Event::Tick);
    }

    /// An agent connects and says `hello`.
    pub(super) fn greet(&mut self, name: &str, hello: Hello) -> ConnectionId {
        self.connections += 1;
        let connection = ConnectionId(self.connections);
        self.shells.connections.insert(connection, (agent(name), hello.base));
        self.sources.insert(connection, (hello.base.0, 1_000_000));
        self.tell(Event::Connected { connection, agent: agent(name), certificate: lasting() });
        self.tell(Event::Hello { connection, hello });
        connection
    }

    /// An agent connects whose first event has the number `oldest`.
    pub(super) fn connect(&mut self, name: &str, oldest: u64) -> ConnectionId {
        self.greet(name, hello(Epoch(1), Sequence(oldest)))
    }

    /// An agent comes back after a restart of the hub, and goes on where it was.
    pub(super) fn reconnect(&mut self, name: &str, before: ConnectionId) -> ConnectionId {
        let (next, time_ms) = self.sources[&before];
        let connection = self.connect(name, next);
        self.sources.insert(connection, (next, time_ms));
        connection
    }

    /// A machine measures `count` readings around `value`, one a second.
    pub(super) fn readings(
        &mut self,
        connection: ConnectionId,
        machine: &str,
        count: u64,
        value: f64,
        known_normal: bool,
    ) {
        for rows in (0..count).step_by(BATCH_ROWS as usize).map(|done| BATCH_ROWS.min(count - done)) {
            let (next, time_ms) = self.sources[&connection];
            let events = (0..rows)
                .map(|row| reading(0, next + row, time_ms + row as i64 * 1_000, value, known_normal))
                .collect();
            self.sources.insert(connection, (next + rows, time_ms + rows as i64 * 1_000));
            let batch = batch(Epoch(1), Sequence(next), &[stream(machine)], events);
            self.tell(Event::Entry { connection, entry: SpoolEntry::Events(batch) });
        }
    }

    /// Known-normal readings, and a pause that ends their segment: `segments` times.
    pub(super) fn segments(&mut self, connection: ConnectionId, machine: &str, segments: usize, rows: u64, value: f64) {
        for _ in 0..segments {
            self.readings(connection, machine, rows, value, true);
            self.readings(connection, machine, 1, value, false);
        }
    }

    /// Sends the events from `first` to before `end` once more or for the first time.
    pub(super) fn send(&mut self, connection: ConnectionId, first: u64, end: u64) {
        let events = (first..end).map(|number| reading(0, number, number as i64 * 1_000, 0.0, true)).collect();
        let batch = batch(Epoch(1), Sequence(first), &[stream("pump/1")], events);
        self.tell(Event::Entry { connection, entry: SpoolEntry::Events(batch) });
    }

    /// What an agent was told since it was last asked for.
    pub(super) fn heard(&mut self, connection: ConnectionId) -> Vec<Outgoing> {
        self.heard.remove(&connection).unwrap_or_default()
    }

    /// The versions offered over a connection since it was last asked for.
    pub(super) fn offers(&mut self, connection: ConnectionId) -> Vec<ModelOffer> {
        let heard = self.heard(connection);
        let offers = heard.into_iter().filter_map(|outgoing| match outgoing {
            Outgoing::Message(HubToEdge::Offer(offer)) => Some(offer),
            Outgoing::Message(_) | Outgoing::Closed => None,
        });
        offers.collect()
    }

    /// The refusal that ended a connection.
    pub(super) fn refusal(&mut self, connection: ConnectionId) -> String {
        let heard = self.heard(connection);
        match &heard[heard.len().saturating_sub(2)..] {
            [Outgoing::Message(HubToEdge::Refused { reason, retry_after_ms }), Outgoing::Closed] => {
                assert!(*retry_after_ms > 0);
                reason.clone()
            }
            other => panic!("no refusal: {other:?}"),
        }
    }

    /// How far an agent was acknowledged since it was last asked for.
    pub(super) fn acked(&mut self, connection: ConnectionId) -> Vec<u64> {
        let heard = self.heard(connection);
        let acks = heard.into_iter().filter_map(|outgoing| match outgoing {
            Outgoing::Message(HubToEdge::Acked { next, .. } | HubToEdge::Welcome { next, .. }) => Some(next.0),
            Outgoing::Message(_) | Outgoing::Closed => None,
        });
        acks.collect()
    }

    pub(super) fn facts(&self, name: &str) -> &AgentFacts {
        self.core.sessions().agents().find(|facts| facts.agent == agent(name)).expect("it is known")
    }

    /// Known-normal segments of a machine: readings and whether it still grows.
    pub(super) fn known_normal(&self, machine: &str) -> Vec<(u64, bool)> {
        let wanted: StreamId = stream(machine);
        let (_, facts) =
            self.core.observed().streams().find(|((_, stream), _)| *stream == wanted).expect("it is known");
        let closed = facts.segments.closed().map(|segment| (segment.rows, false));
        closed.chain(facts.segments.open().map(|open| (open.rows, true))).collect()
    }

    pub(super) fn request(&mut self, name: &str) {
        self.tell(Event::RetrainRequested { model: model(name), by: "Ada".to_owned() });
    }

    /// The run of a model that is under way.
    pub(super) fn job(&self, name: &str) -> Option<TrainingJob> {
        self.shells.training.get(&model(name)).cloned()
    }

    /// The run of a model ends with the release of its selection that begins at `since`.
    pub(super) fn release(&mut self, name: &str, since: u64, value: f64, blind_since: Vec<u64>) {
        let job = self.job(name).expect("a run");
        let selection =
            job.selections.iter().find(|selection| selection.since_position == since).expect("it was tried");
        let release = super::support::release(name, job.version.0, value, selection.segments.clone());
        let outcome = RunOutcome {
            candidates: vec![],
            blind_since,
            released: Some((release, since)),
            failure: None,
            curve: Curve::default(),
        };
        self.end(name, outcome);
    }

    /// A box answers with the newest version of a model.
    pub(super) fn adopt(&mut self, connection: ConnectionId, name: &str) {
        let newest = self.core.registry().versions(&model(name)).last().expect("there is one").offer().served();
        let outcome = ModelOutcome::Serving;
        let report = ModelReport { model: newest.model, digest: newest.digest, outcome };
        self.tell(Event::ModelReport { connection, report });
        let status = AgentStatus { kept: Some(newest.digest), ..AgentStatus::default() };
        self.tell(Event::Status { connection, status });
        self.tell(Event::Tick);
    }

    /// The run of a model ends without a release.
    pub(super) fn refuse(&mut self, name: &str, blind_since: Vec<u64>) {
        let selections = self.job(name).expect("a run").selections.into_iter();
        let candidates = selections.map(|selection| CandidateReport {
            selection: selection.name,
            trained_on: selection.segments,
            blessed: false,
            reasons: vec!["it is worse".to_owned()],
            metrics: BTreeMap::new(),
            steps: Vec::new(),
        });
        self.end(
            name,
            RunOutcome {
                candidates: candidates.collect(),
                blind_since,
                released: None,
                failure: None,
                curve: Curve::default(),
            },
        );
    }

    pub(super) fn end(&mut self, name: &str, outcome: RunOutcome) {
        let event = self.shells.finish_training(&model(name), outcome);
        self.tell(event);
    }

    pub(super) fn champion(&self, name: &str) -> Option<ModelVersion> {
        self.core.registry().champion(&model(name)).map(|release| release.version)
    }

    /// Starts of a model's regimes, and whether a model of everything since then is known to be blind.
    pub(super) fn regimes(&self, name: &str) -> Vec<(u64, bool)> {
        let regimes = self.core.observed().regimes(&model(name));
        regimes.iter().map(|regime| (regime.since_position, regime.blind)).collect()
    }

    /// Alarms, oldest first, and whether they are up.
    pub(super) fn alarms(&self) -> Vec<(&DriftAlarm, bool)> {
        self.core.observed().alarms().map(|alarm| (alarm, alarm.cleared_ms.is_none())).collect()
    }
}
