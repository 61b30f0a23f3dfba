//! The preprocessing steps a pipeline declares, and the columns that go through them.

use serde::{Deserialize, Serialize};

use super::{Baseline, Shape, Stage};
use crate::ids::ChannelName;
use crate::limits::{MAX_FEATURES, MAX_WINDOW_ROWS};

/// One preprocessing step.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Step {
    /// Keeps the named columns, in this order.
    Select {
        /// Their names.
        channels: Vec<ChannelName>,
    },
    /// Exponential moving average per column: `y += alpha * (x - y)`, starting at the first value.
    Ema {
        /// The weight of a new value, above 0 and at most 1. A span of n rows is `2 / (n + 1)`.
        alpha: f64,
    },
    /// `(x - mean) / std` per column.
    Zscore {
        /// Where the constants come from.
        #[serde(default)]
        baseline: Baseline,
        /// The mean of each column. Empty in a recipe, and with a stream's baseline.
        #[serde(default)]
        mean: Vec<f64>,
        /// The standard deviation of each column, above 0. Empty in a recipe, and with a stream's baseline.
        #[serde(default)]
        std: Vec<f64>,
    },
    /// `x - x of so many readings ago` per column; no answer before there are so many.
    Diff {
        /// How many readings back.
        rows: u32,
    },
    /// Moves values beyond the limits to the limits.
    Clip {
        /// The smallest.
        low: f64,
        /// The largest.
        high: f64,
    },
    /// Adds to the columns what they were some readings ago; no answer before there are so many.
    Lags {
        /// How many readings back, each a set of columns `<name>.lag<rows>`.
        rows: Vec<u32>,
    },
    /// Adds columns that say when it is: the sine and cosine of a cycle.
    Calendar {
        /// The cycles.
        of: Vec<Cycle>,
        /// Minutes that local time is ahead of UTC.
        #[serde(default)]
        offset_minutes: i32,
    },
    /// The last `length` readings as a sequence, oldest first, taking every `stride`-th, the newest always.
    Window {
        /// Readings the window spans.
        length: u32,
        /// Distance between the readings taken.
        #[serde(default = "one")]
        stride: u32,
        /// Readings from one window to the next.
        #[serde(default = "one")]
        hop: u32,
    },
    /// From a window to numbers about each of its columns.
    Stats {
        /// Which numbers; each is a set of columns `<name>.<statistic>`.
        of: Vec<Statistic>,
    },
    /// From a window to the power of each of its columns in bands of frequency: the natural logarithm of the mean squared
    /// magnitude of the Fourier transform of what is left without the mean under a Hann window, bands of equal width from
    /// above 0 to half the sampling rate.
    FftBands {
        /// How many bands, each a set of columns `<name>.band<index>`.
        bands: u32,
    },
}

/// A number about a column of a window.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Statistic {
    /// The mean.
    Mean,
    /// The standard deviation, of the population.
    Std,
    /// The smallest.
    Min,
    /// The largest.
    Max,
    /// The root of the mean square.
    Rms,
    /// The largest magnitude, in root mean squares; 0 for zeros.
    Crest,
    /// The fourth central moment in squared variances, 3 for a normal distribution; 0 for a constant.
    Kurtosis,
}

impl Statistic {
    /// Its name in a recipe.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Mean => "mean",
            Self::Std => "std",
            Self::Min => "min",
            Self::Max => "max",
            Self::Rms => "rms",
            Self::Crest => "crest",
            Self::Kurtosis => "kurtosis",
        }
    }
}

/// A cycle of the calendar.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cycle {
    /// 24 hours, from midnight.
    Day,
    /// Seven days, from Monday.
    Week,
    /// 365.2425 days, from the first of January 1970.
    Year,
}

impl Cycle {
    /// Its name in a recipe.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Day => "day",
            Self::Week => "week",
            Self::Year => "year",
        }
    }
}

/// What goes from step to step: named columns, of one reading or of a window of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Columns {
    /// Their names, in order.
    pub names: Vec<String>,
    /// Readings of a window; none for one reading.
    pub steps: Option<usize>,
}

