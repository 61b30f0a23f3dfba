//! Programs for boxes: which there are, which box should run which, and what became of it.
//!
//! A program that one box returned from or refused is offered to no other until a person says so.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use shared::event::UnixMillis;
use shared::ids::{AgentId, Digest};
use shared::program::ProgramHeader;
use shared::wire::upkeep::{ProgramOffer, ProgramOutcome, ProgramState};

/// Programs that are kept: releases for five targets over years; old ones are removed by hand.
pub const MAX_PROGRAMS: usize = 256;

/// What the hub knows of programs.
#[derive(Debug, Default)]
pub struct Programs {
    files: BTreeMap<Digest, KnownProgram>,
    boxes: BTreeMap<AgentId, BoxProgram>,
}

/// A program's file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KnownProgram {
    /// The digest of the file.
    pub file: Digest,
    /// Its bytes.
    pub bytes: u64,
    /// What it says of itself.
    pub header: ProgramHeader,
    /// Whose signatures it has, `ed25519:...`.
    pub signers: Vec<String>,
    /// Since when it is here.
    pub added_ms: UnixMillis,
    /// Who brought it.
    pub added_by: String,
    /// Why it is offered to nobody, if it is not.
    pub halted: Option<String>,
}

/// A box's program.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BoxProgram {
    /// The box.
    pub agent: AgentId,
    /// What it said of its program, and when.
    pub said: Option<(ProgramState, UnixMillis)>,
    /// What it should run.
    pub wanted: Option<WantedProgram>,
}

/// What a box should run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WantedProgram {
    /// Numbers the hub's offers.
    pub offer: u64,
    /// The program.
    pub file: Digest,
    /// Who wants it.
    pub by: String,
    /// Since when.
    pub since_ms: UnixMillis,
    /// What the box made of it.
    pub outcome: Option<ProgramOutcome>,
}

/// What changes, to be made durable before it is in force.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ProgramChange {
    /// A program is new, or other than it was.
    File(KnownProgram),
    /// A program is gone.
    Removed(Digest),
    /// A box's program.
    Box(BoxProgram),
}

/// What a box is told, and what follows from what it said.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Heard {
    /// The program that it should run.
    pub offer: Option<ProgramOffer>,
    /// What changes.
    pub changes: Vec<ProgramChange>,
    /// What a person should know: the box, the program's release, and what became of it.
    pub told: Option<(String, ProgramOutcome)>,
}

impl Programs {
    /// As they were kept.
    #[must_use]
    pub fn new(files: Vec<KnownProgram>, boxes: Vec<BoxProgram>) -> Self {
        let files = files.into_iter().map(|known| (known.file, known)).collect();
        Self { files, boxes: boxes.into_iter().map(|known| (known.agent.clone(), known)).collect() }
    }

    /// The programs, the highest number first.
    #[must_use]
    pub fn files(&self) -> Vec<&KnownProgram> {
        let mut files: Vec<&KnownProgram> = self.files.values().collect();
        files.sort_by(|a, b| {
            let key = |known: &KnownProgram| (std::cmp::Reverse(known.header.number), known.header.target.clone());
            key(a).cmp(&key(b)).then_with(|| a.file.cmp(&b.file))
        });
        files
    }

    /// One of them.
    #[must_use]
    pub fn file(&self, file: Digest) -> Option<&KnownProgram> {
        self.files.get(&file)
    }

    /// The boxes that spoke of their program, or should run another, by name.
    pub fn boxes(&self) -> impl Iterator<Item = &BoxProgram> {
        self.boxes.values()
    }

    /// Puts a change in force.
    pub fn apply(&mut self, change: ProgramChange) {
        match change {
            ProgramChange::File(known) => drop(self.files.insert(known.file, known)),
            ProgramChange::Removed(file) => drop(self.files.remove(&file)),
            ProgramChange::Box(known) => drop(self.boxes.insert(known.agent.clone(), known)),
        }
    }

    /// A box says what it runs.
    #[must_use]
    pub fn hear(&self, now: UnixMillis, agent: &AgentId, said: ProgramState) -> Heard {
        let mut heard = Heard::default();
        let before = self.boxes.get(agent);
        let mut wanted = before.and_then(|known| known.wanted.clone());
        let reported = said.outcome.clone();
        if let (Some(wanted), Some(report)) = (&mut wanted, reported)
            && wanted.offer == report.offer
            && wanted.outcome.as_ref() != Some(&report.outcome)
        {
            if let Some(known) = self.files.get(&wanted.file) {
                let release = known.header.release.clone();
                if let Some(why) = halts(agent, &report.outcome).filter(|_| known.halted.is_none()) {
                    heard.changes.push(ProgramChange::File(KnownProgram { halted: Some(why), ..known.clone() }));
                }
                heard.told = Some((release, report.outcome.clone()));
            }
            wanted.outcome = Some(report.outcome);
        }
        heard.offer = wanted.as_ref().and_then(|wanted| self.offer_of(wanted, &said));
        let is_known = before.and_then(|known| known.said.as_ref()).is_some_and(|(known, _)| *known == said);
        if !is_known || before.map(|known| &known.wanted) != Some(&wanted) {
            heard.changes.push(ProgramChange::Box(BoxProgram {
                agent: agent.clone(),
                said: Some((said, now)),
                wanted,
            }));
        }
        heard
    }

