//! An account of every reading kept beside the system, and what must hold whatever happens.

use std::collections::{BTreeMap, BTreeSet};

use cloud_hub::ingest_log::Entry;
use shared::event::{Event as StoredEvent, EventBatch, Fate, Gap, SpoolEntry};
use shared::ids::{AgentId, Epoch, Sequence, StreamId};

use super::broker::stream_name;
use super::edge::{EdgeBox, Seen};

/// Why a world is broken: a sentence.
pub(super) type Violation = String;

/// Where an event of a box lies.
type Place = (Epoch, Sequence);

/// The account.
#[derive(Debug, Default)]
pub(super) struct Truth {
    boxes: Vec<BoxTruth>,
}

/// What must be true of one box.
#[derive(Debug, Default)]
struct BoxTruth {
    /// The stream of each reading published.
    published: BTreeMap<u64, usize>,
    /// Readings whose message was acknowledged to the broker: promised.
    acknowledged: BTreeSet<u64>,
    /// Which reading each sequence was given to. A sequence whose commit a crash lost may be given again.
    given: BTreeMap<Place, Vec<u64>>,
    /// Sequences given to events that are known to be durable: they must never be given again.
    durable: BTreeMap<Epoch, Sequence>,
    /// Media lost what was synced: what follows is not held against the agent.
    has_lost_media: bool,
    /// Readings from before its disk was restored: what the box knew of them is gone, and the hub may have any of them.
    excused: BTreeSet<u64>,
    /// Its disk was restored: what is in its spool may be delivered under a newer epoch than it was made in.
    was_restored: bool,
    /// The hub may lack what it acknowledged, until the box has sent it again.
    hub_went_back: bool,
    /// The agent's own count of what it accepted and delivered began anew.
    has_lost_count: bool,
}

/// What the hub holds, drawn from its entries alone.
#[derive(Debug, Default)]
struct AtHub {
    /// Where each reading of a box lies.
    readings: BTreeMap<u64, Place>,
    /// A reading that is there twice, and where.
    twice: Option<(u64, Place, Place)>,
    /// Readings by stream, however often each is there.
    totals: BTreeMap<StreamId, u64>,
    /// Sequences that gap records speak of.
    gaps: Vec<(Epoch, Sequence, Sequence)>,
    next: BTreeMap<Epoch, Sequence>,
}

impl Truth {
    pub(super) fn new(boxes: usize) -> Self {
        Self { boxes: (0..boxes).map(|_| BoxTruth::default()).collect() }
    }

    pub(super) fn published(&mut self, at: usize, id: u64, stream: usize) {
        self.boxes[at].published.insert(id, stream);
    }

    pub(super) fn acknowledged(&mut self, at: usize, id: u64) {
        self.boxes[at].acknowledged.insert(id);
    }

    pub(super) fn lost_media(&mut self, at: usize) {
        self.boxes[at].has_lost_media = true;
    }

    pub(super) fn lost_count(&mut self, at: usize) {
        self.boxes[at].has_lost_count = true;
    }

    /// A box's disk was restored.
    pub(super) fn restored(&mut self, at: usize) {
        let of = &mut self.boxes[at];
        of.was_restored = true;
        of.has_lost_count = true;
        of.excuse_all();
    }

    /// The hub lost some of what it had. Boxes send it again, or say that it is gone.
    pub(super) fn hub_restored(&mut self) {
        for of in &mut self.boxes {
            of.hub_went_back = true;
            // What such a box delivered in an older epoch it does not send again.
            if of.was_restored {
                of.excuse_all();
            }
        }
    }

    /// A box handed entries to its disk.
    pub(super) fn seen(&mut self, at: usize, seen: Vec<Seen>) -> Result<(), Violation> {
        let of = &mut self.boxes[at];
        for seen in seen {
            match seen {
                Seen::Appended(SpoolEntry::Events(batch)) => of.appended(&batch)?,
                Seen::Appended(SpoolEntry::Gap(_)) | Seen::Dropped => {}
                Seen::PackageMissing(digest) => {
                    return Err(format!("package {digest} is to be loaded, and is not there"));
                }
            }
        }
        Ok(())
    }

    /// What a box has durable cannot be given again.
    pub(super) fn durable(&mut self, at: usize, edge: &EdgeBox) {
        let durable = self.boxes[at].durable.entry(edge.epoch()).or_default();
        *durable = edge.next().max(*durable);
    }

