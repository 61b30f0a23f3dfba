//! SenML packs in JSON (RFC 8428): records with base values, resolved, and put together by device and time.

use std::collections::BTreeMap;
use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, Error, IgnoredAny, SeqAccess, Visitor};
use shared::event::UnixMillis;

use super::MAX_READINGS_PER_MESSAGE;
use super::extract::Found;
use super::rejection::Rejection;
use super::time;
use crate::config::input::TimeUnit;

/// The newest version of the format that is understood (RFC 8428, section 4.4).
const VERSION: u32 = 10;
/// Below this, a time is so many seconds before or after now (RFC 8428, section 4.5.3).
const RELATIVE_S: f64 = 268_435_456.0;

/// The values of one device at one time.
#[derive(Debug)]
pub(super) struct Group {
    /// When they were measured.
    pub(super) time_ms: UnixMillis,
    base: String,
    fields: Vec<(String, Found<'static>)>,
}

impl Group {
    /// The base name, without the separator at its end.
    pub(super) fn base(&self) -> &str {
        self.base.trim_end_matches([':', '/', '-', '_', '.'])
    }

    /// Each value under its own name and, if there is a base name, under the whole one as well.
    pub(super) fn fields(&self) -> impl Iterator<Item = (&str, &Found<'_>)> {
        self.fields.iter().map(|(name, value)| (name.as_str(), value))
    }
}

/// The groups of a message, the earliest first.
pub(super) fn read(payload: &[u8], arrival_ms: UnixMillis) -> Result<Vec<Group>, Rejection> {
    let pack: Pack = serde_json::from_slice(payload).map_err(|error| malformed(error.to_string()))?;
    if pack.is_too_long {
        return Err(Rejection::TooManyReadings);
    }
    let mut base = Base::default();
    let mut groups: BTreeMap<(UnixMillis, String), Vec<(String, Found<'static>)>> = BTreeMap::new();
    for record in pack.records {
        if let Some(member) = record.other.keys().find(|name| name.ends_with('_')) {
            return Err(malformed(format!("{member:?} has to be understood, and is not")));
        }
        base.take(&record)?;
        let Some(value) = record.value(&base) else { continue };
        let time_ms = base.time_ms(record.t.unwrap_or(0.0), arrival_ms)?;
        let fields = groups.entry((time_ms, base.name.clone())).or_default();
        let own = record.n.unwrap_or_default();
        if !base.name.is_empty() {
            fields.push((format!("{}{own}", base.name), value.clone()));
        }
        fields.push((own, value));
    }
    Ok(groups.into_iter().map(|((time_ms, base), fields)| Group { time_ms, base, fields }).collect())
}

/// What the values of a message are measured in, by their own names, as they say it (RFC 8428, section 4.3): for whoever looks at
/// them the first time.
pub(super) fn units(payload: &[u8]) -> BTreeMap<String, String> {
    let pack = serde_json::from_slice::<Pack>(payload).map(|pack| pack.records).unwrap_or_default();
    let mut base = None;
    let mut units = BTreeMap::new();
    for record in pack {
        base = record.bu.or(base);
        if let Some(unit) = record.u.or_else(|| base.clone()) {
            units.insert(record.n.unwrap_or_default(), unit);
        }
    }
    units
}

fn malformed(problem: String) -> Rejection {
    Rejection::Malformed { format: "SenML pack", problem }
}

/// What holds for the records that follow.
#[derive(Debug, Default)]
struct Base {
    name: String,
    time_s: f64,
    value: f64,
}

impl Base {
    fn take(&mut self, record: &Record) -> Result<(), Rejection> {
        if let Some(version) = record.bver.filter(|version| *version > VERSION) {
            return Err(malformed(format!("its version is {version}; understood is {VERSION}")));
        }
        if let Some(name) = &record.bn {
            self.name.clone_from(name);
        }
        self.time_s = record.bt.unwrap_or(self.time_s);
        self.value = record.bv.unwrap_or(self.value);
        Ok(())
    }

    fn time_ms(&self, seconds: f64, arrival_ms: UnixMillis) -> Result<UnixMillis, Rejection> {
        let seconds = self.time_s + seconds;
        let time_ms = if seconds < RELATIVE_S { arrival_ms as f64 + seconds * 1000.0 } else { seconds * 1000.0 };
        time::parse(&Found::Number(time_ms), TimeUnit::Ms, None).ok_or(Rejection::BadTime)
    }
}

#[derive(Debug, Deserialize)]
struct Record {
    bn: Option<String>,
    bt: Option<f64>,
    bv: Option<f64>,
    bu: Option<String>,
    bver: Option<u32>,
    n: Option<String>,
    t: Option<f64>,
    u: Option<String>,
    v: Option<f64>,
    vs: Option<String>,
    vb: Option<bool>,
    #[serde(flatten)]
    other: BTreeMap<String, IgnoredAny>,
}

impl Record {
    /// The base value is of numbers only (RFC 8428, section 4.1).
    fn value(&self, base: &Base) -> Option<Found<'static>> {
        let number = self.v.map(|value| Found::Number(base.value + value));
        number.or_else(|| self.vb.map(Found::Bool)).or_else(|| self.vs.clone().map(|text| Found::Text(text.into())))
    }
}

/// The records of a pack, no more than are taken.
#[derive(Debug)]
struct Pack {
    records: Vec<Record>,
    is_too_long: bool,
}

impl<'de> Deserialize<'de> for Pack {
    fn deserialize<D: Deserializer<'de>>(json: D) -> Result<Self, D::Error> {
        json.deserialize_seq(PackVisitor)
    }
}

