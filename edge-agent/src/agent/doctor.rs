//! Examines a box: what works, what does not, why that matters and what to do about it. Nothing is changed by it, and
//! nothing of it stays at the broker or the hub.
//!
//! Every part of the way is tried by itself, so that it works without a network and beside a running agent.

mod broker;
mod hub;
mod local;
mod model;

use std::io;
use std::path::Path;
use std::pin::Pin;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::oneshot;

use crate::clock::{Clock, WallClock};
use crate::config::Config;
use crate::status;

/// How long the broker is listened to, where nobody says.
pub(crate) const LISTEN: Duration = Duration::from_secs(5);

/// How a part is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// As it should be.
    Good,
    /// It works, and somebody should look at it.
    Doubtful,
    /// It does not work.
    Bad,
    /// It was not looked at, because something before it is needed.
    Skipped,
}

impl State {
    /// Its word.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Good => "ok",
            Self::Doubtful => "warning",
            Self::Bad => "failed",
            Self::Skipped => "skipped",
        }
    }
}

/// One part, looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Check {
    /// What was looked at.
    pub name: &'static str,
    /// How it is.
    pub state: State,
    /// What was seen.
    pub saw: String,
    /// Why it matters.
    pub why: &'static str,
    /// What to do, unless all is well.
    pub advice: Option<String>,
}

/// A box, looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// In the order in which one needs the other.
    pub checks: Vec<Check>,
}

impl Report {
    /// Whether a part does not work.
    #[must_use]
    pub fn has_failed(&self) -> bool {
        self.checks.iter().any(|check| check.state == State::Bad)
    }

    /// For people: a line for each part, and for what is not well why it matters and what to do.
    #[must_use]
    pub fn to_text(&self) -> String {
        let mut lines = Vec::new();
        for check in &self.checks {
            lines.push(format!(
                "{:<8} {:<14} {}",
                check.state.name(),
                check.name,
                check.saw.replace('\n', "\n                        ")
            ));
            if let Some(advice) = &check.advice {
                lines.push(format!("{:24}why: {}", "", check.why));
                lines.push(format!("{:24}do:  {advice}", ""));
            }
        }
        let count = |state| self.checks.iter().filter(|check| check.state == state).count();
        lines.push(format!(
            "{} ok, {} warnings, {} failed, {} skipped",
            count(State::Good),
            count(State::Doubtful),
            count(State::Bad),
            count(State::Skipped)
        ));
        lines.join("\n")
    }

    /// For programs.
    #[must_use]
    pub fn to_json(&self) -> Value {
        let check = |check: &Check| {
            json!({
                "check": check.name, "state": check.state.name(), "saw": check.saw, "why": check.why, "do": check.advice,
            })
        };
        json!({
            "release": env!("CARGO_PKG_VERSION"),
            "healthy": !self.has_failed(),
            "checks": self.checks.iter().map(check).collect::<Vec<_>>(),
        })
    }
}

/// Looks at the box whose configuration lies at `path`, listening to its broker for so long. On the heap, so that the program holds it once
/// whoever asks: 200 KB.
#[must_use]
pub fn examine(path: &Path, listen: Duration) -> Pin<Box<dyn Future<Output = Report> + '_>> {
    Box::pin(look(path, listen))
}

/// Does something on a thread of its own, which nobody waits for at the end: looking at a box loads a model, and waits for the disk, the
/// broker, and the agent's own status.
pub(crate) fn aside<T: Send + 'static>(
    what: impl FnOnce(&tokio::runtime::Runtime) -> T + Send + 'static,
) -> io::Result<oneshot::Receiver<T>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (done, receiver) = oneshot::channel();
    std::thread::Builder::new().name("doctor".into()).spawn(move || done.send(what(&runtime)).ok())?;
    Ok(receiver)
}

async fn look(path: &Path, listen: Duration) -> Report {
    let config = match Config::load_to_look(path) {
        Ok(config) => config,
        Err(error) => {
            let advice = "mend the file; deploy/config/agent.toml shows every key".to_owned();
            let checks = vec![CONFIGURATION.bad(error.to_string(), advice)];
            return Report { checks };
        }
    };
    let clock = Clock::start();
    let wall = WallClock::start(clock, &config.agent.state_directory);
    let mut checks = vec![CONFIGURATION.good(format!(
        "{}: the box {}, with {} input{}",
        path.display(),
        if config.is_named() { format!("is {}", config.agent.name) } else { "has no name yet".to_owned() },
        config.inputs.len(),
        if config.inputs.len() == 1 { "" } else { "s" }
    ))];
    let running = status::ask(&config.agent.state_directory).ok();
    checks.push(local::agent(running.as_ref()));
    checks.push(local::disk(&config, &clock));
    checks.push(local::clock(&clock, &wall, running.as_ref()));
    let (at_broker, at_hub) =
        tokio::join!(broker::examine(&config, &clock, listen), hub::examine(&config, &wall, running.as_ref()));
    checks.extend(at_broker);
    checks.extend(at_hub);
    checks.extend(model::examine(&config, running.as_ref(), &clock));
    Report { checks }
}

const CONFIGURATION: Part =
    Part { name: "configuration", why: "without it the agent does not know its broker or what a reading is" };

/// What can be looked at.
#[derive(Debug, Clone, Copy)]
struct Part {
    name: &'static str,
    why: &'static str,
}

impl Part {
    fn good(self, saw: impl Into<String>) -> Check {
        self.is(State::Good, saw.into(), None)
    }

    fn doubtful(self, saw: impl Into<String>, advice: impl Into<String>) -> Check {
        self.is(State::Doubtful, saw.into(), Some(advice.into()))
    }

    fn bad(self, saw: impl Into<String>, advice: impl Into<String>) -> Check {
        self.is(State::Bad, saw.into(), Some(advice.into()))
    }

    fn skipped(self, saw: impl Into<String>) -> Check {
        self.is(State::Skipped, saw.into(), None)
    }

    fn is(self, state: State, saw: String, advice: Option<String>) -> Check {
        Check { name: self.name, state, saw, why: self.why, advice }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_says_what_to_do_where_something_is_not_well() {
        let part = Part { name: "disk", why: "what is taken in is kept there" };
        let report = Report { checks: vec![part.good("it is there"), part.bad("it is full", "make room")] };
        assert_eq!(
            report.to_text(),
            "ok       disk           it is there\n\
             failed   disk           it is full\n                        \
             why: what is taken in is kept there\n                        do:  make room\n\
             1 ok, 0 warnings, 1 failed, 0 skipped"
        );
        assert!(report.has_failed());
        assert_eq!(report.to_json()["checks"][1]["do"], "make room");
    }

    #[tokio::test]
    async fn a_wrong_configuration_is_all_there_is_to_say() {
        let report = examine(Path::new("/nowhere/agent.toml"), Duration::from_secs(1)).await;
        assert_eq!((report.checks.len(), report.has_failed()), (1, true));
        assert!(report.checks[0].saw.contains("/nowhere/agent.toml: cannot be read"), "{report:?}");
    }
}
