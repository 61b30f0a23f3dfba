//! From a topic and bytes to readings, or to a rejection that is counted.
//!
//! Topics and paths are compiled once. A message is read in one pass that builds only what the reading needs, so that
//! a box that takes tens of thousands of messages a second has time left for its models. How messages are written is in a
//! module each; whatever they hold goes the same way from there, through [`streams`].

pub(super) mod extract;
mod fields;
mod influx;
mod json;
mod rejection;
mod senml;
pub(super) mod sparkplug;
mod streams;
pub mod survey;
mod time;

use std::sync::Arc;

use shared::event::{StreamSchema, UnixMillis};
use shared::ids::{AgentId, ChannelName, Digest};

pub use rejection::Rejection;

use super::Outgoing;
use crate::config::PACKET_BYTES;
use crate::config::input::{Format, Input, Missing, TimeUnit};
use crate::config::topic::{Captures, StreamKey, TopicPattern};
use crate::core::spool::Shedding;
use extract::Found;
use fields::Channels;
use json::Json;
use sparkplug::{EdgeNodes, SparkplugTopic};
use streams::{Settled, Streams};

/// Streams of one agent: a plant's worth of machines. Each holds a window and a model's state in memory, and a topic
/// that makes up names must not fill it.
pub const MAX_STREAMS: usize = 4096;
/// Bytes of one message: the largest packet that can be configured.
pub const MAX_PAYLOAD_BYTES: usize = *PACKET_BYTES.end() as usize;
/// Readings in one message: more lines than gateways collect before they publish.
pub const MAX_READINGS_PER_MESSAGE: usize = 4096;

/// Turns messages into readings, by the configured inputs.
#[derive(Debug)]
pub struct Decoder {
    inputs: Vec<Compiled>,
    edge_nodes: EdgeNodes,
    scratch: Scratch,
}

/// What became of a message, or of one of the readings in it.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    /// It is a reading.
    Reading(Decoded),
    /// It is right, and makes no reading now.
    Held(Held),
    /// It is no reading.
    Rejected(Rejection),
}

/// Why a message that is right makes no reading.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Held {
    /// A channel has no value yet; those that came are kept.
    #[error("it is kept until the channel {0:?} has a value, too")]
    Waits(ChannelName),
    /// It holds a value for none of the input's channels.
    #[error("it holds none of the input's channels")]
    NoChannel,
    /// It says how a device is, not what it measured.
    #[error("it says that a device came or went")]
    Presence,
}

/// One message as a reading.
#[derive(Debug, Clone, PartialEq)]
pub struct Decoded {
    /// The stream and its channels; the same `Arc` for every reading of one stream and input.
    pub schema: Arc<StreamSchema>,
    /// When the source measured it, between the years 1 and 9999; the time of arrival if the input maps no time.
    pub time_ms: UnixMillis,
    /// One value per channel, in the schema's order, finite, in the channel's unit.
    pub values: Vec<f64>,
    /// An operator vouches that the machine ran normally.
    pub known_normal: bool,
    /// What becomes of it where the spool runs full, if its input has a rule of its own.
    pub shedding: Option<Shedding>,
    /// The same for the same message, also after a restart: from the stream and the producer's own id if the input
    /// maps one, else from the topic, the payload, and which of the message's readings it is.
    pub id: u64,
    /// Whether `id` comes from the producer's own: only then do equal ids mean one message for certain.
    pub has_producer_id: bool,
}

impl Decoder {
    /// A decoder for `inputs`; the first whose topic matches takes a message.
    #[must_use]
    pub fn new(inputs: &[Input]) -> Self {
        let inputs = inputs.iter().map(Compiled::new).collect();
        Self { inputs, edge_nodes: EdgeNodes::default(), scratch: Scratch::default() }
    }

    /// Passes over what the edge node of Sparkplug B says that is this agent itself, in `group`, if it is one.
    #[must_use]
    pub fn as_edge_node(mut self, group: Option<&str>, agent: &AgentId) -> Self {
        self.edge_nodes.pass_over(group, agent.as_str());
        self
    }

