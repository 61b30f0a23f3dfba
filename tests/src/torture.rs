//! Real programs on real disks, tortured: killed at seeded moments, with a bad network between them and a disk that fills.
//!
//! An agent and a hub run as a user runs them, with mosquitto as the broker. A publisher numbers its readings. In the end
//! every number must be in the hub's sample store exactly once, and the ledgers must say so.

pub mod broker;
pub mod proxy;
pub mod publisher;
pub mod verify;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use demo::site::{self, Plan, StagePlan};
use edge_agent::clock::Clock;
use rand::rngs::StdRng;
use rand::seq::index;
use rand::{RngExt, SeedableRng};
use serde_json::Value;
use shared::enrolment::HUB_SERVER_NAME;
use shared::ids::{AgentId, ChannelName, StreamId};

use crate::{Process, free_port, pause, wait_until};
use broker::Broker;
use proxy::{Faults, Proxy};
use publisher::{CHANNEL, Publisher, STREAM};
use verify::Verdict;

/// Readings published ahead of what the agent says that it has. After the broker was killed they are published again, so
/// it must be less than what a restarted agent remembers (`RECENT_EVENTS`).
pub const WINDOW: u64 = 3_000;
/// What anything that is waited for takes at most.
const DEADLINE: Duration = Duration::from_secs(60);
/// The same over a network that loses datagrams, where one handshake may take many seconds.
const LOSSY_DEADLINE: Duration = Duration::from_secs(300);
/// Readings published while the disk is full: more than what still fits into the last page of the spool, which has its
/// space already.
const WHILE_FULL: u64 = 500;
const AGENT: &str = "box-1";

/// What to do.
#[derive(Debug, Clone, Copy)]
pub struct Torture {
    /// Readings to publish.
    pub events: u64,
    /// Programs to kill.
    pub kills: usize,
    /// The seed of all chance.
    pub seed: u64,
    /// What the network between agent and hub does.
    pub network: Faults,
    /// Kill only the agent and the hub.
    pub spare_broker: bool,
    /// Fill the agent's disk now and then; it is a small tmpfs, which takes the right to mount one.
    pub disk_full: bool,
}

/// What came of it.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Report {
    /// Readings published.
    pub events: u64,
    /// Times the agent was killed.
    pub agent_kills: usize,
    /// Times the hub was killed.
    pub hub_kills: usize,
    /// Times the broker was killed.
    pub broker_kills: usize,
    /// Times the agent's disk was filled.
    pub disk_fills: usize,
    /// What the hub has.
    #[serde(flatten)]
    pub verdict: Verdict,
    /// What carried the last connection to the hub.
    pub transport: String,
    /// Whether the ledgers of agent and hub say that all was accepted and all was delivered.
    pub ledger_exact: bool,
    /// Milliseconds from the start of a killed agent until it talks with the hub: median, 99th percentile, longest.
    pub restart_to_first_send_ms: [u64; 3],
    /// Milliseconds from space coming back on a full disk until readings are delivered again: longest.
    pub healed_after_ms: u64,
    /// How long it took.
    pub seconds: f64,
}

/// The programs under torture.
struct World {
    torture: Torture,
    random: StdRng,
    clock: Clock,
    directory: PathBuf,
    broker: Broker,
    agent: Process,
    hub: Process,
    api: SocketAddr,
    publisher: Publisher,
    /// Dropped, it stops.
    _proxy: Proxy,
    report: Report,
    restarts_ms: Vec<u64>,
}

/// Tortures agent and hub in a new folder below `directory`. `progress` hears how many readings were published.
///
/// # Errors
/// If a program cannot be started, or does not do what it must.
pub fn run(torture: Torture, directory: &Path, progress: &mut dyn FnMut(u64)) -> anyhow::Result<Report> {
    let mut world = World::start(torture, directory)?;
    world.publish_all(progress)?;
    world.finish()
}

