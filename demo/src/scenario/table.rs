//! Reads delimited text into rows, strictly.
//!
//! One header line, then one line a row, ended by LF or CRLF. A field may stand in double quotes and may then hold the
//! delimiter and, doubled, a quote; it may not hold a line end, so that a quote left open spoils one line and not the
//! rest of the file. Nothing is trimmed, guessed or skipped, except empty lines at the very end.

use std::borrow::Cow;
use std::fs;
use std::path::Path;

use shared::ids::ChannelName;

use super::problems::{Problem, Problems, choices, shown};
use super::times::TimeFormat;
use super::{MAX_FILE_BYTES, Row};

/// Columns of a file: far more than channels are allowed, and splitting a line stays cheap.
const MAX_COLUMNS: usize = 4096;
/// What spreadsheets put at the start of a UTF-8 file.
const BYTE_ORDER_MARK: char = '\u{feff}';

/// Where in a file's lines the numbers are.
#[derive(Debug, Clone)]
pub(super) struct Layout {
    /// What stands between fields.
    pub(super) delimiter: char,
    /// The column with the time.
    pub(super) time_column: String,
    /// How the time is written.
    pub(super) time_format: TimeFormat,
    /// The columns to read, in the order of a row's values.
    pub(super) channels: Vec<ChannelName>,
    /// The column that says what is anomalous.
    pub(super) label_column: Option<String>,
}

/// Whether a file must have the label column.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Label {
    /// It must: the rows are scored.
    Required,
    /// Rows have a label if the file has the column.
    WherePresent,
}

/// What may still be read.
#[derive(Debug)]
pub(super) struct Budget {
    rows: usize,
    values: usize,
    max_rows: usize,
    max_values: usize,
    is_spent: bool,
}

impl Budget {
    pub(super) fn new(max_rows: usize, max_values: usize) -> Self {
        Self { rows: max_rows, values: max_values, max_rows, max_values, is_spent: false }
    }

    /// Whether a row was refused; there is no use in reading on.
    pub(super) fn is_spent(&self) -> bool {
        self.is_spent
    }

    /// Takes one row of `channels` values.
    fn take(&mut self, channels: usize) -> Result<(), String> {
        match (self.rows.checked_sub(1), self.values.checked_sub(channels)) {
            (Some(rows), Some(values)) => {
                (self.rows, self.values) = (rows, values);
                Ok(())
            }
            (None, _) | (_, None) => {
                self.is_spent = true;
                Err(format!(
                    "the scenario's files together hold more than {} rows or {} values; name fewer files or channels",
                    self.max_rows, self.max_values
                ))
            }
        }
    }
}

/// The rows of a file, none of them known-normal yet. `None` if something is wrong, which is then among `problems`.
pub(super) fn read(
    path: &Path,
    layout: &Layout,
    label: Label,
    budget: &mut Budget,
    problems: &mut Problems,
) -> Option<Vec<Row>> {
    match read_text(path) {
        Ok(text) => Reader { path, layout, problems }.rows(&text, label, budget),
        Err(problem) => {
            problems.push(problem);
            None
        }
    }
}

fn read_text(path: &Path) -> Result<String, Problem> {
    let unreadable = |error| Problem::in_file(path, format!("the file cannot be read: {error}"));
    let bytes = fs::metadata(path).map_err(unreadable)?.len();
    if bytes > MAX_FILE_BYTES {
        let what = format!("the file has {bytes} bytes, at most {MAX_FILE_BYTES} are allowed; split it");
        return Err(Problem::in_file(path, what));
    }
    String::from_utf8(fs::read(path).map_err(unreadable)?)
        .map_err(|error| Problem::not_utf8(path, &error.as_bytes()[..error.utf8_error().valid_up_to()]))
}

struct Reader<'a> {
    path: &'a Path,
    layout: &'a Layout,
    problems: &'a mut Problems,
}

/// Where the wanted columns stand in a line.
struct Columns {
    count: usize,
    time: usize,
    channels: Vec<usize>,
    label: Option<usize>,
}

