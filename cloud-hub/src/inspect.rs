//! Looking into a package.

use std::path::Path;

use serde_json::{Value, json};
use shared::limits::MAX_PACKAGE_BYTES;
use shared::package::Package;
use shared::pipeline::Decision;

use crate::view::{show_range, time};

/// Why a package cannot be shown.
#[derive(Debug, thiserror::Error)]
#[error("inspect {path}: {problem}")]
pub struct InspectError {
    path: String,
    problem: String,
}

/// What a package holds, after every hash in it was checked.
///
/// # Errors
/// If the file cannot be read or is no sound package.
pub fn inspect(path: &Path) -> Result<Value, InspectError> {
    let error = |problem: String| InspectError { path: path.display().to_string(), problem };
    let size = std::fs::metadata(path).map_err(|source| error(source.to_string()))?.len();
    if size > MAX_PACKAGE_BYTES {
        return Err(error(format!("{size} bytes, at most {MAX_PACKAGE_BYTES} are allowed")));
    }
    let bytes = std::fs::read(path).map_err(|source| error(source.to_string()))?;
    let (package, digest) = Package::open(&bytes, None).map_err(|source| error(source.to_string()))?;
    let manifest = &package.manifest;
    let lineage = &manifest.lineage;
    let Decision::Anomaly { smooth, threshold } = manifest.pipeline.decision;
    Ok(json!({
        "digest": digest.to_string(),
        "bytes": bytes.len(),
        "model": manifest.model.as_str(),
        "version": manifest.version.0,
        "created": time(manifest.created_ms),
        "channels": manifest.pipeline.input.channels,
        "preprocess": manifest.pipeline.preprocess,
        "network": manifest.pipeline.network,
        "decision": { "anomaly": { "smooth": smooth, "threshold": threshold } },
        "weights_bytes": package.weights.len(),
        "golden_readings": package.golden.readings.len(),
        "trigger": lineage.trigger,
        "parent": lineage.parent.map(|version| version.0),
        "seed": lineage.seed,
        "data": lineage.data.to_string(),
        "recipe": lineage.recipe.to_string(),
        "code_version": lineage.code_version,
        "trained_on": lineage.trained_on.iter().map(show_range).collect::<Vec<_>>(),
        "metrics": manifest.metrics.iter().cloned().collect::<std::collections::BTreeMap<_, _>>(),
        "drift_thresholds": manifest.drift_reference.channels.iter()
            .map(|channel| json!({ "channel": channel.name.as_str(), "bits": channel.threshold })).collect::<Vec<_>>(),
    }))
}

/// The same for people.
#[must_use]
pub fn to_text(report: &Value) -> String {
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let list = |value: &Value| {
        value.as_array().map(|items| items.iter().map(text).collect::<Vec<_>>().join(", ")).unwrap_or_default()
    };
    let mut lines = vec![
        format!("{} version {}, made {}", text(&report["model"]), report["version"], text(&report["created"])),
        format!("digest      {}", text(&report["digest"])),
        format!("size        {} bytes, of which {} are weights", report["bytes"], report["weights_bytes"]),
        format!("channels    {}", list(&report["channels"])),
        format!("preprocess  {}", report["preprocess"]),
        format!("network     {}", report["network"]),
        format!("decision    {}", report["decision"]),
        format!("trigger     {}", text(&report["trigger"])),
        format!("seed        {}; parent {}", report["seed"], text(&report["parent"])),
    ];
    for range in report["trained_on"].as_array().into_iter().flatten() {
        let (stream, agent) = (text(&range["stream"]), text(&range["agent"]));
        lines.push(format!(
            "trained on  {} rows of {stream} at {agent}, {} to {}",
            range["rows"],
            text(&range["from"]),
            text(&range["to"])
        ));
    }
    for (name, value) in report["metrics"].as_object().into_iter().flatten() {
        lines.push(format!("metric      {name} {value}"));
    }
    lines.join("\n")
}
