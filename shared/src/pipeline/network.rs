//! The network: declared layers as operations on burn's tensors, on whichever device.

mod kernels;
mod operations;

use std::collections::BTreeMap;

use burn::module::{Module, ModuleVisitor, Param, ParamId};
use burn::tensor::{Device, Tensor, TensorData};

use self::kernels::Kernels;
use self::operations::Flow;
use super::layer::{Layer, Shape, shapes};
use super::weights::{WeightTensor, Weights, WeightsError, needed};

/// Rows that go through a network at once in service: measured as the cache-friendly size on the CPU devices.
const FORWARD_ROWS: usize = 64;

/// A network. Rows of features go in and out as tensors `[rows, size]` of f32; a sequence lies in a row step after step.
#[derive(Module, Debug)]
pub struct Network {
    vectors: Vec<Param<Tensor<1>>>,
    matrices: Vec<Param<Tensor<2>>>,
    kernels: Vec<Param<Tensor<3>>>,
    #[module(skip)]
    plan: Plan,
    /// What [`Network::run`] takes instead of tensors, where it can.
    #[module(skip)]
    short_cut: Option<Kernels>,
}

/// What is declared, and where each layer's weights are.
#[derive(Debug, Clone)]
struct Plan {
    input: Shape,
    layers: Vec<Layer>,
    /// The shape each layer gives.
    shapes: Vec<Shape>,
    /// Per layer, its weights in order.
    weights: Vec<Vec<Slot>>,
    /// The names of the parameters, by [`ParamId`].
    names: BTreeMap<u64, String>,
    /// Statistics of batches instead of those that are stored: in training.
    is_training: bool,
}

/// Where a tensor is kept.
#[derive(Debug, Clone, Copy)]
enum Slot {
    Vector(usize),
    Matrix(usize),
    Kernel(usize),
}

impl Network {
    /// Builds `layers`, which were checked and of which the first is given `input`, with `weights` on `device`. On a device
    /// that differentiates it is built for training: batches are normalised by themselves, and features dropped out.
    ///
    /// # Errors
    /// If a tensor is missing, of the wrong shape or not finite.
    pub fn build(layers: &[Layer], input: Shape, weights: &Weights, device: &Device) -> Result<Self, WeightsError> {
        weights.check(layers, input)?;
        let shapes = shapes(layers, input).unwrap_or_default();
        let short_cut = if *device == Device::flex() && !device.is_autodiff() {
            Kernels::of(layers, &shapes, input, weights)?
        } else {
            None
        };
        let mut network = Self {
            short_cut,
            vectors: Vec::new(),
            matrices: Vec::new(),
            kernels: Vec::new(),
            plan: Plan {
                input,
                layers: layers.to_vec(),
                shapes,
                weights: vec![Vec::new(); layers.len()],
                names: BTreeMap::new(),
                is_training: device.is_autodiff(),
            },
        };
        for (index, tensor) in needed(layers, input).iter().enumerate() {
            let values = weights.get(tensor)?;
            let data = TensorData::new(values.values.clone(), tensor.shape.clone());
            // Counted, so that a training that goes on finds its momenta again.
            let id = index as u64 + 1;
            // Running statistics are no gradient's business.
            let is_trained = network.plan.is_training && !matches!(tensor.part, "mean" | "variance");
            let slot = match tensor.shape.len() {
                1 => {
                    network.vectors.push(parameter(id, data, device, is_trained));
                    Slot::Vector(network.vectors.len() - 1)
                }
                2 => {
                    network.matrices.push(parameter(id, data, device, is_trained));
                    Slot::Matrix(network.matrices.len() - 1)
                }
                _ => {
                    network.kernels.push(parameter(id, data, device, is_trained));
                    Slot::Kernel(network.kernels.len() - 1)
                }
            };
            network.plan.weights[tensor.layer].push(slot);
            network.plan.names.insert(id, tensor.name());
        }
        Ok(network)
    }

