//! Drift of one stream from what its model was trained on: per channel a decayed histogram against the reference in
//! the package; an alarm needs a divergence never seen on the training data, for some time on end.

pub mod cause;
pub mod own;

use serde::{Deserialize, Serialize};
use shared::drift::{DecayedHistogram, DriftReference};
use shared::event::UnixMillis;
use shared::ids::{AgentId, ChannelName, ModelName, ModelVersion, StreamId};

use super::limits::DRIFT_FILL_ROWS;
use cause::{Cause, Excess, Spread};

/// How drift is judged, in readings.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DriftRules {
    /// Readings in excess on end while an operator vouches for normal operation: the machine is well, so it is the
    /// world that changed.
    pub known_normal_rows: u32,
    /// Readings in excess on end without that word: longer than faults last.
    pub rows: u32,
}

impl Default for DriftRules {
    fn default() -> Self {
        Self { known_normal_rows: 60, rows: 600 }
    }
}

/// A drift alarm.
#[derive(Debug, Clone, PartialEq)]
pub struct DriftAlarm {
    /// The model whose training data the stream left.
    pub model: ModelName,
    /// Its version.
    pub version: ModelVersion,
    /// The agent.
    pub agent: AgentId,
    /// The stream.
    pub stream: StreamId,
    /// Event time of the alarm.
    pub raised_ms: UnixMillis,
    /// Event time of its end.
    pub cleared_ms: Option<UnixMillis>,
    /// The channels in excess when it was raised.
    pub channels: Vec<ChannelDrift>,
    /// How many readings on end had been in excess.
    pub rows: u32,
    /// What it comes from.
    pub cause: Cause,
}

/// How far one channel is from its reference.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ChannelDrift {
    /// The channel.
    pub channel: ChannelName,
    /// Its Jensen-Shannon divergence from the training data in bits.
    pub divergence: f64,
    /// The divergence it should stay below.
    pub threshold: f64,
    /// Whether it does not.
    pub excess: bool,
}

/// The watch over one stream.
#[derive(Debug, Clone)]
pub struct DriftWatch {
    version: ModelVersion,
    reference: DriftReference,
    /// Position of each reference channel in a reading; absent channels are not watched.
    columns: Vec<Option<usize>>,
    histograms: Vec<DecayedHistogram>,
    /// Sums of weights, values and squares per channel, in which old values fade as in the histograms.
    sums: Vec<[f64; 3]>,
    /// The newest value of each channel, and how often on end it was said.
    newest: Vec<(f64, u32)>,
    seen: u32,
    excess_rows: u32,
    excess_known_normal_rows: u32,
    calm_rows: u32,
    raised: Option<UnixMillis>,
}

/// What a reading changed.
#[derive(Debug, Clone, PartialEq)]
pub enum Change {
    /// The stream has drifted.
    Raised {
        /// Readings on end in excess.
        rows: u32,
    },
    /// It has come back.
    Cleared {
        /// When the alarm was raised.
        raised_ms: UnixMillis,
    },
}

impl DriftWatch {
    /// Watches a stream with these `channels` against the reference of a version. `raised` is when the alarm was
    /// raised, if it was up before the hub started.
    #[must_use]
    pub fn new(
        version: ModelVersion,
        reference: &DriftReference,
        channels: &[ChannelName],
        raised: Option<UnixMillis>,
    ) -> Self {
        let columns = reference
            .channels
            .iter()
            .map(|wanted| channels.iter().position(|channel| *channel == wanted.name))
            .collect();
        let histograms: Vec<DecayedHistogram> =
            reference.channels.iter().map(|channel| DecayedHistogram::new(channel, reference.half_life)).collect();
        Self {
            version,
            reference: reference.clone(),
            columns,
            sums: vec![[0.0; 3]; histograms.len()],
            newest: vec![(f64::NAN, 0); histograms.len()],
            histograms,
            seen: 0,
            excess_rows: 0,
            excess_known_normal_rows: 0,
            calm_rows: 0,
            raised,
        }
    }

    /// The version watched against.
    #[must_use]
    pub fn version(&self) -> ModelVersion {
        self.version
    }

    /// Whether the alarm is up.
    #[must_use]
    pub fn is_raised(&self) -> bool {
        self.raised.is_some()
    }

    /// How far each channel is now.
    #[must_use]
    pub fn channels(&self) -> Vec<ChannelDrift> {
        self.reference
            .channels
            .iter()
            .zip(&self.histograms)
            .map(|(reference, histogram)| {
                let divergence = histogram.divergence(reference);
                ChannelDrift {
                    channel: reference.name.clone(),
                    divergence,
                    threshold: reference.threshold,
                    excess: divergence > reference.threshold,
                }
            })
            .collect()
    }

    /// What the stream is held against.
    #[must_use]
    pub fn reference(&self) -> &DriftReference {
        &self.reference
    }

    /// The shares of what comes in now, by channel and bin of the reference.
    pub fn shares(&self) -> impl Iterator<Item = Vec<f64>> {
        self.histograms.iter().map(DecayedHistogram::shares)
    }

    /// Whether any channel is beyond its threshold now.
    #[must_use]
    pub fn is_in_excess(&self) -> bool {
        self.excess_rows > 0
    }

