//! Scenarios: recordings of one stream, in the order in which the demo replays them.
//!
//! A scenario comes from [`crate::plant::scenario`], which needs no file, or from [`Scenario::load`]: a TOML file that
//! names delimited text files.
//!
//! ```toml
//! name = "operating-point"
//! description = "what it shows"
//! root = ".."                          # where `files` are, relative to this file
//! delimiter = ";"                      # one character
//! time_column = "datetime"
//! time_format = "%Y-%m-%d %H:%M:%S"    # strftime; a time without an offset is UTC
//! channels = ["Current", "Pressure"]   # columns, in the order of a reading's values
//! label_column = "anomaly"             # optional, needed to evaluate; 0 is normal, any other number anomalous
//! stream = "skab/loop"
//!
//! [[phase]]                            # in the order baseline, live, evaluate
//! name = "february"
//! files = ["anomaly-free.csv"]
//! use = "baseline"
//! calibration_rows = -1                # known-normal rows at the head of each file: -1 is all, 0 is none
//! ```
//!
//! Everything is read and checked before the first row is replayed, because a demo that stops in its tenth minute over
//! a misspelt column has wasted ten minutes. Problems are told together and by place.

mod document;
mod plan;
mod problems;
mod table;
mod times;

#[cfg(test)]
mod tests;

use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use shared::ids::{ChannelName, StreamId};

pub use problems::{MAX_PROBLEMS, Problem, Problems};

use document::Document;
use plan::{Plan, PlannedFile, PlannedPhase};
use table::{Budget, Label};

/// Bytes of a scenario file: thousands of file names fit; more is a data file given by mistake.
pub const MAX_SCENARIO_BYTES: u64 = 1024 * 1024;
/// Bytes of one data file: it is read whole, so this bounds what reading adds to the rows.
pub const MAX_FILE_BYTES: u64 = 256 * 1024 * 1024;
/// Rows of all recordings together: eleven days at 1 Hz, and about 100 MiB before the values.
pub const MAX_ROWS: usize = 1_000_000;
/// Values of all rows together: 128 MiB of numbers.
pub const MAX_VALUES: usize = 16 * 1024 * 1024;

/// One stream's recordings, in phases.
#[derive(Debug, Clone, PartialEq)]
pub struct Scenario {
    /// A short name to show.
    pub name: String,
    /// What it shows, in a sentence or two.
    pub description: String,
    /// The stream every row belongs to.
    pub stream: StreamId,
    /// The channels, in the order of [`Row::values`].
    pub channels: Vec<ChannelName>,
    /// The phases, in the order baseline, live, evaluate.
    pub phases: Vec<Phase>,
}

/// Recordings that serve one purpose.
#[derive(Debug, Clone, PartialEq)]
pub struct Phase {
    /// A short name to show.
    pub name: String,
    /// What they are for.
    pub purpose: Purpose,
    /// The recordings, in the order of replay.
    pub recordings: Vec<Recording>,
}

/// What a phase is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Purpose {
    /// Version 1 is trained on it.
    Baseline,
    /// It is streamed, and the hub may retrain on its known-normal rows.
    Live,
    /// It is streamed and scored.
    Evaluate,
}

impl Purpose {
    /// Every purpose, in the order in which phases must stand.
    pub const ALL: [Self; 3] = [Self::Baseline, Self::Live, Self::Evaluate];

    /// The word for it in a scenario file.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Baseline => "baseline",
            Self::Live => "live",
            Self::Evaluate => "evaluate",
        }
    }
}

impl fmt::Display for Purpose {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One uninterrupted measurement.
#[derive(Debug, Clone, PartialEq)]
pub struct Recording {
    /// A short name to show: the file's name as the scenario writes it.
    pub name: String,
    /// Its rows, in the order of replay; at least one.
    pub rows: Vec<Row>,
}

/// One reading to be, and what is known of it.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    /// When it was measured, milliseconds since the Unix epoch, UTC.
    pub time_ms: i64,
    /// One finite number per channel.
    pub values: Vec<f64>,
    /// An operator vouches that the machine ran normally.
    pub known_normal: bool,
    /// Whether the row is anomalous, where that is known. For scoring only: it never leaves the demo.
    pub label: Option<bool>,
}

