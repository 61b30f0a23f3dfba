//! When the pump runs how, and what breaks when.

use std::fmt;

use shared::ids::{ChannelName, IdError, StreamId};

use super::noise::Noise;
use super::{Channel, Conditions, Disturbance, OperatingPoint, Pump, SensorFault};
use crate::scenario::{Phase, Purpose, Recording, Row, Scenario};

/// Where version 1 is trained: near full speed, valve wide open, near the best flow.
pub const OPERATING_POINT_A: OperatingPoint = OperatingPoint { speed: 1.0, valve: 0.85 };
/// Where the pump runs a week later: slower, and throttled.
pub const OPERATING_POINT_B: OperatingPoint = OperatingPoint { speed: 0.8, valve: 0.42 };

const BASELINE_ROWS: usize = 2_400;
const RECORDING_ROWS: usize = 600;
const LIVE_CALIBRATION_ROWS: usize = 300;

/// What breaks in the later part of each live recording.
const LIVE_FAULTS: [Option<FaultKind>; 8] = [
    None,
    Some(FaultKind::Throttling),
    None,
    Some(FaultKind::Imbalance),
    None,
    Some(FaultKind::Cavitation),
    None,
    Some(FaultKind::FlowMeterFouled),
];
/// What breaks in each recording that is scored.
const EVALUATED_FAULTS: [FaultKind; 6] = [
    FaultKind::Throttling,
    FaultKind::Imbalance,
    FaultKind::Cavitation,
    FaultKind::FlowMeterFouled,
    FaultKind::PressureLineBlocked,
    FaultKind::Throttling,
];

/// 2026-03-02 08:00:00 UTC.
const BASELINE_START_MS: i64 = 1_772_438_400_000;
/// From the baseline to the live recordings: the same hour a week later.
const HOURS_BETWEEN: u16 = 7 * 24;
const MS_PER_HOUR: i64 = 3_600_000;
const ROW_MS: i64 = 1_000;

/// How far conditions differ from recording to recording. Each moves some channel by several times its noise, so that
/// what is normal is learnt from several recordings and not from one.
const MAINS_OFFSET_V: f64 = 4.0;
const WATER_C: (f64, f64) = (18.0, 28.0);
const VALVE_OFFSET: f64 = 0.012;
const IMBALANCE: (f64, f64) = (0.94, 1.06);
/// Conditions that are scored lie within this share of those ranges: the recordings before have covered it.
const EVALUATED_SHARE: f64 = 0.85;
const BASELINE_SAG_V: f64 = 8.0;
const LIVE_SAG_V: f64 = 2.0;

/// A scenario without files: one long recording at operating point A, eight live ones at B, of which four end with a
/// fault, and six at B with a fault each to score. The same seed gives the same bits; on another platform the last
/// bit may differ, because exponentials and cosines may.
#[must_use]
pub fn scenario(seed: u64) -> Scenario {
    let mut campaign = Campaign::new(seed);
    let phases = vec![campaign.baseline(), campaign.live(), campaign.evaluation()];
    Scenario {
        name: "pump-loop".to_owned(),
        description: "A pump moves to a new operating point (flow 100 to 49 l/min): the first model alarms all the \
                      time, retraining on known-normal rows closes the gap."
            .to_owned(),
        stream: constant(StreamId::new("plant/loop1/pump")),
        channels: Channel::ALL.iter().map(|channel| constant(ChannelName::new(channel.name()))).collect(),
        phases,
    }
}

/// The name, which is a constant of this program and valid.
fn constant<T>(name: Result<T, IdError>) -> T {
    match name {
        Ok(name) => name,
        Err(error) => unreachable!("{error}"),
    }
}

/// What can break.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum FaultKind {
    /// The control valve closes by itself.
    Throttling,
    /// The suction strainer clogs, and the pump cavitates.
    Cavitation,
    /// A deposit breaks off the impeller.
    Imbalance,
    /// The flow meter reads low.
    FlowMeterFouled,
    /// The pressure transmitter's line is blocked: its reading leaks down and stays.
    PressureLineBlocked,
}

impl fmt::Display for FaultKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Throttling => "valve-closing",
            Self::Cavitation => "cavitation",
            Self::Imbalance => "rotor-imbalance",
            Self::FlowMeterFouled => "flow-meter-offset",
            Self::PressureLineBlocked => "pressure-sensor-stuck",
        })
    }
}

/// One fault's course.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Fault {
    kind: FaultKind,
    /// The first row it is present in.
    start: usize,
    /// The rows it is present in, both ramps included.
    rows: usize,
    /// Rows until it has its full size, and until it is gone.
    ramp: usize,
    /// Its full size as a multiple of the usual.
    size: f64,
}

impl Fault {
    /// A fault that starts between the rows `from` and `to` and lasts `rows`.
    fn draw(kind: FaultKind, (from, to): (usize, usize), rows: (usize, usize), noise: &mut Noise) -> Self {
        Self {
            kind,
            start: noise.whole(from, to),
            rows: noise.whole(rows.0, rows.1),
            ramp: noise.whole(10, 20),
            size: noise.between(0.9, 1.1),
        }
    }

    /// How far the fault has come: 0 before and after, then up and down in ramps of `ramp` rows, 1 between.
    fn course(&self, row: usize) -> f64 {
        let end = self.start + self.rows;
        if row < self.start || row >= end {
            return 0.0;
        }
        let rows_inside = (row - self.start + 1).min(end - row);
        (rows_inside as f64 / self.ramp as f64).min(1.0)
    }

