//! Training: from known-normal readings to a candidate, and from a candidate to a verdict. It computes and nothing
//! else; readings come in, packages go out.

pub mod dataset;
mod descent;
pub mod examples;
pub mod fit;
pub mod gate;
pub mod measure;
pub mod pack;
mod ridge;
pub mod steps;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};

use shared::device::DeviceKind;
use shared::event::UnixMillis;
use shared::ids::{ModelName, ModelVersion};
use shared::package::signature::ReleaseKey;
use shared::package::{DataRange, LoadError, Package, PackageError, Sealed};
use shared::pipeline::PipelineError;
use shared::pipeline::preprocess::MissingChannel;
use shared::pipeline::runner::BuildError;
use shared::pipeline::weights::WeightsError;

use crate::core::retrain::CandidateReport;
use crate::recipe::Recipe;
use dataset::Dataset;
use steps::Steps;

/// What to make.
pub struct Order<'a> {
    /// The model.
    pub model: ModelName,
    /// The version a candidate will be.
    pub version: ModelVersion,
    /// The version in service, and its package.
    pub champion: Option<(ModelVersion, Package)>,
    /// Why, in words.
    pub trigger: String,
    /// The recipe.
    pub recipe: &'a Recipe,
    /// The device to train on.
    pub device: DeviceKind,
    /// The time, for the package.
    pub now_ms: UnixMillis,
    /// Who vouches for it.
    pub keys: Vec<&'a ReleaseKey>,
    /// Until when.
    pub signed_until_ms: UnixMillis,
}

/// Readings to train on.
#[derive(Debug)]
pub struct Material {
    /// What they are, in words.
    pub name: String,
    /// Where they start in the ingest log.
    pub since_position: u64,
    /// The readings.
    pub dataset: Dataset,
}

/// What came of it.
#[derive(Debug, Default)]
pub struct Made {
    /// What became of each candidate.
    pub candidates: Vec<CandidateReport>,
    /// Starts of selections whose candidates were blind.
    pub blind_since: Vec<u64>,
    /// The blessed candidate, and the start of its selection.
    pub blessed: Option<(Package, Sealed, u64)>,
}

/// How far it is.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Progress {
    /// What is being done, in words.
    pub stage: String,
    /// How much of this stage is done, from 0 to 1.
    pub done: f64,
    /// The loss of the last pass; NaN where there is none.
    pub loss: f64,
    /// The loss on validation data, if there are any.
    pub validation_loss: Option<f64>,
}

/// What a training reports to and is stopped by.
pub struct Watch<'a> {
    /// Takes progress.
    pub progress: &'a mut dyn FnMut(Progress),
    /// Set to stop.
    pub cancelled: &'a AtomicBool,
    /// Where a long training keeps what it has, to go on from.
    pub checkpoint: Option<&'a mut dyn Checkpoints>,
    /// The steps, and where what they come to is kept.
    pub steps: Steps<'a>,
}

/// Keeps the newest checkpoint of a training.
pub trait Checkpoints {
    /// The newest one, if there is any.
    fn load(&mut self) -> Option<Vec<u8>>;
    /// Keeps `bytes` in its place.
    ///
    /// # Errors
    /// If it cannot be kept.
    fn save(&mut self, bytes: &[u8]) -> std::io::Result<()>;
}

impl Watch<'_> {
    fn check(&self) -> Result<(), TrainError> {
        if self.cancelled.load(Ordering::Relaxed) { Err(TrainError::Cancelled) } else { Ok(()) }
    }
}

