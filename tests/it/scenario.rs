//! The demo, as its users run it.

use std::path::PathBuf;
use std::process::{Command, Output};

use serde_json::Value;
use tests::program;

fn demo(arguments: &[&str]) -> (Output, Value) {
    let output = Command::new(program("demo").expect("built")).args(arguments).output().expect("runs");
    let result = serde_json::from_slice(&output.stdout).unwrap_or(Value::Null);
    (output, result)
}

/// The folder of real data, if there is one.
fn data() -> Option<PathBuf> {
    let data = tests::public_data();
    if data.is_none() {
        eprintln!("skipped: TIDELINE_DATA does not name a folder of real data");
    }
    data
}

fn share(result: &Value, which: &str, figure: &str) -> f64 {
    result[which][figure].as_f64().expect("a number")
}

#[test]
fn the_simulated_plant_closes_the_loop_and_json_is_all_there_is_on_standard_output() {
    let directory = tempfile::tempdir().expect("dir");
    let data = directory.path().join("data");
    let (output, result) = demo(&["--output", "json", "--data", data.to_str().expect("utf-8")]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!((&result["lost"], &result["duplicates"]), (&0.into(), &0.into()));
    assert_eq!(result["published"], result["at_hub"]);
    assert!(share(&result, "before", "far") > 0.95, "{}", result["before"]);
    assert!(share(&result, "after", "balanced_accuracy") > 0.9, "{}", result["after"]);
    assert!(result["models"].as_array().is_some_and(|models| models.len() >= 2));
    assert!(result["seconds"].as_f64().is_some_and(|seconds| seconds <= 120.0));
}

#[test]
fn the_loop_closes_on_real_data_and_the_gate_refuses_what_would_harm() {
    let Some(data) = data() else { return };
    let scenario = data.join("skab/scenarios/operating-point.toml");
    let directory = tempfile::tempdir().expect("dir");
    let kept = directory.path().join("data");
    let (output, result) = demo(&[
        "--scenario",
        scenario.to_str().expect("utf-8"),
        "--output",
        "json",
        "--data",
        kept.to_str().expect("utf-8"),
    ]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!((&result["lost"], &result["duplicates"], &result["unanswered"]), (&0.into(), &0.into(), &0.into()));
    assert!(share(&result, "before", "far") >= 0.95);
    assert!(share(&result, "after", "f1") >= 0.88, "{}", result["after"]);
    assert!(share(&result, "after", "far") <= 0.03, "{}", result["after"]);
    assert!(share(&result, "after", "mar") <= 0.20, "{}", result["after"]);
    let refused = result["refused"].to_string();
    assert!(refused.contains("blind: faults of 10 deviations go unseen"), "the mixed model: {refused}");
    let models = result["models"].as_array().cloned().unwrap_or_default();
    let segments = |model: &serde_json::Value| model["trained_on"].as_array().map_or(0, Vec::len);
    assert!(models.iter().skip(1).all(|model| segments(model) >= 3), "a model of too few segments: {models:?}");
}

#[test]
fn a_scenario_with_a_missing_file_is_refused_before_anything_starts() {
    let directory = tempfile::tempdir().expect("dir");
    let file = directory.path().join("s.toml");
    std::fs::write(
        &file,
        "name = \"s\"\ndescription = \"d\"\nroot = \".\"\ndelimiter = \";\"\ntime_column = \"t\"\n\
         time_format = \"%Y-%m-%d %H:%M:%S\"\nchannels = [\"a\"]\nlabel_column = \"x\"\nstream = \"s\"\n\
         [[phase]]\nname = \"p\"\nfiles = [\"gone.csv\"]\nuse = \"baseline\"\ncalibration_rows = -1\n",
    )
    .expect("writes");
    let (output, _) = demo(&["--scenario", file.to_str().expect("utf-8")]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(78), "{said}");
    assert!(said.contains("s.toml:12:10") && said.contains("gone.csv"), "{said}");
}
