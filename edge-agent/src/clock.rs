//! The one place that reads clocks.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use shared::event::UnixMillis;
use shared::heartbeat::Part;

use tracing::warn;

use crate::core::Millis;

/// It was never earlier than this: 2026-11-01, or when the program was built, if its builder says it (SOURCE_DATE_EPOCH).
const BUILT_MS: UnixMillis = built_ms();
/// A clock that differs from the hub's by less is not corrected: time servers do better, and the answer took a while.
const CORRECTED_FROM_MS: i64 = 60_000;
/// What is certain is written down again when it is so much later.
const FLOOR_STEP_MS: i64 = 3_600_000;

/// The box's clocks. Everything else is handed the time.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    started: Instant,
}

impl Clock {
    /// A clock that starts now.
    #[must_use]
    #[expect(clippy::disallowed_methods, reason = "this is the place that reads clocks")]
    pub fn start() -> Self {
        Self { started: Instant::now() }
    }

    /// Time since the start; never runs backwards.
    #[must_use]
    #[expect(clippy::disallowed_methods, reason = "this is the place that reads clocks")]
    pub fn monotonic(&self) -> Millis {
        Millis(u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX))
    }

    /// Microseconds since the start, for measuring short spans.
    #[must_use]
    #[expect(clippy::disallowed_methods, reason = "this is the place that reads clocks")]
    pub fn monotonic_us(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_micros()).unwrap_or(u64::MAX)
    }

    /// The wall clock, which may be wrong.
    #[must_use]
    #[expect(clippy::disallowed_methods, reason = "this is the place that reads clocks")]
    pub fn unix_ms(&self) -> UnixMillis {
        match SystemTime::now().duration_since(UNIX_EPOCH) {
            Ok(since) => i64::try_from(since.as_millis()).unwrap_or(i64::MAX),
            Err(before) => -i64::try_from(before.duration().as_millis()).unwrap_or(i64::MAX),
        }
    }
}

/// A part of the agent that works in a thread of its own, with the clock by which it says so.
#[derive(Debug, Clone)]
pub struct Working {
    /// The part.
    pub part: Part,
    /// The clock.
    pub clock: Clock,
}

impl Working {
    /// It begins something.
    pub fn begins(&self) {
        self.part.begins(self.clock.monotonic().0);
    }

    /// It is done.
    pub fn rests(&self) {
        self.part.rests();
    }
}

/// The wall clock of a box that may have none that keeps time: never before what is certain, and corrected by what the hub
/// says.
#[derive(Debug, Clone)]
pub struct WallClock {
    clock: Clock,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    /// It was never earlier, when the program started.
    floor_ms: AtomicI64,
    /// What is added to the box's clock.
    correction_ms: AtomicI64,
    was_heard: AtomicBool,
    file: Option<PathBuf>,
    written_ms: AtomicI64,
}

impl WallClock {
    /// One that remembers in `state_directory` what is certain.
    #[must_use]
    pub fn start(clock: Clock, state_directory: &Path) -> Self {
        let file = state_directory.join("time.floor");
        let remembered = fs::read_to_string(&file).ok().and_then(|text| text.trim().parse().ok()).unwrap_or(BUILT_MS);
        Self::with(clock, remembered.max(BUILT_MS), Some(file))
    }

    /// One that remembers nothing.
    #[must_use]
    pub fn unremembered(clock: Clock) -> Self {
        Self::with(clock, BUILT_MS, None)
    }

    fn with(clock: Clock, floor_ms: UnixMillis, file: Option<PathBuf>) -> Self {
        let shared = Shared {
            floor_ms: AtomicI64::new(floor_ms),
            correction_ms: AtomicI64::new(0),
            was_heard: AtomicBool::new(false),
            file,
            written_ms: AtomicI64::new(floor_ms),
        };
        Self { clock, shared: Arc::new(shared) }
    }

    /// What the time is, as far as can be known.
    #[must_use]
    pub fn unix_ms(&self) -> UnixMillis {
        let corrected = self.clock.unix_ms().saturating_add(self.shared.correction_ms.load(Ordering::Relaxed));
        let since_start = i64::try_from(self.clock.monotonic().0).unwrap_or(i64::MAX);
        corrected.max(self.shared.floor_ms.load(Ordering::Relaxed).saturating_add(since_start))
    }

