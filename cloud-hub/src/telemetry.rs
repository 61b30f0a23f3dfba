//! The hub's metrics, in the OpenMetrics text format.

use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

/// The hub's counters and gauges. Clones share them.
#[derive(Debug, Clone, Default)]
pub struct Telemetry {
    /// Batches made durable.
    pub batches: Counter,
    /// Readings made durable.
    pub readings: Counter,
    /// Predictions made durable.
    pub predictions: Counter,
    /// Bytes of packages that agents were given.
    pub package_bytes: Counter,
    /// Bytes that this took on the wire: less, where an agent had something alike.
    pub package_bytes_sent: Counter,
    /// Compactions that ended well.
    pub compactions: Counter,
    /// Compactions that failed.
    pub compaction_failures: Counter,
    /// Agents connected.
    pub agents_connected: Gauge,
    /// Streams in drift.
    pub streams_in_drift: Gauge,
    /// Training runs under way.
    pub training_runs: Gauge,
    /// Batches durable and not yet in the sample store.
    pub ingest_log_batches: Gauge,
}

impl Telemetry {
    /// The metrics as text.
    #[must_use]
    pub fn render(&self) -> String {
        let mut registry = Registry::with_prefix("tideline");
        let r = &mut registry;
        r.register("ingest_batches", "Event batches made durable", self.batches.clone());
        r.register("ingest_readings", "Readings made durable", self.readings.clone());
        r.register("ingest_predictions", "Predictions made durable", self.predictions.clone());
        r.register("package_bytes", "Bytes of packages given to agents", self.package_bytes.clone());
        r.register("package_bytes_sent", "What these took on the wire", self.package_bytes_sent.clone());
        r.register("compactions", "Compactions into the sample store", self.compactions.clone());
        r.register("compaction_failures", "Compactions that failed", self.compaction_failures.clone());
        r.register("agents_connected", "Agents connected now", self.agents_connected.clone());
        r.register("streams_in_drift", "Streams whose drift alarm is up", self.streams_in_drift.clone());
        r.register("training_runs", "Training runs under way", self.training_runs.clone());
        r.register("ingest_log_batches", "Batches not yet in the sample store", self.ingest_log_batches.clone());
        let mut text = String::new();
        match encode(&mut text, &registry) {
            Ok(()) => text,
            Err(_) => String::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_have_the_prefix_and_counters_end_in_total() {
        let telemetry = Telemetry::default();
        telemetry.readings.inc_by(7);
        let text = telemetry.render();
        assert!(text.contains("tideline_ingest_readings_total 7"), "{text}");
        assert!(text.contains("tideline_agents_connected 0"));
    }
}
