//! Boxes that want certificates: decided by the core, issued by the authority, durable, and then in force.

use std::net::SocketAddr;
use std::sync::Arc;

use serde_json::json;
use shared::enrolment::{EnrolmentClaim, EnrolmentToken, Fingerprint};
use shared::event::UnixMillis;
use shared::ids::{AgentId, Digest};
use shared::wire::enrol::{EnrolAnswer, EnrolRequest, IssuedIdentity, Refusal};
use tracing::{error, info, warn};

use super::{Hub, HubError};
use crate::api::{MadeEnrolToken, NewEnrolTokens};
use crate::authority::{Authority, AuthorityError, BoxRequest, IssuedToBox};
use crate::clock;
use crate::config::{Config, LinkFiles};
use crate::core::Event;
use crate::core::identities::{
    Admission, BoxCertificate, Change, EnrolToken, Identity, Refused, Revocation, TokenKind,
};
use crate::identity::Shown;
use crate::link::{LinkError, LinkKeys, Trust};
use crate::secret::Secret;
use crate::store::StoreError;

/// How often the authority's folder is looked at: a new issuer or root is in force within this.
const LOOK_INTERVAL_MS: i64 = 5_000;
/// An issuer that expires within this is warned of: somebody has to fetch the root's key.
const ISSUER_WARNING_MS: i64 = 60 * 24 * 3_600_000;
/// Hexadecimal digits of a token's name: 32 random bits, for people to tell them apart.
const ID_DIGITS: usize = 8;

/// Who vouches for whom, while the hub runs.
pub(super) struct Vouching {
    trust: Arc<Trust>,
    /// The hub's own certificate, where others issue it.
    files: Option<LinkFiles>,
    issuing: Option<Issuing>,
}

struct Issuing {
    authority: Authority,
    lifetime_ms: i64,
    server_name: String,
    /// Those that vouch for the hub, its own first, DER.
    roots: Vec<Vec<u8>>,
    /// When the hub's own certificate is issued anew.
    renew_at_ms: UnixMillis,
    look_at_ms: UnixMillis,
}

impl Vouching {
    pub(super) fn open(config: &Config, now: UnixMillis) -> Result<Self, HubError> {
        let files = config.link.files.clone();
        let Some(section) = &config.authority else {
            let files = files.ok_or_else(|| HubError::Link(LinkError::Tls("there are none".to_owned())))?;
            let trust = Trust::new(LinkKeys::read(&files)?)?;
            return Ok(Self { trust, files: Some(files), issuing: None });
        };
        let authority = Authority::open_or_init(&section.directory)?;
        warn_of_expiry(&authority, now);
        let (keys, renew_at_ms) = keys(files.as_ref(), &authority, now)?;
        let issuing = Issuing {
            lifetime_ms: section.certificate_lifetime_ms,
            server_name: section.server_name.clone(),
            roots: keys.roots.iter().map(|root| root.to_vec()).collect(),
            authority,
            renew_at_ms,
            look_at_ms: now + LOOK_INTERVAL_MS,
        };
        let trust = Trust::new(keys)?;
        let fingerprint = issuing.fingerprint();
        info!(%fingerprint, "the hub lets boxes in, and its authority is");
        Ok(Self { trust, files, issuing: Some(issuing) })
    }

    pub(super) fn trust(&self) -> &Arc<Trust> {
        &self.trust
    }

    /// Whether boxes can be let in.
    pub(super) fn issues(&self) -> bool {
        self.issuing.is_some()
    }

    /// The hub's own secret, which outlives its process.
    pub(super) fn secret(&self) -> Result<Vec<u8>, HubError> {
        match (&self.issuing, &self.files) {
            (Some(issuing), _) => Ok(issuing.authority.secret().to_vec()),
            (None, Some(files)) => Ok(LinkKeys::read(files)?.key.secret_der().to_vec()),
            (None, None) => Ok(Vec::new()),
        }
    }

