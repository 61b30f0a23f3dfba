//! Recipes: how a model is made, as TOML that people write. What training finds is not in them.

pub mod data;
pub mod decision;
pub mod training;

use std::ops::Range;
use std::path::Path;

use serde::{Deserialize, Serialize};
use shared::config::{ConfigError, Source};
use shared::ids::{ChannelName, Digest};
use shared::pipeline::layer::fill_in_outputs;
use shared::pipeline::{Calibration, Channel, Input, Layer, Missing, Pipeline, PipelineError, Place, Stage, Step};
use toml::Spanned;

use crate::core::drift::DriftRules;
use crate::core::retrain::RetrainRules;
use data::DataRules;
use decision::RecipeDecision;
use training::Training;

/// How a model is made.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    /// What the pipeline reads.
    #[serde(default)]
    pub input: RecipeInput,
    /// How it gets to know a stream before it answers.
    pub calibration: Option<Calibration>,
    /// The preprocessing steps, in order; `zscore = {}` is fitted.
    #[serde(default)]
    pub preprocess: Vec<Step>,
    /// The network's layers, in order; a last `linear = {}` is as wide as the decision needs.
    #[serde(default)]
    pub network: Vec<Layer>,
    /// What the pipeline decides.
    pub decision: RecipeDecision,
    /// How the weights are found.
    #[serde(default)]
    pub training: Training,
    /// Which readings of a file or folder count, and for what.
    #[serde(default)]
    pub data: DataRules,
    /// What a candidate must prove.
    #[serde(default)]
    pub gate: GateRules,
    /// What the champion's streams are watched for.
    #[serde(default)]
    pub drift: DriftRecipe,
    /// When to train anew.
    #[serde(default)]
    pub retrain: RetrainRules,
    /// Where its parts stand in the file, for what is found out later.
    #[serde(skip)]
    places: Places,
}

/// What the pipeline reads.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RecipeInput {
    /// Channels, by name or as tables; none means every channel of the streams.
    pub channels: Vec<RecipeChannel>,
    /// A gap in event time above this starts the streaming state anew.
    pub max_gap_ms: u32,
    /// Time between two readings, nominally; 0 if it varies.
    pub interval_ms: u32,
    /// What to do with a missing value.
    pub missing: Missing,
}

/// A channel as a recipe names it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum RecipeChannel {
    /// Its name.
    Name(ChannelName),
    /// Its name, and what is known of it.
    Table {
        /// Its name.
        name: ChannelName,
        /// Its unit.
        unit: Option<String>,
        /// The smallest and the largest value a working sensor gives.
        range: Option<(f64, f64)>,
    },
}

impl RecipeChannel {
    fn channel(&self) -> Channel {
        match self.clone() {
            Self::Name(name) => Channel::named(name),
            Self::Table { name, unit, range } => Channel { name, unit, range },
        }
    }
}

impl Default for RecipeInput {
    fn default() -> Self {
        Self { channels: Vec::new(), max_gap_ms: 60_000, interval_ms: 0, missing: Missing::Hold }
    }
}

/// Where a recipe's parts stand.
#[derive(Debug, Clone, Default, PartialEq)]
struct Places {
    source: Option<Source>,
    input: Range<usize>,
    calibration: Range<usize>,
    preprocess: Vec<Range<usize>>,
    network: Vec<Range<usize>>,
    decision: Range<usize>,
}

impl Places {
    fn of(source: &Source) -> Result<Self, ConfigError> {
        #[derive(Deserialize)]
        struct Spans {
            input: Option<Spanned<serde::de::IgnoredAny>>,
            calibration: Option<Spanned<serde::de::IgnoredAny>>,
            #[serde(default)]
            preprocess: Vec<Spanned<serde::de::IgnoredAny>>,
            #[serde(default)]
            network: Vec<Spanned<serde::de::IgnoredAny>>,
            decision: Spanned<serde::de::IgnoredAny>,
        }
        let spans: Spans = source.parse()?;
        let of = |spanned: Option<Spanned<serde::de::IgnoredAny>>| spanned.map_or(0..0, |spanned| spanned.span());
        let all = |spanned: Vec<Spanned<serde::de::IgnoredAny>>| spanned.iter().map(Spanned::span).collect();
        Ok(Self {
            source: Some(source.clone()),
            input: of(spans.input),
            calibration: of(spans.calibration),
            preprocess: all(spans.preprocess),
            network: all(spans.network),
            decision: spans.decision.span(),
        })
    }

    fn span(&self, place: Place) -> Range<usize> {
        let nth = |ranges: &[Range<usize>], index: usize| ranges.get(index).or(ranges.last()).cloned().unwrap_or(0..0);
        match place {
            Place::Input => self.input.clone(),
            Place::Calibration if self.calibration.is_empty() => self.decision.clone(),
            Place::Calibration => self.calibration.clone(),
            Place::Preprocess(index) => nth(&self.preprocess, index),
            Place::Network(index) => nth(&self.network, index),
            Place::Decision => self.decision.clone(),
        }
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
        Self::read(&Source::read(path, |path| std::fs::File::open(path))?)
    }

    /// Reads a recipe whose network comes from elsewhere, so that its shapes are still to be checked.
    ///
    /// # Errors
    /// Says where in the file what is wrong.
    pub fn load_declaration(path: &Path) -> Result<Self, ConfigError> {
        Self::parse(&Source::read(path, |path| std::fs::File::open(path))?)
    }

    fn parse(source: &Source) -> Result<Self, ConfigError> {
        let mut recipe: Self = source.parse()?;
        recipe.places = Places::of(source)?;
        match recipe.problem() {
            Some(problem) => Err(source.error_at(0..0, problem)),
            None => Ok(recipe),
        }
    }

