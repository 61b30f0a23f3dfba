//! The rows of the metadata database, and how they are read out of SQL.

use serde_json::Value;
use shared::event::UnixMillis;
use shared::ids::{AgentId, Digest, Epoch, IdError, ModelName, ModelVersion, StreamId};
use sqlx::Row;
use sqlx::sqlite::SqliteRow;

/// Everything the hub starts from.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Stored {
    /// Where the log is compacted to; `None` before the first compaction is finished.
    pub checkpoint: Option<Checkpoint>,
    /// A compaction that was planned and not finished. Its files must be written again, then it must be finished.
    pub plan: Option<CompactionPlan>,
    /// All versions, by model and number.
    pub versions: Vec<VersionRow>,
    /// The newest [`MAX_LOADED_RUNS`](super::MAX_LOADED_RUNS) runs, by number.
    pub runs: Vec<RunRow>,
    /// Drift episodes by the time they were raised. The open ones and the newest, in all at most
    /// [`MAX_LOADED_DRIFT`](super::MAX_LOADED_DRIFT).
    pub drift: Vec<DriftRow>,
    /// All agents, by name.
    pub agents: Vec<AgentRow>,
    /// Each model's champion, by model.
    pub champions: Vec<(ModelName, ModelVersion)>,
    /// Every rollout, by number.
    pub rollouts: Vec<RolloutRow>,
}

/// How a version was brought to boxes.
#[derive(Debug, Clone, PartialEq)]
pub struct RolloutRow {
    /// Its number.
    pub id: i64,
    /// The model.
    pub model: ModelName,
    /// The version.
    pub version: ModelVersion,
    /// How it stands, in a word.
    pub state: String,
    /// When it began.
    pub started_ms: UnixMillis,
    /// When it ended.
    pub ended_ms: Option<UnixMillis>,
    /// All of it.
    pub record: Value,
    /// Whether its version is champion from now on.
    pub released: bool,
}

/// The hub's derived state at a position of the ingest log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checkpoint {
    /// The position after the last record the snapshot has seen. The log is replayed from here.
    pub position: u64,
    /// The state.
    pub snapshot: Vec<u8>,
}

/// A range of the ingest log that is being written as Parquet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CompactionPlan {
    /// The position of the first record.
    pub from: u64,
    /// The position after the last record.
    pub to: u64,
    /// The hub's derived state at `to`.
    pub snapshot: Vec<u8>,
}

/// A version of a model.
#[derive(Debug, Clone, PartialEq)]
pub struct VersionRow {
    /// The model.
    pub model: ModelName,
    /// The version's number.
    pub version: ModelVersion,
    /// Its package's digest.
    pub digest: Digest,
    /// Its package's size in bytes.
    pub bytes: u64,
    /// When it was made.
    pub created_ms: UnixMillis,
    /// The version that served when it was made.
    pub parent: Option<ModelVersion>,
    /// Why it was made, in words.
    pub trigger: String,
    /// What it was made from.
    pub lineage: Value,
    /// How good it is.
    pub metrics: Value,
    /// The [run](RunRow::id) that made it.
    pub run: i64,
}

/// One go at making a better version.
#[derive(Debug, Clone, PartialEq)]
pub struct RunRow {
    /// The run's number. The hub gives them, ascending.
    pub id: i64,
    /// The model.
    pub model: ModelName,
    /// Why it was started, in words.
    pub trigger: String,
    /// When it was asked for.
    pub requested_ms: UnixMillis,
    /// When it ended.
    pub finished_ms: Option<UnixMillis>,
    /// How it stands.
    pub state: RunState,
    /// The version it released.
    pub version: Option<ModelVersion>,
    /// What it found, for people and programs.
    pub report: Value,
}

/// How a run stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RunState {
    /// It is under way.
    Running,
    /// It made a version.
    Released,
    /// Its candidate was not good enough.
    Refused,
    /// It could not be carried through.
    Failed,
}

impl RunState {
    /// The state as text, as it is stored.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Released => "released",
            Self::Refused => "refused",
            Self::Failed => "failed",
        }
    }

    fn from_text(text: &str) -> Option<Self> {
        [Self::Running, Self::Released, Self::Refused, Self::Failed].into_iter().find(|state| state.as_str() == text)
    }
}

