//! What a drift comes from: the world changed, one sensor is sick, or somebody changed a unit.
//!
//! Machines tie their channels together: a pump at another speed moves flow, pressure and current. So one channel that
//! leaves its training data alone, on a stream that drifts alone, is a sensor; and one whose values are the old ones in
//! another unit is that.

use serde::{Deserialize, Serialize};
use shared::drift::ChannelReference;
use shared::ids::ChannelName;
use utoipa::ToSchema;

use crate::core::limits::{COHORT_SHARE, STUCK_ROWS, UNIT_MEAN_TOLERANCE, UNIT_SPREAD_TOLERANCE};

/// What a drift comes from.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum Cause {
    /// The machines run in another way than the model was trained on.
    #[default]
    World,
    /// One sensor measures something else than the others say.
    Sensor {
        /// Its channel.
        #[schema(value_type = String)]
        channel: ChannelName,
        /// Whether it always says the same.
        stuck: bool,
    },
    /// One channel is in another unit.
    Unit {
        /// The channel.
        #[schema(value_type = String)]
        channel: ChannelName,
        /// New value = `factor` * old value + `offset`.
        factor: f64,
        /// See `factor`.
        offset: f64,
        /// Which units these look like.
        guess: String,
    },
}

impl Cause {
    /// Whether a new model is called for; the others call for somebody to look.
    #[must_use]
    pub fn calls_for_training(&self) -> bool {
        *self == Self::World
    }

    /// What it is, in words.
    #[must_use]
    pub fn in_words(&self) -> String {
        match self {
            Self::World => "the machine runs in another way".to_owned(),
            Self::Sensor { channel, stuck: true } => format!("the sensor of {channel} is stuck"),
            Self::Sensor { channel, stuck: false } => {
                format!("the sensor of {channel} measures something else than the others say")
            }
            Self::Unit { channel, factor, offset, guess } => {
                let offset = if *offset == 0.0 { String::new() } else { format!(" + {offset}") };
                format!("{channel} is in another unit: {factor} times what it was{offset}, which looks like {guess}")
            }
        }
    }
}

/// Where a channel's values lie.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Spread {
    /// Their mean.
    pub mean: f64,
    /// Their standard deviation.
    pub deviation: f64,
}

/// A channel that left its training data.
#[derive(Debug, Clone, PartialEq)]
pub struct Excess {
    /// The channel.
    pub channel: ChannelName,
    /// Where its training data lay.
    pub before: Spread,
    /// Where its values lie.
    pub now: Spread,
    /// How often on end it said the same.
    pub same_rows: u32,
}

/// Conversions that happen when a device is replaced or set up anew.
const CONVERSIONS: [(f64, f64, &str); 14] = [
    (1.8, 32.0, "degrees Celsius to Fahrenheit"),
    (1.0 / 1.8, -32.0 / 1.8, "degrees Fahrenheit to Celsius"),
    (1.0, 273.15, "degrees Celsius to kelvin"),
    (1.0, -273.15, "kelvin to degrees Celsius"),
    (14.503_774, 0.0, "bar to psi"),
    (1.0 / 14.503_774, 0.0, "psi to bar"),
    (100.0, 0.0, "bar to kPa, or a share to percent"),
    (0.01, 0.0, "kPa to bar, or percent to a share"),
    (1_000.0, 0.0, "a unit to a thousandth of it"),
    (0.001, 0.0, "a unit to a thousand of it"),
    (60.0, 0.0, "per second to per minute"),
    (1.0 / 60.0, 0.0, "per minute to per second"),
    (0.264_172, 0.0, "litres to US gallons"),
    (3.785_412, 0.0, "US gallons to litres"),
];

impl Spread {
    /// Where the training data of a channel lie, from its bins, each of which holds its values evenly.
    #[must_use]
    pub fn of_reference(reference: &ChannelReference) -> Self {
        let (mut mean, mut square) = (0.0, 0.0);
        for (bin, pair) in reference.edges.windows(2).enumerate() {
            let (low, high) = (pair[0], pair[1]);
            // The first bin lies below the first edge, and is empty.
            let share = reference.shares[bin + 1];
            mean += share * 0.5 * (low + high);
            square += share * (low * low + low * high + high * high) / 3.0;
        }
        if let [only] = reference.edges[..] {
            (mean, square) = (only, only * only);
        }
        Self { mean, deviation: (square - mean * mean).max(0.0).sqrt() }
    }

