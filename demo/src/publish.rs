//! The plant's MQTT client: publishes readings in order, at QoS 1.

use std::net::SocketAddr;
use std::thread;

use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::{Client, MqttOptions};
use serde_json::{Map, Value, json};
use shared::ids::{ChannelName, StreamId};

use crate::scenario::Row;

/// Messages that may wait in the client.
const QUEUE: usize = 256;

/// A connected client.
pub struct Publisher {
    client: Client,
    next_id: u64,
}

/// A message could not be handed to the client.
#[derive(Debug, thiserror::Error)]
#[error("publish to {topic}: {problem}")]
pub struct PublishError {
    topic: String,
    problem: String,
}

impl Publisher {
    /// Connects to the broker.
    ///
    /// # Errors
    /// If no thread can be started.
    pub fn connect(broker: SocketAddr) -> std::io::Result<Self> {
        let mut options = MqttOptions::new("plant", broker.ip().to_string(), broker.port());
        options.set_clean_start(true);
        let (client, mut connection) = Client::new(options, QUEUE);
        thread::Builder::new().name("plant".into()).spawn(move || {
            for event in connection.iter() {
                if let Err(error) = event {
                    tracing::info!("the plant's client: {error}");
                    return;
                }
            }
        })?;
        Ok(Self { client, next_id: 0 })
    }

    /// Publishes one reading to an agent's topic. The row's label stays here.
    ///
    /// # Errors
    /// If the client is gone.
    pub fn publish(
        &mut self,
        agent: &str,
        stream: &StreamId,
        channels: &[ChannelName],
        row: &Row,
    ) -> Result<(), PublishError> {
        let topic = topic(agent, stream);
        self.next_id += 1;
        let values: Map<String, Value> =
            channels.iter().zip(&row.values).map(|(name, value)| (name.as_str().to_owned(), json!(value))).collect();
        let mut body = json!({ "ts": row.time_ms, "id": self.next_id, "channels": values });
        if row.known_normal {
            body["known_normal"] = Value::Bool(true);
        }
        self.client
            .publish(topic.clone(), QoS::AtLeastOnce, false, body.to_string())
            .map_err(|error| PublishError { topic, problem: error.to_string() })
    }
}

impl Drop for Publisher {
    fn drop(&mut self) {
        // The client's thread ends with its connection.
        drop(self.client.disconnect());
    }
}

/// Where an agent listens for a stream's readings.
#[must_use]
pub fn topic(agent: &str, stream: &StreamId) -> String {
    format!("plant/{agent}/{stream}")
}
