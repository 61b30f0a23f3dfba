//! MQTT 5 and 3.1.1 on the wire, as the one set of packets that the session works with. rumqttc's codecs read and write the
//! packets themselves; its client is not used.

use std::sync::Arc;

use bytes::{Buf, Bytes, BytesMut};
use rumqttc::mqttbytes::v4;
use rumqttc::v5::mqttbytes::{QoS, v5};

/// Bytes before a packet's content at most: its type, and its length in four bytes (MQTT 5, section 2.1).
const FIXED_HEADER_BYTES: usize = 5;
/// The type of a message's packet.
const PUBLISH: u8 = 3;
/// The answer to a connection request.
const CONNACK: u8 = 2;
/// What a broker without MQTT 5 answers to it (MQTT 3.1.1, section 3.2.2.3).
const UNACCEPTABLE_VERSION: u8 = 1;

/// Which MQTT is spoken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// MQTT 5.0.
    V5,
    /// MQTT 3.1.1.
    V311,
}

impl Version {
    /// Its number.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::V5 => "5",
            Self::V311 => "3.1.1",
        }
    }
}

/// A packet from the broker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Incoming {
    /// The connection stands.
    Connected {
        /// The broker still knows the session.
        session_present: bool,
        /// Unacknowledged publishes it takes.
        receive_maximum: u16,
        /// Bytes of the largest packet it takes.
        max_packet_bytes: u32,
        /// The keep-alive it wants, in seconds.
        keep_alive_s: Option<u16>,
    },
    /// The broker does not want the connection.
    Refused {
        /// Why.
        reason: String,
        /// It does not speak this version.
        other_version: bool,
    },
    /// A message.
    Message(Message),
    /// It has one of our publishes.
    Published(u16),
    /// It answers a subscription: how many of its filters it refuses.
    Subscribed {
        /// Filters that it refuses.
        refused: usize,
    },
    /// It answers a ping.
    Pong,
    /// It closes the connection.
    Goodbye(String),
    /// Nothing that the session asked for.
    Other,
}

/// A message for us.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// Its topic.
    pub topic: Bytes,
    /// Its content; of a message larger than allowed nothing.
    pub payload: Bytes,
    /// What to acknowledge it by; a QoS 0 message is not acknowledged.
    pub packet_id: Option<u16>,
    /// The broker says that it sent the message before.
    pub redelivered: bool,
    /// The size of a packet larger than allowed, in bytes.
    pub oversized: Option<usize>,
}

/// Why what came in is not MQTT.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PacketError {
    /// A packet's length takes more than four bytes.
    #[error("the broker sent a packet whose length is not a number")]
    Length,
    /// A packet other than a message is larger than allowed.
    #[error("the broker sent a packet of type {kind} of {bytes} bytes; allowed are {max}")]
    TooLarge {
        /// Its type.
        kind: u8,
        /// Its size.
        bytes: usize,
        /// The limit.
        max: usize,
    },
    /// A packet does not hold what it must.
    #[error("the broker sent a malformed packet of type {kind}: {problem}")]
    Malformed {
        /// Its type.
        kind: u8,
        /// What is wrong.
        problem: String,
    },
}

/// Cuts a stream of bytes into packets. A message that is too large is passed over without being held.
#[derive(Debug, Default)]
pub struct Reader {
    /// Bytes that came in and were not read.
    pub buffer: BytesMut,
    passing_over: usize,
}

