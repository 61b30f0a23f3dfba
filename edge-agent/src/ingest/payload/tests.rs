use std::path::Path;

use proptest::prelude::*;
use shared::config::Source;

use super::*;

const ARRIVAL_MS: i64 = 5_000;

const PUMPS: &str = r#"
name = "pumps"
topic = "plant/{line}/{pump}/telemetry"
key = "{line}/{pump}"
time = { path = "$.ts", unit = "ms" }
known_normal = "$.ok"
id = "$.id"
feature = [
  { name = "flow", path = "$.flow", scale = 0.5, offset = 1.0, min = 0.0, max = 100.0 },
  { name = "x y", path = "$['x y'].v[1]" },
]
"#;

fn decoder(inputs: &[&str]) -> Decoder {
    let head = "[agent]\nname = 'box'\nstate_directory = 's'\n[mqtt]\nurl = 'mqtt://b'\n";
    let inputs: String = inputs.iter().map(|input| format!("[[input]]\n{input}\n")).collect();
    let source = Source::new(Path::new("agent.toml"), format!("{head}{inputs}"));
    let config = crate::config::Config::parse(&source).expect("a valid configuration");
    Decoder::new(&config.inputs)
}

/// What became of one message that holds one reading at most.
fn decode_at(decoder: &mut Decoder, topic: &str, payload: &[u8], arrival_ms: i64) -> Result<Decoded, Rejection> {
    let mut outcomes = Vec::new();
    decoder.decode(topic, payload, arrival_ms, &mut outcomes);
    assert_eq!(outcomes.len(), 1, "{outcomes:?}");
    match outcomes.remove(0) {
        Outcome::Reading(decoded) => Ok(decoded),
        Outcome::Rejected(rejection) => Err(rejection),
        Outcome::Held(held) => panic!("{held}"),
    }
}

/// What became of each message, in short: the stream and the values, or why there are none.
fn story(decoder: &mut Decoder, messages: &[(&str, &[u8])]) -> Vec<String> {
    let mut outcomes = Vec::new();
    messages.iter().for_each(|(topic, payload)| decoder.decode(topic, payload, ARRIVAL_MS, &mut outcomes));
    let told = outcomes.iter().map(|outcome| match outcome {
        Outcome::Reading(decoded) => format!("{} {:?} @{}", decoded.schema.stream, decoded.values, decoded.time_ms),
        Outcome::Held(held) => held.to_string(),
        Outcome::Rejected(rejection) => rejection.reason().to_owned(),
    });
    told.collect()
}

fn input(topic: &str, key: &str) -> String {
    let name = topic.replace(|c: char| !c.is_ascii_alphanumeric(), "_");
    format!("name = '{name}'\ntopic = '{topic}'\nkey = '{key}'\nfeature = [{{name = 'v', path = '$.v'}}]")
}

const GOOD: &str = r#"{"ts": 1700000000000, "id": "m-1", "flow": 8, "x y": {"v": [0, true]}, "ok": true}"#;

fn pump(payload: &str) -> Result<Decoded, Rejection> {
    decode_at(&mut decoder(&[PUMPS]), "plant/l1/p3/telemetry", payload.as_bytes(), ARRIVAL_MS)
}

fn pump_with(right: &str, wrong: &str) -> Rejection {
    assert!(GOOD.contains(right));
    pump(&GOOD.replace(right, wrong)).expect_err("rejected")
}

fn channel(name: &str) -> ChannelName {
    ChannelName::new(name).expect("valid")
}

#[test]
fn a_message_becomes_a_reading_of_its_stream() {
    let decoded = pump(GOOD).expect("a reading");
    assert_eq!(decoded.schema.stream.as_str(), "l1/p3");
    assert_eq!(decoded.schema.channels, [channel("flow"), channel("x y")]);
    assert_eq!(decoded.time_ms, 1_700_000_000_000);
    assert_eq!(decoded.values, [8.0 * 0.5 + 1.0, 1.0], "scaled, moved; true is 1");
    assert!(decoded.known_normal && decoded.has_producer_id);
}

