//! What the shells count: read for the status, written from any thread.

use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use shared::device::DeviceKind;

use crate::ingest::packets::Version;

/// The agent's counters. Clones share them.
#[derive(Debug, Clone, Default)]
pub struct Telemetry(Arc<Counters>);

#[derive(Debug, Default)]
struct Counters {
    inferred: AtomicU64,
    inference_us: AtomicU64,
    unpublished: AtomicU64,
    overflowed: AtomicU64,
    broker: Mutex<Broker>,
    device: Mutex<Option<DeviceKind>>,
    hub_transport: AtomicU8,
}

/// How it stands with the broker.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Broker {
    /// The version of MQTT spoken, while connected.
    pub version: Option<Version>,
    /// What keeps messages from coming in.
    pub problem: Option<String>,
}

/// What carries the connection to the hub.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HubTransport {
    /// QUIC, over UDP.
    Quic,
    /// TCP and TLS.
    Tcp,
}

impl HubTransport {
    /// Its name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Quic => "quic",
            Self::Tcp => "tcp",
        }
    }
}

/// A reading of the counters.
#[derive(Debug, Clone, PartialEq)]
pub struct Snapshot {
    /// Readings that went through a pipeline.
    pub inferred: u64,
    /// Mean time in the pipeline per reading, in microseconds; 0 before the first.
    pub inference_us: f64,
    /// The device that the model in service runs on.
    pub device: Option<DeviceKind>,
    /// Predictions that were not published because the broker was away too long.
    pub unpublished: u64,
    /// QoS 0 messages dropped because they came faster than they could be made durable.
    pub overflowed: u64,
    /// How it stands with the broker.
    pub broker: Broker,
    /// What carries the connection to the hub, if there is one.
    pub hub_transport: Option<HubTransport>,
}

impl Telemetry {
    /// A batch of `readings` took `us` microseconds in the pipeline.
    pub fn inference(&self, readings: usize, us: u64) {
        self.0.inferred.fetch_add(readings as u64, Ordering::Relaxed);
        self.0.inference_us.fetch_add(us, Ordering::Relaxed);
    }

    /// A model was loaded on this device.
    pub fn runs_on(&self, device: DeviceKind) {
        *self.0.device.lock().unwrap_or_else(PoisonError::into_inner) = Some(device);
    }

    /// `predictions` could not be published.
    pub fn unpublished(&self, predictions: usize) {
        self.0.unpublished.fetch_add(predictions as u64, Ordering::Relaxed);
    }

    /// A QoS 0 message was dropped.
    pub fn overflowed(&self) {
        self.0.overflowed.fetch_add(1, Ordering::Relaxed);
    }

    /// The broker is connected.
    pub fn broker_connected(&self, version: Version) {
        *self.broker() = Broker { version: Some(version), problem: None };
    }

    /// The broker is away, or does not want us.
    pub fn broker_away(&self, problem: String) {
        *self.broker() = Broker { version: None, problem: Some(problem) };
    }

    /// The broker is connected, but something is wrong.
    pub fn broker_problem(&self, problem: String) {
        self.broker().problem = Some(problem);
    }

    fn broker(&self) -> std::sync::MutexGuard<'_, Broker> {
        self.0.broker.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A connection to the hub stands, or none does.
    pub fn hub_transport(&self, transport: Option<HubTransport>) {
        self.0.hub_transport.store(transport.map_or(0, |transport| transport as u8 + 1), Ordering::Relaxed);
    }

    /// The counters now.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let inferred = load(&self.0.inferred);
        Snapshot {
            inferred,
            inference_us: load(&self.0.inference_us) as f64 / inferred.max(1) as f64,
            device: *self.0.device.lock().unwrap_or_else(PoisonError::into_inner),
            unpublished: load(&self.0.unpublished),
            overflowed: load(&self.0.overflowed),
            broker: self.broker().clone(),
            hub_transport: match self.0.hub_transport.load(Ordering::Relaxed) {
                0 => None,
                1 => Some(HubTransport::Quic),
                _ => Some(HubTransport::Tcp),
            },
        }
    }
}
