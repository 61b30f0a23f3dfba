//! Events: what the spool stores and the link carries.
//!
//! The unit is the [`SpoolEntry`]: an [`EventBatch`], the events of one group commit, or a [`Gap`], the word that events
//! are gone. It is encoded once, when it is committed on the box; the same bytes lie in the spool, travel to the hub and
//! lie in the hub's ingest log. Names of streams, channels and models stand once per entry, and events refer to them by
//! index, so that an entry can be read with nothing else.

pub mod gap;

use serde::{Deserialize, Serialize};

use crate::ids::{ChannelName, Epoch, ModelName, ModelVersion, Sequence, StreamId};
use crate::limits::{COMMIT_MAX_EVENTS, MAX_BATCH_BYTES, MAX_CHANNELS, MAX_FORECAST_VALUES, MAX_LABEL_BYTES};

pub use gap::{Fate, Gap, GapPart, GapReason};

/// Milliseconds since the Unix epoch, UTC. May be before 1970.
pub type UnixMillis = i64;

/// A stream's name and the names of its channels, in the order of a reading's values.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct StreamSchema {
    /// The stream.
    pub stream: StreamId,
    /// Its channels.
    pub channels: Vec<ChannelName>,
}

/// A version of a model.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ModelRef {
    /// The model.
    pub name: ModelName,
    /// Its version.
    pub version: ModelVersion,
}

/// One timestamped vector of channel values.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Reading {
    /// Index into [`EventBatch::streams`].
    pub stream: u16,
    /// When the source measured it.
    pub time_ms: UnixMillis,
    /// An operator vouches that the machine ran normally.
    pub known_normal: bool,
    /// Names the message the reading came in, so that a redelivered one is recognised, also after a restart.
    pub id: u64,
    /// One value per channel, in the schema's order, in the channel's unit.
    pub values: Vec<f64>,
}

/// What a model said of one reading.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Prediction {
    /// Index into [`EventBatch::streams`].
    pub stream: u16,
    /// Index into [`EventBatch::models`].
    pub model: u16,
    /// The reading it answers.
    pub of: Sequence,
    /// That reading's time.
    pub time_ms: UnixMillis,
    /// What it said.
    pub outcome: Outcome,
}

/// Readings of a stream that were let go as they came in, because the spool was running full. They are counted here, where
/// they would have stood: durably, before their messages are acknowledged, and at the hub.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shed {
    /// Index into [`EventBatch::streams`].
    pub stream: u16,
    /// By which rule: [`GapReason::DropNewest`] or [`GapReason::Downsample`].
    pub reason: GapReason,
    /// The names of their messages, one each, so that a redelivered one is recognised and not counted again.
    pub ids: Vec<u64>,
}

/// What a model says. New kinds are added at the end.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Outcome {
    /// How far the reading is from normal.
    Anomaly(Verdict),
    /// What it is.
    Label {
        /// The likeliest label.
        label: String,
        /// How likely, from 0 to 1.
        confidence: f32,
        /// Whether that is likely enough to act on.
        sure: bool,
    },
    /// What comes next.
    Forecast {
        /// Channel after channel, the next value first, in the channels' units.
        values: Vec<f32>,
    },
}

/// How far a reading is from normal.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Verdict {
    /// The smoothed score.
    pub score: f32,
    /// Above this score a reading is anomalous.
    pub threshold: f32,
    /// Whether it is. A score that is no number counts as anomalous: something is wrong, and silence would hide it.
    pub anomaly: bool,
}

impl Outcome {
    /// Whether somebody should look.
    #[must_use]
    pub fn is_anomaly(&self) -> bool {
        matches!(self, Self::Anomaly(Verdict { anomaly: true, .. }))
    }

    /// Roughly how many bytes it takes when stored.
    #[must_use]
    pub fn size_hint(&self) -> usize {
        match self {
            Self::Anomaly(_) => 10,
            Self::Label { label, .. } => label.len() + 8,
            Self::Forecast { values } => 4 * values.len() + 4,
        }
    }

    /// Whether it says the same as `other`, numbers within `tolerance` of each, and within it absolutely.
    #[must_use]
    pub fn is_close(&self, other: &Self, tolerance: f32) -> bool {
        let close = |a: f32, b: f32| (a - b).abs() <= tolerance * (1.0 + b.abs());
        match (self, other) {
            (Self::Anomaly(a), Self::Anomaly(b)) => close(a.score, b.score) && close(a.threshold, b.threshold),
            (Self::Label { label, confidence, .. }, Self::Label { label: b, confidence: c, .. }) => {
                label == b && close(*confidence, *c)
            }
            (Self::Forecast { values: a }, Self::Forecast { values: b }) => {
                a.len() == b.len() && a.iter().zip(b).all(|(a, b)| close(*a, *b))
            }
            (Self::Anomaly(_) | Self::Label { .. } | Self::Forecast { .. }, _) => false,
        }
    }

