use std::fs;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use super::*;

const SCENARIO: &str = r#"name = "small"
description = "three files"
root = "data"
delimiter = ";"
time_column = "time"
time_format = "%Y-%m-%d %H:%M:%S"
channels = ["flow", "pressure"]
label_column = "anomaly"
stream = "plant/pump"

[[phase]]
name = "first"
files = ["normal.csv"]
use = "baseline"
calibration_rows = -1

[[phase]]
name = "second"
files = ["live.csv"]
use = "live"
calibration_rows = 1

[[phase]]
name = "third"
files = ["judged.csv"]
use = "evaluate"
calibration_rows = 0
"#;

const NORMAL: &str = "time;pressure;flow\n2020-02-08 13:30:47;1.5;100\n2020-02-08 13:30:48;1.25;101\n";
const LIVE: &str = "flow;time;pressure;anomaly\r\n\
    50;2020-03-09 10:00:00;2;0.0\r\n51;2020-03-09 10:00:01;2.5;1.0\r\n\r\n";
const JUDGED: &str = "\"time\";\"flow\";\"pressure\";\"anomaly\"\n\"2020-03-09 11:00:00\";\"5e1\";2;0\n";

/// A scenario and its files in a folder of their own.
struct Files(TempDir);

impl Files {
    fn new(scenario: &str) -> Self {
        let files = Self(tempfile::tempdir().expect("creates"));
        fs::create_dir(files.0.path().join("data")).expect("creates");
        files
            .with("scenario.toml", scenario)
            .with("data/normal.csv", NORMAL)
            .with("data/live.csv", LIVE)
            .with("data/judged.csv", JUDGED)
    }

    fn with(self, name: &str, text: impl AsRef<[u8]>) -> Self {
        fs::write(self.0.path().join(name), text).expect("writes");
        self
    }

    fn load(&self) -> Result<Scenario, ScenarioError> {
        Scenario::load(&self.0.path().join("scenario.toml"))
    }

    /// The problems as `file:line:column: what`, without the temporary folder.
    fn problems(&self) -> Vec<String> {
        match self.load() {
            Err(ScenarioError::Invalid { problems, .. }) => {
                let folder = format!("{}/", self.0.path().display());
                problems.as_slice().iter().map(|problem| problem.to_string().replace(&folder, "")).collect()
            }
            other => panic!("expected problems, found {other:?}"),
        }
    }
}

fn check(scenario: &str, expected: &[&str]) {
    assert_eq!(Files::new(scenario).problems(), expected);
}

fn check_data(name: &str, text: &str, expected: &[&str]) {
    assert_eq!(Files::new(SCENARIO).with(name, text).problems(), expected);
}

fn replaced(from: &str, to: &str) -> String {
    assert!(SCENARIO.contains(from), "{from}");
    SCENARIO.replace(from, to)
}

#[test]
fn a_scenario_is_read_with_its_rows_marks_and_labels() {
    let scenario = Files::new(SCENARIO).load().expect("loads");
    assert_eq!((scenario.name.as_str(), scenario.description.as_str()), ("small", "three files"));
    assert_eq!(scenario.stream.as_str(), "plant/pump");
    assert_eq!(scenario.channels.iter().map(ChannelName::as_str).collect::<Vec<_>>(), ["flow", "pressure"]);
    let rows = |phase: usize| scenario.phases[phase].recordings[0].rows.clone();
    let row =
        |time_ms, values: [f64; 2], known_normal, label| Row { time_ms, values: values.into(), known_normal, label };
    assert_eq!(
        rows(0),
        [row(1_581_168_647_000, [100.0, 1.5], true, None), row(1_581_168_648_000, [101.0, 1.25], true, None)]
    );
    assert_eq!(
        rows(1),
        [
            row(1_583_748_000_000, [50.0, 2.0], true, Some(false)),
            row(1_583_748_001_000, [51.0, 2.5], false, Some(true))
        ]
    );
    assert_eq!(rows(2), [row(1_583_751_600_000, [50.0, 2.0], false, Some(false))]);
    let purposes: Vec<_> = scenario.phases.iter().map(|phase| phase.purpose).collect();
    assert_eq!(purposes, Purpose::ALL);
    assert_eq!(scenario.phases[1].recordings[0].name, "live.csv");
}

