//! A bad network: forwards UDP between an agent and the hub, and drops, delays, doubles, reorders and rebinds.

use std::collections::{BTreeMap, VecDeque};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::net::UdpSocket;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// The largest datagram that QUIC sends.
const DATAGRAM_BYTES: usize = 65_536;
/// Datagrams under way; beyond, they are dropped, as a router's queue does.
const UNDER_WAY: usize = 4_096;

/// Sockets of agents that are told apart: those of one connection's handshakes and of the one before.
const FLOWS: usize = 16;

/// How long a datagram waits at most where only so much gets through: a router's queue, as they are.
const QUEUE: Duration = Duration::from_millis(300);

/// What the network does.
#[derive(Debug, Clone, Copy, Default)]
pub struct Faults {
    /// Of a hundred datagrams, so many are dropped.
    pub loss_percent: u32,
    /// Of a hundred datagrams, so many arrive twice.
    pub twice_percent: u32,
    /// There and back, in milliseconds. Each datagram takes up to a quarter of it longer, so that some overtake others.
    pub round_trip_ms: u64,
    /// The agent's address changes, as seen by the hub, every so many milliseconds; 0 for never.
    pub rebind_ms: u64,
    /// Bytes that get through to the hub in a second; 0 for as many as come.
    pub bytes_per_s: u64,
}

/// A running proxy; dropped, it stops.
pub struct Proxy {
    address: SocketAddr,
    stop: CancellationToken,
}

impl Proxy {
    /// Starts forwarding to `upstream` from a port of its own.
    ///
    /// # Errors
    /// If no port can be had.
    pub fn start(upstream: SocketAddr, faults: Faults, seed: u64) -> anyhow::Result<Self> {
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        let (ready, started) = std::sync::mpsc::sync_channel(1);
        std::thread::Builder::new().name("proxy".into()).spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let run = async move {
                let front = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await?;
                ready.send(front.local_addr()?).ok();
                let random = StdRng::seed_from_u64(seed);
                let answers = mpsc::channel(UNDER_WAY);
                let (under_way, flows) = (BTreeMap::new(), VecDeque::new());
                let taken_until = now();
                Forwarder { front, upstream, faults, random, under_way, taken_until, count: 0, flows, answers }
                    .run(stopped)
                    .await
            };
            runtime.and_then(|runtime| runtime.block_on(run))
        })?;
        let address = started.recv().context("start the proxy")?;
        Ok(Self { address, stop })
    }

    /// Where the agent connects.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

struct Forwarder {
    front: UdpSocket,
    upstream: SocketAddr,
    faults: Faults,
    random: StdRng,
    /// Datagrams by when they arrive.
    under_way: BTreeMap<(Instant, u64), Datagram>,
    /// Until when the way to the hub is taken.
    taken_until: Instant,
    count: u64,
    /// As a NAT keeps them: one for each socket of an agent, the newest first.
    flows: VecDeque<Flow>,
    answers: (mpsc::Sender<Answer>, mpsc::Receiver<Answer>),
}

/// What the hub says to a client.
type Answer = (SocketAddr, Vec<u8>);

struct Datagram {
    client: SocketAddr,
    to_hub: bool,
    bytes: Vec<u8>,
}

/// What the hub sees of one socket of an agent.
struct Flow {
    client: SocketAddr,
    back: Arc<UdpSocket>,
    reader: JoinHandle<()>,
}

impl Drop for Flow {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

impl Forwarder {
    async fn run(mut self, stop: CancellationToken) -> std::io::Result<()> {
        let mut from_agent = vec![0; DATAGRAM_BYTES];
        let rebind =
            Duration::from_millis(if self.faults.rebind_ms == 0 { u64::from(u32::MAX) } else { self.faults.rebind_ms });
        let mut rebinds = tokio::time::interval(rebind);
        rebinds.tick().await;
        loop {
            let due = self.under_way.first_key_value().map(|((at, _), _)| *at);
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                () = sleep_until(due) => self.deliver().await?,
                received = self.front.recv_from(&mut from_agent) => {
                    // On loopback an error is the echo of a datagram that found nobody; the sender learns that by silence.
                    if let Ok((count, client)) = received {
                        self.take(client, true, &from_agent[..count]);
                    }
                }
                Some((client, bytes)) = self.answers.1.recv() => self.take(client, false, &bytes),
                // Each flow gets a new address with its next datagram.
                _ = rebinds.tick() => self.flows.clear(),
            }
        }
    }

    fn take(&mut self, client: SocketAddr, to_hub: bool, bytes: &[u8]) {
        let Faults { loss_percent, twice_percent, round_trip_ms, .. } = self.faults;
        let copies = 1 + usize::from(self.random.random_range(0..100) < twice_percent);
        for _ in 0..copies {
            if self.random.random_range(0..100) < loss_percent || self.under_way.len() >= UNDER_WAY {
                continue;
            }
            let Some(sent) = self.send_time(to_hub, bytes.len()) else {
                continue;
            };
            let jitter_us = self.random.random_range(0..=round_trip_ms * 250);
            self.count += 1;
            let at = sent + Duration::from_micros(round_trip_ms * 500 + jitter_us);
            self.under_way.insert((at, self.count), Datagram { client, to_hub, bytes: bytes.to_vec() });
        }
    }

    /// When a datagram has left the queue before the slowest link; `None` if the queue is full.
    fn send_time(&mut self, to_hub: bool, bytes: usize) -> Option<Instant> {
        if !to_hub || self.faults.bytes_per_s == 0 {
            return Some(now());
        }
        let begun = self.taken_until.max(now());
        if begun > now() + QUEUE {
            return None;
        }
        self.taken_until = begun + Duration::from_micros(bytes as u64 * 1_000_000 / self.faults.bytes_per_s);
        Some(self.taken_until)
    }

    async fn deliver(&mut self) -> std::io::Result<()> {
        let now = now();
        while let Some(entry) = self.under_way.first_entry().filter(|entry| entry.key().0 <= now) {
            let Datagram { client, to_hub, bytes } = entry.remove();
            // A datagram that cannot be sent is a datagram lost.
            if to_hub {
                self.back(client).await?.send(&bytes).await.ok();
            } else {
                self.front.send_to(&bytes, client).await.ok();
            }
        }
        Ok(())
    }

    async fn back(&mut self, client: SocketAddr) -> std::io::Result<Arc<UdpSocket>> {
        if let Some(flow) = self.flows.iter().find(|flow| flow.client == client) {
            return Ok(Arc::clone(&flow.back));
        }
        let back = Arc::new(UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await?);
        back.connect(self.upstream).await?;
        let (socket, answers) = (Arc::clone(&back), self.answers.0.clone());
        let reader = tokio::spawn(async move {
            let mut from_hub = vec![0; DATAGRAM_BYTES];
            loop {
                if let Ok(count) = socket.recv(&mut from_hub).await
                    && answers.send((client, from_hub[..count].to_vec())).await.is_err()
                {
                    return;
                }
            }
        });
        self.flows.truncate(FLOWS - 1);
        self.flows.push_front(Flow { client, back: Arc::clone(&back), reader });
        Ok(back)
    }
}

async fn sleep_until(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due).await,
        None => std::future::pending().await,
    }
}

#[expect(clippy::disallowed_methods, reason = "the proxy is a network, whose delays are real")]
fn now() -> Instant {
    Instant::now()
}
