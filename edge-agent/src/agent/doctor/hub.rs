//! The hub: whether the box has what it shows there, and gets through over UDP and TCP.

use serde_json::Value;

use super::local::time;
use super::{Check, Part};
use crate::agent::renewal::credentials;
use crate::clock::WallClock;
use crate::config::{Config, Hub, HubProof, Transport};
use crate::identity::IdentityFolder;
use crate::link::{Link, Reached};
use crate::telemetry::Telemetry;

const CERTIFICATE: Part = Part { name: "certificate", why: "without one that holds, the hub does not let the box in" };
const HUB: Part =
    Part { name: "hub", why: "events wait in the spool until it can be reached, and models come from it" };

const DAY_MS: i64 = 24 * 3_600_000;

pub(super) async fn examine(config: &Config, wall: &WallClock, running: Option<&Value>) -> Vec<Check> {
    const LET_IN: &str = "let the box in: cloud-hub ctl enroll create at the hub, then edge-agent enroll here";
    let Some(hub) = &config.hub else {
        if !config.is_named() {
            let certificate =
                CERTIFICATE.bad("there is none: the box was not enrolled yet, and does not start", LET_IN);
            return vec![certificate, HUB.skipped("the token says where it is")];
        }
        let none = "there is none: the box works by itself";
        return vec![CERTIFICATE.skipped(none), HUB.skipped(none)];
    };
    let (credentials, _) = match credentials(hub, config, wall) {
        Ok(found) => found,
        Err(error) => {
            return vec![CERTIFICATE.bad(format!("failed to {error}"), LET_IN), HUB.skipped("no certificate")];
        }
    };
    let certificate = certificate(config, hub, wall);
    let link = match Link::new(hub.clone(), &credentials, Telemetry::default()) {
        Ok(link) => link,
        Err(error) => {
            return vec![certificate, HUB.bad(format!("failed to {error}"), "mend [hub] in the configuration")];
        }
    };
    let reached = link.reach().await;
    vec![certificate, refused(running).unwrap_or_else(|| reach(hub, &reached))]
}

fn certificate(config: &Config, hub: &Hub, wall: &WallClock) -> Check {
    match &hub.proof {
        HubProof::Files { certificate_file, .. } => {
            CERTIFICATE.good(format!("{} can be used; somebody else keeps it fresh", certificate_file.display()))
        }
        HubProof::Enrolled => {
            let held = IdentityFolder::of(&config.agent.state_directory).current().ok().flatten();
            let Some(held) = held else {
                return CERTIFICATE.bad("it is missing", "let the box in anew with edge-agent enroll");
            };
            let left_ms = held.not_after_ms - wall.unix_ms();
            let saw = format!("of {}, until {}", config.agent.name, time(held.not_after_ms));
            if left_ms <= 0 {
                let advice =
                    "connect the box; it asks with its old key, and cloud-hub ctl approve at the hub lets it in again";
                return CERTIFICATE.bad(format!("{saw}: it is over"), advice);
            }
            if left_ms < (held.not_after_ms - held.issued_ms) / 4 {
                let advice = "it should have been renewed: can the hub be reached, does the agent run?";
                return CERTIFICATE
                    .doubtful(format!("{saw}: {:.1} days are left", left_ms as f64 / DAY_MS as f64), advice);
            }
            CERTIFICATE.good(saw)
        }
    }
}

/// What the hub said to the agent that runs: who the box is it looks at when it is greeted, and not before.
fn refused(running: Option<&Value>) -> Option<Check> {
    let hub = &running?["hub"];
    let problem = hub["problem"].as_str().filter(|_| hub["connected"] != true)?;
    let advice = "cloud-hub ctl identities at the hub says how it sees this box; a new token lets it in again: edge-agent enroll";
    Some(HUB.bad(format!("it does not take the agent that runs: {problem}"), advice))
}

fn reach(hub: &Hub, reached: &[Reached]) -> Check {
    let says = |result: &Option<Result<u64, String>>, over: &str| match result {
        None => None,
        Some(Ok(took_ms)) => Some(format!("{over} in {took_ms} ms")),
        Some(Err(problem)) => Some(format!("not {over}: {problem}")),
    };
    let lines: Vec<String> = reached
        .iter()
        .map(|place| {
            let ways: Vec<String> =
                [says(&place.udp, "over UDP"), says(&place.tcp, "over TCP")].into_iter().flatten().collect();
            format!("{}: {}", place.address, ways.join("; "))
        })
        .collect();
    let saw = lines.join("\n");
    let works = |result: &Option<Result<u64, String>>| matches!(result, Some(Ok(_)));
    if !reached.iter().any(|place| works(&place.udp) || works(&place.tcp)) {
        let advice = "is the hub up and its address right; does a firewall let UDP or TCP through to it; a refusal says that the box \
                      was revoked or is not known: cloud-hub ctl identities";
        return HUB.bad(saw, advice);
    }
    if hub.transport != Transport::Tcp && !reached.iter().any(|place| works(&place.udp)) {
        return HUB.doubtful(saw, "let UDP through to the hub: TCP works, and is slower on a bad link");
    }
    HUB.good(saw)
}
