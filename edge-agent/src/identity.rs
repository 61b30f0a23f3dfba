//! Who this box is to its hub: what enrolment left, in the folder `identity` of the box's state.
//!
//! `box.json` says the name and where the hub is; `authorities.pem` who may vouch for the hub; `current.json` is the certificate
//! in use with its key, `next.json` one that was issued and is not confirmed. Each is replaced whole. A box is enrolled once
//! `box.json` is there, which is written last.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, chown};
use std::path::{Path, PathBuf};

use rcgen::string::Ia5String;
use rcgen::{CertificateParams, KeyPair, SanType};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use shared::event::UnixMillis;
use shared::ids::AgentId;
use shared::wire::enrol::IssuedIdentity;

/// What an agent's name in a certificate begins with, after SPIFFE.
const AGENT_URI_PREFIX: &str = "spiffe://tideline/agent/";
const BOX: &str = "box.json";
const AUTHORITIES: &str = "authorities.pem";
const CURRENT: &str = "current.json";
const NEXT: &str = "next.json";
const ENROLLING_KEY: &str = "enrolling.key";

/// Why the folder cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// The disk failed.
    #[error("{action} {path}: {source}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A file is not what it should be.
    #[error("understand {path}: {problem}; enrol the box again with a token that names it")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// No key can be made.
    #[error("make a key: {0}")]
    Key(#[from] rcgen::Error),
}

/// What a box was told of its hub, and who it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Enrolment {
    /// The box's name.
    pub agent: AgentId,
    /// Where the hub is, `host:port`, the best first.
    pub hubs: Vec<String>,
    /// The name in the hub's certificate.
    pub server_name: String,
}

/// A certificate and its key.
#[derive(Serialize, Deserialize)]
pub struct Held {
    /// The certificate and those that lead to an authority, PEM.
    certificate: String,
    /// Its key, PEM.
    key: String,
    /// When it was issued.
    pub issued_ms: UnixMillis,
    /// Until when it holds.
    pub not_after_ms: UnixMillis,
}

/// A key that never leaves the box.
pub struct BoxKey(KeyPair);

impl BoxKey {
    /// A new one.
    ///
    /// # Errors
    /// If there is no randomness.
    pub fn new() -> Result<Self, IdentityError> {
        Ok(Self(KeyPair::generate()?))
    }

    /// A request for a certificate, DER (PKCS #10, RFC 2986). `agent` is the name to ask for.
    ///
    /// # Errors
    /// If the name is not usable in a certificate.
    pub fn request(&self, agent: Option<&AgentId>) -> Result<Vec<u8>, IdentityError> {
        let mut params = CertificateParams::default();
        if let Some(agent) = agent {
            params.subject_alt_names.push(SanType::URI(Ia5String::try_from(format!("{AGENT_URI_PREFIX}{agent}"))?));
        }
        Ok(params.serialize_request(&self.0)?.der().to_vec())
    }

    /// The certificate that was issued for it.
    #[must_use]
    pub fn hold(&self, issued: &IssuedIdentity) -> Held {
        Held {
            certificate: to_pem(&issued.chain),
            key: self.0.serialize_pem(),
            issued_ms: issued.time_ms,
            not_after_ms: issued.not_after_ms,
        }
    }
}

impl Held {
    /// The certificate and those that lead to an authority.
    ///
    /// # Errors
    /// Says what is wrong with it.
    pub fn chain(&self) -> Result<Vec<CertificateDer<'static>>, String> {
        from_pem(&self.certificate)
    }

    /// Its key.
    ///
    /// # Errors
    /// Says what is wrong with it.
    pub fn key(&self) -> Result<PrivateKeyDer<'static>, String> {
        PrivateKeyDer::from_pem_slice(self.key.as_bytes()).map_err(|error| error.to_string())
    }
}

/// The folder.
#[derive(Debug, Clone)]
pub struct IdentityFolder(PathBuf);

impl IdentityFolder {
    /// The one in a box's state.
    #[must_use]
    pub fn of(state_directory: &Path) -> Self {
        Self(state_directory.join("identity"))
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// What the box was told, if it is enrolled.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn enrolment(&self) -> Result<Option<Enrolment>, IdentityError> {
        self.read(BOX)
    }

