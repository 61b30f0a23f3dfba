//! From a message to a durable event and its acknowledgement.

use shared::event::Event as StoredEvent;
use shared::ids::Sequence;
use shared::limits::COMMIT_MAX_EVENTS;

use super::rig::{
    COMMIT_DELAY_MS, EPOCH, Rig, acknowledged, appended, asked, checkpoints, model, pump, reading, receipt, rejection,
    settings, spooled, start,
};
use crate::core::limits::{APPEND_RETRY_MS, COMMITS_IN_FLIGHT, INFER_BATCH, INFER_QUEUE};
use crate::core::{Checkpoint, Effect, Event, Millis, NewReading, Receipt, Received, Settings, Start};

#[test]
fn an_acknowledgement_waits_for_the_disk() {
    let mut rig = Rig::alone();
    assert!(rig.receive(vec![Ok(reading(1)), Ok(reading(2))]).is_empty());
    assert_eq!(rig.core.poll_timeout(), Some(Millis(COMMIT_DELAY_MS)));
    assert!(rig.wait(COMMIT_DELAY_MS - 1).is_empty());
    let effects = rig.wait(1);
    let batch = &appended(&effects)[0];
    assert_eq!((batch.epoch, batch.first, batch.end()), (EPOCH, Sequence(0), Sequence(2)));
    assert_eq!(effects.len(), 1, "and nothing is acknowledged");
    assert_eq!(acknowledged(&rig.durable(0)), [0_u64; 0], "the disk said nothing new");
    assert_eq!(acknowledged(&rig.durable(2)), [2]);
}

#[test]
fn a_full_group_commit_does_not_wait() {
    let mut rig = Rig::alone();
    let effects = rig.receive((0..COMMIT_MAX_EVENTS as u64 + 1).map(|id| Ok(reading(id))).collect());
    let batches = appended(&effects);
    assert_eq!((batches.len(), batches[0].events.len()), (1, COMMIT_MAX_EVENTS));
    let rest = appended(&rig.wait(COMMIT_DELAY_MS));
    assert_eq!((rest[0].first, rest[0].events.len()), (batches[0].end(), 1));
    assert_eq!(acknowledged(&rig.durable(256)), [256], "the message that is still under way is not");
}

#[test]
fn rejected_messages_are_acknowledged_in_turn() {
    let mut rig = Rig::alone();
    assert_eq!(acknowledged(&rig.receive(vec![Err(rejection())])), [1], "nothing is before it");
    let effects = rig.receive(vec![Err(rejection()), Ok(reading(7)), Err(rejection())]);
    assert_eq!(acknowledged(&effects), [2], "the reading and what is behind it wait");
    assert_eq!(appended(&rig.wait(COMMIT_DELAY_MS)).len(), 1);
    assert_eq!(acknowledged(&rig.receive(vec![Err(rejection())])), [0_u64; 0], "the reading is on its way to the disk");
    assert_eq!(acknowledged(&rig.durable(1)), [5]);
    assert_eq!(rig.core.status().rejected, [("not_json".to_owned(), 4)]);
    assert_eq!(rig.ledger().accepted, 1);
}

#[test]
fn a_redelivered_message_is_dropped_and_counted_the_same_content_sent_twice_is_not() {
    let mut rig = Rig::alone();
    let again = NewReading { may_be_redelivered: true, ..reading(7) };
    let effects = rig.receive(vec![Ok(reading(7)), Ok(again.clone()), Ok(reading(7))]);
    assert_eq!(acknowledged(&effects), [0_u64; 0]);
    assert_eq!(appended(&rig.wait(COMMIT_DELAY_MS))[0].events.len(), 2);
    assert_eq!((rig.ledger().accepted, rig.ledger().duplicates), (2, 1));
    assert_eq!(acknowledged(&rig.receive(vec![Ok(again)])), [0_u64; 0], "its reading is not durable yet");
    assert_eq!(acknowledged(&rig.durable(2)), [4]);
    assert_eq!((rig.ledger().accepted, rig.ledger().duplicates), (2, 2));
}

