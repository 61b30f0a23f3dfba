//! From a recipe and readings to a pipeline with everything that training finds.

use shared::device::{Device, DeviceKind};
use shared::event::{Outcome, Verdict};
use shared::pipeline::decision::{Decision, Score, Threshold};
use shared::pipeline::network::Network;
use shared::pipeline::runner::{Answer, Runner, RunnerInput};
use shared::pipeline::statistics::{mean_and_deviation, quantile, whitening};
use shared::pipeline::weights::{WeightFormat, Weights, needed};
use shared::pipeline::{Baseline, Pipeline, PipelineError, Step};

use serde::{Deserialize, Serialize};
use shared::ids::Digest;

use super::dataset::{Dataset, SegmentData};
use super::descent::{self, Descended};
use super::examples::{Bounds, Examples, Targets};
use super::steps::name_of;
use super::{TrainError, Watch, ridge};
use crate::recipe::Recipe;
use crate::recipe::decision::{RecipeDecision, RecipeThreshold};
use crate::recipe::training::Method;

/// The share of values that lie within a forecast's interval.
const INTERVAL: f64 = 0.9;
/// Temperatures that are tried: below and above, confidence says nothing any more.
const TEMPERATURES: (f64, f64) = (0.05, 20.0);
/// Steps of the search for a temperature: each leaves 0.62 of the range.
const TEMPERATURE_STEPS: usize = 40;

/// A pipeline with everything training finds.
#[derive(Debug, Clone)]
pub struct Fitted {
    /// The declaration, complete.
    pub pipeline: Pipeline,
    /// The network's weights.
    pub weights: Weights,
    /// The loss of the last epoch, or the least on validation data; 0 without descent.
    pub loss: f64,
}

impl Fitted {
    /// The calibrated threshold; 0 if there is none for all streams.
    #[must_use]
    pub fn threshold(&self) -> f64 {
        match self.pipeline.decision {
            Decision::Anomaly { threshold: Threshold::Package { value }, .. } => value,
            Decision::Anomaly { .. } | Decision::Classify { .. } | Decision::Forecast { .. } => 0.0,
        }
    }

    /// The pipeline in operation.
    ///
    /// # Errors
    /// If the device is not there or the weights do not fit.
    pub fn runner(&self, device: DeviceKind) -> Result<Runner, TrainError> {
        Ok(Runner::new(self.pipeline.clone(), &self.weights, device.open()?)?)
    }
}

/// A fitted pipeline as it is kept.
#[derive(Debug, Serialize, Deserialize)]
struct KeptFit {
    pipeline: Pipeline,
    /// Safetensors.
    weights: Vec<u8>,
    loss: f64,
}

impl Fitted {
    fn to_kept(&self) -> Result<KeptFit, TrainError> {
        let weights = self.weights.to_safetensors(WeightFormat::F32)?;
        Ok(KeptFit { pipeline: self.pipeline.clone(), weights, loss: self.loss })
    }

    fn from_kept(kept: KeptFit) -> Result<Self, TrainError> {
        let KeptFit { pipeline, weights, loss } = kept;
        Ok(Self { pipeline, weights: Weights::from_safetensors(&weights)?, loss })
    }

    /// A name of everything in it.
    pub(super) fn identity(&self) -> Result<Digest, TrainError> {
        name_of(&self.to_kept()?)
    }
}

/// Fits a recipe to a dataset, or finds what that came to before.
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
    let inputs = (recipe.fit_digest(), dataset.identity(), device.to_string());
    let (key, kept) = watch.steps.find(("fit", stage), &inputs)?;
    if let Some(kept) = kept {
        return Fitted::from_kept(kept);
    }
    let fitted = fit_anew(recipe, dataset, device, stage, watch)?;
    watch.steps.keep(key, &fitted.to_kept()?)?;
    Ok(fitted)
}

