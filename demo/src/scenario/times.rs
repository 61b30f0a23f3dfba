//! Times as text.

use std::fmt::Write;

use chrono::format::{Item, Parsed, StrftimeItems};
use chrono::{DateTime, Utc};

/// A strftime format that gives a full date and time.
#[derive(Debug, Clone)]
pub(super) struct TimeFormat {
    pattern: String,
    items: Vec<Item<'static>>,
}

impl TimeFormat {
    /// Checks `pattern` by writing a time with it and reading that back.
    ///
    /// # Errors
    /// Says what is wrong with the pattern.
    pub(super) fn new(pattern: &str) -> Result<Self, &'static str> {
        let items = StrftimeItems::new(pattern).parse_to_owned().map_err(|_| "holds a specifier that is unknown")?;
        let format = Self { pattern: pattern.to_owned(), items };
        let probe = DateTime::<Utc>::from_timestamp_millis(PROBE_MS).ok_or("cannot be tried")?;
        let mut text = String::new();
        write!(text, "{}", probe.format_with_items(format.items.iter())).map_err(|_| "cannot be written")?;
        match format.parse(&text) {
            Some(time_ms) if time_ms / MINUTE_MS == PROBE_MS / MINUTE_MS => Ok(format),
            Some(_) | None => Err("does not give a full date and time"),
        }
    }

    /// The pattern as it was written.
    pub(super) fn pattern(&self) -> &str {
        &self.pattern
    }

    /// Milliseconds since the Unix epoch; `None` if `text` is not of this format or no time. A time without an offset
    /// is taken as UTC.
    pub(super) fn parse(&self, text: &str) -> Option<i64> {
        let mut parsed = Parsed::new();
        chrono::format::parse(&mut parsed, text, self.items.iter()).ok()?;
        let time = match parsed.offset() {
            Some(_) => parsed.to_datetime().ok()?.to_utc(),
            None => parsed.to_naive_datetime_with_offset(0).ok()?.and_utc(),
        };
        Some(time.timestamp_millis())
    }
}

/// 2020-02-18 13:30:00 UTC: past noon and on a day that is no month, so that a format that loses half of the day or
/// swaps fields is noticed. The second is 0, because formats of whole minutes are full enough.
const PROBE_MS: i64 = 1_582_032_600_000;
const MINUTE_MS: i64 = 60_000;

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(pattern: &str, text: &str) -> Option<i64> {
        TimeFormat::new(pattern).expect("a good pattern").parse(text)
    }

    #[test]
    fn a_time_without_an_offset_is_utc_and_one_with_an_offset_is_converted() {
        assert_eq!(parse("%Y-%m-%d %H:%M:%S", "2020-02-08 13:30:47"), Some(1_581_168_647_000));
        assert_eq!(parse("%Y-%m-%dT%H:%M:%S%z", "2020-02-08T14:30:47+01:00"), Some(1_581_168_647_000));
        assert_eq!(parse("%s", "1581168647"), Some(1_581_168_647_000));
        assert_eq!(parse("%d.%m.%Y %H:%M", "08.02.2020 13:30"), Some(1_581_168_600_000));
        assert_eq!(parse("%Y-%m-%d %H:%M:%S%.f", "2020-02-08 13:30:47.250"), Some(1_581_168_647_250));
    }

    #[test]
    fn text_of_another_format_is_no_time() {
        assert_eq!(parse("%Y-%m-%d %H:%M:%S", "08.02.2020 13:30:47"), None);
        assert_eq!(parse("%Y-%m-%d %H:%M:%S", "2020-02-30 13:30:47"), None);
        assert_eq!(parse("%Y-%m-%d %H:%M:%S", "2020-02-08 13:30:47 "), None);
    }

    #[test]
    fn a_pattern_that_loses_part_of_the_time_is_refused() {
        for (pattern, problem) in [
            ("%Y-%m-%d", "does not give a full date and time"),
            ("%H:%M:%S", "does not give a full date and time"),
            ("%Y-%m-%d %I:%M:%S", "does not give a full date and time"),
            ("datetime", "does not give a full date and time"),
            ("%Y-%m-%d %Q", "holds a specifier that is unknown"),
        ] {
            assert_eq!(TimeFormat::new(pattern).err(), Some(problem), "{pattern}");
        }
    }
}
