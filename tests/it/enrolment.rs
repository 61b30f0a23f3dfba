//! Boxes that are let in, renewed and kept out, with the real programs: a hub that is its own authority, and agents.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output};
use std::thread;
use std::time::Duration;

use edge_agent::clock::Clock;
use serde_json::Value;
use shared::enrolment::{EnrolmentClaim, EnrolmentToken, Fingerprint};
use tests::{Process, free_port, program, wait_until};

const DEADLINE: Duration = Duration::from_secs(40);
/// Seconds for which certificates hold here: renewed after five or six.
const LIFETIME_S: u64 = 10;
/// Milliseconds within which a box that was revoked is gone.
const REVOKED_WITHIN_MS: u64 = 5_000;

pub(super) struct Site {
    directory: tempfile::TempDir,
    hub: Process,
    api: SocketAddr,
}

impl Site {
    pub(super) fn start() -> Self {
        let directory = tempfile::tempdir().expect("dir");
        let (link, api) = (free_port().expect("port"), free_port().expect("port"));
        let config = format!(
            "[hub]\ndata_directory = \"hub\"\n[link]\nlisten = \"{link}\"\npublic_addresses = [\"{link}\"]\n\
             [api]\nlisten = \"{api}\"\n[authority]\ncertificate_lifetime_s = {LIFETIME_S}\n"
        );
        let file = directory.path().join("hub.toml");
        fs::write(&file, config).expect("writes");
        let log = directory.path().join("hub.log");
        let hub =
            Process::start("cloud-hub", &["serve", "--config", &file.display().to_string()], &log).expect("starts");
        let site = Self { directory, hub, api };
        assert!(wait_until(DEADLINE, || site.ctl(&["me"]).status.success()), "{}", site.said("hub"));
        site
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub(super) fn ctl(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(program("cloud-hub").expect("built"));
        command.args(["ctl", "--hub", &format!("http://{}", self.api), "--data"]).arg(self.path("hub"));
        command.args(arguments);
        if !arguments.contains(&"--output") {
            command.args(["--output", "json"]);
        }
        command.output().expect("runs")
    }

    pub(super) fn json(&self, arguments: &[&str]) -> Value {
        let output = self.ctl(arguments);
        assert!(output.status.success(), "{arguments:?}: {}", text(&output.stderr));
        serde_json::from_slice(&output.stdout).expect("JSON")
    }

    pub(super) fn token(&self, more: &[&str]) -> String {
        let made = self.json(&[&["enroll", "create"], more].concat());
        made["token"].as_str().expect("a token").to_owned()
    }

    /// A box whose broker is away.
    pub(super) fn make_box(&self, name: &str) -> Box {
        let directory = self.path(name);
        fs::create_dir(&directory).expect("makes");
        let input = "[[input]]\nname = \"x\"\ntopic = \"plant/{pump}\"\nkey = \"{pump}\"\n\
                     feature = [{ name = \"flow\", path = \"$.flow\" }]\n";
        let config = format!(
            "[agent]\nstate_directory = \"state\"\n[mqtt]\nurl = \"mqtt://127.0.0.1:1\"\n{input}[spool]\nmax_bytes = 16777216\n"
        );
        fs::write(directory.join("agent.toml"), config).expect("writes");
        Box(directory)
    }

    fn identity(&self, agent: &str) -> Value {
        let all = self.json(&["identities"]);
        all.as_array().expect("a list").iter().find(|one| one["agent"] == agent).cloned().unwrap_or_default()
    }

    pub(super) fn is_connected(&self, agent: &str) -> bool {
        self.identity(agent)["connected"] == true
    }

    pub(super) fn said(&self, name: &str) -> String {
        fs::read_to_string(self.path(&format!("{name}.log"))).unwrap_or_default()
    }
}

pub(super) struct Box(PathBuf);

impl Box {
    pub(super) fn config(&self) -> String {
        self.0.join("agent.toml").display().to_string()
    }

    pub(super) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(program("edge-agent").expect("built"));
        command.args(arguments).args(["--config", &self.config()]);
        command
    }

    pub(super) fn enroll(&self, arguments: &[&str]) -> Output {
        self.command(&[&["enroll"], arguments].concat()).output().expect("runs")
    }

    pub(super) fn run(&self) -> Process {
        Process::start("edge-agent", &["run", "--config", &self.config()], &self.log()).expect("starts")
    }

