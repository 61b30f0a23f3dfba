//! What the agent decides, without IO: [`EdgeCore::handle`] takes an [`Event`] and the time, and says which
//! [`Effect`]s to perform, in order.
//!
//! Five machines share the work: [`spool`] gives sequences and groups readings into commits, [`sync`] keeps the
//! conversation with the hub, [`live`] shows it what comes in while that waits in line, [`model_slot`] takes models from
//! offer to service, [`shadow`] runs a version beside the one in service. They do not know each other.

pub mod backoff;
pub mod event;
pub mod ledger;
pub mod limits;
pub mod live;
pub mod memory;
pub mod model_slot;
pub mod programs;
pub mod received;
pub mod recent;
pub mod renewal;
pub mod shadow;
pub mod spool;
pub mod start;
pub mod sync;
pub mod trial;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use shared::event::{GapReason, ModelRef, Prediction, StreamSchema, UnixMillis};
use shared::ids::{Digest, Epoch, Sequence};
use shared::wire::message::{AgentStatus, EdgeToHub, HubToEdge, ServedModel};

pub use event::{Answered, Effect, Event, Published, Question, SpooledEntry};
pub use received::{MessageContent, NewReading, Receipt, Received, Rejection};
pub use start::{Checkpoint, Settings, SlotState, Start};

use ledger::Ledger;
use limits::{ANSWERS_IN_FLIGHT, INFER_BATCH, INFER_QUEUE};
use live::LiveLane;
use memory::{HeldMemory, PipelineMemory};
use model_slot::ModelSlot;
use shadow::ShadowLane;
use spool::SpoolState;
use sync::{Content, Delivered, SyncSession, Welcome};

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

