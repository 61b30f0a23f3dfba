//! Models that were made elsewhere: an ONNX graph, or weights alone, become the network of a package.
//!
//! Everything around the network, the input, the steps and the decision, is declared in a recipe; nothing is trained, so its
//! constants must stand in it.

mod fold;
mod graph;
mod operators;
mod proto;
mod rearrange;
mod recurrent;

use std::path::{Path, PathBuf};

use prost::Message;
use shared::config::ConfigError;
use shared::device::DeviceKind;
use shared::drift::DriftReference;
use shared::event::{StreamSchema, UnixMillis};
use shared::ids::{ChannelName, Digest, IdError, ModelName, ModelVersion, StreamId};
use shared::package::signature::ReleaseKey;
use shared::package::{Golden, Lineage, Manifest, Package, PackageError, Sealed};
use shared::pipeline::runner::{BuildError, Runner, RunnerInput};
use shared::pipeline::weights::{Weights, WeightsError};
use shared::pipeline::{Decision, Layer, Pipeline, PipelineError, Shape, Stage, Step};

use crate::clock;
use crate::recipe::Recipe;

/// Bytes of a model that is read: larger than any package.
const MAX_MODEL_BYTES: u64 = 256 * 1024 * 1024;
/// Answers among the golden vectors.
const GOLDEN_ANSWERS: usize = 64;
/// How far devices may differ from the one that made the golden vectors.
const GOLDEN_TOLERANCE: f32 = 1e-3;

/// What to import.
#[derive(Debug)]
pub struct Import<'a> {
    /// Where the network comes from.
    pub network: Source<'a>,
    /// The recipe that declares the rest; with weights alone, also the network.
    pub pipeline: &'a Path,
    /// The model's name.
    pub model: ModelName,
    /// Its version.
    pub version: ModelVersion,
    /// Who vouches for the package.
    pub key: Option<&'a ReleaseKey>,
    /// Until when.
    pub signed_until_ms: UnixMillis,
}

