//! `cloud-hub`: the command line.

mod ctl;
mod look;
mod packages;

use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use clap::{Parser, Subcommand, ValueEnum};
use cloud_hub::authority::{self, Subject};
use cloud_hub::clock;
use cloud_hub::config::Config;
use cloud_hub::files::Skipped;
use cloud_hub::hub::Hub;
use cloud_hub::hub::offline::{self, CheckpointFile, OfflineError, OfflineSummary, OfflineTraining};
use cloud_hub::import::{self, Import as ImportOrder, ImportError, Source};

use cloud_hub::release_key;
use cloud_hub::train::steps::Steps;
use cloud_hub::train::{Progress, Watch};
use indicatif::{ProgressBar, ProgressStyle};
use shared::device::DeviceKind;
use shared::event::UnixMillis;
use shared::ids::{AgentId, ModelName, ModelVersion};

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

use ctl::{Ctl, control};
use look::{AuditCommand, Drift, find_drift, look_back};
use packages::{PackageCommand, Signing, look_into};

/// Exit code for a configuration that cannot be used (EX_CONFIG), so that a service manager does not try again.
const EXIT_CONFIG: u8 = 78;
/// What is logged unless RUST_LOG says otherwise. The library that writes FAT warns of layouts that stock images have.
const LOGGED: &str = "info,fatfs=error";
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
    /// Trains a model as a recipe says, on files or on a hub's samples.
    Train(Train),
    /// Makes a package of a model that was made elsewhere.
    Import(Import),
    /// Looks into packages.
    #[command(subcommand)]
    Package(PackageCommand),
    /// Looks for drift in recordings, each file against its own first readings.
    Drift(Drift),
    /// Looks into a hub's history of versions.
    #[command(subcommand)]
    Audit(AuditCommand),
    /// Keys that vouch for packages.
    #[command(subcommand)]
    Key(KeyCommand),
    /// The certificate authority that boxes and hub are vouched for by.
    #[command(subcommand)]
    Ca(CaCommand),
    /// Operates a running hub.
    Ctl(Ctl),
    /// Prints what a shell needs to complete commands.
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
    /// Writes man pages, one for each command.
    Man {
        /// The folder to put them in; it is made.
        #[arg(long)]
        directory: PathBuf,
    },
    /// Prints the OpenAPI document of the hub's HTTP interface.
    Openapi,
}

#[derive(clap::Args)]
#[command(
    after_help = "Examples:\n  cloud-hub train --recipe pump.toml --data /var/lib/tideline-hub --output pump.tide\n  \
                  cloud-hub train --recipe room.toml --data rooms/ --output room.tide --key release.key\n\n\
                  A training that is stopped (Ctrl-C, SIGTERM) goes on from its last epoch when it is started again."
)]
struct Train {
    /// The recipe.
    #[arg(long)]
    recipe: PathBuf,
    /// The hub's data folder (it holds `samples/`), a CSV or Parquet file, or a folder of them.
    #[arg(long)]
    data: PathBuf,
    /// The package to write.
    #[arg(long)]
    output: PathBuf,
    /// The model's name.
    #[arg(long, default_value = "model")]
    model: ModelName,
    /// The model's version.
    #[arg(long = "model-version", default_value_t = 1)]
    version: u32,
    /// The device to train on.
    #[arg(long, default_value = "flex")]
    device: DeviceKind,
    /// The seed, instead of the recipe's.
    #[arg(long)]
    seed: Option<u64>,
    #[command(flatten)]
    signing: Signing,
    /// How to report what came of it, on standard output.
    #[arg(long, value_enum, default_value_t = Output::Text)]
    report: Output,
}

#[derive(clap::Args)]
#[command(after_help = "Example:\n  cloud-hub import --onnx room.onnx --pipeline room.toml --output room.tide\n\n\
                  The pipeline is a recipe without a network; constants that training would find must stand in it.")]
struct Import {
    /// The model, in ONNX.
    #[arg(long, required_unless_present = "safetensors", conflicts_with = "safetensors")]
    onnx: Option<PathBuf>,
    /// The weights of a network that the pipeline declares, in the safetensors format.
    #[arg(long)]
    safetensors: Option<PathBuf>,
    /// The recipe that declares input, steps and decision.
    #[arg(long)]
    pipeline: PathBuf,
    /// The package to write.
    #[arg(long)]
    output: PathBuf,
    /// The model's name.
    #[arg(long, default_value = "model")]
    model: ModelName,
    /// The model's version.
    #[arg(long = "model-version", default_value_t = 1)]
    version: u32,
    #[command(flatten)]
    signing: Signing,
}

#[derive(Subcommand)]
enum KeyCommand {
    /// Makes a release key, and prints its public half.
    Create {
        /// The file to put it in; it must not be there.
        #[arg(long)]
        output: PathBuf,
    },
    /// Prints the public half of a release key: what agents trust.
    Show {
        /// The key.
        #[arg(long)]
        key: PathBuf,
    },
}

