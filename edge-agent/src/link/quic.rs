//! QUIC.

use std::io::{self, IoSliceMut};
use std::net::{Ipv6Addr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use quinn::congestion::BbrConfig;
use quinn::crypto::rustls::QuicClientConfig;
use quinn::udp::{RecvMeta, Transmit};
use quinn::{
    AsyncUdpSocket, ClientConfig, Connection, ConnectionError, Endpoint, EndpointConfig, IdleTimeout, Runtime,
    TokioRuntime, TransportConfig, UdpPoller, VarInt,
};
use shared::wire::message::EdgeToHub;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tracing::debug;

use super::{CONNECT_TIMEOUT, Inbox, LinkError, converse, resolve, write_message};
use crate::core::Event;

/// The connection is dead after this long without a word.
const IDLE_TIMEOUT_MS: u32 = 60_000;
/// Below the 30 s after which many NATs forget a UDP flow.
const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// Handshakes under way at once at most, and the time between them: few, because when a hub is slow to answer, a whole
/// fleet does this.
const HANDSHAKES: u32 = 3;
const ANOTHER_AFTER: Duration = Duration::from_millis(700);
/// A round trip is taken for so long until it is measured; three of them pass before the first datagrams are sent again.
/// RFC 9002 section 6.2.2 says 333 ms; less brings a handshake through loss sooner, and costs slow links a few datagrams.
const INITIAL_ROUND_TRIP: Duration = Duration::from_millis(100);
/// The first datagrams of a connection are sent twice, as many as carry the handshake, the greeting and the first entries:
/// each that is lost holds the connection up for a second or more, and a box with a bad link connects often.
const SENT_TWICE: u32 = 16;
/// Above the stream that carries the backlog, which has 0.
const LIVE_PRIORITY: i32 = 1;
/// How long a connection's end may take.
const GOODBYE: Duration = Duration::from_millis(500);
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
    pub(super) fn new(address: &str, server_name: &str, tls: rustls::ClientConfig) -> Result<Self, LinkError> {
        let quic = QuicClientConfig::try_from(tls)
            .map_err(|error| LinkError::Connect { address: address.to_owned(), problem: error.to_string() })?;
        let mut client = ClientConfig::new(Arc::new(quic));
        client.transport_config(Arc::new(transport()));
        Ok(Self { address: address.to_owned(), server_name: server_name.to_owned(), client })
    }

    /// The first of up to [`HANDSHAKES`] to come about. Over a lossy link one handshake may wait seconds for datagrams to be
    /// sent again, and a second one begun meanwhile overtakes it.
    pub(super) async fn connect(&self) -> Result<Carrier, LinkError> {
        let found = resolve(&self.address).await?;
        let mut handshakes = JoinSet::new();
        let mut begun = 0;
        let mut another = tokio::time::interval(ANOTHER_AFTER);
        let mut failure = None;
        loop {
            tokio::select! {
                biased;
                Some(ended) = handshakes.join_next(), if !handshakes.is_empty() => match ended {
                    Ok(Ok(carrier)) => return Ok(carrier),
                    Ok(Err(error)) => failure = Some(error),
                    Err(error) => failure = Some(LinkError::Lost(error.to_string())),
                },
                _ = another.tick(), if begun < HANDSHAKES => {
                    begun += 1;
                    handshakes.spawn(handshake(self.client.clone(), found, self.address.clone(), self.server_name.clone()));
                }
            }
            // What fails at once is refused, and so would the next be.
            if let Some(error) = failure.take_if(|_| handshakes.is_empty()) {
                return Err(error);
            }
        }
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

/// A fresh endpoint for each connection: the box's address may have changed since the last one.
async fn handshake(
    client: ClientConfig,
    found: SocketAddr,
    address: String,
    name: String,
) -> Result<Carrier, LinkError> {
    let local = if found.is_ipv4() {
        SocketAddr::from(([0, 0, 0, 0], 0))
    } else {
        SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0))
    };
    let socket = std::net::UdpSocket::bind(local).map_err(LinkError::Socket)?;
    let runtime = Arc::new(TokioRuntime);
    let socket = Arc::new(Insistent::new(runtime.wrap_udp_socket(socket).map_err(LinkError::Socket)?));
    let endpoint = Endpoint::new_with_abstract_socket(EndpointConfig::default(), None, socket, runtime)
        .map_err(LinkError::Socket)?;
    let error = |problem: String| LinkError::Connect { address: address.clone(), problem };
    let connecting = endpoint.connect_with(client, found, &name).map_err(|source| error(source.to_string()))?;
    let connection = tokio::time::timeout(CONNECT_TIMEOUT, connecting)
        .await
        .map_err(|_| error(format!("no answer over UDP within {} s", CONNECT_TIMEOUT.as_secs())))?
        .map_err(|source| error(source.to_string()))?;
    Ok(Carrier { endpoint, connection })
}

