//! Tests of the pair as users run it.

#![cfg(test)]

mod access;
mod api;
mod broker_tls;
mod command_line;
mod diagnosis;
mod dialects;
mod enrolment;
mod fleet;
mod fuzz;
mod import;
mod install;
mod kills;
mod lanes;
mod memory;
mod models;
mod parity;
mod programs;
mod scenario;
mod service;
mod simulation;
mod stolen_hub;
mod tidy;
mod torture;
