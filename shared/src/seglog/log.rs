//! The log: segments in order, the newest open for appending.

use std::collections::VecDeque;
use std::io;

use super::record::{self, RECORD_HEADER_BYTES, Record, RecordError, SEGMENT_HEADER_BYTES};
use super::storage::{SegmentFile, Storage};
use crate::limits::{MAX_RECORD_BYTES, SEGMENT_BYTES};

/// A durable queue of records. See [the module](super) for the format and what is promised.
pub struct SegmentLog<S: Storage> {
    storage: S,
    /// Oldest first; never empty, the last one is `file`.
    segments: VecDeque<Segment>,
    file: S::File,
    /// The position after the last record on the disk.
    durable: u64,
    /// The position after the last record appended.
    next: u64,
    scratch: Vec<u8>,
    /// A write failed half-way: what is after the last whole record is unknown until it is cut off.
    torn: bool,
}

#[derive(Debug, Clone)]
struct Segment {
    name: String,
    first: u64,
    bytes: u64,
}

/// What was found when a log was opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenReport {
    /// Whether there was no log and an empty one was made.
    pub created: bool,
    /// Bytes of a torn write that were cut off the end.
    pub torn_bytes: u64,
}

/// A place in a log, for reading on from.
#[derive(Debug, Clone)]
pub struct Cursor {
    position: u64,
    /// The segment's first position and the offset in it, once found.
    place: Option<(u64, u64)>,
}

/// Why a log cannot be opened or used.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The disk failed. Trying again may help.
    #[error("segment {segment}: {source}")]
    Io {
        /// The segment.
        segment: String,
        /// What the disk said.
        source: io::Error,
    },
    /// A record that is not at the end of the log is damaged. Trying again will not help.
    #[error("segment {segment} is damaged at byte {offset}: {source}")]
    Damaged {
        /// The segment.
        segment: String,
        /// Where in it.
        offset: u64,
        /// What is wrong.
        source: RecordError,
    },
    /// A segment does not begin where the one before it ends.
    #[error("segment {segment} begins at position {found}, the one before it ends at {expected}")]
    Hole {
        /// The segment.
        segment: String,
        /// Where it begins.
        found: u64,
        /// Where it should.
        expected: u64,
    },
    /// The payload is larger than a record may be.
    #[error("a record of {bytes} bytes, at most {MAX_RECORD_BYTES} are allowed")]
    TooLarge {
        /// Its size.
        bytes: usize,
    },
}

impl<S: Storage> SegmentLog<S> {
    /// Opens the log in `storage`; where there is none, makes one whose first position is `first`.
    ///
    /// # Errors
    /// If the disk fails, or a record other than a torn last one is damaged.
    pub fn open(storage: S, first: u64) -> Result<(Self, OpenReport), LogError> {
        let mut names: Vec<String> = storage
            .list()
            .map_err(|source| LogError::Io { segment: "directory".into(), source })?
            .into_iter()
            .filter(|name| name.ends_with(".seg"))
            .collect();
        names.sort();
        let mut segments = VecDeque::new();
        let mut end = None;
        let mut torn_bytes = 0;
        let last = names.last().cloned();
        for name in names {
            let is_last = Some(&name) == last.as_ref();
            match scan(&storage, &name, end, is_last)? {
                Scanned::Whole { segment, next, torn } => {
                    torn_bytes += torn;
                    end = Some(next);
                    segments.push_back(segment);
                }
                Scanned::Unborn { bytes } => {
                    torn_bytes += bytes;
                    let removed = storage.remove(&name);
                    removed.map_err(|source| LogError::Io { segment: name, source })?;
                }
            }
        }
        let created = segments.is_empty();
        let next = end.unwrap_or(first);
        let file = match segments.back() {
            Some(newest) => storage
                .open_at(&newest.name, newest.bytes)
                .map_err(|source| LogError::Io { segment: newest.name.clone(), source })?,
            None => {
                let (segment, file) = create_segment(&storage, next)?;
                segments.push_back(segment);
                file
            }
        };
        let log = Self { storage, segments, file, durable: next, next, scratch: Vec::new(), torn: false };
        Ok((log, OpenReport { created, torn_bytes }))
    }

