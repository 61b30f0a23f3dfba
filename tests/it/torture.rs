//! A small torture of real programs with a real mosquitto; `torture` does more.

use tests::torture::proxy::Faults;
use tests::torture::{self, Torture, broker};

#[test]
fn killed_agents_hubs_and_brokers_lose_nothing_over_a_bad_network() {
    if broker::program().is_none() {
        println!("skipped: mosquitto is not installed (Debian, Ubuntu: apt-get install mosquitto)");
        return;
    }
    let directory = tempfile::tempdir().expect("dir");
    let network = Faults { loss_percent: 5, twice_percent: 1, round_trip_ms: 10, rebind_ms: 2_000, bytes_per_s: 0 };
    let torture = Torture { events: 20_000, kills: 20, seed: 11, network, spare_broker: false, disk_full: false };
    let report = torture::run(torture, directory.path(), &mut |_| {});
    let is_well = report.as_ref().is_ok_and(|report| {
        let verdict = &report.verdict;
        (verdict.lost, verdict.duplicates, verdict.sequence_gaps) == (0, 0, 0) && report.ledger_exact
    });
    if !is_well {
        panic!("{report:?}; everything is kept in {}", directory.keep().display());
    }
}
