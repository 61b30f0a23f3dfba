//! Versions of a model: what each does to a box that loads it, the packages on a box's disk, and the inference that runs them.

use std::collections::{BTreeMap, VecDeque};

use edge_agent::core::limits::TRIAL_FAULTS;
use edge_agent::core::trial::MODEL_BROKE;
use edge_agent::core::{Answered, Event, Question, SlotState};
use shared::event::{ModelRef, Outcome, Verdict};
use shared::ids::{Digest, ModelName, ModelVersion};
use shared::wire::message::{ServedModel, ShadowCounts};

/// Bytes of every package, and of the parts it is fetched in.
pub(super) const PACKAGE_BYTES: u64 = 250;
pub(super) const PART_BYTES: u64 = 100;
/// Answers after which a version shows what it is, if not at once.
const QUIET_ANSWERS: u64 = 40;

/// What a version does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Nature {
    Good,
    /// Its golden answers do not hold.
    Refused,
    /// It says what is no number.
    NoNumbers,
    /// Its inference breaks off, and that is caught.
    BreaksOff,
    /// The agent ends as it is loaded.
    EndsAgent,
    /// The agent ends as it answers.
    EndsAgentLater,
    /// Everything is an anomaly.
    Loud,
    /// It lacks a channel.
    Mute,
    /// It takes too long.
    Slow,
}

impl Nature {
    pub(super) const ALL: [Self; 9] = [
        Self::Good,
        Self::Refused,
        Self::NoNumbers,
        Self::BreaksOff,
        Self::EndsAgent,
        Self::EndsAgentLater,
        Self::Loud,
        Self::Mute,
        Self::Slow,
    ];

    /// The package of a version of this nature: it is written in it.
    pub(super) fn digest(self, version: ModelVersion) -> Digest {
        let mut bytes = [0; 32];
        bytes[..4].copy_from_slice(&version.0.to_le_bytes());
        bytes[31] = Self::ALL.iter().position(|nature| *nature == self).unwrap_or_default() as u8;
        Digest(bytes)
    }

    pub(super) fn of(digest: Digest) -> Self {
        Self::ALL[usize::from(digest.0[31]) % Self::ALL.len()]
    }

    fn answer(self, question: &Question, answered: u64) -> Result<Outcome, &'static str> {
        let said = |score, anomaly| Ok(Outcome::Anomaly(Verdict { score, threshold: 1.0, anomaly }));
        match self {
            _ if question.time_ms % 7 == 0 => Err("window_filling"),
            Self::NoNumbers => said(f32::NAN, true),
            Self::Loud => said(2.0, true),
            Self::Mute => Err("missing_channel"),
            Self::BreaksOff if answered >= QUIET_ANSWERS => Err(MODEL_BROKE),
            Self::Good | Self::Refused | Self::BreaksOff | Self::EndsAgent | Self::EndsAgentLater | Self::Slow => {
                said(0.5, false)
            }
        }
    }
}

/// The model of every world.
pub(super) fn model() -> ModelName {
    ModelName::new("pump").expect("valid")
}

/// What every box serves when a world begins.
pub(super) fn first() -> ServedModel {
    let version = ModelVersion(1);
    ServedModel { model: ModelRef { name: model(), version }, digest: Nature::Good.digest(version) }
}

/// The packages on a box's disk, as `artifacts.rs` keeps them.
#[derive(Debug)]
pub(super) struct Shelf {
    whole: Vec<Digest>,
    parts: BTreeMap<Digest, u64>,
}

impl Shelf {
    pub(super) fn new() -> Self {
        Self { whole: vec![first().digest], parts: BTreeMap::new() }
    }

    pub(super) fn store(&mut self, digest: Digest, offset: u64, bytes: u64) {
        self.parts.insert(digest, offset + bytes);
    }

    /// Whether a package is whole; one that was just completed gets its own name.
    pub(super) fn complete(&mut self, digest: Digest) -> bool {
        if self.parts.get(&digest) == Some(&PACKAGE_BYTES) {
            self.parts.remove(&digest);
            self.whole.push(digest);
        }
        self.whole.contains(&digest)
    }

    pub(super) fn prune(&mut self, slot: &SlotState, shadow: Option<Digest>) {
        let [serving, previous] = [&slot.serving, &slot.previous].map(|model| model.as_ref().map(|model| model.digest));
        let kept = [serving, previous, shadow];
        self.whole.retain(|digest| kept.contains(&Some(*digest)));
    }

    pub(super) fn discard(&mut self, digest: Digest) {
        self.parts.remove(&digest);
        self.whole.retain(|known| *known != digest);
    }

    pub(super) fn partial(&self) -> Option<(Digest, u64)> {
        self.parts.first_key_value().map(|(digest, bytes)| (*digest, *bytes))
    }
}

/// The inference thread.
#[derive(Debug, Default)]
pub(super) struct Worker {
    requests: VecDeque<Request>,
    loaded: Option<ServedModel>,
    answered: u64,
    /// What runs in shadow, and what it has answered.
    shadow: Option<(Digest, u64)>,
    /// What is said after the answers.
    shadowed: Option<Event>,
}

#[derive(Debug)]
enum Request {
    Ask(Vec<Question>),
    Load(ServedModel),
    LoadShadow(Digest),
    EndShadow,
}