    pub(crate) fn is_bounded(&self) -> bool {
        match self {
            Self::Anomaly(_) => true,
            Self::Label { label, .. } => label.len() <= MAX_LABEL_BYTES,
            Self::Forecast { values } => values.len() <= MAX_FORECAST_VALUES,
        }
    }
}

/// One event. New kinds are added at the end, so that older data stays readable.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Event {
    /// A reading.
    Reading(Reading),
    /// A prediction.
    Prediction(Prediction),
    /// Readings that were let go.
    Shed(Shed),
}

/// The events of one group commit, with consecutive sequences from `first`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EventBatch {
    /// The epoch of the spool the batch was committed to.
    pub epoch: Epoch,
    /// The sequence of the first event.
    pub first: Sequence,
    /// The streams the events refer to.
    pub streams: Vec<StreamSchema>,
    /// The models the predictions refer to.
    pub models: Vec<ModelRef>,
    /// The events.
    pub events: Vec<Event>,
}

/// What one record of a spool holds. It covers sequences without a hole. New kinds are added at the end, so that older
/// data stays readable.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum SpoolEntry {
    /// The events of one group commit.
    Events(EventBatch),
    /// Events that are gone, and why.
    Gap(Gap),
}

/// Why bytes are not an entry.
#[derive(Debug, thiserror::Error)]
pub enum EntryError {
    /// More bytes than an entry may have.
    #[error("spool entry has {bytes} bytes, at most {MAX_BATCH_BYTES} are allowed")]
    TooLarge {
        /// Its size.
        bytes: usize,
    },
    /// The bytes are not the encoding of an entry.
    #[error("spool entry is malformed: {0}")]
    Malformed(#[from] postcard::Error),
    /// The entry decodes but contradicts itself.
    #[error("spool entry from sequence {first} is inconsistent: {problem}")]
    Inconsistent {
        /// Where the entry starts.
        first: Sequence,
        /// What contradicts what.
        problem: &'static str,
    },
}

impl SpoolEntry {
    /// The epoch of the spool it was committed to.
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        match self {
            Self::Events(batch) => batch.epoch,
            Self::Gap(gap) => gap.epoch,
        }
    }

    /// Its first sequence.
    #[must_use]
    pub fn first(&self) -> Sequence {
        match self {
            Self::Events(batch) => batch.first,
            Self::Gap(gap) => gap.first,
        }
    }

    /// The sequence after the last one it covers.
    #[must_use]
    pub fn end(&self) -> Sequence {
        match self {
            Self::Events(batch) => batch.end(),
            Self::Gap(gap) => gap.end(),
        }
    }

    /// How many sequences it covers, at least 1.
    #[must_use]
    pub fn count(&self) -> u32 {
        // Decoding has checked that it fits.
        u32::try_from(self.end().0 - self.first().0).unwrap_or(u32::MAX)
    }

    /// A fingerprint of its last event and that event's place: two histories of one spool that part hardly ever agree in
    /// it. A gap has none, because it changes as more is dropped.
    #[must_use]
    pub fn mark(&self) -> Option<u32> {
        let batch = self.batch()?;
        let last = batch.events.last()?;
        // Names are left out: their indices depend on what else is in the commit, which a hub may have cut off.
        let said = match last {
            Event::Reading(Reading { time_ms, id, values, .. }) => {
                postcard::to_allocvec(&(batch.end(), time_ms, id, values))
            }
            Event::Prediction(Prediction { time_ms, of, outcome, .. }) => {
                postcard::to_allocvec(&(batch.end(), time_ms, of, outcome))
            }
            Event::Shed(Shed { reason, ids, .. }) => postcard::to_allocvec(&(batch.end(), reason, ids)),
        };
        Some(crc32c::crc32c(&said.ok()?))
    }

    /// Moves it to another epoch of its agent.
    pub fn set_epoch(&mut self, epoch: Epoch) {
        match self {
            Self::Events(batch) => batch.epoch = epoch,
            Self::Gap(gap) => gap.epoch = epoch,
        }
    }

    /// Its events; a gap has none.
    #[must_use]
    pub fn batch(&self) -> Option<&EventBatch> {
        match self {
            Self::Events(batch) => Some(batch),
            Self::Gap(_) => None,
        }
    }

    /// Leaves out what lies before `sequence`, which is inside of what it covers.
    pub fn trim(&mut self, sequence: Sequence) {
        match self {
            Self::Events(batch) => {
                let known = sequence.0.saturating_sub(batch.first.0) as usize;
                batch.events.drain(..known.min(batch.events.len()));
                batch.first = batch.first.max(sequence);
            }
            Self::Gap(gap) => gap.trim(sequence),
        }
    }

