//! Parts of packages for agents that fetch them. A release is fetched by the whole fleet at once, and packing a part takes many
//! times as long as sending it, so the newest parts are kept.

use std::collections::{BTreeMap, VecDeque};

use shared::ids::Digest;

use crate::artifacts::{ArtifactError, Artifacts, Part};

/// Parts that are kept: at 64 KiB each at most 32 MiB, two models of the largest size that small boxes run.
const PARTS_KEPT: usize = 512;

/// The package, where the part starts, and the package it is to be packed against.
type Key = (Digest, u64, Option<Digest>);

/// The newest parts.
#[derive(Debug, Default)]
pub(super) struct Parts {
    packed: BTreeMap<Key, Part>,
    /// Oldest first.
    order: VecDeque<Key>,
}

impl Parts {
    /// A part of a package.
    ///
    /// # Errors
    /// If the package cannot be read.
    pub(super) fn get(&mut self, artifacts: &Artifacts, key: Key) -> Result<Part, ArtifactError> {
        if let Some(part) = self.packed.get(&key) {
            return Ok(part.clone());
        }
        let (digest, offset, base) = key;
        let part = artifacts.part(digest, offset, base)?;
        if self.order.len() == PARTS_KEPT
            && let Some(oldest) = self.order.pop_front()
        {
            self.packed.remove(&oldest);
        }
        self.order.push_back(key);
        self.packed.insert(key, part.clone());
        Ok(part)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_packed_once_and_old_ones_go() {
        let dir = tempfile::tempdir().expect("dir");
        let artifacts = Artifacts::open(dir.path()).expect("opens");
        let digest = Digest::of(b"a package");
        artifacts.store(digest, b"a package").expect("writes");
        let mut parts = Parts::default();
        let first = parts.get(&artifacts, (digest, 0, None)).expect("reads");
        assert_eq!(first.packed.unpack(&[]).expect("unpacks"), b"a package");
        std::fs::remove_dir_all(dir.path()).expect("deletes");
        assert_eq!(parts.get(&artifacts, (digest, 0, None)).expect("is kept"), first);
        assert!(parts.get(&artifacts, (digest, 1, None)).is_err());
        assert_eq!((parts.packed.len(), parts.order.len()), (1, 1), "what failed is not kept");
    }

    #[test]
    fn no_more_are_kept_than_there_is_room_for() {
        let dir = tempfile::tempdir().expect("dir");
        let artifacts = Artifacts::open(dir.path()).expect("opens");
        let digest = Digest::of(b"a package");
        artifacts.store(digest, &[7; 2 * PARTS_KEPT]).expect("writes");
        let mut parts = Parts::default();
        for offset in 0..PARTS_KEPT as u64 + 3 {
            parts.get(&artifacts, (digest, offset, None)).expect("reads");
        }
        assert_eq!((parts.packed.len(), parts.order.len()), (PARTS_KEPT, PARTS_KEPT));
        assert!(!parts.packed.contains_key(&(digest, 2, None)) && parts.packed.contains_key(&(digest, 3, None)));
    }
}
