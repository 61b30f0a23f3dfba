//! Looking into packages: what one holds, whether it is sound, what two differ in.

mod program;

use std::collections::BTreeSet;
use std::path::Path;

use serde_json::{Value, json};
use shared::device::DeviceKind;
use shared::event::UnixMillis;
use shared::ids::Digest;
use shared::limits::{MAX_PACKAGE_BYTES, MAX_PROGRAM_FILE_BYTES};
use shared::package::signature::{NEVER, PublicKey, ReleaseKey};
use shared::package::{Package, signature};
use shared::pipeline::weights::Weights;
use shared::program::ProgramFile;

use crate::clock;
use crate::view::{Timestamp, show_range};

/// Numbers of a list that people are shown; longer ones are for programs.
const NUMBERS_SHOWN: usize = 8;

/// Why a package cannot be shown.
#[derive(Debug, thiserror::Error)]
#[error("open {path}: {problem}")]
pub struct InspectError {
    path: String,
    problem: String,
}

/// A package, the digest it has, and its file.
struct Opened {
    package: Package,
    digest: Digest,
    bytes: Vec<u8>,
}

impl InspectError {
    fn new(path: &Path, problem: impl std::fmt::Display) -> Self {
        Self { path: path.display().to_string(), problem: problem.to_string() }
    }
}

/// The bytes of a package or a program.
fn read(path: &Path) -> Result<Vec<u8>, InspectError> {
    const MAX_BYTES: u64 =
        if MAX_PROGRAM_FILE_BYTES > MAX_PACKAGE_BYTES { MAX_PROGRAM_FILE_BYTES } else { MAX_PACKAGE_BYTES };
    let wrong = |problem: String| InspectError::new(path, problem);
    let size = std::fs::metadata(path).map_err(|source| wrong(source.to_string()))?.len();
    if size > MAX_BYTES {
        return Err(wrong(format!("{size} bytes, at most {MAX_BYTES} are allowed")));
    }
    std::fs::read(path).map_err(|source| wrong(source.to_string()))
}

fn open(path: &Path) -> Result<Opened, InspectError> {
    opened(path, read(path)?)
}

fn opened(path: &Path, bytes: Vec<u8>) -> Result<Opened, InspectError> {
    let (package, digest) = Package::open(&bytes, None).map_err(|source| InspectError::new(path, source))?;
    Ok(Opened { package, digest, bytes })
}

/// Checks everything that an agent checks before it serves a package: a signature by one of the `trusted` keys, if there are
/// any, every hash, every name and shape, every weight, and the golden vectors on `device`. Of a program for boxes, what an agent
/// checks before it begins with it. Returns a report.
///
/// # Errors
/// The first thing that does not hold.
pub fn verify(path: &Path, trusted: &[PublicKey], device: DeviceKind) -> Result<Value, InspectError> {
    let wrong = |problem: String| InspectError::new(path, problem);
    let bytes = read(path)?;
    if ProgramFile::is_one(&bytes) {
        return program::verify(&bytes, trusted, clock::unix_ms()).map_err(wrong).map(|report| named(path, report));
    }
    let Opened { package, digest, bytes } = opened(path, bytes)?;
    if !trusted.is_empty() {
        let vouched = signature::verify(&bytes, trusted).map_err(|error| wrong(error.to_string()))?;
        vouched.at(clock::unix_ms()).map_err(|error| wrong(error.to_string()))?;
    }
    let opened = device.open().map_err(|error| wrong(error.to_string()))?;
    package.load(&opened).map_err(|error| wrong(error.to_string()))?;
    let signers = signature::signers(&bytes).map_err(|error| wrong(error.to_string()))?;
    let report = json!({
        "digest": digest.to_string(),
        "signed_by": signers.iter().map(|(key, _)| key.to_string()).collect::<Vec<_>>(),
        "trusted": !trusted.is_empty(),
        "golden_readings": package.golden.readings.len(),
        "device": device.to_string(),
    });
    Ok(named(path, report))
}

/// With the file that a report is of.
fn named(path: &Path, mut report: Value) -> Value {
    report["package"] = path.display().to_string().into();
    report
}

/// What is different in package `b` from package `a`, part by part, and how many bytes an agent that has `a` must fetch.
///
/// # Errors
/// If one of them is no sound package.
pub fn diff(a: &Path, b: &Path) -> Result<Value, InspectError> {
    let (before, after) = (inspect(a)?, inspect(b)?);
    let mut changed = serde_json::Map::new();
    for (name, value) in after.as_object().into_iter().flatten().filter(|(name, _)| *name != "bytes") {
        if before[name] != *value {
            changed.insert(name.clone(), json!({ "before": before[name], "after": value }));
        }
    }
    let (a, b) = (open(a)?.package, open(b)?.package);
    let weights =
        |package: &Package| Weights::from_safetensors(&package.weights).map(|weights| weights.0).unwrap_or_default();
    let (old, new) = (weights(&a), weights(&b));
    let names: BTreeSet<&String> = old.keys().chain(new.keys()).collect();
    let tensors: Vec<Value> = names
        .into_iter()
        .filter_map(|name| {
            let change = match (old.get(name), new.get(name)) {
                (Some(_), None) => json!("only before"),
                (None, Some(_)) => json!("only after"),
                (Some(a), Some(b)) if a.shape != b.shape => json!({ "shape": [a.shape, b.shape] }),
                (Some(a), Some(b)) => {
                    let largest = a.values.iter().zip(&b.values).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
                    (largest > 0.0).then(|| json!({ "largest_difference": largest }))?
                }
                (None, None) => return None,
            };
            Some(json!({ "tensor": name, "change": change }))
        })
        .collect();
    Ok(json!({ "changed": changed, "tensors": tensors, "identical": before["digest"] == after["digest"] }))
}

