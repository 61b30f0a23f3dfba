//! What the agent decides, without IO: [`EdgeCore::handle`] takes an [`Event`] and the time, and says which
//! [`Effect`]s to perform, in order.
//!
//! Three machines share the work: [`spool`] gives sequences and groups readings into commits, [`sync`] keeps the
//! conversation with the hub, [`model_slot`] takes models from offer to service. They do not know each other.

pub mod backoff;
pub mod limits;
pub mod model_slot;
pub mod recent;
pub mod spool;
pub mod sync;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use shared::event::{EventBatch, ModelRef, Prediction, StreamSchema, UnixMillis};
use shared::ids::{Digest, Epoch, ModelVersion, Sequence, StreamId};
use shared::pipeline::decision::Verdict;
use shared::wire::message::{AgentStatus, EdgeToHub, HubToEdge, ServedModel, StreamLedger};

use crate::status::Rejected;
use limits::{ANSWERS_IN_FLIGHT, INFER_BATCH, INFER_QUEUE};
use model_slot::ModelSlot;
use spool::SpoolState;
use sync::{SentBatch, SyncSession};

/// Monotonic time in milliseconds since the agent's start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Millis(pub u64);

impl Millis {
    /// The time `ms` later.
    #[must_use]
    pub const fn plus(self, ms: u64) -> Self {
        Self(self.0.saturating_add(ms))
    }
}

/// A message's place in the order in which messages were received, within one MQTT connection. Acknowledging one
/// acknowledges all before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Receipt {
    /// The connection; receipts of an older one are void, because the broker delivers again.
    pub generation: u32,
    /// The place.
    pub number: u64,
}

/// A message as it came in.
#[derive(Debug, Clone)]
pub struct Received {
    /// Its place.
    pub receipt: Receipt,
    /// What it holds, or why it holds nothing.
    pub content: Result<NewReading, Rejection>,
}

/// Why a message is no reading.
#[derive(Debug, Clone)]
pub struct Rejection {
    /// The reason it is counted under.
    pub reason: &'static str,
    /// The message, to look at.
    pub sample: Option<Rejected>,
}

/// A decoded reading that has no sequence yet.
#[derive(Debug, Clone)]
pub struct NewReading {
    /// Stream and channels.
    pub schema: Arc<StreamSchema>,
    /// When it was measured.
    pub time_ms: UnixMillis,
    /// One value per channel.
    pub values: Vec<f64>,
    /// An operator vouches for normal operation.
    pub known_normal: bool,
    /// Names the message.
    pub id: u64,
    /// The producer gave the name, so that equal names mean equal messages, however far apart.
    pub named_by_producer: bool,
    /// The broker may have delivered it before: its flag says so, or the session was just resumed.
    pub may_be_redelivered: bool,
}

/// A reading on its way through inference.
#[derive(Debug, Clone)]
pub struct Question {
    /// Its sequence.
    pub of: Sequence,
    /// Stream and channels.
    pub schema: Arc<StreamSchema>,
    /// When it was measured.
    pub time_ms: UnixMillis,
    /// One value per channel.
    pub values: Vec<f64>,
    /// Only brings the pipeline's state up to date after a restart; it was answered before.
    pub warm_up: bool,
}

/// What inference says of a reading.
#[derive(Debug, Clone)]
pub struct Answered {
    /// The reading.
    pub question: Question,
    /// The verdict, or why there is none.
    pub outcome: Result<Verdict, &'static str>,
}

/// A prediction on its way to MQTT.
#[derive(Debug, Clone, PartialEq)]
pub struct Published {
    /// The stream.
    pub stream: StreamId,
    /// The model that answered.
    pub model: ModelRef,
    /// The sequence of the reading.
    pub of: Sequence,
    /// The reading's time.
    pub time_ms: UnixMillis,
    /// The verdict.
    pub verdict: Verdict,
}

/// What happened.
#[derive(Debug)]
pub enum Event {
    /// Messages came in, in this order.
    Received(Vec<Received>),
    /// Everything in the spool before `end` is durable.
    Durable {
        /// The sequence after the last durable event.
        end: Sequence,
        /// Bytes in the spool.
        spool_bytes: u64,
    },
    /// The disk would not take a batch. It is tried again with [`Event::Tick`].
    AppendFailed(EventBatch),
    /// The answer to [`Effect::ReadSpool`].
    SpoolRead(Vec<SpooledBatch>),
    /// Inference answered a batch of questions with one model.
    Answered {
        /// The model.
        model: ModelRef,
        /// The answers, in the order of the questions.
        answers: Vec<Answered>,
    },
    /// A checkpoint is durable.
    Checkpointed {
        /// Its ack.
        acked: Sequence,
    },
    /// The connection to the hub stands.
    LinkUp,
    /// The connection to the hub is gone, or could not be made.
    LinkDown,
    /// The hub said something.
    FromHub(HubToEdge),
    /// A package was verified, built and proven on its golden vectors, and answers from now on.
    ModelLoaded(ServedModel),
    /// A package will not be served.
    ModelRefused {
        /// The package.
        model: ServedModel,
        /// Why.
        reason: String,
    },
    /// Time passed.
    Tick,
}

