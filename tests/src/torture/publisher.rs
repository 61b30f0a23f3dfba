//! Publishes numbered readings at QoS 1.

use std::net::SocketAddr;

use anyhow::Context;
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::{Client, MqttOptions};

/// The stream of all readings.
pub const STREAM: &str = "pump";
/// Its channel, whose value is the reading's number.
pub const CHANNEL: &str = "number";

/// Messages that may wait in the client.
const QUEUE: usize = 256;
/// 2026-01-01: when the first reading was measured; one each 10 ms.
const FIRST_MS: i64 = 1_767_225_600_000;
const STEP_MS: i64 = 10;

/// A connected publisher.
pub struct Publisher {
    client: Client,
    published: u64,
}

impl Publisher {
    /// Connects to the broker.
    ///
    /// # Errors
    /// If no thread can be started.
    pub fn connect(broker: SocketAddr) -> anyhow::Result<Self> {
        let mut options = MqttOptions::new("publisher", broker.ip().to_string(), broker.port());
        options.set_clean_start(true);
        let (client, mut connection) = Client::new(options, QUEUE);
        // It ends with the connection, when the broker is killed or the client dropped.
        std::thread::Builder::new()
            .name("publisher".into())
            .spawn(move || while let Some(Ok(_)) = connection.iter().next() {})?;
        Ok(Self { client, published: 0 })
    }

    /// A new connection, over which the last `window` readings are published again.
    ///
    /// # Errors
    /// If the broker does not take them.
    pub fn again(&self, broker: SocketAddr, window: u64) -> anyhow::Result<Self> {
        let mut next = Self::connect(broker)?;
        for number in self.published.saturating_sub(window)..self.published {
            next.publish(number)?;
        }
        next.published = self.published;
        Ok(next)
    }

    /// How many were published.
    #[must_use]
    pub fn published(&self) -> u64 {
        self.published
    }

    /// Publishes a reading in its turn.
    ///
    /// # Errors
    /// If the client is gone.
    pub fn publish(&mut self, number: u64) -> anyhow::Result<()> {
        self.publish_now(number)?;
        self.published = number + 1;
        Ok(())
    }

    /// Publishes a reading ahead of its turn.
    ///
    /// # Errors
    /// If the client is gone.
    pub fn publish_now(&self, number: u64) -> anyhow::Result<()> {
        let time_ms = FIRST_MS + STEP_MS * number as i64;
        let body = format!("{{\"ts\":{time_ms},\"id\":{number},\"channels\":{{\"{CHANNEL}\":{number}}}}}");
        let topic = demo::publish::topic(super::AGENT, &shared::ids::StreamId::new(STREAM)?);
        self.client.publish(topic, QoS::AtLeastOnce, false, body).context("publish a reading")
    }
}
