//! TLS as a client, with certificates and keys from files: what a broker is talked to with.

use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

/// Why files make no TLS client.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A certificate or key file cannot be read.
    #[error("read {path}: {problem}")]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// The certificates do not make an identity.
    #[error("use the certificate: {0}")]
    Rustls(#[from] rustls::Error),
}

/// A client of TLS 1.3 that trusts the certificates in `ca_file`, and shows its own if it has one: the files of the
/// certificate and of its key.
///
/// # Errors
/// If a file is missing or not what it should be.
pub fn client(ca_file: &Path, identity: Option<(&Path, &Path)>) -> Result<rustls::ClientConfig, TlsError> {
    let mut roots = rustls::RootCertStore::empty();
    for certificate in certificates(ca_file)? {
        roots.add(certificate)?;
    }
    let builder = rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_root_certificates(roots);
    let mut tls = match identity {
        None => builder.with_no_client_auth(),
        Some((certificate_file, key_file)) => {
            let key = PrivateKeyDer::from_pem_file(key_file)
                .map_err(|error| TlsError::File { path: key_file.to_owned(), problem: error.to_string() })?;
            builder.with_client_auth_cert(certificates(certificate_file)?, key)?
        }
    };
    // Resumption would skip the check of certificates, and 0-RTT could be replayed.
    tls.resumption = rustls::client::Resumption::disabled();
    tls.enable_early_data = false;
    Ok(tls)
}

/// The certificates in a file.
///
/// # Errors
/// If there are none.
pub fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let error = |problem: String| TlsError::File { path: path.to_owned(), problem };
    let file = File::open(path).map_err(|source| error(source.to_string()))?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_reader_iter(BufReader::new(file)).collect();
    let found = found.map_err(|source| error(source.to_string()))?;
    if found.is_empty() { Err(error("it holds no PEM certificate".to_owned())) } else { Ok(found) }
}
