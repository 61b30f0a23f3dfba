//! When a box asks for its next certificate: at half of the life of the one it has, so that a hub that is away for days is no
//! trouble.

use shared::event::UnixMillis;

/// Up to this part of a certificate's life is waited longer: a fleet that was flashed on one day does not come back on one.
const SPREAD: f64 = 0.1;
/// Milliseconds between two tries, at least.
const LEAST_WAIT_MS: i64 = 1_000;
/// The same, at most: so long a box waits after somebody approved that it comes back.
const LONGEST_WAIT_MS: i64 = 300_000;
/// A try that failed is repeated after this part of the life.
const RETRY_PART: i64 = 50;

/// When to ask.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Renewal {
    issued_ms: UnixMillis,
    not_after_ms: UnixMillis,
    /// From 0 to 1, different for each box.
    spread: f64,
    not_until_ms: UnixMillis,
}

impl Renewal {
    /// Of a certificate that was issued and holds until then. `spread` is random, from 0 to 1.
    #[must_use]
    pub fn new(issued_ms: UnixMillis, not_after_ms: UnixMillis, spread: f64) -> Self {
        Self { issued_ms, not_after_ms, spread, not_until_ms: UnixMillis::MIN }
    }

    /// Milliseconds until it is time.
    #[must_use]
    pub fn due_in_ms(&self, now: UnixMillis) -> u64 {
        let waited = 0.5 + SPREAD * self.spread;
        // A life of years in milliseconds is exact in a float.
        let due = self.issued_ms.saturating_add((self.life_ms() as f64 * waited) as i64);
        u64::try_from(due.max(self.not_until_ms).saturating_sub(now)).unwrap_or(0)
    }

    /// It did not work.
    pub fn failed(&mut self, now: UnixMillis) {
        let wait_ms = (self.life_ms() / RETRY_PART).clamp(LEAST_WAIT_MS, LONGEST_WAIT_MS);
        self.not_until_ms = now.saturating_add(wait_ms);
    }

    fn life_ms(&self) -> i64 {
        self.not_after_ms.saturating_sub(self.issued_ms).max(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY_MS: i64 = 24 * 3_600_000;

    #[test]
    fn a_week_is_renewed_in_its_middle_and_boxes_do_not_come_together() {
        let [first, last] = [0.0, 1.0].map(|spread| Renewal::new(0, 7 * DAY_MS, spread).due_in_ms(0));
        assert_eq!(first, 7 * DAY_MS as u64 / 2);
        assert!(last > first && last < 5 * DAY_MS as u64, "{last}");
    }

    #[test]
    fn what_failed_is_tried_again_later_and_not_at_once() {
        let mut renewal = Renewal::new(0, 7 * DAY_MS, 0.0);
        let now = 6 * DAY_MS;
        assert_eq!(renewal.due_in_ms(now), 0);
        renewal.failed(now);
        assert_eq!(renewal.due_in_ms(now), 300_000);
        let mut short = Renewal::new(0, 20_000, 0.0);
        short.failed(19_000);
        assert_eq!(short.due_in_ms(19_000), 1_000);
    }

    #[test]
    fn one_that_expired_years_ago_is_due_and_a_strange_one_does_no_harm() {
        assert_eq!(Renewal::new(0, DAY_MS, 0.5).due_in_ms(9_999 * DAY_MS), 0);
        assert_eq!(Renewal::new(10, 5, 1.0).due_in_ms(0), 10);
        assert!(Renewal::new(i64::MIN, i64::MAX, 1.0).due_in_ms(0) < u64::MAX);
    }
}
