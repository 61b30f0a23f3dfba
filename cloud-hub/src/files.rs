//! Readings in files that people have: CSV and Parquet, one file per stream or experiment.

mod parquet;

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use shared::event::StreamSchema;
use shared::ids::{AgentId, ChannelName, IdError, StreamId};
use shared::package::DataRange;
use shared::table::{Row, Table, TableError, TableOptions};

use crate::recipe::Recipe;
use crate::recipe::data::BadRows;
use crate::recipe::decision::RecipeDecision;
use crate::train::dataset::{Dataset, SegmentData};

/// The agent that readings from files are said to come from.
const AGENT: &str = "files";
/// Folders in folders that are looked into.
const MAX_DEPTH: usize = 8;
/// Endings of files with readings.
const TABLES: [&str; 3] = ["csv", "txt", "tsv"];
const PARQUET: &str = "parquet";

/// Why files cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum FilesError {
    /// A file or folder cannot be read.
    #[error("read {path}: {source}")]
    Io {
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A table is not as it should be.
    #[error("{0}")]
    Table(#[from] TableError),
    /// A Parquet file is not as it should be.
    #[error("read {path}: {problem}")]
    Parquet {
        /// Which.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// There is no file.
    #[error("find readings in {0}: there is no .csv, .txt, .tsv or .parquet file")]
    Nothing(PathBuf),
    /// The recipe does not say which columns are channels.
    #[error(
        "read files: the recipe's input.channels is empty; a file may hold more than channels, so they must be named"
    )]
    NoChannels,
    /// A label is not among the recipe's.
    #[error("read {path}:{row}: label {label:?} is not among the recipe's: {known}")]
    Label {
        /// The file.
        path: PathBuf,
        /// The row, from 1, without the header.
        row: usize,
        /// The label.
        label: String,
        /// Those that are known.
        known: String,
    },
    /// A file's name cannot be a stream's.
    #[error("name a stream after a file: {0}")]
    Name(#[from] IdError),
}

/// Rows that were left out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Skipped {
    /// How many.
    pub rows: u64,
    /// What was wrong with the first.
    pub first: TableError,
}

/// What is read of each file.
pub(crate) struct Wanted<'a> {
    channels: Vec<ChannelName>,
    labels: &'a [String],
    recipe: &'a Recipe,
}

/// Reads `path`, a file or a folder of them, as `recipe` says.
///
/// # Errors
/// If a file cannot be read; says which, where and why.
pub fn load(path: &Path, recipe: &Recipe) -> Result<(Dataset, Vec<Skipped>), FilesError> {
    let pipeline = recipe.pipeline(&[]).map_err(|_| FilesError::NoChannels)?;
    let labels: &[String] = match &recipe.decision {
        RecipeDecision::Classify(classify) => &classify.labels,
        RecipeDecision::Anomaly(_) | RecipeDecision::Forecast(_) => &[],
    };
    let wanted = Wanted { channels: pipeline.input.names().cloned().collect(), labels, recipe };
    let mut files = Vec::new();
    find(path, MAX_DEPTH, &mut files)?;
    files.sort();
    let (mut segments, mut skipped) = (Vec::new(), Vec::new());
    for file in &files {
        let mut segment = if has_ending(file, &[PARQUET]) {
            parquet::read(file, &wanted)?
        } else {
            wanted.read_table(file, &mut skipped)?
        };
        let name = file.strip_prefix(path).ok().filter(|name| !name.as_os_str().is_empty()).unwrap_or(file);
        segment.schema.stream = stream_name(name)?;
        segment.range.stream = segment.schema.stream.clone();
        if !segment.is_empty() {
            segments.push(segment);
        }
    }
    if segments.is_empty() {
        return Err(FilesError::Nothing(path.to_owned()));
    }
    segments.sort_by_key(|segment| segment.range.from_ms);
    Ok((Dataset { segments }, skipped))
}

