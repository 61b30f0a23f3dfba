//! What each layer does to what flows through the network.

use burn::tensor::activation::{elu, gelu, leaky_relu, relu, sigmoid, softmax, tanh};
use burn::tensor::module::{avg_pool1d, conv_transpose1d, conv1d, layer_norm, linear, max_pool1d};
use burn::tensor::ops::{AvgPoolOptions, ConvOptions, ConvTransposeOptions, MaxPoolOptions};
use burn::tensor::{Distribution, Tensor};

use super::Network;
use crate::pipeline::layer::{GlobalPooling, Layer, Pooling, Recurrence, Shape};

/// What flows from layer to layer. Convolutions want channels before steps, everything else steps before channels; a
/// sequence is turned only when the next layer wants it the other way.
#[derive(Debug, Clone)]
pub(super) enum Flow {
    /// `[rows, features]`.
    Flat(Tensor<2>),
    /// `[rows, steps, channels]`.
    Steps(Tensor<3>),
    /// `[rows, channels, steps]`.
    Channels(Tensor<3>),
}

impl Flow {
    pub(super) fn new(rows: Tensor<2>, shape: Shape) -> Self {
        match shape {
            Shape::Flat(_) => Self::Flat(rows),
            Shape::Sequence { steps, channels } => {
                let count = rows.dims()[0];
                Self::Steps(rows.reshape([count, steps, channels]))
            }
        }
    }

    /// `[rows, size]`, step after step.
    pub(super) fn into_rows(self) -> Tensor<2> {
        match self {
            Self::Flat(rows) => rows,
            Self::Steps(_) | Self::Channels(_) => self.steps().flatten(1, 2),
        }
    }

    /// `[rows * steps, channels]`.
    pub(super) fn into_steps(self) -> Tensor<2> {
        match self {
            Self::Flat(rows) => rows,
            Self::Steps(_) | Self::Channels(_) => self.steps().flatten(0, 1),
        }
    }

    /// The newest step, as a sequence of one.
    pub(super) fn last_step(&self) -> Self {
        let steps = self.clone().steps();
        let [_, count, _] = steps.dims();
        Self::Steps(steps.narrow(1, count - 1, 1))
    }

    pub(super) fn minus(self, other: Self) -> Self {
        Self::Steps(self.steps() - other.steps())
    }

    pub(super) fn plus(self, other: Self) -> Self {
        match (self, other) {
            (Self::Flat(a), Self::Flat(b)) => Self::Flat(a + b),
            (a, b) => Self::Steps(a.steps() + b.steps()),
        }
    }

    fn steps(self) -> Tensor<3> {
        match self {
            Self::Flat(rows) => rows.unsqueeze_dim(1),
            Self::Steps(steps) => steps,
            Self::Channels(channels) => channels.swap_dims(1, 2),
        }
    }

    fn channels(self) -> Tensor<3> {
        match self {
            Self::Channels(channels) => channels,
            Self::Flat(_) | Self::Steps(_) => self.steps().swap_dims(1, 2),
        }
    }

    /// Does the same to every number.
    fn each(self, two: impl FnOnce(Tensor<2>) -> Tensor<2>, three: impl FnOnce(Tensor<3>) -> Tensor<3>) -> Self {
        match self {
            Self::Flat(rows) => Self::Flat(two(rows)),
            Self::Steps(steps) => Self::Steps(three(steps)),
            Self::Channels(channels) => Self::Channels(three(channels)),
        }
    }

    /// Does the same to every step.
    fn each_step(self, two: impl FnOnce(Tensor<2>) -> Tensor<2>, three: impl FnOnce(Tensor<3>) -> Tensor<3>) -> Self {
        match self {
            Self::Flat(rows) => Self::Flat(two(rows)),
            Self::Steps(_) | Self::Channels(_) => Self::Steps(three(self.steps())),
        }
    }
}

