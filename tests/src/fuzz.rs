//! What everything that reads bytes from outside must stand: never a panic, never an answer that does not hold.
//!
//! One function for each reader. `make test` feeds them seeded random and mutated bytes (`it/fuzz.rs`), fuzzers whatever
//! they find (`fuzz/`).
#![expect(clippy::expect_used, reason = "what does not hold here is what fuzzing looks for")]

use std::net::SocketAddr;
use std::path::Path;
use std::sync::LazyLock;

use cloud_hub::authority::BoxRequest;
use cloud_hub::import::parse_onnx;
use cloud_hub::recipe::Recipe;
use edge_agent::config::Config;
use edge_agent::ingest::packets::{self, Incoming, Version};
use edge_agent::ingest::payload::{Decoder, Outcome};
use edge_agent::page;
use rustls_pki_types::CertificateDer;
use serde::Serialize;
use serde::de::DeserializeOwned;
use shared::config::Source;
use shared::enrolment::{CLAIM_PREFIX, Invitation, TOKEN_PREFIX};
use shared::event::SpoolEntry;
use shared::ids::ChannelName;
use shared::limits::{CHUNK_BYTES, MAX_BATCH_BYTES, MAX_RECORD_BYTES};
use shared::package::Package;
use shared::pipeline::Shape;
use shared::program::ProgramFile;
use shared::seglog::fake::FakeDisk;
use shared::seglog::{Found, SegmentLog};
use shared::table::{Table, TableOptions};
use shared::wire::enrol::{EnrolAnswer, EnrolRequest};
use shared::wire::frame::{self, FrameDecoder};
use shared::wire::message::{EdgeToHub, HubToEdge, PackedEntry};
use shared::wire::part::PackedPart;
use shared::wire::upkeep::{UpkeepAnswer, UpkeepRequest};

/// Reads bytes, and panics where something does not hold.
pub type Reader = fn(&[u8]);

/// The readers, by name.
pub const READERS: [(&str, Reader); 16] = [
    ("wire_frames", wire_frames),
    ("spool_entry", spool_entry),
    ("packed_entry", packed_entry),
    ("packed_part", packed_part),
    ("segment", segment),
    ("package", package),
    ("mqtt_packets", mqtt_packets),
    ("mqtt_payload", mqtt_payload),
    ("agent_config", agent_config),
    ("recipe", recipe),
    ("table", table),
    ("onnx", onnx),
    ("enrolment", enrolment),
    ("certificates", certificates),
    ("program", program),
    ("page_request", page_request),
];

/// The frames of either direction of a connection.
pub fn wire_frames(bytes: &[u8]) {
    read_frames::<EdgeToHub>(bytes);
    read_frames::<HubToEdge>(bytes);
}

fn read_frames<M: Serialize + DeserializeOwned>(bytes: &[u8]) {
    let mut decoder = FrameDecoder::default();
    for piece in bytes.chunks(7) {
        decoder.extend(piece);
        loop {
            match decoder.take::<M>() {
                Ok(Some(message)) => frame::encode(&message, &mut Vec::new()).expect("what was read can be written"),
                Ok(None) => break,
                Err(_) => return,
            }
        }
    }
}

/// What boxes and hub say when one is let in, and the token or the claim before it.
pub fn enrolment(bytes: &[u8]) {
    read_frames::<EnrolRequest>(bytes);
    read_frames::<EnrolAnswer>(bytes);
    let text = String::from_utf8_lossy(bytes);
    for text in [text.to_string(), format!("{TOKEN_PREFIX}{text}"), format!("{CLAIM_PREFIX}{text}")] {
        if let Ok(invitation) = text.parse::<Invitation>() {
            let again = match &invitation {
                Invitation::Token(token) => token.to_string(),
                Invitation::Claim(claim) => claim.to_string(),
            };
            assert_eq!(again.parse(), Ok(invitation), "what was read can be written");
        }
    }
}

/// A program for boxes, and what boxes and hub say of it. What is signed and whole is read again as it was.
pub fn program(bytes: &[u8]) {
    read_frames::<UpkeepRequest>(bytes);
    read_frames::<UpkeepAnswer>(bytes);
    if let Ok(file) = ProgramFile::read(bytes) {
        let signers = file.signers().count();
        assert!(signers <= 8 && file.header().target.len() <= 64);
        if let Ok(program) = file.unpack() {
            assert_eq!(program.len() as u64, file.header().bytes);
        }
    }
}

