//! What a hub does before its loop runs: open everything, finish what a crash interrupted, replay the log.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use shared::heartbeat::Part;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tracing::info;

use super::access::Doors;
use super::enrolment::Vouching;
use super::parts::Parts;
use super::programs::LastProgram;
use super::watchdog::Watchdog;
use super::{Hub, HubError, records, tracking, work};
use crate::api;
use crate::artifacts::Artifacts;
use crate::audit::AuditHead;
use crate::clock::{self, Stopwatch};
use crate::config::Config;
use crate::core::diagnoses::Diagnoses;
use crate::core::{CompactionRules, HubCore, Start};
use crate::ingest_log::IngestLog;
use crate::install::InstallFolder;
use crate::link::{Link, Security};
use crate::release_key;
use crate::samples::SampleStore;
use crate::step_files::StepFiles;
use crate::store::Store;
use crate::telemetry::Telemetry;
use crate::tracked_files::TrackedFiles;

/// Reports of the log that may wait; the loop takes them first.
const REPORTS: usize = 64;

pub(super) async fn start(config: Config) -> Result<Hub, HubError> {
    let directory = &config.data_directory;
    std::fs::create_dir_all(directory)
        .map_err(|source| HubError::Io { what: format!("make {}", directory.display()), source })?;
    let store = Store::open(&directory.join("hub.sqlite")).await?;
    let doors = Doors::open(&store, directory).await?;
    let samples = SampleStore::open(directory)?;
    let artifacts = Artifacts::open(&directory.join("packages"))?;
    let mut log = IngestLog::open(&directory.join("ingest-log"))?;
    finish_compaction(&store, &samples, &mut log).await?;

    let stored = store.load().await?;
    let releases = records::releases(&stored, &artifacts)?;
    let (champions, rollouts) = (stored.champions.clone(), records::rollouts(&stored)?);
    let last_run = stored.runs.iter().map(|run| run.id).max().unwrap_or(0);
    let specs = config.models.iter().map(|model| model.spec.clone()).collect();
    let rules = CompactionRules { interval_ms: config.samples.compact_interval_ms };
    let snapshot = stored.checkpoint.as_ref().map(|checkpoint| (checkpoint.position, checkpoint.snapshot.clone()));
    let from = snapshot.as_ref().map_or(0, |(position, _)| *position);
    let (alarms, labels) = store.load_notes().await?;
    let identities = store.load_identities().await?;
    let start = Start { snapshot, releases, champions, rollouts, last_run, alarms, labels, identities };
    let mut core = HubCore::new(specs, rules, start)?;
    let replayed = log.read(from..log.end())?;
    info!(from, batches = replayed.len(), "replaying the ingest log");
    replayed.iter().for_each(|(position, entry)| core.replay(*position, &entry.agent, &entry.entry));
    core.replayed(log.end());
    let runs = records::runs(&stored)?;
    for run in records::interrupted(&runs) {
        store.upsert_run(&run).await?;
    }
    core.remember(records::agents(&stored), runs, records::alarms(&stored)?);

    let programs = store.load_programs().await?;
    let tracking = tracking::open(&store).await?;
    let files = directory.join("tracked-files");
    let tracked_files = TrackedFiles::open(&files)
        .map_err(|source| HubError::Io { what: format!("read {}", files.display()), source })?;
    let head = store.history_page(i64::MAX, 1).await?.first().map_or(0, |row| row.sequence);
    let release_key = Arc::new(release_key::load_or_create(directory)?);
    info!(key = %release_key.public(), "packages are signed with");
    let vouching = Vouching::open(&config, clock::unix_ms())?;
    let security = Security { secret: &vouching.secret()?, enrols: vouching.issues() };
    let link = Link::bind(&config.link, vouching.trust(), security)?;
    let listener = api::listen(config.api.listen)
        .await
        .map_err(|source| HubError::Io { what: format!("listen on {}", config.api.listen), source })?;
    let address =
        |result: std::io::Result<_>| result.map_err(|source| HubError::Io { what: "find the port".to_owned(), source });
    let (report_sender, reports) = mpsc::channel(REPORTS);
    let (log_part, stopwatch) = (Part::new("ingest log"), Stopwatch::start());
    let watchdog = Watchdog::new(&log_part, stopwatch);
    let (log, log_thread) = log
        .start(report_sender, log_part, stopwatch)
        .map_err(|source| HubError::Io { what: "start the ingest log's thread".to_owned(), source })?;
    Ok(Hub {
        core,
        audit: AuditHead::new(directory),
        head: watch::Sender::new(head),
        models: config.models.into_iter().map(|model| (model.spec.name.clone(), model)).collect::<BTreeMap<_, _>>(),
        link_address: address(link.local_address())?,
        link: Some(link),
        api_address: address(listener.local_addr())?,
        api: Some(listener),
        store,
        doors,
        is_public_over_tls: config.api.is_public_over_tls(),
        vouching,
        public_addresses: config.link.public_addresses,
        samples,
        artifacts,
        parts: Parts::default(),
        programs,
        program_files: Artifacts::open(&directory.join("programs"))?,
        diagnoses: Diagnoses::default(),
        install: Arc::new(InstallFolder::of(directory)),
        last_program: LastProgram::default(),
        log,
        watchdog,
        reports,
        log_thread,
        agents: BTreeMap::new(),
        work: JoinSet::<work::Done>::new(),
        lookups: JoinSet::new(),
        tracking,
        tracked_files,
        training_cancelled: Arc::new(AtomicBool::new(false)),
        progress: watch::Sender::new(BTreeMap::new()),
        telemetry: Telemetry::default(),
        trusted: config.trust.into_iter().chain([release_key.public()]).collect(),
        release_key,
        step_files: StepFiles::at(&directory.join("training-steps")),
        picture: watch::Sender::default(),
        pictures: 0,
    })
}

/// A compaction that was planned and not finished is done again, exactly: the same positions give the same files.
async fn finish_compaction(store: &Store, samples: &SampleStore, log: &mut IngestLog) -> Result<(), HubError> {
    let Some(plan) = store.load().await?.plan else {
        return Ok(());
    };
    info!(from = plan.from, to = plan.to, "finishing a compaction that was interrupted");
    let entries = log.read(plan.from..plan.to)?;
    samples.write(plan.from..plan.to, &work::batches(entries)).await?;
    store.finish_compaction().await?;
    Ok(())
}
