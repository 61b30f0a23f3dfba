//! Images for boxes: a stock image of an operating system with cloud-init, and on its boot partition all that the box needs to
//! install the agent and enrol, without a network but to its hub.
//!
//! The boot partition is FAT, so this takes neither root nor Linux: the image is a file, and the partition a window of it.

pub mod flash;
pub mod package;
mod partitions;
pub mod seed;

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};

use fatfs::{FileSystem, FsOptions};

use package::Package;
use seed::Seed;

/// Bytes copied at once.
const COPY_BYTES: usize = 4 * 1024 * 1024;
/// Bytes that stay free on the boot partition: the system writes there, too.
const KEPT_FREE_BYTES: u64 = 4 * 1024 * 1024;
/// How compressed files begin: xz, gzip, zstd, zip.
const COMPRESSED: [(&[u8], &str); 4] =
    [(b"\xfd7zXZ", "xz -dk"), (b"\x1f\x8b", "gzip -dk"), (b"\x28\xb5\x2f\xfd", "zstd -d"), (b"PK\x03\x04", "unzip")];
/// What lies on the boot partition of a system for boxes, one of these.
const BOOT_FILES: [&str; 5] = ["cmdline.txt", "config.txt", "user-data", "EFI", "meta-data"];

/// Why an image cannot be prepared.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
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
    /// The image is compressed.
    #[error("use {path}: it is compressed; unpack it first: {command} {path}")]
    Compressed {
        /// The file.
        path: PathBuf,
        /// What unpacks it.
        command: &'static str,
    },
    /// There is no boot partition that could be written to.
    #[error(
        "use {path}: it has no FAT partition that a system boots from; is it the image of a Raspberry Pi OS, Debian or Ubuntu?"
    )]
    NoBoot {
        /// The file.
        path: PathBuf,
    },
    /// The package is for another processor.
    #[error("use {package} for {path}: the image is for {image}, and the package for {is_for}")]
    Architecture {
        /// The image.
        path: PathBuf,
        /// The package.
        package: String,
        /// What the image is for.
        image: &'static str,
        /// What the package is for.
        is_for: String,
    },
    /// Nothing on the boot partition would be looked at.
    #[error(
        "use {path}: its boot partition is called {label:?}, and cloud-init looks at one called CIDATA, bootfs (Raspberry Pi OS) \
         or system-boot (Ubuntu for Raspberry Pi); if its system goes by no other name, call it so with mtools: \
         mlabel -i {path}@@{offset} ::CIDATA"
    )]
    Unseen {
        /// The file.
        path: PathBuf,
        /// What the partition is called.
        label: String,
        /// Where it begins.
        offset: u64,
    },
    /// The boot partition is too small.
    #[error("prepare {path}: its boot partition has {free} bytes free, and {needed} are needed")]
    Full {
        /// The file.
        path: PathBuf,
        /// What is free.
        free: u64,
        /// What is needed.
        needed: u64,
    },
    /// The image is not to be changed in place.
    #[error("write {path}: it is there already; remove it, or say another --output")]
    Exists {
        /// The file.
        path: PathBuf,
    },
}

/// What boot partitions hold by which processor, as Debian names it: the more telling first.
const PROCESSORS: [(&str, &str); 5] = [
    ("EFI/BOOT/BOOTAA64.EFI", "arm64"),
    ("EFI/BOOT/BOOTX64.EFI", "amd64"),
    ("EFI/BOOT/BOOTARM.EFI", "armhf"),
    ("kernel7.img", "armhf"),
    ("kernel8.img", "arm64"),
];
/// How boot partitions are called that cloud-init looks at (its data source NoCloud), in whichever case.
const LABELS: [&str; 3] = ["cidata", "bootfs", "system-boot"];

/// Whether an image can be prepared with a package. Nothing is written.
///
/// # Errors
/// If it is none, is for another processor, or nothing on it would be looked at.
pub fn check(image: &Path, package: &Package) -> Result<(), ImageError> {
    let mut file = open(image)?;
    let boot = boot_partition(image, &mut file)?;
    let offset = boot.start;
    let failed = |source| ImageError::Io { action: "read", path: image.to_owned(), source };
    let volume = FileSystem::new(Window::new(&file, boot).map_err(failed)?, FsOptions::new()).map_err(failed)?;
    let is_there = |name: &str| volume.root_dir().open_file(name).is_ok();
    let of_image = PROCESSORS.iter().find(|(name, _)| is_there(name)).map(|(_, processor)| *processor);
    if let Some(of_image) = of_image
        && of_image != package.processor
    {
        return Err(ImageError::Architecture {
            path: image.to_owned(),
            package: package.name.clone(),
            image: of_image,
            is_for: package.processor.clone(),
        });
    }
    let in_root = volume.read_volume_label_from_root_dir().map_err(failed)?;
    let label = in_root.unwrap_or_else(|| volume.volume_label());
    let label = label.trim();
    if LABELS.iter().any(|known| known.eq_ignore_ascii_case(label)) {
        return Ok(());
    }
    Err(ImageError::Unseen { path: image.to_owned(), label: label.to_owned(), offset })
}

