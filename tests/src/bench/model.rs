//! The model that every subject runs, trained here by the code that trains on the hub.

use std::fs;
use std::path::Path;

use anyhow::{Context, bail};
use cloud_hub::recipe::Recipe;
use cloud_hub::train::dataset::{Dataset, SegmentData};
use cloud_hub::train::steps::Steps;
use cloud_hub::train::{self, Material, Order, Watch};
use demo::plant;
use edge_agent::artifacts::Artifacts;
use edge_agent::core::SlotState;
use edge_agent::store::sled::StateStore;
use shared::device::DeviceKind;
use shared::event::{ModelRef, StreamSchema};
use shared::ids::{AgentId, ModelName, ModelVersion};
use shared::package::{DataRange, Package, Sealed};
use shared::pipeline::weights::Weights;
use shared::pipeline::{Decision, Threshold};
use shared::wire::message::ServedModel;

/// A trained model and the readings it was trained on.
pub struct Model {
    /// The package.
    pub package: Package,
    /// Its bytes and digest.
    pub sealed: Sealed,
    /// The simulated plant's normal operation.
    pub segment: SegmentData,
}

impl Model {
    /// Trains on the simulated plant's normal operation.
    ///
    /// # Errors
    /// If training fails.
    pub fn train() -> anyhow::Result<Self> {
        Self::of(&Recipe::load(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/recipes/autoencoder.toml"))?)
    }

    /// Trains as `recipe` says.
    ///
    /// # Errors
    /// If training fails.
    pub fn of(recipe: &Recipe) -> anyhow::Result<Self> {
        let segment = segment()?;
        let cancelled = std::sync::atomic::AtomicBool::new(false);
        let mut watch =
            Watch { progress: &mut |_| {}, cancelled: &cancelled, checkpoint: None, steps: Steps::default() };
        let order = Order {
            model: ModelName::new("bench")?,
            version: ModelVersion(1),
            champion: None,
            trigger: "the benchmark".to_owned(),
            recipe,
            device: DeviceKind::Flex,
            now_ms: 0,
            keys: Vec::new(),
            signed_until_ms: 0,
        };
        let dataset = Dataset { segments: vec![segment.clone()] };
        let material = Material { name: "normal operation".to_owned(), since_position: 0, dataset };
        let made = train::run(&order, &[material], &mut watch)?;
        let (package, sealed, _) = made.blessed.context("train a first version")?;
        Ok(Self { package, sealed, segment })
    }

    /// Puts it into an agent's folder, as one that serves.
    ///
    /// # Errors
    /// If the disk fails.
    pub fn install(&self, state_directory: &Path) -> anyhow::Result<()> {
        let artifacts = Artifacts::open(&state_directory.join("models"))?;
        artifacts.store_chunk(self.sealed.digest, 0, &self.sealed.bytes)?;
        let (store, _) = StateStore::open(&state_directory.join("state"))?;
        let Package { manifest, .. } = &self.package;
        let model = ModelRef { name: manifest.model.clone(), version: manifest.version };
        let serving = Some(ServedModel { model, digest: self.sealed.digest });
        store.save_slot(&SlotState { serving, ..SlotState::default() })?;
        Ok(())
    }

    /// Writes it as JSON, for programs that know nothing of packages.
    ///
    /// # Errors
    /// If the disk fails.
    pub fn write_json(&self, path: &Path) -> anyhow::Result<()> {
        let weights: serde_json::Map<_, _> = Weights::from_safetensors(&self.package.weights)?
            .0
            .into_iter()
            .map(|(name, tensor)| (name, serde_json::json!(tensor.values)))
            .collect();
        let pipeline = &self.package.manifest.pipeline;
        let Decision::Anomaly { smooth, threshold: Threshold::Package { value: threshold }, .. } = pipeline.decision
        else {
            bail!("the peers know autoencoders with one threshold");
        };
        let model = serde_json::json!({
            "channels": self.channels(),
            "preprocess": pipeline.preprocess,
            "network": pipeline.network,
            "features": pipeline.input_shape()?.size(),
            "smooth": smooth,
            "threshold": threshold,
            "weights": weights,
        });
        fs::write(path, model.to_string()).with_context(|| format!("write {}", path.display()))
    }

    /// The channels' names.
    #[must_use]
    pub fn channels(&self) -> Vec<String> {
        self.segment.schema.channels.iter().map(ToString::to_string).collect()
    }

    /// The readings' values.
    #[must_use]
    pub fn rows(&self) -> Vec<Vec<f64>> {
        self.segment.rows().map(|(_, values)| values.to_vec()).collect()
    }
}

fn segment() -> anyhow::Result<SegmentData> {
    let scenario = plant::scenario(1);
    let rows = &scenario.phases[0].recordings[0].rows;
    let (first, last) = (rows.first().context("rows")?, rows.last().context("rows")?);
    Ok(SegmentData {
        range: DataRange {
            agent: AgentId::new("bench")?,
            stream: scenario.stream.clone(),
            from_ms: first.time_ms,
            to_ms: last.time_ms,
            rows: rows.len() as u64,
        },
        times_ms: rows.iter().map(|row| row.time_ms).collect(),
        values: rows.iter().flat_map(|row| row.values.iter().copied()).collect(),
        labels: Vec::new(),
        schema: StreamSchema { stream: scenario.stream, channels: scenario.channels },
    })
}
