//! What came of a scenario: one object for programs, a few lines for people.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::Context;
use cloud_hub::samples::SampleStore;
use serde::Serialize;
use serde_json::{Value, json};
use shared::package::DataRange;

use crate::play::{Options, Published};
use crate::scenario::{Row, Scenario};
use crate::score::Quality;
use crate::story::Tone;

/// What was seen while the scenario was played.
pub struct Outcome {
    /// How the pinned agent answered.
    pub before: Quality,
    /// How the following agent answered.
    pub after: Quality,
    /// Readings that were to be scored and got no answer.
    pub unanswered: u64,
    /// Readings the agents say they accepted.
    pub accepted: u64,
    /// Messages the agents rejected.
    pub rejected: u64,
    /// Redeliveries the agents dropped.
    pub duplicates_dropped: u64,
    /// Readings the hub says it has.
    pub at_hub: u64,
    /// Drift alarms.
    pub drift: Value,
    /// The model with its versions.
    pub model: Value,
    /// Training runs.
    pub runs: Vec<Value>,
}

/// The result.
#[derive(Debug, Clone, Serialize)]
pub struct Summary {
    /// The scenario's name.
    pub scenario: String,
    /// The device boxes answered on.
    pub device: String,
    /// Readings published.
    pub published: u64,
    /// Readings the agents accepted.
    pub accepted: u64,
    /// Readings the hub has.
    pub at_hub: u64,
    /// Readings published that are not in the sample store.
    pub lost: u64,
    /// Readings in the sample store that were not published, or not so often.
    pub duplicates: u64,
    /// Redeliveries the agents recognised and dropped.
    pub redeliveries_dropped: u64,
    /// Messages the agents rejected.
    pub rejected: u64,
    /// Drift alarms: when, which channels, statistic and threshold.
    pub drift: Vec<Value>,
    /// Versions: trigger, training data, seed, the gate's verdict and reasons.
    pub models: Vec<Value>,
    /// Candidates the gate refused, with its reasons.
    pub refused: Vec<Value>,
    /// Version 1 on the evaluation data.
    pub before: Quality,
    /// What the loop came to, on the same data.
    pub after: Quality,
    /// Evaluation readings without an answer.
    pub unanswered: u64,
    /// How long it took.
    pub seconds: f64,
    /// The folder of the sample store.
    pub samples: String,
    /// Whether the loop closed: nothing lost or doubled, drift seen, a better version on the box.
    pub closed: bool,
}

/// Compares what was published with what is in the sample store, and sums up.
///
/// # Errors
/// If the sample store cannot be read.
pub fn summarise(
    scenario: &Scenario,
    options: &Options,
    published: &[Published],
    hub_directory: &Path,
    outcome: &Outcome,
    seconds: f64,
) -> anyhow::Result<Summary> {
    let (mut lost, mut duplicates) = (0, 0);
    for agent in published.iter().filter(|agent| !agent.rows.is_empty()) {
        let difference = difference(scenario, agent, hub_directory)?;
        lost += difference.0;
        duplicates += difference.1;
    }
    let drift: Vec<Value> = outcome.drift.as_array().cloned().unwrap_or_default();
    let (models, refused) = models(outcome);
    let better = outcome.after.balanced_accuracy > outcome.before.balanced_accuracy;
    Ok(Summary {
        scenario: scenario.name.clone(),
        device: options.device.clone(),
        published: published.iter().map(|agent| agent.rows.len() as u64).sum(),
        accepted: outcome.accepted,
        at_hub: outcome.at_hub,
        lost,
        duplicates,
        redeliveries_dropped: outcome.duplicates_dropped,
        rejected: outcome.rejected,
        closed: lost == 0 && duplicates == 0 && !drift.is_empty() && models.len() > 1 && better,
        drift,
        models,
        refused,
        before: outcome.before,
        after: outcome.after,
        unanswered: outcome.unanswered,
        seconds: (seconds * 10.0).round() / 10.0,
        samples: hub_directory.join("samples").display().to_string(),
    })
}

