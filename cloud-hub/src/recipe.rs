//! Recipes: how a model is made, as TOML that people write. What training finds is not in them.

use std::path::Path;

use serde::{Deserialize, Serialize};
use shared::config::{ConfigError, Source};
use shared::ids::{ChannelName, Digest};
use shared::pipeline::{Decision, Input, Layer, Pipeline, PipelineError, Stage, Step};

use crate::core::drift::DriftRules;
use crate::core::retrain::RetrainRules;

/// How a model is made.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    /// What the pipeline reads.
    #[serde(default)]
    pub input: RecipeInput,
    /// The preprocessing steps, in order; `zscore = {}` is fitted.
    pub preprocess: Vec<Step>,
    /// The autoencoder between input and output.
    pub network: RecipeNetwork,
    /// How scores become predictions.
    pub decision: RecipeDecision,
    /// How the weights are found.
    pub training: Training,
    /// How the threshold is found.
    #[serde(default)]
    pub threshold: Threshold,
    /// What a candidate must prove.
    #[serde(default)]
    pub gate: GateRules,
    /// What the champion's streams are watched for.
    #[serde(default)]
    pub drift: DriftRecipe,
    /// When to train anew.
    #[serde(default)]
    pub retrain: RetrainRules,
}

/// What the pipeline reads.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RecipeInput {
    /// Channels by name; none means every channel of the streams.
    pub channels: Vec<ChannelName>,
    /// A gap in event time above this starts the streaming state anew.
    pub max_gap_ms: u32,
}

impl Default for RecipeInput {
    fn default() -> Self {
        Self { channels: Vec::new(), max_gap_ms: 60_000 }
    }
}

/// A dense autoencoder with tanh between its layers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RecipeNetwork {
    /// Widths between input and output; the output is as wide as the input.
    pub hidden: Vec<u32>,
}

/// How scores become predictions.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RecipeDecision {
    /// The weight of a new score in the smoothed one.
    pub smooth: f64,
}

/// How the weights are found: Adam on the mean squared error of noisy inputs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Training {
    /// Passes over the data.
    pub epochs: u32,
    /// Rows per step.
    pub batch: u32,
    /// Adam's step size.
    pub learning_rate: f64,
    /// Standard deviation of the Gaussian noise added to the network's input.
    #[serde(default)]
    pub noise: f64,
    /// Rows at the start of each segment that are left out, while averages fill.
    #[serde(default = "Training::default_warm_up_rows")]
    pub warm_up_rows: u32,
    /// The seed of everything random.
    #[serde(default)]
    pub seed: u64,
}

impl Training {
    fn default_warm_up_rows() -> u32 {
        60
    }
}

/// The threshold is `factor` times a quantile of the training rows' smoothed scores.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Threshold {
    /// The quantile, above 0 and at most 1.
    pub quantile: f64,
    /// The factor, above 0.
    pub factor: f64,
}

impl Default for Threshold {
    fn default() -> Self {
        Self { quantile: 0.999, factor: 3.0 }
    }
}

/// What a candidate must prove; see `docs/adr/0005`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct GateRules {
    /// Known-normal segments it must be trained on, at least.
    pub min_segments: usize,
    /// Share of known-normal rows left out of training that may alarm.
    pub max_held_out_far: f64,
    /// Size of the planted faults, in standard deviations of a channel within a segment.
    pub fault_size: f64,
    /// Share of planted faults' rows that must alarm, on average over channels.
    pub min_detection: f64,
    /// Channels in which fewer than half of a planted fault's rows alarm, at most.
    pub max_blind_channels: usize,
    /// How much worse than the champion it may be, in false alarms plus missed planted faults.
    pub margin: f64,
}

impl Default for GateRules {
    fn default() -> Self {
        Self {
            min_segments: 3,
            max_held_out_far: 0.15,
            fault_size: 10.0,
            min_detection: 0.75,
            max_blind_channels: 1,
            margin: 0.02,
        }
    }
}

/// What the champion's streams are watched for.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DriftRecipe {
    /// Readings after which a reading's weight in the live histogram has halved.
    pub half_life: f64,
    /// A channel's threshold is this times the largest divergence of the training data from itself.
    pub factor: f64,
    /// When an excess is an alarm.
    pub alarm: DriftRules,
}

impl Default for DriftRecipe {
    fn default() -> Self {
        Self { half_life: 40.0, factor: 1.5, alarm: DriftRules::default() }
    }
}

impl Recipe {
    /// Reads a recipe.
    ///
    /// # Errors
    /// Says where in the file what is wrong.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let source = Source::read(path, |path| std::fs::File::open(path))?;
        let recipe: Self = source.parse()?;
        match recipe.problem() {
            Some(problem) => Err(source.error_at(0..0, problem)),
            None => Ok(recipe),
        }
    }

    /// The first impossible value, in words.
    #[must_use]
    pub fn problem(&self) -> Option<String> {
        let training = &self.training;
        let positive = |what: &str, value: f64| {
            (!(value.is_finite() && value > 0.0)).then(|| format!("{what} is {value}, it must be above 0"))
        };
        let share = |what: &str, value: f64| {
            (!(0.0..=1.0).contains(&value)).then(|| format!("{what} is {value}, it must be between 0 and 1"))
        };
        if training.epochs == 0 || training.batch == 0 {
            return Some("training.epochs and training.batch must be above 0".to_owned());
        }
        if self.network.hidden.contains(&0) {
            return Some("network.hidden holds a width of 0".to_owned());
        }
        positive("training.learning_rate", training.learning_rate)
            .or_else(|| positive("threshold.factor", self.threshold.factor))
            .or_else(|| positive("gate.fault_size", self.gate.fault_size))
            .or_else(|| positive("drift.half_life", self.drift.half_life))
            .or_else(|| positive("drift.factor", self.drift.factor))
            .or_else(|| share("threshold.quantile", self.threshold.quantile))
            .or_else(|| share("gate.max_held_out_far", self.gate.max_held_out_far))
            .or_else(|| share("gate.min_detection", self.gate.min_detection))
            .or_else(|| share("decision.smooth", self.decision.smooth))
    }

    /// The recipe's name by content.
    #[must_use]
    pub fn digest(&self) -> Digest {
        Digest::of(&postcard::to_allocvec(self).unwrap_or_default())
    }

    /// The pipeline for streams with these channels, without what training finds.
    ///
    /// # Errors
    /// If the recipe does not fit the channels.
    pub fn pipeline(&self, available: &[ChannelName]) -> Result<Pipeline, PipelineError> {
        let channels = if self.input.channels.is_empty() { available.to_vec() } else { self.input.channels.clone() };
        let mut pipeline = Pipeline {
            input: Input { channels, max_gap_ms: self.input.max_gap_ms },
            preprocess: self.preprocess.clone(),
            network: Vec::new(),
            decision: Decision::Anomaly { smooth: self.decision.smooth, threshold: 0.0 },
        };
        let features = u32::try_from(pipeline.features()?).unwrap_or(u32::MAX);
        let mut inputs = features;
        for width in &self.network.hidden {
            pipeline.network.push(Layer::Linear { inputs, outputs: *width });
            pipeline.network.push(Layer::Tanh);
            inputs = *width;
        }
        pipeline.network.push(Layer::Linear { inputs, outputs: features });
        pipeline.check(Stage::Recipe)?;
        Ok(pipeline)
    }
}
