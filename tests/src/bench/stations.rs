//! What each station of a reading's way can do by itself.

use std::path::Path;
use std::sync::Arc;

use cloud_hub::train::dataset::SegmentData;
use edge_agent::clock::Clock;
use edge_agent::config::Config;
use edge_agent::ingest::payload::{Decoder, Outcome};
use serde::Serialize;
use shared::config::Source;
use shared::device::DeviceKind;
use shared::event::{Event, EventBatch, Reading, SpoolEntry, StreamSchema};
use shared::ids::{Epoch, Sequence};
use shared::limits::SEGMENT_BYTES;
use shared::pipeline::runner::RunnerInput;
use shared::seglog::SegmentLog;
use shared::seglog::file::Directory;
use shared::wire::message::PackedEntry;

use super::model::Model;

/// Readings of each measurement.
const READINGS: usize = 50_000;
/// Of them, so many go into one commit.
const COMMIT_EVENTS: usize = 256;

/// One station.
#[derive(Debug, Clone, Serialize)]
pub struct Station {
    /// What it does.
    pub name: &'static str,
    /// How fast.
    pub readings_per_s: f64,
}

/// Measures every station, in the order of a reading's way.
///
/// # Errors
/// If one of them fails.
pub fn run(directory: &Path, model: &Model, clock: Clock) -> anyhow::Result<Vec<Station>> {
    let mut stations = Vec::new();
    let mut measure = |name: &'static str, readings: usize, work: &mut dyn FnMut() -> anyhow::Result<()>| {
        let started = clock.monotonic_us();
        work()?;
        let readings_per_s = readings as f64 / (clock.monotonic_us() - started).max(1) as f64 * 1e6;
        stations.push(Station { name, readings_per_s });
        anyhow::Ok(())
    };
    let segment = &model.segment;
    let schema = Arc::new(segment.schema.clone());

    let mut decoder = decoder(&schema)?;
    let mut outcomes = Vec::new();
    let payload = serde_json::json!({ "ts": 1, "id": 1, "channels": channels(segment) }).to_string();
    measure("decode a JSON message", READINGS, &mut || {
        for _ in 0..READINGS {
            outcomes.clear();
            decoder.decode("plant/line", payload.as_bytes(), 0, &mut outcomes);
            anyhow::ensure!(matches!(outcomes.as_slice(), [Outcome::Reading(_)]), "a message was no reading");
        }
        Ok(())
    })?;

    let batches: Vec<SpoolEntry> =
        (0..READINGS / COMMIT_EVENTS).map(|number| SpoolEntry::Events(batch(number, segment))).collect();
    let log_directory = Directory::open(&directory.join("stations"), 0)?;
    let (mut log, _) = SegmentLog::open(log_directory, 0, SEGMENT_BYTES)?;
    measure("encode, append and sync, 256 a commit", batches.len() * COMMIT_EVENTS, &mut || {
        for batch in &batches {
            log.append(batch.count(), &batch.encode()?)?;
            log.sync()?;
        }
        Ok(())
    })?;
    measure("compress, decompress and decode", batches.len() * COMMIT_EVENTS, &mut || {
        for batch in &batches {
            let packed = PackedEntry::pack(&batch.encode()?)?;
            SpoolEntry::decode(&packed.unpack()?)?;
        }
        Ok(())
    })?;

    let inputs: Vec<RunnerInput<'_>> =
        segment.rows().map(|(time_ms, values)| RunnerInput { schema: &schema, time_ms, values }).collect();
    for (name, size) in [("pipeline on flex, one at a time", 1), ("pipeline on flex, 64 at a time", 64)] {
        let mut runner = model.package.load(&DeviceKind::Flex.open()?)?;
        measure(name, inputs.len(), &mut || {
            inputs.chunks(size).for_each(|chunk| drop(runner.run(chunk)));
            Ok(())
        })?;
    }
    Ok(stations)
}

fn channels(segment: &SegmentData) -> serde_json::Map<String, serde_json::Value> {
    let names = segment.schema.channels.iter().map(ToString::to_string);
    names.zip(segment.values.iter().map(|value| (*value).into())).collect()
}

fn decoder(schema: &StreamSchema) -> anyhow::Result<Decoder> {
    let features: Vec<String> =
        schema.channels.iter().map(|name| format!("{{ name = \"{name}\", path = \"$.channels.{name}\" }}")).collect();
    let text = format!(
        "[agent]\nname = \"bench\"\nstate_directory = \"x\"\n[mqtt]\nurl = \"mqtt://127.0.0.1\"\n[[input]]\n\
         name = \"x\"\ntopic = \"plant/{{line}}\"\nkey = \"{{line}}\"\ntime = {{ path = \"$.ts\", unit = \"ms\" }}\n\
         id = \"$.id\"\nfeature = [{}]\n",
        features.join(", ")
    );
    Ok(Decoder::new(&Config::parse(&Source::new(Path::new("bench.toml"), text))?.inputs))
}

fn batch(number: usize, segment: &SegmentData) -> EventBatch {
    let readings = segment.rows().cycle().skip(number * COMMIT_EVENTS).take(COMMIT_EVENTS);
    let events = readings.enumerate().map(|(index, (time_ms, values))| {
        let id = (number * COMMIT_EVENTS + index) as u64;
        Event::Reading(Reading { stream: 0, time_ms, known_normal: false, id, values: values.to_vec() })
    });
    EventBatch {
        epoch: Epoch(1),
        first: Sequence((number * COMMIT_EVENTS) as u64),
        streams: vec![segment.schema.clone()],
        models: vec![],
        events: events.collect(),
    }
}
