//! A version that runs in the shadow of the one in service: it sees live readings, what it says is compared and counted,
//! and nothing of it is served.
//!
//! How often it was loaded is made durable first, as for a version on trial: one that ends the agent is found out by its
//! starts. It is fetched as any version is. What it said is in the agent's status.

use serde::{Deserialize, Serialize};
use shared::ids::Digest;
use shared::limits::MAX_PACKAGE_BYTES;
use shared::wire::message::{EdgeToHub, ModelOutcome, ModelReport, ServedModel, ShadowCounts, ShadowOffer};
use shared::wire::part::PackedPart;

use super::Effect;
use super::limits::{TRIAL_ANSWERS, TRIAL_STARTS};

/// The version in shadow, and how far it is.
#[derive(Debug, Default)]
pub struct ShadowLane {
    wanted: Option<Wanted>,
    /// What is on the disk, or on its way there.
    starts: Option<ShadowStarts>,
    is_connected: bool,
    /// What a box had to give up, until the hub was told.
    report: Option<ModelReport>,
}

/// How often a version in shadow was loaded without having proven itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShadowStarts {
    /// The package.
    pub digest: Digest,
    /// Starts, this one included.
    pub starts: u32,
}

#[derive(Debug)]
struct Wanted {
    shadow: ShadowOffer,
    received: u64,
    step: Step,
    /// The hub said so over this connection.
    is_said: bool,
    counts: ShadowCounts,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Fetching,
    /// Until it is durable that it is loaded.
    Noting,
    Loading,
    Running,
}

/// What a version in shadow did of a batch, or why it is not asked any more.
pub type Shadowed = Result<ShadowCounts, String>;

impl ShadowLane {
    pub(super) fn new(starts: Option<ShadowStarts>) -> Self {
        Self { starts, ..Self::default() }
    }

    /// How the version does, if one is wanted.
    #[must_use]
    pub fn counts(&self) -> Option<ShadowCounts> {
        self.wanted.as_ref().filter(|wanted| wanted.step == Step::Running).map(|wanted| wanted.counts)
    }

    /// The package of the version, if one is wanted: its file is kept.
    #[must_use]
    pub fn digest(&self) -> Option<Digest> {
        self.wanted.as_ref().map(|wanted| wanted.shadow.offer.digest)
    }

    /// The version that runs, and how many of a hundred readings it sees.
    #[must_use]
    pub fn running(&self) -> Option<&ShadowOffer> {
        self.wanted.as_ref().filter(|wanted| wanted.step == Step::Running).map(|wanted| &wanted.shadow)
    }

    /// Whether the whole package lies on the disk.
    pub(super) fn has_whole(&self, digest: Digest) -> bool {
        let is_whole = |wanted: &Wanted| wanted.step == Step::Running && wanted.shadow.offer.digest == digest;
        self.wanted.as_ref().is_some_and(is_whole)
    }

    /// What the hub wants in shadow now. `serving` is what answers; `is_ruled_out` whether the box went back from a package.
    /// Gives a package that is to be ruled out.
    pub(super) fn wanted(
        &mut self,
        shadow: Option<ShadowOffer>,
        serving: Option<Digest>,
        is_ruled_out: impl Fn(Digest) -> bool,
        effects: &mut Vec<Effect>,
    ) -> Option<Digest> {
        let Some(shadow) = shadow.filter(|shadow| Some(shadow.offer.digest) != serving) else {
            self.end(effects);
            return None;
        };
        let (model, digest) = (shadow.offer.served(), shadow.offer.digest);
        if let Some(wanted) = self.wanted.as_mut().filter(|wanted| wanted.shadow == shadow) {
            wanted.is_said = true;
            self.fetch_next(serving, effects);
            return None;
        }
        let starts = self.starts.filter(|starts| starts.digest == digest).map_or(0, |starts| starts.starts);
        self.end(effects);
        let is_fatal = starts >= TRIAL_STARTS;
        let problem = if is_ruled_out(digest) {
            Some(format!("this box went back from version {} before", shadow.offer.version))
        } else if is_fatal {
            Some(format!("the agent ended {starts} times while it ran in shadow"))
        } else if shadow.offer.bytes > MAX_PACKAGE_BYTES {
            Some(format!("{} bytes, the box takes at most {MAX_PACKAGE_BYTES}", shadow.offer.bytes))
        } else {
            (!(1..=100).contains(&shadow.percent)).then(|| format!("{} of a hundred readings", shadow.percent))
        };
        if let Some(reason) = problem {
            self.give_up(&model, ModelOutcome::Refused { reason }, effects);
            return is_fatal.then_some(digest);
        }
        let counts = ShadowCounts::of(digest);
        self.wanted = Some(Wanted { shadow, received: 0, step: Step::Fetching, is_said: true, counts });
        self.fetch_next(serving, effects);
        None
    }

