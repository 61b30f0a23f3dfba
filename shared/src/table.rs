//! Readings in CSV files, as training and offline scoring take them: one reading per row, channels by column name.

use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use chrono::{DateTime, NaiveDateTime};

use crate::event::UnixMillis;
use crate::ids::ChannelName;

/// How times are written in the files people have.
const TIME_FORMATS: [&str; 4] =
    ["%Y-%m-%d %H:%M:%S%.f", "%Y-%m-%dT%H:%M:%S%.f", "%Y-%m-%d %H:%M", "%Y/%m/%d %H:%M:%S%.f"];
/// Numbers from here on are milliseconds since 1970 (in 1973), below it they are seconds (until the year 5138).
const FIRST_MILLISECONDS: f64 = 1e11;
/// What stands for no value.
const NO_VALUE: [&str; 5] = ["", "nan", "null", "na", "none"];
/// Characters that stand between columns.
const DELIMITERS: [u8; 4] = [b',', b';', b'\t', b'|'];

/// How to read a table.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TableOptions {
    /// The character between columns; if not given, the one that stands most often in the header.
    pub delimiter: Option<u8>,
    /// The column of times; without it rows are `interval_ms` apart.
    pub time_column: Option<String>,
    /// The column of labels.
    pub label_column: Option<String>,
    /// Time between rows without a column of times; 0 means a second.
    pub interval_ms: u32,
    /// Whether rows that cannot be read are skipped and counted, instead of ending the reading.
    pub skips_bad_rows: bool,
}

/// A CSV file being read.
pub struct Table<R> {
    path: PathBuf,
    records: csv::Reader<BufReader<R>>,
    record: csv::StringRecord,
    channels: Vec<(ChannelName, usize)>,
    time: Option<(String, usize)>,
    label: Option<usize>,
    options: TableOptions,
    last_time_ms: Option<UnixMillis>,
    skipped: u64,
    first_skipped: Option<TableError>,
}

/// A row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Row {
    /// A reading.
    Reading {
        /// Its time.
        time_ms: UnixMillis,
        /// Its label, if there is a column of labels and it is not empty.
        label: Option<String>,
    },
    /// It could not be read, and is skipped.
    Skipped,
}

/// What is wrong with a table.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("read {path}:{line}{at}: {problem}", path = .path.display(), at = .column.as_ref().map(|name| format!(", column {name}")).unwrap_or_default())]
pub struct TableError {
    /// The file.
    pub path: PathBuf,
    /// The line, from 1.
    pub line: u64,
    /// The column's name.
    pub column: Option<String>,
    /// What is wrong, and what would be right.
    pub problem: String,
}

impl<R: Read> Table<R> {
    /// Reads the header of the table in `reader`, which must have `channels`. The path only names it in messages.
    ///
    /// # Errors
    /// If a column is missing, or the header cannot be read.
    pub fn open(path: &Path, reader: R, channels: &[ChannelName], options: TableOptions) -> Result<Self, TableError> {
        let wrong = |problem: String| TableError { path: path.to_owned(), line: 1, column: None, problem };
        let mut buffered = BufReader::new(reader);
        let start = buffered.fill_buf().map_err(|error| wrong(error.to_string()))?;
        let delimiter = options.delimiter.unwrap_or_else(|| likely_delimiter(start));
        let mut records =
            csv::ReaderBuilder::new().delimiter(delimiter).trim(csv::Trim::All).flexible(true).from_reader(buffered);
        let headers = records.headers().map_err(|error| wrong(error.to_string()))?.clone();
        let column = |name: &str| {
            headers.iter().position(|header| header.trim_start_matches('\u{feff}') == name).ok_or_else(|| {
                let there: Vec<&str> = headers.iter().take(40).collect();
                wrong(format!("there is no column {name:?}; there are {}", there.join(", ")))
            })
        };
        let channels = channels
            .iter()
            .map(|name| Ok((name.clone(), column(name.as_str())?)))
            .collect::<Result<_, TableError>>()?;
        let time = options.time_column.as_deref().map(|name| Ok((name.to_owned(), column(name)?))).transpose()?;
        let label = options.label_column.as_deref().map(column).transpose()?;
        Ok(Self {
            path: path.to_owned(),
            records,
            record: csv::StringRecord::new(),
            channels,
            time,
            label,
            options,
            last_time_ms: None,
            skipped: 0,
            first_skipped: None,
        })
    }

