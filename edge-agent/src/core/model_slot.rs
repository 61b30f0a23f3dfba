//! From an offer to a model in service.

use shared::event::ModelRef;
use shared::ids::{Digest, ModelVersion};
use shared::limits::MAX_PACKAGE_BYTES;
use shared::wire::message::{EdgeToHub, ModelOffer, ModelOutcome, ModelReport, ServedModel};
use shared::wire::part::PackedPart;

use super::Effect;

/// The one model a box serves, and the one on its way.
#[derive(Debug)]
pub struct ModelSlot {
    pinned: Option<ModelVersion>,
    serving: Option<ServedModel>,
    /// The model that served before the restart, while it is being loaded.
    resuming: Option<Digest>,
    incoming: Option<Incoming>,
    /// Whether the hub listens.
    connected: bool,
    /// What became of the newest offer, until the hub was told.
    report: Option<ModelReport>,
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
    loading: bool,
    /// Whether it is built on what was here before: a base, or a part from before the restart. If it does not hold, that may
    /// be to blame, and it is fetched once more without.
    is_built_on: bool,
    /// Fetched without a base.
    is_plain: bool,
}

impl Incoming {
    fn new(offer: ModelOffer) -> Self {
        Self { offer, received: 0, loading: false, is_built_on: false, is_plain: false }
    }
}

impl ModelSlot {
    pub(super) fn new(pinned: Option<ModelVersion>, floor: Option<ModelRef>, partial: Option<(Digest, u64)>) -> Self {
        Self {
            pinned,
            serving: None,
            resuming: None,
            incoming: None,
            connected: false,
            report: None,
            unproven: false,
            floor,
            partial,
        }
    }

    /// Loads the model that served before the restart.
    pub(super) fn resume(&mut self, model: ServedModel, effects: &mut Vec<Effect>) {
        if self.pinned.is_none_or(|pinned| pinned == model.model.version) {
            self.resuming = Some(model.digest);
            effects.push(Effect::Load(model));
        }
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

    /// Whether the hub listens.
    pub(super) fn link(&mut self, is_live: bool, effects: &mut Vec<Effect>) {
        let is_new = is_live && !self.connected;
        self.connected = is_live;
        if is_new {
            self.send_report(effects);
            self.fetch_next(effects);
        }
    }

    pub(super) fn offered(&mut self, offer: ModelOffer, effects: &mut Vec<Effect>) {
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
        match &self.incoming {
            Some(incoming) if incoming.offer.digest == offer.digest => {}
            Some(_) | None => self.begin(offer, effects),
        }
        self.fetch_next(effects);
    }

    /// Makes ready for a package: what lies on the disk of it is kept, what lies there of another is not.
    fn begin(&mut self, offer: ModelOffer, effects: &mut Vec<Effect>) {
        let replaced = self.incoming.take().filter(|incoming| !incoming.loading);
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
            incoming.loading = true;
            effects.push(Effect::Load(incoming.offer.served()));
        } else {
            self.fetch_next(effects);
        }
    }

    pub(super) fn loaded(&mut self, model: ServedModel, floor: ModelVersion, effects: &mut Vec<Effect>) {
        self.resuming = self.resuming.filter(|resuming| *resuming != model.digest);
        if self.incoming.as_ref().is_some_and(|incoming| incoming.offer.digest == model.digest) {
            self.incoming = None;
        }
        self.unproven = true;
        // The floor first: a box that remembers a model must never forget what it ruled out.
        let is_known = |known: &ModelRef| known.name == model.model.name && known.version >= floor;
        if !self.floor.as_ref().is_some_and(is_known) {
            let floor = ModelRef { name: model.model.name.clone(), version: floor };
            self.floor = Some(floor.clone());
            effects.push(Effect::RememberFloor(floor));
        }
        effects.push(Effect::Remember(model.clone()));
        self.serving = Some(model);
    }

    pub(super) fn refused(&mut self, model: &ServedModel, reason: String, effects: &mut Vec<Effect>) {
        let was_resuming = self.resuming.take_if(|resuming| *resuming == model.digest).is_some();
        if let Some(incoming) = self.incoming.as_mut().filter(|incoming| incoming.offer.digest == model.digest) {
            if was_resuming {
                // The file is lost or damaged, which says nothing of the one the hub has.
                incoming.loading = false;
                self.fetch_next(effects);
                return;
            }
            effects.push(Effect::Discard(model.digest));
            if incoming.is_built_on {
                *incoming = Incoming { is_plain: true, ..Incoming::new(incoming.offer.clone()) };
                self.fetch_next(effects);
                return;
            }
            self.incoming = None;
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
        self.report = Some(ModelReport { model: model.model.clone(), digest: model.digest, outcome });
        self.send_report(effects);
    }

    fn send_report(&mut self, effects: &mut Vec<Effect>) {
        if self.connected {
            effects.extend(self.report.take().map(|report| Effect::Send(EdgeToHub::ModelReport(report))));
        }
    }

    fn fetch_next(&self, effects: &mut Vec<Effect>) {
        if let Some(incoming) = self.incoming.as_ref().filter(|incoming| self.connected && !incoming.loading) {
            let base = self.serving.as_ref().filter(|_| !incoming.is_plain).map(|serving| serving.digest);
            let (digest, offset) = (incoming.offer.digest, incoming.received);
            effects.push(Effect::Send(EdgeToHub::Fetch { digest, offset, base }));
        }
    }
}
