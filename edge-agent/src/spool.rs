//! The spool's shell: the segment log on a thread of its own.
//!
//! Appends that arrive while the disk is busy are synced together: that is the group commit's second half.

mod gaps;

use std::io;
use std::path::Path;

use shared::event::{Gap, GapReason, SpoolEntry};
use shared::ids::{Epoch, Sequence};
use shared::limits::{RESERVE_BYTES, SEGMENT_BYTES};
use shared::seglog::file::Directory;
use shared::seglog::{Cursor, Found, LogError, SegmentLog, Storage};
use tokio::sync::mpsc;
use tracing::{error, warn};

use crate::clock::Working;
use crate::core::{Event, SpooledEntry};

/// Requests that may wait: the core has at most a few commits and one read under way.
const REQUESTS: usize = 64;

/// What the spool is asked to do.
#[derive(Debug)]
pub enum Request {
    /// Append; answered by `Durable` or `AppendFailed`.
    Append(SpoolEntry),
    /// Read; answered by `SpoolRead`.
    Read {
        /// From the entry that holds this sequence on.
        from: Sequence,
        /// At most so many.
        entries: usize,
    },
    /// Give back segments before this sequence; answered by `Durable`.
    Release(Sequence),
    /// Put a gap record in the place of the oldest events, unless room was made meanwhile; answered by `DroppedOldest`.
    DropOldest {
        /// The hub has everything before.
        acked: Sequence,
        /// From so many bytes on the spool is full.
        full_bytes: u64,
    },
    /// Read everything as of this epoch from now on.
    UseEpoch(Epoch),
    /// Note in the gap record at the front what the hub has of it; answered by `GapSettled`.
    SettleGap {
        /// The hub has everything before.
        through: Sequence,
    },
}

/// Why a spool cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SpoolError {
    /// The folder cannot be made or read.
    #[error("open spool {path}: {source}")]
    Directory {
        /// The folder.
        path: String,
        /// What the disk said.
        source: io::Error,
    },
    /// The disk fails, or the log is of a newer release.
    #[error("use spool {path}: {source}")]
    Log {
        /// The folder.
        path: String,
        /// What is wrong.
        source: LogError,
    },
}

/// An open spool.
pub struct Spool<S: Storage = Directory> {
    log: SegmentLog<S>,
    /// The epoch that everything in it is read as of. Entries from before it was raised lie there with an older one.
    epoch: Epoch,
    cursor: Option<Cursor>,
}

/// A spool that was just opened, whose epoch is not settled.
pub struct Opened<S: Storage = Directory> {
    log: SegmentLog<S>,
    /// Whether there was none, and it was made.
    pub created: bool,
    /// The newest epoch in it, if anything is.
    pub epoch: Option<Epoch>,
}

impl Opened {
    /// Opens the spool in `path`, or makes one.
    ///
    /// # Errors
    /// If the disk fails.
    pub fn open(path: &Path) -> Result<Self, SpoolError> {
        let name = path.display().to_string();
        let directory = Directory::open(path, RESERVE_BYTES)
            .map_err(|source| SpoolError::Directory { path: name.clone(), source })?;
        Self::over(directory, SEGMENT_BYTES).map_err(|source| SpoolError::Log { path: name, source })
    }
}

impl<S: Storage> Opened<S> {
    /// Opens the spool in a storage, or makes one with segments of `segment_bytes`.
    ///
    /// # Errors
    /// If the disk fails.
    pub fn over(storage: S, segment_bytes: u64) -> Result<Self, LogError> {
        let (mut log, report) = SegmentLog::open(storage, 0, segment_bytes)?;
        for lost in &report.lost {
            warn!(
                from = lost.start,
                to = lost.end,
                "the spool was torn or damaged; a gap record stands for what was there"
            );
        }
        let epoch = newest_epoch(&mut log)?;
        Ok(Self { log, created: report.created, epoch })
    }

    /// The spool, all of which has this epoch.
    pub fn settle(self, epoch: Epoch) -> Spool<S> {
        Spool { log: self.log, epoch, cursor: None }
    }
}

/// Epochs only grow from front to end, so the last entry that can be read has the newest; where the end is damaged, the
/// first one's counts.
fn newest_epoch<S: Storage>(log: &mut SegmentLog<S>) -> Result<Option<Epoch>, LogError> {
    let last = log.cursor(log.next().saturating_sub(1));
    Ok(epoch_from(log, last)?.max(epoch_from(log, log.cursor(0))?))
}

fn epoch_from<S: Storage>(log: &mut SegmentLog<S>, mut cursor: Cursor) -> Result<Option<Epoch>, LogError> {
    while let Some(found) = log.read(&mut cursor)? {
        if let Found::Record(record) = found
            && let Ok(entry) = SpoolEntry::decode(&record.payload)
        {
            return Ok(Some(entry.epoch()));
        }
    }
    Ok(None)
}

impl<S: Storage> Spool<S> {
    /// The epoch of everything in it.
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// The sequence after the last event.
    #[must_use]
    pub fn next(&self) -> Sequence {
        Sequence(self.log.next())
    }

    /// The oldest sequence held.
    #[must_use]
    pub fn oldest(&self) -> Sequence {
        Sequence(self.log.first())
    }

