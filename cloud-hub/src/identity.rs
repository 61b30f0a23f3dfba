//! Who an agent is: the name in the certificate that its key signed for, and nothing it says.

use rustls_pki_types::CertificateDer;
use shared::ids::{AgentId, IdError};
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

/// The URI scheme and path of an agent's name in a certificate, after SPIFFE.
pub const AGENT_URI_PREFIX: &str = "spiffe://tideline/agent/";

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

/// The agent a certificate was issued to.
///
/// # Errors
/// If it was issued to no agent.
pub fn agent(certificate: &CertificateDer<'_>) -> Result<AgentId, IdentityError> {
    let (_, parsed) =
        X509Certificate::from_der(certificate).map_err(|error| IdentityError::Malformed(error.to_string()))?;
    let names = parsed
        .subject_alternative_name()
        .map_err(|error| IdentityError::Malformed(error.to_string()))?
        .ok_or(IdentityError::NoName)?;
    let name = names
        .value
        .general_names
        .iter()
        .find_map(|name| if let GeneralName::URI(uri) = name { uri.strip_prefix(AGENT_URI_PREFIX) } else { None })
        .ok_or(IdentityError::NoName)?;
    Ok(AgentId::new(name)?)
}
