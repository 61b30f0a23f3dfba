//! Topics with named captures, and the names of streams made from them.

use std::fmt;

use shared::ids::StreamId;

/// Bytes of a topic: MQTT's own limit (5.0 section 1.5.4).
pub const MAX_TOPIC_BYTES: usize = 65_535;
/// Captures of one topic: more levels than plants have, and few enough to match a topic without allocating.
pub const MAX_CAPTURES: usize = 16;

/// A topic filter whose levels may be named, for example `plant/{line}/{pump}/telemetry`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicPattern {
    levels: Vec<Level>,
    captures: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Level {
    /// This text.
    Literal(String),
    /// One level, whatever it is, by the next name in `captures`.
    Capture,
    /// One level, whatever it is.
    Any,
    /// All further levels, also none.
    Rest,
}

/// What the levels of a topic were that a pattern captures, in the pattern's order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Captures<'t> {
    levels: [&'t str; MAX_CAPTURES],
}

/// The name of a stream with captures in it, for example `{line}/{pump}`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamKey {
    parts: Vec<Part>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Literal(String),
    /// Index into the pattern's captures.
    Capture(usize),
    /// What the message itself calls so.
    Named(String),
}

/// Names besides captures that the key of a stream may use, because messages hold them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Named {
    /// None.
    Nothing,
    /// This one.
    Only(&'static str),
    /// Whatever name.
    Anything,
}

