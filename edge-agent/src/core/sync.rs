//! The conversation with the hub: dial, greet, send what is durable within the window, move on with the acks.
//!
//! Either side may have gone back in time. A hub that lost data gets again what the spool still holds, and a gap record for the
//! rest. A box that was restored or copied finds that the hub has more than it, or something else: it goes on in an epoch
//! of its own, so that two histories are never merged.

use std::collections::VecDeque;

use shared::event::{Gap, GapReason, SpoolEntry};
use shared::ids::{Epoch, ModelVersion, Sequence};
use shared::limits::MAX_BATCHES_IN_FLIGHT;
use shared::wire::PROTOCOL_VERSION;
use shared::wire::message::{AgentStatus, EdgeToHub, Hello, PackedEntry, ServedModel};

use super::backoff::Backoff;
use super::ledger::Tally;
use super::limits::{
    ACK_TIMEOUT_MS, BACKOFF_FIRST_MS, BACKOFF_LONGEST_MS, ENTRIES_AT_ONCE, GREETING_TIMEOUT_MS, READ_RETRY_MS,
    STABLE_AFTER_MS, STATUS_INTERVAL_MS, STATUS_REPEAT_MS,
};
use super::{Effect, Millis, Settings, SpooledEntry, Start};

/// The session with the hub.
#[derive(Debug)]
pub struct SyncSession {
    state: State,
    backoff: Backoff,
    epoch: Epoch,
    /// The first sequence of the epoch.
    base: Sequence,
    /// Everything before it is acknowledged, and counted as delivered.
    acked: Sequence,
    /// Everything before it is durable.
    durable: Sequence,
    /// The first sequence that was not sent in this session.
    unsent: Sequence,
    /// What the hub said it has; what lies before it is counted as delivered without being sent.
    known_at_hub: Sequence,
    in_flight: VecDeque<Delivered>,
    /// From where on the spool is being read.
    reading: Option<Sequence>,
    /// The spool could not be read; not before this time again.
    read_at: Option<Millis>,
    problem: Option<String>,
    /// The epoch to go on in, once that is durable.
    wanted_epoch: Option<Epoch>,
    /// The last status of this session, and when it was sent.
    said: Option<(Millis, AgentStatus)>,
    hello: HelloParts,
}

#[derive(Debug)]
struct HelloParts {
    agent_version: String,
    boot_nonce: u64,
    pinned: Option<ModelVersion>,
    device: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// There is no hub.
    Alone,
    Waiting {
        until: Millis,
    },
    Dialling,
    /// `Hello` was sent.
    Greeting {
        deadline: Millis,
    },
    /// The hub has more than it acknowledged. Whether it is what this spool holds is being read.
    Comparing {
        next: Sequence,
        mark: u32,
        newest_epoch: Epoch,
        deadline: Millis,
    },
    Live {
        status_at: Millis,
        ack_deadline: Option<Millis>,
    },
    /// The agent asked for the connection to be closed.
    Closing,
}

/// What the hub says as it greets.
#[derive(Debug, Clone, Copy)]
pub(super) struct Welcome {
    pub(super) next: Sequence,
    pub(super) mark: Option<u32>,
    pub(super) newest_epoch: Epoch,
}

/// An entry that the hub has or will have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delivered {
    /// The sequence after its last event.
    pub end: Sequence,
    /// What it holds.
    pub content: Content,
}

/// What an entry that is delivered holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// Readings, and readings that were let go.
    Readings(Tally),
    /// What was dropped from the spool after it was sent.
    Dropped,
    /// A gap.
    Gap(GapReason),
}

impl SyncSession {
    pub(super) fn new(settings: &Settings, start: &Start, acked: Sequence, seed: u64) -> Self {
        Self {
            state: if settings.has_hub { State::Waiting { until: Millis(0) } } else { State::Alone },
            backoff: Backoff::new(BACKOFF_FIRST_MS, BACKOFF_LONGEST_MS, STABLE_AFTER_MS, seed),
            epoch: start.epoch,
            base: start.base(),
            acked,
            durable: start.next,
            unsent: acked,
            known_at_hub: acked,
            in_flight: VecDeque::new(),
            reading: None,
            read_at: None,
            problem: None,
            wanted_epoch: None,
            said: None,
            hello: HelloParts {
                agent_version: settings.agent_version.clone(),
                boot_nonce: settings.boot_nonce,
                pinned: settings.pinned,
                device: settings.device.clone(),
            },
        }
    }

    pub(super) fn is_live(&self) -> bool {
        matches!(self.state, State::Live { .. })
    }

    pub(super) fn problem(&self) -> Option<&str> {
        self.problem.as_deref()
    }