    /// The entry as bytes.
    ///
    /// # Errors
    /// If it is larger than [`MAX_BATCH_BYTES`].
    pub fn encode(&self) -> Result<Vec<u8>, EntryError> {
        let bytes = postcard::to_allocvec(self)?;
        if bytes.len() > MAX_BATCH_BYTES {
            return Err(EntryError::TooLarge { bytes: bytes.len() });
        }
        Ok(bytes)
    }

    /// Reads and checks an entry: after this every index holds and every reading has its schema's width.
    ///
    /// # Errors
    /// If the bytes are too many, not an entry, or one that contradicts itself.
    pub fn decode(bytes: &[u8]) -> Result<Self, EntryError> {
        if bytes.len() > MAX_BATCH_BYTES {
            return Err(EntryError::TooLarge { bytes: bytes.len() });
        }
        let entry: Self = postcard::from_bytes(bytes)?;
        let problem = match &entry {
            Self::Events(batch) => batch.inconsistency(),
            Self::Gap(gap) => gap.inconsistency(),
        };
        match problem {
            Some(problem) => Err(EntryError::Inconsistent { first: entry.first(), problem }),
            None => Ok(entry),
        }
    }
}

impl EventBatch {
    /// The sequence after the last event.
    #[must_use]
    pub fn end(&self) -> Sequence {
        self.first.plus(self.events.len() as u64)
    }

    /// Readings per stream, by index into [`Self::streams`].
    #[must_use]
    pub fn readings_by_stream(&self) -> Vec<u32> {
        let mut counts = vec![0; self.streams.len()];
        for event in &self.events {
            if let Event::Reading(reading) = event {
                counts[usize::from(reading.stream)] += 1;
            }
        }
        counts
    }

    /// What was let go, as it came in.
    pub fn shed(&self) -> impl Iterator<Item = &Shed> {
        self.events.iter().filter_map(|event| match event {
            Event::Shed(shed) => Some(shed),
            Event::Reading(_) | Event::Prediction(_) => None,
        })
    }

    fn inconsistency(&self) -> Option<&'static str> {
        if self.events.is_empty() {
            return Some("it holds no event");
        }
        if self.events.len() > COMMIT_MAX_EVENTS {
            return Some("it holds more events than a group commit may");
        }
        if self.first.0.checked_add(self.events.len() as u64).is_none() {
            return Some("its sequences overflow");
        }
        if self.streams.iter().any(|schema| schema.channels.len() > MAX_CHANNELS) {
            return Some("a stream has more channels than allowed");
        }
        self.events.iter().find_map(|event| match event {
            Event::Reading(reading) => match self.streams.get(usize::from(reading.stream)) {
                None => Some("a reading refers to a stream that is not listed"),
                Some(schema) if schema.channels.len() != reading.values.len() => {
                    Some("a reading's width differs from its stream's")
                }
                Some(_) => None,
            },
            Event::Prediction(prediction) => {
                if self.streams.get(usize::from(prediction.stream)).is_none() {
                    Some("a prediction refers to a stream that is not listed")
                } else if self.models.get(usize::from(prediction.model)).is_none() {
                    Some("a prediction refers to a model that is not listed")
                } else if !prediction.outcome.is_bounded() {
                    Some("a prediction says more than it may")
                } else {
                    None
                }
            }
            Event::Shed(shed) if usize::from(shed.stream) >= self.streams.len() => {
                Some("readings that were let go refer to a stream that is not listed")
            }
            Event::Shed(shed) if shed.ids.is_empty() => Some("no reading was let go where some are said to be"),
            Event::Shed(shed) => match shed.reason {
                GapReason::DropNewest | GapReason::Downsample => None,
                GapReason::Damaged | GapReason::DropOldest | GapReason::HubLost => {
                    Some("readings were let go for a reason that is none")
                }
            },
        })
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;

    pub(crate) fn sample_batch() -> EventBatch {
        EventBatch {
            epoch: Epoch(3),
            first: Sequence(7),
            streams: vec![StreamSchema {
                stream: StreamId::new("plant/pump1").expect("valid"),
                channels: vec![ChannelName::new("flow").expect("valid"), ChannelName::new("current").expect("valid")],
            }],
            models: vec![ModelRef { name: ModelName::new("pump").expect("valid"), version: ModelVersion(2) }],
            events: vec![
                Event::Reading(Reading {
                    stream: 0,
                    time_ms: 1_000,
                    known_normal: true,
                    id: 9,
                    values: vec![1.5, -2.0],
                }),
                Event::Prediction(Prediction {
                    stream: 0,
                    model: 0,
                    of: Sequence(7),
                    time_ms: 1_000,
                    outcome: Outcome::Anomaly(Verdict { score: 0.5, threshold: 1.0, anomaly: false }),
                }),
                Event::Prediction(Prediction {
                    stream: 0,
                    model: 0,
                    of: Sequence(7),
                    time_ms: 1_000,
                    outcome: Outcome::Label { label: "on".into(), confidence: 0.75, sure: true },
                }),
                Event::Prediction(Prediction {
                    stream: 0,
                    model: 0,
                    of: Sequence(7),
                    time_ms: 1_000,
                    outcome: Outcome::Forecast { values: vec![1.0, 2.0] },
                }),
            ],
        }
    }

