//! The log: segments in order, the newest open for appending.

use std::collections::VecDeque;
use std::io;
use std::ops::Range;

use super::record::{self, RECORD_HEADER_BYTES, Record, RecordError, SEGMENT_HEADER_BYTES};
use super::scan::{self, Scanned, Segment};
use super::storage::{SegmentFile, Storage};
use crate::limits::MAX_RECORD_BYTES;

/// A durable queue of records. See [the module](super) for the format and what is promised.
pub struct SegmentLog<S: Storage> {
    storage: S,
    /// Bytes above which a new segment is begun.
    segment_bytes: u64,
    /// Oldest first; never empty, the last one is `file`.
    segments: VecDeque<Segment>,
    file: S::File,
    /// The position after the last record on the disk.
    durable: u64,
    /// Bytes of the newest segment that are on the disk.
    durable_bytes: u64,
    /// The position after the last record appended.
    next: u64,
    scratch: Vec<u8>,
    /// A write or a sync failed: what is after the newest segment's `bytes` is unknown until it is cut off.
    torn: bool,
    /// A new segment was begun and may be there, so that the one before it ends where it begins.
    must_roll: bool,
}

/// What was found when a log was opened.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OpenReport {
    /// Whether there was no log and an empty one was made.
    pub created: bool,
    /// Bytes without a sound record at the end. A write that a crash cut short leaves them, and so does damage to the
    /// newest records, which looks the same.
    pub torn_bytes: u64,
    /// Positions whose records are damaged or missing, in order. The last ones may never have had any.
    pub lost: Vec<Range<u64>>,
}

/// A place in a log, for reading on from.
#[derive(Debug, Clone)]
pub struct Cursor {
    position: u64,
    place: Option<Place>,
}

/// Where in a segment a cursor is, once it was looked for.
#[derive(Debug, Clone, Copy)]
struct Place {
    /// The segment's first position.
    segment: u64,
    /// The offset in it.
    offset: u64,
    /// The position that begins there.
    position: u64,
}

/// What is at a cursor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// A record.
    Record(Record),
    /// Positions whose records are damaged or missing.
    Lost(Range<u64>),
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
    /// A segment was written by a release that knows more.
    #[error("segment {segment}: {source}")]
    Format {
        /// The segment.
        segment: String,
        /// What is wrong.
        source: RecordError,
    },
    /// The payload is empty or larger than a record may be.
    #[error("a record of {bytes} bytes, allowed are 1 to {MAX_RECORD_BYTES}")]
    Size {
        /// Its size.
        bytes: usize,
    },
}

impl<S: Storage> SegmentLog<S> {
    /// Opens the log in `storage`; where there is none, makes one whose first position is `first`. A new segment is
    /// begun when one would exceed `segment_bytes`.
    ///
    /// Damage does not keep a log from being opened: what is lost is in the report, and all else is there.
    ///
    /// # Errors
    /// If the disk fails, or a segment is of a newer format.
    pub fn open(storage: S, first: u64, segment_bytes: u64) -> Result<(Self, OpenReport), LogError> {
        let is_same_boot = storage.is_same_boot();
        let Recovered { mut segments, newest, mut report } = recover(&storage, segment_bytes)?;
        let (segment, next) = match newest {
            Some(newest) => take_over(&storage, newest, is_same_boot, &mut segments, &mut report)?,
            None => {
                report.created = segments.is_empty();
                (create_segment(&storage, first)?, first)
            }
        };
        let file = storage.open_at(&segment.name, segment.bytes).map_err(io_error(&segment.name))?;
        if !is_same_boot {
            storage.mark_boot();
        }
        let durable_bytes = segment.bytes;
        segments.push_back(segment);
        let scratch = Vec::new();
        let log = Self {
            storage,
            segment_bytes,
            segments,
            file,
            durable: next,
            durable_bytes,
            next,
            scratch,
            torn: false,
            must_roll: false,
        };
        Ok((log, report))
    }

    /// Appends a record that covers the next `count` positions and returns the first of them. It is durable after the
    /// next [`Self::sync`]. The payload must not be empty.
    ///
    /// # Errors
    /// If the disk fails; the record is then not in the log, and appending may be tried again. Records that were not
    /// synced may be gone as well: [`Self::next`] says from which position on.
    pub fn append(&mut self, count: u32, payload: &[u8]) -> Result<u64, LogError> {
        if payload.is_empty() || payload.len() > MAX_RECORD_BYTES {
            return Err(LogError::Size { bytes: payload.len() });
        }
        self.mend()?;
        let newest_bytes = self.newest().bytes;
        let is_empty = newest_bytes <= SEGMENT_HEADER_BYTES as u64;
        let is_full = newest_bytes + (RECORD_HEADER_BYTES + payload.len()) as u64 > self.segment_bytes;
        if self.must_roll || (is_full && !is_empty) {
            self.roll()?;
        }
        let first = self.next;
        self.scratch.clear();
        record::encode(first, count, self.durable, payload, &mut self.scratch);
        let written = self.file.append(&self.scratch);
        self.torn = written.is_err();
        self.with_newest(written)?;
        let bytes = self.scratch.len() as u64;
        self.newest_mut().bytes += bytes;
        self.next = first + u64::from(count);
        Ok(first)
    }

