//! Connections that may stand: of boxes that are let in, with certificates that hold.

use std::collections::BTreeMap;

use shared::event::UnixMillis;
use shared::ids::AgentId;

use super::identities::{BoxCertificate, Change};
use super::{ConnectionId, Effect, HubCore, Now};

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
        connection: ConnectionId,
        agent: AgentId,
        certificate: BoxCertificate,
        effects: &mut Vec<Effect>,
    ) {
        let admitted = self.identities.admits(&agent, certificate.digest);
        self.sessions.connected(connection, agent);
        match admitted {
            Err((_, reason)) => self.refuse(connection, reason, effects),
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
            Change::AddTokens { .. } | Change::RemoveToken(_) => None,
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
        self.close_those(effects, |_, _, certificate| {
            (certificate.not_after_ms <= now).then(|| "the certificate has expired".to_owned())
        });
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
