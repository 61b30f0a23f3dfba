//! Errors as problem details (RFC 9457) with a stable code.

use std::borrow::Cow;

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::ToSchema;

/// The media type of a problem.
pub(super) const PROBLEM_JSON: &str = "application/problem+json";
/// Seconds after which what was too much may not be.
const BUSY_RETRY_S: u64 = 2;

/// An error a caller sees.
#[derive(Debug)]
pub(super) struct Problem {
    status: StatusCode,
    code: Cow<'static, str>,
    title: &'static str,
    detail: String,
    /// Seconds after which to try again.
    retry_after_s: Option<u64>,
}

/// An error, RFC 9457.
#[derive(Serialize, ToSchema)]
pub(super) struct ProblemView<'a> {
    /// Always `about:blank`: `code` tells problems apart.
    #[serde(rename = "type")]
    kind: &'static str,
    /// What kind of problem it is, for people.
    title: &'static str,
    /// The status of the answer.
    status: u16,
    /// What kind of problem it is, for programs. It does not change.
    code: &'a str,
    /// What is wrong, and what would be right.
    detail: &'a str,
}

impl Problem {
    fn new(
        status: StatusCode,
        code: impl Into<Cow<'static, str>>,
        title: &'static str,
        detail: impl Into<String>,
    ) -> Self {
        Self { status, code: code.into(), title, detail: detail.into(), retry_after_s: None }
    }

    pub(super) fn not_found(kind: &str, detail: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, format!("{kind}_not_found"), "Not found", detail)
    }

    pub(super) fn bad_body(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "bad_body", "The body is not as expected", detail)
    }

    pub(super) fn bad_query(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "bad_query", "The query is not as expected", detail)
    }

    pub(super) fn not_json() -> Self {
        let detail = "send JSON, and say so: 'Content-Type: application/json'";
        Self::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "not_json", "The body is not JSON", detail)
    }

    pub(super) fn not_csv() -> Self {
        let detail = "send CSV, and say so: 'Content-Type: text/csv'";
        Self::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "not_csv", "The body is not CSV", detail)
    }

    /// The same, of a line of a file.
    pub(super) fn in_line(self, line: u64) -> Self {
        Self { detail: format!("line {line}: {}", self.detail), ..self }
    }

    #[cfg(test)]
    pub(super) fn detail(&self) -> &str {
        &self.detail
    }

    pub(super) fn too_large() -> Self {
        let detail = "the body is longer than this path takes";
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "too_large", "Too large", detail)
    }

    pub(super) fn conflict(code: &'static str, detail: impl Into<String>) -> Self {
        Self::new(StatusCode::CONFLICT, code, "Not as things stand", detail)
    }

    pub(super) fn refused(code: &'static str, detail: impl Into<String>) -> Self {
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, code, "Refused", detail)
    }

    pub(super) fn precondition_required() -> Self {
        let detail = "say which state you change: send the ETag of what you read as 'If-Match'";
        Self::new(StatusCode::PRECONDITION_REQUIRED, "if_match_required", "Which state do you change?", detail)
    }

    pub(super) fn stale() -> Self {
        let detail = "somebody changed it since you read it; read it again";
        Self::new(StatusCode::PRECONDITION_FAILED, "stale", "It is not what you read", detail)
    }

    pub(super) fn method_not_allowed() -> Self {
        let detail = "this path does not take that method";
        Self::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", "Method not allowed", detail)
    }

    pub(super) fn stopping() -> Self {
        let detail = "try again when it runs";
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "stopping", "The hub is stopping", detail)
    }

    pub(super) fn busy(what: &str) -> Self {
        let busy = Self::new(StatusCode::SERVICE_UNAVAILABLE, "busy", "The hub is busy", what);
        Self { retry_after_s: Some(BUSY_RETRY_S), ..busy }
    }

    /// The hub's own disk or database failed.
    pub(super) fn failed(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "failed", "The hub could not", detail)
    }

    pub(super) fn unauthorized() -> Self {
        let detail = "log in, or send a token as 'Authorization: Bearer ...'; one that expired or was revoked is none";
        Self::new(StatusCode::UNAUTHORIZED, "unauthorized", "Who is asking?", detail)
    }

    pub(super) fn wrong_password() -> Self {
        let detail = "there is no user of this name with this password";
        Self::new(StatusCode::UNAUTHORIZED, "wrong_password", "Wrong name or password", detail)
    }

    pub(super) fn forbidden(code: &str, detail: impl Into<String>) -> Self {
        Self::new(StatusCode::FORBIDDEN, format!("forbidden_{code}"), "Not yours to do", detail)
    }

    pub(super) fn too_many(what: &str, seconds: u64) -> Self {
        let detail = format!("too many {what} from here; try again in {seconds} s");
        let many = Self::new(StatusCode::TOO_MANY_REQUESTS, "too_many", "Too many attempts", detail);
        Self { retry_after_s: Some(seconds), ..many }
    }
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.title.to_lowercase(), self.detail)
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let Self { status, code, title, detail, retry_after_s } = self;
        let body = ProblemView { kind: "about:blank", title, status: status.as_u16(), code: &code, detail: &detail };
        let mut response = (status, [(header::CONTENT_TYPE, PROBLEM_JSON)], Json(body)).into_response();
        if let Some(seconds) = retry_after_s {
            response.headers_mut().insert(header::RETRY_AFTER, seconds.into());
        }
        if status == StatusCode::UNAUTHORIZED {
            response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}
