//! Accounts over HTTP: logging in and out, users, and tokens of programs.

use std::net::{IpAddr, SocketAddr};

use axum::extract::{ConnectInfo, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use serde::{Deserialize, Serialize};
use shared::event::UnixMillis;
use utoipa::ToSchema;

use super::error::Problem;
use super::extract::{At, Body};
use super::guard::{Deed, SESSION_COOKIE, session_of};
use super::page::Page;
use super::{Command, Context, etag};
use crate::clock;
use crate::core::access::{AccessBook, Change, How, Principal, Role, Session, Token, User};
use crate::secret::{Secret, hash_password, is_password};
use crate::view::Timestamp;

/// Seconds that a browser stays logged in.
const SESSION_S: i64 = 7 * 24 * 3_600;
/// Seconds that a token lasts, unless it is said.
const TOKEN_S: i64 = 90 * 24 * 3_600;
/// The longest that can be said: ten years.
const MAX_TOKEN_S: i64 = 10 * 366 * 24 * 3_600;
/// Characters of a name.
const MAX_NAME_CHARACTERS: usize = 100;

/// Who logs in.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Login {
    /// The name.
    #[schema(
        min_length = 1,
        max_length = 100,
        pattern = "^[^\\s\\x00-\\x1f\\x7f-\\x9f]([^\\x00-\\x1f\\x7f-\\x9f]*[^\\s\\x00-\\x1f\\x7f-\\x9f])?$"
    )]
    name: String,
    /// The password.
    password: String,
}

/// Logs a person in: a session for a browser, in a cookie.
#[utoipa::path(post, path = "/api/v1/login", tag = "Access", request_body = Login, responses((status = 200, body = Me)))]
pub(super) async fn login(
    State(context): State<Context>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    Body(Login { name, password }): Body<Login>,
) -> Result<Response, Problem> {
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

/// The first admin.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Setup {
    /// The code in the link that the hub said.
    code: String,
    /// The name.
    #[schema(
        min_length = 1,
        max_length = 100,
        pattern = "^[^\\s\\x00-\\x1f\\x7f-\\x9f]([^\\x00-\\x1f\\x7f-\\x9f]*[^\\s\\x00-\\x1f\\x7f-\\x9f])?$"
    )]
    name: String,
    /// The password, of 12 to 200 characters.
    #[schema(min_length = 12, max_length = 200)]
    password: String,
}

/// Makes the first admin, with the code that the hub said when it started without one.
#[utoipa::path(post, path = "/api/v1/setup", tag = "Access", request_body = Setup, responses((status = 200, body = Me)))]
pub(super) async fn setup(
    State(context): State<Context>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    Body(Setup { code, name, password }): Body<Setup>,
) -> Result<Response, Problem> {
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
    let shown = Json(Me::from(&principal));
    let deed = Deed { who: principal, from: peer.ip(), what: what.to_owned(), status: StatusCode::OK.as_u16() };
    context.order(Command::Note(deed)).await?;
    Ok(([(header::SET_COOKIE, cookie)], shown).into_response())
}

/// Ends a session.
#[utoipa::path(post, path = "/api/v1/logout", tag = "Access", responses((status = 204)))]
pub(super) async fn logout(State(context): State<Context>, headers: HeaderMap) -> Result<Response, Problem> {
    if let Some(secret) = session_of(&headers) {
        context.change(Change::CloseSession(Secret::digest_of(secret))).await?;
    }
    let cookie = format!("{SESSION_COOKIE}=; Path=/; HttpOnly; SameSite=Strict; Max-Age=0");
    Ok((StatusCode::NO_CONTENT, [(header::SET_COOKIE, cookie)]).into_response())
}

/// Who the hub takes the caller for.
#[utoipa::path(get, path = "/api/v1/me", tag = "Access", responses((status = 200, body = Me)))]
pub(super) async fn me(Extension(who): Extension<Principal>) -> Json<Me> {
    Json(Me::from(&who))
}

/// Another password.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct NewPassword {
    /// The one so far.
    old: String,
    /// The one from now on, of 12 to 200 characters.
    #[schema(min_length = 12, max_length = 200)]
    new: String,
}