impl Reader {
    /// The next whole packet, if it is there.
    ///
    /// # Errors
    /// If what is there is no packet: then the connection is of no more use.
    pub fn next(&mut self, version: Version, max_bytes: u32) -> Result<Option<Incoming>, PacketError> {
        if self.passing_over > 0 {
            let passed = self.passing_over.min(self.buffer.len());
            self.buffer.advance(passed);
            self.passing_over -= passed;
        }
        let Some((header, bytes)) = self.frame()? else {
            return Ok(None);
        };
        let kind = self.buffer[0] >> 4;
        let max = max_bytes as usize;
        if bytes > max {
            return if kind == PUBLISH {
                self.oversized(header, bytes)
            } else {
                Err(PacketError::TooLarge { kind, bytes, max })
            };
        }
        if self.buffer.len() < bytes {
            return Ok(None);
        }
        if kind == CONNACK && version == Version::V5 && bytes == header + 2 {
            // A broker without MQTT 5 answers in the old format, which has no properties.
            let other_version = self.buffer[header + 1] == UNACCEPTABLE_VERSION;
            let reason = format!("code {}", self.buffer[header + 1]);
            self.buffer.advance(bytes);
            return Ok(Some(Incoming::Refused { reason, other_version }));
        }
        let read = match version {
            Version::V5 => v5::Packet::read(&mut self.buffer, None).map(from_v5).map_err(|error| error.to_string()),
            Version::V311 => {
                v4::Packet::read(&mut self.buffer, usize::MAX).map(from_v311).map_err(|error| error.to_string())
            }
        };
        read.map(Some).map_err(|problem| PacketError::Malformed { kind, problem })
    }

    /// The length of the next packet's fixed header, and of the whole packet.
    fn frame(&self) -> Result<Option<(usize, usize)>, PacketError> {
        let mut length = 0;
        for (index, byte) in self.buffer.iter().take(FIXED_HEADER_BYTES).skip(1).enumerate() {
            length |= usize::from(byte & 0x7f) << (7 * index);
            if byte & 0x80 == 0 {
                return Ok(Some((index + 2, index + 2 + length)));
            }
        }
        if self.buffer.len() < FIXED_HEADER_BYTES { Ok(None) } else { Err(PacketError::Length) }
    }

    /// Passes over a message, after what names it.
    fn oversized(&mut self, header: usize, bytes: usize) -> Result<Option<Incoming>, PacketError> {
        let flags = self.buffer[0];
        let Some(topic_bytes) = self.buffer.get(header..header + 2) else {
            return Ok(None);
        };
        let topic_end = header + 2 + usize::from(u16::from_be_bytes([topic_bytes[0], topic_bytes[1]]));
        let has_id = flags & 0b110 != 0;
        let end = topic_end + if has_id { 2 } else { 0 };
        if end > bytes {
            return Err(PacketError::Malformed {
                kind: PUBLISH,
                problem: "the topic is longer than the packet".into(),
            });
        }
        if self.buffer.len() < end {
            return Ok(None);
        }
        let mut start = self.buffer.split_to(end).freeze();
        self.passing_over = bytes - end;
        let packet_id = has_id.then(|| u16::from_be_bytes([start[topic_end], start[topic_end + 1]]));
        let topic = start.split_to(topic_end).split_off(header + 2);
        let redelivered = flags & 0b1000 != 0;
        Ok(Some(Incoming::Message(Message {
            topic,
            payload: Bytes::new(),
            packet_id,
            redelivered,
            oversized: Some(bytes),
        })))
    }
}

fn from_v5(packet: v5::Packet) -> Incoming {
    match packet {
        v5::Packet::ConnAck(ack) if ack.code == v5::ConnectReturnCode::Success => {
            let properties = ack.properties;
            let properties = properties.as_ref();
            Incoming::Connected {
                session_present: ack.session_present,
                receive_maximum: properties.and_then(|set| set.receive_max).unwrap_or(u16::MAX),
                max_packet_bytes: properties.and_then(|set| set.max_packet_size).unwrap_or(u32::MAX),
                keep_alive_s: properties.and_then(|set| set.server_keep_alive),
            }
        }
        v5::Packet::ConnAck(ack) => Incoming::Refused {
            reason: format!("{:?}", ack.code),
            other_version: ack.code == v5::ConnectReturnCode::UnsupportedProtocolVersion,
        },
        v5::Packet::Publish(publish) => Incoming::Message(Message {
            topic: publish.topic,
            payload: publish.payload,
            packet_id: (publish.qos != QoS::AtMostOnce).then_some(publish.pkid),
            redelivered: publish.dup,
            oversized: None,
        }),
        v5::Packet::PubAck(ack) => Incoming::Published(ack.pkid),
        v5::Packet::SubAck(ack) => Incoming::Subscribed {
            refused: ack
                .return_codes
                .iter()
                .filter(|code| !matches!(code, v5::SubscribeReasonCode::Success(_)))
                .count(),
        },
        v5::Packet::PingResp(_) => Incoming::Pong,
        v5::Packet::Disconnect(disconnect) => Incoming::Goodbye(format!("{:?}", disconnect.reason_code)),
        v5::Packet::Auth(_)
        | v5::Packet::Connect(..)
        | v5::Packet::PingReq(_)
        | v5::Packet::Subscribe(_)
        | v5::Packet::PubRec(_)
        | v5::Packet::PubRel(_)
        | v5::Packet::PubComp(_)
        | v5::Packet::Unsubscribe(_)
        | v5::Packet::UnsubAck(_) => Incoming::Other,
    }
}

