//! The preprocessing steps with the state they carry from reading to reading. This is the only feature code.

mod window;

use serde::{Deserialize, Serialize};

use self::window::{Ring, Spectrum, statistic};
use super::statistics::scaling;
use super::step::{Columns, Cycle, Statistic};
use super::{Baseline, Missing, Pipeline, PipelineError, Place, Stage, Step};
use crate::event::UnixMillis;
use crate::ids::ChannelName;

const DAY_MS: f64 = 86_400_000.0;
/// The first of January 1970 was a Thursday, the fourth day of its week.
const DAYS_BEFORE_1970: f64 = 3.0;

/// The steps of a pipeline, bound to the channels of one stream, and what they remember of it.
#[derive(Debug, Clone)]
pub struct Preprocess {
    inputs: Vec<InputColumn>,
    missing: Missing,
    max_gap_ms: i64,
    steps: Vec<Bound>,
    memory: Memory,
    row: Vec<f64>,
    next: Vec<f64>,
}

/// What the steps remember of a stream.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Memory {
    last_time_ms: Option<UnixMillis>,
    /// The last value of each input column; empty before the first reading.
    held: Vec<f64>,
    steps: Vec<StepMemory>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
enum StepMemory {
    Nothing,
    Average(Vec<f64>),
    Rows(Ring),
    Baseline { mean: Vec<f64>, std: Vec<f64> },
}

#[derive(Debug, Clone)]
struct InputColumn {
    name: ChannelName,
    /// Where it is in a reading of the stream.
    position: usize,
    range: Option<(f64, f64)>,
}

/// A step with everything it knows before the first reading.
#[derive(Debug, Clone)]
enum Bound {
    Select { columns: Vec<usize> },
    Ema { alpha: f64 },
    Zscore { mean: Vec<f64>, std: Vec<f64> },
    StreamZscore,
    Diff { rows: usize },
    Clip { low: f64, high: f64 },
    Lags { rows: Vec<usize> },
    Calendar { of: Vec<Cycle>, offset_ms: f64 },
    Window { length: usize, stride: usize, hop: u32 },
    Stats { of: Vec<Statistic>, channels: usize },
    FftBands { spectrum: Box<Spectrum>, channels: usize },
}

/// The stream lacks a channel that the pipeline reads.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the stream has no channel {0}")]
pub struct MissingChannel(pub ChannelName);

/// Whether a reading continued what came before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Continuity {
    /// The streaming state began anew with this reading, after a gap or at the start.
    Fresh,
    /// The reading continued the one before it.
    Continued,
}

/// What one reading gave.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Pushed {
    /// A row for the network.
    Row(Continuity),
    /// None: a window, a lag or a difference has not seen enough readings.
    Filling,
    /// None: the next window is not due.
    BetweenHops,
    /// None: this channel has no value, and none to hold.
    MissingValue(ChannelName),
}

/// Readings of one stream, one after another.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Readings {
    /// When each was measured.
    pub times_ms: Vec<UnixMillis>,
    /// The values, row-major.
    pub values: Vec<f64>,
}

impl Readings {
    /// Adds one.
    pub fn push(&mut self, time_ms: UnixMillis, values: &[f64]) {
        self.times_ms.push(time_ms);
        self.values.extend_from_slice(values);
    }

    /// Time and values of each.
    pub fn iter(&self) -> impl Iterator<Item = (UnixMillis, &[f64])> + Clone {
        let width = self.values.len() / self.times_ms.len().max(1);
        self.times_ms.iter().copied().zip(self.values.chunks_exact(width.max(1)))
    }
}

enum Applied {
    Done,
    Filling,
    BetweenHops,
}

