//! The HTTP interface: health, metrics and JSON under `/api/v1`. It reads pictures and sends commands, and holds
//! nothing of the hub's.

mod error;
mod rollouts;

use std::net::SocketAddr;
use std::sync::Arc;

use axum::extract::{DefaultBodyLimit, Path, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::Deserialize;
use serde_json::{Value, json};
use shared::ids::{Digest, ModelName, ModelVersion};
use shared::limits::MAX_PACKAGE_BYTES;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

use crate::core::rollout::Wish;
use crate::telemetry::Telemetry;
use crate::view::View;
use error::Problem;

/// Bytes of a request's body: a training request is a line.
const MAX_BODY_BYTES: usize = 16 * 1024;
/// Bytes of the words that name who asks for training.
const MAX_BY_BYTES: usize = 200;

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
}

/// A command, and where to say that it is done, durably where it has to be.
pub type Order = (Command, oneshot::Sender<()>);

/// What the handlers share.
#[derive(Clone)]
struct Context {
    view: watch::Receiver<Arc<View>>,
    commands: mpsc::Sender<Order>,
    telemetry: Telemetry,
}

/// Serves the interface on a listener until `shutdown` is cancelled.
pub async fn serve(
    listener: TcpListener,
    view: watch::Receiver<Arc<View>>,
    commands: mpsc::Sender<Order>,
    telemetry: Telemetry,
    shutdown: CancellationToken,
) {
    let context = Context { view, commands, telemetry };
    let served = axum::serve(listener, router(context)).with_graceful_shutdown(shutdown.cancelled_owned());
    if let Err(error) = served.await {
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
    Router::new()
        .route("/livez", get(|| async { "ok" }))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
        .route("/api/v1/agents", get(|State(context): State<Context>| async move { items(&context.now().agents) }))
        .route("/api/v1/agents/{agent}", get(agent))
        .route("/api/v1/streams", get(|State(context): State<Context>| async move { items(&context.now().streams) }))
        .route("/api/v1/models", get(models))
        .route("/api/v1/models/{model}", get(model))
        .route(
            "/api/v1/models/{model}/versions",
            get(versions).post(rollouts::upload).layer(DefaultBodyLimit::max(MAX_PACKAGE_BYTES as usize)),
        )
        .route("/api/v1/models/{model}/rollouts", post(rollouts::begin))
        .route("/api/v1/rollouts", get(rollouts::list))
        .route("/api/v1/rollouts/{rollout}", get(rollouts::one))
        .route("/api/v1/rollouts/{rollout}/{wish}", post(rollouts::wish))
        .route("/api/v1/models/{model}/retraining", post(retrain))
        .route("/api/v1/drift", get(|State(context): State<Context>| async move { Json(context.now().drift.clone()) }))
        .route(
            "/api/v1/retraining-runs",
            get(|State(context): State<Context>| async move { items(&context.now().runs) }),
        )
        .route("/api/v1/retraining-runs/{run}", get(run))
        .route(
            "/api/v1/ledger",
            get(|State(context): State<Context>| async move { Json(context.now().ledger.clone()) }),
        )
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

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RetrainRequest {
    by: String,
}

async fn retrain(
    State(context): State<Context>,
    Path(name): Path<String>,
    body: Result<Json<RetrainRequest>, axum::extract::rejection::JsonRejection>,
) -> Result<Response, Problem> {
    let (model, _) = known_model(&context, &name)?;
    let Json(RetrainRequest { by }) = body.map_err(|rejection| Problem::bad_body(rejection.body_text()))?;
    check_by(&by)?;
    context.order(Command::Retrain { model, by }).await?;
    let location = [(header::LOCATION, "/api/v1/retraining-runs")];
    Ok((StatusCode::ACCEPTED, location, Json(json!({ "status": "accepted" }))).into_response())
}

fn check_by(by: &str) -> Result<(), Problem> {
    if by.is_empty() || by.len() > MAX_BY_BYTES || by.chars().any(char::is_control) {
        return Err(Problem::bad_body(format!("by must be 1 to {MAX_BY_BYTES} bytes of plain text")));
    }
    Ok(())
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
