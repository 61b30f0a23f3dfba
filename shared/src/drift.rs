//! Decayed histograms and the distance between them: how far what a stream shows now is from what its model was
//! trained on.

use serde::{Deserialize, Serialize};

use crate::ids::ChannelName;

/// Inner bins of a reference, each holding an equal share of the training data. Two more lie outside its range.
pub const INNER_BINS: usize = 10;

/// What a model's training data looked like, one histogram per channel, and when to call a stream different.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DriftReference {
    /// One entry per input channel of the pipeline, in its order.
    pub channels: Vec<ChannelReference>,
    /// Readings after which a reading's weight in the live histogram has halved.
    pub half_life: f64,
}

/// The distribution of one channel in the training data.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ChannelReference {
    /// The channel.
    pub name: ChannelName,
    /// Ascending bin edges; values below the first and above the last have bins of their own.
    pub edges: Vec<f64>,
    /// The share of the training data in each of the `edges.len() + 1` bins.
    pub shares: Vec<f64>,
    /// A Jensen-Shannon divergence above this (in bits, of at most 1) was never seen on the training data itself.
    pub threshold: f64,
}

impl ChannelReference {
    /// Bins `values` by their quantiles. The threshold is left at 1, which nothing exceeds.
    #[must_use]
    pub fn fit(name: ChannelName, values: &[f64]) -> Self {
        let mut sorted: Vec<f64> = values.iter().copied().filter(|value| value.is_finite()).collect();
        sorted.sort_by(f64::total_cmp);
        let mut edges: Vec<f64> = (0..=INNER_BINS)
            .filter_map(|bin| sorted.get(bin * sorted.len().saturating_sub(1) / INNER_BINS).copied())
            .collect();
        edges.dedup();
        let mut reference = Self { name, shares: vec![0.0; edges.len() + 1], edges, threshold: 1.0 };
        for value in &sorted {
            let bin = reference.bin(*value);
            reference.shares[bin] += 1.0 / sorted.len() as f64;
        }
        reference
    }

    /// The bin of `value`. The last edge belongs to the bin below it, so that the training data lies inside.
    fn bin(&self, value: f64) -> usize {
        if self.edges.last() == Some(&value) {
            return self.edges.len() - 1;
        }
        self.edges.partition_point(|edge| *edge <= value)
    }
}

/// A histogram over a reference's bins in which old values fade.
#[derive(Debug, Clone, PartialEq)]
pub struct DecayedHistogram {
    weights: Vec<f64>,
    keep: f64,
}

impl DecayedHistogram {
    /// An empty histogram for `reference`.
    #[must_use]
    pub fn new(reference: &ChannelReference, half_life: f64) -> Self {
        Self { weights: vec![0.0; reference.shares.len()], keep: 0.5_f64.powf(1.0 / half_life) }
    }

    /// Adds one value. Values that are no number are left out.
    pub fn add(&mut self, reference: &ChannelReference, value: f64) {
        if value.is_nan() {
            return;
        }
        for weight in &mut self.weights {
            *weight *= self.keep;
        }
        self.weights[reference.bin(value)] += 1.0;
    }

    /// The Jensen-Shannon divergence from the reference in bits, from 0 (the same) to 1 (nothing in common);
    /// J. Lin, "Divergence measures based on the Shannon entropy", 1991, eq. 3.1.
    #[must_use]
    pub fn divergence(&self, reference: &ChannelReference) -> f64 {
        let total: f64 = self.weights.iter().sum();
        if total <= 0.0 {
            return 0.0;
        }
        let half_relative_entropy = |p: f64, m: f64| if p > 0.0 { 0.5 * p * (p / m).log2() } else { 0.0 };
        self.weights
            .iter()
            .zip(&reference.shares)
            .map(|(weight, q)| {
                let p = weight / total;
                let m = 0.5 * (p + q);
                half_relative_entropy(p, m) + half_relative_entropy(*q, m)
            })
            .sum::<f64>()
            .clamp(0.0, 1.0)
    }

    /// The shares of the bins now, for people to look at. All zero before the first value.
    #[must_use]
    pub fn shares(&self) -> Vec<f64> {
        let total: f64 = self.weights.iter().sum();
        self.weights.iter().map(|weight| if total > 0.0 { weight / total } else { 0.0 }).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reference() -> ChannelReference {
        let values: Vec<f64> = (0..1000).map(|i| f64::from(i) / 10.0).collect();
        ChannelReference::fit(ChannelName::new("flow").expect("valid"), &values)
    }

    #[test]
    fn the_reference_spreads_the_training_data_evenly_and_leaves_none_outside() {
        let reference = reference();
        assert_eq!(reference.edges.len(), INNER_BINS + 1);
        assert!(reference.shares[0].abs() < 1e-12 && reference.shares[INNER_BINS + 1].abs() < 1e-12);
        assert!(reference.shares[1..=INNER_BINS].iter().all(|share| (share - 0.1).abs() < 0.01));
    }

    #[test]
    fn the_same_distribution_is_near_and_another_one_is_one_bit_away() {
        let reference = reference();
        let mut same = DecayedHistogram::new(&reference, 200.0);
        let mut other = same.clone();
        for i in 0..2000 {
            same.add(&reference, f64::from((i * 37) % 1000) / 10.0);
            other.add(&reference, 500.0);
        }
        assert!(same.divergence(&reference) < 0.01, "{}", same.divergence(&reference));
        assert!((other.divergence(&reference) - 1.0).abs() < 1e-9);
    }

    #[test]
    fn old_values_fade_with_the_half_life() {
        let reference = reference();
        let mut histogram = DecayedHistogram::new(&reference, 10.0);
        for _ in 0..200 {
            histogram.add(&reference, 500.0);
        }
        for _ in 0..10 {
            histogram.add(&reference, 5.0);
        }
        let shares = histogram.shares();
        assert!((shares[INNER_BINS + 1] - 0.5).abs() < 0.01, "{shares:?}");
    }

    #[test]
    fn a_constant_channel_has_a_reference_too() {
        let reference = ChannelReference::fit(ChannelName::new("c").expect("valid"), &[5.0; 100]);
        let mut histogram = DecayedHistogram::new(&reference, 10.0);
        histogram.add(&reference, 5.0);
        assert!(histogram.divergence(&reference) < 1e-9);
        histogram.add(&reference, f64::NAN);
        histogram.add(&reference, 6.0);
        assert!(histogram.divergence(&reference) > 0.1);
    }
}
