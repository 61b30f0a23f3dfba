//! Readings over some time, cut into parts of the same length, and what was said of them: for plots.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use arrow_array::Array;
use arrow_array::cast::AsArray;
use arrow_array::types::{Float32Type, TimestampMillisecondType, UInt32Type};
use bytes::Bytes;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::errors::ParquetError;
use parquet::file::statistics::Statistics;
use shared::event::UnixMillis;
use shared::ids::{AgentId, ChannelName, StreamId};
use shared::package::DataRange;

use super::layout::{self, Day, Kind};
use super::{SampleStore, SamplesError, table};

/// Files whose times are remembered: a month of a file every five seconds.
const MAX_REMEMBERED_FILES: usize = 500_000;

/// The least, greatest and mean value of a channel in a part.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Spread {
    /// The least.
    pub min: f64,
    /// The greatest.
    pub max: f64,
    /// Their sum.
    pub sum: f64,
    /// How many there are that are numbers.
    pub count: u64,
}

impl Spread {
    const NONE: Self = Self { min: f64::INFINITY, max: f64::NEG_INFINITY, sum: 0.0, count: 0 };

    fn add(&mut self, value: f64) {
        if value.is_finite() {
            self.min = self.min.min(value);
            self.max = self.max.max(value);
            self.sum += value;
            self.count += 1;
        }
    }
}

/// What lies in a part.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Part {
    /// Readings.
    pub readings: u64,
    /// Those that an operator vouched for.
    pub known_normal: u64,
    /// The values, by channel.
    pub channels: Vec<Spread>,
    /// The greatest score, and its threshold.
    pub score: Option<(f32, f32)>,
    /// Predictions that were anomalous.
    pub anomalous: u64,
    /// The newest label.
    pub label: Option<String>,
    /// The version that said the newest.
    pub version: Option<u32>,
}

/// Readings over some time.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Windowed {
    /// The newest channels.
    pub channels: Vec<ChannelName>,
    /// Whether there were others: then readings of those are counted, and their values are left out.
    pub channels_changed: bool,
    /// How long a part is.
    pub part_ms: i64,
    /// Parts in which there is something, by their first millisecond.
    pub parts: BTreeMap<UnixMillis, Part>,
}

/// When the readings in a file were measured, by its name. Files do not change.
#[derive(Debug, Clone, Default)]
pub(super) struct Spans(Arc<Mutex<BTreeMap<String, Option<Span>>>>);

/// The first and last time in a file.
type Span = (UnixMillis, UnixMillis);

impl SampleStore {
    /// The readings of a stream from the first to the last of these milliseconds, in at most `parts` parts.
    ///
    /// # Errors
    /// If a file cannot be read.
    pub async fn window(&self, range: &DataRange, parts: u32) -> Result<Windowed, SamplesError> {
        let length = range.to_ms.saturating_sub(range.from_ms).saturating_add(1);
        let part_ms = (length / i64::from(parts) + i64::from(length % i64::from(parts) != 0)).max(1);
        let mut window = Windowed { part_ms, ..Windowed::default() };
        for file in self.files_of(Kind::Samples, &range.stream, range).await? {
            let wanted = range.clone();
            let samples = self.decode(&file, move |bytes| table::decode(bytes, &wanted)).await?;
            window.add_readings(range, &samples);
        }
        for file in self.files_of(Kind::Predictions, &range.stream, range).await? {
            let (agent, from_ms, to_ms) = (range.agent.clone(), range.from_ms, range.to_ms);
            let said = self.decode(&file, move |bytes| verdicts(bytes, &agent, from_ms..=to_ms)).await?;
            said.iter().for_each(|said| window.add_said(range, said));
        }
        Ok(window)
    }

    /// How many readings of a stream lie between these milliseconds, and the first position of the ingest log of the file
    /// that holds the first of them.
    ///
    /// # Errors
    /// If a file cannot be read.
    pub async fn extent(&self, range: &DataRange) -> Result<(u64, Option<u64>), SamplesError> {
        let (mut rows, mut position) = (0, None);
        for file in self.files_of(Kind::Samples, &range.stream, range).await? {
            let wanted = range.clone();
            let samples = self.decode(&file, move |bytes| table::decode(bytes, &wanted)).await?;
            rows += samples.rows.len() as u64;
            if !samples.rows.is_empty() && position.is_none() {
                position = layout::first_position(&file);
            }
        }
        Ok((rows, position))
    }

    /// The files that can hold something of the time of a range, in order.
    async fn files_of(
        &self,
        kind: Kind,
        stream: &StreamId,
        range: &DataRange,
    ) -> Result<Vec<object_store::path::Path>, SamplesError> {
        let touched = Day::of(range.from_ms)..=Day::of(range.to_ms);
        let mut found = Vec::new();
        for (day, folder) in self.days(&layout::stream_folder(kind, stream)).await? {
            if !touched.contains(&day) {
                continue;
            }
            for file in self.files(&folder).await? {
                let span = self.span(&file).await?;
                if span.is_none_or(|(first, last)| first <= range.to_ms && range.from_ms <= last) {
                    found.push(file);
                }
            }
        }
        Ok(found)
    }

