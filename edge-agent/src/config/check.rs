//! From the file as it is written to the checked [`Config`]. A `None` on the way always has its mistake noted.

mod input;

use std::fmt::Display;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use rustls_pki_types::ServerName;
use shared::config::{ConfigError, Problems, Source, nearest};
use shared::device::DeviceChoice;
use shared::ids::{AgentId, ModelVersion};
use shared::limits::COMMIT_MAX_DELAY_MS;
use shared::package::signature::PublicKey;
use toml::Spanned;

use crate::core::spool::WhenFull;
use crate::identity::Enrolment;

use super::address::{BrokerUrl, HostPort};
use super::path::JsonPath;
use super::{
    AgentSection, BrokerTls, COMMIT_DELAY_MS, Config, DEFAULT_MAX_ANSWER_MS, DEFAULT_MAX_PACKET_BYTES,
    DEFAULT_RECEIVE_MAXIMUM, DEFAULT_SPOOL_BYTES, DEFAULT_STATUS_INTERVAL_MS, DEFAULT_UPDATE_INTERVAL_MS,
    DEFAULT_UPDATE_SETTLE_MS, DISK_BYTES, Hub, HubPlace, HubProof, Listen, MAX_CLIENT_ID_BYTES, MAX_GROUP_BYTES, Model,
    Mqtt, Naming, PACKET_BYTES, Publish, RECEIVE_MAXIMUM, SPOOL_BYTES, STATUS_INTERVAL_MS, Spool, Status, Transport,
    UNNAMED, UPDATE_INTERVAL_MS, UPDATE_SETTLE_MS, Update, raw,
};

/// `enrolment` is what the box was told when it was enrolled, if it was.
pub(super) fn check(
    source: &Source,
    raw: &raw::Root,
    enrolment: Option<&Enrolment>,
    naming: Naming,
) -> Result<Config, ConfigError> {
    let folder = source.path().parent().unwrap_or(Path::new(""));
    let mut checker = Checker { folder, enrolment, naming, problems: Problems::new(source) };
    let config = checker.config(raw);
    checker.problems.finish(config)
}

/// What the file says of the broker alone.
pub(super) fn broker(source: &Source, raw: &raw::Root, enrolment: Option<&Enrolment>) -> Result<Mqtt, ConfigError> {
    let folder = source.path().parent().unwrap_or(Path::new(""));
    let mut checker = Checker { folder, enrolment, naming: Naming::Later, problems: Problems::new(source) };
    let agent = checker.agent(&raw.agent);
    let mqtt = checker.mqtt(&raw.mqtt, agent.as_ref());
    checker.problems.finish(mqtt)
}

struct Checker<'a> {
    folder: &'a Path,
    enrolment: Option<&'a Enrolment>,
    naming: Naming,
    problems: Problems<'a>,
}

