//! One Parquet file of readings, whoever wrote it: channels are columns of numbers.

use std::fs::File;
use std::path::Path;

use arrow_array::cast::AsArray;
use arrow_array::types::{
    Float32Type, Float64Type, Int8Type, Int16Type, Int32Type, Int64Type, TimestampMicrosecondType,
    TimestampMillisecondType, TimestampNanosecondType, TimestampSecondType, UInt8Type, UInt16Type, UInt32Type,
};
use arrow_array::{Array, ArrowPrimitiveType, RecordBatch};
use arrow_schema::{DataType, TimeUnit};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use shared::table::parse_time;

use super::{FilesError, Wanted, finish};
use crate::train::dataset::SegmentData;

/// Reads the channels, times and labels that are wanted.
pub(super) fn read(path: &Path, wanted: &Wanted<'_>) -> Result<SegmentData, FilesError> {
    let problem = |problem: String| FilesError::Parquet { path: path.to_owned(), problem };
    let file = File::open(path).map_err(|source| FilesError::Io { path: path.to_owned(), source })?;
    let reader = ParquetRecordBatchReaderBuilder::try_new(file).and_then(ParquetRecordBatchReaderBuilder::build);
    let mut segment = wanted.empty_segment()?;
    let mut rows = 0;
    for batch in reader.map_err(|error| problem(error.to_string()))? {
        let batch = batch.map_err(|error| problem(error.to_string()))?;
        let column = |name: &str| batch.column_by_name(name).ok_or_else(|| problem(missing(name, &batch)));
        let channels = wanted
            .channels
            .iter()
            .map(|name| {
                numbers(column(name.as_str())?).ok_or_else(|| problem(format!("column {name:?} holds no numbers")))
            })
            .collect::<Result<Vec<_>, FilesError>>()?;
        let times = match &wanted.recipe.data.time_column {
            None => None,
            Some(name) => Some(times(column(name)?).ok_or_else(|| problem(format!("column {name:?} holds no times")))?),
        };
        let labels = match &wanted.recipe.data.label_column {
            Some(name) if !wanted.labels.is_empty() => {
                Some(texts(column(name)?).ok_or_else(|| problem(format!("column {name:?} holds no labels")))?)
            }
            Some(_) | None => None,
        };
        for row in 0..batch.num_rows() {
            if wanted.is_enough(rows) {
                return Ok(finish(segment));
            }
            let interval_ms = i64::from(wanted.recipe.input.interval_ms.max(1));
            let time_ms = match &times {
                Some(times) => times[row].ok_or_else(|| problem(format!("row {} has no time", rows + 1)))?,
                None => rows as i64 * interval_ms,
            };
            if segment.times_ms.last().is_some_and(|last| time_ms <= *last) {
                return Err(problem(format!("the time of row {} is not after the one before", rows + 1)));
            }
            segment.times_ms.push(time_ms);
            segment.values.extend(channels.iter().map(|channel| channel[row]));
            if let Some(labels) = &labels {
                segment.labels.push(wanted.label(labels[row].as_deref(), path, rows + 1)?);
            }
            rows += 1;
        }
    }
    Ok(finish(segment))
}

fn missing(name: &str, batch: &RecordBatch) -> String {
    let schema = batch.schema();
    let there: Vec<&str> = schema.fields().iter().map(|field| field.name().as_str()).take(40).collect();
    format!("there is no column {name:?}; there are {}", there.join(", "))
}

/// The values of a column as f64, NaN where there is none.
fn numbers(array: &dyn Array) -> Option<Vec<f64>> {
    fn of<T: ArrowPrimitiveType>(array: &dyn Array, convert: impl Fn(T::Native) -> f64) -> Option<Vec<f64>> {
        let values = array.as_primitive_opt::<T>()?;
        Some(values.iter().map(|value| value.map_or(f64::NAN, &convert)).collect())
    }
    of::<Float64Type>(array, |value| value)
        .or_else(|| of::<Float32Type>(array, f64::from))
        .or_else(|| of::<Int64Type>(array, |value| value as f64))
        .or_else(|| of::<Int32Type>(array, f64::from))
        .or_else(|| of::<Int16Type>(array, f64::from))
        .or_else(|| of::<Int8Type>(array, f64::from))
        .or_else(|| of::<UInt32Type>(array, f64::from))
        .or_else(|| of::<UInt16Type>(array, f64::from))
        .or_else(|| of::<UInt8Type>(array, f64::from))
}

/// The values of a column as milliseconds since 1970.
fn times(array: &dyn Array) -> Option<Vec<Option<i64>>> {
    if let DataType::Timestamp(unit, _) = array.data_type() {
        let (values, per_ms): (Vec<Option<i64>>, f64) = match unit {
            TimeUnit::Second => (array.as_primitive_opt::<TimestampSecondType>()?.iter().collect(), 1e-3),
            TimeUnit::Millisecond => (array.as_primitive_opt::<TimestampMillisecondType>()?.iter().collect(), 1.0),
            TimeUnit::Microsecond => (array.as_primitive_opt::<TimestampMicrosecondType>()?.iter().collect(), 1e3),
            TimeUnit::Nanosecond => (array.as_primitive_opt::<TimestampNanosecondType>()?.iter().collect(), 1e6),
        };
        return Some(values.into_iter().map(|value| value.map(|value| (value as f64 / per_ms) as i64)).collect());
    }
    texts(array).map(|texts| texts.iter().map(|text| text.as_deref().and_then(parse_time)).collect())
}

/// The values of a column as text.
fn texts(array: &dyn Array) -> Option<Vec<Option<String>>> {
    if let Some(strings) = array.as_string_opt::<i32>() {
        return Some(strings.iter().map(|text| text.map(str::to_owned)).collect());
    }
    if let Some(strings) = array.as_string_opt::<i64>() {
        return Some(strings.iter().map(|text| text.map(str::to_owned)).collect());
    }
    if let Some(truths) = array.as_boolean_opt() {
        return Some(truths.iter().map(|truth| truth.map(|truth| u8::from(truth).to_string())).collect());
    }
    numbers(array).map(|numbers| numbers.iter().map(|number| (!number.is_nan()).then(|| number.to_string())).collect())
}
