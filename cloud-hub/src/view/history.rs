//! Rows of the history, as they are shown.

use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use super::Timestamp;

/// A row of the signed history.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct HistoryView {
    /// Its number, from 1.
    pub sequence: i64,
    /// When it was written.
    pub at: Timestamp,
    /// What it is of: `version`, `champion`, `rollout`, `deployment`, `request` and others.
    pub kind: String,
    /// What happened.
    #[schema(value_type = Object)]
    pub body: Value,
    /// BLAKE3 of the row and the hash before it.
    pub hash: String,
}
