//! Configuration files: TOML in, checked values out, and every mistake at its place.
//!
//! The agent and the hub read their files through a [`Source`]. A mistake, be it in the TOML, in its shape or in a
//! value, is rendered as `file:line:column: key: what is wrong; what would be right`, one line each. `serde` reports
//! the first mistake of shape; [`Problems`] collects all mistakes in values.

use std::fmt;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use toml::de::{DeTable, DeValue, Deserializer};

/// Bytes of a configuration file: a thousand mapped features fit, and a wrong path (a log, a device) is refused before
/// it fills the memory.
pub const MAX_CONFIG_BYTES: usize = 256 * 1024;
/// Problems shown at once: more do not help, and are most often one mistake repeated.
const MAX_PROBLEMS: usize = 100;
/// Tables and arrays around a value whose keys are named. Our files have four; TOML's parser takes thousands.
const MAX_KEYS: usize = 16;
/// Characters of a word that is looked up among the known ones; longer ones are no typing mistakes.
const MAX_SUGGESTION_CHARS: usize = 64;

/// The text of a configuration file and where it came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    path: PathBuf,
    text: String,
}

impl Source {
    /// `text`, which was read from `path`. The path only names the file in messages.
    #[must_use]
    pub fn new(path: &Path, text: String) -> Self {
        Self { path: path.to_owned(), text }
    }

    /// Reads the file at `path` with what `open` gives for it, for example `File::open`; not more than
    /// [`MAX_CONFIG_BYTES`].
    ///
    /// # Errors
    /// If the file cannot be opened or read, is too long or is not UTF-8.
    pub fn read<R: io::Read>(path: &Path, open: impl FnOnce(&Path) -> io::Result<R>) -> Result<Self, ConfigError> {
        let unreadable = |source| ConfigError::Unreadable { path: path.to_owned(), source };
        let limit = MAX_CONFIG_BYTES as u64 + 1;
        let mut text = String::new();
        let reader = open(path).map_err(unreadable)?;
        io::Read::read_to_string(&mut io::Read::take(reader, limit), &mut text).map_err(unreadable)?;
        let source = Self::new(path, text);
        source.check_length()?;
        Ok(source)
    }

    /// Where the text came from.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What stands in it.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Parses the text into `T`. Give `T`'s tables `#[serde(deny_unknown_fields)]`: an unknown key is then reported
    /// with the known ones and, if one is near, with a suggestion.
    ///
    /// # Errors
    /// If the text is too long, is not TOML, or has not the shape of `T`.
    pub fn parse<T: DeserializeOwned>(&self) -> Result<T, ConfigError> {
        self.check_length()?;
        let (table, mistakes) = DeTable::parse_recoverable(&self.text);
        if !mistakes.is_empty() {
            return Err(self.syntax_error(&mistakes));
        }
        T::deserialize(Deserializer::from(table)).map_err(|mistake| self.shape_error(&mistake))
    }

    /// One mistake at `span`, bytes of the text, as `toml::Spanned` gives them. `message` says what is wrong and what
    /// would be right.
    #[must_use]
    pub fn error_at(&self, span: Range<usize>, message: impl fmt::Display) -> ConfigError {
        let mut problems = Problems::new(self);
        problems.at(span, message);
        problems.into_error()
    }

    fn check_length(&self) -> Result<(), ConfigError> {
        if self.text.len() <= MAX_CONFIG_BYTES {
            return Ok(());
        }
        let message = format!("the file is longer than {MAX_CONFIG_BYTES} bytes; is it the right file?");
        Err(ConfigError::Wrong(vec![self.problem(0, String::new(), &message)]))
    }

    /// The first mistake of each line: the others in it most often follow from the first.
    fn syntax_error(&self, mistakes: &[toml::de::Error]) -> ConfigError {
        let mut problems: Vec<Problem> = mistakes
            .iter()
            .map(|mistake| {
                let start = mistake.span().map_or(self.text.len(), |span| span.start);
                self.problem(start, String::new(), &format!("not valid TOML: {}", mistake.message()))
            })
            .collect();
        problems.sort_by_key(|problem| (problem.line, problem.column));
        problems.dedup_by_key(|problem| problem.line);
        problems.truncate(MAX_PROBLEMS);
        ConfigError::Wrong(problems)
    }