    /// A connection begins. What was being fetched goes on when the hub says again that it wants it.
    pub(super) fn link_up(&mut self) {
        if let Some(wanted) = &mut self.wanted {
            wanted.is_said = false;
        }
    }

    /// Whether the hub listens. `serving` is what answers.
    pub(super) fn link(&mut self, is_live: bool, serving: Option<Digest>, effects: &mut Vec<Effect>) {
        let is_new = is_live && !self.is_connected;
        self.is_connected = is_live;
        if is_new {
            effects.extend(self.report.take().map(|report| Effect::Send(EdgeToHub::ModelReport(report))));
            self.fetch_next(serving, effects);
        }
    }

    pub(super) fn chunk(
        &mut self,
        digest: Digest,
        (offset, base): (u64, Option<Digest>),
        part: PackedPart,
        serving: Option<Digest>,
        effects: &mut Vec<Effect>,
    ) {
        let Some(wanted) = self.wanted.as_mut().filter(|wanted| wanted.shadow.offer.digest == digest) else {
            return;
        };
        let (left, bytes) = (wanted.shadow.offer.bytes - wanted.received, part.raw_bytes());
        if wanted.step != Step::Fetching || offset != wanted.received || bytes == 0 || bytes > left {
            return;
        }
        wanted.received += bytes;
        effects.push(Effect::StorePart { digest, offset, base, part });
        if bytes == left {
            wanted.step = Step::Noting;
            let before = self.starts.filter(|starts| starts.digest == digest).map_or(0, |starts| starts.starts);
            self.note(Some(ShadowStarts { digest, starts: before + 1 }), effects);
        } else {
            self.fetch_next(serving, effects);
        }
    }

    /// It is durable which version is loaded.
    pub(super) fn noted(&mut self, starts: Option<ShadowStarts>, effects: &mut Vec<Effect>) {
        let is_current = starts == self.starts;
        if let Some(wanted) = self.wanted.as_mut().filter(|wanted| is_current && wanted.step == Step::Noting) {
            wanted.step = Step::Loading;
            let ShadowOffer { offer, percent } = &wanted.shadow;
            effects.push(Effect::LoadShadow { model: offer.served(), percent: *percent });
        }
    }

    /// It sees readings from now on.
    pub(super) fn loaded(&mut self, digest: Digest) {
        let loading = |wanted: &&mut Wanted| wanted.step == Step::Loading && wanted.shadow.offer.digest == digest;
        if let Some(wanted) = self.wanted.as_mut().filter(loading) {
            wanted.step = Step::Running;
        }
    }

