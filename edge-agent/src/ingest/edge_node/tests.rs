use shared::event::ModelRef;
use shared::ids::{ModelName, ModelVersion, Sequence};

use super::*;
use crate::ingest::payload::extract::Found;
use crate::ingest::payload::sparkplug::{EdgeNodes, SparkplugTopic, Told};

const NOW_MS: UnixMillis = 1_795_000_000_000;

fn node() -> EdgeNode {
    EdgeNode::new("plant 1".to_owned(), AgentId::new("box").expect("valid"), 255)
}

fn prediction(stream: &str, version: u32, outcome: Outcome) -> Published {
    let model = ModelRef { name: ModelName::new("pump").expect("valid"), version: ModelVersion(version) };
    let stream = StreamId::new(stream).expect("valid");
    Published { stream, model, of: Sequence(1), time_ms: NOW_MS - 5, outcome }
}

fn anomaly(score: f32) -> Outcome {
    Outcome::Anomaly(Verdict { score, threshold: 1.0, anomaly: score > 1.0 })
}

/// What the agent's own reader, which was tried with edge nodes of others' making, makes of a message.
fn heard(host: &mut EdgeNodes, message: &Outgoing) -> Told {
    let topic = SparkplugTopic::parse(&message.topic).expect("a topic");
    host.take(&topic, &message.payload, NOW_MS).expect("a payload")
}

fn metrics(told: &Told) -> BTreeMap<String, String> {
    let all = told.rows.iter().flat_map(|row| &row.metrics);
    all.map(|(name, value)| {
        let value = match value {
            Found::Nothing | Found::Many => "nothing".to_owned(),
            Found::Integer(value) => value.to_string(),
            Found::Number(value) => value.to_string(),
            Found::Bool(value) => value.to_string(),
            Found::Text(text) => text.to_string(),
        };
        (name.clone(), value)
    })
    .collect()
}

