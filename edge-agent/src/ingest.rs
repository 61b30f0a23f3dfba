//! MQTT's shell: takes messages in without acknowledging them, acknowledges when told to, publishes.
//!
//! One task owns the connection. It writes what the [`session`] says, and reads as long as the agent takes messages in:
//! when it does not, the broker is made to wait, while acknowledgements and publishes go on.

pub mod edge_node;
pub mod listen;
pub mod packets;
pub mod payload;
pub mod session;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use rustls_pki_types::ServerName;
use shared::ids::AgentId;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{mpsc, watch};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_util::either::Either;
use tracing::{info, warn};

use crate::clock::WallClock;
use crate::config::{BrokerTls, Mqtt};
use crate::core::backoff::Backoff;
use crate::core::{MessageContent, NewReading, Receipt, Received, Rejection};
use crate::status::{REJECTED_PAYLOAD_BYTES, Rejected};
use crate::telemetry::Telemetry;
use crate::tls::{self, TlsError};
use packets::{Delivery, Hello, Message, Presence, Properties, Reader};
use payload::{Decoder, Outcome};
use session::{Arrival, Problem, Session};

/// Predictions and status messages that may wait for the broker. Beyond, predictions are dropped and counted: they
/// are in the spool as well.
const OUTBOX: usize = 16_384;
/// Messages that may wait for the agent beyond the receive maximum, which some brokers overrun on a resumed session.
const OVERRUN: usize = 16_384;
/// Publishes taken from the outbox at once.
const PUBLISHES_AT_ONCE: usize = 64;
/// Bytes read at once, which is what a socket's buffer often holds.
const READ_BYTES: usize = 64 * 1024;
/// A read of fewer bytes says that messages come singly.
const SMALL_READ_BYTES: usize = 512;
/// Bytes that may wait for the network; with more, nothing is read that would have to be answered.
const UNSENT_BYTES: usize = 256 * 1024;
/// The broker keeps what it could not deliver for this long.
const SESSION_EXPIRY_S: u32 = 7 * 24 * 3600;
/// The waits before the broker is tried again: it is near, and what comes meanwhile waits there.
const RECONNECT_FIRST_MS: u64 = 250;
const RECONNECT_LONGEST_MS: u64 = 10_000;
/// A connection that stood this long makes the next wait short again.
const STABLE_AFTER_MS: u64 = 10_000;
/// A broker that cannot be reached within this time is tried again.
const DIAL_TIMEOUT: Duration = Duration::from_secs(10);
/// Time between two signs of life on a silent connection.
const KEEP_ALIVE_S: u16 = 30;
/// How long the last words may take at shutdown.
const GOODBYE_TIMEOUT: Duration = Duration::from_secs(5);

/// A message to publish.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outgoing {
    /// Its topic.
    pub topic: String,
    /// Its content.
    pub payload: Vec<u8>,
    /// What is said of it to those who speak MQTT 5.
    pub properties: Properties,
    /// Whether the broker keeps it for those who subscribe later.
    pub retain: bool,
    /// How surely it gets there.
    pub delivery: Delivery,
}

/// The agent's side of the shell.
#[derive(Debug)]
pub struct Ingest {
    /// Messages in receive order.
    pub received: mpsc::Receiver<Received>,
    /// Everything up to the receipt sent here is acknowledged.
    pub acknowledge: watch::Sender<Option<Receipt>>,
    /// Messages to publish.
    pub outbox: mpsc::Sender<Outgoing>,
}

impl Ingest {
    /// Whether the answers to so many readings fit into the outbox.
    #[must_use]
    pub fn can_answer(&self, readings: usize) -> bool {
        self.outbox.capacity() >= readings.min(OUTBOX)
    }
}

/// Waits until so many messages fit into the outbox.
pub async fn has_room(outbox: &mpsc::Sender<Outgoing>, messages: usize) {
    // Without the task that empties it nothing is taken in either, and the agent stops.
    if outbox.reserve_many(messages.min(OUTBOX)).await.is_err() {
        std::future::pending::<()>().await;
    }
}

