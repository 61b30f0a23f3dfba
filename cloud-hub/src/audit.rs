//! The signed end of the history, and the check of the whole.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use shared::event::UnixMillis;
use shared::ids::{AgentId, Digest, ModelName, ModelVersion};
use shared::package::signature::{PublicKey, ReleaseKey};

use crate::store::history::{self, HistoryFault, HistoryHead, HistoryRow};
use crate::store::{Store, StoreError};
use crate::view::Timestamp;

/// Bytes of a signature in hexadecimal.
const SIGNATURE_DIGITS: usize = 128;

/// Why a history cannot be vouched for.
#[derive(Debug, thiserror::Error)]
pub enum AuditError {
    /// The database.
    #[error("{0}")]
    Store(#[from] StoreError),
    /// A file cannot be read or written.
    #[error("{action} {path}: {source}", path = path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The file beside the database holds no signed row.
    #[error("read {path}: {problem}", path = path.display())]
    Head {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// The history is not what was written.
    #[error("vouch for the history: {0}")]
    Fault(#[from] HistoryFault),
}

/// The file with the newest row's signed hash: `sequence hash signature`.
#[derive(Debug)]
pub struct AuditHead {
    path: PathBuf,
}

impl AuditHead {
    /// The file of the hub in this folder.
    #[must_use]
    pub fn new(directory: &Path) -> Self {
        Self { path: directory.join("history.head") }
    }

    /// Signs the newest row. A hub that is killed before it has done so leaves the row before signed, which still holds.
    ///
    /// # Errors
    /// If the disk fails.
    pub fn sign(&self, key: &ReleaseKey, head: HistoryHead) -> Result<(), AuditError> {
        let statement = statement(head);
        let signature: String = key.sign_statement(statement.as_bytes()).iter().map(|b| format!("{b:02x}")).collect();
        let partial = self.path.with_extension("part");
        let write = || {
            let mut file = File::create(&partial)?;
            writeln!(file, "{statement} {signature}")?;
            file.sync_all()?;
            fs::rename(&partial, &self.path)
        };
        write().map_err(|source| AuditError::Io { action: "write", path: self.path.clone(), source })
    }

    /// The row that was signed, if any was.
    fn read(&self, key: PublicKey) -> Result<Option<HistoryHead>, AuditError> {
        let text = match fs::read_to_string(&self.path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(AuditError::Io { action: "read", path: self.path.clone(), source }),
        };
        let wrong = |problem: &str| AuditError::Head { path: self.path.clone(), problem: problem.to_owned() };
        let parts: Vec<&str> = text.split_whitespace().collect();
        let [sequence, hash, signature] = parts[..] else {
            return Err(wrong("it must hold a number, a hash and a signature"));
        };
        let head = sequence.parse().ok().zip(Digest::from_hex(hash));
        let Some(head) = head.map(|(sequence, hash)| HistoryHead { sequence, hash }) else {
            return Err(wrong("it must begin with a number and a hash"));
        };
        let signature = bytes(signature).ok_or_else(|| wrong("its signature must have 128 hexadecimal digits"))?;
        if !key.has_signed(statement(head).as_bytes(), &signature) {
            return Err(wrong("its signature is not this hub's"));
        }
        Ok(Some(head))
    }
}

fn statement(head: HistoryHead) -> String {
    format!("{} {}", head.sequence, head.hash)
}

fn bytes(digits: &str) -> Option<Vec<u8>> {
    if digits.len() != SIGNATURE_DIGITS || !digits.is_ascii() {
        return None;
    }
    (0..digits.len()).step_by(2).map(|at| u8::from_str_radix(&digits[at..at + 2], 16).ok()).collect()
}

/// Checks the history of the hub in a folder: its chain, its signed end, and the tables that must agree with it. Returns its
/// rows.
///
/// # Errors
/// Names the first thing that is not as it was written.
pub async fn verify(directory: &Path, key: PublicKey) -> Result<Vec<HistoryRow>, AuditError> {
    let store = Store::open(&directory.join("hub.sqlite")).await?;
    let read = async { Ok::<_, StoreError>((store.history().await?, store.load().await?)) };
    let read = read.await;
    store.close().await;
    let (rows, stored) = read?;
    let signed = AuditHead::new(directory).read(key)?;
    if signed.is_none() && !rows.is_empty() {
        let path = directory.join("history.head");
        return Err(AuditError::Head { path, problem: "it is missing, so nobody vouches for the end".to_owned() });
    }
    history::check(&rows, signed)?;
    history::check_tables(&rows, &stored.versions, &stored.champions)?;
    Ok(rows)
}

/// How the whole history stands.
#[must_use]
pub fn summary(rows: &[HistoryRow]) -> (Value, String) {
    let hash = rows.last().map(|row| row.hash.clone());
    let text = format!(
        "{} rows, every one as it was written; the newest is {}",
        rows.len(),
        hash.as_deref().unwrap_or("none")
    );
    (json!({ "sound": true, "rows": rows.len(), "hash": hash }), text)
}

/// What a box served, and which data trained it; at a time, if one is given.
#[must_use]
pub fn of_box(rows: &[HistoryRow], agent: &AgentId, at_ms: Option<UnixMillis>) -> (Value, String) {
    let mut served: Vec<Value> = bodies(rows, "deployment")
        .filter(|(at, body)| body["agent"] == agent.as_str() && at_ms.is_none_or(|limit| *at <= limit))
        .filter(|(_, body)| body["outcome"] == "serving")
        .map(|(at, body)| {
            let version = bodies(rows, "version")
                .find(|(_, version)| version["model"] == body["model"] && version["version"] == body["version"]);
            json!({
                "since": Timestamp(at), "model": body["model"], "version": body["version"], "digest": body["digest"],
                "trained_on": version.map(|(_, version)| version["lineage"]["trained_on"].clone()),
            })
        })
        .collect();
    if at_ms.is_some() {
        served.drain(..served.len().saturating_sub(1));
    }
    let lines: Vec<String> = served
        .iter()
        .map(|one| {
            let trained = one["trained_on"].as_array().map_or(0, Vec::len);
            format!(
                "{} {} version {}, trained on {trained} segments",
                text_of(&one["since"]),
                text_of(&one["model"]),
                one["version"]
            )
        })
        .collect();
    let text = if lines.is_empty() { format!("{agent} served nothing") } else { lines.join("\n") };
    (json!({ "agent": agent.as_str(), "served": served }), text)
}

/// The boxes that ever served a version, since when, and those that would not keep it.
#[must_use]
pub fn of_version(rows: &[HistoryRow], model: &ModelName, version: ModelVersion) -> (Value, String) {
    let boxes: Vec<Value> = bodies(rows, "deployment")
        .filter(|(_, body)| body["model"] == model.as_str() && body["version"] == version.0)
        .map(|(at, body)| {
            json!({ "at": Timestamp(at), "agent": body["agent"], "outcome": body["outcome"], "reason": body["reason"] })
        })
        .collect();
    let line = |one: &Value| {
        let reason = one["reason"].as_str().map(|reason| format!(": {reason}")).unwrap_or_default();
        format!("{} {} {}{reason}", text_of(&one["at"]), text_of(&one["agent"]), text_of(&one["outcome"]))
    };
    let lines: Vec<String> = boxes.iter().map(line).collect();
    let text = if lines.is_empty() { format!("no box served {model} version {version}") } else { lines.join("\n") };
    (json!({ "model": model.as_str(), "version": version.0, "boxes": boxes }), text)
}

fn bodies(rows: &[HistoryRow], kind: &'static str) -> impl Iterator<Item = (UnixMillis, Value)> {
    rows.iter()
        .filter(move |row| row.kind == kind)
        .filter_map(|row| Some((row.at_ms, serde_json::from_str(&row.body).ok()?)))
}

fn text_of(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{DeploymentRow, RunRow, RunState, VersionRow};

    #[test]
    fn only_the_hubs_own_signature_counts_at_the_end() {
        let dir = tempfile::tempdir().expect("dir");
        let head = HistoryHead { sequence: 7, hash: Digest::of(b"row") };
        let [key, other] = [1, 2].map(|seed| ReleaseKey::from_seed(&[seed; 32]).expect("a key"));
        let audit = AuditHead::new(dir.path());
        assert_eq!(audit.read(key.public()).expect("there is none"), None);
        audit.sign(&key, head).expect("writes");
        assert_eq!(audit.read(key.public()).expect("reads"), Some(head));
        let error = audit.read(other.public()).expect_err("another key").to_string();
        assert!(error.ends_with("its signature is not this hub's"), "{error}");
        let text = fs::read_to_string(&audit.path).expect("reads").replacen('7', "6", 1);
        fs::write(&audit.path, text).expect("writes");
        assert!(audit.read(key.public()).is_err());
    }

    /// A hub's folder after some versions and boxes, with its key.
    async fn hub() -> (tempfile::TempDir, ReleaseKey) {
        let dir = tempfile::tempdir().expect("dir");
        let key = ReleaseKey::from_seed(&[1; 32]).expect("a key");
        let store = Store::open(&dir.path().join("hub.sqlite")).await.expect("opens");
        let model = ModelName::new("pump").expect("valid");
        let mut head = None;
        for number in 1..=3 {
            let run = RunRow {
                id: i64::from(number),
                model: model.clone(),
                trigger: "a person".into(),
                requested_ms: 1,
                finished_ms: Some(2),
                state: RunState::Released,
                version: Some(ModelVersion(number)),
                report: json!({}),
            };
            let version = VersionRow {
                model: model.clone(),
                version: ModelVersion(number),
                digest: Digest::of(&number.to_le_bytes()),
                bytes: 1_000,
                created_ms: i64::from(number),
                parent: None,
                trigger: "a person".into(),
                lineage: json!({ "trained_on": [{ "rows": 100 * number }] }),
                metrics: json!({}),
                run: i64::from(number),
            };
            store.insert_version(&version, &run).await.expect("stores");
            let deployment = DeploymentRow {
                agent: AgentId::new("box-1").expect("valid"),
                model: model.clone(),
                version: ModelVersion(number),
                digest: version.digest,
                at_ms: 1_000 * i64::from(number),
                outcome: "serving".into(),
                reason: None,
            };
            head = store.insert_deployment(&deployment).await.expect("stores");
        }
        AuditHead::new(dir.path()).sign(&key, head.expect("there are rows")).expect("writes");
        store.close().await;
        (dir, key)
    }

    #[tokio::test]
    async fn what_a_box_served_at_a_time_and_which_data_trained_it_is_one_question() {
        let (dir, key) = hub().await;
        let rows = verify(dir.path(), key.public()).await.expect("sound");
        let agent = AgentId::new("box-1").expect("valid");
        let (found, text) = of_box(&rows, &agent, Some(2_500));
        assert_eq!((&found["served"][0]["version"], found["served"].as_array().map(Vec::len)), (&json!(2), Some(1)));
        assert_eq!(found["served"][0]["trained_on"][0]["rows"], 200);
        assert_eq!(text, "1970-01-01T00:00:02.000Z pump version 2, trained on 1 segments");
        let (found, _) = of_version(&rows, &ModelName::new("pump").expect("valid"), ModelVersion(3));
        assert_eq!(found["boxes"][0]["agent"], "box-1");
    }

    #[tokio::test]
    async fn any_row_that_somebody_edits_or_deletes_in_the_database_is_found() {
        let tables = ["UPDATE versions SET bytes = 7 WHERE version = 2", "UPDATE champions SET version = 3"];
        let rows = (1..=7).flat_map(|row| {
            [
                format!("DELETE FROM history WHERE sequence = {row}"),
                format!("UPDATE history SET body = replace(body, '1', '2') WHERE sequence = {row}"),
                format!("UPDATE history SET at_ms = at_ms + 1 WHERE sequence = {row}"),
            ]
        });
        for statement in rows.chain(tables.map(str::to_owned)) {
            let (dir, key) = hub().await;
            verify(dir.path(), key.public()).await.expect("sound before");
            let options = sqlx::sqlite::SqliteConnectOptions::new().filename(dir.path().join("hub.sqlite"));
            let pool = sqlx::SqlitePool::connect_with(options).await.expect("opens");
            let done =
                sqlx::query(sqlx::AssertSqlSafe(statement.clone())).execute(&pool).await.expect("somebody writes");
            assert_eq!(done.rows_affected(), 1, "{statement}");
            pool.close().await;
            assert!(verify(dir.path(), key.public()).await.is_err(), "{statement}");
        }
    }
}
