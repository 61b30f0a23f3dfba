//! Boxes that left a factory alike: they share a claim, with which they can ask to be let in and do nothing else. A person says which
//! of those that ask are boxes.

use serde::{Deserialize, Serialize};
use shared::event::UnixMillis;
use shared::ids::{AgentId, Digest};
use shared::wire::enrol::{MAX_HARDWARE_BYTES, Refusal};

use super::{Admission, BoxLabels, Change, EnrolToken, IdentityBook, Refused, TokenKind, Used, Wanted};
use crate::core::limits::{ASK_KEPT_MS, MAX_ASKS_OF_CLAIM};

/// Hexadecimal digits of an ask's name: 32 bits of the hash of the box's key.
const ID_DIGITS: usize = 8;

/// A box that asks to be let in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ask {
    /// What it is called in lists: the beginning of the hash of its key.
    pub id: String,
    /// The hash of the box's key.
    pub key: Digest,
    /// The claim that it has.
    pub claim: String,
    /// The name it would like to have.
    pub name: Option<AgentId>,
    /// What it says of its hardware.
    pub hardware: String,
    /// The address it asked from first.
    pub from: String,
    /// When.
    pub asked_ms: UnixMillis,
    /// That somebody said yes. The box hears of it when it asks again.
    pub approval: Option<Approval>,
}

/// That a box is let in that asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Approval {
    /// The name it gets.
    pub agent: AgentId,
    /// Whether it takes the place of another box of that name.
    pub replaces: bool,
    /// What it is labelled with.
    pub labels: BoxLabels,
    /// Who said so.
    pub by: String,
}

/// What a box says that asks.
#[derive(Debug, Clone, Copy)]
pub struct Asking<'a> {
    /// The name it would like to have.
    pub name: Option<&'a AgentId>,
    /// What it says of its hardware.
    pub hardware: &'a str,
    /// The address it asks from.
    pub from: &'a str,
    /// What its request says.
    pub wanted: &'a Wanted,
}

/// Nothing is issued, and what is to be noted of that.
pub type RefusedAsk = (Refused, Option<Box<Change>>);

impl IdentityBook {
    /// Boxes that ask, by id.
    pub fn asks(&self) -> impl Iterator<Item = &Ask> {
        self.asks.values()
    }

    /// What comes of a box that shows the certificate of a claim.
    ///
    /// # Errors
    /// If it is not let in, or not yet; and what is to be noted of that.
    pub fn hear_ask(
        &self,
        now: UnixMillis,
        claim: Digest,
        asking: Asking<'_>,
        is_known: impl Fn(&AgentId) -> bool,
    ) -> Result<Admission, RefusedAsk> {
        let claim = self.claim(now, claim).map_err(|refused| (refused, None))?;
        let key = asking.wanted.key;
        if let Some(known) = self.boxes().find(|known| known.current.key == key) {
            if known.revoked.is_some() {
                let says = format!("{} was revoked; it needs a token that names it", known.agent);
                return Err(((Refusal::Revoked, says), None));
            }
            // The answer was lost.
            return Ok(Admission {
                used: Used::Ask(id_of(key)),
                labels: known.labels.clone(),
                agent: known.agent.clone(),
            });
        }
        let Some(ask) = self.asks.get(&id_of(key)).filter(|ask| ask.key == key) else {
            let ask = self.new_ask(now, claim, asking).map_err(|refused| (refused, None))?;
            let forgotten = self.forgettable_asks(now);
            return Err((waits(&ask), Some(Box::new(Change::Ask { ask, forgotten }))));
        };
        let approval = ask.approval.as_ref().ok_or_else(|| (waits(ask), None))?;
        let agent = approval.agent.clone();
        if !approval.replaces && (self.boxes.contains_key(&agent) || is_known(&agent)) {
            let unapproved = Change::Ask { ask: Ask { approval: None, ..ask.clone() }, forgotten: Vec::new() };
            return Err((waits(ask), Some(Box::new(unapproved))));
        }
        Ok(Admission { used: Used::Ask(ask.id.clone()), labels: approval.labels.clone(), agent })
    }

