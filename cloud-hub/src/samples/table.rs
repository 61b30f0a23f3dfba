//! The columns of a sample file.
//!
//! Readings: `time`, one column per channel in the stream's order, `known_normal`, `agent`, `epoch`, `sequence`.
//! Predictions: `time`; `score`, `threshold`, `anomaly`, or `label`, `confidence`, or `forecast` (channel after channel);
//! `model`, `version`, `of`, `agent`, `epoch`, `sequence`.
//! The file's metadata holds the stream's and the channels' true names, because a column may have to be called
//! something else.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use arrow_array::builder::{Float32Builder, ListBuilder};
use arrow_array::cast::AsArray;
use arrow_array::types::{Float64Type, TimestampMillisecondType, UInt64Type};
use arrow_array::{
    Array, ArrayRef, BooleanArray, Float32Array, Float64Array, RecordBatch, StringArray, TimestampMillisecondArray,
    UInt32Array, UInt64Array,
};
use arrow_schema::{Field, Schema};
use bytes::Bytes;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::arrow::{ArrowWriter, ProjectionMask};
use parquet::basic::{Compression, ZstdLevel};
use parquet::errors::ParquetError;
use parquet::file::metadata::{KeyValue, ParquetMetaData};
use parquet::file::properties::WriterProperties;
use shared::event::{Event, ModelRef, Outcome, Prediction, Reading, StreamSchema, UnixMillis};
use shared::ids::{AgentId, ChannelName, Epoch, IdError, Sequence, StreamId};
use shared::package::DataRange;

use super::layout::Day;
use super::{Committed, SamplesError};

const STREAM_METADATA: &str = "tideline.stream";
const CHANNELS_METADATA: &str = "tideline.channels";

/// Names that a channel's column cannot have: the fixed columns and the partitions.
const RESERVED: [&str; 7] = ["time", "known_normal", "agent", "epoch", "sequence", "stream", "day"];
const RESERVED_SUFFIX: &str = "_channel";

/// The events of a compaction, sorted into files.
pub(super) struct Groups<'a> {
    /// Per stream and day, a part for each list of channels, in order of first appearance.
    pub(super) readings: BTreeMap<(&'a StreamId, Day), Vec<Part<'a>>>,
    pub(super) predictions: BTreeMap<(&'a StreamId, Day), Vec<Predicted<'a>>>,
}

/// Readings with the same channels, in order of arrival.
pub(super) struct Part<'a> {
    channels: &'a [ChannelName],
    pub(super) rows: Vec<Measured<'a>>,
}

pub(super) struct Measured<'a> {
    origin: Origin<'a>,
    reading: &'a Reading,
}

pub(super) struct Predicted<'a> {
    origin: Origin<'a>,
    model: &'a ModelRef,
    prediction: &'a Prediction,
}

struct Origin<'a> {
    agent: &'a AgentId,
    epoch: Epoch,
    sequence: Sequence,
}

/// Sorts events into files.
pub(super) fn group(batches: &[Committed]) -> Result<Groups<'_>, SamplesError> {
    let mut groups = Groups { readings: BTreeMap::new(), predictions: BTreeMap::new() };
    for Committed { agent, batch } in batches {
        for (index, event) in batch.events.iter().enumerate() {
            let sequence = batch.first.plus(index as u64);
            let origin = Origin { agent, epoch: batch.epoch, sequence };
            let refused = |problem| SamplesError::Event { agent: agent.clone(), sequence, problem };
            match event {
                Event::Reading(reading) => {
                    let schema = batch.streams.get(usize::from(reading.stream));
                    let schema = schema.ok_or_else(|| refused("its stream is not listed in the batch"))?;
                    if schema.channels.len() != reading.values.len() {
                        return Err(refused("it has more or fewer values than its stream has channels"));
                    }
                    groups.add_reading(schema, Measured { origin, reading });
                }
                Event::Prediction(prediction) => {
                    let schema = batch.streams.get(usize::from(prediction.stream));
                    let schema = schema.ok_or_else(|| refused("its stream is not listed in the batch"))?;
                    let model = batch.models.get(usize::from(prediction.model));
                    let model = model.ok_or_else(|| refused("its model is not listed in the batch"))?;
                    let key = (&schema.stream, Day::of(prediction.time_ms));
                    groups.predictions.entry(key).or_default().push(Predicted { origin, model, prediction });
                }
                // It holds no values.
                Event::Shed(_) => {}
            }
        }
    }
    Ok(groups)
}

