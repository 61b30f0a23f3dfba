//! From an offer to a model in service, and back to the one before if its trial fails.
//!
//! What is to be loaded is made durable first, with how often it was tried: a model that ends the agent is found out by
//! its starts.

use std::collections::VecDeque;

use shared::event::ModelRef;
use shared::ids::{Digest, ModelVersion};
use shared::limits::MAX_PACKAGE_BYTES;
use shared::wire::message::{EdgeToHub, ModelOffer, ModelOutcome, ModelReport, ServedModel};
use shared::wire::part::PackedPart;

use super::limits::{REPORTS_KEPT, RULED_OUT_KEPT, TRIAL_STARTS};
use super::trial::{AlarmShare, Trial, Verdict};
use super::{Answered, Effect, Millis, Settings, SlotState};

/// The one model a box serves, and the one on its way.
#[derive(Debug)]
pub struct ModelSlot {
    pinned: Option<ModelVersion>,
    /// Why no model may run, if none may.
    safe_mode: Option<String>,
    serving: Option<ServedModel>,
    /// What is remembered of models.
    state: SlotState,
    /// How the model in service does.
    trial: Trial,
    /// What the model before it did.
    before: AlarmShare,
    /// The floor of the model on trial: it counts when the trial is over.
    floor_on_trial: Option<ModelRef>,
    max_answer_us: u64,
    /// A model that served before the restart, or that the box goes back to, while it is being loaded.
    resuming: Option<Digest>,
    /// What is to be loaded once it is remembered, in order: what the box goes back to, and what came meanwhile.
    to_load: Vec<ServedModel>,
    /// States on their way to the disk.
    unremembered: u32,
    incoming: Option<Incoming>,
    /// Whether the hub listens.
    connected: bool,
    /// What became of models, oldest first, until the hub was told.
    reports: VecDeque<ModelReport>,
    /// The serving model has not answered since it was loaded.
    unproven: bool,
    /// No version of a model below this one is served any more.
    floor: Option<ModelRef>,
    /// A package of which a part lay on the disk at the start, and how much of it.
    partial: Option<(Digest, u64)>,
}

#[derive(Debug)]
struct Incoming {
    offer: ModelOffer,
    received: u64,
    /// The hub wants it, as it said over this connection.
    is_offered: bool,
    loading: bool,
    /// Whether it is built on what was here before: a base, or a part from before the restart. If it does not hold, that may
    /// be to blame, and it is fetched once more without.
    is_built_on: bool,
    /// Fetched without a base.
    is_plain: bool,
}

impl Incoming {
    fn new(offer: ModelOffer) -> Self {
        Self { offer, received: 0, is_offered: true, loading: false, is_built_on: false, is_plain: false }
    }

    /// Whether this is what is offered. One that is on the disk already is loaded as it is.
    fn is_of(&self, offer: &ModelOffer) -> bool {
        self.offer.digest == offer.digest && (self.loading || self.offer.bytes == offer.bytes)
    }
}

impl ModelSlot {
    pub(super) fn new(settings: &Settings, floor: Option<ModelRef>, partial: Option<(Digest, u64)>) -> Self {
        Self {
            pinned: settings.pinned,
            safe_mode: settings.safe_mode.clone(),
            serving: None,
            state: SlotState::default(),
            trial: Trial::passed(),
            before: AlarmShare::default(),
            floor_on_trial: None,
            max_answer_us: settings.max_answer_us,
            resuming: None,
            to_load: Vec::new(),
            unremembered: 0,
            incoming: None,
            connected: false,
            reports: VecDeque::new(),
            unproven: false,
            floor,
            partial,
        }
    }

