//! From MQTT to a published answer: how many, how soon, at what cost in memory and disk; and what others reach.

use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use edge_agent::clock::Clock;
use serde::Serialize;

use super::load::{Messages, Observer, Pace, Seen, publish};
use super::model::Model;
use super::subjects::{AGENT_TOPICS, Agent, Drain, PEER_TOPICS, Peer, Peers, wait};
use super::system::{median, memory, percentile, written_bytes};
use crate::pause;
use crate::torture::broker::Broker;

/// Messages of one run for those who are quick, and for the peers.
const MESSAGES: usize = 60_000;
const PEER_MESSAGES: usize = 10_000;
/// Messages at the start of a paced run that are not counted: caches and connections warm up.
const WARM_UP: usize = 500;
/// How long a paced run lasts.
const PACED_S: u32 = 6;
/// An idle agent has been idle for this long.
const IDLE: Duration = Duration::from_secs(3);

/// What was found.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Delivery {
    /// Runs that medians are of.
    pub runs: usize,
    /// Messages per second: from QoS 1 to durable, answered and published.
    pub agent_per_s: f64,
    /// The same for a subscriber that only drains the broker.
    pub drain_per_s: f64,
    /// The same for Python, without durability.
    pub python_per_s: Option<f64>,
    /// The same for Node-RED, without durability.
    pub node_red_per_s: Option<f64>,
    /// The largest relative difference of a Python score from the agent's for the same reading.
    pub python_score_difference: Option<f64>,
    /// Times from publishing a reading until its answer arrives.
    pub latency: Vec<Latency>,
    /// Bytes the kernel wrote for the agent, per byte of MQTT payload, under full load and at the slowest paced rate.
    pub written_per_payload_byte: f64,
    /// The same at 1,000 messages per second.
    pub written_per_payload_byte_paced: f64,
    /// Bytes the kernel wrote for the agent, per byte that its spool holds, under full load.
    pub write_amplification: f64,
    /// Resident memory of an agent with a model, idle.
    pub idle_kib: u64,
    /// The most resident memory of an agent under full load.
    pub overloaded_kib: u64,
}

/// Times from publishing to answer at one rate.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub struct Latency {
    /// Messages per second.
    pub per_s: u32,
    /// Medians of the runs' percentiles, in milliseconds.
    pub p50_ms: f64,
    /// 99 of 100 are answered sooner.
    pub p99_ms: f64,
    /// 999 of 1,000 are answered sooner.
    pub p999_ms: f64,
}

/// Where and with what to measure.
pub struct Bench<'a> {
    /// A folder for everything.
    pub directory: &'a Path,
    /// Time.
    pub clock: Clock,
    /// What everybody runs.
    pub model: &'a Model,
    /// The others, if they are to be measured.
    pub peers: Option<Peers>,
    /// Runs.
    pub runs: usize,
}

#[derive(Default)]
struct Samples {
    agent: Vec<f64>,
    drain: Vec<f64>,
    python: Vec<f64>,
    node_red: Vec<f64>,
    payload: Vec<f64>,
    payload_paced: Vec<f64>,
    amplification: Vec<f64>,
    idle: Vec<f64>,
    overloaded: Vec<f64>,
    score_difference: f64,
}