    /// A box came back: everything promised must be on its disk, at the hub, or spoken of by a gap record.
    pub(super) fn check_boot(&self, at: usize, edge: &EdgeBox, hub: &[(u64, Entry)]) -> Result<(), Violation> {
        let of = &self.boxes[at];
        if of.has_lost_media || of.has_lost_count || of.hub_went_back {
            return Ok(());
        }
        let hub = of.at_hub(&edge.name, hub)?;
        let mut held: BTreeSet<u64> = hub.readings.keys().copied().collect();
        let mut gaps = hub.gaps;
        for entry in edge.spooled() {
            match entry {
                SpoolEntry::Events(batch) => held.extend(readings(&batch).map(|(_, id)| id)),
                SpoolEntry::Gap(gap) => gaps.push((gap.epoch, gap.first, gap.end())),
            }
        }
        match of.acknowledged.iter().find(|id| !held.contains(id) && !of.is_in_gap(**id, &gaps)) {
            Some(id) => Err(format!("{}: reading {id} was acknowledged, and is gone after a restart", edge.name)),
            None => Ok(()),
        }
    }

    /// What the hub holds is what was made, once, in order.
    pub(super) fn check_hub(&self, boxes: &[EdgeBox], entries: &[(u64, Entry)]) -> Result<(), Violation> {
        for (of, edge) in self.boxes.iter().zip(boxes) {
            let hub = of.at_hub(&edge.name, entries)?;
            for (id, place) in &hub.readings {
                if !of.was_given(*place, *id) && !of.has_lost_media {
                    return Err(format!("{}: the hub has reading {id} at {place:?}, where it never was", edge.name));
                }
            }
        }
        Ok(())
    }

    /// Everything came to rest: every reading is at the hub once, or a gap record speaks of it, and all ledgers agree.
    pub(super) fn check_rest(
        &self,
        boxes: &[EdgeBox],
        entries: &[(u64, Entry)],
        counts: &BTreeMap<(AgentId, String), (u64, u64)>,
    ) -> Result<(), Violation> {
        for (index, (of, edge)) in self.boxes.iter().zip(boxes).enumerate() {
            let hub = of.at_hub(&edge.name, entries)?;
            let missing = of.published.keys().find(|id| {
                let at_hub = hub.readings.contains_key(id);
                !at_hub && !of.excused.contains(id) && !of.is_in_gap(**id, &hub.gaps) && !of.has_lost_media
            });
            if let Some(id) = missing {
                return Err(format!("{}: reading {id} is neither at the hub nor in a gap record", edge.name));
            }
            if of.has_lost_media {
                continue;
            }
            of.check_ledger(index, edge, &hub, entries, counts)?;
        }
        Ok(())
    }
}

impl BoxTruth {
    /// What the hub holds. A reading may be there twice if the box lost the record of having accepted it.
    fn at_hub(&self, agent: &AgentId, entries: &[(u64, Entry)]) -> Result<AtHub, Violation> {
        let hub = AtHub::of(agent, entries)?;
        match hub.twice {
            Some((id, before, again)) if !self.has_lost_media && !self.has_lost_count => {
                Err(format!("{agent}: the hub has reading {id} twice: {before:?} and {again:?}"))
            }
            Some(_) | None => Ok(hub),
        }
    }

    fn appended(&mut self, batch: &EventBatch) -> Result<(), Violation> {
        let durable = self.durable.get(&batch.epoch).copied().unwrap_or_default();
        for (offset, event) in batch.events.iter().enumerate() {
            let sequence = batch.first.plus(offset as u64);
            let ids = ids(event);
            let before = self.given.insert((batch.epoch, sequence), ids.to_vec());
            if sequence < durable && before.as_ref().is_some_and(|before| before != ids) {
                let epoch = batch.epoch;
                return Err(format!(
                    "sequence {sequence} of epoch {epoch} was given to {before:?}, and now to {ids:?}"
                ));
            }
        }
        Ok(())
    }

    fn excuse_all(&mut self) {
        self.excused = self.published.keys().copied().collect();
        self.durable.clear();
    }

    fn was_given(&self, (epoch, sequence): Place, id: u64) -> bool {
        let mut epochs = self.given.keys().filter(|(of, at)| *at == sequence && *of <= epoch);
        match self.given.get(&(epoch, sequence)) {
            Some(given) if given.contains(&id) => true,
            _ if self.excused.contains(&id) => true,
            _ => self.was_restored && epochs.any(|place| self.given[place].contains(&id)),
        }
    }

    fn is_in_gap(&self, id: u64, gaps: &[(Epoch, Sequence, Sequence)]) -> bool {
        let is_covered = |(epoch, sequence): &(Epoch, Sequence)| {
            let is_epoch = |of: &Epoch| of == epoch || (self.was_restored && of > epoch);
            gaps.iter().any(|(of, first, end)| is_epoch(of) && first <= sequence && sequence < end)
        };
        self.given.iter().any(|(place, given)| given.contains(&id) && is_covered(place))
    }

