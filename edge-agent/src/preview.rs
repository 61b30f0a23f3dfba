//! What messages become by a configuration, and why some become nothing: for `edge-agent try`.

use std::collections::BTreeMap;
use std::fmt::Write;

use chrono::{DateTime, SecondsFormat};
use serde_json::{Value, json};
use shared::event::UnixMillis;

use crate::config::input::Input;
use crate::ingest::payload::{Decoded, Decoder, Outcome};

/// Bytes of a message that became nothing, as they are shown.
const SHOWN_BYTES: usize = 160;

/// A configuration's inputs, tried out.
#[derive(Debug)]
pub struct Preview {
    inputs: Vec<Input>,
    decoder: Decoder,
    messages: u64,
    readings: u64,
    held: u64,
    rejected: BTreeMap<&'static str, u64>,
}

/// One message, and what became of it.
#[derive(Debug, Clone, PartialEq)]
pub struct Seen {
    topic: String,
    /// The beginning of its content.
    payload: String,
    /// The input that its topic is of.
    input: Option<String>,
    /// The units of that input's channels, in their order.
    units: Vec<Option<String>>,
    outcomes: Vec<Outcome>,
}

impl Preview {
    /// Nothing was tried yet.
    #[must_use]
    pub fn new(inputs: &[Input]) -> Self {
        Self {
            inputs: inputs.to_vec(),
            decoder: Decoder::new(inputs),
            messages: 0,
            readings: 0,
            held: 0,
            rejected: BTreeMap::new(),
        }
    }

    /// The MQTT subscription filters.
    #[must_use]
    pub fn filters(&self) -> Vec<String> {
        self.decoder.filters()
    }

    /// What becomes of a message that came at `arrival_ms`. Nothing is published for it.
    pub fn see(&mut self, topic: &str, payload: &[u8], arrival_ms: UnixMillis) -> Seen {
        let mut outcomes = Vec::new();
        self.decoder.decode(topic, payload, arrival_ms, &mut outcomes);
        self.decoder.take_requests().for_each(drop);
        self.messages += 1;
        for outcome in &outcomes {
            match outcome {
                Outcome::Reading(_) => self.readings += 1,
                Outcome::Held(_) => self.held += 1,
                Outcome::Rejected(rejection) => *self.rejected.entry(rejection.reason()).or_default() += 1,
            }
        }
        let input = self.inputs.iter().find(|input| input.topic.captures(topic).is_some());
        let units = input.map(|input| input.features.iter().map(|feature| feature.unit.clone()).collect());
        Seen {
            topic: topic.to_owned(),
            payload: beginning(payload),
            input: input.map(|input| input.name.clone()),
            units: units.unwrap_or_default(),
            outcomes,
        }
    }

    /// What became of all of them, in a line.
    #[must_use]
    pub fn summary(&self) -> String {
        let mut text = format!("{} messages: {} readings, {} held", self.messages, self.readings, self.held);
        let rejected: u64 = self.rejected.values().sum();
        write!(text, ", {rejected} rejected").ok();
        if rejected > 0 {
            let reasons: Vec<String> =
                self.rejected.iter().map(|(reason, count)| format!("{reason} {count}")).collect();
            write!(text, " ({})", reasons.join(", ")).ok();
        }
        text
    }

    /// Readings among them.
    #[must_use]
    pub const fn readings(&self) -> u64 {
        self.readings
    }

    /// Messages seen.
    #[must_use]
    pub const fn messages(&self) -> u64 {
        self.messages
    }
}

impl Seen {
    /// Whether a part of it became nothing.
    #[must_use]
    pub fn is_rejected(&self) -> bool {
        self.outcomes.iter().any(|outcome| matches!(outcome, Outcome::Rejected(_)))
    }

    /// For people: the topic, and a line for each outcome.
    #[must_use]
    pub fn to_text(&self) -> String {
        let input = self.input.as_ref().map_or_else(String::new, |input| format!("  (input {input})"));
        let lines = self.outcomes.iter().map(|outcome| match outcome {
            Outcome::Reading(decoded) => self.reading(decoded),
            Outcome::Held(held) => format!("held      {held}"),
            Outcome::Rejected(rejection) => {
                format!("rejected  {}: {rejection}\n            {}", rejection.reason(), self.payload)
            }
        });
        std::iter::once(format!("{}{input}", self.topic)).chain(lines).collect::<Vec<_>>().join("\n  ")
    }

