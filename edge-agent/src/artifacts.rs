//! Model files on the disk: written part by part under a temporary name, made durable, then renamed.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use shared::ids::Digest;
use shared::limits::MAX_PACKAGE_BYTES;

/// The folder of model files.
#[derive(Debug, Clone)]
pub struct Artifacts {
    directory: PathBuf,
}

/// Why a model file cannot be written or read.
#[derive(Debug, thiserror::Error)]
#[error("{action} model file {path}: {source}")]
pub struct ArtifactError {
    action: &'static str,
    path: PathBuf,
    source: io::Error,
}

impl Artifacts {
    /// Opens the folder, making it where it is not there.
    ///
    /// # Errors
    /// If it cannot be made.
    pub fn open(directory: &Path) -> Result<Self, ArtifactError> {
        fs::create_dir_all(directory).map_err(|source| ArtifactError {
            action: "make",
            path: directory.to_owned(),
            source,
        })?;
        Ok(Self { directory: directory.to_owned() })
    }

    /// Writes a part of a package. A part at offset 0 begins the file anew.
    ///
    /// # Errors
    /// If the disk fails.
    pub fn store_chunk(&self, digest: Digest, offset: u64, bytes: &[u8]) -> Result<(), ArtifactError> {
        let path = self.partial(digest);
        let write = || {
            let mut file = OpenOptions::new().create(true).write(true).truncate(offset == 0).open(&path)?;
            file.seek(SeekFrom::Start(offset))?;
            file.write_all(bytes)
        };
        write().map_err(|source| ArtifactError { action: "write", path: path.clone(), source })
    }

    /// The package's bytes; a file that was just completed is made durable under its own name first.
    ///
    /// # Errors
    /// If it is not there or the disk fails.
    pub fn complete(&self, digest: Digest) -> Result<Vec<u8>, ArtifactError> {
        let (partial, whole) = (self.partial(digest), self.path(digest));
        if partial.exists() {
            let finish = || {
                File::open(&partial)?.sync_all()?;
                fs::rename(&partial, &whole)?;
                File::open(&self.directory)?.sync_all()
            };
            finish().map_err(|source| ArtifactError { action: "finish", path: partial.clone(), source })?;
        }
        let read = || {
            let mut bytes = Vec::new();
            File::open(&whole)?.take(MAX_PACKAGE_BYTES + 1).read_to_end(&mut bytes)?;
            Ok(bytes)
        };
        read().map_err(|source| ArtifactError { action: "read", path: whole.clone(), source })
    }

    /// Deletes a package that proved to be of no use.
    pub fn discard(&self, digest: Digest) {
        for path in [self.partial(digest), self.path(digest)] {
            // Absent is what is wanted; anything else shows when the file is written again.
            drop(fs::remove_file(path));
        }
    }

    fn path(&self, digest: Digest) -> PathBuf {
        self.directory.join(format!("{digest}.tide"))
    }

    fn partial(&self, digest: Digest) -> PathBuf {
        self.directory.join(format!("{digest}.part"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_package_in_parts_becomes_one_file_and_stays() {
        let dir = tempfile::tempdir().expect("dir");
        let artifacts = Artifacts::open(&dir.path().join("models")).expect("opens");
        let digest = Digest::of(b"x");
        artifacts.store_chunk(digest, 0, b"stale and longer").expect("writes");
        artifacts.store_chunk(digest, 0, b"abc").expect("writes");
        artifacts.store_chunk(digest, 3, b"def").expect("writes");
        assert_eq!(artifacts.complete(digest).expect("completes"), b"abcdef");
        assert_eq!(artifacts.complete(digest).expect("is there"), b"abcdef");
        artifacts.discard(digest);
        let error = artifacts.complete(digest).expect_err("gone");
        assert!(error.to_string().starts_with("read model file"), "{error}");
    }
}
