//! From accepted readings to durable events: sequences, group commits, acknowledgements in receive order.

use std::collections::{BTreeMap, VecDeque};

use serde::{Deserialize, Serialize};
use shared::event::{
    Event as StoredEvent, EventBatch, GapReason, ModelRef, Prediction, Reading, Shed, SpoolEntry, StreamSchema,
};
use shared::ids::{Epoch, Sequence, StreamId};
use shared::limits::{COMMIT_MAX_BYTES, COMMIT_MAX_EVENTS};

use super::limits::{APPEND_RETRY_MS, COMMITS_IN_FLIGHT, KEEP_ONE_OF, SHED_PERCENT, SPOOL_MARGIN_BYTES, WINDOW_SHARES};
use super::recent::{RecentEntries, RecentIds};
use super::{Effect, Millis, NewReading, Receipt, Settings, Start};

/// What happens when the spool is full.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum WhenFull {
    /// Nothing more is taken in: messages stay with the broker, unacknowledged.
    Block,
    /// The oldest events make room, and a gap record says so.
    DropOldest,
}

impl WhenFull {
    /// Every rule.
    pub const ALL: [Self; 2] = [Self::Block, Self::DropOldest];

    /// Its name in a configuration.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Block => "block",
            Self::DropOldest => "drop-oldest",
        }
    }
}

/// What an input lets go where the spool runs full, so that it is not full for others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Shedding {
    /// Nothing that comes in is kept from [`SHED_PERCENT`] on.
    DropNewest,
    /// One reading of several is kept, of the more the fuller it is ([`KEEP_ONE_OF`]).
    Downsample,
}

impl Shedding {
    /// Every rule.
    pub const ALL: [Self; 2] = [Self::DropNewest, Self::Downsample];

    /// Its name in a configuration.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::DropNewest => "drop-newest",
            Self::Downsample => "downsample",
        }
    }

    /// What readings are counted under that it lets go.
    #[must_use]
    pub const fn reason(self) -> GapReason {
        match self {
            Self::DropNewest => GapReason::DropNewest,
            Self::Downsample => GapReason::Downsample,
        }
    }

    /// One reading of so many is kept where the spool is full to `percent`; none for 0.
    fn keeps_one_of(self, percent: u64) -> u64 {
        match self {
            Self::DropNewest => u64::from(percent < SHED_PERCENT),
            Self::Downsample => {
                KEEP_ONE_OF.iter().rev().find(|(from, _)| percent >= *from).map_or(1, |(_, one_of)| *one_of)
            }
        }
    }
}

/// Roughly what a reading takes that is let go: its name.
const SHED_BYTES: usize = 12;

/// The spool as the core sees it.
#[derive(Debug)]
pub struct SpoolState {
    epoch: Epoch,
    /// The sequence the next event gets.
    next: Sequence,
    open: OpenCommit,
    /// Commits handed to the disk, oldest first.
    in_flight: VecDeque<Commit>,
    /// Entries the disk would not take, in order, and when to try them again.
    failed: BTreeMap<Sequence, SpoolEntry>,
    retry_at: Option<Millis>,
    recent: RecentIds,
    entries: RecentEntries,
    bytes: u64,
    max_bytes: u64,
    when_full: WhenFull,
    /// Readings of streams of which one of several is kept.
    downsampled: BTreeMap<StreamId, u64>,
    /// The oldest events are being dropped.
    dropping: bool,
    /// Nothing could be dropped; not tried before this time again.
    drop_at: Option<Millis>,
    commit_delay_ms: u64,
    /// Readings that end a commit.
    commit_readings: usize,
}

/// The group commit that is being filled.
#[derive(Debug, Default)]
struct OpenCommit {
    streams: Vec<StreamSchema>,
    models: Vec<ModelRef>,
    events: Vec<StoredEvent>,
    readings: usize,
    bytes: usize,
    receipt: Option<Receipt>,
    deadline: Option<Millis>,
}

/// A commit on its way to the disk, and the newest message that waits for it.
#[derive(Debug)]
struct Commit {
    end: Sequence,
    receipt: Option<Receipt>,
}

impl SpoolState {
    pub(super) fn new(settings: &Settings, start: &Start) -> Self {
        let mut recent = RecentIds::default();
        start.recent_ids.iter().for_each(|id| recent.insert(*id, false));
        let mut entries = RecentEntries::default();
        start.recent_entries.iter().for_each(|(first, events)| entries.push(*first, *events));
        Self {
            epoch: start.epoch,
            next: start.next,
            open: OpenCommit::default(),
            in_flight: VecDeque::new(),
            failed: BTreeMap::new(),
            retry_at: None,
            recent,
            entries,
            bytes: start.spool_bytes,
            max_bytes: settings.spool_max_bytes,
            when_full: settings.when_full,
            downsampled: BTreeMap::new(),
            dropping: false,
            drop_at: None,
            commit_delay_ms: settings.commit_delay_ms,
            commit_readings: (settings.receive_maximum / WINDOW_SHARES).max(1),
        }
    }

