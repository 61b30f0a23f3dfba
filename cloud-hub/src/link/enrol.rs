//! Boxes that want a certificate: one request and one answer, and the connection ends.

use std::net::SocketAddr;
use std::time::Duration;

use shared::ids::AgentId;
use shared::wire::enrol::{EnrolRequest, MAX_ENROL_BYTES};
use shared::wire::frame::{self, FrameHeader, HEADER_BYTES};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::{mpsc, oneshot};
use tracing::debug;

use super::{LinkError, LinkEvent};
use crate::core::identities::BoxCertificate;

/// Time for all of it: a box on a slow link sends a few hundred bytes.
const TIMEOUT: Duration = Duration::from_secs(20);

/// Serves one connection, to its end.
pub(super) async fn serve(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    shown: Option<(AgentId, BoxCertificate)>,
    peer: SocketAddr,
    events: &mpsc::Sender<LinkEvent>,
) {
    match tokio::time::timeout(TIMEOUT, talk(&mut stream, shown, peer, events)).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => debug!(%peer, "failed to {error}"),
        Err(_) => debug!(%peer, "a box that wants a certificate took too long"),
    }
}

async fn talk(
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
    shown: Option<(AgentId, BoxCertificate)>,
    peer: SocketAddr,
    events: &mpsc::Sender<LinkEvent>,
) -> Result<(), LinkError> {
    let lost = |error: std::io::Error| LinkError::Lost(error.to_string());
    let mut header = [0; HEADER_BYTES];
    stream.read_exact(&mut header).await.map_err(lost)?;
    let header = FrameHeader::decode(header)?;
    if header.length > MAX_ENROL_BYTES {
        return Err(LinkError::Lost(format!("a request of {} bytes is no request for a certificate", header.length)));
    }
    let mut body = vec![0; header.length];
    stream.read_exact(&mut body).await.map_err(lost)?;
    let request: EnrolRequest = header.open(&body)?;
    let (answer, answered) = oneshot::channel();
    let asked = LinkEvent::Enrol { request, shown, peer, answer };
    let stops = || LinkError::Lost("the hub stops".to_owned());
    events.send(asked).await.map_err(|_| stops())?;
    let answer = answered.await.map_err(|_| stops())?;
    let mut bytes = Vec::new();
    frame::encode(&answer, &mut bytes)?;
    stream.write_all(&bytes).await.map_err(lost)?;
    stream.flush().await.map_err(lost)?;
    stream.shutdown().await.map_err(lost)
}
