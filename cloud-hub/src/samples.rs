//! The sample history: every reading and prediction as Parquet, in folders that pandas and DuckDB open as they are.
//!
//! ```text
//! samples/stream=plant%2Fpump1/day=2026-11-23/<from>-<to>.parquet        readings
//! predictions/stream=plant%2Fpump1/day=2026-11-23/<from>-<to>.parquet    predictions
//! ```
//!
//! `from` and `to` are the positions in the ingest log that one compaction covers. Files are written whole and under
//! names that follow from the content alone, so writing the same range again replaces the same files by the same bytes.

mod layout;
mod table;
pub mod window;
mod writer;

use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use object_store::local::LocalFileSystem;
use object_store::{ObjectStore, ObjectStoreExt};
use parquet::errors::ParquetError;
use shared::event::{EventBatch, StreamSchema, UnixMillis};
use shared::ids::{AgentId, ChannelName, Sequence, StreamId};
use shared::package::DataRange;

use layout::{Day, Kind};
use table::{Row, Samples};
use writer::Writer;

/// Values of one [`Series`]: 512 MiB, which the training of a small model has to share a machine with.
pub const MAX_SERIES_VALUES: usize = 64 * 1024 * 1024;

/// The sample history in one folder. Clones are cheap and mean the same folder.
#[derive(Debug, Clone)]
pub struct SampleStore {
    disk: LocalFileSystem,
    root: Arc<Path>,
    spans: window::Spans,
}

/// One batch that lies in the ingest log.
#[derive(Debug, Clone, PartialEq)]
pub struct Committed {
    /// Who sent it, by its certificate.
    pub agent: AgentId,
    /// What it sent, as [`EventBatch::decode`] let it through.
    pub batch: EventBatch,
}

/// What one compaction wrote.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct WriteReport {
    /// Files.
    pub files: u64,
    /// Readings in them.
    pub readings: u64,
    /// Predictions in them.
    pub predictions: u64,
}

/// The readings of one agent and stream, ordered by (epoch, sequence).
#[derive(Debug, Clone, PartialEq)]
pub struct Series {
    /// The stream and its channels.
    pub schema: StreamSchema,
    /// When each reading was measured.
    pub times_ms: Vec<UnixMillis>,
    /// The values, row by row: as many per reading as the schema has channels. May hold NaN.
    pub values: Vec<f64>,
    /// Whether an operator vouches that the machine ran normally, per reading.
    pub known_normal: Vec<bool>,
}

/// Why the sample history cannot be written or read.
#[derive(Debug, thiserror::Error)]
pub enum SamplesError {
    /// The file system refused something.
    #[error("{action} {path}: {source}", path = path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// What the file system said.
        source: io::Error,
    },
    /// The object store refused something.
    #[error("{action} {path}: {source}")]
    Store {
        /// What was tried.
        action: &'static str,
        /// The file or folder, below the store's root.
        path: String,
        /// What the object store said.
        source: object_store::Error,
    },
    /// A file cannot be made, or is not one this program made.
    #[error("{action} {path}: {source}")]
    Parquet {
        /// What was tried.
        action: &'static str,
        /// The file, below the store's root.
        path: String,
        /// What is wrong.
        source: ParquetError,
    },
    /// A batch contradicts itself, so it never went through [`EventBatch::decode`].
    #[error("write the event at sequence {sequence} of agent {agent}: {problem}")]
    Event {
        /// Who sent it.
        agent: AgentId,
        /// Which event.
        sequence: Sequence,
        /// What contradicts what.
        problem: &'static str,
    },
    /// The stream's channels changed within the range.
    #[error(
        "read stream {stream} of agent {agent}: its channels change from {before:?} to {after:?} in {file}; choose a \
         range on one side of the change"
    )]
    Schema {
        /// The agent.
        agent: AgentId,
        /// The stream.
        stream: StreamId,
        /// The channels of the readings up to there.
        before: Vec<ChannelName>,
        /// The channels of the readings from there on.
        after: Vec<ChannelName>,
        /// Where the change was found.
        file: String,
    },
    /// There is no reading in the range.
    #[error(
        "read stream {stream} of agent {agent}: it has no reading from {from_ms} to {to_ms} (milliseconds since 1970)"
    )]
    NoReading {
        /// The agent.
        agent: AgentId,
        /// The stream.
        stream: StreamId,
        /// The range's start.
        from_ms: UnixMillis,
        /// The range's end.
        to_ms: UnixMillis,
    },
    /// The range holds more than may be in memory at once.
    #[error(
        "read stream {stream} of agent {agent}: the range holds more than {MAX_SERIES_VALUES} values; choose a shorter \
         one"
    )]
    TooLarge {
        /// The agent.
        agent: AgentId,
        /// The stream.
        stream: StreamId,
    },
    /// A worker thread was lost: the runtime is shutting down.
    #[error("finish work on sample files: {0}")]
    Worker(#[from] tokio::task::JoinError),
}

