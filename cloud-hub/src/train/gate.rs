//! The gate: what a candidate must prove before any box sees it, with reasons in sentences.
//!
//! Nobody labels faults, so two questions are asked of known-normal readings alone. Does the model stay quiet on
//! readings it was not trained on? Whole segments are left out in turn, because neighbours in time are too much alike.
//! And does it see? Faults of a known size are planted in one channel at a time; a model of two operating points mixed
//! stays perfectly quiet and fails here.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use shared::device::DeviceKind;
use shared::ids::{ChannelName, ModelVersion};
use shared::package::Package;
use shared::pipeline::Pipeline;
use shared::pipeline::runner::Runner;
use shared::pipeline::statistics::{mean_and_deviation, quantile};

use super::dataset::{Dataset, SegmentData};
use super::fit::{self, Fitted, verdicts};
use super::steps::name_of;
use super::{Order, TrainError, Watch};
use crate::recipe::{GateRules, Recipe};

/// Folds of the cross-validation, at most.
const MAX_FOLDS: usize = 8;
/// Rows from the end of the warm-up to the onset of a planted fault, and from there to the first row that counts.
const ONSET_ROWS: usize = 40;
const SETTLE_ROWS: usize = 30;
/// Rows of a segment, after its calibration, that faults are planted in: enough to tell, and a long baseline costs no minutes.
const PLANTED_ROWS: usize = 400;
/// Below this share of a planted fault's rows a model is blind in a channel.
const BLIND: f64 = 0.5;
/// False alarms that one stream may have, as a multiple of what all may have together.
const SLICE_SHARE: f64 = 2.0;

/// A verdict: the reason to go on, or the reason to refuse.
pub type Verdict = Result<String, String>;

/// Whether there are segments enough to know what normal is. One segment, or two alike, pass every other test.
///
/// # Errors
/// The refusal.
pub fn enough_segments(dataset: &Dataset, rules: &GateRules) -> Verdict {
    let (found, wanted) = (dataset.segments.len(), rules.min_segments);
    if found < wanted {
        Err(format!("too little evidence: {}, at least {wanted} are needed", segments(found)))
    } else {
        Ok(format!("trained on {}", segments(found)))
    }
}

/// How much of planted faults a model sees, per channel.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Sight {
    channels: Vec<(ChannelName, f64)>,
}

impl Sight {
    /// Whether there were readings enough to plant faults in.
    #[must_use]
    pub fn is_measured(&self) -> bool {
        !self.channels.is_empty()
    }

    /// The share of planted faults' rows that alarm, on average over channels.
    #[must_use]
    pub fn mean(&self) -> f64 {
        self.channels.iter().map(|(_, seen)| seen).sum::<f64>() / self.channels.len().max(1) as f64
    }

    /// Whether it is enough.
    ///
    /// # Errors
    /// The refusal.
    pub fn judge(&self, rules: &GateRules) -> Verdict {
        let blind: Vec<String> = self
            .channels
            .iter()
            .filter(|(_, seen)| *seen < BLIND)
            .map(|(name, seen)| format!("{name} ({} seen)", percent(*seen)))
            .collect();
        let seen = percent(self.mean());
        let size = rules.fault_size;
        if blind.len() > rules.max_blind_channels {
            return Err(format!("blind: faults of {size} deviations go unseen in {}", blind.join(", ")));
        }
        if self.mean() < rules.min_detection {
            let wanted = percent(rules.min_detection);
            return Err(format!("blind: {seen} of planted faults of {size} deviations are seen, {wanted} are needed"));
        }
        let warning = if blind.is_empty() { String::new() } else { format!("; hardly in {}", blind.join(", ")) };
        Ok(format!("sees {seen} of planted faults of {size} deviations{warning}"))
    }
}

/// Plants faults in known-normal segments, in one channel at a time, and counts what `fitted` sees of them.
///
/// # Errors
/// If the model does not run.
pub fn sight(
    fitted: &Fitted,
    dataset: &Dataset,
    recipe: &Recipe,
    device: DeviceKind,
    watch: &mut Watch<'_>,
) -> Result<Sight, TrainError> {
    let inputs = (fitted.identity()?, Measure::of(recipe), dataset.identity(), device.to_string());
    let (key, kept) = watch.steps.find(("sight", "planted faults"), &inputs)?;
    if let Some(kept) = kept {
        return Ok(kept);
    }
    let sight = measure_sight(dataset, Measure::of(recipe), &names(&fitted.pipeline), &mut || fitted.runner(device))?;
    watch.steps.keep(key, &sight)?;
    Ok(sight)
}

/// What measurements depend on of a recipe.
#[derive(Debug, Clone, Copy, Serialize)]
struct Measure {
    fault_size: f64,
    calibration_rows: usize,
    warm_up_rows: usize,
}

