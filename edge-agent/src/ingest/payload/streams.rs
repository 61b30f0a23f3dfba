//! What is known of each stream: its channels, and the values that came before all of a reading had.

use std::collections::BTreeMap;
use std::sync::Arc;

use shared::event::StreamSchema;
use shared::ids::StreamId;

use super::rejection::Rejection;
use super::{Held, MAX_STREAMS, Row};
use crate::config::input::{Feature, Missing};

/// The streams of one input, by name.
#[derive(Debug, Default)]
pub(super) struct Streams(BTreeMap<String, Stream>);

#[derive(Debug)]
struct Stream {
    schema: Arc<StreamSchema>,
    /// One value per channel, `NaN` where there is none; empty where nothing is kept.
    kept: Vec<f64>,
}

/// What a row is with what was known before.
pub(super) enum Settled {
    /// A reading.
    Whole(Arc<StreamSchema>),
    /// Nothing yet.
    Held(Held),
}

impl Streams {
    /// Fills in what `row` lacks, by the rule `missing`. `opened` counts the streams of all inputs.
    pub(super) fn settle(
        &mut self,
        name: &str,
        opened: &mut usize,
        features: &[Feature],
        missing: Missing,
        row: &mut Row,
    ) -> Result<Settled, Rejection> {
        let lacks = |values: &[f64]| {
            let lacking = values.iter().position(|value| value.is_nan()).and_then(|index| features.get(index));
            lacking.map(|feature| feature.name.clone())
        };
        let lacking = lacks(&row.values);
        if missing == Missing::Refuse || row.is_historical {
            return match lacking {
                Some(channel) if missing == Missing::Refuse => Err(Rejection::MissingChannel(channel)),
                Some(channel) => Ok(Settled::Held(Held::Waits(channel))),
                None => Ok(Settled::Whole(Arc::clone(&self.open(name, opened, features)?.schema))),
            };
        }
        if row.values.iter().all(|value| value.is_nan()) {
            return Ok(Settled::Held(Held::NoChannel));
        }
        let stream = self.open(name, opened, features)?;
        stream.kept.resize(features.len(), f64::NAN);
        for (kept, value) in stream.kept.iter_mut().zip(&row.values).filter(|(_, value)| !value.is_nan()) {
            *kept = *value;
        }
        if let Some(channel) = lacks(&stream.kept) {
            return Ok(Settled::Held(Held::Waits(channel)));
        }
        row.values.clone_from(&stream.kept);
        if missing == Missing::Wait {
            stream.kept.fill(f64::NAN);
        }
        Ok(Settled::Whole(Arc::clone(&stream.schema)))
    }

    /// What the stream's values were is true no longer.
    pub(super) fn forget(&mut self, name: &str) {
        if let Some(stream) = self.0.get_mut(name) {
            stream.kept.fill(f64::NAN);
        }
    }

    fn open(&mut self, name: &str, opened: &mut usize, features: &[Feature]) -> Result<&mut Stream, Rejection> {
        if !self.0.contains_key(name) {
            let stream = StreamId::new(name).map_err(|_| Rejection::BadStreamName)?;
            if *opened == MAX_STREAMS {
                return Err(Rejection::TooManyStreams);
            }
            *opened += 1;
            let channels = features.iter().map(|feature| feature.name.clone()).collect();
            let schema = Arc::new(StreamSchema { stream, channels });
            self.0.insert(name.to_owned(), Stream { schema, kept: Vec::new() });
        }
        self.0.get_mut(name).ok_or(Rejection::TooManyStreams)
    }
}
