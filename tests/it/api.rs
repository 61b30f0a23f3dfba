//! The hub's HTTP interface at a running fleet: what is shown, how it is told as it happens, and the dashboard's files.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use demo::hub_api::HubApi;
use serde_json::{Value, json};
use tests::{free_port, program, wait_until};

const DEADLINE: Duration = Duration::from_secs(60);
const STREAM: &str = "plant%2Floop1%2Fpump";

/// The demo's fleet to look around in.
struct Tour {
    child: Child,
    address: std::net::SocketAddr,
    api: HubApi,
    token: String,
    _directory: tempfile::TempDir,
}

impl Drop for Tour {
    fn drop(&mut self) {
        drop((self.child.kill(), self.child.wait()));
    }
}

impl Tour {
    fn start(boxes: usize) -> Self {
        let directory = tempfile::tempdir().expect("dir");
        let data: PathBuf = directory.path().join("data");
        let address = free_port().expect("port");
        let mut command = Command::new(program("demo").expect("built"));
        command.args(["--agents", &boxes.to_string(), "--listen", &address.to_string(), "--data"]).arg(&data);
        let child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn();
        let mut child = child.expect("starts");
        let mut lines = BufReader::new(child.stderr.take().expect("piped")).lines();
        assert!(lines.any(|line| line.is_ok_and(|line| line.contains("everything runs on"))));
        let hub = data.join("hub");
        let token = std::fs::read_to_string(hub.join("access.token")).expect("a token");
        let api = HubApi::new(address, &hub);
        Self { child, address, api, token: token.trim().to_owned(), _directory: directory }
    }

    fn get(&self, path: &str) -> Value {
        self.api.get(path).unwrap_or_else(|error| panic!("{path}: {error:#}"))
    }

    /// Asks with headers; status, headers and what follows, of which `enough` says when to stop.
    fn ask(&self, path: &str, headers: &str, enough: impl Fn(&str) -> bool) -> (u16, String, String) {
        let mut stream = TcpStream::connect(self.address).expect("connects");
        stream.set_read_timeout(Some(DEADLINE)).expect("a timeout");
        let token = &self.token;
        write!(
            stream,
            "GET {path} HTTP/1.1\r\nhost: hub\r\nconnection: close\r\nauthorization: Bearer {token}\r\n{headers}\r\n"
        )
        .expect("writes");
        let (mut bytes, mut part) = (Vec::new(), [0; 4096]);
        loop {
            let text = String::from_utf8_lossy(&bytes).into_owned();
            let count = if enough(&text) { 0 } else { stream.read(&mut part).expect("reads") };
            if count == 0 {
                let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("{path}: {text}"));
                let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
                return (status, head.to_lowercase(), body.to_owned());
            }
            bytes.extend_from_slice(&part[..count]);
        }
    }
}