fn from_v311(packet: v4::Packet) -> Incoming {
    match packet {
        v4::Packet::ConnAck(ack) if ack.code == v4::ConnectReturnCode::Success => Incoming::Connected {
            session_present: ack.session_present,
            receive_maximum: u16::MAX,
            max_packet_bytes: u32::MAX,
            keep_alive_s: None,
        },
        v4::Packet::ConnAck(ack) => Incoming::Refused {
            reason: format!("{:?}", ack.code),
            other_version: ack.code == v4::ConnectReturnCode::RefusedProtocolVersion,
        },
        v4::Packet::Publish(publish) => Incoming::Message(Message {
            topic: Bytes::from(publish.topic),
            payload: publish.payload,
            packet_id: (publish.qos != rumqttc::QoS::AtMostOnce).then_some(publish.pkid),
            redelivered: publish.dup,
            oversized: None,
        }),
        v4::Packet::PubAck(ack) => Incoming::Published(ack.pkid),
        v4::Packet::SubAck(ack) => Incoming::Subscribed {
            refused: ack
                .return_codes
                .iter()
                .filter(|code| !matches!(code, v4::SubscribeReasonCode::Success(_)))
                .count(),
        },
        v4::Packet::PingResp => Incoming::Pong,
        v4::Packet::Disconnect => Incoming::Goodbye("the broker says good-bye".into()),
        v4::Packet::Connect(_)
        | v4::Packet::PubRec(_)
        | v4::Packet::PubRel(_)
        | v4::Packet::PubComp(_)
        | v4::Packet::Subscribe(_)
        | v4::Packet::Unsubscribe(_)
        | v4::Packet::UnsubAck(_)
        | v4::Packet::PingReq => Incoming::Other,
    }
}

/// What the broker keeps of an agent that is connected; Home Assistant's words.
pub const ONLINE: &str = "online";
/// What it keeps of one that is not.
pub const OFFLINE: &str = "offline";

/// How the session introduces itself.
#[derive(Debug, Clone)]
pub struct Hello {
    /// The session's name.
    pub client_id: String,
    /// User and password.
    pub login: Option<(String, String)>,
    /// What the broker keeps of us, and says once we are gone.
    pub presence: Presence,
    /// Seconds between two signs of life.
    pub keep_alive_s: u16,
    /// Seconds that the broker keeps the session.
    pub session_expiry_s: u32,
    /// Messages that may come before an acknowledgement.
    pub receive_maximum: u16,
    /// Bytes of the largest packet.
    pub max_packet_bytes: u32,
}

/// What the broker keeps of whoever connects, and says once that one is gone without a good-bye.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Presence {
    /// Nothing: a guest.
    Guest,
    /// Its session, and at this topic whether it is there, in Home Assistant's words.
    Kept {
        /// The topic.
        availability: String,
    },
    /// No session; a last will, for those who listen just then.
    Mourned {
        /// The topic.
        topic: String,
        /// What is said.
        payload: Vec<u8>,
    },
}

impl Presence {
    /// Topic and content of the last will, and whether the broker keeps it.
    fn will(&self) -> Option<(&str, &[u8], bool)> {
        match self {
            Self::Guest => None,
            Self::Kept { availability } => Some((availability, OFFLINE.as_bytes(), true)),
            Self::Mourned { topic, payload } => Some((topic, payload, false)),
        }
    }