    /// Whether values that lay like `self` would lie like `now` in another unit.
    fn converted(self, (factor, offset): (f64, f64), now: Self) -> bool {
        let (mean, deviation) = (factor * self.mean + offset, factor * self.deviation);
        let moved = (mean - self.mean).abs();
        let is_there = (now.mean - mean).abs() <= UNIT_MEAN_TOLERANCE * moved.max(deviation);
        // A level alone could be anything: values must also vary as much as they would.
        let ratio = now.deviation / deviation;
        is_there && (1.0 / UNIT_SPREAD_TOLERANCE..=UNIT_SPREAD_TOLERANCE).contains(&ratio)
    }
}

/// What a stream's drift comes from.
///
/// `excess` are the channels that left their training data; `watched` counts all channels that are watched; of the model's
/// `streams`, `drifting` others have left their training data too.
#[must_use]
pub fn of(excess: &[Excess], watched: usize, drifting: usize, streams: usize) -> Cause {
    let [Excess { channel, before, now, same_rows }] = excess else {
        return Cause::World;
    };
    let conversion = CONVERSIONS.iter().find(|(factor, offset, _)| before.converted((*factor, *offset), *now));
    if let Some((factor, offset, guess)) = conversion {
        return Cause::Unit { channel: channel.clone(), factor: *factor, offset: *offset, guess: (*guess).to_owned() };
    }
    let is_cohort = drifting > 0 && drifting as f64 >= COHORT_SHARE * streams as f64;
    if watched < 3 || is_cohort {
        return Cause::World;
    }
    Cause::Sensor { channel: channel.clone(), stuck: *same_rows >= STUCK_ROWS && before.deviation > 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> ChannelName {
        ChannelName::new(text).expect("valid")
    }

    fn excess(channel: &str, before: Spread, now: Spread) -> Excess {
        Excess { channel: name(channel), before, now, same_rows: 0 }
    }

    fn spread(mean: f64, deviation: f64) -> Spread {
        Spread { mean, deviation }
    }

    #[test]
    fn a_reference_says_where_its_data_lay() {
        let values: Vec<f64> = (0..10_000).map(|i| 20.0 + f64::from(i % 100) / 10.0).collect();
        let found = Spread::of_reference(&ChannelReference::fit(name("t"), &values));
        assert!((found.mean - 24.95).abs() < 0.1 && (found.deviation - 2.887).abs() < 0.1, "{found:?}");
        let found = Spread::of_reference(&ChannelReference::fit(name("t"), &[5.0; 100]));
        assert_eq!(found, spread(5.0, 0.0));
    }

    #[test]
    fn a_changed_unit_is_recognised_by_level_and_spread() {
        let unit = |before, now| match of(&[excess("t", before, now)], 6, 0, 20) {
            Cause::Unit { guess, factor, .. } => Some((guess, factor)),
            Cause::World | Cause::Sensor { .. } => None,
        };
        let fahrenheit = unit(spread(70.0, 2.0), spread(158.3, 3.5)).expect("found");
        assert_eq!(fahrenheit, ("degrees Celsius to Fahrenheit".to_owned(), 1.8));
        assert_eq!(unit(spread(2.1, 0.05), spread(30.5, 0.7)).expect("found").0, "bar to psi");
        assert_eq!(unit(spread(70.0, 2.0), spread(158.3, 0.0)), None, "stuck where that would be");
        assert_eq!(unit(spread(70.0, 2.0), spread(90.0, 2.0)), None);
    }

    #[test]
    fn one_channel_alone_is_a_sensor_and_ties_or_a_cohort_are_the_world() {
        let one = [excess("flow", spread(100.0, 2.0), spread(63.0, 2.0))];
        let sensor = |stuck| Cause::Sensor { channel: name("flow"), stuck };
        assert_eq!(of(&one, 6, 0, 20), sensor(false));
        let stuck = [Excess { same_rows: 500, ..excess("flow", spread(100.0, 2.0), spread(97.0, 0.1)) }];
        assert_eq!(of(&stuck, 6, 0, 20), sensor(true));
        assert_eq!(of(&one, 6, 8, 20), Cause::World, "a third of the fleet has it too");
        assert_eq!(of(&one, 2, 0, 20), Cause::World, "nothing else could say otherwise");
        let two = [one[0].clone(), excess("pressure", spread(2.0, 0.1), spread(1.0, 0.1))];
        assert_eq!(of(&two, 6, 0, 20), Cause::World);
    }
}
