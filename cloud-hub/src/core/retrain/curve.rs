//! How the loss went in a training: a line for each stage, of a bounded number of points.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Points of a line: more than a plot of it has columns of pixels to tell apart.
const MAX_POINTS: usize = 400;
/// Stages that are kept: a candidate has one, and one for each fold it is cross-validated on.
const MAX_STAGES: usize = 64;

/// How the loss went.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, ToSchema)]
pub struct Curve {
    /// Stage by stage, in order.
    pub stages: Vec<StageCurve>,
}

/// How the loss went in a stage.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct StageCurve {
    /// What was done, in words.
    pub stage: String,
    /// Passes over the data from one point to the next.
    pub every: u32,
    /// Passes so far.
    pub passes: u32,
    /// The loss.
    pub loss: Vec<f64>,
    /// The loss on readings that are not trained on; empty if there are none.
    pub validation_loss: Vec<f64>,
}

impl Curve {
    /// Adds what a pass over the data came to.
    pub fn add(&mut self, stage: &str, loss: f64, validation_loss: Option<f64>) {
        // A least-squares fit has no passes, and says no number.
        if !loss.is_finite() {
            return;
        }
        if self.stages.last().is_none_or(|last| last.stage != stage) {
            if self.stages.len() == MAX_STAGES {
                return;
            }
            let (stage, loss, validation_loss) = (stage.to_owned(), Vec::new(), Vec::new());
            self.stages.push(StageCurve { stage, every: 1, passes: 0, loss, validation_loss });
        }
        if let Some(last) = self.stages.last_mut() {
            last.add(loss, validation_loss.filter(|loss| loss.is_finite()));
        }
    }
}

impl StageCurve {
    fn add(&mut self, loss: f64, validation_loss: Option<f64>) {
        self.passes += 1;
        if !(self.passes - 1).is_multiple_of(self.every) {
            return;
        }
        if self.loss.len() == MAX_POINTS {
            self.every *= 2;
            for line in [&mut self.loss, &mut self.validation_loss] {
                let mut index = 0;
                line.retain(|_| {
                    index += 1;
                    index % 2 == 1
                });
            }
        }
        self.loss.push(loss);
        self.validation_loss.extend(validation_loss);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_any_length_stays_short_and_its_points_where_they_were() {
        let mut curve = Curve::default();
        for pass in 0..10_000 {
            curve.add("the model", f64::from(pass), Some(f64::from(pass) + 0.5));
        }
        let line = &curve.stages[0];
        assert!(line.loss.len() <= MAX_POINTS && line.loss.len() > MAX_POINTS / 4, "{}", line.loss.len());
        assert_eq!((line.passes, line.loss.len()), (10_000, line.validation_loss.len()));
        for (index, loss) in line.loss.iter().enumerate() {
            assert_eq!(*loss, f64::from(index as u32 * line.every));
        }
    }

    #[test]
    fn every_stage_has_a_line_and_what_is_no_number_has_none() {
        let mut curve = Curve::default();
        curve.add("fold 1", 1.0, None);
        curve.add("fold 2", f64::NAN, None);
        curve.add("fold 2", 2.0, Some(f64::INFINITY));
        let shown: Vec<_> = curve.stages.iter().map(|line| (line.stage.as_str(), line.loss.len())).collect();
        assert_eq!(shown, [("fold 1", 1), ("fold 2", 1)]);
    }
}