fn one() -> u32 {
    1
}

impl Columns {
    /// The columns of a reading.
    pub fn of_channels<'a>(channels: impl IntoIterator<Item = &'a ChannelName>) -> Self {
        Self { names: channels.into_iter().map(ToString::to_string).collect(), steps: None }
    }

    /// Their shape.
    #[must_use]
    pub fn shape(&self) -> Shape {
        match self.steps {
            None => Shape::Flat(self.names.len()),
            Some(steps) => Shape::Sequence { steps, channels: self.names.len() },
        }
    }

    /// Where a column is.
    #[must_use]
    pub fn position(&self, name: &ChannelName) -> Option<usize> {
        self.names.iter().position(|column| column == name.as_str())
    }

    fn each(&self, suffixes: &[String]) -> Self {
        let named = |name: &String| suffixes.iter().map(|suffix| format!("{name}.{suffix}")).collect::<Vec<_>>();
        Self { names: self.names.iter().flat_map(named).collect(), steps: None }
    }
}

impl Step {
    /// Whether it learns from the stream's own calibration.
    #[must_use]
    pub fn is_calibrated(&self) -> bool {
        matches!(self, Self::Zscore { baseline: Baseline::Stream, .. })
    }

    /// The columns it gives when it is given `before`.
    ///
    /// # Errors
    /// What does not fit, and what would.
    pub fn check(&self, before: &Columns, stage: Stage) -> Result<Columns, String> {
        if before.steps.is_some() && !matches!(self, Self::Stats { .. } | Self::FftBands { .. }) {
            return Err("after a window only stats and fft_bands are possible".to_owned());
        }
        let window = |name| before.steps.ok_or_else(|| format!("{name} needs a window before it"));
        match self {
            Self::Select { channels } => {
                if let Some(missing) = channels.iter().find(|name| before.position(name).is_none()) {
                    return Err(format!("channel {missing} is not among {}", before.names.join(", ")));
                }
                if channels.is_empty() {
                    return Err("select keeps no channel".to_owned());
                }
                if let Some((_, twice)) = channels.iter().enumerate().find(|(at, name)| channels[..*at].contains(name))
                {
                    return Err(format!("channel {twice} stands twice"));
                }
                Ok(Columns::of_channels(channels))
            }
            Self::Ema { alpha } => {
                if *alpha > 0.0 && *alpha <= 1.0 {
                    Ok(before.clone())
                } else {
                    Err(format!("alpha is {alpha}, it must be above 0 and at most 1"))
                }
            }
            Self::Zscore { baseline, mean, std } => {
                check_zscore(*baseline, mean, std, before.names.len(), stage)?;
                Ok(before.clone())
            }
            Self::Diff { rows } => check_rows(&[*rows]).map(|()| before.clone()),
            Self::Clip { low, high } => {
                if low.is_finite() && high.is_finite() && low < high {
                    Ok(before.clone())
                } else {
                    Err(format!("low is {low} and high {high}: they must be numbers, the first smaller"))
                }
            }
            Self::Lags { rows } => {
                check_rows(rows)?;
                let lagged =
                    rows.iter().flat_map(|lag| before.names.iter().map(move |name| format!("{name}.lag{lag}")));
                Ok(Columns { names: before.names.iter().cloned().chain(lagged).collect(), steps: None })
            }
            Self::Calendar { of, offset_minutes } => {
                if of.is_empty() || offset_minutes.abs() > 24 * 60 {
                    return Err("`of` must name a cycle, and offset_minutes be at most a day".to_owned());
                }
                let cycles = of.iter().flat_map(|cycle| ["sin", "cos"].map(|part| format!("{}.{part}", cycle.name())));
                Ok(Columns { names: before.names.iter().cloned().chain(cycles).collect(), steps: None })
            }
            Self::Window { length, stride, hop } => {
                check_rows(&[*length, *stride, *hop])?;
                if stride > length {
                    return Err(format!("stride is {stride}, it must be at most the length, {length}"));
                }
                Ok(Columns { names: before.names.clone(), steps: Some(length.div_ceil(*stride) as usize) })
            }
            Self::Stats { of } => {
                window("stats")?;
                if of.is_empty() {
                    return Err("stats must name a statistic".to_owned());
                }
                Ok(before.each(&of.iter().map(|statistic| statistic.name().to_owned()).collect::<Vec<_>>()))
            }
            Self::FftBands { bands } => {
                let frequencies = window("fft_bands")? / 2;
                if *bands == 0 || *bands as usize > frequencies {
                    return Err(format!("{bands} bands of a window with {frequencies} frequencies"));
                }
                Ok(before.each(&(0..*bands).map(|band| format!("band{band}")).collect::<Vec<_>>()))
            }
        }
    }
}

