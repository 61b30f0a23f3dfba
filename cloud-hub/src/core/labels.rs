//! Labels: what people say of stretches of readings. A stretch that somebody calls normal is trained on, and one that
//! somebody calls a fault is left out.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use shared::event::UnixMillis;
use shared::ids::{AgentId, StreamId};
use shared::package::DataRange;
use utoipa::ToSchema;

use super::limits::MAX_LABELS;
use super::observe::StreamKey;

/// What somebody said of a stretch of readings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Label {
    /// Its name.
    pub id: String,
    /// The box.
    pub agent: AgentId,
    /// The stream.
    pub stream: StreamId,
    /// The first millisecond.
    pub from_ms: UnixMillis,
    /// The last one.
    pub to_ms: UnixMillis,
    /// What it is.
    pub kind: LabelKind,
    /// What they had to say.
    pub comment: String,
    /// Who.
    pub by: String,
    /// When.
    pub at_ms: UnixMillis,
    /// Readings within, when it was made.
    pub rows: u64,
    /// The position in the ingest log of the compaction that holds the first of them.
    pub position: u64,
}

/// What a stretch of readings is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum LabelKind {
    /// The machine ran as it should.
    Normal,
    /// Something was wrong with it.
    Fault,
}

impl LabelKind {
    /// As it is written.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Normal => "normal",
            Self::Fault => "fault",
        }
    }

    /// The kind of this name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        [Self::Normal, Self::Fault].into_iter().find(|kind| kind.name() == name)
    }
}

/// A stretch that somebody vouches for, or not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Vouched {
    /// The box and the stream.
    pub key: StreamKey,
    /// The first millisecond.
    pub from_ms: UnixMillis,
    /// The last one.
    pub to_ms: UnixMillis,
    /// What it is.
    pub kind: LabelKind,
}

/// Every label.
#[derive(Debug, Default)]
pub struct Labels {
    all: BTreeMap<String, Label>,
    /// Names by box and stream.
    of_stream: BTreeMap<StreamKey, BTreeSet<String>>,
    /// How often there was a new one, or one less.
    changes: u64,
}

impl Labels {
    /// Every label, by name.
    pub fn all(&self) -> impl Iterator<Item = &Label> {
        self.all.values()
    }

    /// Whether there is room for so many more.
    #[must_use]
    pub fn has_room(&self, more: usize) -> bool {
        self.all.len().saturating_add(more) <= MAX_LABELS
    }

    /// How often there was a new one, or one less.
    #[must_use]
    pub fn changes(&self) -> u64 {
        self.changes
    }

    /// What is vouched for, for a training.
    #[must_use]
    pub fn vouched(&self) -> Vec<Vouched> {
        let vouched = |label: &Label| Vouched {
            key: (label.agent.clone(), label.stream.clone()),
            from_ms: label.from_ms,
            to_ms: label.to_ms,
            kind: label.kind,
        };
        self.all.values().map(vouched).collect()
    }

    /// Stretches of a stream that somebody called normal and that lie outside of these, since a position.
    pub fn normal_since(&self, key: &StreamKey, since_position: u64, outside: &[DataRange]) -> Vec<&Label> {
        let names = self.of_stream.get(key).into_iter().flatten();
        let mut wanted: Vec<&Label> = names.filter_map(|name| self.all.get(name)).collect();
        wanted.retain(|label| label.kind == LabelKind::Normal && label.position >= since_position);
        wanted.sort_by_key(|label| (label.from_ms, label.to_ms));
        let overlap = |a: (i64, i64), b: (i64, i64)| a.0 <= b.1 && b.0 <= a.1;
        let known = outside.iter().filter(|range| (&range.agent, &range.stream) == (&key.0, &key.1));
        let known: Vec<(i64, i64)> = known.map(|range| (range.from_ms, range.to_ms)).collect();
        let mut taken: Vec<&Label> = Vec::new();
        for label in wanted {
            let span = (label.from_ms, label.to_ms);
            // A reading that is trained on twice would also be held out of itself.
            let is_twice = taken.last().is_some_and(|last| overlap((last.from_ms, last.to_ms), span));
            if !is_twice && !known.iter().any(|range| overlap(*range, span)) {
                taken.push(label);
            }
        }
        taken
    }

    /// Puts back what the database remembers.
    pub(super) fn remember(&mut self, labels: Vec<Label>) {
        labels.into_iter().for_each(|label| self.keep(label));
    }

    /// Takes labels that are durable. One of a name that there is takes its place.
    pub(super) fn add(&mut self, labels: Vec<Label>) {
        self.changes += 1;
        labels.into_iter().for_each(|label| self.keep(label));
    }

    fn keep(&mut self, label: Label) {
        let key = (label.agent.clone(), label.stream.clone());
        self.of_stream.entry(key).or_default().insert(label.id.clone());
        self.all.insert(label.id.clone(), label);
    }

    /// Lets a label go that is durably gone.
    pub(super) fn remove(&mut self, id: &str) {
        if let Some(label) = self.all.remove(id) {
            if let Some(names) = self.of_stream.get_mut(&(label.agent, label.stream)) {
                names.remove(id);
            }
            self.changes += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn label(id: &str, from_ms: i64, to_ms: i64, kind: LabelKind, position: u64) -> Label {
        let (agent, stream) = (AgentId::new("box").expect("valid"), StreamId::new("pump").expect("valid"));
        let (comment, by) = (String::new(), "Ada".to_owned());
        Label { id: id.to_owned(), agent, stream, from_ms, to_ms, kind, comment, by, at_ms: 0, rows: 9, position }
    }

    #[test]
    fn what_is_called_normal_counts_once_and_where_machines_ran_as_they_do_now() {
        let mut labels = Labels::default();
        labels.add(vec![label("a", 0, 10, LabelKind::Normal, 1)]);
        let (b, twin) = (label("b", 20, 30, LabelKind::Normal, 5), label("twin", 25, 30, LabelKind::Normal, 5));
        labels.add(vec![b, twin]);
        labels.add(vec![label("c", 40, 50, LabelKind::Fault, 5)]);
        let key = (AgentId::new("box").expect("valid"), StreamId::new("pump").expect("valid"));
        let names = |since, outside: &[DataRange]| {
            labels.normal_since(&key, since, outside).into_iter().map(|label| label.id.clone()).collect::<Vec<_>>()
        };
        assert_eq!(names(0, &[]), ["a", "b"]);
        assert_eq!(names(5, &[]), ["b"]);
        let known = DataRange { agent: key.0.clone(), stream: key.1.clone(), from_ms: 10, to_ms: 19, rows: 9 };
        assert_eq!(names(0, &[known]), ["b"], "what is vouched for already is no news");
        assert_eq!((labels.changes(), labels.vouched().len()), (3, 4));
        labels.remove("a");
        labels.remove("a");
        assert_eq!((labels.changes(), labels.all().count()), (4, 3));
        labels.add(vec![label("c", 40, 50, LabelKind::Normal, 5)]);
        assert_eq!(labels.all().filter(|label| label.kind == LabelKind::Fault).count(), 0, "somebody thought again");
    }
}