    fn reading(&self, decoded: &Decoded) -> String {
        let mut text = format!("reading   {}  {}", decoded.schema.stream, time(decoded.time_ms));
        for (index, (channel, value)) in channels(decoded).enumerate() {
            let unit = self.units.get(index).and_then(Option::as_deref);
            write!(text, "  {channel} {value}").ok();
            if let Some(unit) = unit {
                write!(text, " {unit}").ok();
            }
        }
        text
    }

    /// For programs.
    #[must_use]
    pub fn to_json(&self) -> Value {
        let outcome = |outcome: &Outcome| match outcome {
            Outcome::Reading(decoded) => json!({ "reading": {
                "stream": decoded.schema.stream.as_str(),
                "time": time(decoded.time_ms),
                "values": channels(decoded).map(|(channel, value)| (channel.to_owned(), json!(value)))
                    .collect::<serde_json::Map<_, _>>(),
                "known_normal": decoded.known_normal,
            }}),
            Outcome::Held(held) => json!({ "held": held.to_string() }),
            Outcome::Rejected(rejection) => {
                json!({ "rejected": { "reason": rejection.reason(), "problem": rejection.to_string() } })
            }
        };
        json!({
            "topic": self.topic,
            "input": self.input,
            "payload": self.payload,
            "outcomes": self.outcomes.iter().map(outcome).collect::<Vec<_>>(),
        })
    }
}

fn channels(decoded: &Decoded) -> impl Iterator<Item = (&str, f64)> {
    decoded.schema.channels.iter().map(|channel| channel.as_str()).zip(decoded.values.iter().copied())
}

fn time(time_ms: UnixMillis) -> String {
    DateTime::from_timestamp_millis(time_ms).unwrap_or_default().to_rfc3339_opts(SecondsFormat::Millis, true)
}

/// The beginning of a payload in one line; bytes if it is no text.
fn beginning(payload: &[u8]) -> String {
    let shown = &payload[..payload.len().min(SHOWN_BYTES)];
    let more = if payload.len() > SHOWN_BYTES { "..." } else { "" };
    let text = String::from_utf8_lossy(shown);
    let is_text = !text.chars().any(|c| c.is_control() && !c.is_whitespace() || c == char::REPLACEMENT_CHARACTER);
    if is_text {
        return text.split_whitespace().collect::<Vec<_>>().join(" ") + more;
    }
    let bytes = shown.iter().take(SHOWN_BYTES / 3).fold(String::new(), |mut hex, byte| {
        write!(hex, "{byte:02x} ").ok();
        hex
    });
    format!("{} bytes: {bytes}...", payload.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use shared::config::Source;
    use std::path::Path;

    fn preview() -> Preview {
        let text = include_str!("../../deploy/config/agent.toml").to_owned();
        let config = crate::config::Config::parse(&Source::new(Path::new("agent.toml"), text)).expect("valid");
        Preview::new(&config.inputs)
    }

    #[test]
    fn a_message_is_shown_with_what_became_of_it() {
        let mut preview = preview();
        let good =
            br#"{"ts": 1700000000000, "id": 1, "flow": 12.5, "motor": {"phase currents": [3.25]}, "running": "ON"}"#;
        let seen = preview.see("plant/l1/p3/telemetry", good, 0);
        assert_eq!(
            seen.to_text(),
            "plant/l1/p3/telemetry  (input pumps)\n  \
             reading   l1/p3  2023-11-14T22:13:20.000Z  flow 12.5 l/min  current 3.25 A  running 1"
        );
        assert_eq!(seen.to_json()["outcomes"][0]["reading"]["values"]["current"], 3.25);
        let seen = preview.see("plant/l1/p3/telemetry", b"{\"ts\": 1700000000000,\n \"id\": 2}", 0);
        assert_eq!(
            seen.to_text(),
            "plant/l1/p3/telemetry  (input pumps)\n  \
             rejected  missing_channel: the message has no value for the channel \"flow\"\n            \
             {\"ts\": 1700000000000, \"id\": 2}"
        );
        let seen = preview.see("elsewhere", &[0, 255, 7], 0);
        assert_eq!(seen.to_json()["outcomes"][0]["rejected"]["reason"], "unknown_topic");
        assert!(seen.to_text().ends_with("3 bytes: 00 ff 07 ..."), "{}", seen.to_text());
        assert_eq!(
            preview.summary(),
            "3 messages: 1 readings, 0 held, 2 rejected (missing_channel 1, unknown_topic 1)"
        );
    }
}
