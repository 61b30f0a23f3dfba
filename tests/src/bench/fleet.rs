//! A hub with many agents: QUIC sessions with certificates of their own, all from this process.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use cloud_hub::authority::{self, Subject};
use demo::site::{self, Plan, StagePlan};
use edge_agent::clock::Clock;
use quinn::crypto::rustls::QuicClientConfig;
use quinn::{ClientConfig, Connection, Endpoint, IdleTimeout, RecvStream, SendStream, TransportConfig, VarInt};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use serde::Serialize;
use shared::enrolment::HUB_SERVER_NAME;
use shared::event::{Event, EventBatch, Reading, SpoolEntry, StreamSchema};
use shared::ids::{AgentId, ChannelName, Epoch, Sequence, StreamId};
use shared::limits::MAX_BATCHES_IN_FLIGHT;
use shared::wire::frame::{self, FrameDecoder};
use shared::wire::message::{AgentStatus, EdgeToHub, Hello, HubToEdge, PackedEntry};
use shared::wire::{ALPN, PROTOCOL_VERSION};
use tokio::task::JoinSet;

use super::subjects::wait;
use super::system::{median, memory};
use crate::{Process, free_port, pause};

/// Handshakes under way at once: below what makes the hub turn strangers away.
const HANDSHAKES: usize = 64;
/// Agents that send while the others are idle.
const SENDERS: usize = 32;
/// Entries that each of them sends: 256 readings of eight channels each.
const ENTRIES: usize = 160;
const ENTRY_EVENTS: usize = 256;
const CHANNELS: usize = 8;
/// Time for what a handshake needed to be given back.
const SETTLE: Duration = Duration::from_secs(5);
/// How long one try to be greeted may take, and how many there are.
const PATIENCE: Duration = Duration::from_secs(5);
const TRIES: u32 = 5;
const KEEP_ALIVE: Duration = Duration::from_secs(15);
const IDLE_MS: u32 = 60_000;

/// What was found.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Fleet {
    /// Agents connected and greeted.
    pub agents: usize,
    /// Resident memory of the hub before the first, and with all of them idle.
    pub hub_kib: [u64; 2],
    /// The difference, per agent.
    pub kib_per_agent: f64,
    /// Readings per second that the hub makes durable and acknowledges, from some of them, the others being idle.
    pub readings_per_s: f64,
    /// Seconds until all were connected.
    pub connected_after_s: f64,
}

struct Agent {
    _connection: Connection,
    send: SendStream,
    receive: RecvStream,
    decoder: FrameDecoder,
}

/// Connects `agents` to a hub of its own, and lets some of them send, `runs` times.
///
/// # Errors
/// If the hub fails, or refuses one.
pub fn run(directory: &Path, agents: usize, runs: usize, clock: Clock) -> anyhow::Result<Fleet> {
    let directory = directory.join(format!("fleet-{agents}"));
    std::fs::create_dir_all(&directory)?;
    let (stream, channel) = (StreamId::new("line1/pump1")?, ChannelName::new("flow")?);
    let hub = (free_port()?, free_port()?);
    let plan = Plan {
        directory: &directory,
        broker: hub.0,
        stream: &stream,
        channels: &[channel],
        agents: Vec::new(),
        device: "flex",
        seed: 1,
        hub,
        cohorts: Vec::new(),
        cooldown_s: 0,
        stages: vec![StagePlan::all()],
        min_answers: None,
    };
    let file = site::write_hub(&plan)?.display().to_string();
    let names: Vec<AgentId> =
        (0..agents).map(|number| AgentId::new(&format!("box-{number}"))).collect::<Result<_, _>>()?;
    let certificates = directory.join("certificates");
    for name in &names {
        authority::issue(&certificates, &Subject::Agent(name.clone()), &certificates)?;
    }
    let process = Process::start("cloud-hub", &["serve", "--config", &file], &directory.join("hub.log"))?;
    wait("the hub to serve", || std::net::TcpStream::connect(hub.1).is_ok())?;
    pause(SETTLE);
    let before = memory(process.id())?.resident_kib;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let (mut fleet, connected_after_s) = runtime.block_on(connect_all(hub.0, certificates, names, clock))?;
    pause(SETTLE);
    let after = memory(process.id())?.resident_kib;
    let mut rates = Vec::new();
    let senders = SENDERS.min(agents);
    for run in 0..runs {
        let active = fleet.split_off(fleet.len() - senders);
        let started = clock.monotonic_us();
        fleet.extend(runtime.block_on(send_all(active, run))?);
        let readings = (senders * ENTRIES * ENTRY_EVENTS) as f64;
        rates.push(readings / (clock.monotonic_us() - started) as f64 * 1e6);
    }
    drop(fleet);
    process.stop()?;
    Ok(Fleet {
        agents,
        hub_kib: [before, after],
        kib_per_agent: after.saturating_sub(before) as f64 / agents as f64,
        readings_per_s: median(&rates),
        connected_after_s,
    })
}