    /// The MQTT subscription filters. One that another covers is left out: some brokers deliver a message once for
    /// each filter that matches.
    #[must_use]
    pub fn filters(&self) -> Vec<String> {
        let patterns: Vec<TopicPattern> = self.inputs.iter().map(Compiled::subscription).collect();
        let mut kept: Vec<&TopicPattern> = Vec::new();
        for pattern in &patterns {
            if !kept.iter().any(|other| other.covers(pattern)) {
                kept.retain(|other| !pattern.covers(other));
                kept.push(pattern);
            }
        }
        kept.into_iter().map(TopicPattern::filter).collect()
    }

    /// Appends what became of one message that came at `arrival_ms`: at least one outcome, and one for each of its
    /// readings. Nothing is remembered of what is rejected.
    pub fn decode(&mut self, topic: &str, payload: &[u8], arrival_ms: UnixMillis, outcomes: &mut Vec<Outcome>) {
        let before = outcomes.len();
        let message = Message { topic, payload, arrival_ms };
        if let Err(rejection) = self.try_decode(&message, outcomes) {
            outcomes.push(Outcome::Rejected(rejection));
        }
        if outcomes.len() == before {
            outcomes.push(Outcome::Held(Held::NoChannel));
        }
    }

    /// What has to be published for messages to be understood.
    pub fn take_requests(&mut self) -> impl Iterator<Item = Outgoing> {
        self.edge_nodes.take_requests()
    }

    fn try_decode(&mut self, message: &Message<'_>, outcomes: &mut Vec<Outcome>) -> Result<(), Rejection> {
        let is_of_sparkplug = |input: &Compiled| matches!(input.kind, Kind::Sparkplug);
        if let Some(topic) = SparkplugTopic::parse(message.topic)
            && self.inputs.iter().any(is_of_sparkplug)
        {
            return self.take_sparkplug(&topic, message, outcomes);
        }
        let matching = self.inputs.iter_mut().find_map(|input| Some((input.topic.captures(message.topic)?, input)));
        let (captures, input) = matching.ok_or(Rejection::UnknownTopic)?;
        if message.payload.len() > MAX_PAYLOAD_BYTES {
            return Err(Rejection::TooLarge);
        }
        let mut place = Place { captures, scratch: &mut self.scratch, first: outcomes.len(), outcomes };
        input.read(message, &mut place)
    }

    /// Births and deaths concern the edge node, whichever input its devices belong to.
    fn take_sparkplug(
        &mut self,
        topic: &SparkplugTopic<'_>,
        message: &Message<'_>,
        outcomes: &mut Vec<Outcome>,
    ) -> Result<(), Rejection> {
        if message.payload.len() > MAX_PAYLOAD_BYTES {
            return Err(Rejection::TooLarge);
        }
        let told = self.edge_nodes.take(topic, message.payload, message.arrival_ms)?;
        for gone in told.gone.iter().map(String::as_str) {
            for input in self.inputs.iter_mut().filter(|input| matches!(input.kind, Kind::Sparkplug)) {
                if let Some(captures) = input.topic.captures(gone)
                    && input.name_stream(&captures, |_| None, &mut self.scratch)
                {
                    input.streams.forget(&self.scratch.stream);
                }
            }
        }
        let matching = self.inputs.iter_mut().find_map(|input| Some((input.topic.captures(message.topic)?, input)));
        let Some((captures, input)) = matching.filter(|_| !told.rows.is_empty()) else {
            outcomes.push(Outcome::Held(Held::Presence));
            return Ok(());
        };
        let mut place = Place { captures, scratch: &mut self.scratch, first: outcomes.len(), outcomes };
        if !input.name_stream(&place.captures, |_| None, place.scratch) {
            return Err(Rejection::BadStreamName);
        }
        for row in told.rows {
            let fields = row.metrics.iter().map(|(name, value)| (name.as_ref(), value));
            input.settle_fields(fields, row.time_ms, row.is_historical, message, &mut place);
        }
        Ok(())
    }
}

