//! Boxes that are let in, over HTTP: tokens for them, who is in, and who is out.

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use serde::{Deserialize, Serialize};
use shared::enrolment::MAX_TOKEN_HUBS;
use shared::event::UnixMillis;
use shared::ids::{AgentId, Digest};
use utoipa::ToSchema;

use super::error::Problem;
use super::extract::{At, Body, Params};
use super::page::{Page, PageQuery, page};
use super::{Command, Context};
use crate::config::check_address;
use crate::core::access::Principal;
use crate::core::identities::{BoxLabels, EnrolToken, TokenKind};
use crate::view::{EnrolTokenView, IdentityView, Timestamp};

/// Seconds that a token lasts, unless it is said: as long as it takes to walk to a box.
const LIFETIME_S: i64 = 15 * 60;
/// The longest that can be said: boxes that are shipped are on their way for weeks.
const MAX_LIFETIME_S: i64 = 90 * 24 * 3_600;
/// Seconds that a claim lasts, unless it is said: boxes lie in a store until somebody needs one.
const CLAIM_LIFETIME_S: i64 = 365 * 24 * 3_600;
/// The longest that can be said of a claim. The authority's issuer may end before.
const MAX_CLAIM_LIFETIME_S: i64 = 5 * CLAIM_LIFETIME_S;
/// Tokens that are made at once: a pallet of boxes.
const MAX_QUANTITY: u32 = 1_000;
/// Labels of a box.
const MAX_LABELS: usize = 16;
/// Bytes of a label's name or value.
const MAX_LABEL_BYTES: usize = 63;
/// Characters of a reason.
const MAX_REASON_CHARACTERS: usize = 500;

/// Tokens to make, as the hub is asked.
#[derive(Debug)]
pub struct NewEnrolTokens {
    /// What they are good for.
    pub kind: TokenKind,
    /// How many.
    pub quantity: u32,
    /// Milliseconds for which they hold.
    pub lifetime_ms: i64,
    /// The box they are for; nothing: it says its name.
    pub agent: Option<AgentId>,
    /// What the boxes will be labelled with.
    pub labels: BoxLabels,
    /// Where boxes reach the hub; none: where its configuration says.
    pub addresses: Vec<String>,
    /// Who makes them.
    pub by: String,
    /// The host at which whoever asks reaches the hub, if nobody says where boxes do.
    pub host: String,
}

impl NewEnrolTokens {
    /// One of them, but for its secret.
    pub fn token(&self, id: String, now: UnixMillis) -> EnrolToken {
        EnrolToken {
            id,
            kind: self.kind,
            digest: Digest::of(&[]),
            agent: self.agent.clone(),
            labels: self.labels.clone(),
            made_by: self.by.clone(),
            created_ms: now,
            expires_ms: now + self.lifetime_ms,
            used: None,
        }
    }
}

/// Tokens to make. Everything may be left out.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct EnrolTokensBody {
    /// How many; one unless it is said.
    #[schema(minimum = 1, maximum = 1000)]
    #[serde(default, deserialize_with = "super::extract::perhaps_whole")]
    quantity: Option<i64>,
    /// Whether they are claims: any number of boxes may ask with one, and each waits until somebody approves.
    claim: Option<bool>,
    /// How many seconds they hold: 15 minutes unless it is said, at most 90 days; claims a year, at most five.
    #[schema(minimum = 1, maximum = 157_680_000)]
    #[serde(default, deserialize_with = "super::extract::perhaps_whole")]
    expires_in_s: Option<i64>,
    /// The box it is for, which may be one that it takes the place of; without it the box says its name.
    #[schema(min_length = 1, max_length = 64, pattern = "^[A-Za-z0-9._-]+$")]
    agent: Option<String>,
    /// What the boxes will be labelled with.
    #[serde(default)]
    #[schema(value_type = Option<BoxLabels>)]
    labels: Option<BoxLabels>,
    /// Where boxes reach the hub, `host:port`; without them, where its configuration says.
    #[schema(max_items = 8)]
    addresses: Option<Vec<String>>,
}

/// A token that was just made.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct MadeEnrolToken {
    /// What it is called.
    pub id: String,
    /// The token itself: it is shown here and nowhere else.
    pub token: String,
    /// The box it is for; nothing: the box says its name.
    #[schema(value_type = Option<String>)]
    pub agent: Option<AgentId>,
    /// What the box will be labelled with.
    pub labels: BoxLabels,
    /// Where the box looks for the hub.
    pub addresses: Vec<String>,
    /// Until when it holds.
    pub expires: Timestamp,
    /// What to run on the box.
    pub command: String,
}

impl MadeEnrolToken {
    /// Of a token and its text.
    #[must_use]
    pub fn new(token: &EnrolToken, addresses: &[String], text: String) -> Self {
        let expires_ms: UnixMillis = token.expires_ms;
        Self {
            id: token.id.clone(),
            agent: token.agent.clone(),
            labels: token.labels.clone(),
            addresses: addresses.to_vec(),
            expires: Timestamp(expires_ms),
            command: format!("sudo edge-agent enroll --token {text}"),
            token: text,
        }
    }
}

