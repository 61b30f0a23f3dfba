//! TCP and TLS, for networks that let no UDP through. The same frames, on the one stream there is.

use std::sync::Arc;
use std::time::Duration;

use rustls_pki_types::ServerName;
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::{CONNECT_TIMEOUT, Inbox, LinkError, converse, resolve};
use crate::core::Event;

/// A peer that answers nothing for so long is gone: as long as over QUIC.
const IDLE_TIMEOUT: Duration = Duration::from_secs(60);
/// Time between two probes of a silent connection.
const PROBE: Duration = Duration::from_secs(15);
/// Bytes that the system may hold and has not sent: what is shown live goes behind them, and not behind a full buffer.
#[cfg(target_os = "linux")]
const UNSENT_BYTES: u32 = 64 * 1024;

/// Makes connections.
pub(super) struct Dialler {
    address: String,
    server_name: ServerName<'static>,
    tls: TlsConnector,
}

/// A connection that stands.
pub(super) struct Carrier(Box<TlsStream<TcpStream>>);

impl Dialler {
    pub(super) fn new(address: &str, server_name: &str, tls: rustls::ClientConfig) -> Result<Self, LinkError> {
        let server_name = ServerName::try_from(server_name.to_owned())
            .map_err(|error| LinkError::Connect { address: address.to_owned(), problem: error.to_string() })?;
        Ok(Self { address: address.to_owned(), server_name, tls: TlsConnector::from(Arc::new(tls)) })
    }

    pub(super) async fn connect(&self) -> Result<Carrier, LinkError> {
        let found = resolve(&self.address).await?;
        let error = |problem: String| LinkError::Connect { address: self.address.clone(), problem };
        let connecting = async {
            let stream = TcpStream::connect(found).await?;
            stream.set_nodelay(true)?;
            let socket = SockRef::from(&stream);
            socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(PROBE).with_interval(PROBE))?;
            #[cfg(target_os = "linux")]
            {
                socket.set_tcp_user_timeout(Some(IDLE_TIMEOUT))?;
                socket.set_tcp_notsent_lowat(UNSENT_BYTES)?;
            }
            self.tls.connect(self.server_name.clone(), stream).await
        };
        let stream = tokio::time::timeout(CONNECT_TIMEOUT, connecting)
            .await
            .map_err(|_| error(format!("no answer over TCP within {} s", CONNECT_TIMEOUT.as_secs())))?
            .map_err(|source| error(source.to_string()))?;
        Ok(Carrier(Box::new(stream)))
    }
}

impl Carrier {
    /// Whether the hub lets the connection stand for a while: it may refuse the box after the handshake.
    pub(super) async fn stands(mut self, time: Duration) -> Result<(), LinkError> {
        // The hub says nothing before it is greeted.
        let heard = tokio::time::timeout(time, self.0.read_u8()).await;
        drop(self.0.shutdown().await);
        match heard {
            Err(_) | Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => Err(LinkError::Lost(error.to_string())),
        }
    }

    pub(super) async fn talk(self, inbox: &mut Inbox, events: &mpsc::Sender<Event>) -> Result<(), LinkError> {
        let (receive, mut send) = tokio::io::split(*self.0);
        let ended = converse(&mut send, receive, &mut inbox.commands, Some(&mut inbox.pictures), events).await;
        // The connection may be broken already.
        drop(send.shutdown().await);
        ended
    }
}
