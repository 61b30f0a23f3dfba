//! The HTTP interface: health, metrics and JSON under `/api/v1`. It reads pictures and sends commands, and holds
//! nothing of the hub's.

mod accounts;
mod alarms;
mod asks;
mod dashboard;
mod diagnoses;
mod enrolment;
mod error;
mod etag;
mod events;
mod extract;
mod fleet;
mod guard;
mod history;
mod install;
mod labels;
mod learning;
mod mlflow;
mod models;
pub mod openapi;
mod page;
mod programs;
mod rollouts;
mod routes;
mod streams;

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, RwLock};

use axum::Router;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use shared::event::UnixMillis;
use shared::ids::{AgentId, Digest, ModelName, ModelVersion, StreamId};
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;
use utoipa::ToSchema;

use crate::core::access::throttle::Throttle;
use crate::core::access::{AccessBook, Change};
use crate::core::alarms::Review;
use crate::core::diagnoses::Diagnosis;
use crate::core::identities::BoxLabels;
use crate::core::labels::LabelKind;
use crate::core::retrain::curve::Curve;
use crate::core::rollout::Wish;
use crate::core::tracking::{Act, Fault, Point, Tracking};
use crate::install::InstallFolder;
use crate::telemetry::Telemetry;
use crate::view::programs::{BoxProgramView, ProgramView};
use crate::view::{
    AlarmView, AskView, EnrolTokenView, HistogramsView, HistoryView, IdentityView, LabelView, ReadingsView, View,
};
pub use enrolment::{MadeEnrolToken, NewEnrolTokens};
use error::Problem;
pub use guard::Deed;