fn fit_anew(
    recipe: &Recipe,
    dataset: &Dataset,
    device: DeviceKind,
    stage: &str,
    watch: &mut Watch<'_>,
) -> Result<Fitted, TrainError> {
    let warm_up = recipe.training.warm_up_rows as usize;
    let bounds = Bounds::of(recipe.data.split.as_ref(), dataset);
    let training = dataset.until(bounds.train_end_ms);
    if training.segments.is_empty() {
        return Err(TrainError::NoData(recipe.training.warm_up_rows));
    }
    let mut pipeline = recipe.pipeline(&dataset.common_channels())?;
    training.fit_scalers(&mut pipeline, warm_up)?;
    scale_targets(&mut pipeline, &training);
    let examples = |within| Examples::of(dataset, &pipeline, warm_up, &within);
    let (train, validation) = (examples(bounds.train())?, examples(bounds.validation())?);
    if train.is_empty() {
        return Err(TrainError::NoData(recipe.training.warm_up_rows));
    }
    let opened = device.open()?;
    let Descended { weights, loss } = find_weights(recipe, &pipeline, &train, &validation, &opened, stage, watch)?;
    let weights = weights.rounded(recipe.training.weights);
    let mut fitted = Fitted { pipeline, weights, loss };
    match &recipe.decision {
        RecipeDecision::Anomaly(anomaly) => {
            learn_distance(&mut fitted, &train, &opened)?;
            if let RecipeThreshold::Training { quantile, factor } = anomaly.threshold {
                set_threshold(&mut fitted, &training, warm_up, device, |scores| {
                    factor * self::quantile(scores, quantile)
                })?;
            }
        }
        RecipeDecision::Classify(_) => set_temperature(&mut fitted, &validation, &opened)?,
        RecipeDecision::Forecast(_) => {
            let held_out = if validation.is_empty() { &train } else { &validation };
            set_intervals(&mut fitted, held_out, &opened)?;
        }
    }
    Ok(fitted)
}

/// The verdicts on a segment after its warm-up, from a pipeline with fresh state.
#[must_use]
pub fn verdicts(runner: &mut Runner, segment: &SegmentData, warm_up: usize) -> Vec<Verdict> {
    let verdict = |outcome| match outcome {
        Outcome::Anomaly(verdict) => Some(verdict),
        Outcome::Label { .. } | Outcome::Forecast { .. } => None,
    };
    answers(runner, segment)
        .into_iter()
        .skip(warm_up)
        .filter_map(|answer| answer.into_outcome().ok().and_then(verdict))
        .collect()
}

/// What `runner` answers to a segment's readings.
#[must_use]
pub fn answers(runner: &mut Runner, segment: &SegmentData) -> Vec<Answer> {
    let inputs: Vec<RunnerInput<'_>> =
        segment.rows().map(|(time_ms, values)| RunnerInput { schema: &segment.schema, time_ms, values }).collect();
    runner.run(&inputs)
}

fn find_weights(
    recipe: &Recipe,
    pipeline: &Pipeline,
    train: &Examples,
    validation: &Examples,
    device: &Device,
    stage: &str,
    watch: &mut Watch<'_>,
) -> Result<Descended, TrainError> {
    let (layers, input) = (pipeline.network.as_slice(), pipeline.input_shape()?);
    if needed(layers, input).is_empty() {
        return Ok(Descended { weights: Weights::default(), loss: 0.0 });
    }
    match recipe.training.method {
        Method::Ridge => {
            let task = ridge::Task { lambda: recipe.training.lambda, layers, input, train, device, stage };
            Ok(Descended { weights: ridge::fit(&task, watch)?, loss: 0.0 })
        }
        Method::Descent => {
            let task = descent::Task { training: &recipe.training, layers, input, train, validation, device, stage };
            descent::descend(&task, watch)
        }
    }
}

/// A forecast is made in the scale that its inputs have: a target that is z-scored as it comes in is scaled back by the
/// same numbers, any other by its own.
fn scale_targets(pipeline: &mut Pipeline, training: &Dataset) {
    let scaled: Vec<(String, f64, f64)> = {
        let mut names: Vec<String> = pipeline.input.names().map(ToString::to_string).collect();
        let mut scaled = Vec::new();
        for step in &pipeline.preprocess {
            match step {
                Step::Select { channels } => names = channels.iter().map(ToString::to_string).collect(),
                Step::Zscore { baseline: Baseline::Package, mean, std } => {
                    scaled = names
                        .iter()
                        .cloned()
                        .zip(mean.iter().zip(std))
                        .map(|(name, (mean, std))| (name, *mean, *std))
                        .collect();
                    break;
                }
                // Behind anything else a column is not what was measured any more.
                Step::Ema { .. }
                | Step::Zscore { .. }
                | Step::Diff { .. }
                | Step::Clip { .. }
                | Step::Lags { .. }
                | Step::Calendar { .. }
                | Step::Window { .. }
                | Step::Stats { .. }
                | Step::FftBands { .. } => break,
            }
        }
        scaled
    };
    if let Decision::Forecast { targets, mean, std, .. } = &mut pipeline.decision {
        (*mean, *std) = targets
            .iter()
            .map(|target| match scaled.iter().find(|(name, _, _)| name == target.as_str()) {
                Some((_, mean, std)) => (*mean, *std),
                None => {
                    let values: Vec<f64> =
                        training.segments.iter().flat_map(|segment| segment.channel(target)).collect();
                    let (mean, std) = mean_and_deviation(values.iter().copied().filter(|value| value.is_finite()));
                    (mean, std.max(1e-9))
                }
            })
            .unzip();
    }
}

