//! The link's shell: accepts agents with mutual TLS, over QUIC or TCP, and carries frames. It decides nothing.
//!
//! Each connection is a task with a bounded queue towards the agent. Decompressing and decoding happen here, beside
//! the hub's loop; an agent that does not read what it is sent is closed, and comes back.

mod enrol;
mod quic;
mod tcp;
mod trust;
mod upkeep;

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rustls_pki_types::CertificateDer;
use serde::Serialize;
use serde::de::{DeserializeOwned, IgnoredAny};
use shared::event::{EntryError, SpoolEntry};
use shared::ids::AgentId;
use shared::wire::diagnosis::PackedDiagnosis;
use shared::wire::enrol::{EnrolAnswer, EnrolRequest};
use shared::wire::frame::{self, FrameDecoder, FrameError, FrameHeader, HEADER_BYTES};
use shared::wire::message::{EdgeToHub, HubToEdge, PackedEntry, UnpackError};
use shared::wire::upkeep::{UpkeepAnswer, UpkeepRequest};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use tracing::info;

use crate::config::LinkSection;
use crate::core::identities::BoxCertificate;
use crate::core::{ConnectionId, Event};
use crate::identity::{self, IdentityError, Shown};
pub use trust::{LinkKeys, Trust};

/// Messages that may wait for one agent: acks are cumulative, chunks are asked for one at a time.
const OUTGOING: usize = 64;
/// The connection is dead after this long without a word; agents say how they are every second.
const IDLE_TIMEOUT: Duration = Duration::from_secs(60);
/// Ports tried where any free one will do: with a thousand outgoing connections each is taken for TCP with one chance in thirty.
const FREE_PORT_TRIES: u32 = 8;
/// Time to open the stream after the handshake.
const OPEN_TIMEOUT: Duration = Duration::from_secs(10);
/// Bytes taken from a connection at once.
const READ_BYTES: usize = 64 * 1024;
/// The same, from one that has little to say.
const LITTLE_BYTES: usize = 2 * 1024;

/// What the link tells the hub's loop.
#[derive(Debug)]
pub enum LinkEvent {
    /// An agent connected; messages for it go into the queue.
    Opened {
        /// The connection.
        connection: ConnectionId,
        /// The agent.
        agent: AgentId,
        /// The certificate it showed.
        certificate: BoxCertificate,
        /// Its queue; dropping it closes the connection.
        outgoing: mpsc::Sender<HubToEdge>,
    },
    /// Something for the core.
    Core(Box<Event>),
    /// A box says how it is, as it was asked.
    Examined {
        /// The connection.
        connection: ConnectionId,
        /// Numbers the question.
        request: u64,
        /// What it says: JSON.
        document: PackedDiagnosis,
    },
    /// A box wants a certificate.
    Enrol {
        /// What it asks for.
        request: EnrolRequest,
        /// Who it is, if it showed a certificate; that may have expired.
        shown: Option<Shown>,
        /// Where it is.
        peer: SocketAddr,
        /// What it is told.
        answer: oneshot::Sender<EnrolAnswer>,
    },
    /// A box asks for a program.
    Upkeep {
        /// What it says.
        request: UpkeepRequest,
        /// Who it is.
        agent: AgentId,
        /// The certificate it showed.
        certificate: BoxCertificate,
        /// What it is told.
        answer: oneshot::Sender<UpkeepAnswer>,
    },
}

