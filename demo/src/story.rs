//! The story as it happens: live lines on a terminal, plain lines elsewhere.

use std::io::{IsTerminal, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use serde_json::Value;
use shared::ids::AgentId;

use crate::hub_api::HubApi;
use crate::observe::Observer;

/// How often the live lines are drawn.
const REFRESH: Duration = Duration::from_millis(150);
/// Narrower terminals get long lines.
const MIN_WIDTH: usize = 60;
/// What stands before a line's continuation: as wide as the time.
const INDENT: &str = "          ";
/// Steps of the training bar.
const BAR_STEPS: u64 = 1_000;

/// How an event is to be taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tone {
    /// It happened.
    Plain,
    /// Something to look at.
    Notice,
    /// As hoped for.
    Good,
    /// Turned down.
    Refused,
}

/// Where the story goes.
#[derive(Clone)]
pub struct Story {
    clock: edge_agent::clock::Clock,
    view: View,
}

#[derive(Clone)]
enum View {
    /// Live lines below, events above them.
    Terminal(MultiProgress),
    /// One line an event.
    Plain,
}

impl Story {
    /// A story on standard error where `quiet`, so that standard output holds the result alone; otherwise with live
    /// lines if standard output is a terminal.
    #[must_use]
    pub fn new(quiet: bool) -> Self {
        let live = !quiet && std::io::stdout().is_terminal() && std::io::stderr().is_terminal();
        let view = if live { View::Terminal(MultiProgress::new()) } else { View::Plain };
        Self { clock: edge_agent::clock::Clock::start(), view }
    }

    /// Seconds since the story began.
    #[must_use]
    pub fn seconds(&self) -> f64 {
        self.clock.monotonic().as_seconds()
    }

    /// Tells an event.
    pub fn tell(&self, tone: Tone, text: &str) {
        let time = format!("{:>6.1} s", self.seconds());
        match &self.view {
            View::Plain => drop(writeln!(std::io::stderr(), "{time}  {text}")),
            View::Terminal(lines) => {
                let width = usize::from(console::Term::stderr().size().1).max(MIN_WIDTH) - INDENT.len();
                for (index, part) in wrap(text, width).iter().enumerate() {
                    let before =
                        if index == 0 { console::style(time.clone()).dim().to_string() + "  " } else { INDENT.into() };
                    let part = match tone {
                        Tone::Plain => console::style(part),
                        Tone::Notice => console::style(part).cyan().bold(),
                        Tone::Good => console::style(part).green(),
                        Tone::Refused => console::style(part).yellow(),
                    };
                    // A terminal that is gone stops nothing.
                    drop(lines.println(format!("{before}{part}")));
                }
            }
        }
    }

    /// Draws how agents and hub are until the guard is dropped.
    #[must_use]
    pub fn watch(&self, agents: &[AgentId], observer: Observer, api: HubApi) -> Option<Watching> {
        let View::Terminal(lines) = &self.view else {
            return None;
        };
        let drawing = Drawing::new(lines, agents, observer, api);
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::Builder::new().name("view".into()).spawn(move || drawing.run(&stopped)).ok()?;
        Some(Watching { stop, thread: Some(thread) })
    }
}

/// Cuts a text into lines of at most `width` characters, at spaces.
fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split_inclusive(' ') {
        let full =
            lines.last().is_some_and(|line| !line.trim().is_empty() && line.len() + word.trim_end().len() > width);
        if full {
            lines.push("    ".to_owned());
        }
        if let Some(line) = lines.last_mut() {
            line.push_str(word);
        }
    }
    lines.into_iter().map(|line| line.trim_end().to_owned()).collect()
}

/// Live lines; dropped, they are gone.
pub struct Watching {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Watching {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // Its failure would only have cost the lines.
            drop(thread.join());
        }
    }
}

struct Drawing {
    agents: Vec<(AgentId, ProgressBar, Rate)>,
    hub: ProgressBar,
    training: ProgressBar,
    observer: Observer,
    api: HubApi,
}

/// Readings a second, from two looks at a counter.
#[derive(Default)]
struct Rate {
    last: u64,
    smooth: f64,
}

