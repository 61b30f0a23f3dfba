//! Which program a box runs, the one that was installed or one that its hub sent, and whether it keeps a new one.

use serde::{Deserialize, Serialize};
use shared::event::UnixMillis;
use shared::ids::Digest;
use shared::program::ProgramHeader;
use shared::wire::upkeep::{ProgramOutcome, ProgramReport};

use super::Millis;

/// Starts that a new program may need until it has proven itself: a power cut and a slow broker are no fault of its.
pub const TRIAL_STARTS: u32 = 3;
/// A new program proves itself within so many times the time for which all must be well, or the box goes back.
const PATIENCE: u64 = 10;

/// What a box knows of its programs; it is kept on the disk.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProgramBook {
    /// No program below this number is taken any more.
    floor: u64,
    /// The program that runs in the place of the installed one.
    current: Option<HeldProgram>,
    /// The one that ran before it; nothing: the installed one.
    previous: Option<HeldProgram>,
    /// The current one has not proven itself yet.
    trial: Option<ProgramTrial>,
    /// What became of the newest offer.
    newest: Option<ProgramReport>,
}

/// A program on the box's disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeldProgram {
    /// Its release.
    pub release: String,
    /// Its number.
    pub number: u64,
    /// The hash of the program, which is its name.
    pub program: Digest,
}

/// A program that must prove itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProgramTrial {
    /// The offer that it came by.
    offer: u64,
    starts: u32,
    /// Whether the program before answered with a model: then this one must, too.
    had_model: bool,
}

/// Why a program is not begun with.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unfit {
    /// It is for other boxes.
    #[error("it is for {found}, this box is {target}")]
    Target {
        /// What it is for.
        found: String,
        /// What the box is.
        target: String,
    },
    /// It is not newer.
    #[error("its number is {found}, the box runs {running}: a new one must be higher")]
    NotNewer {
        /// Its number.
        found: u64,
        /// The number of the one that runs.
        running: u64,
    },
    /// The box kept a newer one before.
    #[error("its number is {found}, the box kept {floor} before")]
    BelowFloor {
        /// Its number.
        found: u64,
        /// The least that is taken.
        floor: u64,
    },
    /// It is too old to begin with.
    #[error("it expired {minutes} minutes ago")]
    Expired {
        /// How long ago.
        minutes: i64,
    },
}

impl ProgramBook {
    /// The program to start; nothing: the installed one, whose number is `installed`. To be stored before it is started.
    pub fn start(&mut self, installed: u64) -> Option<&HeldProgram> {
        // Whoever installs a newer one by hand means it.
        if self.current.as_ref().is_some_and(|current| current.number <= installed) {
            (self.current, self.previous, self.trial) = (None, None, None);
        }
        match &mut self.trial {
            Some(trial) if trial.starts >= TRIAL_STARTS => {
                let reason = format!("it was started {TRIAL_STARTS} times and did not prove itself");
                self.go_back(reason);
            }
            Some(trial) => trial.starts += 1,
            None => {}
        }
        self.current.as_ref()
    }

    /// Whether a program that is offered may be begun with, by what it says of itself.
    ///
    /// # Errors
    /// Says why not.
    pub fn check(&self, header: &ProgramHeader, target: &str, running: u64, now: UnixMillis) -> Result<(), Unfit> {
        let found = header.number;
        if header.target != target {
            return Err(Unfit::Target { found: header.target.clone(), target: target.to_owned() });
        }
        if found < self.floor {
            return Err(Unfit::BelowFloor { found, floor: self.floor });
        }
        if found <= running {
            return Err(Unfit::NotNewer { found, running });
        }
        if header.expires_ms <= now {
            return Err(Unfit::Expired { minutes: (now - header.expires_ms) / 60_000 });
        }
        Ok(())
    }

    /// The box begins with a program that it has on its disk, at its next start.
    pub fn begin(&mut self, offer: u64, header: &ProgramHeader, had_model: bool) {
        let ProgramHeader { release, number, program, .. } = header;
        let held = HeldProgram { release: release.clone(), number: *number, program: *program };
        // One that is itself on trial is none to go back to.
        let replaced = self.current.replace(held);
        if self.trial.is_none() {
            self.previous = replaced;
        }
        self.trial = Some(ProgramTrial { offer, starts: 0, had_model });
        self.newest = Some(ProgramReport { offer, outcome: ProgramOutcome::OnTrial });
    }

