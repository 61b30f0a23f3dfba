//! The trial of a model that was just taken into service: its first answers decide whether the box keeps it. No network is
//! needed to go back.

use std::collections::BTreeMap;

use shared::event::Outcome;

use super::limits::{
    TRIAL_ALARM_MARGIN, TRIAL_ANSWERS, TRIAL_FAULTS, TRIAL_LONGEST_MS, TRIAL_NO_NUMBERS, TRIAL_TIMED_ANSWERS,
};
use super::{Answered, Millis};

/// Inference broke off in a reading: whatever model does that is not asked again.
pub const MODEL_BROKE: &str = "model_broke_off";
/// It wants a channel that the stream does not have.
pub(crate) const MISSING_CHANNEL: &str = "missing_channel";
/// Reasons for no answer that the model is to blame for.
const FAULTS: [&str; 2] = [MODEL_BROKE, MISSING_CHANNEL];

/// How a model does. After its trial only what no model may do is still looked for.
#[derive(Debug, Default)]
pub(super) struct Trial {
    since: Option<Millis>,
    answered: u64,
    alarms: u64,
    no_numbers: u64,
    faults: BTreeMap<&'static str, u64>,
    busy_us: u64,
    is_over: bool,
}

/// What follows from the newest answers.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It goes on as it was.
    Unchanged,
    /// The trial is over, and the model is kept.
    Passed,
    /// The box goes back.
    Failed(String),
}

/// Answers of a model, and how many of them were anomalous.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct AlarmShare {
    answered: u64,
    alarms: u64,
}

impl AlarmShare {
    fn share(self) -> Option<f64> {
        (self.answered >= TRIAL_TIMED_ANSWERS).then(|| self.alarms as f64 / self.answered as f64)
    }
}

impl Trial {
    /// Of a model that is known to be good.
    pub(super) fn passed() -> Self {
        Self { is_over: true, ..Self::default() }
    }

    pub(super) fn is_over(&self) -> bool {
        self.is_over
    }

    pub(super) fn alarm_share(&self) -> AlarmShare {
        AlarmShare { answered: self.answered, alarms: self.alarms }
    }

    /// Takes answers, which took `busy_us` together. `before` is what the model before did on this box.
    pub(super) fn take(
        &mut self,
        now: Millis,
        answers: &[Answered],
        busy_us: u64,
        before: AlarmShare,
        max_answer_us: u64,
    ) -> Verdict {
        self.since.get_or_insert(now);
        self.busy_us += busy_us;
        let mut row_of_no_numbers = false;
        for answer in answers.iter().filter(|answer| !answer.question.warm_up) {
            match &answer.outcome {
                Ok(outcome) => {
                    self.answered += 1;
                    self.alarms += u64::from(outcome.is_anomaly());
                    row_of_no_numbers = is_no_number(outcome);
                    self.no_numbers = if row_of_no_numbers { self.no_numbers + 1 } else { 0 };
                }
                Err(reason) if FAULTS.contains(reason) => *self.faults.entry(reason).or_default() += 1,
                // A window that fills, a value that is missing: the model is not to blame.
                Err(_) => {}
            }
        }
        if self.faults.contains_key(MODEL_BROKE) {
            return Verdict::Failed(format!("it broke off after {} answers", self.answered));
        }
        if self.no_numbers >= TRIAL_NO_NUMBERS {
            return Verdict::Failed(format!("{} answers on end were no numbers", self.no_numbers));
        }
        if self.is_over || row_of_no_numbers {
            return Verdict::Unchanged;
        }
        match self.fails(now, before, max_answer_us) {
            Some(reason) => Verdict::Failed(reason),
            None if self.is_long_enough(now) => {
                self.is_over = true;
                // What it does in service is counted anew, for the trial of the next.
                (self.answered, self.alarms) = (0, 0);
                Verdict::Passed
            }
            None => Verdict::Unchanged,
        }
    }

    fn fails(&self, now: Millis, before: AlarmShare, max_answer_us: u64) -> Option<String> {
        if let Some((reason, count)) = self.faults.iter().max_by_key(|(_, count)| **count)
            && *count >= TRIAL_FAULTS
            && *count > self.answered
        {
            return Some(format!("{count} of {} readings had no answer: {reason}", count + self.answered));
        }
        // Where readings are seldom, what there is has to do.
        let is_timed = self.answered >= TRIAL_TIMED_ANSWERS || self.is_long_enough(now);
        if is_timed && self.busy_us > max_answer_us * self.answered {
            let (found, limit) = (self.busy_us as f64 / self.answered as f64 / 1e3, max_answer_us as f64 / 1e3);
            return Some(format!("an answer takes {found:.1} ms, at most {limit:.1} are allowed on this box"));
        }
        if self.answered >= TRIAL_ANSWERS
            && let (Some(new), Some(old)) = (self.alarm_share().share(), before.share())
            && new > old + TRIAL_ALARM_MARGIN
        {
            let (answered, new, old) = (self.answered, 100.0 * new, 100.0 * old);
            return Some(format!("{new:.1} % of {answered} answers were anomalous, with the model before {old:.1} %"));
        }
        None
    }