#[derive(Subcommand)]
enum CaCommand {
    /// Makes an authority: a root (`ca.pem`, `ca.key`) and an issuer (`issuer.pem`, `issuer.key`). A hub that has none makes one
    /// by itself.
    Init {
        /// The folder to put them in.
        #[arg(long)]
        directory: PathBuf,
    },
    /// Makes a new issuer; what the one before issued goes on to hold. A running hub sees it within seconds.
    Issuer {
        /// The folder of the authority.
        #[arg(long)]
        directory: PathBuf,
        /// The root's key, if it is kept elsewhere.
        #[arg(long)]
        root_key: Option<PathBuf>,
    },
    /// Makes a new root beside the one that is trusted. Boxes learn of it as they renew their certificates; when all have,
    /// make a new issuer.
    RotateRoot {
        /// The folder of the authority.
        #[arg(long)]
        directory: PathBuf,
    },
    /// Issues a certificate by hand.
    Issue {
        /// The folder of the authority.
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
        Command::Import(options) => import(options),
        Command::Package(command) => look_into(command),
        Command::Key(command) => show_key(&command),
        Command::Audit(command) => look_back(&command),
        Command::Drift(drift) => find_drift(&drift),
        Command::Ca(command) => certify(command),
        Command::Ctl(ctl) => control(&ctl),
        Command::Completions { shell } => look::complete(shell),
        Command::Man { directory } => look::write_man(&directory),
        Command::Openapi => cloud_hub::api::openapi::text()
            .map_err(|error| Failure::new(format!("write the document: {error}")))
            .and_then(|document| say(&document)),
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
        let public_url = config.api.public_url.clone();
        let shutdown = stop_when_signalled()?;
        let hub = tokio::select! {
            started = Hub::start(config) => started.map_err(Failure::new)?,
            () = shutdown.cancelled() => return Ok(()),
        };
        if let Some(code) = hub.setup_code() {
            let base = public_url.unwrap_or_else(|| format!("http://{}", hub.api_address()));
            // Not through the log: what is in there is kept, and read by others.
            drop(writeln!(
                std::io::stderr(),
                "nobody has an account yet; whoever opens this link makes the first admin, once:\n\n    {base}/#/setup/{}\n",
                code.reveal()
            ));
        }
        hub.run(shutdown).await.map_err(Failure::new)
    })
}

/// Cancelled once the process is asked to stop.
fn stop_when_signalled() -> Result<CancellationToken, Failure> {
    let signalled = stop_signal()?;
    let shutdown = CancellationToken::new();
    let stop = shutdown.clone();
    tokio::spawn(async move {
        signalled.await;
        stop.cancel();
    });
    Ok(shutdown)
}

/// Ends once the process is asked to stop, be it between this call and the wait for it.
fn stop_signal() -> Result<impl Future<Output = ()>, Failure> {
    let listen = |kind| signal(kind).map_err(|error| Failure::new(format!("listen for signals: {error}")));
    let (mut terminate, mut interrupt) = (listen(SignalKind::terminate())?, listen(SignalKind::interrupt())?);
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}

fn train(options: Train) -> Result<(), Failure> {
    let (key, signed_until_ms) = options.signing.read()?;
    let training = OfflineTraining {
        recipe: options.recipe,
        data: options.data,
        output: options.output.clone(),
        model: options.model,
        version: ModelVersion(options.version),
        device: options.device,
        seed: options.seed,
        key,
        signed_until_ms,
    };
    let cancelled = stop_on_signal()?;
    let mut reporter = Reporter::new();
    let mut progress = |step: Progress| reporter.report(&step);
    let mut checkpoint = CheckpointFile::beside(&options.output);
    let (progress, steps) = (&mut progress, Steps::default());
    let mut watch = Watch { progress, cancelled: &cancelled, checkpoint: Some(&mut checkpoint), steps };
    let summary = offline::train(&training, &mut watch);
    reporter.finish();
    let summary = summary.map_err(|error| match error {
        OfflineError::Recipe(error) => Failure { code: EXIT_CONFIG, message: error.to_string() },
        other @ (OfflineError::Samples(_)
        | OfflineError::Files(_)
        | OfflineError::Train(_)
        | OfflineError::Write { .. }) => Failure::new(other),
    })?;
    checkpoint.remove();
    for Skipped { rows, first } in &summary.skipped {
        drop(writeln!(std::io::stderr(), "warning: {rows} rows were left out; the first: {first}"));
    }
    let output = options.output.display();
    let OfflineSummary { digest, segments, rows, metrics, .. } = &summary;
    match options.report {
        Output::Json => say(&serde_json::json!({
            "package": output.to_string(), "digest": digest.to_string(), "rows": rows, "segments": segments,
            "metrics": metrics,
        })
        .to_string()),
        Output::Text => {
            let figures: String = metrics.iter().map(|(name, value)| format!("\n  {name:28} {value:.4}")).collect();
            say(&format!("{output}: {rows} rows of {segments} segments, digest {digest}{figures}"))
        }
    }
}

