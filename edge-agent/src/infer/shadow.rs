//! The version that runs beside the one in service: which readings it sees, and what it said of them.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};

use shared::event::Outcome;
use shared::ids::{AgentId, Digest, StreamId};
use shared::pipeline::runner::Runner;
use shared::wire::message::ShadowCounts;

use super::inputs;
use crate::core::Question;
use crate::core::limits::{
    SHADOW_FIRST_READINGS, SHADOW_SPAN_READINGS, SHADOW_STREAMS, TRIAL_FAULTS, TRIAL_NO_NUMBERS,
};
use crate::core::shadow::Shadowed;
use crate::core::trial::{MISSING_CHANNEL, is_no_number};

/// A version in shadow.
pub(super) struct Shadow {
    agent: AgentId,
    digest: Digest,
    runner: Runner,
    percent: u8,
    /// Readings of each stream so far.
    streams: BTreeMap<StreamId, u64>,
    no_numbers: u64,
    /// Readings it has no answer to because a channel is missing, and those it answered.
    mute: u64,
    answered: u64,
    /// Readings it saw, and how long that took.
    seen: u64,
    busy_us: u64,
}

impl Shadow {
    pub(super) fn new(agent: AgentId, digest: Digest, runner: Runner, percent: u8) -> Self {
        let (streams, no_numbers, mute, answered) = (BTreeMap::new(), 0, 0, 0);
        Self { agent, digest, runner, percent, streams, no_numbers, mute, answered, seen: 0, busy_us: 0 }
    }

    pub(super) fn digest(&self) -> Digest {
        self.digest
    }

    /// Sees readings, of which the version in service said `said`, and answers its share. It works on a few at once until it
    /// is known to be quick: one that is too slow must not keep the next readings waiting for long.
    pub(super) fn see(
        &mut self,
        questions: &[&Question],
        said: &[Option<Outcome>],
        max_answer_us: u64,
        clock_us: impl Fn() -> u64,
    ) -> Shadowed {
        let mut counts = ShadowCounts::of(self.digest);
        let (mut rest, mut said) = (questions, said);
        while !rest.is_empty() {
            let at_once = if self.seen == 0 { SHADOW_FIRST_READINGS } else { rest.len() };
            let (part, later) = rest.split_at(at_once.min(rest.len()));
            let (said_of_part, said_later) = said.split_at(part.len().min(said.len()));
            (rest, said) = (later, said_later);
            self.see_part(part, said_of_part, &clock_us, &mut counts)?;
            if self.busy_us > max_answer_us * self.seen {
                let (found, limit) = (self.busy_us as f64 / self.seen.max(1) as f64 / 1e3, max_answer_us as f64 / 1e3);
                return Err(format!("an answer takes {found:.1} ms, at most {limit:.1} are allowed on this box"));
            }
        }
        Ok(counts)
    }

    fn see_part(
        &mut self,
        questions: &[&Question],
        said: &[Option<Outcome>],
        clock_us: &impl Fn() -> u64,
        counts: &mut ShadowCounts,
    ) -> Result<(), String> {
        let is_mirrored: Vec<bool> =
            questions.iter().map(|question| !question.warm_up && self.is_mirrored(question)).collect();
        let mirrored = is_mirrored.iter().filter(|is_mirrored| **is_mirrored).count() as u64;
        let started_us = clock_us();
        let answers = catch_unwind(AssertUnwindSafe(|| {
            self.runner.run_some(&inputs(questions.iter().copied()), |index| is_mirrored[index])
        }));
        let busy_us = clock_us() - started_us;
        let answers = answers.map_err(|_| format!("it broke off after {} readings", self.seen))?;
        self.seen += mirrored;
        self.busy_us += if mirrored > 0 { busy_us } else { 0 };
        counts.readings += questions.iter().filter(|question| !question.warm_up).count() as u64;
        counts.mirrored += mirrored;
        counts.busy_us += busy_us;
        for ((answer, said), is_mirrored) in answers.into_iter().zip(said).zip(is_mirrored) {
            if is_mirrored {
                self.compare(answer.into_outcome(), said.as_ref(), counts);
            }
        }
        if self.no_numbers >= TRIAL_NO_NUMBERS {
            return Err(format!("{} answers on end were no numbers", self.no_numbers));
        }
        if self.mute >= TRIAL_FAULTS && self.mute > self.answered {
            return Err(format!(
                "{} of {} readings had no answer: {MISSING_CHANNEL}",
                self.mute,
                self.mute + self.answered
            ));
        }
        Ok(())
    }

    /// Whether the version answers a reading. It answers spans of a stream, because what it says of one reading hangs on what
    /// it said of the one before; averages and windows move on in between.
    fn is_mirrored(&mut self, question: &Question) -> bool {
        let stream = &question.schema.stream;
        let agent = &self.agent;
        let first = || offset_of(agent, stream) * SHADOW_SPAN_READINGS;
        let has_room = self.streams.len() < SHADOW_STREAMS;
        let index = if let Some(index) = self.streams.get_mut(stream) {
            *index += 1;
            *index
        } else if has_room {
            *self.streams.entry(stream.clone()).or_insert_with(first)
        } else {
            // Beyond, streams are seen whole or not at all, in the same share.
            first()
        };
        let (span, percent) = (index / SHADOW_SPAN_READINGS, u64::from(self.percent));
        (span + 1) * percent / 100 > span * percent / 100
    }

