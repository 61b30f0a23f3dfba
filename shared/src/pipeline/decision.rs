//! From a network's output to a prediction.

use super::{Decision, preprocess::Continuity};

/// A prediction before it has a name and a sequence.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Verdict {
    /// The smoothed score.
    pub score: f32,
    /// Above this score a reading is anomalous.
    pub threshold: f32,
    /// Whether it is. A score that is no number counts as anomalous: something is wrong, and silence would hide it.
    pub anomaly: bool,
}

/// A decision and what it remembers of one stream.
#[derive(Debug, Clone)]
pub struct DecisionState {
    smooth: f64,
    threshold: f64,
    smoothed: Option<f64>,
}

impl DecisionState {
    /// A decision that has seen nothing.
    #[must_use]
    pub fn new(decision: &Decision) -> Self {
        let Decision::Anomaly { smooth, threshold } = decision;
        Self { smooth: *smooth, threshold: *threshold, smoothed: None }
    }

    /// Decides on the raw `score` of the next reading.
    pub fn push(&mut self, continuity: Continuity, score: f32) -> Verdict {
        let score = f64::from(score);
        let smoothed = match (continuity, self.smoothed) {
            (Continuity::Continued, Some(before)) if before.is_finite() => before + self.smooth * (score - before),
            (Continuity::Continued | Continuity::Fresh, _) => score,
        };
        self.smoothed = Some(smoothed);
        Verdict {
            score: smoothed as f32,
            threshold: self.threshold as f32,
            anomaly: smoothed.is_nan() || smoothed > self.threshold,
        }
    }
}

/// The raw score of an autoencoder: the mean squared difference of its output from its input.
#[must_use]
pub fn mean_squared_error(input: &[f32], output: &[f32]) -> f32 {
    let sum: f32 = input.iter().zip(output).map(|(a, b)| (a - b) * (a - b)).sum();
    sum / input.len().max(1) as f32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_score_is_smoothed_until_the_stream_breaks_off() {
        let mut state = DecisionState::new(&Decision::Anomaly { smooth: 0.5, threshold: 1.0 });
        let scores: Vec<(f32, bool)> = [
            (Continuity::Fresh, 0.0),
            (Continuity::Continued, 2.0),
            (Continuity::Continued, 2.0),
            (Continuity::Fresh, 0.5),
        ]
        .into_iter()
        .map(|(continuity, score)| {
            let verdict = state.push(continuity, score);
            (verdict.score, verdict.anomaly)
        })
        .collect();
        assert_eq!(scores, [(0.0, false), (1.0, false), (1.5, true), (0.5, false)]);
    }

    #[test]
    fn a_score_that_is_no_number_is_an_alarm_and_does_not_last() {
        let mut state = DecisionState::new(&Decision::Anomaly { smooth: 0.5, threshold: 1.0 });
        assert!(state.push(Continuity::Continued, f32::NAN).anomaly);
        assert!(!state.push(Continuity::Continued, 0.5).anomaly);
    }
}