impl Carrier {
    /// Whether the hub lets the connection stand for a while: it may refuse the box after the handshake.
    pub(super) async fn stands(self, time: Duration) -> Result<(), LinkError> {
        let ended = tokio::time::timeout(time, self.connection.closed()).await;
        let ended =
            ended.map_or(Ok(()), |error| Err(refusal(&self.connection).unwrap_or(LinkError::Lost(error.to_string()))));
        self.connection.close(VarInt::from_u32(0), b"");
        drop(tokio::time::timeout(GOODBYE, self.endpoint.wait_idle()).await);
        ended
    }

    pub(super) async fn talk(self, inbox: &mut Inbox, events: &mpsc::Sender<Event>) -> Result<(), LinkError> {
        let Inbox { commands, pictures } = inbox;
        let ended = match self.connection.open_bi().await {
            Ok((send, receive)) => tokio::select! {
                ended = converse(send, receive, commands, None, events) => ended,
                Err(error) = show(&self.connection, pictures) => Err(error),
            },
            Err(error) => Err(LinkError::Lost(error.to_string())),
        };
        let ended = ended.map_err(|error| refusal(&self.connection).unwrap_or(error));
        self.connection.close(VarInt::from_u32(0), b"");
        // The good-bye is on its way at once; a hub that is away confirms nothing, and the next connection waits for this.
        drop(tokio::time::timeout(GOODBYE, self.endpoint.wait_idle()).await);
        ended
    }
}

/// That the hub does not believe the box, which TLS 1.3 says only after the handshake.
fn refusal(connection: &Connection) -> Option<LinkError> {
    let Some(ConnectionError::ConnectionClosed(close)) = connection.close_reason() else {
        return None;
    };
    // RFC 9001 section 4.8: 0x100 and the alert of TLS.
    let alert = u64::from(close.error_code).checked_sub(0x100).and_then(|alert| u8::try_from(alert).ok())?;
    let alert = rustls::AlertDescription::from(alert);
    Some(LinkError::Lost(format!("the hub does not take this box's certificate ({alert:?})")))
}

/// The live lane: a stream of its own, opened when there is something to show, whose bytes go before those of the backlog.
async fn show(connection: &Connection, pictures: &mut mpsc::Receiver<EdgeToHub>) -> Result<(), LinkError> {
    let lost = |error: &dyn std::fmt::Display| LinkError::Lost(error.to_string());
    let Some(mut picture) = pictures.recv().await else {
        return Ok(());
    };
    let (mut send, _) = connection.open_bi().await.map_err(|error| lost(&error))?;
    send.set_priority(LIVE_PRIORITY).map_err(|error| lost(&error))?;
    let mut bytes = Vec::new();
    loop {
        write_message(&mut send, &picture, &mut bytes).await?;
        match pictures.recv().await {
            Some(newer) => picture = newer,
            None => return Ok(()),
        }
    }
}

/// A socket that sends its first datagrams twice. QUIC knows copies by their packet numbers (RFC 9000 section 12.3).
#[derive(Debug)]
struct Insistent {
    socket: Arc<dyn AsyncUdpSocket>,
    twice: AtomicU32,
}

impl Insistent {
    fn new(socket: Arc<dyn AsyncUdpSocket>) -> Self {
        Self { socket, twice: AtomicU32::new(SENT_TWICE) }
    }
}

impl AsyncUdpSocket for Insistent {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Arc::clone(&self.socket).create_io_poller()
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        self.socket.try_send(transmit)?;
        if self.twice.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok() {
            // A copy that finds no room is one that is not needed.
            drop(self.socket.try_send(transmit));
        }
        Ok(())
    }

    fn poll_recv(
        &self,
        context: &mut Context<'_>,
        buffers: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        self.socket.poll_recv(context, buffers, meta)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    fn max_transmit_segments(&self) -> usize {
        self.socket.max_transmit_segments()
    }

    fn max_receive_segments(&self) -> usize {
        self.socket.max_receive_segments()
    }

    fn may_fragment(&self) -> bool {
        self.socket.may_fragment()
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
        .initial_rtt(INITIAL_ROUND_TRIP)
        // A loss-based controller takes a radio link's losses for congestion and all but stops: at 30 % it delivers nothing.
        .congestion_controller_factory(Arc::new(BbrConfig::default()))
        // Some drivers of small boxes drop bursts sent with segmentation offload (quinn issues 1128, 2202, 2399).
        .enable_segmentation_offload(false);
    transport
}
