//! Who may do what at a real hub: the first admin, people, programs, and those who have no business there.

use std::collections::BTreeMap;
use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use cloud_hub::clock::unix_ms;
use demo::plant;
use demo::site::{self, Plan};
use serde_json::{Value, json};
use shared::ids::AgentId;
use tests::{Process, free_port, program, wait_until};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpSocket;

const DEADLINE: Duration = Duration::from_secs(30);
const HERE: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 1));
const THERE: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2));
const PASSWORD: &str = "correct horse battery staple";

struct Hub {
    process: Process,
    address: SocketAddr,
    /// The code that makes the first admin.
    code: String,
    runtime: tokio::runtime::Runtime,
}

/// What a request is answered with.
#[derive(Debug)]
struct Answer {
    status: u16,
    headers: BTreeMap<String, String>,
    body: Value,
}

impl Hub {
    fn start(directory: &Path) -> Self {
        let scenario = plant::scenario(7);
        let agent = AgentId::new("line-1").expect("valid");
        let ports = (free_port().expect("port"), free_port().expect("port"));
        let broker = SocketAddr::from((HERE, 1));
        let plan = Plan::of_one(directory, broker, &scenario, &agent, ports, 7);
        let file = site::write_hub(&plan).expect("writes").display().to_string();
        let log = directory.join("hub.log");
        let process = Process::start("cloud-hub", &["serve", "--config", &file], &log).expect("starts");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime");
        let mut hub = Self { process, address: ports.1, code: String::new(), runtime };
        assert!(wait_until(DEADLINE, || hub.try_get("/readyz").is_some_and(|answer| answer.status == 200)));
        let said = std::fs::read_to_string(&log).expect("reads");
        hub.code = said.split_once("/#/setup/").expect("a link").1.lines().next().expect("a code").to_owned();
        hub
    }

    fn try_get(&self, path: &str) -> Option<Answer> {
        self.runtime.block_on(ask(self.address, HERE, "GET", path, &[], None))
    }

    /// Asks with a header or two.
    fn ask(&self, method: &str, path: &str, headers: &[(&str, &str)], body: Option<Value>) -> Answer {
        self.runtime.block_on(ask(self.address, HERE, method, path, headers, body)).expect("answers")
    }

    fn ask_as(&self, token: &str, method: &str, path: &str, body: Option<Value>) -> Answer {
        self.ask(method, path, &[("authorization", &format!("Bearer {token}"))], body)
    }

    fn login(&self, from: IpAddr, name: &str, password: &str) -> Answer {
        let body = Some(json!({ "name": name, "password": password }));
        self.runtime.block_on(ask(self.address, from, "POST", "/api/v1/login", &[], body)).expect("answers")
    }

    /// Makes the first admin, and gives her session's cookie.
    fn set_up(&self) -> String {
        let body = json!({ "code": self.code, "name": "Ada", "password": PASSWORD });
        let made = self.ask("POST", "/api/v1/setup", &[], Some(body));
        assert_eq!((made.status, &made.body["role"]), (200, &"admin".into()), "{made:?}");
        cookie(&made)
    }
}

fn cookie(answer: &Answer) -> String {
    let cookie = &answer.headers["set-cookie"];
    assert!(cookie.contains("HttpOnly") && cookie.contains("SameSite=Strict"), "{cookie}");
    cookie.split(';').next().expect("a pair").to_owned()
}

/// One request over a connection of its own, from an address of this machine.
async fn ask(
    to: SocketAddr,
    from: IpAddr,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: Option<Value>,
) -> Option<Answer> {
    let socket = TcpSocket::new_v4().ok()?;
    socket.bind(SocketAddr::from((from, 0))).ok()?;
    let mut stream = socket.connect(to).await.ok()?;
    let body = body.map(|body| body.to_string()).unwrap_or_default();
    let mut request = format!("{method} {path} HTTP/1.1\r\nhost: {to}\r\nconnection: close\r\n");
    headers.iter().for_each(|(name, value)| request += &format!("{name}: {value}\r\n"));
    request += &format!("content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}", body.len());
    stream.write_all(request.as_bytes()).await.ok()?;
    let mut answer = String::new();
    // Events go on without end.
    while !answer.contains("text/event-stream") {
        let mut part = vec![0; 16 * 1024];
        let count = stream.read(&mut part).await.ok()?;
        if count == 0 {
            break;
        }
        answer += &String::from_utf8_lossy(&part[..count]);
    }
    let (head, body) = answer.split_once("\r\n\r\n")?;
    let mut lines = head.lines();
    let status = lines.next()?.split(' ').nth(1)?.parse().ok()?;
    let headers =
        lines.filter_map(|line| line.split_once(": ")).map(|(k, v)| (k.to_lowercase(), v.to_owned())).collect();
    Some(Answer { status, headers, body: serde_json::from_str(body).unwrap_or_default() })
}

