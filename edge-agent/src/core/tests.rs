//! Tests of the core as a whole: its promises, one by one, against surroundings that are driven by hand.

use std::sync::Arc;

use shared::event::{EventBatch, Outcome, SpoolEntry, StreamSchema};
use shared::ids::{ChannelName, ModelName, ModelVersion, StreamId};
use shared::wire::message::{ModelOffer, ModelOutcome};
use shared::wire::part::PackedPart;

use super::spool::{Shedding, WhenFull};
use super::*;

fn settings() -> Settings {
    Settings {
        agent_version: "test".to_owned(),
        boot_nonce: 1,
        device: "flex".to_owned(),
        pinned: None,
        safe_mode: None,
        max_answer_us: 50_000,
        has_hub: true,
        commit_delay_ms: 20,
        spool_max_bytes: 1 << 30,
        when_full: WhenFull::Block,
        receive_maximum: 100,
    }
}

fn start(acked: u64, next: u64) -> Start {
    Start {
        epoch: Epoch(5),
        next: Sequence(next),
        oldest: Sequence(0),
        spool_bytes: 0,
        checkpoint: Some(Checkpoint {
            epoch: Epoch(5),
            base: Sequence(0),
            acked: Sequence(acked),
            settled: BTreeMap::new(),
        }),
        pending: BTreeMap::new(),
        gaps: Vec::new(),
        recent_ids: Vec::new(),
        recent_entries: Vec::new(),
        unfinished: Vec::new(),
        slot: SlotState::default(),
        shadow: None,
        floor: None,
        partial: None,
    }
}

fn agent() -> EdgeCore {
    EdgeCore::new(settings(), start(0, 0), 7).0
}

fn handle(core: &mut EdgeCore, now: u64, event: Event) -> Vec<Effect> {
    let mut effects = Vec::new();
    core.handle(Millis(now), event, &mut effects);
    effects
}

fn message(number: u64, id: u64, may_be_redelivered: bool) -> Received {
    let schema = StreamSchema {
        stream: StreamId::new("pump").expect("valid"),
        channels: vec![ChannelName::new("flow").expect("valid")],
    };
    let reading = NewReading {
        schema: Arc::new(schema),
        time_ms: id as i64,
        values: vec![1.0],
        known_normal: false,
        shedding: None,
        id,
        named_by_producer: false,
        may_be_redelivered,
    };
    Received { receipt: Some(Receipt { generation: 1, number }), content: MessageContent::Reading(reading) }
}

fn appended(effects: &[Effect]) -> Vec<EventBatch> {
    let batches = effects
        .iter()
        .filter_map(|effect| if let Effect::Append(entry) = effect { entry.batch().cloned() } else { None });
    batches.collect()
}

fn acknowledged(effects: &[Effect]) -> Vec<u64> {
    let receipts = effects
        .iter()
        .filter_map(|effect| if let Effect::Acknowledge(receipt) = effect { Some(receipt.number) } else { None });
    receipts.collect()
}

fn sent(effects: Vec<Effect>) -> Vec<EdgeToHub> {
    let messages =
        effects.into_iter().filter_map(|effect| if let Effect::Send(message) = effect { Some(message) } else { None });
    messages.collect()
}

fn durable(end: u64) -> Event {
    Event::Durable { end: Sequence(end), spool_bytes: 100 }
}

fn welcome(next: u64) -> Event {
    Event::FromHub(HubToEdge::Welcome { next: Sequence(next), mark: None, newest_epoch: Epoch(5), time_ms: 0 })
}

/// An agent that the hub has greeted, with one durable batch of `count` readings in its spool.
fn connected(count: u64) -> (EdgeCore, EventBatch) {
    let mut core = agent();
    handle(&mut core, 0, Event::Received((1..=count).map(|n| message(n, n, false)).collect()));
    let batch = appended(&handle(&mut core, 20, Event::Tick)).remove(0);
    handle(&mut core, 21, durable(count));
    handle(&mut core, 600, Event::LinkUp);
    handle(&mut core, 601, welcome(0));
    (core, batch)
}

fn spooled(batch: &EventBatch) -> Event {
    let entry = SpoolEntry::Events(batch.clone());
    let encoded = entry.encode().expect("encodes");
    Event::SpoolRead { oldest: Sequence(0), entries: vec![SpooledEntry { encoded, entry }] }
}

/// The box served this model before it was started, and had proven it.
fn serves(served: &ServedModel) -> SlotState {
    SlotState { serving: Some(served.clone()), ..SlotState::default() }
}

fn offer(version: u32, bytes: u64) -> ModelOffer {
    ModelOffer {
        model: ModelName::new("pump").expect("valid"),
        version: ModelVersion(version),
        digest: Digest::of(&version.to_le_bytes()),
        bytes,
    }
}

#[test]
fn an_acknowledgement_waits_for_the_disk_and_covers_what_came_before() {
    let mut core = agent();
    let effects = handle(&mut core, 0, Event::Received(vec![message(1, 1, false), message(2, 2, false)]));
    assert!(appended(&effects).is_empty() && acknowledged(&effects).is_empty());
    let effects = handle(&mut core, 20, Event::Tick);
    let batches = appended(&effects);
    assert_eq!((batches.len(), batches[0].first, batches[0].end()), (1, Sequence(0), Sequence(2)));
    assert!(acknowledged(&effects).is_empty());
    assert_eq!(acknowledged(&handle(&mut core, 25, durable(2))), [2]);
}