#[test]
fn what_an_input_does_not_map_has_a_default() {
    let mut decoder = decoder(&[&input("t/{a}", "{a}")]);
    let decoded = decode_at(&mut decoder, "t/x", br#"{"v": false, "id": 3}"#, ARRIVAL_MS).expect("a reading");
    assert_eq!((decoded.time_ms, decoded.values.as_slice()), (ARRIVAL_MS, &[0.0][..]));
    assert!(!decoded.known_normal && !decoded.has_producer_id);
    assert!(!pump(&GOOD.replace(", \"ok\": true", "")).expect("a mark may be missing").known_normal);
}

#[test]
fn the_schema_of_a_stream_is_made_once() {
    let mut decoder = decoder(&[PUMPS]);
    let mut schema = |topic: &str| decode_at(&mut decoder, topic, GOOD.as_bytes(), 0).expect("a reading").schema;
    let first = schema("plant/l1/p3/telemetry");
    assert!(Arc::ptr_eq(&first, &schema("plant/l1/p3/telemetry")));
    assert_eq!(schema("plant/l1/p4/telemetry").stream.as_str(), "l1/p4");
}

#[test]
fn the_first_input_that_matches_takes_the_message() {
    let mut decoder = decoder(&[&input("a/special", "special"), &input("a/{x}", "{x}"), &input("b/{x}/#", "b-{x}")]);
    let mut stream = |topic: &str| decode_at(&mut decoder, topic, b"{\"v\":1}", 0).map(|d| d.schema.stream.to_string());
    assert_eq!(stream("a/special").as_deref(), Ok("special"));
    assert_eq!(stream("a/other").as_deref(), Ok("other"));
    assert_eq!(stream("b/1/x/y").as_deref(), Ok("b-1"));
    assert_eq!(stream("b/1").as_deref(), Ok("b-1"));
    assert_eq!(stream("c/1"), Err(Rejection::UnknownTopic));
}

#[test]
fn filters_cover_every_input_and_none_twice() {
    let inputs = [input("a/special", "k"), input("a/{x}", "{x}"), input("$SYS/load", "k"), input("+/+/b", "k")];
    let inputs: Vec<&str> = inputs.iter().map(String::as_str).collect();
    assert_eq!(decoder(&inputs).filters(), ["a/+", "$SYS/load", "+/+/b"]);
}

#[test]
fn ids_are_stable_and_differ_where_the_message_differs() {
    let id = |payload: &str| pump(payload).expect("a reading").id;
    assert_eq!(id(GOOD), 0xe671_36d6_d3bc_e11b, "the same after a restart and in every version");
    assert_eq!(id(GOOD), id(&GOOD.replace("\"flow\": 8", "\"flow\": 9")), "the producer's id decides");
    assert_ne!(id(GOOD), id(&GOOD.replace("m-1", "m-2")));
    assert_ne!(id(&GOOD.replace("\"m-1\"", "7")), id(&GOOD.replace("\"m-1\"", "\"7\"")));
    let mut other = decoder(&[PUMPS]);
    let elsewhere = decode_at(&mut other, "plant/l1/p4/telemetry", GOOD.as_bytes(), 0).expect("a reading");
    assert_ne!(id(GOOD), elsewhere.id, "another stream has its own ids");
}

#[test]
fn without_a_producer_id_topic_and_payload_decide() {
    let mut decoder = decoder(&[&input("{a}/#", "{a}")]);
    let mut id =
        |topic: &str, payload: &str, at| decode_at(&mut decoder, topic, payload.as_bytes(), at).expect("a reading").id;
    let first = id("a/b", "{\"v\":1}", 0);
    assert_eq!(first, 0x9f59_d903_288d_12ed, "the same after a restart and in every version");
    assert_eq!(first, id("a/b", "{\"v\":1}", 99));
    assert_ne!(first, id("a/c", "{\"v\":1}", 0));
    assert_ne!(first, id("a/b", "{\"v\":2}", 0));
}

#[test]
fn every_wrong_message_is_rejected_for_its_reason() {
    let other_topic = decode_at(&mut decoder(&[PUMPS]), "plant/l1/p3", GOOD.as_bytes(), 0);
    assert_eq!(other_topic, Err(Rejection::UnknownTopic));
    assert_eq!(pump("not JSON"), Err(Rejection::NotJson));
    assert_eq!(pump_with("\"ts\"", "\"t\""), Rejection::MissingTime);
    assert_eq!(pump_with("1700000000000", "null"), Rejection::MissingTime);
    assert_eq!(pump_with("1700000000000", "\"soon\""), Rejection::BadTime);
    assert_eq!(pump_with("1700000000000", "9e18"), Rejection::BadTime);
    assert_eq!(pump_with("\"flow\"", "\"f\""), Rejection::MissingChannel(channel("flow")));
    assert_eq!(pump_with("[0, true]", "[0]"), Rejection::MissingChannel(channel("x y")));
    assert_eq!(pump_with("8", "\"8\""), Rejection::NotANumber(channel("flow")));
    assert_eq!(pump_with("8", "[8]"), Rejection::NotANumber(channel("flow")));
    assert_eq!(pump_with("8", "-2.001"), Rejection::OutOfRange(channel("flow")));
    assert_eq!(pump_with("8", "198.001"), Rejection::OutOfRange(channel("flow")));
    assert!(pump(&GOOD.replace('8', "198")).is_ok(), "the bounds belong to the range, after scale and offset");
    assert_eq!(pump_with("\"ok\": true", "\"ok\": 1"), Rejection::BadMark);
    assert_eq!(pump_with("\"m-1\"", "\"\""), Rejection::BadId);
    assert_eq!(pump_with("\"m-1\"", "1.5"), Rejection::BadId);
    assert_eq!(pump_with("\"id\"", "\"i\""), Rejection::BadId);
    assert_eq!(pump(&format!("{GOOD}{}", " ".repeat(MAX_PAYLOAD_BYTES))), Err(Rejection::TooLarge));
}

#[test]
fn a_result_too_large_to_be_counted_is_out_of_range() {
    let text = "name = 'a'\ntopic = 'a'\nkey = 'a'\nfeature = [{name = 'v', path = '$', scale = 1e308}]";
    let rejection = decode_at(&mut decoder(&[text]), "a", b"1e3", 0);
    assert_eq!(rejection, Err(Rejection::OutOfRange(channel("v"))));
}

#[test]
fn a_topic_that_cannot_name_a_stream_is_rejected() {
    let mut decoder = decoder(&[&input("t/{a}", "{a}")]);
    for level in ["", "a\u{7}b", &"x".repeat(300)] {
        let decoded = decode_at(&mut decoder, &format!("t/{level}"), b"{\"v\":1}", 0);
        assert_eq!(decoded, Err(Rejection::BadStreamName), "{level:?}");
    }
}

#[test]
fn streams_are_bounded_and_only_readings_open_one() {
    let mut decoder = decoder(&[&input("t/{a}", "{a}"), &input("u/{a}", "{a}")]);
    for n in 0..MAX_STREAMS {
        assert_eq!(
            decode_at(&mut decoder, &format!("t/bad{n}"), b"{}", 0),
            Err(Rejection::MissingChannel(channel("v")))
        );
        assert!(decode_at(&mut decoder, &format!("t/{n}"), b"{\"v\":1}", 0).is_ok());
    }
    assert_eq!(decode_at(&mut decoder, "u/0", b"{\"v\":1}", 0), Err(Rejection::TooManyStreams));
    assert!(decode_at(&mut decoder, "t/0", b"{\"v\":1}", 0).is_ok(), "known streams go on");
}

#[test]
fn every_rejection_has_words_and_its_own_reason() {
    let flow = channel("flow");
    let all = [
        Rejection::UnknownTopic,
        Rejection::NotJson,
        Rejection::MissingTime,
        Rejection::BadTime,
        Rejection::MissingChannel(flow.clone()),
        Rejection::NotANumber(flow.clone()),
        Rejection::OutOfRange(flow),
        Rejection::BadStreamName,
        Rejection::TooLarge,
        Rejection::TooManyStreams,
        Rejection::BadMark,
        Rejection::BadId,
    ];
    let reasons: std::collections::BTreeSet<&str> = all.iter().map(Rejection::reason).collect();
    assert_eq!(reasons.len(), all.len());
    assert_eq!(all[6].to_string(), "the value of the channel \"flow\" is out of range");
    assert_eq!(all[8].to_string(), "the payload is larger than 1048576 bytes");
}

/// Messages that are often nearly right.
fn message() -> impl Strategy<Value = Vec<u8>> {
    let damaged = (0..GOOD.len(), proptest::collection::vec(any::<u8>(), 0..4)).prop_map(|(at, bytes)| {
        let mut message = GOOD.as_bytes().to_vec();
        message.splice(at..(at + bytes.len()).min(GOOD.len()), bytes);
        message
    });
    prop_oneof![proptest::collection::vec(any::<u8>(), 0..200), damaged]
}

proptest! {
    #[test]
    fn any_topic_and_any_bytes_are_decoded_or_rejected(
        topic in "plant/[^/]{0,3}/[^/]{0,3}/telemetry|.{0,30}", payload in message(), arrival in any::<i64>()
    ) {
        if let Ok(decoded) = decode_at(&mut decoder(&[PUMPS]), &topic, &payload, arrival) {
            prop_assert_eq!(decoded.values.len(), decoded.schema.channels.len());
            prop_assert!(decoded.values.iter().all(|value| value.is_finite()));
        }
    }
}

#[test]
fn single_values_come_together_to_one_reading() {
    let mut decoder = decoder(&["name = 'line'\nformat = 'value'\ntopic = 'sensors/{line}/{device}/{what}'\n\
                                 key = '{line}/{device}'\nfeature = [{name = 'flow'}, {name = 'motor', values = \
                                 { ON = 1, OFF = 0 }}, {name = 't', field = 'temperature', scale = 0.1}]"]);
    assert_eq!(decoder.filters(), ["sensors/+/+/+"]);
    let told = story(
        &mut decoder,
        &[
            ("sensors/l1/p3/flow", b"7.5"),
            ("sensors/l1/p3/motor", b"ON"),
            ("sensors/l1/p4/temperature", b"1"),
            ("sensors/l1/p3/humidity", b"99"),
            ("sensors/l1/p3/flow", b"8"),
            ("sensors/l1/p3/temperature", b" 215\n"),
            ("sensors/l1/p3/flow", b"9"),
            ("sensors/l1/p3/motor", b"STANDBY"),
        ],
    );
    let expected = [
        "it is kept until the channel \"motor\" has a value, too",
        "it is kept until the channel \"t\" has a value, too",
        "it is kept until the channel \"flow\" has a value, too",
        "it holds none of the input's channels",
        "it is kept until the channel \"t\" has a value, too",
        "l1/p3 [8.0, 1.0, 21.5] @5000",
        "it is kept until the channel \"motor\" has a value, too",
        "not_a_number",
    ];
    assert_eq!(told, expected);
}

#[test]
fn lines_are_a_reading_each_of_the_stream_their_tags_name() {
    let mut decoder = decoder(&["name = 'gateway'\nformat = 'influx'\ntopic = 'lines'\nkey = '{measurement}/{id}'\n\
                                 time = { unit = 's' }\nfeature = [{name = 'flow'}, {name = 'on'}]"]);
    let lines = b"pump,id=p3 flow=1.5,on=t 1700000000\npump flow=1,on=f\nfan,id=f1 flow=2i,on=F,x=9 1700000001\npump,id=p3 flow=1";
    assert_eq!(
        story(&mut decoder, &[("lines", lines)]),
        ["pump/p3 [1.5, 1.0] @1700000000000", "bad_stream_name", "fan/f1 [2.0, 0.0] @1700000001000", "missing_channel"]
    );
    let mut outcomes = Vec::new();
    decoder.decode("lines", b"a,id=1 flow=1,on=t 5\na,id=1 flow=1,on=t 5", 0, &mut outcomes);
    let ids: std::collections::BTreeSet<u64> = outcomes
        .iter()
        .map(|outcome| match outcome {
            Outcome::Reading(decoded) => decoded.id,
            Outcome::Held(_) | Outcome::Rejected(_) => panic!("{outcome:?}"),
        })
        .collect();
    assert_eq!(ids.len(), 2, "two readings of one message are never one");
    let before = outcomes.clone();
    decoder.decode("lines", b"a,id=1 flow=1,on=t 5\na,id=1 flow=1,on=t 5", 0, &mut outcomes);
    assert_eq!(outcomes[2..], before, "and the same message has the same ids, whatever came before it");
}

#[test]
fn a_pack_is_a_reading_for_each_device_and_time() {
    let mut decoder = decoder(&["name = 'coap'\nformat = 'senml'\ntopic = 'senml/{site}'\nkey = '{site}/{base}'\n\
                                 feature = [{name = 'v', field = 'voltage'}, {name = 'c', field = 'dev2:current'}]"]);
    let pack = br#"[{"bn": "dev2:", "bt": 1700000000, "n": "voltage", "v": 230}, {"n": "current", "v": 1.5},
                    {"n": "voltage", "v": 231, "t": 1}]"#;
    assert_eq!(story(&mut decoder, &[("senml/a", pack)]), ["a/dev2 [230.0, 1.5] @1700000000000", "missing_channel"]);
}

