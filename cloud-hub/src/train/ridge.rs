//! The closed form: the one linear layer of a network by its normal equations, `W = (X'X + lambda I)^-1 X'Y`.

use burn::tensor::{Device, Tensor, TensorData};
use shared::pipeline::network::Network;
use shared::pipeline::statistics::{cholesky, solve_with_cholesky};
use shared::pipeline::weights::{WeightTensor, Weights};
use shared::pipeline::{Layer, PipelineError, Place, Shape};

use super::examples::{Examples, Targets};
use super::{Progress, TrainError, Watch};

/// Examples whose products are summed up at once, in f32; the sums are f64.
const ROWS_AT_ONCE: usize = 1_024;

/// What ridge works on.
pub(super) struct Task<'a> {
    /// Added to the diagonal.
    pub lambda: f64,
    /// The layers, which were checked.
    pub layers: &'a [Layer],
    /// The shape of what they are given.
    pub input: Shape,
    /// The examples.
    pub train: &'a Examples,
    /// The device.
    pub device: &'a Device,
    /// What is being done, in words.
    pub stage: &'a str,
}

/// How the linear layer stands in its network.
struct Form {
    linear: usize,
    outputs: usize,
    bias: bool,
    /// Whether each channel's last value is taken off before and added after.
    detrend: bool,
    /// Whether steps and channels are exchanged after it.
    transposed: bool,
}

/// Finds the weights of the linear layer.
///
/// # Errors
/// If the network is not a linear layer, alone, between transposes or in a detrend block, or if it is stopped.
pub(super) fn fit(task: &Task<'_>, watch: &mut Watch<'_>) -> Result<Weights, TrainError> {
    let form = Form::of(task.layers).map_err(TrainError::Pipeline)?;
    let Targets::Values(values) = &task.train.targets else {
        let problem = "ridge needs numbers to aim at: it is for forecasts".to_owned();
        return Err(TrainError::Pipeline(PipelineError { place: Place::Decision, problem }));
    };
    // Up to the linear layer nothing has weights, so any will do.
    let untrained = Weights(
        shared::pipeline::weights::needed(task.layers, task.input)
            .into_iter()
            .map(|tensor| {
                let values = vec![0.0; tensor.shape.iter().product()];
                (tensor.name(), WeightTensor { shape: tensor.shape, values })
            })
            .collect(),
    );
    let network = Network::build(task.layers, task.input, &untrained, task.device)?;
    let per_example = values.len() / task.train.len().max(1);
    let mut sums = Sums::default();
    for start in (0..task.train.len()).step_by(ROWS_AT_ONCE) {
        watch.check()?;
        let rows = ROWS_AT_ONCE.min(task.train.len() - start);
        let inputs = &task.train.inputs[start * task.train.input_size..][..rows * task.train.input_size];
        let input = TensorData::new(inputs.to_vec(), [rows, task.train.input_size]);
        let given = network.given_to(form.linear, Tensor::from_data(input, task.device));
        let wanted = form.wanted(inputs, &values[start * per_example..][..rows * per_example], task);
        let wanted = TensorData::new(wanted, [given.dims()[0], form.outputs]);
        sums.add(given, Tensor::from_data(wanted, task.device), form.bias);
        let done = (start + rows) as f64 / task.train.len() as f64;
        (watch.progress)(Progress { stage: task.stage.to_owned(), done, loss: f64::NAN, validation_loss: None });
    }
    let solution = sums.solve(task.lambda, form.bias);
    let width = solution.len() / form.outputs - usize::from(form.bias);
    let mut weights = untrained;
    let mut put = |part: &str, shape: Vec<usize>, values: &[f64]| {
        let values = values.iter().map(|value| *value as f32).collect();
        weights.0.insert(format!("layers.{}.{part}", form.linear), WeightTensor { shape, values });
    };
    put("weight", vec![width, form.outputs], &solution[..width * form.outputs]);
    if form.bias {
        put("bias", vec![form.outputs], &solution[width * form.outputs..]);
    }
    Ok(weights)
}

