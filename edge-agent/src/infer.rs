//! Inference: one thread that owns the pipeline in service.

use std::collections::VecDeque;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};

use shared::device::{DeviceChoice, DeviceError};
use shared::ids::{Epoch, Sequence};
use shared::package::Package;
use shared::package::signature::{self, PublicKey};
use shared::pipeline::runner::{Runner, RunnerInput};
use shared::wire::message::ServedModel;
use tokio::sync::mpsc;
use tracing::{error, info};

use crate::clock::Clock;
use crate::core::limits::{MEMORY_READINGS, WARM_UP_READINGS};
use crate::core::memory::PipelineMemory;
use crate::core::trial::MODEL_BROKE;
use crate::core::{Answered, Event, Question};
use crate::telemetry::Telemetry;

/// Requests that may wait: two batches of questions and one model.
const REQUESTS: usize = 8;

/// What inference is asked to do.
pub enum Request {
    /// Answer questions; answered by `Answered`.
    Ask(Vec<Question>),
    /// Take this package into service; answered by `ModelLoaded` or `ModelRefused`.
    Load {
        /// What it is.
        model: ServedModel,
        /// The file.
        bytes: Vec<u8>,
        /// What it remembered of its streams when the agent ended.
        memory: Option<PipelineMemory>,
    },
}

/// How inference runs.
#[derive(Debug, Clone)]
pub struct Settings {
    /// On what.
    pub device: DeviceChoice,
    /// Whose signature a package must have; none: whatever the hub sends is taken.
    pub trusted: Vec<PublicKey>,
    /// The epoch of the spool whose readings are answered.
    pub epoch: Epoch,
}

/// Starts the inference thread on a device. It ends when the sender is dropped.
///
/// # Errors
/// If the device is not built in, or no thread can be started.
pub fn start(
    settings: Settings,
    clock: Clock,
    telemetry: Telemetry,
    events: mpsc::Sender<Event>,
) -> Result<(mpsc::Sender<Request>, std::thread::JoinHandle<()>), StartError> {
    if let DeviceChoice::Fixed(device) = settings.device {
        device.open()?;
    }
    let (sender, requests) = mpsc::channel(REQUESTS);
    let worker = Worker { settings, serving: None, recent: VecDeque::new(), unwritten: 0, clock, telemetry };
    let thread = std::thread::Builder::new().name("infer".into()).spawn(move || worker.run(requests, &events))?;
    Ok((sender, thread))
}

