//! What metrics are measured in, for whoever looks at them the first time: readings do not need it.

use std::collections::BTreeMap;

use prost::Message;

/// The property of a metric that says it; the specification leaves names of properties free, and gateways agree on this one.
const UNIT: &str = "engUnit";

/// The units that a birth tells, by the names of its metrics. The number of metrics is bounded before.
pub(super) fn told(bytes: &[u8]) -> BTreeMap<String, String> {
    let metrics = Payload::decode(bytes).map(|payload| payload.metrics).unwrap_or_default();
    let told = metrics.into_iter().filter_map(|metric| {
        let PropertySet { keys, values } = metric.properties?;
        let unit = keys.into_iter().zip(values).find(|(key, _)| key == UNIT)?.1.text?;
        Some((metric.name?, unit))
    });
    told.collect()
}

/// A payload, as far as it tells of units (specification 3.0, section 6.4).
#[derive(Clone, PartialEq, Message)]
struct Payload {
    #[prost(message, repeated, tag = "2")]
    metrics: Vec<Metric>,
}

#[derive(Clone, PartialEq, Message)]
struct Metric {
    #[prost(string, optional, tag = "1")]
    name: Option<String>,
    #[prost(message, optional, tag = "9")]
    properties: Option<PropertySet>,
}

#[derive(Clone, PartialEq, Message)]
struct PropertySet {
    #[prost(string, repeated, tag = "1")]
    keys: Vec<String>,
    #[prost(message, repeated, tag = "2")]
    values: Vec<PropertyValue>,
}

#[derive(Clone, PartialEq, Message)]
struct PropertyValue {
    #[prost(string, optional, tag = "8")]
    text: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_unit_is_found_among_other_properties() {
        let value = |text: Option<&str>| PropertyValue { text: text.map(str::to_owned) };
        let metric = |name: &str, properties| Metric { name: Some(name.to_owned()), properties };
        let both = PropertySet {
            keys: vec!["engLow".to_owned(), "engUnit".to_owned()],
            values: vec![value(None), value(Some("bar"))],
        };
        let cut_short = PropertySet { keys: vec!["engUnit".to_owned()], values: Vec::new() };
        let metrics = vec![metric("p", Some(both)), metric("q", None), metric("r", Some(cut_short))];
        let bytes = Payload { metrics }.encode_to_vec();
        assert_eq!(told(&bytes), BTreeMap::from([("p".to_owned(), "bar".to_owned())]));
        assert_eq!(told(&[0xff, 0xff]), BTreeMap::new());
    }
}
