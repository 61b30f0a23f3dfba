//! The agent as an edge node of Sparkplug B, without IO: what it says of its streams, how it counts, and when it is born.
//! <https://sparkplug.eclipse.org/specification/version/3.0/>
//!
//! Its metrics are what the model says now of each stream, in a folder of the stream's name, and which model that is. A birth says
//! all of them, data what changed. What no birth has said yet waits for the next one.

pub mod task;

use std::collections::{BTreeMap, BTreeSet};

use shared::event::{Outcome, UnixMillis, Verdict};
use shared::ids::{AgentId, StreamId};

use super::Outgoing;
use super::packets::{Delivery, Presence, Properties};
use super::payload::sparkplug::payload::{Metric, Payload, Value};
use super::payload::sparkplug::{BIRTH_SEQUENCE, NAMESPACE, REBIRTH};
use crate::core::{Millis, Published};

/// Streams that are shown: a birth with all of them stays small enough for every broker.
pub const MAX_STREAMS: usize = 256;
/// Time between two births for metrics that are new, or because somebody asks: a box that starts meets many at once.
const BIRTH_INTERVAL_MS: u64 = 1_000;

/// The edge node.
#[derive(Debug)]
pub struct EdgeNode {
    group: String,
    name: AgentId,
    /// Which of its lives it is in, so that the death of another is not taken for its own.
    life: u8,
    /// The number of its next message.
    sequence: u8,
    is_connected: bool,
    /// When it was born last, in this life.
    born: Option<Millis>,
    /// Something is to be said that no birth has named yet.
    has_news: bool,
    /// Somebody asks for a birth, and understands nothing before it.
    is_asked: bool,
    model: Vec<Shown>,
    streams: BTreeMap<StreamId, Vec<Shown>>,
    /// Those of which something is to be said.
    changed: BTreeSet<StreamId>,
}

/// A metric: how it is, and what was said of it.
#[derive(Debug)]
struct Shown {
    field: &'static str,
    name: String,
    value: Value,
    time_ms: UnixMillis,
    said: Option<Value>,
}

impl EdgeNode {
    /// An edge node that was not born yet. `life` differs from that of the process before, most likely.
    #[must_use]
    pub fn new(group: String, name: AgentId, life: u8) -> Self {
        Self {
            group,
            name,
            life,
            sequence: 0,
            is_connected: false,
            born: None,
            has_news: false,
            is_asked: false,
            model: Vec::new(),
            streams: BTreeMap::new(),
            changed: BTreeSet::new(),
        }
    }

    /// Where it is told what to do.
    #[must_use]
    pub fn commands(&self) -> String {
        self.topic("NCMD")
    }

    /// Another life begins with a connection, which the broker is told the end of.
    pub fn begin_life(&mut self) -> Presence {
        self.life = self.life.wrapping_add(1);
        let Outgoing { topic, payload, .. } = self.death();
        Presence::Mourned { topic, payload }
    }

    /// The connection stands.
    pub fn connected(&mut self) {
        (self.is_connected, self.born) = (true, None);
    }

    /// The connection is gone.
    pub fn disconnected(&mut self) {
        self.is_connected = false;
    }

    /// Takes in what the model says.
    pub fn observe(&mut self, prediction: &Published) {
        let Published { stream, model, time_ms, outcome, .. } = prediction;
        let named = [("model", Value::Text(model.name.to_string())), ("model_version", Value::Int(model.version.0))];
        self.has_news |= show(&mut self.model, None, named, *time_ms);
        if self.streams.len() == MAX_STREAMS && !self.streams.contains_key(stream) {
            return;
        }
        let shown = self.streams.entry(stream.clone()).or_default();
        self.has_news |= match outcome {
            Outcome::Anomaly(Verdict { score, threshold, anomaly }) => {
                let fields = [
                    ("anomaly", Value::Boolean(*anomaly)),
                    ("score", Value::Float(*score)),
                    ("threshold", Value::Float(*threshold)),
                ];
                show(shown, Some(stream), fields, *time_ms)
            }
            Outcome::Label { label, confidence, sure } => {
                let fields = [
                    ("label", Value::Text(label.to_string())),
                    ("confidence", Value::Float(*confidence)),
                    ("sure", Value::Boolean(*sure)),
                ];
                show(shown, Some(stream), fields, *time_ms)
            }
            Outcome::Forecast { values } => {
                // A number that is none has no value; this one is equal to itself, so that it is said once.
                let next = values.first().copied().filter(|value| value.is_finite()).unwrap_or(f32::INFINITY);
                show(shown, Some(stream), [("forecast", Value::Float(next))], *time_ms)
            }
        };
        self.changed.insert(stream.clone());
    }

