//! How a box is now, told ahead of its backlog.
//!
//! Events travel in one row, so that one word acknowledges all before it; what is new waits behind what is old. While it
//! does, the box sends pictures of what comes in beside the row. They promise nothing and count for nothing: each event
//! still comes in its place.

use serde::{Deserialize, Serialize};

use crate::event::{ModelRef, Outcome, StreamSchema, UnixMillis};
use crate::ids::Sequence;

/// What changed since the picture before.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LivePicture {
    /// The next sequence that the box will give: what the hub does not have before it waits for its turn.
    pub next: Sequence,
    /// The streams that changed, those with an alarm first.
    pub streams: Vec<LiveStream>,
}

/// The newest of one stream.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LiveStream {
    /// Its name and channels.
    pub schema: StreamSchema,
    /// When its newest reading was measured.
    pub time_ms: UnixMillis,
    /// That reading, one value per channel.
    pub values: Vec<f64>,
    /// The newest prediction.
    pub prediction: Option<LivePrediction>,
    /// The newest anomalous prediction since the picture before: it may be over already.
    pub alarm: Option<LivePrediction>,
}

/// What a model said of a reading.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LivePrediction {
    /// The model.
    pub model: ModelRef,
    /// The reading's time.
    pub time_ms: UnixMillis,
    /// What it said.
    pub outcome: Outcome,
}

impl LivePicture {
    /// What contradicts itself in it.
    #[must_use]
    pub fn inconsistency(&self) -> Option<&'static str> {
        let predictions = self.streams.iter().flat_map(|stream| stream.prediction.iter().chain(&stream.alarm));
        if self.streams.iter().any(|stream| stream.values.len() != stream.schema.channels.len()) {
            Some("a stream has other values than channels")
        } else if predictions.into_iter().any(|prediction| !prediction.outcome.is_bounded()) {
            Some("a prediction is larger than one may be")
        } else {
            None
        }
    }
}
