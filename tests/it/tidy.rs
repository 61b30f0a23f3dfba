//! What the architecture says is absent, checked: dependencies that may not exist, names that may not be said, files
//! that may not grow. Reads sources and manifests only; each failure names the file, the line, the rule and its reason.

mod source;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use self::source::{Source, files_below};

/// Code lines of one file, test code not counted. Larger files hide more than one idea.
const MAX_FILE_LINES: usize = 600;
/// The first quinn-proto without a known way to take the hub down from outside.
const QUINN_PROTO_FLOOR: (u64, u64, u64) = (0, 11, 18);

const EDGE_SHELLS: [&str; 7] = ["ingest", "spool", "infer", "store", "artifacts", "link", "page"];
const HUB_SHELLS: [&str; 8] = ["link", "ingest_log", "samples", "store", "artifacts", "train", "tracked_files", "api"];

/// What a core may not name: everything that differs between two runs of the same inputs.
const NOT_IN_CORES: [&str; 22] = [
    "tokio",
    "quinn",
    "rumqttc",
    "sled",
    "sqlx",
    "object_store",
    "parquet",
    "burn",
    "axum",
    "rand",
    "std::fs",
    "std::net",
    "std::env",
    "std::thread",
    "std::process",
    "Instant::now",
    "SystemTime::now",
    "Utc::now",
    "Local::now",
    "HashMap",
    "HashSet",
    "RandomState",
];

/// What `shared` may not name: it is linked into everything, on boxes and in simulations.
const NOT_IN_SHARED: [&str; 8] = ["tokio", "quinn", "quinn_proto", "sled", "sqlx", "rumqttc", "axum", "std::net"];

const CLOCK_READS: [&str; 4] = ["Instant::now", "SystemTime::now", "Utc::now", "Local::now"];

#[test]
fn cores_name_no_io_no_clock_no_runtime_and_no_hash_order() {
    let mut found = Vec::new();
    for file in sources(&["edge-agent/src", "cloud-hub/src"]).iter().filter(|file| is_core(file)) {
        named(file, &NOT_IN_CORES, &mut found);
    }
    report("cores are pure state machines", "a simulation must replay every interleaving from a seed", &found);
}

#[test]
fn shells_do_not_import_each_other_and_only_the_wiring_imports_several() {
    let mut found = Vec::new();
    for (side, shells, wiring) in [("edge-agent", &EDGE_SHELLS[..], "agent"), ("cloud-hub", &HUB_SHELLS[..], "hub")] {
        for file in sources(&[&format!("{side}/src")]) {
            stray_shell_imports(&file, shells, wiring, &mut found);
        }
    }
    report(
        "a shell does one kind of IO and knows no other shell; only agent.rs, hub.rs and main.rs wire several",
        "a shell that calls another hides a decision the core should make and the simulation should see",
        &found,
    );
}

#[test]
fn shared_has_no_runtime_no_network_and_one_file_that_touches_a_disk() {
    let mut found = Vec::new();
    for file in sources(&["shared/src"]) {
        named(&file, &NOT_IN_SHARED, &mut found);
        if file.path != "shared/src/seglog/file.rs" {
            named(&file, &["std::fs"], &mut found);
        }
    }
    report("shared does no IO except in seglog/file.rs", "both sides and the simulation link it", &found);
}

#[test]
fn the_two_sides_are_strangers_and_nothing_depends_on_demo_or_tests() {
    let mut found = Vec::new();
    for (package, dependencies) in manifests() {
        for dependency in dependencies {
            let allowed = match dependency.as_str() {
                "edge-agent" | "cloud-hub" => matches!(package.as_str(), "demo" | "tests"),
                "demo" => package == "tests",
                "tests" => false,
                _ => true,
            };
            if !allowed {
                found.push(format!("{package}/Cargo.toml:1: depends on {dependency}"));
            }
        }
    }
    report(
        "edge-agent and cloud-hub meet only in demo and tests; only tests may use demo; nothing uses tests",
        "what both sides agree on belongs into shared, and a box must not carry the hub",
        &found,
    );
}

