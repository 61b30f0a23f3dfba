//! Training runs, as they are shown.

use std::collections::BTreeMap;

use serde::Serialize;
use shared::ids::ModelName;
use utoipa::ToSchema;

use super::models::{RangeView, show_range};
use super::{Timestamp, finite};
use crate::core::retrain::{CandidateReport, Run, RunState, StepReport};
use crate::train::Progress;

/// A training.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct RunView {
    /// Its number.
    pub run: i64,
    /// The model.
    #[schema(value_type = String)]
    pub model: ModelName,
    /// Why it runs, in words.
    pub trigger: String,
    /// When it was decided on.
    pub requested: Timestamp,
    /// When it ended.
    pub finished: Option<Timestamp>,
    /// How it stands.
    pub state: RunStateView,
    /// Why it failed, if it did.
    pub reason: Option<String>,
    /// The version that it made.
    pub version: Option<u32>,
    /// How far it is, while it runs.
    pub progress: Option<ProgressView>,
    /// What became of each selection of readings that was tried.
    pub candidates: Vec<CandidateView>,
}

/// How a training stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum RunStateView {
    /// It runs, or waits for its turn.
    Running,
    /// A candidate was good enough.
    Released,
    /// No candidate was.
    Refused,
    /// It broke.
    Failed,
}

/// How far a training is.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct ProgressView {
    /// What is being done.
    pub stage: String,
    /// How much of it is done, from 0 to 1.
    pub done: f64,
    /// The loss of the last pass.
    pub loss: Option<f64>,
    /// The loss on readings that are not trained on.
    pub validation_loss: Option<f64>,
}

/// What became of a candidate.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct CandidateView {
    /// What it was trained on, in words.
    pub selection: String,
    /// The readings.
    pub trained_on: Vec<RangeView>,
    /// Whether it was good enough.
    pub blessed: bool,
    /// Why, or why not, in sentences with numbers.
    pub reasons: Vec<String>,
    /// Its figures; null is no number.
    pub metrics: BTreeMap<String, Option<f64>>,
    /// The steps, in order.
    pub steps: Vec<StepReport>,
}

pub(super) fn show(run: &Run, progress: &BTreeMap<i64, Progress>) -> RunView {
    let (state, reason) = match &run.state {
        RunState::Running => (RunStateView::Running, None),
        RunState::Released => (RunStateView::Released, None),
        RunState::Refused => (RunStateView::Refused, None),
        RunState::Failed { reason } => (RunStateView::Failed, Some(reason.clone())),
    };
    let progress = progress.get(&run.id).filter(|_| run.state == RunState::Running);
    RunView {
        run: run.id,
        model: run.model.clone(),
        trigger: run.trigger.clone(),
        requested: Timestamp(run.requested_ms),
        finished: run.finished_ms.map(Timestamp),
        state,
        reason,
        version: run.version.map(|version| version.0),
        progress: progress.map(|progress| ProgressView {
            stage: progress.stage.clone(),
            done: progress.done,
            loss: finite(progress.loss),
            validation_loss: progress.validation_loss.and_then(finite),
        }),
        candidates: run.candidates.iter().map(show_candidate).collect(),
    }
}

fn show_candidate(candidate: &CandidateReport) -> CandidateView {
    CandidateView {
        selection: candidate.selection.clone(),
        trained_on: candidate.trained_on.iter().map(show_range).collect(),
        blessed: candidate.blessed,
        reasons: candidate.reasons.clone(),
        metrics: candidate.metrics.iter().map(|(name, value)| (name.clone(), finite(*value))).collect(),
        steps: candidate.steps.clone(),
    }
}
