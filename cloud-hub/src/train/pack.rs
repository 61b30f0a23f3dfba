//! From a fitted pipeline to a package: golden vectors, drift reference, lineage.

use std::collections::BTreeMap;

use shared::device::DeviceKind;
use shared::drift::{ChannelReference, DecayedHistogram, DriftReference};
use shared::package::{Golden, Lineage, Manifest, Package};
use shared::pipeline::runner::RunnerInput;

use super::dataset::Dataset;
use super::fit::Fitted;
use super::{Order, TrainError};
use crate::core::limits::DRIFT_FILL_ROWS;
use crate::recipe::DriftRecipe;

/// Answers among the golden vectors: enough for averages to matter, little to carry.
const GOLDEN_ANSWERS: usize = 64;
/// Numbers of the golden vectors, at most: what is said of them must not outweigh the model.
const GOLDEN_NUMBERS: usize = 65_536;
/// How far devices may differ: f32 sums in another order, a few layers deep.
const GOLDEN_TOLERANCE: f32 = 1e-3;

/// Packs a candidate.
///
/// # Errors
/// If it does not run.
pub fn package(
    order: &Order<'_>,
    dataset: &Dataset,
    fitted: Fitted,
    metrics: &BTreeMap<String, f64>,
) -> Result<Package, TrainError> {
    let golden = golden(&fitted, dataset)?;
    let drift_reference = drift_reference(&fitted, dataset, &order.recipe.drift);
    let lineage = Lineage {
        trained_on: dataset.ranges().cloned().collect(),
        data: dataset.digest(),
        recipe: order.recipe.digest(),
        seed: order.recipe.training.seed,
        parent: order.champion.as_ref().map(|(version, _)| *version),
        trigger: order.trigger.clone(),
        code_version: env!("CARGO_PKG_VERSION").to_owned(),
    };
    let weights = fitted.weights.to_safetensors(order.recipe.training.weights)?;
    let metrics = metrics.iter().map(|(name, value)| (name.clone(), *value)).collect();
    let manifest = Manifest::new(
        (order.model.clone(), order.version),
        order.now_ms,
        fitted.pipeline,
        lineage,
        drift_reference,
        metrics,
    );
    Ok(Package { manifest, weights, golden })
}

/// The first readings of the newest segment, and what the reference device says of them: as many as it takes until there are
/// answers enough. Where a segment ends before the first answer, it begins anew.
fn golden(fitted: &Fitted, dataset: &Dataset) -> Result<Golden, TrainError> {
    let segment = dataset.segments.last().ok_or(TrainError::NoData(0))?;
    let width = segment.schema.channels.len().max(1);
    let mut runner = fitted.runner(DeviceKind::Flex)?;
    let mut golden = Golden {
        schema: segment.schema.clone(),
        readings: Vec::new(),
        outcomes: Vec::new(),
        tolerance: GOLDEN_TOLERANCE,
    };
    let (mut answers, mut numbers) = (0, 0);
    let interval_ms = i64::from(fitted.pipeline.input.interval_ms.max(1));
    let mut offset_ms = 0;
    while answers < GOLDEN_ANSWERS {
        for (time_ms, values) in segment.rows() {
            let time_ms = offset_ms + time_ms;
            let input = RunnerInput { schema: &segment.schema, time_ms, values };
            let outcome = runner.run(&[input]).pop().and_then(|answer| answer.into_outcome().ok());
            numbers += width + outcome.as_ref().map_or(0, |outcome| outcome.size_hint() / 4);
            if answers == GOLDEN_ANSWERS || numbers > GOLDEN_NUMBERS {
                return Ok(golden);
            }
            answers += usize::from(outcome.is_some());
            golden.readings.push((time_ms, values.to_vec()));
            golden.outcomes.push(outcome);
        }
        offset_ms += segment.range.to_ms - segment.range.from_ms + interval_ms;
    }
    Ok(golden)
}

/// What the training data looked like, and how far stretches of it were from the whole.
fn drift_reference(fitted: &Fitted, dataset: &Dataset, rules: &DriftRecipe) -> DriftReference {
    let channels = fitted
        .pipeline
        .input
        .names()
        .map(|name| {
            let values: Vec<f64> = dataset.segments.iter().flat_map(|segment| segment.channel(name)).collect();
            let mut reference = ChannelReference::fit(name.clone(), &values);
            let largest = dataset
                .segments
                .iter()
                .map(|segment| largest_divergence(&reference, &segment.channel(name), rules.half_life))
                .fold(0.0, f64::max);
            // Never above the middle between what was seen and what nothing exceeds: an alarm must stay possible.
            reference.threshold = (rules.factor * largest).min(0.5 * (1.0 + largest));
            reference
        })
        .collect();
    DriftReference { channels, half_life: rules.half_life }
}

fn largest_divergence(reference: &ChannelReference, values: &[f64], half_life: f64) -> f64 {
    let mut histogram = DecayedHistogram::new(reference, half_life);
    let mut largest = 0.0_f64;
    for (row, value) in values.iter().enumerate() {
        histogram.add(reference, *value);
        if row >= DRIFT_FILL_ROWS as usize {
            largest = largest.max(histogram.divergence(reference));
        }
    }
    largest
}
