use super::payload::build::{Given, at, metric, payload};
use super::*;

const NOW_MS: UnixMillis = 1_700_000_000_000;

fn topic(text: &str) -> SparkplugTopic<'_> {
    SparkplugTopic::parse(text).expect("a topic of Sparkplug B")
}

/// What the messages told, one after the other, and what was asked for.
fn tell(messages: &[(&str, Vec<u8>)]) -> (Vec<Result<Told, Rejection>>, Vec<Outgoing>) {
    let mut nodes = EdgeNodes::default();
    let told = messages.iter().map(|(name, bytes)| nodes.take(&topic(name), bytes, NOW_MS)).collect();
    let requests = nodes.take_requests().collect();
    (told, requests)
}

fn node_birth(life: u32) -> (&'static str, Vec<u8>) {
    let metrics = vec![metric(Some(BIRTH_SEQUENCE), None, &Given::Int(8, life))];
    ("spBv1.0/plant/NBIRTH/edge", payload(Some(0), 5, metrics))
}

fn device_birth(seq: u64) -> (&'static str, Vec<u8>) {
    let metrics = vec![
        metric(Some("flow"), Some(1), &Given::Double(7.5)),
        metric(Some("temperature"), Some(2), &Given::Int(2, (-3_i32) as u32)),
    ];
    ("spBv1.0/plant/DBIRTH/edge/press", payload(Some(seq), 6, metrics))
}

fn data(seq: u64, alias: u64, value: f64) -> (&'static str, Vec<u8>) {
    ("spBv1.0/plant/DDATA/edge/press", payload(Some(seq), 7, vec![metric(None, Some(alias), &Given::Double(value))]))
}

#[test]
fn births_explain_what_data_says_by_number() {
    let (told, requests) = tell(&[node_birth(1), device_birth(1), data(2, 1, 8.0)]);
    let birth = &told[1].as_ref().expect("a birth").rows;
    assert_eq!((birth.len(), birth[0].time_ms, birth[0].is_historical), (1, 6, false));
    let values = [("flow".to_owned(), Found::Number(7.5)), ("temperature".to_owned(), Found::Integer(-3))];
    assert_eq!(birth[0].metrics, values, "a short number is signed, in the lowest of 32 bits");
    assert_eq!(told[2].as_ref().expect("data").rows[0].metrics, [("flow".to_owned(), Found::Number(8.0))]);
    assert_eq!(requests, []);
}

#[test]
fn data_before_a_birth_is_not_understood_and_asks_for_one() {
    let (told, requests) = tell(&[data(2, 1, 8.0), data(3, 1, 8.0)]);
    assert!(told.iter().all(|told| told.as_ref().err() == Some(&Rejection::BeforeBirth)));
    assert_eq!(requests.len(), 1, "it is asked once, and then waited for");
    assert_eq!(requests[0].topic, "spBv1.0/plant/NCMD/edge");
    let command = Payload::read(&requests[0].payload).expect("a payload");
    assert_eq!((command.metrics[0].name(), command.metrics[0].value(DataType::Other)), (REBIRTH, Found::Bool(true)));
}

#[test]
fn a_lacking_message_makes_the_births_doubtful() {
    let (told, requests) = tell(&[node_birth(1), device_birth(1), data(3, 1, 8.0), node_birth(1), device_birth(1)]);
    assert_eq!(told[2].as_ref().err(), Some(&Rejection::BeforeBirth));
    assert_eq!(requests.len(), 1);
    assert!(told[4].is_ok());
    let (told, requests) = tell(
        &[node_birth(1), device_birth(1)]
            .into_iter()
            .chain((2..600).map(|seq| data(seq % 256, 1, 1.0)))
            .collect::<Vec<_>>(),
    );
    assert!(told.iter().all(Result::is_ok) && requests.is_empty(), "after 255 comes 0");
}

#[test]
fn a_device_is_forgotten_when_it_dies_and_a_late_will_means_nothing() {
    let will = |life| {
        ("spBv1.0/plant/NDEATH/edge", payload(None, 9, vec![metric(Some(BIRTH_SEQUENCE), None, &Given::Int(8, life))]))
    };
    let device_death = ("spBv1.0/plant/DDEATH/edge/press", payload(Some(2), 9, vec![]));
    let (told, requests) = tell(&[node_birth(2), device_birth(1), will(1), device_death, will(2), data(3, 1, 1.0)]);
    assert_eq!(told[2].as_ref().expect("a will").gone.len(), 0, "of the life before");
    assert_eq!(told[3].as_ref().expect("a death").gone, ["spBv1.0/plant/DDATA/edge/press"]);
    let gone = &told[4].as_ref().expect("a will").gone;
    assert_eq!(gone, &["spBv1.0/plant/NDATA/edge", "spBv1.0/plant/DDATA/edge/press"]);
    assert_eq!(told[5].as_ref().err(), Some(&Rejection::BeforeBirth));
    assert_eq!(requests.len(), 1);
}

#[test]
fn what_a_device_kept_comes_at_its_own_times() {
    let kept = |timestamp, value| at(metric(None, Some(1), &Given::Double(value)), timestamp, true);
    let now = at(metric(None, Some(1), &Given::Double(3.0)), 30, false);
    let message = payload(Some(2), 40, vec![kept(20, 2.0), now, kept(10, 1.0)]);
    let (told, _) = tell(&[node_birth(1), device_birth(1), ("spBv1.0/plant/DDATA/edge/press", message)]);
    let rows = &told[2].as_ref().expect("data").rows;
    let times: Vec<(i64, bool)> = rows.iter().map(|row| (row.time_ms, row.is_historical)).collect();
    assert_eq!(times, [(10, true), (20, true), (30, false)]);
}

#[test]
fn what_is_no_payload_is_refused() {
    let mut nodes = EdgeNodes::default();
    let mut refusal = |bytes: &[u8]| nodes.take(&topic("spBv1.0/g/NBIRTH/n"), bytes, NOW_MS).expect_err("wrong");
    assert_eq!(refusal(b"not a payload").reason(), "malformed");
    assert_eq!(refusal(&[0x12, 0].repeat(5000)), Rejection::TooManyReadings);
    let compressed = [&[0x22, 18][..], b"SPBV1.0_COMPRESSED"].concat();
    assert!(refusal(&compressed).to_string().contains("it is compressed"));
    let nameless = payload(Some(0), 1, vec![metric(None, Some(1), &Given::Double(1.0))]);
    assert!(refusal(&nameless).to_string().contains("gives every metric a name"));
    for elsewhere in ["spBv1.0/STATE/host", "spAv1.0/g/NDATA/n", "spBv1.0/g/NDATA/n/d/x", "plant/l1"] {
        assert_eq!(SparkplugTopic::parse(elsewhere).filter(|topic| topic.kind != Kind::Other), None, "{elsewhere}");
    }
}

#[test]
fn what_the_agent_says_itself_is_passed_over() {
    let mut nodes = EdgeNodes::default();
    nodes.pass_over(Some("plant"), "edge");
    let (name, bytes) = data(2, 1, 8.0);
    assert!(nodes.take(&topic(name), &bytes, NOW_MS).expect("nothing is wrong with it").rows.is_empty());
    assert_eq!(nodes.take_requests().count(), 0, "it does not ask itself to be born anew");
    let other = topic("spBv1.0/plant/DDATA/other/press");
    assert_eq!(nodes.take(&other, &bytes, NOW_MS).err(), Some(Rejection::BeforeBirth));
}
