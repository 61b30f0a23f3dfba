//! Writing an image to a card, and reading it back: never to a disk that somebody uses.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Opens a disk that nobody else uses, or not at all: open(2), O_EXCL without O_CREAT.
const EXCLUSIVE: i32 = rustix::fs::OFlags::EXCL.bits() as i32;
/// Bytes written at once.
const CHUNK_BYTES: usize = 4 * 1024 * 1024;
/// Bytes of a sector in what Linux says of disks.
const SECTOR: u64 = 512;
/// How a disk hangs at a machine that can be pulled out of it.
const PULLED_OUT: [&str; 2] = ["/usb", "/mmc_host"];

/// Why a card is not written.
#[derive(Debug, thiserror::Error)]
pub enum FlashError {
    /// A file cannot be read or written.
    #[error("{action} {path}: {source}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The target is not a whole disk.
    #[error("write to {path}: it is {what}; name the whole disk, as `lsblk` shows it")]
    NoDisk {
        /// The target.
        path: PathBuf,
        /// What it is.
        what: &'static str,
    },
    /// Somebody uses the disk.
    #[error("write to {path}: {part} is in use as {place}; unmount it first, if it is the right disk")]
    InUse {
        /// The disk.
        path: PathBuf,
        /// The disk or a part of it.
        part: String,
        /// Where.
        place: String,
    },
    /// Something that is no file system uses it.
    #[error(
        "write to {path}: the system has it in use, for LVM, RAID or encryption perhaps (`lsblk` shows it); end that first, if it is \
         the right disk"
    )]
    Held {
        /// The disk.
        path: PathBuf,
    },
    /// The disk is built in.
    #[error(
        "write to {path}: it cannot be pulled out of this machine; say --fixed-disk if it is the right one all the same"
    )]
    Fixed {
        /// The disk.
        path: PathBuf,
    },
    /// The disk is too small.
    #[error("write to {path}: it has {bytes} bytes, and the image {needed}")]
    Small {
        /// The disk.
        path: PathBuf,
        /// Its size.
        bytes: u64,
        /// The image's.
        needed: u64,
    },
    /// What was read back is something else.
    #[error("read back {path}: it differs from the image after {at} bytes; the card is worn out, or none of that size")]
    Differs {
        /// The disk.
        path: PathBuf,
        /// Where.
        at: u64,
    },
}

/// What the system says of disks.
pub struct System<'a> {
    /// `/sys`.
    pub sys: &'a Path,
    /// What is mounted: `/proc/mounts`.
    pub mounts: String,
    /// What is swapped to: `/proc/swaps`.
    pub swaps: String,
}

impl System<'_> {
    /// This machine's.
    #[must_use]
    pub fn here() -> Self {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        Self { sys: Path::new("/sys"), mounts: read("/proc/mounts"), swaps: read("/proc/swaps") }
    }

    /// Whether an image of so many bytes may be written to a disk. Gives the disk's own name, where another leads to it.
    ///
    /// # Errors
    /// Says why not.
    pub fn check(&self, disk: &Path, needed: u64, fixed_disk: bool) -> Result<PathBuf, FlashError> {
        let found = |source| FlashError::Io { action: "find", path: disk.to_owned(), source };
        let path = fs::canonicalize(disk).map_err(found)?;
        let kind = fs::metadata(&path).map_err(found)?.file_type();
        if !kind.is_block_device() {
            return Err(FlashError::NoDisk { path, what: if kind.is_dir() { "a folder" } else { "a file" } });
        }
        self.check_named(&path, needed, fixed_disk)?;
        // The system gives a disk to nobody else of which it uses a part, whatever for.
        match File::options().read(true).custom_flags(EXCLUSIVE).open(&path) {
            Err(error) if error.kind() == io::ErrorKind::ResourceBusy => Err(FlashError::Held { path }),
            // Whoever may not read it is told when it is written.
            Ok(_) | Err(_) => Ok(path),
        }
    }

    /// What a disk is, for whoever is asked whether it is the right one: its maker's name for it, and its size.
    #[must_use]
    pub fn describe(&self, disk: &Path) -> String {
        let about = self.sys.join("class/block").join(disk.file_name().unwrap_or_default());
        let says = |file: &str| fs::read_to_string(about.join(file)).unwrap_or_default().trim().to_owned();
        let named: Vec<String> = ["device/vendor", "device/model", "device/name"].map(says).into();
        let gigabytes = says("size").parse::<u64>().unwrap_or(0) as f64 * SECTOR as f64 / 1e9;
        let named: Vec<&str> = named.iter().map(String::as_str).filter(|name| !name.is_empty()).collect();
        let name = if named.is_empty() { "a disk".to_owned() } else { named.join(" ") };
        format!("{name}, {gigabytes:.1} GB")
    }

    fn check_named(&self, disk: &Path, needed: u64, fixed_disk: bool) -> Result<(), FlashError> {
        let path = disk.to_owned();
        let name = disk.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let about = self.sys.join("class/block").join(&name);
        if about.join("partition").exists() {
            return Err(FlashError::NoDisk { path, what: "a partition" });
        }
        for line in self.mounts.lines().chain(self.swaps.lines()) {
            let mut words = line.split_whitespace();
            let part = words.next().and_then(|part| part.strip_prefix("/dev/")).unwrap_or_default();
            if is_of(part, &name) {
                let place = words.next().unwrap_or("swap").to_owned();
                return Err(FlashError::InUse { path, part: format!("/dev/{part}"), place });
            }
        }
        let hangs_at = fs::canonicalize(&about).unwrap_or_default();
        let hangs_at = hangs_at.to_string_lossy();
        let says = |file: &str| fs::read_to_string(about.join(file)).unwrap_or_default();
        let is_loose = says("removable").trim() == "1" || PULLED_OUT.iter().any(|how| hangs_at.contains(how));
        if !is_loose && !fixed_disk {
            return Err(FlashError::Fixed { path });
        }
        let is_held = |folder: &Path| fs::read_dir(folder.join("holders")).is_ok_and(|mut held| held.next().is_some());
        let parts = fs::read_dir(&about).into_iter().flatten().flatten().map(|entry| entry.path());
        if is_held(&about) || parts.filter(|part| part.join("partition").exists()).any(|part| is_held(&part)) {
            return Err(FlashError::Held { path });
        }
        let bytes = says("size").trim().parse::<u64>().unwrap_or(0) * SECTOR;
        if bytes < needed { Err(FlashError::Small { path, bytes, needed }) } else { Ok(()) }
    }
}