/// A batch as it lies in the spool.
#[derive(Debug, Clone)]
pub struct SpooledBatch {
    /// Its encoding.
    pub encoded: Vec<u8>,
    /// Its content.
    pub batch: EventBatch,
}

/// What to do.
#[derive(Debug)]
pub enum Effect {
    /// Append to the spool; answered by `Durable` or `AppendFailed`.
    Append(EventBatch),
    /// Acknowledge this message and all before it.
    Acknowledge(Receipt),
    /// Ask inference; answered by `Answered`.
    Infer(Vec<Question>),
    /// Publish to MQTT.
    Publish(Vec<Published>),
    /// Read batches from the spool; answered by `SpoolRead`.
    ReadSpool {
        /// From the batch that holds this sequence on.
        from: Sequence,
        /// At most so many.
        batches: usize,
    },
    /// Give back the spool's segments before this sequence.
    Release(Sequence),
    /// Remember durably how far the hub has acknowledged, and the ledger at that point; answered by `Checkpointed`.
    Checkpoint(Checkpoint),
    /// Connect to the hub; answered by `LinkUp` or `LinkDown`.
    Dial,
    /// Close the connection to the hub; answered by `LinkDown`.
    Hangup,
    /// Say something to the hub.
    Send(EdgeToHub),
    /// Write a part of a package to the disk.
    StoreChunk {
        /// The package.
        digest: Digest,
        /// Where the part belongs.
        offset: u64,
        /// The part.
        bytes: Vec<u8>,
    },
    /// Load a package that is completely on the disk; answered by `ModelLoaded` or `ModelRefused`.
    Load(ServedModel),
    /// Delete a package that proved to be of no use.
    Discard(Digest),
    /// Remember durably that this model serves.
    Remember(ServedModel),
}

/// How far the hub has acknowledged, and what had been delivered then.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Checkpoint {
    /// The spool's epoch.
    pub epoch: Epoch,
    /// The first sequence the hub does not have.
    pub acked: Sequence,
    /// Readings delivered per stream.
    pub delivered: BTreeMap<StreamId, u64>,
}

/// What the agent knows when it starts.
#[derive(Debug)]
pub struct Start {
    /// The spool's epoch.
    pub epoch: Epoch,
    /// The sequence after the spool's last event.
    pub next: Sequence,
    /// The oldest sequence in the spool.
    pub oldest: Sequence,
    /// Bytes in the spool.
    pub spool_bytes: u64,
    /// The last checkpoint of this epoch, if any.
    pub checkpoint: Option<Checkpoint>,
    /// What lies in the spool from the checkpoint on, per stream: readings.
    pub pending: BTreeMap<StreamId, u64>,
    /// Message ids of the newest readings in the spool, oldest first.
    pub recent_ids: Vec<u64>,
    /// The newest readings in the spool: those answered before are marked as warm-up.
    pub unfinished: Vec<Question>,
    /// The model that served before, if it is still there.
    pub serving: Option<ServedModel>,
}

/// What does not change while the agent runs.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The agent's release.
    pub agent_version: String,
    /// Random, made at each start.
    pub boot_nonce: u64,
    /// The device models run on.
    pub device: String,
    /// The only version to serve, if pinned.
    pub pinned: Option<ModelVersion>,
    /// Whether there is a hub.
    pub has_hub: bool,
    /// How long an event may wait for its group commit.
    pub commit_delay_ms: u64,
    /// The spool's limit in bytes. Above it nothing more is taken in.
    pub spool_max_bytes: u64,
    /// The broker's redeliveries can reach back this far.
    pub receive_maximum: usize,
}

/// The agent's decisions.
#[derive(Debug)]
pub struct EdgeCore {
    spool: SpoolState,
    sync: SyncSession,
    slot: ModelSlot,
    questions: VecDeque<Question>,
    questions_in_flight: usize,
    ledger: BTreeMap<StreamId, StreamLedger>,
    rejected: BTreeMap<&'static str, u64>,
    unanswered: BTreeMap<&'static str, u64>,
    answered: u64,
    checkpointed: Option<Sequence>,
    settings: Settings,
}

