//! Model files on the disk: written part by part under a temporary name, made durable, then renamed.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};

use shared::ids::Digest;
use shared::limits::MAX_PACKAGE_BYTES;
use shared::wire::part::{PackedPart, dictionary_range, read_range};

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

    /// A package of which a part is here, and how much: at most one is fetched at a time.
    #[must_use]
    pub fn partial_package(&self) -> Option<(Digest, u64)> {
        fs::read_dir(&self.directory).ok()?.flatten().find_map(|entry| {
            let name = entry.file_name();
            let digest = Digest::from_hex(name.to_str()?.strip_suffix(".part")?)?;
            Some((digest, entry.metadata().ok()?.len()))
        })
    }

    /// Unpacks a part of a package and writes it. A part at offset 0 begins the file anew.
    ///
    /// # Errors
    /// If the part does not unpack, the package it was packed against is not there, or the disk fails.
    pub fn store_part(
        &self,
        digest: Digest,
        offset: u64,
        base: Option<Digest>,
        part: &PackedPart,
    ) -> Result<(), ArtifactError> {
        let dictionary = base.map_or(Ok(Vec::new()), |base| self.range(base, dictionary_range(offset)))?;
        let bytes = part.unpack(&dictionary).map_err(|error| ArtifactError {
            action: "unpack a part of",
            path: self.partial(digest),
            source: io::Error::new(io::ErrorKind::InvalidData, error),
        })?;
        self.store_chunk(digest, offset, &bytes)
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

    /// As much of a range of a package as there is.
    fn range(&self, digest: Digest, range: Range<u64>) -> Result<Vec<u8>, ArtifactError> {
        let path = self.path(digest);
        let read = File::open(&path).and_then(|mut file| read_range(&mut file, range));
        read.map_err(|source| ArtifactError { action: "read", path, source })
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

    /// The package in `directory` that was written last, with its bytes; nothing is made or changed for it.
    ///
    /// # Errors
    /// If the folder or the file cannot be read.
    pub fn newest(directory: &Path) -> Result<Option<(PathBuf, Vec<u8>)>, ArtifactError> {
        let error = |path: &Path| {
            let path = path.to_owned();
            move |source| ArtifactError { action: "read", path, source }
        };
        let entries = match fs::read_dir(directory) {
            Ok(entries) => entries,
            Err(source) if source.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(error(directory)(source)),
        };
        let packages = entries
            .flatten()
            .map(|entry| entry.path())
            .filter(|path| path.extension().is_some_and(|end| end == "tide"));
        let newest = packages.max_by_key(|path| path.metadata().and_then(|metadata| metadata.modified()).ok());
        let Some(path) = newest else { return Ok(None) };
        let mut bytes = Vec::new();
        File::open(&path)
            .and_then(|file| file.take(MAX_PACKAGE_BYTES + 1).read_to_end(&mut bytes))
            .map_err(error(&path))?;
        Ok(Some((path, bytes)))
    }

    /// Deletes every package but these: the one that serves, the one a box can go back to, the one in shadow.
    pub fn prune(&self, kept: impl Iterator<Item = Digest>) {
        let kept: Vec<PathBuf> = kept.map(|digest| self.path(digest)).collect();
        let others = fs::read_dir(&self.directory)
            .into_iter()
            .flatten()
            .flatten()
            .map(|entry| entry.path())
            .filter(|path| path.extension().is_some_and(|end| end == "tide") && !kept.contains(path));
        for path in others {
            // What cannot be deleted now will be after the next model.
            drop(fs::remove_file(path));
        }
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
    use shared::limits::CHUNK_BYTES;

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

    #[test]
    fn old_packages_go_and_the_previous_one_stays() {
        let dir = tempfile::tempdir().expect("dir");
        let artifacts = Artifacts::open(dir.path()).expect("opens");
        let [one, two, three] = [b"one", b"two", b"six"].map(|bytes| {
            let digest = Digest::of(bytes);
            artifacts.store_chunk(digest, 0, bytes).expect("writes");
            artifacts.complete(digest).expect("is whole");
            digest
        });
        let there = || [one, two, three].map(|digest| artifacts.path(digest).exists());
        artifacts.prune([three, two].into_iter());
        assert_eq!(there(), [false, true, true]);
        artifacts.prune([two].into_iter());
        assert_eq!(there(), [false, true, false]);
    }

    #[test]
    fn a_package_is_put_together_from_parts_that_were_packed_against_another() {
        let dir = tempfile::tempdir().expect("dir");
        let artifacts = Artifacts::open(dir.path()).expect("opens");
        let base: Vec<u8> = (0..150_000_u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
        let package = [&b"another manifest"[..], &base].concat();
        let (old, new) = (Digest::of(&base), Digest::of(&package));
        artifacts.store_chunk(old, 0, &base).expect("writes");
        artifacts.complete(old).expect("is whole");
        for (index, bytes) in package.chunks(CHUNK_BYTES).enumerate() {
            assert_eq!(artifacts.partial_package().map_or(0, |(_, length)| length), (index * CHUNK_BYTES) as u64);
            let offset = (index * CHUNK_BYTES) as u64;
            let place = dictionary_range(offset);
            let dictionary = &base[place.start as usize..(place.end as usize).min(base.len())];
            let part = PackedPart::pack(bytes, dictionary).expect("packs");
            let stranger = Some(Digest::of(b"nobody"));
            assert!(artifacts.store_part(new, offset, stranger, &part).is_err(), "there is no such base");
            artifacts.store_part(new, offset, Some(old), &part).expect("writes");
        }
        assert_eq!(artifacts.partial_package(), Some((new, package.len() as u64)));
        assert_eq!(artifacts.complete(new).expect("is whole"), package);
        assert_eq!(artifacts.partial_package(), None);
    }
}
