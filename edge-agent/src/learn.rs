//! From what is published to a configuration that takes it in: for `edge-agent learn-input`.
//!
//! Messages are gathered by topic. Topics that hold the same are one input; the levels in which they differ become
//! captures. What it proposes is checked against the messages that it was learnt from.

mod propose;

use std::collections::{BTreeMap, BTreeSet};

use shared::event::UnixMillis;

use crate::config::input::{FormatName, TimeUnit};
use crate::config::is_unit;
use crate::ingest::payload::survey::{Scalar, Survey, as_time};

pub use propose::Proposal;

/// Topics that are told apart: beyond, a broader look says no more.
const MAX_TOPICS: usize = 4096;
/// Fields of one topic.
const MAX_FIELDS: usize = 256;
/// Different texts of one field that are kept.
const MAX_TEXTS: usize = 8;
/// Different values of one field that are kept, to see whether it names messages.
const MAX_DISTINCT: usize = 256;
/// Messages that are kept to check a proposal by, and their bytes together.
const MAX_SAMPLES: usize = 1000;
const MAX_SAMPLE_BYTES: usize = 4 * 1024 * 1024;

/// What was heard so far.
#[derive(Debug, Default)]
pub struct Learner {
    topics: BTreeMap<String, Topic>,
    messages: u64,
    unread: BTreeMap<String, u64>,
    samples: Vec<(String, Vec<u8>, UnixMillis)>,
    sample_bytes: usize,
}

#[derive(Debug)]
struct Topic {
    format: FormatName,
    names: Vec<String>,
    messages: u64,
    first_ms: UnixMillis,
    last_ms: UnixMillis,
    fields: BTreeMap<String, Field>,
}

/// What one field held.
#[derive(Debug, Clone, Default)]
struct Field {
    seen: u64,
    numbers: u64,
    bools: u64,
    least: f64,
    greatest: f64,
    texts: BTreeSet<String>,
    /// What messages said that it is measured in.
    units: BTreeSet<String>,
    distinct: BTreeSet<String>,
    /// How often it was a time near that of arrival, and how it said so.
    times: u64,
    time: Option<(TimeUnit, Option<&'static str>)>,
}

impl Learner {
    /// Messages heard.
    #[must_use]
    pub const fn messages(&self) -> u64 {
        self.messages
    }

    /// Takes a message in that came at `arrival_ms`.
    pub fn hear(&mut self, topic: &str, payload: &[u8], arrival_ms: UnixMillis) {
        self.messages += 1;
        if is_housekeeping(topic) {
            return;
        }
        let Some(survey) = Survey::of(topic, payload) else {
            if self.unread.len() < MAX_TOPICS || self.unread.contains_key(topic) {
                *self.unread.entry(topic.to_owned()).or_default() += 1;
            }
            return;
        };
        if self.samples.len() < MAX_SAMPLES && self.sample_bytes + payload.len() <= MAX_SAMPLE_BYTES {
            self.sample_bytes += payload.len();
            self.samples.push((topic.to_owned(), payload.to_vec(), arrival_ms));
        }
        if !self.topics.contains_key(topic) && self.topics.len() == MAX_TOPICS {
            return;
        }
        let known = self.topics.entry(topic.to_owned()).or_insert_with(|| Topic {
            format: survey.format,
            names: survey.names,
            messages: 0,
            first_ms: arrival_ms,
            last_ms: arrival_ms,
            fields: BTreeMap::new(),
        });
        // A bare text may well follow bare numbers; another format on one topic is another matter, and the first counts.
        if known.format != survey.format {
            return;
        }
        known.messages += 1;
        known.last_ms = arrival_ms;
        for (name, value) in survey.fields {
            if known.fields.contains_key(&name) || known.fields.len() < MAX_FIELDS {
                known.fields.entry(name).or_default().take(&value, arrival_ms);
            }
        }
        for (name, unit) in survey.units {
            let field = known.fields.get_mut(&name).filter(|field| is_unit(&unit) && field.units.len() < MAX_TEXTS);
            if let Some(field) = field {
                field.units.insert(unit);
            }
        }
    }
}

impl Field {
    fn take(&mut self, value: &Scalar, arrival_ms: UnixMillis) {
        self.seen += 1;
        if let Some(time) = as_time(value, arrival_ms) {
            self.times += 1;
            self.time = self.time.or(Some(time));
        }
        let text = match value {
            Scalar::Number(number) => {
                self.least = if self.numbers == 0 { *number } else { self.least.min(*number) };
                self.greatest = if self.numbers == 0 { *number } else { self.greatest.max(*number) };
                self.numbers += 1;
                number.to_string()
            }
            Scalar::Bool(value) => {
                self.bools += 1;
                value.to_string()
            }
            Scalar::Text(text) => {
                if self.texts.len() < MAX_TEXTS {
                    self.texts.insert(text.clone());
                }
                text.clone()
            }
        };
        if self.distinct.len() < MAX_DISTINCT {
            self.distinct.insert(text);
        }
    }