#[test]
fn a_message_that_is_no_reading_is_acknowledged_in_its_turn_and_counted() {
    let mut core = agent();
    let bad = |number| Received {
        receipt: Some(Receipt { generation: 1, number }),
        content: MessageContent::Rejected(Rejection { reason: "not_json", sample: None }),
    };
    assert_eq!(acknowledged(&handle(&mut core, 0, Event::Received(vec![bad(1)]))), [1]);
    let effects = handle(&mut core, 1, Event::Received(vec![message(2, 2, false), bad(3)]));
    assert!(acknowledged(&effects).is_empty(), "the reading before it is not durable");
    handle(&mut core, 30, Event::Tick);
    assert_eq!(acknowledged(&handle(&mut core, 31, durable(1))), [3]);
    assert_eq!(core.status().rejected, [("not_json".to_owned(), 2)]);
}

#[test]
fn a_redelivery_is_dropped_and_counted_and_a_machine_may_say_the_same_thing_twice() {
    let mut core = agent();
    handle(&mut core, 0, Event::Received(vec![message(1, 9, false), message(2, 9, false), message(3, 9, true)]));
    let batch = appended(&handle(&mut core, 20, Event::Tick)).remove(0);
    assert_eq!(batch.events.len(), 2);
    let ledger = &core.status().ledger[0];
    assert_eq!((ledger.accepted, ledger.duplicates), (2, 1));
}

#[test]
fn redeliveries_are_known_after_a_restart() {
    let recent_ids = vec![41, 42];
    let (mut core, _) = EdgeCore::new(settings(), Start { recent_ids, ..start(0, 2) }, 7);
    let effects = handle(&mut core, 0, Event::Received(vec![message(1, 42, true), message(2, 43, true)]));
    assert_eq!(acknowledged(&effects), [1], "it is durable since before the restart");
    let batch = appended(&handle(&mut core, 20, Event::Tick)).remove(0);
    assert_eq!((batch.first, batch.events.len()), (Sequence(2), 1));
}

#[test]
fn a_batch_the_disk_would_not_take_is_tried_again_and_nothing_is_acknowledged_meanwhile() {
    let mut core = agent();
    handle(&mut core, 0, Event::Received(vec![message(1, 1, false)]));
    let batch = appended(&handle(&mut core, 20, Event::Tick)).remove(0);
    let effects = handle(&mut core, 21, Event::AppendFailed(SpoolEntry::Events(batch.clone())));
    assert!(appended(&effects).is_empty() && acknowledged(&effects).is_empty());
    assert!(!core.wants_messages());
    let again = appended(&handle(&mut core, 21 + limits::APPEND_RETRY_MS, Event::Tick));
    assert_eq!(again, [batch]);
    assert_eq!(acknowledged(&handle(&mut core, 600, durable(1))), [1]);
    assert!(core.wants_messages());
}

#[test]
fn what_is_durable_is_sent_and_the_hubs_ack_moves_the_ledger() {
    let (mut core, batch) = connected(3);
    let messages = sent(handle(&mut core, 602, spooled(&batch)));
    assert!(matches!(&messages[..], [EdgeToHub::Entry(_)]), "{messages:?}");
    assert_eq!(core.status().ledger[0].delivered, 0);
    handle(&mut core, 610, Event::FromHub(HubToEdge::Acked { epoch: Epoch(5), next: Sequence(3) }));
    let ledger = &core.status().ledger[0];
    assert_eq!((ledger.accepted, ledger.delivered), (3, 3));
}

#[test]
fn what_the_hub_has_already_is_counted_and_not_sent_again() {
    let (mut core, batch) = connected(3);
    handle(&mut core, 700, Event::LinkDown);
    handle(&mut core, 5_000, Event::Tick);
    handle(&mut core, 5_001, Event::LinkUp);
    handle(&mut core, 5_002, welcome(3));
    let messages = sent(handle(&mut core, 5_003, spooled(&batch)));
    assert!(!messages.iter().any(|message| matches!(message, EdgeToHub::Entry(_))), "{messages:?}");
    assert_eq!(core.status().ledger[0].delivered, 3);
}

fn part(bytes: usize) -> PackedPart {
    PackedPart::pack(&vec![0; bytes], &[]).expect("packs")
}

#[test]
fn a_package_that_was_built_on_what_was_here_is_fetched_plain_before_it_is_refused() {
    let (served, offer) = (offer(2, 10).served(), offer(3, 100));
    let start = Start { slot: serves(&served), partial: Some((offer.digest, 60)), ..start(0, 0) };
    let (mut core, _) = EdgeCore::new(settings(), start, 7);
    handle(&mut core, 600, Event::LinkUp);
    handle(&mut core, 601, welcome(0));
    handle(&mut core, 602, Event::ModelLoaded { model: served.clone(), floor: ModelVersion(1) });
    let base = Some(served.digest);
    let fetched = sent(handle(&mut core, 603, Event::FromHub(HubToEdge::Offer(offer.clone()))));
    let expected = EdgeToHub::Fetch { digest: offer.digest, offset: 60, base };
    assert_eq!(fetched, [expected], "on from what lies on the disk");
    let chunk = HubToEdge::Chunk { digest: offer.digest, offset: 60, base, part: part(40) };
    handle(&mut core, 604, Event::FromHub(chunk));
    let effects = handle(&mut core, 604, Event::Remembered);
    assert!(effects.iter().any(|effect| matches!(effect, Effect::Load { .. })), "{effects:?}");
    let refuse = || Event::ModelRefused { model: offer.served(), reason: "a hash does not hold".to_owned() };
    let effects = handle(&mut core, 605, refuse());
    let expected = EdgeToHub::Fetch { digest: offer.digest, offset: 0, base: None };
    assert_eq!(sent(effects), [expected], "from the beginning, on nothing");
    let chunk = HubToEdge::Chunk { digest: offer.digest, offset: 0, base: None, part: part(100) };
    handle(&mut core, 606, Event::FromHub(chunk));
    let reports = sent(handle(&mut core, 607, refuse()));
    assert!(matches!(&reports[..], [EdgeToHub::ModelReport(report)] if report.outcome != ModelOutcome::Serving));
}