#[test]
fn a_fleet_is_seen_and_its_readings_alarms_and_labels() {
    let tour = Tour::start(6);
    let sick = "agents/box-003";
    assert!(wait_until(DEADLINE, || tour.get(sick)["attention"][0]["code"] == "alarm"), "{}", tour.get(sick));
    let overview = tour.get("overview");
    assert_eq!((&overview["agents"]["total"], &overview["agents"]["offline"]), (&json!(6), &json!(1)));
    let worst = tour.get("agents?order=attention&limit=2");
    let names: Vec<&Value> = worst["items"].as_array().expect("items").iter().map(|item| &item["agent"]).collect();
    assert_eq!(names[0], "box-006", "what is away comes first: {worst}");
    let next = worst["next_cursor"].as_str().expect("there are more");
    let rest = tour.get(&format!("agents?order=attention&limit=100&cursor={next}"));
    assert_eq!(rest["items"].as_array().map(Vec::len), Some(4));

    // Readings in parts, with what was said of them.
    let at = |agent: &str| format!("agents/{agent}/streams/{STREAM}");
    let readings = |agent: &str| tour.get(&format!("{}/readings?parts=50", at(agent)));
    assert!(wait_until(DEADLINE, || readings("box-001")["readings"].as_u64() > Some(200)));
    let window = readings("box-001");
    let lists = [&window["times_ms"], &window["counts"], &window["score"], &window["channels"][0]["min"]];
    let lengths: Vec<Option<usize>> = lengths(&lists);
    assert!(lengths[0] > Some(0) && lengths.iter().all(|length| *length == lengths[0]), "{lengths:?}");
    let histograms = || tour.get(&format!("{}/histograms", at("box-003")));
    // The box that was taken away is one of them if it had readings of the first version's time.
    assert!(wait_until(DEADLINE, || histograms()["cohort_streams"].as_u64() >= Some(5)), "{}", histograms());
    let histograms = histograms();
    let pressure = histograms["channels"].as_array().expect("channels").iter().find(|one| one["channel"] == "pressure");
    let pressure = pressure.expect("a channel");
    assert!(pressure["divergence"].as_f64() > pressure["threshold"].as_f64(), "{pressure}");
    let curve = tour.get("retraining-runs/1/curve");
    assert!(curve["stages"][0]["loss"].as_array().is_some_and(|loss| loss.len() > 10), "{curve}");

    // What a person says of an alarm is a label, and a fault is one.
    let alarm =
        tour.get("alarms?agent=box-003&reviewed=false")["items"][0]["id"].as_str().expect("an alarm").to_owned();
    let verdict = json!({ "verdict": "fault", "comment": "another unit" });
    let reviewed = || tour.api.post(&format!("alarms/{alarm}/review"), &verdict).is_ok();
    assert!(wait_until(DEADLINE, reviewed), "its readings are stored soon");
    assert_eq!(tour.get(&format!("alarms/{alarm}"))["review"]["verdict"], "fault");
    let labels = tour.get("labels?agent=box-003");
    assert_eq!(
        (&labels["items"][0]["kind"], &labels["items"][0]["comment"]),
        (&json!("fault"), &json!("another unit"))
    );

    // What somebody calls normal is trained on.
    let (from, to) = (&window["from"], &window["to"]);
    let normal = json!({ "agent": "box-001", "stream": "plant/loop1/pump", "from": from, "to": to, "kind": "normal" });
    tour.api.post("labels", &normal).expect("a label");
    tour.api.post("models/demo-anomaly/retraining", &json!({})).expect("a training");
    let newest = || tour.get("retraining-runs?limit=1")["items"][0].clone();
    assert!(wait_until(DEADLINE, || newest()["run"].as_u64() > Some(2) && !newest()["finished"].is_null()));
    let trained = newest()["candidates"][0]["trained_on"].to_string();
    assert!(trained.contains(from.as_str().expect("a time")), "{trained}");
}

fn lengths(lists: &[&Value]) -> Vec<Option<usize>> {
    lists.iter().map(|list| list.as_array().map(Vec::len)).collect()
}

#[test]
fn what_happens_is_told_and_whoever_was_away_misses_nothing() {
    let tour = Tour::start(2);
    let rows = tour.get("history?limit=1000");
    let last = rows["items"][0]["sequence"].as_i64().expect("rows");
    let every = |body: &str| body.matches("event: history").count() as i64 >= last && body.contains("event: overview");
    let (status, head, body) = tour.ask("/api/v1/events?after=0", "", every);
    assert_eq!((status, head.contains("text/event-stream")), (200, true), "{head}");
    let ids: Vec<i64> = body.lines().filter_map(|line| line.strip_prefix("id: ")?.parse().ok()).collect();
    assert!(ids.windows(2).all(|pair| pair[1] == pair[0] + 1) && ids[0] == 1 && ids.len() as i64 >= last, "{ids:?}");
    // Whoever comes back says what they saw last.
    let since = |body: &str| body.contains("\nid: ");
    let (_, _, body) = tour.ask("/api/v1/events", &format!("last-event-id: {}\r\n", last - 1), since);
    assert_eq!(body.lines().find_map(|line| line.strip_prefix("id: ")), Some(last.to_string().as_str()), "{body}");
    assert_eq!(tour.ask("/api/v1/events", "last-event-id: x\r\n", |_| false).0, 400);

    // What somebody has already is not sent again.
    let (_, head, _) = tour.ask("/api/v1/models", "", |_| false);
    let tag = head.lines().find_map(|line| line.strip_prefix("etag: ")).expect("a tag").to_owned();
    let (status, _, body) = tour.ask("/api/v1/models", &format!("if-none-match: {tag}\r\n"), |_| false);
    assert_eq!((status, body.as_str()), (304, ""));
}