    /// Makes everything appended durable and returns the position after it.
    ///
    /// # Errors
    /// If the disk fails. What was appended since the last sync is then not in the log any more and is to be appended
    /// again: a file system may report success the next time without having written it (A. Rebello et al., "Can
    /// Applications Recover from fsync Failures?", USENIX ATC 2020).
    pub fn sync(&mut self) -> Result<u64, LogError> {
        if self.durable < self.next {
            let synced = self.file.sync();
            if synced.is_err() {
                self.torn = true;
                self.next = self.durable;
                self.newest_mut().bytes = self.durable_bytes;
            }
            self.with_newest(synced)?;
            self.durable = self.next;
            self.durable_bytes = self.newest().bytes;
        }
        Ok(self.durable)
    }

    /// A cursor at `position`, or at the oldest record where that is later.
    #[must_use]
    pub fn cursor(&self, position: u64) -> Cursor {
        Cursor { position: position.max(self.first()), place: None }
    }

    /// What is durable at the cursor, which moves past it; `None` at the end. A record that the cursor's position lies
    /// inside of is returned whole.
    ///
    /// # Errors
    /// If the disk fails.
    pub fn read(&mut self, cursor: &mut Cursor) -> Result<Option<Found>, LogError> {
        while cursor.position < self.durable {
            let index = self.segments.partition_point(|segment| segment.first <= cursor.position).saturating_sub(1);
            let (end, end_position) = self.end_of(index);
            let segment = &self.segments[index];
            let beginning =
                Place { segment: segment.first, offset: SEGMENT_HEADER_BYTES as u64, position: segment.first };
            let place = cursor.place.filter(|place| place.segment == segment.first).unwrap_or(beginning);
            if let Some(damage) = segment.damage_at(place.offset, place.position) {
                let position = damage.positions.end;
                cursor.place = Some(Place { offset: damage.resume, position, ..place });
                if let Some(lost) = cursor.pass_to(position) {
                    return Ok(Some(Found::Lost(lost)));
                }
            } else if place.offset >= end {
                if let Some(lost) = cursor.pass_to(end_position) {
                    return Ok(Some(Found::Lost(lost)));
                }
            } else if let Some(record) = self.read_record(segment, place.offset)? {
                let offset = place.offset + (RECORD_HEADER_BYTES + record.payload.len()) as u64;
                cursor.place = Some(Place { offset, position: record.end(), ..place });
                if record.end() > cursor.position && record.payload.is_empty() {
                    return Ok(cursor.pass_to(record.end()).map(Found::Lost));
                }
                if record.end() > cursor.position {
                    cursor.position = record.end();
                    return Ok(Some(Found::Record(record)));
                }
            } else {
                // It was whole when the log was opened or written: the disk lost it since.
                let damage = segment.look_beyond(&self.storage, place.offset, end, place.position..end_position);
                let damage = damage.map_err(io_error(&segment.name))?;
                self.segments[index].damages.push(damage);
            }
        }
        Ok(None)
    }