#[test]
fn a_package_that_was_signed_by_more_while_it_was_fetched_is_fetched_from_its_beginning() {
    let (mut core, _) = connected(1);
    let (before, signed) = (offer(2, 100), ModelOffer { bytes: 204, ..offer(2, 100) });
    assert_eq!(before.digest, signed.digest);
    handle(&mut core, 700, Event::FromHub(HubToEdge::Offer(before.clone())));
    let chunk = HubToEdge::Chunk { digest: before.digest, offset: 0, base: None, part: part(60) };
    handle(&mut core, 701, Event::FromHub(chunk));
    let again = sent(handle(&mut core, 702, Event::FromHub(HubToEdge::Offer(before.clone()))));
    assert!(matches!(again[..], [EdgeToHub::Fetch { offset: 60, .. }]), "the same again goes on: {again:?}");
    let fetched = sent(handle(&mut core, 703, Event::FromHub(HubToEdge::Offer(signed.clone()))));
    assert!(matches!(fetched[..], [EdgeToHub::Fetch { offset: 0, .. }]), "{fetched:?}");
    let chunk = HubToEdge::Chunk { digest: signed.digest, offset: 0, base: None, part: part(204) };
    handle(&mut core, 704, Event::FromHub(chunk));
    let effects = handle(&mut core, 705, Event::Remembered);
    assert!(matches!(effects[..], [.., Effect::Load { is_new: true, .. }]), "{effects:?}");
}

#[test]
fn an_offered_model_is_fetched_loaded_remembered_and_reported_once_it_answered() {
    let (mut core, _) = connected(1);
    let offer = offer(2, 100);
    let fetched = sent(handle(&mut core, 700, Event::FromHub(HubToEdge::Offer(offer.clone()))));
    assert!(matches!(fetched[..], [EdgeToHub::Fetch { offset: 0, .. }]), "{fetched:?}");
    let chunk = |offset, bytes| {
        Event::FromHub(HubToEdge::Chunk { digest: offer.digest, offset, base: None, part: part(bytes) })
    };
    handle(&mut core, 701, chunk(0, 60));
    handle(&mut core, 702, Event::LinkDown);
    handle(&mut core, 9_000, Event::Tick);
    handle(&mut core, 9_001, Event::LinkUp);
    let greeted = sent(handle(&mut core, 9_002, welcome(0)));
    assert!(!greeted.iter().any(|message| matches!(message, EdgeToHub::Fetch { .. })), "it may be wanted no more");
    let resumed = sent(handle(&mut core, 9_002, Event::FromHub(HubToEdge::Offer(offer.clone()))));
    assert!(resumed.iter().any(|message| matches!(message, EdgeToHub::Fetch { offset: 60, .. })), "{resumed:?}");
    let effects = handle(&mut core, 9_003, chunk(60, 40));
    assert!(!effects.iter().any(|effect| matches!(effect, Effect::Load { .. })), "not before it is remembered");
    assert!(effects.iter().any(|effect| matches!(effect, Effect::Remember(_))), "{effects:?}");
    let effects = handle(&mut core, 9_004, Event::Remembered);
    assert!(effects.iter().any(|effect| matches!(effect, Effect::Load { .. })), "{effects:?}");
    let effects = handle(&mut core, 9_010, Event::ModelLoaded { model: offer.served(), floor: ModelVersion(1) });
    assert!(sent(effects).is_empty(), "loaded is not serving");
    let mut effects = handle(&mut core, 9_011, Event::Received(vec![message(9, 9, false)]));
    let question = effects
        .drain(..)
        .find_map(|effect| if let Effect::Infer(mut questions) = effect { questions.pop() } else { None });
    let verdict = Outcome::Anomaly(shared::event::Verdict { score: 0.5, threshold: 1.0, anomaly: false });
    let answers = vec![Answered { question: question.expect("asked"), outcome: Ok(verdict) }];
    let effects = handle(&mut core, 9_012, Event::Answered { model: offer.served().model, answers, busy_us: 9 });
    assert!(effects.iter().any(|effect| matches!(effect, Effect::Publish(_))), "{effects:?}");
    let reports = sent(effects);
    assert!(matches!(&reports[..], [EdgeToHub::ModelReport(report)] if report.outcome == ModelOutcome::Serving));
}

#[test]
fn in_safe_mode_no_model_runs_and_readings_are_taken_in_all_the_same() {
    let safe = Settings { safe_mode: Some("the agent ended 3 times".to_owned()), ..settings() };
    let remembered = serves(&offer(1, 100).served());
    let (mut core, effects) = EdgeCore::new(safe, Start { slot: remembered, ..start(0, 0) }, 7);
    assert!(!effects.iter().any(|effect| matches!(effect, Effect::Load { .. })), "{effects:?}");
    handle(&mut core, 0, Event::Received(vec![message(1, 1, false)]));
    assert_eq!(core.status().unanswered, [("no_model".to_owned(), 1)]);
    assert_eq!(core.status().ledger.len(), 1);
}

