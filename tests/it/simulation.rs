//! Simulated worlds: none breaks, and each planted bug breaks one.

use std::panic::{AssertUnwindSafe, catch_unwind};

use tests::sim::bugs::Bug;
use tests::sim::errors;
use tests::sim::report::Tally;
use tests::sim::world;

/// A few seconds of worlds; `simulate` explores more.
const SEEDS: u64 = 1_000;
/// Seeds in which a planted bug must be caught.
const SEEDS_TO_CATCH: u64 = 2_000;

#[test]
fn no_world_breaks_and_everything_happens_in_them() {
    errors::listen();
    let mut tally = Tally::default();
    for seed in 0..SEEDS {
        let outcome = world::live(seed, None, None);
        assert_eq!(outcome.violation, None, "cargo run --release -p tests --bin simulate -- --seed {seed}");
        tally.add(outcome.tally);
    }
    // Worlds in which nothing happens prove nothing.
    assert!(tally.crashes > 4_000 && tally.partitions > 1_500 && tally.disk_faults > 500, "{tally:?}");
    assert!(tally.entries > 50_000 && tally.drops > 500 && tally.pictures > 1_000 && tally.releases > 500, "{tally:?}");
    assert!(tally.shed > 1_000, "{tally:?}");
}

#[test]
fn every_planted_bug_is_caught() {
    let missed: Vec<&str> = Bug::ALL.into_iter().filter(|bug| !is_caught(*bug)).map(Bug::name).collect();
    assert!(missed.is_empty(), "not caught in {SEEDS_TO_CATCH} seeds: {missed:?}");
}

/// A world that panics is broken, too.
fn is_caught(bug: Bug) -> bool {
    let breaks = |seed| {
        let lived = catch_unwind(AssertUnwindSafe(|| world::live(seed, None, Some(bug))));
        lived.map_or(true, |outcome| outcome.violation.is_some())
    };
    (0..SEEDS_TO_CATCH).any(breaks)
}
