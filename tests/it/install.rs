//! The agent installed by the script that the hub gives out: with the package that the operator's command vouches for, or not at all.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use tests::program;

use crate::enrolment::Site;

const PACKAGE: &str = "tideline-edge_0.1.0_amd64.deb";

/// A machine that takes `.deb` packages for amd64: what the script calls is there, and notes what it was asked.
struct Machine {
    directory: PathBuf,
}

impl Machine {
    fn new(site: &Site) -> Self {
        let directory = site.path("machine");
        let config = site.make_box("box").config();
        let agent = program("edge-agent").expect("built");
        fs::create_dir(&directory).expect("makes");
        let machine = Self { directory };
        let note = machine.installed().display().to_string();
        machine.tool("sudo", "exec \"$@\"");
        machine.tool("id", "echo 0");
        machine.tool("systemctl", "exit 0");
        machine.tool(
            "dpkg",
            &format!(
                "[ \"$1\" = --print-architecture ] && echo amd64 && exit\nfor last; do :; done\ncp \"$last\" '{note}'"
            ),
        );
        // The script names the place where packages put the configuration.
        let agent = agent.display();
        let run = format!(
            "name=; [ \"$1\" != enroll ] || name='--name box'\nwhat=$1\nshift 3\n\
             exec '{agent}' \"$what\" --config '{config}' $name \"$@\""
        );
        machine.tool("edge-agent", &run);
        machine.tool("install", &format!("shift 2\ncp \"$1\" '{config}'"));
        machine
    }

    fn tool(&self, name: &str, what: &str) {
        let file = self.directory.join(name);
        fs::write(&file, format!("#!/bin/sh\n{what}\n")).expect("writes");
        fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).expect("may be run");
    }

    fn installed(&self) -> PathBuf {
        self.directory.join("installed")
    }

    /// Runs a command line as somebody would who pastes it.
    fn paste(&self, line: &str) -> Output {
        let path = format!("{}:/usr/local/bin:/usr/bin:/bin", self.directory.display());
        let mut command = Command::new("sh");
        command.args(["-c", line]).env("PATH", path).current_dir(&self.directory);
        command.output().expect("runs")
    }
}

fn said(output: &Output) -> String {
    [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes).into_owned()).concat()
}

/// The line that the hub's operator sends to whoever stands at the machine.
fn site_line(site: &Site, more: &[&str]) -> String {
    let made = site.ctl(&[&["enroll", "create", "--install", "--output", "table"], more].concat());
    assert!(made.status.success(), "{}", said(&made));
    said(&made)
}

fn has_curl() -> bool {
    let found = Path::new("/usr/bin/curl").exists();
    if !found {
        eprintln!("skipped: there is no curl");
    }
    found
}

fn put(site: &Site, content: &str) {
    let folder = site.path("hub").join("install");
    fs::create_dir_all(&folder).expect("makes");
    fs::write(folder.join(PACKAGE), content).expect("writes");
}

#[test]
fn one_pasted_line_installs_what_the_operator_vouched_for_and_lets_the_box_in() {
    if !has_curl() {
        return;
    }
    let site = Site::start();
    let machine = Machine::new(&site);
    let ask = ["enroll", "create", "--install", "--output", "table"];
    let none = site.ctl(&ask);
    assert!(said(&none).contains("the hub has no packages"), "{}", said(&none));
    assert_eq!(site.json(&["enroll", "list"]).as_array().map(Vec::len), Some(0), "no token was made for nothing");
    put(&site, "a package");
    let line = site_line(&site, &[]);
    let done = machine.paste(&line);
    assert!(done.status.success(), "{line}\n{}", said(&done));
    assert_eq!(fs::read_to_string(machine.installed()).expect("installed"), "a package");
    assert!(said(&done).contains("this box is box at the hub"), "{}", said(&done));

    // A configuration that leaves it to the enrolment who the box is, as all do that are for many boxes; and one that is wrong.
    let config = fs::read_to_string(site.path("box").join("agent.toml")).expect("reads");
    fs::write(machine.directory.join("mine.toml"), &config).expect("writes");
    let with_config = |line: &str| line.replace("--token-file -", "--token-file - --config mine.toml");
    let again = machine.paste(&with_config(&site_line(&site, &["--agent", "box"])));
    assert!(again.status.success(), "{}", said(&again));
    fs::write(machine.directory.join("mine.toml"), config.replace("plant/{pump}", "plant/{pump")).expect("writes");
    let wrong = machine.paste(&with_config(&site_line(&site, &["--agent", "box"])));
    assert!(!wrong.status.success() && said(&wrong).contains("mend /etc/tideline/agent.toml"), "{}", said(&wrong));

    // Packages that are not those that the operator saw, though the hub itself gives them out.
    let line = site_line(&site, &[]);
    put(&site, "another package");
    fs::remove_file(machine.installed()).expect("removes");
    let refused = machine.paste(&line);
    assert!(!refused.status.success() && said(&refused).contains("install.sh: FAILED"), "{}", said(&refused));
    let script = machine.directory.join("install.sh");
    let text = fs::read_to_string(&script).expect("fetched");
    put(&site, "a third package");
    let from = line.split("--from ").nth(1).and_then(|rest| rest.split(' ').next()).expect("says from where");
    let refused = machine.paste(&format!("sh install.sh --from {from}"));
    assert!(!refused.status.success() && said(&refused).contains("nothing was installed"), "{}", said(&refused));
    assert!(!machine.installed().exists());

    // A script that came only in part does nothing.
    fs::write(&script, &text[..text.len() - 10]).expect("writes");
    let cut = machine.paste(&format!("sh install.sh --from {from}"));
    assert!(!machine.installed().exists(), "{}", said(&cut));
}

#[test]
fn a_machine_that_there_is_no_package_for_is_told_what_there_is() {
    if !has_curl() {
        return;
    }
    let site = Site::start();
    let machine = Machine::new(&site);
    put(&site, "a package");
    let made = site_line(&site, &[]);
    machine.tool("dpkg", "echo riscv64");
    let refused = said(&machine.paste(&made));
    let says = "failed to find tideline-edge for (deb riscv64): the hub has tideline-edge for (deb amd64)";
    assert!(refused.contains(says), "{refused}");
    machine.tool("dpkg", "echo amd64");
    let fetched = machine.paste("sh install.sh --from nowhere --gpu");
    assert!(said(&fetched).contains("failed to find tideline-edge-gpu"), "{}", said(&fetched));
    let odd = machine.paste("sh install.sh --form http://hub");
    assert!(said(&odd).contains("failed to understand --form"), "{}", said(&odd));
    let missing = machine.paste("sh install.sh --from");
    assert!(said(&missing).contains("--from: it takes a value"), "{}", said(&missing));
}
