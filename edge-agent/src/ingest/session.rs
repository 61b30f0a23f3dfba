//! The agent's MQTT session, without IO: packets and the time go in, bytes for the broker and messages for the agent come
//! out.
//!
//! What is acknowledged and what is published lives here and nowhere else, so that nothing of an older connection can
//! reach a newer one: a receipt carries the number of its connection, publishes are sent again until the broker has
//! acknowledged them.

use std::collections::VecDeque;

use bytes::BytesMut;

use super::Outgoing;
use super::packets::{self, Delivery, Hello, Incoming, Message, PacketError, Presence, Properties, Publish, Version};
use crate::core::{Millis, Receipt};

/// Our publishes that the broker has not acknowledged, if it allows so many.
const OUTGOING_IN_FLIGHT: usize = 512;
/// The broker must answer a connection request or a ping within this time.
const ANSWER_TIMEOUT_MS: u64 = 10_000;
/// Connection requests in MQTT 5 that a broker may leave unanswered before it is asked in 3.1.1, as some old ones close
/// the connection on a version they do not know.
const SILENT_REFUSALS: u32 = 2;

/// Why a connection is of no more use.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// It is not MQTT.
    #[error("{0}")]
    Packet(#[from] PacketError),
    /// The broker does not want us.
    #[error("the broker refuses the connection: {0}")]
    Refused(String),
    /// The broker closed it and said why.
    #[error("the broker closed the connection: {0}")]
    Goodbye(String),
    /// The broker closed it, or the network did.
    #[error("the connection was closed")]
    Closed,
    /// The broker does not answer.
    #[error("the broker did not answer within {ANSWER_TIMEOUT_MS} ms")]
    Silent,
    /// The configuration holds a name that MQTT cannot carry.
    #[error("tell the broker who we are: {0}")]
    Hello(String),
}

/// What a packet was for the agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Arrival {
    /// The connection stands.
    Connected {
        /// The broker still knew the session.
        session_present: bool,
    },
    /// A message to take in.
    Message {
        /// What to acknowledge it by.
        receipt: Receipt,
        /// The message.
        message: Message,
        /// The broker may have delivered it before.
        may_be_redelivered: bool,
    },
    /// The broker does not let us subscribe to this many of our filters.
    SubscriptionRefused(usize),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Away,
    Connecting { since: Millis },
    Connected,
}

/// A publish that the broker has not acknowledged.
#[derive(Debug)]
struct Sent {
    id: u16,
    message: Outgoing,
}

/// The session.
#[derive(Debug)]
pub struct Session {
    hello: Hello,
    filters: Vec<String>,
    version: Version,
    silent_refusals: u32,
    state: State,
    generation: u32,
    number: u64,
    /// Messages to acknowledge, in the order they came in.
    unacknowledged: VecDeque<(Receipt, u16)>,
    /// How many more messages may be the resumed session's redeliveries.
    resumed_messages: u64,
    in_flight: VecDeque<Sent>,
    waiting: VecDeque<Outgoing>,
    next_id: u16,
    quota: usize,
    largest_bytes: usize,
    too_large: usize,
    keep_alive_ms: u64,
    last_sent: Millis,
    last_received: Millis,
    pinged: Option<Millis>,
}

impl Session {
    /// A session that never was connected.
    #[must_use]
    pub fn new(hello: Hello, filters: Vec<String>) -> Self {
        Self {
            hello,
            filters,
            version: Version::V5,
            silent_refusals: 0,
            state: State::Away,
            generation: 0,
            number: 0,
            unacknowledged: VecDeque::new(),
            resumed_messages: 0,
            in_flight: VecDeque::new(),
            waiting: VecDeque::new(),
            next_id: 0,
            quota: 0,
            largest_bytes: usize::MAX,
            too_large: 0,
            keep_alive_ms: 0,
            last_sent: Millis(0),
            last_received: Millis(0),
            pinged: None,
        }
    }

    /// The version spoken now.
    #[must_use]
    pub fn version(&self) -> Version {
        self.version
    }

    /// Whether [`Self::publish`] sends at once. While the shell does not read, it hears of no acknowledgement, and does not
    /// wait for one either: what would have to is sent at most once.
    #[must_use]
    pub fn can_publish(&self, is_reading: bool) -> bool {
        let has_quota = self.waiting.is_empty() && self.in_flight.len() < self.quota;
        matches!(self.state, State::Connected) && (has_quota || !is_reading)
    }

