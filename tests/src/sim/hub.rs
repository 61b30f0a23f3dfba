//! The hub: its core, its log on a disk that fails, and its database, which a transaction changes whole or not at all.

use std::collections::{BTreeMap, VecDeque};

use cloud_hub::core::alarms::Alarm;
use cloud_hub::core::identities::{BoxCertificate, IdentityBook};
use cloud_hub::core::registry::{Registry, Release};
use cloud_hub::core::rollout::{Rollout, RolloutState, Wish};
use cloud_hub::core::session::AgentFacts;
use cloud_hub::core::{CompactionRules, ConnectionId, Effect, Event, HubCore, Start};
use cloud_hub::ingest_log::{Entry, IngestLog, Report, Request};
use shared::event::SpoolEntry;
use shared::ids::{AgentId, Digest, Epoch, ModelVersion};
use shared::seglog::fake::FakeDisk;
use shared::wire::message::{EdgeToHub, HubToEdge, ServedModel};
use shared::wire::part::PackedPart;

use super::bugs::Bug;
use super::models::{self, Nature};
use super::random::Random;
use super::rollouts;

const SEGMENT_BYTES: u64 = 8 * 1024;
/// Time between two compactions.
const COMPACTION_MS: i64 = 5_000;
/// An agent that was away for longer is forgotten by the bug that dedupes by a time window.
const WINDOW_MS: i64 = 60_000;

/// The hub.
pub(super) struct Hub {
    pub(super) disk: FakeDisk,
    core: HubCore,
    log: IngestLog<FakeDisk>,
    database: Database,
    requests: Vec<Request>,
    reports: VecDeque<Report>,
    compaction: Option<(u64, u64, Vec<u8>)>,
    compacted: Option<u64>,
    next_connection: u64,
    live: BTreeMap<ConnectionId, AgentId>,
    pub(super) is_away: bool,
    bug: Option<Bug>,
    backup: Option<(FakeDisk, Database)>,
    /// For the bug that dedupes by a time window: when an agent was last heard of, and what is added to its epochs.
    forgotten: BTreeMap<AgentId, (i64, u64)>,
    /// For the bug that accepts holes: what is taken from an agent's sequences.
    skipped: BTreeMap<AgentId, (u64, u64)>,
}

/// What survives everything.
#[derive(Debug, Default, Clone)]
struct Database {
    /// Whether rollouts begin in shadow.
    begins_in_shadow: bool,
    checkpoint: Option<(u64, Vec<u8>)>,
    agents: BTreeMap<AgentId, AgentFacts>,
    /// Empty where nothing is rolled out.
    releases: Vec<Release>,
    champion: Option<ModelVersion>,
    rollouts: BTreeMap<i64, Rollout>,
    alarms: BTreeMap<String, Alarm>,
    last_run: i64,
    /// What the sample store holds.
    samples: Vec<(u64, Entry)>,
}

/// What the hub says.
#[derive(Debug)]
pub(super) enum Said {
    Message(ConnectionId, HubToEdge),
    Close(ConnectionId),
}

impl Hub {
    pub(super) fn new(seed: u64, has_models: bool, bug: Option<Bug>) -> Self {
        let disk = FakeDisk::new(seed ^ 0x4b, 1 << 30);
        let mut database = Database { begins_in_shadow: seed % 3 == 1, ..Database::default() };
        if has_models {
            let ServedModel { model, digest } = models::first();
            database.champion = Some(model.version);
            database.releases.push(rollouts::release(model.version, digest));
        }
        let (core, log) = start(&disk, &database);
        Self {
            disk,
            core,
            log,
            database,
            requests: Vec::new(),
            reports: VecDeque::new(),
            compaction: None,
            compacted: None,
            next_connection: 0,
            live: BTreeMap::new(),
            is_away: false,
            bug,
            backup: None,
            forgotten: BTreeMap::new(),
            skipped: BTreeMap::new(),
        }
    }

    /// An agent connects.
    pub(super) fn connect(&mut self, now: i64, agent: &AgentId, said: &mut Vec<Said>) -> ConnectionId {
        self.next_connection += 1;
        let connection = ConnectionId(self.next_connection);
        self.live.insert(connection, agent.clone());
        let (digest, not_after_ms) = (Digest::of(agent.as_str().as_bytes()), i64::MAX);
        let certificate = BoxCertificate { digest, key: digest, not_after_ms };
        self.handle(now, Event::Connected { connection, agent: agent.clone(), certificate }, said);
        connection
    }

