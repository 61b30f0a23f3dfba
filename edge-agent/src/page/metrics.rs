//! The status as metrics, in Prometheus' text format.
//! <https://prometheus.io/docs/instrumenting/exposition_formats/#text-based-format>

use std::fmt::Write;

use serde_json::Value;

/// One metric: its name without the prefix, its type, what it is, where it stands in the status.
const NUMBERS: [(&str, &str, &str, &str); 15] = [
    ("uptime_seconds", "gauge", "Time since the agent's start", "/uptime_s"),
    ("readings_accepted_total", "counter", "Readings taken in", "/readings/accepted"),
    ("readings_delivered_total", "counter", "Readings that the hub has", "/readings/delivered"),
    ("readings_pending", "gauge", "Readings that the hub does not have yet", "/readings/pending"),
    ("readings_duplicates_total", "counter", "Messages that came twice", "/readings/duplicates"),
    ("messages_held_total", "counter", "Messages that were right and made no reading", "/readings/held"),
    ("messages_overflowed_total", "counter", "QoS 0 messages for which there was no room", "/readings/overflowed"),
    ("predictions_answered_total", "counter", "Readings that a model answered", "/predictions/answered"),
    (
        "predictions_unpublished_total",
        "counter",
        "Predictions that the broker did not take",
        "/predictions/unpublished",
    ),
    ("disk_written_bytes_total", "counter", "Bytes handed to the disk since the first start", "/disk/written_bytes"),
    ("log_lines_left_out_total", "counter", "Lines of the log that repeated others", "/log_lines_left_out"),
    ("crash_reports", "gauge", "Reports of crashes that are kept", "/crashes/reports"),
    ("spool_bytes", "gauge", "Bytes of the spool on the disk", "/spool_bytes"),
    ("spool_max_bytes", "gauge", "Bytes that the spool may take", "/spool_max_bytes"),
    ("model_version", "gauge", "The version in service, 0 if none is", "/model/version"),
];

/// Counts by reason.
const BY_REASON: [(&str, &str, &str); 3] = [
    ("readings_dropped_total", "Readings that are gone", "/readings/dropped"),
    ("messages_rejected_total", "Messages that were no reading", "/readings/rejected"),
    ("predictions_unanswered_total", "Readings that no model answered", "/predictions/unanswered"),
];

/// Whether something is so.
const YES_OR_NO: [(&str, &str, &str); 2] = [
    ("hub_connected", "Whether the hub is connected", "/hub/connected"),
    ("broker_connected", "Whether the broker is connected", "/broker/connected"),
];

/// The metrics of a status.
pub(super) fn of(status: &Value) -> String {
    let mut text = String::new();
    let head = |text: &mut String, name: &str, kind: &str, help: &str| {
        // Writing to a string does not fail.
        write!(text, "# HELP tideline_agent_{name} {help}.\n# TYPE tideline_agent_{name} {kind}\n").ok();
    };
    for (name, kind, help, place) in NUMBERS {
        let value = status.pointer(place).and_then(Value::as_f64).unwrap_or(0.0);
        head(&mut text, name, kind, help);
        writeln!(text, "tideline_agent_{name} {value}").ok();
    }
    for (name, help, place) in BY_REASON {
        head(&mut text, name, "counter", help);
        for (reason, count) in status.pointer(place).and_then(Value::as_object).into_iter().flatten() {
            writeln!(text, "tideline_agent_{name}{{reason=\"{reason}\"}} {count}").ok();
        }
    }
    for (name, help, place) in YES_OR_NO {
        let value = u8::from(status.pointer(place) == Some(&Value::Bool(true)));
        head(&mut text, name, "gauge", help);
        writeln!(text, "tideline_agent_{name} {value}").ok();
    }
    let mean_us = status.pointer("/predictions/mean_inference_us").and_then(Value::as_f64).unwrap_or(0.0);
    head(&mut text, "inference_mean_seconds", "gauge", "Mean time of an answer");
    writeln!(text, "tideline_agent_inference_mean_seconds {}", mean_us / 1e6).ok();
    head(
        &mut text,
        "safe_mode",
        "gauge",
        "Whether the agent runs without a model because it did not survive its starts",
    );
    writeln!(text, "tideline_agent_safe_mode {}", u8::from(status["safe_mode"].is_string())).ok();
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_status_becomes_metrics() {
        let status = json!({
            "uptime_s": 1.5, "readings": { "accepted": 7, "rejected": { "not_json": 2 } }, "hub": { "connected": true },
            "model": { "version": 3 }, "safe_mode": null,
        });
        let text = of(&status);
        for line in [
            "tideline_agent_uptime_seconds 1.5",
            "tideline_agent_readings_accepted_total 7",
            "tideline_agent_messages_rejected_total{reason=\"not_json\"} 2",
            "tideline_agent_hub_connected 1",
            "tideline_agent_broker_connected 0",
            "tideline_agent_model_version 3",
            "tideline_agent_safe_mode 0",
        ] {
            assert!(text.lines().any(|found| found == line), "{line}: {text}");
        }
    }
}
