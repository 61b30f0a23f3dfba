//! The hub's metrics, as OpenMetrics and as the text format that was before it.
//!
//! Names follow Prometheus' conventions: base units, `_total` for what only grows. Labels are few and bounded: a fleet of a
//! thousand boxes must not make a thousand series. What is of one box is in the HTTP interface.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;

use crate::view::{HealthCounts, Overview};

/// Upper bounds of the seconds that answers take.
const ANSWER_BUCKETS_S: [f64; 9] = [0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0];

/// A box's health.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct HealthLabel {
    health: &'static str,
}

/// A version in service.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, EncodeLabelSet)]
pub struct VersionLabel {
    model: String,
    version: u32,
}

/// A request.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct RequestLabel {
    /// The route, as the table of routes has it.
    pub route: &'static str,
    /// The method.
    pub method: String,
    /// The status of the answer.
    pub status: u16,
}

/// The hub's counters and gauges. Clones share them.
#[derive(Debug, Clone)]
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
    /// Requests that were answered.
    pub requests: Family<RequestLabel, Counter>,
    /// How long answers took.
    pub request_seconds: Histogram,
    agents: Family<HealthLabel, Gauge>,
    serving: Family<VersionLabel, Gauge>,
    /// The versions that have a series.
    shown: Arc<Mutex<BTreeSet<VersionLabel>>>,
    pending: Gauge,
    gone: Gauge,
    alarms: Gauge,
    unreviewed: Gauge,
    rollouts: Gauge,
    awaiting_approval: Gauge,
}

impl Default for Telemetry {
    fn default() -> Self {
        Self {
            batches: Counter::default(),
            readings: Counter::default(),
            predictions: Counter::default(),
            package_bytes: Counter::default(),
            package_bytes_sent: Counter::default(),
            compactions: Counter::default(),
            compaction_failures: Counter::default(),
            agents_connected: Gauge::default(),
            streams_in_drift: Gauge::default(),
            training_runs: Gauge::default(),
            ingest_log_batches: Gauge::default(),
            requests: Family::default(),
            request_seconds: Histogram::new(ANSWER_BUCKETS_S),
            agents: Family::default(),
            serving: Family::default(),
            shown: Arc::default(),
            pending: Gauge::default(),
            gone: Gauge::default(),
            alarms: Gauge::default(),
            unreviewed: Gauge::default(),
            rollouts: Gauge::default(),
            awaiting_approval: Gauge::default(),
        }
    }
}

impl Telemetry {
    /// Takes the fleet's figures.
    pub fn look(&self, overview: &Overview) {
        let HealthCounts { healthy, attention, offline, .. } = overview.agents;
        for (health, count) in [("healthy", healthy), ("attention", attention), ("offline", offline)] {
            self.agents.get_or_create(&HealthLabel { health }).set(count as i64);
        }
        let mut shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        let mut stale = std::mem::take(&mut *shown);
        for share in &overview.serving {
            let label = VersionLabel { model: share.model.clone(), version: share.version };
            self.serving.get_or_create(&label).set(share.boxes as i64);
            stale.remove(&label);
            shown.insert(label);
        }
        // What no box serves any more has no series.
        stale.iter().for_each(|label| {
            self.serving.remove(label);
        });
        self.streams_in_drift.set(overview.drifting as i64);
        self.pending.set(i64::try_from(overview.pending).unwrap_or(i64::MAX));
        self.gone.set(i64::try_from(overview.gone).unwrap_or(i64::MAX));
        self.alarms.set(overview.alarms as i64);
        self.unreviewed.set(overview.unreviewed as i64);
        self.rollouts.set(overview.rollouts as i64);
        self.awaiting_approval.set(overview.awaiting_approval as i64);
    }

