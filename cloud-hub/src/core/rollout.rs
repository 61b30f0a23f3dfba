//! Rollouts: how a version reaches boxes, stage by stage, and how it is taken back.
//!
//! A rollout belongs to one version of one model. Each stage adds boxes; a box is in it for good, or until it says that it
//! went back. A stage is over when every box of it that is connected answers with the version and has kept it after its own
//! trial, has done so for a while, has said enough to be judged, and nothing speaks against it. Every rollout ends: released, rolled back or superseded by a newer version.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use shared::event::UnixMillis;
use shared::ids::{AgentId, Digest, ModelName, ModelVersion};
use shared::wire::message::ModelOutcome;

use super::matches_pattern;
use super::observe::PredictionCounts;

/// How a model's versions are rolled out.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RolloutRules {
    /// At least one stage; the last has every box.
    pub stages: Vec<Stage>,
    /// A rollout that is not over by then is taken back.
    pub deadline_ms: i64,
    /// By how much the share of anomalous answers may exceed that of the version before.
    pub alarm_margin: f64,
    /// Answers of the version, before which that share is not judged and no stage is over.
    pub min_answers: u64,
    /// Boxes that may fail, as a share of those that got the version. One more, and it is taken back.
    pub failure_share: f64,
}

/// A step of a rollout.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Stage {
    /// How many of the boxes have the version in the end, at least one.
    pub percent: u8,
    /// Boxes that come first: names, or prefixes that end in `*`.
    pub boxes: Vec<String>,
    /// How long every connected box of it has to answer with the version.
    pub soak_ms: i64,
    /// Whether a person must agree before it begins.
    pub approval: bool,
}

impl Default for RolloutRules {
    fn default() -> Self {
        let stage = |percent, soak_ms| Stage { percent, boxes: Vec::new(), soak_ms, approval: false };
        Self {
            stages: vec![stage(10, 60_000), stage(100, 0)],
            deadline_ms: 7 * 24 * 3_600_000,
            alarm_margin: 0.2,
            min_answers: 100,
            failure_share: 0.02,
        }
    }
}

/// A rollout, as it stands.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Rollout {
    /// Its number.
    pub id: i64,
    /// The model.
    pub model: ModelName,
    /// The version.
    pub version: ModelVersion,
    /// Its package.
    pub digest: Digest,
    /// The version that boxes go back to.
    pub from: ModelVersion,
    /// How it stands.
    pub state: RolloutState,
    /// The stage it is in, from 0.
    pub stage: usize,
    /// Since when every connected box of the stage answers with the version.
    pub soaking_since_ms: Option<UnixMillis>,
    /// When it began.
    pub started_ms: UnixMillis,
    /// When it ended.
    pub ended_ms: Option<UnixMillis>,
    /// Boxes that have the version or are to have it.
    pub boxes: BTreeSet<AgentId>,
    /// Boxes that could not serve it, and why.
    pub failed: BTreeMap<AgentId, String>,
    /// What the version before had answered when it began.
    pub before: PredictionCounts,
    /// What happened, in sentences, in order.
    pub log: Vec<(UnixMillis, String)>,
    /// How it goes.
    pub rules: RolloutRules,
}

/// How a rollout stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RolloutState {
    /// Boxes get it.
    Running,
    /// The next stage waits for a person.
    AwaitingApproval,
    /// A person holds it.
    Paused,
    /// It is over: every box gets the version.
    Released,
    /// It is over: no box keeps it.
    RolledBack,
    /// It is over: a newer version took its place.
    Superseded,
}

impl RolloutState {
    /// Whether it is over.
    #[must_use]
    pub const fn is_over(self) -> bool {
        matches!(self, Self::Released | Self::RolledBack | Self::Superseded)
    }
}

/// What a person wants of a rollout.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wish {
    /// Let the next stage begin.
    Approve,
    /// No box gets it until it is resumed.
    Pause,
    /// Go on.
    Resume,
    /// Take it back.
    Abort,
}

