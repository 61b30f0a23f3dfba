//! MLflow's filters: `name LIKE 'pump%' AND tags.stage != 'old'`. Only AND joins; names may stand in backticks or quotes
//! (<https://mlflow.org/docs/latest/search-runs.html>, "Search syntax").

/// What must hold, all of it.
#[derive(Debug, Clone, PartialEq)]
pub struct Filter(Vec<Condition>);

#[derive(Debug, Clone, PartialEq)]
struct Condition {
    field: Field,
    is: Comparison,
    value: String,
}

/// What is compared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Field {
    /// Something every such thing has: a name, a status.
    Attribute(String),
    /// A tag.
    Tag(String),
    /// A parameter.
    Param(String),
    /// A figure.
    Metric(String),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Comparison {
    Equal,
    Unequal,
    Less,
    AtMost,
    Greater,
    AtLeast,
    Like,
    LikeAnyCase,
}

impl Field {
    /// Reads what is compared, or ordered by, alone.
    ///
    /// # Errors
    /// Says what is not understood.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut words = Words { text };
        let field = words.field()?;
        if words.text.trim().is_empty() { Ok(field) } else { Err(format!("{text:?} is more than a name")) }
    }
}

impl Filter {
    /// Reads a filter; nothing is one that everything passes.
    ///
    /// # Errors
    /// Says what is not understood.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut words = Words { text };
        let mut conditions = Vec::new();
        while !words.text.trim_start().is_empty() {
            if !conditions.is_empty() && !words.next()?.eq_ignore_ascii_case("AND") {
                return Err(format!("only AND joins what must hold, in {text:?}"));
            }
            let field = words.field()?;
            let is = words.comparison()?;
            conditions.push(Condition { field, is, value: words.value()? });
        }
        Ok(Self(conditions))
    }

    /// Whether something passes, of which `value` knows the fields.
    pub fn passes(&self, value: impl Fn(&Field) -> Option<String>) -> bool {
        self.0.iter().all(|condition| condition.holds(value(&condition.field)))
    }
}

impl Condition {
    fn holds(&self, value: Option<String>) -> bool {
        // What is not there is not equal to anything, and that is all that can be said of it.
        let Some(value) = value else { return self.is == Comparison::Unequal };
        let numbers = || Some((value.parse::<f64>().ok()?, self.value.parse::<f64>().ok()?));
        let number = |is: fn(&f64, &f64) -> bool| numbers().is_some_and(|(a, b)| is(&a, &b));
        match self.is {
            Comparison::Equal => value == self.value || number(|a, b| a == b),
            Comparison::Unequal => value != self.value && !number(|a, b| a == b),
            Comparison::Less => number(f64::lt),
            Comparison::AtMost => number(f64::le),
            Comparison::Greater => number(f64::gt),
            Comparison::AtLeast => number(f64::ge),
            Comparison::Like => is_like(&value, &self.value),
            Comparison::LikeAnyCase => is_like(&value.to_lowercase(), &self.value.to_lowercase()),
        }
    }
}

/// SQL's LIKE: `%` is anything, `_` one character.
fn is_like(text: &str, pattern: &str) -> bool {
    let (text, pattern): (Vec<char>, Vec<char>) = (text.chars().collect(), pattern.chars().collect());
    let (mut at, mut of) = (0, 0);
    let mut retry: Option<(usize, usize)> = None;
    while at < text.len() {
        match pattern.get(of) {
            Some('%') => {
                retry = Some((of, at));
                of += 1;
            }
            Some(character) if *character == '_' || *character == text[at] => {
                at += 1;
                of += 1;
            }
            _ => {
                // The last % takes one more.
                let Some((percent, taken)) = retry else { return false };
                retry = Some((percent, taken + 1));
                at = taken + 1;
                of = percent + 1;
            }
        }
    }
    pattern[of..].iter().all(|character| *character == '%')
}

/// What is still to be read.
struct Words<'a> {
    text: &'a str,
}

