//! What a request says, or a problem that names what is wrong with it.

use axum::Json;
use axum::body::Bytes;
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{FromRequest, FromRequestParts, Path, Query, Request};
use axum::http::request::Parts;
use axum::http::{StatusCode, header};
use serde::de::{DeserializeOwned, Error};
use serde::{Deserialize, Deserializer};
use serde_json::Number;

use super::error::Problem;

/// A body of JSON.
pub(super) struct Body<T>(pub(super) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Body<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        let kind = request.headers().get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
        if !kind.split(';').next().is_some_and(|kind| kind.trim().eq_ignore_ascii_case("application/json")) {
            return Err(Problem::not_json());
        }
        let bytes = Bytes::from_request(request, state).await.map_err(|rejection| match rejection.status() {
            StatusCode::PAYLOAD_TOO_LARGE => Problem::too_large(),
            _ => Problem::bad_body(rejection.body_text()),
        })?;
        // Serde takes a list for an object, field after field: what is meant by its order is not ours to guess.
        if bytes.trim_ascii_start().first().is_some_and(|first| *first != b'{') {
            return Err(Problem::bad_body("the body must be an object"));
        }
        let body = Json::from_bytes(&bytes);
        body.map(|Json(body)| Self(body)).map_err(|rejection| Problem::bad_body(rejection.body_text()))
    }
}

/// A whole number. In JSON 320.0 is one, too (JSON Schema core, section 6.3 of 2020-12).
pub(super) fn whole<'de, D: Deserializer<'de>, T: TryFrom<i64>>(deserializer: D) -> Result<T, D::Error> {
    let number = Number::deserialize(deserializer)?;
    let of_float = |float: f64| (float.fract() == 0.0 && float.abs() < LARGEST_WHOLE).then_some(float as i64);
    let whole = number.as_i64().or_else(|| number.as_f64().and_then(of_float));
    let fits = whole.and_then(|whole| T::try_from(whole).ok());
    fits.ok_or_else(|| D::Error::custom(format!("{number} is not a whole number that fits")))
}

/// The same, if it is said.
pub(super) fn perhaps_whole<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<i64>, D::Error> {
    #[derive(Deserialize)]
    struct Whole(#[serde(deserialize_with = "whole")] i64);
    Ok(Option::<Whole>::deserialize(deserializer)?.map(|Whole(number)| number))
}

/// Whole numbers below this have a float of their own.
const LARGEST_WHOLE: f64 = 9_007_199_254_740_992.0;

/// What stands behind the question mark.
pub(super) struct Params<T>(pub(super) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Params<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let query = Query::from_request_parts(parts, state).await;
        query
            .map(|Query(query)| Self(query))
            .map_err(|rejection: QueryRejection| Problem::bad_query(rejection.body_text()))
    }
}

/// What stands in the path.
pub(super) struct At<T>(pub(super) T);

impl<T: DeserializeOwned + Send, S: Send + Sync> FromRequestParts<S> for At<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let path = Path::from_request_parts(parts, state).await;
        path.map(|Path(path)| Self(path))
            .map_err(|rejection: PathRejection| Problem::not_found("path", rejection.body_text()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Deserialize)]
    struct Numbers {
        #[serde(deserialize_with = "whole")]
        version: u32,
        #[serde(default, deserialize_with = "perhaps_whole")]
        seconds: Option<i64>,
    }

    #[test]
    fn a_whole_number_is_one_however_it_is_written() {
        let read = |text: &str| serde_json::from_str::<Numbers>(text).map(|numbers| (numbers.version, numbers.seconds));
        assert_eq!(read(r#"{"version": 7.0, "seconds": -3e2}"#).ok(), Some((7, Some(-300))));
        assert_eq!(read(r#"{"version": 7, "seconds": null}"#).ok(), Some((7, None)));
        for wrong in ["7.5", "-1", "4294967296", "1e300", "\"7\"", "null"] {
            assert!(read(&format!("{{\"version\": {wrong}}}")).is_err(), "{wrong}");
        }
    }
}
