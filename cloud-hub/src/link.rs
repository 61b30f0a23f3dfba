//! The link's shell: accepts agents over QUIC with mutual TLS and carries frames. It decides nothing.
//!
//! Each connection is a task with a bounded queue towards the agent. Decompressing and decoding happen here, beside
//! the hub's loop; an agent that does not read what it is sent is closed, and comes back.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use quinn::crypto::rustls::QuicServerConfig;
use quinn::{
    Connection, Endpoint, IdleTimeout, Incoming, RecvStream, SendStream, ServerConfig, TransportConfig, VarInt,
};
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use shared::event::{EntryError, SpoolEntry};
use shared::ids::AgentId;
use shared::wire::ALPN;
use shared::wire::frame::{self, FrameDecoder, FrameError};
use shared::wire::message::{EdgeToHub, HubToEdge, PackedEntry, UnpackError};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::config::LinkSection;
use crate::core::{ConnectionId, Event};
use crate::identity::{self, IdentityError};

/// Messages that may wait for one agent: acks are cumulative, chunks are asked for one at a time.
const OUTGOING: usize = 64;
/// Handshakes under way; a fleet that comes back at once waits its turn.
const MAX_INCOMING: usize = 1_024;
/// Above this many open handshakes an address must prove itself first (QUIC retry).
const RETRY_ABOVE: usize = 256;
/// The connection is dead after this long without a word; agents ping every 15 s.
const IDLE_TIMEOUT_MS: u32 = 60_000;
/// What one agent can make the hub buffer: a full window of batches is acknowledged long before.
const RECEIVE_WINDOW: u32 = 1024 * 1024;
/// What the hub buffers for an agent that reads slowly.
const SEND_WINDOW: u64 = 512 * 1024;
/// Time to open the stream after the handshake.
const OPEN_TIMEOUT: Duration = Duration::from_secs(10);
/// Bytes taken from a connection at once.
const READ_BYTES: usize = 64 * 1024;

/// What the link tells the hub's loop.
#[derive(Debug)]
pub enum LinkEvent {
    /// An agent connected; messages for it go into the queue.
    Opened {
        /// The connection.
        connection: ConnectionId,
        /// The agent.
        agent: AgentId,
        /// Its queue; dropping it closes the connection.
        outgoing: mpsc::Sender<HubToEdge>,
    },
    /// Something for the core.
    Core(Box<Event>),
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
    /// The connection broke.
    #[error("keep the connection: {0}")]
    Lost(String),
}

/// A listener.
pub struct Link {
    endpoint: Endpoint,
    connections: Arc<AtomicU64>,
}

impl Link {
    /// Reads certificates and opens the port.
    ///
    /// # Errors
    /// If a file is missing or the port is taken.
    pub fn bind(section: &LinkSection) -> Result<Self, LinkError> {
        let tls_error = |error: &dyn std::fmt::Display| LinkError::Tls(error.to_string());
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut roots = rustls::RootCertStore::empty();
        for certificate in certificates(&section.ca_file)? {
            roots.add(certificate).map_err(|error| tls_error(&error))?;
        }
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
            .build()
            .map_err(|error| tls_error(&error))?;
        let key = PrivateKeyDer::from_pem_file(&section.key_file)
            .map_err(|error| LinkError::File { path: section.key_file.clone(), problem: error.to_string() })?;
        let mut tls = rustls::ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(|error| tls_error(&error))?
            .with_client_cert_verifier(verifier)
            .with_single_cert(certificates(&section.certificate_file)?, key)
            .map_err(|error| tls_error(&error))?;
        tls.alpn_protocols = vec![ALPN.to_vec()];
        // A ticket would let an agent back in without its certificate being checked again, and early data could be
        // replayed.
        tls.send_tls13_tickets = 0;
        tls.session_storage = Arc::new(NoServerSessionStorage {});
        tls.max_early_data_size = 0;
        let quic = QuicServerConfig::try_from(tls).map_err(|error| tls_error(&error))?;
        let mut server = ServerConfig::with_crypto(Arc::new(quic));
        server.max_incoming(MAX_INCOMING).transport_config(Arc::new(transport()));
        let endpoint = Endpoint::server(server, section.listen)
            .map_err(|source| LinkError::Listen { address: section.listen, source })?;
        Ok(Self { endpoint, connections: Arc::new(AtomicU64::new(1)) })
    }

    /// Where it listens.
    ///
    /// # Errors
    /// If the socket is gone.
    pub fn local_address(&self) -> io::Result<SocketAddr> {
        self.endpoint.local_addr()
    }

    /// Accepts agents until `shutdown` is cancelled, then closes every connection.
    pub async fn run(self, events: mpsc::Sender<LinkEvent>, shutdown: CancellationToken) {
        let mut tasks = JoinSet::new();
        loop {
            tokio::select! {
                () = shutdown.cancelled() => break,
                Some(_) = tasks.join_next(), if !tasks.is_empty() => {}
                incoming = self.endpoint.accept() => {
                    let Some(incoming) = incoming else { break };
                    if self.endpoint.open_connections() > RETRY_ABOVE && incoming.may_retry() {
                        drop(incoming.retry());
                        continue;
                    }
                    let connection = ConnectionId(self.connections.fetch_add(1, Ordering::Relaxed));
                    tasks.spawn(serve(incoming, connection, events.clone()));
                }
            }
        }
        self.endpoint.close(VarInt::from_u32(0), b"the hub stops");
        drop(events);
        while tasks.join_next().await.is_some() {}
        self.endpoint.wait_idle().await;
    }
}