impl Network {
    /// What layer `index` makes of `flow`. Its weights are there: the network was built with them.
    pub(super) fn operate(&self, index: usize, layer: &Layer, flow: Flow) -> Flow {
        match layer {
            Layer::Linear { .. } => {
                let (Some(weight), bias) = (self.matrix(index, 0), self.vector(index, 1)) else { return flow };
                match flow {
                    Flow::Flat(rows) => Flow::Flat(linear(rows, weight, bias)),
                    Flow::Steps(_) | Flow::Channels(_) => Flow::Steps(linear(flow.steps(), weight, bias)),
                }
            }
            Layer::Conv1d { kernel, stride, dilation, groups, padding, .. } => {
                let (Some(weight), bias) = (self.kernel(index, 0), self.vector(index, 1)) else { return flow };
                let reach = (*kernel as usize - 1) * *dilation as usize + 1;
                let options = ConvOptions::new_with_padding(
                    [*stride as usize],
                    [padding.around(reach)],
                    [*dilation as usize],
                    *groups as usize,
                );
                Flow::Channels(conv1d(flow.channels(), weight, bias, options))
            }
            Layer::ConvTranspose1d { stride, padding, output_padding, .. } => {
                let (Some(weight), bias) = (self.kernel(index, 0), self.vector(index, 1)) else { return flow };
                let one = |value: &u32| [*value as usize];
                let options = ConvTransposeOptions::new(one(stride), one(padding), one(output_padding), [1], 1);
                Flow::Channels(conv_transpose1d(flow.channels(), weight, bias, options))
            }
            Layer::Pool { of, kernel, stride, padding } => {
                let (kernel, stride, padding) = ([*kernel as usize], [*stride as usize], [*padding as usize]);
                let channels = flow.channels();
                Flow::Channels(match of {
                    Pooling::Max => {
                        max_pool1d(channels, MaxPoolOptions::new(kernel).with_stride(stride).with_padding(padding))
                    }
                    Pooling::Average => {
                        avg_pool1d(channels, AvgPoolOptions::new(kernel).with_stride(stride).with_padding(padding))
                    }
                })
            }
            Layer::GlobalPool { of } => {
                let steps = flow.steps();
                let [rows, count, channels] = steps.dims();
                Flow::Flat(match of {
                    GlobalPooling::Max => steps.max_dim(1).reshape([rows, channels]),
                    GlobalPooling::Average => steps.mean_dim(1).reshape([rows, channels]),
                    GlobalPooling::Last => steps.narrow(1, count - 1, 1).reshape([rows, channels]),
                })
            }
            Layer::Gru { give, reset_after, .. } => self.gru(index, flow, *give, *reset_after),
            Layer::Lstm { give, .. } => self.lstm(index, flow, *give),
            Layer::LayerNorm { epsilon } => {
                let (Some(scale), shift) = (self.vector(index, 0), self.vector(index, 1)) else { return flow };
                let (scale_again, shift_again) = (scale.clone(), shift.clone());
                flow.each_step(
                    |rows| layer_norm(rows, scale, shift, *epsilon),
                    |steps| layer_norm(steps, scale_again, shift_again, *epsilon),
                )
            }
            Layer::BatchNorm { epsilon } => self.batch_norm(index, flow, *epsilon),
            Layer::Affine => {
                let (Some(scale), Some(shift)) = (self.vector(index, 0), self.vector(index, 1)) else { return flow };
                affine(flow, scale, shift)
            }
            Layer::Tanh => flow.each(tanh, tanh),
            Layer::Relu => flow.each(relu, relu),
            Layer::Sigmoid => flow.each(sigmoid, sigmoid),
            Layer::Gelu => flow.each(gelu, gelu),
            Layer::Softmax => flow.each_step(|rows| softmax(rows, 1), |steps| softmax(steps, 2)),
            Layer::LeakyRelu { slope } => flow.each(|x| leaky_relu(x, *slope), |x| leaky_relu(x, *slope)),
            Layer::Elu { alpha } => flow.each(|x| elu(x, *alpha), |x| elu(x, *alpha)),
            Layer::Dropout { probability } if self.plan.is_training && *probability > 0.0 => {
                flow.each(|x| drop_out(x, *probability), |x| drop_out(x, *probability))
            }
            Layer::Flatten => Flow::Flat(flow.into_rows()),
            Layer::Transpose => match flow {
                Flow::Channels(channels) => Flow::Steps(channels),
                Flow::Flat(_) | Flow::Steps(_) => Flow::Channels(flow.steps()),
            },
            Layer::Reshape { .. } => Flow::new(flow.into_rows(), self.plan.shapes[index]),
            Layer::Slice { from, to } => {
                let (from, length) = (*from as usize, (*to - *from) as usize);
                flow.each_step(|rows| rows.narrow(1, from, length), |steps| steps.narrow(2, from, length))
            }
            Layer::Dropout { .. } | Layer::Residual { .. } | Layer::Detrend { .. } => flow,
        }
    }

    /// h' = (1 - z) n + z h, with r, z = sigmoid(x W + b + h U + c) and n = tanh(x W + b + r (h U + c)), or, where the
    /// reset comes before the product, n = tanh(x W + b + (r h) U + c).
    fn gru(&self, index: usize, flow: Flow, give: Recurrence, reset_after: bool) -> Flow {
        let Some(recurrent) = self.recurrent(index) else { return flow };
        let steps = flow.steps();
        let [rows, count, _] = steps.dims();
        let units = recurrent.units;
        let of_input = recurrent.of_input(steps);
        let mut state = Tensor::<2>::zeros([rows, units], &of_input.device());
        let mut states = Vec::with_capacity(count);
        let part = |gates: &Tensor<2>, gate: usize, gates_wide: usize| {
            gates.clone().narrow(1, gate * units, gates_wide * units)
        };
        for step in 0..count {
            let x = of_input.clone().narrow(1, step, 1).reshape([rows, 3 * units]);
            let next = if reset_after {
                let h = recurrent.of_state(state.clone());
                let gates = sigmoid(part(&x, 0, 2) + part(&h, 0, 2));
                let (reset, update) = (part(&gates, 0, 1), part(&gates, 1, 1));
                let candidate = tanh(part(&x, 2, 1) + reset * part(&h, 2, 1));
                candidate.clone() + update * (state - candidate)
            } else {
                let h = recurrent.of_state_part(state.clone(), 0, 2);
                let gates = sigmoid(part(&x, 0, 2) + h);
                let (reset, update) = (part(&gates, 0, 1), part(&gates, 1, 1));
                let candidate = tanh(part(&x, 2, 1) + recurrent.of_state_part(reset * state.clone(), 2, 1));
                candidate.clone() + update * (state - candidate)
            };
            if give == Recurrence::Sequence {
                states.push(next.clone());
            }
            state = next;
        }
        given(state, states, give)
    }

