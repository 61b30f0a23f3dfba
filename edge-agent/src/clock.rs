//! The one place that reads clocks.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use shared::event::UnixMillis;

use crate::core::Millis;

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
