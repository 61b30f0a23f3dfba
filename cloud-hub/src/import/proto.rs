//! The parts of ONNX's protobuf schema (onnx.proto3, IR version 3 and later) that a network is read from.

use prost::Message;

/// A model.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Model {
    #[prost(message, optional, tag = "7")]
    pub(super) graph: Option<Graph>,
}

/// A graph: nodes in topological order.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Graph {
    #[prost(message, repeated, tag = "1")]
    pub(super) nodes: Vec<Node>,
    #[prost(message, repeated, tag = "5")]
    pub(super) initializers: Vec<Tensor>,
    #[prost(message, repeated, tag = "11")]
    pub(super) inputs: Vec<ValueInfo>,
    #[prost(message, repeated, tag = "12")]
    pub(super) outputs: Vec<ValueInfo>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Node {
    #[prost(string, repeated, tag = "1")]
    pub(super) inputs: Vec<String>,
    #[prost(string, repeated, tag = "2")]
    pub(super) outputs: Vec<String>,
    #[prost(string, tag = "3")]
    pub(super) name: String,
    #[prost(string, tag = "4")]
    pub(super) operator: String,
    #[prost(message, repeated, tag = "5")]
    pub(super) attributes: Vec<Attribute>,
    #[prost(string, tag = "7")]
    pub(super) domain: String,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Attribute {
    #[prost(string, tag = "1")]
    pub(super) name: String,
    #[prost(float, tag = "2")]
    pub(super) float: f32,
    #[prost(int64, tag = "3")]
    pub(super) int: i64,
    #[prost(bytes = "vec", tag = "4")]
    pub(super) text: Vec<u8>,
    #[prost(message, optional, tag = "5")]
    pub(super) tensor: Option<Tensor>,
    #[prost(float, repeated, tag = "7")]
    pub(super) floats: Vec<f32>,
    #[prost(int64, repeated, tag = "8")]
    pub(super) ints: Vec<i64>,
    #[prost(bytes = "vec", repeated, tag = "9")]
    pub(super) texts: Vec<Vec<u8>>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Tensor {
    #[prost(int64, repeated, tag = "1")]
    pub(super) dims: Vec<i64>,
    #[prost(int32, tag = "2")]
    pub(super) data_type: i32,
    #[prost(float, repeated, tag = "4")]
    pub(super) floats: Vec<f32>,
    #[prost(int32, repeated, tag = "5")]
    pub(super) int32s: Vec<i32>,
    #[prost(int64, repeated, tag = "7")]
    pub(super) int64s: Vec<i64>,
    #[prost(string, tag = "8")]
    pub(super) name: String,
    #[prost(bytes = "vec", tag = "9")]
    pub(super) raw: Vec<u8>,
    #[prost(double, repeated, tag = "10")]
    pub(super) doubles: Vec<f64>,
    #[prost(int32, tag = "14")]
    pub(super) data_location: i32,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct ValueInfo {
    #[prost(string, tag = "1")]
    pub(super) name: String,
    #[prost(message, optional, tag = "2")]
    pub(super) kind: Option<Kind>,
}

/// The type of a value; only tensors have one here.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Kind {
    #[prost(message, optional, tag = "1")]
    pub(super) tensor: Option<TensorKind>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct TensorKind {
    #[prost(int32, tag = "1")]
    pub(super) element: i32,
    #[prost(message, optional, tag = "2")]
    pub(super) shape: Option<TensorShape>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct TensorShape {
    #[prost(message, repeated, tag = "1")]
    pub(super) dims: Vec<Dimension>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Dimension {
    #[prost(int64, tag = "1")]
    pub(super) value: i64,
}

/// A constant of a graph: its shape, and its values as f64, which holds every f32 and every index exactly.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Constant {
    pub(super) dims: Vec<usize>,
    pub(super) values: Vec<f64>,
}

const FLOAT: i32 = 1;
const INT32: i32 = 6;
const INT64: i32 = 7;
const DOUBLE: i32 = 11;

impl Tensor {
    /// Its values.
    pub(super) fn constant(&self) -> Result<Constant, String> {
        if self.data_location != 0 {
            return Err(format!("tensor {:?} lies in another file; save the model as one file", self.name));
        }
        let dims: Option<Vec<usize>> = self.dims.iter().map(|dim| usize::try_from(*dim).ok()).collect();
        let dims = dims.ok_or_else(|| format!("tensor {:?} has a negative dimension", self.name))?;
        let values: Vec<f64> = match self.data_type {
            FLOAT if self.raw.is_empty() => self.floats.iter().map(|value| f64::from(*value)).collect(),
            FLOAT => chunks(&self.raw, |bytes| f64::from(f32::from_le_bytes(bytes))),
            DOUBLE if self.raw.is_empty() => self.doubles.clone(),
            DOUBLE => chunks(&self.raw, f64::from_le_bytes),
            INT32 if self.raw.is_empty() => self.int32s.iter().map(|value| f64::from(*value)).collect(),
            INT32 => chunks(&self.raw, |bytes| f64::from(i32::from_le_bytes(bytes))),
            INT64 if self.raw.is_empty() => self.int64s.iter().map(|value| *value as f64).collect(),
            INT64 => chunks(&self.raw, |bytes| i64::from_le_bytes(bytes) as f64),
            other => {
                return Err(format!(
                    "tensor {:?} has element type {other}; float, double, int32 and int64 are read",
                    self.name
                ));
            }
        };
        let count = dims.iter().try_fold(1_usize, |count, dim| count.checked_mul(*dim));
        if count != Some(values.len()) {
            return Err(format!("tensor {:?} of shape {dims:?} has {} values", self.name, values.len()));
        }
        Ok(Constant { dims, values })
    }
}

fn chunks<const N: usize>(raw: &[u8], read: impl Fn([u8; N]) -> f64) -> Vec<f64> {
    raw.as_chunks::<N>().0.iter().map(|bytes| read(*bytes)).collect()
}

impl Node {
    /// How messages call it.
    pub(super) fn describe(&self) -> String {
        let name = if self.name.is_empty() { self.outputs.first().map_or("", String::as_str) } else { &self.name };
        let domain = if self.domain.is_empty() || self.domain == "ai.onnx" {
            String::new()
        } else {
            format!("{}.", self.domain)
        };
        format!("node {name:?} ({domain}{})", self.operator)
    }

    pub(super) fn attribute(&self, name: &str) -> Option<&Attribute> {
        self.attributes.iter().find(|attribute| attribute.name == name)
    }

    pub(super) fn int(&self, name: &str, default: i64) -> i64 {
        self.attribute(name).map_or(default, |attribute| attribute.int)
    }

    pub(super) fn float(&self, name: &str, default: f32) -> f32 {
        self.attribute(name).map_or(default, |attribute| attribute.float)
    }

    pub(super) fn ints(&self, name: &str) -> Option<&[i64]> {
        self.attribute(name).map(|attribute| attribute.ints.as_slice())
    }

    pub(super) fn text(&self, name: &str) -> Option<String> {
        self.attribute(name).map(|attribute| String::from_utf8_lossy(&attribute.text).into_owned())
    }
}
