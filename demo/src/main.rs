//! `demo`: the command line.

use std::fs::File;
use std::io::{IsTerminal, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Mutex;

use anyhow::Context;
use clap::{Parser, ValueEnum};
use demo::fleet::{self, plan::FleetPlan};
use demo::plant;
use demo::play::{self, Options};
use demo::scenario::Scenario;
use demo::story::{Story, Tone};
use demo::summary;
use shared::device::DeviceKind;
use tracing_subscriber::EnvFilter;

/// Exit code for a scenario that cannot be used (EX_CONFIG).
const EXIT_CONFIG: u8 = 78;
/// Live readings a second when the simulated plant is watched: slow enough to see what happens.
const WATCHED_RATE: u64 = 300;

/// Tideline's whole loop in one process: a broker, a hub, agents and a plant.
#[derive(Parser)]
#[command(
    version,
    max_term_width = 100,
    after_help = "Exit code: 0 if the loop closed or all went as planned, 1 if not, 78 if the scenario or plan is wrong."
)]
struct Arguments {
    /// Replays recorded data instead of the simulated pump loop.
    #[arg(long)]
    scenario: Option<PathBuf>,
    /// The device boxes answer on; the hub trains on the CPU.
    #[arg(long, default_value = "flex")]
    device: DeviceKind,
    /// How to show the result; json prints one object and nothing else on standard output.
    #[arg(long, value_enum, default_value_t = Output::Text)]
    output: Output,
    /// Runs so many boxes at one hub instead, as --plan says; without one, to look around in.
    #[arg(long, visible_alias = "agents", conflicts_with = "scenario")]
    fleet: Option<usize>,
    /// What happens to the fleet.
    #[arg(long, conflicts_with = "scenario")]
    plan: Option<PathBuf>,
    /// Keeps everything up after the last step, for the dashboard, until it is interrupted.
    #[arg(long)]
    hold: bool,
    /// Where the hub serves its dashboard and HTTP interface; a free port unless it is said.
    #[arg(long)]
    listen: Option<SocketAddr>,
    /// The seed of the simulated plant and of training.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// The folder for everything; it must not exist. By default a new one in the folder for temporary files.
    #[arg(long)]
    data: Option<PathBuf>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Output {
    Text,
    Json,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if arguments.plan.is_some() || arguments.fleet.is_some() {
        return match arguments.plan.as_deref().map_or_else(FleetPlan::tour, FleetPlan::load) {
            Ok(plan) => exit(run_fleet(&arguments, plan)),
            Err(error) => {
                complain(&error.to_string());
                ExitCode::from(EXIT_CONFIG)
            }
        };
    }
    let scenario = match &arguments.scenario {
        None => plant::scenario(arguments.seed),
        Some(path) => match Scenario::load(path) {
            Ok(scenario) => scenario,
            Err(error) => {
                complain(&error.to_string());
                return ExitCode::from(EXIT_CONFIG);
            }
        },
    };
    exit(run(&arguments, &scenario))
}

fn exit(result: anyhow::Result<bool>) -> ExitCode {
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            complain(&format!("failed to {error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments, scenario: &Scenario) -> anyhow::Result<bool> {
    arguments.device.open().context("open the device")?;
    let directory = directory(arguments.data.as_deref())?;
    start_logging(&directory)?;
    let json = arguments.output == Output::Json;
    let simulated = arguments.scenario.is_none();
    let options = Options {
        directory,
        device: arguments.device.to_string(),
        seed: arguments.seed,
        rate: if simulated && !json && std::io::stdout().is_terminal() { WATCHED_RATE } else { 0 },
        two_lines: simulated,
        api: arguments.listen,
        hold: arguments.hold,
    };
    let story = Story::new(json);
    story.tell(Tone::Plain, &scenario.description);
    let summary = play::play(scenario, &options, &story)?;
    let text = if json { serde_json::to_string_pretty(&summary)? } else { summary::to_text(&summary) };
    writeln!(std::io::stdout(), "{text}").context("write the result")?;
    Ok(summary.closed)
}

fn run_fleet(arguments: &Arguments, mut plan: FleetPlan) -> anyhow::Result<bool> {
    plan.boxes = arguments.fleet.unwrap_or(plan.boxes);
    let directory = directory(arguments.data.as_deref())?;
    start_logging(&directory)?;
    let story = Story::new(arguments.output == Output::Json);
    story.tell(Tone::Plain, &plan.says);
    let options = fleet::Options {
        directory: &directory,
        seed: arguments.seed,
        api: arguments.listen,
        // A tour that ends when it has begun shows nothing.
        hold: arguments.hold || arguments.plan.is_none(),
    };
    let summary = fleet::run(&plan, &options, &story)?;
    let text = match arguments.output {
        Output::Json => serde_json::to_string_pretty(&summary)?,
        Output::Text => summary.to_text(),
    };
    writeln!(std::io::stdout(), "{text}").context("write the result")?;
    Ok(summary.as_planned)
}

fn directory(wanted: Option<&Path>) -> anyhow::Result<PathBuf> {
    match wanted {
        Some(path) => {
            std::fs::create_dir(path).with_context(|| format!("make {}; it must not exist", path.display()))?;
            Ok(std::fs::canonicalize(path)?)
        }
        None => Ok(tempfile::Builder::new().prefix("tideline-demo-").tempdir()?.keep()),
    }
}

/// The story is for the terminal; logs go to a file beside the data.
fn start_logging(directory: &Path) -> anyhow::Result<()> {
    let file = File::create(directory.join("demo.log"))?;
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info,rumqttd=warn"));
    tracing_subscriber::fmt().with_env_filter(filter).with_ansi(false).with_writer(Mutex::new(file)).init();
    Ok(())
}

fn complain(message: &str) {
    // Standard error may be gone; the exit code still tells.
    drop(writeln!(std::io::stderr(), "error: {message}"));
}
