//! Layers in service on the CPU, without tensors: what a small network costs is not its arithmetic but everything around
//! it, so here whole rows of buffers go through packed weights and nothing is allocated per layer.
//!
//! Only for networks made of the layers below, and only where the device is flex; everything else, training and the
//! other devices included, is burn's. A sequence lies step after step, as rows come in, so that a convolution's filter
//! sees one unbroken stretch of memory and is a plain product.

mod elementwise;
mod pool;
mod product;
mod recurrent;

use pulp::Arch;

use self::elementwise::{Activation, Each};
use self::pool::Pool;
use self::product::Product;
use self::recurrent::{Cell, Recurrent};
use crate::pipeline::layer::{GlobalPooling, Layer, Pooling, Recurrence, Shape};
use crate::pipeline::weights::{Needed, WeightTensor, Weights, WeightsError, needed};

/// Numbers of the widest buffer that go through a network at once: 128 KiB stay in a processor's second cache.
const CHUNK: usize = 32_768;
/// Rows that go through at once, at least and at most: fewer leave a product's tiles empty, more gain nothing.
const CHUNK_ROWS: (usize, usize) = (product::TILE_ROWS, 64);

/// A network of layers that all have kernels.
#[derive(Debug, Clone)]
pub(super) struct Kernels {
    arch: Arch,
    input: usize,
    output: usize,
    chunk_rows: usize,
    kernels: Vec<Kernel>,
}

#[derive(Debug, Clone)]
enum Kernel {
    /// Of each step alone.
    Linear(Product),
    Convolution(Convolution),
    Recurrent(Recurrent),
    Activation(Activation),
    /// `scale * x + shift`, of each channel by itself.
    Scale {
        scale: Vec<f32>,
        shift: Vec<f32>,
    },
    Pool(Pool),
    /// Each channel's newest step.
    Last {
        steps: usize,
        channels: usize,
    },
}

#[derive(Debug, Clone)]
struct Convolution {
    product: Product,
    steps: usize,
    channels: usize,
    before: usize,
    after: usize,
    stride: usize,
    steps_out: usize,
}

/// Buffers of one run.
#[derive(Default)]
struct Buffers {
    /// What the next layer is given.
    given: Vec<f32>,
    /// What it gives.
    gives: Vec<f32>,
    /// For a layer's own use.
    scratch: recurrent::Scratch,
}

impl Kernels {
    /// The kernels of `layers`, which were checked, if all have one.
    ///
    /// # Errors
    /// If a tensor is missing or of the wrong shape.
    pub(super) fn of(
        layers: &[Layer],
        shapes: &[Shape],
        input: Shape,
        weights: &Weights,
    ) -> Result<Option<Self>, WeightsError> {
        let arch = Arch::new();
        let needed = needed(layers, input);
        let mut kernels = Vec::new();
        let mut given = input;
        for (index, (layer, gives)) in layers.iter().zip(shapes).enumerate() {
            let parts = Parts { needed: &needed, weights, layer: index };
            match kernel(arch, layer, given, *gives, &parts)? {
                Some(made) => kernels.extend(made),
                None => return Ok(None),
            }
            given = *gives;
        }
        let widest = shapes.iter().map(|shape| shape.size()).chain(kernels.iter().map(Kernel::inner_size)).max();
        let rows = CHUNK / widest.unwrap_or(0).max(input.size()).max(1);
        let chunk_rows = (rows - rows % product::TILE_ROWS).clamp(CHUNK_ROWS.0, CHUNK_ROWS.1);
        Ok(Some(Self { arch, input: input.size(), output: given.size(), chunk_rows, kernels }))
    }

    /// Runs rows of features, one after another; gives the rows that come out.
    pub(super) fn run(&self, features: &[f32]) -> Vec<f32> {
        let mut outputs = Vec::with_capacity(features.len() / self.input * self.output);
        let mut buffers = Buffers::default();
        for chunk in features.chunks(self.chunk_rows * self.input) {
            let rows = chunk.len() / self.input;
            buffers.given.clear();
            buffers.given.extend_from_slice(chunk);
            for kernel in &self.kernels {
                kernel.run(self.arch, rows, &mut buffers);
            }
            outputs.extend_from_slice(&buffers.given);
        }
        outputs
    }
}

