//! From a package to a pipeline in operation, proven on its golden vectors.

use burn::tensor::Device;

use super::{Golden, Package};
use crate::event::Outcome;
use crate::pipeline::runner::{BuildError, Runner, RunnerInput};
use crate::pipeline::weights::{Weights, WeightsError};

/// Why a package does not run on a device.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The weights cannot be read.
    #[error("{0}")]
    Weights(#[from] WeightsError),
    /// The pipeline cannot be built.
    #[error("{0}")]
    Build(#[from] BuildError),
    /// Nothing in it can be proven.
    #[error("the package has no golden answer, so nothing proves that a device computes what it promises")]
    NoGolden,
    /// The device computes something else than the package promises.
    #[error("golden vector {index} differs: the device gives {found}, the package says {expected}")]
    Golden {
        /// Which reading.
        index: usize,
        /// What the device gives.
        found: String,
        /// What the package says.
        expected: String,
    },
}

impl Package {
    /// Builds the pipeline on `device` and proves it on the golden vectors.
    ///
    /// # Errors
    /// If it cannot be built or the device says something else than was promised.
    pub fn load(&self, device: &Device) -> Result<Runner, LoadError> {
        self.golden.check(&mut self.rebuild(device)?)?;
        self.rebuild(device)
    }

    /// Builds the pipeline on `device` as the manifest says now, without the golden vectors, which are of what was packed.
    ///
    /// # Errors
    /// If it cannot be built.
    pub fn rebuild(&self, device: &Device) -> Result<Runner, LoadError> {
        let weights = Weights::from_safetensors(&self.weights)?;
        Ok(Runner::new(self.manifest.pipeline.clone(), &weights, device.clone())?)
    }
}

impl Golden {
    /// What `runner`, which has seen nothing, says of the readings.
    pub fn answer(&self, runner: &mut Runner) -> Vec<Option<Outcome>> {
        let inputs: Vec<RunnerInput<'_>> = self
            .readings
            .iter()
            .map(|(time_ms, values)| RunnerInput { schema: &self.schema, time_ms: *time_ms, values })
            .collect();
        runner.run(&inputs).into_iter().map(|answer| answer.into_outcome().ok()).collect()
    }

    fn check(&self, runner: &mut Runner) -> Result<(), LoadError> {
        if self.outcomes.iter().all(Option::is_none) {
            return Err(LoadError::NoGolden);
        }
        let found = self.answer(runner);
        for index in 0..found.len().max(self.outcomes.len()) {
            let (found, expected) = (found.get(index).cloned().flatten(), self.outcomes.get(index).cloned().flatten());
            let same = match (&found, &expected) {
                (Some(found), Some(expected)) => found.is_close(expected, self.tolerance),
                (None, None) => true,
                (Some(_), None) | (None, Some(_)) => false,
            };
            if !same {
                return Err(LoadError::Golden {
                    index,
                    found: in_words(found.as_ref()),
                    expected: in_words(expected.as_ref()),
                });
            }
        }
        Ok(())
    }
}

fn in_words(outcome: Option<&Outcome>) -> String {
    match outcome {
        None => "nothing".to_owned(),
        Some(Outcome::Anomaly(verdict)) => format!("a score of {}", verdict.score),
        Some(Outcome::Label { label, confidence, .. }) => format!("{label:?} with confidence {confidence}"),
        Some(Outcome::Forecast { values }) => format!("a forecast from {:?}", &values[..values.len().min(3)]),
    }
}
