//! Inputs from what was heard.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::path::Path;

use shared::config::Source;
use shared::ids::ChannelName;
use shared::limits::MAX_CHANNELS;

use super::{Field, Learner, Topic};
use crate::config::Config;
use crate::config::input::FormatName;
use crate::config::preset::{HOMIE5, Preset, TASMOTA, THIN_EDGE, ZIGBEE2MQTT};
use crate::config::topic::{Named, StreamKey, TopicPattern};
use crate::preview::Preview;

/// Topics that hold the same share at least this part of all fields that either has.
const ALIKE: f64 = 0.5;
/// Stream names that are shown.
const SHOWN_STREAMS: usize = 3;

/// One input, as it can be put into a configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proposal {
    /// The table, with comments on what was heard.
    pub toml: String,
    /// Messages that it was learnt from.
    pub messages: u64,
}

impl Learner {
    /// Inputs for what was heard, those with the most messages first.
    #[must_use]
    pub fn propose(&self) -> Vec<Proposal> {
        let mut names = BTreeSet::new();
        let mut proposals: Vec<Proposal> =
            clusters(&self.topics).iter().filter_map(|it| it.proposal(&mut names)).collect();
        proposals.sort_by_key(|proposal| std::cmp::Reverse(proposal.messages));
        proposals
    }

    /// What the messages that are kept become by `proposals`, in a line.
    #[must_use]
    pub fn check(&self, proposals: &[Proposal]) -> Option<String> {
        let inputs: String = proposals.iter().map(|proposal| format!("{}\n", proposal.toml)).collect();
        let text = format!("[agent]\nname = 'x'\nstate_directory = 'x'\n[mqtt]\nurl = 'mqtt://x'\n{inputs}");
        let config = Config::parse(&Source::new(Path::new("proposal"), text)).ok()?;
        let mut preview = Preview::new(&config.inputs);
        for (topic, payload, arrival_ms) in &self.samples {
            preview.see(topic, payload, *arrival_ms);
        }
        Some(preview.summary())
    }

    /// Topics whose messages are nothing that is known, with how many there were.
    pub fn unread(&self) -> impl Iterator<Item = (&str, u64)> {
        self.unread.iter().map(|(topic, messages)| (topic.as_str(), *messages))
    }
}

/// Topics that are one input.
struct Cluster<'a> {
    format: FormatName,
    topics: Vec<(Vec<&'a str>, &'a Topic)>,
    fields: BTreeMap<&'a str, Field>,
}

fn clusters(topics: &BTreeMap<String, Topic>) -> Vec<Cluster<'_>> {
    let mut clusters: Vec<Cluster<'_>> = Vec::new();
    for (name, topic) in topics.iter().filter(|(_, topic)| !topic.fields.is_empty()) {
        let levels: Vec<&str> = name.split('/').collect();
        let alike = clusters.iter_mut().find(|cluster| cluster.takes(&levels, topic));
        match alike {
            Some(cluster) => cluster.add(levels, topic),
            None => {
                let mut cluster = Cluster { format: topic.format, topics: Vec::new(), fields: BTreeMap::new() };
                cluster.add(levels, topic);
                clusters.push(cluster);
            }
        }
    }
    clusters
}

impl<'a> Cluster<'a> {
    fn takes(&self, levels: &[&str], topic: &Topic) -> bool {
        let Some((first, _)) = self.topics.first() else { return false };
        if topic.format != self.format || first.len() != levels.len() || first.first() != levels.first() {
            return false;
        }
        let shared = topic.fields.keys().filter(|name| self.fields.contains_key(name.as_str())).count();
        let all = topic.fields.len() + self.fields.len() - shared;
        shared as f64 >= ALIKE * all as f64
    }

    fn add(&mut self, levels: Vec<&'a str>, topic: &'a Topic) {
        for (name, field) in &topic.fields {
            let known = self.fields.remove(name.as_str());
            self.fields.insert(name, known.map_or_else(|| field.clone(), |known| known.with(field)));
        }
        self.topics.push((levels, topic));
    }

    fn messages(&self) -> u64 {
        self.topics.iter().map(|(_, topic)| topic.messages).sum()
    }

