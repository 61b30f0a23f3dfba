//! What can be done to what is tracked, and what comes of it.

use shared::event::UnixMillis;

use super::{Experiment, Point, RegisteredModel, Texts, TrackedRun};

/// Why something cannot be done, as MLflow says it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// There is no such thing.
    #[error("{0}")]
    Missing(String),
    /// There is one already.
    #[error("{0}")]
    Exists(String),
    /// It is said wrongly.
    #[error("{0}")]
    Invalid(String),
    /// The hub's database failed.
    #[error("{0}")]
    Failed(String),
}

/// What somebody wants done.
#[derive(Debug, Clone, PartialEq)]
pub enum Act {
    /// A new experiment.
    CreateExperiment {
        /// Its name for programs.
        id: String,
        /// Its name.
        name: String,
        /// What there is to say.
        tags: Texts,
    },
    /// Something to say of an experiment.
    TagExperiment {
        /// Its name for programs.
        id: String,
        /// What it is called.
        key: String,
        /// What it is.
        value: String,
    },
    /// An experiment has another name.
    RenameExperiment {
        /// Its name for programs.
        id: String,
        /// The new one.
        name: String,
    },
    /// An experiment is thrown away, or fetched back.
    SetExperimentDeleted {
        /// Its name for programs.
        id: String,
        /// Whether it is thrown away.
        is_deleted: bool,
    },
    /// A new run.
    CreateRun {
        /// Its name for programs.
        id: String,
        /// The experiment.
        experiment: String,
        /// Its name.
        name: String,
        /// Who.
        user: String,
        /// When it began.
        started_ms: UnixMillis,
        /// What there is to say.
        tags: Texts,
    },
    /// A run goes on or ends.
    UpdateRun {
        /// Its name for programs.
        id: String,
        /// How it stands, if that is different.
        status: Option<String>,
        /// When it ended, if it did.
        ended_ms: Option<UnixMillis>,
        /// Its name.
        name: Option<String>,
    },
    /// What a run was told, says and measured.
    Log {
        /// Its name for programs.
        id: String,
        /// What it was told.
        params: Texts,
        /// What there is to say.
        tags: Texts,
        /// What it measured.
        metrics: Vec<(String, Point)>,
    },
    /// Something of a run is said no more.
    UntagRun {
        /// Its name for programs.
        id: String,
        /// What it is called.
        key: String,
    },
    /// A run is thrown away, or fetched back.
    SetRunDeleted {
        /// Its name for programs.
        id: String,
        /// Whether it is thrown away.
        is_deleted: bool,
    },
    /// A new model.
    CreateModel {
        /// Its name.
        name: String,
        /// What it is.
        description: String,
        /// What there is to say.
        tags: Texts,
    },
    /// Another description of a model.
    DescribeModel {
        /// Its name.
        name: String,
        /// What it is.
        description: String,
    },
    /// A model has another name.
    RenameModel {
        /// The name it has.
        name: String,
        /// The new one.
        new_name: String,
    },
    /// A model is gone.
    DeleteModel {
        /// Its name.
        name: String,
    },
    /// Something to say of a model; nothing says it no more.
    TagModel {
        /// Its name.
        name: String,
        /// What it is called.
        key: String,
        /// What it is.
        value: Option<String>,
    },
    /// A new version.
    CreateVersion {
        /// Its name.
        name: String,
        /// Where its files are.
        source: String,
        /// The run that made it.
        run: String,
        /// What it is.
        description: String,
        /// Who.
        user: String,
        /// What there is to say.
        tags: Texts,
    },
    /// What there is to say of a version that the hub has itself.
    NoteVersion {
        /// The model.
        name: String,
        /// The version.
        version: u32,
        /// The run that made it.
        run: String,
        /// What it is.
        description: String,
        /// Who brought it.
        user: String,
        /// What there is to say.
        tags: Texts,
    },
    /// Another description of a version.
    DescribeVersion {
        /// Its name.
        name: String,
        /// The version.
        version: u32,
        /// What it is.
        description: String,
    },
    /// A version is gone.
    DeleteVersion {
        /// Its name.
        name: String,
        /// The version.
        version: u32,
    },
    /// Something to say of a version; nothing says it no more.
    TagVersion {
        /// Its name.
        name: String,
        /// The version.
        version: u32,
        /// What it is called.
        key: String,
        /// What it is.
        value: Option<String>,
    },
    /// A name for a version; nothing takes it away.
    SetAlias {
        /// Its name.
        name: String,
        /// The name.
        alias: String,
        /// The version.
        version: Option<u32>,
    },
}

/// What an act changes: to be made durable, and then applied.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Deed {
    /// What is different now.
    pub documents: Vec<Document>,
    /// What a run measured, for its history.
    pub points: Vec<(String, String, Point)>,
}

/// Something that is tracked.
#[derive(Debug, Clone, PartialEq)]
pub enum Document {
    /// An experiment.
    Experiment(Experiment),
    /// A run.
    Run(TrackedRun),
    /// A run that is gone, with its points.
    RunGone(String),
    /// A model with its versions.
    Model(RegisteredModel),
    /// A model that is gone.
    ModelGone(String),
}
