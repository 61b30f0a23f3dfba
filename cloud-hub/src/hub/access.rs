//! Who may do what: kept in the database, shown to the HTTP interface, and noted in the history.

use std::path::Path;
use std::sync::Arc;

use serde_json::{Value, json};
use tokio::sync::watch;
use tracing::error;

use super::{Hub, HubError};
use crate::api::{Access, Deed, HistoryRows};
use crate::clock;
use crate::core::access::{AccessBook, Change};
use crate::secret::Secret;
use crate::store::Store;
use crate::store::history::{HistoryHead, HistoryRow};
use crate::view::{HistoryView, Timestamp};

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
            Ok(head) => self.sign(head),
            Err(failure) => error!("failed to {failure}"),
        }
    }

    /// Signs the newest row of the history, and tells those who follow that it is there.
    pub(super) fn sign(&self, head: HistoryHead) {
        if let Err(failure) = self.audit.sign(&self.release_key, head) {
            error!("failed to {failure}");
        }
        self.head.send_replace(head.sequence);
    }

    /// Rows of the history.
    pub(super) async fn read_history(&self, rows: HistoryRows, limit: u32) -> Result<Vec<HistoryView>, String> {
        let read = match rows {
            HistoryRows::Before(before) => self.store.history_page(before, limit).await,
            HistoryRows::After(after) => self.store.history_after(after, limit).await,
        };
        Ok(read.map_err(|error| format!("failed to {error}"))?.into_iter().map(show_row).collect())
    }
}

fn show_row(row: HistoryRow) -> HistoryView {
    HistoryView {
        sequence: row.sequence,
        at: Timestamp(row.at_ms),
        kind: row.kind,
        // A row that was tampered with may hold anything.
        body: serde_json::from_str(&row.body).unwrap_or(Value::String(row.body)),
        hash: row.hash,
    }
}