/// A box that a version could go to.
#[derive(Debug, Clone)]
pub struct Member {
    /// Its name.
    pub agent: AgentId,
    /// Whether it is connected.
    pub connected: bool,
    /// The package it serves.
    pub serving: Option<Digest>,
    /// The package that it serves and that passed its trial there.
    pub kept: Option<Digest>,
    /// Whether it ever had a reading to answer: one that never had does not hold a rollout up.
    pub has_streams: bool,
}

/// What answers say, so far: of the version that is rolled out, and of the one before.
#[derive(Debug, Clone, Copy, Default)]
pub struct Answers {
    /// On the boxes that have the new version.
    pub new: PredictionCounts,
    /// On every box.
    pub old: PredictionCounts,
}

impl Rollout {
    /// Begins a rollout: the first stage, unless a person must agree.
    #[must_use]
    pub fn begin(
        id: i64,
        (model, version, digest): (ModelName, ModelVersion, Digest),
        from: ModelVersion,
        rules: RolloutRules,
        before: PredictionCounts,
        now: UnixMillis,
    ) -> Self {
        let mut rollout = Self {
            id,
            model,
            version,
            digest,
            from,
            state: RolloutState::Running,
            stage: 0,
            soaking_since_ms: None,
            started_ms: now,
            ended_ms: None,
            boxes: BTreeSet::new(),
            failed: BTreeMap::new(),
            before,
            log: Vec::new(),
            rules,
        };
        rollout.enter(now, 0);
        rollout
    }

    /// The version this box should serve, as far as the rollout has a say.
    #[must_use]
    pub fn wants(&self, agent: &AgentId) -> ModelVersion {
        let is_in = self.boxes.contains(agent) && !self.failed.contains_key(agent);
        if self.state == RolloutState::Released || (is_in && !self.state.is_over()) { self.version } else { self.from }
    }

    /// A box says what became of the version.
    pub fn reported(&mut self, now: UnixMillis, agent: &AgentId, outcome: &ModelOutcome) -> bool {
        if self.state.is_over() || !self.boxes.contains(agent) {
            return false;
        }
        let reason = match outcome {
            ModelOutcome::Serving => return false,
            ModelOutcome::Refused { reason } => format!("did not take it: {reason}"),
            ModelOutcome::RolledBack { reason } => format!("went back: {reason}"),
        };
        self.say(now, format!("{agent} {reason}"));
        self.failed.insert(agent.clone(), reason);
        true
    }

    /// Moves on if something is due; whether anything changed.
    pub fn advance(&mut self, now: UnixMillis, members: &[Member], answers: Answers) -> bool {
        if self.state.is_over() {
            return false;
        }
        if let Some(reason) = self.speaks_against(now, answers) {
            self.end(now, RolloutState::RolledBack, reason);
            return true;
        }
        if self.state != RolloutState::Running {
            return false;
        }
        let mut changed = self.fill(members);
        // A soak in which nothing was answered proves nothing.
        if !self.is_served(members) || answers.new.total < self.rules.min_answers {
            return changed;
        }
        let stage = &self.rules.stages[self.stage];
        let since = match self.soaking_since_ms {
            Some(since) => since,
            None => {
                changed = true;
                self.soaking_since_ms = Some(now);
                now
            }
        };
        if now >= since + stage.soak_ms {
            changed = true;
            if self.stage + 1 == self.rules.stages.len() {
                let serving = members.iter().filter(|member| member.serving == Some(self.digest)).count();
                let (all, failed) = (members.len(), self.failed.len());
                let sentence = format!("released: {serving} of {all} boxes answer with it, {failed} failed");
                self.end(now, RolloutState::Released, sentence);
            } else {
                self.enter(now, self.stage + 1);
                if self.state == RolloutState::Running {
                    self.fill(members);
                }
            }
        }
        changed
    }

