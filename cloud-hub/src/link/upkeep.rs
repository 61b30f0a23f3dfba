//! Boxes that ask whether there is another program for them: requests and answers in turn, until the box has what it wanted.

use std::net::SocketAddr;
use std::time::Duration;

use shared::ids::AgentId;
use shared::wire::frame::{self, FrameHeader, HEADER_BYTES};
use shared::wire::upkeep::{MAX_UPKEEP_REQUEST_BYTES, UpkeepRequest};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::{mpsc, oneshot};
use tracing::debug;

use super::{LinkError, LinkEvent};
use crate::core::identities::BoxCertificate;

/// Time for one request and its answer: a part of a program on a slow link.
const TIMEOUT: Duration = Duration::from_secs(60);
/// Requests of one talk: the largest program in parts, and what is said around it.
const MAX_REQUESTS: u32 = 1_024;

/// Serves one connection, to its end.
pub(super) async fn serve(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    (agent, certificate): (AgentId, BoxCertificate),
    peer: SocketAddr,
    events: &mpsc::Sender<LinkEvent>,
) {
    for _ in 0..MAX_REQUESTS {
        match tokio::time::timeout(TIMEOUT, exchange(&mut stream, &agent, certificate, events)).await {
            Ok(Ok(true)) => {}
            Ok(Ok(false)) => return,
            Ok(Err(error)) => return debug!(%peer, %agent, "failed to {error}"),
            Err(_) => return debug!(%peer, %agent, "a box that asks for programs took too long"),
        }
    }
}

/// Answers one request; gives whether there was one.
async fn exchange(
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
    agent: &AgentId,
    certificate: BoxCertificate,
    events: &mpsc::Sender<LinkEvent>,
) -> Result<bool, LinkError> {
    let lost = |error: std::io::Error| LinkError::Lost(error.to_string());
    let mut header = [0; HEADER_BYTES];
    match stream.read_exact(&mut header).await {
        Ok(_) => {}
        Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => return Ok(false),
        Err(error) => return Err(lost(error)),
    }
    let header = FrameHeader::decode(header)?;
    if header.length > MAX_UPKEEP_REQUEST_BYTES {
        return Err(LinkError::Lost(format!("a request of {} bytes is no question for a program", header.length)));
    }
    let mut body = vec![0; header.length];
    stream.read_exact(&mut body).await.map_err(lost)?;
    let request: UpkeepRequest = header.open(&body)?;
    let (answer, answered) = oneshot::channel();
    let asked = LinkEvent::Upkeep { request, agent: agent.clone(), certificate, answer };
    let stops = || LinkError::Lost("the hub stops".to_owned());
    events.send(asked).await.map_err(|_| stops())?;
    let answer = answered.await.map_err(|_| stops())?;
    let mut bytes = Vec::new();
    frame::encode(&answer, &mut bytes)?;
    stream.write_all(&bytes).await.map_err(lost)?;
    stream.flush().await.map_err(lost)?;
    Ok(true)
}