/// Where a network comes from.
#[derive(Debug, Clone, Copy)]
pub enum Source<'a> {
    /// An ONNX file.
    Onnx(&'a Path),
    /// A safetensors file, whose names are those of a declared network: `layers.<index>.<part>`.
    Safetensors(&'a Path),
}

/// A network read from elsewhere.
#[derive(Debug, Clone, PartialEq)]
pub struct ImportedNetwork {
    /// Its layers.
    pub layers: Vec<Layer>,
    /// Their weights.
    pub weights: Weights,
}

/// Why a model cannot be imported.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// A file cannot be read.
    #[error("read {path}: {source}")]
    Io {
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file is no ONNX model, or one that cannot be mapped.
    #[error("import {path}: {problem}")]
    Onnx {
        /// Which.
        path: PathBuf,
        /// What is wrong, and where.
        problem: String,
    },
    /// The recipe is wrong, or something is missing in it.
    #[error("{0}")]
    Recipe(#[from] ConfigError),
    /// The weights do not fit.
    #[error("fit the weights to the network: {0}")]
    Weights(#[from] WeightsError),
    /// The pipeline cannot be built.
    #[error("build the pipeline: {0}")]
    Build(#[from] BuildError),
    /// The package cannot be made.
    #[error("make the package: {0}")]
    Package(#[from] PackageError),
    /// A name is wrong.
    #[error("{0}")]
    Name(#[from] IdError),
}

/// Makes a package of a model that was made elsewhere.
///
/// # Errors
/// If the model has what no layer can be, by the node's name; or if the recipe does not fit it.
pub fn import(order: &Import<'_>) -> Result<Sealed, ImportError> {
    let recipe = Recipe::load_declaration(order.pipeline)?;
    let located = |error: &PipelineError| ImportError::Recipe(recipe.locate(error));
    let mut pipeline = recipe.declaration(&[]).map_err(|error| located(&error))?;
    let (source, weights) = match order.network {
        Source::Onnx(path) => {
            let input = pipeline.input_shape().map_err(|error| located(&error))?;
            let is_classifier = matches!(pipeline.decision, Decision::Classify { .. });
            let network = read_onnx(path, input, is_classifier)?;
            pipeline.network = network.layers;
            (path, network.weights)
        }
        Source::Safetensors(path) => (path, Weights::from_safetensors(&read(path)?)?),
    };
    if let Decision::Forecast { targets, mean, std, .. } = &mut pipeline.decision {
        // Such a network forecasts in the channels' own units.
        (*mean, *std) = (vec![0.0; targets.len()], vec![1.0; targets.len()]);
    }
    pipeline.check(Stage::Fitted).map_err(|error| located(&error))?;
    let format = recipe.training.weights;
    let weights = weights.rounded(format);
    let golden = golden(&pipeline, &weights)?;
    let lineage = Lineage {
        trained_on: Vec::new(),
        data: Digest::of(&read(source)?),
        recipe: recipe.digest(),
        seed: 0,
        parent: None,
        trigger: format!("imported from {}", source.file_name().unwrap_or_default().to_string_lossy()),
        code_version: env!("CARGO_PKG_VERSION").to_owned(),
    };
    let drift_reference = DriftReference { channels: Vec::new(), half_life: recipe.drift.half_life };
    let manifest = Manifest::new(
        (order.model.clone(), order.version),
        clock::unix_ms(),
        pipeline,
        lineage,
        drift_reference,
        Vec::new(),
    );
    let package = Package { manifest, weights: weights.to_safetensors(format)?, golden };
    Ok(package.seal(&order.key.into_iter().collect::<Vec<_>>(), order.signed_until_ms)?)
}

/// Reads an ONNX file as a network that is given `input`. A softmax at the end of a classifier is left out: the decision takes
/// logits.
///
/// # Errors
/// If it is no model, or has what no layer can be, by the node's name.
pub fn read_onnx(path: &Path, input: Shape, is_classifier: bool) -> Result<ImportedNetwork, ImportError> {
    parse_onnx(&read(path)?, input, is_classifier)
        .map_err(|problem| ImportError::Onnx { path: path.to_owned(), problem })
}

/// The same from the bytes of a file.
///
/// # Errors
/// What is wrong, in words.
pub fn parse_onnx(bytes: &[u8], input: Shape, is_classifier: bool) -> Result<ImportedNetwork, String> {
    let model = proto::Model::decode(bytes).map_err(|error| format!("it is no ONNX model: {error}"))?;
    let graph = model.graph.ok_or("it is no ONNX model: it holds no graph")?;
    let mut network = graph::Mapper::map(&graph, input)?;
    if is_classifier && network.layers.last() == Some(&Layer::Softmax) {
        network.layers.pop();
    }
    Ok(network)
}

fn read(path: &Path) -> Result<Vec<u8>, ImportError> {
    let io_error = |source| ImportError::Io { path: path.to_owned(), source };
    let size = std::fs::metadata(path).map_err(io_error)?.len();
    if size > MAX_MODEL_BYTES {
        let problem = format!("it has {size} bytes, at most {MAX_MODEL_BYTES} are read");
        return Err(ImportError::Onnx { path: path.to_owned(), problem });
    }
    std::fs::read(path).map_err(io_error)
}

/// Made-up readings, and what the reference device says of them. They vary around what the first z-score expects, or within
/// the channels' ranges, or around 0.
fn golden(pipeline: &Pipeline, weights: &Weights) -> Result<Golden, ImportError> {
    let channels: Vec<ChannelName> = pipeline.input.names().cloned().collect();
    let scales: Vec<(f64, f64)> = pipeline
        .input
        .channels
        .iter()
        .enumerate()
        .map(|(index, channel)| match (&pipeline.preprocess.first(), channel.range) {
            (Some(Step::Zscore { mean, std, .. }), _) if index < mean.len() => (mean[index], std[index]),
            (_, Some((low, high))) => (0.5 * (low + high), 0.2 * (high - low)),
            (_, None) => (0.0, 1.0),
        })
        .collect();
    let schema = StreamSchema { stream: StreamId::new("golden")?, channels };
    let mut golden = Golden { schema, readings: Vec::new(), outcomes: Vec::new(), tolerance: GOLDEN_TOLERANCE };
    let device = DeviceKind::Flex
        .open()
        .map_err(|error| ImportError::Onnx { path: PathBuf::new(), problem: error.to_string() })?;
    let mut runner = Runner::new(pipeline.clone(), weights, device)?;
    let interval_ms = i64::from(pipeline.input.interval_ms.max(1_000).min(pipeline.input.max_gap_ms));
    let longest = shared::limits::MAX_CALIBRATION_ROWS as usize + shared::limits::MAX_WINDOW_ROWS as usize;
    let mut answers = 0;
    for row in 0..longest {
        if answers == GOLDEN_ANSWERS {
            break;
        }
        let wave = |channel: usize| (row as f64 * (0.7 + 0.31 * channel as f64)).sin() + 0.3 * (row as f64 * 2.3).cos();
        let values: Vec<f64> =
            scales.iter().enumerate().map(|(channel, (centre, size))| centre + size * wave(channel)).collect();
        let time_ms = row as i64 * interval_ms;
        let input = RunnerInput { schema: &golden.schema, time_ms, values: &values };
        let outcome = runner.run(&[input]).pop().and_then(|answer| answer.into_outcome().ok());
        answers += usize::from(outcome.is_some());
        golden.readings.push((time_ms, values));
        golden.outcomes.push(outcome);
    }
    Ok(golden)
}
