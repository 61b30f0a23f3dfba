//! What is in a message, for whoever has no configuration yet: which format it is, and which values it holds.

use std::collections::BTreeMap;

use serde_json::Value;
use shared::event::UnixMillis;

use super::extract::Found;
use super::sparkplug::{self, SparkplugTopic};
use super::{fields, influx, senml, time};
use crate::config::input::{FormatName, TimeUnit, Zone};

/// A time this far from that of arrival is none: clocks are wrong by hours, not by days.
const TIME_TOLERANCE_MS: u64 = 86_400_000;
/// Levels of a JSON message that are looked into.
const MAX_DEPTH: usize = 8;
/// Items of an array that are looked at: longer ones are waveforms.
const MAX_ITEMS: usize = 16;
/// Values of one message that are looked at.
const MAX_FIELDS: usize = 512;

/// One message, looked at.
#[derive(Debug, Clone, PartialEq)]
pub struct Survey {
    /// How it is written.
    pub format: FormatName,
    /// What it holds: paths of JSON, names of the others, the empty one of a bare value.
    pub fields: Vec<(String, Scalar)>,
    /// What else the key of a stream may use.
    pub names: Vec<String>,
    /// What they are measured in, by their names, as far as the message tells.
    pub units: BTreeMap<String, String>,
}

/// A value.
#[derive(Debug, Clone, PartialEq)]
pub enum Scalar {
    /// A number.
    Number(f64),
    /// A boolean.
    Bool(bool),
    /// A text.
    Text(String),
}

impl Survey {
    /// Looks at a message; `None` if it is nothing that is known.
    #[must_use]
    pub fn of(topic: &str, payload: &[u8]) -> Option<Self> {
        if let Some(topic) = SparkplugTopic::parse(topic) {
            let metrics = sparkplug::named_metrics(&topic, payload)?;
            let fields = metrics.into_iter().filter_map(|(name, value)| Some((name, scalar(&value)?))).collect();
            let units = sparkplug::told_units(payload);
            return Some(Self { format: FormatName::SparkplugB, fields, names: Vec::new(), units });
        }
        let json = serde_json::from_slice(payload).ok();
        match json {
            Some(Value::Array(_)) if let Ok(groups) = senml::read(payload, 0) => {
                let mut fields = Vec::new();
                for group in &groups {
                    let own =
                        group.fields().filter(|(name, _)| group.base().is_empty() || !name.starts_with(group.base()));
                    fields.extend(own.filter_map(|(name, value)| Some((name.to_owned(), scalar(value)?))));
                }
                let names = groups.iter().any(|group| !group.base().is_empty()).then(|| "base".to_owned());
                let names = names.into_iter().collect();
                Some(Self { format: FormatName::Senml, fields, names, units: senml::units(payload) })
            }
            Some(json @ (Value::Object(_) | Value::Array(_))) => {
                let mut fields = Vec::new();
                walk(&json, &mut "$".to_owned(), MAX_DEPTH, &mut fields);
                Some(Self { format: FormatName::Json, fields, names: Vec::new(), units: BTreeMap::new() })
            }
            Some(Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_)) => bare(payload),
            None => lines(payload).or_else(|| bare(payload)),
        }
    }
}

/// How `value` says a time near `arrival_ms`, if it does; of a text without a zone, where it was written.
#[must_use]
pub fn as_time(value: &Scalar, arrival_ms: UnixMillis) -> Option<(TimeUnit, Option<&'static str>)> {
    let found = match value {
        Scalar::Number(number) => Found::Number(*number),
        Scalar::Text(text) => Found::Text(text.into()),
        Scalar::Bool(_) => return None,
    };
    let is_near = |unit, zone| {
        time::parse(&found, unit, zone).is_some_and(|time_ms| time_ms.abs_diff(arrival_ms) < TIME_TOLERANCE_MS)
    };
    let unit = TimeUnit::ALL.into_iter().find(|unit| *unit != TimeUnit::Auto && is_near(*unit, None));
    let local = || is_near(TimeUnit::Rfc3339, Some(Zone::Local)).then_some((TimeUnit::Rfc3339, Some("local")));
    unit.map(|unit| (unit, None)).or_else(local)
}

fn bare(payload: &[u8]) -> Option<Survey> {
    let value = scalar(&fields::of_text(payload).ok()?)?;
    let is_value = match &value {
        Scalar::Number(_) | Scalar::Bool(_) => true,
        Scalar::Text(text) => text.len() <= 32 && !text.chars().any(char::is_control),
    };
    let fields = vec![(String::new(), value)];
    is_value.then(|| Survey { format: FormatName::Value, fields, names: Vec::new(), units: BTreeMap::new() })
}

