//! The same package gives the same answers on every device this build has.

use std::path::Path;

use demo::plant;
use shared::config::Source;
use shared::device::DeviceKind;
use shared::event::{Outcome, StreamSchema};
use shared::pipeline::network::Network;
use shared::pipeline::runner::RunnerInput;
use shared::pipeline::weights::{WeightTensor, Weights, needed};

use cloud_hub::recipe::Recipe;
use cloud_hub::train::dataset::{Dataset, SegmentData};
use cloud_hub::train::steps::Steps;
use cloud_hub::train::{Watch, fit};
use shared::package::DataRange;

/// f32 sums in another order, three layers deep and squared.
const TOLERANCE: f32 = 1e-3;

/// A fitted pipeline of the simulated plant and its rows.
fn trained() -> (fit::Fitted, SegmentData) {
    let scenario = plant::scenario(3);
    let recording = &scenario.phases[0].recordings[0];
    let segment = SegmentData {
        range: DataRange {
            agent: shared::ids::AgentId::new("a").expect("valid"),
            stream: scenario.stream.clone(),
            from_ms: recording.rows[0].time_ms,
            to_ms: recording.rows[recording.rows.len() - 1].time_ms,
            rows: recording.rows.len() as u64,
        },
        schema: StreamSchema { stream: scenario.stream.clone(), channels: scenario.channels.clone() },
        times_ms: recording.rows.iter().map(|row| row.time_ms).collect(),
        values: recording.rows.iter().flat_map(|row| row.values.iter().copied()).collect(),
        labels: Vec::new(),
    };
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/recipes/autoencoder.toml");
    let recipe = Recipe::load(&path).expect("the shipped recipe is good");
    let dataset = Dataset { segments: vec![segment.clone()] };
    let cancelled = std::sync::atomic::AtomicBool::new(false);
    let mut watch = Watch { progress: &mut |_| {}, cancelled: &cancelled, checkpoint: None, steps: Steps::default() };
    let fitted = fit::fit(&recipe, &dataset, DeviceKind::Flex, "training", &mut watch).expect("trains");
    (fitted, segment)
}

fn scores(fitted: &fit::Fitted, segment: &SegmentData, device: DeviceKind) -> Vec<f32> {
    let mut runner = fitted.runner(device).expect("runs");
    let inputs: Vec<RunnerInput<'_>> =
        segment.rows().map(|(time_ms, values)| RunnerInput { schema: &segment.schema, time_ms, values }).collect();
    runner
        .run(&inputs)
        .into_iter()
        .map(|answer| match answer.into_outcome() {
            Ok(Outcome::Anomaly(verdict)) => verdict.score,
            other => panic!("no verdict: {other:?}"),
        })
        .collect()
}

#[test]
fn parity_of_every_device_that_is_built_in() {
    let (fitted, segment) = trained();
    let expected = scores(&fitted, &segment, DeviceKind::Flex);
    let mut compared = 0;
    for device in DeviceKind::ALL.into_iter().filter(|device| *device != DeviceKind::Flex && device.is_built_in()) {
        let found = scores(&fitted, &segment, device);
        for (row, (found, expected)) in found.iter().zip(&expected).enumerate() {
            let allowed = TOLERANCE * (1.0 + expected.abs());
            assert!((found - expected).abs() <= allowed, "{device}, row {row}: {found} and {expected}");
        }
        compared += 1;
    }
    assert!(compared >= 1, "the tests are built with ndarray at least");
}

/// Windows that every device answers.
const WINDOWS: usize = 10_000;
const STEPS: usize = 32;
const CHANNELS: usize = 3;

