//! `simulate`: lets many worlds live and says which of them broke.

use std::io::{IsTerminal, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use clap::{Parser, ValueEnum};
use edge_agent::clock::Clock;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};
use tests::sim::bugs::Bug;
use tests::sim::faults::{self, Climate, Planned};
use tests::sim::report::Tally;
use tests::sim::world::{self, Outcome};
use tests::sim::{errors, shrink};

/// Seeds in which each planted bug must be caught.
const SEEDS_TO_CATCH: u64 = 2_000;

/// Lets agents, brokers, disks, links and a hub live in simulated worlds where everything goes wrong.
#[derive(Parser)]
#[command(max_term_width = 100)]
struct Arguments {
    /// How many worlds.
    #[arg(long, default_value_t = 1_000)]
    seeds: u64,
    /// The seed of the first.
    #[arg(long, default_value_t = 0)]
    first: u64,
    /// Only this world; says what happened in it.
    #[arg(long, conflicts_with_all = ["seeds", "first", "plant"])]
    seed: Option<u64>,
    /// With `--seed`: only these faults of its plan, by number.
    #[arg(long, requires = "seed", value_delimiter = ',')]
    faults: Option<Vec<usize>>,
    /// Cuts the fault plan of a broken world down to what it takes to break it.
    #[arg(long)]
    shrink: bool,
    /// Plants a bug, or `all` of them one after another, and says which seed catches it.
    #[arg(long)]
    plant: Option<String>,
    /// With `--seed`: a bug to plant in it.
    #[arg(long, requires = "seed")]
    with: Option<String>,
    /// How to show the result.
    #[arg(long, value_enum, default_value_t = Output::Text)]
    output: Output,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Output {
    Text,
    Json,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    errors::listen();
    // What broke a world is reported with its seed.
    std::panic::set_hook(Box::new(|_| {}));
    let result = match (&arguments.plant, arguments.seed) {
        (Some(name), _) => plant(name, arguments.output),
        (None, Some(seed)) => replay(&arguments, seed),
        (None, None) => explore(&arguments),
    };
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(problem) => {
            say(&mut std::io::stderr(), &format!("error: {problem}"));
            ExitCode::from(2)
        }
    }
}

/// Lives many worlds; true if none broke.
fn explore(arguments: &Arguments) -> Result<bool, String> {
    let clock = Clock::start();
    let seeds = arguments.first..arguments.first + arguments.seeds;
    let (tally, broken) = live_all(seeds, None, false);
    let seconds = clock.monotonic().as_seconds();
    let failures: Vec<Value> = broken.iter().map(|(seed, outcome)| failure(*seed, outcome, arguments.shrink)).collect();
    match arguments.output {
        Output::Json => print(
            &json!({
                "seeds": arguments.seeds,
                "violations": broken.len(),
                "steps": tally.steps,
                "crashes": tally.crashes,
                "partitions": tally.partitions,
                "disk_faults": tally.disk_faults,
                "entries": tally.entries,
                "drops": tally.drops,
                "shed": tally.shed,
                "pictures": tally.pictures,
                "releases": tally.releases,
                "seconds": seconds,
                "failures": failures,
            })
            .to_string(),
        ),
        Output::Text => {
            print(&format!(
                "{} worlds, {} steps, {} crashes, {} partitions, {} disk faults, {} entries delivered, {} times events \
                 dropped, {} readings let go, {} live pictures, {} versions, in {seconds:.1} s: {} broke",
                arguments.seeds,
                tally.steps,
                tally.crashes,
                tally.partitions,
                tally.disk_faults,
                tally.entries,
                tally.drops,
                tally.shed,
                tally.pictures,
                tally.releases,
                broken.len()
            ));
            failures.iter().for_each(|failure| print(&failure_text(failure)));
        }
    }
    Ok(broken.is_empty())
}

/// Plants bugs; true if every one was caught.
fn plant(name: &str, output: Output) -> Result<bool, String> {
    let bugs = match (name, Bug::named(name)) {
        ("all", _) => Bug::ALL.to_vec(),
        (_, Some(bug)) => vec![bug],
        (_, None) => {
            let known: Vec<&str> = Bug::ALL.iter().map(|bug| bug.name()).collect();
            return Err(format!("{name:?} is no bug to plant; there are all, {}", known.join(", ")));
        }
    };
    let mut all = Vec::new();
    for bug in bugs {
        let (_, broken) = live_all(0..SEEDS_TO_CATCH, Some(bug), true);
        let first = broken.first();
        let why = first.and_then(|(_, outcome)| outcome.violation.as_ref()).map(|(_, violation)| violation.clone());
        let (seed, caught) = (first.map(|(seed, _)| *seed), first.is_some());
        if output == Output::Text {
            match seed {
                Some(seed) => {
                    print(&format!("{}: caught by seed {seed}: {}", bug.name(), why.clone().unwrap_or_default()));
                }
                None => print(&format!("{}: NOT caught in {SEEDS_TO_CATCH} seeds", bug.name())),
            }
        }
        all.push(json!({ "bug": bug.name(), "caught": caught, "seed": seed, "violation": why }));
    }
    let all_caught = all.iter().all(|bug| bug["caught"] == true);
    if output == Output::Json {
        print(&json!({ "planted": all, "all_caught": all_caught }).to_string());
    }
    Ok(all_caught)
}

