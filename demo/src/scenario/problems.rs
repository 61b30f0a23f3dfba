//! What is wrong with a scenario, and where.

use std::fmt;
use std::path::{Path, PathBuf};

/// Problems that are told together: they fit a screen, and later ones are often consequences of earlier ones.
pub const MAX_PROBLEMS: usize = 10;

/// Characters of a name or a value that are shown in a message: enough to find it by.
const MAX_SHOWN_CHARS: usize = 80;
/// Names listed in a message: more than the columns of any file people read.
const MAX_NAMES_SHOWN: usize = 40;

/// One mistake and its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The file it is in.
    pub file: PathBuf,
    /// The line, from 1; absent if the file as a whole is wrong.
    pub line: Option<usize>,
    /// The column in characters, from 1; absent in data files.
    pub column: Option<usize>,
    /// What is wrong and what would be right.
    pub what: String,
}

impl Problem {
    /// A problem with a whole data file.
    pub(super) fn in_file(file: &Path, what: String) -> Self {
        Self { file: file.to_owned(), line: None, column: None, what }
    }

    /// A problem in one line of a data file.
    pub(super) fn in_line(file: &Path, line: usize, what: String) -> Self {
        Self { file: file.to_owned(), line: Some(line), column: None, what }
    }

    /// Bytes that are not UTF-8 follow `valid`.
    pub(super) fn not_utf8(file: &Path, valid: &[u8]) -> Self {
        let line = 1 + valid.iter().filter(|byte| **byte == b'\n').count();
        Self::in_line(file, line, "the text is not UTF-8; save the file as UTF-8".to_owned())
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:", self.file.display())?;
        for number in [self.line, self.column].into_iter().flatten() {
            write!(f, "{number}:")?;
        }
        write!(f, " {}", self.what)
    }
}

/// The first [`MAX_PROBLEMS`] mistakes found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Problems {
    list: Vec<Problem>,
    more: bool,
}

impl Problems {
    /// The mistakes kept, in the order they were found.
    #[must_use]
    pub fn as_slice(&self) -> &[Problem] {
        &self.list
    }

    /// Whether mistakes were left out.
    #[must_use]
    pub fn is_overfull(&self) -> bool {
        self.more
    }

    pub(super) fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    pub(super) fn push(&mut self, problem: Problem) {
        if self.list.len() < MAX_PROBLEMS {
            self.list.push(problem);
        } else {
            self.more = true;
        }
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.list.len(), self.more) {
            (count, true) => write!(f, "there are more than {count} problems, the first are")?,
            (1, false) => write!(f, "there is a problem")?,
            (count, false) => write!(f, "there are {count} problems")?,
        }
        self.list.iter().try_for_each(|problem| write!(f, "\n  {problem}"))
    }
}

/// `text` for a message: quoted, without control characters, and clipped.
pub(super) fn shown(text: &str) -> String {
    let clipped: String = text.chars().take(MAX_SHOWN_CHARS).collect();
    let mark = if clipped.len() < text.len() { ".." } else { "" };
    format!("`{}{mark}`", clipped.escape_debug())
}

/// The names there are, and the one that was probably meant.
pub(super) fn choices<'a>(wanted: &str, names: impl Iterator<Item = &'a str> + Clone) -> String {
    let listed: Vec<_> = names.clone().take(MAX_NAMES_SHOWN).map(shown).collect();
    let left_out = names.clone().count() - listed.len();
    let more = if left_out > 0 { format!(" and {left_out} more") } else { String::new() };
    let meant = match closest(wanted, names) {
        Some(name) => format!("; did you mean {}?", shown(name)),
        None => String::new(),
    };
    format!("{}{more}{meant}", listed.join(", "))
}

/// The name most like `wanted`, if any is like it: a few letters differ, or one holds the other.
fn closest<'a>(wanted: &str, names: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let wanted: Vec<char> = wanted.chars().take(MAX_SHOWN_CHARS).flat_map(char::to_lowercase).collect();
    let ranked = names.filter_map(|name| {
        let letters: Vec<char> = name.chars().take(MAX_SHOWN_CHARS).flat_map(char::to_lowercase).collect();
        let distance = edit_distance(&wanted, &letters);
        let is_like = distance <= 1 + wanted.len() / 3 && distance < wanted.len().max(letters.len());
        (is_like || holds(&wanted, &letters) || holds(&letters, &wanted)).then_some((distance, name))
    });
    ranked.min_by_key(|(distance, _)| *distance).map(|(_, name)| name)
}

/// Whether `part`, if it is long enough to mean something, stands in `whole`.
fn holds(whole: &[char], part: &[char]) -> bool {
    part.len() >= 3 && whole.windows(part.len()).any(|window| window == part)
}

/// Levenshtein's distance: insertions, deletions and replacements that make `a` into `b`.
fn edit_distance(a: &[char], b: &[char]) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.iter().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, to) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(from != to);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(row[j + 1] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_closest_name_is_suggested_only_if_it_is_close() {
        let names = ["Pressure", "Voltage", "Volume Flow RateRMS"];
        let suggest = |wanted| closest(wanted, names.into_iter());
        assert_eq!(suggest("pressure"), Some("Pressure"));
        assert_eq!(suggest("Presure"), Some("Pressure"));
        assert_eq!(suggest("flow"), Some("Volume Flow RateRMS"));
        assert_eq!(suggest("humidity"), None);
    }

    #[test]
    fn the_distance_is_levenshteins() {
        let distance = |a: &str, b: &str| {
            let letters = |text: &str| text.chars().collect::<Vec<_>>();
            edit_distance(&letters(a), &letters(b))
        };
        assert_eq!(distance("kitten", "sitting"), 3);
        assert_eq!(distance("", "abc"), 3);
        assert_eq!(distance("same", "same"), 0);
    }

    #[test]
    fn the_eleventh_problem_is_counted_and_not_kept() {
        let mut problems = Problems::default();
        for line in 1..=MAX_PROBLEMS + 1 {
            assert!(!problems.is_overfull());
            problems.push(Problem::in_line(Path::new("a.csv"), line, "wrong".to_owned()));
        }
        assert!(problems.is_overfull());
        let text = problems.to_string();
        assert!(text.starts_with("there are more than 10 problems, the first are\n  a.csv:1: wrong\n"), "{text}");
        assert!(text.ends_with("a.csv:10: wrong"), "{text}");
    }

    #[test]
    fn a_long_value_is_clipped_in_a_message() {
        let text = shown(&"x".repeat(1_000));
        assert_eq!(text.len(), MAX_SHOWN_CHARS + "`..`".len());
        assert_eq!(shown("a\tb"), "`a\\tb`");
    }
}
