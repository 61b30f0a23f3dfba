//! How often somebody may be wrong about a password: so seldom that guessing is hopeless, and without keeping others out.
//!
//! Wrong attempts are counted by where they come from and by whom they name. Both fade with time. Whoever is over the limit is turned
//! away before anything expensive is computed.

use std::collections::BTreeMap;

use shared::event::UnixMillis;

use crate::core::limits::{LOGIN_ATTEMPTS, LOGIN_ATTEMPTS_ANY_NAME, LOGIN_FADE_MS, LOGIN_SOURCES};

/// Wrong attempts that still count.
#[derive(Debug, Default)]
pub struct Throttle {
    sources: BTreeMap<Key, Bucket>,
    /// When those that faded were last taken out.
    swept_ms: UnixMillis,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Key {
    Place(String),
    /// A name, as tried from a place: a stranger must not lock the owner of a name out.
    Name(String, String),
}

#[derive(Debug, Clone, Copy)]
struct Bucket {
    wrong: f64,
    at_ms: UnixMillis,
}

impl Bucket {
    fn faded(self, now: UnixMillis) -> f64 {
        (self.wrong - (now - self.at_ms).max(0) as f64 / LOGIN_FADE_MS as f64).max(0.0)
    }
}

impl Throttle {
    /// Seconds to wait before the next attempt from a place, if it may not be made now.
    #[must_use]
    pub fn wait_s(&self, now: UnixMillis, place: &str, name: &str) -> Option<u64> {
        let limits = [
            (Key::Place(place.to_owned()), LOGIN_ATTEMPTS_ANY_NAME),
            (Key::Name(name.to_owned(), place.to_owned()), LOGIN_ATTEMPTS),
        ];
        let excess = limits
            .into_iter()
            .filter_map(|(key, limit)| Some(self.sources.get(&key)?.faded(now) - limit + 1.0))
            .fold(0.0, f64::max);
        (excess > 0.0).then(|| (excess * LOGIN_FADE_MS as f64 / 1_000.0).ceil() as u64)
    }

    /// An attempt from a place was wrong.
    pub fn wrong(&mut self, now: UnixMillis, place: &str, name: &str) {
        if self.sources.len() >= LOGIN_SOURCES && now >= self.swept_ms + LOGIN_FADE_MS {
            self.sources.retain(|_, bucket| bucket.faded(now) > 0.0);
            self.swept_ms = now;
        }
        for key in [Key::Place(place.to_owned()), Key::Name(name.to_owned(), place.to_owned())] {
            if self.sources.len() >= LOGIN_SOURCES && !self.sources.contains_key(&key) {
                // Whoever has so many addresses has that many free attempts in any case.
                self.sources.pop_last();
            }
            let bucket = self.sources.entry(key).or_insert(Bucket { wrong: 0.0, at_ms: now });
            *bucket = Bucket { wrong: bucket.faded(now) + 1.0, at_ms: now };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HERE: &str = "192.0.2.1";
    const THERE: &str = "192.0.2.2";

    #[test]
    fn guessing_is_slow_and_keeps_nobody_else_out() {
        let mut throttle = Throttle::default();
        let mut tried = 0;
        for at_ms in 0..10_000 {
            if throttle.wait_s(at_ms, HERE, "Ada").is_none() {
                throttle.wrong(at_ms, HERE, "Ada");
                tried += 1;
            }
        }
        assert_eq!(tried, LOGIN_ATTEMPTS as usize, "ten thousand attempts in ten seconds");
        assert!(throttle.wait_s(10_000, HERE, "Ada").is_some());
        assert_eq!(throttle.wait_s(10_000, THERE, "Ada"), None);
        assert_eq!(throttle.wait_s(10_000, HERE, "Bob"), None, "a colleague behind the same address");
        assert_eq!(throttle.wait_s(10_000 + LOGIN_FADE_MS, HERE, "Ada"), None, "one more, later");
    }

    #[test]
    fn one_place_cannot_try_every_name() {
        let mut throttle = Throttle::default();
        let mut tried = 0;
        for number in 0..1_000 {
            let name = format!("user-{number}");
            if throttle.wait_s(0, HERE, &name).is_none() {
                throttle.wrong(0, HERE, &name);
                tried += 1;
            }
        }
        assert_eq!(tried, LOGIN_ATTEMPTS_ANY_NAME as usize);
    }

    #[test]
    fn memory_is_bounded() {
        let mut throttle = Throttle::default();
        for number in 0..2 * LOGIN_SOURCES {
            throttle.wrong(0, &number.to_string(), "Ada");
        }
        assert!(throttle.sources.len() <= LOGIN_SOURCES);
    }
}