async fn connect_all(
    hub: SocketAddr,
    certificates: PathBuf,
    names: Vec<AgentId>,
    clock: Clock,
) -> anyhow::Result<(Vec<Agent>, f64)> {
    let endpoint = Endpoint::client(SocketAddr::from(([127, 0, 0, 1], 0)))?;
    let configs: Vec<ClientConfig> = names.iter().map(|name| config(&certificates, name)).collect::<Result<_, _>>()?;
    let started = clock.monotonic_us();
    let mut connecting = JoinSet::new();
    let mut fleet = Vec::with_capacity(names.len());
    for config in configs {
        while connecting.len() >= HANDSHAKES {
            fleet.push(connecting.join_next().await.context("connect")???);
        }
        connecting.spawn(connect(endpoint.clone(), config, hub));
    }
    while let Some(connected) = connecting.join_next().await {
        fleet.push(connected??);
    }
    Ok((fleet, (clock.monotonic_us() - started) as f64 / 1e6))
}

/// Tries again as an agent does: where thousands come at once, datagrams get lost.
async fn connect(endpoint: Endpoint, config: ClientConfig, hub: SocketAddr) -> anyhow::Result<Agent> {
    let mut tries = 1;
    loop {
        let greeted = tokio::time::timeout(PATIENCE, greet(endpoint.clone(), config.clone(), hub)).await;
        match greeted {
            Ok(Ok(agent)) => return Ok(agent),
            Ok(Err(error)) if tries == TRIES => return Err(error),
            Err(_) if tries == TRIES => bail!("be greeted by the hub within {} s", PATIENCE.as_secs()),
            Ok(Err(_)) | Err(_) => tries += 1,
        }
    }
}

async fn greet(endpoint: Endpoint, config: ClientConfig, hub: SocketAddr) -> anyhow::Result<Agent> {
    let connection = endpoint.connect_with(config, hub, HUB_SERVER_NAME)?.await.context("shake hands")?;
    let (send, receive) = connection.open_bi().await?;
    let mut agent = Agent { _connection: connection, send, receive, decoder: FrameDecoder::default() };
    let hello = Hello {
        protocol: PROTOCOL_VERSION,
        agent_version: env!("CARGO_PKG_VERSION").to_owned(),
        epoch: Epoch(1),
        boot_nonce: 1,
        base: Sequence(0),
        serving: None,
        pinned: None,
        device: "flex".to_owned(),
    };
    agent.say(&EdgeToHub::Hello(hello)).await?;
    agent.say(&EdgeToHub::Status(AgentStatus::default())).await?;
    let answer = agent.hear().await?;
    if matches!(answer, HubToEdge::Welcome { .. }) {
        Ok(agent)
    } else {
        bail!("be greeted by the hub: it said {answer:?}")
    }
}

impl Agent {
    async fn say(&mut self, message: &EdgeToHub) -> anyhow::Result<()> {
        let mut bytes = Vec::new();
        frame::encode(message, &mut bytes)?;
        self.send.write_all(&bytes).await.context("speak to the hub")
    }

