//! Letting boxes in, from the shell.

use std::collections::BTreeMap;
use std::io::IsTerminal;

use clap::Subcommand;
use serde_json::{Value, json};

use super::client::Client;
use super::table::{self, print};
use super::{Ctl, Format};
use crate::Failure;

#[derive(Subcommand)]
pub(super) enum Enroll {
    /// Makes tokens, and prints them: each lets one box in, once, and is shown only now.
    Create {
        /// How long they hold: 15m, 24h, 7d.
        #[arg(long, default_value = "15m", value_parser = duration_s)]
        ttl: i64,
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
    },
    /// Those that there are, without their secrets.
    List,
    /// Makes one void.
    Remove { id: String },
}

pub(super) fn enroll(ctl: &Ctl, client: &Client, enroll: &Enroll) -> Result<(), Failure> {
    match enroll {
        Enroll::Create { ttl, labels, agent, qty, address } => {
            let made = create(client, *ttl, labels, agent.as_deref(), *qty, address)?;
            // A script wants the token and nothing else.
            if ctl.format() == Format::Table && !std::io::stdout().is_terminal() {
                return made.iter().try_for_each(|one| crate::say(one["token"].as_str().unwrap_or_default()));
            }
            if let (Format::Json, [one]) = (ctl.format(), made.as_slice()) {
                return super::print_one(ctl, one);
            }
            print(ctl.format(), table::MADE_TOKENS, &made)
        }
        Enroll::List => print(ctl.format(), table::ENROLMENT_TOKENS, &client.items("enrolment-tokens")?),
        Enroll::Remove { id } => {
            client.send("DELETE", &format!("enrolment-tokens/{id}"), &json!({}))?;
            crate::say(&format!("{id} is void"))
        }
    }
}

/// Has the hub make tokens.
pub(super) fn create(
    client: &Client,
    ttl_s: i64,
    labels: &[(String, String)],
    agent: Option<&str>,
    quantity: u32,
    addresses: &[String],
) -> Result<Vec<Value>, Failure> {
    let labels: BTreeMap<&str, &str> = labels.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    let body = json!({
        "quantity": quantity, "expires_in_s": ttl_s, "labels": labels, "agent": agent, "addresses": addresses,
    });
    let made = client.send("POST", "enrolment-tokens", &body)?;
    Ok(made["items"].as_array().cloned().unwrap_or_default())
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
