//! What the agent and the hub must agree on, written once.
//!
//! Ids and readings, the wire format, the package format, the pipeline that turns readings into predictions and the
//! segment log both sides keep events in. There is no runtime here and no IO except [`seglog::file`]; without the
//! feature `model` there is no burn either.

pub mod config;
pub mod drift;
pub mod enrolment;
pub mod event;
pub mod heartbeat;
pub mod ids;
pub mod limits;
pub mod package;
pub mod pipeline;
pub mod program;
pub mod seglog;
pub mod table;
pub mod wire;

#[cfg(feature = "model")]
pub mod device;
