//! The bytes of a payload: protocol buffers, by the field numbers of the specification (3.0, section 6.4).

use bytes::Buf;
use prost::Message;
use prost::encoding::{DecodeContext, WireType, decode_key, skip_field};
use shared::event::UnixMillis;

use super::malformed;
use crate::ingest::payload::MAX_READINGS_PER_MESSAGE;
use crate::ingest::payload::extract::Found;
use crate::ingest::payload::rejection::Rejection;

/// The field that holds a metric.
const METRIC_FIELD: u32 = 2;
/// What the field `uuid` says of a body that is compressed.
const COMPRESSED: &str = "SPBV1.0_COMPRESSED";

/// A payload. Fields that say nothing of a reading are passed over.
#[derive(Clone, PartialEq, Message)]
pub(in crate::ingest) struct Payload {
    #[prost(uint64, optional, tag = "1")]
    timestamp: Option<u64>,
    #[prost(message, repeated, tag = "2")]
    pub(in crate::ingest) metrics: Vec<Metric>,
    #[prost(uint64, optional, tag = "3")]
    seq: Option<u64>,
    #[prost(string, optional, tag = "4")]
    uuid: Option<String>,
}

/// One metric. What is not given is empty or false.
#[derive(Clone, PartialEq, Message)]
pub(in crate::ingest) struct Metric {
    #[prost(string, optional, tag = "1")]
    name: Option<String>,
    #[prost(uint64, optional, tag = "2")]
    pub(super) alias: Option<u64>,
    #[prost(uint64, optional, tag = "3")]
    timestamp: Option<u64>,
    #[prost(uint32, optional, tag = "4")]
    datatype: Option<u32>,
    #[prost(bool, optional, tag = "5")]
    is_historical: Option<bool>,
    #[prost(bool, optional, tag = "7")]
    is_null: Option<bool>,
    #[prost(oneof = "Value", tags = "10, 11, 12, 13, 14, 15")]
    value: Option<Value>,
}

/// A metric's value.
#[derive(Clone, PartialEq, prost::Oneof)]
pub(in crate::ingest) enum Value {
    #[prost(uint32, tag = "10")]
    Int(u32),
    #[prost(uint64, tag = "11")]
    Long(u64),
    #[prost(float, tag = "12")]
    Float(f32),
    #[prost(double, tag = "13")]
    Double(f64),
    #[prost(bool, tag = "14")]
    Boolean(bool),
    #[prost(string, tag = "15")]
    Text(String),
}

/// What a metric's value is, as its birth said (specification 3.0, section 6.4.16).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum DataType {
    Int8,
    Int16,
    Int32,
    Int64,
    /// Unsigned, or a value that says itself what it is.
    Other,
}

impl Payload {
    /// # Errors
    /// If the bytes are none, or hold more metrics than are taken.
    pub(in crate::ingest) fn read(bytes: &[u8]) -> Result<Self, Rejection> {
        // An empty metric takes two bytes here and a hundred in memory, so they are counted first.
        let metrics = count(bytes).map_err(|error| malformed(error.to_string()))?;
        if metrics > MAX_READINGS_PER_MESSAGE {
            return Err(Rejection::TooManyReadings);
        }
        let payload = Self::decode(bytes).map_err(|error| malformed(error.to_string()))?;
        if payload.uuid.as_deref() == Some(COMPRESSED) {
            return Err(malformed("it is compressed; set the edge node up to send it as it is"));
        }
        Ok(payload)
    }

    /// The bytes of one; commands and deaths have no number.
    pub(in crate::ingest) fn write(seq: Option<u8>, now_ms: Option<UnixMillis>, metrics: Vec<Metric>) -> Vec<u8> {
        let timestamp = now_ms.and_then(|now_ms| u64::try_from(now_ms).ok());
        Self { timestamp, metrics, seq: seq.map(u64::from), uuid: None }.encode_to_vec()
    }

    /// The bytes of a command that sets one metric to true.
    pub(super) fn command(name: &str, now_ms: UnixMillis) -> Vec<u8> {
        let metric = Metric::said(name, &Value::Boolean(true), Some(now_ms)).in_birth();
        Self::write(None, Some(now_ms), vec![metric])
    }

    /// Its number among the messages of its edge node.
    pub(super) fn sequence(&self) -> Option<u8> {
        self.seq.and_then(|sequence| u8::try_from(sequence).ok())
    }

    pub(super) fn time_ms(&self) -> Option<UnixMillis> {
        self.timestamp.and_then(time_ms)
    }
}

impl Metric {
    /// A metric as data says it. A number that is none has no value.
    pub(in crate::ingest) fn said(name: &str, value: &Value, time_ms: Option<UnixMillis>) -> Self {
        let is_number = !matches!(value, Value::Float(number) if !number.is_finite());
        Self {
            name: Some(name.to_owned()),
            timestamp: time_ms.and_then(|time_ms| u64::try_from(time_ms).ok()),
            is_null: (!is_number).then_some(true),
            value: is_number.then(|| value.clone()),
            ..Self::default()
        }
    }

