//! Release signatures: who vouches for a package.
//!
//! A signature is Ed25519 (RFC 8032) over `"tideline package\n"`, the package's digest and until when it holds. It is checked before
//! anything of the package is parsed. A box begins with no package whose signature has expired, so that whoever holds back newer ones
//! cannot hand out an old one for ever; what serves already goes on.

use std::fmt;
use std::str::FromStr;

use ring::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};

use super::{MAX_SIGNATURES, PackageError, Parts, assemble};
use crate::event::UnixMillis;
use crate::ids::Digest;

/// Bytes of a signature in a package: the public key, until when it holds, and what it signed.
pub(super) const SIGNATURE_BYTES: usize = 32 + 8 + 64;
/// A signature that does not expire.
pub const NEVER: UnixMillis = UnixMillis::MAX;
/// What is signed begins with this, so that a signature is of a package and of nothing else.
const DOMAIN: &[u8] = b"tideline package\n";
/// The same for statements.
const STATEMENT_DOMAIN: &[u8] = b"tideline statement\n";
const PREFIX: &str = "ed25519:";

/// A key that vouches for packages.
#[derive(Debug)]
pub struct ReleaseKey(Ed25519KeyPair);

/// The public half of a [`ReleaseKey`]: `ed25519:` and 64 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct PublicKey(pub [u8; 32]);

/// Why a key cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// It is no private key.
    #[error("it is no Ed25519 private key in PKCS #8: {0}")]
    Private(String),
    /// It is no public key.
    #[error("{0:?} is no public key: it must be {PREFIX} and 64 hexadecimal digits")]
    Public(String),
}

/// A signature and whose it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Signature {
    key: PublicKey,
    expires_ms: UnixMillis,
    signed: [u8; 64],
}

/// What a trusted key vouches for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use = "a signature may have expired"]
pub struct Vouched {
    /// The package.
    pub digest: Digest,
    /// Until when; [`NEVER`] is for ever.
    pub expires_ms: UnixMillis,
}

impl Vouched {
    /// The package, which may be begun with at `now`.
    ///
    /// # Errors
    /// If the signature has expired.
    pub fn at(self, now: UnixMillis) -> Result<Digest, PackageError> {
        let Self { digest, expires_ms } = self;
        if expires_ms > now {
            return Ok(digest);
        }
        Err(PackageError::Expired { digest, hours: (now - expires_ms) / 3_600_000 })
    }
}

/// Proves that `bytes` is a package signed by one of the `trusted` keys; nothing of it is parsed. Returns its digest, with
/// which [`super::Package::open`] checks everything else, and until when the signature holds that holds longest.
///
/// # Errors
/// If it is not, or is no package.
pub fn verify(bytes: &[u8], trusted: &[PublicKey]) -> Result<Vouched, PackageError> {
    let parts = Parts::of(bytes)?;
    let digest = parts.digest;
    let is_sound = |signature: &&Signature| {
        let message = message(digest, signature.expires_ms);
        trusted.contains(&signature.key)
            && UnparsedPublicKey::new(&ED25519, &signature.key.0).verify(&message, &signature.signed).is_ok()
    };
    let sound = parts.signatures.iter().filter(is_sound).map(|signature| signature.expires_ms);
    if let Some(expires_ms) = sound.max() {
        return Ok(Vouched { digest, expires_ms });
    }
    let list = |keys: Vec<String>| if keys.is_empty() { "none".to_owned() } else { keys.join(", ") };
    Err(PackageError::Untrusted {
        digest: parts.digest,
        found: list(parts.signatures.iter().map(|signature| signature.key.to_string()).collect()),
        trusted: list(trusted.iter().map(ToString::to_string).collect()),
    })
}

/// Whose signatures a package has that are sound, whether they are trusted or not, and until when they hold.
///
/// # Errors
/// If it is no package.
pub fn signers(bytes: &[u8]) -> Result<Vec<(PublicKey, UnixMillis)>, PackageError> {
    let keys: Vec<PublicKey> = Parts::of(bytes)?.signatures.iter().map(|signature| signature.key).collect();
    let sound = |key: PublicKey| verify(bytes, &[key]).ok().map(|vouched| (key, vouched.expires_ms));
    Ok(keys.into_iter().filter_map(sound).collect())
}

/// The package with one more signature, which holds until `expires_ms`; it takes the place of another by the same key.
///
/// # Errors
/// If it is no package, or has as many as it may.
pub fn add(bytes: &[u8], key: &ReleaseKey, expires_ms: UnixMillis) -> Result<Vec<u8>, PackageError> {
    let parts = Parts::of(bytes)?;
    let mut signatures: Vec<Signature> =
        parts.signatures.iter().filter(|signature| signature.key != key.public()).copied().collect();
    signatures.push(key.sign(parts.digest, expires_ms));
    if signatures.len() > MAX_SIGNATURES {
        return Err(PackageError::Signatures { found: signatures.len() });
    }
    Ok(assemble(parts.manifest, &signatures, &[parts.sections]))
}

