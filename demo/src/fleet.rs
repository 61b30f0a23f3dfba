//! A fleet in one process: real agents at a real hub, live readings at all of them, and a plan of what happens.

pub mod candidates;
mod cohort;
mod live;
pub mod plan;
mod training;
pub mod trials;

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, bail};
use edge_agent::clock::Clock;
use serde::Serialize;
use serde_json::{Value, json};
use shared::ids::{AgentId, ChannelName, ModelVersion};

use crate::broker;
use crate::hub_api::HubApi;
use crate::observe::Observer;
use crate::plant;
use crate::play::pause;
use crate::publish::Publisher;
use crate::scenario::Scenario;
use crate::site::{self, MODEL, Plan, Site};
use crate::story::{Story, Tone};
use live::Live;
use plan::{End, FleetPlan, SensorFault, Step};

/// How often the hub and the boxes are looked at.
const POLL: Duration = Duration::from_millis(50);
/// The longest a rollout of a plan may take, and a fleet may need to come to rest.
const ROLLOUT_DEADLINE_S: f64 = 120.0;
/// What the issue of a bad version promises: every box is back on the one before by then.
const BACK_DEADLINE_S: f64 = 60.0;

/// What became of a plan.
#[derive(Debug, Serialize)]
pub struct FleetSummary {
    /// What it shows.
    pub plan: String,
    /// Boxes.
    pub fleet: usize,
    /// Whether every step ended as it must.
    pub as_planned: bool,
    /// Each step.
    pub steps: Vec<Value>,
    /// Readings published, and at the hub in the end.
    pub published: u64,
    /// Readings at the hub.
    pub at_hub: u64,
    /// How long it took.
    pub seconds: f64,
}

impl FleetSummary {
    /// The result for people.
    #[must_use]
    pub fn to_text(&self) -> String {
        let good = self.steps.iter().filter(|step| step["as_planned"] == true).count();
        format!(
            "{good} of {} steps went as planned; {} of {} readings are at the hub; {:.0} s",
            self.steps.len(),
            self.at_hub,
            self.published,
            self.seconds
        )
    }
}

/// How to carry a plan out.
pub struct Options<'a> {
    /// The folder for everything.
    pub directory: &'a Path,
    /// The seed of the simulated plant and of training.
    pub seed: u64,
    /// Where the hub's HTTP interface is to be, if that matters.
    pub api: Option<SocketAddr>,
    /// Whether the fleet runs on after the last step, until it is interrupted.
    pub hold: bool,
}

/// A fleet that runs.
struct Fleet<'a> {
    story: &'a Story,
    site: Site,
    names: Vec<AgentId>,
    observer: Observer,
    api: HubApi,
    clock: Clock,
    offline: usize,
    /// What the boxes that are offline served.
    left_with: u64,
}

