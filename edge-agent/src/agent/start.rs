//! What an agent does before its loop runs: find out from the disk what was and go on from there.

use std::collections::{BTreeMap, VecDeque};
use std::path::Path;
use std::sync::Arc;

use rand::RngExt;
use shared::event::{Event as StoredEvent, EventBatch, StreamSchema};
use shared::ids::{Epoch, Sequence, StreamId};
use shared::wire::message::ServedModel;
use tokio::sync::mpsc;
use tracing::{error, info};

use super::AgentError;
use crate::clock::Clock;
use crate::config::Config;
use crate::core::limits::{RECENT_IDS, WARM_UP_READINGS};
use crate::core::{Checkpoint, EdgeCore, Effect, Event, Question, Settings, Start};
use crate::spool::Spool;
use crate::store::StateStore;

/// Writes to the store that may wait.
const STORE_REQUESTS: usize = 16;

/// What the disk gave.
pub(super) struct Recovered {
    pub(super) spool: Spool,
    pub(super) core: EdgeCore,
    pub(super) effects: Vec<Effect>,
}

/// A write to the store.
#[derive(Debug)]
pub(super) enum StoreRequest {
    Checkpoint(Checkpoint),
    Serving(ServedModel),
}

/// Opens the spool, settles its epoch and counts what is in it.
pub(super) fn recover(config: &Config, state: &StateStore, clock: &Clock) -> Result<Recovered, AgentError> {
    let remembered = state.load();
    let (spool, created) = Spool::open(&config.agent.state_directory.join("spool"))?;
    let epoch = match (spool.epoch()?, remembered.epoch) {
        (Some(epoch), _) => epoch,
        (None, Some(epoch)) if !created => epoch,
        (None, before) => {
            // Seconds since 1970 keep a box that lost everything from using an epoch twice.
            let by_clock = u64::try_from(clock.unix_ms() / 1_000).unwrap_or(0);
            let raised = before.map_or(by_clock, |before| by_clock.max(before.0 + 1));
            Epoch(raised)
        }
    };
    state.save_epoch(epoch)?;
    let checkpoint = remembered.checkpoint.filter(|checkpoint| {
        checkpoint.epoch == epoch && checkpoint.acked >= spool.oldest() && checkpoint.acked <= spool.next()
    });
    let acked = checkpoint.as_ref().map_or(spool.oldest(), |checkpoint| checkpoint.acked);
    let mut scan = Scan::new(acked);
    spool.scan(Sequence(0), |batch| scan.add(batch))?;
    info!(%epoch, next = %spool.next(), pending = spool.next().0 - acked.0, "the spool is open");
    let serving = remembered.serving;
    let start = Start {
        epoch,
        next: spool.next(),
        checkpoint,
        oldest: spool.oldest(),
        unfinished: if serving.is_some() { scan.unfinished() } else { Vec::new() },
        pending: scan.pending,
        recent_ids: scan.recent_ids.into(),
        spool_bytes: spool.bytes(),
        serving,
    };
    let mut random = rand::rng();
    let settings = Settings {
        agent_version: env!("CARGO_PKG_VERSION").to_owned(),
        boot_nonce: random.random(),
        device: config.model.device.to_string(),
        pinned: config.model.pin,
        has_hub: config.hub.is_some(),
        commit_delay_ms: config.spool.commit_delay_ms,
        spool_max_bytes: config.spool.max_bytes,
        receive_maximum: usize::from(config.mqtt.receive_maximum),
    };
    let (core, effects) = EdgeCore::new(settings, start, random.random());
    Ok(Recovered { spool, core, effects })
}

/// Starts the thread that writes the store, because its syncs take milliseconds.
pub(super) fn store_thread(
    state: StateStore,
    events: mpsc::Sender<Event>,
) -> Result<(mpsc::Sender<StoreRequest>, std::thread::JoinHandle<()>), AgentError> {
    let (sender, mut requests) = mpsc::channel(STORE_REQUESTS);
    let work = move || {
        while let Some(request) = requests.blocking_recv() {
            let saved = match &request {
                StoreRequest::Checkpoint(checkpoint) => state.save_checkpoint(checkpoint),
                StoreRequest::Serving(model) => state.save_serving(model),
            };
            match (saved, request) {
                (Ok(()), StoreRequest::Checkpoint(checkpoint)) => {
                    if events.blocking_send(Event::Checkpointed { acked: checkpoint.acked }).is_err() {
                        return;
                    }
                }
                (Ok(()), StoreRequest::Serving(_)) => {}
                (Err(error), _) => error!("failed to {error}; a restart will go back to the last state saved"),
            }
        }
    };
    let thread = std::thread::Builder::new()
        .name("store".into())
        .spawn(work)
        .map_err(|source| AgentError::Io { what: "start the store thread".to_owned(), source })?;
    Ok((sender, thread))
}

/// The secret in a file, without its line end.
pub(super) fn password(file: Option<&Path>) -> Result<Option<String>, AgentError> {
    file.map(|path| {
        std::fs::read_to_string(path)
            .map(|text| text.trim_end_matches(['\r', '\n']).to_owned())
            .map_err(|source| AgentError::Io { what: format!("read {}", path.display()), source })
    })
    .transpose()
}

/// What a walk through the spool finds.
struct Scan {
    acked: Sequence,
    pending: BTreeMap<StreamId, u64>,
    recent_ids: VecDeque<u64>,
    newest: VecDeque<Question>,
    answered: Option<Sequence>,
}

impl Scan {
    fn new(acked: Sequence) -> Self {
        Self { acked, pending: BTreeMap::new(), recent_ids: VecDeque::new(), newest: VecDeque::new(), answered: None }
    }

    fn add(&mut self, batch: &EventBatch) {
        let schemas: Vec<Arc<StreamSchema>> = batch.streams.iter().cloned().map(Arc::new).collect();
        for (offset, event) in batch.events.iter().enumerate() {
            let sequence = batch.first.plus(offset as u64);
            match event {
                StoredEvent::Reading(reading) => {
                    let schema = &schemas[usize::from(reading.stream)];
                    if sequence >= self.acked {
                        *self.pending.entry(schema.stream.clone()).or_default() += 1;
                    }
                    push_bounded(&mut self.recent_ids, reading.id, RECENT_IDS);
                    let question = Question {
                        of: sequence,
                        schema: Arc::clone(schema),
                        time_ms: reading.time_ms,
                        values: reading.values.clone(),
                        warm_up: false,
                    };
                    push_bounded(&mut self.newest, question, WARM_UP_READINGS);
                }
                StoredEvent::Prediction(prediction) => self.answered = self.answered.max(Some(prediction.of)),
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
