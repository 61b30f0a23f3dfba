//! The ingest log: every batch, durable, before it is acknowledged. A segment log on a thread of its own.
//!
//! A record is `postcard (agent, batch)`; its position is the number of the batch since the hub was set up.

use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use shared::event::{BatchError, EventBatch};
use shared::ids::AgentId;
use shared::seglog::file::Directory;
use shared::seglog::{LogError, SegmentLog};
use tokio::sync::{mpsc, oneshot};
use tracing::{error, warn};

/// Requests that may wait; beyond, the hub's loop waits for the disk, and agents for the hub.
const REQUESTS: usize = 256;

/// A batch with who sent it.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    /// The agent.
    pub agent: AgentId,
    /// The batch.
    pub batch: EventBatch,
}

#[derive(Serialize, Deserialize)]
struct Stored<'a> {
    agent: AgentId,
    #[serde(borrow)]
    batch: &'a [u8],
}

/// What the log is asked to do.
#[derive(Debug)]
pub enum Request {
    /// Append; answered by a [`Report`].
    Append(Entry),
    /// Read the batches at these positions.
    Read {
        /// The positions.
        range: Range<u64>,
        /// Where the batches go.
        reply: oneshot::Sender<Result<Vec<Entry>, IngestLogError>>,
    },
    /// Give back segments before this position.
    Release(u64),
    /// The failure was taken note of: what is appended from here on counts again.
    Resume,
}

/// What became of appends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Report {
    /// Everything before this position is durable.
    Durable(u64),
    /// An append failed. What was not reported durable is not in the log, and neither is anything appended until
    /// [`Request::Resume`].
    Failed,
    /// What is in the log is not known any more: only opening it anew tells.
    Broken,
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
    /// A record is no batch.
    #[error("read the ingest log: {0}")]
    Batch(#[from] BatchError),
    /// A record is no entry.
    #[error("read the ingest log: {0}")]
    Entry(#[from] postcard::Error),
}

/// The open log.
pub struct IngestLog {
    log: SegmentLog<Directory>,
    scratch: Vec<u8>,
    failed: bool,
}

impl IngestLog {
    /// Opens the log in `path`, or makes one.
    ///
    /// # Errors
    /// If the disk fails or the log is damaged anywhere but at its torn end.
    pub fn open(path: &Path) -> Result<Self, IngestLogError> {
        let directory =
            Directory::open(path).map_err(|source| IngestLogError::Directory { path: path.to_owned(), source })?;
        let (log, report) = SegmentLog::open(directory, 0)?;
        if report.torn_bytes > 0 {
            warn!(bytes = report.torn_bytes, "cut a torn write off the ingest log; it was never acknowledged");
        }
        Ok(Self { log, scratch: Vec::new(), failed: false })
    }

    /// The position after the last batch.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.log.next()
    }

    /// The batches at these positions, in order.
    ///
    /// # Errors
    /// If a record cannot be read.
    pub fn read(&self, range: Range<u64>) -> Result<Vec<Entry>, IngestLogError> {
        let mut cursor = self.log.cursor(range.start);
        let mut entries = Vec::new();
        while entries.len() < (range.end - range.start) as usize {
            let Some(record) = self.log.read(&mut cursor)? else {
                break;
            };
            let stored: Stored<'_> = postcard::from_bytes(&record.payload)?;
            entries.push(Entry { agent: stored.agent, batch: EventBatch::decode(stored.batch)? });
        }
        Ok(entries)
    }

    /// Starts the log's thread. It ends when the sender is dropped.
    ///
    /// # Errors
    /// If no thread can be started.
    pub fn start(
        self,
        reports: mpsc::Sender<Report>,
    ) -> io::Result<(mpsc::Sender<Request>, std::thread::JoinHandle<()>)> {
        let (sender, requests) = mpsc::channel(REQUESTS);
        let thread =
            std::thread::Builder::new().name("ingest-log".into()).spawn(move || self.run(requests, &reports))?;
        Ok((sender, thread))
    }

    /// Everything that waits is appended before one sync: the group commit.
    fn run(mut self, mut requests: mpsc::Receiver<Request>, reports: &mpsc::Sender<Report>) {
        while let Some(first) = requests.blocking_recv() {
            let mut answers = Vec::new();
            let mut appended = false;
            let mut next = Some(first);
            while let Some(request) = next {
                match request {
                    Request::Append(_) if self.failed => {}
                    Request::Append(entry) => match self.append(&entry) {
                        Ok(()) => appended = true,
                        Err(error) => {
                            error!("failed to {error}");
                            self.failed = true;
                            answers.push(Report::Failed);
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
                next = requests.try_recv().ok();
            }
            if appended {
                answers.insert(0, self.sync());
            }
            for answer in answers {
                if reports.blocking_send(answer).is_err() {
                    return;
                }
            }
        }
    }

    fn append(&mut self, entry: &Entry) -> Result<(), IngestLogError> {
        let encoded = entry.batch.encode()?;
        let stored = Stored { agent: entry.agent.clone(), batch: &encoded };
        let mut scratch = std::mem::take(&mut self.scratch);
        scratch.clear();
        self.scratch = postcard::to_extend(&stored, scratch)?;
        self.log.append(1, &self.scratch)?;
        Ok(())
    }

    fn sync(&mut self) -> Report {
        match self.log.sync() {
            Ok(end) => Report::Durable(end),
            Err(error) => {
                error!("failed to make the ingest log durable: {error}");
                Report::Broken
            }
        }
    }
}
