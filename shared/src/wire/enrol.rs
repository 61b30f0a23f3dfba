//! How a box gets its certificate: one [frame](super::frame) each way, over TLS on the hub's TCP port, under an ALPN name of
//! its own.
//!
//! A box without a certificate shows none and sends a token, or shows the certificate of a claim and asks to be let in; a box that
//! has one of its own shows it, and gets another for a new key.
//! Keys are made on the box and never leave it: what travels is a PKCS #10 request (RFC 2986), signed with the key.

use serde::{Deserialize, Serialize};

use crate::event::UnixMillis;
use crate::ids::AgentId;

/// The ALPN name of this talk.
pub const ENROL_ALPN: &[u8] = b"tideline-enrol/1";
/// Bytes of a message, either way: a request with a token, or a chain of certificates, fits many times over.
pub const MAX_ENROL_BYTES: usize = 64 * 1024;
/// Bytes of what a box says of its hardware: a maker, a model and a serial number.
pub const MAX_HARDWARE_BYTES: usize = 128;

/// From box to hub.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum EnrolRequest {
    /// A box asks for its first certificate.
    Enrol {
        /// The token's secret.
        secret: String,
        /// The name it would like to have; the token may settle another.
        name: Option<AgentId>,
        /// The request, DER.
        csr: Vec<u8>,
    },
    /// The box whose certificate this connection shows asks for another. It may have expired: then a person must approve.
    Renew {
        /// The request, DER.
        csr: Vec<u8>,
    },
    /// The certificate that this connection shows is the one in use from now on; the one before is void.
    Confirm,
    /// A box that has the claim whose certificate this connection shows asks to be let in. It asks again, with the same key, until a
    /// person has said so.
    Claim {
        /// The name it would like to have; the hub may give it another.
        name: Option<AgentId>,
        /// What it is, for the person who has to tell it from others: at most [`MAX_HARDWARE_BYTES`], without control characters.
        hardware: String,
        /// The request, DER.
        csr: Vec<u8>,
    },
}

/// From hub to box.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum EnrolAnswer {
    /// A certificate.
    Issued(IssuedIdentity),
    /// The certificate of this connection is the one in use.
    Confirmed {
        /// The hub's time.
        time_ms: UnixMillis,
    },
    /// Nothing was issued.
    Refused {
        /// Why, for programs.
        code: Refusal,
        /// Why, in words that complete "the hub refused: ".
        reason: String,
        /// The hub's time.
        time_ms: UnixMillis,
    },
}

/// Who a box is from now on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IssuedIdentity {
    /// Its name.
    pub agent: AgentId,
    /// Its certificate and those that lead to an authority, DER, its own first.
    pub chain: Vec<Vec<u8>>,
    /// The authorities that may vouch for the hub, DER.
    pub authorities: Vec<Vec<u8>>,
    /// Until when the certificate holds.
    pub not_after_ms: UnixMillis,
    /// The hub's time, when it was issued.
    pub time_ms: UnixMillis,
}

/// Why nothing is issued.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Refusal {
    /// There is no such token.
    UnknownToken,
    /// The token was used, by another box.
    UsedToken,
    /// The token is too old.
    ExpiredToken,
    /// The request asks for another identity than the box may have.
    Identity,
    /// There is a box of this name already.
    NameTaken,
    /// The box was revoked.
    Revoked,
    /// A person must approve: that a box comes back whose certificate expired, or that one is let in that has a claim.
    Approval,
    /// The certificate is not the box's newest.
    Stale,
    /// The request makes no sense.
    Malformed,
    /// The hub cannot do it at the moment.
    Unavailable,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::frame;

    #[test]
    fn what_travels_stays_what_it_is() {
        let mut bytes = Vec::new();
        let name = Some(AgentId::new("b").expect("valid"));
        frame::encode(&EnrolRequest::Enrol { secret: "s".to_owned(), name, csr: vec![1, 2] }, &mut bytes)
            .expect("fits");
        assert_eq!(bytes[frame::HEADER_BYTES..], [0, 1, b's', 1, 1, b'b', 2, 1, 2]);
        bytes.clear();
        let claim = EnrolRequest::Claim { name: None, hardware: "h".to_owned(), csr: vec![1] };
        frame::encode(&claim, &mut bytes).expect("fits");
        assert_eq!(bytes[frame::HEADER_BYTES..], [3, 0, 1, b'h', 1, 1]);
        bytes.clear();
        let refused = EnrolAnswer::Refused { code: Refusal::Stale, reason: "r".to_owned(), time_ms: 1 };
        frame::encode(&refused, &mut bytes).expect("fits");
        assert_eq!(bytes[frame::HEADER_BYTES..], [2, 7, 1, b'r', 2]);
    }
}
