//! Which boxes may connect: enrolment tokens and claims, and who was let in with them.
//!
//! The book is held in memory and asked for every connection; the database keeps it. What changes is durable first. A box
//! that is not in the book and whose certificate leads to an authority of the hub's came in by other means, and may connect.

mod asks;

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use shared::event::UnixMillis;
use shared::ids::{AgentId, Digest};
use shared::wire::enrol::Refusal;

pub use asks::{Approval, Ask, Asking, RefusedAsk};

use super::limits::{ENROL_TOKEN_KEPT_MS, MAX_ENROL_TOKENS};

/// What an operator wants to say of a box: `site` is `a`.
pub type BoxLabels = BTreeMap<String, String>;

/// A certificate of a box, by what can be compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct BoxCertificate {
    /// The hash of the certificate.
    pub digest: Digest,
    /// The hash of its public key.
    pub key: Digest,
    /// Until when it holds.
    pub not_after_ms: UnixMillis,
}

/// What a token is good for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum TokenKind {
    /// It lets one box in.
    #[default]
    Once,
    /// It is a claim: boxes that have it may ask to be let in.
    Claim,
}

/// What lets one box in, or any number of them ask.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EnrolToken {
    /// What it is called in lists and links.
    pub id: String,
    /// What it is good for.
    #[serde(default)]
    pub kind: TokenKind,
    /// The hash of its secret, or of its certificate if it is a claim.
    pub digest: Digest,
    /// The box it is for; nothing: the box says its name.
    pub agent: Option<AgentId>,
    /// What the box will be labelled with.
    pub labels: BoxLabels,
    /// Who made it.
    pub made_by: String,
    /// Since when.
    pub created_ms: UnixMillis,
    /// Until when.
    pub expires_ms: UnixMillis,
    /// Who came in with it.
    pub used: Option<TokenUse>,
}

/// Who came in with a token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenUse {
    /// The box.
    pub agent: AgentId,
    /// The hash of the key it came with: whoever has that key may ask again, for the answer may have been lost.
    pub key: Digest,
    /// When.
    pub at_ms: UnixMillis,
}

/// A box that was let in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// Its name.
    pub agent: AgentId,
    /// What an operator says of it.
    pub labels: BoxLabels,
    /// When it came in.
    pub enrolled_ms: UnixMillis,
    /// The certificate in use.
    pub current: BoxCertificate,
    /// One that was issued and that the box did not confirm yet.
    pub next: Option<BoxCertificate>,
    /// That it may not connect.
    pub revoked: Option<Revocation>,
    /// That it came back after its certificate had expired.
    pub comeback: Option<Comeback>,
}

/// That a box may not connect.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Revocation {
    /// Since when.
    pub at_ms: UnixMillis,
    /// Who said so.
    pub by: String,
    /// Why.
    pub reason: String,
}

/// A box that came back after its certificate had expired, and that proved to have its old key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Comeback {
    /// Since when it asks.
    pub asked_ms: UnixMillis,
    /// Who approved of it.
    pub approved_by: Option<String>,
}

/// A change of the book.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// There are new tokens.
    AddTokens(Vec<EnrolToken>),
    /// Tokens are void, and boxes that ask are not heard.
    Remove {
        /// The tokens.
        tokens: Vec<String>,
        /// The asks.
        asks: Vec<String>,
    },
    /// A box asks, or is approved.
    Ask {
        /// The ask, as it is from now on.
        ask: Ask,
        /// Asks that nobody answered for long.
        forgotten: Vec<String>,
    },
    /// A box came in.
    Admit {
        /// What let it in.
        used: Used,
        /// The box.
        identity: Identity,
    },
    /// Something about a box changed.
    Set(Identity),
}

/// What let a box in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Used {
    /// A token, as it is from now on.
    Token(EnrolToken),
    /// An ask that was approved, which is over.
    Ask(String),
}

/// Nothing is issued: why, for programs and in words.
pub type Refused = (Refusal, String);

/// What a request for a certificate says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// The hash of the public key.
    pub key: Digest,
    /// The identity it asks for, if it does; nothing else can be asked for.
    pub agent: Option<AgentId>,
}

