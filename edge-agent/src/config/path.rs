//! Paths to one value of a JSON message: the singular paths of RFC 9535, for example `$.pump.flow[0]['x y']`.

use std::fmt;
use std::iter::Peekable;
use std::str::{Chars, FromStr};

/// Steps of one path: far deeper than sensors nest, and below what the JSON parser follows (128).
pub const MAX_PATH_STEPS: usize = 64;
/// The largest index into an array: a message could not hold more items.
pub const MAX_PATH_INDEX: usize = 1_000_000;

/// The way to one value of a JSON message. Without steps it is the message itself.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct JsonPath(Vec<Step>);

/// One step of a [`JsonPath`].
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Step {
    /// To the member of an object that has this name.
    Key(String),
    /// To the item of an array at this place, from 0.
    Index(usize),
}

/// Why a text is not a singular path.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("path {path:?} is wrong at character {at}: {problem}")]
pub struct PathError {
    /// The text.
    pub path: String,
    /// The offending character's place, from 1.
    pub at: usize,
    /// What is wrong there and what would be right.
    pub problem: String,
}

impl JsonPath {
    /// Reads a singular path: `$`, then any number of `.name`, `['name']`, `["name"]` and `[index]`.
    ///
    /// # Errors
    /// If the text is something else, also if it is a path of RFC 9535 that may find several values.
    pub fn parse(path: &str) -> Result<Self, PathError> {
        let mut parser = Parser { rest: path.chars().peekable(), at: 0 };
        parser.path().map(Self).map_err(|problem| PathError { path: path.to_owned(), at: parser.at.max(1), problem })
    }

    /// The steps from the whole message to the value.
    #[must_use]
    pub fn steps(&self) -> &[Step] {
        &self.0
    }
}

impl FromStr for JsonPath {
    type Err = PathError;

    fn from_str(path: &str) -> Result<Self, PathError> {
        Self::parse(path)
    }
}

/// The normal form, every name in brackets and single quotes.
impl fmt::Display for JsonPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("$")?;
        self.0.iter().try_for_each(|step| match step {
            Step::Key(name) => write_quoted(f, name),
            Step::Index(index) => write!(f, "[{index}]"),
        })
    }
}

fn write_quoted(f: &mut fmt::Formatter<'_>, name: &str) -> fmt::Result {
    f.write_str("['")?;
    for c in name.chars() {
        match c {
            '\'' | '\\' => write!(f, "\\{c}")?,
            c if c < ' ' => write!(f, "\\u{:04x}", u32::from(c))?,
            c => write!(f, "{c}")?,
        }
    }
    f.write_str("']")
}

/// Reads one character at a time; `at` is the place of the last one taken, from 1.
struct Parser<'a> {
    rest: Peekable<Chars<'a>>,
    at: usize,
}

