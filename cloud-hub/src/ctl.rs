//! `cloud-hub ctl`: the hub from the shell, over the same HTTP interface as everybody.

mod client;
mod diagnose;
pub(crate) mod enrol;
mod image;
mod programs;
mod table;

use std::io::{IsTerminal, Read};
use std::path::PathBuf;
use std::time::Duration;

use clap::{Subcommand, ValueEnum};
use cloud_hub::clock;
use cloud_hub::core::access::Role;
use serde_json::{Value, json};

use crate::Failure;
use client::{Client, Target};
use table::{Column, print};

/// How long `--wait` waits unless it is said: a training on a small machine.
const WAIT_S: u64 = 600;
/// How often it looks.
const LOOK: Duration = Duration::from_millis(500);
/// The heading of what says which hub is meant, in the help.
const WHOSE: &str = "Whose hub";
/// Bytes of a password that is read from standard input.
const MAX_PASSWORD_BYTES: u64 = 1_024;

/// Exit codes beside 0, 1 and 2 (usage), after the conventions of such tools.
pub(crate) mod exit {
    pub(crate) const NOT_FOUND: u8 = 3;
    pub(crate) const ACCESS: u8 = 4;
    pub(crate) const CONFLICT: u8 = 5;
    pub(crate) const TIMEOUT: u8 = 6;
}

#[derive(clap::Args)]
#[command(
    after_help = "Whose hub: --hub and a token (TIDELINE_TOKEN, or a file), or on the hub's own machine --data alone.\n\n\
                  Examples:\n  cloud-hub ctl --data /var/lib/tideline-hub agents\n  \
                  cloud-hub ctl --hub https://hub.example --token-file ci.token train pump-anomaly --wait\n  \
                  cloud-hub ctl rollout approve 7\n\n\
                  Exit codes: 1 failed, 2 usage, 3 not found, 4 not allowed, 5 not as things stand, 6 waited too long."
)]
pub(crate) struct Ctl {
    /// The hub's address.
    #[arg(long, global = true, help_heading = WHOSE, env = "TIDELINE_HUB_URL", default_value = "http://127.0.0.1:8080")]
    hub: String,
    /// A file with a token.
    #[arg(long, global = true, help_heading = WHOSE, env = "TIDELINE_TOKEN_FILE", conflicts_with = "data")]
    token_file: Option<PathBuf>,
    /// From the environment alone: what stands on a command line is seen by others.
    #[arg(long, global = true, env = "TIDELINE_TOKEN", hide = true, hide_env_values = true)]
    token: Option<String>,
    /// The authority that signed the certificate of the hub, or of what stands in front of it, PEM; without it, those that
    /// browsers trust.
    #[arg(long, global = true, help_heading = WHOSE, env = "TIDELINE_CA_FILE")]
    ca_file: Option<PathBuf>,
    /// The hub's data folder, on its own machine: the token in it is used.
    #[arg(long, global = true, help_heading = WHOSE, env = "TIDELINE_HUB_DATA")]
    data: Option<PathBuf>,
    /// How to print: table, json or csv.
    #[arg(long, short, global = true, value_name = "FORMAT", default_value = "table", value_parser = output)]
    output: Output,
    #[command(subcommand)]
    command: Command,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    Table,
    Json,
    Csv,
}

/// What stands behind --output.
#[derive(Clone)]
enum Output {
    Format(Format),
    File(PathBuf),
}

/// Everything but the name of a format is a file.
fn output(text: &str) -> Result<Output, String> {
    if text.is_empty() {
        return Err("say table, json or csv".to_owned());
    }
    Ok(Format::from_str(text, false).map_or_else(|_| Output::File(PathBuf::from(text)), Output::Format))
}

impl Ctl {
    fn format(&self) -> Format {
        match &self.output {
            Output::Format(format) => *format,
            Output::File(_) => Format::Table,
        }
    }
}