#[test]
fn a_pinned_box_refuses_other_versions_with_a_reason() {
    let pinned = Settings { pinned: Some(ModelVersion(1)), ..settings() };
    let (mut core, _) = EdgeCore::new(pinned, start(0, 0), 7);
    handle(&mut core, 600, Event::LinkUp);
    handle(&mut core, 601, welcome(0));
    let messages = sent(handle(&mut core, 602, Event::FromHub(HubToEdge::Offer(offer(2, 10)))));
    let [EdgeToHub::ModelReport(report)] = &messages[..] else { panic!("no report: {messages:?}") };
    let expected = ModelOutcome::Refused { reason: "the box is pinned to version 1".to_owned() };
    assert_eq!(report.outcome, expected);
}

fn welcome_with(next: u64, mark: Option<u32>, newest_epoch: u64) -> Event {
    let newest_epoch = Epoch(newest_epoch);
    Event::FromHub(HubToEdge::Welcome { next: Sequence(next), mark, newest_epoch, time_ms: 0 })
}

/// An agent that was hung up on because of what the hub has, until its checkpoint in another epoch is durable.
fn raises(core: &mut EdgeCore, effects: &[Effect], epoch: u64, acked: u64) {
    assert!(effects.iter().any(|effect| matches!(effect, Effect::Hangup)), "{effects:?}");
    handle(core, 700, Event::LinkDown);
    let due = core.poll_timeout().expect("it dials again").0.max(701);
    let effects = handle(core, due, Event::Tick);
    assert!(!effects.iter().any(|effect| matches!(effect, Effect::Dial)), "not before the epoch is durable");
    let checkpoint = effects.iter().find_map(|effect| {
        let Effect::Checkpoint(Checkpoint { epoch, base, acked, .. }) = effect else { return None };
        Some((*epoch, *base, *acked))
    });
    assert_eq!(checkpoint, Some((Epoch(epoch), Sequence(acked), Sequence(acked))));
    let effects = handle(core, due, Event::Checkpointed { epoch: Epoch(epoch), acked: Sequence(acked) });
    assert!(effects.iter().any(|effect| matches!(effect, Effect::UseEpoch(raised) if *raised == Epoch(epoch))));
    assert!(effects.iter().any(|effect| matches!(effect, Effect::Dial)), "{effects:?}");
    let messages = sent(handle(core, due + 1, Event::LinkUp));
    let [EdgeToHub::Hello(hello)] = &messages[..] else { panic!("no greeting: {messages:?}") };
    assert_eq!((hello.epoch, hello.base), (Epoch(epoch), Sequence(acked)));
    assert_eq!(appended(&handle(core, due + 2, Event::Received(vec![message(90, 90, false)]))), []);
    assert_eq!(appended(&handle(core, due + 30, Event::Tick))[0].epoch, Epoch(epoch));
}

#[test]
fn a_box_behind_its_hub_goes_on_in_an_epoch_that_nobody_used() {
    let (mut core, _) = EdgeCore::new(settings(), start(3, 3), 7);
    handle(&mut core, 600, Event::LinkUp);
    let effects = handle(&mut core, 601, welcome_with(9, Some(1), 8));
    assert!(core.hub_problem().expect("said").contains("goes on as epoch 9"), "{:?}", core.hub_problem());
    raises(&mut core, &effects, 9, 3);
}

#[test]
fn a_box_that_went_on_elsewhere_is_not_merged() {
    for is_same in [true, false] {
        let (mut core, _) = EdgeCore::new(settings(), start(0, 0), 7);
        handle(&mut core, 0, Event::Received((1..=2).map(|n| message(n, n, false)).collect()));
        let batch = appended(&handle(&mut core, 20, Event::Tick)).remove(0);
        handle(&mut core, 21, durable(2));
        let mark = SpoolEntry::Events(batch.clone()).mark().expect("events have one");
        handle(&mut core, 600, Event::LinkUp);
        let effects = handle(&mut core, 601, welcome_with(2, Some(if is_same { mark } else { !mark }), 5));
        assert!(effects.iter().any(|effect| matches!(effect, Effect::ReadSpool { from: Sequence(1), entries: 1 })));
        assert!(!core.is_connected());
        let effects = handle(&mut core, 602, spooled(&batch));
        if is_same {
            assert!(core.is_connected(), "{:?}", core.hub_problem());
        } else {
            raises(&mut core, &effects, 6, 0);
        }
    }
}

#[test]
fn what_the_hub_lost_is_sent_again_and_what_is_gone_is_spoken_of() {
    let (mut core, batch) = connected(3);
    let ack = Event::FromHub(HubToEdge::Acked { epoch: Epoch(5), next: Sequence(3) });
    handle(&mut core, 602, spooled(&batch));
    handle(&mut core, 603, ack);
    let delivered = |core: &EdgeCore| core.status().ledger[0].delivered;
    assert_eq!(delivered(&core), 3);
    handle(&mut core, 604, Event::LinkDown);
    handle(&mut core, 5_000, Event::LinkUp);
    let effects = handle(&mut core, 5_001, welcome(0));
    assert!(core.is_connected() && core.hub_problem().expect("said").contains("sent again"));
    assert!(effects.iter().any(|effect| matches!(effect, Effect::ReadSpool { from: Sequence(0), .. })), "{effects:?}");
    // The spool has given the first event back meanwhile.
    let mut entry = SpoolEntry::Events(batch);
    entry.trim(Sequence(1));
    let entries = vec![SpooledEntry { encoded: entry.encode().expect("encodes"), entry }];
    let messages = sent(handle(&mut core, 5_002, Event::SpoolRead { oldest: Sequence(1), entries }));
    let sent: Vec<_> = messages
        .iter()
        .filter_map(|message| if let EdgeToHub::Entry(packed) = message { Some(packed) } else { None })
        .map(|packed| SpoolEntry::decode(&packed.unpack().expect("unpacks")).expect("decodes"))
        .map(|entry| (entry.first().0, entry.end().0, entry.batch().is_some()))
        .collect();
    assert_eq!(sent, [(0, 1, false), (1, 3, true)]);
    handle(&mut core, 5_003, Event::FromHub(HubToEdge::Acked { epoch: Epoch(5), next: Sequence(3) }));
    assert_eq!(delivered(&core), 3, "nothing counts twice");
}

