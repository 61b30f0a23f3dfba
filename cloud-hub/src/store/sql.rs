//! Every statement the hub's metadata needs, in the SQL that SQLite and PostgreSQL share.

use shared::ids::{AgentId, ModelName, ModelVersion};
use sqlx::sqlite::{SqliteConnection, SqliteRow};

use super::rows::{
    AgentRow, Checkpoint, Columns, CompactionPlan, DeploymentRow, DriftRow, ReadError, RolloutRow, RunRow, Stored,
    VersionRow, to_sql,
};
use super::{MAX_LOADED_DRIFT, MAX_LOADED_RUNS};

pub(super) async fn load(connection: &mut SqliteConnection) -> Result<Stored, ReadError> {
    let (checkpoint, plan) = compaction(connection).await?;
    let versions = sqlx::query("SELECT * FROM versions ORDER BY model, version").fetch_all(&mut *connection).await?;
    let runs = sqlx::query("SELECT * FROM runs ORDER BY id DESC LIMIT $1")
        .bind(i64::from(MAX_LOADED_RUNS))
        .fetch_all(&mut *connection)
        .await?;
    let drift = sqlx::query(
        "SELECT * FROM drift \
         ORDER BY cleared_ms IS NULL DESC, raised_ms DESC, model DESC, agent DESC, stream DESC LIMIT $1",
    )
    .bind(i64::from(MAX_LOADED_DRIFT))
    .fetch_all(&mut *connection)
    .await?;
    let agents = sqlx::query("SELECT * FROM agents ORDER BY agent").fetch_all(&mut *connection).await?;
    let rollouts = sqlx::query("SELECT * FROM rollouts ORDER BY id").fetch_all(&mut *connection).await?;
    let champions = sqlx::query("SELECT * FROM champions ORDER BY model").fetch_all(&mut *connection).await?;
    let mut runs = rows("runs", &runs, Columns::run)?;
    runs.reverse();
    let mut drift = rows("drift", &drift, Columns::drift)?;
    drift.sort_by(|a, b| {
        (a.raised_ms, &a.model, &a.agent, &a.stream).cmp(&(b.raised_ms, &b.model, &b.agent, &b.stream))
    });
    Ok(Stored {
        checkpoint,
        plan,
        versions: rows("versions", &versions, Columns::version_row)?,
        runs,
        drift,
        agents: rows("agents", &agents, Columns::agent)?,
        champions: rows("champions", &champions, Columns::champion)?,
        rollouts: rows("rollouts", &rollouts, Columns::rollout)?,
    })
}

pub(super) async fn compaction(
    connection: &mut SqliteConnection,
) -> Result<(Option<Checkpoint>, Option<CompactionPlan>), ReadError> {
    let found = sqlx::query("SELECT * FROM compaction").fetch_all(connection).await?;
    let (mut checkpoint, mut plan) = (None, None);
    for row in &found {
        let columns = Columns { table: "compaction", row };
        if columns.get::<String>("stage")? == "done" {
            checkpoint = Some(columns.checkpoint()?);
        } else {
            plan = Some(columns.plan()?);
        }
    }
    Ok((checkpoint, plan))
}

/// Whether the plan was stored; it is not where there is one.
pub(super) async fn insert_plan(connection: &mut SqliteConnection, plan: &CompactionPlan) -> Result<bool, sqlx::Error> {
    let statement = "INSERT INTO compaction (stage, from_position, to_position, snapshot) \
                     VALUES ('planned', $1, $2, $3) ON CONFLICT (stage) DO NOTHING";
    let done = sqlx::query(statement)
        .bind(to_sql(plan.from))
        .bind(to_sql(plan.to))
        .bind(&plan.snapshot)
        .execute(connection)
        .await?;
    Ok(done.rows_affected() > 0)
}