impl World {
    fn start(torture: Torture, directory: &Path) -> anyhow::Result<Self> {
        let clock = Clock::start();
        let broker = Broker::start(directory)?;
        let (link, api) = (free_port()?, free_port()?);
        let proxy = Proxy::start(link, torture.network, torture.seed)?;
        let (stream, channel) = (StreamId::new(STREAM)?, ChannelName::new(CHANNEL)?);
        let agent_id = AgentId::new(AGENT)?;
        let plan = Plan {
            directory,
            broker: broker.address(),
            stream: &stream,
            channels: std::slice::from_ref(&channel),
            agents: vec![(agent_id.clone(), None)],
            device: "flex",
            seed: torture.seed,
            hub: (link, api),
            cohorts: Vec::new(),
            cooldown_s: 0,
            stages: vec![StagePlan::all()],
            min_answers: None,
        };
        if torture.disk_full {
            mount_small_disk(&directory.join(AGENT))?;
        }
        let hub_file = site::write_hub(&plan)?.display().to_string();
        let agent_file = site::write_agent(&plan, &agent_id, None, proxy.address())?;
        // Only UDP goes through the proxy, so that TCP would get around a bad network.
        let transport = if matches!(torture.network.loss_percent, 0 | 100) { "auto" } else { "quic" };
        let named = format!("server_name = \"{HUB_SERVER_NAME}\"\n");
        let tcp = format!("{named}tcp_address = \"{link}\"\ntransport = \"{transport}\"\n");
        let mut whole = std::fs::read_to_string(&agent_file)?.replace(&named, &tcp);
        if torture.disk_full {
            whole.push_str(SMALL_SPOOL);
        }
        std::fs::write(&agent_file, whole)?;
        let agent_file = agent_file.display().to_string();
        let hub = Process::start("cloud-hub", &["serve", "--config", &hub_file], &directory.join("hub.log"))?;
        let agent = Process::start("edge-agent", &["run", "--config", &agent_file], &directory.join("agent.log"))?;
        let publisher = Publisher::connect(broker.address())?;
        let report = Report {
            events: torture.events,
            agent_kills: 0,
            hub_kills: 0,
            broker_kills: 0,
            disk_fills: 0,
            verdict: Verdict::default(),
            transport: String::new(),
            ledger_exact: false,
            restart_to_first_send_ms: [0; 3],
            healed_after_ms: 0,
            seconds: 0.0,
        };
        let world = Self {
            torture,
            random: StdRng::seed_from_u64(torture.seed),
            clock,
            directory: directory.to_owned(),
            broker,
            agent,
            hub,
            api,
            publisher,
            _proxy: proxy,
            report,
            restarts_ms: Vec::new(),
        };
        // What is published before the agent subscribed is kept for nobody.
        world.wait("the agent to reach broker and hub", |world| {
            world
                .status()
                .is_some_and(|status| status["broker"]["connected"] == true && status["hub"]["connected"] == true)
        })?;
        // Until the broker has written the agent's session down, killing it would make it forget whom it serves.
        world.broker.wait_until_saved()?;
        Ok(world)
    }

    fn publish_all(&mut self, progress: &mut dyn FnMut(u64)) -> anyhow::Result<()> {
        let Torture { events, kills, .. } = self.torture;
        let mut moments = index::sample(&mut self.random, events as usize, kills.min(events as usize)).into_vec();
        moments.sort_unstable_by(|a, b| b.cmp(a));
        let fills = if self.torture.disk_full { (kills / 20).max(1) } else { 0 };
        let mut fill_at = index::sample(&mut self.random, events as usize, fills).into_vec();
        fill_at.sort_unstable_by(|a, b| b.cmp(a));
        for number in 0..events {
            if fill_at.last() == Some(&(number as usize)) {
                fill_at.pop();
                self.fill_disk()?;
            }
            if moments.last() == Some(&(number as usize)) {
                moments.pop();
                self.kill_one()?;
            }
            self.publisher.publish(number)?;
            if number % 100 == 99 {
                self.wait("the agent to accept", |world| world.accepted().is_some_and(|done| done + WINDOW > number))?;
                progress(number + 1);
            }
        }
        Ok(())
    }

    fn kill_one(&mut self) -> anyhow::Result<()> {
        let away = Duration::from_millis(self.random.random_range(0..200));
        match self.random.random_range(0..if self.torture.spare_broker { 85 } else { 100 }) {
            0..50 => {
                self.report.agent_kills += 1;
                self.agent.kill()?;
                pause(away);
                let started = self.clock.monotonic().0;
                self.agent.restart()?;
                self.wait("the agent to talk with the hub", |world| {
                    world.status().is_some_and(|status| status["hub"]["connected"] == true)
                })?;
                self.restarts_ms.push(self.clock.monotonic().0 - started);
            }
            50..85 => {
                self.report.hub_kills += 1;
                self.hub.kill()?;
                pause(away);
                self.hub.restart()?;
            }
            _ => {
                self.report.broker_kills += 1;
                // mosquitto may come back with what it knew seconds ago, and deliver again more than an agent promises to
                // recognise (`RECENT_IDS`). So it is killed with its state just written down.
                self.broker.wait_until_saved()?;
                self.broker.kill()?;
                pause(away);
                self.broker.restart()?;
                // The broker promised to keep what it acknowledged, and was killed before it wrote it down.
                self.publisher = self.publisher.again(self.broker.address(), WINDOW)?;
            }
        }
        Ok(())
    }

