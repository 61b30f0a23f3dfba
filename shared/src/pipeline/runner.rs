//! A pipeline in operation: readings of any streams in, predictions out.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use burn::tensor::Device;
use serde::{Deserialize, Serialize};

use super::decision::{DecisionState, Row};
use super::network::Network;
use super::preprocess::{self, Continuity, MissingChannel, Preprocess, Pushed, Readings, row_size};
use super::weights::{Weights, WeightsError};
use super::{Calibration, Pipeline, PipelineError, Stage};
use crate::event::{Outcome, StreamSchema, UnixMillis};
use crate::ids::{ChannelName, StreamId};

/// A pipeline in operation, with the state of every stream it has seen.
#[derive(Debug)]
pub struct Runner {
    model: Model,
    streams: BTreeMap<StreamId, StreamState>,
    /// Room for the rows of one call.
    features: Vec<f32>,
}

/// What is the same for every stream.
#[derive(Debug)]
struct Model {
    pipeline: Pipeline,
    network: Network,
    device: Device,
    input_size: usize,
    output_size: usize,
}

#[derive(Debug)]
struct StreamState {
    schema: StreamSchema,
    preprocess: Preprocess,
    decision: DecisionState,
    /// What the calibration has so far; none when it is done, or not needed.
    calibrating: Option<Readings>,
}

/// What a runner remembers of a stream, to go on from after a restart as if nothing had happened.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StreamMemory {
    schema: StreamSchema,
    preprocess: preprocess::Memory,
    decision: DecisionState,
    calibrating: Option<Readings>,
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
    /// A prediction.
    Predicted(Outcome),
    /// None: the stream's baseline is still being found.
    Calibrating,
    /// None: there are not enough readings for a window, a lag or a difference.
    WindowFilling,
    /// None: the next window is not due.
    BetweenHops,
    /// None: nobody asked for it.
    NotAsked,
    /// None: a channel has no value.
    MissingValue(ChannelName),
    /// None: the stream lacks a channel that the pipeline reads.
    MissingChannel(MissingChannel),
}

impl Answer {
    /// Why there is no prediction, as counters name it.
    ///
    /// # Errors
    /// The reason, if there is none.
    pub fn into_outcome(self) -> Result<Outcome, &'static str> {
        match self {
            Self::Predicted(outcome) => Ok(outcome),
            Self::Calibrating => Err("calibrating"),
            Self::WindowFilling => Err("window_filling"),
            Self::BetweenHops => Err("between_hops"),
            Self::NotAsked => Err("not_asked"),
            Self::MissingValue(_) => Err("missing_value"),
            Self::MissingChannel(_) => Err("missing_channel"),
        }
    }
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