/// The agent's decisions.
#[derive(Debug)]
pub struct EdgeCore {
    spool: SpoolState,
    sync: SyncSession,
    live: LiveLane,
    slot: ModelSlot,
    shadow: ShadowLane,
    memory: HeldMemory,
    questions: VecDeque<Question>,
    questions_in_flight: usize,
    ledger: Ledger,
    rejected: BTreeMap<&'static str, u64>,
    held: u64,
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
        let sync = SyncSession::new(&settings, &start, acked, seed);
        let settled = start.checkpoint.map(|checkpoint| checkpoint.settled).unwrap_or_default();
        let ledger = Ledger::restore(acked, settled, &start.gaps, start.pending);
        let mut core = Self {
            spool,
            sync,
            live: LiveLane::default(),
            slot: ModelSlot::new(&settings, start.floor, start.partial),
            shadow: ShadowLane::new(start.shadow),
            memory: HeldMemory::default(),
            questions: start.unfinished.into(),
            questions_in_flight: 0,
            ledger,
            rejected: BTreeMap::new(),
            held: 0,
            unanswered: BTreeMap::new(),
            answered: 0,
            checkpointed: None,
            settings,
        };
        let mut effects = Vec::new();
        core.slot.resume(start.slot, &mut effects);
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
                effects.extend(self.memory.release(end).map(Effect::SaveMemory));
            }
            Event::AppendFailed(entry) => self.spool.append_failed(now, entry),
            Event::SpoolLimit(max_bytes) => self.spool.limit(max_bytes),
            Event::SpoolRead { oldest, entries } => self.sync.spool_read(now, oldest, entries, effects),
            Event::DroppedOldest { gap, spool_bytes } => {
                self.spool.dropped_oldest(now, gap.is_some(), spool_bytes);
                if let Some(gap) = gap {
                    self.ledger.stage(&gap, self.sync.acked_through());
                    self.sync.dropped(&gap);
                }
            }
            Event::GapSettled { through } => {
                self.ledger.settle_fates(through);
                self.sync.gap_settled();
            }
            Event::Answered { model, answers, busy_us } => self.answered(now, &model, answers, busy_us, effects),
            Event::Remembered => self.slot.remembered(effects),
            Event::Checkpointed { epoch, acked } => {
                if epoch > self.spool.epoch() {
                    self.spool.use_epoch(epoch);
                    self.sync.epoch_raised(now, epoch);
                    effects.push(Effect::UseEpoch(epoch));
                }
                effects.push(self.release(acked));
            }
            Event::LinkUp => {
                self.slot.link_up();
                self.shadow.link_up();
                self.sync.link_up(now, self.slot.serving(), effects);
            }
            Event::LinkDown => self.sync.link_down(now),
            Event::FromHub(message) => self.hub_said(now, message, effects),
            Event::ModelLoaded { model, floor } => self.slot.loaded(model, floor, effects),
            Event::PipelineMemory(memory) => {
                let memory = PipelineMemory { epoch: self.spool.epoch(), ..memory };
                self.memory.hold(self.spool.next(), memory);
            }
            Event::ModelRefused { model, reason } => self.slot.refused(&model, reason, effects),
            Event::ShadowNoted(starts) => self.shadow.noted(starts, effects),
            Event::ShadowLoaded(digest) => self.shadow.loaded(digest),
            Event::Shadowed { digest, shadowed } => {
                let ruled_out = self.shadow.shadowed(digest, shadowed, effects);
                ruled_out.into_iter().for_each(|digest| self.slot.rule_out(digest, effects));
            }
            Event::Tick => {}
        }
        self.settle(now, effects);
    }

    /// When to call [`Self::handle`] with [`Event::Tick`] at the latest.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Millis> {
        [self.spool.poll_timeout(), self.sync.poll_timeout(), self.live.poll_timeout()].into_iter().flatten().min()
    }

    /// Whether messages may be handed in. While not, they stay with the broker, unacknowledged.
    #[must_use]
    pub fn wants_messages(&self) -> bool {
        self.spool.has_room()
    }

    /// Readings whose answers are still to come.
    #[must_use]
    pub fn open_questions(&self) -> usize {
        self.questions.len() + self.questions_in_flight * INFER_BATCH
    }

    /// How the agent is.
    #[must_use]
    pub fn status(&self) -> AgentStatus {
        let counts = |counts: &BTreeMap<&'static str, u64>| {
            counts.iter().map(|(reason, count)| ((*reason).to_owned(), *count)).collect()
        };
        AgentStatus {
            ledger: self.ledger.by_stream(),
            spool_bytes: self.spool.bytes(),
            unanswered: counts(&self.unanswered),
            rejected: counts(&self.rejected),
            gone: self.ledger.gone(),
            kept: self.slot.serving().filter(|_| !self.slot.is_on_trial()).map(|serving| serving.digest),
            shadow: self.shadow.counts(),
        }
    }

    /// Bytes that the spool may take now: what it was given, or what a budget for everything leaves it.
    #[must_use]
    pub fn spool_max_bytes(&self) -> u64 {
        self.spool.max_bytes()
    }

    /// The newest reading of each stream: its channels, its time, its values.
    pub fn newest(&self) -> impl Iterator<Item = (&StreamSchema, UnixMillis, &[f64])> {
        self.live.newest()
    }

    /// Messages that were right and made no reading, since the start.
    #[must_use]
    pub const fn held_count(&self) -> u64 {
        self.held
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

    /// Whether events wait in line and the hub is shown ahead of them what comes in.
    #[must_use]
    pub fn shows_live(&self) -> bool {
        self.live.is_open()
    }

    /// Why the hub is not followed, where it said so or the agent found out.
    #[must_use]
    pub fn hub_problem(&self) -> Option<&str> {
        self.sync.problem()
    }

    /// Whether the model in service is on trial.
    #[must_use]
    pub fn is_on_trial(&self) -> bool {
        self.slot.is_on_trial()
    }

    /// The version that runs in the shadow of the one in service.
    #[must_use]
    pub fn shadow(&self) -> &ShadowLane {
        &self.shadow
    }

    /// The model in service.
    #[must_use]
    pub fn serving(&self) -> Option<&ServedModel> {
        self.slot.serving()
    }

    /// Ends the open group commit, and notes that the agent was told to stop.
    pub fn flush(&mut self, effects: &mut Vec<Effect>) {
        self.spool.flush(effects);
        self.slot.stop(effects);
        self.shadow.stop(effects);
    }

    /// Whether everything taken in is durable.
    #[must_use]
    pub fn is_flushed(&self) -> bool {
        self.spool.is_flushed()
    }

    fn receive(&mut self, now: Millis, message: Received, effects: &mut Vec<Effect>) {
        let reading = match message.content {
            MessageContent::Reading(reading) => reading,
            MessageContent::Held => {
                self.held += 1;
                self.spool.pass(message.receipt, effects);
                return;
            }
            MessageContent::Rejected(rejection) => {
                *self.rejected.entry(rejection.reason).or_default() += 1;
                self.spool.pass(message.receipt, effects);
                return;
            }
        };
        let stream = &reading.schema.stream;
        if self.spool.is_duplicate(&reading) {
            self.ledger.duplicate(stream);
            self.spool.pass(message.receipt, effects);
            return;
        }
        self.ledger.accept(stream);
        self.live.reading(&reading.schema, reading.time_ms, &reading.values);
        let mut asked = None;
        if !self.slot.will_answer() {
            *self.unanswered.entry("no_model").or_default() += 1;
        } else if self.questions.len() >= INFER_QUEUE {
            *self.unanswered.entry("inference_overloaded").or_default() += 1;
        } else {
            asked = Some((Arc::clone(&reading.schema), reading.time_ms, reading.values.clone()));
        }
        let shed = self.spool.sheds(&reading);
        let of = match shed {
            Some(reason) => self.spool.shed(now, message.receipt, &reading, reason, effects),
            None => self.spool.accept(now, message.receipt, reading, effects),
        };
        let kept = shed.is_none();
        self.questions.extend(asked.map(|(schema, time_ms, values)| Question {
            of,
            schema,
            time_ms,
            values,
            warm_up: false,
            kept,
        }));
    }

    fn answered(
        &mut self,
        now: Millis,
        model: &ModelRef,
        answers: Vec<Answered>,
        busy_us: u64,
        effects: &mut Vec<Effect>,
    ) {
        self.questions_in_flight -= 1;
        self.slot.judge(now, model, &answers, busy_us, effects);
        let mut published = Vec::with_capacity(answers.len());
        for Answered { question, outcome } in answers.into_iter().filter(|answer| !answer.question.warm_up) {
            match outcome {
                Err(reason) => *self.unanswered.entry(reason).or_default() += 1,
                Ok(outcome) => {
                    let Question { of, time_ms, schema, kept, .. } = question;
                    self.live.prediction(&schema.stream, model, time_ms, &outcome);
                    if kept || outcome.is_anomaly() {
                        let prediction = Prediction { stream: 0, model: 0, of, time_ms, outcome: outcome.clone() };
                        self.spool.accept_prediction(now, &schema, model, prediction, effects);
                    }
                    let stream = schema.stream.clone();
                    published.push(Published { stream, model: model.clone(), of, time_ms, outcome });
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
            HubToEdge::Welcome { next, mark, newest_epoch, .. } => {
                self.sync.welcome(now, Welcome { next, mark, newest_epoch }, effects);
            }
            HubToEdge::Acked { epoch, next } => {
                let delivered = self.sync.acked(epoch, next, effects);
                self.deliver(&delivered);
            }
            HubToEdge::Offer(offer) => {
                let is_here = self.shadow.has_whole(offer.digest);
                if self.shadow.digest() == Some(offer.digest) {
                    self.shadow.end(effects);
                }
                self.slot.offered(offer, is_here, effects);
            }
            HubToEdge::Shadow(shadow) => {
                let shadow = shadow.filter(|_| self.settings.safe_mode.is_none());
                let serving = self.serving_digest();
                let slot = &self.slot;
                let ruled_out = self.shadow.wanted(shadow, serving, |digest| slot.has_ruled_out(digest), effects);
                ruled_out.into_iter().for_each(|digest| self.slot.rule_out(digest, effects));
            }
            HubToEdge::Chunk { digest, offset, base, part } if self.shadow.digest() == Some(digest) => {
                self.shadow.chunk(digest, (offset, base), part, self.serving_digest(), effects);
            }
            HubToEdge::Chunk { digest, offset, base, part } => self.slot.chunk(digest, offset, base, part, effects),
            HubToEdge::Examine { request } => effects.push(Effect::Examine { request }),
            HubToEdge::Refused { reason, retry_after_ms } => self.sync.refused(now, &reason, retry_after_ms, effects),
        }
    }

    fn serving_digest(&self) -> Option<Digest> {
        self.slot.serving().map(|serving| serving.digest)
    }

    fn deliver(&mut self, delivered: &[Delivered]) {
        for Delivered { end, content } in delivered {
            match content {
                Content::Readings(readings) => self.ledger.deliver(readings),
                Content::Dropped => self.ledger.mark_at_hub(*end),
                Content::Gap(GapReason::Damaged) => self.ledger.lose_unknown(),
                Content::Gap(_) => {}
            }
            self.ledger.settle(*end);
        }
        if self.sync.acked_through() == self.spool.next() {
            self.ledger.close();
        }
    }

    /// What follows from the state, whatever the event was.
    fn settle(&mut self, now: Millis, effects: &mut Vec<Effect>) {
        self.spool.poll(now, effects);
        if self.spool.wants_drop(now) {
            let full_bytes = self.spool.full_bytes();
            effects.push(Effect::DropOldest { acked: self.sync.held_by_hub(), full_bytes });
        }
        let delivered = self.sync.poll(now, effects);
        self.deliver(&delivered);
        if let Some(epoch) = self.sync.epoch_due(now) {
            effects.push(self.checkpoint_of(epoch, self.sync.acked_through()));
        }
        // Down also before the connection is gone: what is said after a hang-up is lost.
        self.slot.link(self.sync.is_live(), effects);
        self.shadow.link(self.sync.is_live(), self.serving_digest(), effects);
        while self.questions_in_flight < ANSWERS_IN_FLIGHT && !self.questions.is_empty() && self.slot.can_answer() {
            let count = self.questions.len().min(INFER_BATCH);
            effects.push(Effect::Infer(self.questions.drain(..count).collect()));
            self.questions_in_flight += 1;
        }
        if self.sync.status_due(now) {
            let status = self.status();
            if self.sync.is_news(now, &status) {
                effects.push(Effect::Send(EdgeToHub::Status(status)));
            }
        }
        let (acked, next) = (self.sync.acked_through(), self.spool.next());
        effects.extend(self.live.follow(now, self.sync.is_live(), acked, next).map(Effect::Show));
        self.checkpoint(effects);
    }

    fn checkpoint(&mut self, effects: &mut Vec<Effect>) {
        let acked = self.sync.acked_through();
        // A full spool takes nothing in until something is given back, and that takes a checkpoint.
        let step = if self.spool.is_full() { 1 } else { limits::CHECKPOINT_EVENTS };
        let due = self.checkpointed.is_none_or(|last| acked.0 >= last.0 + step);
        if due && acked > Sequence(0) {
            self.checkpointed = Some(acked);
            effects.push(self.checkpoint_of(self.spool.epoch(), self.sync.base()));
        }
    }

    fn checkpoint_of(&self, epoch: Epoch, base: Sequence) -> Effect {
        let acked = self.sync.acked_through();
        Effect::Checkpoint(Checkpoint { epoch, base, acked, settled: self.ledger.settled() })
    }

    /// Gives back what the hub has, but for the newest events, from which a restarted agent knows redeliveries.
    fn release(&self, acked: Sequence) -> Effect {
        // Two events per message: the reading and its prediction. A spool that runs full needs the room of what is beyond need.
        let least = 2 * self.settings.receive_maximum as u64;
        let keep = if self.spool.is_tight() { least } else { limits::RECENT_EVENTS.max(least) };
        Effect::Release(acked.min(self.spool.start_of_newest(keep)))
    }
}

#[cfg(test)]
mod tests;
