//! What the hub knows of its streams. It is drawn from durable batches, in order, and from nothing else.

use std::collections::{BTreeMap, VecDeque};

use serde::{Deserialize, Serialize};
use shared::drift::DriftReference;
use shared::event::{
    Event as StoredEvent, EventBatch, Fate, Gap, GapReason, ModelRef, Reading, SpoolEntry, StreamSchema, UnixMillis,
};
use shared::ids::{AgentId, ChannelName, Epoch, ModelName, ModelVersion, Sequence, StreamId};

use super::drift::{Change, DriftAlarm, DriftWatch};
use super::limits::{ALARMS_KEPT, REGIMES_KEPT};
use super::registry::Release;
use super::segments::Segments;
use super::{Effect, ModelSpec};

/// An agent's stream.
pub type StreamKey = (AgentId, StreamId);

/// What is known of all streams.
#[derive(Debug, Default)]
pub struct Observed {
    durable: Durable,
    references: BTreeMap<ModelName, (ModelVersion, DriftReference)>,
    watches: BTreeMap<StreamKey, DriftWatch>,
    alarms: VecDeque<DriftAlarm>,
    segments_closed: u64,
}

/// The part that a snapshot keeps. The watches are not in it: they fill again within a minute of readings.
#[derive(Debug, Default, Clone, Serialize, Deserialize)]
struct Durable {
    position: u64,
    /// Per agent and epoch the first sequence that is missing, and the mark of what is before it.
    reached: BTreeMap<(AgentId, Epoch), (Sequence, Option<u32>)>,
    streams: BTreeMap<StreamKey, StreamFacts>,
    regimes: BTreeMap<ModelName, Vec<Regime>>,
    /// Streams whose alarm is up, against which version, and since when: a restart is no new alarm.
    raised: BTreeMap<StreamKey, (ModelVersion, UnixMillis)>,
}

/// What is known of one stream.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct StreamFacts {
    /// Its channels, as last seen.
    pub channels: Vec<ChannelName>,
    /// Readings at the hub.
    pub readings: u64,
    /// Readings that the agent lost, by reason.
    pub dropped: BTreeMap<GapReason, u64>,
    /// Of the readings at the hub, those an operator vouched for.
    pub known_normal: u64,
    /// Predictions at the hub.
    pub predictions: BTreeMap<u32, PredictionCounts>,
    /// The time of the newest reading.
    pub last_time_ms: UnixMillis,
    /// Known-normal segments.
    pub segments: Segments,
}

/// Predictions of one version on one stream.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PredictionCounts {
    /// All.
    pub total: u64,
    /// Those that were anomalous.
    pub anomalous: u64,
}

impl PredictionCounts {
    /// The share of anomalous ones, from 0 to 1.
    #[must_use]
    pub fn share(self) -> f64 {
        if self.total == 0 { 0.0 } else { self.anomalous as f64 / self.total as f64 }
    }

    pub(super) fn add(&mut self, other: Self) {
        self.total += other.total;
        self.anomalous += other.anomalous;
    }
}

/// The way a model's machines run, since some point in the log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Regime {
    /// Known-normal segments that began at or after this position belong to it.
    pub since_position: u64,
    /// What began it, in words.
    pub because: String,
    /// A model of everything since then turned out to be blind: this holds more than one way of running.
    pub blind: bool,
    /// A model of everything since then is in service.
    pub served: bool,
}

impl Observed {
    /// Reads a snapshot.
    ///
    /// # Errors
    /// If it is none.
    pub fn restore(snapshot: &[u8]) -> Result<Self, postcard::Error> {
        Ok(Self { durable: postcard::from_bytes(snapshot)?, ..Self::default() })
    }

    /// What was observed, as bytes.
    #[must_use]
    pub fn snapshot(&self) -> Vec<u8> {
        // Postcard fails on types it cannot encode, which these are not.
        postcard::to_allocvec(&self.durable).unwrap_or_default()
    }

    /// The position of the next batch to observe.
    #[must_use]
    pub fn position(&self) -> u64 {
        self.durable.position
    }

    /// The first sequence the hub does not have of an agent's epoch; `None` if it has nothing of it.
    #[must_use]
    pub fn next_of(&self, key: &(AgentId, Epoch)) -> Option<Sequence> {
        self.reached(key).map(|(next, _)| next)
    }

    /// The same, with the mark of the entry before it.
    #[must_use]
    pub fn reached(&self, key: &(AgentId, Epoch)) -> Option<(Sequence, Option<u32>)> {
        self.durable.reached.get(key).copied()
    }

