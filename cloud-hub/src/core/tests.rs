//! Tests of the core as a whole: examples of what it decides, and worlds in which everything goes wrong.

mod delivery;
mod hub;
mod learning;
mod shells;
mod support;
mod world;
