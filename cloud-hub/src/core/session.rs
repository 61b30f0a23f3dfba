//! Agents' sessions: every batch is taken once, in order, without a hole.

use std::collections::BTreeMap;

use shared::event::{SpoolEntry, UnixMillis};
use shared::ids::{AgentId, Digest, Epoch, ModelVersion, Sequence};
use shared::wire::PROTOCOL_VERSION;
use shared::wire::message::{AgentStatus, Hello, HubToEdge, ModelReport, ServedModel, ShadowOffer};

use super::limits::{RETRY_AFTER_MS, TWIN_RETRY_AFTER_MS};
use super::twins::Twins;
use super::{ConnectionId, Effect, Now};

/// Every agent that is connected or was.
#[derive(Debug, Default)]
pub struct Sessions {
    live: BTreeMap<ConnectionId, Session>,
    agents: BTreeMap<AgentId, AgentFacts>,
    twins: BTreeMap<AgentId, Twins>,
}

/// One live connection.
#[derive(Debug, Clone)]
pub struct Session {
    /// The agent, by its certificate.
    pub agent: AgentId,
    /// The version it is pinned to.
    pub pinned: Option<ModelVersion>,
    /// What it serves.
    pub serving: Option<ServedModel>,
    /// What it was offered last over this connection.
    offered: Option<Digest>,
    /// What it was last told to run in shadow over this connection, or says that it does, and of how many percent.
    shadow: Option<(Digest, u8)>,
    /// The nonce it introduced itself with.
    boot_nonce: Option<u64>,
    /// How far the delivery is, once it introduced itself.
    delivery: Option<Delivery>,
}

/// How far a connection's delivery is.
#[derive(Debug, Clone, Copy)]
struct Delivery {
    /// The epoch it introduced itself with.
    epoch: Epoch,
    /// The sequence its next new event must have.
    expected: Sequence,
    /// The newest ack sent over this connection.
    acked: Sequence,
}

/// What is known of an agent.
#[derive(Debug, Clone, PartialEq)]
pub struct AgentFacts {
    /// Its name.
    pub agent: AgentId,
    /// When it was first seen.
    pub first_seen_ms: UnixMillis,
    /// When it was last heard of.
    pub last_seen_ms: UnixMillis,
    /// Whether it is connected.
    pub connected: bool,
    /// More than one box uses its identity.
    pub has_twin: bool,
    /// What it said of itself.
    pub hello: Hello,
    /// How it is, as it last said.
    pub status: Option<AgentStatus>,
}

/// What a status says that something follows from.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct StatusNews {
    /// The box kept a model after its trial.
    pub(super) has_kept: bool,
    /// It runs a version in shadow that it was not told to over this connection.
    pub(super) has_stray_shadow: bool,
}

/// What to do with an entry.
#[derive(Debug)]
pub enum Verdict {
    /// The connection has no session.
    Unknown,
    /// It cannot be taken.
    Refused(String),
    /// All of it was taken before.
    Known {
        /// The agent.
        agent: AgentId,
        /// The epoch.
        epoch: Epoch,
    },
    /// It is new.
    New {
        /// The agent.
        agent: AgentId,
        /// What of it is new.
        entry: SpoolEntry,
    },
}

impl Sessions {
    /// What is known of every agent.
    pub fn agents(&self) -> impl Iterator<Item = &AgentFacts> {
        self.agents.values()
    }

    /// What is known of one agent.
    #[must_use]
    pub fn facts(&self, agent: &AgentId) -> Option<&AgentFacts> {
        self.agents.get(agent)
    }

    /// The live session of a connection.
    #[must_use]
    pub fn get(&self, connection: ConnectionId) -> Option<&Session> {
        self.live.get(&connection)
    }

    /// Puts back what was known of an agent before the hub started.
    pub fn remember(&mut self, facts: AgentFacts) {
        self.agents.insert(facts.agent.clone(), facts);
    }

    /// Whether a package has to be offered: it is not what the box serves, nor what it was offered last.
    pub(super) fn is_news(&mut self, connection: ConnectionId, digest: Digest) -> bool {
        let Some(session) = self.live.get_mut(&connection) else {
            return false;
        };
        let serves = session.serving.as_ref().is_some_and(|serving| serving.digest == digest);
        // A box that serves it again after something else may be on its way to that, and has to hear of it.
        let is_settled = serves && session.offered.is_none_or(|offered| offered == digest);
        let is_news = !is_settled && session.offered != Some(digest);
        if is_news {
            session.offered = Some(digest);
        }
        is_news
    }

