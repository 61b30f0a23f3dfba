//! Packages that machines install the agent from, and the script that does it. An operator puts the packages into a folder; what they
//! are follows from their names, and the script holds the hash of each, so that whoever has the script's own hash has them all.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::SystemTime;

use ring::digest::{Context, Digest, SHA256, digest};

/// The folder's name in the hub's data folder.
pub const INSTALL_FOLDER: &str = "install";
/// Packages that are looked at: two flavours for three processors and two package managers, over years.
const MAX_PACKAGES: usize = 256;
/// Bytes of a package: four times the largest that there is.
const MAX_INSTALL_BYTES: u64 = 256 * 1024 * 1024;
/// Bytes that are read at once to hash a package.
const READ_BYTES: usize = 64 * 1024;
const SCRIPT: &str = include_str!("install/install.sh");
/// The line of the script in whose place the packages are put.
const PLACE: &str = "@PACKAGES@\n";

/// The folder with the packages.
#[derive(Debug)]
pub struct InstallFolder {
    directory: PathBuf,
    hashed: Mutex<BTreeMap<String, Hashed>>,
}

/// A file that was hashed, and is not again until it is another.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Hashed {
    bytes: u64,
    modified: SystemTime,
    sha256: String,
}

/// A package of the agent.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct InstallPackage {
    /// The kind of package: `deb` or `rpm`.
    pub kind: &'static str,
    /// The processor, as the package manager calls it.
    pub arch: String,
    /// The package's name.
    pub package: String,
    /// Its file.
    pub file: String,
    /// The file's SHA-256, hexadecimal.
    pub sha256: String,
}

impl InstallFolder {
    /// The folder in the hub's data folder. It need not be there.
    #[must_use]
    pub fn of(data_directory: &Path) -> Self {
        Self { directory: data_directory.join(INSTALL_FOLDER), hashed: Mutex::default() }
    }

    /// The packages that are there: of each kind, processor and name the one that was put there last.
    ///
    /// # Errors
    /// If a package cannot be read.
    pub fn packages(&self) -> io::Result<Vec<InstallPackage>> {
        let entries = match fs::read_dir(&self.directory) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries?,
        };
        let mut newest: BTreeMap<(&'static str, String, String), (SystemTime, String, u64)> = BTreeMap::new();
        for entry in entries.take(MAX_PACKAGES) {
            let entry = entry?;
            let Ok(file) = entry.file_name().into_string() else { continue };
            let Some((kind, package, arch)) = parts(&file) else { continue };
            let key = (kind, arch.to_owned(), package.to_owned());
            let facts = fs::metadata(entry.path())?;
            if !facts.is_file() || facts.len() > MAX_INSTALL_BYTES {
                continue;
            }
            let found = (facts.modified()?, file, facts.len());
            let known = newest.entry(key).or_insert_with(|| found.clone());
            if *known < found {
                *known = found;
            }
        }
        let mut packages = Vec::with_capacity(newest.len());
        for ((kind, arch, package), (modified, file, bytes)) in newest {
            let sha256 = self.hash(&file, modified, bytes)?;
            packages.push(InstallPackage { kind, arch, package, file, sha256 });
        }
        Ok(packages)
    }

    /// The script that installs them; nothing if there are none.
    ///
    /// # Errors
    /// If a package cannot be read.
    pub fn script(&self) -> io::Result<Option<String>> {
        let packages = self.packages()?;
        if packages.is_empty() {
            return Ok(None);
        }
        let line = |package: &InstallPackage| {
            let InstallPackage { kind, arch, package, file, sha256 } = package;
            format!("{kind} {arch} {package} {file} {sha256}\n")
        };
        let lines: String = packages.iter().map(line).collect();
        Ok(Some(SCRIPT.replace(PLACE, &lines)))
    }

    /// A package's file to read, and its size; nothing if none of that name is given out.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn open(&self, name: &str) -> io::Result<Option<(File, u64)>> {
        if parts(name).is_none() {
            return Ok(None);
        }
        match File::open(self.directory.join(name)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            file => {
                let file = file?;
                let facts = file.metadata()?;
                Ok((facts.is_file() && facts.len() <= MAX_INSTALL_BYTES).then_some((file, facts.len())))
            }
        }
    }

    fn hash(&self, name: &str, modified: SystemTime, bytes: u64) -> io::Result<String> {
        let is_it = |known: &&Hashed| known.bytes == bytes && known.modified == modified;
        let poisoned = || io::Error::other("a thread ended while it hashed a package");
        let known = self.hashed.lock().map_err(|_| poisoned())?.get(name).filter(is_it).cloned();
        if let Some(known) = known {
            return Ok(known.sha256);
        }
        let sha256 = sha256_of_file(&self.directory.join(name))?;
        let mut hashed = self.hashed.lock().map_err(|_| poisoned())?;
        if hashed.len() >= MAX_PACKAGES {
            hashed.clear();
        }
        hashed.insert(name.to_owned(), Hashed { bytes, modified, sha256: sha256.clone() });
        Ok(sha256)
    }
}