impl Parser<'_> {
    fn path(&mut self) -> Result<Vec<Step>, String> {
        if self.take() != Some('$') {
            return Err("a path starts with `$`, as in $.flow".to_owned());
        }
        let mut steps = Vec::new();
        while let Some(opening) = self.take() {
            if steps.len() == MAX_PATH_STEPS {
                return Err(format!("the path has more than {MAX_PATH_STEPS} steps"));
            }
            steps.push(match opening {
                '.' => self.after_dot()?,
                '[' => self.after_bracket()?,
                other => return Err(format!("found {other:?}; a step starts with `.` or `[`, as in $.a['x y'][0]")),
            });
        }
        Ok(steps)
    }

    fn after_dot(&mut self) -> Result<Step, String> {
        match self.take() {
            Some(c) if is_name_start(c) => {
                let mut name = String::from(c);
                while let Some(c) = self.take_if(|c| is_name_start(c) || c.is_ascii_digit()) {
                    name.push(c);
                }
                Ok(Step::Key(name))
            }
            Some('.') => Err(several("`..`")),
            Some('*') => Err(several("`*`")),
            Some(c) => Err(format!("a name after `.` cannot start with {c:?}; write it as ['…']")),
            None => Err("the name after `.` is missing".to_owned()),
        }
    }

    fn after_bracket(&mut self) -> Result<Step, String> {
        self.skip_blank();
        let step = match self.take() {
            Some(quote @ ('\'' | '"')) => Step::Key(self.quoted(quote)?),
            Some(digit) if digit.is_ascii_digit() => Step::Index(self.index(digit)?),
            Some('-') => {
                return Err("an index from the end is not supported; count from the start, as in [0]".to_owned());
            }
            Some('*') => return Err(several("`*`")),
            Some('?') => return Err(several("a filter")),
            Some(':') => return Err(several("a slice")),
            Some(c) => return Err(format!("found {c:?}; brackets hold a quoted name or an index, as in ['a'] or [0]")),
            None => return Err("the bracket is not closed".to_owned()),
        };
        self.skip_blank();
        match self.take() {
            Some(']') => Ok(step),
            Some(',') => Err(several("a list in brackets")),
            Some(':') => Err(several("a slice")),
            Some(c) => Err(format!("found {c:?} where `]` should close the bracket")),
            None => Err("the bracket is not closed".to_owned()),
        }
    }

    fn index(&mut self, first: char) -> Result<usize, String> {
        let mut digits = String::from(first);
        while let Some(digit) = self.take_if(|c| c.is_ascii_digit()) {
            digits.push(digit);
        }
        if digits.len() > 1 && first == '0' {
            return Err("an index has no leading zeros".to_owned());
        }
        let index = digits.parse().ok().filter(|index| *index <= MAX_PATH_INDEX);
        index.ok_or_else(|| format!("an index is at most {MAX_PATH_INDEX}"))
    }

    /// The name up to the closing `quote`; the opening one is taken.
    fn quoted(&mut self, quote: char) -> Result<String, String> {
        let mut name = String::new();
        loop {
            match self.take() {
                None => return Err(format!("the name is not closed by {quote}")),
                Some(c) if c == quote => return Ok(name),
                Some('\\') => name.push(self.escaped(quote)?),
                Some(c) if c < ' ' => return Err("a control character in a name is written as \\u….".to_owned()),
                Some(c) => name.push(c),
            }
        }
    }

    fn escaped(&mut self, quote: char) -> Result<char, String> {
        match self.take() {
            Some('b') => Ok('\u{8}'),
            Some('f') => Ok('\u{c}'),
            Some('n') => Ok('\n'),
            Some('r') => Ok('\r'),
            Some('t') => Ok('\t'),
            Some(c @ ('/' | '\\')) => Ok(c),
            Some(c) if c == quote => Ok(c),
            Some('u') => self.unicode(),
            Some(c) => Err(format!("\\{c} is no escape; there are \\b \\f \\n \\r \\t \\/ \\\\ \\{quote} and \\uXXXX")),
            None => Err("the escape is not finished".to_owned()),
        }
    }

    fn unicode(&mut self) -> Result<char, String> {
        let first = self.hex4()?;
        let code = if (0xD800..0xDC00).contains(&first) {
            let has_second = self.take() == Some('\\') && self.take() == Some('u');
            let second = if has_second { self.hex4()? } else { 0 };
            let low = second.checked_sub(0xDC00).filter(|low| *low < 0x400);
            low.map(|low| 0x10000 + ((first - 0xD800) << 10) + low)
        } else {
            Some(first)
        };
        code.and_then(char::from_u32).ok_or_else(|| "\\uD800 to \\uDFFF come in pairs, high before low".to_owned())
    }

    fn hex4(&mut self) -> Result<u32, String> {
        (0..4).try_fold(0, |code, _| {
            let digit = self.take().and_then(|c| c.to_digit(16));
            digit.map(|digit| code * 16 + digit).ok_or_else(|| "\\u takes four hexadecimal digits".to_owned())
        })
    }

    fn skip_blank(&mut self) {
        while self.take_if(|c| matches!(c, ' ' | '\t' | '\n' | '\r')).is_some() {}
    }

    fn take(&mut self) -> Option<char> {
        self.take_if(|_| true)
    }

    fn take_if(&mut self, is_wanted: impl Fn(char) -> bool) -> Option<char> {
        let taken = self.rest.next_if(|c| is_wanted(*c));
        self.at += usize::from(taken.is_some());
        taken
    }
}

fn several(what: &str) -> String {
    format!("{what} may find several values; name the way to one, as in $.a.b[0]['c d']")
}