    async fn hear(&mut self) -> anyhow::Result<HubToEdge> {
        loop {
            if let Some(message) = self.decoder.take()? {
                return Ok(message);
            }
            let chunk = self.receive.read_chunk(4_096, true).await?.context("the hub closed the stream")?;
            self.decoder.extend(&chunk.bytes);
        }
    }

    /// Sends entries within the window and hears that all are durable.
    async fn send(mut self, frames: Vec<Vec<u8>>, end: Sequence) -> anyhow::Result<Self> {
        let per_entry = ENTRY_EVENTS as u64;
        let first = end.0 - frames.len() as u64 * per_entry;
        let mut acked = first;
        let mut sent = 0;
        while acked < end.0 {
            let in_flight = sent as u64 - (acked - first) / per_entry;
            if sent < frames.len() && in_flight < MAX_BATCHES_IN_FLIGHT as u64 {
                self.send.write_all(&frames[sent]).await.context("send an entry")?;
                sent += 1;
                continue;
            }
            if let HubToEdge::Acked { next, .. } = self.hear().await? {
                acked = next.0;
            }
        }
        Ok(self)
    }
}

async fn send_all(active: Vec<Agent>, run: usize) -> anyhow::Result<Vec<Agent>> {
    // Every sender says the same: agents differ by their certificates.
    let first = (run * ENTRIES * ENTRY_EVENTS) as u64;
    let end = Sequence(first + (ENTRIES * ENTRY_EVENTS) as u64);
    let frames: Vec<Vec<u8>> = (0..ENTRIES).map(|number| entry(first, number)).collect::<Result<_, _>>()?;
    let mut sending = JoinSet::new();
    for agent in active {
        sending.spawn(agent.send(frames.clone(), end));
    }
    let mut done = Vec::new();
    while let Some(agent) = sending.join_next().await {
        done.push(agent??);
    }
    Ok(done)
}

fn entry(first: u64, number: usize) -> anyhow::Result<Vec<u8>> {
    let start = first + (number * ENTRY_EVENTS) as u64;
    let channels = (0..CHANNELS).map(|channel| ChannelName::new(&format!("channel {channel}")));
    let schema = StreamSchema { stream: StreamId::new("line1/pump1")?, channels: channels.collect::<Result<_, _>>()? };
    let reading = |index: u64| {
        let value = |channel: u64| ((index * 7_919 + channel * 104_729) % 10_007) as f64 / 37.0;
        let values = (0..CHANNELS as u64).map(value).collect();
        Event::Reading(Reading { stream: 0, time_ms: index as i64 * 10, known_normal: false, id: index, values })
    };
    let events = (start..start + ENTRY_EVENTS as u64).map(reading).collect();
    let batch = EventBatch { epoch: Epoch(1), first: Sequence(start), streams: vec![schema], models: vec![], events };
    let packed = PackedEntry::pack(&SpoolEntry::Events(batch).encode()?)?;
    let mut bytes = Vec::new();
    frame::encode(&EdgeToHub::Entry(packed), &mut bytes)?;
    Ok(bytes)
}

fn config(certificates: &Path, name: &AgentId) -> anyhow::Result<ClientConfig> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(certificates.join("ca.pem"))?)?;
    let certificate = CertificateDer::from_pem_file(certificates.join(format!("{name}.pem")))?;
    let key = PrivateKeyDer::from_pem_file(certificates.join(format!("{name}.key")))?;
    let mut tls = rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_root_certificates(roots)
        .with_client_auth_cert(vec![certificate], key)?;
    tls.alpn_protocols = vec![ALPN.to_vec()];
    let mut config = ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls)?));
    let mut transport = TransportConfig::default();
    transport
        .keep_alive_interval(Some(KEEP_ALIVE))
        .max_idle_timeout(Some(IdleTimeout::from(VarInt::from_u32(IDLE_MS))));
    config.transport_config(Arc::new(transport));
    Ok(config)
}
