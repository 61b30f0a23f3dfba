//! Measures, on this machine, what each station of a reading's way can do. Figures of one run compare with each other
//! and with nothing else.

use std::io::Write;
use std::path::Path;
use std::sync::Arc;

use anyhow::Context;
use cloud_hub::recipe::Recipe;
use cloud_hub::train::dataset::{Dataset, SegmentData};
use cloud_hub::train::{Watch, fit};
use demo::plant;
use edge_agent::clock::Clock;
use edge_agent::config::Config;
use edge_agent::ingest::payload::Decoder;
use shared::config::Source;
use shared::device::DeviceKind;
use shared::event::{Event, EventBatch, Reading, SpoolEntry, StreamSchema};
use shared::ids::{AgentId, Epoch, Sequence};
use shared::limits::{COMMIT_MAX_EVENTS, SEGMENT_BYTES};
use shared::package::DataRange;
use shared::pipeline::runner::RunnerInput;
use shared::seglog::SegmentLog;
use shared::seglog::file::Directory;
use shared::wire::message::PackedEntry;

/// Readings of each measurement.
const READINGS: usize = 50_000;

fn main() -> anyhow::Result<()> {
    let clock = Clock::start();
    let mut rows: Vec<(&str, f64)> = Vec::new();
    let mut measure = |name: &'static str, readings: usize, work: &mut dyn FnMut() -> anyhow::Result<()>| {
        let started = clock.monotonic_us();
        work()?;
        rows.push((name, readings as f64 / (clock.monotonic_us() - started).max(1) as f64 * 1e6));
        anyhow::Ok(())
    };
    let segment = segment()?;
    let schema = Arc::new(segment.schema.clone());

    let mut decoder = decoder(&schema)?;
    let payload = serde_json::json!({ "ts": 1, "id": 1, "channels": channels(&segment) }).to_string();
    measure("decode a JSON message", READINGS, &mut || {
        for _ in 0..READINGS {
            decoder.decode("plant/line", payload.as_bytes(), 0).map_err(|rejection| anyhow::anyhow!("{rejection}"))?;
        }
        Ok(())
    })?;

    let batches: Vec<SpoolEntry> =
        (0..READINGS / COMMIT_MAX_EVENTS).map(|n| SpoolEntry::Events(batch(n, &segment))).collect();
    let directory = tempfile::tempdir()?;
    let (mut log, _) = SegmentLog::open(Directory::open(directory.path(), 0)?, 0, SEGMENT_BYTES)?;
    measure("encode, append and sync, 256 a commit", batches.len() * COMMIT_MAX_EVENTS, &mut || {
        for batch in &batches {
            log.append(batch.count(), &batch.encode()?)?;
            log.sync()?;
        }
        Ok(())
    })?;
    measure("compress, decompress and decode", batches.len() * COMMIT_MAX_EVENTS, &mut || {
        for batch in &batches {
            let packed = PackedEntry::pack(&batch.encode()?)?;
            SpoolEntry::decode(&packed.unpack()?)?;
        }
        Ok(())
    })?;

    let recipe = Recipe::load(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/recipes/autoencoder.toml"))?;
    let cancelled = std::sync::atomic::AtomicBool::new(false);
    let mut watch = Watch { progress: &mut |_| {}, cancelled: &cancelled };
    let dataset = Dataset { segments: vec![segment.clone()] };
    let fitted = fit::fit(&recipe, &dataset, DeviceKind::Flex, "training", &mut watch)?;
    let inputs: Vec<RunnerInput<'_>> =
        segment.rows().map(|(time_ms, values)| RunnerInput { schema: &schema, time_ms, values }).collect();
    for (name, size) in [("pipeline on flex, one at a time", 1), ("pipeline on flex, 64 at a time", 64)] {
        let mut runner = fitted.runner(DeviceKind::Flex)?;
        measure(name, inputs.len(), &mut || {
            inputs.chunks(size).for_each(|chunk| drop(runner.run(chunk)));
            Ok(())
        })?;
    }

    let slowest = rows.iter().map(|(_, rate)| *rate).fold(f64::INFINITY, f64::min);
    let mut out = std::io::stdout().lock();
    for (name, rate) in &rows {
        writeln!(out, "{name:<42} {rate:>12.0} readings/s {:>8.1} x the slowest", rate / slowest)?;
    }
    Ok(())
}

/// The simulated plant's normal operation.
fn segment() -> anyhow::Result<SegmentData> {
    let scenario = plant::scenario(1);
    let rows = &scenario.phases[0].recordings[0].rows;
    let (first, last) = (rows.first().context("rows")?, rows.last().context("rows")?);
    Ok(SegmentData {
        range: DataRange {
            agent: AgentId::new("bench")?,
            stream: scenario.stream.clone(),
            from_ms: first.time_ms,
            to_ms: last.time_ms,
            rows: rows.len() as u64,
        },
        times_ms: rows.iter().map(|row| row.time_ms).collect(),
        values: rows.iter().flat_map(|row| row.values.iter().copied()).collect(),
        schema: StreamSchema { stream: scenario.stream, channels: scenario.channels },
    })
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
    let readings = segment.rows().cycle().skip(number * COMMIT_MAX_EVENTS).take(COMMIT_MAX_EVENTS);
    let events = readings.enumerate().map(|(index, (time_ms, values))| {
        let id = (number * COMMIT_MAX_EVENTS + index) as u64;
        Event::Reading(Reading { stream: 0, time_ms, known_normal: false, id, values: values.to_vec() })
    });
    EventBatch {
        epoch: Epoch(1),
        first: Sequence((number * COMMIT_MAX_EVENTS) as u64),
        streams: vec![segment.schema.clone()],
        models: vec![],
        events: events.collect(),
    }
}
