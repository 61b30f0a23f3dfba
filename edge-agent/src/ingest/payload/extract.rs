//! Values from JSON text, by path, in one pass: what no path leads to is skipped, and nothing is built of it.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};

use crate::config::path::{JsonPath, Step};

/// A set of paths as a tree, so that a message is read once whatever their number.
#[derive(Debug, Default)]
pub(super) struct Extractor {
    root: Node,
    slots: Vec<JsonPath>,
}

/// What a path leads to.
#[derive(Debug, Clone, Default, PartialEq)]
pub(in crate::ingest) enum Found<'a> {
    /// Nothing, or `null`.
    #[default]
    Nothing,
    /// A boolean.
    Bool(bool),
    /// An integer.
    Integer(i64),
    /// Another number; finite.
    Number(f64),
    /// A string.
    Text(Cow<'a, str>),
    /// An array or an object.
    Many,
}

/// A place in the message: its own slot, if a path ends here, and the places below it.
#[derive(Debug, Default)]
struct Node {
    slot: Option<usize>,
    members: BTreeMap<String, Self>,
    items: BTreeMap<usize, Self>,
    /// The slots of all places below, to be emptied when a repeated key replaces this place.
    below: Vec<usize>,
}

impl Extractor {
    /// Adds a path and gives its slot, an index into what [`Self::extract`] returns. Equal paths share one.
    pub(super) fn add(&mut self, path: &JsonPath) -> usize {
        if let Some(slot) = self.slots.iter().position(|known| known == path) {
            return slot;
        }
        let slot = self.slots.len();
        self.slots.push(path.clone());
        let mut node = &mut self.root;
        for step in path.steps() {
            node.below.push(slot);
            node = match step {
                Step::Key(name) => node.members.entry(name.clone()).or_default(),
                Step::Index(index) => node.items.entry(*index).or_default(),
            };
        }
        node.slot = Some(slot);
        slot
    }

    /// What each path leads to, by slot; `None` if `message` is not JSON. Of repeated keys the last counts.
    pub(super) fn extract<'a>(&self, message: &'a [u8]) -> Option<Vec<Found<'a>>> {
        let mut found = vec![Found::Nothing; self.slots.len()];
        let mut json = serde_json::Deserializer::from_slice(message);
        Reader { node: &self.root, found: &mut found }.deserialize(&mut json).ok()?;
        json.end().ok()?;
        Some(found)
    }
}

/// Reads the value at one place.
struct Reader<'t, 'f, 'a> {
    node: &'t Node,
    found: &'f mut Vec<Found<'a>>,
}

impl<'a> Reader<'_, '_, 'a> {
    fn set(self, value: Found<'a>) {
        if let Some(slot) = self.node.slot.and_then(|slot| self.found.get_mut(slot)) {
            *slot = value;
        }
    }
}

impl<'a> DeserializeSeed<'a> for Reader<'_, '_, 'a> {
    type Value = ();

    fn deserialize<D: Deserializer<'a>>(self, json: D) -> Result<(), D::Error> {
        for slot in &self.node.below {
            if let Some(value) = self.found.get_mut(*slot) {
                *value = Found::Nothing;
            }
        }
        json.deserialize_any(self)
    }
}

impl<'a> Visitor<'a> for Reader<'_, '_, 'a> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E: Error>(self) -> Result<(), E> {
        self.set(Found::Nothing);
        Ok(())
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<(), E> {
        self.set(Found::Bool(value));
        Ok(())
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<(), E> {
        self.set(Found::Integer(value));
        Ok(())
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<(), E> {
        self.set(i64::try_from(value).map_or(Found::Number(value as f64), Found::Integer));
        Ok(())
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<(), E> {
        self.set(Found::Number(value));
        Ok(())
    }

    fn visit_borrowed_str<E: Error>(self, value: &'a str) -> Result<(), E> {
        self.set(Found::Text(Cow::Borrowed(value)));
        Ok(())
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<(), E> {
        if self.node.slot.is_some() {
            self.set(Found::Text(Cow::Owned(value.to_owned())));
        }
        Ok(())
    }

    fn visit_map<A: MapAccess<'a>>(self, mut members: A) -> Result<(), A::Error> {
        while let Some(child) = members.next_key_seed(Child(&self.node.members))? {
            match child {
                Some(node) => members.next_value_seed(Reader { node, found: &mut *self.found })?,
                None => drop(members.next_value::<IgnoredAny>()?),
            }
        }
        self.set(Found::Many);
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'a>>(self, mut items: A) -> Result<(), A::Error> {
        for index in 0_usize.. {
            let next = match self.node.items.get(&index) {
                Some(node) => items.next_element_seed(Reader { node, found: &mut *self.found })?,
                None => items.next_element::<IgnoredAny>()?.map(drop),
            };
            if next.is_none() {
                break;
            }
        }
        self.set(Found::Many);
        Ok(())
    }
}

/// Looks a key up among the members that paths lead through, without keeping it.
struct Child<'t>(&'t BTreeMap<String, Node>);

impl<'a, 't> DeserializeSeed<'a> for Child<'t> {
    type Value = Option<&'t Node>;

    fn deserialize<D: Deserializer<'a>>(self, json: D) -> Result<Self::Value, D::Error> {
        json.deserialize_str(self)
    }
}