/// Another password of one's own. Every session of the user ends.
#[utoipa::path(put, path = "/api/v1/me/password", tag = "Access", request_body = NewPassword, responses((status = 204)))]
pub(super) async fn change_password(
    State(context): State<Context>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    Extension(who): Extension<Principal>,
    Body(NewPassword { old, new }): Body<NewPassword>,
) -> Result<StatusCode, Problem> {
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
    let after = User { password_hash, ..user.clone() };
    context.change(Change::ChangeUser { before: user, after }).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Everybody who can log in.
#[utoipa::path(get, path = "/api/v1/users", tag = "Access", responses((status = 200, body = Page<UserView>)))]
pub(super) async fn users(State(context): State<Context>) -> Json<Page<UserView>> {
    Json(Page::whole(context.book.borrow().users().map(UserView::from).collect()))
}

/// Somebody who can log in.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct NewUser {
    /// The name.
    #[schema(
        min_length = 1,
        max_length = 100,
        pattern = "^[^\\s\\x00-\\x1f\\x7f-\\x9f]([^\\x00-\\x1f\\x7f-\\x9f]*[^\\s\\x00-\\x1f\\x7f-\\x9f])?$"
    )]
    name: String,
    /// What they may do.
    role: Role,
    /// The password, of 12 to 200 characters.
    #[schema(min_length = 12, max_length = 200)]
    password: String,
}

/// Somebody else who can log in.
#[utoipa::path(post, path = "/api/v1/users", tag = "Access", request_body = NewUser, responses((status = 201, body = UserView)))]
pub(super) async fn add_user(
    State(context): State<Context>,
    Body(NewUser { name, role, password }): Body<NewUser>,
) -> Result<Response, Problem> {
    let user = new_user(&context, &name, role, password, clock::unix_ms()).await?;
    let shown = UserView::from(&user);
    context.change(Change::AddUser(user)).await?;
    Ok((StatusCode::CREATED, Json(shown)).into_response())
}

/// What is different about a user. What is left out stays.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct UserPatch {
    /// What they may do.
    role: Option<Role>,
    /// The password, of 12 to 200 characters.
    #[schema(min_length = 12, max_length = 200)]
    password: Option<String>,
}

/// Somebody who can log in.
#[utoipa::path(get, path = "/api/v1/users/{user}", tag = "Access", params(("user" = String, Path, description = "The name")),
    responses((status = 200, body = UserView)))]
pub(super) async fn user(State(context): State<Context>, At(name): At<String>) -> Result<Json<UserView>, Problem> {
    known_user(&context, &name).map(|user| Json(UserView::from(&user)))
}

fn known_user(context: &Context, name: &str) -> Result<User, Problem> {
    let found = context.book.borrow().user(name).cloned();
    found.ok_or_else(|| Problem::not_found("user", format!("there is no user {name:?}")))
}

/// Another role or password. Every session of the user ends.
#[utoipa::path(patch, path = "/api/v1/users/{user}", tag = "Access", params(("user" = String, Path, description = "The name"), ("If-Match" = String, Header, description = "The ETag of what was read")), request_body = UserPatch,
    responses((status = 200, body = UserView)))]
pub(super) async fn change_user(
    State(context): State<Context>,
    At(name): At<String>,
    headers: HeaderMap,
    Body(UserPatch { role, password }): Body<UserPatch>,
) -> Result<Json<UserView>, Problem> {
    let before = known_user(&context, &name)?;
    let mut user = before.clone();
    etag::is_of(&headers, &UserView::from(&user))?;
    user.role = role.unwrap_or(user.role);
    if let Some(password) = password {
        user.password_hash = hash(&context, password).await?;
    }
    let shown = UserView::from(&user);
    context.change(Change::ChangeUser { before, after: user }).await?;
    Ok(Json(shown))
}

/// Somebody is out, with sessions and tokens.
#[utoipa::path(delete, path = "/api/v1/users/{user}", tag = "Access", params(("user" = String, Path, description = "The name")), responses((status = 204)))]
pub(super) async fn remove_user(State(context): State<Context>, At(name): At<String>) -> Result<StatusCode, Problem> {
    known_user(&context, &name)?;
    context.change(Change::RemoveUser(name)).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// One's own tokens; an admin sees all.
#[utoipa::path(get, path = "/api/v1/tokens", tag = "Access", responses((status = 200, body = Page<TokenView>)))]
pub(super) async fn tokens(
    State(context): State<Context>,
    Extension(who): Extension<Principal>,
) -> Json<Page<TokenView>> {
    let sees = |token: &&Token| who.role == Role::Admin || token.made_by == who.name;
    Json(Page::whole(context.book.borrow().tokens().filter(sees).map(TokenView::from).collect()))
}

/// A token to make.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct NewToken {
    /// What it is for.
    #[schema(
        min_length = 1,
        max_length = 100,
        pattern = "^[^\\s\\x00-\\x1f\\x7f-\\x9f]([^\\x00-\\x1f\\x7f-\\x9f]*[^\\s\\x00-\\x1f\\x7f-\\x9f])?$"
    )]
    name: String,
    /// What it may do.
    role: Role,
    /// How many seconds it lasts; 90 days unless it is said.
    #[schema(minimum = 1, maximum = 316_224_000)]
    #[serde(default, deserialize_with = "super::extract::perhaps_whole")]
    expires_in_s: Option<i64>,
}

