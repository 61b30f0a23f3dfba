//! One inference of small networks: Tideline beside onnxruntime and tract, on one thread each, in the same minutes.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, bail, ensure};
use edge_agent::clock::Clock;
use serde::{Deserialize, Serialize};
use serde_json::json;
use shared::device::DeviceKind;
use shared::pipeline::layer::{GlobalPooling, Layer, Padding, Recurrence, Shape};
use shared::pipeline::network::Network;
use shared::pipeline::weights::{WeightTensor, Weights, needed};

use super::subjects::execute;
use super::system::median;

/// Rows that go through a network at once.
pub const BATCHES: [usize; 4] = [1, 8, 64, 512];
/// One sample takes about as long, and so many samples make a measurement.
const SAMPLE_US: u64 = 20_000;
const SAMPLES: usize = 9;
/// Answers differ by less than this, or the subjects do not do the same.
const TOLERANCE: f64 = 1e-4;

/// Microseconds of one call, from features in memory to answers in memory.
#[derive(Debug, Clone, Serialize)]
pub struct Inference {
    /// The network.
    pub network: &'static str,
    /// Rows of a call.
    pub batch: usize,
    /// Tideline on flex.
    pub flex_us: f64,
    /// Tideline on ndarray.
    pub ndarray_us: f64,
    /// onnxruntime, called from Python.
    pub onnxruntime_us: Option<f64>,
    /// tract, called from Rust.
    pub tract_us: Option<f64>,
}

/// Who else is measured.
pub struct Rivals {
    python: PathBuf,
    tract: PathBuf,
}

/// A network that everybody runs.
struct Subject {
    name: &'static str,
    input: Shape,
    layers: Vec<Layer>,
    weights: Weights,
}

/// What a rival says: per network and batch the time of a call, and its answers to the first rows.
#[derive(Debug, Deserialize)]
struct Said {
    network: String,
    batch: usize,
    us: f64,
    first_row: Vec<f64>,
}

impl Rivals {
    /// Installs onnxruntime and builds tract in `directory`.
    ///
    /// # Errors
    /// If Python 3, cargo or their package registries are not there.
    pub fn install(directory: &Path) -> anyhow::Result<Self> {
        let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("bench/peers");
        let (venv, tract) = (directory.join("onnxruntime"), directory.join("tract"));
        execute(Command::new("python3").args(["-m", "venv"]).arg(&venv))?;
        let mut pip = Command::new(venv.join("bin/pip"));
        pip.args(["install", "--quiet", "--only-binary=:all:", "-r"]).arg(sources.join("python/requirements.txt"));
        execute(&mut pip)?;
        let mut cargo = Command::new("cargo");
        cargo.args(["build", "--release", "--locked", "--quiet", "--manifest-path"]);
        execute(cargo.arg(sources.join("tract/Cargo.toml")).env("CARGO_TARGET_DIR", &tract))?;
        Ok(Self { python: venv.join("bin/python"), tract: tract.join("release/tract-bench") })
    }
}

/// Measures every network at every batch, subject after subject in each run.
///
/// # Errors
/// If a subject fails, or they do not answer alike.
pub fn run(
    directory: &Path,
    rivals: Option<&Rivals>,
    runs: usize,
    clock: Clock,
    progress: &mut dyn FnMut(&str),
) -> anyhow::Result<Vec<Inference>> {
    let subjects = subjects();
    let (file, folder) = (directory.join("networks.json"), directory.join("networks"));
    fs::create_dir_all(&folder)?;
    fs::write(&file, describe(&subjects)?)?;
    let mut found: Vec<(Inference, [Vec<f64>; 4])> = Vec::new();
    for subject in &subjects {
        for batch in BATCHES {
            let empty = Inference {
                network: subject.name,
                batch,
                flex_us: 0.0,
                ndarray_us: 0.0,
                onnxruntime_us: None,
                tract_us: None,
            };
            found.push((empty, Default::default()));
        }
    }
    for run in 0..runs {
        progress(&format!("inference, run {} of {runs}", run + 1));
        let mut answers = Vec::new();
        for (subject, rows) in subjects.iter().zip(found.chunks_mut(BATCHES.len())) {
            for (row, batch) in rows.iter_mut().zip(BATCHES) {
                row.1[0].push(measure(subject, batch, DeviceKind::Flex, clock)?);
                row.1[1].push(measure(subject, batch, DeviceKind::Ndarray, clock)?);
                answers.push(subject.answer(batch)?);
            }
        }
        let Some(rivals) = rivals else { continue };
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("bench/peers/python/inference.py");
        let onnxruntime = ask(Command::new(&rivals.python).arg(script).args([&file, &folder]))?;
        let tract = ask(Command::new(&rivals.tract).args([&file, &folder]))?;
        for (at, said) in [(2, onnxruntime), (3, tract)] {
            ensure!(said.len() == found.len(), "a peer measured {} of {} cases", said.len(), found.len());
            for ((row, said), answer) in found.iter_mut().zip(said).zip(&answers) {
                ensure!((row.0.network, row.0.batch) == (said.network.as_str(), said.batch), "another order: {said:?}");
                alike(answer, &said)?;
                row.1[at].push(said.us);
            }
        }
    }
    let settle = |(mut row, samples): (Inference, [Vec<f64>; 4])| {
        row.flex_us = median(&samples[0]);
        row.ndarray_us = median(&samples[1]);
        if rivals.is_some() {
            row.onnxruntime_us = Some(median(&samples[2]));
            row.tract_us = Some(median(&samples[3]));
        }
        row
    };
    Ok(found.into_iter().map(settle).collect())
}