    pub(crate) fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    #[test]
    fn golden_bytes_of_a_batch() {
        let entry = SpoolEntry::Events(sample_batch());
        let bytes = entry.encode().expect("encodes");
        assert_eq!(
            hex(&bytes),
            "000307010b706c616e742f70756d70310204666c6f770763757272656e7401047075\
             6d7002040000d00f010902000000000000f83f00000000000000c00100000 7d00f000000003f0000803f00010000 07d00f01026f6e0000403f01 01000007d00f02020000803f00000040"
                .replace(' ', "")
        );
        assert_eq!(SpoolEntry::decode(&bytes).expect("decodes"), entry);
    }

    #[test]
    fn golden_bytes_of_what_was_let_go() {
        let shed = Event::Shed(Shed { stream: 0, reason: GapReason::Downsample, ids: vec![9, 300] });
        let batch = EventBatch { events: vec![shed], models: vec![], ..sample_batch() };
        let entry = SpoolEntry::Events(batch.clone());
        let bytes = entry.encode().expect("encodes");
        assert_eq!(
            hex(&bytes),
            "000307010b706c616e742f70756d70310204666c6f770763757272656e740001 0200040209ac02".replace(' ', "")
        );
        assert_eq!(SpoolEntry::decode(&bytes).expect("decodes"), entry);
        let refused = |change: fn(&mut Shed)| {
            let mut batch = batch.clone();
            if let Event::Shed(shed) = &mut batch.events[0] {
                change(shed);
            }
            let bytes = postcard::to_allocvec(&SpoolEntry::Events(batch)).expect("encodes");
            SpoolEntry::decode(&bytes).expect_err("refused").to_string()
        };
        assert!(refused(|shed| shed.stream = 1).ends_with("a stream that is not listed"));
        assert!(refused(|shed| shed.ids.clear()).ends_with("no reading was let go where some are said to be"));
        assert!(refused(|shed| shed.reason = GapReason::Damaged).ends_with("for a reason that is none"));
    }

    #[test]
    fn a_mark_tells_histories_apart_and_not_what_is_cut_off() {
        let entry = SpoolEntry::Events(sample_batch());
        let mut cut = entry.clone();
        cut.trim(Sequence(9));
        assert_eq!((entry.mark(), cut.mark()), (Some(0x1e1c_8aea), entry.mark()));
        let mut other = sample_batch();
        other.events[3] = other.events[2].clone();
        assert_ne!(SpoolEntry::Events(other).mark(), entry.mark());
        let gap = Gap::unknown(Epoch(3), Sequence(7), 4, GapReason::HubLost);
        assert_eq!(SpoolEntry::Gap(gap).mark(), None);
    }

    #[test]
    fn a_batch_that_contradicts_itself_is_refused_by_name() {
        let mut batch = sample_batch();
        batch.streams[0].channels.pop();
        let bytes = postcard::to_allocvec(&SpoolEntry::Events(batch)).expect("encodes");
        let error = SpoolEntry::decode(&bytes).expect_err("width differs");
        assert_eq!(
            error.to_string(),
            "spool entry from sequence 7 is inconsistent: a reading's width differs from its stream's"
        );
    }

    proptest! {
        #[test]
        fn any_bytes_are_decoded_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
            if let Ok(entry) = SpoolEntry::decode(&bytes) {
                prop_assert!(entry.end() > entry.first());
            }
        }

        #[test]
        fn any_readings_survive_the_round_trip(
            values in proptest::collection::vec(any::<f64>().prop_filter("comparable", |v| !v.is_nan()), 2),
            time_ms in any::<i64>(), first in 0_u64..u64::MAX / 2,
        ) {
            let mut batch = sample_batch();
            batch.first = Sequence(first);
            batch.events.push(Event::Reading(Reading { stream: 0, time_ms, known_normal: false, id: 1, values }));
            let entry = SpoolEntry::Events(batch);
            let bytes = entry.encode().expect("encodes");
            prop_assert_eq!(SpoolEntry::decode(&bytes).expect("decodes"), entry);
        }
    }
}
