//! Gap records: events that had a sequence and are gone are never passed over in silence.
//!
//! A gap stands in the place of what it replaces, in the spool, on the wire and in the hub's log, so that sequences go
//! on without a hole. It lists what is gone part by part, one part for each entry of the spool, because the hub may turn
//! out to have some of them: it is settled which before the hub is told of the gap, since after that its word on how far
//! it has come does not tell events from gaps.

use serde::{Deserialize, Serialize};

use crate::ids::{Epoch, Sequence, StreamId};
use crate::limits::{COMMIT_MAX_EVENTS, MAX_GAP_PARTS};

/// Why events are gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum GapReason {
    /// The disk damaged or lost them, or a crash tore them as they were written. Where a write was torn there may have been
    /// less than the sequences that are left out, or nothing that was ever acknowledged.
    Damaged,
    /// The spool was full, and its rule is to drop the oldest.
    DropOldest,
    /// The hub had them and lost them, and the box had given them back by then.
    HubLost,
    /// The spool was running full, and the input's rule is to let go what comes in.
    DropNewest,
    /// The spool was running full, and the input's rule is to keep one reading of several.
    Downsample,
}

impl GapReason {
    /// The name it is counted under.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Damaged => "damaged",
            Self::DropOldest => "drop_oldest",
            Self::HubLost => "hub_lost",
            Self::DropNewest => "drop_newest",
            Self::Downsample => "downsample",
        }
    }
}

/// Sequences whose events are gone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gap {
    /// The epoch of the spool.
    pub epoch: Epoch,
    /// The first sequence that is gone.
    pub first: Sequence,
    /// Why.
    pub reason: GapReason,
    /// The streams that the parts refer to.
    pub streams: Vec<StreamId>,
    /// What is gone, in order, at least one part.
    pub parts: Vec<GapPart>,
}

/// What is gone of one entry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GapPart {
    /// How many sequences it covers, at least 1.
    pub count: u32,
    /// Its readings, as index into [`Gap::streams`] and number. What a damaged entry held is not known.
    pub readings: Vec<(u16, u32)>,
    /// What became of it.
    pub fate: Fate,
}

/// What became of a part of a gap.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Fate {
    /// It may have been sent before it was dropped.
    Unsettled,
    /// The hub has it.
    AtHub,
    /// Nobody has it.
    Gone,
}

/// A part of a gap with its place.
#[derive(Debug, Clone, Copy)]
pub struct PlacedPart<'a> {
    /// The sequence after the part's last.
    pub end: Sequence,
    /// What became of it.
    pub fate: Fate,
    gap: &'a Gap,
    part: &'a GapPart,
}

impl<'a> PlacedPart<'a> {
    /// Its readings by stream.
    pub fn readings(self) -> impl Iterator<Item = (&'a StreamId, u64)> {
        let name = |(stream, count): &'a (u16, u32)| (&self.gap.streams[usize::from(*stream)], u64::from(*count));
        self.part.readings.iter().map(name)
    }
}

impl Gap {
    /// A gap of which nothing is known but where it is; `count` sequences, at least 1.
    #[must_use]
    pub fn unknown(epoch: Epoch, first: Sequence, count: u32, reason: GapReason) -> Self {
        let parts = vec![GapPart { count, readings: Vec::new(), fate: Fate::Gone }];
        Self { epoch, first, reason, streams: Vec::new(), parts }
    }

    /// The sequence after the last one that is gone.
    #[must_use]
    pub fn end(&self) -> Sequence {
        self.first.plus(self.parts.iter().map(|part| u64::from(part.count)).sum())
    }

    /// Its parts from the one that holds `from` on.
    pub fn parts_from(&self, from: Sequence) -> impl Iterator<Item = PlacedPart<'_>> {
        let mut end = self.first;
        let placed = self.parts.iter().map(move |part| {
            end = end.plus(u64::from(part.count));
            PlacedPart { end, fate: part.fate, gap: self, part }
        });
        placed.filter(move |part| part.end > from)
    }

    /// Whether it is known of every part what became of it. What had no readings is not asked for.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        self.parts.iter().all(|part| part.fate != Fate::Unsettled || part.readings.is_empty())
    }

    /// Settles what became of every part: the hub has everything before `through`, and knows nothing of this gap beyond.
    pub fn settle(&mut self, through: Sequence) {
        let mut end = self.first;
        for part in &mut self.parts {
            end = end.plus(u64::from(part.count));
            if part.fate == Fate::Unsettled {
                part.fate = if end <= through { Fate::AtHub } else { Fate::Gone };
            }
        }
    }

    /// Leaves out what lies before `sequence`.
    pub fn trim(&mut self, sequence: Sequence) {
        while let Some(part) = self.parts.first_mut().filter(|_| self.first < sequence) {
            let known = (sequence.0 - self.first.0).min(u64::from(part.count)) as u32;
            self.first = self.first.plus(u64::from(known));
            part.count -= known;
            part.readings.clear();
            if part.count == 0 {
                self.parts.remove(0);
            }
        }
    }

    /// Adds what is gone of an entry that follows. `readings` are by stream.
    pub fn push(&mut self, count: u32, fate: Fate, readings: impl IntoIterator<Item = (StreamId, u32)>) {
        let readings = readings.into_iter().map(|(stream, count)| (self.stream(stream), count)).collect();
        self.parts.push(GapPart { count, readings, fate });
        if self.parts.len() > MAX_GAP_PARTS {
            self.join_newest();
        }
    }

    /// Adds another gap that follows.
    pub fn extend(&mut self, other: &Self) {
        for part in &other.parts {
            let named =
                part.readings.iter().map(|(stream, count)| (other.streams[usize::from(*stream)].clone(), *count));
            self.push(part.count, part.fate, named.collect::<Vec<_>>());
        }
    }

    fn stream(&mut self, stream: StreamId) -> u16 {
        let known = self.streams.iter().position(|known| *known == stream);
        let index = known.unwrap_or_else(|| {
            self.streams.push(stream);
            self.streams.len() - 1
        });
        index as u16
    }

    fn join_newest(&mut self) {
        let (Some(newest), Some(before)) = (self.parts.pop(), self.parts.last_mut()) else {
            return;
        };
        before.count = before.count.saturating_add(newest.count);
        before.fate = before.fate.min(newest.fate);
        for (stream, count) in newest.readings {
            match before.readings.iter_mut().find(|(known, _)| *known == stream) {
                Some((_, known)) => *known = known.saturating_add(count),
                None => before.readings.push((stream, count)),
            }
        }
    }

    pub(super) fn inconsistency(&self) -> Option<&'static str> {
        if self.parts.is_empty() || self.parts.iter().any(|part| part.count == 0) {
            return Some("a part of the gap covers nothing");
        }
        if self.parts.len() > MAX_GAP_PARTS {
            return Some("the gap has more parts than allowed");
        }
        let count: u64 = self.parts.iter().map(|part| u64::from(part.count)).sum();
        if u32::try_from(count).is_err() || self.first.0.checked_add(count).is_none() {
            return Some("the gap's sequences overflow");
        }
        let mut readings = self.parts.iter().flat_map(|part| &part.readings);
        if readings.any(|(stream, _)| usize::from(*stream) >= self.streams.len()) {
            return Some("the gap refers to a stream that is not listed");
        }
        None
    }
}