#[test]
fn a_version_that_was_ruled_out_is_refused_also_after_a_restart() {
    let (mut core, _) = connected(1);
    let served = offer(5, 10).served();
    let effects = handle(&mut core, 700, Event::ModelLoaded { model: served.clone(), floor: ModelVersion(4) });
    let floor =
        effects.iter().find_map(|effect| if let Effect::RememberFloor(floor) = effect { Some(floor) } else { None });
    let start = Start { slot: serves(&served), floor: floor.cloned(), ..start(0, 0) };
    let (mut restarted, _) = EdgeCore::new(settings(), start, 7);
    handle(&mut restarted, 600, Event::LinkUp);
    handle(&mut restarted, 601, welcome(0));
    let messages = sent(handle(&mut restarted, 602, Event::FromHub(HubToEdge::Offer(offer(3, 10)))));
    let [EdgeToHub::ModelReport(report)] = &messages[..] else { panic!("no report: {messages:?}") };
    let reason = "version 3 is older than 4, the oldest this box still takes".to_owned();
    assert_eq!(report.outcome, ModelOutcome::Refused { reason });
    // One step back stays possible.
    let messages = sent(handle(&mut restarted, 603, Event::FromHub(HubToEdge::Offer(offer(4, 10)))));
    assert!(matches!(&messages[..], [EdgeToHub::Fetch { .. }]), "{messages:?}");
}

/// A box that serves version 2 and has just loaded version 3, which is on trial.
fn on_trial() -> (EdgeCore, ServedModel, ServedModel) {
    let (served, offer) = (offer(2, 10).served(), offer(3, 10));
    let (mut core, _) = EdgeCore::new(settings(), Start { slot: serves(&served), ..start(0, 0) }, 7);
    handle(&mut core, 1, Event::ModelLoaded { model: served.clone(), floor: ModelVersion(2) });
    handle(&mut core, 600, Event::LinkUp);
    handle(&mut core, 601, welcome(0));
    handle(&mut core, 602, Event::FromHub(HubToEdge::Offer(offer.clone())));
    let chunk = HubToEdge::Chunk { digest: offer.digest, offset: 0, base: None, part: part(10) };
    let effects = handle(&mut core, 603, Event::FromHub(chunk));
    let slot = remembered(&effects).expect("before it is loaded");
    assert_eq!((slot.previous, slot.trial_starts), (Some(served.clone()), Some(1)));
    handle(&mut core, 604, Event::Remembered);
    handle(&mut core, 605, Event::ModelLoaded { model: offer.served(), floor: ModelVersion(3) });
    assert!(core.is_on_trial());
    (core, served, offer.served())
}

fn remembered(effects: &[Effect]) -> Option<SlotState> {
    effects.iter().find_map(|effect| if let Effect::Remember(slot) = effect { Some(slot.clone()) } else { None })
}

/// Readings come in, and the model answers each with this score.
fn answer(core: &mut EdgeCore, now: u64, model: &ServedModel, count: u64, score: f32) -> Vec<Effect> {
    let messages = (0..count).map(|n| message(now + n, now + n, false)).collect();
    let mut effects = handle(core, now, Event::Received(messages));
    let mut all = Vec::new();
    loop {
        let asked =
            effects.drain(..).find_map(|effect| if let Effect::Infer(asked) = effect { Some(asked) } else { None });
        let Some(questions) = asked else {
            return all;
        };
        let outcome = Outcome::Anomaly(shared::event::Verdict { score, threshold: 1.0, anomaly: false });
        let answers =
            questions.into_iter().map(|question| Answered { question, outcome: Ok(outcome.clone()) }).collect();
        effects = handle(core, now, Event::Answered { model: model.model.clone(), answers, busy_us: 100 });
        all.extend(effects.iter().filter_map(|effect| match effect {
            Effect::Remember(slot) => Some(Effect::Remember(slot.clone())),
            Effect::RememberFloor(floor) => Some(Effect::RememberFloor(floor.clone())),
            Effect::Send(message) => Some(Effect::Send(message.clone())),
            Effect::Discard(digest) => Some(Effect::Discard(*digest)),
            Effect::Append(_)
            | Effect::Acknowledge(_)
            | Effect::Infer(_)
            | Effect::Publish(_)
            | Effect::ReadSpool { .. }
            | Effect::Release(_)
            | Effect::DropOldest { .. }
            | Effect::SettleGap { .. }
            | Effect::Checkpoint(_)
            | Effect::UseEpoch(_)
            | Effect::Dial
            | Effect::Show(_)
            | Effect::Prune(_)
            | Effect::Hangup
            | Effect::StorePart { .. }
            | Effect::Load { .. }
            | Effect::NoteShadow(_)
            | Effect::LoadShadow { .. }
            | Effect::EndShadow
            | Effect::Examine { .. }
            | Effect::SaveMemory(_) => None,
        }));
        effects.retain(|effect| matches!(effect, Effect::Infer(_)));
    }
}

