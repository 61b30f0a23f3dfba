//! Versions of a model: what each does to a box that loads it, the packages on a box's disk, and the inference that runs them.

use std::collections::{BTreeMap, VecDeque};

use edge_agent::core::trial::MODEL_BROKE;
use edge_agent::core::{Answered, Event, Question, SlotState};
use shared::event::{ModelRef, Outcome, Verdict};
use shared::ids::{Digest, ModelName, ModelVersion};
use shared::wire::message::ServedModel;

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

    pub(super) fn prune(&mut self, slot: &SlotState) {
        let kept = [&slot.serving, &slot.previous].map(|model| model.as_ref().map(|model| model.digest));
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
}

#[derive(Debug)]
enum Request {
    Ask(Vec<Question>),
    Load(ServedModel),
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

    pub(super) fn is_idle(&self) -> bool {
        self.requests.is_empty()
    }

    pub(super) fn work(&mut self) -> Worked {
        match self.requests.pop_front() {
            None => Worked::Nothing,
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

    fn answer(&mut self, questions: Vec<Question>) -> Worked {
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
