//! Operators that only look at a value in another way.
#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "an operator takes the forms it knows; any other is shown in an error"
)]

use shared::pipeline::Layer;
use shared::pipeline::layer::GlobalPooling;

use super::graph::{Form, Mapper};
use super::operators::channels;
use super::proto::Node;

impl Mapper {
    /// The value with the graph's last dimension as features or channels.
    pub(super) fn features_last(&mut self, name: &str) -> Result<Form, String> {
        match self.form(name)? {
            Form::Pair { dims, swapped: true } => {
                self.push(Layer::Transpose, Vec::new());
                Ok(Form::Pair { dims, swapped: false })
            }
            form => Ok(form),
        }
    }

    /// The value with the graph's last dimension as steps.
    pub(super) fn steps_last(&mut self, name: &str) -> Result<[usize; 2], String> {
        match self.form(name)? {
            Form::Pair { dims, swapped } => {
                if !swapped {
                    self.push(Layer::Transpose, Vec::new());
                }
                Ok(dims)
            }
            form => Err(format!("it needs [rows, channels, steps], it is given {form:?}")),
        }
    }

    pub(super) fn flatten(&mut self, name: &str) -> Result<usize, String> {
        match self.features_last(name)? {
            Form::Flat(dims) => Ok(dims.iter().product()),
            Form::State(features) => Ok(features),
            Form::Pair { dims: [a, b], .. } => {
                self.push(Layer::Flatten, Vec::new());
                Ok(a * b)
            }
            form @ (Form::TimeFirst { .. } | Form::TimeFirstOfDirections { .. }) => {
                Err(format!("it cannot be flattened with the rows in the middle: {form:?}"))
            }
        }
    }

    pub(super) fn reshape(&mut self, node: &Node) -> Result<(), String> {
        let name = node.inputs.first().map_or("", String::as_str);
        let wanted: Vec<i64> = self.weight(node, 1, "shape")?.values.iter().map(|value| *value as i64).collect();
        let size = match self.form(name)? {
            Form::Flat(dims) => dims.iter().product(),
            Form::Pair { dims: [a, b], .. } => a * b,
            Form::State(features) => features,
            form @ (Form::TimeFirst { .. } | Form::TimeFirstOfDirections { .. }) => {
                return Err(format!("it cannot reshape with the rows in the middle: {form:?}"));
            }
        };
        let known: i64 = wanted.iter().skip(1).filter(|dim| **dim > 0).product();
        let rest: Vec<usize> = wanted
            .iter()
            .skip(1)
            .map(|dim| if *dim > 0 { *dim as usize } else { size / (known.max(1) as usize) })
            .collect();
        if rest.iter().product::<usize>() != size && !(rest.is_empty() && size == 1) {
            return Err(format!("{size} numbers cannot become {wanted:?}; the first dimension must be the rows"));
        }
        self.flatten(name)?;
        match rest[..] {
            [a, b] if a > 1 && b > 1 => {
                self.push(Layer::Reshape { steps: a as u32, channels: b as u32 }, Vec::new());
                self.done(node, Form::Pair { dims: [a, b], swapped: false })
            }
            _ if rest.len() <= 2 => self.done(node, Form::Flat(rest)),
            _ => Err(format!("more than two dimensions after the rows: {wanted:?}")),
        }
    }

    pub(super) fn transpose(&mut self, node: &Node) -> Result<(), String> {
        let name = node.inputs.first().map_or("", String::as_str);
        let order = node.ints("perm").unwrap_or(&[2, 1, 0]);
        let form = match (self.form(name)?, order) {
            (form, [0, 1] | [0, 1, 2]) => form,
            (Form::Pair { dims: [a, b], swapped }, [0, 2, 1]) => Form::Pair { dims: [b, a], swapped: !swapped },
            (Form::Pair { .. }, [1, 0, 2]) => match self.features_last(name)? {
                Form::Pair { dims: [steps, channels], .. } => Form::TimeFirst { steps, channels },
                form => return Err(format!("{form:?} cannot be turned")),
            },
            (Form::Pair { .. }, [2, 0, 1]) => {
                let [channels, steps] = self.steps_last(name)?;
                Form::TimeFirst { steps, channels }
            }
            (Form::TimeFirst { steps, channels }, [1, 0, 2]) => Form::Pair { dims: [steps, channels], swapped: false },
            (Form::TimeFirst { steps, channels }, [1, 2, 0]) => Form::Pair { dims: [channels, steps], swapped: true },
            (Form::Flat(dims), [0, 2, 1]) if dims.contains(&1) => Form::Flat(dims.into_iter().rev().collect()),
            (form, order) => return Err(format!("the order {order:?} of {form:?} is not supported")),
        };
        self.done(node, form)
    }