    /// Takes what changed in the authority's folder, and renews the hub's own certificate. Connections that stand are not touched.
    pub(super) fn look(&mut self, now: UnixMillis) {
        let Some(issuing) = self.issuing.as_mut().filter(|issuing| issuing.look_at_ms <= now) else {
            return;
        };
        issuing.look_at_ms = now + LOOK_INTERVAL_MS;
        let is_changed = issuing.authority.refresh().unwrap_or_else(|failure| {
            error!("failed to {failure}; the authority goes on as it was");
            false
        });
        if !is_changed && issuing.renew_at_ms > now {
            return;
        }
        warn_of_expiry(&issuing.authority, now);
        match keys(self.files.as_ref(), &issuing.authority, now) {
            Err(failure) => error!("failed to {failure}; the hub's certificate stays"),
            Ok((keys, renew_at_ms)) => {
                let roots = keys.roots.iter().map(|root| root.to_vec()).collect();
                match self.trust.replace(keys) {
                    Err(failure) => error!("failed to {failure}; the hub's certificate stays"),
                    Ok(()) => {
                        (issuing.roots, issuing.renew_at_ms) = (roots, renew_at_ms);
                        info!(authority = %issuing.fingerprint(), "the hub's certificate was renewed");
                    }
                }
            }
        }
    }
}

impl Issuing {
    fn fingerprint(&self) -> Fingerprint {
        self.roots.first().map_or(Fingerprint::of(&[]), |root| Fingerprint::of(root))
    }

    /// A token that lets one box in, and its text.
    fn make_token(&self, asked: &NewEnrolTokens, hubs: &[String], now: UnixMillis) -> (EnrolToken, String) {
        let secret = Secret::new("e");
        let id = secret.digest().to_string()[..ID_DIGITS].to_owned();
        let token = EnrolToken { digest: secret.digest(), ..asked.token(id, now) };
        let said = EnrolmentToken {
            hubs: hubs.to_vec(),
            server_name: self.server_name.clone(),
            authority: self.fingerprint(),
            secret: secret.reveal().to_owned(),
            agent: token.agent.clone(),
            expires_ms: token.expires_ms,
        };
        (token, said.to_string())
    }

    /// A claim, and its text.
    fn make_claim(
        &self,
        asked: &NewEnrolTokens,
        hubs: &[String],
        now: UnixMillis,
    ) -> Result<(EnrolToken, String), String> {
        let id = Secret::new("c").digest().to_string()[..ID_DIGITS].to_owned();
        let issued = self.authority.issue_claim(&id, now, asked.lifetime_ms).map_err(|failure| failure.to_string())?;
        let digest = Digest::of(issued.chain.first().map(Vec::as_slice).unwrap_or_default());
        let token = EnrolToken { digest, expires_ms: issued.not_after_ms, ..asked.token(id, now) };
        let said = EnrolmentClaim {
            hubs: hubs.to_vec(),
            server_name: self.server_name.clone(),
            authority: self.fingerprint(),
            chain: issued.chain,
            key: issued.key,
            expires_ms: token.expires_ms,
        };
        Ok((token, said.to_string()))
    }
}

fn warn_of_expiry(authority: &Authority, now: UnixMillis) {
    let left_ms = authority.issuer_expires_ms() - now;
    if left_ms < ISSUER_WARNING_MS {
        let days = left_ms / (24 * 3_600_000);
        warn!(days, "the issuer's certificate expires; make another with `cloud-hub ca issuer`");
    }
}

/// What the link shows and believes.
fn keys(files: Option<&LinkFiles>, authority: &Authority, now: UnixMillis) -> Result<(LinkKeys, UnixMillis), HubError> {
    match files {
        None => {
            let hub = authority.issue_hub(now)?;
            let keys = LinkKeys { chain: hub.chain, key: hub.key, roots: authority.roots().to_vec() };
            Ok((keys, hub.renew_at_ms))
        }
        Some(files) => {
            let mut keys = LinkKeys::read(files)?;
            keys.roots.extend(authority.roots().iter().cloned());
            Ok((keys, UnixMillis::MAX))
        }
    }
}