    /// The same as births and commands say it: with its data type.
    pub(in crate::ingest) fn in_birth(self) -> Self {
        let number = match self.value {
            Some(Value::Int(_)) => 7,
            // Of 64 bits, signed: so the number of a life is to be said (section 6.4.19).
            Some(Value::Long(_)) => 4,
            Some(Value::Float(_)) | None => 9,
            Some(Value::Double(_)) => 10,
            Some(Value::Boolean(_)) => 11,
            Some(Value::Text(_)) => 12,
        };
        Self { datatype: Some(number), ..self }
    }

    /// Whether a command sets it to true.
    pub(in crate::ingest) fn sets(&self, name: &str) -> bool {
        self.name() == name && self.value == Some(Value::Boolean(true))
    }

    pub(in crate::ingest) fn time_ms(&self) -> Option<UnixMillis> {
        self.timestamp.and_then(time_ms)
    }

    pub(super) fn data_type(&self) -> DataType {
        match self.datatype {
            Some(1) => DataType::Int8,
            Some(2) => DataType::Int16,
            Some(3) => DataType::Int32,
            Some(4) => DataType::Int64,
            Some(_) | None => DataType::Other,
        }
    }

    /// Its value as a number that counts something.
    pub(super) fn as_count(&self) -> Option<u64> {
        match self.value.as_ref()? {
            Value::Int(value) => Some(u64::from(*value)),
            Value::Long(value) => Some(*value),
            Value::Float(_) | Value::Double(_) | Value::Boolean(_) | Value::Text(_) => None,
        }
    }

    /// Its value. Signed numbers come in the two's complement of an unsigned one, of their own width or of 32 bits: the
    /// lowest bits are the same.
    pub(super) fn value(&self, data_type: DataType) -> Found<'static> {
        let Some(value) = self.value.as_ref().filter(|_| self.is_null != Some(true)) else { return Found::Nothing };
        match (value, data_type) {
            (Value::Int(value), DataType::Int8) => Found::Integer(i64::from(*value as u8 as i8)),
            (Value::Int(value), DataType::Int16) => Found::Integer(i64::from(*value as u16 as i16)),
            (Value::Int(value), DataType::Int32) => Found::Integer(i64::from(*value as i32)),
            (Value::Int(value), DataType::Int64 | DataType::Other) => Found::Integer(i64::from(*value)),
            (Value::Long(value), DataType::Int8 | DataType::Int16 | DataType::Int32 | DataType::Int64) => {
                Found::Integer(*value as i64)
            }
            (Value::Long(value), DataType::Other) => {
                i64::try_from(*value).map_or(Found::Number(*value as f64), Found::Integer)
            }
            (Value::Float(value), _) => finite(f64::from(*value)),
            (Value::Double(value), _) => finite(*value),
            (Value::Boolean(value), _) => Found::Bool(*value),
            (Value::Text(text), _) => Found::Text(text.clone().into()),
        }
    }
}

/// What is no number has no value: it says so in as many words.
fn finite(value: f64) -> Found<'static> {
    if value.is_finite() { Found::Number(value) } else { Found::Text(value.to_string().into()) }
}

fn time_ms(timestamp: u64) -> Option<UnixMillis> {
    /// 9999-12-31T23:59:59.999Z, the last time that can be told.
    const LATEST_MS: u64 = 253_402_300_799_999;
    (timestamp <= LATEST_MS).then_some(timestamp as UnixMillis)
}

fn count(mut bytes: &[u8]) -> Result<usize, prost::DecodeError> {
    let mut metrics = 0;
    while bytes.has_remaining() {
        let (field, wire_type) = decode_key(&mut bytes)?;
        metrics += usize::from(field == METRIC_FIELD && wire_type == WireType::LengthDelimited);
        skip_field(wire_type, field, &mut bytes, DecodeContext::default())?;
    }
    Ok(metrics)
}

#[cfg(test)]
pub(super) mod build {
    //! Payloads to try.

    use super::{Message, Metric, Payload, Value};

    /// A metric of a name, with a data type and a value as they are written.
    pub(in super::super) enum Given {
        Int(u32, u32),
        Double(f64),
    }

    pub(in super::super) fn metric(name: Option<&str>, alias: Option<u64>, given: &Given) -> Metric {
        let (datatype, value) = match given {
            Given::Int(datatype, value) => (*datatype, Value::Int(*value)),
            Given::Double(value) => (10, Value::Double(*value)),
        };
        let name = name.map(str::to_owned);
        Metric { name, alias, datatype: Some(datatype), value: Some(value), ..Metric::default() }
    }

    pub(in super::super) fn at(metric: Metric, timestamp: u64, is_historical: bool) -> Metric {
        Metric { timestamp: Some(timestamp), is_historical: Some(is_historical), ..metric }
    }

    pub(in super::super) fn payload(seq: Option<u64>, timestamp: u64, metrics: Vec<Metric>) -> Vec<u8> {
        Payload { timestamp: Some(timestamp), seq, metrics, uuid: None }.encode_to_vec()
    }
}