    /// What the drift comes from, if `drifting` of the model's `streams` drift beside this one.
    #[must_use]
    pub fn cause(&self, drifting: usize, streams: usize) -> Cause {
        let watched = self.columns.iter().flatten().count();
        let channels = self.reference.channels.iter().zip(&self.sums).zip(&self.newest).zip(self.channels());
        let excess: Vec<_> = channels
            .filter(|(_, drift)| drift.excess)
            .map(|(((reference, [weight, sum, square]), (_, same_rows)), drift)| {
                // Measured from the lowest training value, so that small differences of large numbers stay exact.
                let low = reference.edges.first().copied().unwrap_or(0.0);
                let mean = sum / weight.max(f64::MIN_POSITIVE);
                let variance = square / weight.max(f64::MIN_POSITIVE) - mean * mean;
                let now = Spread { mean: low + mean, deviation: variance.max(0.0).sqrt() };
                Excess { channel: drift.channel, before: Spread::of_reference(reference), now, same_rows: *same_rows }
            })
            .collect();
        cause::of(&excess, watched, drifting, streams)
    }

    /// Takes the next reading.
    pub fn add(
        &mut self,
        rules: DriftRules,
        time_ms: UnixMillis,
        values: &[f64],
        known_normal: bool,
    ) -> Option<Change> {
        let mut excess = false;
        self.seen = self.seen.saturating_add(1);
        let judged = self.seen > DRIFT_FILL_ROWS;
        let keep = 0.5_f64.powf(1.0 / self.reference.half_life);
        let states = self.histograms.iter_mut().zip(&mut self.sums).zip(&mut self.newest);
        let channels = self.reference.channels.iter().zip(states).zip(&self.columns);
        for ((reference, ((histogram, sums), newest)), column) in channels {
            if let Some(value) = column.and_then(|column| values.get(column)) {
                histogram.add(reference, *value);
                *newest = if newest.0 == *value { (*value, newest.1.saturating_add(1)) } else { (*value, 1) };
                if value.is_finite() {
                    let shifted = value - reference.edges.first().copied().unwrap_or(0.0);
                    *sums = [keep * sums[0] + 1.0, keep * sums[1] + shifted, keep * sums[2] + shifted * shifted];
                }
                excess |= judged && histogram.divergence(reference) > reference.threshold;
            }
        }
        if excess {
            self.excess_rows += 1;
            self.excess_known_normal_rows = if known_normal { self.excess_known_normal_rows + 1 } else { 0 };
            self.calm_rows = 0;
        } else {
            self.excess_rows = 0;
            self.excess_known_normal_rows = 0;
            self.calm_rows += u32::from(judged);
        }
        let drifted = self.excess_rows >= rules.rows || self.excess_known_normal_rows >= rules.known_normal_rows;
        match self.raised {
            None if drifted => {
                self.raised = Some(time_ms);
                Some(Change::Raised { rows: self.excess_rows })
            }
            Some(raised_ms) if self.calm_rows >= rules.known_normal_rows => {
                self.raised = None;
                Some(Change::Cleared { raised_ms })
            }
            None | Some(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use shared::drift::ChannelReference;

    fn watch() -> DriftWatch {
        let name = ChannelName::new("flow").expect("valid");
        let values: Vec<f64> = (0..1_000).map(|i| f64::from(i % 100)).collect();
        let mut channel = ChannelReference::fit(name.clone(), &values);
        channel.threshold = 0.8;
        let reference = DriftReference { channels: vec![channel], half_life: 40.0 };
        DriftWatch::new(ModelVersion(1), &reference, &[ChannelName::new("other").expect("valid"), name], None)
    }

    fn run(watch: &mut DriftWatch, rows: i64, value: f64, known_normal: bool) -> Vec<(i64, Change)> {
        (0..rows)
            .filter_map(|i| {
                let spread = f64::from((i * 37 % 100) as i32);
                watch
                    .add(DriftRules::default(), i * 1_000, &[0.0, value + spread], known_normal)
                    .map(|change| (i, change))
            })
            .collect()
    }

    #[test]
    fn normal_readings_raise_nothing_and_a_moved_operating_point_does_within_two_persistences() {
        let mut watch = watch();
        assert!(run(&mut watch, 2_000, 0.0, true).is_empty());
        let changes = run(&mut watch, 400, 500.0, true);
        assert_eq!(changes.len(), 1);
        assert!(matches!(changes[0], (60..=300, Change::Raised { rows: 60 })), "{changes:?}");
        assert!(watch.is_raised() && watch.channels()[0].divergence > 0.9);
    }

    #[test]
    fn a_fault_that_nobody_vouches_for_is_no_drift_until_it_lasts_longer_than_faults_do() {
        let mut watch = watch();
        run(&mut watch, 500, 0.0, false);
        assert!(run(&mut watch, 400, 500.0, false).is_empty());
        assert!(matches!(run(&mut watch, 400, 500.0, false)[..], [(_, Change::Raised { rows: 600 })]));
    }

    #[test]
    fn the_alarm_ends_when_the_stream_has_been_back_for_a_while() {
        let mut watch = watch();
        run(&mut watch, 300, 500.0, true);
        assert!(watch.is_raised());
        assert!(matches!(run(&mut watch, 600, 0.0, true)[..], [(_, Change::Cleared { .. })]));
    }
}