/// The files with readings in `path`, which may be one itself, in order.
///
/// # Errors
/// If a folder cannot be read, or there is none.
pub fn tables(path: &Path) -> Result<Vec<PathBuf>, FilesError> {
    let mut files = Vec::new();
    find(path, MAX_DEPTH, &mut files)?;
    files.retain(|file| !has_ending(file, &[PARQUET]));
    files.sort();
    if files.is_empty() { Err(FilesError::Nothing(path.to_owned())) } else { Ok(files) }
}

/// The channels of a CSV file, row after row, and which rows have a label above 0.
///
/// # Errors
/// If the file cannot be read, or a channel is missing.
pub fn read_channels(
    path: &Path,
    channels: &[ChannelName],
    label: Option<&str>,
) -> Result<(Vec<f64>, Vec<bool>), FilesError> {
    let file = File::open(path).map_err(|source| FilesError::Io { path: path.to_owned(), source })?;
    let options = TableOptions {
        delimiter: None,
        time_column: None,
        label_column: label.map(str::to_owned),
        interval_ms: 0,
        skips_bad_rows: false,
    };
    let mut table = Table::open(path, file, channels, options)?;
    let (mut values, mut labelled) = (Vec::new(), Vec::new());
    while let Some(row) = table.next_row(&mut values)? {
        if let Row::Reading { label, .. } = row {
            labelled.push(label.and_then(|label| label.parse().ok()).is_some_and(|label: f64| label > 0.0));
        }
    }
    Ok((values, labelled))
}

fn find(path: &Path, depth: usize, files: &mut Vec<PathBuf>) -> Result<(), FilesError> {
    let io_error = |source| FilesError::Io { path: path.to_owned(), source };
    if !fs::metadata(path).map_err(io_error)?.is_dir() {
        files.push(path.to_owned());
        return Ok(());
    }
    for entry in fs::read_dir(path).map_err(io_error)? {
        let entry = entry.map_err(io_error)?.path();
        if entry.is_dir() {
            if depth > 0 {
                find(&entry, depth - 1, files)?;
            }
        } else if has_ending(&entry, &TABLES) || has_ending(&entry, &[PARQUET]) {
            files.push(entry);
        }
    }
    Ok(())
}

fn has_ending(path: &Path, endings: &[&str]) -> bool {
    path.extension().is_some_and(|found| endings.iter().any(|ending| found.eq_ignore_ascii_case(ending)))
}

/// `pump/day 1.csv` becomes `pump/day_1`.
fn stream_name(path: &Path) -> Result<StreamId, IdError> {
    let text = path.with_extension("").to_string_lossy().into_owned();
    let clean: String = text
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '/') { c } else { '_' })
        .collect();
    StreamId::new(clean.trim_matches('/'))
}

impl Wanted<'_> {
    fn read_table(&self, path: &Path, skipped: &mut Vec<Skipped>) -> Result<SegmentData, FilesError> {
        let file = File::open(path).map_err(|source| FilesError::Io { path: path.to_owned(), source })?;
        let rules = &self.recipe.data;
        let options = TableOptions {
            delimiter: None,
            time_column: rules.time_column.clone(),
            label_column: rules.label_column.clone().filter(|_| !self.labels.is_empty()),
            interval_ms: self.recipe.input.interval_ms,
            skips_bad_rows: rules.bad_rows == BadRows::Skip,
        };
        let mut table = Table::open(path, file, &self.channels, options)?;
        let mut segment = self.empty_segment()?;
        let mut rows = 0;
        while !self.is_enough(rows) {
            match table.next_row(&mut segment.values)? {
                None => break,
                Some(Row::Skipped) => {}
                Some(Row::Reading { time_ms, label }) => {
                    segment.times_ms.push(time_ms);
                    if !self.labels.is_empty() {
                        segment.labels.push(self.label(label.as_deref(), path, rows + 1)?);
                    }
                }
            }
            rows += 1;
        }
        if let Some((rows, first)) = table.skipped() {
            skipped.push(Skipped { rows, first: first.clone() });
        }
        Ok(finish(segment))
    }

    fn is_enough(&self, rows: usize) -> bool {
        let limit = self.recipe.data.first_rows as usize;
        limit > 0 && rows >= limit
    }

    fn label(&self, label: Option<&str>, path: &Path, row: usize) -> Result<Option<u16>, FilesError> {
        let Some(label) = label else {
            return Ok(None);
        };
        match self.labels.iter().position(|known| known == label) {
            // There are at most MAX_LABELS.
            Some(index) => Ok(u16::try_from(index).ok()),
            None => Err(FilesError::Label {
                path: path.to_owned(),
                row,
                label: label.to_owned(),
                known: self.labels.join(", "),
            }),
        }
    }

    fn empty_segment(&self) -> Result<SegmentData, IdError> {
        let stream = StreamId::new("file")?;
        Ok(SegmentData {
            range: DataRange { agent: AgentId::new(AGENT)?, stream: stream.clone(), from_ms: 0, to_ms: 0, rows: 0 },
            schema: StreamSchema { stream, channels: self.channels.clone() },
            times_ms: Vec::new(),
            values: Vec::new(),
            labels: Vec::new(),
        })
    }
}