/// An agent as it was last seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AgentRow {
    /// The agent.
    pub agent: AgentId,
    /// When it was first seen.
    pub first_seen_ms: UnixMillis,
    /// When it was last seen.
    pub last_seen_ms: UnixMillis,
    /// The release of its program.
    pub agent_version: String,
    /// What it computes on.
    pub device: String,
    /// The version a person has tied it to.
    pub pinned: Option<ModelVersion>,
    /// The model it said it serves.
    pub serving: Option<(ModelName, ModelVersion, Digest)>,
    /// The epoch of its spool.
    pub epoch: Epoch,
    /// Names the start of its program.
    pub boot_nonce: u64,
}

/// A stretch of time in which an agent's stream did not look like what a model was trained on.
#[derive(Debug, Clone, PartialEq)]
pub struct DriftRow {
    /// The model.
    pub model: ModelName,
    /// The agent.
    pub agent: AgentId,
    /// The stream.
    pub stream: StreamId,
    /// The time of the reading that raised it. With model, agent and stream, this names the episode.
    pub raised_ms: UnixMillis,
    /// The time of the reading that cleared it; `None` while it is open.
    pub cleared_ms: Option<UnixMillis>,
    /// The version whose training data it was compared with.
    pub version: ModelVersion,
    /// What drifted and how far.
    pub channels: Value,
}

/// One go at bringing a version to an agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeploymentRow {
    /// The agent.
    pub agent: AgentId,
    /// The model.
    pub model: ModelName,
    /// The version.
    pub version: ModelVersion,
    /// Its package's digest.
    pub digest: Digest,
    /// When it ended.
    pub at_ms: UnixMillis,
    /// How it ended, in a word.
    pub outcome: String,
    /// Why, in words.
    pub reason: Option<String>,
}

/// Why a row cannot be read.
#[derive(Debug)]
pub(super) enum ReadError {
    Database(sqlx::Error),
    Value { table: &'static str, column: &'static str, problem: String },
}

impl From<sqlx::Error> for ReadError {
    fn from(error: sqlx::Error) -> Self {
        Self::Database(error)
    }
}

/// Any unsigned number as the signed number SQL has, bit by bit. The order of the two differs above `i64::MAX`, so
/// nothing stored this way is compared or sorted in SQL.
pub(super) const fn to_sql(number: u64) -> i64 {
    number.cast_signed()
}

const fn from_sql(number: i64) -> u64 {
    number.cast_unsigned()
}

/// One row of a table, read column by column.
pub(super) struct Columns<'r> {
    pub(super) table: &'static str,
    pub(super) row: &'r SqliteRow,
}

