//! Examples: what a network is given, and what it should give.

use std::ops::Range;

use shared::ids::ChannelName;
use shared::pipeline::preprocess::MissingChannel;
use shared::pipeline::{Decision, Pipeline};

use super::dataset::{Dataset, Rows, SegmentData};
use crate::recipe::data::{Extent, Split};

/// Examples, one after another.
#[derive(Debug, Clone, PartialEq)]
pub struct Examples {
    /// What the network is given, row after row.
    pub inputs: Vec<f32>,
    /// Numbers in a row.
    pub input_size: usize,
    /// What it should give.
    pub targets: Targets,
}

/// What a network should give.
#[derive(Debug, Clone, PartialEq)]
pub enum Targets {
    /// What it was given.
    Itself,
    /// The logits of these labels.
    Labels(Vec<u16>),
    /// These numbers, row after row.
    Values(Vec<f32>),
}

/// The times that divide readings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// The end of what is trained on.
    pub train_end_ms: i64,
    /// The end of what decides when to stop.
    pub validation_end_ms: i64,
    /// The end of what is measured on.
    pub test_end_ms: i64,
}

impl Bounds {
    /// Everything is trained on.
    pub const ALL: Self = Self { train_end_ms: i64::MAX, validation_end_ms: i64::MAX, test_end_ms: i64::MAX };

    /// The bounds that `split` sets in `dataset`.
    #[must_use]
    pub fn of(split: Option<&Split>, dataset: &Dataset) -> Self {
        let mut times: Vec<i64> = dataset.segments.iter().flat_map(|segment| &segment.times_ms).copied().collect();
        times.sort_unstable();
        let (Some(split), Some(first)) = (split, times.first().copied()) else {
            return Self::ALL;
        };
        let (mut share, mut end_ms) = (0.0, first);
        let mut next = |extent: Extent| {
            match extent {
                Extent::Milliseconds(length) => end_ms = end_ms.saturating_add_unsigned(length),
                Extent::Share(part) => {
                    share += part;
                    let rows = (share * times.len() as f64).round() as usize;
                    end_ms = times.get(rows).copied().unwrap_or(i64::MAX).max(end_ms);
                }
            }
            end_ms
        };
        Self {
            train_end_ms: next(split.train),
            validation_end_ms: next(split.validation),
            test_end_ms: next(split.test),
        }
    }

    /// When what is trained on was measured.
    #[must_use]
    pub fn train(&self) -> Range<i64> {
        i64::MIN..self.train_end_ms
    }

    /// When what decides when to stop was measured.
    #[must_use]
    pub fn validation(&self) -> Range<i64> {
        self.train_end_ms..self.validation_end_ms
    }

    /// When what is measured on was measured.
    #[must_use]
    pub fn test(&self) -> Range<i64> {
        self.validation_end_ms..self.test_end_ms
    }
}

impl Examples {
    /// The examples in `dataset` whose targets were measured `within` a time.
    ///
    /// # Errors
    /// If a segment lacks a channel.
    pub fn of(
        dataset: &Dataset,
        pipeline: &Pipeline,
        warm_up_rows: usize,
        within: &Range<i64>,
    ) -> Result<Self, MissingChannel> {
        let rows = dataset.rows(pipeline, warm_up_rows)?;
        let mut chosen = Chosen { rows: &rows, inputs: Vec::new() };
        let targets = match &pipeline.decision {
            Decision::Anomaly { .. } => {
                chosen.take(|segment, reading| within.contains(&dataset.segments[segment].times_ms[reading]));
                Targets::Itself
            }
            Decision::Classify { .. } => {
                let mut labels = Vec::new();
                chosen.take(|segment, reading| {
                    let segment = &dataset.segments[segment];
                    let label = segment.labels.get(reading).copied().flatten();
                    let label = label.filter(|_| within.contains(&segment.times_ms[reading]));
                    labels.extend(label);
                    label.is_some()
                });
                Targets::Labels(labels)
            }
            Decision::Forecast { horizon, targets, mean, std, .. } => {
                let mut values = Vec::new();
                let future = Future { horizon: *horizon as usize, targets, mean, std, within };
                chosen.take(|segment, reading| {
                    future.take(&dataset.segments[segment], reading, pipeline.input.max_gap_ms, &mut values)
                });
                Targets::Values(values)
            }
        };
        Ok(Self { inputs: chosen.inputs, input_size: rows.width, targets })
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.inputs.len() / self.input_size.max(1)
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The input of one.
    #[must_use]
    pub fn input(&self, index: usize) -> &[f32] {
        &self.inputs[index * self.input_size..][..self.input_size]
    }
}

struct Chosen<'a> {
    rows: &'a Rows,
    inputs: Vec<f32>,
}

