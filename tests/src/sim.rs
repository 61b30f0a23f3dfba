//! A world in which boxes, their brokers, disks and links, and a hub live by a virtual clock, and everything goes wrong.
//!
//! The cores and the segment log are the real ones; what a shell does with a socket or a thread is done here by hand. A
//! seed makes a world: what happens, and the plan of its faults. [`truth`] keeps its own account of every reading and
//! compares after every step. When the faults are over, everything must come to rest, and every reading must be where
//! it was promised to be.
#![expect(clippy::expect_used, reason = "a world whose own assumptions fail is broken, and is reported with its seed")]

mod broker;
pub mod bugs;
mod edge;
pub mod errors;
pub mod faults;
mod hub;
mod link;
mod models;
pub mod random;
pub mod report;
mod rollouts;
pub mod shrink;
mod truth;
pub mod world;
