//! Messages that are one JSON value.

use shared::event::UnixMillis;

use super::extract::{Extractor, Found};
use super::fields::{self, Channels};
use super::rejection::Rejection;
use super::{Message, Row, hash, time};
use crate::config::input::{Input, Place, TimeSource};

/// One input's paths, resolved to slots of its extractor.
#[derive(Debug)]
pub(super) struct Json {
    extractor: Extractor,
    time: Option<(usize, TimeSource)>,
    known_normal: Option<usize>,
    id: Option<usize>,
    /// The slot of each channel.
    channels: Vec<usize>,
}

impl Json {
    pub(super) fn new(input: &Input) -> Self {
        let mut extractor = Extractor::default();
        let paths = input.features.iter().filter_map(|feature| match &feature.place {
            Place::Path(path) => Some(path),
            Place::Field(_) => None,
        });
        Self {
            time: input.time.as_ref().map(|time| (extractor.add(&time.path), time.clone())),
            known_normal: input.known_normal.as_ref().map(|path| extractor.add(path)),
            id: input.id.as_ref().map(|path| extractor.add(path)),
            channels: paths.map(|path| extractor.add(path)).collect(),
            extractor,
        }
    }

    /// What the message says. `bytes` is only room to work in.
    pub(super) fn read(
        &self,
        channels: &Channels,
        message: &Message<'_>,
        stream: &str,
        bytes: &mut Vec<u8>,
    ) -> Result<Row, Rejection> {
        let found = self.extractor.extract(message.payload).ok_or(Rejection::NotJson)?;
        Ok(Row {
            time_ms: self.time(&found, message.arrival_ms)?,
            values: self.values(&found, channels)?,
            known_normal: self.known_normal(&found)?,
            id: self.id(&found, stream, bytes)?,
            is_historical: false,
        })
    }

    fn time(&self, found: &[Found<'_>], arrival_ms: UnixMillis) -> Result<UnixMillis, Rejection> {
        let Some((slot, source)) = &self.time else { return Ok(arrival_ms) };
        match &found[*slot] {
            Found::Nothing if source.is_optional => Ok(arrival_ms),
            Found::Nothing => Err(Rejection::MissingTime),
            found @ (Found::Bool(_) | Found::Integer(_) | Found::Number(_) | Found::Text(_) | Found::Many) => {
                time::parse(found, source.unit, source.zone).ok_or(Rejection::BadTime)
            }
        }
    }

    fn values(&self, found: &[Found<'_>], channels: &Channels) -> Result<Vec<f64>, Rejection> {
        let features = channels.features().iter().zip(&self.channels);
        features.map(|(feature, slot)| fields::value(&found[*slot], feature)).collect()
    }

    fn known_normal(&self, found: &[Found<'_>]) -> Result<bool, Rejection> {
        match self.known_normal.map_or(&Found::Nothing, |slot| &found[slot]) {
            Found::Nothing => Ok(false),
            Found::Bool(mark) => Ok(*mark),
            Found::Integer(_) | Found::Number(_) | Found::Text(_) | Found::Many => Err(Rejection::BadMark),
        }
    }

    /// The hash of the producer's own id, if the input maps one.
    fn id(&self, found: &[Found<'_>], stream: &str, bytes: &mut Vec<u8>) -> Result<Option<u64>, Rejection> {
        let Some(slot) = self.id else { return Ok(None) };
        match &found[slot] {
            Found::Integer(id) => Ok(Some(hash(bytes, b'i', stream, &id.to_le_bytes()))),
            Found::Text(id) if !id.is_empty() => Ok(Some(hash(bytes, b't', stream, id.as_bytes()))),
            Found::Nothing | Found::Bool(_) | Found::Number(_) | Found::Text(_) | Found::Many => Err(Rejection::BadId),
        }
    }
}
