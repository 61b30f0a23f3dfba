//! Who may do what: kept in the database, shown to the HTTP interface, and noted in the history.

use std::path::Path;
use std::sync::Arc;

use serde_json::{Value, json};
use tokio::sync::watch;
use tracing::error;

use super::{Hub, HubError};
use crate::api::{Access, Deed};
use crate::clock;
use crate::core::access::{AccessBook, Change};
use crate::secret::Secret;
use crate::store::Store;
use crate::view::time;

/// The file in the hub's folder that lets whoever can read it in.
const TOKEN_FILE: &str = "access.token";

/// Who may do what, while the hub runs.
pub(super) struct Doors {
    book: watch::Sender<Arc<AccessBook>>,
    folder_token: Secret,
    setup_code: Option<Secret>,
}

impl Doors {
    /// Reads who may do what. The token in the folder is a new one with each start; a hub without users gets a code that
    /// makes the first.
    pub(super) async fn open(store: &Store, directory: &Path) -> Result<Self, HubError> {
        let book = store.load_access(clock::unix_ms()).await?;
        let setup_code = (book.users().count() == 0).then(|| Secret::new("setup"));
        let folder_token = Secret::new("tlf");
        let path = directory.join(TOKEN_FILE);
        folder_token
            .write_to(&path)
            .map_err(|source| HubError::Io { what: format!("write {}", path.display()), source })?;
        Ok(Self { book: watch::Sender::new(Arc::new(book)), folder_token, setup_code })
    }

    /// What makes the first admin, if there is none.
    pub(super) fn setup_code(&self) -> Option<&Secret> {
        self.setup_code.as_ref()
    }

    pub(super) fn for_api(&self, is_public_over_tls: bool) -> Access {
        Access {
            book: self.book.subscribe(),
            folder_token: self.folder_token.digest(),
            setup_code: self.setup_code.as_ref().map(Secret::digest),
            is_public_over_tls,
        }
    }
}

impl Hub {
    /// Changes who may do what: durable first, then in force.
    pub(super) async fn change_access(&mut self, change: Change) -> Result<(), String> {
        let mut book = AccessBook::clone(&self.doors.book.borrow());
        book.check(&change)?;
        self.store.save_access(&change).await.map_err(|failure| {
            error!("failed to {failure}");
            "the hub's database failed; nothing was changed".to_owned()
        })?;
        book.apply(change);
        self.doors.book.send_replace(Arc::new(book));
        Ok(())
    }

    /// Notes in the signed history what somebody did.
    pub(super) async fn note(&mut self, deed: Deed) {
        let Deed { who, from, what, status } = deed;
        let body = json!({
            "who": who.name, "role": who.role, "from": from.to_string(), "what": what, "status": status,
        });
        match self.store.append_history(clock::unix_ms(), "request", &body).await {
            Ok(head) => {
                if let Err(failure) = self.audit.sign(&self.release_key, head) {
                    error!("failed to {failure}");
                }
            }
            Err(failure) => error!("failed to {failure}"),
        }
    }

    /// The history, newest first.
    pub(super) async fn read_history(&self, before: Option<i64>, limit: u32) -> Result<Vec<Value>, String> {
        let rows = self.store.history_page(before.unwrap_or(i64::MAX), limit).await.map_err(|e| e.to_string())?;
        let show = |row: crate::store::history::HistoryRow| {
            json!({
                "sequence": row.sequence,
                "at": time(row.at_ms),
                "kind": row.kind,
                // A row that was tampered with may hold anything.
                "body": serde_json::from_str::<Value>(&row.body).unwrap_or(Value::String(row.body)),
                "hash": row.hash,
            })
        };
        Ok(rows.into_iter().map(show).collect())
    }
}
