//! The agent's small keyed state: the epoch, the last checkpoint, the model in service.

pub mod memory;
pub mod sled;

use serde::{Deserialize, Serialize};
use shared::event::ModelRef;
use shared::ids::Epoch;

use crate::core::shadow::ShadowStarts;
use crate::core::{Checkpoint, SlotState};

pub use self::sled::{StateStore, StoreError};

/// What the store remembers.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Remembered {
    /// The newest epoch ever used on this box.
    pub epoch: Option<Epoch>,
    /// How far the hub had acknowledged.
    pub checkpoint: Option<Checkpoint>,
    /// The model in service, and the one before.
    pub slot: SlotState,
    /// No version of a model below this one is served any more.
    pub floor: Option<ModelRef>,
    /// What ran in shadow, and how often it was started.
    pub shadow: Option<ShadowStarts>,
}
