//! A hub in the wrong hands: with all of its files and keys, nothing can be made that a box takes which trusts a key that is kept
//! elsewhere.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

use tests::{Process, free_port, program, wait_until};

const DEADLINE: Duration = Duration::from_secs(30);
/// Bytes of a package before its signatures, and where the count of these stands.
const PREFIX_BYTES: usize = 12;
const COUNT: std::ops::Range<usize> = 6..8;
/// Bytes of a signature: the public key, until when it holds, and what it signed with (Ed25519).
const SIGNATURE_BYTES: usize = PUBLIC_BYTES + EXPIRY_BYTES + 64;
const PUBLIC_BYTES: usize = 32;
const EXPIRY_BYTES: usize = 8;

fn run(name: &str, arguments: &[&str]) -> Output {
    Command::new(program(name).expect("built")).args(arguments).output().expect("runs")
}

fn said(name: &str, arguments: &[&str]) -> String {
    let output = run(name, arguments);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

/// The files of a hub that ran.
fn hub(directory: &Path) {
    let [link, api] = [free_port().expect("port"), free_port().expect("port")];
    let config = format!("[hub]\ndata_directory = \"hub\"\n[link]\nlisten = \"{link}\"\n[api]\nlisten = \"{api}\"\n");
    let file = directory.join("hub.toml");
    fs::write(&file, config).expect("writes");
    let arguments = ["serve", "--config", &file.display().to_string()];
    let process = Process::start("cloud-hub", &arguments, &directory.join("hub.log")).expect("starts");
    let is_up = || std::net::TcpStream::connect(api).is_ok() && directory.join("hub/release.key").exists();
    assert!(wait_until(DEADLINE, is_up));
    process.stop().expect("stops");
}

#[test]
fn whoever_has_all_of_a_hubs_files_makes_no_package_that_a_box_takes_which_trusts_another_key() {
    let (stolen, elsewhere) = (tempfile::tempdir().expect("dir"), tempfile::tempdir().expect("dir"));
    hub(stolen.path());
    let at = |directory: &tempfile::TempDir, name: &str| directory.path().join(name).display().to_string();
    let graph = concat!(env!("CARGO_MANIFEST_DIR"), "/onnx/sklearn_two_labels.onnx");
    let import = |labels: &str, output: &str, key: &str| {
        let declaration =
            format!("[input]\nchannels = ['a', 'b', 'c', 'd', 'e']\n[decision.classify]\nlabels = [{labels}]\n");
        let pipeline = at(&elsewhere, "p.toml");
        fs::write(&pipeline, declaration).expect("writes");
        said("cloud-hub", &["import", "--onnx", graph, "--pipeline", &pipeline, "--output", output, "--key", key]);
        fs::read(output).expect("reads")
    };

    // What the box trusts was never at the hub.
    let offline = at(&elsewhere, "offline.key");
    let trusted = said("cloud-hub", &["key", "create", "--output", &offline]);
    let good = import("'left', 'right'", &at(&elsewhere, "good.tide"), &offline);
    // The attacker's model says the opposite, and is signed with everything that can sign at the hub.
    let evil = import("'right', 'left'", &at(&stolen, "evil.tide"), &at(&stolen, "hub/release.key"));

    let signatures = PREFIX_BYTES..PREFIX_BYTES + SIGNATURE_BYTES;
    let mut transplanted = evil.clone();
    transplanted[signatures.clone()].copy_from_slice(&good[signatures.clone()]);
    let mut renamed = evil.clone();
    renamed[PREFIX_BYTES..PREFIX_BYTES + PUBLIC_BYTES]
        .copy_from_slice(&good[PREFIX_BYTES..PREFIX_BYTES + PUBLIC_BYTES]);
    let mut unsigned = evil.clone();
    unsigned.drain(signatures.clone());
    unsigned[COUNT].copy_from_slice(&0_u16.to_le_bytes());
    let mut both = evil.clone();
    both.splice(signatures.end..signatures.end, good[signatures.clone()].iter().copied());
    both[COUNT].copy_from_slice(&2_u16.to_le_bytes());
    let mut changed = good.clone();
    *changed.last_mut().expect("bytes") ^= 1;
    let mut relabelled = good.clone();
    let label = relabelled.windows(4).position(|bytes| bytes == b"left").expect("its label stands in the manifest");
    relabelled[label..label + 4].copy_from_slice(b"tfel");

    let rows = at(&elsewhere, "rows.csv");
    fs::write(&rows, "a,b,c,d,e\n1,2,3,4,5\n").expect("writes");
    let takes = |name: &str, bytes: &[u8]| {
        let package = at(&stolen, name);
        fs::write(&package, bytes).expect("writes");
        run("edge-agent", &["score", "--model", &package, "--trust", &trusted, "--input", &rows, "--output", "-"])
    };
    let taken = takes("good.tide", &good);
    assert!(taken.status.success(), "{}", String::from_utf8_lossy(&taken.stderr));
    let forged = [
        ("signed-by-the-hub", &evil),
        ("signature-of-another", &transplanted),
        ("key-of-another", &renamed),
        ("unsigned", &unsigned),
        ("both", &both),
        ("weights-changed", &changed),
        ("label-changed", &relabelled),
    ];
    for (name, bytes) in forged {
        let refused = takes(name, bytes);
        assert!(!refused.status.success(), "{name} was taken");
        assert!(refused.stdout.is_empty(), "{name} answered");
        println!("{name}: {}", String::from_utf8_lossy(&refused.stderr).trim());
    }
}

#[test]
fn a_person_signs_what_the_hub_has_and_the_hub_hands_out_both_signatures() {
    let (site, elsewhere) = (tempfile::tempdir().expect("dir"), tempfile::tempdir().expect("dir"));
    let at = |directory: &tempfile::TempDir, name: &str| directory.path().join(name).display().to_string();
    let key = at(&elsewhere, "fleet.key");
    let trusted = said("cloud-hub", &["key", "create", "--output", &key]);
    let [link, api] = [free_port().expect("port"), free_port().expect("port")];
    let recipe = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/recipes/autoencoder.toml");
    let config = format!(
        "[hub]\ndata_directory = \"hub\"\ntrust = [\"{trusted}\"]\n[link]\nlisten = \"{link}\"\n[api]\nlisten = \"{api}\"\n\
         [[model]]\nname = \"sides\"\nrecipe = \"{recipe}\"\nstreams = [\"*\"]\n"
    );
    fs::write(site.path().join("hub.toml"), config).expect("writes");
    let arguments = ["serve", "--config", &at(&site, "hub.toml")];
    let process = Process::start("cloud-hub", &arguments, &site.path().join("hub.log")).expect("starts");
    let (address, data) = (format!("http://{api}"), at(&site, "hub"));
    let ctl = |more: &[&str]| run("cloud-hub", &[&["ctl", "--hub", &address, "--data", &data], more].concat());
    let log = || fs::read_to_string(site.path().join("hub.log")).unwrap_or_default();
    assert!(wait_until(DEADLINE, || ctl(&["models"]).status.success()), "{}", log());

    // As the hub would have trained it: signed with its own key.
    let graph = concat!(env!("CARGO_MANIFEST_DIR"), "/onnx/sklearn_two_labels.onnx");
    let pipeline = at(&elsewhere, "p.toml");
    let labels = "[decision.classify]\nlabels = ['left', 'right']\n";
    fs::write(&pipeline, format!("[input]\nchannels = ['a', 'b', 'c', 'd', 'e']\n{labels}")).expect("writes");
    let (made, hub_key) = (at(&elsewhere, "made.tide"), at(&site, "hub/release.key"));
    let import = ["import", "--onnx", graph, "--pipeline", &pipeline, "--model", "sides", "--output", &made];
    said("cloud-hub", &[&import[..], &["--key", &hub_key]].concat());
    let upload = |file: &str| ctl(&["upload", "sides", file, "--skip-proof", "--output", "json"]);
    let brought = upload(&made);
    assert!(brought.status.success(), "{}", String::from_utf8_lossy(&brought.stderr));

    let rows = at(&elsewhere, "rows.csv");
    fs::write(&rows, "a,b,c,d,e\n1,2,3,4,5\n").expect("writes");
    let download = |name: &str| {
        let file = at(&elsewhere, name);
        let fetched = ctl(&["download", "sides", "1", "--to", &file]);
        assert!(fetched.status.success(), "{}", String::from_utf8_lossy(&fetched.stderr));
        file
    };
    let takes = |file: &str| {
        run("edge-agent", &["score", "--model", file, "--trust", &trusted, "--input", &rows, "--output", "-"])
    };
    let unsigned = download("unsigned.tide");
    assert!(!takes(&unsigned).status.success(), "a box that trusts no hub takes it");

    said("cloud-hub", &["package", "sign", &unsigned, "--key", &key, "--expires-in", "90d"]);
    let again = upload(&unsigned);
    assert!(again.status.success(), "{}", String::from_utf8_lossy(&again.stderr));
    let signed = download("signed.tide");
    let taken = takes(&signed);
    assert!(taken.status.success(), "{}", String::from_utf8_lossy(&taken.stderr));
    let report: serde_json::Value =
        serde_json::from_str(&said("cloud-hub", &["package", "inspect", &signed, "--output", "json"])).expect("JSON");
    assert_eq!(report["signed_by"].as_array().map(Vec::len), Some(2), "{report:#}");
    assert!(report["signed_until"][1].is_string(), "the person's ends: {report:#}");

    // One second later than it said.
    said("cloud-hub", &["package", "sign", &unsigned, "--key", &key, "--expires-in", "1s"]);
    let is_over = || {
        let refused = takes(&unsigned);
        !refused.status.success() && String::from_utf8_lossy(&refused.stderr).contains("was signed until")
    };
    assert!(wait_until(DEADLINE, is_over));
    let stale = upload(&unsigned);
    assert_eq!(stale.status.code(), Some(0), "the hub's own signature on it holds");
    assert!(takes(&download("still.tide")).status.success(), "what held longer stays");
    process.stop().expect("stops");
}
