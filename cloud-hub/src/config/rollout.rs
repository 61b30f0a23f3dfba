//! How a model's versions are rolled out, as the configuration says it.

use std::ops::RangeInclusive;

use serde::Deserialize;
use shared::config::Problems;
use toml::Spanned;

use crate::core::rollout::{RolloutRules, Stage};

/// Seconds: up to a year.
const SECONDS: RangeInclusive<u64> = 0..=366 * 24 * 3_600;
/// Stages: more than anybody watches.
const MAX_STAGES: usize = 20;

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawRollout {
    stage: Option<Spanned<Vec<RawStage>>>,
    deadline_s: Option<Spanned<u64>>,
    alarm_margin: Option<Spanned<f64>>,
    min_answers: Option<u64>,
    failure_share: Option<Spanned<f64>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawStage {
    percent: Spanned<u8>,
    #[serde(default)]
    boxes: Vec<String>,
    soak_s: Option<Spanned<f64>>,
    #[serde(default)]
    approval: bool,
}

impl RawRollout {
    pub(super) fn check(&self, problems: &mut Problems<'_>) -> RolloutRules {
        let defaults = RolloutRules::default();
        let share = |problems: &mut Problems<'_>, value: &Option<Spanned<f64>>, default: f64| match value {
            Some(value) if (0.0..=1.0).contains(value.get_ref()) => *value.get_ref(),
            Some(value) => {
                problems.at(value.span(), format!("{} is no share; 0 to 1 are allowed", value.get_ref()));
                default
            }
            None => default,
        };
        let deadline_ms = match &self.deadline_s {
            Some(value) if !SECONDS.contains(value.get_ref()) => {
                problems.at(value.span(), format!("{} s is more than a year", value.get_ref()));
                defaults.deadline_ms
            }
            Some(value) => *value.get_ref() as i64 * 1_000,
            None => defaults.deadline_ms,
        };
        RolloutRules {
            stages: self.stage.as_ref().map_or(defaults.stages, |stages| check_stages(stages, problems)),
            deadline_ms,
            alarm_margin: share(problems, &self.alarm_margin, defaults.alarm_margin),
            min_answers: self.min_answers.unwrap_or(defaults.min_answers),
            failure_share: share(problems, &self.failure_share, defaults.failure_share),
        }
    }
}

fn check_stages(stages: &Spanned<Vec<RawStage>>, problems: &mut Problems<'_>) -> Vec<Stage> {
    let given = stages.get_ref();
    if given.is_empty() || given.len() > MAX_STAGES {
        problems.at(stages.span(), format!("{} stages; 1 to {MAX_STAGES} are allowed", given.len()));
    }
    if given.last().is_some_and(|last| *last.percent.get_ref() != 100) {
        problems.at(stages.span(), "the last stage must have percent = 100, or some boxes never get the version");
    }
    let mut before = 0;
    for stage in given {
        let percent = *stage.percent.get_ref();
        if percent > 100 || percent < before {
            let span = stage.percent.span();
            problems.at(span, format!("{percent} % is out of place; stages grow from 0 to 100"));
        }
        before = percent;
        if let Some(soak) = &stage.soak_s
            && !(0.0..=*SECONDS.end() as f64).contains(soak.get_ref())
        {
            problems.at(soak.span(), format!("{} s is out of range; 0 to a year are allowed", soak.get_ref()));
        }
    }
    given
        .iter()
        .map(|stage| Stage {
            percent: *stage.percent.get_ref(),
            boxes: stage.boxes.clone(),
            soak_ms: stage.soak_s.as_ref().map_or(0, |soak| (soak.get_ref() * 1_000.0) as i64),
            approval: stage.approval,
        })
        .collect()
}
