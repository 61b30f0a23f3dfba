//! Tideline's agent.
//!
//! Readings come in over MQTT, are made durable in the spool, acknowledged, answered by a model on the box and synced
//! to the hub. `core` decides, in a state machine without IO; the shells `ingest`, `spool`, `infer`, `store`,
//! `artifacts`, `link` and `enrol` each do one kind of IO; `agent` wires them.

pub mod agent;
pub mod artifacts;
pub mod asyncapi;
pub mod clock;
pub mod config;
pub mod core;
pub mod crash_reports;
pub mod credentials;
pub mod enrol;
pub mod identity;
pub mod infer;
pub mod ingest;
pub mod learn;
pub mod link;
pub mod logging;
pub mod machine;
pub mod page;
pub mod preview;
pub mod program;
pub mod score;
pub mod spool;
pub mod status;
pub mod store;
pub mod talk;
pub mod telemetry;
pub mod tls;
pub mod upkeep;