impl Preprocess {
    /// Binds the steps of `pipeline`, which was checked, to a stream with these `channels`.
    ///
    /// # Errors
    /// If the stream lacks a channel that the pipeline reads.
    pub fn new(pipeline: &Pipeline, channels: &[ChannelName]) -> Result<Self, MissingChannel> {
        let inputs = pipeline
            .input
            .channels
            .iter()
            .map(|channel| {
                let position = channels.iter().position(|name| *name == channel.name);
                let position = position.ok_or_else(|| MissingChannel(channel.name.clone()))?;
                Ok(InputColumn { name: channel.name.clone(), position, range: channel.range })
            })
            .collect::<Result<_, _>>()?;
        let mut columns = Columns::of_channels(pipeline.input.names());
        let mut steps = Vec::with_capacity(pipeline.preprocess.len());
        let mut memory = Memory::default();
        for step in &pipeline.preprocess {
            let (bound, remembered) = Bound::new(step, &columns);
            steps.push(bound);
            memory.steps.push(remembered);
            // It was checked, so it fits.
            columns = step.check(&columns, Stage::Recipe).unwrap_or(columns);
        }
        Ok(Self {
            inputs,
            missing: pipeline.input.missing,
            max_gap_ms: i64::from(pipeline.input.max_gap_ms),
            steps,
            memory,
            row: Vec::new(),
            next: Vec::new(),
        })
    }

    /// Takes one reading and writes the network's input to the end of `features`, unless there is none.
    pub fn push(&mut self, time_ms: UnixMillis, values: &[f64], features: &mut Vec<f32>) -> Pushed {
        self.push_through(self.steps.len(), time_ms, values, features)
    }

    /// Finds the baselines that are the stream's own from `readings`, the first `warm_up_rows` of which only fill averages,
    /// and forgets everything else.
    pub fn calibrate(&mut self, readings: &Readings, warm_up_rows: usize) {
        for index in 0..self.steps.len() {
            if !matches!(self.steps[index], Bound::StreamZscore) {
                continue;
            }
            self.reset();
            let (mut rows, mut width) = (Vec::new(), 0);
            for (row, (time_ms, values)) in readings.iter().enumerate() {
                let before = rows.len();
                self.push_through(index, time_ms, values, &mut rows);
                width = width.max(rows.len() - before);
                if row < warm_up_rows {
                    rows.truncate(before);
                }
            }
            let (mean, std) = scaling(&rows, width);
            self.memory.steps[index] = StepMemory::Baseline { mean, std };
        }
        self.reset();
    }

    /// What the steps remember.
    #[must_use]
    pub fn memory(&self) -> &Memory {
        &self.memory
    }

    /// Goes on from what was remembered before; false, and nothing is changed, if it is not of these steps.
    pub fn restore(&mut self, memory: Memory) -> bool {
        let held = memory.held.is_empty() || memory.held.len() == self.inputs.len();
        let fits = held
            && memory.steps.len() == self.memory.steps.len()
            && memory.steps.iter().zip(&self.memory.steps).all(|(found, fresh)| found.fits(fresh));
        if fits {
            self.memory = memory;
        }
        fits
    }

    fn push_through(&mut self, steps: usize, time_ms: UnixMillis, values: &[f64], features: &mut Vec<f32>) -> Pushed {
        let mut row = std::mem::take(&mut self.row);
        let pushed = match self.take_in(time_ms, values, &mut row) {
            Err(missing) => Pushed::MissingValue(missing),
            Ok(continuity) => match self.apply(steps, time_ms, &mut row) {
                Applied::Done => {
                    features.extend(row.iter().map(|value| *value as f32));
                    Pushed::Row(continuity)
                }
                Applied::Filling => Pushed::Filling,
                Applied::BetweenHops => Pushed::BetweenHops,
            },
        };
        self.row = row;
        pushed
    }