    pub(super) fn acked_through(&self) -> Sequence {
        self.acked
    }

    /// Everything before it is at the hub, as far as is known: it may have lost what it acknowledged.
    pub(super) fn held_by_hub(&self) -> Sequence {
        self.acked.min(self.known_at_hub)
    }

    pub(super) fn base(&self) -> Sequence {
        self.base
    }

    pub(super) fn durable(&mut self, end: Sequence) {
        self.durable = self.durable.max(end);
    }

    pub(super) fn link_up(&mut self, now: Millis, serving: Option<&ServedModel>, effects: &mut Vec<Effect>) {
        self.state = State::Greeting { deadline: now.plus(GREETING_TIMEOUT_MS) };
        effects.push(Effect::Send(EdgeToHub::Hello(Hello {
            protocol: PROTOCOL_VERSION,
            agent_version: self.hello.agent_version.clone(),
            epoch: self.epoch,
            boot_nonce: self.hello.boot_nonce,
            base: self.base,
            serving: serving.cloned(),
            pinned: self.hello.pinned,
            device: self.hello.device.clone(),
        })));
    }

    pub(super) fn link_down(&mut self, now: Millis) {
        self.backoff.disconnected(now);
        if !matches!(self.state, State::Waiting { .. }) {
            self.state = State::Waiting { until: now.plus(self.backoff.next_ms()) };
        }
        self.in_flight.clear();
        self.unsent = self.acked;
        self.known_at_hub = self.acked;
    }

    pub(super) fn welcome(&mut self, now: Millis, welcome: Welcome, effects: &mut Vec<Effect>) {
        let Welcome { next, mark, newest_epoch } = welcome;
        if self.is_live() {
            self.hang_up("the hub greeted twice", effects);
            return;
        }
        if !matches!(self.state, State::Greeting { .. }) {
            // It was hung up on, and its greeting was on its way.
            return;
        }
        if next > self.durable {
            let problem = format!(
                "the hub has events up to {next} of epoch {}, this spool ends at {}: its disk was restored or copied",
                self.epoch, self.durable
            );
            self.go_on_in_another_epoch(newest_epoch, &problem, effects);
            return;
        }
        match mark {
            Some(mark) if next > self.acked => {
                let deadline = now.plus(GREETING_TIMEOUT_MS);
                self.state = State::Comparing { next, mark, newest_epoch, deadline };
                self.known_at_hub = next;
            }
            Some(_) | None => self.go_live(now, next),
        }
    }

    fn go_live(&mut self, now: Millis, next: Sequence) {
        self.problem = (next < self.acked).then(|| {
            format!(
                "the hub acknowledged events up to {} of epoch {} and had them only up to {next}: they are sent again",
                self.acked, self.epoch
            )
        });
        self.said = None;
        self.known_at_hub = next;
        self.unsent = self.acked.min(next);
        self.read_at = None;
        self.backoff.connected(now);
        self.state = State::Live { status_at: now, ack_deadline: None };
    }

    /// Compares what the hub has last with the entry that ends there. A gap or damage tells nothing.
    fn compare(&mut self, now: Millis, entries: &[SpooledEntry], effects: &mut Vec<Effect>) {
        let State::Comparing { next, mark, newest_epoch, .. } = self.state else {
            return;
        };
        let Some(SpooledEntry { entry, .. }) = entries.first() else {
            self.read_at = Some(now.plus(READ_RETRY_MS));
            return;
        };
        match entry.mark() {
            Some(own) if own != mark || entry.end() != next => {
                let problem = format!(
                    "the hub has other events before {next} of epoch {} than this spool: its disk was restored or copied",
                    self.epoch
                );
                self.go_on_in_another_epoch(newest_epoch, &problem, effects);
            }
            Some(_) | None => self.go_live(now, next),
        }
    }

    /// What this spool holds and the hub has not acknowledged is delivered under an epoch that nobody used.
    fn go_on_in_another_epoch(&mut self, newest: Epoch, problem: &str, effects: &mut Vec<Effect>) {
        let epoch = Epoch(newest.max(self.epoch).0.saturating_add(1));
        self.wanted_epoch = Some(epoch);
        self.hang_up(&format!("{problem}; it goes on as epoch {epoch}"), effects);
    }

    /// The epoch that is to be made durable now, before the hub is dialled again.
    pub(super) fn epoch_due(&mut self, now: Millis) -> Option<Epoch> {
        let wanted = self.wanted_epoch?;
        match self.state {
            State::Waiting { until } if until <= now => {
                self.state = State::Waiting { until: now.plus(self.backoff.next_ms()) };
                Some(wanted)
            }
            State::Waiting { .. }
            | State::Alone
            | State::Dialling
            | State::Greeting { .. }
            | State::Comparing { .. }
            | State::Live { .. }
            | State::Closing => None,
        }
    }