    /// The metrics as OpenMetrics 1.0.
    #[must_use]
    pub fn render(&self) -> String {
        let mut registry = Registry::with_prefix("tideline");
        let r = &mut registry;
        r.register("build", "The hub's release", Info::new(vec![("version", env!("CARGO_PKG_VERSION"))]));
        r.register("ingest_batches", "Event batches made durable", self.batches.clone());
        r.register("ingest_readings", "Readings made durable", self.readings.clone());
        r.register("ingest_predictions", "Predictions made durable", self.predictions.clone());
        r.register("package_bytes", "Bytes of packages given to agents", self.package_bytes.clone());
        r.register("package_bytes_sent", "What these took on the wire", self.package_bytes_sent.clone());
        r.register("compactions", "Compactions into the sample store", self.compactions.clone());
        r.register("compaction_failures", "Compactions that failed", self.compaction_failures.clone());
        r.register("agents_connected", "Agents connected now", self.agents_connected.clone());
        r.register("agents", "Agents by health", self.agents.clone());
        r.register("model_boxes", "Boxes that serve a version", self.serving.clone());
        r.register("pending_events", "Events that boxes have and the hub has not", self.pending.clone());
        r.register("gone_events", "Events that boxes say are gone", self.gone.clone());
        r.register("streams_in_drift", "Streams whose drift alarm is up", self.streams_in_drift.clone());
        r.register("alarms_up", "Streams that are mostly called anomalous now", self.alarms.clone());
        r.register("alarms_unreviewed", "Alarms that nobody has looked at", self.unreviewed.clone());
        r.register("rollouts", "Rollouts that are not over", self.rollouts.clone());
        r.register("rollouts_awaiting_approval", "Rollouts that wait for somebody", self.awaiting_approval.clone());
        r.register("training_runs", "Training runs under way", self.training_runs.clone());
        r.register("ingest_log_batches", "Batches not yet in the sample store", self.ingest_log_batches.clone());
        r.register("http_requests", "Requests answered", self.requests.clone());
        r.register("http_request_seconds", "How long answers took", self.request_seconds.clone());
        let mut text = String::new();
        match encode(&mut text, &registry) {
            Ok(()) => text,
            Err(_) => String::new(),
        }
    }

    /// The metrics in Prometheus' text format 0.0.4, for whoever does not ask for OpenMetrics.
    #[must_use]
    pub fn render_plain(&self) -> String {
        plain(&self.render())
    }
}

/// OpenMetrics as the format before it: there, a counter's name has its ending also where it is described, an info is a
/// gauge, and nothing says where the text ends.
fn plain(text: &str) -> String {
    let kind = |name: &str| {
        let of_name = format!("# TYPE {name} ");
        text.lines().find_map(|line| line.strip_prefix(of_name.as_str())).unwrap_or_default()
    };
    let mut plain = String::with_capacity(text.len());
    for line in text.lines() {
        let mut words = line.splitn(4, ' ');
        let (hash, what, name, rest) = (words.next(), words.next(), words.next(), words.next());
        match (hash, what, name, rest) {
            (Some("#"), Some("EOF" | "UNIT"), ..) => continue,
            (Some("#"), Some(what), Some(name), Some(rest)) => match kind(name) {
                "counter" => plain += &format!("# {what} {name}_total {rest}"),
                "info" => plain += &format!("# {what} {name}_info {}", if what == "TYPE" { "gauge" } else { rest }),
                _ => plain += line,
            },
            _ => plain += line,
        }
        plain.push('\n');
    }
    plain
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

    #[test]
    fn the_older_format_describes_what_it_shows() {
        let telemetry = Telemetry::default();
        telemetry.requests.get_or_create(&RequestLabel { route: "/livez", method: "GET".into(), status: 200 }).inc();
        let text = telemetry.render_plain();
        for line in [
            "# TYPE tideline_http_requests_total counter",
            "tideline_http_requests_total{route=\"/livez\",method=\"GET\",status=\"200\"} 1",
            "# TYPE tideline_build_info gauge",
            "# TYPE tideline_http_request_seconds histogram",
            "# HELP tideline_agents_connected Agents connected now.",
        ] {
            assert!(text.lines().any(|known| known == line), "{line}\n{text}");
        }
        assert!(!text.contains("# EOF"));
    }

    #[test]
    fn a_version_that_no_box_serves_has_no_series() {
        let telemetry = Telemetry::default();
        let share = |version| crate::view::ModelShare { model: "m".into(), version, boxes: 3, is_champion: true };
        telemetry.look(&Overview { serving: vec![share(1)], ..Overview::default() });
        telemetry.look(&Overview { serving: vec![share(2)], ..Overview::default() });
        let text = telemetry.render();
        assert!(text.contains("tideline_model_boxes{model=\"m\",version=\"2\"} 3"), "{text}");
        assert!(!text.contains("version=\"1\""), "{text}");
    }
}