/// Why training broke.
#[derive(Debug, thiserror::Error)]
pub enum TrainError {
    /// There is nothing to train on.
    #[error("train: there are no readings to train on beyond the warm-up of {0} rows")]
    NoData(u32),
    /// It was told to stop.
    #[error("train: stopped")]
    Cancelled,
    /// The loss is no number any more.
    #[error("train: the loss is {loss} in epoch {epoch}; a smaller learning rate may help")]
    Diverged {
        /// When.
        epoch: u32,
        /// The loss.
        loss: f64,
    },
    /// What was reached cannot be kept, or gone on from.
    #[error("train: keep a checkpoint: {0}")]
    Checkpoint(String),
    /// The recipe does not fit the readings.
    #[error("fit the recipe to the readings: {0}")]
    Pipeline(#[from] PipelineError),
    /// A stream lacks a channel.
    #[error("fit the recipe to the readings: {0}")]
    Channel(#[from] MissingChannel),
    /// The network cannot be built.
    #[error("build the network: {0}")]
    Build(#[from] BuildError),
    /// The weights do not fit.
    #[error("build the network: {0}")]
    Weights(#[from] WeightsError),
    /// The device is not there.
    #[error("open the device: {0}")]
    Device(#[from] shared::device::DeviceError),
    /// The package cannot be made.
    #[error("make the package: {0}")]
    Package(#[from] PackageError),
    /// A package does not load.
    #[error("load the package: {0}")]
    Load(#[from] LoadError),
}

/// Trains on one selection after another, most data first, until the gate blesses a candidate.
///
/// # Errors
/// If training itself breaks; a candidate that is refused is no error.
pub fn run(order: &Order<'_>, materials: &[Material], watch: &mut Watch<'_>) -> Result<Made, TrainError> {
    let mut made = Made::default();
    for material in materials {
        let (mut report, verdict) = candidate(order, material, watch)?;
        report.steps = watch.steps.take();
        made.candidates.push(report);
        match verdict {
            Verdict::Blessed(package, sealed) => {
                made.blessed = Some((*package, sealed, material.since_position));
                break;
            }
            Verdict::Blind => made.blind_since.push(material.since_position),
            Verdict::Refused => {}
        }
    }
    Ok(made)
}

enum Verdict {
    Blessed(Box<Package>, Sealed),
    Blind,
    Refused,
}

/// Cheap tests come first: enough data, then sight, and cross-validation last.
fn candidate(
    order: &Order<'_>,
    material: &Material,
    watch: &mut Watch<'_>,
) -> Result<(CandidateReport, Verdict), TrainError> {
    let rules = &order.recipe.gate;
    let dataset = &material.dataset;
    let mut report = CandidateReport {
        selection: material.name.clone(),
        trained_on: dataset.ranges().cloned().collect(),
        blessed: false,
        reasons: Vec::new(),
        metrics: BTreeMap::new(),
        steps: Vec::new(),
    };
    let refused = |report: CandidateReport| Ok((report, Verdict::Refused));
    if order.champion.is_some()
        && let Err(reason) = gate::enough_segments(dataset, rules)
    {
        report.reasons.push(reason);
        return refused(report);
    }
    let fitted = fit::fit(order.recipe, dataset, order.device, "training", watch)?;
    report.metrics.insert("loss".into(), fitted.loss);
    report.metrics.insert("threshold".into(), fitted.threshold());
    let sight = gate::sight(&fitted, dataset, order.recipe, order.device, watch)?;
    report.metrics.insert("planted_faults_seen".into(), sight.mean());
    if order.champion.is_some() {
        match sight.judge(rules) {
            Ok(reason) => report.reasons.push(reason),
            Err(reason) => {
                report.reasons.push(reason);
                return Ok((report, Verdict::Blind));
            }
        }
    }
    match &order.champion {
        None => report.reasons.push("there is no version to be better than: the first one is taken".to_owned()),
        Some((version, champion)) => {
            let held_out = gate::cross_validate(order.recipe, dataset, order.device, watch)?;
            report.metrics.insert("held_out_false_alarm_rate".into(), held_out.false_alarm_rate());
            let against = gate::against_champion(&held_out, &sight, *version, champion, (dataset, order), watch)?;
            for verdict in [held_out.judge(rules), against.judge(rules)] {
                match verdict {
                    Ok(reason) => report.reasons.push(reason),
                    Err(reason) => {
                        report.reasons.push(reason);
                        return refused(report);
                    }
                }
            }
            report.metrics.extend(against.metrics());
        }
    }
    let package = pack::package(order, dataset, fitted, &report.metrics)?;
    let sealed = package.seal(&order.keys, order.signed_until_ms)?;
    report.blessed = true;
    Ok((report, Verdict::Blessed(Box::new(package), sealed)))
}

/// Rows of a range, for lineage.
#[must_use]
pub fn rows(ranges: &[DataRange]) -> u64 {
    ranges.iter().map(|range| range.rows).sum()
}