/// Lives one world; true if it did not break.
fn replay(arguments: &Arguments, seed: u64) -> Result<bool, String> {
    let bug = match &arguments.with {
        Some(name) => Some(Bug::named(name).ok_or_else(|| format!("{name:?} is no bug to plant"))?),
        None => None,
    };
    let whole = plan_of(seed);
    let plan: Vec<Planned> = match &arguments.faults {
        Some(numbers) => numbers.iter().filter_map(|number| whole.get(*number).copied()).collect(),
        None => whole.clone(),
    };
    for planned in &plan {
        let number = whole.iter().position(|other| other == planned).unwrap_or_default();
        print(&format!("fault {number} at step {}, box {}: {:?}", planned.step, planned.at, planned.fault));
    }
    let outcome = live(seed, Some(plan), bug);
    print(&format!("{:?}", outcome.tally));
    match &outcome.violation {
        None => print(&format!("seed {seed} is well")),
        Some((step, violation)) => {
            print(&format!("seed {seed} broke at step {step}: {violation}"));
            if arguments.shrink {
                let numbers = shrink::shrink(&whole, |plan| live(seed, Some(plan), bug).violation.is_some());
                print(&format!("it takes these faults: --faults {}", joined(&numbers)));
            }
        }
    }
    Ok(outcome.violation.is_none())
}

fn failure(seed: u64, outcome: &Outcome, shrinks: bool) -> Value {
    let (step, violation) = outcome.violation.clone().unwrap_or_default();
    let mut replay = format!("cargo run --release -p tests --bin simulate -- --seed {seed}");
    if shrinks {
        let numbers = shrink::shrink(&plan_of(seed), |plan| live(seed, Some(plan), None).violation.is_some());
        replay = format!("{replay} --faults {}", joined(&numbers));
    }
    json!({ "seed": seed, "step": step, "violation": violation, "replay": replay })
}

fn failure_text(failure: &Value) -> String {
    let text = |key: &str| failure[key].as_str().unwrap_or_default().to_owned();
    format!("seed {} broke at step {}: {}\n  {}", failure["seed"], failure["step"], text("violation"), text("replay"))
}

fn joined(numbers: &[usize]) -> String {
    numbers.iter().map(usize::to_string).collect::<Vec<_>>().join(",")
}

fn plan_of(seed: u64) -> Vec<Planned> {
    faults::plan(seed, Climate::of(seed), world::STEPS, world::boxes(seed))
}

/// Lives worlds on every core; returns what happened, and those that broke, by seed.
fn live_all(seeds: std::ops::Range<u64>, bug: Option<Bug>, stops_at_first: bool) -> (Tally, Vec<(u64, Outcome)>) {
    let next = AtomicU64::new(seeds.start);
    let stopped = AtomicBool::new(false);
    let results = Mutex::new((Tally::default(), Vec::new()));
    let bar = progress(seeds.end - seeds.start);
    let threads = std::thread::available_parallelism().map_or(2, usize::from);
    let work = || {
        while !stopped.load(Ordering::Relaxed) {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= seeds.end {
                return;
            }
            let outcome = live(seed, None, bug);
            bar.inc(1);
            let Ok(mut results) = results.lock() else { return };
            results.0.add(outcome.tally);
            if outcome.violation.is_some() {
                stopped.store(stops_at_first, Ordering::Relaxed);
                results.1.push((seed, outcome));
            }
        }
    };
    std::thread::scope(|scope| (0..threads).for_each(|_| drop(scope.spawn(work))));
    bar.finish_and_clear();
    let (tally, mut broken) = results.into_inner().unwrap_or_default();
    broken.sort_by_key(|(seed, _)| *seed);
    (tally, broken)
}

/// A world that panics is broken, too.
fn live(seed: u64, plan: Option<Vec<Planned>>, bug: Option<Bug>) -> Outcome {
    catch_unwind(AssertUnwindSafe(|| world::live(seed, plan, bug))).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned())).unwrap_or_default();
        Outcome { tally: Tally::default(), violation: Some((0, format!("it panicked: {text}"))) }
    })
}

fn progress(length: u64) -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("{bar:40} {pos}/{len} worlds, {eta} left");
    ProgressBar::new(length).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}

fn print(line: &str) {
    say(&mut std::io::stdout(), line);
}

fn say(out: &mut dyn Write, line: &str) {
    // The reader may be gone; the exit code still tells.
    drop(writeln!(out, "{line}"));
}
