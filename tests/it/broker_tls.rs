//! An agent and a real broker that speak TLS, and prove themselves to each other.

use std::path::Path;
use std::time::Duration;

use anyhow::ensure;
use cloud_hub::authority::{self, Subject};
use shared::ids::AgentId;
use tests::torture::broker::{self, Broker};
use tests::{Process, wait_until};

const CONFIG: &str = include_str!("../../deploy/config/agent.toml");
const DEADLINE: Duration = Duration::from_secs(30);

#[test]
fn an_agent_and_a_broker_prove_themselves_over_tls_and_a_stranger_is_named_as_the_trouble() {
    if broker::program().is_none() {
        println!("skipped: mosquitto is not installed (Debian, Ubuntu: apt-get install mosquitto)");
        return;
    }
    let directory = tempfile::tempdir().expect("dir");
    if let Err(error) = talk(directory.path()) {
        panic!("{error:#}; everything is kept in {}", directory.keep().display());
    }
}

fn talk(directory: &Path) -> anyhow::Result<()> {
    let (ours, theirs) = (directory.join("ours"), directory.join("theirs"));
    for authority in [&ours, &theirs] {
        authority::init(authority)?;
    }
    authority::issue(&ours, &Subject::Hub(vec!["localhost".to_owned()]), &ours)?;
    authority::issue(&ours, &Subject::Agent(AgentId::new("pump-box-1")?), &ours)?;
    let file = |name: &str| ours.join(name).display().to_string();
    let settings = format!(
        "cafile {}\ncertfile {}\nkeyfile {}\nrequire_certificate true\npersistence false\n",
        file("ca.pem"),
        file("hub.pem"),
        file("hub.key")
    );
    let broker = Broker::with(directory, &settings)?;

    let agent = start(directory, &broker, &ours, &ours)?;
    said(directory, "connected to the broker")?;
    agent.stop()?;
    std::fs::remove_file(directory.join("agent.log"))?;
    // The broker's certificate is none that this agent trusts.
    let stranger = start(directory, &broker, &theirs, &ours)?;
    said(directory, "invalid peer certificate")?;
    stranger.stop()
}

fn start(directory: &Path, broker: &Broker, trusted: &Path, own: &Path) -> anyhow::Result<Process> {
    let tls = format!(
        "url = \"mqtts://localhost:{}\"\nca_file = \"{}\"\ncertificate_file = \"{own}/pump-box-1.pem\"\n\
         key_file = \"{own}/pump-box-1.key\"",
        broker.address().port(),
        trusted.join("ca.pem").display(),
        own = own.display(),
    );
    let (before_hub, _) = CONFIG.split_once("\n[hub]").unwrap_or((CONFIG, ""));
    let config = before_hub.replace("url = \"mqtt://127.0.0.1:1883\"", &tls);
    let config = config.replace("state_directory = \"/var/lib/tideline\"", "state_directory = \"state\"");
    let path = directory.join("agent.toml");
    std::fs::write(&path, config)?;
    Process::start("edge-agent", &["run", "--config", &path.display().to_string()], &directory.join("agent.log"))
}

fn said(directory: &Path, words: &str) -> anyhow::Result<()> {
    let log = directory.join("agent.log");
    let is_said = || std::fs::read_to_string(&log).is_ok_and(|log| log.contains(words));
    ensure!(wait_until(DEADLINE, is_said), "the agent did not say {words:?} within {} s", DEADLINE.as_secs());
    Ok(())
}
