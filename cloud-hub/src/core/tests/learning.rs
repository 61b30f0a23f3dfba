//! When the hub sees drift, when it trains and on what.

use super::hub::Hub;
use super::support::{DRIFT_ROWS, MOVED, NORMAL, SEGMENT_ROWS, release};
use crate::core::retrain::curve::Curve;
use crate::core::retrain::{RunOutcome, RunState};

/// A hub with version 1 of both models, trained on normal readings.
fn in_service() -> Hub {
    Hub::new(vec![release("pump", 1, NORMAL, vec![]), release("fan", 1, NORMAL, vec![])])
}

/// A hub whose pump moved to another operating point, with where the new regime begins.
fn moved() -> (Hub, crate::core::ConnectionId, u64) {
    let mut hub = in_service();
    let connection = hub.connect("box-1", 0);
    hub.segments(connection, "pump/1", 3, 100, NORMAL);
    while hub.job("pump").is_some() {
        hub.refuse("pump", vec![]);
    }
    hub.readings(connection, "pump/1", 100, NORMAL, true);
    hub.readings(connection, "pump/1", 100, MOVED, true);
    let since = hub.regimes("pump").last().expect("one").0;
    assert!(since > 0);
    hub.pass();
    (hub, connection, since)
}

#[test]
fn drift_opens_a_regime_and_the_open_known_normal_segment_is_cut_there() {
    let mut hub = in_service();
    let connection = hub.connect("box-1", 0);
    hub.readings(connection, "pump/1", 200, NORMAL, true);
    assert!(hub.alarms().is_empty());
    assert_eq!(hub.known_normal("pump/1"), [(200, true)]);
    hub.readings(connection, "pump/1", 100, MOVED, true);
    let alarms = hub.alarms();
    assert!(matches!(alarms[..], [(_, true)]), "{alarms:?}");
    assert_eq!((alarms[0].0.rows, alarms[0].0.channels[0].channel.as_str()), (DRIFT_ROWS, "flow"));
    let segments = hub.known_normal("pump/1");
    let [(before, false), (after, true)] = segments[..] else { panic!("{segments:?}") };
    assert_eq!(before + after, 300);
    assert!((190..=215).contains(&before), "cut where the change was, not where it was noticed: {before}");
    let regimes = hub.core.observed().regimes(&super::support::model("pump"));
    assert_eq!(regimes.len(), 2);
    assert_eq!(regimes[1].because, "flow of pump/1 left what version 1 was trained on");
    assert_eq!(hub.regimes("fan"), [(0, false)], "another model's machines are not concerned");
}

#[test]
fn the_alarm_outlives_a_restart_is_not_raised_twice_and_ends_when_the_machine_is_back() {
    let (mut hub, connection, since) = moved();
    let raised_ms = hub.alarms()[0].0.raised_ms;
    hub.restart();
    let connection = hub.reconnect("box-1", connection);
    hub.readings(connection, "pump/1", 200, MOVED, true);
    let alarms = hub.alarms();
    assert!(matches!(alarms[..], [(alarm, true)] if alarm.raised_ms == raised_ms), "{alarms:?}");
    assert_eq!(hub.regimes("pump"), [(0, false), (since, false)]);
    hub.readings(connection, "pump/1", 300, NORMAL, true);
    assert!(matches!(hub.alarms()[..], [(_, false)]), "{:?}", hub.alarms());
    assert!(hub.shells.alarms.iter().all(|alarm| alarm.cleared_ms.is_some()));
}

#[test]
fn an_alarm_that_no_snapshot_holds_is_found_again_in_the_log_and_not_left_open_twice() {
    let mut hub = in_service();
    let connection = hub.connect("box-1", 0);
    hub.slow_compaction = true;
    hub.readings(connection, "pump/1", 100, NORMAL, true);
    hub.readings(connection, "pump/1", 100, MOVED, true);
    let before = (hub.known_normal("pump/1"), hub.regimes("pump"), hub.shells.alarms.clone());
    assert_eq!(before.1.len(), 2);
    hub.restart();
    assert_eq!((hub.known_normal("pump/1"), hub.regimes("pump"), hub.shells.alarms.clone()), before);
    assert!(matches!(hub.alarms()[..], [(_, true)]));
}

#[test]
fn a_released_version_ends_the_alarms_against_older_ones_and_watches_its_own_streams_anew() {
    let (mut hub, connection, since) = moved();
    hub.readings(connection, "fan/1", 100, MOVED, true);
    assert_eq!(hub.alarms().iter().filter(|(_, up)| *up).count(), 2);
    hub.segments(connection, "pump/1", 3, 60, MOVED);
    hub.release("pump", since, MOVED, vec![0]);
    assert_eq!(hub.alarms().iter().filter(|(_, up)| *up).count(), 2, "no box answers with it yet");
    hub.adopt(connection, "pump");
    let up: Vec<_> = hub.alarms().iter().filter(|(_, up)| *up).map(|(a, _)| a.stream.as_str().to_owned()).collect();
    assert_eq!(up, ["fan/1"], "the fan still is where its model does not know it");
    let watched: Vec<_> =
        hub.core.observed().watches().map(|((_, stream), watch)| (stream.as_str(), watch.is_raised())).collect();
    assert_eq!(watched, [("fan/1", true)], "the pump's watch begins anew, the fan's goes on");
    hub.readings(connection, "pump/1", 200, MOVED, true);
    assert_eq!(hub.alarms().len(), 2, "this is what version 2 was trained on");
    let against = hub.core.observed().watches().find(|((_, stream), _)| stream.as_str() == "pump/1").expect("watched");
    assert_eq!(against.1.version().0, 2);
}

