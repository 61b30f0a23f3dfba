//! The model: whether it runs on the box's device, and how long until it says something.

use serde_json::Value;
use shared::device::{DeviceChoice, DeviceError, DeviceKind};
use shared::package::Package;
use shared::package::signature;
use shared::pipeline::runner::RunnerInput;

use super::{Check, Part};
use crate::artifacts::Artifacts;
use crate::clock::Clock;
use crate::config::Config;

const DEVICE: Part = Part { name: "device", why: "models run on it" };
const MODEL: Part = Part { name: "model", why: "without one readings are kept and delivered, and nobody answers them" };

/// What to do where a GPU is not seen.
const DRIVER: &str = "install the GPU's Vulkan driver (Debian: mesa-vulkan-drivers), let the agent's user into the groups video and render, \
                      or take model.device = \"flex\"";

/// Milliseconds from a start to the first prediction that are promised for a small model.
const PROMISED_MS: u64 = 150;

pub(super) fn examine(config: &Config, running: Option<&Value>, clock: &Clock) -> Vec<Check> {
    let device = device(config.model.device);
    let model = match newest(config, clock) {
        Ok(Some(saw)) => MODEL.good(saw),
        Ok(None) => MODEL.doubtful(
            "there is none yet",
            "the hub trains the first from readings that are marked known-normal; cloud-hub ctl models shows what it has",
        ),
        Err(problem) => MODEL.bad(
            problem,
            "the agent goes back to the version before; cloud-hub ctl rollouts at the hub says what became of this one",
        ),
    };
    let serving = running.map(|status| &status["model"]).filter(|model| !model.is_null());
    let model = match serving {
        Some(serving) => {
            let mean_us = running.and_then(|status| status["predictions"]["mean_inference_us"].as_f64()).unwrap_or(0.0);
            let name = serving["name"].as_str().unwrap_or_default();
            let in_service = format!("{name} version {} serves, {mean_us:.0} us an answer", serving["version"]);
            Check { saw: format!("{in_service}; {}", model.saw), ..model }
        }
        None => model,
    };
    vec![device, model]
}

fn device(choice: DeviceChoice) -> Check {
    let built_in = DeviceKind::ALL.into_iter().filter(|kind| kind.is_built_in());
    let asked: Vec<DeviceKind> = match choice {
        DeviceChoice::Fixed(kind) => vec![kind],
        DeviceChoice::Auto => built_in.clone().collect(),
    };
    let built_in: Vec<String> = built_in.map(|kind| kind.to_string()).collect();
    let mut saw = format!("{choice} is asked for; built in are {}", built_in.join(", "));
    let mut problem = None;
    for kind in asked {
        match kind.adapter() {
            Ok(Some(adapter)) => saw.push_str(&format!("; {kind} is {adapter}")),
            Ok(None) => {}
            Err(error) => {
                saw.push_str(&format!("; {error}"));
                problem = Some(error);
            }
        }
    }
    match (problem, choice) {
        (None, _) => DEVICE.good(saw),
        (Some(DeviceError::NotBuiltIn(_)), _) => {
            DEVICE.bad(saw, "install tideline-edge-gpu for wgpu, or take model.device = \"flex\"")
        }
        (Some(_), DeviceChoice::Fixed(_)) => DEVICE.bad(saw, DRIVER),
        // Another one runs the model, and somebody put the program with this one on the box.
        (Some(_), DeviceChoice::Auto) => DEVICE.doubtful(saw, DRIVER),
    }
}

/// Loads the newest package as the agent would, and has it answer once; nothing if there is none.
fn newest(config: &Config, clock: &Clock) -> Result<Option<String>, String> {
    let directory = config.agent.state_directory.join("models");
    let Some((path, bytes)) = Artifacts::newest(&directory).map_err(|error| format!("failed to {error}"))? else {
        return Ok(None);
    };
    let at = |problem: String| format!("{}: {problem}", path.display());
    if !config.model.trust.is_empty() {
        // What serves already goes on when its signature has expired.
        let _vouched = signature::verify(&bytes, &config.model.trust).map_err(|error| at(error.to_string()))?;
    }
    let begun_us = clock.monotonic_us();
    let (package, _) = Package::open(&bytes, None).map_err(|error| at(error.to_string()))?;
    let clock_us = || clock.monotonic_us();
    let mut chosen = package.load_on(config.model.device, &clock_us).map_err(|error| at(error.to_string()))?;
    let loaded_us = clock.monotonic_us();
    let golden = &package.golden;
    let inputs: Vec<RunnerInput<'_>> = golden
        .readings
        .iter()
        .map(|(time_ms, values)| RunnerInput { schema: &golden.schema, time_ms: *time_ms, values })
        .collect();
    let answers = chosen.runner.run(&inputs).len();
    let answered_us = clock.monotonic_us() - loaded_us;
    let first_ms = (loaded_us - begun_us + answered_us / answers.max(1) as u64).div_ceil(1000);
    let slow = if first_ms > PROMISED_MS { ", which is slow" } else { "" };
    Ok(Some(format!(
        "{} version {} runs on {} and gives its golden answers; first prediction {first_ms} ms after its file is read{slow}",
        package.manifest.model, package.manifest.version, chosen.device
    )))
}
