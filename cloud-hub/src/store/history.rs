//! What happened to versions, as a chain: each row's hash covers the row and the hash before it, so that nobody can change,
//! take out or put in a row without changing every hash that follows. The newest hash is signed in a file beside the
//! database, so that rows at the end cannot be taken away either.

use serde_json::{Value, json};
use shared::event::UnixMillis;
use shared::ids::Digest;
use sqlx::Row;
use sqlx::sqlite::{SqliteConnection, SqliteRow};

use super::rows::{Columns, DeploymentRow, ReadError, RolloutRow, VersionRow};

/// What is hashed begins with this, so that a hash is of such a row and of nothing else.
const DOMAIN: &[u8] = b"tideline history 1\n";

/// The newest row of the history.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HistoryHead {
    /// Its number, from 1.
    pub sequence: i64,
    /// Its hash.
    pub hash: Digest,
}

/// One row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HistoryRow {
    /// Its number, from 1.
    pub sequence: i64,
    /// When it was written.
    pub at_ms: UnixMillis,
    /// What it is of.
    pub kind: String,
    /// What happened, as JSON.
    pub body: String,
    /// Its hash.
    pub hash: String,
}

impl HistoryRow {
    fn hash_after(&self, before: Digest) -> Digest {
        let mut hasher = blake3::Hasher::new();
        hasher.update(DOMAIN);
        hasher.update(&before.0);
        hasher.update(&self.sequence.to_le_bytes());
        hasher.update(&self.at_ms.to_le_bytes());
        for text in [&self.kind, &self.body] {
            hasher.update(&(text.len() as u64).to_le_bytes());
            hasher.update(text.as_bytes());
        }
        Digest(*hasher.finalize().as_bytes())
    }
}

/// What is wrong with a history.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HistoryFault {
    /// A row is missing.
    #[error("row {expected} is missing: row {found} follows")]
    Missing {
        /// The number that should come.
        expected: i64,
        /// The one that does.
        found: i64,
    },
    /// A row is not what was written.
    #[error("row {sequence} ({kind}) was changed, or one before it: its hash does not follow")]
    Changed {
        /// Its number.
        sequence: i64,
        /// What it is of.
        kind: String,
    },
    /// The end is missing.
    #[error("the history ends with row {found}, and row {signed} was signed: its end is missing")]
    Short {
        /// The newest row.
        found: i64,
        /// The row whose hash was signed.
        signed: i64,
    },
    /// It is not the history that was signed.
    #[error("row {sequence} is not the one that was signed")]
    Other {
        /// The row whose hash was signed.
        sequence: i64,
    },
    /// A table says other things than the history.
    #[error("{what} is not what the history says")]
    Table {
        /// The row of which table.
        what: String,
    },
}

/// Whether these are all the rows up to the signed one, as they were written.
///
/// # Errors
/// Names the first row that is not.
pub fn check(rows: &[HistoryRow], signed: Option<HistoryHead>) -> Result<Option<HistoryHead>, HistoryFault> {
    let mut head = None;
    let mut before = Digest([0; 32]);
    for (row, expected) in rows.iter().zip(1..) {
        if row.sequence != expected {
            return Err(HistoryFault::Missing { expected, found: row.sequence });
        }
        let hash = row.hash_after(before);
        if row.hash != hash.to_string() {
            return Err(HistoryFault::Changed { sequence: row.sequence, kind: row.kind.clone() });
        }
        if signed.is_some_and(|signed| signed.sequence == row.sequence && signed.hash != hash) {
            return Err(HistoryFault::Other { sequence: row.sequence });
        }
        before = hash;
        head = Some(HistoryHead { sequence: row.sequence, hash });
    }
    match signed {
        Some(signed) if head.is_none_or(|head| head.sequence < signed.sequence) => {
            let found = head.map_or(0, |head| head.sequence);
            Err(HistoryFault::Short { found, signed: signed.sequence })
        }
        Some(_) | None => Ok(head),
    }
}

/// Whether the tables of versions and champions say what the history says.
///
/// # Errors
/// Names the first row that does not.
pub fn check_tables(
    rows: &[HistoryRow],
    versions: &[VersionRow],
    champions: &[(shared::ids::ModelName, shared::ids::ModelVersion)],
) -> Result<(), HistoryFault> {
    let bodies = |kind: &'static str| rows.iter().filter(move |row| row.kind == kind).map(|row| row.body.as_str());
    for row in versions {
        let expected = version_body(row).to_string();
        if !bodies("version").any(|body| body == expected) {
            return Err(HistoryFault::Table { what: format!("{} version {}", row.model, row.version) });
        }
    }
    for (model, version) in champions {
        let of_model = |body: &Value| body["model"] == model.as_str();
        let newest = bodies("champion").filter_map(|body| serde_json::from_str::<Value>(body).ok()).rfind(of_model);
        if newest.is_none_or(|newest| newest["version"] != version.0) {
            return Err(HistoryFault::Table { what: format!("the champion of {model}") });
        }
    }
    Ok(())
}

pub(super) fn version_body(row: &VersionRow) -> Value {
    json!({
        "model": row.model.as_str(), "version": row.version.0, "digest": row.digest.to_string(), "bytes": row.bytes,
        "created_ms": row.created_ms, "parent": row.parent.map(|parent| parent.0), "trigger": row.trigger,
        "lineage": row.lineage, "metrics": row.metrics, "run": row.run,
    })
}