impl Reader<'_> {
    fn rows(&mut self, text: &str, label: Label, budget: &mut Budget) -> Option<Vec<Row>> {
        let text = text.strip_prefix(BYTE_ORDER_MARK).unwrap_or(text).trim_end_matches(['\r', '\n']);
        let mut lines = (1..).zip(text.lines());
        let Some((first, header)) = lines.next() else {
            self.wrong(1, "the file is empty; it needs a header line and at least one row".to_owned());
            return None;
        };
        let columns = self.columns(header, label)?;
        let mut rows = Vec::new();
        let mut is_good = true;
        for (number, line) in lines {
            match self.row(number, line, &columns) {
                Some(row) => match budget.take(row.values.len()) {
                    Ok(()) => rows.push(row),
                    Err(what) => {
                        self.wrong(number, what);
                        return None;
                    }
                },
                None => is_good = false,
            }
            if self.problems.is_overfull() {
                return None;
            }
        }
        if is_good && rows.is_empty() {
            self.wrong(first, "the file has a header line but no row; it needs at least one".to_owned());
        }
        (is_good && !rows.is_empty()).then_some(rows)
    }

    fn wrong(&mut self, line: usize, what: String) {
        self.problems.push(Problem::in_line(self.path, line, what));
    }

    fn columns(&mut self, header: &str, label: Label) -> Option<Columns> {
        let names = match split(header, self.layout.delimiter) {
            Ok(names) => names,
            Err(what) => {
                self.wrong(1, what);
                return None;
            }
        };
        let layout = self.layout;
        let time = self.column(&names, &layout.time_column, "the time");
        let channels: Vec<_> =
            layout.channels.iter().map(|channel| self.column(&names, channel.as_str(), "a channel")).collect();
        let label = match &layout.label_column {
            Some(name) if label == Label::Required || names.contains(&Cow::Borrowed(name.as_str())) => {
                Some(self.column(&names, name, "the labels to score with")?)
            }
            Some(_) | None => None,
        };
        Some(Columns { count: names.len(), time: time?, channels: channels.into_iter().collect::<Option<_>>()?, label })
    }

    /// Where the column `name` stands.
    fn column(&mut self, names: &[Cow<'_, str>], name: &str, role: &str) -> Option<usize> {
        let mut places = names.iter().enumerate().filter(|(_, found)| *found == name).map(|(place, _)| place);
        match (places.next(), places.next()) {
            (Some(place), None) => return Some(place),
            (Some(_), Some(_)) => {
                let what = format!("column {} ({role}) stands twice in the header; name each column once", shown(name));
                self.wrong(1, what);
            }
            (None, _) => {
                let delimiter = self.layout.delimiter;
                let found = choices(name, names.iter().map(AsRef::as_ref));
                let what = format!(
                    "there is no column {} ({role}); separated by {delimiter:?} the columns are {found}",
                    shown(name)
                );
                self.wrong(1, what);
            }
        }
        None
    }

    fn row(&mut self, number: usize, line: &str, columns: &Columns) -> Option<Row> {
        let row = self.parsed(line, columns);
        row.map_err(|what| self.wrong(number, what)).ok()
    }

    fn parsed(&self, line: &str, columns: &Columns) -> Result<Row, String> {
        let fields = split(line, self.layout.delimiter)?;
        if fields.len() != columns.count {
            return Err(format!(
                "the number of fields is {}; the header names {} columns",
                fields.len(),
                columns.count
            ));
        }
        let time = &fields[columns.time];
        let format = &self.layout.time_format;
        let time_ms = format
            .parse(time)
            .ok_or_else(|| format!("{} is no time; write it as {}", shown(time), shown(format.pattern())))?;
        let channels = columns.channels.iter().zip(&self.layout.channels);
        let values: Result<_, _> =
            channels.map(|(place, channel)| number_in(&fields[*place], channel.as_str())).collect();
        let label = match (columns.label, &self.layout.label_column) {
            (Some(place), Some(name)) => Some(number_in(&fields[place], name)? != 0.0),
            (None, _) | (_, None) => None,
        };
        Ok(Row { time_ms, values: values?, known_normal: false, label })
    }
}

