//! A seeded world: a core, its box, a broker and a hub, with everything going wrong that can.
//!
//! The broker delivers again what was not acknowledged; the disk is slow, fails, and forgets in a crash what was not
//! durable; the network breaks with whatever is on its way; the hub refuses, goes away and is killed. What must hold
//! meanwhile is asserted where it happens, what must be true in the end in [`World::settle`].

mod broker;
mod disk;
mod hub;
mod random;
mod recover;
mod truth;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use shared::ids::Digest;
use shared::pipeline::decision::Verdict;
use shared::wire::message::ServedModel;

use super::rig::settings;
use crate::core::limits::{ANSWERS_IN_FLIGHT, INFER_BATCH};
use crate::core::{Answered, EdgeCore, Effect, Event, Millis, Question, Received, Settings};
use broker::{Broker, Content, RECEIVE_MAXIMUM, STREAMS};
use disk::{Disk, Files, Request, Store, StoreRequest};
use hub::{Command, Hub, Link, UNLOADABLE};
use random::Random;
use recover::recover;
use truth::Truth;

/// Messages handed to the core at once, as `agent.rs` does.
const MESSAGES_AT_ONCE: usize = 256;
/// Rounds in which an undisturbed world must come to rest.
const ROUNDS: usize = 3_000;
/// What a producer repeats is at most so many messages old.
const REPEATS: usize = 200;

pub(super) struct World {
    seed: u64,
    steps: usize,
    random: Random,
    now: Millis,
    core: EdgeCore,
    broker: Broker,
    /// Messages the MQTT shell holds.
    received: VecDeque<Received>,
    disk: Disk,
    store: Store,
    files: Files,
    link: Link,
    hub: Hub,
    inference: Inference,
    truth: Truth,
    /// Every reading ever published.
    published: BTreeSet<u64>,
    named: Vec<Content>,
    seen: Seen,
}

/// How often what happened.
pub(super) type Seen = BTreeMap<&'static str, usize>;

#[derive(Default)]
struct Inference {
    serving: Option<ServedModel>,
    requests: VecDeque<Ask>,
    answers: VecDeque<Event>,
}

enum Ask {
    Questions(Vec<Question>),
    Load { model: ServedModel, bytes: Vec<u8> },
}

impl World {
    pub(super) fn new(seed: u64) -> Self {
        let (disk, store) = (Disk::default(), Store::default());
        let (core, effects) = EdgeCore::new(Self::settings(), recover(&disk, &store), seed);
        let mut world = Self {
            seed,
            steps: 0,
            random: Random::new(seed),
            now: Millis(0),
            core,
            broker: Broker::new(),
            received: VecDeque::new(),
            disk,
            store,
            files: Files::default(),
            link: Link::default(),
            hub: Hub::default(),
            inference: Inference::default(),
            truth: Truth::default(),
            published: BTreeSet::new(),
            named: Vec::new(),
            seen: Seen::default(),
        };
        world.perform(effects);
        world
    }

    fn settings() -> Settings {
        Settings { receive_maximum: RECEIVE_MAXIMUM, ..settings() }
    }

    /// Lets one thing happen.
    pub(super) fn step(&mut self) {
        self.steps += 1;
        let most = 1 + self.random.below(8);
        match self.random.below(100) {
            0..20 => self.publish(),
            20..32 => self.deliver(),
            32..44 => self.take_messages(),
            44..54 => self.disk.work(&mut self.random),
            54..60 => self.report(most, |world| world.disk.answers.pop_front()),
            60..63 => self.store.work(self.disk.failing),
            63..65 => self.report(most, |world| world.store.answers.pop_front()),
            65..74 => self.link.work(&mut self.hub, &mut self.random),
            74..81 => self.report(most, |world| world.link.answers.pop_front()),
            81..86 => self.hub.work(&mut self.random),
            86..89 => self.inference.work(),
            89..92 => self.report(most, |world| world.inference.answers.pop_front()),
            92..97 => self.let_time_pass(),
            _ => self.disturb(),
        }
    }

    /// Ends all trouble, and lets everything come to rest as it must be.
    pub(super) fn settle(&mut self) {
        self.disk.failing = false;
        self.hub.away = false;
        self.hub.release(true);
        for _ in 0..ROUNDS {
            self.broker.connect();
            self.run_until_idle();
            if self.is_at_rest() {
                self.check_the_end();
                return;
            }
            if self.core.serving() == self.hub.champion.as_ref() && self.hub.serving != self.hub.champion {
                // Only an answer proves the model.
                let reading = self.new_reading();
                self.broker.publish(reading);
            }
            self.now = self.core.poll_timeout().map_or(self.now, |at| at.max(self.now));
            self.handle(Event::Tick);
        }
        panic!("no rest: {:?}, {:?}", self.core.hub_problem(), self.core.status());
    }

