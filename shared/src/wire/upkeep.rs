//! What a box asks its hub beside the talk about readings: whether there is another program for it. One [frame](super::frame) each way at a
//! time, over TLS on the hub's TCP port, under an ALPN name of its own.
//!
//! The talk is apart from [`message`](super::message), so that a box and a hub whose protocols have grown apart still find together:
//! by another program. What is said here never changes; more is said under another ALPN name.

use serde::{Deserialize, Serialize};

use crate::event::UnixMillis;
use crate::ids::Digest;

/// The ALPN name of this talk.
pub const UPKEEP_ALPN: &[u8] = b"tideline-upkeep/1";
/// Bytes of a program that travel in one answer.
pub const PROGRAM_PART_BYTES: usize = 256 * 1024;
/// Bytes of a request.
pub const MAX_UPKEEP_REQUEST_BYTES: usize = 4 * 1024;

/// From box to hub.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum UpkeepRequest {
    /// How the box's program is. The hub says whether there is another.
    Runs(ProgramState),
    /// Asks for the part of a program's file that starts at `offset`.
    Part {
        /// The file.
        file: Digest,
        /// Where the part starts.
        offset: u64,
    },
}

/// From hub to box.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum UpkeepAnswer {
    /// The box's program is what it should be.
    Nothing {
        /// The hub's time.
        time_ms: UnixMillis,
    },
    /// There is another program for the box.
    Program(ProgramOffer),
    /// A part of a program's file: at most [`PROGRAM_PART_BYTES`]; fewer only at the end.
    Part(Vec<u8>),
    /// The hub does not answer that.
    Refused {
        /// Why, in words that complete "the hub refused: ".
        reason: String,
    },
}

/// The program that a box runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProgramState {
    /// Its release.
    pub release: String,
    /// Its number, 0 for one that was built by hand.
    pub number: u64,
    /// What it was built for.
    pub target: String,
    /// Whether the box takes programs: it knows a key that signs them, and a person allowed it.
    pub accepts: bool,
    /// What became of the newest program that was offered.
    pub outcome: Option<ProgramReport>,
}

/// A program that a box should run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProgramOffer {
    /// Numbers the offers of a hub: what was refused once may be offered again.
    pub offer: u64,
    /// The digest of its file.
    pub file: Digest,
    /// The file's size, known before its first byte.
    pub bytes: u64,
}

/// What became of a program that was offered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProgramReport {
    /// The offer.
    pub offer: u64,
    /// What became of it.
    pub outcome: ProgramOutcome,
}

/// What became of a program that was offered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ProgramOutcome {
    /// The box runs it, and it has not proven itself yet.
    OnTrial,
    /// The box runs it, and keeps it.
    Kept,
    /// The box did not begin with it.
    Refused {
        /// Why, in words.
        reason: String,
    },
    /// The box ran it, and went back to the one before.
    Returned {
        /// Why, in words.
        reason: String,
    },
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::frame;

    #[test]
    fn what_travels_stays_what_it_is() {
        let body = |encode: &dyn Fn(&mut Vec<u8>)| {
            let mut bytes = Vec::new();
            encode(&mut bytes);
            bytes.split_off(frame::HEADER_BYTES)
        };
        let report = ProgramReport { offer: 3, outcome: ProgramOutcome::Returned { reason: "r".to_owned() } };
        let (release, target) = ("1".to_owned(), "t".to_owned());
        let state = ProgramState { release, number: 2, target, accepts: true, outcome: Some(report) };
        let encoded = body(&|out| frame::encode(&UpkeepRequest::Runs(state.clone()), out).expect("fits"));
        assert_eq!(encoded, [0, 1, b'1', 2, 1, b't', 1, 1, 3, 3, 1, b'r']);
        let offer = ProgramOffer { offer: 1, file: Digest([9; 32]), bytes: 300 };
        let encoded = body(&|out| frame::encode(&UpkeepAnswer::Program(offer), out).expect("fits"));
        assert_eq!(encoded, [&[1, 1][..], &[9; 32], &[0xac, 2]].concat());
    }
}
