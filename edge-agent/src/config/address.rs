//! Network addresses as people write them.

use std::fmt;

use rustls_pki_types::ServerName;

/// The ports of MQTT without and with TLS, as registered with IANA.
const MQTT_PORT: u16 = 1883;
const MQTTS_PORT: u16 = 8883;

/// A host, by name or by number, and a port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct HostPort {
    /// A DNS name or an IP address, an IPv6 address without brackets.
    pub(super) host: String,
    /// The port, at least 1.
    pub(super) port: u16,
}

/// Where a broker is, and whether TLS is spoken with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct BrokerUrl {
    pub(super) address: HostPort,
    pub(super) is_tls: bool,
}

/// Why a text is not an address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum AddressError {
    /// The URL has another scheme, or none.
    #[error("{0:?} is not supported; supported are mqtt://host[:port], and mqtts://host[:port] with TLS")]
    Scheme(String),
    /// The URL holds a password or a path.
    #[error(
        "a broker's URL is mqtt://host[:port] or mqtts://host[:port]; give `username` and `password_file` as keys of their own"
    )]
    MoreThanHost,
    /// No port, where one is needed.
    #[error("{0:?} has no port; write host:port, or [address]:port for IPv6")]
    NoPort(String),
    /// The port is not one.
    #[error("{0:?} is no port; a port is a number from 1 to 65535")]
    Port(String),
    /// The host is not one.
    #[error("{0:?} is no host; a host is a DNS name, an IPv4 address or an IPv6 address in brackets")]
    Host(String),
}

impl BrokerUrl {
    /// Reads `mqtt://host[:port]` or `mqtts://host[:port]`; without a port it is [`MQTT_PORT`] or [`MQTTS_PORT`].
    ///
    /// # Errors
    /// Says what is wrong and what would be right.
    pub(super) fn parse(url: &str) -> Result<Self, AddressError> {
        let (scheme, rest) = url.split_once("://").ok_or_else(|| AddressError::Scheme(url.to_owned()))?;
        let is_tls = scheme.eq_ignore_ascii_case("mqtts");
        if !is_tls && !scheme.eq_ignore_ascii_case("mqtt") {
            return Err(AddressError::Scheme(format!("{scheme}://")));
        }
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        if rest.contains(['@', '/', '?', '#']) {
            return Err(AddressError::MoreThanHost);
        }
        let port = if is_tls { MQTTS_PORT } else { MQTT_PORT };
        Ok(Self { address: HostPort::with_default_port(rest, Some(port))?, is_tls })
    }
}

impl HostPort {
    /// Reads `host:port`.
    ///
    /// # Errors
    /// Says what is wrong and what would be right.
    pub(super) fn parse(text: &str) -> Result<Self, AddressError> {
        Self::with_default_port(text, None)
    }

    fn with_default_port(text: &str, default: Option<u16>) -> Result<Self, AddressError> {
        let (host, port) = split(text)?;
        let port = match (port, default) {
            (Some(port), _) => parse_port(port)?,
            (None, Some(default)) => default,
            (None, None) => return Err(AddressError::NoPort(text.to_owned())),
        };
        match ServerName::try_from(host) {
            Ok(_) => Ok(Self { host: host.to_owned(), port }),
            Err(_) => Err(AddressError::Host(host.to_owned())),
        }
    }
}

/// As a program or a person would dial it.
impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

fn split(text: &str) -> Result<(&str, Option<&str>), AddressError> {
    let wrong = || AddressError::Host(text.to_owned());
    if let Some(rest) = text.strip_prefix('[') {
        let (host, after) = rest.split_once(']').ok_or_else(wrong)?;
        if !host.contains(':') {
            return Err(wrong());
        }
        return match after.strip_prefix(':') {
            Some(port) => Ok((host, Some(port))),
            None if after.is_empty() => Ok((host, None)),
            None => Err(wrong()),
        };
    }
    match text.split_once(':') {
        Some((_, port)) if port.contains(':') => Err(wrong()),
        Some((host, port)) => Ok((host, Some(port))),
        None => Ok((text, None)),
    }
}

fn parse_port(text: &str) -> Result<u16, AddressError> {
    let is_digits = text.bytes().all(|byte| byte.is_ascii_digit());
    let port = text.parse().ok().filter(|port| is_digits && *port > 0);
    port.ok_or_else(|| AddressError::Port(text.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn broker(url: &str) -> Result<String, String> {
        BrokerUrl::parse(url).map(|url| url.address.to_string()).map_err(|error| error.to_string())
    }

    fn address(text: &str) -> Result<String, String> {
        HostPort::parse(text).map(|address| address.to_string()).map_err(|error| error.to_string())
    }

    #[test]
    fn hosts_are_names_or_numbers_of_either_kind() {
        assert_eq!(broker("mqtt://127.0.0.1:1884").as_deref(), Ok("127.0.0.1:1884"));
        assert_eq!(broker("MQTT://broker.local/").as_deref(), Ok("broker.local:1883"));
        assert_eq!(broker("mqtt://[::1]").as_deref(), Ok("[::1]:1883"));
        assert_eq!(broker("mqtts://broker.local").as_deref(), Ok("broker.local:8883"));
        assert!(BrokerUrl::parse("mqtts://broker:1").is_ok_and(|url| url.is_tls));
        assert_eq!(address("hub.example.com:4433").as_deref(), Ok("hub.example.com:4433"));
        assert_eq!(address("[2001:db8::1]:4433").as_deref(), Ok("[2001:db8::1]:4433"));
    }

    #[test]
    fn other_schemes_are_refused_with_the_supported_one() {
        let only = "is not supported; supported are mqtt://host[:port], and mqtts://host[:port] with TLS";
        assert_eq!(broker("wss://broker:8883"), Err(format!("\"wss://\" {only}")));
        assert_eq!(broker("broker:1883"), Err(format!("\"broker:1883\" {only}")));
    }

    #[test]
    fn a_wrong_address_is_refused_with_what_would_be_right() {
        assert!(broker("mqtt://me:secret@broker").expect_err("secret").contains("`password_file`"));
        assert!(broker("mqtt://broker/path").expect_err("path").contains("mqtt://host[:port]"));
        assert_eq!(address("hub"), Err("\"hub\" has no port; write host:port, or [address]:port for IPv6".to_owned()));
        for port in ["", "0", "65536", "+1", "x"] {
            let expected = format!("{port:?} is no port; a port is a number from 1 to 65535");
            assert_eq!(address(&format!("hub:{port}")), Err(expected));
        }
        for text in ["::1:4433", ":4433", "[::1", "[::1]x", "[hub]:4433", "a b:1", "-:1"] {
            assert!(address(text).expect_err(text).contains("is no host; a host is a DNS name"), "{text}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in "(mqtt://)?[a-b0-9.:@/\\[\\]-]{0,16}|.{0,10}") {
            let broker = BrokerUrl::parse(&text).map(|url| url.address);
            for address in [HostPort::parse(&text), broker].into_iter().flatten() {
                prop_assert_eq!(HostPort::parse(&address.to_string()), Ok(address));
            }
        }
    }
}