/// Whether a name is that of a disk or of a part of it: `sdb` and `sdb1`, `mmcblk0` and `mmcblk0p2`.
fn is_of(part: &str, disk: &str) -> bool {
    part.strip_prefix(disk).is_some_and(|rest| {
        let digits = rest.strip_prefix('p').unwrap_or(rest);
        rest.is_empty() || (!digits.is_empty() && digits.chars().all(|digit| digit.is_ascii_digit()))
    })
}

/// Writes an image to a disk that was checked, and reads it back. `done` is told what is done, of how much, and whether it is read
/// back.
///
/// # Errors
/// If a file cannot be read or written, or what was read back differs.
pub fn write(image: &Path, disk: &Path, done: &mut dyn FnMut(u64, u64, bool)) -> Result<u64, FlashError> {
    let at = |action, path: &Path| {
        let path = path.to_owned();
        move |source| FlashError::Io { action, path: path.clone(), source }
    };
    let mut source = File::open(image).map_err(at("read", image))?;
    let all = source.seek(SeekFrom::End(0)).map_err(at("read", image))?;
    let target = OpenOptions::new().read(true).write(true).custom_flags(EXCLUSIVE).open(disk);
    let mut target = target.map_err(|source| {
        let is_held = source.kind() == io::ErrorKind::ResourceBusy;
        if is_held { FlashError::Held { path: disk.to_owned() } } else { at("write", disk)(source) }
    })?;
    let mut bytes = vec![0; CHUNK_BYTES];
    source.seek(SeekFrom::Start(0)).map_err(at("read", image))?;
    let mut written = 0;
    while written < all {
        let count = source.read(&mut bytes).map_err(at("read", image))?;
        if count == 0 {
            break;
        }
        target.write_all(&bytes[..count]).map_err(at("write", disk))?;
        written += count as u64;
        done(written, all, false);
    }
    target.sync_all().map_err(at("write", disk))?;
    drop(target);
    read_back(image, disk, &mut |compared| done(compared, all, true))?;
    Ok(written)
}