impl Checker<'_> {
    fn config(&mut self, raw: &raw::Root) -> Option<Config> {
        let agent = self.agent(&raw.agent);
        let mqtt = self.mqtt(&raw.mqtt, agent.as_ref());
        let hub = self.hub(raw.hub.as_ref());
        let model = self.model(&raw.model);
        let spool = self.spool(&raw.spool);
        let inputs = self.inputs(&raw.input, spool.map(|spool| spool.when_full));
        let status = self.status(&raw.status);
        let page = self.optional(raw.page.listen.as_ref(), |checker, address| checker.text(address, parse_listen));
        let update = self.update(&raw.update);
        let publish = self.publish(&raw.publish);
        Some(Config {
            agent: agent?,
            mqtt: mqtt?,
            inputs: inputs?,
            hub: hub?,
            model: model?,
            spool: spool?,
            status: status?,
            publish: publish?,
            page: page?,
            update: update?,
        })
    }

    fn publish(&mut self, raw: &raw::Publish) -> Option<Publish> {
        let group = self.optional(raw.sparkplug_group.as_ref(), |checker, group| checker.text(group, parse_group));
        Some(Publish { home_assistant: raw.home_assistant, thin_edge: raw.thin_edge, sparkplug_group: group? })
    }

    fn agent(&mut self, raw: &raw::Agent) -> Option<AgentSection> {
        let enrolled = self.enrolment.map(|enrolment| enrolment.agent.clone());
        let name = match (&raw.name, enrolled) {
            (None, Some(enrolled)) => Some(enrolled),
            (None, None) if self.naming == Naming::Later => AgentId::new(UNNAMED).ok(),
            (None, None) => self.fail(
                &raw.state_directory,
                "the box has no name yet; give `name` beside this, or enrol the box: edge-agent enroll --token ...",
            ),
            (Some(name), enrolled) => {
                let given = self.text(name, AgentId::new);
                match (given, enrolled) {
                    (Some(given), Some(enrolled)) if given != enrolled => self.fail(
                        name,
                        format!("the box is enrolled as {enrolled}; leave `name` out, or enrol it anew with a token for {given}"),
                    ),
                    (given, _) => given,
                }
            }
        };
        let state_directory = self.path(&raw.state_directory);
        let budget = raw.max_disk_bytes.as_ref().map(|bytes| self.number(Some(bytes), DISK_BYTES, 0));
        let max_disk_bytes = budget.map_or(Some(None), |budget| budget.map(Some));
        Some(AgentSection { name: name?, state_directory: state_directory?, max_disk_bytes: max_disk_bytes? })
    }

    fn mqtt(&mut self, raw: &raw::Mqtt, agent: Option<&AgentSection>) -> Option<Mqtt> {
        let url = self.text(&raw.url, BrokerUrl::parse);
        let tls = url.as_ref().and_then(|url| self.broker_tls(raw, url.is_tls));
        let client_id = match &raw.client_id {
            Some(id) => self.text(id, parse_client_id),
            None => agent.map(|agent| format!("tideline-{}", agent.name)),
        };
        let username = self.optional(raw.username.as_ref(), |checker, name| checker.text(name, parse_username));
        let password_file = self.optional(raw.password_file.as_ref(), Self::path);
        if let (None, Some(file)) = (&raw.username, &raw.password_file) {
            self.fail::<()>(file, "a password without a name; give `username`, too");
        }
        let receive_maximum = self.number(raw.receive_maximum.as_ref(), RECEIVE_MAXIMUM, DEFAULT_RECEIVE_MAXIMUM);
        let max_packet_bytes = self.number(raw.max_packet_bytes.as_ref(), PACKET_BYTES, DEFAULT_MAX_PACKET_BYTES);
        Some(Mqtt {
            host: url.as_ref()?.address.host.clone(),
            port: url?.address.port,
            tls: tls?,
            client_id: client_id?,
            username: username?,
            password_file: password_file?,
            receive_maximum: receive_maximum?,
            max_packet_bytes: max_packet_bytes?,
        })
    }

    /// Files that TLS needs are there, and none where there is no TLS.
    fn broker_tls(&mut self, raw: &raw::Mqtt, is_tls: bool) -> Option<Option<BrokerTls>> {
        if !is_tls {
            let useless = [&raw.ca_file, &raw.certificate_file, &raw.key_file].into_iter().flatten().next();
            return match useless {
                Some(file) => self.fail(file, "certificates without TLS; write mqtts:// in `url`"),
                None => Some(None),
            };
        }
        let identity = match (&raw.certificate_file, &raw.key_file) {
            (Some(certificate), Some(key)) => self.path(certificate).zip(self.path(key)).map(Some),
            (Some(certificate), None) => self.fail(certificate, "a certificate without its key; give `key_file`, too"),
            (None, Some(key)) => self.fail(key, "a key without its certificate; give `certificate_file`, too"),
            (None, None) => Some(None),
        };
        let ca_file = match &raw.ca_file {
            Some(file) => self.path(file),
            None => self.fail(
                &raw.url,
                "TLS needs `ca_file`, the certificates of those who vouch for the broker; for a public one the system's, on \
                 Debian /etc/ssl/certs/ca-certificates.crt",
            ),
        };
        Some(Some(BrokerTls { ca_file: ca_file?, identity: identity? }))
    }

    /// A hub that the file names, with files or with what enrolment left; or the one that the box is enrolled at; or none.
    fn hub(&mut self, raw: Option<&Spanned<raw::Hub>>) -> Option<Option<Hub>> {
        let Some(spanned) = raw else {
            return Some(self.enrolment.map(|enrolment| Hub {
                places: enrolment.hubs.iter().map(|address| place(address, address)).collect(),
                transport: Transport::Auto,
                server_name: enrolment.server_name.clone(),
                proof: HubProof::Enrolled,
            }));
        };
        let raw = spanned.get_ref();
        let proof = self.hub_proof(spanned);
        let enrolment = self.enrolment.filter(|_| proof == Some(HubProof::Enrolled));
        let address = match (&raw.address, enrolment) {
            (Some(address), _) => self.text(address, HostPort::parse).map(Some),
            (None, Some(_)) => Some(None),
            (None, None) => self.fail(spanned, "`address` is missing: host:port, where the hub listens"),
        };
        let server_name = match (&raw.server_name, enrolment) {
            (Some(name), _) => self.text(name, parse_server_name),
            (None, Some(enrolment)) => Some(enrolment.server_name.clone()),
            (None, None) => address.as_ref().and_then(|address| address.as_ref().map(|address| address.host.clone())),
        };
        let tcp_address =
            self.optional(raw.tcp_address.as_ref(), |checker, address| checker.text(address, HostPort::parse));
        let transport = match &raw.transport {
            Some(name) => self.text(name, |name| named(name, "way to reach a hub", Transport::ALL, Transport::name)),
            None => Some(Transport::Auto),
        };
        let tcp_address = tcp_address?.map(|address| address.to_string());
        let at = |address: String| place(&address, tcp_address.as_deref().unwrap_or(&address));
        let places = match address? {
            Some(address) => vec![at(address.to_string())],
            None => enrolment?.hubs.iter().cloned().map(at).collect(),
        };
        Some(Some(Hub { places, transport: transport?, server_name: server_name?, proof: proof? }))
    }

    fn hub_proof(&mut self, spanned: &Spanned<raw::Hub>) -> Option<HubProof> {
        let raw = spanned.get_ref();
        let files = [&raw.ca_file, &raw.certificate_file, &raw.key_file];
        match files.map(Option::as_ref) {
            [Some(ca_file), Some(certificate_file), Some(key_file)] => {
                let paths = [ca_file, certificate_file, key_file].map(|file| self.path(file));
                let [ca_file, certificate_file, key_file] = paths;
                Some(HubProof::Files {
                    ca_file: ca_file?,
                    certificate_file: certificate_file?,
                    key_file: key_file?,
                })
            }
            [None, None, None] if self.enrolment.is_some() => Some(HubProof::Enrolled),
            [None, None, None] => self.fail(
                spanned,
                "the box is not enrolled; do it with edge-agent enroll --token ..., or give `ca_file`, `certificate_file` and \
                 `key_file`",
            ),
            [ca_file, certificate_file, key_file] => {
                let given = ca_file.or(certificate_file).or(key_file);
                let says = "`ca_file`, `certificate_file` and `key_file` belong together; give all three, or none and enrol the box";
                given.and_then(|given| self.fail(given, says))
            }
        }
    }

    fn model(&mut self, raw: &raw::Model) -> Option<Model> {
        let device = match &raw.device {
            Some(device) => self.text(device, DeviceChoice::from_str),
            None => Some(DeviceChoice::default()),
        };
        let pin = self.optional(raw.pin.as_ref(), |checker, pin| {
            checker.number(Some(pin), 1..=i64::from(u32::MAX), 1).map(ModelVersion)
        });
        let trust: Vec<Option<PublicKey>> = raw.trust.iter().map(|key| self.text(key, PublicKey::from_str)).collect();
        let max_answer_ms = self.number(raw.max_answer_ms.as_ref(), 1..=60_000, DEFAULT_MAX_ANSWER_MS);
        Some(Model {
            device: device?,
            pin: pin?,
            max_answer_ms: max_answer_ms?,
            trust: trust.into_iter().collect::<Option<_>>()?,
        })
    }

    fn update(&mut self, raw: &raw::Update) -> Option<Update> {
        let trust: Vec<Option<PublicKey>> = raw.trust.iter().map(|key| self.text(key, PublicKey::from_str)).collect();
        let interval = self.number(raw.interval_ms.as_ref(), UPDATE_INTERVAL_MS, DEFAULT_UPDATE_INTERVAL_MS);
        let settle = self.number(raw.settle_ms.as_ref(), UPDATE_SETTLE_MS, DEFAULT_UPDATE_SETTLE_MS);
        let trust = trust.into_iter().collect::<Option<_>>()?;
        Some(Update { trust, interval_ms: interval?, settle_ms: settle? })
    }

    fn spool(&mut self, raw: &raw::Spool) -> Option<Spool> {
        let max_bytes = self.number(raw.max_bytes.as_ref(), SPOOL_BYTES, DEFAULT_SPOOL_BYTES);
        let delay = self.number(raw.commit_delay_ms.as_ref(), COMMIT_DELAY_MS, COMMIT_MAX_DELAY_MS);
        let when_full = match &raw.when_full {
            Some(name) => self.text(name, |name| named(name, "rule for a full spool", WhenFull::ALL, WhenFull::name)),
            None => Some(WhenFull::DropOldest),
        };
        Some(Spool { max_bytes: max_bytes?, commit_delay_ms: delay?, when_full: when_full? })
    }

    fn status(&mut self, raw: &raw::Status) -> Option<Status> {
        let interval = self.number(raw.interval_ms.as_ref(), STATUS_INTERVAL_MS, DEFAULT_STATUS_INTERVAL_MS);
        Some(Status { interval_ms: interval? })
    }

    fn fail<T>(&mut self, place: &Spanned<impl Sized>, message: impl Display) -> Option<T> {
        self.problems.at(place.span(), message);
        None
    }

    /// `Some(None)` where nothing is given, `None` where what is given is wrong.
    fn optional<R, T>(&mut self, raw: Option<&R>, check: impl FnOnce(&mut Self, &R) -> Option<T>) -> Option<Option<T>> {
        raw.map_or(Some(None), |raw| check(self, raw).map(Some))
    }

    fn text<T, E: Display>(&mut self, raw: &Spanned<String>, parse: impl FnOnce(&str) -> Result<T, E>) -> Option<T> {
        match parse(raw.get_ref()) {
            Ok(value) => Some(value),
            Err(message) => self.fail(raw, message),
        }
    }

    fn json_path(&mut self, raw: &Spanned<String>) -> Option<JsonPath> {
        self.text(raw, JsonPath::parse)
    }

    fn path(&mut self, raw: &Spanned<PathBuf>) -> Option<PathBuf> {
        if raw.get_ref().as_os_str().is_empty() {
            return self.fail(raw, "the path is empty; a relative one starts at this file's folder");
        }
        Some(self.folder.join(raw.get_ref()))
    }

    fn number<T: TryFrom<i64>>(
        &mut self,
        raw: Option<&Spanned<i64>>,
        allowed: RangeInclusive<i64>,
        default: T,
    ) -> Option<T> {
        let Some(raw) = raw else { return Some(default) };
        let number = *raw.get_ref();
        match T::try_from(number) {
            Ok(value) if allowed.contains(&number) => Some(value),
            Ok(_) | Err(_) => {
                self.fail(raw, format!("{number} is out of range; allowed: {} to {}", allowed.start(), allowed.end()))
            }
        }
    }

    fn finite(&mut self, raw: Option<&Spanned<f64>>, default: f64) -> Option<f64> {
        match raw {
            None => Some(default),
            Some(raw) if raw.get_ref().is_finite() => Some(*raw.get_ref()),
            Some(raw) => self.fail(raw, format!("{} is no finite number; leave the key out", raw.get_ref())),
        }
    }
}