#[test]
fn a_name_given_by_the_producer_is_known_again_without_the_brokers_flag() {
    let mut rig = Rig::alone();
    let named = NewReading { named_by_producer: true, ..reading(7) };
    rig.receive(vec![Ok(named.clone()), Ok(named)]);
    assert_eq!((rig.ledger().accepted, rig.ledger().duplicates), (1, 1));
}

#[test]
fn a_message_that_was_durable_before_a_restart_is_known_again_and_acknowledged_at_once() {
    let past =
        Start { next: Sequence(2), pending: [(pump(), 2)].into(), recent_ids: vec![7, 8], spool_bytes: 100, ..start() };
    let mut rig = Rig::started(settings(), past).0;
    let again = NewReading { may_be_redelivered: true, ..reading(8) };
    assert_eq!(acknowledged(&rig.receive(vec![Ok(again)])), [1]);
    assert_eq!((rig.ledger().accepted, rig.ledger().duplicates), (2, 1));
    assert_eq!(rig.commit([9]).first, Sequence(2), "sequences go on");
}

#[test]
fn receipts_of_an_older_connection_stay_behind_those_of_the_newer_one() {
    let mut rig = Rig::alone();
    let newer = |number| Receipt { generation: 2, number };
    rig.commit([7]);
    let again = NewReading { may_be_redelivered: true, ..reading(7) };
    rig.handle(Event::Received(vec![Received { receipt: newer(1), content: Ok(again) }]));
    let effects = rig.durable(1);
    assert!(matches!(effects.as_slice(), [Effect::Acknowledge(receipt)] if *receipt == newer(1)));
    assert!(newer(1) > receipt(99));
}

#[test]
fn a_failed_append_is_tried_again_in_order_and_nothing_is_acknowledged_meanwhile() {
    let mut rig = Rig::alone();
    let batches = [rig.commit([1, 2]), rig.commit([3]), rig.commit([4])];
    // The disk took none: the first failed, and what is behind it must not take its place.
    for batch in batches.iter().rev() {
        assert!(rig.handle(Event::AppendFailed(batch.clone())).is_empty());
    }
    assert!(!rig.core.wants_messages());
    assert_eq!(acknowledged(&rig.receive(vec![Err(rejection()), Ok(reading(5))])), [0_u64; 0]);
    assert!(rig.wait(APPEND_RETRY_MS - 1).is_empty(), "what is new waits as well");
    let retried = rig.wait(1);
    let last = appended(&retried).pop().expect("the new one follows");
    assert_eq!(appended(&retried)[..3], batches);
    assert_eq!((last.first, last.end()), (Sequence(4), Sequence(5)));
    assert!(!rig.core.wants_messages(), "four commits are on their way");
    assert_eq!(acknowledged(&rig.durable(3)), [3]);
    assert_eq!(acknowledged(&rig.durable(5)), [6]);
    assert!(rig.core.is_flushed());
}

#[test]
fn while_commits_pile_up_no_message_is_wanted() {
    let mut rig = Rig::alone();
    for id in 0..COMMITS_IN_FLIGHT as u64 {
        assert!(rig.core.wants_messages());
        rig.commit([id]);
    }
    assert!(!rig.core.wants_messages());
    rig.receive(vec![Ok(reading(99))]);
    assert!(rig.wait(1_000).is_empty(), "what comes nevertheless waits for the disk");
    assert_eq!(rig.core.poll_timeout(), None, "and only the disk can change that");
    let effects = rig.durable(1);
    assert_eq!((acknowledged(&effects), appended(&effects).len()), (vec![1], 1));
}