    /// What it said of a batch, or that it cannot be loaded, or must not be asked any more. Gives the package that is to be
    /// ruled out.
    pub(super) fn shadowed(&mut self, digest: Digest, shadowed: Shadowed, effects: &mut Vec<Effect>) -> Option<Digest> {
        let wanted = self.wanted.as_mut().filter(|wanted| wanted.shadow.offer.digest == digest)?;
        match shadowed {
            Ok(counts) => {
                wanted.counts.add(&counts);
                if wanted.counts.compared >= TRIAL_ANSWERS && self.starts.is_some() {
                    self.note(None, effects);
                }
                None
            }
            Err(reason) => {
                let model = wanted.shadow.offer.served();
                let outcome = match wanted.step {
                    Step::Running => ModelOutcome::RolledBack { reason: format!("in shadow, {reason}") },
                    Step::Fetching | Step::Noting | Step::Loading => ModelOutcome::Refused { reason },
                };
                let is_ruled_out = matches!(outcome, ModelOutcome::RolledBack { .. });
                self.end(effects);
                effects.push(Effect::Discard(digest));
                self.give_up(&model, outcome, effects);
                is_ruled_out.then_some(digest)
            }
        }
    }

    /// The agent was told to stop: this start does not count against the version.
    pub(super) fn stop(&mut self, effects: &mut Vec<Effect>) {
        if self.starts.is_some() {
            self.note(None, effects);
        }
    }

    /// No version runs in shadow any more.
    pub(super) fn end(&mut self, effects: &mut Vec<Effect>) {
        let Some(wanted) = self.wanted.take() else {
            return;
        };
        match wanted.step {
            Step::Fetching => effects.push(Effect::Discard(wanted.shadow.offer.digest)),
            Step::Noting => {}
            Step::Loading | Step::Running => effects.push(Effect::EndShadow),
        }
        if self.starts.is_some_and(|starts| starts.digest == wanted.shadow.offer.digest) {
            self.note(None, effects);
        }
    }

    fn note(&mut self, starts: Option<ShadowStarts>, effects: &mut Vec<Effect>) {
        self.starts = starts;
        effects.push(Effect::NoteShadow(starts));
    }

    fn give_up(&mut self, model: &ServedModel, outcome: ModelOutcome, effects: &mut Vec<Effect>) {
        let report = ModelReport { model: model.model.clone(), digest: model.digest, outcome };
        if self.is_connected {
            effects.push(Effect::Send(EdgeToHub::ModelReport(report)));
        } else {
            self.report = Some(report);
        }
    }