/// What a stranger can show the hub: a request for a certificate, and a certificate.
pub fn certificates(bytes: &[u8]) {
    drop(BoxRequest::read(bytes));
    drop(cloud_hub::identity::shown(&CertificateDer::from(bytes)));
}

/// An entry of a spool. It is canonical: what was written again is the same from then on.
pub fn spool_entry(bytes: &[u8]) {
    if let Ok(entry) = SpoolEntry::decode(bytes) {
        assert!(entry.end() > entry.first() && u64::from(entry.count()) == entry.end().0 - entry.first().0);
        let written = entry.encode().expect("what was read can be written");
        let again = SpoolEntry::decode(&written).expect("what was written can be read");
        assert_eq!(again.encode().expect("and written again"), written);
    }
}

/// An entry on the wire, which may declare anything.
pub fn packed_entry(bytes: &[u8]) {
    if let Ok(packed) = postcard::from_bytes::<PackedEntry>(bytes)
        && let Ok(unpacked) = packed.unpack()
    {
        assert!(unpacked.len() <= MAX_BATCH_BYTES);
        spool_entry(&unpacked);
    }
}

/// A part of a package on the wire, which may declare anything, with and without something to be read against.
pub fn packed_part(bytes: &[u8]) {
    if let Ok(packed) = postcard::from_bytes::<PackedPart>(bytes) {
        for dictionary in [&b""[..], &bytes[..bytes.len() / 2]] {
            if let Ok(unpacked) = packed.unpack(dictionary) {
                assert!(unpacked.len() <= CHUNK_BYTES && unpacked.len() as u64 == packed.raw_bytes());
            }
        }
    }
}

/// A segment of a log: it opens, gives what it gives in order, and goes on behind it.
pub fn segment(bytes: &[u8]) {
    let disk = FakeDisk::new(1, 1 << 30);
    disk.put("00000000000000000000.seg", bytes);
    let open = || SegmentLog::open(disk.clone(), 0, 64 * 1024);
    let Ok((mut log, _)) = open() else {
        // A format of the future is refused, and nothing else is.
        assert!(bytes.starts_with(b"TLSG"));
        return;
    };
    let first = log.append(1, b"on it goes").expect("a log goes on");
    log.sync().expect("a log goes on");
    for _ in 0..2 {
        let mut cursor = log.cursor(0);
        let mut position = cursor.position();
        let mut last = None;
        while let Some(found) = log.read(&mut cursor).expect("the disk is well") {
            position = match found {
                Found::Lost(range) if range.start >= position => range.end,
                Found::Record(record) if record.first >= position && record.payload.len() <= MAX_RECORD_BYTES => {
                    last = Some((record.first, record.payload.clone()));
                    record.end()
                }
                other @ (Found::Lost(_) | Found::Record(_)) => panic!("{other:?} at {position}"),
            };
        }
        assert_eq!(last, Some((first, b"on it goes".to_vec())));
        log = open().expect("what goes on can be opened").0;
    }
}

/// A model's package.
pub fn package(bytes: &[u8]) {
    drop(Package::open(bytes, None));
}

/// What a broker sends, cut anywhere: nothing larger than allowed is held, and a message is what it was.
pub fn mqtt_packets(bytes: &[u8]) {
    for version in [Version::V5, Version::V311] {
        let mut reader = packets::Reader::default();
        'stream: for piece in bytes.chunks(11) {
            reader.buffer.extend_from_slice(piece);
            loop {
                match reader.next(version, 64) {
                    Ok(Some(Incoming::Message(message))) => assert!(message.payload.len() <= 64),
                    Ok(Some(_)) => {}
                    Ok(None) => break,
                    Err(_) => break 'stream,
                }
            }
        }
    }
}

