//! What agents are told.

use shared::event::ModelRef;
use shared::ids::{Digest, Epoch, ModelVersion, Sequence};
use shared::wire::PROTOCOL_VERSION;
use shared::wire::message::{Hello, HubToEdge, ModelOffer, ModelOutcome, ModelReport, ServedModel};

use super::hub::Hub;
use super::shells::Outgoing;
use super::support::{NORMAL, agent, hello, lasting, model, release};
use crate::core::rollout::evidence::StageMode;
use crate::core::rollout::{RolloutRules, RolloutState, Stage};
use crate::core::{ConnectionId, Event};

fn plain() -> Hello {
    hello(Epoch(1), Sequence(0))
}

#[test]
fn identity_comes_with_the_connection_and_a_newer_connection_replaces_the_older_one() {
    let mut hub = Hub::new(vec![]);
    let older = hub.connect("box-1", 0);
    let other = hub.connect("box-2", 0);
    hub.send(older, 0, 5);
    let newer = hub.connect("box-1", 5);
    assert!(matches!(hub.heard(older).last(), Some(Outgoing::Closed)));
    assert!(!hub.heard(other).iter().any(|outgoing| matches!(outgoing, Outgoing::Closed)));
    hub.send(older, 5, 9);
    hub.send(newer, 5, 7);
    let senders: Vec<_> = hub.shells.log.iter().map(|(agent, batch)| (agent.as_str(), batch.first.0)).collect();
    assert_eq!(senders, [("box-1", 0), ("box-1", 5)], "what came over the replaced connection does not count");
    // The end of the older one is not the end of the agent.
    hub.tell(Event::Disconnected { connection: older });
    assert!(hub.facts("box-1").connected);
    hub.tell(Event::Disconnected { connection: newer });
    assert!(!hub.facts("box-1").connected);
}

#[test]
fn an_agent_that_speaks_another_protocol_is_refused_with_words() {
    let mut hub = Hub::new(vec![]);
    let connection = hub.greet("box-1", Hello { protocol: PROTOCOL_VERSION + 1, ..plain() });
    let expected = format!("the agent speaks protocol {}, the hub {PROTOCOL_VERSION}", PROTOCOL_VERSION + 1);
    assert_eq!(hub.refusal(connection), expected);
    assert!(hub.core.sessions().get(connection).is_none());
}

#[test]
fn a_copy_of_a_box_is_turned_away_and_its_original_goes_on() {
    let mut hub = Hub::new(vec![]);
    let original = hub.greet("box-1", Hello { boot_nonce: 1, ..plain() });
    hub.send(original, 0, 5);
    // The copy finds the hub ahead of it, and comes back in an epoch of its own; so would a box that was restored.
    let copy = hub.greet("box-1", Hello { boot_nonce: 2, epoch: Epoch(2), base: Sequence(3), ..plain() });
    assert!(matches!(hub.heard(original).last(), Some(Outgoing::Closed)));
    assert_eq!(hub.acked(copy), [3]);
    let original = hub.greet("box-1", Hello { boot_nonce: 1, base: Sequence(5), ..plain() });
    assert!(hub.facts("box-1").has_twin);
    let copy = hub.greet("box-1", Hello { boot_nonce: 2, epoch: Epoch(2), base: Sequence(3), ..plain() });
    let reason = hub.refusal(copy);
    assert!(
        reason.starts_with("this is a copy: another box is box-1 too, of epoch 1, and this one is of epoch 2"),
        "{reason}"
    );
    hub.heard(original);
    hub.send(original, 5, 9);
    assert_eq!(hub.acked(original), [9], "its connection was left alone");
}

#[test]
fn a_greeting_says_what_the_hub_has_last_and_under_which_epochs() {
    let mut hub = Hub::new(vec![]);
    let first = hub.connect("box-1", 0);
    hub.send(first, 0, 5);
    let mark = hub.shells.log[0].1.clone();
    let mark = shared::event::SpoolEntry::Events(mark).mark();
    hub.restart();
    let second = hub.connect("box-1", 0);
    let welcome = HubToEdge::Welcome { next: Sequence(5), mark, newest_epoch: Epoch(1), time_ms: hub.now };
    assert!(matches!(&hub.heard(second)[..], [Outgoing::Message(message)] if *message == welcome));
    let raised = hub.greet("box-1", Hello { epoch: Epoch(4), base: Sequence(2), ..plain() });
    let welcome = HubToEdge::Welcome { next: Sequence(2), mark: None, newest_epoch: Epoch(4), time_ms: hub.now };
    assert!(matches!(&hub.heard(raised)[..], [Outgoing::Message(message)] if *message == welcome));
}

