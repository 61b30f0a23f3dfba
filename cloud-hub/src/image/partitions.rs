//! Where a disk image has its partitions: MBR, or GPT (UEFI specification, section 5.3).

use std::io::{self, Read, Seek, SeekFrom};
use std::ops::Range;

/// Bytes of a sector, in every image that is put onto cards.
const SECTOR: u64 = 512;
/// Types of MBR partitions that hold FAT: 12, 16 and 32 bits, and an EFI system partition.
const FAT_TYPES: [u8; 7] = [0x01, 0x04, 0x06, 0x0b, 0x0c, 0x0e, 0xef];
/// The type of the one MBR partition that says that there is a GPT.
const PROTECTIVE: u8 = 0xee;
/// Types of GPT partitions that can hold FAT: an EFI system partition, and basic data; as they lie on the disk.
const EFI_SYSTEM: [u8; 16] =
    [0x28, 0x73, 0x2a, 0xc1, 0x1f, 0xf8, 0xd2, 0x11, 0xba, 0x4b, 0x00, 0xa0, 0xc9, 0x3e, 0xc9, 0x3b];
const BASIC_DATA: [u8; 16] =
    [0xa2, 0xa0, 0xd0, 0xeb, 0xe5, 0xb9, 0x33, 0x44, 0x87, 0xc0, 0x68, 0xb6, 0xb7, 0x26, 0x99, 0xc7];
/// Entries of a GPT that are looked at: as many as there usually are.
const MAX_ENTRIES: u32 = 128;

/// The partitions of an image that can hold FAT, as bytes of it, in order. An image that is a file system of its own is one.
///
/// # Errors
/// If it cannot be read.
pub(super) fn fat_partitions(image: &mut (impl Read + Seek)) -> io::Result<Vec<Range<u64>>> {
    let length = image.seek(SeekFrom::End(0))?;
    let first = sector(image, 0)?;
    if first[510..] != [0x55, 0xaa] {
        return Ok(Vec::new());
    }
    // A FAT volume begins with a jump and says how large its sectors are; a boot record has code there.
    let is_volume = matches!(first[0], 0xeb | 0xe9) && u16::from_le_bytes([first[11], first[12]]) == SECTOR as u16;
    if is_volume {
        let whole = 0..length;
        return Ok(Vec::from([whole]));
    }
    let entries = first[446..510].chunks_exact(16);
    if entries.clone().any(|entry| entry[4] == PROTECTIVE) {
        return gpt(image, length);
    }
    let found = entries.filter(|entry| FAT_TYPES.contains(&entry[4])).map(|entry| {
        let number =
            |at: usize| u64::from(u32::from_le_bytes([entry[at], entry[at + 1], entry[at + 2], entry[at + 3]]));
        let start = number(8) * SECTOR;
        start..start + number(12) * SECTOR
    });
    Ok(found.filter(|range| is_inside(range, length)).collect())
}

fn gpt(image: &mut (impl Read + Seek), length: u64) -> io::Result<Vec<Range<u64>>> {
    let header = sector(image, 1)?;
    if &header[..8] != b"EFI PART" {
        return Ok(Vec::new());
    }
    let word = |at: usize| u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
    let (first, count, bytes) = (long(&header, 72), word(80).min(MAX_ENTRIES), u64::from(word(84)));
    // The specification says 128 times a power of two.
    if !(128..=4096).contains(&bytes) {
        return Ok(Vec::new());
    }
    let mut found = Vec::new();
    for number in 0..u64::from(count) {
        let Some(at) = first.checked_mul(SECTOR).and_then(|start| start.checked_add(number * bytes)) else {
            break;
        };
        let mut entry = [0; 128];
        if at.saturating_add(128) > length {
            break;
        }
        image.seek(SeekFrom::Start(at))?;
        image.read_exact(&mut entry)?;
        if entry[..16] != EFI_SYSTEM && entry[..16] != BASIC_DATA {
            continue;
        }
        let (start, last) = (long(&entry, 32), long(&entry, 40));
        if let (Some(start), Some(end)) =
            (start.checked_mul(SECTOR), last.checked_add(1).and_then(|end| end.checked_mul(SECTOR)))
        {
            found.push(start..end);
        }
    }
    found.retain(|range| is_inside(range, length));
    Ok(found)
}

fn is_inside(range: &Range<u64>, length: u64) -> bool {
    range.start < range.end && range.end <= length
}

fn long(bytes: &[u8], at: usize) -> u64 {
    let mut word = [0; 8];
    word.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(word)
}

fn sector(image: &mut (impl Read + Seek), number: u64) -> io::Result<[u8; SECTOR as usize]> {
    let mut bytes = [0; SECTOR as usize];
    image.seek(SeekFrom::Start(number * SECTOR))?;
    image.read_exact(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::io::Cursor;

    #[test]
    fn fat_partitions_of_a_boot_record_are_found_and_others_are_not() {
        let mut image = vec![0; 64 * 512];
        image[510..512].copy_from_slice(&[0x55, 0xaa]);
        let mut entry = |number: usize, kind: u8, start: u32, count: u32| {
            let at = 446 + 16 * number;
            image[at + 4] = kind;
            image[at + 8..at + 12].copy_from_slice(&start.to_le_bytes());
            image[at + 12..at + 16].copy_from_slice(&count.to_le_bytes());
        };
        entry(0, 0x0c, 8, 16);
        entry(1, 0x83, 24, 30);
        entry(2, 0x0c, 60, 10);
        let found = fat_partitions(&mut Cursor::new(image)).expect("reads");
        assert_eq!(found.len(), 1, "the second is no FAT, the third reaches beyond the end");
        assert_eq!(found[0], 8 * 512..24 * 512);
    }

    #[test]
    fn the_efi_partition_of_a_gpt_is_found() {
        let mut image = vec![0; 256 * 512];
        image[510..512].copy_from_slice(&[0x55, 0xaa]);
        image[450] = PROTECTIVE;
        image[512..520].copy_from_slice(b"EFI PART");
        image[512 + 72..512 + 80].copy_from_slice(&2_u64.to_le_bytes());
        image[512 + 80..512 + 84].copy_from_slice(&4_u32.to_le_bytes());
        image[512 + 84..512 + 88].copy_from_slice(&128_u32.to_le_bytes());
        let second = 1024 + 128;
        image[second..second + 16].copy_from_slice(&EFI_SYSTEM);
        image[second + 32..second + 40].copy_from_slice(&40_u64.to_le_bytes());
        image[second + 40..second + 48].copy_from_slice(&99_u64.to_le_bytes());
        let found = fat_partitions(&mut Cursor::new(image)).expect("reads");
        assert_eq!((found.len(), found[0].clone()), (1, 40 * 512..100 * 512));
    }

    proptest! {
        #[test]
        fn any_bytes_have_partitions_inside_of_them_or_none(bytes in proptest::collection::vec(any::<u8>(), 1024..4096), gpt: bool) {
            let mut bytes = bytes;
            bytes[510..512].copy_from_slice(&[0x55, 0xaa]);
            if gpt {
                bytes[450] = PROTECTIVE;
                bytes[512..520].copy_from_slice(b"EFI PART");
            }
            let length = bytes.len() as u64;
            if let Ok(found) = fat_partitions(&mut Cursor::new(bytes)) {
                prop_assert!(found.iter().all(|range| is_inside(range, length)));
            }
        }
    }
}
