//! Killing the agent and the hub at seeded moments of a whole scenario: nothing is lost and nothing is there twice.

use std::time::Duration;

use anyhow::{Context, bail};
use demo::fleet::candidates::Kind;
use demo::hub_api::HubApi;
use demo::observe::Observer;
use demo::play::Published;
use demo::publish::Publisher;
use demo::scenario::{Row, Scenario};
use demo::site::{self, MODEL, Plan};
use demo::{broker, plant, summary};
use rand::rngs::StdRng;
use rand::seq::index;
use rand::{RngExt, SeedableRng};
use serde_json::json;
use shared::ids::{AgentId, ModelVersion};
use tests::{Process, free_port, pause, wait_until};

const KILLS: usize = 20;
/// Kills of a hub that rolls versions out.
const ROLLOUT_KILLS: usize = 50;
/// Kills of a hub that trains, at most.
const TRAINING_KILLS: u64 = 8;
/// Readings published ahead of what the agent says it has made durable.
const WINDOW: u64 = 400;
const DEADLINE: Duration = Duration::from_secs(60);
/// Half the time after which an agent takes a hub that does not acknowledge for dead (`ACK_TIMEOUT_MS`).
const REUNION: Duration = Duration::from_secs(15);

#[test]
fn twenty_kills_of_agent_and_hub_lose_nothing_and_double_nothing() {
    let directory = tempfile::tempdir().expect("dir");
    let seed = 7;
    let seen = World::start(directory.path(), seed).and_then(World::run);
    let right =
        seen.as_ref().is_ok_and(|seen| (seen.lost, seen.doubled, seen.kills) == (0, 0, KILLS) && seen.versions >= 1);
    if !right {
        panic!("seed {seed}: {seen:?}; everything is kept in {}", directory.keep().display());
    }
}

/// The agent cannot see that the hub it talks to is another process: the new one has to say so.
#[test]
fn a_hub_that_was_killed_has_new_readings_before_the_agent_gives_up_on_the_old_one() {
    let directory = tempfile::tempdir().expect("dir");
    let reunited = World::start(directory.path(), 7).and_then(|mut world| {
        let rows = world.scenario.phases[0].recordings[0].rows[..100].to_vec();
        rows[..50].iter().try_for_each(|row| world.publish(row))?;
        world.wait("readings at the hub", || world.at_hub() >= 50)?;
        world.hub.kill()?;
        world.hub.restart()?;
        rows[50..].iter().try_for_each(|row| world.publish(row))?;
        world.wait_for(REUNION, "readings at the new hub", || world.at_hub() >= 100)
    });
    if let Err(error) = reunited {
        panic!("{error:#}; everything is kept in {}", directory.keep().display());
    }
}

/// Restored, the box goes past the place where the hub has other readings before the two meet.
#[test]
fn a_box_whose_disk_was_restored_loses_nothing_new_and_merges_nothing() {
    let directory = tempfile::tempdir().expect("dir");
    let seen = World::start(directory.path(), 7).and_then(World::restore_the_box);
    match seen {
        Ok((lost, doubled, epochs)) => {
            assert_eq!((lost, epochs), (0, 2));
            assert!(doubled <= 50, "{doubled} are there twice; only what was not known to be delivered may be");
        }
        Err(error) => panic!("{error:#}; everything is kept in {}", directory.keep().display()),
    }
}

/// Between any two of its writes: each rollout goes on where it was, and ends once.
#[test]
fn a_hub_that_is_killed_during_rollouts_ends_in_the_right_state() {
    let directory = tempfile::tempdir().expect("dir");
    let ended = World::start(directory.path(), 7).and_then(World::kill_the_hub_during_rollouts);
    match ended {
        Ok(ended) => {
            assert!(ended.states.iter().all(|state| state == "released"), "{ended:?}");
            assert_eq!((ended.champion, ended.served), (ended.newest, ended.newest), "{ended:?}");
            assert!(
                ended.states.len() >= 2 && ended.runs == ended.newest,
                "nothing is trained or made twice: {ended:?}"
            );
        }
        Err(error) => panic!("{error:#}; everything is kept in {}", directory.keep().display()),
    }
}