/// Why a text is not a topic or not the key of a stream.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TopicError {
    /// The text is empty.
    #[error("{0} is empty")]
    Empty(&'static str),
    /// The topic is longer than MQTT allows.
    #[error("topic has {0} bytes, at most {MAX_TOPIC_BYTES} are allowed")]
    TooLong(usize),
    /// The topic asks for a shared subscription.
    #[error("shared subscriptions are not supported; leave out `$share/` and the group")]
    Shared,
    /// `#` before the end.
    #[error("`#` takes all further levels and must be the last one")]
    RestBeforeEnd,
    /// A level is only in part a wildcard, or holds a character MQTT does not allow.
    #[error("level {0:?} mixes text with a wildcard; a level is `+`, `#`, `{{name}}` or text without '+#{{}}'")]
    Level(String),
    /// A capture's name is not a name.
    #[error("capture {{{0}}} is no name; a name has letters, digits and '_'")]
    Name(String),
    /// Two captures have one name.
    #[error("capture {{{0}}} stands twice in the topic; each needs its own name")]
    Repeated(String),
    /// More captures than can be matched.
    #[error("topic has more than {MAX_CAPTURES} captures; use `+` for those the key does not need")]
    TooManyCaptures,
    /// A brace is not closed or not opened.
    #[error("key {0:?} has a brace without its partner; a capture is written as {{name}}")]
    Brace(String),
    /// The key uses a capture that the topic lacks.
    #[error("key uses {{{name}}}, which is not in the topic; the topic has {known}")]
    Unknown {
        /// The capture.
        name: String,
        /// Those of the topic, in words.
        known: String,
    },
    /// The key can never be the name of a stream.
    #[error("key cannot name a stream: {0}")]
    Stream(#[from] shared::ids::IdError),
}

impl TopicPattern {
    /// Reads a topic filter with `{name}` for levels that are captured.
    ///
    /// # Errors
    /// Says what is wrong and what would be right.
    pub fn parse(text: &str) -> Result<Self, TopicError> {
        if text.is_empty() {
            return Err(TopicError::Empty("topic"));
        }
        if text.len() > MAX_TOPIC_BYTES {
            return Err(TopicError::TooLong(text.len()));
        }
        if text.starts_with("$share/") {
            return Err(TopicError::Shared);
        }
        let mut pattern = Self { levels: Vec::new(), captures: Vec::new() };
        for level in text.split('/') {
            pattern.push(level)?;
        }
        Ok(pattern)
    }

    fn push(&mut self, text: &str) -> Result<(), TopicError> {
        if self.levels.last() == Some(&Level::Rest) {
            return Err(TopicError::RestBeforeEnd);
        }
        let name = text.strip_prefix('{').and_then(|rest| rest.strip_suffix('}'));
        let level = match (text, name) {
            ("+", _) => Level::Any,
            ("#", _) => Level::Rest,
            (_, Some(name)) => {
                self.add_capture(name)?;
                Level::Capture
            }
            (_, None) if text.contains(['+', '#', '{', '}', '\0']) => return Err(TopicError::Level(text.to_owned())),
            (_, None) => Level::Literal(text.to_owned()),
        };
        self.levels.push(level);
        Ok(())
    }

    fn add_capture(&mut self, name: &str) -> Result<(), TopicError> {
        if name.is_empty() || !name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') {
            return Err(TopicError::Name(name.to_owned()));
        }
        if self.captures.iter().any(|known| known == name) {
            return Err(TopicError::Repeated(name.to_owned()));
        }
        if self.captures.len() == MAX_CAPTURES {
            return Err(TopicError::TooManyCaptures);
        }
        self.captures.push(name.to_owned());
        Ok(())
    }

    /// The MQTT subscription filter: the pattern with `+` for every capture.
    #[must_use]
    pub fn filter(&self) -> String {
        let levels: Vec<&str> = self
            .levels
            .iter()
            .map(|level| match level {
                Level::Literal(text) => text.as_str(),
                Level::Capture | Level::Any => "+",
                Level::Rest => "#",
            })
            .collect();
        levels.join("/")
    }

    /// Whether every topic that `other` matches is matched by this pattern, too.
    #[must_use]
    pub fn covers(&self, other: &Self) -> bool {
        let is_hidden = matches!(other.levels.first(), Some(Level::Literal(text)) if text.starts_with('$'));
        if is_hidden && self.starts_with_wildcard() {
            return false;
        }
        let mut theirs = other.levels.iter();
        for own in &self.levels {
            let fits = match (own, theirs.next()) {
                (Level::Rest, _) => return true,
                (Level::Literal(own), Some(Level::Literal(other))) => own == other,
                (Level::Capture | Level::Any, Some(Level::Literal(_) | Level::Capture | Level::Any)) => true,
                (Level::Literal(_), Some(Level::Capture | Level::Any))
                | (Level::Literal(_) | Level::Capture | Level::Any, Some(Level::Rest) | None) => false,
            };
            if !fits {
                return false;
            }
        }
        theirs.next().is_none()
    }

    /// What the pattern captures of `topic`, or `None` if the topic does not match. As MQTT has it, a wildcard in
    /// front matches no topic that starts with `$`.
    #[must_use]
    pub fn captures<'t>(&self, topic: &'t str) -> Option<Captures<'t>> {
        if topic.starts_with('$') && self.starts_with_wildcard() {
            return None;
        }
        let mut captures = Captures { levels: [""; MAX_CAPTURES] };
        let mut count = 0;
        let mut found = topic.split('/');
        for level in &self.levels {
            if *level == Level::Rest {
                return Some(captures);
            }
            let text = found.next()?;
            match level {
                Level::Literal(literal) if literal.as_str() != text => return None,
                Level::Capture => {
                    *captures.levels.get_mut(count)? = text;
                    count += 1;
                }
                Level::Literal(_) | Level::Any | Level::Rest => {}
            }
        }
        found.next().is_none().then_some(captures)
    }

    /// Whether it is of the form `spBv1.0/group/+/node/device`, with the type of message left open.
    #[must_use]
    pub fn is_of_sparkplug(&self) -> bool {
        let [Level::Literal(namespace), group, Level::Any, node, rest @ ..] = self.levels.as_slice() else {
            return false;
        };
        let is_one = |level: &Level| *level != Level::Rest;
        namespace == "spBv1.0"
            && is_one(group)
            && is_one(node)
            && (rest.is_empty() || matches!(rest, [one] if is_one(one)))
    }

    /// The filter of everything that the edge nodes of such a topic say, of themselves and of their devices.
    #[must_use]
    pub fn sparkplug_nodes(&self) -> Self {
        let mut levels = self.levels[..4.min(self.levels.len())].to_vec();
        levels.push(Level::Rest);
        Self { levels, captures: self.captures.clone() }
    }

    fn starts_with_wildcard(&self) -> bool {
        !matches!(self.levels.first(), Some(Level::Literal(_)))
    }
}

/// As it was written.
impl fmt::Display for TopicPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut names = self.captures.iter();
        for (index, level) in self.levels.iter().enumerate() {
            if index > 0 {
                f.write_str("/")?;
            }
            match level {
                Level::Literal(text) => f.write_str(text)?,
                Level::Capture => write!(f, "{{{}}}", names.next().map_or("", String::as_str))?,
                Level::Any => f.write_str("+")?,
                Level::Rest => f.write_str("#")?,
            }
        }
        Ok(())
    }
}

