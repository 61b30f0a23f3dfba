//! A network's weights by name, and the safetensors format that other tools read too.

mod int8;

use std::collections::BTreeMap;

use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use serde::{Deserialize, Serialize};

use self::int8::Int8;
use super::layer::{Layer, Shape, shapes};

/// The weights of a network: `layers.<index>.<part>`, row-major f32. [`Layer::weights`] says which parts there are.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Weights(pub BTreeMap<String, WeightTensor>);

/// One tensor of weights.
#[derive(Debug, Clone, PartialEq)]
pub struct WeightTensor {
    /// Its shape.
    pub shape: Vec<usize>,
    /// Its values, row-major.
    pub values: Vec<f32>,
}

/// What numbers weights are kept as in a package. They are computed with as f32 in any case.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WeightFormat {
    /// As they were found.
    #[default]
    F32,
    /// Matrices and kernels in eight bits, with a scale for each output.
    Int8,
}

/// The end of the name of a tensor that holds another's scales.
const SCALES: &str = ".scales";

/// Why weights do not fit a network.
#[derive(Debug, thiserror::Error)]
pub enum WeightsError {
    /// A tensor the network needs is missing.
    #[error("weights have no tensor {0}")]
    Missing(String),
    /// There is a tensor that no layer has.
    #[error("tensor {0} belongs to no layer")]
    Unknown(String),
    /// A tensor's shape is not the layer's.
    #[error("tensor {name} has shape {found:?}, its layer needs {expected:?}")]
    Shape {
        /// The tensor.
        name: String,
        /// Its shape.
        found: Vec<usize>,
        /// The layer's.
        expected: Vec<usize>,
    },
    /// A weight is not a finite number.
    #[error("tensor {0} holds a value that is no finite number")]
    NotFinite(String),
    /// A tensor of eight bits lacks scales that fit it.
    #[error("tensor {0} is of I8 and has no {0}{SCALES} with a number of F32 for each of its outputs")]
    Scales(String),
    /// A tensor's element type is unknown here.
    #[error("tensor {name} is of {found:?}, F32 is expected, or I8 with scales")]
    Dtype {
        /// The tensor.
        name: String,
        /// Its type.
        found: Dtype,
    },
    /// The bytes are not safetensors.
    #[error("weights are not safetensors: {0}")]
    Format(#[from] safetensors::SafeTensorError),
}

/// A tensor that a network needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Needed {
    /// The layer it belongs to.
    pub layer: usize,
    /// Which part of it.
    pub part: &'static str,
    /// Its shape.
    pub shape: Vec<usize>,
}

impl Needed {
    /// Its name among the weights.
    #[must_use]
    pub fn name(&self) -> String {
        format!("layers.{}.{}", self.layer, self.part)
    }
}

/// The tensors that `layers`, which were checked, need when the first is given `input`; in order of layers.
#[must_use]
pub fn needed(layers: &[Layer], input: Shape) -> Vec<Needed> {
    let after = shapes(layers, input).unwrap_or_default();
    let given = std::iter::once(input).chain(after);
    let parts = |(layer, (declared, given)): (usize, (&Layer, Shape))| {
        declared.weights(given).into_iter().map(move |(part, shape)| Needed { layer, part, shape })
    };
    layers.iter().zip(given).enumerate().flat_map(parts).collect()
}

impl Weights {
    /// The tensor a network needs.
    ///
    /// # Errors
    /// If it is missing, of another shape or not finite.
    pub fn get(&self, needed: &Needed) -> Result<&WeightTensor, WeightsError> {
        let name = needed.name();
        let Some(tensor) = self.0.get(&name) else {
            return Err(WeightsError::Missing(name));
        };
        if tensor.shape != needed.shape || tensor.values.len() != needed.shape.iter().product::<usize>() {
            return Err(WeightsError::Shape { name, found: tensor.shape.clone(), expected: needed.shape.clone() });
        }
        if tensor.values.iter().any(|value| !value.is_finite()) {
            return Err(WeightsError::NotFinite(name));
        }
        Ok(tensor)
    }

    /// Proves that these are the weights of `layers`, which were checked: all there, and nothing else.
    ///
    /// # Errors
    /// The first that does not fit.
    pub fn check(&self, layers: &[Layer], input: Shape) -> Result<(), WeightsError> {
        let needed = needed(layers, input);
        for tensor in &needed {
            self.get(tensor)?;
        }
        let names: Vec<String> = needed.iter().map(Needed::name).collect();
        match self.0.keys().find(|name| !names.contains(name)) {
            Some(unknown) => Err(WeightsError::Unknown(unknown.clone())),
            None => Ok(()),
        }
    }

    /// The weights as they are once they were kept in `format`.
    #[must_use]
    pub fn rounded(mut self, format: WeightFormat) -> Self {
        if format == WeightFormat::Int8 {
            for tensor in self.0.values_mut() {
                let rounded = Int8::of(tensor).and_then(|rounded| rounded.to_tensor(tensor.shape.clone()));
                *tensor = rounded.unwrap_or_else(|| tensor.clone());
            }
        }
        self
    }

