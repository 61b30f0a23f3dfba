//! Seeded randomness.

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

/// Random numbers that depend on the seed alone.
#[derive(Debug)]
pub(super) struct Noise(StdRng);

impl Noise {
    pub(super) fn new(seed: u64) -> Self {
        Self(StdRng::seed_from_u64(seed))
    }

    /// A seed for an independent generator.
    pub(super) fn seed(&mut self) -> u64 {
        self.0.random()
    }

    /// A number between `low` and `high`, all equally likely.
    pub(super) fn between(&mut self, low: f64, high: f64) -> f64 {
        low + (high - low) * self.0.random::<f64>()
    }

    /// A whole number from `low` to `high`, both possible.
    pub(super) fn whole(&mut self, low: usize, high: usize) -> usize {
        self.0.random_range(low..=high)
    }

    /// The normal distribution of mean 0 and deviation 1, by Box and Muller (1958).
    pub(super) fn gaussian(&mut self) -> f64 {
        // 1 - u is never 0, so its logarithm is finite.
        let radius = (-2.0 * (1.0 - self.0.random::<f64>()).ln()).sqrt();
        radius * (std::f64::consts::TAU * self.0.random::<f64>()).cos()
    }

    /// `count` numbers between `low` and `high`, one from each of `count` equal parts, in random order: a few draws that
    /// are sure to cover the range.
    pub(super) fn spread(&mut self, count: usize, low: f64, high: f64) -> Vec<f64> {
        let part = (high - low) / count as f64;
        let mut numbers: Vec<_> =
            (0..count).map(|index| low + part * (index as f64 + self.0.random::<f64>())).collect();
        for last in (1..count).rev() {
            numbers.swap(last, self.whole(0, last));
        }
        numbers
    }
}

/// A value that strays around 0 and comes back: an Ornstein-Uhlenbeck process (1930).
#[derive(Debug)]
pub(super) struct Wander {
    value: f64,
    deviation: f64,
    memory_s: f64,
}

impl Wander {
    /// It strays by `deviation` (one standard deviation) and forgets within `memory_s` seconds.
    pub(super) fn new(deviation: f64, memory_s: f64) -> Self {
        Self { value: 0.0, deviation, memory_s }
    }

    /// The value `step_s` seconds later.
    pub(super) fn step(&mut self, step_s: f64, noise: &mut Noise) -> f64 {
        let kept = (-step_s / self.memory_s).exp();
        self.value = kept * self.value + self.deviation * (1.0 - kept * kept).sqrt() * noise.gaussian();
        self.value
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mean_and_deviation(values: &[f64]) -> (f64, f64) {
        let mean = values.iter().sum::<f64>() / values.len() as f64;
        let variance = values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / values.len() as f64;
        (mean, variance.sqrt())
    }

    #[test]
    fn gaussian_numbers_have_mean_0_and_deviation_1() {
        let mut noise = Noise::new(7);
        let values: Vec<_> = (0..20_000).map(|_| noise.gaussian()).collect();
        let (mean, deviation) = mean_and_deviation(&values);
        assert!(mean.abs() < 0.03 && (deviation - 1.0).abs() < 0.03, "{mean} {deviation}");
    }

    #[test]
    fn a_wander_strays_by_its_deviation_and_moves_slowly() {
        let (mut noise, mut wander) = (Noise::new(7), Wander::new(2.0, 20.0));
        let values: Vec<_> = (0..40_000).map(|_| wander.step(1.0, &mut noise)).collect();
        let steps: Vec<_> = values.windows(2).map(|pair| pair[1] - pair[0]).collect();
        assert!((mean_and_deviation(&values).1 - 2.0).abs() < 0.2);
        assert!(mean_and_deviation(&steps).1 < 0.7);
    }

    #[test]
    fn a_spread_has_one_number_in_each_part() {
        let mut numbers = Noise::new(7).spread(8, 10.0, 18.0);
        numbers.sort_by(f64::total_cmp);
        assert!(numbers.iter().enumerate().all(|(index, number)| number.floor() as usize == 10 + index), "{numbers:?}");
    }
}