    /// Fills `row` with the input's columns, or says which has no value.
    fn take_in(&mut self, time_ms: UnixMillis, values: &[f64], row: &mut Vec<f64>) -> Result<Continuity, ChannelName> {
        let is_there = |column: &InputColumn| {
            let value = values[column.position];
            value.is_finite() && column.range.is_none_or(|(low, high)| (low..=high).contains(&value))
        };
        if self.missing == Missing::Skip
            && let Some(column) = self.inputs.iter().find(|column| !is_there(column))
        {
            return Err(column.name.clone());
        }
        let memory = &mut self.memory;
        let continues = memory
            .last_time_ms
            .is_some_and(|last| time_ms.checked_sub(last).is_some_and(|gap| (0..=self.max_gap_ms).contains(&gap)));
        if !continues {
            memory.reset();
        }
        memory.last_time_ms = Some(time_ms);
        row.clear();
        row.extend(self.inputs.iter().enumerate().map(|(index, column)| match memory.held.get(index) {
            Some(held) if !is_there(column) => *held,
            None if !is_there(column) => f64::NAN,
            Some(_) | None => values[column.position],
        }));
        memory.held.clone_from(row);
        match row.iter().position(|value| value.is_nan()) {
            Some(index) => Err(self.inputs[index].name.clone()),
            None => Ok(if continues { Continuity::Continued } else { Continuity::Fresh }),
        }
    }

    fn apply(&mut self, steps: usize, time_ms: UnixMillis, row: &mut Vec<f64>) -> Applied {
        for (step, memory) in self.steps.iter_mut().zip(&mut self.memory.steps).take(steps) {
            match step.apply(memory, time_ms, row, &mut self.next) {
                Applied::Done => {}
                stop @ (Applied::Filling | Applied::BetweenHops) => return stop,
            }
        }
        Applied::Done
    }

    fn reset(&mut self) {
        self.memory.last_time_ms = None;
        self.memory.reset();
    }
}

impl Memory {
    /// Forgets what is of the moment; baselines stay.
    fn reset(&mut self) {
        self.held.clear();
        for step in &mut self.steps {
            match step {
                StepMemory::Average(average) => average.clear(),
                StepMemory::Rows(rows) => rows.clear(),
                StepMemory::Nothing | StepMemory::Baseline { .. } => {}
            }
        }
    }
}

impl StepMemory {
    fn fits(&self, fresh: &Self) -> bool {
        match (self, fresh) {
            (Self::Nothing, Self::Nothing) => true,
            (Self::Rows(found), Self::Rows(fresh)) => found.fits(fresh),
            (Self::Average(_), Self::Average(_)) => true,
            (Self::Baseline { mean, std }, Self::Baseline { mean: fresh, .. }) => {
                let count =
                    mean.len() == std.len() && (mean.is_empty() || fresh.is_empty() || mean.len() == fresh.len());
                count && mean.iter().chain(std).all(|value| value.is_finite())
            }
            (Self::Nothing | Self::Rows(_) | Self::Average(_) | Self::Baseline { .. }, _) => false,
        }
    }
}

impl Bound {
    /// Binds a step to the columns it is given.
    fn new(step: &Step, columns: &Columns) -> (Self, StepMemory) {
        let width = columns.names.len();
        match step {
            Step::Select { channels } => {
                let columns = channels.iter().filter_map(|name| columns.position(name)).collect();
                (Self::Select { columns }, StepMemory::Nothing)
            }
            Step::Ema { alpha } => (Self::Ema { alpha: *alpha }, StepMemory::Average(Vec::new())),
            Step::Zscore { baseline: Baseline::Stream, .. } => {
                (Self::StreamZscore, StepMemory::Baseline { mean: Vec::new(), std: Vec::new() })
            }
            Step::Zscore { baseline: Baseline::Package, mean, std } => {
                (Self::Zscore { mean: mean.clone(), std: std.clone() }, StepMemory::Nothing)
            }
            Step::Diff { rows } => {
                (Self::Diff { rows: *rows as usize }, StepMemory::Rows(Ring::new(*rows as usize + 1, width)))
            }
            Step::Clip { low, high } => (Self::Clip { low: *low, high: *high }, StepMemory::Nothing),
            Step::Lags { rows } => {
                let rows: Vec<usize> = rows.iter().map(|rows| *rows as usize).collect();
                let longest = rows.iter().copied().max().unwrap_or(0);
                (Self::Lags { rows }, StepMemory::Rows(Ring::new(longest + 1, width)))
            }
            Step::Calendar { of, offset_minutes } => (
                Self::Calendar { of: of.clone(), offset_ms: 60_000.0 * f64::from(*offset_minutes) },
                StepMemory::Nothing,
            ),
            Step::Window { length, stride, hop } => {
                let (length, stride) = (*length as usize, *stride as usize);
                (Self::Window { length, stride, hop: *hop }, StepMemory::Rows(Ring::new(length, width)))
            }
            Step::Stats { of } => (Self::Stats { of: of.clone(), channels: width }, StepMemory::Nothing),
            Step::FftBands { bands } => {
                let spectrum = Box::new(Spectrum::new(columns.steps.unwrap_or(0), *bands as usize));
                (Self::FftBands { spectrum, channels: width }, StepMemory::Nothing)
            }
        }
    }

