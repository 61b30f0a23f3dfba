//! What an agent that nobody looks after looks after itself: starts that it did not survive, how much of the disk it takes, how much it
//! writes, how much it says.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use tracing::{error, warn};

use super::crashes::Crashes;
use super::wear::Wear;
use crate::config::{AgentSection, SPOOL_BYTES};
use crate::core::Millis;
use crate::crash_reports;
use crate::logging::Log;

/// How often the disk is looked at: a model comes in within seconds, and the spool keeps a margin.
const LOOK_EVERY_MS: u64 = 10_000;
/// How often lines that were not logged are spoken of.
const TELL_EVERY_MS: u64 = 600_000;
/// Folders within folders that are measured: there are none deeper.
const DEEPEST: u32 = 4;

/// What is kept in hand.
pub(super) struct SelfCare {
    directory: PathBuf,
    crashes: Crashes,
    wear: Wear,
    log: Log,
    /// Crashes of the programs before, without their logs.
    reports: Vec<Value>,
    /// Why no model runs, if none may.
    safe_mode: Option<String>,
    /// Bytes that the spool may take, if nothing else took any.
    spool_bytes: u64,
    max_disk_bytes: Option<u64>,
    looked: Option<Millis>,
    told: (Millis, u64),
}

impl SelfCare {
    /// Notes that an agent starts. `is_restarted` says whether somebody starts it anew when it ends.
    pub(super) fn begin(agent: &AgentSection, spool_bytes: u64, log: Log, is_restarted: bool) -> Self {
        let directory = agent.state_directory.clone();
        let crashes = Crashes::begin(&directory, is_restarted);
        let safe_mode = crashes.too_many().map(|ends| {
            format!("safe mode: the agent ended {ends} times within minutes of its start, and runs without a model")
        });
        if let Some(why) = &safe_mode {
            error!("{why}; restart the service once its cause is gone");
        }
        let mut reports = crash_reports::kept_in(&directory);
        for report in &mut reports {
            report.as_object_mut().map(|report| report.remove("log"));
        }
        let max_disk_bytes = agent.max_disk_bytes;
        let (wear, told) = (Wear::begin(&directory), (Millis(0), 0));
        Self { directory, crashes, wear, log, reports, safe_mode, spool_bytes, max_disk_bytes, looked: None, told }
    }

    pub(super) fn safe_mode(&self) -> Option<&str> {
        self.safe_mode.as_deref()
    }

    /// Time passed; gives the bytes that the spool may take from now on, if it is time to look at that.
    pub(super) fn runs(&mut self, uptime: Millis) -> Option<u64> {
        self.crashes.runs(uptime);
        self.wear.runs(uptime);
        self.tell(uptime);
        let budget = self.max_disk_bytes?;
        if self.looked.is_some_and(|looked| uptime.0.saturating_sub(looked.0) < LOOK_EVERY_MS) {
            return None;
        }
        self.looked = Some(uptime);
        Some(spool_share(budget, taken_by_others(&self.directory), self.spool_bytes))
    }

    /// The agent was told to stop.
    pub(super) fn stopped(&self) {
        self.crashes.stopped();
        self.wear.note();
    }

    /// Adds to a status what is known of all this.
    pub(super) fn report(&self, uptime: Millis, status: &mut Value) {
        let reports = &self.reports;
        status["disk"] = self.wear.report(uptime);
        status["log_lines_left_out"] = self.log.left_out().into();
        status["crashes"] = json!({ "reports": reports.len(), "newest": reports.first() });
    }

    fn tell(&mut self, uptime: Millis) {
        let (at, told) = self.told;
        let left_out = self.log.left_out();
        if left_out > told && uptime.0.saturating_sub(at.0) >= TELL_EVERY_MS {
            self.told = (uptime, left_out);
            warn!("{} more lines like others were not logged", left_out - told);
        }
    }
}

/// What is left of a budget for the spool: never less than a spool needs, never more than it may take anyway.
fn spool_share(budget: u64, taken: u64, most: u64) -> u64 {
    // It holds that the range begins above 0.
    let least = SPOOL_BYTES.start().unsigned_abs();
    budget.saturating_sub(taken).clamp(least, most.max(least))
}

/// Bytes of everything in the state's folder but the spool.
fn taken_by_others(directory: &Path) -> u64 {
    let spool = directory.join("spool");
    let entries = fs::read_dir(directory).into_iter().flatten().flatten().map(|entry| entry.path());
    entries.filter(|path| *path != spool).map(|path| bytes_of(&path, DEEPEST)).sum()
}

fn bytes_of(path: &Path, deepest: u32) -> u64 {
    // A file that goes meanwhile takes nothing.
    let Ok(metadata) = fs::symlink_metadata(path) else { return 0 };
    if !metadata.is_dir() {
        return metadata.len();
    }
    let Some(deepest) = deepest.checked_sub(1) else { return 0 };
    fs::read_dir(path).into_iter().flatten().flatten().map(|entry| bytes_of(&entry.path(), deepest)).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1024 * 1024;

    #[test]
    fn the_spool_gets_what_the_others_leave_and_never_too_little() {
        assert_eq!(spool_share(100 * MIB, 30 * MIB, 1024 * MIB), 70 * MIB);
        assert_eq!(spool_share(100 * MIB, 30 * MIB, 64 * MIB), 64 * MIB);
        assert_eq!(spool_share(100 * MIB, 99 * MIB, 1024 * MIB), 16 * MIB);
        assert_eq!(spool_share(100 * MIB, 200 * MIB, 1024 * MIB), 16 * MIB);
    }

    #[test]
    fn everything_but_the_spool_counts() {
        let directory = tempfile::tempdir().expect("dir");
        let file = |name: &str, bytes: usize| {
            let path = directory.path().join(name);
            fs::create_dir_all(path.parent().expect("has one")).expect("makes");
            fs::write(path, vec![0; bytes]).expect("writes");
        };
        file("models/a.tide", 1000);
        file("state/db", 200);
        file("starts", 30);
        file("spool/1.seg", 50_000);
        assert_eq!(taken_by_others(directory.path()), 1230);
        assert_eq!(taken_by_others(&directory.path().join("nowhere")), 0);
    }
}