#[test]
fn the_dashboard_is_in_the_program_and_loads_nothing_from_elsewhere() {
    let tour = Tour::start(1);
    let (status, head, page) = tour.ask("/", "", |_| false);
    assert_eq!(status, 200);
    assert!(
        head.contains("content-security-policy: default-src 'none'; script-src 'self'") && !head.contains("unsafe")
    );
    let script = page.split('"').find(|part| part.starts_with("/assets/") && part.ends_with(".js")).expect("a script");
    let (status, head, _) = tour.ask(script, "accept-encoding: br, gzip\r\n", |_| false);
    assert_eq!((status, head.contains("content-encoding: gzip"), head.contains("immutable")), (200, true, true));
    let bytes = head.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse::<u64>().ok());
    assert!(bytes.is_some_and(|bytes| bytes < 150_000), "{bytes:?}");
    for elsewhere in ["http://", "https://"] {
        assert!(!page.contains(elsewhere), "{page}");
    }
    assert_eq!(tour.ask("/assets/none.js", "", |_| false).0, 404);
    let document: Value = serde_json::from_str(&tour.ask("/api/openapi.json", "", |_| false).2).unwrap_or_default();
    assert_eq!(document["openapi"], "3.1.0");
}

/// Names of the project's metrics in a text.
fn metric_names(text: &str) -> BTreeSet<String> {
    let is_part = |character: char| character.is_ascii_lowercase() || character.is_ascii_digit() || character == '_';
    let names = text.match_indices("tideline_").map(|(at, _)| &text[at..]);
    names.map(|rest| rest[..rest.find(|c| !is_part(c)).unwrap_or(rest.len())].to_owned()).collect()
}

#[test]
fn dashboards_and_alerts_of_others_speak_of_metrics_that_there_are() {
    let tour = Tour::start(2);
    // A request is counted once it is answered, and a box once it has said what it serves.
    assert!(wait_until(DEADLINE, || tour.ask("/metrics", "", |_| false).2.contains("tideline_model_boxes{")));
    let (status, head, plain) = tour.ask("/metrics", "", |_| false);
    assert!(status == 200 && head.contains("text/plain; version=0.0.4"), "{head}");
    let (_, head, open) = tour.ask("/metrics", "accept: application/openmetrics-text\r\n", |_| false);
    assert!(head.contains("application/openmetrics-text; version=1.0.0") && open.ends_with("# EOF\n"), "{head}");
    let known = metric_names(&plain);
    assert!(known.len() > 20, "{known:?}");
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy");
    let (grafana, rules) = (root.join("grafana/tideline.json"), root.join("prometheus/tideline.rules.yml"));
    for file in [&grafana, &rules] {
        let text = std::fs::read_to_string(file).expect("reads");
        let missing: Vec<String> = metric_names(&text).difference(&known).cloned().collect();
        assert_eq!(missing, [""; 0], "{}", file.display());
    }
    let recorded: Vec<String> = std::fs::read_to_string(&rules)
        .expect("reads")
        .lines()
        .filter_map(|line| line.trim().strip_prefix("- record: ").map(str::to_owned))
        .collect();
    let panels: Value = serde_json::from_slice(&std::fs::read(&grafana).expect("reads")).expect("JSON");
    for panel in panels["panels"].as_array().expect("panels") {
        for target in panel["targets"].as_array().expect("targets") {
            let expression = target["expr"].as_str().expect("an expression");
            let is_recorded = recorded.iter().any(|name| expression.contains(name.as_str()));
            assert!(is_recorded || expression.contains("tideline_"), "{expression}");
        }
    }

    let Ok(promtool) = Command::new("promtool").arg("--version").output() else {
        println!("skipped: there is no promtool (Debian: prometheus)");
        return;
    };
    assert!(promtool.status.success());
    let config = root.join("prometheus/prometheus.yml");
    for arguments in [["check", "rules"], ["check", "config"]] {
        let file = if arguments[1] == "rules" { &rules } else { &config };
        let checked = Command::new("promtool").args(arguments).arg(file).output().expect("runs");
        assert!(checked.status.success(), "{checked:?}");
    }
    let mut lint = Command::new("promtool");
    lint.args(["check", "metrics"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut lint = lint.spawn().expect("runs");
    lint.stdin.take().expect("piped").write_all(plain.as_bytes()).expect("writes");
    let linted = lint.wait_with_output().expect("ends");
    assert!(linted.status.success(), "{linted:?}");
}
