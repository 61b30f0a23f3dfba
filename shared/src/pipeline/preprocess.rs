//! The preprocessing steps with the state they carry from reading to reading. This is the only feature code.

use std::collections::VecDeque;

use super::{Pipeline, Step};
use crate::event::UnixMillis;
use crate::ids::ChannelName;

/// The steps of a pipeline, bound to the channels of one stream, and what they remember of it.
#[derive(Debug, Clone)]
pub struct Preprocess {
    /// Position of each input channel in a reading of the stream.
    columns: Vec<usize>,
    steps: Vec<StepState>,
    max_gap_ms: i64,
    last_time_ms: Option<UnixMillis>,
    row: Vec<f64>,
}

#[derive(Debug, Clone)]
enum StepState {
    Select { columns: Vec<usize> },
    Ema { alpha: f64, state: Vec<f64> },
    Zscore { mean: Vec<f64>, std: Vec<f64> },
    Window { length: usize, stride: usize, rows: VecDeque<Vec<f64>> },
}

/// The stream lacks a channel that the pipeline reads.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the stream has no channel {0}")]
pub struct MissingChannel(pub ChannelName);

/// What one reading gave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Continuity {
    /// The streaming state began anew with this reading, after a gap or at the start.
    Fresh,
    /// The reading continued the one before it.
    Continued,
}

impl Preprocess {
    /// Binds the steps of `pipeline`, which was checked, to a stream with these `channels`.
    ///
    /// # Errors
    /// If the stream lacks a channel that the pipeline reads.
    pub fn new(pipeline: &Pipeline, channels: &[ChannelName]) -> Result<Self, MissingChannel> {
        let columns = positions(&pipeline.input.channels, channels)?;
        let mut names = pipeline.input.channels.clone();
        let mut steps = Vec::with_capacity(pipeline.preprocess.len());
        for step in &pipeline.preprocess {
            steps.push(match step {
                Step::Select { channels } => {
                    let columns = positions(channels, &names)?;
                    names.clone_from(channels);
                    StepState::Select { columns }
                }
                Step::Ema { alpha } => StepState::Ema { alpha: *alpha, state: Vec::new() },
                Step::Zscore { mean, std } => StepState::Zscore { mean: mean.clone(), std: std.clone() },
                Step::Window { length, stride } => StepState::Window {
                    length: *length as usize,
                    stride: *stride as usize,
                    rows: VecDeque::with_capacity(*length as usize),
                },
            });
        }
        Ok(Self {
            columns,
            steps,
            max_gap_ms: i64::from(pipeline.input.max_gap_ms),
            last_time_ms: None,
            row: Vec::new(),
        })
    }

    /// Takes one reading and writes the network's input to the end of `features`, unless a window is still filling.
    /// Returns whether the state began anew with this reading and whether features were written.
    pub fn push(&mut self, time_ms: UnixMillis, values: &[f64], features: &mut Vec<f32>) -> (Continuity, bool) {
        let continues = self
            .last_time_ms
            .is_some_and(|last| time_ms.checked_sub(last).is_some_and(|gap| (0..=self.max_gap_ms).contains(&gap)));
        self.last_time_ms = Some(time_ms);
        if !continues {
            self.steps.iter_mut().for_each(StepState::reset);
        }
        let mut row = std::mem::take(&mut self.row);
        row.clear();
        row.extend(self.columns.iter().map(|column| values[*column]));
        let complete = self.steps.iter_mut().all(|step| step.apply(&mut row));
        if complete {
            features.extend(row.iter().map(|value| *value as f32));
        }
        self.row = row;
        (if continues { Continuity::Continued } else { Continuity::Fresh }, complete)
    }
}

impl StepState {
    fn reset(&mut self) {
        match self {
            Self::Ema { state, .. } => state.clear(),
            Self::Window { rows, .. } => rows.clear(),
            Self::Select { .. } | Self::Zscore { .. } => {}
        }
    }

