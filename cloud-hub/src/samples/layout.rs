//! Where a sample file lies: names that pandas, pyarrow and DuckDB read as hive partitions.

use std::fmt;
use std::ops::Range;

use chrono::NaiveDate;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use shared::event::UnixMillis;
use shared::ids::{Digest, StreamId};

/// How the name of a sample file ends.
pub(super) const EXTENSION: &str = "parquet";

/// Bytes of a folder's name: NAME_MAX of every file system in use.
const MAX_NAME_BYTES: usize = 255;
/// Hexadecimal digits that tell long stream names apart: 128 bits, so that two never meet.
const LONG_NAME_DIGITS: usize = 32;
/// Stands before those digits, and in no name that is only percent-encoded.
const LONG_NAME_MARK: char = '!';

const STREAM_KEY: &str = "stream=";
const DAY_KEY: &str = "day=";
const KEPT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.');

const DAY_MS: i64 = 24 * 60 * 60 * 1000;
/// 0000-01-01 and 9999-12-31 as days since 1970: what four digits of a year can say.
const FIRST_DAY: i64 = -719_528;
const LAST_DAY: i64 = 2_932_896;

/// What a file holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Samples,
    Predictions,
}

impl Kind {
    pub(super) const fn folder(self) -> &'static str {
        match self {
            Self::Samples => "samples",
            Self::Predictions => "predictions",
        }
    }
}

/// A day in UTC. Times outside of the years 0 to 9999 count to the nearest day inside, so that a source with a broken
/// clock cannot stop a compaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Day(i32);

impl Day {
    pub(super) fn of(time_ms: UnixMillis) -> Self {
        let day = time_ms.div_euclid(DAY_MS).clamp(FIRST_DAY, LAST_DAY);
        Self(i32::try_from(day).unwrap_or_default())
    }

    /// The day a folder's name stands for; `None` if it is no day's folder.
    pub(super) fn from_folder(name: &str) -> Option<Self> {
        let date: NaiveDate = name.strip_prefix(DAY_KEY)?.parse().ok()?;
        Some(Self(date.to_epoch_days()))
    }
}

impl fmt::Display for Day {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&NaiveDate::from_epoch_days(self.0).unwrap_or_default(), f)
    }
}

/// The folder of a stream's days, below the root.
pub(super) fn stream_folder(kind: Kind, stream: &StreamId) -> String {
    format!("{}/{STREAM_KEY}{}", kind.folder(), folder_value(stream))
}

/// The folders that lead to a stream's days, below the root, outermost first.
pub(super) fn ancestors(kind: Kind, stream: &StreamId) -> [String; 2] {
    [kind.folder().to_owned(), stream_folder(kind, stream)]
}

/// The file of one compaction, below the root; `number` counts from 1 where one file cannot hold it all.
pub(super) fn file(kind: Kind, stream: &StreamId, day: Day, range: &Range<u64>, number: Option<usize>) -> String {
    let folder = stream_folder(kind, stream);
    let number = number.map(|number| format!("-{number}")).unwrap_or_default();
    format!("{folder}/{DAY_KEY}{day}/{:020}-{:020}{number}.{EXTENSION}", range.start, range.end)
}

/// The first position of the ingest log in a file, as its name says.
pub(super) fn first_position(file: &object_store::path::Path) -> Option<u64> {
    file.filename()?.split('-').next()?.parse().ok()
}

/// The stream's name, percent-encoded. A name that is too long for a folder is cut and told apart by its hash; the
/// whole name stands in the files.
fn folder_value(stream: &StreamId) -> String {
    let mut value = utf8_percent_encode(stream.as_str(), KEPT).to_string();
    if STREAM_KEY.len() + value.len() > MAX_NAME_BYTES {
        let mut cut = MAX_NAME_BYTES - STREAM_KEY.len() - LONG_NAME_DIGITS - LONG_NAME_MARK.len_utf8();
        // No half of a percent-encoded byte is left at the end.
        cut -= value[..cut].rfind('%').map_or(0, |percent| if cut - percent < 3 { cut - percent } else { 0 });
        value.truncate(cut);
        value.push(LONG_NAME_MARK);
        value.push_str(&Digest::of(stream.as_str().as_bytes()).to_string()[..LONG_NAME_DIGITS]);
    }
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stream(name: &str) -> StreamId {
        StreamId::new(name).expect("valid")
    }

    #[test]
    fn a_file_lies_in_hive_partitions_of_stream_and_day() {
        let name = file(Kind::Samples, &stream("plant/pump 1"), Day::of(1_700_000_000_000), &(5..900), Some(2));
        assert_eq!(
            name,
            "samples/stream=plant%2Fpump%201/day=2023-11-14/00000000000000000005-00000000000000000900-2.parquet"
        );
    }

    #[test]
    fn a_day_begins_at_midnight_utc_and_reads_back() {
        assert_eq!(Day::of(0).to_string(), "1970-01-01");
        assert_eq!(Day::of(-1).to_string(), "1969-12-31");
        assert_eq!(Day::from_folder("day=1969-12-31"), Some(Day::of(-1)));
        assert_eq!(Day::from_folder("day=soon"), None);
    }

    #[test]
    fn a_broken_clock_still_gets_a_day() {
        assert_eq!(Day::of(i64::MAX).to_string(), "9999-12-31");
        assert_eq!(Day::of(i64::MIN).to_string(), "0000-01-01");
        assert_eq!(Day::from_folder("day=0000-01-01"), Some(Day::of(i64::MIN)));
    }

    #[test]
    fn a_stream_name_that_is_too_long_for_a_folder_is_cut_but_stays_its_own() {
        for length in 100..=120 {
            let name = format!("{}{}", "a".repeat(120 - length), "ü".repeat(length));
            let folder = folder_value(&stream(&name));
            assert!(STREAM_KEY.len() + folder.len() <= MAX_NAME_BYTES);
            let (kept, digits) = folder.split_once(LONG_NAME_MARK).expect("is cut");
            assert_eq!(digits.len(), LONG_NAME_DIGITS);
            assert!(kept.rfind('%').is_none_or(|percent| kept.len() - percent >= 3), "{kept} ends in half a byte");
        }
        assert_ne!(folder_value(&stream(&"/".repeat(240))), folder_value(&stream(&"/".repeat(239))));
    }
}
