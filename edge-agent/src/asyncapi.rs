//! The agent's side of MQTT as an AsyncAPI 3.0 document: what it publishes, for programs that generate clients and for people.
//! <https://www.asyncapi.com/docs/reference/specification/v3.0.0>

use serde_json::{Value, json};

/// The document.
#[must_use]
pub fn document() -> Value {
    json!({
        "asyncapi": "3.0.0",
        "info": {
            "title": "Tideline edge agent",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "What an agent publishes to its broker. What it takes in is its configuration's matter: any topic, in any \
                            of its formats.",
            "license": { "name": "MIT OR Apache-2.0" },
        },
        "defaultContentType": "application/json",
        "channels": {
            "prediction": channel(
                "tideline/{agent}/prediction/{stream}",
                "One answer for each reading, as soon as the model has it. An anomaly at QoS 1, the others at QoS 0 and, in MQTT 5, \
                 with an expiry of a minute; not retained; perhaps twice after a crash.",
                &[("agent", "The agent's name."), ("stream", "The stream's name, which may hold slashes.")],
                "prediction",
            ),
            "status": channel(
                "tideline/{agent}/status",
                "How the agent is, retained, at QoS 1, as often as `status.interval_ms` says.",
                &[("agent", "The agent's name.")],
                "status",
            ),
            "availability": channel(
                "tideline/{agent}/availability",
                "Whether the agent is there, retained; also its last will.",
                &[("agent", "The agent's name.")],
                "availability",
            ),
            "sparkplug": channel(
                "spBv1.0/{group}/{kind}/{agent}",
                "With `publish.sparkplug_group`: the agent as an edge node of Sparkplug B. At QoS 0, not retained; its death is a last \
                 will, at QoS 1. To NCMD with `Node Control/Rebirth` it answers with a birth.",
                &[
                    ("group", "The group that the configuration says."),
                    ("kind", "NBIRTH, NDATA or NDEATH."),
                    ("agent", "The agent's name."),
                ],
                "sparkplug",
            ),
        },
        "operations": {
            "publishPrediction": operation("prediction"),
            "publishStatus": operation("status"),
            "publishAvailability": operation("availability"),
            "publishSparkplug": operation("sparkplug"),
        },
        "components": {
            "messages": {
                "prediction": {
                    "title": "An answer of the model",
                    "headers": {
                        "type": "object",
                        "description": "User properties in MQTT 5.",
                        "properties": {
                            "model": { "type": "string" },
                            "model_version": { "type": "string", "description": "The version, in decimal." },
                        },
                    },
                    "payload": prediction(),
                },
                "status": { "title": "How the agent is", "payload": status() },
                "availability": {
                    "title": "Whether the agent is there",
                    "contentType": "text/plain",
                    "payload": { "type": "string", "enum": ["online", "offline"] },
                },
                "sparkplug": {
                    "title": "What the model says of each stream, as metrics",
                    "contentType": "application/octet-stream",
                    "payload": {
                        "type": "string",
                        "description": "A Sparkplug B payload, in Protocol Buffers. Metrics: `<stream>/anomaly`, `/score`, `/threshold`, \
                                        or `/label`, `/confidence`, `/sure`, or `/forecast`; `model` and `model_version`.",
                    },
                },
            },
        },
    })
}

fn channel(address: &str, description: &str, parameters: &[(&str, &str)], message: &str) -> Value {
    let parameters: serde_json::Map<String, Value> = parameters
        .iter()
        .map(|(name, description)| ((*name).to_owned(), json!({ "description": description })))
        .collect();
    json!({
        "address": address,
        "description": description,
        "parameters": parameters,
        "messages": { message: { "$ref": format!("#/components/messages/{message}") } },
    })
}

fn operation(channel: &str) -> Value {
    json!({ "action": "send", "channel": { "$ref": format!("#/channels/{channel}") } })
}

fn prediction() -> Value {
    json!({
        "type": "object",
        "required": ["time_ms", "stream", "sequence", "model", "version"],
        "properties": {
            "time_ms": { "type": "integer", "description": "When the reading was measured, in milliseconds since 1970." },
            "stream": { "type": "string" },
            "sequence": { "type": "integer", "description": "The reading's place among the agent's events." },
            "model": { "type": "string" },
            "version": { "type": "integer", "minimum": 1 },
            "score": { "type": "number", "description": "Of a model that finds anomalies: above `threshold` it is one." },
            "threshold": { "type": "number" },
            "anomaly": { "type": "boolean" },
            "label": { "type": "string", "description": "Of a model that classifies." },
            "confidence": { "type": "number", "minimum": 0, "maximum": 1 },
            "sure": { "type": "boolean" },
            "forecast": {
                "type": "array",
                "items": { "type": "number" },
                "description": "Of a model that forecasts: channel after channel, the next value first.",
            },
        },
    })
}

fn status() -> Value {
    let object = |description: &str| json!({ "type": "object", "description": description });
    json!({
        "type": "object",
        "required": ["agent", "release", "uptime_s", "hub", "broker", "readings", "predictions", "spool_bytes", "streams"],
        "properties": {
            "agent": { "type": "string" },
            "release": { "type": "string" },
            "uptime_s": { "type": "number" },
            "device": { "type": "string", "description": "What the model runs on." },
            "model": { "type": ["object", "null"], "description": "What serves: name, version, digest, and whether it is on trial." },
            "shadow": { "type": ["object", "null"], "description": "The version beside it that answers nobody, and what came of it." },
            "hub": object("Whether it is connected, by which transport, and what the trouble is."),
            "broker": object("Whether it is connected, in which MQTT, and what the trouble is."),
            "readings": object("accepted = delivered + pending + dropped; beside them duplicates, rejected by reason, held, overflowed."),
            "predictions": object("Answered, unanswered by reason, unpublished, and the mean time an answer takes."),
            "spool_bytes": { "type": "integer" },
            "spool_max_bytes": { "type": "integer", "description": "What the spool may take: with a budget for everything, what the rest leaves." },
            "gone_sequences": object("Events that are gone, by reason."),
            "streams": { "type": "array", "items": { "type": "object" }, "description": "The same counts for each stream." },
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_checked_in_is_what_the_agent_publishes() {
        let checked_in: Value = serde_json::from_str(include_str!("../../docs/asyncapi.json")).expect("JSON");
        assert_eq!(checked_in, document(), "write it anew: edge-agent asyncapi > docs/asyncapi.json");
    }

    #[test]
    fn every_reference_leads_somewhere() {
        let document = document();
        let text = document.to_string();
        let references = text.split("\"$ref\":\"#").skip(1).filter_map(|rest| rest.split('"').next());
        let mut count = 0;
        for reference in references {
            assert!(document.pointer(reference).is_some(), "{reference}");
            count += 1;
        }
        assert_eq!(count, 8);
    }
}
