//! Alarms: stretches in which a stream was mostly called anomalous, and what a person made of them.
//!
//! One anomalous answer is no alarm: a model that is wrong in one answer of a hundred would ring all day. Everything is
//! drawn from durable answers in order, and each alarm knows the last answer it counted, so that answers that are replayed
//! after a restart are counted once.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use serde::{Deserialize, Serialize};
use shared::event::{Event, Outcome, SpoolEntry, UnixMillis};
use shared::ids::{AgentId, Digest, Epoch, ModelName, ModelVersion, Sequence, StreamId};
use utoipa::ToSchema;

use super::Effect;
use super::limits::{ALARM_CLEAR, ALARM_OF, ALARM_RAISE, MACHINE_ALARMS_KEPT};
use super::observe::StreamKey;

/// Hexadecimal digits of an alarm's name: 64 bits.
const ID_DIGITS: usize = 16;

/// A stretch in which a stream was mostly called anomalous.
#[derive(Debug, Clone, PartialEq)]
pub struct Alarm {
    /// Its name: that of the answer that began it.
    pub id: String,
    /// The box.
    pub agent: AgentId,
    /// The stream.
    pub stream: StreamId,
    /// The model that said so.
    pub model: ModelName,
    /// Its version.
    pub version: ModelVersion,
    /// The time of the first anomalous reading.
    pub began_ms: UnixMillis,
    /// The time of the last anomalous reading.
    pub last_ms: UnixMillis,
    /// Whether it is over.
    pub is_over: bool,
    /// Answers from its begin to its last anomalous one.
    pub answers: u64,
    /// Those of them that were anomalous.
    pub anomalous: u64,
    /// The greatest score.
    pub peak_score: f32,
    /// The threshold of that score.
    pub threshold: f32,
    /// The last answer that it counted.
    pub reached: (Epoch, Sequence),
    /// What a person made of it.
    pub review: Option<Review>,
}

/// What a person made of an alarm.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Review {
    /// What it was.
    pub verdict: AlarmVerdict,
    /// What they had to say.
    pub comment: String,
    /// Who.
    pub by: String,
    /// When.
    pub at_ms: UnixMillis,
}

/// What an alarm was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum AlarmVerdict {
    /// Something was wrong with the machine.
    Fault,
    /// The machine ran as it should: the model was wrong.
    FalseAlarm,
    /// Somebody saw it and does not know.
    Seen,
}

impl AlarmVerdict {
    /// As it is written.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Fault => "fault",
            Self::FalseAlarm => "false_alarm",
            Self::Seen => "seen",
        }
    }

    /// The verdict of this name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        [Self::Fault, Self::FalseAlarm, Self::Seen].into_iter().find(|verdict| verdict.name() == name)
    }
}

/// Every stream's alarms.
#[derive(Debug, Default)]
pub struct Alarms {
    /// The newest, in the order they were raised.
    known: BTreeMap<u64, Alarm>,
    next: u64,
    /// Those of them that the database knows less of.
    unsaved: BTreeSet<u64>,
    streams: BTreeMap<StreamKey, Tracker>,
}

/// The newest answers of a stream.
#[derive(Debug, Default)]
struct Tracker {
    /// Of those that are no part of an alarm.
    newest: VecDeque<Answer>,
    /// The number of the alarm that is up.
    up: Option<u64>,
    /// Normal answers on end while one is up.
    calm: u32,
    /// Answers since the alarm's last anomalous one.
    since: u64,
    /// Up to where answers were counted in an alarm before the hub started.
    counted: Option<(Epoch, Sequence)>,
}

#[derive(Debug, Clone)]
struct Answer {
    place: (Epoch, Sequence),
    time_ms: UnixMillis,
    anomaly: bool,
    score: f32,
    threshold: f32,
}

impl Alarms {
    /// The newest, oldest first.
    pub fn known(&self) -> impl DoubleEndedIterator<Item = &Alarm> {
        self.known.values()
    }