/// What it had computed is kept, what it had not is computed once, and what a person asked for is done once.
#[test]
fn a_hub_that_is_killed_while_it_trains_trains_nothing_twice() {
    let directory = tempfile::tempdir().expect("dir");
    match World::start(directory.path(), 7).and_then(World::kill_the_hub_while_it_trains) {
        Ok(trained) => {
            assert!(trained.kills >= 2 && trained.computed_last < trained.steps, "{trained:?}");
            assert_eq!((trained.versions, trained.computed_again), (3, 0), "a version for each request: {trained:?}");
        }
        Err(error) => panic!("{error:#}; everything is kept in {}", directory.keep().display()),
    }
}

/// Trained twice on the same readings, a model differs in its version, its time and what it was called for.
#[test]
fn a_box_that_has_nearly_the_same_model_is_sent_only_what_differs() {
    let directory = tempfile::tempdir().expect("dir");
    let seen = World::start(directory.path(), 7).and_then(|mut world| {
        world.publish_two_days()?;
        let mut seen = Vec::new();
        for version in 1..=2 {
            world.api.post(&format!("models/{MODEL}/retraining"), &json!({}))?;
            let served = || world.observer.look(|seen| seen.number("line-1", "/model/version") == version);
            world.wait("the box to serve it", served)?;
            seen.push((world.metric("package_bytes_total")?, world.metric("package_bytes_sent_total")?));
        }
        Ok(seen)
    });
    let (first, both) = match seen {
        Ok(seen) => (seen[0], seen[1]),
        Err(error) => panic!("{error:#}; everything is kept in {}", directory.keep().display()),
    };
    let (bytes, sent) = (both.0 - first.0, both.1 - first.1);
    assert!(
        bytes > 5_000 && sent < bytes / 4,
        "{sent} of {bytes} bytes were sent, at first {} of {}",
        first.1,
        first.0
    );
}

/// What a training did that was killed again and again.
#[derive(Debug)]
struct Trained {
    kills: usize,
    versions: usize,
    /// Steps of the run that came to its end, and how many of them that run computed.
    steps: usize,
    computed_last: usize,
    /// Steps that the same training computed once more.
    computed_again: usize,
}

/// What became of the rollouts.
#[derive(Debug)]
struct Ended {
    states: Vec<String>,
    champion: u64,
    newest: u64,
    served: u64,
    runs: u64,
}

#[derive(Debug)]
struct Seen {
    lost: u64,
    doubled: u64,
    kills: usize,
    versions: usize,
}

struct World {
    scenario: Scenario,
    directory: std::path::PathBuf,
    random: StdRng,
    agent_id: AgentId,
    hub: Process,
    agent: Process,
    api: HubApi,
    /// Where the hub's metrics are.
    metrics: String,
    observer: Observer,
    /// Dropped, it would end the observer's connection.
    _observing: rumqttc::v5::Client,
    publisher: Publisher,
    published: Vec<Row>,
    kills: usize,
}

impl World {
    fn start(directory: &std::path::Path, seed: u64) -> anyhow::Result<Self> {
        let scenario = plant::scenario(seed);
        let broker = broker::start()?;
        let agent_id = AgentId::new("line-1")?;
        let hub_ports = (free_port()?, free_port()?);
        let plan = Plan::of_one(directory, broker, &scenario, &agent_id, hub_ports, seed);
        let hub_file = site::write_hub(&plan)?;
        let agent_file = site::write_agent(&plan, &agent_id, None, hub_ports.0)?;
        let hub_arguments = ["serve", "--config", &hub_file.display().to_string()];
        let hub = Process::start("cloud-hub", &hub_arguments, &directory.join("hub.log"))?;
        let agent_arguments = ["run", "--config", &agent_file.display().to_string()];
        let agent = Process::start("edge-agent", &agent_arguments, &directory.join("agent.log"))?;
        let (observer, observing) = Observer::connect(broker)?;
        let world = Self {
            scenario,
            directory: directory.to_owned(),
            random: StdRng::seed_from_u64(seed),
            agent_id,
            hub,
            agent,
            api: HubApi::new(hub_ports.1, &directory.join("hub")),
            metrics: format!("http://{}/metrics", hub_ports.1),
            observer,
            _observing: observing,
            publisher: Publisher::connect(broker)?,
            published: Vec::new(),
            kills: 0,
        };
        // Subscribed before the first reading: what is published before nobody can be asked for.
        world.wait("the agent's first status", || world.accepted().is_some())?;
        Ok(world)
    }

