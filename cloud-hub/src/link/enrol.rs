//! Boxes that want a certificate: one request and one answer, and the connection ends.

use std::net::SocketAddr;
use std::time::Duration;

use shared::wire::enrol::MAX_ENROL_BYTES;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc;
use tracing::debug;

use super::{LinkError, LinkEvent, answer_request, read_request};
use crate::identity::Shown;

/// Time for all of it: a box on a slow link sends a few hundred bytes.
const TIMEOUT: Duration = Duration::from_secs(20);

/// Serves one connection, to its end.
pub(super) async fn serve(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    shown: Option<Shown>,
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
    shown: Option<Shown>,
    peer: SocketAddr,
    events: &mpsc::Sender<LinkEvent>,
) -> Result<(), LinkError> {
    let Some(request) = read_request(stream, MAX_ENROL_BYTES).await? else {
        return Ok(());
    };
    answer_request(stream, events, |answer| LinkEvent::Enrol { request, shown, peer, answer }).await?;
    stream.shutdown().await.map_err(|error| LinkError::Lost(error.to_string()))
}
