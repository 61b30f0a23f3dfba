//! The conversation with the hub.

use shared::ids::Sequence;
use shared::limits::MAX_BATCHES_IN_FLIGHT;
use shared::wire::PROTOCOL_VERSION;
use shared::wire::message::{EdgeToHub, Hello, HubToEdge};

use super::rig::{
    EPOCH, Rig, checkpoints, dials, hangs_up, model, pump, reads, said, sent, settings, spooled, start, welcome,
};
use crate::core::limits::{
    ACK_TIMEOUT_MS, BACKOFF_FIRST_MS, BACKOFF_LONGEST_MS, CHECKPOINT_EVENTS, GREETING_TIMEOUT_MS, READ_RETRY_MS,
    RECENT_EVENTS, STABLE_AFTER_MS, STATUS_INTERVAL_MS,
};
use crate::core::{Checkpoint, Effect, Event, Millis, Settings, Start};

/// A box whose hub, when last heard of, had everything before 10, and whose spool ends at 15.
fn restarted() -> (Rig, Vec<Effect>) {
    let checkpoint = Checkpoint { epoch: EPOCH, acked: Sequence(10), delivered: [(pump(), 10)].into() };
    let past = Start { next: Sequence(15), checkpoint: Some(checkpoint), pending: [(pump(), 5)].into(), ..start() };
    Rig::started(settings(), past)
}

/// A box with the single readings of `ids` durable, each in a commit of its own.
fn with_commits(rig: &mut Rig, ids: std::ops::Range<u64>) -> Vec<shared::event::EventBatch> {
    ids.map(|id| {
        let batch = rig.commit([id]);
        rig.durable(batch.end().0);
        batch
    })
    .collect()
}

#[test]
fn a_box_dials_says_who_it_is_and_sends_nothing_before_the_greeting() {
    let (mut rig, effects) = restarted();
    assert!(dials(&effects));
    let effects = rig.handle(Event::LinkUp);
    let hello = Hello {
        protocol: PROTOCOL_VERSION,
        agent_version: "0.0.0".to_owned(),
        epoch: EPOCH,
        boot_nonce: 1,
        oldest: Sequence(10),
        serving: None,
        pinned: None,
        device: "flex".to_owned(),
    };
    assert_eq!(said(&effects), [EdgeToHub::Hello(hello)]);
    assert_eq!(effects.len(), 1);
    assert!(!rig.core.is_connected());
    assert_eq!(reads(&rig.hub(welcome(10))), [(10, MAX_BATCHES_IN_FLIGHT)]);
    assert!(rig.core.is_connected());
}

#[test]
fn a_box_without_a_hub_dials_none() {
    let mut rig = Rig::alone();
    assert_eq!(rig.core.poll_timeout(), None);
    assert!(rig.wait(1_000_000).is_empty());
}

#[test]
fn the_hubs_ack_moves_the_ledger() {
    let mut rig = Rig::connected();
    let batches = with_commits(&mut rig, 0..2);
    assert_eq!((rig.ledger().accepted, rig.ledger().delivered), (2, 0));
    let effects = rig.handle(Event::SpoolRead(batches.iter().map(spooled).collect()));
    assert_eq!(sent(&effects), [(0, 1), (1, 1)]);
    assert_eq!(rig.ledger().delivered, 0, "sent is not delivered");
    assert_eq!(checkpoints(&rig.hub_acks(1)), [1]);
    assert_eq!((rig.ledger().accepted, rig.ledger().delivered), (2, 1));
    rig.hub_acks(2);
    rig.hub_acks(1);
    assert_eq!(rig.ledger().delivered, 2, "a late ack takes nothing back");
}

#[test]
fn no_more_batches_are_under_way_than_the_window_holds() {
    let mut rig = Rig::connected();
    let batches = with_commits(&mut rig, 0..MAX_BATCHES_IN_FLIGHT as u64 + 3);
    let (window, rest) = batches.split_at(MAX_BATCHES_IN_FLIGHT);
    let effects = rig.handle(Event::SpoolRead(window.iter().map(spooled).collect()));
    assert_eq!((sent(&effects).len(), reads(&effects)), (MAX_BATCHES_IN_FLIGHT, vec![]));
    let effects = rig.hub_acks(2);
    assert_eq!(reads(&effects), [(MAX_BATCHES_IN_FLIGHT as u64, 2)]);
    assert!(reads(&rig.hub_acks(3)).is_empty(), "one read at a time");
    assert_eq!(sent(&rig.handle(Event::SpoolRead(rest[..2].iter().map(spooled).collect()))), [(8, 1), (9, 1)]);
}