/// A message that an MQTT client sent.
pub fn mqtt_payload(bytes: &[u8]) {
    static CONFIG: LazyLock<Config> = LazyLock::new(|| {
        let others = "\n[[input]]\nname='value'\nformat='value'\ntopic='value/{a}/{b}'\nkey='{a}'\n\
                      feature=[{name='flow'}, {name='current', values={ON=1.0}}]\n\
                      [[input]]\nname='influx'\nformat='influx'\ntopic='influx'\nkey='{measurement}-{site}'\nmissing='last'\n\
                      feature=[{name='flow'}, {name='current'}]\n\
                      [[input]]\nname='senml'\nformat='senml'\ntopic='senml'\nkey='x{base}'\nmissing='wait'\n\
                      feature=[{name='flow'}, {name='current'}]\n\
                      [[input]]\nname='sparkplug'\nformat='sparkplug_b'\nfeature=[{name='flow'}, {name='current'}]\n";
        let text =
            include_str!("../../deploy/config/agent.toml").replace("\n# The hub.", &format!("{others}\n# The hub."));
        Config::parse(&Source::new(Path::new("agent.toml"), text)).expect("the example is a right file")
    });
    let mut decoder = Decoder::new(&CONFIG.inputs);
    let mut outcomes = Vec::new();
    let topics = ["plant/line1/pump3/telemetry", "value/a/flow", "value/a/current", "influx", "senml"];
    let sparkplug = ["NBIRTH/n", "DBIRTH/n/d", "DDATA/n/d", "DDEATH/n/d", "NDEATH/n"].map(|topic| {
        let (kind, place) = topic.split_once('/').expect("it has two parts");
        format!("spBv1.0/g/{kind}/{place}")
    });
    for topic in topics.into_iter().chain(sparkplug.iter().map(String::as_str)) {
        decoder.decode(topic, bytes, 0, &mut outcomes);
        assert!(!outcomes.is_empty(), "a message is acknowledged by what became of it");
        for outcome in outcomes.drain(..) {
            if let Outcome::Reading(decoded) = outcome {
                assert!(decoded.values.iter().all(|value| value.is_finite()));
                assert_eq!(decoded.values.len(), decoded.schema.channels.len());
            }
        }
    }
}

/// What a browser asks of a box's page: it gets one whole answer.
pub fn page_request(bytes: &[u8]) {
    let at = SocketAddr::from(([127, 0, 0, 1], 8091));
    let answer = page::answer(&String::from_utf8_lossy(bytes), at, &serde_json::Value::Null);
    assert!(answer.starts_with(b"HTTP/1.1 ") && answer.windows(4).any(|end| end == b"\r\n\r\n"));
}

/// An agent's configuration.
pub fn agent_config(bytes: &[u8]) {
    if let Ok(text) = std::str::from_utf8(bytes) {
        drop(Config::parse(&Source::new(Path::new("agent.toml"), text.to_owned())));
    }
}

/// A recipe.
pub fn recipe(bytes: &[u8]) {
    if let Ok(text) = std::str::from_utf8(bytes) {
        drop(Recipe::read(&Source::new(Path::new("recipe.toml"), text.to_owned())));
    }
}

/// Readings in a CSV file: as many values as readings have channels, and times that go on.
pub fn table(bytes: &[u8]) {
    let channels = ["a", "b"].map(|name| ChannelName::new(name).expect("a good name"));
    let time_column = Some("time".to_owned());
    let options = TableOptions { time_column, skips_bad_rows: true, ..TableOptions::default() };
    let Ok(mut table) = Table::open(Path::new("table.csv"), bytes, &channels, options) else {
        return;
    };
    let (mut values, mut readings, mut last) = (Vec::new(), 0, None);
    while let Ok(Some(row)) = table.next_row(&mut values) {
        if let shared::table::Row::Reading { time_ms, .. } = row {
            assert!(last.is_none_or(|last| last < time_ms));
            last = Some(time_ms);
            readings += 1;
        }
        assert_eq!(values.len(), readings * channels.len());
    }
}

/// A graph of another tool: what it becomes fits together.
pub fn onnx(bytes: &[u8]) {
    for input in [Shape::Flat(6), Shape::Sequence { steps: 16, channels: 3 }] {
        if let Ok(network) = parse_onnx(bytes, input, true) {
            drop(network.weights.check(&network.layers, input));
        }
    }
}