    fn has_session(&self) -> bool {
        matches!(self, Self::Kept { .. })
    }
}

/// Writes a connection request.
///
/// # Errors
/// If a name in it is too long for MQTT.
pub fn write_connect(version: Version, hello: &Hello, out: &mut BytesMut) -> Result<(), String> {
    let (will, clean) = (hello.presence.will(), !hello.presence.has_session());
    match version {
        Version::V5 => {
            let mut properties = v5::ConnectProperties::new();
            properties.session_expiry_interval = Some(hello.session_expiry_s);
            properties.receive_maximum = Some(hello.receive_maximum);
            properties.max_packet_size = Some(hello.max_packet_bytes);
            let connect = v5::Connect {
                keep_alive: hello.keep_alive_s,
                client_id: hello.client_id.clone(),
                clean_start: clean,
                properties: Some(properties),
            };
            let will =
                will.map(|(topic, payload, retain)| v5::LastWill::new(topic, payload, QoS::AtLeastOnce, retain, None));
            let login = hello.login.as_ref().map(|(user, password)| v5::Login::new(user, password));
            connect.write(&will, &login, out).map(drop).map_err(|error| error.to_string())
        }
        Version::V311 => {
            let mut connect = v4::Connect::new(&hello.client_id);
            connect.keep_alive = hello.keep_alive_s;
            connect.clean_session = clean;
            connect.last_will = will
                .map(|(topic, payload, retain)| v4::LastWill::new(topic, payload, rumqttc::QoS::AtLeastOnce, retain));
            if let Some((user, password)) = &hello.login {
                connect.set_login(user, password);
            }
            connect.write(out).map(drop).map_err(|error| error.to_string())
        }
    }
}

/// Writes a subscription at QoS 1.
///
/// # Errors
/// If a filter is too long for MQTT.
pub fn write_subscribe(version: Version, id: u16, filters: &[String], out: &mut BytesMut) -> Result<(), String> {
    match version {
        Version::V5 => {
            let filters = filters.iter().map(|filter| v5::Filter::new(filter, QoS::AtLeastOnce)).collect();
            let subscribe = v5::Subscribe { pkid: id, filters, properties: None };
            subscribe.write(out).map(drop).map_err(|error| error.to_string())
        }
        Version::V311 => {
            let filter = |filter: &String| v4::SubscribeFilter::new(filter.clone(), rumqttc::QoS::AtLeastOnce);
            let subscribe = v4::Subscribe { pkid: id, filters: filters.iter().map(filter).collect() };
            subscribe.write(out).map(drop).map_err(|error| error.to_string())
        }
    }
}

/// How surely a message of ours gets to the broker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Delivery {
    /// QoS 0: sent once, gone if the connection breaks just then.
    AtMostOnce,
    /// QoS 1: sent again until the broker has acknowledged it.
    AtLeastOnce,
}

/// Bytes of a publish beside its topic, properties and payload, at most.
const PUBLISH_OVERHEAD: usize = FIXED_HEADER_BYTES + 2 + 2;

/// The size of a publish on the wire, at most.
#[must_use]
pub fn publish_bytes(topic: &str, properties: &Properties, payload: &[u8]) -> usize {
    PUBLISH_OVERHEAD + topic.len() + properties.0.len() + payload.len()
}

/// What MQTT 5 says of a message beside its content, as it is written (section 3.3.2.3); 3.1.1 has no place for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Properties(Arc<[u8]>);

impl Default for Properties {
    fn default() -> Self {
        Self(Arc::from([0]))
    }
}