    /// Dimensions of one come and go.
    pub(super) fn squeeze(&mut self, node: &Node) -> Result<(), String> {
        let name = node.inputs.first().map_or("", String::as_str);
        let axes: Vec<i64> = match node.inputs.get(1).filter(|name| !name.is_empty()) {
            Some(_) => self.weight(node, 1, "axes")?.values.iter().map(|value| *value as i64).collect(),
            None => node.ints("axes").map(<[i64]>::to_vec).unwrap_or_default(),
        };
        let form = self.form(name)?;
        let is_squeeze = node.operator == "Squeeze";
        let form = match (form, is_squeeze, axes.as_slice()) {
            (Form::State(features), true, [0] | [-3] | []) => Form::Flat(vec![features]),
            (Form::TimeFirstOfDirections { steps, channels }, true, [1] | [-3] | []) => {
                Form::TimeFirst { steps, channels }
            }
            (Form::Flat(mut dims), true, axes) => {
                let rank = dims.len() as i64 + 1;
                let gone: Vec<i64> = axes.iter().map(|axis| if *axis < 0 { axis + rank } else { *axis }).collect();
                let mut at = 0;
                dims.retain(|dim| {
                    at += 1;
                    !(*dim == 1 && (gone.is_empty() || gone.contains(&at)))
                });
                Form::Flat(if dims.is_empty() { vec![1] } else { dims })
            }
            (Form::Flat(dims), false, [axis]) => match dims[..] {
                [features] => {
                    let axis = if *axis < 0 { axis + 3 } else { *axis };
                    let dims = if axis == 1 { [1, features] } else { [features, 1] };
                    let (steps, channels) = (dims[0] as u32, dims[1] as u32);
                    self.push(Layer::Reshape { steps, channels }, Vec::new());
                    Form::Pair { dims, swapped: false }
                }
                _ => return Err(format!("it makes more than two dimensions after the rows of {dims:?}")),
            },
            (Form::Pair { dims: [a, b], .. }, true, _) if a == 1 || b == 1 => {
                self.push(Layer::Flatten, Vec::new());
                Form::Flat(vec![a * b])
            }
            (form, ..) => return Err(format!("axes {axes:?} of {form:?} are not supported")),
        };
        self.done(node, form)
    }

    pub(super) fn slice(&mut self, node: &Node) -> Result<(), String> {
        let name = node.inputs.first().map_or("", String::as_str);
        let one = |index: usize, what: &str| match self.weight(node, index, what)?.values[..] {
            [value] => Ok(value as i64),
            _ => Err("slices are only possible along one dimension".to_owned()),
        };
        let (start, end, axis) = (one(1, "starts")?, one(2, "ends")?, one(3, "axes").unwrap_or(0));
        if node.inputs.get(4).is_some_and(|name| !name.is_empty()) && one(4, "steps")? != 1 {
            return Err("slices with steps are not supported".to_owned());
        }
        let bounds = |length: usize| {
            let place =
                |value: i64| (if value < 0 { value + length as i64 } else { value }).clamp(0, length as i64) as usize;
            (place(start), place(end))
        };
        let form = self.form(name)?;
        let (width, takes_last_step, form) = match &form {
            Form::Flat(dims) if [1, -1].contains(&axis) && dims.len() == 1 => (dims[0], false, form.clone()),
            Form::Pair { .. } if [2, -1].contains(&axis) => {
                let form = self.features_last(name)?;
                (channels(&form)?, false, form)
            }
            Form::Pair { dims, .. } if axis == 1 => {
                let [channels, _] = self.steps_last(name)?;
                (channels, false, Form::Pair { dims: *dims, swapped: true })
            }
            Form::TimeFirst { steps, .. } if axis == 0 => (*steps, true, form.clone()),
            form => return Err(format!("axis {axis} of {form:?} is not supported")),
        };
        let (from, to) = bounds(width);
        match form {
            Form::TimeFirst { steps, channels } if takes_last_step => {
                if (from, to) != (steps - 1, steps) {
                    return Err("of the steps only the last can be taken".to_owned());
                }
                self.push(Layer::GlobalPool { of: GlobalPooling::Last }, Vec::new());
                self.done(node, Form::State(channels))
            }
            form => {
                self.push(Layer::Slice { from: from as u32, to: to as u32 }, Vec::new());
                let left = to.saturating_sub(from);
                self.done(
                    node,
                    match form {
                        Form::Pair { dims: [_, steps], swapped: true } => {
                            Form::Pair { dims: [left, steps], swapped: true }
                        }
                        Form::Pair { dims: [steps, _], swapped: false } => {
                            Form::Pair { dims: [steps, left], swapped: false }
                        }
                        _ => Form::Flat(vec![left]),
                    },
                )
            }
        }
    }

    /// `[1 - p, p]`, as scikit-learn writes a classifier of two labels: the softmax of 0 and the logit of p.
    pub(super) fn concat(&mut self, node: &Node) -> Result<(), String> {
        let [_, second] = &node.inputs[..] else {
            return Err("only the two probabilities of a classifier can be put side by side".to_owned());
        };
        if self.complement(&node.inputs[0]) != Some(second.as_str()) || self.form(second)? != Form::Flat(vec![1]) {
            return Err("only the two probabilities of a classifier can be put side by side".to_owned());
        }
        self.replace_sigmoid_by_softmax();
        self.done(node, Form::Flat(vec![2]))
    }
}