/// The network in service.
fn network(fitted: &Fitted, device: &Device) -> Result<Network, TrainError> {
    let input = fitted.pipeline.input_shape()?;
    Ok(Network::build(&fitted.pipeline.network, input, &fitted.weights, device)?)
}

fn learn_distance(fitted: &mut Fitted, train: &Examples, device: &Device) -> Result<(), TrainError> {
    let outputs = network(fitted, device)?.run(&train.inputs, device);
    if let Decision::Anomaly {
        score: Score::Mahalanobis { ridge, baseline: Baseline::Package, mean, whitening: factors },
        ..
    } = &mut fitted.pipeline.decision
    {
        (*mean, *factors) = whitening(&outputs, outputs.len() / train.len(), *ridge);
    }
    Ok(())
}

/// Sets the threshold from the training rows' own scores.
fn set_threshold(
    fitted: &mut Fitted,
    training: &Dataset,
    warm_up: usize,
    device: DeviceKind,
    choose: impl FnOnce(&mut [f64]) -> f64,
) -> Result<(), TrainError> {
    let set = |fitted: &mut Fitted, found: f64| {
        if let Decision::Anomaly { threshold: Threshold::Package { value }, .. } = &mut fitted.pipeline.decision {
            *value = found;
        }
    };
    // Any threshold will do for the scores themselves.
    set(fitted, 1.0);
    let mut scores = Vec::new();
    for segment in &training.segments {
        let verdicts = verdicts(&mut fitted.runner(device)?, segment, warm_up);
        scores.extend(verdicts.iter().map(|verdict| f64::from(verdict.score)));
    }
    let chosen = choose(&mut scores).max(f64::MIN_POSITIVE);
    set(fitted, chosen);
    Ok(())
}

/// Sets the temperature at which held-out labels are likeliest, by golden-section search of its logarithm.
fn set_temperature(fitted: &mut Fitted, validation: &Examples, device: &Device) -> Result<(), TrainError> {
    let Targets::Labels(labels) = &validation.targets else {
        return Ok(());
    };
    if labels.is_empty() {
        return Ok(());
    }
    let logits = network(fitted, device)?.run(&validation.inputs, device);
    let width = logits.len() / labels.len();
    let loss = |log_temperature: f64| {
        let factor = (-log_temperature).exp();
        let rows = logits.chunks_exact(width).zip(labels);
        rows.map(|(logits, label)| {
            let scaled = || logits.iter().map(|logit| f64::from(*logit) * factor);
            let largest = scaled().fold(f64::NEG_INFINITY, f64::max);
            let total: f64 = scaled().map(|logit| (logit - largest).exp()).sum();
            largest + total.ln() - f64::from(logits[usize::from(*label)]) * factor
        })
        .sum::<f64>()
    };
    let (mut low, mut high) = (TEMPERATURES.0.ln(), TEMPERATURES.1.ln());
    let golden = 0.5 * (5.0_f64.sqrt() - 1.0);
    for _ in 0..TEMPERATURE_STEPS {
        let (left, right) = (high - golden * (high - low), low + golden * (high - low));
        if loss(left) < loss(right) {
            high = right;
        } else {
            low = left;
        }
    }
    if let Decision::Classify { temperature, .. } = &mut fitted.pipeline.decision {
        *temperature = (0.5 * (low + high)).exp();
    }
    Ok(())
}

/// Sets how far nine in ten values were from their forecast on examples held out.
fn set_intervals(fitted: &mut Fitted, held_out: &Examples, device: &Device) -> Result<(), TrainError> {
    let outputs = network(fitted, device)?.run(&held_out.inputs, device);
    let (Targets::Values(values), Decision::Forecast { horizon, targets, std, interval_90, .. }) =
        (&held_out.targets, &mut fitted.pipeline.decision)
    else {
        return Err(TrainError::Pipeline(PipelineError {
            place: shared::pipeline::Place::Decision,
            problem: "a forecast is fitted to numbers".to_owned(),
        }));
    };
    let (horizon, channels) = (*horizon as usize, targets.len());
    let size = horizon * channels;
    *interval_90 = (0..channels)
        .flat_map(|target| (0..horizon).map(move |step| (target, step)))
        .map(|(target, step)| {
            let at = step * channels + target;
            let column = |numbers: &[f32]| numbers.iter().skip(at).step_by(size).copied().collect::<Vec<f32>>();
            let (found, wanted) = (column(&outputs), column(values));
            let mut errors: Vec<f64> = found.iter().zip(&wanted).map(|(a, b)| f64::from((a - b).abs())).collect();
            (std[target] * quantile(&mut errors, INTERVAL)) as f32
        })
        .collect();
    Ok(())
}

