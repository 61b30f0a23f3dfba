//! A bad network: forwards UDP between an agent and the hub, and drops, delays, doubles, reorders and rebinds.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use anyhow::Context;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::net::UdpSocket;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// The largest datagram that QUIC sends.
const DATAGRAM_BYTES: usize = 65_536;
/// Datagrams under way; beyond, they are dropped, as a router's queue does.
const UNDER_WAY: usize = 4_096;

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
                Forwarder { front, upstream, faults, random, under_way: BTreeMap::new(), count: 0 }.run(stopped).await
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
    /// By the time they arrive, and a number that tells two of one time apart.
    under_way: BTreeMap<(Instant, u64), Datagram>,
    count: u64,
}

struct Datagram {
    to_hub: bool,
    bytes: Vec<u8>,
}

impl Forwarder {
    async fn run(mut self, stop: CancellationToken) -> std::io::Result<()> {
        let mut back = self.rebind().await?;
        let mut client = None;
        let mut from_agent = vec![0; DATAGRAM_BYTES];
        let mut from_hub = vec![0; DATAGRAM_BYTES];
        let rebind =
            Duration::from_millis(if self.faults.rebind_ms == 0 { u64::from(u32::MAX) } else { self.faults.rebind_ms });
        let mut rebinds = tokio::time::interval(rebind);
        rebinds.tick().await;
        loop {
            let due = self.under_way.first_key_value().map(|((at, _), _)| *at);
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                () = sleep_until(due) => self.deliver(&back, client).await,
                received = self.front.recv_from(&mut from_agent) => {
                    // On loopback an error is the echo of a datagram that found nobody; the sender learns that by silence.
                    if let Ok((count, from)) = received {
                        client = Some(from);
                        self.take(true, &from_agent[..count]);
                    }
                }
                received = back.recv(&mut from_hub) => {
                    if let Ok(count) = received {
                        self.take(false, &from_hub[..count]);
                    }
                }
                _ = rebinds.tick() => back = self.rebind().await?,
            }
        }
    }

    async fn rebind(&self) -> std::io::Result<UdpSocket> {
        let back = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        back.connect(self.upstream).await?;
        Ok(back)
    }

    fn take(&mut self, to_hub: bool, bytes: &[u8]) {
        let Faults { loss_percent, twice_percent, round_trip_ms, .. } = self.faults;
        let copies = 1 + usize::from(self.random.random_range(0..100) < twice_percent);
        for _ in 0..copies {
            if self.random.random_range(0..100) < loss_percent || self.under_way.len() >= UNDER_WAY {
                continue;
            }
            let jitter_us = self.random.random_range(0..=round_trip_ms * 250);
            self.count += 1;
            let at = now() + Duration::from_micros(round_trip_ms * 500 + jitter_us);
            self.under_way.insert((at, self.count), Datagram { to_hub, bytes: bytes.to_vec() });
        }
    }

    async fn deliver(&mut self, back: &UdpSocket, client: Option<SocketAddr>) {
        let now = now();
        while let Some(entry) = self.under_way.first_entry().filter(|entry| entry.key().0 <= now) {
            let Datagram { to_hub, bytes } = entry.remove();
            // A datagram that cannot be sent is a datagram lost.
            if to_hub {
                back.send(&bytes).await.ok();
            } else if let Some(client) = client {
                self.front.send_to(&bytes, client).await.ok();
            }
        }
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