/// Tokens, boxes that ask, and boxes that are in.
#[derive(Debug, Clone, Default)]
pub struct IdentityBook {
    tokens: BTreeMap<String, EnrolToken>,
    by_secret: BTreeMap<Digest, String>,
    asks: BTreeMap<String, Ask>,
    boxes: BTreeMap<AgentId, Identity>,
}

impl IdentityBook {
    /// What the database knows.
    #[must_use]
    pub fn new(tokens: Vec<EnrolToken>, asks: Vec<Ask>, boxes: Vec<Identity>) -> Self {
        let asks = asks.into_iter().map(|ask| (ask.id.clone(), ask)).collect();
        let mut book = Self { asks, ..Self::default() };
        tokens.into_iter().for_each(|token| book.put_token(token));
        boxes.into_iter().for_each(|identity| book.apply(Change::Set(identity)));
        book
    }

    /// Every token, by id.
    pub fn tokens(&self) -> impl Iterator<Item = &EnrolToken> {
        self.tokens.values()
    }

    /// The box of this name, if it was let in.
    #[must_use]
    pub fn of(&self, agent: &AgentId) -> Option<&Identity> {
        self.boxes.get(agent)
    }

    /// Every box that was let in, by name.
    pub fn boxes(&self) -> impl Iterator<Item = &Identity> {
        self.boxes.values()
    }

    /// Tokens that nobody misses: they expired long ago.
    #[must_use]
    pub fn forgettable(&self, now: UnixMillis) -> Vec<String> {
        let is_old = |token: &&EnrolToken| token.expires_ms + ENROL_TOKEN_KEPT_MS <= now;
        self.tokens.values().filter(is_old).map(|token| token.id.clone()).collect()
    }

    /// Why new tokens make no sense, if they do not.
    ///
    /// # Errors
    /// Says it in words.
    pub fn check_tokens(&self, tokens: &[EnrolToken], now: UnixMillis) -> Result<(), String> {
        let kept = self.tokens.len() - self.forgettable(now).len();
        if kept + tokens.len() > MAX_ENROL_TOKENS {
            return Err(format!(
                "there are {kept} enrolment tokens, and {MAX_ENROL_TOKENS} are kept: remove some first"
            ));
        }
        let named: BTreeSet<&AgentId> = tokens.iter().filter_map(|token| token.agent.as_ref()).collect();
        if !named.is_empty() && named.len() < tokens.len() {
            return Err("a token for a box by name is made alone: each box has a name of its own".to_owned());
        }
        Ok(())
    }

    /// What comes of a box that shows a token: the token and the box, if it is let in. `certificate` is what it will get, and
    /// `is_known` whether the hub knows a box by a name otherwise.
    ///
    /// # Errors
    /// If it is not let in.
    pub fn admit(
        &self,
        now: UnixMillis,
        secret: Digest,
        name: Option<&AgentId>,
        wanted: &Wanted,
        is_known: impl Fn(&AgentId) -> bool,
    ) -> Result<Admission, Refused> {
        let unknown = || (Refusal::UnknownToken, "the hub knows no such token; it may have been removed".to_owned());
        let token = self.by_secret.get(&secret).and_then(|id| self.tokens.get(id));
        let token = token.filter(|token| token.kind == TokenKind::Once).ok_or_else(unknown)?;
        if let Some(used) = &token.used {
            let is_again = used.key == wanted.key && self.of(&used.agent).is_some_and(|known| known.revoked.is_none());
            let says = || format!("token {} was used by {}; each lets one box in, once", token.id, used.agent);
            let agent = is_again.then(|| used.agent.clone()).ok_or_else(|| (Refusal::UsedToken, says()))?;
            return Ok(Admission::by_token(token, agent));
        }
        if token.expires_ms <= now {
            let minutes = (now - token.expires_ms) / 60_000;
            let ago = if minutes < 120 { format!("{minutes} minutes") } else { format!("{} hours", minutes / 60) };
            return Err((Refusal::ExpiredToken, format!("token {} expired {ago} ago", token.id)));
        }
        let agent =
            token.agent.as_ref().or(name).or(wanted.agent.as_ref()).ok_or_else(|| {
                (Refusal::Identity, format!("token {} names no box, and the box says no name", token.id))
            })?;
        for (says, other) in [("calls itself", name), ("asks for a certificate of", wanted.agent.as_ref())] {
            if let Some(other) = other.filter(|other| *other != agent) {
                return Err((
                    Refusal::Identity,
                    format!("token {} is for {agent}, and the box {says} {other}", token.id),
                ));
            }
        }
        if token.agent.is_none() && (self.boxes.contains_key(agent) || is_known(agent)) {
            let says =
                format!("there is a box {agent} already; to put another in its place, make a token that names it");
            return Err((Refusal::NameTaken, says));
        }
        Ok(Admission::by_token(token, agent.clone()))
    }