    /// The newest epoch of an agent of which the hub has anything.
    #[must_use]
    pub fn newest_epoch(&self, agent: &AgentId) -> Epoch {
        let epochs = (agent.clone(), Epoch(0))..=(agent.clone(), Epoch(u64::MAX));
        self.durable.reached.range(epochs).next_back().map_or(Epoch(0), |((_, epoch), _)| *epoch)
    }

    /// Every stream.
    pub fn streams(&self) -> impl Iterator<Item = (&StreamKey, &StreamFacts)> {
        self.durable.streams.iter()
    }

    /// The streams of one agent.
    pub fn streams_of(&self, agent: &AgentId) -> impl Iterator<Item = &StreamId> {
        // No name is less than this: it has a character, and control characters are none.
        let least = StreamId::new(" ").ok();
        let from = least.into_iter().flat_map(|least| self.durable.streams.range((agent.clone(), least)..));
        from.map(|(key, _)| key).take_while(move |(of, _)| of == agent).map(|(_, stream)| stream)
    }

    /// How many streams there are.
    #[must_use]
    pub fn stream_count(&self) -> usize {
        self.durable.streams.len()
    }

    /// The streams watched for drift.
    pub fn watches(&self) -> impl Iterator<Item = (&StreamKey, &DriftWatch)> {
        self.watches.iter()
    }

    /// Recent alarms, oldest first.
    pub fn alarms(&self) -> impl Iterator<Item = &DriftAlarm> {
        self.alarms.iter()
    }

    /// Whether a stream is in alarm for something that no model is to learn: a sick sensor, another unit.
    #[must_use]
    pub fn is_suspect(&self, (agent, stream): &StreamKey) -> bool {
        let is_open = |alarm: &&DriftAlarm| alarm.cleared_ms.is_none() && !alarm.cause.calls_for_training();
        self.alarms.iter().filter(is_open).any(|alarm| (&alarm.agent, &alarm.stream) == (agent, stream))
    }

    /// The regimes of a model, oldest first: each is a point from which a new model could be trained on everything
    /// that follows.
    #[must_use]
    pub fn regimes(&self, model: &ModelName) -> Vec<Regime> {
        let beginning = Regime { since_position: 0, because: "the beginning".to_owned(), blind: false, served: false };
        self.durable.regimes.get(model).cloned().unwrap_or_else(|| vec![beginning])
    }

    /// Segments of known-normal readings ever closed, to see cheaply whether there is a new one.
    #[must_use]
    pub fn segments_closed(&self) -> u64 {
        self.segments_closed
    }

    /// A model of everything since these positions turned out to be blind.
    pub fn mark_blind(&mut self, model: &ModelName, since: &[u64]) {
        if since.is_empty() {
            return;
        }
        let mut regimes = self.regimes(model);
        for regime in regimes.iter_mut().filter(|regime| since.contains(&regime.since_position)) {
            regime.blind = true;
        }
        self.durable.regimes.insert(model.clone(), regimes);
    }

    /// A model of everything since this position is in service: there is one regime from there on.
    pub fn settle_regime(&mut self, model: &ModelName, since: u64) {
        let mut regimes = self.regimes(model);
        regimes.retain(|regime| regime.since_position <= since);
        regimes.iter_mut().for_each(|regime| regime.served = regime.since_position == since);
        self.durable.regimes.insert(model.clone(), regimes);
    }

    /// Watches the streams of a model against its new champion's training data from now on. That they left what an
    /// older version was trained on is of no interest any more.
    pub(super) fn watch(&mut self, champion: &Release, specs: &[ModelSpec], effects: &mut Vec<Effect>) {
        let (model, version) = (&champion.model, champion.version);
        let before = self.references.insert(model.clone(), (version, champion.drift_reference.clone()));
        if before.is_some_and(|(before, _)| before == version) {
            return;
        }
        let is_ours =
            |(agent, stream): &StreamKey| ModelSpec::of(specs, agent, stream).is_some_and(|spec| spec.name == *model);
        self.watches.retain(|key, _| !is_ours(key));
        self.durable.raised.retain(|key, (against, _)| !is_ours(key) || *against == version);
        for alarm in &mut self.alarms {
            if alarm.model == *model && alarm.version != version && alarm.cleared_ms.is_none() {
                end(alarm, &self.durable);
                effects.push(Effect::RecordDrift(alarm.clone()));
            }
        }
    }

