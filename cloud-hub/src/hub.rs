//! The hub: wires the core to its shells and runs them until told to stop.
//!
//! One loop takes what the shells report, hands it to the core and performs the core's effects, in order. Compaction
//! and training are tasks beside it, one at a time each. Shutdown closes the link, lets the log finish what it has,
//! compacts it, and then lets go of the shells.

mod access;
mod asks;
mod diagnoses;
pub mod drift_files;
mod enrolment;
mod intake;
mod lookups;
mod notes;
pub mod offline;
mod parts;
mod programs;
mod records;
mod start;
mod tracking;
mod watchdog;
mod work;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, RwLock};
use std::time::Duration;

use shared::event::{Event as StoredEvent, SpoolEntry};
use shared::ids::ModelName;
use shared::package::signature::{PublicKey, ReleaseKey};
use shared::wire::message::HubToEdge;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use self::access::Doors;
use self::enrolment::Vouching;
use self::intake::{Brought, Taken};
use self::parts::Parts;
use self::programs::LastProgram;
use self::watchdog::Watchdog;
use crate::api::{self, Command, Shown};
use crate::artifacts::{ArtifactError, Artifacts, Part};
use crate::audit::AuditHead;
use crate::authority::AuthorityError;
use crate::clock;
use crate::config::{Config, ModelSection};
use crate::core::diagnoses::Diagnoses;
use crate::core::programs::Programs;
use crate::core::retrain::curve::Curve;
use crate::core::tracking::Tracking;
use crate::core::{ConnectionId, Effect, Event, HubCore, SnapshotError};
use crate::ingest_log::{self, Entry, IngestLogError, Report};
use crate::install::InstallFolder;
use crate::link::{Link, LinkError, LinkEvent};
use crate::release_key::ReleaseKeyError;
use crate::samples::{SampleStore, SamplesError};
use crate::secret::Secret;
use crate::step_files::StepFiles;
use crate::store::{Store, StoreError};
use crate::telemetry::Telemetry;
use crate::tracked_files::TrackedFiles;
use crate::view::programs::{BoxProgramView, ProgramView};
use crate::view::{self, AlarmView, LabelView, View};

/// What agents say that may wait; beyond, their connections wait.
const LINK_EVENTS: usize = 1_024;
/// Commands that may wait.
const COMMANDS: usize = 64;
/// How often the picture for the HTTP interface is made anew, if something changed.
const PICTURE_INTERVAL: Duration = Duration::from_millis(200);
/// How often the core is told that time passed.
const TICK: Duration = Duration::from_millis(100);

