//! Readings over some time, as they are shown: for plots, so dense, and cut into parts that hide no extreme.

use serde::Serialize;
use shared::ids::{AgentId, ChannelName, StreamId};
use utoipa::ToSchema;

use super::Timestamp;

/// A stream's readings over some time, in parts of the same length. Lists have one entry for each part in which there is
/// a reading or a prediction.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct ReadingsView {
    /// The box.
    #[schema(value_type = String)]
    pub agent: AgentId,
    /// The stream.
    #[schema(value_type = String)]
    pub stream: StreamId,
    /// The first time that was asked for.
    pub from: Timestamp,
    /// The last time that was asked for.
    pub to: Timestamp,
    /// How long a part is.
    pub part_ms: i64,
    /// Readings in all of them.
    pub readings: u64,
    /// Whether channels change within: then only the readings of the newest channels are shown.
    pub channels_changed: bool,
    /// When each part begins, in milliseconds since 1970.
    pub times_ms: Vec<i64>,
    /// Readings in each part.
    pub counts: Vec<u64>,
    /// Readings in each part that an operator vouched for.
    pub known_normal: Vec<u64>,
    /// The values of each channel.
    pub channels: Vec<ChannelReadings>,
    /// The greatest score in each part; null where nothing was said.
    pub score: Vec<Option<f64>>,
    /// The threshold of that score.
    pub threshold: Vec<Option<f64>>,
    /// Predictions in each part that were anomalous.
    pub anomalous: Vec<u64>,
    /// The version that said the newest in each part; null where nothing was said.
    pub version: Vec<Option<u32>>,
    /// The newest label in each part, of a model that classifies.
    pub label: Vec<Option<String>>,
}

/// A channel's values in each part; null where there is no number.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct ChannelReadings {
    /// The channel.
    #[schema(value_type = String)]
    pub channel: ChannelName,
    /// The least.
    pub min: Vec<Option<f64>>,
    /// The greatest.
    pub max: Vec<Option<f64>>,
    /// The mean.
    pub mean: Vec<Option<f64>>,
}
