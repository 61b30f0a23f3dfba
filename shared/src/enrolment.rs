//! What a new box is told to find its hub, and to know it: a token, which lets it in once, or a claim, with which any number of boxes
//! may ask to be let in.

use std::fmt;
use std::str::FromStr;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::digest::{SHA256, digest};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::event::UnixMillis;
use crate::ids::AgentId;

/// What every token begins with, so that people and scanners see what it is.
pub const TOKEN_PREFIX: &str = "tle1_";
/// What every claim begins with.
pub const CLAIM_PREFIX: &str = "tlc1_";
/// Characters of a token or a claim: eight addresses, the longest names and a chain of certificates fit.
pub const MAX_TOKEN_CHARS: usize = 8192;
/// Addresses that a token or a claim may name.
pub const MAX_TOKEN_HUBS: usize = 8;
/// The name in the certificate of a hub that is its own authority: it stays the same whatever address the hub is reached at.
pub const HUB_SERVER_NAME: &str = "hub.tideline.internal";

/// The SHA-256 of a certificate, as `openssl x509 -fingerprint -sha256` says it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Fingerprint([u8; 32]);

impl Fingerprint {
    /// Of a certificate in DER.
    #[must_use]
    pub fn of(certificate: &[u8]) -> Self {
        let mut bytes = [0; 32];
        bytes.copy_from_slice(digest(&SHA256, certificate).as_ref());
        Self(bytes)
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// What a new box is told. Whoever has it can enrol one box, once, until it expires.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EnrolmentToken {
    /// Where the hub listens: `host:port`, at least one, the best first.
    pub hubs: Vec<String>,
    /// The name that the hub's certificate has.
    pub server_name: String,
    /// The authority that vouches for the hub: the hub shows its certificate, and a box takes no other.
    pub authority: Fingerprint,
    /// What the hub knows the hash of.
    pub secret: String,
    /// The name that the box will have, if that is settled.
    pub agent: Option<AgentId>,
    /// Until when it holds, by the hub's clock.
    pub expires_ms: UnixMillis,
}

/// What boxes are told that leave a factory alike. Whoever has it can ask the hub to let a box in, and can do nothing else: a person at
/// the hub says which of those that ask are boxes.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EnrolmentClaim {
    /// Where the hub listens: `host:port`, at least one, the best first.
    pub hubs: Vec<String>,
    /// The name that the hub's certificate has.
    pub server_name: String,
    /// The authority that vouches for the hub.
    pub authority: Fingerprint,
    /// The claim's certificate and those that lead to the authority, DER, its own first.
    pub chain: Vec<Vec<u8>>,
    /// The key of the claim's certificate, PKCS #8.
    pub key: Vec<u8>,
    /// Until when it holds, by the hub's clock.
    pub expires_ms: UnixMillis,
}

/// What a new box is told, one way or the other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Invitation {
    /// It is let in.
    Token(EnrolmentToken),
    /// It may ask.
    Claim(EnrolmentClaim),
}

/// Why a text is neither token nor claim.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// It does not begin as one.
    #[error(
        "read the enrolment token: it begins with {TOKEN_PREFIX}, a claim with {CLAIM_PREFIX}, and this with neither; is it a token for the hub's HTTP interface?"
    )]
    Prefix,
    /// It is too long.
    #[error("read the enrolment token: it has {0} characters, at most {MAX_TOKEN_CHARS} are allowed")]
    Long(usize),
    /// Something of it is missing or changed.
    #[error("read the enrolment token: it is damaged; copy it whole, without spaces")]
    Damaged,
}

impl fmt::Display for EnrolmentToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_text(TOKEN_PREFIX, self, f)
    }
}

impl fmt::Display for EnrolmentClaim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_text(CLAIM_PREFIX, self, f)
    }
}

impl FromStr for EnrolmentToken {
    type Err = TokenError;

    fn from_str(text: &str) -> Result<Self, TokenError> {
        read_text(TOKEN_PREFIX, text, |token: &Self| &token.hubs)
    }
}

impl FromStr for EnrolmentClaim {
    type Err = TokenError;

    fn from_str(text: &str) -> Result<Self, TokenError> {
        read_text(CLAIM_PREFIX, text, |claim: &Self| &claim.hubs)
    }
}

impl FromStr for Invitation {
    type Err = TokenError;

    fn from_str(text: &str) -> Result<Self, TokenError> {
        let is_claim = text.trim_start().starts_with(CLAIM_PREFIX);
        if is_claim { text.parse().map(Self::Claim) } else { text.parse().map(Self::Token) }
    }
}

fn write_text(prefix: &str, content: &impl Serialize, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let mut bytes = postcard::to_allocvec(content).map_err(|_| fmt::Error)?;
    let checksum = crc32c::crc32c(&bytes);
    bytes.extend_from_slice(&checksum.to_le_bytes());
    write!(f, "{prefix}{}", URL_SAFE_NO_PAD.encode(bytes))
}

