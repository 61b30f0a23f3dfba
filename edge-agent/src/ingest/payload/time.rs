//! Times of messages, in whatever unit, as milliseconds since the Unix epoch.

use chrono::{DateTime, NaiveDateTime};
use shared::event::UnixMillis;

use super::extract::Found;
use crate::config::input::{TimeUnit, Zone};

/// 0001-01-01T00:00:00Z: no sensor measured before, and every format of time the hub writes can say it.
const EARLIEST_MS: UnixMillis = -62_135_596_800_000;
/// 9999-12-31T23:59:59.999Z: the last time that RFC 3339 can say.
const LATEST_MS: UnixMillis = 253_402_300_799_999;

/// Below these, a number counts seconds, milliseconds or microseconds, if nobody says what: so many seconds are the year
/// 5138, so many milliseconds 1973 and 5138, and so on.
const MOST_SECONDS: f64 = 1e11;
const MOST_MILLISECONDS: f64 = 1e14;
const MOST_MICROSECONDS: f64 = 1e17;

/// The time in `found`, or `None` if it holds none between the years 1 and 9999. `zone` is where a text was written that
/// does not say it.
pub(super) fn parse(found: &Found<'_>, unit: TimeUnit, zone: Option<Zone>) -> Option<UnixMillis> {
    let time_ms = match found {
        Found::Nothing | Found::Bool(_) | Found::Many => None,
        Found::Integer(count) => from_integer(*count, unit),
        Found::Number(count) => from_number(*count, unit),
        Found::Text(text) => match (unit, text.parse::<i64>()) {
            (TimeUnit::Rfc3339, _) => from_text(text, zone),
            (unit, Ok(count)) => from_integer(count, unit),
            (TimeUnit::Auto, Err(_)) => from_text(text, zone).or_else(|| from_number(text.parse().ok()?, unit)),
            (unit, Err(_)) => text.parse().ok().and_then(|count| from_number(count, unit)),
        },
    };
    time_ms.filter(|time_ms| (EARLIEST_MS..=LATEST_MS).contains(time_ms))
}

fn from_text(text: &str, zone: Option<Zone>) -> Option<UnixMillis> {
    if let Ok(time) = DateTime::parse_from_rfc3339(text) {
        return Some(time.timestamp_millis());
    }
    let zone = zone?;
    let time = ["%Y-%m-%dT%H:%M:%S%.f", "%Y-%m-%d %H:%M:%S%.f"];
    let time = time.iter().find_map(|format| NaiveDateTime::parse_from_str(text, format).ok())?;
    Some(zone.at(time)?.timestamp_millis())
}

/// What a number counts, by its size.
fn guess(count: f64) -> TimeUnit {
    match count.abs() {
        count if count < MOST_SECONDS => TimeUnit::S,
        count if count < MOST_MILLISECONDS => TimeUnit::Ms,
        count if count < MOST_MICROSECONDS => TimeUnit::Us,
        _ => TimeUnit::Ns,
    }
}

fn from_integer(count: i64, unit: TimeUnit) -> Option<UnixMillis> {
    match unit {
        TimeUnit::Auto => from_integer(count, guess(count as f64)),
        TimeUnit::S => count.checked_mul(1000),
        TimeUnit::Ms => Some(count),
        TimeUnit::Us => Some(count.div_euclid(1000)),
        TimeUnit::Ns => Some(count.div_euclid(1_000_000)),
        TimeUnit::Rfc3339 => None,
    }
}