    /// Runs `input` of shape `[rows, input size]` through the network; gives `[rows, output size]`.
    #[must_use]
    pub fn forward(&self, input: Tensor<2>) -> Tensor<2> {
        self.run_layers(input, self.plan.layers.len()).into_rows()
    }

    /// What layer `index` is given, as rows of its channels `[rows * steps, channels]`: what batch statistics are taken of.
    #[must_use]
    pub fn given_to(&self, index: usize, input: Tensor<2>) -> Tensor<2> {
        self.run_layers(input, index).into_steps()
    }

    /// Runs rows of features, one after another, through the network; gives the rows that come out.
    #[must_use]
    pub fn run(&self, features: &[f32], device: &Device) -> Vec<f32> {
        if self.plan.layers.is_empty() {
            return features.to_vec();
        }
        if let Some(kernels) = &self.short_cut {
            return kernels.run(features);
        }
        let width = self.plan.input.size();
        let mut outputs = Vec::with_capacity(features.len() / width * self.output_shape().size());
        for chunk in features.chunks(FORWARD_ROWS * width) {
            let input = TensorData::new(chunk.to_vec(), [chunk.len() / width, width]);
            let output = self.forward(Tensor::from_data(input, device)).into_data();
            outputs.extend(output.iter::<f32>());
        }
        outputs
    }

    /// The shape of what comes out.
    #[must_use]
    pub fn output_shape(&self) -> Shape {
        self.plan.shapes.last().copied().unwrap_or(self.plan.input)
    }

    /// The weights as they are now.
    #[must_use]
    pub fn weights(&self) -> Weights {
        let mut collected = Collected { names: &self.plan.names, weights: BTreeMap::new() };
        self.visit(&mut collected);
        Weights(collected.weights)
    }

    fn vector(&self, layer: usize, part: usize) -> Option<Tensor<1>> {
        match self.plan.weights[layer].get(part) {
            Some(Slot::Vector(index)) => Some(self.vectors[*index].val()),
            Some(Slot::Matrix(_) | Slot::Kernel(_)) | None => None,
        }
    }

    fn matrix(&self, layer: usize, part: usize) -> Option<Tensor<2>> {
        match self.plan.weights[layer].get(part) {
            Some(Slot::Matrix(index)) => Some(self.matrices[*index].val()),
            Some(Slot::Vector(_) | Slot::Kernel(_)) | None => None,
        }
    }

    fn kernel(&self, layer: usize, part: usize) -> Option<Tensor<3>> {
        match self.plan.weights[layer].get(part) {
            Some(Slot::Kernel(index)) => Some(self.kernels[*index].val()),
            Some(Slot::Vector(_) | Slot::Matrix(_)) | None => None,
        }
    }

    fn run_layers(&self, input: Tensor<2>, count: usize) -> Flow {
        let mut flow = Flow::new(input, self.plan.input);
        // Blocks that are open: where they end, and what is added there.
        let mut open: Vec<(usize, Flow)> = Vec::new();
        for (index, layer) in self.plan.layers.iter().enumerate().take(count) {
            match layer {
                Layer::Residual { layers } => open.push((index + 1 + *layers as usize, flow.clone())),
                Layer::Detrend { layers } => {
                    let last = flow.last_step();
                    flow = flow.minus(last.clone());
                    open.push((index + 1 + *layers as usize, last));
                }
                Layer::Linear { .. }
                | Layer::Conv1d { .. }
                | Layer::ConvTranspose1d { .. }
                | Layer::Pool { .. }
                | Layer::GlobalPool { .. }
                | Layer::Gru { .. }
                | Layer::Lstm { .. }
                | Layer::LayerNorm { .. }
                | Layer::BatchNorm { .. }
                | Layer::Affine
                | Layer::Tanh
                | Layer::Relu
                | Layer::Sigmoid
                | Layer::Gelu
                | Layer::Softmax
                | Layer::LeakyRelu { .. }
                | Layer::Elu { .. }
                | Layer::Dropout { .. }
                | Layer::Flatten
                | Layer::Transpose
                | Layer::Reshape { .. }
                | Layer::Slice { .. } => flow = self.operate(index, layer, flow),
            }
            while let Some((_, added)) = open.pop_if(|(end, _)| *end == index + 1) {
                flow = flow.plus(added);
            }
        }
        flow
    }
}

