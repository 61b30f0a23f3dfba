//! The device that runs a package fastest, among those that give its golden answers.

use std::panic::{AssertUnwindSafe, catch_unwind};

use super::{LoadError, Package};
use crate::device::{DeviceChoice, DeviceKind};
use crate::pipeline::runner::Runner;

/// Runs over the golden readings whose fastest counts: the first ones find compiled shaders and warm caches.
const RUNS: usize = 5;

/// A package on the device that was chosen for it.
#[derive(Debug)]
pub struct Chosen {
    /// The device.
    pub device: DeviceKind,
    /// The pipeline on it.
    pub runner: Runner,
    /// Why it, in words; empty if it was not a choice.
    pub reason: String,
}

/// Why no device can run a package.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct NoDevice(String);

impl Package {
    /// Loads the package on the device that was asked for, or, to choose, on every device that is built in, and takes the one
    /// that goes through the golden readings fastest. `clock_us` reads a clock in microseconds.
    ///
    /// # Errors
    /// If the device is not there or the package does not run on it; to choose, if it runs on none.
    pub fn load_on(&self, choice: DeviceChoice, clock_us: &dyn Fn() -> u64) -> Result<Chosen, NoDevice> {
        let kind = match choice {
            DeviceChoice::Fixed(kind) => kind,
            DeviceChoice::Auto => return self.choose(clock_us),
        };
        let runner =
            unbroken(|| self.load(&kind.open().map_err(|error| error.to_string())?).map_err(|error| error.to_string()));
        Ok(Chosen { device: kind, runner: runner.map_err(NoDevice)?, reason: String::new() })
    }

    fn choose(&self, clock_us: &dyn Fn() -> u64) -> Result<Chosen, NoDevice> {
        let mut reason = String::new();
        let mut best: Option<(u64, DeviceKind, Runner)> = None;
        for kind in DeviceKind::ALL.into_iter().filter(|kind| kind.is_built_in()) {
            match unbroken(|| self.try_on(kind, clock_us)) {
                Ok((us, runner)) => {
                    reason.push_str(&format!("{kind} {us} us; "));
                    if best.as_ref().is_none_or(|(fastest, ..)| us < *fastest) {
                        best = Some((us, kind, runner));
                    }
                }
                Err(problem) => reason.push_str(&format!("{kind}: {problem}; ")),
            }
        }
        let count = self.golden.readings.len();
        match best {
            Some((_, device, runner)) => {
                let reason =
                    format!("{count} golden readings take {reason}the fastest with the right answers is {device}");
                Ok(Chosen { device, runner, reason })
            }
            None => Err(NoDevice(format!("no device runs it: {}", reason.trim_end_matches("; ")))),
        }
    }

    fn try_on(&self, kind: DeviceKind, clock_us: &dyn Fn() -> u64) -> Result<(u64, Runner), String> {
        let device = kind.open().map_err(|error| error.to_string())?;
        let runner = self.load(&device).map_err(|error: LoadError| error.to_string())?;
        let mut fastest = u64::MAX;
        for _ in 0..RUNS {
            let mut probe = self.rebuild(&device).map_err(|error| error.to_string())?;
            let started = clock_us();
            self.golden.answer(&mut probe);
            fastest = fastest.min(clock_us() - started);
        }
        Ok((fastest, runner))
    }
}

/// What `load` gives. A driver that cannot do what is asked of it panics where a device is first used.
fn unbroken<T>(load: impl FnOnce() -> Result<T, String>) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(load)).unwrap_or_else(|_| Err("it broke off as it was loaded".to_owned()))
}