    /// What is wrong with the machine in `row`.
    fn disturbance(&self, row: usize) -> Disturbance {
        let share = self.course(row);
        let amount = share * self.size;
        let none = Disturbance::default();
        match self.kind {
            FaultKind::Throttling => Disturbance { valve_closed: 0.25 * amount, ..none },
            FaultKind::Cavitation => Disturbance { suction_loss_m: 3.2 * amount, ..none },
            FaultKind::Imbalance => Disturbance { imbalance: 0.6 * amount, ..none },
            FaultKind::FlowMeterFouled => {
                Disturbance { sensor: Some(SensorFault::Offset { channel: Channel::Flow, by: -8.0 * amount }), ..none }
            }
            FaultKind::PressureLineBlocked => {
                let stuck = SensorFault::Stuck { channel: Channel::Pressure, at: 0.9 - 0.15 * self.size, share };
                Disturbance { sensor: Some(stuck), ..none }
            }
        }
    }
}

/// The pump and the calendar.
struct Campaign {
    noise: Noise,
    pump: Pump,
    now_ms: i64,
}

impl Campaign {
    fn new(seed: u64) -> Self {
        let mut noise = Noise::new(seed);
        let conditions = Conditions {
            mains_offset_v: 1.0,
            mains_sag_v: BASELINE_SAG_V,
            water_c: 21.0,
            valve_offset: 0.0,
            imbalance: 1.0,
        };
        let pump = Pump::new(noise.seed(), OPERATING_POINT_A, conditions);
        Self { noise, pump, now_ms: BASELINE_START_MS }
    }

    fn baseline(&mut self) -> Phase {
        let recording = self.record("baseline", BASELINE_ROWS, BASELINE_ROWS, None);
        Phase { name: "point-a".to_owned(), purpose: Purpose::Baseline, recordings: vec![recording] }
    }

    fn live(&mut self) -> Phase {
        self.now_ms = BASELINE_START_MS + i64::from(HOURS_BETWEEN) * MS_PER_HOUR;
        let recordings = self.conditions(LIVE_FAULTS.len(), 1.0).into_iter().zip(LIVE_FAULTS).enumerate();
        let recordings = recordings.map(|(index, (conditions, kind))| {
            self.pump.operate(OPERATING_POINT_B, conditions);
            if index == 0 {
                self.pump.age(f64::from(HOURS_BETWEEN));
            }
            let fault = kind.map(|kind| Fault::draw(kind, (330, 390), (150, 190), &mut self.noise));
            self.record(&name("live", index, kind), RECORDING_ROWS, LIVE_CALIBRATION_ROWS, fault)
        });
        Phase { name: "point-b".to_owned(), purpose: Purpose::Live, recordings: recordings.collect() }
    }

    fn evaluation(&mut self) -> Phase {
        let recordings = self.conditions(EVALUATED_FAULTS.len(), EVALUATED_SHARE).into_iter().zip(EVALUATED_FAULTS);
        let recordings = recordings.enumerate().map(|(index, (conditions, kind))| {
            self.pump.operate(OPERATING_POINT_B, conditions);
            let fault = Fault::draw(kind, (150, 240), (160, 300), &mut self.noise);
            self.record(&name("evaluate", index, Some(kind)), RECORDING_ROWS, 0, Some(fault))
        });
        Phase { name: "point-b-faults".to_owned(), purpose: Purpose::Evaluate, recordings: recordings.collect() }
    }

    /// The conditions of `count` recordings, spread over `share` of their ranges.
    fn conditions(&mut self, count: usize, share: f64) -> Vec<Conditions> {
        let mut spread = |low: f64, high: f64| {
            let (middle, half) = (0.5 * (low + high), 0.5 * share * (high - low));
            self.noise.spread(count, middle - half, middle + half)
        };
        let mains = spread(-MAINS_OFFSET_V, MAINS_OFFSET_V);
        let water = spread(WATER_C.0, WATER_C.1);
        let valve = spread(-VALVE_OFFSET, VALVE_OFFSET);
        let imbalance = spread(IMBALANCE.0, IMBALANCE.1);
        let drawn = mains.into_iter().zip(water).zip(valve).zip(imbalance);
        drawn
            .map(|(((mains_offset_v, water_c), valve_offset), imbalance)| Conditions {
                mains_offset_v,
                mains_sag_v: LIVE_SAG_V,
                water_c,
                valve_offset,
                imbalance,
            })
            .collect()
    }

    /// Measures `rows` rows, of which the first `known_normal` are vouched for, and leaves a second or two after them.
    fn record(&mut self, name: &str, rows: usize, known_normal: usize, fault: Option<Fault>) -> Recording {
        let mut measured = Vec::with_capacity(rows);
        for row in 0..rows {
            let disturbance = fault.map(|fault| fault.disturbance(row)).unwrap_or_default();
            measured.push(Row {
                time_ms: self.now_ms,
                values: self.pump.step(&disturbance).to_vec(),
                known_normal: row < known_normal,
                label: Some(fault.is_some_and(|fault| fault.course(row) > 0.0)),
            });
            self.now_ms += ROW_MS;
        }
        // One more second at most: the loop above has already left one.
        self.now_ms += if self.noise.whole(0, 1) == 1 { ROW_MS } else { 0 };
        Recording { name: name.to_owned(), rows: measured }
    }
}

fn name(phase: &str, index: usize, fault: Option<FaultKind>) -> String {
    match fault {
        Some(kind) => format!("{phase}-{}-{kind}", index + 1),
        None => format!("{phase}-{}-normal", index + 1),
    }
}