    /// The weights in the safetensors format, names in order. In eight bits, a tensor `x` is of `I8`, and `x.scales` holds
    /// what its outputs are multiplied by.
    ///
    /// # Errors
    /// If a tensor's shape does not match its values.
    pub fn to_safetensors(&self, format: WeightFormat) -> Result<Vec<u8>, WeightsError> {
        let bytes_of = |values: &[f32]| values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>();
        let mut tensors = Vec::new();
        for (name, tensor) in &self.0 {
            let rounded = if format == WeightFormat::Int8 { Int8::of(tensor) } else { None };
            match rounded {
                None => tensors.push((name.clone(), Dtype::F32, tensor.shape.clone(), bytes_of(&tensor.values))),
                Some(Int8 { values, scales }) => {
                    let values = values.iter().map(|value| value.to_le_bytes()[0]).collect();
                    tensors.push((name.clone(), Dtype::I8, tensor.shape.clone(), values));
                    tensors.push((format!("{name}{SCALES}"), Dtype::F32, vec![scales.len()], bytes_of(&scales)));
                }
            }
        }
        let views = tensors
            .iter()
            .map(|(name, dtype, shape, bytes)| Ok((name.as_str(), TensorView::new(*dtype, shape.clone(), bytes)?)))
            .collect::<Result<Vec<_>, safetensors::SafeTensorError>>()?;
        Ok(safetensors::serialize(views, None)?)
    }

    /// Reads weights in the safetensors format.
    ///
    /// # Errors
    /// If the bytes are not safetensors or hold anything but f32, or eight bits with scales.
    pub fn from_safetensors(bytes: &[u8]) -> Result<Self, WeightsError> {
        let tensors = SafeTensors::deserialize(bytes)?;
        let (mut weights, mut rounded) = (BTreeMap::new(), Vec::new());
        for (name, view) in tensors.iter() {
            let shape = view.shape().to_vec();
            if view.dtype() == Dtype::F32 {
                let number = |b: &[u8]| f32::from_le_bytes([b[0], b[1], b[2], b[3]]);
                let values = view.data().chunks_exact(4).map(number).collect();
                weights.insert(name.to_owned(), WeightTensor { shape, values });
            } else if view.dtype() == Dtype::I8 {
                let values: Vec<i8> = view.data().iter().map(|byte| i8::from_le_bytes([*byte])).collect();
                rounded.push((name.to_owned(), shape, values));
            } else {
                return Err(WeightsError::Dtype { name: name.to_owned(), found: view.dtype() });
            }
        }
        for (name, shape, values) in rounded {
            let scales = weights.remove(&format!("{name}{SCALES}")).map(|scales| scales.values).unwrap_or_default();
            let Some(tensor) = (Int8 { values, scales }).to_tensor(shape) else {
                return Err(WeightsError::Scales(name));
            };
            weights.insert(name, tensor);
        }
        Ok(Self(weights))
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::pipeline::tests::sample;

    pub(crate) fn sample_weights() -> Weights {
        let tensor = |shape: &[usize], scale: f32| WeightTensor {
            shape: shape.to_vec(),
            values: (0..shape.iter().product::<usize>()).map(|i| scale * (i as f32 - 2.0)).collect(),
        };
        Weights(BTreeMap::from([
            ("layers.0.weight".into(), tensor(&[2, 3], 0.1)),
            ("layers.0.bias".into(), tensor(&[3], 0.05)),
            ("layers.2.weight".into(), tensor(&[3, 2], 0.2)),
            ("layers.2.bias".into(), tensor(&[2], 0.01)),
        ]))
    }

    #[test]
    fn weights_survive_safetensors_and_misfits_are_named() {
        let bytes = sample_weights().to_safetensors(WeightFormat::F32).expect("encodes");
        assert_eq!(Weights::from_safetensors(&bytes).expect("decodes"), sample_weights());
        let rounded = sample_weights().rounded(WeightFormat::Int8);
        assert_ne!(rounded, sample_weights());
        rounded.check(&sample().network, Shape::Flat(2)).expect("fits");
        let bytes = rounded.to_safetensors(WeightFormat::Int8).expect("encodes");
        assert_eq!(Weights::from_safetensors(&bytes).expect("decodes"), rounded);
        let lone = [("w", TensorView::new(Dtype::I8, vec![1, 2], &[1, 2]).expect("fits"))];
        let error =
            Weights::from_safetensors(&safetensors::serialize(lone, None).expect("encodes")).expect_err("no scales");
        assert!(error.to_string().starts_with("tensor w is of I8 and has no w.scales"), "{error}");
        let misfit = |change: fn(&mut Weights)| {
            let mut weights = sample_weights();
            change(&mut weights);
            weights.check(&sample().network, Shape::Flat(2)).expect_err("misfit").to_string()
        };
        sample_weights().check(&sample().network, Shape::Flat(2)).expect("fits");
        assert_eq!(
            misfit(|weights| weights.0.get_mut("layers.0.bias").expect("there").values[1] = f32::NAN),
            "tensor layers.0.bias holds a value that is no finite number"
        );
        assert_eq!(misfit(|weights| drop(weights.0.remove("layers.0.bias"))), "weights have no tensor layers.0.bias");
        assert_eq!(
            misfit(|weights| {
                let extra = weights.0["layers.0.bias"].clone();
                weights.0.insert("layers.1.bias".into(), extra);
            }),
            "tensor layers.1.bias belongs to no layer"
        );
        assert!(Weights::from_safetensors(b"nonsense").is_err());
    }
}
