//! Listening to a broker for a while, as a guest of whom nothing stays there: for trying a configuration out, for
//! learning what is published, and for looking whether a broker can be reached.

use std::ops::ControlFlow;
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::packets::{Message, Reader};
use super::session::{Arrival, Problem, Session};
use super::{Broker, Network, READ_BYTES, guest};
use crate::clock::Clock;
use crate::config::Mqtt;
use crate::tls::TlsError;

/// Connections that are tried: two that an old broker may close on a version it does not know, one in the older version.
const ATTEMPTS: usize = 3;

/// Why a broker could not be listened to.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// A certificate or key for TLS cannot be used.
    #[error("{0}")]
    Tls(#[from] TlsError),
    /// There is no connection.
    #[error("reach the broker: {0}")]
    Unreachable(String),
    /// The connection did not last.
    #[error("listen to the broker: {0}")]
    Lost(Problem),
}

/// What is heard.
#[derive(Debug)]
pub enum Heard<'a> {
    /// The broker let us in, with this version of MQTT.
    Connected(&'static str),
    /// It does not let us subscribe to so many filters.
    SubscriptionRefused(usize),
    /// It has a message.
    Message(&'a Message),
}

/// Listens to `filters` for as long as `hear` wants and no longer than `time`. Messages are acknowledged as they come;
/// the agent's own session is another, and misses none by it.
///
/// # Errors
/// If there is no connection, or it breaks.
pub async fn listen(
    mqtt: &Mqtt,
    password: Option<String>,
    filters: Vec<String>,
    time: Duration,
    mut hear: impl FnMut(Heard<'_>) -> ControlFlow<()> + Send,
) -> Result<(), ListenError> {
    let broker = Broker::new(mqtt)?;
    let hello = guest(mqtt, format!("{}-guest-{}", mqtt.client_id, std::process::id()), password);
    let mut session = Session::new(hello, filters);
    let listening = async {
        let mut problem = Problem::Closed;
        for _ in 0..ATTEMPTS {
            let network = broker.dial().await.map_err(ListenError::Unreachable)?;
            let ended = converse(network, &mut session, mqtt.max_packet_bytes, &mut hear).await;
            let Err(ended) = ended else { return Ok(()) };
            session.disconnected(&ended);
            problem = ended;
        }
        Err(ListenError::Lost(problem))
    };
    tokio::time::timeout(time, listening).await.unwrap_or(Ok(()))
}

async fn converse(
    mut network: Network,
    session: &mut Session,
    max_packet_bytes: u32,
    hear: &mut (dyn FnMut(Heard<'_>) -> ControlFlow<()> + Send),
) -> Result<(), Problem> {
    let clock = Clock::start();
    let mut reader = Reader::default();
    let mut out = BytesMut::new();
    session.connect(clock.monotonic(), &mut out)?;
    loop {
        while let Some(packet) = reader.next(session.version(), max_packet_bytes)? {
            let heard = match session.receive(clock.monotonic(), packet, &mut out)? {
                Some(Arrival::Connected { .. }) => hear(Heard::Connected(session.version().name())),
                Some(Arrival::SubscriptionRefused(count)) => hear(Heard::SubscriptionRefused(count)),
                Some(Arrival::Message { receipt, message, .. }) => {
                    session.acknowledge(clock.monotonic(), receipt, &mut out);
                    hear(Heard::Message(&message))
                }
                None => ControlFlow::Continue(()),
            };
            if heard.is_break() {
                session.close(clock.monotonic(), &mut out);
                // Who is gone already needs no good-bye.
                drop(network.write_all_buf(&mut out).await);
                return Ok(());
            }
        }
        let now = clock.monotonic();
        session.tick(now, true, &mut out)?;
        network.write_all_buf(&mut out).await.map_err(|_| Problem::Closed)?;
        network.flush().await.map_err(|_| Problem::Closed)?;
        let due = session.poll_timeout().map_or(u64::MAX, |at| at.0.saturating_sub(now.0));
        reader.buffer.reserve(READ_BYTES);
        tokio::select! {
            read = network.read_buf(&mut reader.buffer) => {
                if !read.is_ok_and(|count| count > 0) {
                    return Err(Problem::Closed);
                }
            }
            () = tokio::time::sleep(Duration::from_millis(due)) => {}
        }
    }
}