impl Rate {
    fn update(&mut self, count: u64) -> f64 {
        let now = count.saturating_sub(self.last) as f64 / REFRESH.as_secs_f64();
        self.last = count;
        self.smooth += 0.3 * (now - self.smooth);
        self.smooth
    }
}

impl Drawing {
    fn new(lines: &MultiProgress, agents: &[AgentId], observer: Observer, api: HubApi) -> Self {
        let text = || {
            let bar = lines.add(ProgressBar::new_spinner());
            if let Ok(style) = ProgressStyle::with_template("{spinner:.cyan} {prefix:<9.bold} {msg}") {
                bar.set_style(style.tick_chars("◐◓◑◒●"));
            }
            bar
        };
        let agents = agents
            .iter()
            .map(|agent| {
                let bar = text();
                bar.set_prefix(agent.to_string());
                (agent.clone(), bar, Rate::default())
            })
            .collect();
        let hub = text();
        hub.set_prefix("hub");
        let training = lines.add(ProgressBar::new(BAR_STEPS));
        if let Ok(style) = ProgressStyle::with_template("  {prefix:<9.bold} {bar:30.green/dim} {msg}") {
            training.set_style(style.progress_chars("━━╌"));
        }
        training.set_prefix("training");
        Self { agents, hub, training, observer, api }
    }

    fn run(mut self, stop: &AtomicBool) {
        while !stop.load(Ordering::Relaxed) {
            self.draw();
            #[expect(clippy::disallowed_methods, reason = "a picture every now and then is what is wanted")]
            std::thread::sleep(REFRESH);
        }
        self.agents.iter().for_each(|(_, bar, _)| bar.finish_and_clear());
        self.hub.finish_and_clear();
        self.training.finish_and_clear();
    }

    fn draw(&mut self) {
        for (agent, bar, rate) in &mut self.agents {
            let status = self.observer.look(|seen| seen.status.get(agent.as_str()).cloned()).unwrap_or_default();
            let accepted = status["readings"]["accepted"].as_u64().unwrap_or(0);
            let model = match status["model"]["version"].as_u64() {
                Some(version) => format!("v{version}"),
                None => "no model".to_owned(),
            };
            bar.set_message(format!(
                "{model:<9} {:>7.0} readings/s  {accepted:>7} accepted  {:>6} pending  spool {:>6.0} KiB",
                rate.update(accepted),
                status["readings"]["pending"].as_u64().unwrap_or(0),
                status["spool_bytes"].as_f64().unwrap_or(0.0) / 1024.0,
            ));
            bar.tick();
        }
        let stored: u64 = self.api.at_hub().unwrap_or(0);
        self.hub.set_message(format!("{stored:>7} readings  {}", self.drift()));
        self.hub.tick();
        self.draw_training();
    }

    fn drift(&self) -> String {
        let drift = self.api.get("drift").unwrap_or_default();
        let channels = drift["now"].as_array().into_iter().flatten().filter(|stream| stream["drifting"] == true);
        let excess: Vec<String> = channels
            .flat_map(|stream| stream["channels"].as_array().cloned().unwrap_or_default())
            .filter(|channel| channel["excess"] == true)
            .map(|channel| channel["channel"].as_str().unwrap_or_default().to_owned())
            .collect();
        let excess: std::collections::BTreeSet<String> = excess.into_iter().collect();
        match excess.len() {
            0 => "no drift".to_owned(),
            1..=3 => format!("drift in {}", excess.into_iter().collect::<Vec<_>>().join(", ")),
            many => format!("drift in {many} channels"),
        }
    }

    fn draw_training(&self) {
        let runs = self.api.runs().unwrap_or_default();
        match runs.iter().rev().find(|run| run["state"] == "running") {
            None => {
                self.training.set_position(0);
                self.training.set_message("idle");
            }
            Some(run) => {
                let progress: &Value = &run["progress"];
                let done = progress["done"].as_f64().unwrap_or(0.0);
                self.training.set_position((done * BAR_STEPS as f64) as u64);
                let stage = progress["stage"].as_str().unwrap_or("reading samples");
                self.training.set_message(format!("{stage}, loss {:.4}", progress["loss"].as_f64().unwrap_or(0.0)));
            }
        }
    }
}
