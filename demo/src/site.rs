//! A site set up as a user would: certificates, configuration files, a hub and agents.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;

use anyhow::{Context, anyhow};
use cloud_hub::authority::{self, Subject};
use cloud_hub::hub::Hub;
use cloud_hub::release_key;
use edge_agent::agent::Surroundings;
use edge_agent::logging::Log;
use serde::Deserialize;
use shared::enrolment::HUB_SERVER_NAME;
use shared::ids::{AgentId, ChannelName, StreamId};
use tokio_util::sync::CancellationToken;

use crate::publish::topic;
use crate::scenario::Scenario;

/// The model of the demo.
pub const MODEL: &str = "demo-anomaly";
/// The hub trains on the CPU: a model this small is done there before a GPU has been handed its first step, and every
/// device then serves the very same package.
const TRAINING_DEVICE: &str = "flex";
/// How often agents publish their status: the publisher paces itself by it.
const STATUS_INTERVAL_MS: u64 = 100;

/// What to set up.
pub struct Plan<'a> {
    /// The folder for everything.
    pub directory: &'a Path,
    /// The broker.
    pub broker: SocketAddr,
    /// The stream.
    pub stream: &'a StreamId,
    /// Its channels.
    pub channels: &'a [ChannelName],
    /// The agents, each perhaps pinned to a version.
    pub agents: Vec<(AgentId, Option<u32>)>,
    /// The device boxes answer on.
    pub device: &'a str,
    /// The seed of training.
    pub seed: u64,
    /// The hub's addresses for agents and for HTTP; port 0 takes a free one.
    pub hub: (SocketAddr, SocketAddr),
    /// Cohorts with a model of their own: boxes whose names begin with theirs and `-`.
    pub cohorts: Vec<String>,
    /// Seconds after a training in which no other begins by itself.
    pub cooldown_s: u32,
    /// The stages of a rollout.
    pub stages: Vec<StagePlan>,
    /// Answers before a version is judged, if not as many as by default.
    pub min_answers: Option<u64>,
}

/// A stage of a rollout, as the hub's configuration says it.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StagePlan {
    /// The share of boxes, in percent.
    pub percent: u8,
    /// How long it has to go well, in seconds.
    #[serde(default)]
    pub soak_s: f64,
    /// What its boxes do, if not serve the version.
    pub mode: Option<String>,
    /// The share of readings that a version in shadow sees, in percent.
    pub mirror_percent: Option<u8>,
    /// Whether a person must agree before it begins.
    #[serde(default)]
    pub approval: bool,
}

impl StagePlan {
    /// Every box at once.
    #[must_use]
    pub fn all() -> Self {
        Self { percent: 100, soak_s: 0.0, mode: None, mirror_percent: None, approval: false }
    }

    fn to_toml(&self) -> String {
        let Self { percent, soak_s, mode, mirror_percent, approval } = self;
        let mut text =
            format!("[[model.rollout.stage]]\npercent = {percent}\nsoak_s = {soak_s:?}\napproval = {approval}\n");
        if let Some(mode) = mode {
            text += &format!("mode = {}\n", string(mode));
        }
        if let Some(percent) = mirror_percent {
            text += &format!("mirror_percent = {percent}\n");
        }
        text
    }
}

impl<'a> Plan<'a> {
    /// One agent, called as it is named, and a hub that rolls out to it at once, on the CPU.
    #[must_use]
    pub fn of_one(
        directory: &'a Path,
        broker: SocketAddr,
        scenario: &'a Scenario,
        agent: &AgentId,
        hub: (SocketAddr, SocketAddr),
        seed: u64,
    ) -> Self {
        Self {
            directory,
            broker,
            stream: &scenario.stream,
            channels: &scenario.channels,
            agents: vec![(agent.clone(), None)],
            device: "flex",
            seed,
            hub,
            cohorts: Vec::new(),
            cooldown_s: 0,
            stages: vec![StagePlan::all()],
            min_answers: None,
        }
    }
}

/// A loopback address with a port that is free when it is used.
#[must_use]
pub fn any_port() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}

/// A running site.
pub struct Site {
    /// Nothing only while it is restarted.
    hub: Option<Member>,
    hub_file: PathBuf,
    agents: BTreeMap<AgentId, Member>,
    /// Where the configuration files are.
    directory: PathBuf,
    /// Where the hub's HTTP interface is.
    pub api: SocketAddr,
    /// The hub's data.
    pub hub_directory: PathBuf,
    /// The code that makes the hub's first admin.
    setup_code: Option<String>,
}

struct Member {
    name: String,
    stop: CancellationToken,
    thread: JoinHandle<anyhow::Result<()>>,
}

