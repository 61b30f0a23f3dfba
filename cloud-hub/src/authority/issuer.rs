//! What a running hub issues: its own certificate, and those of boxes.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use rcgen::{CertificateParams, CertificateSigningRequestParams, Issuer, KeyPair, PublicKey, PublicKeyData, SanType};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, CertificateSigningRequestDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use shared::enrolment::HUB_SERVER_NAME;
use shared::event::UnixMillis;
use shared::ids::{AgentId, Digest};

use super::{
    AuthorityError, ISSUER, ROOTS_FILE, agent_params, at, client_params, expiry, hub_params, init, long_ago, pair,
    read, signer,
};
use crate::core::identities::{BoxCertificate, Wanted};
use crate::identity::{AGENT_URI_PREFIX, CLAIM_URI_PREFIX};

/// A hub that issues its own certificate does so anew after half of this.
const HUB_LIFETIME_MS: i64 = 90 * 24 * 3_600_000;
/// A box's certificate holds from so long before it was issued, for hubs beside this one whose clocks differ a little.
const BACKDATED_MS: i64 = 3_600_000;
/// Bytes of a request: one with a key and a name has 300.
const MAX_REQUEST_BYTES: usize = 4096;

/// An authority, to issue with.
pub struct Authority {
    directory: PathBuf,
    issuer: Issuer<'static, KeyPair>,
    issuer_key: PrivateKeyDer<'static>,
    issuer_der: CertificateDer<'static>,
    issuer_expires_ms: UnixMillis,
    roots: Vec<CertificateDer<'static>>,
    /// When its files were changed last.
    stamp: Stamp,
}

/// Of each file when it was changed, and which it is: clocks of disks are coarse.
type Stamp = [Option<(SystemTime, u64)>; 3];

/// The hub's certificate and key.
pub struct HubKeys {
    /// The certificate and those that lead to a root, its own first.
    pub chain: Vec<CertificateDer<'static>>,
    /// Its key.
    pub key: PrivateKeyDer<'static>,
    /// When it should be issued anew.
    pub renew_at_ms: UnixMillis,
}

/// A certificate that was issued to a box.
pub struct IssuedToBox {
    /// What is kept of it.
    pub facts: BoxCertificate,
    /// The certificate and those that lead to a root, DER, its own first.
    pub chain: Vec<Vec<u8>>,
}

/// The certificate of a claim and its key, which boxes that ask are given.
pub struct IssuedClaim {
    /// The certificate and those that lead to a root, DER, its own first.
    pub chain: Vec<Vec<u8>>,
    /// Its key, PKCS #8.
    pub key: Vec<u8>,
    /// Until when it holds: not beyond the issuer.
    pub not_after_ms: UnixMillis,
}

/// A box's request for a certificate, which its key signed.
pub struct BoxRequest {
    public_key: PublicKey,
    /// What it asks for.
    pub wanted: Wanted,
}

impl BoxRequest {
    /// Reads a PKCS #10 request. It may ask for the name of a box and for nothing else: what a certificate is good for says
    /// the authority.
    ///
    /// # Errors
    /// If it is none, its signature does not hold, or it asks for more.
    pub fn read(der: &[u8]) -> Result<Self, String> {
        if der.len() > MAX_REQUEST_BYTES {
            return Err(format!("the request has {} bytes, at most {MAX_REQUEST_BYTES} are allowed", der.len()));
        }
        let request = CertificateSigningRequestParams::from_der(&CertificateSigningRequestDer::from(der))
            .map_err(|error| format!("the request is none: {error}"))?;
        let mut agent = None;
        for name in &request.params.subject_alt_names {
            let SanType::URI(uri) = name else {
                return Err("the request asks for another name than a box's".to_owned());
            };
            let named = uri.as_str().strip_prefix(AGENT_URI_PREFIX).map(AgentId::new);
            let Some(Ok(named)) = named.filter(|_| agent.is_none()) else {
                return Err(format!("the request asks for {}, which is no box's name", uri.as_str()));
            };
            agent = Some(named);
        }
        let key = Digest::of(request.public_key.der_bytes());
        Ok(Self { public_key: request.public_key, wanted: Wanted { key, agent } })
    }
}

impl Authority {
    /// Reads the authority in a folder; makes one if the folder has none.
    ///
    /// # Errors
    /// If files are missing or are not what they should be.
    pub fn open_or_init(directory: &Path) -> Result<Self, AuthorityError> {
        if !directory.join(ROOTS_FILE).exists() {
            init(directory)?;
        }
        Self::open(directory)
    }

