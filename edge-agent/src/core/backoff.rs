//! Waiting before trying again: capped exponential with full jitter, so that a fleet does not come back in step
//! (M. Brooker, "Exponential Backoff And Jitter", 2015).

use super::Millis;

/// The waits of one connection.
#[derive(Debug, Clone)]
pub struct Backoff {
    first_ms: u64,
    longest_ms: u64,
    stable_after_ms: u64,
    attempts: u32,
    random: u64,
    stands_since: Option<Millis>,
    is_known_away: bool,
}

impl Backoff {
    /// Waits up to `first_ms` at first and `longest_ms` at last, with jitter from `seed`; up to `first_ms` again after a
    /// connection that stood for `stable_after_ms`. Who is let in and thrown out at once waits longer and longer, too.
    #[must_use]
    pub fn new(first_ms: u64, longest_ms: u64, stable_after_ms: u64, seed: u64) -> Self {
        Self {
            first_ms,
            longest_ms,
            stable_after_ms,
            attempts: 0,
            random: seed,
            stands_since: None,
            is_known_away: false,
        }
    }

    /// The connection stands.
    pub fn connected(&mut self, now: Millis) {
        self.stands_since = Some(now);
    }

    /// The connection is gone, or did not come about; true if that is news: at first, and after one that stood for long enough.
    pub fn disconnected(&mut self, now: Millis) -> bool {
        let is_stable = self.stands_since.take().is_some_and(|since| now >= since.plus(self.stable_after_ms));
        if is_stable {
            self.attempts = 0;
        }
        !std::mem::replace(&mut self.is_known_away, true) || is_stable
    }

    /// The next wait in milliseconds.
    pub fn next_ms(&mut self) -> u64 {
        let ceiling = self.first_ms.saturating_mul(1 << self.attempts.min(30)).min(self.longest_ms);
        self.attempts = self.attempts.saturating_add(1);
        self.draw() % (ceiling + 1)
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
    fn waits_grow_to_the_cap_and_spread_over_the_range() {
        let mut backoff = Backoff::new(500, 60_000, 30_000, 7);
        let waits: Vec<u64> = (0..200).map(|_| backoff.next_ms()).collect();
        assert!(waits[0] <= 500 && waits[1] <= 1_000);
        assert!(waits.iter().all(|wait| *wait <= 60_000));
        let late = &waits[20..];
        assert!(late.iter().any(|wait| *wait < 10_000) && late.iter().any(|wait| *wait > 50_000));
    }

    #[test]
    fn waits_are_short_again_after_a_connection_that_stood_and_not_after_one_that_did_not() {
        let mut backoff = Backoff::new(500, 60_000, 30_000, 7);
        let mut longest = 0;
        for attempt in 0..100 {
            backoff.connected(Millis(attempt * 60_000));
            assert_eq!(backoff.disconnected(Millis(attempt * 60_000 + 29_999)), attempt == 0, "news at first alone");
            longest = longest.max(backoff.next_ms());
        }
        assert!(longest > 50_000, "{longest}");
        backoff.connected(Millis(7_000_000));
        assert!(backoff.disconnected(Millis(7_030_000)));
        assert!(!backoff.disconnected(Millis(9_000_000)), "that it is away is known");
        assert!(backoff.next_ms() <= 500);
    }

    #[test]
    fn two_agents_wait_differently_and_one_seed_waits_alike() {
        let waits = |seed| {
            let mut backoff = Backoff::new(500, 60_000, 30_000, seed);
            (0..10).map(|_| backoff.next_ms()).collect::<Vec<_>>()
        };
        assert_eq!(waits(1), waits(1));
        assert_ne!(waits(1), waits(2));
    }
}