    fn proposal(&self, names: &mut BTreeSet<String>) -> Option<Proposal> {
        let plan = Plan::of(self);
        let features = self.features(&plan);
        if features.is_empty() {
            return None;
        }
        let mut toml = self.heading(&plan);
        writeln!(toml, "[[input]]\nname = \"{}\"", self.name(names)).ok()?;
        match &plan.preset {
            Some(preset) => writeln!(toml, "preset = \"{}\"", preset.name).ok()?,
            None => {
                if self.format != FormatName::SparkplugB {
                    writeln!(toml, "topic = {}\nkey = {}", quoted(&plan.topic()), quoted(&plan.key())).ok()?;
                }
                if self.format != FormatName::Json {
                    writeln!(toml, "format = \"{}\"", self.format.name()).ok()?;
                }
            }
        }
        let is_whole = features.iter().all(|feature| feature.is_in_every_message);
        if self.format == FormatName::Json && plan.preset.is_none() {
            self.write_time_and_id(&mut toml)?;
        }
        if !is_whole && matches!(self.format, FormatName::Json | FormatName::Influx) && plan.preset != Some(ZIGBEE2MQTT)
        {
            writeln!(toml, "missing = \"last\" # not every message holds all of them").ok()?;
        }
        writeln!(toml, "feature = [").ok()?;
        for feature in &features {
            writeln!(toml, "  {}", feature.line).ok()?;
        }
        write!(toml, "]").ok()?;
        Some(Proposal { toml, messages: self.messages() })
    }

    /// What was heard, in comments.
    fn heading(&self, plan: &Plan<'_>) -> String {
        let streams: BTreeSet<String> = self.topics.iter().map(|(levels, _)| plan.stream(levels)).collect();
        let shown: Vec<&str> = streams.iter().take(SHOWN_STREAMS).map(String::as_str).collect();
        let more = if streams.len() > SHOWN_STREAMS { ", ..." } else { "" };
        let mut intervals: Vec<f64> = self.topics.iter().filter_map(|(_, topic)| interval_s(topic)).collect();
        intervals.sort_by(f64::total_cmp);
        let rate = intervals
            .get(intervals.len() / 2)
            .map_or_else(String::new, |interval_s| format!(", on each topic one in {interval_s:.1} s"));
        let number = if streams.len() == 1 { "stream" } else { "streams" };
        format!("# {} {number} ({}{more}); {} messages heard{rate}\n", streams.len(), shown.join(", "), self.messages())
    }

    /// A name that no other input has: the last level that all topics share.
    fn name(&self, names: &mut BTreeSet<String>) -> String {
        let levels = self.topics.first().map(|(levels, _)| levels.as_slice()).unwrap_or_default();
        let is_shared = |at: usize| self.topics.iter().all(|(other, _)| other.get(at) == levels.get(at));
        let shared = (0..levels.len()).rev().find(|at| is_shared(*at) && self.format != FormatName::SparkplugB);
        let base = identifier(shared.and_then(|at| levels.get(at)).copied().unwrap_or(self.format.name()), "input");
        let name =
            (1..).map(|n| if n == 1 { base.clone() } else { format!("{base}-{n}") }).find(|name| !names.contains(name));
        let name = name.unwrap_or(base);
        names.insert(name.clone());
        name
    }

    fn write_time_and_id(&self, toml: &mut String) -> Option<()> {
        if let Some((path, field)) = self.time()
            && let Some((unit, zone)) = field.time
        {
            let zone = zone.map_or_else(String::new, |zone| format!(", zone = \"{zone}\""));
            let optional = if field.seen < self.messages() { ", optional = true" } else { "" };
            writeln!(toml, "time = {{ path = {}, unit = \"{}\"{zone}{optional} }}", quoted(path), unit.name()).ok()?;
        }
        if let Some(path) = self.id() {
            writeln!(toml, "id = {}", quoted(path)).ok()?;
        }
        Some(())
    }

    fn time(&self) -> Option<(&'a str, &Field)> {
        let mut times: Vec<(&'a str, &Field)> =
            self.fields.iter().filter(|(_, field)| field.is_time()).map(|(path, field)| (*path, field)).collect();
        // Of several, the one that is in the most messages; of those the shortest path, which is the outermost.
        times.sort_by_key(|(path, field)| (std::cmp::Reverse(field.seen), path.len()));
        times.first().copied()
    }

    fn id(&self) -> Option<&'a str> {
        self.fields.keys().copied().find(|path| self.names_messages(path) && self.fields[path].numbers == 0)
    }

