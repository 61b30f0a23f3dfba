//! `edge-agent`: the command line.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand, ValueEnum};
use edge_agent::config::Config;
use edge_agent::score::{self, ScoreOptions, ScoreSummary};
use edge_agent::{agent, status};
use shared::device::DeviceChoice;
use shared::package::signature::PublicKey;
use shared::table::TableOptions;
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

/// Exit code for a configuration that cannot be used (EX_CONFIG), so that a service manager does not try again.
const EXIT_CONFIG: u8 = 78;

/// Takes events in over MQTT, answers them with a model on the box, and delivers every one to the hub.
#[derive(Parser)]
#[command(version, max_term_width = 100)]
struct Arguments {
    /// How to write logs, to standard error.
    #[arg(long, global = true, value_enum, default_value_t = LogFormat::Text)]
    log_format: LogFormat,
    #[command(subcommand)]
    command: Command,
}

#[derive(Clone, Copy, ValueEnum)]
enum LogFormat {
    Text,
    Json,
}

#[derive(Clone, Copy, ValueEnum)]
enum Output {
    Text,
    Json,
}

#[derive(Subcommand)]
enum Command {
    /// Runs the agent until it is told to stop.
    Run {
        /// The configuration file.
        #[arg(long)]
        config: PathBuf,
    },
    /// Checks a configuration file and says what is wrong with it.
    CheckConfig {
        /// The configuration file.
        #[arg(long)]
        config: PathBuf,
    },
    /// Scores a CSV file with a model, by the code that serves live.
    Score(Score),
    /// Shows how the running agent is.
    Status {
        /// The configuration file.
        #[arg(long)]
        config: PathBuf,
        /// How to show it.
        #[arg(long, value_enum, default_value_t = Output::Text)]
        output: Output,
    },
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum BadRows {
    /// Leave it unanswered, and count it.
    Skip,
    /// Stop, and say where it is.
    Error,
}

#[derive(clap::Args)]
#[command(
    after_help = "Example:\n  edge-agent score --model pump.tide --input day.csv --output scores.csv \\\n    --delimiter ';' --time-column datetime"
)]
struct Score {
    /// The package.
    #[arg(long)]
    model: PathBuf,
    /// The CSV file: one reading per row, channels by column name.
    #[arg(long)]
    input: PathBuf,
    /// Where to write one row per input row; `-` is standard output.
    #[arg(long)]
    output: PathBuf,
    /// The character between columns; if not given, the one that stands most often in the header.
    #[arg(long)]
    delimiter: Option<char>,
    /// The column of times, as `YYYY-MM-DD hh:mm:ss`, RFC 3339 or Unix time; without it rows are as far apart as the model
    /// says, or a second.
    #[arg(long)]
    time_column: Option<String>,
    /// Rows at the start that a model with a baseline of its own for each stream learns it from; they are not answered.
    #[arg(long)]
    calibration_rows: Option<u32>,
    /// What to do with a row that cannot be read: a value that is no number, or a time that is not after the one before.
    #[arg(long, value_enum, default_value_t = BadRows::Skip)]
    bad_rows: BadRows,
    /// A release key, `ed25519:...`, whose signature the package must have; may be given several times.
    #[arg(long = "trust")]
    trusted: Vec<PublicKey>,
    /// The device to run on; `auto` measures them all.
    #[arg(long, default_value = "flex")]
    device: DeviceChoice,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    start_logging(arguments.log_format);
    let result = match arguments.command {
        Command::Run { config } => load(&config).and_then(run),
        Command::CheckConfig { config } => {
            load(&config).and_then(|_| say(&format!("{} is a good configuration", config.display())))
        }
        Command::Score(options) => score_file(options),
        Command::Status { config, output } => load(&config).and_then(|config| show_status(&config, output)),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure { code, message }) => {
            // Standard error may be gone; the exit code still tells.
            drop(writeln!(std::io::stderr(), "error: {message}"));
            ExitCode::from(code)
        }
    }
}

struct Failure {
    code: u8,
    message: String,
}

impl Failure {
    fn new(error: impl std::fmt::Display) -> Self {
        Self { code: 1, message: format!("failed to {error}") }
    }
}

fn load(path: &Path) -> Result<Config, Failure> {
    Config::load(path).map_err(|error| Failure { code: EXIT_CONFIG, message: error.to_string() })
}

/// One thread is enough for the sockets; the disk, inference and the store have threads of their own.
fn run(config: Config) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::new(format!("start the runtime: {error}")))?;
    runtime.block_on(async {
        let shutdown = CancellationToken::new();
        let signalled = shutdown.clone();
        let signals = tokio::spawn(async move {
            wait_for_signal().await;
            signalled.cancel();
        });
        let result = agent::run(config, shutdown).await.map_err(Failure::new);
        signals.abort();
        result
    })
}

async fn wait_for_signal() {
    let terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate());
    match terminate {
        Ok(mut terminate) => {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = tokio::signal::ctrl_c() => {}
            }
        }
        Err(_) => drop(tokio::signal::ctrl_c().await),
    }
}

fn score_file(options: Score) -> Result<(), Failure> {
    let Ok(delimiter) = options.delimiter.map(u8::try_from).transpose() else {
        return Err(Failure { code: 2, message: "the delimiter must be one ASCII character".to_owned() });
    };
    let summary = score::score_file(&ScoreOptions {
        model: options.model,
        trusted: options.trusted,
        input: options.input,
        output: options.output,
        table: TableOptions {
            delimiter,
            time_column: options.time_column,
            skips_bad_rows: options.bad_rows == BadRows::Skip,
            ..TableOptions::default()
        },
        calibration_rows: options.calibration_rows,
        device: options.device,
    })
    .map_err(Failure::new)?;
    if let Some((rows, first)) = &summary.skipped {
        drop(writeln!(std::io::stderr(), "warning: {rows} rows were left out; the first: {first}"));
    }
    let ScoreSummary { rows, answered, anomalous, .. } = summary;
    drop(writeln!(std::io::stderr(), "{rows} rows, {answered} answered, {anomalous} anomalous"));
    Ok(())
}

fn show_status(config: &Config, output: Output) -> Result<(), Failure> {
    let directory = &config.agent.state_directory;
    let report = status::ask(directory)
        .map_err(|error| Failure::new(format!("ask the agent in {}: {error}; is it running?", directory.display())))?;
    say(&match output {
        Output::Json => report.to_string(),
        Output::Text => status::to_text(&report),
    })
}

fn say(text: &str) -> Result<(), Failure> {
    writeln!(std::io::stdout(), "{text}").map_err(|error| Failure::new(format!("write: {error}")))
}

fn start_logging(format: LogFormat) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match format {
        LogFormat::Text => builder.init(),
        LogFormat::Json => builder.json().init(),
    }
}
