use super::*;
use crate::scenario::{Phase, Purpose, Recording, Row, Scenario};

const FLOW: usize = Channel::Flow as usize;
const PRESSURE: usize = Channel::Pressure as usize;
const MOTOR_CURRENT: usize = Channel::MotorCurrent as usize;
const VOLTAGE: usize = Channel::Voltage as usize;
const VIBRATION_DRIVE_END: usize = Channel::VibrationDriveEnd as usize;

const SEEDS: [u64; 3] = [1, 2, 42];

const CALM: Conditions =
    Conditions { mains_offset_v: 0.0, mains_sag_v: 0.0, water_c: 20.0, valve_offset: 0.0, imbalance: 1.0 };

/// Mean and standard deviation of each channel over 300 s at an operating point.
fn run(point: OperatingPoint, disturbance: Disturbance) -> (Measurement, Measurement) {
    let mut pump = Pump::new(7, point, CALM);
    for _ in 0..SETTLING_STEPS {
        pump.step(&disturbance);
    }
    let values: Vec<_> = (0..300).map(|_| pump.step(&disturbance)).collect();
    statistics(&values)
}

fn statistics<R: AsRef<[f64]>>(rows: &[R]) -> (Measurement, Measurement) {
    let count = rows.len() as f64;
    let column = |channel: usize| rows.iter().map(move |row| row.as_ref()[channel]);
    let mean: Measurement = std::array::from_fn(|channel| column(channel).sum::<f64>() / count);
    let deviation = std::array::from_fn(|channel| {
        let squares = column(channel).map(|value| (value - mean[channel]).powi(2));
        (squares.sum::<f64>() / count).sqrt()
    });
    (mean, deviation)
}

fn values<'a>(rows: impl Iterator<Item = &'a Row>) -> Vec<&'a [f64]> {
    rows.map(|row| row.values.as_slice()).collect()
}

fn recordings(scenario: &Scenario, purpose: Purpose) -> impl Iterator<Item = &Recording> {
    scenario.phases.iter().filter(move |phase| phase.purpose == purpose).flat_map(|phase: &Phase| &phase.recordings)
}

/// The rows in which a fault has its full size, away from its ramps.
fn plateau(recording: &Recording) -> &[Row] {
    let is_faulty = |row: &Row| row.label == Some(true);
    let start = recording.rows.iter().position(is_faulty).expect("a fault");
    let end = recording.rows.iter().rposition(is_faulty).expect("a fault");
    &recording.rows[start + 40..end - 25]
}

#[test]
fn the_machine_obeys_its_physics_through_its_sensors() {
    let (normal, _) = run(OPERATING_POINT_B, Disturbance::default());
    let (throttled, _) = run(OPERATING_POINT_B, Disturbance { valve_closed: 0.4, ..Disturbance::default() });
    assert!(throttled[FLOW] < 0.8 * normal[FLOW] && throttled[PRESSURE] > 1.04 * normal[PRESSURE], "{throttled:?}");
    let faster = OperatingPoint { speed: 1.1 * OPERATING_POINT_B.speed, ..OPERATING_POINT_B };
    let (faster, _) = run(faster, Disturbance::default());
    assert!((faster[FLOW] / normal[FLOW] / 1.1 - 1.0).abs() < 0.02, "{faster:?}");
    assert!(faster[MOTOR_CURRENT] > 1.1 * normal[MOTOR_CURRENT], "{faster:?}");
    let (shaking, _) = run(OPERATING_POINT_B, Disturbance { imbalance: 1.0, ..Disturbance::default() });
    assert!(shaking[VIBRATION_DRIVE_END] > 1.5 * normal[VIBRATION_DRIVE_END], "{shaking:?}");
    assert!((shaking[FLOW] / normal[FLOW] - 1.0).abs() < 0.01, "{shaking:?}");
    let (starved, starved_noise) =
        run(OPERATING_POINT_B, Disturbance { suction_loss_m: 3.4, ..Disturbance::default() });
    let (_, noise) = run(OPERATING_POINT_B, Disturbance::default());
    assert!(starved[FLOW] < 0.95 * normal[FLOW] && starved[PRESSURE] < 0.8 * normal[PRESSURE], "{starved:?}");
    assert!(starved_noise[PRESSURE] > 1.5 * noise[PRESSURE], "{starved_noise:?}");
}

#[test]
fn a_pump_wears_and_lower_mains_cost_current() {
    let mut pump = Pump::new(7, OPERATING_POINT_B, CALM);
    let mean = |pump: &mut Pump| {
        let values: Vec<_> = (0..300).map(|_| pump.step(&Disturbance::default())).collect();
        statistics(&values).0
    };
    let new = mean(&mut pump);
    pump.age(2_000.0);
    let worn = mean(&mut pump);
    assert!(worn[PRESSURE] < new[PRESSURE] && worn[VIBRATION_DRIVE_END] > 1.1 * new[VIBRATION_DRIVE_END], "{worn:?}");
    pump.operate(OPERATING_POINT_B, Conditions { mains_offset_v: -15.0, ..CALM });
    let sagging = mean(&mut pump);
    assert!(sagging[VOLTAGE] < worn[VOLTAGE] - 13.0 && sagging[MOTOR_CURRENT] > worn[MOTOR_CURRENT], "{sagging:?}");
}