/// Why the link cannot be set up, or a connection ended.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// A certificate or key file cannot be read.
    #[error("read {path}: {problem}")]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// The certificates cannot be used.
    #[error("use the certificates: {0}")]
    Tls(String),
    /// The port cannot be had.
    #[error("listen on {address}: {source}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// The peer is no agent.
    #[error("{0}")]
    Identity(#[from] IdentityError),
    /// The peer sent something that is no message.
    #[error("understand the agent: {0}")]
    Frame(#[from] FrameError),
    /// The peer sent an entry that cannot be unpacked.
    #[error("understand the agent: {0}")]
    Unpack(#[from] UnpackError),
    /// The peer sent an entry that is none.
    #[error("understand the agent: {0}")]
    Entry(#[from] EntryError),
    /// The peer sent a picture that contradicts itself.
    #[error("understand what the agent shows: {0}")]
    Picture(&'static str),
    /// The peer sent a diagnosis that is no JSON.
    #[error("understand what the agent says of itself: {0}")]
    Diagnosis(String),
    /// The peer sent something on the live lane that belongs elsewhere.
    #[error("understand the agent: only pictures travel on the live lane")]
    WrongLane,
    /// The connection broke.
    #[error("keep the connection: {0}")]
    Lost(String),
}

/// A listener, for QUIC and for TCP.
pub struct Link {
    quic: quic::Listener,
    tcp: tcp::Listener,
    connections: Arc<AtomicU64>,
}

impl Link {
    /// Reads certificates and opens the ports.
    ///
    /// # Errors
    /// If a file is missing or a port is taken.
    pub fn bind(section: &LinkSection, trust: &Arc<Trust>, security: Security<'_>) -> Result<Self, LinkError> {
        let mut tries = if section.listen.port() == 0 && section.tcp_listen.is_none() { FREE_PORT_TRIES } else { 1 };
        loop {
            tries -= 1;
            match Self::bind_once(section, trust, security) {
                // What is free for UDP may be taken for TCP.
                Err(LinkError::Listen { source, .. }) if source.kind() == io::ErrorKind::AddrInUse && tries > 0 => {}
                bound => return bound,
            }
        }
    }

    /// Port 0 takes a free one; both transports have the same unless the configuration says otherwise.
    fn bind_once(section: &LinkSection, trust: &Arc<Trust>, security: Security<'_>) -> Result<Self, LinkError> {
        let quic = quic::Listener::bind(section.listen, trust.for_link()?, security.secret)?;
        let address = quic.local_address().map_err(|source| LinkError::Listen { address: section.listen, source })?;
        let enrolment = security.enrols.then(|| trust.for_enrolment()).transpose()?;
        let tcp = tcp::Listener::bind(section.tcp_listen.unwrap_or(address), trust.for_link_over_tcp()?, enrolment)?;
        Ok(Self { quic, tcp, connections: Arc::new(AtomicU64::new(1)) })
    }

    /// Where it listens for QUIC.
    ///
    /// # Errors
    /// If the socket is gone.
    pub fn local_address(&self) -> io::Result<SocketAddr> {
        self.quic.local_address()
    }

    /// Accepts agents until `shutdown` is cancelled, then closes every connection.
    pub async fn run(self, events: mpsc::Sender<LinkEvent>, shutdown: CancellationToken) {
        let Self { quic, tcp, connections } = self;
        let served = Served { connections, events };
        tokio::join!(quic.run(served.clone(), &shutdown), tcp.run(served, &shutdown));
    }
}

/// What a link needs to know beside certificates.
#[derive(Clone, Copy)]
pub struct Security<'a> {
    /// The hub's own, which outlives its process.
    pub secret: &'a [u8],
    /// Whether boxes may ask for certificates.
    pub enrols: bool,
}

/// What every connection is served with.
#[derive(Clone)]
struct Served {
    connections: Arc<AtomicU64>,
    events: mpsc::Sender<LinkEvent>,
}

impl Served {
    /// Serves an agent whose certificates were checked, until its connection ends. `live_lane` is what its pictures come in
    /// by, where that is no part of the one stream.
    async fn serve(
        &self,
        (agent, certificate): (AgentId, BoxCertificate),
        peer: SocketAddr,
        send: &mut (impl AsyncWrite + Unpin),
        receive: &mut (impl AsyncRead + Unpin),
        live_lane: impl AsyncFnOnce(ConnectionId) -> Result<(), LinkError>,
    ) {
        let connection = ConnectionId(self.connections.fetch_add(1, Ordering::Relaxed));
        info!(%agent, %peer, "an agent connected");
        let (outgoing, mut messages) = mpsc::channel(OUTGOING);
        let opened = LinkEvent::Opened { connection, agent: agent.clone(), certificate, outgoing };
        if self.events.send(opened).await.is_err() {
            return;
        }
        let ended = tokio::select! {
            written = write_messages(send, &mut messages) => written,
            read = read_messages(receive, connection, &self.events) => read,
            Err(error) = live_lane(connection) => Err(error),
        };
        if let Err(error) = ended {
            info!(%agent, "the connection ended: failed to {error}");
        }
        drop(self.events.send(LinkEvent::Core(Box::new(Event::Disconnected { connection }))).await);
    }
}

/// Reads one request of a talk, of at most `max_bytes`; nothing where the talk is over.
async fn read_request<M: DeserializeOwned>(
    stream: &mut (impl AsyncRead + Unpin),
    max_bytes: usize,
) -> Result<Option<M>, LinkError> {
    let lost = |error: io::Error| LinkError::Lost(error.to_string());
    let mut header = [0; HEADER_BYTES];
    match stream.read_exact(&mut header).await {
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(error) => return Err(lost(error)),
    }
    let header = FrameHeader::decode(header)?;
    if header.length > max_bytes {
        return Err(LinkError::Lost(format!("a request of {} bytes is too long for this talk", header.length)));
    }
    let mut body = vec![0; header.length];
    stream.read_exact(&mut body).await.map_err(lost)?;
    Ok(Some(header.open(&body)?))
}

/// Has the hub's loop answer a request, and writes the answer.
async fn answer_request<A: Serialize>(
    stream: &mut (impl AsyncWrite + Unpin),
    events: &mpsc::Sender<LinkEvent>,
    event: impl FnOnce(oneshot::Sender<A>) -> LinkEvent,
) -> Result<(), LinkError> {
    let lost = |error: io::Error| LinkError::Lost(error.to_string());
    let stops = || LinkError::Lost("the hub stops".to_owned());
    let (answer, answered) = oneshot::channel();
    events.send(event(answer)).await.map_err(|_| stops())?;
    let answer = answered.await.map_err(|_| stops())?;
    let mut bytes = Vec::new();
    frame::encode(&answer, &mut bytes)?;
    stream.write_all(&bytes).await.map_err(lost)?;
    stream.flush().await.map_err(lost)
}

/// The agent that a certificate chain names.
fn identify(chain: &[CertificateDer<'_>]) -> Result<(AgentId, BoxCertificate), LinkError> {
    Ok(identity::shown(chain.first().ok_or(IdentityError::NoName)?)?)
}

/// Ends, after everything in the queue was sent, when the hub drops the queue.
async fn write_messages(
    send: &mut (impl AsyncWrite + Unpin),
    messages: &mut mpsc::Receiver<HubToEdge>,
) -> Result<(), LinkError> {
    let lost = |error: io::Error| LinkError::Lost(error.to_string());
    let mut bytes = Vec::new();
    while let Some(message) = messages.recv().await {
        bytes.clear();
        frame::encode(&message, &mut bytes)?;
        send.write_all(&bytes).await.map_err(lost)?;
        send.flush().await.map_err(lost)?;
    }
    send.shutdown().await.map_err(lost)
}

async fn read_messages(
    receive: &mut (impl AsyncRead + Unpin),
    connection: ConnectionId,
    events: &mpsc::Sender<LinkEvent>,
) -> Result<(), LinkError> {
    let mut decoder = FrameDecoder::default();
    // What a connection holds while little comes is little: there may be ten thousand of them.
    let mut bytes = Vec::with_capacity(LITTLE_BYTES);
    let mut is_little = true;
    loop {
        bytes.clear();
        if is_little && bytes.capacity() > LITTLE_BYTES {
            bytes = Vec::with_capacity(LITTLE_BYTES);
        } else if !is_little {
            bytes.reserve(READ_BYTES);
        }
        let reading = tokio::time::timeout(IDLE_TIMEOUT, receive.read_buf(&mut bytes));
        let count = reading
            .await
            .map_err(|_| LinkError::Lost(format!("nothing was said for {} s", IDLE_TIMEOUT.as_secs())))?
            .map_err(|error| LinkError::Lost(error.to_string()))?;
        if count == 0 {
            return Err(LinkError::Lost("the agent closed the stream".to_owned()));
        }
        is_little = count < LITTLE_BYTES;
        decoder.extend(&bytes);
        while let Some(message) = decoder.take()? {
            if events.send(said(connection, message)?).await.is_err() {
                return Ok(());
            }
        }
    }
}

/// Reads a stream that carries nothing but pictures, until it ends.
async fn read_pictures(
    mut receive: impl AsyncRead + Unpin,
    connection: ConnectionId,
    events: &mpsc::Sender<LinkEvent>,
) -> Result<(), LinkError> {
    let mut decoder = FrameDecoder::default();
    let mut bytes = Vec::with_capacity(LITTLE_BYTES);
    while receive.read_buf(&mut bytes).await.map_err(|error| LinkError::Lost(error.to_string()))? > 0 {
        decoder.extend(&bytes);
        bytes.clear();
        while let Some(message) = decoder.take()? {
            let EdgeToHub::Live(_) = message else {
                return Err(LinkError::WrongLane);
            };
            if events.send(said(connection, message)?).await.is_err() {
                return Ok(());
            }
        }
    }
    Ok(())
}

fn said(connection: ConnectionId, message: EdgeToHub) -> Result<LinkEvent, LinkError> {
    let event = match message {
        EdgeToHub::Hello(hello) => Event::Hello { connection, hello },
        EdgeToHub::Entry(packed) => Event::Entry { connection, entry: unpack(&packed)? },
        EdgeToHub::Fetch { digest, offset, base } => Event::Fetch { connection, digest, offset, base },
        EdgeToHub::ModelReport(report) => Event::ModelReport { connection, report },
        EdgeToHub::Status(status) => Event::Status { connection, status },
        EdgeToHub::Live(picture) => match picture.inconsistency() {
            None => Event::Live { connection, picture },
            Some(problem) => return Err(LinkError::Picture(problem)),
        },
        EdgeToHub::Examined { request, document } => {
            return match serde_json::from_slice::<IgnoredAny>(&document.unpack()?) {
                Ok(_) => Ok(LinkEvent::Examined { connection, request, document }),
                Err(error) => Err(LinkError::Diagnosis(error.to_string())),
            };
        }
    };
    Ok(LinkEvent::Core(Box::new(event)))
}

fn unpack(packed: &PackedEntry) -> Result<SpoolEntry, LinkError> {
    Ok(SpoolEntry::decode(&packed.unpack()?)?)
}