/// Readings that are missing from the sample store, and readings that are too many in it, compared bit for bit.
///
/// # Errors
/// If the sample store cannot be read.
pub fn difference(scenario: &Scenario, published: &Published, hub_directory: &Path) -> anyhow::Result<(u64, u64)> {
    let times = || published.rows.iter().map(|row| row.time_ms);
    let range = DataRange {
        agent: published.agent.clone(),
        stream: scenario.stream.clone(),
        from_ms: times().min().context("nothing was published")?,
        to_ms: times().max().context("nothing was published")?,
        rows: published.rows.len() as u64,
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let series = runtime.block_on(async { SampleStore::open(hub_directory)?.read(&range).await })?;
    let mut balance: BTreeMap<(i64, bool, Vec<u64>), i64> = BTreeMap::new();
    let bits = |values: &[f64]| values.iter().map(|value| value.to_bits()).collect::<Vec<_>>();
    for Row { time_ms, values, known_normal, .. } in &published.rows {
        *balance.entry((*time_ms, *known_normal, bits(values))).or_default() += 1;
    }
    let width = series.schema.channels.len();
    for (row, (time_ms, known_normal)) in series.times_ms.iter().zip(&series.known_normal).enumerate() {
        let values = &series.values[row * width..(row + 1) * width];
        *balance.entry((*time_ms, *known_normal, bits(values))).or_default() -= 1;
    }
    let missing = balance.values().filter(|count| **count > 0).sum::<i64>();
    let surplus = -balance.values().filter(|count| **count < 0).sum::<i64>();
    Ok((missing.unsigned_abs(), surplus.unsigned_abs()))
}

fn models(outcome: &Outcome) -> (Vec<Value>, Vec<Value>) {
    let candidates = |run: &Value| run["candidates"].as_array().cloned().unwrap_or_default();
    let versions = outcome.model["versions"].as_array().cloned().unwrap_or_default();
    let models = versions
        .iter()
        .map(|version| {
            let run = outcome.runs.iter().find(|run| run["version"] == version["version"]);
            let blessed =
                run.and_then(|run| candidates(run).into_iter().find(|candidate| candidate["blessed"] == true));
            let blessed = blessed.unwrap_or_default();
            json!({
                "version": version["version"],
                "trigger": version["trigger"],
                "trained_on": version["trained_on"],
                "seed": version["details"]["lineage"]["seed"],
                "parent": version["parent"],
                "digest": version["digest"],
                "gate": { "verdict": "blessed", "reasons": blessed["reasons"], "metrics": blessed["metrics"] },
            })
        })
        .collect();
    let mut refused = Vec::new();
    for run in &outcome.runs {
        for candidate in candidates(run).iter().filter(|candidate| candidate["blessed"] == false) {
            refused.push(json!({
                "run": run["run"],
                "trigger": run["trigger"],
                "selection": candidate["selection"],
                "trained_on": candidate["trained_on"],
                "gate": { "verdict": "refused", "reasons": candidate["reasons"], "metrics": candidate["metrics"] },
            }));
        }
    }
    (models, refused)
}

/// Channels of an alarm that are named; the rest are counted.
const CHANNELS_NAMED: usize = 3;

/// A drift alarm in words.
#[must_use]
pub fn describe_alarm(alarm: &Value) -> String {
    let channels = alarm["channels"].as_array().map(Vec::as_slice).unwrap_or_default();
    let number = |value: &Value| value.as_f64().unwrap_or(0.0);
    let mut named: Vec<String> = channels
        .iter()
        .take(CHANNELS_NAMED)
        .map(|channel| {
            let (divergence, threshold) = (number(&channel["divergence"]), number(&channel["threshold"]));
            format!("{} {divergence:.2} > {threshold:.2} bits", text(&channel["channel"]))
        })
        .collect();
    if channels.len() > CHANNELS_NAMED {
        named.push(format!("{} more", channels.len() - CHANNELS_NAMED));
    }
    format!(
        "{} at {} left what version {} was trained on: {}",
        text(&alarm["stream"]),
        text(&alarm["agent"]),
        alarm["version"],
        named.join(", ")
    )
}

/// A finished run in words: one line a candidate.
#[must_use]
pub fn describe_run(run: &Value) -> Vec<(Tone, String)> {
    let mut lines = vec![match run["state"].as_str() {
        Some("released") => (Tone::Good, format!("run {}: version {} is released", run["run"], run["version"])),
        Some("refused") => (Tone::Plain, format!("run {}: no candidate was good enough", run["run"])),
        _ => (Tone::Notice, format!("run {}: failed: {}", run["run"], text(&run["reason"]))),
    }];
    for candidate in run["candidates"].as_array().into_iter().flatten() {
        let (tone, verdict) =
            if candidate["blessed"] == true { (Tone::Good, "blessed") } else { (Tone::Refused, "refused") };
        let segments = candidate["trained_on"].as_array().map_or(0, Vec::len);
        let reason = candidate["reasons"].as_array().and_then(|reasons| reasons.last()).map(text).unwrap_or_default();
        let plural = if segments == 1 { "" } else { "s" };
        lines.push((tone, format!("  {verdict}, {segments} segment{plural}: {reason}")));
    }
    lines
}

/// Quality in words.
#[must_use]
pub fn describe_quality(quality: Quality) -> String {
    format!(
        "F1 {:.3}, false alarms {:.1} %, missed {:.1} %, balanced accuracy {:.1} % of {} rows",
        quality.f1,
        100.0 * quality.far,
        100.0 * quality.mar,
        100.0 * quality.balanced_accuracy,
        quality.rows
    )
}

/// The summary for people.
#[must_use]
pub fn to_text(summary: &Summary) -> String {
    let verdict = if summary.closed { "the loop closed" } else { "the loop did not close" };
    let mut lines = vec![
        String::new(),
        format!("{}: {verdict} in {:.1} s", summary.scenario, summary.seconds),
        format!(
            "  delivery   {} published = {} accepted = {} at the hub; {} lost, {} twice",
            summary.published, summary.accepted, summary.at_hub, summary.lost, summary.duplicates
        ),
        format!("  drift      {} alarms", summary.drift.len()),
        format!("  versions   {} released, {} candidates refused", summary.models.len(), summary.refused.len()),
        format!("  before     {}", describe_quality(summary.before)),
        format!("  after      {}", describe_quality(summary.after)),
        format!("  samples    {}", summary.samples),
    ];
    if summary.unanswered > 0 {
        lines.push(format!("  unanswered {} readings", summary.unanswered));
    }
    lines.join("\n")
}

fn text(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}
