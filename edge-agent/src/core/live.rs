//! The live lane: while events wait in line for the hub, it is told beside the line what comes in now.
//!
//! A picture holds the newest of each stream that changed, alarms first, and takes a bounded share of the link: what is sent
//! here is sent again in its place. A box that keeps up sends none. What is newest is always noted, so that a lane which opens
//! shows also what came in before, perhaps from a sensor that speaks once an hour.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use shared::event::{ModelRef, Outcome, StreamSchema, UnixMillis};
use shared::ids::{Sequence, StreamId};
use shared::wire::live::{LivePicture, LivePrediction, LiveStream};

use super::Millis;
use super::limits::{LIVE_BYTES_PER_S, LIVE_INTERVAL_MS, LIVE_LAG_MS, LIVE_PICTURE_BYTES, LIVE_STREAMS};

/// What the hub is to see ahead of the backlog.
#[derive(Debug, Default)]
pub struct LiveLane {
    is_connected: bool,
    /// A sequence that was the next one to be given, and when.
    mark: Option<(Sequence, Millis)>,
    is_behind: bool,
    newest: BTreeMap<StreamId, Newest>,
    /// Streams that changed, the next to be shown first. One that has an alarm may stand in it twice.
    changed: VecDeque<StreamId>,
    /// No picture before this time.
    picture_at: Millis,
}

#[derive(Debug)]
struct Newest {
    schema: Arc<StreamSchema>,
    time_ms: UnixMillis,
    values: Vec<f64>,
    prediction: Option<LivePrediction>,
    alarm: Option<LivePrediction>,
    has_changed: bool,
}

impl LiveLane {
    /// Whether the hub is shown what comes in.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.is_behind && self.is_connected
    }

    /// The newest reading of each stream.
    pub fn newest(&self) -> impl Iterator<Item = (&StreamSchema, UnixMillis, &[f64])> {
        self.newest.values().map(|newest| (&*newest.schema, newest.time_ms, newest.values.as_slice()))
    }

    /// A reading came in.
    pub fn reading(&mut self, schema: &Arc<StreamSchema>, time_ms: UnixMillis, values: &[f64]) {
        if let Some(newest) = self.newest.get_mut(&schema.stream) {
            if !Arc::ptr_eq(&newest.schema, schema) {
                newest.schema.clone_from(schema);
            }
            newest.time_ms = time_ms;
            values.clone_into(&mut newest.values);
            if !std::mem::replace(&mut newest.has_changed, true) {
                self.changed.push_back(schema.stream.clone());
            }
        } else if self.newest.len() < LIVE_STREAMS {
            let newest = Newest {
                schema: Arc::clone(schema),
                time_ms,
                values: values.to_vec(),
                prediction: None,
                alarm: None,
                has_changed: true,
            };
            self.newest.insert(schema.stream.clone(), newest);
            self.changed.push_back(schema.stream.clone());
        }
    }

    /// A prediction was made. While the lane is closed only alarms are noted.
    pub fn prediction(&mut self, stream: &StreamId, model: &ModelRef, time_ms: UnixMillis, outcome: &Outcome) {
        if !self.is_open() && !outcome.is_anomaly() {
            return;
        }
        let Some(newest) = self.newest.get_mut(stream) else {
            return;
        };
        let said = LivePrediction { model: model.clone(), time_ms, outcome: outcome.clone() };
        if outcome.is_anomaly() {
            if newest.alarm.replace(said.clone()).is_none() {
                self.changed.push_front(stream.clone());
            }
        } else if !newest.has_changed {
            self.changed.push_back(stream.clone());
        }
        newest.has_changed = true;
        newest.prediction = Some(said);
    }

    /// Everything before `acked` is at the hub, and `next` is the next sequence to be given. Returns a picture that is due.
    pub fn follow(&mut self, now: Millis, is_connected: bool, acked: Sequence, next: Sequence) -> Option<LivePicture> {
        self.is_connected = is_connected;
        if let Some((_, since)) = self.mark.take_if(|(mark, _)| *mark <= acked) {
            self.is_behind = since.plus(LIVE_LAG_MS) <= now;
        }
        if acked >= next {
            self.is_behind = false;
        } else {
            let (_, since) = *self.mark.get_or_insert((next, now));
            self.is_behind |= since.plus(LIVE_LAG_MS) <= now;
        }
        if !self.is_open() || self.changed.is_empty() || now < self.picture_at {
            return None;
        }
        let (picture, bytes) = self.picture(next);
        self.picture_at = now.plus((bytes * 1_000 / LIVE_BYTES_PER_S).max(LIVE_INTERVAL_MS));
        Some(picture)
    }

    /// When to follow up at the latest.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Millis> {
        if !self.is_connected {
            None
        } else if self.is_behind {
            (!self.changed.is_empty()).then_some(self.picture_at)
        } else {
            self.mark.map(|(_, since)| since.plus(LIVE_LAG_MS))
        }
    }

    /// As much of what changed as a picture may hold, and roughly its bytes.
    fn picture(&mut self, next: Sequence) -> (LivePicture, u64) {
        let mut streams = Vec::new();
        let mut bytes = 0;
        while bytes < LIVE_PICTURE_BYTES
            && let Some(stream) = self.changed.pop_front()
        {
            let Some(newest) = self.newest.get_mut(&stream).filter(|newest| newest.has_changed) else {
                continue;
            };
            newest.has_changed = false;
            let shown = LiveStream {
                schema: (*newest.schema).clone(),
                time_ms: newest.time_ms,
                values: newest.values.clone(),
                prediction: newest.prediction.clone(),
                alarm: newest.alarm.take(),
            };
            bytes += size_hint(&shown);
            streams.push(shown);
        }
        (LivePicture { next, streams }, bytes)
    }
}

