//! The link's shell: a connection with mutual TLS that carries frames. Over QUIC, or over TCP where UDP is blocked.

mod quic;
mod tcp;

use std::collections::VecDeque;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use shared::limits::MAX_BATCHES_IN_FLIGHT;
use shared::wire::frame::{self, FrameDecoder, FrameError};
use shared::wire::message::EdgeToHub;
use shared::wire::{ALPN, PROTOCOL_VERSION};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc;
use tracing::{info, warn};

use crate::clock::Clock;
use crate::config::{Hub, HubPlace, Transport};
use crate::core::Event;
use crate::credentials::{Credentials, CredentialsError};
use crate::telemetry::{HubTransport, Telemetry};

/// Commands that may wait: a full window of batches, and fetches and reports beside it. The agent's loop must not wait for a
/// slow link.
const COMMANDS: usize = 2 * MAX_BATCHES_IN_FLIGHT;
/// Pictures that may wait: one is being written, the next replaces nothing that matters.
const PICTURES: usize = 2;
/// Connecting takes a few round trips; a hub that needs longer is away.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// QUIC is tried alone for so long: a handshake over a slow network. A box behind a firewall waits for it at each start.
const HEAD_START: Duration = Duration::from_secs(1);
/// The same, where UDP did not get through the last time (RFC 8305 section 5).
const SHORT_HEAD_START: Duration = Duration::from_millis(250);
/// Bytes taken from the connection at once.
const READ_BYTES: usize = 64 * 1024;

/// What the link is asked to do.
#[derive(Debug)]
pub enum Command {
    /// Connect; answered by `LinkUp` or `LinkDown`.
    Dial,
    /// Send a message; without a connection it is dropped, which the session's state accounts for.
    Send(Box<EdgeToHub>),
    /// Close the connection; answered by `LinkDown`.
    Hangup,
}

/// What is on its way to the link.
pub struct Outbox {
    /// What it is asked to do, in order.
    pub commands: mpsc::Sender<Command>,
    /// Pictures for the live lane, which go ahead of it.
    pub pictures: mpsc::Sender<EdgeToHub>,
}

/// The other end of an [`Outbox`].
pub struct Inbox {
    commands: mpsc::Receiver<Command>,
    pictures: mpsc::Receiver<EdgeToHub>,
}

/// How long a hub has to refuse a box after the handshake, where it is only looked whether it can be reached.
const STANDS_FOR: Duration = Duration::from_millis(700);

/// Why the link cannot be set up or broke.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// The certificates cannot be used.
    #[error("{0}")]
    Credentials(#[from] CredentialsError),
    /// No socket can be had.
    #[error("open a socket: {0}")]
    Socket(io::Error),
    /// The hub's name does not resolve.
    #[error("find the hub {address}: {problem}")]
    Resolve {
        /// Its address.
        address: String,
        /// What is wrong.
        problem: String,
    },
    /// The hub cannot be reached, or refuses.
    #[error("connect to the hub {address}: {problem}")]
    Connect {
        /// Its address.
        address: String,
        /// What is wrong.
        problem: String,
    },
    /// The hub sent something that is no message.
    #[error("understand the hub: {0}")]
    Frame(#[from] FrameError),
    /// The connection broke.
    #[error("keep the connection: {0}")]
    Lost(String),
}

/// A link that is ready to dial.
pub struct Link {
    transport: Transport,
    /// Where the hub listens; the first is dialled first.
    places: VecDeque<Place>,
    telemetry: Telemetry,
    /// The last connection came about over TCP, though QUIC was tried.
    is_udp_blocked: bool,
    /// A QUIC connection that was made while another one over TCP stood.
    better: Option<quic::Carrier>,
}

/// Whether one of a hub's places can be reached: in how many milliseconds, or why not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reached {
    /// Its address.
    pub address: String,
    /// Over QUIC; nothing if it is not to be tried.
    pub udp: Option<Result<u64, String>>,
    /// Over TCP; nothing if it is not to be tried.
    pub tcp: Option<Result<u64, String>>,
}

struct Place {
    at: HubPlace,
    quic: quic::Dialler,
    tcp: tcp::Dialler,
}

/// A connection.
enum Carrier {
    Quic(quic::Carrier),
    Tcp(tcp::Carrier),
}

