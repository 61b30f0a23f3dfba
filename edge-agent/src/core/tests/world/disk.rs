//! The box's disk: the spool, the state store and the model files, of which a crash leaves what was durable.

use std::collections::{BTreeMap, VecDeque};

use shared::event::{Event as StoredEvent, EventBatch};
use shared::ids::{Digest, Sequence};
use shared::wire::message::ServedModel;

use super::random::Random;
use crate::core::{Checkpoint, Event, SpooledBatch};

pub(super) enum Request {
    Append(EventBatch),
    Read { from: Sequence, batches: usize },
    Release(Sequence),
}

/// The spool's segment log.
#[derive(Default)]
pub(super) struct Disk {
    pub(super) held: VecDeque<SpooledBatch>,
    /// Appended and not synced.
    written: Vec<EventBatch>,
    pub(super) end: Sequence,
    bytes: u64,
    pub(super) requests: VecDeque<Request>,
    pub(super) answers: VecDeque<Event>,
    /// Where each reading that was ever durable lies.
    pub(super) readings: BTreeMap<u64, Sequence>,
    /// While set nothing is appended, and syncs and reads fail now and then.
    pub(super) failing: bool,
    pub(super) failures: usize,
}

impl Disk {
    /// Works off some of what was asked for; what was appended is synced together.
    pub(super) fn work(&mut self, random: &mut Random) {
        let count = (1 + random.below(4)).min(self.requests.len());
        for request in self.requests.drain(..count).collect::<Vec<_>>() {
            let answer = match request {
                Request::Append(batch) if self.failing || batch.first != self.written_end() => {
                    self.failures += 1;
                    Event::AppendFailed(batch)
                }
                Request::Append(batch) => {
                    self.written.push(batch);
                    continue;
                }
                Request::Read { .. } if self.failing && random.percent(50) => Event::SpoolRead(Vec::new()),
                Request::Read { from, batches } => {
                    let found = self.held.iter().skip_while(|spooled| spooled.batch.end() <= from).take(batches);
                    Event::SpoolRead(found.cloned().collect())
                }
                Request::Release(before) => {
                    self.release(before);
                    self.durable()
                }
            };
            self.answers.push_back(answer);
        }
        if !self.written.is_empty() {
            if !self.failing || random.percent(30) {
                self.sync();
            }
            self.answers.push_back(self.durable());
        }
    }

    /// What a crash leaves: beside what was durable perhaps the first of what was on its way.
    pub(super) fn crash(&mut self, random: &mut Random) {
        for request in self.requests.drain(..).collect::<Vec<_>>() {
            if let Request::Append(batch) = request
                && batch.first == self.written_end()
            {
                self.written.push(batch);
            }
        }
        self.written.truncate(random.below(self.written.len() + 1));
        self.sync();
        self.answers.clear();
    }

    pub(super) fn is_idle(&self) -> bool {
        self.requests.is_empty() && self.answers.is_empty() && self.written.is_empty()
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    fn written_end(&self) -> Sequence {
        self.written.last().map_or(self.end, EventBatch::end)
    }

    fn durable(&self) -> Event {
        Event::Durable { end: self.end, spool_bytes: self.bytes }
    }

    fn sync(&mut self) {
        for batch in self.written.drain(..) {
            assert_eq!(batch.first, self.end, "sequences have no gaps");
            for (offset, event) in batch.events.iter().enumerate() {
                if let StoredEvent::Reading(reading) = event {
                    let before = self.readings.insert(reading.id, batch.first.plus(offset as u64));
                    assert_eq!(before, None, "reading {} was spooled before", reading.id);
                }
            }
            self.end = batch.end();
            let encoded = batch.encode().expect("a batch within its limits");
            self.bytes += encoded.len() as u64;
            self.held.push_back(SpooledBatch { batch: EventBatch::decode(&encoded).expect("consistent"), encoded });
        }
    }

    fn release(&mut self, before: Sequence) {
        while self.held.len() > 1 && self.held[0].batch.end() <= before {
            let released = self.held.pop_front().map_or(0, |spooled| spooled.encoded.len());
            self.bytes -= released as u64;
        }
    }
}

pub(super) enum StoreRequest {
    Checkpoint(Checkpoint),
    Serving(ServedModel),
}

/// The state store.
#[derive(Default)]
pub(super) struct Store {
    pub(super) checkpoint: Option<Checkpoint>,
    pub(super) serving: Option<ServedModel>,
    pub(super) requests: VecDeque<StoreRequest>,
    pub(super) answers: VecDeque<Event>,
}

impl Store {
    /// Makes one value durable, or fails to.
    pub(super) fn work(&mut self, failing: bool) {
        match self.requests.pop_front().filter(|_| !failing) {
            None => {}
            Some(StoreRequest::Checkpoint(checkpoint)) => {
                self.answers.push_back(Event::Checkpointed { acked: checkpoint.acked });
                self.checkpoint = Some(checkpoint);
            }
            Some(StoreRequest::Serving(model)) => self.serving = Some(model),
        }
    }

    pub(super) fn crash(&mut self, random: &mut Random) {
        for _ in 0..random.below(self.requests.len() + 1) {
            self.work(false);
        }
        self.requests.clear();
        self.answers.clear();
    }

    pub(super) fn is_idle(&self) -> bool {
        self.requests.is_empty() && self.answers.is_empty()
    }
}

/// The model files, as `artifacts.rs` keeps them: a part that is complete takes the place of the whole.
#[derive(Default)]
pub(super) struct Files {
    parts: BTreeMap<Digest, Vec<u8>>,
    whole: BTreeMap<Digest, Vec<u8>>,
}

impl Files {
    pub(super) fn store_chunk(&mut self, digest: Digest, offset: u64, bytes: &[u8]) {
        let part = self.parts.entry(digest).or_default();
        if offset == 0 {
            part.clear();
        }
        assert_eq!(part.len() as u64, offset, "parts follow each other");
        part.extend_from_slice(bytes);
    }

    pub(super) fn complete(&mut self, digest: Digest) -> Vec<u8> {
        if let Some(part) = self.parts.remove(&digest) {
            self.whole.insert(digest, part);
        }
        self.whole.get(&digest).cloned().unwrap_or_default()
    }

    pub(super) fn discard(&mut self, digest: Digest) {
        self.parts.remove(&digest);
        self.whole.remove(&digest);
    }
}