impl Columns<'_> {
    pub(super) fn checkpoint(&self) -> Result<Checkpoint, ReadError> {
        Ok(Checkpoint { position: self.unsigned("to_position")?, snapshot: self.get("snapshot")? })
    }

    pub(super) fn plan(&self) -> Result<CompactionPlan, ReadError> {
        Ok(CompactionPlan {
            from: self.unsigned("from_position")?,
            to: self.unsigned("to_position")?,
            snapshot: self.get("snapshot")?,
        })
    }

    pub(super) fn version_row(&self) -> Result<VersionRow, ReadError> {
        Ok(VersionRow {
            model: self.name("model")?,
            version: self.version("version")?,
            digest: self.digest("digest")?,
            bytes: self.unsigned("bytes")?,
            created_ms: self.get("created_ms")?,
            parent: self.optional_version("parent")?,
            trigger: self.get("triggered_by")?,
            lineage: self.json("lineage")?,
            metrics: self.json("metrics")?,
            run: self.get("run")?,
        })
    }

    pub(super) fn run(&self) -> Result<RunRow, ReadError> {
        let state: String = self.get("state")?;
        Ok(RunRow {
            id: self.get("id")?,
            model: self.name("model")?,
            trigger: self.get("triggered_by")?,
            requested_ms: self.get("requested_ms")?,
            finished_ms: self.get("finished_ms")?,
            state: RunState::from_text(&state)
                .ok_or_else(|| self.wrong("state", format!("{state:?} is no state of a run")))?,
            version: self.optional_version("version")?,
            report: self.json("report")?,
        })
    }

    pub(super) fn agent(&self) -> Result<AgentRow, ReadError> {
        let model: Option<String> = self.get("serving_model")?;
        let serving = match model {
            Some(_) => {
                Some((self.name("serving_model")?, self.version("serving_version")?, self.digest("serving_digest")?))
            }
            None => None,
        };
        Ok(AgentRow {
            agent: self.name("agent")?,
            first_seen_ms: self.get("first_seen_ms")?,
            last_seen_ms: self.get("last_seen_ms")?,
            agent_version: self.get("agent_version")?,
            device: self.get("device")?,
            pinned: self.optional_version("pinned")?,
            serving,
            epoch: Epoch(self.unsigned("epoch")?),
            boot_nonce: self.unsigned("boot_nonce")?,
        })
    }

    pub(super) fn drift(&self) -> Result<DriftRow, ReadError> {
        Ok(DriftRow {
            model: self.name("model")?,
            agent: self.name("agent")?,
            stream: self.name("stream")?,
            raised_ms: self.get("raised_ms")?,
            cleared_ms: self.get("cleared_ms")?,
            version: self.version("version")?,
            channels: self.json("channels")?,
        })
    }

    pub(super) fn deployment(&self) -> Result<DeploymentRow, ReadError> {
        Ok(DeploymentRow {
            agent: self.name("agent")?,
            model: self.name("model")?,
            version: self.version("version")?,
            digest: self.digest("digest")?,
            at_ms: self.get("at_ms")?,
            outcome: self.get("outcome")?,
            reason: self.get("reason")?,
        })
    }

    pub(super) fn rollout(&self) -> Result<RolloutRow, ReadError> {
        let state: String = self.get("state")?;
        Ok(RolloutRow {
            id: self.get("id")?,
            model: self.name("model")?,
            version: self.version("version")?,
            released: state == "released",
            state,
            started_ms: self.get("started_ms")?,
            ended_ms: self.get("ended_ms")?,
            record: self.json("record")?,
        })
    }

    pub(super) fn champion(&self) -> Result<(ModelName, ModelVersion), ReadError> {
        Ok((self.name("model")?, self.version("version")?))
    }

    pub(super) fn get<'s, T>(&'s self, column: &'static str) -> Result<T, ReadError>
    where
        T: sqlx::Decode<'s, sqlx::Sqlite> + sqlx::Type<sqlx::Sqlite>,
    {
        self.row.try_get(column).map_err(|error| self.wrong(column, error.to_string()))
    }

    pub(super) fn unsigned(&self, column: &'static str) -> Result<u64, ReadError> {
        self.get(column).map(from_sql)
    }

    pub(super) fn version(&self, column: &'static str) -> Result<ModelVersion, ReadError> {
        self.in_version(column, self.get(column)?)
    }

    fn optional_version(&self, column: &'static str) -> Result<Option<ModelVersion>, ReadError> {
        let number: Option<i64> = self.get(column)?;
        number.map(|number| self.in_version(column, number)).transpose()
    }

    fn in_version(&self, column: &'static str, number: i64) -> Result<ModelVersion, ReadError> {
        u32::try_from(number)
            .map(ModelVersion)
            .map_err(|_| self.wrong(column, format!("{number} is no version; versions are from 0 to {}", u32::MAX)))
    }

    pub(super) fn name<T: TryFrom<String, Error = IdError>>(&self, column: &'static str) -> Result<T, ReadError> {
        let text: String = self.get(column)?;
        T::try_from(text).map_err(|error| self.wrong(column, error.to_string()))
    }

    pub(super) fn digest(&self, column: &'static str) -> Result<Digest, ReadError> {
        let text: String = self.get(column)?;
        Digest::from_hex(&text).ok_or_else(|| self.wrong(column, format!("{text:?} is not 64 hexadecimal digits")))
    }

    fn json(&self, column: &'static str) -> Result<Value, ReadError> {
        let text: String = self.get(column)?;
        serde_json::from_str(&text).map_err(|error| self.wrong(column, format!("it is not JSON: {error}")))
    }

    pub(super) fn wrong(&self, column: &'static str, problem: String) -> ReadError {
        ReadError::Value { table: self.table, column, problem }
    }
}