#[test]
fn more_calibration_rows_than_a_file_has_are_all_its_rows() {
    let scenario = Files::new(&replaced("calibration_rows = 1", "calibration_rows = 1_000")).load().expect("loads");
    assert!(scenario.phases[1].recordings[0].rows.iter().all(|row| row.known_normal));
}

#[test]
fn a_file_with_a_byte_order_mark_is_read() {
    let files = Files::new(SCENARIO).with("data/normal.csv", format!("\u{feff}{NORMAL}"));
    assert_eq!(files.load().expect("loads").phases[0].recordings[0].rows.len(), 2);
}

#[test]
fn a_misspelt_or_missing_key_is_named_with_its_place() {
    check(
        &replaced("time_column", "time_colum"),
        &[
            "scenario.toml:1:1: the scenario has no key `time_column`; add it",
            "scenario.toml:5:1: unknown key `time_colum`; the scenario has `name`, `description`, `root`, `delimiter`, \
             `time_column`, `time_format`, `channels`, `label_column`, `stream`, `phase`; did you mean `time_column`?",
        ],
    );
    check(
        &replaced("calibration_rows = 1\n", "calibration = 1\n"),
        &[
            "scenario.toml:17:1: the phase has no key `calibration_rows`; add it",
            "scenario.toml:21:1: unknown key `calibration`; the phase has `name`, `files`, `use`, `calibration_rows`; \
             did you mean `calibration_rows`?",
        ],
    );
}

#[test]
fn a_value_of_the_wrong_type_or_range_is_told_with_what_would_be_right() {
    check(&replaced("\"small\"", "7"), &["scenario.toml:1:8: name is a whole number; write a text in quotes"]);
    check(
        &replaced("\"small\"", "\"\""),
        &["scenario.toml:1:8: name holds an empty text; write at least one character"],
    );
    check(
        &replaced("[\"normal.csv\"]", "\"normal.csv\""),
        &["scenario.toml:13:9: files is a text; write a list of texts, like [\"a\", \"b\"]"],
    );
    check(&replaced("[\"normal.csv\"]", "[]"), &["scenario.toml:13:9: files is empty; name at least one"]);
    check(
        &replaced("calibration_rows = 1\n", "calibration_rows = -2\n"),
        &[
            "scenario.toml:21:20: calibration_rows is out of range; write a whole number of rows, 0 for none or -1 for all",
        ],
    );
    check(
        &replaced("\"live\"", "\"lives\""),
        &["scenario.toml:20:7: use is `lives`; write one of `baseline`, `live`, `evaluate`; did you mean `live`?"],
    );
    check(
        &replaced("\";\"", "\";;\""),
        &["scenario.toml:4:13: delimiter is `;;`; \
            write one character that is no quote and no line end, like \";\" or \",\""],
    );
    check(
        &replaced("%Y-%m-%d %H:%M:%S", "%H:%M"),
        &["scenario.toml:6:15: time_format `%H:%M` does not give a full date and time; \
            write a strftime format like `%Y-%m-%d %H:%M:%S`"],
    );
    check(
        &replaced("plant/pump", "plant/#"),
        &[
            "scenario.toml:9:10: stream name \"plant/#\" holds '#'; allowed: anything but '+', '#' and control characters",
        ],
    );
}

#[test]
fn text_that_is_no_toml_is_told_with_its_place() {
    let problems = Files::new(&replaced("root = \"data\"", "root = data")).problems();
    assert!(problems[0].starts_with("scenario.toml:3:8: "), "{problems:?}");
    let problems = Files::new("name = \"a\"\nname = \"b\"\n").problems();
    assert_eq!(problems, ["scenario.toml:2:1: this is not TOML: duplicate key"]);
    let problems = Files::new("").with("scenario.toml", b"name = \"a\"\nroot = \"\xff\"\n").problems();
    assert_eq!(problems, ["scenario.toml:2: the text is not UTF-8; save the file as UTF-8"]);
}

