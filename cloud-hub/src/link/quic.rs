//! QUIC.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use quinn::crypto::rustls::QuicServerConfig;
use quinn::crypto::{CryptoError, HmacKey};
use quinn::{
    Connection, Endpoint, EndpointConfig, IdleTimeout, Incoming, ServerConfig, TokioRuntime, TransportConfig, VarInt,
};
use quinn_proto::HashedConnectionIdGenerator;
use rustls_pki_types::CertificateDer;
use shared::ids::AgentId;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::{IDLE_TIMEOUT, LinkError, OPEN_TIMEOUT, Served, identify, read_pictures};
use crate::core::identities::BoxCertificate;
use crate::identity::IdentityError;

/// Handshakes under way; a fleet that comes back at once waits its turn.
const MAX_INCOMING: usize = 1_024;
/// Above this many open connections an address must prove itself first (QUIC retry).
const RETRY_ABOVE: usize = 256;
/// What one agent can make the hub buffer: a full window of batches is acknowledged long before.
const RECEIVE_WINDOW: u32 = 1024 * 1024;
/// What the hub buffers for an agent that reads slowly.
const SEND_WINDOW: u64 = 512 * 1024;
/// As at the agent: through a lossy link a handshake comes sooner if what was lost is sent again sooner.
const INITIAL_ROUND_TRIP: std::time::Duration = std::time::Duration::from_millis(100);
/// The last message, often a refusal, should arrive before the connection is closed.
const LAST_WORD: std::time::Duration = std::time::Duration::from_secs(1);

/// Listens.
pub(super) struct Listener {
    endpoint: Endpoint,
}

impl Listener {
    /// `secret` is the hub's own and outlives its process.
    pub(super) fn bind(address: SocketAddr, tls: rustls::ServerConfig, secret: &[u8]) -> Result<Self, LinkError> {
        let quic = QuicServerConfig::try_from(tls).map_err(|error| LinkError::Tls(error.to_string()))?;
        let mut server = ServerConfig::with_crypto(Arc::new(quic));
        server.max_incoming(MAX_INCOMING).transport_config(Arc::new(transport()));
        let listen = |source| LinkError::Listen { address, source };
        let socket = std::net::UdpSocket::bind(address).map_err(listen)?;
        let endpoint =
            Endpoint::new(endpoint_config(secret), Some(server), socket, Arc::new(TokioRuntime)).map_err(listen)?;
        Ok(Self { endpoint })
    }

    pub(super) fn local_address(&self) -> io::Result<SocketAddr> {
        self.endpoint.local_addr()
    }

    pub(super) async fn run(self, served: Served, shutdown: &CancellationToken) {
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
                    tasks.spawn(serve(incoming, served.clone()));
                }
            }
        }
        self.endpoint.close(VarInt::from_u32(0), b"the hub stops");
        drop(served);
        while tasks.join_next().await.is_some() {}
        // Handshakes that agents gave up, because another of theirs was faster, count as connections for a minute.
        drop(tokio::time::timeout(LAST_WORD, self.endpoint.wait_idle()).await);
    }
}

/// One connection, from handshake to end.
async fn serve(incoming: Incoming, served: Served) {
    let peer = incoming.remote_address();
    let quic = match incoming.await {
        Ok(quic) => quic,
        Err(error) => {
            debug!(%peer, "a handshake failed: {error}");
            return;
        }
    };
    let agent = match agent(&quic) {
        Ok(agent) => agent,
        Err(error) => {
            warn!(%peer, "failed to {error}");
            quic.close(VarInt::from_u32(1), b"no agent");
            return;
        }
    };
    match tokio::time::timeout(OPEN_TIMEOUT, quic.accept_bi()).await {
        Ok(Ok((mut send, mut receive))) => {
            let live_lane = async |connection| {
                let (_, receive) = quic.accept_bi().await.map_err(|error| LinkError::Lost(error.to_string()))?;
                read_pictures(receive, connection, &served.events).await
            };
            served.serve(agent, peer, &mut send, &mut receive, live_lane).await;
            drop(tokio::time::timeout(LAST_WORD, send.stopped()).await);
        }
        Ok(Err(_)) | Err(_) => debug!(%peer, "no stream was opened"),
    }
    quic.close(VarInt::from_u32(0), b"");
}

fn agent(connection: &Connection) -> Result<(AgentId, BoxCertificate), LinkError> {
    let chain = connection
        .peer_identity()
        .and_then(|identity| identity.downcast::<Vec<CertificateDer<'static>>>().ok())
        .ok_or(IdentityError::NoName)?;
    identify(&chain)
}

/// A hub that was killed and started again knows none of its connections. With the keys it had before it can say so
/// (stateless reset, RFC 9000 section 10.3), and agents connect anew at once instead of waiting for an answer.
fn endpoint_config(secret: &[u8]) -> EndpointConfig {
    let derive = |purpose| blake3::derive_key(purpose, secret);
    let mut config = EndpointConfig::new(Arc::new(ResetKey(derive("tideline hub 2026-11-24 stateless reset"))));
    let mut key = [0; 8];
    key.copy_from_slice(&derive("tideline hub 2026-11-24 connection ids")[..8]);
    let key = u64::from_le_bytes(key);
    config.cid_generator(move || Box::new(HashedConnectionIdGenerator::from_key(key)));
    config
}

/// Signs reset tokens.
struct ResetKey([u8; blake3::KEY_LEN]);

impl HmacKey for ResetKey {
    fn sign(&self, data: &[u8], signature: &mut [u8]) {
        signature.copy_from_slice(blake3::keyed_hash(&self.0, data).as_bytes());
    }

    fn signature_len(&self) -> usize {
        blake3::OUT_LEN
    }

    fn verify(&self, data: &[u8], signature: &[u8]) -> Result<(), CryptoError> {
        // Hashes compare in constant time.
        if blake3::keyed_hash(&self.0, data) == *signature { Ok(()) } else { Err(CryptoError) }
    }
}

fn transport() -> TransportConfig {
    let mut transport = TransportConfig::default();
    let idle = VarInt::from_u32(IDLE_TIMEOUT.as_millis() as u32);
    transport
        .max_idle_timeout(Some(IdleTimeout::from(idle)))
        .max_concurrent_bidi_streams(VarInt::from_u32(4))
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .receive_window(VarInt::from_u32(RECEIVE_WINDOW))
        .stream_receive_window(VarInt::from_u32(RECEIVE_WINDOW))
        .send_window(SEND_WINDOW)
        .initial_rtt(INITIAL_ROUND_TRIP)
        .datagram_receive_buffer_size(None);
    transport
}
