//! What a segment holds, found out from its bytes alone: whole records, damage between them, and where it ends.

use std::collections::VecDeque;
use std::io;
use std::ops::Range;

use super::record::{self, RecordError, SEGMENT_HEADER_BYTES};
use super::storage::Storage;

/// Damaged places remembered of one segment. A segment with more is not worth searching: the rest of it is given up.
const MAX_DAMAGES: usize = 64;

/// One segment of a log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Segment {
    /// Its name in the storage.
    pub(super) name: String,
    /// Its first position.
    pub(super) first: u64,
    /// Bytes up to the end of its last sound record.
    pub(super) bytes: u64,
    /// Bytes after that: torn, damaged, or void.
    pub(super) rest: u64,
    /// What is not sound in it, in order.
    pub(super) damages: Vec<Damage>,
}

/// A damaged place in a segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Damage {
    /// Where it begins.
    pub(super) offset: u64,
    /// Where the next sound record begins, or the segment ends.
    pub(super) resume: u64,
    /// The positions that are gone.
    pub(super) positions: Range<u64>,
}

/// A segment and what was found out about its end.
#[derive(Debug)]
pub(super) struct Scanned {
    pub(super) segment: Segment,
    /// The position after its last sound record.
    pub(super) next: u64,
    /// Where the records begin of which no later one says that they were synced, and with which position.
    pub(super) unproven: (u64, u64),
    /// What follows the last sound record is the beginning of the next one, and ends before that should.
    pub(super) is_cut_off: bool,
}

/// The name of the segment that begins at a position.
pub(super) fn segment_name(first: u64) -> String {
    format!("{first:020}.seg")
}

/// The position at which a segment of this name begins; `None` for anything that is no segment.
pub(super) fn position_of(name: &str) -> Option<u64> {
    let first = name.strip_suffix(".seg")?.parse().ok()?;
    (segment_name(first) == name).then_some(first)
}

/// Where a segment stands in its log.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place {
    /// Its first position.
    pub(super) first: u64,
    /// Positions before are known from elsewhere, and passed over.
    pub(super) expected: u64,
    /// Where the next segment begins; nothing if this is the newest. Only the newest holds what was not synced.
    pub(super) until: Option<u64>,
}

/// Reads a segment and checks every record in it; nothing if it was never finished. `buffer` is lent, so that it need not
/// be had anew for each segment.
///
/// # Errors
/// If the disk fails. The inner result is an error if the segment is of another format.
pub(super) fn scan<S: Storage>(
    storage: &S,
    name: &str,
    place: Place,
    buffer: &mut [u8],
) -> io::Result<Result<Option<Scanned>, RecordError>> {
    let length = storage.read(name, 0, buffer)?;
    let bytes = &buffer[..length];
    if let Err(error @ RecordError::Format { .. }) = record::read_segment_header(bytes) {
        return Ok(Err(error));
    }
    // A header that is damaged costs nothing: the name says the same.
    if length < SEGMENT_HEADER_BYTES {
        return Ok(Ok(None));
    }
    let mut walk = Walk::new(bytes, place);
    walk.run();
    let Walk { offset, next, damages, unproven, .. } = walk;
    let is_cut_off = record::is_cut_off(&bytes[offset..], next);
    let (bytes, rest) = (offset as u64, (length - offset) as u64);
    let segment = Segment { name: name.to_owned(), first: place.first, bytes, rest, damages };
    Ok(Ok(Some(Scanned { segment, next, unproven, is_cut_off })))
}

impl Segment {
    /// The damage that begins at an offset, unless it is passed already.
    pub(super) fn damage_at(&self, offset: u64, position: u64) -> Option<&Damage> {
        self.damages.iter().find(|damage| damage.offset == offset && damage.positions.start >= position)
    }

    /// Finds out what follows a record that turned out to be damaged at `offset`, up to `end`, where the segment's
    /// sound bytes end. `positions` begin with that record's first and end with the segment's last.
    ///
    /// # Errors
    /// If the disk fails.
    pub(super) fn look_beyond<S: Storage>(
        &self,
        storage: &S,
        offset: u64,
        end: u64,
        positions: Range<u64>,
    ) -> io::Result<Damage> {
        let mut bytes = vec![0; (end - offset) as usize];
        let length = storage.read(&self.name, offset, &mut bytes)?;
        let has_room = self.damages.len() < MAX_DAMAGES;
        let found = if has_room { record::find(&bytes[..length], 1, positions.start) } else { None };
        Ok(match found {
            Some((at, record)) => {
                Damage { offset, resume: offset + at as u64, positions: positions.start..record.first }
            }
            None => Damage { offset, resume: end, positions },
        })
    }
}

/// A walk through a segment, from record to record.
pub(super) struct Walk<'a> {
    bytes: &'a [u8],
    until: Option<u64>,
    /// Where it has come to.
    pub(super) offset: usize,
    /// The position that begins there.
    pub(super) next: u64,
    pub(super) damages: Vec<Damage>,
    unproven: (u64, u64),
}

impl<'a> Walk<'a> {
    pub(super) fn new(bytes: &'a [u8], place: Place) -> Self {
        let offset = SEGMENT_HEADER_BYTES.min(bytes.len());
        let next = place.first.max(place.expected);
        let unproven = (offset as u64, next);
        Self { bytes, until: place.until, offset, next, damages: Vec::new(), unproven }
    }

    pub(super) fn run(&mut self) {
        // The places of the newest records, to find the first one that is not proven.
        let mut places: VecDeque<(u64, u64)> = VecDeque::new();
        while self.offset < self.bytes.len() && self.until.is_none_or(|until| self.next < until) {
            match record::check(&self.bytes[self.offset..]) {
                Ok(record) if record.first == self.next => {
                    places.push_back((self.offset as u64, record.first));
                    while places.front().is_some_and(|(_, first)| *first < record.synced) {
                        places.pop_front();
                    }
                    self.next = record.end;
                    self.offset += record.bytes;
                }
                Ok(_) | Err(_) => {
                    let Some((at, record)) = self.resume() else { break };
                    let positions = self.next..record.first;
                    self.damages.push(Damage { offset: self.offset as u64, resume: at as u64, positions });
                    (self.offset, self.next) = (at, record.first);
                }
            }
        }
        self.unproven = places.front().copied().unwrap_or((self.offset as u64, self.next));
    }

    /// Where sound records go on after a break, if the break is damage and not a torn tail: in the newest segment, only
    /// where a later record says that what is broken had been synced.
    fn resume(&self) -> Option<(usize, record::Checked)> {
        let find = |offset| {
            let found = record::find(self.bytes, offset, self.next);
            found.filter(|(_, record)| self.until.is_none_or(|until| record.first < until))
        };
        if self.damages.len() >= MAX_DAMAGES {
            return None;
        }
        // The record at the offset itself may be sound and follow a hole.
        let first = find(self.offset)?;
        let mut proof = Some(first);
        while let Some((at, record)) = proof.filter(|(_, record)| self.until.is_none() && record.synced <= self.next) {
            proof = find(at + record.bytes);
        }
        proof.map(|_| first)
    }
}
