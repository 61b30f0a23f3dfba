//! Drift of a stream from its own first readings, where no model says what is normal: the mean over channels of how far each
//! has moved.
//!
//! The mean tells machines from noise: a fault or another operating point moves several channels a little, and what one
//! channel does by chance the others do not. Channels that wander by themselves, such as temperatures, say nothing and are
//! left out: where the means of ten blocks of the reference spread more than the readings within a block.

use shared::drift::{ChannelReference, DecayedHistogram};
use shared::ids::ChannelName;
use shared::pipeline::statistics::mean_and_deviation;

/// Blocks that a reference is cut into to find channels that wander.
const BLOCKS: usize = 10;

/// How drift is judged.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct OwnRules {
    /// Readings that make the reference.
    pub reference_rows: usize,
    /// Readings after which a reading's weight has halved.
    pub half_life: f64,
    /// The mean divergence in bits above which a stream has drifted.
    pub threshold: f64,
    /// Readings on end above it.
    pub rows: u32,
}

impl Default for OwnRules {
    /// Measured on sixteen recordings of a water loop, whose faults come after 520 readings: the largest mean divergence
    /// for 40 readings on end was 0.06 before a fault, and at least 0.10 after it began.
    fn default() -> Self {
        Self { reference_rows: 400, half_life: 80.0, threshold: 0.08, rows: 40 }
    }
}

/// A stream that is watched.
#[derive(Debug, Clone)]
pub struct OwnDrift {
    rules: OwnRules,
    channels: Vec<Channel>,
    above: u32,
}

#[derive(Debug, Clone)]
struct Channel {
    column: usize,
    reference: ChannelReference,
    histogram: DecayedHistogram,
}

impl OwnDrift {
    /// Watches a stream whose first readings these are, one row after another. The second value names the channels that
    /// are left out.
    #[must_use]
    pub fn new(rules: OwnRules, names: &[ChannelName], reference: &[f64]) -> (Self, Vec<ChannelName>) {
        let (mut channels, mut left_out) = (Vec::new(), Vec::new());
        for (column, name) in names.iter().enumerate() {
            let values: Vec<f64> = reference.iter().skip(column).step_by(names.len()).copied().collect();
            if wanders(&values) {
                left_out.push(name.clone());
                continue;
            }
            let reference = ChannelReference::fit(name.clone(), &values);
            let mut histogram = DecayedHistogram::new(&reference, rules.half_life);
            values.iter().for_each(|value| histogram.add(&reference, *value));
            channels.push(Channel { column, reference, histogram });
        }
        (Self { rules, channels, above: 0 }, left_out)
    }

    /// Takes a reading; gives the mean divergence in bits, and whether the stream has drifted now.
    pub fn add(&mut self, values: &[f64]) -> (f64, bool) {
        let mut sum = 0.0;
        for Channel { column, reference, histogram } in &mut self.channels {
            histogram.add(reference, values[*column]);
            sum += histogram.divergence(reference);
        }
        let mean = sum / self.channels.len().max(1) as f64;
        self.above = if mean > self.rules.threshold { self.above + 1 } else { 0 };
        (mean, self.above >= self.rules.rows)
    }
}

fn wanders(values: &[f64]) -> bool {
    let length = (values.len() / BLOCKS).max(1);
    let blocks: Vec<(f64, f64)> =
        values.chunks_exact(length).map(|block| mean_and_deviation(block.iter().copied())).collect();
    let between = mean_and_deviation(blocks.iter().map(|(mean, _)| *mean)).1;
    let within = blocks.iter().map(|(_, deviation)| deviation).sum::<f64>() / blocks.len().max(1) as f64;
    between > within
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(count: usize) -> Vec<ChannelName> {
        (0..count).map(|index| ChannelName::new(&format!("c{index}")).expect("valid")).collect()
    }

    /// Noise from 0 to 1 that repeats only after 997 rows.
    fn noise(row: usize, column: usize) -> f64 {
        ((row * 131 + column * 37) % 997) as f64 / 997.0
    }

    fn rows(range: std::ops::Range<usize>, shift: [f64; 3]) -> Vec<f64> {
        range.flat_map(|row| (0..3).map(move |column| noise(row, column) + shift[column])).collect()
    }

    #[test]
    fn a_machine_that_goes_on_as_before_has_not_drifted_and_one_that_moved_has() {
        let (mut drift, left_out) = OwnDrift::new(OwnRules::default(), &names(3), &rows(0..400, [0.0; 3]));
        assert!(left_out.is_empty());
        assert!(rows(400..1_400, [0.0; 3]).chunks(3).all(|row| !drift.add(row).1));
        let found = rows(1_400..1_800, [0.4, 0.4, 0.0]).chunks(3).position(|row| drift.add(row).1);
        assert!(found.is_some_and(|rows| rows < 120), "{found:?}");
    }

    #[test]
    fn channels_that_wander_are_left_out() {
        let mut reference = rows(0..400, [0.0; 3]);
        reference.iter_mut().skip(1).step_by(3).enumerate().for_each(|(row, value)| *value += row as f64 * 0.05);
        let (mut drift, left_out) = OwnDrift::new(OwnRules::default(), &names(3), &reference);
        assert_eq!(left_out, [names(3)[1].clone()]);
        assert!(rows(400..1_400, [0.0, 50.0, 0.0]).chunks(3).all(|row| !drift.add(row).1));
    }
}
