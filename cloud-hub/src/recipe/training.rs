//! What a recipe says of how weights are found.

use serde::{Deserialize, Serialize};
use shared::pipeline::weights::WeightFormat;

/// How the weights are found.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Training {
    /// By which method.
    pub method: Method,
    /// Passes over the data, for descent.
    pub epochs: u32,
    /// Rows per step.
    pub batch: u32,
    /// The rule of a step.
    pub optimiser: Optimiser,
    /// The size of a step.
    pub learning_rate: f64,
    /// How the size changes over the epochs.
    pub schedule: Schedule,
    /// The share by which weights shrink with each step, in step sizes.
    pub weight_decay: f64,
    /// Standard deviation of the Gaussian noise added to the network's input.
    pub noise: f64,
    /// Stops when the loss on the validation data has not fallen for so many epochs, and takes the best; 0: never.
    pub patience_epochs: u32,
    /// Added to the diagonal of the normal equations, for ridge.
    pub lambda: f64,
    /// Rows at the start of each segment that are left out, while averages fill.
    pub warm_up_rows: u32,
    /// The seed of everything random.
    pub seed: u64,
    /// What numbers weights are kept as. Thresholds, gate and golden answers are found with the weights as they are kept.
    pub weights: WeightFormat,
}

/// How weights are found.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Method {
    /// Gradient descent, through burn's automatic differentiation.
    #[default]
    Descent,
    /// The normal equations of the one linear layer: exact, and at once.
    Ridge,
}

/// The rule of a step of gradient descent.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Optimiser {
    /// Adam (Kingma and Ba, 2015), with decoupled weight decay (Loshchilov and Hutter, 2019).
    #[default]
    Adam,
    /// Stochastic gradient descent with momentum 0.9.
    Sgd,
}

/// How the size of a step changes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Schedule {
    /// Not at all.
    #[default]
    Constant,
    /// Down to 0 along half a cosine (Loshchilov and Hutter, 2017, without restarts).
    Cosine,
}

impl Default for Training {
    fn default() -> Self {
        Self {
            method: Method::Descent,
            epochs: 60,
            batch: 128,
            optimiser: Optimiser::Adam,
            learning_rate: 2e-3,
            schedule: Schedule::Constant,
            weight_decay: 0.0,
            noise: 0.0,
            patience_epochs: 0,
            lambda: 1.0,
            warm_up_rows: 0,
            seed: 0,
            weights: WeightFormat::F32,
        }
    }
}

impl Schedule {
    /// What the step size is multiplied by in epoch `epoch` of `epochs`.
    #[must_use]
    pub fn factor(self, epoch: u32, epochs: u32) -> f64 {
        match self {
            Self::Constant => 1.0,
            Self::Cosine => 0.5 + 0.5 * (std::f64::consts::PI * f64::from(epoch) / f64::from(epochs.max(1))).cos(),
        }
    }
}

impl Training {
    /// The first impossible value, in words.
    #[must_use]
    pub fn problem(&self) -> Option<String> {
        if self.epochs == 0 || self.batch == 0 {
            return Some("training.epochs and training.batch must be above 0".to_owned());
        }
        let positive = [("learning_rate", self.learning_rate), ("lambda", self.lambda)];
        if let Some((name, value)) = positive.iter().find(|(_, value)| !(value.is_finite() && *value > 0.0)) {
            return Some(format!("training.{name} is {value}, it must be above 0"));
        }
        let not_negative = [("weight_decay", self.weight_decay), ("noise", self.noise)];
        not_negative
            .iter()
            .find(|(_, value)| !(value.is_finite() && *value >= 0.0))
            .map(|(name, value)| format!("training.{name} is {value}, it must be at least 0"))
    }
}
