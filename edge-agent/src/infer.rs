//! Inference: one thread that owns the pipeline in service, and the one in its shadow.

mod shadow;

use std::collections::VecDeque;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};

use shared::device::{DeviceChoice, DeviceError};
use shared::event::Outcome;
use shared::ids::{AgentId, Epoch, ModelVersion, Sequence};
use shared::package::signature::{self, PublicKey};
use shared::package::{Chosen, Package};
use shared::pipeline::runner::{Runner, RunnerInput};
use shared::wire::message::ServedModel;
use tokio::sync::mpsc;
use tracing::{error, info};

use self::shadow::Shadow;

use crate::clock::{Clock, WallClock, Working};
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
        /// Whether it came just now: then its signature must not have expired.
        is_new: bool,
    },
    /// Run this package beside the one in service; answered by `ShadowLoaded` or `Shadowed`.
    LoadShadow {
        /// What it is.
        model: ServedModel,
        /// The file.
        bytes: Vec<u8>,
        /// How many of a hundred readings it sees.
        percent: u8,
    },
    /// Run nothing in shadow any more.
    EndShadow,
}

/// How inference runs.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Who the box is.
    pub agent: AgentId,
    /// On what.
    pub device: DeviceChoice,
    /// Whose signature a package must have; none: whatever the hub sends is taken.
    pub trusted: Vec<PublicKey>,
    /// The epoch of the spool whose readings are answered.
    pub epoch: Epoch,
    /// How long an answer of a version in shadow may take in the mean.
    pub max_answer_us: u64,
}

/// Starts the inference thread on a device. It ends when the sender is dropped.
///
/// # Errors
/// If the device is not built in, or no thread can be started.
pub fn start(
    settings: Settings,
    working: Working,
    wall: WallClock,
    telemetry: Telemetry,
    events: mpsc::Sender<Event>,
) -> Result<(mpsc::Sender<Request>, std::thread::JoinHandle<()>), StartError> {
    if let DeviceChoice::Fixed(device) = settings.device {
        device.check_built_in()?;
    }
    let (sender, requests) = mpsc::channel(REQUESTS);
    let worker = Worker::new(settings, working.clock, wall, telemetry);
    let thread =
        std::thread::Builder::new().name("infer".into()).spawn(move || worker.run(requests, &events, &working))?;
    Ok((sender, thread))
}

