//! Gradient descent through burn's automatic differentiation.

use burn::optim::momentum::MomentumConfig;
use burn::optim::{AdamConfig, AdamWConfig, GradientsParams, ModuleOptimizer, SgdConfig};
use burn::tensor::activation::log_softmax;
use burn::tensor::{Bytes, Device, Tensor, TensorData};
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};
use serde::{Deserialize, Serialize};
use shared::ids::Digest;
use shared::pipeline::network::Network;
use shared::pipeline::weights::{WeightFormat, WeightTensor, Weights, needed};
use shared::pipeline::{Layer, Shape};

use super::examples::{Examples, Targets};
use super::{Progress, TrainError, Watch};
use crate::recipe::training::{Optimiser, Training};

/// Rows that are run at once where no gradients are needed.
const ROWS_AT_ONCE: usize = 512;

/// What descent works on.
pub(super) struct Task<'a> {
    /// How.
    pub training: &'a Training,
    /// The layers, which were checked.
    pub layers: &'a [Layer],
    /// The shape of what they are given.
    pub input: Shape,
    /// What is trained on.
    pub train: &'a Examples,
    /// What decides when to stop; may be empty.
    pub validation: &'a Examples,
    /// The device.
    pub device: &'a Device,
    /// What is being done, in words.
    pub stage: &'a str,
}

/// What came of it.
#[derive(Debug, Clone)]
pub(super) struct Descended {
    /// The weights.
    pub weights: Weights,
    /// The loss of the last epoch, or, with validation data, the least on those.
    pub loss: f64,
}

/// Where descent is, to go on from after it was stopped.
#[derive(Serialize, Deserialize)]
struct Checkpoint {
    /// Names the task: recipe, data, seed and device.
    task: Digest,
    epochs_done: u32,
    weights: Vec<u8>,
    optimiser: Vec<u8>,
    best: Option<Best>,
}

#[derive(Clone, Serialize, Deserialize)]
struct Best {
    weights: Vec<u8>,
    loss: f64,
    epoch: u32,
}

/// Finds weights.
///
/// # Errors
/// If it is stopped, the loss is no number any more, or a checkpoint cannot be written.
pub(super) fn descend(task: &Task<'_>, watch: &mut Watch<'_>) -> Result<Descended, TrainError> {
    let training = task.training;
    let autodiff = task.device.clone().autodiff();
    let name = task.name();
    let resumed = watch.checkpoint.as_mut().and_then(|store| store.load()).and_then(|bytes| resume(&bytes, name));
    let (mut weights, mut optimiser) = (initial_weights(task.layers, task.input, training.seed), optimiser(training));
    let (mut first_epoch, mut best) = (0, None);
    if let Some(checkpoint) = resumed {
        weights = Weights::from_safetensors(&checkpoint.weights)?;
        optimiser = optimiser
            .from_bytes(Bytes::from_bytes_vec(checkpoint.optimiser))
            .map_err(|error| TrainError::Checkpoint(error.to_string()))?;
        (first_epoch, best) = (checkpoint.epochs_done, checkpoint.best);
    }
    let mut network = Network::build(task.layers, task.input, &weights, &autodiff)?;
    let mut loss = f64::NAN;
    for epoch in first_epoch..training.epochs {
        loss = task.epoch(epoch, &mut network, &mut optimiser, &autodiff, watch)?;
        if !loss.is_finite() {
            return Err(TrainError::Diverged { epoch, loss });
        }
        let mut validation_loss = None;
        if !task.validation.is_empty() {
            let weights = task.settle(network.weights())?;
            let found = task.loss_on(&weights, task.validation)?;
            validation_loss = Some(found);
            if best.as_ref().is_none_or(|best: &Best| found < best.loss) {
                best = Some(Best { weights: weights.to_safetensors(WeightFormat::F32)?, loss: found, epoch });
            }
        }
        let done = f64::from(epoch + 1) / f64::from(training.epochs);
        (watch.progress)(Progress { stage: task.stage.to_owned(), done, loss, validation_loss });
        if let Some(store) = watch.checkpoint.as_mut() {
            let checkpoint = Checkpoint {
                task: name,
                epochs_done: epoch + 1,
                weights: network.weights().to_safetensors(WeightFormat::F32)?,
                optimiser: optimiser.into_bytes().map_err(|error| TrainError::Checkpoint(error.to_string()))?.to_vec(),
                best: best.clone(),
            };
            let bytes =
                postcard::to_allocvec(&checkpoint).map_err(|error| TrainError::Checkpoint(error.to_string()))?;
            store.save(&bytes).map_err(|error| TrainError::Checkpoint(error.to_string()))?;
        }
        let patience = training.patience_epochs;
        if patience > 0 && best.as_ref().is_some_and(|best| epoch - best.epoch >= patience) {
            break;
        }
    }
    match best {
        Some(best) => Ok(Descended { weights: Weights::from_safetensors(&best.weights)?, loss: best.loss }),
        None => Ok(Descended { weights: task.settle(network.weights())?, loss }),
    }
}

