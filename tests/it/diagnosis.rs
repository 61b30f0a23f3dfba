//! A box that is asked from afar how it is, and says it all but its secrets.

use std::fs;
use std::time::Duration;

use tests::wait_until;

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
}