    /// Reads a recipe from its text.
    ///
    /// # Errors
    /// Says where what is wrong.
    pub fn read(source: &Source) -> Result<Self, ConfigError> {
        let recipe = Self::parse(source)?;
        if !recipe.input.channels.is_empty() {
            recipe.pipeline(&[]).map_err(|error| recipe.locate(&error))?;
        }
        Ok(recipe)
    }

    /// What is wrong with the pipeline that this recipe declares, at its place in the file.
    #[must_use]
    pub fn locate(&self, error: &PipelineError) -> ConfigError {
        let source = self.places.source.clone().unwrap_or_else(|| Source::new(Path::new("recipe"), String::new()));
        source.error_at(self.places.span(error.place), &error.problem)
    }

    /// The first impossible value, in words.
    #[must_use]
    pub fn problem(&self) -> Option<String> {
        let positive = |what: &str, value: f64| {
            (!(value.is_finite() && value > 0.0)).then(|| format!("{what} is {value}, it must be above 0"))
        };
        let share = |what: &str, value: f64| {
            (!(0.0..=1.0).contains(&value)).then(|| format!("{what} is {value}, it must be between 0 and 1"))
        };
        self.training
            .problem()
            .or_else(|| self.decision.problem())
            .or_else(|| self.data.problem())
            .or_else(|| positive("gate.fault_size", self.gate.fault_size))
            .or_else(|| positive("drift.half_life", self.drift.half_life))
            .or_else(|| positive("drift.factor", self.drift.factor))
            .or_else(|| share("gate.max_held_out_far", self.gate.max_held_out_far))
            .or_else(|| share("gate.min_detection", self.gate.min_detection))
    }

    /// The recipe's name by content.
    #[must_use]
    pub fn digest(&self) -> Digest {
        Digest::of(&postcard::to_allocvec(self).unwrap_or_default())
    }

    /// The name of all in it that a fitted pipeline depends on.
    #[must_use]
    pub fn fit_digest(&self) -> Digest {
        let (gate, drift, retrain) = (GateRules::default(), DriftRecipe::default(), RetrainRules::default());
        Self { gate, drift, retrain, ..self.clone() }.digest()
    }

    /// The pipeline for streams with these channels, without what training finds.
    ///
    /// # Errors
    /// If the recipe does not fit the channels.
    pub fn pipeline(&self, available: &[ChannelName]) -> Result<Pipeline, PipelineError> {
        let pipeline = self.declaration(available)?;
        pipeline.check(Stage::Recipe)?;
        Ok(pipeline)
    }

    /// The same without a check of the network and of what it gives.
    ///
    /// # Errors
    /// If the steps do not fit the channels.
    pub fn declaration(&self, available: &[ChannelName]) -> Result<Pipeline, PipelineError> {
        let channels: Vec<Channel> = if self.input.channels.is_empty() {
            available.iter().cloned().map(Channel::named).collect()
        } else {
            self.input.channels.iter().map(RecipeChannel::channel).collect()
        };
        let names: Vec<ChannelName> = channels.iter().map(|channel| channel.name.clone()).collect();
        let RecipeInput { max_gap_ms, interval_ms, missing, .. } = self.input;
        let mut pipeline = Pipeline {
            input: Input { channels, max_gap_ms, interval_ms, missing },
            calibration: self.calibration,
            preprocess: self.preprocess.clone(),
            network: self.network.clone(),
            decision: self.decision.unfitted(&names),
        };
        let input = pipeline.input_shape()?;
        if let Some((flat, step)) = pipeline.decision.wanted_outputs(input) {
            fill_in_outputs(&mut pipeline.network, input, flat, step);
        }
        Ok(pipeline)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Recipe, ConfigError> {
        Recipe::read(&Source::new(Path::new("r.toml"), text.to_owned()))
    }

    const AUTOENCODER: &str = "\
        [input]\nchannels = [\"a\", { name = \"b\", unit = \"bar\", range = [0.0, 9.0] }]\n\
        [[preprocess]]\nzscore = {}\n\
        [[network]]\nlinear = { outputs = 3 }\n[[network]]\ntanh = {}\n[[network]]\nlinear = {}\n\
        [decision.anomaly]\nsmooth = 0.5\n";

    #[test]
    fn the_last_layer_is_as_wide_as_the_decision_needs() {
        let pipeline = read(AUTOENCODER).expect("reads").pipeline(&[]).expect("fits");
        assert_eq!(pipeline.network[2], Layer::Linear { outputs: 2, bias: true });
        assert_eq!(pipeline.input.channels[1].range, Some((0.0, 9.0)));
    }

    #[test]
    fn what_does_not_fit_points_at_its_line() {
        let error = |from: &str, to: &str| read(&AUTOENCODER.replace(from, to)).expect_err(to).to_string();
        assert_eq!(
            error("tanh = {}", "conv1d = { filters = 2, kernel = 3 }"),
            "r.toml:7:1: network: conv1d needs a sequence, what comes before gives 3 features"
        );
        let unknown = error("tanh", "tahn");
        assert!(unknown.starts_with("r.toml:8:1: ") && unknown.contains("tanh"), "{unknown}");
        assert!(error("smooth = 0.5", "smooth = 2.0").contains("smooth is 2"));
    }

    #[test]
    fn every_shipped_recipe_is_good() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/recipes");
        let paths: Vec<_> =
            std::fs::read_dir(folder).expect("there").map(|entry| entry.expect("listed").path()).collect();
        assert!(paths.len() >= 4, "{paths:?}");
        for path in paths {
            Recipe::load(&path).unwrap_or_else(|error| panic!("{error}"));
        }
    }
}