#[test]
fn events_before_a_greeting_of_another_epoch_or_after_a_hole_are_refused() {
    let mut hub = Hub::new(vec![]);
    let silent = ConnectionId(900);
    hub.tell(Event::Connected { connection: silent, agent: agent("box-0"), certificate: lasting() });
    hub.send(silent, 0, 5);
    assert_eq!(hub.refusal(silent), "events before a greeting");
    let other_epoch = hub.greet("box-1", Hello { epoch: Epoch(2), ..plain() });
    hub.send(other_epoch, 0, 5);
    assert_eq!(hub.refusal(other_epoch), "events of epoch 1, the greeting said 2");
    let hole = hub.connect("box-2", 0);
    hub.send(hole, 0, 5);
    hub.send(hole, 6, 9);
    assert_eq!(hub.refusal(hole), "events from 6, expected is 5: some are missing");
    assert_eq!(hub.shells.log.len(), 1);
}

#[test]
fn a_greeting_waits_for_what_an_older_connection_brought() {
    let mut hub = Hub::new(vec![]);
    hub.slow_disk = true;
    let first = hub.connect("box-1", 3);
    hub.send(first, 3, 8);
    assert_eq!(hub.acked(first), [3]);
    // What is on its way is neither durable nor unknown: the agent must hear neither.
    let second = hub.connect("box-1", 3);
    assert_eq!(hub.acked(second), [] as [u64; 0]);
    hub.sync();
    assert_eq!(hub.acked(second), [8]);
    hub.send(second, 8, 10);
    hub.sync();
    assert_eq!(hub.acked(second), [10]);
    let events: usize = hub.shells.log.iter().map(|(_, batch)| batch.events.len()).sum();
    assert_eq!(events, 7);
}

#[test]
fn when_the_disk_refuses_everyone_is_asked_to_come_back_and_nothing_is_lost() {
    let mut hub = Hub::new(vec![]);
    hub.slow_disk = true;
    let first = hub.connect("box-1", 0);
    hub.send(first, 0, 5);
    hub.send(first, 5, 9);
    hub.shells.fail(1);
    hub.sync();
    assert_eq!(hub.refusal(first), "the hub's disk failed; try again");
    let second = hub.connect("box-1", 5);
    assert_eq!(hub.acked(second), [5]);
    hub.send(second, 5, 9);
    hub.sync();
    assert_eq!(hub.acked(second), [9]);
    assert_eq!(hub.core.positions().0, 2);
}

#[test]
fn a_pinned_agent_is_offered_its_version_only_and_others_the_newest() {
    let mut hub = Hub::new(vec![release("pump", 1, NORMAL, vec![]), release("pump", 2, NORMAL, vec![])]);
    let pinned = hub.greet("box-1", Hello { pinned: Some(ModelVersion(1)), ..plain() });
    let free = hub.connect("box-2", 0);
    let impossible = hub.greet("box-3", Hello { pinned: Some(ModelVersion(7)), ..plain() });
    let offered = |hub: &mut Hub, connection| hub.offers(connection).iter().map(|o| o.version.0).collect::<Vec<_>>();
    assert_eq!(offered(&mut hub, pinned), [1]);
    assert_eq!(offered(&mut hub, free), [2]);
    assert_eq!(offered(&mut hub, impossible), [] as [u32; 0]);
    hub.request("pump");
    hub.release("pump", 0, NORMAL, vec![]);
    assert_eq!(offered(&mut hub, pinned), [] as [u32; 0], "it was offered over this connection");
    assert_eq!(offered(&mut hub, free), [3]);
}