/// Enrolment tokens, without their secrets, by id.
#[utoipa::path(get, path = "/api/v1/enrolment-tokens", tag = "Enrolment", params(PageQuery),
    responses((status = 200, body = Page<EnrolTokenView>)))]
pub(super) async fn tokens(
    State(context): State<Context>,
    Params(PageQuery { limit, cursor }): Params<PageQuery>,
) -> Result<Json<Page<EnrolTokenView>>, Problem> {
    let tokens = context.ask(|answer| Command::ReadEnrolTokens { answer }).await?;
    page(tokens.iter(), |token: &EnrolTokenView| token.id.clone(), limit, cursor.as_deref()).map(Json)
}

/// Makes tokens, each of which lets one box in, once; or claims, with which boxes ask.
#[utoipa::path(post, path = "/api/v1/enrolment-tokens", tag = "Enrolment", request_body = EnrolTokensBody,
    responses((status = 201, body = Page<MadeEnrolToken>)))]
pub(super) async fn make_tokens(
    State(context): State<Context>,
    Extension(who): Extension<Principal>,
    headers: HeaderMap,
    Body(body): Body<EnrolTokensBody>,
) -> Result<Response, Problem> {
    let asked = check(body, who.name, host_of(&headers))?;
    let made = context.ask(|answer| Command::MakeEnrolTokens { asked, answer }).await?;
    let made = made.map_err(|reason| Problem::conflict("enrolment", reason))?;
    Ok((StatusCode::CREATED, Json(Page::whole(made))).into_response())
}

/// What is out of range is no request; a label or an address of the right shape that cannot be used is one that cannot be met.
fn check(body: EnrolTokensBody, by: String, host: String) -> Result<NewEnrolTokens, Problem> {
    let quantity = u32::try_from(body.quantity.unwrap_or(1)).ok().filter(|count| (1..=MAX_QUANTITY).contains(count));
    let quantity = quantity.ok_or_else(|| Problem::bad_body(format!("quantity must be 1 to {MAX_QUANTITY}")))?;
    let (kind, default_s, longest_s) = match body.claim {
        Some(true) => (TokenKind::Claim, CLAIM_LIFETIME_S, MAX_CLAIM_LIFETIME_S),
        Some(false) | None => (TokenKind::Once, LIFETIME_S, MAX_LIFETIME_S),
    };
    let lifetime_s = body.expires_in_s.unwrap_or(default_s);
    if !(1..=MAX_CLAIM_LIFETIME_S).contains(&lifetime_s) {
        return Err(Problem::bad_body(format!("expires_in_s must be 1 to {MAX_CLAIM_LIFETIME_S}")));
    }
    let agent = body.agent.map(|agent| AgentId::new(&agent)).transpose();
    let agent = agent.map_err(|error| Problem::bad_body(format!("agent: {error}")))?;
    let addresses = body.addresses.unwrap_or_default();
    if addresses.len() > MAX_TOKEN_HUBS {
        return Err(Problem::bad_body(format!("addresses: at most {MAX_TOKEN_HUBS} are allowed")));
    }
    let labels = body.labels.unwrap_or_default();
    let useless = |says: String| Problem::conflict("enrolment", says);
    if lifetime_s > longest_s {
        return Err(useless(format!("expires_in_s: a token that lets a box in holds for at most {longest_s}")));
    }
    check_labels(&labels).map_err(|says| useless(format!("labels: {says}")))?;
    let wrong = addresses.iter().find_map(|address| check_address(address).err());
    if let Some(says) = wrong {
        return Err(useless(format!("addresses: {says}")));
    }
    if kind == TokenKind::Claim && agent.is_some() {
        return Err(useless(
            "agent: a claim is for any number of boxes; each gets its name when it is approved".to_owned(),
        ));
    }
    Ok(NewEnrolTokens { kind, quantity, lifetime_ms: 1_000 * lifetime_s, agent, labels, addresses, by, host })
}

pub(super) fn check_labels(labels: &BoxLabels) -> Result<(), String> {
    if labels.len() > MAX_LABELS {
        return Err(format!("{} of them, at most {MAX_LABELS} are allowed", labels.len()));
    }
    let is_right = |text: &str| !text.is_empty() && text.len() <= MAX_LABEL_BYTES && !text.contains(char::is_control);
    match labels.iter().find(|(name, value)| !is_right(name) || !is_right(value)) {
        Some((name, value)) => Err(format!("{name:?} = {value:?}: names and values have 1 to {MAX_LABEL_BYTES} bytes")),
        None => Ok(()),
    }
}

