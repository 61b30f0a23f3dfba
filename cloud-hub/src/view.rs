//! What the HTTP interface shows: a picture of the core's state, made anew when it changed. The types are the interface's
//! schemas: what is written here is what the OpenAPI document says.

mod agents;
mod attention;
mod drift;
pub mod histograms;
mod history;
pub mod identities;
mod ledger;
mod models;
mod notes;
mod overview;
pub mod programs;
mod readings;
mod rollouts;
mod runs;
mod streams;

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde::{Serialize, Serializer};
use shared::event::UnixMillis;
use shared::ids::{AgentId, ModelName};
use utoipa::openapi::schema::{KnownFormat, ObjectBuilder, SchemaFormat, Type};
use utoipa::openapi::{RefOr, Schema};
use utoipa::{PartialSchema, ToSchema};

pub use agents::{AgentView, Health, Serving, ShadowView};
pub use attention::{Attention, Severity};
pub use drift::{ChannelNow, DriftAlarmView, DriftNow, DriftView};
pub use histograms::{ChannelHistograms, HistogramsView};
pub use history::HistoryView;
pub use identities::{AskView, EnrolTokenView, IdentityState, IdentityView};
pub use ledger::{IngestLogView, LedgerView, StreamLedgerView};
pub use models::{ModelView, RangeView, VersionView, show_range};
pub use notes::{AlarmView, LabelView, ReviewView};
pub use overview::{FleetMap, HealthCounts, ModelShare, Overview};
pub use readings::{ChannelReadings, ReadingsView};
pub use rollouts::{RolloutBox, RolloutView, SaidAt};
pub use runs::{CandidateView, ProgressView, RunStateView, RunView};
pub use streams::{NewestView, PredictionCountsView, SaidView, StreamView};

use crate::core::HubCore;
use crate::train::Progress;

/// A picture of the hub.
#[derive(Debug, Clone, Default)]
pub struct View {
    /// Agents, by name.
    pub agents: Vec<AgentView>,
    /// Streams, by agent and name.
    pub streams: Vec<StreamView>,
    /// Models with their versions, by name.
    pub models: Vec<(ModelName, ModelView)>,
    /// Drift: alarms and how far every channel is now.
    pub drift: DriftView,
    /// Training runs, oldest first.
    pub runs: Vec<RunView>,
    /// Rollouts, oldest first.
    pub rollouts: Vec<RolloutView>,
    /// The ledger.
    pub ledger: LedgerView,
    /// The fleet in figures.
    pub overview: Overview,
    /// Whether agents can deliver.
    pub ready: bool,
}

/// Takes a picture, when `pictures` were taken before it.
#[must_use]
pub fn picture(core: &HubCore, now: UnixMillis, progress: &BTreeMap<i64, Progress>, pictures: u64) -> View {
    let agents = agents::all(core, now);
    View {
        streams: streams::all(core),
        models: core.specs().iter().map(|spec| (spec.name.clone(), models::show(core, &spec.name))).collect(),
        drift: drift::all(core),
        runs: core.retraining().runs().map(|run| runs::show(run, progress)).collect(),
        rollouts: rollouts::newest(core),
        ledger: ledger::all(core, pictures),
        overview: overview::of(core, now, &agents),
        agents,
        ready: true,
    }
}

impl View {
    /// The agent of this name.
    #[must_use]
    pub fn agent(&self, name: &str) -> Option<&AgentView> {
        let index = self.agents.binary_search_by(|agent| agent.agent.as_str().cmp(name)).ok()?;
        self.agents.get(index)
    }

    /// The streams of an agent.
    pub fn streams_of(&self, agent: &AgentId) -> impl Iterator<Item = &StreamView> {
        self.streams.iter().filter(move |stream| stream.agent == *agent)
    }
}

/// A point in time, shown in RFC 3339, UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Timestamp(pub UnixMillis);

/// 0000-01-01 and the last millisecond of 9999 since 1970: what RFC 3339 can say.
const TIMES_MS: std::ops::RangeInclusive<i64> = -62_167_219_200_000..=253_402_300_799_999;

impl std::fmt::Display for Timestamp {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // A source with a broken clock can say anything.
        let ms = self.0.clamp(*TIMES_MS.start(), *TIMES_MS.end());
        let time = chrono::DateTime::from_timestamp_millis(ms).unwrap_or_default();
        f.write_str(&time.to_rfc3339_opts(chrono::SecondsFormat::Millis, true))
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl PartialSchema for Timestamp {
    fn schema() -> RefOr<Schema> {
        let format = SchemaFormat::KnownFormat(KnownFormat::DateTime);
        ObjectBuilder::new().schema_type(Type::String).format(Some(format)).into()
    }
}

impl ToSchema for Timestamp {
    fn name() -> Cow<'static, str> {
        "Timestamp".into()
    }
}

/// A number that may be none: JSON has no NaN and no infinity.
fn finite(value: f64) -> Option<f64> {
    value.is_finite().then_some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_shown_in_utc_and_a_broken_clock_as_the_nearest_that_can_be_said() {
        assert_eq!(Timestamp(1_700_000_000_123).to_string(), "2023-11-14T22:13:20.123Z");
        assert_eq!(Timestamp(i64::MAX).to_string(), "9999-12-31T23:59:59.999Z");
        assert_eq!(Timestamp(i64::MIN).to_string(), "0000-01-01T00:00:00.000Z");
    }
}
