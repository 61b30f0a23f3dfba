//! The spool's shell: the segment log on a thread of its own.
//!
//! Appends that arrive while the disk is busy are synced together: that is the group commit's second half.

use std::io;
use std::path::Path;

use shared::event::{BatchError, EventBatch};
use shared::ids::{Epoch, Sequence};
use shared::seglog::file::Directory;
use shared::seglog::{Cursor, LogError, SegmentLog};
use tokio::sync::mpsc;
use tracing::{error, warn};

use crate::core::{Event, SpooledBatch};

/// Requests that may wait: the core has at most a few commits and one read under way.
const REQUESTS: usize = 64;

/// What the spool is asked to do.
#[derive(Debug)]
pub enum Request {
    /// Append; answered by `Durable` or `AppendFailed`.
    Append(EventBatch),
    /// Read; answered by `SpoolRead`.
    Read {
        /// From the batch that holds this sequence on.
        from: Sequence,
        /// At most so many.
        batches: usize,
    },
    /// Give back segments before this sequence.
    Release(Sequence),
}

/// An open spool.
pub struct Spool {
    log: SegmentLog<Directory>,
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
    /// The log is damaged or the disk fails.
    #[error("use spool {path}: {source}")]
    Log {
        /// The folder.
        path: String,
        /// What is wrong.
        source: LogError,
    },
    /// A record is no batch.
    #[error("read spool {path}: {source}")]
    Batch {
        /// The folder.
        path: String,
        /// What is wrong.
        source: BatchError,
    },
}

impl Spool {
    /// Opens the spool in `path`, or makes one. The second value tells whether it was made.
    ///
    /// # Errors
    /// If the disk fails or the log is damaged anywhere but at its torn end.
    pub fn open(path: &Path) -> Result<(Self, bool), SpoolError> {
        let name = path.display().to_string();
        let directory = Directory::open(path).map_err(|source| SpoolError::Directory { path: name.clone(), source })?;
        let (log, report) =
            SegmentLog::open(directory, 0).map_err(|source| SpoolError::Log { path: name.clone(), source })?;
        if report.torn_bytes > 0 {
            warn!(bytes = report.torn_bytes, "cut a torn write off the spool; it was never acknowledged");
        }
        Ok((Self { log }, report.created))
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

    /// The epoch of the events in the spool, unless there are none.
    ///
    /// # Errors
    /// If the first record cannot be read.
    pub fn epoch(&self) -> Result<Option<Epoch>, SpoolError> {
        let mut cursor = self.log.cursor(0);
        Ok(self.read(&mut cursor)?.map(|spooled| spooled.batch.epoch))
    }

    /// Hands every batch from the one that holds `from` on to `visit`.
    ///
    /// # Errors
    /// If a record cannot be read.
    pub fn scan(&self, from: Sequence, mut visit: impl FnMut(&EventBatch)) -> Result<(), SpoolError> {
        let mut cursor = self.log.cursor(from.0);
        while let Some(spooled) = self.read(&mut cursor)? {
            visit(&spooled.batch);
        }
        Ok(())
    }

    fn read(&self, cursor: &mut Cursor) -> Result<Option<SpooledBatch>, SpoolError> {
        let path = || "spool".to_owned();
        let record = self.log.read(cursor).map_err(|source| SpoolError::Log { path: path(), source })?;
        record
            .map(|record| {
                let batch =
                    EventBatch::decode(&record.payload).map_err(|source| SpoolError::Batch { path: path(), source })?;
                Ok(SpooledBatch { encoded: record.payload, batch })
            })
            .transpose()
    }

    /// Starts the spool's thread. It ends when the sender is dropped and what it was asked for is done; `Ok` then.
    ///
    /// # Errors
    /// If no thread can be started.
    pub fn start(
        self,
        events: mpsc::Sender<Event>,
    ) -> io::Result<(mpsc::Sender<Request>, std::thread::JoinHandle<()>)> {
        let (sender, requests) = mpsc::channel(REQUESTS);
        let thread = std::thread::Builder::new()
            .name("spool".into())
            .spawn(move || Worker::new(self.log).run(requests, &events))?;
        Ok((sender, thread))
    }
}

struct Worker {
    spool: Spool,
    cursor: Option<Cursor>,
}

impl Worker {
    fn new(log: SegmentLog<Directory>) -> Self {
        Self { spool: Spool { log }, cursor: None }
    }

    fn run(mut self, mut requests: mpsc::Receiver<Request>, events: &mpsc::Sender<Event>) {
        while let Some(first) = requests.blocking_recv() {
            let mut answers = Vec::new();
            let mut appended = Vec::new();
            let mut next = Some(first);
            while let Some(request) = next {
                match request {
                    Request::Append(batch) => match self.append(&batch) {
                        Ok(()) => appended.push(batch),
                        Err(error) => {
                            error!("failed to append to the spool: {error}; trying again");
                            answers.push(Event::AppendFailed(batch));
                        }
                    },
                    Request::Read { from, batches } => answers.push(self.read_batches(from, batches)),
                    Request::Release(before) => {
                        if let Err(error) = self.spool.log.delete_before(before.0) {
                            warn!("failed to give back spool segments: {error}; trying again with the next ones");
                        }
                        // A spool at its limit takes nothing in until it hears that there is room again.
                        answers.push(self.state());
                    }
                }
                next = requests.try_recv().ok();
            }
            if !appended.is_empty() {
                answers.push(self.sync());
            }
            for answer in answers {
                if events.blocking_send(answer).is_err() {
                    return;
                }
            }
        }
    }

    fn append(&mut self, batch: &EventBatch) -> Result<(), String> {
        // After a failed append those behind it must not slip into its place.
        if batch.first.0 != self.spool.log.next() {
            return Err(format!("batch {} does not follow {}", batch.first, self.spool.log.next()));
        }
        let encoded = batch.encode().map_err(|error| error.to_string())?;
        self.spool.log.append(batch.events.len() as u32, &encoded).map_err(|error| error.to_string())?;
        Ok(())
    }

    fn sync(&mut self) -> Event {
        if let Err(error) = self.spool.log.sync() {
            // What the log has is not durable, and nothing may be acknowledged; the next sync may succeed.
            error!("failed to make the spool durable: {error}; acknowledgements wait");
        }
        self.state()
    }

    fn state(&self) -> Event {
        Event::Durable { end: Sequence(self.spool.log.durable()), spool_bytes: self.spool.log.bytes() }
    }

    fn read_batches(&mut self, from: Sequence, batches: usize) -> Event {
        let mut cursor = match self.cursor.take() {
            Some(cursor) if cursor.position() == from.0 => cursor,
            Some(_) | None => self.spool.log.cursor(from.0),
        };
        let mut read = Vec::with_capacity(batches);
        while read.len() < batches {
            match self.spool.read(&mut cursor) {
                Ok(Some(spooled)) => read.push(spooled),
                Ok(None) => break,
                Err(error) => {
                    error!("failed to read from the spool: {error}");
                    break;
                }
            }
        }
        self.cursor = Some(cursor);
        Event::SpoolRead(read)
    }
}
