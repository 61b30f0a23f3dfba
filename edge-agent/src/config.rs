//! The agent's configuration: a TOML file in, checked values out.
//!
//! `deploy/config/agent.toml` shows every key. Whatever is wrong in a file is reported as
//! `file:line:column: key: what is wrong; what would be right`, all mistakes in values at once. Relative paths start at
//! the folder of the file. Secrets stand in files of their own.

mod address;
mod check;
pub mod input;
pub mod path;
pub mod preset;
mod raw;
pub mod topic;

use std::fmt;
use std::fs::File;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

use shared::config::{ConfigError, Source};
use shared::device::DeviceChoice;
use shared::ids::{AgentId, ModelVersion};
use shared::package::signature::PublicKey;

use crate::core::spool::WhenFull;
use crate::identity::{Enrolment, IdentityFolder};
use input::Input;

/// Messages the broker may send before acks. From 1, MQTT's own least; more than 10,000 messages in memory fill no
/// group commit faster.
pub const RECEIVE_MAXIMUM: RangeInclusive<i64> = 1..=10_000;
/// Messages the broker may send before acks, if the file does not say: four group commits' worth of events.
pub const DEFAULT_RECEIVE_MAXIMUM: u16 = 1000;
/// Bytes of one MQTT packet. From a small message; a reading of 256 channels takes about 40 KiB of JSON, so that more
/// than a MiB is a mistake.
pub const PACKET_BYTES: RangeInclusive<i64> = 1024..=1024 * 1024;
/// Bytes of one MQTT packet, if the file does not say.
pub const DEFAULT_MAX_PACKET_BYTES: u32 = 256 * 1024;
/// Bytes of the spool. At least a few segments, so that whole ones can be given back; more than 16 TiB is a slip.
pub const SPOOL_BYTES: RangeInclusive<i64> = 16 * 1024 * 1024..=16 * 1024 * 1024 * 1024 * 1024;
/// Bytes of the spool, if the file does not say: weeks of typical readings, on the smallest SD card sold.
pub const DEFAULT_SPOOL_BYTES: u64 = 1024 * 1024 * 1024;
/// Bytes of everything the agent keeps: the smallest spool, a few models and the small state; more than 16 TiB is a slip.
pub const DISK_BYTES: RangeInclusive<i64> = 64 * 1024 * 1024..=16 * 1024 * 1024 * 1024 * 1024;
/// Milliseconds a reading may wait for its group commit. Above a second producers see acks as lost.
pub const COMMIT_DELAY_MS: RangeInclusive<i64> = 1..=1000;
/// Milliseconds between two publications of the status. Faster burdens the broker, slower looks dead to watchers.
pub const STATUS_INTERVAL_MS: RangeInclusive<i64> = 100..=60_000;
/// Milliseconds between two publications of the status, if the file does not say.
pub const DEFAULT_STATUS_INTERVAL_MS: u64 = 1000;
/// Milliseconds between two questions for programs. Each costs a handshake; a day is as long as a fix should wait.
pub const UPDATE_INTERVAL_MS: RangeInclusive<i64> = 1_000..=24 * 3_600_000;
/// Milliseconds between two questions for programs, if the file does not say.
pub const DEFAULT_UPDATE_INTERVAL_MS: u64 = 5 * 60_000;
/// Milliseconds for which all must be well before a program is kept. It has ten times as long for it.
pub const UPDATE_SETTLE_MS: RangeInclusive<i64> = 1_000..=3_600_000;
/// The same, if the file does not say.
pub const DEFAULT_UPDATE_SETTLE_MS: u64 = 60_000;
/// Milliseconds that an answer may take in the mean, if the file does not say: a box keeps up with ten readings a second.
pub const DEFAULT_MAX_ANSWER_MS: u64 = 100;
/// Bytes of the MQTT client id: brokers' session stores take this much, and an agent's name and a prefix fit.
pub const MAX_CLIENT_ID_BYTES: usize = 128;
/// Bytes of the name of a group of Sparkplug B, which is a level of topics.
pub const MAX_GROUP_BYTES: usize = 128;
/// Bytes of a unit's name: the longest UCUM codes in use are shorter.
pub const MAX_UNIT_BYTES: usize = 32;

/// Whether a text can name a unit.
#[must_use]
pub fn is_unit(text: &str) -> bool {
    !text.is_empty() && text.len() <= MAX_UNIT_BYTES && !text.chars().any(char::is_control)
}

/// The name of a box that has none yet, where its file is looked at and nothing runs.
pub const UNNAMED: &str = "unnamed";

/// Everything the agent is told at start.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// Who the agent is and where it keeps its state.
    pub agent: AgentSection,
    /// The broker.
    pub mqtt: Mqtt,
    /// Which messages are readings: at least one. The first whose topic matches takes a message.
    pub inputs: Vec<Input>,
    /// The hub; a box without one works fully.
    pub hub: Option<Hub>,
    /// How models run.
    pub model: Model,
    /// How events are kept.
    pub spool: Spool,
    /// How the agent reports itself.
    pub status: Status,
    /// Who else is told that the box is there.
    pub publish: Publish,
    /// Where the box's own page is, if it has one.
    pub page: Option<Listen>,
    /// How the agent's own program is kept up to date.
    pub update: Update,
}

