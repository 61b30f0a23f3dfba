//! What the service manager is told, if one asks (systemd: `Type=notify`, `WatchdogSec=`): that the agent is up, that each of its
//! parts gets on, and that it stops.

use std::time::Duration;

use sd_notify::NotifyState;
use shared::heartbeat::{Heartbeat, Part};
use tokio::time::{Interval, MissedTickBehavior};
use tracing::{debug, error};

use crate::clock::Clock;

/// Milliseconds that the disk may take for one thing: a worn card stalls for seconds, one that takes longer is dead.
const DISK_LIMIT_MS: u64 = 60_000;
/// The same for a model: a graphics driver compiles for a while when it is loaded.
const MODEL_LIMIT_MS: u64 = 120_000;
/// Pings in the time that the service manager allows for one.
const PINGS: u32 = 3;

/// Tells the service manager.
pub(super) struct Watchdog {
    heartbeat: Heartbeat,
    pings: Option<Interval>,
}

/// The parts that work in threads of their own.
pub(super) struct Parts {
    pub(super) spool: Part,
    pub(super) store: Part,
    pub(super) infer: Part,
}

impl Parts {
    pub(super) fn new() -> Self {
        Self { spool: Part::new("spool"), store: Part::new("store"), infer: Part::new("infer") }
    }
}

impl Watchdog {
    /// Watches these parts. The agent's own loop is watched by its having to call [`Watchdog::ping`].
    pub(super) fn new(parts: &Parts) -> Self {
        let mut heartbeat = Heartbeat::default();
        heartbeat.watch(&parts.spool, DISK_LIMIT_MS);
        heartbeat.watch(&parts.store, DISK_LIMIT_MS);
        heartbeat.watch(&parts.infer, MODEL_LIMIT_MS);
        let pings = sd_notify::watchdog_enabled().map(|allowed: Duration| {
            let mut pings = tokio::time::interval((allowed / PINGS).max(Duration::from_millis(1)));
            pings.set_missed_tick_behavior(MissedTickBehavior::Delay);
            pings
        });
        Self { heartbeat, pings }
    }

    /// Whether a service manager started the agent, and would start it anew.
    pub(super) fn is_asked() -> bool {
        #[expect(clippy::disallowed_methods, reason = "the service manager says so in no other way")]
        std::env::var_os("NOTIFY_SOCKET").is_some()
    }

    /// When it is time for a ping; never, if nobody waits for one.
    pub(super) async fn due(&mut self) {
        match &mut self.pings {
            Some(pings) => drop(pings.tick().await),
            None => std::future::pending().await,
        }
    }

    /// All is well, unless a part hangs: then nothing is said, and the service manager starts the agent anew.
    pub(super) fn ping(&self, clock: Clock) {
        let mut is_well = true;
        for (part, busy_ms) in self.heartbeat.hanging(clock.monotonic().0) {
            error!(part, busy_ms, "a part hangs; the service manager is not told that all is well");
            is_well = false;
        }
        if is_well {
            tell(&[NotifyState::Watchdog]);
        }
    }

    /// The agent is up.
    pub(super) fn ready(&self) {
        tell(&[NotifyState::Ready]);
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
