//! The commands that look around: `try`, `learn-input`, `doctor` and `diag`.

use std::io::{IsTerminal, Write};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::Duration;

use edge_agent::agent::diagnosis::Subject;
use edge_agent::agent::doctor::{self, State};
use edge_agent::clock::Clock;
use edge_agent::config::Mqtt;
use edge_agent::config::topic::TopicPattern;
use edge_agent::ingest::listen::{Heard, listen};
use edge_agent::ingest::payload::MAX_PAYLOAD_BYTES;
use edge_agent::learn::Learner;
use edge_agent::preview::Preview;

use crate::{Failure, Output, load_to_look, say, stop_signal};

/// Exit code if nothing was heard.
const EXIT_SILENT: u8 = 4;

#[derive(clap::Args)]
#[command(after_help = "Examples:\n  edge-agent try --config agent.toml\n  \
                  edge-agent try --config agent.toml --topic plant/l1/p3/telemetry --payload '{\"flow\": 12.5}'\n\n\
                  Exit code 4: no message came on the configured topics.")]
pub(crate) struct Try {
    /// The configuration file.
    #[arg(long, default_value = "/etc/tideline/agent.toml")]
    config: PathBuf,
    /// How long to listen, in seconds.
    #[arg(long = "for", value_name = "SECONDS", default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    seconds: u64,
    /// Stop after so many messages.
    #[arg(long, value_name = "NUMBER")]
    messages: Option<u64>,
    /// Try a message of this topic instead of listening.
    #[arg(long, requires = "content")]
    topic: Option<String>,
    /// The message, as text.
    #[arg(long, group = "content", requires = "topic")]
    payload: Option<String>,
    /// The message, in a file.
    #[arg(long, group = "content", requires = "topic")]
    payload_file: Option<PathBuf>,
    /// How to show it.
    #[arg(long, value_enum, default_value_t = Output::Text)]
    output: Output,
}

#[derive(clap::Args)]
#[command(after_help = "Example:\n  edge-agent learn-input --config agent.toml 'plant/#' >> agent.toml\n\n\
                  The configuration says where the broker is; it needs no [[input]] that is right already.\n\
                  Exit code 4: no message came.")]
pub(crate) struct LearnInput {
    /// Topics to listen to, with MQTT's wildcards.
    #[arg(required = true, value_parser = parse_filter)]
    filters: Vec<String>,
    /// The configuration file.
    #[arg(long, default_value = "/etc/tideline/agent.toml")]
    config: PathBuf,
    /// How long to listen, in seconds.
    #[arg(long = "for", value_name = "SECONDS", default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    seconds: u64,
}

#[derive(clap::Args)]
#[command(
    after_help = "Nothing is changed, and nothing stays at the broker or the hub. It works beside a running agent and \
                  without a network.\nExit code 1: something does not work."
)]
pub(crate) struct Doctor {
    /// The configuration file.
    #[arg(long, default_value = "/etc/tideline/agent.toml")]
    config: PathBuf,
    /// How long to listen for messages, in seconds.
    #[arg(long = "for", value_name = "SECONDS", default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=3600))]
    seconds: u64,
    /// How to show it.
    #[arg(long, value_enum, default_value_t = Output::Text)]
    output: Output,
}

fn parse_filter(text: &str) -> Result<String, String> {
    TopicPattern::parse(text).map(|pattern| pattern.filter()).map_err(|error| error.to_string())
}

