//! Finding weights and threshold: Adam on an autoencoder through burn's automatic differentiation.

use std::collections::BTreeMap;

use burn::module::Module;
use burn::optim::{AdamConfig, GradientsParams};
use burn::tensor::{Device, Tensor, TensorData};
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};
use shared::device::DeviceKind;
use shared::pipeline::decision::Verdict;
use shared::pipeline::network::{Network, WeightTensor, Weights};
use shared::pipeline::runner::{Answer, Runner, RunnerInput};
use shared::pipeline::{Decision, Layer, Pipeline};

use super::dataset::{Dataset, SegmentData};
use super::{Progress, TrainError, Watch};
use crate::recipe::Recipe;

/// A pipeline with everything training finds.
#[derive(Debug, Clone)]
pub struct Fitted {
    /// The declaration, complete.
    pub pipeline: Pipeline,
    /// The network's weights.
    pub weights: Weights,
    /// The loss of the last epoch.
    pub loss: f64,
}

impl Fitted {
    /// The calibrated threshold.
    #[must_use]
    pub fn threshold(&self) -> f64 {
        let Decision::Anomaly { threshold, .. } = self.pipeline.decision;
        threshold
    }

    /// The pipeline in operation.
    ///
    /// # Errors
    /// If the device is not there or the weights do not fit.
    pub fn runner(&self, device: DeviceKind) -> Result<Runner, TrainError> {
        Ok(Runner::new(self.pipeline.clone(), &self.weights, device.open()?)?)
    }
}

/// Fits a recipe to a dataset.
///
/// # Errors
/// If there is nothing to train on, the recipe does not fit, or training breaks.
pub fn fit(
    recipe: &Recipe,
    dataset: &Dataset,
    device: DeviceKind,
    stage: &str,
    watch: &mut Watch<'_>,
) -> Result<Fitted, TrainError> {
    let warm_up = recipe.training.warm_up_rows as usize;
    let mut pipeline = recipe.pipeline(&dataset.common_channels())?;
    dataset.fit_scalers(&mut pipeline, warm_up)?;
    let features = dataset.features(&pipeline, warm_up)?;
    let width = pipeline.features()?;
    if features.len() < width {
        return Err(TrainError::NoData(recipe.training.warm_up_rows));
    }
    let mut random = StdRng::seed_from_u64(recipe.training.seed);
    let weights = initial_weights(&pipeline.network, &mut random);
    let autodiff = device.open()?.autodiff();
    let network = Network::build(&pipeline.network, &weights, &autodiff)?;
    let (weights, loss) = descend(recipe, network, &features, width, &autodiff, &mut random, stage, watch)?;
    let mut fitted = Fitted { pipeline, weights, loss };
    calibrate(&mut fitted, recipe, dataset, device)?;
    Ok(fitted)
}

/// The smoothed scores of a segment after its warm-up, from a pipeline with fresh state.
#[must_use]
pub fn verdicts(runner: &mut Runner, segment: &SegmentData, warm_up: usize) -> Vec<Verdict> {
    let inputs: Vec<RunnerInput<'_>> =
        segment.rows().map(|(time_ms, values)| RunnerInput { schema: &segment.schema, time_ms, values }).collect();
    runner
        .run(&inputs)
        .into_iter()
        .skip(warm_up)
        .filter_map(|answer| match answer {
            Answer::Verdict(verdict) => Some(verdict),
            Answer::WindowFilling | Answer::MissingChannel(_) => None,
        })
        .collect()
}

/// `N(0, 1 / inputs)` for weights, zero for biases.
fn initial_weights(layers: &[Layer], random: &mut StdRng) -> Weights {
    let mut weights = BTreeMap::new();
    for (index, layer) in layers.iter().enumerate() {
        if let Layer::Linear { inputs, outputs } = layer {
            let (inputs, outputs) = (*inputs as usize, *outputs as usize);
            let scale = 1.0 / (inputs as f64).sqrt();
            let values = (0..inputs * outputs).map(|_| (scale * normal(random)) as f32).collect();
            weights.insert(format!("layers.{index}.weight"), WeightTensor { shape: vec![inputs, outputs], values });
            let bias = WeightTensor { shape: vec![outputs], values: vec![0.0; outputs] };
            weights.insert(format!("layers.{index}.bias"), bias);
        }
    }
    Weights(weights)
}

#[expect(clippy::too_many_arguments, reason = "one loop with all it needs; a struct would only rename them")]
fn descend(
    recipe: &Recipe,
    mut network: Network,
    features: &[f32],
    width: usize,
    device: &Device,
    random: &mut StdRng,
    stage: &str,
    watch: &mut Watch<'_>,
) -> Result<(Weights, f64), TrainError> {
    let training = &recipe.training;
    let mut optimiser = AdamConfig::new().with_epsilon(1e-8).init();
    let mut order: Vec<usize> = (0..features.len() / width).collect();
    let mut loss = f64::NAN;
    for epoch in 0..training.epochs {
        order.shuffle(random);
        let (mut sum, mut batches) = (0.0, 0_u32);
        for rows in order.chunks(training.batch as usize) {
            watch.check()?;
            let clean: Vec<f32> =
                rows.iter().flat_map(|row| &features[row * width..(row + 1) * width]).copied().collect();
            let noisy = clean.iter().map(|value| value + (training.noise * normal(random)) as f32).collect();
            let tensor =
                |values: Vec<f32>| Tensor::<2>::from_data(TensorData::new(values, [rows.len(), width]), device);
            let error = network.forward(tensor(noisy)) - tensor(clean);
            let mean = (error.clone() * error).mean();
            sum += mean.clone().into_data().iter::<f64>().next().unwrap_or(f64::NAN);
            batches += 1;
            let gradients = GradientsParams::from_grads(mean.backward(), &network);
            network = optimiser.step(training.learning_rate, network, gradients);
        }
        loss = sum / f64::from(batches.max(1));
        if !loss.is_finite() {
            return Err(TrainError::Diverged { epoch, loss });
        }
        let done = f64::from(epoch + 1) / f64::from(training.epochs);
        (watch.progress)(Progress { stage: stage.to_owned(), done, loss });
    }
    Ok((network.valid().weights(), loss))
}