    /// How often what happened, for the test that runs many worlds.
    pub(super) fn seen(&self) -> Seen {
        let counted = [
            ("readings", self.hub.readings.len()),
            ("predictions", self.hub.predicted.len()),
            ("redelivered messages", self.broker.redelivered),
            ("failed appends", self.disk.failures),
            ("broken connections", self.link.cuts),
            ("batches sent twice", self.hub.known),
            ("refused models", self.hub.refusals),
        ];
        self.seen.iter().map(|(what, count)| (*what, *count)).chain(counted).collect()
    }

    fn saw(&mut self, what: &'static str) {
        *self.seen.entry(what).or_default() += 1;
    }

    fn publish(&mut self) {
        let most = if self.random.percent(10) { 300 } else { 10 };
        for _ in 0..self.random.below(most) {
            let content = match self.random.below(20) {
                0 => Content::Bad,
                1 if !self.named.is_empty() => {
                    let newest = self.named.len().min(REPEATS);
                    self.named[self.named.len() - 1 - self.random.below(newest)]
                }
                _ => self.new_reading(),
            };
            if matches!(content, Content::Reading { named: true, .. }) {
                self.named.push(content);
            }
            self.broker.publish(content);
        }
    }

    fn new_reading(&mut self) -> Content {
        let id = self.published.len() as u64;
        self.published.insert(id);
        Content::Reading { stream: self.random.below(STREAMS), id, named: self.random.percent(50) }
    }

    fn deliver(&mut self) {
        let most = self.random.below(RECEIVE_MAXIMUM);
        self.received.extend(self.broker.deliver(most, &mut self.random));
        self.broker.work(self.random.below(4));
    }

    fn take_messages(&mut self) {
        if self.core.wants_messages() && !self.received.is_empty() {
            let count = (1 + self.random.below(MESSAGES_AT_ONCE)).min(self.received.len());
            let messages = self.received.drain(..count).collect();
            self.handle(Event::Received(messages));
        }
    }

    /// Hands the core at most `most` of a shell's reports.
    fn report(&mut self, most: usize, mut next: impl FnMut(&mut Self) -> Option<Event>) {
        for _ in 0..most {
            let Some(event) = next(self) else {
                return;
            };
            self.handle(event);
        }
    }

    fn let_time_pass(&mut self) {
        let later = match self.random.below(10) {
            0..5 => self.core.poll_timeout().map_or(0, |at| at.0.saturating_sub(self.now.0)),
            5..9 => self.random.below(50) as u64,
            _ => self.random.below(40_000) as u64,
        };
        self.now = self.now.plus(later);
        self.handle(Event::Tick);
    }

    fn disturb(&mut self) {
        match self.random.below(14) {
            0 => self.broker.disconnect(),
            1..4 => self.broker.connect(),
            4 => self.link.cut(&mut self.hub, &mut self.random),
            5 => self.hub.refuse(&mut self.random),
            6 => {
                self.hub.crash();
                self.link.cut(&mut self.hub, &mut self.random);
                self.hub.crash();
            }
            7 => self.hub.away = !self.hub.away,
            8 => self.disk.failing = true,
            9..11 => self.disk.failing = false,
            11..13 => {
                let loadable = self.random.percent(75);
                self.hub.release(loadable);
            }
            _ => self.crash(),
        }
    }

    /// Kills the agent and starts it again.
    fn crash(&mut self) {
        self.saw("crashes");
        self.link.crash(&mut self.hub, &mut self.random);
        self.broker.disconnect();
        self.broker.connect();
        self.received.clear();
        self.disk.crash(&mut self.random);
        self.store.crash(&mut self.random);
        self.inference = Inference::default();
        self.truth.crashed(&self.disk);
        self.now = Millis(0);
        let seed = self.seed.wrapping_add(self.steps as u64);
        let (core, effects) = EdgeCore::new(Self::settings(), recover(&self.disk, &self.store), seed);
        self.core = core;
        self.perform(effects);
        self.truth.check(&self.core, self.now);
    }

    fn handle(&mut self, event: Event) {
        self.truth.before(&event);
        let mut effects = Vec::new();
        self.core.handle(self.now, event, &mut effects);
        self.perform(effects);
        self.truth.check(&self.core, self.now);
    }

