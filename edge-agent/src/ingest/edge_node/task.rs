//! The edge node's connection, beside the agent's own: it has a last will and a life of its own, and the broker keeps nothing of it.

use std::pin::pin;
use std::time::Duration;

use bytes::BytesMut;
use shared::ids::AgentId;
use tokio::io::AsyncWriteExt;
use tokio::sync::mpsc;
use tracing::{info, warn};

use super::EdgeNode;
use crate::clock::WallClock;
use crate::config::Mqtt;
use crate::core::backoff::Backoff;
use crate::core::{Millis, Published};
use crate::ingest::packets::Reader;
use crate::ingest::session::{Arrival, Problem, Session};
use crate::ingest::{Broker, GOODBYE_TIMEOUT, Network, Quickly, UNSENT_BYTES, backoff, guest, read_some, write_some};
use crate::telemetry::Telemetry;
use crate::tls::TlsError;

/// Batches of predictions that may wait for the edge node, which only looks at them.
const BATCHES: usize = 256;

/// Where the edge node takes predictions from, a batch at a time.
pub type Predictions = mpsc::Sender<Vec<Published>>;

/// The task that keeps the edge node's connection.
pub struct Task {
    broker: Broker,
    max_packet_bytes: u32,
    session: Session,
    node: EdgeNode,
    clock: WallClock,
    telemetry: Telemetry,
    backoff: Backoff,
    predictions: mpsc::Receiver<Vec<Published>>,
    out: BytesMut,
}

/// Sets up an edge node of a group and gives where it takes predictions from and the task to run. `seed` tells its lives from those
/// of the process before.
///
/// # Errors
/// If a certificate or key for TLS cannot be used.
pub fn open(
    mqtt: &Mqtt,
    group: &str,
    agent: &AgentId,
    password: Option<String>,
    clock: WallClock,
    telemetry: Telemetry,
    seed: u64,
) -> Result<(Predictions, Task), TlsError> {
    let node = EdgeNode::new(group.to_owned(), agent.clone(), seed as u8);
    let hello = guest(mqtt, format!("{}-sparkplug", mqtt.client_id), password);
    let (sender, predictions) = mpsc::channel(BATCHES);
    let task = Task {
        broker: Broker::new(mqtt)?,
        max_packet_bytes: mqtt.max_packet_bytes,
        session: Session::new(hello, vec![node.commands()]),
        node,
        clock,
        telemetry,
        backoff: backoff(seed),
        predictions,
        out: BytesMut::new(),
    };
    Ok((sender, task))
}

impl Task {
    /// Connects, and connects again, until there is nobody who predicts; then dies in good order.
    pub async fn run(mut self) {
        loop {
            let Self { broker, predictions, node, .. } = &mut self;
            let Some(dialled) = meanwhile(predictions, node, broker.dial()).await else { return };
            let ended = match dialled {
                Ok(network) => self.converse(network).await.map(|problem| problem.to_string()),
                Err(problem) => Some(problem),
            };
            let Some(problem) = ended else { return };
            if self.backoff.disconnected(self.clock.monotonic()) {
                warn!("the broker is away for the Sparkplug edge node: {problem}; trying again");
            }
            let wait = tokio::time::sleep(Duration::from_millis(self.backoff.next_ms()));
            if meanwhile(&mut self.predictions, &mut self.node, wait).await.is_none() {
                return;
            }
        }
    }

