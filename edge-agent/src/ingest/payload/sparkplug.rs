//! Payloads of Sparkplug B: what edge nodes and their devices report, by the names their births gave.
//! <https://sparkplug.eclipse.org/specification/version/3.0/>
//!
//! Data may name a metric by a number that only the birth explains, and says what changed and no more. So the births
//! of every edge node are remembered, its messages are counted, and a node whose birth is unknown or of which a message
//! is lacking is asked to be born anew.

pub(in crate::ingest) mod payload;
mod units;

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use shared::event::UnixMillis;

use super::extract::Found;
use super::rejection::Rejection;
use crate::ingest::Outgoing;
use crate::ingest::packets::{Delivery, Properties};
use payload::{DataType, Metric, Payload};

/// The first level of every topic.
pub(in crate::ingest) const NAMESPACE: &str = "spBv1.0";
/// Edge nodes of one agent: a plant has a few dozen, and made-up names must not fill the memory.
const MAX_NODES: usize = 1024;
/// Metrics of one edge node and its devices: far more than a gateway reads.
const MAX_METRICS: usize = 16_384;
/// Bytes of one metric's name.
const MAX_NAME_BYTES: usize = 1024;
/// An edge node is asked to be born anew no more often than this: its answer takes a while.
const REBIRTH_INTERVAL_MS: u64 = 10_000;
/// The metric that asks for it (specification 3.0, section 6.4.18).
pub(in crate::ingest) const REBIRTH: &str = "Node Control/Rebirth";
/// The metric that tells one life of an edge node from another.
pub(in crate::ingest) const BIRTH_SEQUENCE: &str = "bdSeq";

/// Where a message is from, and what it is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::ingest) struct SparkplugTopic<'t> {
    group: &'t str,
    kind: Kind,
    node: &'t str,
    device: Option<&'t str>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Birth,
    Data,
    Death,
    /// A command, or something newer.
    Other,
}

impl<'t> SparkplugTopic<'t> {
    /// Reads a topic, if it is one of Sparkplug B's with an edge node in it.
    pub(in crate::ingest) fn parse(topic: &'t str) -> Option<Self> {
        let mut levels = topic.split('/');
        if levels.next() != Some(NAMESPACE) {
            return None;
        }
        let (group, kind, node, device) = (levels.next()?, levels.next()?, levels.next()?, levels.next());
        let kind = match (kind, device) {
            ("NBIRTH", None) | ("DBIRTH", Some(_)) => Kind::Birth,
            ("NDATA", None) | ("DDATA", Some(_)) => Kind::Data,
            ("NDEATH", None) | ("DDEATH", Some(_)) => Kind::Death,
            _ => Kind::Other,
        };
        levels.next().is_none().then_some(Self { group, kind, node, device })
    }
}

/// What one message told.
#[derive(Debug, Default)]
pub(in crate::ingest) struct Told {
    /// What was measured, the past first.
    pub(in crate::ingest) rows: Vec<MetricRow>,
    /// Topics under which nothing is known any more of how things are.
    pub(in crate::ingest) gone: Vec<String>,
}

/// What was measured at one time.
#[derive(Debug)]
pub(in crate::ingest) struct MetricRow {
    pub(in crate::ingest) time_ms: UnixMillis,
    /// It was kept by the device while it was away.
    pub(in crate::ingest) is_historical: bool,
    pub(in crate::ingest) metrics: Vec<(String, Found<'static>)>,
}

/// The metrics of a message that say their names, as those of births do.
pub(in crate::ingest) fn named_metrics(
    topic: &SparkplugTopic<'_>,
    bytes: &[u8],
) -> Option<Vec<(String, Found<'static>)>> {
    if !matches!(topic.kind, Kind::Birth | Kind::Data) {
        return None;
    }
    let payload = Payload::read(bytes).ok()?;
    let metrics = payload.metrics.iter().filter(|metric| !metric.name().is_empty());
    Some(metrics.map(|metric| (metric.name().to_owned(), metric.value(metric.data_type()))).collect())
}

/// What metrics of a message are measured in, as far as it tells.
pub(in crate::ingest) fn told_units(bytes: &[u8]) -> BTreeMap<String, String> {
    units::told(bytes)
}

/// Every edge node that was heard of.
#[derive(Debug, Default)]
pub(in crate::ingest) struct EdgeNodes {
    nodes: BTreeMap<String, EdgeNode>,
    /// The one that is this agent.
    own: Option<String>,
    requests: Vec<Outgoing>,
}

#[derive(Debug, Default)]
struct EdgeNode {
    /// The number of its newest message, as long as its births are known and none is lacking.
    sequence: Option<u8>,
    /// Which of its lives it is in.
    life: Option<u64>,
    aliases: BTreeMap<u64, String>,
    /// By the device (the node's own under the empty name) and the metric.
    types: BTreeMap<(String, String), DataType>,
    devices: BTreeSet<String>,
    asked_ms: Option<UnixMillis>,
}

impl EdgeNodes {
    /// Passes over what this edge node says: it is the agent itself, which needs no telling.
    pub(in crate::ingest) fn pass_over(&mut self, group: Option<&str>, node: &str) {
        self.own = group.map(|group| name_of(group, node));
    }

