//! Playing a scenario: baseline, live, evaluation, as an operator and a plant would.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, bail};
use serde_json::{Value, json};
use shared::ids::AgentId;

use crate::broker;
use crate::hub_api::HubApi;
use crate::observe::Observer;
use crate::publish::Publisher;
use crate::scenario::{Phase, Purpose, Recording, Row, Scenario};
use crate::score::{self, Quality};
use crate::site::{self, MODEL, Plan, Site, StagePlan};
use crate::story::{Story, Tone};
use crate::summary::{self, Outcome, Summary};

/// Readings published ahead of what agents say they have made durable, over all agents.
const WINDOW: u64 = 2_000;
/// The longest any one step may take before something is wrong.
const STEP_DEADLINE: Duration = Duration::from_secs(60);
/// How often the hub is asked while something is waited for.
const POLL: Duration = Duration::from_millis(50);

/// How to play.
pub struct Options {
    /// The folder for everything.
    pub directory: PathBuf,
    /// The device boxes answer on.
    pub device: String,
    /// The seed of training.
    pub seed: u64,
    /// Live readings a second, at most; 0 for as fast as they are accepted.
    pub rate: u64,
    /// Whether live recordings go to two agents in turn.
    pub two_lines: bool,
    /// Where the hub's HTTP interface is to be, if that matters.
    pub api: Option<SocketAddr>,
    /// Whether everything runs on after the last step, until it is interrupted.
    pub hold: bool,
}

/// A scenario being played.
struct Play<'a> {
    scenario: &'a Scenario,
    options: &'a Options,
    story: &'a Story,
    observer: Observer,
    publisher: Publisher,
    api: HubApi,
    published: Vec<Published>,
}

/// What was published to one agent.
pub struct Published {
    /// The agent.
    pub agent: AgentId,
    /// Whether it is pinned to version 1.
    pub pinned: bool,
    /// Readings, in order.
    pub rows: Vec<Row>,
}

/// Plays a scenario from an empty site to the summary.
///
/// # Errors
/// If something breaks; a loop that did not close is no error, the summary says so.
pub fn play(scenario: &Scenario, options: &Options, story: &Story) -> anyhow::Result<Summary> {
    let broker = broker::start()?;
    let (observer, observing) = Observer::connect(broker)?;
    let mut agents = vec![(AgentId::new("line-1")?, None)];
    if options.two_lines {
        agents.push((AgentId::new("line-2")?, None));
    }
    agents.push((AgentId::new("pinned")?, Some(1)));
    let site = Site::start(&Plan {
        directory: &options.directory,
        broker,
        stream: &scenario.stream,
        channels: &scenario.channels,
        agents: agents.clone(),
        device: &options.device,
        seed: options.seed,
        hub: (site::any_port(), options.api.unwrap_or_else(site::any_port)),
        cohorts: Vec::new(),
        cooldown_s: 0,
        stages: vec![StagePlan::all()],
        min_answers: None,
    })?;
    let names: Vec<AgentId> = agents.iter().map(|(agent, _)| agent.clone()).collect();
    story.tell(
        Tone::Plain,
        &format!("broker, hub and {} agents are up in {}", agents.len(), options.directory.display()),
    );
    story.tell(Tone::Plain, &format!("the dashboard: {}", site.dashboard()));
    let api = HubApi::new(site.api, &site.hub_directory);
    let watching = story.watch(&names, observer.clone(), api.clone());
    let mut play = Play {
        scenario,
        options,
        story,
        observer,
        publisher: Publisher::connect(broker)?,
        api,
        published: agents
            .into_iter()
            .map(|(agent, pin)| Published { agent, pinned: pin.is_some(), rows: Vec::new() })
            .collect(),
    };
    let outcome = play.run()?;
    if options.hold {
        crate::hold::until_interrupted(story)?;
    }
    drop(watching);
    drop(observing.disconnect());
    let Play { published, .. } = play;
    story.tell(Tone::Plain, "stopping; the hub puts everything into the sample store");
    let hub_directory = site.hub_directory.clone();
    site.stop()?;
    summary::summarise(scenario, options, &published, &hub_directory, &outcome, story.seconds())
}

