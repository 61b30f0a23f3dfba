//! The agent's own programs on the disk, and how one takes the place of another.
//!
//! The installed program is started first, always. If the box holds another one that it should run, the installed one starts that in its
//! own place, with the same arguments and `--installed` with its own path: the process stays the same, and so does whoever watches it.
//! To change programs, the running one starts the installed one in its place.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use shared::ids::Digest;
use shared::limits::{MAX_PROGRAM_BYTES, MAX_PROGRAM_FILE_BYTES};
use tracing::{error, info, warn};

use crate::core::programs::ProgramBook;

/// The flag by which a program knows that it runs in the place of another.
pub const INSTALLED_FLAG: &str = "--installed";

/// Grows from release to release: the time of the sources, which whoever builds a release says (SOURCE_DATE_EPOCH); 0 for one that was
/// built by hand.
pub const NUMBER: u64 = number();

/// What the program was built for, as the names of targets go.
pub const TARGET: &str = if cfg!(all(target_arch = "x86_64", target_env = "musl")) {
    "x86_64-unknown-linux-musl"
} else if cfg!(all(target_arch = "aarch64", target_env = "musl")) {
    "aarch64-unknown-linux-musl"
} else if cfg!(all(target_arch = "arm", target_env = "musl")) {
    "armv7-unknown-linux-musleabihf"
} else if cfg!(target_arch = "x86_64") {
    "x86_64-unknown-linux-gnu"
} else if cfg!(target_arch = "aarch64") {
    "aarch64-unknown-linux-gnu"
} else {
    "unknown"
};

/// The program that runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Running {
    /// Its number.
    pub number: u64,
    /// The installed program, if this one runs in its place.
    pub installed: Option<PathBuf>,
}

/// The folder of programs, beside the state.
#[derive(Debug, Clone)]
pub struct ProgramFolder {
    directory: PathBuf,
}

/// Starts the program that the box should run in the place of this one, or says that this one is right. `arguments` are those of this
/// program, without its name; `installed` is what [`INSTALLED_FLAG`] said. Where a program on trial turned out to be none to run,
/// `went_back` is called before another starts.
#[must_use]
pub fn take_place(
    state_directory: &Path,
    arguments: &[OsString],
    installed: Option<PathBuf>,
    went_back: impl Fn(),
) -> Running {
    let folder = ProgramFolder::of(state_directory);
    let mut book = folder.book();
    if installed.is_some() {
        return Running { number: book.current().map_or(NUMBER, |held| held.number), installed };
    }
    loop {
        let before = book.clone();
        let held = book.start(NUMBER).cloned();
        if book != before
            && let Err(failure) = folder.save(&book)
        {
            error!("failed to note the start of a program: {failure}; the installed one runs");
            break;
        }
        if before.trial().is_some() && book.trial().is_none() {
            folder.prune(&book);
            went_back();
        }
        let Some(held) = held else { break };
        info!(release = held.release, number = held.number, "starting the program that the hub sent");
        let failure = match folder.sound(held.program) {
            Ok(path) => start(&path, arguments, true),
            Err(failure) => failure,
        };
        error!("failed to start program {}: {failure}", held.release);
        book.go_back(format!("it cannot be started: {failure}"));
        if let Err(failure) = folder.save(&book) {
            error!("failed to note what became of a program: {failure}");
            break;
        }
        folder.prune(&book);
    }
    Running { number: NUMBER, installed: None }
}

/// Starts the installed program in the place of this one, which decides anew what runs.
///
/// # Errors
/// Only if that fails: else there is nobody to return to.
pub fn start_over(running: &Running, arguments: &[OsString]) -> io::Error {
    match running.installed.clone().map_or_else(std::env::current_exe, Ok) {
        Ok(installed) => start(&installed, arguments, false),
        Err(error) => error,
    }
}

/// The program at `path` takes this one's place. It returns only if that fails.
fn start(path: &Path, arguments: &[OsString], in_place: bool) -> io::Error {
    let mut command = Command::new(path);
    command.args(without_flag(arguments));
    if in_place {
        match std::env::current_exe() {
            Ok(installed) => drop(command.arg(INSTALLED_FLAG).arg(installed)),
            Err(error) => return error,
        }
    }
    command.exec()
}

fn without_flag(arguments: &[OsString]) -> Vec<OsString> {
    let at = arguments.iter().position(|argument| argument == INSTALLED_FLAG).unwrap_or(arguments.len());
    let (before, after) = arguments.split_at(at);
    before.iter().chain(after.iter().skip(2)).cloned().collect()
}

impl ProgramFolder {
    /// The one beside a box's state.
    #[must_use]
    pub fn of(state_directory: &Path) -> Self {
        Self { directory: state_directory.join("programs") }
    }