impl SampleStore {
    /// Opens the folder `root`, making it, durably, where it is not there.
    ///
    /// # Errors
    /// If it cannot be made or is not a folder.
    pub fn open(root: &Path) -> Result<Self, SamplesError> {
        writer::make_folder(root).map_err(|source| SamplesError::Io {
            action: "make the sample folder",
            path: root.to_owned(),
            source,
        })?;
        let disk = LocalFileSystem::new_with_prefix(root).map_err(|source| SamplesError::Store {
            action: "open the sample folder",
            path: root.display().to_string(),
            source,
        })?;
        // object_store's own fsync covers the file, its folder and every folder it had to make.
        Ok(Self { disk: disk.with_fsync(true), root: Arc::from(root), spans: window::Spans::default() })
    }

    /// Writes the events that lie at the positions `range` of the ingest log, in order of arrival. They are durable
    /// when this returns. The same range must always come with the same batches: it then replaces what an earlier,
    /// perhaps unfinished, write of it left.
    ///
    /// # Errors
    /// If a file cannot be written. Some files of the range may be there then; a repeated write completes them.
    pub async fn write(&self, range: Range<u64>, batches: &[Committed]) -> Result<WriteReport, SamplesError> {
        let groups = table::group(batches)?;
        let mut report = WriteReport::default();
        let mut writer = Writer::new(self, range);
        for ((stream, day), parts) in &groups.readings {
            for (index, part) in parts.iter().enumerate() {
                report.readings += part.rows.len() as u64;
                let number = (parts.len() > 1).then_some(index + 1);
                writer.add(Kind::Samples, stream, *day, number, table::readings(stream, part)).await?;
            }
        }
        for ((stream, day), rows) in &groups.predictions {
            report.predictions += rows.len() as u64;
            writer.add(Kind::Predictions, stream, *day, None, table::predictions(stream, rows)).await?;
        }
        report.files = writer.finish().await?;
        Ok(report)
    }

    /// The readings of the range's agent and stream with a time from its first to its last millisecond. The range's
    /// number of rows is not looked at.
    ///
    /// # Errors
    /// If there is none, if the stream's channels differ among them, if they are more than [`MAX_SERIES_VALUES`]
    /// values, or if a file cannot be read.
    pub async fn read(&self, range: &DataRange) -> Result<Series, SamplesError> {
        let mut collected = Collected::default();
        let touched = Day::of(range.from_ms)..=Day::of(range.to_ms);
        for (day, folder) in self.days(&layout::stream_folder(Kind::Samples, &range.stream)).await? {
            if touched.contains(&day) {
                for file in self.files(&folder).await? {
                    let wanted = range.clone();
                    let samples = self.decode(&file, move |bytes| table::decode(bytes, &wanted)).await?;
                    collected.add(range, &file, samples)?;
                }
            }
        }
        collected.into_series(range)
    }

    /// What there is to read: for each stream and agent, from its earliest to its latest reading and how many, by
    /// stream and agent. It looks into every file.
    ///
    /// # Errors
    /// If a file cannot be read.
    pub async fn streams(&self) -> Result<Vec<DataRange>, SamplesError> {
        let mut found: BTreeMap<(StreamId, AgentId), DataRange> = BTreeMap::new();
        for stream in self.list(Kind::Samples.folder()).await?.common_prefixes {
            for (_, day) in self.days(stream.as_ref()).await? {
                for file in self.files(&day).await? {
                    for range in self.decode(&file, table::ranges).await? {
                        let key = (range.stream.clone(), range.agent.clone());
                        found.entry(key).and_modify(|known| widen(known, &range)).or_insert(range);
                    }
                }
            }
        }
        Ok(found.into_values().collect())
    }

