//! A centrifugal pump in a water loop, simulated at 1 Hz: the demo's plant where no recordings are given.
//!
//! The pump lifts water from a sump, drives it through pipes and a control valve and back. A frequency converter sets
//! its speed. [`Pump`] steps this machine second by second; [`scenario`] lets it run for a day at one operating point
//! and, a week later, at another, with faults, and gives what its six sensors measured.
//!
//! | channel | unit | comes from |
//! |---|---|---|
//! | `flow` | l/min | where the pump's curve meets the system's ([`hydraulics`]) |
//! | `pressure` | bar | the head at that flow, above atmosphere, between pump and valve |
//! | `motor_current` | A | shaft power, motor losses, mains voltage ([`motor`]) |
//! | `voltage` | V | the mains: an offset, slow sags, noise |
//! | `vibration_drive_end`, `vibration_free_end` | g RMS | imbalance, flow off the best point, cavitation, wear ([`vibration`]) |
//!
//! A model must learn these ties between the channels: a closing valve and a failing flow meter both lower the flow,
//! but only one raises the pressure. Operating points, faults and the small differences between recordings move the
//! causes, never a channel directly; only the sensors' own noise, lag and faults act on the channels.

pub mod hydraulics;
pub mod motor;
mod noise;
mod schedule;
mod sensors;
#[cfg(test)]
mod tests;
pub mod vibration;

pub use schedule::{OPERATING_POINT_A, OPERATING_POINT_B, scenario};
pub use sensors::SensorFault;

use hydraulics::{Liquid, Loop, Operation};
use noise::{Noise, Wander};
use sensors::Sensors;

/// What a sensor measures. Its number is its place in a [`Measurement`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Channel {
    /// Flow in the loop.
    Flow,
    /// Pressure between pump and valve, above atmosphere.
    Pressure,
    /// Current of the motor, RMS.
    MotorCurrent,
    /// Voltage of the mains, RMS.
    Voltage,
    /// Vibration at the coupling, RMS over a second.
    VibrationDriveEnd,
    /// Vibration at the far end, RMS over a second.
    VibrationFreeEnd,
}

impl Channel {
    /// Every channel, in the order of a measurement's values.
    pub const ALL: [Self; 6] = [
        Self::Flow,
        Self::Pressure,
        Self::MotorCurrent,
        Self::Voltage,
        Self::VibrationDriveEnd,
        Self::VibrationFreeEnd,
    ];

    /// Its name in the scenario.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Flow => "flow",
            Self::Pressure => "pressure",
            Self::MotorCurrent => "motor_current",
            Self::Voltage => "voltage",
            Self::VibrationDriveEnd => "vibration_drive_end",
            Self::VibrationFreeEnd => "vibration_free_end",
        }
    }

    /// Its unit.
    #[must_use]
    pub const fn unit(self) -> &'static str {
        match self {
            Self::Flow => "l/min",
            Self::Pressure => "bar",
            Self::MotorCurrent => "A",
            Self::Voltage => "V",
            Self::VibrationDriveEnd | Self::VibrationFreeEnd => "g",
        }
    }
}

/// One value per channel, in the order of [`Channel::ALL`].
pub type Measurement = [f64; Channel::ALL.len()];

/// What the operator sets.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct OperatingPoint {
    /// Speed as a share of the rated speed, 0.3 to 1.1.
    pub speed: f64,
    /// Valve opening, 0.05 to 1.
    pub valve: f64,
}

/// What differs from one recording to the next although nobody meant it to.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Conditions {
    /// Mains voltage above its nominal 230 V, V.
    pub mains_offset_v: f64,
    /// Depth of the slow sag when the neighbours' load is highest, V.
    pub mains_sag_v: f64,
    /// Temperature of the water, deg C, 5 to 60.
    pub water_c: f64,
    /// The valve's opening beyond what was set: hysteresis of its drive.
    pub valve_offset: f64,
    /// Imbalance of the rotor as a multiple of the usual: deposits come and go.
    pub imbalance: f64,
}

/// What is wrong with the machine at one moment. The default is nothing.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Disturbance {
    /// Share by which the valve is closed below its opening, 0 to 0.95.
    pub valve_closed: f64,
    /// Head lost in a clogged suction strainer, m.
    pub suction_loss_m: f64,
    /// Imbalance of the rotor beyond the conditions', as a multiple of the usual.
    pub imbalance: f64,
    /// A sensor that does not measure.
    pub sensor: Option<SensorFault>,
}

/// The machine, its sensors and all their randomness: the same seed and the same calls give the same bits.
#[derive(Debug)]
pub struct Pump {
    point: OperatingPoint,
    conditions: Conditions,
    /// 0 is new, 1 is worn out.
    wear: f64,
    seconds: u32,
    flow_l_min: f64,
    head_share_lost: f64,
    wander: Wanders,
    sensors: Sensors,
    noise: Noise,
}

