//! Who is measured: the agent, a subscriber that only drains the broker, and pipelines built of what others build with.

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context, bail};
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::Packet;
use rumqttc::v5::{Client, Event, MqttOptions};

use super::model::Model;
use crate::{Process, free_port, pause};

/// Attempts to find a program ready, and the pause between them.
const ATTEMPTS: u32 = 1_200;
const PAUSE: Duration = Duration::from_millis(50);
/// The drain's client takes messages as fast as it can; its own queue is for what it says.
const DRAIN_QUEUE: usize = 10;

/// Where messages come in for the agent, and where its answers go out.
pub const AGENT_TOPICS: (&str, &str) = ("bench/agent/pump", "tideline/bench/prediction/pump");
/// The same for the peers.
pub const PEER_TOPICS: (&str, &str) = ("bench/peer/pump", "bench/peer/answer");

/// An agent, with a model and without a hub.
pub struct Agent {
    process: Process,
    /// Its folder.
    pub directory: PathBuf,
}

impl Agent {
    /// Starts an agent with `model` in a new folder below `directory`, and waits until it serves.
    ///
    /// # Errors
    /// If it does not.
    pub fn start(directory: &Path, number: usize, broker: SocketAddr, model: &Model) -> anyhow::Result<Self> {
        let state = directory.join(format!("agent-{number}"));
        fs::create_dir_all(&state)?;
        model.install(&state)?;
        let feature = |name: &String| format!("  {{ name = \"{name}\", path = \"$.channels['{name}']\" }},\n");
        let text = format!(
            "[agent]\nname = \"bench\"\nstate_directory = \"{}\"\n\n[mqtt]\nurl = \"mqtt://{broker}\"\n\n\
             [[input]]\nname = \"bench\"\ntopic = \"bench/agent/{{stream}}\"\nkey = \"{{stream}}\"\n\
             time = {{ path = \"$.ts\", unit = \"ms\" }}\nid = \"$.id\"\nfeature = [\n{}]\n\n\
             [status]\ninterval_ms = 1000\n",
            state.display(),
            model.channels().iter().map(feature).collect::<String>(),
        );
        let file = directory.join(format!("agent-{number}.toml"));
        fs::write(&file, text)?;
        let arguments = ["run", "--config", &file.display().to_string()];
        let process = Process::start("edge-agent", &arguments, &directory.join("agent.log"))?;
        let agent = Self { process, directory: state };
        wait("the agent to serve", || {
            agent
                .status()
                .is_some_and(|status| status["broker"]["connected"] == true && status["model"]["version"] == 1)
        })?;
        Ok(agent)
    }

    /// Its process.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.process.id()
    }

    /// What it says of itself.
    #[must_use]
    pub fn status(&self) -> Option<serde_json::Value> {
        edge_agent::status::ask(&self.directory).ok()
    }

    /// Stops it.
    ///
    /// # Errors
    /// If it does not stop well.
    pub fn stop(self) -> anyhow::Result<()> {
        self.process.stop()
    }
}

/// A subscriber with rumqttc that acknowledges and forgets: what any client of the broker could reach at most.
pub struct Drain {
    taken: Arc<AtomicUsize>,
    client: Client,
}

impl Drain {
    /// Subscribes.
    ///
    /// # Errors
    /// If the broker fails.
    pub fn start(broker: SocketAddr) -> anyhow::Result<Self> {
        let mut options = MqttOptions::new("bench-drain", broker.ip().to_string(), broker.port());
        options.set_clean_start(true);
        let (client, mut connection) = Client::new(options, DRAIN_QUEUE);
        client.subscribe(PEER_TOPICS.0, QoS::AtLeastOnce)?;
        let taken = Arc::new(AtomicUsize::new(usize::MAX));
        let count = Arc::clone(&taken);
        std::thread::spawn(move || {
            for event in connection.iter() {
                match event {
                    Ok(Event::Incoming(Packet::SubAck(_))) => count.store(0, Ordering::Release),
                    Ok(Event::Incoming(Packet::Publish(_))) => drop(count.fetch_add(1, Ordering::Release)),
                    Ok(_) => {}
                    Err(_) => return,
                }
            }
        });
        wait("the drain to be subscribed", || taken.load(Ordering::Acquire) == 0)?;
        Ok(Self { taken, client })
    }

    /// Waits until it has taken `count` messages.
    ///
    /// # Errors
    /// If they do not come.
    pub fn wait(&self, count: usize) -> anyhow::Result<()> {
        for _ in 0..60_000 {
            if self.taken.load(Ordering::Acquire) >= count {
                drop(self.client.disconnect());
                return Ok(());
            }
            pause(Duration::from_millis(1));
        }
        bail!("the drain took {} of {count} messages", self.taken.load(Ordering::Acquire))
    }
}

