//! Scoring: predictions against labels, row by row, without point adjustment or tolerance.

use std::collections::{BTreeMap, VecDeque};

use serde::Serialize;
use serde_json::Value;

use crate::scenario::Row;

/// Counts of right and wrong answers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Anomalous rows that alarmed.
    pub true_positive: u64,
    /// Normal rows that stayed quiet.
    pub true_negative: u64,
    /// Normal rows that alarmed.
    pub false_positive: u64,
    /// Anomalous rows that stayed quiet.
    pub false_negative: u64,
}

/// How good the answers were; shares from 0 to 1.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Quality {
    /// `2 TP / (2 TP + FP + FN)`.
    pub f1: f64,
    /// False alarms among normal rows.
    pub far: f64,
    /// Missed alarms among anomalous rows.
    pub mar: f64,
    /// `1 - (far + mar) / 2`.
    pub balanced_accuracy: f64,
    /// Rows scored.
    pub rows: u64,
}

impl Counts {
    /// Adds one answer.
    pub fn add(&mut self, anomalous: bool, alarm: bool) {
        match (anomalous, alarm) {
            (true, true) => self.true_positive += 1,
            (false, false) => self.true_negative += 1,
            (false, true) => self.false_positive += 1,
            (true, false) => self.false_negative += 1,
        }
    }

    /// The figures.
    #[must_use]
    pub fn quality(&self) -> Quality {
        let share = |part: u64, whole: u64| part as f64 / whole.max(1) as f64;
        let far = share(self.false_positive, self.false_positive + self.true_negative);
        let mar = share(self.false_negative, self.false_negative + self.true_positive);
        Quality {
            f1: share(2 * self.true_positive, 2 * self.true_positive + self.false_positive + self.false_negative),
            far,
            mar,
            balanced_accuracy: 1.0 - (far + mar) / 2.0,
            rows: self.true_positive + self.true_negative + self.false_positive + self.false_negative,
        }
    }
}

/// Joins predictions to labelled rows by time; rows of one time in the order they were published. A row without a
/// prediction counts as quiet, and is reported in the second value.
#[must_use]
pub fn score<'a>(rows: impl Iterator<Item = &'a Row>, predictions: &VecDeque<Value>) -> (Counts, u64) {
    let mut by_time: BTreeMap<i64, VecDeque<bool>> = BTreeMap::new();
    for prediction in predictions {
        if let (Some(time_ms), Some(anomaly)) = (prediction["time_ms"].as_i64(), prediction["anomaly"].as_bool()) {
            by_time.entry(time_ms).or_default().push_back(anomaly);
        }
    }
    let mut counts = Counts::default();
    let mut unanswered = 0;
    for row in rows {
        let answer = by_time.get_mut(&row.time_ms).and_then(VecDeque::pop_front);
        unanswered += u64::from(answer.is_none());
        if let Some(anomalous) = row.label {
            counts.add(anomalous, answer.unwrap_or(false));
        }
    }
    (counts, unanswered)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn row(time_ms: i64, label: bool) -> Row {
        Row { time_ms, values: vec![], known_normal: false, label: Some(label) }
    }

    #[test]
    fn answers_are_joined_by_time_and_repeated_times_by_order() {
        let rows = [row(1, false), row(2, true), row(2, false), row(3, true)];
        let answer = |time_ms: i64, anomaly: bool| json!({ "time_ms": time_ms, "anomaly": anomaly });
        let predictions = [answer(2, true), answer(1, true), answer(2, false)].into();
        let (counts, unanswered) = score(rows.iter(), &predictions);
        assert_eq!(
            (counts.true_positive, counts.true_negative, counts.false_positive, counts.false_negative, unanswered),
            (1, 1, 1, 1, 1)
        );
    }

    #[test]
    fn always_alarming_has_a_false_alarm_rate_of_one_and_half_the_balanced_accuracy() {
        let mut counts = Counts::default();
        for i in 0..100 {
            counts.add(i < 35, true);
        }
        let quality = counts.quality();
        assert!((quality.far - 1.0).abs() < 1e-12 && quality.mar.abs() < 1e-12);
        assert!((quality.balanced_accuracy - 0.5).abs() < 1e-12);
        assert!((quality.f1 - 0.518_518).abs() < 1e-5);
    }
}
