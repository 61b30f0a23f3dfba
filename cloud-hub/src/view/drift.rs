//! Drift, as it is shown.

use serde::Serialize;
use shared::ids::{AgentId, ChannelName, ModelName, StreamId};
use utoipa::ToSchema;

use super::Timestamp;
use crate::core::HubCore;
use crate::core::drift::cause::Cause;
use crate::core::drift::{ChannelDrift, DriftAlarm, DriftWatch};

/// Drift over the fleet.
#[derive(Debug, Clone, PartialEq, Default, Serialize, ToSchema)]
pub struct DriftView {
    /// Alarms, oldest first.
    pub alarms: Vec<DriftAlarmView>,
    /// How far every watched stream is now.
    pub now: Vec<DriftNow>,
}

/// A stream that left what its model was trained on.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct DriftAlarmView {
    /// The model.
    #[schema(value_type = String)]
    pub model: ModelName,
    /// Its version.
    pub version: u32,
    /// The box.
    #[schema(value_type = String)]
    pub agent: AgentId,
    /// The stream.
    #[schema(value_type = String)]
    pub stream: StreamId,
    /// The time of the reading that raised it.
    pub raised: Timestamp,
    /// The time of the reading with which it was over.
    pub cleared: Option<Timestamp>,
    /// Readings on end that were too far away.
    pub rows_in_excess: u32,
    /// What it comes from.
    pub cause: Cause,
    /// The same, in words.
    pub because: String,
    /// What is compared: always `jensen_shannon_bits`.
    pub statistic: &'static str,
    /// Its channels.
    pub channels: Vec<ChannelNow>,
}

/// How far a stream is from what its model was trained on.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct DriftNow {
    /// The box.
    #[schema(value_type = String)]
    pub agent: AgentId,
    /// The stream.
    #[schema(value_type = String)]
    pub stream: StreamId,
    /// The version whose training data it is held against.
    pub against_version: u32,
    /// Whether an alarm is up.
    pub drifting: bool,
    /// Its channels.
    pub channels: Vec<ChannelNow>,
}

/// How far a channel is from the training data.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct ChannelNow {
    /// The channel.
    #[schema(value_type = String)]
    pub channel: ChannelName,
    /// Its Jensen-Shannon divergence from the training data in bits.
    pub divergence: f64,
    /// The divergence that it should stay below.
    pub threshold: f64,
    /// Whether it does not.
    pub excess: bool,
}

impl From<ChannelDrift> for ChannelNow {
    fn from(ChannelDrift { channel, divergence, threshold, excess }: ChannelDrift) -> Self {
        Self { channel, divergence, threshold, excess }
    }
}

pub(super) fn all(core: &HubCore) -> DriftView {
    DriftView {
        alarms: core.observed().alarms().map(show_alarm).collect(),
        now: core.observed().watches().map(show_watch).collect(),
    }
}

fn show_alarm(alarm: &DriftAlarm) -> DriftAlarmView {
    DriftAlarmView {
        model: alarm.model.clone(),
        version: alarm.version.0,
        agent: alarm.agent.clone(),
        stream: alarm.stream.clone(),
        raised: Timestamp(alarm.raised_ms),
        cleared: alarm.cleared_ms.map(Timestamp),
        rows_in_excess: alarm.rows,
        cause: alarm.cause.clone(),
        because: alarm.cause.in_words(),
        statistic: "jensen_shannon_bits",
        channels: alarm.channels.iter().cloned().map(ChannelNow::from).collect(),
    }
}

fn show_watch(((agent, stream), watch): (&(AgentId, StreamId), &DriftWatch)) -> DriftNow {
    DriftNow {
        agent: agent.clone(),
        stream: stream.clone(),
        against_version: watch.version().0,
        drifting: watch.is_raised(),
        channels: watch.channels().into_iter().map(ChannelNow::from).collect(),
    }
}