    fn shape_error(&self, mistake: &toml::de::Error) -> ConfigError {
        let span = mistake.span().unwrap_or(0..0);
        let (table, _) = DeTable::parse_recoverable(&self.text);
        let mut keys = keys_at(table.get_ref(), &span);
        let (missing, message) = shape_message(mistake.message());
        keys.extend(missing);
        ConfigError::Wrong(vec![self.problem(span.start, join_keys(&keys), &message)])
    }

    fn problem(&self, offset: usize, key: String, message: &str) -> Problem {
        let (line, column) = self.position(offset);
        Problem { file: self.path.clone(), line, column, key, message: in_one_line(message) }
    }

    fn position(&self, offset: usize) -> (usize, usize) {
        let before = &self.text[..self.text.floor_char_boundary(offset)];
        let before = before.strip_prefix('\u{feff}').unwrap_or(before);
        let line_start = before.rfind('\n').map_or(0, |at| at + 1);
        (before.matches('\n').count() + 1, before[line_start..].chars().count() + 1)
    }
}

/// Collects the mistakes in the values of a [`Source`].
#[derive(Debug)]
pub struct Problems<'a> {
    source: &'a Source,
    found: Vec<(Range<usize>, String)>,
}

impl<'a> Problems<'a> {
    /// None yet.
    #[must_use]
    pub const fn new(source: &'a Source) -> Self {
        Self { source, found: Vec::new() }
    }

    /// Notes a mistake at `span`, bytes of the text, as `toml::Spanned` gives them. `message` says what is wrong and
    /// what would be right.
    pub fn at(&mut self, span: Range<usize>, message: impl fmt::Display) {
        self.found.push((span, message.to_string()));
    }

    /// The checked value, if nothing was noted.
    ///
    /// # Errors
    /// All that was noted, in the order of the file; also if `value` is `None`.
    pub fn finish<T>(self, value: Option<T>) -> Result<T, ConfigError> {
        match value {
            Some(value) if self.found.is_empty() => Ok(value),
            Some(_) | None => Err(self.into_error()),
        }
    }

    fn into_error(mut self) -> ConfigError {
        self.found.sort_by_key(|(span, _)| span.start);
        let left_out = self.found.len().saturating_sub(MAX_PROBLEMS);
        self.found.truncate(MAX_PROBLEMS);
        let (table, _) = DeTable::parse_recoverable(&self.source.text);
        let mut problems: Vec<Problem> = self
            .found
            .iter()
            .map(|(span, message)| {
                let key = join_keys(&keys_at(table.get_ref(), span));
                self.source.problem(span.start, key, message)
            })
            .collect();
        if left_out > 0 {
            let end = self.source.text.len();
            problems.push(self.source.problem(end, String::new(), &format!("{left_out} more problems are not shown")));
        }
        ConfigError::Wrong(problems)
    }
}

/// Why a configuration was refused. Displays as one line per mistake.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file could not be opened or read.
    #[error("{}: cannot be read: {source}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file was read and is wrong.
    #[error("{}", Lines(.0))]
    Wrong(Vec<Problem>),
}

/// One mistake and its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The file.
    pub file: PathBuf,
    /// The line, from 1.
    pub line: usize,
    /// The column in characters, from 1.
    pub column: usize,
    /// The dotted key, for example `mqtt.url`; empty where the mistake is not in the value of a key.
    pub key: String,
    /// What is wrong and what would be right.
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}: ", self.file.display(), self.line, self.column)?;
        if !self.key.is_empty() {
            write!(f, "{}: ", self.key)?;
        }
        f.write_str(&self.message)
    }
}

struct Lines<'a>(&'a [Problem]);

impl fmt::Display for Lines<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut separator = "";
        for problem in self.0 {
            write!(f, "{separator}{problem}")?;
            separator = "\n";
        }
        Ok(())
    }
}

