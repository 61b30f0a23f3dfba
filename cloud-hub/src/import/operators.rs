//! What each operator of a graph becomes.
#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "an operator takes the forms it knows; any other is shown in an error"
)]

use shared::pipeline::Layer;
use shared::pipeline::layer::{GlobalPooling, Padding, Pooling};
use shared::pipeline::weights::WeightTensor;

use super::graph::{Form, Mapper};
use super::proto::{Constant, Node};

const GELU_EXACT: &str = "none";

impl Mapper {
    pub(super) fn node(&mut self, node: &Node) -> Result<(), String> {
        if !(node.domain.is_empty()
            || node.domain == "ai.onnx"
            || (node.domain == "ai.onnx.ml" && node.operator == "Scaler"))
        {
            return Err(format!("operators of {} are not supported", node.domain));
        }
        if self.fold(node)? {
            return Ok(());
        }
        let first = node.inputs.first().map_or("", String::as_str);
        match node.operator.as_str() {
            "Gemm" => self.gemm(node),
            "MatMul" => self.matrix_product(node),
            "Add" | "Sub" | "Mul" | "Div" => self.arithmetic(node),
            "Scaler" => self.scaler(node),
            "Conv" => self.convolution(node),
            "MaxPool" | "AveragePool" => self.pool(node),
            "GlobalAveragePool" => self.global_pool(node, GlobalPooling::Average),
            "GlobalMaxPool" => self.global_pool(node, GlobalPooling::Max),
            "BatchNormalization" => self.batch_norm(node),
            "LayerNormalization" => self.layer_norm(node),
            "GRU" | "LSTM" => self.recurrent(node),
            "Relu" => self.each(node, Layer::Relu),
            "Tanh" => self.each(node, Layer::Tanh),
            "Sigmoid" => self.each(node, Layer::Sigmoid),
            "Gelu" if node.text("approximate").is_none_or(|approximate| approximate == GELU_EXACT) => {
                self.each(node, Layer::Gelu)
            }
            "LeakyRelu" => self.each(node, Layer::LeakyRelu { slope: f64::from(node.float("alpha", 0.01)) }),
            "Elu" => self.each(node, Layer::Elu { alpha: f64::from(node.float("alpha", 1.0)) }),
            "Softmax" => {
                let form = self.features_last(first)?;
                let rank = if matches!(form, Form::Pair { .. }) { 3 } else { 2 };
                if ![-1, rank - 1].contains(&node.int("axis", -1)) {
                    return Err("softmax is only possible over the last dimension".to_owned());
                }
                self.push(Layer::Softmax, Vec::new());
                self.done(node, form)
            }
            "Identity" | "Dropout" | "Cast" => {
                let form = self.form(first)?;
                self.done(node, form)
            }
            "Flatten" => {
                if node.int("axis", 1) != 1 {
                    return Err("flatten is only possible from axis 1".to_owned());
                }
                let features = self.flatten(first)?;
                self.done(node, Form::Flat(vec![features]))
            }
            "Reshape" => self.reshape(node),
            "Transpose" => self.transpose(node),
            "Squeeze" | "Unsqueeze" => self.squeeze(node),
            "Slice" => self.slice(node),
            "Concat" => self.concat(node),
            _ => Err("this operator is not supported".to_owned()),
        }
    }

    pub(super) fn done(&mut self, node: &Node, form: Form) -> Result<(), String> {
        let output = node.outputs.first().ok_or("it gives nothing")?;
        self.give(output, form);
        Ok(())
    }

    fn each(&mut self, node: &Node, layer: Layer) -> Result<(), String> {
        let form = self.form(node.inputs.first().map_or("", String::as_str))?;
        self.push(layer, Vec::new());
        self.done(node, form)
    }

    fn linear(&mut self, node: &Node, weight: WeightTensor, bias: Option<Vec<f32>>) -> Result<(), String> {
        let form = self.features_last(node.inputs.first().map_or("", String::as_str))?;
        let outputs = weight.shape[1];
        let form = match form {
            Form::Flat(dims) if dims.iter().product::<usize>() == weight.shape[0] => Form::Flat(vec![outputs]),
            Form::Pair { dims: [steps, width], .. } if width == weight.shape[0] => {
                Form::Pair { dims: [steps, outputs], swapped: false }
            }
            Form::TimeFirst { steps, channels } if channels == weight.shape[0] => {
                Form::TimeFirst { steps, channels: outputs }
            }
            form => return Err(format!("weights of shape {:?} for {form:?}", weight.shape)),
        };
        let has_bias = bias.is_some();
        let mut parts = vec![("weight", weight)];
        parts.extend(bias.map(|values| ("bias", WeightTensor { shape: vec![values.len()], values })));
        self.push(Layer::Linear { outputs: outputs as u32, bias: has_bias }, parts);
        self.done(node, form)
    }

