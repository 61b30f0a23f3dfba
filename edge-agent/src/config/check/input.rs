//! The checks of what the file says of messages.

use std::collections::BTreeSet;
use std::str::FromStr;

use shared::ids::ChannelName;
use shared::limits::{MAX_CHANNELS, MAX_ID_BYTES};
use toml::Spanned;

use super::{Checker, named};
use crate::config::input::{
    Feature, Format, FormatName, Input, MAX_VALUES, Missing, Place, TimeSource, TimeUnit, Zone,
};
use crate::config::path::JsonPath;
use crate::config::preset::{Preset, SPARKPLUG_KEY, SPARKPLUG_TOPIC};
use crate::config::topic::{Named, StreamKey, TopicPattern};
use crate::config::{MAX_UNIT_BYTES, is_unit, raw};
use crate::core::spool::{Shedding, WhenFull};

impl Checker<'_> {
    pub(super) fn inputs(&mut self, raw: &[Spanned<raw::Input>], of_spool: Option<WhenFull>) -> Option<Vec<Input>> {
        if raw.is_empty() {
            self.problems.at(0..0, "there is no [[input]]; at least one says which messages are readings");
            return None;
        }
        let checked: Vec<Option<Input>> = raw.iter().map(|input| self.input(input.get_ref(), of_spool)).collect();
        self.no_repeats(raw.iter().map(|input| &input.get_ref().name), "input");
        for (index, later) in checked.iter().enumerate() {
            let Some(later) = later else { continue };
            let mut earlier = checked[..index].iter().flatten();
            if let Some(earlier) = earlier.find(|earlier| earlier.topic.covers(&later.topic)) {
                let message = format!(
                    "input {:?} above takes every message of this topic; put the narrower topic first",
                    earlier.name
                );
                let raw = raw[index].get_ref();
                self.fail::<()>(raw.topic.as_ref().unwrap_or(&raw.name), message);
            }
        }
        checked.into_iter().collect()
    }

    fn input(&mut self, raw: &raw::Input, of_spool: Option<WhenFull>) -> Option<Input> {
        let name = self.text(&raw.name, parse_input_name);
        let preset = self.optional(raw.preset.as_ref(), |checker, preset| checker.text(preset, parse_preset));
        let format = self.format(raw, preset.flatten());
        let topic = self.topic(raw, preset, format);
        let key = topic.as_ref().zip(format).and_then(|(topic, format)| self.key(raw, preset, topic, format));
        let full_format = format.zip(topic.as_ref().zip(key.as_ref()));
        let full_format = full_format.and_then(|(format, (topic, key))| self.full_format(raw, format, topic, key));
        let default = preset.flatten().map_or_else(|| format.map(FormatName::missing), |preset| Some(preset.missing));
        let missing = match &raw.missing {
            Some(rule) => self.text(rule, |name| named(name, "rule for a missing value", Missing::ALL, Missing::name)),
            None => default,
        };
        let time = self.time(raw, preset.flatten(), format);
        let known_normal = self.optional(raw.known_normal.as_ref(), Self::json_path);
        let id = self.optional(raw.id.as_ref(), Self::json_path);
        self.only_of_json(raw, format);
        let shedding = self.optional(raw.when_full.as_ref(), |checker, rule| checker.shedding(rule, of_spool));
        let features = self.features(&raw.feature, format, full_format.as_ref());
        preset?;
        Some(Input {
            name: name?,
            topic: topic?,
            format: full_format?,
            key: key?,
            missing: missing?,
            time: time?,
            known_normal: known_normal?,
            shedding: shedding?.flatten(),
            id: id?,
            features: features?,
        })
    }

    fn format(&mut self, raw: &raw::Input, preset: Option<Preset>) -> Option<FormatName> {
        let Some(given) = &raw.format else {
            return Some(preset.map_or(FormatName::Json, |preset| preset.format));
        };
        let format = self.text(given, |name| named(name, "format", FormatName::ALL, FormatName::name))?;
        match preset {
            Some(preset) if preset.format != format => self
                .fail(given, format!("the preset {} is {}; leave one of both out", preset.name, preset.format.name())),
            Some(_) | None => Some(format),
        }
    }

    fn topic(
        &mut self,
        raw: &raw::Input,
        preset: Option<Option<Preset>>,
        format: Option<FormatName>,
    ) -> Option<TopicPattern> {
        let is_sparkplug = format == Some(FormatName::SparkplugB);
        match (&raw.topic, preset?) {
            (Some(topic), _) if is_sparkplug => {
                let parsed = self.text(topic, TopicPattern::parse)?;
                if !parsed.is_of_sparkplug() {
                    let message = format!("topics of Sparkplug B are {SPARKPLUG_TOPIC}; name or narrow its levels");
                    return self.fail(topic, message);
                }
                Some(parsed)
            }
            (Some(topic), _) => self.text(topic, TopicPattern::parse),
            (None, Some(preset)) => TopicPattern::parse(preset.topic).ok(),
            (None, None) if is_sparkplug => TopicPattern::parse(SPARKPLUG_TOPIC).ok(),
            (None, None) => self.fail(&raw.name, "`topic` is missing: the MQTT topics of its messages"),
        }
    }

    fn key(
        &mut self,
        raw: &raw::Input,
        preset: Option<Option<Preset>>,
        topic: &TopicPattern,
        format: FormatName,
    ) -> Option<StreamKey> {
        let names = match format {
            FormatName::Json | FormatName::Value | FormatName::SparkplugB => Named::Nothing,
            FormatName::Influx => Named::Anything,
            FormatName::Senml => Named::Only("base"),
        };
        let default = match (preset?, format) {
            (Some(preset), _) => Some(preset.key),
            (None, FormatName::SparkplugB) => Some(SPARKPLUG_KEY),
            (None, FormatName::Json | FormatName::Value | FormatName::Influx | FormatName::Senml) => None,
        };
        match (&raw.key, default) {
            (Some(key), _) => self.text(key, |key| StreamKey::parse(key, topic, names)),
            (None, Some(key)) => match StreamKey::parse(key, topic, names) {
                Ok(key) => Some(key),
                Err(error) => self.fail(raw.topic.as_ref().unwrap_or(&raw.name), format!("{error}; give `key`, too")),
            },
            (None, None) => {
                self.fail(&raw.name, "`key` is missing: the stream of a message, from the topic's captures")
            }
        }
    }

    /// The format with what belongs to it.
    fn full_format(
        &mut self,
        raw: &raw::Input,
        format: FormatName,
        topic: &TopicPattern,
        key: &StreamKey,
    ) -> Option<Format> {
        Some(match format {
            FormatName::Json => Format::Json,
            FormatName::Value => Format::Value { field: key.what_it_leaves(topic) },
            FormatName::Influx => match raw.time.as_ref().map(|time| &time.unit) {
                None => Format::Influx(TimeUnit::Ns),
                Some(unit) => {
                    let parsed = self.text(unit, TimeUnit::from_str)?;
                    if parsed == TimeUnit::Rfc3339 {
                        return self.fail(unit, "lines hold whole numbers; there are ns, us, ms, s and auto");
                    }
                    Format::Influx(parsed)
                }
            },
            FormatName::Senml => Format::Senml,
            FormatName::SparkplugB => Format::SparkplugB,
        })
    }

    fn time(
        &mut self,
        raw: &raw::Input,
        preset: Option<Preset>,
        format: Option<FormatName>,
    ) -> Option<Option<TimeSource>> {
        let Some(given) = &raw.time else {
            let path = preset.and_then(|preset| preset.time).and_then(|path| JsonPath::parse(path).ok());
            let zone = preset.and_then(|preset| preset.zone).and_then(|zone| Zone::parse(zone).ok());
            return Some(path.map(|path| TimeSource { path, unit: TimeUnit::Auto, zone, is_optional: true }));
        };
        match format? {
            FormatName::Json => {}
            FormatName::Influx => {
                let other = given.path.as_ref().or(given.zone.as_ref());
                return match other {
                    Some(other) => self.fail(other, "times of lines have their place; only `unit` can be said"),
                    None => Some(None),
                };
            }
            FormatName::Value => return self.fail(&given.unit, "a bare value has no time; leave `time` out"),
            FormatName::Senml | FormatName::SparkplugB => {
                return self.fail(&given.unit, "the format says where times are and what they count; leave `time` out");
            }
        }
        let unit = self.text(&given.unit, TimeUnit::from_str);
        let zone = self.optional(given.zone.as_ref(), |checker, zone| checker.text(zone, Zone::parse));
        let Some(path) = &given.path else {
            return self.fail(&given.unit, "`path` is missing: where a message says when it was measured");
        };
        let path = self.json_path(path);
        let is_optional = given.optional;
        Some(Some(TimeSource { path: path?, unit: unit?, zone: zone?, is_optional }))
    }

    fn only_of_json(&mut self, raw: &raw::Input, format: Option<FormatName>) {
        for (name, path) in [("known_normal", &raw.known_normal), ("id", &raw.id)] {
            if let (Some(path), Some(format)) = (path, format)
                && format != FormatName::Json
            {
                self.fail::<()>(
                    path,
                    format!("messages of the format {} have no paths; leave `{name}` out", format.name()),
                );
            }
        }
    }

    fn features(
        &mut self,
        raw: &Spanned<Vec<raw::Feature>>,
        format: Option<FormatName>,
        full_format: Option<&Format>,
    ) -> Option<Vec<Feature>> {
        let count = raw.get_ref().len();
        if count == 0 || count > MAX_CHANNELS {
            let message = format!("there are {count} features; an input has 1 to {MAX_CHANNELS}");
            return self.fail(raw, message);
        }
        if let (Some(Format::Value { field: None }), [_, second, ..]) = (full_format, raw.get_ref().as_slice()) {
            let says = "the topic has no capture that is not in the key, so that every message is a value of one feature; \
                        capture the level that says of which";
            self.fail::<()>(&second.name, says);
        }
        self.no_repeats(raw.get_ref().iter().map(|feature| &feature.name), "feature");
        let named = full_format != Some(&Format::Value { field: None });
        let checked: Vec<Option<Feature>> =
            raw.get_ref().iter().map(|feature| self.feature(feature, format, named)).collect();
        checked.into_iter().collect()
    }

    fn feature(&mut self, raw: &raw::Feature, format: Option<FormatName>, named: bool) -> Option<Feature> {
        let name = self.text(&raw.name, ChannelName::new);
        let place = format.and_then(|format| self.place(raw, format, named));
        let values = self.values(raw);
        let unit = self.optional(raw.unit.as_ref(), |checker, unit| checker.text(unit, parse_unit));
        let scale = self.finite(raw.scale.as_ref(), 1.0);
        if let (Some(scale), Some(0.0)) = (&raw.scale, scale) {
            self.fail::<()>(scale, "a scale of 0 makes every value the same; leave it out for 1");
        }
        let offset = self.finite(raw.offset.as_ref(), 0.0);
        let min = self.finite(raw.min.as_ref(), f64::NEG_INFINITY);
        let max = self.finite(raw.max.as_ref(), f64::INFINITY);
        if let (Some(low), Some(high), Some(spanned)) = (min, max, &raw.max)
            && low >= high
        {
            self.fail::<()>(spanned, format!("max {high} is not above min {low}; no value would be in range"));
        }
        Some(Feature {
            name: name?,
            place: place?,
            values: values?,
            unit: unit?,
            scale: scale?,
            offset: offset?,
            min: min?,
            max: max?,
        })
    }

    fn place(&mut self, raw: &raw::Feature, format: FormatName, named: bool) -> Option<Place> {
        match (format, &raw.path, &raw.field) {
            (FormatName::Json, Some(path), None) => self.json_path(path).map(Place::Path),
            (FormatName::Json, None, None) => {
                self.fail(&raw.name, "`path` is missing: where the message holds the value, as in \"$.flow\"")
            }
            (FormatName::Json, _, Some(field)) => self.fail(field, "JSON has no fields; give `path`, as in \"$.flow\""),
            (_, Some(path), _) => self
                .fail(path, format!("messages of the format {} have no paths; give `field`, its name", format.name())),
            (_, None, Some(field)) if !named => {
                self.fail(field, "every message is a value of this one feature; leave `field` out")
            }
            (_, None, Some(field)) if field.get_ref().is_empty() => self.fail(field, "the name is empty"),
            (_, None, field) => {
                let name = if named { field.as_ref().unwrap_or(&raw.name).get_ref().clone() } else { String::new() };
                Some(Place::Field(name))
            }
        }
    }

    fn values(&mut self, raw: &raw::Feature) -> Option<Vec<(String, f64)>> {
        let Some(values) = &raw.values else { return Some(Vec::new()) };
        let count = values.get_ref().len();
        if count > MAX_VALUES {
            return self.fail(values, format!("there are {count} texts; a feature takes {MAX_VALUES}"));
        }
        if values.get_ref().values().any(|value| !value.is_finite()) {
            return self.fail(values, "a text stands for a finite number");
        }
        Some(values.get_ref().iter().map(|(text, value)| (text.clone(), *value)).collect())
    }

    /// What an input lets go by itself. What is in the spool goes by the spool's rule, whatever input it is from.
    fn shedding(&mut self, raw: &Spanned<String>, of_spool: Option<WhenFull>) -> Option<Option<Shedding>> {
        let [block, oldest] = WhenFull::ALL.map(WhenFull::name);
        let [newest, sample] = Shedding::ALL.map(Shedding::name);
        let known = [block, oldest, newest, sample];
        let name = self.text(raw, |name| named(name, "rule for a full spool", known, |rule| rule))?;
        let shedding = Shedding::ALL.into_iter().find(|rule| rule.name() == name);
        if shedding.is_none() && of_spool.is_some_and(|of_spool| of_spool.name() != name) {
            let message = format!(
                "{name:?} is a rule for the whole spool, which has another; write it in [spool], or give this input \
                 {newest:?} or {sample:?}"
            );
            return self.fail(raw, message);
        }
        Some(shedding)
    }

    fn no_repeats<'n>(&mut self, names: impl Iterator<Item = &'n Spanned<String>>, what: &str) {
        let mut seen = BTreeSet::new();
        for name in names {
            if !seen.insert(name.get_ref()) {
                self.fail::<()>(name, format!("{what} {:?} is given twice; each needs its own name", name.get_ref()));
            }
        }
    }
}

fn parse_input_name(name: &str) -> Result<String, String> {
    let is_allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if name.is_empty() || name.len() > MAX_ID_BYTES || !name.chars().all(is_allowed) {
        return Err(format!("{name:?} is no name; it takes 1 to {MAX_ID_BYTES} letters, digits, '-', '_' and '.'"));
    }
    Ok(name.to_owned())
}

fn parse_preset(name: &str) -> Result<Preset, String> {
    named(name, "preset", Preset::ALL, |preset| preset.name)
}

fn parse_unit(unit: &str) -> Result<String, String> {
    if !is_unit(unit) {
        return Err(format!("{unit:?} is no unit; it takes 1 to {MAX_UNIT_BYTES} bytes of printable text"));
    }
    Ok(unit.to_owned())
}

impl FromStr for TimeUnit {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        named(name, "unit of time", Self::ALL, Self::name)
    }
}
