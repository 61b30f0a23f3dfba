//! What programs that train elsewhere log, and the models they register: experiments, runs and models, as MLflow knows them.
//!
//! What the hub itself trains and keeps is not in here; whoever shows this shows that beside it.

mod act;
pub mod filter;
mod perform;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use shared::event::UnixMillis;

pub use act::{Act, Deed, Document, Fault};

/// The experiment of runs that name none.
pub const DEFAULT_EXPERIMENT: &str = "0";
/// The tag in which MLflow's clients keep a run's name for people.
pub const RUN_NAME_TAG: &str = "mlflow.runName";

/// Names with something to say: parameters, tags.
pub type Texts = BTreeMap<String, String>;

/// Runs that belong together.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Experiment {
    /// Its name for programs.
    pub id: String,
    /// Its name.
    pub name: String,
    /// When it was made.
    pub created_ms: UnixMillis,
    /// When it was last changed.
    pub updated_ms: UnixMillis,
    /// What there is to say of it.
    pub tags: Texts,
    /// Whether somebody threw it away.
    pub is_deleted: bool,
}

/// A training somewhere.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TrackedRun {
    /// Its name for programs.
    pub id: String,
    /// The experiment.
    pub experiment: String,
    /// Its name for people.
    pub name: String,
    /// Who runs it.
    pub user: String,
    /// How it stands: `RUNNING`, `FINISHED` and others.
    pub status: String,
    /// When it began.
    pub started_ms: UnixMillis,
    /// When it ended.
    pub ended_ms: Option<UnixMillis>,
    /// What it was told.
    pub params: Texts,
    /// What there is to say of it.
    pub tags: Texts,
    /// The newest value of each figure.
    pub metrics: BTreeMap<String, Point>,
    /// Whether somebody threw it away.
    pub is_deleted: bool,
    /// Points of its figures, over all of them.
    pub points: u64,
}

/// A figure at some time.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Point {
    /// The value; may be no number.
    #[serde(with = "any_number")]
    pub value: f64,
    /// When.
    pub timestamp: UnixMillis,
    /// After which step.
    pub step: i64,
}

/// A model with versions.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RegisteredModel {
    /// Its name.
    pub name: String,
    /// What it is.
    pub description: String,
    /// When it was made.
    pub created_ms: UnixMillis,
    /// When it was last changed.
    pub updated_ms: UnixMillis,
    /// What there is to say of it.
    pub tags: Texts,
    /// Names of versions.
    pub aliases: BTreeMap<String, u32>,
    /// Its versions, oldest first.
    pub versions: Vec<TrackedVersion>,
    /// The number of the next version: numbers of versions that are gone are not given again.
    pub next_version: u32,
}

/// A version of a model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TrackedVersion {
    /// Its number.
    pub version: u32,
    /// Where its files are.
    pub source: String,
    /// The run that made it.
    pub run: String,
    /// What it is.
    pub description: String,
    /// Who registered it.
    pub user: String,
    /// When.
    pub created_ms: UnixMillis,
    /// When it was last changed.
    pub updated_ms: UnixMillis,
    /// What there is to say of it.
    pub tags: Texts,
}

/// Everything that is tracked.
#[derive(Debug, Clone, Default)]
pub struct Tracking {
    experiments: BTreeMap<String, Experiment>,
    runs: BTreeMap<String, TrackedRun>,
    models: BTreeMap<String, RegisteredModel>,
}

impl Tracking {
    /// What the database knows.
    #[must_use]
    pub fn new(documents: Vec<Document>) -> Self {
        let mut tracking = Self::default();
        documents.into_iter().for_each(|document| tracking.put(document));
        tracking
    }

    /// Every experiment, the one of runs that name none first.
    pub fn experiments(&self) -> impl Iterator<Item = &Experiment> {
        self.experiments.values()
    }

    /// The experiment of this number.
    #[must_use]
    pub fn experiment(&self, id: &str) -> Option<&Experiment> {
        self.experiments.get(id)
    }

    /// Every run.
    pub fn runs(&self) -> impl Iterator<Item = &TrackedRun> {
        self.runs.values()
    }

    /// The run of this name.
    #[must_use]
    pub fn run(&self, id: &str) -> Option<&TrackedRun> {
        self.runs.get(id)
    }

    /// Every model.
    pub fn models(&self) -> impl Iterator<Item = &RegisteredModel> {
        self.models.values()
    }

    /// The model of this name.
    #[must_use]
    pub fn model(&self, name: &str) -> Option<&RegisteredModel> {
        self.models.get(name)
    }

    /// Takes what is durable.
    pub fn apply(&mut self, deed: Deed) {
        deed.documents.into_iter().for_each(|document| self.put(document));
    }

    fn put(&mut self, document: Document) {
        match document {
            Document::Experiment(experiment) => drop(self.experiments.insert(experiment.id.clone(), experiment)),
            Document::Run(run) => drop(self.runs.insert(run.id.clone(), run)),
            Document::RunGone(id) => drop(self.runs.remove(&id)),
            Document::Model(model) => drop(self.models.insert(model.name.clone(), model)),
            Document::ModelGone(name) => drop(self.models.remove(&name)),
        }
    }
}

/// Numbers that JSON has none of are written as words, as MLflow's clients read them.
pub mod any_number {
    use serde::{Deserialize, Deserializer, Serializer, de};

    /// A number, or a word for one.
    ///
    /// # Errors
    /// Of the serializer.
    pub fn serialize<S: Serializer>(value: &f64, serializer: S) -> Result<S::Ok, S::Error> {
        match value {
            value if value.is_finite() => serializer.serialize_f64(*value),
            value if value.is_nan() => serializer.serialize_str("NaN"),
            value if *value > 0.0 => serializer.serialize_str("Infinity"),
            _ => serializer.serialize_str("-Infinity"),
        }
    }

    /// The number.
    ///
    /// # Errors
    /// If it is neither a number nor such a word.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Said {
            Number(f64),
            Word(String),
        }
        match Said::deserialize(deserializer)? {
            Said::Number(number) => Ok(number),
            Said::Word(word) => word.parse().map_err(|_| de::Error::custom(format!("{word:?} is no number"))),
        }
    }
}