#[test]
fn a_hub_that_is_ahead_of_the_checkpoint_after_a_restart_is_believed_and_not_sent_twice() {
    let mut before = Rig::connected();
    let batches: Vec<_> = [0..10, 10..12, 12..13, 13..15].map(|ids| before.commit(ids)).into();
    let (mut rig, _) = restarted();
    assert_eq!((rig.ledger().accepted, rig.ledger().delivered), (15, 10));
    assert_eq!(reads(&rig.connect(13)), [(10, MAX_BATCHES_IN_FLIGHT)]);
    let effects = rig.handle(Event::SpoolRead(batches[1..].iter().map(spooled).collect()));
    assert_eq!(sent(&effects), [(13, 2)]);
    assert_eq!((rig.ledger().accepted, rig.ledger().delivered), (15, 13));
    rig.hub_acks(15);
    assert_eq!(rig.ledger().delivered, 15);
}

#[test]
fn a_batch_the_hub_has_a_part_of_is_sent_whole() {
    let mut before = Rig::connected();
    let batch = {
        before.commit(0..10);
        before.commit(10..15)
    };
    let (mut rig, _) = restarted();
    rig.connect(12);
    assert_eq!(sent(&rig.handle(Event::SpoolRead(vec![spooled(&batch)]))), [(10, 5)], "the hub trims");
}

#[test]
fn a_hub_that_lost_data_and_one_that_knows_the_future_are_told_apart() {
    let (mut rig, _) = restarted();
    assert!(hangs_up(&rig.connect(16)));
    assert_eq!(
        rig.core.hub_problem(),
        Some("the hub has events up to 16 of epoch 7, this spool ends at 15: its disk was restored or copied")
    );
    assert!(!rig.core.is_connected());
    rig.handle(Event::LinkDown);
    assert!(hangs_up(&rig.connect(9)));
    assert_eq!(
        rig.core.hub_problem(),
        Some("the hub acknowledged events up to 10 of epoch 7 and now has them only up to 9: its data was lost")
    );
    rig.handle(Event::LinkDown);
    rig.connect(10);
    assert_eq!(rig.core.hub_problem(), None, "a hub that is itself again is followed again");
}

#[test]
fn a_hub_that_acknowledges_what_this_connection_did_not_carry_is_hung_up_on() {
    let mut rig = Rig::connected();
    let batches = with_commits(&mut rig, 0..2);
    rig.handle(Event::SpoolRead(vec![spooled(&batches[0])]));
    assert!(hangs_up(&rig.hub_acks(2)));
    assert_eq!(rig.core.hub_problem(), Some("the hub acknowledged up to 2, sent was up to 1"));
    assert_eq!(rig.ledger().delivered, 0);
}

#[test]
fn an_ack_for_another_epoch_moves_nothing() {
    let mut rig = Rig::connected();
    let batches = with_commits(&mut rig, 0..1);
    rig.handle(Event::SpoolRead(batches.iter().map(spooled).collect()));
    let epoch = shared::ids::Epoch(EPOCH.0 - 1);
    assert!(rig.hub(HubToEdge::Acked { epoch, next: Sequence(1) }).is_empty());
    assert_eq!(rig.ledger().delivered, 0);
}

#[test]
fn after_a_lost_connection_everything_unacknowledged_is_sent_again() {
    let mut rig = Rig::connected();
    let batches = with_commits(&mut rig, 0..3);
    rig.handle(Event::SpoolRead(batches.iter().map(spooled).collect()));
    rig.hub_acks(1);
    rig.handle(Event::LinkDown);
    assert!(!rig.core.is_connected());
    assert_eq!(reads(&rig.connect(1)), [(1, MAX_BATCHES_IN_FLIGHT)]);
    assert_eq!(sent(&rig.handle(Event::SpoolRead(batches[1..].iter().map(spooled).collect()))), [(1, 1), (2, 1)]);
    rig.hub_acks(3);
    assert_eq!((rig.ledger().accepted, rig.ledger().delivered), (3, 3));
}