/// Whether a file is an image that a system boots from.
///
/// # Errors
/// If it is none.
pub fn check_image(image: &Path) -> Result<(), ImageError> {
    boot_partition(image, &mut open(image)?).map(drop)
}

/// Copies `image` to `output`, and puts `seed` onto its boot partition. `copied` is told how many bytes are done, and of how many.
/// Nothing is left of an output that did not come about.
///
/// # Errors
/// If a file cannot be read or written, the image is none, or there is no room.
pub fn prepare(image: &Path, output: &Path, seed: &Seed, copied: &mut dyn FnMut(u64, u64)) -> Result<(), ImageError> {
    if output.exists() {
        return Err(ImageError::Exists { path: output.to_owned() });
    }
    let mut source = open(image)?;
    let boot = boot_partition(image, &mut source)?;
    let mut partial = output.as_os_str().to_owned();
    partial.push(".part");
    let partial = PathBuf::from(partial);
    let done = copy(image, &mut source, &partial, copied).and_then(|target| inject(output, &target, boot, seed));
    let done = done.and_then(|()| {
        fs::rename(&partial, output).map_err(|source| ImageError::Io {
            action: "write",
            path: output.to_owned(),
            source,
        })
    });
    if done.is_err() {
        // It may not have been made yet.
        fs::remove_file(&partial).ok();
    }
    done
}

fn open(image: &Path) -> Result<File, ImageError> {
    let failed = |source| ImageError::Io { action: "read", path: image.to_owned(), source };
    let mut file = File::open(image).map_err(failed)?;
    let mut begin = [0; 8];
    let count = file.read(&mut begin).map_err(failed)?;
    match COMPRESSED.iter().find(|(magic, _)| begin[..count].starts_with(magic)) {
        Some((_, command)) => Err(ImageError::Compressed { path: image.to_owned(), command }),
        None => Ok(file),
    }
}

/// The partition that the system boots from: the first FAT that has one of the files that such a one has.
fn boot_partition(path: &Path, image: &mut File) -> Result<Range<u64>, ImageError> {
    let none = || ImageError::NoBoot { path: path.to_owned() };
    // An image that ends too soon has none.
    let found = partitions::fat_partitions(image).map_err(|_| none())?;
    let boots = |range: &Range<u64>| {
        let Ok(window) = Window::new(&*image, range.clone()) else { return false };
        let Ok(volume) = FileSystem::new(window, FsOptions::new()) else { return false };
        volume.root_dir().iter().flatten().any(|entry| BOOT_FILES.contains(&entry.file_name().as_str()))
    };
    found.iter().find(|range| boots(range)).cloned().ok_or_else(none)
}

fn copy(image: &Path, source: &mut File, to: &Path, copied: &mut dyn FnMut(u64, u64)) -> Result<File, ImageError> {
    let read = |source| ImageError::Io { action: "read", path: image.to_owned(), source };
    let write = |source| ImageError::Io { action: "write", path: to.to_owned(), source };
    let all = source.seek(SeekFrom::End(0)).map_err(read)?;
    source.seek(SeekFrom::Start(0)).map_err(read)?;
    let mut target = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(to).map_err(write)?;
    // What is nothing but zeros is not written: images are mostly empty.
    target.set_len(all).map_err(write)?;
    let mut bytes = vec![0; COPY_BYTES];
    let mut done = 0;
    loop {
        let count = source.read(&mut bytes).map_err(read)?;
        if count == 0 {
            return Ok(target);
        }
        if bytes[..count].iter().any(|byte| *byte != 0) {
            target.seek(SeekFrom::Start(done)).map_err(write)?;
            target.write_all(&bytes[..count]).map_err(write)?;
        }
        done += count as u64;
        copied(done, all);
    }
}

