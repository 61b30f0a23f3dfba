//! The agent: wires the core to its shells and runs them until told to stop.
//!
//! One loop takes what the shells report, hands it to the core and performs the core's effects, in order. Everything
//! else is a task or thread that the loop owns; shutdown stops taking messages in, makes what was taken in durable,
//! acknowledges it, and then lets go of the shells one after another.

mod answer;
mod crashes;
pub mod diagnosis;
pub mod doctor;
mod presence;
mod programs;
mod renewal;
mod self_care;
mod showing;
pub mod start;
mod watchdog;
mod wear;

use std::collections::VecDeque;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::Value;
use shared::heartbeat::Part;
use shared::ids::AgentId;
use shared::wire::message::{EdgeToHub, HubToEdge};
use tokio::sync::{mpsc, watch};
use tokio::task::{AbortHandle, JoinSet};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::artifacts::{ArtifactError, Artifacts};
use crate::clock::{Clock, WallClock, Working};
use crate::config::Config;
use crate::core::memory::PipelineMemory;
use crate::core::{Effect, Event, MessageContent, Millis, Published, Received};
use crate::credentials::CredentialsError;
use crate::identity::IdentityError;
use crate::ingest::edge_node::task::Predictions;
use crate::ingest::packets::{Delivery, Properties};
use crate::ingest::payload::Decoder;
use crate::ingest::{Ingest, Outgoing};
use crate::link::{self, Link, LinkError};
use crate::logging::Log;
use crate::page::Page;
use crate::program::Running;
use crate::spool::SpoolError;
use crate::status::{self, Rejected};
use crate::store::memory::MemoryFile;
use crate::store::{StateStore, StoreError};
use crate::telemetry::Telemetry;
use crate::tls::TlsError;
use crate::{infer, ingest, spool};
use answer::Beside;
use crashes::Crashes;
use diagnosis::{Diagnosing, Subject};
use programs::Programs;
use self_care::SelfCare;
use showing::Showing;
use start::Recovered;
use watchdog::{Parts, Watchdog};

/// Reports of the shells that may wait. Each shell has a bounded number of answers outstanding, so it is never full.
const EVENTS: usize = 256;
/// Messages handed to the core at once: one group commit.
const MESSAGES_AT_ONCE: usize = 256;
/// How long shutdown waits for the disk before it gives up on what was not acknowledged anyway.
const FLUSH_DEADLINE_MS: u64 = 10_000;
/// Rejected messages kept to look at.
const REJECTED_KEPT: usize = 64;