    /// The current program has proven itself.
    pub fn keep(&mut self) {
        let Some(trial) = self.trial.take() else { return };
        self.floor = self.current.as_ref().map_or(self.floor, |current| current.number.max(self.floor));
        self.previous = None;
        self.newest = Some(ProgramReport { offer: trial.offer, outcome: ProgramOutcome::Kept });
    }

    /// The current program is none to run: the one before is, from the next start on.
    pub fn go_back(&mut self, reason: String) {
        self.current = self.previous.take();
        if let Some(trial) = self.trial.take() {
            self.newest = Some(ProgramReport { offer: trial.offer, outcome: ProgramOutcome::Returned { reason } });
        }
    }

    /// An offer is not begun with.
    pub fn refuse(&mut self, offer: u64, reason: String) {
        self.newest = Some(ProgramReport { offer, outcome: ProgramOutcome::Refused { reason } });
    }

    /// Whether an offer was settled before, one way or the other.
    #[must_use]
    pub fn is_settled(&self, offer: u64) -> bool {
        self.newest.as_ref().is_some_and(|newest| newest.offer == offer)
    }

    /// What became of the newest offer.
    #[must_use]
    pub fn newest(&self) -> Option<&ProgramReport> {
        self.newest.as_ref()
    }

    /// The program that runs in the place of the installed one.
    #[must_use]
    pub fn current(&self) -> Option<&HeldProgram> {
        self.current.as_ref()
    }

    /// The program on trial, if the current one is.
    #[must_use]
    pub fn trial(&self) -> Option<&ProgramTrial> {
        self.trial.as_ref()
    }

    /// The programs that must stay on the disk.
    pub fn held(&self) -> impl Iterator<Item = Digest> {
        [&self.current, &self.previous].into_iter().flatten().map(|held| held.program)
    }
}

/// How a box is, as far as a program can be blamed for it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct BoxHealth {
    /// The hub talks with it.
    pub has_hub: bool,
    /// The broker is connected.
    pub has_broker: bool,
    /// A model answers.
    pub has_model: bool,
}

/// A new program, watched until it is known whether it is kept.
#[derive(Debug)]
pub struct Proving {
    had_model: bool,
    settle_ms: u64,
    well_since: Option<Millis>,
}

/// What is to be done with a new program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing yet.
    Wait,
    /// It is kept.
    Keep,
    /// The box goes back.
    GoBack(String),
}

impl Proving {
    /// All must be well for `settle_ms` without a break.
    #[must_use]
    pub fn new(trial: &ProgramTrial, settle_ms: u64) -> Self {
        Self { had_model: trial.had_model, settle_ms, well_since: None }
    }

