//! What is tracked and what the hub has itself, in MLflow's words.

use std::collections::BTreeMap;
use std::sync::{PoisonError, RwLockReadGuard};

use serde_json::{Map, Value, json};

use super::super::Context;
use super::MlflowError;
use crate::core::tracking::filter::Field;
use crate::core::tracking::{
    Experiment, Point, RUN_NAME_TAG, RegisteredModel, Texts, TrackedRun, TrackedVersion, Tracking,
};
use crate::view::{ModelView, RunStateView, RunView, VersionView, View};

/// How names of what is the hub's own begin.
const OWN: &str = "hub-";
/// How the address of a file begins that is here.
pub(super) const HERE: &str = "mlflow-artifacts:/";
/// Where files of the hub's own models lie, as it seems.
pub(super) const OWN_FILES: &str = "tideline";
/// A version's package in there.
pub(super) const PACKAGE: &str = "model.tide";
/// The alias of the version that boxes get.
pub(super) const CHAMPION: &str = "champion";
/// The alias of the version that is on its way to them.
pub(super) const CANARY: &str = "canary";

/// What is tracked, to look at.
pub(super) fn tracked(context: &Context) -> RwLockReadGuard<'_, Tracking> {
    context.shown.tracking.read().unwrap_or_else(PoisonError::into_inner)
}

/// The number of the experiment that holds a model's own trainings.
pub(super) fn experiment_of(model: &str) -> String {
    format!("{OWN}{model}")
}

/// Refuses to change what is the hub's own.
pub(super) fn not_own(id: &str) -> Result<(), MlflowError> {
    if id.starts_with(OWN) {
        return Err(MlflowError::invalid(format!(
            "{id} is the hub's own: what it trains itself is not changed from outside"
        )));
    }
    Ok(())
}

fn pairs(texts: &Texts) -> Value {
    texts.iter().map(|(key, value)| json!({ "key": key, "value": value })).collect()
}

fn number(value: f64) -> Value {
    match value {
        value if value.is_finite() => json!(value),
        value if value.is_nan() => json!("NaN"),
        value if value > 0.0 => json!("Infinity"),
        _ => json!("-Infinity"),
    }
}

pub(super) fn point(key: &str, point: &Point) -> Value {
    json!({ "key": key, "value": number(point.value), "timestamp": point.timestamp, "step": point.step })
}

pub(super) fn experiment(known: &Experiment) -> Value {
    json!({
        "experiment_id": known.id,
        "name": known.name,
        "artifact_location": format!("{HERE}{}", known.id),
        "lifecycle_stage": if known.is_deleted { "deleted" } else { "active" },
        "creation_time": known.created_ms,
        "last_update_time": known.updated_ms,
        "tags": pairs(&known.tags),
    })
}

/// Every experiment: those that are tracked, and one for each model of the hub's.
pub(super) fn experiments(context: &Context) -> Vec<Value> {
    let of_model = |(name, _): &(_, ModelView)| {
        json!({
            "experiment_id": experiment_of(&ToString::to_string(name)),
            "name": format!("tideline/{name}"),
            "artifact_location": format!("{HERE}{OWN_FILES}/{name}"),
            "lifecycle_stage": "active",
            "tags": [{ "key": "tideline.model", "value": ToString::to_string(name) }],
        })
    };
    let view = context.now();
    let tracked = tracked(context);
    tracked.experiments().map(experiment).chain(view.models.iter().map(of_model)).collect()
}

pub(super) fn run(known: &TrackedRun) -> Value {
    json!({
        "info": {
            "run_id": known.id,
            "run_uuid": known.id,
            "run_name": known.name,
            "experiment_id": known.experiment,
            "user_id": known.user,
            "status": known.status,
            "start_time": known.started_ms,
            "end_time": known.ended_ms,
            "artifact_uri": format!("{HERE}{}/{}/artifacts", known.experiment, known.id),
            "lifecycle_stage": if known.is_deleted { "deleted" } else { "active" },
        },
        "data": {
            "metrics": known.metrics.iter().map(|(key, newest)| point(key, newest)).collect::<Vec<_>>(),
            "params": pairs(&known.params),
            "tags": pairs(&known.tags),
        },
    })
}

