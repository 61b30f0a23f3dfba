//! Files that programs which train elsewhere leave at the hub: in one folder, under paths that lead nowhere else.

use std::fs::{self, File};
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Bytes of all files: what a hub's disk has to spare beside its samples.
pub const MAX_TRACKED_FILES_BYTES: u64 = 8 * 1024 * 1024 * 1024;
/// Bytes of a path.
const MAX_PATH_BYTES: usize = 1_000;
/// Bytes of a part of it: NAME_MAX of every file system in use, less what a part that is written is called.
const MAX_NAME_BYTES: usize = 240;
/// Folders below each other.
const MAX_DEPTH: usize = 32;
/// What a file is called as long as it is being written; nobody's name begins so.
const UNFINISHED: &str = ".part";

/// The folder. Clones are cheap and mean the same.
#[derive(Debug, Clone)]
pub struct TrackedFiles {
    root: Arc<Path>,
    used: Arc<Mutex<u64>>,
}

/// A file or folder.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Listed {
    /// Its name.
    pub name: String,
    /// Its bytes; nothing of a folder.
    pub bytes: Option<u64>,
}

/// Why a file is not to be had.
#[derive(Debug, thiserror::Error)]
pub enum TrackedFileError {
    /// The path leads elsewhere, or nowhere.
    #[error("{path:?} is no path of a file here: {problem}")]
    Path {
        /// What was asked for.
        path: String,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// There is no such file.
    #[error("there is no file {0:?}")]
    Missing(String),
    /// There is no room.
    #[error("write {path:?}: the files here may have {MAX_TRACKED_FILES_BYTES} bytes together")]
    Full {
        /// The file.
        path: String,
    },
    /// The disk failed.
    #[error("{action} {path:?}: {source}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: String,
        /// What the system said.
        source: io::Error,
    },
}

impl TrackedFiles {
    /// The files below a folder, which is made when there is the first.
    ///
    /// # Errors
    /// If the folder cannot be read.
    pub fn open(root: &Path) -> io::Result<Self> {
        let used = bytes_below(root)?;
        Ok(Self { root: root.into(), used: Arc::new(Mutex::new(used)) })
    }

    /// What lies directly in a folder, by name; nothing in one that is not there.
    ///
    /// # Errors
    /// If the path is none, or the disk fails.
    pub fn list(&self, path: &str) -> Result<Vec<Listed>, TrackedFileError> {
        let folder = if path.is_empty() { self.root.to_path_buf() } else { self.place(path)? };
        let failed = |source| TrackedFileError::Io { action: "list", path: path.to_owned(), source };
        let entries = match fs::read_dir(&folder) {
            Ok(entries) => entries,
            Err(error) if [ErrorKind::NotFound, ErrorKind::NotADirectory].contains(&error.kind()) => {
                return Ok(Vec::new());
            }
            Err(source) => return Err(failed(source)),
        };
        let mut listed = Vec::new();
        for entry in entries {
            let entry = entry.map_err(failed)?;
            let metadata = entry.metadata().map_err(failed)?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if !name.starts_with(UNFINISHED) {
                listed.push(Listed { name, bytes: metadata.is_file().then_some(metadata.len()) });
            }
        }
        listed.sort();
        Ok(listed)
    }

    /// A file.
    ///
    /// # Errors
    /// If there is none, or the disk fails.
    pub fn read(&self, path: &str) -> Result<Vec<u8>, TrackedFileError> {
        let place = self.place(path)?;
        if !place.is_file() {
            return Err(TrackedFileError::Missing(path.to_owned()));
        }
        fs::read(place).map_err(|source| TrackedFileError::Io { action: "read", path: path.to_owned(), source })
    }

    /// Writes a file, durably: whoever reads it meanwhile gets the one before, whole.
    ///
    /// # Errors
    /// If the path is none, there is no room, or the disk fails.
    pub fn write(&self, path: &str, bytes: &[u8]) -> Result<(), TrackedFileError> {
        let place = self.place(path)?;
        let mut used = self.lock();
        let before = fs::metadata(&place).map_or(0, |metadata| metadata.len());
        let after = used.saturating_sub(before) + bytes.len() as u64;
        if after > MAX_TRACKED_FILES_BYTES {
            return Err(TrackedFileError::Full { path: path.to_owned() });
        }
        self.replace(&place, bytes).map_err(|source| {
            if matches!(source.kind(), ErrorKind::NotADirectory | ErrorKind::IsADirectory | ErrorKind::AlreadyExists) {
                return wrong(path, "a file would have to be a folder as well");
            }
            TrackedFileError::Io { action: "write", path: path.to_owned(), source }
        })?;
        *used = after;
        Ok(())
    }

    /// Removes a file, or a folder with all in it; nothing happens if it is not there.
    ///
    /// # Errors
    /// If the path is none, or the disk fails.
    pub fn remove(&self, path: &str) -> Result<(), TrackedFileError> {
        let place = self.place(path)?;
        let mut used = self.lock();
        let removed = (|| {
            let metadata = fs::symlink_metadata(&place)?;
            if metadata.is_dir() {
                let bytes = bytes_below(&place)?;
                fs::remove_dir_all(&place).map(|()| bytes)
            } else {
                fs::remove_file(&place).map(|()| metadata.len())
            }
        })();
        match removed {
            Ok(bytes) => *used = used.saturating_sub(bytes),
            Err(error) if [ErrorKind::NotFound, ErrorKind::NotADirectory].contains(&error.kind()) => {}
            Err(source) => return Err(TrackedFileError::Io { action: "remove", path: path.to_owned(), source }),
        }
        Ok(())
    }