    /// c' = f c + i g and h' = o tanh(c'), with i, f, o = sigmoid(x W + b + h U + c) and g = tanh(the same).
    fn lstm(&self, index: usize, flow: Flow, give: Recurrence) -> Flow {
        let Some(recurrent) = self.recurrent(index) else { return flow };
        let steps = flow.steps();
        let [rows, count, _] = steps.dims();
        let units = recurrent.units;
        let of_input = recurrent.of_input(steps);
        let mut state = Tensor::<2>::zeros([rows, units], &of_input.device());
        let mut cell = state.clone();
        let mut states = Vec::with_capacity(count);
        for step in 0..count {
            let x = of_input.clone().narrow(1, step, 1).reshape([rows, 4 * units]);
            let gates = x + recurrent.of_state(state);
            let gate = |gate: usize| gates.clone().narrow(1, gate * units, units);
            cell = sigmoid(gate(1)) * cell + sigmoid(gate(0)) * tanh(gate(2));
            state = sigmoid(gate(3)) * tanh(cell.clone());
            if give == Recurrence::Sequence {
                states.push(state.clone());
            }
        }
        given(state, states, give)
    }

    fn recurrent(&self, index: usize) -> Option<Recurrent> {
        let hidden_weight = self.matrix(index, 1)?;
        Some(Recurrent {
            units: hidden_weight.dims()[0],
            input_weight: self.matrix(index, 0)?,
            hidden_weight,
            input_bias: self.vector(index, 2)?,
            hidden_bias: self.vector(index, 3)?,
        })
    }

    /// In training a batch is normalised by itself; in service by what was stored, which is one product and one sum.
    fn batch_norm(&self, index: usize, flow: Flow, epsilon: f64) -> Flow {
        let parts = [0, 1, 2, 3].map(|part| self.vector(index, part));
        let [Some(scale), Some(shift), Some(mean), Some(variance)] = parts else { return flow };
        let (mean, variance) = if self.plan.is_training {
            let rows = flow.clone().into_steps();
            let channels = rows.dims()[1];
            let mean = rows.clone().mean_dim(0);
            let centred = rows - mean.clone();
            ((mean).reshape([channels]), (centred.clone() * centred).mean_dim(0).reshape([channels]))
        } else {
            (mean, variance)
        };
        let factor = scale / (variance + epsilon).sqrt();
        let added = shift - mean * factor.clone();
        affine(flow, factor, added)
    }
}

struct Recurrent {
    units: usize,
    input_weight: Tensor<2>,
    hidden_weight: Tensor<2>,
    input_bias: Tensor<1>,
    hidden_bias: Tensor<1>,
}

impl Recurrent {
    /// The input's share of all gates of all steps, in one product.
    fn of_input(&self, steps: Tensor<3>) -> Tensor<3> {
        linear(steps, self.input_weight.clone(), Some(self.input_bias.clone()))
    }

    fn of_state(&self, state: Tensor<2>) -> Tensor<2> {
        linear(state, self.hidden_weight.clone(), Some(self.hidden_bias.clone()))
    }

    fn of_state_part(&self, state: Tensor<2>, gate: usize, gates: usize) -> Tensor<2> {
        let (from, width) = (gate * self.units, gates * self.units);
        let weight = self.hidden_weight.clone().narrow(1, from, width);
        linear(state, weight, Some(self.hidden_bias.clone().narrow(0, from, width)))
    }
}

fn given(last: Tensor<2>, states: Vec<Tensor<2>>, give: Recurrence) -> Flow {
    match give {
        Recurrence::Last => Flow::Flat(last),
        Recurrence::Sequence => Flow::Steps(Tensor::stack(states, 1)),
    }
}

fn affine(flow: Flow, scale: Tensor<1>, shift: Tensor<1>) -> Flow {
    let (scale_again, shift_again) = (scale.clone(), shift.clone());
    flow.each_step(
        |rows| rows * scale.unsqueeze() + shift.unsqueeze(),
        |steps| steps * scale_again.unsqueeze() + shift_again.unsqueeze(),
    )
}

fn drop_out<const D: usize>(x: Tensor<D>, probability: f64) -> Tensor<D> {
    let kept = x.random_like(Distribution::Bernoulli(1.0 - probability));
    x * kept / (1.0 - probability)
}