#[cfg(test)]
pub(crate) mod tests {
    use super::super::dataset::tests::segment;
    use super::super::{Checkpoints, Progress};
    use super::*;
    use crate::train::steps::Steps;
    use shared::config::Source;
    use std::path::Path;
    use std::sync::atomic::AtomicBool;

    const RECIPE: &str = "\
        preprocess = [{ ema = { alpha = 0.09523809523809523 } }, { zscore = {} }]\n\
        network = [{ linear = { outputs = 8 } }, 'tanh', { linear = { outputs = 1 } }, 'tanh', { linear = { outputs = 8 } }, \
                   'tanh', { linear = {} }]\n\
        [decision.anomaly]\nsmooth = 0.18181818181818182\n\
        [training]\nepochs = 20\nbatch = 64\nlearning_rate = 5e-3\nnoise = 0.05\nwarm_up_rows = 60\nseed = 3\n";

    pub(crate) fn recipe_of(text: &str) -> Recipe {
        Recipe::read(&Source::new(Path::new("r.toml"), text.to_owned())).unwrap_or_else(|error| panic!("{error}"))
    }

    pub(crate) fn recipe() -> Recipe {
        recipe_of(RECIPE)
    }

    pub(crate) fn with_watch<T>(act: impl FnOnce(&mut Watch<'_>) -> T) -> (T, Vec<Progress>) {
        let mut seen = Vec::new();
        let cancelled = AtomicBool::new(false);
        let mut progress = |step: Progress| seen.push(step);
        let result = act(&mut Watch {
            progress: &mut progress,
            cancelled: &cancelled,
            checkpoint: None,
            steps: Steps::default(),
        });
        (result, seen)
    }

    fn fitted(recipe: &Recipe, dataset: &Dataset) -> Fitted {
        with_watch(|watch| fit(recipe, dataset, DeviceKind::Flex, "training", watch)).0.expect("trains")
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
    fn weights_in_eight_bits_are_those_that_thresholds_are_found_with() {
        let dataset = Dataset { segments: vec![segment(0, 5.0, 400), segment(1, 5.1, 400)] };
        let mut eight_bits = recipe();
        eight_bits.training.weights = WeightFormat::Int8;
        let (plain, rounded) = (fitted(&recipe(), &dataset), fitted(&eight_bits, &dataset));
        assert_eq!(rounded.weights, plain.weights.clone().rounded(WeightFormat::Int8));
        assert_ne!(rounded.weights, plain.weights);
        let ratio = rounded.threshold() / plain.threshold();
        assert!(ratio != 1.0 && (0.8..1.25).contains(&ratio), "{ratio}");
    }

    /// Keeps the newest checkpoint and stops the training after so many.
    struct StopAfter<'a> {
        newest: Option<Vec<u8>>,
        left: u32,
        cancelled: &'a AtomicBool,
    }

    impl Checkpoints for StopAfter<'_> {
        fn load(&mut self) -> Option<Vec<u8>> {
            self.newest.clone()
        }

        fn save(&mut self, bytes: &[u8]) -> std::io::Result<()> {
            self.newest = Some(bytes.to_vec());
            self.left -= 1;
            self.cancelled.store(self.left == 0, std::sync::atomic::Ordering::Relaxed);
            Ok(())
        }
    }

