//! Measures, on this machine, what the pair can do, and what others can do in the same minutes. Figures of one run compare
//! with each other and with nothing else.

pub mod delivery;
pub mod fleet;
pub mod inference;
pub mod load;
pub mod model;
pub mod stations;
pub mod subjects;
pub mod system;

use std::fmt::Write as _;

use serde::Serialize;

use delivery::Delivery;
use fleet::Fleet;
use inference::Inference;
use stations::Station;

/// All that was found.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Report {
    /// Each station by itself.
    pub stations: Vec<Station>,
    /// From MQTT to a published answer.
    pub delivery: Option<Delivery>,
    /// One inference of small networks.
    pub inference: Vec<Inference>,
    /// Hubs with many agents.
    pub fleets: Vec<Fleet>,
    /// Figures against what they should be.
    pub claims: Vec<Claim>,
}

/// A figure and what it should be.
#[derive(Debug, Clone, Serialize)]
pub struct Claim {
    /// What it is.
    pub name: &'static str,
    /// What was measured.
    pub measured: f64,
    /// Its limit.
    pub limit: f64,
    /// Whether more is better; else less is.
    pub at_least: bool,
    /// Whether it holds.
    pub holds: bool,
}

impl Report {
    /// Holds the figures against what they should be.
    pub fn judge(&mut self) {
        self.claims = claims(self.delivery.as_ref(), &self.inference, &self.fleets);
    }

    /// The report for people.
    #[must_use]
    pub fn to_text(&self) -> String {
        let mut text = String::new();
        // Writing to a string cannot fail.
        self.write(&mut text).ok();
        text
    }

    fn write(&self, out: &mut String) -> std::fmt::Result {
        if let Some(delivery) = &self.delivery {
            write_delivery(delivery, out)?;
            write_stations(&self.stations, out)?;
        }
        if !self.inference.is_empty() {
            write_inference(&self.inference, out)?;
        }
        if !self.fleets.is_empty() {
            writeln!(out, "A hub with many agents{:>28} {:>14} {:>12}", "KiB per agent", "readings/s", "connected")?;
        }
        for fleet in &self.fleets {
            let Fleet { agents, kib_per_agent, readings_per_s, connected_after_s, .. } = fleet;
            write!(out, "  {agents:>6} idle agents {kib_per_agent:>29.1}")?;
            writeln!(out, " {readings_per_s:>14.0} {connected_after_s:>10.1} s")?;
        }
        writeln!(out, "\nClaims")?;
        for Claim { name, measured, limit, at_least, holds } in &self.claims {
            let sign = if *at_least { "at least" } else { "at most" };
            let verdict = if *holds { "holds" } else { "MISSED" };
            writeln!(out, "  {name:<52} {measured:>10.2}   {sign:>8} {limit:<8} {verdict}")?;
        }
        Ok(())
    }
}

fn write_delivery(delivery: &Delivery, out: &mut String) -> std::fmt::Result {
    let Delivery { runs, agent_per_s, drain_per_s, python_per_s, node_red_per_s, .. } = delivery;
    writeln!(out, "Messages a second, from QoS 1 to a published answer (medians of {runs} runs)")?;
    let subjects = [
        ("agent: durable, answered", Some(*agent_per_s)),
        ("drain: only read", Some(*drain_per_s)),
        ("Python: paho, onnxruntime", *python_per_s),
        ("Node-RED: onnxruntime-node", *node_red_per_s),
    ];
    for (name, rate) in subjects {
        if let Some(rate) = rate {
            writeln!(out, "  {name:<34} {rate:>10.0}   agent is {:>6.2} x", agent_per_s / rate)?;
        }
    }
    writeln!(out, "\nFrom publishing a reading to its answer, milliseconds{:>13} {:>8} {:>8}", "p50", "p99", "p99.9")?;
    for delivery::Latency { per_s, p50_ms, p99_ms, p999_ms } in &delivery.latency {
        writeln!(out, "  at {per_s:>6} messages a second {p50_ms:>31.2} {p99_ms:>8.2} {p999_ms:>8.2}")?;
    }
    writeln!(out)
}

fn write_stations(stations: &[Station], out: &mut String) -> std::fmt::Result {
    writeln!(out, "Stations by themselves")?;
    let slowest = stations.iter().map(|station| station.readings_per_s).fold(f64::INFINITY, f64::min);
    for Station { name, readings_per_s } in stations {
        let ratio = readings_per_s / slowest;
        writeln!(out, "  {name:<42} {readings_per_s:>10.0} readings/s {ratio:>7.1} x the slowest")?;
    }
    writeln!(out)
}

fn write_inference(rows: &[Inference], out: &mut String) -> std::fmt::Result {
    writeln!(out, "One inference on one thread, microseconds")?;
    writeln!(
        out,
        "  {:<18} {:>6} {:>10} {:>10} {:>12} {:>10}",
        "network", "batch", "flex", "ndarray", "onnxruntime", "tract"
    )?;
    for row in rows {
        write!(out, "  {:<18} {:>6} {:>10.1} {:>10.1}", row.network, row.batch, row.flex_us, row.ndarray_us)?;
        if let (Some(onnxruntime), Some(tract)) = (row.onnxruntime_us, row.tract_us) {
            write!(
                out,
                " {onnxruntime:>12.1} {tract:>10.1}   flex is {:>5.2} x onnxruntime",
                row.flex_us / onnxruntime
            )?;
        }
        writeln!(out)?;
    }
    writeln!(out)
}

fn claims(delivery: Option<&Delivery>, inference: &[Inference], fleets: &[Fleet]) -> Vec<Claim> {
    let mut claims = Vec::new();
    let mut claim = |name, measured: f64, limit: f64, at_least| {
        let holds = if at_least { measured >= limit } else { measured <= limit };
        claims.push(Claim { name, measured, limit, at_least, holds });
    };
    let mib = |kib: u64| kib as f64 / 1_024.0;
    if let Some(delivery) = delivery {
        claim("throughput, against a bare drain", delivery.agent_per_s / delivery.drain_per_s, 0.7, true);
        if let Some(rate) = delivery.python_per_s {
            claim("throughput, against Python", delivery.agent_per_s / rate, 5.0, true);
        }
        if let Some(rate) = delivery.node_red_per_s {
            claim("throughput, against Node-RED", delivery.agent_per_s / rate, 3.0, true);
        }
        if let Some(fast) = delivery.latency.last() {
            claim("p99 to the answer at 5,000 a second, ms", fast.p99_ms, 5.0, false);
        }
        claim("bytes written per byte of the spool, full load", delivery.write_amplification, 1.3, false);
        claim("idle agent with a model, MiB", mib(delivery.idle_kib), 12.0, false);
        claim("overloaded agent at its peak, MiB", mib(delivery.overloaded_kib), 64.0, false);
    }
    for (name, batches, limit) in [
        ("time of one inference, against onnxruntime, 1 and 64", [1, 64], 1.0),
        ("time of one inference, against onnxruntime, 512", [512, 512], 1.3),
    ] {
        let ratios = inference.iter().filter(|row| batches.contains(&row.batch));
        let worst = ratios.filter_map(|row| Some(row.flex_us / row.onnxruntime_us?)).reduce(f64::max);
        if let Some(worst) = worst {
            claim(name, worst, limit, false);
        }
    }
    if let Some(largest) = fleets.last() {
        claim("hub per idle agent, KiB", largest.kib_per_agent, 48.0, false);
        claim("hub, durable readings a second", largest.readings_per_s, 100_000.0, true);
    }
    claims
}
