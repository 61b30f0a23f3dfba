//! A hub that takes every event once, in order, and the link to it, which breaks with whatever is on its way.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use shared::event::{Event as StoredEvent, EventBatch};
use shared::ids::{Digest, Sequence};
use shared::limits::MAX_BATCHES_IN_FLIGHT;
use shared::wire::message::{EdgeToHub, HubToEdge, ModelOutcome, ModelReport, PackedBatch, ServedModel};

use super::random::Random;
use crate::core::Event;
use crate::core::tests::rig::{EPOCH, model, offer};

/// Bytes of a package that travel at once.
const CHUNK: usize = 4;
const LOADABLE: &[u8] = b"package";
/// How a package begins that no box can load.
pub(super) const UNLOADABLE: &[u8] = b"not a package";

#[derive(Default)]
pub(super) struct Hub {
    /// While set no connection can be made.
    pub(super) away: bool,
    /// Everything before it is durable here.
    pub(super) next: Sequence,
    /// Batches on their way to the hub's disk.
    appending: VecDeque<EventBatch>,
    /// The agent's connection, once it said hello.
    session: Option<Session>,
    answers: VecDeque<HubToEdge>,
    /// Where each reading lies.
    pub(super) readings: BTreeMap<u64, Sequence>,
    pub(super) predicted: BTreeSet<Sequence>,
    pub(super) champion: Option<ServedModel>,
    /// What the box said that it serves.
    pub(super) serving: Option<ServedModel>,
    packages: BTreeMap<Digest, Vec<u8>>,
    pub(super) known: usize,
    pub(super) refusals: usize,
}

struct Session {
    /// Where the next batch must begin.
    expected: Sequence,
    /// Where the last batch that came over this connection ends: an ack must not say more.
    carried: Sequence,
    /// What was acknowledged last.
    acked: Sequence,
}

impl Hub {
    /// Makes a new version the one to serve.
    pub(super) fn release(&mut self, loadable: bool) {
        let version = self.packages.len() as u32 + 1;
        let package = [if loadable { LOADABLE } else { UNLOADABLE }, &version.to_le_bytes()].concat();
        let champion = model(version, &package);
        self.packages.insert(champion.digest, package);
        self.champion = Some(champion);
        self.offer();
    }

    /// Makes some of what came durable.
    pub(super) fn work(&mut self, random: &mut Random) {
        let count = (1 + random.below(4)).min(self.appending.len());
        for batch in self.appending.drain(..count).collect::<Vec<_>>() {
            self.keep(&batch);
        }
        self.acknowledge(false);
    }

    /// What is not durable is gone.
    pub(super) fn crash(&mut self) {
        self.appending.clear();
    }

    pub(super) fn refuse(&mut self, random: &mut Random) {
        if self.session.take().is_some() {
            let retry_after_ms = random.below(5_000) as u64;
            self.answers.push_back(HubToEdge::Refused { reason: "it is busy".to_owned(), retry_after_ms });
        }
    }

    pub(super) fn is_idle(&self) -> bool {
        self.appending.is_empty() && self.answers.is_empty()
    }

    fn disconnected(&mut self) {
        self.session = None;
        self.answers.clear();
    }

    fn take(&mut self, message: EdgeToHub) {
        match message {
            EdgeToHub::Hello(hello) => {
                assert_eq!(hello.epoch, EPOCH);
                assert!(hello.oldest <= self.next, "the box gave back what the hub does not have");
                let expected = self.appending.back().map_or(self.next, EventBatch::end);
                self.session = Some(Session { expected, carried: self.next, acked: self.next });
                self.serving = hello.serving;
                self.answers.push_back(HubToEdge::Welcome { next: self.next, time_ms: 0 });
                self.offer();
            }
            EdgeToHub::Events(packed) => self.batch(&packed),
            EdgeToHub::Fetch { digest, offset } if self.session.is_some() => {
                let (offset, package) = (offset as usize, &self.packages[&digest]);
                let bytes = package[offset..package.len().min(offset + CHUNK)].to_vec();
                self.answers.push_back(HubToEdge::Chunk { digest, offset: offset as u64, bytes });
            }
            EdgeToHub::ModelReport(report) => self.report(report),
            EdgeToHub::Fetch { .. } | EdgeToHub::Status(_) => {}
        }
    }

    fn batch(&mut self, packed: &PackedBatch) {
        let Some(session) = self.session.as_mut() else {
            return;
        };
        let mut batch = EventBatch::decode(&packed.unpack().expect("unpacks")).expect("decodes");
        assert_eq!((batch.epoch, batch.first, batch.events.len() as u32), (packed.epoch, packed.first, packed.count));
        assert!(batch.first <= session.expected, "a hole: {} after {}", batch.first, session.expected);
        session.carried = session.carried.max(batch.end());
        if batch.end() <= session.expected {
            self.known += 1;
            self.acknowledge(true);
            return;
        }
        batch.events.drain(..(session.expected.0 - batch.first.0) as usize);
        batch.first = session.expected;
        session.expected = batch.end();
        self.appending.push_back(batch);
        assert!(self.appending.len() <= 2 * MAX_BATCHES_IN_FLIGHT, "more than the window of two connections");
    }

