//! Tideline's hub.
//!
//! Agents connect over QUIC and deliver event batches; the hub makes them durable, acknowledges them, compacts them
//! into Parquet, watches every stream for drift, retrains, proves candidates and offers them. `core` decides, in a state
//! machine without IO; the shells `link`, `ingest_log`, `samples`, `store`, `artifacts`, `step_files`, `train` and `api` each do one
//! kind of IO; `hub` wires them.

pub mod api;
pub mod artifacts;
pub mod audit;
pub mod authority;
pub mod clock;
pub mod config;
pub mod core;
pub mod files;
pub mod hub;
pub mod identity;
pub mod image;
pub mod import;
pub mod ingest_log;
pub mod inspect;
pub mod install;
pub mod link;
pub mod recipe;
pub mod release_key;
pub mod samples;
pub mod secret;
pub mod step_files;
pub mod store;
pub mod telemetry;
pub mod tracked_files;
pub mod train;
pub mod view;
