//! From a topic and bytes to a reading, or to a rejection that is counted.
//!
//! Topics and paths are compiled once. A message is read in one pass that builds only what the reading needs, so that
//! a box that takes tens of thousands of messages a second has time left for its models.

mod extract;
mod time;

use std::collections::BTreeMap;
use std::sync::Arc;

use shared::event::{StreamSchema, UnixMillis};
use shared::ids::{ChannelName, Digest, StreamId};

use crate::config::topic::{StreamKey, TopicPattern};
use crate::config::{Feature, Input, PACKET_BYTES, TimeUnit};
use crate::core::spool::Shedding;
use extract::{Extractor, Found};

/// Streams of one agent: a plant's worth of machines. Each holds a window and a model's state in memory, and a topic
/// that makes up names must not fill it.
pub const MAX_STREAMS: usize = 4096;
/// Bytes of one message: the largest packet that can be configured.
pub const MAX_PAYLOAD_BYTES: usize = *PACKET_BYTES.end() as usize;

/// Turns messages into readings, by the configured inputs.
#[derive(Debug)]
pub struct Decoder {
    inputs: Vec<Compiled>,
    /// Streams of all inputs together.
    streams: usize,
    stream_name: String,
    id_bytes: Vec<u8>,
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
    /// maps one, else from the topic and the payload.
    pub id: u64,
    /// Whether `id` comes from the producer's own: only then do equal ids mean one message for certain.
    pub has_producer_id: bool,
}

/// Why a message is no reading.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Rejection {
    /// No input's topic matches.
    #[error("no input takes this topic")]
    UnknownTopic,
    /// The payload is not one JSON value.
    #[error("the payload is not JSON")]
    NotJson,
    /// The input maps a time, and the message has none.
    #[error("the message has no time")]
    MissingTime,
    /// The time is not in the input's unit, or outside the years 1 to 9999.
    #[error("the message's time is not in the configured unit, or not between the years 1 and 9999")]
    BadTime,
    /// The message has no value for the channel.
    #[error("the message has no value for the channel {0:?}")]
    MissingChannel(ChannelName),
    /// The channel's value is neither a number nor a boolean.
    #[error("the value of the channel {0:?} is no number")]
    NotANumber(ChannelName),
    /// The channel's value is below its `min`, above its `max`, or too large to be counted.
    #[error("the value of the channel {0:?} is out of range")]
    OutOfRange(ChannelName),
    /// The topic's captures cannot name a stream.
    #[error("the topic gives no stream name: a captured level is empty, too long or holds a control character")]
    BadStreamName,
    /// The payload is larger than any reading.
    #[error("the payload is larger than {MAX_PAYLOAD_BYTES} bytes")]
    TooLarge,
    /// The packet is larger than the configuration allows; it was not held.
    #[error("the message is a packet of {bytes} bytes; mqtt.max_packet_bytes allows {max}")]
    Oversized {
        /// Its size.
        bytes: usize,
        /// The limit.
        max: u32,
    },
    /// The message would open one stream more than there may be.
    #[error("there are {MAX_STREAMS} streams already")]
    TooManyStreams,
    /// What should say whether the machine runs normally is not a boolean.
    #[error("the known-normal mark is neither true nor false")]
    BadMark,
    /// The input maps the producer's id, and the message has none or one that is no string or integer.
    #[error("the message's id is missing, empty, or neither a string nor an integer")]
    BadId,
}

impl Rejection {
    /// The reason's name in counters.
    #[must_use]
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::UnknownTopic => "unknown_topic",
            Self::NotJson => "not_json",
            Self::MissingTime => "missing_time",
            Self::BadTime => "bad_time",
            Self::MissingChannel(_) => "missing_channel",
            Self::NotANumber(_) => "not_a_number",
            Self::OutOfRange(_) => "out_of_range",
            Self::BadStreamName => "bad_stream_name",
            Self::TooLarge | Self::Oversized { .. } => "too_large",
            Self::TooManyStreams => "too_many_streams",
            Self::BadMark => "bad_mark",
            Self::BadId => "bad_id",
        }
    }
}

impl Decoder {
    /// A decoder for `inputs`; the first whose topic matches takes a message.
    #[must_use]
    pub fn new(inputs: &[Input]) -> Self {
        let inputs = inputs.iter().map(Compiled::new).collect();
        Self { inputs, streams: 0, stream_name: String::new(), id_bytes: Vec::new() }
    }

