//! Inference: one thread that owns the pipeline in service.

use std::collections::VecDeque;
use std::io;

use shared::device::{Device, DeviceError, DeviceKind};
use shared::package::Package;
use shared::pipeline::runner::{Runner, RunnerInput};
use shared::wire::message::ServedModel;
use tokio::sync::mpsc;

use crate::clock::Clock;
use crate::core::limits::WARM_UP_READINGS;
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
    },
}

/// Starts the inference thread on a device. It ends when the sender is dropped.
///
/// # Errors
/// If the device is not built in, or no thread can be started.
pub fn start(
    device: DeviceKind,
    clock: Clock,
    telemetry: Telemetry,
    events: mpsc::Sender<Event>,
) -> Result<(mpsc::Sender<Request>, std::thread::JoinHandle<()>), StartError> {
    let device = device.open()?;
    let (sender, requests) = mpsc::channel(REQUESTS);
    let worker = Worker { device, serving: None, recent: VecDeque::new(), clock, telemetry };
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
    device: Device,
    serving: Option<(ServedModel, Runner)>,
    /// The newest readings, from which a new model's streaming state is brought up to date before it answers.
    recent: VecDeque<Question>,
    clock: Clock,
    telemetry: Telemetry,
}

impl Worker {
    fn run(mut self, mut requests: mpsc::Receiver<Request>, events: &mpsc::Sender<Event>) {
        while let Some(request) = requests.blocking_recv() {
            let event = match request {
                Request::Ask(questions) => self.answer(questions),
                Request::Load { model, bytes } => Some(self.load(model, &bytes)),
            };
            if let Some(event) = event
                && events.blocking_send(event).is_err()
            {
                return;
            }
        }
    }

    fn answer(&mut self, questions: Vec<Question>) -> Option<Event> {
        let (model, runner) = self.serving.as_mut()?;
        let started = self.clock.monotonic_us();
        let answers = runner.run(&inputs(questions.iter()));
        self.telemetry.inference(questions.len(), self.clock.monotonic_us() - started);
        self.recent.extend(questions.iter().cloned());
        let excess = self.recent.len().saturating_sub(WARM_UP_READINGS);
        self.recent.drain(..excess);
        let answers = questions
            .into_iter()
            .zip(answers)
            .map(|(question, answer)| Answered { question, outcome: answer.into_outcome() })
            .collect();
        Some(Event::Answered { model: model.model.clone(), answers })
    }

    fn load(&mut self, model: ServedModel, bytes: &[u8]) -> Event {
        let loaded =
            Package::open(bytes, Some(model.digest)).map_err(|error| error.to_string()).and_then(|(package, _)| {
                let manifest = &package.manifest;
                if (&manifest.model, manifest.version) != (&model.model.name, model.model.version) {
                    return Err(format!(
                        "the package is {} version {}, the offer said {} version {}",
                        manifest.model, manifest.version, model.model.name, model.model.version
                    ));
                }
                package.load(&self.device).map_err(|error| error.to_string())
            });
        match loaded {
            Ok(mut runner) => {
                runner.run(&inputs(self.recent.iter()));
                self.serving = Some((model.clone(), runner));
                Event::ModelLoaded(model)
            }
            Err(reason) => Event::ModelRefused { model, reason },
        }
    }
}

fn inputs<'a>(questions: impl Iterator<Item = &'a Question>) -> Vec<RunnerInput<'a>> {
    questions
        .map(|question| RunnerInput { schema: &question.schema, time_ms: question.time_ms, values: &question.values })
        .collect()
}