fn seen(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

#[test]
fn births_say_all_and_data_what_changed() {
    let (mut node, mut host) = (node(), EdgeNodes::default());
    let Presence::Mourned { topic, .. } = node.begin_life() else { panic!("it has a last will") };
    assert_eq!(topic, "spBv1.0/plant 1/NDEATH/box");
    node.observe(&prediction("line1/pump3", 7, anomaly(0.5)));
    assert_eq!(node.say(Millis(0), NOW_MS), None, "nothing before the broker has greeted");
    node.connected();
    let birth = node.say(Millis(0), NOW_MS).expect("a birth");
    assert_eq!(birth.topic, "spBv1.0/plant 1/NBIRTH/box");
    assert_eq!((birth.retain, birth.delivery), (false, Delivery::AtMostOnce));
    let all = [
        ("Node Control/Rebirth", "false"),
        ("bdSeq", "0"),
        ("line1/pump3/anomaly", "false"),
        ("line1/pump3/score", "0.5"),
        ("line1/pump3/threshold", "1"),
        ("model", "pump"),
        ("model_version", "7"),
    ];
    assert_eq!(metrics(&heard(&mut host, &birth)), seen(&all));
    let payload = Payload::read(&birth.payload).expect("a payload");
    let times: Vec<_> = payload.metrics.iter().map(Metric::time_ms).collect();
    assert_eq!(times.first(), Some(&Some(NOW_MS - 5)), "of the reading's time");
    assert!(times.iter().all(Option::is_some) && times.is_sorted(), "each has a time, in its order: {times:?}");
    assert_eq!(node.say(Millis(1), NOW_MS), None);

    node.observe(&prediction("line1/pump3", 7, anomaly(2.0)));
    let data = node.say(Millis(2), NOW_MS).expect("data");
    assert_eq!(data.topic, "spBv1.0/plant 1/NDATA/box");
    let told = heard(&mut host, &data);
    assert_eq!(metrics(&told), seen(&[("line1/pump3/anomaly", "true"), ("line1/pump3/score", "2")]));
    assert_eq!(told.rows[0].time_ms, NOW_MS - 5, "of the reading's time");
    node.observe(&prediction("line1/pump3", 8, anomaly(2.0)));
    let data = node.say(Millis(3), NOW_MS).expect("data");
    assert_eq!(metrics(&heard(&mut host, &data)), seen(&[("model_version", "8")]));
    assert_eq!(host.take_requests().count(), 0, "no message is lacking");
}

#[test]
fn numbers_go_round_and_none_is_lacking() {
    let (mut node, mut host) = (node(), EdgeNodes::default());
    node.begin_life();
    node.observe(&prediction("a", 1, anomaly(0.0)));
    node.connected();
    heard(&mut host, &node.say(Millis(0), NOW_MS).expect("a birth"));
    for step in 1..=600_u16 {
        node.observe(&prediction("a", 1, anomaly(f32::from(step))));
        let data = node.say(Millis(u64::from(step)), NOW_MS).expect("data");
        assert_eq!(metrics(&heard(&mut host, &data))["a/score"], step.to_string());
    }
    assert_eq!(host.take_requests().count(), 0);
}

#[test]
fn new_streams_are_born_together_after_a_while_and_other_kinds_of_answers_anew() {
    let (mut node, mut host) = (node(), EdgeNodes::default());
    node.begin_life();
    node.connected();
    heard(&mut host, &node.say(Millis(0), NOW_MS).expect("a birth"));
    let label = Outcome::Label { label: "on".into(), confidence: 0.75, sure: true };
    node.observe(&prediction("a", 1, anomaly(0.0)));
    node.observe(&prediction("b", 1, Outcome::Forecast { values: vec![1.5, 2.5] }));
    assert_eq!(node.say(Millis(999), NOW_MS), None);
    assert_eq!(node.poll_timeout(), Some(Millis(1_000)));
    let birth = metrics(&heard(&mut host, &node.say(Millis(1_000), NOW_MS).expect("a birth")));
    assert_eq!((birth["a/anomaly"].as_str(), birth["b/forecast"].as_str()), ("false", "1.5"));
    assert_eq!(node.poll_timeout(), None);

    node.observe(&prediction("a", 1, label));
    let birth = metrics(&heard(&mut host, &node.say(Millis(2_000), NOW_MS).expect("a birth")));
    assert_eq!((birth["a/label"].as_str(), birth["a/sure"].as_str()), ("on", "true"));
    assert!(!birth.contains_key("a/anomaly"));
    node.observe(&prediction("b", 1, Outcome::Forecast { values: Vec::new() }));
    let data = metrics(&heard(&mut host, &node.say(Millis(2_001), NOW_MS).expect("data")));
    assert_eq!(data["b/forecast"], "nothing");
    node.observe(&prediction("b", 1, Outcome::Forecast { values: vec![f32::NAN] }));
    assert_eq!(node.say(Millis(2_002), NOW_MS), None, "nothing is nothing");
}

#[test]
fn whoever_missed_something_asks_and_gets_all_of_it() {
    let (mut node, mut host) = (node(), EdgeNodes::default());
    node.begin_life();
    node.observe(&prediction("a", 1, anomaly(0.0)));
    node.connected();
    let _lost = node.say(Millis(0), NOW_MS).expect("a birth");
    node.observe(&prediction("a", 1, anomaly(0.5)));
    let data = node.say(Millis(1), NOW_MS).expect("data");
    let topic = SparkplugTopic::parse(&data.topic).expect("a topic");
    assert!(host.take(&topic, &data.payload, NOW_MS).is_err(), "it is of a life that the host knows nothing of");
    let request = host.take_requests().next().expect("it asks");
    assert_eq!(request.topic, node.commands());
    node.obey(b"\xff\xff");
    assert_eq!(node.say(Millis(2_000), NOW_MS), None, "nonsense is no command");
    node.obey(&request.payload);
    node.observe(&prediction("a", 1, anomaly(0.75)));
    let birth = node.say(Millis(2_000), NOW_MS).expect("a birth");
    assert_eq!(metrics(&heard(&mut host, &birth))["a/score"], "0.75");
    node.obey(&request.payload);
    node.observe(&prediction("a", 1, anomaly(0.25)));
    assert_eq!(node.say(Millis(2_999), NOW_MS), None, "whoever asks understands nothing before the birth");
    let birth = node.say(Millis(3_000), NOW_MS).expect("a birth");
    assert_eq!(metrics(&heard(&mut host, &birth))["a/score"], "0.25");
}

#[test]
fn every_life_has_a_death_of_its_own() {
    let (mut node, mut host) = (node(), EdgeNodes::default());
    let Presence::Mourned { topic, payload } = node.begin_life() else { panic!("it has a last will") };
    node.connected();
    heard(&mut host, &node.say(Millis(0), NOW_MS).expect("a birth"));
    node.disconnected();
    assert_eq!((node.say(Millis(0), NOW_MS), node.poll_timeout()), (None, None));
    node.begin_life();
    node.connected();
    heard(&mut host, &node.say(Millis(1), NOW_MS).expect("a birth in the next life"));
    let late = host.take(&SparkplugTopic::parse(&topic).expect("a topic"), &payload, NOW_MS).expect("a death");
    assert!(late.gone.is_empty(), "the death of a life before");
    assert_eq!(heard(&mut host, &node.death()).gone, ["spBv1.0/plant 1/NDATA/box"]);
}

#[test]
fn streams_beyond_what_is_shown_are_left_out() {
    let mut node = node();
    for number in 0..MAX_STREAMS + 10 {
        node.observe(&prediction(&format!("s{number}"), 1, anomaly(0.0)));
    }
    assert_eq!((node.streams.len(), node.changed.len()), (MAX_STREAMS, MAX_STREAMS));
    node.connected();
    let bytes = node.say(Millis(0), NOW_MS).expect("a birth").payload.len();
    assert!(bytes < 32 * 1024, "{bytes}");
}
