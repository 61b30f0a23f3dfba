//! InfluxDB's line protocol: `measurement,tag=value field=1.5,other=3i 1700000000000000000`.
//! <https://docs.influxdata.com/influxdb/v2/reference/syntax/line-protocol/>

use std::borrow::Cow;

use shared::event::UnixMillis;

use super::MAX_READINGS_PER_MESSAGE;
use super::extract::Found;
use super::rejection::Rejection;
use super::time;
use crate::config::input::TimeUnit;

/// One line.
#[derive(Debug, PartialEq)]
pub(super) struct Line<'a> {
    measurement: Cow<'a, str>,
    tags: Vec<(Cow<'a, str>, Cow<'a, str>)>,
    fields: Vec<(Cow<'a, str>, Found<'a>)>,
    time: Option<i64>,
}

impl Line<'_> {
    /// The measurement, or the tag of this name.
    pub(super) fn named(&self, name: &str) -> Option<&str> {
        let tag = || self.tags.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_ref());
        if name == "measurement" { Some(self.measurement.as_ref()) } else { tag() }
    }

    pub(super) fn tag_names(&self) -> impl Iterator<Item = &str> {
        self.tags.iter().map(|(name, _)| name.as_ref())
    }

    pub(super) fn fields(&self) -> impl Iterator<Item = (&str, &Found<'_>)> {
        self.fields.iter().map(|(name, value)| (name.as_ref(), value))
    }

    /// When it was measured; a line need not say it.
    pub(super) fn time_ms(&self, unit: TimeUnit, arrival_ms: UnixMillis) -> Result<UnixMillis, Rejection> {
        let Some(time) = self.time else { return Ok(arrival_ms) };
        time::parse(&Found::Integer(time), unit, None).ok_or(Rejection::BadTime)
    }
}

/// The lines of a message, each for itself: one that is wrong says where.
pub(super) fn lines(payload: &[u8]) -> Result<impl Iterator<Item = Result<Line<'_>, Rejection>>, Rejection> {
    let text = std::str::from_utf8(payload).map_err(|_| malformed(1, "it is not UTF-8"))?;
    let lines = text.split('\n').enumerate().map(|(index, line)| (index + 1, line.trim()));
    let lines = lines.filter(|(_, line)| !line.is_empty() && !line.starts_with('#'));
    if lines.clone().count() > MAX_READINGS_PER_MESSAGE {
        return Err(Rejection::TooManyReadings);
    }
    Ok(lines.map(|(number, line)| Reader { rest: line }.line().map_err(|problem| malformed(number, problem))))
}

fn malformed(line: usize, problem: &str) -> Rejection {
    Rejection::Malformed { format: "line protocol", problem: format!("line {line}: {problem}") }
}

struct Reader<'a> {
    rest: &'a str,
}

impl<'a> Reader<'a> {
    fn line(mut self) -> Result<Line<'a>, &'static str> {
        let measurement = self.name(&[',', ' ']);
        if measurement.is_empty() {
            return Err("there is no measurement before the first comma or space");
        }
        let mut tags = Vec::new();
        while self.takes(',') {
            let name = self.name(&[',', ' ', '=']);
            if !self.takes('=') {
                return Err("a tag is name=value");
            }
            tags.push((name, self.name(&[',', ' ', '='])));
        }
        if !self.takes(' ') {
            return Err("there is no field; fields stand after the first space");
        }
        self.rest = self.rest.trim_start_matches(' ');
        let fields = self.fields()?;
        let time = self.rest.trim();
        let time = (!time.is_empty()).then(|| time.parse::<i64>()).transpose();
        let time = time.map_err(|_| "what stands after the fields is no time; it is a whole number")?;
        Ok(Line { measurement, tags, fields, time })
    }

    fn fields(&mut self) -> Result<Vec<(Cow<'a, str>, Found<'a>)>, &'static str> {
        let mut fields = Vec::new();
        loop {
            let name = self.name(&[',', ' ', '=']);
            if name.is_empty() || !self.takes('=') {
                return Err("a field is name=value");
            }
            fields.push((name, self.value()?));
            if !self.takes(',') {
                return Ok(fields);
            }
        }
    }

    fn value(&mut self) -> Result<Found<'a>, &'static str> {
        if self.takes('"') {
            return self.quoted().map(Found::Text).ok_or("a text is not closed by a quotation mark");
        }
        let end = self.rest.find([',', ' ']).unwrap_or(self.rest.len());
        let (text, rest) = self.rest.split_at(end);
        self.rest = rest;
        match text {
            "t" | "T" | "true" | "True" | "TRUE" => return Ok(Found::Bool(true)),
            "f" | "F" | "false" | "False" | "FALSE" => return Ok(Found::Bool(false)),
            _ => {}
        }
        let whole = text.strip_suffix('i').or_else(|| text.strip_suffix('u'));
        let number = match whole {
            Some(whole) => whole.parse().ok().map(Found::Integer),
            None => text.parse().ok().filter(|number: &f64| number.is_finite()).map(Found::Number),
        };
        number.ok_or("a value is a number, a number with i or u, t, f, or a text in quotation marks")
    }

    /// Up to the closing quotation mark, which is taken as well.
    fn quoted(&mut self) -> Option<Cow<'a, str>> {
        let text = self.rest;
        let mut escaped = false;
        for (at, c) in text.char_indices() {
            match c {
                '"' if !escaped => {
                    self.rest = &text[at + 1..];
                    return Some(unescaped(&text[..at], &['"', '\\']));
                }
                _ => escaped = c == '\\' && !escaped,
            }
        }
        None
    }

    /// Up to the first of `ends` that no backslash stands before.
    fn name(&mut self, ends: &[char]) -> Cow<'a, str> {
        let text = self.rest;
        let mut escaped = false;
        let mut end = text.len();
        for (at, c) in text.char_indices() {
            if !escaped && ends.contains(&c) {
                end = at;
                break;
            }
            escaped = c == '\\' && !escaped;
        }
        self.rest = &text[end..];
        unescaped(&text[..end], &[',', ' ', '='])
    }

    fn takes(&mut self, c: char) -> bool {
        let rest = self.rest.strip_prefix(c);
        self.rest = rest.unwrap_or(self.rest);
        rest.is_some()
    }
}