fn number_in(field: &str, column: &str) -> Result<f64, String> {
    match field.parse::<f64>() {
        Ok(number) if number.is_finite() => Ok(number),
        Ok(_) | Err(_) => {
            Err(format!("{} in column {} is no finite number; write it like 12.5 or 1e-3", shown(field), shown(column)))
        }
    }
}

/// The fields of one line.
fn split(line: &str, delimiter: char) -> Result<Vec<Cow<'_, str>>, String> {
    let mut fields = Vec::new();
    let mut rest = Some(line);
    while let Some(text) = rest {
        if fields.len() == MAX_COLUMNS {
            return Err(format!("the line has more than {MAX_COLUMNS} fields; keep fewer columns"));
        }
        let (field, after) = match text.strip_prefix('"') {
            Some(quoted) => unquote(quoted, delimiter)?,
            None => match text.split_once(delimiter) {
                Some((field, after)) => (Cow::Borrowed(field), Some(after)),
                None => (Cow::Borrowed(text), None),
            },
        };
        if matches!(field, Cow::Borrowed(text) if text.contains('"')) {
            return Err(format!("{} has a quote in its middle; quote the whole field", shown(&field)));
        }
        fields.push(field);
        rest = after;
    }
    Ok(fields)
}

/// The field whose opening quote stood before `text`, and what follows its delimiter.
fn unquote(text: &str, delimiter: char) -> Result<(Cow<'_, str>, Option<&str>), String> {
    let mut field = String::new();
    let mut rest = text;
    loop {
        let Some((part, after)) = rest.split_once('"') else {
            return Err(format!("the quote before {} is not closed on its line; close it", shown(text)));
        };
        field.push_str(part);
        match after.strip_prefix('"') {
            Some(again) => {
                field.push('"');
                rest = again;
            }
            None if after.is_empty() => return Ok((Cow::Owned(field), None)),
            None => match after.strip_prefix(delimiter) {
                Some(after) => return Ok((Cow::Owned(field), Some(after))),
                None => {
                    let what = "is followed by text after its closing quote; put the delimiter there";
                    return Err(format!("{} {what}", shown(&field)));
                }
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(line: &str, expected: &[&str]) {
        assert_eq!(split(line, ',').expect("a good line"), expected, "{line}");
    }

    #[test]
    fn fields_are_split_at_delimiters_outside_quotes() {
        check("", &[""]);
        check("a", &["a"]);
        check("a,,b,", &["a", "", "b", ""]);
        check("\"a,b\",c", &["a,b", "c"]);
        check("\"say \"\"yes\"\"\",\"\"", &["say \"yes\"", ""]);
        check(" a , b", &[" a ", " b"]);
    }

    #[test]
    fn quotes_that_do_not_enclose_a_field_are_refused() {
        for line in ["\"open,1", "\"closed\" no,1", "mid\"dle,1", "\"a\"\"", "a\""] {
            assert!(split(line, ',').is_err(), "{line}");
        }
    }

    #[test]
    fn a_line_of_too_many_fields_is_refused() {
        assert!(split(&",".repeat(MAX_COLUMNS - 1), ',').is_ok());
        assert!(split(&",".repeat(MAX_COLUMNS), ',').is_err());
    }

    #[test]
    fn the_budget_counts_rows_and_values() {
        let mut budget = Budget::new(3, 5);
        assert!(budget.take(2).is_ok());
        assert!(budget.take(2).is_ok());
        assert!(!budget.is_spent());
        assert!(budget.take(2).expect_err("five values").contains("more than 3 rows or 5 values"));
        assert!(budget.is_spent());
        let mut budget = Budget::new(1, 5);
        assert!(budget.take(2).is_ok());
        assert!(budget.take(2).is_err());
    }
}