fn lines(payload: &[u8]) -> Option<Survey> {
    let lines: Vec<influx::Line<'_>> = influx::lines(payload).ok()?.collect::<Result<_, _>>().ok()?;
    let first = lines.first()?;
    let names = std::iter::once("measurement".to_owned()).chain(first.tag_names().map(str::to_owned)).collect();
    let fields = lines.iter().flat_map(influx::Line::fields);
    let fields = fields.filter_map(|(name, value)| Some((name.to_owned(), scalar(value)?))).take(MAX_FIELDS).collect();
    Some(Survey { format: FormatName::Influx, fields, names, units: BTreeMap::new() })
}

fn walk(value: &Value, path: &mut String, depth: usize, fields: &mut Vec<(String, Scalar)>) {
    if fields.len() == MAX_FIELDS {
        return;
    }
    let length = path.len();
    match value {
        Value::Null => {}
        Value::Bool(value) => fields.push((path.clone(), Scalar::Bool(*value))),
        Value::Number(number) => {
            fields.extend(number.as_f64().map(|number| (path.clone(), Scalar::Number(number))));
        }
        Value::String(text) => fields.push((path.clone(), Scalar::Text(text.clone()))),
        Value::Array(items) if depth > 0 && items.len() <= MAX_ITEMS => {
            for (index, item) in items.iter().enumerate() {
                path.push_str(&format!("[{index}]"));
                walk(item, path, depth - 1, fields);
                path.truncate(length);
            }
        }
        Value::Object(members) if depth > 0 => {
            for (name, member) in members {
                path.push_str(&step(name));
                walk(member, path, depth - 1, fields);
                path.truncate(length);
            }
        }
        Value::Array(_) | Value::Object(_) => {}
    }
}

/// A step to a member, in the shorter notation where it can be said so.
fn step(name: &str) -> String {
    let is_simple =
        name.chars().enumerate().all(|(at, c)| c == '_' || c.is_ascii_alphabetic() || at > 0 && c.is_ascii_digit());
    if is_simple && !name.is_empty() {
        return format!(".{name}");
    }
    format!("['{}']", name.replace('\\', "\\\\").replace('\'', "\\'"))
}

fn scalar(found: &Found<'_>) -> Option<Scalar> {
    match found {
        Found::Nothing | Found::Many => None,
        Found::Bool(value) => Some(Scalar::Bool(*value)),
        Found::Integer(value) => Some(Scalar::Number(*value as f64)),
        Found::Number(value) => Some(Scalar::Number(*value)),
        Found::Text(text) => Some(Scalar::Text(text.clone().into_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn survey(topic: &str, payload: &str) -> Survey {
        Survey::of(topic, payload.as_bytes()).expect("it is known")
    }

    #[test]
    fn a_format_is_seen_by_what_is_in_a_message() {
        let json = survey("a", r#"{"t": 21.5, "x y": [1, true], "n": null, "s": "on"}"#);
        assert_eq!(json.format, FormatName::Json);
        let paths: Vec<&str> = json.fields.iter().map(|(path, _)| path.as_str()).collect();
        assert_eq!(paths, ["$.t", "$['x y'][0]", "$['x y'][1]", "$.s"]);
        let value = survey("a", "21.5");
        assert_eq!((value.format, value.fields), (FormatName::Value, vec![(String::new(), Scalar::Number(21.5))]));
        assert_eq!(survey("a", "ON").format, FormatName::Value);
        let influx = survey("a", "pump,site=x flow=1,on=t 17");
        assert_eq!(
            (influx.format, influx.names),
            (FormatName::Influx, vec!["measurement".to_owned(), "site".to_owned()])
        );
        let senml = survey("a", r#"[{"bn": "dev1:", "n": "t", "v": 1}]"#);
        assert_eq!((senml.format, senml.fields), (FormatName::Senml, vec![("t".to_owned(), Scalar::Number(1.0))]));
        assert_eq!(survey("a", "[1, 2]").format, FormatName::Json);
        assert_eq!(Survey::of("a", &[0, 159, 146, 150]), None);
        assert_eq!(Survey::of("spBv1.0/g/NBIRTH/n", b"no payload"), None);
    }

    #[test]
    fn a_time_is_seen_by_being_near() {
        let now = 1_700_000_000_000;
        assert_eq!(as_time(&Scalar::Number(1_700_000_123.0), now), Some((TimeUnit::S, None)));
        assert_eq!(as_time(&Scalar::Number(1_700_000_000_500.0), now), Some((TimeUnit::Ms, None)));
        assert_eq!(as_time(&Scalar::Text("2023-11-14T22:13:20Z".into()), now), Some((TimeUnit::Rfc3339, None)));
        let (_, zone) = as_time(&Scalar::Text("2023-11-14T22:13:20".into()), now).expect("a time");
        assert_eq!(zone, Some("local"));
        assert_eq!(as_time(&Scalar::Number(21.5), now), None);
    }
}
