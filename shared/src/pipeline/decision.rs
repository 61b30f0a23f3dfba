//! From a network's output to a prediction.

use serde::{Deserialize, Serialize};

use super::preprocess::Continuity;
use super::statistics::{squared_distance, whitening};
use super::{Baseline, Shape, Stage};
use crate::event::{Outcome, Verdict};
use crate::ids::ChannelName;
use crate::limits::{MAX_FORECAST_VALUES, MAX_LABEL_BYTES, MAX_LABELS};

/// Columns of a Mahalanobis distance: its constants are the square of it.
const MAX_MAHALANOBIS: usize = 128;

/// From a network's output to a prediction.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Decision {
    /// Is the reading normal?
    Anomaly {
        /// How far a row is from normal.
        score: Score,
        /// The weight of a new score in the smoothed one, above 0 and at most 1.
        smooth: f64,
        /// Above this smoothed score a reading is anomalous.
        threshold: Threshold,
        /// For so many readings after an anomalous one the alarm stands.
        hold_rows: u32,
    },
    /// Which label does the reading have? The network's outputs are logits.
    Classify {
        /// The labels, in the order of the outputs.
        labels: Vec<String>,
        /// Below this confidence the answer is not sure, from 0 to 1.
        min_confidence: f64,
        /// What logits are divided by before the softmax (Guo et al., "On calibration of modern neural networks", 2017).
        temperature: f64,
    },
    /// What comes next? The network's outputs are `horizon` steps of the targets, scaled.
    Forecast {
        /// Readings ahead.
        horizon: u32,
        /// The channels that are forecast, in the order of the outputs.
        targets: Vec<ChannelName>,
        /// What is added to each target's outputs after the factor. Empty in a recipe.
        mean: Vec<f64>,
        /// What each target's outputs are multiplied by, above 0. Empty in a recipe.
        std: Vec<f64>,
        /// Nine in ten values were at most so far from the forecast on data held out, target after target, the next
        /// value first. Empty if not known.
        interval_90: Vec<f32>,
    },
}

/// How far a row is from normal.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Score {
    /// The network is an autoencoder: the mean squared difference of its output from its input.
    Mse,
    /// The squared Mahalanobis distance of the output from where normal rows are.
    Mahalanobis {
        /// Added to each variance, in mean variances.
        ridge: f64,
        /// Where the constants come from.
        baseline: Baseline,
        /// The centre. Empty in a recipe, and with a stream's baseline.
        mean: Vec<f64>,
        /// The lower triangle that whitens, row-major and square. Empty as the centre is.
        whitening: Vec<f64>,
    },
}

/// From which score on a reading is anomalous.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Threshold {
    /// The same for every stream.
    Package {
        /// The score. 0 in a recipe.
        value: f64,
    },
    /// So many times the largest smoothed score of the stream's calibration.
    Stream {
        /// The factor.
        factor: f64,
    },
}

impl Decision {
    /// Whether it learns from the stream's own calibration.
    #[must_use]
    pub fn is_calibrated(&self) -> bool {
        match self {
            Self::Anomaly { score, threshold, .. } => {
                let learns = matches!(score, Score::Mahalanobis { baseline: Baseline::Stream, .. });
                learns || matches!(threshold, Threshold::Stream { .. })
            }
            Self::Classify { .. } | Self::Forecast { .. } => false,
        }
    }

    /// How wide a network's last layer must be that is given `input`, if the decision says it: with features, and with a
    /// sequence, for each step.
    #[must_use]
    pub fn wanted_outputs(&self, input: Shape) -> Option<(usize, usize)> {
        match self {
            Self::Anomaly { score: Score::Mse, .. } => Some((input.size(), input.width())),
            Self::Anomaly { score: Score::Mahalanobis { .. }, .. } => None,
            Self::Classify { labels, .. } => Some((labels.len(), labels.len())),
            Self::Forecast { horizon, targets, .. } => {
                let horizon = *horizon as usize;
                Some((horizon.saturating_mul(targets.len()), horizon))
            }
        }
    }

