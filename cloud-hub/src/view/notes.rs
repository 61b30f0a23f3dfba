//! Alarms and labels, as they are shown.

use serde::Serialize;
use shared::ids::{AgentId, ModelName, StreamId};
use utoipa::ToSchema;

use super::{Timestamp, finite};
use crate::core::alarms::{Alarm, AlarmVerdict};
use crate::core::labels::{Label, LabelKind};

/// A stretch in which a stream was mostly called anomalous.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct AlarmView {
    /// Its name.
    pub id: String,
    /// The box.
    #[schema(value_type = String)]
    pub agent: AgentId,
    /// The stream.
    #[schema(value_type = String)]
    pub stream: StreamId,
    /// The model that said so.
    #[schema(value_type = String)]
    pub model: ModelName,
    /// Its version.
    pub version: u32,
    /// Whether it is up.
    pub is_up: bool,
    /// The time of the first anomalous reading.
    pub began: Timestamp,
    /// The time of the last one.
    pub last: Timestamp,
    /// Answers from the first to the last.
    pub answers: u64,
    /// Those of them that were anomalous.
    pub anomalous: u64,
    /// The greatest score.
    pub peak_score: Option<f64>,
    /// The threshold of that score.
    pub threshold: Option<f64>,
    /// What a person made of it; null if nobody has looked.
    pub review: Option<ReviewView>,
}

/// What a person made of an alarm.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct ReviewView {
    /// What it was.
    pub verdict: AlarmVerdict,
    /// What they had to say.
    pub comment: String,
    /// Who.
    pub by: String,
    /// When.
    pub at: Timestamp,
}

/// What somebody said of a stretch of readings.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct LabelView {
    /// Its name.
    pub id: String,
    /// The box.
    #[schema(value_type = String)]
    pub agent: AgentId,
    /// The stream.
    #[schema(value_type = String)]
    pub stream: StreamId,
    /// The first time.
    pub from: Timestamp,
    /// The last one.
    pub to: Timestamp,
    /// What it is.
    pub kind: LabelKind,
    /// What they had to say.
    pub comment: String,
    /// Who.
    pub by: String,
    /// When.
    pub at: Timestamp,
    /// Readings within, when it was made.
    pub readings: u64,
}

impl From<&Alarm> for AlarmView {
    fn from(alarm: &Alarm) -> Self {
        Self {
            id: alarm.id.clone(),
            agent: alarm.agent.clone(),
            stream: alarm.stream.clone(),
            model: alarm.model.clone(),
            version: alarm.version.0,
            is_up: !alarm.is_over,
            began: Timestamp(alarm.began_ms),
            last: Timestamp(alarm.last_ms),
            answers: alarm.answers,
            anomalous: alarm.anomalous,
            peak_score: finite(alarm.peak_score.into()),
            threshold: finite(alarm.threshold.into()),
            review: alarm.review.as_ref().map(|review| ReviewView {
                verdict: review.verdict,
                comment: review.comment.clone(),
                by: review.by.clone(),
                at: Timestamp(review.at_ms),
            }),
        }
    }
}

impl From<&Label> for LabelView {
    fn from(label: &Label) -> Self {
        Self {
            id: label.id.clone(),
            agent: label.agent.clone(),
            stream: label.stream.clone(),
            from: Timestamp(label.from_ms),
            to: Timestamp(label.to_ms),
            kind: label.kind,
            comment: label.comment.clone(),
            by: label.by.clone(),
            at: Timestamp(label.at_ms),
            readings: label.rows,
        }
    }
}
