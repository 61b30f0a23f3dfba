//! The hub's metadata in SQLite: versions, runs, agents, drift, deployments, and where the ingest log is compacted to.
//!
//! What the hub derives from the ingest log is a snapshot at a position of the log; whatever follows that position is
//! replayed. The snapshot moves on in three steps, and a crash between any two of them is made good by repeating the
//! rest: [`Store::plan_compaction`], then the caller writes the Parquet files of the planned range, then
//! [`Store::finish_compaction`].

mod access;
mod documents;
pub mod history;
mod identities;
mod notes;
mod programs;
mod rows;
mod sql;
mod tracking;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use shared::event::UnixMillis;
use shared::ids::AgentId;
use sqlx::migrate::{MigrateError, Migrator};
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteSynchronous};

use history::{HistoryHead, HistoryRow};
pub use rows::{
    AgentRow, Checkpoint, CompactionPlan, DeploymentRow, DriftRow, RolloutRow, RunRow, RunState, Stored, VersionRow,
};

/// Runs that are loaded, the newest: a run a minute for a week.
pub const MAX_LOADED_RUNS: u32 = 10_000;
/// Drift episodes that are loaded, open ones first, then the newest: a week of one a minute.
pub const MAX_LOADED_DRIFT: u32 = 10_000;

/// SQLite lets one connection write at a time; more would only wait for each other.
const CONNECTIONS: u32 = 1;
/// How long to wait for another program, such as a backup, to let go of the file.
const BUSY_TIMEOUT: Duration = Duration::from_secs(10);

/// `SQLITE_CORRUPT` and `SQLITE_NOTADB`, <https://www.sqlite.org/rescode.html>.
const DAMAGED_CODES: [i32; 2] = [11, 26];
/// The low byte of an extended result code is the primary one.
const PRIMARY_CODE_MASK: i32 = 0xff;

static MIGRATIONS: Migrator = sqlx::migrate!("./migrations");

/// The metadata database. Clones are cheap and mean the same database.
#[derive(Debug, Clone)]
pub struct Store {
    pool: SqlitePool,
    path: Arc<Path>,
}

/// Why the metadata database cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The file cannot be opened or its tables cannot be made.
    #[error("open the metadata database {path}: {source}", path = path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// Why.
        source: MigrateError,
    },
    /// The file is not a whole SQLite database.
    #[error(
        "use the metadata database {path}: it is damaged ({problem}); put a backup in its place, or move it away to \
         start anew",
        path = path.display()
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What SQLite found.
        problem: String,
    },
    /// A newer hub has changed the tables.
    #[error(
        "use the metadata database {path}: a newer hub wrote it (schema {found}, this hub knows up to {known}); run \
         that hub, or a newer one",
        path = path.display()
    )]
    Newer {
        /// The file.
        path: PathBuf,
        /// A migration it went through.
        found: i64,
        /// The newest migration this program has.
        known: i64,
    },
    /// A statement failed.
    #[error("{action} in the metadata database {path}: {source}", path = path.display())]
    Query {
        /// What was tried.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        source: sqlx::Error,
    },
    /// A row holds something this program did not write.
    #[error("read {table}.{column} from the metadata database {path}: {problem}", path = path.display())]
    Row {
        /// The table.
        table: &'static str,
        /// The column.
        column: &'static str,
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// Another compaction is planned and not finished: its files may be half written.
    #[error(
        "plan the compaction of positions {from}..{to}: {pending_from}..{pending_to} is planned and not finished; \
         write its files and finish it first"
    )]
    Pending {
        /// The refused plan's start.
        from: u64,
        /// The refused plan's end.
        to: u64,
        /// The unfinished plan's start.
        pending_from: u64,
        /// The unfinished plan's end.
        pending_to: u64,
    },
    /// The plan would leave out or repeat a part of the log.
    #[error("plan the compaction of positions {from}..{to}: it must begin at {expected} and not end before")]
    Range {
        /// The refused plan's start.
        from: u64,
        /// The refused plan's end.
        to: u64,
        /// Where the log is compacted to.
        expected: u64,
    },
    /// There is no plan to finish.
    #[error("finish the compaction: none is planned")]
    NoPlan,
}

