//! Who an agent is: the name in the certificate that its key signed for, and nothing it says. The certificate of a claim names no
//! agent, so whoever shows one is none.

use rustls_pki_types::CertificateDer;
use shared::event::UnixMillis;
use shared::ids::{AgentId, Digest, IdError};
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use crate::core::identities::BoxCertificate;

/// The URI scheme and path of an agent's name in a certificate, after SPIFFE.
pub const AGENT_URI_PREFIX: &str = "spiffe://tideline/agent/";

/// The same of a claim.
pub const CLAIM_URI_PREFIX: &str = "spiffe://tideline/claim/";

/// Who wants a certificate, of those who show one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Shown {
    /// An agent.
    Agent(AgentId, BoxCertificate),
    /// Whoever has a claim, by the hash of its certificate.
    Claim(Digest),
}

/// Why a certificate names no agent.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// It cannot be parsed.
    #[error("read the agent's certificate: {0}")]
    Malformed(String),
    /// It holds no name of an agent.
    #[error("find an agent's name in the certificate: there is no URI {AGENT_URI_PREFIX}<name>")]
    NoName,
    /// The name is not one an agent may have.
    #[error("take the agent's name from the certificate: {0}")]
    BadName(#[from] IdError),
}

/// The agent a certificate was issued to, and the certificate by what can be compared.
///
/// # Errors
/// If it was issued to no agent.
pub fn shown(certificate: &CertificateDer<'_>) -> Result<(AgentId, BoxCertificate), IdentityError> {
    let parsed = parse(certificate)?;
    let name = name(&parsed, AGENT_URI_PREFIX)?.ok_or(IdentityError::NoName)?;
    let facts = BoxCertificate {
        digest: Digest::of(certificate),
        key: Digest::of(&parsed.public_key().subject_public_key.data),
        not_after_ms: not_after_ms(&parsed),
    };
    Ok((AgentId::new(name)?, facts))
}

/// Who wants a certificate and shows this one.
///
/// # Errors
/// If it was issued neither to an agent nor for a claim.
pub fn who_asks(certificate: &CertificateDer<'_>) -> Result<Shown, IdentityError> {
    if name(&parse(certificate)?, CLAIM_URI_PREFIX)?.is_some() {
        return Ok(Shown::Claim(Digest::of(certificate)));
    }
    shown(certificate).map(|(agent, facts)| Shown::Agent(agent, facts))
}

/// What follows the prefix in one of the certificate's URIs.
fn name<'a>(certificate: &X509Certificate<'a>, prefix: &str) -> Result<Option<&'a str>, IdentityError> {
    let names = certificate.subject_alternative_name().map_err(|error| IdentityError::Malformed(error.to_string()))?;
    let names = names.map(|names| names.value.general_names.as_slice()).unwrap_or_default();
    Ok(names.iter().find_map(|name| if let GeneralName::URI(uri) = name { uri.strip_prefix(prefix) } else { None }))
}

/// Until when a certificate holds.
///
/// # Errors
/// If it cannot be parsed.
pub fn expiry(certificate: &CertificateDer<'_>) -> Result<UnixMillis, IdentityError> {
    Ok(not_after_ms(&parse(certificate)?))
}

fn parse<'a>(certificate: &'a CertificateDer<'_>) -> Result<X509Certificate<'a>, IdentityError> {
    let (_, parsed) =
        X509Certificate::from_der(certificate).map_err(|error| IdentityError::Malformed(error.to_string()))?;
    Ok(parsed)
}

fn not_after_ms(certificate: &X509Certificate<'_>) -> UnixMillis {
    certificate.validity().not_after.timestamp().saturating_mul(1_000)
}
