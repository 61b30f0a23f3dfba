//! The newest messages: their ids, for telling a redelivery from a new message, and where they lie in the spool, so that
//! a restarted agent finds their ids again.

use std::collections::{BTreeSet, VecDeque};

use shared::ids::Sequence;

use super::limits::{RECENT_EVENTS, RECENT_IDS};

/// The last [`RECENT_IDS`] ids, and while the broker delivers again up to as many more.
#[derive(Debug, Default)]
pub struct RecentIds {
    order: VecDeque<u64>,
    known: BTreeSet<u64>,
}

impl RecentIds {
    /// Whether `id` is among them.
    #[must_use]
    pub fn contains(&self, id: u64) -> bool {
        self.known.contains(&id)
    }

    /// Adds `id`, forgetting the oldest where there are too many. Where the broker delivers again, the oldest are those
    /// that come next: then they are kept, or one message from before them would make all of them unknown in turn.
    pub fn insert(&mut self, id: u64, may_be_redelivered: bool) {
        if !self.known.insert(id) {
            return;
        }
        self.order.push_back(id);
        let keep = if may_be_redelivered { 2 * RECENT_IDS } else { RECENT_IDS };
        // Two for one bring it back to size without a pause.
        for _ in 0..2 {
            if self.order.len() > keep
                && let Some(oldest) = self.order.pop_front()
            {
                self.known.remove(&oldest);
            }
        }
    }
}

/// The places of the newest entries of events, back to [`RECENT_EVENTS`].
#[derive(Debug, Default)]
pub struct RecentEntries {
    entries: VecDeque<(Sequence, u32)>,
    events: u64,
}

impl RecentEntries {
    /// Adds an entry that follows, forgetting the oldest where the others suffice.
    pub fn push(&mut self, first: Sequence, events: u32) {
        self.entries.push_back((first, events));
        self.events += u64::from(events);
        while let Some((_, oldest)) =
            self.entries.front().filter(|(_, oldest)| self.events - u64::from(*oldest) >= RECENT_EVENTS)
        {
            self.events -= u64::from(*oldest);
            self.entries.pop_front();
        }
    }

    /// Where the newest `count` events begin.
    #[must_use]
    pub fn start_of_newest(&self, count: u64) -> Sequence {
        let mut events = 0;
        let newest = self.entries.iter().rev().find(|(_, of)| {
            events += u64::from(*of);
            events >= count
        });
        newest.or(self.entries.front()).map_or(Sequence(0), |(first, _)| *first)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_events_are_found_also_where_sequences_were_left_out() {
        let mut recent = RecentEntries::default();
        assert_eq!(recent.start_of_newest(10), Sequence(0));
        [0, 4, 1_000_000, 1_000_004].iter().for_each(|first| recent.push(Sequence(*first), 4));
        assert_eq!(recent.start_of_newest(5), Sequence(1_000_000));
        assert_eq!(recent.start_of_newest(9), Sequence(4));
        assert_eq!(recent.start_of_newest(900), Sequence(0));
        (0..RECENT_EVENTS).for_each(|event| recent.push(Sequence(2_000_000 + event), 1));
        assert_eq!((recent.start_of_newest(u64::MAX), recent.events), (Sequence(2_000_000), RECENT_EVENTS));
    }

    #[test]
    fn the_newest_are_known_and_the_oldest_forgotten() {
        let mut recent = RecentIds::default();
        (0..RECENT_IDS as u64 + 10).for_each(|id| recent.insert(id, false));
        recent.insert(20, false);
        assert!(!recent.contains(9) && recent.contains(10) && recent.contains(RECENT_IDS as u64 + 9));
        assert_eq!(recent.order.len(), recent.known.len());
    }

    #[test]
    fn redelivery_from_before_the_oldest_does_not_make_the_others_unknown() {
        let mut recent = RecentIds::default();
        let newest = RECENT_IDS as u64 + 1_000;
        (0..newest).for_each(|id| recent.insert(id, false));
        let unknown = (0..newest).filter(|id| !recent.contains(*id)).count();
        assert_eq!(unknown, 1_000);
        let mut taken_twice = 0;
        for id in 0..newest {
            taken_twice += u64::from(!recent.contains(id));
            recent.insert(id, true);
        }
        assert_eq!(taken_twice, 1_000);
        (newest..newest + 2_000).for_each(|id| recent.insert(id, false));
        assert_eq!((recent.order.len(), recent.known.len()), (RECENT_IDS, RECENT_IDS));
    }
}
