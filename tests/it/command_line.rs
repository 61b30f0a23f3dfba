//! The programs' command lines: exit codes and messages.

use std::path::Path;
use std::process::{Command, Output};

use tests::program;

fn run(name: &str, arguments: &[&str]) -> (Output, String) {
    let output = Command::new(program(name).expect("built")).args(arguments).output().expect("runs");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    (output, said)
}

fn printed(name: &str, arguments: &[&str]) -> String {
    let (output, said) = run(name, arguments);
    assert!(output.status.success(), "{said}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn text(path: &Path) -> &str {
    path.to_str().expect("utf-8")
}

#[test]
fn a_wrong_configuration_is_shown_at_its_place_with_exit_code_78() {
    let directory = tempfile::tempdir().expect("dir");
    let file = directory.path().join("agent.toml");
    std::fs::write(&file, "[agent]\nname = \"a b\"\nstate_directory = \"x\"\n[mqtt]\nurl = \"mqtt://h\"\n")
        .expect("writes");
    let (output, said) = run("edge-agent", &["check-config", "--config", text(&file)]);
    assert_eq!(output.status.code(), Some(78), "{said}");
    assert!(said.contains("agent.toml:"), "{said}");
    std::fs::write(&file, "[hub]\ndata_directory = \"x\"\nnonsense = 1\n").expect("writes");
    let (output, said) = run("cloud-hub", &["check-config", "--config", text(&file)]);
    assert_eq!(output.status.code(), Some(78), "{said}");
    assert!(said.contains("agent.toml:3:1") && said.contains("nonsense"), "{said}");
}

#[test]
fn certificates_are_made_and_never_overwritten() {
    let directory = tempfile::tempdir().expect("dir");
    let folder = text(directory.path());
    let init = ["ca", "init", "--directory", folder];
    assert!(run("cloud-hub", &init).0.status.success());
    let issue = ["ca", "issue", "--directory", folder, "--output", folder, "--agent", "box-1"];
    assert!(run("cloud-hub", &issue).0.status.success());
    assert!(directory.path().join("box-1.key").exists());
    let (output, said) = run("cloud-hub", &init);
    assert_eq!(output.status.code(), Some(1));
    assert!(said.contains("ca.key"), "{said}");
    let (output, said) = run("cloud-hub", &["ca", "issue", "--directory", folder, "--output", folder]);
    assert_eq!(output.status.code(), Some(2), "{said}");
    std::fs::rename(directory.path().join("ca.key"), directory.path().join("safe.key")).expect("moves");
    let (output, said) = run("cloud-hub", &["ca", "issuer", "--directory", folder]);
    assert_eq!(output.status.code(), Some(1));
    assert!(said.contains("ca.key") && said.contains("say where with --root-key"), "{said}");
    let safe = directory.path().join("safe.key");
    assert!(run("cloud-hub", &["ca", "issuer", "--directory", folder, "--root-key", text(&safe)]).0.status.success());
}

#[test]
fn asking_for_the_status_of_an_agent_that_does_not_run_says_so() {
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/config/agent.toml");
    let (output, said) = run("edge-agent", &["status", "--config", text(&example)]);
    assert_eq!(output.status.code(), Some(1));
    assert!(said.contains("is it running?"), "{said}");
}

#[test]
fn a_file_that_is_no_package_is_refused_by_name() {
    let directory = tempfile::tempdir().expect("dir");
    let file = directory.path().join("x.tide");
    std::fs::write(&file, "not a package").expect("writes");
    let (output, said) = run("cloud-hub", &["package", "inspect", text(&file)]);
    assert_eq!(output.status.code(), Some(1));
    assert!(said.contains("x.tide") && said.contains("this is no package"), "{said}");
}

#[test]
fn a_program_for_boxes_is_looked_into_like_a_package() {
    let directory = tempfile::tempdir().expect("dir");
    let at = |name: &str| text(&directory.path().join(name)).to_owned();
    std::fs::write(at("program"), "#!/bin/sh\n").expect("writes");
    let create = |file: &str| {
        let said = printed("cloud-hub", &["key", "create", "--output", &at(file)]);
        said.split_whitespace().find(|word| word.starts_with("ed25519:")).expect("a public key").to_owned()
    };
    let (key, other) = (create("release.key"), create("other.key"));
    let (file, key_file) = (at("program.tidp"), at("release.key"));
    let made = ["package", "program", &at("program"), "--target", "aarch64-unknown-linux-musl", "--number", "7"];
    printed("cloud-hub", &[&made[..], &["--key", &key_file, "--output", &file]].concat());
    let shown = printed("cloud-hub", &["package", "inspect", &file]);
    assert!(shown.contains("for aarch64-unknown-linux-musl, made ") && shown.contains("number      7"), "{shown}");
    let trusted = printed("cloud-hub", &["package", "verify", &file, "--trust", &key]);
    assert!(trusted.contains("hashes hold; program ") && trusted.contains("which is trusted"), "{trusted}");
    let (output, said) = run("cloud-hub", &["package", "verify", &file, "--trust", &other]);
    assert_eq!(output.status.code(), Some(1));
    assert!(said.contains("is not signed by a trusted key"), "{said}");
}

#[test]
fn options_that_say_which_hub_stand_anywhere() {
    for order in [
        ["ctl", "--hub", "http://127.0.0.1:1", "enroll", "list"],
        ["ctl", "enroll", "list", "--hub", "http://127.0.0.1:1"],
    ] {
        let (output, said) = run("cloud-hub", &order);
        assert_eq!(output.status.code(), Some(4), "{said}");
        assert!(said.contains("--token-file"), "{said}");
    }
    let help = printed("cloud-hub", &["ctl", "image", "prepare", "--help"]);
    assert!(help.contains("--output <IMAGE>") && !help.contains("table, json or csv"), "{help}");
}