    /// Time since the start; never runs backwards.
    #[must_use]
    pub fn monotonic(&self) -> Millis {
        self.clock.monotonic()
    }

    /// What is added to the box's own clock.
    #[must_use]
    pub fn correction_ms(&self) -> i64 {
        self.shared.correction_ms.load(Ordering::Relaxed)
    }

    /// The least that the time can be, if the clock is further ahead of it than `believed_ms` and no hub said that it is right.
    #[must_use]
    pub fn doubtful_floor_ms(&self, believed_ms: i64) -> Option<UnixMillis> {
        let floor_ms = self.shared.floor_ms.load(Ordering::Relaxed);
        let is_doubtful =
            !self.shared.was_heard.load(Ordering::Relaxed) && self.unix_ms() > floor_ms.saturating_add(believed_ms);
        is_doubtful.then_some(floor_ms)
    }

    /// The hub, which proved who it is, says what the time is.
    pub fn hear(&self, hub_ms: UnixMillis) {
        let difference_ms = hub_ms.saturating_sub(self.clock.unix_ms());
        let correction_ms = if difference_ms.abs() < CORRECTED_FROM_MS { 0 } else { difference_ms };
        let before = self.shared.correction_ms.swap(correction_ms, Ordering::Relaxed);
        if (before - correction_ms).abs() >= CORRECTED_FROM_MS {
            warn!(seconds = correction_ms / 1_000, "the box's clock is wrong; the hub's time is used");
        }
        self.shared.was_heard.store(true, Ordering::Relaxed);
        let since_start = i64::try_from(self.clock.monotonic().0).unwrap_or(i64::MAX);
        self.shared.floor_ms.fetch_max(hub_ms.saturating_sub(since_start), Ordering::Relaxed);
        if hub_ms >= self.shared.written_ms.load(Ordering::Relaxed).saturating_add(FLOOR_STEP_MS) {
            self.shared.written_ms.store(hub_ms, Ordering::Relaxed);
            if let Some(file) = &self.shared.file
                && let Err(error) = write_floor(file, hub_ms)
            {
                warn!("failed to write {}: {error}", file.display());
            }
        }
    }
}

fn write_floor(file: &Path, floor_ms: UnixMillis) -> std::io::Result<()> {
    let partial = file.with_extension("part");
    let mut written = File::create(&partial)?;
    writeln!(written, "{floor_ms}")?;
    written.sync_all()?;
    fs::rename(partial, file)
}

/// Reads the seconds that SOURCE_DATE_EPOCH had when this was compiled.
const fn built_ms() -> UnixMillis {
    let least_s: i64 = 1_793_491_200;
    let Some(text) = option_env!("SOURCE_DATE_EPOCH") else {
        return least_s * 1_000;
    };
    let (digits, mut seconds, mut at) = (text.as_bytes(), 0_i64, 0);
    while at < digits.len() && digits[at].is_ascii_digit() && seconds < 100_000_000_000 {
        seconds = seconds * 10 + (digits[at] - b'0') as i64;
        at += 1;
    }
    if seconds > least_s { seconds * 1_000 } else { least_s * 1_000 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_is_corrected_by_the_hub_and_what_is_certain_outlives_a_restart() {
        let directory = tempfile::tempdir().expect("dir");
        let clock = Clock::start();
        let wall = WallClock::start(clock, directory.path());
        let now = clock.unix_ms();
        wall.hear(now + 1_000);
        assert_eq!(wall.correction_ms(), 0, "time servers do better");
        let years_later = now + 20 * 366 * 24 * 3_600_000;
        wall.hear(years_later);
        assert!((wall.unix_ms() - years_later).abs() < 60_000);
        // The battery of its clock is empty: it starts in the past, and has not heard of the hub.
        let restarted = WallClock::start(clock, directory.path());
        assert!(restarted.unix_ms() >= years_later);
    }

    #[test]
    fn only_a_clock_far_ahead_that_nobody_confirmed_is_doubted() {
        let wall = WallClock::unremembered(Clock::start());
        let ahead = wall.unix_ms() - BUILT_MS;
        assert_eq!(wall.doubtful_floor_ms(ahead + 60_000), None);
        assert_eq!(wall.doubtful_floor_ms(ahead - 60_000), Some(BUILT_MS));
        wall.hear(wall.unix_ms());
        assert_eq!(wall.doubtful_floor_ms(0), None);
    }
}
