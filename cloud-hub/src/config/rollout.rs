//! How a model's versions are rolled out, as the configuration says it.

use std::ops::RangeInclusive;

use serde::Deserialize;
use shared::config::Problems;
use toml::Spanned;

use crate::core::rollout::evidence::StageMode;
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
    #[serde(default)]
    mode: RawMode,
    mirror_percent: Option<Spanned<u8>>,
    significance: Option<Spanned<f64>>,
}

#[derive(Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum RawMode {
    #[default]
    Serve,
    Shadow,
    Mirror,
    Ab,
}

/// The chance of finding a difference where there is none that a comparison takes, unless it says another.
const SIGNIFICANCE: f64 = 0.05;

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
    if given.last().is_some_and(|last| *last.percent.get_ref() != 100 || last.mode != RawMode::Serve) {
        let rule = "the last stage must have percent = 100 and mode = \"serve\", or some boxes never get the version";
        problems.at(stages.span(), rule);
    }
    let mut before = 0;
    for stage in given {
        let percent = *stage.percent.get_ref();
        let serves = matches!(stage.mode, RawMode::Serve | RawMode::Ab);
        if percent > 100 || (serves && percent < before) {
            let span = stage.percent.span();
            problems.at(span, format!("{percent} % is out of place; stages grow from 0 to 100"));
        }
        if stage.mode == RawMode::Ab && percent == 100 {
            problems.at(stage.percent.span(), "A/B of 100 % leaves no box to hold it against");
        }
        before = if serves { percent } else { before };
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
            mode: check_mode(stage, problems),
        })
        .collect()
}

fn check_mode(stage: &RawStage, problems: &mut Problems<'_>) -> StageMode {
    if let Some(percent) = stage.mirror_percent.as_ref().filter(|_| stage.mode != RawMode::Mirror) {
        problems.at(percent.span(), "mirror_percent is for mode = \"mirror\"");
    }
    if let Some(significance) = stage.significance.as_ref().filter(|_| stage.mode != RawMode::Ab) {
        problems.at(significance.span(), "significance is for mode = \"ab\"");
    }
    match stage.mode {
        RawMode::Serve => StageMode::Serve,
        RawMode::Shadow => StageMode::Mirror { percent: 100 },
        RawMode::Mirror => {
            let percent = stage.mirror_percent.as_ref().map(|percent| *percent.get_ref());
            if !percent.is_some_and(|percent| (1..=100).contains(&percent)) {
                let span = stage.mirror_percent.as_ref().map_or(stage.percent.span(), Spanned::span);
                problems.at(span, "mode = \"mirror\" needs a mirror_percent from 1 to 100");
            }
            StageMode::Mirror { percent: percent.unwrap_or(100) }
        }
        RawMode::Ab => {
            let significance = stage.significance.as_ref().map_or(SIGNIFICANCE, |value| *value.get_ref());
            if let Some(value) = stage.significance.as_ref().filter(|value| !(0.0..=1.0).contains(value.get_ref())) {
                problems.at(value.span(), format!("{} is no chance; 0 to 1 are allowed", value.get_ref()));
            }
            StageMode::Ab { significance }
        }
    }
}
