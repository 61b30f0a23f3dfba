//! From an offer to a model in service.

use shared::ids::ModelVersion;
use shared::limits::MAX_PACKAGE_BYTES;
use shared::wire::message::{EdgeToHub, HubToEdge, ModelOutcome, ModelReport, ServedModel};

use super::rig::{Rig, asked, model, offer, reading, said, settings, start};
use crate::core::{Effect, Event, Question, Settings, Start};

fn chunk(model: &ServedModel, offset: u64, bytes: &[u8]) -> HubToEdge {
    HubToEdge::Chunk { digest: model.digest, offset, bytes: bytes.to_vec() }
}

fn fetch(model: &ServedModel, offset: u64) -> EdgeToHub {
    EdgeToHub::Fetch { digest: model.digest, offset }
}

fn report(model: &ServedModel, outcome: ModelOutcome) -> EdgeToHub {
    EdgeToHub::ModelReport(ModelReport { model: model.model.clone(), digest: model.digest, outcome })
}

fn refusal(model: &ServedModel, reason: &str) -> EdgeToHub {
    report(model, ModelOutcome::Refused { reason: reason.to_owned() })
}

fn loads(effects: &[Effect]) -> Vec<ServedModel> {
    let load = |effect: &Effect| if let Effect::Load(model) = effect { Some(model.clone()) } else { None };
    effects.iter().filter_map(load).collect()
}

fn question(id: u64, warm_up: bool) -> Question {
    let reading = reading(id);
    Question {
        of: shared::ids::Sequence(id),
        schema: reading.schema,
        time_ms: reading.time_ms,
        values: reading.values,
        warm_up,
    }
}

/// A box that served `model` before its restart.
fn resumed(model: &ServedModel, unfinished: Vec<Question>) -> (Rig, Vec<Effect>) {
    Rig::started(settings(), Start { serving: Some(model.clone()), unfinished, ..start() })
}

#[test]
fn an_offer_is_fetched_loaded_remembered_and_called_serving_only_once_it_answered() {
    let new = model(1, b"abcdef");
    let mut rig = Rig::connected();
    assert_eq!(said(&rig.hub(offer(&new, 6))), [fetch(&new, 0)]);
    let effects = rig.hub(chunk(&new, 0, b"abcd"));
    assert!(matches!(&effects[0], Effect::StoreChunk { offset: 0, bytes, .. } if bytes == b"abcd"));
    assert_eq!(said(&effects), [fetch(&new, 4)]);
    let effects = rig.hub(chunk(&new, 4, b"ef"));
    assert!(matches!(&effects[0], Effect::StoreChunk { offset: 4, .. }));
    assert_eq!((loads(&effects), said(&effects)), (vec![new.clone()], vec![]));
    assert_eq!(rig.core.serving(), None);
    let effects = rig.handle(Event::ModelLoaded(new.clone()));
    assert!(matches!(effects.as_slice(), [Effect::Remember(remembered)] if *remembered == new));
    assert_eq!(rig.core.serving(), Some(&new));
    let questions = asked(&rig.receive(vec![Ok(reading(1))]));
    assert_eq!(said(&rig.answer(&new, questions)), [report(&new, ModelOutcome::Serving)]);
    let questions = asked(&rig.receive(vec![Ok(reading(2))]));
    assert_eq!(said(&rig.answer(&new, questions)), [], "once");
}

#[test]
fn an_answer_of_the_older_model_does_not_prove_the_newer_one() {
    let (old, new) = (model(1, b"a"), model(2, b"b"));
    let mut rig = Rig::connected();
    rig.handle(Event::ModelLoaded(old.clone()));
    let asked_old = asked(&rig.receive(vec![Ok(reading(1))]));
    let asked_new = asked(&rig.receive(vec![Ok(reading(2))]));
    rig.handle(Event::ModelLoaded(new.clone()));
    assert_eq!(said(&rig.answer(&old, asked_old)), []);
    assert_eq!(said(&rig.answer(&new, asked_new)), [report(&new, ModelOutcome::Serving)]);
}

#[test]
fn a_pinned_box_refuses_other_versions_and_says_why() {
    let (mut rig, _) = Rig::started(Settings { pinned: Some(ModelVersion(2)), ..settings() }, start());
    rig.connect(0);
    let other = model(3, b"b");
    assert_eq!(said(&rig.hub(offer(&other, 10))), [refusal(&other, "the box is pinned to version 2")]);
    let pinned = model(2, b"a");
    assert_eq!(said(&rig.hub(offer(&pinned, 10))), [fetch(&pinned, 0)]);
}

