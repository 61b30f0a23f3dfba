//! The newest of every stream: for whoever looks, not for what is decided.
//!
//! It is drawn from durable batches and, where a box works off a backlog, from the pictures that it sends ahead. It is
//! not kept over a restart.

use std::collections::BTreeMap;

use shared::event::{Event as StoredEvent, EventBatch, ModelRef, Outcome, SpoolEntry, UnixMillis};
use shared::ids::{AgentId, ChannelName, Sequence, StreamId};
use shared::wire::live::{LivePicture, LivePrediction};

use super::limits::LIVE_STREAMS_KEPT;

/// The newest of every stream, and how far behind boxes are.
#[derive(Debug, Default)]
pub struct Newest {
    streams: BTreeMap<AgentId, BTreeMap<StreamId, NewestOf>>,
    /// The sequence that a box gave next, as it last said.
    given: BTreeMap<AgentId, Sequence>,
}

/// The newest of one stream.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct NewestOf {
    /// Its channels.
    pub channels: Vec<ChannelName>,
    /// The time of the newest reading.
    pub time_ms: UnixMillis,
    /// That reading, one value per channel.
    pub values: Vec<f64>,
    /// The newest prediction.
    pub prediction: Option<Said>,
    /// The newest anomalous prediction.
    pub alarm: Option<Said>,
    /// A box told it ahead of a backlog: it has come in its place when the hub has everything before this.
    pub told_before: Option<Sequence>,
}

/// What a model said.
#[derive(Debug, Clone, PartialEq)]
pub struct Said {
    /// The model.
    pub model: ModelRef,
    /// The time of the reading.
    pub time_ms: UnixMillis,
    /// What it said.
    pub outcome: Outcome,
}

impl Newest {
    /// The newest of one stream.
    #[must_use]
    pub fn of(&self, agent: &AgentId, stream: &StreamId) -> Option<&NewestOf> {
        self.streams.get(agent)?.get(stream)
    }

    /// Every stream.
    pub fn all(&self) -> impl Iterator<Item = (&AgentId, &StreamId, &NewestOf)> {
        self.streams.iter().flat_map(|(agent, streams)| streams.iter().map(move |(stream, of)| (agent, stream, of)))
    }

    /// Events that waited at a box when it last said so, of which the hub has everything before `reached`.
    #[must_use]
    pub fn pending(&self, agent: &AgentId, reached: Sequence) -> u64 {
        self.given.get(agent).map_or(0, |next| next.0.saturating_sub(reached.0))
    }

    /// Takes a durable entry. What a box told ahead stays until its place is reached.
    pub(super) fn entry(&mut self, agent: &AgentId, entry: &SpoolEntry) {
        if let SpoolEntry::Events(batch) = entry {
            self.batch(agent, batch);
        }
    }

    fn batch(&mut self, agent: &AgentId, batch: &EventBatch) {
        let streams = self.streams.entry(agent.clone()).or_default();
        for schema in &batch.streams {
            if let Some(newest) = streams.get_mut(&schema.stream) {
                newest.told_before = newest.told_before.filter(|told_before| *told_before > batch.end());
            }
        }
        let mut has_reading = vec![false; batch.streams.len()];
        let mut has_prediction = vec![false; batch.streams.len()];
        let mut has_alarm = vec![false; batch.streams.len()];
        for event in batch.events.iter().rev() {
            match event {
                StoredEvent::Reading(reading) => {
                    let index = usize::from(reading.stream);
                    if std::mem::replace(&mut has_reading[index], true) {
                        continue;
                    }
                    let schema = &batch.streams[index];
                    let newest = streams.entry(schema.stream.clone()).or_default();
                    if newest.told_before.is_some() {
                        continue;
                    }
                    newest.time_ms = reading.time_ms;
                    newest.channels.clone_from(&schema.channels);
                    reading.values.clone_into(&mut newest.values);
                }
                StoredEvent::Prediction(prediction) => {
                    let index = usize::from(prediction.stream);
                    let is_alarm = prediction.outcome.is_anomaly();
                    let is_newest = !std::mem::replace(&mut has_prediction[index], true);
                    let is_newest_alarm = is_alarm && !std::mem::replace(&mut has_alarm[index], true);
                    if !is_newest && !is_newest_alarm {
                        continue;
                    }
                    let newest = streams.entry(batch.streams[index].stream.clone()).or_default();
                    let said = Said {
                        model: batch.models[usize::from(prediction.model)].clone(),
                        time_ms: prediction.time_ms,
                        outcome: prediction.outcome.clone(),
                    };
                    let is_ahead = newest.told_before.is_some();
                    if is_newest_alarm {
                        replace(&mut newest.alarm, &said, is_ahead);
                    }
                    if is_newest {
                        replace(&mut newest.prediction, &said, is_ahead);
                    }
                }
                StoredEvent::Shed(_) => {}
            }
        }
    }