impl Measure {
    fn of(recipe: &Recipe) -> Self {
        Self {
            fault_size: recipe.gate.fault_size,
            calibration_rows: recipe.calibration.map_or(0, |calibration| calibration.rows as usize),
            warm_up_rows: recipe.training.warm_up_rows as usize,
        }
    }
}

/// False alarms on segments left out of training.
#[derive(Debug, Clone, PartialEq)]
pub struct HeldOut {
    /// Per segment of the dataset: alarmed rows and rows.
    segments: Vec<(usize, usize)>,
    folds: usize,
}

impl HeldOut {
    /// The share of left-out rows that alarm.
    #[must_use]
    pub fn false_alarm_rate(&self) -> f64 {
        rate(self.segments.iter().copied())
    }

    /// Whether it is low enough.
    ///
    /// # Errors
    /// The refusal.
    pub fn judge(&self, rules: &GateRules) -> Verdict {
        let (found, limit) = (percent(self.false_alarm_rate()), percent(rules.max_held_out_far));
        let text = format!(
            "{found} false alarms on known-normal segments left out of training ({} folds, at most {limit})",
            self.folds
        );
        if self.false_alarm_rate() > rules.max_held_out_far { Err(text) } else { Ok(text) }
    }
}

/// Trains on all but some segments and scores those, until every segment was left out once.
///
/// # Errors
/// If training breaks.
pub fn cross_validate(
    recipe: &Recipe,
    dataset: &Dataset,
    device: DeviceKind,
    watch: &mut Watch<'_>,
) -> Result<HeldOut, TrainError> {
    let count = dataset.segments.len();
    let folds = count.min(MAX_FOLDS);
    let fold_of = |segment: usize| segment * folds / count.max(1);
    let mut segments = vec![(0, 0); count];
    for fold in 0..folds {
        let stage = format!("cross-validation {} of {folds}", fold + 1);
        let (training, left_out_data) = dataset.split(|segment| fold_of(segment) == fold);
        let fitted = fit::fit(recipe, &training, device, &stage, watch)?;
        let left_out: Vec<usize> = (0..count).filter(|index| fold_of(*index) == fold).collect();
        let scored = score_left_out(&fitted, &left_out_data, recipe, device, &format!("scores of {stage}"), watch)?;
        left_out.into_iter().zip(scored).for_each(|(index, counts)| segments[index] = counts);
    }
    Ok(HeldOut { segments, folds })
}

/// Alarmed rows and rows of segments that `fitted` was not trained on.
fn score_left_out(
    fitted: &Fitted,
    left_out: &Dataset,
    recipe: &Recipe,
    device: DeviceKind,
    name: &str,
    watch: &mut Watch<'_>,
) -> Result<Vec<(usize, usize)>, TrainError> {
    let inputs = (fitted.identity()?, Measure::of(recipe).warm_up_rows, left_out.identity(), device.to_string());
    let (key, kept) = watch.steps.find(("scores", name), &inputs)?;
    if let Some(kept) = kept {
        return Ok(kept);
    }
    let score = |segment| Ok(alarms(&mut fitted.runner(device)?, segment, recipe));
    let scored: Vec<(usize, usize)> = left_out.segments.iter().map(score).collect::<Result<_, TrainError>>()?;
    watch.steps.keep(key, &scored)?;
    Ok(scored)
}