    /// Who gets another certificate, of those who show one.
    ///
    /// # Errors
    /// If there is none for it, and what is to be noted of that.
    pub fn renew(
        &self,
        now: UnixMillis,
        agent: &AgentId,
        shown: BoxCertificate,
        wanted: &Wanted,
    ) -> Result<Identity, (Refused, Option<Box<Identity>>)> {
        if let Some(other) = wanted.agent.as_ref().filter(|other| *other != agent) {
            return Err(((Refusal::Identity, format!("{agent} asks for a certificate of {other}")), None));
        }
        self.admits(agent, shown.digest).map_err(|refused| (refused, None))?;
        let identity = self.of(agent).cloned().unwrap_or_else(|| Identity::found(now, agent.clone(), shown));
        let is_approved = identity.comeback.as_ref().is_some_and(|comeback| comeback.approved_by.is_some());
        if shown.not_after_ms > now || is_approved {
            return Ok(identity);
        }
        let says = format!("the certificate of {agent} has expired; somebody must approve that it comes back");
        let asks = identity.comeback.is_none().then(|| {
            let comeback = Some(Comeback { asked_ms: now, approved_by: None });
            Box::new(Identity { comeback, ..identity })
        });
        Err(((Refusal::Approval, says), asks))
    }

    /// A box uses the certificate that it shows. Nothing changes if it did already.
    ///
    /// # Errors
    /// If it may not.
    pub fn confirm(&self, agent: &AgentId, shown: BoxCertificate) -> Result<Option<Identity>, Refused> {
        self.admits(agent, shown.digest)?;
        let known = self.of(agent).filter(|known| known.next.is_some_and(|next| next.digest == shown.digest));
        Ok(known.map(|known| Identity { current: shown, next: None, comeback: None, ..known.clone() }))
    }

    /// Whether a box that shows this certificate may connect.
    ///
    /// # Errors
    /// Says why not.
    pub fn admits(&self, agent: &AgentId, certificate: Digest) -> Result<(), Refused> {
        let Some(known) = self.of(agent) else {
            return Ok(());
        };
        if known.revoked.is_some() {
            return Err((Refusal::Revoked, format!("{agent} was revoked; it needs a new token that names it")));
        }
        let is_its = known.current.digest == certificate || known.next.is_some_and(|next| next.digest == certificate);
        let stale = || (Refusal::Stale, format!("{agent} has a newer certificate; this one is void"));
        is_its.then_some(()).ok_or_else(stale)
    }

    /// A box that may not connect any more.
    ///
    /// # Errors
    /// If there is none, or it was revoked before.
    pub fn revoke(&self, agent: &AgentId, revocation: Revocation, is_known: bool) -> Result<Identity, String> {
        let known = match self.of(agent) {
            Some(known) if known.revoked.is_some() => return Err(format!("{agent} was revoked already")),
            Some(known) => known.clone(),
            // Its certificate came by other means, and any that says its name is refused from now on.
            None if is_known => {
                let none = Digest::of(&[]);
                let nothing = BoxCertificate { digest: none, key: none, not_after_ms: revocation.at_ms };
                Identity::found(revocation.at_ms, agent.clone(), nothing)
            }
            None => return Err(format!("there is no box {agent}")),
        };
        Ok(Identity { revoked: Some(revocation), next: None, comeback: None, ..known })
    }

