//! Segments as files of one directory. The only place in this crate that touches a file system.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use super::storage::{SegmentFile, Storage};

/// The file that holds the reserve.
const RESERVE: &str = "reserve";
/// The file that holds the boot in which the log was last opened.
const BOOT: &str = "boot";
/// Where Linux says which start of the machine this is: random(4).
pub const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";
/// How a segment's replacement is called until it takes the segment's place.
const REPLACEMENT: &str = "replacement.tmp";

/// A directory of segments.
#[derive(Debug, Clone)]
pub struct Directory {
    path: PathBuf,
    reserve_bytes: u64,
}

impl Directory {
    /// Opens the directory, making it, durably, where it is not there. It keeps `reserve_bytes` of disk that are given
    /// up when a segment must be replaced on a full disk, and taken again with the next start.
    ///
    /// # Errors
    /// If it cannot be made. A disk too full for the reserve is no error.
    pub fn open(path: &Path, reserve_bytes: u64) -> io::Result<Self> {
        fs::create_dir_all(path)?;
        if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
            File::open(parent)?.sync_all()?;
        }
        let directory = Self { path: path.to_owned(), reserve_bytes };
        // Left over from a replacement that a crash cut short.
        remove_if_there(&directory.path.join(REPLACEMENT))?;
        directory.refill_reserve()?;
        Ok(directory)
    }

    /// Takes the reserve, if it is not there and the disk has room for it.
    ///
    /// # Errors
    /// If the disk fails otherwise than by being full.
    pub fn refill_reserve(&self) -> io::Result<()> {
        let path = self.path.join(RESERVE);
        let held = fs::metadata(&path).map_or(0, |metadata| metadata.len());
        if held >= self.reserve_bytes {
            return Ok(());
        }
        match write_zeros(&path, self.reserve_bytes) {
            Err(error) if is_full(&error) => remove_if_there(&path),
            result => result,
        }
    }

    fn sync(&self) -> io::Result<()> {
        File::open(&self.path)?.sync_all()
    }

    /// Does it, on a full disk after giving up the reserve.
    fn with_reserve<T>(&self, action: impl Fn() -> io::Result<T>) -> io::Result<T> {
        match action() {
            Err(error) if is_full(&error) => {
                remove_if_there(&self.path.join(RESERVE))?;
                action()
            }
            result => result,
        }
    }

    fn try_replace(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let replacement = self.path.join(REPLACEMENT);
        let mut file = File::create(&replacement)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&replacement, self.path.join(name))?;
        self.sync()
    }
}

impl Storage for Directory {
    type File = FileSegment;

    fn is_same_boot(&self) -> bool {
        fs::read_to_string(BOOT_ID).is_ok_and(|id| fs::read_to_string(self.path.join(BOOT)).is_ok_and(|old| old == id))
    }

    fn mark_boot(&self) {
        // Not out of the reserve: there is more important use for it.
        drop(fs::read(BOOT_ID).and_then(|id| fs::write(self.path.join(BOOT), id)));
    }

    fn list(&self) -> io::Result<Vec<String>> {
        fs::read_dir(&self.path)?.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect()
    }

    fn create(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        self.with_reserve(|| {
            let mut file = File::create(self.path.join(name))?;
            file.write_all(bytes)?;
            file.sync_all()?;
            self.sync()
        })
    }

    fn open_at(&self, name: &str, length: u64) -> io::Result<FileSegment> {
        let mut file = OpenOptions::new().write(true).open(self.path.join(name))?;
        if file.metadata()?.len() != length {
            file.set_len(length)?;
            file.sync_all()?;
        }
        file.seek(SeekFrom::End(0))?;
        Ok(FileSegment { file })
    }

    fn replace(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        self.with_reserve(|| self.try_replace(name, bytes))
    }

    fn read(&self, name: &str, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let mut file = File::open(self.path.join(name))?;
        file.seek(SeekFrom::Start(offset))?;
        let mut filled = 0;
        while filled < buffer.len() {
            match file.read(&mut buffer[filled..]) {
                Ok(0) => break,
                Ok(count) => filled += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(filled)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        fs::remove_file(self.path.join(name))
    }
}

/// A segment's file.
#[derive(Debug)]
pub struct FileSegment {
    file: File,
}

impl SegmentFile for FileSegment {
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all(bytes)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.file.sync_data()
    }
}

fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

fn remove_if_there(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Zeros that are really written, because a hole takes no space.
fn write_zeros(path: &Path, bytes: u64) -> io::Result<()> {
    let mut file = File::create(path)?;
    io::copy(&mut io::repeat(0).take(bytes), &mut file)?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reserve_is_held_and_left_over_replacements_are_removed() {
        let dir = tempfile::tempdir().expect("dir");
        fs::write(dir.path().join(REPLACEMENT), b"half").expect("writes");
        let directory = Directory::open(dir.path(), 4_096).expect("opens");
        assert_eq!(directory.list().expect("lists"), [RESERVE]);
        assert_eq!(fs::metadata(dir.path().join(RESERVE)).expect("there").len(), 4_096);
    }

    #[test]
    fn a_replaced_segment_holds_the_new_bytes() {
        let dir = tempfile::tempdir().expect("dir");
        let directory = Directory::open(dir.path(), 0).expect("opens");
        directory.create("a.seg", b"old ").expect("creates");
        directory.open_at("a.seg", 4).expect("opens").append(b"and long").expect("appends");
        directory.replace("a.seg", b"new").expect("replaces");
        let mut buffer = [0; 16];
        assert_eq!(directory.read("a.seg", 0, &mut buffer).expect("reads"), 3);
        assert_eq!(&buffer[..3], b"new");
    }
}
