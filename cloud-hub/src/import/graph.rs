//! Mapping a graph onto layers: one chain of values, with short cuts that are added to it.
//!
//! A layer's output lies step after step. What a graph says of the order of dimensions only changes how that is looked at; a
//! transpose becomes a layer where an operator needs the other order, and nowhere else.

use std::collections::{BTreeMap, BTreeSet};

use shared::pipeline::layer::shapes;
use shared::pipeline::weights::{WeightTensor, Weights};
use shared::pipeline::{Layer, Shape};

use super::ImportedNetwork;
use super::proto::{Constant, Graph, Node, ValueInfo};

/// Element types of an output that a network can give.
const FLOATS: [i32; 2] = [1, 11];

/// How a graph's tensor is held.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Form {
    /// Features; the graph's dimensions after the rows, ones among them.
    Flat(Vec<usize>),
    /// The graph's two dimensions after the rows. Steps are the first, or, swapped, the second.
    Pair { dims: [usize; 2], swapped: bool },
    /// `[steps, rows, channels]`.
    TimeFirst { steps: usize, channels: usize },
    /// `[steps, 1, rows, channels]`: what recurrent operators give.
    TimeFirstOfDirections { steps: usize, channels: usize },
    /// `[1, rows, features]`: the last state of a recurrent operator.
    State(usize),
}

/// A value of the graph.
#[derive(Debug, Clone)]
struct Value {
    /// Layers that lead to it.
    position: usize,
    form: Form,
}

