//! Drift in recordings: each file against its own first readings, for people who want to see what would have been raised.

use std::path::{Path, PathBuf};

use serde::Serialize;
use shared::ids::ChannelName;

use crate::core::drift::own::{OwnDrift, OwnRules};
use crate::files::{self, FilesError};

/// What was found in one file.
#[derive(Debug, Serialize)]
pub struct FileDrift {
    /// The file.
    pub file: PathBuf,
    /// Its rows.
    pub rows: usize,
    /// Channels that wander by themselves, and are left out.
    pub left_out: Vec<ChannelName>,
    /// Where the first labelled row is, if there are labels.
    pub fault_row: Option<usize>,
    /// The row at which the stream was first called drifted.
    pub drift_row: Option<usize>,
    /// Whether that was before the first labelled row.
    pub false_alarm: Option<bool>,
    /// Whether it was called drifted at or after the first labelled row.
    pub detected: Option<bool>,
    /// Rows from the first labelled one to the first drifted one.
    pub delay_rows: Option<usize>,
    /// The largest mean divergence before the fault (or in all), in bits.
    pub largest_before: f64,
    /// The largest mean divergence from the fault on.
    pub largest_after: Option<f64>,
}

/// Looks for drift in the files of a folder. A row counts as labelled if `label` is a number above 0.
///
/// # Errors
/// If a file cannot be read.
pub fn drift_in_files(
    path: &Path,
    channels: &[ChannelName],
    label: Option<&str>,
    rules: OwnRules,
) -> Result<Vec<FileDrift>, FilesError> {
    files::tables(path)?.into_iter().map(|file| drift_in_file(file, channels, label, rules)).collect()
}

fn drift_in_file(
    file: PathBuf,
    channels: &[ChannelName],
    label: Option<&str>,
    rules: OwnRules,
) -> Result<FileDrift, FilesError> {
    let (values, labelled) = files::read_channels(&file, channels, label)?;
    let (width, fault_row) = (channels.len(), labelled.iter().position(|labelled| *labelled));
    let reference = &values[..(rules.reference_rows * width).min(values.len())];
    let (mut drift, left_out) = OwnDrift::new(rules, channels, reference);
    let mut found = FileDrift {
        rows: values.len() / width.max(1),
        file,
        left_out,
        fault_row,
        drift_row: None,
        false_alarm: fault_row.map(|_| false),
        detected: fault_row.map(|_| false),
        delay_rows: None,
        largest_before: 0.0,
        largest_after: fault_row.map(|_| 0.0),
    };
    for (row, values) in values.chunks(width).enumerate().skip(rules.reference_rows) {
        let (divergence, drifted) = drift.add(values);
        let is_before = fault_row.is_none_or(|fault| row < fault);
        if is_before {
            found.largest_before = found.largest_before.max(divergence);
        } else {
            found.largest_after = found.largest_after.map(|largest| largest.max(divergence));
        }
        if drifted {
            found.drift_row.get_or_insert(row);
            match fault_row {
                Some(_) if is_before => found.false_alarm = Some(true),
                Some(fault) => {
                    found.detected = Some(true);
                    found.delay_rows.get_or_insert(row - fault);
                }
                None => {}
            }
        }
    }
    Ok(found)
}