/// Sets up MQTT and gives the agent's side and the task to run. `seed` spreads the attempts of a fleet.
///
/// # Errors
/// If a certificate or key for TLS cannot be used.
pub fn open(
    mqtt: &Mqtt,
    agent: &AgentId,
    password: Option<String>,
    decoder: Decoder,
    clock: WallClock,
    telemetry: Telemetry,
    seed: u64,
) -> Result<(Ingest, Client), TlsError> {
    let hello = Hello {
        presence: Presence::Kept { availability: format!("tideline/{agent}/availability") },
        session_expiry_s: SESSION_EXPIRY_S,
        ..guest(mqtt, mqtt.client_id.clone(), password)
    };
    let (received_sender, received) = mpsc::channel(usize::from(mqtt.receive_maximum) + OVERRUN);
    let (acknowledge, acknowledged) = watch::channel(None);
    let (outbox, outgoing) = mpsc::channel(OUTBOX);
    let client = Client {
        broker: Broker::new(mqtt)?,
        max_packet_bytes: mqtt.max_packet_bytes,
        session: Session::new(hello, decoder.filters()),
        decoder,
        clock,
        telemetry,
        backoff: backoff(seed),
        received: received_sender,
        acknowledged,
        outgoing,
        stalled: VecDeque::new(),
        outcomes: Vec::new(),
        out: BytesMut::new(),
    };
    Ok((Ingest { received, acknowledge, outbox }, client))
}

fn backoff(seed: u64) -> Backoff {
    Backoff::new(RECONNECT_FIRST_MS, RECONNECT_LONGEST_MS, STABLE_AFTER_MS, seed)
}

/// How somebody introduces itself of whom the broker keeps nothing.
fn guest(mqtt: &Mqtt, client_id: String, password: Option<String>) -> Hello {
    Hello {
        client_id,
        login: mqtt.username.clone().map(|username| (username, password.unwrap_or_default())),
        presence: Presence::Guest,
        keep_alive_s: KEEP_ALIVE_S,
        session_expiry_s: 0,
        receive_maximum: mqtt.receive_maximum,
        max_packet_bytes: mqtt.max_packet_bytes,
    }
}

/// Where the broker is, and how it is talked to.
struct Broker {
    address: (String, u16),
    tls: Option<(TlsConnector, ServerName<'static>)>,
}

/// A connection to the broker: plain or with TLS. One type for both, so that what is built on it is in the program once.
type Network = Either<TcpStream, Box<TlsStream<TcpStream>>>;

impl Broker {
    fn new(mqtt: &Mqtt) -> Result<Self, TlsError> {
        let connector = |tls: &BrokerTls| {
            let identity = tls.identity.as_ref().map(|(certificate, key)| (certificate.as_path(), key.as_path()));
            let client = tls::client(&tls.ca_file, identity)?;
            // The configuration has checked that the host is a name or an address.
            let name =
                ServerName::try_from(mqtt.host.clone()).map_err(|error| rustls::Error::General(error.to_string()))?;
            Ok::<_, TlsError>((TlsConnector::from(Arc::new(client)), name))
        };
        Ok(Self { address: (mqtt.host.clone(), mqtt.port), tls: mqtt.tls.as_ref().map(connector).transpose()? })
    }

    async fn dial(&self) -> Result<Network, String> {
        let (host, port) = &self.address;
        let connecting = async {
            let stream = TcpStream::connect((host.as_str(), *port)).await?;
            // Acknowledgements are written in batches; waiting for more would only slow the broker down.
            stream.set_nodelay(true)?;
            Ok(match &self.tls {
                None => Network::Left(stream),
                Some((connector, name)) => Network::Right(Box::new(connector.connect(name.clone(), stream).await?)),
            })
        };
        let connected = tokio::time::timeout(DIAL_TIMEOUT, connecting).await;
        let connected = connected.map_err(|_| format!("{host}:{port} does not answer"))?;
        connected.map_err(|error: std::io::Error| format!("{host}:{port}: {error}"))
    }
}

/// The task that keeps the connection.
pub struct Client {
    broker: Broker,
    max_packet_bytes: u32,
    session: Session,
    decoder: Decoder,
    clock: WallClock,
    telemetry: Telemetry,
    backoff: Backoff,
    received: mpsc::Sender<Received>,
    acknowledged: watch::Receiver<Option<Receipt>>,
    outgoing: mpsc::Receiver<Outgoing>,
    /// Readings that the agent has no room for; until it has, nothing is read.
    stalled: VecDeque<Received>,
    /// Room to work in, kept from message to message.
    outcomes: Vec<Outcome>,
    out: BytesMut,
}

/// How a connection ended.
enum End {
    Lost(Problem),
    Stopped,
}

impl Client {
    /// Connects, and connects again, until the agent's side is dropped; then says good-bye to the broker.
    pub async fn run(mut self) {
        loop {
            let ended = match self.broker.dial().await {
                Ok(network) => Ok(self.converse(network).await),
                Err(problem) => Err(problem),
            };
            let problem = match ended {
                Ok(End::Lost(problem)) => problem.to_string(),
                Ok(End::Stopped) => return,
                Err(problem) => problem,
            };
            if self.backoff.disconnected(self.clock.monotonic()) {
                warn!("the broker is away: {problem}; trying again");
            }
            self.telemetry.broker_away(problem);
            let wait = Duration::from_millis(self.backoff.next_ms());
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = stopped(&mut self.acknowledged) => return,
            }
        }
    }