/// Slow random changes of the causes.
#[derive(Debug)]
struct Wanders {
    /// Of the speed, as a share of it: load swings and the converter's regulation.
    speed: Wander,
    /// Of the valve's opening: the drive's dead band.
    valve: Wander,
    /// Of the mains, V.
    mains: Wander,
}

/// The length of a step: one reading a second.
const STEP_S: f64 = 1.0;
/// Steps after which the state of a new pump no longer depends on how it began: 20 times the slowest lag.
const SETTLING_STEPS: usize = 60;
/// Time constant of the water's inertia in the pipes, s.
const FLOW_LAG_S: f64 = 2.0;
/// Time constant with which bubbles build up and collapse, s.
const CAVITATION_LAG_S: f64 = 3.0;
/// Nominal voltage of European mains (IEC 60038), V.
const MAINS_V: f64 = 230.0;
/// Time from one slow sag of the mains to the next, s.
const SAG_PERIOD_S: f64 = 1_200.0;
/// Wear of one hour's running: worn out after half a year without a stop.
const WEAR_PER_HOUR: f64 = 1.0 / 4_400.0;

impl Pump {
    /// A new pump that has run long enough to be in its steady state.
    #[must_use]
    pub fn new(seed: u64, point: OperatingPoint, conditions: Conditions) -> Self {
        let mut pump = Self {
            point,
            conditions,
            wear: 0.0,
            seconds: 0,
            flow_l_min: 0.0,
            head_share_lost: 0.0,
            wander: Wanders {
                speed: Wander::new(0.000_8, 30.0),
                valve: Wander::new(0.001_5, 60.0),
                mains: Wander::new(0.7, 120.0),
            },
            sensors: Sensors::new(),
            noise: Noise::new(seed),
        };
        pump.settle();
        pump
    }

    /// Moves the pump to another operating point or other conditions; it gets there with its usual inertia.
    pub fn operate(&mut self, point: OperatingPoint, conditions: Conditions) {
        (self.point, self.conditions) = (point, conditions);
    }

    /// Lets the pump run for `hours` without measuring, so that it wears, and then settle.
    pub fn age(&mut self, hours: f64) {
        self.wear += WEAR_PER_HOUR * hours;
        self.settle();
    }

    /// Runs the pump for a second and measures.
    pub fn step(&mut self, disturbance: &Disturbance) -> Measurement {
        self.seconds += 1;
        self.wear += WEAR_PER_HOUR * STEP_S / 3_600.0;
        let speed = self.point.speed * (1.0 + self.wander.speed.step(STEP_S, &mut self.noise));
        let mains_v = self.mains_v();
        let operation = self.flow(speed, disturbance);
        let shaking = vibration::Causes {
            speed,
            share_of_best_flow: operation.share_of_best_flow,
            cavitation: operation.cavitation,
            imbalance: self.conditions.imbalance + disturbance.imbalance,
            wear: self.wear,
        };
        let (drive_end_g, free_end_g) = vibration::ends_g(&shaking);
        let truth = [
            operation.flow_l_min,
            operation.pressure_bar,
            motor::current_a(operation.shaft_w, mains_v),
            mains_v,
            drive_end_g,
            free_end_g,
        ];
        self.sensors.measure(truth, operation.cavitation, disturbance.sensor, STEP_S, &mut self.noise)
    }

    fn settle(&mut self) {
        for _ in 0..SETTLING_STEPS {
            self.step(&Disturbance::default());
        }
    }

    fn mains_v(&mut self) -> f64 {
        let phase = std::f64::consts::TAU * f64::from(self.seconds) * STEP_S / SAG_PERIOD_S;
        let sag = self.conditions.mains_sag_v * 0.5 * (1.0 - phase.cos());
        MAINS_V + self.conditions.mains_offset_v - sag + self.wander.mains.step(STEP_S, &mut self.noise)
    }

    /// Moves the water's state one step towards where the curves meet.
    fn flow(&mut self, speed: f64, disturbance: &Disturbance) -> Operation {
        let opening = self.point.valve + self.conditions.valve_offset + self.wander.valve.step(STEP_S, &mut self.noise);
        let circuit = Loop {
            speed,
            valve: opening * (1.0 - disturbance.valve_closed),
            suction_loss_m: disturbance.suction_loss_m,
            liquid: Liquid::water(self.conditions.water_c),
            wear: self.wear,
        };
        let target = circuit.steady_flow_l_min(self.head_share_lost);
        self.flow_l_min += share_in_step(FLOW_LAG_S) * (target - self.flow_l_min);
        let operation = circuit.operation(self.flow_l_min, self.head_share_lost);
        let lost = circuit.head_share_lost(self.flow_l_min);
        self.head_share_lost += share_in_step(CAVITATION_LAG_S) * (lost - self.head_share_lost);
        operation
    }
}

/// The share of a first-order lag's way that is made in one step.
fn share_in_step(lag_s: f64) -> f64 {
    1.0 - (-STEP_S / lag_s).exp()
}
