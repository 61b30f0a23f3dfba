//! Rollouts: how a version reaches boxes, stage by stage, and how it is taken back.
//!
//! A rollout belongs to one version of one model. Each stage adds boxes; a box is in it for good, or until it says that it
//! went back. A stage is over when every box of it that is connected answers with the version and has kept it after its own
//! trial, has done so for a while, has said enough to be judged, and nothing speaks against it. Before boxes serve a version
//! they may run it in shadow, and while some serve it, they may be held against the others ([`evidence`]). Every rollout ends:
//! released, rolled back or superseded by a newer version.

pub mod evidence;

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use shared::event::UnixMillis;
use shared::ids::{AgentId, Digest, ModelName, ModelVersion};
use shared::wire::message::{ModelOutcome, ShadowCounts};
use utoipa::ToSchema;

use self::evidence::{AbEvidence, BoxAnswers, Evidence, MirrorEvidence, StageMode};
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
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Stage {
    /// How many of the boxes have the version in the end, at least one.
    pub percent: u8,
    /// Boxes that come first: names, or prefixes that end in `*`.
    pub boxes: Vec<String>,
    /// How long every connected box of it has to answer with the version.
    pub soak_ms: i64,
    /// Whether a person must agree before it begins.
    pub approval: bool,
    /// How it puts the version to the test.
    #[serde(default)]
    pub mode: StageMode,
}

impl Default for RolloutRules {
    fn default() -> Self {
        let mode = StageMode::Serve;
        let stage = |percent, soak_ms| Stage { percent, boxes: Vec::new(), soak_ms, approval: false, mode };
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
    /// Boxes that run the version in shadow, as long as the stage lasts.
    #[serde(default)]
    pub mirrors: BTreeSet<AgentId>,
    /// What boxes had answered when they began to be held against each other.
    #[serde(default)]
    pub begun: BTreeMap<AgentId, BoxAnswers>,
    /// What stages found out, in order.
    #[serde(default)]
    pub evidence: Vec<Evidence>,
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
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
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
    /// What it is, in words.
    #[must_use]
    pub const fn in_words(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::AwaitingApproval => "awaiting approval",
            Self::Paused => "paused",
            Self::Released => "released",
            Self::RolledBack => "rolled back",
            Self::Superseded => "superseded",
        }
    }

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
    /// What the version says in shadow there, if it runs.
    pub shadow: Option<ShadowCounts>,
    /// What it answered with either version.
    pub answers: BoxAnswers,
}

/// What answers say, so far: of the version that is rolled out, and of the one before.
#[derive(Debug, Clone, Copy, Default)]
pub struct Answers {
    /// On the boxes that have the new version.
    pub new: PredictionCounts,
    /// On every box.
    pub old: PredictionCounts,
}

/// What a stage comes to.
enum Conclusion {
    /// It is too early to say.
    Open,
    /// The version is taken back.
    Against(String),
    /// The rollout goes on.
    For(Option<String>),
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
            mirrors: BTreeSet::new(),
            begun: BTreeMap::new(),
            evidence: Vec::new(),
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

    /// How many of a hundred readings this box should show the version in shadow, if it should at all.
    #[must_use]
    pub fn shadow_percent(&self, agent: &AgentId) -> Option<u8> {
        let is_in = self.mirrors.contains(agent) && !self.failed.contains_key(agent) && !self.state.is_over();
        match self.rules.stages[self.stage].mode {
            StageMode::Mirror { percent } if is_in => Some(percent),
            StageMode::Mirror { .. } | StageMode::Serve | StageMode::Ab { .. } => None,
        }
    }

    /// Whether boxes are held against each other now, for which what each of them answered must be known.
    #[must_use]
    pub fn compares_boxes(&self) -> bool {
        !self.state.is_over() && matches!(self.rules.stages[self.stage].mode, StageMode::Ab { .. })
    }

