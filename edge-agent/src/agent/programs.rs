//! The agent's own program, kept up to date while it runs.

use std::sync::Arc;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::clock::{Clock, WallClock};
use crate::config::{Config, Hub};
use crate::core::EdgeCore;
use crate::core::programs::BoxHealth;
use crate::credentials::Credentials;
use crate::program::{ProgramFolder, Running};
use crate::telemetry::Telemetry;
use crate::upkeep::Upkeep;

/// What the loop tells whoever looks after programs, and hears from them.
pub(super) struct Programs {
    health: watch::Sender<BoxHealth>,
    start_over: CancellationToken,
    number: u64,
}

impl Programs {
    pub(super) fn of(running: Option<&Running>) -> Self {
        let (health, start_over) = (watch::Sender::new(BoxHealth::default()), CancellationToken::new());
        Self { health, start_over, number: running.map_or(0, |running| running.number) }
    }

    /// What looks after them at a hub.
    pub(super) fn upkeep(
        &self,
        config: &Config,
        hub: &Hub,
        credentials: &Arc<Credentials>,
        running: Running,
        (clock, wall): (Clock, &WallClock),
    ) -> Upkeep {
        Upkeep {
            hubs: hub.places.iter().map(|place| place.tcp_address.clone()).collect(),
            server_name: hub.server_name.clone(),
            credentials: Arc::clone(credentials),
            folder: ProgramFolder::of(&config.agent.state_directory),
            trusted: config.update.trust.clone(),
            running,
            interval_ms: config.update.interval_ms,
            settle_ms: config.update.settle_ms,
            clock,
            wall: wall.clone(),
            health: self.health.subscribe(),
            start_over: self.start_over.clone(),
        }
    }

    /// How the box is.
    pub(super) fn look(&self, core: &EdgeCore, telemetry: &Telemetry) {
        let has_broker = telemetry.snapshot().broker.version.is_some();
        let health = BoxHealth { has_hub: core.is_connected(), has_broker, has_model: core.serving().is_some() };
        self.health.send_replace(health);
    }

    /// The number of the program that runs.
    pub(super) fn number(&self) -> u64 {
        self.number
    }

    /// Ends when another program is to be started.
    pub(super) async fn start_over(&self) {
        self.start_over.cancelled().await;
    }
}
