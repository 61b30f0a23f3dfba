//! The certificate authority: a root, whose key can be kept elsewhere, and an issuer that vouches for the hub and for boxes.
//!
//! In a folder: `ca.pem` are the roots that are trusted, the newest first; `ca.key` is the newest one's key; `issuer.pem` and
//! `issuer.key` are what certificates are issued with.

mod issuer;

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rand::RngExt;
use rcgen::string::Ia5String;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    SanType, SerialNumber,
};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use shared::event::UnixMillis;
use shared::ids::AgentId;
use time::OffsetDateTime;

pub use self::issuer::{Authority, BoxRequest, HubKeys, IssuedToBox};
use crate::clock;
use crate::identity::{self, AGENT_URI_PREFIX};

const ROOT: &str = "ca";
const ISSUER: &str = "issuer";
const ROOTS_FILE: &str = "ca.pem";
/// An issuer is renewed with the root's key, which somebody has to fetch: not often.
const ISSUER_LIFETIME_MS: i64 = 5 * 365 * 24 * 3_600_000;

/// Whom a certificate is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Subject {
    /// A hub that is reached by these names or addresses.
    Hub(Vec<String>),
    /// An agent.
    Agent(AgentId),
}

/// The files of a certificate and its key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Issued {
    /// The certificate, PEM.
    pub certificate_file: PathBuf,
    /// Its key, PEM, readable by its owner alone.
    pub key_file: PathBuf,
}

/// Why no certificate can be made.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
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
    /// A name or key is not usable.
    #[error("make a certificate: {0}")]
    Certificate(#[from] rcgen::Error),
    /// Something that was read is not usable.
    #[error("use {what}: {problem}")]
    Unusable {
        /// What.
        what: String,
        /// What is wrong.
        problem: String,
    },
}

/// Makes a root and an issuer in `directory`: `ca.pem` with `ca.key`, and `issuer.pem` with `issuer.key`. Existing ones are never
/// overwritten.
///
/// # Errors
/// If a file is there already or cannot be written.
pub fn init(directory: &Path) -> Result<Issued, AuthorityError> {
    fs::create_dir_all(directory).map_err(|source| AuthorityError::Io {
        action: "make",
        path: directory.to_owned(),
        source,
    })?;
    let (certificate, key) = root()?;
    let issued = write_pair(directory, ROOT, &certificate, &key)?;
    new_issuer(directory, &issued.key_file)?;
    Ok(issued)
}

/// Makes a new issuer in `directory`, vouched for by the newest root, whose key is in `root_key`. What the one before issued goes
/// on to hold.
///
/// # Errors
/// If the root cannot be read, or nothing be written.
pub fn new_issuer(directory: &Path, root_key: &Path) -> Result<Issued, AuthorityError> {
    let root = signer(&read(&directory.join(ROOTS_FILE))?, &read(root_key)?)?;
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::default();
    let id: [u8; 4] = rand::rng().random();
    params.distinguished_name.push(DnType::CommonName, format!("Tideline issuer {:08x}", u32::from_be_bytes(id)));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.not_before = long_ago();
    params.not_after = at(clock::unix_ms() + ISSUER_LIFETIME_MS)?;
    let certificate = params.signed_by(&key, &root)?;
    let issued = pair(directory, ISSUER);
    replace(&issued.key_file, &key.serialize_pem(), 0o600)?;
    replace(&issued.certificate_file, &certificate.pem(), 0o644)?;
    Ok(issued)
}

/// Makes a new root in `directory`, in front of those that are trusted already, with its key in `ca.key`; the old key is put
/// aside. The issuer stays, so nothing changes for whoever knows only the old root: boxes learn of the new one as they renew.
///
/// # Errors
/// If a file cannot be read or written.
pub fn rotate_root(directory: &Path) -> Result<Issued, AuthorityError> {
    let issued = pair(directory, ROOT);
    let before = read(&issued.certificate_file)?;
    let (certificate, key) = root()?;
    if issued.key_file.exists() {
        let aside = directory.join("ca.key.before");
        fs::rename(&issued.key_file, &aside).map_err(|source| AuthorityError::Io {
            action: "write",
            path: aside,
            source,
        })?;
    }
    replace(&issued.key_file, &key, 0o600)?;
    replace(&issued.certificate_file, &format!("{certificate}{before}"), 0o644)?;
    Ok(issued)
}

/// Issues a certificate for `subject` with the issuer in `directory`, as `<name>.pem` and `<name>.key` in `output`. It holds for
/// as long as the issuer.
///
/// # Errors
/// If the issuer cannot be read, a name is not usable, or a file is there already.
pub fn issue(directory: &Path, subject: &Subject, output: &Path) -> Result<Issued, AuthorityError> {
    let files = pair(directory, ISSUER);
    let chain = read(&files.certificate_file)?;
    let issuer = signer(&chain, &read(&files.key_file)?)?;
    let (name, mut params) = match subject {
        Subject::Hub(names) => ("hub".to_owned(), hub_params(names)?),
        Subject::Agent(agent) => (agent.to_string(), agent_params(agent)?),
    };
    params.not_before = long_ago();
    params.not_after = at(expiry(&chain)?)?;
    let key = KeyPair::generate()?;
    let certificate = params.signed_by(&key, &issuer)?;
    fs::create_dir_all(output).map_err(|source| AuthorityError::Io {
        action: "make",
        path: output.to_owned(),
        source,
    })?;
    write_pair(output, &name, &format!("{}{chain}", certificate.pem()), &key.serialize_pem())
}

