//! Errors as problem details (RFC 9457) with a stable code.

use axum::Json;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::json;

/// An error a caller sees.
#[derive(Debug)]
pub(super) struct Problem {
    status: StatusCode,
    code: String,
    title: &'static str,
    detail: String,
}

impl Problem {
    pub(super) fn not_found(kind: &str, detail: impl Into<String>) -> Self {
        Self {
            status: StatusCode::NOT_FOUND,
            code: format!("{kind}_not_found"),
            title: "Not found",
            detail: detail.into(),
        }
    }

    pub(super) fn bad_body(detail: impl Into<String>) -> Self {
        Self {
            status: StatusCode::BAD_REQUEST,
            code: "bad_body".to_owned(),
            title: "The body is not as expected",
            detail: detail.into(),
        }
    }

    pub(super) fn conflict(code: &str, detail: impl Into<String>) -> Self {
        Self {
            status: StatusCode::CONFLICT,
            code: code.to_owned(),
            title: "Not as things stand",
            detail: detail.into(),
        }
    }

    pub(super) fn refused(code: &str, detail: impl Into<String>) -> Self {
        Self {
            status: StatusCode::UNPROCESSABLE_ENTITY,
            code: code.to_owned(),
            title: "Refused",
            detail: detail.into(),
        }
    }

    pub(super) fn method_not_allowed() -> Self {
        Self {
            status: StatusCode::METHOD_NOT_ALLOWED,
            code: "method_not_allowed".to_owned(),
            title: "Method not allowed",
            detail: "this path does not take that method".to_owned(),
        }
    }

    pub(super) fn stopping() -> Self {
        Self {
            status: StatusCode::SERVICE_UNAVAILABLE,
            code: "stopping".to_owned(),
            title: "The hub is stopping",
            detail: "try again when it runs".to_owned(),
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
        (self.status, [(header::CONTENT_TYPE, "application/problem+json")], Json(body)).into_response()
    }
}