    /// Transforms `row` in place; `next` is room to work in.
    fn apply(
        &mut self,
        memory: &mut StepMemory,
        time_ms: UnixMillis,
        row: &mut Vec<f64>,
        next: &mut Vec<f64>,
    ) -> Applied {
        next.clear();
        match (self, memory) {
            (Self::Select { columns }, _) => {
                next.extend(columns.iter().map(|column| row[*column]));
                std::mem::swap(row, next);
            }
            (Self::Ema { alpha }, StepMemory::Average(averages)) => {
                if averages.is_empty() {
                    averages.extend_from_slice(row);
                }
                for (average, value) in averages.iter_mut().zip(row.iter_mut()) {
                    *average += *alpha * (*value - *average);
                    *value = *average;
                }
            }
            (Self::Zscore { mean, std }, _) => scale(row, mean, std),
            (Self::StreamZscore, StepMemory::Baseline { mean, std }) => scale(row, mean, std),
            (Self::Diff { rows }, StepMemory::Rows(ring)) => {
                if !ring.push(row) {
                    return Applied::Filling;
                }
                row.iter_mut().zip(ring.back(*rows)).for_each(|(value, before)| *value -= before);
            }
            (Self::Clip { low, high }, _) => row.iter_mut().for_each(|value| *value = value.clamp(*low, *high)),
            (Self::Lags { rows }, StepMemory::Rows(ring)) => {
                if !ring.push(row) {
                    return Applied::Filling;
                }
                rows.iter().for_each(|lag| row.extend_from_slice(ring.back(*lag)));
            }
            (Self::Calendar { of, offset_ms }, _) => {
                let days = (time_ms as f64 + *offset_ms) / DAY_MS;
                row.extend(of.iter().flat_map(|cycle| {
                    let (sin, cos) = (std::f64::consts::TAU * phase(*cycle, days)).sin_cos();
                    [sin, cos]
                }));
            }
            (Self::Window { length, stride, hop }, StepMemory::Rows(ring)) => {
                if !ring.push(row) {
                    return Applied::Filling;
                }
                if !ring.is_due(*hop) {
                    return Applied::BetweenHops;
                }
                row.clear();
                // Counted from the newest row, so that the newest is always in.
                let oldest = (*length - 1) / *stride;
                (0..=oldest).rev().for_each(|back| row.extend_from_slice(ring.back(back * *stride)));
            }
            (Self::Stats { of, channels }, _) => {
                for channel in 0..*channels {
                    let values = row.iter().skip(channel).step_by(*channels).copied();
                    next.extend(of.iter().map(|wanted| statistic(*wanted, values.clone())));
                }
                std::mem::swap(row, next);
            }
            (Self::FftBands { spectrum, channels }, _) => {
                for channel in 0..*channels {
                    spectrum.bands(row.iter().skip(channel).step_by(*channels).copied(), next);
                }
                std::mem::swap(row, next);
            }
            // A step's memory is made with the step and checked when it is restored.
            (
                Self::Ema { .. } | Self::StreamZscore | Self::Diff { .. } | Self::Lags { .. } | Self::Window { .. },
                _,
            ) => {}
        }
        Applied::Done
    }
}

/// Columns without a mean, before calibration, stay as they are.
fn scale(row: &mut [f64], mean: &[f64], std: &[f64]) {
    for ((value, mean), std) in row.iter_mut().zip(mean).zip(std) {
        *value = (*value - *mean) / *std;
    }
}

