//! The link's shell: a QUIC connection with mutual TLS that carries frames. It decides nothing.

use std::fs::File;
use std::io::{self, BufReader};
use std::net::{Ipv6Addr, SocketAddr, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use quinn::crypto::rustls::QuicClientConfig;
use quinn::{ClientConfig, Connection, Endpoint, IdleTimeout, RecvStream, SendStream, TransportConfig, VarInt};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use shared::wire::frame::{self, FrameDecoder, FrameError};
use shared::wire::message::EdgeToHub;
use shared::wire::{ALPN, PROTOCOL_VERSION};
use tokio::sync::mpsc;
use tracing::{info, warn};

use crate::config::Hub;
use crate::core::Event;

/// Commands that may wait: a full window of batches, and fetches and reports beside it.
const COMMANDS: usize = 64;
/// The connection is dead after this long without a word.
const IDLE_TIMEOUT_MS: u32 = 60_000;
/// Below the 30 s after which many NATs forget a UDP flow.
const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// Connecting takes a few round trips; a hub that needs longer is away.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Bytes taken from the connection at once.
const READ_BYTES: usize = 64 * 1024;
/// Windows for what the hub may send: one model chunk at a time and small messages.
const RECEIVE_WINDOW: u32 = 1024 * 1024;

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

/// Why the link cannot be set up or broke.
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
    /// The certificates do not make an identity.
    #[error("use the certificate: {0}")]
    Tls(#[from] rustls::Error),
    /// No UDP socket can be had.
    #[error("open a UDP socket: {0}")]
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
    hub: Hub,
    client: ClientConfig,
}

impl Link {
    /// Reads certificates and key.
    ///
    /// # Errors
    /// If a file is missing or not what it should be.
    pub fn new(hub: Hub) -> Result<Self, LinkError> {
        let mut roots = rustls::RootCertStore::empty();
        for certificate in certificates(&hub.ca_file)? {
            roots.add(certificate)?;
        }
        let key = PrivateKeyDer::from_pem_file(&hub.key_file)
            .map_err(|error| LinkError::File { path: hub.key_file.clone(), problem: error.to_string() })?;
        let mut tls = rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_root_certificates(roots)
            .with_client_auth_cert(certificates(&hub.certificate_file)?, key)?;
        tls.alpn_protocols = vec![ALPN.to_vec()];
        // Resumption would skip the check of certificates, and 0-RTT could be replayed.
        tls.resumption = rustls::client::Resumption::disabled();
        tls.enable_early_data = false;
        let quic = QuicClientConfig::try_from(tls)
            .map_err(|error| LinkError::Connect { address: hub.address.clone(), problem: error.to_string() })?;
        let mut client = ClientConfig::new(Arc::new(quic));
        client.transport_config(Arc::new(transport()));
        Ok(Self { hub, client })
    }

    /// Runs the link until the sender of commands is dropped.
    pub async fn run(self, mut commands: mpsc::Receiver<Command>, events: mpsc::Sender<Event>) {
        while let Some(command) = commands.recv().await {
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
                        Ok((endpoint, connection)) => {
                            info!(hub = %self.hub.address, protocol = PROTOCOL_VERSION, "connected to the hub over QUIC");
                            if let Err(error) = talk(&connection, &mut commands, &events).await {
                                warn!("failed to {error}");
                            }
                            connection.close(VarInt::from_u32(0), b"");
                            endpoint.wait_idle().await;
                        }
                    }
                    if events.send(Event::LinkDown).await.is_err() {
                        return;
                    }
                }
            }
        }
    }

    /// A fresh endpoint for each connection: the box's address may have changed since the last one.
    async fn connect(&self) -> Result<(Endpoint, Connection), LinkError> {
        let address = self.hub.address.clone();
        let resolve_error = |problem: String| LinkError::Resolve { address: self.hub.address.clone(), problem };
        let found = tokio::task::spawn_blocking(move || address.to_socket_addrs().map(|mut found| found.next()))
            .await
            .map_err(|error| resolve_error(error.to_string()))?
            .map_err(|error| resolve_error(error.to_string()))?
            .ok_or_else(|| resolve_error("the name has no address".to_owned()))?;
        let local = if found.is_ipv4() {
            SocketAddr::from(([0, 0, 0, 0], 0))
        } else {
            SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0))
        };
        let endpoint = Endpoint::client(local).map_err(LinkError::Socket)?;
        let connect_error = |problem: String| LinkError::Connect { address: self.hub.address.clone(), problem };
        let connecting = endpoint
            .connect_with(self.client.clone(), found, &self.hub.server_name)
            .map_err(|error| connect_error(error.to_string()))?;
        let connection = tokio::time::timeout(CONNECT_TIMEOUT, connecting)
            .await
            .map_err(|_| connect_error(format!("no answer within {} s", CONNECT_TIMEOUT.as_secs())))?
            .map_err(|error| connect_error(error.to_string()))?;
        Ok((endpoint, connection))
    }
}

