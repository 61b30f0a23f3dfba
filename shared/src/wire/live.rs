//! How a box is now, told ahead of its backlog.
//!
//! Events travel in one row, so that one word acknowledges all before it; what is new waits behind what is old. While it
//! does, the box sends pictures of what comes in beside the row. They promise nothing and count for nothing: each event
//! still comes in its place.

use serde::{Deserialize, Serialize};

use crate::event::{ModelRef, Outcome, StreamSchema, UnixMillis};
use crate::ids::Sequence;
use crate::limits::MAX_CHANNELS;

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
        if self.streams.iter().any(|stream| stream.schema.channels.len() > MAX_CHANNELS) {
            Some("a stream has more channels than it may have")
        } else if self.streams.iter().any(|stream| stream.values.len() != stream.schema.channels.len()) {
            Some("a stream has other values than channels")
        } else if predictions.into_iter().any(|prediction| !prediction.outcome.is_bounded()) {
            Some("a prediction is larger than one may be")
        } else {
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{ChannelName, ModelName, ModelVersion, StreamId};
    use crate::limits::MAX_FORECAST_VALUES;

    fn stream(channels: usize, values: usize) -> LiveStream {
        let channels = (0..channels).map(|index| ChannelName::new(&format!("c{index}")).expect("valid")).collect();
        let schema = StreamSchema { stream: StreamId::new("pump").expect("valid"), channels };
        LiveStream { schema, time_ms: 0, values: vec![0.0; values], prediction: None, alarm: None }
    }

    fn problem(stream: LiveStream) -> Option<&'static str> {
        LivePicture { next: Sequence(1), streams: vec![stream] }.inconsistency()
    }

    #[test]
    fn a_picture_that_contradicts_itself_or_a_limit_is_told_by_name() {
        assert_eq!(problem(stream(2, 2)), None);
        assert_eq!(problem(stream(2, 1)), Some("a stream has other values than channels"));
        let too_many = MAX_CHANNELS + 1;
        assert_eq!(problem(stream(too_many, too_many)), Some("a stream has more channels than it may have"));
        let model = ModelRef { name: ModelName::new("pump").expect("valid"), version: ModelVersion(1) };
        let outcome = Outcome::Forecast { values: vec![0.0; MAX_FORECAST_VALUES + 1] };
        let alarm = Some(LivePrediction { model, time_ms: 0, outcome });
        assert_eq!(problem(LiveStream { alarm, ..stream(1, 1) }), Some("a prediction is larger than one may be"));
    }
}