/// Shows what messages become.
pub(crate) fn preview(options: &Try) -> Result<(), Failure> {
    let config = load_to_look(&options.config)?;
    let mut preview = Preview::new(&config.inputs);
    let show = |preview: &mut Preview, topic: &str, payload: &[u8]| {
        let seen = preview.see(topic, payload, Clock::start().unix_ms());
        say(&match options.output {
            Output::Text => seen.to_text(),
            Output::Json => seen.to_json().to_string(),
        })
    };
    if let Some(topic) = &options.topic {
        let payload = match (&options.payload, &options.payload_file) {
            (Some(text), _) => text.clone().into_bytes(),
            (None, Some(file)) => read_payload(file)?,
            (None, None) => Vec::new(),
        };
        return show(&mut preview, topic, &payload);
    }
    let mut said = Ok(());
    let mut on_message = |preview: &mut Preview, topic: &str, payload: &[u8]| {
        said = show(preview, topic, payload);
        let is_enough = options.messages.is_some_and(|most| preview.messages() >= most);
        if said.is_err() || is_enough { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    };
    let filters = preview.filters();
    hear(&config.mqtt, &filters, options.seconds, |topic, payload| on_message(&mut preview, topic, payload))?;
    said?;
    tell(&preview.summary());
    if preview.messages() == 0 {
        let message = format!("no message came within {} s on {}", options.seconds, preview.filters().join(", "));
        return Err(Failure { code: EXIT_SILENT, message });
    }
    Ok(())
}

/// Proposes inputs for what is published.
pub(crate) fn learn(options: &LearnInput) -> Result<(), Failure> {
    let mqtt = mqtt(options)?;
    let mut learner = Learner::default();
    let clock = Clock::start();
    let is_watched = std::io::stderr().is_terminal();
    hear(&mqtt, &options.filters, options.seconds, |topic, payload| {
        learner.hear(topic, payload, clock.unix_ms());
        if is_watched {
            drop(write!(std::io::stderr(), "\r{} messages ", learner.messages()));
        }
        ControlFlow::Continue(())
    })?;
    if is_watched {
        drop(writeln!(std::io::stderr()));
    }
    if learner.messages() == 0 {
        let message = format!("no message came within {} s on {}", options.seconds, options.filters.join(", "));
        return Err(Failure { code: EXIT_SILENT, message });
    }
    let proposals = learner.propose();
    for proposal in &proposals {
        say(&format!("{}\n", proposal.toml))?;
    }
    for (topic, messages) in learner.unread() {
        tell(&format!("left out {topic}: {messages} messages, in no format that is known"));
    }
    match learner.check(&proposals) {
        Some(summary) => tell(&format!("by these inputs, of what was heard: {summary}")),
        None => tell("the inputs overlap: put together what belongs together"),
    }
    Ok(())
}

/// Examines the box.
pub(crate) fn doctor(options: &Doctor) -> Result<(), Failure> {
    let report = runtime()?.block_on(doctor::examine(&options.config, Duration::from_secs(options.seconds)));
    say(&match options.output {
        Output::Text => report.to_text(),
        Output::Json => report.to_json().to_string(),
    })?;
    if report.has_failed() {
        let failed = report.checks.iter().filter(|check| check.state == State::Bad).map(|check| check.name);
        let failed: Vec<&str> = failed.collect();
        return Err(Failure { code: 1, message: format!("something does not work: {}", failed.join(", ")) });
    }
    Ok(())
}

/// Everything about the box.
pub(crate) fn diagnose(config: &Path) -> Result<(), Failure> {
    say(&format!("{:#}", runtime()?.block_on(Subject::at(config).describe())))
}

fn runtime() -> Result<tokio::runtime::Runtime, Failure> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::new(format!("start the runtime: {error}")))
}

/// Where the broker is. A configuration whose inputs are not right yet is good enough.
fn mqtt(options: &LearnInput) -> Result<Mqtt, Failure> {
    edge_agent::config::broker(&options.config)
        .map_err(|error| Failure { code: crate::EXIT_CONFIG, message: error.to_string() })
}

/// Listens until `hear` has enough, the time is over, or somebody stops it.
fn hear(
    mqtt: &Mqtt,
    filters: &[String],
    seconds: u64,
    mut take: impl FnMut(&str, &[u8]) -> ControlFlow<()> + Send,
) -> Result<(), Failure> {
    let password =
        mqtt.password().map_err(|(path, error)| Failure::new(format!("read {}: {error}", path.display())))?;
    let said = filters.join(", ");
    let on = |heard: Heard<'_>| match heard {
        Heard::Connected(version) => {
            tell(&format!(
                "connected to {}:{} with MQTT {version}; listening to {said} for {seconds} s",
                mqtt.host, mqtt.port
            ));
            ControlFlow::Continue(())
        }
        Heard::SubscriptionRefused(count) => {
            tell(&format!("the broker refuses {count} of the subscriptions; nothing comes in on them"));
            ControlFlow::Continue(())
        }
        Heard::Message(message) => match std::str::from_utf8(&message.topic) {
            Ok(topic) => take(topic, &message.payload),
            Err(_) => ControlFlow::Continue(()),
        },
    };
    runtime()?.block_on(async {
        let signalled = stop_signal()?;
        tokio::select! {
            heard = listen(mqtt, password, filters.to_vec(), Duration::from_secs(seconds), on) => heard.map_err(Failure::new),
            () = signalled => Ok(()),
        }
    })
}

fn read_payload(path: &PathBuf) -> Result<Vec<u8>, Failure> {
    let length = path.metadata().map_err(|error| Failure::new(format!("read {}: {error}", path.display())))?.len();
    if length > MAX_PAYLOAD_BYTES as u64 {
        let message =
            format!("read {}: it has {length} bytes; a message has at most {MAX_PAYLOAD_BYTES}", path.display());
        return Err(Failure::new(message));
    }
    std::fs::read(path).map_err(|error| Failure::new(format!("read {}: {error}", path.display())))
}

/// Beside what is asked for, which goes to standard output.
fn tell(text: &str) {
    drop(writeln!(std::io::stderr(), "{text}"));
}
