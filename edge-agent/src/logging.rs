//! The program's log: to standard error, no line of a kind more often than a flash card bears, the newest kept in memory.

use std::collections::{BTreeMap, VecDeque};
use std::io::{self, IsTerminal, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tracing::{Event, Metadata, Subscriber};
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::{Context, Filter, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer};

use crate::clock::Clock;

/// Lines of one kind, from one place in the code, that are written within [`WINDOW_MS`]. A box that fails at something ten times a
/// second says as much in its first thirty lines as in a day's.
const LINES_OF_A_KIND: u32 = 30;
/// How long they count.
const WINDOW_MS: u64 = 60_000;
/// Lines that are kept in memory: what led to a crash.
const KEPT_LINES: usize = 200;
/// Bytes that are kept of each.
const KEPT_LINE_BYTES: usize = 500;

/// What the log remembers. Clones share it; a program that keeps its log elsewhere has an empty one.
#[derive(Debug, Clone, Default)]
pub struct Log(Arc<Kept>);

#[derive(Debug, Default)]
struct Kept {
    lines: Mutex<VecDeque<String>>,
    left_out: AtomicU64,
}

impl Log {
    /// Begins to log, for the rest of the program: JSON or text. `RUST_LOG` says from which level on, by default `info`.
    #[must_use]
    pub fn start(is_json: bool) -> Self {
        let log = Self::default();
        let limit = Limit { clock: Clock::start(), counts: Mutex::default(), log: log.clone() };
        let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
        // A journal is no terminal, whatever it is read with.
        let lines = tracing_subscriber::fmt::layer().with_writer(Tee(log.clone()));
        let lines = if io::stderr().is_terminal() { lines } else { lines.with_ansi(false) };
        let lines = if is_json { lines.json().boxed() } else { lines.boxed() };
        tracing_subscriber::registry().with(filter).with(lines.with_filter(limit)).init();
        log
    }

    /// The newest lines, the oldest of them first.
    #[must_use]
    pub fn newest(&self) -> Vec<String> {
        self.lines().iter().cloned().collect()
    }

    /// Lines that were not written, because there were too many of their kind.
    #[must_use]
    pub fn left_out(&self) -> u64 {
        self.0.left_out.load(Ordering::Relaxed)
    }

    fn keep(&self, text: &str) {
        let mut lines = self.lines();
        if lines.len() == KEPT_LINES {
            lines.pop_front();
        }
        lines.push_back(text[..text.floor_char_boundary(KEPT_LINE_BYTES)].trim_end().to_owned());
    }

    fn lines(&self) -> MutexGuard<'_, VecDeque<String>> {
        self.0.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Writes to standard error and keeps what it wrote.
struct Tee(Log);

impl<'a> MakeWriter<'a> for Tee {
    type Writer = Line<'a>;

    fn make_writer(&'a self) -> Line<'a> {
        Line(&self.0)
    }
}

/// One line, which comes in one piece.
struct Line<'a>(&'a Log);

impl Write for Line<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.keep(&String::from_utf8_lossy(bytes));
        io::stderr().write_all(bytes)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}

/// Lets so many lines of a kind pass.
struct Limit {
    clock: Clock,
    counts: Mutex<BTreeMap<Kind, Count>>,
    log: Log,
}

/// The file and the line in the code that say it.
type Kind = (Option<&'static str>, Option<u32>);

#[derive(Clone, Copy)]
struct Count {
    since_ms: u64,
    lines: u32,
}

impl Limit {
    fn passes(&self, kind: Kind, now_ms: u64) -> bool {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry(kind).or_insert(Count { since_ms: now_ms, lines: 0 });
        if now_ms - count.since_ms >= WINDOW_MS {
            *count = Count { since_ms: now_ms, lines: 0 };
        }
        count.lines = count.lines.saturating_add(1);
        let passes = count.lines <= LINES_OF_A_KIND;
        if !passes {
            self.log.0.left_out.fetch_add(1, Ordering::Relaxed);
        }
        passes
    }
}

impl<S: Subscriber> Filter<S> for Limit {
    fn enabled(&self, _: &Metadata<'_>, _: &Context<'_, S>) -> bool {
        true
    }

    fn event_enabled(&self, event: &Event<'_>, _: &Context<'_, S>) -> bool {
        let metadata = event.metadata();
        self.passes((metadata.file(), metadata.line()), self.clock.monotonic().0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limited() -> (Log, impl Subscriber + Send + Sync) {
        let log = Log::default();
        let limit = Limit { clock: Clock::start(), counts: Mutex::default(), log: log.clone() };
        let lines = tracing_subscriber::fmt::layer().with_ansi(false).with_writer(Tee(log.clone()));
        (log, tracing_subscriber::registry().with(lines.with_filter(limit)))
    }

    #[test]
    fn lines_of_a_kind_are_counted_from_some_number_on_and_others_are_not_touched() {
        let (log, subscriber) = limited();
        tracing::subscriber::with_default(subscriber, || {
            for number in 0..LINES_OF_A_KIND + 12 {
                tracing::warn!(number, "again");
            }
            tracing::warn!("of another kind");
        });
        assert_eq!(log.left_out(), 12);
        let lines = log.newest();
        assert_eq!(lines.len(), LINES_OF_A_KIND as usize + 1);
        assert!(lines.last().is_some_and(|line| line.ends_with("of another kind")), "{lines:?}");
    }

    #[test]
    fn a_minute_later_they_are_written_again() {
        let (log, _) = limited();
        let limit = Limit { clock: Clock::start(), counts: Mutex::default(), log };
        let passed = |now_ms| (0..100).filter(|_| limit.passes((Some("a.rs"), Some(7)), now_ms)).count();
        assert_eq!([passed(0), passed(WINDOW_MS - 1), passed(WINDOW_MS)], [LINES_OF_A_KIND as usize, 0, 30]);
    }

    #[test]
    fn what_is_kept_is_bounded() {
        let log = Log::default();
        for number in 0..=KEPT_LINES {
            log.keep(&format!("{number} {}\n", "ä".repeat(KEPT_LINE_BYTES)));
        }
        let lines = log.newest();
        assert_eq!((lines.len(), lines[0].split(' ').next()), (KEPT_LINES, Some("1")));
        assert!(lines.iter().all(|line| line.len() <= KEPT_LINE_BYTES));
    }
}
