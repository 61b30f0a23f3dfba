//! Experiments, runs and registered models of programs that train elsewhere, in the database.

use serde::Serialize;
use serde::de::DeserializeOwned;
use sqlx::sqlite::{SqliteConnection, SqliteRow};

use super::rows::{Columns, ReadError, to_sql};
use super::{Store, StoreError};
use crate::core::limits::MAX_POINTS_SHOWN;
use crate::core::tracking::{Deed, Document, Point};

impl Store {
    /// Everything that is tracked.
    ///
    /// # Errors
    /// If the database cannot be read or holds something this program did not write.
    pub async fn load_tracking(&self) -> Result<Vec<Document>, StoreError> {
        let mut connection = self.pool.acquire().await.map_err(self.failed("read what is tracked"))?;
        load(&mut connection).await.map_err(|error| self.row_error(error))
    }

    /// Makes durable what an act changes: all of it or nothing.
    ///
    /// # Errors
    /// If the database cannot be written.
    pub async fn save_tracking(&self, deed: &Deed) -> Result<(), StoreError> {
        let action = "store what is tracked";
        let mut transaction = self.pool.begin().await.map_err(self.failed(action))?;
        save(&mut transaction, deed).await.map_err(self.failed(action))?;
        transaction.commit().await.map_err(self.failed(action))
    }

    /// The newest points of a figure of a run, oldest first.
    ///
    /// # Errors
    /// If the database cannot be read.
    pub async fn tracked_points(&self, run: &str, key: &str) -> Result<Vec<Point>, StoreError> {
        let action = "read points";
        let mut connection = self.pool.acquire().await.map_err(self.failed(action))?;
        let newest = "SELECT value, timestamp, step FROM tracking_points WHERE run = $1 AND key = $2 \
                      ORDER BY step DESC, timestamp DESC LIMIT $3";
        let query = sqlx::query(newest).bind(run).bind(key).bind(to_sql(MAX_POINTS_SHOWN));
        let found = query.fetch_all(&mut *connection).await.map_err(self.failed(action))?;
        let points = found.iter().rev().map(point).collect::<Result<_, _>>();
        points.map_err(|error| self.row_error(error))
    }
}

async fn load(connection: &mut SqliteConnection) -> Result<Vec<Document>, ReadError> {
    let found = sqlx::query("SELECT * FROM tracking ORDER BY kind, id").fetch_all(connection).await?;
    found.iter().map(document).collect()
}

fn document(row: &SqliteRow) -> Result<Document, ReadError> {
    let columns = Columns { table: "tracking", row };
    let kind: String = columns.get("kind")?;
    match kind.as_str() {
        "experiment" => read(&columns).map(Document::Experiment),
        "run" => read(&columns).map(Document::Run),
        "model" => read(&columns).map(Document::Model),
        other => Err(columns.wrong("kind", format!("{other:?} is none"))),
    }
}

fn read<T: DeserializeOwned>(columns: &Columns<'_>) -> Result<T, ReadError> {
    let body: String = columns.get("body")?;
    serde_json::from_str(&body).map_err(|error| columns.wrong("body", error.to_string()))
}

fn point(row: &SqliteRow) -> Result<Point, ReadError> {
    let columns = Columns { table: "tracking_points", row };
    let value: Option<f64> = columns.get("value")?;
    let (timestamp, step) = (columns.get("timestamp")?, columns.get("step")?);
    Ok(Point { value: value.unwrap_or(f64::NAN), timestamp, step })
}

async fn save(connection: &mut SqliteConnection, deed: &Deed) -> Result<(), sqlx::Error> {
    for document in &deed.documents {
        match document {
            Document::Experiment(experiment) => put(connection, "experiment", &experiment.id, experiment).await?,
            Document::Run(run) => put(connection, "run", &run.id, run).await?,
            Document::Model(model) => put(connection, "model", &model.name, model).await?,
            Document::RunGone(id) => {
                remove(connection, "run", id).await?;
                sqlx::query("DELETE FROM tracking_points WHERE run = $1").bind(id).execute(&mut *connection).await?;
            }
            Document::ModelGone(name) => remove(connection, "model", name).await?,
        }
    }
    for (run, key, point) in &deed.points {
        let statement = "INSERT INTO tracking_points (run, key, value, timestamp, step) VALUES ($1, $2, $3, $4, $5)";
        let value = Some(point.value).filter(|value| !value.is_nan());
        let query = sqlx::query(statement).bind(run).bind(key).bind(value).bind(point.timestamp).bind(point.step);
        query.execute(&mut *connection).await?;
    }
    Ok(())
}

async fn put(
    connection: &mut SqliteConnection,
    kind: &str,
    id: &str,
    body: &impl Serialize,
) -> Result<(), sqlx::Error> {
    let statement = "INSERT INTO tracking (kind, id, body) VALUES ($1, $2, $3) \
                     ON CONFLICT (kind, id) DO UPDATE SET body = excluded.body";
    let body = serde_json::to_string(body).map_err(|error| sqlx::Error::Encode(error.into()))?;
    sqlx::query(statement).bind(kind).bind(id).bind(body).execute(connection).await.map(drop)
}

async fn remove(connection: &mut SqliteConnection, kind: &str, id: &str) -> Result<(), sqlx::Error> {
    let statement = "DELETE FROM tracking WHERE kind = $1 AND id = $2";
    sqlx::query(statement).bind(kind).bind(id).execute(connection).await.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::tracking::{Act, DEFAULT_EXPERIMENT, Texts, Tracking};

    #[tokio::test]
    async fn what_is_tracked_is_there_again_and_points_in_the_order_of_their_steps() {
        let directory = tempfile::tempdir().expect("dir");
        let path = directory.path().join("hub.sqlite");
        let mut tracking = Tracking::default();
        let store = Store::open(&path).await.expect("opens");
        let point = |value, step| ("loss".to_owned(), Point { value, timestamp: 1, step });
        for act in [
            Act::CreateExperiment { id: DEFAULT_EXPERIMENT.into(), name: "Default".into(), tags: Texts::new() },
            Act::CreateRun {
                id: "r".into(),
                experiment: DEFAULT_EXPERIMENT.into(),
                name: "calm".into(),
                user: "Ada".into(),
                started_ms: 1,
                tags: Texts::new(),
            },
            Act::Log {
                id: "r".into(),
                params: Texts::from([("lr".to_owned(), "0.1".to_owned())]),
                tags: Texts::new(),
                metrics: vec![point(0.5, 2), point(f64::NAN, 1), point(f64::INFINITY, 3)],
            },
            Act::CreateModel { name: "m".into(), description: String::new(), tags: Texts::new() },
            Act::CreateModel { name: "n".into(), description: String::new(), tags: Texts::new() },
            Act::DeleteModel { name: "m".into() },
        ] {
            let deed = tracking.perform(7, act).expect("it makes sense");
            store.save_tracking(&deed).await.expect("saves");
            tracking.apply(deed);
        }
        store.close().await;
        let store = Store::open(&path).await.expect("opens again");
        let again = Tracking::new(store.load_tracking().await.expect("loads"));
        assert!(again.runs().eq(tracking.runs()) && again.models().eq(tracking.models()));
        assert!(again.experiments().eq(tracking.experiments()));
        let points = store.tracked_points("r", "loss").await.expect("reads");
        assert_eq!(points.iter().map(|point| point.step).collect::<Vec<_>>(), [1, 2, 3]);
        assert!(points[0].value.is_nan() && points[2].value == f64::INFINITY);
        assert_eq!(store.tracked_points("r", "other").await.expect("reads"), []);
    }
}