/// A token of at most one's own role. Its secret is shown here and nowhere else.
#[utoipa::path(post, path = "/api/v1/tokens", tag = "Access", request_body = NewToken, responses((status = 201, body = MadeToken)))]
pub(super) async fn add_token(
    State(context): State<Context>,
    Extension(who): Extension<Principal>,
    Body(NewToken { name, role, expires_in_s }): Body<NewToken>,
) -> Result<Response, Problem> {
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
    let shown = MadeToken { made: TokenView::from(&token), token: secret.reveal().to_owned() };
    context.change(Change::AddToken(token)).await?;
    Ok((StatusCode::CREATED, Json(shown)).into_response())
}

/// Revokes a token of one's own; an admin any.
#[utoipa::path(delete, path = "/api/v1/tokens/{token}", tag = "Access", params(("token" = String, Path, description = "Its id")), responses((status = 204)))]
pub(super) async fn remove_token(
    State(context): State<Context>,
    Extension(who): Extension<Principal>,
    At(id): At<String>,
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
        let done = self.ask(|answer| Command::Change { change, answer }).await?;
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

fn check_name(name: &str) -> Result<(), Problem> {
    let is_plain =
        !name.is_empty() && name.chars().count() <= MAX_NAME_CHARACTERS && !name.chars().any(char::is_control);
    if is_plain && name.trim() == name {
        return Ok(());
    }
    Err(Problem::bad_body(format!(
        "a name has 1 to {MAX_NAME_CHARACTERS} characters of plain text, without spaces around it"
    )))
}

/// Who the hub takes somebody for.
#[derive(Serialize, ToSchema)]
pub(super) struct Me {
    /// The name, as it stands in the history.
    name: String,
    /// What they may do.
    role: Role,
    /// How they were recognised.
    recognised_by: RecognisedBy,
}

/// How somebody was recognised.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum RecognisedBy {
    /// By the session of a browser.
    Session,
    /// By a token of a program.
    Token,
    /// By the token in the hub's own folder.
    Folder,
}

impl From<&Principal> for Me {
    fn from(who: &Principal) -> Self {
        let recognised_by = match who.how {
            How::Session => RecognisedBy::Session,
            How::Token => RecognisedBy::Token,
            How::Folder => RecognisedBy::Folder,
        };
        Self { name: who.name.clone(), role: who.role, recognised_by }
    }
}

/// Somebody who can log in.
#[derive(Serialize, ToSchema)]
pub(super) struct UserView {
    /// The name.
    name: String,
    /// What they may do.
    role: Role,
    /// Since when.
    created: Timestamp,
}

impl From<&User> for UserView {
    fn from(user: &User) -> Self {
        Self { name: user.name.clone(), role: user.role, created: Timestamp(user.created_ms) }
    }
}

/// A token of a program, without its secret.
#[derive(Serialize, ToSchema)]
pub(super) struct TokenView {
    /// What it is called in links.
    id: String,
    /// What it is for.
    name: String,
    /// What it may do.
    role: Role,
    /// Who made it.
    made_by: String,
    /// Since when.
    created: Timestamp,
    /// Until when; null: until it is revoked.
    expires: Option<Timestamp>,
}

impl From<&Token> for TokenView {
    fn from(token: &Token) -> Self {
        let Token { id, name, role, made_by, created_ms, expires_ms, .. } = token.clone();
        Self { id, name, role, made_by, created: Timestamp(created_ms), expires: expires_ms.map(Timestamp) }
    }
}

/// A token that was just made.
#[derive(Serialize, ToSchema)]
pub(super) struct MadeToken {
    /// What it is.
    #[serde(flatten)]
    made: TokenView,
    /// Its secret, which is shown here and nowhere else.
    token: String,
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
