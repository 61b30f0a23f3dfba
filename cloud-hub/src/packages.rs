//! The commands of the command line for packages of models, and for programs for boxes.

use std::path::{Path, PathBuf};

use clap::Subcommand;
use cloud_hub::{clock, inspect, release_key};
use shared::device::DeviceKind;
use shared::event::UnixMillis;
use shared::ids::Digest;
use shared::package::signature::{PublicKey, ReleaseKey};
use shared::program::{self, ProgramFacts, ProgramFile};

use crate::ctl::enrol::duration_s;
use crate::{Failure, Output, say};

#[derive(Subcommand)]
pub(crate) enum PackageCommand {
    /// Shows what a package, or a program for boxes, holds, after checking every hash in it.
    Inspect {
        /// The package.
        file: PathBuf,
        /// How to show it.
        #[arg(long, value_enum, default_value_t = Output::Text)]
        output: Output,
    },
    /// Checks all that an agent checks before it serves a package or begins with a program, and says what does not hold.
    Verify {
        /// The package.
        file: PathBuf,
        /// A release key, `ed25519:...`, whose signature it must have; may be given several times.
        #[arg(long = "trust")]
        trusted: Vec<PublicKey>,
        /// The device that must reproduce the golden vectors.
        #[arg(long, default_value = "flex")]
        device: DeviceKind,
        /// How to report.
        #[arg(long, value_enum, default_value_t = Output::Text)]
        output: Output,
    },
    /// Shows what is different in the second package.
    Diff {
        /// One package.
        before: PathBuf,
        /// The other.
        after: PathBuf,
        /// How to show it.
        #[arg(long, value_enum, default_value_t = Output::Text)]
        output: Output,
    },
    /// Signs a package, in place. Signatures that it has stay, but for one by the same key.
    #[command(after_help = "Example, on a machine that has the key and is not the hub:\n  \
                      cloud-hub package sign pump-7.tide --key fleet.key --expires-in 180d")]
    Sign {
        /// The package.
        file: PathBuf,
        /// How long boxes may begin with it; one that serves it goes on. A program says so itself.
        #[arg(long, default_value = "365d", value_parser = duration_s)]
        expires_in: i64,
        /// The release key.
        #[arg(long)]
        key: PathBuf,
    },
    /// Takes the weights out of a package, as a safetensors file.
    Weights {
        /// The package.
        file: PathBuf,
        /// Where to write them.
        #[arg(long)]
        output: PathBuf,
    },
    /// Packs a program for boxes and signs it, on a machine that has the key: `cloud-hub ctl programs add` brings it.
    Program {
        /// The agent's program, as it was built for the target.
        program: PathBuf,
        /// The boxes that it is for: aarch64-unknown-linux-musl.
        #[arg(long)]
        target: String,
        /// The release, for people.
        #[arg(long, default_value = env!("CARGO_PKG_VERSION"))]
        release: String,
        /// Grows from release to release: the time of the commit in seconds, as `git log -1 --format=%ct` prints it.
        #[arg(long)]
        number: u64,
        /// How long boxes may begin to use it: 90d.
        #[arg(long, default_value = "365d", value_parser = duration_s)]
        expires_in: i64,
        /// The release key.
        #[arg(long)]
        key: PathBuf,
        /// Where to write it.
        #[arg(long)]
        output: PathBuf,
    },
}

/// Who signs a package that is made here, and for how long.
#[derive(clap::Args)]
pub(crate) struct Signing {
    /// The release key that signs the package: an Ed25519 private key in PEM.
    #[arg(long)]
    key: Option<PathBuf>,
    /// How long boxes may begin with the signed package; one that serves it goes on.
    #[arg(long, default_value = "365d", value_parser = duration_s)]
    expires_in: i64,
}

impl Signing {
    /// The key, and until when it signs.
    pub(crate) fn read(&self) -> Result<(Option<ReleaseKey>, UnixMillis), Failure> {
        let key = self.key.as_deref().map(release_key::load).transpose().map_err(Failure::new)?;
        Ok((key, from_now_ms(self.expires_in)))
    }
}

pub(crate) fn look_into(command: PackageCommand) -> Result<(), Failure> {
    let (report, output, to_text): (_, _, fn(&serde_json::Value) -> String) = match command {
        PackageCommand::Inspect { file, output } => (inspect::inspect(&file), output, inspect::to_text),
        PackageCommand::Verify { file, trusted, device, output } => {
            (inspect::verify(&file, &trusted, device), output, inspect::verified_to_text)
        }
        PackageCommand::Diff { before, after, output } => {
            (inspect::diff(&before, &after), output, inspect::diff_to_text)
        }
        PackageCommand::Sign { file, expires_in, key } => {
            let key = release_key::load(&key).map_err(Failure::new)?;
            let name = sign(&file, &key, from_now_ms(expires_in))?;
            return say(&format!("{name} is signed by {}", key.public()));
        }
        PackageCommand::Program { program, target, release, number, expires_in, key, output } => {
            let key = release_key::load(&key).map_err(Failure::new)?;
            let bytes = read(&program)?;
            let named = |error| Failure::new(format!("read {}: {error}", program.display()));
            program::check_processor(&bytes, &target).map_err(named)?;
            let (created_ms, expires_ms) = (clock::unix_ms(), from_now_ms(expires_in));
            let facts = ProgramFacts { release, number, target, created_ms, expires_ms };
            let file = program::seal(&bytes, facts, &[&key]).map_err(Failure::new)?;
            write(&output, &file)?;
            let (digest, signer) = (Digest::of(&file), key.public());
            return say(&format!("{}: {} bytes, {digest}, signed by {signer}", output.display(), file.len()));
        }
        PackageCommand::Weights { file, output } => {
            let weights = inspect::weights(&file).map_err(Failure::new)?;
            return std::fs::write(&output, weights)
                .map_err(|error| Failure::new(format!("write {}: {error}", output.display())));
        }
    };
    let report = report.map_err(Failure::new)?;
    match output {
        Output::Json => say(&report.to_string()),
        Output::Text => say(&to_text(&report)),
    }
}

/// Signs a package or a program, in place; gives what it is called.
fn sign(path: &Path, key: &ReleaseKey, expires_ms: UnixMillis) -> Result<String, Failure> {
    let bytes = read(path)?;
    if !ProgramFile::is_one(&bytes) {
        return Ok(inspect::sign(path, key, expires_ms).map_err(Failure::new)?.to_string());
    }
    let signed = program::add_signature(&bytes, key).map_err(Failure::new)?;
    write(path, &signed)?;
    Ok(Digest::of(&signed).to_string())
}

fn from_now_ms(seconds: i64) -> UnixMillis {
    clock::unix_ms().saturating_add(seconds.saturating_mul(1_000))
}

fn read(path: &Path) -> Result<Vec<u8>, Failure> {
    std::fs::read(path).map_err(|error| Failure::new(format!("read {}: {error}", path.display())))
}

fn write(path: &Path, bytes: &[u8]) -> Result<(), Failure> {
    std::fs::write(path, bytes).map_err(|error| Failure::new(format!("write {}: {error}", path.display())))
}
