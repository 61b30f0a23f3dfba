//! The layers a network is declared from, and the shapes that go through them.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::limits::MAX_FEATURES;

/// The shape of what goes from layer to layer, for one row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// So many features.
    Flat(usize),
    /// Steps in time, oldest first, each of so many channels.
    Sequence {
        /// Steps in time.
        steps: usize,
        /// Channels of each.
        channels: usize,
    },
}

/// One layer of a network. Weights are found by the layer's index: `layers.<index>.<part>`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Layer {
    /// `y = x W + b`; on a sequence, of each step alone.
    Linear {
        /// Width of the output. 0 in a recipe: as wide as the decision needs.
        #[serde(default)]
        outputs: u32,
        /// Whether there is a `b`.
        #[serde(default = "yes")]
        bias: bool,
    },
    /// A convolution along the steps (a cross-correlation, as usual).
    Conv1d {
        /// Channels of the output.
        filters: u32,
        /// Steps one filter sees.
        kernel: u32,
        /// Steps from one place to the next.
        #[serde(default = "one")]
        stride: u32,
        /// Steps between the steps a filter sees.
        #[serde(default = "one")]
        dilation: u32,
        /// Groups of channels that do not mix.
        #[serde(default = "one")]
        groups: u32,
        /// What is put around the sequence.
        #[serde(default)]
        padding: Padding,
        /// Whether there is a bias.
        #[serde(default = "yes")]
        bias: bool,
    },
    /// The transpose of a convolution along the steps: makes sequences longer.
    ConvTranspose1d {
        /// Channels of the output.
        filters: u32,
        /// Steps one filter writes.
        kernel: u32,
        /// Steps from one place to the next.
        #[serde(default = "one")]
        stride: u32,
        /// Steps cut off at both ends.
        #[serde(default)]
        padding: u32,
        /// Steps added at the end.
        #[serde(default)]
        output_padding: u32,
        /// Whether there is a bias.
        #[serde(default = "yes")]
        bias: bool,
    },
    /// One number for every few steps of a channel.
    Pool {
        /// Which.
        of: Pooling,
        /// Steps one number is made of.
        kernel: u32,
        /// Steps from one place to the next.
        stride: u32,
        /// Steps put around the sequence; an average counts them as zeros.
        #[serde(default)]
        padding: u32,
    },
    /// One number for all steps of a channel.
    GlobalPool {
        /// Which.
        of: GlobalPooling,
    },
    /// Gated recurrent units (Cho et al., 2014). Gates in the order reset, update, candidate.
    Gru {
        /// Width of the state.
        units: u32,
        /// What is given.
        #[serde(default)]
        give: Recurrence,
        /// Whether the reset gate is applied after the state's matrix product (cuDNN, PyTorch) or before (the paper).
        #[serde(default = "yes")]
        reset_after: bool,
    },
    /// Long short-term memory (Hochreiter and Schmidhuber, 1997). Gates in the order input, forget, cell, output.
    Lstm {
        /// Width of the state.
        units: u32,
        /// What is given.
        #[serde(default)]
        give: Recurrence,
    },
    /// Normalisation over the features of each step (Ba et al., 2016).
    LayerNorm {
        /// Added to the variance.
        #[serde(default = "norm_epsilon")]
        epsilon: f64,
    },
    /// Normalisation of each channel by the training data (Ioffe and Szegedy, 2015).
    BatchNorm {
        /// Added to the variance.
        #[serde(default = "norm_epsilon")]
        epsilon: f64,
    },
    /// `y = x * scale + shift` per channel.
    Affine,
    /// Hyperbolic tangent.
    Tanh,
    /// Rectifier.
    Relu,
    /// Logistic function.
    Sigmoid,
    /// Gaussian error linear unit, exact (Hendrycks and Gimpel, 2016).
    Gelu,
    /// Softmax over the features of each step.
    Softmax,
    /// Rectifier with a slope below zero.
    LeakyRelu {
        /// The slope.
        slope: f64,
    },
    /// Exponential linear unit (Clevert et al., 2015).
    Elu {
        /// The limit below zero, as a positive number.
        alpha: f64,
    },
    /// Forgets features at random, in training only (Srivastava et al., 2014).
    Dropout {
        /// The share that is forgotten.
        probability: f64,
    },
    /// From a sequence to features, step after step.
    Flatten,
    /// Exchanges steps and channels.
    Transpose,
    /// From features to a sequence, step after step.
    Reshape {
        /// Steps of the sequence.
        steps: u32,
        /// Channels of each.
        channels: u32,
    },
    /// The features, or channels, from one on, up to but not including another.
    Slice {
        /// The first.
        from: u32,
        /// The one after the last.
        to: u32,
    },
    /// Adds the input of the next layers to their output.
    Residual {
        /// How many layers.
        layers: u32,
    },
    /// Takes each channel's last value off, runs the next layers, and adds it again (Zeng et al., "Are transformers
    /// effective for time series forecasting?", 2022: NLinear).
    Detrend {
        /// How many layers.
        layers: u32,
    },
}