/// A training of the hub's own, as a run.
pub(super) fn own_run(known: &RunView) -> Value {
    let status = match known.state {
        RunStateView::Running => "RUNNING",
        RunStateView::Released | RunStateView::Refused => "FINISHED",
        RunStateView::Failed => "FAILED",
    };
    // What the candidate came to that was taken, or else the last that was tried.
    let candidate = known.candidates.iter().find(|candidate| candidate.blessed).or(known.candidates.last());
    let at = known.finished.unwrap_or(known.requested).0;
    let metrics: Vec<Value> = candidate
        .iter()
        .flat_map(|candidate| &candidate.metrics)
        .filter_map(|(key, value)| Some(point(key, &Point { value: (*value)?, timestamp: at, step: 0 })))
        .collect();
    let version = known.version.map(|version| version.to_string());
    let state = serde_json::to_value(known.state).unwrap_or_default();
    let mut tags = Texts::from([
        ("tideline.state".to_owned(), state.as_str().unwrap_or_default().to_owned()),
        (RUN_NAME_TAG.to_owned(), format!("training {}", known.run)),
        ("mlflow.user".to_owned(), "hub".to_owned()),
    ]);
    tags.extend(version.iter().map(|version| ("tideline.version".to_owned(), version.clone())));
    tags.extend(candidate.map(|candidate| ("tideline.reasons".to_owned(), candidate.reasons.join("; "))));
    tags.extend(known.reason.iter().map(|reason| ("tideline.failure".to_owned(), reason.clone())));
    let model = &known.model;
    json!({
        "info": {
            "run_id": own_run_id(known.run),
            "run_uuid": own_run_id(known.run),
            "run_name": format!("training {}", known.run),
            "experiment_id": experiment_of(model.as_str()),
            "user_id": "hub",
            "status": status,
            "start_time": known.requested.0,
            "end_time": known.finished.map(|time| time.0),
            "artifact_uri": format!("{HERE}{OWN_FILES}/{model}/{}", version.unwrap_or_default()),
            "lifecycle_stage": "active",
        },
        "data": {
            "metrics": metrics,
            "params": pairs(&Texts::from([("trigger".to_owned(), known.trigger.clone())])),
            "tags": pairs(&tags),
        },
    })
}

fn own_run_id(number: i64) -> String {
    format!("{OWN}{number}")
}

/// The number of a training of the hub's own, if the name of a run is of one.
pub(super) fn own_run_number(id: &str) -> Option<i64> {
    id.strip_prefix(OWN)?.parse().ok()
}

/// The field of a run, experiment, model or version as it is shown.
pub(super) fn field(shown: &Value, asked: &Field) -> Option<String> {
    let listed = |list: &Value, key: &str| {
        let found = list.as_array()?.iter().find(|pair| pair["key"] == key)?;
        Some(text(&found["value"]))
    };
    let (info, data) = match shown.get("info") {
        Some(info) => (info, &shown["data"]),
        None => (shown, shown),
    };
    match asked {
        Field::Attribute(name) => {
            // What clients call otherwise than answers do.
            let name = match name.as_str() {
                "Created" => "start_time",
                "version_number" => "version",
                "source_path" => "source",
                other => other,
            };
            info.get(name).filter(|value| !value.is_null()).map(text)
        }
        Field::Tag(key) => listed(&data["tags"], key),
        Field::Param(key) => listed(&data["params"], key),
        Field::Metric(key) => listed(&data["metrics"], key),
    }
}