    /// Reads the next row and puts the channels' values at the end of `values`, NaN for what is missing.
    ///
    /// # Errors
    /// If it cannot be read, and such rows are not skipped.
    pub fn next_row(&mut self, values: &mut Vec<f64>) -> Result<Option<Row>, TableError> {
        let before = values.len();
        match self.read_row(values) {
            Err(error) if self.options.skips_bad_rows => {
                values.truncate(before);
                self.skipped += 1;
                self.first_skipped.get_or_insert(error);
                Ok(Some(Row::Skipped))
            }
            other => other,
        }
    }

    /// How many rows were skipped, and what was wrong with the first.
    #[must_use]
    pub fn skipped(&self) -> Option<(u64, &TableError)> {
        self.first_skipped.as_ref().map(|first| (self.skipped, first))
    }

    fn read_row(&mut self, values: &mut Vec<f64>) -> Result<Option<Row>, TableError> {
        let there_is_one = self.records.read_record(&mut self.record).map_err(|error| TableError {
            path: self.path.clone(),
            line: error.position().map_or(0, csv::Position::line),
            column: None,
            problem: error.to_string(),
        })?;
        if !there_is_one {
            return Ok(None);
        }
        let line = self.record.position().map_or(0, csv::Position::line);
        let wrong = |column: &str, problem: String| TableError {
            path: self.path.clone(),
            line,
            column: Some(column.to_owned()),
            problem,
        };
        for (name, column) in &self.channels {
            let text = self.record.get(*column).unwrap_or_default();
            let is_missing = NO_VALUE.iter().any(|none| text.eq_ignore_ascii_case(none));
            values.push(if is_missing {
                f64::NAN
            } else {
                text.parse().map_err(|_| wrong(name.as_str(), format!("{text:?} is no number")))?
            });
        }
        let time_ms = match &self.time {
            None => {
                let interval_ms =
                    if self.options.interval_ms == 0 { 1_000 } else { i64::from(self.options.interval_ms) };
                self.last_time_ms.map_or(0, |last| last + interval_ms)
            }
            Some((name, column)) => {
                let text = self.record.get(*column).unwrap_or_default();
                let time_ms = parse_time(text).ok_or_else(|| {
                    wrong(
                        name,
                        format!("{text:?} is no time; it must be like 2026-01-31 13:59:00, RFC 3339 or Unix seconds"),
                    )
                })?;
                if self.last_time_ms.is_some_and(|last| time_ms <= last) {
                    return Err(wrong(name, format!("{text:?} is not after the time of the row before")));
                }
                time_ms
            }
        };
        self.last_time_ms = Some(time_ms);
        let label = self.label.and_then(|column| self.record.get(column)).filter(|label| !label.is_empty());
        Ok(Some(Row::Reading { time_ms, label: label.map(str::to_owned) }))
    }
}

/// A time as people write it: date and time without a zone, which is taken for UTC, RFC 3339, or a number of seconds or
/// milliseconds since 1970.
#[must_use]
pub fn parse_time(text: &str) -> Option<UnixMillis> {
    let without_zone = || TIME_FORMATS.iter().find_map(|format| NaiveDateTime::parse_from_str(text, format).ok());
    if let Some(time) = without_zone() {
        return Some(time.and_utc().timestamp_millis());
    }
    if let Ok(time) = DateTime::parse_from_rfc3339(text) {
        return Some(time.timestamp_millis());
    }
    let number: f64 = text.parse().ok().filter(|number: &f64| number.is_finite())?;
    let milliseconds = if number.abs() >= FIRST_MILLISECONDS { number } else { number * 1_000.0 };
    // Beyond it there are no calendar dates, and f64 has no room for milliseconds.
    (milliseconds.abs() < 9e15).then_some(milliseconds.round() as i64)
}

