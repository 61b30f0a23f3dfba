//! Programs for boxes, from the shell.

use std::path::PathBuf;

use clap::Subcommand;
use serde_json::{Value, json};

use super::client::Client;
use super::table::{self, print};
use super::{Ctl, exit, print_one};
use crate::Failure;

/// Boxes that are named in one request.
const AGENTS_AT_ONCE: usize = 200;

#[derive(Subcommand)]
pub(super) enum Programs {
    /// Those that there are, and what became of them.
    List,
    /// What boxes run, and should run.
    Boxes,
    /// Brings one, packed and signed by `cloud-hub package program`.
    Add { file: PathBuf },
    /// Has boxes run one. Each keeps it if all is well with it, and goes back if not; the first that does halts it for all.
    Offer {
        /// The hash of its file, or the beginning of it.
        program: String,
        /// The boxes.
        #[arg(long, value_delimiter = ',', required_unless_present = "all")]
        agents: Vec<String>,
        /// Every box that it is for.
        #[arg(long, conflicts_with = "agents")]
        all: bool,
    },
    /// Lets one be offered again that was halted.
    Resume { program: String },
    /// Removes one. Boxes that run it keep it.
    Remove { program: String },
}

pub(super) fn programs(ctl: &Ctl, client: &Client, programs: &Programs) -> Result<(), Failure> {
    match programs {
        Programs::List => print(ctl.format(), table::PROGRAMS, &client.items("programs")?),
        Programs::Boxes => print(ctl.format(), table::BOX_PROGRAMS, &client.items("box-programs")?),
        Programs::Add { file } => {
            let bytes =
                std::fs::read(file).map_err(|error| Failure::new(format!("read {}: {error}", file.display())))?;
            print_one(ctl, &client.send_bytes("programs", &bytes, "application/octet-stream")?)
        }
        Programs::Offer { program, agents, all } => {
            let program = find(client, program)?;
            let agents = if *all { fitting(client, &program)? } else { agents.clone() };
            let path = format!("programs/{}/offers", name(&program));
            let mut offered = program;
            for agents in agents.chunks(AGENTS_AT_ONCE) {
                offered = client.send("POST", &path, &json!({ "agents": agents }))?;
            }
            print_one(ctl, &offered)
        }
        Programs::Resume { program } => {
            let program = find(client, program)?;
            print_one(ctl, &client.send("POST", &format!("programs/{}/resume", name(&program)), &json!({}))?)
        }
        Programs::Remove { program } => {
            let program = find(client, program)?;
            client.send("DELETE", &format!("programs/{}", name(&program)), &json!({}))?;
            crate::say(&format!("{} is gone", name(&program)))
        }
    }
}

fn name(program: &Value) -> &str {
    program["file"].as_str().unwrap_or_default()
}

/// The one whose hash begins so.
fn find(client: &Client, beginning: &str) -> Result<Value, Failure> {
    let mut found: Vec<Value> = client.items("programs")?;
    found.retain(|program| name(program).starts_with(beginning));
    match <[Value; 1]>::try_from(found) {
        Ok([program]) => Ok(program),
        Err(found) => {
            let (code, count) = (exit::NOT_FOUND, found.len());
            Err(Failure {
                code,
                message: format!("failed to find the program: the hashes of {count} begin with {beginning:?}"),
            })
        }
    }
}

/// Boxes that said that they take such programs.
fn fitting(client: &Client, program: &Value) -> Result<Vec<String>, Failure> {
    let boxes = client.items("box-programs")?;
    let fits = |known: &&Value| known["target"] == program["target"] && known["accepts"] == true;
    Ok(boxes.iter().filter(fits).filter_map(|known| known["agent"].as_str().map(str::to_owned)).collect())
}
