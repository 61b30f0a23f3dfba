//! Alarms and labels in the database.

use shared::ids::{Epoch, Sequence};
use sqlx::sqlite::{SqliteConnection, SqliteRow};

use super::rows::{Columns, ReadError, to_sql};
use super::{Store, StoreError};
use crate::core::alarms::{Alarm, AlarmVerdict, Review};
use crate::core::labels::{Label, LabelKind};
use crate::core::limits::MACHINE_ALARMS_KEPT;

impl Store {
    /// The newest alarms, those that are up first among them, oldest first; and every label.
    ///
    /// # Errors
    /// If the database cannot be read or holds something this program did not write.
    pub async fn load_notes(&self) -> Result<(Vec<Alarm>, Vec<Label>), StoreError> {
        let mut connection = self.pool.acquire().await.map_err(self.failed("read alarms and labels"))?;
        load(&mut connection).await.map_err(|error| self.row_error(error))
    }

    /// Adds an alarm, or replaces what is known of it.
    ///
    /// # Errors
    /// If the database cannot be written; so for every method below.
    pub async fn upsert_alarm(&self, alarm: &Alarm) -> Result<(), StoreError> {
        let mut connection = self.pool.acquire().await.map_err(self.failed("store an alarm"))?;
        upsert(&mut connection, alarm).await.map_err(self.failed("store an alarm"))
    }

    /// Adds labels, or replaces what is known of them: all of them or none.
    ///
    /// # Errors
    /// If the database cannot be written.
    pub async fn upsert_labels(&self, labels: &[Label]) -> Result<(), StoreError> {
        let action = "store labels";
        let mut transaction = self.pool.begin().await.map_err(self.failed(action))?;
        for label in labels {
            upsert_label(&mut transaction, label).await.map_err(self.failed(action))?;
        }
        transaction.commit().await.map_err(self.failed(action))
    }

    /// Takes a label out.
    ///
    /// # Errors
    /// If the database cannot be written.
    pub async fn delete_label(&self, id: &str) -> Result<(), StoreError> {
        let mut connection = self.pool.acquire().await.map_err(self.failed("remove a label"))?;
        let deleted = sqlx::query("DELETE FROM labels WHERE id = $1").bind(id).execute(&mut *connection).await;
        deleted.map(drop).map_err(self.failed("remove a label"))
    }
}

async fn load(connection: &mut SqliteConnection) -> Result<(Vec<Alarm>, Vec<Label>), ReadError> {
    let newest = "SELECT * FROM alarms WHERE is_over ORDER BY began_ms DESC, id LIMIT $1";
    let mut found = sqlx::query(newest).bind(to_sql(MACHINE_ALARMS_KEPT as u64)).fetch_all(&mut *connection).await?;
    found.extend(sqlx::query("SELECT * FROM alarms WHERE NOT is_over").fetch_all(&mut *connection).await?);
    let mut alarms = found.iter().map(alarm).collect::<Result<Vec<_>, _>>()?;
    alarms.sort_by(|a, b| (a.began_ms, &a.id).cmp(&(b.began_ms, &b.id)));
    let found = sqlx::query("SELECT * FROM labels ORDER BY id").fetch_all(connection).await?;
    Ok((alarms, found.iter().map(label).collect::<Result<_, _>>()?))
}

fn alarm(row: &SqliteRow) -> Result<Alarm, ReadError> {
    let columns = Columns { table: "alarms", row };
    let verdict: Option<String> = columns.get("verdict")?;
    let review = match verdict {
        None => None,
        Some(name) => Some(Review {
            verdict: AlarmVerdict::named(&name).ok_or_else(|| columns.wrong("verdict", format!("{name:?} is none")))?,
            comment: columns.get::<Option<String>>("comment")?.unwrap_or_default(),
            by: columns.get::<Option<String>>("reviewed_by")?.unwrap_or_default(),
            at_ms: columns.get::<Option<i64>>("reviewed_ms")?.unwrap_or_default(),
        }),
    };
    Ok(Alarm {
        id: columns.get("id")?,
        agent: columns.name("agent")?,
        stream: columns.name("stream")?,
        model: columns.name("model")?,
        version: columns.version("version")?,
        began_ms: columns.get("began_ms")?,
        last_ms: columns.get("last_ms")?,
        is_over: columns.get("is_over")?,
        answers: columns.unsigned("answers")?,
        anomalous: columns.unsigned("anomalous")?,
        peak_score: columns.get::<f64>("peak_score")? as f32,
        threshold: columns.get::<f64>("threshold")? as f32,
        reached: (Epoch(columns.unsigned("reached_epoch")?), Sequence(columns.unsigned("reached_sequence")?)),
        review,
    })
}

