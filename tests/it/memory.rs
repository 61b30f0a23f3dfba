//! An agent that is killed in the middle of its streams goes on as if it had never been: averages, windows and baselines are
//! what they would have been.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, ensure};
use cloud_hub::recipe::Recipe;
use demo::observe::Observer;
use demo::publish::Publisher;
use demo::scenario::Row;
use demo::site::{self, Plan};
use demo::{broker, plant};
use shared::config::Source;
use shared::device::DeviceKind;
use shared::event::{Outcome, Verdict};
use shared::ids::AgentId;
use shared::pipeline::runner::RunnerInput;
use tests::bench::model::Model;
use tests::{Process, free_port};

const AGENT: &str = "line-1";
/// Readings before and after the kill: the first are more than what passes between two writes of the memory.
const BEFORE: usize = 9_000;
const AFTER: usize = 1_000;
/// Readings published ahead of what the agent says it has taken in.
const WINDOW: u64 = 400;
const DEADLINE: Duration = Duration::from_secs(60);
/// Predictions are published at most once: those under way when the agent is killed may not be seen.
const UNSEEN: usize = 1_000;

/// Everything that a pipeline can remember: an average, a baseline and a threshold of the stream's own, a window.
const RECIPE: &str = "\
    calibration = { rows = 300, warm_up_rows = 60 }\n\
    preprocess = [{ ema = { alpha = 0.02 } }, { zscore = { baseline = 'stream' } }, { window = { length = 48, stride = 4 } }]\n\
    network = ['flatten', { linear = { outputs = 6 } }, 'tanh', { linear = {} }]\n\
    [decision.anomaly]\nsmooth = 0.05\nthreshold = { stream = { factor = 2.0 } }\n\
    [training]\nepochs = 3\nseed = 5\n";

#[test]
fn an_agent_that_was_killed_predicts_as_one_that_never_was() {
    let directory = tempfile::tempdir().expect("dir");
    if let Err(error) = kill_in_the_middle(directory.path()) {
        panic!("{error:#}; everything is kept in {}", directory.keep().display());
    }
}

fn kill_in_the_middle(directory: &Path) -> anyhow::Result<()> {
    let recipe = Recipe::read(&Source::new(Path::new("recipe.toml"), RECIPE.to_owned()))?;
    let model = Model::of(&recipe)?;
    let scenario = plant::scenario(1);
    let (broker, agent_id) = (broker::start()?, AgentId::new(AGENT)?);
    // There is no hub at this address.
    let hub: SocketAddr = free_port()?;
    let plan = Plan::of_one(directory, broker, &scenario, &agent_id, (hub, hub), 1);
    site::write_hub(&plan)?;
    let file = site::write_agent(&plan, &agent_id, None, hub)?;
    // The model was made here, and not by the hub whose key the site trusts.
    let text = std::fs::read_to_string(&file)?;
    std::fs::write(&file, text.lines().filter(|line| !line.starts_with("trust")).collect::<Vec<_>>().join("\n"))?;
    model.install(&directory.join(AGENT))?;

    let arguments = ["run", "--config", &file.display().to_string()];
    let mut agent = Process::start("edge-agent", &arguments, &directory.join("agent.log"))?;
    let (observer, _observing) = Observer::connect(broker)?;
    ensure!(observer.wait(DEADLINE, |seen| seen.status.contains_key(AGENT)), "the agent said nothing");
    let mut publisher = Publisher::connect(broker)?;
    let rows = rows(&scenario.phases[0].recordings[0].rows);
    let mut publish = |rows: &[Row], before_restart: u64| -> anyhow::Result<()> {
        for (index, row) in rows.iter().enumerate() {
            publisher.publish(AGENT, &scenario.stream, &scenario.channels, row)?;
            let published = before_restart + index as u64 + 1;
            let is_taken =
                |seen: &mut demo::observe::Seen| seen.number(AGENT, "/readings/accepted") + WINDOW > published;
            ensure!(
                !published.is_multiple_of(50) || observer.wait(DEADLINE, is_taken),
                "reading {published} was not taken"
            );
        }
        Ok(())
    };
    publish(&rows[..BEFORE], 0)?;
    agent.kill()?;
    ensure!(directory.join(AGENT).join("pipeline.memory").exists(), "nothing was remembered");
    agent.restart()?;
    publish(&rows[BEFORE..], BEFORE as u64)?;
    let last = rows[rows.len() - 1].time_ms;
    let is_last = |prediction: &serde_json::Value| prediction["time_ms"] == last;
    let came = observer.wait(DEADLINE, |seen| seen.predictions.get(AGENT).is_some_and(|all| all.iter().any(is_last)));
    ensure!(came, "the last prediction did not come");
    agent.stop()?;

    let expected = expected(&model, &rows)?;
    let seen = observer.look(|seen| seen.predictions.remove(AGENT)).context("predictions")?;
    let mut compared = BTreeMap::new();
    for prediction in seen {
        let number = |name: &str| prediction[name].as_f64().context("a number");
        let time_ms = prediction["time_ms"].as_i64().context("a time")?;
        let verdict = expected.get(&time_ms).context("no prediction was due")?;
        for (name, expected) in [("score", verdict.score), ("threshold", verdict.threshold)] {
            let (found, expected) = (number(name)?, f64::from(expected));
            ensure!((found - expected).abs() <= 1e-4 * expected.abs(), "{name} at {time_ms}: {found}, not {expected}");
        }
        compared.insert(time_ms, prediction);
    }
    ensure!(compared.len() + UNSEEN > expected.len(), "{} of {} predictions were seen", compared.len(), expected.len());
    let after = compared.range(rows[BEFORE].time_ms..).count();
    ensure!(10 * after >= 9 * AFTER, "{after} of {AFTER} predictions after the restart were seen");
    Ok(())
}

/// As many readings as are wanted, one second apart, none like another.
fn rows(recorded: &[Row]) -> Vec<Row> {
    let start = recorded[0].time_ms;
    (0..BEFORE + AFTER)
        .map(|index| {
            let mut row = recorded[index % recorded.len()].clone();
            row.time_ms = start + 1_000 * index as i64;
            row.values.iter_mut().for_each(|value| *value *= 1.0 + index as f64 * 1e-5);
            row
        })
        .collect()
}

/// What an agent says that is never killed, by the readings' times.
fn expected(model: &Model, rows: &[Row]) -> anyhow::Result<BTreeMap<i64, Verdict>> {
    let mut runner = model.package.load(&DeviceKind::Flex.open()?)?;
    let schema = &model.segment.schema;
    let inputs: Vec<RunnerInput<'_>> =
        rows.iter().map(|row| RunnerInput { schema, time_ms: row.time_ms, values: &row.values }).collect();
    let answers = runner.run(&inputs);
    let verdict = |outcome| if let Outcome::Anomaly(verdict) = outcome { Some(verdict) } else { None };
    let answered =
        rows.iter().zip(answers).filter_map(|(row, answer)| Some((row.time_ms, verdict(answer.into_outcome().ok()?)?)));
    Ok(answered.collect())
}