#[test]
fn what_an_earlier_connection_read_leaves_no_hole_in_the_next_one() {
    let mut rig = Rig::connected();
    let batches = with_commits(&mut rig, 0..3);
    rig.handle(Event::SpoolRead(vec![spooled(&batches[0])]));
    rig.handle(Event::LinkDown);
    assert!(reads(&rig.connect(0)).is_empty(), "a read from 1 on is still under way");
    let effects = rig.handle(Event::SpoolRead(batches[1..].iter().map(spooled).collect()));
    assert_eq!((sent(&effects), reads(&effects)), (vec![], vec![(0, MAX_BATCHES_IN_FLIGHT)]));
    let effects = rig.handle(Event::SpoolRead(batches.iter().map(spooled).collect()));
    assert_eq!(sent(&effects), [(0, 1), (1, 1), (2, 1)]);
}

#[test]
fn a_spool_that_cannot_be_read_is_tried_again_after_a_while() {
    let mut rig = Rig::connected();
    let batches = with_commits(&mut rig, 0..1);
    assert!(reads(&rig.handle(Event::SpoolRead(Vec::new()))).is_empty());
    assert!(rig.core.poll_timeout().is_some_and(|at| at <= rig.now.plus(READ_RETRY_MS)));
    assert_eq!(reads(&rig.wait(READ_RETRY_MS)), [(0, MAX_BATCHES_IN_FLIGHT)]);
    assert_eq!(sent(&rig.handle(Event::SpoolRead(vec![spooled(&batches[0])]))), [(0, 1)]);
}

#[test]
fn waits_between_attempts_grow_to_their_cap_and_are_short_again_after_a_stable_connection() {
    let (mut rig, _) = Rig::started(settings(), start());
    let wait_after_failure = |rig: &mut Rig| {
        let effects = rig.handle(Event::LinkDown);
        let wait = rig.core.poll_timeout().map_or(0, |at| at.0 - rig.now.0);
        assert_eq!(dials(&effects) || dials(&rig.wait(wait)), true);
        wait
    };
    let waits: Vec<u64> = (0..60).map(|_| wait_after_failure(&mut rig)).collect();
    assert!(waits[0] <= BACKOFF_FIRST_MS && waits[1] <= 2 * BACKOFF_FIRST_MS, "{waits:?}");
    assert!(waits.iter().any(|wait| *wait > BACKOFF_LONGEST_MS / 2), "{waits:?}");
    assert!(waits.iter().all(|wait| *wait <= BACKOFF_LONGEST_MS), "{waits:?}");
    rig.connect(0);
    rig.wait(STABLE_AFTER_MS);
    assert!(wait_after_failure(&mut rig) <= BACKOFF_FIRST_MS);
}

#[test]
fn a_connection_that_breaks_at_once_does_not_make_the_waits_short_again() {
    let (mut rig, _) = Rig::started(settings(), start());
    let mut longest = 0;
    for _ in 0..40 {
        rig.connect(0);
        rig.handle(Event::LinkDown);
        let until = rig.core.poll_timeout().unwrap_or(rig.now);
        longest = longest.max(until.0 - rig.now.0);
        rig.now = until;
        rig.handle(Event::Tick);
    }
    assert!(longest > BACKOFF_LONGEST_MS / 2);
}

#[test]
fn a_refusal_is_shown_and_the_hub_is_tried_again_when_it_said() {
    let mut rig = Rig::connected();
    let refused = HubToEdge::Refused { reason: "it is full".to_owned(), retry_after_ms: 7_000 };
    assert!(hangs_up(&rig.hub(refused)));
    assert_eq!(rig.core.hub_problem(), Some("the hub refuses this agent: it is full"));
    rig.handle(Event::LinkDown);
    assert_eq!(rig.core.poll_timeout(), Some(Millis(7_000)));
    assert!(!dials(&rig.wait(6_999)) && dials(&rig.wait(1)));
    let never = HubToEdge::Refused { reason: "go away".to_owned(), retry_after_ms: u64::MAX };
    rig.hub(never);
    rig.handle(Event::LinkDown);
    assert_eq!(
        rig.core.poll_timeout(),
        Some(rig.now.plus(BACKOFF_LONGEST_MS)),
        "but not later than it would be anyway"
    );
}

