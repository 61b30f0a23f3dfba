//! What needs no network: the agent itself, the disk, the clock.

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;

use chrono::{DateTime, SecondsFormat};
use serde_json::Value;
use shared::event::UnixMillis;

use super::{Check, Part};
use crate::clock::{Clock, WallClock};
use crate::config::Config;

const AGENT: Part =
    Part { name: "agent", why: "while it does not run, messages wait at the broker and nobody answers" };
const DISK: Part =
    Part { name: "disk", why: "a message is acknowledged when it is on the disk, and kept there until the hub has it" };
const CLOCK: Part =
    Part { name: "clock", why: "certificates hold for a time, and readings without a time of their own get the box's" };

/// Writes that are tried: the slowest of a few says how the disk is.
const WRITES: usize = 5;
/// Bytes of each: a small group commit.
const WRITE_BYTES: usize = 4096;
/// A write that takes longer than this holds up a group commit of the default 20 ms several times over.
const SLOW_WRITE_MS: u64 = 200;
/// A clock that is further behind the least the time can be than this was never set.
const CLOCK_TOLERANCE_MS: i64 = 2_000;
/// A clock that is further ahead of that least, and that no hub spoke of, is wrong: no box goes so long without another release.
const SERVICE_MS: i64 = 10 * 366 * 24 * 3_600_000;

/// Whether the agent runs, by its own word.
pub(super) fn agent(running: Option<&Value>) -> Check {
    match running {
        Some(status) if let Some(why) = status["safe_mode"].as_str() => AGENT.bad(
            why,
            "look at what it said before it ended: journalctl -u tideline-edge; then systemctl restart tideline-edge",
        ),
        Some(status) => AGENT.good(format!(
            "it runs, release {}, for {:.0} s",
            status["release"].as_str().unwrap_or("unknown"),
            status["uptime_s"].as_f64().unwrap_or(0.0)
        )),
        None => AGENT.doubtful(
            "it does not run, or not as somebody whom you may ask",
            "systemctl start tideline-edge, or edge-agent run; look at its log with journalctl -u tideline-edge",
        ),
    }
}

/// Whether the spool has room to grow to its limit, and how fast a write is durable.
pub(super) fn disk(config: &Config, clock: &Clock) -> Check {
    let folder = &config.agent.state_directory;
    if !folder.is_dir() {
        return DISK.doubtful(
            format!("{} is not there yet", folder.display()),
            "start the agent once; it makes the folder, or says why it cannot",
        );
    }
    let free = match rustix::fs::statvfs(folder.as_path()) {
        Ok(volume) => volume.f_bavail.saturating_mul(volume.f_frsize),
        Err(error) => return DISK.bad(format!("{}: {error}", folder.display()), "look at the disk with dmesg"),
    };
    let used = used_bytes(&folder.join("spool"));
    let room = format!(
        "{}: {} free; the spool has {} and may have {}",
        folder.display(),
        size(free),
        size(used),
        size(config.spool.max_bytes)
    );
    let slowest_ms = match durable_write_ms(folder, clock) {
        Ok(slowest_ms) => slowest_ms,
        Err(error) => {
            return DISK.bad(
                format!("{room}; a write fails: {error}"),
                "ask as the agent's own user, or as root; if it is the agent's disk that fails, replace it",
            );
        }
    };
    let saw = format!("{room}; a write is durable after {slowest_ms} ms");
    if free < config.spool.max_bytes.saturating_sub(used) {
        return DISK.doubtful(saw, "make room, or lower spool.max_bytes: the disk is full before the spool is");
    }
    if slowest_ms > SLOW_WRITE_MS {
        return DISK.doubtful(
            saw,
            "raise spool.commit_delay_ms, so that fewer writes are waited for; a worn card is slow, too",
        );
    }
    DISK.good(saw)
}

/// Whether the clock can be right.
pub(super) fn clock(clock: &Clock, wall: &WallClock, running: Option<&Value>) -> Check {
    let saw = format!("it shows {}", time(clock.unix_ms()));
    let is_corrected = running.and_then(|status| status["clock_correction_s"].as_i64()).filter(|seconds| *seconds != 0);
    let problem = if let Some(seconds) = is_corrected {
        Some(format!("the hub says that it is {} s {}", seconds.abs(), if seconds > 0 { "slow" } else { "fast" }))
    } else if wall.unix_ms() - clock.unix_ms() > CLOCK_TOLERANCE_MS {
        Some(format!("it is at least {}", time(wall.unix_ms())))
    } else {
        let floor_ms = wall.doubtful_floor_ms(SERVICE_MS);
        floor_ms.map(|floor_ms| format!("all that is known is that it is at least {}", time(floor_ms)))
    };
    match problem {
        Some(problem) => CLOCK.doubtful(
            format!("{saw}, and {problem}"),
            "set it: timedatectl set-ntp true; until then a box goes by the time of its hub, if it has one",
        ),
        None => CLOCK.good(saw),
    }
}

fn durable_write_ms(folder: &Path, clock: &Clock) -> io::Result<u64> {
    let path = folder.join(format!("doctor-{}.probe", std::process::id()));
    let write = || {
        let mut file = File::create(&path)?;
        let mut slowest_us = 0;
        for _ in 0..WRITES {
            let begun_us = clock.monotonic_us();
            file.write_all(&[0; WRITE_BYTES])?;
            file.sync_data()?;
            slowest_us = slowest_us.max(clock.monotonic_us() - begun_us);
        }
        Ok(slowest_us.div_ceil(1000))
    };
    let written = write();
    // What was never made need not be removed.
    drop(std::fs::remove_file(&path));
    written
}

fn used_bytes(folder: &Path) -> u64 {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.metadata().ok()).map(|metadata| metadata.len()).sum()
}

fn size(bytes: u64) -> String {
    const MIB: f64 = 1024.0 * 1024.0;
    let mib = bytes as f64 / MIB;
    if mib < 1024.0 { format!("{mib:.1} MiB") } else { format!("{:.1} GiB", mib / 1024.0) }
}

pub(super) fn time(unix_ms: UnixMillis) -> String {
    DateTime::from_timestamp_millis(unix_ms).unwrap_or_default().to_rfc3339_opts(SecondsFormat::Secs, true)
}
