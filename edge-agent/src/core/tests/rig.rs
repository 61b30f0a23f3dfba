//! A core alone, driven by hand.

use std::sync::Arc;

use shared::event::{EventBatch, ModelRef, StreamSchema};
use shared::ids::{ChannelName, Digest, Epoch, ModelName, ModelVersion, Sequence, StreamId};
use shared::pipeline::decision::Verdict;
use shared::wire::message::{EdgeToHub, HubToEdge, ModelOffer, ServedModel, StreamLedger};

use crate::core::{
    Answered, EdgeCore, Effect, Event, Millis, NewReading, Question, Receipt, Received, Rejection, Settings,
    SpooledBatch, Start,
};

pub(super) const EPOCH: Epoch = Epoch(7);
pub(super) const COMMIT_DELAY_MS: u64 = 20;
/// The generation of every receipt that [`Rig`] hands in.
pub(super) const GENERATION: u32 = 1;

pub(super) struct Rig {
    pub(super) core: EdgeCore,
    pub(super) now: Millis,
    /// Receipts given so far.
    pub(super) received: u64,
}

impl Rig {
    /// A box without a hub, a model or a past.
    pub(super) fn alone() -> Self {
        Self::started(Settings { has_hub: false, ..settings() }, start()).0
    }

    /// A new box that dialled its hub and was greeted.
    pub(super) fn connected() -> Self {
        let mut rig = Self::started(settings(), start()).0;
        rig.connect(0);
        rig
    }

    pub(super) fn started(settings: Settings, start: Start) -> (Self, Vec<Effect>) {
        let (core, effects) = EdgeCore::new(settings, start, 3);
        (Self { core, now: Millis(0), received: 0 }, effects)
    }

    pub(super) fn handle(&mut self, event: Event) -> Vec<Effect> {
        let mut effects = Vec::new();
        self.core.handle(self.now, event, &mut effects);
        effects
    }

    pub(super) fn wait(&mut self, ms: u64) -> Vec<Effect> {
        self.now = self.now.plus(ms);
        self.handle(Event::Tick)
    }

    /// Hands in messages as one group.
    pub(super) fn receive(&mut self, contents: Vec<Result<NewReading, Rejection>>) -> Vec<Effect> {
        let messages = contents
            .into_iter()
            .map(|content| {
                self.received += 1;
                Received { receipt: receipt(self.received), content }
            })
            .collect();
        self.handle(Event::Received(messages))
    }

    /// Hands in readings and lets their group commit go to the disk.
    pub(super) fn commit(&mut self, ids: impl IntoIterator<Item = u64>) -> EventBatch {
        let mut effects = self.receive(ids.into_iter().map(|id| Ok(reading(id))).collect());
        effects.extend(self.wait(COMMIT_DELAY_MS));
        let mut batches = appended(&effects);
        assert_eq!(batches.len(), 1, "one group commit");
        batches.remove(0)
    }

    pub(super) fn durable(&mut self, end: u64) -> Vec<Effect> {
        self.handle(Event::Durable { end: Sequence(end), spool_bytes: 0 })
    }

    /// Lets the connection stand and the hub say what it has.
    pub(super) fn connect(&mut self, next: u64) -> Vec<Effect> {
        let mut effects = self.handle(Event::LinkUp);
        effects.extend(self.hub(welcome(next)));
        effects
    }

    pub(super) fn hub(&mut self, message: HubToEdge) -> Vec<Effect> {
        self.handle(Event::FromHub(message))
    }

    pub(super) fn hub_acks(&mut self, next: u64) -> Vec<Effect> {
        self.hub(HubToEdge::Acked { epoch: EPOCH, next: Sequence(next) })
    }

    /// Answers questions with `model`.
    pub(super) fn answer(&mut self, model: &ServedModel, questions: Vec<Question>) -> Vec<Effect> {
        let answers = questions
            .into_iter()
            .map(|question| Answered { question, outcome: Ok(Verdict { score: 0.5, threshold: 1.0, anomaly: false }) })
            .collect();
        self.handle(Event::Answered { model: model.model.clone(), answers })
    }

    pub(super) fn ledger(&self) -> StreamLedger {
        self.core.status().ledger.first().cloned().expect("a stream was seen")
    }
}

pub(super) fn settings() -> Settings {
    Settings {
        agent_version: "0.0.0".to_owned(),
        boot_nonce: 1,
        device: "flex".to_owned(),
        pinned: None,
        has_hub: true,
        commit_delay_ms: COMMIT_DELAY_MS,
        spool_max_bytes: 1 << 30,
        receive_maximum: 100,
    }
}