fn outcomes(effects: &[Effect]) -> Vec<(u32, ModelOutcome)> {
    let reports = effects.iter().filter_map(|effect| {
        let Effect::Send(EdgeToHub::ModelReport(report)) = effect else { return None };
        Some((report.model.version.0, report.outcome.clone()))
    });
    reports.collect()
}

#[test]
fn a_trial_that_goes_well_keeps_the_model_and_only_then_rules_older_ones_out() {
    let (mut core, _, new) = on_trial();
    let effects = answer(&mut core, 1_000, &new, 100, 0.5);
    assert_eq!(outcomes(&effects), [(3, ModelOutcome::Serving)]);
    assert!(remembered(&effects).is_none() && core.is_on_trial());
    let effects = answer(&mut core, 2_000, &new, 100, 0.5);
    assert!(effects.iter().any(|effect| matches!(effect, Effect::RememberFloor(floor) if floor.version.0 == 3)));
    assert_eq!(remembered(&effects).expect("kept").trial_starts, None);
    assert!(!core.is_on_trial());
}

#[test]
fn a_trial_that_goes_wrong_ends_with_the_model_before_without_any_network() {
    let (mut core, old, new) = on_trial();
    handle(&mut core, 700, Event::LinkDown);
    let effects = answer(&mut core, 1_000, &new, 3, f32::NAN);
    let slot = remembered(&effects).expect("durable before the other is loaded");
    assert_eq!((slot.serving, slot.ruled_out), (Some(old.clone()), vec![new.digest]));
    let effects = handle(&mut core, 1_001, Event::Remembered);
    let is_pruned = |effect: &Effect| matches!(effect, Effect::Prune(slot) if slot.serving.as_ref() == Some(&old));
    assert!(effects.iter().any(is_pruned), "the package that failed goes when that is durable: {effects:?}");
    assert!(effects.iter().any(|effect| matches!(effect, Effect::Load { model, .. } if *model == old)), "{effects:?}");
    handle(&mut core, 1_002, Event::ModelLoaded { model: old.clone(), floor: ModelVersion(2) });
    answer(&mut core, 2_000, &old, 1, 0.5);
    assert!(core.serving() == Some(&old) && !core.is_on_trial());
    // The hub hears of all of it, in order, and is refused when it offers the same again.
    handle(&mut core, 90_000, Event::LinkUp);
    let effects = handle(&mut core, 90_001, welcome(0));
    let reason = "3 answers on end were no numbers".to_owned();
    assert_eq!(outcomes(&effects), [(3, ModelOutcome::RolledBack { reason }), (2, ModelOutcome::Serving)]);
    let effects = handle(&mut core, 90_002, Event::FromHub(HubToEdge::Offer(offer(3, 10))));
    let reason = "this box went back from version 3 before".to_owned();
    assert_eq!(outcomes(&effects), [(3, ModelOutcome::Refused { reason })]);
}

#[test]
fn a_model_that_ends_the_agent_is_found_out_by_its_starts() {
    let (old, new) = (offer(2, 10).served(), offer(3, 10).served());
    let mut slot =
        SlotState { serving: Some(new.clone()), previous: Some(old.clone()), trial_starts: Some(1), ruled_out: vec![] };
    for starts in [2, 3] {
        let (mut core, effects) = EdgeCore::new(settings(), Start { slot: slot.clone(), ..start(0, 0) }, 7);
        slot = remembered(&effects).expect("counted before it is loaded");
        assert_eq!(slot.trial_starts, Some(starts));
        assert!(!effects.iter().any(|effect| matches!(effect, Effect::Load { .. })), "{effects:?}");
        let effects = handle(&mut core, 1, Event::Remembered);
        assert!(effects.iter().any(|effect| matches!(effect, Effect::Load { model, .. } if *model == new)));
    }
    let (mut core, effects) = EdgeCore::new(settings(), Start { slot, ..start(0, 0) }, 7);
    let slot = remembered(&effects).expect("it goes back");
    assert_eq!((slot.serving, slot.trial_starts, slot.ruled_out), (Some(old.clone()), None, vec![new.digest]));
    let effects = handle(&mut core, 1, Event::Remembered);
    assert!(effects.iter().any(|effect| matches!(effect, Effect::Load { model, .. } if *model == old)));
}

#[test]
fn an_agent_that_is_told_to_stop_holds_nothing_against_the_model_on_trial() {
    let (mut core, _, new) = on_trial();
    let mut effects = Vec::new();
    core.flush(&mut effects);
    let slot = remembered(&effects).expect("durable");
    assert_eq!((slot.serving.as_ref(), slot.trial_starts), (Some(&new), Some(0)));
    let (_, effects) = EdgeCore::new(settings(), Start { slot, ..start(0, 0) }, 7);
    assert_eq!(remembered(&effects).expect("counted").trial_starts, Some(1));
}

#[test]
fn what_is_on_trial_is_nothing_to_go_back_to() {
    let (mut core, old, _) = on_trial();
    let next = offer(4, 10);
    handle(&mut core, 700, Event::FromHub(HubToEdge::Offer(next.clone())));
    let chunk = HubToEdge::Chunk { digest: next.digest, offset: 0, base: None, part: part(10) };
    let slot = remembered(&handle(&mut core, 701, Event::FromHub(chunk))).expect("before it is loaded");
    assert_eq!((slot.serving, slot.previous), (Some(next.served()), Some(old)));
}