    /// The epoch is durable.
    pub(super) fn epoch_raised(&mut self, now: Millis, epoch: Epoch) {
        self.epoch = epoch;
        self.base = self.acked;
        self.wanted_epoch = None;
        if let State::Waiting { until } = &mut self.state {
            *until = now;
        }
    }

    /// Takes an ack and says which batches it delivered.
    pub(super) fn acked(&mut self, epoch: Epoch, next: Sequence, effects: &mut Vec<Effect>) -> Vec<Delivered> {
        if epoch != self.epoch || !self.is_live() {
            return Vec::new();
        }
        if next > self.unsent {
            self.hang_up(&format!("the hub acknowledged up to {next}, sent was up to {}", self.unsent), effects);
            return Vec::new();
        }
        self.known_at_hub = self.known_at_hub.max(next);
        if let State::Live { ack_deadline, .. } = &mut self.state {
            *ack_deadline = None;
        }
        self.take_delivered()
    }

    pub(super) fn refused(&mut self, now: Millis, reason: &str, retry_after_ms: u64, effects: &mut Vec<Effect>) {
        self.problem = Some(format!("the hub refuses this agent: {reason}"));
        self.in_flight.clear();
        let wait = retry_after_ms.clamp(BACKOFF_FIRST_MS, BACKOFF_LONGEST_MS);
        self.state = State::Waiting { until: now.plus(wait) };
        effects.push(Effect::Hangup);
    }

    /// Takes entries of the spool, which holds nothing before `oldest`.
    pub(super) fn spool_read(
        &mut self,
        now: Millis,
        oldest: Sequence,
        entries: Vec<SpooledEntry>,
        effects: &mut Vec<Effect>,
    ) {
        let asked = self.reading.take();
        if let State::Comparing { next, .. } = self.state
            && asked.is_some_and(|asked| asked.plus(1) == next)
        {
            self.compare(now, &entries, effects);
            return;
        }
        if !self.is_live() {
            return;
        }
        let unsent = self.unsent;
        if unsent < oldest && !self.send_gap(oldest, effects) {
            return;
        }
        for SpooledEntry { encoded, entry } in entries {
            // A reconnect while the read was under way starts over from `acked`; what does not follow is read again.
            if entry.first() > self.unsent || entry.end() <= self.unsent {
                continue;
            }
            let content = match &entry {
                SpoolEntry::Events(batch) => Content::Readings(Tally::of(batch, self.acked)),
                SpoolEntry::Gap(gap) => {
                    if self.must_wait(gap, effects) {
                        break;
                    }
                    Content::Gap(gap.reason)
                }
            };
            if !self.send(entry.end(), content, &encoded, effects) {
                return;
            }
        }
        if self.unsent == unsent && asked == Some(unsent) {
            self.read_at = Some(now.plus(READ_RETRY_MS));
        }
    }

    /// The hub lost what the spool has given back.
    fn send_gap(&mut self, oldest: Sequence, effects: &mut Vec<Effect>) -> bool {
        let count = u32::try_from(oldest.0 - self.unsent.0).unwrap_or(u32::MAX);
        let gap = Gap::unknown(self.epoch, self.unsent, count, GapReason::HubLost);
        let (end, content) = (gap.end(), Content::Gap(gap.reason));
        match SpoolEntry::Gap(gap).encode() {
            Ok(encoded) => self.send(end, content, &encoded, effects),
            Err(error) => {
                self.hang_up(&format!("a gap could not be encoded: {error}"), effects);
                false
            }
        }
    }

    /// Sends an entry, unless the hub has it; false if the connection is given up.
    fn send(&mut self, end: Sequence, content: Content, encoded: &[u8], effects: &mut Vec<Effect>) -> bool {
        self.unsent = end;
        self.in_flight.push_back(Delivered { end, content });
        if end <= self.known_at_hub {
            return true;
        }
        match PackedEntry::pack(encoded) {
            Ok(packed) => effects.push(Effect::Send(EdgeToHub::Entry(packed))),
            Err(error) => {
                self.hang_up(&format!("an entry could not be compressed: {error}"), effects);
                return false;
            }
        }
        true
    }

    /// Events made room for newer ones. Those that were sent already may still arrive.
    pub(super) fn dropped(&mut self, gap: &Gap) {
        for sent in self.in_flight.iter_mut().filter(|sent| sent.end <= gap.end()) {
            if let Content::Readings(_) = sent.content {
                sent.content = Content::Dropped;
            }
        }
    }

