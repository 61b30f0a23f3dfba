//! What an agent does before its loop runs: find out from the disk what was and go on from there.

use std::collections::VecDeque;
use std::sync::Arc;

use rand::RngExt;
use shared::event::{Event as StoredEvent, EventBatch, Gap, ModelRef, SpoolEntry, StreamSchema, UnixMillis};
use shared::ids::{Epoch, Sequence};
use shared::seglog::{LogError, Storage};
use tokio::sync::mpsc;
use tracing::{error, info, warn};

use super::AgentError;
use crate::artifacts::Artifacts;
use crate::clock::{WallClock, Working};
use crate::config::Config;
use crate::core::ledger::{Readings, Tally};
use crate::core::limits::{RECENT_EVENTS, RECENT_IDS, REPLAYED_READINGS, WARM_UP_READINGS};
use crate::core::memory::PipelineMemory;
use crate::core::shadow::ShadowStarts;
use crate::core::{Checkpoint, EdgeCore, Effect, Event, Question, Settings, SlotState, Start};
use crate::spool::{Opened, Spool, SpoolError};
use crate::store::memory::MemoryFile;
use crate::store::{Remembered, StateStore};

/// Writes to the store that may wait.
const STORE_REQUESTS: usize = 16;

/// An agent that is ready to run.
pub(super) struct Recovered {
    pub(super) spool: Spool,
    pub(super) core: EdgeCore,
    pub(super) effects: Vec<Effect>,
    /// What the pipeline in service remembered, if the spool goes on from there.
    pub(super) memory: Option<PipelineMemory>,
}

/// A write to the store.
#[derive(Debug)]
pub(super) enum StoreRequest {
    Checkpoint(Checkpoint),
    Slot(SlotState),
    Floor(ModelRef),
    Memory(PipelineMemory),
    Shadow(Option<ShadowStarts>),
}

/// Opens the spool and sets up the core with what is in it.
pub(super) fn recover(
    config: &Config,
    state: &StateStore,
    artifacts: &Artifacts,
    clock: &WallClock,
    safe_mode: Option<String>,
) -> Result<Recovered, AgentError> {
    let path = config.agent.state_directory.join("spool");
    let opened = Opened::open(&path)?;
    let remembered = state.load();
    let epoch = epoch(&opened, &remembered, clock.unix_ms());
    state.save_epoch(epoch)?;
    let digest = remembered.slot.serving.as_ref().map(|serving| serving.digest);
    let memory = MemoryFile::in_directory(&config.agent.state_directory).load();
    let mut memory = memory.filter(|memory| (memory.epoch, Some(memory.digest)) == (epoch, digest));
    let (spool, mut start) = resume(opened, epoch, remembered, &mut memory)
        .map_err(|source| SpoolError::Log { path: path.display().to_string(), source })?;
    start.partial = artifacts.partial_package();
    info!(%epoch, next = %spool.next(), "the spool is open");
    let mut random = rand::rng();
    let settings = Settings {
        agent_version: env!("CARGO_PKG_VERSION").to_owned(),
        boot_nonce: random.random(),
        device: config.model.device.to_string(),
        pinned: config.model.pin,
        safe_mode,
        max_answer_us: config.model.max_answer_ms * 1_000,
        has_hub: config.hub.is_some(),
        commit_delay_ms: config.spool.commit_delay_ms,
        spool_max_bytes: config.spool.max_bytes,
        when_full: config.spool.when_full,
        receive_maximum: usize::from(config.mqtt.receive_maximum),
    };
    let (core, effects) = EdgeCore::new(settings, start, random.random());
    Ok(Recovered { spool, core, effects, memory })
}

