//! `torture`: kills real agents, hubs and brokers until it is clear that nothing gets lost.

use std::io::{IsTerminal, Write};
use std::process::ExitCode;

use anyhow::bail;
use clap::{Parser, ValueEnum};
use indicatif::{ProgressBar, ProgressStyle};
use tests::torture::proxy::Faults;
use tests::torture::{self, Report, Torture};

/// Milliseconds within which a killed agent must talk with the hub again, at the 99th percentile.
const RESTART_LIMIT_MS: u64 = 2_000;
/// Milliseconds within which an agent must go on after its full disk has space again.
const HEAL_LIMIT_MS: u64 = 5_000;

/// Runs an agent, a hub and mosquitto as a user does, kills them at seeded moments, and compares what was published with
/// what the hub has.
#[derive(Parser)]
#[command(max_term_width = 100)]
struct Arguments {
    /// Readings to publish.
    #[arg(long, default_value_t = 20_000)]
    events: u64,
    /// Programs to kill.
    #[arg(long, default_value_t = 20)]
    kills: usize,
    /// The seed of all chance.
    #[arg(long, default_value_t = 7)]
    seed: u64,
    /// The share of datagrams that is dropped between agent and hub, 0 to 0.9.
    #[arg(long, default_value_t = 0.0)]
    loss: f64,
    /// Milliseconds that a datagram takes there and back.
    #[arg(long, default_value_t = 0)]
    rtt_ms: u64,
    /// The agent's address changes every so many milliseconds, as the hub sees it.
    #[arg(long, default_value_t = 0)]
    rebind_ms: u64,
    /// Bytes that get through to the hub in a second; 0 for as many as come.
    #[arg(long, default_value_t = 0)]
    bytes_per_s: u64,
    /// No datagram gets through: agent and hub must take TCP.
    #[arg(long, conflicts_with_all = ["loss", "rtt_ms", "rebind_ms", "bytes_per_s"])]
    udp_blocked: bool,
    /// Kill only the agent and the hub.
    #[arg(long)]
    spare_broker: bool,
    /// The agent's disk is a small tmpfs, which fills now and then (takes the right to mount).
    #[arg(long)]
    disk_full: bool,
    /// How to show the result.
    #[arg(long, value_enum, default_value_t = Output::Text)]
    output: Output,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Output {
    Text,
    Json,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match run(&arguments) {
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
    if !(0.0..=0.9).contains(&arguments.loss) {
        bail!("take a loss of {}: it must be 0 to 0.9", arguments.loss);
    }
    tests::build_programs()?;
    let loss_percent = if arguments.udp_blocked { 100 } else { (arguments.loss * 100.0).round() as u32 };
    let network = Faults {
        loss_percent,
        twice_percent: loss_percent % 100 / 10,
        round_trip_ms: arguments.rtt_ms,
        rebind_ms: arguments.rebind_ms,
        bytes_per_s: arguments.bytes_per_s,
    };
    let Arguments { events, kills, seed, disk_full, spare_broker, .. } = *arguments;
    let directory = tempfile::tempdir()?;
    let bar = progress(events);
    let torture = Torture { events, kills, seed, network, spare_broker, disk_full };
    let result = torture::run(torture, directory.path(), &mut |done| bar.set_position(done));
    bar.finish_and_clear();
    let report = match result {
        Ok(report) => report,
        Err(error) => bail!("torture: {error:#}; everything is kept in {}", directory.keep().display()),
    };
    let is_well = is_well(&report, &network);
    let text = match arguments.output {
        Output::Json => serde_json::to_string(&report)?,
        Output::Text => to_text(&report),
    };
    writeln!(std::io::stdout(), "{text}")?;
    if !is_well {
        bail!("keep every promise; everything is kept in {}", directory.keep().display());
    }
    Ok(true)
}

fn is_well(report: &Report, network: &Faults) -> bool {
    let verdict = &report.verdict;
    let is_delivered = (verdict.lost, verdict.duplicates, verdict.sequence_gaps) == (0, 0, 0) && report.ledger_exact;
    // How long a handshake takes over a bad network is the network's doing; it is reported all the same.
    let is_quick = !matches!(network.loss_percent, 0 | 100) || report.restart_to_first_send_ms[1] <= RESTART_LIMIT_MS;
    is_delivered && is_quick && report.healed_after_ms <= HEAL_LIMIT_MS
}

fn to_text(report: &Report) -> String {
    let [median, p99, longest] = report.restart_to_first_send_ms;
    format!(
        "{} readings over {}, killed: agent {}, hub {}, broker {}; disk filled {} times (healed after {} ms at most)\n\
         lost {}, duplicates {}, sequence gaps {}, ledger exact: {}\n\
         killed agent to first send: median {median} ms, p99 {p99} ms, longest {longest} ms; {:.1} s in all",
        report.events,
        report.transport,
        report.agent_kills,
        report.hub_kills,
        report.broker_kills,
        report.disk_fills,
        report.healed_after_ms,
        report.verdict.lost,
        report.verdict.duplicates,
        report.verdict.sequence_gaps,
        report.ledger_exact,
        report.seconds
    )
}

fn progress(length: u64) -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("{bar:40} {pos}/{len} readings, {eta} left");
    ProgressBar::new(length).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}