#[test]
fn a_rollout_goes_on_after_a_restart_and_a_failure_takes_it_back() {
    let stage = |percent| Stage { percent, boxes: vec![], soak_ms: 1_000, approval: false, mode: StageMode::Serve };
    let mut hub = Hub::new(vec![release("pump", 1, NORMAL, vec![])]);
    hub.shells.rules =
        Some(RolloutRules { stages: vec![stage(10), stage(100)], min_answers: 0, ..RolloutRules::default() });
    hub.restart();
    let names = ["box-1", "box-2", "box-3", "box-4"];
    let greet = |hub: &mut Hub| names.map(|name| hub.connect(name, 0));
    let offered = |hub: &mut Hub, all: [ConnectionId; 4]| {
        all.map(|connection| hub.offers(connection).last().map(|offer| offer.version.0))
    };
    let all = greet(&mut hub);
    all.iter().for_each(|connection| hub.adopt(*connection, "pump"));
    offered(&mut hub, all);
    hub.request("pump");
    hub.release("pump", 0, NORMAL, vec![]);
    hub.tell(Event::Tick);
    let first = offered(&mut hub, all);
    assert_eq!(first.iter().filter(|offer| **offer == Some(2)).count(), 1, "{first:?}");
    let canary = first.iter().position(Option::is_some).expect("one");
    // Another hub process offers the same box the same version, and no other.
    hub.restart();
    let all = greet(&mut hub);
    hub.tell(Event::Tick);
    let again = offered(&mut hub, all);
    let wanted: Vec<_> = (0..4).map(|index| if index == canary { Some(2) } else { Some(1) }).collect();
    assert_eq!(again.to_vec(), wanted);
    hub.adopt(all[canary], "pump");
    hub.now += 2_000;
    hub.tell(Event::Tick);
    assert_eq!(offered(&mut hub, all).iter().filter(|offer| **offer == Some(2)).count(), 3, "the rest of them");
    let served = hub.core.registry().versions(&model("pump")).last().expect("two").offer().served();
    let reason = "3 answers were no numbers".to_owned();
    let report =
        ModelReport { model: served.model, digest: served.digest, outcome: ModelOutcome::RolledBack { reason } };
    hub.tell(Event::ModelReport { connection: all[canary], report });
    let back = offered(&mut hub, all);
    assert_eq!(back, [Some(1); 4]);
    assert_eq!(hub.champion("pump").map(|version| version.0), Some(1));
    hub.restart();
    let states: Vec<_> = hub.core.registry().rollouts().map(|rollout| rollout.state).collect();
    assert_eq!(states, [RolloutState::RolledBack], "it is not tried again");
}

#[test]
fn an_agent_is_not_offered_what_it_serves() {
    let one = release("pump", 1, NORMAL, vec![]);
    let served = ServedModel { model: ModelRef { name: one.model.clone(), version: one.version }, digest: one.digest };
    let mut hub = Hub::new(vec![one]);
    let serving = hub.greet("box-1", Hello { serving: Some(served.clone()), ..plain() });
    assert!(hub.offers(serving).is_empty());
    let starting = hub.connect("box-2", 0);
    assert_eq!(hub.offers(starting).len(), 1);
    let report = ModelReport { model: served.model.clone(), digest: served.digest, outcome: ModelOutcome::Serving };
    hub.tell(Event::ModelReport { connection: starting, report });
    assert_eq!(hub.facts("box-2").hello.serving, Some(served));
}

#[test]
fn what_was_signed_by_more_is_offered_again_to_whoever_does_not_serve_it() {
    let one = release("pump", 1, NORMAL, vec![]);
    let served = ServedModel { model: ModelRef { name: one.model.clone(), version: one.version }, digest: one.digest };
    let mut hub = Hub::new(vec![one.clone()]);
    let serving = hub.greet("box-1", Hello { serving: Some(served.clone()), ..plain() });
    let refusing = hub.connect("box-2", 0);
    assert_eq!(hub.offers(refusing), [one.offer()]);
    let outcome = ModelOutcome::Refused { reason: "it is not signed by a trusted key".to_owned() };
    let report = ModelReport { model: served.model, digest: served.digest, outcome };
    hub.tell(Event::ModelReport { connection: refusing, report });
    assert!(hub.offers(refusing).is_empty());
    let (model, version, bytes) = (one.model.clone(), one.version, one.bytes + 104);
    hub.tell(Event::Signed { model, version, bytes });
    assert_eq!(hub.offers(refusing), [ModelOffer { bytes, ..one.offer() }]);
    assert!(hub.offers(serving).is_empty());
}

#[test]
fn a_package_nobody_released_is_refused() {
    let one = release("pump", 1, NORMAL, vec![]);
    let (known, unknown) = (one.digest, Digest::of(b"something else"));
    let mut hub = Hub::new(vec![one]);
    let connection = hub.connect("box-1", 0);
    hub.tell(Event::Fetch { connection, digest: known, offset: 0, base: None });
    assert!(hub.core.sessions().get(connection).is_some());
    hub.tell(Event::Fetch { connection, digest: unknown, offset: 0, base: None });
    assert_eq!(hub.refusal(connection), format!("there is no package {unknown}"));
}