    fn open(directory: &Path) -> Result<Self, AuthorityError> {
        // Before the files are read: what changes meanwhile is read again.
        let stamp = stamp(directory);
        let files = pair(directory, ISSUER);
        let (certificate, key) = (read(&files.certificate_file)?, read(&files.key_file)?);
        let unusable =
            |path: &Path, problem: String| AuthorityError::Unusable { what: path.display().to_string(), problem };
        let certificates = |path: &Path, text: &str| {
            let found = CertificateDer::pem_slice_iter(text.as_bytes()).collect::<Result<Vec<_>, _>>();
            let found = found.map_err(|error| unusable(path, error.to_string()))?;
            if found.is_empty() { Err(unusable(path, "it holds no PEM certificate".to_owned())) } else { Ok(found) }
        };
        let roots_file = directory.join(ROOTS_FILE);
        let issuer_der = certificates(&files.certificate_file, &certificate)?.swap_remove(0);
        Ok(Self {
            directory: directory.to_owned(),
            issuer: signer(&certificate, &key)?,
            issuer_key: PrivateKeyDer::from_pem_slice(key.as_bytes())
                .map_err(|error| unusable(&files.key_file, error.to_string()))?,
            issuer_expires_ms: expiry(&certificate)?,
            roots: certificates(&roots_file, &read(&roots_file)?)?,
            issuer_der,
            stamp,
        })
    }

    /// Reads the folder again if somebody changed it: a new issuer, or another root. Says whether it did.
    ///
    /// # Errors
    /// If what is there now cannot be used; the one before goes on.
    pub fn refresh(&mut self) -> Result<bool, AuthorityError> {
        if stamp(&self.directory) == self.stamp {
            return Ok(false);
        }
        *self = Self::open(&self.directory)?;
        Ok(true)
    }

    /// The roots that are trusted, the newest first.
    #[must_use]
    pub fn roots(&self) -> &[CertificateDer<'static>] {
        &self.roots
    }

    /// A secret that lasts as long as the issuer.
    #[must_use]
    pub fn secret(&self) -> &[u8] {
        self.issuer_key.secret_der()
    }

    /// When the issuer's own certificate expires.
    #[must_use]
    pub fn issuer_expires_ms(&self) -> UnixMillis {
        self.issuer_expires_ms
    }

    /// A certificate for the hub, with a new key. Its name is [`HUB_SERVER_NAME`], whatever its address.
    ///
    /// # Errors
    /// If there is no randomness.
    pub fn issue_hub(&self, now: UnixMillis) -> Result<HubKeys, AuthorityError> {
        let mut params = hub_params(&[HUB_SERVER_NAME.to_owned()])?;
        let not_after_ms = (now + HUB_LIFETIME_MS).min(self.issuer_expires_ms);
        params.not_before = long_ago();
        params.not_after = at(not_after_ms)?;
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &self.issuer)?;
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let chain = vec![certificate.der().clone(), self.issuer_der.clone()];
        Ok(HubKeys { chain, key, renew_at_ms: now + (not_after_ms - now) / 2 })
    }

    /// A certificate for a box, for the key that its request was signed with.
    ///
    /// # Errors
    /// If the issuer has expired.
    pub fn issue_box(
        &self,
        request: &BoxRequest,
        agent: &AgentId,
        now: UnixMillis,
        lifetime_ms: i64,
    ) -> Result<IssuedToBox, AuthorityError> {
        let mut params = agent_params(agent)?;
        let not_after_ms = self.limit(&mut params, now, lifetime_ms)?;
        let certificate = params.signed_by(&request.public_key, &self.issuer)?;
        let digest = Digest::of(certificate.der());
        Ok(IssuedToBox {
            facts: BoxCertificate { digest, key: request.wanted.key, not_after_ms },
            chain: vec![certificate.der().to_vec(), self.issuer_der.to_vec()],
        })
    }

    /// A certificate that names no box, with a new key: whoever shows it can ask to be let in, and do nothing else.
    ///
    /// # Errors
    /// If the issuer has expired.
    pub fn issue_claim(&self, id: &str, now: UnixMillis, lifetime_ms: i64) -> Result<IssuedClaim, AuthorityError> {
        let mut params = client_params(CLAIM_URI_PREFIX, id)?;
        let not_after_ms = self.limit(&mut params, now, lifetime_ms)?;
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &self.issuer)?;
        let chain = vec![certificate.der().to_vec(), self.issuer_der.to_vec()];
        Ok(IssuedClaim { chain, key: key.serialize_der(), not_after_ms })
    }

    /// Since and until when a certificate holds that boxes show.
    fn limit(
        &self,
        params: &mut CertificateParams,
        now: UnixMillis,
        lifetime_ms: i64,
    ) -> Result<UnixMillis, AuthorityError> {
        let not_after_ms = (now + lifetime_ms).min(self.issuer_expires_ms) / 1_000 * 1_000;
        if not_after_ms <= now {
            let problem = "it has expired; make another with `cloud-hub ca issuer`".to_owned();
            return Err(AuthorityError::Unusable { what: "the issuer's certificate".to_owned(), problem });
        }
        params.not_before = at(now - BACKDATED_MS)?;
        params.not_after = at(not_after_ms)?;
        Ok(not_after_ms)
    }
}

