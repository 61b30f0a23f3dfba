//! How often the agent ended within minutes of its start, so that one that cannot run with its model runs without.
//!
//! Counted is where a service manager starts it anew, and within one boot of the box: a power cut is no fault of the agent's.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use shared::seglog::file::BOOT_ID;
use tracing::warn;

use crate::core::Millis;

/// Ends after which the agent runs without a model.
pub(super) const MOST_CRASHES: u32 = 3;
/// An agent that ran for so long was not ended by its start.
const SETTLED_MS: u64 = 5 * 60_000;

/// The count, beside the state.
#[derive(Debug)]
pub(super) struct Crashes {
    file: PathBuf,
    boot: String,
    before: u32,
    is_settled: bool,
}

impl Crashes {
    /// Notes that an agent starts. `is_counted` says whether somebody starts it anew when it ends.
    pub(super) fn begin(directory: &Path, is_counted: bool) -> Self {
        Self::begin_in(directory, &fs::read_to_string(BOOT_ID).unwrap_or_default(), is_counted)
    }

    fn begin_in(directory: &Path, boot: &str, is_counted: bool) -> Self {
        let file = directory.join("starts");
        // Where the kernel's name for this boot is hidden, every boot looks like the last one, which counts too much rather
        // than too little.
        let boot = Some(boot.trim()).filter(|boot| !boot.is_empty()).unwrap_or("unknown").to_owned();
        let noted = fs::read_to_string(&file).unwrap_or_default();
        let before = noted.trim().split_once(' ').filter(|(noted, _)| *noted == boot);
        let before = before.and_then(|(_, count)| count.parse().ok()).unwrap_or(0);
        let crashes = Self { file, boot, before, is_settled: !is_counted };
        if is_counted {
            crashes.note(before.saturating_add(1));
        }
        crashes
    }

    /// Whether the agent should do without a model, after this many ends.
    pub(super) fn too_many(&self) -> Option<u32> {
        Some(self.before).filter(|before| !self.is_settled && *before >= MOST_CRASHES)
    }

    /// The agent runs; after a while that is proof enough.
    pub(super) fn runs(&mut self, uptime: Millis) {
        if !self.is_settled && uptime.0 >= SETTLED_MS {
            self.is_settled = true;
            self.note(0);
        }
    }

    /// The agent was told to stop.
    pub(super) fn stopped(&self) {
        self.note(0);
    }

    fn note(&self, count: u32) {
        let written =
            if count == 0 { remove(&self.file) } else { fs::write(&self.file, format!("{} {count}\n", self.boot)) };
        if let Err(error) = written {
            warn!("failed to note starts in {}: {error}", self.file.display());
        }
    }
}

fn remove(file: &Path) -> io::Result<()> {
    match fs::remove_file(file) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_ends_in_a_row_are_too_many_and_a_good_one_starts_anew() {
        let directory = tempfile::tempdir().expect("dir");
        let begin = || Crashes::begin(directory.path(), true);
        for _ in 0..MOST_CRASHES {
            assert_eq!(begin().too_many(), None);
        }
        assert_eq!(begin().too_many(), Some(3));
        begin().stopped();
        assert_eq!(begin().too_many(), None);
        let mut long = begin();
        long.runs(Millis(SETTLED_MS - 1));
        assert_eq!(begin().before, 2);
        long.runs(Millis(SETTLED_MS));
        assert_eq!(begin().before, 0);
    }

    #[test]
    fn ends_are_counted_where_the_boot_has_no_name() {
        let directory = tempfile::tempdir().expect("dir");
        for _ in 0..MOST_CRASHES {
            assert_eq!(Crashes::begin_in(directory.path(), "", true).too_many(), None);
        }
        assert_eq!(Crashes::begin_in(directory.path(), "", true).too_many(), Some(3));
        assert_eq!(Crashes::begin_in(directory.path(), "one\n", true).too_many(), None, "that is another boot");
    }

    #[test]
    fn another_boot_and_an_agent_that_nobody_restarts_count_for_nothing() {
        let directory = tempfile::tempdir().expect("dir");
        fs::write(directory.path().join("starts"), "of-another-boot 9\n").expect("writes");
        assert_eq!(Crashes::begin(directory.path(), true).too_many(), None);
        for _ in 0..9 {
            assert_eq!(Crashes::begin(directory.path(), false).too_many(), None);
        }
        fs::write(directory.path().join("starts"), "\u{0}\u{0}").expect("writes");
        assert_eq!(Crashes::begin(directory.path(), true).too_many(), None, "damage is no count");
    }
}
