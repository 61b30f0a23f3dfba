//! Documents in the database: tables of a kind, an id and a body in JSON, for what is small and read whole.

use serde::Serialize;
use serde::de::DeserializeOwned;
use sqlx::sqlite::{SqliteConnection, SqliteRow};

use super::rows::{Columns, ReadError};

/// A table of documents.
#[derive(Debug, Clone, Copy)]
pub(super) enum Documents {
    /// Who is let in.
    Identities,
    /// Programs for boxes.
    Programs,
}

impl Documents {
    const fn table(self) -> &'static str {
        match self {
            Self::Identities => "identities",
            Self::Programs => "programs",
        }
    }

    /// All of a kind, by id.
    pub(super) async fn all<T: DeserializeOwned>(
        self,
        connection: &mut SqliteConnection,
        kind: &str,
    ) -> Result<Vec<T>, ReadError> {
        let statement = match self {
            Self::Identities => "SELECT * FROM identities WHERE kind = $1 ORDER BY id",
            Self::Programs => "SELECT * FROM programs WHERE kind = $1 ORDER BY id",
        };
        let rows = sqlx::query(statement).bind(kind).fetch_all(connection).await?;
        rows.iter().map(|row| self.read(row)).collect()
    }

    /// Writes one, in the place of the one that was there.
    pub(super) async fn put<T: Serialize>(
        self,
        connection: &mut SqliteConnection,
        kind: &str,
        id: &str,
        document: &T,
    ) -> Result<(), sqlx::Error> {
        let body = serde_json::to_string(document).map_err(|error| sqlx::Error::Encode(Box::new(error)))?;
        let statement = match self {
            Self::Identities => {
                "INSERT INTO identities (kind, id, body) VALUES ($1, $2, $3) \
                 ON CONFLICT (kind, id) DO UPDATE SET body = excluded.body"
            }
            Self::Programs => {
                "INSERT INTO programs (kind, id, body) VALUES ($1, $2, $3) \
                 ON CONFLICT (kind, id) DO UPDATE SET body = excluded.body"
            }
        };
        sqlx::query(statement).bind(kind).bind(id).bind(body).execute(connection).await.map(drop)
    }

    /// Removes one.
    pub(super) async fn remove(
        self,
        connection: &mut SqliteConnection,
        kind: &str,
        id: &str,
    ) -> Result<(), sqlx::Error> {
        let statement = match self {
            Self::Identities => "DELETE FROM identities WHERE kind = $1 AND id = $2",
            Self::Programs => "DELETE FROM programs WHERE kind = $1 AND id = $2",
        };
        sqlx::query(statement).bind(kind).bind(id).execute(connection).await.map(drop)
    }

    fn read<T: DeserializeOwned>(self, row: &SqliteRow) -> Result<T, ReadError> {
        let columns = Columns { table: self.table(), row };
        let body: String = columns.get("body")?;
        serde_json::from_str(&body).map_err(|error| columns.wrong("body", error.to_string()))
    }
}
