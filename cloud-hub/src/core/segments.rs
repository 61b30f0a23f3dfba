//! Known-normal segments: contiguous runs of readings an operator vouched for. They are what training is done on.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};
use shared::event::UnixMillis;

use super::limits::{RECENT_TIMES, SEGMENTS_KEPT};

/// A gap in event time above this ends a run.
pub const MAX_GAP_MS: i64 = 60_000;

/// A run is closed when it has this many readings, and what follows is a segment of its own: a long stretch of normal
/// operation is evidence several times over, and training need not wait for its end. Twenty minutes at one a second.
pub const MAX_SEGMENT_ROWS: u64 = 1_200;

/// One known-normal segment of a stream.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Segment {
    /// The time of its first reading.
    pub from_ms: UnixMillis,
    /// The time of its last reading.
    pub to_ms: UnixMillis,
    /// How many readings it has.
    pub rows: u64,
    /// The ingest log position of the batch that held its first reading.
    pub first_position: u64,
    /// The ingest log position of the batch that held its last reading.
    pub last_position: u64,
    /// It was cut off the one before it, and no reading lies between them.
    pub continues: bool,
}

/// The known-normal segments of one stream.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Segments {
    closed: VecDeque<Segment>,
    open: Option<Segment>,
    /// Times of the open segment's newest readings.
    recent_times: VecDeque<UnixMillis>,
    /// How many were ever closed.
    closed_count: u64,
}

impl Segments {
    /// Closed segments, oldest first.
    pub fn closed(&self) -> impl Iterator<Item = &Segment> {
        self.closed.iter()
    }

    /// How many segments were ever closed.
    #[must_use]
    pub fn closed_count(&self) -> u64 {
        self.closed_count
    }

    /// The segment that still grows.
    #[must_use]
    pub fn open(&self) -> Option<&Segment> {
        self.open.as_ref()
    }

    /// Closed segments and the one that still grows.
    pub fn all(&self) -> impl Iterator<Item = &Segment> {
        self.closed.iter().chain(&self.open)
    }

    /// Known-normal runs that began at or after `position`, oldest first: segments that were cut apart within it count
    /// as one, because whatever the cut was for did not divide what is asked for here. With or without the open one.
    #[must_use]
    pub fn runs_since(&self, position: u64, with_open: bool) -> Vec<Segment> {
        let mut runs: Vec<Segment> = Vec::new();
        let open = self.open.iter().filter(|_| with_open);
        for segment in self.closed.iter().chain(open).filter(|segment| segment.first_position >= position) {
            match runs.last_mut().filter(|_| segment.continues) {
                Some(run) => {
                    run.to_ms = segment.to_ms;
                    run.rows += segment.rows;
                    run.last_position = segment.last_position;
                }
                None => runs.push(segment.clone()),
            }
        }
        runs
    }

    /// Takes the next reading.
    pub fn add(&mut self, position: u64, time_ms: UnixMillis, known_normal: bool) {
        let continues = self
            .open
            .as_ref()
            .is_some_and(|open| time_ms.checked_sub(open.to_ms).is_some_and(|gap| (0..=MAX_GAP_MS).contains(&gap)));
        let full = self.open.as_ref().is_some_and(|open| open.rows >= MAX_SEGMENT_ROWS);
        if !known_normal || !continues || full {
            self.close();
        }
        if !known_normal {
            return;
        }
        let open = self.open.get_or_insert(Segment {
            from_ms: time_ms,
            to_ms: time_ms,
            rows: 0,
            first_position: position,
            last_position: position,
            continues: false,
        });
        open.to_ms = time_ms;
        open.rows += 1;
        open.last_position = position;
        if self.recent_times.len() == RECENT_TIMES {
            self.recent_times.pop_front();
        }
        self.recent_times.push_back(time_ms);
    }

    /// Ends the open segment `rows` readings ago, because from there on the machine runs differently; what came since
    /// is a segment of its own.
    pub(super) fn cut(&mut self, position: u64, rows: usize) {
        let Some(open) = self.open.as_mut() else {
            return;
        };
        if rows as u64 >= open.rows || rows >= self.recent_times.len() || rows == 0 {
            return;
        }
        let split = self.recent_times.len() - rows;
        let after = Segment {
            from_ms: self.recent_times[split],
            rows: rows as u64,
            first_position: position,
            continues: true,
            ..open.clone()
        };
        let before = Segment { to_ms: self.recent_times[split - 1], rows: open.rows - rows as u64, ..open.clone() };
        self.recent_times.drain(..split);
        self.open = Some(after);
        self.keep(before);
    }

    fn close(&mut self) {
        self.recent_times.clear();
        if let Some(open) = self.open.take() {
            self.keep(open);
        }
    }

    fn keep(&mut self, segment: Segment) {
        if self.closed.len() == SEGMENTS_KEPT {
            self.closed.pop_front();
        }
        self.closed.push_back(segment);
        self.closed_count += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spans(segments: &Segments) -> Vec<(i64, i64, u64)> {
        segments.all().map(|segment| (segment.from_ms, segment.to_ms, segment.rows)).collect()
    }

    #[test]
    fn a_run_ends_at_an_unmarked_reading_at_a_gap_and_when_time_steps_back() {
        let mut segments = Segments::default();
        for (time_s, normal) in
            [(1, true), (2, true), (3, false), (4, true), (5, true), (100, true), (101, true), (50, true)]
        {
            segments.add(7, time_s * 1_000, normal);
        }
        assert_eq!(
            spans(&segments),
            [(1_000, 2_000, 2), (4_000, 5_000, 2), (100_000, 101_000, 2), (50_000, 50_000, 1)]
        );
        assert_eq!(segments.closed().count(), 3);
    }

    #[test]
    fn a_run_without_end_becomes_segments_all_the_same() {
        let mut segments = Segments::default();
        (0..3_000).for_each(|i| segments.add(0, i * 1_000, true));
        let rows: Vec<u64> = segments.runs_since(0, true).iter().map(|run| run.rows).collect();
        assert_eq!((rows, segments.closed_count()), (vec![1_200, 1_200, 600], 2));
    }

    #[test]
    fn a_cut_divides_the_open_run_and_loses_no_reading() {
        let mut segments = Segments::default();
        (0..100).for_each(|i| segments.add(0, i * 1_000, true));
        segments.cut(0, 30);
        assert_eq!(spans(&segments), [(0, 69_000, 70), (70_000, 99_000, 30)]);
        segments.cut(0, 30);
        segments.cut(0, 0);
        assert_eq!(segments.all().count(), 2);
    }

    #[test]
    fn a_cut_divides_what_lies_on_both_sides_of_the_position_asked_for_and_nothing_else() {
        let mut segments = Segments::default();
        (0..100).for_each(|i| segments.add(5, i * 1_000, true));
        segments.cut(6, 30);
        segments.add(6, 100_000, false);
        let rows = |since| segments.runs_since(since, false).iter().map(|run| run.rows).collect::<Vec<_>>();
        assert_eq!((rows(0), rows(6), rows(7)), (vec![100], vec![30], vec![]));
    }
}