fn inject(path: &Path, target: &File, boot: Range<u64>, seed: &Seed) -> Result<(), ImageError> {
    let write = |source| ImageError::Io { action: "write", path: path.to_owned(), source };
    {
        let window = Window::new(target, boot).map_err(write)?;
        let volume = FileSystem::new(window, FsOptions::new()).map_err(write)?;
        let statistics = volume.stats().map_err(write)?;
        let free = u64::from(statistics.free_clusters()) * u64::from(statistics.cluster_size());
        let needed = seed.bytes() + KEPT_FREE_BYTES;
        if free < needed {
            return Err(ImageError::Full { path: path.to_owned(), free, needed });
        }
        for (name, bytes) in seed.files() {
            write_file(&volume, name, bytes).map_err(write)?;
        }
        volume.unmount().map_err(write)?;
    }
    target.sync_all().map_err(write)
}

fn write_file(volume: &FileSystem<Window<'_>>, name: &str, bytes: &[u8]) -> io::Result<()> {
    let mut file = volume.root_dir().create_file(name)?;
    file.truncate()?;
    file.write_all(bytes)?;
    file.flush()
}

/// A part of a file, as a file.
struct Window<'a> {
    file: &'a File,
    range: Range<u64>,
    at: u64,
}

impl<'a> Window<'a> {
    fn new(file: &'a File, range: Range<u64>) -> io::Result<Self> {
        let mut window = Self { file, range, at: 0 };
        window.seek(SeekFrom::Start(0))?;
        Ok(window)
    }

    fn left(&self) -> u64 {
        (self.range.end - self.range.start).saturating_sub(self.at)
    }
}

impl Read for Window<'_> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.left()).unwrap_or(usize::MAX).min(bytes.len());
        self.file.seek(SeekFrom::Start(self.range.start + self.at))?;
        let count = self.file.read(&mut bytes[..most])?;
        self.at += count as u64;
        Ok(count)
    }
}

impl Write for Window<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let most = usize::try_from(self.left()).unwrap_or(usize::MAX).min(bytes.len());
        self.file.seek(SeekFrom::Start(self.range.start + self.at))?;
        let count = self.file.write(&bytes[..most])?;
        self.at += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl Seek for Window<'_> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let length = self.range.end - self.range.start;
        let at = match to {
            SeekFrom::Start(at) => Some(at),
            SeekFrom::Current(by) => self.at.checked_add_signed(by),
            SeekFrom::End(by) => length.checked_add_signed(by),
        };
        self.at = at.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
        Ok(self.at)
    }
}

#[cfg(test)]
mod tests {
    use super::package::tests::{deb, rpm};
    use super::*;
    use fatfs::FormatVolumeOptions;

    const MIB: u64 = 1024 * 1024;

    /// An image as cards have it: a boot record, a FAT partition with what a system boots from, and something behind it.
    fn stock(directory: &Path, mib: u64, with: &str) -> PathBuf {
        labelled(directory, mib, with, b"bootfs     ")
    }

    fn labelled(directory: &Path, mib: u64, with: &str, label: &[u8; 11]) -> PathBuf {
        let path = directory.join("stock.img");
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(&path).expect("makes");
        file.set_len((mib + 2) * MIB).expect("grows");
        let mut record = [0; 512];
        record[450] = 0x0c;
        record[454..458].copy_from_slice(&2048_u32.to_le_bytes());
        record[458..462].copy_from_slice(&u32::try_from(mib * MIB / 512).expect("small").to_le_bytes());
        record[510..].copy_from_slice(&[0x55, 0xaa]);
        (&file).write_all(&record).expect("writes");
        let boot = MIB..(mib + 1) * MIB;
        let window = Window::new(&file, boot.clone()).expect("opens");
        fatfs::format_volume(window, FormatVolumeOptions::new().volume_label(*label)).expect("formats");
        let volume = FileSystem::new(Window::new(&file, boot).expect("opens"), FsOptions::new()).expect("mounts");
        if let Some((folders, _)) = with.rsplit_once('/') {
            let mut below = volume.root_dir();
            for folder in folders.split('/') {
                below = below.create_dir(folder).expect("makes");
            }
        }
        write_file(&volume, with, b"console=serial0").expect("writes");
        volume.unmount().expect("unmounts");
        (&file).seek(SeekFrom::Start((mib + 1) * MIB)).expect("seeks");
        (&file).write_all(b"the root file system").expect("writes");
        path
    }

    fn read(image: &Path, mib: u64, name: &str) -> Option<Vec<u8>> {
        let file = File::open(image).expect("opens");
        let window = Window::new(&file, MIB..(mib + 1) * MIB).expect("opens");
        let volume = FileSystem::new(window, FsOptions::new()).expect("mounts");
        let mut bytes = Vec::new();
        volume.root_dir().open_file(name).ok()?.read_to_end(&mut bytes).expect("reads");
        Some(bytes)
    }