#[test]
fn the_first_admin_is_made_once_and_lets_others_in() {
    let directory = tempfile::tempdir().expect("dir");
    let hub = Hub::start(directory.path());
    let nobody = hub.ask("GET", "/api/v1/agents", &[], None);
    assert_eq!((nobody.status, nobody.headers["www-authenticate"].as_str()), (401, "Bearer"));
    let wrong = json!({ "code": "setup_0", "name": "Eve", "password": PASSWORD });
    assert_eq!(hub.ask("POST", "/api/v1/setup", &[], Some(wrong)).body["code"], "forbidden_setup_code");
    let short = json!({ "code": hub.code, "name": "Ada", "password": "short" });
    let refused = hub.ask("POST", "/api/v1/setup", &[], Some(short));
    assert_eq!(refused.body["detail"], "a password has 12 to 200 characters, this one 5");
    let ada = hub.set_up();
    let again = json!({ "code": hub.code, "name": "Eve", "password": PASSWORD });
    assert_eq!(hub.ask("POST", "/api/v1/setup", &[], Some(again)).status, 403, "once");

    // A browser acts for her on this hub's own pages alone.
    let bob = || Some(json!({ "name": "Bob", "role": "viewer", "password": PASSWORD }));
    let origin = format!("http://{}", hub.address);
    let elsewhere = [("cookie", ada.as_str()), ("origin", "http://evil.example")];
    assert_eq!(hub.ask("POST", "/api/v1/users", &elsewhere, bob()).body["code"], "forbidden_origin");
    assert_eq!(hub.ask("POST", "/api/v1/users", &[("cookie", &ada)], bob()).status, 403);
    let here = [("cookie", ada.as_str()), ("origin", origin.as_str())];
    assert_eq!(hub.ask("POST", "/api/v1/users", &here, bob()).status, 201);
    assert_eq!(hub.ask("POST", "/api/v1/users", &here, bob()).status, 409, "there is one already");

    // He looks, and has no token that does more.
    let his = cookie(&hub.login(HERE, "Bob", PASSWORD));
    let his = [("cookie", his.as_str()), ("origin", origin.as_str())];
    assert_eq!(hub.ask("GET", "/api/v1/agents", &his, None).status, 200);
    let refused = hub.ask("POST", "/api/v1/models/demo-anomaly/retraining", &his, None);
    let detail = "POST /api/v1/models/{model}/retraining takes the role operator, Bob has viewer";
    assert_eq!((refused.status, &refused.body["detail"]), (403, &detail.into()));
    let more = Some(json!({ "name": "ci", "role": "publisher" }));
    assert_eq!(hub.ask("POST", "/api/v1/tokens", &his, more).status, 403);
    let token = hub.ask("POST", "/api/v1/tokens", &his, Some(json!({ "name": "ci", "role": "viewer" })));
    let secret = token.body["token"].as_str().expect("shown once").to_owned();
    assert_eq!(hub.ask_as(&secret, "GET", "/api/v1/me", None).body["name"], "ci of Bob");
    assert!(!hub.ask("GET", "/api/v1/tokens", &his, None).body.to_string().contains(&secret));

    // Once he is gone, so is all of it.
    assert_eq!(hub.ask("DELETE", "/api/v1/users/Bob", &here, None).status, 204);
    assert_eq!((hub.ask_as(&secret, "GET", "/api/v1/me", None).status), 401);
    assert_eq!(hub.ask("GET", "/api/v1/agents", &his, None).status, 401);
    assert_eq!(hub.ask("DELETE", "/api/v1/users/Ada", &here, None).status, 409, "the last admin stays");

    // What was done is in the history, by whom, from where, and nothing secret with it.
    let history = hub.ask("GET", "/api/v1/history?limit=500", &here, None).body;
    let rows = history["items"].as_array().expect("rows");
    let of = |what: &str| rows.iter().find(|row| row["body"]["what"] == what).map(|row| row["body"].clone());
    let expected = json!({
        "who": "Ada", "role": "admin", "from": "127.0.0.1", "what": "DELETE /api/v1/users/Bob", "status": 204,
    });
    assert_eq!(of("DELETE /api/v1/users/Bob"), Some(expected), "{history}");
    assert_eq!(of("POST /api/v1/models/demo-anomaly/retraining"), None, "what was turned away was not done");
    assert_eq!(of("POST /api/v1/setup").map(|body| body["who"].clone()), Some("Ada".into()));
    assert_eq!(of("POST /api/v1/login").map(|body| body["who"].clone()), Some("Bob".into()));
    assert!(!history.to_string().contains(PASSWORD) && !history.to_string().contains(&secret));
    hub.process.stop().expect("stops");
    let log = std::fs::read_to_string(directory.path().join("hub.log")).expect("reads");
    assert!(!log.contains(PASSWORD) && !log.contains(&secret));
}