/// The SHA-256 of bytes, hexadecimal, as `sha256sum` prints it.
#[must_use]
pub fn sha256(bytes: &[u8]) -> String {
    hex(digest(&SHA256, bytes))
}

fn sha256_of_file(path: &Path) -> io::Result<String> {
    let mut file = File::open(path)?.take(MAX_INSTALL_BYTES);
    let mut context = Context::new(&SHA256);
    let mut buffer = vec![0; READ_BYTES];
    loop {
        let read = file.read(&mut buffer)?;
        if read == 0 {
            break;
        }
        context.update(&buffer[..read]);
    }
    Ok(hex(context.finish()))
}

fn hex(digest: Digest) -> String {
    digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Kind, name and processor of a package of the agent, by its file's name: `tideline-edge_0.1.0_arm64.deb`,
/// `tideline-edge-0.1.0-1.aarch64.rpm`. Nothing else is given out, and nothing that a shell would take for more than a word.
fn parts(file: &str) -> Option<(&'static str, &str, &str)> {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "._+~-".contains(c);
    if !file.chars().all(is_plain) || file.starts_with('-') {
        return None;
    }
    let (kind, package, arch) = if let Some(stem) = file.strip_suffix(".deb") {
        let (package, rest) = stem.split_once('_')?;
        ("deb", package, rest.split_once('_')?.1)
    } else {
        let (rest, arch) = file.strip_suffix(".rpm")?.rsplit_once('.')?;
        let (rest, _release) = rest.rsplit_once('-')?;
        ("rpm", rest.rsplit_once('-')?.0, arch)
    };
    matches!(package, "tideline-edge" | "tideline-edge-gpu").then_some((kind, package, arch))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_package_is_stands_in_its_name_and_nothing_else_is_given_out() {
        assert_eq!(parts("tideline-edge_0.1.0_arm64.deb"), Some(("deb", "tideline-edge", "arm64")));
        assert_eq!(parts("tideline-edge-gpu_0.1.0_amd64.deb"), Some(("deb", "tideline-edge-gpu", "amd64")));
        assert_eq!(parts("tideline-edge-0.1.0-1.armv7hl.rpm"), Some(("rpm", "tideline-edge", "armv7hl")));
        assert_eq!(parts("tideline-edge-gpu-0.1.0-1.x86_64.rpm"), Some(("rpm", "tideline-edge-gpu", "x86_64")));
        for other in [
            "tideline-hub_0.1.0_amd64.deb",
            "../hub.db",
            "tideline-edge_0.1.0_$(id).deb",
            "tideline-edge_0.1.0.deb",
            "-tideline-edge_0_amd64.deb",
            "tideline-edge.rpm",
            "release.key",
        ] {
            assert_eq!(parts(other), None, "{other}");
        }
    }

    #[test]
    fn the_script_holds_the_hash_of_the_newest_package_of_each_kind() {
        let data = tempfile::tempdir().expect("dir");
        let folder = InstallFolder::of(data.path());
        assert_eq!(folder.script().expect("reads"), None, "there is no folder");
        let directory = data.path().join(INSTALL_FOLDER);
        fs::create_dir(&directory).expect("makes");
        let put = |name: &str, content: &str, at_s: u64| {
            fs::write(directory.join(name), content).expect("writes");
            let file = File::options().write(true).open(directory.join(name)).expect("opens");
            file.set_modified(SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(at_s)).expect("sets");
        };
        put("notes.txt", "private", 9);
        assert_eq!(folder.script().expect("reads"), None, "nothing to install");
        put("tideline-edge_0.1.0_arm64.deb", "old", 1);
        put("tideline-edge_0.2.0_arm64.deb", "abc", 2);
        let script = folder.script().expect("reads").expect("a script");
        let line = "\ndeb arm64 tideline-edge tideline-edge_0.2.0_arm64.deb \
                    ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad\n";
        assert!(script.contains(line), "{script}");
        assert!(!script.contains("0.1.0_arm64") && !script.contains("@PACKAGES@"));
        put("tideline-edge_0.2.0_arm64.deb", "other", 3);
        assert!(!folder.script().expect("reads").expect("a script").contains(line), "it is another file now");
        assert!(folder.open("notes.txt").expect("asks").is_none());
        assert!(folder.open("tideline-edge_0.9.0_arm64.deb").expect("asks").is_none());
        assert_eq!(folder.open("tideline-edge_0.2.0_arm64.deb").expect("asks").expect("there").1, 5);
    }
}