#[test]
fn burn_is_linked_only_where_models_run_or_train() {
    let mut found = Vec::new();
    for (package, dependencies) in manifests() {
        for dependency in dependencies.iter().filter(|name| *name == "burn" || name.starts_with("burn-")) {
            if !matches!(package.as_str(), "shared" | "cloud-hub") {
                found.push(format!("{package}/Cargo.toml:1: depends on {dependency} directly"));
            }
        }
    }
    let expected = ["cloud-hub", "demo", "edge-agent", "shared", "tests"];
    for package in packages_above("burn").iter().filter(|package| !expected.contains(&package.as_str())) {
        found.push(format!("{package}/Cargo.toml:1: links burn through its dependencies"));
    }
    report(
        "burn comes through shared's feature `model`, or into cloud-hub for training",
        "it takes minutes to build and megabytes to link",
        &found,
    );
}

#[test]
fn shared_without_its_features_links_no_burn() {
    let tree = |features: &[&str]| {
        let plain = ["tree", "-e", "normal", "-p", "shared", "--no-default-features", "--prefix", "none"];
        cargo(&[&plain, features].concat())
    };
    let (plain, with_model) = (tree(&[]), tree(&["--features", "model"]));
    let burns = |tree: &str| tree.lines().any(|line| line.starts_with("burn"));
    assert!(burns(&with_model), "cargo tree no longer shows burn where it must be; this check has gone blind");
    let found =
        if burns(&plain) { vec!["shared/Cargo.toml:1: links burn with no feature on".to_owned()] } else { vec![] };
    report("shared without `model` has no burn", "tools that only read wire or packages must build in seconds", &found);
}

#[test]
fn clocks_are_read_only_in_clock_rs() {
    let mut found = Vec::new();
    for file in sources(&["shared/src", "edge-agent/src", "cloud-hub/src", "demo/src"]) {
        if !file.path.ends_with("/clock.rs") {
            named(&file, &CLOCK_READS, &mut found);
        }
    }
    report("time is read in clock.rs and passed on as a value", "code that reads a clock cannot be simulated", &found);
}

#[test]
fn no_file_grows_beyond_its_limit() {
    let mut found = Vec::new();
    for file in sources(&["shared", "edge-agent", "cloud-hub", "demo", "tests/src"]) {
        let lines = file.own_lines();
        if lines > MAX_FILE_LINES {
            found.push(format!("{}:{lines}: {lines} lines outside test code", file.path));
        }
    }
    report(
        &format!("a file has at most {MAX_FILE_LINES} lines outside test code"),
        "a larger one holds several machines; split it by machine",
        &found,
    );
}

#[test]
fn nothing_is_left_unfinished() {
    // Put together here so that this file does not find itself.
    let marks =
        [["TO", "DO"], ["FIX", "ME"], ["XX", "X"], ["unimple", "mented!"], ["to", "do!"]].map(|half| half.concat());
    let words =
        [["stu", "b"], ["place", "holder"], ["for n", "ow"], ["not yet imple", "mented"]].map(|half| half.concat());
    let mut found = Vec::new();
    for path in files_below(&root(), &[".rs", ".toml", ".md", ".sql", ".sh", "Makefile"]) {
        let text = read(&path);
        for (index, line) in text.lines().enumerate() {
            let lower = line.to_lowercase();
            let mark = marks.iter().find(|mark| stands_alone(line, mark));
            let word = words.iter().find(|word| stands_alone(&lower, word));
            if let Some(hit) = mark.or(word) {
                found.push(format!("{}:{}: says \"{hit}\"", relative(&path), index + 1));
            }
        }
    }
    report(
        "what is in the tree is finished",
        "unfinished work belongs into an issue, where someone looks for it",
        &found,
    );
}

#[test]
fn nothing_outside_tests_unwraps() {
    let calls = [".unwrap()", ".expect("];
    let mut found = Vec::new();
    for file in sources(&["shared/src", "edge-agent/src", "cloud-hub/src"]) {
        let lines: Vec<(usize, &str)> = file.lines().collect();
        for (index, (number, line)) in lines.iter().enumerate() {
            let excused = lines[index.saturating_sub(EXCUSE_LINES)..=index].iter().any(|(_, line)| is_excuse(line));
            for call in calls.iter().filter(|call| line.contains(*call) && !excused) {
                found.push(format!("{}:{number}: calls {call}", file.path));
            }
        }
    }
    report("errors are returned", "an agent in the field has no one to read its panic", &found);
}