impl Link {
    /// A link to `hub` that shows `credentials`.
    ///
    /// # Errors
    /// If the hub's name is none.
    pub fn new(hub: Hub, credentials: &Arc<Credentials>, telemetry: Telemetry) -> Result<Self, LinkError> {
        let tls = credentials.client(ALPN)?;
        let place = |at: HubPlace| {
            let quic = quic::Dialler::new(&at.address, &hub.server_name, tls.clone())?;
            let tcp = tcp::Dialler::new(&at.tcp_address, &hub.server_name, tls.clone())?;
            Ok(Place { at, quic, tcp })
        };
        let places = hub.places.into_iter().map(place).collect::<Result<_, LinkError>>()?;
        Ok(Self { transport: hub.transport, places, telemetry, is_udp_blocked: false, better: None })
    }

    /// Runs the link until the sender of commands is dropped.
    pub async fn run(mut self, mut inbox: Inbox, events: mpsc::Sender<Event>) {
        while let Some(command) = inbox.commands.recv().await {
            match command {
                Command::Send(_) => {}
                Command::Hangup => {
                    if events.send(Event::LinkDown).await.is_err() {
                        return;
                    }
                }
                Command::Dial => {
                    match self.connect().await {
                        Err(error) => warn!("failed to {error}"),
                        Ok(carrier) => self.talk(carrier, &mut inbox, &events).await,
                    }
                    self.telemetry.hub_transport(None);
                    if events.send(Event::LinkDown).await.is_err() {
                        return;
                    }
                }
            }
        }
    }

    /// Whether the hub's places can be reached, and how: a connection to each is made, held for a moment, and let go.
    pub async fn reach(&self) -> Vec<Reached> {
        let mut reached = Vec::new();
        for place in &self.places {
            let clock = Clock::start();
            let udp = async {
                let carrier = place.quic.connect().await?;
                let took_ms = clock.monotonic().0;
                carrier.stands(STANDS_FOR).await.map(|()| took_ms)
            };
            let tcp = async {
                let carrier = place.tcp.connect().await?;
                let took_ms = clock.monotonic().0;
                carrier.stands(STANDS_FOR).await.map(|()| took_ms)
            };
            let says = |tried: Result<u64, LinkError>| tried.map_err(|error| format!("failed to {error}"));
            let (udp, tcp) = match self.transport {
                Transport::Auto => {
                    let (udp, tcp) = tokio::join!(udp, tcp);
                    (Some(says(udp)), Some(says(tcp)))
                }
                Transport::Quic => (Some(says(udp.await)), None),
                Transport::Tcp => (None, Some(says(tcp.await))),
            };
            reached.push(Reached { address: place.at.address.clone(), udp, tcp });
        }
        reached
    }

    async fn connect(&mut self) -> Result<Carrier, LinkError> {
        if let Some(better) = self.better.take() {
            self.is_udp_blocked = false;
            return Ok(Carrier::Quic(better));
        }
        let connected = match (self.transport, self.places.front()) {
            (_, None) => Err(LinkError::Lost("no hub is known".to_owned())),
            (Transport::Quic, Some(place)) => place.quic.connect().await.map(Carrier::Quic),
            (Transport::Tcp, Some(place)) => place.tcp.connect().await.map(Carrier::Tcp),
            (Transport::Auto, Some(place)) => place.race(self.is_udp_blocked).await,
        };
        match &connected {
            Ok(carrier) => {
                self.is_udp_blocked = self.transport == Transport::Auto && matches!(carrier, Carrier::Tcp(_));
            }
            // The next try is at the next place.
            Err(_) => self.places.rotate_left(1.min(self.places.len())),
        }
        connected
    }

    async fn talk(&mut self, carrier: Carrier, inbox: &mut Inbox, events: &mpsc::Sender<Event>) {
        // What was drawn for a connection that is gone is old.
        while inbox.pictures.try_recv().is_ok() {}
        let Some(place) = self.places.front() else { return };
        let ended = match carrier {
            Carrier::Quic(carrier) => {
                info!(hub = %place.at.address, protocol = PROTOCOL_VERSION, "connected to the hub over QUIC");
                self.telemetry.hub_transport(Some(HubTransport::Quic));
                carrier.talk(inbox, events).await
            }
            Carrier::Tcp(carrier) => {
                info!(hub = %place.at.tcp_address, protocol = PROTOCOL_VERSION, "connected to the hub over TCP");
                self.telemetry.hub_transport(Some(HubTransport::Tcp));
                let watches = self.transport == Transport::Auto;
                tokio::select! {
                    ended = carrier.talk(inbox, events) => ended,
                    better = place.quic.keep_trying(), if watches => {
                        info!("UDP gets through again; going back to QUIC");
                        self.better = Some(better);
                        Ok(())
                    }
                }
            }
        };
        if let Err(error) = ended {
            warn!("failed to {error}");
        }
    }
}

