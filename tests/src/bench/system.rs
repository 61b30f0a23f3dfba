//! What the kernel counts of a process.

use std::fs;

use anyhow::Context;

/// Memory of a process in KiB.
#[derive(Debug, Clone, Copy)]
pub struct Memory {
    /// Resident now.
    pub resident_kib: u64,
    /// The most that ever was.
    pub peak_kib: u64,
}

/// Memory of process `id`.
///
/// # Errors
/// If it does not run, or this is not Linux.
pub fn memory(id: u32) -> anyhow::Result<Memory> {
    let status = read(id, "status")?;
    Ok(Memory { resident_kib: number(&status, "VmRSS:")?, peak_kib: number(&status, "VmHWM:")? })
}

/// Bytes that process `id` has caused to be written to disks.
///
/// # Errors
/// If it does not run, or this is not Linux.
pub fn written_bytes(id: u32) -> anyhow::Result<u64> {
    number(&read(id, "io")?, "write_bytes:")
}

fn read(id: u32, file: &str) -> anyhow::Result<String> {
    let path = format!("/proc/{id}/{file}");
    fs::read_to_string(&path).with_context(|| format!("read {path}"))
}

fn number(text: &str, name: &str) -> anyhow::Result<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    let first = line.and_then(|rest| rest.split_whitespace().next());
    first.and_then(|number| number.parse().ok()).with_context(|| format!("find {name}"))
}

/// The median; of an even number the lower one. NaN of none.
#[must_use]
pub fn median(values: &[f64]) -> f64 {
    percentile(values, 0.5)
}

/// The value that the share `of` of all does not exceed (nearest rank). NaN of none.
#[must_use]
pub fn percentile(values: &[f64], of: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let rank = (of * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.saturating_sub(1)).copied().unwrap_or(f64::NAN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_values_that_were_measured() {
        let values: Vec<f64> = (1..=100).rev().map(f64::from).collect();
        assert_eq!((percentile(&values, 0.99), median(&values), percentile(&values, 1.0)), (99.0, 50.0, 100.0));
        assert!(median(&[]).is_nan());
    }

    #[test]
    fn the_kernel_knows_this_process() {
        let own = memory(std::process::id()).expect("Linux");
        assert!(own.peak_kib >= own.resident_kib && own.resident_kib > 100);
    }
}
