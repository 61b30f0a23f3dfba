//! What is to happen to a fleet: a TOML file.

use std::path::Path;

use serde::Deserialize;
use shared::config::{ConfigError, Problems, Source};
use shared::ids::ChannelName;
use toml::Spanned;

use super::candidates::Kind;
use super::trials::Better;
use crate::site::StagePlan;

/// Boxes of a plan, at most: what one process and its broker carry.
const MAX_BOXES: u64 = 500;

/// A plan.
#[derive(Debug, Clone)]
pub struct FleetPlan {
    /// What it shows, in a sentence.
    pub says: String,
    /// Boxes, if the command line does not say.
    pub boxes: usize,
    /// Cohorts with a model of their own, and how many boxes each has beside the others.
    pub cohorts: Vec<(String, usize)>,
    /// Boxes of each model whose normal operation its first version learns from.
    pub baseline_boxes: usize,
    /// Readings a second that each box takes in.
    pub readings_per_s: u64,
    /// Whether live readings are of now, and not a second apart from each other whatever their pace.
    pub real_time: bool,
    /// Seconds after a training in which no other begins by itself.
    pub cooldown_s: u32,
    /// The stages of a rollout.
    pub stages: Vec<StagePlan>,
    /// Answers before a version is judged, if not as many as by default.
    pub min_answers: Option<u64>,
    /// What happens, in order.
    pub steps: Vec<Step>,
}

/// One thing that happens.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "snake_case")]
pub enum Step {
    /// A version of this kind is brought to the hub.
    Publish {
        /// What is wrong with it.
        kind: Kind,
        /// Whether the hub takes it without proof.
        #[serde(default)]
        skip_proof: bool,
        /// How it must end.
        ends: End,
        /// How often the hub is stopped and started while it is rolled out.
        #[serde(default)]
        hub_restarts: usize,
        /// Which version an A/B stage must call better.
        better: Option<Better>,
    },
    /// A sensor of one box says something else from now on. The hub must name it, and train nothing.
    Sensor {
        /// The box, from 1.
        number: usize,
        /// The channel.
        channel: ChannelName,
        /// What happens to its values.
        #[serde(flatten)]
        fault: SensorFault,
        /// What the hub must take it for: `sensor` or `unit`.
        cause: String,
    },
    /// A person asks for a training, and then for the same again, which must compute nothing.
    Retrain {
        /// How often the hub is stopped while it trains, and started again.
        #[serde(default)]
        hub_restarts: usize,
    },
    /// The machines of a cohort run in another way from now on. Alarms, training and rollout must stay within the cohort.
    MoveCohort(String),
    /// A sensor of one box says something else from now on, for good.
    Spoil {
        /// The box, from 1.
        number: usize,
        /// The channel.
        channel: ChannelName,
        /// What happens to its values.
        #[serde(flatten)]
        fault: SensorFault,
    },
    /// A version of this kind is brought to the hub, and what becomes of it is left to whoever looks.
    Bring(Kind),
    /// The last so many boxes go offline.
    Offline(usize),
    /// Every box is online again, and must serve the champion.
    Online {},
}

/// What happens to a sensor's values.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
pub struct SensorFault {
    /// What they are multiplied with; 0 for a sensor that is stuck.
    pub factor: f64,
    /// What is added.
    #[serde(default)]
    pub offset: f64,
}

/// How a version ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum End {
    /// The hub does not take it.
    Refused,
    /// Boxes go back from it.
    RolledBack,
    /// Every box serves it.
    Released,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawPlan {
    says: String,
    boxes: Spanned<u64>,
    #[serde(default)]
    cohort: Vec<RawCohort>,
    #[serde(default = "one")]
    baseline_boxes: usize,
    readings_per_s: Spanned<u64>,
    #[serde(default)]
    real_time: bool,
    #[serde(default)]
    cooldown_s: u32,
    stage: Vec<StagePlan>,
    min_answers: Option<u64>,
    step: Spanned<Vec<Step>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawCohort {
    name: String,
    boxes: usize,
}

const fn one() -> usize {
    1
}

impl FleetPlan {
    /// Reads a plan.
    ///
    /// # Errors
    /// Says where in the file what is wrong.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        Self::parse(&Source::read(path, |path| std::fs::File::open(path))?)
    }

    /// A look around: a fleet with a sick sensor, a box that is away and a version that waits for approval.
    ///
    /// # Errors
    /// If the plan in this program is none.
    pub fn tour() -> Result<Self, ConfigError> {
        Self::parse(&Source::new(Path::new("tour.toml"), include_str!("tour.toml").to_owned()))
    }

    fn parse(source: &Source) -> Result<Self, ConfigError> {
        let raw: RawPlan = source.parse()?;
        let mut problems = Problems::new(source);
        if !(1..=MAX_BOXES).contains(raw.boxes.get_ref()) {
            problems.at(raw.boxes.span(), format!("{} boxes; 1 to {MAX_BOXES} are allowed", raw.boxes.get_ref()));
        }
        if !(1..=1_000).contains(raw.readings_per_s.get_ref()) {
            problems.at(raw.readings_per_s.span(), "1 to 1000 readings a second are allowed");
        }
        if raw.step.get_ref().is_empty() {
            problems.at(raw.step.span(), "a plan without a step shows nothing");
        }
        problems.finish(Some(Self {
            says: raw.says,
            boxes: *raw.boxes.get_ref() as usize,
            cohorts: raw.cohort.into_iter().map(|cohort| (cohort.name, cohort.boxes)).collect(),
            baseline_boxes: raw.baseline_boxes,
            readings_per_s: *raw.readings_per_s.get_ref(),
            real_time: raw.real_time,
            cooldown_s: raw.cooldown_s,
            stages: raw.stage,
            min_answers: raw.min_answers,
            steps: raw.step.into_inner(),
        }))
    }
}
