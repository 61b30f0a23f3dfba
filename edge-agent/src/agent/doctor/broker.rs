//! The broker: whether it lets the box in, lets it subscribe, and has messages that are readings.

use std::ops::ControlFlow;
use std::time::Duration;

use super::{Check, Part};
use crate::clock::Clock;
use crate::config::Config;
use crate::ingest::listen::{Heard, listen};
use crate::preview::Preview;

const BROKER: Part = Part { name: "broker", why: "readings come from it and answers go to it" };
const SUBSCRIPTION: Part = Part { name: "subscription", why: "what the box may not subscribe to it never sees" };
const MESSAGES: Part = Part { name: "messages", why: "a message that no input understands becomes no reading" };

/// Messages after which enough was heard.
const ENOUGH: u64 = 200;

/// Listens as a guest: the agent's own session misses nothing by it.
pub(super) async fn examine(config: &Config, clock: &Clock, time: Duration) -> Vec<Check> {
    let at = format!("{}:{}", config.mqtt.host, config.mqtt.port);
    let password = match config.mqtt.password() {
        Ok(password) => password,
        Err((path, error)) => {
            let check = BROKER.bad(format!("{}: {error}", path.display()), "make the file readable for the agent");
            return vec![check, SUBSCRIPTION.skipped("no broker"), MESSAGES.skipped("no broker")];
        }
    };
    let mut preview = Preview::new(&config.inputs);
    let mut version = None;
    let mut refused = 0;
    let mut first_wrong = None;
    let filters = preview.filters();
    let ended = listen(&config.mqtt, password, filters.clone(), time, |heard| {
        match heard {
            Heard::Connected(spoken) => version = Some(spoken),
            Heard::SubscriptionRefused(count) => refused += count,
            Heard::Message(message) => {
                let topic = String::from_utf8_lossy(&message.topic);
                let seen = preview.see(&topic, &message.payload, clock.unix_ms());
                if seen.is_rejected() && first_wrong.is_none() {
                    first_wrong = Some(seen.to_text());
                }
            }
        }
        if preview.messages() < ENOUGH { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    });
    let ended = ended.await;
    let Some(version) = version else {
        let problem =
            ended.err().map_or_else(|| format!("no answer within {} s", time.as_secs()), |error| error.to_string());
        let advice = "is it running, is mqtt.url right, does a firewall stand between; for a refusal look at username, password and \
                      the broker's own log";
        let check = BROKER.bad(format!("{at}: {problem}"), advice);
        return vec![check, SUBSCRIPTION.skipped("no broker"), MESSAGES.skipped("no broker")];
    };
    let mut checks = vec![match ended {
        Ok(()) => BROKER.good(format!("{at} lets the box in, with MQTT {version}")),
        Err(error) => {
            BROKER.doubtful(format!("{at} let the box in and broke off: {error}"), "look at the broker's own log")
        }
    }];
    checks.push(if refused > 0 {
        let advice = "let the box read these topics in the broker's access rules";
        SUBSCRIPTION.bad(format!("{refused} of {} are refused: {}", filters.len(), filters.join(", ")), advice)
    } else {
        SUBSCRIPTION.good(filters.join(", "))
    });
    checks.push(messages(&preview, first_wrong, time));
    checks
}

fn messages(preview: &Preview, first_wrong: Option<String>, time: Duration) -> Check {
    let saw = preview.summary();
    if preview.messages() == 0 {
        return MESSAGES.doubtful(
            format!("none in {} s", time.as_secs()),
            "is something published just now? edge-agent learn-input '#' shows what is, --for listens longer",
        );
    }
    let Some(wrong) = first_wrong else { return MESSAGES.good(saw) };
    let saw = format!("{saw}; the first that is wrong:\n{wrong}");
    let advice = "edge-agent try shows every message and why it is no reading";
    if preview.readings() == 0 { MESSAGES.bad(saw, advice) } else { MESSAGES.doubtful(saw, advice) }
}