#[test]
fn the_first_version_is_made_when_a_person_asks_for_it() {
    let mut hub = Hub::new(vec![]);
    let connection = hub.connect("box-1", 0);
    hub.segments(connection, "pump/1", 3, 100, NORMAL);
    hub.readings(connection, "pump/1", 50, NORMAL, true);
    assert!(hub.job("pump").is_none(), "there is no version to be replaced");
    hub.request("pump");
    let job = hub.job("pump").expect("a run");
    assert_eq!((job.trigger.as_str(), job.version.0, job.champion), ("requested by Ada", 1, None));
    let rows: Vec<u64> = job.selections[0].segments.iter().map(|range| range.rows).collect();
    assert_eq!(rows, [100, 100, 100, 50], "a person also wants the segment that still grows");
    hub.request("pump");
    hub.release("pump", 0, NORMAL, vec![]);
    assert_eq!(hub.champion("pump").map(|version| version.0), Some(1));
    assert_eq!(hub.job("pump").map(|job| job.run), Some(2), "asked for while the first ran: one after the other");
}

#[test]
fn retraining_waits_until_its_data_is_in_the_sample_store() {
    let mut hub = Hub::new(vec![]);
    let connection = hub.connect("box-1", 0);
    hub.compact();
    hub.slow_compaction = true;
    hub.segments(connection, "pump/1", 1, 100, NORMAL);
    hub.request("pump");
    assert!(hub.job("pump").is_none() && !hub.core.retraining().is_idle(), "it waits");
    // The compaction under way began too early to hold everything; another follows.
    hub.compact();
    hub.compact();
    let job = hub.job("pump").expect("a run");
    assert_eq!(job.selections[0].segments[0].rows, 100);
}

#[test]
fn short_segments_do_not_count() {
    let mut hub = Hub::new(vec![]);
    let connection = hub.connect("box-1", 0);
    hub.segments(connection, "pump/1", 1, SEGMENT_ROWS - 1, NORMAL);
    hub.segments(connection, "pump/1", 1, SEGMENT_ROWS, NORMAL);
    hub.request("pump");
    let job = hub.job("pump").expect("a run");
    assert_eq!(job.selections[0].segments.iter().map(|range| range.rows).collect::<Vec<_>>(), [SEGMENT_ROWS]);
}

#[test]
fn more_known_normal_readings_call_for_a_run_once_they_have_grown_by_the_share_the_recipe_says() {
    let mut hub = Hub::new(vec![]);
    let connection = hub.connect("box-1", 0);
    hub.segments(connection, "pump/1", 3, 100, NORMAL);
    hub.request("pump");
    hub.release("pump", 0, NORMAL, vec![]);
    hub.segments(connection, "pump/1", 1, 29, NORMAL);
    assert!(hub.job("pump").is_none(), "329 of 300 is not 10 % more");
    hub.segments(connection, "pump/1", 1, 20, NORMAL);
    let job = hub.job("pump").expect("a run");
    assert_eq!((job.trigger.as_str(), job.version.0), ("new known-normal readings", 2));
    hub.refuse("pump", vec![]);
    hub.restart();
    assert!(hub.job("pump").is_none(), "a restart is no reason");
}

#[test]
fn drift_calls_for_a_run_of_the_new_regime_and_of_everything() {
    let (mut hub, connection, since) = moved();
    hub.segments(connection, "pump/1", 1, 60, MOVED);
    let job = hub.job("pump").expect("a run");
    assert_eq!(job.trigger, "drift: flow of pump/1 left what version 1 was trained on");
    let starts: Vec<u64> = job.selections.iter().map(|selection| selection.since_position).collect();
    assert_eq!(starts, [0, since], "most data first");
    assert!(job.selections[0].segments.len() > job.selections[1].segments.len());
    hub.segments(connection, "pump/1", 1, 60, MOVED);
    assert_eq!(hub.job("pump").map(|same| same.run), Some(job.run), "one run at a time");
    hub.refuse("pump", vec![]);
    assert!(hub.job("pump").is_some_and(|next| next.trigger.starts_with("drift: ")), "with what came meanwhile");
    hub.refuse("pump", vec![]);
    hub.restart();
    assert!(hub.job("pump").is_none(), "a restart is no reason");
}

