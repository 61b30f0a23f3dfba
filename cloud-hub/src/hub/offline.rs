//! Training from the command line: the same fit as the hub's, on a folder of samples.

use std::fs::File;
use std::io::Write;
use std::path::PathBuf;

use shared::config::ConfigError;
use shared::device::DeviceKind;
use shared::ids::{Digest, ModelName, ModelVersion};

use crate::clock;
use crate::core::segments::Segments;
use crate::recipe::Recipe;
use crate::samples::{SampleStore, SamplesError, Series};
use crate::train::dataset::{Dataset, SegmentData};
use crate::train::{self, Order, TrainError, Watch, fit, gate, pack};

/// What to train from what.
#[derive(Debug, Clone)]
pub struct OfflineTraining {
    /// The recipe's file.
    pub recipe: PathBuf,
    /// A folder that holds `samples/`.
    pub data: PathBuf,
    /// The package to write.
    pub output: PathBuf,
    /// The model's name.
    pub model: ModelName,
    /// The device to train on.
    pub device: DeviceKind,
    /// The seed, instead of the recipe's.
    pub seed: Option<u64>,
}

/// What came of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OfflineSummary {
    /// The package.
    pub digest: Digest,
    /// Known-normal segments it was trained on.
    pub segments: usize,
    /// Readings in them.
    pub rows: u64,
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
    /// Training broke.
    #[error("{0}")]
    Train(#[from] TrainError),
    /// The package cannot be written.
    #[error("write {path}: {source}")]
    Write {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
}

/// Trains on every known-normal segment of every stream in the folder.
///
/// # Errors
/// If the recipe, the samples or the training are not sound.
pub fn train(options: &OfflineTraining, watch: &mut Watch<'_>) -> Result<OfflineSummary, OfflineError> {
    let mut recipe = Recipe::load(&options.recipe)?;
    recipe.training.seed = options.seed.unwrap_or(recipe.training.seed);
    let dataset = load(options, &recipe)?;
    let order = Order {
        model: options.model.clone(),
        version: ModelVersion(1),
        champion: None,
        trigger: "trained from the command line".to_owned(),
        recipe: &recipe,
        device: options.device,
        now_ms: clock::unix_ms(),
    };
    let fitted = fit::fit(&recipe, &dataset, options.device, "training", watch)?;
    let sight = gate::sight(&fitted, &dataset, &recipe, options.device)?;
    let metrics = [
        ("loss".to_owned(), fitted.loss),
        ("threshold".to_owned(), fitted.threshold()),
        ("planted_faults_seen".to_owned(), sight.mean()),
    ];
    let package = pack::package(&order, &dataset, fitted, &metrics.into())?;
    let sealed = package.seal().map_err(TrainError::from)?;
    let write = || {
        let mut file = File::create(&options.output)?;
        file.write_all(&sealed.bytes)?;
        file.sync_all()
    };
    write().map_err(|source| OfflineError::Write { path: options.output.clone(), source })?;
    Ok(OfflineSummary {
        digest: sealed.digest,
        segments: dataset.segments.len(),
        rows: train::rows(&package.manifest.lineage.trained_on),
    })
}

fn load(options: &OfflineTraining, recipe: &Recipe) -> Result<Dataset, OfflineError> {
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
    Ok(Dataset { segments })
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
            }
        })
        .collect()
}
