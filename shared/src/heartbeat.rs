//! Whether the parts of a program still get on: what a service manager's watchdog is told by.
//!
//! A part that works on something says when it began, and when it is done. One that has nothing to do is well; one that has
//! worked on the same thing for too long hangs.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// What a part that rests says.
const RESTS: u64 = u64::MAX;

/// A part of a program. Clones are the same part.
#[derive(Debug, Clone)]
pub struct Part {
    name: &'static str,
    /// Milliseconds of a clock that never runs backwards.
    busy_since_ms: Arc<AtomicU64>,
}

impl Part {
    /// A part that rests.
    #[must_use]
    pub fn new(name: &'static str) -> Self {
        Self { name, busy_since_ms: Arc::new(AtomicU64::new(RESTS)) }
    }

    /// It begins something.
    pub fn begins(&self, now_ms: u64) {
        self.busy_since_ms.store(now_ms, Ordering::Relaxed);
    }

    /// It is done.
    pub fn rests(&self) {
        self.busy_since_ms.store(RESTS, Ordering::Relaxed);
    }
}

/// The parts of a program, and how long each may work on one thing.
#[derive(Debug, Default)]
pub struct Heartbeat(Vec<(Part, u64)>);

impl Heartbeat {
    /// Watches a part, too: it may work on one thing for so many milliseconds.
    pub fn watch(&mut self, part: &Part, limit_ms: u64) {
        self.0.push((part.clone(), limit_ms));
    }

    /// The parts that hang, by name, with how long they have.
    pub fn hanging(&self, now_ms: u64) -> impl Iterator<Item = (&'static str, u64)> {
        self.0.iter().filter_map(move |(part, limit_ms)| {
            let since_ms = part.busy_since_ms.load(Ordering::Relaxed);
            let busy_ms = if since_ms == RESTS { 0 } else { now_ms.saturating_sub(since_ms) };
            (busy_ms > *limit_ms).then_some((part.name, busy_ms))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_hangs_that_works_on_one_thing_for_too_long_and_not_one_that_rests() {
        let (disk, model) = (Part::new("disk"), Part::new("model"));
        let mut heartbeat = Heartbeat::default();
        heartbeat.watch(&disk, 100);
        heartbeat.watch(&model, 1_000);
        assert_eq!(heartbeat.hanging(u64::MAX - 1).count(), 0, "both rest");
        disk.begins(50);
        model.begins(50);
        assert_eq!(heartbeat.hanging(150).count(), 0);
        assert_eq!(heartbeat.hanging(151).collect::<Vec<_>>(), [("disk", 101)]);
        disk.begins(151);
        assert_eq!(heartbeat.hanging(200).count(), 0, "the next thing");
        assert_eq!(heartbeat.hanging(1_051).map(|(name, _)| name).collect::<Vec<_>>(), ["disk", "model"]);
        disk.rests();
        model.rests();
        assert_eq!(heartbeat.hanging(9_999).count(), 0);
    }
}
