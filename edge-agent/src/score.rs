//! Scoring a CSV file offline, by the code that serves live.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use chrono::NaiveDateTime;
use shared::device::{DeviceError, DeviceKind};
use shared::event::StreamSchema;
use shared::ids::{ChannelName, StreamId};
use shared::package::{LoadError, Package, PackageError};
use shared::pipeline::runner::{Answer, Runner, RunnerInput};

/// Rows read and scored at once.
const ROWS_AT_ONCE: usize = 1024;
/// How times are written in the files people have.
const TIME_FORMAT: &str = "%Y-%m-%d %H:%M:%S";

/// What to score with what.
#[derive(Debug, Clone)]
pub struct ScoreOptions {
    /// The package.
    pub model: PathBuf,
    /// The CSV file.
    pub input: PathBuf,
    /// Where the scores go; `-` is standard output.
    pub output: PathBuf,
    /// The character between columns.
    pub delimiter: char,
    /// The column of times; without it rows are one second apart.
    pub time_column: Option<String>,
    /// The device to run on.
    pub device: DeviceKind,
}

/// What came out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ScoreSummary {
    /// Rows scored.
    pub rows: u64,
    /// Rows above the threshold.
    pub anomalous: u64,
}

/// Why a file cannot be scored.
#[derive(Debug, thiserror::Error)]
pub enum ScoreError {
    /// A file cannot be read or written.
    #[error("use {path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The package is not one.
    #[error("open {path}: {source}")]
    Package {
        /// The file.
        path: PathBuf,
        /// Why.
        source: PackageError,
    },
    /// The package does not run on the device.
    #[error("load {path}: {source}")]
    Load {
        /// The file.
        path: PathBuf,
        /// Why.
        source: Box<LoadError>,
    },
    /// The device is not there.
    #[error("open the device: {0}")]
    Device(#[from] DeviceError),
    /// The CSV file is not as it should be.
    #[error("read {path}:{line}: {problem}")]
    Csv {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: u64,
        /// What is wrong, and what would be right.
        problem: String,
    },
}

/// Scores a file: one output row `row,score,threshold,anomaly` per input row, rows counted from 0 after the header. A
/// row without a score (a window is still filling) has empty fields and is not anomalous.
///
/// # Errors
/// If a file is not as it should be; says which, where and why.
pub fn score_file(options: &ScoreOptions) -> Result<ScoreSummary, ScoreError> {
    let mut runner = load(&options.model, options.device)?;
    let mut rows = Rows::open(options, &runner)?;
    let io_error = |source| ScoreError::Io { path: options.output.clone(), source };
    let mut output: Box<dyn Write> = if options.output == Path::new("-") {
        Box::new(io::stdout().lock())
    } else {
        Box::new(io::BufWriter::new(File::create(&options.output).map_err(io_error)?))
    };
    writeln!(output, "row,score,threshold,anomaly").map_err(io_error)?;
    let mut summary = ScoreSummary { rows: 0, anomalous: 0 };
    while let Some((times, values)) = rows.next_chunk()? {
        let width = rows.schema.channels.len();
        let inputs: Vec<RunnerInput<'_>> = times
            .iter()
            .zip(values.chunks_exact(width))
            .map(|(time_ms, values)| RunnerInput { schema: &rows.schema, time_ms: *time_ms, values })
            .collect();
        for answer in runner.run(&inputs) {
            let row = summary.rows;
            summary.rows += 1;
            match answer {
                Answer::Verdict(verdict) => {
                    summary.anomalous += u64::from(verdict.anomaly);
                    writeln!(output, "{row},{},{},{}", verdict.score, verdict.threshold, u8::from(verdict.anomaly))
                }
                Answer::WindowFilling | Answer::MissingChannel(_) => writeln!(output, "{row},,,0"),
            }
            .map_err(io_error)?;
        }
    }
    output.flush().map_err(io_error)?;
    Ok(summary)
}

fn load(path: &Path, device: DeviceKind) -> Result<Runner, ScoreError> {
    let bytes = fs::read(path).map_err(|source| ScoreError::Io { path: path.to_owned(), source })?;
    let (package, _) =
        Package::open(&bytes, None).map_err(|source| ScoreError::Package { path: path.to_owned(), source })?;
    package.load(&device.open()?).map_err(|source| ScoreError::Load { path: path.to_owned(), source: Box::new(source) })
}

/// The rows of a CSV file, some at a time.
struct Rows {
    path: PathBuf,
    records: csv::StringRecordsIntoIter<File>,
    schema: StreamSchema,
    columns: Vec<usize>,
    time_column: Option<usize>,
    next_time_ms: i64,
}

type Chunk = (Vec<i64>, Vec<f64>);

impl Rows {
    fn open(options: &ScoreOptions, runner: &Runner) -> Result<Self, ScoreError> {
        let path = options.input.clone();
        let file = File::open(&path).map_err(|source| ScoreError::Io { path: path.clone(), source })?;
        let delimiter = u8::try_from(options.delimiter).unwrap_or(b',');
        let mut reader = csv::ReaderBuilder::new().delimiter(delimiter).from_reader(file);
        let wrong = |problem: String| ScoreError::Csv { path: path.clone(), line: 1, problem };
        let headers = reader.headers().map_err(|error| wrong(error.to_string()))?.clone();
        let column = |name: &str| {
            headers.iter().position(|header| header.trim() == name).ok_or_else(|| {
                wrong(format!("there is no column {name:?}; there are {:?}", headers.iter().collect::<Vec<_>>()))
            })
        };
        let channels: Vec<ChannelName> = runner.pipeline().input.channels.clone();
        let columns = channels.iter().map(|name| column(name.as_str())).collect::<Result<_, _>>()?;
        let time_column = options.time_column.as_deref().map(column).transpose()?;
        let stream = StreamId::new("file").map_err(|error| wrong(error.to_string()))?;
        let schema = StreamSchema { stream, channels };
        Ok(Self { path, records: reader.into_records(), schema, columns, time_column, next_time_ms: 0 })
    }

    fn next_chunk(&mut self) -> Result<Option<Chunk>, ScoreError> {
        let (mut times, mut values) = (Vec::new(), Vec::new());
        for record in self.records.by_ref().take(ROWS_AT_ONCE) {
            let wrong = |line: u64, problem: String| ScoreError::Csv { path: self.path.clone(), line, problem };
            let record =
                record.map_err(|error| wrong(error.position().map_or(0, |at| at.line()), error.to_string()))?;
            let line = record.position().map_or(0, csv::Position::line);
            for (column, name) in self.columns.iter().zip(&self.schema.channels) {
                let text = record.get(*column).unwrap_or_default().trim();
                let value: f64 =
                    text.parse().map_err(|_| wrong(line, format!("{name} is {text:?}, it must be a number")))?;
                values.push(value);
            }
            times.push(match self.time_column {
                None => {
                    self.next_time_ms += 1_000;
                    self.next_time_ms
                }
                Some(column) => {
                    let text = record.get(column).unwrap_or_default().trim();
                    NaiveDateTime::parse_from_str(text, TIME_FORMAT)
                        .map_err(|_| wrong(line, format!("the time is {text:?}, it must be like {TIME_FORMAT}")))?
                        .and_utc()
                        .timestamp_millis()
                }
            });
        }
        Ok(if times.is_empty() { None } else { Some((times, values)) })
    }
}
