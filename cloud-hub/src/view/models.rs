//! Models and their versions, as they are shown.

use serde::Serialize;
use serde_json::Value;
use shared::ids::{AgentId, ModelName, StreamId};
use shared::package::DataRange;
use utoipa::ToSchema;

use super::Timestamp;
use crate::core::HubCore;
use crate::core::registry::Release;

/// A model and its versions.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct ModelView {
    /// Its name.
    #[schema(value_type = String)]
    pub model: ModelName,
    /// The streams that it answers: names, or beginnings that end in `*`.
    pub streams: Vec<String>,
    /// The boxes that it is for: names, or beginnings that end in `*`.
    pub boxes: Vec<String>,
    /// The version that boxes get.
    pub champion: Option<u32>,
    /// Boxes that serve each version now.
    pub serving: Vec<ServedBy>,
    /// Its versions, oldest first.
    pub versions: Vec<VersionView>,
}

/// How many boxes serve a version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct ServedBy {
    /// The version.
    pub version: u32,
    /// Boxes.
    pub boxes: usize,
}

/// A version of a model.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct VersionView {
    /// The model.
    #[schema(value_type = String)]
    pub model: ModelName,
    /// The version.
    pub version: u32,
    /// The package's BLAKE3 hash.
    pub digest: String,
    /// The package's size.
    pub bytes: u64,
    /// When it was made.
    pub created: Timestamp,
    /// The version that it was to be better than.
    pub parent: Option<u32>,
    /// Why it was made, in words.
    pub trigger: String,
    /// The readings that it was trained on.
    pub trained_on: Vec<RangeView>,
    /// Where it comes from and how it did, as the package says.
    #[schema(value_type = Object)]
    pub details: Value,
}

/// The readings of a stream over some time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct RangeView {
    /// The box.
    #[schema(value_type = String)]
    pub agent: AgentId,
    /// The stream.
    #[schema(value_type = String)]
    pub stream: StreamId,
    /// The first reading's time.
    pub from: Timestamp,
    /// The last reading's time.
    pub to: Timestamp,
    /// Readings.
    pub rows: u64,
}

/// A range of readings, as it is stored and shown.
#[must_use]
pub fn show_range(range: &DataRange) -> RangeView {
    let DataRange { agent, stream, from_ms, to_ms, rows } = range;
    let (from, to) = (Timestamp(*from_ms), Timestamp(*to_ms));
    RangeView { agent: agent.clone(), stream: stream.clone(), from, to, rows: *rows }
}

pub(super) fn show(core: &HubCore, name: &ModelName) -> ModelView {
    let spec = core.specs().iter().find(|spec| spec.name == *name);
    let mut serving = std::collections::BTreeMap::<u32, usize>::new();
    for facts in core.sessions().agents() {
        if let Some(served) = facts.hello.serving.as_ref().filter(|served| served.model.name == *name) {
            *serving.entry(served.model.version.0).or_default() += 1;
        }
    }
    ModelView {
        model: name.clone(),
        streams: spec.map(|spec| spec.streams.clone()).unwrap_or_default(),
        boxes: spec.map(|spec| spec.boxes.clone()).unwrap_or_default(),
        champion: core.registry().champion(name).map(|release| release.version.0),
        serving: serving.into_iter().map(|(version, boxes)| ServedBy { version, boxes }).collect(),
        versions: core.registry().versions(name).map(show_release).collect(),
    }
}

fn show_release(release: &Release) -> VersionView {
    VersionView {
        model: release.model.clone(),
        version: release.version.0,
        digest: release.digest.to_string(),
        bytes: release.bytes,
        created: Timestamp(release.created_ms),
        parent: release.parent.map(|version| version.0),
        trigger: release.trigger.clone(),
        trained_on: release.trained_on.iter().map(show_range).collect(),
        details: release.details.clone(),
    }
}