    fn perform(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Append(batch) => {
                    self.truth.appended(&batch);
                    self.disk.requests.push_back(Request::Append(batch));
                }
                Effect::Acknowledge(receipt) => {
                    self.truth.acknowledged(receipt);
                    for content in self.broker.covered(receipt) {
                        if let Content::Reading { id, .. } = content {
                            assert!(self.disk.readings.contains_key(&id), "{id} is acknowledged and not durable");
                        }
                    }
                    self.broker.acknowledge(receipt);
                }
                Effect::Infer(questions) => self.ask(questions),
                Effect::Publish(predictions) => assert!(!predictions.is_empty()),
                Effect::ReadSpool { from, batches } => {
                    self.truth.reads();
                    self.disk.requests.push_back(Request::Read { from, batches });
                }
                Effect::Release(before) => {
                    let acked = self.store.checkpoint.as_ref().map(|checkpoint| checkpoint.acked);
                    assert!(Some(before) <= acked, "{before} is given back, the checkpoint says {acked:?}");
                    if before.0 > 0 {
                        self.saw("releases");
                    }
                    self.disk.requests.push_back(Request::Release(before));
                }
                Effect::Checkpoint(checkpoint) => self.store.requests.push_back(StoreRequest::Checkpoint(checkpoint)),
                Effect::Dial => self.link.commands.push_back(Command::Dial),
                Effect::Hangup => self.link.commands.push_back(Command::Hangup),
                Effect::Send(message) => self.link.commands.push_back(Command::Send(Box::new(message))),
                Effect::StoreChunk { digest, offset, bytes } => self.files.store_chunk(digest, offset, &bytes),
                Effect::Load(model) => {
                    let bytes = self.files.complete(model.digest);
                    assert_eq!(Digest::of(&bytes), model.digest, "only what is whole is loaded");
                    self.inference.requests.push_back(Ask::Load { model, bytes });
                }
                Effect::Discard(digest) => self.files.discard(digest),
                Effect::Remember(model) => {
                    self.saw("models");
                    self.store.requests.push_back(StoreRequest::Serving(model));
                }
            }
        }
    }

    fn ask(&mut self, questions: Vec<Question>) {
        assert!((1..=INFER_BATCH).contains(&questions.len()));
        self.inference.requests.push_back(Ask::Questions(questions));
        let asked = self.inference.requests.iter().filter(|ask| matches!(ask, Ask::Questions(_))).count();
        let answered = self.inference.answers.iter().filter(|event| matches!(event, Event::Answered { .. })).count();
        assert!(asked + answered <= ANSWERS_IN_FLIGHT, "{asked} calls and {answered} answers are under way");
    }

    /// Lets every shell do what it can until none can do more.
    fn run_until_idle(&mut self) {
        loop {
            let before = (self.received.len(), self.truth.handled);
            self.deliver();
            self.take_messages();
            self.disk.work(&mut self.random);
            self.store.work(false);
            self.link.work(&mut self.hub, &mut self.random);
            self.hub.work(&mut self.random);
            self.inference.work();
            self.broker.work(usize::MAX);
            self.report(usize::MAX, |world| world.disk.answers.pop_front());
            self.report(usize::MAX, |world| world.store.answers.pop_front());
            self.report(usize::MAX, |world| world.link.answers.pop_front());
            self.report(usize::MAX, |world| world.inference.answers.pop_front());
            let idle = self.disk.is_idle() && self.store.is_idle() && self.link.is_idle() && self.hub.is_idle();
            let idle = idle && self.inference.is_idle() && self.broker.is_idle();
            if idle && before == (self.received.len(), self.truth.handled) {
                return;
            }
        }
    }

    fn is_at_rest(&self) -> bool {
        let delivered = self.core.sync.acked_through() == self.core.spool.next();
        let proven = self.hub.serving == self.hub.champion && self.core.serving() == self.hub.champion.as_ref();
        self.broker.is_empty() && self.received.is_empty() && self.core.is_flushed() && delivered && proven
    }

    fn check_the_end(&self) {
        let at_the_hub: BTreeSet<u64> = self.hub.readings.keys().copied().collect();
        assert_eq!(at_the_hub, self.published, "every reading is at the hub once");
        assert_eq!(self.hub.readings, self.disk.readings, "with the sequence it got on the box");
        assert_eq!(self.hub.next, self.disk.end);
        let ledger = self.core.status().ledger;
        assert!(ledger.iter().all(|entry| entry.accepted == entry.delivered));
        assert_eq!(ledger.iter().map(|entry| entry.accepted).sum::<u64>(), self.published.len() as u64);
        assert!(self.core.is_connected() && self.core.hub_problem().is_none());
        assert!(self.core.wants_messages());
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the world of seed {} broke at step {}: {:?}", self.seed, self.steps, self.seen());
        }
    }
}

impl Inference {
    fn work(&mut self) {
        let answer = match self.requests.pop_front() {
            None => return,
            Some(Ask::Load { model, bytes }) if bytes.starts_with(UNLOADABLE) => {
                Event::ModelRefused { model, reason: "it is not a package".to_owned() }
            }
            Some(Ask::Load { model, .. }) => {
                self.serving = Some(model.clone());
                Event::ModelLoaded(model)
            }
            Some(Ask::Questions(questions)) => {
                let serving = self.serving.as_ref().expect("nothing is asked before a model is loaded");
                let answer = |question: Question| Answered {
                    outcome: match question.time_ms % 7 {
                        0 => Err("window_filling"),
                        _ => Ok(Verdict { score: 0.5, threshold: 1.0, anomaly: false }),
                    },
                    question,
                };
                Event::Answered { model: serving.model.clone(), answers: questions.into_iter().map(answer).collect() }
            }
        };
        self.answers.push_back(answer);
    }

    fn is_idle(&self) -> bool {
        self.requests.is_empty() && self.answers.is_empty()
    }
}
