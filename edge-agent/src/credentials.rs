//! What the box shows its hub, and how it knows the hub: over every transport, and replaced while connections stand.

use std::fmt;
use std::path::Path;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{ResolvesClientCert, WebPkiServerVerifier};
use rustls::crypto::CryptoProvider;
use rustls::sign::CertifiedKey;
use rustls::time_provider::TimeProvider;
use rustls::{CertificateError, DigitallySignedStruct, RootCertStore, SignatureScheme};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use shared::enrolment::{EnrolmentClaim, Fingerprint};
use shared::event::UnixMillis;

use crate::clock::WallClock;
use crate::identity::Held;
use crate::tls::{self, TlsError};

/// A clock that is further ahead of what is certain than this is not believed when it says that a certificate has expired.
const BELIEVED_AHEAD_MS: i64 = 30 * 24 * 3_600_000;

/// Why credentials cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CredentialsError {
    /// A file cannot be read.
    #[error("{0}")]
    File(#[from] TlsError),
    /// TLS does not take them.
    #[error("use the box's certificate: {0}")]
    Tls(#[from] rustls::Error),
    /// They do not make an identity.
    #[error("use the box's certificate: {0}")]
    Unusable(String),
}

/// What the box shows and believes at the moment.
pub struct Credentials {
    now: RwLock<Shown>,
    wall: WallClock,
}

#[derive(Clone)]
struct Shown {
    own: Option<Arc<CertifiedKey>>,
    hub: Known,
}

/// How the hub is known.
#[derive(Clone)]
enum Known {
    /// By who vouches for it.
    Vouched(Arc<WebPkiServerVerifier>),
    /// By the fingerprint of who vouches for it, whose certificate the hub shows as well.
    Pinned(Fingerprint),
}

impl Credentials {
    /// From files.
    ///
    /// # Errors
    /// If a file is missing or is not what it should be.
    pub fn from_files(
        ca_file: &Path,
        certificate_file: &Path,
        key_file: &Path,
        wall: WallClock,
    ) -> Result<Self, CredentialsError> {
        let key = PrivateKeyDer::from_pem_file(key_file)
            .map_err(|error| TlsError::File { path: key_file.to_owned(), problem: error.to_string() })?;
        let own = certified(tls::certificates(certificate_file)?, key)?;
        let hub = Known::Vouched(vouched(&tls::certificates(ca_file)?)?);
        Ok(Self { now: RwLock::new(Shown { own: Some(own), hub }), wall })
    }

    /// From what enrolment left.
    ///
    /// # Errors
    /// If it is not usable.
    pub fn held(
        held: &Held,
        authorities: &[CertificateDer<'static>],
        wall: WallClock,
    ) -> Result<Self, CredentialsError> {
        Ok(Self { now: RwLock::new(shown(held, authorities)?), wall })
    }

    /// Of a box that has none, and knows the hub's authority by its fingerprint.
    #[must_use]
    pub fn pinned(authority: Fingerprint, wall: WallClock) -> Self {
        Self { now: RwLock::new(Shown { own: None, hub: Known::Pinned(authority) }), wall }
    }

    /// Of a box that has a claim and no certificate of its own.
    ///
    /// # Errors
    /// If the claim's certificate or key are none.
    pub fn claiming(claim: &EnrolmentClaim, wall: WallClock) -> Result<Self, CredentialsError> {
        let chain = claim.chain.iter().map(|der| CertificateDer::from(der.clone())).collect();
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(claim.key.clone()));
        let own = certified(chain, key)?;
        Ok(Self { now: RwLock::new(Shown { own: Some(own), hub: Known::Pinned(claim.authority) }), wall })
    }

    /// Uses others for connections from now on.
    ///
    /// # Errors
    /// If they are not usable: then nothing changes.
    pub fn replace(&self, held: &Held, authorities: &[CertificateDer<'static>]) -> Result<(), CredentialsError> {
        let shown = shown(held, authorities)?;
        *self.now.write().unwrap_or_else(PoisonError::into_inner) = shown;
        Ok(())
    }

    /// A client of TLS 1.3 that uses them.
    ///
    /// # Errors
    /// Never, with the versions that are built in.
    pub fn client(self: &Arc<Self>, alpn: &[u8]) -> Result<rustls::ClientConfig, CredentialsError> {
        let time = Arc::new(HubTime(self.wall.clone()));
        let mut tls = rustls::ClientConfig::builder_with_details(provider(), time)
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .dangerous()
            .with_custom_certificate_verifier(Arc::clone(self) as Arc<dyn ServerCertVerifier>)
            .with_client_cert_resolver(Arc::clone(self) as Arc<dyn ResolvesClientCert>);
        tls.alpn_protocols = vec![alpn.to_vec()];
        // Resumption would skip the check of certificates, and 0-RTT could be replayed.
        tls.resumption = rustls::client::Resumption::disabled();
        tls.enable_early_data = false;
        Ok(tls)
    }

    fn shown(&self) -> Shown {
        self.now.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

fn shown(held: &Held, authorities: &[CertificateDer<'static>]) -> Result<Shown, CredentialsError> {
    let chain = held.chain().map_err(CredentialsError::Unusable)?;
    let own = certified(chain, held.key().map_err(CredentialsError::Unusable)?)?;
    Ok(Shown { own: Some(own), hub: Known::Vouched(vouched(authorities)?) })
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

fn certified(
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
) -> Result<Arc<CertifiedKey>, CredentialsError> {
    Ok(Arc::new(CertifiedKey::from_der(chain, key, &provider())?))
}

fn vouched(authorities: &[CertificateDer<'_>]) -> Result<Arc<WebPkiServerVerifier>, CredentialsError> {
    let mut roots = RootCertStore::empty();
    for authority in authorities {
        roots.add(authority.clone().into_owned())?;
    }
    WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider())
        .build()
        .map_err(|error| CredentialsError::Unusable(error.to_string()))
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Credentials")
    }
}

impl ResolvesClientCert for Credentials {
    fn resolve(&self, _authorities: &[&[u8]], _schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.shown().own
    }

    fn has_certs(&self) -> bool {
        self.shown().own.is_some()
    }
}

impl ServerCertVerifier for Credentials {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let verifier = match self.shown().hub {
            Known::Vouched(verifier) => verifier,
            Known::Pinned(fingerprint) => {
                let authority = intermediates.iter().find(|shown| Fingerprint::of(shown) == fingerprint);
                let authority = authority.ok_or_else(|| {
                    let says = format!("it is not vouched for by the authority {fingerprint} that the token names");
                    rustls::Error::General(says)
                })?;
                vouched(std::slice::from_ref(authority)).map_err(|error| rustls::Error::General(error.to_string()))?
            }
        };
        let verify = |now| verifier.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now);
        match verify(now) {
            Err(rustls::Error::InvalidCertificate(
                CertificateError::Expired | CertificateError::ExpiredContext { .. },
            )) => match self.wall.doubtful_floor_ms(BELIEVED_AHEAD_MS) {
                // The clock may be years ahead; what is certain is that it is not before this.
                Some(floor_ms) => verify(unix_time(floor_ms)),
                None => verify(now),
            },
            verified => verified,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, cert, dss, &provider().signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, cert, dss, &provider().signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider().signature_verification_algorithms.supported_schemes()
    }
}

/// The time by which the hub's certificate is judged.
#[derive(Debug)]
struct HubTime(WallClock);

impl TimeProvider for HubTime {
    fn current_time(&self) -> Option<UnixTime> {
        Some(unix_time(self.0.unix_ms()))
    }
}

fn unix_time(unix_ms: UnixMillis) -> UnixTime {
    UnixTime::since_unix_epoch(Duration::from_millis(u64::try_from(unix_ms).unwrap_or(0)))
}
