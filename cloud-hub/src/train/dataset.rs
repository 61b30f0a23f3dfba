//! Known-normal segments as training takes them.

use shared::event::StreamSchema;
use shared::ids::{ChannelName, Digest};
use shared::package::DataRange;
use shared::pipeline::preprocess::{MissingChannel, Preprocess};
use shared::pipeline::{Pipeline, Step};

/// The readings of one known-normal segment.
#[derive(Debug, Clone, PartialEq)]
pub struct SegmentData {
    /// Where they come from.
    pub range: DataRange,
    /// Their stream and its channels.
    pub schema: StreamSchema,
    /// Their times.
    pub times_ms: Vec<i64>,
    /// Their values, row-major, one column per channel of the schema.
    pub values: Vec<f64>,
}

impl SegmentData {
    /// The readings: time and values.
    pub fn rows(&self) -> impl Iterator<Item = (i64, &[f64])> + Clone {
        self.times_ms.iter().copied().zip(self.values.chunks_exact(self.schema.channels.len().max(1)))
    }

    /// How many readings.
    #[must_use]
    pub fn len(&self) -> usize {
        self.times_ms.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.times_ms.is_empty()
    }

    /// The values of one channel, in order; empty if the stream has no such channel.
    #[must_use]
    pub fn channel(&self, name: &ChannelName) -> Vec<f64> {
        match self.schema.channels.iter().position(|channel| channel == name) {
            Some(column) => self.rows().map(|(_, values)| values[column]).collect(),
            None => Vec::new(),
        }
    }
}

/// Known-normal segments, oldest first.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Dataset {
    /// The segments.
    pub segments: Vec<SegmentData>,
}

impl Dataset {
    /// Where the readings come from.
    pub fn ranges(&self) -> impl Iterator<Item = &DataRange> {
        self.segments.iter().map(|segment| &segment.range)
    }

    /// The channels that every segment has, in the first one's order.
    #[must_use]
    pub fn common_channels(&self) -> Vec<ChannelName> {
        let Some(first) = self.segments.first() else {
            return Vec::new();
        };
        let everywhere =
            |name: &&ChannelName| self.segments.iter().all(|segment| segment.schema.channels.contains(*name));
        first.schema.channels.iter().filter(everywhere).cloned().collect()
    }

    /// The dataset without the segments that `left_out` names by index, and those segments.
    #[must_use]
    pub fn split(&self, left_out: impl Fn(usize) -> bool) -> (Self, Self) {
        let (out, kept): (Vec<_>, Vec<_>) =
            self.segments.iter().cloned().enumerate().partition(|(index, _)| left_out(*index));
        let strip = |segments: Vec<(usize, SegmentData)>| Self {
            segments: segments.into_iter().map(|(_, segment)| segment).collect(),
        };
        (strip(kept), strip(out))
    }

    /// A hash of every time and value, in order.
    #[must_use]
    pub fn digest(&self) -> Digest {
        let mut bytes = Vec::new();
        for segment in &self.segments {
            segment.times_ms.iter().for_each(|time| bytes.extend_from_slice(&time.to_le_bytes()));
            segment.values.iter().for_each(|value| bytes.extend_from_slice(&value.to_le_bytes()));
        }
        Digest::of(&bytes)
    }

    /// What the pipeline's steps make of the readings, row after row, without the first `warm_up_rows` of each
    /// segment. Every segment starts with fresh state.
    ///
    /// # Errors
    /// If a segment lacks a channel.
    pub fn features(&self, pipeline: &Pipeline, warm_up_rows: usize) -> Result<Vec<f32>, MissingChannel> {
        let mut features = Vec::new();
        let mut dropped = Vec::new();
        for segment in &self.segments {
            let mut preprocess = Preprocess::new(pipeline, &segment.schema.channels)?;
            for (row, (time_ms, values)) in segment.rows().enumerate() {
                if row < warm_up_rows {
                    preprocess.push(time_ms, values, &mut dropped);
                    dropped.clear();
                } else {
                    preprocess.push(time_ms, values, &mut features);
                }
            }
        }
        Ok(features)
    }

    /// Fills in the means and deviations of every z-score of `pipeline`.
    ///
    /// # Errors
    /// If a segment lacks a channel.
    pub fn fit_scalers(&self, pipeline: &mut Pipeline, warm_up_rows: usize) -> Result<(), MissingChannel> {
        for index in 0..pipeline.preprocess.len() {
            if !matches!(pipeline.preprocess[index], Step::Zscore { .. }) {
                continue;
            }
            let mut before = pipeline.clone();
            before.preprocess.truncate(index);
            let features = self.features(&before, warm_up_rows)?;
            let width = before.features().unwrap_or(1).max(1);
            let (mut mean, mut std) = (Vec::with_capacity(width), Vec::with_capacity(width));
            for column in 0..width {
                let values = || features.iter().skip(column).step_by(width).map(|value| f64::from(*value));
                let (average, deviation) = mean_and_deviation(values());
                mean.push(average);
                // A frozen channel must not make every later twitch of it infinite.
                std.push(deviation.max(1e-3 * average.abs()).max(1e-9));
            }
            pipeline.preprocess[index] = Step::Zscore { mean, std };
        }
        Ok(())
    }
}

/// Mean and population standard deviation; zeros for nothing.
#[must_use]
pub fn mean_and_deviation(values: impl Iterator<Item = f64> + Clone) -> (f64, f64) {
    let count = values.clone().count().max(1) as f64;
    let mean = values.clone().sum::<f64>() / count;
    let variance = values.map(|value| (value - mean) * (value - mean)).sum::<f64>() / count;
    (mean, variance.sqrt())
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use shared::ids::{AgentId, StreamId};

    /// A segment of a two-channel machine that runs around `level`, with some noise.
    pub(crate) fn segment(index: u32, level: f64, rows: u32) -> SegmentData {
        let name = |name: &str| ChannelName::new(name).expect("valid");
        let stream = StreamId::new("pump").expect("valid");
        let start = i64::from(index) * 10_000_000;
        let times_ms: Vec<i64> = (0..i64::from(rows)).map(|row| start + row * 1_000).collect();
        let noise = |row: u32, salt: u32| f64::from((row * 7919 + salt * 104_729 + index * 31) % 1_000) / 1_000.0 - 0.5;
        let values = (0..rows).flat_map(|row| [level + noise(row, 1), 2.0 * level + noise(row, 2)]).collect();
        SegmentData {
            range: DataRange {
                agent: AgentId::new("box").expect("valid"),
                stream: stream.clone(),
                from_ms: start,
                to_ms: start + i64::from(rows - 1) * 1_000,
                rows: u64::from(rows),
            },
            schema: StreamSchema { stream, channels: vec![name("a"), name("b")] },
            times_ms,
            values,
        }
    }

    #[test]
    fn scalers_make_the_training_rows_zero_mean_and_unit_deviation() {
        let dataset = Dataset { segments: vec![segment(0, 5.0, 300), segment(1, 5.2, 300)] };
        let recipe = crate::train::fit::tests::recipe();
        let mut pipeline = recipe.pipeline(&dataset.common_channels()).expect("fits");
        dataset.fit_scalers(&mut pipeline, 60).expect("fits");
        let features = dataset.features(&pipeline, 60).expect("channels");
        assert_eq!(features.len(), 2 * 2 * 240);
        for column in 0..2 {
            let values = features.iter().skip(column).step_by(2).map(|value| f64::from(*value));
            let (mean, deviation) = mean_and_deviation(values);
            assert!(mean.abs() < 1e-4 && (deviation - 1.0).abs() < 1e-3, "{mean} {deviation}");
        }
    }
}