/// The one of `known` that `word` was probably meant to be, or `None` if none is near.
#[must_use]
pub fn nearest<'a>(word: &str, known: &[&'a str]) -> Option<&'a str> {
    let length = word.chars().count();
    if length > MAX_SUGGESTION_CHARS {
        return None;
    }
    let (distance, candidate) =
        known.iter().map(|candidate| (edit_distance(word, candidate), *candidate)).min_by_key(|(edits, _)| *edits)?;
    let allowed = (length.max(candidate.chars().count()) / 3).max(1);
    (distance <= allowed && distance < length).then_some(candidate)
}

/// Insertions, deletions, replacements and swaps of neighbours that turn `left` into `right`.
fn edit_distance(left: &str, right: &str) -> usize {
    let left: Vec<char> = left.chars().collect();
    let right: Vec<char> = right.chars().collect();
    let mut before_last = vec![0; right.len() + 1];
    let mut last: Vec<usize> = (0..=right.len()).collect();
    for row in 1..=left.len() {
        let mut current = vec![row; right.len() + 1];
        for column in 1..=right.len() {
            let differs = left[row - 1] != right[column - 1];
            let replaced = last[column - 1] + usize::from(differs);
            let mut best = replaced.min(last[column] + 1).min(current[column - 1] + 1);
            let can_swap = row > 1 && column > 1;
            if can_swap && left[row - 1] == right[column - 2] && left[row - 2] == right[column - 1] {
                best = best.min(before_last[column - 2] + 1);
            }
            current[column] = best;
        }
        before_last = std::mem::replace(&mut last, current);
    }
    last[right.len()]
}

/// The keys that lead to `span`: those of the key or value that has this very span, else of the innermost one that
/// holds it. The empty span is the whole file's.
fn keys_at(table: &DeTable<'_>, span: &Range<usize>) -> Vec<String> {
    if span.is_empty() {
        return Vec::new();
    }
    keys_where(table, MAX_KEYS, &|found| found == span)
        .or_else(|| keys_where(table, MAX_KEYS, &|found| found.start <= span.start && span.end <= found.end))
        .unwrap_or_default()
}

fn keys_where(table: &DeTable<'_>, depth: usize, is_it: &dyn Fn(&Range<usize>) -> bool) -> Option<Vec<String>> {
    table.iter().find_map(|(key, value)| {
        let is_here = || (is_it(&key.span()) || is_it(&value.span())).then(Vec::new);
        let mut keys = keys_below(value.get_ref(), depth, is_it).or_else(is_here)?;
        keys.insert(0, key.get_ref().to_string());
        Some(keys)
    })
}

fn keys_below(value: &DeValue<'_>, depth: usize, is_it: &dyn Fn(&Range<usize>) -> bool) -> Option<Vec<String>> {
    let depth = depth.checked_sub(1)?;
    if let Some(table) = value.as_table() {
        return keys_where(table, depth, is_it);
    }
    value.as_array()?.iter().find_map(|item| {
        let is_here = || is_it(&item.span()).then(Vec::new);
        keys_below(item.get_ref(), depth, is_it).or_else(is_here)
    })
}

fn join_keys(keys: &[String]) -> String {
    let is_bare = |key: &str| !key.is_empty() && key.chars().all(|c| c.is_ascii_alphanumeric() || "_-".contains(c));
    let shown: Vec<String> =
        keys.iter().map(|key| if is_bare(key) { key.clone() } else { format!("{key:?}") }).collect();
    shown.join(".")
}

/// `serde`'s words for a mistake of shape in ours, and the key that is missing, if that is the mistake.
fn shape_message(message: &str) -> (Option<String>, String) {
    if let Some(missing) = message.strip_prefix("missing field `").and_then(|rest| rest.strip_suffix('`')) {
        return (Some(missing.to_owned()), "is missing; it has no default".to_owned());
    }
    let text = if let Some(rest) = message.strip_prefix("unknown field `") {
        unknown_word("key", rest)
    } else if let Some(rest) = message.strip_prefix("unknown variant `") {
        unknown_word("value", rest)
    } else if let Some(rest) = message.strip_prefix("invalid type: ").or(message.strip_prefix("invalid value: ")) {
        wrong_kind(rest)
    } else if message.starts_with("invalid length") && message.contains(", expected struct ") {
        wrong_kind("sequence, expected a map")
    } else {
        message.to_owned()
    };
    (None, text)
}

