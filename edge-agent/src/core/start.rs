//! What an agent knows when it starts, what it was told to be, and what it notes down to start from again.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use shared::event::{Gap, ModelRef};
use shared::ids::{Digest, Epoch, ModelVersion, Sequence, StreamId};
use shared::wire::message::ServedModel;

use super::Question;
use super::ledger::{Readings, Settled};
use super::shadow::ShadowStarts;
use super::spool::WhenFull;

/// How far the hub has acknowledged, and what had been delivered then.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checkpoint {
    /// The spool's epoch.
    pub epoch: Epoch,
    /// The first sequence of the epoch.
    pub base: Sequence,
    /// The first sequence the hub does not have.
    pub acked: Sequence,
    /// What was settled then, per stream.
    pub settled: BTreeMap<StreamId, Settled>,
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
    /// Readings in the spool from the checkpoint on.
    pub pending: Readings,
    /// Gaps in the spool that reach beyond the checkpoint.
    pub gaps: Vec<Gap>,
    /// Message ids of the newest readings in the spool, oldest first.
    pub recent_ids: Vec<u64>,
    /// Where the newest entries of events in the spool begin, and how many they hold, oldest first.
    pub recent_entries: Vec<(Sequence, u32)>,
    /// The newest readings in the spool: those answered before are marked as warm-up.
    pub unfinished: Vec<Question>,
    /// What served before, and what it is on trial for.
    pub slot: SlotState,
    /// What ran in shadow when the agent ended without being told to, and how often it was started.
    pub shadow: Option<ShadowStarts>,
    /// No version of a model below this one is served any more.
    pub floor: Option<ModelRef>,
    /// A package of which a part is on the disk, and how many bytes.
    pub partial: Option<(Digest, u64)>,
}

/// What a box remembers of its models: written before anything is loaded, so that a model that ends the agent is found
/// out by the starts it takes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlotState {
    /// What is loaded at a start.
    pub serving: Option<ServedModel>,
    /// What the box goes back to.
    pub previous: Option<ServedModel>,
    /// How often the agent was started while `serving` was on trial; nothing after its trial.
    pub trial_starts: Option<u32>,
    /// Packages that the box went back from, oldest first.
    pub ruled_out: Vec<Digest>,
}

impl Start {
    /// The first sequence of the epoch, as far as is known.
    pub(super) fn base(&self) -> Sequence {
        self.checkpoint.as_ref().map_or(self.oldest, |checkpoint| checkpoint.base)
    }
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
    /// Why no model may run, if none may: the agent did not survive its last starts. Readings are taken in and delivered.
    pub safe_mode: Option<String>,
    /// How long an answer may take in the mean before a new model is given up.
    pub max_answer_us: u64,
    /// Whether there is a hub.
    pub has_hub: bool,
    /// How long an event may wait for its group commit.
    pub commit_delay_ms: u64,
    /// The spool's limit in bytes, for all that it ever writes.
    pub spool_max_bytes: u64,
    /// What happens at the limit.
    pub when_full: WhenFull,
    /// The broker's redeliveries can reach back this far.
    pub receive_maximum: usize,
}
