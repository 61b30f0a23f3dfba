//! The store on sled.
//!
//! Keys are `epoch`, `checkpoint`, `slot`, `floor` and `shadow`; values are postcard. sled's own flush does not reach the disk, so
//! every write is followed by a sync of its file; and sled panics on some kinds of damage, so opening is done where a
//! panic can be caught. A store that cannot be opened is put aside and begun anew: everything in it can be found out
//! again from the spool, the hub and the model files.

use std::fs::{self, File};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;
use shared::event::ModelRef;
use shared::ids::Epoch;
use tracing::error;

use super::Remembered;
use crate::core::shadow::ShadowStarts;
use crate::core::{Checkpoint, SlotState};

/// sled takes about ten times this in memory; the store holds five keys.
const CACHE_BYTES: u64 = 1024 * 1024;

/// The open store.
#[derive(Debug)]
pub struct StateStore {
    db: sled::Db,
    path: PathBuf,
}

/// Why the store failed.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The disk or sled.
    #[error("use state {path}: {source}")]
    Sled {
        /// The folder.
        path: PathBuf,
        /// What sled said.
        source: sled::Error,
    },
    /// The disk.
    #[error("sync state {path}: {source}")]
    Io {
        /// The folder.
        path: PathBuf,
        /// What the disk said.
        source: io::Error,
    },
    /// Another agent runs on it.
    #[error("use state {path}: another agent runs in this folder; give each its own state_directory")]
    InUse {
        /// The folder.
        path: PathBuf,
    },
    /// A value cannot be encoded.
    #[error("encode state {key}: {source}")]
    Encode {
        /// The key.
        key: &'static str,
        /// Why.
        source: postcard::Error,
    },
}

impl StateStore {
    /// Opens the store in `path`. The second value tells where a damaged one was put aside.
    ///
    /// # Errors
    /// If no store can be opened even anew.
    pub fn open(path: &Path) -> Result<(Self, Option<PathBuf>), StoreError> {
        match try_open(path) {
            Ok(db) => Ok((Self { db, path: path.to_owned() }, None)),
            Err(Problem::InUse) => Err(StoreError::InUse { path: path.to_owned() }),
            Err(Problem::Damaged(problem)) => {
                let aside = free_name(path);
                error!(store = %path.display(), aside = %aside.display(), "the state store is damaged: {problem}; begun anew");
                fs::rename(path, &aside).map_err(|source| StoreError::Io { path: path.to_owned(), source })?;
                let db = try_open(path).map_err(|problem| StoreError::Io {
                    path: path.to_owned(),
                    source: io::Error::other(match problem {
                        Problem::InUse => "its lock is taken".to_owned(),
                        Problem::Damaged(problem) => problem,
                    }),
                })?;
                Ok((Self { db, path: path.to_owned() }, Some(aside)))
            }
        }
    }

    /// Everything remembered. A value that cannot be read counts as absent.
    #[must_use]
    pub fn load(&self) -> Remembered {
        Remembered {
            epoch: self.get("epoch"),
            checkpoint: self.get("checkpoint"),
            slot: self.get("slot").unwrap_or_default(),
            floor: self.get("floor"),
            shadow: self.get("shadow").flatten(),
        }
    }

    /// Remembers durably the epoch in use.
    ///
    /// # Errors
    /// If the disk fails.
    pub fn save_epoch(&self, epoch: Epoch) -> Result<(), StoreError> {
        self.put("epoch", &epoch)
    }

    /// Remembers durably how far the hub has acknowledged.
    ///
    /// # Errors
    /// If the disk fails.
    pub fn save_checkpoint(&self, checkpoint: &Checkpoint) -> Result<(), StoreError> {
        self.put("checkpoint", checkpoint)
    }

    /// Remembers durably which model serves, and which one did before.
    ///
    /// # Errors
    /// If the disk fails.
    pub fn save_slot(&self, slot: &SlotState) -> Result<(), StoreError> {
        self.put("slot", slot)
    }

    /// Remembers durably below which version no model is served any more.
    ///
    /// # Errors
    /// If the disk fails.
    pub fn save_floor(&self, floor: &ModelRef) -> Result<(), StoreError> {
        self.put("floor", floor)
    }

    /// Remembers durably what runs in shadow, and how often it was started.
    ///
    /// # Errors
    /// If the disk fails.
    pub fn save_shadow(&self, shadow: Option<ShadowStarts>) -> Result<(), StoreError> {
        self.put("shadow", &shadow)
    }

    fn get<T: DeserializeOwned>(&self, key: &'static str) -> Option<T> {
        let value = catch_unwind(AssertUnwindSafe(|| self.db.get(key))).ok()?.ok()??;
        match postcard::from_bytes(&value) {
            Ok(value) => Some(value),
            Err(error) => {
                error!(key, "failed to read the remembered state: {error}");
                None
            }
        }
    }