#[test]
fn a_pinned_box_does_not_resume_another_version() {
    let pinned = Settings { pinned: Some(ModelVersion(2)), ..settings() };
    let past = |version| Start { serving: Some(model(version, b"a")), ..start() };
    assert!(loads(&Rig::started(pinned.clone(), past(1)).1).is_empty());
    assert_eq!(loads(&Rig::started(pinned, past(2)).1), [model(2, b"a")]);
}

#[test]
fn an_offer_too_large_for_a_box_is_refused_before_its_first_byte() {
    let large = model(1, b"a");
    let mut rig = Rig::connected();
    let reason = "67108865 bytes, the box takes at most 67108864";
    assert_eq!(said(&rig.hub(offer(&large, MAX_PACKAGE_BYTES + 1))), [refusal(&large, reason)]);
}

#[test]
fn a_transfer_goes_on_after_a_reconnect_where_it_stopped() {
    let new = model(1, b"abcdef");
    let mut rig = Rig::connected();
    rig.hub(offer(&new, 6));
    rig.hub(chunk(&new, 0, b"abcd"));
    rig.handle(Event::LinkDown);
    assert_eq!(said(&rig.connect(0))[1..], [fetch(&new, 4)]);
    let effects = rig.hub(offer(&new, 6));
    assert_eq!(said(&effects), [fetch(&new, 4)], "an offer repeated does not begin anew");
    assert_eq!(loads(&rig.hub(chunk(&new, 4, b"ef"))), [new.clone()]);
    assert!(rig.hub(chunk(&new, 4, b"ef")).is_empty(), "the answer to the other request");
}

#[test]
fn chunks_that_were_not_asked_for_are_dropped() {
    let (new, other) = (model(1, b"abcdef"), model(2, b"x"));
    let mut rig = Rig::connected();
    assert!(rig.hub(chunk(&new, 0, b"abc")).is_empty());
    rig.hub(offer(&new, 6));
    assert!(rig.hub(chunk(&other, 0, b"abc")).is_empty());
    assert!(rig.hub(chunk(&new, 3, b"abc")).is_empty(), "not its turn");
    assert!(rig.hub(chunk(&new, 0, b"")).is_empty());
    assert!(rig.hub(chunk(&new, 0, b"abcdefg")).is_empty(), "more than was offered");
    assert!(rig.hub(chunk(&new, u64::MAX, b"abc")).is_empty());
    assert_eq!(said(&rig.hub(chunk(&new, 0, b"abc"))), [fetch(&new, 3)]);
}

#[test]
fn a_package_that_proves_unusable_is_discarded_and_reported() {
    let (old, bad) = (model(1, b"a"), model(2, b"bad"));
    let mut rig = Rig::connected();
    rig.handle(Event::ModelLoaded(old.clone()));
    rig.hub(offer(&bad, 3));
    assert_eq!(loads(&rig.hub(chunk(&bad, 0, b"bad"))), [bad.clone()]);
    let refused = Event::ModelRefused { model: bad.clone(), reason: "golden vectors differ".to_owned() };
    let effects = rig.handle(refused);
    assert!(matches!(&effects[0], Effect::Discard(digest) if *digest == bad.digest));
    assert_eq!(said(&effects), [refusal(&bad, "golden vectors differ")]);
    assert_eq!(rig.core.serving(), Some(&old), "the old one serves on");
}

#[test]
fn what_became_of_a_model_while_the_hub_was_away_is_told_when_it_is_back() {
    let new = model(1, b"a");
    let mut rig = Rig::connected();
    rig.handle(Event::ModelLoaded(new.clone()));
    rig.handle(Event::LinkDown);
    let questions = asked(&rig.receive(vec![Ok(reading(1))]));
    assert_eq!(said(&rig.answer(&new, questions)), []);
    assert_eq!(said(&rig.connect(0))[1..], [report(&new, ModelOutcome::Serving)]);
}