    /// The certificate in use.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn current(&self) -> Result<Option<Held>, IdentityError> {
        self.read(CURRENT)
    }

    /// One that was issued and is not confirmed.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn next(&self) -> Result<Option<Held>, IdentityError> {
        self.read(NEXT)
    }

    /// Those who may vouch for the hub.
    ///
    /// # Errors
    /// If they cannot be read.
    pub fn authorities(&self) -> Result<Vec<CertificateDer<'static>>, IdentityError> {
        let path = self.0.join(AUTHORITIES);
        let text = fs::read_to_string(&path).map_err(|source| IdentityError::Io {
            action: "read",
            path: path.clone(),
            source,
        })?;
        from_pem(&text).map_err(|problem| IdentityError::Damaged { path, problem })
    }

    /// The key that the box enrols with: the one of a try before, whose answer may have been lost, or a new one.
    ///
    /// # Errors
    /// If the disk fails.
    pub fn enrolling_key(&self) -> Result<BoxKey, IdentityError> {
        let path = self.0.join(ENROLLING_KEY);
        if let Some(key) = fs::read_to_string(&path).ok().and_then(|text| KeyPair::from_pem(&text).ok()) {
            return Ok(BoxKey(key));
        }
        let key = BoxKey::new()?;
        self.replace(ENROLLING_KEY, key.0.serialize_pem().as_bytes())?;
        Ok(key)
    }

    /// The box is enrolled, or enrolled anew.
    ///
    /// # Errors
    /// If the disk fails; then it is as it was, or has to be enrolled again with the same token.
    pub fn enrolled(&self, enrolment: &Enrolment, held: &Held, authorities: &[Vec<u8>]) -> Result<(), IdentityError> {
        self.replace(AUTHORITIES, to_pem(authorities).as_bytes())?;
        self.write(CURRENT, held)?;
        self.remove(NEXT)?;
        self.write(BOX, enrolment)?;
        self.remove(ENROLLING_KEY)
    }

    /// A certificate was issued; it is not confirmed yet.
    ///
    /// # Errors
    /// If the disk fails.
    pub fn keep_next(&self, held: &Held, authorities: &[Vec<u8>]) -> Result<(), IdentityError> {
        self.replace(AUTHORITIES, to_pem(authorities).as_bytes())?;
        self.write(NEXT, held)
    }

    /// The hub confirmed it: it is the one in use.
    ///
    /// # Errors
    /// If the disk fails.
    pub fn promote_next(&self) -> Result<(), IdentityError> {
        let (from, to) = (self.0.join(NEXT), self.0.join(CURRENT));
        fs::rename(&from, &to).map_err(|source| IdentityError::Io { action: "rename", path: from, source })?;
        self.sync()
    }

    /// The hub does not want it.
    ///
    /// # Errors
    /// If the disk fails.
    pub fn discard_next(&self) -> Result<(), IdentityError> {
        self.remove(NEXT)
    }

    /// Gives the folder to whoever owns the state it is in: the agent's own user reads what root enrolled.
    ///
    /// # Errors
    /// If the disk fails, or this program may not.
    pub fn give_to_owner_of(&self, state_directory: &Path) -> Result<(), IdentityError> {
        let give = || {
            let owner = fs::metadata(state_directory)?;
            let inside = fs::read_dir(&self.0)?.map(|entry| entry.map(|entry| entry.path()));
            let floor = Some(state_directory.join("time.floor")).filter(|file| file.exists()).map(Ok);
            for path in inside.chain([Ok(self.0.clone())]).chain(floor) {
                let path = path?;
                let metadata = fs::metadata(&path)?;
                if (metadata.uid(), metadata.gid()) != (owner.uid(), owner.gid()) {
                    chown(&path, Some(owner.uid()), Some(owner.gid()))?;
                }
            }
            Ok(())
        };
        give().map_err(|source| IdentityError::Io { action: "give to the agent's user", path: self.0.clone(), source })
    }

    fn read<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>, IdentityError> {
        let path = self.0.join(name);
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(IdentityError::Io { action: "read", path, source }),
        };
        let damaged = |error: serde_json::Error| IdentityError::Damaged { path, problem: error.to_string() };
        serde_json::from_slice(&text).map(Some).map_err(damaged)
    }

    fn write<T: Serialize>(&self, name: &str, value: &T) -> Result<(), IdentityError> {
        let damaged =
            |error: serde_json::Error| IdentityError::Damaged { path: self.0.join(name), problem: error.to_string() };
        self.replace(name, &serde_json::to_vec_pretty(value).map_err(damaged)?)
    }

    /// Puts a file in the place of another, whole and durably. Nobody else can read it.
    fn replace(&self, name: &str, bytes: &[u8]) -> Result<(), IdentityError> {
        let (path, partial) = (self.0.join(name), self.0.join(format!("{name}.part")));
        let write = || {
            fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.0)?;
            let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&partial)?;
            file.write_all(bytes)?;
            file.sync_all()?;
            fs::rename(&partial, &path)
        };
        write().map_err(|source| IdentityError::Io { action: "write", path: path.clone(), source })?;
        self.sync()
    }

    fn remove(&self, name: &str) -> Result<(), IdentityError> {
        let path = self.0.join(name);
        match fs::remove_file(&path) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                Err(IdentityError::Io { action: "remove", path, source })
            }
            Ok(()) | Err(_) => Ok(()),
        }
    }

    fn sync(&self) -> Result<(), IdentityError> {
        let sync = || File::open(&self.0)?.sync_all();
        sync().map_err(|source| IdentityError::Io { action: "write", path: self.0.clone(), source })
    }
}

