//! The key that vouches for the packages this hub makes.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rcgen::{KeyPair, PKCS_ED25519};
use rustls_pki_types::PrivatePkcs8KeyDer;
use rustls_pki_types::pem::PemObject;
use shared::package::signature::{KeyError, ReleaseKey};

/// Why there is no key.
#[derive(Debug, thiserror::Error)]
pub enum ReleaseKeyError {
    /// A file cannot be read or written.
    #[error("{action} {path}: {source}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The file holds no key.
    #[error("read {path}: it must be an Ed25519 private key in PEM (PKCS #8): {problem}")]
    NoKey {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// No key can be made.
    #[error("make a release key: {0}")]
    Make(#[from] rcgen::Error),
}

/// The key in `file`.
///
/// # Errors
/// If it cannot be read or is none.
pub fn load(file: &Path) -> Result<ReleaseKey, ReleaseKeyError> {
    let pem = fs::read(file).map_err(|source| ReleaseKeyError::Io { action: "read", path: file.to_owned(), source })?;
    let no_key = |problem: String| ReleaseKeyError::NoKey { path: file.to_owned(), problem };
    let der = PrivatePkcs8KeyDer::from_pem_slice(&pem).map_err(|error| no_key(error.to_string()))?;
    ReleaseKey::from_pkcs8(der.secret_pkcs8_der()).map_err(|error: KeyError| no_key(error.to_string()))
}

/// The key `release.key` in `directory`, made if there is none, its public half beside it in `release.pub`.
///
/// # Errors
/// If a file cannot be read or written.
pub fn load_or_create(directory: &Path) -> Result<ReleaseKey, ReleaseKeyError> {
    let (file, public_file) = (directory.join("release.key"), directory.join("release.pub"));
    if !file.exists() {
        create(&file)?;
    }
    let key = load(&file)?;
    let public = format!("{}\n", key.public());
    if fs::read_to_string(&public_file).ok().as_deref() != Some(&public) {
        let written = fs::write(&public_file, public);
        written.map_err(|source| ReleaseKeyError::Io { action: "write", path: public_file, source })?;
    }
    Ok(key)
}

/// Makes a key in `file`, which must not be there; only its owner may read it.
///
/// # Errors
/// If it is there or cannot be written.
pub fn create(file: &Path) -> Result<(), ReleaseKeyError> {
    let pem = KeyPair::generate_for(&PKCS_ED25519)?.serialize_pem();
    let write = || {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(file)?;
        file.write_all(pem.as_bytes())?;
        file.sync_all()
    };
    write().map_err(|source| ReleaseKeyError::Io { action: "write", path: file.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;
    use shared::package::signature::PublicKey;

    #[test]
    fn a_key_is_made_once_and_its_public_half_lies_beside_it() {
        let dir = tempfile::tempdir().expect("dir");
        let first = load_or_create(dir.path()).expect("makes").public();
        assert_eq!(load_or_create(dir.path()).expect("reads").public(), first);
        let public = fs::read_to_string(dir.path().join("release.pub")).expect("there");
        assert_eq!(public.trim().parse::<PublicKey>(), Ok(first));
        fs::write(dir.path().join("release.key"), "nonsense").expect("writes");
        let error = load_or_create(dir.path()).expect_err("no key").to_string();
        assert!(error.contains("release.key: it must be an Ed25519 private key"), "{error}");
    }
}