impl<'a> Groups<'a> {
    fn add_reading(&mut self, schema: &'a StreamSchema, row: Measured<'a>) {
        let parts = self.readings.entry((&schema.stream, Day::of(row.reading.time_ms))).or_default();
        match parts.iter_mut().find(|part| part.channels == schema.channels) {
            Some(part) => part.rows.push(row),
            None => parts.push(Part { channels: &schema.channels, rows: vec![row] }),
        }
    }
}

/// A file that is still to be encoded.
pub(super) struct Table {
    columns: Vec<(String, ArrayRef)>,
    metadata: Vec<KeyValue>,
}

/// The table of a part's readings.
pub(super) fn readings(stream: &StreamId, part: &Part<'_>) -> Table {
    let rows = &part.rows;
    let mut columns = vec![times(rows.iter().map(|row| row.reading.time_ms))];
    for (channel, name) in column_names(part.channels).into_iter().enumerate() {
        let values = rows.iter().map(|row| row.reading.values[channel]);
        columns.push((name, Arc::new(Float64Array::from_iter_values(values))));
    }
    let known_normal: BooleanArray = rows.iter().map(|row| Some(row.reading.known_normal)).collect();
    columns.push(column("known_normal", known_normal));
    columns.extend(origins(rows.iter().map(|row| &row.origin)));
    let names: Vec<&str> = part.channels.iter().map(ChannelName::as_str).collect();
    let names = serde_json::Value::from(names).to_string();
    Table { columns, metadata: vec![metadata(STREAM_METADATA, stream.as_str()), metadata(CHANNELS_METADATA, &names)] }
}

/// The table of predictions.
pub(super) fn predictions(stream: &StreamId, rows: &[Predicted<'_>]) -> Table {
    let said = || rows.iter().map(|row| row.prediction);
    let verdict = |prediction: &Prediction| match prediction.outcome {
        Outcome::Anomaly(verdict) => Some(verdict),
        Outcome::Label { .. } | Outcome::Forecast { .. } => None,
    };
    let label = |prediction: &'_ Prediction| match &prediction.outcome {
        Outcome::Label { label, confidence, .. } => Some((label.clone(), *confidence)),
        Outcome::Anomaly(_) | Outcome::Forecast { .. } => None,
    };
    let anomaly: BooleanArray = said().map(|prediction| verdict(prediction).map(|verdict| verdict.anomaly)).collect();
    let confidence: Float32Array =
        said().map(|prediction| label(prediction).map(|(_, confidence)| confidence)).collect();
    let mut forecast = ListBuilder::new(Float32Builder::new());
    for prediction in said() {
        match &prediction.outcome {
            Outcome::Forecast { values } => forecast.append_value(values.iter().map(|value| Some(*value))),
            Outcome::Anomaly(_) | Outcome::Label { .. } => forecast.append_null(),
        }
    }
    let mut columns = vec![
        times(said().map(|prediction| prediction.time_ms)),
        column("score", said().map(|row| verdict(row).map(|verdict| verdict.score)).collect::<Float32Array>()),
        column("threshold", said().map(|row| verdict(row).map(|verdict| verdict.threshold)).collect::<Float32Array>()),
        column("anomaly", anomaly),
        column("label", said().map(|row| label(row).map(|(label, _)| label)).collect::<StringArray>()),
        column("confidence", confidence),
        column("forecast", forecast.finish()),
        column("model", StringArray::from_iter_values(rows.iter().map(|row| row.model.name.as_str()))),
        column("version", UInt32Array::from_iter_values(rows.iter().map(|row| row.model.version.0))),
        column("of", UInt64Array::from_iter_values(said().map(|prediction| prediction.of.0))),
    ];
    columns.extend(origins(rows.iter().map(|row| &row.origin)));
    Table { columns, metadata: vec![metadata(STREAM_METADATA, stream.as_str())] }
}