fn is_name_start(c: char) -> bool {
    c.is_ascii_alphabetic() || c == '_' || !c.is_ascii()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn steps(path: &str) -> Vec<Step> {
        JsonPath::parse(path).expect("a singular path").steps().to_vec()
    }

    fn problem(path: &str) -> (usize, String) {
        let error = JsonPath::parse(path).expect_err("not a singular path");
        (error.at, error.problem)
    }

    fn key(name: &str) -> Step {
        Step::Key(name.to_owned())
    }

    #[test]
    fn names_and_indexes_are_read_in_either_notation() {
        assert_eq!(steps("$"), []);
        assert_eq!(steps("$.ts"), [key("ts")]);
        assert_eq!(steps("$.a.b[0]['c d']"), [key("a"), key("b"), Step::Index(0), key("c d")]);
        assert_eq!(steps("$[\"x\"][ 12 ][ 'y' ]"), [key("x"), Step::Index(12), key("y")]);
        assert_eq!(steps("$.größe_2"), [key("größe_2")]);
        assert_eq!(steps("$['']"), [key("")]);
        assert_eq!(steps(r#"$['it\'s "1"']["\"\\\/\n\u00e9\uD83D\uDE00"]"#), [key("it's \"1\""), key("\"\\/\né😀")]);
    }

    #[test]
    fn paths_that_may_find_several_values_are_refused_as_such() {
        for (path, at, what) in [
            ("$.*", 3, "`*`"),
            ("$[*]", 3, "`*`"),
            ("$..flow", 3, "`..`"),
            ("$[?@.a]", 3, "a filter"),
            ("$[1:3]", 4, "a slice"),
            ("$[:3]", 3, "a slice"),
            ("$['a','b']", 6, "a list in brackets"),
        ] {
            let hint = "may find several values; name the way to one, as in $.a.b[0]['c d']";
            assert_eq!(problem(path), (at, format!("{what} {hint}")), "{path}");
        }
    }

    #[test]
    fn a_wrong_path_is_refused_at_its_place_with_what_would_be_right() {
        for (path, at, what) in [
            ("", 1, "a path starts with `$`, as in $.flow"),
            ("flow", 1, "a path starts with `$`, as in $.flow"),
            ("$flow", 2, "found 'f'; a step starts with `.` or `[`, as in $.a['x y'][0]"),
            ("$.", 2, "the name after `.` is missing"),
            ("$.2nd", 3, "a name after `.` cannot start with '2'; write it as ['…']"),
            ("$.a-b", 4, "found '-'; a step starts with `.` or `[`, as in $.a['x y'][0]"),
            ("$[a]", 3, "found 'a'; brackets hold a quoted name or an index, as in ['a'] or [0]"),
            ("$[", 2, "the bracket is not closed"),
            ("$[0", 3, "the bracket is not closed"),
            ("$['a' x", 7, "found 'x' where `]` should close the bracket"),
            ("$['a", 4, "the name is not closed by '"),
            ("$[-1]", 3, "an index from the end is not supported; count from the start, as in [0]"),
            ("$[01]", 4, "an index has no leading zeros"),
            ("$[1000001]", 9, "an index is at most 1000000"),
            ("$['\\x']", 5, "\\x is no escape; there are \\b \\f \\n \\r \\t \\/ \\\\ \\' and \\uXXXX"),
            ("$['\\u12g4']", 8, "\\u takes four hexadecimal digits"),
            ("$['\\uDE00']", 9, "\\uD800 to \\uDFFF come in pairs, high before low"),
            ("$['\\uD83Dx']", 10, "\\uD800 to \\uDFFF come in pairs, high before low"),
        ] {
            assert_eq!(problem(path), (at, what.to_owned()), "{path}");
        }
        let deep = format!("${}", ".a".repeat(MAX_PATH_STEPS + 1));
        assert_eq!(problem(&deep).1, "the path has more than 64 steps");
        assert_eq!(
            JsonPath::parse("$.").expect_err("wrong").to_string(),
            "path \"$.\" is wrong at character 2: the name after `.` is missing"
        );
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(path in r#"\$?([.\[\]'"\\*?:0-9a-u ]|\\u[0-9a-fD]{4}|.){0,30}"#) {
            if let Err(error) = JsonPath::parse(&path) {
                prop_assert!(error.at <= path.chars().count().max(1));
            }
        }

        #[test]
        fn the_normal_form_reads_as_the_same_path(
            names in proptest::collection::vec(".{0,8}", 0..5), index in 0_usize..1000
        ) {
            let mut steps: Vec<Step> = names.into_iter().map(Step::Key).collect();
            steps.push(Step::Index(index));
            let path = JsonPath(steps);
            prop_assert_eq!(JsonPath::parse(&path.to_string()), Ok(path));
        }
    }
}