fn resume(bytes: &[u8], task: Digest) -> Option<Checkpoint> {
    postcard::from_bytes(bytes).ok().filter(|checkpoint: &Checkpoint| checkpoint.task == task)
}

fn optimiser(training: &Training) -> ModuleOptimizer {
    match training.optimiser {
        // burn's decoupled decay is never off, so without one it is the plain rule.
        Optimiser::Adam if training.weight_decay == 0.0 => AdamConfig::new().with_epsilon(1e-8).init(),
        Optimiser::Adam => AdamWConfig::new().with_epsilon(1e-8).with_weight_decay(training.weight_decay as f32).init(),
        Optimiser::Sgd => SgdConfig::new().with_momentum(Some(MomentumConfig::new().with_momentum(0.9))).init(),
    }
}

impl Task<'_> {
    fn name(&self) -> Digest {
        let mut bytes = postcard::to_allocvec(&(self.training, self.layers)).unwrap_or_default();
        for examples in [self.train, self.validation] {
            examples.inputs.iter().for_each(|value| bytes.extend_from_slice(&value.to_le_bytes()));
            match &examples.targets {
                Targets::Itself => {}
                Targets::Labels(labels) => {
                    labels.iter().for_each(|label| bytes.extend_from_slice(&label.to_le_bytes()));
                }
                Targets::Values(values) => {
                    values.iter().for_each(|value| bytes.extend_from_slice(&value.to_le_bytes()));
                }
            }
        }
        bytes.extend_from_slice(format!("{:?}", self.device).as_bytes());
        Digest::of(&bytes)
    }

    /// One pass over the examples, in an order that the seed and the epoch alone decide. Returns the mean loss.
    fn epoch(
        &self,
        epoch: u32,
        network: &mut Network,
        optimiser: &mut ModuleOptimizer,
        device: &Device,
        watch: &mut Watch<'_>,
    ) -> Result<f64, TrainError> {
        let training = self.training;
        let mut random =
            StdRng::seed_from_u64(training.seed ^ (u64::from(epoch) + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        device.seed(random.random());
        let mut order: Vec<usize> = (0..self.train.len()).collect();
        order.shuffle(&mut random);
        let step_size = training.learning_rate * training.schedule.factor(epoch, training.epochs);
        let (mut sum, mut batches) = (0.0, 0_u32);
        for rows in order.chunks(training.batch as usize) {
            watch.check()?;
            let clean: Vec<f32> = rows.iter().flat_map(|row| self.train.input(*row)).copied().collect();
            let given = if training.noise > 0.0 {
                clean.iter().map(|value| value + (training.noise * normal(&mut random)) as f32).collect()
            } else {
                clean.clone()
            };
            let given = TensorData::new(given, [rows.len(), self.train.input_size]);
            let output = network.forward(Tensor::from_data(given, device));
            let loss = self.loss(output, &clean, rows, self.train, device);
            sum += loss.clone().into_data().iter::<f64>().next().unwrap_or(f64::NAN);
            batches += 1;
            let gradients = GradientsParams::from_grads(loss.backward(), &*network);
            *network = optimiser.step(step_size, network.clone(), gradients);
        }
        Ok(sum / f64::from(batches.max(1)))
    }

    /// The mean loss of the examples `rows`, of which the network made `output`.
    fn loss(
        &self,
        output: Tensor<2>,
        inputs: &[f32],
        rows: &[usize],
        examples: &Examples,
        device: &Device,
    ) -> Tensor<1> {
        let [count, width] = output.dims();
        let wanted = |values: Vec<f32>| Tensor::<2>::from_data(TensorData::new(values, [count, width]), device);
        let squared = |error: Tensor<2>| (error.clone() * error).mean();
        match &examples.targets {
            Targets::Itself => squared(output - wanted(inputs.to_vec())),
            Targets::Values(values) => {
                squared(output - wanted(rows.iter().flat_map(|row| &values[row * width..][..width]).copied().collect()))
            }
            Targets::Labels(labels) => {
                let mut chosen = vec![0.0; count * width];
                for (at, row) in rows.iter().enumerate() {
                    chosen[at * width + usize::from(labels[*row])] = -1.0 / count as f32;
                }
                (log_softmax(output, 1) * wanted(chosen)).sum()
            }
        }
    }

    /// The mean loss on examples, in service.
    fn loss_on(&self, weights: &Weights, examples: &Examples) -> Result<f64, TrainError> {
        let network = Network::build(self.layers, self.input, weights, self.device)?;
        let rows: Vec<usize> = (0..examples.len()).collect();
        let mut sum = 0.0;
        for rows in rows.chunks(ROWS_AT_ONCE) {
            let inputs = &examples.inputs[rows[0] * examples.input_size..][..rows.len() * examples.input_size];
            let given = TensorData::new(inputs.to_vec(), [rows.len(), examples.input_size]);
            let output = network.forward(Tensor::from_data(given, self.device));
            let loss = self.loss(output, inputs, rows, examples, self.device);
            sum += rows.len() as f64 * loss.into_data().iter::<f64>().next().unwrap_or(f64::NAN);
        }
        Ok(sum / examples.len().max(1) as f64)
    }

    /// Finds what each batch normalisation is to take off in service: mean and variance of what it is given, over all
    /// training examples. Exact, where running averages of batches lag behind.
    fn settle(&self, mut weights: Weights) -> Result<Weights, TrainError> {
        for (index, layer) in self.layers.iter().enumerate() {
            if !matches!(layer, Layer::BatchNorm { .. }) {
                continue;
            }
            let network = Network::build(self.layers, self.input, &weights, self.device)?;
            let (mut sum, mut squares, mut count) = (Vec::<f64>::new(), Vec::<f64>::new(), 0.0);
            for inputs in self.train.inputs.chunks(ROWS_AT_ONCE * self.train.input_size) {
                let rows = inputs.len() / self.train.input_size;
                let given =
                    Tensor::from_data(TensorData::new(inputs.to_vec(), [rows, self.train.input_size]), self.device);
                let found = network.given_to(index, given);
                let [steps, width] = found.dims();
                sum.resize(width, 0.0);
                squares.resize(width, 0.0);
                for row in found.into_data().iter::<f32>().collect::<Vec<_>>().chunks_exact(width) {
                    for (column, value) in row.iter().map(|value| f64::from(*value)).enumerate() {
                        sum[column] += value;
                        squares[column] += value * value;
                    }
                }
                count += steps as f64;
            }
            let mean: Vec<f64> = sum.iter().map(|sum| sum / count).collect();
            let variance =
                squares.iter().zip(&mean).map(|(squares, mean)| (squares / count - mean * mean).max(0.0) as f32);
            for (part, values) in
                [("variance", variance.collect()), ("mean", mean.iter().map(|mean| *mean as f32).collect::<Vec<f32>>())]
            {
                let shape = vec![values.len()];
                weights.0.insert(format!("layers.{index}.{part}"), WeightTensor { shape, values });
            }
        }
        Ok(weights)
    }
}

/// `N(0, 1 / inputs)` for products, uniform within `1 / sqrt(units)` for recurrent layers, 1 for scales, 0 for the rest.
fn initial_weights(layers: &[Layer], input: Shape, seed: u64) -> Weights {
    let mut random = StdRng::seed_from_u64(seed);
    let tensors = needed(layers, input).into_iter().map(|tensor| {
        let count = tensor.shape.iter().product();
        // A convolution's kernel is [filters, channels, steps], its transpose's [channels, filters, steps].
        let inputs: usize = match (&layers[tensor.layer], tensor.shape.as_slice()) {
            (Layer::ConvTranspose1d { .. }, [channels, _, steps]) | (_, [_, channels, steps]) => channels * steps,
            (_, shape) => shape[0],
        };
        let scale = 1.0 / (inputs as f64).sqrt();
        let mut fill =
            |mut next: Box<dyn FnMut(&mut StdRng) -> f64>| (0..count).map(|_| next(&mut random) as f32).collect();
        let values: Vec<f32> = match tensor.part {
            "weight" => fill(Box::new(move |random| scale * normal(random))),
            "input_weight" | "hidden_weight" => {
                let gates = if matches!(layers[tensor.layer], Layer::Lstm { .. }) { 4 } else { 3 };
                let limit = 1.0 / ((tensor.shape[1] / gates).max(1) as f64).sqrt();
                fill(Box::new(move |random| limit * (2.0 * random.random::<f64>() - 1.0)))
            }
            "scale" | "variance" => vec![1.0; count],
            _ => vec![0.0; count],
        };
        (tensor.name(), WeightTensor { shape: tensor.shape, values })
    });
    Weights(tensors.collect())
}

/// A standard normal number (Box and Muller, 1958).
fn normal(random: &mut StdRng) -> f64 {
    let (u, v): (f64, f64) = (random.random(), random.random());
    (-2.0 * (1.0 - u).ln()).sqrt() * (std::f64::consts::TAU * v).cos()
}
