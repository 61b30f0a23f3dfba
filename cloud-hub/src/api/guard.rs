//! Who is asking, and whether they may: before any handler of a route runs.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use axum::extract::{ConnectInfo, DefaultBodyLimit, Request, State};
use axum::handler::Handler;
use axum::http::{HeaderMap, Method, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodFilter, MethodRouter, on};

use super::error::Problem;
use super::{Command, Context, etag};
use crate::clock;
use crate::core::access::{How, Principal, Role};
use crate::secret::Secret;
use crate::telemetry::{RequestLabel, Telemetry};

/// The cookie that holds a browser's session.
pub(super) const SESSION_COOKIE: &str = "tideline_session";

/// A route: the only way one comes into being is with what it takes to use it.
pub(super) struct Route {
    pub(super) method: Method,
    pub(super) path: &'static str,
    /// The least role that may use it; nothing: anybody.
    pub(super) role: Option<Role>,
    /// Whether what it does is noted in the history.
    is_noted: bool,
    handler: MethodRouter<Context>,
}

impl Route {
    pub(super) fn new<T: 'static>(
        method: Method,
        path: &'static str,
        role: Role,
        handler: impl Handler<T, Context>,
    ) -> Self {
        Self { role: Some(role), ..Self::open(method, path, handler) }
    }

    /// A route for anybody. It must not show what is nobody's business.
    pub(super) fn open<T: 'static>(method: Method, path: &'static str, handler: impl Handler<T, Context>) -> Self {
        // Of every method that is in the table.
        let filter = MethodFilter::try_from(method.clone()).unwrap_or(MethodFilter::TRACE);
        let is_noted = !matches!(method, Method::GET | Method::HEAD | Method::OPTIONS);
        Self { method, path, role: None, is_noted, handler: on(filter, handler) }
    }

    /// It takes a body of so many bytes.
    pub(super) fn taking(self, bytes: usize) -> Self {
        Self { handler: self.handler.layer(DefaultBodyLimit::max(bytes)), ..self }
    }

    /// Its method says that it changes something, and it does nothing that anybody would ask about later.
    pub(super) fn quiet(self) -> Self {
        Self { is_noted: false, ..self }
    }

    pub(super) fn guarded(self, context: &Context) -> (&'static str, MethodRouter<Context>) {
        let Self { method, path, role, is_noted, handler } = self;
        let handler = match role {
            None => handler,
            Some(role) => {
                let gate = Gate { context: context.clone(), role, is_noted, route: format!("{method} {path}").into() };
                handler.route_layer(axum::middleware::from_fn_with_state(gate, guard))
            }
        };
        let counted = (context.shown.telemetry.clone(), path);
        (path, handler.route_layer(axum::middleware::from_fn_with_state(counted, count)))
    }
}

/// Counts a request, and how long it took until its answer began.
async fn count(State((telemetry, route)): State<(Telemetry, &'static str)>, request: Request, next: Next) -> Response {
    let method = request.method().to_string();
    let began = clock::Stopwatch::start();
    let response = next.run(request).await;
    telemetry.request_seconds.observe(began.seconds());
    let status = response.status().as_u16();
    telemetry.requests.get_or_create(&RequestLabel { route, method, status }).inc();
    response
}

#[derive(Clone)]
struct Gate {
    context: Context,
    role: Role,
    is_noted: bool,
    route: Arc<str>,
}

/// What was done, by whom and from where, for the history.
#[derive(Debug, Clone)]
pub struct Deed {
    /// Who did it.
    pub who: Principal,
    /// From which address.
    pub from: IpAddr,
    /// The method and the path.
    pub what: String,
    /// The answer's status.
    pub status: u16,
}

async fn guard(
    State(Gate { context, role, is_noted, route }): State<Gate>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    mut request: Request,
    next: Next,
) -> Response {
    let Some(who) = recognise(&context, request.headers()) else {
        return Problem::unauthorized().into_response();
    };
    if who.role < role {
        let Principal { name, role: has, .. } = &who;
        let detail = format!("{route} takes the role {}, {name} has {}", role.name(), has.name());
        return Problem::forbidden("role", detail).into_response();
    }
    let changes = !matches!(*request.method(), Method::GET | Method::HEAD | Method::OPTIONS);
    if changes && who.how == How::Session && !is_same_origin(request.headers()) {
        let detail = "a page of another site must not act for you: the request's Origin is not this hub";
        return Problem::forbidden("origin", detail).into_response();
    }
    let what = format!("{} {}", request.method(), request.uri().path());
    request.extensions_mut().insert(who.clone());
    if !changes {
        let asked = request.headers().clone();
        return etag::tagged(&asked, next.run(request).await).await;
    }
    let response = next.run(request).await;
    if !is_noted {
        return response;
    }
    let deed = Deed { who, from: peer.ip(), what, status: response.status().as_u16() };
    // What was done and cannot be noted is not taken back; the hub is stopping then.
    context.order(Command::Note(deed)).await.ok();
    response
}

pub(super) fn recognise(context: &Context, headers: &HeaderMap) -> Option<Principal> {
    let now = clock::unix_ms();
    let book = context.book.borrow();
    let authorization = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    if let Some(authorization) = authorization {
        let (scheme, token) = authorization.split_once(' ')?;
        let digest = Secret::digest_of(token.trim());
        return match scheme.eq_ignore_ascii_case("bearer") {
            true if digest == context.folder_token => Some(Principal::of_folder()),
            true => book.of_token(digest, now),
            false => None,
        };
    }
    session_of(headers).and_then(|secret| book.of_session(Secret::digest_of(secret), now))
}

/// The secret in a browser's cookie.
pub(super) fn session_of(headers: &HeaderMap) -> Option<&str> {
    let cookies = headers.get_all(header::COOKIE).into_iter().filter_map(|value| value.to_str().ok());
    cookies.flat_map(|value| value.split(';')).find_map(|cookie| {
        let (name, value) = cookie.trim().split_once('=')?;
        (name == SESSION_COOKIE).then_some(value)
    })
}

/// Whether a browser sends the request for a page of this hub. Browsers say so with everything that changes something
/// (Fetch standard, "append a request Origin header"); the cookie's SameSite keeps others out already.
fn is_same_origin(headers: &HeaderMap) -> bool {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
    let (Some(origin), Some(host)) = (text(header::ORIGIN), text(header::HOST)) else {
        return false;
    };
    origin.split_once("://").is_some_and(|(_, origin_host)| origin_host == host)
}
