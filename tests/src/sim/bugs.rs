//! Bugs to plant, one at a time: a simulator that finds none of them would prove nothing.
//!
//! The programs hold none of this. Each bug is done to the world around a core, at the place where a shell, a start or a
//! message could be wrong in just this way.

/// A deliberate bug.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Bug {
    /// The spool says that a commit is durable before it was synced.
    AckBeforeDurable,
    /// The spool gives events back as soon as they are sent.
    DeleteBeforeHubAck,
    /// The hub forgets what it has of an agent that was away for a minute.
    DedupeByTimeWindow,
    /// Damaged events are passed over, and the hub takes what follows.
    HoleWithoutGapRecord,
    /// After a torn write, sequences that may have been used are given again.
    SequenceReused,
    /// An acknowledgement counts for whatever the newer connection delivered first.
    StaleGenerationAck,
    /// A restarted agent counts what was delivered before the last checkpoint as pending.
    LedgerMiscount,
    /// The hub acknowledges before its log is durable.
    WatermarkNotDurable,
    /// A spool that was begun anew keeps the epoch of the old one.
    EpochNotRaised,
    /// A sync that failed is taken for one that succeeded.
    FailedSyncTrusted,
    /// After a restart redeliveries are not known.
    RedeliveryForgotten,
    /// The hub hears of dropped events before it is settled which of them it has.
    GapNotSettled,
    /// Events are dropped from a full spool and no gap record takes their place.
    SilentDrop,
    /// The hub's checkpoint runs ahead of what was compacted.
    CheckpointAhead,
    /// A box whose disk was restored goes on in its old epoch, though the hub has other events of it.
    RestoredDiskMerged,
    /// Of readings that are let go together, one is written down.
    ShedUncounted,
    /// What comes in is shown only when nothing older waits to be sent.
    BacklogStarvesLive,
    /// A start of a box does not count as one of a model's trial.
    TrialNotCounted,
    /// A start of a box does not count as one of a version in shadow.
    ShadowNotCounted,
    /// After a restart a box does not know what it went back from.
    RuledOutForgotten,
    /// The model before the newest is deleted though the box may go back to it.
    PreviousPruned,
    /// The hub's database keeps a rollout as it began.
    RolloutForgotten,
    /// The hub offers a version to every box that is connected, whatever the stage.
    StageIgnored,
}

impl Bug {
    /// Every bug.
    pub const ALL: [Self; 23] = [
        Self::AckBeforeDurable,
        Self::DeleteBeforeHubAck,
        Self::DedupeByTimeWindow,
        Self::HoleWithoutGapRecord,
        Self::SequenceReused,
        Self::StaleGenerationAck,
        Self::LedgerMiscount,
        Self::WatermarkNotDurable,
        Self::EpochNotRaised,
        Self::FailedSyncTrusted,
        Self::RedeliveryForgotten,
        Self::GapNotSettled,
        Self::SilentDrop,
        Self::CheckpointAhead,
        Self::RestoredDiskMerged,
        Self::ShedUncounted,
        Self::BacklogStarvesLive,
        Self::TrialNotCounted,
        Self::ShadowNotCounted,
        Self::RuledOutForgotten,
        Self::PreviousPruned,
        Self::RolloutForgotten,
        Self::StageIgnored,
    ];

    /// Its name on the command line.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::AckBeforeDurable => "ack-before-durable",
            Self::DeleteBeforeHubAck => "delete-before-hub-ack",
            Self::DedupeByTimeWindow => "dedupe-by-time-window",
            Self::HoleWithoutGapRecord => "hole-without-gap-record",
            Self::SequenceReused => "sequence-reused",
            Self::StaleGenerationAck => "stale-generation-ack",
            Self::LedgerMiscount => "ledger-miscount",
            Self::WatermarkNotDurable => "watermark-not-durable",
            Self::EpochNotRaised => "epoch-not-raised",
            Self::FailedSyncTrusted => "failed-sync-trusted",
            Self::RedeliveryForgotten => "redelivery-forgotten",
            Self::GapNotSettled => "gap-not-settled",
            Self::SilentDrop => "silent-drop",
            Self::CheckpointAhead => "checkpoint-ahead",
            Self::RestoredDiskMerged => "restored-disk-merged",
            Self::ShedUncounted => "shed-uncounted",
            Self::BacklogStarvesLive => "backlog-starves-live",
            Self::TrialNotCounted => "trial-not-counted",
            Self::ShadowNotCounted => "shadow-not-counted",
            Self::RuledOutForgotten => "ruled-out-forgotten",
            Self::PreviousPruned => "previous-pruned",
            Self::RolloutForgotten => "rollout-forgotten",
            Self::StageIgnored => "stage-ignored",
        }
    }

    /// The bug of this name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|bug| bug.name() == name)
    }
}
