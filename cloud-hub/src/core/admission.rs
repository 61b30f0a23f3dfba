//! Connections that may stand: of boxes that are let in, with certificates that hold.

use std::collections::BTreeMap;

use shared::event::UnixMillis;
use shared::ids::AgentId;

use super::identities::{BoxCertificate, Change};
use super::{ConnectionId, Effect, HubCore, Now};

const EXPIRED: &str = "the certificate has expired";

/// What connections showed.
#[derive(Debug, Default)]
pub(super) struct Shown {
    certificates: BTreeMap<ConnectionId, BoxCertificate>,
    /// No certificate of a connection expires before.
    first_expiry_ms: Option<UnixMillis>,
}

impl HubCore {
    /// A box connected, and stays if it may.
    pub(super) fn connected(
        &mut self,
        now: Now,
        connection: ConnectionId,
        agent: AgentId,
        certificate: BoxCertificate,
        effects: &mut Vec<Effect>,
    ) {
        let admitted = match self.identities.admits(&agent, certificate.digest) {
            // TLS is a second late.
            Ok(()) if certificate.not_after_ms <= now => Err(EXPIRED.to_owned()),
            Ok(()) => Ok(()),
            Err((_, reason)) => Err(reason),
        };
        self.sessions.connected(connection, agent);
        match admitted {
            Err(reason) => self.refuse(connection, reason, effects),
            Ok(()) => {
                let first = self.shown.first_expiry_ms.unwrap_or(certificate.not_after_ms);
                self.shown.first_expiry_ms = Some(first.min(certificate.not_after_ms));
                self.shown.certificates.insert(connection, certificate);
            }
        }
    }

    pub(super) fn disconnected(&mut self, now: Now, connection: ConnectionId) {
        self.greeting.remove(&connection);
        self.shown.certificates.remove(&connection);
        self.sessions.disconnected(now, connection);
    }

    /// Who is let in changed, durably: connections that may not stand any more are closed at once.
    pub(super) fn identity_changed(&mut self, change: Change, effects: &mut Vec<Effect>) {
        // A renewed certificate voids the one before for new connections alone: the one that stands goes on to its end.
        let agent = match &change {
            Change::Admit { identity, .. } => Some(identity.agent.clone()),
            Change::Set(identity) => identity.revoked.is_some().then(|| identity.agent.clone()),
            Change::AddTokens(_) | Change::Remove { .. } | Change::Ask { .. } => None,
        };
        self.identities.apply(change);
        if let Some(agent) = agent {
            self.close_those(effects, |core, connection, certificate| {
                core.sessions.agent(connection).filter(|of| **of == agent)?;
                core.identities.admits(&agent, certificate.digest).err().map(|(_, reason)| reason)
            });
        }
    }

    /// A connection does not outlive its certificate; the box has a newer one, or comes to ask for it.
    pub(super) fn close_expired(&mut self, now: Now, effects: &mut Vec<Effect>) {
        if self.shown.first_expiry_ms.is_none_or(|first| now < first) {
            return;
        }
        self.close_those(effects, |_, _, certificate| (certificate.not_after_ms <= now).then(|| EXPIRED.to_owned()));
        self.shown.first_expiry_ms = self.shown.certificates.values().map(|shown| shown.not_after_ms).min();
    }

    fn close_those(
        &mut self,
        effects: &mut Vec<Effect>,
        why: impl Fn(&Self, ConnectionId, &BoxCertificate) -> Option<String>,
    ) {
        let certificates = self.shown.certificates.iter();
        let closed: Vec<(ConnectionId, String)> = certificates
            .filter_map(|(connection, shown)| Some((*connection, why(self, *connection, shown)?)))
            .collect();
        for (connection, reason) in closed {
            self.shown.certificates.remove(&connection);
            self.refuse(connection, reason, effects);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::identities::{IdentityBook, Revocation};
    use crate::core::{CompactionRules, Event, Start};
    use shared::ids::Digest;
    use shared::wire::message::HubToEdge;

    fn core() -> HubCore {
        let start = Start {
            snapshot: None,
            releases: Vec::new(),
            champions: Vec::new(),
            rollouts: Vec::new(),
            last_run: 0,
            alarms: Vec::new(),
            labels: Vec::new(),
            identities: IdentityBook::default(),
        };
        HubCore::new(Vec::new(), CompactionRules { interval_ms: 1_000 }, start).expect("no snapshot")
    }

    /// Tells the core something, and gives what it refuses: the connection and why.
    fn refused(core: &mut HubCore, now: Now, event: Event) -> Vec<(ConnectionId, String)> {
        let mut effects = Vec::new();
        core.handle(now, event, &mut effects);
        let refusal = |effect| {
            let Effect::Send { connection, message: HubToEdge::Refused { reason, .. } } = effect else { return None };
            Some((connection, reason))
        };
        effects.into_iter().filter_map(refusal).collect()
    }

    fn connects(connection: u64, name: &AgentId, not_after_ms: UnixMillis) -> Event {
        let digest = Digest::of(&connection.to_le_bytes());
        let certificate = BoxCertificate { digest, key: digest, not_after_ms };
        Event::Connected { connection: ConnectionId(connection), agent: name.clone(), certificate }
    }

    #[test]
    fn a_connection_does_not_outlive_its_certificate_and_none_begins_with_one_that_has_expired() {
        let (mut core, name) = (core(), AgentId::new("box").expect("valid"));
        assert_eq!(refused(&mut core, 10, connects(1, &name, 100)), []);
        assert_eq!(refused(&mut core, 10, connects(2, &name, 50)), []);
        assert_eq!(refused(&mut core, 49, Event::Tick), []);
        assert_eq!(refused(&mut core, 50, Event::Tick), [(ConnectionId(2), EXPIRED.to_owned())]);
        assert_eq!(refused(&mut core, 99, Event::Tick), []);
        assert_eq!(refused(&mut core, 100, Event::Tick), [(ConnectionId(1), EXPIRED.to_owned())]);
        assert_eq!(refused(&mut core, 100, connects(3, &name, 100)), [(ConnectionId(3), EXPIRED.to_owned())]);
    }

    #[test]
    fn a_revocation_closes_what_stands_and_refuses_what_comes() {
        let (mut core, name) = (core(), AgentId::new("box").expect("valid"));
        let other = AgentId::new("other").expect("valid");
        assert_eq!(refused(&mut core, 1, connects(1, &name, 100)), []);
        assert_eq!(refused(&mut core, 1, connects(2, &other, 100)), []);
        let revocation = Revocation { at_ms: 2, by: "ada".to_owned(), reason: "stolen".to_owned() };
        let identity = core.identities().revoke(&name, revocation, true).expect("revokes");
        let change = Event::IdentityChanged(Box::new(Change::Set(identity)));
        let closed: Vec<ConnectionId> = refused(&mut core, 2, change).into_iter().map(|(closed, _)| closed).collect();
        assert_eq!(closed, [ConnectionId(1)]);
        let says = refused(&mut core, 3, connects(3, &name, 100));
        assert!(says.len() == 1 && says[0].1.contains("was revoked"), "{says:?}");
    }
}
