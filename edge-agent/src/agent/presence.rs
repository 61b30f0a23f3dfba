//! Being seen by software that looks for devices on the broker: Home Assistant, thin-edge.io, and hosts of Sparkplug B.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use shared::event::{Outcome, UnixMillis};
use shared::ids::{AgentId, Digest, StreamId};

use crate::clock::WallClock;
use crate::config::{Mqtt, Publish};
use crate::ingest::Outgoing;
use crate::ingest::edge_node::task::{self, Predictions, Task};
use crate::ingest::packets::{Delivery, Properties};
use crate::telemetry::Telemetry;
use crate::tls::TlsError;

/// Streams that are shown: a page of a household's system is no place for more.
pub(super) const MAX_SHOWN_STREAMS: usize = 256;

/// What is said of a stream's readings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Says {
    /// Whether they are anomalous.
    Anomaly,
    /// What they are.
    Label,
    /// What comes next.
    Forecast,
}

impl Says {
    pub(super) const fn of(outcome: &Outcome) -> Self {
        match outcome {
            Outcome::Anomaly(_) => Self::Anomaly,
            Outcome::Label { .. } => Self::Label,
            Outcome::Forecast { .. } => Self::Forecast,
        }
    }
}

/// The device with its entities, as Home Assistant's discovery takes it in one message.
/// <https://www.home-assistant.io/integrations/mqtt/#device-discovery-payload>
pub(super) fn home_assistant(agent: &AgentId, streams: &BTreeMap<StreamId, Says>) -> Outgoing {
    let device = format!("tideline_{}", slug(agent.as_str()));
    let status = format!("tideline/{agent}/status");
    let mut components = serde_json::Map::new();
    let mut add = |id: String, mut component: Value| {
        component["unique_id"] = json!(format!("{device}_{id}"));
        components.insert(id, component);
    };
    let diagnostic = |platform: &str, name: &str, template: &str| {
        json!({
            "p": platform, "name": name, "state_topic": status, "value_template": template,
            "entity_category": "diagnostic",
        })
    };
    add(
        "model".to_owned(),
        diagnostic("sensor", "Model", "{{ value_json.model.version if value_json.model else 'none' }}"),
    );
    let mut hub = diagnostic("binary_sensor", "Hub", "{{ 'ON' if value_json.hub.connected else 'OFF' }}");
    hub["device_class"] = json!("connectivity");
    add("hub".to_owned(), hub);
    let mut readings = diagnostic("sensor", "Readings", "{{ value_json.readings.accepted }}");
    readings["state_class"] = json!("total_increasing");
    add("readings".to_owned(), readings);
    for (stream, says) in streams.iter().take(MAX_SHOWN_STREAMS) {
        let topic = format!("tideline/{agent}/prediction/{stream}");
        let id = slug(stream.as_str());
        match says {
            Says::Anomaly => {
                add(
                    format!("{id}_anomaly"),
                    json!({
                        "p": "binary_sensor", "name": format!("{stream} anomaly"), "state_topic": topic,
                        "value_template": "{{ 'ON' if value_json.anomaly else 'OFF' }}", "device_class": "problem",
                    }),
                );
                add(
                    format!("{id}_score"),
                    json!({
                        "p": "sensor", "name": format!("{stream} score"), "state_topic": topic,
                        "value_template": "{{ value_json.score }}", "state_class": "measurement",
                    }),
                );
            }
            Says::Label => add(
                format!("{id}_label"),
                json!({
                    "p": "sensor", "name": format!("{stream} state"), "state_topic": topic,
                    "value_template": "{{ value_json.label }}",
                }),
            ),
            Says::Forecast => add(
                format!("{id}_forecast"),
                json!({
                    "p": "sensor", "name": format!("{stream} forecast"), "state_topic": topic,
                    "value_template": "{{ value_json.forecast[0] }}", "state_class": "measurement",
                }),
            ),
        }
    }
    let payload = json!({
        "dev": {
            "ids": device, "name": agent.as_str(), "mf": "Tideline", "mdl": "edge agent", "sw": env!("CARGO_PKG_VERSION"),
        },
        "o": { "name": "tideline", "sw": env!("CARGO_PKG_VERSION") },
        "availability_topic": format!("tideline/{agent}/availability"),
        "cmps": components,
        "qos": 1,
    });
    retained(format!("homeassistant/device/{device}/config"), &payload)
}

/// The agent as a service of thin-edge.io's main device, and that it is up.
/// <https://thin-edge.github.io/thin-edge.io/references/mqtt-api/>
pub(super) fn thin_edge(now_ms: UnixMillis) -> [Outgoing; 2] {
    let service = json!({ "@type": "service", "name": "tideline-edge", "type": "systemd" });
    [retained(THIN_EDGE_SERVICE.to_owned(), &service), thin_edge_health("up", now_ms)]
}

