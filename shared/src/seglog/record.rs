//! The bytes of records and segment headers; see [`super`] for the format.

use crate::limits::MAX_RECORD_BYTES;

/// Bytes of a segment's header.
pub const SEGMENT_HEADER_BYTES: usize = 20;
/// Bytes of a record before its payload.
pub const RECORD_HEADER_BYTES: usize = 28;

const MAGIC: [u8; 4] = *b"TLSG";
/// The last position at which a record may begin: whatever follows from it by adding does not overflow.
const LAST_FIRST: u64 = u64::MAX / 2;
/// How a record begins. It is what is looked for behind damage, and keeps payloads from being taken for records.
const RECORD_MAGIC: [u8; 4] = *b"TLRC";
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
    /// It does not begin as a record does.
    #[error("this is no record")]
    NotARecord,
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
    #[error("this is no segment header")]
    NotASegment,
    /// The segment was written by a release that knows more.
    #[error("the segment has format {found}, this release reads {FORMAT}")]
    Format {
        /// Its format.
        found: u16,
    },
}

/// What a sound record's header says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Checked {
    /// Its first position.
    pub(super) first: u64,
    /// The position after the last one covered.
    pub(super) end: u64,
    count: u32,
    /// Everything before this position was on the disk when the record was written.
    pub(super) synced: u64,
    /// Bytes of the record, header and payload.
    pub(super) bytes: usize,
}

impl Record {
    /// The position after the last one covered.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.first + u64::from(self.count)
    }
}

/// Writes a record to the end of `out`. Everything before `synced` is on the disk.
pub(super) fn encode(first: u64, count: u32, synced: u64, payload: &[u8], out: &mut Vec<u8>) {
    let start = out.len();
    out.extend_from_slice(&RECORD_MAGIC);
    out.extend_from_slice(&u32::try_from(payload.len()).unwrap_or(u32::MAX).to_le_bytes());
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(&first.to_le_bytes());
    out.extend_from_slice(&count.to_le_bytes());
    let unsynced = u32::try_from(first.saturating_sub(synced)).unwrap_or(u32::MAX);
    out.extend_from_slice(&unsynced.to_le_bytes());
    out.extend_from_slice(payload);
    let checksum = crc32c::crc32c(&out[start + 12..]);
    out[start + 8..start + 12].copy_from_slice(&checksum.to_le_bytes());
}

/// Reads the record at the start of `bytes`.
pub(super) fn decode(bytes: &[u8]) -> Result<Record, RecordError> {
    let Checked { first, count, bytes: end, .. } = check(bytes)?;
    Ok(Record { first, count, payload: bytes[RECORD_HEADER_BYTES..end].to_vec() })
}

/// Checks the record at the start of `bytes` without taking its payload out.
pub(super) fn check(bytes: &[u8]) -> Result<Checked, RecordError> {
    let header = bytes.first_chunk().ok_or(RecordError::CutOff)?;
    let end = RECORD_HEADER_BYTES + payload_bytes(header)?;
    if bytes.len() < end {
        return Err(RecordError::CutOff);
    }
    if crc32c::crc32c(&bytes[12..end]) != word(header, 8) {
        return Err(RecordError::Checksum);
    }
    let (first, count) = positions(header);
    match first.checked_add(u64::from(count)) {
        Some(after) if count > 0 && first <= LAST_FIRST => {
            let synced = first.saturating_sub(u64::from(word(header, 24)));
            Ok(Checked { first, end: after, count, synced, bytes: end })
        }
        Some(_) | None => Err(RecordError::Positions { first, count }),
    }
}

/// Bytes of the payload that follows a record's header, by its own account.
pub(super) fn payload_bytes(header: &[u8; RECORD_HEADER_BYTES]) -> Result<usize, RecordError> {
    if header[..4] != RECORD_MAGIC {
        return Err(RecordError::NotARecord);
    }
    let bytes = word(header, 4) as usize;
    if bytes > MAX_RECORD_BYTES { Err(RecordError::TooLarge { bytes }) } else { Ok(bytes) }
}

/// Whether `bytes` are the beginning of a record whose first position is `first`, and not all of it.
pub(super) fn is_cut_off(bytes: &[u8], first: u64) -> bool {
    let magic = bytes.len().min(RECORD_MAGIC.len());
    match bytes.first_chunk() {
        None => !bytes.is_empty() && bytes[..magic] == RECORD_MAGIC[..magic],
        // The checksum does not cover the length: of a whole record whose length is damaged, it still holds.
        Some(header) => {
            let is_whole = crc32c::crc32c(&bytes[12..]) == word(header, 8);
            matches!(check(bytes), Err(RecordError::CutOff)) && positions(header).0 == first && !is_whole
        }
    }
}

/// The first sound record in `bytes` from `offset` on that covers no position before `next`: where it is, and what.
pub(super) fn find(bytes: &[u8], offset: usize, next: u64) -> Option<(usize, Checked)> {
    (offset..bytes.len()).find_map(|at| {
        let is_record = bytes[at..].starts_with(&RECORD_MAGIC);
        let checked = if is_record { check(&bytes[at..]).ok() } else { None };
        checked.filter(|record| record.first >= next).map(|record| (at, record))
    })
}

fn positions(header: &[u8; RECORD_HEADER_BYTES]) -> (u64, u32) {
    (u64::from(word(header, 12)) | u64::from(word(header, 16)) << 32, word(header, 20))
}

fn word(header: &[u8; RECORD_HEADER_BYTES], at: usize) -> u32 {
    u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]])
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
    if *header == segment_header(first) {
        return Ok(first);
    }
    let found = u16::from_le_bytes([header[4], header[5]]);
    let is_sound = header[..4] == MAGIC && crc32c::crc32c(&header[..16]).to_le_bytes() == header[16..];
    Err(if is_sound && found != FORMAT { RecordError::Format { found } } else { RecordError::NotASegment })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn golden_bytes_of_a_record_and_a_header() {
        let mut out = Vec::new();
        encode(258, 3, 254, b"abc", &mut out);
        let positions = [2, 1, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 4, 0, 0, 0];
        assert_eq!(out, [&b"TLRC"[..], &[3, 0, 0, 0, 0xe7, 0xb5, 0xd1, 0x82], &positions, b"abc"].concat());
        assert_eq!(check(&out).map(|checked| checked.synced), Ok(254));
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
            encode(first, count, first, &payload, &mut out);
            prop_assert_eq!(decode(&out), Ok(Record { first, count, payload }));
            let bit = flip.index(out.len() * 8);
            out[bit / 8] ^= 1 << (bit % 8);
            prop_assert!(decode(&out).is_err());
        }
    }
}