/// Bytes of a request's body: a training request is a line.
const MAX_BODY_BYTES: usize = 16 * 1024;
/// Passwords that are hashed at once: each takes a core and 19 MiB.
const HASHED_AT_ONCE: usize = 1;
/// Pages and programs that may follow what happens at once.
const FOLLOWERS: usize = 256;

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
    /// Make tokens that let boxes in.
    MakeEnrolTokens {
        /// Which.
        asked: NewEnrolTokens,
        /// The tokens, or why there are none.
        answer: oneshot::Sender<Result<Vec<MadeEnrolToken>, String>>,
    },
    /// Ask a box how it is.
    Diagnose {
        /// The box.
        agent: AgentId,
        /// Who asks.
        by: String,
        /// Why not, if it cannot be asked.
        answer: oneshot::Sender<Result<(), String>>,
    },
    /// Read what it said.
    ReadDiagnosis {
        /// The box.
        agent: AgentId,
        /// What it said; nothing if nobody asked.
        answer: oneshot::Sender<Option<Diagnosis>>,
    },
    /// Make such a token void.
    RemoveEnrolToken {
        /// The token.
        id: String,
        /// Why not, if it cannot be kept.
        answer: oneshot::Sender<Result<(), String>>,
    },
    /// Read which of them there are.
    ReadEnrolTokens {
        /// The tokens, the newest first.
        answer: oneshot::Sender<Vec<EnrolTokenView>>,
    },
    /// Read which boxes ask to be let in.
    ReadAsks {
        /// The boxes, the newest first.
        answer: oneshot::Sender<Vec<AskView>>,
    },
    /// Let one of them in.
    ApproveAsk {
        /// The ask.
        id: String,
        /// The name that the box gets; nothing: the one it wished for.
        agent: Option<AgentId>,
        /// What it is labelled with beside what the claim says.
        labels: BoxLabels,
        /// Who says so.
        by: String,
        /// Why not, if it makes no sense or cannot be kept.
        answer: oneshot::Sender<Result<(), String>>,
    },
    /// Do not let one of them in.
    RemoveAsk {
        /// The ask.
        id: String,
        /// Why not, if it cannot be kept.
        answer: oneshot::Sender<Result<(), String>>,
    },
    /// Read which boxes were let in.
    ReadIdentities {
        /// The boxes, by name.
        answer: oneshot::Sender<Vec<IdentityView>>,
    },
    /// Read which programs for boxes there are.
    ReadPrograms {
        /// The programs, the newest first.
        answer: oneshot::Sender<Vec<ProgramView>>,
    },
    /// Read what boxes run, and should run.
    ReadBoxPrograms {
        /// The boxes, by name.
        answer: oneshot::Sender<Vec<BoxProgramView>>,
    },
    /// Take a program in.
    BringProgram {
        /// Its file.
        bytes: Vec<u8>,
        /// Who brings it.
        by: String,
        /// The program, or why it is refused.
        answer: oneshot::Sender<Result<ProgramView, String>>,
    },
    /// Have boxes run a program.
    OfferProgram {
        /// The program.
        file: Digest,
        /// The boxes.
        agents: Vec<AgentId>,
        /// Who wants it.
        by: String,
        /// The program, or why not.
        answer: oneshot::Sender<Result<ProgramView, String>>,
    },
    /// Let a program be offered again that was halted.
    ResumeProgram {
        /// The program.
        file: Digest,
        /// The program, or why not.
        answer: oneshot::Sender<Result<ProgramView, String>>,
    },
    /// Remove a program.
    RemoveProgram {
        /// The program.
        file: Digest,
        /// Why not.
        answer: oneshot::Sender<Result<(), String>>,
    },
    /// Keep a box out.
    RevokeBox {
        /// The box.
        agent: AgentId,
        /// Who wants it.
        by: String,
        /// Why.
        reason: String,
        /// Why not, if it makes no sense.
        answer: oneshot::Sender<Result<(), String>>,
    },
    /// Let a box come back whose certificate expired.
    ApproveBox {
        /// The box.
        agent: AgentId,
        /// Who approves.
        by: String,
        /// Why not, if it makes no sense.
        answer: oneshot::Sender<Result<(), String>>,
    },
    /// Note in the history what somebody did.
    Note(Deed),
    /// Read the history.
    ReadHistory {
        /// Which rows.
        rows: HistoryRows,
        /// At most so many.
        limit: u32,
        /// The rows.
        answer: oneshot::Sender<Result<Vec<HistoryView>, String>>,
    },
    /// Read a stream's readings, and what was said of them, over some time.
    ReadReadings {
        /// What.
        window: Window,
        /// The readings.
        answer: oneshot::Sender<Result<ReadingsView, String>>,
    },
    /// Read every alarm that is known.
    ReadAlarms {
        /// The alarms.
        answer: oneshot::Sender<Vec<AlarmView>>,
    },
    /// Say what an alarm was.
    ReviewAlarm {
        /// The alarm.
        id: String,
        /// What.
        review: Review,
        /// Why it is not taken, if it is not.
        answer: oneshot::Sender<Result<(), String>>,
    },
    /// Read every label.
    ReadLabels {
        /// The labels.
        answer: oneshot::Sender<Vec<LabelView>>,
    },
    /// Say what stretches of readings are.
    AddLabels {
        /// What.
        labels: Vec<NewLabel>,
        /// The labels, or why none of them is taken.
        answer: oneshot::Sender<Result<Vec<LabelView>, String>>,
    },
    /// Take back what was said.
    RemoveLabel {
        /// The label.
        id: String,
        /// Why it stays, if it does.
        answer: oneshot::Sender<Result<(), String>>,
    },
    /// Look at a stream's values beside what its model was trained on.
    ReadHistograms {
        /// The box.
        agent: AgentId,
        /// The stream.
        stream: StreamId,
        /// The histograms; nothing of a stream that is not watched.
        answer: oneshot::Sender<Option<HistogramsView>>,
    },
    /// Look at how the loss of a training went.
    ReadCurve {
        /// The training.
        run: i64,
        /// The curve; nothing of a run that is not known.
        answer: oneshot::Sender<Option<Curve>>,
    },
    /// Do something to what is tracked.
    Track {
        /// What.
        act: Act,
        /// Why not, if it makes no sense or cannot be kept.
        answer: oneshot::Sender<Result<(), Fault>>,
    },
    /// Read the points of a figure of a run.
    ReadPoints {
        /// The run.
        run: String,
        /// The figure.
        key: String,
        /// The newest of them, oldest first.
        answer: oneshot::Sender<Result<Vec<Point>, String>>,
    },
    /// Do something with files that trainings leave.
    OnFile {
        /// What.
        asked: FileAsked,
        /// What came of it.
        answer: oneshot::Sender<Result<FileGiven, FileFault>>,
    },
    /// Read a package.
    ReadPackage {
        /// Which.
        digest: Digest,
        /// Its file.
        answer: oneshot::Sender<Result<Vec<u8>, String>>,
    },
}

/// What is asked of files that trainings leave.
#[derive(Debug)]
pub enum FileAsked {
    /// What lies in a folder.
    List(String),
    /// A file.
    Read(String),
    /// To write a file.
    Write(String, Vec<u8>),
    /// To remove a file, or a folder with all in it.
    Remove(String),
}

/// What came of it.
#[derive(Debug)]
pub enum FileGiven {
    /// Names, and bytes of those that are files.
    Listed(Vec<(String, Option<u64>)>),
    /// A file.
    Bytes(Vec<u8>),
    /// It is written, durably, or gone.
    Done,
}

/// Why nothing came of it.
#[derive(Debug)]
pub enum FileFault {
    /// There is no such file.
    Missing(String),
    /// It cannot be asked for.
    Refused(String),
    /// The disk failed.
    Failed(String),
}

/// Which rows of the history.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HistoryRows {
    /// Those before one, newest first.
    Before(i64),
    /// Those after one, oldest first.
    After(i64),
}