    /// Bytes on the disk.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.log.bytes()
    }

    /// Hands every entry from the one that holds `from` on to `visit`.
    ///
    /// # Errors
    /// If the disk fails.
    pub fn scan(&mut self, from: Sequence, mut visit: impl FnMut(&SpoolEntry)) -> Result<(), LogError> {
        let mut cursor = self.log.cursor(from.0);
        while let Some(spooled) = self.read(&mut cursor)? {
            visit(&spooled.entry);
        }
        Ok(())
    }

    /// Does what was asked for; everything appended is synced together, last.
    pub fn perform(&mut self, requests: Vec<Request>) -> Vec<Event> {
        let mut answers = Vec::new();
        let mut appended = Vec::new();
        for request in requests {
            match request {
                Request::Append(entry) => match self.append(&entry) {
                    Ok(()) => appended.push(entry),
                    Err(error) => {
                        error!("failed to append to the spool: {error}; trying again");
                        answers.push(Event::AppendFailed(entry));
                    }
                },
                Request::Read { from, entries } => answers.push(self.read_entries(from, entries)),
                Request::Release(before) => {
                    if let Err(error) = self.log.delete_before(before.0) {
                        warn!("failed to give back spool segments: {error}; trying again with the next ones");
                    }
                    // A spool at its limit takes nothing in until it hears that there is room again.
                    answers.push(self.state());
                }
                Request::DropOldest { acked, full_bytes } => answers.push(self.drop_oldest(acked, full_bytes)),
                Request::UseEpoch(epoch) => {
                    warn!(%epoch, before = %self.epoch, "what is in the spool goes on as an epoch of its own");
                    self.epoch = epoch;
                }
                Request::SettleGap { through } => answers.extend(self.settle_gap(through)),
            }
        }
        if !appended.is_empty() {
            self.sync(appended, &mut answers);
        }
        answers
    }

    fn append(&mut self, entry: &SpoolEntry) -> Result<(), String> {
        // After a failed append those behind it must not slip into its place.
        if entry.first().0 != self.log.next() {
            return Err(format!("entry {} does not follow {}", entry.first(), self.log.next()));
        }
        let encoded = entry.encode().map_err(|error| error.to_string())?;
        self.log.append(entry.count(), &encoded).map_err(|error| error.to_string())?;
        Ok(())
    }

    /// What a failing disk did not make durable is not in the log any more, and is to be appended again.
    fn sync(&mut self, appended: Vec<SpoolEntry>, answers: &mut Vec<Event>) {
        if let Err(error) = self.log.sync() {
            error!("failed to make the spool durable: {error}; acknowledgements wait");
        }
        let durable = Sequence(self.log.durable());
        let lost = appended.into_iter().filter(|entry| entry.end() > durable);
        answers.extend(lost.map(Event::AppendFailed));
        answers.push(self.state());
    }

    fn state(&self) -> Event {
        Event::Durable { end: Sequence(self.log.durable()), spool_bytes: self.log.bytes() }
    }

    fn read_entries(&mut self, from: Sequence, entries: usize) -> Event {
        let mut cursor = match self.cursor.take() {
            Some(cursor) if cursor.position() == from.0 => cursor,
            Some(_) | None => self.log.cursor(from.0),
        };
        let mut read = Vec::with_capacity(entries);
        while read.len() < entries {
            match self.read(&mut cursor) {
                Ok(Some(spooled)) => read.push(spooled),
                Ok(None) => break,
                Err(error) => {
                    error!("failed to read from the spool: {error}");
                    break;
                }
            }
        }
        self.cursor = Some(cursor);
        Event::SpoolRead { oldest: self.oldest(), entries: read }
    }

    /// The next entry. In the place of what is damaged there is a gap.
    fn read(&mut self, cursor: &mut Cursor) -> Result<Option<SpooledEntry>, LogError> {
        Ok(match self.log.read(cursor)? {
            None => None,
            Some(Found::Record(record)) => {
                let (first, count) = (record.first, record.count);
                match SpoolEntry::decode(&record.payload) {
                    Ok(entry) if entry.epoch() == self.epoch => Some(SpooledEntry { encoded: record.payload, entry }),
                    Ok(entry) => Some(self.as_of_now(entry)),
                    Err(error) => {
                        error!(first, count, "failed to understand what is in the spool: {error}");
                        Some(self.damaged(first, u64::from(count)))
                    }
                }
            }
            Some(Found::Lost(range)) => Some(self.damaged(range.start, range.end - range.start)),
        })
    }

    /// An entry from before the epoch was raised.
    fn as_of_now(&self, mut entry: SpoolEntry) -> SpooledEntry {
        entry.set_epoch(self.epoch);
        match entry.encode() {
            Ok(encoded) => SpooledEntry { encoded, entry },
            Err(error) => {
                error!("failed to encode what is in the spool again: {error}");
                self.damaged(entry.first().0, u64::from(entry.count()))
            }
        }
    }

    fn damaged(&self, first: u64, count: u64) -> SpooledEntry {
        let count = u32::try_from(count).unwrap_or(u32::MAX);
        let entry = SpoolEntry::Gap(Gap::unknown(self.epoch, Sequence(first), count, GapReason::Damaged));
        // A gap of one part without readings is far below the limit.
        SpooledEntry { encoded: entry.encode().unwrap_or_default(), entry }
    }
}

impl Spool {
    /// Starts the spool's thread. It ends when the sender is dropped and what it was asked for is done.
    ///
    /// # Errors
    /// If no thread can be started.
    pub fn start(
        mut self,
        events: mpsc::Sender<Event>,
        working: Working,
    ) -> io::Result<(mpsc::Sender<Request>, std::thread::JoinHandle<()>)> {
        let (sender, mut requests) = mpsc::channel(REQUESTS);
        let work = move || {
            while let Some(first) = requests.blocking_recv() {
                working.begins();
                let mut waiting = vec![first];
                while let Ok(next) = requests.try_recv() {
                    waiting.push(next);
                }
                let answers = self.perform(waiting);
                working.rests();
                for answer in answers {
                    if events.blocking_send(answer).is_err() {
                        return;
                    }
                }
            }
        };
        let thread = std::thread::Builder::new().name("spool".into()).spawn(work)?;
        Ok((sender, thread))
    }
}