#[test]
fn a_hub_that_does_not_greet_is_hung_up_on_also_if_it_greets_in_the_end() {
    let (mut rig, _) = Rig::started(settings(), start());
    rig.handle(Event::LinkUp);
    assert!(!hangs_up(&rig.wait(GREETING_TIMEOUT_MS - 1)) && hangs_up(&rig.wait(1)));
    assert!(rig.hub(welcome(0)).is_empty());
    assert!(!rig.core.is_connected());
    assert_eq!(rig.core.hub_problem(), Some("the hub did not greet"));
}

#[test]
fn a_hub_that_greets_twice_is_hung_up_on() {
    let mut rig = Rig::connected();
    assert!(hangs_up(&rig.hub(welcome(0))));
    assert_eq!(rig.core.hub_problem(), Some("the hub greeted twice"));
}

#[test]
fn a_hub_that_stops_acknowledging_is_hung_up_on() {
    let mut rig = Rig::connected();
    let batches = with_commits(&mut rig, 0..2);
    rig.handle(Event::SpoolRead(batches.iter().map(spooled).collect()));
    rig.wait(ACK_TIMEOUT_MS - 1);
    rig.hub_acks(1);
    assert!(!hangs_up(&rig.wait(ACK_TIMEOUT_MS - 1)), "an ack begins the wait anew");
    assert!(hangs_up(&rig.wait(1)));
    assert_eq!(rig.core.hub_problem(), Some("the hub stopped acknowledging"));
    let mut idle = Rig::connected();
    assert!(!hangs_up(&idle.wait(10 * ACK_TIMEOUT_MS)), "with nothing under way there is nothing to acknowledge");
}

#[test]
fn the_hub_hears_how_the_box_is_once_a_second_while_connected() {
    let statuses = |effects: &[Effect]| {
        effects.iter().filter(|effect| matches!(effect, Effect::Send(EdgeToHub::Status(_)))).count()
    };
    let (mut rig, _) = Rig::started(settings(), start());
    assert_eq!(statuses(&rig.connect(0)), 1);
    assert_eq!(statuses(&rig.wait(STATUS_INTERVAL_MS - 1)), 0);
    assert_eq!(statuses(&rig.wait(1)), 1);
    rig.handle(Event::LinkDown);
    assert_eq!(statuses(&rig.wait(STATUS_INTERVAL_MS)), 0);
}

#[test]
fn what_the_hub_has_is_given_back_only_after_a_durable_checkpoint_and_but_for_the_newest() {
    let mut rig = Rig::started(Settings { receive_maximum: 3_000, ..settings() }, start()).0;
    rig.connect(0);
    let mut effects = Vec::new();
    for first in (0..CHECKPOINT_EVENTS + 200).step_by(200) {
        let batch = rig.commit(first..first + 200);
        rig.durable(batch.end().0);
        effects.extend(rig.handle(Event::SpoolRead(vec![spooled(&batch)])));
        effects.extend(rig.hub_acks(batch.end().0));
    }
    assert_eq!(checkpoints(&effects), [200, 2_400]);
    assert!(!effects.iter().any(|effect| matches!(effect, Effect::Release(_))));
    let effects = rig.handle(Event::Checkpointed { acked: Sequence(10_000) });
    assert!(matches!(effects.as_slice(), [Effect::Release(Sequence(4_000))]), "two events for each message");
    let mut rig = Rig::connected();
    let effects = rig.handle(Event::Checkpointed { acked: Sequence(10_000) });
    assert!(matches!(effects.as_slice(), [Effect::Release(Sequence(before))] if *before == 10_000 - RECENT_EVENTS));
}

#[test]
fn the_hello_of_a_box_says_what_it_serves() {
    let (mut rig, _) = Rig::started(settings(), start());
    rig.handle(Event::ModelLoaded(model(2, b"a")));
    let hello = said(&rig.handle(Event::LinkUp)).remove(0);
    assert!(matches!(hello, EdgeToHub::Hello(hello) if hello.serving == Some(model(2, b"a"))));
}