#[test]
fn every_route_is_closed_to_whoever_has_a_lesser_role() {
    let directory = tempfile::tempdir().expect("dir");
    let hub = Hub::start(directory.path());
    let ada = hub.set_up();
    let origin = format!("http://{}", hub.address);
    let here = [("cookie", ada.as_str()), ("origin", origin.as_str())];
    let roles = ["viewer", "operator", "publisher", "admin"];
    let tokens = roles.map(|role| {
        let made = hub.ask("POST", "/api/v1/tokens", &here, Some(json!({ "name": role, "role": role })));
        made.body["token"].as_str().expect("a token").to_owned()
    });
    let table = include_str!("../../cloud-hub/src/api/routes.txt");
    let mut checked = 0;
    for line in table.lines() {
        let [method, path, least] = line.split(' ').collect::<Vec<_>>()[..] else { panic!("{line}") };
        let Some(least) = roles.iter().position(|role| *role == least) else {
            continue;
        };
        // Nothing of this name is there, so that nothing is done.
        let path: String =
            path.split('/').map(|part| if part.starts_with('{') { "none" } else { part }).collect::<Vec<_>>().join("/");
        assert_eq!(hub.ask(method, &path, &[], None).status, 401, "{line}");
        assert_eq!(hub.ask_as("tlt_0", method, &path, None).status, 401, "{line}");
        for (index, token) in tokens.iter().enumerate() {
            let answer = hub.ask_as(token, method, &path, None);
            let is_role = answer.body["code"] == "forbidden_role";
            assert_eq!(is_role, index < least, "{line} as {}: {answer:?}", roles[index]);
            checked += 1;
        }
    }
    assert!(checked >= 100, "{checked}");
}

#[test]
fn ten_thousand_wrong_passwords_keep_nobody_else_out() {
    let directory = tempfile::tempdir().expect("dir");
    let hub = Hub::start(directory.path());
    hub.set_up();
    let mut answers: BTreeMap<u16, u32> = BTreeMap::new();
    let mut slowest_ms = 0;
    for attempt in 0..10_000 {
        let answer = hub.login(HERE, "Ada", &format!("guess number {attempt:06}"));
        *answers.entry(answer.status).or_default() += 1;
        if answer.status == 429 {
            assert!(answer.headers["retry-after"].parse::<u64>().is_ok_and(|seconds| seconds >= 1));
        }
        if attempt % 1_000 == 999 {
            let began_ms = unix_ms();
            assert_eq!(hub.login(THERE, "Ada", PASSWORD).status, 200, "after {attempt} guesses");
            slowest_ms = slowest_ms.max(unix_ms() - began_ms);
        }
    }
    assert!(answers[&401] <= 30 && answers[&429] >= 9_900 && answers.len() == 2, "{answers:?}");
    assert!(slowest_ms < 2_000, "{slowest_ms} ms");
}