fn size_hint(stream: &LiveStream) -> u64 {
    let names = stream.schema.channels.iter().map(|name| name.as_str().len() + 1).sum::<usize>();
    let said = stream.prediction.iter().chain(&stream.alarm).map(|said| said.outcome.size_hint() + 40).sum::<usize>();
    (stream.schema.stream.as_str().len() + names + 8 * stream.values.len() + said + 10) as u64
}

#[cfg(test)]
mod tests {
    use shared::event::Verdict;
    use shared::ids::{ChannelName, ModelName, ModelVersion};

    use super::*;

    fn schema(name: &str) -> Arc<StreamSchema> {
        let channels = vec![ChannelName::new("x").expect("valid")];
        Arc::new(StreamSchema { stream: StreamId::new(name).expect("valid"), channels })
    }

    fn model() -> ModelRef {
        ModelRef { name: ModelName::new("pump").expect("valid"), version: ModelVersion(1) }
    }

    fn verdict(anomaly: bool) -> Outcome {
        Outcome::Anomaly(Verdict { score: 1.0, threshold: 0.5, anomaly })
    }

    /// A lane of a box that has fallen behind by the time it returns.
    fn behind() -> (LiveLane, Millis) {
        let mut lane = LiveLane::default();
        assert_eq!(lane.follow(Millis(0), true, Sequence(0), Sequence(10_000)), None);
        assert_eq!(lane.poll_timeout(), Some(Millis(LIVE_LAG_MS)));
        let now = Millis(LIVE_LAG_MS);
        assert_eq!(lane.follow(now, true, Sequence(100), Sequence(10_100)), None);
        assert!(lane.is_open());
        (lane, now)
    }

    #[test]
    fn a_box_that_keeps_up_shows_nothing() {
        let mut lane = LiveLane::default();
        for tick in 0..100 {
            lane.reading(&schema("a"), tick, &[1.0]);
            let now = Millis(tick as u64 * 100);
            let (acked, next) = (Sequence(tick as u64 * 50), Sequence(tick as u64 * 50 + 90));
            assert_eq!(lane.follow(now, true, acked, next), None, "at {tick}");
        }
        assert!(!lane.is_open());
    }