#[test]
fn a_channel_named_twice_or_taken_for_another_role_is_refused() {
    check(
        &replaced("[\"flow\", \"pressure\"]", "[\"flow\", \"flow\"]"),
        &["scenario.toml:7:21: channel `flow` is named twice; name each channel once"],
    );
    check(
        &replaced("[\"flow\", \"pressure\"]", "[\"flow\", \"anomaly\"]"),
        &[
            "scenario.toml:7:21: `anomaly` is the label_column; a channel is a measured number",
            "data/normal.csv:1: there is no column `anomaly` (a channel); \
             separated by ';' the columns are `time`, `pressure`, `flow`",
        ],
    );
}

#[test]
fn phases_out_of_order_or_missing_are_refused() {
    let swapped =
        replaced("\"live\"", "\"LIVE\"").replace("\"baseline\"", "\"live\"").replace("\"LIVE\"", "\"baseline\"");
    check(
        &swapped,
        &["scenario.toml:20:7: phase `second` (baseline) comes after phase `first` (live); \
            put phases in the order baseline, live, evaluate"],
    );
    check(
        &replaced("\"baseline\"", "\"live\""),
        &["scenario.toml:1:1: no phase has use = \"baseline\"; add a [[phase]] at the start to train version 1 on"],
    );
    check(
        &replaced("\"evaluate\"", "\"live\""),
        &["scenario.toml:1:1: no phase has use = \"evaluate\"; add a [[phase]] to score at the end"],
    );
    check(
        &replaced("calibration_rows = -1", "calibration_rows = 0"),
        &["scenario.toml:15:20: baseline `first` has no known-normal rows to train version 1 on; \
            write -1 if all rows are normal"],
    );
}

#[test]
fn an_evaluation_needs_labels() {
    check(
        &replaced("label_column = \"anomaly\"\n", ""),
        &["scenario.toml:25:7: phase `third` is evaluated, but there is no label_column; \
            name the column that says what is anomalous"],
    );
    check_data(
        "data/judged.csv",
        "time;flow;pressure;anomalies\n2020-03-09 11:00:00;1;2;0\n",
        &["data/judged.csv:1: there is no column `anomaly` (the labels to score with); separated by ';' \
            the columns are `time`, `flow`, `pressure`, `anomalies`; did you mean `anomalies`?"],
    );
    check_data(
        "data/judged.csv",
        "time;flow;pressure;anomaly\n2020-03-09 11:00:00;1;2;yes\n",
        &["data/judged.csv:2: `yes` in column `anomaly` is no finite number; write it like 12.5 or 1e-3"],
    );
}

#[test]
fn a_missing_file_is_told_with_the_phase_that_names_it() {
    let files = Files::new(&replaced("[\"live.csv\"]", "[\"live.csv\", \"gone.csv\"]"));
    assert_eq!(
        files.problems(),
        ["scenario.toml:19:22: phase `second` names `gone.csv`, but there is no file data/gone.csv; \
            write a path relative to root `data`"]
    );
    let problems = Files::new(&replaced("\"data\"", "\"nowhere\"")).problems();
    assert_eq!(problems, ["scenario.toml:3:8: there is no folder nowhere; write `root` relative to this file"]);
}

#[test]
fn a_missing_column_is_told_with_the_columns_there_are() {
    check_data(
        "data/normal.csv",
        "Time;pressure;Flow rate\n2020-02-08 13:30:47;1;2\n",
        &[
            "data/normal.csv:1: there is no column `time` (the time); separated by ';' \
             the columns are `Time`, `pressure`, `Flow rate`; did you mean `Time`?",
            "data/normal.csv:1: there is no column `flow` (a channel); separated by ';' \
             the columns are `Time`, `pressure`, `Flow rate`; did you mean `Flow rate`?",
        ],
    );
    check_data(
        "data/normal.csv",
        "time;flow;flow;pressure\n2020-02-08 13:30:47;1;2;3\n",
        &["data/normal.csv:1: column `flow` (a channel) stands twice in the header; name each column once"],
    );
}

