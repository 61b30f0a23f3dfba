//! `cloud-hub`: the command line.

use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::AtomicBool;

use clap::{Parser, Subcommand, ValueEnum};
use cloud_hub::authority::{self, Subject};
use cloud_hub::config::Config;
use cloud_hub::hub::Hub;
use cloud_hub::hub::offline::{self, OfflineTraining};
use cloud_hub::inspect;
use cloud_hub::train::{Progress, Watch};
use indicatif::{ProgressBar, ProgressStyle};
use shared::device::DeviceKind;
use shared::ids::{AgentId, ModelName};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

/// Exit code for a configuration that cannot be used (EX_CONFIG), so that a service manager does not try again.
const EXIT_CONFIG: u8 = 78;
/// Steps of a progress bar.
const BAR_STEPS: u64 = 1_000;

/// Stores what agents deliver, watches for drift, retrains, proves models and offers them.
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

#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum Output {
    Text,
    Json,
}

#[derive(Subcommand)]
enum Command {
    /// Runs the hub until it is told to stop.
    Serve {
        /// The configuration file.
        #[arg(long)]
        config: PathBuf,
    },
    /// Checks a configuration file, and the recipes it names, and says what is wrong.
    CheckConfig {
        /// The configuration file.
        #[arg(long)]
        config: PathBuf,
    },
    /// Trains a model on the known-normal readings of a sample folder.
    Train(Train),
    /// Looks into packages.
    #[command(subcommand)]
    Package(PackageCommand),
    /// A development certificate authority.
    #[command(subcommand)]
    Ca(CaCommand),
}

#[derive(clap::Args)]
#[command(
    after_help = "Example:\n  cloud-hub train --recipe pump.toml --data /var/lib/tideline-hub --output pump.tide"
)]
struct Train {
    /// The recipe.
    #[arg(long)]
    recipe: PathBuf,
    /// The hub's data folder, or any folder that holds `samples/`.
    #[arg(long)]
    data: PathBuf,
    /// The package to write.
    #[arg(long)]
    output: PathBuf,
    /// The model's name.
    #[arg(long, default_value = "model")]
    model: ModelName,
    /// The device to train on.
    #[arg(long, default_value = "flex")]
    device: DeviceKind,
    /// The seed, instead of the recipe's.
    #[arg(long)]
    seed: Option<u64>,
}

#[derive(Subcommand)]
enum PackageCommand {
    /// Shows what a package holds, after checking every hash in it.
    Inspect {
        /// The package.
        file: PathBuf,
        /// How to show it.
        #[arg(long, value_enum, default_value_t = Output::Text)]
        output: Output,
    },
}

#[derive(Subcommand)]
enum CaCommand {
    /// Makes a root certificate and key: `ca.pem` and `ca.key`.
    Init {
        /// The folder to put them in.
        #[arg(long)]
        directory: PathBuf,
    },
    /// Issues a certificate with the root.
    Issue {
        /// The folder of the root.
        #[arg(long)]
        directory: PathBuf,
        /// The folder to put the certificate and key in.
        #[arg(long)]
        output: PathBuf,
        /// The agent it is for.
        #[arg(long, required_unless_present = "hub", conflicts_with = "hub")]
        agent: Option<String>,
        /// The names or addresses the hub is reached by, if it is for the hub.
        #[arg(long, value_delimiter = ',')]
        hub: Vec<String>,
    },
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    start_logging(arguments.log_format);
    let result = match arguments.command {
        Command::Serve { config } => load(&config).and_then(serve),
        Command::CheckConfig { config } => {
            load(&config).and_then(|_| say(&format!("{} is a good configuration", config.display())))
        }
        Command::Train(options) => train(options),
        Command::Package(PackageCommand::Inspect { file, output }) => {
            inspect::inspect(&file).map_err(Failure::new).and_then(|report| match output {
                Output::Json => say(&report.to_string()),
                Output::Text => say(&inspect::to_text(&report)),
            })
        }
        Command::Ca(command) => certify(command),
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

fn serve(config: Config) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::new(format!("start the runtime: {error}")))?;
    runtime.block_on(async {
        let hub = Hub::start(config).await.map_err(Failure::new)?;
        let shutdown = CancellationToken::new();
        let signalled = shutdown.clone();
        let signals = tokio::spawn(async move {
            wait_for_signal().await;
            signalled.cancel();
        });
        let result = hub.run(shutdown).await.map_err(Failure::new);
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

fn train(options: Train) -> Result<(), Failure> {
    let bar = if std::io::stderr().is_terminal() { ProgressBar::new(BAR_STEPS) } else { ProgressBar::hidden() };
    if let Ok(style) = ProgressStyle::with_template("{msg:28} {wide_bar} {percent:>3} %") {
        bar.set_style(style);
    }
    let cancelled = AtomicBool::new(false);
    let mut progress = |step: Progress| {
        bar.set_position((step.done * BAR_STEPS as f64) as u64);
        bar.set_message(format!("{} loss {:.4}", step.stage, step.loss));
    };
    let training = OfflineTraining {
        recipe: options.recipe,
        data: options.data,
        output: options.output.clone(),
        model: options.model,
        device: options.device,
        seed: options.seed,
    };
    let summary = offline::train(&training, &mut Watch { progress: &mut progress, cancelled: &cancelled });
    bar.finish_and_clear();
    let summary = summary.map_err(|error| match error {
        offline::OfflineError::Recipe(error) => Failure { code: EXIT_CONFIG, message: error.to_string() },
        offline::OfflineError::Samples(error) => Failure::new(error),
        offline::OfflineError::Train(error) => Failure::new(error),
        other @ offline::OfflineError::Write { .. } => Failure::new(other),
    })?;
    say(&format!(
        "{}: {} rows of {} segments, digest {}",
        options.output.display(),
        summary.rows,
        summary.segments,
        summary.digest
    ))
}

fn certify(command: CaCommand) -> Result<(), Failure> {
    let issued = match command {
        CaCommand::Init { directory } => authority::init(&directory).map_err(Failure::new)?,
        CaCommand::Issue { directory, output, agent, hub } => {
            let subject = match agent {
                Some(agent) => Subject::Agent(
                    AgentId::new(&agent).map_err(|error| Failure { code: 2, message: error.to_string() })?,
                ),
                None => Subject::Hub(hub),
            };
            authority::issue(&directory, &subject, &output).map_err(Failure::new)?
        }
    };
    say(&format!("{}\n{}", issued.certificate_file.display(), issued.key_file.display()))
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
