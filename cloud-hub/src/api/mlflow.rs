//! MLflow's tracking and registry interface, as its unmodified clients use it
//! (<https://mlflow.org/docs/latest/rest-api.html>): what trains elsewhere logs here, and registers, finds and fetches models.
//!
//! The hub's own models and trainings are shown beside what is logged. A package that is registered under the name of a model
//! of the hub's is brought to the hub, and proves itself; its alias `champion` rolls out.

mod artifacts;
mod models;
mod runs;
mod shown;

use axum::Json;
use axum::body::Bytes;
use axum::extract::{FromRequest, FromRequestParts, Query, Request};
use axum::http::StatusCode;
use axum::http::request::Parts;
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::error::Problem;
use super::guard::Route;
use super::{Command, Context, FileFault};
use crate::core::tracking::{Act, Fault, Texts};

/// Bytes of a body: a batch of a thousand points, with words.
const MAX_BODY_BYTES: usize = 1024 * 1024;
/// Items of a page, unless it is said.
const DEFAULT_RESULTS: usize = 100;
/// Items of a page at most.
const MAX_RESULTS: usize = 10_000;

/// Every route of it.
pub(super) fn routes() -> Vec<Route> {
    let all = runs::routes().into_iter().chain(models::routes()).chain(artifacts::routes());
    all.collect()
}

type Answer = Result<Json<Value>, MlflowError>;

/// An error, as MLflow's clients understand it.
#[derive(Debug)]
pub(super) struct MlflowError {
    status: StatusCode,
    code: &'static str,
    message: String,
}

impl MlflowError {
    fn invalid(message: impl Into<String>) -> Self {
        let code = "INVALID_PARAMETER_VALUE";
        Self { status: StatusCode::BAD_REQUEST, code, message: message.into() }
    }

    fn missing(message: impl Into<String>) -> Self {
        let code = "RESOURCE_DOES_NOT_EXIST";
        Self { status: StatusCode::NOT_FOUND, code, message: message.into() }
    }

    fn exists(message: impl Into<String>) -> Self {
        Self { status: StatusCode::BAD_REQUEST, code: "RESOURCE_ALREADY_EXISTS", message: message.into() }
    }

    fn failed(message: impl Into<String>) -> Self {
        let code = "TEMPORARILY_UNAVAILABLE";
        Self { status: StatusCode::SERVICE_UNAVAILABLE, code, message: message.into() }
    }
}

impl From<Fault> for MlflowError {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Missing(message) => Self::missing(message),
            Fault::Exists(message) => Self::exists(message),
            Fault::Invalid(message) => Self::invalid(message),
            Fault::Failed(message) => Self::failed(message),
        }
    }
}

impl From<FileFault> for MlflowError {
    fn from(fault: FileFault) -> Self {
        match fault {
            FileFault::Missing(message) => Self::missing(message),
            FileFault::Refused(message) => Self::invalid(message),
            FileFault::Failed(message) => Self::failed(message),
        }
    }
}

/// The hub is stopping, or too busy: nothing else comes back from asking it.
impl From<Problem> for MlflowError {
    fn from(problem: Problem) -> Self {
        Self::failed(problem.to_string())
    }
}

impl IntoResponse for MlflowError {
    fn into_response(self) -> Response {
        let Self { status, code, message } = self;
        (status, Json(json!({ "error_code": code, "message": message }))).into_response()
    }
}

/// A body. Clients of other releases say more than is known here, which is passed over.
struct Asked<T>(T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Asked<T> {
    type Rejection = MlflowError;

    async fn from_request(request: Request, state: &S) -> Result<Self, MlflowError> {
        let bytes = Bytes::from_request(request, state).await;
        let bytes = bytes.map_err(|rejection| MlflowError::invalid(rejection.body_text()))?;
        let text = if bytes.is_empty() { &b"{}"[..] } else { &bytes };
        serde_json::from_slice(text).map(Self).map_err(|error| MlflowError::invalid(error.to_string()))
    }
}

/// What stands behind the question mark.
struct Said<T>(T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Said<T> {
    type Rejection = MlflowError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, MlflowError> {
        let query = Query::from_request_parts(parts, state).await;
        query.map(|Query(query)| Self(query)).map_err(|rejection| MlflowError::invalid(rejection.body_text()))
    }
}

/// A tag, or a parameter.
#[derive(Deserialize)]
struct Pair {
    key: String,
    #[serde(default)]
    value: String,
}

fn texts(pairs: Vec<Pair>) -> Texts {
    pairs.into_iter().map(|pair| (pair.key, pair.value)).collect()
}

/// A page of what was found: the items, and the token of the next one.
fn paged(found: Vec<Value>, wanted: Option<usize>, token: Option<&str>) -> Result<(Vec<Value>, String), MlflowError> {
    let limit = wanted.unwrap_or(DEFAULT_RESULTS).clamp(1, MAX_RESULTS);
    let from = match token.filter(|token| !token.is_empty()) {
        None => 0,
        Some(token) => token.parse().map_err(|_| MlflowError::invalid(format!("{token:?} is no page token")))?,
    };
    let next = if found.len() > limit.saturating_add(from) { (from + limit).to_string() } else { String::new() };
    Ok((found.into_iter().skip(from).take(limit).collect(), next))
}

impl Context {
    /// Has something tracked, durably.
    async fn track(&self, act: Act) -> Result<(), MlflowError> {
        Ok(self.ask(|answer| Command::Track { act, answer }).await??)
    }
}