    /// Proves that it fits a network from `input` to `output`.
    ///
    /// # Errors
    /// What does not fit, and what would.
    pub fn check(&self, input: Shape, output: Shape, stage: Stage) -> Result<(), String> {
        match self {
            Self::Anomaly { score, smooth, threshold, .. } => {
                if !(*smooth > 0.0 && *smooth <= 1.0) {
                    return Err(format!("smooth is {smooth}, it must be above 0 and at most 1"));
                }
                score.check(input, output, stage)?;
                let (what, value) = match threshold {
                    Threshold::Package { .. } if stage == Stage::Recipe => return Ok(()),
                    Threshold::Package { value } => ("threshold", value),
                    Threshold::Stream { factor } => ("the threshold's factor", factor),
                };
                let is_sound = value.is_finite() && *value > 0.0;
                if is_sound { Ok(()) } else { Err(format!("{what} is {value}, it must be a number above 0")) }
            }
            Self::Classify { labels, min_confidence, temperature } => {
                check_labels(labels)?;
                if output != Shape::Flat(labels.len()) {
                    return Err(format!("{} labels need as many features, the network gives {output}", labels.len()));
                }
                if !(0.0..=1.0).contains(min_confidence) {
                    return Err(format!("min_confidence is {min_confidence}, it must be from 0 to 1"));
                }
                let is_sound = temperature.is_finite() && *temperature > 0.0;
                if is_sound {
                    Ok(())
                } else {
                    Err(format!("temperature is {temperature}, it must be a number above 0"))
                }
            }
            Self::Forecast { horizon, targets, mean, std, interval_90 } => {
                let (steps, channels) = (*horizon as usize, targets.len());
                let values = steps.saturating_mul(channels);
                if values == 0 || values > MAX_FORECAST_VALUES {
                    return Err(format!(
                        "a horizon of {steps} for {channels} targets; 1 to {MAX_FORECAST_VALUES} values are allowed"
                    ));
                }
                let fits = match output {
                    Shape::Sequence { .. } => output == Shape::Sequence { steps, channels },
                    Shape::Flat(features) => features == values && channels == 1,
                };
                if !fits {
                    return Err(format!(
                        "a horizon of {steps} for {channels} targets needs a sequence of {steps} steps of {channels} \
                         channels, the network gives {output}"
                    ));
                }
                let is_unfitted = stage == Stage::Recipe && mean.is_empty() && std.is_empty();
                let scales = |values: &[f64]| values.len() == channels && values.iter().all(|value| value.is_finite());
                let is_fitted = scales(mean) && scales(std) && std.iter().all(|std| *std > 0.0);
                if !(is_unfitted || is_fitted) {
                    return Err(format!("it needs a mean and a deviation above 0 for each of {channels} targets"));
                }
                let is_sound = interval_90.iter().all(|half| half.is_finite() && *half >= 0.0);
                if !(interval_90.is_empty() || (interval_90.len() == values && is_sound)) {
                    return Err(format!("interval_90 needs {values} numbers of at least 0"));
                }
                Ok(())
            }
        }
    }
}

impl Score {
    fn check(&self, input: Shape, output: Shape, stage: Stage) -> Result<(), String> {
        match self {
            Self::Mse if input.size() == output.size() => Ok(()),
            Self::Mse => {
                Err(format!("an autoencoder must give back what it is given, {input}; the network gives {output}"))
            }
            Self::Mahalanobis { ridge, baseline, mean, whitening } => {
                let Shape::Flat(width @ 1..=MAX_MAHALANOBIS) = output else {
                    return Err(format!("mahalanobis needs 1 to {MAX_MAHALANOBIS} features, it is given {output}"));
                };
                if !(ridge.is_finite() && *ridge >= 0.0) {
                    return Err(format!("ridge is {ridge}, it must be a number of at least 0"));
                }
                let is_empty = mean.is_empty() && whitening.is_empty();
                match baseline {
                    Baseline::Stream if is_empty => Ok(()),
                    Baseline::Package if is_empty && stage == Stage::Recipe => Ok(()),
                    Baseline::Package if is_constants(mean, whitening, width) => Ok(()),
                    Baseline::Stream => {
                        Err("with the stream's baseline, mean and whitening must be left out".to_owned())
                    }
                    Baseline::Package => {
                        Err(format!("it needs {width} means and a square of {width} factors, all numbers"))
                    }
                }
            }
        }
    }
}

