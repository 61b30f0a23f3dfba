//! Values by name, and what a value is worth to its channel.

use std::borrow::Cow;
use std::collections::BTreeMap;

use super::extract::Found;
use super::rejection::Rejection;
use crate::config::input::{Feature, Place};

/// The channels of one input.
#[derive(Debug)]
pub(super) struct Channels {
    features: Vec<Feature>,
    /// Which channels a field is a value of.
    fields: BTreeMap<String, Vec<usize>>,
}

impl Channels {
    pub(super) fn new(features: &[Feature]) -> Self {
        let mut fields: BTreeMap<String, Vec<usize>> = BTreeMap::new();
        for (index, feature) in features.iter().enumerate() {
            if let Place::Field(name) = &feature.place {
                fields.entry(name.clone()).or_default().push(index);
            }
        }
        Self { features: features.to_vec(), fields }
    }

    pub(super) fn features(&self) -> &[Feature] {
        &self.features
    }

    /// One value per channel, `NaN` where no field has one; of repeated fields the last counts.
    pub(super) fn by_name<'f>(
        &self,
        fields: impl Iterator<Item = (&'f str, &'f Found<'f>)>,
    ) -> Result<Vec<f64>, Rejection> {
        let mut values = vec![f64::NAN; self.features.len()];
        for (name, found) in fields {
            for index in self.fields.get(name).into_iter().flatten() {
                if let (Some(feature), Some(place)) = (self.features.get(*index), values.get_mut(*index)) {
                    *place = value(found, feature)?;
                }
            }
        }
        Ok(values)
    }
}

/// What `found` is worth, `NaN` if it is nothing.
pub(super) fn value(found: &Found<'_>, feature: &Feature) -> Result<f64, Rejection> {
    let raw = match found {
        Found::Nothing => return Ok(f64::NAN),
        Found::Text(text) => match feature.values.iter().find(|(known, _)| known == text) {
            Some((_, value)) => *value,
            None => return Err(Rejection::NotANumber(feature.name.clone())),
        },
        Found::Many => return Err(Rejection::NotANumber(feature.name.clone())),
        Found::Bool(value) => f64::from(u8::from(*value)),
        Found::Integer(value) => *value as f64,
        Found::Number(value) => *value,
    };
    let value = raw * feature.scale + feature.offset;
    if value.is_finite() && feature.min <= value && value <= feature.max {
        Ok(value)
    } else {
        Err(Rejection::OutOfRange(feature.name.clone()))
    }
}

/// A whole payload as one value: a number, `true` or `false`, or another text.
pub(super) fn of_text(payload: &[u8]) -> Result<Found<'_>, Rejection> {
    let Ok(text) = std::str::from_utf8(payload) else {
        return Err(Rejection::Malformed { format: "text", problem: "it is not UTF-8".to_owned() });
    };
    let text = text.trim();
    let number = || text.parse().ok().filter(|number: &f64| number.is_finite()).map(Found::Number);
    Ok(match text {
        "" => Found::Nothing,
        "true" => Found::Bool(true),
        "false" => Found::Bool(false),
        text => text.parse().map(Found::Integer).ok().or_else(number).unwrap_or(Found::Text(Cow::Borrowed(text))),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_a_number_a_boolean_or_itself() {
        let found = |text: &'static str| of_text(text.as_bytes()).expect("text");
        assert_eq!(found(" 76.25\n"), Found::Number(76.25));
        assert_eq!(found("-3"), Found::Integer(-3));
        assert_eq!((found("true"), found("false")), (Found::Bool(true), Found::Bool(false)));
        assert_eq!(found("ON"), Found::Text("ON".into()));
        assert_eq!(found("  "), Found::Nothing);
        for odd in ["NaN", "inf", "1e999"] {
            assert_eq!(found(odd), Found::Text(odd.into()), "no number that can be counted with");
        }
        assert_eq!(of_text(b"\xff").expect_err("no text").reason(), "malformed");
    }
}