#[test]
fn a_bad_row_is_told_with_its_line() {
    check_data(
        "data/normal.csv",
        "time;pressure;flow\n2020-02-08 13:30:47;1;2\n2020-02-08 13:30:48;1\n08.02.2020;1;2\n\
         2020-02-08 13:30:50;NaN;2\n2020-02-08 13:30:51;1;1,5\n2020-02-08 13:30:52;\"1;2\n\n2020-02-08 13:30:53;1;2\n",
        &[
            "data/normal.csv:3: the number of fields is 2; the header names 3 columns",
            "data/normal.csv:4: `08.02.2020` is no time; write it as `%Y-%m-%d %H:%M:%S`",
            "data/normal.csv:5: `NaN` in column `pressure` is no finite number; write it like 12.5 or 1e-3",
            "data/normal.csv:6: `1,5` in column `flow` is no finite number; write it like 12.5 or 1e-3",
            "data/normal.csv:7: the quote before `1;2` is not closed on its line; close it",
            "data/normal.csv:8: the number of fields is 1; the header names 3 columns",
        ],
    );
}

#[test]
fn a_file_without_rows_is_refused() {
    let empty = "data/normal.csv:1: the file is empty; it needs a header line and at least one row";
    check_data("data/normal.csv", "", &[empty]);
    check_data("data/normal.csv", "\r\n\n", &[empty]);
    let rowless = "data/normal.csv:1: the file has a header line but no row; it needs at least one";
    check_data("data/normal.csv", "time;pressure;flow\n", &[rowless]);
}

#[test]
fn problems_of_the_scenario_and_of_all_its_files_are_told_together_up_to_ten() {
    let bad = format!("time;pressure;flow\n{}", "2020-02-08 13:30:47;x;2\n".repeat(4));
    let files = Files::new(&replaced("[\"live.csv\"]", "[\"gone.csv\"]"))
        .with("data/normal.csv", &bad)
        .with("data/judged.csv", "time\n");
    let problems = files.problems();
    assert_eq!(problems.len(), 4 + 1 + 3, "{problems:?}");
    let error = files.with("data/normal.csv", bad.repeat(10)).load().expect_err("wrong").to_string();
    assert!(error.contains("scenario.toml: there are more than 10 problems, the first are\n  "), "{error}");
    assert_eq!(error.lines().count(), 1 + MAX_PROBLEMS);
}

#[test]
fn a_scenario_file_that_is_missing_or_huge_is_refused() {
    let folder = tempfile::tempdir().expect("creates");
    let path = folder.path().join("none.toml");
    let error = Scenario::load(&path).expect_err("missing").to_string();
    assert!(error.starts_with(&format!("read scenario file {}: ", path.display())), "{error}");
    fs::write(&path, vec![b'#'; 1 + usize::try_from(MAX_SCENARIO_BYTES).expect("fits")]).expect("writes");
    assert!(matches!(Scenario::load(&path), Err(ScenarioError::TooLarge { .. })));
}

#[test]
fn the_skab_scenario_is_read_where_it_is_present() {
    let Some(scenario) = skab() else { return };
    let scenario = Scenario::load(&scenario).expect("loads");
    let rows = |purpose| {
        let phases = scenario.phases.iter().filter(move |phase| phase.purpose == purpose);
        phases.flat_map(|phase| &phase.recordings).flat_map(|recording| &recording.rows)
    };
    assert_eq!(rows(Purpose::Baseline).count(), 9_405);
    assert_eq!(rows(Purpose::Live).count(), 9_012);
    assert_eq!(rows(Purpose::Live).filter(|row| row.known_normal).count(), 8 * 400);
    assert_eq!(rows(Purpose::Evaluate).count(), 9_148);
    assert_eq!(rows(Purpose::Evaluate).filter(|row| row.label == Some(true)).count(), 3_203);
    let first = rows(Purpose::Baseline).next().expect("a row");
    assert_eq!((first.time_ms, first.values[0], first.label), (1_581_168_647_000, 0.202_394, None));
}

#[expect(clippy::disallowed_methods, reason = "whoever runs the tests says where the data is, and it may be nowhere")]
fn skab() -> Option<PathBuf> {
    let Some(data) = std::env::var_os("TIDELINE_DATA") else {
        eprintln!("skipped: set TIDELINE_DATA to the folder that holds skab/ to run this test");
        return None;
    };
    Some(Path::new(&data).join("skab/scenarios/operating-point.toml"))
}
