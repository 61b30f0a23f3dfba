//! Pipelines: all that turns readings into predictions, as data.
//!
//! A [`Pipeline`] is a declaration: the input it wants, the preprocessing steps, the layers of a network and the
//! decision. [`Pipeline::check`] proves that every name and every shape fits before anything is built from it.
//! [`preprocess`] runs the steps, `network` (feature `model`) builds the layers into burn modules, [`decision`] makes a
//! prediction of what comes out and `runner` (feature `model`) strings them together. Training and serving call the
//! same code.

pub mod decision;
pub mod layer;
pub mod preprocess;
pub mod statistics;
pub mod step;
pub mod weights;

#[cfg(feature = "model")]
pub mod network;
#[cfg(feature = "model")]
pub mod runner;

use serde::{Deserialize, Serialize};

use crate::ids::ChannelName;
use crate::limits::{MAX_CALIBRATION_ROWS, MAX_CHANNELS, MAX_FEATURES, MAX_LAYERS, MAX_STEPS, MAX_WEIGHTS};

pub use decision::{Decision, Score, Threshold};
pub use layer::{Layer, Shape};
pub use step::Step;

/// Windows that a calibration must see: of fewer there is no spread.
const MIN_CALIBRATION_WINDOWS: u32 = 2;

/// All that turns readings into predictions.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pipeline {
    /// What it reads.
    pub input: Input,
    /// How it gets to know a stream before it answers; none if it needs no knowledge of one stream.
    pub calibration: Option<Calibration>,
    /// The steps from a reading to the network's input, in order.
    pub preprocess: Vec<Step>,
    /// The network's layers, in order.
    pub network: Vec<Layer>,
    /// From the network's output to a prediction.
    pub decision: Decision,
}

/// What a pipeline reads.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Input {
    /// The channels a stream must have.
    pub channels: Vec<Channel>,
    /// A gap in event time above this, or time running backwards, starts the streaming state anew.
    pub max_gap_ms: u32,
    /// Time between two readings, nominally; 0 if it varies.
    pub interval_ms: u32,
    /// What to do with a value that is missing: no number, or outside its channel's range.
    pub missing: Missing,
}

/// A channel that a pipeline reads.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Channel {
    /// Its name.
    pub name: ChannelName,
    /// The unit of its values, for people and for checks.
    pub unit: Option<String>,
    /// The smallest and the largest value a working sensor gives.
    pub range: Option<(f64, f64)>,
}

/// What to do with a reading in which a value is missing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Missing {
    /// Take the channel's last value. The reading is not answered as long as there is none.
    #[default]
    Hold,
    /// Leave the reading out: it is not answered and changes nothing.
    Skip,
}

/// A stream's first readings, from which its own baselines and threshold are found. Nothing is answered before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Calibration {
    /// How many readings.
    pub rows: u32,
    /// How many of them, the first, only fill averages and windows.
    pub warm_up_rows: u32,
}

/// Where constants come from.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Baseline {
    /// From training; they are in the package and the same for every stream.
    #[default]
    Package,
    /// From the stream's own calibration.
    Stream,
}

/// A place in a pipeline.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// The input.
    Input,
    /// The calibration.
    Calibration,
    /// A preprocessing step, by index.
    Preprocess(usize),
    /// A layer of the network, by index.
    Network(usize),
    /// The decision.
    Decision,
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Input => f.write_str("input"),
            Self::Calibration => f.write_str("calibration"),
            Self::Preprocess(index) => write!(f, "preprocess[{index}]"),
            Self::Network(index) => write!(f, "network[{index}]"),
            Self::Decision => f.write_str("decision"),
        }
    }
}

/// What is wrong with a pipeline.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("{place}: {problem}")]
pub struct PipelineError {
    /// Where.
    pub place: Place,
    /// What is wrong, and what would be right.
    pub problem: String,
}

/// Whether the constants that training finds must be there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// A recipe: they are still to be found.
    Recipe,
    /// A package: they must be there.
    Fitted,
}