/// The epoch of what goes into a spool that was just opened. It is to be remembered durably before anything does.
///
/// What is in the spool says it, or what was remembered when it was raised. A new or emptied spool gets one that was never
/// used: above the last one remembered, and at least the seconds since 1970, for a box that lost everything.
#[must_use]
pub fn epoch<S: Storage>(opened: &Opened<S>, remembered: &Remembered, unix_ms: UnixMillis) -> Epoch {
    let remembered = remembered.epoch.max(remembered.checkpoint.as_ref().map(|checkpoint| checkpoint.epoch));
    match (opened.epoch, remembered) {
        (Some(epoch), remembered) => remembered.map_or(epoch, |remembered| remembered.max(epoch)),
        (None, Some(epoch)) if !opened.created => epoch,
        (None, before) => {
            let by_clock = u64::try_from(unix_ms / 1_000).unwrap_or(0);
            Epoch(before.map_or(by_clock, |before| by_clock.max(before.0 + 1)))
        }
    }
}

/// Counts what is in a spool: what an agent goes on from. A memory is taken away if the spool does not hold what came after
/// it.
///
/// # Errors
/// If the disk fails.
pub fn resume<S: Storage>(
    opened: Opened<S>,
    epoch: Epoch,
    remembered: Remembered,
    memory: &mut Option<PipelineMemory>,
) -> Result<(Spool<S>, Start), LogError> {
    let mut spool = opened.settle(epoch);
    let checkpoint = remembered.checkpoint.filter(|checkpoint| {
        checkpoint.epoch == epoch && checkpoint.acked >= spool.oldest() && checkpoint.acked <= spool.next()
    });
    let acked = checkpoint.as_ref().map_or(spool.oldest(), |checkpoint| checkpoint.acked);
    *memory = memory.take().filter(|memory| {
        let after = memory.through.plus(1);
        after >= spool.oldest() && after <= spool.next() && spool.next().0 - after.0 <= RECENT_EVENTS
    });
    let mut scan = Scan::new(acked, memory.as_ref().map(|memory| memory.through));
    spool.scan(Sequence(0), |entry| scan.add(entry))?;
    if scan.overflown {
        *memory = None;
        scan.newest.drain(..scan.newest.len() - WARM_UP_READINGS);
    }
    let Remembered { slot, floor, shadow, .. } = remembered;
    let start = Start {
        epoch,
        next: spool.next(),
        checkpoint,
        oldest: spool.oldest(),
        unfinished: if slot.serving.is_some() { scan.unfinished() } else { Vec::new() },
        pending: scan.pending,
        gaps: scan.gaps,
        recent_ids: scan.recent_ids.into(),
        recent_entries: scan.recent_entries.into(),
        spool_bytes: spool.bytes(),
        slot,
        shadow,
        floor,
        partial: None,
    };
    Ok((spool, start))
}

/// Starts the thread that writes the store, because its syncs take milliseconds.
pub(super) fn store_thread(
    state: StateStore,
    memory_file: MemoryFile,
    events: mpsc::Sender<Event>,
    working: Working,
) -> Result<(mpsc::Sender<StoreRequest>, std::thread::JoinHandle<()>), AgentError> {
    let (sender, mut requests) = mpsc::channel(STORE_REQUESTS);
    let work = move || {
        while let Some(request) = requests.blocking_recv() {
            working.begins();
            let saved = match &request {
                StoreRequest::Checkpoint(checkpoint) => state.save_checkpoint(checkpoint),
                StoreRequest::Slot(slot) => state.save_slot(slot),
                StoreRequest::Floor(floor) => state.save_floor(floor),
                StoreRequest::Shadow(shadow) => state.save_shadow(*shadow),
                StoreRequest::Memory(memory) => {
                    if let Err(error) = memory_file.save(memory) {
                        warn!("failed to write down what the pipeline remembers: {error}");
                    }
                    Ok(())
                }
            };
            working.rests();
            if let Err(error) = &saved {
                error!("failed to {error}; a restart will go back to the last state saved");
            }
            let answer = match request {
                StoreRequest::Checkpoint(Checkpoint { epoch, acked, .. }) if saved.is_ok() => {
                    Some(Event::Checkpointed { epoch, acked })
                }
                // A box whose store fails must still be able to change its model.
                StoreRequest::Slot(_) => Some(Event::Remembered),
                StoreRequest::Shadow(shadow) => Some(Event::ShadowNoted(shadow)),
                StoreRequest::Checkpoint(_) | StoreRequest::Floor(_) | StoreRequest::Memory(_) => None,
            };
            if answer.is_some_and(|answer| events.blocking_send(answer).is_err()) {
                return;
            }
        }
    };
    let thread = std::thread::Builder::new()
        .name("store".into())
        .spawn(work)
        .map_err(|source| AgentError::Io { what: "start the store thread".to_owned(), source })?;
    Ok((sender, thread))
}

