//! Letting boxes in, from the shell.

use std::collections::BTreeMap;
use std::io::IsTerminal;

use clap::Subcommand;
use cloud_hub::install::sha256;
use serde_json::{Value, json};

use super::client::Client;
use super::table::{self, print};
use super::{Ctl, Format};
use crate::Failure;

#[derive(Subcommand)]
pub(super) enum Enroll {
    /// Makes tokens, and prints them: each lets one box in, once, and is shown only now.
    Create {
        /// Makes claims instead, for boxes that leave a factory alike: any number of boxes may ask with one, and each waits until
        /// somebody approves.
        #[arg(long, conflicts_with = "agent")]
        claim: bool,
        /// How long they hold: 15m, 24h, 7d; without it tokens 15 minutes, claims a year.
        #[arg(long, value_parser = duration_s)]
        ttl: Option<i64>,
        /// What the boxes are labelled with: site=a,line=4.
        #[arg(long, value_delimiter = ',', value_parser = label)]
        labels: Vec<(String, String)>,
        /// The box it is for; without it the box says its name. Also for a new box in the place of one that is known.
        #[arg(long)]
        agent: Option<String>,
        /// How many.
        #[arg(long, default_value_t = 1)]
        qty: u32,
        /// Where boxes reach the hub, host:port; without it, where the hub's configuration says.
        #[arg(long, value_delimiter = ',')]
        address: Vec<String>,
        /// Prints the command that installs the agent on a machine and lets it in, from this hub, or from where the machine reaches it:
        /// --install=https://hub.example. The command knows the hash of the script that it fetches, and that the hash of every package.
        #[arg(long, value_name = "URL", num_args = 0..=1, require_equals = true)]
        install: Option<Option<String>>,
    },
    /// Those that there are, without their secrets.
    List,
    /// Makes one void; boxes that ask with it, if it is a claim, are not heard.
    Remove { id: String },
    /// Boxes that ask to be let in with a claim.
    Asks,
    /// Lets them in. They hear of it when they ask again, within seconds.
    Approve {
        /// What they ask as.
        #[arg(required_unless_present = "claim")]
        asks: Vec<String>,
        /// All that ask with this claim.
        #[arg(long, conflicts_with_all = ["asks", "agent"])]
        claim: Option<String>,
        /// The name that the box gets, also if it takes another's place; without it, the one that it wished for.
        #[arg(long)]
        agent: Option<String>,
        /// What they are labelled with, beside what their claim says: site=a,line=4.
        #[arg(long, value_delimiter = ',', value_parser = label)]
        labels: Vec<(String, String)>,
    },
    /// Does not let one in.
    Refuse { ask: String },
}

pub(super) fn enroll(ctl: &Ctl, client: &Client, enroll: &Enroll) -> Result<(), Failure> {
    match enroll {
        Enroll::Create { claim, ttl, labels, agent, qty, address, install } => {
            let installs = install.as_ref().map(|url| Installs::of(client, url.as_deref())).transpose()?;
            let (agent, quantity) = (agent.as_deref(), *qty);
            let wanted = Wanted { claim: *claim, ttl_s: *ttl, labels, agent, quantity, addresses: address };
            let mut made = create(client, &wanted)?;
            let (mut wanted, mut columns) = ("token", table::MADE_TOKENS);
            if let Some(installs) = installs {
                (wanted, columns) = ("install_command", table::INSTALL_COMMANDS);
                made.iter_mut()
                    .for_each(|one| one[wanted] = installs.with(one["token"].as_str().unwrap_or_default()).into());
            }
            // A script wants the token, or the command, and nothing else. So does whoever copies a command.
            let is_bare = !std::io::stdout().is_terminal() || install.is_some();
            if ctl.format() == Format::Table && is_bare {
                return made.iter().try_for_each(|one| crate::say(one[wanted].as_str().unwrap_or_default()));
            }
            if let (Format::Json, [one]) = (ctl.format(), made.as_slice()) {
                return super::print_one(ctl, one);
            }
            print(ctl.format(), columns, &made)
        }
        Enroll::List => print(ctl.format(), table::ENROLMENT_TOKENS, &client.items("enrolment-tokens")?),
        Enroll::Remove { id } => {
            client.send("DELETE", &format!("enrolment-tokens/{id}"), &json!({}))?;
            crate::say(&format!("{id} is void"))
        }
        Enroll::Asks => print(ctl.format(), table::ENROLMENT_ASKS, &client.items("enrolment-asks")?),
        Enroll::Approve { asks, claim, agent, labels } => {
            let asks = match claim {
                Some(claim) => asks_of(client, claim)?,
                None => asks.clone(),
            };
            if agent.is_some() && asks.len() > 1 {
                let message = "--agent names one box: approve the others without it".to_owned();
                return Err(Failure { code: 2, message });
            }
            let body = json!({ "agent": agent, "labels": labels_of(labels) });
            let approve = |ask: &String| client.send("POST", &format!("enrolment-asks/{ask}/approve"), &body);
            let (mut approved, mut failed) = (Vec::new(), Vec::new());
            for ask in &asks {
                match approve(ask) {
                    Ok(view) => approved.push(view),
                    Err(failure) => failed.push((ask, failure)),
                }
            }
            // One name that is taken does not keep the others out.
            print(ctl.format(), table::ENROLMENT_ASKS, &approved)?;
            let (count, all) = (failed.len(), asks.len());
            failed.into_iter().next().map_or(Ok(()), |(ask, Failure { code, message })| {
                let message = format!("{count} of {all} are not let in, the first {ask}: {message}");
                Err(Failure { code, message })
            })
        }
        Enroll::Refuse { ask } => {
            client.send("DELETE", &format!("enrolment-asks/{ask}"), &json!({}))?;
            crate::say(&format!("{ask} is not let in"))
        }
    }
}