fn parse_client_id(id: &str) -> Result<String, String> {
    if id.is_empty() || id.len() > MAX_CLIENT_ID_BYTES || id.chars().any(char::is_control) {
        return Err(format!("{id:?} is no client id; it takes 1 to {MAX_CLIENT_ID_BYTES} bytes of printable text"));
    }
    Ok(id.to_owned())
}

fn parse_group(group: &str) -> Result<String, String> {
    let is_level = |c: char| !matches!(c, '/' | '+' | '#') && !c.is_control();
    if group.is_empty() || group.len() > MAX_GROUP_BYTES || !group.chars().all(is_level) {
        return Err(format!(
            "{group:?} is no group of Sparkplug B; it takes 1 to {MAX_GROUP_BYTES} bytes of printable text without /, + and #"
        ));
    }
    Ok(group.to_owned())
}

/// An address and a port, or the name of an interface (at most 15 bytes: IFNAMSIZ) and a port.
fn parse_listen(text: &str) -> Result<Listen, String> {
    if let Ok(at) = text.parse() {
        return Ok(Listen::Address(at));
    }
    let is_part = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | '@');
    let is_name = |name: &str| {
        // What is written like an address, and is none, is no name either.
        name.starts_with(|c: char| c.is_ascii_alphabetic()) && name.len() <= 15 && name.chars().all(is_part)
    };
    text.rsplit_once(':')
        .filter(|(name, _)| is_name(name))
        .and_then(|(name, port)| Some(Listen::Interface { name: name.to_owned(), port: port.parse().ok()? }))
        .ok_or_else(|| {
            format!(
                "{text:?} is nothing to listen on; it takes an IP address and a port, as in 127.0.0.1:8091, or a network \
                 interface and a port, as in eth0:8091"
            )
        })
}

fn parse_username(name: &str) -> Result<String, String> {
    if name.is_empty() || name.chars().any(char::is_control) {
        return Err("the name is empty or not printable; leave it out if the broker asks for none".to_owned());
    }
    Ok(name.to_owned())
}

/// The value of this name.
fn named<T: Copy, const N: usize>(
    name: &str,
    what: &str,
    all: [T; N],
    name_of: impl Fn(T) -> &'static str,
) -> Result<T, String> {
    all.into_iter().find(|value| name_of(*value) == name).ok_or_else(|| {
        let known = all.map(name_of);
        let hint = nearest(name, &known).map_or(String::new(), |near| format!("did you mean `{near}`? "));
        format!("{name:?} is no {what}; {hint}there are {}", known.join(", "))
    })
}

fn place(address: &str, tcp_address: &str) -> HubPlace {
    HubPlace { address: address.to_owned(), tcp_address: tcp_address.to_owned() }
}

fn parse_server_name(name: &str) -> Result<String, String> {
    match ServerName::try_from(name) {
        Ok(_) => Ok(name.to_owned()),
        Err(_) => Err(format!("{name:?} is no name a certificate can have; it takes a DNS name or an IP address")),
    }
}
