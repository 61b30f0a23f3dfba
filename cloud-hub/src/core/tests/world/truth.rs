//! What must be known of streams, computed from the log by other code than the core's.

use std::collections::BTreeMap;

use shared::event::{Event as StoredEvent, EventBatch, UnixMillis};
use shared::ids::{AgentId, StreamId};

use crate::core::observe::{Observed, StreamFacts};
use crate::core::segments::MAX_GAP_MS;

/// What the log says of streams, computed in the plainest way.
#[derive(Default)]
pub(super) struct Truth {
    streams: BTreeMap<(AgentId, StreamId), StreamTruth>,
}

#[derive(Default)]
struct StreamTruth {
    readings: u64,
    known_normal: u64,
    predictions: u64,
    anomalous: u64,
    last_time_ms: UnixMillis,
    /// Known-normal runs: first and last time, and readings.
    runs: Vec<(UnixMillis, UnixMillis, u64)>,
    in_run: bool,
}

impl Truth {
    pub(super) fn of(log: &[(AgentId, EventBatch)]) -> Self {
        let mut truth = Self::default();
        for (agent, batch) in log {
            for event in &batch.events {
                let index = match event {
                    StoredEvent::Reading(reading) => reading.stream,
                    StoredEvent::Prediction(prediction) => prediction.stream,
                    StoredEvent::Shed(shed) => shed.stream,
                };
                let key = (agent.clone(), batch.streams[usize::from(index)].stream.clone());
                truth.streams.entry(key).or_default().take(event);
            }
        }
        truth
    }

    pub(super) fn check(&self, observed: &Observed, may_be_cut: bool) {
        assert_eq!(observed.streams().count(), self.streams.len());
        for (key, facts) in observed.streams() {
            let truth = &self.streams[key];
            let predictions = facts.predictions.values().fold((0, 0), |(a, b), c| (a + c.total, b + c.anomalous));
            assert_eq!((facts.readings, facts.known_normal), (truth.readings, truth.known_normal), "{key:?}");
            assert_eq!(predictions, (truth.predictions, truth.anomalous), "{key:?}");
            assert_eq!(facts.last_time_ms, truth.last_time_ms, "{key:?}");
            truth.check_segments(facts, may_be_cut);
        }
    }
}

impl StreamTruth {
    fn take(&mut self, event: &StoredEvent) {
        let reading = match event {
            StoredEvent::Reading(reading) => reading,
            StoredEvent::Prediction(prediction) => {
                self.predictions += 1;
                self.anomalous += u64::from(prediction.outcome.is_anomaly());
                return;
            }
            StoredEvent::Shed(_) => return,
        };
        let gap = reading.time_ms - self.last_time_ms;
        if reading.known_normal {
            match self.runs.last_mut() {
                Some(run) if self.in_run && (0..=MAX_GAP_MS).contains(&gap) => {
                    (run.1, run.2) = (reading.time_ms, run.2 + 1);
                }
                Some(_) | None => self.runs.push((reading.time_ms, reading.time_ms, 1)),
            }
        }
        self.readings += 1;
        self.known_normal += u64::from(reading.known_normal);
        (self.in_run, self.last_time_ms) = (reading.known_normal, reading.time_ms);
    }

    /// Segments are the runs; where the stream drifted, a run may be cut, but no reading is lost or moved.
    fn check_segments(&self, facts: &StreamFacts, may_be_cut: bool) {
        let mut segments = facts.segments.all().map(|segment| (segment.from_ms, segment.to_ms, segment.rows));
        for run in &self.runs {
            let mut joined = segments.next().expect("no run is missing");
            while may_be_cut && joined.2 < run.2 {
                let next = segments.next().expect("no part of a run is missing");
                assert!(next.0 > joined.1);
                joined = (joined.0, next.1, joined.2 + next.2);
            }
            assert_eq!(joined, *run);
        }
        assert_eq!(segments.next(), None);
    }
}
