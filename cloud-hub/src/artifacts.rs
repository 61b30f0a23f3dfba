//! Packages on the disk, each under its digest.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};

use shared::ids::Digest;
use shared::limits::{CHUNK_BYTES, MAX_PACKAGE_BYTES};
use shared::wire::part::{PackedPart, dictionary_range, read_range};

/// The folder of packages.
#[derive(Debug, Clone)]
pub struct Artifacts {
    directory: PathBuf,
}

/// A part of a package.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// What it is packed against.
    pub base: Option<Digest>,
    /// Its content.
    pub packed: PackedPart,
}

/// Why a package cannot be written or read.
#[derive(Debug, thiserror::Error)]
#[error("{action} package {path}: {source}")]
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
            action: "make the folder of",
            path: directory.to_owned(),
            source,
        })?;
        Ok(Self { directory: directory.to_owned() })
    }

    /// Writes a package durably.
    ///
    /// # Errors
    /// If the disk fails; no half-written package is left under the digest's name.
    pub fn store(&self, digest: Digest, bytes: &[u8]) -> Result<(), ArtifactError> {
        let path = self.path(digest);
        let partial = path.with_extension("part");
        let write = || {
            let mut file = File::create(&partial)?;
            file.write_all(bytes)?;
            file.sync_all()?;
            fs::rename(&partial, &path)?;
            File::open(&self.directory)?.sync_all()
        };
        write().map_err(|source| ArtifactError { action: "write", path: path.clone(), source })
    }

    /// A whole package.
    ///
    /// # Errors
    /// If it is not there or the disk fails.
    pub fn load(&self, digest: Digest) -> Result<Vec<u8>, ArtifactError> {
        let path = self.path(digest);
        let mut bytes = Vec::new();
        let read = File::open(&path).and_then(|file| file.take(MAX_PACKAGE_BYTES + 1).read_to_end(&mut bytes));
        read.map_err(|source| ArtifactError { action: "read", path, source })?;
        Ok(bytes)
    }

    /// Deletes a package. What cannot be deleted stays, and is nobody's.
    pub fn remove(&self, digest: Digest) {
        drop(fs::remove_file(self.path(digest)));
    }

    /// The part of a package that starts at `offset`, packed against `base` if that can be read; empty at the end.
    ///
    /// # Errors
    /// If the package is not there or the disk fails.
    pub fn part(&self, digest: Digest, offset: u64, base: Option<Digest>) -> Result<Part, ArtifactError> {
        let bytes = self.range(digest, offset..offset.saturating_add(CHUNK_BYTES as u64))?;
        let dictionary = base.and_then(|base| self.range(base, dictionary_range(offset)).ok());
        let base = base.filter(|_| dictionary.is_some());
        let packed = PackedPart::pack(&bytes, &dictionary.unwrap_or_default()).map_err(|source| ArtifactError {
            action: "pack",
            path: self.path(digest),
            source,
        })?;
        Ok(Part { base, packed })
    }

    /// As much of a range of a package as there is.
    fn range(&self, digest: Digest, range: Range<u64>) -> Result<Vec<u8>, ArtifactError> {
        let path = self.path(digest);
        let read = File::open(&path).and_then(|mut file| read_range(&mut file, range));
        read.map_err(|source| ArtifactError { action: "read", path, source })
    }

    fn path(&self, digest: Digest) -> PathBuf {
        self.directory.join(format!("{digest}.tide"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_package_is_read_back_in_chunks() {
        let dir = tempfile::tempdir().expect("dir");
        let artifacts = Artifacts::open(dir.path()).expect("opens");
        let bytes: Vec<u8> = (0..CHUNK_BYTES * 2 + 10).map(|i| i as u8).collect();
        let digest = Digest::of(&bytes);
        artifacts.store(digest, &bytes).expect("writes");
        let mut read = Vec::new();
        loop {
            let stranger = Some(Digest::of(b"nobody"));
            let part = artifacts.part(digest, read.len() as u64, stranger).expect("reads");
            assert_eq!(part.base, None, "what is not here is no base");
            let chunk = part.packed.unpack(&[]).expect("unpacks");
            if chunk.is_empty() {
                break;
            }
            read.extend(chunk);
        }
        assert_eq!(read, bytes);
        assert_eq!(artifacts.load(digest).expect("reads"), bytes);
    }
}
