//! Waiting before trying again: capped exponential with full jitter, so that a fleet does not come back in step
//! (M. Brooker, "Exponential Backoff And Jitter", 2015).

/// The waits of one connection.
#[derive(Debug, Clone)]
pub struct Backoff {
    first_ms: u64,
    longest_ms: u64,
    attempts: u32,
    random: u64,
}

impl Backoff {
    /// Waits up to `first_ms` at first and `longest_ms` at last, with jitter from `seed`.
    #[must_use]
    pub fn new(first_ms: u64, longest_ms: u64, seed: u64) -> Self {
        Self { first_ms, longest_ms, attempts: 0, random: seed }
    }

    /// The next wait in milliseconds.
    pub fn next_ms(&mut self) -> u64 {
        let ceiling = self.first_ms.saturating_mul(1 << self.attempts.min(30)).min(self.longest_ms);
        self.attempts = self.attempts.saturating_add(1);
        self.draw() % (ceiling + 1)
    }

    /// Makes the next wait short again.
    pub fn reset(&mut self) {
        self.attempts = 0;
    }

    /// splitmix64 (G. Steele et al., "Fast splittable pseudorandom number generators", 2014).
    fn draw(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_the_cap_spread_over_the_range_and_start_over_after_a_reset() {
        let mut backoff = Backoff::new(500, 60_000, 7);
        let waits: Vec<u64> = (0..200).map(|_| backoff.next_ms()).collect();
        assert!(waits[0] <= 500 && waits[1] <= 1_000);
        assert!(waits.iter().all(|wait| *wait <= 60_000));
        let late = &waits[20..];
        assert!(late.iter().any(|wait| *wait < 10_000) && late.iter().any(|wait| *wait > 50_000));
        backoff.reset();
        assert!(backoff.next_ms() <= 500);
    }

    #[test]
    fn two_agents_wait_differently_and_one_seed_waits_alike() {
        let waits = |seed| {
            let mut backoff = Backoff::new(500, 60_000, seed);
            (0..10).map(|_| backoff.next_ms()).collect::<Vec<_>>()
        };
        assert_eq!(waits(1), waits(1));
        assert_ne!(waits(1), waits(2));
    }
}
