//! The dashboard: files that lie in the program.

use axum::extract::Request;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};

use super::error::Problem;
use super::extract::At;

include!(concat!(env!("OUT_DIR"), "/dashboard.rs"));

/// What a page may load and do: this hub's own files, and nothing that stands in the page itself.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; font-src 'self'; \
                      connect-src 'self'; form-action 'none'; base-uri 'none'; frame-ancestors 'none'";

/// Names of files hold a hash of what is in them.
const FOREVER: &str = "public, max-age=31536000, immutable";

/// The page.
pub(super) async fn index(asked: HeaderMap) -> Response {
    file("index.html", &asked, "no-cache")
}

/// What the page loads.
pub(super) async fn asset(At(name): At<String>, asked: HeaderMap) -> Response {
    file(&format!("assets/{name}"), &asked, FOREVER)
}

/// What is at no other path.
pub(super) async fn nothing(request: Request) -> Response {
    let path = request.uri().path();
    Problem::not_found("path", format!("there is nothing at {path}; the API is under /api/v1")).into_response()
}

fn file(name: &str, asked: &HeaderMap, cached: &'static str) -> Response {
    let Some((_, kind, plain, packed)) = FILES.iter().find(|(known, ..)| *known == name) else {
        return Problem::not_found("path", format!("the dashboard has no file {name}")).into_response();
    };
    let accepts = asked.get_all(header::ACCEPT_ENCODING).into_iter().filter_map(|value| value.to_str().ok());
    let takes_gzip = accepts.flat_map(|value| value.split(',')).any(|one| one.trim().split(';').next() == Some("gzip"));
    let tag = format!("\"{}\"", &shared::ids::Digest::of(plain).to_string()[..16]);
    let mut headers = HeaderMap::new();
    let mut say = |name: HeaderName, value: &str| {
        if let Ok(value) = HeaderValue::from_str(value) {
            headers.insert(name, value);
        }
    };
    say(header::CONTENT_TYPE, kind);
    say(header::CACHE_CONTROL, cached);
    say(header::CONTENT_SECURITY_POLICY, POLICY);
    say(header::X_CONTENT_TYPE_OPTIONS, "nosniff");
    say(header::REFERRER_POLICY, "no-referrer");
    say(header::VARY, "Accept-Encoding");
    say(header::ETAG, &tag);
    if asked.get(header::IF_NONE_MATCH).is_some_and(|value| *value == tag) {
        return (StatusCode::NOT_MODIFIED, headers).into_response();
    }
    if takes_gzip && packed.len() < plain.len() {
        headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        return (headers, *packed).into_response();
    }
    (headers, *plain).into_response()
}
