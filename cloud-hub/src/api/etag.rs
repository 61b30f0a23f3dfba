//! Which state of a thing a caller has: strong entity tags, RFC 9110 section 8.8.

use axum::body::{Body, to_bytes};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use shared::ids::Digest;

use super::error::Problem;

/// Bytes of an answer that gets a tag. Longer ones are streams.
const MAX_TAGGED_BYTES: usize = 64 * 1024 * 1024;
/// Hexadecimal digits of a tag: 128 bits.
const TAG_DIGITS: usize = 32;

/// Gives an answer its tag; one that the caller has already is not sent again.
pub(super) async fn tagged(asked: &HeaderMap, response: Response) -> Response {
    let is_json = response.headers().get(header::CONTENT_TYPE).is_some_and(|kind| kind == "application/json");
    if response.status() != StatusCode::OK || !is_json {
        return response;
    }
    let (mut parts, body) = response.into_parts();
    let Ok(bytes) = to_bytes(body, MAX_TAGGED_BYTES).await else {
        return Problem::stopping().into_response();
    };
    let tag = tag_of_bytes(&bytes);
    let has = asked.get_all(header::IF_NONE_MATCH).into_iter().any(|value| names(value, &tag));
    if let Ok(value) = HeaderValue::from_str(&tag) {
        parts.headers.insert(header::ETAG, value);
    }
    parts.headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    if has {
        parts.status = StatusCode::NOT_MODIFIED;
        parts.headers.remove(header::CONTENT_LENGTH);
        return Response::from_parts(parts, Body::empty());
    }
    Response::from_parts(parts, Body::from(bytes))
}

/// Refuses a change by somebody who has another state of the thing than `now`, or does not say which.
pub(super) fn is_of(asked: &HeaderMap, now: &impl Serialize) -> Result<(), Problem> {
    let mut said = asked.get_all(header::IF_MATCH).into_iter().peekable();
    if said.peek().is_none() {
        return Err(Problem::precondition_required());
    }
    let tag = serde_json::to_vec(now).map(|bytes| tag_of_bytes(&bytes)).unwrap_or_default();
    if said.any(|value| names(value, &tag) || value == "*") { Ok(()) } else { Err(Problem::stale()) }
}

fn tag_of_bytes(bytes: &[u8]) -> String {
    format!("\"{}\"", &Digest::of(bytes).to_string()[..TAG_DIGITS])
}

fn names(value: &HeaderValue, tag: &str) -> bool {
    value.to_str().is_ok_and(|value| value.split(',').any(|one| one.trim() == tag))
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::Json;

    fn asked(name: header::HeaderName, value: &str) -> HeaderMap {
        HeaderMap::from_iter([(name, HeaderValue::from_str(value).expect("a value"))])
    }

    #[tokio::test]
    async fn what_the_caller_has_is_not_sent_again_and_only_its_newest_state_is_changed() {
        let answer = || Json(vec![1, 2, 3]).into_response();
        let first = tagged(&HeaderMap::new(), answer()).await;
        let tag = first.headers()[header::ETAG].to_str().expect("text").to_owned();
        let again = tagged(&asked(header::IF_NONE_MATCH, &format!("\"other\", {tag}")), answer()).await;
        assert_eq!(again.status(), StatusCode::NOT_MODIFIED);
        assert!(is_of(&asked(header::IF_MATCH, &tag), &vec![1, 2, 3]).is_ok());
        assert_eq!(
            is_of(&asked(header::IF_MATCH, &tag), &vec![1, 2]).map_err(|problem| problem.into_response().status()),
            Err(StatusCode::PRECONDITION_FAILED)
        );
        let unsaid = is_of(&HeaderMap::new(), &1).map_err(|problem| problem.into_response().status());
        assert_eq!(unsaid, Err(StatusCode::PRECONDITION_REQUIRED));
    }
}