/// Attempts that all came before the first of them was found wrong.
#[test]
fn guesses_that_come_at_once_are_no_more_than_those_that_come_in_a_row() {
    let directory = tempfile::tempdir().expect("dir");
    let hub = Hub::start(directory.path());
    hub.set_up();
    let address = hub.address;
    let (answers, waited_ms) = hub.runtime.block_on(async {
        let mut guesses = tokio::task::JoinSet::new();
        for guess in 0..300 {
            let body = json!({ "name": "Ada", "password": format!("guess number {guess:06}") });
            guesses.spawn(async move { ask(address, HERE, "POST", "/api/v1/login", &[], Some(body)).await });
        }
        let began_ms = unix_ms();
        let body = json!({ "name": "Ada", "password": PASSWORD });
        let good = ask(address, THERE, "POST", "/api/v1/login", &[], Some(body)).await.expect("answers");
        assert_eq!(good.status, 200);
        let waited_ms = unix_ms() - began_ms;
        let mut answers: BTreeMap<u16, u32> = BTreeMap::new();
        while let Some(answer) = guesses.join_next().await {
            *answers.entry(answer.expect("asks").expect("answers").status).or_default() += 1;
        }
        (answers, waited_ms)
    });
    assert!(answers[&401] <= 11 && answers[&401] + answers[&429] == 300, "{answers:?}");
    assert!(waited_ms < 5_000, "{waited_ms} ms");
}

/// `cloud-hub ctl` with a token, or with the hub's folder.
fn ctl(hub: &Hub, token: Result<&str, &Path>, arguments: &[&str], input: &str) -> Output {
    let mut command = Command::new(program("cloud-hub").expect("built"));
    command.args(["ctl", "--hub", &format!("http://{}", hub.address)]);
    match token {
        Ok(token) => command.env("TIDELINE_TOKEN", token),
        Err(directory) => command.arg("--data").arg(directory),
    };
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("starts");
    child.stdin.take().expect("piped").write_all(input.as_bytes()).expect("writes");
    child.wait_with_output().expect("ends")
}

#[test]
fn the_shell_does_what_a_token_may_and_says_by_its_exit_code_why_not() {
    let directory = tempfile::tempdir().expect("dir");
    let hub = Hub::start(directory.path());
    let folder = directory.path().join("hub");
    let said = |output: &Output| String::from_utf8_lossy(&output.stdout).trim().to_owned();
    let added = ctl(&hub, Err(&folder), &["users", "add", "Ada Lovelace", "--role", "admin"], PASSWORD);
    assert!(added.status.success(), "{added:?}");
    assert_eq!(hub.login(HERE, "Ada Lovelace", PASSWORD).status, 200);
    let listed = said(&ctl(&hub, Err(&folder), &["users", "list", "--output", "csv"], ""));
    assert!(listed.starts_with("name,role,created\nAda Lovelace,admin,20"), "{listed}");
    let token = said(&ctl(&hub, Err(&folder), &["tokens", "create", "ci", "--role", "viewer"], ""));
    assert!(token.starts_with("tlt_") && !token.contains('\n'), "a script wants nothing else: {token}");
    let models = said(&ctl(&hub, Ok(&token), &["models"], ""));
    assert_eq!(models, "MODEL         CHAMPION\ndemo-anomaly");

    let code = |token: Result<&str, &Path>, arguments: &[&str]| ctl(&hub, token, arguments, "").status.code();
    assert_eq!(code(Ok(&token), &["train", "demo-anomaly"]), Some(4), "a viewer");
    assert_eq!(code(Ok("tlt_0"), &["agents"]), Some(4), "nobody");
    assert_eq!(code(Err(&folder), &["agents", "line-9"]), Some(3));
    assert_eq!(code(Err(&folder), &["users", "remove", "Ada Lovelace"]), Some(5), "the last admin");
    assert_eq!(code(Err(&folder), &["tokens", "create", "ci", "--role", "king"]), Some(2));
    let failed = ctl(&hub, Err(&folder), &["rollout", "abort", "7"], "");
    let message = String::from_utf8_lossy(&failed.stderr).trim().to_owned();
    assert_eq!(message, "error: 404 Not Found: there is no rollout 7");
    let history = said(&ctl(&hub, Err(&folder), &["history", "--output", "json"], ""));
    let rows: Value = serde_json::from_str(&history).expect("JSON");
    assert!(rows[0]["body"]["who"] == "the hub's own machine", "{rows}");
}