fn parameter<const D: usize>(id: u64, data: TensorData, device: &Device, is_trained: bool) -> Param<Tensor<D>> {
    let tensor = Tensor::from_data(data, device);
    Param::initialized(ParamId::from(id), if is_trained { tensor.require_grad() } else { tensor })
}

/// Reads parameters out of a network.
struct Collected<'a> {
    names: &'a BTreeMap<u64, String>,
    weights: BTreeMap<String, WeightTensor>,
}

impl ModuleVisitor for Collected<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if let Some(name) = self.names.get(&param.id.val()) {
            let data = param.val().into_data();
            let shape = data.shape().iter().copied().collect();
            self.weights.insert(name.clone(), WeightTensor { shape, values: data.iter::<f32>().collect() });
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::device::DeviceKind;
    use crate::pipeline::layer::{GlobalPooling, Padding, Pooling, Recurrence};
    use crate::pipeline::tests::{linear, sample};
    use crate::pipeline::weights::tests::sample_weights;

    fn flex() -> Device {
        DeviceKind::Flex.open().expect("built in")
    }

    /// Weights that are all different, and none large.
    pub(crate) fn some_weights(layers: &[Layer], input: Shape) -> Weights {
        let mut seed = 1_u32;
        let mut next = move || {
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (seed >> 8) as f32 / (1 << 24) as f32 - 0.5
        };
        let tensor = |tensor: &crate::pipeline::weights::Needed| {
            let values = (0..tensor.shape.iter().product::<usize>()).map(|_| next());
            let positive = tensor.part == "variance";
            let values = values.map(|value| if positive { value + 1.0 } else { value }).collect();
            (tensor.name(), WeightTensor { shape: tensor.shape.clone(), values })
        };
        Weights(needed(layers, input).iter().map(tensor).collect())
    }

    fn run(layers: &[Layer], input: Shape, row: &[f32]) -> Vec<f32> {
        let network = Network::build(layers, input, &some_weights(layers, input), &flex()).expect("builds");
        assert_eq!(network.weights(), some_weights(layers, input));
        network.run(row, &flex())
    }

    fn close(found: &[f32], expected: &[f32]) {
        assert_eq!(found.len(), expected.len(), "{found:?} {expected:?}");
        for (a, b) in found.iter().zip(expected) {
            assert!((a - b).abs() < 1e-5, "{found:?} {expected:?}");
        }
    }

    #[test]
    fn dense_layers_compute_what_they_say() {
        let network = Network::build(&sample().network, Shape::Flat(2), &sample_weights(), &flex()).expect("builds");
        let out = network.run(&[1.0, -0.5], &flex());
        // By hand: h = tanh(x W + b), y = h V + c.
        let h: Vec<f32> = (0..3)
            .map(|j| {
                let w = |i: usize| 0.1 * ((i * 3 + j) as f32 - 2.0);
                (w(0) - 0.5 * w(1) + 0.05 * (j as f32 - 2.0)).tanh()
            })
            .collect();
        let expected: Vec<f32> = (0..2)
            .map(|k| (0..3).map(|j| h[j] * 0.2 * ((j * 2 + k) as f32 - 2.0)).sum::<f32>() + 0.01 * (k as f32 - 2.0))
            .collect();
        close(&out, &expected);
        assert_eq!(network.weights(), sample_weights());
    }

    const SEQUENCE: Shape = Shape::Sequence { steps: 4, channels: 2 };
    const ROW: [f32; 8] = [1.0, -1.0, 2.0, 0.5, -0.5, 3.0, 0.0, 1.5];