    /// Loads the model that served before the restart; one that the agent did not survive too often is gone back from.
    pub(super) fn resume(&mut self, state: SlotState, effects: &mut Vec<Effect>) {
        self.state = state;
        // A package that is remembered is no part of one, whatever its file is called.
        self.partial = self.partial.filter(|(digest, _)| !self.is_remembered(*digest));
        let Some(model) = self.state.serving.clone() else {
            return;
        };
        if self.safe_mode.is_some() || self.pinned.is_some_and(|pinned| pinned != model.model.version) {
            return;
        }
        match self.state.trial_starts {
            None => {
                self.resuming = Some(model.digest);
                effects.push(Effect::Load { model, is_new: false });
            }
            Some(starts) if starts >= TRIAL_STARTS => {
                let reason = format!("the agent ended {starts} times before its trial was over");
                self.go_back(&model, reason, effects);
            }
            Some(starts) => {
                self.state.trial_starts = Some(starts + 1);
                self.resuming = Some(model.digest);
                self.remember_and_load(model, effects);
            }
        }
    }

    fn remember_and_load(&mut self, model: ServedModel, effects: &mut Vec<Effect>) {
        self.to_load.push(model);
        self.remember(effects);
    }

    fn remember(&mut self, effects: &mut Vec<Effect>) {
        self.unremembered += 1;
        effects.push(Effect::Remember(self.state.clone()));
    }

    /// Whether a package serves, or is gone back to.
    fn is_remembered(&self, digest: Digest) -> bool {
        let remembered = [&self.state.serving, &self.state.previous].into_iter().flatten();
        remembered.into_iter().any(|model| model.digest == digest)
    }

    /// The agent is told to stop: this start is not one that the model ended.
    pub(super) fn stop(&mut self, effects: &mut Vec<Effect>) {
        if let Some(starts) = self.state.trial_starts.filter(|_| self.is_on_trial()) {
            self.state.trial_starts = Some(starts.saturating_sub(1));
            self.remember(effects);
        }
    }

    /// Something that was to be remembered is.
    pub(super) fn remembered(&mut self, effects: &mut Vec<Effect>) {
        self.unremembered = self.unremembered.saturating_sub(1);
        if self.unremembered == 0 {
            effects.push(Effect::Prune(self.state.clone()));
            let new = self.incoming.as_ref().map(|incoming| incoming.offer.digest);
            let load = |model: ServedModel| Effect::Load { is_new: Some(model.digest) == new, model };
            effects.extend(self.to_load.drain(..).map(load));
        }
    }

    /// Whether the model in service is on trial.
    pub(super) fn is_on_trial(&self) -> bool {
        self.serving.is_some() && !self.trial.is_over()
    }

    pub(super) fn serving(&self) -> Option<&ServedModel> {
        self.serving.as_ref()
    }

    /// Whether a reading that comes in now will have an answer: also while the model that served before the restart is being
    /// loaded, because it must see every reading.
    pub(super) fn will_answer(&self) -> bool {
        self.serving.is_some() || self.resuming.is_some()
    }

    pub(super) fn can_answer(&self) -> bool {
        self.serving.is_some()
    }

    /// A connection begins. What was being fetched goes on when the hub offers it again: meanwhile it may want another.
    pub(super) fn link_up(&mut self) {
        if let Some(incoming) = &mut self.incoming {
            incoming.is_offered = false;
        }
    }

    /// Whether the hub listens.
    pub(super) fn link(&mut self, is_live: bool, effects: &mut Vec<Effect>) {
        let is_new = is_live && !self.connected;
        self.connected = is_live;
        if is_new {
            self.send_reports(effects);
            self.fetch_next(effects);
        }
    }