/// What somebody says of a stretch of readings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewLabel {
    /// The box.
    pub agent: AgentId,
    /// The stream.
    pub stream: StreamId,
    /// The first millisecond.
    pub from_ms: UnixMillis,
    /// The last one.
    pub to_ms: UnixMillis,
    /// What it is.
    pub kind: LabelKind,
    /// What they have to say.
    pub comment: String,
    /// Who.
    pub by: String,
    /// Its name, if it takes the place of what was said before; a new one unless it is said.
    pub id: Option<String>,
}

/// A stream's readings over some time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Window {
    /// The box.
    pub agent: AgentId,
    /// The stream.
    pub stream: StreamId,
    /// From the first of these milliseconds.
    pub from_ms: UnixMillis,
    /// To the last of them.
    pub to_ms: UnixMillis,
    /// In at most so many parts of the same length.
    pub parts: u32,
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

/// What the interface shows by itself.
#[derive(Debug, Clone)]
pub struct Shown {
    /// The newest picture.
    pub view: watch::Receiver<Arc<View>>,
    /// The number of the newest row of the history.
    pub head: watch::Receiver<i64>,
    /// What programs that train elsewhere log and register.
    pub tracking: Arc<RwLock<Tracking>>,
    /// Figures for Prometheus.
    pub telemetry: Telemetry,
    /// Packages of the agent.
    pub install: Arc<InstallFolder>,
}

/// What the handlers share.
#[derive(Clone)]
struct Context {
    shown: Shown,
    commands: mpsc::Sender<Order>,
    book: watch::Receiver<Arc<AccessBook>>,
    folder_token: Digest,
    setup_code: Option<Digest>,
    is_public_over_tls: bool,
    throttle: Arc<Mutex<Throttle>>,
    hashing: Arc<Semaphore>,
    followers: Arc<Semaphore>,
    shutdown: CancellationToken,
}

/// Serves the interface on a listener until `shutdown` is cancelled.
pub async fn serve(
    listener: TcpListener,
    shown: Shown,
    commands: mpsc::Sender<Order>,
    access: Access,
    shutdown: CancellationToken,
) {
    let Access { book, folder_token, setup_code, is_public_over_tls } = access;
    let context = Context {
        shown,
        commands,
        book,
        folder_token,
        setup_code,
        is_public_over_tls,
        throttle: Arc::default(),
        hashing: Arc::new(Semaphore::new(HASHED_AT_ONCE)),
        followers: Arc::new(Semaphore::new(FOLLOWERS)),
        shutdown: shutdown.clone(),
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
        .fallback(dashboard::nothing)
        .method_not_allowed_fallback(|| async { Problem::method_not_allowed() })
        .layer(DefaultBodyLimit::max(MAX_BODY_BYTES))
        .with_state(context)
}

impl Context {
    fn now(&self) -> Arc<View> {
        Arc::clone(&self.shown.view.borrow())
    }

    /// Has a command carried out. A hub that stops meanwhile has not promised anything.
    async fn order(&self, command: Command) -> Result<(), Problem> {
        let (done, is_done) = oneshot::channel();
        self.commands.send((command, done)).await.map_err(|_| Problem::stopping())?;
        is_done.await.map_err(|_| Problem::stopping())
    }

    /// Asks the hub something.
    async fn ask<T>(&self, question: impl FnOnce(oneshot::Sender<T>) -> Command) -> Result<T, Problem> {
        let (answer, answered) = oneshot::channel();
        self.order(question(answer)).await?;
        answered.await.map_err(|_| Problem::stopping())
    }
}

/// What was asked for is begun.
#[derive(Debug, Serialize, ToSchema)]
struct Accepted {
    /// Always `accepted`.
    status: &'static str,
}

impl Accepted {
    /// Says so, and where to see what becomes of it.
    fn at(location: String) -> Response {
        let body = axum::Json(Self { status: "accepted" });
        (StatusCode::ACCEPTED, [(header::LOCATION, location)], body).into_response()
    }
}

async fn live() -> &'static str {
    "ok"
}

async fn ready(State(context): State<Context>) -> Response {
    if context.now().ready && !context.commands.is_closed() {
        "ready".into_response()
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "starting or stopping").into_response()
    }
}

async fn metrics(State(context): State<Context>, asked: HeaderMap) -> Response {
    let telemetry = &context.shown.telemetry;
    let accepts = asked.get(header::ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let (kind, text) = if accepts.contains("application/openmetrics-text") {
        ("application/openmetrics-text; version=1.0.0; charset=utf-8", telemetry.render())
    } else {
        ("text/plain; version=0.0.4; charset=utf-8", telemetry.render_plain())
    };
    ([(header::CONTENT_TYPE, kind)], text).into_response()
}