    /// What is known of programs. A book that cannot be read is begun anew: the installed program runs, and the hub offers again.
    #[must_use]
    pub fn book(&self) -> ProgramBook {
        let path = self.directory.join("book.json");
        let read = match fs::read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return ProgramBook::default(),
            Err(error) => Err(error),
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(io::Error::from),
        };
        read.unwrap_or_else(|error| {
            warn!("failed to read {}: {error}; the installed program runs", path.display());
            ProgramBook::default()
        })
    }

    /// Makes it durable.
    ///
    /// # Errors
    /// If the disk fails.
    pub fn save(&self, book: &ProgramBook) -> io::Result<()> {
        let text = serde_json::to_vec_pretty(book).map_err(io::Error::from)?;
        self.write("book.json", &text, 0o600)
    }

    /// Makes a program durable, under its hash.
    ///
    /// # Errors
    /// If the disk fails.
    pub fn install(&self, program: Digest, bytes: &[u8]) -> io::Result<()> {
        self.write(&program.to_string(), bytes, 0o700)
    }

    /// Bytes that are there of a file that is being fetched.
    #[must_use]
    pub fn fetched(&self, file: Digest) -> u64 {
        fs::metadata(self.part(file)).map_or(0, |metadata| metadata.len())
    }

    /// Adds a part of a file.
    ///
    /// # Errors
    /// If the disk fails.
    pub fn add_part(&self, file: Digest, offset: u64, bytes: &[u8]) -> io::Result<()> {
        fs::create_dir_all(&self.directory)?;
        let mut part =
            OpenOptions::new().create(true).write(true).truncate(offset == 0).mode(0o600).open(self.part(file))?;
        part.seek(SeekFrom::Start(offset))?;
        part.write_all(bytes)
    }

    /// A file that was fetched, or nothing if it is not the one it should be; either way it is taken off the disk.
    ///
    /// # Errors
    /// If the disk fails.
    pub fn take_fetched(&self, file: Digest) -> io::Result<Option<Vec<u8>>> {
        let path = self.part(file);
        let bytes = read(&path, MAX_PROGRAM_FILE_BYTES)?;
        fs::remove_file(&path)?;
        Ok(Some(bytes).filter(|bytes| Digest::of(bytes) == file))
    }

    /// Deletes everything that no book names.
    pub fn prune(&self, book: &ProgramBook) {
        let held: Vec<String> = book.held().map(|program| program.to_string()).collect();
        for entry in fs::read_dir(&self.directory).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            if name != "book.json" && !held.contains(&name) {
                // What cannot be deleted now will be after the next program.
                drop(fs::remove_file(entry.path()));
            }
        }
    }

    /// Where a program is, if it is what it should be.
    fn sound(&self, program: Digest) -> io::Result<PathBuf> {
        let path = self.directory.join(program.to_string());
        if Digest::of(&read(&path, MAX_PROGRAM_BYTES)?) != program {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "it is damaged on the disk"));
        }
        Ok(path)
    }

    fn part(&self, file: Digest) -> PathBuf {
        self.directory.join(format!("{file}.part"))
    }

    fn write(&self, name: &str, bytes: &[u8], mode: u32) -> io::Result<()> {
        fs::create_dir_all(&self.directory)?;
        let (path, new) = (self.directory.join(name), self.directory.join(format!("{name}.new")));
        let mut file = OpenOptions::new().create(true).write(true).truncate(true).mode(mode).open(&new)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        drop(file);
        fs::rename(&new, &path)?;
        File::open(&self.directory)?.sync_all()
    }
}

fn read(path: &Path, limit: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(limit + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

const fn number() -> u64 {
    match option_env!("SOURCE_DATE_EPOCH") {
        None => 0,
        Some(text) => match u64::from_str_radix(text, 10) {
            Ok(number) => number,
            Err(_) => 0,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use shared::program::ProgramHeader;

    #[test]
    fn a_file_in_parts_becomes_a_program_that_is_checked_before_it_is_started() {
        let directory = tempfile::tempdir().expect("dir");
        let folder = ProgramFolder::of(directory.path());
        let (file, program) = (Digest::of(b"abcdef"), Digest::of(b"program"));
        folder.add_part(file, 0, b"stale and long").expect("writes");
        folder.add_part(file, 0, b"abc").expect("writes");
        folder.add_part(file, folder.fetched(file), b"def").expect("writes");
        assert_eq!(folder.take_fetched(file).expect("reads").as_deref(), Some(&b"abcdef"[..]));
        assert_eq!(folder.fetched(file), 0);
        folder.add_part(file, 0, b"abcxyz").expect("writes");
        assert_eq!(folder.take_fetched(file).expect("reads"), None, "another file");
        assert_eq!(folder.fetched(file), 0, "it is fetched anew");
        folder.install(program, b"program").expect("writes");
        assert!(folder.sound(program).is_ok());
        fs::write(folder.directory.join(program.to_string()), b"pr0gram").expect("writes");
        assert!(folder.sound(program).is_err());
    }

    #[test]
    fn what_nobody_names_goes_and_a_damaged_book_is_begun_anew() {
        let directory = tempfile::tempdir().expect("dir");
        let folder = ProgramFolder::of(directory.path());
        let mut book = ProgramBook::default();
        let header = ProgramHeader {
            release: "1".to_owned(),
            number: 1,
            target: TARGET.to_owned(),
            created_ms: 0,
            expires_ms: 1,
            bytes: 1,
            program: Digest::of(b"new"),
            packed: Digest::of(b""),
        };
        book.begin(1, &header, false);
        folder.save(&book).expect("writes");
        assert_eq!(folder.book(), book);
        for name in [b"new", b"old"] {
            folder.install(Digest::of(name), name).expect("writes");
        }
        folder.prune(&book);
        assert!(folder.sound(Digest::of(b"new")).is_ok() && folder.sound(Digest::of(b"old")).is_err());
        fs::write(folder.directory.join("book.json"), "{\"floor\":").expect("writes");
        assert_eq!(folder.book(), ProgramBook::default());
    }

    #[test]
    fn the_flag_and_its_value_are_left_out_wherever_they_stand() {
        let arguments = |text: &str| text.split(' ').map(OsString::from).collect::<Vec<_>>();
        let plain = arguments("run --config a.toml");
        assert_eq!(without_flag(&plain), plain);
        assert_eq!(without_flag(&arguments("run --installed /usr/bin/x --config a.toml")), plain);
        assert_eq!(without_flag(&arguments("run --config a.toml --installed /usr/bin/x")), plain);
    }
}