    /// Appends a record that covers the next `count` positions and returns the first of them. It is durable after the
    /// next [`Self::sync`].
    ///
    /// # Errors
    /// If the disk fails; the record is then not in the log, and appending may be tried again.
    pub fn append(&mut self, count: u32, payload: &[u8]) -> Result<u64, LogError> {
        if payload.len() > MAX_RECORD_BYTES {
            return Err(LogError::TooLarge { bytes: payload.len() });
        }
        self.mend()?;
        let newest_bytes = self.segments.back().map_or(0, |segment| segment.bytes);
        if newest_bytes + (RECORD_HEADER_BYTES + payload.len()) as u64 > SEGMENT_BYTES {
            self.roll()?;
        }
        let first = self.next;
        self.scratch.clear();
        record::encode(first, count, payload, &mut self.scratch);
        let written = self.file.append(&self.scratch);
        self.torn = written.is_err();
        self.with_newest(written)?;
        if let Some(newest) = self.segments.back_mut() {
            newest.bytes += self.scratch.len() as u64;
        }
        self.next = first + u64::from(count);
        Ok(first)
    }

    /// Makes everything appended durable and returns the position after it.
    ///
    /// # Errors
    /// If the disk fails; what was appended since the last sync may or may not survive a crash.
    pub fn sync(&mut self) -> Result<u64, LogError> {
        if self.durable < self.next {
            let synced = self.file.sync();
            self.with_newest(synced)?;
            self.durable = self.next;
        }
        Ok(self.durable)
    }

    /// A cursor at `position`, or at the oldest record where that is later.
    #[must_use]
    pub fn cursor(&self, position: u64) -> Cursor {
        Cursor { position: position.max(self.first()), place: None }
    }

    /// The next durable record at or after the cursor, which moves past it; `None` at the end. A record that the
    /// cursor's position lies inside of is returned whole.
    ///
    /// # Errors
    /// If the disk fails or the record is damaged.
    pub fn read(&self, cursor: &mut Cursor) -> Result<Option<Record>, LogError> {
        loop {
            if cursor.position >= self.durable {
                return Ok(None);
            }
            let index = self.segments.partition_point(|segment| segment.first <= cursor.position).saturating_sub(1);
            let segment = &self.segments[index];
            let offset = match cursor.place {
                Some((first, offset)) if first == segment.first => offset,
                Some(_) | None => SEGMENT_HEADER_BYTES as u64,
            };
            let record = self.read_record(segment, offset)?;
            let after = offset + (RECORD_HEADER_BYTES + record.payload.len()) as u64;
            cursor.place = Some((segment.first, after));
            if record.end() > cursor.position {
                cursor.position = record.end();
                return Ok(Some(record));
            }
        }
    }

    /// Deletes the segments all of whose positions are before `position`, except the newest.
    ///
    /// # Errors
    /// If the disk fails; deletion may be tried again.
    pub fn delete_before(&mut self, position: u64) -> Result<(), LogError> {
        while let Some(second) = self.segments.get(1).filter(|second| second.first <= position.min(self.durable)) {
            debug_assert!(second.first > self.segments[0].first || self.segments[0].bytes > 0);
            let oldest = self.segments[0].name.clone();
            let removed = self.storage.remove(&oldest);
            removed.map_err(|source| LogError::Io { segment: oldest, source })?;
            self.segments.pop_front();
        }
        Ok(())
    }

    /// The oldest position held (or the next one, if none is).
    #[must_use]
    pub fn first(&self) -> u64 {
        self.segments.front().map_or(self.next, |segment| segment.first)
    }

    /// The position after the last durable record.
    #[must_use]
    pub fn durable(&self) -> u64 {
        self.durable
    }

    /// The position the next record will begin at.
    #[must_use]
    pub fn next(&self) -> u64 {
        self.next
    }