impl Channel {
    /// A channel of which only the name is known.
    #[must_use]
    pub fn named(name: ChannelName) -> Self {
        Self { name, unit: None, range: None }
    }
}

impl Input {
    /// The names of its channels, in order.
    pub fn names(&self) -> impl Iterator<Item = &ChannelName> + Clone {
        self.channels.iter().map(|channel| &channel.name)
    }
}

impl Pipeline {
    /// Proves that every name and shape fits.
    ///
    /// # Errors
    /// Names the first place that does not fit, and what would.
    pub fn check(&self, stage: Stage) -> Result<(), PipelineError> {
        let input = self.input_shape_at(stage)?;
        let output = self.output_shape_of(input)?;
        let at_decision = |problem| PipelineError { place: Place::Decision, problem };
        self.decision.check(input, output, stage).map_err(at_decision)?;
        if let Decision::Forecast { targets, .. } = &self.decision
            && let Some(unknown) = targets.iter().find(|target| !self.input.names().any(|name| name == *target))
        {
            return Err(at_decision(format!("target {unknown} is not among the input's channels")));
        }
        let needs_calibration = self.decision.is_calibrated() || self.preprocess.iter().any(Step::is_calibrated);
        let wrong = |problem: String| Err(PipelineError { place: Place::Calibration, problem });
        match self.calibration {
            None if needs_calibration => {
                wrong("a step or the decision learns from the stream: it needs `calibration`".to_owned())
            }
            Some(_) if !needs_calibration => {
                wrong("nothing learns from the stream: leave `calibration` out".to_owned())
            }
            Some(Calibration { rows, warm_up_rows })
                if rows > MAX_CALIBRATION_ROWS || warm_up_rows.saturating_add(1) >= rows =>
            {
                wrong(format!(
                    "rows is {rows} and warm_up_rows {warm_up_rows}: rows must be at most {MAX_CALIBRATION_ROWS}, and at \
                     least 2 more than warm_up_rows"
                ))
            }
            Some(Calibration { rows, warm_up_rows }) => {
                let (fill, hop) = self.rows_before_the_first();
                let settled = rows.saturating_sub(fill.max(warm_up_rows)) / hop;
                if settled >= MIN_CALIBRATION_WINDOWS {
                    return Ok(());
                }
                wrong(format!(
                    "rows is {rows}: {fill} pass before the first window, {warm_up_rows} are warm-up, and of the others every \
                     {hop} makes one; at least {MIN_CALIBRATION_WINDOWS} windows are needed"
                ))
            }
            None => Ok(()),
        }
    }

    /// Readings that pass before the steps give their first row, and from one row to the next.
    fn rows_before_the_first(&self) -> (u32, u32) {
        self.preprocess.iter().fold((0_u32, 1_u32), |(fill, hop), step| match step {
            Step::Window { length, hop: next, .. } => {
                (fill.saturating_add((length - 1).saturating_mul(hop)), hop.saturating_mul(*next))
            }
            Step::Diff { rows } => (fill.saturating_add(rows.saturating_mul(hop)), hop),
            Step::Lags { rows } => {
                let longest = rows.iter().copied().max().unwrap_or(0);
                (fill.saturating_add(longest.saturating_mul(hop)), hop)
            }
            Step::Select { .. }
            | Step::Ema { .. }
            | Step::Zscore { .. }
            | Step::Clip { .. }
            | Step::Calendar { .. }
            | Step::Stats { .. }
            | Step::FftBands { .. } => (fill, hop),
        })
    }

    /// The shape of what the network is given.
    ///
    /// # Errors
    /// If a preprocessing step does not fit.
    pub fn input_shape(&self) -> Result<Shape, PipelineError> {
        self.input_shape_at(Stage::Recipe)
    }

    /// The shape of what the network gives.
    ///
    /// # Errors
    /// If a step or a layer does not fit.
    pub fn output_shape(&self) -> Result<Shape, PipelineError> {
        self.output_shape_of(self.input_shape()?)
    }

