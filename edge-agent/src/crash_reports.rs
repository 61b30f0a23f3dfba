//! What a thread said when it panicked, on the disk: a few reports, for whoever asks later.

use std::fs::{self, File};
use std::io::{self, Write};
use std::panic::PanicHookInfo;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use tracing::error;

use crate::clock::WallClock;
use crate::logging::Log;

/// Reports that are kept; the oldest goes for a new one.
const KEPT_REPORTS: usize = 8;
/// Bytes of a report that are read: the log that is in it is bounded.
const MAX_REPORT_BYTES: u64 = 256 * 1024;

/// From now on a panic of any thread leaves a report in `directory`, with the newest lines of the log.
pub fn keep_in(directory: &Path, log: Log, wall: WallClock) {
    let folder = directory.join("crashes");
    std::panic::set_hook(Box::new(move |panic| {
        let report = report(panic, &log, wall.unix_ms());
        error!(place = %report["place"], thread = %report["thread"], "a thread panicked: {}", report["message"]);
        if let Err(failure) = write(&folder, &report) {
            error!("failed to write a crash report to {}: {failure}", folder.display());
        }
    }));
}

/// The reports in `directory`, the newest first.
#[must_use]
pub fn kept_in(directory: &Path) -> Vec<Value> {
    let read = |path: &PathBuf| {
        let mut text = String::new();
        io::Read::read_to_string(&mut io::Read::take(File::open(path).ok()?, MAX_REPORT_BYTES), &mut text).ok()?;
        serde_json::from_str(&text).ok()
    };
    files(&directory.join("crashes")).iter().rev().filter_map(read).collect()
}

fn report(panic: &PanicHookInfo<'_>, log: &Log, time_ms: i64) -> Value {
    let thread = std::thread::current();
    json!({
        "time_ms": time_ms,
        "release": env!("CARGO_PKG_VERSION"),
        "thread": thread.name().unwrap_or("unnamed"),
        "place": panic.location().map(ToString::to_string),
        "message": panic.payload_as_str().unwrap_or("without words"),
        "log": log.newest(),
    })
}

fn write(folder: &Path, report: &Value) -> io::Result<()> {
    fs::create_dir_all(folder)?;
    let kept = files(folder);
    for old in kept.iter().take((kept.len() + 1).saturating_sub(KEPT_REPORTS)) {
        fs::remove_file(old)?;
    }
    // Names sort by time; two panics of one millisecond are one crash.
    let mut file = File::create(folder.join(format!("{:015}.json", report["time_ms"].as_i64().unwrap_or(0))))?;
    file.write_all(report.to_string().as_bytes())?;
    file.sync_all()
}

/// The oldest first.
fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    let mut files: Vec<PathBuf> = entries.filter(|path| path.extension().is_some_and(|end| end == "json")).collect();
    files.sort();
    files
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_reports_are_kept_and_damage_among_them_is_passed_over() {
        let directory = tempfile::tempdir().expect("dir");
        let folder = directory.path().join("crashes");
        assert!(kept_in(directory.path()).is_empty());
        for time_ms in 1..=12 {
            write(&folder, &json!({ "time_ms": time_ms, "message": "m" })).expect("writes");
        }
        fs::write(folder.join("000000000000099.json"), "{\"time").expect("writes");
        let times: Vec<i64> =
            kept_in(directory.path()).iter().filter_map(|report| report["time_ms"].as_i64()).collect();
        assert_eq!(times, [12, 11, 10, 9, 8, 7, 6, 5]);
    }
}