#[test]
fn the_same_seed_gives_the_same_bits_and_another_seed_others() {
    let bits = |seed| {
        let scenario = scenario(seed);
        let rows = scenario.phases.iter().flat_map(|phase| &phase.recordings).flat_map(|recording| &recording.rows);
        rows.flat_map(|row| row.values.iter().map(|value| value.to_bits())).collect::<Vec<_>>()
    };
    assert_eq!(bits(1), bits(1));
    assert_eq!(scenario(1), scenario(1));
    assert_ne!(bits(1), bits(2));
}

#[test]
fn the_scenario_has_its_phases_recordings_and_marks() {
    for seed in SEEDS {
        let scenario = scenario(seed);
        assert_eq!(
            scenario.channels.iter().map(|name| name.as_str()).collect::<Vec<_>>(),
            Channel::ALL.map(Channel::name)
        );
        assert_eq!(scenario.phases.iter().map(|phase| phase.purpose).collect::<Vec<_>>(), Purpose::ALL);
        let shape = |purpose| {
            let count = |recording: &Recording| {
                (recording.rows.len(), recording.rows.iter().take_while(|row| row.known_normal).count())
            };
            recordings(&scenario, purpose).map(count).collect::<Vec<_>>()
        };
        assert_eq!(shape(Purpose::Baseline), [(2_400, 2_400)]);
        assert_eq!(shape(Purpose::Live), [(600, 300); 8]);
        assert_eq!(shape(Purpose::Evaluate), [(600, 0); 6]);
        let rows = || scenario.phases.iter().flat_map(|phase| &phase.recordings).flat_map(|recording| &recording.rows);
        assert!(
            rows()
                .all(|row| row.values.len() == Channel::ALL.len() && row.values.iter().all(|value| value.is_finite()))
        );
        assert!(rows().all(|row| row.label.is_some() && !(row.known_normal && row.label == Some(true))));
    }
}

#[test]
fn recordings_follow_one_another_within_two_seconds() {
    let scenario = scenario(1);
    for phase in &scenario.phases {
        for pair in phase.recordings.windows(2) {
            let gap = pair[1].rows[0].time_ms - pair[0].rows[pair[0].rows.len() - 1].time_ms;
            assert!((1_000..=2_000).contains(&gap), "{gap}");
        }
        for recording in &phase.recordings {
            assert!(recording.rows.windows(2).all(|pair| pair[1].time_ms - pair[0].time_ms == 1_000));
        }
    }
    let start = |purpose| recordings(&scenario, purpose).next().expect("a recording").rows[0].time_ms;
    assert_eq!(start(Purpose::Baseline), 1_772_438_400_000);
    assert_eq!(start(Purpose::Live) - start(Purpose::Baseline), 7 * 24 * 3_600_000);
    assert!(start(Purpose::Evaluate) > start(Purpose::Live));
}

#[test]
fn half_of_the_live_and_all_evaluated_recordings_have_one_fault_of_a_few_minutes() {
    for seed in SEEDS {
        let scenario = scenario(seed);
        let faulty_rows = |recording: &Recording| recording.rows.iter().filter(|row| row.label == Some(true)).count();
        let live: Vec<_> = recordings(&scenario, Purpose::Live).map(faulty_rows).collect();
        assert_eq!(live.iter().filter(|rows| **rows > 0).count(), 4);
        let evaluated: Vec<_> = recordings(&scenario, Purpose::Evaluate).map(faulty_rows).collect();
        let faults = live.into_iter().filter(|rows| *rows > 0).chain(evaluated);
        faults.for_each(|rows| assert!((150..=300).contains(&rows), "{rows}"));
        for recording in recordings(&scenario, Purpose::Evaluate) {
            let changes = recording.rows.windows(2).filter(|pair| pair[0].label != pair[1].label).count();
            assert_eq!(changes, 2, "{}", recording.name);
            assert_eq!(recording.rows[recording.rows.len() - 1].label, Some(false));
        }
    }
}

#[test]
fn the_operating_points_differ_by_many_deviations_of_the_noise() {
    let (a, a_noise) = run(OPERATING_POINT_A, Disturbance::default());
    let (b, b_noise) = run(OPERATING_POINT_B, Disturbance::default());
    for channel in Channel::ALL.into_iter().filter(|channel| *channel != Channel::Voltage) {
        let place = channel as usize;
        let deviations = (a[place] - b[place]).abs() / a_noise[place].max(b_noise[place]);
        assert!(deviations > 10.0, "{}: {deviations}", channel.name());
    }
}

