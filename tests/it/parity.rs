//! The same package gives the same answers on every device this build has.

use demo::plant;
use shared::device::DeviceKind;
use shared::event::{Outcome, StreamSchema};
use shared::pipeline::runner::RunnerInput;

use cloud_hub::recipe::Recipe;
use cloud_hub::train::dataset::{Dataset, SegmentData};
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
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/recipes/autoencoder.toml");
    let recipe = Recipe::load(&path).expect("the shipped recipe is good");
    let dataset = Dataset { segments: vec![segment.clone()] };
    let cancelled = std::sync::atomic::AtomicBool::new(false);
    let mut watch = Watch { progress: &mut |_| {}, cancelled: &cancelled, checkpoint: None };
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