/// What a walk through the spool finds.
struct Scan {
    acked: Sequence,
    pending: Readings,
    gaps: Vec<Gap>,
    recent_ids: VecDeque<u64>,
    recent_entries: VecDeque<(Sequence, u32)>,
    /// The readings that the pipeline has to go through again.
    newest: VecDeque<Question>,
    /// What the pipeline remembers, if it does: only later readings are gone through.
    remembered: Option<Sequence>,
    /// There were more of those than are gone through.
    overflown: bool,
    answered: Option<Sequence>,
}

impl Scan {
    fn new(acked: Sequence, remembered: Option<Sequence>) -> Self {
        Self {
            acked,
            pending: Readings::new(),
            gaps: Vec::new(),
            recent_ids: VecDeque::new(),
            recent_entries: VecDeque::new(),
            newest: VecDeque::new(),
            remembered,
            overflown: false,
            answered: None,
        }
    }

    fn add(&mut self, entry: &SpoolEntry) {
        match entry {
            SpoolEntry::Events(batch) => self.add_batch(batch),
            SpoolEntry::Gap(gap) if gap.end() > self.acked => self.gaps.push(gap.clone()),
            SpoolEntry::Gap(_) => {}
        }
    }

    fn add_batch(&mut self, batch: &EventBatch) {
        // An entry holds at least one event.
        push_bounded(&mut self.recent_entries, (batch.first, batch.events.len() as u32), RECENT_EVENTS as usize);
        for (stream, count) in Tally::of(batch, self.acked).accepted() {
            *self.pending.entry(stream.clone()).or_default() += count;
        }
        let schemas: Vec<Arc<StreamSchema>> = batch.streams.iter().cloned().map(Arc::new).collect();
        for (offset, event) in batch.events.iter().enumerate() {
            let sequence = batch.first.plus(offset as u64);
            match event {
                StoredEvent::Reading(reading) => {
                    let schema = &schemas[usize::from(reading.stream)];
                    push_bounded(&mut self.recent_ids, reading.id, RECENT_IDS);
                    if self.remembered.is_some_and(|remembered| sequence <= remembered) {
                        continue;
                    }
                    let question = Question {
                        of: sequence,
                        schema: Arc::clone(schema),
                        time_ms: reading.time_ms,
                        values: reading.values.clone(),
                        warm_up: false,
                        kept: true,
                    };
                    let limit = if self.remembered.is_some() { REPLAYED_READINGS } else { WARM_UP_READINGS };
                    self.overflown |= self.remembered.is_some() && self.newest.len() == limit;
                    push_bounded(&mut self.newest, question, limit);
                }
                StoredEvent::Prediction(prediction) => self.answered = self.answered.max(Some(prediction.of)),
                StoredEvent::Shed(shed) => {
                    shed.ids.iter().for_each(|id| push_bounded(&mut self.recent_ids, *id, RECENT_IDS));
                }
            }
        }
    }

    /// The newest readings; those up to the last one answered only bring the pipelines up to date.
    fn unfinished(&mut self) -> Vec<Question> {
        let answered = self.answered;
        std::mem::take(&mut self.newest)
            .into_iter()
            .map(|question| Question { warm_up: Some(question.of) <= answered, ..question })
            .collect()
    }
}

fn push_bounded<T>(queue: &mut VecDeque<T>, item: T, limit: usize) {
    if queue.len() == limit {
        queue.pop_front();
    }
    queue.push_back(item);
}
