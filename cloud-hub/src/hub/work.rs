//! The hub's long work, in tasks beside its loop: compaction and training.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use shared::package::signature::{NEVER, ReleaseKey};
use shared::package::{DataRange, Package};
use tokio::sync::{mpsc, oneshot, watch};
use tracing::{error, info};

use shared::event::SpoolEntry;
use shared::ids::{Digest, ModelName, ModelVersion};

use super::Hub;
use super::intake::{Brought, Intake, Taken};
use super::records;
use crate::artifacts::Artifacts;
use crate::clock;
use crate::config::ModelSection;
use crate::core::labels::{Label, LabelKind, Vouched};
use crate::core::retrain::curve::Curve;
use crate::core::retrain::{INTERRUPTED, RunOutcome, TrainingJob};
use crate::ingest_log::{Entry, Placed, Request};
use crate::samples::{Committed, SampleStore, Series};
use crate::step_files::StepFiles;
use crate::store::{CompactionPlan, Store};
use crate::train::dataset::{Dataset, SegmentData};
use crate::train::steps::{StepResults, Steps};
use crate::train::{self, Material, Order, Progress, TrainError, Watch};
use crate::view::LabelView;

/// The wait before a compaction that failed is tried again.
const COMPACTION_RETRY: Duration = Duration::from_secs(2);

/// What a task came to.
pub(super) enum Done {
    Compacted {
        to: u64,
    },
    Trained {
        run: i64,
        outcome: Box<RunOutcome>,
    },
    /// It was found out what lies where a label is.
    Labelled {
        labels: Result<Vec<Label>, String>,
        answer: oneshot::Sender<Result<Vec<LabelView>, String>>,
    },
    /// A package that was brought by hand was checked.
    Brought {
        taken: Result<Taken, String>,
        model: ModelName,
        answer: oneshot::Sender<Result<(ModelVersion, Digest), String>>,
    },
    /// The hub stops; what was begun is done again at the next start.
    GaveUp,
}

impl Hub {
    pub(super) fn compact(&mut self, from: u64, to: u64, snapshot: Vec<u8>) {
        let compaction = Compaction {
            plan: CompactionPlan { from, to, snapshot },
            store: self.store.clone(),
            samples: self.samples.clone(),
            log: self.log.clone(),
            stopping: Arc::clone(&self.training_cancelled),
        };
        let failures = self.telemetry.compaction_failures.clone();
        self.work.spawn(async move {
            loop {
                match compaction.once().await {
                    Ok(()) => return Done::Compacted { to },
                    Err(problem) => {
                        failures.inc();
                        error!(from, to, "failed to compact: {problem}; the same range is tried again");
                    }
                }
                if compaction.stopping.load(Ordering::Relaxed) {
                    return Done::GaveUp;
                }
                tokio::time::sleep(COMPACTION_RETRY).await;
            }
        });
    }

    /// Checks a package that was brought by hand.
    pub(super) fn take_in(
        &mut self,
        brought: Brought,
        bytes: Vec<u8>,
        answer: oneshot::Sender<Result<(ModelVersion, Digest), String>>,
    ) {
        let Some(model) = self.models.get(&brought.model) else {
            return;
        };
        let intake = Intake {
            artifacts: self.artifacts.clone(),
            samples: self.samples.clone(),
            recipe: model.recipe.clone(),
            trusted: self.trusted.clone(),
            vouched: self.core.labels().vouched(),
        };
        self.work.spawn(async move {
            let model = brought.model.clone();
            let taken = intake.take(brought, bytes).await;
            Done::Brought { taken, model, answer }
        });
    }

    pub(super) fn train(&mut self, job: TrainingJob) {
        let Some(model) = self.models.get(&job.model).cloned() else {
            return;
        };
        let training = TrainingTask {
            model,
            samples: self.samples.clone(),
            artifacts: self.artifacts.clone(),
            progress: self.progress.clone(),
            cancelled: Arc::clone(&self.training_cancelled),
            release_key: Arc::clone(&self.release_key),
            step_files: self.step_files.clone(),
        };
        info!(run = job.run, model = %job.model, trigger = job.trigger, "training");
        self.work.spawn(async move {
            let run = job.run;
            let outcome = training.run(job).await.unwrap_or_else(|reason| {
                error!(run, "failed to {reason}");
                let (candidates, blind_since, curve) = (vec![], vec![], Curve::default());
                RunOutcome { candidates, blind_since, released: None, failure: Some(reason), curve }
            });
            Done::Trained { run, outcome: Box::new(outcome) }
        });
    }
}

struct Compaction {
    plan: CompactionPlan,
    store: Store,
    samples: SampleStore,
    log: mpsc::Sender<Request>,
    stopping: Arc<AtomicBool>,
}

impl Compaction {
    /// Plan, write, finish: after a crash anywhere in between, the plan is carried out again with the same result.
    async fn once(&self) -> Result<(), String> {
        let CompactionPlan { from, to, .. } = self.plan;
        self.store.plan_compaction(&self.plan).await.map_err(|error| error.to_string())?;
        let (reply, entries) = oneshot::channel();
        let gone = || "the ingest log's thread is gone".to_owned();
        self.log.send(Request::Read { range: from..to, reply }).await.map_err(|_| gone())?;
        let entries = entries.await.map_err(|_| gone())?.map_err(|error| error.to_string())?;
        self.samples.write(from..to, &batches(entries)).await.map_err(|error| error.to_string())?;
        self.store.finish_compaction().await.map_err(|error| error.to_string())
    }
}

