//! The signed history over HTTP: what was done, by whom, and what happened to versions.

use axum::Json;
use axum::extract::State;
use serde::Deserialize;
use utoipa::IntoParams;

use super::error::Problem;
use super::extract::Params;
use super::page::{Page, limit as checked};
use super::{Command, Context, HistoryRows};
use crate::view::HistoryView;

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct HistoryQuery {
    /// Only rows before this one.
    cursor: Option<i64>,
    /// Items of a page.
    #[param(minimum = 1, maximum = 1000)]
    limit: Option<u32>,
}

/// What was done, and what happened to versions, newest first.
#[utoipa::path(get, path = "/api/v1/history", tag = "Audit", params(HistoryQuery),
    responses((status = 200, body = Page<HistoryView>)))]
pub(super) async fn history(
    State(context): State<Context>,
    Params(HistoryQuery { cursor, limit }): Params<HistoryQuery>,
) -> Result<Json<Page<HistoryView>>, Problem> {
    let limit = checked(limit)?;
    let rows = HistoryRows::Before(cursor.unwrap_or(i64::MAX));
    let read = |answer| Command::ReadHistory { rows, limit: limit as u32, answer };
    let rows = context.ask(read).await?.map_err(Problem::failed)?;
    let is_full = rows.len() == limit;
    let next = rows.last().map(|row| row.sequence).filter(|first| is_full && *first > 1);
    Ok(Json(Page { items: rows, next_cursor: next.map(|first| first.to_string()) }))
}
