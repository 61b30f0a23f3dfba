//! Two boxes with one identity: an image that was copied, or a disk that was restored beside the box that goes on.
//!
//! Each start of an agent draws a nonce. One that comes back after another was heard of belongs to a second box: a start
//! that ended does not return. Boxes with one identity and one history part in their epochs (the one that finds the hub
//! ahead of it takes a newer one), so the newer epoch is the copy, and is turned away while the original is heard of.

use shared::event::UnixMillis;
use shared::ids::Epoch;

use super::limits::{TWIN_FORGOTTEN_MS, TWINS_KEPT};

/// The starts of one agent that were heard of lately, the one that greeted last at the end.
#[derive(Debug, Default)]
pub(super) struct Twins {
    starts: Vec<StartSeen>,
    /// A nonce came back: there is more than one box.
    proven: bool,
}

#[derive(Debug, Clone, Copy)]
struct StartSeen {
    boot_nonce: u64,
    epoch: Epoch,
    heard_ms: UnixMillis,
}

impl Twins {
    /// A start greets. Returns the epoch of the box that it copies, if it is to be turned away for it.
    pub(super) fn greeted(&mut self, now: UnixMillis, boot_nonce: u64, epoch: Epoch) -> Option<Epoch> {
        self.starts.retain(|start| now < start.heard_ms + TWIN_FORGOTTEN_MS);
        let before = self.starts.iter().position(|start| start.boot_nonce == boot_nonce);
        self.proven |= before.is_some_and(|before| before + 1 < self.starts.len());
        if let Some(before) = before {
            self.starts.remove(before);
        }
        self.proven &= !self.starts.is_empty();
        if self.starts.len() == TWINS_KEPT {
            self.starts.remove(0);
        }
        self.starts.push(StartSeen { boot_nonce, epoch, heard_ms: now });
        let original = self.starts.iter().map(|start| start.epoch).min();
        original.filter(|original| self.proven && *original < epoch)
    }

    /// A start that is connected says something.
    pub(super) fn heard(&mut self, now: UnixMillis, boot_nonce: u64) {
        for start in self.starts.iter_mut().filter(|start| start.boot_nonce == boot_nonce) {
            start.heard_ms = now;
        }
    }

    /// Whether there is more than one box.
    pub(super) fn is_proven(&self) -> bool {
        self.proven
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn starts_of_one_box_are_no_twins() {
        let mut twins = Twins::default();
        for (now, nonce) in [(0, 1), (1, 1), (2, 2), (3, 2), (4, 3)] {
            assert_eq!(twins.greeted(now, nonce, Epoch(5)), None);
        }
        // The last one finds that the hub has more than it, and goes on in an epoch of its own.
        assert_eq!(twins.greeted(5, 3, Epoch(6)), None);
        assert!(!twins.is_proven());
    }

    #[test]
    fn the_copy_is_turned_away_while_the_original_is_heard_of() {
        let mut twins = Twins::default();
        assert_eq!(twins.greeted(0, 1, Epoch(5)), None);
        assert_eq!(twins.greeted(1, 2, Epoch(5)), None);
        assert_eq!(twins.greeted(2, 2, Epoch(6)), None, "it may be a box that was restored");
        assert_eq!(twins.greeted(3, 1, Epoch(5)), None);
        assert!(twins.is_proven());
        assert_eq!(twins.greeted(4, 2, Epoch(6)), Some(Epoch(5)));
        // The original starts again; the copy does too.
        assert_eq!(twins.greeted(5, 3, Epoch(5)), None);
        assert_eq!(twins.greeted(6, 4, Epoch(6)), Some(Epoch(5)));
        twins.heard(TWIN_FORGOTTEN_MS, 3);
        assert_eq!(twins.greeted(TWIN_FORGOTTEN_MS + 5, 4, Epoch(6)), Some(Epoch(5)));
        // The original is gone for good.
        assert_eq!(twins.greeted(2 * TWIN_FORGOTTEN_MS, 4, Epoch(6)), None);
        assert!(!twins.is_proven());
    }
}
