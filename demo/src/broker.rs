//! An MQTT broker inside the process, so that the demo needs nothing installed. Production uses a broker of its own.

use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use rumqttd::{Broker, Config, ConnectionSettings, RouterConfig, ServerSettings};

/// Readings the broker keeps for a client that lags, in segments; the publisher never runs that far ahead.
const SEGMENT_BYTES: usize = 100 * 1024 * 1024;
const SEGMENTS: usize = 10;
/// Clients: a fleet's agents, the plant, the observer, and a few to look on.
const MAX_CONNECTIONS: usize = 600;
/// Messages one client may have unacknowledged.
const MAX_IN_FLIGHT: usize = 1_000;
const MAX_PAYLOAD_BYTES: usize = 256 * 1024;
/// Time the broker has to open its port.
const START_ATTEMPTS: u32 = 100;
const START_PAUSE: Duration = Duration::from_millis(20);

/// Why there is no broker.
#[derive(Debug, thiserror::Error)]
pub enum BrokerError {
    /// No free port.
    #[error("find a free port for the broker: {0}")]
    Port(std::io::Error),
    /// No thread.
    #[error("start the broker's thread: {0}")]
    Thread(std::io::Error),
    /// It does not answer.
    #[error("start the broker: it does not answer on {0}")]
    Silent(SocketAddr),
}

/// Starts a broker on a free loopback port. It runs until the process ends: rumqttd has no way to stop.
///
/// # Errors
/// If it does not come up.
pub fn start() -> Result<SocketAddr, BrokerError> {
    let address = free_port().map_err(BrokerError::Port)?;
    let mut broker = Broker::new(config(address));
    thread::Builder::new()
        .name("broker".into())
        .spawn(move || {
            if let Err(error) = broker.start() {
                tracing::error!("the broker ended: {error}");
            }
        })
        .map_err(BrokerError::Thread)?;
    for _ in 0..START_ATTEMPTS {
        if TcpStream::connect(address).is_ok() {
            return Ok(address);
        }
        #[expect(clippy::disallowed_methods, reason = "rumqttd does not say when it is ready")]
        thread::sleep(START_PAUSE);
    }
    Err(BrokerError::Silent(address))
}

/// A loopback address that was free a moment ago.
///
/// # Errors
/// If the system has none.
pub fn free_port() -> std::io::Result<SocketAddr> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()
}

fn config(listen: SocketAddr) -> Config {
    let server = ServerSettings {
        name: "demo".to_owned(),
        listen,
        tls: None,
        next_connection_delay_ms: 1,
        connections: ConnectionSettings {
            connection_timeout_ms: 10_000,
            max_payload_size: MAX_PAYLOAD_BYTES,
            max_inflight_count: MAX_IN_FLIGHT,
            auth: None,
            external_auth: None,
            dynamic_filters: true,
        },
    };
    Config {
        router: RouterConfig {
            max_connections: MAX_CONNECTIONS,
            max_outgoing_packet_count: 10_000,
            max_segment_size: SEGMENT_BYTES,
            max_segment_count: SEGMENTS,
            ..RouterConfig::default()
        },
        v5: Some([("demo".to_owned(), server)].into_iter().collect()),
        ..Config::default()
    }
}
