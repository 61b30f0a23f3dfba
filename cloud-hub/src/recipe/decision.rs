//! What a recipe says of the decision; training finds the rest.

use serde::{Deserialize, Serialize};
use shared::ids::ChannelName;
use shared::pipeline::{Baseline, Decision, Score, Threshold};

/// What the pipeline decides.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum RecipeDecision {
    /// Is the reading normal? Trained on normal readings, without labels.
    Anomaly(AnomalyRecipe),
    /// Which label does the reading have? Trained on labelled readings.
    Classify(ClassifyRecipe),
    /// What comes next? Trained on what came next.
    Forecast(ForecastRecipe),
}

/// Is the reading normal?
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AnomalyRecipe {
    /// How far a row is from normal.
    pub score: RecipeScore,
    /// The weight of a new score in the smoothed one.
    pub smooth: f64,
    /// From which score on a reading is anomalous.
    pub threshold: RecipeThreshold,
    /// For so many readings after an anomalous one the alarm stands.
    pub hold_rows: u32,
}

impl Default for AnomalyRecipe {
    fn default() -> Self {
        Self { score: RecipeScore::Mse, smooth: 1.0, threshold: RecipeThreshold::default(), hold_rows: 0 }
    }
}

/// How far a row is from normal.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum RecipeScore {
    /// The network is an autoencoder: the mean squared difference of its output from its input.
    Mse,
    /// The squared Mahalanobis distance of what the network gives, or, without one, of its input.
    Mahalanobis {
        /// Added to each variance, in mean variances.
        #[serde(default = "RecipeScore::default_ridge")]
        ridge: f64,
        /// Whose normal readings it is learnt from.
        #[serde(default)]
        baseline: Baseline,
    },
}

impl RecipeScore {
    fn default_ridge() -> f64 {
        1e-3
    }
}

/// From which score on a reading is anomalous.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum RecipeThreshold {
    /// `factor` times a quantile of the training readings' smoothed scores.
    Training {
        /// The quantile, above 0 and at most 1.
        quantile: f64,
        /// The factor, above 0.
        factor: f64,
    },
    /// This score, for models that are not trained here.
    Fixed {
        /// The score.
        value: f64,
    },
    /// `factor` times the largest smoothed score of the stream's own calibration.
    Stream {
        /// The factor, above 0.
        factor: f64,
    },
}

impl Default for RecipeThreshold {
    fn default() -> Self {
        Self::Training { quantile: 0.999, factor: 3.0 }
    }
}

/// Which label does the reading have?
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClassifyRecipe {
    /// The labels, as the data write them.
    pub labels: Vec<String>,
    /// Below this confidence the answer is not sure.
    #[serde(default)]
    pub min_confidence: f64,
}

/// What comes next?
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ForecastRecipe {
    /// Readings ahead.
    pub horizon: u32,
    /// The channels to forecast; none means all.
    #[serde(default)]
    pub targets: Vec<ChannelName>,
}

impl RecipeDecision {
    /// The decision without what training finds, for a pipeline that reads `channels`.
    #[must_use]
    pub fn unfitted(&self, channels: &[ChannelName]) -> Decision {
        match self {
            Self::Anomaly(anomaly) => Decision::Anomaly {
                score: match anomaly.score {
                    RecipeScore::Mse => Score::Mse,
                    RecipeScore::Mahalanobis { ridge, baseline } => {
                        Score::Mahalanobis { ridge, baseline, mean: Vec::new(), whitening: Vec::new() }
                    }
                },
                smooth: anomaly.smooth,
                threshold: match anomaly.threshold {
                    RecipeThreshold::Training { .. } => Threshold::Package { value: 0.0 },
                    RecipeThreshold::Fixed { value } => Threshold::Package { value },
                    RecipeThreshold::Stream { factor } => Threshold::Stream { factor },
                },
                hold_rows: anomaly.hold_rows,
            },
            Self::Classify(classify) => Decision::Classify {
                labels: classify.labels.clone(),
                min_confidence: classify.min_confidence,
                temperature: 1.0,
            },
            Self::Forecast(forecast) => Decision::Forecast {
                horizon: forecast.horizon,
                targets: if forecast.targets.is_empty() { channels.to_vec() } else { forecast.targets.clone() },
                mean: Vec::new(),
                std: Vec::new(),
                interval_90: Vec::new(),
            },
        }
    }

    /// The first impossible value, in words. The rest is found when the pipeline is checked.
    #[must_use]
    pub fn problem(&self) -> Option<String> {
        let Self::Anomaly(AnomalyRecipe { threshold: RecipeThreshold::Training { quantile, factor }, .. }) = self
        else {
            return None;
        };
        if !(0.0..=1.0).contains(quantile) {
            return Some(format!("threshold.training.quantile is {quantile}, it must be between 0 and 1"));
        }
        (!(factor.is_finite() && *factor > 0.0))
            .then(|| format!("threshold.training.factor is {factor}, it must be above 0"))
    }
}