    /// A package has another file than before: boxes that were offered it and do not serve it have to hear of it again.
    pub(super) fn forget_offers(&mut self, digest: Digest) {
        for session in self.live.values_mut() {
            session.offered = session.offered.filter(|offered| *offered != digest);
        }
    }

    /// Whether a box has to be told what to run in shadow.
    pub(super) fn is_shadow_news(&mut self, connection: ConnectionId, shadow: Option<&ShadowOffer>) -> bool {
        let wanted = shadow.map(|shadow| (shadow.offer.digest, shadow.percent));
        let session = self.live.get_mut(&connection);
        session.is_some_and(|session| std::mem::replace(&mut session.shadow, wanted) != wanted)
    }

    pub(super) fn agent(&self, connection: ConnectionId) -> Option<&AgentId> {
        self.live.get(&connection).map(|session| &session.agent)
    }

    /// The agent of a connection that was greeted.
    pub(super) fn greeted_agent(&self, connection: ConnectionId) -> Option<&AgentId> {
        self.live.get(&connection).filter(|session| session.delivery.is_some()).map(|session| &session.agent)
    }

    /// Connections that were greeted.
    pub(super) fn greeted(&self) -> Vec<ConnectionId> {
        self.live.iter().filter(|(_, session)| session.delivery.is_some()).map(|(id, _)| *id).collect()
    }

    /// The connection over which an agent was greeted, if it is there.
    #[must_use]
    pub fn greeted_by(&self, agent: &AgentId) -> Option<ConnectionId> {
        let mut live = self.live.iter().rev();
        live.find(|(_, session)| session.agent == *agent && session.delivery.is_some()).map(|(id, _)| *id)
    }

    pub(super) fn connections(&self) -> Vec<ConnectionId> {
        self.live.keys().copied().collect()
    }

    pub(super) fn connected(&mut self, connection: ConnectionId, agent: AgentId) {
        let session = Session {
            agent,
            pinned: None,
            serving: None,
            offered: None,
            shadow: None,
            boot_nonce: None,
            delivery: None,
        };
        self.live.insert(connection, session);
    }

    /// Judges an introduction before anything follows from it: false if the agent was turned away, else its connection
    /// replaces its older ones.
    pub(super) fn admit(
        &mut self,
        now: Now,
        connection: ConnectionId,
        hello: &Hello,
        effects: &mut Vec<Effect>,
    ) -> bool {
        let Some(session) = self.live.get_mut(&connection) else {
            return false;
        };
        let mut refusal = None;
        if hello.protocol != PROTOCOL_VERSION {
            let reason = format!("the agent speaks protocol {}, the hub {PROTOCOL_VERSION}", hello.protocol);
            refusal = Some((reason, RETRY_AFTER_MS));
        } else if session.boot_nonce.is_none() {
            session.boot_nonce = Some(hello.boot_nonce);
            let twins = self.twins.entry(session.agent.clone()).or_default();
            if let Some(original) = twins.greeted(now, hello.boot_nonce, hello.epoch) {
                let reason = format!(
                    "this is a copy: another box is {} too, of epoch {original}, and this one is of epoch {}; give one \
                     of them a name and a certificate of its own, and an empty state directory",
                    session.agent, hello.epoch
                );
                refusal = Some((reason, TWIN_RETRY_AFTER_MS));
            }
            if let Some(facts) = self.agents.get_mut(&session.agent) {
                facts.has_twin = twins.is_proven();
            }
        }
        if let Some((reason, retry_after_ms)) = refusal {
            effects.push(Effect::Send { connection, message: HubToEdge::Refused { reason, retry_after_ms } });
            effects.push(Effect::Close { connection });
            self.live.remove(&connection);
            return false;
        }
        let agent = session.agent.clone();
        let is_older = |(id, session): &(&ConnectionId, &Session)| session.agent == agent && **id != connection;
        let older: Vec<ConnectionId> = self.live.iter().filter(is_older).map(|(id, _)| *id).collect();
        for older in older {
            self.live.remove(&older);
            effects.push(Effect::Close { connection: older });
        }
        true
    }

    pub(super) fn disconnected(&mut self, now: Now, connection: ConnectionId) {
        let Some(session) = self.live.remove(&connection) else {
            return;
        };
        let elsewhere = self.live.values().any(|other| other.agent == session.agent);
        if let Some(facts) = self.agents.get_mut(&session.agent) {
            facts.connected = elsewhere;
            facts.last_seen_ms = now;
        }
    }

