//! When to train, and on what: one run per model at a time, on known-normal segments only.
//!
//! A run tries several selections, from the most data to the least: everything since each point at which the machines
//! may have changed. The first candidate that the gate blesses is released. A selection that spans two ways of running
//! makes a blind model; the gate sees that, and the next, shorter selection has its turn.

pub mod curve;

use std::collections::{BTreeMap, VecDeque};

use serde::{Deserialize, Serialize};
use shared::event::UnixMillis;
use shared::ids::{Digest, ModelName, ModelVersion};
use shared::package::DataRange;
use utoipa::ToSchema;

use super::labels::{Labels, Vouched};
use super::limits::{INTERRUPTIONS, RUNS_KEPT};
use super::observe::{Observed, StreamKey};
use super::registry::{Registry, Release};
use super::{Effect, ModelSpec, Now};
use curve::Curve;

/// The trigger of a run that nothing but more data calls for.
const NEW_READINGS: &str = "new known-normal readings";

/// When to train.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RetrainRules {
    /// Known-normal readings must have grown by this share since the last run.
    pub growth: f64,
    /// Known-normal segments with fewer readings do not count.
    pub min_segment_rows: u64,
    /// Seconds after a run in which only a person begins another.
    #[serde(default)]
    pub cooldown_s: u32,
}

impl Default for RetrainRules {
    fn default() -> Self {
        Self { growth: 0.1, min_segment_rows: 150, cooldown_s: 0 }
    }
}

/// The training of every model.
#[derive(Debug)]
pub struct Retraining {
    models: BTreeMap<ModelName, ModelState>,
    runs: VecDeque<Run>,
    last_run: i64,
}

#[derive(Debug, Default)]
struct ModelState {
    /// When the last run ended.
    finished_ms: Option<Now>,
    /// Runs on end that the hub did not live to see the end of.
    interruptions: u32,
    requested_by: Option<String>,
    /// A job that waits for its data to be compacted.
    waiting: Option<(u64, TrainingJob)>,
    running: Option<TrainingJob>,
    last_seen: Option<Seen>,
    /// Known-normal readings of each selection that the last run before the hub started tried, by name.
    tried: BTreeMap<String, u64>,
    /// Segments closed when it was last looked whether a run is due: until another one is, none is.
    looked_at: Option<(u64, u64)>,
}

/// What the last run saw.
#[derive(Debug, Clone, Copy)]
struct Seen {
    /// Where its newest regime began, and known-normal readings since.
    newest: (u64, u64),
    /// Known-normal readings in its largest selection.
    largest: u64,
}

/// A training run.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Run {
    /// Its number.
    pub id: i64,
    /// The model.
    pub model: ModelName,
    /// Why it runs, in words.
    pub trigger: String,
    /// When it was decided on.
    pub requested_ms: UnixMillis,
    /// When it ended.
    pub finished_ms: Option<UnixMillis>,
    /// How it stands.
    pub state: RunState,
    /// The version it made.
    pub version: Option<ModelVersion>,
    /// What became of each selection that was tried.
    pub candidates: Vec<CandidateReport>,
    /// How its loss went.
    pub curve: Curve,
}

/// How a run stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RunState {
    /// It runs.
    Running,
    /// A candidate was blessed and released.
    Released,
    /// Every candidate was refused.
    Refused,
    /// It broke.
    Failed {
        /// Why.
        reason: String,
    },
}

/// Why a run failed that the hub did not live to see the end of.
pub const INTERRUPTED: &str = "the hub stopped";
/// How a trigger begins that is a person's.
const REQUESTED: &str = "requested by ";

/// A step of a training.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct StepReport {
    /// What was done, in words.
    pub step: String,
    /// Nothing was computed: what it came to with the same inputs before was still there.
    pub cached: bool,
}

/// What became of a candidate.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CandidateReport {
    /// What it was trained on, in words.
    pub selection: String,
    /// The readings.
    pub trained_on: Vec<DataRange>,
    /// Whether the gate let it pass.
    pub blessed: bool,
    /// Why, or why not, in sentences with numbers.
    pub reasons: Vec<String>,
    /// The figures.
    pub metrics: BTreeMap<String, f64>,
    /// The steps, in order.
    #[serde(default)]
    pub steps: Vec<StepReport>,
}