/// The candidate beside the champion, on segments that neither was trained on.
#[derive(Debug, Clone, PartialEq)]
pub struct Against {
    version: ModelVersion,
    figures: Option<Figures>,
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
struct Figures {
    segments: usize,
    champion_far: f64,
    champion_seen: f64,
    candidate_far: f64,
    candidate_seen: f64,
}

/// Measures the champion where the candidate was measured.
///
/// # Errors
/// If the champion does not load.
pub fn against_champion(
    held_out: &HeldOut,
    candidate_sight: &Sight,
    version: ModelVersion,
    champion: &Package,
    (dataset, order): (&Dataset, &Order<'_>),
    watch: &mut Watch<'_>,
) -> Result<Against, TrainError> {
    let known = &champion.manifest.lineage.trained_on;
    let overlaps = |segment: &SegmentData| {
        known.iter().any(|range| {
            (&range.agent, &range.stream) == (&segment.range.agent, &segment.range.stream)
                && range.from_ms <= segment.range.to_ms
                && segment.range.from_ms <= range.to_ms
        })
    };
    let fresh: Vec<usize> = (0..dataset.segments.len()).filter(|i| !overlaps(&dataset.segments[*i])).collect();
    if fresh.is_empty() {
        return Ok(Against { version, figures: None });
    }
    let package = name_of(&champion.manifest)?;
    let measure = Measure::of(order.recipe);
    let inputs =
        (package, measure, dataset.identity(), &fresh, &held_out.segments, candidate_sight, order.device.to_string());
    let (key, kept) = watch.steps.find(("against", &format!("comparison with version {version}")), &inputs)?;
    if let Some(figures) = kept {
        return Ok(Against { version, figures: Some(figures) });
    }
    let device = order.device.open()?;
    let mut champion_alarms = Vec::new();
    for index in &fresh {
        champion_alarms.push(alarms(&mut champion.load(&device)?, &dataset.segments[*index], order.recipe));
    }
    let (_, unseen) = dataset.split(|index| fresh.contains(&index));
    let channels = names(&champion.manifest.pipeline);
    let champion_sight = measure_sight(&unseen, measure, &channels, &mut || Ok(champion.load(&device)?))?;
    let figures = Figures {
        segments: fresh.len(),
        champion_far: rate(champion_alarms.into_iter()),
        champion_seen: champion_sight.mean(),
        candidate_far: rate(fresh.iter().map(|index| held_out.segments[*index])),
        candidate_seen: candidate_sight.mean(),
    };
    watch.steps.keep(key, &figures)?;
    Ok(Against { version, figures: Some(figures) })
}

impl Against {
    /// Whether the candidate is at least about as good.
    ///
    /// # Errors
    /// The refusal.
    pub fn judge(&self, rules: &GateRules) -> Verdict {
        let Some(f) = self.figures else {
            return Ok(format!("version {} was trained on the same segments: no comparison", self.version));
        };
        let loss = |far: f64, seen: f64| far + 1.0 - seen;
        let (candidate, champion) = (loss(f.candidate_far, f.candidate_seen), loss(f.champion_far, f.champion_seen));
        let text = format!(
            "on {} new to both: {} false alarms and {} of planted faults seen, version {} has {} and {}",
            segments(f.segments),
            percent(f.candidate_far),
            percent(f.candidate_seen),
            self.version,
            percent(f.champion_far),
            percent(f.champion_seen)
        );
        if candidate > champion + rules.margin { Err(format!("worse than what serves: {text}")) } else { Ok(text) }
    }

    /// The figures by name.
    #[must_use]
    pub fn metrics(&self) -> Vec<(String, f64)> {
        self.figures.map_or_else(Vec::new, |f| {
            vec![
                ("champion_false_alarm_rate".to_owned(), f.champion_far),
                ("champion_planted_faults_seen".to_owned(), f.champion_seen),
                ("candidate_false_alarm_rate".to_owned(), f.candidate_far),
            ]
        })
    }
}

/// What a package that was made elsewhere shows on known-normal segments of this hub: it must see planted faults, and be quiet,
/// overall and on each stream.
///
/// # Errors
/// If it does not run.
pub fn of_brought(package: &Package, dataset: &Dataset, recipe: &Recipe) -> Result<Vec<Verdict>, TrainError> {
    let device = DeviceKind::Flex.open()?;
    let mut runner = || Ok(package.rebuild(&device)?);
    let sight = measure_sight(dataset, Measure::of(recipe), &names(&package.manifest.pipeline), &mut runner)?;
    let mut of_stream: BTreeMap<String, Vec<(usize, usize)>> = BTreeMap::new();
    for segment in &dataset.segments {
        let stream = format!("{} at {}", segment.range.stream, segment.range.agent);
        of_stream.entry(stream).or_default().push(alarms(&mut runner()?, segment, recipe));
    }
    let limit = recipe.gate.max_held_out_far;
    let verdict = |name: String, far: f64, limit: f64| {
        let text = format!("{} false alarms on {name}, at most {} are allowed", percent(far), percent(limit));
        if far > limit { Err(text) } else { Ok(text) }
    };
    let whole = rate(of_stream.values().flatten().copied());
    let mut verdicts = vec![sight.judge(&recipe.gate), verdict(segments(dataset.segments.len()), whole, limit)];
    for (stream, counts) in of_stream {
        verdicts.push(verdict(stream, rate(counts.into_iter()), SLICE_SHARE * limit));
    }
    Ok(verdicts)
}

/// Counts, per channel, the rows of planted faults that alarm.
fn measure_sight(
    dataset: &Dataset,
    measure: Measure,
    channels: &[ChannelName],
    runner: &mut dyn FnMut() -> Result<Runner, TrainError>,
) -> Result<Sight, TrainError> {
    let calibration_rows = measure.calibration_rows;
    let onset = calibration_rows.max(measure.warm_up_rows) + ONSET_ROWS;
    let mut seen = Vec::new();
    for channel in channels {
        let Some(size) = fault_size(dataset, channel, measure.fault_size) else {
            continue;
        };
        let mut counts = Vec::new();
        for segment in dataset.segments.iter().filter(|segment| segment.len() > onset + SETTLE_ROWS) {
            for step in [-size, size] {
                let planted = plant(segment, channel, onset, step, calibration_rows + PLANTED_ROWS);
                let verdicts = verdicts(&mut runner()?, &planted, onset + SETTLE_ROWS);
                counts.push((verdicts.iter().filter(|verdict| verdict.anomaly).count(), verdicts.len()));
            }
        }
        if !counts.is_empty() {
            seen.push((channel.clone(), rate(counts.into_iter())));
        }
    }
    Ok(Sight { channels: seen })
}

/// A fault's size in a channel's unit; `None` for a frozen channel, in which no fault has a natural size.
fn fault_size(dataset: &Dataset, channel: &ChannelName, deviations: f64) -> Option<f64> {
    let mut within: Vec<f64> =
        dataset.segments.iter().map(|segment| mean_and_deviation(segment.channel(channel).into_iter()).1).collect();
    let typical = quantile(&mut within, 0.5);
    (typical > 0.0).then_some(typical * deviations)
}

fn plant(segment: &SegmentData, channel: &ChannelName, onset: usize, step: f64, rows: usize) -> SegmentData {
    let width = segment.schema.channels.len();
    let mut planted = segment.first(rows);
    if let Some(column) = segment.schema.channels.iter().position(|name| name == channel) {
        planted.values.iter_mut().skip(onset * width + column).step_by(width).for_each(|value| *value += step);
    }
    planted
}

/// Alarmed rows and rows of a segment after its warm-up.
fn alarms(runner: &mut Runner, segment: &SegmentData, recipe: &Recipe) -> (usize, usize) {
    let verdicts = verdicts(runner, segment, recipe.training.warm_up_rows as usize);
    (verdicts.iter().filter(|verdict| verdict.anomaly).count(), verdicts.len())
}

fn names(pipeline: &Pipeline) -> Vec<ChannelName> {
    pipeline.input.names().cloned().collect()
}

fn rate(counts: impl Iterator<Item = (usize, usize)>) -> f64 {
    let (part, whole) = counts.fold((0, 0), |(a, b), (part, whole)| (a + part, b + whole));
    part as f64 / whole.max(1) as f64
}

fn segments(count: usize) -> String {
    if count == 1 { "1 known-normal segment".to_owned() } else { format!("{count} known-normal segments") }
}

fn percent(share: f64) -> String {
    format!("{:.1} %", 100.0 * share)
}

#[cfg(test)]
mod tests {
    use super::super::dataset::tests::segment;
    use super::super::fit::tests::{recipe, with_watch};
    use super::*;

    fn fitted(dataset: &Dataset) -> Fitted {
        let (fitted, _) = with_watch(|watch| fit::fit(&recipe(), dataset, DeviceKind::Flex, "training", watch));
        fitted.expect("trains")
    }

    fn levels(levels: &[f64]) -> Dataset {
        Dataset { segments: levels.iter().enumerate().map(|(i, level)| segment(i as u32, *level, 300)).collect() }
    }

    #[test]
    fn a_model_of_one_operating_point_sees_and_one_of_two_mixed_is_refused_as_blind() {
        let one = levels(&[5.0, 5.05, 4.95, 5.0]);
        let look = |fitted: &Fitted, dataset: &Dataset| {
            with_watch(|watch| sight(fitted, dataset, &recipe(), DeviceKind::Flex, watch)).0.expect("measures")
        };
        let sharp = look(&fitted(&one), &one);
        assert!(sharp.judge(&recipe().gate).is_ok(), "{sharp:?}");
        let mixed = levels(&[5.0, 5.05, 4.95, 5.0, 500.0, 505.0, 495.0, 500.0]);
        let dull = look(&fitted(&mixed), &mixed);
        let refusal = dull.judge(&recipe().gate).expect_err("blind");
        assert!(refusal.starts_with("blind: faults of 10 deviations go unseen in a (0.0 % seen), b"), "{refusal}");
    }

    #[test]
    fn left_out_segments_that_differ_alarm_and_alike_ones_do_not() {
        let judge = |dataset: &Dataset| {
            let (held_out, _) = with_watch(|watch| cross_validate(&recipe(), dataset, DeviceKind::Flex, watch));
            held_out.expect("measures").judge(&recipe().gate)
        };
        assert!(judge(&levels(&[5.0, 5.02, 4.98, 5.0])).is_ok());
        let refusal = judge(&levels(&[5.0, 50.0, 100.0])).expect_err("all differ");
        assert!(refusal.contains("false alarms on known-normal segments left out"), "{refusal}");
    }

    #[test]
    fn one_segment_is_too_little_evidence() {
        assert_eq!(
            enough_segments(&levels(&[5.0]), &recipe().gate),
            Err("too little evidence: 1 known-normal segment, at least 3 are needed".to_owned())
        );
    }
}