impl Play<'_> {
    fn run(&mut self) -> anyhow::Result<Outcome> {
        self.wait("the agents' first status", |play| {
            play.observer.look(|seen| play.published.iter().all(|agent| seen.status.contains_key(agent.agent.as_str())))
        })?;
        for phase in self.scenario.phases.iter().filter(|phase| phase.purpose == Purpose::Baseline) {
            self.baseline(phase)?;
        }
        self.first_version()?;
        for phase in self.scenario.phases.iter().filter(|phase| phase.purpose == Purpose::Live) {
            self.live(phase)?;
        }
        self.settle()?;
        self.forget_predictions();
        let (mut before, mut after) = (score::Counts::default(), score::Counts::default());
        let mut unanswered = 0;
        for phase in self.scenario.phases.iter().filter(|phase| phase.purpose == Purpose::Evaluate) {
            let [pinned, following] = self.evaluate(phase)?;
            for (sum, (counts, missing)) in [(&mut before, pinned), (&mut after, following)] {
                sum.true_positive += counts.true_positive;
                sum.true_negative += counts.true_negative;
                sum.false_positive += counts.false_positive;
                sum.false_negative += counts.false_negative;
                unanswered += missing;
            }
        }
        let (before, after) = (before.quality(), after.quality());
        self.tell_quality(Tone::Refused, "version 1, pinned", before);
        self.tell_quality(Tone::Good, "following the hub", after);
        Ok(Outcome {
            before,
            after,
            unanswered,
            accepted: self.accepted(),
            rejected: self.total("/readings/rejected"),
            duplicates_dropped: self.number("/readings/duplicates"),
            at_hub: self.api.at_hub()?,
            drift: self.api.get("drift")?["alarms"].clone(),
            model: self.api.get(&format!("models/{MODEL}"))?,
            runs: self.api.runs()?,
        })
    }

    fn baseline(&mut self, phase: &Phase) -> anyhow::Result<()> {
        self.story.tell(Tone::Plain, &format!("{}: {} readings of normal operation", phase.name, rows(phase)));
        for recording in &phase.recordings {
            self.publish(&recording.rows, &[0], 0)?;
        }
        self.delivered()
    }

    fn first_version(&mut self) -> anyhow::Result<()> {
        self.story.tell(Tone::Plain, "the operator asks the hub for a first version");
        self.api.post(&format!("models/{MODEL}/retraining"), &json!({}))?;
        self.wait("version 1", |play| play.newest_version().is_some())?;
        self.agents_serve()?;
        self.story.tell(Tone::Plain, "version 1 is on every box");
        Ok(())
    }

    fn live(&mut self, phase: &Phase) -> anyhow::Result<()> {
        self.story.tell(Tone::Plain, &format!("{}: {} readings, live", phase.name, rows(phase)));
        let mut told = Told::default();
        for (index, recording) in phase.recordings.iter().enumerate() {
            let line = if self.options.two_lines { index % 2 } else { 0 };
            let Recording { name, rows } = recording;
            for part in rows.chunks(100) {
                self.publish(part, &[line], self.options.rate)?;
                self.tell_news(&mut told)?;
            }
            tracing::info!(recording = name, "published");
        }
        self.delivered()?;
        self.wait_telling("training", &mut told, |play| play.is_idle())?;
        Ok(())
    }

    /// Both agents answer the same readings.
    fn evaluate(&mut self, phase: &Phase) -> anyhow::Result<[(score::Counts, u64); 2]> {
        self.story.tell(Tone::Plain, &format!("{}: {} readings, answered side by side", phase.name, rows(phase)));
        let pinned = self.published.iter().position(|agent| agent.pinned).context("no agent is pinned")?;
        for recording in &phase.recordings {
            for part in recording.rows.chunks(100) {
                self.publish(part, &[pinned, 0], 0)?;
            }
        }
        self.delivered()?;
        let expected = rows(phase);
        let name = |index: usize| self.published[index].agent.to_string();
        let names = [name(pinned), name(0)];
        // Every reading gets an answer; a few seconds are plenty, and what is missing then is counted.
        self.observer.wait(Duration::from_secs(10), |seen| {
            names.iter().all(|name| seen.predictions.get(name).map_or(0, VecDeque::len) >= expected)
        });
        let rows: Vec<&Row> = phase.recordings.iter().flat_map(|recording| &recording.rows).collect();
        Ok(names.map(|name| {
            let answers = self.observer.look(|seen| seen.predictions.remove(&name)).unwrap_or_default();
            score::score(rows.iter().copied(), &answers)
        }))
    }

    /// Publishes rows to agents, as fast as their acknowledgements allow, and not faster than `rate` a second.
    fn publish(&mut self, rows: &[Row], agents: &[usize], rate: u64) -> anyhow::Result<()> {
        let started = self.story.seconds();
        for (index, row) in rows.iter().enumerate() {
            for agent in agents {
                let target = &mut self.published[*agent];
                self.publisher.publish(target.agent.as_str(), &self.scenario.stream, &self.scenario.channels, row)?;
                target.rows.push(row.clone());
            }
            if index % 50 == 0 {
                self.keep_window()?;
            }
        }
        if rate > 0 {
            let due = rows.len() as f64 / rate as f64 - (self.story.seconds() - started);
            if due > 0.0 {
                pause(Duration::from_secs_f64(due));
            }
        }
        Ok(())
    }

    fn keep_window(&self) -> anyhow::Result<()> {
        let published = self.published_count();
        let names: Vec<&str> = self.published.iter().map(|agent| agent.agent.as_str()).collect();
        let kept = self.observer.wait(STEP_DEADLINE, |seen| {
            let accepted: u64 = names.iter().map(|name| seen.number(name, "/readings/accepted")).sum();
            published.saturating_sub(accepted) < WINDOW
        });
        if kept { Ok(()) } else { bail!("the agents stopped accepting readings") }
    }

    fn delivered(&mut self) -> anyhow::Result<()> {
        let published = self.published_count();
        self.wait("delivery to the hub", |play| play.api.at_hub().is_ok_and(|at_hub| at_hub >= published))
    }

    /// Waits until every following box serves the newest version.
    fn settle(&mut self) -> anyhow::Result<()> {
        self.agents_serve()?;
        let newest = self.newest_version().unwrap_or(0);
        self.story.tell(Tone::Good, &format!("version {newest} is on every box that follows the hub"));
        Ok(())
    }

    fn agents_serve(&self) -> anyhow::Result<()> {
        self.wait("the agents to take the version", |play| {
            let newest = play.newest_version().unwrap_or(0);
            play.observer.look(|seen| {
                play.published.iter().all(|agent| {
                    let wanted = if agent.pinned { 1 } else { newest };
                    seen.number(agent.agent.as_str(), "/model/version") == wanted
                })
            })
        })
    }

    fn forget_predictions(&self) {
        self.observer.look(|seen| seen.predictions.clear());
    }

    fn published_count(&self) -> u64 {
        self.published.iter().map(|agent| agent.rows.len() as u64).sum()
    }

    fn newest_version(&self) -> Option<u64> {
        self.api.items(&format!("models/{MODEL}/versions")).ok()?.last()?["version"].as_u64()
    }

    fn is_idle(&self) -> bool {
        self.api.get("ledger").is_ok_and(|ledger| ledger["training_idle"] == true)
    }

    fn number(&self, pointer: &str) -> u64 {
        self.observer.look(|seen| self.published.iter().map(|agent| seen.number(agent.agent.as_str(), pointer)).sum())
    }

    fn accepted(&self) -> u64 {
        self.number("/readings/accepted")
    }

    fn total(&self, pointer: &str) -> u64 {
        let sum = |status: &Value| -> u64 {
            let counts = status.pointer(pointer).and_then(Value::as_object);
            counts.map_or(0, |counts| counts.values().filter_map(Value::as_u64).sum())
        };
        self.observer.look(|seen| seen.status.values().map(sum).sum())
    }

    fn wait(&self, what: &str, ready: impl Fn(&Self) -> bool) -> anyhow::Result<()> {
        self.wait_telling(what, &mut Told::silent(), ready)
    }

    fn wait_telling(&self, what: &str, told: &mut Told, ready: impl Fn(&Self) -> bool) -> anyhow::Result<()> {
        let deadline = self.story.seconds() + STEP_DEADLINE.as_secs_f64();
        while !ready(self) {
            if self.story.seconds() > deadline {
                bail!("waited {} s for {what}", STEP_DEADLINE.as_secs());
            }
            self.tell_news(told)?;
            pause(POLL);
        }
        self.tell_news(told)
    }

    /// Tells what happened at the hub since it was last told.
    fn tell_news(&self, told: &mut Told) -> anyhow::Result<()> {
        if told.silent {
            return Ok(());
        }
        let alarms = self.api.get("drift")?["alarms"].as_array().cloned().unwrap_or_default();
        for alarm in alarms.iter().skip(told.alarms) {
            self.story.tell(Tone::Notice, &format!("drift: {}", summary::describe_alarm(alarm)));
        }
        told.alarms = alarms.len();
        let runs = self.api.runs()?;
        let finished: Vec<&Value> = runs.iter().filter(|run| run["state"] != "running").collect();
        for run in finished.iter().skip(told.runs.max(1)) {
            summary::describe_run(run).iter().for_each(|(tone, line)| self.story.tell(*tone, line));
        }
        told.runs = finished.len();
        Ok(())
    }

    fn tell_quality(&self, tone: Tone, who: &str, quality: Quality) {
        self.story.tell(tone, &format!("{who}: {}", summary::describe_quality(quality)));
    }
}

/// What was told already.
#[derive(Default)]
struct Told {
    alarms: usize,
    runs: usize,
    silent: bool,
}

impl Told {
    fn silent() -> Self {
        Self { silent: true, ..Self::default() }
    }
}

fn rows(phase: &Phase) -> usize {
    phase.recordings.iter().map(|recording| recording.rows.len()).sum()
}

/// Lets time pass.
pub(crate) fn pause(time: Duration) {
    #[expect(clippy::disallowed_methods, reason = "the plant's own pace, and a poll of the hub's HTTP interface")]
    std::thread::sleep(time);
}