/// What comes of one request.
#[derive(Debug)]
pub(super) enum Worked {
    Nothing,
    Report(Event),
    /// The agent ended because of this package.
    Ended(Digest),
}

impl Worker {
    pub(super) fn ask(&mut self, questions: Vec<Question>) {
        self.requests.push_back(Request::Ask(questions));
    }

    pub(super) fn load(&mut self, model: ServedModel) {
        self.requests.push_back(Request::Load(model));
    }

    pub(super) fn load_shadow(&mut self, digest: Digest) {
        self.requests.push_back(Request::LoadShadow(digest));
    }

    pub(super) fn end_shadow(&mut self) {
        self.requests.push_back(Request::EndShadow);
    }

    pub(super) fn is_idle(&self) -> bool {
        self.requests.is_empty() && self.shadowed.is_none()
    }

    pub(super) fn work(&mut self) -> Worked {
        if let Some(event) = self.shadowed.take() {
            return Worked::Report(event);
        }
        match self.requests.pop_front() {
            None => Worked::Nothing,
            Some(Request::LoadShadow(digest)) => self.try_shadow(digest),
            Some(Request::EndShadow) => {
                self.shadow = None;
                Worked::Nothing
            }
            Some(Request::Load(model)) => self.try_model(model),
            Some(Request::Ask(questions)) => self.answer(questions),
        }
    }

    fn try_model(&mut self, model: ServedModel) -> Worked {
        match Nature::of(model.digest) {
            Nature::EndsAgent => Worked::Ended(model.digest),
            Nature::Refused => {
                Worked::Report(Event::ModelRefused { model, reason: "its golden answers do not hold".to_owned() })
            }
            Nature::Good
            | Nature::NoNumbers
            | Nature::BreaksOff
            | Nature::EndsAgentLater
            | Nature::Loud
            | Nature::Mute
            | Nature::Slow => {
                self.loaded = Some(model.clone());
                self.answered = 0;
                Worked::Report(Event::ModelLoaded { model, floor: ModelVersion(1) })
            }
        }
    }

    fn try_shadow(&mut self, digest: Digest) -> Worked {
        match Nature::of(digest) {
            Nature::EndsAgent => Worked::Ended(digest),
            Nature::Refused => {
                Worked::Report(Event::Shadowed { digest, shadowed: Err("its golden answers do not hold".to_owned()) })
            }
            Nature::Good
            | Nature::NoNumbers
            | Nature::BreaksOff
            | Nature::EndsAgentLater
            | Nature::Loud
            | Nature::Mute
            | Nature::Slow => {
                self.shadow = Some((digest, 0));
                Worked::Report(Event::ShadowLoaded(digest))
            }
        }
    }

    /// What a version in shadow says of readings; nothing if the agent ended.
    fn run_shadow(&mut self, questions: &[Question]) -> Option<()> {
        let Some((digest, answered)) = self.shadow.as_mut() else {
            return Some(());
        };
        let (digest, nature) = (*digest, Nature::of(*digest));
        let mut counts = ShadowCounts::of(digest);
        let mut problem = None;
        for question in questions.iter().filter(|question| !question.warm_up) {
            (counts.readings, counts.mirrored, *answered) = (counts.readings + 1, counts.mirrored + 1, *answered + 1);
            match nature.answer(question, *answered) {
                Ok(Outcome::Anomaly(verdict)) => {
                    counts.compared += 1;
                    counts.anomalous += u64::from(verdict.anomaly);
                    if !verdict.score.is_finite() {
                        problem = Some("its answers are no numbers");
                    }
                }
                Err(MODEL_BROKE) => problem = Some("it broke off"),
                Ok(_) | Err(_) => {}
            }
        }
        if nature == Nature::EndsAgentLater && *answered >= QUIET_ANSWERS {
            return None;
        }
        if nature == Nature::Mute && *answered >= TRIAL_FAULTS {
            problem = Some("it has no answers");
        }
        if nature == Nature::Slow {
            problem = Some("an answer takes too long");
        }
        let shadowed = problem.map_or(Ok(counts), |problem| Err(problem.to_owned()));
        if shadowed.is_err() {
            self.shadow = None;
        }
        self.shadowed = Some(Event::Shadowed { digest, shadowed });
        Some(())
    }

    fn answer(&mut self, questions: Vec<Question>) -> Worked {
        // What it says comes behind the answers.
        let shadow = self.shadow.map(|(digest, _)| digest);
        if self.run_shadow(&questions).is_none() {
            return shadow.map_or(Worked::Nothing, Worked::Ended);
        }
        let Some(ServedModel { model, digest }) = self.loaded.clone() else {
            return Worked::Nothing;
        };
        let nature = Nature::of(digest);
        if nature == Nature::EndsAgentLater && self.answered >= QUIET_ANSWERS {
            return Worked::Ended(digest);
        }
        let busy_us = questions.len() as u64 * if nature == Nature::Slow { 5_000_000 } else { 1 };
        let mut answers = Vec::with_capacity(questions.len());
        for question in questions {
            self.answered += 1;
            let outcome = nature.answer(&question, self.answered);
            answers.push(Answered { question, outcome });
        }
        Worked::Report(Event::Answered { model, answers, busy_us })
    }
}
