//! What the sensors make of the truth: a first-order lag, then noise, then their own faults.

use super::noise::Noise;
use super::{Channel, Measurement};

/// A sensor that does not measure.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum SensorFault {
    /// The reading is off by an amount: a fouled flow meter, a shifted zero.
    Offset {
        /// The channel.
        channel: Channel,
        /// What is added, in the channel's unit.
        by: f64,
    },
    /// The reading creeps to a value and stays there: a blocked impulse line, a dead transmitter.
    Stuck {
        /// The channel.
        channel: Channel,
        /// Where it ends, in the channel's unit.
        at: f64,
        /// How far it has crept: 0 is not at all, 1 is stuck.
        share: f64,
    },
}

/// One sensor's character.
struct Sensor {
    lag_s: f64,
    /// Deviation of the noise, in the channel's unit.
    noise: f64,
    /// Deviation of the noise as a share of the value.
    relative_noise: f64,
    /// Deviation that full cavitation adds, in the channel's unit.
    cavitation_noise: f64,
}

/// In the order of [`Channel::ALL`]: a magnetic flow meter, a pressure transmitter, two meters of the converter, and two
/// accelerometers whose RMS over a second scatters in proportion to its value.
const SENSORS: [Sensor; Channel::ALL.len()] = [
    Sensor { lag_s: 1.5, noise: 0.20, relative_noise: 0.0, cavitation_noise: 0.5 },
    Sensor { lag_s: 0.5, noise: 0.008, relative_noise: 0.0, cavitation_noise: 0.02 },
    Sensor { lag_s: 0.5, noise: 0.010, relative_noise: 0.0, cavitation_noise: 0.01 },
    Sensor { lag_s: 0.5, noise: 0.4, relative_noise: 0.0, cavitation_noise: 0.0 },
    Sensor { lag_s: 1.0, noise: 0.001, relative_noise: 0.018, cavitation_noise: 0.004 },
    Sensor { lag_s: 1.0, noise: 0.001, relative_noise: 0.018, cavitation_noise: 0.004 },
];

/// The six sensors and what they remember.
#[derive(Debug)]
pub(super) struct Sensors {
    lagged: Option<Measurement>,
}

impl Sensors {
    pub(super) fn new() -> Self {
        Self { lagged: None }
    }

    /// The readings `step_s` seconds after the last.
    pub(super) fn measure(
        &mut self,
        truth: Measurement,
        cavitation: f64,
        fault: Option<SensorFault>,
        step_s: f64,
        noise: &mut Noise,
    ) -> Measurement {
        let lagged = self.lagged.get_or_insert(truth);
        let mut measured = truth;
        for (channel, sensor) in SENSORS.iter().enumerate() {
            lagged[channel] += (1.0 - (-step_s / sensor.lag_s).exp()) * (truth[channel] - lagged[channel]);
            let value = lagged[channel];
            let deviation = sensor.noise + sensor.relative_noise * value.abs() + sensor.cavitation_noise * cavitation;
            measured[channel] = value + deviation * noise.gaussian();
        }
        match fault {
            Some(SensorFault::Offset { channel, by }) => measured[channel as usize] += by,
            Some(SensorFault::Stuck { channel, at, share }) => {
                let reading = &mut measured[channel as usize];
                *reading += share * (at - *reading);
            }
            None => {}
        }
        measured
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRUTH: Measurement = [50.0, 0.9, 1.9, 230.0, 0.1, 0.08];

    fn measured(truth: Measurement, fault: Option<SensorFault>, steps: usize) -> Vec<Measurement> {
        let (mut sensors, mut noise) = (Sensors::new(), Noise::new(7));
        sensors.measure(TRUTH, 0.0, None, 1.0, &mut noise);
        (0..steps).map(|_| sensors.measure(truth, 0.0, fault, 1.0, &mut noise)).collect()
    }

    #[test]
    fn a_sensor_lags_behind_a_jump() {
        let mut jumped = TRUTH;
        jumped[0] = 80.0;
        let flows: Vec<_> = measured(jumped, None, 20).iter().map(|values| values[0]).collect();
        assert!((60.0..70.0).contains(&flows[0]), "{flows:?}");
        assert!((flows[19] - 80.0).abs() < 1.0, "{flows:?}");
    }

    #[test]
    fn a_stuck_sensor_gives_one_value_and_leaves_the_others_alone() {
        let fault = SensorFault::Stuck { channel: Channel::Pressure, at: 0.6, share: 1.0 };
        let (faulty, healthy) = (measured(TRUTH, Some(fault), 5), measured(TRUTH, None, 5));
        for (faulty, healthy) in faulty.iter().zip(&healthy) {
            assert!((faulty[1] - 0.6).abs() < 1e-12);
            assert_eq!((faulty[0], faulty[2]), (healthy[0], healthy[2]));
        }
    }

    #[test]
    fn an_offset_shifts_one_channel() {
        let fault = SensorFault::Offset { channel: Channel::Flow, by: -8.0 };
        let (faulty, healthy) = (measured(TRUTH, Some(fault), 1)[0], measured(TRUTH, None, 1)[0]);
        assert_eq!(faulty[0], healthy[0] - 8.0);
        assert_eq!(faulty[1..], healthy[1..]);
    }
}
