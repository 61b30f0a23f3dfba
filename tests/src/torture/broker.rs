//! mosquitto, as Debian ships it, with persistence.

use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, bail};

use crate::{free_port, pause};

/// Attempts to reach a broker that was just started.
const ATTEMPTS: u32 = 200;

/// A running broker; dropped, it is killed.
pub struct Broker {
    address: SocketAddr,
    file: PathBuf,
    log: PathBuf,
    child: Child,
}

/// Where mosquitto is, if it is installed.
#[must_use]
pub fn program() -> Option<PathBuf> {
    ["/usr/sbin/mosquitto", "/usr/bin/mosquitto", "/usr/local/sbin/mosquitto"]
        .into_iter()
        .map(PathBuf::from)
        .find(|path| path.exists())
}

impl Broker {
    /// Starts a broker with a configuration of its own on a free port. It writes its state down, and does not keep to
    /// what clients say that they take at once.
    ///
    /// # Errors
    /// If mosquitto is not installed or does not start.
    pub fn start(directory: &Path) -> anyhow::Result<Self> {
        let data = directory.join("broker");
        std::fs::create_dir_all(&data)?;
        let data = data.display();
        let persistence = format!(
            "persistence true\npersistence_location {data}/\nautosave_on_changes true\nautosave_interval 500\n"
        );
        Self::with(directory, &persistence)
    }

    /// One that keeps its state in memory only, and all messages until they are taken.
    ///
    /// # Errors
    /// If mosquitto is not installed or does not start.
    pub fn without_persistence(directory: &Path) -> anyhow::Result<Self> {
        Self::with(directory, "persistence false\n")
    }

    /// One with more settings, as mosquitto.conf(5) has them.
    ///
    /// # Errors
    /// If mosquitto is not installed or does not start.
    pub fn with(directory: &Path, settings: &str) -> anyhow::Result<Self> {
        let address = free_port()?;
        let file = directory.join("mosquitto.conf");
        let text = format!(
            "listener {} 127.0.0.1\nallow_anonymous true\n{settings}user root\nmax_queued_messages 0\n",
            address.port(),
        );
        std::fs::write(&file, text)?;
        let log = directory.join("broker.log");
        let child = spawn(&file, &log)?;
        let broker = Self { address, file, log, child };
        broker.wait()?;
        Ok(broker)
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Kills it without a word.
    ///
    /// # Errors
    /// If it is gone already.
    pub fn kill(&mut self) -> anyhow::Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// Starts it again.
    ///
    /// # Errors
    /// If it does not start.
    pub fn restart(&mut self) -> anyhow::Result<()> {
        self.child = spawn(&self.file, &self.log)?;
        self.wait()
    }

    /// Waits until it has written down what it knows now: it does so after every few hundred changes, and on a signal.
    ///
    /// # Errors
    /// If it does not.
    pub fn wait_until_saved(&self) -> anyhow::Result<()> {
        let data = self.file.with_file_name("broker").join("mosquitto.db");
        let saved = || std::fs::metadata(&data).and_then(|metadata| metadata.modified()).ok();
        let before = saved();
        let asked = Command::new("kill").args(["-USR1", &self.child.id().to_string()]).status()?;
        for _ in 0..ATTEMPTS {
            if asked.success() && saved() != before {
                return Ok(());
            }
            pause(Duration::from_millis(20));
        }
        bail!("mosquitto does not write to {}; see {}", data.display(), self.log.display())
    }

    fn wait(&self) -> anyhow::Result<()> {
        for _ in 0..ATTEMPTS {
            if TcpStream::connect(self.address).is_ok() {
                return Ok(());
            }
            pause(Duration::from_millis(20));
        }
        bail!("mosquitto does not listen on {}; see {}", self.address, self.log.display())
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        // It may be gone already.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

fn spawn(file: &Path, log: &Path) -> anyhow::Result<Child> {
    let program = program().context("mosquitto is not installed (Debian, Ubuntu: apt-get install mosquitto)")?;
    let out = std::fs::OpenOptions::new().create(true).append(true).open(log)?;
    Command::new(program)
        .args(["-c", &file.display().to_string()])
        .stdin(Stdio::null())
        .stdout(out.try_clone()?)
        .stderr(out)
        .spawn()
        .context("start mosquitto")
}