fn stamp(directory: &Path) -> Stamp {
    let files = pair(directory, ISSUER);
    let changed = |path: PathBuf| {
        let metadata = path.metadata().ok()?;
        Some((metadata.modified().ok()?, metadata.ino()))
    };
    [changed(directory.join(ROOTS_FILE)), changed(files.certificate_file), changed(files.key_file)]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::authority::{new_issuer, rotate_root};
    use crate::identity::{self, Shown};

    const WEEK_MS: i64 = 7 * 24 * 3_600_000;
    const NOW: i64 = 1_795_000_000_000;

    fn request(key: &KeyPair, names: &[&str]) -> Vec<u8> {
        let mut params = CertificateParams::default();
        params.subject_alt_names = names.iter().map(|name| SanType::URI((*name).try_into().expect("ascii"))).collect();
        params.serialize_request(key).expect("a request").der().to_vec()
    }

    #[test]
    fn a_box_gets_a_certificate_for_its_key_and_name_alone() {
        let directory = tempfile::tempdir().expect("dir");
        let authority = Authority::open_or_init(directory.path()).expect("an authority");
        let key = KeyPair::generate().expect("a key");
        let asked = BoxRequest::read(&request(&key, &["spiffe://tideline/agent/box-1"])).expect("a request");
        let agent = AgentId::new("box-1").expect("valid");
        assert_eq!(asked.wanted.agent, Some(agent.clone()));
        let issued = authority.issue_box(&asked, &agent, NOW, WEEK_MS).expect("issues");
        let shown = identity::shown(&CertificateDer::from(issued.chain[0].clone())).expect("a box's");
        assert_eq!(shown, (agent, issued.facts));
        assert_eq!(issued.facts.not_after_ms, NOW + WEEK_MS);
    }

    #[test]
    fn a_claim_names_no_box_and_can_only_ask() {
        let directory = tempfile::tempdir().expect("dir");
        let authority = Authority::open_or_init(directory.path()).expect("an authority");
        let claim = authority.issue_claim("1a2b3c4d", NOW, WEEK_MS).expect("issues");
        let certificate = CertificateDer::from(claim.chain[0].clone());
        assert!(identity::shown(&certificate).is_err(), "it is no box's");
        let asks = identity::who_asks(&certificate).expect("it may ask");
        assert_eq!(asks, Shown::Claim(Digest::of(&certificate)));
        assert_eq!(claim.not_after_ms, NOW + WEEK_MS);
        let forever = authority.issue_claim("1a2b3c4d", NOW, 1_000 * WEEK_MS).expect("issues");
        assert_eq!(forever.not_after_ms, authority.issuer_expires_ms());
    }

    #[test]
    fn whoever_asks_for_more_than_a_name_gets_nothing() {
        let key = KeyPair::generate().expect("a key");
        let refused = |names: &[&str]| BoxRequest::read(&request(&key, names)).err().unwrap_or_default();
        let two = ["spiffe://tideline/agent/a", "spiffe://tideline/agent/b"];
        assert!(refused(&two).contains("agent/b"), "{}", refused(&two));
        assert!(refused(&["spiffe://elsewhere/agent/a"]).contains("elsewhere"));
        let mut params = CertificateParams::new(vec!["hub.tideline.internal".to_owned()]).expect("a name");
        let named = params.serialize_request(&key).expect("a request").der().to_vec();
        assert!(BoxRequest::read(&named).is_err(), "a hub's name");
        params.subject_alt_names.clear();
        let mut changed = params.serialize_request(&key).expect("a request").der().to_vec();
        *changed.last_mut().expect("bytes") ^= 1;
        assert!(BoxRequest::read(&changed).is_err_and(|says| says.contains("signature")));
        assert!(BoxRequest::read(&vec![0; 5_000]).is_err_and(|says| says.contains("5000 bytes")));
    }

    #[test]
    fn a_new_issuer_and_a_new_root_are_seen_and_the_old_root_stays_trusted() {
        let directory = tempfile::tempdir().expect("dir");
        let mut authority = Authority::open_or_init(directory.path()).expect("an authority");
        assert!(!authority.refresh().expect("reads"));
        let old_root = authority.roots()[0].clone();
        rotate_root(directory.path()).expect("rotates");
        assert!(authority.refresh().expect("reads"));
        assert_eq!(authority.roots().iter().position(|root| *root == old_root), Some(1));
        let before = authority.issuer_der.clone();
        new_issuer(directory.path(), &directory.path().join("ca.key")).expect("issues");
        assert!(authority.refresh().expect("reads"));
        assert_ne!(authority.issuer_der, before);
    }
}