    /// The hub wants this version to serve. `is_here` says that its whole package lies on the disk, because it ran in shadow.
    pub(super) fn offered(&mut self, offer: ModelOffer, is_here: bool, effects: &mut Vec<Effect>) {
        if let Some(reason) = self.safe_mode.clone() {
            self.report(&offer.served(), ModelOutcome::Refused { reason }, effects);
            return;
        }
        if let Some(pinned) = self.pinned.filter(|pinned| *pinned != offer.version) {
            let reason = format!("the box is pinned to version {pinned}");
            self.report(&offer.served(), ModelOutcome::Refused { reason }, effects);
            return;
        }
        if let Some(floor) =
            self.floor.as_ref().filter(|floor| floor.name == offer.model && floor.version > offer.version)
        {
            let reason =
                format!("version {} is older than {}, the oldest this box still takes", offer.version, floor.version);
            self.report(&offer.served(), ModelOutcome::Refused { reason }, effects);
            return;
        }
        if self.has_ruled_out(offer.digest) {
            let reason = format!("this box went back from version {} before", offer.version);
            self.report(&offer.served(), ModelOutcome::Refused { reason }, effects);
            return;
        }
        if offer.bytes > MAX_PACKAGE_BYTES {
            let reason = format!("{} bytes, the box takes at most {MAX_PACKAGE_BYTES}", offer.bytes);
            self.report(&offer.served(), ModelOutcome::Refused { reason }, effects);
            return;
        }
        if self.serving.as_ref().is_some_and(|serving| serving.digest == offer.digest) {
            // The hub no longer wants what it offered in between; only a load that has begun cannot be taken back.
            self.incoming = self.incoming.take().filter(|incoming| incoming.loading);
            if !self.unproven {
                self.report(&offer.served(), ModelOutcome::Serving, effects);
            }
            return;
        }
        match &mut self.incoming {
            // A file of another size has other signatures: what was fetched of the one before is no beginning of it.
            Some(incoming) if incoming.is_of(&offer) => incoming.is_offered = true,
            Some(_) | None => self.begin(offer, effects),
        }
        self.load_if_here(effects);
        if let Some(incoming) = self.incoming.as_mut().filter(|incoming| is_here && !incoming.loading) {
            // If the file does not hold, the package is fetched.
            incoming.is_built_on = true;
            self.fetched(effects);
        }
        self.fetch_next(effects);
    }

    /// The version before is still on the disk: going back to it costs no transfer.
    fn load_if_here(&mut self, effects: &mut Vec<Effect>) {
        let previous = self.state.previous.as_ref().map(|previous| previous.digest);
        let Some(incoming) = self.incoming.as_mut().filter(|incoming| !incoming.loading && !incoming.is_plain) else {
            return;
        };
        if Some(incoming.offer.digest) == previous && self.to_load.is_empty() {
            incoming.loading = true;
            // If the file does not hold, the package is fetched.
            incoming.is_built_on = true;
            effects.push(Effect::Load { model: incoming.offer.served(), is_new: false });
        }
    }

    /// Makes ready for a package: what lies on the disk of it is kept, what lies there of another is not.
    fn begin(&mut self, offer: ModelOffer, effects: &mut Vec<Effect>) {
        let replaced = self.incoming.take();
        let replaced = replaced.filter(|incoming| !incoming.loading && !self.is_remembered(incoming.offer.digest));
        effects.extend(replaced.map(|incoming| Effect::Discard(incoming.offer.digest)));
        let mut incoming = Incoming::new(offer);
        // What is on the disk need not be fetched, and a part of it fetched anew would spoil the file.
        incoming.loading = self.resuming == Some(incoming.offer.digest);
        match self.partial.take() {
            Some((digest, bytes)) if digest == incoming.offer.digest && bytes < incoming.offer.bytes => {
                incoming.received = bytes;
                incoming.is_built_on = bytes > 0;
            }
            Some((digest, _)) if digest != incoming.offer.digest => effects.push(Effect::Discard(digest)),
            Some(_) | None => {}
        }
        self.incoming = Some(incoming);
    }

    pub(super) fn chunk(
        &mut self,
        digest: Digest,
        offset: u64,
        base: Option<Digest>,
        part: PackedPart,
        effects: &mut Vec<Effect>,
    ) {
        let Some(incoming) = self.incoming.as_mut().filter(|incoming| incoming.offer.digest == digest) else {
            return;
        };
        let left = incoming.offer.bytes - incoming.received;
        let bytes = part.raw_bytes();
        if offset != incoming.received || bytes == 0 || bytes > left || incoming.loading {
            return;
        }
        incoming.received += bytes;
        incoming.is_built_on |= base.is_some();
        effects.push(Effect::StorePart { digest, offset, base, part });
        if incoming.received == incoming.offer.bytes {
            self.fetched(effects);
        } else {
            self.fetch_next(effects);
        }
    }