struct PackVisitor;

impl<'de> Visitor<'de> for PackVisitor {
    type Value = Pack;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array of records")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Pack, A::Error> {
        let mut records = Vec::new();
        while records.len() < MAX_READINGS_PER_MESSAGE {
            match items.next_element()? {
                Some(record) => records.push(record),
                None if records.is_empty() => return Err(A::Error::custom("there is no record")),
                None => return Ok(Pack { records, is_too_long: false }),
            }
        }
        let mut is_too_long = false;
        while items.next_element::<IgnoredAny>()?.is_some() {
            is_too_long = true;
        }
        Ok(Pack { records, is_too_long })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW_MS: UnixMillis = 1_700_000_000_000;

    fn groups(text: &str) -> Vec<Group> {
        read(text.as_bytes(), NOW_MS).expect("a pack")
    }

    fn problem(text: &str) -> String {
        read(text.as_bytes(), NOW_MS).expect_err("wrong").to_string()
    }

    #[test]
    fn base_values_hold_for_what_follows() {
        let found = groups(
            r#"[{"bn": "urn:dev:mac:0024befffe804ff1:", "bt": 1276020076.5, "bu": "A", "bver": 5,
                 "n": "voltage", "u": "V", "v": 120.1},
                {"n": "current", "t": -5, "v": 1.2},
                {"n": "current", "v": 1.7, "s": 3}]"#,
        );
        assert_eq!(found.len(), 2, "one for each time");
        assert_eq!((found[0].time_ms, found[1].time_ms), (1_276_020_071_500, 1_276_020_076_500));
        assert_eq!(found[0].base(), "urn:dev:mac:0024befffe804ff1");
        let names: Vec<&str> = found[1].fields().map(|(name, _)| name).collect();
        assert_eq!(
            names,
            ["urn:dev:mac:0024befffe804ff1:voltage", "voltage", "urn:dev:mac:0024befffe804ff1:current", "current"]
        );
        assert_eq!(found[1].fields().last(), Some(("current", &Found::Number(1.7))));
        let told = units(br#"[{"bu": "A", "n": "voltage", "u": "V", "v": 120.1}, {"n": "current", "v": 1.2}]"#);
        let expected = [("current", "A"), ("voltage", "V")].map(|(name, unit)| (name.to_owned(), unit.to_owned()));
        assert_eq!(told, BTreeMap::from(expected));
    }

    #[test]
    fn small_times_are_relative_and_base_values_are_added() {
        let found =
            groups(r#"[{"bv": 20.0, "n": "t", "v": 1.5, "t": -60}, {"n": "on", "vb": true}, {"n": "s", "vs": "x"}]"#);
        assert_eq!((found[0].time_ms, found[1].time_ms), (NOW_MS - 60_000, NOW_MS));
        assert_eq!(found[0].fields().next(), Some(("t", &Found::Number(21.5))));
        let rest: Vec<&Found<'_>> = found[1].fields().map(|(_, value)| value).collect();
        assert_eq!(rest, [&Found::Bool(true), &Found::Text("x".into())]);
    }

    #[test]
    fn what_is_no_pack_or_has_to_be_understood_is_refused() {
        assert!(problem("{}").contains("an array of records"));
        assert!(problem("[]").contains("there is no record"));
        assert!(problem(r#"[{"n": 7}]"#).contains("expected a string"));
        assert!(problem(r#"[{"bver": 11, "v": 1}]"#).contains("its version is 11; understood is 10"));
        assert!(problem(r#"[{"n": "a", "v": 1, "must_": 1}]"#).contains("\"must_\" has to be understood"));
        assert_eq!(read(br#"[{"v": 1, "t": 1e300}]"#, NOW_MS).expect_err("no time"), Rejection::BadTime);
        let many = format!("[{}{{\"v\":1}}]", "{\"v\":1},".repeat(MAX_READINGS_PER_MESSAGE));
        assert_eq!(read(many.as_bytes(), NOW_MS).expect_err("too many"), Rejection::TooManyReadings);
    }
}
