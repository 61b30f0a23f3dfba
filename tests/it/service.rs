//! What a service manager is told, and that it is not told that all is well by a program that hangs.

use std::fs;
use std::ops::{Deref, DerefMut};
use std::os::unix::net::UnixDatagram;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tests::{Process, free_port, pause, program, wait_until};

const DEADLINE: Duration = Duration::from_secs(30);
/// What a program is allowed between two pings.
const WATCHDOG_US: u64 = 600_000;

/// An agent whose broker is away.
const AGENT: &str = r#"
[agent]
name = "box"
state_directory = "state"
[mqtt]
url = "mqtt://127.0.0.1:1"
[[input]]
name = "x"
topic = "x"
key = "x"
feature = [{ name = "x", path = "$" }]
[spool]
max_bytes = 16777216
"#;

/// A program that does not outlive a test that fails.
struct Started(Child);

impl Deref for Started {
    type Target = Child;

    fn deref(&self) -> &Child {
        &self.0
    }
}

impl DerefMut for Started {
    fn deref_mut(&mut self) -> &mut Child {
        &mut self.0
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        // One that ended already is not there to be killed.
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

/// A service manager that listens.
struct Manager {
    directory: tempfile::TempDir,
    socket: UnixDatagram,
}

impl Manager {
    fn new() -> Self {
        let directory = tempfile::tempdir().expect("dir");
        let socket = UnixDatagram::bind(directory.path().join("notify")).expect("binds");
        socket.set_read_timeout(Some(DEADLINE)).expect("sets");
        Self { directory, socket }
    }

    fn start(&self, name: &str, arguments: &[&str]) -> Started {
        let mut command = Command::new(program(name).expect("built"));
        command.args(arguments).current_dir(self.directory.path());
        command.env("NOTIFY_SOCKET", self.directory.path().join("notify"));
        command.env("WATCHDOG_USEC", WATCHDOG_US.to_string()).stderr(Stdio::null()).stdout(Stdio::null());
        Started(command.spawn().expect("starts"))
    }

    fn hears(&self) -> Option<String> {
        let mut bytes = [0; 512];
        let count = self.socket.recv(&mut bytes).ok()?;
        Some(String::from_utf8_lossy(&bytes[..count]).trim().to_owned())
    }
}

fn signal(child: &Child, signal: &str) {
    let done = Command::new("kill").args([signal, &child.id().to_string()]).status().expect("runs");
    assert!(done.success());
}

fn is_up_pings_hangs_and_stops(manager: &Manager, mut child: Started) {
    assert_eq!(manager.hears().as_deref(), Some("READY=1"));
    for _ in 0..4 {
        assert_eq!(manager.hears().as_deref(), Some("WATCHDOG=1"));
    }
    // A program that gets no further says nothing, and a service manager would start it anew.
    signal(&child, "-STOP");
    pause(Duration::from_micros(WATCHDOG_US / 2));
    manager.socket.set_nonblocking(true).expect("sets");
    while manager.hears().is_some() {}
    pause(Duration::from_micros(2 * WATCHDOG_US));
    assert_eq!(manager.hears(), None);
    manager.socket.set_nonblocking(false).expect("sets");
    signal(&child, "-CONT");
    assert_eq!(manager.hears().as_deref(), Some("WATCHDOG=1"));
    signal(&child, "-TERM");
    let mut heard = manager.hears();
    while heard.as_deref() == Some("WATCHDOG=1") {
        heard = manager.hears();
    }
    assert_eq!(heard.as_deref(), Some("STOPPING=1"));
    assert!(child.wait().expect("ends").success());
}

/// It holds its folder by then, and none of what it serves is up.
#[test]
fn a_hub_that_is_told_to_stop_on_its_way_up_ends_well_and_comes_up_again() {
    let directory = tempfile::tempdir().expect("dir");
    let [link, api] = [free_port().expect("port"), free_port().expect("port")];
    let config = format!("[hub]\ndata_directory = \"hub\"\n[link]\nlisten = \"{link}\"\n[api]\nlisten = \"{api}\"\n");
    let file = directory.path().join("hub.toml");
    fs::write(&file, config).expect("writes");
    let start = || {
        let arguments = ["serve", "--config", &file.display().to_string()];
        Process::start("cloud-hub", &arguments, &directory.path().join("hub.log")).expect("starts")
    };

    let interrupted = start();
    assert!(wait_until(DEADLINE, || directory.path().join("hub").exists()));
    interrupted.stop().expect("stops well");

    let again = start();
    assert!(wait_until(DEADLINE, || std::net::TcpStream::connect(api).is_ok()));
    again.stop().expect("stops well");
}

#[test]
fn a_service_manager_hears_that_an_agent_is_up_gets_on_and_stops() {
    let manager = Manager::new();
    fs::write(manager.directory.path().join("agent.toml"), AGENT).expect("writes");
    let agent = manager.start("edge-agent", &["run", "--config", "agent.toml"]);
    is_up_pings_hangs_and_stops(&manager, agent);
}

#[test]
fn a_service_manager_hears_that_a_hub_is_up_gets_on_and_stops() {
    let manager = Manager::new();
    let [link, api] = [free_port().expect("port"), free_port().expect("port")];
    let config = format!("[hub]\ndata_directory = \"hub\"\n[link]\nlisten = \"{link}\"\n[api]\nlisten = \"{api}\"\n");
    fs::write(manager.directory.path().join("hub.toml"), config).expect("writes");
    let hub = manager.start("cloud-hub", &["serve", "--config", "hub.toml"]);
    is_up_pings_hangs_and_stops(&manager, hub);
}

#[test]
fn an_agent_that_does_not_survive_its_starts_runs_without_a_model_until_it_is_stopped_well() {
    let manager = Manager::new();
    fs::write(manager.directory.path().join("agent.toml"), AGENT).expect("writes");
    let config = manager.directory.path().join("agent.toml").display().to_string();
    let start = || {
        let agent = manager.start("edge-agent", &["run", "--config", "agent.toml"]);
        while manager.hears().as_deref() != Some("READY=1") {}
        agent
    };
    let says = || {
        let mut said = String::new();
        let asked = wait_until(DEADLINE, || {
            let status =
                Command::new(program("edge-agent").expect("built")).args(["status", "--config", &config]).output();
            said = String::from_utf8_lossy(&status.expect("runs").stdout).into_owned();
            said.contains("model ")
        });
        assert!(asked, "it does not say how it is");
        said
    };
    for _ in 0..3 {
        let mut agent = start();
        assert!(says().contains("none yet"), "it may still try");
        agent.kill().expect("killed");
        agent.wait().expect("ends");
    }
    let mut agent = start();
    assert!(says().contains("safe mode: the agent ended 3 times within minutes of its start"), "{}", says());
    signal(&agent, "-TERM");
    assert!(agent.wait().expect("ends").success());
    let mut agent = start();
    assert!(says().contains("none yet"), "whoever stops it well lets it try again");
    signal(&agent, "-TERM");
    assert!(agent.wait().expect("ends").success());
}