fn read_back(image: &Path, disk: &Path, done: &mut dyn FnMut(u64)) -> Result<(), FlashError> {
    let at = |action, path: &Path| {
        let path = path.to_owned();
        move |source| FlashError::Io { action, path: path.clone(), source }
    };
    let mut source = File::open(image).map_err(at("read", image))?;
    let mut target = File::open(disk).map_err(at("read back", disk))?;
    let (mut bytes, mut back) = (vec![0; CHUNK_BYTES], vec![0; CHUNK_BYTES]);
    let mut compared = 0;
    loop {
        let count = source.read(&mut bytes).map_err(at("read", image))?;
        if count == 0 {
            return Ok(());
        }
        target.read_exact(&mut back[..count]).map_err(at("read back", disk))?;
        if let Some(differs) = bytes[..count].iter().zip(&back[..count]).position(|(here, there)| here != there) {
            return Err(FlashError::Differs { path: disk.to_owned(), at: compared + differs as u64 });
        }
        compared += count as u64;
        done(compared);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A machine with a built-in disk, a card reader and a stick.
    fn machine(directory: &Path) -> PathBuf {
        let sys = directory.join("sys");
        let disks = [
            ("devices/pci0/ata1/block/sda", "0", "1000000"),
            ("devices/pci0/mmc_host/mmc0/block/mmcblk0", "0", "60000"),
            ("devices/pci0/usb1/1-2/block/sdb", "1", "60000"),
        ];
        fs::create_dir_all(sys.join("class/block")).expect("makes");
        for (place, removable, size) in disks {
            let place = sys.join(place);
            fs::create_dir_all(&place).expect("makes");
            fs::write(place.join("removable"), removable).expect("writes");
            fs::write(place.join("size"), size).expect("writes");
            let name = place.file_name().expect("named");
            std::os::unix::fs::symlink(&place, sys.join("class/block").join(name)).expect("links");
        }
        let part = sys.join("class/block/sdb1");
        fs::create_dir_all(&part).expect("makes");
        fs::write(part.join("partition"), "1").expect("writes");
        sys
    }

    #[test]
    fn only_a_whole_disk_that_nobody_uses_and_that_can_be_pulled_out_is_written() {
        let directory = tempfile::tempdir().expect("dir");
        let sys = machine(directory.path());
        let look = |mounts: &str, swaps: &str, disk: &str, needed: u64, fixed: bool| {
            let system = System { sys: &sys, mounts: mounts.to_owned(), swaps: swaps.to_owned() };
            system.check_named(Path::new(disk), needed, fixed).map_err(|error| error.to_string())
        };
        assert_eq!(look("/dev/sda1 / ext4", "", "/dev/sdb", 1_000, false), Ok(()));
        assert_eq!(look("", "", "/dev/mmcblk0", 1_000, false), Ok(()));
        let refused = [
            (look("/dev/sda1 / ext4", "", "/dev/sda", 1, true), "/dev/sda1 is in use as /"),
            (look("/dev/mmcblk0p2 /media/card ext4", "", "/dev/mmcblk0", 1, false), "in use as /media/card"),
            (look("", "/dev/sdb2 partition", "/dev/sdb", 1, false), "in use as partition"),
            (look("", "", "/dev/sda", 1, false), "cannot be pulled out of this machine"),
            (look("", "", "/dev/sdb1", 1, false), "it is a partition"),
            (look("", "", "/dev/sdb", 40_000_000, false), "it has 30720000 bytes, and the image 40000000"),
        ];
        for (found, because) in refused {
            assert!(found.clone().is_err_and(|says| says.contains(because)), "{because}: {found:?}");
        }
        let held = sys.join("devices/pci0/usb1/1-2/block/sdb/sdb2");
        fs::create_dir_all(held.join("holders/dm-0")).expect("makes");
        fs::write(held.join("partition"), "2").expect("writes");
        let says = look("", "", "/dev/sdb", 1, false).expect_err("an encrypted part is open");
        assert!(says.contains("the system has it in use"), "{says}");
        fs::remove_dir(held.join("holders/dm-0")).expect("removes");
        let device = sys.join("devices/pci0/usb1/1-2/block/sdb/device");
        fs::create_dir_all(&device).expect("makes");
        fs::write(device.join("model"), "Ultra Fit       \n").expect("writes");
        let system = System { sys: &sys, mounts: String::new(), swaps: String::new() };
        assert_eq!(system.describe(Path::new("/dev/sdb")), "Ultra Fit, 0.0 GB");
        assert_eq!(look("/dev/sdb10 /x", "", "/dev/sda", 1, true), Ok(()), "another disk is in use");
        let here = System { sys: &sys, mounts: String::new(), swaps: String::new() };
        let folder = here.check(directory.path(), 1, false).expect_err("a folder").to_string();
        assert!(folder.contains("it is a folder"), "{folder}");
    }

    #[test]
    fn what_is_written_is_read_back_and_a_bad_card_is_found_out() {
        let directory = tempfile::tempdir().expect("dir");
        let (image, card) = (directory.path().join("edge.img"), directory.path().join("card"));
        let bytes: Vec<u8> = (0..9_000_000_u32).map(|at| (at % 251) as u8).collect();
        fs::write(&image, &bytes).expect("writes");
        fs::write(&card, vec![0xff; 10_000_000]).expect("writes");
        let mut steps = Vec::new();
        let written = write(&image, &card, &mut |done, all, back| steps.push((done, all, back))).expect("writes");
        assert_eq!(written, 9_000_000);
        assert_eq!(steps.last(), Some(&(9_000_000, 9_000_000, true)));
        assert_eq!(fs::read(&card).expect("reads")[..9_000_000], bytes);
        // A card that lies about its size loses what is written to its end.
        let full = write(&image, Path::new("/dev/full"), &mut |_, _, _| {}).expect_err("is full").to_string();
        assert!(full.contains("/dev/full"), "{full}");
        let mut worn = fs::read(&card).expect("reads");
        worn[5_000_000] ^= 1;
        fs::write(&card, worn).expect("writes");
        let worn = read_back(&image, &card, &mut |_| {}).expect_err("differs").to_string();
        assert!(worn.contains("it differs from the image after 5000000 bytes"), "{worn}");
    }
}