    /// The alarms that are up.
    pub fn up(&self) -> impl Iterator<Item = &Alarm> {
        self.known.values().filter(|alarm| !alarm.is_over)
    }

    /// Puts back what the database remembers, oldest first.
    pub(super) fn remember(&mut self, alarms: Vec<Alarm>) {
        for alarm in alarms {
            let (key, reached, is_over) = ((alarm.agent.clone(), alarm.stream.clone()), alarm.reached, alarm.is_over);
            let number = self.keep(alarm);
            let tracker = self.streams.entry(key).or_default();
            tracker.counted = tracker.counted.max(Some(reached));
            if !is_over {
                tracker.up = Some(number);
            }
        }
    }

    /// Takes a durable entry.
    pub(super) fn entry(&mut self, agent: &AgentId, entry: &SpoolEntry, effects: &mut Vec<Effect>) {
        let Some(batch) = entry.batch() else { return };
        for (sequence, event) in (batch.first.0..).map(Sequence).zip(&batch.events) {
            let Event::Prediction(prediction) = event else { continue };
            let Outcome::Anomaly(verdict) = prediction.outcome else { continue };
            let (Some(schema), Some(model)) =
                (batch.streams.get(usize::from(prediction.stream)), batch.models.get(usize::from(prediction.model)))
            else {
                continue;
            };
            let answer = Answer {
                place: (batch.epoch, sequence),
                time_ms: prediction.time_ms,
                anomaly: verdict.anomaly,
                score: verdict.score,
                threshold: verdict.threshold,
            };
            let key = (agent.clone(), schema.stream.clone());
            self.answer(&key, (&model.name, model.version), answer, effects);
        }
    }

    fn answer(
        &mut self,
        key: &StreamKey,
        model: (&ModelName, ModelVersion),
        answer: Answer,
        effects: &mut Vec<Effect>,
    ) {
        let tracker = self.streams.entry(key.clone()).or_default();
        if tracker.counted.is_some_and(|counted| answer.place <= counted) {
            return;
        }
        match tracker.up {
            Some(number) => self.go_on(key, number, &answer, effects),
            None => {
                tracker.newest.push_back(answer);
                if tracker.newest.len() > ALARM_OF {
                    tracker.newest.pop_front();
                }
                if tracker.newest.iter().filter(|answer| answer.anomaly).count() >= ALARM_RAISE {
                    self.raise(key, model, effects);
                }
            }
        }
    }

    fn raise(&mut self, key: &StreamKey, (model, version): (&ModelName, ModelVersion), effects: &mut Vec<Effect>) {
        let Some(tracker) = self.streams.get_mut(key) else { return };
        let answers: Vec<Answer> = tracker.newest.drain(..).skip_while(|answer| !answer.anomaly).collect();
        let (Some(first), Some(last)) = (answers.first(), answers.last()) else { return };
        let (agent, stream) = key.clone();
        let name = format!("{agent}\n{stream}\n{}\n{}", first.place.0.0, first.place.1.0);
        let id = format!("alm_{}", &Digest::of(name.as_bytes()).to_string()[..ID_DIGITS]);
        let peak = answers.iter().max_by(|a, b| a.score.total_cmp(&b.score)).unwrap_or(first);
        let alarm = Alarm {
            id,
            agent,
            stream,
            model: model.clone(),
            version,
            began_ms: first.time_ms,
            last_ms: last.time_ms,
            is_over: false,
            answers: answers.len() as u64,
            anomalous: answers.iter().filter(|answer| answer.anomaly).count() as u64,
            peak_score: peak.score,
            threshold: peak.threshold,
            reached: last.place,
            review: None,
        };
        (tracker.calm, tracker.since) = (0, 0);
        effects.push(Effect::RecordAlarm(alarm.clone()));
        let number = self.keep(alarm);
        if let Some(tracker) = self.streams.get_mut(key) {
            tracker.up = Some(number);
        }
    }

