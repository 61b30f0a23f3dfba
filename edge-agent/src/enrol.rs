//! The talk in which a box gets its certificate: one request and one answer, over TLS on the hub's TCP port.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use rustls_pki_types::ServerName;
use shared::enrolment::EnrolmentToken;
use shared::ids::AgentId;
use shared::wire::enrol::{ENROL_ALPN, EnrolAnswer, EnrolRequest, IssuedIdentity, MAX_ENROL_BYTES, Refusal};
use shared::wire::frame::{self, FrameError, FrameHeader, HEADER_BYTES};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tracing::warn;

use crate::clock::WallClock;
use crate::credentials::{Credentials, CredentialsError};
use crate::identity::{BoxKey, Enrolment, Held, IdentityError, IdentityFolder};

/// Time for one talk.
const TIMEOUT: Duration = Duration::from_secs(20);

/// Why a box did not get what it asked for.
#[derive(Debug, thiserror::Error)]
pub enum EnrolError {
    /// No hub of those that are known answers.
    #[error("reach the hub at {address}: {problem}")]
    Reach {
        /// Its address.
        address: String,
        /// What is wrong.
        problem: String,
    },
    /// The hub does not prove who it is, or does not believe the box.
    #[error("trust the hub at {address}: {problem}")]
    Trust {
        /// Its address.
        address: String,
        /// What is wrong.
        problem: String,
    },
    /// The hub said no.
    #[error("get a certificate: the hub refused: {reason}")]
    Refused {
        /// Why, for programs.
        code: Refusal,
        /// Why, in words.
        reason: String,
    },
    /// The hub said something else.
    #[error("understand the hub: {0}")]
    Frame(#[from] FrameError),
    /// The hub answered what it was not asked.
    #[error("understand the hub: it answered something else")]
    Odd,
    /// The box's own folder.
    #[error("{0}")]
    Identity(#[from] IdentityError),
    /// The box's certificates.
    #[error("{0}")]
    Credentials(#[from] CredentialsError),
}

/// Enrols a box: makes its key, shows the token, and keeps what it is given. `name` is how the box calls itself, if the token
/// does not settle it.
///
/// # Errors
/// If no hub is reached, it is another one, or it refuses. Then nothing has changed, and the same token works again unless the
/// hub says otherwise.
pub async fn enrol(
    token: &EnrolmentToken,
    name: Option<&AgentId>,
    folder: &IdentityFolder,
    wall: &WallClock,
) -> Result<(Enrolment, Held), EnrolError> {
    let name = token.agent.as_ref().or(name);
    let key = folder.enrolling_key()?;
    let csr = key.request(name)?;
    let request = EnrolRequest::Enrol { secret: token.secret.clone(), name: name.cloned(), csr };
    let credentials = Arc::new(Credentials::pinned(token.authority, wall.clone()));
    let (issued, address) = match ask_any(&token.hubs, &token.server_name, &credentials, &request).await? {
        (EnrolAnswer::Issued(issued), address) => (issued, address),
        (EnrolAnswer::Confirmed { .. } | EnrolAnswer::Refused { .. }, _) => return Err(EnrolError::Odd),
    };
    wall.hear(issued.time_ms);
    let held = key.hold(&issued);
    // The one that answered is the best.
    let others = token.hubs.iter().filter(|hub| **hub != address).cloned();
    let hubs = [address.clone()].into_iter().chain(others).collect();
    let enrolment = Enrolment { agent: issued.agent, hubs, server_name: token.server_name.clone() };
    folder.enrolled(&enrolment, &held, &issued.authorities)?;
    Ok((enrolment, held))
}

/// Gets another certificate for a new key, has it confirmed, and uses it from then on. What was in use before stays so if anything
/// goes wrong on the way.
///
/// # Errors
/// If no hub is reached or it refuses.
pub async fn renew(
    enrolment: &Enrolment,
    folder: &IdentityFolder,
    credentials: &Arc<Credentials>,
    wall: &WallClock,
) -> Result<Held, EnrolError> {
    let key = BoxKey::new()?;
    let request = EnrolRequest::Renew { csr: key.request(Some(&enrolment.agent))? };
    let issued: IssuedIdentity = match ask_any(&enrolment.hubs, &enrolment.server_name, credentials, &request).await? {
        (EnrolAnswer::Issued(issued), _) => issued,
        (EnrolAnswer::Confirmed { .. } | EnrolAnswer::Refused { .. }, _) => return Err(EnrolError::Odd),
    };
    wall.hear(issued.time_ms);
    folder.keep_next(&key.hold(&issued), &issued.authorities)?;
    settle(enrolment, folder, credentials, wall).await?.ok_or(EnrolError::Odd)
}

/// Has a certificate confirmed that was issued and not confirmed, if there is one: perhaps by the program that ran before.
///
/// # Errors
/// If no hub is reached.
pub async fn settle(
    enrolment: &Enrolment,
    folder: &IdentityFolder,
    credentials: &Arc<Credentials>,
    wall: &WallClock,
) -> Result<Option<Held>, EnrolError> {
    let Some(next) = folder.next()? else {
        return Ok(None);
    };
    let shown = Arc::new(Credentials::held(&next, &folder.authorities()?, wall.clone())?);
    match ask_any(&enrolment.hubs, &enrolment.server_name, &shown, &EnrolRequest::Confirm).await {
        Ok((EnrolAnswer::Confirmed { time_ms }, _)) => {
            wall.hear(time_ms);
            folder.promote_next()?;
            credentials.replace(&next, &folder.authorities()?)?;
            Ok(Some(next))
        }
        Ok((EnrolAnswer::Issued(_) | EnrolAnswer::Refused { .. }, _)) => Err(EnrolError::Odd),
        Err(error @ EnrolError::Refused { .. }) => {
            warn!("failed to {error}; the box goes on with the certificate before");
            folder.discard_next()?;
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// Asks the first hub that answers. A refusal is an answer.
async fn ask_any(
    hubs: &[String],
    server_name: &str,
    credentials: &Arc<Credentials>,
    request: &EnrolRequest,
) -> Result<(EnrolAnswer, String), EnrolError> {
    let mut trouble = EnrolError::Odd;
    for address in hubs {
        let asked = tokio::time::timeout(TIMEOUT, ask(address, server_name, credentials, request)).await;
        let took_too_long = || EnrolError::Reach {
            address: address.clone(),
            problem: format!("no answer within {} s", TIMEOUT.as_secs()),
        };
        match asked.unwrap_or_else(|_| Err(took_too_long())) {
            Ok(EnrolAnswer::Refused { code, reason, .. }) => return Err(EnrolError::Refused { code, reason }),
            Ok(answer) => return Ok((answer, address.clone())),
            Err(error) => trouble = error,
        }
    }
    Err(trouble)
}

async fn ask(
    address: &str,
    server_name: &str,
    credentials: &Arc<Credentials>,
    request: &EnrolRequest,
) -> Result<EnrolAnswer, EnrolError> {
    let reach = |error: io::Error| EnrolError::Reach { address: address.to_owned(), problem: error.to_string() };
    let trust = |problem: String| EnrolError::Trust { address: address.to_owned(), problem };
    let name = ServerName::try_from(server_name.to_owned()).map_err(|error| trust(error.to_string()))?;
    let tls = TlsConnector::from(Arc::new(credentials.client(ENROL_ALPN)?));
    let stream = TcpStream::connect(address).await.map_err(reach)?;
    let mut stream = tls.connect(name, stream).await.map_err(|error| trust(error.to_string()))?;
    let mut bytes = Vec::new();
    frame::encode(request, &mut bytes)?;
    stream.write_all(&bytes).await.map_err(reach)?;
    stream.flush().await.map_err(reach)?;
    // A hub that does not believe the certificate says so when it is first read from.
    let refused = |error: io::Error| match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
        Some(rustls::Error::AlertReceived(_)) => trust(format!("it does not take this box's certificate: {error}")),
        Some(_) | None => reach(error),
    };
    let mut header = [0; HEADER_BYTES];
    stream.read_exact(&mut header).await.map_err(refused)?;
    let header = FrameHeader::decode(header)?;
    if header.length > MAX_ENROL_BYTES {
        return Err(EnrolError::Odd);
    }
    let mut body = vec![0; header.length];
    stream.read_exact(&mut body).await.map_err(reach)?;
    // All that matters was read.
    stream.shutdown().await.ok();
    Ok(header.open(&body)?)
}
