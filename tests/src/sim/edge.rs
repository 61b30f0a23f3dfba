//! A box: an agent's core with its spool on a disk that fails, its state store, its inference and its broker.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use edge_agent::agent::start;
use edge_agent::core::shadow::ShadowStarts;
use edge_agent::core::spool::WhenFull;
use edge_agent::core::{Checkpoint, EdgeCore, Effect, Event, MessageContent, Millis, Received, Settings, SlotState};
use edge_agent::spool::{Opened, Request, Spool};
use edge_agent::store::Remembered;
use shared::event::{Event as StoredEvent, GapReason, ModelRef, SpoolEntry};
use shared::ids::{AgentId, Digest, Epoch, Sequence};
use shared::seglog::Storage;
use shared::seglog::fake::FakeDisk;
use shared::seglog::record::{RECORD_HEADER_BYTES, SEGMENT_HEADER_BYTES};

use super::broker::{Broker, RECEIVE_MAXIMUM};
use super::bugs::Bug;
use super::errors;
use super::link::{Command, Link};
use super::models::{self, Shelf, Worked, Worker};
use super::random::Random;

/// Bytes of a segment: a few commits.
const SEGMENT_BYTES: u64 = 2 * 1024;
/// Bytes of a spool that is never full.
const ROOMY_BYTES: u64 = 64 * 1024 * 1024;
/// Bytes of one that soon is.
const CRAMPED_BYTES: u64 = 32 * 1024;

/// A box.
pub(super) struct EdgeBox {
    pub(super) name: AgentId,
    pub(super) broker: Broker,
    pub(super) link: Link,
    pub(super) disk: FakeDisk,
    pub(super) core: EdgeCore,
    spool: Spool<FakeDisk>,
    /// When it booted, by the world's clock.
    booted: Millis,
    /// How wrong its wall clock is.
    pub(super) clock_error_ms: i64,
    received: VecDeque<Received>,
    requests: Vec<Request>,
    answers: VecDeque<Event>,
    state: State,
    shelf: Shelf,
    worker: Worker,
    /// How often each package ended the agent.
    pub(super) ended: BTreeMap<Digest, u32>,
    /// Every package that served here.
    pub(super) served: BTreeSet<Digest>,
    settings: Settings,
    bug: Option<Bug>,
    /// Its disk and its state store, as they once were.
    backup: Option<(FakeDisk, Remembered)>,
    boots: u64,
    seed: u64,
    /// What it sends to the hub goes nowhere.
    pub(super) partitioned: bool,
    /// Effects until the agent is killed.
    pub(super) killed_after: Option<u8>,
    /// Since when something new waits to be shown to the hub ahead of a backlog.
    pub(super) unshown_since: Option<Millis>,
}

/// The state store, and what is on its way to it.
#[derive(Debug, Default)]
struct State {
    durable: Remembered,
    requests: VecDeque<StateRequest>,
    /// Packages that were durably ruled out, also by slots that are replaced since.
    ruled_out: BTreeSet<Digest>,
}

/// A write to the state store.
#[derive(Debug)]
enum StateRequest {
    Checkpoint(Checkpoint),
    Slot(SlotState),
    Floor(ModelRef),
    Shadow(Option<ShadowStarts>),
}

/// What a box does that others must know of.
#[derive(Debug)]
pub(super) enum Seen {
    /// An entry was handed to the disk.
    Appended(SpoolEntry),
    /// Events were dropped, and a gap record took their place.
    Dropped,
    /// A package that was remembered is not on the disk.
    PackageMissing(Digest),
}

impl Seen {
    /// Readings that were let go.
    pub(super) fn shed(&self) -> u64 {
        match self {
            Self::Appended(SpoolEntry::Events(batch)) => batch.shed().map(|shed| shed.ids.len() as u64).sum(),
            Self::Appended(SpoolEntry::Gap(_)) | Self::Dropped | Self::PackageMissing(_) => 0,
        }
    }
}

