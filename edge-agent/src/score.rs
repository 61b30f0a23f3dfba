//! Scoring a CSV file offline, by the code that serves live.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use crate::clock::Clock;
use shared::device::{DeviceChoice, DeviceError};
use shared::event::{Outcome, StreamSchema, Verdict};
use shared::ids::{ChannelName, IdError, StreamId};
use shared::package::signature::{self, PublicKey};
use shared::package::{NoDevice, Package, PackageError};
use shared::pipeline::runner::{Answer, Runner, RunnerInput};
use shared::pipeline::{Calibration, Decision, Pipeline};
use shared::table::{Row, Table, TableError, TableOptions};

/// Rows read and scored at once.
const ROWS_AT_ONCE: usize = 1024;

/// What to score with what.
#[derive(Debug, Clone)]
pub struct ScoreOptions {
    /// The package.
    pub model: PathBuf,
    /// Whose signature it must have; anybody's or nobody's if there are none.
    pub trusted: Vec<PublicKey>,
    /// The CSV file.
    pub input: PathBuf,
    /// Where the scores go; `-` is standard output.
    pub output: PathBuf,
    /// How the file is read.
    pub table: TableOptions,
    /// Rows at the start that the pipeline gets to know the stream from, instead of as many as it declares.
    pub calibration_rows: Option<u32>,
    /// The device to run on.
    pub device: DeviceChoice,
}

