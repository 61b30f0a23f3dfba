//! Why a message is no reading.

use shared::ids::ChannelName;

use super::{MAX_PAYLOAD_BYTES, MAX_READINGS_PER_MESSAGE, MAX_STREAMS};

/// Why a message is no reading.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Rejection {
    /// No input's topic matches.
    #[error("no input takes this topic")]
    UnknownTopic,
    /// The payload is not one JSON value.
    #[error("the payload is not JSON")]
    NotJson,
    /// The payload, or a part of it, is not of its input's format.
    #[error("the payload is no {format}: {problem}")]
    Malformed {
        /// What it should be.
        format: &'static str,
        /// What is wrong, and where.
        problem: String,
    },
    /// The input maps a time, and the message has none.
    #[error("the message has no time")]
    MissingTime,
    /// The time is not in the input's unit, or outside the years 1 to 9999.
    #[error("the message's time is not in the configured unit, or not between the years 1 and 9999")]
    BadTime,
    /// The message has no value for the channel.
    #[error("the message has no value for the channel {0:?}")]
    MissingChannel(ChannelName),
    /// The channel's value is neither a number nor a boolean, nor a text that stands for a number.
    #[error("the value of the channel {0:?} is no number")]
    NotANumber(ChannelName),
    /// The channel's value is below its `min`, above its `max`, or too large to be counted.
    #[error("the value of the channel {0:?} is out of range")]
    OutOfRange(ChannelName),
    /// The topic's captures cannot name a stream.
    #[error("the topic gives no stream name: a captured level is empty, too long or holds a control character")]
    BadStreamName,
    /// The payload is larger than any reading.
    #[error("the payload is larger than {MAX_PAYLOAD_BYTES} bytes")]
    TooLarge,
    /// The payload holds more readings than are taken at once.
    #[error("the message holds more than {MAX_READINGS_PER_MESSAGE} readings")]
    TooManyReadings,
    /// The packet is larger than the configuration allows; it was not held.
    #[error("the message is a packet of {bytes} bytes; mqtt.max_packet_bytes allows {max}")]
    Oversized {
        /// Its size.
        bytes: usize,
        /// The limit.
        max: u32,
    },
    /// The message would open one stream more than there may be.
    #[error("there are {MAX_STREAMS} streams already")]
    TooManyStreams,
    /// What should say whether the machine runs normally is not a boolean.
    #[error("the known-normal mark is neither true nor false")]
    BadMark,
    /// The input maps the producer's id, and the message has none or one that is no string or integer.
    #[error("the message's id is missing, empty, or neither a string nor an integer")]
    BadId,
    /// An edge node sends data without having said what it means; it was asked to.
    #[error("the edge node's birth is not known, so its data is not understood; it was asked to be born anew")]
    BeforeBirth,
}

impl Rejection {
    /// The reason's name in counters.
    #[must_use]
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::UnknownTopic => "unknown_topic",
            Self::NotJson => "not_json",
            Self::Malformed { .. } => "malformed",
            Self::MissingTime => "missing_time",
            Self::BadTime => "bad_time",
            Self::MissingChannel(_) => "missing_channel",
            Self::NotANumber(_) => "not_a_number",
            Self::OutOfRange(_) => "out_of_range",
            Self::BadStreamName => "bad_stream_name",
            Self::TooLarge | Self::Oversized { .. } => "too_large",
            Self::TooManyReadings => "too_many_readings",
            Self::TooManyStreams => "too_many_streams",
            Self::BadMark => "bad_mark",
            Self::BadId => "bad_id",
            Self::BeforeBirth => "before_birth",
        }
    }
}