impl Table {
    /// The Parquet file.
    pub(super) fn encode(self) -> Result<Vec<u8>, ParquetError> {
        // Nullable although no value is ever missing: a reader that joins files of different channels fills the rest.
        let field = |(name, array): &(String, ArrayRef)| Field::new(name, array.data_type().clone(), true);
        let schema = Arc::new(Schema::new(self.columns.iter().map(field).collect::<Vec<_>>()));
        let arrays = self.columns.into_iter().map(|(_, array)| array).collect();
        let batch = RecordBatch::try_new(Arc::clone(&schema), arrays)?;
        let properties = WriterProperties::builder()
            .set_compression(Compression::ZSTD(ZstdLevel::default()))
            .set_key_value_metadata(Some(self.metadata))
            .build();
        let mut writer = ArrowWriter::try_new(Vec::new(), schema, Some(properties))?;
        writer.write(&batch)?;
        writer.into_inner()
    }
}

fn column(name: &str, array: impl Array + 'static) -> (String, ArrayRef) {
    (name.to_owned(), Arc::new(array))
}

fn times(times: impl Iterator<Item = UnixMillis>) -> (String, ArrayRef) {
    column("time", TimestampMillisecondArray::from_iter_values(times).with_timezone("UTC"))
}

fn origins<'a>(origins: impl Iterator<Item = &'a Origin<'a>> + Clone) -> [(String, ArrayRef); 3] {
    [
        column("agent", StringArray::from_iter_values(origins.clone().map(|origin| origin.agent.as_str()))),
        column("epoch", UInt64Array::from_iter_values(origins.clone().map(|origin| origin.epoch.0))),
        column("sequence", UInt64Array::from_iter_values(origins.map(|origin| origin.sequence.0))),
    ]
}

fn metadata(key: &str, value: &str) -> KeyValue {
    KeyValue::new(key.to_owned(), value.to_owned())
}

/// A column's name for each channel: its own, unless that is reserved or taken.
fn column_names(channels: &[ChannelName]) -> Vec<String> {
    let mut taken: BTreeSet<String> = RESERVED.map(str::to_owned).into();
    let mut free_name = |channel: &ChannelName| {
        let mut name = channel.as_str().to_owned();
        while !taken.insert(name.clone()) {
            name.push_str(RESERVED_SUFFIX);
        }
        name
    };
    channels.iter().map(&mut free_name).collect()
}

/// The readings of one agent that one file holds.
pub(super) struct Samples {
    pub(super) channels: Vec<ChannelName>,
    pub(super) rows: Vec<Row>,
    /// Row by row.
    pub(super) values: Vec<f64>,
}

/// A reading without its values.
pub(super) struct Row {
    /// Epoch and sequence.
    pub(super) place: (u64, u64),
    pub(super) time_ms: UnixMillis,
    pub(super) known_normal: bool,
}

/// Takes the readings of the range's agent and time out of a file.
pub(super) fn decode(file: Bytes, range: &DataRange) -> Result<Samples, ParquetError> {
    let reader = ParquetRecordBatchReaderBuilder::try_new(file)?;
    let channels = channels(reader.metadata())?;
    let mut samples = Samples { channels, rows: Vec::new(), values: Vec::new() };
    for batch in reader.build()? {
        samples.take(&batch?, range)?;
    }
    Ok(samples)
}

