//! Streams, as they are shown.

use std::collections::BTreeMap;

use serde::Serialize;
use shared::event::{Outcome, Verdict};
use shared::ids::{AgentId, ChannelName, ModelName, StreamId};
use utoipa::ToSchema;

use super::{Timestamp, finite};
use crate::core::HubCore;
use crate::core::newest::{NewestOf, Said};
use crate::core::observe::StreamFacts;

/// What one source of readings sent.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct StreamView {
    /// The box.
    #[schema(value_type = String)]
    pub agent: AgentId,
    /// The stream.
    #[schema(value_type = String)]
    pub stream: StreamId,
    /// Its channels, in order.
    #[schema(value_type = Vec<String>)]
    pub channels: Vec<ChannelName>,
    /// Readings at the hub.
    pub readings: u64,
    /// Those of them that an operator vouched for.
    pub known_normal: u64,
    /// The time of the newest reading at the hub.
    pub last_time: Option<Timestamp>,
    /// Known-normal segments.
    pub known_normal_segments: usize,
    /// Predictions by version.
    pub predictions: Vec<PredictionCountsView>,
    /// The newest that is known, which may be ahead of what is stored.
    pub newest: Option<NewestView>,
}

/// Predictions of one version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct PredictionCountsView {
    /// The version.
    pub version: u32,
    /// All.
    pub total: u64,
    /// Those that were anomalous.
    pub anomalous: u64,
}

/// The newest of a stream.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct NewestView {
    /// When it was measured.
    pub time: Timestamp,
    /// The values, by channel; null is no number.
    pub values: Vec<Option<f64>>,
    /// What was said of it.
    pub prediction: Option<SaidView>,
    /// The newest that was anomalous.
    pub alarm: Option<SaidView>,
    /// Whether what was before it is still to come.
    pub ahead_of_backlog: bool,
}

/// What a model said. Which fields there are depends on what kind of model it is.
#[derive(Debug, Clone, PartialEq, Default, Serialize, ToSchema)]
pub struct SaidView {
    /// How anomalous the reading is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub score: Option<f64>,
    /// The score from which it is called anomalous.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub threshold: Option<f64>,
    /// Whether it is called anomalous.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub anomaly: Option<bool>,
    /// Its class.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
    /// How sure the model is, from 0 to 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub confidence: Option<f64>,
    /// Whether that is sure enough.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sure: Option<bool>,
    /// The values to come, channel after channel.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub forecast: Option<Vec<Option<f64>>>,
    /// The model.
    pub model: String,
    /// Its version.
    pub version: u32,
    /// When the reading was measured.
    pub time: Option<Timestamp>,
}

/// Streams of which there is anything, and those that are only known from what boxes show ahead of a backlog.
pub(super) fn all(core: &HubCore) -> Vec<StreamView> {
    let of_none = StreamFacts::default();
    let mut all: BTreeMap<(&AgentId, &StreamId), &StreamFacts> =
        core.observed().streams().map(|((agent, stream), facts)| ((agent, stream), facts)).collect();
    for (agent, stream, _) in core.newest().all() {
        all.entry((agent, stream)).or_insert(&of_none);
    }
    all.into_iter().map(|((agent, stream), facts)| show(core, agent, stream, facts)).collect()
}

fn show(core: &HubCore, agent: &AgentId, stream: &StreamId, facts: &StreamFacts) -> StreamView {
    let newest = core.newest().of(agent, stream);
    let channels = newest.map(|newest| &newest.channels).filter(|_| facts.channels.is_empty());
    let counts = |(version, counts): (&u32, &crate::core::observe::PredictionCounts)| PredictionCountsView {
        version: *version,
        total: counts.total,
        anomalous: counts.anomalous,
    };
    StreamView {
        agent: agent.clone(),
        stream: stream.clone(),
        channels: channels.unwrap_or(&facts.channels).clone(),
        readings: facts.readings,
        known_normal: facts.known_normal,
        last_time: (facts.readings > 0).then_some(Timestamp(facts.last_time_ms)),
        known_normal_segments: facts.segments.all().count(),
        predictions: facts.predictions.iter().map(counts).collect(),
        newest: newest.map(|newest| {
            let reached = core.sessions().facts(agent).map(|facts| core.reached(facts)).unwrap_or_default();
            show_newest(newest, newest.told_before.is_some_and(|told_before| told_before > reached))
        }),
    }
}

fn show_newest(newest: &NewestOf, ahead_of_backlog: bool) -> NewestView {
    NewestView {
        time: Timestamp(newest.time_ms),
        values: newest.values.iter().map(|value| finite(*value)).collect(),
        prediction: newest.prediction.as_ref().map(SaidView::from),
        alarm: newest.alarm.as_ref().map(SaidView::from),
        ahead_of_backlog,
    }
}

impl SaidView {
    /// What a model said, of which nothing else is known.
    #[must_use]
    pub fn of(name: &ModelName, version: u32, outcome: &Outcome) -> Self {
        let mut shown = Self { model: name.to_string(), version, ..Self::default() };
        match outcome {
            Outcome::Anomaly(Verdict { score, threshold, anomaly }) => {
                (shown.score, shown.threshold) = (finite((*score).into()), finite((*threshold).into()));
                shown.anomaly = Some(*anomaly);
            }
            Outcome::Label { label, confidence, sure } => {
                (shown.label, shown.confidence) = (Some(label.clone()), finite((*confidence).into()));
                shown.sure = Some(*sure);
            }
            Outcome::Forecast { values } => {
                shown.forecast = Some(values.iter().map(|value| finite((*value).into())).collect());
            }
        }
        shown
    }
}

impl From<&Said> for SaidView {
    fn from(said: &Said) -> Self {
        let shown = Self::of(&said.model.name, said.model.version.0, &said.outcome);
        Self { time: Some(Timestamp(said.time_ms)), ..shown }
    }
}