    fn run(mut self) -> anyhow::Result<Seen> {
        let scenario = self.scenario.clone();
        let phases = scenario.phases.iter().map(|phase| {
            phase.recordings.iter().flat_map(|recording| recording.rows.iter().cloned()).collect::<Vec<Row>>()
        });
        let phases: Vec<Vec<Row>> = phases.collect();
        let total = phases.iter().map(Vec::len).sum();
        let mut moments: Vec<usize> = index::sample(&mut self.random, total, KILLS).into_vec();
        moments.sort_unstable();
        for (index, phase) in phases.iter().enumerate() {
            for row in phase {
                if moments.first() == Some(&self.published.len()) {
                    moments.remove(0);
                    self.kill_one()?;
                }
                self.publish(row)?;
            }
            if index == 0 {
                self.wait("the baseline at the hub", || self.at_hub() >= self.published.len() as u64)?;
                self.api.post(&format!("models/{MODEL}/retraining"), &json!({}))?;
                self.wait("version 1", || self.versions() >= 1)?;
            }
        }
        self.wait("every reading at the hub", || self.at_hub() >= self.published.len() as u64)?;
        self.wait("a training that drift called for", || self.judged())?;
        self.wait("training to end", || self.api.get("ledger").is_ok_and(|ledger| ledger["training_idle"] == true))?;
        let versions = self.versions();
        let Self { scenario, directory, agent_id, hub, agent, published, kills, .. } = self;
        agent.stop()?;
        hub.stop()?;
        let published = Published { agent: agent_id, pinned: false, rows: published };
        let (lost, doubled) = summary::difference(&scenario, &published, &directory.join("hub"))?;
        Ok(Seen { lost, doubled, kills, versions })
    }

    /// Normal operation of a day, and again a day later: the gate wants three segments.
    fn publish_two_days(&mut self) -> anyhow::Result<()> {
        let recordings = self.scenario.phases[0].recordings.clone();
        let rows = recordings.iter().flat_map(|recording| recording.rows.clone());
        let again = rows.clone().map(|row| Row { time_ms: row.time_ms + 24 * 3_600_000, ..row });
        rows.chain(again).try_for_each(|row| self.publish(&row))?;
        self.wait("the baseline at the hub", || self.at_hub() >= self.published.len() as u64)
    }

    fn kill_the_hub_while_it_trains(mut self) -> anyhow::Result<Trained> {
        self.publish_two_days()?;
        let ask = |world: &Self| world.api.post(&format!("models/{MODEL}/retraining"), &json!({}));
        let idle = |world: &Self| world.api.get("ledger").is_ok_and(|ledger| ledger["training_idle"] == true);
        ask(&self)?;
        self.wait("version 1", || self.versions() == 1 && idle(&self))?;
        ask(&self)?;
        for kill in 0..TRAINING_KILLS {
            pause(Duration::from_millis(100 * kill + self.random.random_range(50..250)));
            if self.versions() > 1 {
                break;
            }
            self.hub.kill()?;
            self.hub.restart()?;
            self.kills += 1;
            self.wait("the hub to answer", || self.versions() >= 1)?;
        }
        self.wait("version 2", || self.versions() == 2 && idle(&self))?;
        let (steps, computed_last) = self.last_training()?;
        ask(&self)?;
        self.wait("the same training again", || {
            idle(&self)
                && self.last_training().is_ok_and(|(steps, computed)| steps > 0 && computed < computed_last.max(1))
        })?;
        let (_, computed_again) = self.last_training()?;
        let Self { hub, agent, kills, .. } = self;
        let versions = HubApi::items(&self.api, &format!("models/{MODEL}/versions"))?.len();
        agent.stop()?;
        hub.stop()?;
        Ok(Trained { kills, versions, steps, computed_last, computed_again })
    }