/// What to train.
#[derive(Debug, Clone, PartialEq)]
pub struct TrainingJob {
    /// The run.
    pub run: i64,
    /// The model.
    pub model: ModelName,
    /// Why, in words.
    pub trigger: String,
    /// The version the candidate will be.
    pub version: ModelVersion,
    /// What to train on, most data first.
    pub selections: Vec<Selection>,
    /// The version in service.
    pub champion: Option<Champion>,
    /// What people said of readings.
    pub vouched: Vec<Vouched>,
}

/// Known-normal segments to train on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Selection {
    /// The position it starts at.
    pub since_position: u64,
    /// What it is, in words.
    pub name: String,
    /// The segments, one range each.
    pub segments: Vec<DataRange>,
}

/// The version that a candidate has to be measured against.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Champion {
    /// Its version.
    pub version: ModelVersion,
    /// Its package.
    pub digest: Digest,
    /// What it was trained on.
    pub trained_on: Vec<DataRange>,
}

/// How a run ended.
#[derive(Debug)]
pub struct RunOutcome {
    /// What became of the candidates.
    pub candidates: Vec<CandidateReport>,
    /// Starts of selections whose candidates were blind.
    pub blind_since: Vec<u64>,
    /// The new version, with the start of its selection.
    pub released: Option<(Release, u64)>,
    /// Why it broke, if it did.
    pub failure: Option<String>,
    /// How the loss went.
    pub curve: Curve,
}

/// What follows from a decision.
#[derive(Debug, Default)]
pub struct Wanted {
    /// Effects to perform.
    pub effects: Vec<Effect>,
    /// A job waits for data that is not compacted.
    pub compaction: bool,
}

impl Retraining {
    /// No run yet, but numbers go on after `last_run`.
    #[must_use]
    pub fn new(specs: &[ModelSpec], last_run: i64) -> Self {
        let models = specs.iter().map(|spec| (spec.name.clone(), ModelState::default())).collect();
        Self { models, runs: VecDeque::new(), last_run }
    }

    /// Recent runs, oldest first.
    pub fn runs(&self) -> impl Iterator<Item = &Run> {
        self.runs.iter()
    }

