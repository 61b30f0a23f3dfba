//! The ingest log: every entry, durable, before it is acknowledged. A segment log on a thread of its own.
//!
//! A record is `postcard (agent, batch)`; its position is the number of the batch since the hub was set up.

use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use shared::event::{EntryError, SpoolEntry};
use shared::heartbeat::Part;
use shared::ids::AgentId;
use shared::limits::SEGMENT_BYTES;
use shared::seglog::file::Directory;
use shared::seglog::{Found, LogError, SegmentLog, Storage};
use tokio::sync::{mpsc, oneshot};
use tracing::{error, warn};

use crate::clock::Stopwatch;

/// Requests that may wait; beyond, the hub's loop waits for the disk, and agents for the hub.
const REQUESTS: usize = 256;

/// An entry with who sent it.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    /// The agent.
    pub agent: AgentId,
    /// The entry.
    pub entry: SpoolEntry,
}

#[derive(Serialize, Deserialize)]
struct Stored<'a> {
    agent: AgentId,
    #[serde(borrow)]
    entry: &'a [u8],
}

/// What the log is asked to do.
#[derive(Debug)]
pub enum Request {
    /// Append; answered by a [`Report`].
    Append(Entry),
    /// Read what is at these positions.
    Read {
        /// The positions.
        range: Range<u64>,
        /// Where the entries go.
        reply: oneshot::Sender<Result<Vec<Placed>, IngestLogError>>,
    },
    /// Give back segments before this position.
    Release(u64),
    /// The failure was taken note of: what is appended from here on counts again.
    Resume,
}

/// An entry and its position. Positions whose entries the disk lost are left out.
pub type Placed = (u64, Entry);

/// What became of appends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Report {
    /// Everything before this position is durable.
    Durable(u64),
    /// An append failed. What was not reported durable is not in the log, and neither is anything appended until
    /// [`Request::Resume`].
    Failed,
}

/// Why the log cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum IngestLogError {
    /// The folder cannot be made or read.
    #[error("open ingest log {path}: {source}")]
    Directory {
        /// The folder.
        path: PathBuf,
        /// What the disk said.
        source: io::Error,
    },
    /// The log is damaged or the disk fails.
    #[error("use the ingest log: {0}")]
    Log(#[from] LogError),
    /// A record holds no entry.
    #[error("read the ingest log: {0}")]
    Entry(#[from] EntryError),
    /// A record is not of this log.
    #[error("read the ingest log: {0}")]
    Record(#[from] postcard::Error),
}

/// The open log.
pub struct IngestLog<S: Storage = Directory> {
    log: SegmentLog<S>,
    scratch: Vec<u8>,
    failed: bool,
}

impl IngestLog {
    /// Opens the log in `path`, or makes one.
    ///
    /// # Errors
    /// If the disk fails.
    pub fn open(path: &Path) -> Result<Self, IngestLogError> {
        let directory =
            Directory::open(path, 0).map_err(|source| IngestLogError::Directory { path: path.to_owned(), source })?;
        Self::over(directory, SEGMENT_BYTES)
    }

    /// Starts the log's thread. It ends when the sender is dropped.
    ///
    /// # Errors
    /// If no thread can be started.
    pub fn start(
        mut self,
        reports: mpsc::Sender<Report>,
        part: Part,
        clock: Stopwatch,
    ) -> io::Result<(mpsc::Sender<Request>, std::thread::JoinHandle<()>)> {
        let (sender, mut requests) = mpsc::channel(REQUESTS);
        let work = move || {
            while let Some(first) = requests.blocking_recv() {
                part.begins(clock.millis());
                let mut waiting = vec![first];
                while let Ok(next) = requests.try_recv() {
                    waiting.push(next);
                }
                let answers = self.perform(waiting);
                part.rests();
                for report in answers {
                    if reports.blocking_send(report).is_err() {
                        return;
                    }
                }
            }
        };
        let thread = std::thread::Builder::new().name("ingest-log".into()).spawn(work)?;
        Ok((sender, thread))
    }
}

impl<S: Storage> IngestLog<S> {
    /// Opens the log in a storage, or makes one with segments of `segment_bytes`.
    ///
    /// # Errors
    /// If the disk fails.
    pub fn over(storage: S, segment_bytes: u64) -> Result<Self, IngestLogError> {
        let (log, report) = SegmentLog::open(storage, 0, segment_bytes)?;
        for lost in &report.lost {
            warn!(from = lost.start, to = lost.end, "the ingest log was torn or damaged; what was there is lost");
        }
        Ok(Self { log, scratch: Vec::new(), failed: false })
    }

    /// The position after the last entry.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.log.next()
    }

    /// What is at these positions, in order.
    ///
    /// # Errors
    /// If the disk fails.
    pub fn read(&mut self, range: Range<u64>) -> Result<Vec<Placed>, IngestLogError> {
        let mut cursor = self.log.cursor(range.start);
        let mut entries = Vec::new();
        while cursor.position() < range.end {
            match self.log.read(&mut cursor)? {
                None => break,
                Some(Found::Lost(_)) => {}
                Some(Found::Record(record)) => match decode(&record.payload) {
                    Ok(entry) => entries.push((record.first, entry)),
                    Err(error) => error!(position = record.first, "failed to {error}; the entry is lost"),
                },
            }
        }
        Ok(entries)
    }

    /// Does what was asked for. Everything appended is synced together: the group commit.
    pub fn perform(&mut self, requests: Vec<Request>) -> Vec<Report> {
        let mut reports = Vec::new();
        let mut appended = false;
        for request in requests {
            match request {
                Request::Append(_) if self.failed => {}
                Request::Append(entry) => match self.append(&entry) {
                    Ok(()) => appended = true,
                    Err(error) => {
                        error!("failed to {error}");
                        self.failed = true;
                        reports.push(Report::Failed);
                    }
                },
                Request::Resume => self.failed = false,
                Request::Read { range, reply } => drop(reply.send(self.read(range))),
                Request::Release(before) => {
                    if let Err(error) = self.log.delete_before(before) {
                        warn!("failed to give back ingest log segments: {error}");
                    }
                }
            }
        }
        if appended {
            self.sync(&mut reports);
        }
        reports
    }

    fn append(&mut self, entry: &Entry) -> Result<(), IngestLogError> {
        let encoded = entry.entry.encode()?;
        let stored = Stored { agent: entry.agent.clone(), entry: &encoded };
        let mut scratch = std::mem::take(&mut self.scratch);
        scratch.clear();
        self.scratch = postcard::to_extend(&stored, scratch)?;
        self.log.append(1, &self.scratch)?;
        Ok(())
    }

    /// What a failing disk did not make durable is not in the log any more. What it did is said first: a part of what was
    /// appended may have been synced with a segment that was full.
    fn sync(&mut self, reports: &mut Vec<Report>) {
        if let Err(error) = self.log.sync() {
            error!("failed to make the ingest log durable: {error}");
            if !std::mem::replace(&mut self.failed, true) {
                reports.push(Report::Failed);
            }
        }
        reports.insert(0, Report::Durable(self.log.durable()));
    }
}

fn decode(payload: &[u8]) -> Result<Entry, IngestLogError> {
    let stored: Stored<'_> = postcard::from_bytes(payload)?;
    Ok(Entry { agent: stored.agent, entry: SpoolEntry::decode(stored.entry)? })
}
