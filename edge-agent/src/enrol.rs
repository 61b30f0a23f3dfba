//! The talk in which a box gets its certificate: one request and one answer, over TLS on the hub's TCP port.

use std::sync::Arc;
use std::time::Duration;

use shared::enrolment::{EnrolmentClaim, EnrolmentToken, Invitation};
use shared::ids::AgentId;
use shared::wire::enrol::{ENROL_ALPN, EnrolAnswer, EnrolRequest, IssuedIdentity, MAX_ENROL_BYTES, Refusal};
use tracing::warn;

use crate::clock::WallClock;
use crate::credentials::{Credentials, CredentialsError};
use crate::identity::{BoxKey, Enrolment, Held, IdentityError, IdentityFolder};
use crate::talk::{Talk, TalkError};

/// How often a box that has a claim asks whether somebody has said that it is let in.
const ASK_INTERVAL: Duration = Duration::from_secs(10);

/// How a box calls itself when it comes in.
#[derive(Debug, Clone, Default)]
pub struct Introduction {
    /// Its name, if it is not settled otherwise.
    pub name: Option<AgentId>,
    /// What it is, as [`hardware`](crate::machine::hardware) says it.
    pub hardware: String,
}

/// Why a box did not get what it asked for.
#[derive(Debug, thiserror::Error)]
pub enum EnrolError {
    /// No hub of those that are known answers, or none that proves who it is.
    #[error("{0}")]
    Talk(#[from] TalkError),
    /// The hub said no.
    #[error("get a certificate: the hub refused: {reason}")]
    Refused {
        /// Why, for programs.
        code: Refusal,
        /// Why, in words.
        reason: String,
    },
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

/// Enrols a box: makes its key, shows the token or the claim, and keeps what it is given. A box with a claim asks until somebody has
/// said that it is let in, and `waits` is told once what the hub says meanwhile.
///
/// # Errors
/// If no hub is reached, it is another one, or it refuses. Then nothing has changed, and the same invitation works again unless the
/// hub says otherwise.
pub async fn enrol(
    invitation: &Invitation,
    introduction: Introduction,
    folder: &IdentityFolder,
    wall: &WallClock,
    waits: impl FnOnce(&str),
) -> Result<(Enrolment, Held), EnrolError> {
    let key = folder.enrolling_key()?;
    let ((issued, address), hubs, server_name) = match invitation {
        Invitation::Token(token) => {
            (show(token, introduction.name, &key, wall).await?, &token.hubs, &token.server_name)
        }
        Invitation::Claim(claim) => {
            (ask_to_be_let_in(claim, introduction, &key, wall, waits).await?, &claim.hubs, &claim.server_name)
        }
    };
    wall.hear(issued.time_ms);
    let held = key.hold(&issued);
    // The one that answered is the best.
    let others = hubs.iter().filter(|hub| **hub != address).cloned();
    let hubs = [address.clone()].into_iter().chain(others).collect();
    let enrolment = Enrolment { agent: issued.agent, hubs, server_name: server_name.clone() };
    folder.enrolled(&enrolment, &held, &issued.authorities)?;
    Ok((enrolment, held))
}

/// What was issued, and by the hub at which address.
type IssuedAt = (IssuedIdentity, String);

async fn show(
    token: &EnrolmentToken,
    name: Option<AgentId>,
    key: &BoxKey,
    wall: &WallClock,
) -> Result<IssuedAt, EnrolError> {
    let name = token.agent.clone().or(name);
    let csr = key.request(name.as_ref())?;
    let request = EnrolRequest::Enrol { secret: token.secret.clone(), name, csr };
    let credentials = Arc::new(Credentials::pinned(token.authority, wall.clone()));
    issued(ask_any(&token.hubs, &token.server_name, &credentials, &request).await?)
}

async fn ask_to_be_let_in(
    claim: &EnrolmentClaim,
    introduction: Introduction,
    key: &BoxKey,
    wall: &WallClock,
    waits: impl FnOnce(&str),
) -> Result<IssuedAt, EnrolError> {
    let Introduction { name, hardware } = introduction;
    // Whoever approves may settle another name.
    let request = EnrolRequest::Claim { name, hardware, csr: key.request(None)? };
    let credentials = Arc::new(Credentials::claiming(claim, wall.clone())?);
    let mut waits = Some(waits);
    loop {
        match ask_any(&claim.hubs, &claim.server_name, &credentials, &request).await {
            Ok(answer) => return issued(answer),
            Err(EnrolError::Refused { code: Refusal::Approval, reason }) => {
                if let Some(waits) = waits.take() {
                    waits(&reason);
                }
            }
            // The hub has heard of it, and may be away until somebody approves.
            Err(EnrolError::Talk(_) | EnrolError::Refused { code: Refusal::Unavailable, .. }) if waits.is_none() => {}
            Err(error) => return Err(error),
        }
        tokio::time::sleep(ASK_INTERVAL).await;
    }
}

fn issued((answer, address): (EnrolAnswer, String)) -> Result<IssuedAt, EnrolError> {
    match answer {
        EnrolAnswer::Issued(issued) => Ok((issued, address)),
        EnrolAnswer::Confirmed { .. } | EnrolAnswer::Refused { .. } => Err(EnrolError::Odd),
    }
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
    let (issued, _) = issued(ask_any(&enrolment.hubs, &enrolment.server_name, credentials, &request).await?)?;
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
        match ask(address, server_name, credentials, request).await {
            Ok(EnrolAnswer::Refused { code, reason, .. }) => return Err(EnrolError::Refused { code, reason }),
            Ok(answer) => return Ok((answer, address.clone())),
            Err(error) => trouble = error.into(),
        }
    }
    Err(trouble)
}

async fn ask(
    address: &str,
    server_name: &str,
    credentials: &Arc<Credentials>,
    request: &EnrolRequest,
) -> Result<EnrolAnswer, TalkError> {
    let mut talk = Talk::open(address, server_name, credentials, ENROL_ALPN).await?;
    let answer = talk.ask(request, MAX_ENROL_BYTES).await?;
    talk.close().await;
    Ok(answer)
}