impl StreamKey {
    /// Reads the name of a stream, with `{name}` for each capture of `topic` that stands in it, and for what messages hold.
    ///
    /// # Errors
    /// Says what is wrong and what would be right.
    pub fn parse(text: &str, topic: &TopicPattern, named: Named) -> Result<Self, TopicError> {
        if text.is_empty() {
            return Err(TopicError::Empty("key"));
        }
        let brace = || TopicError::Brace(text.to_owned());
        let mut parts = Vec::new();
        let mut rest = text;
        while let Some((literal, opened)) = rest.split_once('{') {
            let (name, after) = opened.split_once('}').ok_or_else(brace)?;
            parts.push(Part::Literal(literal.to_owned()));
            parts.push(part(name, topic, named)?);
            rest = after;
        }
        parts.push(Part::Literal(rest.to_owned()));
        parts.retain(|part| *part != Part::Literal(String::new()));
        if parts.iter().any(|part| matches!(part, Part::Literal(literal) if literal.contains('}'))) {
            return Err(brace());
        }
        let key = Self { parts };
        let mut shortest = String::new();
        key.write(&Captures { levels: ["x"; MAX_CAPTURES] }, |_| Some("x"), &mut shortest);
        StreamId::new(&shortest)?;
        Ok(key)
    }

    /// The captures of `topic` that this key does not use, with slashes between; `None` if it uses all.
    #[must_use]
    pub fn what_it_leaves(&self, topic: &TopicPattern) -> Option<Self> {
        let left = (0..topic.captures.len()).filter(|index| !self.parts.contains(&Part::Capture(*index)));
        let parts: Vec<Part> = left.flat_map(|index| [Part::Literal("/".to_owned()), Part::Capture(index)]).collect();
        (!parts.is_empty()).then(|| Self { parts: parts[1..].to_vec() })
    }

    /// Appends to `name` the stream's name for the captures of one topic, and for what `named` says the message holds.
    /// Returns whether it can be one: an empty level is no name.
    pub fn write<'n>(
        &'n self,
        captures: &Captures<'n>,
        named: impl Fn(&str) -> Option<&'n str>,
        name: &mut String,
    ) -> bool {
        let mut is_whole = true;
        for part in &self.parts {
            let text = match part {
                Part::Literal(literal) => literal,
                Part::Capture(index) => captures.levels.get(*index).copied().unwrap_or(""),
                Part::Named(named_so) => named(named_so).unwrap_or(""),
            };
            is_whole &= !text.is_empty();
            name.push_str(text);
        }
        is_whole
    }
}