impl Site {
    /// Sets everything up and starts it.
    ///
    /// # Errors
    /// If a file, port or device is not to be had.
    pub fn start(plan: &Plan<'_>) -> anyhow::Result<Self> {
        let hub_file = write_hub(plan)?;
        let (hub, addresses) = start_hub(&hub_file)?;
        let Addresses { link, api, setup_code } = addresses;
        let mut agents = BTreeMap::new();
        for (agent, pin) in &plan.agents {
            agents.insert(agent.clone(), start_agent(&write_agent(plan, agent, *pin, link)?, agent)?);
        }
        let directory = plan.directory.to_owned();
        let hub_directory = directory.join("hub");
        Ok(Self { hub: Some(hub), hub_file, agents, api, hub_directory, directory, setup_code })
    }

    /// The link that makes the hub's first admin, and shows the dashboard from then on.
    #[must_use]
    pub fn dashboard(&self) -> String {
        let setup = self.setup_code.as_ref().map(|code| format!("#/setup/{code}")).unwrap_or_default();
        format!("http://{}/{setup}", self.api)
    }

    /// Stops the hub and starts it again; its addresses must be fixed ones.
    ///
    /// # Errors
    /// If it had failed, or does not start.
    pub fn restart_hub(&mut self) -> anyhow::Result<()> {
        self.stop_hub()?;
        self.hub = Some(start_hub(&self.hub_file)?.0);
        Ok(())
    }

    fn stop_hub(&mut self) -> anyhow::Result<()> {
        match self.hub.take() {
            Some(hub) => {
                hub.stop.cancel();
                hub.join()
            }
            None => Ok(()),
        }
    }

    /// Stops agents.
    ///
    /// # Errors
    /// If one of them had failed.
    pub fn stop_agents(&mut self, names: &[AgentId]) -> anyhow::Result<()> {
        let members: Vec<Member> = names.iter().filter_map(|name| self.agents.remove(name)).collect();
        members.iter().for_each(|member| member.stop.cancel());
        members.into_iter().try_for_each(Member::join)
    }

    /// Starts agents that were stopped.
    ///
    /// # Errors
    /// If one of them does not start.
    pub fn start_agents(&mut self, names: &[AgentId]) -> anyhow::Result<()> {
        for name in names {
            let member = start_agent(&self.directory.join(format!("{name}.toml")), name)?;
            self.agents.insert(name.clone(), member);
        }
        Ok(())
    }

    /// Stops the agents, then the hub, which first puts all it has into the sample store.
    ///
    /// # Errors
    /// If one of them had failed.
    pub fn stop(mut self) -> anyhow::Result<()> {
        let names: Vec<AgentId> = self.agents.keys().cloned().collect();
        self.stop_agents(&names)?;
        self.stop_hub()
    }
}

impl Member {
    fn join(self) -> anyhow::Result<()> {
        let ended = self.thread.join().map_err(|_| anyhow!("{} failed", self.name))?;
        ended.with_context(|| format!("run {}", self.name))
    }
}

/// Where a hub is.
struct Addresses {
    link: SocketAddr,
    api: SocketAddr,
    setup_code: Option<String>,
}

fn start_hub(file: &Path) -> anyhow::Result<(Member, Addresses)> {
    let config = cloud_hub::config::Config::load(file)?;
    let stop = CancellationToken::new();
    let stopped = stop.clone();
    let (addresses, started) = std::sync::mpsc::sync_channel(1);
    let thread = std::thread::Builder::new().name("hub".into()).spawn(move || {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        runtime.block_on(async move {
            let hub = Hub::start(config).await?;
            // If nobody waits any more, the demo is ending.
            let setup_code = hub.setup_code().map(|code| code.reveal().to_owned());
            let (link, api) = (hub.link_address(), hub.api_address());
            addresses.send(Addresses { link, api, setup_code }).ok();
            Ok(hub.run(stopped).await?)
        })
    })?;
    let member = Member { name: "the hub".to_owned(), stop, thread };
    match started.recv() {
        Ok(addresses) => Ok((member, addresses)),
        Err(_) => Err(member.join().err().unwrap_or_else(|| anyhow!("the hub did not start"))),
    }
}

fn start_agent(file: &Path, agent: &AgentId) -> anyhow::Result<Member> {
    let config = edge_agent::config::Config::load(file)?;
    let stop = CancellationToken::new();
    let stopped = stop.clone();
    let thread = std::thread::Builder::new().name(agent.to_string()).spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let surroundings = Surroundings { log: Log::default(), running: None, config: None };
        runtime.block_on(edge_agent::agent::run(config, surroundings, stopped))?;
        Ok(())
    })?;
    Ok(Member { name: format!("agent {agent}"), stop, thread })
}

