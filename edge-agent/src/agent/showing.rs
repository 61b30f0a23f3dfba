//! What is shown of answers: their kinds, to whoever looks for devices, and the newest of each stream, on the box's own page.

use std::collections::BTreeMap;

use serde_json::Value;
use shared::event::UnixMillis;
use shared::ids::{AgentId, StreamId};

use super::presence::{self, MAX_SHOWN_STREAMS, Says};
use crate::core::Published;
use crate::ingest::Outgoing;

/// What was said last of each stream.
pub(super) struct Showing {
    home_assistant: bool,
    thin_edge: bool,
    has_page: bool,
    says: BTreeMap<StreamId, Says>,
    /// As it was published.
    newest: BTreeMap<StreamId, Vec<u8>>,
    is_announced: bool,
}

impl Showing {
    /// Shows nothing yet. `has_page` says whether the box has a page.
    pub(super) fn new(home_assistant: bool, thin_edge: bool, has_page: bool) -> Self {
        let (says, newest) = (BTreeMap::new(), BTreeMap::new());
        Self { home_assistant, thin_edge, has_page, says, newest, is_announced: false }
    }

    /// Notes an answer, and how it is published.
    pub(super) fn take(&mut self, prediction: &Published, payload: &[u8]) {
        let stream = &prediction.stream;
        if self.has_page {
            if let Some(newest) = self.newest.get_mut(stream) {
                newest.clear();
                newest.extend_from_slice(payload);
            } else if self.newest.len() < MAX_SHOWN_STREAMS {
                self.newest.insert(stream.clone(), payload.to_vec());
            }
        }
        if self.home_assistant && self.says.len() < MAX_SHOWN_STREAMS {
            let says = Says::of(&prediction.outcome);
            if self.says.get(stream) != Some(&says) {
                self.says.insert(stream.clone(), says);
                self.is_announced = false;
            }
        }
    }

    /// Says who the box is to those that look for devices, once, and again where there is more to see. `publish` says whether a
    /// message finds room; if not, the broker is away, and it is said with the next status.
    pub(super) fn announce(&mut self, agent: &AgentId, now_ms: UnixMillis, publish: impl Fn(Outgoing) -> bool) {
        if std::mem::replace(&mut self.is_announced, true) {
            return;
        }
        let home_assistant = self.home_assistant.then(|| presence::home_assistant(agent, &self.says));
        let thin_edge = self.thin_edge.then(|| presence::thin_edge(now_ms));
        for message in home_assistant.into_iter().chain(thin_edge.into_iter().flatten()) {
            self.is_announced &= publish(message);
        }
    }

    /// The last words to those that look for devices.
    pub(super) fn last_words(&self, now_ms: UnixMillis) -> Option<Outgoing> {
        self.thin_edge.then(|| presence::thin_edge_health("down", now_ms))
    }

    /// The newest answers, as they were published.
    pub(super) fn newest(&self) -> Value {
        // What was written as JSON can be read as such.
        self.newest.values().filter_map(|answer| serde_json::from_slice::<Value>(answer).ok()).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use shared::event::{ModelRef, Outcome, Verdict};
    use shared::ids::{ModelName, ModelVersion, Sequence};

    use super::*;

    fn prediction(stream: &str, outcome: Outcome) -> Published {
        let model = ModelRef { name: ModelName::new("pump").expect("valid"), version: ModelVersion(1) };
        Published { stream: StreamId::new(stream).expect("valid"), model, of: Sequence(1), time_ms: 5, outcome }
    }

    #[test]
    fn the_newest_answer_of_each_stream_is_shown_where_there_is_a_page() {
        let outcome = || Outcome::Anomaly(Verdict { score: 2.0, threshold: 1.0, anomaly: true });
        let answer = prediction("a", outcome());
        for has_page in [true, false] {
            let mut showing = Showing::new(false, false, has_page);
            showing.take(&answer, br#"{"stream":"a","score":1}"#);
            showing.take(&answer, br#"{"stream":"a","score":2}"#);
            for number in 0..MAX_SHOWN_STREAMS + 9 {
                showing.take(&prediction(&format!("s{number}"), outcome()), b"{}");
            }
            let newest = showing.newest();
            let shown = newest.as_array().expect("a list");
            assert_eq!(shown.len(), if has_page { MAX_SHOWN_STREAMS } else { 0 });
            assert_eq!(shown.first().map(|answer| answer["score"].clone()), has_page.then(|| 2.into()));
        }
    }

    #[test]
    fn a_device_is_announced_until_there_is_room_and_again_when_it_says_more() {
        let mut showing = Showing::new(true, false, false);
        let agent = AgentId::new("box").expect("valid");
        let said = RefCell::new(0);
        let announce = |showing: &mut Showing, has_room: bool| {
            showing.announce(&agent, 0, |_| {
                *said.borrow_mut() += 1;
                has_room
            });
            said.take()
        };
        assert_eq!(
            (announce(&mut showing, false), announce(&mut showing, true), announce(&mut showing, true)),
            (1, 1, 0)
        );
        showing.take(&prediction("a", Outcome::Forecast { values: vec![1.0] }), b"{}");
        assert_eq!((announce(&mut showing, true), announce(&mut showing, true)), (1, 0));
        showing.take(&prediction("a", Outcome::Forecast { values: vec![2.0] }), b"{}");
        assert_eq!(announce(&mut showing, true), 0, "nothing new about the device");
        assert_eq!(showing.last_words(0), None);
    }
}