/// A peer's programs, installed into a folder that is thrown away.
pub struct Peers {
    python: PathBuf,
    node_red: PathBuf,
    model: PathBuf,
    network: PathBuf,
}

/// Which peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Peer {
    /// paho-mqtt, numpy and onnxruntime.
    Python,
    /// Node-RED and onnxruntime-node.
    NodeRed,
}

/// A running peer; dropped, it is killed.
pub struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended already.
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

impl Peers {
    /// Installs both into `directory`, without running anybody's install scripts.
    ///
    /// # Errors
    /// If Python 3, Node.js or their package registries are not there.
    pub fn install(directory: &Path, model: &Model) -> anyhow::Result<Self> {
        let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("bench/peers");
        let (python, node_red) = (directory.join("python"), directory.join("node-red"));
        let (model_file, network) = (directory.join("model.json"), directory.join("network.onnx"));
        model.write_json(&model_file)?;
        execute(Command::new("python3").args(["-m", "venv"]).arg(&python))?;
        let requirements = sources.join("python/requirements.txt");
        execute(
            Command::new(python.join("bin/pip"))
                .args(["install", "--quiet", "--only-binary=:all:", "-r"])
                .arg(requirements),
        )?;
        let make_onnx = sources.join("python/make_onnx.py");
        execute(Command::new(python.join("bin/python")).args([&make_onnx, &model_file, &network]))?;
        fs::create_dir_all(&node_red)?;
        for file in ["package.json", "settings.js", "function.js", "make_flow.js"] {
            fs::copy(sources.join("node-red").join(file), node_red.join(file))
                .with_context(|| format!("copy {file}"))?;
        }
        let mut npm = Command::new("npm");
        npm.args(["install", "--ignore-scripts", "--no-audit", "--no-fund", "--silent"]);
        execute(npm.current_dir(&node_red))?;
        execute(Command::new("node").args(["make_flow.js", "function.js", "flow.json"]).current_dir(&node_red))?;
        Ok(Self { python, node_red, model: model_file, network })
    }

    /// Starts one and waits until it has subscribed.
    ///
    /// # Errors
    /// If it does not.
    pub fn start(&self, peer: Peer, broker: SocketAddr) -> anyhow::Result<Running> {
        let (topic_in, topic_out) = PEER_TOPICS;
        let (mut command, ready) = match peer {
            Peer::Python => {
                let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("bench/peers/python/pipeline.py");
                let mut command = Command::new(self.python.join("bin/python"));
                command.arg(script).arg(broker.ip().to_string()).arg(broker.port().to_string());
                command.args([&self.model, &self.network]).args([topic_in, topic_out]);
                (command, "ready")
            }
            Peer::NodeRed => {
                let mut command = Command::new("node");
                command.arg(self.node_red.join("node_modules/node-red/red.js"));
                command.arg("--userDir").arg(&self.node_red).arg("--settings").arg(self.node_red.join("settings.js"));
                command.env("BROKER_PORT", broker.port().to_string());
                command.env("MODEL", &self.model).env("NETWORK", &self.network);
                command.env("TOPIC_IN", topic_in).env("TOPIC_OUT", topic_out);
                command.env("EDITOR_PORT", free_port()?.port().to_string());
                command.current_dir(&self.node_red);
                (command, "Connected to broker")
            }
        };
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::inherit()).spawn()?;
        let said = child.stdout.take().context("read what it says")?;
        let running = Running(child);
        let mut lines = BufReader::new(said).lines();
        if !lines.any(|line| line.is_ok_and(|line| line.contains(ready))) {
            bail!("{peer:?} ended before it was ready");
        }
        // What it says from now on must not fill the pipe.
        std::thread::spawn(move || lines.for_each(drop));
        if peer == Peer::NodeRed {
            // It says that it is connected, not that it has subscribed.
            pause(Duration::from_secs(1));
        }
        Ok(running)
    }
}

/// Runs a program to its end.
///
/// # Errors
/// What it complained of, if it failed.
pub(super) fn execute(command: &mut Command) -> anyhow::Result<()> {
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("run {command:?}"))?;
    if output.status.success() {
        return Ok(());
    }
    bail!("{command:?} failed: {}", String::from_utf8_lossy(&output.stderr))
}

/// Waits until `ready`.
///
/// # Errors
/// If that takes too long.
pub fn wait(what: &str, ready: impl Fn() -> bool) -> anyhow::Result<()> {
    for _ in 0..ATTEMPTS {
        if ready() {
            return Ok(());
        }
        pause(PAUSE);
    }
    bail!("waited too long for {what}")
}