/// Why inference cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The device is not built in.
    #[error("open the device: {0}")]
    Device(#[from] DeviceError),
    /// No thread can be started.
    #[error("start the inference thread: {0}")]
    Thread(#[from] io::Error),
}

struct Worker {
    settings: Settings,
    serving: Option<(ServedModel, Runner)>,
    shadow: Option<Shadow>,
    /// Readings answered since the memory was last handed out.
    unwritten: usize,
    /// The newest readings, from which a new model's streaming state is brought up to date before it answers.
    recent: VecDeque<Question>,
    clock: Clock,
    wall: WallClock,
    telemetry: Telemetry,
}

impl Worker {
    fn new(settings: Settings, clock: Clock, wall: WallClock, telemetry: Telemetry) -> Self {
        Self { settings, serving: None, shadow: None, unwritten: 0, recent: VecDeque::new(), clock, wall, telemetry }
    }

    fn run(mut self, mut requests: mpsc::Receiver<Request>, events: &mpsc::Sender<Event>, working: &Working) {
        while let Some(request) = requests.blocking_recv() {
            working.begins();
            let is_sent = match request {
                Request::Ask(questions) => self.ask(questions, events),
                Request::Load { model, bytes, memory, is_new } => {
                    let event = self.load(model, &bytes, memory, is_new);
                    events.blocking_send(event).is_ok()
                }
                Request::LoadShadow { model, bytes, percent } => {
                    let event = self.load_shadow(&model, &bytes, percent);
                    events.blocking_send(event).is_ok()
                }
                Request::EndShadow => {
                    self.shadow = None;
                    true
                }
            };
            working.rests();
            if !is_sent {
                return;
            }
        }
    }

    /// Answers, and says what follows, in order: the answers are on their way before anything else is computed.
    fn ask(&mut self, questions: Vec<Question>, events: &mpsc::Sender<Event>) -> bool {
        // What is let go of one stream shares a place, so that the newest question is not always the furthest.
        let through = questions.iter().map(|question| question.of).max();
        let count = questions.len();
        let answered = self.answer(questions);
        let said = answered.as_ref().filter(|_| self.shadow.is_some()).map(said_by);
        // The memory comes behind the answers that led to it.
        let memory = through.and_then(|through| self.memory(through));
        let is_sent = answered.into_iter().chain(memory).all(|event| events.blocking_send(event).is_ok());
        let shadowed = said.and_then(|said| self.run_shadow(count, &said));
        is_sent && shadowed.is_none_or(|event| events.blocking_send(event).is_ok())
    }

    /// Lets the version in shadow see the newest readings, of which the one in service said `said`.
    fn run_shadow(&mut self, count: usize, said: &[Option<Outcome>]) -> Option<Event> {
        let shadow = self.shadow.as_mut()?;
        let newest = self.recent.len().checked_sub(count)?;
        let questions: Vec<&Question> = self.recent.iter().skip(newest).collect();
        let digest = shadow.digest();
        let shadowed = shadow.see(&questions, said, self.settings.max_answer_us, || self.clock.monotonic_us());
        if let Err(reason) = &shadowed {
            error!(%digest, "the version in shadow is given up: {reason}");
            self.shadow = None;
        }
        Some(Event::Shadowed { digest, shadowed })
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

    fn load(&mut self, model: ServedModel, bytes: &[u8], memory: Option<PipelineMemory>, is_new: bool) -> Event {
        match self.build(&model, bytes, is_new) {
            Ok((Chosen { mut runner, device, .. }, floor)) => {
                self.telemetry.runs_on(device);
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

    fn load_shadow(&mut self, model: &ServedModel, bytes: &[u8], percent: u8) -> Event {
        let digest = model.digest;
        match self.build(model, bytes, true) {
            Ok((Chosen { mut runner, .. }, _)) => {
                // It begins as a version does that takes service: after what came in before.
                if catch_unwind(AssertUnwindSafe(|| drop(runner.run(&inputs(self.recent.iter()))))).is_err() {
                    return Event::Shadowed { digest, shadowed: Err("it broke off in its first readings".to_owned()) };
                }
                self.shadow = Some(Shadow::new(self.settings.agent.clone(), digest, runner, percent));
                Event::ShadowLoaded(digest)
            }
            Err(reason) => Event::Shadowed { digest, shadowed: Err(reason) },
        }
    }

    /// Proves a package, and puts it into operation.
    fn build(&self, model: &ServedModel, bytes: &[u8], is_new: bool) -> Result<(Chosen, ModelVersion), String> {
        self.verify(bytes, is_new)?;
        let (package, _) = Package::open(bytes, Some(model.digest)).map_err(|error| error.to_string())?;
        let manifest = &package.manifest;
        if (&manifest.model, manifest.version) != (&model.model.name, model.model.version) {
            return Err(format!(
                "the package is {} version {}, the offer said {} version {}",
                manifest.model, manifest.version, model.model.name, model.model.version
            ));
        }
        let clock_us = || self.clock.monotonic_us();
        let chosen = package.load_on(self.settings.device, &clock_us).map_err(|error| error.to_string())?;
        if !chosen.reason.is_empty() {
            info!("{}", chosen.reason);
        }
        Ok((chosen, manifest.floor))
    }
}

impl Worker {
    /// Proves, before anything of it is parsed, that a package comes from whom it must.
    fn verify(&self, bytes: &[u8], is_new: bool) -> Result<(), String> {
        if self.settings.trusted.is_empty() {
            return Ok(());
        }
        let vouched = signature::verify(bytes, &self.settings.trusted).map_err(|error| error.to_string())?;
        // A box that serves a version goes on with it: no answers at all would be worse than old ones.
        if is_new { vouched.at(self.wall.unix_ms()).map(drop).map_err(|error| error.to_string()) } else { Ok(()) }
    }
}

/// What was said of each reading, where something was.
fn said_by(answered: &Event) -> Vec<Option<Outcome>> {
    let Event::Answered { answers, .. } = answered else {
        return Vec::new();
    };
    answers.iter().map(|answer| answer.outcome.as_ref().ok().filter(|_| !answer.question.warm_up).cloned()).collect()
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
        let settings = Settings {
            agent: AgentId::new("line-1").expect("valid"),
            device: DeviceChoice::default(),
            trusted,
            epoch: Epoch(1),
            max_answer_us: 1_000_000,
        };
        let clock = Clock::start();
        Worker::new(settings, clock, WallClock::unremembered(clock), Telemetry::default())
    }

    #[test]
    fn a_package_is_refused_before_it_is_parsed_unless_a_trusted_key_signed_it() {
        let key = |seed| ReleaseKey::from_seed(&[seed; 32]).expect("a key");
        // Signed as a package is, and nothing a package holds: it fails to parse, but only once it is trusted.
        let hollow = [b"TIDE".as_slice(), &[3, 0, 0, 0, 0, 0, 0, 0]].concat();
        let signed = signature::add(&hollow, &key(1), signature::NEVER).expect("signs");
        let old = signature::add(&hollow, &key(1), 1_000).expect("signs");
        let digest = signature::verify(&signed, &[key(1).public()]).and_then(|vouched| vouched.at(0)).expect("sound");
        let model = ServedModel {
            model: shared::event::ModelRef {
                name: shared::ids::ModelName::new("pump").expect("valid"),
                version: shared::ids::ModelVersion(1),
            },
            digest,
        };
        let loaded = |trusted: Vec<PublicKey>, bytes: &[u8], is_new: bool| {
            let event = worker(trusted).load(model.clone(), bytes, None, is_new);
            let Event::ModelRefused { reason, .. } = event else { panic!("not refused: {event:?}") };
            reason
        };
        let reason = |trusted, bytes: &[u8]| loaded(trusted, bytes, true);
        assert!(reason(vec![key(2).public()], &signed).contains("is not signed by a trusted key"));
        assert!(reason(vec![key(1).public()], &hollow).contains("is not signed by a trusted key; it has none"));
        assert!(reason(vec![key(1).public()], &signed).contains("is malformed"));
        assert!(reason(vec![key(1).public()], &old).contains("was signed until"));
        assert!(loaded(vec![key(1).public()], &old, false).contains("is malformed"), "it served before");
    }
}