    pub(super) fn notify_socket(&self) -> PathBuf {
        self.0.join("notify")
    }

    pub(super) fn log(&self) -> PathBuf {
        self.0.with_extension("log")
    }

    /// What the doctor says of each part of the box.
    fn examined(&self) -> impl Fn(&str) -> Value {
        let done = self.command(&["doctor", "--for", "1", "--output", "json"]).output().expect("runs");
        let report: Value = serde_json::from_slice(&done.stdout).expect("JSON");
        move |part| {
            let checks = report["checks"].as_array().expect("checks");
            checks.iter().find(|check| check["check"] == part).cloned().unwrap_or_default()
        }
    }

    fn held(&self) -> Value {
        let text = fs::read(self.0.join("state/identity/current.json")).unwrap_or_default();
        serde_json::from_slice(&text).unwrap_or_default()
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn a_box_is_let_in_once_renews_its_certificate_and_is_gone_within_seconds_of_its_revocation() {
    let site = Site::start();
    let pump = site.make_box("pump");
    let nameless = pump.command(&["run"]).output().expect("runs");
    assert_eq!(nameless.status.code(), Some(78), "{}", text(&nameless.stderr));
    assert!(text(&nameless.stderr).contains("edge-agent enroll"), "{}", text(&nameless.stderr));

    let token = site.token(&["--labels", "site=a,line=4", "--ttl", "15m"]);
    let file = site.path("enroll.token");
    fs::write(&file, format!("{token}\n")).expect("writes");
    let done =
        pump.enroll(&["--token-file", &file.display().to_string(), "--shred", "--name", "pump-7", "--output", "json"]);
    assert!(done.status.success(), "{}", text(&done.stderr));
    let said: Value = serde_json::from_slice(&done.stdout).expect("JSON");
    assert_eq!(said["agent"], "pump-7");
    assert!(!file.exists(), "the token is gone from the disk");
    let known = site.identity("pump-7");
    assert_eq!(
        (&known["labels"]["site"], &known["labels"]["line"], &known["state"]),
        (&"a".into(), &"4".into(), &"enrolled".into())
    );

    // The power went before the overwritten token's name was gone.
    fs::write(&file, vec![0; 200]).expect("writes");
    let done = pump.enroll(&["--token-file", &file.display().to_string(), "--shred"]);
    assert!(done.status.success() && !file.exists(), "{}", text(&done.stderr));
    assert!(text(&done.stdout).contains("this box is pump-7 already"), "{}", text(&done.stdout));

    // The token is used up, for another box and for the same one with another key.
    let other = site.make_box("other");
    let refused = other.enroll(&["--token", &token, "--name", "other"]);
    assert_eq!(refused.status.code(), Some(3), "trying again does not help");
    assert!(text(&refused.stderr).contains("was used by pump-7"), "{}", text(&refused.stderr));

    let agent = pump.run();
    assert!(wait_until(DEADLINE, || site.is_connected("pump-7")), "{}", site.said("pump"));
    let first = pump.held()["certificate"].clone();
    let renewed = || pump.held()["certificate"] != first && !pump.held().is_null();
    assert!(wait_until(DEADLINE, renewed), "{}", site.said("pump"));
    let expires = |value: &Value| value["certificate_expires"].as_str().unwrap_or_default().to_owned();
    assert!(expires(&site.identity("pump-7")) > expires(&known));
    assert!(wait_until(DEADLINE, || site.is_connected("pump-7")), "{}", site.said("pump"));

    let examined = pump.examined();
    for (part, state) in [("hub", "ok"), ("certificate", "ok"), ("agent", "ok"), ("disk", "ok"), ("broker", "failed")] {
        assert_eq!(examined(part)["state"], state, "{part}: {}", examined(part));
    }
    let hub = examined("hub")["saw"].as_str().unwrap_or_default().to_owned();
    assert!(hub.contains("over UDP in") && hub.contains("over TCP in"), "{hub}");
    assert!(site.is_connected("pump-7"), "whoever looks disturbs nobody");

    let clock = Clock::start();
    site.json(&["revoke", "pump-7", "--reason", "stolen"]);
    assert!(wait_until(DEADLINE, || !site.is_connected("pump-7")));
    let took_ms = clock.monotonic().0;
    println!("a box was gone {took_ms} ms after its revocation");
    assert!(took_ms < REVOKED_WITHIN_MS, "{took_ms} ms");
    assert!(wait_until(DEADLINE, || site.said("pump").contains("was revoked")), "{}", site.said("pump"));
    assert!(!site.is_connected("pump-7"), "it tried again");
    assert_eq!(site.identity("pump-7")["reason"], "stolen");
    let hub = pump.examined()("hub");
    assert_eq!(hub["state"], "failed", "{hub}");
    assert!(hub["saw"].as_str().unwrap_or_default().contains("was revoked"), "{hub}");
    agent.stop().expect("stops");

    // A new disk in the same place, as an operator wants it.
    let again = pump.enroll(&["--token", &site.token(&["--agent", "pump-7"])]);
    assert!(again.status.success(), "{}", text(&again.stderr));
    let agent = pump.run();
    assert!(wait_until(DEADLINE, || site.is_connected("pump-7")), "{}", site.said("pump"));
    agent.stop().expect("stops");
    let history = text(&site.ctl(&["history"]).stdout);
    for row in ["enrolled", "enrolment_refused", "identities/pump-7/revoke"] {
        assert!(history.contains(row), "{row}: {history}");
    }
    site.hub.stop().expect("stops");
}

#[test]
fn of_32_boxes_that_race_for_one_token_exactly_one_is_let_in() {
    let site = Site::start();
    let token = site.token(&[]);
    let boxes: Vec<Box> = (0..32).map(|number| site.make_box(&format!("box-{number}"))).collect();
    let won = thread::scope(|scope| {
        let races: Vec<_> = boxes
            .iter()
            .enumerate()
            .map(|(number, one)| {
                let token = token.as_str();
                scope
                    .spawn(move || one.enroll(&["--token", token, "--name", &format!("box-{number}")]).status.success())
            })
            .collect();
        races.into_iter().map(|race| race.join().expect("runs")).filter(|won| *won).count()
    });
    assert_eq!(won, 1);
    assert_eq!(site.json(&["identities"]).as_array().map(Vec::len), Some(1));
    site.hub.stop().expect("stops");
}

/// What is shown with a claim is no box's certificate: the hub closes every connection but the one that asks.
fn refuses_as_a_box(site: &Site, claim: &EnrolmentClaim) {
    let thief = site.make_box("thief");
    let pem = |kind: &str, der: &[u8]| pem::encode(&pem::Pem::new(kind, der));
    let chain: String = claim.chain.iter().map(|der| pem("CERTIFICATE", der)).collect();
    fs::write(thief.0.join("claim.pem"), chain).expect("writes");
    fs::write(thief.0.join("claim.key"), pem("PRIVATE KEY", &claim.key)).expect("writes");
    let plain = fs::read_to_string(thief.config()).expect("reads");
    let EnrolmentClaim { hubs, server_name, .. } = claim;
    let root = site.path("hub/authority/ca.pem");
    for transport in ["quic", "tcp"] {
        let hub = format!(
            "[hub]\naddress = \"{}\"\nserver_name = \"{server_name}\"\ntransport = \"{transport}\"\nca_file = \"{}\"\n\
             certificate_file = \"claim.pem\"\nkey_file = \"claim.key\"\n",
            hubs[0],
            root.display()
        );
        let named = plain.replace("[agent]", "[agent]\nname = \"pump-7\"");
        fs::write(thief.config(), format!("{named}{hub}")).expect("writes");
        let refusals = || site.said("hub").matches("failed to find an agent's name in the certificate").count();
        let before = refusals();
        let agent = thief.run();
        assert!(wait_until(DEADLINE, || refusals() > before), "{transport}: {}", site.said("thief"));
        agent.stop().expect("stops");
    }
    assert_eq!(site.json(&["agents"]).as_array().map(Vec::len), Some(0));
}

#[test]
fn a_box_with_a_claim_can_only_ask_and_comes_in_once_somebody_approves() {
    let site = Site::start();
    let made = site.json(&["enroll", "create", "--claim", "--labels", "batch=7"]);
    let claim = made["token"].as_str().expect("a claim").to_owned();
    let pump = site.make_box("pump");
    let file = site.path("enroll.token");
    fs::write(&file, format!("{claim}\n")).expect("writes");
    let asking = || {
        let log = fs::OpenOptions::new().create(true).append(true).open(pump.log()).expect("log");
        let mut command = pump.command(&["enroll", "--token-file", &file.display().to_string(), "--shred"]);
        command.stderr(log).spawn().expect("starts")
    };
    let asks = || site.json(&["enroll", "asks"]).as_array().cloned().unwrap_or_default();
    let mut begun = asking();
    assert!(wait_until(DEADLINE, || asks().len() == 1), "{}", site.said("pump"));
    let ask = asks()[0]["id"].as_str().expect("an id").to_owned();
    assert_eq!(asks()[0]["claim"], made["id"]);
    assert!(wait_until(DEADLINE, || site.said("pump").contains(&format!("asks as {ask}"))), "{}", site.said("pump"));
    // Whoever turns the box off and on again finds it asking as before.
    begun.kill().expect("ends");
    begun.wait().expect("ends");
    let mut again = asking();
    refuses_as_a_box(&site, &claim.parse().expect("a claim"));
    assert_eq!((asks().len(), site.json(&["identities"]).as_array().map(Vec::len)), (1, Some(0)));

    let approved = site.json(&["enroll", "approve", &ask, "--agent", "pump-7", "--labels", "site=a"]);
    assert_eq!(approved[0]["approved_as"], "pump-7");
    assert!(wait_until(DEADLINE, || again.try_wait().expect("waits").is_some()), "{}", site.said("pump"));
    assert!(again.wait().expect("ended").success(), "{}", site.said("pump"));
    assert!(!file.exists(), "the claim is gone from the box");
    let known = site.identity("pump-7");
    assert_eq!((&known["labels"]["batch"], &known["labels"]["site"]), (&"7".into(), &"a".into()));
    assert!(asks().is_empty());
    let agent = pump.run();
    assert!(wait_until(DEADLINE, || site.is_connected("pump-7")), "{}", site.said("pump"));
    agent.stop().expect("stops");

    // Two that would be called alike: one is let in, and whoever approves of both hears of the other.
    let twins: Vec<Box> = ["left", "right"].map(|name| site.make_box(name)).into();
    let asking = |one: &Box| one.command(&["enroll", "--token", &claim, "--name", "twin"]).spawn().expect("starts");
    let mut asking: Vec<Child> = twins.iter().map(asking).collect();
    assert!(wait_until(DEADLINE, || asks().len() == 2));
    let both = site.ctl(&["enroll", "approve", "--claim", made["id"].as_str().expect("an id")]);
    assert_eq!(both.status.code(), Some(5), "{}", text(&both.stderr));
    assert!(text(&both.stderr).contains("1 of 2 are not let in"), "{}", text(&both.stderr));
    assert!(wait_until(DEADLINE, || !site.identity("twin").is_null()));
    asking.iter_mut().for_each(|one| drop((one.kill(), one.wait())));
    assert!(site.ctl(&["enroll", "remove", made["id"].as_str().expect("an id")]).status.success());
    let refused = site.make_box("late").enroll(&["--token", &claim]);
    assert_eq!(refused.status.code(), Some(3), "trying again does not help");
    assert!(text(&refused.stderr).contains("the hub knows no such claim"), "{}", text(&refused.stderr));
    let history = text(&site.ctl(&["history"]).stdout);
    for row in ["enrolment_asked", "enrolled", &format!("enrolment-asks/{ask}/approve")] {
        assert!(history.contains(row), "{row}: {history}");
    }
    site.hub.stop().expect("stops");
}

#[test]
fn a_token_that_is_not_this_hubs_or_not_for_this_box_or_too_old_changes_nothing() {
    let site = Site::start();
    let pump = site.make_box("pump");
    let refused = |token: &str, because: &str| {
        let done = pump.enroll(&["--token", token, "--name", "pump-7"]);
        assert!(!done.status.success() && text(&done.stderr).contains(because), "{because}: {}", text(&done.stderr));
        assert!(!pump.0.join("state/identity/box.json").exists(), "{because}");
    };
    let right: EnrolmentToken = site.token(&[]).parse().expect("a token");
    let pinned_to_another = EnrolmentToken { authority: Fingerprint::of(b"another authority"), ..right.clone() };
    refused(&pinned_to_another.to_string(), "not vouched for by the authority");
    let of_another_hub = EnrolmentToken { secret: "e_0".to_owned(), ..right.clone() };
    refused(&of_another_hub.to_string(), "the hub knows no such token");
    let nowhere = EnrolmentToken { hubs: vec!["127.0.0.1:1".to_owned()], ..right.clone() };
    refused(&nowhere.to_string(), "failed to reach the hub at 127.0.0.1:1");
    refused("tlt_1234", "begins with tle1_");
    let short = right.to_string();
    refused(&short[..short.len() - 3], "it is damaged");
    let for_another: EnrolmentToken = site.token(&["--agent", "fan-1"]).parse().expect("a token");
    let forged = EnrolmentToken { agent: None, ..for_another };
    refused(&forged.to_string(), "is for fan-1, and the box calls itself pump-7");
    let old = site.token(&["--ttl", "1s"]);
    let expires_ms = old.parse::<EnrolmentToken>().expect("a token").expires_ms;
    assert!(wait_until(DEADLINE, || cloud_hub::clock::unix_ms() > expires_ms));
    refused(&old, "expired 0 minutes ago");
    site.hub.stop().expect("stops");
}

#[test]
fn a_box_that_lay_in_a_drawer_comes_back_once_somebody_approves_and_roots_change_under_it() {
    let site = Site::start();
    let pump = site.make_box("pump");
    let done = pump.enroll(&["--token", &site.token(&["--agent", "pump-7"])]);
    assert!(done.status.success(), "{}", text(&done.stderr));
    let expired = || {
        let not_after_ms = pump.held()["not_after_ms"].as_i64().unwrap_or(i64::MAX);
        cloud_hub::clock::unix_ms() > not_after_ms
    };
    assert!(wait_until(DEADLINE, expired), "its certificate expires in the drawer");
    let agent = pump.run();
    let asks = || site.identity("pump-7")["state"] == "asks_to_come_back";
    assert!(wait_until(DEADLINE, asks), "{}", site.said("pump"));
    assert!(!site.is_connected("pump-7"));
    site.json(&["approve", "pump-7"]);
    assert!(wait_until(DEADLINE, || site.is_connected("pump-7")), "{}", site.said("pump"));

    // A new root; the box hears of it as it renews, and then the issuer is one that only the new root vouches for.
    let authority = site.path("hub/authority").display().to_string();
    let ca = |command: &str| {
        let mut program = Command::new(program("cloud-hub").expect("built"));
        let done = program.args(["ca", command, "--directory", &authority]).output().expect("runs");
        assert!(done.status.success(), "{}", text(&done.stderr));
    };
    let authorities = || fs::read_to_string(pump.0.join("state/identity/authorities.pem")).unwrap_or_default();
    let count = || authorities().matches("BEGIN CERTIFICATE").count();
    assert_eq!(count(), 1);
    ca("rotate-root");
    assert!(wait_until(DEADLINE, || count() == 2), "{}", site.said("pump"));
    let issuer = || fs::read_to_string(site.path("hub/authority/issuer.pem")).expect("reads").trim().to_owned();
    let before = issuer();
    ca("issuer");
    assert_ne!(issuer(), before);
    let is_of_new =
        || pump.held()["certificate"].as_str().unwrap_or_default().replace("\r\n", "\n").contains(&issuer());
    assert!(wait_until(DEADLINE, is_of_new), "{}", site.said("pump"));
    assert!(wait_until(DEADLINE, || site.is_connected("pump-7")), "{}", site.said("pump"));
    agent.stop().expect("stops");
    site.hub.stop().expect("stops");
}

/// Where Debian keeps a library of this machine's architecture.
fn library(name: &str) -> Option<PathBuf> {
    let folders = fs::read_dir("/usr/lib").ok()?.flatten();
    folders.map(|folder| folder.path().join(name)).find(|path| path.exists())
}

#[test]
fn a_box_whose_clock_is_wrong_is_let_in_and_works() {
    // The library, not the program around it: that one forks, and whoever kills it leaves the agent behind.
    let Some(faketime) = library("faketime/libfaketimeMT.so.1") else {
        println!("skipped: faketime is not installed (Debian, Ubuntu: apt-get install faketime)");
        return;
    };
    let site = Site::start();
    for (name, time) in
        [("unset", "1970-01-02 00:00:00"), ("behind", "2038-01-20 00:00:00"), ("ahead", "2099-06-01 00:00:00")]
    {
        let pump = site.make_box(name);
        let at = |arguments: &[&str]| {
            let mut command = Command::new(program("edge-agent").expect("built"));
            command.args(arguments).args(["--config", &pump.config()]);
            command.env("LD_PRELOAD", &faketime).env("FAKETIME", format!("@{time}"));
            command.env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
            command
        };
        let done = at(&["enroll", "--token", &site.token(&["--agent", name])]).output().expect("runs");
        assert!(done.status.success(), "{time}: {}", text(&done.stderr));
        let log = fs::File::create(site.path(&format!("{name}.log"))).expect("log");
        let mut agent = at(&["run"]).stderr(log).spawn().expect("starts");
        let connected = wait_until(DEADLINE, || site.is_connected(name));
        // Its certificate was renewed at the right time.
        let first = pump.held()["certificate"].clone();
        let renewed = connected && wait_until(DEADLINE, || pump.held()["certificate"] != first);
        let examined = || {
            let done = at(&["doctor", "--for", "1", "--output", "json"]).output().expect("runs");
            let report: Value = serde_json::from_slice(&done.stdout).expect("JSON");
            let checks = report["checks"].as_array().cloned().unwrap_or_default();
            checks.iter().find(|check| check["check"] == "clock").map(ToString::to_string).unwrap_or_default()
        };
        let is_seen = wait_until(DEADLINE, || examined().contains("the hub says that it is "));
        let clock = examined();
        agent.kill().expect("ends");
        agent.wait().expect("ends");
        assert!(is_seen && clock.contains("warning"), "{time}: {clock}");
        assert!(connected && renewed, "{time}: {}", site.said(name));
        assert!(site.said(name).contains(&time[..5]), "its clock was not {time}: {}", site.said(name));
    }
    site.hub.stop().expect("stops");
}

#[test]
fn images_are_prepared_with_a_token_each_and_their_boot_partitions_are_sound() {
    let tools = ["/sbin/mkfs.vfat", "/sbin/fsck.fat", "/usr/bin/mcopy", "/usr/bin/mtype", "/usr/bin/dpkg-deb"];
    if !tools.iter().all(|tool| Path::new(tool).exists()) {
        println!(
            "skipped: mtools, dosfstools or dpkg are not there (Debian, Ubuntu: apt-get install mtools dosfstools)"
        );
        return;
    }
    let [format, check, copy, show, pack] = tools;
    let run = |tool: &str, arguments: &[&str]| {
        let done = Command::new(tool).args(arguments).output().expect("runs");
        assert!(done.status.success(), "{tool} {arguments:?}: {}{}", text(&done.stdout), text(&done.stderr));
        text(&done.stdout)
    };
    let site = Site::start();
    let at = |name: &str| site.path(name).display().to_string();
    let stock = at("stock.img");
    fs::File::create(&stock).expect("makes").set_len(96 * 1024 * 1024).expect("grows");
    run(format, &["-F", "32", "-n", "bootfs", &stock]);
    fs::write(at("cmdline.txt"), "console=serial0,115200 root=PARTUUID=1-02").expect("writes");
    run(copy, &["-i", &stock, &at("cmdline.txt"), "::cmdline.txt"]);
    let packed = |processor: &str| {
        let (tree, package) = (site.path("tree"), at(&format!("tideline-edge_0.1.0_{processor}.deb")));
        fs::create_dir_all(tree.join("DEBIAN")).expect("makes");
        let about = "Package: tideline-edge\nVersion: 0.1.0\nMaintainer: a <a@b>\nDescription: the agent\n";
        fs::write(tree.join("DEBIAN/control"), format!("{about}Architecture: {processor}\n")).expect("writes");
        fs::write(tree.join("agent"), vec![7; 3_500_000]).expect("writes");
        let tree = tree.display().to_string();
        run(pack, &["--no-uniform-compression", "-Znone", "--build", &tree, &package]);
        package
    };
    let package = packed("arm64");
    let output = at("edge-{number}.img");
    let prepare =
        ["image", "prepare", "--image", &stock, "--package", &package, "--labels", "site=a", "--output", &output];
    let made = site.ctl(&[&prepare[..], &["--qty", "2", "--host-name", "edge-{number}", "--json"]].concat());
    assert!(made.status.success(), "{}", text(&made.stderr));
    let made: Value = serde_json::from_slice(&made.stdout).expect("JSON");
    assert_eq!((made.as_array().map(Vec::len), &made[1]["agent"]), (Some(2), &"edge-2".into()));

    let mut tokens = Vec::new();
    for number in 1..=2 {
        let image = at(&format!("edge-{number}.img"));
        run(check, &["-n", &image]);
        let shown = |name: &str| run(show, &["-i", &image, &format!("::{name}")]);
        assert_eq!(shown("cmdline.txt"), "console=serial0,115200 root=PARTUUID=1-02");
        assert!(shown("meta-data").contains(&format!("local-hostname: \"edge-{number}\"")));
        assert!(shown("user-data").starts_with("#cloud-config\n"));
        tokens.push(shown("tideline-enroll.token"));
    }
    assert_ne!(tokens[0], tokens[1]);
    // What lies on the second card lets that box in, and no other.
    let pump = site.make_box("pump");
    let done = pump.enroll(&["--token", tokens[1].trim(), "--name", "edge-1"]);
    assert!(done.status.success(), "the token says who it is: {}", text(&done.stderr));
    assert_eq!(site.identity("edge-2")["labels"]["site"], "a");
    // One for any number of boxes holds a claim, and names none.
    let factory = at("factory.img");
    let made = site.json(&[
        "image",
        "prepare",
        "--image",
        &stock,
        "--package",
        &package,
        "--claim",
        "--json",
        "--output",
        &factory,
    ]);
    assert!(made[0]["agent"].is_null(), "{made}");
    let shown = |name: &str| run(show, &["-i", &factory, &format!("::{name}")]);
    assert!(shown("tideline-enroll.token").trim().parse::<EnrolmentClaim>().is_ok());
    assert!(shown("meta-data").contains("local-hostname: \"edge\""));
    // Nothing is overwritten, and no token is made for what does not come about.
    let before = site.json(&["enroll", "list"]).as_array().map(Vec::len);
    let again = site.ctl(&[&prepare[..], &["--qty", "2", "--host-name", "edge-{number}"]].concat());
    assert!(text(&again.stderr).contains("edge-1.img: it is there already"), "{}", text(&again.stderr));
    let one_name = site.ctl(&[&prepare[..], &["--qty", "2", "--host-name", "edge"]].concat());
    assert_eq!(one_name.status.code(), Some(2), "{}", text(&one_name.stderr));
    // What its file is called means nothing.
    let for_another = at("tideline-edge_0.2.0_arm64.deb");
    fs::rename(packed("amd64"), &for_another).expect("renames");
    fs::write(at("kernel8.img"), "a kernel").expect("writes");
    run(copy, &["-i", &stock, &at("kernel8.img"), "::kernel8.img"]);
    let wrong = ["image", "prepare", "--image", &stock, "--package", &for_another, "--output", &at("wrong.img")];
    let wrong = site.ctl(&wrong);
    assert!(
        text(&wrong.stderr).contains("the image is for arm64, and the package for amd64"),
        "{}",
        text(&wrong.stderr)
    );
    let nothing = at("tideline-edge_0.3.0_arm64.deb");
    fs::write(&nothing, "a text").expect("writes");
    let none = site.ctl(&["image", "prepare", "--image", &stock, "--package", &nothing, "--output", &at("none.img")]);
    assert!(text(&none.stderr).contains("is no package of the agent"), "{}", text(&none.stderr));
    let config = at("boxes.toml");
    for (lines, says) in [("garbage = [", "boxes.toml:1:"), ("[agent]\nname = \"edge\"\n", "agent.name stands in it")] {
        fs::write(&config, lines).expect("writes");
        let wrong = ["image", "prepare", "--image", &stock, "--package", &package, "--config", &config, "--output"];
        let wrong = site.ctl(&[&wrong[..], &[&at("wrong.img")]].concat());
        assert!(text(&wrong.stderr).contains(says), "{}", text(&wrong.stderr));
    }
    assert_eq!(site.json(&["enroll", "list"]).as_array().map(Vec::len), before);
    // A card is written without a hub, and never to what is no disk, or from what is no image.
    let flash = |arguments: &[&str]| {
        let mut command = Command::new(program("cloud-hub").expect("built"));
        let done = command.args(["ctl", "image", "flash"]).args(arguments).output().expect("runs");
        (done.status.code(), text(&done.stderr))
    };
    let (code, says) = flash(&[&at("edge-1.img"), &at("cmdline.txt")]);
    assert!(code == Some(1) && says.contains("it is a file; name the whole disk"), "{says}");
    let (code, says) = flash(&[&package, "/dev/null"]);
    assert!(code == Some(1) && says.contains("it has no FAT partition that a system boots from"), "{says}");
    site.hub.stop().expect("stops");
}