    /// Does what a person wants.
    ///
    /// # Errors
    /// Says why it makes no sense.
    pub fn wish(&mut self, now: UnixMillis, wish: Wish, by: &str) -> Result<(), String> {
        let state = self.state;
        match (wish, state) {
            (_, state) if state.is_over() => Err(format!("rollout {} is over", self.id)),
            (Wish::Abort, _) => {
                self.end(now, RolloutState::RolledBack, format!("aborted by {by}"));
                Ok(())
            }
            (Wish::Pause, RolloutState::Running) => self.set(now, RolloutState::Paused, format!("paused by {by}")),
            (Wish::Resume, RolloutState::Paused) => self.set(now, RolloutState::Running, format!("resumed by {by}")),
            (Wish::Approve, RolloutState::AwaitingApproval) => {
                self.set(now, RolloutState::Running, format!("stage {} approved by {by}", self.stage + 1))
            }
            (Wish::Pause, _) => Err(format!("rollout {} does not run", self.id)),
            (Wish::Resume, _) => Err(format!("rollout {} is not paused", self.id)),
            (Wish::Approve, _) => Err(format!("rollout {} does not wait for approval", self.id)),
        }
    }

    /// A newer version takes its place.
    pub fn supersede(&mut self, now: UnixMillis, by: ModelVersion) {
        if !self.state.is_over() {
            self.end(now, RolloutState::Superseded, format!("superseded by version {by}"));
        }
    }

    fn set(&mut self, now: UnixMillis, state: RolloutState, sentence: String) -> Result<(), String> {
        self.state = state;
        // What soaked before a person looked counts no more.
        self.soaking_since_ms = None;
        self.say(now, sentence);
        Ok(())
    }

    fn enter(&mut self, now: UnixMillis, stage: usize) {
        self.stage = stage;
        self.soaking_since_ms = None;
        let Stage { percent, approval, .. } = &self.rules.stages[stage];
        let (percent, approval) = (*percent, *approval);
        self.state = if approval { RolloutState::AwaitingApproval } else { RolloutState::Running };
        let waits = if approval { ", which waits for approval" } else { "" };
        self.say(now, format!("stage {} of {}: {percent} % of the boxes{waits}", stage + 1, self.rules.stages.len()));
    }

    fn end(&mut self, now: UnixMillis, state: RolloutState, reason: String) {
        self.state = state;
        self.ended_ms = Some(now);
        self.say(now, reason);
    }

    fn say(&mut self, now: UnixMillis, sentence: String) {
        self.log.push((now, sentence));
    }

    /// Takes boxes in until the stage has its share. Who is named comes first; after that chance decides, which is the same
    /// chance after a restart.
    fn fill(&mut self, members: &[Member]) -> bool {
        let stage = &self.rules.stages[self.stage];
        let share = (members.len() * usize::from(stage.percent)).div_ceil(100).max(1);
        let mut others: Vec<(bool, Digest, &AgentId)> = members
            .iter()
            .filter(|member| !self.boxes.contains(&member.agent))
            .map(|member| {
                let name = member.agent.as_str();
                let is_named = stage.boxes.iter().any(|pattern| matches_pattern(pattern, name));
                (!is_named, Digest::of(format!("{} {name}", self.id).as_bytes()), &member.agent)
            })
            .collect();
        others.sort();
        let named = others.iter().filter(|(is_other, ..)| !is_other).count();
        let missing = share.saturating_sub(self.boxes.len()).max(named);
        self.boxes.extend(others.into_iter().take(missing).map(|(_, _, agent)| agent.clone()));
        missing > 0 && !members.is_empty()
    }

    /// Whether at least one box answers with the version and has kept it after its trial, and every connected one that should.
    fn is_served(&self, members: &[Member]) -> bool {
        let expected = members
            .iter()
            .filter(|member| self.boxes.contains(&member.agent) && !self.failed.contains_key(&member.agent))
            .filter(|member| member.connected && (member.has_streams || member.serving == Some(self.digest)));
        let mut count = 0;
        let has_kept = |member: &Member| member.serving == Some(self.digest) && member.kept == Some(self.digest);
        expected.inspect(|_| count += 1).all(has_kept) && count > 0
    }