/// Sets the threshold from the training rows' own scores.
fn calibrate(fitted: &mut Fitted, recipe: &Recipe, dataset: &Dataset, device: DeviceKind) -> Result<(), TrainError> {
    let set = |fitted: &mut Fitted, value: f64| {
        let Decision::Anomaly { threshold, .. } = &mut fitted.pipeline.decision;
        *threshold = value;
    };
    // Any threshold will do for the scores themselves.
    set(fitted, 1.0);
    let mut scores = Vec::new();
    for segment in &dataset.segments {
        let mut runner = fitted.runner(device)?;
        let warm_up = recipe.training.warm_up_rows as usize;
        scores.extend(verdicts(&mut runner, segment, warm_up).iter().map(|verdict| f64::from(verdict.score)));
    }
    let value = recipe.threshold.factor * quantile(&mut scores, recipe.threshold.quantile);
    set(fitted, value.max(f64::MIN_POSITIVE));
    Ok(())
}

/// The `q`-quantile with linear interpolation between neighbours; 0 for nothing.
#[must_use]
pub fn quantile(values: &mut [f64], q: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    let place = q * values.len().saturating_sub(1) as f64;
    let (low, high) = (place.floor() as usize, place.ceil() as usize);
    match (values.get(low), values.get(high)) {
        (Some(low), Some(high)) => low + (high - low) * place.fract(),
        _ => 0.0,
    }
}

/// A standard normal number (Box and Muller, 1958).
fn normal(random: &mut StdRng) -> f64 {
    let (u, v): (f64, f64) = (random.random(), random.random());
    (-2.0 * (1.0 - u).ln()).sqrt() * (std::f64::consts::TAU * v).cos()
}

#[cfg(test)]
pub(crate) mod tests {
    use super::super::dataset::tests::segment;
    use super::*;
    use crate::recipe::{DriftRecipe, GateRules, RecipeDecision, RecipeInput, RecipeNetwork, Threshold, Training};
    use shared::pipeline::Step;
    use std::sync::atomic::AtomicBool;

    pub(crate) fn recipe() -> Recipe {
        Recipe {
            input: RecipeInput::default(),
            preprocess: vec![Step::Ema { alpha: 2.0 / 21.0 }, Step::Zscore { mean: vec![], std: vec![] }],
            network: RecipeNetwork { hidden: vec![8, 1, 8] },
            decision: RecipeDecision { smooth: 2.0 / 11.0 },
            training: Training { epochs: 20, batch: 64, learning_rate: 5e-3, noise: 0.05, warm_up_rows: 60, seed: 3 },
            threshold: Threshold::default(),
            gate: GateRules::default(),
            drift: DriftRecipe::default(),
            retrain: crate::core::retrain::RetrainRules::default(),
        }
    }

    pub(crate) fn with_watch<T>(act: impl FnOnce(&mut Watch<'_>) -> T) -> (T, Vec<Progress>) {
        let mut seen = Vec::new();
        let cancelled = AtomicBool::new(false);
        let mut progress = |step: Progress| seen.push(step);
        let result = act(&mut Watch { progress: &mut progress, cancelled: &cancelled });
        (result, seen)
    }

    #[test]
    fn the_same_seed_finds_the_same_weights_and_the_loss_falls() {
        let dataset = Dataset { segments: vec![segment(0, 5.0, 400), segment(1, 5.1, 400)] };
        let fit_once = || with_watch(|watch| fit(&recipe(), &dataset, DeviceKind::Flex, "training", watch));
        let (first, progress) = fit_once();
        let (second, _) = fit_once();
        let (first, second) = (first.expect("trains"), second.expect("trains"));
        assert_eq!(first.weights, second.weights);
        assert_eq!(first.threshold().to_bits(), second.threshold().to_bits());
        assert!(progress[0].loss > 1.2 * progress[19].loss, "{progress:?}");
        assert!((progress[19].done - 1.0).abs() < 1e-9);
    }

    #[test]
    fn training_stops_when_told_to() {
        let dataset = Dataset { segments: vec![segment(0, 5.0, 400)] };
        let mut progress = |_| {};
        let cancelled = AtomicBool::new(true);
        let mut watch = Watch { progress: &mut progress, cancelled: &cancelled };
        assert!(matches!(
            fit(&recipe(), &dataset, DeviceKind::Flex, "training", &mut watch),
            Err(TrainError::Cancelled)
        ));
    }

    #[test]
    fn a_quantile_interpolates() {
        assert!((quantile(&mut [3.0, 1.0, 2.0, 4.0], 0.5) - 2.5).abs() < 1e-12);
        assert!((quantile(&mut [1.0, 2.0], 1.0) - 2.0).abs() < 1e-12);
        assert!(quantile(&mut [], 0.5).abs() < 1e-12);
    }
}