#[test]
fn every_fault_stands_out_of_its_recording_by_six_deviations_and_stays_plausible() {
    for seed in SEEDS {
        let scenario = scenario(seed);
        let all = recordings(&scenario, Purpose::Live).chain(recordings(&scenario, Purpose::Evaluate));
        for recording in all.filter(|recording| recording.rows.iter().any(|row| row.label == Some(true))) {
            let before = recording.rows.iter().skip(20).take_while(|row| row.label == Some(false));
            let (normal, noise) = statistics(&values(before));
            let (faulty, _) = statistics(&values(plateau(recording).iter()));
            let shifts: Measurement =
                std::array::from_fn(|channel| (faulty[channel] - normal[channel]).abs() / noise[channel]);
            let largest = shifts.iter().copied().fold(0.0, f64::max);
            assert!(largest >= 6.0, "{}: {shifts:?}", recording.name);
            for channel in Channel::ALL {
                let ratio = faulty[channel as usize] / normal[channel as usize];
                assert!((0.4..2.5).contains(&ratio), "{} {}: {ratio}", recording.name, channel.name());
            }
        }
    }
}

#[test]
fn one_recording_is_not_enough_to_know_normal_and_eight_are() {
    for seed in SEEDS {
        let scenario = scenario(seed);
        let live: Vec<_> = recordings(&scenario, Purpose::Live).collect();
        let from_a = Detector::train(&recordings(&scenario, Purpose::Baseline).collect::<Vec<_>>());
        let from_one = Detector::train(&live[..1]);
        let from_all = Detector::train(&live);
        let [a, one, all] = [from_a, from_one, from_all].map(|detector| detector.rates(&scenario));
        assert!(a.false_alarms > 0.99, "seed {seed}: {a:?}");
        assert!(one.false_alarms > 0.1 + all.false_alarms, "seed {seed}: {one:?} {all:?}");
        assert!(all.false_alarms < 0.08 && all.missed < 0.1, "seed {seed}: {all:?}");
    }
}

/// A small stand-in for the product's model: smoothed channels, their squared z-scores, smoothed again.
struct Detector {
    mean: Measurement,
    deviation: Measurement,
    threshold: f64,
}

#[derive(Debug)]
struct Rates {
    false_alarms: f64,
    missed: f64,
}

impl Detector {
    const WARM_UP_ROWS: usize = 60;

    fn train(recordings: &[&Recording]) -> Self {
        let smooth: Vec<_> = recordings.iter().flat_map(|recording| Self::known_normal(recording)).collect();
        let (mean, deviation) = statistics(&smooth);
        let mut detector = Self { mean, deviation, threshold: f64::INFINITY };
        let scores = recordings.iter().flat_map(|recording| detector.scores(&Self::known_normal(recording)));
        let mut scores: Vec<_> = scores.collect();
        scores.sort_by(f64::total_cmp);
        detector.threshold = 3.0 * scores[scores.len() - 1 - scores.len() / 1_000];
        detector
    }

    fn known_normal(recording: &Recording) -> Vec<Measurement> {
        let count = recording.rows.iter().filter(|row| row.known_normal).count();
        smoothed(recording, 20.0)[Self::WARM_UP_ROWS..count].to_vec()
    }

    fn scores(&self, rows: &[Measurement]) -> Vec<f64> {
        let mut smooth: Option<f64> = None;
        let scores = rows.iter().map(|row| {
            let squares =
                (0..row.len()).map(|channel| ((row[channel] - self.mean[channel]) / self.deviation[channel]).powi(2));
            let score = squares.sum::<f64>() / row.len() as f64;
            let next = smooth.map_or(score, |before| before + 2.0 / 11.0 * (score - before));
            smooth = Some(next);
            next
        });
        scores.collect()
    }

    fn rates(&self, scenario: &Scenario) -> Rates {
        let (mut normal, mut false_alarms, mut faulty, mut missed) = (0.0, 0.0, 0.0, 0.0);
        for recording in recordings(scenario, Purpose::Evaluate) {
            let judged = recording.rows.iter().zip(self.scores(&smoothed(recording, 20.0)));
            for (row, score) in judged.skip(Self::WARM_UP_ROWS) {
                let is_alarm = score > self.threshold;
                if row.label == Some(true) {
                    faulty += 1.0;
                    missed += f64::from(u8::from(!is_alarm));
                } else {
                    normal += 1.0;
                    false_alarms += f64::from(u8::from(is_alarm));
                }
            }
        }
        Rates { false_alarms: false_alarms / normal, missed: missed / faulty }
    }
}

fn smoothed(recording: &Recording, length: f64) -> Vec<Measurement> {
    let mut smooth: Option<Measurement> = None;
    let rows = recording.rows.iter().map(|row| {
        let next = match smooth {
            Some(before) => std::array::from_fn(|channel| {
                before[channel] + 2.0 / (length + 1.0) * (row.values[channel] - before[channel])
            }),
            None => std::array::from_fn(|channel| row.values[channel]),
        };
        smooth = Some(next);
        next
    });
    rows.collect()
}
