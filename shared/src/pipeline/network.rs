//! The network: declared layers built into burn modules, on whichever device.

use std::collections::BTreeMap;

use burn::module::{Module, Param};
use burn::nn::{Linear, LinearConfig, Relu, Sigmoid, Tanh};
use burn::tensor::{Device, Tensor, TensorData};
use safetensors::tensor::{Dtype, SafeTensors, TensorView};

use super::Layer;

/// A network in burn modules. Input and output are `[rows, features]` of f32.
#[derive(Module, Debug)]
pub struct Network {
    layers: Vec<LayerModule>,
}

#[derive(Module, Debug)]
enum LayerModule {
    Linear(Linear),
    Tanh(Tanh),
    Relu(Relu),
    Sigmoid(Sigmoid),
}

/// The weights of a network by name: `layers.<index>.weight` of shape `[inputs, outputs]` and `layers.<index>.bias` of
/// shape `[outputs]`, row-major f32.
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

impl Network {
    /// Builds `layers`, which were checked, with `weights` on `device`.
    ///
    /// # Errors
    /// If a tensor is missing, of the wrong shape or not finite.
    pub fn build(layers: &[Layer], weights: &Weights, device: &Device) -> Result<Self, WeightsError> {
        let layers = layers
            .iter()
            .enumerate()
            .map(|(index, layer)| {
                Ok(match layer {
                    Layer::Linear { inputs, outputs } => {
                        let (inputs, outputs) = (*inputs as usize, *outputs as usize);
                        let weight = weights.get(index, "weight", &[inputs, outputs])?;
                        let bias = weights.get(index, "bias", &[outputs])?;
                        let mut linear = LinearConfig::new(inputs, outputs).init(device);
                        linear.weight = Param::from_tensor(Tensor::from_data(weight, device));
                        linear.bias = Some(Param::from_tensor(Tensor::from_data(bias, device)));
                        LayerModule::Linear(linear)
                    }
                    Layer::Tanh => LayerModule::Tanh(Tanh::new()),
                    Layer::Relu => LayerModule::Relu(Relu::new()),
                    Layer::Sigmoid => LayerModule::Sigmoid(Sigmoid::new()),
                })
            })
            .collect::<Result<_, WeightsError>>()?;
        Ok(Self { layers })
    }

    /// Runs `input` of shape `[rows, features]` through the network.
    #[must_use]
    pub fn forward(&self, input: Tensor<2>) -> Tensor<2> {
        self.layers.iter().fold(input, |x, layer| match layer {
            LayerModule::Linear(linear) => linear.forward(x),
            LayerModule::Tanh(tanh) => tanh.forward(x),
            LayerModule::Relu(relu) => relu.forward(x),
            LayerModule::Sigmoid(sigmoid) => sigmoid.forward(x),
        })
    }

    /// The weights as they are now.
    #[must_use]
    pub fn weights(&self) -> Weights {
        let mut weights = BTreeMap::new();
        for (index, layer) in self.layers.iter().enumerate() {
            if let LayerModule::Linear(linear) = layer {
                weights.insert(tensor_name(index, "weight"), WeightTensor::read(&linear.weight.val().into_data()));
                if let Some(bias) = &linear.bias {
                    weights.insert(tensor_name(index, "bias"), WeightTensor::read(&bias.val().into_data()));
                }
            }
        }
        Weights(weights)
    }
}

fn tensor_name(layer: usize, part: &str) -> String {
    format!("layers.{layer}.{part}")
}

impl WeightTensor {
    fn read(data: &TensorData) -> Self {
        let shape = data.shape().iter().copied().collect();
        Self { shape, values: data.iter::<f32>().collect() }
    }
}

impl Weights {
    fn get(&self, layer: usize, part: &str, expected: &[usize]) -> Result<TensorData, WeightsError> {
        let name = tensor_name(layer, part);
        let Some(tensor) = self.0.get(&name) else {
            return Err(WeightsError::Missing(name));
        };
        if tensor.shape != expected || tensor.values.len() != expected.iter().product::<usize>() {
            return Err(WeightsError::Shape { name, found: tensor.shape.clone(), expected: expected.to_vec() });
        }
        if tensor.values.iter().any(|value| !value.is_finite()) {
            return Err(WeightsError::NotFinite(name));
        }
        Ok(TensorData::new(tensor.values.clone(), expected.to_vec()))
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
    use crate::device::DeviceKind;
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
    fn a_network_computes_what_its_layers_say_and_gives_its_weights_back() {
        let device = DeviceKind::Flex.open().expect("built in");
        let network = Network::build(&sample().network, &sample_weights(), &device).expect("builds");
        let out = network.forward(Tensor::from_data(TensorData::new(vec![1.0_f32, -0.5], [1, 2]), &device));
        let out: Vec<f32> = out.into_data().iter::<f32>().collect();
        // By hand: h = tanh(x W + b), y = h V + c.
        let h: Vec<f32> = (0..3)
            .map(|j| {
                let w = |i: usize| 0.1 * ((i * 3 + j) as f32 - 2.0);
                (w(0) - 0.5 * w(1) + 0.05 * (j as f32 - 2.0)).tanh()
            })
            .collect();
        for (k, value) in out.iter().enumerate() {
            let expected: f32 =
                (0..3).map(|j| h[j] * 0.2 * ((j * 2 + k) as f32 - 2.0)).sum::<f32>() + 0.01 * (k as f32 - 2.0);
            assert!((value - expected).abs() < 1e-6, "{value} {expected}");
        }
        assert_eq!(network.weights(), sample_weights());
    }

    #[test]
    fn weights_survive_safetensors_and_misfits_are_named() {
        let bytes = sample_weights().to_safetensors().expect("encodes");
        assert_eq!(Weights::from_safetensors(&bytes).expect("decodes"), sample_weights());
        let device = DeviceKind::Flex.open().expect("built in");
        let build = |weights: &Weights| Network::build(&sample().network, weights, &device).map(|_| ());
        let mut weights = sample_weights();
        weights.0.get_mut("layers.0.bias").expect("there").values[1] = f32::NAN;
        assert_eq!(
            build(&weights).expect_err("NaN").to_string(),
            "tensor layers.0.bias holds a value that is no finite number"
        );
        weights.0.remove("layers.0.bias");
        assert_eq!(build(&weights).expect_err("missing").to_string(), "weights have no tensor layers.0.bias");
        assert!(Weights::from_safetensors(b"nonsense").is_err());
    }
}