    pub(in crate::ingest) fn take_requests(&mut self) -> impl Iterator<Item = Outgoing> {
        self.requests.drain(..)
    }

    /// What one message says.
    pub(in crate::ingest) fn take(
        &mut self,
        topic: &SparkplugTopic<'_>,
        bytes: &[u8],
        arrival_ms: UnixMillis,
    ) -> Result<Told, Rejection> {
        if topic.kind == Kind::Other {
            return Ok(Told::default());
        }
        let name = name_of(topic.group, topic.node);
        if self.own.as_ref() == Some(&name) {
            return Ok(Told::default());
        }
        let payload = Payload::read(bytes)?;
        if !self.nodes.contains_key(&name) && self.nodes.len() == MAX_NODES {
            return Err(malformed(format!("there are {MAX_NODES} edge nodes already")));
        }
        let node = self.nodes.entry(name).or_default();
        let told = match topic.kind {
            Kind::Birth => node.born(topic, &payload, arrival_ms),
            Kind::Data => node.data(topic, &payload, arrival_ms),
            Kind::Death => Ok(node.died(topic, &payload)),
            Kind::Other => Ok(Told::default()),
        };
        if node.sequence.is_none() && topic.kind != Kind::Death && node.may_be_asked(arrival_ms) {
            node.asked_ms = Some(arrival_ms);
            self.requests.push(rebirth(topic, arrival_ms));
        }
        told
    }
}

impl EdgeNode {
    fn born(
        &mut self,
        topic: &SparkplugTopic<'_>,
        payload: &Payload,
        arrival_ms: UnixMillis,
    ) -> Result<Told, Rejection> {
        let mut told = Told::default();
        let device = topic.device.unwrap_or("");
        if topic.device.is_none() {
            told.gone = self.topics(topic);
            *self = Self { asked_ms: self.asked_ms, ..Self::default() };
            self.life =
                payload.metrics.iter().find(|metric| metric.name() == BIRTH_SEQUENCE).and_then(Metric::as_count);
            self.sequence = payload.sequence();
        } else {
            self.follows(payload);
            told.gone.push(topic_of(topic, topic.device));
        }
        self.devices.insert(device.to_owned());
        for metric in &payload.metrics {
            let is_known = self.types.contains_key(&(device.to_owned(), metric.name().to_owned()));
            if metric.name().is_empty() || metric.name().len() > MAX_NAME_BYTES {
                return Err(malformed(format!("a birth gives every metric a name of up to {MAX_NAME_BYTES} bytes")));
            }
            if !is_known && self.types.len() == MAX_METRICS {
                return Err(malformed(format!("the edge node has more than {MAX_METRICS} metrics")));
            }
            self.types.insert((device.to_owned(), metric.name().to_owned()), metric.data_type());
            if let Some(alias) = metric.alias {
                self.aliases.insert(alias, metric.name().to_owned());
            }
        }
        told.rows = self.rows(device, payload, arrival_ms)?;
        Ok(told)
    }

    fn data(
        &mut self,
        topic: &SparkplugTopic<'_>,
        payload: &Payload,
        arrival_ms: UnixMillis,
    ) -> Result<Told, Rejection> {
        let device = topic.device.unwrap_or("");
        self.follows(payload);
        if self.sequence.is_none() || !self.devices.contains(device) {
            self.sequence = None;
            return Err(Rejection::BeforeBirth);
        }
        Ok(Told { rows: self.rows(device, payload, arrival_ms)?, gone: Vec::new() })
    }