#[derive(Subcommand)]
enum Command {
    /// Boxes, or one of them.
    Agents { agent: Option<String> },
    /// Asks a box for everything it can say of itself, and waits for it.
    Diagnose {
        agent: String,
        /// Seconds to wait at most.
        #[arg(long, default_value_t = 60)]
        timeout: u64,
    },
    /// Streams: what came in, and the newest.
    Streams,
    /// Models and their champions.
    Models,
    /// The versions of a model.
    Versions { model: String },
    /// Brings a package.
    Upload {
        model: String,
        package: PathBuf,
        /// It need not prove itself on the hub's readings; the history says so.
        #[arg(long)]
        skip_proof: bool,
    },
    /// Asks for a training.
    Train {
        model: String,
        #[command(flatten)]
        wait: Wait,
    },
    /// Trainings, or one of them with every reason.
    Runs { run: Option<String> },
    /// Rollouts, or one of them with all that was said.
    Rollouts { rollout: Option<String> },
    /// Begins, approves, holds or ends a rollout.
    #[command(subcommand)]
    Rollout(Rollout),
    /// Alarms, and what they come from.
    Drift,
    /// What was taken in, delivered and dropped.
    Ledger,
    /// What was done and what happened, newest first.
    History {
        #[arg(long, default_value_t = 50)]
        limit: u32,
    },
    /// Saves a version's package.
    Download {
        model: String,
        version: u32,
        /// The file to write.
        #[arg(long)]
        to: PathBuf,
    },
    /// Alarms of machines, and what people made of them.
    Alarms,
    /// Says what an alarm was.
    Review {
        alarm: String,
        /// What it was.
        #[arg(value_parser = ["fault", "false_alarm", "seen"])]
        verdict: String,
        /// What there is to say.
        #[arg(long, default_value = "")]
        comment: String,
    },
    /// What people say of stretches of readings.
    #[command(subcommand)]
    Labels(Labels),
    /// Lets boxes in.
    #[command(subcommand)]
    Enroll(enrol::Enroll),
    /// Images for boxes, and cards.
    #[command(subcommand)]
    Image(image::Image),
    /// Programs for boxes: brings them, offers them, says what became of them.
    #[command(subcommand)]
    Programs(programs::Programs),
    /// Boxes that were let in, and those that are kept out.
    Identities,
    /// Keeps a box out, and closes its connections.
    Revoke {
        agent: String,
        /// Why.
        #[arg(long, default_value = "")]
        reason: String,
    },
    /// Lets a box come back whose certificate expired.
    Approve { agent: String },
    /// Who the hub takes you for.
    Me,
    /// People.
    #[command(subcommand)]
    Users(Users),
    /// Tokens of programs.
    #[command(subcommand)]
    Tokens(Tokens),
}

#[derive(Subcommand)]
enum Labels {
    /// All of them.
    List,
    /// Says what a stretch is.
    Add {
        agent: String,
        stream: String,
        /// The first time, RFC 3339.
        #[arg(long)]
        from: String,
        /// The last time.
        #[arg(long)]
        to: String,
        /// What it is.
        #[arg(long, value_parser = ["normal", "fault"])]
        kind: String,
        /// What there is to say.
        #[arg(long, default_value = "")]
        comment: String,
    },
    /// Takes a CSV file of them: agent,stream,from,to,kind,comment.
    Import { file: PathBuf },
    /// Takes one back.
    Remove { id: String },
}

#[derive(clap::Args)]
struct Wait {
    /// Until it is over; exit code 1 if it did not go well.
    #[arg(long)]
    wait: bool,
    /// Seconds to wait at most.
    #[arg(long, default_value_t = WAIT_S)]
    timeout: u64,
}

#[derive(Subcommand)]
enum Rollout {
    /// Rolls a version out that is there.
    Start {
        model: String,
        version: u32,
        #[command(flatten)]
        wait: Wait,
    },
    /// Lets the next stage begin.
    Approve { rollout: u64 },
    /// Holds it.
    Pause { rollout: u64 },
    /// Goes on.
    Resume { rollout: u64 },
    /// Takes it back.
    Abort { rollout: u64 },
    /// Waits for its end.
    Wait {
        rollout: u64,
        /// Seconds to wait at most.
        #[arg(long, default_value_t = WAIT_S)]
        timeout: u64,
    },
}