fn finish(mut segment: SegmentData) -> SegmentData {
    segment.range.rows = segment.times_ms.len() as u64;
    segment.range.from_ms = segment.times_ms.first().copied().unwrap_or(0);
    segment.range.to_ms = segment.times_ms.last().copied().unwrap_or(0);
    segment
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::train::fit::tests::recipe_of;

    fn recipe(data: &str) -> Recipe {
        recipe_of(&format!(
            "network = [{{ linear = {{}} }}]\n[input]\nchannels = ['a', 'b']\n[decision.classify]\nlabels = ['off', 'on']\n\
             [data]\ntime_column = 'time'\nlabel_column = 'kind'\n{data}\n"
        ))
    }

    #[test]
    fn every_file_of_a_folder_is_a_stream_and_other_columns_are_left_alone() {
        let dir = tempfile::tempdir().expect("dir");
        fs::create_dir(dir.path().join("line 1")).expect("makes");
        let text = "time;x;b;a;kind\n1;?;2;1;on\n2;?;4;3;\n3;?;6;5;off\n";
        fs::write(dir.path().join("line 1/pump.csv"), text).expect("writes");
        fs::write(dir.path().join("notes.md"), "no readings").expect("writes");
        let (dataset, skipped) = load(dir.path(), &recipe("first_rows = 2")).expect("reads");
        let segment = &dataset.segments[0];
        assert_eq!((dataset.segments.len(), skipped.len()), (1, 0));
        assert_eq!(segment.schema.stream.as_str(), "line_1/pump");
        assert_eq!(
            (segment.values.as_slice(), segment.labels.as_slice()),
            (&[1.0, 2.0, 3.0, 4.0][..], &[Some(1), None][..])
        );
        assert_eq!((segment.range.from_ms, segment.range.to_ms, segment.range.rows), (1_000, 2_000, 2));
    }

    #[test]
    fn what_is_wrong_is_said_with_its_place() {
        let dir = tempfile::tempdir().expect("dir");
        let path = dir.path().join("p.csv");
        let error = |text: &str| {
            fs::write(&path, text).expect("writes");
            load(&path, &recipe("")).expect_err("wrong").to_string().replace(&path.display().to_string(), "p.csv")
        };
        assert_eq!(
            error("time,a,b,kind\n1,1,2,maybe\n"),
            "read p.csv:1: label \"maybe\" is not among the recipe's: off, on"
        );
        assert_eq!(error("time,a,kind\n"), "read p.csv:1: there is no column \"b\"; there are time, a, kind");
        assert!(error("time,a,b,kind\n").starts_with("find readings in p.csv"));
        fs::write(&path, "time,a,b,kind\n1,1,x,on\n2,1,2,on\n").expect("writes");
        let (dataset, skipped) = load(&path, &recipe("bad_rows = 'skip'")).expect("reads");
        assert_eq!((dataset.segments[0].len(), skipped[0].rows), (1, 1));
    }
}