/// Whether there was a plan.
pub(super) async fn finish_plan(connection: &mut SqliteConnection) -> Result<bool, sqlx::Error> {
    sqlx::query("DELETE FROM compaction WHERE stage = 'done'").execute(&mut *connection).await?;
    let done = sqlx::query("UPDATE compaction SET stage = 'done' WHERE stage = 'planned'").execute(connection).await?;
    Ok(done.rows_affected() > 0)
}

pub(super) async fn insert_version(connection: &mut SqliteConnection, row: &VersionRow) -> Result<(), sqlx::Error> {
    let statement = "INSERT INTO versions \
                     (model, version, digest, bytes, created_ms, parent, triggered_by, lineage, metrics, run) \
                     VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)";
    sqlx::query(statement)
        .bind(row.model.as_str())
        .bind(number(row.version))
        .bind(row.digest.to_string())
        .bind(to_sql(row.bytes))
        .bind(row.created_ms)
        .bind(row.parent.map(number))
        .bind(&row.trigger)
        .bind(row.lineage.to_string())
        .bind(row.metrics.to_string())
        .bind(row.run)
        .execute(connection)
        .await?;
    Ok(())
}

pub(super) async fn set_champion(
    connection: &mut SqliteConnection,
    model: &ModelName,
    version: ModelVersion,
) -> Result<(), sqlx::Error> {
    let statement = "INSERT INTO champions (model, version) VALUES ($1, $2) \
                     ON CONFLICT (model) DO UPDATE SET version = excluded.version";
    sqlx::query(statement).bind(model.as_str()).bind(number(version)).execute(connection).await?;
    Ok(())
}

/// Whether the model had no champion.
pub(super) async fn set_first_champion(
    connection: &mut SqliteConnection,
    model: &ModelName,
    version: ModelVersion,
) -> Result<bool, sqlx::Error> {
    let statement = "INSERT INTO champions (model, version) VALUES ($1, $2) ON CONFLICT (model) DO NOTHING";
    let done = sqlx::query(statement).bind(model.as_str()).bind(number(version)).execute(connection).await?;
    Ok(done.rows_affected() > 0)
}

pub(super) async fn upsert_rollout(connection: &mut SqliteConnection, row: &RolloutRow) -> Result<(), sqlx::Error> {
    let statement = "INSERT INTO rollouts (id, model, version, state, started_ms, ended_ms, record) \
                     VALUES ($1, $2, $3, $4, $5, $6, $7) \
                     ON CONFLICT (id) DO UPDATE SET state = excluded.state, ended_ms = excluded.ended_ms, \
                     record = excluded.record";
    sqlx::query(statement)
        .bind(row.id)
        .bind(row.model.as_str())
        .bind(number(row.version))
        .bind(&row.state)
        .bind(row.started_ms)
        .bind(row.ended_ms)
        .bind(row.record.to_string())
        .execute(connection)
        .await?;
    Ok(())
}

pub(super) async fn upsert_run(connection: &mut SqliteConnection, row: &RunRow) -> Result<(), sqlx::Error> {
    let statement = "INSERT INTO runs \
                     (id, model, triggered_by, requested_ms, finished_ms, state, version, report) \
                     VALUES ($1, $2, $3, $4, $5, $6, $7, $8) \
                     ON CONFLICT (id) DO UPDATE SET model = excluded.model, triggered_by = excluded.triggered_by, \
                     requested_ms = excluded.requested_ms, finished_ms = excluded.finished_ms, \
                     state = excluded.state, version = excluded.version, report = excluded.report";
    sqlx::query(statement)
        .bind(row.id)
        .bind(row.model.as_str())
        .bind(&row.trigger)
        .bind(row.requested_ms)
        .bind(row.finished_ms)
        .bind(row.state.as_str())
        .bind(row.version.map(number))
        .bind(row.report.to_string())
        .execute(connection)
        .await?;
    Ok(())
}

