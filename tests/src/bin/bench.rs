//! `bench`: what the pair can do on this machine, beside what others can.

use std::io::{IsTerminal, Write};
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::{Parser, ValueEnum};
use edge_agent::clock::Clock;
use indicatif::{ProgressBar, ProgressStyle};
use tests::bench::delivery::Bench;
use tests::bench::inference::{self, Rivals};
use tests::bench::model::Model;
use tests::bench::subjects::Peers;
use tests::bench::{Report, fleet, stations};

/// Measures throughput, latency, memory and disk writes of agent and hub with real brokers, disks and connections, next to a
/// bare subscriber, a Python pipeline and Node-RED in the same minutes, and single inferences next to onnxruntime and tract.
/// Takes mosquitto, Python 3 and Node.js; the peers are installed into a folder that is thrown away.
#[derive(Parser)]
#[command(max_term_width = 100)]
struct Arguments {
    /// Runs that medians are of.
    #[arg(long, default_value_t = 5)]
    runs: usize,
    /// Agents of the hubs that are measured.
    #[arg(long, default_values_t = [1_000, 10_000])]
    agents: Vec<usize>,
    /// Measure only this part.
    #[arg(long, value_enum)]
    only: Option<Part>,
    /// Leave Python and Node-RED out.
    #[arg(long)]
    without_peers: bool,
    /// How to show the result.
    #[arg(long, value_enum, default_value_t = Output::Text)]
    output: Output,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    /// From MQTT to a published answer.
    Delivery,
    /// One inference of small networks.
    Inference,
    /// A hub with many agents.
    Hub,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Output {
    Text,
    Json,
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            // The exit code tells as well.
            drop(writeln!(std::io::stderr(), "error: failed to {error:#}"));
            ExitCode::from(2)
        }
    }
}

fn run(arguments: &Arguments) -> anyhow::Result<bool> {
    if arguments.runs == 0 {
        bail!("measure in 0 runs: there must be at least one");
    }
    tests::build_programs()?;
    let clock = Clock::start();
    let spinner = spinner();
    let directory = tempfile::tempdir()?;
    let mut report = Report::default();
    let wanted = |part| arguments.only.is_none_or(|only| only == part);
    if wanted(Part::Delivery) {
        spinner.set_message("training a model");
        let model = Model::train()?;
        report.stations = stations::run(directory.path(), &model, clock)?;
        let peers =
            if arguments.without_peers { None } else { Some(install_peers(directory.path(), &model, &spinner)?) };
        let bench = Bench { directory: directory.path(), clock, model: &model, peers, runs: arguments.runs };
        report.delivery = Some(bench.run(&mut |what| spinner.set_message(what.to_owned()))?);
    }
    if wanted(Part::Inference) {
        let rivals = if arguments.without_peers { None } else { Some(install_rivals(directory.path(), &spinner)?) };
        let progress = &mut |what: &str| spinner.set_message(what.to_owned());
        report.inference = inference::run(directory.path(), rivals.as_ref(), arguments.runs, clock, progress)?;
    }
    if wanted(Part::Hub) {
        for agents in &arguments.agents {
            spinner.set_message(format!("a hub with {agents} agents"));
            report.fleets.push(fleet::run(directory.path(), *agents, arguments.runs, clock)?);
        }
    }
    report.judge();
    spinner.finish_and_clear();
    let text = match arguments.output {
        Output::Json => serde_json::to_string(&report)?,
        Output::Text => report.to_text(),
    };
    writeln!(std::io::stdout(), "{text}")?;
    Ok(report.claims.iter().all(|claim| claim.holds))
}

fn install_peers(directory: &Path, model: &Model, spinner: &ProgressBar) -> anyhow::Result<Peers> {
    spinner.set_message("installing the peers");
    let folder = directory.join("peers");
    std::fs::create_dir_all(&folder)?;
    Peers::install(&folder, model).context("install the peers (--without-peers leaves them out)")
}

fn install_rivals(directory: &Path, spinner: &ProgressBar) -> anyhow::Result<Rivals> {
    spinner.set_message("installing onnxruntime and building tract");
    Rivals::install(directory).context("install the peers (--without-peers leaves them out)")
}

fn spinner() -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let spinner = ProgressBar::new_spinner();
    spinner.set_style(ProgressStyle::default_spinner());
    spinner.enable_steady_tick(Duration::from_millis(100));
    spinner
}