impl<'t> Visitor<'_> for Child<'t> {
    type Value = Option<&'t Node>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_str<E: Error>(self, key: &str) -> Result<Self::Value, E> {
        Ok(self.0.get(key))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::Value;

    fn path(text: &str) -> JsonPath {
        JsonPath::parse(text).expect("a path")
    }

    fn extract<'a>(paths: &[&str], message: &'a str) -> Option<Vec<Found<'a>>> {
        let mut extractor = Extractor::default();
        for (slot, text) in paths.iter().enumerate() {
            assert_eq!(extractor.add(&path(text)), slot);
        }
        extractor.extract(message.as_bytes())
    }

    #[test]
    fn every_kind_of_value_is_found_where_its_path_leads() {
        let message = r#"{"a": {"b": [1, {"c d": -2.5}]}, "t": "x", "e": "\u00e9",
            "yes": true, "no": null, "big": 18446744073709551615}"#;
        let paths =
            ["$.a.b[0]", "$.a.b[1]['c d']", "$.t", "$.e", "$.yes", "$.no", "$.a", "$.a.b", "$.big", "$.x", "$.a.b[9]"];
        assert_eq!(
            extract(&paths, message).expect("JSON"),
            [
                Found::Integer(1),
                Found::Number(-2.5),
                Found::Text(Cow::Borrowed("x")),
                Found::Text(Cow::Owned("é".to_owned())),
                Found::Bool(true),
                Found::Nothing,
                Found::Many,
                Found::Many,
                Found::Number(18_446_744_073_709_551_615.0),
                Found::Nothing,
                Found::Nothing,
            ]
        );
    }

    #[test]
    fn the_whole_message_may_be_the_value() {
        assert_eq!(extract(&["$"], " 21.5 "), Some(vec![Found::Number(21.5)]));
        assert_eq!(extract(&["$", "$.a"], "[1]"), Some(vec![Found::Many, Found::Nothing]));
    }

    #[test]
    fn any_depth_is_skipped_without_recursion() {
        let deep = "[".repeat(100_000) + &"]".repeat(100_000);
        let message = format!("{{\"a\":{deep},\"c\":{deep},\"b\":1}}");
        assert_eq!(extract(&["$.a", "$.b"], &message), Some(vec![Found::Many, Found::Integer(1)]));
        let longest = "[0]".repeat(crate::config::path::MAX_PATH_STEPS);
        assert_eq!(extract(&[&format!("${longest}")], &deep), Some(vec![Found::Many]));
    }

    #[test]
    fn equal_paths_share_a_slot() {
        let mut extractor = Extractor::default();
        assert_eq!(extractor.add(&path("$.a")), 0);
        assert_eq!(extractor.add(&path("$.b")), 1);
        assert_eq!(extractor.add(&path("$['a']")), 0);
    }

    #[test]
    fn of_repeated_keys_the_last_counts() {
        assert_eq!(extract(&["$.a"], r#"{"a":1,"a":2}"#), Some(vec![Found::Integer(2)]));
        assert_eq!(extract(&["$.a.b"], r#"{"a":{"b":1},"a":{}}"#), Some(vec![Found::Nothing]));
        assert_eq!(extract(&["$.a.b"], r#"{"a":{"b":1},"a":3}"#), Some(vec![Found::Nothing]));
        assert_eq!(extract(&["$.a[0]"], r#"{"a":[1],"a":[]}"#), Some(vec![Found::Nothing]));
    }

    #[test]
    fn what_is_not_one_json_value_is_refused() {
        for message in
            ["", "{", "{\"a\":1}x", "{} {}", "nan", "{\"a\":01}", "{'a':1}", "[1,]", "{\"x\":[}}", "{\"a\":1e999}"]
        {
            assert_eq!(extract(&["$.a"], message), None, "{message}");
        }
        assert_eq!(Extractor::default().extract(b"{\"a\xff\":1}"), None);
    }

    fn by_value(value: &Value, path: &JsonPath) -> Option<f64> {
        let mut at = value;
        for step in path.steps() {
            at = match step {
                Step::Key(name) => at.as_object()?.get(name)?,
                Step::Index(index) => at.as_array()?.get(*index)?,
            };
        }
        at.as_f64()
    }

    fn json() -> impl Strategy<Value = Value> {
        let leaf =
            prop_oneof![Just(Value::Null), any::<bool>().prop_map(Value::from), any::<i32>().prop_map(Value::from)];
        leaf.prop_recursive(4, 32, 4, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                proptest::collection::vec(("[ab]", inner), 0..4)
                    .prop_map(|members| Value::Object(members.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(message in proptest::collection::vec(any::<u8>(), 0..100)) {
            let mut extractor = Extractor::default();
            extractor.add(&path("$.a[0].b"));
            extractor.extract(&message);
        }

        #[test]
        fn any_message_gives_what_walking_it_gives(value in json(), text in "\\$((\\.[ab])|(\\[[0-2]\\])){0,4}") {
            let message = value.to_string();
            let found = extract(&[&text], &message).expect("JSON");
            let number = if let Found::Integer(number) = found[0] { Some(number as f64) } else { None };
            prop_assert_eq!(number, by_value(&value, &path(&text)));
        }
    }
}