/// A layer's weights by name.
struct Parts<'a> {
    needed: &'a [Needed],
    weights: &'a Weights,
    layer: usize,
}

impl<'a> Parts<'a> {
    /// The values of a part; none if the layer has no such part.
    fn get(&self, part: &str) -> Result<&'a [f32], WeightsError> {
        let needed = self.needed.iter().find(|needed| needed.layer == self.layer && needed.part == part);
        needed.map_or(Ok(&[]), |needed| self.weights.get(needed).map(|WeightTensor { values, .. }| values.as_slice()))
    }
}

/// The kernel of one layer: none if it has none, and an empty one if it does nothing to rows that lie as they do.
fn kernel(
    arch: Arch,
    layer: &Layer,
    given: Shape,
    gives: Shape,
    parts: &Parts<'_>,
) -> Result<Option<Option<Kernel>>, WeightsError> {
    let (steps, channels) = match given {
        Shape::Flat(width) => (1, width),
        Shape::Sequence { steps, channels } => (steps, channels),
    };
    let recurrent = |of, units: u32, give| {
        Ok::<_, WeightsError>(Kernel::Recurrent(Recurrent {
            of,
            of_input: Product::new(arch, channels, parts.get("input_weight")?, parts.get("input_bias")?),
            of_state: Product::new(arch, units as usize, parts.get("hidden_weight")?, parts.get("hidden_bias")?),
            steps,
            units: units as usize,
            gives_all: give == Recurrence::Sequence,
        }))
    };
    Ok(Some(Some(match layer {
        Layer::Linear { .. } => Kernel::Linear(Product::new(arch, channels, parts.get("weight")?, parts.get("bias")?)),
        Layer::Conv1d { kernel, stride, dilation: 1, groups: 1, padding, .. } => {
            let (kernel, filters) = (*kernel as usize, gives.width());
            let turned = step_by_channel_by_filter(parts.get("weight")?, [filters, channels, kernel]);
            let (before, after) = padding.around(kernel);
            Kernel::Convolution(Convolution {
                product: Product::new(arch, kernel * channels, &turned, parts.get("bias")?),
                steps,
                channels,
                before,
                after,
                stride: *stride as usize,
                steps_out: gives.size() / filters,
            })
        }
        Layer::Gru { units, give, reset_after: true } => recurrent(Cell::Gru, *units, *give)?,
        Layer::Lstm { units, give } => recurrent(Cell::Lstm, *units, *give)?,
        Layer::BatchNorm { epsilon } => {
            let (mean, variance) = (parts.get("mean")?, parts.get("variance")?);
            let factors = parts.get("scale")?.iter().zip(variance);
            let scale: Vec<f32> =
                factors.map(|(scale, variance)| scale / (variance + *epsilon as f32).sqrt()).collect();
            let shifts = parts.get("shift")?.iter().zip(mean).zip(&scale);
            Kernel::Scale { shift: shifts.map(|((shift, mean), scale)| shift - mean * scale).collect(), scale }
        }
        Layer::Affine => Kernel::Scale { scale: parts.get("scale")?.to_vec(), shift: parts.get("shift")?.to_vec() },
        Layer::Pool { of, kernel, stride, padding } => Kernel::Pool(Pool {
            of: *of,
            kernel: *kernel as usize,
            stride: *stride as usize,
            padding: *padding as usize,
            steps,
            channels,
        }),
        Layer::GlobalPool { of: GlobalPooling::Last } => Kernel::Last { steps, channels },
        Layer::GlobalPool { of: GlobalPooling::Max | GlobalPooling::Average } => {
            let of =
                if *layer == (Layer::GlobalPool { of: GlobalPooling::Max }) { Pooling::Max } else { Pooling::Average };
            Kernel::Pool(Pool { of, kernel: steps, stride: steps, padding: 0, steps, channels })
        }
        Layer::Tanh => Kernel::Activation(Activation::Tanh),
        Layer::Relu => Kernel::Activation(Activation::Relu),
        Layer::LeakyRelu { slope } => Kernel::Activation(Activation::LeakyRelu { slope: *slope as f32 }),
        Layer::Sigmoid => Kernel::Activation(Activation::Sigmoid),
        Layer::Dropout { .. } | Layer::Flatten | Layer::Reshape { .. } => return Ok(Some(None)),
        Layer::Conv1d { .. }
        | Layer::ConvTranspose1d { .. }
        | Layer::Gru { .. }
        | Layer::LayerNorm { .. }
        | Layer::Gelu
        | Layer::Softmax
        | Layer::Elu { .. }
        | Layer::Transpose
        | Layer::Slice { .. }
        | Layer::Residual { .. }
        | Layer::Detrend { .. } => return Ok(None),
    })))
}

