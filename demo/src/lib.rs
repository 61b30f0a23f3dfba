//! The whole of Tideline in one process: broker, hub, agents and a plant.
//!
//! A [`scenario`] says what is published; the [`plant`] is one that needs no file. [`site`] sets up a broker, a hub and
//! agents as a user would, with configuration files and certificates; [`publish`] and [`observe`] are MQTT clients of
//! their own, as a plant's and a consumer's would be; [`play`] runs the phases; [`summary`] says what came of it. [`fleet`] carries out
//! plans with many agents instead.

pub mod broker;
pub mod fleet;
pub mod hold;
pub mod hub_api;
pub mod observe;
pub mod plant;
pub mod play;
pub mod publish;
pub mod scenario;
pub mod score;
pub mod site;
pub mod story;
pub mod summary;
