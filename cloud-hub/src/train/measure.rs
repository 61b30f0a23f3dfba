//! Measuring: how good a pipeline is on readings held out, by the code that serves.

use std::collections::BTreeMap;
use std::ops::Range;

use shared::device::DeviceKind;
use shared::event::Outcome;
use shared::pipeline::Decision;

use super::TrainError;
use super::dataset::{Dataset, SegmentData};
use super::fit::{self, Fitted};

/// Figures by name, of the readings `within` a time; none if there are none to measure on. Classification gives `accuracy` and
/// `macro_f1`; forecasts `mse` and `mae` in the scale of training, and `repeat_last_mse`, what repeating the last value would
/// give; anomalies, without labels, `alarm_rate`.
///
/// # Errors
/// If the pipeline does not run.
pub fn measure(
    fitted: &Fitted,
    dataset: &Dataset,
    within: &Range<i64>,
    device: DeviceKind,
) -> Result<BTreeMap<String, f64>, TrainError> {
    let mut tally = Tally::default();
    for segment in &dataset.segments {
        let answers = fit::answers(&mut fitted.runner(device)?, segment);
        for (reading, answer) in answers.into_iter().enumerate() {
            if let Ok(outcome) = answer.into_outcome() {
                tally.add(&outcome, &fitted.pipeline.decision, segment, reading, within);
            }
        }
    }
    Ok(tally.figures())
}

#[derive(Default)]
struct Tally {
    readings: u64,
    alarms: u64,
    /// Per label: said and right, said and wrong, not said and right.
    labels: BTreeMap<u16, [u64; 3]>,
    values: u64,
    squared: f64,
    absolute: f64,
    repeated: f64,
}

impl Tally {
    fn add(
        &mut self,
        outcome: &Outcome,
        decision: &Decision,
        segment: &SegmentData,
        reading: usize,
        within: &Range<i64>,
    ) {
        match (outcome, decision) {
            (Outcome::Forecast { values }, Decision::Forecast { horizon, .. }) => {
                self.add_forecast(values, *horizon as usize, decision, segment, reading, within);
            }
            (Outcome::Anomaly(verdict), _) if within.contains(&segment.times_ms[reading]) => {
                self.readings += 1;
                self.alarms += u64::from(verdict.anomaly);
            }
            (Outcome::Label { label, .. }, Decision::Classify { labels, .. })
                if within.contains(&segment.times_ms[reading]) =>
            {
                let said = labels.iter().position(|known| known == label).and_then(|index| u16::try_from(index).ok());
                if let (Some(said), Some(right)) = (said, segment.labels.get(reading).copied().flatten()) {
                    self.readings += 1;
                    self.labels.entry(said).or_default()[usize::from(said != right)] += 1;
                    if said != right {
                        self.labels.entry(right).or_default()[2] += 1;
                    }
                }
            }
            (Outcome::Anomaly(_) | Outcome::Label { .. } | Outcome::Forecast { .. }, _) => {}
        }
    }

    fn add_forecast(
        &mut self,
        values: &[f32],
        horizon: usize,
        decision: &Decision,
        segment: &SegmentData,
        reading: usize,
        within: &Range<i64>,
    ) {
        let Decision::Forecast { targets, std, .. } = decision else {
            return;
        };
        let Some(times) = segment.times_ms.get(reading + 1..=reading + horizon) else {
            return;
        };
        if !times.iter().all(|time_ms| within.contains(time_ms)) {
            return;
        }
        let width = segment.schema.channels.len();
        for (target, name) in targets.iter().enumerate() {
            let Some(column) = segment.schema.channels.iter().position(|channel| channel == name) else {
                return;
            };
            let at = |row: usize| segment.values[row * width + column];
            for step in 0..horizon {
                let truth = at(reading + 1 + step);
                let error = (f64::from(values[target * horizon + step]) - truth) / std[target];
                let repeated = (at(reading) - truth) / std[target];
                if error.is_finite() && repeated.is_finite() {
                    self.values += 1;
                    self.squared += error * error;
                    self.absolute += error.abs();
                    self.repeated += repeated * repeated;
                }
            }
        }
    }

    fn figures(&self) -> BTreeMap<String, f64> {
        let mut figures = BTreeMap::new();
        let mut put = |name: &str, value: f64| {
            figures.insert(name.to_owned(), value);
        };
        if self.values > 0 {
            let count = self.values as f64;
            put("mse", self.squared / count);
            put("mae", self.absolute / count);
            put("repeat_last_mse", self.repeated / count);
        }
        if !self.labels.is_empty() {
            let right: u64 = self.labels.values().map(|[right, ..]| right).sum();
            put("accuracy", right as f64 / self.readings as f64);
            let f1 =
                |[right, wrong, missed]: &[u64; 3]| 2.0 * *right as f64 / (2 * right + wrong + missed).max(1) as f64;
            put("macro_f1", self.labels.values().map(f1).sum::<f64>() / self.labels.len() as f64);
        } else if self.readings > 0 {
            put("alarm_rate", self.alarms as f64 / self.readings as f64);
        }
        figures
    }
}