    /// Steps of the newest run that tried something, and how many of them it computed.
    fn last_training(&self) -> anyhow::Result<(usize, usize)> {
        let runs = self.api.runs()?;
        let tried = |run: &&serde_json::Value| run["candidates"].as_array().is_some_and(|tried| !tried.is_empty());
        let run = runs.iter().rev().find(tried).context("a run that tried something")?;
        let candidates = run["candidates"].as_array().into_iter().flatten();
        let steps: Vec<&serde_json::Value> =
            candidates.filter_map(|candidate| candidate["steps"].as_array()).flatten().collect();
        Ok((steps.len(), steps.iter().filter(|step| step["cached"] == false).count()))
    }

    fn kill_the_hub_during_rollouts(mut self) -> anyhow::Result<Ended> {
        let rows: Vec<Row> = self.scenario.phases[0].recordings[0].rows.iter().cycle().take(100_000).cloned().collect();
        let first_ms = rows[0].time_ms;
        let mut rows = rows.into_iter().enumerate().map(|(second, row)| Row {
            time_ms: first_ms + 1_000 * second as i64,
            known_normal: second < 1_000,
            ..row
        });
        rows.by_ref().take(1_000).try_for_each(|row| self.publish(&row))?;
        self.wait("the baseline at the hub", || self.at_hub() >= 1_000)?;
        self.api.post(&format!("models/{MODEL}/retraining"), &json!({}))?;
        self.wait("version 1", || self.versions() == 1)?;
        let key = cloud_hub::release_key::load(&self.directory.join("hub/release.key"))?;
        let states = |world: &Self| -> anyhow::Result<Vec<String>> {
            let rollouts = world.api.rollouts()?;
            Ok(rollouts.iter().filter_map(|rollout| Some(rollout["state"].as_str()?.to_owned())).collect())
        };
        let is_over = |world: &Self| states(world).is_ok_and(|states| states.iter().all(|state| state == "released"));
        for _ in 0..ROLLOUT_KILLS {
            if is_over(&self) {
                let versions = self.api.items(&format!("models/{MODEL}/versions"))?;
                let newest = versions.last().context("a version")?;
                let digest = newest["digest"].as_str().context("its digest")?;
                let package = std::fs::read(self.directory.join(format!("hub/packages/{digest}.tide")))?;
                let version = u32::try_from(versions.len())? + 1;
                let package = Kind::Good.make(&package, ModelVersion(version), &key)?;
                let path = format!("models/{MODEL}/versions?skip_proof=true");
                self.api.post_bytes(&path, &package)?.map_err(anyhow::Error::msg)?;
            }
            for row in rows.by_ref().take(60) {
                self.publish(&row)?;
            }
            pause(Duration::from_millis(self.random.random_range(200..2_000)));
            self.hub.kill()?;
            self.hub.restart()?;
            self.wait("the hub to answer", || self.versions() >= 1)?;
        }
        // The agent may wait for a minute before it dials a hub that went away so often; and a version that nobody asks
        // proves nothing.
        for _ in 0..300 {
            if is_over(&self) {
                break;
            }
            rows.by_ref().take(20).try_for_each(|row| self.publish(&row))?;
            pause(Duration::from_millis(500));
        }
        self.wait("every rollout to end", || is_over(&self))?;
        let number = |value: &serde_json::Value| value.as_u64().unwrap_or_default();
        let ended = Ended {
            states: states(&self)?,
            champion: number(&self.api.get(&format!("models/{MODEL}"))?["champion"]),
            newest: self.versions() as u64,
            served: self.observer.look(|seen| seen.number("line-1", "/model/version")),
            runs: self.api.runs()?.len() as u64,
        };
        let Self { hub, agent, .. } = self;
        agent.stop()?;
        hub.stop()?;
        Ok(ended)
    }