    fn gemm(&mut self, node: &Node) -> Result<(), String> {
        if node.int("transA", 0) != 0 {
            return Err("transA is not supported".to_owned());
        }
        let weight = matrix(self.weight(node, 1, "weights")?, node.int("transB", 0) != 0, node.float("alpha", 1.0))?;
        let bias = match node.inputs.get(2).filter(|name| !name.is_empty()) {
            None => None,
            Some(_) => {
                Some(spread(self.weight(node, 2, "bias")?, weight.shape[1], f64::from(node.float("beta", 1.0)))?)
            }
        };
        self.linear(node, weight, bias)
    }

    fn matrix_product(&mut self, node: &Node) -> Result<(), String> {
        let weight = matrix(self.weight(node, 1, "weights")?, false, 1.0)?;
        self.linear(node, weight, None)
    }

    /// A sum, difference, product or quotient with a constant, or the sum with a short cut.
    fn arithmetic(&mut self, node: &Node) -> Result<(), String> {
        let [a, b] = &node.inputs[..] else { return Err("it needs two inputs".to_owned()) };
        let (value, constant, is_first) = match (self.constant(a), self.constant(b)) {
            (None, Some(constant)) => (a, constant.clone(), true),
            (Some(constant), None) => (b, constant.clone(), false),
            _ if node.operator == "Add" => {
                let output = node.outputs.first().ok_or("it gives nothing")?;
                return self.add_short_cut(a, b, output);
            }
            _ => return Err("it is only possible with a constant".to_owned()),
        };
        let value = value.clone();
        let form = self.form(&value)?;
        if node.operator == "Sub" && !is_first && constant.values == [1.0] && form == Form::Flat(vec![1]) {
            let output = node.outputs.first().ok_or("it gives nothing")?;
            if self.note_complement(output, &value) {
                return Ok(());
            }
        }
        let width = channels(&form)?;
        let form = match &form {
            // The constant goes along the last dimension, unless it says that it goes along the channels.
            Form::Pair { dims, swapped: true } if constant.values.len() > 1 && !along_first(&constant, dims[0]) => {
                self.features_last(&value)?
            }
            _ => form,
        };
        let width = if matches!(form, Form::Pair { .. }) { channels(&form)? } else { width };
        let values = spread(&constant, width, 1.0)?;
        let apply = |scale: &dyn Fn(f32) -> f32, shift: &dyn Fn(f32) -> f32| {
            (
                values.iter().map(|value| scale(*value)).collect::<Vec<_>>(),
                values.iter().map(|value| shift(*value)).collect::<Vec<_>>(),
            )
        };
        let (scale, shift) = match (node.operator.as_str(), is_first) {
            ("Add", _) => {
                if self.merge_bias(&values) {
                    return self.done(node, form);
                }
                apply(&|_| 1.0, &|value| value)
            }
            ("Sub", true) => apply(&|_| 1.0, &|value| -value),
            ("Sub", false) => apply(&|_| -1.0, &|value| value),
            ("Mul", _) => apply(&|value| value, &|_| 0.0),
            ("Div", true) => apply(&|value| 1.0 / value, &|_| 0.0),
            _ => return Err("a constant divided by a value is not supported".to_owned()),
        };
        self.affine(scale, shift);
        self.done(node, form)
    }

    /// A sum right behind a linear layer without a bias is its bias.
    fn merge_bias(&mut self, values: &[f32]) -> bool {
        let Some((Layer::Linear { outputs, bias: bias @ false }, parts)) = self.last() else {
            return false;
        };
        if *outputs as usize != values.len() {
            return false;
        }
        *bias = true;
        parts.push(("bias", WeightTensor { shape: vec![values.len()], values: values.to_vec() }));
        true
    }

    fn affine(&mut self, scale: Vec<f32>, shift: Vec<f32>) {
        let vector = |values: Vec<f32>| WeightTensor { shape: vec![values.len()], values };
        self.push(Layer::Affine, vec![("scale", vector(scale)), ("shift", vector(shift))]);
    }

    /// scikit-learn's scalers: `(x - offset) * scale`.
    fn scaler(&mut self, node: &Node) -> Result<(), String> {
        let form = self.form(node.inputs.first().map_or("", String::as_str))?;
        let width = channels(&form)?;
        let values = |name: &str| match node.attribute(name).map(|attribute| attribute.floats.clone()) {
            Some(values) if values.len() == width => Ok(values),
            Some(values) if values.len() == 1 => Ok(vec![values[0]; width]),
            _ => Err(format!("it has no {name} for {width} features")),
        };
        let (offset, scale) = (values("offset")?, values("scale")?);
        let shift = offset.iter().zip(&scale).map(|(offset, scale)| -offset * scale).collect();
        self.affine(scale, shift);
        self.done(node, form)
    }