    #[test]
    fn a_convolution_sees_steps_in_order_and_pads_where_it_says() {
        let conv = |padding| {
            vec![Layer::Conv1d { filters: 1, kernel: 2, stride: 1, dilation: 1, groups: 1, padding, bias: true }]
        };
        let weights = some_weights(&conv(Padding::Valid), SEQUENCE);
        let (w, b) = (&weights.0["layers.0.weight"].values, weights.0["layers.0.bias"].values[0]);
        let step = |t: usize| [ROW[2 * t], ROW[2 * t + 1]];
        let at = |old: [f32; 2], new: [f32; 2]| w[0] * old[0] + w[1] * new[0] + w[2] * old[1] + w[3] * new[1] + b;
        let inner: Vec<f32> = (0..3).map(|t| at(step(t), step(t + 1))).collect();
        close(&run(&conv(Padding::Valid), SEQUENCE, &ROW), &inner);
        let causal: Vec<f32> = std::iter::once(at([0.0; 2], step(0))).chain(inner.iter().copied()).collect();
        close(&run(&conv(Padding::Causal), SEQUENCE, &ROW), &causal);
        let same: Vec<f32> = inner.iter().copied().chain([at(step(3), [0.0; 2])]).collect();
        close(&run(&conv(Padding::Same), SEQUENCE, &ROW), &same);
    }

    #[test]
    fn a_gru_follows_its_equations() {
        for reset_after in [true, false] {
            let layers = [Layer::Gru { units: 2, give: Recurrence::Sequence, reset_after }];
            let weights = some_weights(&layers, SEQUENCE);
            let part = |part: &str| weights.0[&format!("layers.0.{part}")].values.clone();
            let (wi, wh, bi, bh) =
                (part("input_weight"), part("hidden_weight"), part("input_bias"), part("hidden_bias"));
            let sigmoid = |x: f32| 1.0 / (1.0 + (-x).exp());
            let (mut h, mut expected) = ([0.0_f32; 2], Vec::new());
            for x in ROW.chunks_exact(2) {
                let of_input = |g: usize, u: usize| x[0] * wi[2 * g + u] + x[1] * wi[6 + 2 * g + u] + bi[2 * g + u];
                let of_state =
                    |h: [f32; 2], g: usize, u: usize| h[0] * wh[2 * g + u] + h[1] * wh[6 + 2 * g + u] + bh[2 * g + u];
                let r = [0, 1].map(|u| sigmoid(of_input(0, u) + of_state(h, 0, u)));
                let z = [0, 1].map(|u| sigmoid(of_input(1, u) + of_state(h, 1, u)));
                let n = [0, 1].map(|u| {
                    let reset =
                        if reset_after { r[u] * of_state(h, 2, u) } else { of_state([r[0] * h[0], r[1] * h[1]], 2, u) };
                    (of_input(2, u) + reset).tanh()
                });
                h = [0, 1].map(|u| (1.0 - z[u]) * n[u] + z[u] * h[u]);
                expected.extend(h);
            }
            close(&run(&layers, SEQUENCE, &ROW), &expected);
            let last = [Layer::Gru { units: 2, give: Recurrence::Last, reset_after }];
            close(&run(&last, SEQUENCE, &ROW), &expected[6..]);
        }
    }

    #[test]
    fn an_lstm_follows_its_equations() {
        let layers = [Layer::Lstm { units: 1, give: Recurrence::Sequence }];
        let weights = some_weights(&layers, SEQUENCE);
        let part = |part: &str| weights.0[&format!("layers.0.{part}")].values.clone();
        let (wi, wh, bi, bh) = (part("input_weight"), part("hidden_weight"), part("input_bias"), part("hidden_bias"));
        let sigmoid = |x: f32| 1.0 / (1.0 + (-x).exp());
        let (mut h, mut c, mut expected) = (0.0_f32, 0.0_f32, Vec::new());
        for x in ROW.chunks_exact(2) {
            let gate = |g: usize| x[0] * wi[g] + x[1] * wi[4 + g] + bi[g] + h * wh[g] + bh[g];
            c = sigmoid(gate(1)) * c + sigmoid(gate(0)) * gate(2).tanh();
            h = sigmoid(gate(3)) * c.tanh();
            expected.push(h);
        }
        close(&run(&layers, SEQUENCE, &ROW), &expected);
    }

