//! Inputs as other software writes them, so that a file need not say it again.

use super::input::FormatName;
use super::input::Missing;

/// What an input has if the file does not say otherwise.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Preset {
    /// Its name in the file.
    pub name: &'static str,
    /// Its `topic`.
    pub topic: &'static str,
    /// Its `key`.
    pub key: &'static str,
    /// Its `format`.
    pub format: FormatName,
    /// The path of its `time`, which may be missing, in whatever unit.
    pub time: Option<&'static str>,
    /// The `zone` of a time that says none.
    pub zone: Option<&'static str>,
    /// Its `missing`.
    pub missing: Missing,
}

/// Zigbee2MQTT: one flat JSON object per device and report, with what the device reports.
/// <https://www.zigbee2mqtt.io/guide/usage/mqtt_topics_and_messages.html>
pub const ZIGBEE2MQTT: Preset = Preset {
    name: "zigbee2mqtt",
    topic: "zigbee2mqtt/{device}",
    key: "{device}",
    format: FormatName::Json,
    time: Some("$.last_seen"),
    zone: None,
    missing: Missing::Last,
};

/// Tasmota: JSON with an object per sensor, and the time on the clock of the place.
/// <https://tasmota.github.io/docs/MQTT/>
pub const TASMOTA: Preset = Preset {
    name: "tasmota",
    topic: "tele/{device}/SENSOR",
    key: "{device}",
    format: FormatName::Json,
    time: Some("$.Time"),
    zone: Some("local"),
    missing: Missing::Refuse,
};

/// Homie 5: a topic per property, its value as text. <https://homieiot.github.io/specification/>
pub const HOMIE5: Preset = Preset {
    name: "homie5",
    topic: "homie/5/{device}/{node}/{property}",
    key: "{device}",
    format: FormatName::Value,
    time: None,
    zone: None,
    missing: Missing::Wait,
};

/// thin-edge.io: measurements as JSON, with one level of groups. <https://thin-edge.github.io/thin-edge.io/>
pub const THIN_EDGE: Preset = Preset {
    name: "thin_edge",
    topic: "te/device/{device}///m/{type}",
    key: "{device}/{type}",
    format: FormatName::Json,
    time: Some("$.time"),
    zone: None,
    missing: Missing::Refuse,
};

impl Preset {
    /// Every preset.
    pub const ALL: [Self; 4] = [ZIGBEE2MQTT, TASMOTA, HOMIE5, THIN_EDGE];
}

/// The topics of Sparkplug B, which its specification fixes (section 4.1).
pub const SPARKPLUG_TOPIC: &str = "spBv1.0/{group}/+/{node}/{device}";
/// The stream of a device that speaks Sparkplug B.
pub const SPARKPLUG_KEY: &str = "{group}/{node}/{device}";