fn part(name: &str, topic: &TopicPattern, named: Named) -> Result<Part, TopicError> {
    let is_named = match named {
        Named::Nothing => false,
        Named::Only(known) => known == name,
        Named::Anything => !name.is_empty(),
    };
    let capture = topic.captures.iter().position(|known| known == name).map(Part::Capture);
    capture.or_else(|| is_named.then(|| Part::Named(name.to_owned()))).ok_or_else(|| {
        let known: Vec<String> = topic.captures.iter().map(|known| format!("{{{known}}}")).collect();
        let known = if known.is_empty() { "no captures".to_owned() } else { known.join(", ") };
        TopicError::Unknown { name: name.to_owned(), known }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn pattern(text: &str) -> TopicPattern {
        TopicPattern::parse(text).expect("a topic")
    }

    fn stream(topic: &str, key: &str, seen: &str) -> Option<String> {
        let pattern = pattern(topic);
        let key = StreamKey::parse(key, &pattern, Named::Nothing).expect("a key");
        let mut name = String::new();
        key.write(&pattern.captures(seen)?, |_| None, &mut name).then_some(name)
    }

    fn topic_problem(text: &str) -> String {
        TopicPattern::parse(text).expect_err("not a topic").to_string()
    }

    #[test]
    fn captures_become_plus_in_the_filter() {
        let topic = pattern("plant/{line}/+/{pump}/#");
        assert_eq!(topic.filter(), "plant/+/+/+/#");
        assert_eq!(topic.to_string(), "plant/{line}/+/{pump}/#");
        assert_eq!(pattern("/a//b").filter(), "/a//b");
    }

    #[test]
    fn a_stream_is_named_by_the_captured_levels() {
        let name = |seen| stream("plant/{line}/{pump}/telemetry", "{line}/{pump}", seen);
        assert_eq!(name("plant/l1/p3/telemetry").as_deref(), Some("l1/p3"));
        assert_eq!(name("plant/l1/p3/status"), None);
        assert_eq!(name("plant/l1/p3"), None);
        assert_eq!(name("plant/l1/p3/telemetry/x"), None);
        assert_eq!(name("plant//p3/telemetry"), None, "an empty level names nothing");
        assert_eq!(stream("{a}/+/{b}", "x-{b}-{a}", "1/2/3").as_deref(), Some("x-3-1"));
        assert_eq!(stream("only/one", "press", "only/one").as_deref(), Some("press"));
    }

    #[test]
    fn a_trailing_hash_takes_any_number_of_further_levels() {
        let name = |seen| stream("plant/{line}/#", "{line}", seen);
        assert_eq!(name("plant/l1").as_deref(), Some("l1"), "also none");
        assert_eq!(name("plant/l1/").as_deref(), Some("l1"));
        assert_eq!(name("plant/l1/a/b/c").as_deref(), Some("l1"));
        assert_eq!(name("plant"), None);
        assert_eq!(stream("#", "all", "a/b").as_deref(), Some("all"));
        assert_eq!(stream("#", "all", "$SYS/load"), None, "the broker's own topics are hidden");
    }

    #[test]
    fn a_pattern_covers_those_that_match_no_more() {
        for (wide, narrow, covers) in [
            ("#", "a/b", true),
            ("a/#", "a", true),
            ("a/+", "a/{b}", true),
            ("a/{b}", "a/b", true),
            ("a/b", "a/+", false),
            ("a/+", "a/#", false),
            ("a/+", "a", false),
            ("a", "a/b", false),
            ("a/+/#", "a/#", false),
            ("#", "$SYS/load", false),
            ("$SYS/#", "$SYS/load", true),
        ] {
            assert_eq!(pattern(wide).covers(&pattern(narrow)), covers, "{wide} {narrow}");
        }
    }

    #[test]
    fn a_wrong_topic_is_refused_with_what_would_be_right() {
        assert_eq!(topic_problem(""), "topic is empty");
        assert_eq!(topic_problem("a/#/b"), "`#` takes all further levels and must be the last one");
        assert_eq!(
            topic_problem("a/pump-{n}"),
            "level \"pump-{n}\" mixes text with a wildcard; a level is `+`, `#`, `{name}` or text without '+#{}'"
        );
        assert!(topic_problem("a/b+").starts_with("level \"b+\" mixes"));
        assert_eq!(topic_problem("{}/b"), "capture {} is no name; a name has letters, digits and '_'");
        assert_eq!(topic_problem("{a}/{a}"), "capture {a} stands twice in the topic; each needs its own name");
        assert!(topic_problem("$share/group/a").starts_with("shared subscriptions are not supported"));
        assert_eq!(topic_problem(&"a".repeat(70_000)), "topic has 70000 bytes, at most 65535 are allowed");
        let many: Vec<String> = (0..=MAX_CAPTURES).map(|n| format!("{{c{n}}}")).collect();
        assert!(topic_problem(&many.join("/")).starts_with("topic has more than 16 captures"));
        assert!(TopicPattern::parse(&many[..MAX_CAPTURES].join("/")).is_ok());
    }

    #[test]
    fn a_wrong_key_is_refused_with_what_would_be_right() {
        let problem =
            |key: &str, topic| StreamKey::parse(key, &pattern(topic), Named::Nothing).expect_err("wrong").to_string();
        assert_eq!(problem("", "a"), "key is empty");
        assert_eq!(problem("{b}", "a/{c}/{d}"), "key uses {b}, which is not in the topic; the topic has {c}, {d}");
        assert_eq!(problem("{b}", "a/+"), "key uses {b}, which is not in the topic; the topic has no captures");
        assert_eq!(problem("{b", "{b}"), "key \"{b\" has a brace without its partner; a capture is written as {name}");
        assert!(problem("b}", "{b}").contains("a brace without its partner"));
        assert!(problem("x+{b}", "{b}").starts_with("key cannot name a stream: stream name \"x+x\" holds '+'"));
        assert!(problem(&"x".repeat(300), "a").starts_with("key cannot name a stream: stream name has 300 bytes"));
    }

    proptest! {
        #[test]
        fn any_texts_are_read_or_refused(
            topic in "[a{}+#/$b]{0,12}", key in "[ab{}/+]{0,8}", seen in "[ab/+#$]{0,12}"
        ) {
            if let Ok(pattern) = TopicPattern::parse(&topic) {
                prop_assert_eq!(pattern.to_string(), topic);
                prop_assert!(pattern.covers(&pattern));
                if let (Ok(key), Some(captures)) = (StreamKey::parse(&key, &pattern, Named::Anything), pattern.captures(&seen)) {
                    key.write(&captures, |_| None, &mut String::new());
                }
            }
        }

        #[test]
        fn a_wider_pattern_matches_what_a_narrower_one_does(
            wide in "[ab+]/[ab+](/#)?", narrow in "[ab+]/[ab+](/#)?", seen in "[ab]/[ab](/a)?"
        ) {
            let (wide, narrow) = (pattern(&wide), pattern(&narrow));
            if wide.covers(&narrow) && narrow.captures(&seen).is_some() {
                prop_assert!(wide.captures(&seen).is_some());
            }
        }
    }
}
