//! Fleets in one process, and what became of every version in the hub's history.

use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;
use tests::program;

/// Runs a plan; gives what it says and where its data is.
fn run(plan: &str, boxes: &str, data: &Path) -> Value {
    let plan = Path::new(env!("CARGO_MANIFEST_DIR")).join("plans").join(plan);
    let output = Command::new(program("demo").expect("built"))
        .args(["--fleet", boxes, "--output", "json", "--plan"])
        .arg(plan)
        .arg("--data")
        .arg(data)
        .output()
        .expect("runs");
    let result: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
    assert!(output.status.success(), "{}\n{result:#}", String::from_utf8_lossy(&output.stderr));
    assert_eq!((&result["as_planned"], &result["published"]), (&true.into(), &result["at_hub"]));
    result
}

fn audit(arguments: &[&str], hub: &Path) -> Output {
    Command::new(program("cloud-hub").expect("built"))
        .arg("audit")
        .args(arguments)
        .args(["--output", "json", "--data"])
        .arg(hub)
        .output()
        .expect("runs")
}

#[test]
fn no_bad_candidate_gets_beyond_its_stage_and_the_history_tells_it_all() {
    let directory = tempfile::tempdir().expect("dir");
    let data = directory.path().join("data");
    let result = run("bad-candidates.toml", "20", &data);
    let steps = result["steps"].as_array().expect("steps");
    let ended = |how: &str| steps.iter().filter(|step| step["ended"] == how).count();
    assert_eq!((ended("refused"), ended("rolled_back"), ended("released")), (18, 4, 1));
    for step in steps.iter().filter(|step| step["ended"] == "rolled_back") {
        assert!(step["most_boxes"].as_u64().is_some_and(|most| most <= 2), "{step}");
    }

    let hub = data.join("hub");
    let output = audit(&["verify"], &hub);
    let verified: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert!(output.status.success() && verified["rows"].as_u64().is_some_and(|rows| rows > 30), "{verified}");
    let found = |arguments: &[&str]| -> Value { serde_json::from_slice(&audit(arguments, &hub).stdout).expect("JSON") };
    let noisy = found(&["version", "demo-anomaly", "2"]);
    let outcomes: Vec<&str> =
        noisy["boxes"].as_array().expect("boxes").iter().filter_map(|one| one["outcome"].as_str()).collect();
    assert!((1..=4).contains(&outcomes.len()) && outcomes.contains(&"serving"), "{noisy}");
    let last = found(&["box", "box-001", "--at", "2999-01-01T00:00:00Z"]);
    let trained = last["served"][0]["trained_on"].as_array().map_or(0, Vec::len);
    assert!(last["served"][0]["version"] == 6 && trained >= 1, "{last}");
}

#[test]
fn boxes_that_were_away_catch_up_without_a_wrong_version_on_the_way() {
    let directory = tempfile::tempdir().expect("dir");
    run("offline-boxes.toml", "12", &directory.path().join("data"));
}

#[test]
fn a_hub_that_is_restarted_all_the_time_ends_every_rollout_as_it_must() {
    let directory = tempfile::tempdir().expect("dir");
    run("hub-restarts.toml", "6", &directory.path().join("data"));
}

#[test]
fn a_training_goes_on_where_the_hub_was_stopped_and_the_same_again_computes_nothing() {
    let directory = tempfile::tempdir().expect("dir");
    let result = run("interrupted-training.toml", "3", &directory.path().join("data"));
    let step = &result["steps"][0];
    assert!(step["interrupted"].as_u64() >= Some(1) && step["computed_again"] == 0, "{step}");
}

#[test]
fn a_cohort_that_runs_in_another_way_learns_it_alone() {
    let directory = tempfile::tempdir().expect("dir");
    let result = run("moved-cohort.toml", "6", &directory.path().join("data"));
    let step = &result["steps"][0];
    assert_eq!((&step["trainings"], &step["boxes_in_alarm_elsewhere"]), (&1.into(), &0.into()), "{step}");
}

#[test]
fn a_version_is_seen_in_shadow_and_held_against_the_one_before_until_the_better_one_is_found() {
    let directory = tempfile::tempdir().expect("dir");
    let result = run("shadow-and-ab.toml", "12", &directory.path().join("data"));
    let steps = result["steps"].as_array().expect("steps");
    for step in steps {
        let found = &step["evidence"][0];
        let share = 100.0 * found["mirrored"].as_f64().expect("counted") / found["readings"].as_f64().expect("counted");
        assert!((28.0..=32.0).contains(&share), "{share} % mirrored: {step}");
    }
    let ab = |step: usize| &steps[step]["evidence"][1];
    assert!(ab(0)["better"] == 1 && ab(0)["p_value"].as_f64().is_some_and(|p| p < 0.05), "{}", ab(0));
    assert!(ab(1)["better"].is_null() && ab(1)["p_value"].as_f64().is_some_and(|p| p >= 0.05), "{}", ab(1));
}

#[test]
fn sick_sensors_and_changed_units_are_named_and_train_nothing() {
    let directory = tempfile::tempdir().expect("dir");
    let result = run("sick-sensors.toml", "10", &directory.path().join("data"));
    let because: Vec<&str> =
        result["steps"].as_array().expect("steps").iter().filter_map(|step| step["because"].as_str()).collect();
    let expected = [
        "the sensor of flow is stuck",
        "the sensor of flow measures something else than the others say",
        "pressure is in another unit: 14.503774 times what it was, which looks like bar to psi",
    ];
    assert_eq!(because, expected);
}

#[test]
fn drift_is_seen_in_every_recorded_fault_and_hardly_ever_before() {
    let Some(data) = tests::public_data() else {
        eprintln!("skipped: TIDELINE_DATA does not name a folder of real data");
        return;
    };
    let channels = "Accelerometer1RMS,Accelerometer2RMS,Current,Pressure,Temperature,Thermocouple,Voltage,\
                    Volume Flow RateRMS";
    let output = Command::new(program("cloud-hub").expect("built"))
        .args(["drift", "--channels", channels, "--label", "anomaly", "--output", "json", "--data"])
        .arg(data.join("skab/valve1"))
        .output()
        .expect("runs");
    let found: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!((&found["files"], &found["detected"]), (&16.into(), &16.into()), "{found:#}");
    assert!(found["false_alarms"].as_u64().is_some_and(|alarms| alarms <= 1), "{found:#}");
}