    pub(super) fn forget(&mut self, connection: ConnectionId) {
        if let Some(session) = self.live.remove(&connection)
            && let Some(facts) = self.agents.get_mut(&session.agent)
        {
            facts.connected = false;
        }
    }

    /// Takes an introduction that was admitted. The hub has everything before `next`.
    pub(super) fn hello(
        &mut self,
        now: Now,
        connection: ConnectionId,
        hello: Hello,
        next: Sequence,
        effects: &mut Vec<Effect>,
    ) {
        let Some(session) = self.live.get_mut(&connection) else {
            return;
        };
        session.pinned = hello.pinned;
        session.serving.clone_from(&hello.serving);
        session.delivery = Some(Delivery { epoch: hello.epoch, expected: next, acked: next });
        let first_seen_ms = self.agents.get(&session.agent).map_or(now, |facts| facts.first_seen_ms);
        let facts = AgentFacts {
            agent: session.agent.clone(),
            first_seen_ms,
            last_seen_ms: now,
            connected: true,
            has_twin: self.twins.get(&session.agent).is_some_and(Twins::is_proven),
            hello,
            status: None,
        };
        effects.push(Effect::RecordAgent(Box::new(facts.clone())));
        self.agents.insert(facts.agent.clone(), facts);
    }

    /// Takes how an agent is, and says what is new of it.
    pub(super) fn status(&mut self, now: Now, connection: ConnectionId, status: AgentStatus) -> StatusNews {
        let mut news = StatusNews::default();
        let Some(session) = self.live.get_mut(&connection) else {
            return news;
        };
        if let Some((twins, boot_nonce)) = self.twins.get_mut(&session.agent).zip(session.boot_nonce) {
            twins.heard(now, boot_nonce);
        }
        let Some(facts) = self.agents.get_mut(&session.agent) else {
            return news;
        };
        facts.last_seen_ms = now;
        let before = facts.status.as_ref().and_then(|status| status.kept);
        news.has_kept = status.kept.is_some() && status.kept != before;
        // It began to run it before the connection, for a rollout that is over perhaps.
        if let Some(shadow) = status.shadow.filter(|_| session.shadow.is_none()) {
            session.shadow = Some((shadow.digest, 0));
            news.has_stray_shadow = true;
        }
        facts.status = Some(status);
        news
    }

    /// A box serves a model; returns what is now known of it.
    pub(super) fn serving(&mut self, connection: ConnectionId, report: &ModelReport) -> Option<AgentFacts> {
        let session = self.live.get_mut(&connection)?;
        let serving = ServedModel { model: report.model.clone(), digest: report.digest };
        session.serving = Some(serving.clone());
        // It was told to serve something else, and had begun to load this by then: it has to be told again.
        session.offered = session.offered.filter(|offered| *offered == report.digest);
        let facts = self.agents.get_mut(&session.agent)?;
        facts.hello.serving = Some(serving);
        Some(facts.clone())
    }

    pub(super) fn entry(&mut self, connection: ConnectionId, mut entry: SpoolEntry) -> Verdict {
        let Some(session) = self.live.get_mut(&connection) else {
            return Verdict::Unknown;
        };
        let Some(Delivery { epoch, expected, .. }) = session.delivery.as_mut() else {
            return Verdict::Refused("events before a greeting".to_owned());
        };
        if entry.epoch() != *epoch {
            return Verdict::Refused(format!("events of epoch {}, the greeting said {epoch}", entry.epoch()));
        }
        if entry.first() > *expected {
            let first = entry.first();
            return Verdict::Refused(format!("events from {first}, expected is {expected}: some are missing"));
        }
        if entry.end() <= *expected {
            return Verdict::Known { agent: session.agent.clone(), epoch: *epoch };
        }
        entry.trim(*expected);
        *expected = entry.end();
        Verdict::New { agent: session.agent.clone(), entry }
    }

    /// How far to acknowledge what is durable of an agent's epoch to the connection that brought it, if there is anything
    /// new to say, and the connection still stands.
    pub(super) fn ack(
        &mut self,
        sender: ConnectionId,
        agent: &AgentId,
        epoch: Epoch,
        durable: Sequence,
    ) -> Option<Sequence> {
        let session = self.live.get_mut(&sender).filter(|session| session.agent == *agent)?;
        let delivery = session.delivery.as_mut().filter(|delivery| delivery.epoch == epoch)?;
        if durable <= delivery.acked {
            return None;
        }
        delivery.acked = durable;
        Some(durable)
    }
}