    /// Bytes of all files; whoever changes them holds it as long as that takes.
    fn lock(&self) -> MutexGuard<'_, u64> {
        self.used.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn replace(&self, place: &Path, bytes: &[u8]) -> io::Result<()> {
        let folder = place.parent().unwrap_or(&self.root);
        fs::create_dir_all(folder)?;
        let partial = folder.join(UNFINISHED);
        let written = (|| {
            let mut file = File::create(&partial)?;
            file.write_all(bytes)?;
            file.sync_all()?;
            fs::rename(&partial, place)?;
            File::open(folder)?.sync_all()
        })();
        if written.is_err() {
            // What could not be written whole is not left behind; if that fails as well, the next start counts it.
            drop(fs::remove_file(&partial));
        }
        written
    }

    /// Where a path leads, if it stays below the folder.
    fn place(&self, path: &str) -> Result<PathBuf, TrackedFileError> {
        if path.len() > MAX_PATH_BYTES {
            return Err(wrong(path, "it is too long"));
        }
        let parts: Vec<&str> = path.split('/').collect();
        if parts.len() > MAX_DEPTH {
            return Err(wrong(path, "it is too deep"));
        }
        let mut place = self.root.to_path_buf();
        for part in parts {
            if part.is_empty() || part == "." || part == ".." || part.starts_with(UNFINISHED) {
                return Err(wrong(path, "each part must be a name"));
            }
            if part.len() > MAX_NAME_BYTES || part.contains('\\') || part.chars().any(char::is_control) {
                return Err(wrong(path, "a part is too long, or has a character that names do not have"));
            }
            place.push(part);
        }
        Ok(place)
    }
}

fn wrong(path: &str, problem: &'static str) -> TrackedFileError {
    TrackedFileError::Path { path: path.chars().take(100).collect(), problem }
}

fn bytes_below(folder: &Path) -> io::Result<u64> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(0),
        Err(error) => return Err(error),
    };
    let mut sum = 0;
    for entry in entries {
        let entry = entry?;
        let kind = entry.file_type()?;
        if kind.is_dir() {
            sum += bytes_below(&entry.path())?;
        } else if entry.file_name().to_string_lossy().starts_with(UNFINISHED) {
            // The hub was killed while it wrote it.
            fs::remove_file(entry.path())?;
        } else {
            sum += entry.metadata()?.len();
        }
    }
    Ok(sum)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_come_back_as_they_were_and_lists_say_what_there_is() {
        let directory = tempfile::tempdir().expect("dir");
        let root = directory.path().join("files");
        let files = TrackedFiles::open(&root).expect("opens");
        assert_eq!(files.list("").expect("lists"), []);
        files.write("0/r/artifacts/model/weights.bin", b"one").expect("writes");
        files.write("0/r/artifacts/model/weights.bin", b"other").expect("writes over it");
        files.write("0/r/artifacts/note.txt", b"").expect("writes");
        fs::write(root.join("0/r/artifacts/.part"), b"torn").expect("writes");
        assert_eq!(files.read("0/r/artifacts/model/weights.bin").expect("reads"), b"other");
        let listed = files.list("0/r/artifacts").expect("lists");
        let expected = [("model", None), ("note.txt", Some(0))];
        assert_eq!(listed, expected.map(|(name, bytes)| Listed { name: name.to_owned(), bytes }));
        assert_eq!(*files.lock(), 5);
        assert_eq!(*TrackedFiles::open(&root).expect("opens again").lock(), 5);
        assert!(!root.join("0/r/artifacts/.part").exists());
        assert!(matches!(files.read("0/r/artifacts/none"), Err(TrackedFileError::Missing(_))));
        assert!(matches!(files.read("0/r/artifacts/model"), Err(TrackedFileError::Missing(_))), "a folder is no file");
        for taken in ["0/r/artifacts/note.txt/below", "0/r/artifacts/model"] {
            assert!(matches!(files.write(taken, b"x"), Err(TrackedFileError::Path { .. })), "{taken}");
        }
        files.remove("0/r/artifacts/model").expect("removes a folder");
        files.remove("0/r/artifacts/note.txt").expect("removes a file");
        files.remove("0/r/artifacts/note.txt").expect("it is gone");
        assert_eq!((files.list("0/r/artifacts").expect("lists"), *files.lock()), (vec![], 0));
    }

    #[test]
    fn no_path_leads_elsewhere() {
        let directory = tempfile::tempdir().expect("dir");
        let files = TrackedFiles::open(&directory.path().join("files")).expect("opens");
        let long = "x".repeat(300);
        let deep = ["a"; 40].join("/");
        for path in ["..", "a/../b", "/etc/passwd", "a//b", "", "a/.", "a\\b", "a\nb", ".part-1", ".part", &long, &deep]
        {
            assert!(matches!(files.write(path, b"x"), Err(TrackedFileError::Path { .. })), "{path:?}");
            assert!(matches!(files.read(path), Err(TrackedFileError::Path { .. })), "{path:?}");
        }
        assert!(!directory.path().join("b").exists());
    }
}
