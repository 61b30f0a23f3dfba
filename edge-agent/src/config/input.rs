//! What the configuration says of messages that are readings.

use chrono::{DateTime, FixedOffset, Local, NaiveDateTime, Offset, TimeZone};
use shared::ids::ChannelName;

use super::path::JsonPath;
use super::topic::{StreamKey, TopicPattern};
use crate::core::spool::Shedding;

/// Texts of one feature that stand for numbers: more states than a machine has.
pub const MAX_VALUES: usize = 64;

/// One kind of message and how it becomes a reading.
#[derive(Debug, Clone, PartialEq)]
pub struct Input {
    /// Its name in counters and logs, unique, of letters, digits, `-`, `_` and `.`.
    pub name: String,
    /// The topics.
    pub topic: TopicPattern,
    /// How a message is written.
    pub format: Format,
    /// The stream, from the topic's captures, and from what else the format names.
    pub key: StreamKey,
    /// What becomes of a message that has no value for a channel.
    pub missing: Missing,
    /// Where a JSON message says when it was measured. Without it the time of arrival counts.
    pub time: Option<TimeSource>,
    /// Where a JSON message may hold `true` to say that the machine runs normally.
    pub known_normal: Option<JsonPath>,
    /// What it lets go where the spool runs full, so that the room is left to other inputs.
    pub shedding: Option<Shedding>,
    /// Where a JSON message holds its producer's own id, a string or an integer, unique in its stream.
    pub id: Option<JsonPath>,
    /// The channels: 1 to [`shared::limits::MAX_CHANNELS`], with unique names.
    pub features: Vec<Feature>,
}

/// How a message is written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Format {
    /// One JSON value; features are paths into it.
    Json,
    /// One value as text. What it is a value of stands in the topic: `field` says where, and nothing of it if all
    /// messages of the input are values of one feature.
    Value {
        /// The name of the field, from the topic's captures.
        field: Option<StreamKey>,
    },
    /// Lines of InfluxDB's line protocol, with times in this unit.
    Influx(TimeUnit),
    /// A SenML pack in JSON (RFC 8428).
    Senml,
    /// Payloads of Sparkplug B.
    SparkplugB,
}

/// The name of a [`Format`] in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FormatName {
    /// `json`
    Json,
    /// `value`
    Value,
    /// `influx`
    Influx,
    /// `senml`
    Senml,
    /// `sparkplug_b`
    SparkplugB,
}

impl FormatName {
    /// Every format.
    pub const ALL: [Self; 5] = [Self::Json, Self::Value, Self::Influx, Self::Senml, Self::SparkplugB];

    /// As it is written.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Json => "json",
            Self::Value => "value",
            Self::Influx => "influx",
            Self::Senml => "senml",
            Self::SparkplugB => "sparkplug_b",
        }
    }

    /// What a message of this format does where it has no value for a channel, if the file does not say. Sparkplug
    /// reports what changed, so that what it is silent about is as it was; a single value is one of several.
    #[must_use]
    pub const fn missing(self) -> Missing {
        match self {
            Self::Json | Self::Influx | Self::Senml => Missing::Refuse,
            Self::Value => Missing::Wait,
            Self::SparkplugB => Missing::Last,
        }
    }
}

/// What becomes of a message that has no value for a channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Missing {
    /// It is refused and counted.
    Refuse,
    /// The channel's last value stands in; before there is one, there is no reading.
    Last,
    /// There is one reading as soon as every channel has had a new value since the reading before.
    Wait,
}

impl Missing {
    /// Every rule.
    pub const ALL: [Self; 3] = [Self::Refuse, Self::Last, Self::Wait];

    /// Its name in the file.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Refuse => "refuse",
            Self::Last => "last",
            Self::Wait => "wait",
        }
    }
}

/// Where a message says when it was measured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TimeSource {
    /// The place in the message.
    pub path: JsonPath,
    /// What it counts.
    pub unit: TimeUnit,
    /// Where a text without a zone was written.
    pub zone: Option<Zone>,
    /// Whether a message without a time is one of the time of its arrival.
    pub is_optional: bool,
}

/// How a time is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TimeUnit {
    /// Milliseconds since the Unix epoch.
    Ms,
    /// Seconds since the Unix epoch.
    S,
    /// Microseconds since the Unix epoch.
    Us,
    /// Nanoseconds since the Unix epoch.
    Ns,
    /// A text like `2026-11-23T09:30:00.250+01:00`, RFC 3339.
    Rfc3339,
    /// Whichever of these makes it a time between 1973 and the year 5000.
    Auto,
}

impl TimeUnit {
    /// Every unit.
    pub const ALL: [Self; 6] = [Self::Ms, Self::S, Self::Us, Self::Ns, Self::Rfc3339, Self::Auto];

    /// Its name in the file.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ms => "ms",
            Self::S => "s",
            Self::Us => "us",
            Self::Ns => "ns",
            Self::Rfc3339 => "rfc3339",
            Self::Auto => "auto",
        }
    }
}

/// Where a time was written that does not say it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Zone {
    /// Where the box is set up to be.
    Local,
    /// So far east of Greenwich.
    Fixed(FixedOffset),
}

impl Zone {
    /// Reads `local`, `utc` or an offset like `+01:00`.
    ///
    /// # Errors
    /// If it is none of these.
    pub fn parse(text: &str) -> Result<Self, String> {
        match text {
            "local" => Ok(Self::Local),
            "utc" => Ok(Self::Fixed(chrono::Utc.fix())),
            offset => offset.parse().map(Self::Fixed).map_err(|_| {
                format!("{text:?} is no zone; it takes \"local\", \"utc\" or an offset from UTC, as in \"+01:00\"")
            }),
        }
    }

    /// The time that clocks there showed as `time`: the earlier one, if they showed it twice.
    #[must_use]
    pub fn at(self, time: NaiveDateTime) -> Option<DateTime<FixedOffset>> {
        match self {
            Self::Local => Local.from_local_datetime(&time).earliest().map(|time| time.fixed_offset()),
            Self::Fixed(offset) => offset.from_local_datetime(&time).earliest(),
        }
    }
}

/// One channel and where a message holds its value.
#[derive(Debug, Clone, PartialEq)]
pub struct Feature {
    /// The channel.
    pub name: ChannelName,
    /// The place in the message: a number, or `true` for 1 and `false` for 0.
    pub place: Place,
    /// Texts that stand for numbers.
    pub values: Vec<(String, f64)>,
    /// The channel's unit, for people.
    pub unit: Option<String>,
    /// What the message's number is multiplied by, finite and not 0.
    pub scale: f64,
    /// What is added after that, finite.
    pub offset: f64,
    /// The least value after both, in the channel's unit; negative infinity if the file does not say.
    pub min: f64,
    /// The greatest value after both, above `min`; infinity if the file does not say.
    pub max: f64,
}

/// Where a message holds a value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// At the end of this path of a JSON message.
    Path(JsonPath),
    /// Under this name; under the empty one, if names are not told apart.
    Field(String),
}
