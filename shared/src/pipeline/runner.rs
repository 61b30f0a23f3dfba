//! A pipeline in operation: readings of any streams in, verdicts out.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use burn::tensor::{Device, Tensor, TensorData};

use super::decision::{DecisionState, Verdict, mean_squared_error};
use super::network::{Network, Weights, WeightsError};
use super::preprocess::{Continuity, MissingChannel, Preprocess};
use super::{Pipeline, PipelineError, Stage};
use crate::event::{StreamSchema, UnixMillis};
use crate::ids::StreamId;

/// Rows that go through the network at once: measured as the cache-friendly size on the CPU devices.
const FORWARD_ROWS: usize = 64;

/// A pipeline in operation, with the state of every stream it has seen.
#[derive(Debug)]
pub struct Runner {
    pipeline: Pipeline,
    network: Network,
    device: Device,
    features: usize,
    streams: BTreeMap<StreamId, StreamState>,
}

#[derive(Debug)]
struct StreamState {
    schema: StreamSchema,
    preprocess: Preprocess,
    decision: DecisionState,
}

/// One reading as a runner takes it.
#[derive(Debug, Clone, Copy)]
pub struct RunnerInput<'a> {
    /// Its stream and the stream's channels.
    pub schema: &'a StreamSchema,
    /// When it was measured.
    pub time_ms: UnixMillis,
    /// One value per channel.
    pub values: &'a [f64],
}

/// What a runner says of one reading.
#[derive(Debug, Clone, PartialEq)]
pub enum Answer {
    /// A verdict.
    Verdict(Verdict),
    /// Not enough readings for a window yet.
    WindowFilling,
    /// The stream lacks a channel that the pipeline reads.
    MissingChannel(MissingChannel),
}