/// The host at which whoever asks reaches the hub.
fn host_of(headers: &HeaderMap) -> String {
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or("localhost");
    let is_port = |port: &str| port.chars().all(|digit| digit.is_ascii_digit());
    let host = match host.rsplit_once(':') {
        Some((host, port)) if is_port(port) => host,
        Some(_) | None => host,
    };
    let is_right = check_address(&format!("{host}:1")).is_ok();
    if is_right { host.to_owned() } else { "localhost".to_owned() }
}

/// A token is void.
#[utoipa::path(delete, path = "/api/v1/enrolment-tokens/{token}", tag = "Enrolment",
    params(("token" = String, Path, description = "What it is called")), responses((status = 204)))]
pub(super) async fn remove_token(State(context): State<Context>, At(id): At<String>) -> Result<StatusCode, Problem> {
    let tokens = context.ask(|answer| Command::ReadEnrolTokens { answer }).await?;
    if !tokens.iter().any(|token| token.id == id) {
        return Err(Problem::not_found("enrolment_token", format!("there is no enrolment token {id:?}")));
    }
    let removed = context.ask(|answer| Command::RemoveEnrolToken { id, answer }).await?;
    removed.map_err(|reason| Problem::conflict("enrolment", reason))?;
    Ok(StatusCode::NO_CONTENT)
}

/// Boxes that were let in, by name; also those that did not connect yet, and those that may not any more.
#[utoipa::path(get, path = "/api/v1/identities", tag = "Enrolment", params(PageQuery),
    responses((status = 200, body = Page<IdentityView>)))]
pub(super) async fn identities(
    State(context): State<Context>,
    Params(PageQuery { limit, cursor }): Params<PageQuery>,
) -> Result<Json<Page<IdentityView>>, Problem> {
    let identities = context.ask(|answer| Command::ReadIdentities { answer }).await?;
    page(identities.iter(), |identity: &IdentityView| identity.agent.to_string(), limit, cursor.as_deref()).map(Json)
}

/// A box that was let in.
#[utoipa::path(get, path = "/api/v1/identities/{agent}", tag = "Enrolment",
    params(("agent" = String, Path, description = "The box")), responses((status = 200, body = IdentityView)))]
pub(super) async fn identity(
    State(context): State<Context>,
    At(name): At<String>,
) -> Result<Json<IdentityView>, Problem> {
    let identities = context.ask(|answer| Command::ReadIdentities { answer }).await?;
    let found = identities.into_iter().find(|identity| identity.agent.as_str() == name);
    found.map(Json).ok_or_else(|| Problem::not_found("identity", format!("no box {name:?} was let in")))
}

/// Why a box may not connect any more.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RevokeBody {
    /// Why.
    #[serde(default)]
    #[schema(max_length = 500)]
    reason: String,
}

/// A box may not connect any more; its connections are closed. It comes back with a token that names it.
#[utoipa::path(post, path = "/api/v1/identities/{agent}/revoke", tag = "Enrolment", request_body = RevokeBody,
    params(("agent" = String, Path, description = "The box")), responses((status = 200, body = IdentityView)))]
pub(super) async fn revoke(
    State(context): State<Context>,
    Extension(who): Extension<Principal>,
    At(name): At<String>,
    Body(RevokeBody { reason }): Body<RevokeBody>,
) -> Result<Json<IdentityView>, Problem> {
    if reason.chars().count() > MAX_REASON_CHARACTERS {
        return Err(Problem::bad_body(format!("reason: at most {MAX_REASON_CHARACTERS} characters are allowed")));
    }
    let agent = known(&context, &name).await?;
    let revoked = context.ask(|answer| Command::RevokeBox { agent, by: who.name, reason, answer }).await?;
    revoked.map_err(|reason| Problem::conflict("identity", reason))?;
    identity(State(context), At(name)).await
}

/// A box whose certificate expired may come back.
#[utoipa::path(post, path = "/api/v1/identities/{agent}/approve", tag = "Enrolment",
    params(("agent" = String, Path, description = "The box")), responses((status = 200, body = IdentityView)))]
pub(super) async fn approve(
    State(context): State<Context>,
    Extension(who): Extension<Principal>,
    At(name): At<String>,
) -> Result<Json<IdentityView>, Problem> {
    let agent = known(&context, &name).await?;
    let approved = context.ask(|answer| Command::ApproveBox { agent, by: who.name, answer }).await?;
    approved.map_err(|reason| Problem::conflict("identity", reason))?;
    identity(State(context), At(name)).await
}

/// A box that was let in, or that connects by other means.
async fn known(context: &Context, name: &str) -> Result<AgentId, Problem> {
    let missing = || Problem::not_found("identity", format!("there is no box {name:?}"));
    let agent = AgentId::new(name).map_err(|_| missing())?;
    let identities = context.ask(|answer| Command::ReadIdentities { answer }).await?;
    let is_known = context.now().agent(name).is_some() || identities.iter().any(|identity| identity.agent == agent);
    is_known.then_some(agent).ok_or_else(missing)
}