    fn compare(&mut self, answer: Result<Outcome, &'static str>, said: Option<&Outcome>, counts: &mut ShadowCounts) {
        let answer = match answer {
            Ok(answer) => answer,
            Err(reason) => {
                self.mute += u64::from(reason == MISSING_CHANNEL);
                return;
            }
        };
        self.answered += 1;
        self.no_numbers = if is_no_number(&answer) { self.no_numbers + 1 } else { 0 };
        let Some(said) = said else {
            return;
        };
        counts.compared += 1;
        counts.agreed += u64::from(agree(&answer, said));
        counts.anomalous += u64::from(answer.is_anomaly());
        counts.served_anomalous += u64::from(said.is_anomaly());
    }
}

/// Where a stream's first span lies among a hundred: streams that began together take their turns, on one box and on
/// all.
fn offset_of(agent: &AgentId, stream: &StreamId) -> u64 {
    u64::from(Digest::of(format!("{agent} {stream}").as_bytes()).0[0]) % 100
}

fn agree(one: &Outcome, other: &Outcome) -> bool {
    match (one, other) {
        (Outcome::Label { label, .. }, Outcome::Label { label: other, .. }) => label == other,
        _ => one.is_anomaly() == other.is_anomaly(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    use shared::device::DeviceKind;
    use shared::event::{StreamSchema, Verdict};
    use shared::ids::{ChannelName, Sequence};
    use shared::pipeline::decision::{Decision, Score, Threshold};
    use shared::pipeline::weights::Weights;
    use shared::pipeline::{Baseline, Channel, Input, Missing, Pipeline};

    fn agent() -> AgentId {
        AgentId::new("line-1").expect("valid")
    }

    /// Anomalous is what is farther than 2 from 0.
    fn runner() -> Runner {
        let score =
            Score::Mahalanobis { ridge: 0.0, baseline: Baseline::Package, mean: vec![0.0], whitening: vec![1.0] };
        let pipeline = Pipeline {
            input: Input {
                channels: vec![Channel::named(ChannelName::new("a").expect("valid"))],
                max_gap_ms: 10_000,
                interval_ms: 0,
                missing: Missing::Skip,
            },
            calibration: None,
            preprocess: vec![],
            network: vec![],
            decision: Decision::Anomaly {
                score,
                smooth: 1.0,
                threshold: Threshold::Package { value: 4.0 },
                hold_rows: 0,
            },
        };
        Runner::new(pipeline, &Weights::default(), DeviceKind::Flex.open().expect("built in")).expect("builds")
    }

    fn question(stream: &str, index: i64, value: f64) -> Question {
        let channels = vec![ChannelName::new("a").expect("valid")];
        let schema = Arc::new(StreamSchema { stream: StreamId::new(stream).expect("valid"), channels });
        let values = vec![value];
        Question { of: Sequence(0), schema, time_ms: 1_000 * index, values, warm_up: false, kept: true }
    }

    fn said(anomaly: bool) -> Option<Outcome> {
        Some(Outcome::Anomaly(Verdict { score: 1.0, threshold: 1.0, anomaly }))
    }

    /// Ten streams of a thousand readings each, in batches as they come.
    fn mirrored(percent: u8) -> ShadowCounts {
        let mut shadow = Shadow::new(agent(), Digest([1; 32]), runner(), percent);
        let mut sum = ShadowCounts::of(Digest([1; 32]));
        for index in 0..1_000 {
            let streams: Vec<String> = (0..10).map(|stream| format!("stream-{stream}")).collect();
            let value = if index % 50 == 0 { 3.0 } else { 1.0 };
            let questions: Vec<Question> = streams.iter().map(|stream| question(stream, index, value)).collect();
            let questions: Vec<&Question> = questions.iter().collect();
            // What serves is mistaken in every tenth.
            let said = vec![said(index % 50 == 0 || index % 10 == 5); 10];
            sum.add(&shadow.see(&questions, &said, 1_000_000, || 0).expect("does no harm"));
        }
        sum
    }

    #[test]
    fn a_share_of_every_stream_is_mirrored_and_compared() {
        for percent in [1, 30, 50, 100] {
            let counts = mirrored(percent);
            let share = 100.0 * counts.mirrored as f64 / counts.readings as f64;
            assert!((share - f64::from(percent)).abs() <= 2.0, "{share} % instead of {percent}");
            assert_eq!((counts.readings, counts.compared), (10_000, counts.mirrored));
            if counts.mirrored >= 1_000 {
                let of = |count: u64| count as f64 / counts.compared as f64;
                assert_eq!((of(counts.anomalous), of(counts.served_anomalous)), (0.02, 0.12));
                assert!((of(counts.agreed) - 0.9).abs() < 1e-9);
            }
        }
    }

    #[test]
    fn what_is_slow_or_says_no_numbers_is_given_up_after_a_few() {
        let questions: Vec<Question> = (0..64).map(|index| question("x", index, 1.0)).collect();
        let questions: Vec<&Question> = questions.iter().collect();
        let said = vec![said(false); 64];
        let mut shadow = Shadow::new(agent(), Digest([1; 32]), runner(), 100);
        let now_us = std::cell::Cell::new(0);
        let each_takes_a_second = || now_us.replace(now_us.get() + 1_000_000 * SHADOW_FIRST_READINGS as u64);
        let problem = shadow.see(&questions, &said, 50_000, each_takes_a_second).expect_err("too slow");
        assert_eq!(problem, "an answer takes 1000.0 ms, at most 50.0 are allowed on this box");
        assert_eq!(now_us.get(), 2_000_000 * SHADOW_FIRST_READINGS as u64, "it worked once");
    }
}
