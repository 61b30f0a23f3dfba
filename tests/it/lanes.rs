//! A backlog over a slow link, with whole programs: what comes in is seen at once.

use std::time::Duration;

use anyhow::{Context, ensure};
use demo::hub_api::HubApi;
use demo::observe::Observer;
use demo::publish::Publisher;
use demo::scenario::Row;
use demo::site::{self, Plan};
use demo::{broker, plant};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::Value;
use shared::ids::AgentId;
use tests::torture::proxy::{Faults, Proxy};
use tests::{Process, free_port, wait_until};

/// Readings that wait when the hub comes back: numbers that do not compress, a minute's worth for the link.
const BACKLOG: u64 = 20_000;
/// What the link carries.
const LINK: Faults = Faults { loss_percent: 0, twice_percent: 0, round_trip_ms: 40, rebind_ms: 0, bytes_per_s: 40_000 };
/// Readings published ahead of what the agent says it has made durable.
const WINDOW: u64 = 1_000;
/// How long what is new may take while old readings fill the link. A second of it is the lag that opens the lane.
const SEEN_WITHIN: Duration = Duration::from_secs(5);
const DEADLINE: Duration = Duration::from_secs(60);

#[test]
fn what_comes_in_is_seen_at_once_behind_a_backlog_that_fills_the_link() {
    let directory = tempfile::tempdir().expect("dir");
    if let Err(error) = watch(directory.path()) {
        panic!("{error:#}; everything is kept in {}", directory.keep().display());
    }
}

fn watch(directory: &std::path::Path) -> anyhow::Result<()> {
    let scenario = plant::scenario(7);
    let broker = broker::start()?;
    let agent = AgentId::new("line-1")?;
    let hub_ports = (free_port()?, free_port()?);
    let plan = Plan::of_one(directory, broker, &scenario, &agent, hub_ports, 7);
    let proxy = Proxy::start(hub_ports.0, LINK, 7)?;
    let hub_file = site::write_hub(&plan)?;
    let agent_file = site::write_agent(&plan, &agent, None, proxy.address())?;
    let agent_arguments = ["run", "--config", &agent_file.display().to_string()];
    let box_process = Process::start("edge-agent", &agent_arguments, &directory.join("agent.log"))?;
    let (observer, _observing) = Observer::connect(broker)?;
    let mut publisher = Publisher::connect(broker)?;
    let accepted = || observer.look(|seen| seen.number(agent.as_str(), "/readings/accepted"));
    wait(DEADLINE, "the agent", || observer.look(|seen| seen.status.contains_key(agent.as_str())))?;

    let mut random = StdRng::seed_from_u64(7);
    let mut noise = |time_ms: i64| Row {
        time_ms,
        values: scenario.channels.iter().map(|_| random.random()).collect(),
        known_normal: false,
        label: None,
    };
    for count in 1..=BACKLOG {
        publisher.publish(agent.as_str(), &scenario.stream, &scenario.channels, &noise(count as i64))?;
        if count.is_multiple_of(100) {
            wait(DEADLINE, "the agent to accept", || accepted() + WINDOW > count)?;
        }
    }

    let hub_arguments = ["serve", "--config", &hub_file.display().to_string()];
    let hub = Process::start("cloud-hub", &hub_arguments, &directory.join("hub.log"))?;
    let api = HubApi::new(hub_ports.1, &directory.join("hub"));
    wait(DEADLINE, "the first old readings at the hub", || api.at_hub().is_ok_and(|at_hub| at_hub > 0))?;
    // The link is full now. A value that no reading had before.
    let newest = |time_ms: i64| -> anyhow::Result<Option<Value>> {
        let streams = api.items("streams")?;
        let newest = streams.first().map(|stream| stream["newest"].clone());
        Ok(newest.filter(|newest| newest["values"][0] == time_ms as f64))
    };
    for time_ms in [1_000_000, 1_000_001, 1_000_002] {
        let values = scenario.channels.iter().map(|_| time_ms as f64).collect();
        let row = Row { time_ms, values, known_normal: false, label: None };
        publisher.publish(agent.as_str(), &scenario.stream, &scenario.channels, &row)?;
        wait(SEEN_WITHIN, "a new reading to be seen", || matches!(newest(time_ms), Ok(Some(_))))?;
        let seen = newest(time_ms)?.context("it was there")?;
        let pending = api.items("agents")?[0]["pending"].as_u64().context("what is pending")?;
        ensure!(seen["ahead_of_backlog"] == true, "{seen}");
        ensure!(pending > BACKLOG / 10, "only {pending} events waited, so that nothing is proven");
    }
    box_process.stop()?;
    hub.stop()
}

fn wait(deadline: Duration, what: &str, ready: impl Fn() -> bool) -> anyhow::Result<()> {
    ensure!(wait_until(deadline, ready), "waited {} s for {what}", deadline.as_secs());
    Ok(())
}