/// Those that ask with a claim and wait.
fn asks_of(client: &Client, claim: &str) -> Result<Vec<String>, Failure> {
    let asks = client.items("enrolment-asks")?;
    let waiting: Vec<String> = asks
        .iter()
        .filter(|ask| ask["claim"] == claim && ask["approved_as"].is_null())
        .filter_map(|ask| ask["id"].as_str().map(str::to_owned))
        .collect();
    let none = || Failure::new(format!("approve those that ask with claim {claim}: none does"));
    if waiting.is_empty() { Err(none()) } else { Ok(waiting) }
}

/// How a machine installs the agent.
struct Installs {
    hub: String,
    sha256: String,
}

impl Installs {
    fn of(client: &Client, hub: Option<&str>) -> Result<Self, Failure> {
        let script = client.install_script()?;
        let sha256 = sha256(&script);
        let hub = hub.unwrap_or_else(|| client.hub()).trim_end_matches('/').to_owned();
        Ok(Self { hub, sha256 })
    }

    /// The command. The token reaches neither the list of processes nor the log of sudo.
    fn with(&self, token: &str) -> String {
        let Self { hub, sha256 } = self;
        format!(
            "curl -fsSL {hub}/install.sh -o install.sh && echo '{sha256}  install.sh' | sha256sum -c && \
             echo {token} | sudo sh install.sh --from {hub} --token-file -"
        )
    }
}

/// Tokens or claims to be made.
#[derive(Default)]
pub(super) struct Wanted<'a> {
    /// Whether they are claims.
    pub(super) claim: bool,
    /// How long they hold, if not as long as usual.
    pub(super) ttl_s: Option<i64>,
    /// What boxes are labelled with.
    pub(super) labels: &'a [(String, String)],
    /// The box that a token is for.
    pub(super) agent: Option<&'a str>,
    /// How many.
    pub(super) quantity: u32,
    /// Where boxes reach the hub.
    pub(super) addresses: &'a [String],
}

/// Has the hub make tokens.
pub(super) fn create(client: &Client, wanted: &Wanted<'_>) -> Result<Vec<Value>, Failure> {
    let Wanted { claim, ttl_s, labels, agent, quantity, addresses } = wanted;
    let body = json!({
        "claim": claim, "quantity": quantity, "expires_in_s": ttl_s, "labels": labels_of(labels), "agent": agent,
        "addresses": addresses,
    });
    let made = client.send("POST", "enrolment-tokens", &body)?;
    Ok(made["items"].as_array().cloned().unwrap_or_default())
}

fn labels_of(labels: &[(String, String)]) -> BTreeMap<&str, &str> {
    labels.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect()
}

/// `15m` in seconds.
pub(crate) fn duration_s(text: &str) -> Result<i64, String> {
    let wrong = || format!("{text:?} is no time; 90s, 15m, 24h or 7d would be");
    let unit = text.chars().last().ok_or_else(wrong)?;
    let seconds = match unit {
        's' => 1,
        'm' => 60,
        'h' => 3_600,
        'd' => 86_400,
        _ => return Err(wrong()),
    };
    let count: i64 = text[..text.len() - 1].parse().map_err(|_| wrong())?;
    count.checked_mul(seconds).filter(|seconds| *seconds > 0).ok_or_else(wrong)
}

/// `site=a`.
pub(super) fn label(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or_else(|| format!("{text:?} is no label; site=a would be one"))?;
    Ok((name.to_owned(), value.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_labels_are_read_and_others_are_refused_with_an_example() {
        assert_eq!(
            [duration_s("90s"), duration_s("15m"), duration_s("24h"), duration_s("7d")].map(Result::ok),
            [Some(90), Some(900), Some(86_400), Some(604_800)]
        );
        for wrong in ["", "m", "5", "-1m", "0s", "5 m", "9999999999999999d"] {
            assert!(duration_s(wrong).is_err_and(|says| says.contains("24h")), "{wrong}");
        }
        assert_eq!(label("site=a=b"), Ok(("site".to_owned(), "a=b".to_owned())));
        assert!(label("site").is_err_and(|says| says.contains("site=a")));
    }
}