impl Place {
    /// QUIC with a head start, after the manner of Happy Eyeballs (RFC 8305): where UDP is blocked, nothing says so.
    async fn race(&self, is_udp_blocked: bool) -> Result<Carrier, LinkError> {
        let head_start = if is_udp_blocked { SHORT_HEAD_START } else { HEAD_START };
        let mut quic = pin!(self.quic.connect());
        let mut tcp = pin!(async {
            tokio::time::sleep(head_start).await;
            self.tcp.connect().await
        });
        let mut quic_error = None;
        let mut tcp_error = None;
        loop {
            tokio::select! {
                biased;
                connected = &mut quic, if quic_error.is_none() => match connected {
                    Ok(carrier) => return Ok(Carrier::Quic(carrier)),
                    Err(error) => quic_error = Some(error),
                },
                connected = &mut tcp, if tcp_error.is_none() => match connected {
                    Ok(carrier) => return Ok(Carrier::Tcp(carrier)),
                    Err(error) => tcp_error = Some(error),
                },
                else => break,
            }
        }
        Err(quic_error.or(tcp_error).unwrap_or_else(|| LinkError::Lost("nothing was tried".to_owned())))
    }
}

/// What the agent's loop has of a link, and what [`Link::run`] takes from it.
#[must_use]
pub fn channel() -> (Outbox, Inbox) {
    let (commands, commanded) = mpsc::channel(COMMANDS);
    let (pictures, drawn) = mpsc::channel(PICTURES);
    (Outbox { commands, pictures }, Inbox { commands: commanded, pictures: drawn })
}

/// Carries messages both ways until one side ends it. `pictures` is for a carrier that has one stream for everything.
async fn converse(
    mut send: impl AsyncWrite + Unpin,
    mut receive: impl AsyncRead + Unpin,
    commands: &mut mpsc::Receiver<Command>,
    pictures: Option<&mut mpsc::Receiver<EdgeToHub>>,
    events: &mpsc::Sender<Event>,
) -> Result<(), LinkError> {
    if events.send(Event::LinkUp).await.is_err() {
        return Ok(());
    }
    tokio::select! {
        written = write_messages(&mut send, commands, pictures) => written,
        read = read_messages(&mut receive, events) => read,
    }
}

async fn write_messages(
    send: &mut (impl AsyncWrite + Unpin),
    commands: &mut mpsc::Receiver<Command>,
    mut pictures: Option<&mut mpsc::Receiver<EdgeToHub>>,
) -> Result<(), LinkError> {
    let mut bytes = Vec::new();
    loop {
        tokio::select! {
            biased;
            Some(picture) = next_picture(&mut pictures) => write_message(send, &picture, &mut bytes).await?,
            command = commands.recv() => match command {
                Some(Command::Dial) => {}
                Some(Command::Send(message)) => write_message(send, &message, &mut bytes).await?,
                Some(Command::Hangup) | None => return Ok(()),
            },
        }
    }
}

async fn next_picture(pictures: &mut Option<&mut mpsc::Receiver<EdgeToHub>>) -> Option<EdgeToHub> {
    match pictures {
        Some(pictures) => pictures.recv().await,
        None => std::future::pending().await,
    }
}

async fn write_message(
    send: &mut (impl AsyncWrite + Unpin),
    message: &EdgeToHub,
    bytes: &mut Vec<u8>,
) -> Result<(), LinkError> {
    let lost = |error: io::Error| LinkError::Lost(error.to_string());
    bytes.clear();
    frame::encode(message, bytes)?;
    send.write_all(bytes).await.map_err(lost)?;
    send.flush().await.map_err(lost)
}

async fn read_messages(receive: &mut (impl AsyncRead + Unpin), events: &mpsc::Sender<Event>) -> Result<(), LinkError> {
    let mut decoder = FrameDecoder::default();
    let mut bytes = vec![0; READ_BYTES];
    loop {
        let count = receive.read(&mut bytes).await.map_err(|error| LinkError::Lost(error.to_string()))?;
        if count == 0 {
            return Err(LinkError::Lost("the hub closed the stream".to_owned()));
        }
        decoder.extend(&bytes[..count]);
        while let Some(message) = decoder.take()? {
            if events.send(Event::FromHub(message)).await.is_err() {
                return Ok(());
            }
        }
    }
}

/// The first address of a name.
async fn resolve(address: &str) -> Result<SocketAddr, LinkError> {
    let error = |problem: String| LinkError::Resolve { address: address.to_owned(), problem };
    let name = address.to_owned();
    tokio::task::spawn_blocking(move || name.to_socket_addrs().map(|mut found| found.next()))
        .await
        .map_err(|source| error(source.to_string()))?
        .map_err(|source| error(source.to_string()))?
        .ok_or_else(|| error("the name has no address".to_owned()))
}
