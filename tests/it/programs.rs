//! Boxes whose agent is replaced over the hub: by one that proves itself, one that dies, one that does not get well, one that a stranger
//! signed, with the real programs.

use std::fs;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use edge_agent::program::TARGET;
use serde_json::Value;
use tests::torture::broker::{self, Broker};
use tests::{program, wait_until};

use super::enrolment::{Box, Site};

const DEADLINE: Duration = Duration::from_secs(60);

/// A box that whoever starts it starts again, as a service manager does.
struct Watched<'a> {
    of: &'a Box,
    agent: Child,
    starts: u32,
    socket: UnixDatagram,
    /// What the box said to it.
    heard: Vec<String>,
}

impl<'a> Watched<'a> {
    fn start(of: &'a Box) -> Self {
        let socket = UnixDatagram::bind(of.notify_socket()).expect("binds");
        socket.set_nonblocking(true).expect("sets");
        Self { of, agent: run(of), starts: 1, socket, heard: Vec::new() }
    }

    /// Starts the box's program again if it ended.
    fn look(&mut self) {
        let mut bytes = [0; 512];
        while let Ok(count) = self.socket.recv(&mut bytes) {
            self.heard.push(String::from_utf8_lossy(&bytes[..count]).trim().to_owned());
        }
        if self.agent.try_wait().expect("is asked").is_some() {
            self.agent = run(self.of);
            self.starts += 1;
        }
    }

    /// What the box says of itself.
    fn status(&self) -> Value {
        let said = self.of.command(&["status", "--output", "json"]).output().expect("runs");
        serde_json::from_slice(&said.stdout).unwrap_or_default()
    }

    fn number(&self) -> Option<u64> {
        self.status()["program_number"].as_u64()
    }
}

impl Drop for Watched<'_> {
    fn drop(&mut self) {
        self.agent.kill().ok();
        self.agent.wait().ok();
    }
}

fn run(of: &Box) -> Child {
    let log = fs::OpenOptions::new().create(true).append(true).open(of.log()).expect("opens");
    of.command(&["run"])
        .env("NOTIFY_SOCKET", of.notify_socket())
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .expect("starts")
}

/// Packs a program and brings it to the hub; gives its file.
fn bring(site: &Site, from: &Path, number: u64, key: &Path) -> String {
    let output = site.path(&format!("{number}.tidp"));
    let number = number.to_string();
    let packed = Command::new(program("cloud-hub").expect("built"))
        .args(["package", "program", "--target", TARGET, "--number", &number, "--release", &format!("0.{number}.0")])
        .arg(from)
        .arg("--key")
        .arg(key)
        .arg("--output")
        .arg(&output)
        .output()
        .expect("runs");
    assert!(packed.status.success(), "{}", String::from_utf8_lossy(&packed.stderr));
    let added = site.json(&["programs", "add", &output.display().to_string()]);
    added["file"].as_str().expect("a file").to_owned()
}

fn make_key(site: &Site, name: &str) -> (PathBuf, String) {
    let file = site.path(name);
    let made = Command::new(program("cloud-hub").expect("built"))
        .args(["key", "create", "--output"])
        .arg(&file)
        .output()
        .expect("runs");
    assert!(made.status.success());
    (file, String::from_utf8_lossy(&made.stdout).trim().to_owned())
}

fn script(site: &Site, name: &str, text: &str) -> PathBuf {
    let file = site.path(name);
    fs::write(&file, text).expect("writes");
    file
}

fn of_box(site: &Site) -> Value {
    let boxes = site.json(&["programs", "boxes"]);
    boxes.as_array().and_then(|boxes| boxes.first().cloned()).unwrap_or_default()
}

fn offered(site: &Site, file: &str) {
    site.json(&["programs", "offer", &file[..12], "--agents", "box-1"]);
}

/// Waits until the box's program came to something, starting it again meanwhile.
fn until(site: &Site, watched: &mut Watched<'_>, outcome: &str, number: u64) -> Value {
    let mut said = Value::Null;
    let done = wait_until(DEADLINE, || {
        watched.look();
        said = of_box(site);
        said["outcome"] == outcome && said["number"] == number
    });
    let log = fs::read_to_string(watched.of.log()).unwrap_or_default();
    assert!(done, "{outcome} of {number}: {said}\n{log}\n{}", site.said("hub"));
    said
}

