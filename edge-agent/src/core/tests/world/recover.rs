//! What a box finds on its disk when it starts, as `agent/start.rs` finds it out.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use shared::event::{Event as StoredEvent, EventBatch};
use shared::ids::Sequence;

use super::disk::{Disk, Store};
use crate::core::limits::WARM_UP_READINGS;
use crate::core::tests::rig::EPOCH;
use crate::core::{Question, Start};

pub(super) fn recover(disk: &Disk, store: &Store) -> Start {
    let oldest = disk.held.front().map_or(disk.end, |spooled| spooled.batch.first);
    let checkpoint = store.checkpoint.clone();
    if let Some(checkpoint) = &checkpoint {
        assert!(checkpoint.acked >= oldest, "events the hub may not have were given back");
        assert!(checkpoint.acked <= disk.end, "the hub has events that were not durable on the box");
    }
    let acked = checkpoint.as_ref().map_or(oldest, |checkpoint| checkpoint.acked);
    let mut pending = BTreeMap::new();
    let mut recent_ids = Vec::new();
    let mut newest = VecDeque::new();
    let mut answered = None;
    for (sequence, batch, event) in disk.held.iter().flat_map(|spooled| events(&spooled.batch)) {
        match event {
            StoredEvent::Prediction(prediction) => answered = answered.max(Some(prediction.of)),
            StoredEvent::Reading(reading) => {
                let schema = &batch.streams[usize::from(reading.stream)];
                if sequence >= acked {
                    *pending.entry(schema.stream.clone()).or_default() += 1;
                }
                recent_ids.push(reading.id);
                let (schema, values) = (Arc::new(schema.clone()), reading.values.clone());
                newest.push_back(Question { of: sequence, schema, time_ms: reading.time_ms, values, warm_up: false });
            }
        }
    }
    newest.drain(..newest.len().saturating_sub(WARM_UP_READINGS));
    let warmed = newest.into_iter().map(|question| Question { warm_up: Some(question.of) <= answered, ..question });
    Start {
        epoch: EPOCH,
        next: disk.end,
        oldest,
        spool_bytes: disk.bytes(),
        checkpoint,
        pending,
        recent_ids,
        unfinished: if store.serving.is_some() { warmed.collect() } else { Vec::new() },
        serving: store.serving.clone(),
    }
}

fn events(batch: &EventBatch) -> impl Iterator<Item = (Sequence, &EventBatch, &StoredEvent)> {
    batch.events.iter().enumerate().map(move |(offset, event)| (batch.first.plus(offset as u64), batch, event))
}
