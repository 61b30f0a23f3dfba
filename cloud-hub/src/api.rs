//! The HTTP interface: health, metrics and JSON under `/api/v1`. It reads pictures and sends commands, and holds
//! nothing of the hub's.

mod accounts;
mod error;
mod guard;
mod rollouts;
mod routes;

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use axum::extract::rejection::QueryRejection;
use axum::extract::{DefaultBodyLimit, Path, Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json, Router};
use serde::Deserialize;
use serde_json::{Value, json};
use shared::ids::{Digest, ModelName, ModelVersion};
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

use crate::core::access::throttle::Throttle;
use crate::core::access::{AccessBook, Change, Principal};
use crate::core::rollout::Wish;
use crate::telemetry::Telemetry;
use crate::view::View;
use error::Problem;
pub use guard::Deed;

/// Bytes of a request's body: a training request is a line.
const MAX_BODY_BYTES: usize = 16 * 1024;
/// Rows of the history that are shown at once.
const MAX_HISTORY_ROWS: u32 = 500;
/// Passwords that are hashed at once: each takes a core and 19 MiB.
const HASHED_AT_ONCE: usize = 1;

/// What a caller can ask of the hub.
#[derive(Debug)]
pub enum Command {
    /// Train a model now.
    Retrain {
        /// The model.
        model: ModelName,
        /// Who or what asks.
        by: String,
    },
    /// Do something with a rollout.
    Wish {
        /// The rollout.
        id: i64,
        /// What.
        wish: Wish,
        /// Who asks.
        by: String,
    },
    /// Roll a version out.
    RollOut {
        /// The model.
        model: ModelName,
        /// The version.
        version: ModelVersion,
        /// Who asks.
        by: String,
    },
    /// Check a package, keep it and roll it out.
    Bring {
        /// The model it is for.
        model: ModelName,
        /// Its file.
        bytes: Vec<u8>,
        /// Who brings it.
        by: String,
        /// Whether it need not prove itself on the hub's readings.
        skip_proof: bool,
        /// Version and digest, or why it is refused.
        answer: oneshot::Sender<Result<(ModelVersion, Digest), String>>,
    },
    /// Change who may do what.
    Change {
        /// How.
        change: Change,
        /// Why not, if it makes no sense or cannot be kept.
        answer: oneshot::Sender<Result<(), String>>,
    },
    /// Note in the history what somebody did.
    Note(Deed),
    /// Read the history, newest first.
    ReadHistory {
        /// Only rows before this one.
        before: Option<i64>,
        /// At most so many.
        limit: u32,
        /// The rows.
        answer: oneshot::Sender<Result<Vec<Value>, String>>,
    },
}

/// How callers are recognised.
#[derive(Debug, Clone)]
pub struct Access {
    /// Users, sessions and tokens.
    pub book: watch::Receiver<Arc<AccessBook>>,
    /// The hash of the token in the hub's own folder.
    pub folder_token: Digest,
    /// The hash of the code that makes the first admin, if there was none.
    pub setup_code: Option<Digest>,
    /// Whether browsers reach the hub over TLS, so that cookies must not travel without it.
    pub is_public_over_tls: bool,
}

/// A command, and where to say that it is done, durably where it has to be.
pub type Order = (Command, oneshot::Sender<()>);

/// What the handlers share.
#[derive(Clone)]
struct Context {
    view: watch::Receiver<Arc<View>>,
    commands: mpsc::Sender<Order>,
    telemetry: Telemetry,
    book: watch::Receiver<Arc<AccessBook>>,
    folder_token: Digest,
    setup_code: Option<Digest>,
    is_public_over_tls: bool,
    throttle: Arc<Mutex<Throttle>>,
    hashing: Arc<Semaphore>,
}

/// Serves the interface on a listener until `shutdown` is cancelled.
pub async fn serve(
    listener: TcpListener,
    view: watch::Receiver<Arc<View>>,
    commands: mpsc::Sender<Order>,
    telemetry: Telemetry,
    access: Access,
    shutdown: CancellationToken,
) {
    let Access { book, folder_token, setup_code, is_public_over_tls } = access;
    let context = Context {
        view,
        commands,
        telemetry,
        book,
        folder_token,
        setup_code,
        is_public_over_tls,
        throttle: Arc::default(),
        hashing: Arc::new(Semaphore::new(HASHED_AT_ONCE)),
    };
    let service = router(context).into_make_service_with_connect_info::<SocketAddr>();
    if let Err(error) = axum::serve(listener, service).with_graceful_shutdown(shutdown.cancelled_owned()).await {
        tracing::error!("failed to serve HTTP: {error}");
    }
}

/// Opens the port.
///
/// # Errors
/// If it is taken.
pub async fn listen(address: SocketAddr) -> std::io::Result<TcpListener> {
    TcpListener::bind(address).await
}