/// What is put around a sequence before a convolution: zeros.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Padding {
    /// Nothing.
    #[default]
    Valid,
    /// As much as keeps the length, at stride 1; one more at the end if it is odd.
    Same,
    /// As much as keeps the length, all of it before the oldest step: nothing is seen early.
    Causal,
    /// So many steps.
    Explicit {
        /// Before the oldest step.
        before: u32,
        /// After the newest step.
        after: u32,
    },
}

/// How a few steps become one number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Pooling {
    /// The largest.
    Max,
    /// The mean.
    Average,
}

/// How all steps become one number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GlobalPooling {
    /// The largest.
    Max,
    /// The mean.
    Average,
    /// The newest.
    Last,
}

/// What a recurrent layer gives.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Recurrence {
    /// The state after the newest step.
    #[default]
    Last,
    /// The state after every step.
    Sequence,
}

fn yes() -> bool {
    true
}

fn one() -> u32 {
    1
}

fn norm_epsilon() -> f64 {
    1e-5
}

impl Shape {
    /// Numbers in one row.
    #[must_use]
    pub fn size(self) -> usize {
        match self {
            Self::Flat(features) => features,
            Self::Sequence { steps, channels } => steps.saturating_mul(channels),
        }
    }

    /// Numbers in one step: what a layer that looks at each step alone sees.
    #[must_use]
    pub fn width(self) -> usize {
        match self {
            Self::Flat(width) | Self::Sequence { channels: width, .. } => width,
        }
    }

    fn with_width(self, width: usize) -> Self {
        match self {
            Self::Flat(_) => Self::Flat(width),
            Self::Sequence { steps, .. } => Self::Sequence { steps, channels: width },
        }
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flat(features) => write!(f, "{features} features"),
            Self::Sequence { steps, channels } => write!(f, "a sequence of {steps} steps of {channels} channels"),
        }
    }
}

impl Padding {
    /// Steps before the oldest and after the newest, for a filter that reaches over `reach` steps.
    #[must_use]
    pub fn around(self, reach: usize) -> (usize, usize) {
        let total = reach.saturating_sub(1);
        match self {
            Self::Valid => (0, 0),
            Self::Same => (total / 2, total - total / 2),
            Self::Causal => (total, 0),
            Self::Explicit { before, after } => (bounded_steps(before), bounded_steps(after)),
        }
    }
}

/// More than a sequence may be long is as good as any other wrong number.
fn bounded_steps(steps: u32) -> usize {
    (steps as usize).min(MAX_FEATURES)
}

/// The shape after each of `layers`, the first of which is given `input`.
///
/// # Errors
/// The index of the first layer that does not fit, and why.
pub fn shapes(layers: &[Layer], input: Shape) -> Result<Vec<Shape>, (usize, String)> {
    let mut shapes = Vec::with_capacity(layers.len());
    let mut shape = input;
    // Blocks that are open: where they end, which layer began them, what they were given.
    let mut open: Vec<(usize, usize, Shape)> = Vec::new();
    for (index, layer) in layers.iter().enumerate() {
        let wrong = |problem| (index, problem);
        if let Layer::Residual { layers: length } | Layer::Detrend { layers: length } = layer {
            let end = index + 1 + *length as usize;
            let limit = open.last().map_or(layers.len(), |(end, _, _)| *end);
            if *length == 0 || end > limit {
                let what = if end > layers.len() { "the network" } else { "the block around it" };
                return Err(wrong(format!("the block of {length} layers goes beyond the end of {what}")));
            }
            if matches!(layer, Layer::Detrend { .. }) && matches!(shape, Shape::Flat(_)) {
                return Err(wrong(format!("detrend needs a sequence, what comes before gives {shape}")));
            }
            open.push((end, index, shape));
        } else {
            shape = layer.check(shape).map_err(wrong)?;
            if shape.size() == 0 || shape.size() > MAX_FEATURES {
                return Err(wrong(format!("it gives {shape}; 1 to {MAX_FEATURES} numbers are allowed")));
            }
        }
        shapes.push(shape);
        while open.last().is_some_and(|(end, _, _)| *end == index + 1) {
            if let Some((_, start, before)) = open.pop() {
                check_block(&layers[start], before, shape).map_err(|problem| (start, problem))?;
            }
        }
    }
    Ok(shapes)
}