    /// Our messages that were dropped since the last call, because they are larger than the broker takes.
    pub fn take_too_large(&mut self) -> usize {
        std::mem::take(&mut self.too_large)
    }

    /// Who connects next is kept like this.
    pub fn set_presence(&mut self, presence: Presence) {
        self.hello.presence = presence;
    }

    /// A network connection stands: says who we are.
    ///
    /// # Errors
    /// If MQTT cannot say it.
    pub fn connect(&mut self, now: Millis, out: &mut BytesMut) -> Result<(), Problem> {
        self.state = State::Connecting { since: now };
        self.generation += 1;
        self.unacknowledged.clear();
        self.keep_alive_ms = u64::from(self.hello.keep_alive_s) * 1_000;
        self.pinged = None;
        (self.last_sent, self.last_received) = (now, now);
        packets::write_connect(self.version, &self.hello, out).map_err(Problem::Hello)
    }

    /// The network connection is gone. The next one is tried in another version if the broker seems not to speak this one.
    pub fn disconnected(&mut self, problem: &Problem) {
        if matches!(self.state, State::Connecting { .. }) && *problem == Problem::Closed {
            self.silent_refusals += 1;
        }
        if self.version == Version::V311 || self.silent_refusals >= SILENT_REFUSALS {
            self.silent_refusals = 0;
            self.version = if self.version == Version::V5 { Version::V311 } else { Version::V5 };
        }
        self.state = State::Away;
        self.unacknowledged.clear();
    }

    /// Takes a packet in.
    ///
    /// # Errors
    /// If the connection is of no more use.
    pub fn receive(&mut self, now: Millis, packet: Incoming, out: &mut BytesMut) -> Result<Option<Arrival>, Problem> {
        self.last_received = now;
        match packet {
            Incoming::Connected { session_present, receive_maximum, max_packet_bytes, keep_alive_s } => {
                self.state = State::Connected;
                self.silent_refusals = 0;
                self.quota = usize::from(receive_maximum).min(OUTGOING_IN_FLIGHT);
                self.largest_bytes = max_packet_bytes as usize;
                self.keep_alive_ms = keep_alive_s.map_or(self.keep_alive_ms, |seconds| u64::from(seconds) * 1_000);
                self.resumed_messages = if session_present { u64::from(self.hello.receive_maximum) } else { 0 };
                self.greet(now, session_present, out)?;
                Ok(Some(Arrival::Connected { session_present }))
            }
            Incoming::Refused { reason, other_version } => {
                if other_version {
                    self.silent_refusals = SILENT_REFUSALS;
                }
                Err(Problem::Refused(reason))
            }
            Incoming::Message(message) => Ok(Some(self.take(message))),
            Incoming::Published(id) => {
                if let Some(index) = self.in_flight.iter().position(|sent| sent.id == id) {
                    self.in_flight.remove(index);
                }
                self.send_waiting(now, out);
                Ok(None)
            }
            Incoming::Subscribed { refused } => Ok((refused > 0).then_some(Arrival::SubscriptionRefused(refused))),
            Incoming::Pong => {
                self.pinged = None;
                Ok(None)
            }
            Incoming::Goodbye(reason) => Err(Problem::Goodbye(reason)),
            Incoming::Other => Ok(None),
        }
    }

    /// Acknowledges every message of this connection up to `through`. Receipts of an older connection are void: the broker
    /// delivers again.
    pub fn acknowledge(&mut self, now: Millis, through: Receipt, out: &mut BytesMut) {
        while let Some((_, id)) = self.unacknowledged.front().filter(|(receipt, _)| *receipt <= through) {
            packets::write_puback(*id, out);
            self.unacknowledged.pop_front();
            self.last_sent = now;
        }
    }

    /// Publishes, now or when the broker takes more.
    pub fn publish(&mut self, now: Millis, message: Outgoing, is_reading: bool, out: &mut BytesMut) {
        if !is_reading && !self.can_publish(true) {
            self.send(now, None, message, false, out);
            return;
        }
        self.waiting.push_back(message);
        self.send_waiting(now, out);
    }

    /// Says good-bye, and that we are away: the last will is not sent after a good-bye.
    pub fn close(&mut self, now: Millis, out: &mut BytesMut) {
        if let Presence::Kept { availability: topic } = self.hello.presence.clone() {
            let id = self.free_id();
            self.send(now, Some(id), retained(topic, packets::OFFLINE), false, out);
        }
        packets::write_disconnect(out);
        self.state = State::Away;
    }