/// The weights of a package as they are, in the safetensors format.
///
/// # Errors
/// If it is no sound package.
pub fn weights(path: &Path) -> Result<Vec<u8>, InspectError> {
    Ok(open(path)?.package.weights)
}

/// Adds a signature to a package's file that holds until `expires_ms`, and writes it in place.
///
/// # Errors
/// If it is no sound package or cannot be written.
pub fn sign(path: &Path, key: &ReleaseKey, expires_ms: UnixMillis) -> Result<Digest, InspectError> {
    let Opened { digest, bytes, .. } = open(path)?;
    let signed = signature::add(&bytes, key, expires_ms).map_err(|error| InspectError::new(path, error))?;
    std::fs::write(path, signed).map_err(|error| InspectError::new(path, error))?;
    Ok(digest)
}

/// What a package, or a program for boxes, holds, after every hash in it was checked.
///
/// # Errors
/// If the file cannot be read or is no sound package.
pub fn inspect(path: &Path) -> Result<Value, InspectError> {
    let bytes = read(path)?;
    if ProgramFile::is_one(&bytes) {
        return program::inspect(&bytes).map_err(|error| InspectError::new(path, error));
    }
    let Opened { package, digest, bytes } = opened(path, bytes)?;
    let signers = signature::signers(&bytes).map_err(|source| InspectError::new(path, source))?;
    let manifest = &package.manifest;
    let lineage = &manifest.lineage;
    Ok(json!({
        "digest": digest.to_string(),
        "bytes": bytes.len(),
        "model": manifest.model.as_str(),
        "version": manifest.version.0,
        "created": Timestamp(manifest.created_ms),
        "floor": manifest.floor.0,
        "signed_by": signers.iter().map(|(key, _)| key.to_string()).collect::<Vec<_>>(),
        "signed_until": signers.iter().map(|(_, until)| (*until != NEVER).then_some(Timestamp(*until))).collect::<Vec<_>>(),
        "channels": manifest.pipeline.input.names().collect::<Vec<_>>(),
        "input": manifest.pipeline.input,
        "calibration": manifest.pipeline.calibration,
        "preprocess": manifest.pipeline.preprocess,
        "network": manifest.pipeline.network,
        "decision": manifest.pipeline.decision,
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
    if is_of_program(report) {
        return program::to_text(report);
    }
    let mut lines = vec![
        format!("{} version {}, made {}", text(&report["model"]), report["version"], text(&report["created"])),
        format!("digest      {}", text(&report["digest"])),
        format!("size        {} bytes, of which {} are weights", report["bytes"], report["weights_bytes"]),
        format!("channels    {}", list(&report["channels"])),
        format!("preprocess  {}", shortened(&report["preprocess"])),
        format!("network     {}", shortened(&report["network"])),
        format!("decision    {}", shortened(&report["decision"])),
        format!("signed by   {}", signatures(report)),
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

/// Whether a report is of a program for boxes, and not of a model.
fn is_of_program(report: &Value) -> bool {
    report["target"].is_string()
}

fn text(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

fn list(value: &Value) -> String {
    value.as_array().map(|items| items.iter().map(text).collect::<Vec<_>>().join(", ")).unwrap_or_default()
}

/// Whose signatures there are, and until when those hold that end.
fn signatures(report: &Value) -> String {
    let [keys, ends] = ["signed_by", "signed_until"].map(|name| report[name].as_array().into_iter().flatten());
    let shown = keys.zip(ends).filter_map(|(key, end)| {
        let key = key.as_str()?;
        Some(end.as_str().map_or_else(|| key.to_owned(), |end| format!("{key} until {end}")))
    });
    shown.collect::<Vec<_>>().join(", ")
}

/// A value with long lists of numbers counted instead of written out.
fn shortened(value: &Value) -> Value {
    match value {
        Value::Array(items) if items.len() > NUMBERS_SHOWN && items.iter().all(Value::is_number) => {
            format!("{} numbers", items.len()).into()
        }
        Value::Array(items) => items.iter().map(shortened).collect(),
        Value::Object(fields) => fields.iter().map(|(name, value)| (name.clone(), shortened(value))).collect(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => value.clone(),
    }
}

/// What was verified, for people.
#[must_use]
pub fn verified_to_text(report: &Value) -> String {
    let signers = list(&report["signed_by"]);
    let signed = match (signers.as_str(), report["trusted"].as_bool()) {
        ("", _) => "not signed".to_owned(),
        (signers, Some(true)) => format!("signed by {signers}, which is trusted"),
        (signers, _) => format!("signed by {signers}; no --trust was given"),
    };
    let holds = if is_of_program(report) {
        format!("hashes hold; program {} runs on {}", text(&report["release"]), text(&report["target"]))
    } else {
        let (golden, device) = (&report["golden_readings"], text(&report["device"]));
        format!("hashes, names, shapes and weights hold; {golden} golden readings are reproduced on {device}")
    };
    format!("{} is sound\ndigest  {}\n{holds}\n{signed}", text(&report["package"]), text(&report["digest"]))
}

/// A difference, for people.
#[must_use]
pub fn diff_to_text(report: &Value) -> String {
    if report["identical"] == true {
        return "the two are the same".to_owned();
    }
    let changed = report["changed"].as_object().into_iter().flatten();
    let lines = changed.map(|(name, change)| format!("{name}: {} -> {}", change["before"], change["after"]));
    let tensors = report["tensors"].as_array().into_iter().flatten();
    let tensors =
        tensors.map(|tensor| format!("{}: {}", tensor["tensor"].as_str().unwrap_or_default(), tensor["change"]));
    lines.chain(tensors).collect::<Vec<_>>().join("\n")
}