    #[test]
    fn pools_slices_and_transposes_rearrange() {
        let pool = |of| [Layer::Pool { of, kernel: 2, stride: 2, padding: 0 }];
        close(&run(&pool(Pooling::Max), SEQUENCE, &ROW), &[2.0, 0.5, 0.0, 3.0]);
        close(&run(&pool(Pooling::Average), SEQUENCE, &ROW), &[1.5, -0.25, -0.25, 2.25]);
        let global = |of| [Layer::GlobalPool { of }];
        close(&run(&global(GlobalPooling::Last), SEQUENCE, &ROW), &[0.0, 1.5]);
        close(&run(&global(GlobalPooling::Max), SEQUENCE, &ROW), &[2.0, 3.0]);
        close(&run(&global(GlobalPooling::Average), SEQUENCE, &ROW), &[0.625, 1.0]);
        close(&run(&[Layer::Transpose], SEQUENCE, &ROW), &[1.0, 2.0, -0.5, 0.0, -1.0, 0.5, 3.0, 1.5]);
        close(&run(&[Layer::Slice { from: 1, to: 2 }], SEQUENCE, &ROW), &[-1.0, 0.5, 3.0, 1.5]);
        close(&run(&[Layer::Reshape { steps: 2, channels: 2 }, Layer::Flatten], Shape::Flat(4), &ROW[..4]), &ROW[..4]);
    }

    #[test]
    fn norms_and_activations_compute_what_they_say() {
        let layer_norm = [Layer::LayerNorm { epsilon: 1e-5 }];
        let weights = some_weights(&layer_norm, Shape::Flat(2));
        let (scale, shift) = (&weights.0["layers.0.scale"].values, &weights.0["layers.0.shift"].values);
        close(&run(&layer_norm, Shape::Flat(2), &[1.0, 3.0]), &[shift[0] - scale[0], shift[1] + scale[1]]);
        let batch_norm = [Layer::BatchNorm { epsilon: 1e-5 }];
        let weights = some_weights(&batch_norm, Shape::Flat(2));
        let of = |part: &str, at: usize| weights.0[&format!("layers.0.{part}")].values[at];
        let norm = |x: f32, at: usize| {
            (x - of("mean", at)) / (of("variance", at) + 1e-5).sqrt() * of("scale", at) + of("shift", at)
        };
        close(&run(&batch_norm, Shape::Flat(2), &[1.0, 3.0]), &[norm(1.0, 0), norm(3.0, 1)]);
        close(&run(&[Layer::Softmax], Shape::Flat(2), &[0.0, 3.0_f32.ln()]), &[0.25, 0.75]);
        close(&run(&[Layer::LeakyRelu { slope: 0.1 }], Shape::Flat(2), &[-1.0, 2.0]), &[-0.1, 2.0]);
        close(&run(&[Layer::Elu { alpha: 2.0 }], Shape::Flat(2), &[-1.0, 2.0]), &[2.0 * ((-1.0_f32).exp() - 1.0), 2.0]);
        close(&run(&[Layer::Gelu], Shape::Flat(2), &[1.0, 0.0]), &[0.841_345, 0.0]);
        close(&run(&[Layer::Dropout { probability: 0.5 }], Shape::Flat(2), &[1.0, 2.0]), &[1.0, 2.0]);
    }

    #[test]
    fn blocks_add_what_they_were_given() {
        let residual = [Layer::Residual { layers: 1 }, Layer::Relu];
        close(&run(&residual, Shape::Flat(2), &[-1.0, 2.0]), &[-1.0, 4.0]);
        let layers = [Layer::Detrend { layers: 3 }, Layer::Transpose, linear(1), Layer::Transpose];
        let weights = some_weights(&layers, SEQUENCE);
        let (w, b) = (&weights.0["layers.2.weight"].values, weights.0["layers.2.bias"].values[0]);
        let channel = |c: usize| {
            let last = ROW[6 + c];
            (0..4).map(|t| w[t] * (ROW[2 * t + c] - last)).sum::<f32>() + b + last
        };
        close(&run(&layers, SEQUENCE, &ROW), &[channel(0), channel(1)]);
    }
}
