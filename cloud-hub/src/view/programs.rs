//! Programs for boxes, as they are shown.

use serde::Serialize;
use shared::ids::AgentId;
use shared::wire::upkeep::ProgramOutcome;
use utoipa::ToSchema;

use super::Timestamp;
use crate::core::programs::{BoxProgram, KnownProgram, Programs};

/// A program for boxes of one kind.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct ProgramView {
    /// The BLAKE3 hash of its file, which is its name.
    pub file: String,
    /// The release.
    pub release: String,
    /// Grows from release to release.
    pub number: u64,
    /// The boxes that it is for.
    pub target: String,
    /// Bytes of its file.
    pub bytes: u64,
    /// When it was packed.
    pub created: Timestamp,
    /// Until when boxes begin to use it.
    pub expires: Timestamp,
    /// The keys that signed it.
    pub signers: Vec<String>,
    /// Since when it is here.
    pub added: Timestamp,
    /// Who brought it.
    pub added_by: String,
    /// Why it is offered to nobody, if it is not.
    pub halted: Option<String>,
    /// What became of it at the boxes that should run it.
    pub boxes: ProgramCounts,
}

/// Boxes that should run a program, by what became of it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, ToSchema)]
pub struct ProgramCounts {
    /// They did not say anything yet.
    pub waiting: u32,
    /// They run it, and it has not proven itself yet.
    pub on_trial: u32,
    /// They run it.
    pub kept: u32,
    /// They did not begin with it.
    pub refused: u32,
    /// They went back from it.
    pub returned: u32,
}

impl ProgramView {
    /// Of a program.
    #[must_use]
    pub fn of(known: &KnownProgram, programs: &Programs) -> Self {
        let mut boxes = ProgramCounts::default();
        for wanted in programs.boxes().filter_map(|known| known.wanted.as_ref()).filter(|w| w.file == known.file) {
            match &wanted.outcome {
                None => boxes.waiting += 1,
                Some(ProgramOutcome::OnTrial) => boxes.on_trial += 1,
                Some(ProgramOutcome::Kept) => boxes.kept += 1,
                Some(ProgramOutcome::Refused { .. }) => boxes.refused += 1,
                Some(ProgramOutcome::Returned { .. }) => boxes.returned += 1,
            }
        }
        Self {
            file: known.file.to_string(),
            release: known.header.release.clone(),
            number: known.header.number,
            target: known.header.target.clone(),
            bytes: known.bytes,
            created: Timestamp(known.header.created_ms),
            expires: Timestamp(known.header.expires_ms),
            signers: known.signers.clone(),
            added: Timestamp(known.added_ms),
            added_by: known.added_by.clone(),
            halted: known.halted.clone(),
            boxes,
        }
    }
}

/// The program of a box.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct BoxProgramView {
    /// The box.
    #[schema(value_type = String)]
    pub agent: AgentId,
    /// The release that it runs.
    pub release: Option<String>,
    /// The number of what it runs; 0 for one that was built by hand.
    pub number: Option<u64>,
    /// What it runs on.
    pub target: Option<String>,
    /// Whether it takes programs.
    pub accepts: Option<bool>,
    /// Since when it says so.
    pub said: Option<Timestamp>,
    /// The program that it should run.
    pub wanted: Option<String>,
    /// Who wants it.
    pub wanted_by: Option<String>,
    /// What became of that.
    pub outcome: Option<BoxProgramOutcome>,
    /// Why, where it is not what was wanted.
    pub reason: Option<String>,
}

/// What became of a program at a box.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum BoxProgramOutcome {
    /// It runs, and has not proven itself yet.
    OnTrial,
    /// It runs.
    Kept,
    /// The box did not begin with it.
    Refused,
    /// The box went back from it.
    Returned,
}

impl From<&BoxProgram> for BoxProgramView {
    fn from(known: &BoxProgram) -> Self {
        let said = known.said.as_ref();
        let wanted = known.wanted.as_ref();
        let (outcome, reason) = match wanted.and_then(|wanted| wanted.outcome.as_ref()) {
            None => (None, None),
            Some(ProgramOutcome::OnTrial) => (Some(BoxProgramOutcome::OnTrial), None),
            Some(ProgramOutcome::Kept) => (Some(BoxProgramOutcome::Kept), None),
            Some(ProgramOutcome::Refused { reason }) => (Some(BoxProgramOutcome::Refused), Some(reason.clone())),
            Some(ProgramOutcome::Returned { reason }) => (Some(BoxProgramOutcome::Returned), Some(reason.clone())),
        };
        Self {
            agent: known.agent.clone(),
            release: said.map(|(said, _)| said.release.clone()),
            number: said.map(|(said, _)| said.number),
            target: said.map(|(said, _)| said.target.clone()),
            accepts: said.map(|(said, _)| said.accepts),
            said: said.map(|(_, at_ms)| Timestamp(*at_ms)),
            wanted: wanted.map(|wanted| wanted.file.to_string()),
            wanted_by: wanted.map(|wanted| wanted.by.clone()),
            outcome,
            reason,
        }
    }
}