    /// The MQTT subscription filters. One that another covers is left out: some brokers deliver a message once for
    /// each filter that matches.
    #[must_use]
    pub fn filters(&self) -> Vec<String> {
        let mut kept: Vec<&TopicPattern> = Vec::new();
        for input in &self.inputs {
            if !kept.iter().any(|other| other.covers(&input.topic)) {
                kept.retain(|other| !input.topic.covers(other));
                kept.push(&input.topic);
            }
        }
        kept.into_iter().map(TopicPattern::filter).collect()
    }

    /// The reading in one message that came at `arrival_ms`.
    ///
    /// # Errors
    /// Why it is none. Nothing of it is remembered then.
    pub fn decode(&mut self, topic: &str, payload: &[u8], arrival_ms: UnixMillis) -> Result<Decoded, Rejection> {
        let matching = self.inputs.iter_mut().find_map(|input| Some((input.topic.captures(topic)?, input)));
        let (captures, input) = matching.ok_or(Rejection::UnknownTopic)?;
        if payload.len() > MAX_PAYLOAD_BYTES {
            return Err(Rejection::TooLarge);
        }
        self.stream_name.clear();
        if !input.key.write(&captures, &mut self.stream_name) {
            return Err(Rejection::BadStreamName);
        }
        let found = input.extractor.extract(payload).ok_or(Rejection::NotJson)?;
        let time_ms = input.time(&found, arrival_ms)?;
        let values = input.values(&found)?;
        let known_normal = input.known_normal(&found)?;
        let id = input.id(&found, &self.stream_name, &mut self.id_bytes)?;
        let schema = input.schema(&self.stream_name, &mut self.streams)?;
        Ok(Decoded {
            schema,
            time_ms,
            values,
            known_normal,
            shedding: input.shedding,
            id: id.unwrap_or_else(|| hash(&mut self.id_bytes, b'p', topic, payload)),
            has_producer_id: id.is_some(),
        })
    }
}

/// One input, its paths resolved to slots of its extractor.
#[derive(Debug)]
struct Compiled {
    topic: TopicPattern,
    key: StreamKey,
    extractor: Extractor,
    time: Option<(usize, TimeUnit)>,
    known_normal: Option<usize>,
    shedding: Option<Shedding>,
    id: Option<usize>,
    channels: Vec<(usize, Feature)>,
    schemas: BTreeMap<String, Arc<StreamSchema>>,
}

impl Compiled {
    fn new(input: &Input) -> Self {
        let mut extractor = Extractor::default();
        Self {
            topic: input.topic.clone(),
            key: input.key.clone(),
            time: input.time.as_ref().map(|time| (extractor.add(&time.path), time.unit)),
            known_normal: input.known_normal.as_ref().map(|path| extractor.add(path)),
            shedding: input.shedding,
            id: input.id.as_ref().map(|path| extractor.add(path)),
            channels: input.features.iter().map(|feature| (extractor.add(&feature.path), feature.clone())).collect(),
            extractor,
            schemas: BTreeMap::new(),
        }
    }