fn from_number(count: f64, unit: TimeUnit) -> Option<UnixMillis> {
    let time_ms = match unit {
        TimeUnit::Auto => return from_number(count, guess(count)),
        TimeUnit::S => count * 1000.0,
        TimeUnit::Ms => count,
        TimeUnit::Us => count / 1000.0,
        TimeUnit::Ns => count / 1_000_000.0,
        TimeUnit::Rfc3339 => return None,
    };
    let is_in_range = (EARLIEST_MS as f64..=LATEST_MS as f64).contains(&time_ms);
    is_in_range.then(|| time_ms.floor() as UnixMillis)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn text(text: &str, unit: TimeUnit) -> Option<i64> {
        parse(&Found::Text(text.into()), unit, None)
    }

    #[test]
    fn every_unit_gives_milliseconds() {
        for (unit, count) in [
            (TimeUnit::S, 1_700_000_000),
            (TimeUnit::Ms, 1_700_000_000_000),
            (TimeUnit::Us, 1_700_000_000_000_999),
            (TimeUnit::Ns, 1_700_000_000_000_999_999),
        ] {
            assert_eq!(parse(&Found::Integer(count), unit, None), Some(1_700_000_000_000), "{unit:?}");
            assert_eq!(text(&count.to_string(), unit), Some(1_700_000_000_000), "{unit:?}");
        }
        assert_eq!(parse(&Found::Number(1_700_000_000.25), TimeUnit::S, None), Some(1_700_000_000_250));
        assert_eq!(text("1700000000.25", TimeUnit::S), Some(1_700_000_000_250));
        assert_eq!(parse(&Found::Integer(-1), TimeUnit::Us, None), Some(-1), "before 1970 it is rounded down as well");
        assert_eq!(parse(&Found::Number(-0.5), TimeUnit::Ms, None), Some(-1));
    }

    #[test]
    fn rfc_3339_is_read_with_its_zone() {
        assert_eq!(text("2023-11-14T22:13:20.250Z", TimeUnit::Rfc3339), Some(1_700_000_000_250));
        assert_eq!(text("2023-11-14T23:13:20.25+01:00", TimeUnit::Rfc3339), Some(1_700_000_000_250));
        assert_eq!(text("2023-11-14T22:13:20", TimeUnit::Rfc3339), None, "no zone");
        assert_eq!(text("0000-01-01T00:00:00Z", TimeUnit::Rfc3339), None, "before the year 1");
        assert_eq!(parse(&Found::Integer(1_700_000_000), TimeUnit::Rfc3339, None), None);
        assert_eq!(parse(&Found::Number(1.5), TimeUnit::Rfc3339, None), None);
    }

    #[test]
    fn what_is_no_time_or_no_sensible_one_is_refused() {
        assert_eq!(parse(&Found::Integer(LATEST_MS + 1), TimeUnit::Ms, None), None);
        assert_eq!(parse(&Found::Integer(i64::MAX), TimeUnit::S, None), None);
        assert_eq!(
            parse(&Found::Integer(1_700_000_000_000), TimeUnit::S, None),
            None,
            "milliseconds mistaken for seconds"
        );
        for wrong in ["", "now", "inf", "NaN", "1e300", " 1", "2023-11-14T22:13:20Z"] {
            assert_eq!(text(wrong, TimeUnit::Ms), None, "{wrong:?}");
        }
        for wrong in [Found::Nothing, Found::Bool(true), Found::Many, Found::Number(f64::MAX)] {
            assert_eq!(parse(&wrong, TimeUnit::Ms, None), None, "{wrong:?}");
        }
    }

    #[test]
    fn a_unit_that_nobody_says_is_seen_by_the_numbers_size() {
        for count in [1_700_000_000, 1_700_000_000_000, 1_700_000_000_000_000, 1_700_000_000_000_000_000] {
            assert_eq!(parse(&Found::Integer(count), TimeUnit::Auto, None), Some(1_700_000_000_000), "{count}");
        }
        assert_eq!(parse(&Found::Number(1_700_000_000.25), TimeUnit::Auto, None), Some(1_700_000_000_250));
        assert_eq!(text("1700000000", TimeUnit::Auto), Some(1_700_000_000_000));
        assert_eq!(text("1700000000.25", TimeUnit::Auto), Some(1_700_000_000_250));
        assert_eq!(text("2023-11-14T22:13:20Z", TimeUnit::Auto), Some(1_700_000_000_000));
    }

    #[test]
    fn a_text_without_a_zone_takes_one_that_is_given() {
        let at = |text: &str, zone: &str| {
            parse(&Found::Text(text.into()), TimeUnit::Auto, Some(Zone::parse(zone).expect("a zone")))
        };
        assert_eq!(at("2023-11-14T22:13:20", "utc"), Some(1_700_000_000_000));
        assert_eq!(at("2023-11-14 23:13:20.5", "+01:00"), Some(1_700_000_000_500));
        assert_eq!(at("2023-11-14T22:13:20Z", "+01:00"), Some(1_700_000_000_000), "what it says itself counts");
        assert_eq!(at("2023-11-14", "utc"), None);
        let local = at("2023-11-14T12:00:00", "local").expect("a time");
        assert!((local - 1_699_963_200_000).abs() <= 14 * 3_600_000, "no clock is further from UTC");
        assert!(Zone::parse("Mars").expect_err("no zone").contains("\"local\", \"utc\" or an offset"));
    }

    proptest! {
        #[test]
        fn any_number_gives_a_time_in_bounds_or_none(
            integer in any::<i64>(), number in any::<f64>(), unit in 0_usize..6
        ) {
            for found in [Found::Integer(integer), Found::Number(number), Found::Text(number.to_string().into())] {
                if let Some(time_ms) = parse(&found, TimeUnit::ALL[unit], None) {
                    prop_assert!((EARLIEST_MS..=LATEST_MS).contains(&time_ms));
                }
            }
        }
    }
}