    /// A stream's folders of days, in order.
    async fn days(&self, stream: &str) -> Result<Vec<(Day, object_store::path::Path)>, SamplesError> {
        let folders = self.list(stream).await?.common_prefixes.into_iter();
        let mut days: Vec<_> = folders.filter_map(|day| Some((Day::from_folder(day.filename()?)?, day))).collect();
        days.sort();
        Ok(days)
    }

    /// A day's files, in order.
    async fn files(&self, day: &object_store::path::Path) -> Result<Vec<object_store::path::Path>, SamplesError> {
        let objects = self.list(day.as_ref()).await?.objects.into_iter().map(|object| object.location);
        let mut files: Vec<_> = objects.filter(|name| name.extension() == Some(layout::EXTENSION)).collect();
        files.sort();
        Ok(files)
    }

    async fn list(&self, folder: &str) -> Result<object_store::ListResult, SamplesError> {
        let failed = |source| SamplesError::Store { action: "list the sample folder", path: folder.to_owned(), source };
        let prefix = object_store::path::Path::parse(folder).map_err(|error| failed(error.into()))?;
        self.disk.list_with_delimiter(Some(&prefix)).await.map_err(failed)
    }

    async fn decode<T: Send + 'static>(
        &self,
        file: &object_store::path::Path,
        decode: impl FnOnce(Bytes) -> Result<T, ParquetError> + Send + 'static,
    ) -> Result<T, SamplesError> {
        let action = "read the sample file";
        let failed = |source| SamplesError::Store { action, path: file.to_string(), source };
        let bytes = self.disk.get(file).await.map_err(failed)?.bytes().await.map_err(failed)?;
        let decoded = tokio::task::spawn_blocking(move || decode(bytes)).await?;
        decoded.map_err(|source| SamplesError::Parquet { action, path: file.to_string(), source })
    }
}

fn widen(known: &mut DataRange, by: &DataRange) {
    known.from_ms = known.from_ms.min(by.from_ms);
    known.to_ms = known.to_ms.max(by.to_ms);
    known.rows += by.rows;
}

/// The rows of several files.
#[derive(Default)]
struct Collected {
    channels: Option<Vec<ChannelName>>,
    rows: Vec<Row>,
    values: Vec<f64>,
}

impl Collected {
    fn add(
        &mut self,
        range: &DataRange,
        file: &object_store::path::Path,
        samples: Samples,
    ) -> Result<(), SamplesError> {
        if samples.rows.is_empty() {
            return Ok(());
        }
        if self.values.len() + samples.values.len() > MAX_SERIES_VALUES {
            return Err(SamplesError::TooLarge { agent: range.agent.clone(), stream: range.stream.clone() });
        }
        match &self.channels {
            None => self.channels = Some(samples.channels),
            Some(before) if *before == samples.channels => {}
            Some(before) => {
                return Err(SamplesError::Schema {
                    agent: range.agent.clone(),
                    stream: range.stream.clone(),
                    before: before.clone(),
                    after: samples.channels,
                    file: file.to_string(),
                });
            }
        }
        self.rows.extend(samples.rows);
        self.values.extend(samples.values);
        Ok(())
    }

