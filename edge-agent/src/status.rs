//! How an agent is, in JSON: published to MQTT, and handed out on a local socket to `edge-agent status`.

use std::io::{self, Read};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};
use shared::event::{StreamSchema, UnixMillis};
use shared::ids::AgentId;
use tokio::io::AsyncWriteExt;
use tokio::net::UnixListener;
use tokio::sync::watch;
use tracing::warn;

use crate::agent::AgentError;
use crate::core::{EdgeCore, Millis};
use crate::ingest::packets::Version;
use crate::telemetry::Telemetry;

/// Bytes of a rejected message that are kept: enough to see what it was.
pub const REJECTED_PAYLOAD_BYTES: usize = 512;
/// Bytes of a status: a thousand streams and the rejected messages.
const MAX_STATUS_BYTES: u64 = 4 * 1024 * 1024;
/// A running agent answers at once.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(3);

/// A message that was no reading.
#[derive(Debug, Clone)]
pub struct Rejected {
    /// When it came.
    pub time_ms: UnixMillis,
    /// Its topic.
    pub topic: String,
    /// The beginning of its content.
    pub payload: String,
    /// What was wrong, in words.
    pub problem: String,
}

impl Rejected {
    pub(crate) fn to_json(&self) -> Value {
        json!({ "time_ms": self.time_ms, "topic": self.topic, "payload": self.payload, "problem": self.problem })
    }
}

/// The agent's state.
#[must_use]
pub fn report(
    agent: &AgentId,
    device: &str,
    core: &EdgeCore,
    telemetry: &Telemetry,
    uptime: Millis,
    safe_mode: Option<&str>,
) -> Value {
    let status = core.status();
    let counters = telemetry.snapshot();
    let total = |of: fn(&shared::wire::message::StreamLedger) -> u64| status.ledger.iter().map(of).sum::<u64>();
    let mut dropped = std::collections::BTreeMap::new();
    for (reason, count) in status.ledger.iter().flat_map(|entry| &entry.dropped) {
        *dropped.entry(reason.as_str()).or_insert(0) += count;
    }
    let counts = |counts: &[(String, u64)]| counts.iter().cloned().collect::<std::collections::BTreeMap<_, _>>();
    json!({
        "agent": agent.as_str(),
        "release": env!("CARGO_PKG_VERSION"),
        "uptime_s": uptime.as_seconds(),
        "safe_mode": safe_mode,
        "device": counters.device.map_or_else(|| device.to_owned(), |device| device.to_string()),
        "model": core.serving().map(|serving| json!({
            "name": serving.model.name.as_str(),
            "version": serving.model.version.0,
            "digest": serving.digest.to_string(),
            "on_trial": core.is_on_trial(),
        })),
        "shadow": core.shadow().running().zip(status.shadow).map(|(shadow, counts)| json!({
            "name": shadow.offer.model.as_str(),
            "version": shadow.offer.version.0,
            "percent": shadow.percent,
            "readings": counts.readings,
            "mirrored": counts.mirrored,
            "compared": counts.compared,
            "agreed": counts.agreed,
            "anomalous": counts.anomalous,
            "served_anomalous": counts.served_anomalous,
        })),
        "hub": {
            "connected": core.is_connected(),
            "transport": counters.hub_transport.map(crate::telemetry::HubTransport::name),
            "problem": core.hub_problem(),
        },
        "broker": {
            "connected": counters.broker.version.is_some(),
            "mqtt": counters.broker.version.map(Version::name),
            "problem": counters.broker.problem,
        },
        "readings": {
            "accepted": total(|entry| entry.accepted),
            "delivered": total(|entry| entry.delivered),
            "pending": total(shared::wire::message::StreamLedger::pending),
            "dropped": dropped,
            "duplicates": total(|entry| entry.duplicates),
            "rejected": counts(&status.rejected),
            "held": core.held_count(),
            "overflowed": counters.overflowed,
        },
        "predictions": {
            "answered": core.answered_count(),
            "unanswered": counts(&status.unanswered),
            "unpublished": counters.unpublished,
            "mean_inference_us": counters.inference_us,
        },
        "spool_bytes": status.spool_bytes,
        "spool_max_bytes": core.spool_max_bytes(),
        "gone_sequences": counts(&status.gone),
        "streams": status.ledger.iter().map(|entry| json!({
            "stream": entry.stream.as_str(),
            "accepted": entry.accepted,
            "delivered": entry.delivered,
            "pending": entry.pending(),
            "dropped": counts(&entry.dropped),
            "duplicates": entry.duplicates,
        })).collect::<Vec<_>>(),
    })
}

/// Streams whose newest reading is shown.
const SHOWN_STREAMS: usize = 256;

/// The newest readings, for whoever stands in front of the box.
#[must_use]
pub fn newest<'a>(newest: impl Iterator<Item = (&'a StreamSchema, UnixMillis, &'a [f64])>) -> Value {
    let stream = |(schema, time_ms, values): (&StreamSchema, UnixMillis, &[f64])| {
        let channels = schema.channels.iter().map(|channel| channel.as_str().to_owned());
        let values: serde_json::Map<String, Value> = channels.zip(values.iter().map(|value| json!(value))).collect();
        json!({ "stream": schema.stream.as_str(), "time_ms": time_ms, "values": values })
    };
    newest.take(SHOWN_STREAMS).map(stream).collect()
}