/// The sender of commands that [`Link::run`] takes them from.
#[must_use]
pub fn channel() -> (mpsc::Sender<Command>, mpsc::Receiver<Command>) {
    mpsc::channel(COMMANDS)
}

/// Carries messages both ways until one side ends it.
async fn talk(
    connection: &Connection,
    commands: &mut mpsc::Receiver<Command>,
    events: &mpsc::Sender<Event>,
) -> Result<(), LinkError> {
    let lost = |error: &dyn std::fmt::Display| LinkError::Lost(error.to_string());
    let (mut send, mut receive) = connection.open_bi().await.map_err(|error| lost(&error))?;
    if events.send(Event::LinkUp).await.is_err() {
        return Ok(());
    }
    tokio::select! {
        written = write_messages(&mut send, commands) => written,
        read = read_messages(&mut receive, events) => read,
    }
}

async fn write_messages(send: &mut SendStream, commands: &mut mpsc::Receiver<Command>) -> Result<(), LinkError> {
    let mut bytes = Vec::new();
    while let Some(command) = commands.recv().await {
        match command {
            Command::Dial => {}
            Command::Hangup => return Ok(()),
            Command::Send(message) => {
                bytes.clear();
                frame::encode(&*message, &mut bytes)?;
                send.write_all(&bytes).await.map_err(|error| LinkError::Lost(error.to_string()))?;
            }
        }
    }
    Ok(())
}

async fn read_messages(receive: &mut RecvStream, events: &mpsc::Sender<Event>) -> Result<(), LinkError> {
    let mut decoder = FrameDecoder::default();
    loop {
        let chunk = receive.read_chunk(READ_BYTES, true).await.map_err(|error| LinkError::Lost(error.to_string()))?;
        let Some(chunk) = chunk else {
            return Err(LinkError::Lost("the hub closed the stream".to_owned()));
        };
        decoder.extend(&chunk.bytes);
        while let Some(message) = decoder.take()? {
            if events.send(Event::FromHub(message)).await.is_err() {
                return Ok(());
            }
        }
    }
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, LinkError> {
    let error = |problem: String| LinkError::File { path: path.to_owned(), problem };
    let file = File::open(path).map_err(|source| error(source.to_string()))?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_reader_iter(BufReader::new(file)).collect();
    let found = found.map_err(|source| error(source.to_string()))?;
    if found.is_empty() { Err(error("it holds no PEM certificate".to_owned())) } else { Ok(found) }
}

fn transport() -> TransportConfig {
    let mut transport = TransportConfig::default();
    transport
        .max_idle_timeout(Some(IdleTimeout::from(VarInt::from_u32(IDLE_TIMEOUT_MS))))
        .keep_alive_interval(Some(KEEP_ALIVE))
        .max_concurrent_bidi_streams(VarInt::from_u32(0))
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .receive_window(VarInt::from_u32(RECEIVE_WINDOW))
        .stream_receive_window(VarInt::from_u32(RECEIVE_WINDOW))
        .datagram_receive_buffer_size(None)
        // Some drivers of small boxes drop bursts sent with segmentation offload (quinn issues 1128, 2202, 2399).
        .enable_segmentation_offload(false);
    transport
}