    pub(super) fn disconnected(&mut self, now: i64, connection: ConnectionId, said: &mut Vec<Said>) {
        self.live.remove(&connection);
        self.handle(now, Event::Disconnected { connection }, said);
    }

    /// Somebody brings a version.
    pub(super) fn release(&mut self, now: i64, nature: Nature, said: &mut Vec<Said>) {
        let version = self.core.registry().next_version(&models::model());
        let release = rollouts::release(version, nature.digest(version));
        self.handle(now, Event::Uploaded(Box::new(release)), said);
    }

    /// Somebody wants something of the rollout that is not over, if there is one.
    pub(super) fn wish(&mut self, now: i64, wish: Wish, said: &mut Vec<Said>) {
        if let Some(id) = self.registry().rollout_of(&models::model()).map(|rollout| rollout.id) {
            self.handle(now, Event::RolloutWished { id, wish, by: "somebody".to_owned() }, said);
        }
    }

    pub(super) fn registry(&self) -> &Registry {
        self.core.registry()
    }

    /// A message arrives.
    pub(super) fn take(&mut self, now: i64, connection: ConnectionId, message: EdgeToHub, said: &mut Vec<Said>) {
        let event = match message {
            EdgeToHub::Hello(mut hello) => {
                hello.epoch.0 += self.forget(now, connection);
                Event::Hello { connection, hello }
            }
            EdgeToHub::Entry(packed) => {
                let bytes = packed.unpack().expect("what was packed unpacks");
                let mut entry = SpoolEntry::decode(&bytes).expect("what was encoded decodes");
                self.alter(now, connection, &mut entry);
                Event::Entry { connection, entry }
            }
            EdgeToHub::Fetch { digest, offset, base } => Event::Fetch { connection, digest, offset, base },
            EdgeToHub::ModelReport(report) => Event::ModelReport { connection, report },
            EdgeToHub::Status(status) => Event::Status { connection, status },
            EdgeToHub::Live(picture) => Event::Live { connection, picture },
            // Nobody asks in a simulation, and what a box says is none of the core's business.
            EdgeToHub::Examined { .. } => return,
        };
        self.handle(now, event, said);
    }

    pub(super) fn tick(&mut self, now: i64, said: &mut Vec<Said>) {
        self.handle(now, Event::Tick, said);
    }

    /// The log's disk works off what was asked for.
    pub(super) fn work_disk(&mut self, random: &mut Random) {
        let count = random.below(self.requests.len() + 1).max(usize::from(!self.requests.is_empty()));
        let requests: Vec<Request> = self.requests.drain(..count).collect();
        if !requests.is_empty() {
            self.reports.extend(self.log.perform(requests));
        }
    }

    pub(super) fn report(&mut self, now: i64, most: usize, said: &mut Vec<Said>) {
        for _ in 0..most {
            let Some(report) = self.reports.pop_front() else {
                break;
            };
            match report {
                Report::Durable(end) => self.handle(now, Event::Durable { end }, said),
                Report::Failed => {
                    self.requests.push(Request::Resume);
                    self.handle(now, Event::AppendFailed, said);
                }
            }
        }
        if let Some(to) = self.compacted.take() {
            self.requests.push(Request::Release(to));
            self.handle(now, Event::Compacted { to }, said);
        }
    }

    /// A compaction that is under way comes to its end. Its plan makes sure that a crash changes nothing.
    pub(super) fn compact(&mut self) {
        let Some((from, to, snapshot)) = self.compaction.take() else {
            return;
        };
        match self.log.read(from..to) {
            Ok(entries) => {
                let ahead = u64::from(self.bug == Some(Bug::CheckpointAhead));
                let kept = entries.len().saturating_sub(ahead as usize);
                self.database.samples.extend(entries.into_iter().take(kept));
                self.database.checkpoint = Some((to, snapshot));
                self.compacted = Some(to);
            }
            Err(_) => self.compaction = Some((from, to, snapshot)),
        }
    }

    pub(super) fn is_idle(&self) -> bool {
        self.requests.is_empty() && self.reports.is_empty() && self.compaction.is_none() && self.compacted.is_none()
    }

    /// The hub is killed and starts again. What happens to the disk is for the caller to say.
    pub(super) fn restart(&mut self) {
        self.requests.clear();
        self.reports.clear();
        self.compaction = None;
        self.compacted = None;
        self.live.clear();
        (self.core, self.log) = start(&self.disk, &self.database);
    }

