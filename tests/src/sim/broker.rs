//! An MQTT broker that keeps every message until it is acknowledged and delivers it again after a reconnect, in order.

use std::collections::VecDeque;
use std::sync::Arc;

use edge_agent::core::spool::Shedding;
use edge_agent::core::{MessageContent, NewReading, Receipt, Received, Rejection};
use shared::event::StreamSchema;
use shared::ids::{ChannelName, StreamId};

use super::random::Random;

/// Streams of a box.
pub(super) const STREAMS: usize = 2;
/// Messages the broker hands out before an acknowledgement.
pub(super) const RECEIVE_MAXIMUM: usize = 60;

/// What a message holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Content {
    /// `named` tells whether the producer gave the id.
    Reading { stream: usize, id: u64, named: bool },
    /// No reading.
    Bad,
}

#[derive(Debug)]
struct Message {
    content: Content,
    /// Its number on this connection.
    number: u64,
    /// Whether it was handed out on any connection.
    sent: bool,
}

/// One box's broker, and the connection to it.
#[derive(Debug)]
pub(super) struct Broker {
    /// Everything not acknowledged, as it was published.
    messages: VecDeque<Message>,
    /// How many of them were handed out on this connection.
    delivered: usize,
    connected: bool,
    generation: u32,
    number: u64,
    acknowledgements: VecDeque<Receipt>,
    schemas: Vec<Arc<StreamSchema>>,
    /// What its streams let go where the spool runs full.
    sheds: [Option<Shedding>; STREAMS],
    /// An acknowledgement counts whatever its generation: a planted bug.
    pub(super) takes_stale: bool,
}

impl Broker {
    pub(super) fn new(of: usize) -> Self {
        let schema = |index| {
            Arc::new(StreamSchema {
                stream: stream_name(of, index),
                channels: vec![ChannelName::new("flow").expect("valid")],
            })
        };
        Self {
            messages: VecDeque::new(),
            delivered: 0,
            connected: true,
            generation: 1,
            number: 0,
            acknowledgements: VecDeque::new(),
            schemas: (0..STREAMS).map(schema).collect(),
            sheds: [None, [Some(Shedding::DropNewest), Some(Shedding::Downsample), None][of % 3]],
            takes_stale: false,
        }
    }

    pub(super) fn publish(&mut self, content: Content) {
        self.messages.push_back(Message { content, number: 0, sent: false });
    }

    pub(super) fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }

    /// Acknowledgements on their way are lost with the connection.
    pub(super) fn disconnect(&mut self) {
        self.connected = false;
        if !self.takes_stale {
            self.acknowledgements.clear();
        }
    }

    pub(super) fn connect(&mut self) {
        if !self.connected {
            self.connected = true;
            self.generation += 1;
            self.delivered = 0;
        }
    }

    /// Hands out at most `most` messages.
    pub(super) fn deliver(&mut self, most: usize, random: &mut Random) -> Vec<Received> {
        if !self.connected {
            return Vec::new();
        }
        let room = RECEIVE_MAXIMUM.saturating_sub(self.delivered);
        let count = most.min(room).min(self.messages.len() - self.delivered);
        let range = self.delivered..self.delivered + count;
        self.delivered += count;
        let mut received = Vec::with_capacity(count);
        for message in self.messages.range_mut(range) {
            self.number += 1;
            message.number = self.number;
            let receipt = Receipt { generation: self.generation, number: self.number };
            let content = match message.content {
                Content::Bad => MessageContent::Rejected(Rejection { reason: "not_json", sample: None }),
                Content::Reading { stream, id, named } => MessageContent::Reading(NewReading {
                    schema: Arc::clone(&self.schemas[stream]),
                    time_ms: id as i64,
                    values: vec![id as f64],
                    known_normal: false,
                    shedding: self.sheds[stream],
                    id,
                    named_by_producer: named,
                    // Not every broker sets the flag, and after a resumed session it is set on new messages as well.
                    may_be_redelivered: (message.sent && !named) || random.percent(50),
                }),
            };
            message.sent = true;
            received.push(Received { receipt: Some(receipt), content });
        }
        received
    }

    /// An acknowledgement leaves the box.
    pub(super) fn acknowledge(&mut self, receipt: Receipt) {
        if self.connected || self.takes_stale {
            self.acknowledgements.push_back(receipt);
        }
    }

    /// Takes at most `most` acknowledgements that arrived; returns what they acknowledged.
    pub(super) fn work(&mut self, most: usize) -> Vec<Content> {
        let mut settled = Vec::new();
        for _ in 0..most.min(self.acknowledgements.len()) {
            let Some(receipt) = self.acknowledgements.pop_front() else { break };
            let count = self.covered(receipt);
            settled.extend(self.messages.drain(..count).map(|message| message.content));
            self.delivered -= count;
        }
        settled
    }

    fn covered(&self, receipt: Receipt) -> usize {
        if self.connected && receipt.generation == self.generation {
            let delivered = self.messages.range(..self.delivered);
            delivered.take_while(|message| message.number <= receipt.number).count()
        } else if self.takes_stale && self.connected {
            // Packet ids begin anew with a connection, so that an old one names some message of the new one.
            self.delivered.div_ceil(2)
        } else {
            0
        }
    }

    pub(super) fn is_idle(&self) -> bool {
        self.acknowledgements.is_empty()
    }
}

/// The name of a box's stream.
pub(super) fn stream_name(of: usize, index: usize) -> StreamId {
    StreamId::new(&format!("box-{of}/pump-{index}")).expect("valid")
}
