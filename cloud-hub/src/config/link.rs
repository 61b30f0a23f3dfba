//! How boxes reach the hub and who vouches for whom, checked.

use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

use shared::config::Problems;
use shared::enrolment::{HUB_SERVER_NAME, MAX_TOKEN_HUBS};
use toml::Spanned;

use super::{AuthoritySection, LinkFiles, LinkSection, RawAuthority, RawLink};

/// Seconds for which a box's certificate holds: shorter, and a box renews all the time; longer, and a stolen card is good for years.
const CERTIFICATE_LIFETIME_S: RangeInclusive<i64> = 10..=366 * 24 * 3_600;
const DEFAULT_CERTIFICATE_LIFETIME_S: i64 = 7 * 24 * 3_600;

/// Certificates come from files, from an authority of the hub's own in its data folder, or, if that is asked for, from files for
/// the hub and from its own authority for boxes.
pub(super) fn check(
    link: RawLink,
    authority: Option<Spanned<RawAuthority>>,
    base: &Path,
    data_directory: &Path,
    problems: &mut Problems<'_>,
) -> (LinkSection, Option<AuthoritySection>) {
    let all = [("ca_file", &link.ca_file), ("certificate_file", &link.certificate_file), ("key_file", &link.key_file)];
    let missing: Vec<&str> = all.iter().filter(|(_, file)| file.is_none()).map(|(name, _)| *name).collect();
    if let Some((_, Some(given))) = all.iter().find(|(_, file)| file.is_some()).filter(|_| !missing.is_empty()) {
        let says = format!(
            "{} is missing beside it; give all three, or none: then the hub is its own authority",
            missing.join(" and ")
        );
        problems.at(given.span(), says);
    }
    let has_files = missing.is_empty();
    if link.public_addresses.len() > MAX_TOKEN_HUBS {
        let says = format!("{} addresses, and {MAX_TOKEN_HUBS} are enough", link.public_addresses.len());
        problems.at(link.public_addresses[MAX_TOKEN_HUBS].span(), says);
    }
    for address in &link.public_addresses {
        if let Err(says) = check_address(address.get_ref()) {
            problems.at(address.span(), says);
        }
    }
    let authority = match authority {
        None if has_files => None,
        None => Some(section(RawAuthority::default(), data_directory, base, problems)),
        Some(raw) => {
            let span = raw.span();
            let raw = raw.into_inner();
            if has_files && raw.server_name.is_none() {
                let says =
                    "boxes are to find the name of link.certificate_file; say it with server_name = \"hub.example\"";
                problems.at(span.clone(), says);
            }
            if !has_files && raw.server_name.is_some() {
                problems.at(span, "server_name is for a hub whose certificate is in link.certificate_file");
            }
            Some(section(raw, data_directory, base, problems))
        }
    };
    let path = |file: Option<Spanned<PathBuf>>| file.map(|file| base.join(file.into_inner()));
    let files = match (path(link.ca_file), path(link.certificate_file), path(link.key_file)) {
        (Some(ca_file), Some(certificate_file), Some(key_file)) => {
            Some(LinkFiles { ca_file, certificate_file, key_file })
        }
        (None, _, _) | (_, None, _) | (_, _, None) => None,
    };
    let public_addresses = link.public_addresses.into_iter().map(Spanned::into_inner).collect();
    (LinkSection { listen: link.listen, tcp_listen: link.tcp_listen, files, public_addresses }, authority)
}

/// Whether a text is `host:port`.
///
/// # Errors
/// Says what would be.
pub(crate) fn check_address(address: &str) -> Result<(), String> {
    let has_host = |host: &str| !host.is_empty() && host.len() <= 255 && !host.contains(['/', ' ', '@']);
    let is_right = address.rsplit_once(':').is_some_and(|(host, port)| {
        let is_bare_ipv6 = host.contains(':') && !(host.starts_with('[') && host.ends_with(']'));
        has_host(host) && !is_bare_ipv6 && port.parse::<u16>().is_ok_and(|port| port > 0)
    });
    let says = || format!("{address:?} is no address; \"hub.example:4433\" would be one");
    is_right.then_some(()).ok_or_else(says)
}

fn section(raw: RawAuthority, data_directory: &Path, base: &Path, problems: &mut Problems<'_>) -> AuthoritySection {
    let lifetime_s = match &raw.certificate_lifetime_s {
        None => DEFAULT_CERTIFICATE_LIFETIME_S,
        Some(value) => {
            if !CERTIFICATE_LIFETIME_S.contains(value.get_ref()) {
                let (low, high) = (CERTIFICATE_LIFETIME_S.start(), CERTIFICATE_LIFETIME_S.end());
                problems.at(value.span(), format!("{} is out of range; {low} to {high} are allowed", value.get_ref()));
            }
            *value.get_ref()
        }
    };
    AuthoritySection {
        directory: raw.directory.map_or_else(|| data_directory.join("authority"), |directory| base.join(directory)),
        certificate_lifetime_ms: lifetime_s.saturating_mul(1_000),
        server_name: raw.server_name.unwrap_or_else(|| HUB_SERVER_NAME.to_owned()),
    }
}