    fn offer_of(&self, wanted: &WantedProgram, said: &ProgramState) -> Option<ProgramOffer> {
        let known = self.files.get(&wanted.file).filter(|known| known.halted.is_none())?;
        let ProgramHeader { number, target, .. } = &known.header;
        let fits = said.accepts && said.number < *number && said.target == *target && wanted.outcome.is_none();
        fits.then_some(ProgramOffer { offer: wanted.offer, file: known.file, bytes: known.bytes })
    }

    /// A program is brought.
    ///
    /// # Errors
    /// If there are too many.
    pub fn add(&self, known: KnownProgram) -> Result<ProgramChange, String> {
        if self.files.len() >= MAX_PROGRAMS && !self.files.contains_key(&known.file) {
            return Err(format!("there are {MAX_PROGRAMS} programs already; remove old ones"));
        }
        // Whoever brings it again says nothing of what boxes made of it.
        let halted = self.files.get(&known.file).and_then(|before| before.halted.clone());
        Ok(ProgramChange::File(KnownProgram { halted, ..known }))
    }

    /// Boxes should run a program.
    ///
    /// # Errors
    /// If there is no such program, it is halted, or one of the boxes is known to be of another kind or to take none.
    pub fn offer(
        &self,
        now: UnixMillis,
        file: Digest,
        agents: &[AgentId],
        by: &str,
    ) -> Result<Vec<ProgramChange>, String> {
        let known = self.files.get(&file).ok_or_else(|| format!("there is no program {file}"))?;
        if let Some(why) = &known.halted {
            return Err(format!("program {} is halted: {why}", known.header.release));
        }
        let offers = self.boxes.values().filter_map(|known| known.wanted.as_ref()).map(|wanted| wanted.offer);
        // A hub that lost its database does not count from the beginning: boxes remember what they settled.
        let newest = offers.max().unwrap_or(0).max(u64::try_from(now).unwrap_or(0));
        let mut changes = Vec::new();
        for (agent, offer) in agents.iter().zip(newest + 1..) {
            let before = self.boxes.get(agent);
            let said = before.and_then(|known| known.said.clone());
            if let Some((said, _)) = &said {
                if said.target != known.header.target {
                    return Err(format!("{agent} is {}, the program is for {}", said.target, known.header.target));
                }
                if !said.accepts {
                    return Err(format!("{agent} takes no programs; give it a key in its [update] trust"));
                }
            }
            let wanted = WantedProgram { offer, file, by: by.to_owned(), since_ms: now, outcome: None };
            changes.push(ProgramChange::Box(BoxProgram { agent: agent.clone(), said, wanted: Some(wanted) }));
        }
        Ok(changes)
    }

    /// A program that was halted may be offered again.
    ///
    /// # Errors
    /// If there is none such.
    pub fn resume(&self, file: Digest) -> Result<ProgramChange, String> {
        let known = self.files.get(&file).ok_or_else(|| format!("there is no program {file}"))?;
        match &known.halted {
            None => Err(format!("program {} is not halted", known.header.release)),
            Some(_) => Ok(ProgramChange::File(KnownProgram { halted: None, ..known.clone() })),
        }
    }

    /// A program goes. Boxes that have it keep it.
    ///
    /// # Errors
    /// If there is none such, or boxes are about to fetch it.
    pub fn remove(&self, file: Digest) -> Result<ProgramChange, String> {
        let known = self.files.get(&file).ok_or_else(|| format!("there is no program {file}"))?;
        let waits = |known: &&BoxProgram| known.wanted.as_ref().is_some_and(|w| w.file == file && w.outcome.is_none());
        match self.boxes.values().find(waits) {
            Some(waiting) if known.halted.is_none() => {
                Err(format!("program {} is offered to {} and others", known.header.release, waiting.agent))
            }
            Some(_) | None => Ok(ProgramChange::Removed(file)),
        }
    }
}