fn is_constants(mean: &[f64], whitening: &[f64], width: usize) -> bool {
    mean.len() == width
        && whitening.len() == width * width
        && mean.iter().chain(whitening).all(|value| value.is_finite())
}

fn check_labels(labels: &[String]) -> Result<(), String> {
    if !(2..=MAX_LABELS).contains(&labels.len()) {
        return Err(format!("{} labels, it must be 2 to {MAX_LABELS}", labels.len()));
    }
    if let Some(wrong) = labels.iter().find(|label| label.is_empty() || label.len() > MAX_LABEL_BYTES) {
        return Err(format!("label {wrong:?} must have 1 to {MAX_LABEL_BYTES} bytes"));
    }
    match labels.iter().enumerate().find(|(at, label)| labels[..*at].contains(label)) {
        Some((_, twice)) => Err(format!("label {twice:?} stands twice")),
        None => Ok(()),
    }
}

/// What a decision remembers of one stream.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct DecisionState {
    smoothed: Option<f64>,
    hold_left: u32,
    /// What the calibration found.
    found: Option<Found>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
struct Found {
    threshold: f64,
    mean: Vec<f64>,
    whitening: Vec<f64>,
}

/// One row as it went into the network and came out.
#[derive(Debug, Clone, Copy)]
pub struct Row<'a> {
    /// The network's input.
    pub input: &'a [f32],
    /// Its output.
    pub output: &'a [f32],
}

impl DecisionState {
    /// Decides on the next row.
    pub fn push(&mut self, decision: &Decision, continuity: Continuity, row: Row<'_>) -> Outcome {
        match decision {
            Decision::Anomaly { score, smooth, threshold, hold_rows } => {
                let score = self.score(score, row);
                Outcome::Anomaly(self.verdict(score, continuity, *smooth, *threshold, *hold_rows))
            }
            Decision::Classify { labels, min_confidence, temperature } => {
                let (best, confidence) = softmax_best(row.output, *temperature);
                Outcome::Label {
                    label: labels.get(best).cloned().unwrap_or_default(),
                    confidence: confidence as f32,
                    sure: confidence >= *min_confidence,
                }
            }
            Decision::Forecast { horizon, targets, mean, std, .. } => {
                let (horizon, channels) = (*horizon as usize, targets.len());
                let scaled = |target: usize, step: usize| f64::from(row.output[step * channels + target]);
                let values = (0..channels)
                    .flat_map(|target| {
                        (0..horizon).map(move |step| (scaled(target, step) * std[target] + mean[target]) as f32)
                    })
                    .collect();
                Outcome::Forecast { values }
            }
        }
    }