/// Why an agent cannot run.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// The spool.
    #[error("{0}")]
    Spool(#[from] SpoolError),
    /// The state store.
    #[error("{0}")]
    Store(#[from] StoreError),
    /// The model files.
    #[error("{0}")]
    Artifacts(#[from] ArtifactError),
    /// The device.
    #[error("{0}")]
    Infer(#[from] infer::StartError),
    /// What proves who the box is.
    #[error("{0}")]
    Identity(#[from] IdentityError),
    /// The same.
    #[error("{0}")]
    Credentials(#[from] CredentialsError),
    /// TLS with the broker.
    #[error("{0}")]
    Broker(#[from] TlsError),
    /// The link to the hub.
    #[error("{0}")]
    Link(#[from] LinkError),
    /// A thread, a socket or a secret.
    #[error("{what}: {source}")]
    Io {
        /// What was tried.
        what: String,
        /// What the system said.
        source: std::io::Error,
    },
}

/// Why an agent ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// It was told to.
    Told,
    /// Another program is to take its place.
    ForAnotherProgram,
}

/// What an agent runs in, beside its configuration.
#[derive(Debug)]
pub struct Surroundings {
    /// What its status speaks of; whoever logs elsewhere has an empty one.
    pub log: Log,
    /// The program that it is; nothing: one that is part of another, and stays what it is.
    pub running: Option<Running>,
    /// The file of its configuration, if it has one.
    pub config: Option<PathBuf>,
}

/// Runs an agent until `shutdown` is cancelled, or another program is to take its place.
///
/// # Errors
/// If it cannot start: its disk, its device or its certificates are not usable. Trouble later is logged and survived.
pub async fn run(config: Config, surroundings: Surroundings, shutdown: CancellationToken) -> Result<Ended, AgentError> {
    let mut agent = Agent::start(config, surroundings).await?;
    let ended = agent.work(&shutdown).await;
    agent.stop(ended).await;
    Ok(ended)
}

/// How often the agent ended soon after its start counts for nothing any more: another program ran then.
pub fn forget_crashes(state_directory: &std::path::Path) {
    Crashes::begin(state_directory, false).stopped();
}

struct Agent {
    name: AgentId,
    clock: Clock,
    wall: WallClock,
    core: crate::core::EdgeCore,
    events: mpsc::Receiver<Event>,
    ingest: Ingest,
    spool: mpsc::Sender<spool::Request>,
    infer: mpsc::Sender<infer::Request>,
    link: Option<link::Outbox>,
    store: mpsc::Sender<start::StoreRequest>,
    artifacts: Artifacts,
    /// What the pipeline remembered when the agent ended, until that model is loaded.
    memory: Option<PipelineMemory>,
    loads: mpsc::Sender<Event>,
    telemetry: Telemetry,
    rejected: VecDeque<Rejected>,
    status: watch::Sender<Value>,
    status_interval_ms: u64,
    device: String,
    tasks: JoinSet<()>,
    /// They look after the box's certificate and its program.
    keepers: Vec<AbortHandle>,
    programs: Programs,
    watchdog: Watchdog,
    threads: Vec<std::thread::JoinHandle<()>>,
    edge_node: Option<Predictions>,
    showing: Showing,
    beside: Beside,
    care: SelfCare,
    diagnosing: Diagnosing,
}

impl Agent {
    async fn start(config: Config, surroundings: Surroundings) -> Result<Self, AgentError> {
        let Surroundings { log, running, config: config_file } = surroundings;
        let clock = Clock::start();
        let telemetry = Telemetry::default();
        let name = config.agent.name.clone();
        let directory = config.agent.state_directory.clone();
        let wall = WallClock::start(clock, &directory);
        let (event_sender, events) = mpsc::channel(EVENTS);
        let diagnosing = Diagnosing::new(Subject {
            config: config_file.clone(),
            agent: Some(name.clone()),
            directory: Some(directory.clone()),
            log: Some(log.clone()),
        });

        let (state, aside) = StateStore::open(&directory.join("state"))?;
        if let Some(aside) = aside {
            warn!(kept = %aside.display(), "the state store was begun anew");
        }
        let artifacts = Artifacts::open(&directory.join("models"))?;
        let care = SelfCare::begin(&config.agent, config.spool.max_bytes, log, Watchdog::is_asked());
        let recovered = start::recover(&config, &state, &artifacts, &wall, care.safe_mode().map(str::to_owned))?;
        let Recovered { spool, mut core, effects, memory } = recovered;
        let settings = infer::Settings {
            agent: config.agent.name.clone(),
            device: config.model.device,
            trusted: config.model.trust.clone(),
            epoch: spool.epoch(),
            max_answer_us: config.model.max_answer_ms * 1_000,
        };
        let parts = Parts::new();
        let working = |part: &Part| Working { part: part.clone(), clock };
        let (spool, spool_thread) = spool
            .start(event_sender.clone(), working(&parts.spool))
            .map_err(|source| AgentError::Io { what: "start the spool thread".to_owned(), source })?;
        let (infer, infer_thread) =
            infer::start(settings, working(&parts.infer), wall.clone(), telemetry.clone(), event_sender.clone())?;
        let memory_file = MemoryFile::in_directory(&directory);
        let (store, store_thread) =
            start::store_thread(state, memory_file, event_sender.clone(), working(&parts.store))?;

        let mut tasks = JoinSet::new();
        let mut keepers = Vec::new();
        let programs = Programs::of(running.as_ref());
        let link = match config.hub.clone() {
            None => None,
            Some(hub) => {
                let (outbox, inbox) = link::channel();
                let (credentials, kept) = renewal::credentials(&hub, &config, &wall)?;
                keepers.extend(kept.map(|kept| tasks.spawn(kept.run())));
                let upkeep =
                    running.map(|running| programs.upkeep(&config, &hub, &credentials, running, (clock, &wall)));
                keepers.extend(upkeep.map(|upkeep| tasks.spawn(upkeep.run())));
                tasks.spawn(Link::new(hub, &credentials, telemetry.clone())?.run(inbox, event_sender.clone()));
                Some(outbox)
            }
        };
        let password = config
            .mqtt
            .password()
            .map_err(|(path, source)| AgentError::Io { what: format!("read {}", path.display()), source })?;
        let (seed, shown) = (rand::random(), &config.publish);
        let decoder = Decoder::new(&config.inputs).as_edge_node(shown.sparkplug_group.as_deref(), &name);
        let edge_node = presence::edge_node(shown, &config.mqtt, &name, password.clone(), (&wall, &telemetry), seed)?;
        let edge_node = edge_node.map(|(predictions, node)| (tasks.spawn(node.run()), predictions).1);
        let (ingest, client) =
            ingest::open(&config.mqtt, &name, password, decoder, wall.clone(), telemetry.clone(), seed)?;
        tasks.spawn(client.run());
        let (status, status_reader) = watch::channel(Value::Null);
        let showing = Showing::new(config.publish.home_assistant, config.publish.thin_edge, config.page.is_some());
        if let Some(at) = config.page {
            let page = Page::open(&at, config_file, clock)
                .map_err(|source| AgentError::Io { what: format!("listen on {at} for the box's page"), source })?;
            tasks.spawn(page.serve(status_reader.clone()));
        }
        tasks.spawn(status::serve(directory, status_reader).await?);

        let mut startup = Vec::new();
        core.handle(clock.monotonic(), Event::Tick, &mut startup);
        let mut agent = Self {
            name,
            clock,
            wall,
            core,
            events,
            ingest,
            spool,
            infer,
            link,
            store,
            artifacts,
            memory,
            loads: event_sender,
            telemetry,
            rejected: VecDeque::new(),
            status,
            status_interval_ms: config.status.interval_ms,
            device: config.model.device.to_string(),
            tasks,
            keepers,
            programs,
            watchdog: Watchdog::new(&parts),
            threads: vec![spool_thread, infer_thread, store_thread],
            edge_node,
            showing,
            beside: Beside::default(),
            care,
            diagnosing,
        };
        agent.perform(effects).await;
        agent.perform(startup).await;
        info!(agent = %agent.name, device = agent.device, "started");
        agent.watchdog.ready();
        Ok(agent)
    }

    async fn work(&mut self, shutdown: &CancellationToken) -> Ended {
        let mut status = tokio::time::interval(Duration::from_millis(self.status_interval_ms));
        let mut messages = Vec::with_capacity(MESSAGES_AT_ONCE);
        loop {
            let now = self.clock.monotonic();
            let answers = self.core.open_questions() + MESSAGES_AT_ONCE;
            let can_answer = self.ingest.can_answer(answers);
            let wait = self
                .core
                .poll_timeout()
                .map_or(Duration::from_secs(1), |at| Duration::from_millis(at.0.saturating_sub(now.0)));
            tokio::select! {
                biased;
                () = shutdown.cancelled() => return Ended::Told,
                () = self.programs.start_over() => return Ended::ForAnotherProgram,
                // Before the events, which under load never end.
                () = self.watchdog.due() => self.watchdog.ping(self.clock),
                Some(event) = self.events.recv() => self.handle(event).await,
                () = ingest::has_room(&self.ingest.outbox, answers), if !can_answer => {}
                count = self.ingest.received.recv_many(&mut messages, MESSAGES_AT_ONCE),
                    if self.core.wants_messages() && can_answer =>
                {
                    if count == 0 {
                        error!("the MQTT task ended; stopping");
                        return Ended::Told;
                    }
                    self.take(&mut messages).await;
                }
                _ = status.tick() => self.look_around().await,
                () = tokio::time::sleep(wait) => self.handle(Event::Tick).await,
            }
        }
    }

    /// Stops taking messages in, makes the rest durable and lets the shells end one after another.
    async fn stop(mut self, ended: Ended) {
        info!(agent = %self.name, ?ended, "stopping");
        match ended {
            Ended::Told => self.watchdog.stopping(),
            // The process goes on, and a service manager that heard of a stop would end it.
            Ended::ForAnotherProgram => {}
        }
        self.care.stopped();
        self.diagnosing.stop();
        // Without room for them the broker is away, and hears nothing anyway.
        self.showing.last_words(self.wall.unix_ms()).map(|words| self.ingest.outbox.try_send(words));
        let mut effects = Vec::new();
        self.core.flush(&mut effects);
        self.perform(effects).await;
        let deadline = self.clock.monotonic().plus(FLUSH_DEADLINE_MS);
        while !self.core.is_flushed() && self.clock.monotonic() < deadline {
            match tokio::time::timeout(Duration::from_millis(50), self.events.recv()).await {
                Ok(Some(event)) => self.handle(event).await,
                Ok(None) => break,
                Err(_) => self.handle(Event::Tick).await,
            }
        }
        if !self.core.is_flushed() {
            error!("failed to make everything durable in time; what is missing was not acknowledged");
        }
        self.publish_status();
        let Self {
            ingest,
            edge_node,
            spool,
            infer,
            link,
            store,
            events,
            loads,
            mut tasks,
            keepers,
            threads,
            status,
            ..
        } = self;
        keepers.iter().for_each(AbortHandle::abort);
        drop((ingest, edge_node, spool, infer, link, store, loads, status));
        // The shells may have one more thing to report; nobody listens, which ends them.
        drop(events);
        while let Some(ended) = tasks.join_next().await {
            if let Err(error) = ended
                && !error.is_cancelled()
            {
                error!("a task failed: {error}");
            }
        }
        let joined = tokio::task::spawn_blocking(move || threads.into_iter().all(|thread| thread.join().is_ok())).await;
        if !matches!(joined, Ok(true)) {
            error!("a thread failed");
        }
    }

    async fn take(&mut self, messages: &mut Vec<Received>) {
        for message in messages.iter_mut() {
            if let MessageContent::Rejected(rejection) = &mut message.content {
                self.rejected.extend(rejection.sample.take());
            }
        }
        let excess = self.rejected.len().saturating_sub(REJECTED_KEPT);
        self.rejected.drain(..excess);
        self.handle(Event::Received(std::mem::take(messages))).await;
    }

    async fn handle(&mut self, event: Event) {
        if let Event::FromHub(HubToEdge::Welcome { time_ms, .. }) = &event {
            self.wall.hear(*time_ms);
        }
        let mut effects = Vec::new();
        self.core.handle(self.clock.monotonic(), event, &mut effects);
        self.perform(effects).await;
    }

    async fn perform(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Append(entry) => self.to_spool(spool::Request::Append(entry)).await,
                Effect::ReadSpool { from, entries } => self.to_spool(spool::Request::Read { from, entries }).await,
                Effect::Release(before) => self.to_spool(spool::Request::Release(before)).await,
                Effect::DropOldest { acked, full_bytes } => {
                    self.to_spool(spool::Request::DropOldest { acked, full_bytes }).await;
                }
                Effect::UseEpoch(epoch) => self.to_spool(spool::Request::UseEpoch(epoch)).await,
                Effect::SettleGap { through } => self.to_spool(spool::Request::SettleGap { through }).await,
                Effect::Acknowledge(receipt) => {
                    self.ingest.acknowledge.send_replace(Some(receipt));
                }
                Effect::Infer(questions) => self.to_infer(infer::Request::Ask(questions)).await,
                Effect::Publish(predictions) => self.publish(predictions),
                Effect::Checkpoint(checkpoint) => self.to_store(start::StoreRequest::Checkpoint(checkpoint)).await,
                Effect::Remember(slot) => self.to_store(start::StoreRequest::Slot(slot)).await,
                Effect::Prune(slot) => {
                    let named = [&slot.serving, &slot.previous].map(|model| model.as_ref().map(|model| model.digest));
                    self.artifacts.prune(named.into_iter().chain([self.core.shadow().digest()]).flatten());
                }
                Effect::RememberFloor(floor) => self.to_store(start::StoreRequest::Floor(floor)).await,
                Effect::SaveMemory(memory) => self.to_store(start::StoreRequest::Memory(memory)).await,
                Effect::Dial => self.to_link(link::Command::Dial).await,
                Effect::Hangup => self.to_link(link::Command::Hangup).await,
                Effect::Send(message) => self.to_link(link::Command::Send(Box::new(message))).await,
                Effect::Show(picture) => {
                    // A newer one follows in a moment, and all that is in it comes in its place.
                    if let Some(link) = &self.link {
                        drop(link.pictures.try_send(EdgeToHub::Live(picture)));
                    }
                }
                Effect::StorePart { digest, offset, base, part } => {
                    // The package will not hold, and is fetched again.
                    if let Err(error) = self.artifacts.store_part(digest, offset, base, &part) {
                        error!("failed to {error}");
                    }
                }
                Effect::Load { model, is_new } => match self.artifacts.complete(model.digest) {
                    Ok(bytes) => {
                        let memory = self.memory.take().filter(|memory| memory.digest == model.digest);
                        self.to_infer(infer::Request::Load { model, bytes, memory, is_new }).await;
                    }
                    Err(error) => self.cannot_load(&error, Event::ModelRefused { model, reason: error.to_string() }),
                },
                Effect::LoadShadow { model, percent } => match self.artifacts.complete(model.digest) {
                    Ok(bytes) => self.to_infer(infer::Request::LoadShadow { model, bytes, percent }).await,
                    Err(error) => {
                        let (digest, shadowed) = (model.digest, Err(error.to_string()));
                        self.cannot_load(&error, Event::Shadowed { digest, shadowed });
                    }
                },
                Effect::EndShadow => self.to_infer(infer::Request::EndShadow).await,
                Effect::NoteShadow(starts) => self.to_store(start::StoreRequest::Shadow(starts)).await,
                Effect::Discard(digest) => self.artifacts.discard(digest),
                Effect::Examine { request } => {
                    if let Some(link) = &self.link {
                        self.diagnosing.begin(request, &mut self.tasks, link.commands.clone());
                    }
                }
            }
        }
    }

    fn cannot_load(&self, error: &ArtifactError, answer: Event) {
        error!("failed to {error}");
        if self.loads.try_send(answer).is_err() {
            error!("the agent's own queue is full");
        }
    }

    async fn to_spool(&self, request: spool::Request) {
        if self.spool.send(request).await.is_err() {
            error!("the spool's thread is gone; nothing more is acknowledged");
        }
    }

    async fn to_infer(&self, request: infer::Request) {
        if self.infer.send(request).await.is_err() {
            error!("the inference thread is gone; readings are delivered without predictions");
        }
    }

    async fn to_store(&self, request: start::StoreRequest) {
        if self.store.send(request).await.is_err() {
            error!("the store's thread is gone; a restart will count more than once");
        }
    }

    async fn to_link(&self, command: link::Command) {
        if let Some(link) = &self.link
            && link.commands.send(command).await.is_err()
        {
            error!("the link's task is gone; events stay in the spool");
        }
    }

    fn publish(&mut self, predictions: Vec<Published>) {
        for (index, prediction) in predictions.iter().enumerate() {
            let topic = format!("tideline/{}/prediction/{}", self.name, prediction.stream);
            // The spool has every prediction; whoever acts on MQTT acts on anomalies.
            let is_anomaly = prediction.outcome.is_anomaly();
            let delivery = if is_anomaly { Delivery::AtLeastOnce } else { Delivery::AtMostOnce };
            let properties = self.beside.of(&prediction.model, is_anomaly);
            let payload = answer::to_json(prediction);
            self.showing.take(prediction, &payload);
            let message = Outgoing { topic, payload, properties, retain: false, delivery };
            if self.ingest.outbox.try_send(message).is_err() {
                self.telemetry.unpublished(predictions.len() - index);
                break;
            }
        }
        if let Some(edge_node) = &self.edge_node {
            let count = predictions.len();
            if edge_node.try_send(predictions).is_err() {
                self.telemetry.unpublished(count);
            }
        }
    }

    /// What is done every now and then: look after the box, and say how it is.
    async fn look_around(&mut self) {
        if let Some(max_bytes) = self.care.runs(self.clock.monotonic()) {
            self.handle(Event::SpoolLimit(max_bytes)).await;
        }
        self.programs.look(&self.core, &self.telemetry);
        self.publish_status();
    }

    fn publish_status(&mut self) {
        let outbox = &self.ingest.outbox;
        self.showing.announce(&self.name, self.wall.unix_ms(), |message| outbox.try_send(message).is_ok());
        let uptime = self.clock.monotonic();
        let (core, telemetry) = (&self.core, &self.telemetry);
        let mut report = status::report(&self.name, &self.device, core, telemetry, uptime, self.care.safe_mode());
        self.care.report(uptime, &mut report);
        report["program_number"] = self.programs.number().into();
        let payload = report.to_string().into_bytes();
        let topic = format!("tideline/{}/status", self.name);
        // A full outbox means the broker is away; the next status replaces this one.
        let properties = Properties::of_json(None, &[]);
        let message = Outgoing { topic, payload, properties, retain: true, delivery: Delivery::AtLeastOnce };
        drop(self.ingest.outbox.try_send(message));
        let mut local = report;
        local["clock_correction_s"] = (self.wall.correction_ms() / 1_000).into();
        local["newest"] = status::newest(self.core.newest());
        local["answers"] = self.showing.newest();
        local["rejected_messages"] = self.rejected.iter().map(Rejected::to_json).collect();
        self.status.send_replace(local);
    }
}

impl Millis {
    /// The time in seconds.
    #[must_use]
    pub fn as_seconds(self) -> f64 {
        self.0 as f64 / 1_000.0
    }
}
