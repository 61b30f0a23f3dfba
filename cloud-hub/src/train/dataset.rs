//! Segments of readings as training takes them, and the rows of features that are made of them.

use shared::event::StreamSchema;
use shared::ids::{ChannelName, Digest};
use shared::package::DataRange;
use shared::pipeline::preprocess::{MissingChannel, Preprocess, Pushed, Readings};
use shared::pipeline::statistics::scaling;
use shared::pipeline::{Baseline, Pipeline, Step};

/// The readings of one segment: known-normal, labelled, or a whole file.
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
    /// Their labels, by index into the recipe's; empty if they have none.
    pub labels: Vec<Option<u16>>,
}

impl SegmentData {
    /// The readings: time and values.
    pub fn rows(&self) -> impl Iterator<Item = (i64, &[f64])> + Clone {
        self.times_ms.iter().copied().zip(self.values.chunks_exact(self.schema.channels.len().max(1)))
    }

    /// Its first `rows` readings, or all.
    #[must_use]
    pub fn first(&self, rows: usize) -> Self {
        let mut first = self.clone();
        first.times_ms.truncate(rows);
        first.values.truncate(rows * self.schema.channels.len());
        first.labels.truncate(rows);
        first.range.rows = first.times_ms.len() as u64;
        first.range.to_ms = first.times_ms.last().copied().unwrap_or(first.range.from_ms);
        first
    }

    fn readings(&self, rows: usize) -> Readings {
        let rows = rows.min(self.len());
        Readings {
            times_ms: self.times_ms[..rows].to_vec(),
            values: self.values[..rows * self.schema.channels.len()].to_vec(),
        }
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

/// Segments, oldest first.
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

    /// All that a training sees of it: where each segment begins and ends, what its columns are, and everything in it.
    #[must_use]
    pub fn identity(&self) -> Digest {
        let segments: Vec<_> = self.segments.iter().map(|segment| (&segment.schema, segment.len())).collect();
        // Names and numbers are plain data, which postcard encodes.
        Digest::of(&postcard::to_allocvec(&(self.digest(), segments)).unwrap_or_default())
    }

    /// A hash of every time, value and label, in order.
    #[must_use]
    pub fn digest(&self) -> Digest {
        let mut bytes = Vec::new();
        for segment in &self.segments {
            segment.times_ms.iter().for_each(|time| bytes.extend_from_slice(&time.to_le_bytes()));
            segment.values.iter().for_each(|value| bytes.extend_from_slice(&value.to_le_bytes()));
            segment
                .labels
                .iter()
                .for_each(|label| bytes.extend_from_slice(&label.map_or(u16::MAX, |label| label).to_le_bytes()));
        }
        Digest::of(&bytes)
    }

    /// The readings before `end_ms`; segments of which none is left are left out.
    #[must_use]
    pub fn until(&self, end_ms: i64) -> Self {
        let cut = |segment: &SegmentData| {
            let rows = segment.times_ms.partition_point(|time_ms| *time_ms < end_ms);
            (rows > 0).then(|| segment.first(rows))
        };
        Self { segments: self.segments.iter().filter_map(cut).collect() }
    }

    /// What the pipeline's steps make of the readings, without the first `warm_up_rows` of each segment. Every segment
    /// starts with fresh state; a stream's own baseline is found from the segment's first readings, which then count too.
    ///
    /// # Errors
    /// If a segment lacks a channel.
    pub fn rows(&self, pipeline: &Pipeline, warm_up_rows: usize) -> Result<Rows, MissingChannel> {
        let mut rows = Rows {
            features: Vec::new(),
            width: pipeline.input_shape().map_or(0, |shape| shape.size()),
            from: Vec::new(),
        };
        let mut dropped = Vec::new();
        for (index, segment) in self.segments.iter().enumerate() {
            let mut preprocess = Preprocess::new(pipeline, &segment.schema.channels)?;
            if let Some(calibration) = pipeline.calibration {
                let warm_up = calibration.warm_up_rows as usize;
                if segment.len() < warm_up + 2 {
                    continue;
                }
                preprocess.calibrate(&segment.readings(calibration.rows as usize), warm_up);
            }
            for (reading, (time_ms, values)) in segment.rows().enumerate() {
                let features = if reading < warm_up_rows { &mut dropped } else { &mut rows.features };
                let pushed = preprocess.push(time_ms, values, features);
                if reading >= warm_up_rows && matches!(pushed, Pushed::Row(_)) {
                    rows.from.push((index, reading));
                }
                dropped.clear();
            }
        }
        Ok(rows)
    }

    /// Fills in the means and deviations of every z-score of `pipeline` that is the package's.
    ///
    /// # Errors
    /// If a segment lacks a channel.
    pub fn fit_scalers(&self, pipeline: &mut Pipeline, warm_up_rows: usize) -> Result<(), MissingChannel> {
        for index in 0..pipeline.preprocess.len() {
            if !matches!(pipeline.preprocess[index], Step::Zscore { baseline: Baseline::Package, .. }) {
                continue;
            }
            let mut before = pipeline.clone();
            before.preprocess.truncate(index);
            let Rows { features, width, .. } = self.rows(&before, warm_up_rows)?;
            let (mean, std) = scaling(&features, width);
            pipeline.preprocess[index] = Step::Zscore { baseline: Baseline::Package, mean, std };
        }
        Ok(())
    }
}

/// Rows of features, and which reading each is of.
#[derive(Debug, Clone, PartialEq)]
pub struct Rows {
    /// The features, row after row.
    pub features: Vec<f32>,
    /// Numbers in a row.
    pub width: usize,
    /// Segment and reading of each row, by index.
    pub from: Vec<(usize, usize)>,
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use shared::ids::{AgentId, StreamId};
    use shared::pipeline::statistics::mean_and_deviation;

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
            labels: Vec::new(),
        }
    }

    #[test]
    fn scalers_make_the_training_rows_zero_mean_and_unit_deviation() {
        let dataset = Dataset { segments: vec![segment(0, 5.0, 300), segment(1, 5.2, 300)] };
        let recipe = crate::train::fit::tests::recipe();
        let mut pipeline = recipe.pipeline(&dataset.common_channels()).expect("fits");
        dataset.fit_scalers(&mut pipeline, 60).expect("fits");
        let features = dataset.rows(&pipeline, 60).expect("channels").features;
        assert_eq!(features.len(), 2 * 2 * 240);
        for column in 0..2 {
            let values = features.iter().skip(column).step_by(2).map(|value| f64::from(*value));
            let (mean, deviation) = mean_and_deviation(values);
            assert!(mean.abs() < 1e-4 && (deviation - 1.0).abs() < 1e-3, "{mean} {deviation}");
        }
    }
}
