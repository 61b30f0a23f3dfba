//! MQTT's shell: takes messages in without acknowledging them, acknowledges when told to, publishes.
//!
//! Two tasks: one does nothing but poll the client, because its pings live there and must not wait; the other waits
//! for room in the client's queue with acknowledgements and publishes. An acknowledgement belongs to the connection
//! its message came in on: when the broker is connected anew, it delivers again, and older receipts are void.

pub mod payload;

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::{ConnAck, LastWill, Packet, Publish};
use rumqttc::v5::{AsyncClient, Event as MqttEvent, EventLoop, MqttOptions};
use shared::ids::AgentId;
use tokio::sync::{Notify, mpsc, watch};
use tracing::{info, warn};

use crate::clock::Clock;
use crate::config::Mqtt;
use crate::core::{NewReading, Receipt, Received, Rejection};
use crate::status::{REJECTED_PAYLOAD_BYTES, Rejected};
use crate::telemetry::Telemetry;
use payload::Decoder;

/// Predictions and status messages that may wait for the broker. Beyond, predictions are dropped and counted: they
/// are in the spool as well.
const OUTBOX: usize = 16_384;
/// Requests in the MQTT client's own queue, which loses them when a session is lost: so, few.
const CLIENT_QUEUE: usize = 64;
/// Our publishes the broker has not acknowledged, if it allows so many.
const OUTGOING_IN_FLIGHT: u16 = 512;
/// The broker keeps what it could not deliver for this long.
const SESSION_EXPIRY_S: u32 = 7 * 24 * 3600;
/// The wait before the broker is tried again.
const RECONNECT_MS: u64 = 500;
/// Time between two pings on a silent connection.
const KEEP_ALIVE: Duration = Duration::from_secs(30);

/// A message to publish.
#[derive(Debug, Clone)]
pub struct Outgoing {
    /// Its topic.
    pub topic: String,
    /// Its content.
    pub payload: Vec<u8>,
    /// Whether the broker keeps it for those who subscribe later.
    pub retain: bool,
}

/// The agent's side of the shell.
#[derive(Debug)]
pub struct Ingest {
    /// Messages in receive order.
    pub received: mpsc::Receiver<Received>,
    /// Everything up to the receipt sent here is acknowledged.
    pub acknowledge: watch::Sender<Option<Receipt>>,
    /// Messages to publish.
    pub outbox: mpsc::Sender<Outgoing>,
}

/// Sets up MQTT and gives the agent's side and the two tasks to run.
pub fn open(
    mqtt: &Mqtt,
    agent: &AgentId,
    password: Option<String>,
    decoder: Decoder,
    clock: Clock,
    telemetry: Telemetry,
) -> (Ingest, Poller, Sender) {
    let availability = format!("tideline/{agent}/availability");
    let (client, event_loop) = AsyncClient::new(options(mqtt, &availability, password), CLIENT_QUEUE);
    let (received_sender, received) = mpsc::channel(mqtt.receive_maximum as usize + OUTBOX);
    let (acknowledge, acknowledged) = watch::channel(None);
    let (outbox, outgoing) = mpsc::channel(OUTBOX);
    let shared = Arc::new(Shared { unacknowledged: Mutex::new(VecDeque::new()), greet: Notify::new() });
    let filters = decoder.filters();
    let poller = Poller {
        event_loop,
        decoder,
        clock,
        received: received_sender,
        shared: Arc::clone(&shared),
        telemetry,
        generation: 0,
        number: 0,
        resumed_messages: 0,
        receive_maximum: u64::from(mqtt.receive_maximum),
    };
    let sender = Sender { client, acknowledged, outgoing, shared, filters, availability };
    (Ingest { received, acknowledge, outbox }, poller, sender)
}

fn options(mqtt: &Mqtt, availability: &str, password: Option<String>) -> MqttOptions {
    let mut options = MqttOptions::new(mqtt.client_id.clone(), mqtt.host.clone(), mqtt.port);
    options
        .set_clean_start(false)
        .set_manual_acks(true)
        .set_keep_alive(KEEP_ALIVE)
        .set_session_expiry_interval(Some(SESSION_EXPIRY_S))
        .set_receive_maximum(Some(mqtt.receive_maximum))
        .set_max_packet_size(Some(mqtt.max_packet_bytes))
        .set_outgoing_inflight_upper_limit(OUTGOING_IN_FLIGHT)
        .set_last_will(LastWill::new(availability, "offline", QoS::AtLeastOnce, true, None));
    if let Some(username) = &mqtt.username {
        options.set_credentials(username.clone(), password.unwrap_or_default());
    }
    options
}

struct Shared {
    /// Messages not acknowledged yet, oldest first, without their content.
    unacknowledged: Mutex<VecDeque<(Receipt, Publish)>>,
    /// The broker accepted a new connection whose session does not know us.
    greet: Notify,
}

