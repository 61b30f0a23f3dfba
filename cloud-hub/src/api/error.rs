//! Errors as problem details (RFC 9457) with a stable code.

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::json;

/// An error a caller sees.
#[derive(Debug)]
pub(super) struct Problem {
    status: StatusCode,
    code: String,
    title: &'static str,
    detail: String,
    /// Seconds after which to try again.
    retry_after_s: Option<u64>,
}

impl Problem {
    pub(super) fn not_found(kind: &str, detail: impl Into<String>) -> Self {
        Self {
            status: StatusCode::NOT_FOUND,
            code: format!("{kind}_not_found"),
            title: "Not found",
            detail: detail.into(),
            retry_after_s: None,
        }
    }

    pub(super) fn bad_body(detail: impl Into<String>) -> Self {
        Self {
            status: StatusCode::BAD_REQUEST,
            code: "bad_body".to_owned(),
            title: "The body is not as expected",
            detail: detail.into(),
            retry_after_s: None,
        }
    }

    pub(super) fn conflict(code: &str, detail: impl Into<String>) -> Self {
        Self {
            status: StatusCode::CONFLICT,
            code: code.to_owned(),
            title: "Not as things stand",
            detail: detail.into(),
            retry_after_s: None,
        }
    }

    pub(super) fn refused(code: &str, detail: impl Into<String>) -> Self {
        Self {
            status: StatusCode::UNPROCESSABLE_ENTITY,
            code: code.to_owned(),
            title: "Refused",
            detail: detail.into(),
            retry_after_s: None,
        }
    }

    pub(super) fn method_not_allowed() -> Self {
        Self {
            status: StatusCode::METHOD_NOT_ALLOWED,
            code: "method_not_allowed".to_owned(),
            title: "Method not allowed",
            detail: "this path does not take that method".to_owned(),
            retry_after_s: None,
        }
    }

    pub(super) fn stopping() -> Self {
        Self {
            status: StatusCode::SERVICE_UNAVAILABLE,
            code: "stopping".to_owned(),
            title: "The hub is stopping",
            detail: "try again when it runs".to_owned(),
            retry_after_s: None,
        }
    }

    pub(super) fn unauthorized() -> Self {
        Self {
            status: StatusCode::UNAUTHORIZED,
            code: "unauthorized".to_owned(),
            title: "Who is asking?",
            detail: "log in, or send a token as 'Authorization: Bearer ...'; one that expired or was revoked is none"
                .to_owned(),
            retry_after_s: None,
        }
    }

    pub(super) fn wrong_password() -> Self {
        Self {
            status: StatusCode::UNAUTHORIZED,
            code: "wrong_password".to_owned(),
            title: "Wrong name or password",
            detail: "there is no user of this name with this password".to_owned(),
            retry_after_s: None,
        }
    }

    pub(super) fn forbidden(code: &str, detail: impl Into<String>) -> Self {
        Self {
            status: StatusCode::FORBIDDEN,
            code: format!("forbidden_{code}"),
            title: "Not yours to do",
            detail: detail.into(),
            retry_after_s: None,
        }
    }

    pub(super) fn too_many(what: &str, seconds: u64) -> Self {
        Self {
            status: StatusCode::TOO_MANY_REQUESTS,
            code: "too_many".to_owned(),
            title: "Too many attempts",
            detail: format!("too many {what} from here; try again in {seconds} s"),
            retry_after_s: Some(seconds),
        }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let body = json!({
            "type": "about:blank",
            "title": self.title,
            "status": self.status.as_u16(),
            "code": self.code,
            "detail": self.detail,
        });
        let mut response =
            (self.status, [(header::CONTENT_TYPE, "application/problem+json")], Json(body)).into_response();
        if let Some(seconds) = self.retry_after_s {
            response.headers_mut().insert(header::RETRY_AFTER, seconds.into());
        }
        if self.status == StatusCode::UNAUTHORIZED {
            response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}