/// A root and its key, PEM.
fn root() -> Result<(String, String), AuthorityError> {
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::default();
    let id: [u8; 4] = rand::rng().random();
    params.distinguished_name.push(DnType::CommonName, format!("Tideline root {:08x}", u32::from_be_bytes(id)));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(1));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    Ok((params.self_signed(&key)?.pem(), key.serialize_pem()))
}

fn signer(certificate: &str, key: &str) -> Result<Issuer<'static, KeyPair>, AuthorityError> {
    Ok(Issuer::from_ca_cert_pem(certificate, KeyPair::from_pem(key)?)?)
}

fn hub_params(names: &[String]) -> Result<CertificateParams, AuthorityError> {
    let mut params = CertificateParams::new(names)?;
    params.distinguished_name.push(DnType::CommonName, "Tideline hub");
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params.serial_number = Some(serial());
    Ok(params)
}

fn agent_params(agent: &AgentId) -> Result<CertificateParams, AuthorityError> {
    client_params(AGENT_URI_PREFIX, agent.as_str())
}

fn client_params(uri_prefix: &str, name: &str) -> Result<CertificateParams, AuthorityError> {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.subject_alt_names.push(SanType::URI(Ia5String::try_from(format!("{uri_prefix}{name}"))?));
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    params.serial_number = Some(serial());
    Ok(params)
}

fn serial() -> SerialNumber {
    let mut bytes: [u8; 16] = rand::rng().random();
    // Positive, as RFC 5280 wants it.
    bytes[0] &= 0x7f;
    SerialNumber::from_slice(&bytes)
}

/// When certificates begin to hold that a box checks, whose clock may be wrong: before anybody has one.
fn long_ago() -> OffsetDateTime {
    rcgen::date_time_ymd(2020, 1, 1)
}

fn at(unix_ms: UnixMillis) -> Result<OffsetDateTime, AuthorityError> {
    OffsetDateTime::from_unix_timestamp(unix_ms / 1_000)
        .map_err(|error| AuthorityError::Unusable { what: "a time".to_owned(), problem: error.to_string() })
}

/// Until when the first certificate in a text holds.
fn expiry(pem: &str) -> Result<UnixMillis, AuthorityError> {
    let unusable = |problem: String| AuthorityError::Unusable { what: "the issuer's certificate".to_owned(), problem };
    let certificate = CertificateDer::from_pem_slice(pem.as_bytes()).map_err(|error| unusable(error.to_string()))?;
    identity::expiry(&certificate).map_err(|error| unusable(error.to_string()))
}

fn pair(directory: &Path, name: &str) -> Issued {
    Issued { certificate_file: directory.join(format!("{name}.pem")), key_file: directory.join(format!("{name}.key")) }
}

fn read(path: &Path) -> Result<String, AuthorityError> {
    fs::read_to_string(path).map_err(|source| AuthorityError::Io { action: "read", path: path.to_owned(), source })
}

fn write_pair(directory: &Path, name: &str, certificate: &str, key: &str) -> Result<Issued, AuthorityError> {
    let issued = pair(directory, name);
    write_new(&issued.key_file, key, 0o600)?;
    write_new(&issued.certificate_file, certificate, 0o644)?;
    Ok(issued)
}

fn write_new(path: &Path, text: &str, mode: u32) -> Result<(), AuthorityError> {
    let write = || {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()
    };
    write().map_err(|source| AuthorityError::Io { action: "write", path: path.to_owned(), source })
}

/// Puts a file in the place of another, whole.
fn replace(path: &Path, text: &str, mode: u32) -> Result<(), AuthorityError> {
    let mut partial = path.as_os_str().to_owned();
    partial.push(".part");
    let partial = PathBuf::from(partial);
    // One that a crash left.
    fs::remove_file(&partial).ok();
    write_new(&partial, text, mode)?;
    fs::rename(&partial, path).map_err(|source| AuthorityError::Io { action: "write", path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity;
    use rustls_pki_types::CertificateDer;
    use rustls_pki_types::pem::PemObject;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn an_agents_certificate_names_it_and_its_key_is_private() {
        let dir = tempfile::tempdir().expect("dir");
        init(dir.path()).expect("makes a root");
        let agent = AgentId::new("box-7").expect("valid");
        let issued = issue(dir.path(), &Subject::Agent(agent.clone()), &dir.path().join("out")).expect("issues");
        let certificate = CertificateDer::from_pem_file(&issued.certificate_file).expect("reads");
        assert_eq!(identity::shown(&certificate).expect("named").0, agent);
        let mode = fs::metadata(&issued.key_file).expect("there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn a_hubs_certificate_names_no_agent_and_nothing_is_overwritten() {
        let dir = tempfile::tempdir().expect("dir");
        init(dir.path()).expect("makes a root");
        let hub = issue(dir.path(), &Subject::Hub(vec!["localhost".into()]), dir.path()).expect("issues");
        let certificate = CertificateDer::from_pem_file(&hub.certificate_file).expect("reads");
        assert!(identity::shown(&certificate).is_err());
        let again = init(dir.path()).expect_err("there already").to_string();
        assert!(again.starts_with("write") && again.contains("ca.key"), "{again}");
    }
}