impl Config {
    /// Reads and checks the file at `path`.
    ///
    /// # Errors
    /// If the file cannot be read, or is wrong: then with every mistake that could be found.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let (source, raw, enrolment) = read(path)?;
        check::check(&source, &raw, enrolment.as_ref(), Naming::Needed)
    }

    /// Reads and checks the file at `path`, for those who look and do not run: the box may have no name yet, and is
    /// [`UNNAMED`] then.
    ///
    /// # Errors
    /// As with [`Self::load`].
    pub fn load_to_look(path: &Path) -> Result<Self, ConfigError> {
        let (source, raw, enrolment) = read(path)?;
        check::check(&source, &raw, enrolment.as_ref(), Naming::Later)
    }

    /// Whether the box has a name.
    #[must_use]
    pub fn is_named(&self) -> bool {
        self.agent.name.as_str() != UNNAMED
    }

    /// Checks a file that was read already.
    ///
    /// # Errors
    /// If it is wrong: with every mistake that could be found.
    pub fn parse(source: &Source) -> Result<Self, ConfigError> {
        check::check(source, &source.parse()?, None, Naming::Needed)
    }
}

/// Whether a box must have a name: it gets one by its file, or when it is enrolled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Naming {
    Needed,
    Later,
}

fn read(path: &Path) -> Result<(Source, raw::Root, Option<Enrolment>), ConfigError> {
    let source = Source::read(path, |path| File::open(path))?;
    let raw: raw::Root = source.parse()?;
    let folder = IdentityFolder::of(&state_directory(&source, &raw));
    let enrolment = folder.enrolment().map_err(|error| source.error_at(0..0, format!("failed to {error}")))?;
    Ok((source, raw, enrolment))
}

/// Where a file says that the broker is, whatever its inputs say.
///
/// # Errors
/// If the file cannot be read, or is wrong in what it says of the agent or the broker.
pub fn broker(path: &Path) -> Result<Mqtt, ConfigError> {
    let (source, raw, enrolment) = read(path)?;
    check::broker(&source, &raw, enrolment.as_ref())
}

/// What enrolment needs to know of a file: the name that the box would like to have, and where its state is.
///
/// # Errors
/// If the file cannot be read, or is none.
pub fn for_enrolment(path: &Path) -> Result<(Option<AgentId>, PathBuf), ConfigError> {
    let source = Source::read(path, |path| File::open(path))?;
    let raw: raw::Root = source.parse()?;
    let name = raw.agent.name.as_ref().map(|name| AgentId::new(name.get_ref()));
    let name = name.transpose().map_err(|error| source.error_at(0..0, format!("agent.name: {error}")))?;
    Ok((name, state_directory(&source, &raw)))
}

fn state_directory(source: &Source, raw: &raw::Root) -> PathBuf {
    let folder = source.path().parent().unwrap_or(Path::new(""));
    folder.join(raw.agent.state_directory.get_ref())
}

/// Where the box's page is to be had.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Listen {
    /// At an address of the box.
    Address(SocketAddr),
    /// At whatever addresses a network interface has.
    Interface {
        /// Its name, as `ip link` shows it.
        name: String,
        /// The port.
        port: u16,
    },
}

impl fmt::Display for Listen {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(at) => at.fmt(formatter),
            Self::Interface { name, port } => write!(formatter, "{name}:{port}"),
        }
    }
}

/// Who the agent is and where it keeps its state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AgentSection {
    /// Its name; the hub knows it by its certificate, which must say the same.
    pub name: AgentId,
    /// The folder of the spool, the models and the small state.
    pub state_directory: PathBuf,
    /// Bytes that everything in it may take, in [`DISK_BYTES`]: the spool gets what the others leave.
    pub max_disk_bytes: Option<u64>,
}

/// The broker and how the agent connects to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mqtt {
    /// The host it listens on, for MQTT over TCP: a DNS name or an IP address, an IPv6 address without brackets.
    pub host: String,
    /// The port it listens on, at least 1.
    pub port: u16,
    /// The session's name at the broker, by default `tideline-` and the agent's name. 1 to [`MAX_CLIENT_ID_BYTES`].
    pub client_id: String,
    /// The name to log in with.
    pub username: Option<String>,
    /// The file that holds the password; only with a `username`.
    pub password_file: Option<PathBuf>,
    /// How TLS is spoken with it, if it is.
    pub tls: Option<BrokerTls>,
    /// Messages the broker may send before acks, in [`RECEIVE_MAXIMUM`]. With `max_packet_bytes` it bounds memory.
    pub receive_maximum: u16,
    /// Bytes of the largest packet taken, in [`PACKET_BYTES`].
    pub max_packet_bytes: u32,
}

