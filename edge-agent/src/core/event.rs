//! What happens to an agent, what it does, and what both speak of.

use std::sync::Arc;

use shared::event::{Gap, ModelRef, Outcome, SpoolEntry, StreamSchema, UnixMillis};
use shared::ids::{Digest, Epoch, ModelVersion, Sequence, StreamId};
use shared::wire::live::LivePicture;
use shared::wire::message::{EdgeToHub, HubToEdge, ServedModel};
use shared::wire::part::PackedPart;

use super::memory::PipelineMemory;
use super::received::{Receipt, Received};
use super::shadow::{ShadowStarts, Shadowed};
use super::start::{Checkpoint, SlotState};

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
    /// It is in the spool. Where it was let go, only an answer is stored that somebody should look at.
    pub kept: bool,
}

/// What inference says of a reading.
#[derive(Debug, Clone)]
pub struct Answered {
    /// The reading.
    pub question: Question,
    /// What it says, or why it says nothing.
    pub outcome: Result<Outcome, &'static str>,
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
    /// What it said.
    pub outcome: Outcome,
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
    /// The disk would not take an entry. It is tried again with [`Event::Tick`].
    AppendFailed(SpoolEntry),
    /// The answer to [`Effect::ReadSpool`].
    SpoolRead {
        /// The spool holds nothing before it.
        oldest: Sequence,
        /// What was read.
        entries: Vec<SpooledEntry>,
    },
    /// The spool may take so many bytes from now on.
    SpoolLimit(u64),
    /// The answer to [`Effect::DropOldest`].
    DroppedOldest {
        /// What is gone now and was not before; nothing if there was nothing to drop, or the disk failed.
        gap: Option<Gap>,
        /// Bytes in the spool.
        spool_bytes: u64,
    },
    /// The answer to [`Effect::SettleGap`], unless the disk failed.
    GapSettled {
        /// The hub has everything before.
        through: Sequence,
    },
    /// Inference answered a batch of questions with one model.
    Answered {
        /// The model.
        model: ModelRef,
        /// The answers, in the order of the questions.
        answers: Vec<Answered>,
        /// Microseconds that they took.
        busy_us: u64,
    },
    /// A checkpoint is durable.
    Checkpointed {
        /// Its epoch.
        epoch: Epoch,
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
    ModelLoaded {
        /// The package.
        model: ServedModel,
        /// No version below this one is to be served after it.
        floor: ModelVersion,
    },
    /// What the pipeline in service remembers after its newest answers, which were handed in before.
    PipelineMemory(PipelineMemory),
    /// What is remembered of models is durable, or the store failed.
    Remembered,
    /// A package will not be served.
    ModelRefused {
        /// The package.
        model: ServedModel,
        /// Why.
        reason: String,
    },
    /// How often a version was loaded to run in shadow is durable, or the store failed.
    ShadowNoted(Option<ShadowStarts>),
    /// A version sees readings in shadow from now on.
    ShadowLoaded(Digest),
    /// What a version in shadow said of a batch, or why it cannot be loaded or is not asked any more.
    Shadowed {
        /// The package.
        digest: Digest,
        /// What it did.
        shadowed: Shadowed,
    },
    /// Time passed.
    Tick,
}

/// An entry as it lies in the spool.
#[derive(Debug, Clone)]
pub struct SpooledEntry {
    /// Its encoding.
    pub encoded: Vec<u8>,
    /// Its content.
    pub entry: SpoolEntry,
}

/// What to do.
#[derive(Debug)]
pub enum Effect {
    /// Append to the spool; answered by `Durable` or `AppendFailed`.
    Append(SpoolEntry),
    /// Acknowledge this message and all before it.
    Acknowledge(Receipt),
    /// Ask inference; answered by `Answered`.
    Infer(Vec<Question>),
    /// Publish to MQTT.
    Publish(Vec<Published>),
    /// Read entries from the spool; answered by `SpoolRead`.
    ReadSpool {
        /// From the entry that holds this sequence on.
        from: Sequence,
        /// At most so many.
        entries: usize,
    },
    /// Give back the spool's segments before this sequence; answered by `Durable`, which says how full it is now.
    Release(Sequence),
    /// Put a gap record in the place of the oldest events, if the spool is still full; answered by `DroppedOldest`.
    DropOldest {
        /// The hub has everything before.
        acked: Sequence,
        /// From so many bytes on the spool is full.
        full_bytes: u64,
    },
    /// Note durably, in the gap record at the front of the spool, what the hub has of it; answered by `GapSettled`.
    SettleGap {
        /// The hub has everything before.
        through: Sequence,
    },
    /// Remember durably how far the hub has acknowledged, and the ledger at that point; answered by `Checkpointed`. An epoch
    /// that is new is in use from then on.
    Checkpoint(Checkpoint),
    /// Read everything in the spool as of this epoch from now on.
    UseEpoch(Epoch),
    /// Connect to the hub; answered by `LinkUp` or `LinkDown`.
    Dial,
    /// Close the connection to the hub; answered by `LinkDown`.
    Hangup,
    /// Say something to the hub.
    Send(EdgeToHub),
    /// Show the hub what comes in, ahead of everything that waits to be sent. A picture that finds no room is dropped.
    Show(LivePicture),
    /// Write a part of a package to the disk.
    StorePart {
        /// The package.
        digest: Digest,
        /// Where the part belongs.
        offset: u64,
        /// The package it was packed against.
        base: Option<Digest>,
        /// The part.
        part: PackedPart,
    },
    /// Load a package that is completely on the disk; answered by `ModelLoaded` or `ModelRefused`.
    Load {
        /// What it is.
        model: ServedModel,
        /// Whether it came just now: then its signature must not have expired.
        is_new: bool,
    },
    /// Look at the box and tell the hub, which asked for it.
    Examine {
        /// Numbers such questions.
        request: u64,
    },
    /// Delete a package that proved to be of no use.
    Discard(Digest),
    /// Remember this of models durably; answered by `Remembered`.
    Remember(SlotState),
    /// Delete every package that this does not speak of: it is durable.
    Prune(SlotState),
    /// Remember durably that no version of the model below this one is served any more.
    RememberFloor(ModelRef),
    /// Write down durably what the pipeline remembers.
    SaveMemory(PipelineMemory),
    /// Note durably how often a version was loaded to run in shadow; answered by `ShadowNoted`.
    NoteShadow(Option<ShadowStarts>),
    /// Load a package to run in shadow; answered by `ShadowLoaded` or `Shadowed`.
    LoadShadow {
        /// The package.
        model: ServedModel,
        /// How many of a hundred readings it sees.
        percent: u8,
    },
    /// Run no version in shadow any more.
    EndShadow,
}