#[test]
fn a_full_spool_takes_nothing_in_until_the_hub_made_room() {
    let mut rig = Rig::started(Settings { spool_max_bytes: 1_000, ..settings() }, start()).0;
    rig.connect(0);
    let batches = [rig.commit([1]), rig.commit([2, 3])];
    rig.durable(1);
    rig.handle(Event::SpoolRead(vec![spooled(&batches[0])]));
    assert_eq!(checkpoints(&rig.hub_acks(1)), [1]);
    rig.handle(Event::Durable { end: Sequence(3), spool_bytes: 1_000 });
    assert!(!rig.core.wants_messages());
    rig.handle(Event::SpoolRead(vec![spooled(&batches[1])]));
    assert_eq!(checkpoints(&rig.hub_acks(3)), [3], "few as they are, they are worth a checkpoint now");
    let effects = rig.handle(Event::Checkpointed { acked: Sequence(3) });
    assert!(matches!(effects.as_slice(), [Effect::Release(_)]));
    rig.handle(Event::Durable { end: Sequence(3), spool_bytes: 999 });
    assert!(rig.core.wants_messages());
}

#[test]
fn a_restarted_box_counts_on_from_its_checkpoint_and_what_lies_in_the_spool() {
    let checkpoint = Checkpoint { epoch: EPOCH, acked: Sequence(10), delivered: [(pump(), 6)].into() };
    let past = Start {
        next: Sequence(15),
        oldest: Sequence(2),
        checkpoint: Some(checkpoint),
        pending: [(pump(), 3)].into(),
        spool_bytes: 77,
        ..start()
    };
    let rig = Rig::started(settings(), past).0;
    assert_eq!((rig.ledger().accepted, rig.ledger().delivered), (9, 6));
    assert_eq!(rig.core.status().spool_bytes, 77);
}

#[test]
fn readings_beyond_what_inference_can_hold_are_delivered_without_a_prediction_and_counted() {
    let mut rig = Rig::alone();
    rig.receive(vec![Ok(reading(0))]);
    assert_eq!(rig.core.status().unanswered, [("no_model".to_owned(), 1)]);
    rig.handle(Event::ModelLoaded(model(1, b"a")));
    let in_flight = 2 * INFER_BATCH as u64;
    let first = rig.receive((0..in_flight).map(|id| Ok(reading(id))).collect());
    assert_eq!(asked(&first).len(), in_flight as usize);
    let rest = rig.receive((0..INFER_QUEUE as u64 + 5).map(|id| Ok(reading(id))).collect());
    assert!(asked(&rest).is_empty(), "two calls are under way");
    let unanswered = rig.core.status().unanswered;
    assert_eq!(unanswered, [("inference_overloaded".to_owned(), 5), ("no_model".to_owned(), 1)]);
    assert_eq!(rig.ledger().accepted, 1 + in_flight + INFER_QUEUE as u64 + 5);
}

#[test]
fn a_prediction_is_published_at_once_and_spooled_behind_its_reading() {
    let mut rig = Rig::alone();
    let served = model(3, b"a");
    rig.handle(Event::ModelLoaded(served.clone()));
    let questions = asked(&rig.receive(vec![Ok(reading(7))]));
    let effects = rig.answer(&served, questions);
    assert!(matches!(effects.as_slice(), [Effect::Publish(p)] if p[0].of == Sequence(0) && p[0].stream == pump()));
    let batch = &appended(&rig.wait(COMMIT_DELAY_MS))[0];
    let StoredEvent::Prediction(prediction) = &batch.events[1] else { panic!("a prediction") };
    assert_eq!((prediction.of, &batch.models[usize::from(prediction.model)]), (Sequence(0), &served.model));
    assert_eq!((rig.core.answered_count(), rig.ledger().accepted), (1, 1));
}

#[test]
fn shutdown_makes_durable_what_was_taken_in() {
    let mut rig = Rig::alone();
    rig.receive(vec![Ok(reading(1))]);
    let mut effects = Vec::new();
    rig.core.flush(&mut effects);
    assert_eq!(appended(&effects).len(), 1);
    assert!(!rig.core.is_flushed());
    rig.durable(1);
    assert!(rig.core.is_flushed());
}