    /// Its disk and its database are copied.
    pub(super) fn back_up(&mut self) {
        self.backup = Some((self.disk.image(0), self.database.clone()));
    }

    /// The copies take the place of what they were made of; false if there are none. It is to be restarted then.
    pub(super) fn restore(&mut self) -> bool {
        let Some((disk, database)) = self.backup.clone() else {
            return false;
        };
        (self.disk, self.database) = (disk.image(0), database);
        true
    }

    /// Everything durable, in order: what was compacted, and the log after it.
    pub(super) fn entries(&mut self) -> Vec<(u64, Entry)> {
        let from = self.database.checkpoint.as_ref().map_or(0, |(to, _)| *to);
        let log = IngestLog::over(self.disk.image(0), SEGMENT_BYTES);
        let mut entries = self.database.samples.clone();
        if let Ok(mut log) = log {
            let end = log.end();
            entries.extend(log.read(from..end).expect("an image reads"));
        }
        entries
    }

    /// What the hub says of an agent's epoch: the first sequence that it does not have.
    pub(super) fn next_of(&self, agent: &AgentId, epoch: Epoch) -> Option<u64> {
        // The bugs that alter what an agent says are undone.
        let added = self.forgotten.get(agent).map_or(0, |(_, added)| *added);
        let skipped = self.skipped.get(agent).map_or(0, |(_, skipped)| *skipped);
        self.core.observed().next_of(&(agent.clone(), Epoch(epoch.0 + added))).map(|next| next.0 + skipped)
    }

    /// Readings that the hub has and that agents dropped, per stream, by its own account.
    pub(super) fn counts(&self) -> BTreeMap<(AgentId, String), (u64, u64)> {
        let streams = self.core.observed().streams();
        streams
            .map(|((agent, stream), facts)| {
                let dropped = facts.dropped.values().sum();
                ((agent.clone(), stream.to_string()), (facts.readings, dropped))
            })
            .collect()
    }

    fn handle(&mut self, now: i64, event: Event, said: &mut Vec<Said>) {
        let mut effects = Vec::new();
        self.core.handle(now, event, &mut effects);
        for effect in effects {
            self.perform(effect, said);
        }
    }

    fn perform(&mut self, effect: Effect, said: &mut Vec<Said>) {
        match effect {
            Effect::Append { agent, entry } => {
                self.requests.push(Request::Append(Entry { agent, entry }));
                if self.bug == Some(Bug::WatermarkNotDurable) {
                    let (appended, _, _) = self.core.positions();
                    self.reports.push_back(Report::Durable(appended));
                }
            }
            Effect::Send { connection, message } => {
                let message = self.unalter(connection, message);
                if let (Some(Bug::StageIgnored), HubToEdge::Offer(offer)) = (self.bug, &message) {
                    let others = self.live.keys().filter(|other| **other != connection);
                    said.extend(others.map(|other| Said::Message(*other, HubToEdge::Offer(offer.clone()))));
                }
                said.push(Said::Message(connection, message));
            }
            Effect::Close { connection } => said.push(Said::Close(connection)),
            Effect::Compact { from, to, snapshot } => self.compaction = Some((from, to, snapshot)),
            Effect::RecordAgent(facts) => drop(self.database.agents.insert(facts.agent.clone(), *facts)),
            Effect::SendPart { connection, digest, offset, .. } => {
                let bytes = models::PART_BYTES.min(models::PACKAGE_BYTES.saturating_sub(offset));
                let part = PackedPart::pack(&vec![7; bytes as usize], &[]).expect("packs");
                said.push(Said::Message(connection, HubToEdge::Chunk { digest, offset, base: None, part }));
            }
            Effect::RecordRelease(release, run) => {
                self.database.last_run = run.id;
                self.database.champion.get_or_insert(release.version);
                self.database.releases.push(*release);
            }
            Effect::RecordRollout(rollout) => {
                if rollout.state == RolloutState::Released {
                    self.database.champion = Some(rollout.version);
                }
                let is_forgotten = self.bug == Some(Bug::RolloutForgotten);
                if !is_forgotten || !self.database.rollouts.contains_key(&rollout.id) {
                    self.database.rollouts.insert(rollout.id, *rollout);
                }
            }
            Effect::Train(_) | Effect::RecordRun(_) | Effect::RecordDeployment { .. } | Effect::RecordDrift(_) => {}
            Effect::RecordAlarm(alarm) => drop(self.database.alarms.insert(alarm.id.clone(), alarm)),
        }
    }

