//! Readings that come in all the time.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::Context;
use shared::ids::{AgentId, ChannelName};

use super::plan::{FleetPlan, SensorFault};
use crate::play::pause;
use crate::publish::Publisher;
use crate::scenario::{Purpose, Row, Scenario};

/// Readings of machines that run in another way, for which somebody vouches in one go, and how often.
const MOVED_ROWS: usize = 300;
const MOVED_STRETCHES: usize = 3;
/// The pause between.
const MOVED_PAUSE_MS: i64 = 120_000;

type Spoilt = Arc<Mutex<BTreeMap<(AgentId, usize), SensorFault>>>;
type Moved = Arc<Mutex<BTreeSet<AgentId>>>;

/// Readings that come in all the time, at every box.
pub(super) struct Live {
    stop: Arc<AtomicBool>,
    channels: Vec<ChannelName>,
    /// Sensors that say something else, by box and column.
    spoilt: Spoilt,
    /// Boxes whose machines run in another way.
    moved: Moved,
    thread: JoinHandle<anyhow::Result<u64>>,
}

impl Live {
    pub(super) fn start(
        mut publisher: Publisher,
        scenario: &Scenario,
        names: &[AgentId],
        plan: &FleetPlan,
    ) -> anyhow::Result<Self> {
        let FleetPlan { readings_per_s, real_time, .. } = *plan;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let (spoilt, moved) = (Spoilt::default(), Moved::default());
        let elsewhere = Arc::clone(&moved);
        let of_new: Vec<Row> = scenario
            .phases
            .iter()
            .filter(|phase| phase.purpose == Purpose::Live)
            .flat_map(|phase| phase.recordings.iter().flat_map(|recording| recording.rows.iter().cloned()))
            .filter(|row| row.known_normal)
            .collect();
        let (faults, all_channels) = (Arc::clone(&spoilt), scenario.channels.clone());
        let rows: Vec<Row> =
            scenario.phases[0].recordings.iter().flat_map(|recording| recording.rows.iter().cloned()).collect();
        let (stream, channels, names) = (scenario.stream.clone(), scenario.channels.clone(), names.to_vec());
        let work = move || {
            // Later than everything that was measured before, a second apart.
            let after_ms = rows.last().map_or(0, |row| row.time_ms) + 24 * 3_600_000;
            let (begin_ms, step_ms) = if real_time {
                (cloud_hub::clock::unix_ms(), 1_000 / readings_per_s as i64)
            } else {
                (after_ms, 1_000)
            };
            let mut published = 0;
            let mut since = BTreeMap::new();
            for second in 0.. {
                if stopped.load(Ordering::Relaxed) {
                    break;
                }
                let time_ms = begin_ms + step_ms * second as i64;
                let faults = faults.lock().unwrap_or_else(PoisonError::into_inner).clone();
                let moved = elsewhere.lock().unwrap_or_else(PoisonError::into_inner).clone();
                for (index, name) in names.iter().enumerate() {
                    // Machines of one kind, each at its own point of what it does.
                    let row = &rows[(second + index * rows.len() / names.len()) % rows.len()];
                    let mut row = Row { time_ms, known_normal: false, ..row.clone() };
                    if moved.contains(name) && !of_new.is_empty() {
                        let since = second - *since.entry(name.clone()).or_insert(second);
                        // Somebody vouches for it, for some minutes at a time, until there is enough to learn from.
                        let time_ms = row.time_ms + MOVED_PAUSE_MS * (since / MOVED_ROWS) as i64;
                        let known_normal = since < MOVED_STRETCHES * MOVED_ROWS;
                        row = Row {
                            time_ms,
                            known_normal,
                            ..of_new[since % of_new.len().min(MOVED_STRETCHES * MOVED_ROWS)].clone()
                        };
                    }
                    for ((_, column), fault) in faults.iter().filter(|((of, _), _)| of == name) {
                        row.values[*column] = fault.factor * row.values[*column] + fault.offset;
                    }
                    publisher.publish(name.as_str(), &stream, &channels, &row)?;
                    published += 1;
                }
                pause(Duration::from_secs_f64(1.0 / readings_per_s as f64));
            }
            Ok(published)
        };
        let thread = std::thread::Builder::new().name("live".into()).spawn(work)?;
        Ok(Self { stop, channels: all_channels, spoilt, moved, thread })
    }

    /// Lets the machines of these boxes run in another way.
    pub(super) fn move_to(&self, boxes: &[AgentId]) {
        self.moved.lock().unwrap_or_else(PoisonError::into_inner).extend(boxes.iter().cloned());
    }

    /// Spoils a box's sensor, or mends it.
    pub(super) fn spoil(
        &self,
        name: &AgentId,
        channel: &ChannelName,
        fault: Option<SensorFault>,
    ) -> anyhow::Result<()> {
        let column = self.channels.iter().position(|known| known == channel);
        let key = (name.clone(), column.with_context(|| format!("find a channel {channel}"))?);
        let mut spoilt = self.spoilt.lock().unwrap_or_else(PoisonError::into_inner);
        match fault {
            Some(fault) => drop(spoilt.insert(key, fault)),
            None => drop(spoilt.remove(&key)),
        }
        Ok(())
    }

    pub(super) fn stop(self) -> anyhow::Result<u64> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().map_err(|_| anyhow::anyhow!("the live readings broke off"))?
    }
}