fn to_pem(certificates: &[Vec<u8>]) -> String {
    certificates.iter().map(|der| pem::encode(&pem::Pem::new("CERTIFICATE", der.as_slice()))).collect()
}

fn from_pem(text: &str) -> Result<Vec<CertificateDer<'static>>, String> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(text.as_bytes()).collect();
    let found = found.map_err(|error| error.to_string())?;
    if found.is_empty() { Err("it holds no PEM certificate".to_owned()) } else { Ok(found) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn issued(not_after_ms: UnixMillis) -> IssuedIdentity {
        let key = KeyPair::generate().expect("a key");
        let certificate = CertificateParams::default().self_signed(&key).expect("a certificate").der().to_vec();
        IssuedIdentity {
            agent: AgentId::new("box-1").expect("valid"),
            chain: vec![certificate.clone()],
            authorities: vec![certificate],
            not_after_ms,
            time_ms: 2,
        }
    }

    #[test]
    fn a_box_is_enrolled_renewed_and_nobody_else_reads_its_keys() {
        let directory = tempfile::tempdir().expect("dir");
        let folder = IdentityFolder::of(directory.path());
        assert!(folder.enrolment().expect("reads").is_none());
        let first = folder.enrolling_key().expect("a key").request(None).expect("a request");
        let again = folder.enrolling_key().expect("a key").request(None).expect("a request");
        // The signature, and with it the length that stands before, differs from one to the next.
        let key_of = |csr: &[u8]| csr[3..100].to_vec();
        assert_eq!(key_of(&first), key_of(&again), "a try after a lost answer uses the same key");

        let enrolment = Enrolment {
            agent: AgentId::new("box-1").expect("valid"),
            hubs: vec!["hub:1".to_owned()],
            server_name: "hub".to_owned(),
        };
        let key = folder.enrolling_key().expect("a key");
        let given = issued(10);
        folder.enrolled(&enrolment, &key.hold(&given), &given.authorities).expect("writes");
        assert_eq!(folder.enrolment().expect("reads"), Some(enrolment));
        let current = folder.current().expect("reads").expect("there");
        assert_eq!((current.not_after_ms, current.chain().map(|chain| chain.len())), (10, Ok(1)));
        current.key().expect("a key");
        assert!(!directory.path().join("identity/enrolling.key").exists());
        let mode = |name: &str| {
            let metadata = directory.path().join("identity").join(name).metadata().expect("there");
            metadata.permissions().mode() & 0o777
        };
        assert_eq!((mode(""), mode("current.json")), (0o700, 0o600));

        let renewed = issued(20);
        folder.keep_next(&BoxKey::new().expect("a key").hold(&renewed), &renewed.authorities).expect("writes");
        assert_eq!(folder.current().expect("reads").map(|held| held.not_after_ms), Some(10));
        folder.promote_next().expect("renames");
        assert_eq!(folder.current().expect("reads").map(|held| held.not_after_ms), Some(20));
        assert!(folder.next().expect("reads").is_none());
    }

    #[test]
    fn a_damaged_file_is_named() {
        let directory = tempfile::tempdir().expect("dir");
        let folder = IdentityFolder::of(directory.path());
        fs::create_dir(folder.path()).expect("makes");
        fs::write(folder.path().join(BOX), "{").expect("writes");
        let says = folder.enrolment().expect_err("damaged").to_string();
        assert!(says.contains("box.json") && says.contains("enrol the box again"), "{says}");
    }
}
