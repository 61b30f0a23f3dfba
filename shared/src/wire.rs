//! The protocol between agent and hub, `tideline/1`, over QUIC with mutual TLS.
//!
//! The agent opens one bidirectional stream and both sides write [frames](frame) of [messages](message) to it:
//!
//! ```text
//! agent                                    hub
//!   | Hello {protocol, epoch, base...}      |
//!   |-------------------------------------->|   who the agent is comes from its certificate alone
//!   |            Welcome {next, mark, time} |
//!   |<--------------------------------------|   `next`: the first sequence the hub does not have
//!   | Entry {zstd bytes}                    |   a batch or a gap, without a hole between them
//!   |-------------------------------------->|   at most MAX_BATCHES_IN_FLIGHT without an ack
//!   |            Acked {epoch, next}        |
//!   |<--------------------------------------|   sent once the entry is durable; cumulative
//!   |            Offer {model, digest...}   |
//!   |<--------------------------------------|
//!   | Fetch {digest, offset, base}          |
//!   |-------------------------------------->|   one chunk a request, so that a transfer resumes anywhere
//!   |            Chunk {digest, offset..}   |
//!   |<--------------------------------------|   packed against `base`, a package the agent has
//!   | ModelReport {digest, outcome}         |
//!   |-------------------------------------->|
//!   |       Shadow {model, digest, percent} |
//!   |<--------------------------------------|   fetched and reported on as an offer is, and never served
//!   |            Examine {request}          |
//!   |<--------------------------------------|   when somebody wants to know how the box is
//!   | Examined {request, zstd bytes}        |
//!   |-------------------------------------->|
//! ```
//!
//! A second stream, the live lane, carries [pictures](live) of what comes in while a backlog is under way.

pub mod diagnosis;
pub mod enrol;
pub mod frame;
pub mod live;
pub mod message;
pub mod part;
pub mod upkeep;

/// The ALPN protocol name both sides insist on.
pub const ALPN: &[u8] = b"tideline/1";
/// The version of the messages, checked in `Hello`.
pub const PROTOCOL_VERSION: u16 = 8;