    /// Holds one connection to its end; nothing: there is nobody who predicts any more.
    async fn converse(&mut self, network: Network) -> Option<Problem> {
        let (mut network_in, mut network_out) = tokio::io::split(network);
        self.out.clear();
        let (mut is_flushed, mut is_slow) = (true, false);
        let mut reader = Reader::default();
        self.session.set_presence(self.node.begin_life());
        let mut trouble = self.session.connect(self.clock.monotonic(), &mut self.out).err();
        loop {
            if trouble.is_none() {
                trouble = self.take_in(&mut reader).err();
            }
            let now = self.clock.monotonic();
            // A ping waits behind what a slow network still takes, and so does its answer.
            let is_silent = !std::mem::take(&mut is_slow);
            if let Some(problem) = trouble.take().or_else(|| self.session.tick(now, is_silent, &mut self.out).err()) {
                self.session.disconnected(&problem);
                self.node.disconnected();
                return Some(problem);
            }
            self.say(now);
            // What is due has to wait for the network, and must not be waited for in circles.
            let says_at = self.node.poll_timeout().filter(|_| self.out.len() < UNSENT_BYTES);
            let due = self.session.poll_timeout().into_iter().chain(says_at).min();
            let due = due.map_or(u64::MAX, |at| at.0.saturating_sub(now.0));
            tokio::select! {
                biased;
                written = write_some(&mut network_out, &mut self.out), if !(self.out.is_empty() && is_flushed) => {
                    trouble = written.is_err().then_some(Problem::Closed);
                    is_flushed = written.is_ok_and(|count| count == 0);
                    is_slow = !is_flushed && !self.out.is_empty();
                }
                batch = self.predictions.recv() => match batch {
                    Some(batch) => self.take(&batch),
                    None => {
                        let now = self.clock.monotonic();
                        self.session.publish(now, self.node.death(), false, &mut self.out);
                        self.session.close(now, &mut self.out);
                        let goodbye = async {
                            network_out.write_all_buf(&mut self.out).await?;
                            network_out.shutdown().await
                        };
                        // Who does not take the last words has the last will.
                        drop(tokio::time::timeout(GOODBYE_TIMEOUT, goodbye).await);
                        return None;
                    }
                },
                read = read_some(&mut network_in, &mut reader.buffer, &Quickly(None)) => {
                    trouble = (!read).then_some(Problem::Closed);
                }
                () = tokio::time::sleep(Duration::from_millis(due)) => {}
            }
        }
    }

    /// One after the other, so that what was so for a moment is seen by everybody whom the broker keeps up with.
    fn take(&mut self, batch: &[Published]) {
        let now = self.clock.monotonic();
        for prediction in batch {
            self.node.observe(prediction);
            self.say(now);
        }
    }

    fn say(&mut self, now: Millis) {
        if self.out.len() < UNSENT_BYTES
            && let Some(message) = self.node.say(now, self.clock.unix_ms())
        {
            let bytes = message.payload.len();
            self.session.publish(now, message, true, &mut self.out);
            // Data that no birth came before is of no use to anybody.
            if self.session.take_too_large() > 0 {
                self.node.disconnected();
                let problem = format!(
                    "the broker takes no message as large as the Sparkplug edge node's birth, which has {bytes} bytes; \
                     nothing is said for Sparkplug"
                );
                warn!("{problem}");
                self.telemetry.broker_problem(problem);
            }
        }
    }

    fn take_in(&mut self, reader: &mut Reader) -> Result<(), Problem> {
        while let Some(packet) = reader.next(self.session.version(), self.max_packet_bytes)? {
            let now = self.clock.monotonic();
            match self.session.receive(now, packet, &mut self.out)? {
                Some(Arrival::Message { receipt, message, .. }) => {
                    self.session.acknowledge(now, receipt, &mut self.out);
                    self.node.obey(&message.payload);
                }
                Some(Arrival::Connected { .. }) => {
                    self.backoff.connected(now);
                    self.node.connected();
                    info!("the Sparkplug edge node is connected to the broker");
                }
                Some(Arrival::SubscriptionRefused(_)) => {
                    let problem = format!("the broker refuses our subscription to {}", self.node.commands());
                    warn!("{problem}; nobody can ask the Sparkplug edge node to be born anew");
                    self.telemetry.broker_problem(problem);
                }
                None => {}
            }
        }
        Ok(())
    }
}

/// Waits for something, and takes in what the model says meanwhile; nothing if nothing will be said any more.
async fn meanwhile<T>(
    predictions: &mut mpsc::Receiver<Vec<Published>>,
    node: &mut EdgeNode,
    what: impl Future<Output = T>,
) -> Option<T> {
    let mut what = pin!(what);
    loop {
        tokio::select! {
            biased;
            ended = &mut what => return Some(ended),
            batch = predictions.recv() => batch?.iter().for_each(|prediction| node.observe(prediction)),
        }
    }
}
