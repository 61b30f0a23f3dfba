//! Training from the command line: the same fit as the hub's, on a folder of samples.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use shared::config::ConfigError;
use shared::device::DeviceKind;
use shared::event::UnixMillis;
use shared::ids::{Digest, ModelName, ModelVersion};
use shared::package::signature::ReleaseKey;

use crate::clock;
use crate::core::segments::Segments;
use crate::files::{self, FilesError, Skipped};
use crate::recipe::Recipe;
use crate::recipe::decision::RecipeDecision;
use crate::samples::{SampleStore, SamplesError, Series};
use crate::train::dataset::{Dataset, SegmentData};
use crate::train::examples::Bounds;
use crate::train::{self, Checkpoints, Order, TrainError, Watch, fit, gate, measure, pack};

/// What to train from what.
#[derive(Debug)]
pub struct OfflineTraining {
    /// The recipe's file.
    pub recipe: PathBuf,
    /// A hub's data folder (it holds `samples/`), a file with readings, or a folder of them.
    pub data: PathBuf,
    /// The package to write.
    pub output: PathBuf,
    /// The model's name.
    pub model: ModelName,
    /// The model's version.
    pub version: ModelVersion,
    /// The device to train on.
    pub device: DeviceKind,
    /// The seed, instead of the recipe's.
    pub seed: Option<u64>,
    /// Who vouches for the package.
    pub key: Option<ReleaseKey>,
    /// Until when.
    pub signed_until_ms: UnixMillis,
}

/// What came of it.
#[derive(Debug, Clone, PartialEq)]
pub struct OfflineSummary {
    /// The package.
    pub digest: Digest,
    /// Streams, or known-normal segments of them, that it was trained on.
    pub segments: usize,
    /// Readings in them.
    pub rows: u64,
    /// Figures by name.
    pub metrics: BTreeMap<String, f64>,
    /// Rows of files that were left out.
    pub skipped: Vec<Skipped>,
}