    /// Deletes the segments all of whose positions are before `position`, except the newest.
    ///
    /// # Errors
    /// If the disk fails; deletion may be tried again.
    pub fn delete_before(&mut self, position: u64) -> Result<(), LogError> {
        while self.segments.get(1).is_some_and(|second| second.first <= position.min(self.durable)) {
            let oldest = self.segments[0].name.clone();
            match self.storage.remove(&oldest) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(io_error(&oldest)(error)),
                _ => drop(self.segments.pop_front()),
            }
        }
        Ok(())
    }

    /// The positions of the `count` oldest segments, if there are so many beside the newest.
    #[must_use]
    pub fn oldest(&self, count: usize) -> Option<Range<u64>> {
        let after = self.segments.get(count).filter(|_| count > 0)?;
        Some(self.segments[0].first..after.first)
    }

    /// Puts one record with `payload` in the place of everything that the `count` oldest segments hold; it covers the
    /// same positions. Durable when this returns; after a crash the one or the other is there.
    ///
    /// # Errors
    /// If there are not so many beside the newest, or the disk fails: then everything is as before.
    pub fn replace_oldest(&mut self, count: usize, payload: &[u8]) -> Result<(), LogError> {
        let name = self.segments[0].name.clone();
        let no_such = || io_error(&name)(io::Error::other(format!("there are no {count} segments to replace")));
        let positions = self.oldest(count).ok_or_else(no_such)?;
        let covered = u32::try_from(positions.end - positions.start).map_err(|_| no_such())?;
        let mut bytes = record::segment_header(positions.start).to_vec();
        record::encode(positions.start, covered, positions.start, payload, &mut bytes);
        self.storage.replace(&name, &bytes).map_err(io_error(&name))?;
        let superseded: Vec<Segment> = self.segments.drain(..count).collect();
        self.segments.push_front(Segment {
            name,
            first: positions.start,
            bytes: bytes.len() as u64,
            rest: 0,
            damages: Vec::new(),
        });
        for segment in &superseded[1..] {
            // One that stays holds nothing that is read, and goes when the log is next opened.
            drop(self.storage.remove(&segment.name));
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
        self.segments.iter().map(|segment| segment.bytes + segment.rest).sum()
    }

    /// The storage.
    #[must_use]
    pub fn storage(&self) -> &S {
        &self.storage
    }

    /// Cuts off what a failed write or sync may have left.
    fn mend(&mut self) -> Result<(), LogError> {
        if self.torn {
            let (name, bytes) = (self.newest().name.clone(), self.newest().bytes);
            let opened = self.storage.open_at(&name, bytes);
            self.file = self.with_newest(opened)?;
            self.torn = false;
        }
        Ok(())
    }

    fn roll(&mut self) -> Result<(), LogError> {
        self.sync()?;
        self.must_roll = true;
        let segment = create_segment(&self.storage, self.next)?;
        self.must_roll = false;
        self.durable_bytes = segment.bytes;
        self.segments.push_back(segment);
        self.torn = true;
        self.mend()
    }

    /// Where the durable bytes and positions of a segment end.
    fn end_of(&self, index: usize) -> (u64, u64) {
        match self.segments.get(index + 1) {
            Some(next) => (self.segments[index].bytes, next.first),
            None => (self.durable_bytes, self.durable),
        }
    }

    /// The record at an offset; `None` if it is damaged.
    fn read_record(&self, segment: &Segment, offset: u64) -> Result<Option<Record>, LogError> {
        let mut header = [0; RECORD_HEADER_BYTES];
        let io = io_error(&segment.name);
        let found = self.storage.read(&segment.name, offset, &mut header).map_err(&io)?;
        let Some(length) = record::payload_bytes(&header).ok().filter(|_| found == RECORD_HEADER_BYTES) else {
            return Ok(None);
        };
        let mut bytes = vec![0; RECORD_HEADER_BYTES + length];
        let found = self.storage.read(&segment.name, offset, &mut bytes).map_err(&io)?;
        Ok(record::decode(&bytes[..found]).ok())
    }

    fn newest(&self) -> &Segment {
        &self.segments[self.segments.len() - 1]
    }

    fn newest_mut(&mut self) -> &mut Segment {
        let newest = self.segments.len() - 1;
        &mut self.segments[newest]
    }

    fn with_newest<T>(&self, result: io::Result<T>) -> Result<T, LogError> {
        result.map_err(io_error(&self.newest().name))
    }
}

impl Cursor {
    /// The position the next record read will hold.
    #[must_use]
    pub fn position(&self) -> u64 {
        self.position
    }

    /// Moves on to `end`; returns what lies between, if anything.
    fn pass_to(&mut self, end: u64) -> Option<Range<u64>> {
        let lost = self.position..end.max(self.position);
        self.position = lost.end;
        (!lost.is_empty()).then_some(lost)
    }
}

fn io_error(segment: &str) -> impl Fn(io::Error) -> LogError {
    move |source| LogError::Io { segment: segment.to_owned(), source }
}

fn create_segment<S: Storage>(storage: &S, first: u64) -> Result<Segment, LogError> {
    let name = scan::segment_name(first);
    storage.create(&name, &record::segment_header(first)).map_err(io_error(&name))?;
    Ok(Segment { name, first, bytes: SEGMENT_HEADER_BYTES as u64, rest: 0, damages: Vec::new() })
}

/// What a walk through a storage finds.
struct Recovered {
    /// All but the newest.
    segments: VecDeque<Segment>,
    newest: Option<Newest>,
    report: OpenReport,
}

/// The newest segment, and what is to be taken over of it.
struct Newest {
    scanned: Scanned,
    /// Records of which no later one says that they were synced.
    tail: Vec<u8>,
}

