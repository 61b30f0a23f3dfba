//! Everything at once, some hundred times.

use super::world::{Seen, World};

const SEEDS: u64 = 400;
const STEPS: usize = 400;

#[test]
fn whatever_breaks_every_reading_reaches_the_hub_once_and_the_ledger_is_exact() {
    let mut total = Seen::default();
    for seed in 0..SEEDS {
        let mut world = World::new(seed);
        (0..STEPS).for_each(|_| world.step());
        world.settle();
        world.seen().into_iter().for_each(|(what, count)| *total.entry(what).or_default() += count);
    }
    // Worlds in which little happens prove little.
    let wanted = [
        ("readings", 100_000),
        ("predictions", 10_000),
        ("redelivered messages", 10_000),
        ("crashes", 100),
        ("failed appends", 1_000),
        ("broken connections", 500),
        ("batches sent twice", 100),
        ("releases", 10),
        ("models", 500),
        ("refused models", 10),
    ];
    for (what, least) in wanted {
        assert!(total.get(what).is_some_and(|count| *count >= least), "{what}: {total:?}");
    }
}