    /// A box says what became of the version.
    pub fn reported(&mut self, now: UnixMillis, agent: &AgentId, outcome: &ModelOutcome) -> bool {
        if self.state.is_over() || !(self.boxes.contains(agent) || self.mirrors.contains(agent)) {
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
        if let Some(reason) = self.speaks_against(now, members, answers) {
            self.end(now, RolloutState::RolledBack, reason);
            return true;
        }
        if self.state != RolloutState::Running {
            return false;
        }
        let mut changed = self.fill(members);
        if !self.has_taken_hold(members, answers) {
            return changed;
        }
        let since = match self.soaking_since_ms {
            Some(since) => since,
            None => {
                changed = true;
                self.soaking_since_ms = Some(now);
                if self.compares_boxes() {
                    self.begun = members.iter().map(|member| (member.agent.clone(), member.answers)).collect();
                }
                now
            }
        };
        if now < since + self.rules.stages[self.stage].soak_ms {
            return changed;
        }
        match self.conclude(members) {
            Conclusion::Open => changed,
            Conclusion::Against(reason) => {
                self.end(now, RolloutState::RolledBack, reason);
                true
            }
            Conclusion::For(found) => {
                found.into_iter().for_each(|sentence| self.say(now, sentence));
                self.go_on(now, members);
                true
            }
        }
    }

    /// The stage is over: what it says of the version.
    fn conclude(&mut self, members: &[Member]) -> Conclusion {
        match self.rules.stages[self.stage].mode {
            StageMode::Serve => Conclusion::For(None),
            StageMode::Mirror { .. } => {
                let found = MirrorEvidence::of(self, members);
                let sentence = found.sentence();
                self.evidence.push(Evidence::Mirror(found));
                Conclusion::For(Some(sentence))
            }
            StageMode::Ab { significance } => {
                let Some(found) = AbEvidence::of(self, members, &self.begun, significance) else {
                    return Conclusion::Open;
                };
                let (sentence, better) = (found.sentence(), found.better);
                self.evidence.push(Evidence::Ab(found));
                if better == Some(self.from) {
                    Conclusion::Against(format!("rolled back: {sentence}"))
                } else {
                    Conclusion::For(Some(sentence))
                }
            }
        }
    }

    fn go_on(&mut self, now: UnixMillis, members: &[Member]) {
        if self.stage + 1 == self.rules.stages.len() {
            let serving = members.iter().filter(|member| member.serving == Some(self.digest)).count();
            let (all, failed) = (members.len(), self.failed.len());
            let sentence = format!("released: {serving} of {all} boxes answer with it, {failed} failed");
            self.end(now, RolloutState::Released, sentence);
            return;
        }
        self.enter(now, self.stage + 1);
        if self.state == RolloutState::Running {
            self.fill(members);
        }
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
        self.mirrors.clear();
        self.begun.clear();
        let Stage { percent, approval, mode, .. } = &self.rules.stages[stage];
        let (percent, approval) = (*percent, *approval);
        let how = match mode {
            StageMode::Serve => String::new(),
            StageMode::Mirror { percent } => format!(", in shadow of {percent} % of their readings"),
            StageMode::Ab { .. } => ", against the others".to_owned(),
        };
        self.state = if approval { RolloutState::AwaitingApproval } else { RolloutState::Running };
        let waits = if approval { ", which waits for approval" } else { "" };
        let stages = self.rules.stages.len();
        self.say(now, format!("stage {} of {stages}: {percent} % of the boxes{how}{waits}", stage + 1));
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
        let is_shadow = matches!(stage.mode, StageMode::Mirror { .. });
        let taken = if is_shadow { &mut self.mirrors } else { &mut self.boxes };
        let share = (members.len() * usize::from(stage.percent)).div_ceil(100).max(1);
        let mut others: Vec<(bool, Digest, &AgentId)> = members
            .iter()
            .filter(|member| !taken.contains(&member.agent))
            .map(|member| {
                let name = member.agent.as_str();
                let is_named = stage.boxes.iter().any(|pattern| matches_pattern(pattern, name));
                (!is_named, Digest::of(format!("{} {name}", self.id).as_bytes()), &member.agent)
            })
            .collect();
        others.sort();
        let named = others.iter().filter(|(is_other, ..)| !is_other).count();
        let missing = share.saturating_sub(taken.len()).max(named);
        taken.extend(others.into_iter().take(missing).map(|(_, _, agent)| agent.clone()));
        missing > 0 && !members.is_empty()
    }

    /// Whether the boxes of the stage do what they should, and there is enough to judge it by: a soak in which nothing was
    /// answered proves nothing.
    fn has_taken_hold(&self, members: &[Member], answers: Answers) -> bool {
        if matches!(self.rules.stages[self.stage].mode, StageMode::Mirror { .. }) {
            return self.is_mirrored(members)
                && MirrorEvidence::of(self, members).counts.compared >= self.rules.min_answers;
        }
        self.is_served(members) && answers.new.total >= self.rules.min_answers
    }

    /// Whether at least one box runs the version in shadow, and every connected one that should.
    fn is_mirrored(&self, members: &[Member]) -> bool {
        let mut count = 0;
        members
            .iter()
            .filter(|member| self.mirrors.contains(&member.agent) && !self.failed.contains_key(&member.agent))
            .filter(|member| member.connected && member.has_streams)
            .inspect(|_| count += 1)
            .all(|member| member.shadow.is_some())
            && count > 0
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
    fn speaks_against(&self, now: UnixMillis, members: &[Member], answers: Answers) -> Option<String> {
        let (failed, boxes) = (self.failed.len(), self.boxes.union(&self.mirrors).count());
        if failed as f64 > self.rules.failure_share * boxes as f64 {
            let (agent, reason) = self.failed.last_key_value()?;
            return Some(format!("rolled back: {failed} of {boxes} boxes failed; {agent} {reason}"));
        }
        if now >= self.started_ms + self.rules.deadline_ms {
            let hours = self.rules.deadline_ms as f64 / 3_600_000.0;
            return Some(format!("rolled back: it was not over after {hours:.1} h, in stage {}", self.stage + 1));
        }
        if let StageMode::Mirror { .. } = self.rules.stages[self.stage].mode {
            return MirrorEvidence::of(self, members).speaks_against(&self.rules);
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
        let stage = |percent: &u8| Stage {
            percent: *percent,
            boxes: Vec::new(),
            soak_ms: 1_000,
            approval: false,
            mode: StageMode::Serve,
        };
        RolloutRules { stages: percents.iter().map(stage).collect(), min_answers: 0, ..RolloutRules::default() }
    }

    fn rollout(rules: RolloutRules) -> Rollout {
        let model = ModelName::new("pump").expect("valid");
        let before = PredictionCounts { total: 1_000, anomalous: 50 };
        Rollout::begin(1, (model, ModelVersion(5), DIGEST), ModelVersion(3), rules, before, 0)
    }

    fn members(count: usize) -> Vec<Member> {
        (0..count).map(|index| member(index, true)).collect()
    }

    fn member(index: usize, has_streams: bool) -> Member {
        Member {
            agent: agent(index),
            connected: true,
            serving: None,
            kept: None,
            has_streams,
            shadow: None,
            answers: BoxAnswers::default(),
        }
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
        boxes.push(member(9, false));
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

    /// What a version said in shadow, on every box that runs it.
    fn shadowed(rollout: &Rollout, members: &mut [Member], counts: ShadowCounts) {
        for member in members {
            member.shadow = rollout.shadow_percent(&member.agent).map(|_| counts);
        }
    }

    #[test]
    fn a_version_in_shadow_is_compared_on_its_boxes_and_served_on_none() {
        let mut rules = rules(&[50, 100]);
        rules.stages[0].mode = StageMode::Mirror { percent: 30 };
        rules.min_answers = 100;
        let (mut rollout, mut boxes) = (rollout(rules.clone()), members(4));
        let counts = ShadowCounts {
            readings: 300,
            mirrored: 90,
            compared: 80,
            agreed: 76,
            anomalous: 4,
            served_anomalous: 8,
            busy_us: 900,
            ..ShadowCounts::of(DIGEST)
        };
        let answers = Answers { new: PredictionCounts { total: 200, anomalous: 0 }, ..Answers::default() };
        for now_ms in [0, 10, 500] {
            rollout.advance(now_ms, &boxes, answers);
            assert_eq!((rollout.mirrors.len(), take(&rollout, &mut boxes)), (2, 0), "at {now_ms}");
            shadowed(&rollout, &mut boxes, counts);
        }
        rollout.advance(1_020, &boxes, answers);
        let said = &rollout.log.iter().rev().nth(1).expect("said").1;
        let expected = "in shadow on 2 boxes it saw 180 of 600 readings (30.0 %): 95.0 % of 160 answers are the same, 5.0 % \
                        anomalous where 10.0 % of those served are, 10 us a reading";
        assert_eq!((said.as_str(), rollout.stage), (expected, 1));
        assert!(boxes.iter().all(|member| rollout.shadow_percent(&member.agent).is_none()));
        assert_eq!(take(&rollout, &mut boxes), 4);

        let mut rollout = self::rollout(rules);
        rollout.advance(0, &boxes, answers);
        shadowed(&rollout, &mut boxes, ShadowCounts { anomalous: 70, ..counts });
        rollout.advance(10, &boxes, answers);
        let last = &rollout.log.last().expect("said").1;
        assert!(last.starts_with("rolled back: in shadow 87.5 % of 160 answers are anomalous"), "{last}");
        assert!(rollout.state.is_over() && rollout.boxes.is_empty());
    }

    /// An A/B of ten boxes on either side, where the new version calls `new` in a hundred readings anomalous, and the one
    /// before ten, more or less.
    fn ab(new: u64) -> Rollout {
        let mut rules = rules(&[50, 100]);
        rules.stages[0].mode = StageMode::Ab { significance: 0.05 };
        rules.alarm_margin = 1.0;
        let (mut rollout, mut boxes) = (rollout(rules), members(20));
        for round in 0..10_u64 {
            rollout.advance(500 * round as i64, &boxes, Answers::default());
            take(&rollout, &mut boxes);
            for (index, member) in boxes.iter_mut().enumerate() {
                let of = if member.serving.is_some() { &mut member.answers.new } else { &mut member.answers.old };
                let share = if member.serving.is_some() { new } else { 10 };
                // What came before the comparison began counts for nothing.
                let share = if round == 0 { 100 } else { share + index as u64 % 5 };
                of.add(PredictionCounts { total: 100, anomalous: share });
            }
        }
        rollout
    }

    #[test]
    fn boxes_are_held_against_each_other_and_the_better_version_is_found_with_its_p_value() {
        let found = |rollout: &Rollout| {
            let Some(Evidence::Ab(found)) = rollout.evidence.first() else { panic!("{:?}", rollout.log) };
            found.clone()
        };
        let better = ab(4);
        let evidence = found(&better);
        assert_eq!((evidence.better, evidence.new.boxes, better.stage), (Some(ModelVersion(5)), 10, 1));
        assert!(evidence.p_value < 1e-4 && evidence.new.anomalous_share < evidence.before.anomalous_share);
        let same = ab(10);
        assert!(found(&same).better.is_none() && found(&same).p_value > 0.05 && same.stage == 1, "{:?}", same.log);
        let worse = ab(14);
        let last = &worse.log.last().expect("said").1;
        assert_eq!((found(&worse).better, worse.state), (Some(ModelVersion(3)), RolloutState::RolledBack));
        assert!(
            last.starts_with("rolled back: version 5 calls 1") && last.contains("version 3 is better, p "),
            "{last}"
        );
    }
}