    /// Why the version is to be taken back, if it is.
    fn speaks_against(&self, now: UnixMillis, answers: Answers) -> Option<String> {
        let (failed, boxes) = (self.failed.len(), self.boxes.len());
        if failed as f64 > self.rules.failure_share * boxes as f64 {
            let (agent, reason) = self.failed.last_key_value()?;
            return Some(format!("rolled back: {failed} of {boxes} boxes failed; {agent} {reason}"));
        }
        if now >= self.started_ms + self.rules.deadline_ms {
            let hours = self.rules.deadline_ms as f64 / 3_600_000.0;
            return Some(format!("rolled back: it was not over after {hours:.1} h, in stage {}", self.stage + 1));
        }
        let since = PredictionCounts {
            total: answers.old.total.saturating_sub(self.before.total),
            anomalous: answers.old.anomalous.saturating_sub(self.before.anomalous),
        };
        // Boxes that kept the version before went through the same hours; where there are none, its past has to do.
        let control = if since.total >= self.rules.min_answers { since } else { answers.old };
        if answers.new.total < self.rules.min_answers || control.total < self.rules.min_answers {
            return None;
        }
        let (new, old) = (answers.new.share(), control.share());
        (new > old + self.rules.alarm_margin).then(|| {
            format!(
                "rolled back: {:.1} % of {} answers are anomalous, with version {} {:.1} % of {}; {:.1} % more are allowed",
                100.0 * new,
                answers.new.total,
                self.from,
                100.0 * old,
                control.total,
                100.0 * self.rules.alarm_margin
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIGEST: Digest = Digest([7; 32]);

    fn agent(index: usize) -> AgentId {
        AgentId::new(&format!("box-{index}")).expect("valid")
    }

    fn rules(percents: &[u8]) -> RolloutRules {
        let stage = |percent: &u8| Stage { percent: *percent, boxes: Vec::new(), soak_ms: 1_000, approval: false };
        RolloutRules { stages: percents.iter().map(stage).collect(), min_answers: 0, ..RolloutRules::default() }
    }

    fn rollout(rules: RolloutRules) -> Rollout {
        let model = ModelName::new("pump").expect("valid");
        let before = PredictionCounts { total: 1_000, anomalous: 50 };
        Rollout::begin(1, (model, ModelVersion(5), DIGEST), ModelVersion(3), rules, before, 0)
    }

    fn members(count: usize) -> Vec<Member> {
        (0..count)
            .map(|index| Member { agent: agent(index), connected: true, serving: None, kept: None, has_streams: true })
            .collect()
    }

    /// Boxes take what they should.
    fn take(rollout: &Rollout, members: &mut [Member]) -> usize {
        for member in members.iter_mut().filter(|member| member.connected) {
            let has = rollout.wants(&member.agent) == rollout.version;
            member.serving = has.then_some(rollout.digest);
            member.kept = member.serving;
        }
        members.iter().filter(|member| member.serving.is_some()).count()
    }

    #[test]
    fn stages_grow_soak_and_end_in_a_release() {
        let (mut rollout, mut boxes) = (rollout(rules(&[10, 50, 100])), members(20));
        let mut shares = Vec::new();
        for now_ms in (0..20).map(|step| step * 500) {
            rollout.advance(now_ms, &boxes, Answers::default());
            shares.push(take(&rollout, &mut boxes));
        }
        shares.dedup();
        assert_eq!((shares, rollout.state), (vec![2, 10, 20], RolloutState::Released));
        assert_eq!(rollout.ended_ms, Some(4_500), "{:?}", rollout.log);
    }

    #[test]
    fn one_failure_of_few_takes_it_back_from_every_box() {
        let (mut rollout, mut boxes) = (rollout(rules(&[10, 100])), members(20));
        rollout.advance(0, &boxes, Answers::default());
        assert_eq!(take(&rollout, &mut boxes), 2);
        let victim = rollout.boxes.first().expect("one").clone();
        let reason = "12 answers were no numbers".to_owned();
        assert!(rollout.reported(10, &victim, &ModelOutcome::RolledBack { reason }));
        assert!(rollout.advance(20, &boxes, Answers::default()));
        assert_eq!((rollout.state, take(&rollout, &mut boxes)), (RolloutState::RolledBack, 0));
        let last = &rollout.log.last().expect("said").1;
        assert!(last.contains("1 of 2 boxes failed") && last.contains("no numbers"), "{last}");
    }

    #[test]
    fn a_version_that_alarms_more_than_its_control_group_is_taken_back() {
        let rules = RolloutRules { min_answers: 100, ..rules(&[10, 100]) };
        let (mut rollout, mut boxes) = (rollout(rules), members(20));
        rollout.advance(0, &boxes, Answers::default());
        take(&rollout, &mut boxes);
        for now_ms in [10, 5_000] {
            rollout.advance(now_ms, &boxes, Answers::default());
            assert_eq!((rollout.stage, rollout.soaking_since_ms), (0, None), "it has not said anything yet");
        }
        let counts = |total, anomalous| PredictionCounts { total, anomalous };
        // The control group has as many since it began: something happened to the machines.
        let same = Answers { new: counts(200, 100), old: counts(2_000, 500) };
        rollout.advance(5_010, &boxes, same);
        assert_eq!(rollout.state, RolloutState::Running);
        rollout.advance(5_020, &boxes, Answers { new: counts(200, 100), old: counts(2_000, 100) });
        assert_eq!(rollout.state, RolloutState::RolledBack);
        assert!(rollout.log.last().expect("said").1.contains("50.0 % of 200 answers"), "{:?}", rollout.log);
    }

    #[test]
    fn offline_boxes_do_not_hold_it_up_and_a_fleet_that_is_away_does_until_the_deadline() {
        let (mut rollout, mut boxes) = (rollout(rules(&[50, 100])), members(4));
        boxes[0].connected = false;
        boxes.push(Member { agent: agent(9), connected: true, serving: None, kept: None, has_streams: false });
        for now_ms in (0..10).map(|step| step * 500) {
            rollout.advance(now_ms, &boxes, Answers::default());
            take(&rollout, &mut boxes[..4]);
        }
        assert_eq!(rollout.state, RolloutState::Released, "a box without readings does not hold it up either");
        assert_eq!(rollout.wants(&agent(0)), ModelVersion(5), "it catches up");

        let (mut rollout, mut boxes) = (self::rollout(rules(&[50, 100])), members(4));
        boxes.iter_mut().for_each(|member| member.connected = false);
        rollout.advance(1_000_000, &boxes, Answers::default());
        assert_eq!(rollout.state, RolloutState::Running);
        rollout.advance(rollout.rules.deadline_ms, &boxes, Answers::default());
        assert_eq!(rollout.state, RolloutState::RolledBack);
    }

    #[test]
    fn people_hold_approve_and_abort_and_named_boxes_come_first() {
        let mut rules = rules(&[1, 100]);
        rules.stages[0].boxes = vec!["box-1*".to_owned()];
        rules.stages[1].approval = true;
        let (mut rollout, mut boxes) = (rollout(rules), members(12));
        assert!(rollout.wish(0, Wish::Approve, "Ada").is_err());
        rollout.wish(0, Wish::Pause, "Ada").expect("it runs");
        rollout.advance(1, &boxes, Answers::default());
        assert_eq!(take(&rollout, &mut boxes), 0);
        rollout.wish(2, Wish::Resume, "Ada").expect("it is paused");
        for now_ms in (3..10).map(|step| step * 1_000) {
            rollout.advance(now_ms, &boxes, Answers::default());
            take(&rollout, &mut boxes);
        }
        let named: Vec<_> = rollout.boxes.iter().map(AgentId::as_str).collect();
        assert_eq!((named, rollout.state), (vec!["box-1", "box-10", "box-11"], RolloutState::AwaitingApproval));
        rollout.wish(20_000, Wish::Approve, "Ada").expect("it waits");
        rollout.advance(20_001, &boxes, Answers::default());
        assert_eq!(take(&rollout, &mut boxes), 12);
        rollout.wish(20_002, Wish::Abort, "Ada").expect("it runs");
        assert_eq!(take(&rollout, &mut boxes), 0);
        assert!(rollout.wish(20_003, Wish::Resume, "Ada").is_err());
    }
}