    pub(super) fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// Everything is of this epoch from now on. What is on its way to the disk is read as of it.
    pub(super) fn use_epoch(&mut self, epoch: Epoch) {
        self.epoch = epoch;
    }

    pub(super) fn next(&self) -> Sequence {
        self.next
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// What it may take.
    pub(super) fn max_bytes(&self) -> u64 {
        self.max_bytes
    }

    pub(super) fn is_flushed(&self) -> bool {
        self.open.events.is_empty() && self.in_flight.is_empty()
    }

    /// It may take so many bytes from now on.
    pub(super) fn limit(&mut self, max_bytes: u64) {
        self.max_bytes = max_bytes;
    }

    /// Where the newest `count` events begin.
    pub(super) fn start_of_newest(&self, count: u64) -> Sequence {
        self.entries.start_of_newest(count)
    }

    /// Whether the spool has reached its limit.
    pub(super) fn is_full(&self) -> bool {
        self.bytes >= self.full_bytes()
    }

    /// Whether it is so full that inputs may let go what comes in.
    pub(super) fn is_tight(&self) -> bool {
        self.percent_full() >= KEEP_ONE_OF[0].0
    }

    fn percent_full(&self) -> u64 {
        100 * self.bytes / self.full_bytes().max(1)
    }

    /// From so many bytes on the spool is full. What is on its way to it still finds room.
    pub(super) fn full_bytes(&self) -> u64 {
        self.max_bytes - SPOOL_MARGIN_BYTES.min(self.max_bytes / 4)
    }

    /// Whether a message may be taken in: the disk keeps up and the spool is below its limit.
    pub(super) fn has_room(&self) -> bool {
        !self.is_full() && self.failed.is_empty() && self.in_flight.len() < COMMITS_IN_FLIGHT
    }

    /// Whether the reading was accepted before. Names given by the producer are exact; a name made from the content
    /// only counts where the broker may have delivered the message before, because a machine may well say the same
    /// thing twice.
    pub(super) fn is_duplicate(&self, reading: &NewReading) -> bool {
        (reading.named_by_producer || reading.may_be_redelivered) && self.recent.contains(reading.id)
    }

    /// Takes a message that leaves nothing behind: it is acknowledged when those before it are.
    pub(super) fn pass(&mut self, receipt: Option<Receipt>, effects: &mut Vec<Effect>) {
        let Some(receipt) = receipt else { return };
        if !self.open.events.is_empty() {
            self.open.receipt = Some(receipt);
        } else if let Some(newest) = self.in_flight.back_mut() {
            newest.receipt = Some(receipt);
        } else {
            effects.push(Effect::Acknowledge(receipt));
        }
    }

    /// Why a reading that comes in is let go, if it is.
    pub(super) fn sheds(&mut self, reading: &NewReading) -> Option<GapReason> {
        let shedding = reading.shedding?;
        let one_of = match shedding.keeps_one_of(self.percent_full()) {
            1 => return None,
            0 => return Some(shedding.reason()),
            one_of => one_of,
        };
        let stream = &reading.schema.stream;
        let seen = match self.downsampled.get_mut(stream) {
            Some(seen) => seen,
            None => self.downsampled.entry(stream.clone()).or_default(),
        };
        let is_kept = seen.is_multiple_of(one_of);
        *seen += 1;
        (!is_kept).then(|| shedding.reason())
    }

    /// Counts a reading that is let go; gives the place where that stands.
    pub(super) fn shed(
        &mut self,
        now: Millis,
        receipt: Option<Receipt>,
        reading: &NewReading,
        reason: GapReason,
        effects: &mut Vec<Effect>,
    ) -> Sequence {
        self.recent.insert(reading.id, reading.may_be_redelivered);
        self.make_room(SHED_BYTES, effects);
        let stream = self.open.stream(&reading.schema);
        self.open.receipt = receipt.or(self.open.receipt);
        self.open.readings += 1;
        let first = self.next.0 - self.open.events.len() as u64;
        let events = self.open.events.iter_mut().enumerate();
        let known = events.rev().find_map(|(offset, event)| match event {
            StoredEvent::Shed(shed) if (shed.stream, shed.reason) == (stream, reason) => Some((offset, shed)),
            StoredEvent::Shed(_) | StoredEvent::Reading(_) | StoredEvent::Prediction(_) => None,
        });
        if let Some((offset, shed)) = known {
            shed.ids.push(reading.id);
            self.open.bytes += SHED_BYTES;
            return Sequence(first + offset as u64);
        }
        self.push(now, StoredEvent::Shed(Shed { stream, reason, ids: vec![reading.id] }), SHED_BYTES)
    }

    /// Takes a reading; gives its place.
    pub(super) fn accept(
        &mut self,
        now: Millis,
        receipt: Option<Receipt>,
        reading: NewReading,
        effects: &mut Vec<Effect>,
    ) -> Sequence {
        self.recent.insert(reading.id, reading.may_be_redelivered);
        let bytes = 24 + 8 * reading.values.len();
        self.make_room(bytes, effects);
        let stream = self.open.stream(&reading.schema);
        let event = StoredEvent::Reading(Reading {
            stream,
            time_ms: reading.time_ms,
            known_normal: reading.known_normal,
            id: reading.id,
            values: reading.values,
        });
        self.open.receipt = receipt.or(self.open.receipt);
        self.open.readings += 1;
        self.push(now, event, bytes)
    }

    /// Takes a prediction; its indices are filled in here.
    pub(super) fn accept_prediction(
        &mut self,
        now: Millis,
        schema: &StreamSchema,
        model: &ModelRef,
        prediction: Prediction,
        effects: &mut Vec<Effect>,
    ) {
        let bytes = 22 + prediction.outcome.size_hint();
        self.make_room(bytes, effects);
        let (stream, model) = (self.open.stream(schema), self.open.model(model));
        self.push(now, StoredEvent::Prediction(Prediction { stream, model, ..prediction }), bytes);
    }

    pub(super) fn durable(&mut self, end: Sequence, bytes: u64, effects: &mut Vec<Effect>) {
        self.bytes = bytes;
        let mut receipt = None;
        while self.in_flight.front().is_some_and(|commit| commit.end <= end) {
            receipt = self.in_flight.pop_front().and_then(|commit| commit.receipt).or(receipt);
        }
        effects.extend(receipt.map(Effect::Acknowledge));
    }

    pub(super) fn append_failed(&mut self, now: Millis, entry: SpoolEntry) {
        self.failed.insert(entry.first(), entry);
        self.retry_at = Some(now.plus(APPEND_RETRY_MS));
    }

    /// Whether to drop the oldest events now.
    pub(super) fn wants_drop(&mut self, now: Millis) -> bool {
        let is_due = self.drop_at.is_none_or(|at| at <= now);
        let wants = self.is_full() && self.when_full == WhenFull::DropOldest && !self.dropping && is_due;
        self.dropping |= wants;
        wants
    }

    pub(super) fn dropped_oldest(&mut self, now: Millis, has_dropped: bool, bytes: u64) {
        self.dropping = false;
        self.bytes = bytes;
        self.drop_at = if has_dropped { None } else { Some(now.plus(APPEND_RETRY_MS)) };
    }

    pub(super) fn poll_timeout(&self) -> Option<Millis> {
        let open = self.open.deadline.filter(|_| self.in_flight.len() < COMMITS_IN_FLIGHT && self.failed.is_empty());
        let drop = self.drop_at.filter(|_| self.is_full() && !self.dropping);
        [open, self.retry_at, drop].into_iter().flatten().min()
    }

    pub(super) fn poll(&mut self, now: Millis, effects: &mut Vec<Effect>) {
        if self.retry_at.is_some_and(|at| at <= now) {
            self.retry_at = None;
            effects.extend(std::mem::take(&mut self.failed).into_values().map(Effect::Append));
        }
        let due = self.open.deadline.is_some_and(|deadline| deadline <= now);
        if due && self.in_flight.len() < COMMITS_IN_FLIGHT && self.failed.is_empty() {
            self.flush(effects);
        }
    }

    /// Hands the open commit to the disk.
    pub(super) fn flush(&mut self, effects: &mut Vec<Effect>) {
        let open = std::mem::take(&mut self.open);
        if open.events.is_empty() {
            return;
        }
        let first = Sequence(self.next.0 - open.events.len() as u64);
        self.entries.push(first, open.events.len() as u32);
        self.in_flight.push_back(Commit { end: self.next, receipt: open.receipt });
        effects.push(Effect::Append(SpoolEntry::Events(EventBatch {
            epoch: self.epoch,
            first,
            streams: open.streams,
            models: open.models,
            events: open.events,
        })));
    }

    fn make_room(&mut self, bytes: usize, effects: &mut Vec<Effect>) {
        let is_full = self.open.events.len() >= COMMIT_MAX_EVENTS || self.open.readings >= self.commit_readings;
        if is_full || self.open.bytes + bytes > COMMIT_MAX_BYTES {
            self.flush(effects);
        }
    }

    fn push(&mut self, now: Millis, event: StoredEvent, bytes: usize) -> Sequence {
        self.open.events.push(event);
        self.open.bytes += bytes;
        self.open.deadline.get_or_insert(now.plus(self.commit_delay_ms));
        let place = self.next;
        self.next = place.plus(1);
        place
    }
}

impl OpenCommit {
    fn stream(&mut self, schema: &StreamSchema) -> u16 {
        let index = self.streams.iter().rposition(|known| known == schema).unwrap_or_else(|| {
            self.streams.push(schema.clone());
            self.bytes += schema.channels.iter().map(|name| name.as_str().len() + 1).sum::<usize>();
            self.streams.len() - 1
        });
        // A commit holds at most COMMIT_MAX_EVENTS events, so no more streams than that.
        index as u16
    }

    fn model(&mut self, model: &ModelRef) -> u16 {
        let index = self.models.iter().rposition(|known| known == model).unwrap_or_else(|| {
            self.models.push(model.clone());
            self.models.len() - 1
        });
        index as u16
    }
}