    fn go_on(&mut self, key: &StreamKey, number: u64, answer: &Answer, effects: &mut Vec<Effect>) {
        let (Some(tracker), Some(alarm)) = (self.streams.get_mut(key), self.known.get_mut(&number)) else {
            return;
        };
        self.unsaved.insert(number);
        alarm.reached = answer.place;
        tracker.since += 1;
        if !answer.anomaly {
            tracker.calm += 1;
            if tracker.calm >= ALARM_CLEAR {
                alarm.is_over = true;
                (tracker.up, tracker.calm, tracker.since) = (None, 0, 0);
                self.unsaved.remove(&number);
                effects.push(Effect::RecordAlarm(alarm.clone()));
            }
            return;
        }
        alarm.answers += tracker.since;
        alarm.anomalous += 1;
        alarm.last_ms = answer.time_ms;
        (tracker.calm, tracker.since) = (0, 0);
        if answer.score > alarm.peak_score {
            (alarm.peak_score, alarm.threshold) = (answer.score, answer.threshold);
        }
    }

    /// An alarm, as a person reviewed it: to be made durable, and then taken with [`Alarms::review`].
    #[must_use]
    pub fn reviewed(&self, id: &str, review: Review) -> Option<Alarm> {
        let alarm = self.known.values().find(|alarm| alarm.id == id)?.clone();
        Some(Alarm { review: Some(review), ..alarm })
    }

    /// Takes what a person said of an alarm, which is durable.
    pub(super) fn review(&mut self, id: &str, review: Review) {
        if let Some(alarm) = self.known.values_mut().find(|alarm| alarm.id == id) {
            alarm.review = Some(review);
        }
    }

    /// What the database does not know of alarms that are up. It must before what they were drawn from is replayed no more.
    pub(super) fn save(&mut self, effects: &mut Vec<Effect>) {
        let unsaved = std::mem::take(&mut self.unsaved);
        let alarms = unsaved.iter().filter_map(|number| self.known.get(number));
        effects.extend(alarms.map(|alarm| Effect::RecordAlarm(alarm.clone())));
    }