/// Why no package was made.
#[derive(Debug, thiserror::Error)]
pub enum OfflineError {
    /// The recipe is wrong.
    #[error("{0}")]
    Recipe(#[from] ConfigError),
    /// The samples cannot be read.
    #[error("{0}")]
    Samples(#[from] SamplesError),
    /// The files cannot be read.
    #[error("{0}")]
    Files(#[from] FilesError),
    /// Training broke.
    #[error("{0}")]
    Train(#[from] TrainError),
    /// The package cannot be written.
    #[error("write {path}: {source}")]
    Write {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// Keeps the checkpoint of a training beside the package it is to become.
pub struct CheckpointFile(PathBuf);

impl CheckpointFile {
    /// `<output>.partial`.
    #[must_use]
    pub fn beside(output: &Path) -> Self {
        let mut name = output.as_os_str().to_owned();
        name.push(".partial");
        Self(name.into())
    }

    /// Removes it: the package is there.
    pub fn remove(&self) {
        // There is none if training took no epochs; one that stays is of a task that is done, and is replaced.
        drop(std::fs::remove_file(&self.0));
    }
}

impl Checkpoints for CheckpointFile {
    fn load(&mut self) -> Option<Vec<u8>> {
        std::fs::read(&self.0).ok()
    }

    fn save(&mut self, bytes: &[u8]) -> io::Result<()> {
        write_whole(&self.0, bytes)
    }
}

/// Writes a file so that it is there whole or not at all.
fn write_whole(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut name = path.as_os_str().to_owned();
    name.push(".new");
    let new = PathBuf::from(name);
    let mut file = File::create(&new)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    std::fs::rename(&new, path)
}

/// Trains as the recipe says, and measures on what it holds back.
///
/// # Errors
/// If the recipe, the readings or the training are not sound.
pub fn train(options: &OfflineTraining, watch: &mut Watch<'_>) -> Result<OfflineSummary, OfflineError> {
    let mut recipe = Recipe::load(&options.recipe)?;
    recipe.training.seed = options.seed.unwrap_or(recipe.training.seed);
    let (dataset, skipped) = load(options, &recipe)?;
    let order = Order {
        model: options.model.clone(),
        version: options.version,
        champion: None,
        trigger: "trained from the command line".to_owned(),
        recipe: &recipe,
        device: options.device,
        now_ms: clock::unix_ms(),
        keys: options.key.iter().collect(),
        signed_until_ms: options.signed_until_ms,
    };
    let located = |error: TrainError| {
        if let TrainError::Pipeline(error) = error { recipe.locate(&error).into() } else { OfflineError::Train(error) }
    };
    let fitted = fit::fit(&recipe, &dataset, options.device, "training", watch).map_err(located)?;
    let bounds = Bounds::of(recipe.data.split.as_ref(), &dataset);
    let mut metrics = BTreeMap::new();
    if fitted.loss > 0.0 {
        metrics.insert("loss".to_owned(), fitted.loss);
    }
    if let RecipeDecision::Anomaly(_) = recipe.decision {
        if fitted.threshold() > 0.0 {
            metrics.insert("threshold".to_owned(), fitted.threshold());
        }
        let sight = gate::sight(&fitted, &dataset, &recipe, options.device, watch)?;
        if sight.is_measured() {
            metrics.insert("planted_faults_seen".to_owned(), sight.mean());
        }
    }
    for (part, within) in [("validation", bounds.validation()), ("test", bounds.test())] {
        let figures = measure::measure(&fitted, &dataset, &within, options.device)?;
        metrics.extend(figures.into_iter().map(|(name, value)| (format!("{part}_{name}"), value)));
    }
    let trained_on = dataset.until(bounds.train_end_ms);
    let package = pack::package(&order, &trained_on, fitted, &metrics)?;
    let sealed = package.seal(&order.keys, order.signed_until_ms).map_err(TrainError::from)?;
    write_whole(&options.output, &sealed.bytes)
        .map_err(|source| OfflineError::Write { path: options.output.clone(), source })?;
    Ok(OfflineSummary {
        digest: sealed.digest,
        segments: trained_on.segments.len(),
        rows: train::rows(&package.manifest.lineage.trained_on),
        metrics,
        skipped,
    })
}

fn load(options: &OfflineTraining, recipe: &Recipe) -> Result<(Dataset, Vec<Skipped>), OfflineError> {
    if !options.data.join("samples").is_dir() {
        return Ok(files::load(&options.data, recipe)?);
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|source| OfflineError::Write { path: options.data.clone(), source })?;
    let mut segments = Vec::new();
    runtime.block_on(async {
        let samples = SampleStore::open(&options.data)?;
        for range in samples.streams().await? {
            let series = samples.read(&range).await?;
            segments.extend(known_normal(&range, &series, recipe.retrain.min_segment_rows));
        }
        Ok::<_, OfflineError>(())
    })?;
    segments.sort_by_key(|segment| segment.range.from_ms);
    Ok((Dataset { segments }, Vec::new()))
}

/// Cuts a series into its known-normal segments, by the rule the live hub cuts by.
fn known_normal(range: &shared::package::DataRange, series: &Series, min_rows: u64) -> Vec<SegmentData> {
    let width = series.schema.channels.len();
    let mut segments = Segments::default();
    for (row, (time_ms, known_normal)) in series.times_ms.iter().zip(&series.known_normal).enumerate() {
        segments.add(row as u64, *time_ms, *known_normal);
    }
    segments
        .all()
        .filter(|segment| segment.rows >= min_rows)
        .map(|segment| {
            let rows = segment.first_position as usize..=segment.last_position as usize;
            SegmentData {
                range: shared::package::DataRange {
                    from_ms: segment.from_ms,
                    to_ms: segment.to_ms,
                    rows: segment.rows,
                    ..range.clone()
                },
                schema: series.schema.clone(),
                times_ms: series.times_ms[rows.clone()].to_vec(),
                values: series.values[rows.start() * width..(rows.end() + 1) * width].to_vec(),
                labels: Vec::new(),
            }
        })
        .collect()
}