    /// Whether anything runs or waits.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.models.values().all(|m| m.running.is_none() && m.waiting.is_none() && m.requested_by.is_none())
    }

    /// Puts back a run from before the hub started.
    pub fn remember(&mut self, run: Run) {
        if let Some(state) = self.models.get_mut(&run.model) {
            state.finished_ms = run.finished_ms.or(state.finished_ms);
            // What was due is due again; what a person asked for has to be asked for again.
            let is_interrupted = matches!(&run.state, RunState::Failed { reason } if reason == INTERRUPTED);
            state.interruptions = if is_interrupted { state.interruptions + 1 } else { 0 };
            let goes_on = (1..=INTERRUPTIONS).contains(&state.interruptions);
            state.requested_by = run.trigger.strip_prefix(REQUESTED).filter(|_| goes_on).map(str::to_owned);
        }
        // A run that was interrupted tried nothing, and is due again.
        if let Some(state) = self.models.get_mut(&run.model).filter(|_| !run.candidates.is_empty()) {
            let tried = run.candidates.iter().map(|tried| (tried.selection.clone(), total_rows(&tried.trained_on)));
            state.tried = tried.collect();
        }
        self.keep(run);
    }

    pub(super) fn request(&mut self, model: &ModelName, by: &str) {
        if let Some(state) = self.models.get_mut(model) {
            state.requested_by = Some(by.to_owned());
        }
    }

    pub(super) fn decide(
        &mut self,
        now: Now,
        specs: &[ModelSpec],
        known: (&Observed, &Labels),
        registry: &Registry,
        compacted: u64,
    ) -> Wanted {
        let mut wanted = Wanted::default();
        for spec in specs {
            let Some(state) = self.models.get_mut(&spec.name) else {
                continue;
            };
            if state.running.is_some() {
                continue;
            }
            let cools = state.finished_ms.is_some_and(|at| now < at + 1_000 * i64::from(spec.retrain.cooldown_s));
            if state.waiting.is_none() && (!cools || state.requested_by.is_some()) {
                state.waiting = propose((spec, specs), state, known, registry);
            }
            match state.waiting.take() {
                None => {}
                Some((needs, job)) if needs > compacted => {
                    state.waiting = Some((needs, job));
                    wanted.compaction = true;
                }
                Some((_, mut job)) => {
                    self.last_run += 1;
                    job.run = self.last_run;
                    state.running = Some(job.clone());
                    let run = Run {
                        id: job.run,
                        model: job.model.clone(),
                        trigger: job.trigger.clone(),
                        requested_ms: now,
                        finished_ms: None,
                        state: RunState::Running,
                        version: None,
                        candidates: Vec::new(),
                        curve: Curve::default(),
                    };
                    self.keep(run.clone());
                    wanted.effects.push(Effect::RecordRun(run));
                    wanted.effects.push(Effect::Train(job));
                }
            }
        }
        wanted
    }

    /// Takes a run's end; gives the run as it stands now, and the new version.
    pub(super) fn finished(&mut self, now: Now, id: i64, outcome: RunOutcome) -> Option<(Run, Option<Release>)> {
        let run = self.runs.iter_mut().rev().find(|run| run.id == id)?;
        if let Some(state) = self.models.get_mut(&run.model) {
            state.running = None;
            state.finished_ms = Some(now);
        }
        let release = outcome.released.map(|(release, _)| release);
        run.finished_ms = Some(now);
        run.version = release.as_ref().map(|release| release.version);
        run.candidates = outcome.candidates;
        run.curve = outcome.curve;
        run.state = match (outcome.failure, &release) {
            (Some(reason), _) => RunState::Failed { reason },
            (None, Some(_)) => RunState::Released,
            (None, None) => RunState::Refused,
        };
        Some((run.clone(), release))
    }

    /// A version came from elsewhere: a run that nothing was trained in stands for it.
    pub(super) fn brought(&mut self, now: Now, release: &Release) -> Run {
        self.last_run += 1;
        let run = Run {
            id: self.last_run,
            model: release.model.clone(),
            trigger: release.trigger.clone(),
            requested_ms: now,
            finished_ms: Some(now),
            state: RunState::Released,
            version: Some(release.version),
            candidates: Vec::new(),
            curve: Curve::default(),
        };
        self.keep(run.clone());
        run
    }

    fn keep(&mut self, run: Run) {
        if self.runs.len() == RUNS_KEPT {
            self.runs.pop_front();
        }
        self.runs.push_back(run);
    }
}