impl EdgeBox {
    pub(super) fn new(index: usize, seed: u64, is_cramped: bool, bug: Option<Bug>, seen: &mut Vec<Seen>) -> Self {
        let disk = FakeDisk::new(seed, 1 << 30);
        let mut state = State::default();
        state.durable.slot.serving = Some(models::first());
        let shelf = Shelf::new();
        let settings = Settings {
            agent_version: "simulated".to_owned(),
            boot_nonce: seed,
            device: "flex".to_owned(),
            pinned: None,
            safe_mode: None,
            max_answer_us: 1_000_000,
            has_hub: true,
            commit_delay_ms: 20,
            spool_max_bytes: if is_cramped { CRAMPED_BYTES } else { ROOMY_BYTES },
            when_full: if is_cramped && seed % 8 < 6 { WhenFull::DropOldest } else { WhenFull::Block },
            receive_maximum: RECEIVE_MAXIMUM,
        };
        let (spool, core, effects) = boot(&disk, &mut state, &shelf, &settings, 0, bug, seed);
        let mut edge = Self {
            name: AgentId::new(&format!("box-{index}")).expect("valid"),
            broker: Broker::new(index),
            link: Link::default(),
            disk,
            core,
            spool,
            booted: Millis(0),
            clock_error_ms: 0,
            received: VecDeque::new(),
            requests: Vec::new(),
            answers: VecDeque::new(),
            state,
            shelf,
            worker: Worker::default(),
            ended: BTreeMap::new(),
            served: BTreeSet::new(),
            settings,
            bug,
            backup: None,
            boots: 0,
            seed,
            partitioned: false,
            killed_after: None,
            unshown_since: None,
        };
        edge.broker.takes_stale = bug == Some(Bug::StaleGenerationAck);
        edge.perform(effects, seen);
        edge
    }

    pub(super) fn spool_limit(&self) -> u64 {
        self.settings.spool_max_bytes
    }

    /// The box's own time.
    pub(super) fn uptime(&self, now: Millis) -> Millis {
        Millis(now.0.saturating_sub(self.booted.0))
    }

    /// When the core wants to be called, by the world's clock.
    pub(super) fn due_at(&self) -> Option<Millis> {
        self.core.poll_timeout().map(|at| at.plus(self.booted.0))
    }

    /// Whether it was killed between two effects, and waits to be started again.
    pub(super) fn is_dead(&self) -> bool {
        self.killed_after == Some(0)
    }

    pub(super) fn epoch(&self) -> Epoch {
        self.spool.epoch()
    }

    pub(super) fn next(&self) -> Sequence {
        self.spool.next()
    }

    pub(super) fn handle(&mut self, now: Millis, event: Event, seen: &mut Vec<Seen>) {
        if self.is_dead() {
            return;
        }
        let brings_news = matches!(&event, Event::Received(messages) if messages.iter().any(is_certainly_new));
        let showed_live = self.core.shows_live();
        let mut effects = Vec::new();
        self.core.handle(self.uptime(now), event, &mut effects);
        if brings_news && showed_live {
            self.unshown_since.get_or_insert(now);
        }
        self.perform(effects, seen);
        if !self.core.shows_live() {
            self.unshown_since = None;
        }
        self.served.extend(self.core.serving().map(|serving| serving.digest));
    }

    /// Messages arrive from the broker.
    pub(super) fn receive(&mut self, most: usize, random: &mut Random) {
        let messages = self.broker.deliver(most, random);
        self.received.extend(messages);
    }

    /// The core takes messages in.
    pub(super) fn take_messages(&mut self, now: Millis, most: usize, seen: &mut Vec<Seen>) {
        if self.core.wants_messages() && !self.received.is_empty() && !self.is_dead() {
            let count = most.min(self.received.len());
            let messages = self.received.drain(..count).collect();
            self.handle(now, Event::Received(messages), seen);
        }
    }

    /// The disk works off what was asked for.
    pub(super) fn work_disk(&mut self, random: &mut Random, seen: &mut Vec<Seen>) {
        let count = random.below(self.requests.len() + 1).max(usize::from(!self.requests.is_empty()));
        let requests: Vec<Request> = self.requests.drain(..count).collect();
        if requests.is_empty() || self.is_dead() {
            return;
        }
        let appended: Vec<SpoolEntry> = requests.iter().filter_map(appended).collect();
        let mut events = match self.bug {
            Some(Bug::GapNotSettled) => self.perform_without_settling(requests),
            Some(Bug::SilentDrop) => self.perform_and_drop_silently(requests),
            Some(Bug::DeleteBeforeHubAck) => {
                let mut events = self.spool.perform(requests);
                events.extend(self.spool.perform(vec![Request::Release(self.spool.next())]));
                events
            }
            _ => self.spool.perform(requests),
        };
        if self.bug == Some(Bug::FailedSyncTrusted) {
            trust(&mut events, appended.last());
        }
        if self.bug == Some(Bug::HoleWithoutGapRecord) {
            events.iter_mut().for_each(leave_out_damage);
        }
        for event in &events {
            if let Event::DroppedOldest { gap: Some(_), .. } = event {
                seen.push(Seen::Dropped);
            }
        }
        self.answers.extend(events);
    }