/// One message as it came.
struct Message<'a> {
    topic: &'a str,
    payload: &'a [u8],
    arrival_ms: UnixMillis,
}

/// What reading one message works with, and where its outcomes go.
struct Place<'a> {
    captures: Captures<'a>,
    scratch: &'a mut Scratch,
    /// Where this message's outcomes begin.
    first: usize,
    outcomes: &'a mut Vec<Outcome>,
}

/// Room to work in, kept from message to message.
#[derive(Debug, Default)]
struct Scratch {
    stream: String,
    bytes: Vec<u8>,
    /// Streams of all inputs together.
    streams: usize,
}

/// What is known of a reading before its stream says which channels are missing: `NaN` for those.
struct Row {
    time_ms: UnixMillis,
    values: Vec<f64>,
    known_normal: bool,
    /// By the producer's own name, if the input maps one.
    id: Option<u64>,
    /// It tells of a time that is gone, and says nothing of how things are now.
    is_historical: bool,
}

/// One input, made ready.
#[derive(Debug)]
struct Compiled {
    topic: TopicPattern,
    key: StreamKey,
    kind: Kind,
    missing: Missing,
    shedding: Option<Shedding>,
    channels: Channels,
    streams: Streams,
}

#[derive(Debug)]
enum Kind {
    Json(Json),
    Value(Option<StreamKey>),
    Influx(TimeUnit),
    Senml,
    Sparkplug,
}

impl Compiled {
    fn new(input: &Input) -> Self {
        Self {
            topic: input.topic.clone(),
            key: input.key.clone(),
            kind: match &input.format {
                Format::Json => Kind::Json(Json::new(input)),
                Format::Value { field } => Kind::Value(field.clone()),
                Format::Influx(unit) => Kind::Influx(*unit),
                Format::Senml => Kind::Senml,
                Format::SparkplugB => Kind::Sparkplug,
            },
            missing: input.missing,
            shedding: input.shedding,
            channels: Channels::new(&input.features),
            streams: Streams::default(),
        }
    }

    fn subscription(&self) -> TopicPattern {
        match self.kind {
            Kind::Sparkplug => self.topic.sparkplug_nodes(),
            Kind::Json(_) | Kind::Value(_) | Kind::Influx(_) | Kind::Senml => self.topic.clone(),
        }
    }