/// Writes a new authority, the hub's certificate, its recipe and its configuration, whose path is returned.
///
/// # Errors
/// If a file is there already or cannot be written.
pub fn write_hub(plan: &Plan<'_>) -> anyhow::Result<PathBuf> {
    let certificates = plan.directory.join("certificates");
    authority::init(&certificates)?;
    let seeded = RECIPE.replace("\nseed = 1\n", &format!("\nseed = {}\n", plan.seed));
    let recipe = seeded.replace("\ncooldown_s = 0\n", &format!("\ncooldown_s = {}\n", plan.cooldown_s));
    fs::write(plan.directory.join("recipe.toml"), recipe)?;
    let text = format!(
        "[hub]\ndata_directory = \"hub\"\n\n\
         [link]\nlisten = \"{link}\"\n\n[authority]\ndirectory = {authority}\n\n\
         [api]\nlisten = \"{api}\"\n\n\
         [samples]\ncompact_interval_ms = 1000\n\n\
         {models}",
        link = plan.hub.0,
        api = plan.hub.1,
        authority = quoted(&certificates),
        models = models(plan),
    );
    // The hub makes its key when it starts; agents have to know it before.
    let data = plan.directory.join("hub");
    fs::create_dir_all(&data)?;
    release_key::load_or_create(&data)?;
    let file = plan.directory.join("hub.toml");
    fs::write(&file, text)?;
    Ok(file)
}

/// The model of a cohort.
#[must_use]
pub fn model_of(cohort: &str) -> String {
    format!("{MODEL}-{cohort}")
}

/// A model for each cohort, and before the end the one for all others.
fn models(plan: &Plan<'_>) -> String {
    let answers = plan.min_answers.map(|count| format!("[model.rollout]\nmin_answers = {count}\n"));
    let stages: String = answers.into_iter().chain(plan.stages.iter().map(StagePlan::to_toml)).collect();
    let stream = string(plan.stream.as_str());
    let model = |name: &str, boxes: &str| {
        format!(
            "[[model]]\nname = \"{name}\"\nstreams = [{stream}]\nboxes = [\"{boxes}\"]\nrecipe = \"recipe.toml\"\n\
             device = \"{TRAINING_DEVICE}\"\n{stages}"
        )
    };
    let cohorts = plan.cohorts.iter().map(|cohort| model(&model_of(cohort), &format!("{cohort}-*")));
    cohorts.chain([model(MODEL, "*")]).collect()
}

/// Writes an agent's certificate and its configuration, whose path is returned.
///
/// # Errors
/// If a file is there already or cannot be written.
pub fn write_agent(plan: &Plan<'_>, agent: &AgentId, pin: Option<u32>, hub: SocketAddr) -> anyhow::Result<PathBuf> {
    let certificates = plan.directory.join("certificates");
    authority::issue(&certificates, &Subject::Agent(agent.clone()), &certificates)?;
    let mut features = String::new();
    for channel in plan.channels {
        let path = format!("$.channels['{}']", channel.as_str().replace('\\', "\\\\").replace('\'', "\\'"));
        writeln!(features, "  {{ name = {}, path = {} }},", string(channel.as_str()), string(&path))?;
    }
    let text = format!(
        "[agent]\nname = \"{agent}\"\nstate_directory = \"{agent}\"\n\n\
         [mqtt]\nurl = \"mqtt://{broker}\"\n\n\
         [[input]]\nname = \"plant\"\ntopic = {topic}\nkey = {key}\n\
         time = {{ path = \"$.ts\", unit = \"ms\" }}\nknown_normal = \"$.known_normal\"\nid = \"$.id\"\n\
         feature = [\n{features}]\n\n\
         [hub]\naddress = \"{hub}\"\nserver_name = \"{HUB_SERVER_NAME}\"\nca_file = {ca}\n\
         certificate_file = {certificate}\nkey_file = {key_file}\n\n\
         [model]\ndevice = \"{device}\"\ntrust = [{trust}]\n{pin}\n\
         [status]\ninterval_ms = {STATUS_INTERVAL_MS}\n",
        broker = plan.broker,
        topic = string(&topic(agent.as_str(), plan.stream)),
        key = string(plan.stream.as_str()),
        ca = quoted(&certificates.join("ca.pem")),
        certificate = quoted(&certificates.join(format!("{agent}.pem"))),
        key_file = quoted(&certificates.join(format!("{agent}.key"))),
        device = plan.device,
        trust = string(fs::read_to_string(plan.directory.join("hub/release.pub"))?.trim()),
        pin = pin.map(|pin| format!("pin = {pin}\n")).unwrap_or_default(),
    );
    let file = plan.directory.join(format!("{agent}.toml"));
    fs::write(&file, text)?;
    Ok(file)
}

fn quoted(path: &Path) -> String {
    string(&path.display().to_string())
}

/// A TOML string; JSON's escapes are valid in it.
fn string(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// The demo's recipe, which users can take as well.
const RECIPE: &str = include_str!("../../deploy/recipes/autoencoder.toml");
