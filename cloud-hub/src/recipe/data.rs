//! What a recipe says of the readings it is trained on.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Which readings of a file or folder count, and for what.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DataRules {
    /// The column of times, in files; without it readings are `input.interval_ms`, or a second, apart.
    pub time_column: Option<String>,
    /// The column of labels, in files.
    pub label_column: Option<String>,
    /// Only so many readings from the start of each file; 0 means all.
    pub first_rows: u32,
    /// What to do with a row that cannot be read: a value that is no number, or a time that is not after the one before.
    pub bad_rows: BadRows,
    /// How the readings are divided by time; without it all are trained on.
    pub split: Option<Split>,
}

/// What to do with a row that cannot be read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BadRows {
    /// Stop, and say where it is.
    #[default]
    Error,
    /// Leave it out, and count it.
    Skip,
}

/// How readings are divided by time: the oldest are trained on, the next decide when to stop and how sure to be, the newest
/// are only measured on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Split {
    /// From the first reading on.
    pub train: Extent,
    /// After that.
    #[serde(default)]
    pub validation: Extent,
    /// After that.
    #[serde(default)]
    pub test: Extent,
}

/// A stretch of readings.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Extent {
    /// So much time.
    Milliseconds(u64),
    /// Such a share of all readings, from 0 to 1.
    Share(f64),
}

impl Default for Extent {
    fn default() -> Self {
        Self::Share(0.0)
    }
}

/// Units of time, and their milliseconds.
const UNITS: [(&str, u64); 4] = [("d", 86_400_000), ("h", 3_600_000), ("min", 60_000), ("s", 1_000)];

impl FromStr for Extent {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || {
            format!("{text:?} is no stretch of readings; it must be like \"70 %\", \"360 d\", \"12 h\" or \"30 min\"")
        };
        if let Some(percent) = text.strip_suffix('%') {
            let percent: f64 = percent.trim().parse().map_err(|_| wrong())?;
            return if (0.0..=100.0).contains(&percent) { Ok(Self::Share(percent / 100.0)) } else { Err(wrong()) };
        }
        let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let (count, unit) = text.split_at(digits);
        let unit = UNITS.iter().find(|(name, _)| *name == unit.trim()).ok_or_else(wrong)?;
        let count: u64 = count.parse().map_err(|_| wrong())?;
        count.checked_mul(unit.1).map(Self::Milliseconds).ok_or_else(wrong)
    }
}

impl TryFrom<String> for Extent {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Extent> for String {
    fn from(extent: Extent) -> Self {
        extent.to_string()
    }
}

impl fmt::Display for Extent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Share(share) => write!(f, "{} %", 100.0 * share),
            Self::Milliseconds(milliseconds) => {
                let exact = UNITS.iter().find(|(_, unit)| milliseconds.is_multiple_of(*unit)).unwrap_or(&("s", 1_000));
                write!(f, "{} {}", milliseconds / exact.1, exact.0)
            }
        }
    }
}

impl DataRules {
    /// The first impossible value, in words.
    #[must_use]
    pub fn problem(&self) -> Option<String> {
        let split = self.split.as_ref()?;
        let shares: f64 = [split.train, split.validation, split.test]
            .iter()
            .map(|extent| match extent {
                Extent::Share(share) => *share,
                Extent::Milliseconds(_) => 0.0,
            })
            .sum();
        (shares > 1.0 + 1e-9).then(|| format!("data.split takes {} % of the readings", 100.0 * shares))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stretch_is_read_as_it_is_written() {
        for (text, extent) in [
            ("70 %", Extent::Share(0.7)),
            ("360d", Extent::Milliseconds(360 * 86_400_000)),
            ("12 h", Extent::Milliseconds(12 * 3_600_000)),
            ("90 min", Extent::Milliseconds(90 * 60_000)),
        ] {
            let read: Extent = text.parse().expect(text);
            assert_eq!(read, extent);
            assert_eq!(read.to_string().parse(), Ok(extent));
        }
        for wrong in ["", "7", "d", "101 %", "-3 d", "3 weeks", "999999999999999999 d"] {
            assert!(wrong.parse::<Extent>().expect_err(wrong).contains("it must be like"), "{wrong}");
        }
    }
}
