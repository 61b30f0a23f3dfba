//! Boxes, and the dice that everything in a world is thrown with.

use std::collections::VecDeque;

use shared::event::{Event as StoredEvent, EventBatch, SpoolEntry};
use shared::ids::{AgentId, Epoch, Sequence, StreamId};
use shared::wire::message::{HubToEdge, ModelOutcome, ModelReport};

use crate::core::tests::shells::Outgoing;
use crate::core::tests::support::{MOVED, NORMAL, agent, batch, prediction, reading, stream};
use crate::core::{ConnectionId, Event};

/// Batches an agent has under way at most.
const WINDOW: usize = 8;

/// A box with numbered events, made when they are asked for: they are a function of their number.
pub(super) struct FakeAgent {
    pub(super) name: AgentId,
    pub(super) streams: [StreamId; 2],
    pub(super) drifts: bool,
    pub(super) epoch: Epoch,
    /// It has forgotten everything before.
    pub(super) acked: Sequence,
    /// It has made everything before.
    pub(super) made: Sequence,
    pub(super) connection: Option<Connection>,
}

/// An agent's end of a connection.
pub(super) struct Connection {
    pub(super) id: ConnectionId,
    pub(super) welcomed: bool,
    /// It has sent everything before.
    pub(super) sent: Sequence,
    /// Ends of batches that are not acknowledged.
    pub(super) under_way: VecDeque<Sequence>,
    pub(super) incoming: VecDeque<Outgoing>,
    /// It did what must be refused.
    pub(super) deserves_refusal: bool,
}

impl FakeAgent {
    pub(super) fn new(index: usize, drifts: bool) -> Self {
        Self {
            name: agent(&format!("box-{index}")),
            streams: [stream(&format!("pump/{index}")), stream(&format!("fan/{index}"))],
            drifts,
            epoch: Epoch(1),
            acked: Sequence(0),
            made: Sequence(0),
            connection: None,
        }
    }

    pub(super) fn batch(&self, from: Sequence, to: Sequence) -> EventBatch {
        let events = (from.0..to.0).map(|sequence| self.event(sequence)).collect();
        batch(self.epoch, from, &self.streams, events)
    }

    /// The two streams take turns; every 97 events nothing comes for a while; now and then nobody vouches.
    fn event(&self, sequence: u64) -> StoredEvent {
        let stream = (sequence % 2) as u16;
        let time_ms = self.epoch.0 as i64 * 1_000_000_000 + sequence as i64 * 1_000 + (sequence / 97) as i64 * 90_000;
        if sequence % 11 == 10 {
            return prediction(stream, Sequence(sequence - 1), time_ms, sequence.is_multiple_of(3));
        }
        let moved = self.drifts && SplitMix64(sequence / 400 + self.epoch.0).chance(50);
        let known_normal = SplitMix64(sequence / 60 + self.epoch.0).chance(75);
        reading(stream, sequence, time_ms, if moved { MOVED } else { NORMAL }, known_normal)
    }

    /// Takes one message; says what the agent answers.
    pub(super) fn take(&mut self, incoming: Outgoing, random: &mut SplitMix64) -> Vec<Event> {
        let Some(connection) = self.connection.as_mut() else {
            return Vec::new();
        };
        let id = connection.id;
        match incoming {
            Outgoing::Closed => self.connection = None,
            Outgoing::Message(HubToEdge::Welcome { next, .. }) => {
                assert!((self.acked..=self.made).contains(&next), "{}: {} {next} {}", self.name, self.acked, self.made);
                assert!(!connection.welcomed, "{}: greeted twice", self.name);
                (self.acked, connection.sent, connection.welcomed) = (next, next, true);
            }
            Outgoing::Message(HubToEdge::Acked { epoch, next }) => {
                assert_eq!(epoch, self.epoch, "{}", self.name);
                assert!(next <= connection.sent, "{}: acked {next}, sent {}", self.name, connection.sent);
                connection.under_way.retain(|end| *end > next);
                self.acked = self.acked.max(next);
            }
            Outgoing::Message(HubToEdge::Shadow(shadow)) => {
                assert_eq!(shadow, None, "{}: no stage asks for it", self.name);
            }
            Outgoing::Message(HubToEdge::Refused { reason, .. }) => {
                assert!(connection.deserves_refusal || reason.contains("disk failed"), "{}: {reason}", self.name);
            }
            Outgoing::Message(HubToEdge::Offer(offer)) => {
                if random.chance(50) {
                    let served = offer.served();
                    let report =
                        ModelReport { model: served.model, digest: served.digest, outcome: ModelOutcome::Serving };
                    return vec![
                        Event::Fetch { connection: id, digest: offer.digest, offset: 0, base: None },
                        Event::ModelReport { connection: id, report },
                    ];
                }
            }
            Outgoing::Message(HubToEdge::Chunk { .. } | HubToEdge::Examine { .. }) => {}
        }
        Vec::new()
    }

    /// The next batch of what was not sent yet, cut at random; now and then it reaches back into what was sent.
    pub(super) fn send(&mut self, random: &mut SplitMix64) -> Option<Event> {
        let connection = self.connection.as_ref().filter(|connection| connection.welcomed)?;
        if connection.under_way.len() >= WINDOW || connection.sent >= self.made {
            return None;
        }
        let (id, sent) = (connection.id, connection.sent);
        let back = if random.chance(30) { random.below(20) as u64 } else { 0 };
        let from = Sequence(sent.0.saturating_sub(back));
        let to = sent.plus(1 + random.below(20) as u64).min(self.made);
        let batch = self.batch(from, to);
        let connection = self.connection.as_mut()?;
        connection.sent = to;
        connection.under_way.push_back(to);
        Some(Event::Entry { connection: id, entry: SpoolEntry::Events(batch) })
    }
}

/// S. Vigna's splitmix64.
pub(super) struct SplitMix64(pub(super) u64);

impl SplitMix64 {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(super) fn below(&mut self, end: usize) -> usize {
        (self.next() % end.max(1) as u64) as usize
    }

    pub(super) fn chance(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }
}
