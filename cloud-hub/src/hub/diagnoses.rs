//! Boxes that are asked how they are, and what they say.

use shared::ids::AgentId;
use shared::wire::diagnosis::PackedDiagnosis;
use shared::wire::message::HubToEdge;
use tracing::{info, warn};

use super::Hub;
use crate::clock;
use crate::core::ConnectionId;
use crate::core::diagnoses::Diagnosis;

impl Hub {
    /// Asks a box.
    ///
    /// # Errors
    /// If it is not connected.
    pub(super) fn diagnose(&mut self, agent: AgentId, by: String) -> Result<(), String> {
        let connection = self.core.sessions().greeted_by(&agent);
        let connection = connection.ok_or_else(|| format!("{agent} is not connected"))?;
        let request = self.diagnoses.ask(clock::unix_ms(), agent, by);
        self.send(connection, HubToEdge::Examine { request });
        Ok(())
    }

    /// A box answers.
    pub(super) fn hear_diagnosis(&mut self, connection: ConnectionId, request: u64, document: PackedDiagnosis) {
        let Some(session) = self.core.sessions().get(connection) else { return };
        let agent = session.agent.clone();
        if self.diagnoses.hear(clock::unix_ms(), &agent, request, document) {
            info!(%agent, "a box said how it is");
        } else {
            warn!(%agent, "a box said how it is, and nobody asked");
        }
    }

    /// What a box said last.
    pub(super) fn diagnosis_of(&self, agent: &AgentId) -> Option<Diagnosis> {
        self.diagnoses.of(agent).cloned()
    }
}
