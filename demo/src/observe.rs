//! A consumer's MQTT client: sees what any client sees, the agents' status and their predictions.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::Packet;
use rumqttc::v5::{Client, Event, MqttOptions};
use serde_json::Value;

/// Messages that may wait in the client.
const QUEUE: usize = 256;

/// What was seen so far. Clones share it.
#[derive(Clone, Default)]
pub struct Observer(Arc<Shared>);

#[derive(Default)]
struct Shared {
    seen: Mutex<Seen>,
    changed: Condvar,
}

/// What was seen.
#[derive(Default)]
pub struct Seen {
    /// The newest status of each agent.
    pub status: BTreeMap<String, Value>,
    /// Predictions of each agent since they were last taken, in order of arrival.
    pub predictions: BTreeMap<String, VecDeque<Value>>,
    /// Predictions of each agent ever seen.
    pub counts: BTreeMap<String, u64>,
    /// Versions that each agent's predictions were made with.
    pub versions: BTreeMap<String, BTreeSet<u64>>,
    /// Predictions are counted, and not kept.
    drops_predictions: bool,
}

impl Observer {
    /// Connects to the broker and subscribes.
    ///
    /// # Errors
    /// If no thread can be started or the client refuses.
    pub fn connect(broker: SocketAddr) -> std::io::Result<(Self, Client)> {
        let mut options = MqttOptions::new("observer", broker.ip().to_string(), broker.port());
        options.set_clean_start(true);
        let (client, mut connection) = Client::new(options, QUEUE);
        let observer = Self::default();
        let shared = observer.clone();
        thread::Builder::new().name("observer".into()).spawn(move || {
            for event in connection.iter() {
                match event {
                    Ok(Event::Incoming(Packet::Publish(publish))) => shared.take(&publish.topic, &publish.payload),
                    Ok(_) => {}
                    Err(error) => {
                        tracing::info!("the observer's client: {error}");
                        return;
                    }
                }
            }
        })?;
        for filter in ["tideline/+/status", "tideline/+/prediction/#"] {
            client.subscribe(filter, QoS::AtLeastOnce).map_err(std::io::Error::other)?;
        }
        Ok((observer, client))
    }

    /// Waits until `ready` holds; false if it does not within `deadline`.
    pub fn wait(&self, deadline: Duration, mut ready: impl FnMut(&mut Seen) -> bool) -> bool {
        let seen = self.lock();
        let (_seen, timeout) = self
            .0
            .changed
            .wait_timeout_while(seen, deadline, |seen| !ready(seen))
            .unwrap_or_else(PoisonError::into_inner);
        !timeout.timed_out()
    }

    /// Counts predictions from now on, and keeps none.
    pub fn drop_predictions(&self) {
        self.lock().drops_predictions = true;
    }

    /// Looks at what was seen.
    pub fn look<T>(&self, look: impl FnOnce(&mut Seen) -> T) -> T {
        look(&mut self.lock())
    }

    fn take(&self, topic: &[u8], payload: &[u8]) {
        let Ok(topic) = std::str::from_utf8(topic) else {
            return;
        };
        let mut levels = topic.split('/').skip(1);
        let (Some(agent), Some(kind)) = (levels.next(), levels.next()) else {
            return;
        };
        let Ok(body) = serde_json::from_slice::<Value>(payload) else {
            return;
        };
        let mut seen = self.lock();
        match kind {
            "status" => drop(seen.status.insert(agent.to_owned(), body)),
            "prediction" => {
                *seen.counts.entry(agent.to_owned()).or_default() += 1;
                let version = body["version"].as_u64().unwrap_or_default();
                seen.versions.entry(agent.to_owned()).or_default().insert(version);
                if seen.drops_predictions {
                    return;
                }
                seen.predictions.entry(agent.to_owned()).or_default().push_back(body);
            }
            _ => {}
        }
        drop(seen);
        self.0.changed.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, Seen> {
        self.0.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Seen {
    /// A number in an agent's status, by JSON pointer; 0 before the first status.
    #[must_use]
    pub fn number(&self, agent: &str, pointer: &str) -> u64 {
        self.status.get(agent).and_then(|status| status.pointer(pointer)).and_then(Value::as_u64).unwrap_or(0)
    }
}
