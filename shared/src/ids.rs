//! Checked names and numbers. A value of one of these types is valid by construction, also when it was decoded from
//! the wire.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::limits::{MAX_CHANNEL_NAME_BYTES, MAX_ID_BYTES, MAX_STREAM_BYTES};

/// Why a name was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdError {
    /// The name is empty.
    #[error("{what} is empty")]
    Empty {
        /// What kind of name it is.
        what: &'static str,
    },
    /// The name is longer than its limit.
    #[error("{what} has {bytes} bytes, at most {limit} are allowed")]
    TooLong {
        /// What kind of name it is.
        what: &'static str,
        /// Its length.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
    /// The name holds a character that is not allowed in it.
    #[error("{what} {name:?} holds {found:?}; allowed: {allowed}")]
    Character {
        /// What kind of name it is.
        what: &'static str,
        /// The name.
        name: String,
        /// The offending character.
        found: char,
        /// What is allowed, in words.
        allowed: &'static str,
    },
}

fn check(
    what: &'static str,
    name: &str,
    limit: usize,
    allowed: &'static str,
    is_allowed: impl Fn(char) -> bool,
) -> Result<(), IdError> {
    if name.is_empty() {
        return Err(IdError::Empty { what });
    }
    if name.len() > limit {
        return Err(IdError::TooLong { what, bytes: name.len(), limit });
    }
    match name.chars().find(|c| !is_allowed(*c)) {
        Some(found) => Err(IdError::Character { what, name: name.to_owned(), found, allowed }),
        None => Ok(()),
    }
}

macro_rules! name_type {
    ($(#[$doc:meta])* $name:ident, $check:expr) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(Arc<str>);

        impl $name {
            /// Checks `name`.
            ///
            /// # Errors
            /// Says what is wrong with the name and what would be right.
            pub fn new(name: &str) -> Result<Self, IdError> {
                let check: fn(&str) -> Result<(), IdError> = $check;
                check(name)?;
                Ok(Self(Arc::from(name)))
            }

            /// The name as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl std::str::FromStr for $name {
            type Err = IdError;
            fn from_str(name: &str) -> Result<Self, IdError> {
                Self::new(name)
            }
        }

        impl TryFrom<String> for $name {
            type Error = IdError;
            fn try_from(name: String) -> Result<Self, IdError> {
                Self::new(&name)
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> Self {
                name.0.as_ref().to_owned()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&*self.0, f)
            }
        }
    };
}

const ID_ALLOWED: &str = "letters, digits, '-', '_' and '.'";

fn is_id_char(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.')
}

name_type!(
    /// The name of an agent. On the hub it comes from the agent's certificate and from nowhere else.
    AgentId,
    |name| check("agent name", name, MAX_ID_BYTES, ID_ALLOWED, is_id_char)
);

name_type!(
    /// The name of a model, for example `pump-anomaly`.
    ModelName,
    |name| check("model name", name, MAX_ID_BYTES, ID_ALLOWED, is_id_char)
);

name_type!(
    /// One keyed source of readings, for example `plant/line1/pump3`. MQTT wildcards and control characters are not
    /// allowed, so that a stream can stand in a topic.
    StreamId,
    |name| {
        check("stream name", name, MAX_STREAM_BYTES, "anything but '+', '#' and control characters", |c| {
            !matches!(c, '+' | '#') && !c.is_control()
        })
    }
);

name_type!(
    /// The name of one number of a reading, for example `flow`.
    ChannelName,
    |name| {
        check("channel name", name, MAX_CHANNEL_NAME_BYTES, "anything but control characters", |c| !c.is_control())
    }
);

macro_rules! number_type {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }
    };
}

number_type!(
    /// Raised and made durable whenever a spool is created, restored or quarantined.
    Epoch(u64)
);

number_type!(
    /// The gap-free number an event gets when it is appended to the spool, unique within (agent, epoch).
    Sequence(u64)
);

number_type!(
    /// The number of a model's version, from 1.
    ModelVersion(u32)
);

impl Sequence {
    /// The sequence `count` events later.
    #[must_use]
    pub const fn plus(self, count: u64) -> Self {
        Self(self.0 + count)
    }
}

/// The BLAKE3 hash that names a package by its content.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Digest(pub [u8; 32]);

impl Digest {
    /// The digest of `bytes`.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        Self(*blake3::hash(bytes).as_bytes())
    }

    /// Reads 64 hexadecimal digits; `None` for anything else.
    #[must_use]
    pub fn from_hex(text: &str) -> Option<Self> {
        blake3::Hash::from_hex(text).ok().map(|hash| Self(*hash.as_bytes()))
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bad_name_is_refused_with_what_would_be_right() {
        let error = AgentId::new("pump 7").expect_err("a space is not allowed");
        assert_eq!(error.to_string(), "agent name \"pump 7\" holds ' '; allowed: letters, digits, '-', '_' and '.'");
        assert_eq!(StreamId::new("").expect_err("empty").to_string(), "stream name is empty");
        assert!(StreamId::new("plant/+/x").is_err());
        assert!(ChannelName::new("Volume Flow RateRMS").is_ok());
        assert!(AgentId::new(&"a".repeat(MAX_ID_BYTES + 1)).is_err());
    }

    #[test]
    fn a_bad_name_is_refused_when_it_is_decoded() {
        let bytes = postcard::to_allocvec("no spaces please").expect("encodes");
        assert!(postcard::from_bytes::<AgentId>(&bytes).is_err());
    }

    #[test]
    fn a_digest_prints_what_it_reads() {
        let digest = Digest::of(b"tideline");
        assert_eq!(Digest::from_hex(&digest.to_string()), Some(digest));
        assert_eq!(Digest::from_hex("xyz"), None);
    }
}
