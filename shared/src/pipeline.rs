//! Pipelines: all that turns readings into predictions, as data.
//!
//! A [`Pipeline`] is a declaration: the input it wants, the preprocessing steps, the layers of a network and the
//! decision. [`Pipeline::check`] proves that every name and every shape fits before anything is built from it.
//! [`preprocess`] runs the steps, `network` (feature `model`) builds the layers into burn modules, [`decision`] makes a
//! prediction of a score and `runner` (feature `model`) strings them together. Training and serving call the same code.

pub mod decision;
pub mod preprocess;

#[cfg(feature = "model")]
pub mod network;
#[cfg(feature = "model")]
pub mod runner;

use serde::{Deserialize, Serialize};

use crate::ids::ChannelName;
use crate::limits::{MAX_CHANNELS, MAX_FEATURES, MAX_LAYERS};

/// All that turns readings into predictions.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pipeline {
    /// What it reads.
    pub input: Input,
    /// The steps from a reading to the network's input, in order.
    pub preprocess: Vec<Step>,
    /// The network's layers, in order.
    pub network: Vec<Layer>,
    /// From the network's output to a prediction.
    pub decision: Decision,
}

/// What a pipeline reads.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Input {
    /// The channels a stream must have, by name.
    pub channels: Vec<ChannelName>,
    /// A gap in event time above this, or time running backwards, starts the streaming state anew.
    pub max_gap_ms: u32,
}

/// One preprocessing step.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Step {
    /// Keeps the named channels, in this order.
    Select {
        /// Their names.
        channels: Vec<ChannelName>,
    },
    /// Exponential moving average per channel: `y += alpha * (x - y)`, starting at the first value.
    Ema {
        /// The weight of a new value, above 0 and at most 1. A span of n rows is `2 / (n + 1)`.
        alpha: f64,
    },
    /// `(x - mean) / std` per channel. Empty in a recipe, where training fills the constants in.
    Zscore {
        /// The mean of each channel.
        #[serde(default)]
        mean: Vec<f64>,
        /// The standard deviation of each channel, above 0.
        #[serde(default)]
        std: Vec<f64>,
    },
    /// The last `length` rows side by side, oldest first, taking every `stride`-th.
    Window {
        /// Rows the window spans.
        length: u32,
        /// Distance between the rows taken.
        stride: u32,
    },
}

/// One layer of a network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Layer {
    /// `y = x W + b`.
    Linear {
        /// Width of the input.
        inputs: u32,
        /// Width of the output.
        outputs: u32,
    },
    /// Hyperbolic tangent.
    Tanh,
    /// Rectifier.
    Relu,
    /// Logistic function.
    Sigmoid,
}

/// From a network's output to a prediction.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Decision {
    /// The network is an autoencoder; the score is the mean squared difference of its output from its input, smoothed.
    Anomaly {
        /// The smoothing's weight of a new score, above 0 and at most 1.
        smooth: f64,
        /// Above this smoothed score the reading is anomalous. 0 in a recipe, where training calibrates it.
        #[serde(default)]
        threshold: f64,
    },
}

/// What is wrong with a pipeline.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("{place}: {problem}")]
pub struct PipelineError {
    /// Where, for example `preprocess[1]`.
    pub place: String,
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

impl Pipeline {
    /// Proves that every name and shape fits.
    ///
    /// # Errors
    /// Names the first place that does not fit, and what would.
    pub fn check(&self, stage: Stage) -> Result<(), PipelineError> {
        let features = self.check_preprocess(stage)?;
        let outputs = self.check_network(features)?;
        let Decision::Anomaly { smooth, threshold } = self.decision;
        let decision = |problem: String| PipelineError { place: "decision".into(), problem };
        if outputs != features {
            return Err(decision(format!(
                "an autoencoder must give back its {features} inputs, the last layer gives {outputs}"
            )));
        }
        if !(smooth > 0.0 && smooth <= 1.0) {
            return Err(decision(format!("smooth is {smooth}, it must be above 0 and at most 1")));
        }
        if stage == Stage::Fitted && !(threshold.is_finite() && threshold > 0.0) {
            return Err(decision(format!("threshold is {threshold}, it must be a number above 0")));
        }
        Ok(())
    }

    /// Width of the network's input.
    ///
    /// # Errors
    /// If a preprocessing step does not fit.
    pub fn features(&self) -> Result<usize, PipelineError> {
        self.check_preprocess(Stage::Recipe)
    }