    /// Whether a field is there to tell messages apart. One that counts is no id for all that: it begins anew when its device does, and
    /// what comes then would be taken for what came before.
    fn names_messages(&self, path: &str) -> bool {
        const NAMES: [&str; 8] = ["id", "uuid", "msg_id", "msgid", "message_id", "messageid", "seq", "sequence"];
        NAMES.contains(&last_step(path).to_ascii_lowercase().as_str())
            && self.topics.iter().all(|(_, topic)| {
                topic.fields.get(path).is_some_and(|field| field.seen == topic.messages && field.tells_messages_apart())
            })
    }

    fn features(&self, plan: &Plan<'_>) -> Vec<Feature> {
        let mut features = Vec::new();
        let mut names = BTreeSet::new();
        let of_value = |(levels, topic): &(Vec<&'a str>, &'a Topic)| {
            let field =
                plan.quantity.and_then(|at| levels.get(at..).map(|rest| rest[..plan.quantity_levels].join("/")));
            topic.fields.get("").map(|held| (field.unwrap_or_default(), held.clone()))
        };
        let fields: Vec<(String, Field)> = if self.format == FormatName::Value {
            let mut by_name: BTreeMap<String, Field> = BTreeMap::new();
            for (name, held) in self.topics.iter().filter_map(of_value) {
                let known = by_name.remove(&name);
                by_name.insert(name, known.map_or_else(|| held.clone(), |known| known.with(&held)));
            }
            by_name.into_iter().collect()
        } else {
            let time = (self.format == FormatName::Json).then(|| self.time()).flatten().map(|(path, _)| path);
            let is_left = |path: &&str| Some(*path) != time && !self.names_messages(path);
            let left = self.fields.iter().filter(|(path, field)| is_left(path) && !field.is_time());
            left.map(|(path, field)| ((*path).to_owned(), field.clone())).collect()
        };
        for (place, field) in fields {
            if features.len() < MAX_CHANNELS
                && let Some(feature) = self.feature(&place, &field, &mut names)
            {
                features.push(feature);
            }
        }
        features
    }

    fn feature(&self, place: &str, field: &Field, names: &mut BTreeSet<String>) -> Option<Feature> {
        let is_json = self.format == FormatName::Json;
        let states = field.on_and_off();
        let texts = field.seen - field.numbers - field.bools;
        if texts > 0 && states.is_none() {
            return None;
        }
        let short = if is_json { last_step(place) } else { place.rsplit('/').next().unwrap_or(place) };
        let short = if short.is_empty() { "value" } else { short };
        let name = [short.to_owned(), place.trim_start_matches(['$', '.']).to_owned()]
            .into_iter()
            .filter(|name| ChannelName::new(name).is_ok())
            .find(|name| !names.contains(name))
            .unwrap_or_else(|| format!("channel-{}", names.len() + 1));
        let mut line = format!("{{ name = {}", quoted(&name));
        if is_json {
            write!(line, ", path = {}", quoted(place)).ok()?;
        } else if !place.is_empty() && place != name {
            write!(line, ", field = {}", quoted(place)).ok()?;
        }
        if let Some(states) = states {
            let states: Vec<String> =
                states.iter().map(|(text, value)| format!("{} = {value}", quoted(text))).collect();
            write!(line, ", values = {{ {} }}", states.join(", ")).ok()?;
        }
        let told: Vec<&str> = field.units.iter().map(String::as_str).collect();
        let unit = match told.as_slice() {
            [] => unit(&name),
            [told] => Some(*told),
            // No single one is right for all streams.
            [..] => None,
        };
        if let Some(unit) = unit {
            write!(line, ", unit = {}", quoted(unit)).ok()?;
        }
        line.push_str(" },");
        match (field.numbers, field.least < field.greatest) {
            (0, _) => {}
            (_, true) => write!(line, " # {} to {}", field.least, field.greatest).ok()?,
            (_, false) => write!(line, " # always {}", field.least).ok()?,
        }
        if told.len() > 1 {
            write!(line, "{}in {}", if field.numbers == 0 { " # " } else { ", " }, told.join(" and in ")).ok()?;
        }
        names.insert(name);
        Some(Feature { line, is_in_every_message: field.seen >= self.messages() })
    }
}