    /// A box that is let in once it asks again. Without a name it gets the one that it wished for, or one that tells which ask it was;
    /// with one it may take the place of a box that has it.
    ///
    /// # Errors
    /// If there is no such ask, or the name is taken.
    pub fn approve_ask(
        &self,
        id: &str,
        agent: Option<&AgentId>,
        labels: &BoxLabels,
        by: &str,
        is_known: impl Fn(&AgentId) -> bool,
    ) -> Result<Change, String> {
        let ask = self.asks.get(id).ok_or_else(|| format!("no box asks as {id}"))?;
        let given = agent.or(ask.name.as_ref()).cloned();
        let own = || AgentId::new(&format!("box-{id}")).map_err(|error| error.to_string());
        let given = given.map_or_else(own, Ok)?;
        if agent.is_none() && (self.boxes.contains_key(&given) || is_known(&given)) {
            return Err(format!(
                "there is a box {given} already; give this one another name, or say that name to put it in the other's place"
            ));
        }
        let gets_it = |other: &&Ask| other.id != id && other.approval.as_ref().is_some_and(|it| it.agent == given);
        if let Some(other) = self.asks.values().find(gets_it) {
            return Err(format!(
                "{} was approved as {given}, and comes in as that; give this one another name",
                other.id
            ));
        }
        let of_claim = self.tokens.get(&ask.claim).map(|claim| claim.labels.clone()).unwrap_or_default();
        let labels = of_claim.into_iter().chain(labels.clone()).collect();
        let approval = Approval { agent: given, replaces: agent.is_some(), labels, by: by.to_owned() };
        let ask = Ask { approval: Some(approval), ..ask.clone() };
        Ok(Change::Ask { ask, forgotten: Vec::new() })
    }

    /// Asks that were made with these claims.
    #[must_use]
    pub fn asks_of(&self, claims: &[String]) -> Vec<String> {
        self.asks.values().filter(|ask| claims.contains(&ask.claim)).map(|ask| ask.id.clone()).collect()
    }

    fn claim(&self, now: UnixMillis, certificate: Digest) -> Result<&EnrolToken, Refused> {
        let found = self.by_secret.get(&certificate).and_then(|id| self.tokens.get(id));
        let claim = found.filter(|claim| claim.kind == TokenKind::Claim);
        let claim = claim.ok_or_else(|| {
            (Refusal::UnknownToken, "the hub knows no such claim; it may have been removed".to_owned())
        })?;
        if claim.expires_ms <= now {
            let days = (now - claim.expires_ms) / (24 * 3_600_000);
            return Err((Refusal::ExpiredToken, format!("claim {} expired {days} days ago", claim.id)));
        }
        Ok(claim)
    }

    fn new_ask(&self, now: UnixMillis, claim: &EnrolToken, asking: Asking<'_>) -> Result<Ask, Refused> {
        let Asking { name, hardware, from, wanted } = asking;
        if wanted.agent.is_some() {
            let says = "a box that asks with a claim says its name beside its request, not in it".to_owned();
            return Err((Refusal::Identity, says));
        }
        if hardware.len() > MAX_HARDWARE_BYTES || hardware.contains(char::is_control) {
            let says = format!("what a box says of its hardware has at most {MAX_HARDWARE_BYTES} bytes of text");
            return Err((Refusal::Malformed, says));
        }
        let is_kept = |ask: &&Ask| ask.claim == claim.id && !is_forgettable(ask, now);
        let asks = self.asks.values().filter(is_kept).count();
        if asks >= MAX_ASKS_OF_CLAIM {
            let says = format!("{asks} boxes ask with claim {} already; somebody must answer them first", claim.id);
            return Err((Refusal::Unavailable, says));
        }
        let id = id_of(wanted.key);
        if self.asks.contains_key(&id) {
            let says = format!("another box asks as {id}; make another key");
            return Err((Refusal::NameTaken, says));
        }
        Ok(Ask {
            id,
            key: wanted.key,
            claim: claim.id.clone(),
            name: name.cloned(),
            hardware: hardware.to_owned(),
            from: from.to_owned(),
            asked_ms: now,
            approval: None,
        })
    }

    fn forgettable_asks(&self, now: UnixMillis) -> Vec<String> {
        self.asks.values().filter(|ask| is_forgettable(ask, now)).map(|ask| ask.id.clone()).collect()
    }
}