/// Carries a plan out.
///
/// # Errors
/// If something breaks that the plan did not mean to; a step that ends otherwise than planned is no error, the summary
/// says so.
pub fn run(plan: &FleetPlan, options: &Options<'_>, story: &Story) -> anyhow::Result<FleetSummary> {
    let Options { directory, seed, api, hold } = options;
    let clock = Clock::start();
    let scenario = plant::scenario(*seed);
    let broker = broker::start()?;
    let (observer, observing) = Observer::connect(broker)?;
    observer.drop_predictions();
    let groups = plan.cohorts.iter().map(|(cohort, boxes)| (cohort.as_str(), *boxes)).chain([("box", plan.boxes)]);
    let names: Vec<AgentId> = groups
        .flat_map(|(group, boxes)| (1..=boxes).map(move |number| AgentId::new(&format!("{group}-{number:03}"))))
        .collect::<Result<_, _>>()?;
    let site = Site::start(&Plan {
        directory,
        broker,
        stream: &scenario.stream,
        channels: &scenario.channels,
        agents: names.iter().map(|name| (name.clone(), None)).collect(),
        device: "flex",
        seed: *seed,
        hub: (broker::free_port()?, api.map_or_else(broker::free_port, Ok)?),
        cohorts: plan.cohorts.iter().map(|(cohort, _)| cohort.clone()).collect(),
        cooldown_s: plan.cooldown_s,
        stages: plan.stages.clone(),
        min_answers: plan.min_answers,
    })?;
    story.tell(Tone::Plain, &format!("broker, hub and {} boxes are up in {}", names.len(), directory.display()));
    story.tell(Tone::Plain, &format!("the dashboard: {}", site.dashboard()));
    let api = HubApi::new(site.api, &site.hub_directory);
    let mut fleet = Fleet { story, site, names, observer, api, clock, offline: 0, left_with: 0 };
    fleet.wait("the boxes' first status", |fleet| fleet.seen(|_, _| true) == fleet.names.len())?;
    let mut publisher = Publisher::connect(broker)?;
    let baseline = fleet.first_versions(&scenario, &mut publisher, plan)?;
    let live = Live::start(publisher, &scenario, &fleet.names, plan)?;
    fleet.wait("every box to answer", |fleet| fleet.serving(1) == fleet.names.len())?;
    story.tell(
        Tone::Plain,
        &format!("every box answers with version 1, {} readings a second each", plan.readings_per_s),
    );
    let mut steps = Vec::new();
    for step in &plan.steps {
        steps.push(fleet.step(step, &live)?);
    }
    if *hold {
        crate::hold::until_interrupted(story)?;
    }
    let published = baseline + live.stop()?;
    // What was published for a box that is away is still at the broker.
    let all_are_there = fleet.offline == 0;
    if all_are_there {
        fleet.wait("every reading at the hub", |fleet| fleet.api.at_hub().is_ok_and(|at_hub| at_hub >= published))?;
    }
    let at_hub = fleet.api.at_hub()?;
    drop(observing.disconnect());
    let Fleet { site, names, .. } = fleet;
    site.stop()?;
    let as_planned = steps.iter().all(|step| step["as_planned"] == true) && (published == at_hub || !all_are_there);
    let (says, fleet) = (plan.says.clone(), names.len());
    Ok(FleetSummary { plan: says, fleet, as_planned, steps, published, at_hub, seconds: seconds(&clock) })
}