    fn input_shape_at(&self, stage: Stage) -> Result<Shape, PipelineError> {
        let wrong = |problem| PipelineError { place: Place::Input, problem };
        let names: Vec<&ChannelName> = self.input.names().collect();
        if names.is_empty() || names.len() > MAX_CHANNELS {
            return Err(wrong(format!("{} channels, it must be 1 to {MAX_CHANNELS}", names.len())));
        }
        if let Some((_, twice)) = names.iter().enumerate().find(|(index, name)| names[..*index].contains(name)) {
            return Err(wrong(format!("channel {twice} stands twice")));
        }
        for channel in &self.input.channels {
            if channel.range.is_some_and(|(low, high)| !(low.is_finite() && high.is_finite() && low < high)) {
                return Err(wrong(format!(
                    "the range of channel {} must be two numbers, the first smaller",
                    channel.name
                )));
            }
        }
        if self.preprocess.len() > MAX_STEPS {
            let problem = format!("{} steps, at most {MAX_STEPS} are allowed", self.preprocess.len());
            return Err(PipelineError { place: Place::Preprocess(MAX_STEPS), problem });
        }
        let mut columns = step::Columns::of_channels(names);
        for (index, step) in self.preprocess.iter().enumerate() {
            let wrong = |problem| PipelineError { place: Place::Preprocess(index), problem };
            columns = step.check(&columns, stage).map_err(wrong)?;
            if columns.shape().size() > MAX_FEATURES {
                let size = columns.shape().size();
                return Err(wrong(format!("it gives {size} features, at most {MAX_FEATURES} are allowed")));
            }
        }
        Ok(columns.shape())
    }