    #[test]
    fn a_training_that_was_stopped_goes_on_to_the_very_same_weights() {
        let dataset = Dataset { segments: vec![segment(0, 5.0, 400)] };
        let whole = fitted(&recipe(), &dataset);
        let cancelled = AtomicBool::new(false);
        let mut checkpoints = StopAfter { newest: None, left: 7, cancelled: &cancelled };
        let mut epochs = 0;
        let mut go = |checkpoints: &mut StopAfter<'_>| {
            let mut progress = |_| epochs += 1;
            let (progress, steps) = (&mut progress, Steps::default());
            let mut watch = Watch { progress, cancelled: &cancelled, checkpoint: Some(checkpoints), steps };
            fit(&recipe(), &dataset, DeviceKind::Flex, "training", &mut watch)
        };
        assert!(matches!(go(&mut checkpoints), Err(TrainError::Cancelled)));
        cancelled.store(false, std::sync::atomic::Ordering::Relaxed);
        checkpoints.left = u32::MAX;
        let resumed = go(&mut checkpoints).expect("trains");
        assert_eq!(epochs, 20, "none is done twice");
        assert_eq!(resumed.weights, whole.weights);
    }

    #[test]
    fn a_classifier_learns_labels_and_how_sure_it_may_be() {
        let recipe = recipe_of(
            "preprocess = [{ zscore = {} }]\nnetwork = [{ linear = { outputs = 8 } }, 'relu', { linear = {} }]\n\
             [decision.classify]\nlabels = ['low', 'high']\n\
             [training]\nepochs = 15\nbatch = 32\nlearning_rate = 0.01\nseed = 1\n\
             [data]\nsplit = { train = '70 %', validation = '15 %', test = '15 %' }\n",
        );
        let mut segments: Vec<SegmentData> =
            (0..10).map(|index| segment(index, if index % 2 == 0 { 5.0 } else { 5.6 }, 100)).collect();
        for (index, segment) in segments.iter_mut().enumerate() {
            segment.labels = vec![Some((index % 2) as u16); 100];
        }
        let dataset = Dataset { segments };
        let fitted = fitted(&recipe, &dataset);
        let Decision::Classify { temperature, .. } = fitted.pipeline.decision else { panic!("a classifier") };
        assert!(temperature > 0.05 && temperature < 20.0 && (temperature - 1.0).abs() > 1e-6, "{temperature}");
        let mut right = 0;
        let answers = answers(&mut fitted.runner(DeviceKind::Flex).expect("runs"), &dataset.segments[9]);
        for answer in answers {
            let Ok(Outcome::Label { label, .. }) = answer.into_outcome() else { panic!("no label") };
            right += u32::from(label == "high");
        }
        assert!(right > 85, "{right} of 100");
    }

    #[test]
    fn ridge_finds_what_descent_finds_and_forecasts_come_in_the_channels_units() {
        let text = |training: &str| {
            format!(
                "preprocess = [{{ zscore = {{}} }}, {{ window = {{ length = 8 }} }}]\n\
                 network = [{{ detrend = {{ layers = 3 }} }}, 'transpose', {{ linear = {{ bias = false }} }}, 'transpose']\n\
                 [decision.forecast]\nhorizon = 4\n[training]\n{training}\n"
            )
        };
        // A wave of 16 readings: eight in a row say exactly what comes next.
        let mut wave = segment(0, 0.0, 200);
        for (row, values) in wave.values.chunks_exact_mut(2).enumerate() {
            let angle = std::f64::consts::TAU * row as f64 / 16.0;
            values.copy_from_slice(&[100.0 + angle.sin(), 7.0 + 3.0 * angle.cos()]);
        }
        let dataset = Dataset { segments: vec![wave] };
        let exact = fitted(&recipe_of(&text("method = 'ridge'\nlambda = 1e-3")), &dataset);
        let answers = answers(&mut exact.runner(DeviceKind::Flex).expect("runs"), &dataset.segments[0]);
        let Ok(Outcome::Forecast { values }) = answers[100].clone().into_outcome() else {
            panic!("{:?}", answers[100])
        };
        for step in 0..4 {
            let row = &dataset.segments[0].values[2 * (101 + step)..][..2];
            assert!((f64::from(values[step]) - row[0]).abs() < 0.01, "{values:?}");
            assert!((f64::from(values[4 + step]) - row[1]).abs() < 0.03, "{values:?}");
        }
        let descended = fitted(&recipe_of(&text("epochs = 200\nbatch = 16\nlearning_rate = 0.01\nseed = 1")), &dataset);
        assert!(descended.loss < 1e-3, "{}", descended.loss);
    }

    #[test]
    fn a_stream_that_brings_its_own_baseline_needs_no_weights() {
        let recipe = recipe_of(
            "calibration = { rows = 100, warm_up_rows = 20 }\npreprocess = [{ ema = { alpha = 0.2 } }]\n\
             [decision.anomaly]\nscore = { mahalanobis = { baseline = 'stream' } }\n\
             threshold = { stream = { factor = 3.0 } }\n",
        );
        let dataset = Dataset { segments: vec![segment(0, 5.0, 400)] };
        let fitted = fitted(&recipe, &dataset);
        assert!(fitted.weights.0.is_empty());
        let verdicts = verdicts(&mut fitted.runner(DeviceKind::Flex).expect("runs"), &dataset.segments[0], 0);
        assert_eq!(verdicts.len(), 300);
        assert!(verdicts.iter().filter(|verdict| verdict.anomaly).count() < 15);
    }
}
