//! The agent to be installed from the hub, by anybody who reaches it: a script, and the packages whose hashes stand in it.

use std::fs::File;
use std::io::Read;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use futures_util::stream;

use super::Context;
use super::error::Problem;
use super::extract::At;

/// Bytes that are read and sent at once.
const PART_BYTES: usize = 64 * 1024;

/// The script.
pub(super) async fn script(State(context): State<Context>) -> Result<Response, Problem> {
    let folder = Arc::clone(&context.shown.install);
    let script = in_a_thread(move || folder.script()).await?;
    let nothing = "the hub has no packages; whoever runs it puts them into install/ in its data folder";
    let script = script.ok_or_else(|| Problem::not_found("packages", nothing.to_owned()))?;
    Ok(([(header::CONTENT_TYPE, "text/x-shellscript; charset=utf-8")], script).into_response())
}

/// A package, sent as it is read.
pub(super) async fn package(State(context): State<Context>, At(name): At<String>) -> Result<Response, Problem> {
    let folder = Arc::clone(&context.shown.install);
    let asked = name.clone();
    let found = in_a_thread(move || folder.open(&asked)).await?;
    let (file, bytes) = found.ok_or_else(|| Problem::not_found("package", format!("there is no package {name:?}")))?;
    let parts = stream::try_unfold(file, |file| async move { in_a_thread_io(move || part(file)).await });
    let headers =
        [(header::CONTENT_TYPE, "application/octet-stream".to_owned()), (header::CONTENT_LENGTH, bytes.to_string())];
    Ok((headers, Body::from_stream(parts)).into_response())
}

/// The next part of a file, and the file; nothing at its end.
fn part(mut file: File) -> std::io::Result<Option<(Vec<u8>, File)>> {
    let mut part = Vec::with_capacity(PART_BYTES);
    file.by_ref().take(PART_BYTES as u64).read_to_end(&mut part)?;
    Ok((!part.is_empty()).then_some((part, file)))
}

async fn in_a_thread<T: Send + 'static>(
    act: impl FnOnce() -> std::io::Result<T> + Send + 'static,
) -> Result<T, Problem> {
    in_a_thread_io(act).await.map_err(|error| {
        tracing::error!("failed to read a package to install: {error}");
        Problem::failed("the package cannot be read".to_owned())
    })
}

async fn in_a_thread_io<T: Send + 'static>(
    act: impl FnOnce() -> std::io::Result<T> + Send + 'static,
) -> std::io::Result<T> {
    tokio::task::spawn_blocking(act).await.map_err(std::io::Error::other)?
}