/// The job that is due for a model, if one is, and the position its data reaches to.
fn propose(
    (spec, specs): (&ModelSpec, &[ModelSpec]),
    state: &mut ModelState,
    (observed, labels): (&Observed, &Labels),
    registry: &Registry,
) -> Option<(u64, TrainingJob)> {
    let champion = registry.champion(&spec.name);
    let closed = (observed.segments_closed(), labels.changes());
    if state.requested_by.is_none() && (champion.is_none() || state.looked_at == Some(closed)) {
        return None;
    }
    state.looked_at = Some(closed);
    let regimes = observed.regimes(&spec.name);
    let selections: Vec<(u64, Selection)> = regimes
        .iter()
        .filter(|regime| !regime.blind)
        .map(|regime| {
            let with_open = state.requested_by.is_some();
            select((spec, specs), (observed, labels), regime.since_position, &regime.because, with_open)
        })
        .collect();
    let rows =
        |selection: Option<&(u64, Selection)>| selection.map_or(0, |(_, selection)| total_rows(&selection.segments));
    let (newest, largest) = (rows(selections.last()), rows(selections.first()));
    let newest_since = regimes.last().map_or(0, |regime| regime.since_position);
    let trigger = match (state.requested_by.take(), champion) {
        (Some(by), _) => format!("{REQUESTED}{by}"),
        (None, None) => return None,
        (None, Some(champion)) => {
            // A version that is on its way to boxes knows what it was trained on, too.
            let newest_version = registry.versions(&spec.name).last().unwrap_or(champion);
            let trained = total_rows(&newest_version.trained_on);
            let tried = |selection: &(u64, Selection)| state.tried.get(&selection.1.name).copied();
            let served = regimes.last().is_some_and(|regime| regime.served);
            let newest_before = match state.last_seen.filter(|seen| seen.newest.0 == newest_since) {
                Some(seen) => seen.newest.1,
                None if served => trained,
                None => selections.last().and_then(tried).unwrap_or(0),
            };
            let largest_before = match state.last_seen {
                Some(seen) => seen.largest,
                None => selections.first().and_then(tried).unwrap_or(0).max(trained),
            };
            let grown = |rows: u64, before: u64| rows > 0 && rows as f64 >= before as f64 * (1.0 + spec.retrain.growth);
            let is_known = selections.last().is_some_and(|(_, newest)| newest.segments.len() >= spec.min_segments);
            match regimes.last().filter(|regime| regime.since_position > 0) {
                // What the gate would call too little evidence is waited for, also by a run of everything: it would learn two
                // ways of running from a lot of the one and next to nothing of the other.
                Some(regime) if !is_known && !regime.served => return None,
                Some(regime) if grown(newest, newest_before) && !served => format!("drift: {}", regime.because),
                Some(_) if grown(newest, newest_before) => NEW_READINGS.to_owned(),
                Some(_) | None if grown(largest, largest_before) => NEW_READINGS.to_owned(),
                Some(_) | None => return None,
            }
        }
    };
    state.last_seen = Some(Seen { newest: (newest_since, newest), largest });
    let needs = selections.iter().map(|(needs, _)| *needs).max().unwrap_or(0);
    let job = TrainingJob {
        run: 0,
        model: spec.name.clone(),
        trigger,
        version: registry.next_version(&spec.name),
        selections: selections.into_iter().map(|(_, selection)| selection).collect(),
        champion: champion.map(|champion| Champion {
            version: champion.version,
            digest: champion.digest,
            trained_on: champion.trained_on.clone(),
        }),
        vouched: labels.vouched(),
    };
    Some((needs, job))
}

fn total_rows(ranges: &[DataRange]) -> u64 {
    ranges.iter().map(|range| range.rows).sum()
}

/// The known-normal segments since a position, and the position they reach to. A person may also want the segment
/// that still grows.
fn select(
    (spec, specs): (&ModelSpec, &[ModelSpec]),
    (observed, labels): (&Observed, &Labels),
    since_position: u64,
    because: &str,
    with_open: bool,
) -> (u64, Selection) {
    let mut needs = 0;
    let mut segments = Vec::new();
    let is_ours = |(agent, stream): &StreamKey| {
        ModelSpec::of(specs, agent, stream).is_some_and(|of_stream| of_stream.name == spec.name)
    };
    let ours = observed.streams().filter(|(key, _)| is_ours(key) && !observed.is_suspect(key));
    for (key, facts) in ours {
        let (agent, stream) = key;
        let runs = facts.segments.runs_since(since_position, with_open);
        for run in runs.into_iter().filter(|run| run.rows >= spec.retrain.min_segment_rows) {
            needs = needs.max(run.last_position + 1);
            segments.push(DataRange {
                agent: agent.clone(),
                stream: stream.clone(),
                from_ms: run.from_ms,
                to_ms: run.to_ms,
                rows: run.rows,
            });
        }
        let said = labels.normal_since(key, since_position, &segments).into_iter();
        // What was labelled is in the sample store already.
        let said = said.filter(|label| label.rows >= spec.retrain.min_segment_rows).map(|label| DataRange {
            agent: agent.clone(),
            stream: stream.clone(),
            from_ms: label.from_ms,
            to_ms: label.to_ms,
            rows: label.rows,
        });
        segments.extend(said.collect::<Vec<_>>());
    }
    let name = format!("known-normal readings since {because}");
    (needs, Selection { since_position, name, segments })
}