    /// The package is on the disk: it is loaded, on trial.
    fn fetched(&mut self, effects: &mut Vec<Effect>) {
        let Some(incoming) = self.incoming.as_mut() else {
            return;
        };
        incoming.loading = true;
        let model = incoming.offer.served();
        let before = self.state.serving.replace(model.clone()).filter(|before| before.digest != model.digest);
        // What is on trial itself is nothing to go back to, unless there is nothing else.
        if self.state.trial_starts.is_none() || self.state.previous.is_none() {
            self.state.previous = before.or(self.state.previous.take());
        }
        self.state.trial_starts = Some(1);
        self.replace_waiting();
        self.remember_and_load(model, effects);
    }

    /// What waited to be loaded has a successor. Until that one is there, the model before serves.
    fn replace_waiting(&mut self) {
        if let Some(waiting) = self.to_load.pop() {
            self.to_load.clear();
            self.resuming = self.resuming.filter(|resuming| *resuming != waiting.digest);
            self.load_previous_first();
        }
    }

    fn load_previous_first(&mut self) {
        if let Some(previous) = self.state.previous.clone().filter(|previous| self.serving.as_ref() != Some(previous)) {
            self.resuming = Some(previous.digest);
            self.to_load.insert(0, previous);
        }
    }

    pub(super) fn loaded(&mut self, model: ServedModel, floor: ModelVersion, effects: &mut Vec<Effect>) {
        self.resuming = self.resuming.filter(|resuming| *resuming != model.digest);
        let is_new = self.incoming.as_ref().is_some_and(|incoming| incoming.offer.digest == model.digest);
        if is_new {
            self.incoming = None;
        }
        self.unproven = true;
        self.before = self.trial.alarm_share();
        let is_on_trial = self.state.trial_starts.is_some() && self.state.serving.as_ref() == Some(&model);
        let floor = ModelRef { name: model.model.name.clone(), version: floor };
        if is_on_trial {
            self.trial = Trial::default();
            self.floor_on_trial = Some(floor);
        } else {
            self.trial = Trial::passed();
            if is_new {
                // The version before, which is known: what replaced it is not gone back to.
                self.state.serving = Some(model.clone());
                (self.state.previous, self.state.trial_starts) = (None, None);
                self.remember(effects);
            }
            self.raise_floor(floor, effects);
        }
        self.serving = Some(model);
    }

    fn raise_floor(&mut self, floor: ModelRef, effects: &mut Vec<Effect>) {
        if self.floor.as_ref().is_none_or(|known| known.name != floor.name || known.version < floor.version) {
            self.floor = Some(floor.clone());
            effects.push(Effect::RememberFloor(floor));
        }
    }

    /// Looks at what a model answered.
    pub(super) fn judge(
        &mut self,
        now: Millis,
        model: &ModelRef,
        answers: &[Answered],
        busy_us: u64,
        effects: &mut Vec<Effect>,
    ) {
        let Some(serving) = self.serving.clone().filter(|serving| serving.model == *model) else {
            return;
        };
        match self.trial.take(now, answers, busy_us, self.before, self.max_answer_us) {
            Verdict::Unchanged => {}
            Verdict::Passed => {
                // The floor first: a box that remembers a model must never forget what it ruled out.
                if let Some(floor) = self.floor_on_trial.take() {
                    self.raise_floor(floor, effects);
                }
                // A newer one may be on its way, which has its trial before it.
                if self.state.serving.as_ref() == Some(&serving) {
                    self.state.trial_starts = None;
                    self.remember(effects);
                }
            }
            Verdict::Failed(reason) => self.go_back(&serving, reason, effects),
        }
    }

    /// Whether the box gave a package up for good.
    pub(super) fn has_ruled_out(&self, digest: Digest) -> bool {
        self.state.ruled_out.contains(&digest)
    }

    /// Notes that a package which never served is not to.
    pub(super) fn rule_out(&mut self, digest: Digest, effects: &mut Vec<Effect>) {
        self.add_ruled_out(digest);
        self.remember(effects);
    }

    fn add_ruled_out(&mut self, digest: Digest) {
        if self.state.ruled_out.len() == RULED_OUT_KEPT {
            self.state.ruled_out.remove(0);
        }
        self.state.ruled_out.push(digest);
    }