#[derive(Subcommand)]
enum Users {
    /// Everybody.
    List,
    /// Makes a user. The password comes from standard input.
    Add {
        name: String,
        #[arg(long, value_parser = role)]
        role: Role,
    },
    /// Gives a user another role.
    SetRole {
        name: String,
        #[arg(value_parser = role)]
        role: Role,
    },
    /// Gives a user another password, from standard input.
    SetPassword { name: String },
    /// Removes a user, with sessions and tokens.
    Remove { name: String },
}

#[derive(Subcommand)]
enum Tokens {
    /// Those that there are.
    List,
    /// Makes one, and prints it: it is shown only now.
    Create {
        name: String,
        #[arg(long, value_parser = role)]
        role: Role,
        /// Days that it lasts.
        #[arg(long, default_value_t = 90)]
        days: u32,
    },
    /// Makes one void.
    Revoke { id: String },
}

fn role(text: &str) -> Result<Role, String> {
    let known: Vec<&str> = Role::ALL.iter().map(|role| role.name()).collect();
    Role::named(text).ok_or_else(|| format!("roles are {}", known.join(", ")))
}

/// Carries out a command.
pub(crate) fn control(ctl: &Ctl) -> Result<(), Failure> {
    if let (Output::File(file), false) = (&ctl.output, matches!(ctl.command, Command::Image(_))) {
        let message = format!("{:?} is no format; --output takes table, json or csv", file.display().to_string());
        return Err(Failure { code: 2, message });
    }
    // A card is written without a hub.
    if let Command::Image(image::Image::Flash(options)) = &ctl.command {
        return image::flash(ctl, options);
    }
    let client = Client::new(&Target {
        hub: &ctl.hub,
        token_file: ctl.token_file.as_deref(),
        token: ctl.token.as_deref(),
        ca_file: ctl.ca_file.as_deref(),
        data: ctl.data.as_deref(),
    })?;
    let show = |columns: &[Column<'_>], path: &str| print(ctl.format(), columns, &client.items(path)?);
    match &ctl.command {
        Command::Agents { agent: None } => show(table::AGENTS, "agents"),
        Command::Agents { agent: Some(agent) } => print_one(ctl, &client.get(&format!("agents/{agent}"))?),
        Command::Diagnose { agent, timeout } => diagnose::diagnose(ctl, &client, agent, *timeout),
        Command::Streams => show(table::STREAMS, "streams"),
        Command::Models => show(table::MODELS, "models"),
        Command::Versions { model } => show(table::VERSIONS, &format!("models/{model}/versions")),
        Command::Upload { model, package, skip_proof } => {
            let bytes = std::fs::read(package)
                .map_err(|error| Failure::new(format!("read package {}: {error}", package.display())))?;
            let path = format!("models/{model}/versions?skip_proof={skip_proof}");
            print_one(ctl, &client.send_bytes(&path, &bytes, "application/octet-stream")?)
        }
        Command::Train { model, wait } => train(ctl, &client, model, wait),
        Command::Runs { run: None } => show(table::RUNS, "retraining-runs"),
        Command::Runs { run: Some(run) } => print_one(ctl, &client.get(&format!("retraining-runs/{run}"))?),
        Command::Rollouts { rollout: None } => show(table::ROLLOUTS, "rollouts"),
        Command::Rollouts { rollout: Some(id) } => print_one(ctl, &client.get(&format!("rollouts/{id}"))?),
        Command::Rollout(rollout) => roll_out(ctl, &client, rollout),
        Command::Drift => {
            let drift = client.get("drift")?;
            print(ctl.format(), table::DRIFT, drift["alarms"].as_array().map(Vec::as_slice).unwrap_or_default())
        }
        Command::Ledger => {
            let ledger = client.get("ledger")?;
            print(ctl.format(), table::LEDGER, ledger["streams"].as_array().map(Vec::as_slice).unwrap_or_default())
        }
        Command::History { limit } => {
            let page = client.get(&format!("history?limit={limit}"))?;
            print(ctl.format(), table::HISTORY, page["items"].as_array().map(Vec::as_slice).unwrap_or_default())
        }
        Command::Download { model, version, to } => {
            let bytes = client.get_bytes(&format!("models/{model}/versions/{version}/package"))?;
            std::fs::write(to, bytes).map_err(|error| Failure::new(format!("write {}: {error}", to.display())))?;
            crate::say(&format!("{} is version {version} of {model}", to.display()))
        }
        Command::Alarms => show(table::ALARMS, "alarms"),
        Command::Review { alarm, verdict, comment } => {
            let body = json!({ "verdict": verdict, "comment": comment });
            print_one(ctl, &client.send("POST", &format!("alarms/{alarm}/review"), &body)?)
        }
        Command::Labels(labels) => labels_of(ctl, &client, labels),
        Command::Enroll(enroll) => enrol::enroll(ctl, &client, enroll),
        Command::Image(image) => image::image(ctl, &client, image),
        Command::Programs(asked) => programs::programs(ctl, &client, asked),
        Command::Identities => show(table::IDENTITIES, "identities"),
        Command::Revoke { agent, reason } => {
            let body = json!({ "reason": reason });
            print_one(ctl, &client.send("POST", &format!("identities/{agent}/revoke"), &body)?)
        }
        Command::Approve { agent } => {
            print_one(ctl, &client.send("POST", &format!("identities/{agent}/approve"), &json!({}))?)
        }
        Command::Me => print_one(ctl, &client.get("me")?),
        Command::Users(users) => users_of(ctl, &client, users),
        Command::Tokens(tokens) => tokens_of(ctl, &client, tokens),
    }
}

fn print_one(ctl: &Ctl, value: &Value) -> Result<(), Failure> {
    match ctl.format() {
        Format::Table | Format::Json => crate::say(&serde_json::to_string_pretty(value).map_err(Failure::new)?),
        Format::Csv => print(Format::Csv, &table::columns_of(value), std::slice::from_ref(value)),
    }
}

fn train(ctl: &Ctl, client: &Client, model: &str, wait: &Wait) -> Result<(), Failure> {
    let newest = |runs: &[Value]| runs.iter().filter_map(|run| run["run"].as_u64()).max().unwrap_or(0);
    let before = newest(&client.items("retraining-runs")?);
    let asked = client.send("POST", &format!("models/{model}/retraining"), &json!({}))?;
    if !wait.wait {
        return print_one(ctl, &asked);
    }
    let over = wait_for(wait.timeout, "the training", || {
        let runs = client.items("retraining-runs")?;
        let is_over =
            |run: &&Value| run["run"].as_u64() > Some(before) && run["model"] == model && !run["finished"].is_null();
        Ok(runs.iter().find(is_over).cloned())
    })?;
    print_one(ctl, &over)?;
    end_well(&over["state"], "released")
}

fn roll_out(ctl: &Ctl, client: &Client, rollout: &Rollout) -> Result<(), Failure> {
    let wish = |id: &u64, wish: &str| client.send("POST", &format!("rollouts/{id}/{wish}"), &json!({}));
    match rollout {
        Rollout::Start { model, version, wait } => {
            let newest = |all: &[Value]| all.iter().filter_map(|one| one["rollout"].as_u64()).max().unwrap_or(0);
            let before = newest(&client.items("rollouts")?);
            let asked = client.send("POST", &format!("models/{model}/rollouts"), &json!({ "version": version }))?;
            if !wait.wait {
                return print_one(ctl, &asked);
            }
            let id = wait_for(wait.timeout, "the rollout to begin", || {
                let newest = newest(&client.items("rollouts")?);
                Ok((newest > before).then_some(newest))
            })?;
            wait_for_rollout(ctl, client, id, wait.timeout)
        }
        Rollout::Approve { rollout } => print_one(ctl, &wish(rollout, "approve")?),
        Rollout::Pause { rollout } => print_one(ctl, &wish(rollout, "pause")?),
        Rollout::Resume { rollout } => print_one(ctl, &wish(rollout, "resume")?),
        Rollout::Abort { rollout } => print_one(ctl, &wish(rollout, "abort")?),
        Rollout::Wait { rollout, timeout } => wait_for_rollout(ctl, client, *rollout, *timeout),
    }
}

fn wait_for_rollout(ctl: &Ctl, client: &Client, id: u64, timeout_s: u64) -> Result<(), Failure> {
    let over = wait_for(timeout_s, "the rollout", || {
        let rollout = client.get(&format!("rollouts/{id}"))?;
        Ok((!rollout["ended"].is_null()).then_some(rollout))
    })?;
    print_one(ctl, &over)?;
    end_well(&over["state"], "released")
}

fn labels_of(ctl: &Ctl, client: &Client, labels: &Labels) -> Result<(), Failure> {
    match labels {
        Labels::List => print(ctl.format(), table::LABELS, &client.items("labels")?),
        Labels::Add { agent, stream, from, to, kind, comment } => {
            let body = json!({
                "agent": agent, "stream": stream, "from": from, "to": to, "kind": kind, "comment": comment,
            });
            print_one(ctl, &client.send("POST", "labels", &body)?)
        }
        Labels::Import { file } => {
            let bytes = std::fs::read(file)
                .map_err(|error| Failure::new(format!("read labels {}: {error}", file.display())))?;
            let made = client.send_bytes("labels/import", &bytes, "text/csv")?;
            print(ctl.format(), table::LABELS, made["items"].as_array().map(Vec::as_slice).unwrap_or_default())
        }
        Labels::Remove { id } => {
            client.send("DELETE", &format!("labels/{id}"), &json!({}))?;
            crate::say(&format!("{id} is removed"))
        }
    }
}

fn users_of(ctl: &Ctl, client: &Client, users: &Users) -> Result<(), Failure> {
    match users {
        Users::List => print(ctl.format(), table::USERS, &client.items("users")?),
        Users::Add { name, role } => {
            let body = json!({ "name": name, "role": role, "password": password()? });
            print_one(ctl, &client.send("POST", "users", &body)?)
        }
        Users::SetRole { name, role } => {
            print_one(ctl, &client.change(&format!("users/{}", client::encode(name)), &json!({ "role": role }))?)
        }
        Users::SetPassword { name } => {
            let body = json!({ "password": password()? });
            print_one(ctl, &client.change(&format!("users/{}", client::encode(name)), &body)?)
        }
        Users::Remove { name } => {
            client.send("DELETE", &format!("users/{}", client::encode(name)), &json!({}))?;
            crate::say(&format!("{name} is removed"))
        }
    }
}

fn tokens_of(ctl: &Ctl, client: &Client, tokens: &Tokens) -> Result<(), Failure> {
    match tokens {
        Tokens::List => print(ctl.format(), table::TOKENS, &client.items("tokens")?),
        Tokens::Create { name, role, days } => {
            let body = json!({ "name": name, "role": role, "expires_in_s": i64::from(*days) * 86_400 });
            let made = client.send("POST", "tokens", &body)?;
            // A script wants the token and nothing else.
            if ctl.format() == Format::Table && !std::io::stdout().is_terminal() {
                return crate::say(made["token"].as_str().unwrap_or_default());
            }
            print_one(ctl, &made)
        }
        Tokens::Revoke { id } => {
            client.send("DELETE", &format!("tokens/{id}"), &json!({}))?;
            crate::say(&format!("{id} is void"))
        }
    }
}

/// The first line of standard input.
fn password() -> Result<String, Failure> {
    let mut text = String::new();
    std::io::stdin()
        .take(MAX_PASSWORD_BYTES)
        .read_to_string(&mut text)
        .map_err(|error| Failure::new(format!("read a password from standard input: {error}")))?;
    Ok(text.lines().next().unwrap_or_default().to_owned())
}

fn wait_for<T>(timeout_s: u64, what: &str, look: impl Fn() -> Result<Option<T>, Failure>) -> Result<T, Failure> {
    let deadline_ms = clock::unix_ms() + i64::try_from(timeout_s).unwrap_or(i64::MAX / 2_000) * 1_000;
    loop {
        if let Some(found) = look()? {
            return Ok(found);
        }
        if clock::unix_ms() >= deadline_ms {
            let message = format!("failed to see {what} end within {timeout_s} s");
            return Err(Failure { code: exit::TIMEOUT, message });
        }
        #[expect(clippy::disallowed_methods, reason = "a poll of the hub's HTTP interface")]
        std::thread::sleep(LOOK);
    }
}

fn end_well(state: &Value, good: &str) -> Result<(), Failure> {
    let state = state.as_str().map_or_else(|| state.to_string(), str::to_owned);
    if state == good { Ok(()) } else { Err(Failure::new(format!("see it end as {good}: it is {state}"))) }
}