    fn seed(bytes: usize) -> Seed {
        Seed::of(vec![
            ("user-data".to_owned(), b"#cloud-config\n".to_vec()),
            ("tideline-edge.deb".to_owned(), vec![7; bytes]),
        ])
    }

    #[test]
    fn what_a_box_needs_lies_on_the_boot_partition_and_nothing_else_has_changed() {
        let directory = tempfile::tempdir().expect("dir");
        let image = stock(directory.path(), 40, "cmdline.txt");
        let output = directory.path().join("edge.img");
        let mut progress = (0, 0);
        prepare(&image, &output, &seed(3_000_000), &mut |done, all| progress = (done, all)).expect("prepares");
        assert_eq!(progress, (42 * MIB, 42 * MIB));
        assert_eq!(read(&output, 40, "tideline-edge.deb").map(|bytes| bytes.len()), Some(3_000_000));
        assert_eq!(read(&output, 40, "user-data").as_deref(), Some(&b"#cloud-config\n"[..]));
        assert_eq!(read(&output, 40, "cmdline.txt").as_deref(), Some(&b"console=serial0"[..]));
        assert_eq!(read(&image, 40, "user-data"), None, "the stock image is as it was");
        let written = fs::read(&output).expect("reads");
        assert!(written[41 * MIB as usize..].starts_with(b"the root file system"));
        let again = prepare(&image, &output, &seed(1), &mut |_, _| {}).expect_err("never overwritten").to_string();
        assert!(again.contains("edge.img: it is there already"), "{again}");
    }

    #[test]
    fn a_package_for_another_processor_is_refused() {
        let directory = tempfile::tempdir().expect("dir");
        let image = stock(directory.path(), 40, "EFI/BOOT/BOOTAA64.EFI");
        let package = |bytes: &[u8]| package::read(bytes).expect("a package");
        check(&image, &package(&deb("tideline-edge", "arm64"))).expect("fits");
        check(&image, &package(&rpm("tideline-edge-0.1.0-1", 19))).expect("fits");
        for wrong in [deb("tideline-edge", "amd64"), rpm("tideline-edge-0.1.0-1", 1)] {
            let says = check(&image, &package(&wrong)).expect_err("refused").to_string();
            assert!(says.contains("the image is for arm64, and the package for amd64"), "{says}");
        }
    }

    #[test]
    fn a_boot_partition_that_nobody_would_look_at_is_refused() {
        let directory = tempfile::tempdir().expect("dir");
        let package = package::read(&deb("tideline-edge", "arm64")).expect("a package");
        for label in [b"CIDATA     ", b"system-boot"] {
            check(&labelled(directory.path(), 40, "config.txt", label), &package).expect("is looked at");
        }
        for label in [b"UEFI       ", b"NO NAME    "] {
            let image = labelled(directory.path(), 40, "config.txt", label);
            let says = check(&image, &package).expect_err("refused").to_string();
            let name = String::from_utf8_lossy(label);
            assert!(
                says.contains(&format!("is called {:?}", name.trim())) && says.contains("@@1048576 ::CIDATA"),
                "{says}"
            );
        }
    }

    #[test]
    fn what_is_no_image_or_has_no_room_is_refused_and_leaves_nothing() {
        let directory = tempfile::tempdir().expect("dir");
        let output = directory.path().join("edge.img");
        let refused = |image: &Path, seed: &Seed| {
            let says = prepare(image, &output, seed, &mut |_, _| {}).expect_err("refused").to_string();
            let left: Vec<_> =
                fs::read_dir(directory.path()).expect("lists").flatten().map(|entry| entry.file_name()).collect();
            assert!(left.iter().all(|name| !name.to_string_lossy().starts_with("edge.img")), "{left:?}");
            says
        };
        let image = stock(directory.path(), 40, "cmdline.txt");
        let full = refused(&image, &seed(40_000_000));
        assert!(full.contains("bytes free, and 44194318 are needed"), "{full}");
        let data = stock(directory.path(), 40, "holiday.jpg");
        assert!(refused(&data, &seed(1)).contains("no FAT partition that a system boots from"));
        let packed = directory.path().join("os.img.xz");
        fs::write(&packed, b"\xfd7zXZ\0\0\0").expect("writes");
        assert!(refused(&packed, &seed(1)).contains("unpack it first: xz -dk"));
        let empty = directory.path().join("empty.img");
        fs::write(&empty, b"").expect("writes");
        assert!(refused(&empty, &seed(1)).contains("no FAT partition"));
        assert!(refused(&directory.path().join("none.img"), &seed(1)).contains("read"));
    }
}