    fn name_stream<'n>(
        &'n self,
        captures: &Captures<'n>,
        named: impl Fn(&str) -> Option<&'n str>,
        scratch: &mut Scratch,
    ) -> bool {
        scratch.stream.clear();
        self.key.write(captures, named, &mut scratch.stream)
    }

    fn read(&mut self, message: &Message<'_>, place: &mut Place<'_>) -> Result<(), Rejection> {
        match &self.kind {
            Kind::Json(json) => {
                if !self.name_stream(&place.captures, |_| None, place.scratch) {
                    return Err(Rejection::BadStreamName);
                }
                let row = json.read(&self.channels, message, &place.scratch.stream, &mut place.scratch.bytes)?;
                self.settle(row, message, place);
                Ok(())
            }
            Kind::Value(field) => {
                if !self.name_stream(&place.captures, |_| None, place.scratch) {
                    return Err(Rejection::BadStreamName);
                }
                let mut name = String::new();
                if let Some(field) = field {
                    field.write(&place.captures, |_| None, &mut name);
                }
                let value = fields::of_text(message.payload)?;
                self.settle_fields([(name.as_str(), &value)].into_iter(), message.arrival_ms, false, message, place);
                Ok(())
            }
            Kind::Influx(unit) => self.read_lines(*unit, message, place),
            Kind::Senml => self.read_senml(message, place),
            // It went another way.
            Kind::Sparkplug => Err(Rejection::UnknownTopic),
        }
    }

    fn read_lines(&mut self, unit: TimeUnit, message: &Message<'_>, place: &mut Place<'_>) -> Result<(), Rejection> {
        for line in influx::lines(message.payload)? {
            match line.and_then(|line| Ok((line.time_ms(unit, message.arrival_ms)?, line))) {
                Ok((time_ms, line)) => {
                    if self.name_stream(&place.captures, |name| line.named(name), place.scratch) {
                        self.settle_fields(line.fields(), time_ms, false, message, place);
                    } else {
                        place.outcomes.push(Outcome::Rejected(Rejection::BadStreamName));
                    }
                }
                Err(rejection) => place.outcomes.push(Outcome::Rejected(rejection)),
            }
        }
        Ok(())
    }

    fn read_senml(&mut self, message: &Message<'_>, place: &mut Place<'_>) -> Result<(), Rejection> {
        for group in senml::read(message.payload, message.arrival_ms)? {
            let base = group.base();
            if self.name_stream(&place.captures, |_| Some(base), place.scratch) {
                self.settle_fields(group.fields(), group.time_ms, false, message, place);
            } else {
                place.outcomes.push(Outcome::Rejected(Rejection::BadStreamName));
            }
        }
        Ok(())
    }

    /// Settles a reading of the stream that was just named, from values by name.
    fn settle_fields<'f>(
        &mut self,
        fields: impl Iterator<Item = (&'f str, &'f Found<'f>)>,
        time_ms: UnixMillis,
        is_historical: bool,
        message: &Message<'_>,
        place: &mut Place<'_>,
    ) {
        match self.channels.by_name(fields) {
            Ok(values) => {
                let row = Row { time_ms, values, known_normal: false, id: None, is_historical };
                self.settle(row, message, place);
            }
            Err(rejection) => place.outcomes.push(Outcome::Rejected(rejection)),
        }
    }

    /// Completes a row of the stream that was just named, and gives it its name.
    fn settle(&mut self, mut row: Row, message: &Message<'_>, place: &mut Place<'_>) {
        let Scratch { stream, bytes, streams } = &mut *place.scratch;
        let settled = self.streams.settle(stream, streams, self.channels.features(), self.missing, &mut row);
        let outcome = match settled {
            Ok(Settled::Whole(schema)) => {
                let which = (place.outcomes.len() - place.first) as u64;
                let unnamed =
                    || hash(bytes, b'p', message.topic, message.payload).wrapping_add(which.wrapping_mul(STEP));
                Outcome::Reading(Decoded {
                    schema,
                    time_ms: row.time_ms,
                    values: row.values,
                    known_normal: row.known_normal,
                    shedding: self.shedding,
                    id: row.id.unwrap_or_else(unnamed),
                    has_producer_id: row.id.is_some(),
                })
            }
            Ok(Settled::Held(held)) => Outcome::Held(held),
            Err(rejection) => Outcome::Rejected(rejection),
        };
        place.outcomes.push(outcome);
    }
}

/// Between the ids of two readings of one message: odd, and spread over all bits (2^64 / golden ratio).
const STEP: u64 = 0x9e37_79b9_7f4a_7c15;

/// The first 8 bytes of the BLAKE3 hash of the kind, the length of `scope`, `scope` and `content`, so that no two
/// different triples are hashed as the same bytes. `bytes` is only room to work in.
fn hash(bytes: &mut Vec<u8>, kind: u8, scope: &str, content: &[u8]) -> u64 {
    bytes.clear();
    bytes.push(kind);
    bytes.extend_from_slice(&(scope.len() as u64).to_le_bytes());
    bytes.extend_from_slice(scope.as_bytes());
    bytes.extend_from_slice(content);
    let [a, b, c, d, e, f, g, h, ..] = Digest::of(bytes).0;
    u64::from_le_bytes([a, b, c, d, e, f, g, h])
}

#[cfg(test)]
mod tests;