fn label(row: &SqliteRow) -> Result<Label, ReadError> {
    let columns = Columns { table: "labels", row };
    let kind: String = columns.get("kind")?;
    Ok(Label {
        id: columns.get("id")?,
        agent: columns.name("agent")?,
        stream: columns.name("stream")?,
        from_ms: columns.get("from_ms")?,
        to_ms: columns.get("to_ms")?,
        kind: LabelKind::named(&kind).ok_or_else(|| columns.wrong("kind", format!("{kind:?} is none")))?,
        comment: columns.get("comment")?,
        by: columns.get("made_by")?,
        at_ms: columns.get("made_ms")?,
        rows: columns.unsigned("rows")?,
        position: columns.unsigned("position")?,
    })
}

async fn upsert(connection: &mut SqliteConnection, alarm: &Alarm) -> Result<(), sqlx::Error> {
    let statement = "INSERT INTO alarms (id, agent, stream, model, version, began_ms, last_ms, is_over, answers, anomalous, \
                     peak_score, threshold, reached_epoch, reached_sequence, verdict, comment, reviewed_by, reviewed_ms) \
                     VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18) \
                     ON CONFLICT (id) DO UPDATE SET last_ms = excluded.last_ms, is_over = excluded.is_over, \
                     answers = excluded.answers, anomalous = excluded.anomalous, peak_score = excluded.peak_score, \
                     threshold = excluded.threshold, reached_epoch = excluded.reached_epoch, \
                     reached_sequence = excluded.reached_sequence, verdict = excluded.verdict, \
                     comment = excluded.comment, reviewed_by = excluded.reviewed_by, reviewed_ms = excluded.reviewed_ms";
    let review = alarm.review.as_ref();
    sqlx::query(statement)
        .bind(&alarm.id)
        .bind(alarm.agent.as_str())
        .bind(alarm.stream.as_str())
        .bind(alarm.model.as_str())
        .bind(i64::from(alarm.version.0))
        .bind(alarm.began_ms)
        .bind(alarm.last_ms)
        .bind(alarm.is_over)
        .bind(to_sql(alarm.answers))
        .bind(to_sql(alarm.anomalous))
        // A database has no NaN.
        .bind(if alarm.peak_score.is_finite() { f64::from(alarm.peak_score) } else { f64::MAX })
        .bind(if alarm.threshold.is_finite() { f64::from(alarm.threshold) } else { f64::MAX })
        .bind(to_sql(alarm.reached.0.0))
        .bind(to_sql(alarm.reached.1.0))
        .bind(review.map(|review| review.verdict.name()))
        .bind(review.map(|review| review.comment.as_str()))
        .bind(review.map(|review| review.by.as_str()))
        .bind(review.map(|review| review.at_ms))
        .execute(connection)
        .await
        .map(drop)
}

async fn upsert_label(connection: &mut SqliteConnection, label: &Label) -> Result<(), sqlx::Error> {
    let statement = "INSERT INTO labels (id, agent, stream, from_ms, to_ms, kind, comment, made_by, made_ms, rows, position) \
                     VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11) ON CONFLICT (id) DO UPDATE SET \
                     kind = excluded.kind, comment = excluded.comment, made_by = excluded.made_by, \
                     made_ms = excluded.made_ms, from_ms = excluded.from_ms, to_ms = excluded.to_ms, \
                     rows = excluded.rows, position = excluded.position";
    sqlx::query(statement)
        .bind(&label.id)
        .bind(label.agent.as_str())
        .bind(label.stream.as_str())
        .bind(label.from_ms)
        .bind(label.to_ms)
        .bind(label.kind.name())
        .bind(&label.comment)
        .bind(&label.by)
        .bind(label.at_ms)
        .bind(to_sql(label.rows))
        .bind(to_sql(label.position))
        .execute(connection)
        .await
        .map(drop)
}
