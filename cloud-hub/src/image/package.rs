//! What a package of the operating system is, by what is in it: its file name says anything.

use std::io::Read;

use flate2::read::GzDecoder;

/// Bytes of what a Debian package says of itself, unpacked: a few kilobytes, and what a package of ours runs when it is installed.
const MAX_CONTROL_BYTES: u64 = 1024 * 1024;
/// How an RPM begins.
const RPM: &[u8] = b"\xed\xab\xee\xdb";
/// How a Debian package begins: it is an archive of ar(5).
const AR: &[u8] = b"!<arch>\n";
/// How RPMs number processors (rpm's `rpmrc`), and how Debian names them.
const RPM_PROCESSORS: [(u16, &str); 3] = [(1, "amd64"), (12, "armhf"), (19, "arm64")];

/// A package.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Package {
    /// What it is called.
    pub name: String,
    /// The processor that it is for, as Debian names it.
    pub processor: String,
    /// What the names of such packages end with.
    pub ending: &'static str,
}

/// Reads what a package says of itself; nothing if it is none.
#[must_use]
pub fn read(bytes: &[u8]) -> Option<Package> {
    if bytes.starts_with(RPM) { of_rpm(bytes) } else { of_deb(bytes) }
}

/// By its lead (LSB 5.0, section 22.2.1).
fn of_rpm(bytes: &[u8]) -> Option<Package> {
    let number = u16::from_be_bytes(*bytes.get(8..)?.first_chunk()?);
    let (_, processor) = RPM_PROCESSORS.iter().find(|(known, _)| *known == number)?;
    let name = std::str::from_utf8(bytes.get(10..76)?).ok()?.trim_end_matches('\0');
    // After the name come the version and the release.
    let name = name.rsplitn(3, '-').nth(2)?;
    Some(Package { name: name.to_owned(), processor: (*processor).to_owned(), ending: ".rpm" })
}

/// By its control file (deb(5), deb-control(5)).
fn of_deb(bytes: &[u8]) -> Option<Package> {
    let mut control = Vec::new();
    let unpacked = GzDecoder::new(member(bytes, "control.tar.gz")?);
    unpacked.take(MAX_CONTROL_BYTES).read_to_end(&mut control).ok()?;
    let control = std::str::from_utf8(file(&control, "control")?).ok()?;
    let value = |key: &str| control.lines().find_map(|line| Some(line.strip_prefix(key)?.strip_prefix(':')?.trim()));
    let (name, processor) = (value("Package")?.to_owned(), value("Architecture")?.to_owned());
    Some(Package { name, processor, ending: ".deb" })
}

/// A member of an archive of ar(5).
fn member<'a>(archive: &'a [u8], name: &str) -> Option<&'a [u8]> {
    let mut rest = archive.strip_prefix(AR)?;
    loop {
        let (header, after) = rest.split_first_chunk::<60>()?;
        let bytes: usize = std::str::from_utf8(&header[48..58]).ok()?.trim().parse().ok()?;
        let content = after.get(..bytes)?;
        if std::str::from_utf8(&header[..16]).ok()?.trim_end().trim_end_matches('/') == name {
            return Some(content);
        }
        rest = after.get(bytes.checked_next_multiple_of(2)?..)?;
    }
}

/// A file of an archive of tar(5).
fn file<'a>(archive: &'a [u8], name: &str) -> Option<&'a [u8]> {
    let mut rest = archive;
    loop {
        let (header, after) = rest.split_first_chunk::<512>()?;
        let text = |bytes: &'a [u8]| std::str::from_utf8(bytes).ok().map(|text| text.trim_end_matches('\0'));
        let bytes = usize::from_str_radix(text(&header[124..136])?.trim(), 8).ok()?;
        if text(&header[..100])?.trim_start_matches("./") == name {
            return after.get(..bytes);
        }
        rest = after.get(bytes.checked_next_multiple_of(512)?..)?;
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::io::Write;

    use flate2::Compression;
    use flate2::write::GzEncoder;
    use proptest::prelude::*;

    use super::*;

    /// A Debian package as `dpkg-deb` lays it out, with nothing in it.
    pub(in crate::image) fn deb(name: &str, processor: &str) -> Vec<u8> {
        let text = format!("Package: {name}\nVersion: 0.1.0\nArchitecture: {processor}\n");
        let mut tar = Vec::new();
        for (name, content) in [("./", ""), ("./control", &*text)] {
            let mut header = [0; 512];
            header[..name.len()].copy_from_slice(name.as_bytes());
            header[124..135].copy_from_slice(format!("{:011o}", content.len()).as_bytes());
            tar.extend(header);
            tar.extend(content.as_bytes());
            tar.resize(tar.len().next_multiple_of(512), 0);
        }
        let mut packed = GzEncoder::new(Vec::new(), Compression::default());
        packed.write_all(&tar).expect("packs");
        let mut archive = AR.to_vec();
        for (name, content) in
            [("debian-binary", b"2.0\n".to_vec()), ("control.tar.gz", packed.finish().expect("packs"))]
        {
            archive.extend(
                format!("{name:<16}{:<12}{:<6}{:<6}{:<8}{:<10}`\n", 0, 0, 0, 100_644, content.len()).as_bytes(),
            );
            archive.extend(&content);
            archive.resize(archive.len().next_multiple_of(2), b'\n');
        }
        archive
    }

    pub(in crate::image) fn rpm(name: &str, processor: u16) -> Vec<u8> {
        let mut lead = vec![0; 96];
        lead[..4].copy_from_slice(RPM);
        lead[8..10].copy_from_slice(&processor.to_be_bytes());
        lead[10..10 + name.len()].copy_from_slice(name.as_bytes());
        lead
    }

    #[test]
    fn a_package_says_what_it_is_and_what_it_is_for() {
        let package = |name: &str, processor: &str, ending| {
            Some(Package { name: name.to_owned(), processor: processor.to_owned(), ending })
        };
        assert_eq!(read(&deb("tideline-edge", "arm64")), package("tideline-edge", "arm64", ".deb"));
        assert_eq!(read(&rpm("tideline-edge-gpu-0.1.0-1", 19)), package("tideline-edge-gpu", "arm64", ".rpm"));
        assert_eq!(read(&rpm("tideline-edge-0.1.0-1", 1)), package("tideline-edge", "amd64", ".rpm"));
        assert_eq!(read(&rpm("tideline-edge-0.1.0-1", 7)), None, "for a processor that we do not build for");
        for nothing in [&b""[..], b"a text", AR, RPM] {
            assert_eq!(read(nothing), None);
        }
    }

    proptest! {
        #[test]
        fn a_damaged_package_is_read_or_not(at in 0_usize..400, byte in any::<u8>(), length in 0_usize..600) {
            for mut bytes in [deb("tideline-edge", "arm64"), rpm("tideline-edge-0.1.0-1", 1)] {
                bytes.truncate(length);
                if let Some(damaged) = bytes.get_mut(at) {
                    *damaged = byte;
                }
                drop(read(&bytes));
            }
        }
    }
}