    /// Transforms `row` in place; false while a window is filling.
    fn apply(&mut self, row: &mut Vec<f64>) -> bool {
        match self {
            Self::Select { columns } => {
                let selected: Vec<f64> = columns.iter().map(|column| row[*column]).collect();
                *row = selected;
            }
            Self::Ema { alpha, state } => {
                if state.is_empty() {
                    state.extend_from_slice(row);
                }
                for (average, value) in state.iter_mut().zip(row.iter_mut()) {
                    *average += *alpha * (*value - *average);
                    *value = *average;
                }
            }
            Self::Zscore { mean, std } => {
                for ((value, mean), std) in row.iter_mut().zip(mean).zip(std) {
                    *value = (*value - *mean) / *std;
                }
            }
            Self::Window { length, stride, rows } => {
                if rows.len() == *length {
                    rows.pop_front();
                }
                rows.push_back(row.clone());
                if rows.len() < *length {
                    return false;
                }
                row.clear();
                // Counted from the newest row, so that the newest is always in.
                let first = (*length - 1) % *stride;
                rows.iter().skip(first).step_by(*stride).for_each(|past| row.extend_from_slice(past));
            }
        }
        true
    }
}

fn positions(wanted: &[ChannelName], available: &[ChannelName]) -> Result<Vec<usize>, MissingChannel> {
    wanted
        .iter()
        .map(|name| {
            available.iter().position(|candidate| candidate == name).ok_or_else(|| MissingChannel(name.clone()))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipeline::tests::{names, sample};

    fn run(pipeline: &Pipeline, channels: &[&str], rows: &[(i64, Vec<f64>)]) -> Vec<Option<Vec<f32>>> {
        let mut state = Preprocess::new(pipeline, &names(channels)).expect("binds");
        rows.iter()
            .map(|(time_ms, values)| {
                let mut features = Vec::new();
                let (_, complete) = state.push(*time_ms, values, &mut features);
                complete.then_some(features)
            })
            .collect()
    }

    #[test]
    fn channels_are_found_by_name_whatever_their_order_in_the_stream() {
        let rows = [(0, vec![9.0, 10.0, 3.0])];
        assert_eq!(run(&sample(), &["x", "b", "a"], &rows), [Some(vec![2.0, 2.0])]);
        assert_eq!(
            Preprocess::new(&sample(), &names(&["a"])).expect_err("no b").to_string(),
            "the stream has no channel b"
        );
    }

    #[test]
    fn the_average_starts_at_the_first_value_and_anew_after_a_gap_or_a_step_back() {
        let mut pipeline = sample();
        pipeline.preprocess.truncate(1);
        let rows = [
            (0, vec![1.0, 0.0]),
            (1_000, vec![3.0, 0.0]),
            (70_000, vec![7.0, 0.0]),
            (71_000, vec![8.0, 0.0]),
            (500, vec![1.0, 0.0]),
        ];
        let firsts: Vec<f32> =
            run(&pipeline, &["a", "b"], &rows).into_iter().map(|features| features.expect("no window")[0]).collect();
        assert_eq!(firsts, [1.0, 2.0, 7.0, 7.5, 1.0]);
    }

    #[test]
    fn a_window_gives_every_nth_row_and_always_the_newest() {
        let mut pipeline = sample();
        pipeline.preprocess = vec![Step::Select { channels: names(&["b"]) }, Step::Window { length: 4, stride: 2 }];
        let rows: Vec<(i64, Vec<f64>)> = (0..6).map(|i| (i * 1_000, vec![0.0, i as f64])).collect();
        let windows = run(&pipeline, &["a", "b"], &rows);
        assert_eq!(windows[..3], [None, None, None]);
        assert_eq!(windows[3..], [Some(vec![1.0, 3.0]), Some(vec![2.0, 4.0]), Some(vec![3.0, 5.0])]);
    }
}