impl Store {
    /// Opens the database at `path`, making the file and its tables where they are not there. The folder must be.
    ///
    /// # Errors
    /// If the file cannot be opened, is damaged, or was written by a newer hub.
    pub async fn open(path: &Path) -> Result<Self, StoreError> {
        let options = SqliteConnectOptions::new()
            .filename(path)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .foreign_keys(true)
            .busy_timeout(BUSY_TIMEOUT);
        let pool = SqlitePoolOptions::new().max_connections(CONNECTIONS).connect_with(options).await;
        let pool = pool.map_err(|error| open_error(path, error.into()))?;
        let store = Self { pool, path: Arc::from(path) };
        match store.prepare().await {
            Ok(()) => Ok(store),
            Err(error) => {
                store.close().await;
                Err(error)
            }
        }
    }

    async fn prepare(&self) -> Result<(), StoreError> {
        let check = sqlx::query_scalar("PRAGMA quick_check(1)").fetch_one(&self.pool).await;
        let verdict: String = check.map_err(|error| open_error(&self.path, error.into()))?;
        if verdict != "ok" {
            return Err(StoreError::Damaged { path: self.path.to_path_buf(), problem: verdict });
        }
        MIGRATIONS.run(&self.pool).await.map_err(|error| open_error(&self.path, error))
    }

    /// Everything the hub starts from.
    ///
    /// # Errors
    /// If the database cannot be read or holds something this program did not write.
    pub async fn load(&self) -> Result<Stored, StoreError> {
        let mut transaction = self.pool.begin().await.map_err(self.failed("read"))?;
        let stored = sql::load(&mut transaction).await.map_err(|error| self.row_error(error))?;
        transaction.commit().await.map_err(self.failed("read"))?;
        Ok(stored)
    }

    /// Notes, durably, that the plan's range is about to be written as Parquet. The same plan may be noted again.
    ///
    /// # Errors
    /// If another plan is not finished, or if the range does not begin where the log is compacted to.
    pub async fn plan_compaction(&self, plan: &CompactionPlan) -> Result<(), StoreError> {
        let action = "plan the compaction";
        let mut transaction = self.pool.begin().await.map_err(self.failed(action))?;
        // Writing first takes SQLite's lock before anything is read, so nothing can change in between.
        let inserted = sql::insert_plan(&mut transaction, plan).await.map_err(self.failed(action))?;
        let (checkpoint, pending) = sql::compaction(&mut transaction).await.map_err(|error| self.row_error(error))?;
        if let Some(pending) = pending.filter(|pending| !inserted && pending != plan) {
            let (from, to) = (plan.from, plan.to);
            return Err(StoreError::Pending { from, to, pending_from: pending.from, pending_to: pending.to });
        }
        let expected = checkpoint.map_or(plan.from, |checkpoint| checkpoint.position);
        if plan.from != expected || plan.to < plan.from {
            return Err(StoreError::Range { from: plan.from, to: plan.to, expected });
        }
        transaction.commit().await.map_err(self.failed(action))
    }

    /// Makes the planned snapshot the checkpoint and forgets the plan, in one step. To be called once the range's
    /// Parquet files are durable.
    ///
    /// # Errors
    /// If nothing is planned.
    pub async fn finish_compaction(&self) -> Result<(), StoreError> {
        let action = "finish the compaction";
        let mut transaction = self.pool.begin().await.map_err(self.failed(action))?;
        if !sql::finish_plan(&mut transaction).await.map_err(self.failed(action))? {
            return Err(StoreError::NoPlan);
        }
        transaction.commit().await.map_err(self.failed(action))
    }

    /// Adds a version to the registry, together with the run that made it, and makes it its model's champion if there is
    /// none, in one step.
    ///
    /// # Errors
    /// If the version is there already: the registry is only ever added to.
    pub async fn insert_version(&self, row: &VersionRow, run: &RunRow) -> Result<HistoryHead, StoreError> {
        let action = "add a version";
        let mut transaction = self.pool.begin().await.map_err(self.failed(action))?;
        sql::upsert_run(&mut transaction, run).await.map_err(self.failed(action))?;
        sql::insert_version(&mut transaction, row).await.map_err(self.failed(action))?;
        let added = history::append(&mut transaction, row.created_ms, "version", &history::version_body(row)).await;
        let mut head = added.map_err(self.failed(action))?;
        let first = sql::set_first_champion(&mut transaction, &row.model, row.version).await;
        if first.map_err(self.failed(action))? {
            let body = json!({ "model": row.model.as_str(), "version": row.version.0, "rollout": null });
            let added = history::append(&mut transaction, row.created_ms, "champion", &body).await;
            head = added.map_err(self.failed(action))?;
        }
        transaction.commit().await.map_err(self.failed(action))?;
        Ok(head)
    }

