//! Constants that a graph computes: shapes, axes, zeros.

use super::graph::{Form, Mapper};
use super::proto::{Constant, Node};

impl Mapper {
    /// Computes a node all of whose inputs are constants, or which asks for a shape; false if it is no such node.
    pub(super) fn fold(&mut self, node: &Node) -> Result<bool, String> {
        let constant = match node.operator.as_str() {
            "Constant" => Some(given(node)?),
            "Shape" => self.shape(node)?,
            _ => {
                let inputs: Option<Vec<Constant>> = node
                    .inputs
                    .iter()
                    .filter(|name| !name.is_empty())
                    .map(|name| self.constant(name).cloned())
                    .collect();
                match inputs {
                    Some(inputs) => compute(node, &inputs)?,
                    None => None,
                }
            }
        };
        let Some(constant) = constant else {
            return Ok(false);
        };
        let output = node.outputs.first().ok_or("it gives nothing")?;
        self.set_constant(output, constant);
        Ok(true)
    }

    /// The dimensions of a value; how many rows there are is not known, and said with -1, as a reshape takes it.
    fn shape(&self, node: &Node) -> Result<Option<Constant>, String> {
        let name = node.inputs.first().map_or("", String::as_str);
        let dims: Vec<usize> = match self.form(name)? {
            Form::Flat(dims) => dims,
            Form::Pair { dims, .. } => dims.to_vec(),
            form @ (Form::TimeFirst { .. } | Form::TimeFirstOfDirections { .. } | Form::State(_)) => {
                return Err(format!("the shape of {form:?} is not known"));
            }
        };
        let values: Vec<f64> = std::iter::once(-1.0).chain(dims.iter().map(|dim| *dim as f64)).collect();
        Ok(Some(Constant { dims: vec![values.len()], values }))
    }
}

fn given(node: &Node) -> Result<Constant, String> {
    let list = |values: Vec<f64>| Constant { dims: vec![values.len()], values };
    let scalar = |value: f64| Constant { dims: Vec::new(), values: vec![value] };
    if let Some(tensor) = node.attribute("value").and_then(|attribute| attribute.tensor.as_ref()) {
        return tensor.constant();
    }
    for attribute in &node.attributes {
        match attribute.name.as_str() {
            "value_float" => return Ok(scalar(f64::from(attribute.float))),
            "value_int" => return Ok(scalar(attribute.int as f64)),
            "value_floats" => return Ok(list(attribute.floats.iter().map(|value| f64::from(*value)).collect())),
            "value_ints" => return Ok(list(attribute.ints.iter().map(|value| *value as f64).collect())),
            _ => {}
        }
    }
    Err("its value is not supported".to_owned())
}

fn compute(node: &Node, inputs: &[Constant]) -> Result<Option<Constant>, String> {
    let Some(first) = inputs.first() else {
        return Ok(None);
    };
    let same = |dims: Vec<usize>| Constant { dims, values: first.values.clone() };
    Ok(match node.operator.as_str() {
        "Identity" | "Cast" | "Expand" => Some(first.clone()),
        "Squeeze" => Some(same(first.dims.iter().copied().filter(|dim| *dim != 1).collect())),
        "Unsqueeze" if first.dims.len() <= 1 => Some(same(vec![first.values.len()])),
        "Reshape" => {
            let wanted: Vec<i64> =
                inputs.get(1).map(|shape| shape.values.iter().map(|dim| *dim as i64).collect()).unwrap_or_default();
            let known: i64 = wanted.iter().filter(|dim| **dim > 0).product();
            let rest = first.values.len() as i64 / known.max(1);
            Some(same(wanted.iter().map(|dim| if *dim > 0 { *dim as usize } else { rest as usize }).collect()))
        }
        "Transpose" => match first.dims[..] {
            [rows, columns] => {
                let values = (0..columns).flat_map(|column| (0..rows).map(move |row| row * columns + column));
                Some(Constant { dims: vec![columns, rows], values: values.map(|at| first.values[at]).collect() })
            }
            _ => None,
        },
        "Concat" if inputs.iter().all(|input| input.dims.len() <= 1) => {
            let values: Vec<f64> = inputs.iter().flat_map(|input| &input.values).copied().collect();
            Some(Constant { dims: vec![values.len()], values })
        }
        "Gather" if first.dims.len() == 1 => {
            let indices = inputs.get(1).ok_or("it has no indices")?;
            let pick = |index: &f64| {
                let index = if *index < 0.0 { *index + first.values.len() as f64 } else { *index };
                first
                    .values
                    .get(index as usize)
                    .copied()
                    .ok_or_else(|| format!("index {index} of {}", first.values.len()))
            };
            let values = indices.values.iter().map(pick).collect::<Result<_, String>>()?;
            Some(Constant { dims: indices.dims.clone(), values })
        }
        "ConstantOfShape" => {
            let value = node.attribute("value").and_then(|attribute| attribute.tensor.as_ref());
            Some(
                value
                    .map_or_else(|| Ok(Constant { dims: Vec::new(), values: vec![0.0] }), |tensor| tensor.constant())?,
            )
        }
        _ => None,
    })
}
