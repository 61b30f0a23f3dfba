//! What other software publishes, published by another's client to a real broker: taken in, shown and learnt.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use serde_json::Value;
use tests::torture::broker::{self, Broker};
use tests::{Process, free_port, pause, program, wait_until};

const DEADLINE: Duration = Duration::from_secs(30);

/// Inputs for what is published below.
const INPUTS: &str = r#"
[[input]]
name = "zigbee"
preset = "zigbee2mqtt"
feature = [{ name = "temperature", path = "$.temperature" }, { name = "contact", path = "$.contact" }]
[[input]]
name = "tasmota"
preset = "tasmota"
feature = [{ name = "temperature", path = "$.DS18B20.Temperature" }, { name = "power", path = "$.ENERGY.Power" }]
[[input]]
name = "homie"
preset = "homie5"
feature = [{ name = "temperature", field = "climate/temperature" }, { name = "heats", field = "relay/on" }]
[[input]]
name = "thin-edge"
preset = "thin_edge"
feature = [{ name = "temperature", path = "$.temperature" }, { name = "x", path = "$.acceleration.x" }]
[[input]]
name = "values"
format = "value"
topic = "hall/{press}/{quantity}"
key = "{press}"
feature = [{ name = "force" }, { name = "valve", values = { OPEN = 1, CLOSED = 0 } }]
[[input]]
name = "telegraf"
format = "influx"
topic = "telegraf/{host}"
key = "{host}/{measurement}"
feature = [{ name = "usage_idle" }, { name = "usage_user" }]
[[input]]
name = "senml"
format = "senml"
topic = "senml"
key = "{base}"
feature = [{ name = "voltage" }, { name = "current" }]
"#;