    /// Adds a rollout, or replaces what is known of it; one that released its version makes it champion, in one step.
    ///
    /// # Errors
    /// If the database cannot be written.
    pub async fn upsert_rollout(&self, row: &RolloutRow, at_ms: UnixMillis) -> Result<HistoryHead, StoreError> {
        let action = "store a rollout";
        let mut transaction = self.pool.begin().await.map_err(self.failed(action))?;
        sql::upsert_rollout(&mut transaction, row).await.map_err(self.failed(action))?;
        let added = history::append(&mut transaction, at_ms, "rollout", &history::rollout_body(row)).await;
        let mut head = added.map_err(self.failed(action))?;
        if row.released {
            sql::set_champion(&mut transaction, &row.model, row.version).await.map_err(self.failed(action))?;
            let body = json!({ "model": row.model.as_str(), "version": row.version.0, "rollout": row.id });
            let added = history::append(&mut transaction, at_ms, "champion", &body).await;
            head = added.map_err(self.failed(action))?;
        }
        transaction.commit().await.map_err(self.failed(action))?;
        Ok(head)
    }

    /// Everything that happened to versions, in order.
    ///
    /// # Errors
    /// If the database cannot be read.
    pub async fn history(&self) -> Result<Vec<HistoryRow>, StoreError> {
        let mut connection = self.pool.acquire().await.map_err(self.failed("read the history"))?;
        history::read(&mut connection).await.map_err(|error| self.row_error(error))
    }

    /// Adds a row of its own to the history.
    ///
    /// # Errors
    /// If the database cannot be written.
    pub async fn append_history(
        &self,
        at_ms: UnixMillis,
        kind: &str,
        body: &serde_json::Value,
    ) -> Result<HistoryHead, StoreError> {
        let action = "add to the history";
        let mut transaction = self.pool.begin().await.map_err(self.failed(action))?;
        let head = history::append(&mut transaction, at_ms, kind, body).await.map_err(self.failed(action))?;
        transaction.commit().await.map_err(self.failed(action))?;
        Ok(head)
    }

    /// The newest rows of the history before one, newest first.
    ///
    /// # Errors
    /// If the database cannot be read.
    pub async fn history_page(&self, before: i64, limit: u32) -> Result<Vec<HistoryRow>, StoreError> {
        let mut connection = self.pool.acquire().await.map_err(self.failed("read the history"))?;
        history::page(&mut connection, before, limit).await.map_err(|error| self.row_error(error))
    }

    /// The rows of the history after one, oldest first.
    ///
    /// # Errors
    /// If the statement fails.
    pub async fn history_after(&self, after: i64, limit: u32) -> Result<Vec<HistoryRow>, StoreError> {
        let mut connection = self.pool.acquire().await.map_err(self.failed("read the history"))?;
        history::after(&mut connection, after, limit).await.map_err(|error| self.row_error(error))
    }

    /// Adds a run, or replaces what is known of it.
    ///
    /// # Errors
    /// If the database cannot be written; so for every method below.
    pub async fn upsert_run(&self, row: &RunRow) -> Result<(), StoreError> {
        let mut connection = self.pool.acquire().await.map_err(self.failed("store a run"))?;
        sql::upsert_run(&mut connection, row).await.map_err(self.failed("store a run"))
    }

    /// Adds an agent, or replaces what is known of it.
    ///
    /// # Errors
    /// If the database cannot be written.
    pub async fn upsert_agent(&self, row: &AgentRow) -> Result<(), StoreError> {
        let mut connection = self.pool.acquire().await.map_err(self.failed("store an agent"))?;
        sql::upsert_agent(&mut connection, row).await.map_err(self.failed("store an agent"))
    }

    /// Adds a drift episode, or replaces what is known of it.
    ///
    /// # Errors
    /// If the database cannot be written.
    pub async fn upsert_drift(&self, row: &DriftRow) -> Result<(), StoreError> {
        let mut connection = self.pool.acquire().await.map_err(self.failed("store a drift episode"))?;
        sql::upsert_drift(&mut connection, row).await.map_err(self.failed("store a drift episode"))
    }