    fn is_long_enough(&self, now: Millis) -> bool {
        let lasted = self.since.is_some_and(|since| now >= since.plus(TRIAL_LONGEST_MS));
        self.answered >= TRIAL_ANSWERS || (lasted && self.answered > 0)
    }
}

/// Whether an answer holds what is no number.
pub(crate) fn is_no_number(outcome: &Outcome) -> bool {
    match outcome {
        Outcome::Anomaly(verdict) => !verdict.score.is_finite(),
        Outcome::Label { confidence, .. } => !confidence.is_finite(),
        Outcome::Forecast { values } => values.iter().any(|value| !value.is_finite()),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::core::Question;
    use shared::event::{StreamSchema, Verdict as Score};
    use shared::ids::{Sequence, StreamId};

    const MAX_US: u64 = 50_000;

    fn answer(outcome: Result<f32, &'static str>, anomaly: bool) -> Answered {
        let schema = StreamSchema { stream: StreamId::new("pump").expect("valid"), channels: vec![] };
        let question = Question {
            of: Sequence(1),
            schema: Arc::new(schema),
            time_ms: 0,
            values: vec![],
            warm_up: false,
            kept: true,
        };
        let outcome = outcome.map(|score| Outcome::Anomaly(Score { score, threshold: 1.0, anomaly }));
        Answered { question, outcome }
    }

    /// Hands answers over one by one, a second each, and says at which one something came of it.
    fn run(
        trial: &mut Trial,
        answers: impl Iterator<Item = Answered>,
        us: u64,
        before: AlarmShare,
    ) -> (usize, Verdict) {
        for (index, answer) in answers.enumerate() {
            let verdict = trial.take(Millis(1_000 * index as u64), &[answer], us, before, MAX_US);
            if verdict != Verdict::Unchanged {
                return (index + 1, verdict);
            }
        }
        (0, Verdict::Unchanged)
    }

    fn failed(words: &str) -> Verdict {
        Verdict::Failed(words.to_owned())
    }

    #[test]
    fn quiet_answers_pass_and_a_slow_stream_passes_by_time() {
        let before = AlarmShare { answered: 1_000, alarms: 50 };
        let quiet = (0..1_000).map(|index| answer(Ok(0.5), index % 10 == 0));
        let mut trial = Trial::default();
        assert_eq!(run(&mut trial, quiet, 100, before), (200, Verdict::Passed));
        assert!(trial.is_over());
        let mut trial = Trial::default();
        trial.take(Millis(0), &[answer(Err("window_filling"), false)], 100, before, MAX_US);
        let late = Millis(TRIAL_LONGEST_MS);
        assert_eq!(trial.take(late, &[answer(Ok(0.5), false)], 100, before, MAX_US), Verdict::Passed);
    }

    #[test]
    fn every_way_to_be_bad_is_told_in_words() {
        let before = AlarmShare { answered: 1_000, alarms: 50 };
        let first = |answers: &mut dyn Iterator<Item = Answered>, us| run(&mut Trial::default(), answers, us, before);
        let loud = &mut (0..500).map(|_| answer(Ok(2.0), true));
        let words = "100.0 % of 200 answers were anomalous, with the model before 5.0 %";
        assert_eq!(first(loud, 100), (200, failed(words)));
        let broken = &mut (0..500).map(|index| answer(if index == 7 { Err(MODEL_BROKE) } else { Ok(0.5) }, false));
        assert_eq!(first(broken, 100), (8, failed("it broke off after 7 answers")));
        let no_numbers = &mut (0..500).map(|index| answer(Ok(if index < 50 { 0.5 } else { f32::NAN }), index >= 50));
        assert_eq!(first(no_numbers, 100), (53, failed("3 answers on end were no numbers")));
        let mute = &mut (0..500).map(|_| answer(Err("missing_channel"), false));
        assert_eq!(first(mute, 100), (20, failed("20 of 20 readings had no answer: missing_channel")));
        let slow = &mut (0..500).map(|_| answer(Ok(0.5), false));
        let words = "an answer takes 80.0 ms, at most 50.0 are allowed on this box";
        assert_eq!(first(slow, 80_000), (50, failed(words)));
    }

    #[test]
    fn after_the_trial_only_what_no_model_may_do_counts() {
        let before = AlarmShare::default();
        let mut trial = Trial::passed();
        let loud = (0..500).map(|_| answer(Ok(2.0), true));
        assert_eq!(run(&mut trial, loud, 100, before), (0, Verdict::Unchanged));
        assert_eq!(trial.alarm_share(), AlarmShare { answered: 500, alarms: 500 });
        let mixed = (0..500).map(|index| answer(Ok(if index % 3 == 0 { 0.5 } else { f32::NAN }), true));
        assert_eq!(run(&mut trial, mixed, 100, before), (0, Verdict::Unchanged), "a sensor may be broken");
        let broken = std::iter::once(answer(Err(MODEL_BROKE), false));
        assert!(matches!(run(&mut trial, broken, 100, before), (1, Verdict::Failed(_))));
    }
}