    fn output_shape_of(&self, input: Shape) -> Result<Shape, PipelineError> {
        if self.network.len() > MAX_LAYERS {
            let problem = format!("{} layers, at most {MAX_LAYERS} are allowed", self.network.len());
            return Err(PipelineError { place: Place::Network(MAX_LAYERS), problem });
        }
        let at = |(index, problem)| PipelineError { place: Place::Network(index), problem };
        let shapes = layer::shapes(&self.network, input).map_err(at)?;
        let mut weights = 0_usize;
        for (index, (layer, given)) in self.network.iter().zip(std::iter::once(&input).chain(&shapes)).enumerate() {
            let parts = layer.weights(*given).into_iter();
            weights = parts.fold(weights, |sum, (_, shape)| sum.saturating_add(shape.iter().product()));
            if weights > MAX_WEIGHTS {
                return Err(at((
                    index,
                    format!("with it the network has {weights} weights, at most {MAX_WEIGHTS} are allowed"),
                )));
            }
        }
        Ok(shapes.last().copied().unwrap_or(input))
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::pipeline::step::Statistic;

    pub(crate) fn names(names: &[&str]) -> Vec<ChannelName> {
        names.iter().map(|name| ChannelName::new(name).expect("valid")).collect()
    }

    pub(crate) fn input(channels: &[&str]) -> Input {
        Input {
            channels: names(channels).into_iter().map(Channel::named).collect(),
            max_gap_ms: 60_000,
            interval_ms: 1_000,
            missing: Missing::Hold,
        }
    }

    pub(crate) fn linear(outputs: u32) -> Layer {
        Layer::Linear { outputs, bias: true }
    }

    pub(crate) fn zscore(mean: &[f64], std: &[f64]) -> Step {
        Step::Zscore { baseline: Baseline::Package, mean: mean.to_vec(), std: std.to_vec() }
    }

    pub(crate) fn anomaly(smooth: f64, threshold: f64) -> Decision {
        Decision::Anomaly {
            score: Score::Mse,
            smooth,
            threshold: Threshold::Package { value: threshold },
            hold_rows: 0,
        }
    }

    pub(crate) fn sample() -> Pipeline {
        Pipeline {
            input: input(&["a", "b"]),
            calibration: None,
            preprocess: vec![Step::Ema { alpha: 0.5 }, zscore(&[1.0, 2.0], &[1.0, 4.0])],
            network: vec![linear(3), Layer::Tanh, linear(2)],
            decision: anomaly(0.5, 0.7),
        }
    }

    fn check_fails(change: impl FnOnce(&mut Pipeline), expected: &str) {
        let mut pipeline = sample();
        change(&mut pipeline);
        let error = pipeline.check(Stage::Fitted).expect_err(expected);
        assert_eq!(error.to_string(), expected);
    }

    #[test]
    fn a_pipeline_that_fits_is_accepted() {
        sample().check(Stage::Fitted).expect("fits");
        assert_eq!(sample().input_shape().expect("fits"), Shape::Flat(2));
    }

    #[test]
    fn what_does_not_fit_is_named() {
        check_fails(
            |p| p.network[2] = linear(4),
            "decision: an autoencoder must give back what it is given, 2 features; the network gives 4 features",
        );
        check_fails(
            |p| p.preprocess.insert(0, Step::Select { channels: names(&["c"]) }),
            "preprocess[0]: channel c is not among a, b",
        );
        check_fails(
            |p| p.preprocess.push(Step::Stats { of: vec![Statistic::Mean] }),
            "preprocess[2]: stats needs a window before it",
        );
        check_fails(|p| p.preprocess[1] = zscore(&[], &[]), "preprocess[1]: 0 means and 0 deviations for 2 columns");
        check_fails(
            |p| {
                p.network[1] = Layer::Conv1d {
                    filters: 4,
                    kernel: 3,
                    stride: 1,
                    dilation: 1,
                    groups: 1,
                    padding: layer::Padding::Valid,
                    bias: true,
                }
            },
            "network[1]: conv1d needs a sequence, what comes before gives 3 features",
        );
        check_fails(|p| p.decision = anomaly(0.5, f64::NAN), "decision: threshold is NaN, it must be a number above 0");
        check_fails(|p| p.input = input(&["a", "a"]), "input: channel a stands twice");
        check_fails(
            |p| p.network[1] = Layer::Residual { layers: 2 },
            "network[1]: the block of 2 layers goes beyond the end of the network",
        );
        check_fails(
            |p| {
                p.decision = Decision::Anomaly {
                    score: Score::Mse,
                    smooth: 1.0,
                    threshold: Threshold::Stream { factor: 2.0 },
                    hold_rows: 0,
                };
            },
            "calibration: a step or the decision learns from the stream: it needs `calibration`",
        );
        check_fails(
            |p| p.calibration = Some(Calibration { rows: 100, warm_up_rows: 10 }),
            "calibration: nothing learns from the stream: leave `calibration` out",
        );
    }

    #[test]
    fn a_calibration_that_sees_no_window_is_refused() {
        let calibrated = |length| {
            let mut pipeline = sample();
            pipeline.calibration = Some(Calibration { rows: 100, warm_up_rows: 10 });
            pipeline.preprocess =
                vec![Step::Window { length, stride: 1, hop: 4 }, Step::Stats { of: vec![Statistic::Mean] }];
            pipeline.decision = Decision::Anomaly {
                score: Score::Mse,
                smooth: 1.0,
                threshold: Threshold::Stream { factor: 2.0 },
                hold_rows: 0,
            };
            pipeline.check(Stage::Fitted)
        };
        calibrated(90).expect("fits");
        let error = calibrated(98).expect_err("one window").to_string();
        assert!(error.starts_with("calibration: rows is 100: 97 pass before the first window"), "{error}");
    }

    #[test]
    fn a_recipe_may_leave_out_what_training_finds() {
        let mut pipeline = sample();
        pipeline.preprocess[1] = zscore(&[], &[]);
        pipeline.decision = anomaly(0.5, 0.0);
        pipeline.check(Stage::Recipe).expect("fits");
    }
}