    /// Looks at how the box is, `uptime` after the program's start.
    pub fn look(&mut self, uptime: Millis, health: BoxHealth) -> Verdict {
        let BoxHealth { has_hub, has_broker, has_model } = health;
        let is_well = has_hub && has_broker && (has_model || !self.had_model);
        if is_well {
            let since = *self.well_since.get_or_insert(uptime);
            let is_settled = uptime.0.saturating_sub(since.0) >= self.settle_ms;
            return if is_settled { Verdict::Keep } else { Verdict::Wait };
        }
        self.well_since = None;
        if uptime.0 < self.settle_ms.saturating_mul(PATIENCE) {
            return Verdict::Wait;
        }
        let lacks = [
            (!has_hub, "the hub is not connected"),
            (!has_broker, "the broker is not connected"),
            (self.had_model && !has_model, "no model answers, and one did before"),
        ];
        let lacks: Vec<&str> = lacks.into_iter().filter(|(is_so, _)| *is_so).map(|(_, what)| what).collect();
        Verdict::GoBack(format!("after {} s {}", uptime.0 / 1_000, lacks.join(", ")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TARGET: &str = "x86_64-unknown-linux-musl";

    fn header(number: u64) -> ProgramHeader {
        ProgramHeader {
            release: format!("0.{number}.0"),
            number,
            target: TARGET.to_owned(),
            created_ms: 0,
            expires_ms: 1_000_000_000,
            bytes: 1,
            program: Digest::of(&number.to_le_bytes()),
            packed: Digest::of(b""),
        }
    }

    fn started(book: &mut ProgramBook, installed: u64) -> Option<u64> {
        book.start(installed).map(|held| held.number)
    }

    fn outcome(book: &ProgramBook) -> Option<&ProgramOutcome> {
        book.newest().map(|newest| &newest.outcome)
    }

    #[test]
    fn a_program_that_proves_itself_is_kept_and_none_below_it_is_taken_any_more() {
        let mut book = ProgramBook::default();
        assert_eq!(started(&mut book, 1), None);
        assert_eq!(book.check(&header(5), TARGET, 1, 0), Ok(()));
        book.begin(1, &header(5), true);
        assert_eq!(outcome(&book), Some(&ProgramOutcome::OnTrial));
        assert_eq!(started(&mut book, 1), Some(5));
        book.keep();
        assert_eq!(outcome(&book), Some(&ProgramOutcome::Kept));
        assert_eq!((started(&mut book, 1), book.held().count()), (Some(5), 1));
        assert_eq!(book.check(&header(4), TARGET, 5, 0), Err(Unfit::BelowFloor { found: 4, floor: 5 }));
        assert_eq!(book.check(&header(5), TARGET, 5, 0), Err(Unfit::NotNewer { found: 5, running: 5 }));
    }

    #[test]
    fn a_program_that_does_not_survive_its_starts_is_gone_back_from() {
        let mut book = ProgramBook::default();
        book.begin(1, &header(5), false);
        assert_eq!(started(&mut book, 1), Some(5));
        book.keep();
        book.begin(2, &header(6), false);
        assert_eq!(book.held().count(), 2, "the one before stays at hand");
        for _ in 0..TRIAL_STARTS {
            assert_eq!(started(&mut book, 1), Some(6));
        }
        assert_eq!(started(&mut book, 1), Some(5));
        assert!(matches!(outcome(&book), Some(ProgramOutcome::Returned { .. })));
        assert!(book.is_settled(2) && !book.is_settled(3));
        assert_eq!(started(&mut book, 1), Some(5));
    }

    #[test]
    fn one_on_trial_that_is_replaced_is_none_to_go_back_to() {
        let mut book = ProgramBook::default();
        book.begin(1, &header(5), false);
        book.begin(2, &header(6), false);
        book.go_back("why".to_owned());
        assert_eq!(started(&mut book, 1), None, "the installed one");
    }

    #[test]
    fn what_is_installed_by_hand_and_newer_wins() {
        let mut book = ProgramBook::default();
        book.begin(1, &header(5), false);
        book.keep();
        assert_eq!(started(&mut book, 5), None);
        assert_eq!(book.held().count(), 0);
    }

    #[test]
    fn what_does_not_fit_is_refused_by_its_cause() {
        let book = ProgramBook::default();
        let other = ProgramHeader { target: "aarch64-unknown-linux-musl".to_owned(), ..header(9) };
        let words = |refused: Result<(), Unfit>| refused.expect_err("refused").to_string();
        assert_eq!(
            words(book.check(&other, TARGET, 1, 0)),
            "it is for aarch64-unknown-linux-musl, this box is x86_64-unknown-linux-musl"
        );
        assert_eq!(words(book.check(&header(9), TARGET, 1, 1_007_200_000)), "it expired 120 minutes ago");
        assert_eq!(
            words(book.check(&header(9), TARGET, 9, 0)),
            "its number is 9, the box runs 9: a new one must be higher"
        );
    }

    #[test]
    fn all_must_be_well_without_a_break_and_not_for_ever() {
        let trial = ProgramTrial { offer: 1, starts: 1, had_model: true };
        let well = BoxHealth { has_hub: true, has_broker: true, has_model: true };
        let mut proving = Proving::new(&trial, 60_000);
        assert_eq!(proving.look(Millis(0), BoxHealth::default()), Verdict::Wait);
        assert_eq!(proving.look(Millis(5_000), well), Verdict::Wait);
        assert_eq!(proving.look(Millis(64_999), well), Verdict::Wait);
        let broken = BoxHealth { has_model: false, ..well };
        assert_eq!(proving.look(Millis(64_999), broken), Verdict::Wait, "a break");
        assert_eq!(proving.look(Millis(66_000), well), Verdict::Wait);
        assert_eq!(proving.look(Millis(126_000), well), Verdict::Keep);
        let mut proving = Proving::new(&trial, 60_000);
        assert_eq!(proving.look(Millis(599_999), broken), Verdict::Wait);
        assert_eq!(proving.look(Millis(600_000), well), Verdict::Wait, "it may yet prove itself");
        let verdict = proving.look(Millis(601_000), BoxHealth { has_hub: false, ..broken });
        let why = "after 601 s the hub is not connected, no model answers, and one did before";
        assert_eq!(verdict, Verdict::GoBack(why.to_owned()));
    }
}