/// `rest` is what follows ``unknown field ` ``: the word, a backtick, and the known words in backticks.
fn unknown_word(what: &str, rest: &str) -> String {
    let (word, known) = rest.rsplit_once("`, expected ").unwrap_or((rest.trim_end_matches('`'), ""));
    let known: Vec<&str> = known.split('`').skip(1).step_by(2).collect();
    let suggestion = nearest(word, &known).map_or(String::new(), |near| format!("did you mean `{near}`? "));
    match known.as_slice() {
        [] => format!("unknown {what} `{word}`; none is known here"),
        known => format!("unknown {what} `{word}`; {suggestion}known here: {}", known.join(", ")),
    }
}

/// `rest` is what follows `invalid type: `: what was found, a comma, and what `serde` expected.
fn wrong_kind(rest: &str) -> String {
    let (found, expected) = rest.rsplit_once(", expected ").unwrap_or((rest, "something else"));
    let found = match found {
        "sequence" => "an array",
        "map" => "a table",
        other => other.trim_end_matches(" as i128").trim_end_matches(" as u128"),
    };
    let expected = match expected {
        "i64" => "a whole number from -2^63 to 2^63-1",
        "u64" => "a whole number from 0 to 2^63-1",
        "f64" => "a number",
        "a boolean" => "true or false",
        "a sequence" => "an array",
        "a map" => "a table",
        other if other.starts_with("struct ") => "a table",
        other => other,
    };
    format!("found {found}; expected {expected}")
}