    fn keep(&mut self, alarm: Alarm) -> u64 {
        if self.known.len() >= MACHINE_ALARMS_KEPT
            && let Some(oldest) = self.known.iter().find(|(_, alarm)| alarm.is_over).map(|(number, _)| *number)
        {
            self.known.remove(&oldest);
        }
        self.next += 1;
        self.known.insert(self.next, alarm);
        self.next
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use shared::event::{EventBatch, ModelRef, Prediction, StreamSchema, Verdict};

    fn answers(first: u64, verdicts: &[bool]) -> SpoolEntry {
        let stream = StreamId::new("pump").expect("valid");
        let outcome = |anomaly: bool, score: f32| Outcome::Anomaly(Verdict { score, threshold: 1.0, anomaly });
        let event = |(index, anomaly): (usize, &bool)| {
            Event::Prediction(Prediction {
                stream: 0,
                model: 0,
                of: Sequence(0),
                time_ms: 1_000 * (first as i64 + index as i64),
                outcome: outcome(*anomaly, if *anomaly { 2.0 + index as f32 } else { 0.5 }),
            })
        };
        SpoolEntry::Events(EventBatch {
            epoch: Epoch(1),
            first: Sequence(first),
            streams: vec![StreamSchema { stream, channels: vec![] }],
            models: vec![ModelRef { name: ModelName::new("m").expect("valid"), version: ModelVersion(3) }],
            events: verdicts.iter().enumerate().map(event).collect(),
        })
    }

    fn agent() -> AgentId {
        AgentId::new("box").expect("valid")
    }

    fn feed(alarms: &mut Alarms, first: u64, verdicts: &[bool]) -> Vec<Alarm> {
        let mut effects = Vec::new();
        alarms.entry(&agent(), &answers(first, verdicts), &mut effects);
        let recorded = |effect| if let Effect::RecordAlarm(alarm) = effect { Some(alarm) } else { None };
        effects.into_iter().map(|effect| recorded(effect).expect("nothing else")).collect()
    }

    const NO: [bool; 20] = [false; 20];

    #[test]
    fn a_few_wrong_answers_are_no_alarm_and_a_stretch_is_one() {
        let mut alarms = Alarms::default();
        assert!(feed(&mut alarms, 0, &[true, false, false, false, false, false, true, false, false, false]).is_empty());
        assert!(feed(&mut alarms, 10, &NO).is_empty());
        let raised = feed(&mut alarms, 30, &[true, true, false, true, true, true, true]);
        assert_eq!(raised.len(), 1);
        assert_eq!((raised[0].began_ms, raised[0].anomalous, raised[0].answers), (30_000, 5, 6));
        let ended = feed(&mut alarms, 37, &NO);
        assert_eq!(ended.len(), 1);
        let alarm = &ended[0];
        assert!(alarm.is_over && alarm.id == raised[0].id);
        assert_eq!((alarm.last_ms, alarm.anomalous, alarm.answers, alarm.peak_score), (36_000, 6, 7, 8.0));
        assert_eq!((alarms.up().count(), alarms.known().count()), (0, 1));
    }

    #[test]
    fn a_restart_counts_no_answer_twice_and_raises_no_alarm_again() {
        let mut first = Alarms::default();
        let stretch = [true; 8];
        let raised = feed(&mut first, 0, &stretch);
        let ended = feed(&mut first, 8, &NO);
        for stored in [&raised[0], &ended[0]] {
            let mut again = Alarms::default();
            again.remember(vec![stored.clone()]);
            feed(&mut again, 0, &stretch);
            feed(&mut again, 8, &NO);
            let known: Vec<&Alarm> = again.known().collect();
            assert_eq!(known.len(), 1);
            assert!(known[0].is_over && known[0].id == ended[0].id);
            assert_eq!((known[0].anomalous, known[0].answers), (ended[0].anomalous, ended[0].answers));
        }
    }

    #[test]
    fn what_is_counted_is_saved_before_it_is_replayed_no_more() {
        let mut alarms = Alarms::default();
        feed(&mut alarms, 0, &[true; 5]);
        feed(&mut alarms, 5, &[true; 400]);
        let mut effects = Vec::new();
        alarms.save(&mut effects);
        alarms.save(&mut effects);
        let [Effect::RecordAlarm(saved)] = effects.as_slice() else { panic!("{effects:?}") };
        assert_eq!((saved.anomalous, saved.reached), (405, (Epoch(1), Sequence(404))));
    }

    #[test]
    fn a_person_says_what_it_was() {
        let mut alarms = Alarms::default();
        let raised = feed(&mut alarms, 0, &[true; 5]);
        let review = Review { verdict: AlarmVerdict::Fault, comment: "a valve".into(), by: "Ada".into(), at_ms: 9 };
        assert_eq!(alarms.reviewed("alm_other", review.clone()), None);
        let stored = alarms.reviewed(&raised[0].id, review.clone()).expect("it is known");
        alarms.review(&raised[0].id, review.clone());
        assert_eq!(alarms.known().next(), Some(&stored));
        assert_eq!(alarms.known().next().and_then(|alarm| alarm.review.clone()), Some(review));
        assert_eq!(AlarmVerdict::named("false_alarm"), Some(AlarmVerdict::FalseAlarm));
    }

    #[test]
    fn the_oldest_that_are_over_are_forgotten() {
        let mut alarms = Alarms::default();
        feed(&mut alarms, 0, &[true; 5]);
        let open = alarms.known().next().cloned().expect("an alarm");
        let over = |number: usize| Alarm { id: format!("alm_{number}"), is_over: true, ..open.clone() };
        (0..MACHINE_ALARMS_KEPT + 10).for_each(|number| {
            alarms.keep(over(number));
        });
        assert_eq!(alarms.known().count(), MACHINE_ALARMS_KEPT);
        assert_eq!(alarms.up().count(), 1, "one that is up is kept");
    }
}
