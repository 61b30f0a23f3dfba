//! The bytes of records and segment headers; see [`super`] for the format.

use crate::limits::MAX_RECORD_BYTES;

/// Bytes of a segment's header.
pub const SEGMENT_HEADER_BYTES: usize = 20;
/// Bytes of a record before its payload.
pub const RECORD_HEADER_BYTES: usize = 20;

const MAGIC: [u8; 4] = *b"TLSG";
const FORMAT: u16 = 1;

/// A record: a payload that covers the positions `first .. first + count`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Its first position.
    pub first: u64,
    /// How many positions it covers, at least 1.
    pub count: u32,
    /// What it holds.
    pub payload: Vec<u8>,
}

/// Why bytes are not a record or a segment header.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// There are fewer bytes than the record needs: a torn write, or the end of the segment.
    #[error("the record is cut off")]
    CutOff,
    /// It declares more bytes than a record may have.
    #[error("the record declares {bytes} bytes, at most {MAX_RECORD_BYTES} are allowed")]
    TooLarge {
        /// What it declares.
        bytes: usize,
    },
    /// Its checksum does not hold.
    #[error("the checksum does not hold")]
    Checksum,
    /// It covers no position, or more than there are.
    #[error("the record covers {count} positions from {first}")]
    Positions {
        /// Its first position.
        first: u64,
        /// How many.
        count: u32,
    },
    /// The segment does not begin as one does.
    #[error("this is no segment of format {FORMAT}")]
    NotASegment,
}

impl Record {
    /// The position after the last one covered.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.first + u64::from(self.count)
    }
}

/// Writes a record to the end of `out`.
pub(super) fn encode(first: u64, count: u32, payload: &[u8], out: &mut Vec<u8>) {
    let start = out.len();
    out.extend_from_slice(&u32::try_from(payload.len()).unwrap_or(u32::MAX).to_le_bytes());
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(&first.to_le_bytes());
    out.extend_from_slice(&count.to_le_bytes());
    out.extend_from_slice(payload);
    let checksum = crc32c::crc32c(&out[start + 8..]);
    out[start + 4..start + 8].copy_from_slice(&checksum.to_le_bytes());
}

/// Reads the record at the start of `bytes` and says how many bytes it took.
pub(super) fn decode(bytes: &[u8]) -> Result<(Record, usize), RecordError> {
    let header: &[u8; RECORD_HEADER_BYTES] = bytes.first_chunk().ok_or(RecordError::CutOff)?;
    let word = |at: usize| u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
    let length = word(0) as usize;
    if length > MAX_RECORD_BYTES {
        return Err(RecordError::TooLarge { bytes: length });
    }
    let end = RECORD_HEADER_BYTES + length;
    if bytes.len() < end {
        return Err(RecordError::CutOff);
    }
    if crc32c::crc32c(&bytes[8..end]) != word(4) {
        return Err(RecordError::Checksum);
    }
    let first = u64::from(word(8)) | u64::from(word(12)) << 32;
    let count = word(16);
    if count == 0 || first.checked_add(u64::from(count)).is_none() {
        return Err(RecordError::Positions { first, count });
    }
    Ok((Record { first, count, payload: bytes[RECORD_HEADER_BYTES..end].to_vec() }, end))
}

/// The header of a segment whose first record will cover `first`.
pub(super) fn segment_header(first: u64) -> [u8; SEGMENT_HEADER_BYTES] {
    let mut header = [0; SEGMENT_HEADER_BYTES];
    header[..4].copy_from_slice(&MAGIC);
    header[4..6].copy_from_slice(&FORMAT.to_le_bytes());
    header[8..16].copy_from_slice(&first.to_le_bytes());
    let checksum = crc32c::crc32c(&header[..16]);
    header[16..].copy_from_slice(&checksum.to_le_bytes());
    header
}

/// The first position of the segment that begins with `bytes`.
pub(super) fn read_segment_header(bytes: &[u8]) -> Result<u64, RecordError> {
    let header: &[u8; SEGMENT_HEADER_BYTES] = bytes.first_chunk().ok_or(RecordError::CutOff)?;
    let first = u64::from_le_bytes([
        header[8], header[9], header[10], header[11], header[12], header[13], header[14], header[15],
    ]);
    if *header == segment_header(first) { Ok(first) } else { Err(RecordError::NotASegment) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn golden_bytes_of_a_record_and_a_header() {
        let mut out = Vec::new();
        encode(258, 3, b"abc", &mut out);
        assert_eq!(out, [3, 0, 0, 0, 0xc1, 0x92, 0x3e, 0x26, 2, 1, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, b'a', b'b', b'c']);
        let header = segment_header(258);
        assert_eq!(header[..16], [b'T', b'L', b'S', b'G', 1, 0, 0, 0, 2, 1, 0, 0, 0, 0, 0, 0]);
        assert_eq!(read_segment_header(&header), Ok(258));
    }

    proptest! {
        #[test]
        fn a_record_survives_and_every_flipped_bit_is_found(
            first in 0_u64..u64::MAX / 2, count in 1_u32.., payload in proptest::collection::vec(any::<u8>(), 0..200),
            flip in any::<prop::sample::Index>(),
        ) {
            let mut out = Vec::new();
            encode(first, count, &payload, &mut out);
            prop_assert_eq!(decode(&out), Ok((Record { first, count, payload }, out.len())));
            let bit = flip.index(out.len() * 8);
            out[bit / 8] ^= 1 << (bit % 8);
            prop_assert!(decode(&out).is_err());
        }
    }
}