impl Mqtt {
    /// The secret in the password's file, without its line end.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub fn password(&self) -> Result<Option<String>, (PathBuf, std::io::Error)> {
        let read = |path: &PathBuf| match std::fs::read_to_string(path) {
            Ok(text) => Ok(text.trim_end_matches(['\r', '\n']).to_owned()),
            Err(error) => Err((path.clone(), error)),
        };
        self.password_file.as_ref().map(read).transpose()
    }
}

/// TLS with a broker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BrokerTls {
    /// The certificates of those who vouch for the broker.
    pub ca_file: PathBuf,
    /// The files of the agent's own certificate and of its key, if the broker asks for one.
    pub identity: Option<(PathBuf, PathBuf)>,
}

/// The hub and how the agent proves who it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hub {
    /// Where it listens, the best first: at least one.
    pub places: Vec<HubPlace>,
    /// How to reach it.
    pub transport: Transport,
    /// The name its certificate must have, by default the host of the first address.
    pub server_name: String,
    /// How the two prove who they are.
    pub proof: HubProof,
}

/// Where a hub listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HubPlace {
    /// For QUIC: `host:port`, an IPv6 address in brackets.
    pub address: String,
    /// For TCP: by default the same.
    pub tcp_address: String,
}

/// How agent and hub prove who they are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HubProof {
    /// With files that somebody else keeps fresh.
    Files {
        /// The PEM file of the authority that signed the hub's certificate.
        ca_file: PathBuf,
        /// The PEM file of the agent's own certificate.
        certificate_file: PathBuf,
        /// The PEM file of that certificate's key.
        key_file: PathBuf,
    },
    /// With what enrolment left, which the agent keeps fresh itself.
    Enrolled,
}

/// How the hub is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// Over QUIC, and over TCP where UDP is blocked.
    Auto,
    /// Over QUIC only.
    Quic,
    /// Over TCP only.
    Tcp,
}

impl Transport {
    /// Every way.
    pub const ALL: [Self; 3] = [Self::Auto, Self::Quic, Self::Tcp];

    /// Its name in the file.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Quic => "quic",
            Self::Tcp => "tcp",
        }
    }
}

/// How models run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Model {
    /// The device; it may be one this program was built without.
    pub device: DeviceChoice,
    /// Serve this version only, whatever the hub offers. From 1.
    pub pin: Option<ModelVersion>,
    /// Milliseconds that an answer may take in the mean. A new model that needs more is gone back from.
    pub max_answer_ms: u64,
    /// The release keys whose signature a package must have, one of them. None: what the hub sends is taken.
    pub trust: Vec<PublicKey>,
}

/// How events are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Spool {
    /// Bytes the spool may take on disk, in [`SPOOL_BYTES`].
    pub max_bytes: u64,
    /// Milliseconds a reading waits at most for its group commit, in [`COMMIT_DELAY_MS`].
    pub commit_delay_ms: u64,
    /// What happens when it is full.
    pub when_full: WhenFull,
}

/// How the agent reports itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Status {
    /// Milliseconds between two publications of the retained status, in [`STATUS_INTERVAL_MS`].
    pub interval_ms: u64,
}

/// How the agent's own program is kept up to date.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Update {
    /// The release keys whose signature a program must have, one of them. None: the box takes none.
    pub trust: Vec<PublicKey>,
    /// Milliseconds between two questions to the hub, in [`UPDATE_INTERVAL_MS`].
    pub interval_ms: u64,
    /// Milliseconds for which all must be well before a new program is kept, in [`UPDATE_SETTLE_MS`].
    pub settle_ms: u64,
}

/// Who else is told, in their own words, that the box is there.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Publish {
    /// Home Assistant, by its discovery.
    pub home_assistant: bool,
    /// thin-edge.io, as a service of the main device.
    pub thin_edge: bool,
    /// Whoever listens to Sparkplug B: the agent is an edge node of this group, 1 to [`MAX_GROUP_BYTES`].
    pub sparkplug_group: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::input::{Missing, TimeUnit, Zone};
    use super::*;
    use proptest::prelude::*;

    const EXAMPLE: &str = include_str!("../../deploy/config/agent.toml");

    const SMALLEST: &str = r#"