    fn perform_without_settling(&mut self, requests: Vec<Request>) -> Vec<Event> {
        let unsettled = |request| match request {
            Request::SettleGap { .. } => Request::SettleGap { through: Sequence(0) },
            other @ (Request::Append(_)
            | Request::Read { .. }
            | Request::Release(_)
            | Request::DropOldest { .. }
            | Request::UseEpoch(_)) => other,
        };
        self.spool.perform(requests.into_iter().map(unsettled).collect())
    }

    fn perform_and_drop_silently(&mut self, requests: Vec<Request>) -> Vec<Event> {
        let mut events = Vec::new();
        for request in requests {
            let drops = matches!(request, Request::DropOldest { .. });
            let mut performed = self.spool.perform(vec![request]);
            if drops {
                for event in &mut performed {
                    if let Event::DroppedOldest { gap, .. } = event {
                        *gap = None;
                    }
                }
            }
            events.extend(performed);
        }
        events
    }

    /// The state store makes one value durable.
    pub(super) fn work_state(&mut self) {
        match self.state.requests.pop_front() {
            None => {}
            Some(StateRequest::Checkpoint(checkpoint)) => {
                self.answers.push_back(Event::Checkpointed { epoch: checkpoint.epoch, acked: checkpoint.acked });
                self.state.durable.checkpoint = Some(checkpoint);
            }
            Some(StateRequest::Slot(slot)) => {
                self.state.ruled_out.extend(&slot.ruled_out);
                self.state.durable.slot = slot;
                self.answers.push_back(Event::Remembered);
            }
            Some(StateRequest::Floor(floor)) => self.state.durable.floor = Some(floor),
            Some(StateRequest::Shadow(starts)) => {
                self.state.durable.shadow = starts;
                self.answers.push_back(Event::ShadowNoted(starts));
            }
        }
    }

    /// Whether a package was given up here for good.
    pub(super) fn has_ruled_out(&self, digest: Digest) -> bool {
        self.state.ruled_out.contains(&digest)
    }

    /// Inference does one thing it was asked for. It may be the last that the agent does.
    pub(super) fn infer(&mut self) {
        match self.worker.work() {
            Worked::Nothing => {}
            Worked::Report(event) => self.answers.push_back(event),
            Worked::Ended(digest) => {
                *self.ended.entry(digest).or_default() += 1;
                self.killed_after = Some(0);
            }
        }
    }

    /// Hands the core at most `most` of its shells' reports.
    pub(super) fn report(&mut self, now: Millis, most: usize, seen: &mut Vec<Seen>) {
        for _ in 0..most {
            let Some(event) = self.answers.pop_front().or_else(|| self.link.answers.pop_front()) else {
                return;
            };
            self.handle(now, event, seen);
        }
    }

    pub(super) fn is_idle(&self) -> bool {
        let shells = self.requests.is_empty() && self.answers.is_empty() && self.state.requests.is_empty();
        shells && self.worker.is_idle() && self.link.is_idle() && self.broker.is_idle() && self.received.is_empty()
    }

    /// The agent is gone, and what it held in memory. What happens to the disk is for the caller to say.
    pub(super) fn die(&mut self) {
        self.received.clear();
        self.requests.clear();
        self.answers.clear();
        self.worker = Worker::default();
        self.state.requests.clear();
        self.broker.disconnect();
        self.killed_after = None;
        self.unshown_since = None;
    }

    /// Dies while it writes what waits to be written; the machine goes on.
    pub(super) fn die_writing(&mut self) {
        let requests = std::mem::take(&mut self.requests);
        self.disk.kill_in_append();
        drop(self.spool.perform(requests));
        self.disk.restart();
        // What a program says once it is dead nobody hears.
        drop(errors::take());
        self.die();
    }

    /// Damages the last bytes of the newest segment.
    pub(super) fn rot_tail(&mut self) {
        let newest = self.disk.list().ok().and_then(|names| names.into_iter().max());
        if let Some(name) = newest
            && let Some(mut bytes) = self.disk.contents(&name)
            && bytes.len() > 60
        {
            let at = bytes.len() - 10;
            bytes[at] ^= 1;
            if self.bug == Some(Bug::SequenceReused) {
                // What a log would do that cuts a torn tail off and goes on where it was.
                bytes.truncate(start_of_last_record(&bytes));
            }
            self.disk.put(&name, &bytes);
        }
    }

