//! From a version that was made to boxes that serve it.

use std::collections::{BTreeMap, BTreeSet};

use shared::ids::{AgentId, ModelName, ModelVersion};
use shared::wire::message::{Hello, HubToEdge, ModelOutcome, ModelReport, ShadowOffer};

use super::limits::ROLLOUT_INTERVAL_MS;
use super::observe::PredictionCounts;
use super::registry::Release;
use super::retrain::{Run, RunOutcome};
use super::rollout::evidence::BoxAnswers;
use super::rollout::{Answers, Member, Rollout, Wish};
use super::session::Session;
use super::{ConnectionId, Effect, HubCore, ModelSpec, Now};

impl HubCore {
    pub(super) fn model_report(
        &mut self,
        now: Now,
        connection: ConnectionId,
        report: ModelReport,
        effects: &mut Vec<Effect>,
    ) {
        let Some(agent) = self.sessions.agent(connection).cloned() else {
            return;
        };
        if report.outcome == ModelOutcome::Serving
            && let Some(facts) = self.sessions.serving(connection, &report)
        {
            effects.push(Effect::RecordAgent(Box::new(facts)));
            self.offer(connection, effects);
        }
        if let Some(mut rollout) = self.registry.rollout_of(&report.model.name).cloned()
            && rollout.digest == report.digest
            && rollout.reported(now, &agent, &report.outcome)
        {
            self.keep_rollout(rollout, effects);
        }
        self.rollouts_at = now;
        effects.push(Effect::RecordDeployment { agent, report, at_ms: now });
    }

    /// What a box serves when it greets may be news: its report was lost with a connection.
    pub(super) fn note_served(&self, now: Now, agent: &AgentId, hello: &Hello, effects: &mut Vec<Effect>) {
        let before = self.sessions.facts(agent).and_then(|facts| facts.hello.serving.as_ref());
        if let Some(serving) = hello.serving.as_ref().filter(|serving| Some(*serving) != before) {
            let (model, digest) = (serving.model.clone(), serving.digest);
            let report = ModelReport { model, digest, outcome: ModelOutcome::Serving };
            effects.push(Effect::RecordDeployment { agent: agent.clone(), report, at_ms: now });
        }
    }

    pub(super) fn trained(&mut self, now: Now, run: i64, outcome: RunOutcome, effects: &mut Vec<Effect>) {
        let (blind_since, settled) = (outcome.blind_since.clone(), outcome.released.as_ref().map(|(_, since)| *since));
        let Some((run, release)) = self.retraining.finished(now, run, outcome) else {
            return;
        };
        self.unsaved_verdict |= settled.is_some() || !blind_since.is_empty();
        self.observed.mark_blind(&run.model, &blind_since);
        if let Some(since) = settled {
            self.observed.settle_regime(&run.model, since);
        }
        match release {
            None => effects.push(Effect::RecordRun(run)),
            Some(release) => self.add_release(release, run, effects),
        }
    }

    /// Offers an agent the version it should serve, unless it serves it.
    pub(super) fn offer(&mut self, connection: ConnectionId, effects: &mut Vec<Effect>) {
        let Some(session) = self.sessions.get(connection).cloned() else {
            return;
        };
        let Some(spec) = self.model_of(&session.agent) else {
            return;
        };
        let wanted = match session.pinned {
            Some(version) => self.registry.version(&spec.name, version),
            None => self.registry.wanted(&spec.name, &session.agent),
        };
        let (wanted, shadow) = (wanted.map(Release::offer), self.shadow_of(&spec.name, &session));
        if let Some(offer) = wanted
            && self.sessions.is_news(connection, offer.digest)
        {
            effects.push(Effect::Send { connection, message: HubToEdge::Offer(offer) });
        }
        if self.sessions.is_shadow_news(connection, shadow.as_ref()) {
            effects.push(Effect::Send { connection, message: HubToEdge::Shadow(shadow) });
        }
    }