#[test]
fn presets_say_what_other_software_does() {
    let mut decoder = decoder(&[
        "name = 'zigbee'\npreset = 'zigbee2mqtt'\nfeature = [{name = 't', path = '$.temperature'}, \
         {name = 'contact', path = '$.contact'}, {name = 'state', path = '$.state', values = {ON = 1, OFF = 0}}]",
        "name = 'tasmota'\npreset = 'tasmota'\nfeature = [{name = 't', path = '$.DS18B20.Temperature'}]\n\
         time = { path = '$.Time', unit = 'auto', zone = '+01:00' }",
        "name = 'homie'\npreset = 'homie5'\nfeature = [{name = 't', field = 'climate/temperature'}, \
         {name = 'on', field = 'relay/on'}]",
        "name = 'edge'\npreset = 'thin_edge'\nfeature = [{name = 't', path = '$.temperature'}, {name = 'x', path = '$.accel.x'}]",
    ]);
    assert_eq!(decoder.filters(), ["zigbee2mqtt/+", "tele/+/SENSOR", "homie/5/+/+/+", "te/device/+///m/+"]);
    let told = story(
        &mut decoder,
        &[
            ("zigbee2mqtt/door", br#"{"contact": true, "battery": 90, "last_seen": "2023-11-14T22:13:20Z"}"#),
            ("zigbee2mqtt/door", br#"{"temperature": 20.5, "state": "ON", "last_seen": 1700000001000}"#),
            ("zigbee2mqtt/door", br#"{"contact": false}"#),
            ("tele/boiler/SENSOR", br#"{"Time": "2023-11-14T23:13:20", "DS18B20": {"Temperature": 21.3}}"#),
            ("homie/5/attic/climate/temperature", b"18.25"),
            ("homie/5/attic/relay/on", b"true"),
            ("te/device/main///m/environment", br#"{"temperature": 23.4, "accel": {"x": 1}, "time": 1700000000}"#),
            ("te/device/main/svc//m/environment", br#"{"temperature": 23.4}"#),
        ],
    );
    let expected = [
        "it is kept until the channel \"t\" has a value, too",
        "door [20.5, 1.0, 1.0] @1700000001000",
        "door [20.5, 0.0, 1.0] @5000",
        "boiler [21.3] @1700000000000",
        "it is kept until the channel \"on\" has a value, too",
        "attic [18.25, 1.0] @5000",
        "main/environment [23.4, 1.0] @1700000000000",
        "unknown_topic",
    ];
    assert_eq!(told, expected);
}

#[test]
fn sparkplug_is_listened_to_by_edge_node_and_read_by_device() {
    let mut decoder = decoder(&[
        "name = 'press'\nformat = 'sparkplug_b'\ntopic = 'spBv1.0/plant/+/{node}/press'\nkey = '{node}'\n\
         feature = [{name = 'flow'}]",
        "name = 'rest'\nformat = 'sparkplug_b'\nfeature = [{name = 'heat', field = 'Heat/1'}]",
    ]);
    assert_eq!(decoder.filters(), ["spBv1.0/+/+/+/#"], "births of the edge node are needed as well");
    let told =
        story(&mut decoder, &[("spBv1.0/plant/DDATA/edge/press", b"\x18\x05"), ("spBv1.0/plant/NCMD/edge", b"")]);
    assert_eq!(told, ["before_birth", "it says that a device came or went"]);
    let asked: Vec<String> = decoder.take_requests().map(|request| request.topic).collect();
    assert_eq!(asked, ["spBv1.0/plant/NCMD/edge"]);
}
