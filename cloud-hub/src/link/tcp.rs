//! TCP and TLS, for agents whose network lets no UDP through.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::{LinkError, OPEN_TIMEOUT, Served, identify};

/// Handshakes under way; others wait in the system's queue. A handshake costs a signature.
const HANDSHAKES: usize = 64;
/// Time before accepting is tried again where the system has no more files to give.
const PAUSE: std::time::Duration = std::time::Duration::from_millis(100);

/// Listens.
pub(super) struct Listener {
    listener: std::net::TcpListener,
    tls: TlsAcceptor,
}

impl Listener {
    pub(super) fn bind(address: SocketAddr, tls: rustls::ServerConfig) -> Result<Self, LinkError> {
        let listen = || {
            let listener = std::net::TcpListener::bind(address)?;
            listener.set_nonblocking(true)?;
            Ok(listener)
        };
        let listener = listen().map_err(|source| LinkError::Listen { address, source })?;
        Ok(Self { listener, tls: TlsAcceptor::from(Arc::new(tls)) })
    }

    pub(super) async fn run(self, served: Served, shutdown: &CancellationToken) {
        let listener = match TcpListener::from_std(self.listener) {
            Ok(listener) => listener,
            Err(error) => {
                warn!("failed to listen for agents over TCP: {error}");
                return;
            }
        };
        let handshakes = Arc::new(Semaphore::new(HANDSHAKES));
        let mut tasks = JoinSet::new();
        loop {
            tokio::select! {
                () = shutdown.cancelled() => break,
                Some(_) = tasks.join_next(), if !tasks.is_empty() => {}
                accepted = listener.accept(), if handshakes.available_permits() > 0 => match accepted {
                    Ok((stream, peer)) => {
                        tasks.spawn(serve(stream, peer, self.tls.clone(), Arc::clone(&handshakes), served.clone()));
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
async fn serve(stream: TcpStream, peer: SocketAddr, tls: TlsAcceptor, handshakes: Arc<Semaphore>, served: Served) {
    let handshake = async {
        let _permit = handshakes.acquire().await.map_err(std::io::Error::other)?;
        stream.set_nodelay(true)?;
        tls.accept(stream).await
    };
    let stream = match tokio::time::timeout(OPEN_TIMEOUT, handshake).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return debug!(%peer, "a handshake failed: {error}"),
        Err(_) => return debug!(%peer, "a handshake took too long"),
    };
    match identify(stream.get_ref().1.peer_certificates().unwrap_or_default()) {
        Ok(agent) => {
            let (mut receive, mut send) = tokio::io::split(stream);
            served.serve(agent, peer, &mut send, &mut receive, async |_| std::future::pending().await).await;
        }
        Err(error) => warn!(%peer, "failed to {error}"),
    }
}