    async fn converse(&mut self, network: Network) -> End {
        let quickly = Quickly::of(&network);
        // With TLS what is written may wait for a flush.
        let is_buffered = matches!(network, Network::Right(_));
        let (mut network_in, mut network_out) = tokio::io::split(network);
        self.out.clear();
        let mut is_flushed = true;
        let mut reader = Reader::default();
        let mut publishes = Vec::with_capacity(PUBLISHES_AT_ONCE);
        let mut trouble = self.session.connect(self.clock.monotonic(), &mut self.out).err();
        loop {
            if trouble.is_none() {
                trouble = self.take_in(&mut reader).err();
            }
            self.telemetry.unpublished(self.session.take_too_large());
            let now = self.clock.monotonic();
            let is_reading = self.stalled.is_empty() && self.out.len() < UNSENT_BYTES;
            if let Some(problem) = trouble.take().or_else(|| self.session.tick(now, is_reading, &mut self.out).err()) {
                self.session.disconnected(&problem);
                return End::Lost(problem);
            }
            let can_publish = self.session.can_publish(is_reading) && self.out.len() < UNSENT_BYTES;
            let due = self.session.poll_timeout().map_or(u64::MAX, |at| at.0.saturating_sub(now.0));
            tokio::select! {
                biased;
                written = write_some(&mut network_out, &mut self.out), if !(self.out.is_empty() && is_flushed) => {
                    trouble = written.is_err().then_some(Problem::Closed);
                    is_flushed = !is_buffered || written.is_ok_and(|count| count == 0);
                }
                changed = self.acknowledged.changed() => match changed {
                    Ok(()) => self.acknowledge(),
                    Err(_) => {
                        self.last_words();
                        // Who does not take them has them in the spool, or as the last will.
                        let goodbye = async {
                            network_out.write_all_buf(&mut self.out).await?;
                            network_out.shutdown().await
                        };
                        drop(tokio::time::timeout(GOODBYE_TIMEOUT, goodbye).await);
                        return End::Stopped;
                    }
                },
                () = takes_one(&self.received), if !self.stalled.is_empty() => {
                    let stalled = std::mem::take(&mut self.stalled);
                    stalled.into_iter().for_each(|message| self.hand_over(message, true));
                }
                count = self.outgoing.recv_many(&mut publishes, PUBLISHES_AT_ONCE), if can_publish => {
                    if count == 0 {
                        // The agent's side is gone, which the branch above will say.
                        tokio::task::yield_now().await;
                    }
                    let publishes = publishes.drain(..);
                    publishes.for_each(|message| self.session.publish(now, message, is_reading, &mut self.out));
                }
                read = read_some(&mut network_in, &mut reader.buffer, &quickly), if is_reading => {
                    trouble = (!read).then_some(Problem::Closed);
                }
                () = tokio::time::sleep(Duration::from_millis(due)) => {}
            }
        }
    }

    /// Takes in what was read, as far as there is room.
    fn take_in(&mut self, reader: &mut Reader) -> Result<(), Problem> {
        while self.stalled.is_empty() {
            let Some(packet) = reader.next(self.session.version(), self.max_packet_bytes)? else {
                return Ok(());
            };
            match self.session.receive(self.clock.monotonic(), packet, &mut self.out)? {
                Some(Arrival::Message { receipt, message, may_be_redelivered }) => {
                    self.take(receipt, &message, may_be_redelivered);
                }
                Some(Arrival::Connected { session_present }) => {
                    self.backoff.connected(self.clock.monotonic());
                    let version = self.session.version();
                    info!(session_present, mqtt = version.name(), "connected to the broker");
                    self.telemetry.broker_connected(version);
                }
                Some(Arrival::SubscriptionRefused(count)) => {
                    let problem = format!("the broker refuses {count} of our subscriptions; nothing comes in on them");
                    warn!("{problem}");
                    self.telemetry.broker_problem(problem);
                }
                None => {}
            }
        }
        Ok(())
    }

    /// Hands over what a message holds; the last of it carries the receipt.
    fn take(&mut self, receipt: Receipt, message: &Message, may_be_redelivered: bool) {
        let mut outcomes = std::mem::take(&mut self.outcomes);
        self.decode(message, &mut outcomes);
        let last = outcomes.len().saturating_sub(1);
        let waits = message.packet_id.is_some();
        for (index, outcome) in outcomes.drain(..).enumerate() {
            let content = match outcome {
                Outcome::Reading(decoded) => MessageContent::Reading(NewReading {
                    schema: decoded.schema,
                    time_ms: decoded.time_ms,
                    values: decoded.values,
                    known_normal: decoded.known_normal,
                    shedding: decoded.shedding,
                    id: decoded.id,
                    named_by_producer: decoded.has_producer_id,
                    may_be_redelivered,
                }),
                Outcome::Held(_) => MessageContent::Held,
                Outcome::Rejected(rejection) => MessageContent::Rejected(self.rejection(message, &rejection)),
            };
            self.hand_over(Received { receipt: (index == last).then_some(receipt), content }, waits);
        }
        self.outcomes = outcomes;
        let (now, is_reading) = (self.clock.monotonic(), self.stalled.is_empty());
        self.decoder.take_requests().for_each(|request| self.session.publish(now, request, is_reading, &mut self.out));
    }

