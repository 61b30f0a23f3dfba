//! Every reader of bytes from outside, fed with random bytes and with right ones that were changed a little.

use demo::plant;
use edge_agent::identity::BoxKey;
use edge_agent::ingest::packets::{Properties, Publish, Version, write_publish};
use proptest::prelude::*;
use shared::event::{Event, EventBatch, Fate, Gap, GapReason, Reading, SpoolEntry, StreamSchema};
use shared::ids::{AgentId, ChannelName, Epoch, Sequence, StreamId};
use shared::program::{self, ProgramFacts};
use shared::seglog::SegmentLog;
use shared::seglog::fake::FakeDisk;
use shared::wire::enrol::EnrolRequest;
use shared::wire::frame;
use shared::wire::message::{EdgeToHub, HubToEdge, PackedEntry};
use tests::fuzz::READERS;

fn entries() -> Vec<SpoolEntry> {
    let stream = StreamId::new("line1/pump3").expect("valid");
    let schema = StreamSchema { stream: stream.clone(), channels: vec![ChannelName::new("flow").expect("valid")] };
    let reading = |id: u64| {
        Event::Reading(Reading { stream: 0, time_ms: id as i64, known_normal: false, id, values: vec![id as f64] })
    };
    let events = (0..5).map(reading).collect();
    let (epoch, first) = (Epoch(3), Sequence(7));
    let batch = EventBatch { epoch, first, streams: vec![schema], models: Vec::new(), events };
    let mut gap = Gap::unknown(epoch, Sequence(12), 4, GapReason::DropOldest);
    gap.push(9, Fate::AtHub, [(stream, 9)]);
    vec![SpoolEntry::Events(batch), SpoolEntry::Gap(gap)]
}

/// Right bytes of every kind that is read.
fn samples() -> Vec<Vec<u8>> {
    let mut samples = Vec::new();
    let mut frames = Vec::new();
    let disk = FakeDisk::new(1, 1 << 30);
    let (mut log, _) = SegmentLog::open(disk.clone(), 0, 1 << 20).expect("opens");
    for entry in entries() {
        let encoded = entry.encode().expect("encodes");
        let packed = PackedEntry::pack(&encoded).expect("packs");
        samples.push(postcard::to_allocvec(&packed).expect("encodes"));
        frame::encode(&EdgeToHub::Entry(packed), &mut frames).expect("encodes");
        log.append(entry.count(), &encoded).expect("appends");
        samples.push(encoded);
    }
    log.sync().expect("syncs");
    frame::encode(&HubToEdge::Acked { epoch: Epoch(3), next: Sequence(12) }, &mut frames).expect("encodes");
    samples.push(frames);
    samples.push(disk.contents("00000000000000000000.seg").expect("there"));
    samples.push(
        br#"{"ts":1,"id":"a","known_normal":true,"flow":1.5,"motor":{"phase currents":[2]},"running":true}"#.to_vec(),
    );
    samples.push(b"pump,site=a,id=p\\ 3 flow=1.5,current=2i,on=t,s=\"x\" 1700000000000000000\nfan flow=1 5\n".to_vec());
    samples.push(br#"[{"bn":"dev1:","bt":1700000000,"n":"flow","v":1.5},{"n":"current","v":2,"t":-5}]"#.to_vec());
    // A payload of Sparkplug B: a time, two metrics with name, number, type and value, a place among its node's messages.
    let metric = |name: &[u8], alias: u8| {
        let fields = [&[0x0a, name.len() as u8], name, &[0x10, alias, 0x20, 10, 0x69], &1.5_f64.to_le_bytes()].concat();
        [&[0x12, fields.len() as u8], fields.as_slice()].concat()
    };
    samples.push([&[0x08, 5][..], &metric(b"flow", 1), &metric(b"current", 2), &[0x18, 0]].concat());
    samples.push(b"GET /status.json HTTP/1.1\r\nHost: 127.0.0.1:8091\r\n\r\n".to_vec());
    let mut packets = bytes::BytesMut::from(&[0x20, 3, 1, 0, 0, 0xd0, 0, 0x90, 4, 0, 1, 0, 1][..]);
    for payload in [&[1; 20][..], &[2; 90]] {
        let properties = &Properties::default();
        let message = Publish { id: Some(7), topic: "plant/a", payload, properties, retain: false, again: true };
        write_publish(Version::V5, message, &mut packets);
    }
    samples.push(packets.to_vec());
    samples.push(include_bytes!("../../deploy/config/agent.toml").to_vec());
    samples.push(include_bytes!("../../deploy/recipes/autoencoder.toml").to_vec());
    samples.push(b"time;a;b\r\n2026-01-01 00:00:00;1;2\r\n2026-01-01 00:00:01;;nan\r\n5;6;7\r\n".to_vec());
    let csr = BoxKey::new().expect("a key").request(AgentId::new("box-1").ok().as_ref()).expect("a request");
    let mut request = Vec::new();
    frame::encode(&EnrolRequest::Renew { csr: csr.clone() }, &mut request).expect("encodes");
    samples.extend([csr, request]);
    let (release, target) = ("0.2.0".to_owned(), "x86_64-unknown-linux-musl".to_owned());
    let facts = ProgramFacts { release, number: 7, target, created_ms: 1, expires_ms: 2 };
    samples.push(program::seal(b"a program", facts, &[]).expect("packs"));
    samples.push(include_bytes!("../onnx/mlp_gemm.onnx").to_vec());
    samples.push(include_bytes!("../onnx/conv_dense.onnx").to_vec());
    samples.push(plant::scenario(1).name.into_bytes());
    samples
}

fn change(bytes: &mut Vec<u8>, (at, what, value): (prop::sample::Index, u8, u8)) {
    let at = at.index(bytes.len().max(1));
    match what % 4 {
        0 if !bytes.is_empty() => bytes[at] ^= value,
        1 => bytes.truncate(at),
        2 => bytes.insert(at.min(bytes.len()), value),
        _ => {
            let tail = bytes[at.min(bytes.len())..].to_vec();
            bytes.extend_from_slice(&tail);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, ..ProptestConfig::default() })]

    #[test]
    fn every_reader_stands_random_bytes(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
        READERS.iter().for_each(|(_, read)| read(&bytes));
    }

    #[test]
    fn every_reader_stands_right_bytes_that_were_changed(
        sample: prop::sample::Index,
        changes in proptest::collection::vec(any::<(prop::sample::Index, u8, u8)>(), 1..6),
    ) {
        let mut bytes = sample.get(&samples()).clone();
        changes.into_iter().for_each(|how| change(&mut bytes, how));
        READERS.iter().for_each(|(_, read)| read(&bytes));
    }
}

#[test]
fn every_reader_takes_right_bytes() {
    samples().iter().for_each(|bytes| READERS.iter().for_each(|(_, read)| read(bytes)));
}

#[test]
fn every_reader_has_its_fuzzer() {
    let manifest = include_str!("../../fuzz/Cargo.toml");
    for (name, _) in READERS {
        assert!(manifest.contains(&format!("name = \"{name}\"")), "fuzz/Cargo.toml has no {name}");
    }
}
