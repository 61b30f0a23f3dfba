//! What became of every reading: `accepted = delivered + pending + dropped`, per stream.

use std::collections::{BTreeMap, VecDeque};

use serde::{Deserialize, Serialize};
use shared::event::{EventBatch, Fate, Gap, GapReason};
use shared::ids::{Sequence, StreamId};
use shared::wire::message::StreamLedger;

/// The ledger of one agent.
#[derive(Debug, Default)]
pub struct Ledger {
    accounts: BTreeMap<StreamId, Account>,
    /// Parts of gaps that the hub does not know of yet, in order. They are settled when it does.
    staged: VecDeque<Staged>,
    /// Sequences that are gone, whatever they were.
    gone: BTreeMap<GapReason, u64>,
    /// Events were lost of which it is not known what they were.
    has_unknown_losses: bool,
}

#[derive(Debug, Default)]
struct Account {
    accepted: u64,
    duplicates: u64,
    settled: Settled,
}

#[derive(Debug)]
struct Staged {
    end: Sequence,
    reason: GapReason,
    fate: Fate,
    readings: Readings,
}

/// Readings of a stream that are settled: they need not be kept any more.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settled {
    /// The hub has them.
    pub delivered: u64,
    /// They are gone, by reason.
    pub dropped: BTreeMap<GapReason, u64>,
}

/// Readings by stream.
pub type Readings = BTreeMap<StreamId, u64>;

/// What an entry of the spool holds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tally {
    /// Readings that are there.
    pub readings: Readings,
    /// Readings that were let go as they came in, by stream and reason.
    pub shed: BTreeMap<(StreamId, GapReason), u64>,
}

impl Ledger {
    /// The ledger of an agent that starts: what was settled at its last checkpoint, which the hub had acknowledged up to
    /// `acked`, and what is in its spool from there on: readings, and gaps.
    #[must_use]
    pub fn restore(acked: Sequence, settled: BTreeMap<StreamId, Settled>, gaps: &[Gap], pending: Readings) -> Self {
        let mut ledger = Self::default();
        for (stream, settled) in settled {
            let accepted = settled.delivered + settled.dropped.values().sum::<u64>();
            ledger.accounts.insert(stream, Account { accepted, duplicates: 0, settled });
        }
        for gap in gaps {
            ledger.stage(gap, acked);
        }
        for staged in &ledger.staged {
            for (stream, count) in &staged.readings {
                ledger.accounts.entry(stream.clone()).or_default().accepted += count;
            }
        }
        for (stream, count) in pending {
            ledger.account(&stream).accepted += count;
        }
        ledger
    }

    /// A reading was taken in.
    pub fn accept(&mut self, stream: &StreamId) {
        self.account(stream).accepted += 1;
    }

    /// A message repeated a reading.
    pub fn duplicate(&mut self, stream: &StreamId) {
        self.account(stream).duplicates += 1;
    }

    /// The hub has these, or the word that they were let go.
    pub fn deliver(&mut self, tally: &Tally) {
        for (stream, count) in &tally.readings {
            self.account(stream).settled.delivered += count;
        }
        for ((stream, reason), count) in &tally.shed {
            self.account(stream).settled.add(*reason, Fate::Gone, *count);
        }
    }

    /// A gap came to be; what it covers before `acked` is settled already.
    pub fn stage(&mut self, gap: &Gap, acked: Sequence) {
        for part in gap.parts_from(acked) {
            let mut readings = Readings::new();
            for (stream, count) in part.readings() {
                *readings.entry(stream.clone()).or_default() += count;
            }
            // What is dropped lies before what was found damaged.
            let place = self.staged.partition_point(|staged| staged.end < part.end);
            self.staged.insert(place, Staged { end: part.end, reason: gap.reason, fate: part.fate, readings });
        }
        *self.gone.entry(gap.reason).or_default() += gap.end().0.saturating_sub(gap.first.max(acked).0);
    }

    /// The hub has everything before `through`, also what was dropped after it was sent.
    pub fn mark_at_hub(&mut self, through: Sequence) {
        for staged in self.staged.iter_mut().take_while(|staged| staged.end <= through) {
            if staged.fate == Fate::Unsettled {
                staged.fate = Fate::AtHub;
            }
        }
    }