/// Networks that hold every kind of layer. The last two are made only of layers that have kernels of their own on flex, the
/// others hold layers that burn computes there too.
const NETWORKS: [(&str, &str); 6] = [
    (
        "convolutions",
        "[{ conv1d = { filters = 8, kernel = 5, padding = 'same' } }, { batch_norm = {} }, 'relu', \
          { pool = { of = 'max', kernel = 2, stride = 2 } }, \
          { conv_transpose1d = { filters = 3, kernel = 2, stride = 2 } }, { residual = { layers = 2 } }, \
          { conv1d = { filters = 3, kernel = 3, padding = 'causal' } }, { leaky_relu = { slope = 0.1 } }]",
    ),
    (
        "recurrence",
        "[{ gru = { units = 8, give = 'sequence' } }, { layer_norm = {} }, { lstm = { units = 6 } }, 'gelu', \
          { linear = { outputs = 96 } }]",
    ),
    (
        "dense",
        "['flatten', { linear = { outputs = 24 } }, { elu = { alpha = 1.0 } }, { dropout = { probability = 0.1 } }, \
          { linear = { outputs = 8 } }, 'sigmoid', 'affine', { linear = {} }]",
    ),
    (
        "forecast",
        "[{ detrend = { layers = 3 } }, 'transpose', { linear = { outputs = 32 } }, 'transpose', \
          { pool = { of = 'average', kernel = 3, stride = 1, padding = 1 } }, 'tanh']",
    ),
    (
        "convolutions in kernels",
        "[{ conv1d = { filters = 9, kernel = 5, padding = 'same' } }, { batch_norm = {} }, 'relu', \
          { pool = { of = 'max', kernel = 3, stride = 2, padding = 1 } }, \
          { conv1d = { filters = 20, kernel = 3, stride = 2, padding = 'causal', bias = false } }, \
          { leaky_relu = { slope = 0.1 } }, { pool = { of = 'average', kernel = 3, stride = 1, padding = 1 } }, \
          { conv1d = { filters = 7, kernel = 2 } }, 'tanh', { linear = { outputs = 5 } }, \
          { dropout = { probability = 0.1 } }, { global_pool = { of = 'average' } }, { linear = { outputs = 96 } }]",
    ),
    (
        "recurrence in kernels",
        "[{ gru = { units = 11, give = 'sequence' } }, 'affine', { lstm = { units = 6, give = 'sequence' } }, \
          { reshape = { steps = 16, channels = 12 } }, { lstm = { units = 9, give = 'sequence' } }, \
          { gru = { units = 20 } }, 'sigmoid', { linear = { outputs = 96 } }]",
    ),
];

#[test]
fn parity_of_every_layer_on_ten_thousand_windows() {
    let schema = trained().1.schema;
    let channels: Vec<_> = schema.channels.iter().take(CHANNELS).cloned().collect();
    for (name, network) in NETWORKS {
        let text = format!(
            "preprocess = [{{ window = {{ length = {STEPS} }} }}]\nnetwork = {network}\n[decision.anomaly]\nsmooth = 1.0\n"
        );
        let recipe = Recipe::read(&Source::new(Path::new("recipe.toml"), text)).expect("good");
        let pipeline = recipe.pipeline(&channels).unwrap_or_else(|error| panic!("{name}: {error}"));
        let input = pipeline.input_shape().expect("fits");
        let mut noise = Noise(7);
        let tensors = needed(&pipeline.network, input).into_iter().map(|tensor| {
            let scale = if tensor.part == "variance" { (0.5, 1.0) } else { (-0.4, 0.8) };
            let values = (0..tensor.shape.iter().product()).map(|_| scale.0 + scale.1 * noise.next()).collect();
            (tensor.name(), WeightTensor { shape: tensor.shape, values })
        });
        let weights = Weights(tensors.collect());
        let windows: Vec<f32> = (0..WINDOWS * input.size()).map(|_| 4.0 * noise.next() - 2.0).collect();
        let run = |device: DeviceKind| {
            let device = device.open().expect("built in");
            Network::build(&pipeline.network, input, &weights, &device).expect("builds").run(&windows, &device)
        };
        let expected = run(DeviceKind::Flex);
        for device in DeviceKind::ALL.into_iter().filter(|device| *device != DeviceKind::Flex && device.is_built_in()) {
            let found = run(device);
            assert_eq!(found.len(), expected.len());
            for (index, (found, expected)) in found.iter().zip(&expected).enumerate() {
                let allowed = TOLERANCE * (1.0 + expected.abs());
                assert!((found - expected).abs() <= allowed, "{name} on {device}, {index}: {found} and {expected}");
            }
        }
    }
}

/// Numbers from 0 to 1 (a linear congruential generator; Numerical Recipes).
struct Noise(u32);

impl Noise {
    fn next(&mut self) -> f32 {
        self.0 = self.0.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (self.0 >> 8) as f32 / (1 << 24) as f32
    }
}
