//! Times of messages, in whatever unit, as milliseconds since the Unix epoch.

use chrono::DateTime;
use shared::event::UnixMillis;

use super::extract::Found;
use crate::config::TimeUnit;

/// 0001-01-01T00:00:00Z: no sensor measured before, and every format of time the hub writes can say it.
const EARLIEST_MS: UnixMillis = -62_135_596_800_000;
/// 9999-12-31T23:59:59.999Z: the last time that RFC 3339 can say.
const LATEST_MS: UnixMillis = 253_402_300_799_999;

/// The time in `found`, or `None` if it holds none between the years 1 and 9999.
pub(super) fn parse(found: &Found<'_>, unit: TimeUnit) -> Option<UnixMillis> {
    let time_ms = match found {
        Found::Nothing | Found::Bool(_) | Found::Many => None,
        Found::Integer(count) => from_integer(*count, unit),
        Found::Number(count) => from_number(*count, unit),
        Found::Text(text) if unit == TimeUnit::Rfc3339 => {
            DateTime::parse_from_rfc3339(text).ok().map(|time| time.timestamp_millis())
        }
        Found::Text(text) => match text.parse::<i64>() {
            Ok(count) => from_integer(count, unit),
            Err(_) => text.parse().ok().and_then(|count| from_number(count, unit)),
        },
    };
    time_ms.filter(|time_ms| (EARLIEST_MS..=LATEST_MS).contains(time_ms))
}

fn from_integer(count: i64, unit: TimeUnit) -> Option<UnixMillis> {
    match unit {
        TimeUnit::S => count.checked_mul(1000),
        TimeUnit::Ms => Some(count),
        TimeUnit::Us => Some(count.div_euclid(1000)),
        TimeUnit::Ns => Some(count.div_euclid(1_000_000)),
        TimeUnit::Rfc3339 => None,
    }
}

fn from_number(count: f64, unit: TimeUnit) -> Option<UnixMillis> {
    let time_ms = match unit {
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
        parse(&Found::Text(text.into()), unit)
    }

    #[test]
    fn every_unit_gives_milliseconds() {
        for (unit, count) in [
            (TimeUnit::S, 1_700_000_000),
            (TimeUnit::Ms, 1_700_000_000_000),
            (TimeUnit::Us, 1_700_000_000_000_999),
            (TimeUnit::Ns, 1_700_000_000_000_999_999),
        ] {
            assert_eq!(parse(&Found::Integer(count), unit), Some(1_700_000_000_000), "{unit:?}");
            assert_eq!(text(&count.to_string(), unit), Some(1_700_000_000_000), "{unit:?}");
        }
        assert_eq!(parse(&Found::Number(1_700_000_000.25), TimeUnit::S), Some(1_700_000_000_250));
        assert_eq!(text("1700000000.25", TimeUnit::S), Some(1_700_000_000_250));
        assert_eq!(parse(&Found::Integer(-1), TimeUnit::Us), Some(-1), "before 1970 it is rounded down as well");
        assert_eq!(parse(&Found::Number(-0.5), TimeUnit::Ms), Some(-1));
    }

    #[test]
    fn rfc_3339_is_read_with_its_zone() {
        assert_eq!(text("2023-11-14T22:13:20.250Z", TimeUnit::Rfc3339), Some(1_700_000_000_250));
        assert_eq!(text("2023-11-14T23:13:20.25+01:00", TimeUnit::Rfc3339), Some(1_700_000_000_250));
        assert_eq!(text("2023-11-14T22:13:20", TimeUnit::Rfc3339), None, "no zone");
        assert_eq!(text("0000-01-01T00:00:00Z", TimeUnit::Rfc3339), None, "before the year 1");
        assert_eq!(parse(&Found::Integer(1_700_000_000), TimeUnit::Rfc3339), None);
        assert_eq!(parse(&Found::Number(1.5), TimeUnit::Rfc3339), None);
    }

    #[test]
    fn what_is_no_time_or_no_sensible_one_is_refused() {
        assert_eq!(parse(&Found::Integer(LATEST_MS + 1), TimeUnit::Ms), None);
        assert_eq!(parse(&Found::Integer(i64::MAX), TimeUnit::S), None);
        assert_eq!(parse(&Found::Integer(1_700_000_000_000), TimeUnit::S), None, "milliseconds mistaken for seconds");
        for wrong in ["", "now", "inf", "NaN", "1e300", " 1", "2023-11-14T22:13:20Z"] {
            assert_eq!(text(wrong, TimeUnit::Ms), None, "{wrong:?}");
        }
        for wrong in [Found::Nothing, Found::Bool(true), Found::Many, Found::Number(f64::MAX)] {
            assert_eq!(parse(&wrong, TimeUnit::Ms), None, "{wrong:?}");
        }
    }

    proptest! {
        #[test]
        fn any_number_gives_a_time_in_bounds_or_none(
            integer in any::<i64>(), number in any::<f64>(), unit in 0_usize..5
        ) {
            for found in [Found::Integer(integer), Found::Number(number), Found::Text(number.to_string().into())] {
                if let Some(time_ms) = parse(&found, TimeUnit::ALL[unit]) {
                    prop_assert!((EARLIEST_MS..=LATEST_MS).contains(&time_ms));
                }
            }
        }
    }
}
