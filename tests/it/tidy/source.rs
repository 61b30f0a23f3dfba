//! Rust source as the tidy checks see it: no comments, no string contents, no test code.

use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// One source file, blanked so that every byte keeps its line.
pub(crate) struct Source {
    /// Path from the workspace's root, with forward slashes.
    pub(crate) path: String,
    code: String,
    test_lines: usize,
}

/// A path as written in the code or spelt out from a `use` tree.
pub(crate) struct Mention {
    pub(crate) line: usize,
    pub(crate) segments: Vec<String>,
    /// Whether it came from a `use` item, where a single segment is a crate and not a variable.
    imported: bool,
}

impl Source {
    /// Takes a file's text apart. `path` is relative to the workspace's root.
    pub(crate) fn parse(path: &str, text: &str) -> Self {
        let mut code = blank_comments_and_strings(text);
        let mut test_lines = 0;
        for region in test_regions(&code) {
            test_lines += code[region.clone()].lines().count();
            code.replace_range(region.clone(), &blank(&code[region]));
        }
        Self { path: path.to_owned(), code, test_lines }
    }

    /// Lines that are not in test code.
    pub(crate) fn own_lines(&self) -> usize {
        self.code.lines().count().saturating_sub(self.test_lines)
    }

    /// The lines of code, counted from 1.
    pub(crate) fn lines(&self) -> impl Iterator<Item = (usize, &str)> {
        self.code.lines().enumerate().map(|(index, line)| (index + 1, line))
    }

    /// Every path in the code; `use a::{b, c::d}` counts as `a::b` and `a::c::d`.
    pub(crate) fn mentions(&self) -> Vec<Mention> {
        let tokens = tokens(&self.code);
        let mut mentions = Vec::new();
        let mut at = 0;
        while at < tokens.len() {
            let start = at;
            if tokens[at].text == "use" {
                at += 1;
                use_tree(&tokens, &mut at, &[], &mut mentions);
            } else if tokens[at].is_name() {
                let line = tokens[at].line;
                let segments = straight_path(&tokens, &mut at);
                mentions.push(Mention { line, segments, imported: false });
            }
            at = at.max(start + 1);
        }
        mentions
    }

    /// The path of this file's module inside its crate: `src/link/frames.rs` is `link`, `frames`.
    pub(crate) fn module(&self) -> Vec<String> {
        let inside = self.path.split_once("/src/").map_or("", |(_, inside)| inside);
        let mut segments: Vec<String> =
            inside.trim_end_matches(".rs").split('/').filter(|part| !part.is_empty()).map(str::to_owned).collect();
        if matches!(segments.last().map(String::as_str), Some("lib" | "main" | "mod")) {
            segments.pop();
        }
        segments
    }
}

impl Mention {
    /// Whether the path goes through `rule`. A rule of one lower-case word is a crate: it counts where the path begins
    /// with it and is longer, or is imported. Any other rule counts wherever its segments stand in a row.
    pub(crate) fn names(&self, rule: &str) -> bool {
        let rule: Vec<&str> = rule.split("::").collect();
        let is_crate = rule.len() == 1 && rule[0].starts_with(|first: char| first.is_ascii_lowercase());
        if is_crate {
            return self.segments[0] == rule[0] && (self.imported || self.segments.len() > 1);
        }
        self.segments.windows(rule.len()).any(|run| run.iter().zip(&rule).all(|(have, want)| have == want))
    }

    /// The path from the crate's root where it begins with `crate`, `self` or `super`; `None` for other crates' paths.
    pub(crate) fn inside_crate(&self, module: &[String]) -> Option<Vec<String>> {
        let mut base: Vec<String> = module.to_vec();
        let mut rest = self.segments.as_slice();
        match rest.first()?.as_str() {
            "crate" => {
                base.clear();
                rest = &rest[1..];
            }
            "self" => rest = &rest[1..],
            "super" => {
                while rest.first().is_some_and(|segment| segment == "super") {
                    base.pop();
                    rest = &rest[1..];
                }
            }
            _ => return None,
        }
        base.extend_from_slice(rest);
        Some(base)
    }
}