#[test]
fn a_box_takes_a_program_that_proves_itself_and_goes_back_from_every_other() {
    if broker::program().is_none() {
        eprintln!("skipped: mosquitto is not installed");
        return;
    }
    let site = Site::start();
    let directory = tempfile::tempdir().expect("dir");
    let mut broker = Broker::without_persistence(directory.path()).expect("a broker");
    let ((key, trusted), (strange, _)) = (make_key(&site, "release.key"), make_key(&site, "strange.key"));
    let of = site.make_box("a");
    let config = fs::read_to_string(of.config()).expect("reads");
    let config = config.replace("mqtt://127.0.0.1:1", &format!("mqtt://{}", broker.address()));
    let update = format!("[update]\ntrust = [\"{trusted}\"]\ninterval_ms = 1000\nsettle_ms = 1000\n");
    fs::write(of.config(), config + &update).expect("writes");
    let enrolled = of.enroll(&["--token", &site.token(&["--agent", "box-1"])]);
    assert!(enrolled.status.success(), "{}", String::from_utf8_lossy(&enrolled.stderr));
    let mut watched = Watched::start(&of);
    assert!(wait_until(DEADLINE, || of_box(&site)["accepts"] == true), "{}", site.said("hub"));
    let process = watched.agent.id();

    let good = bring(&site, &program("edge-agent").expect("built"), 10, &key);
    offered(&site, &good);
    until(&site, &mut watched, "kept", 10);
    assert_eq!((watched.agent.id(), watched.starts), (process, 1), "the process stays the same");
    // A service manager that hears of a stop waits for it, and then kills.
    assert_eq!(watched.heard, ["READY=1", "READY=1"]);
    assert!(wait_until(DEADLINE, || watched.number() == Some(10)));
    assert!(wait_until(DEADLINE, || site.is_connected("box-1")));

    let foreign = bring(&site, &script(&site, "foreign", "#!/bin/sh\nexec sleep 600\n"), 20, &strange);
    offered(&site, &foreign);
    let said = until(&site, &mut watched, "refused", 10);
    assert!(said["reason"].as_str().is_some_and(|why| why.contains("not signed by a trusted key")), "{said}");
    assert_eq!(watched.starts, 1);

    // As an agent that ends within minutes of its start leaves it.
    let starts = site.path("a/state/starts");
    let dies = format!("#!/bin/sh\necho $(cat /proc/sys/kernel/random/boot_id) 3 >{}\nexit 3\n", starts.display());
    let dying = bring(&site, &script(&site, "dying", &dies), 30, &key);
    offered(&site, &dying);
    let said = until(&site, &mut watched, "returned", 10);
    assert_eq!(said["reason"], "it was started 3 times and did not prove itself");
    assert_eq!(watched.starts, 4, "three that died, and the one before");
    assert!(wait_until(DEADLINE, || watched.status()["safe_mode"].is_null() && watched.number() == Some(10)));
    let again = site.ctl(&["programs", "offer", &dying, "--agents", "box-1"]);
    let refused = String::from_utf8_lossy(&again.stderr).into_owned();
    assert!(!again.status.success() && refused.contains("is halted: box-1 went back from it"), "{refused}");

    broker.kill().expect("kills");
    let deaf = bring(&site, &program("edge-agent").expect("built"), 40, &key);
    offered(&site, &deaf);
    let said = until(&site, &mut watched, "returned", 10);
    assert!(said["reason"].as_str().is_some_and(|why| why.ends_with("the broker is not connected")), "{said}");
    assert_eq!(watched.starts, 4, "it went back by itself");
    assert!(watched.heard.iter().all(|said| said == "READY=1"), "{:?}", watched.heard);
    let kept = fs::read_dir(site.path("a/state/programs")).expect("a folder").count();
    assert_eq!(kept, 2, "the book, and one program");
}
