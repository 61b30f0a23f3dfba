//! The commands of the command line that only look: drift in recordings, and the history of versions.

use std::path::{Path, PathBuf};

use clap::{CommandFactory, Subcommand};
use cloud_hub::audit;
use cloud_hub::core::drift::own::OwnRules;
use cloud_hub::hub::drift_files::{FileDrift, drift_in_files};
use cloud_hub::release_key;
use shared::ids::{AgentId, ChannelName, ModelName, ModelVersion};

use crate::{Arguments, Failure, Output, say};

#[derive(clap::Args)]
pub(crate) struct Drift {
    /// A CSV file, or a folder of them.
    #[arg(long)]
    data: PathBuf,
    /// The columns to watch.
    #[arg(long, value_delimiter = ',', required = true)]
    channels: Vec<ChannelName>,
    /// The column that is above 0 in a fault, to say how early and how often drift is called.
    #[arg(long)]
    label: Option<String>,
    /// Rows that make the reference.
    #[arg(long, default_value_t = OwnRules::default().reference_rows)]
    reference_rows: usize,
    /// Rows after which a row's weight has halved.
    #[arg(long, default_value_t = OwnRules::default().half_life)]
    half_life: f64,
    /// The mean divergence in bits above which a stream has drifted.
    #[arg(long, default_value_t = OwnRules::default().threshold)]
    threshold: f64,
    /// Rows on end above it.
    #[arg(long, default_value_t = OwnRules::default().rows)]
    rows: u32,
    /// How to print the result.
    #[arg(long, value_enum, default_value_t = Output::Text)]
    output: Output,
}

#[derive(Subcommand)]
pub(crate) enum AuditCommand {
    /// Proves that nothing in the history was changed, taken out or put in. Exit code 1 if something was.
    Verify(AuditArguments),
    /// What a box served, and which data trained it.
    Box {
        /// The box.
        agent: AgentId,
        /// Only what it served at this time (RFC 3339).
        #[arg(long)]
        at: Option<chrono::DateTime<chrono::Utc>>,
        #[command(flatten)]
        audit: AuditArguments,
    },
    /// Which boxes ever served a version.
    Version {
        /// The model.
        model: ModelName,
        /// The version.
        version: u32,
        #[command(flatten)]
        audit: AuditArguments,
    },
}

#[derive(clap::Args)]
pub(crate) struct AuditArguments {
    /// The hub's data folder.
    #[arg(long)]
    data: PathBuf,
    /// How to print the result.
    #[arg(long, value_enum, default_value_t = Output::Text)]
    output: Output,
}

pub(crate) fn complete(shell: clap_complete::Shell) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Arguments::command(), "cloud-hub", &mut script);
    say(String::from_utf8_lossy(&script).trim_end())
}

pub(crate) fn write_man(directory: &Path) -> Result<(), Failure> {
    let failed = |error| Failure::new(format!("write man pages to {}: {error}", directory.display()));
    std::fs::create_dir_all(directory).map_err(failed)?;
    clap_mangen::generate_to(Arguments::command(), directory).map_err(failed)
}

pub(crate) fn find_drift(arguments: &Drift) -> Result<(), Failure> {
    let Drift { reference_rows, half_life, threshold, rows, .. } = *arguments;
    let rules = OwnRules { reference_rows, half_life, threshold, rows };
    let found = drift_in_files(&arguments.data, &arguments.channels, arguments.label.as_deref(), rules)
        .map_err(Failure::new)?;
    if arguments.output == Output::Json {
        let count = |is: fn(&FileDrift) -> Option<bool>| found.iter().filter(|file| is(file) == Some(true)).count();
        let summary = serde_json::json!({
            "files": found.len(),
            "false_alarms": count(|file| file.false_alarm),
            "detected": count(|file| file.detected),
            "threshold": threshold,
            "each": found,
        });
        return say(&summary.to_string());
    }
    let line = |file: &FileDrift| match (file.drift_row, file.fault_row) {
        (None, _) => format!("{}: no drift in {} rows", file.file.display(), file.rows),
        (Some(row), None) => format!("{}: drift from row {row} on", file.file.display()),
        (Some(row), Some(fault)) => format!("{}: drift from row {row} on, fault from {fault}", file.file.display()),
    };
    say(&found.iter().map(line).collect::<Vec<_>>().join("\n"))
}

pub(crate) fn look_back(command: &AuditCommand) -> Result<(), Failure> {
    let (AuditCommand::Verify(arguments)
    | AuditCommand::Box { audit: arguments, .. }
    | AuditCommand::Version { audit: arguments, .. }) = command;
    let key = release_key::load(&arguments.data.join("release.key")).map_err(Failure::new)?.public();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(Failure::new)?;
    let rows = runtime.block_on(audit::verify(&arguments.data, key)).map_err(Failure::new)?;
    let (value, text) = match command {
        AuditCommand::Verify(_) => audit::summary(&rows),
        AuditCommand::Box { agent, at, .. } => audit::of_box(&rows, agent, at.map(|at| at.timestamp_millis())),
        AuditCommand::Version { model, version, .. } => audit::of_version(&rows, model, ModelVersion(*version)),
    };
    say(&if arguments.output == Output::Json { value.to_string() } else { text })
}