fn in_one_line(message: &str) -> String {
    message.chars().fold(String::with_capacity(message.len()), |mut line, c| {
        if c.is_control() {
            line.extend(c.escape_default());
        } else {
            line.push(c);
        }
        line
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde::Deserialize;
    use toml::Spanned;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct File {
        server: Server,
        #[serde(default)]
        rule: Vec<Rule>,
    }

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Server {
        address: Spanned<String>,
        workers: Option<Spanned<i64>>,
        mode: Option<Mode>,
    }

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Rule {
        limit: Spanned<f64>,
        when: Option<When>,
    }

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct When {
        #[serde(rename = "above")]
        _above: f64,
    }

    #[derive(Debug, Deserialize)]
    #[serde(rename_all = "lowercase")]
    enum Mode {
        Fast,
        Careful,
    }

    fn source(text: &str) -> Source {
        Source::new(Path::new("hub.toml"), text.to_owned())
    }

    fn refusal(text: &str) -> String {
        source(text).parse::<File>().expect_err("it is wrong").to_string()
    }

    #[test]
    fn a_right_file_is_parsed_with_the_places_of_its_values() {
        let text = "[server]\naddress = \"x\"\nmode = \"careful\"\n[[rule]]\nlimit = 3\n";
        let file: File = source(text).parse().expect("valid");
        assert_eq!(file.server.address.get_ref(), "x");
        assert!(matches!(file.server.mode, Some(Mode::Careful)));
        assert_eq!(&text[file.rule[0].limit.span()], "3");
        assert!(file.server.workers.is_none() && file.rule[0].when.is_none());
    }

    #[test]
    fn an_unknown_key_is_refused_with_the_near_and_the_known_ones() {
        assert_eq!(
            refusal("[server]\naddres = \"x\"\n"),
            "hub.toml:2:1: server.addres: unknown key `addres`; did you mean `address`? \
             known here: address, workers, mode"
        );
        assert_eq!(
            refusal("[server]\naddress = \"x\"\n[sever]\n"),
            "hub.toml:3:2: sever: unknown key `sever`; did you mean `server`? known here: server, rule"
        );
        assert_eq!(
            refusal("[server]\naddress = \"x\"\n\"a\\n`, expected b\" = 1"),
            "hub.toml:3:1: server.\"a\\n`, expected b\": unknown key `a\\n`, expected b`; \
             known here: address, workers, mode"
        );
    }

    #[test]
    fn a_missing_key_is_named_with_its_table() {
        assert_eq!(refusal("rule = []\n"), "hub.toml:1:1: server: is missing; it has no default");
        assert_eq!(refusal("[server]\n"), "hub.toml:1:1: server.address: is missing; it has no default");
        assert_eq!(
            refusal("server.address = \"x\"\n[[rule]]\nlimit = 1\n[[rule]]\n"),
            "hub.toml:4:1: rule.limit: is missing; it has no default"
        );
        assert_eq!(
            refusal("server.address = \"x\"\nrule = [{limit = 1}, {limit = 2, when = {}}]\n"),
            "hub.toml:2:41: rule.when.above: is missing; it has no default"
        );
    }

    #[test]
    fn a_value_of_the_wrong_kind_is_named_in_words() {
        assert_eq!(
            refusal("[server]\naddress = 7\n"),
            "hub.toml:2:11: server.address: found integer `7`; expected a string"
        );
        assert_eq!(
            refusal("[server]\naddress = \"x\"\nworkers = \"two\"\n"),
            "hub.toml:3:11: server.workers: found string \"two\"; expected a whole number from -2^63 to 2^63-1"
        );
        assert_eq!(refusal("server = []"), "hub.toml:1:10: server: found an array; expected a table");
        assert_eq!(
            refusal("server = {address = \"\", mode = \"fst\"}"),
            "hub.toml:1:32: server.mode: unknown value `fst`; did you mean `fast`? known here: fast, careful"
        );
    }

    #[test]
    fn broken_toml_is_reported_once_a_line() {
        let text = refusal("[server]\naddress = \nworkers = = 2\n");
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[0].starts_with("hub.toml:2:"), "{text}");
        assert!(lines[0].contains(": not valid TOML: "), "{text}");
        assert!(lines[1].starts_with("hub.toml:3:"), "{text}");
        assert_eq!(lines.len(), 2, "{text}");
        assert!(refusal("a = 1\na = 2\n").starts_with("hub.toml:2:1: not valid TOML: duplicate key"));
    }

    #[test]
    fn columns_count_characters_and_skip_a_byte_order_mark() {
        assert!(refusal("\u{feff}server = 1").starts_with("hub.toml:1:10: server: "));
        assert!(refusal("server = { \"äöü\" = 1 }").starts_with("hub.toml:1:12: server.\"äöü\": "));
        assert!(refusal("server = { address = \"äöü\", x = 1 }").starts_with("hub.toml:1:29: server.x: "));
        assert!(refusal("\r\n\r\nserver = 1\r\n").starts_with("hub.toml:3:10: server: "));
    }

    #[test]
    fn all_mistakes_in_values_are_shown_in_the_order_of_the_file() {
        let source = source("[server]\naddress = \"nowhere\"\nworkers = 0\n[[rule]]\nlimit = -1.0\n");
        let file: File = source.parse().expect("right in shape");
        let mut problems = Problems::new(&source);
        problems.at(file.rule[0].limit.span(), "-1 is negative; at least 0 is needed");
        problems.at(file.server.address.span(), "no port; write host:port");
        problems.at(file.server.workers.expect("given").span(), "0 is too few; allowed: 1 to 64");
        assert_eq!(
            problems.finish(Some(())).expect_err("three are wrong").to_string(),
            "hub.toml:2:11: server.address: no port; write host:port\n\
             hub.toml:3:11: server.workers: 0 is too few; allowed: 1 to 64\n\
             hub.toml:5:9: rule.limit: -1 is negative; at least 0 is needed"
        );
        assert_eq!(Problems::new(&source).finish(Some(7)).expect("nothing is wrong"), 7);
        assert_eq!(
            source.error_at(22..23, "inside").to_string(),
            "hub.toml:2:14: server.address: inside",
            "a place inside a value belongs to the value's key"
        );
    }

    #[test]
    fn more_problems_than_help_are_counted_instead() {
        let source = source("server = 1\n");
        let mut problems = Problems::new(&source);
        (0..MAX_PROBLEMS + 5).for_each(|_| problems.at(9..10, "wrong"));
        let text = problems.finish::<()>(None).expect_err("wrong").to_string();
        assert_eq!(text.lines().count(), MAX_PROBLEMS + 1);
        assert!(text.ends_with("hub.toml:2:1: 5 more problems are not shown"), "{text}");
    }

    #[test]
    fn what_cannot_be_read_is_refused_by_its_path() {
        let path = Path::new("hub.toml");
        let missing = |_: &Path| Err::<io::Empty, _>(io::Error::from(io::ErrorKind::NotFound));
        let error = Source::read(path, missing).expect_err("there is no file");
        assert_eq!(error.to_string(), "hub.toml: cannot be read: entity not found");
        let not_text = Source::read(path, |_| Ok(&b"\xff\xfe"[..])).expect_err("not UTF-8");
        assert!(not_text.to_string().contains("valid UTF-8"), "{not_text}");
        let endless = Source::read(path, |_| Ok(io::repeat(b' '))).expect_err("endless");
        assert_eq!(endless.to_string(), "hub.toml:1:1: the file is longer than 262144 bytes; is it the right file?");
        let read = Source::read(path, |_| Ok(&b"server = 1"[..])).expect("readable");
        assert_eq!(read.path(), path);
    }

    #[test]
    fn keys_nested_without_end_are_refused() {
        let deep = format!("\n{}a = 1", "a.".repeat(100_000));
        assert!(refusal(&deep).starts_with("hub.toml:2:"));
        let table = format!("{{{}a = ", "a.".repeat(75));
        let nested = format!("x = {}1{}", table.repeat(75), "}".repeat(75));
        assert!(refusal(&nested).starts_with("hub.toml:1:1: x: unknown key `x`"), "{}", refusal(&nested));
    }

    #[test]
    fn a_suggestion_is_made_only_for_a_near_word() {
        let known = ["name", "topic", "known_normal", "id"];
        assert_eq!(nearest("naem", &known), Some("name"));
        assert_eq!(nearest("topics", &known), Some("topic"));
        assert_eq!(nearest("known-normal", &known), Some("known_normal"));
        assert_eq!(nearest("i", &known), None);
        assert_eq!(nearest("colour", &known), None);
        assert_eq!(nearest(&"n".repeat(5000), &known), None);
        assert_eq!(nearest("name", &[]), None);
    }

    /// Text that is often nearly TOML.
    fn toml_like() -> impl Strategy<Value = String> {
        let words = [
            "[",
            "]",
            "[[",
            "]]",
            "{",
            "}",
            "=",
            ",",
            ".",
            "\n",
            " ",
            "\"",
            "'",
            "\"\"\"",
            "#",
            "server",
            "address",
            "workers",
            "rule",
            "limit",
            "mode",
            "when",
            "1",
            "-1.5",
            "1e999",
            "99999999999999999999",
            "true",
            "fast",
            "1979-05-27",
            "\\u00e9",
            "é",
            "\u{feff}",
            "\r\n",
            "\0",
        ];
        proptest::collection::vec(proptest::sample::select(words.to_vec()), 0..40).prop_map(|words| words.concat())
    }

    proptest! {
        #[test]
        fn any_text_is_parsed_or_refused(text in ".{0,200}") {
            if let Err(error) = source(&text).parse::<File>() {
                prop_assert!(error.to_string().starts_with("hub.toml:"));
            }
        }

        #[test]
        fn any_text_like_toml_is_parsed_or_refused(text in toml_like()) {
            if let Err(error) = source(&text).parse::<File>() {
                prop_assert!(error.to_string().lines().all(|line| line.starts_with("hub.toml:")), "{}", error);
            }
        }

        #[test]
        fn any_span_is_rendered(text in toml_like(), start in 0_usize..300, length in 0_usize..300) {
            let error = source(&text).error_at(start..start + length, "wrong");
            prop_assert!(error.to_string().ends_with("wrong"));
        }
    }
}