impl Samples {
    fn take(&mut self, batch: &RecordBatch, range: &DataRange) -> Result<(), ParquetError> {
        let width = self.channels.len();
        let (head, tail) = batch.columns().split_at_checked(1 + width).ok_or_else(foreign)?;
        let ([time, channels @ ..], [known_normal, agent, epoch, sequence]) = (head, tail) else {
            return Err(foreign());
        };
        let time = time.as_primitive_opt::<TimestampMillisecondType>().ok_or_else(foreign)?;
        let channels: Option<Vec<_>> = channels.iter().map(|array| array.as_primitive_opt::<Float64Type>()).collect();
        let channels = channels.ok_or_else(foreign)?;
        let known_normal = known_normal.as_boolean_opt().ok_or_else(foreign)?;
        let agent = agent.as_string_opt::<i32>().ok_or_else(foreign)?;
        let epoch = epoch.as_primitive_opt::<UInt64Type>().ok_or_else(foreign)?;
        let sequence = sequence.as_primitive_opt::<UInt64Type>().ok_or_else(foreign)?;
        for row in 0..batch.num_rows() {
            let time_ms = time.value(row);
            if agent.value(row) == range.agent.as_str() && (range.from_ms..=range.to_ms).contains(&time_ms) {
                let place = (epoch.value(row), sequence.value(row));
                self.rows.push(Row { place, time_ms, known_normal: known_normal.value(row) });
                self.values.extend(channels.iter().map(|channel| channel.value(row)));
            }
        }
        Ok(())
    }
}

/// What a file holds of each agent.
pub(super) fn ranges(file: Bytes) -> Result<Vec<DataRange>, ParquetError> {
    let reader = ParquetRecordBatchReaderBuilder::try_new(file)?;
    let invalid = |error: IdError| ParquetError::General(error.to_string());
    let stream = StreamId::new(entry(reader.metadata(), STREAM_METADATA)?).map_err(invalid)?;
    let agent_column = channels(reader.metadata())?.len() + 2;
    let mask = ProjectionMask::leaves(reader.parquet_schema(), [0, agent_column]);
    let mut found: BTreeMap<String, DataRange> = BTreeMap::new();
    for batch in reader.with_projection(mask).build()? {
        let batch = batch?;
        let [time, agent] = batch.columns() else { return Err(foreign()) };
        let time = time.as_primitive_opt::<TimestampMillisecondType>().ok_or_else(foreign)?;
        let agent = agent.as_string_opt::<i32>().ok_or_else(foreign)?;
        for (name, time_ms) in (0..batch.num_rows()).map(|row| (agent.value(row), time.value(row))) {
            if let Some(range) = found.get_mut(name) {
                range.from_ms = range.from_ms.min(time_ms);
                range.to_ms = range.to_ms.max(time_ms);
                range.rows += 1;
            } else {
                let agent = AgentId::new(name).map_err(invalid)?;
                let range = DataRange { agent, stream: stream.clone(), from_ms: time_ms, to_ms: time_ms, rows: 1 };
                found.insert(name.to_owned(), range);
            }
        }
    }
    Ok(found.into_values().collect())
}

fn channels(file: &ParquetMetaData) -> Result<Vec<ChannelName>, ParquetError> {
    serde_json::from_str(entry(file, CHANNELS_METADATA)?)
        .map_err(|error| ParquetError::General(format!("its {CHANNELS_METADATA:?} is malformed: {error}")))
}

fn entry<'f>(file: &'f ParquetMetaData, key: &str) -> Result<&'f str, ParquetError> {
    let entries = file.file_metadata().key_value_metadata().map_or(&[][..], Vec::as_slice);
    let value = entries.iter().find(|entry| entry.key == key).and_then(|entry| entry.value.as_deref());
    value.ok_or_else(|| ParquetError::General(format!("its metadata has no {key:?}")))
}

fn foreign() -> ParquetError {
    ParquetError::General("its columns are not those of a sample file".to_owned())
}