/// A row of features on its way through the network.
struct Pending {
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
        let network = Network::build(&pipeline.network, pipeline.input_shape()?, weights, &device)?;
        let (input_size, output_size) = (row_size(&pipeline)?, network.output_shape().size());
        let model = Model { pipeline, network, device, input_size, output_size };
        Ok(Self { model, streams: BTreeMap::new(), features: Vec::new() })
    }

    /// Answers `inputs` in order. Readings of one stream must come in the order they were taken in.
    pub fn run(&mut self, inputs: &[RunnerInput<'_>]) -> Vec<Answer> {
        self.run_some(inputs, |_| true)
    }

    /// As [`Self::run`], but answers only those of which `is_asked`, by index, is true. The others move averages and
    /// windows on, and cost no more than that.
    pub fn run_some(&mut self, inputs: &[RunnerInput<'_>], is_asked: impl Fn(usize) -> bool) -> Vec<Answer> {
        let mut answers = vec![Answer::WindowFilling; inputs.len()];
        let mut features = std::mem::take(&mut self.features);
        features.clear();
        let mut pending = Vec::with_capacity(inputs.len());
        for (index, input) in inputs.iter().enumerate() {
            let state = match stream(&self.model, &mut self.streams, input.schema) {
                Ok(state) => state,
                Err(missing) => {
                    answers[index] = Answer::MissingChannel(missing);
                    continue;
                }
            };
            if state.calibrating.is_some() {
                state.take_for_calibration(&self.model, input);
                answers[index] = Answer::Calibrating;
                continue;
            }
            let filled = features.len();
            answers[index] = match state.preprocess.push(input.time_ms, input.values, &mut features) {
                Pushed::Row(_) if !is_asked(index) => {
                    features.truncate(filled);
                    Answer::NotAsked
                }
                Pushed::Row(continuity) => {
                    pending.push(Pending { index, stream: input.schema.stream.clone(), continuity });
                    continue;
                }
                Pushed::Filling => Answer::WindowFilling,
                Pushed::BetweenHops => Answer::BetweenHops,
                Pushed::MissingValue(channel) => Answer::MissingValue(channel),
            };
        }
        let outputs = self.model.network.run(&features, &self.model.device);
        for (row, pending) in self.model.rows(&features, &outputs).zip(&pending) {
            if let Some(state) = self.streams.get_mut(&pending.stream) {
                let outcome = state.decision.push(&self.model.pipeline.decision, pending.continuity, row);
                answers[pending.index] = Answer::Predicted(outcome);
            }
        }
        self.features = features;
        answers
    }

    /// The pipeline's declaration.
    #[must_use]
    pub fn pipeline(&self) -> &Pipeline {
        &self.model.pipeline
    }

    /// What it remembers of every stream.
    #[must_use]
    pub fn memory(&self) -> Vec<StreamMemory> {
        let of = |state: &StreamState| StreamMemory {
            schema: state.schema.clone(),
            preprocess: state.preprocess.memory().clone(),
            decision: state.decision.clone(),
            calibrating: state.calibrating.clone(),
        };
        self.streams.values().map(of).collect()
    }

    /// Goes on from what was remembered. What is not of this pipeline is left out; returns how many streams were taken.
    pub fn restore(&mut self, memory: Vec<StreamMemory>) -> usize {
        let mut taken = 0;
        for remembered in memory {
            let Ok(mut preprocess) = Preprocess::new(&self.model.pipeline, &remembered.schema.channels) else {
                continue;
            };
            if !preprocess.restore(remembered.preprocess) {
                continue;
            }
            let state = StreamState {
                preprocess,
                decision: remembered.decision,
                calibrating: remembered.calibrating.filter(|_| self.model.pipeline.calibration.is_some()),
                schema: remembered.schema,
            };
            self.streams.insert(state.schema.stream.clone(), state);
            taken += 1;
        }
        taken
    }
}

fn stream<'a>(
    model: &Model,
    streams: &'a mut BTreeMap<StreamId, StreamState>,
    schema: &StreamSchema,
) -> Result<&'a mut StreamState, MissingChannel> {
    let bind = || {
        Ok(StreamState {
            schema: schema.clone(),
            preprocess: Preprocess::new(&model.pipeline, &schema.channels)?,
            decision: DecisionState::default(),
            calibrating: model.pipeline.calibration.map(|_| Readings::default()),
        })
    };
    match streams.entry(schema.stream.clone()) {
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

impl Model {
    fn rows<'a>(&self, inputs: &'a [f32], outputs: &'a [f32]) -> impl Iterator<Item = Row<'a>> {
        let inputs = inputs.chunks_exact(self.input_size);
        inputs.zip(outputs.chunks_exact(self.output_size.max(1))).map(|(input, output)| Row { input, output })
    }
}

impl StreamState {
    /// Keeps a reading; the last one of the calibration finds what is to be found, and leaves averages and windows as they
    /// are after it.
    fn take_for_calibration(&mut self, model: &Model, input: &RunnerInput<'_>) {
        let (Some(Calibration { rows, warm_up_rows }), Some(readings)) =
            (model.pipeline.calibration, self.calibrating.as_mut())
        else {
            return;
        };
        readings.push(input.time_ms, input.values);
        if readings.times_ms.len() < rows as usize {
            return;
        }
        let readings = self.calibrating.take().unwrap_or_default();
        let warm_up = warm_up_rows as usize;
        self.preprocess.calibrate(&readings, warm_up);
        let (mut features, mut settled_from) = (Vec::new(), 0);
        for (index, (time_ms, values)) in readings.iter().enumerate() {
            if index == warm_up {
                settled_from = features.len() / model.input_size;
            }
            self.preprocess.push(time_ms, values, &mut features);
        }
        // Gaps and missing values may have left nothing to learn from: then it begins again.
        if features.len() / model.input_size < settled_from + 2 || readings.times_ms.len() <= warm_up {
            self.calibrating = Some(Readings::default());
            return;
        }
        let outputs = model.network.run(&features, &model.device);
        let rows: Vec<Row<'_>> = model.rows(&features, &outputs).collect();
        self.decision.calibrate(&model.pipeline.decision, &rows, settled_from);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::DeviceKind;
    use crate::event::Verdict;
    use crate::pipeline::decision::{Decision, Score, Threshold};
    use crate::pipeline::step::Step;
    use crate::pipeline::tests::{names, sample};
    use crate::pipeline::weights::tests::sample_weights;
    use crate::pipeline::{Baseline, Missing};

    fn runner_of(pipeline: Pipeline, weights: &Weights) -> Runner {
        Runner::new(pipeline, weights, DeviceKind::Flex.open().expect("built in")).expect("builds")
    }

    fn runner() -> Runner {
        runner_of(sample(), &sample_weights())
    }

    fn schema(stream: &str, channels: &[&str]) -> StreamSchema {
        StreamSchema { stream: StreamId::new(stream).expect("valid"), channels: names(channels) }
    }

    fn rows(seed: u32) -> Vec<(i64, Vec<f64>)> {
        (0..150_i64).map(|i| (i * 1_000, vec![f64::from(seed) + (i % 7) as f64, (i % 5) as f64])).collect()
    }

    fn verdict(answer: &Answer) -> Verdict {
        let Answer::Predicted(Outcome::Anomaly(verdict)) = answer else { panic!("no verdict: {answer:?}") };
        *verdict
    }

    fn run_all(runner: &mut Runner, schema: &StreamSchema, rows: &[(i64, Vec<f64>)]) -> Vec<Answer> {
        let inputs: Vec<RunnerInput<'_>> =
            rows.iter().map(|(time_ms, values)| RunnerInput { schema, time_ms: *time_ms, values }).collect();
        runner.run(&inputs)
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
            assert!((verdict(a).score - verdict(b).score).abs() < 1e-5);
        }
        let mut alone = runner();
        let alone: Vec<Answer> =
            inputs.iter().step_by(2).flat_map(|input| alone.run(std::slice::from_ref(input))).collect();
        assert_eq!(alone, singles.iter().step_by(2).cloned().collect::<Vec<_>>());
    }

    #[test]
    fn a_stream_without_a_needed_channel_is_answered_by_name() {
        let answers = run_all(&mut runner(), &schema("x", &["a"]), &[(0, vec![1.0])]);
        assert_eq!(answers, [Answer::MissingChannel(MissingChannel(names(&["b"])[0].clone()))]);
    }

    /// Distances from the stream's own normal, without a network.
    fn calibrated() -> Pipeline {
        let mut pipeline = sample();
        pipeline.calibration = Some(Calibration { rows: 40, warm_up_rows: 10 });
        pipeline.input.missing = Missing::Hold;
        pipeline.preprocess =
            vec![Step::Ema { alpha: 0.5 }, Step::Zscore { baseline: Baseline::Stream, mean: vec![], std: vec![] }];
        pipeline.network = vec![];
        pipeline.decision = Decision::Anomaly {
            score: Score::Mahalanobis { ridge: 1e-3, baseline: Baseline::Stream, mean: vec![], whitening: vec![] },
            smooth: 0.5,
            threshold: Threshold::Stream { factor: 2.0 },
            hold_rows: 0,
        };
        pipeline
    }

    #[test]
    fn a_stream_is_calibrated_first_and_then_judged_by_its_own_normal() {
        let mut readings = rows(0);
        readings[100].1[0] = 50.0;
        let answers = run_all(&mut runner_of(calibrated(), &Weights::default()), &schema("x", &["a", "b"]), &readings);
        assert!(answers[..40].iter().all(|answer| *answer == Answer::Calibrating));
        assert!(!verdict(&answers[99]).anomaly && verdict(&answers[100]).anomaly, "{:?}", &answers[98..102]);
        // Another machine of the kind, at another level, is as normal.
        let moved: Vec<(i64, Vec<f64>)> =
            readings.iter().map(|(time_ms, v)| (*time_ms, vec![1_000.0 + v[0], 3.0 * v[1]])).collect();
        let moved = run_all(&mut runner_of(calibrated(), &Weights::default()), &schema("y", &["a", "b"]), &moved);
        let alarms =
            |answers: &[Answer]| answers[40..].iter().map(|answer| verdict(answer).anomaly).collect::<Vec<_>>();
        assert_eq!(alarms(&answers), alarms(&moved));
    }

    #[test]
    fn a_calibration_without_values_begins_again() {
        let schema = schema("x", &["a", "b"]);
        let mut readings: Vec<(i64, Vec<f64>)> = (0..40).map(|i| (i * 1_000, vec![f64::NAN, 1.0])).collect();
        readings.extend(rows(0).into_iter().map(|(time_ms, values)| (40_000 + time_ms, values)));
        let answers = run_all(&mut runner_of(calibrated(), &Weights::default()), &schema, &readings);
        assert!(answers[..80].iter().all(|answer| *answer == Answer::Calibrating));
        assert!(answers[80..].iter().all(|answer| !verdict(answer).anomaly), "{:?}", &answers[80..84]);
    }

    #[test]
    fn what_is_remembered_goes_on_as_if_nothing_had_happened_also_in_the_calibration() {
        let schema = schema("x", &["a", "b"]);
        let readings = rows(0);
        let mut whole = runner_of(calibrated(), &Weights::default());
        let whole = run_all(&mut whole, &schema, &readings);
        for cut in [1, 9, 25, 40, 41, 99] {
            let mut first = runner_of(calibrated(), &Weights::default());
            let mut answers = run_all(&mut first, &schema, &readings[..cut]);
            let bytes = postcard::to_allocvec(&first.memory()).expect("encodes");
            let mut second = runner_of(calibrated(), &Weights::default());
            assert_eq!(second.restore(postcard::from_bytes(&bytes).expect("decodes")), 1);
            answers.extend(run_all(&mut second, &schema, &readings[cut..]));
            assert_eq!(answers, whole, "cut at {cut}");
        }
        assert_eq!(runner().restore(runner_of(calibrated(), &Weights::default()).memory()), 0);
    }
}