    /// With what another topic of the same input held.
    fn with(mut self, other: &Self) -> Self {
        if other.numbers > 0 {
            self.least = if self.numbers == 0 { other.least } else { self.least.min(other.least) };
            self.greatest = if self.numbers == 0 { other.greatest } else { self.greatest.max(other.greatest) };
        }
        self.seen += other.seen;
        self.numbers += other.numbers;
        self.bools += other.bools;
        self.times += other.times;
        self.time = self.time.or(other.time);
        self.texts.extend(other.texts.iter().take(MAX_TEXTS).cloned());
        self.units.extend(other.units.iter().take(MAX_TEXTS).cloned());
        self
    }

    fn is_time(&self) -> bool {
        self.times == self.seen && self.time.is_some()
    }

    /// Whether every message had another value, as an id does.
    fn tells_messages_apart(&self) -> bool {
        let texts_or_integers =
            self.distinct.iter().all(|text| text.parse::<f64>().is_err() || text.parse::<i64>().is_ok());
        self.seen > 2
            && self.bools == 0
            && texts_or_integers
            && (self.distinct.len() as u64 == self.seen || self.distinct.len() == MAX_DISTINCT)
    }

    /// Texts that stand for numbers, if all of them are words for on and off; with the other word of each pair, which was not
    /// heard yet.
    fn on_and_off(&self) -> Option<BTreeMap<String, u8>> {
        const PAIRS: [(&str, &str); 7] = [
            ("on", "off"),
            ("open", "closed"),
            ("open", "close"),
            ("yes", "no"),
            ("true", "false"),
            ("running", "stopped"),
            ("online", "offline"),
        ];
        let is = |text: &str, word: &str| text.eq_ignore_ascii_case(word);
        let mut all = BTreeMap::new();
        for text in &self.texts {
            let pairs = || PAIRS.iter().filter(|(on, off)| is(text, on) || is(text, off));
            let is_whole = |pair: &&&(&str, &str)| {
                self.texts.iter().any(|other| !is(other, text) && (is(other, pair.0) || is(other, pair.1)))
            };
            let (on, off) = pairs().find(|pair| is_whole(&pair)).or_else(|| pairs().next())?;
            all.insert(written_like(on, text), 1);
            all.insert(written_like(off, text), 0);
        }
        Some(all).filter(|all| !all.is_empty())
    }
}

/// Topics on which software speaks of itself and of its devices, and nothing is measured: attributes of Homie, the bridge of
/// Zigbee2MQTT.
fn is_housekeeping(topic: &str) -> bool {
    topic.starts_with("zigbee2mqtt/bridge/") || topic.split('/').any(|level| level.starts_with('$'))
}

/// A word in upper case, or with its first letter so, if the other is.
fn written_like(word: &str, other: &str) -> String {
    let is_upper = |text: &str| text.chars().all(|c| c.is_ascii_uppercase());
    match other.split_at_checked(1) {
        Some((first, rest)) if is_upper(first) && is_upper(rest) => word.to_ascii_uppercase(),
        Some((first, _)) if is_upper(first) => format!("{}{}", word[..1].to_ascii_uppercase(), &word[1..]),
        Some(_) | None => word.to_owned(),
    }
}

#[cfg(test)]
mod tests;