fn router(context: Context) -> Router {
    let routes = routes::all().into_iter().map(|route| route.guarded(&context));
    routes
        .fold(Router::new(), |router, (path, handler)| router.route(path, handler))
        .fallback(|| async { Problem::not_found("path", "there is nothing at this path; the API is under /api/v1") })
        .method_not_allowed_fallback(|| async { Problem::method_not_allowed() })
        .layer(DefaultBodyLimit::max(MAX_BODY_BYTES))
        .with_state(context)
}

impl Context {
    fn now(&self) -> Arc<View> {
        Arc::clone(&self.view.borrow())
    }

    /// Has a command carried out. A hub that stops meanwhile has not promised anything.
    async fn order(&self, command: Command) -> Result<(), Problem> {
        let (done, is_done) = oneshot::channel();
        self.commands.send((command, done)).await.map_err(|_| Problem::stopping())?;
        is_done.await.map_err(|_| Problem::stopping())
    }
}

fn items(items: &[Value]) -> Json<Value> {
    Json(json!({ "items": items, "next_cursor": null }))
}

fn find(items: &[Value], key: &str, wanted: &str, kind: &'static str) -> Result<Json<Value>, Problem> {
    items
        .iter()
        .find(|item| item[key] == wanted || item[key].as_i64().is_some_and(|number| wanted == number.to_string()))
        .map(|item| Json(item.clone()))
        .ok_or_else(|| Problem::not_found(kind, format!("there is no {kind} {wanted:?}")))
}

async fn ready(State(context): State<Context>) -> Response {
    if context.now().ready && !context.commands.is_closed() {
        "ready".into_response()
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "starting or stopping").into_response()
    }
}

async fn metrics(State(context): State<Context>) -> Response {
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, kind)], context.telemetry.render()).into_response()
}

async fn agents(State(context): State<Context>) -> Json<Value> {
    items(&context.now().agents)
}

async fn streams(State(context): State<Context>) -> Json<Value> {
    items(&context.now().streams)
}

async fn drift(State(context): State<Context>) -> Json<Value> {
    Json(context.now().drift.clone())
}

async fn runs(State(context): State<Context>) -> Json<Value> {
    items(&context.now().runs)
}

async fn ledger(State(context): State<Context>) -> Json<Value> {
    Json(context.now().ledger.clone())
}

async fn agent(State(context): State<Context>, Path(agent): Path<String>) -> Result<Json<Value>, Problem> {
    find(&context.now().agents, "agent", &agent, "agent")
}

async fn run(State(context): State<Context>, Path(run): Path<String>) -> Result<Json<Value>, Problem> {
    find(&context.now().runs, "run", &run, "run")
}

async fn models(State(context): State<Context>) -> Json<Value> {
    items(&context.now().models.iter().map(|(_, model)| model.clone()).collect::<Vec<_>>())
}

async fn model(State(context): State<Context>, Path(name): Path<String>) -> Result<Json<Value>, Problem> {
    let (_, model) = known_model(&context, &name)?;
    Ok(Json(model))
}

async fn versions(State(context): State<Context>, Path(name): Path<String>) -> Result<Json<Value>, Problem> {
    let (_, model) = known_model(&context, &name)?;
    Ok(items(model["versions"].as_array().map(Vec::as_slice).unwrap_or_default()))
}

async fn retrain(
    State(context): State<Context>,
    Extension(who): Extension<Principal>,
    Path(name): Path<String>,
) -> Result<Response, Problem> {
    let (model, _) = known_model(&context, &name)?;
    context.order(Command::Retrain { model, by: who.name }).await?;
    let location = [(header::LOCATION, "/api/v1/retraining-runs")];
    Ok((StatusCode::ACCEPTED, location, Json(json!({ "status": "accepted" }))).into_response())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct HistoryPage {
    cursor: Option<i64>,
    limit: Option<u32>,
}

/// `GET /api/v1/history`: what was done, and what happened to versions, newest first.
async fn history(
    State(context): State<Context>,
    query: Result<Query<HistoryPage>, QueryRejection>,
) -> Result<Json<Value>, Problem> {
    let Query(HistoryPage { cursor, limit }) = query.map_err(|rejection| Problem::bad_body(rejection.body_text()))?;
    let limit = limit.unwrap_or(100).clamp(1, MAX_HISTORY_ROWS);
    let (answer, answered) = oneshot::channel();
    context.order(Command::ReadHistory { before: cursor, limit, answer }).await?;
    let rows = answered.await.map_err(|_| Problem::stopping())?;
    let rows = rows.map_err(|reason| Problem::conflict("history", reason))?;
    let is_full = rows.len() == limit as usize;
    let next = rows.last().map(|row| row["sequence"].clone()).filter(|first| is_full && *first != 1);
    Ok(Json(json!({ "items": rows, "next_cursor": next })))
}

fn known_model(context: &Context, name: &str) -> Result<(ModelName, Value), Problem> {
    context
        .now()
        .models
        .iter()
        .find(|(known, _)| known.as_str() == name)
        .cloned()
        .ok_or_else(|| Problem::not_found("model", format!("there is no model {name:?}")))
}
