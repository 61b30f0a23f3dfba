//! Who the hub is and which boxes it believes, over every transport. Both can change while connections stand.

use std::fmt;
use std::path::Path;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use rustls::client::danger::HandshakeSignatureValid;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, SignatureScheme};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use shared::wire::ALPN;
use shared::wire::enrol::ENROL_ALPN;
use shared::wire::upkeep::UPKEEP_ALPN;

use super::LinkError;
use crate::config::LinkFiles;
use crate::identity;

/// The hub's certificate and key, and who vouches for boxes and hub.
pub struct LinkKeys {
    /// The hub's certificate and those that lead to a root, its own first.
    pub chain: Vec<CertificateDer<'static>>,
    /// Its key.
    pub key: PrivateKeyDer<'static>,
    /// The roots that are trusted, the hub's own first.
    pub roots: Vec<CertificateDer<'static>>,
}

impl LinkKeys {
    /// Reads them from files.
    ///
    /// # Errors
    /// If a file cannot be read, or is not what it should be.
    pub fn read(files: &LinkFiles) -> Result<Self, LinkError> {
        let key = PrivateKeyDer::from_pem_file(&files.key_file)
            .map_err(|error| LinkError::File { path: files.key_file.clone(), problem: error.to_string() })?;
        Ok(Self { chain: certificates(&files.certificate_file)?, key, roots: certificates(&files.ca_file)? })
    }
}

/// What is believed at the moment.
pub struct Trust {
    now: RwLock<Believed>,
}

#[derive(Clone)]
struct Believed {
    shown: Arc<CertifiedKey>,
    /// With the root, which a box that knows only the root's fingerprint needs to see.
    shown_with_root: Arc<CertifiedKey>,
    boxes: Arc<dyn ClientCertVerifier>,
}

impl Trust {
    /// Takes keys.
    ///
    /// # Errors
    /// If they do not belong together.
    pub fn new(keys: LinkKeys) -> Result<Arc<Self>, LinkError> {
        Ok(Arc::new(Self { now: RwLock::new(believe(keys)?) }))
    }

    /// Takes others for handshakes from now on. Connections that stand are not touched.
    ///
    /// # Errors
    /// If they do not belong together: then nothing changes.
    pub fn replace(&self, keys: LinkKeys) -> Result<(), LinkError> {
        let believed = believe(keys)?;
        *self.now.write().unwrap_or_else(PoisonError::into_inner) = believed;
        Ok(())
    }

    /// TLS for boxes that have a certificate.
    pub(super) fn for_link(self: &Arc<Self>) -> Result<rustls::ServerConfig, LinkError> {
        self.config(Arc::new(Boxes { trust: Arc::clone(self), enrols: false }), ALPN)
    }

    /// The same over TCP, where they may also ask for programs.
    pub(super) fn for_link_over_tcp(self: &Arc<Self>) -> Result<rustls::ServerConfig, LinkError> {
        let mut tls = self.for_link()?;
        tls.alpn_protocols.push(UPKEEP_ALPN.to_vec());
        Ok(tls)
    }

    /// TLS for boxes that want one: they may show none, or one that has expired.
    pub(super) fn for_enrolment(self: &Arc<Self>) -> Result<rustls::ServerConfig, LinkError> {
        self.config(Arc::new(Boxes { trust: Arc::clone(self), enrols: true }), ENROL_ALPN)
    }

    fn config(
        self: &Arc<Self>,
        verifier: Arc<dyn ClientCertVerifier>,
        alpn: &[u8],
    ) -> Result<rustls::ServerConfig, LinkError> {
        let mut tls = rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(|error| tls_error(&error))?
            .with_client_cert_verifier(verifier)
            .with_cert_resolver(Arc::clone(self) as Arc<dyn ResolvesServerCert>);
        tls.alpn_protocols = vec![alpn.to_vec()];
        // A ticket would let an agent back in without its certificate being checked again, and early data could be
        // replayed.
        tls.send_tls13_tickets = 0;
        tls.session_storage = Arc::new(NoServerSessionStorage {});
        tls.max_early_data_size = 0;
        Ok(tls)
    }

    fn believed(&self) -> Believed {
        self.now.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl fmt::Debug for Trust {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Trust")
    }
}

impl ResolvesServerCert for Trust {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let believed = self.believed();
        let enrols = hello.alpn().is_some_and(|mut names| names.any(|name| name == ENROL_ALPN));
        Some(if enrols { believed.shown_with_root } else { believed.shown })
    }
}

fn believe(keys: LinkKeys) -> Result<Believed, LinkError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut roots = rustls::RootCertStore::empty();
    for root in &keys.roots {
        roots.add(root.clone()).map_err(|error| tls_error(&error))?;
    }
    let boxes = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider)).build();
    let boxes = boxes.map_err(|error| LinkError::Tls(error.to_string()))?;
    let mut with_root = keys.chain.clone();
    with_root.extend(keys.roots.iter().filter(|root| !keys.chain.contains(root)).cloned());
    let shown = CertifiedKey::from_der(keys.chain, keys.key, &provider).map_err(|error| tls_error(&error))?;
    let shown_with_root = CertifiedKey::new(with_root, Arc::clone(&shown.key));
    Ok(Believed { shown: Arc::new(shown), shown_with_root: Arc::new(shown_with_root), boxes })
}

/// Checks what boxes show, by what is believed when they do.
struct Boxes {
    trust: Arc<Trust>,
    /// Whether it is enough to have been a box: no certificate, or one that has expired, is let through to ask.
    enrols: bool,
}

impl fmt::Debug for Boxes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Boxes").field("enrols", &self.enrols).finish_non_exhaustive()
    }
}

impl ClientCertVerifier for Boxes {
    fn client_auth_mandatory(&self) -> bool {
        !self.enrols
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        // They change, and a box has one certificate.
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        let boxes = self.trust.believed().boxes;
        match boxes.verify_client_cert(end_entity, intermediates, now) {
            Err(rustls::Error::InvalidCertificate(
                CertificateError::Expired | CertificateError::ExpiredContext { .. },
            )) if self.enrols => {
                let expired_ms = identity::expiry(end_entity)
                    .map_err(|_| rustls::Error::InvalidCertificate(CertificateError::BadEncoding))?;
                let then = Duration::from_millis(u64::try_from(expired_ms).unwrap_or(0)).saturating_sub(ONE_SECOND);
                boxes.verify_client_cert(end_entity, intermediates, UnixTime::since_unix_epoch(then))
            }
            verified => verified,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.trust.believed().boxes.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.trust.believed().boxes.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.trust.believed().boxes.supported_verify_schemes()
    }
}

/// A certificate still holds so long before its end.
const ONE_SECOND: Duration = Duration::from_secs(1);

fn tls_error(error: &rustls::Error) -> LinkError {
    LinkError::Tls(error.to_string())
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, LinkError> {
    let error = |problem: String| LinkError::File { path: path.to_owned(), problem };
    let found: Result<Vec<_>, _> =
        CertificateDer::pem_file_iter(path).map_err(|source| error(source.to_string()))?.collect();
    let found = found.map_err(|source| error(source.to_string()))?;
    if found.is_empty() { Err(error("it holds no PEM certificate".to_owned())) } else { Ok(found) }
}
