//! What the tests of whole programs share: the programs as processes, and how to stop them, gently or not.

pub mod bench;
pub mod fuzz;
pub mod sim;
pub mod torture;

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, bail};

/// Time a program has to end when it is asked to.
const STOP_ATTEMPTS: u32 = 600;
const STOP_PAUSE: Duration = Duration::from_millis(50);
/// Between two looks at whether something is so.
const LOOK_PAUSE: Duration = Duration::from_millis(10);

/// A loopback address that was free a moment ago, for UDP as well as TCP.
///
/// # Errors
/// If the system has none.
pub fn free_port() -> std::io::Result<SocketAddr> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()
}

/// One of the project's programs, built beside this test or program.
///
/// # Errors
/// If it was not built: `make test` builds the programs first.
pub fn program(name: &str) -> anyhow::Result<PathBuf> {
    let own = std::env::current_exe()?;
    // A test lies in target/<profile>/deps, a program beside the others.
    let beside = own.parent().context("a program lies in a folder")?;
    let folder = if beside.ends_with("deps") { beside.parent().unwrap_or(beside) } else { beside };
    let program = folder.join(name);
    if program.exists() { Ok(program) } else { bail!("{} is not built; run `make test`", program.display()) }
}

/// The folder of public data, if the environment names one: tests that want them say that they were skipped otherwise.
#[must_use]
pub fn public_data() -> Option<PathBuf> {
    #[expect(clippy::disallowed_methods, reason = "the tests' one switch")]
    let folder = std::env::var_os("TIDELINE_DATA");
    folder.map(PathBuf::from)
}

/// Builds the programs as this one was built, so that what is started is what the sources say.
///
/// # Errors
/// If they cannot be built.
pub fn build_programs() -> anyhow::Result<()> {
    let mut command = Command::new(option_env!("CARGO").unwrap_or("cargo"));
    command.args(["build", "--package", "edge-agent", "--package", "cloud-hub", "--package", "tests", "--bins"]);
    if !cfg!(debug_assertions) {
        command.arg("--release");
    }
    // What `cargo run` says of the program it starts: build scripts look at it, and would have dependencies built anew.
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if ["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_CRATE_", "CARGO_BIN_"].iter().any(|of_run| text.starts_with(of_run))
        {
            command.env_remove(&name);
        }
    }
    let status = command.current_dir(env!("CARGO_MANIFEST_DIR")).status().context("run cargo")?;
    if status.success() { Ok(()) } else { bail!("build the programs: {status}") }
}

/// A program that runs, and can be killed and started again. Dropped, it is killed.
pub struct Process {
    name: &'static str,
    arguments: Vec<String>,
    log: PathBuf,
    child: Child,
}

impl Process {
    /// Starts a program; what it says goes to the end of `log`.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn start(name: &'static str, arguments: &[&str], log: &Path) -> anyhow::Result<Self> {
        let arguments: Vec<String> = arguments.iter().map(|argument| (*argument).to_owned()).collect();
        let child = spawn(name, &arguments, log)?;
        Ok(Self { name, arguments, log: log.to_owned(), child })
    }

    /// What the system knows it by.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Kills the program as a power cut of the process would: no signal handler, no flush.
    ///
    /// # Errors
    /// If it is gone already.
    pub fn kill(&mut self) -> anyhow::Result<()> {
        if let Some(status) = self.child.try_wait()? {
            bail!("{} had ended by itself: {status}; see {}", self.name, self.log.display());
        }
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// Starts the killed program again.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn restart(&mut self) -> anyhow::Result<()> {
        self.child = spawn(self.name, &self.arguments, &self.log)?;
        Ok(())
    }

    /// Asks the program to stop and waits until it has, with exit code 0.
    ///
    /// # Errors
    /// If it does not, or not well.
    pub fn stop(mut self) -> anyhow::Result<()> {
        let asked = Command::new("kill").args(["-TERM", &self.child.id().to_string()]).status()?;
        if !asked.success() {
            bail!("{} could not be asked to stop", self.name);
        }
        for _ in 0..STOP_ATTEMPTS {
            match self.child.try_wait()? {
                Some(status) if status.success() => return Ok(()),
                Some(status) => bail!("{} ended with {status}; see {}", self.name, self.log.display()),
                None => pause(STOP_PAUSE),
            }
        }
        bail!("{} did not stop", self.name)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended already; then there is nothing to kill.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Sleeps.
pub fn pause(time: Duration) {
    #[expect(clippy::disallowed_methods, reason = "processes are waited for from outside")]
    std::thread::sleep(time);
}

/// Waits until something is so; false if it is not within `deadline`.
pub fn wait_until(deadline: Duration, mut is_so: impl FnMut() -> bool) -> bool {
    for _ in 0..deadline.as_millis() / LOOK_PAUSE.as_millis() {
        if is_so() {
            return true;
        }
        pause(LOOK_PAUSE);
    }
    false
}

fn spawn(name: &str, arguments: &[String], log: &Path) -> anyhow::Result<Child> {
    let file = std::fs::OpenOptions::new().create(true).append(true).open(log)?;
    Command::new(program(name)?)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(file.try_clone()?)
        .stderr(file)
        .spawn()
        .with_context(|| format!("start {name}"))
}