#[test]
fn a_hub_that_takes_a_version_back_costs_no_transfer() {
    let (mut core, old, new) = on_trial();
    answer(&mut core, 1_000, &new, 10, 0.5);
    let effects = handle(&mut core, 1_500, Event::FromHub(HubToEdge::Offer(offer(2, 10))));
    assert!(effects.iter().any(|effect| matches!(effect, Effect::Load { model, .. } if *model == old)), "{effects:?}");
    assert!(!effects.iter().any(|effect| matches!(effect, Effect::Send(EdgeToHub::Fetch { .. }))), "{effects:?}");
    let effects = handle(&mut core, 1_501, Event::ModelLoaded { model: old.clone(), floor: ModelVersion(2) });
    let slot = remembered(&effects).expect("durable");
    assert_eq!((slot.serving, slot.previous, slot.trial_starts), (Some(old), None, None));
    assert!(!core.is_on_trial());
}

#[test]
fn readings_wait_for_the_model_that_served_before_the_restart() {
    let served = offer(2, 10).served();
    let (mut core, _) = EdgeCore::new(settings(), Start { slot: serves(&served), ..start(0, 0) }, 7);
    let effects = handle(&mut core, 1, Event::Received(vec![message(1, 1, false)]));
    assert!(!effects.iter().any(|effect| matches!(effect, Effect::Infer(_))), "{effects:?}");
    let effects = handle(&mut core, 2, Event::ModelLoaded { model: served, floor: ModelVersion(1) });
    assert!(effects.iter().any(|effect| matches!(effect, Effect::Infer(_))), "{effects:?}");
    assert!(core.status().unanswered.is_empty());
}

#[test]
fn a_package_that_does_not_run_is_discarded_and_reported() {
    let (mut core, _) = connected(1);
    let offer = offer(3, 10);
    handle(&mut core, 700, Event::FromHub(HubToEdge::Offer(offer.clone())));
    let chunk = HubToEdge::Chunk { digest: offer.digest, offset: 0, base: None, part: part(10) };
    handle(&mut core, 701, Event::FromHub(chunk));
    let refused = Event::ModelRefused { model: offer.served(), reason: "golden vector 3 differs".to_owned() };
    let effects = handle(&mut core, 702, refused);
    assert_eq!(remembered(&effects).expect("given up").serving, None);
    assert!(matches!(&sent(effects)[..], [EdgeToHub::ModelReport(_)]));
    handle(&mut core, 703, Event::Remembered);
    let effects = handle(&mut core, 704, Event::Remembered);
    assert!(effects.iter().any(|effect| matches!(effect, Effect::Prune(slot) if slot.serving.is_none())));
    assert!(core.serving().is_none());
}

/// A box as of [`on_trial`] that has fetched version 4 as well, which waits to be remembered.
fn on_trial_with_a_newer_one_on_its_way() -> (EdgeCore, [ServedModel; 3]) {
    let (mut core, old, new) = on_trial();
    let newer = offer(4, 10);
    handle(&mut core, 700, Event::FromHub(HubToEdge::Offer(newer.clone())));
    let chunk = HubToEdge::Chunk { digest: newer.digest, offset: 0, base: None, part: part(10) };
    let slot = remembered(&handle(&mut core, 701, Event::FromHub(chunk))).expect("before it is loaded");
    assert_eq!(slot.previous, Some(old.clone()), "what is on trial itself is nothing to go back to");
    (core, [old, new, newer.served()])
}

#[test]
fn a_trial_that_fails_while_a_newer_version_is_on_its_way_leaves_that_one_its_own() {
    let (mut core, [old, new, newer]) = on_trial_with_a_newer_one_on_its_way();
    let slot = remembered(&answer(&mut core, 800, &new, 3, f32::NAN)).expect("ruled out durably");
    assert_eq!((slot.serving, slot.previous), (Some(newer.clone()), Some(old.clone())));
    assert_eq!((slot.trial_starts, slot.ruled_out), (Some(1), vec![new.digest]));
    handle(&mut core, 801, Event::Remembered);
    let effects = handle(&mut core, 802, Event::Remembered);
    let loads =
        effects.iter().filter_map(|effect| if let Effect::Load { model, .. } = effect { Some(model) } else { None });
    assert_eq!(loads.collect::<Vec<_>>(), [&old, &newer], "the one before serves meanwhile");
    handle(&mut core, 803, Event::ModelLoaded { model: old, floor: ModelVersion(2) });
    assert!(!core.is_on_trial());
    handle(&mut core, 804, Event::ModelLoaded { model: newer.clone(), floor: ModelVersion(4) });
    assert!(core.is_on_trial() && core.serving() == Some(&newer));
}

#[test]
fn a_trial_that_passes_while_a_newer_version_is_on_its_way_says_nothing_of_that_one() {
    let (mut core, [_, new, _]) = on_trial_with_a_newer_one_on_its_way();
    let effects = answer(&mut core, 800, &new, 200, 0.5);
    assert!(remembered(&effects).is_none_or(|slot| slot.trial_starts == Some(1)), "{effects:?}");
}

#[test]
fn what_a_box_goes_back_to_stays_on_its_disk_when_an_offer_of_it_is_taken_back() {
    let (mut core, [old, ..]) = on_trial_with_a_newer_one_on_its_way();
    let again = offer(2, 10);
    assert_eq!(again.digest, old.digest);
    handle(&mut core, 702, Event::FromHub(HubToEdge::Offer(again)));
    let effects = handle(&mut core, 703, Event::FromHub(HubToEdge::Offer(offer(5, 10))));
    assert!(!effects.iter().any(|effect| matches!(effect, Effect::Discard(digest) if *digest == old.digest)));
}