/// Widens the linear layers whose outputs a recipe leaves open: to `flat` features, or to `step` channels of each step.
pub fn fill_in_outputs(layers: &mut [Layer], input: Shape, flat: usize, step: usize) {
    let mut shape = input;
    for layer in layers {
        if let Layer::Linear { outputs: outputs @ 0, .. } = layer {
            let wanted = if matches!(shape, Shape::Flat(_)) { flat } else { step };
            *outputs = u32::try_from(wanted).unwrap_or(u32::MAX);
        }
        // What does not fit is found when the whole is checked.
        shape = layer.check(shape).unwrap_or(shape);
    }
}

fn check_block(layer: &Layer, before: Shape, after: Shape) -> Result<(), String> {
    if matches!(layer, Layer::Detrend { .. }) {
        // What is added is one value per channel, so the number of steps may change.
        return match (before, after) {
            (Shape::Sequence { channels: a, .. }, Shape::Sequence { channels: b, .. }) if a == b => Ok(()),
            _ => Err(format!(
                "detrend was given {before}, its layers must give a sequence of as many channels, not {after}"
            )),
        };
    }
    if before == after {
        Ok(())
    } else {
        Err(format!("residual was given {before}, its layers must give the same, not {after}"))
    }
}

impl Layer {
    /// Its name in a recipe.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Linear { .. } => "linear",
            Self::Conv1d { .. } => "conv1d",
            Self::ConvTranspose1d { .. } => "conv_transpose1d",
            Self::Pool { .. } => "pool",
            Self::GlobalPool { .. } => "global_pool",
            Self::Gru { .. } => "gru",
            Self::Lstm { .. } => "lstm",
            Self::LayerNorm { .. } => "layer_norm",
            Self::BatchNorm { .. } => "batch_norm",
            Self::Affine => "affine",
            Self::Tanh => "tanh",
            Self::Relu => "relu",
            Self::Sigmoid => "sigmoid",
            Self::Gelu => "gelu",
            Self::Softmax => "softmax",
            Self::LeakyRelu { .. } => "leaky_relu",
            Self::Elu { .. } => "elu",
            Self::Dropout { .. } => "dropout",
            Self::Flatten => "flatten",
            Self::Transpose => "transpose",
            Self::Reshape { .. } => "reshape",
            Self::Slice { .. } => "slice",
            Self::Residual { .. } => "residual",
            Self::Detrend { .. } => "detrend",
        }
    }

    /// The weights it has when it is given `input`: parts and their shapes.
    #[must_use]
    pub fn weights(&self, input: Shape) -> Vec<(&'static str, Vec<usize>)> {
        let width = input.width();
        let with_bias = |weight: Vec<usize>, bias: bool, outputs: u32| {
            let mut parts = vec![("weight", weight)];
            if bias {
                parts.push(("bias", vec![outputs as usize]));
            }
            parts
        };
        let recurrent = |gates: usize, units: u32| {
            let (units, all) = (units as usize, gates * units as usize);
            vec![
                ("input_weight", vec![width, all]),
                ("hidden_weight", vec![units, all]),
                ("input_bias", vec![all]),
                ("hidden_bias", vec![all]),
            ]
        };
        match self {
            Self::Linear { outputs, bias } => with_bias(vec![width, *outputs as usize], *bias, *outputs),
            Self::Conv1d { filters, kernel, groups, bias, .. } => {
                let per_group = width / (*groups).max(1) as usize;
                with_bias(vec![*filters as usize, per_group, *kernel as usize], *bias, *filters)
            }
            Self::ConvTranspose1d { filters, kernel, bias, .. } => {
                with_bias(vec![width, *filters as usize, *kernel as usize], *bias, *filters)
            }
            Self::Gru { units, .. } => recurrent(3, *units),
            Self::Lstm { units, .. } => recurrent(4, *units),
            Self::LayerNorm { .. } | Self::Affine => vec![("scale", vec![width]), ("shift", vec![width])],
            Self::BatchNorm { .. } => {
                vec![("scale", vec![width]), ("shift", vec![width]), ("mean", vec![width]), ("variance", vec![width])]
            }
            Self::Pool { .. }
            | Self::GlobalPool { .. }
            | Self::Tanh
            | Self::Relu
            | Self::Sigmoid
            | Self::Gelu
            | Self::Softmax
            | Self::LeakyRelu { .. }
            | Self::Elu { .. }
            | Self::Dropout { .. }
            | Self::Flatten
            | Self::Transpose
            | Self::Reshape { .. }
            | Self::Slice { .. }
            | Self::Residual { .. }
            | Self::Detrend { .. } => Vec::new(),
        }
    }

    /// The shape it gives when it is given `input`. Blocks give what their layers give.
    fn check(&self, input: Shape) -> Result<Shape, String> {
        let sequence = || match input {
            Shape::Sequence { steps, channels } => Ok((steps, channels)),
            Shape::Flat(_) => Err(format!("{} needs a sequence, what comes before gives {input}", self.name())),
        };
        let needs = |holds: bool, problem: &str| if holds { Ok(()) } else { Err(problem.to_owned()) };
        match self {
            Self::Linear { outputs, .. } => {
                bounded("outputs", &[*outputs])?;
                Ok(input.with_width(*outputs as usize))
            }
            Self::Conv1d { filters, kernel, stride, dilation, groups, padding, .. } => {
                let (steps, channels) = sequence()?;
                bounded(
                    "filters, kernel, stride, dilation and groups",
                    &[*filters, *kernel, *stride, *dilation, *groups],
                )?;
                let groups = *groups as usize;
                if !channels.is_multiple_of(groups) || !(*filters as usize).is_multiple_of(groups) {
                    return Err(format!(
                        "{groups} groups must divide the {channels} channels and the {filters} filters"
                    ));
                }
                let reach = (*kernel as usize - 1).saturating_mul(*dilation as usize).saturating_add(1);
                let (before, after) = padding.around(reach);
                let steps = places(steps.saturating_add(before).saturating_add(after), reach, *stride)?;
                Ok(Shape::Sequence { steps, channels: *filters as usize })
            }
            Self::ConvTranspose1d { filters, kernel, stride, padding, output_padding, .. } => {
                let (steps, _) = sequence()?;
                bounded(
                    "filters, kernel, stride and 1 + padding",
                    &[*filters, *kernel, *stride, padding.saturating_add(1)],
                )?;
                needs(output_padding < stride, "output_padding must be below stride")?;
                let full = (steps - 1).saturating_mul(*stride as usize) + (*kernel + *output_padding) as usize;
                let steps = full.saturating_sub(2 * *padding as usize);
                Ok(Shape::Sequence { steps, channels: *filters as usize })
            }
            Self::Pool { kernel, stride, padding, .. } => {
                let (steps, channels) = sequence()?;
                bounded("kernel and stride", &[*kernel, *stride])?;
                needs(*padding <= *kernel / 2, "padding must be at most half the kernel")?;
                let steps = places(steps + 2 * *padding as usize, *kernel as usize, *stride)?;
                Ok(Shape::Sequence { steps, channels })
            }
            Self::GlobalPool { .. } => Ok(Shape::Flat(sequence()?.1)),
            Self::Gru { units, give, .. } | Self::Lstm { units, give } => {
                let (steps, _) = sequence()?;
                bounded("units", &[*units])?;
                Ok(match give {
                    Recurrence::Last => Shape::Flat(*units as usize),
                    Recurrence::Sequence => Shape::Sequence { steps, channels: *units as usize },
                })
            }
            Self::LayerNorm { epsilon } | Self::BatchNorm { epsilon } => {
                needs(epsilon.is_finite() && *epsilon > 0.0, "epsilon must be a number above 0")?;
                Ok(input)
            }
            Self::LeakyRelu { slope: value } | Self::Elu { alpha: value } => {
                needs(value.is_finite() && *value >= 0.0, "its parameter must be a number of at least 0")?;
                Ok(input)
            }
            Self::Dropout { probability } => {
                needs((0.0..1.0).contains(probability), "probability must be at least 0 and below 1")?;
                Ok(input)
            }
            Self::Flatten => sequence().map(|_| Shape::Flat(input.size())),
            Self::Transpose => sequence().map(|(steps, channels)| Shape::Sequence { steps: channels, channels: steps }),
            Self::Reshape { steps, channels } => {
                let shape = Shape::Sequence { steps: *steps as usize, channels: *channels as usize };
                if shape.size() == input.size() { Ok(shape) } else { Err(format!("{input} cannot be {shape}")) }
            }
            Self::Slice { from, to } => {
                if from < to && *to as usize <= input.width() {
                    Ok(input.with_width((*to - *from) as usize))
                } else {
                    Err(format!("from {from} to {to} is no part of {}", input.width()))
                }
            }
            Self::Affine
            | Self::Tanh
            | Self::Relu
            | Self::Sigmoid
            | Self::Gelu
            | Self::Softmax
            | Self::Residual { .. }
            | Self::Detrend { .. } => Ok(input),
        }
    }
}