    /// Puts back alarms from before the hub started, oldest first, once the log is replayed. One that was up then and
    /// is not up now has ended.
    pub(super) fn remember(&mut self, alarms: Vec<DriftAlarm>, effects: &mut Vec<Effect>) {
        let replayed = std::mem::take(&mut self.alarms);
        let is_replayed = |alarm: &DriftAlarm| replayed.iter().any(|newer| is_same(newer, alarm));
        for mut alarm in alarms.into_iter().filter(|alarm| !is_replayed(alarm)) {
            let up = self.durable.raised.get(&(alarm.agent.clone(), alarm.stream.clone()));
            if alarm.cleared_ms.is_none() && up != Some(&(alarm.version, alarm.raised_ms)) {
                end(&mut alarm, &self.durable);
                effects.push(Effect::RecordDrift(alarm.clone()));
            }
            self.keep(alarm);
        }
        replayed.into_iter().for_each(|alarm| self.keep(alarm));
    }

    /// Takes the next durable entry.
    pub fn entry(
        &mut self,
        position: u64,
        agent: &AgentId,
        entry: &SpoolEntry,
        specs: &[ModelSpec],
        effects: &mut Vec<Effect>,
    ) {
        self.durable.position = position + 1;
        self.durable.reached.insert((agent.clone(), entry.epoch()), (entry.end(), entry.mark()));
        match entry {
            SpoolEntry::Events(batch) => self.batch(position, agent, batch, specs, effects),
            SpoolEntry::Gap(gap) => self.gap(agent, gap),
        }
    }

    /// The log goes on here.
    pub(super) fn skip_to(&mut self, position: u64) {
        self.durable.position = self.durable.position.max(position);
    }

    fn gap(&mut self, agent: &AgentId, gap: &Gap) {
        for part in gap.parts_from(gap.first).filter(|part| part.fate != Fate::AtHub) {
            for (stream, count) in part.readings() {
                let facts = self.durable.streams.entry((agent.clone(), stream.clone())).or_default();
                *facts.dropped.entry(gap.reason).or_default() += count;
            }
        }
    }

    fn batch(
        &mut self,
        position: u64,
        agent: &AgentId,
        batch: &EventBatch,
        specs: &[ModelSpec],
        effects: &mut Vec<Effect>,
    ) {
        for event in &batch.events {
            match event {
                StoredEvent::Reading(reading) => {
                    let schema = &batch.streams[usize::from(reading.stream)];
                    self.reading(position, agent, schema, reading, specs, effects);
                }
                StoredEvent::Prediction(prediction) => {
                    let stream = &batch.streams[usize::from(prediction.stream)].stream;
                    let ModelRef { version, .. } = &batch.models[usize::from(prediction.model)];
                    let facts = self.durable.streams.entry((agent.clone(), stream.clone())).or_default();
                    let counts = facts.predictions.entry(version.0).or_default();
                    counts.total += 1;
                    counts.anomalous += u64::from(prediction.outcome.is_anomaly());
                }
                StoredEvent::Shed(shed) => {
                    let stream = &batch.streams[usize::from(shed.stream)].stream;
                    let facts = self.durable.streams.entry((agent.clone(), stream.clone())).or_default();
                    *facts.dropped.entry(shed.reason).or_default() += shed.ids.len() as u64;
                }
            }
        }
    }