/// Why a hub cannot run.
#[derive(Debug, thiserror::Error)]
pub enum HubError {
    /// The database.
    #[error("{0}")]
    Store(#[from] StoreError),
    /// The ingest log.
    #[error("{0}")]
    IngestLog(#[from] IngestLogError),
    /// The sample store.
    #[error("{0}")]
    Samples(#[from] SamplesError),
    /// The packages.
    #[error("{0}")]
    Artifacts(#[from] ArtifactError),
    /// The release key.
    #[error("{0}")]
    ReleaseKey(#[from] ReleaseKeyError),
    /// The link.
    #[error("{0}")]
    Link(#[from] LinkError),
    /// The authority.
    #[error("{0}")]
    Authority(#[from] AuthorityError),
    /// The snapshot.
    #[error("{0}")]
    Snapshot(#[from] SnapshotError),
    /// What the database says cannot be understood.
    #[error("understand the database: {0}")]
    Record(String),
    /// A socket or thread.
    #[error("{what}: {source}")]
    Io {
        /// What was tried.
        what: String,
        /// What the system said.
        source: std::io::Error,
    },
}

/// A hub that is ready to run.
pub struct Hub {
    core: HubCore,
    audit: AuditHead,
    /// The number of the newest row of the history.
    head: watch::Sender<i64>,
    models: BTreeMap<ModelName, ModelSection>,
    link: Option<Link>,
    link_address: SocketAddr,
    api: Option<TcpListener>,
    api_address: SocketAddr,
    store: Store,
    doors: Doors,
    is_public_over_tls: bool,
    vouching: Vouching,
    /// Where boxes reach the link, as the configuration says.
    public_addresses: Vec<String>,
    samples: SampleStore,
    artifacts: Artifacts,
    parts: Parts,
    /// Programs for boxes, and their files.
    programs: Programs,
    program_files: Artifacts,
    diagnoses: Diagnoses,
    install: Arc<InstallFolder>,
    last_program: LastProgram,
    log: mpsc::Sender<ingest_log::Request>,
    watchdog: Watchdog,
    reports: mpsc::Receiver<Report>,
    log_thread: std::thread::JoinHandle<()>,
    agents: BTreeMap<ConnectionId, mpsc::Sender<HubToEdge>>,
    work: JoinSet<work::Done>,
    /// What programs that train elsewhere log and register.
    tracking: Arc<RwLock<Tracking>>,
    tracked_files: TrackedFiles,
    /// What callers of the HTTP interface look up.
    lookups: JoinSet<()>,
    training_cancelled: Arc<AtomicBool>,
    /// How far each training is that runs.
    progress: watch::Sender<BTreeMap<i64, work::RunProgress>>,
    telemetry: Telemetry,
    release_key: Arc<ReleaseKey>,
    step_files: StepFiles,
    /// Whose packages may be brought by hand.
    trusted: Vec<PublicKey>,
    /// What the HTTP interface shows.
    picture: watch::Sender<Arc<View>>,
    /// How often a picture of the hub was taken: whoever sees a higher number knows that what it sees is newer.
    pictures: u64,
}

impl Hub {
    /// Opens everything, finishes what a crash interrupted and replays the log.
    ///
    /// # Errors
    /// If the disk, a port or a certificate is not usable.
    pub async fn start(config: Config) -> Result<Self, HubError> {
        start::start(config).await
    }

    /// Where agents connect.
    #[must_use]
    pub fn link_address(&self) -> SocketAddr {
        self.link_address
    }

    /// Where the HTTP interface is.
    #[must_use]
    pub fn api_address(&self) -> SocketAddr {
        self.api_address
    }

    /// The code that makes the first admin, if there is nobody yet. It is to be shown to whoever starts the hub, and to nobody
    /// else.
    #[must_use]
    pub fn setup_code(&self) -> Option<&Secret> {
        self.doors.setup_code()
    }

    /// Runs until `shutdown` is cancelled.
    ///
    /// # Errors
    /// If the ingest log cannot be trusted any more.
    pub async fn run(mut self, shutdown: CancellationToken) -> Result<(), HubError> {
        let (link_sender, mut link_events) = mpsc::channel(LINK_EVENTS);
        let (command_sender, mut commands) = mpsc::channel(COMMANDS);
        let stop = CancellationToken::new();
        let mut services = JoinSet::new();
        if let Some(link) = self.link.take() {
            services.spawn(link.run(link_sender, stop.clone()));
        }
        if let Some(listener) = self.api.take() {
            let telemetry = self.telemetry.clone();
            let (head, tracking) = (self.head.subscribe(), Arc::clone(&self.tracking));
            let install = Arc::clone(&self.install);
            let shown = Shown { view: self.picture.subscribe(), head, tracking, telemetry, install };
            let access = self.doors.for_api(self.is_public_over_tls);
            services.spawn(api::serve(listener, shown, command_sender, access, stop.clone()));
        }
        info!(link = %self.link_address, api = %self.api_address, "started");
        self.watchdog.ready();

        let mut tick = tokio::time::interval(TICK);
        let mut pictures = tokio::time::interval(PICTURE_INTERVAL);
        loop {
            tokio::select! {
                biased;
                () = shutdown.cancelled() => break,
                // Before the reports, which under load never end.
                () = self.watchdog.due() => self.watchdog.ping(),
                Some(report) = self.reports.recv() => self.report(report).await,
                Some(event) = link_events.recv() => self.link_event(event).await,
                Some(done) = self.work.join_next(), if !self.work.is_empty() => self.done(done).await,
                Some(_) = self.lookups.join_next(), if !self.lookups.is_empty() => {}
                Some((command, done)) = commands.recv() => {
                    self.command(command).await;
                    // Whoever asked may have gone.
                    done.send(()).ok();
                }
                _ = tick.tick() => {
                    self.vouching.look(clock::unix_ms());
                    self.handle(Event::Tick).await;
                }
                _ = pictures.tick() => self.publish(),
            }
        }
        info!("stopping");
        self.watchdog.stopping();
        // Whoever still asks is told that the hub stops, and waits for nothing.
        drop(commands);
        self.lookups.abort_all();
        self.training_cancelled.store(true, Ordering::Relaxed);
        stop.cancel();
        self.agents.clear();
        drop(link_events);
        self.drain().await;
        self.publish();
        while let Some(ended) = services.join_next().await {
            if let Err(error) = ended {
                error!("a task failed: {error}");
            }
        }
        self.close().await
    }

    /// Waits for what the log has, compacts it, and waits for what is under way.
    async fn drain(&mut self) {
        while self.core.positions().0 > self.core.positions().1 {
            match self.reports.recv().await {
                Some(report) => self.report(report).await,
                None => break,
            }
        }
        while let Some(done) = self.work.join_next().await {
            self.done(done).await;
        }
        let mut effects = Vec::new();
        self.core.flush(&mut effects);
        self.perform(effects).await;
        while let Some(done) = self.work.join_next().await {
            self.done(done).await;
        }
    }

    async fn close(self) -> Result<(), HubError> {
        let Self { log, log_thread, store, reports, .. } = self;
        drop((log, reports));
        let joined = tokio::task::spawn_blocking(move || log_thread.join().is_ok()).await;
        if !matches!(joined, Ok(true)) {
            error!("the ingest log's thread failed");
        }
        store.close().await;
        Ok(())
    }

    async fn handle(&mut self, event: Event) {
        let mut effects = Vec::new();
        self.core.handle(clock::unix_ms(), event, &mut effects);
        self.perform(effects).await;
    }

    async fn report(&mut self, report: Report) {
        match report {
            Report::Durable(end) => self.handle(Event::Durable { end }).await,
            Report::Failed => {
                self.to_log(ingest_log::Request::Resume).await;
                self.handle(Event::AppendFailed).await;
            }
        }
    }

    async fn link_event(&mut self, event: LinkEvent) {
        match event {
            LinkEvent::Opened { connection, agent, certificate, outgoing } => {
                self.agents.insert(connection, outgoing);
                self.handle(Event::Connected { connection, agent, certificate }).await;
            }
            LinkEvent::Enrol { request, shown, peer, answer } => {
                let answered = self.enrol(request, shown, peer).await;
                // The box may have gone; it asks again.
                answer.send(answered).ok();
            }
            LinkEvent::Upkeep { request, agent, certificate, answer } => {
                self.upkeep(request, agent, certificate, answer).await;
            }
            LinkEvent::Examined { connection, request, document } => {
                self.hear_diagnosis(connection, request, document);
            }
            LinkEvent::Core(event) => {
                if let Event::Disconnected { connection } = &*event {
                    self.agents.remove(connection);
                }
                self.handle(*event).await;
            }
        }
    }

    async fn command(&mut self, command: Command) {
        match command {
            Command::Retrain { model, by } => self.order(Event::RetrainRequested { model, by }).await,
            Command::Wish { id, wish, by } => self.order(Event::RolloutWished { id, wish, by }).await,
            Command::RollOut { model, version, by } => {
                self.order(Event::RolloutRequested { model, version, by }).await;
            }
            Command::Bring { model, bytes, by, skip_proof, answer } => {
                let registry = self.core.registry();
                let known = registry.versions(&model).map(|release| (release.version, release.digest)).collect();
                let champion = registry.champion(&model).map(|release| release.digest);
                self.take_in(Brought { model, known, champion, by, skip_proof }, bytes, answer);
            }
            // Whoever asked may have gone.
            Command::Change { change, answer } => drop(answer.send(self.change_access(change).await)),
            Command::MakeEnrolTokens { asked, answer } => drop(answer.send(self.make_enrol_tokens(asked).await)),
            Command::RemoveEnrolToken { id, answer } => drop(answer.send(self.remove_enrol_tokens(vec![id]).await)),
            Command::ReadAsks { answer } => drop(answer.send(view::identities::asks(&self.core))),
            Command::ApproveAsk { id, agent, labels, by, answer } => {
                drop(answer.send(self.approve_ask(&id, agent.as_ref(), &labels, &by).await));
            }
            Command::RemoveAsk { id, answer } => drop(answer.send(self.remove_ask(id).await)),
            Command::ReadEnrolTokens { answer } => drop(answer.send(view::identities::tokens(&self.core))),
            Command::ReadIdentities { answer } => drop(answer.send(view::identities::all(&self.core))),
            Command::RevokeBox { agent, by, reason, answer } => {
                drop(answer.send(self.revoke_box(&agent, by, reason).await));
            }
            Command::ApproveBox { agent, by, answer } => drop(answer.send(self.approve_box(&agent, &by).await)),
            Command::Diagnose { agent, by, answer } => drop(answer.send(self.diagnose(agent, by))),
            Command::ReadDiagnosis { agent, answer } => drop(answer.send(self.diagnosis_of(&agent))),
            Command::ReadPrograms { answer } => {
                let programs = self.programs.files().into_iter().map(|known| ProgramView::of(known, &self.programs));
                drop(answer.send(programs.collect()));
            }
            Command::ReadBoxPrograms { answer } => {
                drop(answer.send(self.programs.boxes().map(BoxProgramView::from).collect()));
            }
            Command::BringProgram { bytes, by, answer } => drop(answer.send(self.bring_program(bytes, by).await)),
            Command::OfferProgram { file, agents, by, answer } => {
                drop(answer.send(self.offer_program(file, agents, by).await));
            }
            Command::ResumeProgram { file, answer } => drop(answer.send(self.resume_program(file).await)),
            Command::RemoveProgram { file, answer } => drop(answer.send(self.remove_program(file).await)),
            Command::Note(deed) => self.note(deed).await,
            Command::ReadHistory { rows, limit, answer } => drop(answer.send(self.read_history(rows, limit).await)),
            Command::ReadReadings { window, answer } => self.read_readings(window, answer),
            Command::ReadHistograms { agent, stream, answer } => {
                drop(answer.send(view::histograms::of(&self.core, &agent, &stream)));
            }
            Command::ReadAlarms { answer } => {
                drop(answer.send(self.core.alarms().known().map(AlarmView::from).collect()));
            }
            Command::ReviewAlarm { id, review, answer } => drop(answer.send(self.review_alarm(id, review).await)),
            Command::ReadLabels { answer } => {
                drop(answer.send(self.core.labels().all().map(LabelView::from).collect()));
            }
            Command::AddLabels { labels, answer } => self.label(labels, answer),
            Command::RemoveLabel { id, answer } => drop(answer.send(self.remove_label(id).await)),
            Command::ReadCurve { run, answer } => drop(answer.send(self.curve_of(run))),
            Command::Track { act, answer } => drop(answer.send(self.track(act).await)),
            Command::ReadPoints { run, key, answer } => self.read_points(run, key, answer),
            Command::OnFile { asked, answer } => self.on_file(asked, answer),
            Command::ReadPackage { digest, answer } => {
                let artifacts = self.artifacts.clone();
                let load = move || artifacts.load(digest).map_err(|error| format!("failed to {error}"));
                self.look_up(
                    answer,
                    async move { tokio::task::spawn_blocking(load).await.map_err(|e| e.to_string())? },
                );
            }
        }
    }

    /// Does what somebody wants of the fleet, who sees it done once it is answered.
    async fn order(&mut self, event: Event) {
        self.handle(event).await;
        self.publish();
    }

    /// How the loss of a training went, or goes.
    fn curve_of(&self, id: i64) -> Option<Curve> {
        let run = self.core.retraining().runs().find(|run| run.id == id)?;
        let progress = self.progress.borrow();
        let running = progress.get(&id).map(|progress| progress.curve.clone());
        Some(running.unwrap_or_else(|| run.curve.clone()))
    }

    async fn done(&mut self, done: Result<work::Done, tokio::task::JoinError>) {
        match done {
            Ok(work::Done::Compacted { to }) => {
                self.telemetry.compactions.inc();
                self.to_log(ingest_log::Request::Release(to)).await;
                self.handle(Event::Compacted { to }).await;
            }
            Ok(work::Done::Trained { run, mut outcome }) => {
                self.progress.send_modify(|running| {
                    outcome.curve = running.remove(&run).map(|progress| progress.curve).unwrap_or_default();
                });
                self.handle(Event::Trained { run, outcome: *outcome }).await;
            }
            Ok(work::Done::Brought { taken, model, answer }) => {
                let answered = match taken {
                    Err(reason) => Err(reason),
                    Ok(Taken::New(release)) => {
                        let known = (release.version, release.digest);
                        self.order(Event::Uploaded(release)).await;
                        Ok(known)
                    }
                    Ok(Taken::Signed { version, digest, bytes }) => {
                        self.order(Event::Signed { model, version, bytes }).await;
                        Ok((version, digest))
                    }
                };
                // Whoever asked may have gone.
                answer.send(answered).ok();
            }
            Ok(work::Done::Labelled { labels, answer }) => {
                let taken = match labels {
                    Ok(labels) => self.take_labels(labels).await,
                    Err(reason) => Err(reason),
                };
                // Whoever asked may have gone.
                answer.send(taken).ok();
            }
            Ok(work::Done::GaveUp) => {}
            Err(error) => error!("a task failed: {error}"),
        }
    }

    async fn perform(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Append { agent, entry } => {
                    self.count(&entry);
                    self.to_log(ingest_log::Request::Append(Entry { agent, entry })).await;
                }
                Effect::Send { connection, message } => self.send(connection, message),
                Effect::SendPart { connection, digest, offset, base } => {
                    match self.parts.get(&self.artifacts, (digest, offset, base)) {
                        Ok(Part { base, packed: part }) => {
                            self.telemetry.package_bytes.inc_by(part.raw_bytes());
                            self.telemetry.package_bytes_sent.inc_by(part.packed_bytes());
                            self.send(connection, HubToEdge::Chunk { digest, offset, base, part });
                        }
                        Err(error) => error!("failed to {error}"),
                    }
                }
                Effect::Close { connection } => drop(self.agents.remove(&connection)),
                Effect::Compact { from, to, snapshot } => self.compact(from, to, snapshot),
                Effect::Train(job) => self.train(job),
                recorded @ (Effect::RecordRun(_)
                | Effect::RecordRelease(..)
                | Effect::RecordRollout(_)
                | Effect::RecordAgent(_)
                | Effect::RecordDeployment { .. }
                | Effect::RecordDrift(_)
                | Effect::RecordAlarm(_)) => match records::record(&self.store, clock::unix_ms(), recorded).await {
                    Ok(None) => {}
                    Ok(Some(head)) => self.sign(head),
                    Err(error) => error!("failed to {error}"),
                },
            }
        }
    }

    /// A full queue means the agent does not read: dropping it closes the connection, and the agent comes back.
    fn send(&mut self, connection: ConnectionId, message: HubToEdge) {
        if let Some(agent) = self.agents.get(&connection)
            && agent.try_send(message).is_err()
        {
            warn!(?connection, "an agent does not read what it is sent; closing its connection");
            self.agents.remove(&connection);
        }
    }

    async fn to_log(&self, request: ingest_log::Request) {
        if self.log.send(request).await.is_err() {
            error!("the ingest log's thread is gone; nothing more is acknowledged");
        }
    }

    fn count(&self, entry: &SpoolEntry) {
        let events = entry.batch().map_or(&[][..], |batch| &batch.events);
        let count = |is: fn(&StoredEvent) -> bool| events.iter().filter(|event| is(event)).count() as u64;
        self.telemetry.batches.inc();
        self.telemetry.readings.inc_by(count(|event| matches!(event, StoredEvent::Reading(_))));
        self.telemetry.predictions.inc_by(count(|event| matches!(event, StoredEvent::Prediction(_))));
    }

    fn publish(&mut self) {
        let progress = self.progress.borrow().iter().map(|(run, progress)| (*run, progress.newest.clone())).collect();
        let gauges = &self.telemetry;
        let (_, observed, compacted) = self.core.positions();
        gauges.agents_connected.set(self.agents.len() as i64);
        gauges.training_runs.set(i64::from(!self.core.retraining().is_idle()));
        gauges.ingest_log_batches.set(observed.saturating_sub(compacted) as i64);
        self.pictures += 1;
        let taken = view::picture(&self.core, clock::unix_ms(), &progress, self.pictures);
        gauges.look(&taken.overview);
        self.picture.send_replace(Arc::new(taken));
    }
}