/// A kernel's weights `[filters, channels, steps]`, turned round.
fn step_by_channel_by_filter(weight: &[f32], [filters, channels, steps]: [usize; 3]) -> Vec<f32> {
    let place = |at: usize| (at / filters / channels, at / filters % channels, at % filters);
    (0..steps * channels * filters)
        .map(|at| {
            let (step, channel, filter) = place(at);
            weight[(filter * channels + channel) * steps + step]
        })
        .collect()
}

impl Kernel {
    /// Numbers that it holds for a row while it works.
    fn inner_size(&self) -> usize {
        match self {
            Self::Recurrent(recurrent) => recurrent.inner_size(),
            Self::Linear(_)
            | Self::Convolution(_)
            | Self::Activation(_)
            | Self::Scale { .. }
            | Self::Pool(_)
            | Self::Last { .. } => 0,
        }
    }

    /// From `buffers.given`, of so many rows, to `buffers.given`.
    fn run(&self, arch: Arch, rows: usize, buffers: &mut Buffers) {
        let Buffers { given, gives, scratch } = buffers;
        match self {
            Self::Linear(product) => {
                let rows = given.len() / product.inner();
                product.run(arch, given, product.inner(), rows, sized(gives, rows * product.outputs()));
            }
            Self::Convolution(convolution) => convolution.run(arch, rows, given, gives, &mut scratch.padded),
            Self::Recurrent(recurrent) => recurrent.run(arch, rows, given, gives, scratch),
            Self::Activation(activation) => {
                arch.dispatch(Each { activation: *activation, values: given });
                return;
            }
            Self::Scale { scale, shift } => {
                for step in given.chunks_exact_mut(scale.len()) {
                    step.iter_mut()
                        .zip(scale.iter().zip(shift))
                        .for_each(|(x, (scale, shift))| *x = *x * scale + shift);
                }
                return;
            }
            Self::Pool(pool) => pool.run(given, gives),
            Self::Last { steps, channels } => {
                gives.clear();
                given
                    .chunks_exact(steps * channels)
                    .for_each(|row| gives.extend_from_slice(&row[(steps - 1) * channels..]));
            }
        }
        std::mem::swap(given, gives);
    }
}

impl Convolution {
    fn run(&self, arch: Arch, rows: usize, given: &[f32], gives: &mut Vec<f32>, padded: &mut Vec<f32>) {
        let Self { product, steps, channels, before, after, stride, steps_out } = self;
        let (width, out) = (steps * channels, steps_out * product.outputs());
        let gives = sized(gives, rows * out);
        let is_padded = before + after > 0;
        if is_padded {
            padded.clear();
            padded.resize((before + steps + after) * channels, 0.0);
        }
        for (row, gives) in given.chunks_exact(width).zip(gives.chunks_exact_mut(out)) {
            let row = if is_padded {
                padded[before * channels..][..width].copy_from_slice(row);
                &*padded
            } else {
                row
            };
            product.run(arch, row, stride * channels, *steps_out, gives);
        }
    }
}

/// A buffer of so many numbers, whichever they are.
fn sized(buffer: &mut Vec<f32>, length: usize) -> &mut [f32] {
    if buffer.len() < length {
        buffer.resize(length, 0.0);
    } else {
        buffer.truncate(length);
    }
    buffer
}
