//! A development certificate authority: one self-signed root, certificates for the hub and for agents.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    SanType, string::Ia5String,
};
use shared::ids::AgentId;

use crate::identity::AGENT_URI_PREFIX;

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
}

/// Makes a root in `directory`: `ca.pem` and `ca.key`. Existing ones are never overwritten.
///
/// # Errors
/// If a file is there already or cannot be written.
pub fn init(directory: &Path) -> Result<Issued, AuthorityError> {
    fs::create_dir_all(directory).map_err(|source| AuthorityError::Io {
        action: "make",
        path: directory.to_owned(),
        source,
    })?;
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "Tideline development CA");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let certificate = params.self_signed(&key)?;
    write_pair(directory, "ca", &certificate.pem(), &key.serialize_pem())
}

/// Issues a certificate for `subject` with the root in `directory`, as `<name>.pem` and `<name>.key` in `output`.
///
/// # Errors
/// If the root cannot be read, a name is not usable, or a file is there already.
pub fn issue(directory: &Path, subject: &Subject, output: &Path) -> Result<Issued, AuthorityError> {
    let read = |name: &str| {
        let path = directory.join(name);
        fs::read_to_string(&path).map_err(|source| AuthorityError::Io { action: "read", path, source })
    };
    let issuer = Issuer::from_ca_cert_pem(&read("ca.pem")?, KeyPair::from_pem(&read("ca.key")?)?)?;
    let (name, mut params) = match subject {
        Subject::Hub(names) => {
            let mut params = CertificateParams::new(names.clone())?;
            params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
            ("hub".to_owned(), params)
        }
        Subject::Agent(agent) => {
            let mut params = CertificateParams::default();
            let uri = Ia5String::try_from(format!("{AGENT_URI_PREFIX}{agent}"))?;
            params.subject_alt_names.push(SanType::URI(uri));
            params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
            (agent.to_string(), params)
        }
    };
    params.distinguished_name.push(DnType::CommonName, name.clone());
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    let key = KeyPair::generate()?;
    let certificate = params.signed_by(&key, &issuer)?;
    fs::create_dir_all(output).map_err(|source| AuthorityError::Io {
        action: "make",
        path: output.to_owned(),
        source,
    })?;
    write_pair(output, &name, &certificate.pem(), &key.serialize_pem())
}

fn write_pair(directory: &Path, name: &str, certificate: &str, key: &str) -> Result<Issued, AuthorityError> {
    let issued = Issued {
        certificate_file: directory.join(format!("{name}.pem")),
        key_file: directory.join(format!("{name}.key")),
    };
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
        assert_eq!(identity::agent(&certificate).expect("named"), agent);
        let mode = fs::metadata(&issued.key_file).expect("there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn a_hubs_certificate_names_no_agent_and_nothing_is_overwritten() {
        let dir = tempfile::tempdir().expect("dir");
        init(dir.path()).expect("makes a root");
        let hub = issue(dir.path(), &Subject::Hub(vec!["localhost".into()]), dir.path()).expect("issues");
        let certificate = CertificateDer::from_pem_file(&hub.certificate_file).expect("reads");
        assert!(identity::agent(&certificate).is_err());
        let again = init(dir.path()).expect_err("there already").to_string();
        assert!(again.starts_with("write") && again.contains("ca.key"), "{again}");
    }
}