impl Fleet<'_> {
    /// Trains version 1 of each model on what its first boxes measure.
    fn first_versions(
        &mut self,
        scenario: &Scenario,
        publisher: &mut Publisher,
        plan: &FleetPlan,
    ) -> anyhow::Result<u64> {
        let mut published = 0;
        let cohorts = plan.cohorts.iter().map(|(cohort, _)| (cohort.as_str(), site::model_of(cohort)));
        let models: Vec<(&str, String)> = cohorts.chain([("box", MODEL.to_owned())]).collect();
        for (group, _) in &models {
            let of_group = self.names.iter().filter(|name| name.as_str().starts_with(&format!("{group}-")));
            for name in of_group.take(plan.baseline_boxes) {
                for row in scenario.phases[0].recordings.iter().flat_map(|recording| &recording.rows) {
                    publisher.publish(name.as_str(), &scenario.stream, &scenario.channels, row)?;
                    published += 1;
                }
            }
        }
        self.wait("the baseline at the hub", |fleet| fleet.api.at_hub().is_ok_and(|at_hub| at_hub >= published))?;
        for (_, model) in &models {
            self.api.post(&format!("models/{model}/retraining"), &json!({}))?;
            self.wait("version 1", |fleet| fleet.versions_of(model) == 1)?;
        }
        Ok(published)
    }

    fn step(&mut self, step: &Step, live: &Live) -> anyhow::Result<Value> {
        match step {
            Step::Sensor { number, channel, fault, cause } => {
                let name = self.names[number.saturating_sub(1).min(self.names.len() - 1)].clone();
                self.sensor(live, &name, channel, *fault, cause)
            }
            Step::Spoil { number, channel, fault } => {
                let name = self.names[number.saturating_sub(1).min(self.names.len() - 1)].clone();
                live.spoil(&name, channel, Some(*fault))?;
                self.story.tell(Tone::Notice, &format!("{name}: {channel} says something else from now on"));
                Ok(json!({ "step": "spoil", "box": name.as_str(), "channel": channel.as_str(), "as_planned": true }))
            }
            Step::Bring(kind) => {
                let (version, taken) = self.bring(*kind, true)?;
                let as_planned = taken.is_ok();
                self.story.tell(Tone::Plain, &format!("version {version} is brought to the hub"));
                Ok(json!({ "step": "bring", "version": version, "refused": taken.err(), "as_planned": as_planned }))
            }
            Step::MoveCohort(cohort) => self.move_cohort(live, cohort),
            Step::Retrain { hub_restarts } => self.retrain(*hub_restarts),
            Step::Offline(count) => {
                self.offline = (*count).min(self.names.len());
                self.left_with = self.champion();
                let last = self.names[self.names.len() - self.offline..].to_vec();
                self.site.stop_agents(&last)?;
                self.story.tell(Tone::Notice, &format!("{} boxes go offline", self.offline));
                Ok(json!({ "step": "offline", "boxes": self.offline, "as_planned": true }))
            }
            Step::Online {} => {
                let last = self.names[self.names.len() - self.offline..].to_vec();
                self.observer.look(|seen| {
                    seen.versions.clear();
                    last.iter().for_each(|name| drop(seen.status.remove(name.as_str())));
                });
                self.site.start_agents(&last)?;
                self.offline = 0;
                let champion = self.champion();
                let caught_up =
                    self.wait("the boxes to catch up", |fleet| fleet.serving(champion) == fleet.names.len());
                let passed: BTreeSet<u64> = self.observer.look(|seen| {
                    last.iter().filter_map(|name| seen.versions.get(name.as_str())).flatten().copied().collect()
                });
                let is_straight = passed.iter().all(|version| [self.left_with, champion].contains(version));
                self.story.tell(Tone::Good, &format!("the boxes are back, with version {champion}"));
                Ok(json!({
                    "step": "online", "champion": champion, "versions_served": passed,
                    "as_planned": caught_up.is_ok() && is_straight,
                }))
            }
            Step::Publish { kind, skip_proof, ends, hub_restarts, better } => {
                let name = serde_json::to_value(kind)?;
                let name = name.as_str().unwrap_or_default().to_owned();
                let mut published = self.publish(&name, *kind, *skip_proof, *ends, *hub_restarts)?;
                if !trials::are_as_planned(&published["evidence"], *better) {
                    published["as_planned"] = json!(false);
                }
                Ok(published)
            }
        }
    }

    /// Spoils a sensor until the hub says what it takes that for.
    fn sensor(
        &self,
        live: &Live,
        name: &AgentId,
        channel: &ChannelName,
        fault: SensorFault,
        cause: &str,
    ) -> anyhow::Result<Value> {
        let runs = || self.api.runs().map_or(0, |runs| runs.len());
        let before = runs();
        let started = seconds(&self.clock);
        live.spoil(name, channel, Some(fault))?;
        let alarm = |fleet: &Self| -> Option<Value> {
            let alarms = fleet.api.get("drift").ok()?["alarms"].as_array()?.clone();
            alarms.into_iter().rfind(|alarm| alarm["agent"] == name.as_str() && alarm["cleared"].is_null())
        };
        self.wait("an alarm", |fleet| alarm(fleet).is_some())?;
        let alarm = alarm(self).unwrap_or_default();
        let took = seconds(&self.clock) - started;
        let others = self.api.get("drift")?["alarms"].as_array().map_or(0, |alarms| {
            alarms.iter().filter(|alarm| alarm["agent"] != name.as_str() && alarm["cleared"].is_null()).count()
        });
        live.spoil(name, channel, None)?;
        self.wait("the alarm to end", |fleet| {
            let alarms = fleet.api.get("drift").unwrap_or_default();
            alarms["alarms"].as_array().is_some_and(|alarms| alarms.iter().all(|alarm| !alarm["cleared"].is_null()))
        })?;
        let trained = runs() - before;
        let named = alarm["cause"]["channel"] == channel.as_str() && alarm["cause"]["kind"] == cause;
        let as_planned = named && trained == 0 && others == 0;
        let because = alarm["because"].as_str().unwrap_or_default().to_owned();
        let tone = if as_planned { Tone::Good } else { Tone::Refused };
        self.story.tell(tone, &format!("{name}: {because}, said after {took:.1} s; {trained} trainings"));
        Ok(json!({
            "step": "sensor", "box": name.as_str(), "channel": channel.as_str(), "cause": alarm["cause"],
            "because": because, "alarms_elsewhere": others, "trainings": trained, "seconds": took,
            "as_planned": as_planned,
        }))
    }

    fn publish(
        &mut self,
        name: &str,
        kind: candidates::Kind,
        skip_proof: bool,
        ends: End,
        hub_restarts: usize,
    ) -> anyhow::Result<Value> {
        let started = seconds(&self.clock);
        let champion = self.champion();
        let (version, taken) = self.bring(kind, skip_proof)?;
        let mut watch = Watch::default();
        let (ended, reason) = match taken {
            Err(reason) => (End::Refused, reason),
            Ok(()) => self.follow(version, champion, hub_restarts, &mut watch)?,
        };
        let rollouts = self.api.rollouts()?;
        let evidence = rollouts.iter().rfind(|rollout| rollout["version"] == version).map(|one| &one["evidence"]);
        let took = seconds(&self.clock) - started;
        let as_planned = ended == ends && watch.excess == 0 && watch.back_s.is_none_or(|back| back <= BACK_DEADLINE_S);
        let tone = if as_planned { Tone::Good } else { Tone::Refused };
        self.story.tell(tone, &format!("{name}: {} after {took:.1} s: {reason}", in_words(ended)));
        Ok(json!({
            "step": "publish", "kind": name, "skip_proof": skip_proof, "version": version, "ended": ended, "reason": reason,
            "most_boxes": watch.most, "beyond_its_stage": watch.excess, "back_on_the_box_s": watch.back_s,
            "hub_restarts": hub_restarts, "evidence": evidence, "seconds": took, "as_planned": as_planned,
        }))
    }

    /// Brings a version of a kind to the hub, made of the champion: its number, and why it is refused if it is.
    fn bring(&self, kind: candidates::Kind, skip_proof: bool) -> anyhow::Result<(u64, Result<(), String>)> {
        let version = self.versions() + 1;
        let key = cloud_hub::release_key::load(&self.site.hub_directory.join("release.key"))?;
        let package = self.package(self.champion())?;
        let bytes = kind.make(&package, ModelVersion(u32::try_from(version)?), &key)?;
        let path = format!("models/{MODEL}/versions?skip_proof={skip_proof}");
        Ok((version, self.api.post_bytes(&path, &bytes)?))
    }

    /// Watches a rollout to its end.
    fn follow(
        &mut self,
        version: u64,
        champion: u64,
        hub_restarts: usize,
        watch: &mut Watch,
    ) -> anyhow::Result<(End, String)> {
        let deadline = seconds(&self.clock) + ROLLOUT_DEADLINE_S;
        let mut restarts_left = hub_restarts;
        let mut rollout = json!(null);
        while seconds(&self.clock) < deadline {
            let served = self.serving(version);
            self.newer_picture(deadline);
            if let Ok(rollouts) = self.api.rollouts()
                && let Some(found) = rollouts.into_iter().rfind(|rollout| rollout["version"] == version)
            {
                rollout = found;
                watch.look(served, &rollout, self.names.len());
            }
            if !rollout["ended"].is_null() {
                break;
            }
            if restarts_left > 0 {
                restarts_left -= 1;
                self.site.restart_hub()?;
            }
            pause(POLL);
        }
        let reason = rollout["log"].as_array().and_then(|log| log.last()).map(|said| said["said"].clone());
        let reason = reason.as_ref().and_then(Value::as_str).unwrap_or("it did not end").to_owned();
        match rollout["state"].as_str() {
            Some("released") => {
                self.wait("every box to serve it", |fleet| fleet.serving(version) == fleet.online())?;
                Ok((End::Released, reason))
            }
            Some("rolled_back") => {
                let since = seconds(&self.clock);
                self.wait("every box to go back", |fleet| fleet.serving(champion) == fleet.online())?;
                watch.back_s = Some(seconds(&self.clock) - since);
                Ok((End::RolledBack, reason))
            }
            other => bail!("version {version} is {other:?} after {ROLLOUT_DEADLINE_S} s"),
        }
    }

    /// Waits until what the hub shows is newer than what the boxes have said so far.
    fn newer_picture(&self, deadline: f64) {
        let pictures = || self.api.get("ledger").ok().and_then(|ledger| ledger["pictures"].as_u64());
        let before = pictures();
        while seconds(&self.clock) < deadline && pictures().is_none_or(|now| Some(now) == before) {
            pause(POLL);
        }
    }

    /// The package of a version.
    fn package(&self, version: u64) -> anyhow::Result<Vec<u8>> {
        let versions = self.api.items(&format!("models/{MODEL}/versions"))?;
        let found = versions.iter().find(|one| one["version"] == version).context("the champion's version")?;
        let digest = found["digest"].as_str().unwrap_or_default();
        let file = self.site.hub_directory.join("packages").join(format!("{digest}.tide"));
        std::fs::read(&file).with_context(|| format!("read {}", file.display()))
    }

    fn champion(&self) -> u64 {
        self.champion_of(MODEL)
    }

    fn champion_of(&self, model: &str) -> u64 {
        self.api.get(&format!("models/{model}")).ok().and_then(|model| model["champion"].as_u64()).unwrap_or(0)
    }

    fn versions(&self) -> u64 {
        self.versions_of(MODEL)
    }

    fn versions_of(&self, model: &str) -> u64 {
        let versions = self.api.items(&format!("models/{model}/versions")).unwrap_or_default();
        versions.iter().filter_map(|one| one["version"].as_u64()).max().unwrap_or(0)
    }

    fn online(&self) -> usize {
        self.names.len() - self.offline
    }

    /// Boxes that are online, serve a version and have answered.
    fn serving(&self, version: u64) -> usize {
        self.seen(|seen, name| seen.number(name, "/model/version") == version)
    }

    fn seen(&self, is: impl Fn(&crate::observe::Seen, &str) -> bool) -> usize {
        let online = &self.names[..self.online()];
        self.observer.look(|seen| {
            online.iter().filter(|name| seen.status.contains_key(name.as_str()) && is(seen, name.as_str())).count()
        })
    }

    fn wait(&self, what: &str, ready: impl Fn(&Self) -> bool) -> anyhow::Result<()> {
        let deadline = seconds(&self.clock) + ROLLOUT_DEADLINE_S;
        while seconds(&self.clock) < deadline {
            if ready(self) {
                return Ok(());
            }
            pause(POLL);
        }
        bail!("waited {ROLLOUT_DEADLINE_S} s for {what}")
    }
}