/// What came out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScoreSummary {
    /// Rows read.
    pub rows: u64,
    /// Rows that were answered.
    pub answered: u64,
    /// Rows above the threshold.
    pub anomalous: u64,
    /// Rows that could not be read, and what was wrong with the first.
    pub skipped: Option<(u64, TableError)>,
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
    /// The package is not one, or not one to trust.
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
        source: NoDevice,
    },
    /// The device is not there.
    #[error("open the device: {0}")]
    Device(#[from] DeviceError),
    /// The calibration that was asked for is not possible.
    #[error("calibrate on {rows} rows: {problem}")]
    Calibration {
        /// What was asked for.
        rows: u32,
        /// What is wrong with it.
        problem: String,
    },
    /// A stream cannot be named.
    #[error("name the stream: {0}")]
    Name(#[from] IdError),
    /// The CSV file is not as it should be.
    #[error("{0}")]
    Table(#[from] TableError),
}

/// Scores a file: one output row per input row, counted from 0 after the header. Its columns follow from what the model
/// decides: `row,score,threshold,anomaly`, or `row,label,confidence`, or `row,h1..hH`; where several channels are forecast,
/// `row,<channel>.h1..`. A row without an answer (the pipeline is still getting to know the stream, or the row could not be
/// read) has empty fields, and is not anomalous.
///
/// # Errors
/// If a file is not as it should be; says which, where and why.
pub fn score_file(options: &ScoreOptions) -> Result<ScoreSummary, ScoreError> {
    let mut runner = load(options)?;
    let schema = schema(runner.pipeline())?;
    let file = File::open(&options.input).map_err(|source| ScoreError::Io { path: options.input.clone(), source })?;
    let table = TableOptions { interval_ms: runner.pipeline().input.interval_ms, ..options.table.clone() };
    let mut table = Table::open(&options.input, file, &schema.channels, table)?;
    let io_error = |source| ScoreError::Io { path: options.output.clone(), source };
    let mut output: Box<dyn Write> = if options.output == Path::new("-") {
        Box::new(io::stdout().lock())
    } else {
        Box::new(io::BufWriter::new(File::create(&options.output).map_err(io_error)?))
    };
    let columns = Columns::of(&runner.pipeline().decision);
    writeln!(output, "row,{}", columns.header).map_err(io_error)?;
    let mut summary = ScoreSummary { rows: 0, answered: 0, anomalous: 0, skipped: None };
    loop {
        let (rows, values) = next_chunk(&mut table)?;
        if rows.is_empty() {
            break;
        }
        let mut readings = values.chunks_exact(schema.channels.len());
        let inputs: Vec<RunnerInput<'_>> = rows
            .iter()
            .filter_map(|time_ms| Some(RunnerInput { schema: &schema, time_ms: (*time_ms)?, values: readings.next()? }))
            .collect();
        let mut answers = runner.run(&inputs).into_iter();
        for time_ms in &rows {
            let answer = time_ms.and_then(|_| answers.next());
            let outcome = answer.map(Answer::into_outcome).and_then(Result::ok);
            summary.answered += u64::from(outcome.is_some());
            summary.anomalous += u64::from(outcome.as_ref().is_some_and(Outcome::is_anomaly));
            columns.write(&mut output, summary.rows, outcome.as_ref()).map_err(io_error)?;
            summary.rows += 1;
        }
    }
    output.flush().map_err(io_error)?;
    summary.skipped = table.skipped().map(|(rows, first)| (rows, first.clone()));
    Ok(summary)
}

fn load(options: &ScoreOptions) -> Result<Runner, ScoreError> {
    let path = &options.model;
    let wrong = |source| ScoreError::Package { path: path.clone(), source };
    let bytes = fs::read(path).map_err(|source| ScoreError::Io { path: path.clone(), source })?;
    if !options.trusted.is_empty() {
        let now = Clock::start().unix_ms();
        signature::verify(&bytes, &options.trusted).and_then(|vouched| vouched.at(now)).map_err(wrong)?;
    }
    let (mut package, _) = Package::open(&bytes, None).map_err(wrong)?;
    let clock = Clock::start();
    // The golden vectors are of the calibration that the package declares, so they come before any other.
    let chosen = package.load_on(options.device, &|| clock.monotonic_us());
    let chosen = chosen.map_err(|source| ScoreError::Load { path: path.clone(), source })?;
    let runner = chosen.runner;
    let Some(rows) = options.calibration_rows else {
        return Ok(runner);
    };
    let problem = |problem: String| ScoreError::Calibration { rows, problem };
    let pipeline = &mut package.manifest.pipeline;
    let Some(Calibration { rows: declared, .. }) = &mut pipeline.calibration else {
        // A model that needs to know nothing of the stream knows enough.
        return Ok(runner);
    };
    *declared = rows;
    package.rebuild(&chosen.device.open()?).map_err(|error| problem(error.to_string()))
}

fn schema(pipeline: &Pipeline) -> Result<StreamSchema, IdError> {
    let channels: Vec<ChannelName> = pipeline.input.names().cloned().collect();
    Ok(StreamSchema { stream: StreamId::new("file")?, channels })
}

/// The times of the next rows, none for a row that was skipped, and the values of those that were not.
fn next_chunk(table: &mut Table<File>) -> Result<(Vec<Option<i64>>, Vec<f64>), TableError> {
    let (mut rows, mut values) = (Vec::with_capacity(ROWS_AT_ONCE), Vec::new());
    while rows.len() < ROWS_AT_ONCE {
        match table.next_row(&mut values)? {
            None => break,
            Some(Row::Skipped) => rows.push(None),
            Some(Row::Reading { time_ms, .. }) => rows.push(Some(time_ms)),
        }
    }
    Ok((rows, values))
}

/// The columns of the output after the row's number.
struct Columns {
    header: String,
    empty: String,
}

impl Columns {
    fn of(decision: &Decision) -> Self {
        let (header, empty) = match decision {
            Decision::Anomaly { .. } => ("score,threshold,anomaly".to_owned(), ",,0".to_owned()),
            Decision::Classify { .. } => ("label,confidence".to_owned(), ",".to_owned()),
            Decision::Forecast { horizon, targets, .. } => {
                let steps = |prefix: &str| (1..=*horizon).map(|step| format!("{prefix}h{step}")).collect::<Vec<_>>();
                let names = match targets.as_slice() {
                    [_] => steps(""),
                    targets => targets.iter().flat_map(|target| steps(&format!("{target}."))).collect(),
                };
                (names.join(","), ",".repeat(names.len() - 1))
            }
        };
        Self { header, empty }
    }

    fn write(&self, output: &mut dyn Write, row: u64, outcome: Option<&Outcome>) -> io::Result<()> {
        match outcome {
            None => writeln!(output, "{row},{}", self.empty),
            Some(Outcome::Anomaly(Verdict { score, threshold, anomaly })) => {
                writeln!(output, "{row},{score},{threshold},{}", u8::from(*anomaly))
            }
            Some(Outcome::Label { label, confidence, .. }) => {
                // A label may hold a comma or a quote.
                let quoted = label.contains([',', '"', '\n']).then(|| format!("\"{}\"", label.replace('"', "\"\"")));
                writeln!(output, "{row},{},{confidence}", quoted.as_deref().unwrap_or(label))
            }
            Some(Outcome::Forecast { values }) => {
                write!(output, "{row}")?;
                values.iter().try_for_each(|value| write!(output, ",{value}"))?;
                writeln!(output)
            }
        }
    }
}
