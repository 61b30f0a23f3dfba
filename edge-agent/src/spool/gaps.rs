//! How a full spool makes room: a gap record takes the place of its oldest events.

use shared::event::{EntryError, Fate, Gap, GapReason, SpoolEntry};
use shared::ids::Sequence;
use shared::seglog::{Found, LogError, Storage};
use tracing::{error, warn};

use super::Spool;
use crate::core::Event;

/// Why no room was made.
#[derive(Debug, thiserror::Error)]
enum DropError {
    #[error("{0}")]
    Log(#[from] LogError),
    #[error("{0}")]
    Entry(#[from] EntryError),
}

impl<S: Storage> Spool<S> {
    pub(super) fn drop_oldest(&mut self, acked: Sequence, full_bytes: u64) -> Event {
        let is_full = self.log.bytes() >= full_bytes;
        let dropped = if is_full { self.try_drop_oldest(acked) } else { Ok(None) };
        let gap = dropped.unwrap_or_else(|error| {
            error!("failed to drop the oldest events: {error}; trying again");
            None
        });
        if let Some(gap) = &gap {
            warn!(from = gap.first.0, to = gap.end().0, "the spool is full: the oldest events are dropped");
        }
        Event::DroppedOldest { gap, spool_bytes: self.log.bytes() }
    }

    /// Replaces the oldest segment, together with the gap before it if there is one. Returns what was not gone before.
    fn try_drop_oldest(&mut self, acked: Sequence) -> Result<Option<Gap>, DropError> {
        let leading = self.leading_gap()?;
        let segments = 1 + usize::from(leading.is_some());
        let Some(range) = self.log.oldest(segments) else {
            return Ok(None);
        };
        let first = leading.as_ref().map_or(Sequence(range.start), Gap::end);
        let new = self.gap_of(first, Sequence(range.end), acked)?;
        let whole = match leading {
            Some(mut leading) => {
                leading.extend(&new);
                leading
            }
            None => new.clone(),
        };
        let encoded = encode_within_limit(whole)?;
        self.log.replace_oldest(segments, &encoded)?;
        self.cursor = None;
        Ok(Some(new))
    }

    /// The gap that what is between two sequences leaves. What the hub has acknowledged is not lost with it.
    fn gap_of(&mut self, first: Sequence, end: Sequence, acked: Sequence) -> Result<Gap, DropError> {
        let mut gap = Gap { epoch: self.epoch, first, reason: GapReason::DropOldest, streams: vec![], parts: vec![] };
        let mut cursor = self.log.cursor(first.0);
        while cursor.position() < end.0 {
            let Some(spooled) = self.read(&mut cursor)? else {
                break;
            };
            let fate = if spooled.entry.end() <= acked { Fate::AtHub } else { Fate::Unsettled };
            match &spooled.entry {
                SpoolEntry::Gap(older) => gap.extend(older),
                SpoolEntry::Events(batch) => {
                    let readings = batch.streams.iter().zip(batch.readings_by_stream());
                    let counted = readings.filter(|(_, count)| *count > 0);
                    let counted: Vec<_> = counted.map(|(schema, count)| (schema.stream.clone(), count)).collect();
                    let shed: Vec<_> = batch.shed().collect();
                    let rest = spooled.entry.count() - shed.len() as u32;
                    if rest > 0 {
                        gap.push(rest, fate, counted);
                    }
                    // What was let go stays gone, also if the hub has the word of it.
                    for of in shed {
                        let stream = batch.streams[usize::from(of.stream)].stream.clone();
                        gap.push(1, Fate::Gone, [(stream, of.ids.len() as u32)]);
                    }
                }
            }
        }
        Ok(gap)
    }

    /// The gap at the front that takes a segment of its own.
    fn leading_gap(&mut self) -> Result<Option<Gap>, LogError> {
        let Some(range) = self.log.oldest(1) else {
            return Ok(None);
        };
        let mut cursor = self.log.cursor(range.start);
        Ok(match self.log.read(&mut cursor)? {
            Some(Found::Record(record)) if record.end() == range.end => match SpoolEntry::decode(&record.payload) {
                Ok(SpoolEntry::Gap(gap)) if gap.reason == GapReason::DropOldest => Some(gap),
                Ok(_) | Err(_) => None,
            },
            Some(_) | None => None,
        })
    }

    pub(super) fn settle_gap(&mut self, through: Sequence) -> Option<Event> {
        match self.try_settle_gap(through) {
            Ok(()) => Some(Event::GapSettled { through }),
            Err(error) => {
                error!("failed to note what the hub has of dropped events: {error}; trying again");
                None
            }
        }
    }

    fn try_settle_gap(&mut self, through: Sequence) -> Result<(), DropError> {
        if let Some(mut gap) = self.leading_gap()? {
            gap.settle(through);
            let encoded = encode_within_limit(gap)?;
            self.log.replace_oldest(1, &encoded)?;
            self.cursor = None;
        }
        Ok(())
    }
}

/// Where a gap names too many streams, what it held of them is given up rather than the room it makes.
fn encode_within_limit(gap: Gap) -> Result<Vec<u8>, EntryError> {
    let count = u32::try_from(gap.end().0 - gap.first.0).unwrap_or(u32::MAX);
    let (epoch, first, reason) = (gap.epoch, gap.first, gap.reason);
    match SpoolEntry::Gap(gap).encode() {
        Err(EntryError::TooLarge { .. }) => SpoolEntry::Gap(Gap::unknown(epoch, first, count, reason)).encode(),
        result => result,
    }
}