/// One connection, from handshake to end.
async fn serve(incoming: Incoming, connection: ConnectionId, events: mpsc::Sender<LinkEvent>) {
    let peer = incoming.remote_address();
    let quic = match incoming.await {
        Ok(quic) => quic,
        Err(error) => {
            debug!(%peer, "a handshake failed: {error}");
            return;
        }
    };
    let agent = match identify(&quic) {
        Ok(agent) => agent,
        Err(error) => {
            warn!(%peer, "failed to {error}");
            quic.close(VarInt::from_u32(1), b"no agent");
            return;
        }
    };
    info!(%agent, %peer, "an agent connected");
    if let Err(error) = talk(&quic, connection, &agent, &events).await {
        info!(%agent, "the connection ended: failed to {error}");
    }
    quic.close(VarInt::from_u32(0), b"");
    drop(events.send(LinkEvent::Core(Box::new(Event::Disconnected { connection }))).await);
}

fn identify(connection: &Connection) -> Result<AgentId, LinkError> {
    let chain = connection
        .peer_identity()
        .and_then(|identity| identity.downcast::<Vec<CertificateDer<'static>>>().ok())
        .ok_or(IdentityError::NoName)?;
    let leaf = chain.first().ok_or(IdentityError::NoName)?;
    Ok(identity::agent(leaf)?)
}

async fn talk(
    quic: &Connection,
    connection: ConnectionId,
    agent: &AgentId,
    events: &mpsc::Sender<LinkEvent>,
) -> Result<(), LinkError> {
    let (mut send, mut receive) = tokio::time::timeout(OPEN_TIMEOUT, quic.accept_bi())
        .await
        .map_err(|_| LinkError::Lost(format!("no stream within {} s", OPEN_TIMEOUT.as_secs())))?
        .map_err(|error| LinkError::Lost(error.to_string()))?;
    let (outgoing, mut messages) = mpsc::channel(OUTGOING);
    let opened = LinkEvent::Opened { connection, agent: agent.clone(), outgoing };
    if events.send(opened).await.is_err() {
        return Ok(());
    }
    tokio::select! {
        written = write_messages(&mut send, &mut messages) => written,
        read = read_messages(&mut receive, connection, events) => read,
    }
}

/// Ends, after everything in the queue was sent, when the hub drops the queue.
async fn write_messages(send: &mut SendStream, messages: &mut mpsc::Receiver<HubToEdge>) -> Result<(), LinkError> {
    let lost = |error: &dyn std::fmt::Display| LinkError::Lost(error.to_string());
    let mut bytes = Vec::new();
    while let Some(message) = messages.recv().await {
        bytes.clear();
        frame::encode(&message, &mut bytes)?;
        send.write_all(&bytes).await.map_err(|error| lost(&error))?;
    }
    send.finish().map_err(|error| lost(&error))?;
    // The last message, often a refusal, should arrive before the connection is closed.
    drop(tokio::time::timeout(Duration::from_secs(1), send.stopped()).await);
    Ok(())
}

async fn read_messages(
    receive: &mut RecvStream,
    connection: ConnectionId,
    events: &mpsc::Sender<LinkEvent>,
) -> Result<(), LinkError> {
    let mut decoder = FrameDecoder::default();
    loop {
        let chunk = receive.read_chunk(READ_BYTES, true).await.map_err(|error| LinkError::Lost(error.to_string()))?;
        let Some(chunk) = chunk else {
            return Err(LinkError::Lost("the agent closed the stream".to_owned()));
        };
        decoder.extend(&chunk.bytes);
        while let Some(message) = decoder.take()? {
            if events.send(LinkEvent::Core(Box::new(event(connection, message)?))).await.is_err() {
                return Ok(());
            }
        }
    }
}

fn event(connection: ConnectionId, message: EdgeToHub) -> Result<Event, LinkError> {
    Ok(match message {
        EdgeToHub::Hello(hello) => Event::Hello { connection, hello },
        EdgeToHub::Entry(packed) => Event::Entry { connection, entry: unpack(&packed)? },
        EdgeToHub::Fetch { digest, offset } => Event::Fetch { connection, digest, offset },
        EdgeToHub::ModelReport(report) => Event::ModelReport { connection, report },
        EdgeToHub::Status(status) => Event::Status { connection, status },
    })
}

fn unpack(packed: &PackedEntry) -> Result<SpoolEntry, LinkError> {
    Ok(SpoolEntry::decode(&packed.unpack()?)?)
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, LinkError> {
    let error = |problem: String| LinkError::File { path: path.to_owned(), problem };
    let found: Result<Vec<_>, _> =
        CertificateDer::pem_file_iter(path).map_err(|source| error(source.to_string()))?.collect();
    let found = found.map_err(|source| error(source.to_string()))?;
    if found.is_empty() { Err(error("it holds no PEM certificate".to_owned())) } else { Ok(found) }
}

fn transport() -> TransportConfig {
    let mut transport = TransportConfig::default();
    transport
        .max_idle_timeout(Some(IdleTimeout::from(VarInt::from_u32(IDLE_TIMEOUT_MS))))
        .max_concurrent_bidi_streams(VarInt::from_u32(4))
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .receive_window(VarInt::from_u32(RECEIVE_WINDOW))
        .stream_receive_window(VarInt::from_u32(RECEIVE_WINDOW))
        .send_window(SEND_WINDOW)
        .datagram_receive_buffer_size(None);
    transport
}