fn bounded(what: &str, values: &[u32]) -> Result<(), String> {
    if values.iter().all(|value| (1..=MAX_FEATURES).contains(&(*value as usize))) {
        Ok(())
    } else {
        Err(format!("{what} must be 1 to {MAX_FEATURES}"))
    }
}

/// How many places a filter of `reach` steps has on `steps` steps.
fn places(steps: usize, reach: usize, stride: u32) -> Result<usize, String> {
    match steps.checked_sub(reach) {
        Some(room) => Ok(room / stride as usize + 1),
        None => Err(format!("it looks at {reach} steps, there are {steps}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SEQUENCE: Shape = Shape::Sequence { steps: 16, channels: 3 };

    fn conv(kernel: u32, stride: u32, padding: Padding) -> Layer {
        Layer::Conv1d { filters: 8, kernel, stride, dilation: 1, groups: 1, padding, bias: true }
    }

    fn last(layers: &[Layer]) -> Result<Shape, (usize, String)> {
        shapes(layers, SEQUENCE).map(|shapes| shapes[shapes.len() - 1])
    }

    #[test]
    fn convolutions_and_pools_shorten_and_transposes_lengthen_again() {
        let sequence = |steps, channels| Ok(Shape::Sequence { steps, channels });
        assert_eq!(last(&[conv(5, 1, Padding::Valid)]), sequence(12, 8));
        assert_eq!(last(&[conv(5, 1, Padding::Same)]), sequence(16, 8));
        assert_eq!(last(&[conv(5, 2, Padding::Causal)]), sequence(8, 8));
        assert_eq!(last(&[Layer::Pool { of: Pooling::Max, kernel: 2, stride: 2, padding: 0 }]), sequence(8, 3));
        let transpose =
            Layer::ConvTranspose1d { filters: 3, kernel: 2, stride: 2, padding: 0, output_padding: 0, bias: true };
        assert_eq!(last(&[transpose]), sequence(32, 3));
        assert_eq!(last(&[Layer::Gru { units: 7, give: Recurrence::Last, reset_after: true }]), Ok(Shape::Flat(7)));
        assert_eq!(last(&[Layer::Transpose, Layer::Flatten]), Ok(Shape::Flat(48)));
    }

    #[test]
    fn blocks_must_give_what_they_were_given() {
        let block =
            [Layer::Residual { layers: 2 }, conv(3, 1, Padding::Same), Layer::Linear { outputs: 3, bias: true }];
        assert_eq!(last(&block), Ok(SEQUENCE));
        let shorter = [Layer::Residual { layers: 1 }, conv(3, 1, Padding::Valid)];
        assert!(last(&shorter).expect_err("shorter").1.starts_with("residual was given a sequence of 16 steps"));
        let horizon = Layer::Linear { outputs: 4, bias: true };
        let forecast = [Layer::Detrend { layers: 3 }, Layer::Transpose, horizon, Layer::Transpose];
        assert_eq!(last(&forecast), Ok(Shape::Sequence { steps: 4, channels: 3 }));
        let crossing = [Layer::Residual { layers: 2 }, Layer::Residual { layers: 2 }, Layer::Tanh, Layer::Tanh];
        assert_eq!(
            last(&crossing),
            Err((1, "the block of 2 layers goes beyond the end of the block around it".into()))
        );
    }

    #[test]
    fn a_filter_longer_than_the_sequence_is_named() {
        assert_eq!(last(&[conv(17, 1, Padding::Valid)]), Err((0, "it looks at 17 steps, there are 16".into())));
    }
}