/// A dense network, one with convolutions and a recurrent one, all of the size that edges run.
fn subjects() -> Vec<Subject> {
    let linear = |outputs| Layer::Linear { outputs, bias: true };
    let conv = |filters, stride| Layer::Conv1d {
        filters,
        kernel: 5,
        stride,
        dilation: 1,
        groups: 1,
        padding: Padding::Same,
        bias: true,
    };
    vec![
        Subject::new(
            "dense 64-64-32-64",
            Shape::Flat(64),
            vec![linear(64), Layer::Relu, linear(32), Layer::Relu, linear(64)],
        ),
        Subject::new(
            "conv1d 64 x 4",
            Shape::Sequence { steps: 64, channels: 4 },
            vec![
                conv(16, 1),
                Layer::Relu,
                conv(32, 2),
                Layer::Relu,
                Layer::GlobalPool { of: GlobalPooling::Average },
                linear(8),
            ],
        ),
        Subject::new(
            "gru 32 x 8",
            Shape::Sequence { steps: 32, channels: 8 },
            vec![Layer::Gru { units: 32, give: Recurrence::Last, reset_after: true }, linear(8)],
        ),
    ]
}

impl Subject {
    fn new(name: &'static str, input: Shape, layers: Vec<Layer>) -> Self {
        let mut noise = Noise(1);
        let tensors = needed(&layers, input).into_iter().map(|tensor| {
            let fan_in = tensor.shape[..tensor.shape.len().saturating_sub(1)].iter().product::<usize>().max(1);
            let scale = 1.0 / (fan_in as f32).sqrt();
            let values = (0..tensor.shape.iter().product::<usize>()).map(|_| scale * noise.next()).collect();
            (tensor.name(), WeightTensor { shape: tensor.shape, values })
        });
        let weights = Weights(tensors.collect());
        Self { name, input, layers, weights }
    }

    /// So many rows of noise.
    fn features(&self, batch: usize) -> Vec<f32> {
        let mut noise = Noise(2);
        (0..batch * self.input.size()).map(|_| noise.next()).collect()
    }

    fn network(&self, device: DeviceKind) -> anyhow::Result<Network> {
        Ok(Network::build(&self.layers, self.input, &self.weights, &device.open()?)?)
    }

    /// The answer to the first row.
    fn answer(&self, batch: usize) -> anyhow::Result<Vec<f32>> {
        let network = self.network(DeviceKind::Flex)?;
        let mut answers = network.run(&self.features(batch), &DeviceKind::Flex.open()?);
        answers.truncate(network.output_shape().size());
        Ok(answers)
    }
}

/// The same numbers everywhere, between -1 and 1 (Numerical Recipes' quick generator).
struct Noise(u32);

impl Noise {
    fn next(&mut self) -> f32 {
        self.0 = self.0.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (self.0 >> 8) as f32 / (1 << 23) as f32 - 1.0
    }
}

fn measure(subject: &Subject, batch: usize, device: DeviceKind, clock: Clock) -> anyhow::Result<f64> {
    let (network, features, opened) = (subject.network(device)?, subject.features(batch), device.open()?);
    let time = |calls: u64| {
        let started = clock.monotonic_us();
        for _ in 0..calls {
            std::hint::black_box(network.run(std::hint::black_box(&features), &opened));
        }
        (clock.monotonic_us() - started).max(1)
    };
    let mut calls = 1;
    while time(calls) < SAMPLE_US {
        calls *= 2;
    }
    let samples: Vec<f64> = (0..SAMPLES).map(|_| time(calls) as f64 / calls as f64).collect();
    Ok(median(&samples))
}

/// The networks and what is asked of them, for programs that know nothing of packages.
fn describe(subjects: &[Subject]) -> anyhow::Result<String> {
    let largest = BATCHES.into_iter().max().unwrap_or(1);
    let networks: Vec<serde_json::Value> = subjects
        .iter()
        .map(|subject| {
            let (steps, channels) = match subject.input {
                Shape::Flat(features) => (None, features),
                Shape::Sequence { steps, channels } => (Some(steps), channels),
            };
            let weights: serde_json::Map<_, _> = subject
                .weights
                .0
                .iter()
                .map(|(name, tensor)| (name.clone(), json!({ "shape": tensor.shape, "values": tensor.values })))
                .collect();
            json!({
                "name": subject.name, "steps": steps, "channels": channels, "layers": subject.layers,
                "weights": weights, "features": subject.features(largest),
            })
        })
        .collect();
    let orders = json!({
        "batches": BATCHES, "sample_us": SAMPLE_US, "samples": SAMPLES, "networks": networks,
    });
    Ok(serde_json::to_string(&orders)?)
}

fn ask(command: &mut Command) -> anyhow::Result<Vec<Said>> {
    // One thread: what OpenMP or a library below it would start is held down as well.
    command.env("OMP_NUM_THREADS", "1").stdin(Stdio::null()).stderr(Stdio::inherit());
    let output = command.output().with_context(|| format!("run {command:?}"))?;
    if !output.status.success() {
        bail!("{command:?} ended with {}", output.status);
    }
    serde_json::from_slice(&output.stdout).with_context(|| format!("understand what {command:?} said"))
}

fn alike(ours: &[f32], said: &Said) -> anyhow::Result<()> {
    ensure!(ours.len() == said.first_row.len(), "{} has {} answers", said.network, said.first_row.len());
    for (a, b) in ours.iter().zip(&said.first_row) {
        ensure!((f64::from(*a) - b).abs() < TOLERANCE, "{} answers {b} instead of {a}", said.network);
    }
    Ok(())
}