/// What is looked for while a version is rolled out.
#[derive(Debug, Default)]
struct Watch {
    /// Boxes that served it at once, at most.
    most: usize,
    /// How many that was beyond what its stage allows.
    excess: usize,
    /// Until no box served it, from its end on.
    back_s: Option<f64>,
}

impl Watch {
    /// `served` was counted before the rollout was asked for, which only grows.
    fn look(&mut self, served: usize, rollout: &Value, boxes: usize) {
        self.most = self.most.max(served);
        let stage = rollout["stage"].as_u64().unwrap_or(1) as usize;
        let stage = &rollout["stages"][stage - 1];
        let percent = stage["percent"].as_u64().unwrap_or(100) as usize;
        // In shadow nothing is served that was not before.
        let allowed = if stage["mode"]["mirror"].is_null() {
            (boxes * percent).div_ceil(100).max(1)
        } else {
            rollout["box_count"].as_u64().unwrap_or(0) as usize
        };
        self.excess = self.excess.max(served.saturating_sub(allowed));
    }
}

fn seconds(clock: &Clock) -> f64 {
    clock.monotonic().as_seconds()
}

fn in_words(ended: End) -> &'static str {
    match ended {
        End::Refused => "refused",
        End::RolledBack => "rolled back",
        End::Released => "released",
    }
}
