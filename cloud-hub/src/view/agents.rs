//! Agents, as they are shown.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use shared::event::UnixMillis;
use shared::ids::{AgentId, ModelName};
use shared::wire::message::ShadowCounts;
use utoipa::ToSchema;

use super::Timestamp;
use super::attention::{self, Attention, OfStreams, Severity};
use crate::core::HubCore;
use crate::core::session::AgentFacts;

/// A box with the agent on it.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct AgentView {
    /// Its name, from its certificate.
    #[schema(value_type = String)]
    pub agent: AgentId,
    /// How it is, in one word.
    pub health: Health,
    /// What somebody should look at, the worst first.
    pub attention: Vec<Attention>,
    /// Whether it is connected.
    pub connected: bool,
    /// Whether more than one box uses its identity.
    pub has_twin: bool,
    /// When it was first seen.
    pub first_seen: Timestamp,
    /// When it was last heard of.
    pub last_seen: Timestamp,
    /// The agent's release.
    pub release: String,
    /// The device it runs models on: `flex`, `ndarray` or `wgpu`.
    pub device: String,
    /// The epoch of its spool.
    pub epoch: u64,
    /// The version that its own configuration pins it to.
    pub pinned: Option<u32>,
    /// What it serves.
    pub serving: Option<Serving>,
    /// The version it is to serve.
    pub wanted: Option<u32>,
    /// Events that it has and the hub has not, as far as it says.
    pub pending: u64,
    /// How the version does that runs in its shadow, if one does.
    pub shadow: Option<ShadowView>,
    /// Bytes in its spool.
    pub spool_bytes: Option<u64>,
    /// Its streams.
    pub streams: usize,
    /// Readings that got no prediction, by reason, since it started.
    pub unanswered: BTreeMap<String, u64>,
    /// Messages that were no readings, by reason, since it started.
    pub rejected: BTreeMap<String, u64>,
    /// Events that are gone, by reason.
    pub gone: BTreeMap<String, u64>,
}

/// How a box is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Health {
    /// It is connected, and nobody needs to look.
    Healthy,
    /// It is connected, and somebody should look.
    Attention,
    /// It is not connected.
    Offline,
}

/// A model in service on a box.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct Serving {
    /// The model.
    #[schema(value_type = String)]
    pub model: ModelName,
    /// Its version.
    pub version: u32,
    /// The package's BLAKE3 hash.
    pub digest: String,
}

/// What a version said in the shadow of another one, since the agent began to run it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct ShadowView {
    /// The package.
    pub digest: String,
    /// Readings that were answered meanwhile.
    pub readings: u64,
    /// Those of them that it saw.
    pub mirrored: u64,
    /// Those of them of which both versions said something.
    pub compared: u64,
    /// Those of them of which both said the same.
    pub agreed: u64,
    /// Those that it called anomalous.
    pub anomalous: u64,
    /// Those that the version in service called anomalous.
    pub served_anomalous: u64,
    /// Microseconds that it took for what it saw.
    pub busy_us: u64,
}

impl From<&ShadowCounts> for ShadowView {
    fn from(counts: &ShadowCounts) -> Self {
        let ShadowCounts { readings, mirrored, compared, agreed, anomalous, served_anomalous, busy_us, .. } = *counts;
        let digest = counts.digest.to_string();
        Self { digest, readings, mirrored, compared, agreed, anomalous, served_anomalous, busy_us }
    }
}

pub(super) fn all(core: &HubCore, now: UnixMillis) -> Vec<AgentView> {
    let streams = OfStreams::new(core);
    let mut shown: Vec<AgentView> = core.sessions().agents().map(|facts| show(core, &streams, facts, now)).collect();
    shown.sort_by(|a, b| a.agent.cmp(&b.agent));
    shown
}

fn show(core: &HubCore, streams: &OfStreams<'_>, facts: &AgentFacts, now: UnixMillis) -> AgentView {
    let (hello, status) = (&facts.hello, facts.status.as_ref());
    let attention = attention::of(core, streams, facts, now);
    let needs_somebody = attention.first().is_some_and(|worst| worst.severity > Severity::Note);
    AgentView {
        agent: facts.agent.clone(),
        health: match (facts.connected, needs_somebody) {
            (false, _) => Health::Offline,
            (true, true) => Health::Attention,
            (true, false) => Health::Healthy,
        },
        attention,
        connected: facts.connected,
        has_twin: facts.has_twin,
        first_seen: Timestamp(facts.first_seen_ms),
        last_seen: Timestamp(facts.last_seen_ms),
        release: hello.agent_version.clone(),
        device: hello.device.clone(),
        epoch: hello.epoch.0,
        pinned: hello.pinned.map(|version| version.0),
        serving: hello.serving.as_ref().map(|serving| Serving {
            model: serving.model.name.clone(),
            version: serving.model.version.0,
            digest: serving.digest.to_string(),
        }),
        wanted: wanted(core, &facts.agent),
        pending: core.newest().pending(&facts.agent, core.reached(facts)),
        shadow: status.and_then(|status| status.shadow.as_ref()).map(ShadowView::from),
        spool_bytes: status.map(|status| status.spool_bytes),
        streams: core.observed().streams_of(&facts.agent).count(),
        unanswered: counts(status.map(|status| &status.unanswered)),
        rejected: counts(status.map(|status| &status.rejected)),
        gone: counts(status.map(|status| &status.gone)),
    }
}

fn counts(by_reason: Option<&Vec<(String, u64)>>) -> BTreeMap<String, u64> {
    by_reason.into_iter().flatten().cloned().collect()
}

/// The version of its model that a box is to serve.
pub(super) fn wanted(core: &HubCore, agent: &AgentId) -> Option<u32> {
    let spec = core.specs().iter().find(|spec| spec.is_for(agent))?;
    core.registry().wanted(&spec.name, agent).map(|release| release.version.0)
}