/// Why a pipeline cannot be put into operation.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// The declaration does not fit together.
    #[error("pipeline does not fit: {0}")]
    Pipeline(#[from] PipelineError),
    /// The weights do not fit the declaration.
    #[error("weights do not fit the pipeline: {0}")]
    Weights(#[from] WeightsError),
}

struct Row {
    index: usize,
    stream: StreamId,
    continuity: Continuity,
}

impl Runner {
    /// Puts a pipeline into operation on `device`.
    ///
    /// # Errors
    /// If the declaration or the weights do not fit.
    pub fn new(pipeline: Pipeline, weights: &Weights, device: Device) -> Result<Self, BuildError> {
        pipeline.check(Stage::Fitted)?;
        let network = Network::build(&pipeline.network, weights, &device)?;
        let features = pipeline.features()?;
        Ok(Self { pipeline, network, device, features, streams: BTreeMap::new() })
    }

    /// Answers `inputs` in order. Readings of one stream must come in the order they were taken in.
    pub fn run(&mut self, inputs: &[RunnerInput<'_>]) -> Vec<Answer> {
        let mut answers = vec![Answer::WindowFilling; inputs.len()];
        let mut features = Vec::with_capacity(inputs.len() * self.features);
        let mut rows = Vec::with_capacity(inputs.len());
        for (index, input) in inputs.iter().enumerate() {
            match self.stream(input.schema) {
                Err(missing) => answers[index] = Answer::MissingChannel(missing),
                Ok(state) => {
                    let (continuity, complete) = state.preprocess.push(input.time_ms, input.values, &mut features);
                    if complete {
                        rows.push(Row { index, stream: input.schema.stream.clone(), continuity });
                    }
                }
            }
        }
        let scores = self.scores(&features);
        for (row, score) in rows.iter().zip(scores) {
            if let Some(state) = self.streams.get_mut(&row.stream) {
                answers[row.index] = Answer::Verdict(state.decision.push(row.continuity, score));
            }
        }
        answers
    }

    /// The raw, unsmoothed scores of rows of `features`, one after another.
    #[must_use]
    pub fn scores(&self, features: &[f32]) -> Vec<f32> {
        let mut scores = Vec::with_capacity(features.len() / self.features);
        for chunk in features.chunks(FORWARD_ROWS * self.features) {
            let rows = chunk.len() / self.features;
            let input = TensorData::new(chunk.to_vec(), [rows, self.features]);
            let output = self.network.forward(Tensor::from_data(input, &self.device)).into_data();
            let output: Vec<f32> = output.iter::<f32>().collect();
            scores.extend(
                chunk
                    .chunks_exact(self.features)
                    .zip(output.chunks_exact(self.features))
                    .map(|(input, output)| mean_squared_error(input, output)),
            );
        }
        scores
    }

    /// The pipeline's declaration.
    #[must_use]
    pub fn pipeline(&self) -> &Pipeline {
        &self.pipeline
    }

    fn stream(&mut self, schema: &StreamSchema) -> Result<&mut StreamState, MissingChannel> {
        let bind = || {
            Ok(StreamState {
                schema: schema.clone(),
                preprocess: Preprocess::new(&self.pipeline, &schema.channels)?,
                decision: DecisionState::new(&self.pipeline.decision),
            })
        };
        match self.streams.entry(schema.stream.clone()) {
            Entry::Vacant(vacant) => Ok(vacant.insert(bind()?)),
            Entry::Occupied(occupied) => {
                let state = occupied.into_mut();
                if state.schema.channels != schema.channels {
                    *state = bind()?;
                }
                Ok(state)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::DeviceKind;
    use crate::pipeline::network::tests::sample_weights;
    use crate::pipeline::tests::{names, sample};

    fn runner() -> Runner {
        Runner::new(sample(), &sample_weights(), DeviceKind::Flex.open().expect("built in")).expect("builds")
    }

    fn schema(stream: &str, channels: &[&str]) -> StreamSchema {
        StreamSchema { stream: StreamId::new(stream).expect("valid"), channels: names(channels) }
    }

    fn rows(seed: u32) -> Vec<(i64, Vec<f64>)> {
        (0..150_i64).map(|i| (i * 1_000, vec![f64::from(seed) + (i % 7) as f64, (i % 5) as f64])).collect()
    }

    #[test]
    fn a_batch_gives_the_same_answers_as_one_reading_at_a_time_and_streams_do_not_mix() {
        let (one, two) = (schema("one", &["a", "b"]), schema("two", &["b", "x", "a"]));
        let mut inputs = Vec::new();
        let (first, second) = (rows(0), rows(3));
        let wide: Vec<Vec<f64>> = second.iter().map(|(_, v)| vec![v[1], 99.0, v[0]]).collect();
        for (i, (time_ms, values)) in first.iter().enumerate() {
            inputs.push(RunnerInput { schema: &one, time_ms: *time_ms, values });
            inputs.push(RunnerInput { schema: &two, time_ms: *time_ms, values: &wide[i] });
        }
        let batched = runner().run(&inputs);
        let mut single = runner();
        let singles: Vec<Answer> = inputs.iter().flat_map(|input| single.run(std::slice::from_ref(input))).collect();
        assert_eq!(batched.len(), 300);
        for (a, b) in batched.iter().zip(&singles) {
            let (Answer::Verdict(a), Answer::Verdict(b)) = (a, b) else { panic!("no verdict: {a:?} {b:?}") };
            assert!((a.score - b.score).abs() < 1e-5);
        }
        let mut alone = runner();
        let alone: Vec<Answer> =
            inputs.iter().step_by(2).flat_map(|input| alone.run(std::slice::from_ref(input))).collect();
        assert_eq!(alone, singles.iter().step_by(2).cloned().collect::<Vec<_>>());
    }

    #[test]
    fn a_stream_without_a_needed_channel_is_answered_by_name() {
        let schema = schema("x", &["a"]);
        let answers = runner().run(&[RunnerInput { schema: &schema, time_ms: 0, values: &[1.0] }]);
        assert_eq!(answers, [Answer::MissingChannel(MissingChannel(names(&["b"])[0].clone()))]);
    }
}