impl EdgeCore {
    /// An agent that starts with what is on its disk. The effects are to be performed before anything else.
    #[must_use]
    pub fn new(settings: Settings, start: Start, seed: u64) -> (Self, Vec<Effect>) {
        let acked = start.checkpoint.as_ref().map_or(start.oldest, |checkpoint| checkpoint.acked);
        let spool = SpoolState::new(&settings, &start);
        let mut ledger: BTreeMap<StreamId, StreamLedger> = BTreeMap::new();
        let delivered = start.checkpoint.map(|checkpoint| checkpoint.delivered).unwrap_or_default();
        for (stream, count) in delivered {
            let entry = ledger_of(&mut ledger, &stream);
            entry.accepted += count;
            entry.delivered += count;
        }
        for (stream, count) in start.pending {
            ledger_of(&mut ledger, &stream).accepted += count;
        }
        let mut core = Self {
            spool,
            sync: SyncSession::new(&settings, start.epoch, acked, start.next, seed),
            slot: ModelSlot::new(settings.pinned),
            questions: start.unfinished.into(),
            questions_in_flight: 0,
            ledger,
            rejected: BTreeMap::new(),
            unanswered: BTreeMap::new(),
            answered: 0,
            checkpointed: None,
            settings,
        };
        let mut effects = Vec::new();
        if let Some(serving) = start.serving {
            core.slot.resume(serving, &mut effects);
        }
        core.settle(Millis(0), &mut effects);
        (core, effects)
    }

    /// Takes one event. Effects are to be performed in order.
    pub fn handle(&mut self, now: Millis, event: Event, effects: &mut Vec<Effect>) {
        match event {
            Event::Received(messages) => messages.into_iter().for_each(|message| self.receive(now, message, effects)),
            Event::Durable { end, spool_bytes } => {
                self.spool.durable(end, spool_bytes, effects);
                self.sync.durable(end);
            }
            Event::AppendFailed(batch) => self.spool.append_failed(now, batch),
            Event::SpoolRead(batches) => self.sync.spool_read(batches, effects),
            Event::Answered { model, answers } => self.answered(now, &model, answers, effects),
            Event::Checkpointed { acked } => effects.push(self.release(acked)),
            Event::LinkUp => self.sync.link_up(now, self.slot.serving(), effects),
            Event::LinkDown => {
                self.sync.link_down(now);
                self.slot.link_down();
            }
            Event::FromHub(message) => self.hub_said(now, message, effects),
            Event::ModelLoaded(model) => self.slot.loaded(model, effects),
            Event::ModelRefused { model, reason } => self.slot.refused(&model, reason, effects),
            Event::Tick => {}
        }
        self.settle(now, effects);
    }