impl Shared {
    fn lock(&self) -> std::sync::MutexGuard<'_, VecDeque<(Receipt, Publish)>> {
        self.unacknowledged.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The task that polls the client.
pub struct Poller {
    event_loop: EventLoop,
    decoder: Decoder,
    clock: Clock,
    received: mpsc::Sender<Received>,
    shared: Arc<Shared>,
    telemetry: Telemetry,
    generation: u32,
    number: u64,
    /// How many more messages may be the resumed session's redeliveries.
    resumed_messages: u64,
    receive_maximum: u64,
}

impl Poller {
    /// Polls until the agent's side is dropped.
    pub async fn run(mut self) {
        let mut was_connected = true;
        while !self.received.is_closed() {
            match self.event_loop.poll().await {
                Ok(MqttEvent::Incoming(Packet::ConnAck(ack))) => {
                    was_connected = true;
                    self.connected(&ack);
                }
                Ok(MqttEvent::Incoming(Packet::Publish(publish))) => self.take(&publish).await,
                Ok(MqttEvent::Incoming(_) | MqttEvent::Outgoing(_)) => {}
                Err(error) => {
                    self.telemetry.broker_connected(false);
                    if std::mem::take(&mut was_connected) {
                        warn!("the broker is away: {error}; trying again every {RECONNECT_MS} ms");
                    }
                    tokio::time::sleep(Duration::from_millis(RECONNECT_MS)).await;
                }
            }
        }
    }

    fn connected(&mut self, ack: &ConnAck) {
        info!(session_present = ack.session_present, "connected to the broker");
        self.telemetry.broker_connected(true);
        self.generation += 1;
        self.shared.lock().clear();
        self.resumed_messages = if ack.session_present { self.receive_maximum } else { 0 };
        // Subscribing again is harmless, and right when the session is new or the configuration changed.
        self.shared.greet.notify_one();
    }

    async fn take(&mut self, publish: &Publish) {
        self.number += 1;
        let receipt = Receipt { generation: self.generation, number: self.number };
        let may_be_redelivered = publish.dup || self.resumed_messages > 0;
        self.resumed_messages = self.resumed_messages.saturating_sub(1);
        let content = std::str::from_utf8(&publish.topic)
            .map_err(|_| payload::Rejection::UnknownTopic)
            .and_then(|topic| self.decoder.decode(topic, &publish.payload, self.clock.unix_ms()))
            .map(|decoded| NewReading {
                schema: decoded.schema,
                time_ms: decoded.time_ms,
                values: decoded.values,
                known_normal: decoded.known_normal,
                id: decoded.id,
                named_by_producer: decoded.has_producer_id,
                may_be_redelivered,
            })
            .map_err(|rejection| self.rejection(publish, &rejection));
        let message = Received { receipt, content };
        if publish.qos == QoS::AtMostOnce {
            if self.received.try_send(message).is_err() {
                self.telemetry.overflowed();
            }
            return;
        }
        let to_ack = Publish { payload: Default::default(), ..publish.clone() };
        self.shared.lock().push_back((receipt, to_ack));
        // There is room, unless the broker does not keep to the receive maximum. Then it is made to wait: one that loses
        // patience is connected anew and delivers again. When the agent's side is gone, this task ends.
        drop(self.received.send(message).await);
    }
}

impl Poller {
    /// What is kept of a message that is no reading.
    fn rejection(&self, publish: &Publish, rejection: &payload::Rejection) -> Rejection {
        let shown = publish.payload.len().min(REJECTED_PAYLOAD_BYTES);
        Rejection {
            reason: rejection.reason(),
            sample: Some(Rejected {
                time_ms: self.clock.unix_ms(),
                topic: String::from_utf8_lossy(&publish.topic).into_owned(),
                payload: String::from_utf8_lossy(&publish.payload[..shown]).into_owned(),
                problem: rejection.to_string(),
            }),
        }
    }
}

/// The task that acknowledges and publishes.
pub struct Sender {
    client: AsyncClient,
    acknowledged: watch::Receiver<Option<Receipt>>,
    outgoing: mpsc::Receiver<Outgoing>,
    shared: Arc<Shared>,
    filters: Vec<String>,
    availability: String,
}

impl Sender {
    /// Acknowledges and publishes until the agent's side is dropped, then says good-bye to the broker.
    pub async fn run(mut self) {
        let shared = Arc::clone(&self.shared);
        loop {
            tokio::select! {
                biased;
                () = shared.greet.notified() => self.greet().await,
                changed = self.acknowledged.changed() => match changed {
                    Ok(()) => self.acknowledge().await,
                    Err(_) => break,
                },
                message = self.outgoing.recv() => match message {
                    Some(message) => self.publish(message).await,
                    None => break,
                },
            }
        }
        self.acknowledge().await;
        while let Ok(message) = self.outgoing.try_recv() {
            self.publish(message).await;
        }
        let offline = Outgoing { topic: self.availability.clone(), payload: b"offline".to_vec(), retain: true };
        self.publish(offline).await;
        drop(self.client.disconnect().await);
    }

    async fn greet(&mut self) {
        for filter in &self.filters {
            if let Err(error) = self.client.subscribe(filter.clone(), QoS::AtLeastOnce).await {
                warn!(filter, "failed to subscribe: {error}");
            }
        }
        let online = Outgoing { topic: self.availability.clone(), payload: b"online".to_vec(), retain: true };
        self.publish(online).await;
    }

    async fn acknowledge(&mut self) {
        let Some(through) = *self.acknowledged.borrow_and_update() else {
            return;
        };
        loop {
            let next = {
                let mut waiting = self.shared.lock();
                let due = waiting.front().is_some_and(|(receipt, _)| *receipt <= through);
                if due { waiting.pop_front() } else { None }
            };
            let Some((_, publish)) = next else {
                return;
            };
            if let Err(error) = self.client.ack(&publish).await {
                warn!("failed to acknowledge a message: {error}");
                return;
            }
        }
    }

    async fn publish(&mut self, message: Outgoing) {
        let published = self.client.publish(message.topic, QoS::AtLeastOnce, message.retain, message.payload).await;
        if let Err(error) = published {
            warn!("failed to publish: {error}");
        }
    }
}