    /// Bytes on the disk.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.segments.iter().map(|segment| segment.bytes).sum()
    }

    /// Cuts off what a failed write may have left.
    fn mend(&mut self) -> Result<(), LogError> {
        if self.torn {
            let (name, bytes) = self.segments.back().map(|s| (s.name.clone(), s.bytes)).unwrap_or_default();
            let opened = self.storage.open_at(&name, bytes);
            self.file = self.with_newest(opened)?;
            self.torn = false;
        }
        Ok(())
    }

    fn roll(&mut self) -> Result<(), LogError> {
        self.sync()?;
        let (segment, file) = create_segment(&self.storage, self.next)?;
        self.segments.push_back(segment);
        self.file = file;
        Ok(())
    }

    fn read_record(&self, segment: &Segment, offset: u64) -> Result<Record, LogError> {
        let io = |source| LogError::Io { segment: segment.name.clone(), source };
        let damaged = |source| LogError::Damaged { segment: segment.name.clone(), offset, source };
        let mut header = [0; RECORD_HEADER_BYTES];
        let found = self.storage.read(&segment.name, offset, &mut header).map_err(io)?;
        if found < RECORD_HEADER_BYTES {
            return Err(damaged(RecordError::CutOff));
        }
        let length = u32::from_le_bytes([header[0], header[1], header[2], header[3]]) as usize;
        if length > MAX_RECORD_BYTES {
            return Err(damaged(RecordError::TooLarge { bytes: length }));
        }
        let mut bytes = vec![0; RECORD_HEADER_BYTES + length];
        let found = self.storage.read(&segment.name, offset, &mut bytes).map_err(io)?;
        record::decode(&bytes[..found]).map(|(record, _)| record).map_err(damaged)
    }

    fn with_newest<T>(&self, result: io::Result<T>) -> Result<T, LogError> {
        result.map_err(|source| LogError::Io {
            segment: self.segments.back().map(|segment| segment.name.clone()).unwrap_or_default(),
            source,
        })
    }
}

impl Cursor {
    /// The position the next record read will hold.
    #[must_use]
    pub fn position(&self) -> u64 {
        self.position
    }
}

enum Scanned {
    Whole {
        segment: Segment,
        next: u64,
        torn: u64,
    },
    /// The last segment whose header was never finished: it holds nothing.
    Unborn {
        bytes: u64,
    },
}

fn create_segment<S: Storage>(storage: &S, first: u64) -> Result<(Segment, S::File), LogError> {
    let name = format!("{first:020}.seg");
    let make = || {
        let mut file = storage.create(&name)?;
        file.append(&record::segment_header(first))?;
        file.sync()?;
        Ok(file)
    };
    let file = make().map_err(|source| LogError::Io { segment: name.clone(), source })?;
    Ok((Segment { name, first, bytes: SEGMENT_HEADER_BYTES as u64 }, file))
}

/// Checks every record of a segment that must begin at `expected`. Only the last segment may have a torn tail.
fn scan<S: Storage>(storage: &S, name: &str, expected: Option<u64>, is_last: bool) -> Result<Scanned, LogError> {
    let mut bytes = vec![0; SEGMENT_BYTES as usize + RECORD_HEADER_BYTES + MAX_RECORD_BYTES];
    let length =
        storage.read(name, 0, &mut bytes).map_err(|source| LogError::Io { segment: name.to_owned(), source })?;
    bytes.truncate(length);
    let damaged = |offset: usize, source| LogError::Damaged { segment: name.to_owned(), offset: offset as u64, source };
    let first = match record::read_segment_header(&bytes) {
        Ok(first) => first,
        Err(_) if is_last && length <= SEGMENT_HEADER_BYTES => return Ok(Scanned::Unborn { bytes: length as u64 }),
        Err(source) => return Err(damaged(0, source)),
    };
    if let Some(expected) = expected.filter(|expected| *expected != first) {
        return Err(LogError::Hole { segment: name.to_owned(), found: first, expected });
    }
    let mut offset = SEGMENT_HEADER_BYTES;
    let mut next = first;
    while offset < length {
        match record::decode(&bytes[offset..]) {
            Ok((record, taken)) if record.first == next => {
                next = record.end();
                offset += taken;
            }
            Ok((record, _)) => {
                return Err(damaged(offset, RecordError::Positions { first: record.first, count: record.count }));
            }
            Err(source) => {
                if !is_last || has_record_after(&bytes[offset..], next) {
                    return Err(damaged(offset, source));
                }
                break;
            }
        }
    }
    let segment = Segment { name: name.to_owned(), first, bytes: offset as u64 };
    Ok(Scanned::Whole { segment, next, torn: (length - offset) as u64 })
}

/// Whether a sound record of later positions follows a broken one: then the break is damage and not a torn tail.
fn has_record_after(bytes: &[u8], next: u64) -> bool {
    (1..bytes.len()).any(|offset| record::decode(&bytes[offset..]).is_ok_and(|(record, _)| record.first > next))
}

#[cfg(test)]
mod tests {
    use super::super::file::Directory;
    use super::*;
    use std::fs;
    use std::path::Path;

    fn open(path: &Path) -> (SegmentLog<Directory>, OpenReport) {
        SegmentLog::open(Directory::open(path).expect("directory"), 0).expect("opens")
    }