impl Form {
    fn of(layers: &[Layer]) -> Result<Self, PipelineError> {
        let wrong =
            |index: usize, problem: &str| PipelineError { place: Place::Network(index), problem: problem.to_owned() };
        let linear = layers.iter().position(|layer| matches!(layer, Layer::Linear { .. }));
        let linear = linear.ok_or_else(|| wrong(0, "ridge needs a linear layer"))?;
        let Layer::Linear { outputs, bias } = layers[linear] else {
            return Err(wrong(linear, "ridge needs a linear layer"));
        };
        let detrend =
            matches!(layers.first(), Some(Layer::Detrend { layers: length }) if *length as usize == layers.len() - 1);
        for (index, layer) in layers.iter().enumerate() {
            let is_known = index == linear
                || (index == 0 && detrend)
                || matches!(layer, Layer::Transpose)
                || (index < linear && matches!(layer, Layer::Flatten));
            if !is_known {
                let allowed = "ridge allows one linear layer, transposes, and a detrend block around all of it";
                return Err(wrong(index, &format!("{}: {allowed}", layer.name())));
            }
        }
        let transposed = layers[linear + 1..].len() % 2 == 1;
        Ok(Self { linear, outputs: outputs as usize, bias, detrend, transposed })
    }

    /// What the linear layer should give so that the network gives `values`, row after row of the layer's own rows.
    fn wanted(&self, inputs: &[f32], values: &[f32], task: &Task<'_>) -> Vec<f32> {
        let Shape::Sequence { steps, channels } = task.input else {
            return values.to_vec();
        };
        let (input_size, rows) = (steps * channels, inputs.len() / (steps * channels));
        let size = values.len() / rows;
        let mut wanted = values.to_vec();
        if self.detrend {
            for (example, values) in wanted.chunks_exact_mut(size).enumerate() {
                let last = &inputs[(example + 1) * input_size - channels..][..channels];
                values.chunks_exact_mut(channels).for_each(|step| {
                    step.iter_mut().zip(last).for_each(|(value, last)| *value -= last);
                });
            }
        }
        if !self.transposed {
            return wanted;
        }
        // The layer gives channels, each with all its steps.
        let horizon = self.outputs;
        let channels = size / horizon;
        let mut turned = Vec::with_capacity(wanted.len());
        for values in wanted.chunks_exact(size) {
            for channel in 0..channels {
                turned.extend((0..horizon).map(|step| values[step * channels + channel]));
            }
        }
        turned
    }
}

/// X'X and X'Y.
#[derive(Default)]
struct Sums {
    squares: Vec<f64>,
    products: Vec<f64>,
    width: usize,
}

impl Sums {
    fn add(&mut self, given: Tensor<2>, wanted: Tensor<2>, bias: bool) {
        let [rows, _] = given.dims();
        let given = if bias {
            let ones = Tensor::ones([rows, 1], &given.device());
            Tensor::cat(vec![given, ones], 1)
        } else {
            given
        };
        self.width = given.dims()[1];
        let turned = given.clone().transpose();
        let add = |sums: &mut Vec<f64>, product: Tensor<2>| {
            let product = product.into_data();
            sums.resize(product.num_elements(), 0.0);
            sums.iter_mut().zip(product.iter::<f32>()).for_each(|(sum, value)| *sum += f64::from(value));
        };
        add(&mut self.squares, turned.clone().matmul(given));
        add(&mut self.products, turned.matmul(wanted));
    }

    /// The weights, row-major; a bias is the last row, and is not shrunk.
    fn solve(mut self, lambda: f64, bias: bool) -> Vec<f64> {
        let shrunk = self.width - usize::from(bias);
        for i in 0..self.width {
            self.squares[i * self.width + i] += if i < shrunk { lambda } else { 1e-9 };
        }
        cholesky(&mut self.squares, self.width);
        solve_with_cholesky(&self.squares, self.width, &mut self.products);
        self.products
    }
}