/// Why a program is offered to no other box after this, if so.
fn halts(agent: &AgentId, outcome: &ProgramOutcome) -> Option<String> {
    match outcome {
        ProgramOutcome::OnTrial | ProgramOutcome::Kept => None,
        ProgramOutcome::Refused { reason } => Some(format!("{agent} refused it: {reason}")),
        ProgramOutcome::Returned { reason } => Some(format!("{agent} went back from it: {reason}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use shared::wire::upkeep::ProgramReport;

    const TARGET: &str = "x86_64-unknown-linux-musl";

    fn program(number: u64) -> KnownProgram {
        let header = ProgramHeader {
            release: format!("0.{number}.0"),
            number,
            target: TARGET.to_owned(),
            created_ms: 0,
            expires_ms: 9,
            bytes: 1,
            program: Digest::of(b"p"),
            packed: Digest::of(b"q"),
        };
        let (file, added_by) = (Digest::of(&number.to_le_bytes()), "ada".to_owned());
        KnownProgram { file, bytes: 77, header, signers: Vec::new(), added_ms: 0, added_by, halted: None }
    }

    fn said(number: u64, outcome: Option<(u64, ProgramOutcome)>) -> ProgramState {
        let outcome = outcome.map(|(offer, outcome)| ProgramReport { offer, outcome });
        ProgramState { release: "0".to_owned(), number, target: TARGET.to_owned(), accepts: true, outcome }
    }

    fn name(agent: &str) -> AgentId {
        AgentId::new(agent).expect("valid")
    }

    fn hear(programs: &mut Programs, agent: &str, said: ProgramState) -> Option<ProgramOffer> {
        let heard = programs.hear(5, &name(agent), said);
        heard.changes.into_iter().for_each(|change| programs.apply(change));
        heard.offer
    }

    fn offered(agents: &[&str]) -> Programs {
        let mut programs = Programs::default();
        programs.apply(programs.add(program(2)).expect("there is room"));
        let agents: Vec<AgentId> = agents.iter().map(|agent| name(agent)).collect();
        let changes = programs.offer(0, program(2).file, &agents, "ada").expect("offers");
        changes.into_iter().for_each(|change| programs.apply(change));
        programs
    }

    #[test]
    fn a_box_is_offered_what_it_should_run_until_it_says_what_became_of_it() {
        let mut programs = offered(&["a"]);
        assert_eq!(hear(&mut programs, "b", said(1, None)), None, "nobody wants it there");
        let offer = ProgramOffer { offer: 1, file: program(2).file, bytes: 77 };
        assert_eq!(hear(&mut programs, "a", said(1, None)), Some(offer));
        assert_eq!(hear(&mut programs, "a", said(1, None)), Some(offer), "it may have been away");
        assert!(programs.hear(9, &name("a"), said(1, None)).changes.is_empty(), "nothing is new");
        assert!(programs.remove(program(2).file).is_err_and(|why| why.contains("offered to a")));
        assert_eq!(hear(&mut programs, "a", said(1, Some((1, ProgramOutcome::OnTrial)))), None);
        assert_eq!(hear(&mut programs, "a", said(2, Some((1, ProgramOutcome::Kept)))), None);
        let outcome = programs.boxes().next().and_then(|known| known.wanted.clone()).and_then(|wanted| wanted.outcome);
        assert_eq!(outcome, Some(ProgramOutcome::Kept));
        assert!(programs.remove(program(2).file).is_ok());
    }

    #[test]
    fn one_box_that_goes_back_halts_the_program_for_all() {
        let mut programs = offered(&["a", "b"]);
        assert!(hear(&mut programs, "b", said(1, None)).is_some());
        let returned = ProgramOutcome::Returned { reason: "no hub".to_owned() };
        assert_eq!(hear(&mut programs, "a", said(1, Some((1, returned.clone())))), None);
        assert_eq!(hear(&mut programs, "b", said(1, None)), None);
        let why = programs.file(program(2).file).and_then(|known| known.halted.clone());
        assert_eq!(why.as_deref(), Some("a went back from it: no hub"));
        programs.apply(programs.add(program(2)).expect("it is there"));
        assert!(programs.offer(2, program(2).file, &[name("b")], "ada").is_err_and(|why| why.contains("halted")));
        programs.apply(programs.resume(program(2).file).expect("is halted"));
        assert!(hear(&mut programs, "b", said(1, None)).is_some());
        assert_eq!(hear(&mut programs, "a", said(1, Some((1, returned)))), None, "it was tried there");
        let again = programs.offer(2, program(2).file, &[name("a")], "ada").expect("offers");
        again.into_iter().for_each(|change| programs.apply(change));
        assert_eq!(hear(&mut programs, "a", said(1, None)).map(|offer| offer.offer), Some(3));
    }

    #[test]
    fn what_cannot_come_to_anything_is_not_offered() {
        let mut programs = offered(&["a"]);
        assert_eq!(hear(&mut programs, "a", said(2, None)), None, "it runs it already");
        assert_eq!(hear(&mut programs, "a", ProgramState { accepts: false, ..said(1, None) }), None);
        let file = program(2).file;
        assert!(programs.offer(1, file, &[name("a")], "x").is_err_and(|why| why.contains("takes no programs")));
        let arm = ProgramState { target: "aarch64-unknown-linux-musl".to_owned(), ..said(1, None) };
        assert_eq!(hear(&mut programs, "a", arm), None);
        let refused = programs.offer(1, file, &[name("a")], "x").expect_err("another kind");
        assert_eq!(refused, format!("a is aarch64-unknown-linux-musl, the program is for {TARGET}"));
        assert!(programs.offer(1, Digest::of(b"?"), &[], "x").is_err());
    }
}