    fn put<T: Serialize>(&self, key: &'static str, value: &T) -> Result<(), StoreError> {
        let sled_error = |source| StoreError::Sled { path: self.path.clone(), source };
        let bytes = postcard::to_allocvec(value).map_err(|source| StoreError::Encode { key, source })?;
        self.db.insert(key, bytes).map_err(sled_error)?;
        self.db.flush().map_err(sled_error)?;
        let sync = || File::open(self.path.join("db"))?.sync_data();
        sync().map_err(|source| StoreError::Io { path: self.path.clone(), source })
    }
}

/// Why sled does not open.
enum Problem {
    InUse,
    Damaged(String),
}

fn try_open(path: &Path) -> Result<sled::Db, Problem> {
    let open = || {
        let db = sled::Config::new().path(path).cache_capacity(CACHE_BYTES).flush_every_ms(None).open()?;
        for pair in db.iter() {
            pair?;
        }
        Ok::<_, sled::Error>(db)
    };
    match catch_unwind(AssertUnwindSafe(open)) {
        Ok(Ok(db)) => Ok(db),
        // sled says in words alone that its lock is taken.
        Ok(Err(sled::Error::Io(error))) if error.to_string().contains("could not acquire lock") => Err(Problem::InUse),
        Ok(Err(error)) => Err(Problem::Damaged(error.to_string())),
        Err(_) => Err(Problem::Damaged("sled panicked".to_owned())),
    }
}

fn free_name(path: &Path) -> PathBuf {
    let candidates = (1_u32..).map(|n| path.with_extension(format!("damaged.{n}")));
    candidates.into_iter().find(|candidate| !candidate.exists()).unwrap_or_else(|| path.with_extension("damaged"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use shared::event::ModelRef;
    use shared::ids::{Digest, ModelName, ModelVersion, Sequence};
    use shared::wire::message::ServedModel;

    fn slot() -> SlotState {
        let served = |version: u32| ServedModel {
            model: ModelRef { name: ModelName::new("pump").expect("valid"), version: ModelVersion(version) },
            digest: Digest::of(&version.to_le_bytes()),
        };
        SlotState {
            serving: Some(served(3)),
            previous: Some(served(2)),
            trial_starts: Some(1),
            ruled_out: vec![Digest::of(b"bad")],
        }
    }

    #[test]
    fn what_was_saved_is_remembered_after_reopening() {
        let dir = tempfile::tempdir().expect("dir");
        let path = dir.path().join("state");
        let checkpoint =
            Checkpoint { epoch: Epoch(4), base: Sequence(0), acked: Sequence(9), settled: Default::default() };
        {
            let (store, aside) = StateStore::open(&path).expect("opens");
            assert_eq!((store.load(), aside), (Remembered::default(), None));
            store.save_epoch(Epoch(4)).expect("saves");
            store.save_checkpoint(&checkpoint).expect("saves");
            store.save_slot(&slot()).expect("saves");
        }
        let (store, _) = StateStore::open(&path).expect("opens");
        let floor = slot().serving.expect("one").model;
        let expected = Remembered {
            epoch: Some(Epoch(4)),
            checkpoint: Some(checkpoint),
            slot: slot(),
            floor: Some(floor.clone()),
            shadow: Some(ShadowStarts { digest: Digest::of(b"new"), starts: 2 }),
        };
        store.save_floor(&floor).expect("saves");
        store.save_shadow(expected.shadow).expect("saves");
        assert_eq!(store.load(), expected);
    }

    #[test]
    fn a_store_in_use_is_left_alone() {
        let dir = tempfile::tempdir().expect("dir");
        let path = dir.path().join("state");
        let (store, _) = StateStore::open(&path).expect("opens");
        store.save_epoch(Epoch(4)).expect("saves");
        let error = StateStore::open(&path).expect_err("in use");
        assert!(error.to_string().contains("another agent runs in this folder"), "{error}");
        assert_eq!(store.load().epoch, Some(Epoch(4)));
    }

    #[test]
    fn a_damaged_store_is_put_aside_and_begun_anew() {
        let dir = tempfile::tempdir().expect("dir");
        let path = dir.path().join("state");
        {
            let (store, _) = StateStore::open(&path).expect("opens");
            (0..500).for_each(|i| store.save_epoch(Epoch(i)).expect("saves"));
        }
        fs::write(path.join("conf"), b"this is no sled configuration").expect("writes");
        let (store, aside) = StateStore::open(&path).expect("opens anew");
        assert_eq!(store.load(), Remembered::default());
        assert!(aside.expect("put aside").exists());
    }
}