/// How the service is: `up` or `down`.
pub(super) fn thin_edge_health(status: &str, now_ms: UnixMillis) -> Outgoing {
    let health = json!({ "status": status, "pid": std::process::id(), "time": now_ms / 1_000 });
    retained(format!("{THIN_EDGE_SERVICE}/status/health"), &health)
}

const THIN_EDGE_SERVICE: &str = "te/device/main/service/tideline-edge";

/// The agent as an edge node of Sparkplug B, if it is to be one: where it takes predictions from, and the task to run.
pub(super) fn edge_node(
    publish: &Publish,
    mqtt: &Mqtt,
    agent: &AgentId,
    password: Option<String>,
    (clock, telemetry): (&WallClock, &Telemetry),
    seed: u64,
) -> Result<Option<(Predictions, Task)>, TlsError> {
    let group = publish.sparkplug_group.as_ref();
    group.map(|group| task::open(mqtt, group, agent, password, clock.clone(), telemetry.clone(), seed)).transpose()
}

fn retained(topic: String, payload: &Value) -> Outgoing {
    Outgoing {
        topic,
        payload: payload.to_string().into_bytes(),
        properties: Properties::of_json(None, &[]),
        retain: true,
        delivery: Delivery::AtLeastOnce,
    }
}

/// A name of letters, digits, `_` and `-`, different for different texts.
fn slug(text: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    if text.chars().all(is_plain) {
        return text.to_owned();
    }
    let plain: String = text.chars().map(|c| if is_plain(c) { c } else { '_' }).collect();
    let [first, second, third, ..] = Digest::of(text.as_bytes()).0;
    format!("{plain}_{first:02x}{second:02x}{third:02x}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stream(name: &str) -> StreamId {
        StreamId::new(name).expect("valid")
    }

    #[test]
    fn a_device_is_described_as_home_assistants_documentation_asks() {
        let agent = AgentId::new("pump-box.1").expect("valid");
        let streams = BTreeMap::from([
            (stream("line1/pump3"), Says::Anomaly),
            (stream("load"), Says::Forecast),
            (stream("room"), Says::Label),
        ]);
        let message = home_assistant(&agent, &streams);
        let (prefix, rest) = message.topic.split_once("/device/").expect("a device's topic");
        let id = rest.strip_suffix("/config").expect("a configuration's topic");
        assert!(prefix == "homeassistant" && id.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-'));
        assert!(message.retain);
        let payload: Value = serde_json::from_slice(&message.payload).expect("JSON");
        // `make test-home-assistant` has Home Assistant's own schemas say what they think of these.
        let sample: Value = serde_json::from_str(include_str!("../../../tests/clients/discovery.json")).expect("JSON");
        assert_eq!(payload, sample, "{payload:#}");
        // `dev` takes identifiers, `o` a name, every component a platform and an id of its own.
        assert!(payload["dev"]["ids"].is_string() && payload["o"]["name"].is_string());
        assert_eq!(payload["availability_topic"], "tideline/pump-box.1/availability");
        let components = payload["cmps"].as_object().expect("components");
        let mut ids: Vec<&str> = components.values().filter_map(|component| component["unique_id"].as_str()).collect();
        assert_eq!(ids.len(), components.len());
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), 7, "{payload}");
        for component in components.values() {
            let platform = component["p"].as_str().expect("a platform");
            assert!(["sensor", "binary_sensor"].contains(&platform));
            assert!(component["state_topic"].as_str().is_some_and(|topic| topic.starts_with("tideline/pump-box.1/")));
            assert!(component["value_template"].as_str().is_some_and(|template| template.starts_with("{{ ")));
        }
        let anomaly = components.iter().find(|(id, _)| id.ends_with("_anomaly")).expect("an anomaly").1;
        assert_eq!(anomaly["state_topic"], "tideline/pump-box.1/prediction/line1/pump3");
    }

    #[test]
    fn different_names_stay_different() {
        assert_eq!(slug("pump-3"), "pump-3");
        assert_ne!(slug("a/b"), slug("a.b"));
        assert!(slug("a/b").starts_with("a_b_"));
    }

    #[test]
    fn a_service_of_thin_edge_is_up_and_down() {
        let [service, health] = thin_edge(1_700_000_000_500);
        assert_eq!(service.topic, "te/device/main/service/tideline-edge");
        let health: Value = serde_json::from_slice(&health.payload).expect("JSON");
        assert_eq!((&health["status"], &health["time"]), (&json!("up"), &json!(1_700_000_000)));
    }
}