    /// Takes all space on the agent's disk for a while.
    fn fill_disk(&mut self) -> anyhow::Result<()> {
        self.report.disk_fills += 1;
        // Killed hubs make an agent wait longer and longer before it calls again, which is not what is measured here.
        self.wait("the agent to talk with the hub before its disk fills", |world| {
            world.status().is_some_and(|status| status["hub"]["connected"] == true)
        })?;
        let ballast = self.directory.join(AGENT).join("ballast");
        let filled = std::io::copy(&mut std::io::repeat(1), &mut std::fs::File::create(&ballast)?);
        if filled.is_ok() {
            bail!("the disk of the agent does not fill");
        }
        let first = self.publisher.published();
        for number in first..(first + WHILE_FULL).min(self.torture.events) {
            // These are published again in their turn, and known by their ids.
            self.publisher.publish_now(number)?;
        }
        pause(Duration::from_secs(1));
        // Taken in is not yet on the disk; what is delivered was.
        let before = self.delivered().unwrap_or(0);
        std::fs::remove_file(&ballast)?;
        let since = self.clock.monotonic().0;
        self.wait("the agent to go on after its disk was full", |world| {
            world.delivered().is_some_and(|delivered| delivered > before)
        })?;
        self.report.healed_after_ms = self.report.healed_after_ms.max(self.clock.monotonic().0 - since);
        Ok(())
    }

    fn finish(mut self) -> anyhow::Result<Report> {
        let events = self.torture.events;
        self.wait("every reading at the hub", |world| world.delivered().is_some_and(|done| done >= events))?;
        self.wait("the hub to show it", |world| world.readings_at_hub().is_some_and(|at_hub| at_hub >= events))?;
        let ledgers = [self.accepted(), self.delivered(), self.readings_at_hub()];
        self.report.ledger_exact = ledgers == [Some(events); 3];
        let status = self.status().unwrap_or_default();
        self.report.transport = status["hub"]["transport"].as_str().unwrap_or("none").to_owned();
        self.agent.stop()?;
        self.hub.stop()?;
        if self.torture.disk_full {
            unmount(&self.directory.join(AGENT))?;
        }
        self.report.verdict = verify::verify(&self.directory.join("hub"), events)?;
        self.restarts_ms.sort_unstable();
        let at = |percent: usize| {
            let last = self.restarts_ms.len().saturating_sub(1);
            self.restarts_ms.get((self.restarts_ms.len() * percent / 100).min(last)).copied().unwrap_or(0)
        };
        self.report.restart_to_first_send_ms = [at(50), at(99), at(100)];
        self.report.seconds = self.clock.monotonic().as_seconds();
        Ok(self.report)
    }

    fn status(&self) -> Option<Value> {
        edge_agent::status::ask(&self.directory.join(AGENT)).ok()
    }

    fn accepted(&self) -> Option<u64> {
        self.status()?.pointer("/readings/accepted")?.as_u64()
    }

    fn delivered(&self) -> Option<u64> {
        self.status()?.pointer("/readings/delivered")?.as_u64()
    }

    fn readings_at_hub(&self) -> Option<u64> {
        demo::hub_api::HubApi::new(self.api, &self.directory.join("hub")).at_hub().ok()
    }

    fn wait(&self, what: &str, ready: impl Fn(&Self) -> bool) -> anyhow::Result<()> {
        let is_lossy = !matches!(self.torture.network.loss_percent, 0 | 100);
        let deadline = if is_lossy { LOSSY_DEADLINE } else { DEADLINE };
        if wait_until(deadline, || ready(self)) {
            return Ok(());
        }
        let status = self.status().unwrap_or_default();
        bail!("waited {} s for {what}; the agent says {status}", deadline.as_secs())
    }
}

/// Bytes of the disk that is filled: the least spool, the state store and a little.
const SMALL_DISK: &str = "size=48m";
/// A spool for it, which must not drop anything.
const SMALL_SPOOL: &str = "\n[spool]\nmax_bytes = 16777216\nwhen_full = \"block\"\n";

fn mount_small_disk(path: &Path) -> anyhow::Result<()> {
    std::fs::create_dir_all(path)?;
    run_command("mount", &["-t", "tmpfs", "-o", SMALL_DISK, "tmpfs", &path.display().to_string()])
}

fn unmount(path: &Path) -> anyhow::Result<()> {
    run_command("umount", &[&path.display().to_string()])
}

fn run_command(name: &str, arguments: &[&str]) -> anyhow::Result<()> {
    let status = std::process::Command::new(name).args(arguments).status().with_context(|| format!("run {name}"))?;
    if status.success() { Ok(()) } else { bail!("{name} {} failed: {status}", arguments.join(" ")) }
}