    /// Every segment is gone.
    pub(super) fn lose_spool(&mut self) {
        for name in self.disk.list().unwrap_or_default() {
            self.disk.lose(&name);
        }
    }

    /// Its disk and its state store are copied.
    pub(super) fn back_up(&mut self) {
        self.backup = Some((self.disk.image(0), self.state.durable.clone()));
    }

    /// The copies take the place of what they were made of; false if there are none. The agent is to be killed then.
    pub(super) fn restore(&mut self) -> bool {
        let Some((disk, durable)) = self.backup.clone() else {
            return false;
        };
        (self.disk, self.state.durable) = (disk.image(0), durable);
        true
    }

    /// Whether messages wait at a spool that takes nothing in.
    pub(super) fn is_blocked(&self) -> bool {
        !self.core.wants_messages()
    }

    /// The state store is gone.
    pub(super) fn lose_state(&mut self) {
        let slot = std::mem::take(&mut self.state.durable.slot);
        self.state.durable = Remembered { slot, ..Remembered::default() };
    }

    /// Starts the agent again.
    pub(super) fn boot(&mut self, now: Millis, seen: &mut Vec<Seen>) {
        self.boots += 1;
        self.booted = now;
        self.broker.connect();
        self.settings.boot_nonce = self.settings.boot_nonce.wrapping_add(1);
        let seed = self.seed.wrapping_add(self.boots);
        let wall_ms = now.0 as i64 + self.clock_error_ms;
        let (spool, core, effects) =
            boot(&self.disk, &mut self.state, &self.shelf, &self.settings, wall_ms, self.bug, seed);
        (self.spool, self.core) = (spool, core);
        self.perform(effects, seen);
    }

    /// Every entry in the spool, read anew from the disk.
    pub(super) fn spooled(&self) -> Vec<SpoolEntry> {
        let mut spool = Opened::over(self.disk.image(0), SEGMENT_BYTES).expect("opens").settle(self.epoch());
        let mut entries = Vec::new();
        spool.scan(Sequence(0), |entry| entries.push(entry.clone())).expect("reads");
        entries
    }

    fn perform(&mut self, effects: Vec<Effect>, seen: &mut Vec<Seen>) {
        for effect in effects {
            match &mut self.killed_after {
                Some(0) => return,
                Some(left) => *left -= 1,
                None => {}
            }
            self.perform_one(effect, seen);
        }
    }

    fn perform_one(&mut self, effect: Effect, seen: &mut Vec<Seen>) {
        match effect {
            Effect::Append(mut entry) => {
                seen.push(Seen::Appended(entry.clone()));
                if let (Some(Bug::ShedUncounted), SpoolEntry::Events(batch)) = (self.bug, &mut entry) {
                    batch.events.iter_mut().for_each(|event| {
                        if let StoredEvent::Shed(shed) = event {
                            shed.ids.truncate(1);
                        }
                    });
                }
                if self.bug == Some(Bug::AckBeforeDurable) {
                    self.answers.push_back(Event::Durable { end: entry.end(), spool_bytes: self.spool.bytes() });
                }
                self.requests.push(Request::Append(entry));
            }
            Effect::Acknowledge(receipt) => self.broker.acknowledge(receipt),
            Effect::Infer(questions) => self.worker.ask(questions),
            Effect::Publish(predictions) => assert!(!predictions.is_empty()),
            Effect::ReadSpool { from, entries } => self.requests.push(Request::Read { from, entries }),
            Effect::Release(before) => self.requests.push(Request::Release(before)),
            Effect::DropOldest { acked, full_bytes } => self.requests.push(Request::DropOldest { acked, full_bytes }),
            Effect::UseEpoch(epoch) => self.requests.push(Request::UseEpoch(epoch)),
            Effect::SettleGap { through } => self.requests.push(Request::SettleGap { through }),
            Effect::Checkpoint(checkpoint) => self.state.requests.push_back(StateRequest::Checkpoint(checkpoint)),
            Effect::Dial => self.link.commands.push_back(Command::Dial),
            Effect::Hangup => self.link.commands.push_back(Command::Hangup),
            Effect::Send(message) => self.link.commands.push_back(Command::Send(Box::new(message))),
            Effect::Show(picture) => {
                if self.bug != Some(Bug::BacklogStarvesLive) || !self.link.has_backlog() {
                    self.link.show(picture);
                    self.unshown_since = None;
                }
            }
            Effect::Load { model, .. } if self.shelf.complete(model.digest) => self.worker.load(model),
            Effect::Load { model, .. } => seen.push(Seen::PackageMissing(model.digest)),
            Effect::StorePart { digest, offset, part, .. } => self.shelf.store(digest, offset, part.raw_bytes()),
            Effect::Discard(digest) => self.shelf.discard(digest),
            Effect::Remember(slot) => self.state.requests.push_back(StateRequest::Slot(slot)),
            Effect::Prune(mut slot) => {
                slot.previous.take_if(|_| self.bug == Some(Bug::PreviousPruned));
                self.shelf.prune(&slot, self.core.shadow().digest());
            }
            Effect::RememberFloor(floor) => self.state.requests.push_back(StateRequest::Floor(floor)),
            // Whoever asks how a box is changes nothing of what is simulated.
            Effect::SaveMemory(_) | Effect::Examine { .. } => {}
            Effect::NoteShadow(starts) => self.state.requests.push_back(StateRequest::Shadow(starts)),
            Effect::LoadShadow { model, .. } if self.shelf.complete(model.digest) => {
                self.worker.load_shadow(model.digest);
            }
            Effect::LoadShadow { model, .. } => seen.push(Seen::PackageMissing(model.digest)),
            Effect::EndShadow => self.worker.end_shadow(),
        }
    }
}