    fn time(&self, found: &[Found<'_>], arrival_ms: UnixMillis) -> Result<UnixMillis, Rejection> {
        let Some((slot, unit)) = self.time else { return Ok(arrival_ms) };
        if found[slot] == Found::Nothing {
            return Err(Rejection::MissingTime);
        }
        time::parse(&found[slot], unit).ok_or(Rejection::BadTime)
    }

    fn values(&self, found: &[Found<'_>]) -> Result<Vec<f64>, Rejection> {
        self.channels.iter().map(|(slot, feature)| value(&found[*slot], feature)).collect()
    }

    fn known_normal(&self, found: &[Found<'_>]) -> Result<bool, Rejection> {
        match self.known_normal.map_or(&Found::Nothing, |slot| &found[slot]) {
            Found::Nothing => Ok(false),
            Found::Bool(mark) => Ok(*mark),
            Found::Integer(_) | Found::Number(_) | Found::Text(_) | Found::Many => Err(Rejection::BadMark),
        }
    }

    /// The hash of the producer's own id, if the input maps one.
    fn id(&self, found: &[Found<'_>], stream: &str, bytes: &mut Vec<u8>) -> Result<Option<u64>, Rejection> {
        let Some(slot) = self.id else { return Ok(None) };
        match &found[slot] {
            Found::Integer(id) => Ok(Some(hash(bytes, b'i', stream, &id.to_le_bytes()))),
            Found::Text(id) if !id.is_empty() => Ok(Some(hash(bytes, b't', stream, id.as_bytes()))),
            Found::Nothing | Found::Bool(_) | Found::Number(_) | Found::Text(_) | Found::Many => Err(Rejection::BadId),
        }
    }

    fn schema(&mut self, stream: &str, streams: &mut usize) -> Result<Arc<StreamSchema>, Rejection> {
        if let Some(schema) = self.schemas.get(stream) {
            return Ok(Arc::clone(schema));
        }
        let name = StreamId::new(stream).map_err(|_| Rejection::BadStreamName)?;
        if *streams == MAX_STREAMS {
            return Err(Rejection::TooManyStreams);
        }
        *streams += 1;
        let channels = self.channels.iter().map(|(_, feature)| feature.name.clone()).collect();
        let schema = Arc::new(StreamSchema { stream: name, channels });
        self.schemas.insert(stream.to_owned(), Arc::clone(&schema));
        Ok(schema)
    }
}

fn value(found: &Found<'_>, feature: &Feature) -> Result<f64, Rejection> {
    let raw = match found {
        Found::Nothing => return Err(Rejection::MissingChannel(feature.name.clone())),
        Found::Text(_) | Found::Many => return Err(Rejection::NotANumber(feature.name.clone())),
        Found::Bool(value) => f64::from(u8::from(*value)),
        Found::Integer(value) => *value as f64,
        Found::Number(value) => *value,
    };
    let value = raw * feature.scale + feature.offset;
    if value.is_finite() && feature.min <= value && value <= feature.max {
        Ok(value)
    } else {
        Err(Rejection::OutOfRange(feature.name.clone()))
    }
}

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
mod tests {
    use super::*;
    use proptest::prelude::*;
    use shared::config::Source;
    use std::path::Path;

    const ARRIVAL_MS: i64 = 5_000;

    const PUMPS: &str = r#"
name = "pumps"
topic = "plant/{line}/{pump}/telemetry"
key = "{line}/{pump}"
time = { path = "$.ts", unit = "ms" }
known_normal = "$.ok"
id = "$.id"
feature = [
  { name = "flow", path = "$.flow", scale = 0.5, offset = 1.0, min = 0.0, max = 100.0 },
  { name = "x y", path = "$['x y'].v[1]" },
]
"#;

    fn decoder(inputs: &[&str]) -> Decoder {
        let head = "[agent]\nname = 'box'\nstate_directory = 's'\n[mqtt]\nurl = 'mqtt://b'\n";
        let inputs: String = inputs.iter().map(|input| format!("[[input]]\n{input}\n")).collect();
        let source = Source::new(Path::new("agent.toml"), format!("{head}{inputs}"));
        let config = crate::config::Config::parse(&source).expect("a valid configuration");
        Decoder::new(&config.inputs)
    }

    fn input(topic: &str, key: &str) -> String {
        let name = topic.replace(|c: char| !c.is_ascii_alphanumeric(), "_");
        format!("name = '{name}'\ntopic = '{topic}'\nkey = '{key}'\nfeature = [{{name = 'v', path = '$.v'}}]")
    }

    const GOOD: &str = r#"{"ts": 1700000000000, "id": "m-1", "flow": 8, "x y": {"v": [0, true]}, "ok": true}"#;

    fn pump(payload: &str) -> Result<Decoded, Rejection> {
        decoder(&[PUMPS]).decode("plant/l1/p3/telemetry", payload.as_bytes(), ARRIVAL_MS)
    }

    fn pump_with(right: &str, wrong: &str) -> Rejection {
        assert!(GOOD.contains(right));
        pump(&GOOD.replace(right, wrong)).expect_err("rejected")
    }

    fn channel(name: &str) -> ChannelName {
        ChannelName::new(name).expect("valid")
    }

    #[test]
    fn a_message_becomes_a_reading_of_its_stream() {
        let decoded = pump(GOOD).expect("a reading");
        assert_eq!(decoded.schema.stream.as_str(), "l1/p3");
        assert_eq!(decoded.schema.channels, [channel("flow"), channel("x y")]);
        assert_eq!(decoded.time_ms, 1_700_000_000_000);
        assert_eq!(decoded.values, [8.0 * 0.5 + 1.0, 1.0], "scaled, moved; true is 1");
        assert!(decoded.known_normal && decoded.has_producer_id);
    }

    #[test]
    fn what_an_input_does_not_map_has_a_default() {
        let mut decoder = decoder(&[&input("t/{a}", "{a}")]);
        let decoded = decoder.decode("t/x", br#"{"v": false, "id": 3}"#, ARRIVAL_MS).expect("a reading");
        assert_eq!((decoded.time_ms, decoded.values.as_slice()), (ARRIVAL_MS, &[0.0][..]));
        assert!(!decoded.known_normal && !decoded.has_producer_id);
        assert!(!pump(&GOOD.replace(", \"ok\": true", "")).expect("a mark may be missing").known_normal);
    }

    #[test]
    fn the_schema_of_a_stream_is_made_once() {
        let mut decoder = decoder(&[PUMPS]);
        let mut schema = |topic: &str| decoder.decode(topic, GOOD.as_bytes(), 0).expect("a reading").schema;
        let first = schema("plant/l1/p3/telemetry");
        assert!(Arc::ptr_eq(&first, &schema("plant/l1/p3/telemetry")));
        assert_eq!(schema("plant/l1/p4/telemetry").stream.as_str(), "l1/p4");
    }

    #[test]
    fn the_first_input_that_matches_takes_the_message() {
        let mut decoder =
            decoder(&[&input("a/special", "special"), &input("a/{x}", "{x}"), &input("b/{x}/#", "b-{x}")]);
        let mut stream = |topic: &str| decoder.decode(topic, b"{\"v\":1}", 0).map(|d| d.schema.stream.to_string());
        assert_eq!(stream("a/special").as_deref(), Ok("special"));
        assert_eq!(stream("a/other").as_deref(), Ok("other"));
        assert_eq!(stream("b/1/x/y").as_deref(), Ok("b-1"));
        assert_eq!(stream("b/1").as_deref(), Ok("b-1"));
        assert_eq!(stream("c/1"), Err(Rejection::UnknownTopic));
    }

    #[test]
    fn filters_cover_every_input_and_none_twice() {
        let inputs = [input("a/special", "k"), input("a/{x}", "{x}"), input("$SYS/load", "k"), input("+/+/b", "k")];
        let inputs: Vec<&str> = inputs.iter().map(String::as_str).collect();
        assert_eq!(decoder(&inputs).filters(), ["a/+", "$SYS/load", "+/+/b"]);
    }

    #[test]
    fn ids_are_stable_and_differ_where_the_message_differs() {
        let id = |payload: &str| pump(payload).expect("a reading").id;
        assert_eq!(id(GOOD), 0xe671_36d6_d3bc_e11b, "the same after a restart and in every version");
        assert_eq!(id(GOOD), id(&GOOD.replace("\"flow\": 8", "\"flow\": 9")), "the producer's id decides");
        assert_ne!(id(GOOD), id(&GOOD.replace("m-1", "m-2")));
        assert_ne!(id(&GOOD.replace("\"m-1\"", "7")), id(&GOOD.replace("\"m-1\"", "\"7\"")));
        let mut other = decoder(&[PUMPS]);
        let elsewhere = other.decode("plant/l1/p4/telemetry", GOOD.as_bytes(), 0).expect("a reading");
        assert_ne!(id(GOOD), elsewhere.id, "another stream has its own ids");
    }

    #[test]
    fn without_a_producer_id_topic_and_payload_decide() {
        let mut decoder = decoder(&[&input("{a}/#", "{a}")]);
        let mut id =
            |topic: &str, payload: &str, at| decoder.decode(topic, payload.as_bytes(), at).expect("a reading").id;
        let first = id("a/b", "{\"v\":1}", 0);
        assert_eq!(first, 0x9f59_d903_288d_12ed, "the same after a restart and in every version");
        assert_eq!(first, id("a/b", "{\"v\":1}", 99));
        assert_ne!(first, id("a/c", "{\"v\":1}", 0));
        assert_ne!(first, id("a/b", "{\"v\":2}", 0));
    }

    #[test]
    fn every_wrong_message_is_rejected_for_its_reason() {
        let other_topic = decoder(&[PUMPS]).decode("plant/l1/p3", GOOD.as_bytes(), 0);
        assert_eq!(other_topic, Err(Rejection::UnknownTopic));
        assert_eq!(pump("not JSON"), Err(Rejection::NotJson));
        assert_eq!(pump_with("\"ts\"", "\"t\""), Rejection::MissingTime);
        assert_eq!(pump_with("1700000000000", "null"), Rejection::MissingTime);
        assert_eq!(pump_with("1700000000000", "\"soon\""), Rejection::BadTime);
        assert_eq!(pump_with("1700000000000", "9e18"), Rejection::BadTime);
        assert_eq!(pump_with("\"flow\"", "\"f\""), Rejection::MissingChannel(channel("flow")));
        assert_eq!(pump_with("[0, true]", "[0]"), Rejection::MissingChannel(channel("x y")));
        assert_eq!(pump_with("8", "\"8\""), Rejection::NotANumber(channel("flow")));
        assert_eq!(pump_with("8", "[8]"), Rejection::NotANumber(channel("flow")));
        assert_eq!(pump_with("8", "-2.001"), Rejection::OutOfRange(channel("flow")));
        assert_eq!(pump_with("8", "198.001"), Rejection::OutOfRange(channel("flow")));
        assert!(pump(&GOOD.replace('8', "198")).is_ok(), "the bounds belong to the range, after scale and offset");
        assert_eq!(pump_with("\"ok\": true", "\"ok\": 1"), Rejection::BadMark);
        assert_eq!(pump_with("\"m-1\"", "\"\""), Rejection::BadId);
        assert_eq!(pump_with("\"m-1\"", "1.5"), Rejection::BadId);
        assert_eq!(pump_with("\"id\"", "\"i\""), Rejection::BadId);
        assert_eq!(pump(&format!("{GOOD}{}", " ".repeat(MAX_PAYLOAD_BYTES))), Err(Rejection::TooLarge));
    }

    #[test]
    fn a_result_too_large_to_be_counted_is_out_of_range() {
        let text = "name = 'a'\ntopic = 'a'\nkey = 'a'\nfeature = [{name = 'v', path = '$', scale = 1e308}]";
        let rejection = decoder(&[text]).decode("a", b"1e3", 0);
        assert_eq!(rejection, Err(Rejection::OutOfRange(channel("v"))));
    }

    #[test]
    fn a_topic_that_cannot_name_a_stream_is_rejected() {
        let mut decoder = decoder(&[&input("t/{a}", "{a}")]);
        for level in ["", "a\u{7}b", &"x".repeat(300)] {
            let decoded = decoder.decode(&format!("t/{level}"), b"{\"v\":1}", 0);
            assert_eq!(decoded, Err(Rejection::BadStreamName), "{level:?}");
        }
    }

    #[test]
    fn streams_are_bounded_and_only_readings_open_one() {
        let mut decoder = decoder(&[&input("t/{a}", "{a}"), &input("u/{a}", "{a}")]);
        for n in 0..MAX_STREAMS {
            assert_eq!(decoder.decode(&format!("t/bad{n}"), b"{}", 0), Err(Rejection::MissingChannel(channel("v"))));
            assert!(decoder.decode(&format!("t/{n}"), b"{\"v\":1}", 0).is_ok());
        }
        assert_eq!(decoder.decode("u/0", b"{\"v\":1}", 0), Err(Rejection::TooManyStreams));
        assert!(decoder.decode("t/0", b"{\"v\":1}", 0).is_ok(), "known streams go on");
    }

    #[test]
    fn every_rejection_has_words_and_its_own_reason() {
        let flow = channel("flow");
        let all = [
            Rejection::UnknownTopic,
            Rejection::NotJson,
            Rejection::MissingTime,
            Rejection::BadTime,
            Rejection::MissingChannel(flow.clone()),
            Rejection::NotANumber(flow.clone()),
            Rejection::OutOfRange(flow),
            Rejection::BadStreamName,
            Rejection::TooLarge,
            Rejection::TooManyStreams,
            Rejection::BadMark,
            Rejection::BadId,
        ];
        let reasons: std::collections::BTreeSet<&str> = all.iter().map(Rejection::reason).collect();
        assert_eq!(reasons.len(), all.len());
        assert_eq!(all[6].to_string(), "the value of the channel \"flow\" is out of range");
        assert_eq!(all[8].to_string(), "the payload is larger than 1048576 bytes");
    }

    /// Messages that are often nearly right.
    fn message() -> impl Strategy<Value = Vec<u8>> {
        let damaged = (0..GOOD.len(), proptest::collection::vec(any::<u8>(), 0..4)).prop_map(|(at, bytes)| {
            let mut message = GOOD.as_bytes().to_vec();
            message.splice(at..(at + bytes.len()).min(GOOD.len()), bytes);
            message
        });
        prop_oneof![proptest::collection::vec(any::<u8>(), 0..200), damaged]
    }

    proptest! {
        #[test]
        fn any_topic_and_any_bytes_are_decoded_or_rejected(
            topic in "plant/[^/]{0,3}/[^/]{0,3}/telemetry|.{0,30}", payload in message(), arrival in any::<i64>()
        ) {
            if let Ok(decoded) = decoder(&[PUMPS]).decode(&topic, &payload, arrival) {
                prop_assert_eq!(decoded.values.len(), decoded.schema.channels.len());
                prop_assert!(decoded.values.iter().all(|value| value.is_finite()));
            }
        }
    }
}