#[test]
fn quinn_proto_is_above_its_known_holes() {
    let text = read(&root().join("Cargo.lock"));
    let lines: Vec<&str> = text.lines().collect();
    let mut found = Vec::new();
    let mut seen = false;
    for (index, pair) in lines.windows(2).enumerate().filter(|(_, pair)| pair[0] == "name = \"quinn-proto\"") {
        let version = pair[1].trim_start_matches("version = ").trim_matches('"');
        seen = true;
        if numbers(version) < QUINN_PROTO_FLOOR {
            found.push(format!("Cargo.lock:{}: quinn-proto {version}", index + 2));
        }
    }
    assert!(seen, "Cargo.lock names no quinn-proto; this check has gone blind");
    report("quinn-proto is at least 0.11.18", "older ones panic or fill memory on a stranger's packets", &found);
}

#[test]
fn every_rule_still_finds_its_own_violation() {
    let core =
        Source::parse("edge-agent/src/core/sync.rs", "use std::{fs, time::Instant};\nfn f() { Instant::now(); }");
    let mut found = Vec::new();
    named(&core, &NOT_IN_CORES, &mut found);
    assert!(is_core(&core));
    assert_eq!(
        found,
        ["edge-agent/src/core/sync.rs:1: names std::fs", "edge-agent/src/core/sync.rs:2: names Instant::now"]
    );

    let check = |path: &str, text: &str, expected: usize| {
        let mut found = Vec::new();
        stray_shell_imports(&Source::parse(path, text), &EDGE_SHELLS, "agent", &mut found);
        assert_eq!(found.len(), expected, "{path}: {text}: {found:?}");
    };
    check("edge-agent/src/link.rs", "use crate::store::Store;", 1);
    check("edge-agent/src/link/frames.rs", "use crate::{link::Link, config::Config};", 0);
    check("edge-agent/src/score.rs", "use crate::infer::Runner;", 0);
    check("edge-agent/src/score.rs", "use crate::{infer::Runner, store::Store};", 1);
    check("edge-agent/src/core/spool.rs", "use crate::spool::Spool;", 1);
    check("edge-agent/src/core/sync.rs", "use super::spool::Marks;", 0);
    check("edge-agent/src/agent/effects.rs", "use crate::{infer::Runner, store::Store, link::Link};", 0);

    assert!(stands_alone("an hour ago.", "hour") && !stands_alone("hourly", "hour"));
    assert!(numbers("0.11.17") < QUINN_PROTO_FLOOR && numbers("0.12.0") > QUINN_PROTO_FLOOR);
}

/// Lines above a call in which an `expect` attribute may excuse it: a statement's attribute and its first lines.
const EXCUSE_LINES: usize = 4;

fn is_excuse(line: &str) -> bool {
    line.contains("expect(") && (line.contains("clippy::unwrap_used") || line.contains("clippy::expect_used"))
}

fn is_core(file: &Source) -> bool {
    file.module().first().is_some_and(|module| module == "core")
}

/// Adds a line for each banned name the file says.
fn named(file: &Source, banned: &[&str], found: &mut Vec<String>) {
    for mention in file.mentions() {
        for name in banned.iter().filter(|name| mention.names(name)) {
            found.push(format!("{}:{}: names {name}", file.path, mention.line));
        }
    }
}

/// The largest file that lands: the lock file and a picture are somewhat below.
const LARGEST_FILE_BYTES: u64 = 256 * 1024;

#[test]
fn nothing_large_lands() {
    let listed = std::process::Command::new("git").args(["ls-files", "-z"]).current_dir(root()).output();
    let Some(listed) = listed.ok().filter(|listed| listed.status.success()) else {
        println!("skipped: this is no checkout");
        return;
    };
    let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
    let mut found = Vec::new();
    for file in listed.split('\0').filter(|file| !file.is_empty()) {
        let bytes = std::fs::metadata(root().join(file)).map_or(0, |metadata| metadata.len());
        if bytes > LARGEST_FILE_BYTES {
            found.push(format!("{file}:1: {bytes} bytes"));
        }
    }
    report(
        &format!("a file that lands has at most {LARGEST_FILE_BYTES} bytes"),
        "what is larger was downloaded or built, and stays in the history for ever",
        &found,
    );
}