impl Properties {
    /// Of a JSON text that is of use for `expiry_s` seconds, with `more` names and values of our own. Beyond what fits into a
    /// packet's length of one or two bytes they are left out.
    #[must_use]
    pub fn of_json(expiry_s: Option<u32>, more: &[(&str, &str)]) -> Self {
        const UTF8: [u8; 2] = [0x01, 1];
        const EXPIRY: u8 = 0x02;
        const CONTENT_TYPE: u8 = 0x03;
        const USER_PROPERTY: u8 = 0x26;
        let mut all = UTF8.to_vec();
        if let Some(expiry_s) = expiry_s {
            all.push(EXPIRY);
            all.extend_from_slice(&expiry_s.to_be_bytes());
        }
        all.push(CONTENT_TYPE);
        push_text(&mut all, "application/json");
        for (name, value) in more {
            if all.len() + name.len() + value.len() + 5 <= MAX_PROPERTIES_BYTES {
                all.push(USER_PROPERTY);
                push_text(&mut all, name);
                push_text(&mut all, value);
            }
        }
        let mut written = Vec::with_capacity(all.len() + 2);
        if all.len() >= 0x80 {
            written.push(all.len() as u8 | 0x80);
            written.push((all.len() >> 7) as u8);
        } else {
            written.push(all.len() as u8);
        }
        written.extend_from_slice(&all);
        Self(Arc::from(written))
    }

    fn bytes(&self, version: Version) -> &[u8] {
        if version == Version::V5 { &self.0 } else { &[] }
    }
}

/// What a length of two bytes can say (MQTT 5, section 1.5.5).
const MAX_PROPERTIES_BYTES: usize = 0x3fff;

fn push_text(bytes: &mut Vec<u8>, text: &str) {
    bytes.extend_from_slice(&(text.len() as u16).to_be_bytes());
    bytes.extend_from_slice(text.as_bytes());
}

/// A message to the broker.
#[derive(Debug, Clone, Copy)]
pub struct Publish<'a> {
    /// What it is acknowledged by; without it, it is not: QoS 0.
    pub id: Option<u16>,
    /// Its topic, shorter than 65,536 bytes.
    pub topic: &'a str,
    /// Its content.
    pub payload: &'a [u8],
    /// What is said of it.
    pub properties: &'a Properties,
    /// Whether the broker keeps it.
    pub retain: bool,
    /// Whether it was sent before.
    pub again: bool,
}

/// Writes a message (MQTT 5 and 3.1.1, section 3.3).
pub fn write_publish(version: Version, publish: Publish<'_>, out: &mut BytesMut) {
    let Publish { id, topic, payload, properties, retain, again } = publish;
    let properties = properties.bytes(version);
    let flags = u8::from(again) << 3 | u8::from(id.is_some()) << 1 | u8::from(retain);
    out.extend_from_slice(&[PUBLISH << 4 | flags]);
    let id_bytes = id.map(u16::to_be_bytes);
    let id_bytes = id_bytes.as_ref().map_or(&[][..], |bytes| bytes);
    let mut length = 2 + topic.len() + id_bytes.len() + properties.len() + payload.len();
    while length >= 0x80 {
        out.extend_from_slice(&[length as u8 | 0x80]);
        length >>= 7;
    }
    out.extend_from_slice(&[length as u8]);
    out.extend_from_slice(&(topic.len() as u16).to_be_bytes());
    out.extend_from_slice(topic.as_bytes());
    out.extend_from_slice(id_bytes);
    out.extend_from_slice(properties);
    out.extend_from_slice(payload);
}

/// Writes an acknowledgement: of success, which both versions write alike.
pub fn write_puback(id: u16, out: &mut BytesMut) {
    let [high, low] = id.to_be_bytes();
    out.extend_from_slice(&[0x40, 2, high, low]);
}

/// Writes a ping.
pub fn write_ping(out: &mut BytesMut) {
    out.extend_from_slice(&[0xc0, 0]);
}