/// How far a training is.
#[derive(Debug, Clone, Default)]
pub(super) struct RunProgress {
    pub(super) newest: Progress,
    pub(super) curve: Curve,
}

impl RunProgress {
    fn add(&mut self, progress: Progress) {
        self.curve.add(&progress.stage, progress.loss, progress.validation_loss);
        self.newest = progress;
    }
}

/// What of the log goes into the sample store: gaps hold nothing.
pub(super) fn batches(entries: Vec<Placed>) -> Vec<Committed> {
    let batch = |(_, Entry { agent, entry }): Placed| match entry {
        SpoolEntry::Events(batch) => Some(Committed { agent, batch }),
        SpoolEntry::Gap(_) => None,
    };
    entries.into_iter().filter_map(batch).collect()
}

struct TrainingTask {
    model: ModelSection,
    samples: SampleStore,
    artifacts: Artifacts,
    progress: watch::Sender<BTreeMap<i64, RunProgress>>,
    cancelled: Arc<AtomicBool>,
    release_key: Arc<ReleaseKey>,
    step_files: StepFiles,
}

/// What steps of training come to is kept on the disk.
struct Results(StepFiles);

impl StepResults for Results {
    fn load(&mut self, key: Digest) -> Option<Vec<u8>> {
        self.0.load(key)
    }

    fn save(&mut self, key: Digest, bytes: &[u8]) {
        self.0.save(key, bytes);
    }
}

impl TrainingTask {
    async fn run(self, job: TrainingJob) -> Result<RunOutcome, String> {
        let mut materials = Vec::with_capacity(job.selections.len());
        for selection in &job.selections {
            let mut segments = Vec::with_capacity(selection.segments.len());
            for range in &selection.segments {
                let series = self.samples.read(range).await.map_err(|error| error.to_string())?;
                segments.push(known_normal(range, series, &job.vouched));
            }
            // What a fault covers whole is no segment.
            segments.retain(|segment| !segment.is_empty());
            segments.sort_by_key(|segment| segment.range.from_ms);
            materials.push(Material {
                name: selection.name.clone(),
                since_position: selection.since_position,
                dataset: Dataset { segments },
            });
        }
        tokio::task::spawn_blocking(move || self.compute(&job, &materials))
            .await
            .map_err(|error| format!("train: the worker failed: {error}"))?
    }

    fn compute(&self, job: &TrainingJob, materials: &[Material]) -> Result<RunOutcome, String> {
        let champion = match &job.champion {
            None => None,
            Some(champion) => {
                let bytes = self.artifacts.load(champion.digest).map_err(|error| error.to_string())?;
                let (package, _) = Package::open(&bytes, Some(champion.digest)).map_err(|error| error.to_string())?;
                Some((champion.version, package))
            }
        };
        let order = Order {
            model: job.model.clone(),
            version: job.version,
            champion,
            trigger: job.trigger.clone(),
            recipe: &self.model.recipe,
            device: self.model.device,
            now_ms: clock::unix_ms(),
            keys: vec![&self.release_key],
            // It can sign anew at any time whatever boxes take from it.
            signed_until_ms: NEVER,
        };
        let mut report = |progress: Progress| {
            self.progress.send_modify(|running| running.entry(job.run).or_default().add(progress));
        };
        let mut results = Results(self.step_files.clone());
        let (progress, steps) = (&mut report, Steps::kept(&mut results));
        let mut watch = Watch { progress, cancelled: &self.cancelled, checkpoint: None, steps };
        // It is stopped when the hub is, and goes on when that is back.
        let broken = |error: TrainError| {
            if matches!(error, TrainError::Cancelled) { INTERRUPTED.to_owned() } else { error.to_string() }
        };
        let made = train::run(&order, materials, &mut watch).map_err(broken)?;
        let released = match made.blessed {
            None => None,
            Some((package, sealed, since)) => {
                self.artifacts.store(sealed.digest, &sealed.bytes).map_err(|error| error.to_string())?;
                Some((records::release(&package, sealed.digest, sealed.bytes.len() as u64), since))
            }
        };
        let (candidates, blind_since) = (made.candidates, made.blind_since);
        Ok(RunOutcome { candidates, blind_since, released, failure: None, curve: Curve::default() })
    }
}

/// The readings of a range that somebody vouched for: with the reading itself or, later, with a label. What is labelled as a
/// fault is no material, whatever was said before.
pub(super) fn known_normal(range: &DataRange, series: Series, vouched: &[Vouched]) -> SegmentData {
    let of_stream = vouched.iter().filter(|said| (&said.key.0, &said.key.1) == (&range.agent, &range.stream));
    let labels: Vec<&Vouched> = of_stream.collect();
    let is_normal = |time_ms: i64, known_normal: bool| {
        let said = |kind| labels.iter().any(|l| l.kind == kind && (l.from_ms..=l.to_ms).contains(&time_ms));
        (known_normal || said(LabelKind::Normal)) && !said(LabelKind::Fault)
    };
    let width = series.schema.channels.len();
    let mut segment = SegmentData {
        range: range.clone(),
        schema: series.schema,
        times_ms: Vec::new(),
        values: Vec::new(),
        labels: Vec::new(),
    };
    let rows = series.times_ms.iter().enumerate();
    for (row, time_ms) in rows.filter(|(row, time_ms)| is_normal(**time_ms, series.known_normal[*row])) {
        segment.times_ms.push(*time_ms);
        segment.values.extend_from_slice(&series.values[row * width..(row + 1) * width]);
    }
    segment
}
