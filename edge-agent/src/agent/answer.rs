//! A prediction as MQTT clients get it.

use serde::Serialize;
use shared::event::{ModelRef, Outcome, Verdict};

use crate::core::Published;
use crate::ingest::packets::Properties;

/// How long an answer that all is well is of use; the spool has it for ever.
const NORMAL_EXPIRY_S: u32 = 60;

#[derive(Default, Serialize)]
struct Answer<'a> {
    time_ms: i64,
    stream: &'a str,
    sequence: u64,
    model: &'a str,
    version: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    score: Option<f32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    threshold: Option<f32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    anomaly: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    label: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    confidence: Option<f32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sure: Option<bool>,
    /// Channel after channel, the next value first.
    #[serde(skip_serializing_if = "Option::is_none")]
    forecast: Option<&'a [f32]>,
}

/// The prediction in JSON: `score`, `threshold` and `anomaly`, or `label`, `confidence` and `sure`, or `forecast`.
pub(super) fn to_json(prediction: &Published) -> Vec<u8> {
    let mut answer = Answer {
        time_ms: prediction.time_ms,
        stream: prediction.stream.as_str(),
        sequence: prediction.of.0,
        model: prediction.model.name.as_str(),
        version: prediction.model.version.0,
        ..Answer::default()
    };
    match &prediction.outcome {
        Outcome::Anomaly(Verdict { score, threshold, anomaly }) => {
            (answer.score, answer.threshold, answer.anomaly) = (Some(*score), Some(*threshold), Some(*anomaly));
        }
        Outcome::Label { label, confidence, sure } => {
            (answer.label, answer.confidence, answer.sure) = (Some(label.as_str()), Some(*confidence), Some(*sure));
        }
        Outcome::Forecast { values } => answer.forecast = Some(values),
    }
    // Names and numbers always have a JSON form.
    serde_json::to_vec(&answer).unwrap_or_default()
}

/// What is said of predictions of the newest model beside their content: of normal ones, and of anomalies.
#[derive(Default)]
pub(super) struct Beside(Option<(ModelRef, [Properties; 2])>);

impl Beside {
    /// What is said of a prediction. An anomaly is of use whenever it is read, a normal answer for a minute.
    pub(super) fn of(&mut self, model: &ModelRef, is_anomaly: bool) -> Properties {
        if self.0.as_ref().is_none_or(|(known, _)| known != model) {
            let version = model.version.0.to_string();
            let more = [("model", model.name.as_str()), ("model_version", version.as_str())];
            let both = [Some(NORMAL_EXPIRY_S), None].map(|expiry_s| Properties::of_json(expiry_s, &more));
            self.0 = Some((model.clone(), both));
        }
        let said = self.0.as_ref().map(|(_, both)| both[usize::from(is_anomaly)].clone());
        said.unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use shared::event::ModelRef;
    use shared::ids::{ModelName, ModelVersion, Sequence, StreamId};

    fn json(outcome: Outcome) -> String {
        let model = ModelRef { name: ModelName::new("pump").expect("valid"), version: ModelVersion(3) };
        let stream = StreamId::new("plant/pump1").expect("valid");
        let published = Published { stream, model, of: Sequence(7), time_ms: 1_000, outcome };
        String::from_utf8(to_json(&published)).expect("text")
    }

    #[test]
    fn every_kind_of_answer_has_its_own_fields() {
        let head = r#"{"time_ms":1000,"stream":"plant/pump1","sequence":7,"model":"pump","version":3,"#;
        let verdict = Verdict { score: 0.5, threshold: 1.0, anomaly: false };
        assert_eq!(json(Outcome::Anomaly(verdict)), format!(r#"{head}"score":0.5,"threshold":1.0,"anomaly":false}}"#));
        let label = Outcome::Label { label: "on".into(), confidence: 0.75, sure: true };
        assert_eq!(json(label), format!(r#"{head}"label":"on","confidence":0.75,"sure":true}}"#));
        assert_eq!(json(Outcome::Forecast { values: vec![1.0, 2.5] }), format!(r#"{head}"forecast":[1.0,2.5]}}"#));
    }
}
