//! The configuration file as it is written, before its values are checked.
//!
//! A number is an `i64` here, whatever its range: a number out of range is then refused with the range, at its place,
//! together with all other mistakes.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::Deserialize;
use toml::Spanned;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Root {
    pub(super) agent: Agent,
    pub(super) mqtt: Mqtt,
    #[serde(default)]
    pub(super) input: Vec<Spanned<Input>>,
    pub(super) hub: Option<Spanned<Hub>>,
    #[serde(default)]
    pub(super) model: Model,
    #[serde(default)]
    pub(super) spool: Spool,
    #[serde(default)]
    pub(super) status: Status,
    #[serde(default)]
    pub(super) publish: Publish,
    #[serde(default)]
    pub(super) page: Page,
    #[serde(default)]
    pub(super) update: Update,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Update {
    #[serde(default)]
    pub(super) trust: Vec<Spanned<String>>,
    pub(super) interval_ms: Option<Spanned<i64>>,
    pub(super) settle_ms: Option<Spanned<i64>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Agent {
    pub(super) name: Option<Spanned<String>>,
    pub(super) state_directory: Spanned<PathBuf>,
    pub(super) max_disk_bytes: Option<Spanned<i64>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Mqtt {
    pub(super) url: Spanned<String>,
    pub(super) client_id: Option<Spanned<String>>,
    pub(super) username: Option<Spanned<String>>,
    pub(super) password_file: Option<Spanned<PathBuf>>,
    pub(super) ca_file: Option<Spanned<PathBuf>>,
    pub(super) certificate_file: Option<Spanned<PathBuf>>,
    pub(super) key_file: Option<Spanned<PathBuf>>,
    pub(super) receive_maximum: Option<Spanned<i64>>,
    pub(super) max_packet_bytes: Option<Spanned<i64>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Input {
    pub(super) name: Spanned<String>,
    pub(super) preset: Option<Spanned<String>>,
    pub(super) topic: Option<Spanned<String>>,
    pub(super) format: Option<Spanned<String>>,
    pub(super) key: Option<Spanned<String>>,
    pub(super) missing: Option<Spanned<String>>,
    pub(super) time: Option<Time>,
    pub(super) known_normal: Option<Spanned<String>>,
    pub(super) id: Option<Spanned<String>>,
    pub(super) when_full: Option<Spanned<String>>,
    pub(super) feature: Spanned<Vec<Feature>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Time {
    pub(super) path: Option<Spanned<String>>,
    pub(super) unit: Spanned<String>,
    pub(super) zone: Option<Spanned<String>>,
    #[serde(default)]
    pub(super) optional: bool,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Feature {
    pub(super) name: Spanned<String>,
    pub(super) path: Option<Spanned<String>>,
    pub(super) field: Option<Spanned<String>>,
    pub(super) values: Option<Spanned<BTreeMap<String, f64>>>,
    pub(super) unit: Option<Spanned<String>>,
    pub(super) scale: Option<Spanned<f64>>,
    pub(super) offset: Option<Spanned<f64>>,
    pub(super) min: Option<Spanned<f64>>,
    pub(super) max: Option<Spanned<f64>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Hub {
    pub(super) address: Option<Spanned<String>>,
    pub(super) server_name: Option<Spanned<String>>,
    pub(super) ca_file: Option<Spanned<PathBuf>>,
    pub(super) certificate_file: Option<Spanned<PathBuf>>,
    pub(super) key_file: Option<Spanned<PathBuf>>,
    pub(super) tcp_address: Option<Spanned<String>>,
    pub(super) transport: Option<Spanned<String>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Model {
    pub(super) device: Option<Spanned<String>>,
    pub(super) pin: Option<Spanned<i64>>,
    pub(super) max_answer_ms: Option<Spanned<i64>>,
    #[serde(default)]
    pub(super) trust: Vec<Spanned<String>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Spool {
    pub(super) max_bytes: Option<Spanned<i64>>,
    pub(super) commit_delay_ms: Option<Spanned<i64>>,
    pub(super) when_full: Option<Spanned<String>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Status {
    pub(super) interval_ms: Option<Spanned<i64>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Publish {
    pub(super) home_assistant: bool,
    pub(super) thin_edge: bool,
    pub(super) sparkplug_group: Option<Spanned<String>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Page {
    pub(super) listen: Option<Spanned<String>>,
}