    fn reading(
        &mut self,
        position: u64,
        agent: &AgentId,
        schema: &StreamSchema,
        reading: &Reading,
        specs: &[ModelSpec],
        effects: &mut Vec<Effect>,
    ) {
        let key = (agent.clone(), schema.stream.clone());
        let facts = self.durable.streams.entry(key.clone()).or_default();
        if facts.channels != schema.channels {
            facts.channels.clone_from(&schema.channels);
        }
        facts.readings += 1;
        facts.known_normal += u64::from(reading.known_normal);
        facts.last_time_ms = reading.time_ms;
        let closed_before = facts.segments.closed_count();
        facts.segments.add(position, reading.time_ms, reading.known_normal);
        self.segments_closed += facts.segments.closed_count() - closed_before;
        let Some(spec) = ModelSpec::of(specs, agent, &schema.stream) else {
            return;
        };
        let Some((version, reference)) = self.references.get(&spec.name) else {
            return;
        };
        let watch = self.watches.entry(key.clone()).or_insert_with(|| {
            let raised = self.durable.raised.get(&key).filter(|(against, _)| against == version);
            DriftWatch::new(*version, reference, &schema.channels, raised.map(|(_, raised_ms)| *raised_ms))
        });
        match watch.add(spec.drift, reading.time_ms, &reading.values, reading.known_normal) {
            None => {}
            Some(Change::Raised { rows }) => {
                let others = self.watches.iter().filter(|(other, watch)| {
                    **other != key && watch.version() == *version && name_of(specs, other) == Some(&spec.name)
                });
                let (drifting, streams) = others.fold((0, 1), |(drifting, streams), (_, watch)| {
                    (drifting + usize::from(watch.is_raised() || watch.is_in_excess()), streams + 1)
                });
                let Some(watch) = self.watches.get(&key) else {
                    return;
                };
                let cause = watch.cause(drifting, streams);
                self.durable.raised.insert(key.clone(), (*version, reading.time_ms));
                let channels: Vec<_> = watch.channels().into_iter().filter(|channel| channel.excess).collect();
                let alarm = DriftAlarm {
                    model: spec.name.clone(),
                    version: *version,
                    agent: key.0.clone(),
                    stream: key.1.clone(),
                    raised_ms: reading.time_ms,
                    cleared_ms: None,
                    channels,
                    rows,
                    cause,
                };
                if alarm.cause.calls_for_training() {
                    self.drifted(position, &key, reference_rows(rows, reference), &alarm);
                }
                self.keep_alarm(alarm, effects);
            }
            Some(Change::Cleared { raised_ms }) => {
                self.durable.raised.remove(&key);
                let raised = self
                    .alarms
                    .iter_mut()
                    .rev()
                    .find(|alarm| (&alarm.agent, &alarm.stream, alarm.raised_ms) == (&key.0, &key.1, raised_ms));
                if let Some(alarm) = raised {
                    alarm.cleared_ms = Some(reading.time_ms);
                    effects.push(Effect::RecordDrift(alarm.clone()));
                }
            }
        }
    }

    /// Perhaps a new regime begins. Whether it is one, or the old one was only known too little of, shows when a
    /// model of both turns out to be blind, or not.
    fn drifted(&mut self, position: u64, key: &StreamKey, rows: usize, alarm: &DriftAlarm) {
        let mut regimes = self.regimes(&alarm.model);
        let Some(facts) = self.durable.streams.get_mut(key) else {
            return;
        };
        facts.segments.cut(position, rows);
        let since_position = facts.segments.open().map_or(position, |open| open.first_position);
        let channels: Vec<&str> = alarm.channels.iter().map(|channel| channel.channel.as_str()).collect();
        let because =
            format!("{} of {} left what version {} was trained on", channels.join(", "), key.1, alarm.version);
        if regimes.last().is_some_and(|newest| newest.since_position < since_position) {
            regimes.push(Regime { since_position, because, blind: false, served: false });
        }
        if regimes.len() > REGIMES_KEPT {
            // What proved blind is of no more use. Failing that, the newest but one: all that followed it is also
            // part of what the older ones begin.
            let useless = regimes.iter().position(|regime| regime.blind).unwrap_or(regimes.len() - 2);
            regimes.remove(useless);
        }
        self.durable.regimes.insert(alarm.model.clone(), regimes);
    }

    fn keep_alarm(&mut self, alarm: DriftAlarm, effects: &mut Vec<Effect>) {
        effects.push(Effect::RecordDrift(alarm.clone()));
        self.keep(alarm);
    }

    fn keep(&mut self, alarm: DriftAlarm) {
        if self.alarms.len() == ALARMS_KEPT {
            self.alarms.pop_front();
        }
        self.alarms.push_back(alarm);
    }
}

fn name_of<'a>(specs: &'a [ModelSpec], (agent, stream): &StreamKey) -> Option<&'a ModelName> {
    ModelSpec::of(specs, agent, stream).map(|spec| &spec.name)
}

/// Ends an alarm with its stream's newest reading.
fn end(alarm: &mut DriftAlarm, durable: &Durable) {
    let facts = durable.streams.get(&(alarm.agent.clone(), alarm.stream.clone()));
    alarm.cleared_ms = Some(facts.map_or(alarm.raised_ms, |facts| facts.last_time_ms));
}

fn is_same(a: &DriftAlarm, b: &DriftAlarm) -> bool {
    (&a.model, &a.agent, &a.stream, a.raised_ms) == (&b.model, &b.agent, &b.stream, b.raised_ms)
}

/// Readings since the change that led to `rows` readings of excess: a histogram needs about a half-life to show it.
fn reference_rows(rows: u32, reference: &DriftReference) -> usize {
    rows as usize + reference.half_life.ceil() as usize
}