    fn hand_over(&mut self, message: Received, waits: bool) {
        if !self.stalled.is_empty() {
            self.stalled.push_back(message);
            return;
        }
        match self.received.try_send(message) {
            Ok(()) | Err(TrySendError::Closed(_)) => {}
            // There is room, unless the broker does not keep to the receive maximum. Then it is made to wait.
            Err(TrySendError::Full(message)) if waits => self.stalled.push_back(message),
            Err(TrySendError::Full(_)) => self.telemetry.overflowed(),
        }
    }

    fn decode(&mut self, message: &Message, outcomes: &mut Vec<Outcome>) {
        let rejected = |rejection| Outcome::Rejected(rejection);
        if let Some(bytes) = message.oversized {
            outcomes.push(rejected(payload::Rejection::Oversized { bytes, max: self.max_packet_bytes }));
            return;
        }
        match std::str::from_utf8(&message.topic) {
            Ok(topic) => self.decoder.decode(topic, &message.payload, self.clock.unix_ms(), outcomes),
            Err(_) => outcomes.push(rejected(payload::Rejection::UnknownTopic)),
        }
    }

    /// What is kept of a message that is no reading.
    fn rejection(&self, message: &Message, rejection: &payload::Rejection) -> Rejection {
        let shown = message.payload.len().min(REJECTED_PAYLOAD_BYTES);
        Rejection {
            reason: rejection.reason(),
            sample: Some(Rejected {
                time_ms: self.clock.unix_ms(),
                topic: String::from_utf8_lossy(&message.topic).into_owned(),
                payload: String::from_utf8_lossy(&message.payload[..shown]).into_owned(),
                problem: rejection.to_string(),
            }),
        }
    }

    fn acknowledge(&mut self) {
        if let Some(through) = *self.acknowledged.borrow_and_update() {
            self.session.acknowledge(self.clock.monotonic(), through, &mut self.out);
        }
    }

    fn last_words(&mut self) {
        let now = self.clock.monotonic();
        self.acknowledge();
        // What finds no quota any more is sent all the same, at most once.
        while let Ok(message) = self.outgoing.try_recv() {
            self.session.publish(now, message, false, &mut self.out);
        }
        self.session.close(now, &mut self.out);
    }
}

/// Writes what there is, or has what was written go out; returns how much was written.
async fn write_some(network: &mut (impl AsyncWrite + Unpin), out: &mut BytesMut) -> std::io::Result<usize> {
    if out.is_empty() { network.flush().await.map(|()| 0) } else { network.write_buf(out).await }
}

/// Reads what there is; false at the end of the connection.
async fn read_some(network: &mut (impl AsyncRead + Unpin), buffer: &mut BytesMut, quickly: &Quickly) -> bool {
    buffer.reserve(READ_BYTES);
    let Ok(count) = network.read_buf(buffer).await else {
        return false;
    };
    if count < SMALL_READ_BYTES {
        quickly.acknowledge();
    }
    count > 0
}

/// A second handle on a connection's socket, to have TCP acknowledge at once.
///
/// Brokers keep a small message back while the one before it is not acknowledged by TCP (RFC 896), and Linux takes its time
/// with that: together tens of milliseconds. It is only a wish, and forgotten with the next packet.
struct Quickly(Option<socket2::Socket>);

impl Quickly {
    fn of(network: &Network) -> Self {
        let stream = match network {
            Network::Left(stream) => stream,
            Network::Right(stream) => stream.get_ref().0,
        };
        Self(socket2::SockRef::from(stream).try_clone().ok())
    }

    fn acknowledge(&self) {
        #[cfg(target_os = "linux")]
        if let Some(socket) = &self.0 {
            socket.set_tcp_quickack(true).ok();
        }
    }
}

/// Waits until the agent takes a message. When its side is gone, the caller ends by another way.
async fn takes_one(received: &mpsc::Sender<Received>) {
    if received.reserve().await.is_err() {
        std::future::pending::<()>().await;
    }
}

/// Waits until the agent's side is dropped.
async fn stopped(acknowledged: &mut watch::Receiver<Option<Receipt>>) {
    while acknowledged.changed().await.is_ok() {}
}

#[cfg(test)]
mod tests;