    fn batch_norm(&mut self, node: &Node) -> Result<(), String> {
        let name = node.inputs.first().map_or("", String::as_str);
        let form = match self.form(name)? {
            Form::Pair { dims, .. } => {
                self.steps_last(name)?;
                Form::Pair { dims, swapped: true }
            }
            form => form,
        };
        let width = channels(&form)?;
        let part = |index, what| self.weight(node, index, what).and_then(|constant| spread(constant, width, 1.0));
        let (scale, bias, mean, variance) =
            (part(1, "scale")?, part(2, "bias")?, part(3, "mean")?, part(4, "variance")?);
        let epsilon = f64::from(node.float("epsilon", 1e-5));
        let factor: Vec<f32> = scale
            .iter()
            .zip(&variance)
            .map(|(scale, variance)| (f64::from(*scale) / (f64::from(*variance) + epsilon).sqrt()) as f32)
            .collect();
        let shift = bias.iter().zip(&mean).zip(&factor).map(|((bias, mean), factor)| bias - mean * factor).collect();
        self.affine(factor, shift);
        self.done(node, form)
    }

    fn layer_norm(&mut self, node: &Node) -> Result<(), String> {
        let form = self.features_last(node.inputs.first().map_or("", String::as_str))?;
        let rank = if matches!(form, Form::Flat(_)) { 2 } else { 3 };
        if ![-1, rank - 1].contains(&node.int("axis", -1)) {
            return Err("layer normalisation is only possible over the last dimension".to_owned());
        }
        let width = channels(&form)?;
        let scale = spread(self.weight(node, 1, "scale")?, width, 1.0)?;
        let shift = match node.inputs.get(2).filter(|name| !name.is_empty()) {
            Some(_) => spread(self.weight(node, 2, "bias")?, width, 1.0)?,
            None => vec![0.0; width],
        };
        let vector = |values: Vec<f32>| WeightTensor { shape: vec![width], values };
        let epsilon = f64::from(node.float("epsilon", 1e-5));
        self.push(Layer::LayerNorm { epsilon }, vec![("scale", vector(scale)), ("shift", vector(shift))]);
        self.done(node, form)
    }

    fn convolution(&mut self, node: &Node) -> Result<(), String> {
        let [channels, steps] = self.steps_last(node.inputs.first().map_or("", String::as_str))?;
        let kernel = self.weight(node, 1, "weights")?.clone();
        let [filters, per_group, size] = kernel.dims[..] else {
            return Err(format!(
                "weights of shape {:?}; only convolutions along one dimension are supported",
                kernel.dims
            ));
        };
        let one = |name: &str| node.ints(name).map_or(1, |values| values.first().copied().unwrap_or(1)).max(1) as u32;
        let (stride, dilation, groups) = (one("strides"), one("dilations"), node.int("group", 1).max(1) as u32);
        if per_group * groups as usize != channels {
            return Err(format!("weights of shape {:?} and {groups} groups for {channels} channels", kernel.dims));
        }
        let reach = (size.max(1) - 1) * dilation as usize + 1;
        let padding = padding(node, reach, steps, stride)?;
        let bias = match node.inputs.get(2).filter(|name| !name.is_empty()) {
            Some(_) => Some(spread(self.weight(node, 2, "bias")?, filters, 1.0)?),
            None => None,
        };
        let has_bias = bias.is_some();
        let values = kernel.values.iter().map(|value| *value as f32).collect();
        let mut parts = vec![("weight", WeightTensor { shape: kernel.dims.clone(), values })];
        parts.extend(bias.map(|values| ("bias", WeightTensor { shape: vec![filters], values })));
        let (before, after) = padding;
        let layer = Layer::Conv1d {
            filters: filters as u32,
            kernel: size as u32,
            stride,
            dilation,
            groups,
            padding: Padding::Explicit { before, after },
            bias: has_bias,
        };
        self.push(layer, parts);
        let padded = steps + (before + after) as usize;
        let steps =
            padded.checked_sub(reach).ok_or_else(|| format!("it looks at {reach} steps, there are {padded}"))?;
        self.done(node, Form::Pair { dims: [filters, steps / stride as usize + 1], swapped: true })
    }