fn likely_delimiter(start: &[u8]) -> u8 {
    let header = start.split(|byte| *byte == b'\n').next().unwrap_or_default();
    let count = |delimiter: u8| header.iter().filter(|byte| **byte == delimiter).count();
    // The first of those that stand equally often.
    DELIMITERS.into_iter().rev().max_by_key(|delimiter| count(*delimiter)).unwrap_or(b',')
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipeline::tests::names;

    fn read(text: &str, options: TableOptions) -> Result<(Vec<Row>, Vec<f64>, u64), TableError> {
        let mut table = Table::open(Path::new("t.csv"), text.as_bytes(), &names(&["a", "b"]), options)?;
        let (mut rows, mut values) = (Vec::new(), Vec::new());
        while let Some(row) = table.next_row(&mut values)? {
            rows.push(row);
        }
        Ok((rows, values, table.skipped().map_or(0, |(count, _)| count)))
    }

    fn with_time() -> TableOptions {
        TableOptions { time_column: Some("time".into()), label_column: Some("kind".into()), ..TableOptions::default() }
    }

    #[test]
    fn columns_are_found_by_name_behind_any_usual_delimiter() {
        for delimiter in [",", ";", "\t", "|"] {
            let text = "\u{feff}time,b,kind,\"a\"\r\n2020-01-01 00:00:01,2,on,1\r\n2020-01-01 00:00:02,,,\"3\"\r\n";
            let (rows, values, _) = read(&text.replace(',', delimiter), with_time()).expect("reads");
            let reading = |time_ms, label: Option<&str>| Row::Reading { time_ms, label: label.map(str::to_owned) };
            assert_eq!(rows, [reading(1_577_836_801_000, Some("on")), reading(1_577_836_802_000, None)]);
            assert_eq!(values[..3], [1.0, 2.0, 3.0]);
            assert!(values[3].is_nan());
        }
    }

    #[test]
    fn what_is_wrong_is_said_with_file_line_and_column_or_skipped_and_counted() {
        let bad = "time,a,b,kind\n1,1,2,x\n2,1,zwei,x\n2,1,2,x\n1,1,2,x\n3,1,2,x\n";
        let error = |text: &str| read(text, with_time()).expect_err("bad").to_string();
        assert_eq!(error(bad), "read t.csv:3, column b: \"zwei\" is no number");
        assert_eq!(
            error(&bad.replace("zwei", "2")),
            "read t.csv:4, column time: \"2\" is not after the time of the row before"
        );
        assert!(
            error("time,a,b,kind\nyesterday,1,2,x\n")
                .starts_with("read t.csv:2, column time: \"yesterday\" is no time")
        );
        assert_eq!(error("time,a,kind\n"), "read t.csv:1: there is no column \"b\"; there are time, a, kind");
        let (rows, values, skipped) = read(bad, TableOptions { skips_bad_rows: true, ..with_time() }).expect("reads");
        assert_eq!((rows.len(), values.len(), skipped), (5, 6, 2));
    }

    #[test]
    fn times_are_read_as_people_write_them() {
        for text in
            ["2020-03-09 10:14:33", "2020-03-09T10:14:33Z", "2020-03-09T12:14:33+02:00", "1583748873", "1583748873000"]
        {
            assert_eq!(parse_time(text), Some(1_583_748_873_000), "{text}");
        }
        assert_eq!(parse_time("2020-03-09 10:14"), Some(1_583_748_840_000));
        assert_eq!(parse_time("inf"), None);
    }
}