    /// Gives a model up for good.
    fn go_back(&mut self, model: &ServedModel, reason: String, effects: &mut Vec<Effect>) {
        self.add_ruled_out(model.digest);
        self.to_load.retain(|waiting| waiting.digest != model.digest);
        if self.state.serving.as_ref() == Some(model) {
            self.fall_back(effects);
        } else {
            self.bridge(effects);
        }
        self.report(model, ModelOutcome::RolledBack { reason }, effects);
    }

    /// What was given up has a successor already, which is on its way: until then the model before serves, if there is time.
    fn bridge(&mut self, effects: &mut Vec<Effect>) {
        self.serving = None;
        self.floor_on_trial = None;
        self.trial = Trial::passed();
        if !self.to_load.is_empty() {
            self.load_previous_first();
        }
        self.remember(effects);
    }

    /// The model before serves again, if there is one.
    fn fall_back(&mut self, effects: &mut Vec<Effect>) {
        self.serving = None;
        self.floor_on_trial = None;
        self.trial = Trial::passed();
        let may_serve = |model: &ServedModel| self.pinned.is_none_or(|pinned| pinned == model.model.version);
        self.state.serving = self.state.previous.take().filter(may_serve);
        self.state.trial_starts = None;
        self.to_load.extend(self.state.serving.clone());
        self.resuming = self.state.serving.as_ref().map(|previous| previous.digest);
        self.remember(effects);
    }

    pub(super) fn refused(&mut self, model: &ServedModel, reason: String, effects: &mut Vec<Effect>) {
        let was_resuming = self.resuming.take_if(|resuming| *resuming == model.digest).is_some();
        let is_wanted = self.state.serving.as_ref() == Some(model);
        if is_wanted && !was_resuming {
            if self.serving.is_some() {
                // It was never loaded: what serves goes on, also after a restart.
                self.state.trial_starts = self.is_on_trial().then_some(1);
                self.state.serving.clone_from(&self.serving);
                self.state.previous = self.state.previous.take().filter(|before| self.serving.as_ref() != Some(before));
                self.remember(effects);
            } else {
                self.fall_back(effects);
            }
        }
        match self.incoming.as_mut().filter(|incoming| incoming.offer.digest == model.digest) {
            // The file is lost or damaged, which says nothing of the one the hub has.
            Some(incoming) if was_resuming => {
                incoming.loading = false;
                self.fetch_next(effects);
                return;
            }
            Some(incoming) if incoming.is_built_on => {
                *incoming = Incoming { is_plain: true, ..Incoming::new(incoming.offer.clone()) };
                self.fetch_next(effects);
                return;
            }
            Some(_) => self.incoming = None,
            None if is_wanted && was_resuming => self.fall_back(effects),
            None => {}
        }
        self.report(model, ModelOutcome::Refused { reason }, effects);
    }

    /// The model answered: now it may be called serving.
    pub(super) fn served(&mut self, model: &ModelRef, effects: &mut Vec<Effect>) {
        if !self.unproven {
            return;
        }
        if let Some(serving) = self.serving.clone().filter(|serving| serving.model == *model) {
            self.unproven = false;
            self.report(&serving, ModelOutcome::Serving, effects);
        }
    }

    fn report(&mut self, model: &ServedModel, outcome: ModelOutcome, effects: &mut Vec<Effect>) {
        if self.reports.len() == REPORTS_KEPT {
            self.reports.pop_front();
        }
        self.reports.push_back(ModelReport { model: model.model.clone(), digest: model.digest, outcome });
        self.send_reports(effects);
    }

    fn send_reports(&mut self, effects: &mut Vec<Effect>) {
        if self.connected {
            let reports = self.reports.drain(..);
            effects.extend(reports.map(|report| Effect::Send(EdgeToHub::ModelReport(report))));
        }
    }

    fn fetch_next(&self, effects: &mut Vec<Effect>) {
        if let Some(incoming) =
            self.incoming.as_ref().filter(|incoming| self.connected && incoming.is_offered && !incoming.loading)
        {
            let base = self.serving.as_ref().filter(|_| !incoming.is_plain).map(|serving| serving.digest);
            let (digest, offset) = (incoming.offer.digest, incoming.received);
            effects.push(Effect::Send(EdgeToHub::Fetch { digest, offset, base }));
        }
    }
}