#[test]
fn what_became_of_a_model_is_not_told_to_a_hub_that_was_hung_up_on() {
    let new = model(1, b"a");
    let mut rig = Rig::connected();
    rig.handle(Event::ModelLoaded(new.clone()));
    rig.hub(HubToEdge::Refused { reason: "it is full".to_owned(), retry_after_ms: 1_000 });
    let questions = asked(&rig.receive(vec![Ok(reading(1))]));
    assert_eq!(said(&rig.answer(&new, questions)), [], "it would be lost");
    rig.handle(Event::LinkDown);
    assert_eq!(said(&rig.connect(0))[1..], [report(&new, ModelOutcome::Serving)]);
}

#[test]
fn the_newest_offer_counts() {
    let (old, first, second) = (model(1, b"a"), model(2, b"bb"), model(3, b"cc"));
    let mut rig = Rig::connected();
    rig.handle(Event::ModelLoaded(old.clone()));
    rig.hub(offer(&first, 2));
    assert_eq!(said(&rig.hub(offer(&second, 2))), [fetch(&second, 0)]);
    assert!(rig.hub(chunk(&first, 0, b"bb")).is_empty());
    rig.hub(offer(&old, 1));
    assert!(rig.hub(chunk(&second, 0, b"cc")).is_empty(), "the hub wants what serves already");
}

#[test]
fn an_offer_of_the_model_in_service_is_answered_without_fetching_it() {
    let served = model(1, b"a");
    let mut rig = Rig::connected();
    rig.handle(Event::ModelLoaded(served.clone()));
    assert_eq!(said(&rig.hub(offer(&served, 1))), [], "it has not answered yet");
    let questions = asked(&rig.receive(vec![Ok(reading(1))]));
    rig.answer(&served, questions);
    assert_eq!(said(&rig.hub(offer(&served, 1))), [report(&served, ModelOutcome::Serving)]);
}

#[test]
fn a_restarted_box_loads_its_model_and_answers_what_it_left_open() {
    let served = model(4, b"a");
    let (mut rig, effects) = resumed(&served, vec![question(0, true), question(1, false)]);
    assert_eq!(loads(&effects), [served.clone()]);
    assert!(asked(&effects).is_empty(), "nothing answers yet");
    let questions = asked(&rig.handle(Event::ModelLoaded(served.clone())));
    assert_eq!(questions.iter().map(|question| question.of.0).collect::<Vec<_>>(), [0, 1]);
    let effects = rig.answer(&served, questions);
    assert!(
        matches!(effects.as_slice(), [Effect::Publish(published)] if published.len() == 1 && published[0].of.0 == 1)
    );
}

#[test]
fn bringing_a_model_up_to_date_proves_nothing() {
    let served = model(4, b"a");
    let (mut rig, _) = resumed(&served, vec![question(0, true)]);
    rig.connect(0);
    let questions = asked(&rig.handle(Event::ModelLoaded(served.clone())));
    assert!(rig.answer(&served, questions).is_empty());
}

#[test]
fn a_model_that_is_being_loaded_from_the_disk_is_not_fetched_meanwhile() {
    let served = model(4, b"abc");
    let (mut rig, _) = resumed(&served, Vec::new());
    rig.connect(0);
    // The hub was told that the box serves nothing yet.
    assert_eq!(said(&rig.hub(offer(&served, 3))), []);
    rig.handle(Event::ModelLoaded(served.clone()));
    assert_eq!(rig.core.serving(), Some(&served));
    rig.handle(Event::LinkDown);
    assert_eq!(said(&rig.connect(0)).len(), 1, "nothing is left to fetch");
}

#[test]
fn a_model_that_is_gone_from_the_disk_is_fetched_again() {
    let served = model(4, b"abc");
    let gone = || Event::ModelRefused { model: served.clone(), reason: "the file is gone".to_owned() };
    let (mut rig, _) = resumed(&served, Vec::new());
    rig.connect(0);
    rig.hub(offer(&served, 3));
    assert_eq!(said(&rig.handle(gone())), [fetch(&served, 0)], "the hub offered it meanwhile");
    assert_eq!(loads(&rig.hub(chunk(&served, 0, b"abc"))), [served.clone()]);

    let (mut rig, _) = resumed(&served, Vec::new());
    rig.handle(gone());
    assert_eq!(said(&rig.connect(0))[1..], [refusal(&served, "the file is gone")]);
    assert_eq!(said(&rig.hub(offer(&served, 3))), [fetch(&served, 0)]);
}