    /// When what is in a file was measured; nothing if it does not say.
    async fn span(&self, file: &object_store::path::Path) -> Result<Option<Span>, SamplesError> {
        let known = self.spans.0.lock().unwrap_or_else(PoisonError::into_inner).get(file.as_ref()).copied();
        if let Some(span) = known {
            return Ok(span);
        }
        let span = self.decode(file, span_of).await?;
        let mut spans = self.spans.0.lock().unwrap_or_else(PoisonError::into_inner);
        if spans.len() >= MAX_REMEMBERED_FILES {
            spans.pop_first();
        }
        spans.insert(file.to_string(), span);
        Ok(span)
    }
}

impl Windowed {
    fn part(&mut self, range: &DataRange, time_ms: UnixMillis) -> &mut Part {
        let since = time_ms.saturating_sub(range.from_ms);
        let begins = range.from_ms.saturating_add(since - since % self.part_ms);
        self.parts.entry(begins).or_default()
    }

    fn add_readings(&mut self, range: &DataRange, samples: &table::Samples) {
        if samples.rows.is_empty() {
            return;
        }
        if self.channels != samples.channels {
            self.channels_changed |= !self.channels.is_empty();
            self.channels.clone_from(&samples.channels);
            self.parts.values_mut().for_each(|part| part.channels.clear());
        }
        let width = samples.channels.len();
        for (row, values) in samples.rows.iter().zip(samples.values.chunks(width.max(1))) {
            let part = self.part(range, row.time_ms);
            part.readings += 1;
            part.known_normal += u64::from(row.known_normal);
            part.channels.resize(width, Spread::NONE);
            part.channels.iter_mut().zip(values).for_each(|(spread, value)| spread.add(*value));
        }
    }

    fn add_said(&mut self, range: &DataRange, said: &Verdict) {
        let part = self.part(range, said.time_ms);
        part.anomalous += u64::from(said.anomaly);
        part.version = Some(said.version);
        if let Some((score, threshold)) = said.score
            && part.score.is_none_or(|(greatest, _)| score > greatest)
        {
            part.score = Some((score, threshold));
        }
        if said.label.is_some() {
            part.label.clone_from(&said.label);
        }
    }
}

/// What was said of a reading.
struct Verdict {
    time_ms: UnixMillis,
    score: Option<(f32, f32)>,
    anomaly: bool,
    label: Option<String>,
    version: u32,
}

/// Takes what was said of an agent's readings out of a file.
fn verdicts(
    file: Bytes,
    agent: &AgentId,
    times: std::ops::RangeInclusive<UnixMillis>,
) -> Result<Vec<Verdict>, ParquetError> {
    let foreign = || ParquetError::General("its columns are not those of a file of predictions".to_owned());
    let mut found = Vec::new();
    for batch in ParquetRecordBatchReaderBuilder::try_new(file)?.build()? {
        let batch = batch?;
        let column = |name: &str| batch.column_by_name(name).ok_or_else(foreign);
        let time = column("time")?.as_primitive_opt::<TimestampMillisecondType>().ok_or_else(foreign)?;
        let score = column("score")?.as_primitive_opt::<Float32Type>().ok_or_else(foreign)?;
        let threshold = column("threshold")?.as_primitive_opt::<Float32Type>().ok_or_else(foreign)?;
        let anomaly = column("anomaly")?.as_boolean_opt().ok_or_else(foreign)?;
        let label = column("label")?.as_string_opt::<i32>().ok_or_else(foreign)?;
        let version = column("version")?.as_primitive_opt::<UInt32Type>().ok_or_else(foreign)?;
        let agents = column("agent")?.as_string_opt::<i32>().ok_or_else(foreign)?;
        let is_wanted = |row: &usize| agents.value(*row) == agent.as_str() && times.contains(&time.value(*row));
        found.extend((0..batch.num_rows()).filter(is_wanted).map(|row| Verdict {
            time_ms: time.value(row),
            score:
                (score.is_valid(row) && score.value(row).is_finite()).then(|| (score.value(row), threshold.value(row))),
            anomaly: anomaly.is_valid(row) && anomaly.value(row),
            label: label.is_valid(row).then(|| label.value(row).to_owned()),
            version: version.value(row),
        }));
    }
    Ok(found)
}

/// The first and last time in a file, as its statistics say.
fn span_of(file: Bytes) -> Result<Option<Span>, ParquetError> {
    let reader = ParquetRecordBatchReaderBuilder::try_new(file)?;
    let mut span: Option<Span> = None;
    for group in reader.metadata().row_groups() {
        let statistics = group.columns().first().and_then(|column| column.statistics());
        let Some(Statistics::Int64(times)) = statistics else { return Ok(None) };
        let (Some(first), Some(last)) = (times.min_opt(), times.max_opt()) else { return Ok(None) };
        span = Some(span.map_or((*first, *last), |(a, b)| (a.min(*first), b.max(*last))));
    }
    Ok(span)
}