/// Messages as the software's own documentation shows them, and the streams and readings they come to.
const MESSAGES: [(&str, &str); 12] = [
    ("zigbee2mqtt/door", r#"{"battery":100,"contact":true,"linkquality":86,"voltage":3025}"#),
    ("zigbee2mqtt/door", r#"{"temperature":27.34,"humidity":44.72,"last_seen":"2026-11-28T12:00:00.000Z"}"#),
    ("zigbee2mqtt/door", r#"{"contact":false}"#),
    (
        "tele/boiler/SENSOR",
        r#"{"Time":"2026-11-28T12:00:00","DS18B20":{"Id":"00","Temperature":21.3},"ENERGY":{"Power":861},"TempUnit":"C"}"#,
    ),
    ("homie/5/attic/climate/temperature", "21.5"),
    ("homie/5/attic/relay/on", "true"),
    (
        "te/device/main///m/environment",
        r#"{"temperature":23.4,"acceleration":{"x":0.01},"time":"2026-11-28T12:00:00Z"}"#,
    ),
    ("hall/press1/force", "1200.5"),
    ("hall/press1/valve", "OPEN"),
    ("telegraf/box", "cpu,cpu=cpu-total usage_idle=91.5,usage_user=3i 1795867200000000000\nmem free=1i\n"),
    (
        "senml",
        r#"[{"bn":"urn:dev:ow:10e2073a01080063:","bt":1795867200,"n":"voltage","u":"V","v":120.1},{"n":"current","u":"A","v":1.2}]"#,
    ),
    ("hall/press1/force", "much"),
];

fn is_there() -> bool {
    let is_there = broker::program().is_some() && Path::new("/usr/bin/mosquitto_pub").exists();
    if !is_there {
        println!("skipped: mosquitto is not installed (Debian, Ubuntu: apt-get install mosquitto mosquitto-clients)");
    }
    is_there
}

fn publish(broker: &Broker, topic: &str, payload: &str) {
    let port = broker.address().port().to_string();
    let done = Command::new("/usr/bin/mosquitto_pub")
        .args(["-h", "127.0.0.1", "-p", &port, "-V", "5", "-q", "1", "-t", topic, "-m", payload])
        .output()
        .expect("runs");
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
}

/// What the broker keeps on a topic.
fn retained(broker: &Broker, topic: &str) -> Value {
    let port = broker.address().port().to_string();
    let done = Command::new("/usr/bin/mosquitto_sub")
        .args(["-h", "127.0.0.1", "-p", &port, "-C", "1", "-W", "10", "-t", topic])
        .output()
        .expect("runs");
    serde_json::from_slice(&done.stdout).unwrap_or_else(|error| panic!("{topic}: {error}"))
}

/// What the box's page has at a path.
fn get(at: SocketAddr, path: &str) -> String {
    let mut stream = TcpStream::connect(at).expect("connects");
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {at}\r\n\r\n").expect("asks");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("answers");
    let (head, body) = answer.split_once("\r\n\r\n").expect("a whole answer");
    assert!(head.starts_with("HTTP/1.1 200 OK"), "{head}");
    body.to_owned()
}

/// By Prometheus' own tool, if it is installed.
fn are_good_metrics(metrics: &str) {
    let tool = Command::new("promtool").args(["check", "metrics"]).stdin(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let Ok(mut tool) = tool else {
        println!("skipped promtool: it is not installed (Debian, Ubuntu: apt-get install prometheus)");
        return;
    };
    tool.stdin.take().expect("piped").write_all(metrics.as_bytes()).expect("writes");
    let done = tool.wait_with_output().expect("ends");
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
}

fn configuration(directory: &Path, broker: &Broker, inputs: &str) -> String {
    let path = directory.join("agent.toml");
    let head = format!(
        "[agent]\nname = \"box\"\nstate_directory = \"state\"\n[mqtt]\nurl = \"mqtt://{}\"\n[spool]\nmax_bytes = 16777216\n",
        broker.address()
    );
    fs::write(&path, head + inputs).expect("writes");
    path.display().to_string()
}

fn agent(arguments: &[&str]) -> Output {
    Command::new(program("edge-agent").expect("built")).args(arguments).output().expect("runs")
}

/// Starts a command that listens, and waits until it does.
fn listening(arguments: &[&str], log: &Path) -> Child {
    let errors = fs::File::create(log).expect("log");
    let child = Command::new(program("edge-agent").expect("built"))
        .args(arguments)
        .stdout(Stdio::piped())
        .stderr(errors)
        .spawn()
        .expect("starts");
    let said = || fs::read_to_string(log).unwrap_or_default();
    assert!(wait_until(DEADLINE, || said().contains("listening to")), "{}", said());
    child
}

#[test]
fn what_other_software_publishes_is_taken_in_as_it_is() {
    if !is_there() {
        return;
    }
    let directory = tempfile::tempdir().expect("dir");
    let broker = Broker::without_persistence(directory.path()).expect("starts");
    let page = free_port().expect("port");
    let listen = format!("[page]\nlisten = \"lo:{}\"\n", page.port());
    let seen = format!("[publish]\nhome_assistant = true\nthin_edge = true\n{listen}");
    let config = configuration(directory.path(), &broker, &format!("{INPUTS}{seen}"));
    let status = || -> Option<Value> {
        serde_json::from_slice(&agent(&["status", "--config", &config, "--output", "json"]).stdout).ok()
    };
    let running = Process::start("edge-agent", &["run", "--config", &config], &directory.path().join("log"));
    let running = running.expect("starts");
    assert!(wait_until(DEADLINE, || status().is_some_and(|status| status["broker"]["connected"] == true)));
    MESSAGES.iter().for_each(|(topic, payload)| publish(&broker, topic, payload));
    assert!(wait_until(DEADLINE, || status()
        .is_some_and(|status| status["readings"]["rejected"].as_object().is_some_and(|rejected| rejected.len() == 2))));
    let status = status().expect("runs");
    let streams: BTreeMap<&str, u64> = status["streams"]
        .as_array()
        .expect("streams")
        .iter()
        .map(|stream| (stream["stream"].as_str().unwrap_or_default(), stream["accepted"].as_u64().unwrap_or_default()))
        .collect();
    let expected = BTreeMap::from([
        ("attic", 1),
        ("boiler", 1),
        ("box/cpu", 1),
        ("door", 2),
        ("main/environment", 1),
        ("press1", 1),
        ("urn:dev:ow:10e2073a01080063", 1),
    ]);
    assert_eq!(streams, expected);
    assert_eq!(status["readings"]["held"], 3, "the first of what comes together: door, attic, press1");
    assert_eq!(status["readings"]["rejected"], serde_json::json!({ "missing_channel": 1, "not_a_number": 1 }));

    let shown = get(page, "/status.json");
    let shown: Value = serde_json::from_str(&shown).expect("JSON");
    let press = shown["newest"].as_array().expect("readings").iter().find(|newest| newest["stream"] == "press1");
    assert_eq!(press.expect("it is shown")["values"]["valve"], 1.0);
    assert!(get(page, "/").contains("<title>Tideline box</title>"));
    let metrics = get(page, "/metrics");
    assert!(metrics.contains("\ntideline_agent_readings_accepted_total 8\n"), "{metrics}");
    are_good_metrics(&metrics);
    let report: Value = serde_json::from_str(&get(page, "/doctor.json")).expect("JSON");
    let agents_own = &report["checks"][1];
    assert_eq!((&agents_own["check"], &agents_own["state"]), (&"agent".into(), &"ok".into()), "{report}");
    assert_eq!(report["healthy"], true, "{report}");

    let device = retained(&broker, "homeassistant/device/tideline_box/config");
    assert_eq!(device["availability_topic"], "tideline/box/availability");
    assert_eq!(device["cmps"]["readings"]["state_topic"], "tideline/box/status");
    let health = "te/device/main/service/tideline-edge/status/health";
    assert_eq!(retained(&broker, health)["status"], "up");
    assert_eq!(retained(&broker, "te/device/main/service/tideline-edge")["@type"], "service");
    running.stop().expect("stops");
    assert_eq!(retained(&broker, health)["status"], "down");
}

#[test]
fn a_configuration_is_tried_on_what_is_published() {
    if !is_there() {
        return;
    }
    let directory = tempfile::tempdir().expect("dir");
    let broker = Broker::without_persistence(directory.path()).expect("starts");
    let config = configuration(directory.path(), &broker, INPUTS);
    let log = directory.path().join("try.log");
    let number = MESSAGES.len().to_string();
    let trying = listening(&["try", "--config", &config, "--messages", &number, "--output", "json"], &log);
    MESSAGES.iter().for_each(|(topic, payload)| publish(&broker, topic, payload));
    let done = trying.wait_with_output().expect("ends");
    let said = fs::read_to_string(&log).expect("reads");
    assert!(done.status.success(), "{said}");
    assert!(
        said.ends_with("12 messages: 8 readings, 3 held, 2 rejected (missing_channel 1, not_a_number 1)\n"),
        "{said}"
    );
    let lines: Vec<Value> =
        String::from_utf8_lossy(&done.stdout).lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert_eq!(lines[3]["outcomes"][0]["reading"]["values"]["power"], 861.0);
    assert_eq!(lines[9]["outcomes"][1]["rejected"]["reason"], "missing_channel");

    fs::create_dir(directory.path().join("state")).expect("makes");
    let examining = Command::new(program("edge-agent").expect("built"))
        .args(["doctor", "--config", &config, "--for", "3", "--output", "json"])
        .stdout(Stdio::piped())
        .spawn()
        .expect("starts");
    for _ in 0..5 {
        publish(&broker, MESSAGES[6].0, MESSAGES[6].1);
        publish(&broker, MESSAGES[11].0, MESSAGES[11].1);
        pause(Duration::from_millis(200));
    }
    let done = examining.wait_with_output().expect("ends");
    let report: Value = serde_json::from_slice(&done.stdout).expect("JSON");
    assert!(done.status.success() && report["healthy"] == true, "{report}");
    let state = |part: &str| {
        let checks = report["checks"].as_array().expect("checks").clone();
        checks.into_iter().find(|check| check["check"] == part).expect("it was looked at")
    };
    let parts = [("broker", "ok"), ("subscription", "ok"), ("messages", "warning"), ("disk", "ok"), ("hub", "skipped")];
    parts.iter().for_each(|(part, expected)| assert_eq!(state(part)["state"], *expected, "{report}"));
    assert!(state("messages")["saw"].as_str().unwrap_or_default().contains("\"force\" is no number"), "{report}");

    // A box that was not enrolled yet has no name, and can be looked at all the same.
    let nameless = directory.path().join("nameless.toml").display().to_string();
    let text = fs::read_to_string(&config).expect("reads").replace("name = \"box\"\n", "");
    fs::write(&nameless, text).expect("writes");
    let checked = agent(&["check-config", "--config", &nameless]);
    let said = String::from_utf8_lossy(&checked.stdout).into_owned();
    assert!(said.ends_with("is a good configuration; the box gets its name when it is enrolled\n"), "{said}");
    let done = agent(&["doctor", "--config", &nameless, "--for", "1", "--output", "json"]);
    let report: Value = serde_json::from_slice(&done.stdout).expect("JSON");
    let failed = report["checks"].as_array().into_iter().flatten().filter(|check| check["state"] == "failed");
    let failed: Vec<&Value> = failed.map(|check| &check["check"]).collect();
    assert_eq!((done.status.code(), failed), (Some(1), vec![&Value::from("certificate")]), "{report}");

    let given = agent(&["try", "--config", &nameless, "--topic", "hall/press2/force", "--payload", "7"]);
    let text = String::from_utf8_lossy(&given.stdout);
    assert_eq!(
        text,
        "hall/press2/force  (input values)\n  held      it is kept until the channel \"valve\" has a value, too\n"
    );
    let silent = agent(&["try", "--config", &config, "--for", "1"]);
    assert_eq!(silent.status.code(), Some(4), "nothing came");
    assert!(String::from_utf8_lossy(&silent.stderr).contains("no message came within 1 s on "));
}

#[test]
fn inputs_are_learnt_from_what_is_published_and_take_it_in() {
    if !is_there() {
        return;
    }
    let directory = tempfile::tempdir().expect("dir");
    let broker = Broker::without_persistence(directory.path()).expect("starts");
    // No inputs yet.
    let config = configuration(directory.path(), &broker, "");
    let log = directory.path().join("learn.log");
    let learning = listening(&["learn-input", "#", "--config", &config, "--for", "3"], &log);
    // The last one is no number, which makes `hall` no input of numbers.
    MESSAGES[..11].iter().for_each(|(topic, payload)| publish(&broker, topic, payload));
    let done = learning.wait_with_output().expect("ends");
    let said = fs::read_to_string(&log).expect("reads");
    assert!(done.status.success(), "{said}");
    let inputs = String::from_utf8_lossy(&done.stdout);
    for preset in ["zigbee2mqtt", "tasmota", "homie5", "thin_edge"] {
        assert!(inputs.contains(&format!("preset = \"{preset}\"")), "{preset}: {inputs}");
    }
    for format in ["value", "influx", "senml"] {
        assert!(inputs.contains(&format!("format = \"{format}\"")), "{format}: {inputs}");
    }
    let config = configuration(directory.path(), &broker, &inputs);
    let checked = agent(&["check-config", "--config", &config]);
    assert!(checked.status.success(), "{}\n{inputs}", String::from_utf8_lossy(&checked.stderr));
    let tried = agent(&["try", "--config", &config, "--topic", MESSAGES[6].0, "--payload", MESSAGES[6].1]);
    assert!(String::from_utf8_lossy(&tried.stdout).contains("reading   main/environment"), "{inputs}");
}