/// What `agent/start.rs` does with real disks.
fn boot(
    disk: &FakeDisk,
    state: &mut State,
    shelf: &Shelf,
    settings: &Settings,
    wall_ms: i64,
    bug: Option<Bug>,
    seed: u64,
) -> (Spool<FakeDisk>, EdgeCore, Vec<Effect>) {
    let opened = Opened::over(disk.clone(), SEGMENT_BYTES).expect("the disk is well when a box boots");
    let epoch = match state.durable.epoch {
        Some(epoch) if bug == Some(Bug::EpochNotRaised) => epoch,
        _ => start::epoch(&opened, &state.durable, wall_ms),
    };
    state.durable.epoch = Some(epoch);
    let (spool, mut start) = start::resume(opened, epoch, state.durable.clone(), &mut None).expect("the disk is well");
    start.partial = shelf.partial();
    match bug {
        Some(Bug::TrialNotCounted) => start.slot.trial_starts = start.slot.trial_starts.map(|_| 1),
        Some(Bug::ShadowNotCounted) => start.shadow = None,
        Some(Bug::RuledOutForgotten) => start.slot.ruled_out.clear(),
        _ => {}
    }
    if bug == Some(Bug::RedeliveryForgotten) {
        start.recent_ids.clear();
    }
    if bug == Some(Bug::LedgerMiscount)
        && let Some(checkpoint) = &start.checkpoint
    {
        for (stream, settled) in &checkpoint.settled {
            *start.pending.entry(stream.clone()).or_default() += settled.delivered.min(1);
        }
    }
    let (core, effects) = EdgeCore::new(settings.clone(), start, seed);
    (spool, core, effects)
}

/// Whether a message holds a reading that cannot have come before.
fn is_certainly_new(message: &Received) -> bool {
    matches!(&message.content, MessageContent::Reading(reading) if !reading.named_by_producer && !reading.may_be_redelivered)
}

fn start_of_last_record(bytes: &[u8]) -> usize {
    let mut start = SEGMENT_HEADER_BYTES;
    // The length stands behind the four bytes that every record begins with.
    while let Some(length) = bytes.get(start + 4..).and_then(|rest| rest.first_chunk()) {
        let end = start + RECORD_HEADER_BYTES + u32::from_le_bytes(*length) as usize;
        if end >= bytes.len() {
            break;
        }
        start = end;
    }
    start
}

fn appended(request: &Request) -> Option<SpoolEntry> {
    match request {
        Request::Append(entry) => Some(entry.clone()),
        Request::Read { .. }
        | Request::Release(_)
        | Request::DropOldest { .. }
        | Request::UseEpoch(_)
        | Request::SettleGap { .. } => None,
    }
}

/// What failed is reported as durable.
fn trust(events: &mut Vec<Event>, last: Option<&SpoolEntry>) {
    let Some(last) = last else {
        return;
    };
    let before = events.len();
    events.retain(|event| !matches!(event, Event::AppendFailed(_)));
    if events.len() < before {
        for event in events {
            if let Event::Durable { end, .. } = event {
                *end = (*end).max(last.end());
            }
        }
    }
}

fn leave_out_damage(event: &mut Event) {
    if let Event::SpoolRead { entries, .. } = event {
        entries.retain(|spooled| !matches!(&spooled.entry, SpoolEntry::Gap(gap) if gap.reason == GapReason::Damaged));
    }
}