    /// Finds what the decision learns from a stream: from the `rows` of its calibration, the first `warm_up` of which only
    /// fill the smoothing.
    pub fn calibrate(&mut self, decision: &Decision, rows: &[Row<'_>], warm_up: usize) {
        let Decision::Anomaly { score, smooth, threshold, .. } = decision else {
            return;
        };
        let mut found = Found::default();
        if let Score::Mahalanobis { ridge, baseline: Baseline::Stream, .. } = score {
            let outputs: Vec<f32> = rows.iter().skip(warm_up).flat_map(|row| row.output).copied().collect();
            let width = rows.first().map_or(0, |row| row.output.len());
            (found.mean, found.whitening) = whitening(&outputs, width, *ridge);
        }
        self.found = Some(found);
        let mut largest = 0.0_f64;
        for (index, row) in rows.iter().enumerate() {
            let raw = self.score(score, *row);
            let smoothed = self.smooth(raw, Continuity::Continued, *smooth);
            if index >= warm_up {
                largest = largest.max(smoothed);
            }
        }
        if let (Some(found), Threshold::Stream { factor }) = (&mut self.found, threshold) {
            found.threshold = (factor * largest).max(f64::MIN_POSITIVE);
        }
    }

    fn score(&self, score: &Score, row: Row<'_>) -> f64 {
        match score {
            Score::Mse => mean_squared_error(row),
            Score::Mahalanobis { baseline: Baseline::Package, mean, whitening, .. } => {
                squared_distance(row.output, mean, whitening)
            }
            Score::Mahalanobis { baseline: Baseline::Stream, .. } => match &self.found {
                Some(found) => squared_distance(row.output, &found.mean, &found.whitening),
                None => 0.0,
            },
        }
    }

    fn smooth(&mut self, score: f64, continuity: Continuity, smooth: f64) -> f64 {
        let smoothed = match (continuity, self.smoothed) {
            (Continuity::Continued, Some(before)) if before.is_finite() => before + smooth * (score - before),
            (Continuity::Continued | Continuity::Fresh, _) => score,
        };
        self.smoothed = Some(smoothed);
        smoothed
    }

    fn verdict(
        &mut self,
        score: f64,
        continuity: Continuity,
        smooth: f64,
        threshold: Threshold,
        hold_rows: u32,
    ) -> Verdict {
        let score = self.smooth(score, continuity, smooth);
        let threshold = match (threshold, &self.found) {
            (Threshold::Package { value }, _) => value,
            (Threshold::Stream { .. }, Some(found)) => found.threshold,
            (Threshold::Stream { .. }, None) => f64::INFINITY,
        };
        let is_above = score.is_nan() || score > threshold;
        let anomaly = is_above || (self.hold_left > 0 && continuity == Continuity::Continued);
        self.hold_left = if is_above { hold_rows } else { self.hold_left.saturating_sub(1) };
        Verdict { score: score as f32, threshold: threshold as f32, anomaly }
    }
}

/// The mean squared difference of a row's output from its input.
#[must_use]
pub fn mean_squared_error(row: Row<'_>) -> f64 {
    let sum: f32 = row.input.iter().zip(row.output).map(|(a, b)| (a - b) * (a - b)).sum();
    f64::from(sum / row.input.len().max(1) as f32)
}

/// The largest of the softmax of `logits` divided by `temperature`, and which it is. NaN if a logit is no number.
fn softmax_best(logits: &[f32], temperature: f64) -> (usize, f64) {
    let scaled = || logits.iter().map(|logit| f64::from(*logit) / temperature);
    let (best, largest) =
        scaled().enumerate().fold((0, f64::NEG_INFINITY), |best, next| if next.1 > best.1 { next } else { best });
    (best, 1.0 / scaled().map(|logit| (logit - largest).exp()).sum::<f64>())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipeline::tests::{anomaly, names};

    /// A row whose mean squared error is `error`.
    fn push(state: &mut DecisionState, decision: &Decision, continuity: Continuity, error: f32) -> Verdict {
        let outcome = state.push(decision, continuity, Row { input: &[0.0], output: &[error.sqrt()] });
        let Outcome::Anomaly(verdict) = outcome else { panic!("{outcome:?}") };
        verdict
    }

    #[test]
    fn the_score_is_smoothed_until_the_stream_breaks_off() {
        let mut state = DecisionState::default();
        let scores: Vec<(f32, bool)> = [
            (Continuity::Fresh, 0.0),
            (Continuity::Continued, 4.0),
            (Continuity::Continued, 4.0),
            (Continuity::Fresh, 0.25),
        ]
        .into_iter()
        .map(|(continuity, error)| {
            let verdict = push(&mut state, &anomaly(0.5, 2.0), continuity, error);
            (verdict.score, verdict.anomaly)
        })
        .collect();
        assert_eq!(scores, [(0.0, false), (2.0, false), (3.0, true), (0.25, false)]);
    }

    #[test]
    fn a_score_that_is_no_number_is_an_alarm_and_does_not_last() {
        let mut state = DecisionState::default();
        assert!(push(&mut state, &anomaly(0.5, 1.0), Continuity::Continued, f32::NAN).anomaly);
        assert!(!push(&mut state, &anomaly(0.5, 1.0), Continuity::Continued, 0.25).anomaly);
    }

    #[test]
    fn an_alarm_stands_for_as_long_as_it_is_held() {
        let decision = Decision::Anomaly {
            score: Score::Mse,
            smooth: 1.0,
            threshold: Threshold::Package { value: 1.0 },
            hold_rows: 2,
        };
        let mut state = DecisionState::default();
        let alarms: Vec<bool> = [0.0, 4.0, 0.0, 0.0, 0.0]
            .into_iter()
            .map(|error| push(&mut state, &decision, Continuity::Continued, error).anomaly)
            .collect();
        assert_eq!(alarms, [false, true, true, true, false]);
    }

    #[test]
    fn a_stream_calibrates_its_own_distance_and_threshold() {
        let decision = Decision::Anomaly {
            score: Score::Mahalanobis { ridge: 0.0, baseline: Baseline::Stream, mean: vec![], whitening: vec![] },
            smooth: 1.0,
            threshold: Threshold::Stream { factor: 2.0 },
            hold_rows: 0,
        };
        decision.check(Shape::Flat(1), Shape::Flat(1), Stage::Fitted).expect("fits");
        let normal: Vec<[f32; 1]> = [9.0_f32, 11.0, 9.0, 11.0].map(|value| [value]).to_vec();
        let rows: Vec<Row<'_>> = normal.iter().map(|value| Row { input: value, output: value }).collect();
        let mut state = DecisionState::default();
        state.calibrate(&decision, &rows, 0);
        let mut judge =
            |value: f32| state.push(&decision, Continuity::Continued, Row { input: &[value], output: &[value] });
        // Deviation 1 around 10: the largest squared distance is 1, so 2 is the threshold.
        assert_eq!(judge(12.0), Outcome::Anomaly(Verdict { score: 4.0, threshold: 2.0, anomaly: true }));
        assert!(!judge(11.2).is_anomaly());
    }

    #[test]
    fn a_label_comes_with_its_confidence() {
        let decision =
            Decision::Classify { labels: vec!["off".into(), "on".into()], min_confidence: 0.9, temperature: 2.0 };
        let outcome = DecisionState::default().push(
            &decision,
            Continuity::Fresh,
            Row { input: &[], output: &[0.0, 2.0 * 3.0_f32.ln()] },
        );
        let Outcome::Label { label, confidence, sure } = outcome else { panic!("{outcome:?}") };
        assert_eq!((label.as_str(), sure), ("on", false));
        assert!((confidence - 0.75).abs() < 1e-6);
        assert!(decision.check(Shape::Flat(5), Shape::Flat(3), Stage::Fitted).is_err());
    }

    #[test]
    fn a_forecast_is_in_the_targets_units_target_after_target() {
        let decision = Decision::Forecast {
            horizon: 2,
            targets: names(&["a", "b"]),
            mean: vec![10.0, 0.0],
            std: vec![2.0, 1.0],
            interval_90: vec![],
        };
        decision.check(Shape::Flat(1), Shape::Sequence { steps: 2, channels: 2 }, Stage::Fitted).expect("fits");
        let row = Row { input: &[], output: &[1.0, 5.0, 2.0, 6.0] };
        let outcome = DecisionState::default().push(&decision, Continuity::Fresh, row);
        assert_eq!(outcome, Outcome::Forecast { values: vec![12.0, 14.0, 5.0, 6.0] });
    }
}