    /// Does what is due. `is_reading` says that nothing keeps the shell from reading, so that a broker's silence is its own.
    ///
    /// # Errors
    /// If the broker has been silent for too long.
    pub fn tick(&mut self, now: Millis, is_reading: bool, out: &mut BytesMut) -> Result<(), Problem> {
        if !is_reading {
            self.pinged = self.pinged.map(|_| now);
        }
        let asked = match self.state {
            State::Away => return Ok(()),
            State::Connecting { since } => Some(since),
            State::Connected => self.pinged,
        };
        if asked.is_some_and(|since| now >= since.plus(ANSWER_TIMEOUT_MS)) {
            return Err(Problem::Silent);
        }
        if asked.is_none() && self.keep_alive_ms > 0 && now >= self.ping_at() {
            packets::write_ping(out);
            self.pinged = Some(now);
            self.last_sent = now;
        }
        Ok(())
    }

    /// When [`Self::tick`] is due.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Millis> {
        match (self.state, self.pinged) {
            (State::Away, _) => None,
            (State::Connecting { since }, _) | (_, Some(since)) => Some(since.plus(ANSWER_TIMEOUT_MS)),
            (State::Connected, None) if self.keep_alive_ms == 0 => None,
            (State::Connected, None) => Some(self.ping_at()),
        }
    }

    /// A ping is due when either side was silent for most of the keep-alive.
    fn ping_at(&self) -> Millis {
        self.last_sent.min(self.last_received).plus(self.keep_alive_ms * 3 / 4)
    }

    fn greet(&mut self, now: Millis, session_present: bool, out: &mut BytesMut) -> Result<(), Problem> {
        // Subscribing again is harmless, and right when the session is new or the configuration changed.
        let id = self.free_id();
        packets::write_subscribe(self.version, id, &self.filters, out).map_err(Problem::Hello)?;
        let again = std::mem::take(&mut self.in_flight);
        for (index, sent) in again.into_iter().enumerate() {
            if session_present && index < self.quota {
                self.send(now, Some(sent.id), sent.message, true, out);
            } else {
                self.waiting.insert(index - self.in_flight.len(), sent.message);
            }
        }
        if let Presence::Kept { availability: topic } = self.hello.presence.clone() {
            self.publish(now, retained(topic, packets::ONLINE), true, out);
        }
        Ok(())
    }

    fn take(&mut self, message: Message) -> Arrival {
        self.number += 1;
        let receipt = Receipt { generation: self.generation, number: self.number };
        let may_be_redelivered = message.redelivered || self.resumed_messages > 0;
        self.resumed_messages = self.resumed_messages.saturating_sub(1);
        if let Some(id) = message.packet_id {
            self.unacknowledged.push_back((receipt, id));
        }
        Arrival::Message { receipt, message, may_be_redelivered }
    }

    fn send_waiting(&mut self, now: Millis, out: &mut BytesMut) {
        while matches!(self.state, State::Connected) && self.in_flight.len() < self.quota {
            let Some(message) = self.waiting.pop_front() else {
                return;
            };
            let id = (message.delivery == Delivery::AtLeastOnce).then(|| self.free_id());
            self.send(now, id, message, false, out);
        }
    }

    fn send(&mut self, now: Millis, id: Option<u16>, message: Outgoing, again: bool, out: &mut BytesMut) {
        let Outgoing { topic, payload, properties, retain, .. } = &message;
        if packets::publish_bytes(topic, properties, payload) > self.largest_bytes {
            self.too_large += 1;
            return;
        }
        packets::write_publish(self.version, Publish { id, topic, payload, properties, retain: *retain, again }, out);
        self.last_sent = now;
        if let Some(id) = id {
            self.in_flight.push_back(Sent { id, message });
        }
    }

    /// An id that no publish in flight has; there are more ids than publishes in flight.
    fn free_id(&mut self) -> u16 {
        loop {
            self.next_id = self.next_id.wrapping_add(1);
            if self.next_id != 0 && self.in_flight.iter().all(|sent| sent.id != self.next_id) {
                return self.next_id;
            }
        }
    }
}

fn retained(topic: String, payload: &str) -> Outgoing {
    Outgoing {
        topic,
        payload: payload.as_bytes().to_vec(),
        properties: Properties::default(),
        retain: true,
        delivery: Delivery::AtLeastOnce,
    }
}

#[cfg(test)]
mod tests;