    /// A box that may come back, as somebody approves.
    ///
    /// # Errors
    /// If it does not ask.
    pub fn approve(&self, agent: &AgentId, by: &str) -> Result<Identity, String> {
        let known = self.of(agent).filter(|known| known.revoked.is_none());
        let asks = known.and_then(|known| known.comeback.clone().map(|comeback| (known, comeback)));
        let (known, comeback) = asks.ok_or_else(|| format!("{agent} does not ask to come back"))?;
        let comeback = Some(Comeback { approved_by: Some(by.to_owned()), ..comeback });
        Ok(Identity { comeback, ..known.clone() })
    }

    /// Makes a change that is durable.
    pub fn apply(&mut self, change: Change) {
        match change {
            Change::AddTokens(tokens) => tokens.into_iter().for_each(|token| self.put_token(token)),
            Change::Remove { tokens, asks } => {
                tokens.iter().for_each(|id| self.remove_token(id));
                asks.iter().for_each(|id| drop(self.asks.remove(id)));
            }
            Change::Ask { ask, forgotten } => {
                forgotten.iter().for_each(|id| drop(self.asks.remove(id)));
                self.asks.insert(ask.id.clone(), ask);
            }
            Change::Admit { used, identity } => {
                match used {
                    Used::Token(token) => self.put_token(token),
                    Used::Ask(id) => drop(self.asks.remove(&id)),
                }
                self.boxes.insert(identity.agent.clone(), identity);
            }
            Change::Set(identity) => drop(self.boxes.insert(identity.agent.clone(), identity)),
        }
    }

    fn remove_token(&mut self, id: &str) {
        if let Some(token) = self.tokens.remove(id) {
            self.by_secret.remove(&token.digest);
        }
    }

    fn put_token(&mut self, token: EnrolToken) {
        self.by_secret.insert(token.digest, token.id.clone());
        self.tokens.insert(token.id.clone(), token);
    }
}

/// A box that is let in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Admission {
    used: Used,
    labels: BoxLabels,
    /// The name it gets.
    pub agent: AgentId,
}

impl Admission {
    fn by_token(token: &EnrolToken, agent: AgentId) -> Self {
        Self { used: Used::Token(token.clone()), labels: token.labels.clone(), agent }
    }

    /// What changes once the box has its certificate.
    #[must_use]
    pub fn with(self, now: UnixMillis, certificate: BoxCertificate) -> Change {
        let used = match self.used {
            Used::Token(token) => {
                let used = Some(TokenUse { agent: self.agent.clone(), key: certificate.key, at_ms: now });
                Used::Token(EnrolToken { used, ..token })
            }
            ask @ Used::Ask(_) => ask,
        };
        let identity = Identity { labels: self.labels, ..Identity::found(now, self.agent, certificate) };
        Change::Admit { used, identity }
    }
}

