//! Versions: every one that was made, which one serves, and how newer ones are rolled out.

use std::collections::BTreeMap;

use serde_json::Value;
use shared::drift::DriftReference;
use shared::event::UnixMillis;
use shared::ids::{AgentId, Digest, ModelName, ModelVersion};
use shared::package::DataRange;
use shared::wire::message::ModelOffer;

use super::rollout::{Rollout, RolloutState};

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

/// All versions of all models, and their rollouts.
#[derive(Debug, Default)]
pub struct Registry {
    models: BTreeMap<ModelName, BTreeMap<ModelVersion, Release>>,
    champions: BTreeMap<ModelName, ModelVersion>,
    rollouts: BTreeMap<i64, Rollout>,
}

impl Registry {
    /// A registry of these releases, champions and rollouts.
    #[must_use]
    pub fn new(releases: Vec<Release>, champions: Vec<(ModelName, ModelVersion)>, rollouts: Vec<Rollout>) -> Self {
        let mut registry = Self {
            champions: champions.into_iter().collect(),
            rollouts: rollouts.into_iter().map(|rollout| (rollout.id, rollout)).collect(),
            ..Self::default()
        };
        releases.into_iter().for_each(|release| registry.add(release));
        registry
    }

    /// Adds a version. A model's first one has nothing to be measured against, and is its champion at once.
    pub(super) fn add(&mut self, release: Release) {
        self.champions.entry(release.model.clone()).or_insert(release.version);
        self.models.entry(release.model.clone()).or_default().insert(release.version, release);
    }

    /// The package of a version has another size: it was signed by more. Gives the package.
    pub(super) fn resize(&mut self, model: &ModelName, version: ModelVersion, bytes: u64) -> Option<Digest> {
        let release = self.models.get_mut(model)?.get_mut(&version)?;
        release.bytes = bytes;
        Some(release.digest)
    }

    /// The version that boxes serve which are in no rollout.
    #[must_use]
    pub fn champion(&self, model: &ModelName) -> Option<&Release> {
        self.version(model, *self.champions.get(model)?)
    }

    /// Every rollout, in order.
    pub fn rollouts(&self) -> impl DoubleEndedIterator<Item = &Rollout> {
        self.rollouts.values()
    }

    /// The rollout of a model that is not over.
    #[must_use]
    pub fn rollout_of(&self, model: &ModelName) -> Option<&Rollout> {
        self.rollouts().rev().find(|rollout| rollout.model == *model && !rollout.state.is_over())
    }

    /// A version that is newer than the champion and was never rolled out.
    pub(super) fn unreleased(&self, model: &ModelName) -> Option<&Release> {
        let champion = self.champions.get(model)?;
        let newest = self.models.get(model)?.values().next_back()?;
        let is_known = self.rollouts().any(|rollout| rollout.model == *model && rollout.version == newest.version);
        (newest.version > *champion && !is_known).then_some(newest)
    }

    pub(super) fn next_rollout(&self) -> i64 {
        self.rollouts.last_key_value().map_or(0, |(id, _)| *id) + 1
    }

    /// Takes a rollout as it now stands. One that released its version makes it champion.
    pub(super) fn keep(&mut self, rollout: Rollout) {
        if rollout.state == RolloutState::Released {
            self.champions.insert(rollout.model.clone(), rollout.version);
        }
        self.rollouts.insert(rollout.id, rollout);
    }

    pub(super) fn rollout(&self, id: i64) -> Option<&Rollout> {
        self.rollouts.get(&id)
    }

    /// The version a box should serve.
    #[must_use]
    pub fn wanted(&self, model: &ModelName, agent: &AgentId) -> Option<&Release> {
        match self.rollout_of(model) {
            Some(rollout) => self.version(model, rollout.wants(agent)),
            None => self.champion(model),
        }
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
        let newest = self.models.get(model).and_then(|versions| versions.keys().next_back());
        ModelVersion(newest.map_or(0, |newest| newest.0) + 1)
    }

    /// Whether a package belongs to some version.
    #[must_use]
    pub fn knows(&self, digest: Digest) -> bool {
        self.models.values().flat_map(BTreeMap::values).any(|release| release.digest == digest)
    }
}