    /// What a box should run in shadow. What is pinned is left alone.
    fn shadow_of(&self, model: &ModelName, session: &Session) -> Option<ShadowOffer> {
        let rollout = self.registry.rollout_of(model).filter(|_| session.pinned.is_none())?;
        let percent = rollout.shadow_percent(&session.agent)?;
        Some(ShadowOffer { offer: self.registry.version(model, rollout.version)?.offer(), percent })
    }

    /// The model a box serves: the first that answers one of its streams; as long as it has none, the first of its cohort.
    fn model_of(&self, agent: &AgentId) -> Option<&ModelSpec> {
        let answering: BTreeSet<&ModelName> = self
            .observed
            .streams_of(agent)
            .filter_map(|stream| ModelSpec::of(&self.specs, agent, stream))
            .map(|spec| &spec.name)
            .collect();
        let is_new = self.observed.streams_of(agent).next().is_none();
        self.specs.iter().find(|spec| if is_new { spec.is_for(agent) } else { answering.contains(&spec.name) })
    }

    /// Watches each model's streams for drift from what its champion was trained on.
    pub(super) fn watch_champions(&mut self) -> Vec<Effect> {
        let mut effects = Vec::new();
        for champion in self.specs.iter().filter_map(|spec| self.registry.champion(&spec.name)) {
            self.observed.watch(champion, &self.specs, &mut effects);
        }
        effects
    }

    pub(super) fn uploaded(&mut self, now: Now, release: Release, effects: &mut Vec<Effect>) {
        // Two uploads of one version may have been under way; the first one counts.
        if self.registry.version(&release.model, release.version).is_none() {
            let run = self.retraining.brought(now, &release);
            self.add_release(release, run, effects);
        }
    }

    /// A box that refused the version for want of a signature is offered it again.
    pub(super) fn signed(&mut self, model: &ModelName, version: ModelVersion, bytes: u64, effects: &mut Vec<Effect>) {
        if let Some(digest) = self.registry.resize(model, version, bytes) {
            self.sessions.forget_offers(digest);
            self.offer_to_all(effects);
        }
    }

    fn add_release(&mut self, release: Release, run: Run, effects: &mut Vec<Effect>) {
        effects.push(Effect::RecordRelease(Box::new(release.clone()), run));
        let is_first = self.registry.champion(&release.model).is_none();
        self.registry.add(release);
        self.rollouts_at = 0;
        if is_first {
            effects.append(&mut self.watch_champions());
            self.offer_to_all(effects);
        }
    }

    /// Begins, moves on and ends rollouts.
    pub(super) fn advance_rollouts(&mut self, now: Now, effects: &mut Vec<Effect>) {
        if now < self.rollouts_at {
            return;
        }
        self.rollouts_at = now + ROLLOUT_INTERVAL_MS;
        let models: Vec<ModelName> = self.specs.iter().map(|spec| spec.name.clone()).collect();
        for model in models {
            if let Some(release) = self.registry.unreleased(&model) {
                let (version, because) = (release.version, release.trigger.clone());
                self.roll_out(now, &model, version, &because, effects);
            }
            let Some(mut rollout) = self.registry.rollout_of(&model).cloned() else {
                continue;
            };
            let (members, answers) = (self.members(&model, &rollout), self.answers(&rollout));
            if rollout.advance(now, &members, answers) {
                self.keep_rollout(rollout, effects);
            }
        }
    }

    pub(super) fn roll_out(
        &mut self,
        now: Now,
        model: &ModelName,
        version: ModelVersion,
        because: &str,
        effects: &mut Vec<Effect>,
    ) {
        let spec = self.specs.iter().find(|spec| spec.name == *model);
        let found = spec.zip(self.registry.version(model, version)).zip(self.registry.champion(model));
        let Some(((spec, release), champion)) =
            found.filter(|((_, release), champion)| release.version != champion.version)
        else {
            return;
        };
        let what = (model.clone(), version, release.digest);
        let (from, rules) = (champion.version, spec.rollout.clone());
        let before = self.counts_of(model, from, |_| true);
        if let Some(mut older) = self.registry.rollout_of(model).cloned() {
            older.supersede(now, version);
            self.keep_rollout(older, effects);
        }
        let mut rollout = Rollout::begin(self.registry.next_rollout(), what, from, rules, before, now);
        rollout.log.insert(0, (now, format!("version {version} after version {from}: {because}")));
        self.rollouts_at = now;
        self.keep_rollout(rollout, effects);
    }