    /// Adds a deployment. The same one may be added again: it is kept once, as it was first told.
    ///
    /// # Errors
    /// If the database cannot be written.
    pub async fn insert_deployment(&self, row: &DeploymentRow) -> Result<Option<HistoryHead>, StoreError> {
        let action = "store a deployment";
        let mut transaction = self.pool.begin().await.map_err(self.failed(action))?;
        if !sql::insert_deployment(&mut transaction, row).await.map_err(self.failed(action))? {
            return Ok(None);
        }
        let body = history::deployment_body(row);
        let added = history::append(&mut transaction, row.at_ms, "deployment", &body).await;
        let head = added.map_err(self.failed(action))?;
        transaction.commit().await.map_err(self.failed(action))?;
        Ok(Some(head))
    }

    /// An agent's deployments, the newest first, at most `limit`.
    ///
    /// # Errors
    /// If the database cannot be read or holds something this program did not write.
    pub async fn deployments(&self, agent: &AgentId, limit: u32) -> Result<Vec<DeploymentRow>, StoreError> {
        let mut connection = self.pool.acquire().await.map_err(self.failed("read deployments"))?;
        sql::deployments(&mut connection, agent, limit).await.map_err(|error| self.row_error(error))
    }

    /// Closes the database, waiting for what is under way. Clones cannot be used after it.
    pub async fn close(&self) {
        self.pool.close().await;
    }

    fn failed(&self, action: &'static str) -> impl Fn(sqlx::Error) -> StoreError {
        let path = self.path.to_path_buf();
        move |source| match damage(&source) {
            Some(problem) => StoreError::Damaged { path: path.clone(), problem },
            None => StoreError::Query { action, path: path.clone(), source },
        }
    }

    fn row_error(&self, error: rows::ReadError) -> StoreError {
        match error {
            rows::ReadError::Database(source) => self.failed("read")(source),
            rows::ReadError::Value { table, column, problem } => {
                StoreError::Row { table, column, path: self.path.to_path_buf(), problem }
            }
        }
    }
}

fn open_error(path: &Path, error: MigrateError) -> StoreError {
    let path = path.to_owned();
    if let MigrateError::VersionMissing(found) = error {
        let known = MIGRATIONS.iter().map(|migration| migration.version).max().unwrap_or_default();
        return StoreError::Newer { path, found, known };
    }
    if let MigrateError::Execute(source) | MigrateError::ExecuteMigration(source, _) = &error
        && let Some(problem) = damage(source)
    {
        return StoreError::Damaged { path, problem };
    }
    StoreError::Open { path, source: error }
}

