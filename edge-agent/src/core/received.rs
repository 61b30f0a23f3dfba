//! Messages as they come in.

use std::sync::Arc;

use shared::event::{StreamSchema, UnixMillis};

use super::spool::Shedding;
use crate::status::Rejected;

/// A message's place in the order in which messages were received, within one MQTT connection. Acknowledging one
/// acknowledges all before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Receipt {
    /// The connection; receipts of an older one are void, because the broker delivers again.
    pub generation: u32,
    /// The place.
    pub number: u64,
}

/// A message as it came in, or one of several readings that came in one message.
#[derive(Debug, Clone)]
pub struct Received {
    /// Its place. Of a message's readings the last alone has it, so that the message is acknowledged when all of them are
    /// durable.
    pub receipt: Option<Receipt>,
    /// What it holds.
    pub content: MessageContent,
}

/// What a message holds.
#[derive(Debug, Clone)]
pub enum MessageContent {
    /// A reading.
    Reading(NewReading),
    /// A part of a reading, or nothing that is one.
    Held,
    /// Nothing, for this reason.
    Rejected(Rejection),
}

/// Why a message is no reading.
#[derive(Debug, Clone)]
pub struct Rejection {
    /// The reason it is counted under.
    pub reason: &'static str,
    /// The message, to look at.
    pub sample: Option<Rejected>,
}

/// A decoded reading that has no sequence yet.
#[derive(Debug, Clone)]
pub struct NewReading {
    /// Stream and channels.
    pub schema: Arc<StreamSchema>,
    /// When it was measured.
    pub time_ms: UnixMillis,
    /// One value per channel.
    pub values: Vec<f64>,
    /// An operator vouches for normal operation.
    pub known_normal: bool,
    /// What becomes of it where the spool runs full, if its input has a rule of its own.
    pub shedding: Option<Shedding>,
    /// Names the message.
    pub id: u64,
    /// The producer gave the name, so that equal names mean equal messages, however far apart.
    pub named_by_producer: bool,
    /// The broker may have delivered it before: its flag says so, or the session was just resumed.
    pub may_be_redelivered: bool,
}
