//! The ledger, as it is shown: what boxes took in, and what became of every bit of it.

use std::collections::BTreeMap;

use serde::Serialize;
use shared::ids::{AgentId, StreamId};
use shared::wire::message::StreamLedger;
use utoipa::ToSchema;

use crate::core::HubCore;
use crate::core::observe::{StreamFacts, StreamKey};

/// Readings by agent and stream: what the agent says it accepted, and what is here. The hub takes every sequence once, so
/// what is here is delivered.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, ToSchema)]
pub struct LedgerView {
    /// By stream.
    pub streams: Vec<StreamLedgerView>,
    /// Where the hub's own log is.
    pub ingest_log: IngestLogView,
    /// Whether no training runs or waits.
    pub training_idle: bool,
    /// How often a picture of the hub was taken: a higher number is a newer picture.
    pub pictures: u64,
}

/// What became of a stream's readings.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct StreamLedgerView {
    /// The box.
    #[schema(value_type = String)]
    pub agent: AgentId,
    /// The stream.
    #[schema(value_type = String)]
    pub stream: StreamId,
    /// Readings that the box took in, as it says.
    pub accepted: Option<u64>,
    /// Those of them that it knows to be at the hub.
    pub delivered: Option<u64>,
    /// Readings that came to the box again, and were dropped there.
    pub duplicates_dropped_at_agent: Option<u64>,
    /// Readings that are still on the box.
    pub pending: Option<u64>,
    /// Readings that the box let go, by reason.
    pub dropped: Option<BTreeMap<String, u64>>,
    /// Readings at the hub.
    pub at_hub: u64,
    /// Readings that the hub knows to be gone, by reason.
    pub gone_at_hub: BTreeMap<String, u64>,
}

/// Positions in the hub's log.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, ToSchema)]
pub struct IngestLogView {
    /// Batches appended.
    pub appended: u64,
    /// Those of them that are durable.
    pub durable: u64,
    /// Those of them that are in the sample store.
    pub compacted: u64,
}

pub(super) fn all(core: &HubCore, pictures: u64) -> LedgerView {
    let (appended, durable, compacted) = core.positions();
    LedgerView {
        streams: core.observed().streams().map(|(key, facts)| show(core, key, facts)).collect(),
        ingest_log: IngestLogView { appended, durable, compacted },
        training_idle: core.retraining().is_idle(),
        pictures,
    }
}

fn show(core: &HubCore, (agent, stream): &StreamKey, facts: &StreamFacts) -> StreamLedgerView {
    let status = core.sessions().facts(agent).and_then(|known| known.status.as_ref());
    let said = status.and_then(|status| status.ledger.iter().find(|entry| entry.stream == *stream));
    StreamLedgerView {
        agent: agent.clone(),
        stream: stream.clone(),
        accepted: said.map(|entry| entry.accepted),
        delivered: said.map(|entry| entry.delivered),
        duplicates_dropped_at_agent: said.map(|entry| entry.duplicates),
        pending: said.map(StreamLedger::pending),
        dropped: said.map(|entry| entry.dropped.iter().cloned().collect()),
        at_hub: facts.readings,
        gone_at_hub: facts.dropped.iter().map(|(reason, count)| (reason.name().to_owned(), *count)).collect(),
    }
}