struct Feature {
    line: String,
    is_in_every_message: bool,
}

/// Which levels of the topics are captured, and which of them name the stream.
struct Plan<'a> {
    levels: Vec<Level<'a>>,
    preset: Option<Preset>,
    /// Where the name of a bare value begins, and how many levels it has.
    quantity: Option<usize>,
    quantity_levels: usize,
    sparkplug: bool,
    named: Vec<String>,
}

enum Level<'a> {
    Literal(&'a str),
    Captured(String),
}

impl<'a> Plan<'a> {
    fn of(cluster: &Cluster<'a>) -> Self {
        let first = cluster.topics.first().map(|(levels, _)| levels.clone()).unwrap_or_default();
        let values = |at: usize| -> BTreeSet<&'a str> {
            cluster.topics.iter().filter_map(|(levels, _)| levels.get(at).copied()).collect()
        };
        let varies: Vec<bool> = (0..first.len()).map(|at| values(at).len() > 1).collect();
        let preset = preset(cluster);
        let quantity = match (&preset, cluster.format) {
            (Some(preset), FormatName::Value) if *preset == HOMIE5 => Some(3),
            (_, FormatName::Value) => varies.iter().rposition(|varies| *varies).filter(|at| !is_numbered(&values(*at))),
            (_, FormatName::Json | FormatName::Influx | FormatName::Senml | FormatName::SparkplugB) => None,
        };
        let mut names = BTreeSet::new();
        let levels = (0..first.len()).map(|at| {
            let literal = first[at];
            // A level that is numbered will have others beside it.
            let is_captured = varies[at] || at > 0 && is_numbered(&values(at));
            if !is_captured {
                return Level::Literal(literal);
            }
            let stem = if Some(at) == quantity { Some("quantity".to_owned()) } else { stem(&values(at)) };
            let name = stem.filter(|stem| !names.contains(stem)).unwrap_or_else(|| format!("level{}", at + 1));
            names.insert(name.clone());
            Level::Captured(name)
        });
        let levels = levels.collect();
        let sparkplug = cluster.format == FormatName::SparkplugB;
        let names = cluster.topics.first().map(|(_, topic)| topic.names.clone()).unwrap_or_default();
        let quantity_levels = if preset == Some(HOMIE5) { 2 } else { 1 };
        Self { levels, preset, quantity, quantity_levels, sparkplug, named: names }
    }

    fn topic(&self) -> String {
        let levels = self.levels.iter().map(|level| match level {
            Level::Literal(text) => (*text).to_owned(),
            Level::Captured(name) => format!("{{{name}}}"),
        });
        let levels: Vec<String> = levels.collect();
        levels.join("/")
    }

    /// The key: every capture that is not the name of a value, and what the format names besides.
    fn key(&self) -> String {
        let captured = self.levels.iter().enumerate().filter(|(at, _)| Some(*at) != self.quantity);
        let mut parts: Vec<String> = captured
            .filter_map(|(_, level)| match level {
                Level::Captured(name) => Some(format!("{{{name}}}")),
                Level::Literal(_) => None,
            })
            .collect();
        parts.extend(self.named.iter().map(|name| format!("{{{name}}}")));
        if parts.is_empty() {
            let before = self.quantity.unwrap_or(self.levels.len());
            let literal = self.levels[..before].iter().rev().find_map(|level| match level {
                Level::Literal(text) if !text.is_empty() => Some((*text).to_owned()),
                Level::Literal(_) | Level::Captured(_) => None,
            });
            parts.extend(literal);
        }
        if parts.is_empty() { "stream".to_owned() } else { parts.join("/") }
    }

    /// The stream of a topic, as far as the topic names it.
    fn stream(&self, levels: &[&str]) -> String {
        if let Some(preset) = self.preset
            && let Ok(pattern) = TopicPattern::parse(preset.topic)
            && let Ok(key) = StreamKey::parse(preset.key, &pattern, Named::Nothing)
            && let topic = levels.join("/")
            && let Some(captures) = pattern.captures(&topic)
        {
            let mut name = String::new();
            key.write(&captures, |_| None, &mut name);
            return name;
        }
        if self.sparkplug {
            return [1, 3, 4].iter().filter_map(|at| levels.get(*at).copied()).collect::<Vec<_>>().join("/");
        }
        let parts = self.levels.iter().zip(levels).enumerate().filter_map(|(at, (level, text))| match level {
            Level::Captured(_) if Some(at) != self.quantity => Some(*text),
            Level::Captured(_) | Level::Literal(_) => None,
        });
        let parts: Vec<&str> = parts.collect();
        if parts.is_empty() { self.key() } else { parts.join("/") }
    }
}

