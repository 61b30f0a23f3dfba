//! What the hub has, read from its sample store with no code of the hub's.

use std::path::{Path, PathBuf};

use anyhow::Context;
use arrow_array::cast::AsArray;
use arrow_array::types::{Float64Type, UInt64Type};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

use super::publisher::CHANNEL;

/// What was found.
#[derive(Debug, Clone, Default, serde::Serialize)]
pub struct Verdict {
    /// Readings that are not there.
    pub lost: u64,
    /// Readings that are there more than once, each time too many counted.
    pub duplicates: u64,
    /// Places where sequences do not follow each other.
    pub sequence_gaps: u64,
}

/// Compares the sample store of a stopped hub with the numbers `0..events`.
///
/// # Errors
/// If a file cannot be read.
pub fn verify(hub_directory: &Path, events: u64) -> anyhow::Result<Verdict> {
    let mut files = Vec::new();
    find(&hub_directory.join("samples"), &mut files)?;
    let mut times_seen = vec![0_u32; events as usize];
    let mut sequences: Vec<(u64, u64)> = Vec::with_capacity(events as usize);
    let mut unknown = 0;
    for file in files {
        let reader = ParquetRecordBatchReaderBuilder::try_new(std::fs::File::open(&file)?)?.build()?;
        for batch in reader {
            let batch = batch?;
            let column = |name: &str| {
                batch.column_by_name(name).with_context(|| format!("{} has no column {name}", file.display()))
            };
            let numbers = column(CHANNEL)?.as_primitive::<Float64Type>();
            let epochs = column("epoch")?.as_primitive::<UInt64Type>();
            let of = column("sequence")?.as_primitive::<UInt64Type>();
            for row in 0..batch.num_rows() {
                sequences.push((epochs.value(row), of.value(row)));
                match times_seen.get_mut(numbers.value(row) as usize) {
                    Some(seen) => *seen += 1,
                    None => unknown += 1,
                }
            }
        }
    }
    sequences.sort_unstable();
    let follows = |pair: &[(u64, u64)]| pair[0].0 == pair[1].0 && pair[0].1 + 1 == pair[1].1;
    Ok(Verdict {
        lost: times_seen.iter().filter(|seen| **seen == 0).count() as u64,
        duplicates: unknown + times_seen.iter().map(|seen| u64::from(seen.saturating_sub(1))).sum::<u64>(),
        sequence_gaps: sequences.windows(2).filter(|pair| !follows(pair)).count() as u64,
    })
}

fn find(folder: &Path, files: &mut Vec<PathBuf>) -> anyhow::Result<()> {
    for entry in std::fs::read_dir(folder).with_context(|| format!("read {}", folder.display()))? {
        let path = entry?.path();
        if path.is_dir() {
            find(&path, files)?;
        } else if path.extension().is_some_and(|extension| extension == "parquet") {
            files.push(path);
        }
    }
    Ok(())
}
