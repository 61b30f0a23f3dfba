//! Accounts over HTTP: logging in and out, users, and tokens of programs.

use std::net::{IpAddr, SocketAddr};

use axum::extract::rejection::JsonRejection;
use axum::extract::{ConnectInfo, Path, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use serde::Deserialize;
use serde_json::{Value, json};
use shared::event::UnixMillis;
use tokio::sync::oneshot;

use super::error::Problem;
use super::guard::{Deed, SESSION_COOKIE, session_of};
use super::{Command, Context, items};
use crate::clock;
use crate::core::access::{AccessBook, Change, How, Principal, Role, Session, Token, User};
use crate::secret::{Secret, hash_password, is_password};
use crate::view::time;

/// Seconds that a browser stays logged in.
const SESSION_S: i64 = 7 * 24 * 3_600;
/// Seconds that a token lasts, unless it is said.
const TOKEN_S: i64 = 90 * 24 * 3_600;
/// The longest that can be said: ten years.
const MAX_TOKEN_S: i64 = 10 * 366 * 24 * 3_600;
/// Bytes of a name.
const MAX_NAME_BYTES: usize = 100;

type Body<T> = Result<Json<T>, JsonRejection>;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Login {
    name: String,
    password: String,
}

/// `POST /api/v1/login`: a session for a browser, in a cookie.
pub(super) async fn login(
    State(context): State<Context>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    body: Body<Login>,
) -> Result<Response, Problem> {
    let Login { name, password } = read(body)?;
    check_name(&name)?;
    let now = clock::unix_ms();
    context.throttle(now, &peer, &name, "wrong passwords")?;
    let hash = context.book.borrow().user(&name).map(|user| user.password_hash.clone());
    // One at a time: a flood of attempts must not take the machine's memory, and it is quick.
    let permit = context.hashing.acquire().await.map_err(|_| Problem::stopping())?;
    // Those that came at once with it may have been wrong meanwhile.
    context.throttle(now, &peer, &name, "wrong passwords")?;
    let is_right = tokio::task::spawn_blocking(move || is_password(&password, hash.as_deref())).await;
    let is_right = matches!(is_right, Ok(true));
    if !is_right {
        context.was_wrong(now, &peer, &name);
    }
    drop(permit);
    if !is_right {
        return Err(Problem::wrong_password());
    }
    open_session(&context, now, name, (&peer, "POST /api/v1/login")).await
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Setup {
    code: String,
    name: String,
    password: String,
}

/// `POST /api/v1/setup`: the first admin, with the code that the hub said when it started without one.
pub(super) async fn setup(
    State(context): State<Context>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    body: Body<Setup>,
) -> Result<Response, Problem> {
    let Setup { code, name, password } = read(body)?;
    let now = clock::unix_ms();
    context.throttle(now, &peer, "", "wrong codes")?;
    let is_right = context.setup_code == Some(Secret::digest_of(&code)) && context.book.borrow().users().count() == 0;
    if !is_right {
        context.was_wrong(now, &peer, "");
        let detail = "the code is not the one this hub said when it started, or it was used";
        return Err(Problem::forbidden("setup_code", detail));
    }
    let user = new_user(&context, &name, Role::Admin, password, now).await?;
    context.change(Change::AddFirstUser(user)).await?;
    open_session(&context, now, name, (&peer, "POST /api/v1/setup")).await
}

/// A session for somebody who has just proven who they are, which is noted: these routes have no guard that does it.
async fn open_session(
    context: &Context,
    now: UnixMillis,
    user: String,
    (peer, what): (&SocketAddr, &str),
) -> Result<Response, Problem> {
    let secret = Secret::new("tls");
    let expires_ms = now + 1_000 * SESSION_S;
    let session = Session { digest: secret.digest(), user, created_ms: now, expires_ms };
    let stale = context.book.borrow().stale_sessions(&session, now);
    for digest in stale {
        context.change(Change::CloseSession(digest)).await?;
    }
    context.change(Change::OpenSession(session)).await?;
    let secure = if context.is_public_over_tls { "; Secure" } else { "" };
    let cookie =
        format!("{SESSION_COOKIE}={}; Path=/; HttpOnly; SameSite=Strict; Max-Age={SESSION_S}{secure}", secret.reveal());
    let principal = context.book.borrow().of_session(secret.digest(), now).ok_or_else(Problem::unauthorized)?;
    let shown = Json(show_principal(&principal));
    let deed = Deed { who: principal, from: peer.ip(), what: what.to_owned(), status: StatusCode::OK.as_u16() };
    context.order(Command::Note(deed)).await?;
    Ok(([(header::SET_COOKIE, cookie)], shown).into_response())
}

/// `POST /api/v1/logout`.
pub(super) async fn logout(State(context): State<Context>, headers: HeaderMap) -> Result<Response, Problem> {
    if let Some(secret) = session_of(&headers) {
        context.change(Change::CloseSession(Secret::digest_of(secret))).await?;
    }
    let cookie = format!("{SESSION_COOKIE}=; Path=/; HttpOnly; SameSite=Strict; Max-Age=0");
    Ok((StatusCode::NO_CONTENT, [(header::SET_COOKIE, cookie)]).into_response())
}

/// `GET /api/v1/me`: who the hub takes the caller for.
pub(super) async fn me(Extension(who): Extension<Principal>) -> Json<Value> {
    Json(show_principal(&who))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct NewPassword {
    old: String,
    new: String,
}

/// `PUT /api/v1/me/password`: another password. Every session of the user ends.
pub(super) async fn change_password(
    State(context): State<Context>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    Extension(who): Extension<Principal>,
    body: Body<NewPassword>,
) -> Result<StatusCode, Problem> {
    let NewPassword { old, new } = read(body)?;
    let now = clock::unix_ms();
    let Some(user) = context.book.borrow().user(&who.name).filter(|_| who.how == How::Session).cloned() else {
        return Err(Problem::forbidden("session", "a password is changed by whoever logged in with it"));
    };
    context.throttle(now, &peer, &user.name, "wrong passwords")?;
    let (is_right, hashed) = {
        let _permit = context.hashing.acquire().await.map_err(|_| Problem::stopping())?;
        let old_hash = user.password_hash.clone();
        tokio::task::spawn_blocking(move || (is_password(&old, Some(&old_hash)), hash_password(&new)))
            .await
            .map_err(|_| Problem::stopping())?
    };
    if !is_right {
        context.was_wrong(now, &peer, &user.name);
        return Err(Problem::wrong_password());
    }
    let password_hash = hashed.map_err(Problem::bad_body)?;
    context.change(Change::ChangeUser(User { password_hash, ..user })).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// `GET /api/v1/users`.
pub(super) async fn users(State(context): State<Context>) -> Json<Value> {
    let shown: Vec<Value> = context.book.borrow().users().map(show_user).collect();
    items(&shown)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct NewUser {
    name: String,
    role: Role,
    password: String,
}

/// `POST /api/v1/users`.
pub(super) async fn add_user(State(context): State<Context>, body: Body<NewUser>) -> Result<Response, Problem> {
    let NewUser { name, role, password } = read(body)?;
    let user = new_user(&context, &name, role, password, clock::unix_ms()).await?;
    let shown = show_user(&user);
    context.change(Change::AddUser(user)).await?;
    Ok((StatusCode::CREATED, Json(shown)).into_response())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct UserPatch {
    role: Option<Role>,
    password: Option<String>,
}

/// `PATCH /api/v1/users/{user}`: another role or password. Every session of the user ends.
pub(super) async fn change_user(
    State(context): State<Context>,
    Path(name): Path<String>,
    body: Body<UserPatch>,
) -> Result<Json<Value>, Problem> {
    let UserPatch { role, password } = read(body)?;
    let Some(mut user) = context.book.borrow().user(&name).cloned() else {
        return Err(Problem::not_found("user", format!("there is no user {name:?}")));
    };
    user.role = role.unwrap_or(user.role);
    if let Some(password) = password {
        user.password_hash = hash(&context, password).await?;
    }
    let shown = show_user(&user);
    context.change(Change::ChangeUser(user)).await?;
    Ok(Json(shown))
}

/// `DELETE /api/v1/users/{user}`: with sessions and tokens.
pub(super) async fn remove_user(
    State(context): State<Context>,
    Path(name): Path<String>,
) -> Result<StatusCode, Problem> {
    if context.book.borrow().user(&name).is_none() {
        return Err(Problem::not_found("user", format!("there is no user {name:?}")));
    }
    context.change(Change::RemoveUser(name)).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// `GET /api/v1/tokens`: one's own; an admin sees all.
pub(super) async fn tokens(State(context): State<Context>, Extension(who): Extension<Principal>) -> Json<Value> {
    let sees = |token: &&Token| who.role == Role::Admin || token.made_by == who.name;
    let shown: Vec<Value> = context.book.borrow().tokens().filter(sees).map(show_token).collect();
    items(&shown)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct NewToken {
    name: String,
    role: Role,
    expires_in_s: Option<i64>,
}

/// `POST /api/v1/tokens`: a token of at most one's own role. Its secret is shown here and nowhere else.
pub(super) async fn add_token(
    State(context): State<Context>,
    Extension(who): Extension<Principal>,
    body: Body<NewToken>,
) -> Result<Response, Problem> {
    let NewToken { name, role, expires_in_s } = read(body)?;
    check_name(&name)?;
    if who.how == How::Token {
        return Err(Problem::forbidden("token", "a token makes no other tokens: they would outlive it"));
    }
    if role > who.role {
        let detail = format!("{} has the role {}, and gives away no more", who.name, who.role.name());
        return Err(Problem::forbidden("role", detail));
    }
    let lasts_s = expires_in_s.unwrap_or(TOKEN_S);
    if !(1..=MAX_TOKEN_S).contains(&lasts_s) {
        return Err(Problem::bad_body(format!("expires_in_s must be 1 to {MAX_TOKEN_S}")));
    }
    let now = clock::unix_ms();
    let secret = Secret::new("tlt");
    let digest = secret.digest();
    let id = format!("tok_{}", &digest.to_string()[..12]);
    let expires_ms = Some(now + 1_000 * lasts_s);
    let token = Token { id, name, role, digest, made_by: who.name, created_ms: now, expires_ms };
    let mut shown = show_token(&token);
    shown["token"] = json!(secret.reveal());
    context.change(Change::AddToken(token)).await?;
    Ok((StatusCode::CREATED, Json(shown)).into_response())
}

/// `DELETE /api/v1/tokens/{token}`: one's own; an admin's any.
pub(super) async fn remove_token(
    State(context): State<Context>,
    Extension(who): Extension<Principal>,
    Path(id): Path<String>,
) -> Result<StatusCode, Problem> {
    let may = |book: &AccessBook| {
        let mut of_id = book.tokens().filter(|token| token.id == id);
        of_id.any(|token| who.role == Role::Admin || token.made_by == who.name)
    };
    if !may(&context.book.borrow()) {
        return Err(Problem::not_found("token", format!("there is no token {id:?} of yours")));
    }
    context.change(Change::RemoveToken(id)).await?;
    Ok(StatusCode::NO_CONTENT)
}

impl Context {
    /// Has a change made, durably.
    async fn change(&self, change: Change) -> Result<(), Problem> {
        let (answer, answered) = oneshot::channel();
        self.order(Command::Change { change, answer }).await?;
        let done = answered.await.map_err(|_| Problem::stopping())?;
        done.map_err(|reason| Problem::conflict("access", reason))
    }

    /// Turns an attempt away before it costs anything, if there were too many.
    fn throttle(&self, now: UnixMillis, peer: &SocketAddr, name: &str, what: &str) -> Result<(), Problem> {
        let throttle = self.throttle.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let wait_s = throttle.wait_s(now, &place_of(peer.ip()), name);
        wait_s.map_or(Ok(()), |seconds| Err(Problem::too_many(what, seconds)))
    }

    fn was_wrong(&self, now: UnixMillis, peer: &SocketAddr, name: &str) {
        tracing::warn!(from = %peer.ip(), "a wrong password or code");
        let mut throttle = self.throttle.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        throttle.wrong(now, &place_of(peer.ip()), name);
    }
}

/// Where an address is, for counting. A household has an IPv6 network of 64 bits, and as many addresses as it likes.
fn place_of(address: IpAddr) -> String {
    match address.to_canonical() {
        IpAddr::V4(address) => address.to_string(),
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            format!("{a:x}:{b:x}:{c:x}:{d:x}::/64")
        }
    }
}

async fn new_user(
    context: &Context,
    name: &str,
    role: Role,
    password: String,
    now: UnixMillis,
) -> Result<User, Problem> {
    check_name(name)?;
    Ok(User { name: name.to_owned(), role, password_hash: hash(context, password).await?, created_ms: now })
}

async fn hash(context: &Context, password: String) -> Result<String, Problem> {
    let _permit = context.hashing.acquire().await.map_err(|_| Problem::stopping())?;
    let hashed = tokio::task::spawn_blocking(move || hash_password(&password)).await;
    hashed.map_err(|_| Problem::stopping())?.map_err(Problem::bad_body)
}

fn read<T>(body: Body<T>) -> Result<T, Problem> {
    body.map(|Json(body)| body).map_err(|rejection| Problem::bad_body(rejection.body_text()))
}

fn check_name(name: &str) -> Result<(), Problem> {
    let is_plain = !name.is_empty() && name.len() <= MAX_NAME_BYTES && !name.chars().any(char::is_control);
    if is_plain && name.trim() == name {
        return Ok(());
    }
    Err(Problem::bad_body(format!("a name has 1 to {MAX_NAME_BYTES} bytes of plain text, without spaces around it")))
}

fn show_principal(who: &Principal) -> Value {
    let how = match who.how {
        How::Session => "session",
        How::Token => "token",
        How::Folder => "folder",
    };
    json!({ "name": who.name, "role": who.role, "recognised_by": how })
}

fn show_user(user: &User) -> Value {
    json!({ "name": user.name, "role": user.role, "created": time(user.created_ms) })
}

fn show_token(token: &Token) -> Value {
    json!({
        "id": token.id,
        "name": token.name,
        "role": token.role,
        "made_by": token.made_by,
        "created": time(token.created_ms),
        "expires": token.expires_ms.map(time),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ipv6_network_is_one_place_and_an_ipv4_address_is_another() {
        let place = |address: &str| place_of(address.parse().expect("an address"));
        assert_eq!(place("2001:db8:0:7::1"), place("2001:db8:0:7:ffff::2"));
        assert_ne!(place("2001:db8:0:7::1"), place("2001:db8:0:8::1"));
        assert_eq!(place("::ffff:192.0.2.1"), place("192.0.2.1"));
    }
}