/// The preset whose topics these are.
fn preset(cluster: &Cluster<'_>) -> Option<Preset> {
    [ZIGBEE2MQTT, TASMOTA, HOMIE5, THIN_EDGE].into_iter().find(|preset| {
        let pattern = TopicPattern::parse(preset.topic).ok();
        let is_its =
            |levels: &[&str]| pattern.as_ref().is_some_and(|pattern| pattern.captures(&levels.join("/")).is_some());
        preset.format == cluster.format && cluster.topics.iter().all(|(levels, _)| is_its(levels))
    })
}

fn is_numbered(values: &BTreeSet<&str>) -> bool {
    values.iter().all(|value| value.ends_with(|c: char| c.is_ascii_digit()))
}

/// What names are numbers of: `pump` for `pump-3` and `pump-7`.
fn stem(values: &BTreeSet<&str>) -> Option<String> {
    let stems: BTreeSet<&str> = values
        .iter()
        .map(|value| value.trim_end_matches(|c: char| c.is_ascii_digit()).trim_end_matches(['-', '_', '.', ' ']))
        .collect();
    let stem = stems.first().filter(|_| stems.len() == 1)?;
    let is_name = !stem.is_empty() && stem.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    is_name.then(|| (*stem).to_owned())
}

fn interval_s(topic: &Topic) -> Option<f64> {
    let intervals = topic.messages.checked_sub(1).filter(|intervals| *intervals > 0)?;
    Some((topic.last_ms - topic.first_ms) as f64 / 1000.0 / intervals as f64)
}

/// The last name in a path: `x y` of `$.a['x y'][0]`.
fn last_step(path: &str) -> &str {
    let end = path.rfind(|c: char| !(c.is_ascii_digit() || c == '[' || c == ']')).map_or(path.len(), |at| at + 1);
    let path = path[..end].trim_end_matches('\'');
    path.rsplit(['.', '\'', '$']).next().unwrap_or(path)
}

/// What a channel of this name is measured in, in UCUM's codes, if its name settles it.
fn unit(name: &str) -> Option<&'static str> {
    const ENDINGS: [(&str, &str); 5] = [("_V", "V"), ("_A", "A"), ("_W", "W"), ("_kWh", "kW.h"), ("_K", "K")];
    if let Some((_, unit)) = ENDINGS.iter().find(|(ending, _)| name.ends_with(ending)) {
        return Some(unit);
    }
    const UNITS: [(&str, &str); 16] = [
        ("temperature", "Cel"),
        ("humidity", "%"),
        ("voltage", "V"),
        ("current", "A"),
        ("frequency", "Hz"),
        ("battery", "%"),
        ("_c", "Cel"),
        ("_degc", "Cel"),
        ("_kpa", "kPa"),
        ("_bar", "bar"),
        ("_hpa", "hPa"),
        ("_rpm", "{rpm}"),
        ("_hz", "Hz"),
        ("_kw", "kW"),
        ("_ms", "ms"),
        ("_pct", "%"),
    ];
    let name = name.to_ascii_lowercase();
    UNITS.iter().find(|(ending, _)| name.ends_with(ending)).map(|(_, unit)| *unit)
}

fn identifier(text: &str, otherwise: &str) -> String {
    let text: String =
        text.chars().filter(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.')).take(64).collect();
    if text.is_empty() { otherwise.to_owned() } else { text }
}

/// As TOML writes a text.
fn quoted(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}
