//! How much the agent had written to the disk: flash cards bear a certain number of bytes, and then no more.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use tracing::warn;

use crate::core::Millis;

/// How often the count is written down, which wears as well.
const NOTE_EVERY_MS: u64 = 3_600_000;
/// A rate of a shorter time says little.
const RATE_FROM_MS: u64 = 60_000;
const DAY_MS: f64 = 86_400_000.0;

/// The count, over all starts.
#[derive(Debug)]
pub(super) struct Wear {
    file: PathBuf,
    /// What earlier programs had written.
    before: u64,
    /// What the system had counted of this process already: a program that takes the place of another keeps its process.
    base: u64,
    noted: Millis,
}

impl Wear {
    pub(super) fn begin(directory: &Path) -> Self {
        let file = directory.join("written");
        let before = fs::read_to_string(&file).ok().and_then(|text| text.trim().parse().ok()).unwrap_or(0);
        Self { file, before, base: counted().unwrap_or(0), noted: Millis(0) }
    }

    /// Bytes handed to the disk since the agent was first started, and a day's worth by this start; null where the system does not
    /// count.
    pub(super) fn report(&self, uptime: Millis) -> Value {
        let Some(counted) = counted() else { return Value::Null };
        let now = counted.saturating_sub(self.base);
        let a_day = (uptime.0 >= RATE_FROM_MS).then(|| (now as f64 * DAY_MS / uptime.0 as f64).round());
        json!({ "written_bytes": self.before + now, "written_bytes_a_day": a_day })
    }

    /// Time passed.
    pub(super) fn runs(&mut self, uptime: Millis) {
        if uptime.0.saturating_sub(self.noted.0) >= NOTE_EVERY_MS {
            self.noted = uptime;
            self.note();
        }
    }

    /// Writes the count down.
    pub(super) fn note(&self) {
        let Some(counted) = counted() else { return };
        let total = self.before + counted.saturating_sub(self.base);
        if let Err(error) = fs::write(&self.file, format!("{total}\n")) {
            warn!("failed to note what was written in {}: {error}", self.file.display());
        }
    }
}

/// What the system counts of this process, see proc_pid_io(5).
fn counted() -> Option<u64> {
    parse(&fs::read_to_string("/proc/self/io").ok()?)
}

fn parse(text: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix("write_bytes:"))?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_system_counts_is_read_by_its_name() {
        assert_eq!(parse("wchar: 7\nwrite_bytes: 4096\ncancelled_write_bytes: 1\n"), Some(4096));
        assert_eq!(parse("wchar: 7\n"), None);
    }

    #[test]
    fn the_count_goes_on_over_starts() {
        let directory = tempfile::tempdir().expect("dir");
        fs::write(directory.path().join("written"), "1000\n").expect("writes");
        let mut wear = Wear::begin(directory.path());
        assert_eq!(wear.before, 1000);
        wear.runs(Millis(NOTE_EVERY_MS - 1));
        assert_eq!(fs::read_to_string(directory.path().join("written")).expect("reads"), "1000\n");
        wear.base = 0;
        wear.runs(Millis(NOTE_EVERY_MS));
        let noted: u64 =
            fs::read_to_string(directory.path().join("written")).expect("reads").trim().parse().expect("a number");
        assert!(noted >= 1000);
        if counted().is_some() {
            let report = wear.report(Millis(30_000));
            assert!(
                report["written_bytes"].as_u64() >= Some(1000) && report["written_bytes_a_day"].is_null(),
                "{report}"
            );
        }
    }
}