fn text(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// A model of whichever kind.
pub(super) fn model(context: &Context, name: &str) -> Option<Value> {
    let view = context.now();
    let tracked = tracked(context);
    let own = view.models.iter().find(|(known, _)| known.as_str() == name).map(|(_, model)| model);
    let noted = tracked.model(name);
    match (own, noted) {
        (None, None) => None,
        (Some(own), noted) => Some(own_model(&view, own, noted)),
        (None, Some(noted)) => Some(registered_model(noted)),
    }
}

/// Every model of either kind, by name.
pub(super) fn models(context: &Context) -> Vec<Value> {
    let view = context.now();
    let names = {
        let tracked = tracked(context);
        let own = view.models.iter().map(|(name, _)| name.to_string());
        own.chain(tracked.models().map(|model| model.name.clone())).collect::<std::collections::BTreeSet<_>>()
    };
    names.iter().filter_map(|name| model(context, name)).collect()
}

/// Every version of a model, newest first.
pub(super) fn versions(context: &Context, name: &str) -> Vec<Value> {
    let view = context.now();
    let tracked = tracked(context);
    let noted = tracked.model(name);
    let own = view.models.iter().find(|(known, _)| known.as_str() == name).map(|(_, model)| model);
    let mut shown: Vec<Value> = match own {
        Some(own) => own.versions.iter().map(|version| own_version(&view, own, version, noted)).collect(),
        None => {
            noted.into_iter().flat_map(|model| model.versions.iter().map(|v| registered_version(model, v))).collect()
        }
    };
    shown.reverse();
    shown
}

fn registered_model(known: &RegisteredModel) -> Value {
    let latest = known.versions.last().map(|version| registered_version(known, version));
    json!({
        "name": known.name,
        "description": known.description,
        "creation_timestamp": known.created_ms,
        "last_updated_timestamp": known.updated_ms,
        "tags": pairs(&known.tags),
        "aliases": aliases(&known.aliases),
        "latest_versions": latest.into_iter().collect::<Vec<_>>(),
    })
}

fn aliases(known: &BTreeMap<String, u32>) -> Value {
    known.iter().map(|(alias, version)| json!({ "alias": alias, "version": version.to_string() })).collect()
}

fn registered_version(model: &RegisteredModel, known: &TrackedVersion) -> Value {
    json!({
        "name": model.name,
        "version": known.version.to_string(),
        "creation_timestamp": known.created_ms,
        "last_updated_timestamp": known.updated_ms,
        "user_id": known.user,
        "current_stage": "None",
        "description": known.description,
        "source": known.source,
        "run_id": known.run,
        "status": "READY",
        "tags": pairs(&known.tags),
        "aliases": names_of(&model.aliases, known.version),
    })
}

fn names_of(aliases: &BTreeMap<String, u32>, version: u32) -> Vec<&String> {
    aliases.iter().filter(|(_, of)| **of == version).map(|(alias, _)| alias).collect()
}

/// The names of versions of a model of the hub's own: what serves, what is on its way, and what people call them.
fn own_aliases(view: &View, own: &ModelView, noted: Option<&RegisteredModel>) -> BTreeMap<String, u32> {
    let mut aliases = noted.map(|noted| noted.aliases.clone()).unwrap_or_default();
    aliases.extend(own.champion.map(|version| (CHAMPION.to_owned(), version)));
    let running = view.rollouts.iter().find(|rollout| rollout.model == own.model && rollout.ended.is_none());
    aliases.extend(running.map(|rollout| (CANARY.to_owned(), rollout.version)));
    aliases
}

fn own_model(view: &View, own: &ModelView, noted: Option<&RegisteredModel>) -> Value {
    let described = noted.map(|noted| noted.description.clone()).filter(|text| !text.is_empty());
    let streams = own.streams.join(", ");
    let latest = own.versions.last().map(|version| own_version(view, own, version, noted));
    json!({
        "name": own.model,
        "description": described.unwrap_or_else(|| format!("Trained and rolled out by this hub; answers {streams}")),
        "creation_timestamp": own.versions.first().map(|version| version.created.0),
        "last_updated_timestamp": own.versions.last().map(|version| version.created.0),
        "tags": pairs(&noted.map(|noted| noted.tags.clone()).unwrap_or_default()),
        "aliases": aliases(&own_aliases(view, own, noted)),
        "latest_versions": latest.into_iter().collect::<Vec<_>>(),
    })
}

fn own_version(view: &View, own: &ModelView, known: &VersionView, noted: Option<&RegisteredModel>) -> Value {
    let note = noted.and_then(|noted| noted.versions.iter().find(|version| version.version == known.version));
    let run = view.runs.iter().find(|run| run.model == own.model && run.version == Some(known.version));
    let run = run.map(|run| own_run_id(run.run));
    let logged = note.map(|note| note.run.clone()).filter(|run| !run.is_empty());
    let mut tags = note.map(|note| note.tags.clone()).unwrap_or_default();
    tags.insert("tideline.digest".to_owned(), known.digest.clone());
    tags.extend(known.parent.map(|parent| ("tideline.parent".to_owned(), parent.to_string())));
    let described = note.map(|note| note.description.clone()).filter(|text| !text.is_empty());
    json!({
        "name": own.model,
        "version": known.version.to_string(),
        "creation_timestamp": known.created.0,
        "last_updated_timestamp": known.created.0,
        "user_id": note.map(|note| note.user.as_str()).filter(|user| !user.is_empty()).unwrap_or("hub"),
        "current_stage": "None",
        "description": described.unwrap_or_else(|| known.trigger.clone()),
        "source": own_source(own.model.as_str(), known.version),
        "run_id": logged.or(run).unwrap_or_default(),
        "status": "READY",
        "tags": pairs(&tags),
        "aliases": names_of(&own_aliases(view, own, noted), known.version),
    })
}

/// Where the package of a version of the hub's own lies, as it seems.
pub(super) fn own_source(model: &str, version: u32) -> String {
    format!("{HERE}{OWN_FILES}/{model}/{version}")
}

/// An answer of one field.
pub(super) fn one(name: &str, value: Value) -> Value {
    Value::Object(Map::from_iter([(name.to_owned(), value)]))
}