/// What SQLite says is damaged, if that is what went wrong.
fn damage(error: &sqlx::Error) -> Option<String> {
    let error = error.as_database_error()?;
    let code: i32 = error.code()?.parse().ok()?;
    DAMAGED_CODES.contains(&(code & PRIMARY_CODE_MASK)).then(|| error.message().to_owned())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::{Seek, SeekFrom, Write};

    use serde_json::json;
    use shared::ids::{Digest, Epoch, ModelName, ModelVersion, StreamId};
    use tempfile::TempDir;

    use super::*;

    fn agent(name: &str) -> AgentId {
        AgentId::new(name).expect("valid")
    }

    fn model(name: &str) -> ModelName {
        ModelName::new(name).expect("valid")
    }

    fn run(id: i64, state: RunState) -> RunRow {
        let (finished_ms, version) = match state {
            RunState::Running => (None, None),
            RunState::Released => (Some(90), Some(ModelVersion(1))),
            RunState::Refused | RunState::Failed => (Some(90), None),
        };
        let report = json!({"gates": [{"name": "recall", "value": 0.5}], "note": "ünï"});
        RunRow {
            id,
            model: model("pump"),
            trigger: "drift".into(),
            requested_ms: 80,
            finished_ms,
            state,
            version,
            report,
        }
    }

    fn version(name: &str, number: u32, run: i64) -> VersionRow {
        VersionRow {
            model: model(name),
            version: ModelVersion(number),
            digest: Digest::of(name.as_bytes()),
            bytes: 12_345,
            created_ms: -5,
            parent: number.checked_sub(1).filter(|parent| *parent > 0).map(ModelVersion),
            trigger: "a person".into(),
            lineage: json!({"seed": u64::MAX, "b": 1, "a": 2}),
            metrics: json!({"f1": 0.875}),
            run,
        }
    }

    fn agent_row(name: &str) -> AgentRow {
        AgentRow {
            agent: agent(name),
            first_seen_ms: 1,
            last_seen_ms: 2,
            agent_version: "0.1.0".into(),
            device: "flex".into(),
            pinned: Some(ModelVersion(u32::MAX)),
            serving: Some((model("unknown-here"), ModelVersion(7), Digest::of(b"seven"))),
            epoch: Epoch(3),
            boot_nonce: u64::MAX - 1,
        }
    }

    fn drift(stream: &str, raised_ms: i64, cleared_ms: Option<i64>) -> DriftRow {
        DriftRow {
            model: model("pump"),
            agent: agent("a"),
            stream: StreamId::new(stream).expect("valid"),
            raised_ms,
            cleared_ms,
            version: ModelVersion(1),
            channels: json!([{"channel": "flow", "psi": 0.4}]),
        }
    }

    fn rollout(id: i64, number: u32, state: &str) -> RolloutRow {
        RolloutRow {
            id,
            model: model("pump"),
            version: ModelVersion(number),
            state: state.into(),
            started_ms: 5,
            ended_ms: (state == "released").then_some(70),
            record: json!({"log": [[5, "it began"]]}),
            released: state == "released",
        }
    }

    fn plan(from: u64, to: u64) -> CompactionPlan {
        CompactionPlan { from, to, snapshot: vec![0, 1, 255, u8::try_from(to % 256).expect("fits")] }
    }

    async fn store() -> (TempDir, Store) {
        let folder = TempDir::new().expect("a temporary folder");
        let store = Store::open(&folder.path().join("hub.sqlite")).await.expect("opens");
        (folder, store)
    }

    async fn reopened(store: &Store) -> Store {
        store.close().await;
        Store::open(&store.path).await.expect("opens again")
    }

    #[tokio::test]
    async fn a_new_database_is_empty_and_opens_again() {
        let (_folder, store) = store().await;
        assert_eq!(store.load().await.expect("loads"), Stored::default());
        assert_eq!(reopened(&store).await.load().await.expect("loads"), Stored::default());
    }

    #[tokio::test]
    async fn the_connection_keeps_what_it_is_told_even_if_the_power_fails() {
        let (_folder, store) = store().await;
        let pragma = async |name: &'static str| -> String {
            sqlx::query_scalar(name).fetch_one(&store.pool).await.expect("a pragma")
        };
        assert_eq!(pragma("PRAGMA journal_mode").await, "wal");
        assert_eq!(pragma("SELECT CAST(synchronous AS TEXT) FROM pragma_synchronous").await, "2");
        assert_eq!(pragma("SELECT CAST(foreign_keys AS TEXT) FROM pragma_foreign_keys").await, "1");
    }

    #[tokio::test]
    async fn everything_stored_is_loaded_again_in_order() {
        let (_folder, store) = store().await;
        let runs = [run(1, RunState::Released), run(2, RunState::Refused), run(3, RunState::Failed)];
        let going = run(40, RunState::Running);
        store.upsert_run(&going).await.expect("stores");
        store.upsert_run(&runs[2]).await.expect("stores");
        store.upsert_run(&runs[1]).await.expect("stores");
        store.insert_version(&version("pump", 2, 1), &runs[0]).await.expect("stores");
        store.insert_version(&version("pump", 10, 1), &runs[0]).await.expect("stores");
        store.insert_version(&version("fan", 1, 1), &runs[0]).await.expect("stores");
        store.upsert_rollout(&rollout(1, 10, "running"), 60).await.expect("stores");
        store.upsert_rollout(&rollout(1, 10, "released"), 70).await.expect("stores");
        let idle = AgentRow { serving: None, pinned: None, ..agent_row("a") };
        store.upsert_agent(&agent_row("b")).await.expect("stores");
        store.upsert_agent(&idle).await.expect("stores");
        store.upsert_drift(&drift("x/y", 20, Some(30))).await.expect("stores");
        store.upsert_drift(&drift("x/y", -10, None)).await.expect("stores");
        store.plan_compaction(&plan(0, 5)).await.expect("plans");
        store.finish_compaction().await.expect("finishes");
        store.plan_compaction(&plan(5, 9)).await.expect("plans");

        let store = reopened(&store).await;
        let stored = store.load().await.expect("loads");
        let expected = Stored {
            checkpoint: Some(Checkpoint { position: 5, snapshot: plan(0, 5).snapshot }),
            plan: Some(plan(5, 9)),
            versions: vec![version("fan", 1, 1), version("pump", 2, 1), version("pump", 10, 1)],
            runs: runs.into_iter().chain([going]).collect(),
            drift: vec![drift("x/y", -10, None), drift("x/y", 20, Some(30))],
            agents: vec![idle, agent_row("b")],
            champions: vec![(model("fan"), ModelVersion(1)), (model("pump"), ModelVersion(10))],
            rollouts: vec![rollout(1, 10, "released")],
        };
        assert_eq!(stored, expected);
        let history = store.history().await.expect("reads");
        history::check(&history, None).expect("it is as it was written");
        history::check_tables(&history, &stored.versions, &stored.champions).expect("the tables agree");
        let kinds: Vec<&str> = history.iter().map(|row| row.kind.as_str()).collect();
        let expected = ["version", "champion", "version", "version", "champion", "rollout", "rollout", "champion"];
        assert_eq!(kinds, expected);
        let other = VersionRow { bytes: 1, ..version("fan", 1, 1) };
        let fault = history::check_tables(&history, &[other], &[]).expect_err("it was changed").to_string();
        assert_eq!(fault, "fan version 1 is not what the history says");
    }

    #[tokio::test]
    async fn a_compaction_is_planned_until_it_is_finished_whenever_the_hub_crashes() {
        let (_folder, store) = store().await;
        store.plan_compaction(&plan(3, 7)).await.expect("plans");

        let store = reopened(&store).await;
        let stored = store.load().await.expect("loads");
        assert_eq!((stored.checkpoint, stored.plan), (None, Some(plan(3, 7))));
        store.plan_compaction(&plan(3, 7)).await.expect("the same plan may be noted again");
        store.finish_compaction().await.expect("finishes");

        let store = reopened(&store).await;
        let stored = store.load().await.expect("loads");
        assert_eq!(stored.checkpoint, Some(Checkpoint { position: 7, snapshot: plan(3, 7).snapshot }));
        assert_eq!(stored.plan, None);
        let error = store.finish_compaction().await.expect_err("nothing is planned");
        assert_eq!(error.to_string(), "finish the compaction: none is planned");
        assert!(store.load().await.expect("loads").checkpoint.is_some(), "the checkpoint was lost");
    }

    #[tokio::test]
    async fn a_plan_that_would_leave_out_or_repeat_a_part_of_the_log_is_refused() {
        let (_folder, store) = store().await;
        store.plan_compaction(&plan(0, 7)).await.expect("plans");
        let error = store.plan_compaction(&plan(0, 8)).await.expect_err("another one is pending");
        assert_eq!(
            error.to_string(),
            "plan the compaction of positions 0..8: 0..7 is planned and not finished; write its files and finish it \
             first"
        );
        store.finish_compaction().await.expect("finishes");
        for wrong in [plan(6, 9), plan(8, 9), plan(7, 6)] {
            let error = store.plan_compaction(&wrong).await.expect_err("does not follow");
            assert!(error.to_string().ends_with("it must begin at 7 and not end before"), "{error}");
        }
        assert_eq!(store.load().await.expect("loads").plan, None);
        store.plan_compaction(&plan(7, 9)).await.expect("plans");
    }

    #[tokio::test]
    async fn positions_of_all_sixty_four_bits_are_kept() {
        let (_folder, store) = store().await;
        store.plan_compaction(&plan(u64::MAX - 9, u64::MAX)).await.expect("plans");
        assert_eq!(store.load().await.expect("loads").plan, Some(plan(u64::MAX - 9, u64::MAX)));
    }

    #[tokio::test]
    async fn a_version_is_added_once_with_its_run_and_becomes_champion() {
        let (_folder, store) = store().await;
        store.upsert_run(&run(1, RunState::Running)).await.expect("stores");
        store.insert_version(&version("pump", 1, 1), &run(1, RunState::Released)).await.expect("stores");
        let stored = store.load().await.expect("loads");
        assert_eq!(stored.runs, [run(1, RunState::Released)]);
        assert_eq!(stored.champions, [(model("pump"), ModelVersion(1))]);

        let error = store.insert_version(&version("pump", 1, 2), &run(2, RunState::Released)).await;
        let error = error.expect_err("is there already").to_string();
        assert!(
            error.starts_with("add a version in the metadata database ") && error.contains("hub.sqlite"),
            "{error}"
        );
        assert_eq!(store.load().await.expect("loads"), stored, "half of the transaction was kept");
    }

    #[tokio::test]
    async fn the_same_row_stored_again_is_one_row_and_a_changed_one_replaces_it() {
        let (_folder, store) = store().await;
        for cleared_ms in [None, None, Some(50)] {
            store.upsert_drift(&drift("s", 10, cleared_ms)).await.expect("stores");
        }
        for last_seen_ms in [2, 2, 9] {
            store.upsert_agent(&AgentRow { last_seen_ms, ..agent_row("a") }).await.expect("stores");
        }
        for state in [RunState::Running, RunState::Failed, RunState::Failed] {
            store.upsert_run(&run(1, state)).await.expect("stores");
        }
        let stored = store.load().await.expect("loads");
        assert_eq!(stored.drift, [drift("s", 10, Some(50))]);
        assert_eq!(stored.agents, [AgentRow { last_seen_ms: 9, ..agent_row("a") }]);
        assert_eq!(stored.runs, [run(1, RunState::Failed)]);
    }

    #[tokio::test]
    async fn deployments_are_kept_once_each_and_come_back_newest_first() {
        let (_folder, store) = store().await;
        let deployment = |name: &str, at_ms| DeploymentRow {
            agent: agent(name),
            model: model("pump"),
            version: ModelVersion(2),
            digest: Digest::of(b"two"),
            at_ms,
            outcome: "committed".into(),
            reason: (at_ms > 5).then(|| "its trial was good".into()),
        };
        for (name, at_ms) in [("a", 1), ("a", 9), ("b", 5), ("a", 9), ("a", 4)] {
            store.insert_deployment(&deployment(name, at_ms)).await.expect("stores");
        }
        let expected = [deployment("a", 9), deployment("a", 4), deployment("a", 1)];
        assert_eq!(store.deployments(&agent("a"), 10).await.expect("reads"), expected);
        assert_eq!(store.deployments(&agent("a"), 2).await.expect("reads"), expected[..2]);
    }

    #[tokio::test]
    async fn a_file_that_is_no_database_is_refused_by_path() {
        let folder = TempDir::new().expect("a temporary folder");
        let path = folder.path().join("hub.sqlite");
        fs::write(&path, "this is a text file, and long enough not to pass for an empty database\n".repeat(20))
            .expect("writes");
        let error = Store::open(&path).await.expect_err("is no database");
        assert!(matches!(error, StoreError::Damaged { .. }), "{error}");
        assert!(error.to_string().contains("hub.sqlite"), "{error}");
    }

    #[tokio::test]
    async fn a_database_with_a_damaged_page_is_refused() {
        let (_folder, store) = store().await;
        store.upsert_agent(&agent_row("a")).await.expect("stores");
        store.close().await;
        let mut file = fs::OpenOptions::new().write(true).open(&store.path).expect("opens the file");
        file.seek(SeekFrom::Start(4096)).expect("seeks");
        file.write_all(&[0xa5; 8192]).expect("damages two pages");
        let error = Store::open(&store.path).await.expect_err("is damaged");
        assert!(matches!(error, StoreError::Damaged { .. }), "{error}");
    }

    #[tokio::test]
    async fn a_database_of_a_newer_hub_is_refused_and_left_alone() {
        let (_folder, store) = store().await;
        let newer = "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time) \
                     VALUES (9999, 'of the future', TRUE, x'00', 1)";
        sqlx::query(newer).execute(&store.pool).await.expect("pretends");
        store.close().await;
        let error = Store::open(&store.path).await.expect_err("is newer");
        assert!(matches!(error, StoreError::Newer { found: 9999, known: 8, .. }), "{error}");
    }

    #[tokio::test]
    async fn a_row_that_this_program_did_not_write_is_named() {
        let (_folder, store) = store().await;
        store.upsert_agent(&agent_row("a")).await.expect("stores");
        sqlx::query("UPDATE agents SET serving_digest = 'xyz'").execute(&store.pool).await.expect("damages the row");
        let error = store.load().await.expect_err("is no digest").to_string();
        assert!(error.starts_with("read agents.serving_digest from the metadata database "), "{error}");
        assert!(error.ends_with("\"xyz\" is not 64 hexadecimal digits"), "{error}");
    }
}