    /// When to call [`Self::handle`] with [`Event::Tick`] at the latest.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Millis> {
        [self.spool.poll_timeout(), self.sync.poll_timeout()].into_iter().flatten().min()
    }

    /// Whether messages may be handed in. While not, they stay with the broker, unacknowledged.
    #[must_use]
    pub fn wants_messages(&self) -> bool {
        self.spool.has_room()
    }

    /// How the agent is.
    #[must_use]
    pub fn status(&self) -> AgentStatus {
        let counts = |counts: &BTreeMap<&'static str, u64>| {
            counts.iter().map(|(reason, count)| ((*reason).to_owned(), *count)).collect()
        };
        AgentStatus {
            ledger: self.ledger.values().cloned().collect(),
            spool_bytes: self.spool.bytes(),
            unanswered: counts(&self.unanswered),
            rejected: counts(&self.rejected),
        }
    }

    /// Readings answered since the start.
    #[must_use]
    pub fn answered_count(&self) -> u64 {
        self.answered
    }

    /// Whether the hub has greeted and listens.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        self.sync.is_live()
    }

    /// Why the hub is not followed, where it said so or the agent found out.
    #[must_use]
    pub fn hub_problem(&self) -> Option<&str> {
        self.sync.problem()
    }

    /// The model in service.
    #[must_use]
    pub fn serving(&self) -> Option<&ServedModel> {
        self.slot.serving()
    }

    /// Ends the open group commit, for shutdown.
    pub fn flush(&mut self, effects: &mut Vec<Effect>) {
        self.spool.flush(effects);
    }

    /// Whether everything taken in is durable.
    #[must_use]
    pub fn is_flushed(&self) -> bool {
        self.spool.is_flushed()
    }

    fn receive(&mut self, now: Millis, message: Received, effects: &mut Vec<Effect>) {
        let reading = match message.content {
            Ok(reading) => reading,
            Err(rejection) => {
                *self.rejected.entry(rejection.reason).or_default() += 1;
                self.spool.pass(message.receipt, effects);
                return;
            }
        };
        let entry = ledger_of(&mut self.ledger, &reading.schema.stream);
        if self.spool.is_duplicate(&reading) {
            entry.duplicates += 1;
            self.spool.pass(message.receipt, effects);
            return;
        }
        entry.accepted += 1;
        if self.slot.serving().is_none() {
            *self.unanswered.entry("no_model").or_default() += 1;
        } else if self.questions.len() >= INFER_QUEUE {
            *self.unanswered.entry("inference_overloaded").or_default() += 1;
        } else {
            self.questions.push_back(Question {
                of: self.spool.next(),
                schema: Arc::clone(&reading.schema),
                time_ms: reading.time_ms,
                values: reading.values.clone(),
                warm_up: false,
            });
        }
        self.spool.accept(now, message.receipt, reading, effects);
    }

    fn answered(&mut self, now: Millis, model: &ModelRef, answers: Vec<Answered>, effects: &mut Vec<Effect>) {
        self.questions_in_flight -= 1;
        let mut published = Vec::with_capacity(answers.len());
        for Answered { question, outcome } in answers.into_iter().filter(|answer| !answer.question.warm_up) {
            match outcome {
                Err(reason) => *self.unanswered.entry(reason).or_default() += 1,
                Ok(verdict) => {
                    let prediction = Prediction {
                        stream: 0,
                        model: 0,
                        of: question.of,
                        time_ms: question.time_ms,
                        score: verdict.score,
                        threshold: verdict.threshold,
                        anomaly: verdict.anomaly,
                    };
                    self.spool.accept_prediction(now, &question.schema, model, &prediction, effects);
                    published.push(Published {
                        stream: question.schema.stream.clone(),
                        model: model.clone(),
                        of: question.of,
                        time_ms: question.time_ms,
                        verdict,
                    });
                }
            }
        }
        if !published.is_empty() {
            self.answered += published.len() as u64;
            effects.push(Effect::Publish(published));
            self.slot.served(model, effects);
        }
    }

    fn hub_said(&mut self, now: Millis, message: HubToEdge, effects: &mut Vec<Effect>) {
        match message {
            HubToEdge::Welcome { next, .. } => {
                self.sync.welcome(now, next, effects);
                if self.sync.is_live() {
                    self.slot.link_up(effects);
                }
            }
            HubToEdge::Acked { epoch, next } => {
                let delivered = self.sync.acked(epoch, next, effects);
                self.deliver(delivered);
            }
            HubToEdge::Offer(offer) => self.slot.offered(offer, effects),
            HubToEdge::Chunk { digest, offset, bytes } => self.slot.chunk(digest, offset, bytes, effects),
            HubToEdge::Refused { reason, retry_after_ms } => self.sync.refused(now, &reason, retry_after_ms, effects),
        }
    }

    fn deliver(&mut self, batches: Vec<SentBatch>) {
        for (stream, count) in batches.into_iter().flat_map(|batch| batch.readings) {
            ledger_of(&mut self.ledger, &stream).delivered += count;
        }
    }

    /// What follows from the state, whatever the event was.
    fn settle(&mut self, now: Millis, effects: &mut Vec<Effect>) {
        self.spool.poll(now, effects);
        let delivered = self.sync.poll(now, effects);
        self.deliver(delivered);
        while self.questions_in_flight < ANSWERS_IN_FLIGHT && !self.questions.is_empty() && self.slot.can_answer() {
            let count = self.questions.len().min(INFER_BATCH);
            effects.push(Effect::Infer(self.questions.drain(..count).collect()));
            self.questions_in_flight += 1;
        }
        if self.sync.status_due(now) {
            effects.push(Effect::Send(EdgeToHub::Status(self.status())));
        }
        self.checkpoint(effects);
    }

    fn checkpoint(&mut self, effects: &mut Vec<Effect>) {
        let acked = self.sync.acked_through();
        let due = self.checkpointed.is_none_or(|last| acked.0 >= last.0 + limits::CHECKPOINT_EVENTS);
        if due && acked > Sequence(0) {
            self.checkpointed = Some(acked);
            effects.push(Effect::Checkpoint(Checkpoint {
                epoch: self.spool.epoch(),
                acked,
                delivered: self.ledger.values().map(|entry| (entry.stream.clone(), entry.delivered)).collect(),
            }));
        }
    }

    /// Gives back what the hub has, but for the newest events, from which a restarted agent knows redeliveries.
    fn release(&self, acked: Sequence) -> Effect {
        // Two events per message: the reading and its prediction.
        let keep = limits::RECENT_EVENTS.max(2 * self.settings.receive_maximum as u64);
        Effect::Release(Sequence(acked.0.saturating_sub(keep)))
    }
}

fn ledger_of<'a>(ledger: &'a mut BTreeMap<StreamId, StreamLedger>, stream: &StreamId) -> &'a mut StreamLedger {
    ledger.entry(stream.clone()).or_insert_with(|| StreamLedger {
        stream: stream.clone(),
        accepted: 0,
        delivered: 0,
        duplicates: 0,
    })
}

#[cfg(test)]
mod tests;