    fn pool(&mut self, node: &Node) -> Result<(), String> {
        let [channels, steps] = self.steps_last(node.inputs.first().map_or("", String::as_str))?;
        let [kernel] = node.ints("kernel_shape").unwrap_or_default() else {
            return Err("only pools along one dimension are supported".to_owned());
        };
        let kernel = u32::try_from(*kernel).map_err(|_| "its kernel is negative")?.max(1);
        let stride = node.ints("strides").map_or(1, |values| values.first().copied().unwrap_or(1)).max(1) as u32;
        let (before, after) = padding(node, kernel as usize, steps, stride)?;
        let of = if node.operator == "MaxPool" { Pooling::Max } else { Pooling::Average };
        let counts_padding = before == 0 || of == Pooling::Max || node.int("count_include_pad", 0) != 0;
        if before != after || node.int("ceil_mode", 0) != 0 || !counts_padding {
            return Err(
                "pools that pad unevenly, round up or leave the padding out of a mean are not supported".to_owned()
            );
        }
        if node.ints("dilations").is_some_and(|dilations| dilations != [1]) {
            return Err("pools with dilation are not supported".to_owned());
        }
        self.push(Layer::Pool { of, kernel, stride, padding: before }, Vec::new());
        let room = (steps + 2 * before as usize)
            .checked_sub(kernel as usize)
            .ok_or("its kernel is longer than the sequence")?;
        self.done(node, Form::Pair { dims: [channels, room / stride as usize + 1], swapped: true })
    }

    fn global_pool(&mut self, node: &Node, of: GlobalPooling) -> Result<(), String> {
        let [channels, _] = self.steps_last(node.inputs.first().map_or("", String::as_str))?;
        self.push(Layer::GlobalPool { of }, Vec::new());
        self.done(node, Form::Flat(vec![channels, 1]))
    }
}

/// A constant matrix as weights `[inputs, outputs]`.
fn matrix(constant: &Constant, is_transposed: bool, factor: f32) -> Result<WeightTensor, String> {
    let [rows, columns] = constant.dims[..] else {
        return Err(format!("weights of shape {:?}, a matrix is needed", constant.dims));
    };
    let at = |row: usize, column: usize| factor * constant.values[row * columns + column] as f32;
    if is_transposed {
        let values = (0..columns)
            .flat_map(|column| (0..rows).map(move |row| (row, column)))
            .map(|(row, column)| at(row, column))
            .collect();
        Ok(WeightTensor { shape: vec![columns, rows], values })
    } else {
        let values = constant.values.iter().map(|value| factor * *value as f32).collect();
        Ok(WeightTensor { shape: vec![rows, columns], values })
    }
}

/// A constant for each of `width` features: as many values, or one for all.
fn spread(constant: &Constant, width: usize, factor: f64) -> Result<Vec<f32>, String> {
    match constant.values.as_slice() {
        [one] => Ok(vec![(factor * one) as f32; width]),
        values if values.len() == width => Ok(values.iter().map(|value| (factor * value) as f32).collect()),
        _ => Err(format!("a constant of shape {:?} for {width} features", constant.dims)),
    }
}

/// Whether a constant goes along the first of two dimensions: `[.., size, 1]`.
fn along_first(constant: &Constant, size: usize) -> bool {
    matches!(constant.dims[..], [.., first, 1] if first == size)
}

pub(super) fn channels(form: &Form) -> Result<usize, String> {
    match form {
        Form::Flat(dims) => Ok(dims.iter().product()),
        Form::Pair { dims, swapped } => Ok(if *swapped { dims[0] } else { dims[1] }),
        Form::TimeFirst { channels, .. } | Form::State(channels) => Ok(*channels),
        Form::TimeFirstOfDirections { .. } => Err("the dimension of directions must be squeezed first".to_owned()),
    }
}

/// Steps put before and after.
fn padding(node: &Node, reach: usize, steps: usize, stride: u32) -> Result<(u32, u32), String> {
    let total = |steps: usize| {
        let places = steps.div_ceil(stride as usize);
        ((places - 1) * stride as usize + reach).saturating_sub(steps)
    };
    match node.text("auto_pad").as_deref() {
        None | Some("" | "NOTSET") => match node.ints("pads").unwrap_or(&[0, 0]) {
            [before, after] if *before >= 0 && *after >= 0 => Ok((*before as u32, *after as u32)),
            pads => Err(format!("pads {pads:?} are not supported")),
        },
        Some("VALID") => Ok((0, 0)),
        Some("SAME_UPPER") => Ok(((total(steps) / 2) as u32, (total(steps) - total(steps) / 2) as u32)),
        Some("SAME_LOWER") => Ok(((total(steps) - total(steps) / 2) as u32, (total(steps) / 2) as u32)),
        Some(other) => Err(format!("auto_pad {other:?} is not supported")),
    }
}