    fn report(&mut self, report: ModelReport) {
        match report.outcome {
            ModelOutcome::Serving => {
                self.serving = Some(ServedModel { model: report.model, digest: report.digest });
            }
            ModelOutcome::Refused { reason } => {
                let package = &self.packages[&report.digest];
                assert!(package.starts_with(UNLOADABLE), "a sound package was refused: {reason}");
                self.refusals += 1;
            }
        }
    }

    fn keep(&mut self, batch: &EventBatch) {
        assert_eq!(batch.first, self.next);
        for event in &batch.events {
            match event {
                StoredEvent::Reading(reading) => {
                    let before = self.readings.insert(reading.id, self.next);
                    assert_eq!(before, None, "reading {} came twice", reading.id);
                }
                StoredEvent::Prediction(prediction) => {
                    assert!(prediction.of < self.next, "a prediction before its reading");
                    assert!(self.predicted.insert(prediction.of), "{} was predicted twice", prediction.of);
                }
            }
            self.next = self.next.plus(1);
        }
    }

    fn acknowledge(&mut self, again: bool) {
        if let Some(session) = self.session.as_mut() {
            let next = self.next.min(session.carried);
            if again || next > session.acked {
                session.acked = next;
                self.answers.push_back(HubToEdge::Acked { epoch: EPOCH, next });
            }
        }
    }

    fn offer(&mut self) {
        let Some(champion) = self.champion.as_ref().filter(|_| self.session.is_some()) else {
            return;
        };
        if self.serving.as_ref() != Some(champion) {
            let bytes = self.packages[&champion.digest].len() as u64;
            self.answers.push_back(offer(champion, bytes));
        }
    }
}

pub(super) enum Command {
    Dial,
    Send(Box<EdgeToHub>),
    Hangup,
}

/// The link's shell and the network.
#[derive(Default)]
pub(super) struct Link {
    connected: bool,
    pub(super) commands: VecDeque<Command>,
    to_hub: VecDeque<EdgeToHub>,
    pub(super) answers: VecDeque<Event>,
    pub(super) cuts: usize,
}

impl Link {
    /// Performs some commands and carries some messages both ways.
    pub(super) fn work(&mut self, hub: &mut Hub, random: &mut Random) {
        for _ in 0..=random.below(4) {
            match (self.commands.pop_front(), self.connected) {
                (None, _) | (Some(Command::Send(_)), false) | (Some(Command::Dial), true) => {}
                (Some(Command::Send(message)), true) => self.to_hub.push_back(*message),
                (Some(Command::Hangup), true) => self.cut(hub, random),
                (Some(Command::Hangup), false) => self.answers.push_back(Event::LinkDown),
                (Some(Command::Dial), false) if hub.away => self.answers.push_back(Event::LinkDown),
                (Some(Command::Dial), false) => {
                    self.connected = true;
                    self.answers.push_back(Event::LinkUp);
                }
            }
            self.carry(hub, random);
        }
    }

    /// The connection breaks; a part of what was under way arrives.
    pub(super) fn cut(&mut self, hub: &mut Hub, random: &mut Random) {
        if self.connected {
            self.carry(hub, random);
        }
        if std::mem::take(&mut self.connected) {
            self.cuts += 1;
            self.to_hub.clear();
            hub.disconnected();
            self.answers.push_back(Event::LinkDown);
        }
    }

    /// The box is gone without a word.
    pub(super) fn crash(&mut self, hub: &mut Hub, random: &mut Random) {
        self.cut(hub, random);
        self.commands.clear();
        self.answers.clear();
    }

    pub(super) fn is_idle(&self) -> bool {
        self.commands.is_empty() && self.to_hub.is_empty() && self.answers.is_empty()
    }

    fn carry(&mut self, hub: &mut Hub, random: &mut Random) {
        for _ in 0..random.below(4).min(self.to_hub.len()) {
            hub.take(self.to_hub.pop_front().expect("counted"));
        }
        for _ in 0..random.below(4).min(hub.answers.len()) {
            let message = hub.answers.pop_front().expect("counted");
            let refused = matches!(message, HubToEdge::Refused { .. });
            self.answers.push_back(Event::FromHub(message));
            if refused {
                self.connected = false;
                self.to_hub.clear();
                hub.disconnected();
                self.answers.push_back(Event::LinkDown);
                return;
            }
        }
    }
}