    fn all(log: &SegmentLog<Directory>, from: u64) -> Vec<Record> {
        let mut cursor = log.cursor(from);
        std::iter::from_fn(|| log.read(&mut cursor).expect("reads")).collect()
    }

    fn filled(path: &Path, records: u64, bytes: usize) -> SegmentLog<Directory> {
        let (mut log, _) = open(path);
        for i in 0..records {
            log.append(3, &vec![i as u8; bytes]).expect("appends");
        }
        log.sync().expect("syncs");
        log
    }

    #[test]
    fn what_was_synced_is_read_back_from_any_position_after_reopening() {
        let dir = tempfile::tempdir().expect("dir");
        drop(filled(dir.path(), 100, 200_000));
        let (log, report) = open(dir.path());
        assert_eq!(report, OpenReport { created: false, torn_bytes: 0 });
        assert!(log.segments.len() > 3);
        for from in [0, 1, 2, 3, 150, 299] {
            let records = all(&log, from);
            assert_eq!(records.len() as u64, 100 - from / 3);
            assert!(records[0].first <= from && records[0].end() > from);
        }
        assert!(all(&log, 300).is_empty());
        assert_eq!(log.next(), 300);
    }

    #[test]
    fn records_are_readable_only_once_durable() {
        let dir = tempfile::tempdir().expect("dir");
        let (mut log, report) = open(dir.path());
        assert!(report.created);
        log.append(1, b"x").expect("appends");
        assert!(all(&log, 0).is_empty());
        assert_eq!(log.sync().expect("syncs"), 1);
        assert_eq!(all(&log, 0).len(), 1);
    }

    #[test]
    fn whole_segments_are_deleted_and_positions_go_on_after_all_is_gone() {
        let dir = tempfile::tempdir().expect("dir");
        let mut log = filled(dir.path(), 100, 200_000);
        let before = log.bytes();
        log.delete_before(150).expect("deletes");
        assert!(log.bytes() < before && log.first() <= 150 && log.first() > 60);
        log.delete_before(300).expect("deletes");
        assert_eq!(log.segments.len(), 1);
        drop(log);
        let (mut log, _) = open(dir.path());
        assert_eq!(log.next(), 300);
        assert_eq!(log.append(1, b"x").expect("appends"), 300);
    }

    #[test]
    fn a_tail_torn_at_any_byte_is_cut_off_and_nothing_else_is_lost() {
        let dir = tempfile::tempdir().expect("dir");
        drop(filled(dir.path(), 4, 50));
        let path = dir.path().join(format!("{:020}.seg", 0));
        let whole = fs::read(&path).expect("reads");
        let record = RECORD_HEADER_BYTES + 50;
        for cut in SEGMENT_HEADER_BYTES..whole.len() {
            fs::write(&path, &whole[..cut]).expect("writes");
            let (mut log, report) = open(dir.path());
            let kept = (cut - SEGMENT_HEADER_BYTES) / record;
            assert_eq!(log.next(), kept as u64 * 3, "cut at {cut}");
            assert_eq!(report.torn_bytes, ((cut - SEGMENT_HEADER_BYTES) % record) as u64);
            assert_eq!(log.append(1, b"after").expect("appends"), kept as u64 * 3);
            log.sync().expect("syncs");
            assert_eq!(all(&log, 0).len(), kept + 1);
        }
    }

    #[test]
    fn a_segment_whose_header_was_never_finished_is_made_anew() {
        let dir = tempfile::tempdir().expect("dir");
        drop(filled(dir.path(), 4, 50));
        fs::write(dir.path().join(format!("{:020}.seg", 12)), [7; 9]).expect("writes");
        let (log, report) = open(dir.path());
        assert_eq!((log.next(), report.torn_bytes), (12, 9));
    }

    #[test]
    fn damage_before_the_tail_is_an_error_that_names_the_place() {
        let dir = tempfile::tempdir().expect("dir");
        drop(filled(dir.path(), 4, 50));
        let path = dir.path().join(format!("{:020}.seg", 0));
        let mut bytes = fs::read(&path).expect("reads");
        bytes[SEGMENT_HEADER_BYTES + 30] ^= 1;
        fs::write(&path, &bytes).expect("writes");
        let error = SegmentLog::open(Directory::open(dir.path()).expect("dir"), 0).err().expect("damaged");
        assert_eq!(
            error.to_string(),
            "segment 00000000000000000000.seg is damaged at byte 20: the checksum does not hold"
        );
    }
}
