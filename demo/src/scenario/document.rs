//! A TOML text and its values, each read as one type, with the place of what is wrong.

use std::ops::Range;
use std::path::Path;

use shared::ids::IdError;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::problems::{Problem, choices, shown};

/// A scenario file's path and text.
pub(super) struct Document<'a> {
    pub(super) path: &'a Path,
    pub(super) text: &'a str,
}

impl Document<'_> {
    /// A problem at the byte `offset` of the text.
    pub(super) fn problem(&self, offset: usize, what: String) -> Problem {
        let before = &self.text[..self.text.floor_char_boundary(offset)];
        let line = 1 + before.matches('\n').count();
        let column = 1 + before.rsplit('\n').next().unwrap_or(before).chars().count();
        Problem { file: self.path.to_owned(), line: Some(line), column: Some(column), what }
    }
}

/// Reads the tables and notes problems with the byte they are at.
pub(super) struct Checker<'a> {
    pub(super) document: &'a Document<'a>,
    pub(super) found: &'a mut Vec<(usize, String)>,
}

/// One table: its entries and what to call it.
#[derive(Clone, Copy)]
pub(super) struct Table<'a> {
    pub(super) entries: &'a DeTable<'a>,
    /// The byte it begins at.
    pub(super) offset: usize,
    pub(super) what: &'static str,
}

impl Checker<'_> {
    /// Notes what is wrong at a byte of the text.
    pub(super) fn note(&mut self, offset: usize, what: String) {
        self.found.push((offset, what));
    }

    /// Notes what is wrong with what stands at `span`.
    pub(super) fn wrong(&mut self, span: Range<usize>, what: String) {
        self.note(span.start, what);
    }

    /// Notes that `value` is of another type than `key` wants; always `None`.
    pub(super) fn wrong_type<T>(&mut self, value: &Spanned<DeValue<'_>>, key: &str, right: &str) -> Option<T> {
        self.wrong(value.span(), format!("{key} is {}; {right}", type_of(value.get_ref())));
        None
    }

    /// Notes every key of the table that is not `known`.
    pub(super) fn refuse_unknown_keys(&mut self, table: Table<'_>, known: &[&str]) {
        for key in table.entries.keys().filter(|key| !known.contains(&key.get_ref().as_ref())) {
            let name = key.get_ref();
            let choices = choices(name, known.iter().copied());
            self.wrong(key.span(), format!("unknown key {}; {} has {choices}", shown(name), table.what));
        }
    }

    /// The value of a key that the table must have.
    pub(super) fn value<'t>(&mut self, table: Table<'t>, key: &str) -> Option<&'t Spanned<DeValue<'t>>> {
        let value = table.entries.get(key);
        if value.is_none() {
            self.note(table.offset, format!("{} has no key `{key}`; add it", table.what));
        }
        value
    }

    /// A text that is not empty.
    pub(super) fn text<'t>(&mut self, table: Table<'t>, key: &str) -> Option<Spanned<&'t str>> {
        let value = self.value(table, key)?;
        self.text_of(value, key)
    }

    fn text_of<'t>(&mut self, value: &'t Spanned<DeValue<'t>>, key: &str) -> Option<Spanned<&'t str>> {
        let DeValue::String(text) = value.get_ref() else {
            return self.wrong_type(value, key, "write a text in quotes");
        };
        if text.is_empty() {
            self.wrong(value.span(), format!("{key} holds an empty text; write at least one character"));
            return None;
        }
        Some(Spanned::new(value.span(), text.as_ref()))
    }

    /// A list of texts, at least one, none of them empty.
    pub(super) fn texts<'t>(&mut self, table: Table<'t>, key: &str) -> Option<Vec<Spanned<&'t str>>> {
        let value = self.value(table, key)?;
        let DeValue::Array(values) = value.get_ref() else {
            return self.wrong_type(value, key, "write a list of texts, like [\"a\", \"b\"]");
        };
        if values.is_empty() {
            self.wrong(value.span(), format!("{key} is empty; name at least one"));
            return None;
        }
        let texts: Vec<_> = values.iter().map(|value| self.text_of(value, key)).collect();
        texts.into_iter().collect()
    }

    /// The text as a checked name.
    pub(super) fn checked<T>(&mut self, text: &Spanned<&str>, check: fn(&str) -> Result<T, IdError>) -> Option<T> {
        check(text.get_ref()).map_err(|error| self.wrong(text.span(), error.to_string())).ok()
    }
}

fn type_of(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a text",
        DeValue::Integer(_) => "a whole number",
        DeValue::Float(_) => "a number",
        DeValue::Boolean(_) => "a truth value",
        DeValue::Datetime(_) => "a time",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}