/// How much of a cycle is over, from 0 to 1, at so many days after 1970 began.
fn phase(cycle: Cycle, days: f64) -> f64 {
    match cycle {
        Cycle::Day => days.rem_euclid(1.0),
        Cycle::Week => ((days + DAYS_BEFORE_1970) / 7.0).rem_euclid(1.0),
        Cycle::Year => (days / 365.2425).rem_euclid(1.0),
    }
}

/// What preprocessing makes of a pipeline's readings: rows of the input's size, after another.
///
/// # Errors
/// If a step does not fit.
pub fn row_size(pipeline: &Pipeline) -> Result<usize, PipelineError> {
    let size = pipeline.input_shape()?.size();
    if size == 0 {
        Err(PipelineError { place: Place::Input, problem: "it gives no features".to_owned() })
    } else {
        Ok(size)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipeline::tests::{names, sample, zscore};

    fn run(pipeline: &Pipeline, channels: &[&str], rows: &[(i64, Vec<f64>)]) -> Vec<Option<Vec<f32>>> {
        let mut state = Preprocess::new(pipeline, &names(channels)).expect("binds");
        rows.iter()
            .map(|(time_ms, values)| {
                let mut features = Vec::new();
                let pushed = state.push(*time_ms, values, &mut features);
                matches!(pushed, Pushed::Row(_)).then_some(features)
            })
            .collect()
    }

    fn with_steps(steps: Vec<Step>) -> Pipeline {
        Pipeline { preprocess: steps, ..sample() }
    }

    fn counting(rows: i64) -> Vec<(i64, Vec<f64>)> {
        (0..rows).map(|i| (i * 1_000, vec![0.0, i as f64])).collect()
    }

    fn only_b() -> Step {
        Step::Select { channels: names(&["b"]) }
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
        let rows = [
            (0, vec![1.0, 0.0]),
            (1_000, vec![3.0, 0.0]),
            (70_000, vec![7.0, 0.0]),
            (71_000, vec![8.0, 0.0]),
            (500, vec![1.0, 0.0]),
        ];
        let averages = run(&with_steps(vec![Step::Ema { alpha: 0.5 }]), &["a", "b"], &rows);
        let firsts: Vec<f32> = averages.into_iter().map(|features| features.expect("no window")[0]).collect();
        assert_eq!(firsts, [1.0, 2.0, 7.0, 7.5, 1.0]);
    }

    #[test]
    fn a_window_gives_every_nth_row_and_always_the_newest_as_often_as_its_hop_says() {
        let window = |hop| with_steps(vec![only_b(), Step::Window { length: 4, stride: 2, hop }]);
        let windows = run(&window(1), &["a", "b"], &counting(6));
        assert_eq!(windows[..3], [None, None, None]);
        assert_eq!(windows[3..], [Some(vec![1.0, 3.0]), Some(vec![2.0, 4.0]), Some(vec![3.0, 5.0])]);
        let hopping = run(&window(2), &["a", "b"], &counting(7));
        assert_eq!(hopping[3..], [Some(vec![1.0, 3.0]), None, Some(vec![3.0, 5.0]), None]);
    }

    #[test]
    fn differences_and_lags_look_back() {
        let diff = run(&with_steps(vec![only_b(), Step::Diff { rows: 2 }]), &["a", "b"], &counting(4));
        assert_eq!(diff, [None, None, Some(vec![2.0]), Some(vec![2.0])]);
        let lags = run(&with_steps(vec![only_b(), Step::Lags { rows: vec![1, 2] }]), &["a", "b"], &counting(4));
        assert_eq!(lags, [None, None, Some(vec![2.0, 1.0, 0.0]), Some(vec![3.0, 2.0, 1.0])]);
    }

    #[test]
    fn the_calendar_says_how_much_of_a_cycle_is_over() {
        let of = vec![Cycle::Day, Cycle::Week];
        let pipeline = with_steps(vec![only_b(), Step::Calendar { of, offset_minutes: 60 }]);
        // 1970-01-05, a Monday, 05:00 UTC: 06:00 where it is an hour later.
        let rows = run(&pipeline, &["a", "b"], &[((4 * 24 + 5) * 3_600_000, vec![0.0, 7.0])]);
        let row = rows[0].clone().expect("a row");
        let angle = std::f32::consts::TAU * 0.25 / 7.0;
        for (found, expected) in row.iter().zip([7.0, 1.0, 0.0, angle.sin(), angle.cos()]) {
            assert!((found - expected).abs() < 1e-6, "{row:?}");
        }
    }

    #[test]
    fn a_missing_value_is_held_or_its_reading_left_out() {
        let mut pipeline = with_steps(vec![only_b()]);
        pipeline.input.channels[1].range = Some((-1.0, 10.0));
        let rows = [(0, vec![0.0, f64::NAN]), (1, vec![0.0, 1.0]), (2, vec![0.0, 99.0]), (3, vec![0.0, 2.0])];
        assert_eq!(run(&pipeline, &["a", "b"], &rows), [None, Some(vec![1.0]), Some(vec![1.0]), Some(vec![2.0])]);
        pipeline.input.missing = Missing::Skip;
        assert_eq!(run(&pipeline, &["a", "b"], &rows), [None, Some(vec![1.0]), None, Some(vec![2.0])]);
        let mut state = Preprocess::new(&pipeline, &names(&["a", "b"])).expect("binds");
        assert_eq!(state.push(0, &rows[0].1, &mut Vec::new()), Pushed::MissingValue(names(&["b"])[0].clone()));
    }

    #[test]
    fn a_streams_own_baseline_comes_from_its_calibration_after_the_warm_up() {
        let pipeline =
            with_steps(vec![only_b(), Step::Zscore { baseline: Baseline::Stream, mean: vec![], std: vec![] }]);
        let mut state = Preprocess::new(&pipeline, &names(&["a", "b"])).expect("binds");
        let mut readings = Readings::default();
        for (row, value) in [1_000.0, 4.0, 6.0, 4.0, 6.0].into_iter().enumerate() {
            readings.push(row as i64 * 1_000, &[0.0, value]);
        }
        state.calibrate(&readings, 1);
        let mut features = Vec::new();
        state.push(5_000, &[0.0, 8.0], &mut features);
        assert_eq!(features, [3.0]);
    }

    #[test]
    fn what_is_remembered_survives_as_bytes_and_goes_on_as_if_nothing_had_happened() {
        let steps = vec![
            Step::Ema { alpha: 0.3 },
            zscore(&[0.5, 2.0], &[1.0, 3.0]),
            Step::Diff { rows: 2 },
            Step::Window { length: 7, stride: 3, hop: 2 },
        ];
        let pipeline = with_steps(steps);
        let rows: Vec<(i64, [f64; 2])> = (0..40).map(|i| (i * 1_000, [(i * i % 17) as f64, (i % 5) as f64])).collect();
        let bind = || Preprocess::new(&pipeline, &names(&["a", "b"])).expect("binds");
        let whole: Vec<f32> = {
            let (mut state, mut features) = (bind(), Vec::new());
            rows.iter().for_each(|(time_ms, values)| drop(state.push(*time_ms, values, &mut features)));
            features
        };
        for cut in 0..rows.len() {
            let (mut first, mut features) = (bind(), Vec::new());
            rows[..cut].iter().for_each(|(time_ms, values)| drop(first.push(*time_ms, values, &mut features)));
            let bytes = postcard::to_allocvec(first.memory()).expect("encodes");
            let mut second = bind();
            assert!(second.restore(postcard::from_bytes(&bytes).expect("decodes")));
            rows[cut..].iter().for_each(|(time_ms, values)| drop(second.push(*time_ms, values, &mut features)));
            assert_eq!(features, whole, "cut at {cut}");
        }
        let other = with_steps(vec![Step::Window { length: 8, stride: 3, hop: 2 }]);
        let mut other = Preprocess::new(&other, &names(&["a", "b"])).expect("binds");
        assert!(!other.restore(bind().memory().clone()));
    }
}