    fn check_preprocess(&self, stage: Stage) -> Result<usize, PipelineError> {
        let mut channels = self.input.channels.clone();
        if channels.is_empty() || channels.len() > MAX_CHANNELS {
            return Err(PipelineError {
                place: "input.channels".into(),
                problem: format!("{} channels, it must be 1 to {MAX_CHANNELS}", channels.len()),
            });
        }
        if let Some(twice) = first_repeated(&channels) {
            return Err(PipelineError { place: "input.channels".into(), problem: format!("{twice} stands twice") });
        }
        let mut window = 1_usize;
        for (index, step) in self.preprocess.iter().enumerate() {
            let wrong = |problem: String| PipelineError { place: format!("preprocess[{index}]"), problem };
            if window > 1 {
                return Err(wrong("no step may follow a window".into()));
            }
            match step {
                Step::Select { channels: names } => {
                    if let Some(missing) = names.iter().find(|name| !channels.contains(name)) {
                        return Err(wrong(format!("channel {missing} is not among {channels:?}")));
                    }
                    if names.is_empty() {
                        return Err(wrong("select keeps no channel".into()));
                    }
                    channels.clone_from(names);
                }
                Step::Ema { alpha } => {
                    if !(*alpha > 0.0 && *alpha <= 1.0) {
                        return Err(wrong(format!("alpha is {alpha}, it must be above 0 and at most 1")));
                    }
                }
                Step::Zscore { mean, std } => {
                    let unfitted = stage == Stage::Recipe && mean.is_empty() && std.is_empty();
                    if !unfitted && (mean.len() != channels.len() || std.len() != channels.len()) {
                        return Err(wrong(format!(
                            "{} means and {} deviations for {} channels",
                            mean.len(),
                            std.len(),
                            channels.len()
                        )));
                    }
                    if std.iter().any(|std| !(std.is_finite() && *std > 0.0))
                        || mean.iter().any(|mean| !mean.is_finite())
                    {
                        return Err(wrong("means must be numbers and deviations numbers above 0".into()));
                    }
                }
                Step::Window { length, stride } => {
                    if *length == 0 || *stride == 0 || stride > length {
                        return Err(wrong(format!(
                            "length {length} and stride {stride}: both must be above 0 and the stride at most the length"
                        )));
                    }
                    window = (*length as usize).div_ceil(*stride as usize);
                }
            }
        }
        let features = channels.len() * window;
        if features > MAX_FEATURES {
            return Err(PipelineError {
                place: "preprocess".into(),
                problem: format!("{features} features, at most {MAX_FEATURES} are allowed"),
            });
        }
        Ok(features)
    }

    fn check_network(&self, features: usize) -> Result<usize, PipelineError> {
        if self.network.len() > MAX_LAYERS {
            return Err(PipelineError {
                place: "network".into(),
                problem: format!("{} layers, at most {MAX_LAYERS} are allowed", self.network.len()),
            });
        }
        let mut width = features;
        for (index, layer) in self.network.iter().enumerate() {
            match layer {
                Layer::Linear { inputs, outputs } => {
                    let (inputs, outputs) = (*inputs as usize, *outputs as usize);
                    let wrong = |problem| PipelineError { place: format!("network[{index}]"), problem };
                    if inputs != width {
                        return Err(wrong(format!("linear takes {inputs} inputs, what comes before gives {width}")));
                    }
                    if outputs == 0 || outputs > MAX_FEATURES {
                        return Err(wrong(format!("{outputs} outputs, it must be 1 to {MAX_FEATURES}")));
                    }
                    width = outputs;
                }
                Layer::Tanh | Layer::Relu | Layer::Sigmoid => {}
            }
        }
        Ok(width)
    }
}

fn first_repeated(channels: &[ChannelName]) -> Option<&ChannelName> {
    channels.iter().enumerate().find(|(index, name)| channels[..*index].contains(name)).map(|(_, name)| name)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn names(names: &[&str]) -> Vec<ChannelName> {
        names.iter().map(|name| ChannelName::new(name).expect("valid")).collect()
    }

    pub(crate) fn sample() -> Pipeline {
        Pipeline {
            input: Input { channels: names(&["a", "b"]), max_gap_ms: 60_000 },
            preprocess: vec![Step::Ema { alpha: 0.5 }, Step::Zscore { mean: vec![1.0, 2.0], std: vec![1.0, 4.0] }],
            network: vec![
                Layer::Linear { inputs: 2, outputs: 3 },
                Layer::Tanh,
                Layer::Linear { inputs: 3, outputs: 2 },
            ],
            decision: Decision::Anomaly { smooth: 0.5, threshold: 0.7 },
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
        assert_eq!(sample().features().expect("fits"), 2);
    }

    #[test]
    fn what_does_not_fit_is_named() {
        check_fails(
            |p| p.network[0] = Layer::Linear { inputs: 4, outputs: 3 },
            "network[0]: linear takes 4 inputs, what comes before gives 2",
        );
        check_fails(
            |p| p.preprocess.insert(0, Step::Select { channels: names(&["c"]) }),
            "preprocess[0]: channel c is not among [\"a\", \"b\"]",
        );
        check_fails(
            |p| p.preprocess.push(Step::Window { length: 4, stride: 2 }),
            "network[0]: linear takes 2 inputs, what comes before gives 4",
        );
        check_fails(
            |p| p.preprocess[1] = Step::Zscore { mean: vec![], std: vec![] },
            "preprocess[1]: 0 means and 0 deviations for 2 channels",
        );
        check_fails(
            |p| p.network.truncate(2),
            "decision: an autoencoder must give back its 2 inputs, the last layer gives 3",
        );
        check_fails(
            |p| p.decision = Decision::Anomaly { smooth: 0.5, threshold: f64::NAN },
            "decision: threshold is NaN, it must be a number above 0",
        );
        check_fails(|p| p.input.channels = names(&["a", "a"]), "input.channels: a stands twice");
    }

    #[test]
    fn a_recipe_may_leave_out_what_training_finds() {
        let mut pipeline = sample();
        pipeline.preprocess[1] = Step::Zscore { mean: vec![], std: vec![] };
        pipeline.decision = Decision::Anomaly { smooth: 0.5, threshold: 0.0 };
        pipeline.check(Stage::Recipe).expect("fits");
    }
}