const _: () = assert!(MAX_GAP_PARTS >= COMMIT_MAX_EVENTS);

#[cfg(test)]
mod tests {
    use super::super::SpoolEntry;
    use super::super::tests::hex;
    use super::*;
    use proptest::prelude::*;

    fn stream(name: &str) -> StreamId {
        StreamId::new(name).expect("valid")
    }

    fn sample() -> Gap {
        let (first, reason) = (Sequence(7), GapReason::DropOldest);
        let mut gap = Gap { epoch: Epoch(3), first, reason, streams: Vec::new(), parts: Vec::new() };
        gap.push(10, Fate::Unsettled, [(stream("a"), 4), (stream("b"), 6)]);
        gap.push(5, Fate::Unsettled, [(stream("b"), 5)]);
        gap
    }

    fn gone(gap: &Gap) -> Vec<(u64, &str, u64)> {
        let parts = gap.parts_from(gap.first).filter(|part| part.fate != Fate::AtHub);
        parts.flat_map(|part| part.readings().map(move |(of, count)| (part.end.0, of.as_str(), count))).collect()
    }

    #[test]
    fn golden_bytes_of_a_gap() {
        let entry = SpoolEntry::Gap(sample());
        let bytes = entry.encode().expect("encodes");
        assert_eq!(hex(&bytes), "01030701020161016202 0a020004010600 0501010500".replace(' ', ""));
        assert_eq!(SpoolEntry::decode(&bytes).expect("decodes"), entry);
    }

    #[test]
    fn what_the_hub_has_of_a_gap_is_told_from_what_it_has_not() {
        let mut gap = sample();
        assert_eq!(gone(&gap), [(17, "a", 4), (17, "b", 6), (22, "b", 5)]);
        assert!(!gap.is_settled());
        gap.settle(Sequence(17));
        assert!(gap.is_settled());
        gap.settle(Sequence(22));
        assert_eq!(gone(&gap), [(22, "b", 5)]);
        assert_eq!(gap.parts_from(Sequence(17)).count(), 1);
        gap.trim(Sequence(17));
        assert_eq!((gap.first, gap.end(), gap.parts.len()), (Sequence(17), Sequence(22), 1));
        gap.trim(Sequence(19));
        assert_eq!((gap.first, gap.end()), (Sequence(19), Sequence(22)));
    }

    #[test]
    fn gaps_that_follow_each_other_join_and_stay_within_their_limit() {
        let mut gap = sample();
        for _ in 0..MAX_GAP_PARTS {
            gap.push(1, Fate::Unsettled, [(stream("c"), 1)]);
        }
        assert_eq!((gap.parts.len(), gap.end()), (MAX_GAP_PARTS, Sequence(22 + MAX_GAP_PARTS as u64)));
        let of_c: u64 = gone(&gap).iter().filter(|(_, of, _)| *of == "c").map(|(_, _, count)| count).sum();
        assert_eq!(of_c, MAX_GAP_PARTS as u64);
        assert!(SpoolEntry::Gap(gap).encode().is_ok());
    }

    #[test]
    fn a_gap_that_contradicts_itself_is_refused_by_name() {
        let refuse = |gap: Gap| {
            let bytes = postcard::to_allocvec(&SpoolEntry::Gap(gap)).expect("encodes");
            SpoolEntry::decode(&bytes).expect_err("refused").to_string()
        };
        let mut gap = sample();
        gap.parts[0].count = 0;
        assert!(refuse(gap).ends_with("a part of the gap covers nothing"));
        let mut gap = sample();
        gap.streams.pop();
        assert!(refuse(gap).ends_with("the gap refers to a stream that is not listed"));
        let mut gap = sample();
        gap.parts[0].count = u32::MAX;
        assert!(refuse(gap).ends_with("the gap's sequences overflow"));
    }

    proptest! {
        #[test]
        fn trimming_anywhere_keeps_the_end(at in 0_u64..30) {
            let mut gap = sample();
            gap.trim(Sequence(at));
            prop_assert_eq!(gap.end(), Sequence(22).max(gap.first));
            prop_assert!(gap.first >= Sequence(at.clamp(7, 22)));
        }
    }
}