    /// Says how many readings are lost and doubled in the end, and under how many epochs they are at the hub.
    fn restore_the_box(mut self) -> anyhow::Result<(u64, u64, usize)> {
        let rows = self.scenario.phases[0].recordings[0].rows[..150].to_vec();
        let epoch = |world: &Self| world.api.items("agents").ok().and_then(|agents| agents[0]["epoch"].as_u64());
        rows[..50].iter().try_for_each(|row| self.publish(row))?;
        self.wait("readings at the hub", || self.at_hub() >= 50)?;
        let first = epoch(&self);
        self.agent.kill()?;
        self.copy("line-1", "copy")?;
        self.agent.restart()?;
        rows[50..100].iter().try_for_each(|row| self.publish(row))?;
        self.wait("readings that the copy does not hold", || self.at_hub() >= 100)?;
        self.hub.kill()?;
        self.agent.kill()?;
        std::fs::remove_dir_all(self.directory.join("line-1"))?;
        self.copy("copy", "line-1")?;
        self.agent.restart()?;
        self.wait("the status of the restored box", || self.accepted().is_some_and(|accepted| accepted <= 50))?;
        rows[100..].iter().try_for_each(|row| self.publish(row))?;
        self.wait("readings on the restored box", || self.accepted().is_some_and(|accepted| accepted >= 100))?;
        self.hub.restart()?;
        self.wait("every reading at the hub", || self.at_hub() >= 150)?;
        let epochs = if epoch(&self) == first { 1 } else { 2 };
        let Self { scenario, directory, agent_id, hub, agent, published, .. } = self;
        agent.stop()?;
        hub.stop()?;
        let published = Published { agent: agent_id, pinned: false, rows: published };
        let (lost, doubled) = summary::difference(&scenario, &published, &directory.join("hub"))?;
        Ok((lost, doubled, epochs))
    }

    fn copy(&self, from: &str, to: &str) -> anyhow::Result<()> {
        let copied = std::process::Command::new("cp")
            .arg("-a")
            .args([self.directory.join(from), self.directory.join(to)])
            .status()?;
        anyhow::ensure!(copied.success(), "{from} could not be copied");
        Ok(())
    }

    fn publish(&mut self, row: &Row) -> anyhow::Result<()> {
        let Scenario { stream, channels, .. } = &self.scenario;
        self.publisher.publish(self.agent_id.as_str(), stream, channels, row)?;
        self.published.push(row.clone());
        if self.published.len().is_multiple_of(50) {
            let published = self.published.len() as u64;
            self.wait("the agent to accept", || self.accepted().is_some_and(|accepted| accepted + WINDOW > published))?;
        }
        Ok(())
    }

    /// Kills the agent or the hub and starts it again at once or a little later.
    fn kill_one(&mut self) -> anyhow::Result<()> {
        let wait = Duration::from_millis(self.random.random_range(0..200));
        let victim = if self.random.random_bool(0.5) { &mut self.agent } else { &mut self.hub };
        victim.kill()?;
        pause(wait);
        victim.restart()?;
        self.kills += 1;
        Ok(())
    }

    fn accepted(&self) -> Option<u64> {
        let name = self.agent_id.as_str();
        self.observer.look(|seen| seen.status.contains_key(name).then(|| seen.number(name, "/readings/accepted")))
    }

    fn at_hub(&self) -> u64 {
        self.api.at_hub().unwrap_or(0)
    }

    fn versions(&self) -> usize {
        let versions = self.api.items(&format!("models/{MODEL}/versions"));
        versions.map_or(0, |versions| versions.len())
    }

    fn metric(&self, name: &str) -> anyhow::Result<u64> {
        let text = ureq::get(&self.metrics).call()?.body_mut().read_to_string()?;
        let value = text.lines().find_map(|line| line.strip_prefix(&format!("tideline_{name} ")));
        value.and_then(|value| value.parse().ok()).with_context(|| format!("find {name} in {text}"))
    }

    /// Whether a training that drift called for came to a verdict, however often the hub died over it. Which verdict
    /// depends on how much had come in by then, so on the kills; the scenario tests say that the loop closes.
    fn judged(&self) -> bool {
        let runs = self.api.runs().unwrap_or_default();
        runs.iter().any(|run| {
            run["trigger"].as_str().is_some_and(|trigger| trigger.starts_with("drift"))
                && run["candidates"].as_array().is_some_and(|tried| !tried.is_empty())
        })
    }

    fn wait(&self, what: &str, ready: impl Fn() -> bool) -> anyhow::Result<()> {
        self.wait_for(DEADLINE, what, ready)
    }

    fn wait_for(&self, deadline: Duration, what: &str, ready: impl Fn() -> bool) -> anyhow::Result<()> {
        if wait_until(deadline, ready) {
            return Ok(());
        }
        bail!(
            "waited {} s for {what}; published {}, at the hub {}",
            deadline.as_secs(),
            self.published.len(),
            self.at_hub()
        )
    }
}