    /// The death of an edge node is its last will, which may come after it is born anew: then it is of a life before.
    fn died(&mut self, topic: &SparkplugTopic<'_>, payload: &Payload) -> Told {
        if topic.device.is_some() {
            self.follows(payload);
            return Told { rows: Vec::new(), gone: vec![topic_of(topic, topic.device)] };
        }
        let life = payload.metrics.iter().find(|metric| metric.name() == BIRTH_SEQUENCE).and_then(Metric::as_count);
        if life.is_some() && life != self.life {
            return Told::default();
        }
        let gone = self.topics(topic);
        *self = Self { asked_ms: self.asked_ms, ..Self::default() };
        Told { rows: Vec::new(), gone }
    }

    /// Counts a message. Where one is lacking, a birth may have been among what is lost.
    fn follows(&mut self, payload: &Payload) {
        let expected = self.sequence.map(|sequence| sequence.wrapping_add(1));
        self.sequence = expected.filter(|expected| payload.sequence() == Some(*expected));
    }

    fn may_be_asked(&self, now_ms: UnixMillis) -> bool {
        self.asked_ms.is_none_or(|asked_ms| asked_ms.abs_diff(now_ms) >= REBIRTH_INTERVAL_MS)
    }

    /// What is true now in one row, and each time that is gone in one of its own.
    fn rows(&self, device: &str, payload: &Payload, arrival_ms: UnixMillis) -> Result<Vec<MetricRow>, Rejection> {
        let mut past: BTreeMap<UnixMillis, Vec<(String, Found<'static>)>> = BTreeMap::new();
        let mut now = Vec::new();
        let mut now_ms = None;
        for metric in &payload.metrics {
            let name = self.name(metric).ok_or(Rejection::BeforeBirth)?;
            let known = self.types.get(&(device.to_owned(), name.to_owned())).copied();
            let value = metric.value(known.unwrap_or_else(|| metric.data_type()));
            let time_ms = metric.time_ms();
            match time_ms {
                Some(time_ms) if metric.is_historical() => {
                    past.entry(time_ms).or_default().push((name.to_owned(), value));
                }
                _ => {
                    now_ms = now_ms.max(time_ms);
                    now.push((name.to_owned(), value));
                }
            }
        }
        let row = |time_ms, is_historical, metrics| MetricRow { time_ms, is_historical, metrics };
        let mut rows: Vec<MetricRow> = past.into_iter().map(|(time_ms, metrics)| row(time_ms, true, metrics)).collect();
        if !now.is_empty() {
            let time_ms = now_ms.or_else(|| payload.time_ms()).unwrap_or(arrival_ms);
            rows.push(row(time_ms, false, now));
        }
        Ok(rows)
    }

    fn name<'n>(&'n self, metric: &'n Metric) -> Option<&'n str> {
        match (metric.name(), metric.alias) {
            ("", Some(alias)) => self.aliases.get(&alias).map(String::as_str),
            ("", None) => None,
            (name, _) => Some(name),
        }
    }

    /// The topics of the data of an edge node and its devices.
    fn topics(&self, topic: &SparkplugTopic<'_>) -> Vec<String> {
        self.devices.iter().map(|device| topic_of(topic, (!device.is_empty()).then_some(device))).collect()
    }
}

fn name_of(group: &str, node: &str) -> String {
    format!("{group}/{node}")
}

fn topic_of(topic: &SparkplugTopic<'_>, device: Option<&str>) -> String {
    match device {
        Some(device) => format!("{NAMESPACE}/{}/DDATA/{}/{device}", topic.group, topic.node),
        None => format!("{NAMESPACE}/{}/NDATA/{}", topic.group, topic.node),
    }
}

fn rebirth(topic: &SparkplugTopic<'_>, now_ms: UnixMillis) -> Outgoing {
    Outgoing {
        topic: format!("{NAMESPACE}/{}/NCMD/{}", topic.group, topic.node),
        payload: Payload::command(REBIRTH, now_ms),
        properties: Properties::default(),
        retain: false,
        delivery: Delivery::AtMostOnce,
    }
}

fn malformed(problem: impl Into<Cow<'static, str>>) -> Rejection {
    Rejection::Malformed { format: "Sparkplug B payload", problem: problem.into().into_owned() }
}

#[cfg(test)]
mod tests;
