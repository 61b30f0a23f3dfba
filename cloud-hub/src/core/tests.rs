//! Tests of the core as a whole.

mod shells;
mod support;
mod world;