fn import(options: Import) -> Result<(), Failure> {
    let (key, signed_until_ms) = options.signing.read()?;
    let network = match (&options.onnx, &options.safetensors) {
        (Some(file), _) => Source::Onnx(file),
        (None, Some(file)) => Source::Safetensors(file),
        (None, None) => {
            return Err(Failure { code: 2, message: "name a model with --onnx or --safetensors".to_owned() });
        }
    };
    let order = ImportOrder {
        network,
        pipeline: &options.pipeline,
        model: options.model,
        version: ModelVersion(options.version),
        key: key.as_ref(),
        signed_until_ms,
    };
    let sealed = import::import(&order).map_err(|error| match error {
        ImportError::Recipe(error) => Failure { code: EXIT_CONFIG, message: error.to_string() },
        other @ (ImportError::Io { .. }
        | ImportError::Onnx { .. }
        | ImportError::Weights(_)
        | ImportError::Build(_)
        | ImportError::Package(_)
        | ImportError::Name(_)) => Failure::new(other),
    })?;
    let output = options.output.display();
    std::fs::write(&options.output, &sealed.bytes).map_err(|error| Failure::new(format!("write {output}: {error}")))?;
    say(&format!("{output}: digest {}", sealed.digest))
}

/// Set when the process is told to stop. Only training uses it; everything else ends by itself.
fn stop_on_signal() -> Result<Arc<AtomicBool>, Failure> {
    let cancelled = Arc::new(AtomicBool::new(false));
    let set = Arc::clone(&cancelled);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::new(format!("start the runtime: {error}")))?;
    let signalled = {
        let _entered = runtime.enter();
        stop_signal()?
    };
    std::thread::Builder::new()
        .name("signals".into())
        .spawn(move || {
            runtime.block_on(signalled);
            set.store(true, Ordering::Relaxed);
        })
        .map_err(|error| Failure::new(format!("start the signal thread: {error}")))?;
    Ok(cancelled)
}

/// Shows how far training is: a bar on a terminal; elsewhere an event of the log for every tenth of a stage, which
/// `--log-format json` makes readable for programs.
struct Reporter {
    bar: Option<ProgressBar>,
    /// The stage, and tenths of it that were said.
    said: (String, u32),
    stage_since_ms: UnixMillis,
}

impl Reporter {
    fn new() -> Self {
        let bar = std::io::stderr().is_terminal().then(|| ProgressBar::new(BAR_STEPS));
        if let (Some(bar), Ok(style)) = (&bar, ProgressStyle::with_template("{msg:44} {wide_bar} {percent:>3} % {eta}"))
        {
            bar.set_style(style);
        }
        Self { bar, said: (String::new(), 0), stage_since_ms: clock::unix_ms() }
    }

    fn report(&mut self, step: &Progress) {
        if let Some(bar) = &self.bar {
            let validation = step.validation_loss.map(|loss| format!(" validation {loss:.4}")).unwrap_or_default();
            let loss = if step.loss.is_nan() { String::new() } else { format!(" loss {:.4}", step.loss) };
            bar.set_position((step.done * BAR_STEPS as f64) as u64);
            bar.set_message(format!("{}{loss}{validation}", step.stage));
            return;
        }
        let tenth = (10.0 * step.done) as u32;
        if self.said.0 != step.stage {
            self.stage_since_ms = clock::unix_ms();
        } else if self.said.1 >= tenth {
            return;
        }
        self.said = (step.stage.clone(), tenth);
        let spent_s = (clock::unix_ms() - self.stage_since_ms) as f64 / 1_000.0;
        tracing::info!(
            stage = step.stage,
            done = step.done,
            loss = (!step.loss.is_nan()).then_some(step.loss),
            validation_loss = step.validation_loss,
            remaining_s = (step.done > 0.0).then(|| spent_s * (1.0 - step.done) / step.done),
            "training"
        );
    }

    fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

fn show_key(command: &KeyCommand) -> Result<(), Failure> {
    let file = match command {
        KeyCommand::Create { output } => {
            release_key::create(output).map_err(Failure::new)?;
            output
        }
        KeyCommand::Show { key } => key,
    };
    say(&release_key::load(file).map_err(Failure::new)?.public().to_string())
}

fn certify(command: CaCommand) -> Result<(), Failure> {
    let issued = match command {
        CaCommand::Init { directory } => authority::init(&directory).map_err(Failure::new)?,
        CaCommand::Issuer { directory, root_key } => {
            let own = directory.join("ca.key");
            let elsewhere = if root_key.is_none() && !own.exists() {
                "; if the root's key is kept elsewhere, say where with --root-key"
            } else {
                ""
            };
            let issued = authority::new_issuer(&directory, &root_key.unwrap_or(own));
            issued.map_err(|error| Failure::new(format!("{error}{elsewhere}")))?
        }
        CaCommand::RotateRoot { directory } => authority::rotate_root(&directory).map_err(Failure::new)?,
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
    match writeln!(std::io::stdout(), "{text}") {
        // Whoever read it has seen enough.
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        written => written.map_err(|error| Failure::new(format!("write: {error}"))),
    }
}

fn start_logging(format: LogFormat) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(LOGGED));
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    // A journal is no terminal, whatever it is read with.
    let builder = if std::io::stderr().is_terminal() { builder } else { builder.with_ansi(false) };
    match format {
        LogFormat::Text => builder.init(),
        LogFormat::Json => builder.json().init(),
    }
}