/// All files with one of these endings below `folder`, sorted, build output and hidden folders left out.
pub(crate) fn files_below(folder: &Path, endings: &[&str]) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let entries = fs::read_dir(folder).unwrap_or_else(|error| panic!("failed to list {}: {error}", folder.display()));
    for entry in entries {
        let path = entry.unwrap_or_else(|error| panic!("failed to list {}: {error}", folder.display())).path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if path.is_dir() {
            if !name.starts_with('.') && name != "target" && name != "node_modules" {
                found.extend(files_below(&path, endings));
            }
        } else if endings.iter().any(|ending| name.ends_with(ending)) {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// Replaces comments and the contents of string and character literals by spaces; line breaks stay.
fn blank_comments_and_strings(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = bytes.to_vec();
    let mut at = 0;
    while at < bytes.len() {
        let end = match bytes[at] {
            b'/' if bytes.get(at + 1) == Some(&b'/') => line_end(bytes, at),
            b'/' if bytes.get(at + 1) == Some(&b'*') => comment_end(bytes, at),
            b'"' => string_end(bytes, at),
            b'r' if is_raw_string(bytes, at) => raw_string_end(bytes, at),
            b'\'' => character_end(bytes, at),
            byte if is_word(byte) => {
                at += 1;
                // `r` and `b` before a quote begin a literal only where a word begins.
                while at < bytes.len() && is_word(bytes[at]) && !is_raw_string(bytes, at) {
                    at += 1;
                }
                continue;
            }
            _ => {
                at += 1;
                continue;
            }
        };
        for byte in &mut out[at..end] {
            if *byte != b'\n' {
                *byte = b' ';
            }
        }
        at = end;
    }
    // Only whole literals and comments were blanked, byte by byte, so what is left is still UTF-8.
    String::from_utf8(out).unwrap_or_else(|error| panic!("failed to blank a source file: {error}"))
}

fn line_end(bytes: &[u8], at: usize) -> usize {
    bytes[at..].iter().position(|byte| *byte == b'\n').map_or(bytes.len(), |offset| at + offset)
}

fn comment_end(bytes: &[u8], at: usize) -> usize {
    let mut depth = 0;
    let mut here = at;
    while here < bytes.len() {
        if bytes[here..].starts_with(b"/*") {
            depth += 1;
            here += 2;
        } else if bytes[here..].starts_with(b"*/") {
            depth -= 1;
            here += 2;
            if depth == 0 {
                return here;
            }
        } else {
            here += 1;
        }
    }
    bytes.len()
}

fn string_end(bytes: &[u8], at: usize) -> usize {
    let mut here = at + 1;
    while here < bytes.len() {
        match bytes[here] {
            b'\\' => here += 2,
            b'"' => return here + 1,
            _ => here += 1,
        }
    }
    bytes.len()
}

fn is_raw_string(bytes: &[u8], at: usize) -> bool {
    if bytes[at] != b'r' || (at > 0 && is_word(bytes[at - 1]) && bytes[at - 1] != b'b' && bytes[at - 1] != b'c') {
        return false;
    }
    let hashes = bytes[at + 1..].iter().take_while(|byte| **byte == b'#').count();
    bytes.get(at + 1 + hashes) == Some(&b'"')
}

fn raw_string_end(bytes: &[u8], at: usize) -> usize {
    let hashes = bytes[at + 1..].iter().take_while(|byte| **byte == b'#').count();
    let mut closing = vec![b'"'];
    closing.extend(std::iter::repeat_n(b'#', hashes));
    let body = at + 2 + hashes;
    bytes[body..]
        .windows(closing.len())
        .position(|window| window == closing)
        .map_or(bytes.len(), |offset| body + offset + closing.len())
}

/// The end of a character literal, or of the lone quote where it is a lifetime.
fn character_end(bytes: &[u8], at: usize) -> usize {
    if bytes.get(at + 1) == Some(&b'\\') {
        let mut here = at + 3;
        while here < bytes.len() && bytes[here] != b'\'' && bytes[here] != b'\n' {
            here += 1;
        }
        return (here + 1).min(bytes.len());
    }
    let width = match bytes.get(at + 1) {
        Some(byte) if *byte < 0x80 => 1,
        Some(byte) if *byte < 0xE0 => 2,
        Some(byte) if *byte < 0xF0 => 3,
        Some(_) => 4,
        None => return bytes.len(),
    };
    if bytes.get(at + 1 + width) == Some(&b'\'') { at + 2 + width } else { at + 1 }
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_' || byte >= 0x80
}

/// Where items marked `#[cfg(test)]` lie, in order.
fn test_regions(code: &str) -> Vec<Range<usize>> {
    let mut regions = Vec::new();
    let mut from = 0;
    while let Some(offset) = ["#[cfg(test)]", "#[cfg(all(test"].iter().filter_map(|mark| code[from..].find(mark)).min()
    {
        let start = from + offset;
        let end = item_end(code.as_bytes(), start);
        regions.push(start..end);
        from = end;
    }
    regions
}

/// The end of the item that begins at `start` with its attributes.
fn item_end(code: &[u8], start: usize) -> usize {
    let mut here = start;
    loop {
        while here < code.len() && code[here].is_ascii_whitespace() {
            here += 1;
        }
        if !code[here..].starts_with(b"#[") {
            break;
        }
        here = closing(code, here + 1);
    }
    while here < code.len() {
        match code[here] {
            b'{' => return closing(code, here),
            b'(' | b'[' => here = closing(code, here),
            b';' => return here + 1,
            b'}' => return here,
            _ => here += 1,
        }
    }
    code.len()
}

/// One past the bracket that closes the one at `at`.
fn closing(code: &[u8], at: usize) -> usize {
    let mut depth = 0;
    for (offset, byte) in code[at..].iter().enumerate() {
        match byte {
            b'(' | b'[' | b'{' => depth += 1,
            b')' | b']' | b'}' => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return at + offset + 1;
        }
    }
    code.len()
}

fn blank(text: &str) -> String {
    text.bytes().map(|byte| if byte == b'\n' { '\n' } else { ' ' }).collect()
}

struct Token<'a> {
    line: usize,
    text: &'a str,
}

impl Token<'_> {
    fn is_name(&self) -> bool {
        self.text.starts_with(|first: char| first == '_' || first.is_alphabetic())
    }
}