impl Chosen<'_> {
    fn take(&mut self, mut wanted: impl FnMut(usize, usize) -> bool) {
        let rows = self.rows.features.chunks_exact(self.rows.width.max(1));
        for (features, (segment, reading)) in rows.zip(&self.rows.from) {
            if wanted(*segment, *reading) {
                self.inputs.extend_from_slice(features);
            }
        }
    }
}

/// What came after a reading.
struct Future<'a> {
    horizon: usize,
    targets: &'a [ChannelName],
    mean: &'a [f64],
    std: &'a [f64],
    within: &'a Range<i64>,
}

impl Future<'_> {
    /// Adds the scaled values of the targets in the `horizon` readings after `reading`, step after step, if they were all
    /// measured within the time, one after another.
    fn take(&self, segment: &SegmentData, reading: usize, max_gap_ms: u32, values: &mut Vec<f32>) -> bool {
        let Some(times) = segment.times_ms.get(reading..=reading + self.horizon) else {
            return false;
        };
        let follows = times.windows(2).all(|pair| (0..=i64::from(max_gap_ms)).contains(&(pair[1] - pair[0])));
        if !follows || !times[1..].iter().all(|time_ms| self.within.contains(time_ms)) {
            return false;
        }
        let columns: Vec<usize> = self
            .targets
            .iter()
            .filter_map(|target| segment.schema.channels.iter().position(|name| name == target))
            .collect();
        let width = segment.schema.channels.len();
        let start = values.len();
        for step in 1..=self.horizon {
            let row = &segment.values[(reading + step) * width..][..width];
            let scaled =
                |(target, column): (usize, &usize)| ((row[*column] - self.mean[target]) / self.std[target]) as f32;
            values.extend(columns.iter().enumerate().map(scaled));
        }
        let is_whole = values[start..].iter().all(|value| value.is_finite());
        if !is_whole {
            values.truncate(start);
        }
        is_whole
    }
}

#[cfg(test)]
mod tests {
    use super::super::dataset::tests::segment;
    use super::*;
    use shared::pipeline::{Channel, Input, Missing, Step};

    fn forecast(horizon: u32) -> Pipeline {
        let name = |name: &str| ChannelName::new(name).expect("valid");
        Pipeline {
            input: Input {
                channels: vec![Channel::named(name("a")), Channel::named(name("b"))],
                max_gap_ms: 1_500,
                interval_ms: 1_000,
                missing: Missing::Hold,
            },
            calibration: None,
            preprocess: vec![Step::Window { length: 3, stride: 1, hop: 1 }],
            network: vec![],
            decision: Decision::Forecast {
                horizon,
                targets: vec![name("b")],
                mean: vec![1.0],
                std: vec![2.0],
                interval_90: vec![],
            },
        }
    }

    #[test]
    fn a_forecasts_examples_lie_with_all_their_targets_in_one_part() {
        let dataset = Dataset { segments: vec![segment(0, 5.0, 20)] };
        let of = |within: Range<i64>| Examples::of(&dataset, &forecast(2), 0, &within).expect("channels");
        // Readings 0 to 9, windows from reading 2 on, targets up to two later.
        let train = of(i64::MIN..10_000);
        assert_eq!(train.len(), 6);
        assert_eq!(train.input(0)[4], dataset.segments[0].values[4] as f32);
        let Targets::Values(values) = &train.targets else { panic!("values") };
        let b = |reading: usize| ((dataset.segments[0].values[2 * reading + 1] - 1.0) / 2.0) as f32;
        assert_eq!(values[..4], [b(3), b(4), b(4), b(5)]);
        // The inputs of later parts may reach back.
        assert_eq!(of(10_000..20_000).len(), 9);
    }

    #[test]
    fn a_gap_ends_a_forecast() {
        let mut late = segment(0, 5.0, 20);
        late.times_ms.iter_mut().skip(10).for_each(|time_ms| *time_ms += 5_000);
        let dataset = Dataset { segments: vec![late] };
        let examples = Examples::of(&dataset, &forecast(2), 0, &(i64::MIN..i64::MAX)).expect("channels");
        // 2..=7 before the gap, 12..=17 after it.
        assert_eq!(examples.len(), 12);
    }

    #[test]
    fn bounds_are_shares_of_the_readings_or_stretches_of_time() {
        let dataset = Dataset { segments: vec![segment(0, 5.0, 10), segment(1, 5.0, 10)] };
        let split = |train: &str, validation: &str| Split {
            train: train.parse().expect(train),
            validation: validation.parse().expect(validation),
            test: Extent::default(),
        };
        let shares = Bounds::of(Some(&split("50 %", "25 %")), &dataset);
        assert_eq!((shares.train_end_ms, shares.validation_end_ms), (10_000_000, 10_005_000));
        let times = Bounds::of(Some(&split("5 s", "2 s")), &dataset);
        assert_eq!((times.train_end_ms, times.validation_end_ms, times.test_end_ms), (5_000, 7_000, 7_000));
        assert_eq!(Bounds::of(None, &dataset), Bounds::ALL);
    }
}