pub(super) async fn upsert_agent(connection: &mut SqliteConnection, row: &AgentRow) -> Result<(), sqlx::Error> {
    let statement = "INSERT INTO agents \
                     (agent, first_seen_ms, last_seen_ms, agent_version, device, pinned, serving_model, \
                     serving_version, serving_digest, epoch, boot_nonce) \
                     VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11) \
                     ON CONFLICT (agent) DO UPDATE SET first_seen_ms = excluded.first_seen_ms, \
                     last_seen_ms = excluded.last_seen_ms, agent_version = excluded.agent_version, \
                     device = excluded.device, pinned = excluded.pinned, serving_model = excluded.serving_model, \
                     serving_version = excluded.serving_version, serving_digest = excluded.serving_digest, \
                     epoch = excluded.epoch, boot_nonce = excluded.boot_nonce";
    let serving = row.serving.as_ref();
    sqlx::query(statement)
        .bind(row.agent.as_str())
        .bind(row.first_seen_ms)
        .bind(row.last_seen_ms)
        .bind(&row.agent_version)
        .bind(&row.device)
        .bind(row.pinned.map(number))
        .bind(serving.map(|(model, _, _)| model.as_str()))
        .bind(serving.map(|(_, version, _)| number(*version)))
        .bind(serving.map(|(_, _, digest)| digest.to_string()))
        .bind(to_sql(row.epoch.0))
        .bind(to_sql(row.boot_nonce))
        .execute(connection)
        .await?;
    Ok(())
}

pub(super) async fn upsert_drift(connection: &mut SqliteConnection, row: &DriftRow) -> Result<(), sqlx::Error> {
    let statement = "INSERT INTO drift (model, agent, stream, raised_ms, cleared_ms, version, channels) \
                     VALUES ($1, $2, $3, $4, $5, $6, $7) \
                     ON CONFLICT (model, agent, stream, raised_ms) DO UPDATE SET \
                     cleared_ms = excluded.cleared_ms, version = excluded.version, channels = excluded.channels";
    sqlx::query(statement)
        .bind(row.model.as_str())
        .bind(row.agent.as_str())
        .bind(row.stream.as_str())
        .bind(row.raised_ms)
        .bind(row.cleared_ms)
        .bind(number(row.version))
        .bind(row.channels.to_string())
        .execute(connection)
        .await?;
    Ok(())
}

/// Whether it was not there.
pub(super) async fn insert_deployment(
    connection: &mut SqliteConnection,
    row: &DeploymentRow,
) -> Result<bool, sqlx::Error> {
    let statement = "INSERT INTO deployments (agent, at_ms, model, version, digest, outcome, reason) \
                     VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT DO NOTHING";
    let done = sqlx::query(statement)
        .bind(row.agent.as_str())
        .bind(row.at_ms)
        .bind(row.model.as_str())
        .bind(number(row.version))
        .bind(row.digest.to_string())
        .bind(&row.outcome)
        .bind(row.reason.as_deref())
        .execute(connection)
        .await?;
    Ok(done.rows_affected() > 0)
}

pub(super) async fn deployments(
    connection: &mut SqliteConnection,
    agent: &AgentId,
    limit: u32,
) -> Result<Vec<DeploymentRow>, ReadError> {
    let statement = "SELECT * FROM deployments WHERE agent = $1 \
                     ORDER BY at_ms DESC, model, version DESC, outcome LIMIT $2";
    let found = sqlx::query(statement).bind(agent.as_str()).bind(i64::from(limit)).fetch_all(connection).await?;
    rows("deployments", &found, Columns::deployment)
}

fn rows<'r, T>(
    table: &'static str,
    found: &'r [SqliteRow],
    read: impl Fn(&Columns<'r>) -> Result<T, ReadError>,
) -> Result<Vec<T>, ReadError> {
    found.iter().map(|row| read(&Columns { table, row })).collect()
}

fn number(version: ModelVersion) -> i64 {
    i64::from(version.0)
}