    /// It was noted, before the hub hears of what was dropped, that it has everything before `through` and nothing beyond.
    pub fn settle_fates(&mut self, through: Sequence) {
        self.mark_at_hub(through);
        for staged in self.staged.iter_mut().filter(|staged| staged.fate == Fate::Unsettled) {
            staged.fate = Fate::Gone;
        }
    }

    /// The hub knows of everything before `through`.
    pub fn settle(&mut self, through: Sequence) {
        while self.staged.front().is_some_and(|staged| staged.end <= through) {
            let Some(Staged { reason, fate, readings, .. }) = self.staged.pop_front() else {
                return;
            };
            for (stream, count) in readings {
                self.account(&stream).settled.add(reason, fate, count);
            }
        }
    }

    /// An entry proved damaged; which readings it held is not known.
    pub fn lose_unknown(&mut self) {
        self.has_unknown_losses = true;
    }

    /// The hub knows of everything that was ever taken in: what is still pending is what was lost unseen.
    pub fn close(&mut self) {
        if std::mem::take(&mut self.has_unknown_losses) {
            for account in self.accounts.values_mut() {
                let dropped: u64 = account.settled.dropped.values().sum();
                let missing = account.accepted.saturating_sub(account.settled.delivered + dropped);
                if missing > 0 {
                    account.settled.add(GapReason::Damaged, Fate::Gone, missing);
                }
            }
        }
    }

    /// What is settled, for a checkpoint.
    #[must_use]
    pub fn settled(&self) -> BTreeMap<StreamId, Settled> {
        self.accounts.iter().map(|(stream, account)| (stream.clone(), account.settled.clone())).collect()
    }

    /// Per stream, for people and the hub.
    #[must_use]
    pub fn by_stream(&self) -> Vec<StreamLedger> {
        let mut settled = self.settled();
        for staged in &self.staged {
            for (stream, count) in &staged.readings {
                settled.entry(stream.clone()).or_default().add(staged.reason, staged.fate, *count);
            }
        }
        let named = |dropped: BTreeMap<GapReason, u64>| {
            dropped.into_iter().map(|(reason, count)| (reason.name().to_owned(), count)).collect()
        };
        let entries = self.accounts.iter().zip(settled).map(|((stream, account), (_, settled))| StreamLedger {
            stream: stream.clone(),
            accepted: account.accepted,
            delivered: settled.delivered,
            dropped: named(settled.dropped),
            duplicates: account.duplicates,
        });
        entries.collect()
    }

    /// Sequences that are gone, by reason, as far as the spool still knows of them.
    #[must_use]
    pub fn gone(&self) -> Vec<(String, u64)> {
        self.gone.iter().map(|(reason, count)| (reason.name().to_owned(), *count)).collect()
    }

    fn account(&mut self, stream: &StreamId) -> &mut Account {
        self.accounts.entry(stream.clone()).or_default()
    }
}

impl Settled {
    fn add(&mut self, reason: GapReason, fate: Fate, count: u64) {
        if fate == Fate::AtHub {
            self.delivered += count;
        } else {
            *self.dropped.entry(reason).or_default() += count;
        }
    }
}

impl Tally {
    /// Of a batch, from `acked` on.
    #[must_use]
    pub fn of(batch: &EventBatch, acked: Sequence) -> Self {
        let mut tally = Self::default();
        if batch.end() <= acked {
            return tally;
        }
        let counts = batch.readings_by_stream();
        for (schema, count) in batch.streams.iter().zip(counts).filter(|(_, count)| *count > 0) {
            *tally.readings.entry(schema.stream.clone()).or_default() += u64::from(count);
        }
        for shed in batch.shed() {
            let stream = batch.streams[usize::from(shed.stream)].stream.clone();
            *tally.shed.entry((stream, shed.reason)).or_default() += shed.ids.len() as u64;
        }
        tally
    }

    /// Readings that were taken in, whatever became of them.
    pub fn accepted(&self) -> impl Iterator<Item = (&StreamId, u64)> {
        let shed = self.shed.iter().map(|((stream, _), count)| (stream, *count));
        self.readings.iter().map(|(stream, count)| (stream, *count)).chain(shed)
    }
}