pub(super) fn rollout_body(row: &RolloutRow) -> Value {
    json!({
        "rollout": row.id, "model": row.model.as_str(), "version": row.version.0, "state": row.state,
        "said": row.record["log"].as_array().and_then(|log| log.last()).map(|said| said[1].clone()),
    })
}

pub(super) fn deployment_body(row: &DeploymentRow) -> Value {
    json!({
        "agent": row.agent.as_str(), "model": row.model.as_str(), "version": row.version.0,
        "digest": row.digest.to_string(), "outcome": row.outcome, "reason": row.reason,
    })
}

/// Adds a row, in the transaction that does what it tells of.
pub(super) async fn append(
    connection: &mut SqliteConnection,
    at_ms: UnixMillis,
    kind: &str,
    body: &Value,
) -> Result<HistoryHead, sqlx::Error> {
    let last = sqlx::query("SELECT sequence, hash FROM history ORDER BY sequence DESC LIMIT 1")
        .fetch_optional(&mut *connection)
        .await?;
    let (sequence, before) = match last {
        None => (0, Digest([0; 32])),
        Some(row) => {
            let text: String = row.try_get("hash")?;
            // A damaged hash is found by whoever checks the chain.
            (row.try_get("sequence")?, Digest::from_hex(&text).unwrap_or(Digest([0; 32])))
        }
    };
    let (kind, body) = (kind.to_owned(), body.to_string());
    let row = HistoryRow { sequence: sequence + 1, at_ms, kind, body, hash: String::new() };
    let hash = row.hash_after(before);
    sqlx::query("INSERT INTO history (sequence, at_ms, kind, body, hash) VALUES ($1, $2, $3, $4, $5)")
        .bind(row.sequence)
        .bind(row.at_ms)
        .bind(&row.kind)
        .bind(&row.body)
        .bind(hash.to_string())
        .execute(connection)
        .await?;
    Ok(HistoryHead { sequence: row.sequence, hash })
}

/// Every row, in order.
pub(super) async fn read(connection: &mut SqliteConnection) -> Result<Vec<HistoryRow>, ReadError> {
    let found = sqlx::query("SELECT * FROM history ORDER BY sequence").fetch_all(connection).await?;
    found.iter().map(row).collect()
}

/// The newest rows before one, newest first.
pub(super) async fn page(
    connection: &mut SqliteConnection,
    before: i64,
    limit: u32,
) -> Result<Vec<HistoryRow>, ReadError> {
    let found = sqlx::query("SELECT * FROM history WHERE sequence < $1 ORDER BY sequence DESC LIMIT $2")
        .bind(before)
        .bind(limit)
        .fetch_all(connection)
        .await?;
    found.iter().map(row).collect()
}

/// The rows after one, oldest first.
pub(super) async fn after(
    connection: &mut SqliteConnection,
    after: i64,
    limit: u32,
) -> Result<Vec<HistoryRow>, ReadError> {
    let found = sqlx::query("SELECT * FROM history WHERE sequence > $1 ORDER BY sequence LIMIT $2")
        .bind(after)
        .bind(limit)
        .fetch_all(connection)
        .await?;
    found.iter().map(row).collect()
}

fn row(row: &SqliteRow) -> Result<HistoryRow, ReadError> {
    let columns = Columns { table: "history", row };
    Ok(HistoryRow {
        sequence: columns.get("sequence")?,
        at_ms: columns.get("at_ms")?,
        kind: columns.get("kind")?,
        body: columns.get("body")?,
        hash: columns.get("hash")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows() -> Vec<HistoryRow> {
        let mut before = Digest([0; 32]);
        let mut make = |(sequence, body): (i64, &str)| {
            let (kind, body) = ("version".to_owned(), body.to_owned());
            let mut row = HistoryRow { sequence, at_ms: 10 * sequence, kind, body, hash: String::new() };
            before = row.hash_after(before);
            row.hash = before.to_string();
            row
        };
        (1..).zip(["a", "b", "c", "d"]).map(&mut make).collect()
    }

    #[test]
    fn every_kind_of_tampering_with_any_row_is_found() {
        let whole = rows();
        let head = check(&whole, None).expect("sound").expect("not empty");
        assert_eq!(check(&whole, Some(head)), Ok(Some(head)));
        for at in 0..whole.len() {
            let mut without = whole.clone();
            without.remove(at);
            assert!(check(&without, Some(head)).is_err(), "row {at} taken out");
            for change in [0, 1, 2, 3] {
                let mut changed = whole.clone();
                match change {
                    0 => changed[at].body.push('!'),
                    1 => changed[at].at_ms += 1,
                    2 => changed[at].kind = "champion".to_owned(),
                    _ => changed[at].hash = Digest::of(b"x").to_string(),
                }
                assert!(check(&changed, Some(head)).is_err(), "row {at}, change {change}");
            }
        }
        // Who rewrites the whole chain cannot sign it.
        let mut forged = rows();
        let mut before = Digest([0; 32]);
        forged[1].body = "B".to_owned();
        for row in &mut forged {
            before = row.hash_after(before);
            row.hash = before.to_string();
        }
        assert_eq!(check(&forged, Some(head)), Err(HistoryFault::Other { sequence: 4 }));
        // What came after the signed row is no fault: the hub may have been killed before it signed.
        let earlier = check(&whole[..3], None).expect("sound");
        assert_eq!(check(&whole, earlier), Ok(Some(head)));
    }
}