type Parts = Vec<(&'static str, WeightTensor)>;

/// Maps a graph, node by node.
pub(super) struct Mapper {
    input: Shape,
    constants: BTreeMap<String, Constant>,
    values: BTreeMap<String, Value>,
    layers: Vec<(Layer, Parts)>,
    /// Values that some node, or the caller, takes.
    used: BTreeSet<String>,
    /// Values that are one minus another.
    complements: BTreeMap<String, String>,
}

impl Mapper {
    pub(super) fn map(graph: &Graph, input: Shape) -> Result<ImportedNetwork, String> {
        let mut mapper = Self {
            input,
            constants: BTreeMap::new(),
            values: BTreeMap::new(),
            layers: Vec::new(),
            used: BTreeSet::new(),
            complements: BTreeMap::new(),
        };
        for tensor in &graph.initializers {
            mapper.constants.insert(tensor.name.clone(), tensor.constant()?);
        }
        let inputs: Vec<&ValueInfo> =
            graph.inputs.iter().filter(|input| !mapper.constants.contains_key(&input.name)).collect();
        let [given] = inputs[..] else {
            return Err(format!("it has {} inputs, one is expected", inputs.len()));
        };
        mapper.take_input(given, graph)?;
        let output =
            graph.outputs.iter().find(|output| element(output).is_none_or(|element| FLOATS.contains(&element)));
        let output = output.ok_or("none of its outputs holds floating-point numbers")?;
        let nodes = needed(graph, &output.name);
        mapper.used = nodes.iter().flat_map(|node| &node.inputs).chain([&output.name]).cloned().collect();
        for node in nodes {
            mapper.node(node).map_err(|problem| format!("{}: {problem}", node.describe()))?;
        }
        let last =
            mapper.values.get(&output.name).ok_or_else(|| format!("nothing gives its output {:?}", output.name))?;
        if last.position != mapper.layers.len() {
            return Err(format!("its output {:?} is not what its last node gives", output.name));
        }
        mapper.finish(&output.name)
    }

    fn take_input(&mut self, given: &ValueInfo, graph: &Graph) -> Result<(), String> {
        let shape = given.kind.as_ref().and_then(|kind| kind.tensor.as_ref()).and_then(|tensor| tensor.shape.as_ref());
        let dims: Vec<usize> = shape.map_or_else(Vec::new, |shape| {
            shape.dims.iter().skip(1).map(|dim| usize::try_from(dim.value).unwrap_or(0)).collect()
        });
        let misfit = || format!("its input {:?} is [rows, {dims:?}], the pipeline gives {}", given.name, self.input);
        let is_convolved =
            graph.nodes.iter().any(|node| node.operator == "Conv" && node.inputs.first() == Some(&given.name));
        let (form, layer) = match (self.input, dims.as_slice()) {
            (Shape::Flat(features), []) => (Form::Flat(vec![features]), None),
            (Shape::Flat(features), dims) if is_size(dims, features) => {
                let dims: Vec<usize> = dims.iter().map(|dim| if *dim == 0 { features } else { *dim }).collect();
                match dims[..] {
                    [a, b] if a > 1 && b > 1 => (
                        Form::Pair { dims: [a, b], swapped: false },
                        Some(Layer::Reshape { steps: a as u32, channels: b as u32 }),
                    ),
                    _ => (Form::Flat(dims), None),
                }
            }
            (Shape::Sequence { steps, channels }, [] | [0, 0]) => {
                (Form::Pair { dims: [steps, channels], swapped: false }, None)
            }
            (Shape::Sequence { steps, channels }, [a, b]) => {
                let is = |found: usize, wanted: usize| found == wanted || found == 0;
                if is(*a, channels) && is(*b, steps) && (is_convolved || !(is(*a, steps) && is(*b, channels))) {
                    (Form::Pair { dims: [channels, steps], swapped: true }, None)
                } else if is(*a, steps) && is(*b, channels) {
                    (Form::Pair { dims: [steps, channels], swapped: false }, None)
                } else {
                    return Err(misfit());
                }
            }
            (Shape::Sequence { .. }, [size]) if *size == self.input.size() || *size == 0 => {
                (Form::Flat(vec![self.input.size()]), Some(Layer::Flatten))
            }
            _ => return Err(misfit()),
        };
        self.layers.extend(layer.map(|layer| (layer, Vec::new())));
        self.values.insert(given.name.clone(), Value { position: self.layers.len(), form });
        Ok(())
    }

    /// The form of the value that `name` is, which must be what the last layer gives.
    pub(super) fn form(&self, name: &str) -> Result<Form, String> {
        let value = self.values.get(name).ok_or_else(|| format!("its input {name:?} is not known"))?;
        if value.position == self.layers.len() {
            Ok(value.form.clone())
        } else {
            Err("it branches off the chain of layers; only short cuts that are added again are possible".to_owned())
        }
    }

    pub(super) fn constant(&self, name: &str) -> Option<&Constant> {
        self.constants.get(name)
    }

    pub(super) fn set_constant(&mut self, name: &str, constant: Constant) {
        self.constants.insert(name.to_owned(), constant);
    }

    /// A weight of a node: a constant.
    pub(super) fn weight(&self, node: &Node, index: usize, what: &str) -> Result<&Constant, String> {
        let name = node.inputs.get(index).filter(|name| !name.is_empty()).ok_or_else(|| format!("it has no {what}"))?;
        self.constants.get(name).ok_or_else(|| format!("its {what} {name:?} is no constant"))
    }

    /// Adds a layer.
    pub(super) fn push(&mut self, layer: Layer, parts: Parts) {
        self.layers.push((layer, parts));
    }

    pub(super) fn last(&mut self) -> Option<&mut (Layer, Parts)> {
        // What a short cut starts from, or ends at, must stay what it is.
        let end = self.layers.len();
        let is_used = self.values.values().filter(|value| value.position == end).count() > 1;
        self.layers.last_mut().filter(|_| !is_used)
    }

    /// Whether a value is taken by anybody.
    pub(super) fn is_used(&self, name: &str) -> bool {
        self.used.contains(name)
    }

    /// Notes that `name` is one minus the probability `of`; false if the last layer gives no probability.
    pub(super) fn note_complement(&mut self, name: &str, of: &str) -> bool {
        let is_probability = matches!(self.layers.last(), Some((Layer::Sigmoid, _)));
        if is_probability {
            self.complements.insert(name.to_owned(), of.to_owned());
        }
        is_probability
    }

    /// Of which value `name` is the complement.
    pub(super) fn complement(&self, name: &str) -> Option<&str> {
        self.complements.get(name).map(String::as_str)
    }

    /// In the place of a logistic function: the softmax of 0 and what it was given, which are the same two probabilities.
    pub(super) fn replace_sigmoid_by_softmax(&mut self) {
        self.layers.pop();
        let weight = WeightTensor { shape: vec![1, 2], values: vec![0.0, 1.0] };
        self.push(Layer::Linear { outputs: 2, bias: false }, vec![("weight", weight)]);
        self.push(Layer::Softmax, Vec::new());
    }

    /// Says what the last layer gives.
    pub(super) fn give(&mut self, name: &str, form: Form) {
        self.values.insert(name.to_owned(), Value { position: self.layers.len(), form });
    }

    /// Adds to the last value one that came before, and says where.
    pub(super) fn add_short_cut(&mut self, a: &str, b: &str, output: &str) -> Result<(), String> {
        let find =
            |name: &str| self.values.get(name).cloned().ok_or_else(|| format!("its input {name:?} is not known"));
        let (first, second) = (find(a)?, find(b)?);
        let (from, last) = if first.position <= second.position { (first, second) } else { (second, first) };
        if last.position != self.layers.len() || from.position == last.position {
            return Err("it adds values of which none is the last, or one to itself".to_owned());
        }
        if from.form != last.form {
            return Err(format!("it adds values of different dimensions: {:?} and {:?}", from.form, last.form));
        }
        let layers = u32::try_from(last.position - from.position).unwrap_or(u32::MAX);
        self.layers.insert(from.position, (Layer::Residual { layers }, Vec::new()));
        for value in self.values.values_mut().filter(|value| value.position > from.position) {
            value.position += 1;
        }
        self.give(output, last.form);
        Ok(())
    }

    fn finish(mut self, output: &str) -> Result<ImportedNetwork, String> {
        // A row lies step after step; where the graph's order is the other one, the last layer turns it.
        if let Ok(Form::Pair { swapped: true, .. }) = self.form(output) {
            self.push(Layer::Transpose, Vec::new());
        }
        let mut weights = Weights::default();
        let mut layers = Vec::with_capacity(self.layers.len());
        for (index, (layer, parts)) in self.layers.into_iter().enumerate() {
            weights.0.extend(parts.into_iter().map(|(part, tensor)| (format!("layers.{index}.{part}"), tensor)));
            layers.push(layer);
        }
        shapes(&layers, self.input)
            .map_err(|(index, problem)| format!("layer {index} of what it becomes: {problem}"))?;
        Ok(ImportedNetwork { layers, weights })
    }
}

fn is_size(dims: &[usize], features: usize) -> bool {
    dims.iter().filter(|dim| **dim > 0).product::<usize>() == features || dims == [0]
}

fn element(value: &ValueInfo) -> Option<i32> {
    value.kind.as_ref().and_then(|kind| kind.tensor.as_ref()).map(|tensor| tensor.element)
}

/// The nodes that `output` needs, in order.
fn needed<'g>(graph: &'g Graph, output: &str) -> Vec<&'g Node> {
    let mut names = BTreeSet::from([output]);
    let mut nodes: Vec<&Node> = Vec::new();
    for node in graph.nodes.iter().rev() {
        if node.outputs.iter().any(|given| names.contains(given.as_str())) {
            names.extend(node.inputs.iter().map(String::as_str));
            nodes.push(node);
        }
    }
    nodes.reverse();
    nodes
}
