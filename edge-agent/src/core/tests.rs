//! Tests of the core as a whole: its promises one by one, and a world of disasters in which all of them must hold.

mod conversation;
mod delivery;
mod disasters;
mod models;
mod rig;
mod world;