/// Writes a good-bye: a normal one, which both versions write alike.
pub fn write_disconnect(out: &mut BytesMut) {
    out.extend_from_slice(&[0xe0, 0]);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_of_a_message_is_read_back_by_another_codec() {
        let properties = Properties::of_json(Some(60), &[("model", "pump"), ("model_version", "7")]);
        let publish =
            Publish { id: None, topic: "a/b", payload: b"{}", properties: &properties, retain: false, again: false };
        let mut bytes = BytesMut::new();
        write_publish(Version::V5, publish, &mut bytes);
        let Ok(v5::Packet::Publish(read)) = v5::Packet::read(&mut bytes, Some(1000)) else { panic!("it is a publish") };
        assert_eq!((&read.topic[..], &read.payload[..]), (&b"a/b"[..], &b"{}"[..]));
        let found = read.properties.expect("properties");
        assert_eq!((found.payload_format_indicator, found.message_expiry_interval), (Some(1), Some(60)));
        assert_eq!(found.content_type.as_deref(), Some("application/json"));
        assert_eq!(found.user_properties[1], ("model_version".to_owned(), "7".to_owned()));
        let mut older = BytesMut::new();
        write_publish(Version::V311, publish, &mut older);
        assert!(older.ends_with(b"a/b{}"), "3.1.1 has no place for it");
        let long = "x".repeat(200);
        let many: Vec<(&str, &str)> = (0..100).map(|_| ("name", long.as_str())).collect();
        let properties = Properties::of_json(None, &many);
        let mut bytes = BytesMut::new();
        write_publish(Version::V5, Publish { properties: &properties, ..publish }, &mut bytes);
        assert!(v5::Packet::read(&mut bytes, Some(100_000)).is_ok(), "what does not fit is left out");
    }

    fn sent_by_a_broker(version: Version, id: u16, payload: &[u8]) -> BytesMut {
        let mut bytes = BytesMut::new();
        write_publish(
            version,
            Publish {
                id: Some(id),
                topic: "plant/a",
                payload,
                properties: &Properties::default(),
                retain: false,
                again: true,
            },
            &mut bytes,
        );
        bytes
    }

    #[test]
    fn messages_of_both_versions_are_read_however_they_are_cut() {
        for version in [Version::V5, Version::V311] {
            let whole = [sent_by_a_broker(version, 7, b"one"), sent_by_a_broker(version, 8, &[5; 300])].concat();
            for step in [1, 2, 5, 1_000] {
                let mut reader = Reader::default();
                let mut ids = Vec::new();
                for part in whole.chunks(step) {
                    reader.buffer.extend_from_slice(part);
                    while let Some(packet) = reader.next(version, 4_096).unwrap() {
                        let Incoming::Message(message) = packet else { panic!("{packet:?} is no message") };
                        assert!(message.redelivered && message.topic == "plant/a");
                        ids.push((message.packet_id, message.payload.len()));
                    }
                }
                assert_eq!(ids, [(Some(7), 3), (Some(8), 300)]);
            }
        }
    }

    #[test]
    fn a_message_too_large_is_named_and_passed_over_without_being_held() {
        for step in [1, 7, 10_000] {
            let whole =
                [sent_by_a_broker(Version::V5, 1, &[0; 5_000]), sent_by_a_broker(Version::V5, 2, b"next")].concat();
            let mut reader = Reader::default();
            let mut seen = Vec::new();
            for part in whole.chunks(step) {
                reader.buffer.extend_from_slice(part);
                while let Some(Incoming::Message(message)) = reader.next(Version::V5, 1_024).unwrap() {
                    seen.push((message.packet_id, message.topic, message.oversized.is_some()));
                }
                assert!(reader.buffer.len() < 1_024.max(step));
            }
            assert_eq!(seen, [(Some(1), "plant/a".into(), true), (Some(2), "plant/a".into(), false)]);
        }
    }

    #[test]
    fn a_broker_of_the_old_version_is_understood_and_nonsense_named() {
        let read = |bytes: &[u8]| Reader { buffer: bytes.into(), passing_over: 0 }.next(Version::V5, 1_024);
        let refused = Incoming::Refused { reason: "code 1".into(), other_version: true };
        assert_eq!(read(&[0x20, 2, 0, 1]), Ok(Some(refused)));
        assert_eq!(read(&[0x40, 0xff, 0xff, 0xff, 0xff]), Err(PacketError::Length));
        assert_eq!(read(&[0x90, 0xff, 0x7f]), Err(PacketError::TooLarge { kind: 9, bytes: 16_386, max: 1_024 }));
        assert!(matches!(read(&[0x40, 1, 0]), Err(PacketError::Malformed { kind: 4, .. })));
        assert_eq!(read(&[0xd0]), Ok(None));
        assert_eq!(read(&[0xd0, 0]), Ok(Some(Incoming::Pong)));
    }
}