fn is_forgettable(ask: &Ask, now: UnixMillis) -> bool {
    ask.approval.is_none() && ask.asked_ms + ASK_KEPT_MS <= now
}

fn id_of(key: Digest) -> String {
    key.to_string()[..ID_DIGITS].to_owned()
}

fn waits(ask: &Ask) -> Refused {
    (Refusal::Approval, format!("the box asks as {}, and waits until somebody at the hub approves", ask.id))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::identities::{BoxCertificate, Identity, Revocation};

    const YEAR_MS: i64 = 365 * 24 * 3_600_000;

    fn agent(name: &str) -> AgentId {
        AgentId::new(name).expect("valid")
    }

    fn book() -> IdentityBook {
        let labels = BoxLabels::from([("site".to_owned(), "a".to_owned())]);
        let claim = EnrolToken {
            id: "c".to_owned(),
            kind: TokenKind::Claim,
            digest: Digest::of(b"claim"),
            agent: None,
            labels,
            made_by: "ada".to_owned(),
            created_ms: 0,
            expires_ms: YEAR_MS,
            used: None,
        };
        IdentityBook::new(vec![claim], Vec::new(), Vec::new())
    }

    fn wanted(key: &str) -> Wanted {
        Wanted { key: Digest::of(key.as_bytes()), agent: None }
    }

    fn id(key: &str) -> String {
        id_of(Digest::of(key.as_bytes()))
    }

    impl IdentityBook {
        fn asks_with(&self, now: UnixMillis, key: &str, name: Option<&AgentId>) -> Result<Admission, RefusedAsk> {
            let wanted = wanted(key);
            let asking = Asking { name, hardware: "Pi, serial 1", from: "10.0.0.7", wanted: &wanted };
            self.hear_ask(now, Digest::of(b"claim"), asking, |_| false)
        }

        /// A box asks, and what is to be noted is.
        fn hears(&mut self, now: UnixMillis, key: &str, name: Option<&AgentId>) -> Refusal {
            let ((code, _), noted) = self.asks_with(now, key, name).expect_err("is not let in");
            noted.into_iter().for_each(|change| self.apply(*change));
            code
        }

        fn approves(&mut self, key: &str, name: Option<&AgentId>) {
            let more = BoxLabels::from([("line".to_owned(), "4".to_owned())]);
            let change = self.approve_ask(&id(key), name, &more, "ada", |_| false).expect("approves");
            self.apply(change);
        }

        fn lets_in(&mut self, key: &str) -> AgentId {
            let admission = self.asks_with(20, key, None).expect("is let in");
            let agent = admission.agent.clone();
            let (digest, key) = (Digest::of(key.as_bytes()), Digest::of(key.as_bytes()));
            self.apply(admission.with(20, BoxCertificate { digest, key, not_after_ms: YEAR_MS }));
            agent
        }
    }

    #[test]
    fn who_has_a_claim_is_let_in_once_somebody_approves_and_asks_once() {
        let mut book = book();
        assert_eq!(book.hears(10, "k", None), Refusal::Approval);
        assert_eq!(book.asks_with(11, "k", None).expect_err("waits").1, None, "it is noted once");
        let ask = book.asks().next().cloned().expect("an ask");
        assert_eq!((ask.hardware.as_str(), ask.asked_ms, ask.claim.as_str()), ("Pi, serial 1", 10, "c"));
        book.approves("k", None);
        let name = book.lets_in("k");
        assert_eq!(name, agent(&format!("box-{}", id("k"))));
        assert_eq!(book.asks().count(), 0);
        let known = book.of(&name).expect("is in");
        assert_eq!((known.labels["site"].as_str(), known.labels["line"].as_str()), ("a", "4"));
        assert_eq!(book.asks_with(30, "k", None).map(|again| again.agent), Ok(name), "the answer was lost");
        assert_eq!(book.hears(30, "another", None), Refusal::Approval, "an approval is for one key");
    }

    #[test]
    fn a_name_that_is_taken_is_given_only_by_whoever_says_it() {
        let (mut book, name) = (book(), agent("pump-1"));
        for key in ["a", "b", "c"] {
            book.hears(10, key, Some(&name));
        }
        book.approves("a", None);
        let twice = book.approve_ask(&id("b"), Some(&name), &BoxLabels::new(), "ada", |_| false);
        assert!(twice.is_err_and(|says| says.contains(&id("a"))), "two that wait for one name");
        assert_eq!(book.lets_in("a"), name);
        // A name that was free when somebody approved, and is not any more.
        book.hears(10, "d", Some(&agent("fan-1")));
        book.approves("d", None);
        let certificate = BoxCertificate { digest: Digest::of(b"e"), key: Digest::of(b"e"), not_after_ms: YEAR_MS };
        book.apply(Change::Set(Identity::found(20, agent("fan-1"), certificate)));
        assert_eq!(book.hears(21, "d", None), Refusal::Approval);
        assert!(book.asks().all(|ask| ask.approval.is_none()), "the approval is void");
        let taken = book.approve_ask(&id("b"), None, &BoxLabels::new(), "ada", |_| false);
        assert!(taken.is_err_and(|says| says.contains("pump-1 already")));
        book.approves("b", Some(&agent("pump-2")));
        book.approves("c", Some(&name));
        assert_eq!([book.lets_in("b"), book.lets_in("c")], [agent("pump-2"), name.clone()]);
        assert_eq!(book.admits(&name, Digest::of(b"a")).expect_err("was replaced").0, Refusal::Stale);
        assert!(book.approve_ask("none", None, &BoxLabels::new(), "ada", |_| false).is_err());
    }

    #[test]
    fn a_claim_lets_nobody_in_and_its_end_is_the_end_of_those_who_ask_with_it() {
        let mut book = book();
        let by_secret = book.admit(10, Digest::of(b"claim"), Some(&agent("b")), &wanted("k"), |_| false);
        assert_eq!(by_secret.expect_err("it is no token").0, Refusal::UnknownToken);
        book.hears(10, "k", None);
        assert_eq!(book.hears(YEAR_MS, "k", None), Refusal::ExpiredToken);
        let asks = book.asks_of(&["c".to_owned()]);
        assert_eq!(asks, [id("k")]);
        book.apply(Change::Remove { tokens: vec!["c".to_owned()], asks });
        assert_eq!(book.hears(10, "k", None), Refusal::UnknownToken);
        assert_eq!(book.asks().count(), 0);
    }

    #[test]
    fn asks_are_bounded_and_those_that_nobody_answers_are_forgotten() {
        let mut book = book();
        for number in 0..MAX_ASKS_OF_CLAIM {
            book.hears(10, &format!("k{number}"), None);
        }
        assert_eq!(book.hears(11, "one more", None), Refusal::Unavailable);
        book.approves("k0", None);
        assert_eq!(book.hears(10 + ASK_KEPT_MS, "one more", None), Refusal::Approval);
        assert_eq!(book.asks().count(), 2, "those that were approved stay");
    }

    #[test]
    fn who_asks_for_more_than_it_may_is_refused_and_so_is_a_box_that_was_revoked() {
        let mut book = book();
        let refused = |hardware: &str, wanted: &Wanted| {
            let asking = Asking { name: None, hardware, from: "10.0.0.7", wanted };
            book.hear_ask(10, Digest::of(b"claim"), asking, |_| false).expect_err("refused").0.0
        };
        assert_eq!(refused(&"x".repeat(MAX_HARDWARE_BYTES + 1), &wanted("k")), Refusal::Malformed);
        assert_eq!(refused("a\u{1b}[2J", &wanted("k")), Refusal::Malformed);
        assert_eq!(refused("a", &Wanted { agent: Some(agent("b")), ..wanted("k") }), Refusal::Identity);
        book.hears(10, "k", None);
        book.approves("k", Some(&agent("b")));
        book.lets_in("k");
        let revocation = Revocation { at_ms: 21, by: "ada".to_owned(), reason: "stolen".to_owned() };
        let revoked = book.revoke(&agent("b"), revocation, true).expect("revokes");
        book.apply(Change::Set(revoked));
        assert_eq!(book.hears(22, "k", None), Refusal::Revoked);
    }
}