    /// Takes a picture that a box sent ahead of its backlog.
    pub(super) fn picture(&mut self, agent: &AgentId, picture: LivePicture) {
        self.given.insert(agent.clone(), picture.next);
        let streams = self.streams.entry(agent.clone()).or_default();
        for shown in picture.streams {
            let is_known = streams.contains_key(&shown.schema.stream);
            if !is_known && streams.len() >= LIVE_STREAMS_KEPT {
                continue;
            }
            let newest = streams.entry(shown.schema.stream).or_default();
            newest.channels = shown.schema.channels;
            newest.time_ms = shown.time_ms;
            newest.values = shown.values;
            newest.told_before = Some(picture.next);
            newest.prediction = shown.prediction.map(Said::from).or(newest.prediction.take());
            newest.alarm = shown.alarm.map(Said::from).or(newest.alarm.take());
        }
    }

    /// A box begins another row of events: what it told of the one before has no place in it.
    pub(super) fn begins_anew(&mut self, agent: &AgentId) {
        self.given.remove(agent);
        for newest in self.streams.get_mut(agent).into_iter().flat_map(BTreeMap::values_mut) {
            newest.told_before = None;
        }
    }
}

impl From<LivePrediction> for Said {
    fn from(LivePrediction { model, time_ms, outcome }: LivePrediction) -> Self {
        Self { model, time_ms, outcome }
    }
}

fn replace(newest: &mut Option<Said>, said: &Said, is_ahead: bool) {
    if !is_ahead || newest.as_ref().is_none_or(|known| known.time_ms <= said.time_ms) {
        *newest = Some(said.clone());
    }
}

#[cfg(test)]
mod tests {
    use shared::event::{Prediction, Reading, StreamSchema, Verdict};
    use shared::ids::{Epoch, ModelName, ModelVersion};
    use shared::wire::live::LiveStream;

    use super::*;

    fn agent() -> AgentId {
        AgentId::new("box").expect("valid")
    }

    fn schema() -> StreamSchema {
        let channels = vec![ChannelName::new("x").expect("valid")];
        StreamSchema { stream: StreamId::new("pump").expect("valid"), channels }
    }

    fn model() -> ModelRef {
        ModelRef { name: ModelName::new("pump").expect("valid"), version: ModelVersion(1) }
    }

    fn outcome(anomaly: bool) -> Outcome {
        Outcome::Anomaly(Verdict { score: 1.0, threshold: 0.5, anomaly })
    }

    /// A reading at each time, and its prediction.
    fn batch(first: u64, times: &[(i64, bool)]) -> EventBatch {
        let events = times.iter().flat_map(|(time_ms, anomaly)| {
            let reading =
                Reading { stream: 0, time_ms: *time_ms, known_normal: false, id: 1, values: vec![*time_ms as f64] };
            let (of, outcome) = (Sequence(0), outcome(*anomaly));
            let prediction = Prediction { stream: 0, model: 0, of, time_ms: *time_ms, outcome };
            [StoredEvent::Reading(reading), StoredEvent::Prediction(prediction)]
        });
        let (streams, models) = (vec![schema()], vec![model()]);
        EventBatch { epoch: Epoch(1), first: Sequence(first), streams, models, events: events.collect() }
    }

    fn picture(time_ms: i64, anomaly: bool) -> LivePicture {
        let said = LivePrediction { model: model(), time_ms, outcome: outcome(anomaly) };
        let alarm = anomaly.then(|| said.clone());
        let values = vec![time_ms as f64];
        let stream = LiveStream { schema: schema(), time_ms, values, prediction: Some(said), alarm };
        LivePicture { next: Sequence(9_000), streams: vec![stream] }
    }

    #[test]
    fn the_last_of_a_batch_is_the_newest_and_an_alarm_is_remembered() {
        let mut newest = Newest::default();
        newest.batch(&agent(), &batch(0, &[(1, false), (2, true), (3, false)]));
        let of = newest.of(&agent(), &schema().stream).expect("known");
        assert_eq!((of.time_ms, &of.values[..], of.told_before), (3, &[3.0][..], None));
        assert_eq!(of.prediction.as_ref().map(|said| said.time_ms), Some(3));
        assert_eq!(of.alarm.as_ref().map(|said| said.time_ms), Some(2));
    }

    #[test]
    fn what_a_box_told_ahead_stays_until_its_place_is_reached_whatever_its_clock_says() {
        let mut newest = Newest::default();
        newest.picture(&agent(), picture(100, true));
        assert_eq!(newest.pending(&agent(), Sequence(1_000)), 8_000);
        newest.batch(&agent(), &batch(0, &[(1, true), (2_000, false)]));
        let of = newest.of(&agent(), &schema().stream).expect("known").clone();
        assert_eq!((of.time_ms, of.told_before), (100, Some(Sequence(9_000))));
        assert_eq!(of.alarm.as_ref().map(|said| said.time_ms), Some(100));
        newest.batch(&agent(), &batch(8_998, &[(99, false)]));
        let of = newest.of(&agent(), &schema().stream).expect("known");
        assert_eq!((of.time_ms, of.told_before), (99, None));
        assert_eq!(newest.pending(&agent(), Sequence(9_000)), 0);
    }

    #[test]
    fn a_box_that_begins_anew_is_not_held_against_what_it_told_before() {
        let mut newest = Newest::default();
        newest.picture(&agent(), picture(100, false));
        newest.begins_anew(&agent());
        newest.batch(&agent(), &batch(0, &[(1, false)]));
        assert_eq!(newest.of(&agent(), &schema().stream).map(|of| of.time_ms), Some(1));
        assert_eq!(newest.pending(&agent(), Sequence(0)), 0);
    }
}