/// The package with the signatures of both files, which differ in nothing else. Of two by the same key the one stays
/// that holds longer.
///
/// # Errors
/// If one is no package, they are two packages, or there are too many signatures.
pub fn merge(package: &[u8], other: &[u8]) -> Result<Vec<u8>, PackageError> {
    let (old, new) = (Parts::of(package)?, Parts::of(other)?);
    if old.digest != new.digest {
        return Err(PackageError::Digest { found: new.digest, expected: old.digest });
    }
    let mut signatures = old.signatures;
    for signature in new.signatures {
        match signatures.iter_mut().find(|known| known.key == signature.key) {
            Some(known) if known.expires_ms < signature.expires_ms => *known = signature,
            Some(_) => {}
            None => signatures.push(signature),
        }
    }
    if signatures.len() > MAX_SIGNATURES {
        return Err(PackageError::Signatures { found: signatures.len() });
    }
    Ok(assemble(old.manifest, &signatures, &[old.sections]))
}

fn message(digest: Digest, expires_ms: UnixMillis) -> Vec<u8> {
    [DOMAIN, &digest.0, &expires_ms.to_le_bytes()].concat()
}

impl ReleaseKey {
    /// A key from its PKCS #8 encoding (RFC 8410), as OpenSSL and this program write it.
    ///
    /// # Errors
    /// If it is none.
    pub fn from_pkcs8(der: &[u8]) -> Result<Self, KeyError> {
        Ed25519KeyPair::from_pkcs8_maybe_unchecked(der).map(Self).map_err(|error| KeyError::Private(error.to_string()))
    }

    /// A key from its 32 secret bytes.
    ///
    /// # Errors
    /// Never with 32 bytes; the library may refuse others.
    pub fn from_seed(seed: &[u8; 32]) -> Result<Self, KeyError> {
        Ed25519KeyPair::from_seed_unchecked(seed).map(Self).map_err(|error| KeyError::Private(error.to_string()))
    }

    /// Its public half.
    #[must_use]
    pub fn public(&self) -> PublicKey {
        let mut key = [0; 32];
        // An Ed25519 public key has 32 bytes.
        key.copy_from_slice(self.0.public_key().as_ref());
        PublicKey(key)
    }

    /// Signs words that are no package.
    #[must_use]
    pub fn sign_statement(&self, statement: &[u8]) -> [u8; 64] {
        let mut signed = [0; 64];
        signed.copy_from_slice(self.0.sign(&[STATEMENT_DOMAIN, statement].concat()).as_ref());
        signed
    }

    pub(super) fn sign(&self, digest: Digest, expires_ms: UnixMillis) -> Signature {
        let mut signed = [0; 64];
        signed.copy_from_slice(self.0.sign(&message(digest, expires_ms)).as_ref());
        Signature { key: self.public(), expires_ms, signed }
    }
}

impl PublicKey {
    /// Whether this key signed these words.
    #[must_use]
    pub fn has_signed(&self, statement: &[u8], signature: &[u8]) -> bool {
        UnparsedPublicKey::new(&ED25519, &self.0).verify(&[STATEMENT_DOMAIN, statement].concat(), signature).is_ok()
    }
}

impl Signature {
    pub(super) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (key, rest) = bytes.split_first_chunk()?;
        let (expires_ms, rest) = rest.split_first_chunk()?;
        Some(Self {
            key: PublicKey(*key),
            expires_ms: UnixMillis::from_le_bytes(*expires_ms),
            signed: *rest.first_chunk()?,
        })
    }

    pub(super) fn to_bytes(self) -> [u8; SIGNATURE_BYTES] {
        let mut bytes = [0; SIGNATURE_BYTES];
        bytes[..32].copy_from_slice(&self.key.0);
        bytes[32..40].copy_from_slice(&self.expires_ms.to_le_bytes());
        bytes[40..].copy_from_slice(&self.signed);
        bytes
    }
}

impl FromStr for PublicKey {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        let wrong = || KeyError::Public(text.chars().take(80).collect());
        let digits = text
            .trim()
            .strip_prefix(PREFIX)
            .filter(|digits| digits.len() == 64 && digits.is_ascii())
            .ok_or_else(wrong)?;
        let mut key = [0; 32];
        for (byte, at) in key.iter_mut().zip((0..64).step_by(2)) {
            *byte = u8::from_str_radix(&digits[at..at + 2], 16).map_err(|_| wrong())?;
        }
        Ok(Self(key))
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(PREFIX)?;
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_public_key_is_read_as_it_is_written_and_anything_else_is_refused() {
        // RFC 8032, section 7.1, test 1.
        let seed = [
            0x9d, 0x61, 0xb1, 0x9d, 0xef, 0xfd, 0x5a, 0x60, 0xba, 0x84, 0x4a, 0xf4, 0x92, 0xec, 0x2c, 0xc4, 0x44, 0x49,
            0xc5, 0x69, 0x7b, 0x32, 0x69, 0x19, 0x70, 0x3b, 0xac, 0x03, 0x1c, 0xae, 0x7f, 0x60,
        ];
        let text = "ed25519:d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a";
        let key = ReleaseKey::from_seed(&seed).expect("a key").public();
        assert_eq!(key.to_string(), text);
        assert_eq!(text.parse(), Ok(key));
        for wrong in ["", "ed25519:d75a", &text[8..], &text.replace('d', "x")] {
            assert!(wrong.parse::<PublicKey>().is_err(), "{wrong}");
        }
    }
}