impl Hub {
    /// Answers a box that wants a certificate. What it gets is durable before it hears of it.
    pub(super) async fn enrol(&mut self, request: EnrolRequest, shown: Option<Shown>, peer: SocketAddr) -> EnrolAnswer {
        let now = clock::unix_ms();
        let answer = match (request, shown) {
            (EnrolRequest::Enrol { secret, name, csr }, _) => self.admit(now, &secret, name.as_ref(), &csr, peer).await,
            (EnrolRequest::Renew { csr }, Some(Shown::Agent(agent, shown))) => {
                self.renew(now, &agent, shown, &csr).await
            }
            (EnrolRequest::Confirm, Some(Shown::Agent(agent, shown))) => self.confirm(now, &agent, shown).await,
            (EnrolRequest::Renew { .. } | EnrolRequest::Confirm, Some(Shown::Claim(_)) | None) => {
                Err((Refusal::Malformed, "a box without a certificate has nothing to renew".to_owned()))
            }
            (EnrolRequest::Claim { name, hardware, csr }, Some(Shown::Claim(claim))) => {
                self.hear_ask(now, claim, (name, hardware), &csr, peer).await
            }
            (EnrolRequest::Claim { .. }, Some(Shown::Agent(..)) | None) => {
                Err((Refusal::Malformed, "whoever asks with a claim shows the claim's certificate".to_owned()))
            }
        };
        answer.unwrap_or_else(|(code, reason)| {
            // A box that waits for an approval asks every few seconds; that it began to is in the history.
            if code != Refusal::Approval {
                info!(%peer, "a box was refused a certificate: {reason}");
            }
            EnrolAnswer::Refused { code, reason, time_ms: now }
        })
    }

    async fn admit(
        &mut self,
        now: UnixMillis,
        secret: &str,
        name: Option<&AgentId>,
        csr: &[u8],
        peer: SocketAddr,
    ) -> Result<EnrolAnswer, Refused> {
        let request = BoxRequest::read(csr).map_err(|problem| (Refusal::Malformed, problem))?;
        let is_known = |agent: &AgentId| self.core.sessions().facts(agent).is_some();
        let secret = Secret::digest_of(secret);
        let book = self.core.identities();
        let admission = match book.admit(now, secret, name, &request.wanted, is_known) {
            Ok(admission) => admission,
            Err((code, reason)) => {
                // Whoever makes tokens up is not worth a row each.
                if code != Refusal::UnknownToken {
                    self.note_box("enrolment_refused", &json!({ "from": peer.ip(), "reason": reason })).await;
                }
                return Err((code, reason));
            }
        };
        self.let_in(now, admission, &request, peer).await
    }

    /// Gives a box its first certificate.
    pub(super) async fn let_in(
        &mut self,
        now: UnixMillis,
        admission: Admission,
        request: &BoxRequest,
        peer: SocketAddr,
    ) -> Result<EnrolAnswer, Refused> {
        let agent = admission.agent.clone();
        let issued = self.issue(request, &agent, now)?;
        self.change_identities(admission.with(now, issued.facts)).await.map_err(unavailable)?;
        self.note_box("enrolled", &json!({ "agent": agent, "from": peer.ip() })).await;
        info!(%agent, %peer, "a box was let in");
        Ok(self.issued(now, agent, issued))
    }

    async fn renew(
        &mut self,
        now: UnixMillis,
        agent: &AgentId,
        shown: BoxCertificate,
        csr: &[u8],
    ) -> Result<EnrolAnswer, Refused> {
        let request = BoxRequest::read(csr).map_err(|problem| (Refusal::Malformed, problem))?;
        let identity = match self.core.identities().renew(now, agent, shown, &request.wanted) {
            Ok(identity) => identity,
            Err((refused, asks)) => {
                if let Some(identity) = asks {
                    self.change_identities(Change::Set(*identity)).await.map_err(unavailable)?;
                    self.note_box("comeback_asked", &json!({ "agent": agent })).await;
                }
                return Err(refused);
            }
        };
        let issued = self.issue(&request, agent, now)?;
        let identity = Identity { next: Some(issued.facts), ..identity };
        self.change_identities(Change::Set(identity)).await.map_err(unavailable)?;
        Ok(self.issued(now, agent.clone(), issued))
    }

    async fn confirm(
        &mut self,
        now: UnixMillis,
        agent: &AgentId,
        shown: BoxCertificate,
    ) -> Result<EnrolAnswer, Refused> {
        if shown.not_after_ms <= now {
            return Err((Refusal::Stale, format!("the certificate of {agent} has expired")));
        }
        if let Some(identity) = self.core.identities().confirm(agent, shown)? {
            self.change_identities(Change::Set(identity)).await.map_err(unavailable)?;
            info!(%agent, "a box uses its new certificate");
        }
        Ok(EnrolAnswer::Confirmed { time_ms: now })
    }

