//! What the tests are made of: names, models, readings and releases.

use shared::drift::{ChannelReference, DriftReference};
use shared::event::{
    Event as StoredEvent, EventBatch, ModelRef, Outcome, Prediction, Reading, StreamSchema, UnixMillis,
};
use shared::ids::{AgentId, ChannelName, Digest, Epoch, ModelName, ModelVersion, Sequence, StreamId};
use shared::package::DataRange;
use shared::wire::PROTOCOL_VERSION;
use shared::wire::message::Hello;

use crate::core::drift::DriftRules;
use crate::core::identities::BoxCertificate;
use crate::core::registry::Release;
use crate::core::retrain::RetrainRules;
use crate::core::rollout::evidence::StageMode;
use crate::core::rollout::{RolloutRules, Stage};
use crate::core::{CompactionRules, ModelSpec};

/// What a machine shows before anything changed.
pub(super) const NORMAL: f64 = 0.0;
/// What it shows at another operating point.
pub(super) const MOVED: f64 = 500.0;
/// Readings in excess on end before an alarm.
pub(super) const DRIFT_ROWS: u32 = 20;
/// Readings a segment needs to count.
pub(super) const SEGMENT_ROWS: u64 = 20;
pub(super) const COMPACTION: CompactionRules = CompactionRules { interval_ms: 1_000 };

pub(super) fn agent(name: &str) -> AgentId {
    AgentId::new(name).expect("valid")
}

pub(super) fn stream(name: &str) -> StreamId {
    StreamId::new(name).expect("valid")
}

pub(super) fn model(name: &str) -> ModelName {
    ModelName::new(name).expect("valid")
}

/// Two models: one for pumps, one for fans.
pub(super) fn specs() -> Vec<ModelSpec> {
    ["pump", "fan"]
        .map(|name| ModelSpec {
            name: model(name),
            streams: vec![format!("{name}/*")],
            boxes: vec!["*".to_owned()],
            drift: DriftRules { known_normal_rows: DRIFT_ROWS, rows: 100 },
            retrain: RetrainRules { growth: 0.1, min_segment_rows: SEGMENT_ROWS, cooldown_s: 0 },
            min_segments: 1,
            rollout: at_once(),
        })
        .into()
}

/// The same, and before them a model for the pumps of the boxes in the north.
pub(super) fn with_cohort() -> Vec<ModelSpec> {
    let mut specs = specs();
    specs.insert(0, ModelSpec { name: model("north-pump"), boxes: vec!["north-*".to_owned()], ..specs[0].clone() });
    specs
}

/// Every box gets a version at once.
pub(super) fn at_once() -> RolloutRules {
    let stage = Stage { percent: 100, boxes: Vec::new(), soak_ms: 0, approval: false, mode: StageMode::Serve };
    RolloutRules { stages: vec![stage], min_answers: 0, ..RolloutRules::default() }
}

pub(super) fn hello(epoch: Epoch, base: Sequence) -> Hello {
    Hello {
        protocol: PROTOCOL_VERSION,
        agent_version: "0.1.0".to_owned(),
        epoch,
        boot_nonce: 7,
        base,
        serving: None,
        pinned: None,
        device: "flex".to_owned(),
    }
}

/// A version trained on readings around `value`.
pub(super) fn release(of: &str, version: u32, value: f64, trained_on: Vec<DataRange>) -> Release {
    Release {
        model: model(of),
        version: ModelVersion(version),
        digest: Digest::of(format!("{of} {version}").as_bytes()),
        bytes: 1_000,
        created_ms: 0,
        parent: version.checked_sub(1).filter(|parent| *parent > 0).map(ModelVersion),
        trigger: "a test".to_owned(),
        trained_on,
        details: serde_json::Value::Null,
        drift_reference: reference(value),
    }
}

fn reference(value: f64) -> DriftReference {
    let values: Vec<f64> = (0..100).map(|index| value + f64::from(index)).collect();
    let mut channel = ChannelReference::fit(flow(), &values);
    channel.threshold = 0.3;
    DriftReference { channels: vec![channel], half_life: 20.0 }
}

pub(super) fn flow() -> ChannelName {
    ChannelName::new("flow").expect("valid")
}

/// The `index`th reading of a machine that runs at `value`, with its spread.
pub(super) fn reading(stream: u16, index: u64, time_ms: UnixMillis, value: f64, known_normal: bool) -> StoredEvent {
    let spread = (index * 37 % 100) as f64;
    StoredEvent::Reading(Reading { stream, time_ms, known_normal, id: index, values: vec![value + spread] })
}

pub(super) fn prediction(stream: u16, of: Sequence, time_ms: UnixMillis, anomaly: bool) -> StoredEvent {
    let outcome = Outcome::Anomaly(shared::event::Verdict { score: 1.0, threshold: 2.0, anomaly });
    StoredEvent::Prediction(Prediction { stream, model: 0, of, time_ms, outcome })
}

pub(super) fn batch(epoch: Epoch, first: Sequence, streams: &[StreamId], events: Vec<StoredEvent>) -> EventBatch {
    let streams =
        streams.iter().map(|stream| StreamSchema { stream: stream.clone(), channels: vec![flow()] }).collect();
    let models = vec![ModelRef { name: model("pump"), version: ModelVersion(1) }];
    EventBatch { epoch, first, streams, models, events }
}

/// A certificate that outlives every test.
pub(super) fn lasting() -> BoxCertificate {
    let digest = Digest::of(b"a certificate");
    BoxCertificate { digest, key: digest, not_after_ms: i64::MAX }
}
