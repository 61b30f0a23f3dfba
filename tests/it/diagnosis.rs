//! A box that is asked from afar how it is, and says it all but its secrets.

use std::fs;
use std::process::Command;
use std::time::Duration;

use serde_json::Value;
use tests::{Process, program, wait_until};

use crate::enrolment::Site;

const DEADLINE: Duration = Duration::from_secs(40);

#[test]
fn a_box_says_everything_but_its_secrets_to_an_operator_who_asks() {
    let site = Site::start();
    let pump = site.make_box("pump");
    let config = fs::read_to_string(pump.config()).expect("reads");
    let password = site.path("broker.password");
    fs::write(&password, "hunter2hunter2\n").expect("writes");
    let login = format!("username = \"pump\"\npassword_file = \"{}\"\n", password.display());
    fs::write(pump.config(), config.replace("[[input]]", &format!("{login}[[input]]"))).expect("writes");
    let enrolled = pump.enroll(&["--token", &site.token(&[]), "--name", "pump-7"]);
    assert!(enrolled.status.success(), "{}", String::from_utf8_lossy(&enrolled.stderr));

    let away = site.ctl(&["diagnose", "pump-7"]);
    assert_eq!(away.status.code(), Some(3), "the hub never heard of it: {}", String::from_utf8_lossy(&away.stderr));
    let agent = pump.run();
    let is_shown = || site.ctl(&["agents", "pump-7"]).status.success();
    assert!(wait_until(DEADLINE, || site.is_connected("pump-7") && is_shown()), "{}", site.said("pump"));
    // Configurations are changed under running agents, with mistakes.
    let broken = fs::read_to_string(pump.config()).expect("reads") + "\n[mqqt]\npassword = \"geheimgeheim\"\n";
    fs::write(pump.config(), broken).expect("writes");
    let document = site.json(&["diagnose", "pump-7"]);
    assert_eq!((&document["agent"], &document["status"]["agent"]), (&"pump-7".into(), &"pump-7".into()));
    let seen = document["doctor"]["checks"][0]["saw"].as_str().unwrap_or_default().to_owned();
    assert!(seen.contains("mqqt"), "{document:#}");
    let shown = document.to_string();
    assert!(!shown.contains("geheimgeheim") && !shown.contains("hunter2"), "{document:#}");

    fs::write(pump.config(), config.replace("[[input]]", &format!("{login}[[input]]"))).expect("writes");
    let document = site.json(&["diagnose", "pump-7"]);
    let checks = document["doctor"]["checks"].as_array().cloned().unwrap_or_default();
    let state = |part: &str| checks.iter().find(|check| check["check"] == part).map(|check| check["state"].clone());
    assert_eq!((state("hub"), state("broker")), (Some("ok".into()), Some("failed".into())), "{document:#}");
    let log = document["log"].as_array().cloned().unwrap_or_default();
    assert!(log.iter().any(|line| line.as_str().is_some_and(|line| line.contains("started"))), "{document:#}");
    assert!(document["configuration"].as_str().is_some_and(|text| text.contains("plant/{pump}")), "{document:#}");
    assert!(!document.to_string().contains("hunter2"), "{document:#}");
    let history = String::from_utf8_lossy(&site.ctl(&["history"]).stdout).into_owned();
    assert!(history.contains("agents/pump-7/diagnosis"), "{history}");

    // Two who ask at once are both answered.
    let asked = || site.ctl(&["diagnose", "pump-7"]).status.success();
    let answered =
        std::thread::scope(|scope| [(); 2].map(|()| scope.spawn(asked)).map(|one| one.join().unwrap_or(false)));
    assert_eq!(answered, [true; 2], "{}", site.said("pump"));

    let said = site.ctl(&["diagnose", "pump-7", "--output", "table"]);
    let said = String::from_utf8_lossy(&said.stdout).into_owned();
    assert!(said.contains("failed   broker"), "{said}");
    agent.stop().expect("stops");
    assert!(wait_until(DEADLINE, || !site.is_connected("pump-7")));
    let away = site.ctl(&["diagnose", "pump-7"]);
    assert_eq!(away.status.code(), Some(5), "{}", String::from_utf8_lossy(&away.stderr));

    // On the box itself the same can be had without an agent that runs and a hub that asks.
    let document = pump.command(&["diag"]).output().expect("runs");
    let document: Value = serde_json::from_slice(&document.stdout).expect("JSON");
    assert_eq!((&document["agent"], &document["status"]), (&"pump-7".into(), &Value::Null), "{document:#}");
    let checks = document["doctor"]["checks"].as_array().map_or(0, Vec::len);
    assert!(checks > 8 && !document.to_string().contains("hunter2"), "{document:#}");
}

#[test]
fn the_spool_gets_what_the_rest_of_the_state_leaves_of_a_budget() {
    const MIB: u64 = 1024 * 1024;
    let directory = tempfile::tempdir().expect("dir");
    let config = directory.path().join("agent.toml");
    let text = format!(
        "[agent]\nname = \"box\"\nstate_directory = \"state\"\nmax_disk_bytes = {}\n[mqtt]\nurl = \"mqtt://127.0.0.1:1\"\n\
         [[input]]\nname = \"x\"\ntopic = \"a/{{b}}\"\nkey = \"{{b}}\"\nfeature = [{{ name = \"t\", path = \"$.t\" }}]\n",
        64 * MIB
    );
    fs::write(&config, text).expect("writes");
    let programs = directory.path().join("state/programs");
    fs::create_dir_all(&programs).expect("makes");
    fs::write(programs.join("ballast"), vec![0; 30 * MIB as usize]).expect("writes");
    let config = config.display().to_string();
    let log = directory.path().join("log");
    let agent = Process::start("edge-agent", &["run", "--config", &config], &log).expect("starts");
    let limit = || {
        let asked = ["status", "--config", &config, "--output", "json"];
        let said = Command::new(program("edge-agent").expect("built")).args(asked).output().expect("runs");
        let status: Value = serde_json::from_slice(&said.stdout).unwrap_or_default();
        status["spool_max_bytes"].as_u64().unwrap_or(0)
    };
    let is_left = wait_until(DEADLINE, || (30 * MIB..=34 * MIB).contains(&limit()));
    assert!(is_left, "{} bytes: {}", limit(), fs::read_to_string(&log).unwrap_or_default());
    agent.stop().expect("stops");
}