fn read_text<T: DeserializeOwned>(prefix: &str, text: &str, hubs: fn(&T) -> &Vec<String>) -> Result<T, TokenError> {
    let text = text.trim();
    if text.len() > MAX_TOKEN_CHARS {
        return Err(TokenError::Long(text.len()));
    }
    let encoded = text.strip_prefix(prefix).ok_or(TokenError::Prefix)?;
    let bytes = URL_SAFE_NO_PAD.decode(encoded).map_err(|_| TokenError::Damaged)?;
    let (body, checksum) = bytes.split_last_chunk::<4>().ok_or(TokenError::Damaged)?;
    if crc32c::crc32c(body).to_le_bytes() != *checksum {
        return Err(TokenError::Damaged);
    }
    let content: T = postcard::from_bytes(body).map_err(|_| TokenError::Damaged)?;
    let has_hubs = (1..=MAX_TOKEN_HUBS).contains(&hubs(&content).len());
    if has_hubs { Ok(content) } else { Err(TokenError::Damaged) }
}

impl fmt::Debug for EnrolmentToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EnrolmentToken").field("hubs", &self.hubs).field("agent", &self.agent).finish_non_exhaustive()
    }
}

impl fmt::Debug for EnrolmentClaim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EnrolmentClaim").field("hubs", &self.hubs).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn token() -> EnrolmentToken {
        EnrolmentToken {
            hubs: vec!["hub.example:4433".to_owned(), "10.0.0.5:4433".to_owned()],
            server_name: HUB_SERVER_NAME.to_owned(),
            authority: Fingerprint::of(b"a certificate"),
            secret: "tls_0123456789abcdef".to_owned(),
            agent: Some(AgentId::new("pump-7").expect("valid")),
            expires_ms: 1_795_000_000_000,
        }
    }

    #[test]
    fn a_token_is_read_as_it_was_written_also_with_a_line_end() {
        let text = token().to_string();
        assert_eq!(format!("{text}\n").parse(), Ok(token()));
        assert!(text.len() < 300, "it fits into a QR code that a phone reads: {}", text.len());
    }

    #[test]
    fn its_bytes_stay_what_they_are() {
        assert_eq!(
            token().to_string(),
            "tle1_AhBodWIuZXhhbXBsZTo0NDMzDTEwLjAuMC41OjQ0MzMVaHViLnRpZGVsaW5lLmludGVybmFsgazXYhQPppKhQoItL75NxvVLyqUB9oqzf\
             lru0Lr-TZkUdGxzXzAxMjM0NTY3ODlhYmNkZWYBBnB1bXAtN4D4suW9aAeEd54"
        );
    }

    fn claim() -> EnrolmentClaim {
        let EnrolmentToken { hubs, server_name, authority, expires_ms, .. } = token();
        EnrolmentClaim { hubs, server_name, authority, chain: vec![vec![1, 2], vec![3]], key: vec![4, 5], expires_ms }
    }

    #[test]
    fn a_claim_is_read_as_it_was_written_and_is_no_token() {
        let text = claim().to_string();
        assert_eq!(
            text,
            "tlc1_AhBodWIuZXhhbXBsZTo0NDMzDTEwLjAuMC41OjQ0MzMVaHViLnRpZGVsaW5lLmludGVybmFsgazXYhQPppKhQoItL75NxvVLyqUB9oqzf\
             lru0Lr-TZkCAgECAQMCBAWA-LLlvWgcbumr"
        );
        assert_eq!(format!(" {text}\n").parse(), Ok(Invitation::Claim(claim())));
        assert_eq!(token().to_string().parse(), Ok(Invitation::Token(token())));
        assert_eq!(text.parse::<EnrolmentToken>(), Err(TokenError::Prefix));
    }

    #[test]
    fn a_secret_does_not_reach_a_log() {
        assert!(!format!("{:?}", token()).contains("tls_"));
        assert!(!format!("{:?}", Invitation::Claim(claim())).contains("key"));
    }

    #[test]
    fn a_fingerprint_is_the_sha_256_of_the_certificate() {
        let said = Fingerprint::of(b"abc").to_string();
        assert_eq!(said, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    }

    proptest! {
        #[test]
        fn what_is_damaged_is_no_token(at in 5_usize..200, with in "[A-Za-z0-9_-]") {
            let mut text = token().to_string();
            let at = at.min(text.len() - 1);
            prop_assume!(text[at..=at] != with);
            text.replace_range(at..=at, &with);
            prop_assert!(text.parse::<EnrolmentToken>().is_err());
        }

        #[test]
        fn anything_is_read_without_a_panic(text in ".{0,200}") {
            drop(text.parse::<EnrolmentToken>());
            drop(format!("{TOKEN_PREFIX}{text}").parse::<Invitation>());
            drop(format!("{CLAIM_PREFIX}{text}").parse::<Invitation>());
        }
    }
}