    /// `accepted = delivered + pending + dropped`, per stream, on both sides, and equal to what really is.
    fn check_ledger(
        &self,
        index: usize,
        edge: &EdgeBox,
        hub: &AtHub,
        entries: &[(u64, Entry)],
        counts: &BTreeMap<(AgentId, String), (u64, u64)>,
    ) -> Result<(), Violation> {
        let dropped = dropped_readings(&edge.name, entries);
        for ledger in edge.core.status().ledger {
            let stream = ledger.stream.to_string();
            let at_hub = hub.totals.get(&ledger.stream).copied().unwrap_or_default();
            let gone = dropped.get(&stream).copied().unwrap_or_default();
            let (hub_readings, hub_dropped) =
                counts.get(&(edge.name.clone(), stream.clone())).copied().unwrap_or_default();
            if (hub_readings, hub_dropped) != (at_hub, gone) {
                return Err(format!(
                    "{}: {stream}: the hub counts {hub_readings} readings and {hub_dropped} dropped, it has {at_hub} and \
                     {gone}",
                    edge.name
                ));
            }
            let own: u64 = ledger.dropped.iter().map(|(_, count)| count).sum();
            let published =
                self.published.values().filter(|of| stream_name(index, **of) == ledger.stream).count() as u64;
            let account = (ledger.accepted, ledger.delivered, own, ledger.pending());
            if account != (published, at_hub, gone, 0) && !self.has_lost_count && !self.hub_went_back {
                return Err(format!(
                    "{}: {stream}: the agent counts {account:?} accepted, delivered, dropped and pending, there are \
                     {published}, {at_hub}, {gone} and 0",
                    edge.name
                ));
            }
        }
        Ok(())
    }
}

impl AtHub {
    fn of(agent: &AgentId, entries: &[(u64, Entry)]) -> Result<Self, Violation> {
        let mut at = Self::default();
        for (_, Entry { entry, .. }) in entries.iter().filter(|(_, entry)| entry.agent == *agent) {
            let (epoch, first, end) = (entry.epoch(), entry.first(), entry.end());
            if let Some(next) = at.next.insert(epoch, end).filter(|next| *next != first) {
                return Err(format!("{agent}: the hub has epoch {epoch} up to {next}, and then from {first}"));
            }
            match entry {
                SpoolEntry::Gap(_) => at.gaps.push((epoch, first, end)),
                SpoolEntry::Events(batch) => {
                    for (schema, count) in batch.streams.iter().zip(batch.readings_by_stream()) {
                        *at.totals.entry(schema.stream.clone()).or_default() += u64::from(count);
                    }
                    for (sequence, id) in readings(batch) {
                        if let Some(before) = at.readings.insert(id, (epoch, sequence)) {
                            at.twice.get_or_insert((id, before, (epoch, sequence)));
                        }
                    }
                }
            }
        }
        Ok(at)
    }
}

/// Readings that an agent's gap records at the hub call gone, by stream.
fn dropped_readings(agent: &AgentId, entries: &[(u64, Entry)]) -> BTreeMap<String, u64> {
    let mut dropped = BTreeMap::new();
    for (_, Entry { entry, .. }) in entries.iter().filter(|(_, entry)| entry.agent == *agent) {
        match entry {
            SpoolEntry::Gap(gap) => gone(gap, &mut dropped),
            SpoolEntry::Events(batch) => {
                for shed in batch.shed() {
                    let stream = batch.streams[usize::from(shed.stream)].stream.to_string();
                    *dropped.entry(stream).or_default() += shed.ids.len() as u64;
                }
            }
        }
    }
    dropped
}

fn gone(gap: &Gap, dropped: &mut BTreeMap<String, u64>) {
    for part in gap.parts_from(gap.first).filter(|part| part.fate != Fate::AtHub) {
        for (stream, count) in part.readings() {
            *dropped.entry(stream.to_string()).or_default() += count;
        }
    }
}

/// Readings that a batch holds or says to be let go, and where.
fn readings(batch: &EventBatch) -> impl Iterator<Item = (Sequence, u64)> {
    let placed = batch.events.iter().enumerate();
    placed.flat_map(move |(offset, event)| ids(event).iter().map(move |id| (batch.first.plus(offset as u64), *id)))
}

/// The readings that an event speaks of.
fn ids(event: &StoredEvent) -> &[u64] {
    match event {
        StoredEvent::Reading(reading) => std::slice::from_ref(&reading.id),
        StoredEvent::Prediction(_) => &[],
        StoredEvent::Shed(shed) => &shed.ids,
    }
}
