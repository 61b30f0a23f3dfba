//! What must hold after every event, whatever happened: an account kept beside the core.

use std::collections::BTreeMap;

use shared::event::{Event as StoredEvent, EventBatch};
use shared::ids::{Sequence, StreamId};

use super::disk::Disk;
use crate::core::limits::{COMMITS_IN_FLIGHT, INFER_BATCH, INFER_QUEUE};
use crate::core::{EdgeCore, Event, Millis, Receipt};

/// The most commits that may pile up while the disk stands still: messages stop, answers that are on their way do not.
const COMMITS_AT_MOST: usize = COMMITS_IN_FLIGHT + INFER_QUEUE / INFER_BATCH + 4;

#[derive(Default)]
pub(super) struct Truth {
    /// Events handed to the core.
    pub(super) handled: usize,
    /// The stream of each event that was handed to the disk; predictions have none.
    appended: Vec<Option<StreamId>>,
    /// Ends of the commits of which the core has not heard that they are durable.
    commits: Vec<Sequence>,
    /// What the core heard that the disk would not take.
    failed: BTreeMap<Sequence, EventBatch>,
    receipt: Option<Receipt>,
    /// Everything before it is counted in `delivered`.
    acked: usize,
    accepted: BTreeMap<StreamId, u64>,
    delivered: BTreeMap<StreamId, u64>,
    reading: bool,
}

impl Truth {
    pub(super) fn before(&mut self, event: &Event) {
        self.handled += 1;
        match event {
            Event::Durable { end, .. } => self.commits.retain(|commit| commit > end),
            Event::AppendFailed(batch) => {
                self.failed.insert(batch.first, batch.clone());
            }
            Event::SpoolRead(_) => self.reading = false,
            Event::Received(_)
            | Event::Answered { .. }
            | Event::Checkpointed { .. }
            | Event::LinkUp
            | Event::LinkDown
            | Event::FromHub(_)
            | Event::ModelLoaded(_)
            | Event::ModelRefused { .. }
            | Event::Tick => {}
        }
    }

    /// A batch follows the one before it, or is one that failed, unchanged.
    pub(super) fn appended(&mut self, batch: &EventBatch) {
        if let Some(failed) = self.failed.remove(&batch.first) {
            assert_eq!(failed, *batch, "what is tried again is what failed");
            return;
        }
        assert_eq!(batch.first.0, self.appended.len() as u64, "sequences have no gaps");
        for event in &batch.events {
            self.appended.push(match event {
                StoredEvent::Prediction(_) => None,
                StoredEvent::Reading(reading) => {
                    let stream = &batch.streams[usize::from(reading.stream)].stream;
                    *self.accepted.entry(stream.clone()).or_default() += 1;
                    Some(stream.clone())
                }
            });
        }
        self.commits.push(batch.end());
    }

    pub(super) fn acknowledged(&mut self, receipt: Receipt) {
        assert!(self.receipt < Some(receipt), "{receipt:?} is acknowledged after {:?}", self.receipt);
        self.receipt = Some(receipt);
    }

    pub(super) fn reads(&mut self) {
        assert!(!self.reading, "one read at a time");
        self.reading = true;
    }

    /// What was not durable never was.
    pub(super) fn crashed(&mut self, disk: &Disk) {
        for lost in self.appended.drain(disk.end.0 as usize..).flatten() {
            *self.accepted.entry(lost).or_default() -= 1;
        }
        let Self { handled, appended, accepted, .. } = std::mem::take(self);
        *self = Self { handled, appended, accepted, ..Self::default() };
    }

    pub(super) fn check(&mut self, core: &EdgeCore, now: Millis) {
        self.check_ledger(core);
        assert!(core.poll_timeout().is_none_or(|at| at > now), "nothing is due that was not done");
        assert!(self.commits.len() < COMMITS_IN_FLIGHT || !core.wants_messages());
        assert!(self.failed.is_empty() || !core.wants_messages());
        assert!(self.commits.len() <= COMMITS_AT_MOST);
    }

    /// `accepted = delivered + pending`, per stream, with what was delivered before the ack and pending behind it.
    fn check_ledger(&mut self, core: &EdgeCore) {
        let acked = core.sync.acked_through().0 as usize;
        for stream in self.appended[self.acked..acked].iter().flatten() {
            *self.delivered.entry(stream.clone()).or_default() += 1;
        }
        self.acked = acked;
        let open = core.spool.next().0 - self.appended.len() as u64;
        let mut unspooled = 0;
        for entry in core.status().ledger {
            let spooled = self.accepted.get(&entry.stream).copied().unwrap_or_default();
            let delivered = self.delivered.get(&entry.stream).copied().unwrap_or_default();
            assert_eq!(entry.delivered, delivered, "{} at {acked}", entry.stream);
            assert!(entry.accepted >= spooled, "{}: {} of {spooled}", entry.stream, entry.accepted);
            unspooled += entry.accepted - spooled;
        }
        assert!(unspooled <= open, "{unspooled} readings are counted and {open} events wait");
        assert!(!core.is_flushed() || open == 0);
    }
}