/// A message of an input with a rule of its own.
fn sheddable(number: u64, shedding: Shedding) -> Received {
    let mut received = message(number, number, false);
    if let MessageContent::Reading(reading) = &mut received.content {
        reading.shedding = Some(shedding);
    }
    received
}

/// How many of 16 messages are kept by a spool that is full to `percent`; none is lost sight of.
fn kept_at(percent: u64, shedding: Shedding) -> u64 {
    let mut core = agent();
    let full_bytes = core.spool.full_bytes();
    handle(&mut core, 0, Event::Received(vec![message(1, 100, false)]));
    handle(&mut core, 20, Event::Tick);
    handle(&mut core, 21, Event::Durable { end: Sequence(1), spool_bytes: (full_bytes * percent).div_ceil(100) });
    let messages = (2..18).map(|number| sheddable(number, shedding)).collect();
    let mut effects = handle(&mut core, 22, Event::Received(messages));
    effects.extend(handle(&mut core, 42, Event::Tick));
    let batches = appended(&effects);
    let end = batches.last().expect("one").end();
    effects = handle(&mut core, 43, Event::Durable { end, spool_bytes: 0 });
    assert_eq!(acknowledged(&effects), [17]);
    let kept: u64 = batches.iter().flat_map(EventBatch::readings_by_stream).map(u64::from).sum();
    let shed: u64 = batches.iter().flat_map(EventBatch::shed).map(|shed| shed.ids.len() as u64).sum();
    assert_eq!((kept + shed, core.status().ledger[0].accepted), (16, 17));
    let again = (2..18).map(|number| {
        let mut received = sheddable(number + 100, shedding);
        if let MessageContent::Reading(reading) = &mut received.content {
            (reading.id, reading.may_be_redelivered) = (number, true);
        }
        received
    });
    handle(&mut core, 44, Event::Received(again.collect()));
    assert_eq!(core.status().ledger[0].duplicates, 16);
    kept
}

#[test]
fn an_input_may_let_go_what_comes_in_and_it_is_counted_before_it_is_acknowledged() {
    let at = |shedding| [74, 75, 80, 85, 90, 99].map(|percent| kept_at(percent, shedding));
    assert_eq!(at(Shedding::Downsample), [16, 8, 4, 2, 1, 1]);
    assert_eq!(at(Shedding::DropNewest), [16, 16, 16, 16, 0, 0]);
}

#[test]
fn what_was_let_go_is_dropped_in_the_ledger_once_the_hub_knows_and_answered_all_the_same() {
    let offer = offer(1, 9);
    let model = ServedModel { model: ModelRef { name: offer.model, version: ModelVersion(1) }, digest: offer.digest };
    let (mut core, _) = EdgeCore::new(settings(), Start { slot: serves(&model), ..start(0, 0) }, 7);
    let full_bytes = core.spool.full_bytes();
    handle(&mut core, 0, Event::ModelLoaded { model: model.clone(), floor: ModelVersion(0) });
    handle(&mut core, 0, Event::Received(vec![message(1, 100, false)]));
    let first = appended(&handle(&mut core, 20, Event::Tick)).remove(0);
    handle(&mut core, 21, Event::Durable { end: Sequence(1), spool_bytes: full_bytes - 1 });
    handle(&mut core, 600, Event::LinkUp);
    handle(&mut core, 601, welcome(1));
    handle(&mut core, 601, spooled(&first));
    let messages = vec![sheddable(2, Shedding::DropNewest), sheddable(3, Shedding::DropNewest)];
    let effects = handle(&mut core, 602, Event::Received(messages));
    let questions = |effect: &Effect| if let Effect::Infer(asked) = effect { Some(asked.clone()) } else { None };
    let asked = effects.iter().find_map(questions);
    let asked = asked.expect("asked");
    assert!(asked.iter().all(|question| !question.kept && question.of == Sequence(1)), "{asked:?}");
    let batch = appended(&handle(&mut core, 622, Event::Tick)).remove(0);
    assert_eq!(batch.events.len(), 1);
    handle(&mut core, 623, Event::Durable { end: Sequence(2), spool_bytes: full_bytes - 1 });
    handle(&mut core, 624, spooled(&batch));
    let ledger = &core.status().ledger[0];
    assert_eq!((ledger.accepted, ledger.delivered, ledger.pending()), (3, 1, 2));
    handle(&mut core, 625, Event::FromHub(HubToEdge::Acked { epoch: Epoch(5), next: Sequence(2) }));
    let ledger = &core.status().ledger[0];
    assert_eq!((ledger.delivered, ledger.pending()), (1, 0));
    assert_eq!(ledger.dropped, [("drop_newest".to_owned(), 2)]);
}

#[test]
fn a_spool_whose_limit_sinks_takes_nothing_more_in_until_it_is_below() {
    let (mut core, _) = EdgeCore::new(settings(), Start { spool_bytes: 50 << 20, ..start(0, 0) }, 7);
    assert!(core.wants_messages());
    handle(&mut core, 1, Event::SpoolLimit(40 << 20));
    assert!(!core.wants_messages(), "what others took is not the spool's");
    handle(&mut core, 2, Event::SpoolLimit(60 << 20));
    assert!(core.wants_messages());
    let mut dropping = EdgeCore::new(
        Settings { when_full: WhenFull::DropOldest, ..settings() },
        Start { spool_bytes: 50 << 20, ..start(0, 0) },
        7,
    )
    .0;
    let effects = handle(&mut dropping, 1, Event::SpoolLimit(40 << 20));
    assert!(effects.iter().any(|effect| matches!(effect, Effect::DropOldest { .. })), "{effects:?}");
}