    fn fetch_next(&self, base: Option<Digest>, effects: &mut Vec<Effect>) {
        let may_fetch = |wanted: &&Wanted| self.is_connected && wanted.is_said && wanted.step == Step::Fetching;
        if let Some(wanted) = self.wanted.as_ref().filter(may_fetch) {
            let (digest, offset) = (wanted.shadow.offer.digest, wanted.received);
            effects.push(Effect::Send(EdgeToHub::Fetch { digest, offset, base }));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use shared::ids::{ModelName, ModelVersion};
    use shared::wire::message::ModelOffer;

    const BYTES: u64 = 100;

    fn shadow(version: u32) -> ShadowOffer {
        let model = ModelName::new("pump").expect("valid");
        let digest = Digest::of(&version.to_le_bytes());
        ShadowOffer { offer: ModelOffer { model, version: ModelVersion(version), digest, bytes: BYTES }, percent: 30 }
    }

    fn lane(starts: Option<ShadowStarts>) -> ShadowLane {
        let mut lane = ShadowLane::new(starts);
        lane.link(true, None, &mut Vec::new());
        lane
    }

    fn want(lane: &mut ShadowLane, shadow: Option<ShadowOffer>) -> (Vec<Effect>, Option<Digest>) {
        let mut effects = Vec::new();
        let ruled_out = lane.wanted(shadow, None, |_| false, &mut effects);
        (effects, ruled_out)
    }

    /// Fetches what is wanted, and loads it.
    fn run(lane: &mut ShadowLane, version: u32) -> ShadowStarts {
        let digest = shadow(version).offer.digest;
        let mut effects = Vec::new();
        let part = PackedPart::pack(&[7; BYTES as usize], &[]).expect("packs");
        lane.chunk(digest, (0, None), part, None, &mut effects);
        let [Effect::StorePart { .. }, Effect::NoteShadow(Some(starts))] = effects[..] else {
            panic!("stored and noted: {effects:?}")
        };
        effects.clear();
        lane.noted(None, &mut effects);
        assert!(effects.is_empty(), "what was noted before is another matter");
        lane.noted(Some(starts), &mut effects);
        assert!(matches!(effects[..], [Effect::LoadShadow { percent: 30, .. }]), "{effects:?}");
        assert_eq!(lane.counts(), None);
        lane.loaded(digest);
        starts
    }

    fn outcome(effects: &[Effect]) -> Option<&ModelOutcome> {
        effects.iter().find_map(|effect| {
            let Effect::Send(EdgeToHub::ModelReport(report)) = effect else { return None };
            Some(&report.outcome)
        })
    }

    #[test]
    fn a_version_is_fetched_noted_and_loaded_and_what_it_says_adds_up() {
        let mut lane = lane(None);
        let (effects, _) = want(&mut lane, Some(shadow(2)));
        assert!(matches!(effects[..], [Effect::Send(EdgeToHub::Fetch { offset: 0, .. })]), "{effects:?}");
        assert_eq!(run(&mut lane, 2).starts, 1);
        let digest = shadow(2).offer.digest;
        let batch = ShadowCounts { readings: 300, mirrored: 100, compared: 90, ..ShadowCounts::of(digest) };
        let mut noted = Vec::new();
        for _ in 0..4 {
            let mut effects = Vec::new();
            assert_eq!(lane.shadowed(digest, Ok(batch), &mut effects), None);
            noted.extend(effects.into_iter().filter(|effect| matches!(effect, Effect::NoteShadow(None))));
        }
        assert_eq!(noted.len(), 1, "it has proven not to end the agent");
        assert_eq!(lane.counts().map(|counts| (counts.readings, counts.compared)), Some((1_200, 360)));
        let (effects, _) = want(&mut lane, Some(shadow(2)));
        assert!(effects.is_empty(), "said again after a new connection: {effects:?}");
        let (effects, _) = want(&mut lane, None);
        assert!(matches!(effects[..], [Effect::EndShadow]), "{effects:?}");
        assert_eq!(lane.counts(), None);
    }

    #[test]
    fn a_version_that_does_harm_in_shadow_is_reported_in_words_and_ruled_out() {
        let mut lane = lane(None);
        want(&mut lane, Some(shadow(2)));
        run(&mut lane, 2);
        let digest = shadow(2).offer.digest;
        lane.link(false, None, &mut Vec::new());
        let mut effects = Vec::new();
        let reason = "it broke off after 7 readings".to_owned();
        assert_eq!(lane.shadowed(digest, Err(reason), &mut effects), Some(digest));
        assert!(outcome(&effects).is_none() && effects.iter().any(|effect| matches!(effect, Effect::EndShadow)));
        let mut effects = Vec::new();
        lane.link(true, None, &mut effects);
        let expected = ModelOutcome::RolledBack { reason: "in shadow, it broke off after 7 readings".to_owned() };
        assert_eq!(outcome(&effects), Some(&expected));
    }

    #[test]
    fn a_version_that_ends_the_agent_in_shadow_is_found_out_by_its_starts() {
        let mut starts = None;
        for start in 1..=TRIAL_STARTS {
            let mut lane = lane(starts);
            assert_eq!(want(&mut lane, Some(shadow(2))).1, None);
            let noted = run(&mut lane, 2);
            assert_eq!(noted.starts, start);
            starts = Some(noted);
        }
        let mut lane = lane(starts);
        let (effects, ruled_out) = want(&mut lane, Some(shadow(2)));
        assert_eq!(ruled_out, Some(shadow(2).offer.digest));
        let reason = "the agent ended 3 times while it ran in shadow".to_owned();
        assert_eq!(outcome(&effects), Some(&ModelOutcome::Refused { reason }));
        // Another version is another matter, and so is an agent that was told to stop.
        assert_eq!(want(&mut lane, Some(shadow(3))).1, None);
        run(&mut lane, 3);
        let mut effects = Vec::new();
        lane.stop(&mut effects);
        assert!(matches!(effects[..], [Effect::NoteShadow(None)]), "{effects:?}");
    }
}