/// Without the backslashes before the characters that need one; another backslash is itself.
fn unescaped<'a>(text: &'a str, special: &[char]) -> Cow<'a, str> {
    if !text.contains('\\') {
        return Cow::Borrowed(text);
    }
    let mut plain = String::with_capacity(text.len());
    let mut rest = text.chars().peekable();
    while let Some(c) = rest.next() {
        let escapes = c == '\\' && rest.peek().is_some_and(|next| special.contains(next));
        plain.extend(if escapes { rest.next() } else { Some(c) });
    }
    Cow::Owned(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Vec<Result<Line<'_>, Rejection>> {
        lines(text.as_bytes()).expect("few lines").collect()
    }

    fn line(text: &str) -> Line<'_> {
        read(text).remove(0).expect("a line")
    }

    fn problem(text: &str) -> String {
        read(text).remove(0).expect_err("wrong").to_string()
    }

    #[test]
    fn a_line_is_read_as_its_documentation_shows() {
        let line = line(
            "pump,site=north,id=p\\ 3 flow=12.5,count=7i,seen=9u,on=t,state=\"a \\\"b\\\", c\" 1700000000000000000",
        );
        assert_eq!(line.named("measurement"), Some("pump"));
        assert_eq!((line.named("site"), line.named("id"), line.named("x")), (Some("north"), Some("p 3"), None));
        let fields: Vec<(&str, &Found<'_>)> = line.fields().collect();
        assert_eq!(fields[0], ("flow", &Found::Number(12.5)));
        assert_eq!(fields[1], ("count", &Found::Integer(7)));
        assert_eq!(fields[2], ("seen", &Found::Integer(9)));
        assert_eq!(fields[3], ("on", &Found::Bool(true)));
        assert_eq!(fields[4], ("state", &Found::Text("a \"b\", c".into())));
        assert_eq!(line.time_ms(TimeUnit::Ns, 5), Ok(1_700_000_000_000));
    }

    #[test]
    fn names_may_hold_what_separates_them_after_a_backslash() {
        let line = line("my\\,pump,a\\=b=c\\,d e\\ f=1");
        assert_eq!(line.named("measurement"), Some("my,pump"));
        assert_eq!(line.named("a=b"), Some("c,d"));
        assert_eq!(line.fields().next().map(|(name, _)| name), Some("e f"));
        assert_eq!(line.time_ms(TimeUnit::Ns, 5), Ok(5), "without a time it is the time of arrival");
    }

    #[test]
    fn lines_are_read_each_for_itself_and_comments_and_empty_ones_are_none() {
        let found = read("a x=1\n\n# nothing\r\nb\nc x=2 3\r\n");
        assert_eq!(found.len(), 3);
        assert!(found[0].is_ok() && found[2].is_ok());
        let problem = found[1].as_ref().expect_err("no field").to_string();
        assert_eq!(
            problem,
            "the payload is no line protocol: line 4: there is no field; fields stand after the first space"
        );
    }

    #[test]
    fn what_is_wrong_in_a_line_is_said() {
        assert!(problem(",a=b x=1").contains("there is no measurement"));
        assert!(problem("m,a x=1").contains("a tag is name=value"));
        assert!(problem("m x").contains("a field is name=value"));
        assert!(problem("m x=1,").contains("a field is name=value"));
        assert!(problem("m x=\"1").contains("not closed"));
        assert!(problem("m x=nan").contains("a value is a number"));
        assert!(problem("m x=1 soon").contains("is no time"));
        assert_eq!(lines(b"\xff").err().expect("no text").reason(), "malformed");
        let many = "m x=1\n".repeat(MAX_READINGS_PER_MESSAGE + 1);
        assert_eq!(lines(many.as_bytes()).err(), Some(Rejection::TooManyReadings));
    }
}