impl Bench<'_> {
    /// Measures everything, subject after subject in each run, so that what disturbs the machine disturbs all alike.
    ///
    /// # Errors
    /// If a program fails.
    pub fn run(&self, progress: &mut dyn FnMut(&str)) -> anyhow::Result<Delivery> {
        let broker = Broker::without_persistence(self.directory)?;
        let messages = Messages::new(&self.model.channels(), &self.model.rows(), MESSAGES);
        let few = Messages::new(&self.model.channels(), &self.model.rows(), PEER_MESSAGES);
        let mut samples = Samples::default();
        for run in 0..self.runs {
            progress(&format!("run {} of {}: full load", run + 1, self.runs));
            samples.drain.push(self.drain(&broker, &messages)?);
            let scores = self.agent(&broker, run, &messages, &mut samples)?;
            for peer in [Peer::Python, Peer::NodeRed].into_iter().filter(|_| self.peers.is_some()) {
                progress(&format!("run {} of {}: {peer:?}", run + 1, self.runs));
                let (rate, seen) = self.peer(&broker, peer, &few)?;
                match peer {
                    Peer::Python => {
                        samples.python.push(rate);
                        samples.score_difference = samples.score_difference.max(difference(&scores, &seen.scores));
                    }
                    Peer::NodeRed => samples.node_red.push(rate),
                }
            }
        }
        let mut latency = Vec::new();
        for per_s in [1_000, 5_000] {
            progress(&format!("{per_s} messages a second"));
            latency.push(self.latency(&broker, per_s, &mut samples)?);
        }
        let of = |values: &[f64]| (!values.is_empty()).then(|| median(values));
        Ok(Delivery {
            runs: self.runs,
            agent_per_s: median(&samples.agent),
            drain_per_s: median(&samples.drain),
            python_per_s: of(&samples.python),
            node_red_per_s: of(&samples.node_red),
            python_score_difference: (!samples.python.is_empty()).then_some(samples.score_difference),
            latency,
            written_per_payload_byte: median(&samples.payload),
            written_per_payload_byte_paced: median(&samples.payload_paced),
            write_amplification: median(&samples.amplification),
            idle_kib: median(&samples.idle) as u64,
            overloaded_kib: median(&samples.overloaded) as u64,
        })
    }

    fn drain(&self, broker: &Broker, messages: &Messages) -> anyhow::Result<f64> {
        let drain = Drain::start(broker.address())?;
        let due = publish(broker.address(), PEER_TOPICS.0, messages, Pace::Unbounded, self.clock)?;
        drain.wait(messages.len())?;
        Ok(rate(messages.len(), due[0], self.clock.monotonic_us()))
    }

    fn agent(
        &self,
        broker: &Broker,
        run: usize,
        messages: &Messages,
        samples: &mut Samples,
    ) -> anyhow::Result<Vec<f32>> {
        let agent = Agent::start(self.directory, run, broker.address(), self.model)?;
        pause(IDLE);
        samples.idle.push(memory(agent.id())?.resident_kib as f64);
        let before = written_bytes(agent.id())?;
        let observer = Observer::start(broker.address(), AGENT_TOPICS.1, messages.len(), self.clock)?;
        let due = publish(broker.address(), AGENT_TOPICS.0, messages, Pace::Unbounded, self.clock)?;
        observer.wait(messages.len()).with_context(|| format!("the agent says {:?}", agent.status()))?;
        let seen = observer.take();
        let last = seen.at_us.iter().copied().max().unwrap_or(0);
        samples.agent.push(rate(messages.len(), due[0], last));
        wait("the agent to have accepted all", || {
            agent.status().is_some_and(|status| status["readings"]["accepted"] == messages.len())
        })?;
        samples.overloaded.push(memory(agent.id())?.peak_kib as f64);
        let written = (written_bytes(agent.id())? - before) as f64;
        let spool =
            agent.status().and_then(|status| status["spool_bytes"].as_f64()).context("read the spool's size")?;
        samples.payload.push(written / messages.bytes() as f64);
        samples.amplification.push(written / spool);
        agent.stop()?;
        Ok(seen.scores)
    }

    fn peer(&self, broker: &Broker, peer: Peer, messages: &Messages) -> anyhow::Result<(f64, Seen)> {
        let peers = self.peers.as_ref().context("install the peers")?;
        let running = peers.start(peer, broker.address())?;
        let observer = Observer::start(broker.address(), PEER_TOPICS.1, messages.len(), self.clock)?;
        let due = publish(broker.address(), PEER_TOPICS.0, messages, Pace::Unbounded, self.clock)?;
        observer.wait(messages.len())?;
        let seen = observer.take();
        drop(running);
        Ok((rate(messages.len(), due[0], seen.at_us.iter().copied().max().unwrap_or(0)), seen))
    }

    fn latency(&self, broker: &Broker, per_s: u32, samples: &mut Samples) -> anyhow::Result<Latency> {
        let count = WARM_UP + (per_s * PACED_S) as usize;
        let messages = Messages::new(&self.model.channels(), &self.model.rows(), count);
        let mut percentiles = [Vec::new(), Vec::new(), Vec::new()];
        for run in 0..self.runs {
            let number = 1_000 * per_s as usize + run;
            let agent = Agent::start(self.directory, number, broker.address(), self.model)?;
            let before = written_bytes(agent.id())?;
            let observer = Observer::start(broker.address(), AGENT_TOPICS.1, count, self.clock)?;
            let due = publish(broker.address(), AGENT_TOPICS.0, &messages, Pace::PerSecond(per_s), self.clock)?;
            observer.wait(count)?;
            let seen = observer.take();
            let times: Vec<f64> = due
                .iter()
                .zip(&seen.at_us)
                .skip(WARM_UP)
                .map(|(due, at)| at.saturating_sub(*due) as f64 / 1_000.0)
                .collect();
            for (values, of) in percentiles.iter_mut().zip([0.5, 0.99, 0.999]) {
                values.push(percentile(&times, of));
            }
            if per_s == 1_000 {
                samples.payload_paced.push((written_bytes(agent.id())? - before) as f64 / messages.bytes() as f64);
            }
            agent.stop()?;
        }
        let [p50_ms, p99_ms, p999_ms] = percentiles.map(|values| median(&values));
        Ok(Latency { per_s, p50_ms, p99_ms, p999_ms })
    }
}

fn rate(count: usize, from_us: u64, to_us: u64) -> f64 {
    count as f64 / to_us.saturating_sub(from_us).max(1) as f64 * 1e6
}

/// The largest difference of two scores of one reading, relative to the larger of them.
fn difference(one: &[f32], other: &[f32]) -> f64 {
    one.iter()
        .zip(other)
        .map(|(a, b)| f64::from((a - b).abs() / a.abs().max(b.abs()).max(f32::MIN_POSITIVE)))
        .fold(0.0, f64::max)
}