    pub(super) fn wished(&mut self, now: Now, id: i64, wish: Wish, by: &str, effects: &mut Vec<Effect>) {
        // Whoever asked was told what it stood at then; if that has changed, nothing is done.
        if let Some(mut rollout) = self.registry.rollout(id).cloned()
            && rollout.wish(now, wish, by).is_ok()
        {
            self.rollouts_at = now;
            self.keep_rollout(rollout, effects);
        }
    }

    fn keep_rollout(&mut self, rollout: Rollout, effects: &mut Vec<Effect>) {
        effects.push(Effect::RecordRollout(Box::new(rollout.clone())));
        self.registry.keep(rollout);
        effects.append(&mut self.watch_champions());
        self.offer_to_all(effects);
    }

    fn offer_to_all(&mut self, effects: &mut Vec<Effect>) {
        for connection in self.sessions.greeted() {
            self.offer(connection, effects);
        }
    }

    /// The boxes that a version of a model could go to. What is pinned is left alone.
    fn members(&self, model: &ModelName, rollout: &Rollout) -> Vec<Member> {
        let mut answers = if rollout.compares_boxes() { self.answers_by_box(rollout) } else { BTreeMap::new() };
        self.sessions
            .agents()
            .filter(|facts| facts.hello.pinned.is_none())
            .filter(|facts| self.model_of(&facts.agent).is_some_and(|spec| spec.name == *model))
            .map(|facts| Member {
                agent: facts.agent.clone(),
                has_streams: self.observed.streams_of(&facts.agent).next().is_some(),
                connected: facts.connected,
                serving: facts.hello.serving.as_ref().map(|serving| serving.digest),
                kept: facts.status.as_ref().and_then(|status| status.kept),
                shadow: facts
                    .status
                    .as_ref()
                    .and_then(|status| status.shadow)
                    .filter(|shadow| shadow.digest == rollout.digest),
                answers: answers.remove(&facts.agent).unwrap_or_default(),
            })
            .collect()
    }

    fn answers_by_box(&self, rollout: &Rollout) -> BTreeMap<AgentId, BoxAnswers> {
        let mut by_box: BTreeMap<AgentId, BoxAnswers> = BTreeMap::new();
        for ((agent, stream), facts) in self.observed.streams() {
            if ModelSpec::of(&self.specs, agent, stream).is_some_and(|spec| spec.name == rollout.model) {
                let of = |version: ModelVersion| facts.predictions.get(&version.0).copied().unwrap_or_default();
                let sum = by_box.entry(agent.clone()).or_default();
                sum.old.add(of(rollout.from));
                sum.new.add(of(rollout.version));
            }
        }
        by_box
    }

    fn answers(&self, rollout: &Rollout) -> Answers {
        Answers {
            new: self.counts_of(&rollout.model, rollout.version, |agent| rollout.boxes.contains(agent)),
            old: self.counts_of(&rollout.model, rollout.from, |_| true),
        }
    }

    fn counts_of(&self, model: &ModelName, version: ModelVersion, who: impl Fn(&AgentId) -> bool) -> PredictionCounts {
        let mut counts = PredictionCounts::default();
        for ((agent, stream), facts) in self.observed.streams() {
            let is_ours = ModelSpec::of(&self.specs, agent, stream).is_some_and(|spec| spec.name == *model);
            if let Some(of_stream) = facts.predictions.get(&version.0).filter(|_| is_ours && who(agent)) {
                counts.add(*of_stream);
            }
        }
        counts
    }
}