    #[test]
    fn what_comes_in_behind_a_backlog_is_shown_at_once_and_then_in_intervals() {
        let (mut lane, now) = behind();
        lane.reading(&schema("a"), 1, &[1.0]);
        let picture = lane.follow(now, true, Sequence(200), Sequence(10_200)).expect("a picture");
        assert_eq!((picture.next, picture.streams.len()), (Sequence(10_200), 1));
        assert_eq!(picture.inconsistency(), None);
        lane.reading(&schema("a"), 2, &[2.0]);
        lane.reading(&schema("a"), 3, &[3.0]);
        assert_eq!(lane.follow(now.plus(1), true, Sequence(300), Sequence(10_300)), None);
        let due = lane.poll_timeout().expect("due");
        assert_eq!(due, now.plus(LIVE_INTERVAL_MS));
        let picture = lane.follow(due, true, Sequence(400), Sequence(10_400)).expect("a picture");
        assert_eq!((picture.streams[0].time_ms, &picture.streams[0].values[..]), (3, &[3.0][..]));
    }

    #[test]
    fn an_alarm_comes_first_and_is_shown_also_when_it_is_over() {
        let (mut lane, now) = behind();
        for name in ["a", "b", "c"] {
            lane.reading(&schema(name), 1, &[1.0]);
        }
        let stream = &schema("c").stream;
        lane.prediction(stream, &model(), 1, &verdict(true));
        lane.prediction(stream, &model(), 2, &verdict(false));
        let picture = lane.follow(now, true, Sequence(200), Sequence(10_200)).expect("a picture");
        let names: Vec<_> = picture.streams.iter().map(|stream| stream.schema.stream.as_str()).collect();
        assert_eq!(names, ["c", "a", "b"]);
        let shown = &picture.streams[0];
        assert!(shown.alarm.as_ref().is_some_and(|alarm| alarm.outcome.is_anomaly() && alarm.time_ms == 1));
        assert!(shown.prediction.as_ref().is_some_and(|said| !said.outcome.is_anomaly() && said.time_ms == 2));
    }

    #[test]
    fn a_picture_has_a_limit_and_every_stream_its_turn_within_the_lanes_share() {
        let (mut lane, mut now) = behind();
        let names: Vec<String> = (0..LIVE_STREAMS + 5).map(|index| format!("plant/line/{index:04}")).collect();
        let (start, mut shown, mut bytes) = (now, std::collections::BTreeSet::new(), 0);
        while shown.len() < LIVE_STREAMS {
            names.iter().for_each(|name| lane.reading(&schema(name), 1, &[1.0]));
            let picture = lane.follow(now, true, Sequence(200), Sequence(10_200)).expect("a picture");
            bytes += picture.streams.iter().map(size_hint).sum::<u64>();
            shown.extend(picture.streams.into_iter().map(|stream| stream.schema.stream));
            now = lane.poll_timeout().expect("due");
        }
        assert!(bytes <= LIVE_BYTES_PER_S * (now.0 - start.0) / 1_000 + 200, "{bytes} in {now:?}");
    }

    #[test]
    fn a_box_that_caught_up_or_lost_its_hub_closes_the_lane() {
        let (mut lane, now) = behind();
        lane.reading(&schema("a"), 1, &[1.0]);
        assert_eq!(lane.follow(now, true, Sequence(20_000), Sequence(20_000)), None);
        assert_eq!((lane.is_open(), lane.poll_timeout()), (false, None));
        let (mut lane, now) = behind();
        assert_eq!(lane.follow(now, false, Sequence(100), Sequence(10_200)), None);
        assert_eq!((lane.is_open(), lane.poll_timeout()), (false, None));
    }

    #[test]
    fn what_came_in_while_there_was_no_hub_is_shown_as_soon_as_there_is_one() {
        let mut lane = LiveLane::default();
        lane.reading(&schema("hourly"), 1, &[1.0]);
        lane.prediction(&schema("hourly").stream, &model(), 1, &verdict(true));
        assert_eq!(lane.follow(Millis(0), false, Sequence(0), Sequence(2)), None);
        let later = Millis(3_600_000);
        let picture = lane.follow(later, true, Sequence(0), Sequence(9_000)).expect("a picture");
        assert_eq!(picture.streams.len(), 1);
        assert!(picture.streams[0].alarm.is_some());
        assert_eq!(lane.follow(later.plus(LIVE_INTERVAL_MS), true, Sequence(10), Sequence(9_000)), None, "once");
    }
}