    fn into_series(self, range: &DataRange) -> Result<Series, SamplesError> {
        let Some(channels) = self.channels else {
            return Err(SamplesError::NoReading {
                agent: range.agent.clone(),
                stream: range.stream.clone(),
                from_ms: range.from_ms,
                to_ms: range.to_ms,
            });
        };
        let width = channels.len();
        let mut order: Vec<usize> = (0..self.rows.len()).collect();
        order.sort_by_key(|row| self.rows[*row].place);
        Ok(Series {
            schema: StreamSchema { stream: range.stream.clone(), channels },
            times_ms: order.iter().map(|row| self.rows[*row].time_ms).collect(),
            values: order.iter().flat_map(|row| &self.values[row * width..(row + 1) * width]).copied().collect(),
            known_normal: order.iter().map(|row| self.rows[*row].known_normal).collect(),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use shared::event::{Event, ModelRef, Outcome, Prediction, Reading, Verdict};
    use shared::ids::{Epoch, ModelName, ModelVersion};
    use tempfile::TempDir;

    use super::*;

    const DAY_MS: i64 = 24 * 60 * 60 * 1000;

    fn agent(name: &str) -> AgentId {
        AgentId::new(name).expect("valid")
    }

    fn schema(stream: &str, channels: &[&str]) -> StreamSchema {
        StreamSchema {
            stream: StreamId::new(stream).expect("valid"),
            channels: channels.iter().map(|name| ChannelName::new(name).expect("valid")).collect(),
        }
    }

    fn reading(time_ms: i64, values: &[f64]) -> Event {
        Event::Reading(Reading { stream: 0, time_ms, known_normal: time_ms % 2 == 0, id: 1, values: values.to_vec() })
    }

    fn prediction(time_ms: i64, of: u64) -> Event {
        let (score, threshold) = (f32::NAN, 1.0);
        Event::Prediction(Prediction {
            stream: 0,
            model: 0,
            of: Sequence(of),
            time_ms,
            outcome: Outcome::Anomaly(Verdict { score, threshold, anomaly: true }),
        })
    }

    fn committed(from: &str, epoch: u64, first: u64, schema: StreamSchema, events: Vec<Event>) -> Committed {
        let models = vec![ModelRef { name: ModelName::new("pump").expect("valid"), version: ModelVersion(3) }];
        let batch = EventBatch { epoch: Epoch(epoch), first: Sequence(first), streams: vec![schema], models, events };
        Committed { agent: agent(from), batch }
    }

    fn range(from: &str, stream: &str, from_ms: i64, to_ms: i64) -> DataRange {
        let stream = StreamId::new(stream).expect("valid");
        DataRange { agent: agent(from), stream, from_ms, to_ms, rows: 0 }
    }

    fn store() -> (TempDir, SampleStore) {
        let folder = TempDir::new().expect("a temporary folder");
        let store = SampleStore::open(&folder.path().join("history")).expect("opens");
        (folder, store)
    }

    /// Every file below the root with its bytes, by name.
    fn files(store: &SampleStore) -> Vec<(String, Vec<u8>)> {
        fn walk(folder: &Path, found: &mut Vec<PathBuf>) {
            for entry in fs::read_dir(folder).expect("a folder") {
                let path = entry.expect("an entry").path();
                if path.is_dir() { walk(&path, found) } else { found.push(path) }
            }
        }
        let mut found = Vec::new();
        walk(&store.root, &mut found);
        found.sort();
        let name = |path: &PathBuf| path.strip_prefix(&store.root).expect("below").display().to_string();
        found.iter().map(|path| (name(path), fs::read(path).expect("readable"))).collect()
    }

    fn names(store: &SampleStore) -> Vec<String> {
        files(store).into_iter().map(|(name, _)| name).collect()
    }

    #[tokio::test]
    async fn readings_come_back_as_they_were_also_from_a_stream_with_an_awkward_name() {
        let (_folder, store) = store();
        let pump = schema("plant/line 1/pumpe ü=3", &["flow", "current"]);
        let events = vec![reading(1000, &[1.5, f64::NAN]), reading(1001, &[f64::INFINITY, -0.0]), prediction(1000, 7)];
        let report = store.write(10..11, &[committed("a", 1, 7, pump.clone(), events)]).await.expect("writes");
        assert_eq!(report, WriteReport { files: 2, readings: 2, predictions: 1 });
        assert_eq!(
            names(&store),
            [
                "predictions/stream=plant%2Fline%201%2Fpumpe%20%C3%BC%3D3/day=1970-01-01/\
                 00000000000000000010-00000000000000000011.parquet",
                "samples/stream=plant%2Fline%201%2Fpumpe%20%C3%BC%3D3/day=1970-01-01/\
                 00000000000000000010-00000000000000000011.parquet",
            ]
        );
        let series = store.read(&range("a", "plant/line 1/pumpe ü=3", 0, 2000)).await.expect("reads");
        assert_eq!((&series.schema, &series.times_ms), (&pump, &vec![1000, 1001]));
        assert_eq!(series.known_normal, [true, false]);
        assert_eq!(
            series.values.iter().map(|value| value.to_bits()).collect::<Vec<_>>(),
            [1.5, f64::NAN, f64::INFINITY, -0.0].map(f64::to_bits)
        );
    }

    #[tokio::test]
    async fn a_window_hides_no_extreme_and_holds_what_was_said() {
        let (_folder, store) = store();
        let day = |offset: i64| DAY_MS - 500 + offset;
        let mut events: Vec<Event> =
            (0..1000).map(|i| reading(day(i), &[f64::from(i as i32) / 100.0, f64::NAN])).collect();
        events[437] = reading(day(437), &[99.0, 1.0]);
        events.push(prediction(day(437), 437));
        let of_other = committed("b", 1, 0, schema("s", &["x", "y"]), vec![reading(day(0), &[-5.0, 0.0])]);
        store.write(0..2, &[committed("a", 1, 0, schema("s", &["x", "y"]), events), of_other]).await.expect("writes");
        for _ in 0..2 {
            let window = store.window(&range("a", "s", day(0), day(999)), 10).await.expect("reads");
            assert_eq!((window.part_ms, window.parts.len(), window.channels_changed), (100, 10, false));
            let part = &window.parts[&day(400)];
            assert_eq!((part.readings, part.anomalous, part.version), (100, 1, Some(3)));
            assert_eq!((part.channels[0].min, part.channels[0].max), (4.0, 99.0));
            assert_eq!((part.channels[1].count, part.channels[1].max, part.score), (1, 1.0, None));
        }
        let one = store.window(&range("a", "s", day(437), day(437)), 600).await.expect("reads");
        assert_eq!((one.part_ms, one.parts.len(), one.parts[&day(437)].readings), (1, 1, 1));
        let none = store.window(&range("a", "s", 5 * DAY_MS, 6 * DAY_MS), 600).await.expect("reads");
        assert!(none.parts.is_empty());
        let all = store.window(&range("a", "s", i64::MIN, i64::MAX), 2).await.expect("reads");
        assert_eq!(all.parts.values().map(|part| part.readings).sum::<u64>(), 1000);
    }

    #[tokio::test]
    async fn a_window_over_other_channels_shows_the_newest() {
        let (_folder, store) = store();
        let batches = [
            committed("a", 1, 0, schema("s", &["x"]), vec![reading(1, &[1.0])]),
            committed("a", 1, 1, schema("s", &["y", "x"]), vec![reading(2, &[2.0, 3.0])]),
        ];
        store.write(0..1, &batches[..1]).await.expect("writes");
        store.write(1..2, &batches[1..]).await.expect("writes");
        let window = store.window(&range("a", "s", 0, 9), 5).await.expect("reads");
        assert!(window.channels_changed && window.channels.len() == 2);
        assert_eq!(
            window.parts.values().map(|part| (part.readings, part.channels.len())).collect::<Vec<_>>(),
            [(1, 0), (1, 2)]
        );
    }

    #[tokio::test]
    async fn a_redo_after_a_crash_leaves_the_same_files_and_nothing_else() {
        let (_folder, store) = store();
        let batches = [
            committed("a", 1, 0, schema("s", &["x"]), vec![reading(1, &[1.0]), prediction(1, 0)]),
            committed("b", 4, 9, schema("s", &["x"]), vec![reading(2, &[2.0])]),
        ];
        store.write(3..5, &batches).await.expect("writes");
        let first = files(&store);
        let name = store.root.join(&first[1].0);
        fs::write(&name, b"torn").expect("damages the file");
        fs::write(name.with_extension("parquet#1"), b"PAR1 and no more").expect("leaves an unfinished file");
        fs::write(name.with_extension("parquet#2"), b"").expect("leaves another one");

        let reopened = SampleStore::open(&store.root).expect("opens again");
        reopened.write(3..5, &batches).await.expect("writes again");
        assert_eq!(files(&store), first);
    }

    #[tokio::test]
    async fn an_unfinished_file_is_not_read() {
        let (_folder, store) = store();
        store
            .write(0..1, &[committed("a", 1, 0, schema("s", &["x"]), vec![reading(1, &[1.0])])])
            .await
            .expect("writes");
        let leftover = store.root.join("samples/stream=s/day=1970-01-01/00000000000000000001-2.parquet#1");
        fs::write(leftover, b"PAR1 and no more").expect("leaves an unfinished file");
        assert_eq!(store.read(&range("a", "s", 0, 9)).await.expect("reads").values, [1.0]);
    }

    #[tokio::test]
    async fn readings_lie_under_their_own_day_and_are_read_across_midnight() {
        let (_folder, store) = store();
        let events = [-1, 0, DAY_MS - 1, DAY_MS, 3 * DAY_MS].map(|time| reading(time, &[time as f64]));
        store.write(0..5, &[committed("a", 1, 0, schema("s", &["x"]), events.to_vec())]).await.expect("writes");
        let days: Vec<String> =
            names(&store).iter().map(|name| name.split('/').nth(2).expect("a day").to_owned()).collect();
        assert_eq!(days, ["day=1969-12-31", "day=1970-01-01", "day=1970-01-02", "day=1970-01-04"]);
        let series = store.read(&range("a", "s", 0, DAY_MS)).await.expect("reads");
        assert_eq!(series.times_ms, [0, DAY_MS - 1, DAY_MS]);
    }

    #[tokio::test]
    async fn only_the_agent_and_the_time_asked_for_are_read_in_order_of_sequence() {
        let (_folder, store) = store();
        let s = || schema("s", &["x"]);
        store
            .write(0..1, &[committed("a", 2, 0, s(), vec![reading(30, &[30.0]), reading(40, &[40.0])])])
            .await
            .expect("writes");
        let late = [
            committed("b", 1, 0, s(), vec![reading(20, &[-1.0])]),
            committed("a", 1, 5, s(), vec![reading(25, &[25.0]), reading(20, &[20.0])]),
            committed("a", 1, 3, s(), vec![reading(10, &[10.0]), reading(28, &[28.0])]),
        ];
        store.write(1..4, &late).await.expect("writes");
        let series = store.read(&range("a", "s", 20, 30)).await.expect("reads");
        assert_eq!(series.values, [28.0, 25.0, 20.0, 30.0]);
        assert_eq!(series.times_ms, [28, 25, 20, 30]);
    }

    #[tokio::test]
    async fn a_channel_with_a_reserved_or_repeated_name_gets_a_column_of_its_own() {
        let (_folder, store) = store();
        let odd = schema("s", &["time", "agent", "x", "x", "time_channel"]);
        store
            .write(0..1, &[committed("a", 1, 0, odd.clone(), vec![reading(1, &[1.0, 2.0, 3.0, 4.0, 5.0])])])
            .await
            .expect("writes");
        let file = Bytes::from(files(&store)[0].1.clone());
        let reader = parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder::try_new(file).expect("parquet");
        let columns: Vec<String> = reader.schema().fields().iter().map(|field| field.name().clone()).collect();
        assert_eq!(
            columns,
            [
                "time",
                "time_channel",
                "agent_channel",
                "x",
                "x_channel",
                "time_channel_channel",
                "known_normal",
                "agent",
                "epoch",
                "sequence"
            ]
        );
        let series = store.read(&range("a", "s", 0, 9)).await.expect("reads");
        assert_eq!((series.schema, series.values), (odd, vec![1.0, 2.0, 3.0, 4.0, 5.0]));
    }

    #[tokio::test]
    async fn a_range_over_a_change_of_channels_is_refused_and_one_beside_it_is_not() {
        let (_folder, store) = store();
        let batches = [
            committed("a", 1, 0, schema("s", &["x"]), vec![reading(10, &[1.0])]),
            committed("a", 1, 1, schema("s", &["x", "y"]), vec![reading(20, &[2.0, 3.0])]),
            committed("a", 1, 2, schema("s", &["x"]), vec![reading(30, &[4.0])]),
        ];
        store.write(0..3, &batches).await.expect("writes");
        assert_eq!(
            names(&store),
            [1, 2].map(|number| format!(
                "samples/stream=s/day=1970-01-01/00000000000000000000-00000000000000000003-{number}.parquet"
            ))
        );
        let error = store.read(&range("a", "s", 10, 20)).await.expect_err("the channels change");
        assert_eq!(
            error.to_string(),
            "read stream s of agent a: its channels change from [\"x\"] to [\"x\", \"y\"] in \
             samples/stream=s/day=1970-01-01/00000000000000000000-00000000000000000003-2.parquet; choose a range on \
             one side of the change"
        );
        assert_eq!(store.read(&range("a", "s", 11, 20)).await.expect("one list").values, [2.0, 3.0]);
        assert_eq!(store.read(&range("a", "s", 21, 99)).await.expect("one list").values, [4.0]);
    }

    #[tokio::test]
    async fn a_range_without_readings_is_an_error_that_names_the_stream() {
        let (_folder, store) = store();
        let error = store.read(&range("a", "plant/pump", 1, 2)).await.expect_err("nothing is there");
        assert_eq!(
            error.to_string(),
            "read stream plant/pump of agent a: it has no reading from 1 to 2 (milliseconds since 1970)"
        );
    }

    #[tokio::test]
    async fn times_and_names_at_the_limits_are_kept() {
        let (_folder, store) = store();
        let name = "ü/".repeat(80);
        let events = vec![reading(i64::MIN, &[]), reading(i64::MAX, &[])];
        store.write(0..1, &[committed("a", 1, u64::MAX - 2, schema(&name, &[]), events)]).await.expect("writes");
        let series = store.read(&range("a", &name, i64::MIN, i64::MAX)).await.expect("reads");
        assert_eq!(series.times_ms, [i64::MIN, i64::MAX]);
        assert_eq!(series.schema, schema(&name, &[]));
    }

    #[tokio::test]
    async fn many_files_of_one_compaction_are_all_there() {
        let (_folder, store) = store();
        let batches: Vec<Committed> = (0..30)
            .map(|n| committed("a", 1, n, schema(&format!("s{n}"), &["x"]), vec![reading(5, &[n as f64])]))
            .collect();
        assert_eq!(store.write(0..30, &batches).await.expect("writes").files, 30);
        for n in 0..30 {
            let series = store.read(&range("a", &format!("s{n}"), 0, 9)).await.expect("reads");
            assert_eq!(series.values, [n as f64]);
        }
    }

    #[tokio::test]
    async fn what_there_is_to_read_is_listed_by_stream_and_agent() {
        let (_folder, store) = store();
        assert_eq!(store.streams().await.expect("lists"), []);
        let name = "ü/".repeat(80);
        let first = [
            committed("b", 1, 0, schema("s", &["x"]), vec![reading(5, &[1.0]), reading(DAY_MS, &[2.0])]),
            committed("a", 1, 0, schema("s", &["x"]), vec![reading(7, &[3.0])]),
            committed("a", 1, 1, schema(&name, &["y", "z"]), vec![reading(9, &[4.0, 5.0]), prediction(9, 1)]),
        ];
        store.write(0..3, &first).await.expect("writes");
        let late = [committed("b", 1, 2, schema("s", &["x"]), vec![reading(-4, &[6.0])])];
        store.write(3..4, &late).await.expect("writes");
        let expected = [
            DataRange { rows: 1, ..range("a", "s", 7, 7) },
            DataRange { rows: 3, ..range("b", "s", -4, DAY_MS) },
            DataRange { rows: 1, ..range("a", &name, 9, 9) },
        ];
        assert_eq!(store.streams().await.expect("lists"), expected);
    }

    #[tokio::test]
    async fn a_damaged_file_is_an_error_that_names_it() {
        let (_folder, store) = store();
        store
            .write(0..1, &[committed("a", 1, 0, schema("s", &["x"]), vec![reading(1, &[1.0])])])
            .await
            .expect("writes");
        let name = names(&store).remove(0);
        fs::write(store.root.join(&name), b"not Parquet at all").expect("damages the file");
        let error = store.read(&range("a", "s", 0, 9)).await.expect_err("is damaged");
        assert!(error.to_string().starts_with(&format!("read the sample file {name}: ")), "{error}");
    }

    #[tokio::test]
    async fn a_batch_that_contradicts_itself_is_refused() {
        let (_folder, store) = store();
        let batch = committed("a", 1, 6, schema("s", &["x"]), vec![reading(1, &[1.0]), reading(2, &[1.0, 2.0])]);
        let error = store.write(0..1, &[batch]).await.expect_err("is too wide");
        assert_eq!(
            error.to_string(),
            "write the event at sequence 7 of agent a: it has more or fewer values than its stream has channels"
        );
    }
}
