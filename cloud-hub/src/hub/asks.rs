//! Boxes that ask to be let in with a claim: heard, noted once, and let in when somebody said so.

use std::net::SocketAddr;

use serde_json::json;
use shared::event::UnixMillis;
use shared::ids::{AgentId, Digest};
use shared::wire::enrol::{EnrolAnswer, Refusal};
use tracing::info;

use super::Hub;
use super::enrolment::unavailable;
use crate::authority::BoxRequest;
use crate::core::identities::{Asking, BoxLabels, Change, Refused};

impl Hub {
    /// Answers a box that shows a claim and says its name and hardware.
    pub(super) async fn hear_ask(
        &mut self,
        now: UnixMillis,
        claim: Digest,
        (name, hardware): (Option<AgentId>, String),
        csr: &[u8],
        peer: SocketAddr,
    ) -> Result<EnrolAnswer, Refused> {
        let request = BoxRequest::read(csr).map_err(|problem| (Refusal::Malformed, problem))?;
        let is_known = |agent: &AgentId| self.core.sessions().facts(agent).is_some();
        let from = peer.ip().to_string();
        let asking = Asking { name: name.as_ref(), hardware: &hardware, from: &from, wanted: &request.wanted };
        match self.core.identities().hear_ask(now, claim, asking, is_known) {
            Ok(admission) => self.let_in(now, admission, &request, peer).await,
            Err((refused, None)) => Err(refused),
            Err((refused, Some(change))) => {
                if let Change::Ask { ask, .. } = &*change {
                    let row = json!({ "ask": ask.id, "claim": ask.claim, "hardware": ask.hardware, "from": ask.from });
                    info!(ask = %ask.id, %peer, "a box asks to be let in");
                    self.change_identities(*change).await.map_err(unavailable)?;
                    self.note_box("enrolment_asked", &row).await;
                }
                Err(refused)
            }
        }
    }

    /// A box that asks is let in, under the name that is given, or that it wished for.
    pub(super) async fn approve_ask(
        &mut self,
        id: &str,
        agent: Option<&AgentId>,
        labels: &BoxLabels,
        by: &str,
    ) -> Result<(), String> {
        let is_known = |agent: &AgentId| self.core.sessions().facts(agent).is_some();
        let change = self.core.identities().approve_ask(id, agent, labels, by, is_known)?;
        self.change_identities(change).await
    }

    /// A box that asks is not heard; if it asks again it is a new ask.
    pub(super) async fn remove_ask(&mut self, id: String) -> Result<(), String> {
        self.change_identities(Change::Remove { tokens: Vec::new(), asks: vec![id] }).await
    }
}
