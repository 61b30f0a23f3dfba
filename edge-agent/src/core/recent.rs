//! The ids of the newest messages, for telling a redelivery from a new message.

use std::collections::{BTreeSet, VecDeque};

use super::limits::RECENT_IDS;

/// The last [`RECENT_IDS`] ids.
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

    /// Adds `id`, forgetting the oldest where there are too many.
    pub fn insert(&mut self, id: u64) {
        if !self.known.insert(id) {
            return;
        }
        self.order.push_back(id);
        if self.order.len() > RECENT_IDS
            && let Some(oldest) = self.order.pop_front()
        {
            self.known.remove(&oldest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_are_known_and_the_oldest_forgotten() {
        let mut recent = RecentIds::default();
        (0..RECENT_IDS as u64 + 10).for_each(|id| recent.insert(id));
        recent.insert(20);
        assert!(!recent.contains(9) && recent.contains(10) && recent.contains(RECENT_IDS as u64 + 9));
        assert_eq!(recent.order.len(), recent.known.len());
    }
}