    /// It was noted what the hub has of a gap.
    pub(super) fn gap_settled(&mut self) {
        self.read_at = None;
    }

    /// The hub must not hear of a gap before it is settled what it has of it. So what was sent before is waited for, and
    /// what the hub has is noted.
    fn must_wait(&self, gap: &Gap, effects: &mut Vec<Effect>) -> bool {
        if gap.is_settled() {
            return false;
        }
        if self.in_flight.is_empty() {
            effects.push(Effect::SettleGap { through: self.known_at_hub });
        }
        true
    }

    pub(super) fn status_due(&mut self, now: Millis) -> bool {
        match &mut self.state {
            State::Live { status_at, .. } if *status_at <= now => {
                *status_at = now.plus(STATUS_INTERVAL_MS);
                true
            }
            State::Live { .. }
            | State::Alone
            | State::Waiting { .. }
            | State::Dialling
            | State::Greeting { .. }
            | State::Comparing { .. }
            | State::Closing => false,
        }
    }

    /// Whether the hub must hear of it: it changed, or the hub was not told for a while.
    pub(super) fn is_news(&mut self, now: Millis, status: &AgentStatus) -> bool {
        let is_known = self.said.as_ref().is_some_and(|(at, said)| said == status && now < at.plus(STATUS_REPEAT_MS));
        if !is_known {
            self.said = Some((now, status.clone()));
        }
        !is_known
    }

    pub(super) fn poll_timeout(&self) -> Option<Millis> {
        match self.state {
            State::Alone | State::Dialling | State::Closing => None,
            State::Waiting { until } => Some(until),
            State::Greeting { deadline } => Some(deadline),
            State::Comparing { deadline, .. } => [Some(deadline), self.read_at].into_iter().flatten().min(),
            State::Live { status_at, ack_deadline, .. } => {
                [Some(status_at), ack_deadline, self.read_at].into_iter().flatten().min()
            }
        }
    }

    /// What is due; returns batches that turned out to be at the hub already.
    pub(super) fn poll(&mut self, now: Millis, effects: &mut Vec<Effect>) -> Vec<Delivered> {
        match self.state {
            State::Waiting { until } if until <= now && self.wanted_epoch.is_none() => {
                self.state = State::Dialling;
                effects.push(Effect::Dial);
            }
            State::Greeting { deadline } if deadline <= now => self.hang_up("the hub did not greet", effects),
            State::Comparing { deadline, .. } if deadline <= now => {
                self.hang_up("what the hub has could not be compared with the spool", effects);
            }
            State::Comparing { next, .. } => {
                self.read_at = self.read_at.filter(|at| *at > now);
                if self.reading.is_none() && self.read_at.is_none() {
                    let from = Sequence(next.0.saturating_sub(1));
                    self.reading = Some(from);
                    effects.push(Effect::ReadSpool { from, entries: 1 });
                }
            }
            State::Live { ack_deadline: Some(deadline), .. } if deadline <= now => {
                self.hang_up("the hub stopped acknowledging", effects);
            }
            State::Live { .. } => return self.keep_sending(now, effects),
            State::Waiting { .. } | State::Greeting { .. } | State::Alone | State::Dialling | State::Closing => {}
        }
        Vec::new()
    }

    fn keep_sending(&mut self, now: Millis, effects: &mut Vec<Effect>) -> Vec<Delivered> {
        let delivered = self.take_delivered();
        self.read_at = self.read_at.filter(|at| *at > now);
        let room = MAX_BATCHES_IN_FLIGHT.saturating_sub(self.in_flight.len());
        if room > 0 && self.reading.is_none() && self.read_at.is_none() && self.unsent < self.durable {
            self.reading = Some(self.unsent);
            effects.push(Effect::ReadSpool { from: self.unsent, entries: room.min(ENTRIES_AT_ONCE) });
        }
        if let State::Live { ack_deadline, .. } = &mut self.state {
            if self.in_flight.is_empty() {
                *ack_deadline = None;
            } else {
                ack_deadline.get_or_insert(now.plus(ACK_TIMEOUT_MS));
            }
        }
        delivered
    }

    fn take_delivered(&mut self) -> Vec<Delivered> {
        let mut delivered = Vec::new();
        while self.in_flight.front().is_some_and(|batch| batch.end <= self.known_at_hub) {
            delivered.extend(self.in_flight.pop_front());
        }
        if let Some(last) = delivered.last() {
            self.acked = self.acked.max(last.end);
            self.read_at = None;
        }
        delivered
    }

    fn hang_up(&mut self, problem: &str, effects: &mut Vec<Effect>) {
        self.problem = Some(problem.to_owned());
        self.state = State::Closing;
        effects.push(Effect::Hangup);
    }
}
