//! What the service manager is told, if one asks: that the hub is up, that it gets on, and that it stops.

use std::time::Duration;

use sd_notify::NotifyState;
use shared::heartbeat::{Heartbeat, Part};
use tokio::time::{Interval, MissedTickBehavior};
use tracing::{debug, error};

use crate::clock::Stopwatch;

/// Milliseconds that the disk may take for one thing.
const DISK_LIMIT_MS: u64 = 60_000;
/// Pings in the time that the service manager allows for one.
const PINGS: u32 = 3;

/// Tells the service manager.
pub(super) struct Watchdog {
    heartbeat: Heartbeat,
    pings: Option<Interval>,
    clock: Stopwatch,
}

impl Watchdog {
    /// Watches the ingest log, which says by `clock` what it does. The hub's own loop is watched by its having to call
    /// [`Watchdog::ping`].
    pub(super) fn new(ingest_log: &Part, clock: Stopwatch) -> Self {
        let mut heartbeat = Heartbeat::default();
        heartbeat.watch(ingest_log, DISK_LIMIT_MS);
        Self { heartbeat, pings: None, clock }
    }

    /// The hub is up. From now on it has to say that all is well, if somebody waits for it.
    pub(super) fn ready(&mut self) {
        self.pings = sd_notify::watchdog_enabled().map(|allowed| {
            let mut pings = tokio::time::interval((allowed / PINGS).max(Duration::from_millis(1)));
            pings.set_missed_tick_behavior(MissedTickBehavior::Delay);
            pings
        });
        tell(&[NotifyState::Ready]);
    }

    /// When it is time for a ping; never, if nobody waits for one.
    pub(super) async fn due(&mut self) {
        match &mut self.pings {
            Some(pings) => drop(pings.tick().await),
            None => std::future::pending().await,
        }
    }

    /// All is well, unless the disk hangs: then nothing is said, and the service manager starts the hub anew.
    pub(super) fn ping(&self) {
        let mut is_well = true;
        for (part, busy_ms) in self.heartbeat.hanging(self.clock.millis()) {
            error!(part, busy_ms, "a part hangs; the service manager is not told that all is well");
            is_well = false;
        }
        if is_well {
            tell(&[NotifyState::Watchdog]);
        }
    }

    /// It stops, which may take a while.
    pub(super) fn stopping(&self) {
        tell(&[NotifyState::Stopping]);
    }
}

fn tell(state: &[NotifyState<'_>]) {
    if let Err(failure) = sd_notify::notify(state) {
        debug!("failed to tell the service manager: {failure}");
    }
}
