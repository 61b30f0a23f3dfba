//! QUIC.

use std::net::{Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use quinn::crypto::rustls::QuicClientConfig;
use quinn::{ClientConfig, Connection, Endpoint, IdleTimeout, TransportConfig, VarInt};
use tokio::sync::mpsc;
use tracing::debug;

use super::{CONNECT_TIMEOUT, Command, LinkError, converse, resolve};
use crate::config::Hub;
use crate::core::Event;

/// The connection is dead after this long without a word.
const IDLE_TIMEOUT_MS: u32 = 60_000;
/// Below the 30 s after which many NATs forget a UDP flow.
const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// Windows for what the hub may send: one model chunk at a time and small messages.
const RECEIVE_WINDOW: u32 = 1024 * 1024;
/// The first wait before it is tried to get back to QUIC from TCP. It doubles: the hub may only have been slow to start.
const FIRST_TRY: Duration = Duration::from_secs(15);
/// The longest: a blocked network stays blocked for long, and a try is a few datagrams.
const LONGEST_WAIT: Duration = Duration::from_secs(300);

/// Makes connections.
pub(super) struct Dialler {
    address: String,
    server_name: String,
    client: ClientConfig,
}

/// A connection that stands.
pub(super) struct Carrier {
    endpoint: Endpoint,
    connection: Connection,
}

impl Dialler {
    pub(super) fn new(hub: &Hub, tls: rustls::ClientConfig) -> Result<Self, LinkError> {
        let quic = QuicClientConfig::try_from(tls)
            .map_err(|error| LinkError::Connect { address: hub.address.clone(), problem: error.to_string() })?;
        let mut client = ClientConfig::new(Arc::new(quic));
        client.transport_config(Arc::new(transport()));
        Ok(Self { address: hub.address.clone(), server_name: hub.server_name.clone(), client })
    }

    /// A fresh endpoint for each connection: the box's address may have changed since the last one.
    pub(super) async fn connect(&self) -> Result<Carrier, LinkError> {
        let found = resolve(&self.address).await?;
        let local = if found.is_ipv4() {
            SocketAddr::from(([0, 0, 0, 0], 0))
        } else {
            SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0))
        };
        let endpoint = Endpoint::client(local).map_err(LinkError::Socket)?;
        let error = |problem: String| LinkError::Connect { address: self.address.clone(), problem };
        let connecting = endpoint
            .connect_with(self.client.clone(), found, &self.server_name)
            .map_err(|source| error(source.to_string()))?;
        let connection = tokio::time::timeout(CONNECT_TIMEOUT, connecting)
            .await
            .map_err(|_| error(format!("no answer over UDP within {} s", CONNECT_TIMEOUT.as_secs())))?
            .map_err(|source| error(source.to_string()))?;
        Ok(Carrier { endpoint, connection })
    }

    /// Tries until a connection stands.
    pub(super) async fn keep_trying(&self) -> Carrier {
        let mut wait = FIRST_TRY;
        loop {
            tokio::time::sleep(wait).await;
            match self.connect().await {
                Ok(carrier) => return carrier,
                Err(error) => debug!("still no QUIC: failed to {error}"),
            }
            wait = (2 * wait).min(LONGEST_WAIT);
        }
    }
}

impl Carrier {
    pub(super) async fn talk(
        self,
        commands: &mut mpsc::Receiver<Command>,
        events: &mpsc::Sender<Event>,
    ) -> Result<(), LinkError> {
        let ended = match self.connection.open_bi().await {
            Ok((send, receive)) => converse(send, receive, commands, events).await,
            Err(error) => Err(LinkError::Lost(error.to_string())),
        };
        self.connection.close(VarInt::from_u32(0), b"");
        self.endpoint.wait_idle().await;
        ended
    }
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