/// An empty disk.
pub(super) fn start() -> Start {
    Start {
        epoch: EPOCH,
        next: Sequence(0),
        oldest: Sequence(0),
        spool_bytes: 0,
        checkpoint: None,
        pending: Default::default(),
        recent_ids: Vec::new(),
        unfinished: Vec::new(),
        serving: None,
    }
}

pub(super) fn pump() -> StreamId {
    StreamId::new("pump").expect("valid")
}

pub(super) fn schema() -> Arc<StreamSchema> {
    Arc::new(StreamSchema { stream: pump(), channels: vec![ChannelName::new("flow").expect("valid")] })
}

/// A reading whose name was made from its content, delivered for the first time.
pub(super) fn reading(id: u64) -> NewReading {
    NewReading {
        schema: schema(),
        time_ms: id as i64,
        values: vec![id as f64],
        known_normal: false,
        id,
        named_by_producer: false,
        may_be_redelivered: false,
    }
}

pub(super) fn rejection() -> Rejection {
    Rejection { reason: "not_json", sample: None }
}

pub(super) fn receipt(number: u64) -> Receipt {
    Receipt { generation: GENERATION, number }
}

pub(super) fn welcome(next: u64) -> HubToEdge {
    HubToEdge::Welcome { next: Sequence(next), time_ms: 0 }
}

/// A model whose package is `bytes`.
pub(super) fn model(version: u32, bytes: &[u8]) -> ServedModel {
    ServedModel {
        model: ModelRef { name: ModelName::new("pump").expect("valid"), version: ModelVersion(version) },
        digest: Digest::of(bytes),
    }
}

pub(super) fn offer(model: &ServedModel, bytes: u64) -> HubToEdge {
    HubToEdge::Offer(ModelOffer {
        model: model.model.name.clone(),
        version: model.model.version,
        digest: model.digest,
        bytes,
    })
}

/// A batch as the spool gives it back.
pub(super) fn spooled(batch: &EventBatch) -> SpooledBatch {
    SpooledBatch { encoded: batch.encode().expect("encodes"), batch: batch.clone() }
}

pub(super) fn appended(effects: &[Effect]) -> Vec<EventBatch> {
    let append = |effect: &Effect| if let Effect::Append(batch) = effect { Some(batch.clone()) } else { None };
    effects.iter().filter_map(append).collect()
}

pub(super) fn acknowledged(effects: &[Effect]) -> Vec<u64> {
    let number = |effect: &Effect| if let Effect::Acknowledge(receipt) = effect { Some(receipt.number) } else { None };
    effects.iter().filter_map(number).collect()
}

pub(super) fn asked(effects: &[Effect]) -> Vec<Question> {
    let questions =
        |effect: &Effect| if let Effect::Infer(questions) = effect { Some(questions.clone()) } else { None };
    effects.iter().filter_map(questions).flatten().collect()
}

/// What was said to the hub, but for how the agent is.
pub(super) fn said(effects: &[Effect]) -> Vec<EdgeToHub> {
    let message = |effect: &Effect| if let Effect::Send(message) = effect { Some(message.clone()) } else { None };
    effects.iter().filter_map(message).filter(|message| !matches!(message, EdgeToHub::Status(_))).collect()
}

/// Firsts and counts of the batches sent to the hub.
pub(super) fn sent(effects: &[Effect]) -> Vec<(u64, u32)> {
    let batch =
        |message| if let EdgeToHub::Events(packed) = message { Some((packed.first.0, packed.count)) } else { None };
    said(effects).into_iter().filter_map(batch).collect()
}

pub(super) fn reads(effects: &[Effect]) -> Vec<(u64, usize)> {
    let read = |effect: &Effect| {
        if let Effect::ReadSpool { from, batches } = effect { Some((from.0, *batches)) } else { None }
    };
    effects.iter().filter_map(read).collect()
}

/// How far the checkpoints say that the hub has acknowledged.
pub(super) fn checkpoints(effects: &[Effect]) -> Vec<u64> {
    let acked = |effect: &Effect| if let Effect::Checkpoint(point) = effect { Some(point.acked.0) } else { None };
    effects.iter().filter_map(acked).collect()
}

pub(super) fn dials(effects: &[Effect]) -> bool {
    effects.iter().any(|effect| matches!(effect, Effect::Dial))
}

pub(super) fn hangs_up(effects: &[Effect]) -> bool {
    effects.iter().any(|effect| matches!(effect, Effect::Hangup))
}