    fn issue(&self, request: &BoxRequest, agent: &AgentId, now: UnixMillis) -> Result<IssuedToBox, Refused> {
        let none = || (Refusal::Unavailable, "this hub issues no certificates".to_owned());
        let issuing = self.vouching.issuing.as_ref().ok_or_else(none)?;
        issuing.authority.issue_box(request, agent, now, issuing.lifetime_ms).map_err(|failure: AuthorityError| {
            error!("failed to {failure}");
            (Refusal::Unavailable, "the hub's authority failed; its log says why".to_owned())
        })
    }

    fn issued(&self, now: UnixMillis, agent: AgentId, issued: IssuedToBox) -> EnrolAnswer {
        let authorities = self.vouching.issuing.as_ref().map(|issuing| issuing.roots.clone()).unwrap_or_default();
        EnrolAnswer::Issued(IssuedIdentity {
            agent,
            chain: issued.chain,
            authorities,
            not_after_ms: issued.facts.not_after_ms,
            time_ms: now,
        })
    }

    /// Makes tokens, which are shown this once.
    pub(super) async fn make_enrol_tokens(&mut self, asked: NewEnrolTokens) -> Result<Vec<MadeEnrolToken>, String> {
        let issuing = self.vouching.issuing.as_ref();
        let issuing = issuing.ok_or("this hub's certificates come from elsewhere ([link] ca_file), and so do those of boxes; add [authority] to its configuration to let it issue them")?;
        let port = self.link_address.port();
        let hubs = [asked.addresses.clone(), self.public_addresses.clone(), vec![format!("{}:{port}", asked.host)]];
        let hubs = hubs.into_iter().find(|hubs| !hubs.is_empty()).unwrap_or_default();
        let now = clock::unix_ms();
        let (mut made, mut tokens) = (Vec::new(), Vec::new());
        for _ in 0..asked.quantity {
            let (token, text) = match asked.kind {
                TokenKind::Once => issuing.make_token(&asked, &hubs, now),
                TokenKind::Claim => issuing.make_claim(&asked, &hubs, now)?,
            };
            tokens.push(token);
            made.push(text);
        }
        self.core.identities().check_tokens(&tokens, now)?;
        let forgotten = self.core.identities().forgettable(now);
        if !forgotten.is_empty() {
            self.remove_enrol_tokens(forgotten).await?;
        }
        self.change_identities(Change::AddTokens(tokens.clone())).await?;
        Ok(tokens.iter().zip(made).map(|(token, text)| MadeEnrolToken::new(token, &hubs, text)).collect())
    }

    /// Tokens are void from now on; who asks with one, if it is a claim, is not heard.
    pub(super) async fn remove_enrol_tokens(&mut self, tokens: Vec<String>) -> Result<(), String> {
        let asks = self.core.identities().asks_of(&tokens);
        self.change_identities(Change::Remove { tokens, asks }).await
    }

    /// A box may not connect from now on; its connections are closed.
    pub(super) async fn revoke_box(&mut self, agent: &AgentId, by: String, reason: String) -> Result<(), String> {
        let is_known = self.core.sessions().facts(agent).is_some();
        let revocation = Revocation { at_ms: clock::unix_ms(), by, reason };
        let identity = self.core.identities().revoke(agent, revocation, is_known)?;
        self.change_identities(Change::Set(identity)).await
    }

    /// A box whose certificate expired may come back.
    pub(super) async fn approve_box(&mut self, agent: &AgentId, by: &str) -> Result<(), String> {
        let identity = self.core.identities().approve(agent, by)?;
        self.change_identities(Change::Set(identity)).await
    }

    pub(super) async fn change_identities(&mut self, change: Change) -> Result<(), String> {
        self.store.save_identities(&change).await.map_err(|failure: StoreError| {
            error!("failed to {failure}");
            "the hub's database failed; nothing was changed".to_owned()
        })?;
        self.order(Event::IdentityChanged(Box::new(change))).await;
        Ok(())
    }

    pub(super) async fn note_box(&mut self, kind: &'static str, body: &serde_json::Value) {
        match self.store.append_history(clock::unix_ms(), kind, body).await {
            Ok(head) => self.sign(head),
            Err(failure) => error!("failed to {failure}"),
        }
    }
}

pub(super) fn unavailable(reason: String) -> Refused {
    (Refusal::Unavailable, reason)
}