    /// Does what it is told, if it is one of the things that it does: to be born anew.
    pub fn obey(&mut self, command: &[u8]) {
        let told = |payload: Payload| payload.metrics.iter().any(|metric| metric.sets(REBIRTH));
        self.is_asked |= Payload::read(command).is_ok_and(told);
    }

    /// What is to be said now, if anything is.
    pub fn say(&mut self, now: Millis, unix_ms: UnixMillis) -> Option<Outgoing> {
        if !self.is_connected {
            return None;
        }
        if self.born.is_none() || self.poll_timeout().is_some_and(|due| now >= due) {
            return Some(self.birth(now, unix_ms));
        }
        if self.is_asked {
            return None;
        }
        let mut metrics = Vec::new();
        metrics.extend(self.model.iter_mut().filter_map(Shown::change));
        for stream in std::mem::take(&mut self.changed) {
            let shown = self.streams.get_mut(&stream).into_iter().flatten();
            metrics.extend(shown.filter_map(Shown::change));
        }
        (!metrics.is_empty()).then(|| self.message("NDATA", metrics, unix_ms))
    }

    /// When [`Self::say`] has something to say, whatever comes in meanwhile.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Millis> {
        let born = self.born.filter(|_| self.is_connected && (self.has_news || self.is_asked))?;
        Some(born.plus(BIRTH_INTERVAL_MS))
    }

    /// The end of this life: the last words, or the last will.
    #[must_use]
    pub fn death(&self) -> Outgoing {
        let payload = Payload::write(None, None, vec![self.life(None)]);
        Outgoing { delivery: Delivery::AtLeastOnce, ..said(self.topic("NDEATH"), payload) }
    }

    fn birth(&mut self, now: Millis, unix_ms: UnixMillis) -> Outgoing {
        (self.sequence, self.born) = (0, Some(now));
        (self.has_news, self.is_asked) = (false, false);
        self.changed.clear();
        let rebirth = Metric::said(REBIRTH, &Value::Boolean(false), Some(unix_ms)).in_birth();
        let life = self.life(Some(unix_ms));
        let shown = self.model.iter_mut().chain(self.streams.values_mut().flatten());
        let mut metrics: Vec<Metric> = shown.map(|shown| shown.say().in_birth()).collect();
        metrics.sort_by_key(Metric::time_ms);
        metrics.extend([rebirth, life]);
        self.message("NBIRTH", metrics, unix_ms)
    }

    fn life(&self, time_ms: Option<UnixMillis>) -> Metric {
        Metric::said(BIRTH_SEQUENCE, &Value::Long(u64::from(self.life)), time_ms).in_birth()
    }

    fn message(&mut self, kind: &str, metrics: Vec<Metric>, unix_ms: UnixMillis) -> Outgoing {
        let payload = Payload::write(Some(self.sequence), Some(unix_ms), metrics);
        self.sequence = self.sequence.wrapping_add(1);
        said(self.topic(kind), payload)
    }

    fn topic(&self, kind: &str) -> String {
        format!("{NAMESPACE}/{}/{kind}/{}", self.group, self.name)
    }
}

impl Shown {
    fn say(&mut self) -> Metric {
        self.said = Some(self.value.clone());
        Metric::said(&self.name, &self.value, Some(self.time_ms))
    }

    /// What is to be said of it after its birth.
    fn change(&mut self) -> Option<Metric> {
        let is_changed = self.said.as_ref().is_some_and(|said| *said != self.value);
        is_changed.then(|| self.say())
    }
}

/// Notes how metrics of a folder are; true if a birth has to name them first.
fn show<const N: usize>(
    shown: &mut Vec<Shown>,
    folder: Option<&StreamId>,
    fields: [(&'static str, Value); N],
    time_ms: UnixMillis,
) -> bool {
    let is_known = shown.len() == N && shown.iter().zip(&fields).all(|(shown, (field, _))| shown.field == *field);
    if is_known {
        for (shown, (_, value)) in shown.iter_mut().zip(fields) {
            (shown.value, shown.time_ms) = (value, time_ms);
        }
    } else {
        let name = |field: &str| folder.map_or_else(|| field.to_owned(), |folder| format!("{folder}/{field}"));
        let new = fields.map(|(field, value)| Shown { field, name: name(field), value, time_ms, said: None });
        *shown = new.into();
    }
    !is_known
}

/// As births and data are published (specification 3.0, section 6.4).
fn said(topic: String, payload: Vec<u8>) -> Outgoing {
    let (properties, delivery) = (Properties::default(), Delivery::AtMostOnce);
    Outgoing { topic, payload, properties, retain: false, delivery }
}

#[cfg(test)]
mod tests;