[agent]
name = "box"
state_directory = "state"
[mqtt]
url = "mqtt://broker"
[[input]]
name = "pumps"
topic = "plant/{pump}"
key = "{pump}"
feature = [{ name = "flow", path = "$.flow" }]
"#;

    fn parse(text: &str) -> Result<Config, ConfigError> {
        Config::parse(&Source::new(Path::new("/etc/tideline/agent.toml"), text.to_owned()))
    }

    /// The mistakes of the smallest file with `right` replaced by `wrong`, without the file's name.
    fn mistakes(right: &str, wrong: &str) -> Vec<String> {
        assert!(SMALLEST.contains(right), "{right} is not in the smallest file");
        let error = parse(&SMALLEST.replacen(right, wrong, 1)).expect_err("it is wrong");
        error.to_string().lines().map(|line| line.replacen("/etc/tideline/agent.toml:", "", 1)).collect()
    }

    /// The example with its keys that show defaults made real.
    fn example_with_defaults_written_out() -> String {
        let is_key = |line: &str| {
            let name = line.split(" = ").next().unwrap_or("");
            line.contains(" = ") && name.chars().all(|c| c.is_ascii_lowercase() || c == '_')
        };
        let line = |line: &'static str| line.strip_prefix("# ").filter(|rest| is_key(rest)).unwrap_or(line);
        EXAMPLE.lines().map(line).collect::<Vec<_>>().join("\n")
    }

    #[test]
    fn the_example_is_a_right_file() {
        let config = parse(EXAMPLE).expect("valid");
        assert_eq!(config.agent.name.as_str(), "pump-box-1");
        assert_eq!(config.agent.state_directory, Path::new("/var/lib/tideline"));
        assert_eq!((config.mqtt.host.as_str(), config.mqtt.port), ("127.0.0.1", 1883));
        assert_eq!(config.inputs[0].topic.filter(), "plant/+/+/telemetry");
        assert_eq!(config.inputs[0].time.as_ref().map(|time| time.unit), Some(TimeUnit::Ms));
        let flow = &config.inputs[0].features[0];
        assert_eq!((flow.name.as_str(), flow.unit.as_deref(), flow.min, flow.max), ("flow", Some("l/min"), 0.0, 500.0));
        let hub = config.hub.expect("the example has a hub");
        assert_eq!(hub.server_name, "hub.example.com");
        let HubProof::Files { ca_file, .. } = hub.proof else { panic!("the example shows files") };
        assert_eq!(ca_file, Path::new("/etc/tideline/ca.pem"));
    }

    #[test]
    fn the_example_shows_the_defaults() {
        let written = example_with_defaults_written_out();
        for key in ["client_id", "receive_maximum", "max_packet_bytes", "server_name", "max_bytes", "interval_ms"] {
            assert!(written.lines().any(|line| line.starts_with(&format!("{key} = "))), "{key}");
        }
        let mut written = parse(&written).expect("valid");
        assert_eq!(written.mqtt.username.take().as_deref(), Some("pump-box-1"));
        assert_eq!(written.mqtt.password_file.take().as_deref(), Some(Path::new("/etc/tideline/mqtt.password")));
        assert_eq!(written.model.pin.take(), Some(ModelVersion(1)));
        assert_eq!(std::mem::take(&mut written.model.trust).len(), 1);
        assert_eq!(std::mem::take(&mut written.update.trust).len(), 1);
        assert!(written.page.take().is_some_and(|at| matches!(at, Listen::Address(at) if at.ip().is_loopback())));
        assert_eq!(written.agent.max_disk_bytes.take(), Some(2 << 30));
        assert_eq!(written.publish.sparkplug_group.take().as_deref(), Some("plant1"));
        assert_eq!(parse(EXAMPLE).expect("valid"), written);
    }

    #[test]
    fn a_group_of_sparkplug_is_one_level_of_topics() {
        let with = |group: &str| parse(&format!("{SMALLEST}[publish]\nsparkplug_group = '{group}'\n"));
        assert_eq!(with("Plant 1").expect("valid").publish.sparkplug_group.as_deref(), Some("Plant 1"));
        for wrong in ["", "plant/1", "plant+", "#", &"x".repeat(MAX_GROUP_BYTES + 1)] {
            let says = with(wrong).expect_err("refused").to_string();
            assert!(says.contains("13:19: publish.sparkplug_group: ") && says.contains("without /, + and #"), "{says}");
        }
    }

    #[test]
    fn a_broker_with_tls_has_files_that_go_together() {
        let with = |lines: &str| parse(&SMALLEST.replace("\"mqtt://broker\"", &format!("\"mqtts://broker\"\n{lines}")));
        let mqtt = with("ca_file = 'a'").expect("valid").mqtt;
        assert_eq!((mqtt.port, mqtt.tls.expect("TLS").identity), (8883, None));
        let identity =
            with("ca_file = 'a'\ncertificate_file = 'b'\nkey_file = 'c'").expect("valid").mqtt.tls.expect("TLS");
        assert!(identity.identity.is_some_and(|(certificate, key)| certificate.ends_with("b") && key.ends_with("c")));
        let refused = |lines: &str| with(lines).expect_err("refused").to_string();
        assert!(refused("").contains("6:7: mqtt.url: TLS needs `ca_file`"), "{}", refused(""));
        let alone = refused("ca_file = 'a'\ncertificate_file = 'b'");
        assert!(
            alone.contains("8:20: mqtt.certificate_file: a certificate without its key; give `key_file`, too"),
            "{alone}"
        );
        let alone = refused("ca_file = 'a'\nkey_file = 'c'");
        assert!(
            alone.contains("8:12: mqtt.key_file: a key without its certificate; give `certificate_file`, too"),
            "{alone}"
        );
    }

    #[test]
    fn the_smallest_file_has_the_defaults() {
        let config = parse(SMALLEST).expect("valid");
        assert_eq!(config.hub, None);
        assert_eq!(config.mqtt.client_id, "tideline-box");
        assert_eq!((config.mqtt.receive_maximum, config.mqtt.max_packet_bytes), (1000, 262_144));
        assert_eq!(
            config.model,
            Model { device: DeviceChoice::default(), pin: None, max_answer_ms: 100, trust: Vec::new() }
        );
        assert_eq!(config.spool, Spool { max_bytes: 1 << 30, commit_delay_ms: 20, when_full: WhenFull::DropOldest });
        assert_eq!(config.status, Status { interval_ms: 1000 });
        let flow = &config.inputs[0].features[0];
        assert_eq!((flow.scale, flow.offset, flow.min, flow.max), (1.0, 0.0, f64::NEG_INFINITY, f64::INFINITY));
    }

    #[test]
    fn a_file_is_loaded_and_its_paths_start_at_its_folder() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("agent.toml");
        std::fs::write(&path, SMALLEST).expect("writable");
        let config = Config::load(&path).expect("valid");
        assert_eq!(config.agent.state_directory, folder.path().join("state"));
        let missing = folder.path().join("missing.toml");
        let error = Config::load(&missing).expect_err("missing").to_string();
        assert!(error.starts_with(&format!("{}: cannot be read: ", missing.display())), "{error}");
    }

    #[test]
    fn all_mistakes_are_reported_at_once_at_their_places() {
        let text = SMALLEST
            .replace("\"box\"", "\"my box\"")
            .replace("mqtt://broker", "tcp://broker")
            .replace("key = \"{pump}\"", "key = \"{line}\"")
            .replace("$.flow", "$..flow")
            + "[model]\ndevice = \"tpu\"\npin = 0\n[spool]\nmax_bytes = 1000\n[status]\ninterval_ms = 99\n";
        let mistakes = parse(&text).expect_err("wrong").to_string();
        let expected = [
            "3:8: agent.name: agent name \"my box\" holds ' '; allowed: letters, digits, '-', '_' and '.'",
            "6:7: mqtt.url: \"tcp://\" is not supported; supported are mqtt://host[:port], and mqtts://host[:port] with TLS",
            "10:7: input.key: key uses {line}, which is not in the topic; the topic has {pump}",
            "11:36: input.feature.path: path \"$..flow\" is wrong at character 3: `..` may find several values; \
             name the way to one, as in $.a.b[0]['c d']",
            "13:10: model.device: \"tpu\" is no device; there are flex, ndarray and wgpu",
            "14:7: model.pin: 0 is out of range; allowed: 1 to 4294967295",
            "16:13: spool.max_bytes: 1000 is out of range; allowed: 16777216 to 17592186044416",
            "18:15: status.interval_ms: 99 is out of range; allowed: 100 to 60000",
        ];
        let expected: Vec<String> = expected.iter().map(|line| format!("/etc/tideline/agent.toml:{line}")).collect();
        assert_eq!(mistakes.lines().collect::<Vec<_>>(), expected);
    }

    #[test]
    fn an_unknown_key_is_refused_with_a_suggestion() {
        assert_eq!(
            mistakes("key = ", "keys = "),
            ["10:1: input.keys: unknown key `keys`; did you mean `key`? \
              known here: name, preset, topic, format, key, missing, time, known_normal, id, when_full, feature"]
        );
        assert_eq!(
            mistakes("path = \"$.flow\"", "path = \"$.flow\", scael = 1"),
            ["11:46: input.feature.scael: unknown key `scael`; did you mean `scale`? \
              known here: name, path, field, values, unit, scale, offset, min, max"]
        );
    }

    #[test]
    fn a_file_without_inputs_is_refused() {
        let (without, _) = SMALLEST.split_once("[[input]]").expect("it has one");
        assert_eq!(
            parse(without).expect_err("no input").to_string(),
            "/etc/tideline/agent.toml:1:1: there is no [[input]]; at least one says which messages are readings"
        );
    }

    #[test]
    fn names_must_be_unique() {
        let second = "[[input]]\nname = 'pumps'\ntopic = 'x'\nkey = 'x'\n\
                      feature = [{name = 'a', path = '$'}, {name = 'a', path = '$.a'}]\n[[input]]\nname = 'pumps'";
        assert_eq!(
            mistakes("[[input]]\nname = \"pumps\"", second),
            [
                "11:46: input.feature.name: feature \"a\" is given twice; each needs its own name",
                "13:8: input.name: input \"pumps\" is given twice; each needs its own name",
            ]
        );
    }

    #[test]
    fn an_input_that_would_never_see_a_message_is_refused() {
        let all = "[[input]]\nname = 'all'\ntopic = 'plant/#'\nkey = 'x'\nfeature = [{name = 'a', path = '$'}]\n";
        assert_eq!(
            mistakes("[[input]]\n", &format!("{all}[[input]]\n")),
            ["14:9: input.topic: input \"all\" above takes every message of this topic; put the narrower topic first"]
        );
        let narrow_first = SMALLEST.to_owned() + all;
        assert_eq!(parse(&narrow_first).expect("valid").inputs.len(), 2);
    }

    #[test]
    fn impossible_numbers_of_a_feature_are_refused() {
        for (keys, expected) in [
            ("scale = 0", "scale: a scale of 0 makes every value the same; leave it out for 1"),
            ("scale = inf", "scale: inf is no finite number; leave the key out"),
            ("offset = nan", "offset: NaN is no finite number; leave the key out"),
            ("min = 2, max = 2", "max: max 2 is not above min 2; no value would be in range"),
            ("min = -inf", "min: -inf is no finite number; leave the key out"),
            ("unit = \"\"", "unit: \"\" is no unit; it takes 1 to 32 bytes of printable text"),
        ] {
            let found = mistakes("path = \"$.flow\"", &format!("path = \"$.flow\", {keys}"));
            assert_eq!(found.len(), 1, "{found:?}");
            assert!(found[0].ends_with(&format!(": input.feature.{expected}")), "{found:?}");
        }
        let none = mistakes("feature = [{ name = \"flow\", path = \"$.flow\" }]", "feature = []");
        assert_eq!(none, ["11:11: input.feature: there are 0 features; an input has 1 to 256"]);
        let entries = |count| (0..count).map(|n| format!("{{name='{n}',path='$[{n}]'}},")).collect::<String>();
        let features = |count| format!("feature = [\n{}]", entries(count).replace("},", "},\n"));
        let text = |count| SMALLEST.replace("feature = [{ name = \"flow\", path = \"$.flow\" }]", &features(count));
        assert_eq!(parse(&text(256)).expect("valid").inputs[0].features.len(), 256);
        assert!(parse(&text(257)).expect_err("too many").to_string().contains("there are 257 features"));
    }

    #[test]
    fn impossible_values_of_an_input_are_refused_at_their_places() {
        for (right, wrong, expected) in [
            ("\"pumps\"", "\"a/b\"", "8:8: input.name: \"a/b\" is no name; it takes 1 to 64 letters, "),
            ("{pump}\"", "{pump}x\"", "9:9: input.topic: level \"{pump}x\" mixes text with a wildcard; "),
            ("key = ", "known_normal = 'x'\nkey = ", "10:16: input.known_normal: path \"x\" is wrong at character 1: "),
            ("key = ", "id = '$.*'\nkey = ", "10:6: input.id: path \"$.*\" is wrong at character 3: "),
            (
                "key = ",
                "when_full = 'drop-newst'\nkey = ",
                "10:13: input.when_full: \"drop-newst\" is no rule for a full spool; did you mean `drop-newest`? there are block, \
                 drop-oldest, drop-newest, downsample",
            ),
            (
                "key = ",
                "when_full = 'block'\nkey = ",
                "10:13: input.when_full: \"block\" is a rule for the whole spool, which has another; write it in [spool]",
            ),
            (
                "key = ",
                "time = {path='$.t', unit='mss'}\nkey = ",
                "10:26: input.time.unit: \"mss\" is no unit of time; did you mean `ms`? there are ms, s, us, ns, ",
            ),
        ] {
            let found = mistakes(right, wrong);
            assert_eq!(found.len(), 1, "{wrong}: {found:?}");
            assert!(found[0].starts_with(expected), "{wrong}: {found:?}");
        }
    }

    #[test]
    fn what_a_format_takes_is_said_where_it_gets_something_else() {
        let with = |keys: &str, feature: &str| {
            let text = SMALLEST.replace("topic = \"plant/{pump}\"\nkey = \"{pump}\"\n", &format!("{keys}\n"));
            parse(&text.replace("{ name = \"flow\", path = \"$.flow\" }", feature)).map_err(|error| error.to_string())
        };
        let json = "{name = 'a', path = '$.a'}";
        let topic = "topic = 'p/{a}/{b}'\nkey = '{a}'";
        for (keys, feature, expected) in [
            ("key = 'x'", json, "input.name: `topic` is missing: the MQTT topics"),
            ("topic = 'x'", json, "input.name: `key` is missing: the stream of a message"),
            (topic, "{name = 'a'}", "input.feature.name: `path` is missing: where the message holds the value"),
            (topic, "{name = 'a', field = 'a'}", "input.feature.field: JSON has no fields; give `path`"),
            (&format!("{topic}\nformat = 'jason'"), json, "is no format; did you mean `json`?"),
            (
                &format!("{topic}\nmissing = 'skip'"),
                json,
                "is no rule for a missing value; there are refuse, last, wait",
            ),
            (&format!("{topic}\nformat = 'influx'"), json, "messages of the format influx have no paths; give `field`"),
            (
                &format!("{topic}\nformat = 'value'\nid = '$.id'"),
                "{name = 'a'}",
                "input.id: messages of the format value have no",
            ),
            (&format!("{topic}\nformat = 'value'\ntime = {{unit = 's'}}"), "{name = 'a'}", "a bare value has no time"),
            (
                &format!("{topic}\nformat = 'senml'\ntime = {{unit = 's'}}"),
                "{name = 'a'}",
                "the format says where times are",
            ),
            (
                &format!("{topic}\nformat = 'influx'\ntime = {{unit = 'rfc3339'}}"),
                "{name = 'a'}",
                "lines hold whole numbers",
            ),
            (&format!("{topic}\ntime = {{unit = 's'}}"), json, "input.time.unit: `path` is missing"),
            (&format!("{topic}\ntime = {{path = '$.t', unit = 'auto', zone = 'CET'}}"), json, "\"CET\" is no zone"),
            (
                "topic = 'p/{a}'\nkey = '{a}'\nformat = 'value'",
                "{name = 'a'}, {name = 'b'}",
                "every message is a value of one feature",
            ),
            ("topic = 'p/{a}'\nkey = '{a}'\nformat = 'value'", "{name = 'a', field = 'x'}", "leave `field` out"),
            (
                "format = 'sparkplug_b'\ntopic = 'spBv1.0/#'",
                "{name = 'a'}",
                "topics of Sparkplug B are spBv1.0/{group}/+/{node}/{device}",
            ),
            ("preset = 'zigbee'", json, "is no preset; there are zigbee2mqtt, tasmota, homie5, thin_edge"),
            ("preset = 'homie5'\nformat = 'json'", json, "the preset homie5 is value; leave one of both out"),
            (
                "preset = 'homie5'\ntopic = 'x/{y}'",
                "{name = 'a'}",
                "key uses {device}, which is not in the topic; the topic has {y}; give `key`",
            ),
            (topic, "{name = 'a', path = '$.a', values = {ON = inf}}", "a text stands for a finite number"),
        ] {
            let error = with(keys, feature).expect_err(keys);
            assert!(error.contains(expected) && error.lines().count() == 1, "{keys}: {error}");
        }
        let input = with("preset = 'tasmota'", json).expect("valid").inputs.remove(0);
        assert_eq!((input.topic.to_string().as_str(), input.missing), ("tele/{device}/SENSOR", Missing::Refuse));
        assert!(input.time.is_some_and(|time| time.is_optional && time.zone == Some(Zone::Local)));
        let input = with("preset = 'tasmota'\ntopic = '{device}/tele/SENSOR'\nmissing = 'last'", json).expect("valid");
        assert_eq!(input.inputs[0].missing, Missing::Last, "what the file says goes before");
    }

    #[test]
    fn the_page_is_at_an_address_or_an_interface() {
        let with = |listen: &str| parse(&format!("{SMALLEST}[page]\nlisten = '{listen}'\n")).map(|config| config.page);
        let interface = |name: &str| Some(Listen::Interface { name: name.to_owned(), port: 8091 });
        assert_eq!(with("[::1]:8091").expect("an address").map(|on| on.to_string()).as_deref(), Some("[::1]:8091"));
        for name in ["eth0", "lo", "enp0s31f6", "br-lan", "wlan0.7"] {
            assert_eq!(with(&format!("{name}:8091")).expect("an interface"), interface(name));
        }
        for nothing in [
            "8091",
            "eth0",
            "eth0:",
            "eth0:99999",
            ":8091",
            "10.0.0.256:8091",
            "an interface:1",
            "longer-than-16-bytes:1",
        ] {
            let says = with(nothing).expect_err(nothing).to_string();
            assert!(says.contains("13:10: page.listen: ") && says.contains("as in eth0:8091"), "{says}");
        }
    }

    #[test]
    fn impossible_values_of_other_tables_are_refused_at_their_places() {
        let files = "ca_file='a'\ncertificate_file='b'\nkey_file='c'";
        for (lines, expected) in [
            ("client_id = ''", "7:13: mqtt.client_id: \"\" is no client id; "),
            ("username = ''", "7:12: mqtt.username: the name is empty or not printable; "),
            ("password_file = 'p'", "7:17: mqtt.password_file: a password without a name; "),
            ("ca_file = 'a'", "7:11: mqtt.ca_file: certificates without TLS; write mqtts:// in `url`"),
            ("key_file = 'a'", "7:12: mqtt.key_file: certificates without TLS; write mqtts:// in `url`"),
            ("receive_maximum = 10001", "7:19: mqtt.receive_maximum: 10001 is out of range; allowed: 1 to 10000"),
            ("max_packet_bytes = -1", "7:20: mqtt.max_packet_bytes: -1 is out of range; allowed: 1024 to 1048576"),
            ("[spool]\ncommit_delay_ms = 0", "8:19: spool.commit_delay_ms: 0 is out of range; allowed: 1 to 1000"),
            (
                "[spool]\nmax_bytes = 99999999999999999999",
                "8:13: spool.max_bytes: found integer `99999999999999999999`; ",
            ),
            ("[model]\ndevice = 7", "8:10: model.device: found integer `7`; expected a string"),
            (&format!("[hub]\naddress='h'\n{files}"), "8:9: hub.address: \"h\" has no port; "),
            (&format!("[hub]\naddress=':1'\n{files}"), "8:9: hub.address: \"\" is no host; "),
            (
                &format!("[hub]\nserver_name='a b'\naddress='h:1'\n{files}"),
                "8:13: hub.server_name: \"a b\" is no name ",
            ),
            (
                &format!("[hub]\naddress='h:1'\n{}", &files[12..]),
                "9:18: hub.certificate_file: `ca_file`, `certificate_file` and `key_file` belong together; ",
            ),
            ("[hub]\naddress='h:1'", "7:1: hub: the box is not enrolled; do it with edge-agent enroll --token"),
        ] {
            let found = mistakes("[[input]]", &format!("{lines}\n[[input]]"));
            assert_eq!(found.len(), 1, "{lines}: {found:?}");
            assert!(found[0].starts_with(expected), "{lines}: {found:?}");
        }
        assert!(mistakes("\"state\"", "\"\"")[0].starts_with("4:19: agent.state_directory: the path is empty; "));
    }

    #[test]
    fn an_enrolled_box_has_its_name_and_its_hub_from_enrolment() {
        let directory = tempfile::tempdir().expect("dir");
        let path = directory.path().join("agent.toml");
        let load = |text: &str| {
            std::fs::write(&path, text).expect("writes");
            Config::load(&path).map_err(|error| error.to_string())
        };
        let nameless = SMALLEST.replace("name = \"box\"\n", "");
        std::fs::write(&path, &nameless).expect("writes");
        let looked_at = Config::load_to_look(&path).expect("whoever looks needs no name");
        assert!(!looked_at.is_named() && looked_at.mqtt == broker(&path).expect("nor whoever listens"));
        let none = load(&nameless).expect_err("nobody says a name");
        assert!(none.contains("edge-agent enroll"), "{none}");
        let place = directory.path().join("state/identity");
        std::fs::create_dir_all(&place).expect("makes");
        let told = r#"{"agent": "pump-7", "hubs": ["a:1", "b:2"], "server_name": "hub.tideline.internal"}"#;
        std::fs::write(place.join("box.json"), told).expect("writes");

        let config = load(&nameless).expect("is enrolled");
        assert_eq!((config.agent.name.as_str(), config.mqtt.client_id.as_str()), ("pump-7", "tideline-pump-7"));
        let hub = config.hub.expect("a hub");
        assert_eq!((hub.places.len(), hub.places[1].tcp_address.as_str()), (2, "b:2"));
        assert_eq!((hub.server_name.as_str(), hub.proof), ("hub.tideline.internal", HubProof::Enrolled));
        let elsewhere =
            load(&format!("{nameless}[hub]\naddress = \"c:3\"\n")).expect("is enrolled").hub.expect("a hub");
        assert_eq!((elsewhere.places.len(), elsewhere.places[0].address.as_str()), (1, "c:3"));
        assert_eq!(elsewhere.server_name, "hub.tideline.internal");
        let other = load(SMALLEST).expect_err("another name");
        assert!(other.contains("the box is enrolled as pump-7"), "{other}");
        let files = "[hub]\naddress = 'h:1'\nca_file = 'a'\ncertificate_file = 'b'\nkey_file = 'c'\n";
        let by_hand = load(&format!("{nameless}{files}")).expect("files").hub.expect("a hub");
        assert!(matches!(by_hand.proof, HubProof::Files { .. }) && by_hand.server_name == "h");
    }

    proptest! {
        #[test]
        fn any_text_is_a_configuration_or_refused(text in ".{0,300}") {
            if let Err(error) = parse(&text) {
                prop_assert!(error.to_string().starts_with("/etc/tideline/agent.toml:"));
            }
        }

        #[test]
        fn the_example_with_any_damage_is_a_configuration_or_refused(
            at in 0_usize..EXAMPLE.len(), length in 0_usize..40, instead in "[\\[\\]{}=\"'$.,#a-z0-9\n-]{0,8}"
        ) {
            let start = EXAMPLE.floor_char_boundary(at);
            let end = EXAMPLE.ceil_char_boundary(at + length);
            let mut text = EXAMPLE.to_owned();
            text.replace_range(start..end, &instead);
            if let Err(error) = parse(&text) {
                let is_placed = |line: &str| line.starts_with("/etc/tideline/agent.toml:");
                prop_assert!(error.to_string().lines().all(is_placed), "{}", error);
            }
        }
    }
}