/// Words, `::` and single punctuation marks.
fn tokens(code: &str) -> Vec<Token<'_>> {
    let bytes = code.as_bytes();
    let mut tokens = Vec::new();
    let mut line = 1;
    let mut at = 0;
    while at < bytes.len() {
        let start = at;
        match bytes[at] {
            b'\n' => line += 1,
            byte if is_word(byte) => {
                while at + 1 < bytes.len() && is_word(bytes[at + 1]) {
                    at += 1;
                }
            }
            b':' if bytes.get(at + 1) == Some(&b':') => at += 1,
            _ => {}
        }
        at += 1;
        if !bytes[start].is_ascii_whitespace() {
            tokens.push(Token { line, text: &code[start..at] });
        }
    }
    tokens
}

/// Reads `a::b::c` from `at` and moves past it.
fn straight_path(tokens: &[Token<'_>], at: &mut usize) -> Vec<String> {
    let mut segments = vec![tokens[*at].text.to_owned()];
    *at += 1;
    while *at + 1 < tokens.len() && tokens[*at].text == "::" && tokens[*at + 1].is_name() {
        segments.push(tokens[*at + 1].text.to_owned());
        *at += 2;
    }
    segments
}

/// Reads one `use` tree from `at`, spelling out its groups.
fn use_tree(tokens: &[Token<'_>], at: &mut usize, prefix: &[String], found: &mut Vec<Mention>) {
    let line = tokens.get(*at).map_or(0, |token| token.line);
    let mut path = prefix.to_vec();
    while let Some(token) = tokens.get(*at) {
        match token.text {
            "::" => *at += 1,
            "{" => {
                *at += 1;
                while tokens.get(*at).is_some_and(|token| token.text != "}" && token.text != ";") {
                    use_tree(tokens, at, &path, found);
                    if tokens.get(*at).is_some_and(|token| token.text == ",") {
                        *at += 1;
                    }
                }
                *at += 1;
                return;
            }
            "as" => *at += 2,
            "*" => *at += 1,
            // A bound such as `impl Sized + use<'a>` is no import and ends at once.
            text if token.is_name() => {
                path.push(text.to_owned());
                *at += 1;
            }
            _ => break,
        }
    }
    if path.len() > prefix.len() {
        found.push(Mention { line, segments: path, imported: true });
    } else {
        // Nothing was read: move on, so that no input can hold the reader.
        *at += usize::from(tokens.get(*at).is_some_and(|token| !matches!(token.text, "}" | ";" | ",")));
    }
}

#[cfg(test)]
mod tests {
    use super::Source;

    fn paths(text: &str) -> Vec<String> {
        Source::parse("a/src/b.rs", text).mentions().iter().map(|mention| mention.segments.join("::")).collect()
    }

    fn check_named(text: &str, rule: &str, expected: bool) {
        let named = Source::parse("a/src/b.rs", text).mentions().iter().any(|mention| mention.names(rule));
        assert_eq!(named, expected, "{rule} in {text:?}");
    }

    #[test]
    fn use_groups_are_spelt_out() {
        let found = paths("use std::{collections::{BTreeMap, HashMap as Map}, fs::*};\nuse tokio;");
        assert_eq!(found, ["std::collections::BTreeMap", "std::collections::HashMap", "std::fs", "tokio"]);
    }

    #[test]
    fn banned_names_are_seen_wherever_code_can_name_them() {
        check_named("use std::{io, fs};", "std::fs", true);
        check_named("let now = std::time::Instant::now();", "Instant::now", true);
        check_named("#[derive(sqlx::FromRow)] struct Row;", "sqlx", true);
        check_named("fn f<'a>(x: &'a rand::Rng) {}", "rand", true);
        check_named("use ::tokio as t;", "tokio", true);
        check_named("type Map = std::collections::HashMap<u8, u8>;", "HashMap", true);
    }

    #[test]
    fn comments_strings_and_look_alikes_are_not_seen() {
        check_named("// std::fs\n/* a /* tokio::spawn */ tokio::x */ fn f() {}", "tokio", false);
        check_named(r####"let s = (r##"tokio::a "# "##, b"tokio::b", "\"tokio::c", '"', '\'');"####, "tokio", false);
        check_named("let rand = 1; let next = rand + 1;", "rand", false);
        check_named("struct TokioLike; mod tokio_like {}", "tokio", false);
        check_named("let x = '\u{e9}'; let y = 'tokio: loop {};", "tokio", false);
        check_named("for brand in tokens { r(brand); }", "rand", false);
    }

    #[test]
    fn test_code_is_cut_out_and_code_after_it_is_not() {
        let text = "#[cfg(test)]\n#[allow(x)]\nfn helper() { tokio::a() }\nfn real() { quinn::a() }\n\
                    #[cfg(test)]\nmod tests {\n  fn t() { sled::a(); }\n}\n";
        check_named(text, "tokio", false);
        check_named(text, "quinn", true);
        check_named(text, "sled", false);
        assert_eq!(Source::parse("a/src/b.rs", text).own_lines(), 1);
    }

    #[test]
    fn paths_are_followed_to_the_crates_root() {
        let check = |path: &str, text: &str, expected: &str| {
            let source = Source::parse(path, text);
            let found = source.mentions().iter().find_map(|mention| mention.inside_crate(&source.module()));
            assert_eq!(found.map(|segments| segments.join("::")), Some(expected.to_owned()), "{text}");
        };
        check("a/src/link.rs", "use super::store::Store;", "store::Store");
        check("a/src/link/frames.rs", "use super::super::store;", "store");
        check("a/src/link.rs", "use self::frames::Frame;", "link::frames::Frame");
        check("a/src/lib.rs", "use crate::core;", "core");
    }
}