/// Adds a line for each shell that this file imports without being allowed to.
fn stray_shell_imports(file: &Source, shells: &[&str], wiring: &str, found: &mut Vec<String>) {
    let module = file.module();
    let Some(own) = module.first().map(String::as_str) else {
        return; // lib.rs and main.rs
    };
    if own == wiring {
        return;
    }
    let allowed = if shells.contains(&own) || own == "core" { 0 } else { 1 };
    let mut imported = BTreeSet::new();
    for mention in file.mentions() {
        let Some(target) = mention.inside_crate(&module) else { continue };
        let Some(shell) = target.first().filter(|name| shells.contains(&name.as_str()) && *name != own) else {
            continue;
        };
        if imported.insert(shell.clone()) && imported.len() > allowed {
            found.push(format!("{}:{}: imports the shell {shell}", file.path, mention.line));
        }
    }
}

/// Every workspace member with the names of its direct dependencies of any kind.
fn manifests() -> Vec<(String, Vec<String>)> {
    let text = cargo(&["metadata", "--format-version", "1", "--no-deps"]);
    let metadata: Value =
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("failed to read metadata: {error}"));
    let names = |list: &Value| list.as_array().cloned().unwrap_or_default();
    let name = |entry: &Value| entry["name"].as_str().unwrap_or_default().to_owned();
    let members: Vec<(String, Vec<String>)> = names(&metadata["packages"])
        .iter()
        .map(|package| (name(package), names(&package["dependencies"]).iter().map(name).collect()))
        .collect();
    assert!(members.len() >= 5, "cargo metadata shows {} members; this check has gone blind", members.len());
    members
}

/// The workspace members in whose dependency tree `package` is, under the features tests are built with.
fn packages_above(package: &str) -> BTreeSet<String> {
    let tree = cargo(&["tree", "--workspace", "-i", package, "--prefix", "none", "-f", "{p}"]);
    let above: BTreeSet<String> = tree
        .lines()
        .filter(|line| line.contains(" (/") || line.contains(":\\"))
        .filter_map(|line| line.split_whitespace().next().map(str::to_owned))
        .collect();
    assert!(above.contains("cloud-hub"), "cargo tree no longer shows {package} below cloud-hub: {tree}");
    above
}

/// Runs cargo on this workspace, without the network, and returns what it prints.
fn cargo(arguments: &[&str]) -> String {
    let output = Command::new(env!("CARGO"))
        .args(arguments)
        .args(["--offline", "--locked"])
        .current_dir(root())
        .output()
        .unwrap_or_else(|error| panic!("failed to run cargo {arguments:?}: {error}"));
    assert!(output.status.success(), "cargo {arguments:?} failed:\n{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// The Rust files below these folders, parsed; files that hold nothing but tests are left out.
fn sources(folders: &[&str]) -> Vec<Source> {
    let mut found = Vec::new();
    for folder in folders {
        for path in files_below(&root().join(folder), &[".rs"]) {
            let relative = relative(&path);
            if !relative.ends_with("/tests.rs") && !relative.contains("/tests/") {
                found.push(Source::parse(&relative, &read(&path)));
            }
        }
    }
    assert!(!found.is_empty(), "there are no sources below {folders:?}; this check has gone blind");
    found
}

fn stands_alone(line: &str, word: &str) -> bool {
    let is_part = |character: Option<char>| character.is_some_and(|one| one.is_alphanumeric() || one == '_');
    line.match_indices(word)
        .any(|(at, _)| !is_part(line[..at].chars().next_back()) && !is_part(line[at + word.len()..].chars().next()))
}

fn numbers(version: &str) -> (u64, u64, u64) {
    let mut parts = version.split(['.', '-', '+']).map(|part| part.parse().unwrap_or(0));
    (parts.next().unwrap_or(0), parts.next().unwrap_or(0), parts.next().unwrap_or(0))
}

fn root() -> PathBuf {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    tests.parent().unwrap_or_else(|| panic!("{} has no parent folder", tests.display())).to_owned()
}

fn relative(path: &Path) -> String {
    path.strip_prefix(root()).unwrap_or(path).to_string_lossy().replace('\\', "/")
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("failed to read {}: {error}", path.display()))
}

fn report(rule: &str, reason: &str, found: &[String]) {
    assert!(found.is_empty(), "{} broken: {rule}\n  because {reason}\n  {}", found.len(), found.join("\n  "));
}
