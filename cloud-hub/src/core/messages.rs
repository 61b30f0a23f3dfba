//! What happens to the hub's core, and what it wants done.

use shared::event::{SpoolEntry, UnixMillis};
use shared::ids::{AgentId, Digest, ModelName, ModelVersion};
use shared::wire::live::LivePicture;
use shared::wire::message::{AgentStatus, Hello, HubToEdge, ModelReport};

use super::registry::Release;
use super::retrain::{self, RunOutcome, TrainingJob};
use super::{ConnectionId, alarms, drift, identities, labels, rollout, session};

/// What happened.
#[derive(Debug)]
pub enum Event {
    /// An agent connected; its name comes from its certificate.
    Connected {
        /// The connection.
        connection: ConnectionId,
        /// The agent.
        agent: AgentId,
        /// The certificate it showed.
        certificate: identities::BoxCertificate,
    },
    /// Who is let in changed, durably.
    IdentityChanged(Box<identities::Change>),
    /// A connection is gone.
    Disconnected {
        /// The connection.
        connection: ConnectionId,
    },
    /// An agent introduced itself.
    Hello {
        /// The connection.
        connection: ConnectionId,
        /// What it said.
        hello: Hello,
    },
    /// An agent sent an entry of its spool.
    Entry {
        /// The connection.
        connection: ConnectionId,
        /// The entry.
        entry: SpoolEntry,
    },
    /// An agent asks for a part of a package.
    Fetch {
        /// The connection.
        connection: ConnectionId,
        /// The package.
        digest: Digest,
        /// Where the part starts.
        offset: u64,
        /// A package that the agent has.
        base: Option<Digest>,
    },
    /// An agent says what became of a model.
    ModelReport {
        /// The connection.
        connection: ConnectionId,
        /// What it said.
        report: ModelReport,
    },
    /// An agent says how it is.
    Status {
        /// The connection.
        connection: ConnectionId,
        /// What it said.
        status: AgentStatus,
    },
    /// An agent shows what comes in ahead of its backlog.
    Live {
        /// The connection.
        connection: ConnectionId,
        /// What it shows.
        picture: LivePicture,
    },
    /// The ingest log is durable up to here.
    Durable {
        /// The position after the last durable batch.
        end: u64,
    },
    /// The ingest log failed; every batch it has not made durable is to be sent again.
    AppendFailed,
    /// Everything before `to` is in the sample store.
    Compacted {
        /// The position.
        to: u64,
    },
    /// A training run ended.
    Trained {
        /// The run.
        run: i64,
        /// How.
        outcome: RunOutcome,
    },
    /// A package was brought by hand, and is in the artifact store.
    Uploaded(Box<Release>),
    /// The package of a version has other signatures than before.
    Signed {
        /// The model.
        model: ModelName,
        /// The version.
        version: ModelVersion,
        /// The size of the package's file now.
        bytes: u64,
    },
    /// A person wants something of a rollout.
    RolloutWished {
        /// The rollout.
        id: i64,
        /// What.
        wish: rollout::Wish,
        /// Who.
        by: String,
    },
    /// A person wants a version to be rolled out, perhaps one from before.
    RolloutRequested {
        /// The model.
        model: ModelName,
        /// The version.
        version: ModelVersion,
        /// Who.
        by: String,
    },
    /// A person said what an alarm was, durably.
    AlarmReviewed {
        /// The alarm.
        id: String,
        /// What they say.
        review: alarms::Review,
    },
    /// A person said what readings are, durably.
    LabelsAdded(Vec<labels::Label>),
    /// A person took back what they said, durably.
    LabelRemoved {
        /// The label.
        id: String,
    },
    /// A person asks for training.
    RetrainRequested {
        /// The model.
        model: ModelName,
        /// Who or what asked.
        by: String,
    },
    /// Time passed.
    Tick,
}

/// What to do.
#[derive(Debug)]
pub enum Effect {
    /// Append to the ingest log; answered by `Durable` or `AppendFailed`. Positions are given in order of the effects.
    Append {
        /// Who sent it.
        agent: AgentId,
        /// The entry.
        entry: SpoolEntry,
    },
    /// Say something to an agent.
    Send {
        /// The connection.
        connection: ConnectionId,
        /// What.
        message: HubToEdge,
    },
    /// Send a part of a package to an agent.
    SendPart {
        /// The connection.
        connection: ConnectionId,
        /// The package.
        digest: Digest,
        /// Where the part starts.
        offset: u64,
        /// The package the agent has.
        base: Option<Digest>,
    },
    /// Close a connection.
    Close {
        /// The connection.
        connection: ConnectionId,
    },
    /// Move batches from the ingest log to the sample store; answered by `Compacted`. There may be none to move, when
    /// only the snapshot is new.
    Compact {
        /// The first position.
        from: u64,
        /// The position after the last.
        to: u64,
        /// Everything observed before `to`.
        snapshot: Vec<u8>,
    },
    /// Train; answered by `Trained`.
    Train(TrainingJob),
    /// Remember how a run stands.
    RecordRun(retrain::Run),
    /// Remember a new version, and the run that made it. A model's first one is its champion.
    RecordRelease(Box<Release>, retrain::Run),
    /// Remember how a rollout stands. One that released its version makes it champion.
    RecordRollout(Box<rollout::Rollout>),
    /// Remember what an agent said of itself.
    RecordAgent(Box<session::AgentFacts>),
    /// Remember what became of a model on a box.
    RecordDeployment {
        /// The box.
        agent: AgentId,
        /// The model and what became of it.
        report: ModelReport,
        /// When.
        at_ms: UnixMillis,
    },
    /// Remember a drift alarm, or its end.
    RecordDrift(drift::DriftAlarm),
    /// Remember how an alarm stands.
    RecordAlarm(alarms::Alarm),
}
