//! A part of a package on its way to a box that has another package already.
//!
//! A retrained model is mostly the model it was trained from: the declaration, the constants, the layers that did not
//! move. So a part is compressed with what lies around the same place in the receiver's own package as its dictionary,
//! and what did not change costs next to nothing. Each part stands for itself: a transfer can begin and go on anywhere.

use std::io::{self, Read, Seek, SeekFrom};
use std::ops::Range;

use serde::{Deserialize, Serialize};

use super::message::{UnpackError, unpack};
use crate::limits::CHUNK_BYTES;

/// How far equal bytes may have moved: manifests grow and shrink by less.
const REACH_BYTES: u64 = CHUNK_BYTES as u64;
/// zstd's own default. Parts are few, and packed at the hub.
const ZSTD_LEVEL: i32 = 3;

/// A part of a package, compressed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PackedPart {
    raw_bytes: u32,
    zstd: Vec<u8>,
}

/// The place in the receiver's package that helps to read a part that starts at `offset`; as much of it as there is.
#[must_use]
pub fn dictionary_range(offset: u64) -> Range<u64> {
    let end = offset.saturating_add(CHUNK_BYTES as u64 + REACH_BYTES);
    offset.saturating_sub(REACH_BYTES)..end
}

/// As much of a range of a package as there is.
///
/// # Errors
/// If it cannot be read.
pub fn read_range(package: &mut (impl Read + Seek), range: Range<u64>) -> io::Result<Vec<u8>> {
    package.seek(SeekFrom::Start(range.start))?;
    let mut bytes = Vec::new();
    package.take(range.end.saturating_sub(range.start)).read_to_end(&mut bytes)?;
    Ok(bytes)
}

impl PackedPart {
    /// Compresses a part. `dictionary` is what the receiver has at [`dictionary_range`], or nothing.
    ///
    /// # Errors
    /// If zstd fails, which it does only when memory runs out.
    pub fn pack(part: &[u8], dictionary: &[u8]) -> io::Result<Self> {
        let zstd = zstd::bulk::Compressor::with_dictionary(ZSTD_LEVEL, dictionary)?.compress(part)?;
        Ok(Self { raw_bytes: u32::try_from(part.len()).unwrap_or(u32::MAX), zstd })
    }

    /// Bytes of the part, as it says.
    #[must_use]
    pub fn raw_bytes(&self) -> u64 {
        u64::from(self.raw_bytes)
    }

    /// Bytes that it takes on the wire, but for a few.
    #[must_use]
    pub fn packed_bytes(&self) -> u64 {
        self.zstd.len() as u64
    }

    /// The part.
    ///
    /// # Errors
    /// If it is larger than a part may be, or corrupt, or was packed with another dictionary. The declared size bounds
    /// what is allocated.
    pub fn unpack(&self, dictionary: &[u8]) -> Result<Vec<u8>, UnpackError> {
        unpack(self.raw_bytes, CHUNK_BYTES, |bytes| {
            zstd::bulk::Decompressor::with_dictionary(dictionary)?.decompress(&self.zstd, bytes)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bytes that do not compress.
    fn noise(seed: u32, length: usize) -> Vec<u8> {
        let mut state = seed;
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8
        };
        (0..length).map(|_| next()).collect()
    }

    fn dictionary(base: &[u8], offset: u64) -> &[u8] {
        let Range { start, end } = dictionary_range(offset);
        &base[(start as usize).min(base.len())..(end as usize).min(base.len())]
    }

    #[test]
    fn what_did_not_change_costs_next_to_nothing_also_when_it_moved() {
        let base = noise(1, 400_000);
        // Something longer stands in front, and a few bytes in the middle are others.
        let mut package = [noise(2, 700), base.clone()].concat();
        package[200_000..201_000].copy_from_slice(&noise(3, 1_000));
        let mut sent = 0;
        for (index, part) in package.chunks(CHUNK_BYTES).enumerate() {
            let dictionary = dictionary(&base, (index * CHUNK_BYTES) as u64);
            let packed = PackedPart::pack(part, dictionary).expect("packs");
            assert_eq!(packed.unpack(dictionary).expect("unpacks"), part);
            assert_eq!(packed.raw_bytes(), part.len() as u64);
            sent += packed.zstd.len();
        }
        assert!(sent < 3_000, "{sent} bytes for 1,700 that are new");
    }

    #[test]
    fn without_a_dictionary_it_is_plain_and_with_the_wrong_one_it_is_no_answer() {
        let part = noise(1, 10_000);
        let packed = PackedPart::pack(&part, &[]).expect("packs");
        assert_eq!(packed.unpack(&[]).expect("unpacks"), part);
        let packed = PackedPart::pack(&part, &part).expect("packs");
        assert!(!packed.unpack(&[]).is_ok_and(|found| found == part));
    }

    #[test]
    fn a_bomb_is_refused_by_its_declared_size_and_by_its_real_one() {
        let bomb = zstd::bulk::compress(&vec![0_u8; 50_000_000], 1).expect("compresses");
        let packed = |raw_bytes| PackedPart { raw_bytes, zstd: bomb.clone() };
        assert!(matches!(packed(50_000_000).unpack(&[]), Err(UnpackError::TooLarge { .. })));
        assert!(matches!(packed(1_000).unpack(&[]), Err(UnpackError::Corrupt { declared: 1_000 })));
    }
}