#[test]
fn a_regime_that_is_served_is_no_drift_any_more_also_after_a_restart() {
    let (mut hub, connection, since) = moved();
    hub.segments(connection, "pump/1", 3, 60, MOVED);
    while hub.job("pump").is_some_and(|job| job.selections.last().is_some_and(|last| last.segments.len() < 3)) {
        hub.refuse("pump", vec![]);
    }
    hub.release("pump", since, MOVED, vec![0]);
    assert!(hub.job("pump").is_none());
    hub.restart();
    let connection = hub.reconnect("box-1", connection);
    assert_eq!(hub.champion("pump").map(|version| version.0), Some(1), "it is still being rolled out");
    assert!(hub.job("pump").is_none(), "a restart is no reason");
    hub.segments(connection, "pump/1", 1, 100, MOVED);
    let job = hub.job("pump").expect("a run");
    assert_eq!(job.trigger, "new known-normal readings");
}

#[test]
fn a_blind_selection_is_not_tried_again_also_when_the_hub_is_killed_right_after() {
    let (mut hub, connection, since) = moved();
    hub.segments(connection, "pump/1", 1, 60, MOVED);
    let log = hub.shells.log.len();
    hub.refuse("pump", vec![0]);
    assert_eq!(hub.regimes("pump"), [(0, true), (since, false)]);
    assert!(hub.shells.has_saved_verdicts() && hub.shells.log.len() == log, "saved, although no batch came");
    hub.restart();
    assert_eq!(hub.regimes("pump"), [(0, true), (since, false)]);
    let connection = hub.reconnect("box-1", connection);
    hub.segments(connection, "pump/1", 1, 60, MOVED);
    let job = hub.job("pump").expect("a run");
    assert_eq!(job.selections.iter().map(|selection| selection.since_position).collect::<Vec<_>>(), [since]);
}

#[test]
fn a_run_that_broke_says_why_and_changes_nothing() {
    let mut hub = Hub::new(vec![]);
    hub.request("pump");
    let failure = Some("train: stopped".to_owned());
    hub.end(
        "pump",
        RunOutcome { candidates: vec![], blind_since: vec![], released: None, failure, curve: Curve::default() },
    );
    let states: Vec<&RunState> = hub.core.retraining().runs().map(|run| &run.state).collect();
    assert_eq!(states, [&RunState::Failed { reason: "train: stopped".to_owned() }]);
    assert!(hub.core.retraining().is_idle() && hub.champion("pump").is_none());
}

#[test]
fn what_a_person_asked_for_goes_on_after_the_hub_was_killed_and_only_once() {
    let mut hub = Hub::new(vec![]);
    let connection = hub.connect("box-1", 0);
    hub.segments(connection, "pump/1", 3, 100, NORMAL);
    hub.request("pump");
    let before = hub.job("pump").expect("a run");
    hub.compact();
    hub.restart();
    let job = hub.job("pump").expect("the same again");
    assert_eq!((&job.trigger, &job.selections, job.run), (&before.trigger, &before.selections, before.run + 1));
    hub.release("pump", 0, NORMAL, vec![]);
    hub.restart();
    assert!(hub.job("pump").is_none() && hub.core.retraining().is_idle(), "it is done");
    hub.request("pump");
    let starts = (0..20).take_while(|_| {
        hub.restart();
        hub.job("pump").is_some()
    });
    assert_eq!(starts.count(), 10, "it may be the training that ends the hub");
}

#[test]
fn a_cohort_has_a_model_of_its_own_and_others_are_not_concerned_when_its_machines_move() {
    let mut hub = Hub::with_cohort(vec![release("pump", 1, NORMAL, vec![]), release("north-pump", 1, NORMAL, vec![])]);
    let north = hub.connect("north-1", 0);
    let (south, fan) = (hub.connect("south-1", 0), hub.connect("south-2", 0));
    let offered = |hub: &mut Hub, connection| {
        hub.offers(connection).iter().map(|offer| offer.model.to_string()).collect::<Vec<_>>()
    };
    assert_eq!(offered(&mut hub, north), ["north-pump"], "the first of its cohort, as long as it measures nothing");
    assert_eq!((offered(&mut hub, south), offered(&mut hub, fan)), (vec!["pump".into()], vec!["pump".into()]));
    hub.readings(fan, "fan/1", 10, NORMAL, true);
    hub.readings(south, "pump/1", 200, NORMAL, true);
    hub.readings(north, "pump/1", 100, NORMAL, true);
    hub.readings(north, "pump/1", 100, MOVED, true);
    let alarms = hub.alarms();
    assert_eq!(alarms.len(), 1, "{alarms:?}");
    assert_eq!((alarms[0].0.model.as_str(), alarms[0].0.agent.as_str()), ("north-pump", "north-1"));
    assert_eq!((hub.regimes("north-pump").len(), hub.regimes("pump").len()), (2, 1));
    hub.segments(north, "pump/1", 1, 100, MOVED);
    let job = hub.job("north-pump").expect("a run");
    assert!(
        job.selections.iter().flat_map(|selection| &selection.segments).all(|range| range.agent.as_str() == "north-1")
    );
    assert!(hub.job("pump").is_none(), "nothing is trained for the others");
    hub.release("north-pump", 0, MOVED, vec![]);
    assert_eq!(offered(&mut hub, north), ["north-pump"]);
    assert!(offered(&mut hub, south).is_empty() && offered(&mut hub, fan).is_empty());
}