/// The task that hands the newest status to whoever connects to the socket, until the other side of `status` is gone.
///
/// # Errors
/// If the socket cannot be made.
pub(crate) async fn serve(
    directory: PathBuf,
    mut status: watch::Receiver<Value>,
) -> Result<impl Future<Output = ()>, AgentError> {
    let path = socket(&directory);
    // A socket left behind by a killed agent; only one agent can have the folder, because its store is locked.
    drop(std::fs::remove_file(&path));
    let listener = UnixListener::bind(&path)
        .map_err(|source| AgentError::Io { what: format!("listen on {}", path.display()), source })?;
    Ok(async move {
        loop {
            let mut stream = tokio::select! {
                gone = async { while status.changed().await.is_ok() {} } => return gone,
                accepted = listener.accept() => match accepted {
                    Ok((stream, _)) => stream,
                    Err(error) => { warn!("failed to accept on the status socket: {error}"); continue; }
                },
            };
            // Whoever asks an agent that has just started waits for its first status.
            let Ok(body) = status.wait_for(|status| !status.is_null()).await.map(|status| status.to_string()) else {
                return;
            };
            if let Err(error) = stream.write_all(body.as_bytes()).await {
                warn!("failed to hand out the status: {error}");
            }
        }
    })
}

/// Asks the agent that runs in `directory` how it is.
///
/// # Errors
/// If none runs there, or it does not answer.
pub fn ask(directory: &Path) -> io::Result<Value> {
    let stream = UnixStream::connect(socket(directory))?;
    stream.set_read_timeout(Some(ANSWER_TIMEOUT))?;
    let mut text = String::new();
    stream.take(MAX_STATUS_BYTES).read_to_string(&mut text)?;
    serde_json::from_str(&text).map_err(io::Error::from)
}

fn socket(directory: &Path) -> PathBuf {
    directory.join("agent.sock")
}

/// The report for people.
#[must_use]
pub fn to_text(report: &Value) -> String {
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let model = &report["model"];
    let model = if model.is_null() {
        "none yet".to_owned()
    } else {
        format!("{} version {}", text(&model["name"]), model["version"])
    };
    let hub = match (&report["hub"]["connected"], &report["hub"]["problem"]) {
        (Value::Bool(true), _) if report["hub"]["transport"] == "tcp" => {
            "connected over TCP; UDP is blocked".to_owned()
        }
        (Value::Bool(true), _) => "connected".to_owned(),
        (_, Value::String(problem)) => format!("away: {problem}"),
        (_, _) => "away; events wait in the spool".to_owned(),
    };
    let mut broker = match report["broker"]["mqtt"].as_str() {
        Some(version) => format!("connected, MQTT {version}"),
        None => "away".to_owned(),
    };
    if let Value::String(problem) = &report["broker"]["problem"] {
        broker = format!("{broker}: {problem}");
    }
    let readings = &report["readings"];
    let model = report["safe_mode"].as_str().map_or(model, str::to_owned);
    let mut lines = vec![
        format!(
            "agent        {} ({}, up {:.0} s)",
            text(&report["agent"]),
            text(&report["release"]),
            report["uptime_s"].as_f64().unwrap_or(0.0)
        ),
        format!("model        {model} on {}", text(&report["device"])),
        format!("broker       {broker}"),
        format!("hub          {hub}"),
        format!(
            "readings     {} accepted = {} delivered + {} pending + {} dropped; {} duplicates left out",
            readings["accepted"],
            readings["delivered"],
            readings["pending"],
            readings["dropped"].as_object().map_or(0, |counts| counts.values().filter_map(Value::as_u64).sum()),
            readings["duplicates"]
        ),
        format!(
            "predictions  {} answered, {:.0} us each",
            report["predictions"]["answered"],
            report["predictions"]["mean_inference_us"].as_f64().unwrap_or(0.0)
        ),
        format!("spool        {} of {} bytes", report["spool_bytes"], report["spool_max_bytes"]),
    ];
    if let Some(written) = report["disk"]["written_bytes"].as_u64() {
        let a_day = report["disk"]["written_bytes_a_day"].as_f64();
        let a_day = a_day.map_or_else(String::new, |bytes| format!(", {:.3} GB a day", bytes / 1e9));
        lines.push(format!("written      {:.3} GB to the disk since the first start{a_day}", written as f64 / 1e9));
    }
    if let Some(count) = report["log_lines_left_out"].as_u64().filter(|count| *count > 0) {
        lines.push(format!("log          {count} lines like others were left out"));
    }
    if let Some(newest) = report["crashes"]["newest"].as_object() {
        let what = newest.get("message").map(text).unwrap_or_default();
        lines.push(format!("crashes      {} reports, the newest: {what}", report["crashes"]["reports"]));
    }
    if let Some(held) = readings["held"].as_u64().filter(|held| *held > 0) {
        lines.push(format!("held         {held} messages, parts of readings or of none"));
    }
    let unanswered = &report["predictions"]["unanswered"];
    for (what, counts) in
        [("dropped", &readings["dropped"]), ("rejected", &readings["rejected"]), ("unanswered", unanswered)]
    {
        if let Some(counts) = counts.as_object().filter(|counts| !counts.is_empty()) {
            let counts: Vec<String> = counts.iter().map(|(reason, count)| format!("{reason} {count}")).collect();
            lines.push(format!("{what:<12} {}", counts.join(", ")));
        }
    }
    for rejected in report["rejected_messages"].as_array().into_iter().flatten().rev().take(5) {
        lines.push(format!(
            "  {}: {}: {}",
            text(&rejected["topic"]),
            text(&rejected["problem"]),
            text(&rejected["payload"])
        ));
    }
    lines.join("\n")
}
