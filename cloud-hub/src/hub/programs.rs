//! Programs for boxes: brought by people, asked for by boxes, given out in parts.

use std::sync::Arc;

use serde_json::json;
use shared::ids::{AgentId, Digest};
use shared::program::ProgramFile;
use shared::wire::upkeep::{PROGRAM_PART_BYTES, ProgramState, UpkeepAnswer, UpkeepRequest};
use tokio::sync::oneshot;
use tracing::{error, info};

use super::Hub;
use crate::clock;
use crate::core::identities::BoxCertificate;
use crate::core::programs::{KnownProgram, ProgramChange};
use crate::view::programs::ProgramView;

/// The file that was asked for last: boxes of one kind fetch the same one, part by part.
#[derive(Debug, Default)]
pub(super) struct LastProgram(Option<(Digest, Arc<Vec<u8>>)>);

impl Hub {
    /// Answers a box that asks for a program. What it says is durable before it is believed.
    pub(super) async fn upkeep(
        &mut self,
        request: UpkeepRequest,
        agent: AgentId,
        certificate: BoxCertificate,
        answer: oneshot::Sender<UpkeepAnswer>,
    ) {
        let now = clock::unix_ms();
        let admitted = match self.core.identities().admits(&agent, certificate.digest) {
            Ok(()) if certificate.not_after_ms <= now => Err("the certificate has expired".to_owned()),
            Ok(()) => Ok(()),
            Err((_, reason)) => Err(reason),
        };
        let answered = match (admitted, request) {
            (Err(reason), _) => UpkeepAnswer::Refused { reason },
            (Ok(()), UpkeepRequest::Runs(said)) => self.hear_of_program(&agent, said).await,
            (Ok(()), UpkeepRequest::Part { file, offset }) => self.program_part(file, offset).await,
        };
        // The box may have gone; it asks again.
        answer.send(answered).ok();
    }

    async fn hear_of_program(&mut self, agent: &AgentId, said: ProgramState) -> UpkeepAnswer {
        let now = clock::unix_ms();
        let heard = self.programs.hear(now, agent, said);
        if let Err(reason) = self.change_programs(heard.changes).await {
            return UpkeepAnswer::Refused { reason };
        }
        if let Some((release, outcome)) = heard.told {
            info!(%agent, release, ?outcome, "a box said what became of a program");
            self.note_box("program", &json!({ "agent": agent, "release": release, "outcome": outcome })).await;
        }
        heard.offer.map_or(UpkeepAnswer::Nothing { time_ms: now }, UpkeepAnswer::Program)
    }

    async fn program_part(&mut self, file: Digest, offset: u64) -> UpkeepAnswer {
        if self.programs.file(file).is_none_or(|known| known.halted.is_some()) {
            return UpkeepAnswer::Refused { reason: "the program is offered no more".to_owned() };
        }
        let bytes = match &self.last_program.0 {
            Some((known, bytes)) if *known == file => Arc::clone(bytes),
            Some(_) | None => {
                let files = self.program_files.clone();
                let loaded = tokio::task::spawn_blocking(move || files.load(file)).await;
                match loaded.map_err(|error| error.to_string()).and_then(|bytes| bytes.map_err(|e| e.to_string())) {
                    Ok(bytes) => {
                        let bytes = Arc::new(bytes);
                        self.last_program = LastProgram(Some((file, Arc::clone(&bytes))));
                        bytes
                    }
                    Err(failure) => {
                        error!("failed to {failure}");
                        return UpkeepAnswer::Refused { reason: "the hub cannot read that program".to_owned() };
                    }
                }
            }
        };
        let from = usize::try_from(offset).unwrap_or(usize::MAX).min(bytes.len());
        let to = from.saturating_add(PROGRAM_PART_BYTES).min(bytes.len());
        UpkeepAnswer::Part(bytes[from..to].to_vec())
    }

    /// Takes a program in: it must be one, whole, and signed by somebody. Whether boxes trust that signature is theirs to say.
    pub(super) async fn bring_program(&mut self, bytes: Vec<u8>, by: String) -> Result<ProgramView, String> {
        let checked = tokio::task::spawn_blocking(move || {
            let file = ProgramFile::read(&bytes).map_err(|error| error.to_string())?;
            file.unpack().map_err(|error| error.to_string())?;
            let signers: Vec<String> = file.signers().map(|key| key.to_string()).collect();
            if signers.is_empty() {
                return Err("it is not signed; 'cloud-hub package sign' signs it".to_owned());
            }
            let header = file.header().clone();
            let (digest, length) = (Digest::of(&bytes), bytes.len() as u64);
            Ok((
                KnownProgram { file: digest, bytes: length, header, signers, added_ms: 0, added_by: by, halted: None },
                bytes,
            ))
        });
        let (known, bytes) = checked.await.map_err(|error| error.to_string())??;
        let known = KnownProgram { added_ms: clock::unix_ms(), ..known };
        let file = known.file;
        let change = self.programs.add(known)?;
        let files = self.program_files.clone();
        let stored = tokio::task::spawn_blocking(move || files.store(file, &bytes)).await;
        stored.map_err(|error| error.to_string())?.map_err(|failure| {
            error!("failed to {failure}");
            "the hub's disk failed; nothing was changed".to_owned()
        })?;
        self.change_programs(vec![change]).await?;
        self.shown_program(file)
    }

    /// Boxes should run a program.
    pub(super) async fn offer_program(
        &mut self,
        file: Digest,
        agents: Vec<AgentId>,
        by: String,
    ) -> Result<ProgramView, String> {
        let changes = self.programs.offer(clock::unix_ms(), file, &agents, &by)?;
        self.change_programs(changes).await?;
        self.shown_program(file)
    }

    /// A program that was halted may be offered again.
    pub(super) async fn resume_program(&mut self, file: Digest) -> Result<ProgramView, String> {
        let change = self.programs.resume(file)?;
        self.change_programs(vec![change]).await?;
        self.shown_program(file)
    }

    /// A program goes.
    pub(super) async fn remove_program(&mut self, file: Digest) -> Result<(), String> {
        let change = self.programs.remove(file)?;
        self.change_programs(vec![change]).await?;
        self.last_program = LastProgram::default();
        self.program_files.remove(file);
        Ok(())
    }

    fn shown_program(&self, file: Digest) -> Result<ProgramView, String> {
        let known = self.programs.file(file).ok_or_else(|| format!("there is no program {file}"))?;
        Ok(ProgramView::of(known, &self.programs))
    }

    async fn change_programs(&mut self, changes: Vec<ProgramChange>) -> Result<(), String> {
        if changes.is_empty() {
            return Ok(());
        }
        self.store.save_programs(&changes).await.map_err(|failure| {
            error!("failed to {failure}");
            "the hub's database failed; nothing was changed".to_owned()
        })?;
        changes.into_iter().for_each(|change| self.programs.apply(change));
        Ok(())
    }
}
