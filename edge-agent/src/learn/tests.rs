use super::*;

const NOW_MS: UnixMillis = 1_700_000_000_000;

fn learnt(messages: &[(&str, String)]) -> Learner {
    let mut learner = Learner::default();
    for (at, (topic, payload)) in messages.iter().enumerate() {
        learner.hear(topic, payload.as_bytes(), NOW_MS + at as i64 * 500);
    }
    learner
}

fn proposals(messages: &[(&str, String)]) -> Vec<String> {
    let learner = learnt(messages);
    let proposals = learner.propose();
    let check = learner.check(&proposals).unwrap_or_else(|| panic!("it cannot be used: {proposals:#?}"));
    assert!(check.contains(", 0 rejected"), "{check}: {proposals:#?}");
    proposals.into_iter().map(|proposal| proposal.toml).collect()
}

#[test]
fn topics_that_hold_the_same_are_one_input_with_captures_where_they_differ() {
    let message = |n: i64| {
        format!(
            r#"{{"ts": {}, "id": "m-{n}", "flow": {}.5, "motor": {{"temperature": 40}}, "state": "ON", "unit": "l"}}"#,
            NOW_MS + n,
            n
        )
    };
    let messages: Vec<(&str, String)> = (0..8)
        .map(|n| (["plant/line1/pump3/telemetry", "plant/line1/pump4/telemetry"][n % 2], message(n as i64)))
        .collect();
    assert_eq!(
        proposals(&messages),
        [r#"# 2 streams (line1/pump3, line1/pump4); 8 messages heard, on each topic one in 1.0 s
[[input]]
name = "telemetry"
topic = "plant/{line}/{pump}/telemetry"
key = "{line}/{pump}"
time = { path = "$.ts", unit = "ms" }
id = "$.id"
feature = [
  { name = "flow", path = "$.flow" }, # 0.5 to 7.5
  { name = "temperature", path = "$.motor.temperature", unit = "Cel" }, # always 40
  { name = "state", path = "$.state", values = { "OFF" = 0, "ON" = 1 } },
]"#]
    );
}

#[test]
fn bare_values_are_named_by_the_last_level_that_differs() {
    let messages: Vec<(&str, String)> = (0..12)
        .map(|n| {
            let topic = ["hall/press1/force", "hall/press1/speed", "hall/press2/force", "hall/press2/speed"][n % 4];
            (topic, format!("{n}.25"))
        })
        .collect();
    assert_eq!(
        proposals(&messages),
        [r#"# 2 streams (press1, press2); 12 messages heard, on each topic one in 2.0 s
[[input]]
name = "hall"
topic = "hall/{press}/{quantity}"
key = "{press}"
format = "value"
feature = [
  { name = "force" }, # 0.25 to 10.25
  { name = "speed" }, # 1.25 to 11.25
]"#]
    );
}

#[test]
fn presets_lines_and_packs_are_seen_for_what_they_are() {
    let text = |text: &str| text.to_owned();
    let zigbee: Vec<(&str, String)> = vec![
        ("zigbee2mqtt/door", text(r#"{"contact": true}"#)),
        ("zigbee2mqtt/door", text(r#"{"contact": false, "battery": 90}"#)),
    ];
    let found = proposals(&zigbee);
    assert!(found[0].contains("preset = \"zigbee2mqtt\"\nfeature = ["), "{}", found[0]);
    let tasmota = vec![("tele/plug/SENSOR", text(r#"{"ENERGY": {"Power": 1, "Voltage": 230}}"#))];
    let found = proposals(&tasmota);
    assert!(found[0].starts_with("# 1 stream (plug); "), "{}", found[0]);
    let homie: Vec<(&str, String)> =
        vec![("homie/5/attic/climate/temperature", text("18.5")), ("homie/5/attic/climate/humidity", text("55"))];
    let found = proposals(&homie);
    assert!(found[0].contains("preset = \"homie5\""), "{}", found[0]);
    assert!(
        found[0].contains(r#"{ name = "humidity", field = "climate/humidity", unit = "%" }, # always 55"#),
        "{}",
        found[0]
    );
    let lines = vec![("lines", text("pump,site=a flow=1,on=t 1700000000000000000"))];
    let found = proposals(&lines);
    assert!(found[0].contains("key = \"{measurement}/{site}\"\nformat = \"influx\""), "{}", found[0]);
    let packs = vec![("senml", text(r#"[{"bn": "dev1:", "n": "t", "v": 1}, {"n": "u", "v": 2}]"#))];
    let found = proposals(&packs);
    assert!(found[0].contains("key = \"{base}\"\nformat = \"senml\""), "{}", found[0]);
    let pack = |base: &str, unit: &str| text(&format!(r#"[{{"bn": "{base}:", "n": "t", "u": "{unit}", "v": 1}}]"#));
    let found = proposals(&[("senml", pack("dev1", "Cel"))]);
    assert!(found[0].contains(r#"{ name = "t", unit = "Cel" }, # always 1"#), "{}", found[0]);
    let found = proposals(&[("senml", pack("dev1", "Cel")), ("senml", pack("dev2", "Far"))]);
    assert!(found[0].contains(r#"{ name = "t" }, # always 1, in Cel and in Far"#), "{}", found[0]);
}

#[test]
fn a_count_is_no_id_and_no_channel() {
    let message = |n: usize| format!(r#"{{"seq": {n}, "flow": {n}.5, "state": "Open"}}"#);
    let messages: Vec<(&str, String)> = (0..5).map(|n| ("x/y", message(n))).collect();
    let found = proposals(&messages);
    assert!(!found[0].contains("seq") && found[0].contains("flow"), "{}", found[0]);
    assert!(found[0].contains(r#"values = { "Closed" = 0, "Open" = 1 }"#), "{}", found[0]);
    let door: Vec<(&str, String)> = ["open", "close"].map(|state| ("x/y", format!(r#"{{"door": "{state}"}}"#))).into();
    let found = proposals(&door);
    assert!(found[0].contains(r#"values = { "close" = 0, "open" = 1 }"#), "{}", found[0]);
}

#[test]
fn what_software_says_of_itself_is_no_measurement() {
    let learner = learnt(&[
        ("homie/5/attic/$description", r#"{"version": 3}"#.to_owned()),
        ("homie/5/attic/$state", "ready".to_owned()),
        ("zigbee2mqtt/bridge/info", r#"{"coordinator": {"revision": 1}}"#.to_owned()),
    ]);
    assert_eq!((learner.propose(), learner.unread().count(), learner.messages()), (vec![], 0, 3));
}

#[test]
fn what_holds_no_number_is_not_proposed_and_what_is_nothing_is_named() {
    let mut learner = learnt(&[("plant/name", "\"press\"".to_owned())]);
    learner.hear("plant/picture", &[0xff, 0xd8, 0xff, 0], NOW_MS);
    assert_eq!(learner.propose(), []);
    assert_eq!(learner.unread().collect::<Vec<_>>(), [("plant/picture", 1)]);
    assert_eq!(learner.messages(), 2);
}

#[test]
fn messages_that_hold_now_this_and_now_that_are_completed_by_the_last() {
    let message =
        |n: usize| if n.is_multiple_of(2) { r#"{"a": 1, "b": 2}"#.to_owned() } else { r#"{"a": 1}"#.to_owned() };
    let messages: Vec<(&str, String)> = (0..4).map(|n| ("x/y", message(n))).collect();
    let found = proposals(&messages);
    assert!(found[0].contains("missing = \"last\""), "{}", found[0]);
    assert!(found[0].contains("topic = \"x/y\"\nkey = \"y\""), "{}", found[0]);
}
