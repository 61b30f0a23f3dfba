//! Who is let in, as it is shown.

use serde::Serialize;
use shared::ids::AgentId;
use utoipa::ToSchema;

use super::Timestamp;
use crate::core::HubCore;
use crate::core::identities::{Ask, BoxLabels, EnrolToken, Identity, TokenKind};

/// A box that was let in.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct IdentityView {
    /// Its name.
    #[schema(value_type = String)]
    pub agent: AgentId,
    /// What an operator says of it.
    pub labels: BoxLabels,
    /// How it stands.
    pub state: IdentityState,
    /// Whether it is connected.
    pub connected: bool,
    /// When it was let in.
    pub enrolled: Timestamp,
    /// Until when its certificate holds; it renews it in time by itself.
    pub certificate_expires: Timestamp,
    /// Since when it may not connect.
    pub revoked: Option<Timestamp>,
    /// Who said so.
    pub revoked_by: Option<String>,
    /// Why.
    pub reason: Option<String>,
    /// Since when it asks to come back.
    pub asks_since: Option<Timestamp>,
}

/// How a box stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum IdentityState {
    /// It may connect.
    Enrolled,
    /// It may not connect.
    Revoked,
    /// Its certificate expired, and it asks to come back.
    AsksToComeBack,
}

impl IdentityView {
    fn of(core: &HubCore, identity: &Identity) -> Self {
        let revoked = identity.revoked.as_ref();
        let asks = identity.comeback.as_ref().filter(|comeback| comeback.approved_by.is_none());
        Self {
            agent: identity.agent.clone(),
            labels: identity.labels.clone(),
            state: match (revoked, asks) {
                (Some(_), _) => IdentityState::Revoked,
                (None, Some(_)) => IdentityState::AsksToComeBack,
                (None, None) => IdentityState::Enrolled,
            },
            connected: core.sessions().facts(&identity.agent).is_some_and(|facts| facts.connected),
            enrolled: Timestamp(identity.enrolled_ms),
            certificate_expires: Timestamp(identity.current.not_after_ms),
            revoked: revoked.map(|revoked| Timestamp(revoked.at_ms)),
            revoked_by: revoked.map(|revoked| revoked.by.clone()),
            reason: revoked.map(|revoked| revoked.reason.clone()),
            asks_since: asks.map(|asks| Timestamp(asks.asked_ms)),
        }
    }
}

/// What lets a box in, without its secret.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct EnrolTokenView {
    /// What it is called.
    pub id: String,
    /// Whether it is a claim: boxes that have it may ask to be let in.
    pub claim: bool,
    /// The box it is for; nothing: the box says its name.
    #[schema(value_type = Option<String>)]
    pub agent: Option<AgentId>,
    /// What the box will be labelled with.
    pub labels: BoxLabels,
    /// Who made it.
    pub made_by: String,
    /// Since when.
    pub created: Timestamp,
    /// Until when.
    pub expires: Timestamp,
    /// The box that came in with it.
    #[schema(value_type = Option<String>)]
    pub used_by: Option<AgentId>,
    /// When it did.
    pub used: Option<Timestamp>,
}

impl From<&EnrolToken> for EnrolTokenView {
    fn from(token: &EnrolToken) -> Self {
        Self {
            id: token.id.clone(),
            claim: token.kind == TokenKind::Claim,
            agent: token.agent.clone(),
            labels: token.labels.clone(),
            made_by: token.made_by.clone(),
            created: Timestamp(token.created_ms),
            expires: Timestamp(token.expires_ms),
            used_by: token.used.as_ref().map(|used| used.agent.clone()),
            used: token.used.as_ref().map(|used| Timestamp(used.at_ms)),
        }
    }
}

/// A box that asks to be let in.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct AskView {
    /// What it is called: the box says it, too.
    pub id: String,
    /// The claim that it has.
    pub claim: String,
    /// The name it would like to have.
    #[schema(value_type = Option<String>)]
    pub name: Option<AgentId>,
    /// What it says of its hardware.
    pub hardware: String,
    /// The address it asked from first.
    pub from: String,
    /// When.
    pub asked: Timestamp,
    /// The name it gets, once somebody said so: it hears of it when it asks again.
    #[schema(value_type = Option<String>)]
    pub approved_as: Option<AgentId>,
    /// Who said so.
    pub approved_by: Option<String>,
}

impl From<&Ask> for AskView {
    fn from(ask: &Ask) -> Self {
        Self {
            id: ask.id.clone(),
            claim: ask.claim.clone(),
            name: ask.name.clone(),
            hardware: ask.hardware.clone(),
            from: ask.from.clone(),
            asked: Timestamp(ask.asked_ms),
            approved_as: ask.approval.as_ref().map(|approval| approval.agent.clone()),
            approved_by: ask.approval.as_ref().map(|approval| approval.by.clone()),
        }
    }
}

/// Every box that asks to be let in, the newest first.
#[must_use]
pub fn asks(core: &HubCore) -> Vec<AskView> {
    let mut asks: Vec<AskView> = core.identities().asks().map(AskView::from).collect();
    asks.sort_by(|a, b| b.asked.cmp(&a.asked).then_with(|| a.id.cmp(&b.id)));
    asks
}

/// Every box that was let in, by name.
#[must_use]
pub fn all(core: &HubCore) -> Vec<IdentityView> {
    core.identities().boxes().map(|identity| IdentityView::of(core, identity)).collect()
}

/// Every token, the newest first.
#[must_use]
pub fn tokens(core: &HubCore) -> Vec<EnrolTokenView> {
    let mut tokens: Vec<EnrolTokenView> = core.identities().tokens().map(EnrolTokenView::from).collect();
    tokens.sort_by(|a, b| b.created.cmp(&a.created).then_with(|| a.id.cmp(&b.id)));
    tokens
}
