//! Secrets for people and programs: made here, shown once, and known by their hash from then on.

use std::fmt;
use std::fmt::Write as _;
use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::path::Path;

use argon2::Argon2;
use argon2::password_hash::phc::PasswordHash;
use argon2::password_hash::{PasswordHasher, PasswordVerifier};
use rand::RngExt;
use shared::ids::Digest;

/// Random bytes of a secret: nobody guesses 256 bits.
const SECRET_BYTES: usize = 32;
/// Characters of a password: below, it is guessed; above, hashing it is work for an attacker to give.
pub const PASSWORD_CHARS: std::ops::RangeInclusive<usize> = 12..=200;

/// A secret that was just made.
pub struct Secret(String);

impl Secret {
    /// A new one. `kind` begins it, so that people and scanners see what it is.
    #[must_use]
    pub fn new(kind: &str) -> Self {
        let bytes: [u8; SECRET_BYTES] = rand::rng().random();
        let mut text = format!("{kind}_");
        for byte in bytes {
            // Writing to a string does not fail.
            write!(text, "{byte:02x}").ok();
        }
        Self(text)
    }

    /// The secret itself, to be shown once.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }

    /// What is kept of it.
    #[must_use]
    pub fn digest(&self) -> Digest {
        Self::digest_of(&self.0)
    }

    /// What is kept of a secret that somebody brings.
    #[must_use]
    pub fn digest_of(secret: &str) -> Digest {
        Digest::of(secret.as_bytes())
    }

    /// Writes it to a file that its owner alone can read.
    ///
    /// # Errors
    /// If the disk fails.
    pub fn write_to(&self, path: &Path) -> io::Result<()> {
        let partial = path.with_extension("part");
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let mut file = options.open(&partial)?;
        file.write_all(self.0.as_bytes())?;
        fs::rename(partial, path)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

/// Hashes a password with Argon2id (RFC 9106), with a salt of its own, in PHC form. It takes tens of milliseconds and
/// 19 MiB, on purpose.
///
/// # Errors
/// Says what is wrong with the password.
pub fn hash_password(password: &str) -> Result<String, String> {
    let chars = password.chars().count();
    if !PASSWORD_CHARS.contains(&chars) {
        let (least, most) = (PASSWORD_CHARS.start(), PASSWORD_CHARS.end());
        return Err(format!("a password has {least} to {most} characters, this one {chars}"));
    }
    let hash = Argon2::default().hash_password(password.as_bytes());
    hash.map(|hash| hash.to_string()).map_err(|error| error.to_string())
}

/// Whether a password is the one that was hashed. Without a hash it takes as long, and is wrong: nobody learns from the time
/// who has an account.
#[must_use]
pub fn is_password(password: &str, hash: Option<&str>) -> bool {
    const OF_NOBODY: &str =
        "$argon2id$v=19$m=19456,t=2,p=1$bm9ib2R5bm9ib2R5$3Jp1nT0TzX0nQyQd1r3xkG4f0m3H6s0pU7nQ6m0m2uE";
    if password.chars().count() > *PASSWORD_CHARS.end() {
        return false;
    }
    let parsed = PasswordHash::new(hash.unwrap_or(OF_NOBODY));
    parsed.is_ok_and(|parsed| Argon2::default().verify_password(password.as_bytes(), &parsed).is_ok()) && hash.is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_known_by_its_hash_and_no_other_is() {
        let hash = hash_password("correct horse battery").expect("hashes");
        assert!(hash.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{hash}");
        assert!(is_password("correct horse battery", Some(&hash)));
        assert!(!is_password("correct horse batterz", Some(&hash)) && !is_password("correct horse battery", None));
        assert!(!is_password(&"x".repeat(10_000), Some(&hash)));
        assert_eq!(hash_password("short"), Err("a password has 12 to 200 characters, this one 5".to_owned()));
        assert_ne!(hash, hash_password("correct horse battery").expect("hashes"), "salted");
    }

    #[test]
    fn nobodys_hash_is_one_that_takes_as_long() {
        let parsed = PasswordHash::new(
            "$argon2id$v=19$m=19456,t=2,p=1$bm9ib2R5bm9ib2R5$3Jp1nT0TzX0nQyQd1r3xkG4f0m3H6s0pU7nQ6m0m2uE",
        );
        assert!(parsed.is_ok(), "{parsed:?}");
    }

    #[test]
    fn a_secret_is_shown_once_and_its_file_is_its_owners() {
        let secret = Secret::new("tlt");
        assert!(secret.reveal().starts_with("tlt_") && secret.reveal().len() == 4 + 64);
        assert_eq!((format!("{secret:?}"), Secret::digest_of(secret.reveal())), ("Secret".to_owned(), secret.digest()));
        let directory = tempfile::tempdir().expect("dir");
        let path = directory.path().join("token");
        secret.write_to(&path).expect("writes");
        assert_eq!(fs::read_to_string(&path).expect("reads"), secret.reveal());
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            assert_eq!(fs::metadata(&path).expect("there").permissions().mode() & 0o777, 0o600);
        }
    }
}
