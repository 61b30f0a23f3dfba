//! `edge-agent`: the command line.

use std::ffi::OsString;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand, ValueEnum};
use edge_agent::agent::{Ended, Surroundings};
use edge_agent::clock::{Clock, WallClock};
use edge_agent::config::Config;
use edge_agent::enrol::{EnrolError, Introduction};
use edge_agent::identity::IdentityFolder;
use edge_agent::logging::Log;
use edge_agent::score::{self, ScoreOptions, ScoreSummary};
use edge_agent::{agent, crash_reports, enrol, machine, program, status};
use shared::device::DeviceChoice;
use shared::enrolment::{Invitation, MAX_TOKEN_CHARS};
use shared::ids::AgentId;
use shared::package::signature::PublicKey;
use shared::table::TableOptions;
use shared::wire::enrol::Refusal;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

#[cfg(target_env = "musl")]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Exit code for a configuration that cannot be used (EX_CONFIG), so that a service manager does not try again.
const EXIT_CONFIG: u8 = 78;

/// Exit code for a token that the hub does not take: trying again does not help.
const EXIT_REFUSED: u8 = 3;

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

mod commands;

#[derive(Subcommand)]
enum Command {
    /// Runs the agent until it is told to stop.
    Run {
        /// The configuration file.
        #[arg(long)]
        config: PathBuf,
        /// The installed program, in whose place this one runs.
        #[arg(long, hide = true)]
        installed: Option<PathBuf>,
    },
    /// Makes the box known to its hub, with a token or a claim that the hub's operator made.
    Enroll(Enroll),
    /// Checks a configuration file and says what is wrong with it.
    CheckConfig {
        /// The configuration file.
        #[arg(long)]
        config: PathBuf,
    },
    /// Shows what messages become by a configuration, and why some become nothing.
    Try(commands::Try),
    /// Listens to a broker and proposes the inputs that take in what is published.
    LearnInput(commands::LearnInput),
    /// Examines the box: what works, what does not, why it matters and what to do.
    Doctor(commands::Doctor),
    /// Writes down everything about the box in one JSON document without secrets, for whoever helps. The hub can ask for it, too.
    Diag {
        /// The configuration file.
        #[arg(long, default_value = "/etc/tideline/agent.toml")]
        config: PathBuf,
    },
    /// Scores a CSV file with a model, by the code that serves live.
    Score(Score),
    /// Prints what the agent publishes over MQTT as an AsyncAPI 3 document.
    Asyncapi,
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
#[command(after_help = "Examples:\n  edge-agent enroll --token tle1_...\n  \
                  edge-agent enroll --token-file /boot/firmware/tideline-enroll.token --shred\n\n\
                  The token is used up. Should the answer be lost, the same command works again on this box.\n\
                  A claim (tlc1_...) lets nobody in: the box asks with it, and waits until somebody at the hub approves.\n\
                  Exit code 3: the hub does not take the token, and trying again does not help.")]
struct Enroll {
    /// The token or the claim, as the hub shows it.
    #[arg(long, env = "TIDELINE_ENROLL_TOKEN", hide_env_values = true)]
    token: Option<String>,
    /// A file with it.
    #[arg(long, conflicts_with = "token")]
    token_file: Option<PathBuf>,
    /// Overwrite and remove the token's file once it is used.
    #[arg(long, requires = "token_file")]
    shred: bool,
    /// The box's name, if the token does not settle it: by default the one in the configuration, or the host's. Boxes with a claim,
    /// which are often called alike, get one from the hub by default.
    #[arg(long)]
    name: Option<AgentId>,
    /// The configuration file.
    #[arg(long, default_value = "/etc/tideline/agent.toml")]
    config: PathBuf,
    /// How to say what came of it.
    #[arg(long, value_enum, default_value_t = Output::Text)]
    output: Output,
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
    let log = Log::start(matches!(arguments.log_format, LogFormat::Json));
    let result = match arguments.command {
        Command::Run { config, installed } => run(config, log, installed),
        Command::Enroll(options) => enroll(&options),
        Command::CheckConfig { config } => load_to_look(&config).and_then(|checked| {
            let name = if checked.is_named() { "" } else { "; the box gets its name when it is enrolled" };
            say(&format!("{} is a good configuration{name}", config.display()))
        }),
        Command::Try(options) => commands::preview(&options),
        Command::LearnInput(options) => commands::learn(&options),
        Command::Doctor(options) => commands::doctor(&options),
        Command::Diag { config } => commands::diagnose(&config),
        Command::Score(options) => score_file(options),
        Command::Asyncapi => say(&format!("{:#}", edge_agent::asyncapi::document())),
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

/// For those who do not run the box: it may have no name yet.
fn load_to_look(path: &Path) -> Result<Config, Failure> {
    Config::load_to_look(path).map_err(|error| Failure { code: EXIT_CONFIG, message: error.to_string() })
}

/// One thread is enough for the sockets; the disk, inference and the store have threads of their own.
fn run(config_file: PathBuf, log: Log, installed: Option<PathBuf>) -> Result<(), Failure> {
    let config = load(&config_file)?;
    let arguments: Vec<OsString> = std::env::args_os().skip(1).collect();
    let directory = &config.agent.state_directory;
    let running = program::take_place(directory, &arguments, installed, || agent::forget_crashes(directory));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::new(format!("start the runtime: {error}")))?;
    crash_reports::keep_in(directory, log.clone(), WallClock::start(Clock::start(), directory));
    let surroundings = Surroundings { log, running: Some(running.clone()), config: Some(config_file) };
    let ended = runtime.block_on(async {
        let shutdown = stop_when_signalled()?;
        let ended = agent::run(config, surroundings, shutdown.clone()).await.map_err(Failure::new)?;
        // Whoever is told to stop on the way to another program starts none.
        Ok(if shutdown.is_cancelled() { Ended::Told } else { ended })
    })?;
    match ended {
        Ended::Told => Ok(()),
        Ended::ForAnotherProgram => {
            let failure = program::start_over(&running, &arguments);
            Err(Failure::new(format!("start over as another program: {failure}")))
        }
    }
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

/// Makes the box known to its hub. The token file is shredded once it is used, if that is asked for.
fn enroll(options: &Enroll) -> Result<(), Failure> {
    let usage = |message: String| Failure { code: 2, message };
    let text = match (&options.token, &options.token_file) {
        (Some(token), _) => token.clone(),
        (None, Some(file)) => {
            let text = std::fs::read_to_string(file)
                .map_err(|error| Failure::new(format!("read token {}: {error}", file.display())))?;
            if options.shred && is_shredded(&text) {
                return finish_shredding(options, file);
            }
            text
        }
        (None, None) => return Err(usage("give --token or --token-file".to_owned())),
    };
    // What is no token does not become one by trying again.
    let invitation: Invitation = text.parse().map_err(|error| Failure { code: EXIT_REFUSED, ..Failure::new(error) })?;
    let (named, state_directory) = edge_agent::config::for_enrolment(&options.config)
        .map_err(|error| Failure { code: EXIT_CONFIG, message: error.to_string() })?;
    let is_open = matches!(&invitation, Invitation::Token(token) if token.agent.is_none());
    let name = options.name.clone().or(named).or_else(|| host_name().filter(|_| is_open));
    let introduction = Introduction { name, hardware: machine::hardware() };
    let folder = IdentityFolder::of(&state_directory);
    let wall = WallClock::start(Clock::start(), &state_directory);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::new(format!("start the runtime: {error}")))?;
    let waits = |says: &str| drop(writeln!(std::io::stderr(), "edge-agent: {says}"));
    let enrolled = runtime.block_on(enrol::enrol(&invitation, introduction, &folder, &wall, waits));
    let (enrolment, held) = enrolled.map_err(|error| {
        let is_final = matches!(&error, EnrolError::Refused { code, .. } if *code != Refusal::Unavailable);
        Failure { code: if is_final { EXIT_REFUSED } else { 1 }, ..Failure::new(error) }
    })?;
    folder.give_to_owner_of(&state_directory).map_err(Failure::new)?;
    if let Some(file) = options.token_file.as_deref().filter(|_| options.shred) {
        shred(file).map_err(|error| Failure::new(format!("shred {}: {error}", file.display())))?;
    }
    let until = chrono::DateTime::from_timestamp_millis(held.not_after_ms).unwrap_or_default();
    let until = until.to_rfc3339_opts(chrono::SecondsFormat::Secs, true);
    say(&match options.output {
        Output::Json => serde_json::json!({
            "agent": enrolment.agent.as_str(), "hubs": enrolment.hubs, "certificate_expires": until,
        })
        .to_string(),
        Output::Text => {
            let hub = enrolment.hubs.first().map(String::as_str).unwrap_or_default();
            format!(
                "this box is {} at the hub {hub}; its certificate holds until {until} and is renewed in time",
                enrolment.agent
            )
        }
    })
}

/// What the box calls itself, if it can be a name.
fn host_name() -> Option<AgentId> {
    let name = std::fs::read_to_string("/etc/hostname").ok()?;
    AgentId::new(name.trim()).ok().filter(|name| name.as_str() != "localhost")
}

/// Overwrites a file and removes it. What a card's own controller keeps of it is beyond any program's reach; by then the
/// token is used.
fn shred(path: &Path) -> std::io::Result<()> {
    let length = usize::try_from(path.metadata()?.len()).unwrap_or(usize::MAX).min(MAX_TOKEN_CHARS);
    let mut file = std::fs::OpenOptions::new().write(true).open(path)?;
    file.write_all(&vec![0; length])?;
    file.sync_all()?;
    remove(path)
}

fn remove(path: &Path) -> std::io::Result<()> {
    std::fs::remove_file(path)?;
    // A name that comes back with the next power cut would be a token again. Not every file system can be asked for it.
    drop(std::fs::File::open(path.parent().unwrap_or(Path::new("."))).and_then(|folder| folder.sync_all()));
    Ok(())
}

/// Whether a file is what is left of a token that was overwritten.
fn is_shredded(text: &str) -> bool {
    text.bytes().all(|byte| byte == 0)
}

/// The power went between the overwriting of a token and its removal. By then the box was let in.
fn finish_shredding(options: &Enroll, file: &Path) -> Result<(), Failure> {
    let (_, state_directory) = edge_agent::config::for_enrolment(&options.config)
        .map_err(|error| Failure { code: EXIT_CONFIG, message: error.to_string() })?;
    let enrolment = IdentityFolder::of(&state_directory).enrolment().map_err(Failure::new)?;
    let Some(enrolment) = enrolment else {
        let message =
            format!("{} holds no token any more, and the box is not let in; make another token", file.display());
        return Err(Failure { code: EXIT_REFUSED, message });
    };
    remove(file).map_err(|error| Failure::new(format!("remove {}: {error}", file.display())))?;
    say(&format!("this box is {} already; what was left of its token is gone", enrolment.agent))
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
