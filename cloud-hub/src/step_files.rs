//! Results of training steps on the disk, a file each, the newest of them. What is lost here costs time and nothing else.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use shared::ids::Digest;
use tracing::warn;

/// Results that are kept at most: those of the last thirty or so retrainings with eight folds each.
const MAX_FILES: usize = 512;
/// Bytes that they take together at most.
const MAX_BYTES: u64 = 256 * 1024 * 1024;
/// The end of their names.
const EXTENSION: &str = "step";

/// A folder of results.
#[derive(Debug, Clone)]
pub struct StepFiles {
    directory: PathBuf,
}

impl StepFiles {
    /// The folder, which is made when the first result is kept.
    #[must_use]
    pub fn at(directory: &Path) -> Self {
        Self { directory: directory.to_owned() }
    }

    /// A result; `None` if it is not there, or not as it was written.
    #[must_use]
    pub fn load(&self, key: Digest) -> Option<Vec<u8>> {
        let bytes = fs::read(self.path(key)).ok()?;
        let (checksum, result) = bytes.split_first_chunk()?;
        (*checksum == Digest::of(result).0).then(|| result.to_vec())
    }

    /// Keeps a result, and gives up the oldest ones beyond the limits.
    pub fn save(&self, key: Digest, result: &[u8]) {
        if let Err(error) = self.write(key, result).and_then(|()| self.trim()) {
            warn!("failed to keep the result of a training step in {}: {error}", self.directory.display());
        }
    }

    fn write(&self, key: Digest, result: &[u8]) -> io::Result<()> {
        fs::create_dir_all(&self.directory)?;
        let (path, mut bytes) = (self.path(key), Digest::of(result).0.to_vec());
        bytes.extend_from_slice(result);
        let partial = path.with_extension("part");
        fs::write(&partial, bytes)?;
        fs::rename(partial, path)
    }

    fn trim(&self) -> io::Result<()> {
        let mut files: Vec<(SystemTime, u64, PathBuf)> = Vec::new();
        for entry in fs::read_dir(&self.directory)? {
            let entry = entry?;
            let metadata = entry.metadata()?;
            files.push((metadata.modified()?, metadata.len(), entry.path()));
        }
        files.sort_by(|one, other| other.cmp(one));
        let mut bytes = 0;
        for (index, (_, length, path)) in files.iter().enumerate() {
            bytes += length;
            if index >= MAX_FILES || bytes > MAX_BYTES {
                fs::remove_file(path)?;
            }
        }
        Ok(())
    }

    fn path(&self, key: Digest) -> PathBuf {
        self.directory.join(format!("{key}.{EXTENSION}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_result_is_found_again_and_a_damaged_one_is_not() {
        let directory = tempfile::tempdir().expect("dir");
        let files = StepFiles::at(&directory.path().join("steps"));
        let key = Digest::of(b"inputs");
        assert_eq!(files.load(key), None);
        files.save(key, b"result");
        assert_eq!(files.load(key).as_deref(), Some(&b"result"[..]));
        let path = files.path(key);
        let mut bytes = fs::read(&path).expect("reads");
        bytes[34] ^= 1;
        fs::write(&path, &bytes).expect("writes");
        assert_eq!(files.load(key), None);
        fs::write(&path, b"ab").expect("writes");
        assert_eq!(files.load(key), None);
    }

    #[test]
    fn the_oldest_results_are_given_up() {
        let directory = tempfile::tempdir().expect("dir");
        let files = StepFiles::at(directory.path());
        let keys: Vec<Digest> = (0..=MAX_FILES).map(|number| Digest::of(&number.to_le_bytes())).collect();
        keys.iter().for_each(|key| files.save(*key, b"result"));
        let kept = keys.iter().filter(|key| files.load(**key).is_some()).count();
        assert_eq!((kept, files.load(keys[MAX_FILES]).is_some()), (MAX_FILES, true));
    }
}