fn recover<S: Storage>(storage: &S, segment_bytes: u64) -> Result<Recovered, LogError> {
    let names = storage.list().map_err(io_error("directory"))?;
    let mut found: Vec<(u64, String)> =
        names.into_iter().filter_map(|name| Some((scan::position_of(&name)?, name))).collect();
    found.sort();
    let mut buffer = vec![0; segment_bytes as usize + RECORD_HEADER_BYTES + MAX_RECORD_BYTES];
    let mut recovered = Recovered { segments: VecDeque::new(), newest: None, report: OpenReport::default() };
    let mut end: Option<u64> = None;
    for (index, (first, name)) in found.iter().enumerate() {
        let until = found.get(index + 1).map(|(after, _)| *after);
        if until.is_some_and(|until| end.is_some_and(|end| until <= end)) {
            // A crash came between replacing segments by one record and deleting all but the first of them.
            storage.remove(name).map_err(io_error(name))?;
            continue;
        }
        let expected = end.unwrap_or(*first);
        let place = scan::Place { first: *first, expected, until };
        let scanned = scan::scan(storage, name, place, &mut buffer).map_err(io_error(name))?;
        let report = &mut recovered.report;
        report.lose(expected..*first);
        let Some(scanned) = scanned.map_err(|source| LogError::Format { segment: name.clone(), source })? else {
            // Nothing was ever appended to it, unless it was damaged since.
            report.lose(*first..until.unwrap_or(*first));
            end = Some(until.unwrap_or(*first));
            if until.is_none() {
                let segment = Segment { name: name.clone(), first: *first, bytes: 0, rest: 0, damages: Vec::new() };
                let scanned = Scanned { segment, next: *first, unproven: (0, *first), is_cut_off: false };
                recovered.newest = Some(Newest { scanned, tail: Vec::new() });
            }
            continue;
        };
        scanned.segment.damages.iter().for_each(|damage| report.lose(damage.positions.clone()));
        match until {
            Some(until) => {
                report.lose(scanned.next..until);
                end = Some(until.max(scanned.next));
                recovered.segments.push_back(scanned.segment);
            }
            None => {
                let tail = buffer[scanned.unproven.0 as usize..scanned.segment.bytes as usize].to_vec();
                recovered.newest = Some(Newest { scanned, tail });
            }
        }
    }
    Ok(recovered)
}

/// Positions left out behind torn bytes, at least. A record of events takes more bytes than it covers positions; only one
/// that stands for positions left out takes fewer, and it may be what was torn or damaged.
const LEFT_OUT: u32 = 1 << 20;

/// Begins a new segment with what is sound at the end of the newest one. Where something torn or damaged follows, it goes
/// on behind every position that could have been there, unless it is a record that was being written when the program
/// was killed: the machine has run since, so what is missing was never written, and so never synced. Returns the
/// segment, and the position to go on with.
fn take_over<S: Storage>(
    storage: &S,
    newest: Newest,
    is_same_boot: bool,
    segments: &mut VecDeque<Segment>,
    report: &mut OpenReport,
) -> Result<(Segment, u64), LogError> {
    let Newest { scanned: Scanned { mut segment, mut next, unproven: (offset, first), is_cut_off }, tail } = newest;
    let rest = segment.rest;
    let is_whole = segment.bytes >= SEGMENT_HEADER_BYTES as u64;
    if is_whole && tail.is_empty() && rest == 0 {
        return Ok((segment, next));
    }
    let mut bytes = record::segment_header(first).to_vec();
    bytes.extend_from_slice(&tail);
    report.torn_bytes = rest;
    if rest > 0 && !(is_same_boot && is_cut_off) {
        let left_out = u32::try_from(rest).unwrap_or(u32::MAX).max(LEFT_OUT);
        record::encode(next, left_out, next, &[], &mut bytes);
        report.lose(next..next + u64::from(left_out));
        next += u64::from(left_out);
    }
    let name = scan::segment_name(first);
    if name == segment.name {
        storage.replace(&name, &bytes).map_err(io_error(&name))?;
    } else {
        storage.create(&name, &bytes).map_err(io_error(&name))?;
        // What was taken over is void here; the room it takes is given back, now or with the segment.
        let is_cut = storage.open_at(&segment.name, offset).is_ok();
        segment.rest = if is_cut { 0 } else { segment.bytes + rest - offset };
        segment.bytes = offset;
        segments.push_back(segment);
    }
    Ok((Segment { name, first, bytes: bytes.len() as u64, rest: 0, damages: Vec::new() }, next))
}

impl OpenReport {
    fn lose(&mut self, positions: Range<u64>) {
        match self.lost.last_mut() {
            _ if positions.is_empty() => {}
            Some(last) if last.end == positions.start => last.end = positions.end,
            Some(_) | None => self.lost.push(positions),
        }
    }
}

#[cfg(test)]
mod tests;
