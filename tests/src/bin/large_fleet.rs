//! `large_fleet`: a hub that knows many boxes, to look at its dashboard and to measure how long its lists take.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::Parser;
use cloud_hub::clock::unix_ms;
use cloud_hub::store::{AgentRow, Store};
use demo::plant;
use demo::site::{self, Plan};
use edge_agent::clock::Clock;
use serde_json::json;
use shared::ids::{AgentId, Digest, Epoch, ModelName, ModelVersion};
use tests::{Process, free_port, wait_until};

/// How long the hub may take to start.
const START_DEADLINE: Duration = Duration::from_secs(60);
/// Boxes that serve the version before the newest.
const BEHIND_PERCENT: usize = 20;

/// A hub that knows many boxes, all of them away: how long a page of its list takes at a steady rate, as JSON.
#[derive(Parser)]
#[command(max_term_width = 100)]
struct Arguments {
    /// Boxes.
    #[arg(long, default_value_t = 1_000)]
    agents: usize,
    /// Requests a second.
    #[arg(long, default_value_t = 100)]
    rate: u64,
    /// Seconds that are measured.
    #[arg(long, default_value_t = 10)]
    seconds: u64,
    /// Keeps the hub up after that, until standard input ends.
    #[arg(long)]
    hold: bool,
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let directory = tempfile::tempdir()?;
    let address = free_port()?;
    let file = set_up(directory.path(), address, arguments.agents)?;
    let log = directory.path().join("hub.log");
    let mut hub = Process::start("cloud-hub", &["serve", "--config", &file], &log)?;
    if !wait_until(START_DEADLINE, || ask(address, "/readyz", "").is_ok()) {
        bail!("the hub did not start: {}", std::fs::read_to_string(&log)?);
    }
    let said = std::fs::read_to_string(&log)?;
    let link = said.lines().find(|line| line.contains("/#/setup/")).context("a link for the first admin")?;
    let token = std::fs::read_to_string(directory.path().join("hub/access.token"))?;
    let times_ms = measure(address, token.trim(), &arguments)?;
    let at = |share: f64| times_ms[((times_ms.len() - 1) as f64 * share) as usize];
    let measured = json!({
        "agents": arguments.agents, "requests": times_ms.len(), "rate_per_s": arguments.rate,
        "p50_ms": at(0.5), "p99_ms": at(0.99), "dashboard": link.trim(),
    });
    writeln!(std::io::stdout(), "{measured}")?;
    if arguments.hold {
        std::io::stdin().read_to_end(&mut Vec::new())?;
    }
    hub.kill()
}

/// Writes a hub's files and puts boxes into its database; the path of its configuration.
fn set_up(directory: &Path, address: SocketAddr, agents: usize) -> anyhow::Result<String> {
    let scenario = plant::scenario(7);
    let first = AgentId::new("box-0001")?;
    let broker = SocketAddr::from(([127, 0, 0, 1], 1));
    let plan = Plan::of_one(directory, broker, &scenario, &first, (free_port()?, address), 7);
    let file = site::write_hub(&plan)?.display().to_string();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let store = Store::open(&directory.join("hub/hub.sqlite")).await?;
        let now = unix_ms();
        for number in 1..=agents {
            let is_behind = number * 100 / agents.max(1) < BEHIND_PERCENT;
            let version = ModelVersion(if is_behind { 1 } else { 2 });
            let serving = (ModelName::new(site::MODEL)?, version, Digest::of(&version.0.to_le_bytes()));
            store
                .upsert_agent(&AgentRow {
                    agent: AgentId::new(&format!("box-{number:04}"))?,
                    first_seen_ms: now - 86_400_000,
                    last_seen_ms: now - 1_000 * number as i64,
                    agent_version: env!("CARGO_PKG_VERSION").to_owned(),
                    device: "flex".to_owned(),
                    pinned: None,
                    serving: Some(serving),
                    epoch: Epoch(1),
                    boot_nonce: number as u64,
                })
                .await?;
        }
        store.close().await;
        anyhow::Ok(())
    })?;
    Ok(file)
}

/// Milliseconds that answers took, ascending: a request when its time has come, whether or not the one before was slow.
fn measure(address: SocketAddr, token: &str, arguments: &Arguments) -> anyhow::Result<Vec<f64>> {
    let clock = Clock::start();
    let interval_us = 1_000_000 / arguments.rate.max(1);
    let mut times_ms = Vec::new();
    for number in 0..arguments.rate * arguments.seconds {
        let due_us = number * interval_us;
        while clock.monotonic_us() < due_us {
            std::thread::yield_now();
        }
        ask(address, "/api/v1/agents?limit=100", token)?;
        times_ms.push((clock.monotonic_us() - due_us) as f64 / 1_000.0);
    }
    times_ms.sort_by(f64::total_cmp);
    Ok(times_ms)
}

/// One request over a connection of its own.
fn ask(address: SocketAddr, path: &str, token: &str) -> anyhow::Result<()> {
    let mut stream = TcpStream::connect(address)?;
    write!(stream, "GET {path} HTTP/1.1\r\nhost: hub\r\nconnection: close\r\nauthorization: Bearer {token}\r\n\r\n")?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    if answer.starts_with(b"HTTP/1.1 200") {
        return Ok(());
    }
    bail!("{path}: {}", String::from_utf8_lossy(&answer).lines().next().unwrap_or_default().to_owned())
}