impl Identity {
    fn found(now: UnixMillis, agent: AgentId, current: BoxCertificate) -> Self {
        Self { agent, labels: BoxLabels::new(), enrolled_ms: now, current, next: None, revoked: None, comeback: None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR_MS: i64 = 3_600_000;

    fn agent(name: &str) -> AgentId {
        AgentId::new(name).expect("valid")
    }

    fn token(id: &str, agent: Option<AgentId>) -> EnrolToken {
        let labels = BoxLabels::from([("site".to_owned(), "a".to_owned())]);
        let (made_by, digest) = ("ada".to_owned(), Digest::of(id.as_bytes()));
        let (id, kind) = (id.to_owned(), TokenKind::Once);
        EnrolToken { id, kind, digest, agent, labels, made_by, created_ms: 0, expires_ms: HOUR_MS, used: None }
    }

    fn wanted(key: &str) -> Wanted {
        Wanted { key: Digest::of(key.as_bytes()), agent: None }
    }

    fn certificate(of: &str, key: &str) -> BoxCertificate {
        let (digest, key) = (Digest::of(of.as_bytes()), Digest::of(key.as_bytes()));
        BoxCertificate { digest, key, not_after_ms: 100 * HOUR_MS }
    }

    fn book(tokens: Vec<EnrolToken>) -> IdentityBook {
        IdentityBook::new(tokens, Vec::new(), Vec::new())
    }

    impl IdentityBook {
        fn ask(&self, token: &str, name: &str, key: &str) -> Result<Admission, Refusal> {
            let secret = Digest::of(token.as_bytes());
            let name = Some(agent(name));
            self.admit(10, secret, name.as_ref(), &wanted(key), |_| false).map_err(|(code, _)| code)
        }

        fn let_in(&mut self, token: &str, name: &str, key: &str) {
            let admission = self.ask(token, name, key).expect("is let in");
            self.apply(admission.with(10, certificate(key, key)));
        }
    }

    #[test]
    fn a_token_lets_one_box_in_once_and_the_same_box_again() {
        let mut book = book(vec![token("t", None)]);
        book.let_in("t", "box-1", "key-1");
        assert_eq!(book.ask("t", "box-1", "key-2"), Err(Refusal::UsedToken));
        assert_eq!(book.ask("t", "box-2", "key-2"), Err(Refusal::UsedToken));
        assert_eq!(book.ask("t", "box-1", "key-1").map(|admission| admission.agent), Ok(agent("box-1")));
        assert_eq!(book.of(&agent("box-1")).map(|known| known.labels["site"].as_str()), Some("a"));
    }

    #[test]
    fn an_unknown_an_old_and_a_foreign_token_are_refused_by_what_they_are() {
        let book = book(vec![token("named", Some(agent("box-1"))), token("open", None)]);
        assert_eq!(book.ask("other", "box-1", "k"), Err(Refusal::UnknownToken));
        assert_eq!(book.ask("named", "box-2", "k"), Err(Refusal::Identity));
        let asks_for_another = Wanted { agent: Some(agent("box-9")), ..wanted("k") };
        let secret = Digest::of(b"open");
        let (code, says) =
            book.admit(10, secret, Some(&agent("box-1")), &asks_for_another, |_| false).expect_err("refused");
        assert_eq!(code, Refusal::Identity);
        assert!(says.contains("box-1") && says.contains("box-9"), "{says}");
        let (code, says) = book.admit(3 * HOUR_MS, secret, None, &wanted("k"), |_| false).expect_err("refused");
        assert_eq!((code, says.as_str()), (Refusal::ExpiredToken, "token open expired 2 hours ago"));
    }

    #[test]
    fn a_name_is_taken_unless_the_token_says_it() {
        let mut book = book(vec![token("a", None), token("b", None), token("c", Some(agent("box-1")))]);
        book.let_in("a", "box-1", "key-1");
        assert_eq!(book.ask("b", "box-1", "key-2"), Err(Refusal::NameTaken));
        let secret = Digest::of(b"b");
        let taken = book.admit(10, secret, Some(&agent("box-5")), &wanted("k"), |name| name.as_str() == "box-5");
        assert_eq!(taken.expect_err("a box of that name connects already").0, Refusal::NameTaken);
        book.let_in("c", "box-1", "key-2");
        assert_eq!(book.admits(&agent("box-1"), Digest::of(b"key-1")).expect_err("replaced").0, Refusal::Stale);
        assert!(book.admits(&agent("box-1"), Digest::of(b"key-2")).is_ok());
    }

    #[test]
    fn the_certificate_before_holds_until_the_new_one_is_confirmed() {
        let mut book = book(vec![token("t", None)]);
        book.let_in("t", "box-1", "old");
        let (name, old, new) = (agent("box-1"), certificate("old", "old"), certificate("new", "new"));
        let identity = book.renew(20, &name, old, &wanted("new")).expect("renews");
        book.apply(Change::Set(Identity { next: Some(new), ..identity }));
        assert!(book.admits(&name, old.digest).is_ok() && book.admits(&name, new.digest).is_ok());
        assert_eq!(book.confirm(&name, old), Ok(None), "the old one goes on");
        let confirmed = book.confirm(&name, new).expect("may").expect("a change");
        book.apply(Change::Set(confirmed));
        assert_eq!(book.admits(&name, old.digest).expect_err("void").0, Refusal::Stale);
        assert_eq!(book.confirm(&name, new), Ok(None), "said twice, the answer was lost");
    }

    #[test]
    fn a_box_from_a_drawer_comes_back_once_somebody_approves() {
        let mut book = book(vec![token("t", None)]);
        book.let_in("t", "box-1", "old");
        let (name, old) = (agent("box-1"), certificate("old", "old"));
        let years_later = 20_000 * HOUR_MS;
        assert!(book.approve(&name, "ada").is_err(), "it does not ask yet");
        let ((code, _), asks) = book.renew(years_later, &name, old, &wanted("new")).expect_err("waits");
        assert_eq!(code, Refusal::Approval);
        book.apply(Change::Set(*asks.expect("is noted")));
        let again = book.renew(years_later, &name, old, &wanted("new")).expect_err("still waits");
        assert_eq!(again.1, None, "it is noted once");
        book.apply(Change::Set(book.approve(&name, "ada").expect("approves")));
        let identity = book.renew(years_later, &name, old, &wanted("new")).expect("comes back");
        let new = BoxCertificate { not_after_ms: years_later + HOUR_MS, ..certificate("new", "new") };
        book.apply(Change::Set(Identity { next: Some(new), ..identity }));
        let confirmed = book.confirm(&name, new).expect("may").expect("a change");
        assert_eq!(confirmed.comeback, None, "an approval is for one time");
    }

    #[test]
    fn who_was_revoked_gets_nothing_until_a_token_names_it() {
        let mut book = book(vec![token("a", None), token("b", None), token("c", Some(agent("box-1")))]);
        book.let_in("a", "box-1", "old");
        let (name, old) = (agent("box-1"), certificate("old", "old"));
        let revocation = Revocation { at_ms: 5, by: "ada".to_owned(), reason: "stolen".to_owned() };
        book.apply(Change::Set(book.revoke(&name, revocation.clone(), true).expect("revokes")));
        assert_eq!(book.admits(&name, old.digest).expect_err("revoked").0, Refusal::Revoked);
        assert_eq!(book.renew(20, &name, old, &wanted("k")).expect_err("revoked").0.0, Refusal::Revoked);
        assert_eq!(book.ask("a", "box-1", "old"), Err(Refusal::UsedToken), "its token, with its key");
        assert_eq!(book.ask("b", "box-1", "k"), Err(Refusal::NameTaken));
        assert!(book.revoke(&name, revocation.clone(), true).is_err());
        assert!(book.revoke(&agent("nobody"), revocation.clone(), false).is_err());
        book.let_in("c", "box-1", "new");
        assert!(book.admits(&name, Digest::of(b"new")).is_ok());

        // One that came in by other means is kept out by its name.
        book.apply(Change::Set(book.revoke(&agent("by-hand"), revocation, true).expect("revokes")));
        assert_eq!(book.admits(&agent("by-hand"), old.digest).expect_err("revoked").0, Refusal::Revoked);
        assert!(book.admits(&agent("other"), old.digest).is_ok());
    }

    #[test]
    fn of_any_order_in_which_boxes_ask_with_one_token_one_is_let_in() {
        for first in 0..32 {
            let mut book = book(vec![token("t", None)]);
            let order = (0..32).map(|number| (first + number) % 32);
            let won = order.filter(|number| {
                let (name, key) = (format!("box-{number}"), format!("key-{number}"));
                let admission = book.ask("t", &name, &key);
                let is_in = admission.is_ok();
                if let Ok(admission) = admission {
                    book.apply(admission.with(10, certificate(&key, &key)));
                }
                is_in
            });
            assert_eq!(won.count(), 1);
        }
    }

    #[test]
    fn tokens_that_expired_long_ago_are_forgotten_and_there_is_a_bound() {
        let book = book(vec![token("t", None)]);
        assert!(book.forgettable(HOUR_MS + ENROL_TOKEN_KEPT_MS - 1).is_empty());
        assert_eq!(book.forgettable(HOUR_MS + ENROL_TOKEN_KEPT_MS), ["t"]);
        let many: Vec<EnrolToken> = (0..MAX_ENROL_TOKENS).map(|number| token(&number.to_string(), None)).collect();
        assert!(book.check_tokens(&many, 0).is_err_and(|says| says.contains("remove some")));
        assert!(book.check_tokens(&many, HOUR_MS + ENROL_TOKEN_KEPT_MS).is_ok());
        let named = vec![token("a", Some(agent("b"))), token("c", Some(agent("b")))];
        assert!(book.check_tokens(&named, 0).is_err());
    }
}
