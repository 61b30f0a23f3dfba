//! Versions: every one that was released, and which one serves.

use std::collections::BTreeMap;

use serde_json::Value;
use shared::drift::DriftReference;
use shared::event::UnixMillis;
use shared::ids::{Digest, ModelName, ModelVersion};
use shared::package::DataRange;
use shared::wire::message::ModelOffer;

/// A released version.
#[derive(Debug, Clone, PartialEq)]
pub struct Release {
    /// The model.
    pub model: ModelName,
    /// Its version.
    pub version: ModelVersion,
    /// The package.
    pub digest: Digest,
    /// The package's size.
    pub bytes: u64,
    /// When it was made.
    pub created_ms: UnixMillis,
    /// The version that served when it was made.
    pub parent: Option<ModelVersion>,
    /// Why it was made, in words.
    pub trigger: String,
    /// What it was trained on.
    pub trained_on: Vec<DataRange>,
    /// Lineage and metrics, as they are shown.
    pub details: Value,
    /// What its training data looked like.
    pub drift_reference: DriftReference,
}

impl Release {
    /// The offer of it to an agent.
    #[must_use]
    pub fn offer(&self) -> ModelOffer {
        ModelOffer { model: self.model.clone(), version: self.version, digest: self.digest, bytes: self.bytes }
    }
}

/// All versions of all models. The newest of a model is its champion.
#[derive(Debug, Default)]
pub struct Registry {
    models: BTreeMap<ModelName, BTreeMap<ModelVersion, Release>>,
}

impl Registry {
    /// A registry of these releases.
    #[must_use]
    pub fn new(releases: Vec<Release>) -> Self {
        let mut registry = Self::default();
        releases.into_iter().for_each(|release| registry.add(release));
        registry
    }

    pub(super) fn add(&mut self, release: Release) {
        self.models.entry(release.model.clone()).or_default().insert(release.version, release);
    }

    /// The version that agents should serve.
    #[must_use]
    pub fn champion(&self, model: &ModelName) -> Option<&Release> {
        self.models.get(model)?.values().next_back()
    }

    /// One version.
    #[must_use]
    pub fn version(&self, model: &ModelName, version: ModelVersion) -> Option<&Release> {
        self.models.get(model)?.get(&version)
    }

    /// Every version of a model, in order.
    pub fn versions(&self, model: &ModelName) -> impl Iterator<Item = &Release> {
        self.models.get(model).into_iter().flat_map(BTreeMap::values)
    }

    /// The number of the next version.
    #[must_use]
    pub fn next_version(&self, model: &ModelName) -> ModelVersion {
        ModelVersion(self.champion(model).map_or(0, |champion| champion.version.0) + 1)
    }

    /// Whether a package belongs to some version.
    #[must_use]
    pub fn knows(&self, digest: Digest) -> bool {
        self.models.values().flat_map(BTreeMap::values).any(|release| release.digest == digest)
    }
}