/// Why inference cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The device is not built in.
    #[error("{0}")]
    Device(#[from] DeviceError),
    /// No thread can be started.
    #[error("start the inference thread: {0}")]
    Thread(#[from] io::Error),
}

struct Worker {
    settings: Settings,
    serving: Option<(ServedModel, Runner)>,
    /// Readings answered since the memory was last handed out.
    unwritten: usize,
    /// The newest readings, from which a new model's streaming state is brought up to date before it answers.
    recent: VecDeque<Question>,
    clock: Clock,
    telemetry: Telemetry,
}

impl Worker {
    fn run(mut self, mut requests: mpsc::Receiver<Request>, events: &mpsc::Sender<Event>) {
        while let Some(request) = requests.blocking_recv() {
            let (event, memory) = match request {
                Request::Ask(questions) => {
                    // What is let go of one stream shares a place, so that the newest question is not always the furthest.
                    let through = questions.iter().map(|question| question.of).max();
                    (self.answer(questions), through.and_then(|through| self.memory(through)))
                }
                Request::Load { model, bytes, memory } => (Some(self.load(model, &bytes, memory)), None),
            };
            // The memory comes behind the answers that led to it.
            for event in event.into_iter().chain(memory) {
                if events.blocking_send(event).is_err() {
                    return;
                }
            }
        }
    }

    fn answer(&mut self, questions: Vec<Question>) -> Option<Event> {
        let (model, runner) = self.serving.as_mut()?;
        let model = model.model.clone();
        let started = self.clock.monotonic_us();
        // A pipeline that breaks off must not take the agent with it; the core goes back to the one before.
        let answers = catch_unwind(AssertUnwindSafe(|| runner.run(&inputs(questions.iter()))));
        let busy_us = self.clock.monotonic_us() - started;
        self.telemetry.inference(questions.len(), busy_us);
        self.unwritten += questions.len();
        self.recent.extend(questions.iter().cloned());
        let excess = self.recent.len().saturating_sub(WARM_UP_READINGS);
        self.recent.drain(..excess);
        let answers = match answers {
            Ok(answers) => questions
                .into_iter()
                .zip(answers)
                .map(|(question, answer)| Answered { question, outcome: answer.into_outcome() })
                .collect(),
            Err(_) => {
                error!(model = %model.name, version = model.version.0, "the pipeline broke off in a reading");
                questions.into_iter().map(|question| Answered { question, outcome: Err(MODEL_BROKE) }).collect()
            }
        };
        Some(Event::Answered { model, answers, busy_us })
    }

    /// What the pipeline remembers after reading `through`, if it is time to write it down.
    fn memory(&mut self, through: Sequence) -> Option<Event> {
        let (model, runner) = self.serving.as_ref().filter(|_| self.unwritten >= MEMORY_READINGS)?;
        self.unwritten = 0;
        let bytes = postcard::to_allocvec(&runner.memory()).ok()?;
        let memory = PipelineMemory { digest: model.digest, epoch: self.settings.epoch, through, bytes };
        Some(Event::PipelineMemory(memory))
    }

    fn load(&mut self, model: ServedModel, bytes: &[u8], memory: Option<PipelineMemory>) -> Event {
        let loaded = self
            .verify(bytes)
            .and_then(|()| Package::open(bytes, Some(model.digest)).map_err(|error| error.to_string()))
            .and_then(|(package, _)| {
                let manifest = &package.manifest;
                if (&manifest.model, manifest.version) != (&model.model.name, model.model.version) {
                    return Err(format!(
                        "the package is {} version {}, the offer said {} version {}",
                        manifest.model, manifest.version, model.model.name, model.model.version
                    ));
                }
                let clock_us = || self.clock.monotonic_us();
                let load = || package.load_on(self.settings.device, &clock_us).map_err(|error| error.to_string());
                let chosen = catch_unwind(AssertUnwindSafe(load))
                    .unwrap_or_else(|_| Err("it broke off as it was loaded".to_owned()))?;
                if !chosen.reason.is_empty() {
                    info!("{}", chosen.reason);
                }
                self.telemetry.runs_on(chosen.device);
                Ok((chosen.runner, manifest.floor))
            });
        match loaded {
            Ok((mut runner, floor)) => {
                let streams = memory.and_then(|memory| postcard::from_bytes(&memory.bytes).ok());
                match streams.map(|streams| runner.restore(streams)) {
                    Some(streams) => info!(streams, "the pipeline goes on from what it remembered"),
                    None => drop(runner.run(&inputs(self.recent.iter()))),
                }
                self.serving = Some((model.clone(), runner));
                Event::ModelLoaded { model, floor }
            }
            Err(reason) => Event::ModelRefused { model, reason },
        }
    }
}

impl Worker {
    /// Proves, before anything of it is parsed, that a package comes from whom it must.
    fn verify(&self, bytes: &[u8]) -> Result<(), String> {
        if self.settings.trusted.is_empty() {
            return Ok(());
        }
        signature::verify(bytes, &self.settings.trusted).map(drop).map_err(|error| error.to_string())
    }
}

fn inputs<'a>(questions: impl Iterator<Item = &'a Question>) -> Vec<RunnerInput<'a>> {
    questions
        .map(|question| RunnerInput { schema: &question.schema, time_ms: question.time_ms, values: &question.values })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use shared::package::signature::ReleaseKey;

    fn worker(trusted: Vec<PublicKey>) -> Worker {
        let settings = Settings { device: DeviceChoice::default(), trusted, epoch: Epoch(1) };
        Worker {
            settings,
            serving: None,
            recent: VecDeque::new(),
            unwritten: 0,
            clock: Clock::start(),
            telemetry: Telemetry::default(),
        }
    }

    #[test]
    fn a_package_is_refused_before_it_is_parsed_unless_a_trusted_key_signed_it() {
        let key = |seed| ReleaseKey::from_seed(&[seed; 32]).expect("a key");
        // Signed as a package is, and nothing a package holds: it fails to parse, but only once it is trusted.
        let hollow = [b"TIDE".as_slice(), &[2, 0, 0, 0, 0, 0, 0, 0]].concat();
        let signed = signature::add(&hollow, &key(1)).expect("signs");
        let digest = signature::verify(&signed, &[key(1).public()]).expect("sound");
        let model = ServedModel {
            model: shared::event::ModelRef {
                name: shared::ids::ModelName::new("pump").expect("valid"),
                version: shared::ids::ModelVersion(1),
            },
            digest,
        };
        let reason = |trusted: Vec<PublicKey>, bytes: &[u8]| {
            let event = worker(trusted).load(model.clone(), bytes, None);
            let Event::ModelRefused { reason, .. } = event else { panic!("not refused: {event:?}") };
            reason
        };
        assert!(reason(vec![key(2).public()], &signed).contains("is not signed by a trusted key"));
        assert!(reason(vec![key(1).public()], &hollow).contains("is not signed by a trusted key; it has none"));
        assert!(reason(vec![key(1).public()], &signed).contains("is malformed"));
    }
}
