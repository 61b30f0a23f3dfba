//! What people say of readings and of alarms: looked up where it is about stored readings, durable, and then in force.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use shared::event::UnixMillis;
use shared::package::DataRange;
use tokio::sync::oneshot;
use tracing::error;

use super::Hub;
use super::work::Done;
use crate::api::NewLabel;
use crate::clock;
use crate::core::Event;
use crate::core::alarms::Review;
use crate::core::labels::{Label, LabelKind};
use crate::core::limits::MAX_LABELS;
use crate::samples::SampleStore;
use crate::secret::Secret;
use crate::store::StoreError;
use crate::view::{LabelView, Timestamp};

/// Hexadecimal digits of a label's name: 64 random bits.
const ID_DIGITS: usize = 16;

impl Hub {
    /// Finds out what lies where labels are, and takes them.
    pub(super) fn label(&mut self, labels: Vec<NewLabel>, answer: oneshot::Sender<Result<Vec<LabelView>, String>>) {
        let (samples, now, stopping) = (self.samples.clone(), clock::unix_ms(), Arc::clone(&self.training_cancelled));
        let has_room = self.core.labels().has_room(labels.len());
        self.work.spawn(async move {
            let labels = if has_room {
                look_where(&samples, labels, now, &stopping).await
            } else {
                Err(format!("there are {MAX_LABELS} labels already; remove some"))
            };
            Done::Labelled { labels, answer }
        });
    }

    /// Takes labels of which it is known what lies there.
    pub(super) async fn take_labels(&mut self, labels: Vec<Label>) -> Result<Vec<LabelView>, String> {
        self.store.upsert_labels(&labels).await.map_err(|failure| failed(&failure))?;
        let shown = labels.iter().map(LabelView::from).collect();
        self.handle(Event::LabelsAdded(labels)).await;
        Ok(shown)
    }

    pub(super) async fn remove_label(&mut self, id: String) -> Result<(), String> {
        self.store.delete_label(&id).await.map_err(|failure| failed(&failure))?;
        self.handle(Event::LabelRemoved { id }).await;
        Ok(())
    }

    /// Takes what somebody says of an alarm; of one that is not known any more there is nothing to say.
    pub(super) async fn review_alarm(&mut self, id: String, review: Review) -> Result<(), String> {
        if let Some(alarm) = self.core.alarms().reviewed(&id, review.clone()) {
            self.store.upsert_alarm(&alarm).await.map_err(|failure| failed(&failure))?;
            self.handle(Event::AlarmReviewed { id, review }).await;
        }
        Ok(())
    }
}

fn failed(failure: &StoreError) -> String {
    error!("failed to {failure}");
    "the hub's database failed; nothing was changed".to_owned()
}

async fn look_where(
    samples: &SampleStore,
    labels: Vec<NewLabel>,
    at_ms: UnixMillis,
    stopping: &AtomicBool,
) -> Result<Vec<Label>, String> {
    let mut found = Vec::with_capacity(labels.len());
    for NewLabel { agent, stream, from_ms, to_ms, kind, comment, by, id } in labels {
        if stopping.load(Ordering::Relaxed) {
            return Err("the hub is stopping; try again when it runs".to_owned());
        }
        let range = DataRange { agent: agent.clone(), stream: stream.clone(), from_ms, to_ms, rows: 0 };
        let (rows, position) = samples.extent(&range).await.map_err(|error| format!("failed to {error}"))?;
        let Some(position) = position else {
            let (from, to) = (Timestamp(from_ms), Timestamp(to_ms));
            return Err(format!(
                "{stream} of {agent} has no stored reading from {from} to {to}; what came in the last seconds is stored soon"
            ));
        };
        if kind == LabelKind::Normal {
            // A training reads it as one: channels that change within, or too much of it, are refused here and not there.
            samples.read(&range).await.map_err(|error| format!("cannot be trained on: failed to {error}"))?;
        }
        let id = id.unwrap_or_else(|| format!("lbl_{}", &Secret::new("").digest().to_string()[..ID_DIGITS]));
        found.push(Label { id, agent, stream, from_ms, to_ms, kind, comment, by, at_ms, rows, position });
    }
    Ok(found)
}
