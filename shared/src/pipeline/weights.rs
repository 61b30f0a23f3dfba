//! A network's weights by name, and the safetensors format that other tools read too.

use std::collections::BTreeMap;

use safetensors::tensor::{Dtype, SafeTensors, TensorView};

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
    /// A tensor's element type is not f32.
    #[error("tensor {name} is of {found:?}, F32 is expected")]
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

    /// The weights in the safetensors format, names in order.
    ///
    /// # Errors
    /// If a tensor's shape does not match its values.
    pub fn to_safetensors(&self) -> Result<Vec<u8>, WeightsError> {
        let bytes: Vec<(&String, Vec<u8>, &Vec<usize>)> = self
            .0
            .iter()
            .map(|(name, tensor)| {
                (name, tensor.values.iter().flat_map(|value| value.to_le_bytes()).collect(), &tensor.shape)
            })
            .collect();
        let views = bytes
            .iter()
            .map(|(name, bytes, shape)| Ok((name.as_str(), TensorView::new(Dtype::F32, shape.to_vec(), bytes)?)))
            .collect::<Result<Vec<_>, safetensors::SafeTensorError>>()?;
        Ok(safetensors::serialize(views, None)?)
    }

    /// Reads weights in the safetensors format.
    ///
    /// # Errors
    /// If the bytes are not safetensors or hold anything but f32.
    pub fn from_safetensors(bytes: &[u8]) -> Result<Self, WeightsError> {
        let tensors = SafeTensors::deserialize(bytes)?;
        let mut weights = BTreeMap::new();
        for (name, view) in tensors.iter() {
            if view.dtype() != Dtype::F32 {
                return Err(WeightsError::Dtype { name: name.to_owned(), found: view.dtype() });
            }
            let values = view.data().chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
            weights.insert(name.to_owned(), WeightTensor { shape: view.shape().to_vec(), values });
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
        let bytes = sample_weights().to_safetensors().expect("encodes");
        assert_eq!(Weights::from_safetensors(&bytes).expect("decodes"), sample_weights());
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
