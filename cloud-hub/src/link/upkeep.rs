//! Boxes that ask whether there is another program for them: requests and answers in turn, until the box has what it wanted.

use std::net::SocketAddr;
use std::time::Duration;

use shared::ids::AgentId;
use shared::wire::upkeep::MAX_UPKEEP_REQUEST_BYTES;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;
use tracing::debug;

use super::{LinkError, LinkEvent, answer_request, read_request};
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
    let Some(request) = read_request(stream, MAX_UPKEEP_REQUEST_BYTES).await? else {
        return Ok(false);
    };
    let asked = |answer| LinkEvent::Upkeep { request, agent: agent.clone(), certificate, answer };
    answer_request(stream, events, asked).await?;
    Ok(true)
}
