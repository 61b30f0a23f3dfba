//! TCP and TLS, for agents whose network lets no UDP through.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use rustls::server::Acceptor;
use shared::wire::enrol::ENROL_ALPN;
use shared::wire::upkeep::UPKEEP_ALPN;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_rustls::LazyConfigAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::{LinkError, OPEN_TIMEOUT, Served, enrol, identify, upkeep};
use crate::identity;

/// Handshakes under way; others wait in the system's queue. A handshake costs a signature.
const HANDSHAKES: usize = 64;
/// Time before accepting is tried again where the system has no more files to give.
const PAUSE: std::time::Duration = std::time::Duration::from_millis(100);

/// Listens.
pub(super) struct Listener {
    listener: std::net::TcpListener,
    tls: Handshakes,
}

/// How connections are secured: as agents, or as boxes that want a certificate.
#[derive(Clone)]
struct Handshakes {
    link: Arc<rustls::ServerConfig>,
    enrolment: Option<Arc<rustls::ServerConfig>>,
    under_way: Arc<Semaphore>,
}

impl Listener {
    pub(super) fn bind(
        address: SocketAddr,
        link: rustls::ServerConfig,
        enrolment: Option<rustls::ServerConfig>,
    ) -> Result<Self, LinkError> {
        let listen = || {
            let listener = std::net::TcpListener::bind(address)?;
            listener.set_nonblocking(true)?;
            Ok(listener)
        };
        let listener = listen().map_err(|source| LinkError::Listen { address, source })?;
        let under_way = Arc::new(Semaphore::new(HANDSHAKES));
        Ok(Self { listener, tls: Handshakes { link: Arc::new(link), enrolment: enrolment.map(Arc::new), under_way } })
    }

    pub(super) async fn run(self, served: Served, shutdown: &CancellationToken) {
        let listener = match TcpListener::from_std(self.listener) {
            Ok(listener) => listener,
            Err(error) => {
                warn!("failed to listen for agents over TCP: {error}");
                return;
            }
        };
        let mut tasks = JoinSet::new();
        loop {
            tokio::select! {
                () = shutdown.cancelled() => break,
                Some(_) = tasks.join_next(), if !tasks.is_empty() => {}
                accepted = listener.accept(), if self.tls.under_way.available_permits() > 0 => match accepted {
                    Ok((stream, peer)) => {
                        tasks.spawn(serve(stream, peer, self.tls.clone(), served.clone()));
                    }
                    Err(error) => {
                        warn!("failed to accept an agent over TCP: {error}");
                        tokio::time::sleep(PAUSE).await;
                    }
                },
            }
        }
        tasks.shutdown().await;
    }
}

/// One connection, from handshake to end.
async fn serve(stream: TcpStream, peer: SocketAddr, tls: Handshakes, served: Served) {
    let stream = match tokio::time::timeout(OPEN_TIMEOUT, tls.shake(stream)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return debug!(%peer, "a handshake failed: {error}"),
        Err(_) => return debug!(%peer, "a handshake took too long"),
    };
    let session = stream.get_ref().1;
    let chain = session.peer_certificates().unwrap_or_default();
    if session.alpn_protocol() == Some(ENROL_ALPN) {
        let shown = chain.first().map(|certificate| identity::who_asks(certificate)).transpose();
        match shown {
            Ok(shown) => enrol::serve(stream, shown, peer, &served.events).await,
            Err(error) => warn!(%peer, "failed to {error}"),
        }
        return;
    }
    let asks_for_programs = session.alpn_protocol() == Some(UPKEEP_ALPN);
    match identify(chain) {
        Ok(shown) if asks_for_programs => upkeep::serve(stream, shown, peer, &served.events).await,
        Ok(agent) => {
            let (mut receive, mut send) = tokio::io::split(stream);
            served.serve(agent, peer, &mut send, &mut receive, async |_| std::future::pending().await).await;
        }
        Err(error) => warn!(%peer, "failed to {error}"),
    }
}

impl Handshakes {
    async fn shake(self, stream: TcpStream) -> io::Result<TlsStream<TcpStream>> {
        let _permit = self.under_way.acquire().await.map_err(io::Error::other)?;
        stream.set_nodelay(true)?;
        let start = LazyConfigAcceptor::new(Acceptor::default(), stream).await?;
        let enrols = start.client_hello().alpn().is_some_and(|mut names| names.any(|name| name == ENROL_ALPN));
        let config = self.enrolment.filter(|_| enrols).unwrap_or(self.link);
        start.into_stream(config).await
    }
}