fn check_rows(rows: &[u32]) -> Result<(), String> {
    if rows.is_empty() || rows.len() > MAX_FEATURES || rows.iter().any(|rows| !(1..=MAX_WINDOW_ROWS).contains(rows)) {
        return Err(format!("{rows:?}: readings must be counted from 1 to {MAX_WINDOW_ROWS}"));
    }
    Ok(())
}

fn check_zscore(baseline: Baseline, mean: &[f64], std: &[f64], columns: usize, stage: Stage) -> Result<(), String> {
    let is_empty = mean.is_empty() && std.is_empty();
    match baseline {
        Baseline::Stream if is_empty => return Ok(()),
        Baseline::Stream => return Err("with the stream's baseline, mean and std must be left out".to_owned()),
        Baseline::Package if is_empty && stage == Stage::Recipe => return Ok(()),
        Baseline::Package => {}
    }
    if mean.len() != columns || std.len() != columns {
        return Err(format!("{} means and {} deviations for {columns} columns", mean.len(), std.len()));
    }
    let sound = mean.iter().all(|mean| mean.is_finite()) && std.iter().all(|std| std.is_finite() && *std > 0.0);
    if sound { Ok(()) } else { Err("means must be numbers and deviations numbers above 0".to_owned()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipeline::tests::names;

    fn columns(steps: &[Step]) -> Result<Columns, String> {
        let channels = names(&["a", "b"]);
        steps.iter().try_fold(Columns::of_channels(&channels), |columns, step| step.check(&columns, Stage::Fitted))
    }

    #[test]
    fn steps_name_the_columns_they_make() {
        let window = Step::Window { length: 8, stride: 2, hop: 1 };
        let stats = Step::Stats { of: vec![Statistic::Mean, Statistic::Rms] };
        assert_eq!(columns(&[window.clone(), stats]).expect("fits").names, ["a.mean", "a.rms", "b.mean", "b.rms"]);
        assert_eq!(
            columns(std::slice::from_ref(&window)).expect("fits").shape(),
            Shape::Sequence { steps: 4, channels: 2 }
        );
        assert_eq!(columns(&[window, Step::FftBands { bands: 2 }]).expect("fits").names[3], "b.band1");
        let lags = Step::Lags { rows: vec![1, 3] };
        assert_eq!(columns(&[lags]).expect("fits").names, ["a", "b", "a.lag1", "b.lag1", "a.lag3", "b.lag3"]);
        let calendar = Step::Calendar { of: vec![Cycle::Day], offset_minutes: 60 };
        assert_eq!(columns(&[calendar]).expect("fits").names, ["a", "b", "day.sin", "day.cos"]);
    }

    #[test]
    fn what_does_not_fit_is_said() {
        let window = Step::Window { length: 8, stride: 2, hop: 1 };
        assert_eq!(
            columns(&[window.clone(), window.clone()]).expect_err("twice"),
            "after a window only stats and fft_bands are possible"
        );
        assert_eq!(
            columns(&[window, Step::FftBands { bands: 3 }]).expect_err("bands"),
            "3 bands of a window with 2 frequencies"
        );
        assert!(columns(&[Step::Diff { rows: 0 }]).expect_err("0").contains("1 to 16384"));
    }
}