    /// How much is added to the epoch an agent gives, so that what is known of it is forgotten.
    fn forget(&mut self, now: i64, connection: ConnectionId) -> u64 {
        let Some(agent) = self.live.get(&connection).filter(|_| self.bug == Some(Bug::DedupeByTimeWindow)) else {
            return 0;
        };
        let (heard, added) = self.forgotten.entry(agent.clone()).or_insert((now, 0));
        if now - *heard > WINDOW_MS {
            *added += 1;
        }
        *heard = now;
        *added
    }

    fn alter(&mut self, now: i64, connection: ConnectionId, entry: &mut SpoolEntry) {
        let Some(agent) = self.live.get(&connection) else {
            return;
        };
        if let Some((heard, added)) = self.forgotten.get_mut(agent) {
            *heard = now;
            match entry {
                SpoolEntry::Events(batch) => batch.epoch.0 += *added,
                SpoolEntry::Gap(gap) => gap.epoch.0 += *added,
            }
        }
        if self.bug == Some(Bug::HoleWithoutGapRecord) {
            let (expected, skipped) = self.skipped.entry(agent.clone()).or_insert((entry.first().0, 0));
            *skipped += entry.first().0.saturating_sub(*expected);
            *expected = entry.end().0.max(*expected);
            match entry {
                SpoolEntry::Events(batch) => batch.first.0 -= *skipped,
                SpoolEntry::Gap(gap) => gap.first.0 -= *skipped,
            }
        }
    }

    /// Undoes towards the agent what was altered.
    fn unalter(&self, connection: ConnectionId, message: HubToEdge) -> HubToEdge {
        let agent = self.live.get(&connection);
        let added = agent.and_then(|agent| self.forgotten.get(agent)).map_or(0, |(_, added)| *added);
        let skipped = agent.and_then(|agent| self.skipped.get(agent)).map_or(0, |(_, skipped)| *skipped);
        match message {
            HubToEdge::Acked { mut epoch, mut next } => {
                epoch.0 -= added;
                next.0 += skipped;
                HubToEdge::Acked { epoch, next }
            }
            HubToEdge::Welcome { mut next, mark, mut newest_epoch, time_ms } => {
                next.0 += skipped;
                newest_epoch.0 -= added.min(newest_epoch.0);
                // What was moved has another mark.
                let mark = mark.filter(|_| skipped == 0 && self.bug != Some(Bug::RestoredDiskMerged));
                HubToEdge::Welcome { next, mark, newest_epoch, time_ms }
            }
            other @ (HubToEdge::Offer(_)
            | HubToEdge::Shadow(_)
            | HubToEdge::Chunk { .. }
            | HubToEdge::Examine { .. }
            | HubToEdge::Refused { .. }) => other,
        }
    }
}

/// What `hub/start.rs` does with a real disk and database.
fn start(disk: &FakeDisk, database: &Database) -> (HubCore, IngestLog<FakeDisk>) {
    let mut log = IngestLog::over(disk.clone(), SEGMENT_BYTES).expect("the disk is well when the hub starts");
    let rules = CompactionRules { interval_ms: COMPACTION_MS };
    let snapshot = database.checkpoint.clone();
    let from = snapshot.as_ref().map_or(0, |(position, _)| *position);
    let (specs, releases) =
        (rollouts::specs(!database.releases.is_empty(), database.begins_in_shadow), database.releases.clone());
    let champions = database.champion.map(|version| (models::model(), version)).into_iter().collect();
    let (rollouts, last_run) = (database.rollouts.values().cloned().collect(), database.last_run);
    let (alarms, labels) = (database.alarms.values().cloned().collect(), Vec::new());
    let identities = IdentityBook::default();
    let start = Start { snapshot, releases, champions, rollouts, last_run, alarms, labels, identities };
    let mut core = HubCore::new(specs, rules, start).expect("its own snapshot");
    let end = log.end();
    for (position, entry) in log.read(from..end).expect("the disk is well") {
        core.replay(position, &entry.agent, &entry.entry);
    }
    core.replayed(end);
    core.remember(database.agents.values().cloned().collect(), Vec::new(), Vec::new());
    (core, log)
}