/// Why a scenario cannot be played.
#[derive(Debug, thiserror::Error)]
pub enum ScenarioError {
    /// The scenario file cannot be read.
    #[error("read scenario file {}: {source}", path.display())]
    Read {
        /// The scenario file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// The scenario file is larger than [`MAX_SCENARIO_BYTES`].
    #[error("load scenario {}: it has {bytes} bytes, at most {MAX_SCENARIO_BYTES} are allowed", path.display())]
    TooLarge {
        /// The scenario file.
        path: PathBuf,
        /// Its size.
        bytes: u64,
    },
    /// The scenario or its data have mistakes.
    #[error("load scenario {}: {problems}", path.display())]
    Invalid {
        /// The scenario file.
        path: PathBuf,
        /// The mistakes, each with its place.
        problems: Problems,
    },
}

impl Scenario {
    /// Reads a scenario file and all its data files, and checks all of it.
    ///
    /// # Errors
    /// If the file cannot be read, or with up to [`MAX_PROBLEMS`] mistakes in it and in its data, each as
    /// `file:line:column: what is wrong; what would be right` (`file:line: ...` in a data file).
    pub fn load(path: &Path) -> Result<Self, ScenarioError> {
        let bytes = read_scenario_file(path)?;
        let mut problems = Problems::default();
        let plan = match std::str::from_utf8(&bytes) {
            Ok(text) => plan::parse(&Document { path, text }, &mut problems),
            Err(error) => {
                problems.push(Problem::not_utf8(path, &bytes[..error.valid_up_to()]));
                None
            }
        };
        match plan.map(|plan| read_recordings(plan, &mut problems)) {
            Some(scenario) if problems.is_empty() => Ok(scenario),
            Some(_) | None => Err(ScenarioError::Invalid { path: path.to_owned(), problems }),
        }
    }
}

fn read_scenario_file(path: &Path) -> Result<Vec<u8>, ScenarioError> {
    let unreadable = |source| ScenarioError::Read { path: path.to_owned(), source };
    let bytes = fs::metadata(path).map_err(unreadable)?.len();
    if bytes > MAX_SCENARIO_BYTES {
        return Err(ScenarioError::TooLarge { path: path.to_owned(), bytes });
    }
    fs::read(path).map_err(unreadable)
}

/// The scenario the plan describes; it is whole only if no problem was found.
fn read_recordings(plan: Plan, problems: &mut Problems) -> Scenario {
    let mut budget = Budget::new(MAX_ROWS, MAX_VALUES);
    let mut phases = Vec::with_capacity(plan.phases.len());
    for planned in &plan.phases {
        let recordings = planned
            .files
            .iter()
            .filter_map(|file| read_recording(&plan, planned, file, &mut budget, problems))
            .collect();
        phases.push(Phase { name: planned.name.clone(), purpose: planned.purpose, recordings });
    }
    let Plan { name, description, stream, layout, .. } = plan;
    Scenario { name, description, stream, channels: layout.channels, phases }
}

fn read_recording(
    plan: &Plan,
    phase: &PlannedPhase,
    file: &PlannedFile,
    budget: &mut Budget,
    problems: &mut Problems,
) -> Option<Recording> {
    if problems.is_overfull() || budget.is_spent() {
        return None;
    }
    if !file.path.is_file() {
        let what = format!(
            "phase `{}` names `{}`, but there is no file {}; write a path relative to root `{}`",
            phase.name,
            file.name,
            file.path.display(),
            plan.root
        );
        problems.push(file.problem(what));
        return None;
    }
    let label = match phase.purpose {
        Purpose::Evaluate => Label::Required,
        Purpose::Baseline | Purpose::Live => Label::WherePresent,
    };
    let mut rows = table::read(&file.path, &plan.layout, label, budget, problems)?;
    let known_normal = phase.calibration.rows_of(rows.len());
    rows.iter_mut().take(known_normal).for_each(|row| row.known_normal = true);
    Some(Recording { name: file.name.clone(), rows })
}