impl Words<'_> {
    /// A word, without the quotes around it.
    fn next(&mut self) -> Result<String, String> {
        let text = self.text.trim_start();
        let Some(first) = text.chars().next() else { return Err("the filter ends too early".to_owned()) };
        if let '\'' | '"' | '`' = first {
            let rest = &text[1..];
            let end = rest.find(first).ok_or_else(|| format!("{first} is not closed in {text:?}"))?;
            self.text = &rest[end + 1..];
            return Ok(rest[..end].to_owned());
        }
        let is_end = |character: char| character.is_whitespace() || "=!<>'\"`.".contains(character);
        // A number has a point of its own.
        let is_number = first.is_ascii_digit() || first == '-';
        let end = text.find(|character| is_end(character) && !(is_number && character == '.')).unwrap_or(text.len());
        if end == 0 {
            return Err(format!("{text:?} does not begin with a name"));
        }
        self.text = &text[end..];
        Ok(text[..end].to_owned())
    }

    fn field(&mut self) -> Result<Field, String> {
        let first = self.next()?;
        let Some(rest) = self.text.strip_prefix('.') else { return Ok(Field::Attribute(first)) };
        self.text = rest;
        // Keys of tags have points in them, also without backticks.
        let mut key = self.next()?;
        while let Some(rest) = self.text.strip_prefix('.') {
            self.text = rest;
            key = format!("{key}.{}", self.next()?);
        }
        match first.to_lowercase().as_str() {
            "tag" | "tags" => Ok(Field::Tag(key)),
            "param" | "params" | "parameter" | "parameters" => Ok(Field::Param(key)),
            "metric" | "metrics" => Ok(Field::Metric(key)),
            "attribute" | "attributes" | "attr" | "run" => Ok(Field::Attribute(key)),
            other => Err(format!("there are tags, params, metrics and attributes, no {other:?}")),
        }
    }

    fn comparison(&mut self) -> Result<Comparison, String> {
        let text = self.text.trim_start();
        let symbols = [
            ("!=", Comparison::Unequal),
            ("<>", Comparison::Unequal),
            ("<=", Comparison::AtMost),
            (">=", Comparison::AtLeast),
            ("=", Comparison::Equal),
            ("<", Comparison::Less),
            (">", Comparison::Greater),
        ];
        if let Some((symbol, is)) = symbols.into_iter().find(|(symbol, _)| text.starts_with(symbol)) {
            self.text = &text[symbol.len()..];
            return Ok(is);
        }
        match self.next()?.to_uppercase().as_str() {
            "LIKE" => Ok(Comparison::Like),
            "ILIKE" => Ok(Comparison::LikeAnyCase),
            other => Err(format!("{other:?} compares nothing; =, !=, <, <=, >, >=, LIKE and ILIKE do")),
        }
    }

    fn value(&mut self) -> Result<String, String> {
        self.next()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn passes(filter: &str) -> bool {
        Filter::parse(filter).expect("a filter").passes(|field| match field {
            Field::Attribute(name) if name == "name" => Some("Pump-1".to_owned()),
            Field::Tag(key) if key == "mlflow.source" => Some("ci".to_owned()),
            Field::Metric(key) if key == "loss" => Some("0.25".to_owned()),
            Field::Attribute(_) | Field::Tag(_) | Field::Param(_) | Field::Metric(_) => None,
        })
    }

    #[test]
    fn what_mlflows_clients_send_is_understood() {
        for filter in [
            "",
            "tag.`mlflow.prompt.is_prompt` != 'true'",
            "name='Pump-1'",
            "name = \"Pump-1\" and tags.mlflow.source = 'ci'",
            "name LIKE 'Pump%'",
            "name ilike '%MP-_'",
            "metrics.loss < 0.5 AND metrics.loss >= 0.25 AND metrics.`loss` = 0.250",
            "attributes.name != 'x' AND params.lr != '0.1'",
        ] {
            assert!(passes(filter), "{filter}");
        }
        for filter in
            ["name = 'pump-1'", "name LIKE 'Pump'", "metrics.loss > 0.25", "params.lr = '0.1'", "metrics.loss < 'x'"]
        {
            assert!(!passes(filter), "{filter}");
        }
    }

    #[test]
    fn what_is_not_understood_is_said() {
        for (filter, part) in [
            ("name = 'x' OR name = 'y'", "only AND"),
            ("name = 'x", "not closed"),
            ("name", "ends too early"),
            ("name IN ('x')", "compares nothing"),
            ("colour.x = 'y'", "no \"colour\""),
        ] {
            let problem = Filter::parse(filter).expect_err("none");
            assert!(problem.contains(part), "{filter}: {problem}");
        }
    }

    proptest! {
        #[test]
        fn no_text_breaks_it(text in ".{0,60}", value in ".{0,20}") {
            if let Ok(filter) = Filter::parse(&text) {
                filter.passes(|_| Some(value.clone()));
            }
            is_like(&value, &text);
        }
    }
}
