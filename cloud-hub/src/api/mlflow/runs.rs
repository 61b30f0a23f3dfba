//! Experiments and runs.

use axum::extract::State;
use axum::http::Method;
use axum::{Extension, Json};
use serde::Deserialize;
use serde_json::{Value, json};

use super::super::guard::Route;
use super::super::{Command, Context};
use super::shown::{self, tracked};
use super::{Answer, Asked, MAX_BODY_BYTES, MlflowError, Pair, Said, paged, texts};
use crate::clock;
use crate::core::access::Principal;
use crate::core::access::Role::{Operator, Viewer};
use crate::core::tracking::filter::{Field, Filter};
use crate::core::tracking::{Act, DEFAULT_EXPERIMENT, Point, RUN_NAME_TAG, any_number};
use crate::secret::Secret;

pub(super) fn routes() -> Vec<Route> {
    let (read, write) = (|| Method::GET, || Method::POST);
    vec![
        Route::new(read(), "/api/3.0/mlflow/server-info", Viewer, server_info),
        Route::new(read(), "/api/2.0/mlflow/experiments/get", Viewer, get_experiment),
        Route::new(read(), "/api/2.0/mlflow/experiments/get-by-name", Viewer, get_experiment_by_name),
        Route::new(write(), "/api/2.0/mlflow/experiments/search", Viewer, search_experiments).quiet(),
        Route::new(write(), "/api/2.0/mlflow/experiments/create", Operator, create_experiment),
        Route::new(write(), "/api/2.0/mlflow/experiments/update", Operator, rename_experiment),
        Route::new(write(), "/api/2.0/mlflow/experiments/delete", Operator, delete_experiment),
        Route::new(write(), "/api/2.0/mlflow/experiments/restore", Operator, restore_experiment),
        Route::new(write(), "/api/2.0/mlflow/experiments/set-experiment-tag", Operator, tag_experiment),
        Route::new(read(), "/api/2.0/mlflow/runs/get", Viewer, get_run),
        Route::new(write(), "/api/2.0/mlflow/runs/search", Viewer, search_runs).quiet(),
        Route::new(write(), "/api/2.0/mlflow/runs/create", Operator, create_run),
        Route::new(write(), "/api/2.0/mlflow/runs/update", Operator, update_run),
        Route::new(write(), "/api/2.0/mlflow/runs/delete", Operator, delete_run),
        Route::new(write(), "/api/2.0/mlflow/runs/restore", Operator, restore_run),
        // What a training says of itself as it goes on changes nothing that the hub does, and can be a thousand lines.
        Route::new(write(), "/api/2.0/mlflow/runs/log-metric", Operator, log_metric).quiet(),
        Route::new(write(), "/api/2.0/mlflow/runs/log-parameter", Operator, log_parameter).quiet(),
        Route::new(write(), "/api/2.0/mlflow/runs/log-batch", Operator, log_batch).taking(MAX_BODY_BYTES).quiet(),
        Route::new(write(), "/api/2.0/mlflow/runs/set-tag", Operator, tag_run).quiet(),
        Route::new(write(), "/api/2.0/mlflow/runs/delete-tag", Operator, untag_run).quiet(),
        Route::new(read(), "/api/2.0/mlflow/metrics/get-history", Viewer, metric_history),
    ]
}

async fn server_info() -> Json<Value> {
    Json(json!({ "store_type": "tideline", "version": env!("CARGO_PKG_VERSION") }))
}

#[derive(Deserialize)]
struct ExperimentId {
    experiment_id: String,
}

async fn get_experiment(State(context): State<Context>, Said(asked): Said<ExperimentId>) -> Answer {
    let found = shown::experiments(&context).into_iter().find(|one| one["experiment_id"] == asked.experiment_id);
    let missing = || MlflowError::missing(format!("there is no experiment {:?}", asked.experiment_id));
    found.map(|one| Json(shown::one("experiment", one))).ok_or_else(missing)
}

#[derive(Deserialize)]
struct ExperimentName {
    experiment_name: String,
}

async fn get_experiment_by_name(State(context): State<Context>, Said(asked): Said<ExperimentName>) -> Answer {
    let named = shown::experiments(&context).into_iter().filter(|one| one["name"] == asked.experiment_name);
    // Of several of that name at most one is not thrown away.
    let found = named.max_by_key(|one| one["lifecycle_stage"] == "active");
    let missing = || MlflowError::missing(format!("there is no experiment {:?}", asked.experiment_name));
    found.map(|one| Json(shown::one("experiment", one))).ok_or_else(missing)
}

#[derive(Deserialize)]
struct Search {
    #[serde(default)]
    experiment_ids: Vec<String>,
    #[serde(default)]
    filter: String,
    max_results: Option<usize>,
    page_token: Option<String>,
    #[serde(default)]
    order_by: Vec<String>,
    run_view_type: Option<String>,
    view_type: Option<String>,
}

/// The stage that what is looked for must be in, if it is said.
fn stage(view: Option<&str>) -> Option<&'static str> {
    match view {
        Some("DELETED_ONLY") => Some("deleted"),
        Some("ALL") => None,
        Some(_) | None => Some("active"),
    }
}

async fn search_experiments(State(context): State<Context>, Asked(asked): Asked<Search>) -> Answer {
    let filter = Filter::parse(&asked.filter).map_err(MlflowError::invalid)?;
    let mut found = shown::experiments(&context);
    let stage = stage(asked.view_type.as_deref());
    found.retain(|one| {
        stage.is_none_or(|stage| one["lifecycle_stage"] == stage) && filter.passes(|field| shown::field(one, field))
    });
    let (items, next) = paged(found, asked.max_results, asked.page_token.as_deref())?;
    Ok(Json(json!({ "experiments": items, "next_page_token": next })))
}

#[derive(Deserialize)]
struct NewExperiment {
    name: String,
    #[serde(default)]
    tags: Vec<Pair>,
}

async fn create_experiment(State(context): State<Context>, Asked(asked): Asked<NewExperiment>) -> Answer {
    let id = new_id();
    context.track(Act::CreateExperiment { id: id.clone(), name: asked.name, tags: texts(asked.tags) }).await?;
    Ok(Json(json!({ "experiment_id": id })))
}

#[derive(Deserialize)]
struct ExperimentUpdate {
    experiment_id: String,
    new_name: String,
}

async fn rename_experiment(State(context): State<Context>, Asked(asked): Asked<ExperimentUpdate>) -> Answer {
    shown::not_own(&asked.experiment_id)?;
    context.track(Act::RenameExperiment { id: asked.experiment_id, name: asked.new_name }).await?;
    Ok(Json(json!({})))
}

async fn delete_experiment(State(context): State<Context>, Asked(asked): Asked<ExperimentId>) -> Answer {
    shown::not_own(&asked.experiment_id)?;
    context.track(Act::SetExperimentDeleted { id: asked.experiment_id, is_deleted: true }).await?;
    Ok(Json(json!({})))
}

async fn restore_experiment(State(context): State<Context>, Asked(asked): Asked<ExperimentId>) -> Answer {
    shown::not_own(&asked.experiment_id)?;
    context.track(Act::SetExperimentDeleted { id: asked.experiment_id, is_deleted: false }).await?;
    Ok(Json(json!({})))
}

#[derive(Deserialize)]
struct ExperimentTag {
    experiment_id: String,
    key: String,
    value: String,
}

async fn tag_experiment(State(context): State<Context>, Asked(asked): Asked<ExperimentTag>) -> Answer {
    shown::not_own(&asked.experiment_id)?;
    context.track(Act::TagExperiment { id: asked.experiment_id, key: asked.key, value: asked.value }).await?;
    Ok(Json(json!({})))
}

#[derive(Deserialize)]
struct RunId {
    run_id: String,
}

async fn get_run(State(context): State<Context>, Said(asked): Said<RunId>) -> Answer {
    known_run(&context, &asked.run_id).map(|run| Json(shown::one("run", run)))
}

pub(super) fn known_run(context: &Context, id: &str) -> Result<Value, MlflowError> {
    let missing = || MlflowError::missing(format!("there is no run {id:?}"));
    if let Some(number) = shown::own_run_number(id) {
        let view = context.now();
        return view.runs.iter().find(|run| run.run == number).map(shown::own_run).ok_or_else(missing);
    }
    tracked(context).run(id).map(shown::run).ok_or_else(missing)
}

async fn search_runs(State(context): State<Context>, Asked(asked): Asked<Search>) -> Answer {
    let filter = Filter::parse(&asked.filter).map_err(MlflowError::invalid)?;
    let orders = asked.order_by.iter().map(|order| Order::parse(order)).collect::<Result<Vec<_>, _>>()?;
    let mut found: Vec<Value> = tracked(&context).runs().map(shown::run).collect();
    found.extend(context.now().runs.iter().map(shown::own_run));
    let stage = stage(asked.run_view_type.as_deref());
    found.retain(|run| {
        let info = &run["info"];
        asked.experiment_ids.iter().any(|id| info["experiment_id"] == *id)
            && stage.is_none_or(|stage| info["lifecycle_stage"] == stage)
            && filter.passes(|field| shown::field(run, field))
    });
    // Newest first, where nothing else is said.
    found.sort_by_key(|run| std::cmp::Reverse(run["info"]["start_time"].as_i64()));
    for order in orders.iter().rev() {
        found.sort_by(|a, b| order.compare(a, b));
    }
    let (items, next) = paged(found, asked.max_results, asked.page_token.as_deref())?;
    Ok(Json(json!({ "runs": items, "next_page_token": next })))
}

/// `metrics.loss ASC`, and the like.
struct Order {
    by: Field,
    is_descending: bool,
}

impl Order {
    fn parse(text: &str) -> Result<Self, MlflowError> {
        let (name, is_descending) = match text.trim().rsplit_once(char::is_whitespace) {
            Some((name, word)) if word.eq_ignore_ascii_case("desc") => (name.trim(), true),
            Some((name, word)) if word.eq_ignore_ascii_case("asc") => (name.trim(), false),
            Some(_) | None => (text.trim(), false),
        };
        Field::parse(name).map(|by| Self { by, is_descending }).map_err(MlflowError::invalid)
    }

    fn compare(&self, a: &Value, b: &Value) -> std::cmp::Ordering {
        let (a, b) = (shown::field(a, &self.by), shown::field(b, &self.by));
        let number = |text: &Option<String>| text.as_ref().and_then(|text| text.parse::<f64>().ok());
        let order = match (number(&a), number(&b)) {
            (Some(a), Some(b)) => a.total_cmp(&b),
            (Some(_) | None, _) => a.cmp(&b),
        };
        // What has no such thing comes last, in whichever order.
        match (&a, &b) {
            (Some(_), None) => std::cmp::Ordering::Less,
            (None, Some(_)) => std::cmp::Ordering::Greater,
            (Some(_), Some(_)) | (None, None) if self.is_descending => order.reverse(),
            (Some(_), Some(_)) | (None, None) => order,
        }
    }
}

#[derive(Deserialize)]
struct NewRun {
    experiment_id: Option<String>,
    user_id: Option<String>,
    run_name: Option<String>,
    start_time: Option<i64>,
    #[serde(default)]
    tags: Vec<Pair>,
}

async fn create_run(
    State(context): State<Context>,
    Extension(who): Extension<Principal>,
    Asked(asked): Asked<NewRun>,
) -> Answer {
    let experiment = asked.experiment_id.unwrap_or_else(|| DEFAULT_EXPERIMENT.to_owned());
    shown::not_own(&experiment)?;
    let (id, mut tags) = (new_id(), texts(asked.tags));
    let name = asked.run_name.filter(|name| !name.is_empty()).or_else(|| tags.get(RUN_NAME_TAG).cloned());
    let name = name.unwrap_or_else(|| format!("run-{}", &id[..8]));
    tags.insert(RUN_NAME_TAG.to_owned(), name.clone());
    // Who a token is says more than who a client says it is.
    let user = asked.user_id.filter(|user| !user.is_empty()).unwrap_or(who.name);
    let started_ms = asked.start_time.unwrap_or_else(clock::unix_ms);
    context.track(Act::CreateRun { id: id.clone(), experiment, name, user, started_ms, tags }).await?;
    known_run(&context, &id).map(|run| Json(shown::one("run", run)))
}

#[derive(Deserialize)]
struct RunUpdate {
    run_id: String,
    status: Option<String>,
    end_time: Option<i64>,
    run_name: Option<String>,
}

async fn update_run(State(context): State<Context>, Asked(asked): Asked<RunUpdate>) -> Answer {
    shown::not_own(&asked.run_id)?;
    let RunUpdate { run_id, status, end_time: ended_ms, run_name: name } = asked;
    context.track(Act::UpdateRun { id: run_id.clone(), status, ended_ms, name }).await?;
    let run = known_run(&context, &run_id)?;
    Ok(Json(json!({ "run_info": run["info"] })))
}

async fn delete_run(State(context): State<Context>, Asked(asked): Asked<RunId>) -> Answer {
    shown::not_own(&asked.run_id)?;
    context.track(Act::SetRunDeleted { id: asked.run_id, is_deleted: true }).await?;
    Ok(Json(json!({})))
}

async fn restore_run(State(context): State<Context>, Asked(asked): Asked<RunId>) -> Answer {
    shown::not_own(&asked.run_id)?;
    context.track(Act::SetRunDeleted { id: asked.run_id, is_deleted: false }).await?;
    Ok(Json(json!({})))
}

/// A figure.
#[derive(Deserialize)]
struct Metric {
    key: String,
    #[serde(deserialize_with = "any_number::deserialize")]
    value: f64,
    timestamp: Option<i64>,
    #[serde(default)]
    step: i64,
}

impl Metric {
    fn point(self) -> (String, Point) {
        let timestamp = self.timestamp.unwrap_or_else(clock::unix_ms);
        (self.key, Point { value: self.value, timestamp, step: self.step })
    }
}

#[derive(Deserialize)]
struct OneMetric {
    run_id: String,
    #[serde(flatten)]
    metric: Metric,
}

async fn log_metric(State(context): State<Context>, Asked(asked): Asked<OneMetric>) -> Answer {
    log(&context, Batch { run_id: asked.run_id, metrics: vec![asked.metric], params: vec![], tags: vec![] }).await
}

#[derive(Deserialize)]
struct OnePair {
    run_id: String,
    #[serde(flatten)]
    pair: Pair,
}

async fn log_parameter(State(context): State<Context>, Asked(asked): Asked<OnePair>) -> Answer {
    log(&context, Batch { run_id: asked.run_id, metrics: vec![], params: vec![asked.pair], tags: vec![] }).await
}

async fn tag_run(State(context): State<Context>, Asked(asked): Asked<OnePair>) -> Answer {
    log(&context, Batch { run_id: asked.run_id, metrics: vec![], params: vec![], tags: vec![asked.pair] }).await
}

#[derive(Deserialize)]
struct Batch {
    run_id: String,
    #[serde(default)]
    metrics: Vec<Metric>,
    #[serde(default)]
    params: Vec<Pair>,
    #[serde(default)]
    tags: Vec<Pair>,
}

async fn log_batch(State(context): State<Context>, Asked(asked): Asked<Batch>) -> Answer {
    log(&context, asked).await
}

async fn log(context: &Context, batch: Batch) -> Answer {
    shown::not_own(&batch.run_id)?;
    let metrics = batch.metrics.into_iter().map(Metric::point).collect();
    let (params, tags) = (texts(batch.params), texts(batch.tags));
    context.track(Act::Log { id: batch.run_id, params, tags, metrics }).await?;
    Ok(Json(json!({})))
}

async fn untag_run(State(context): State<Context>, Asked(asked): Asked<OnePair>) -> Answer {
    shown::not_own(&asked.run_id)?;
    context.track(Act::UntagRun { id: asked.run_id, key: asked.pair.key }).await?;
    Ok(Json(json!({})))
}

#[derive(Deserialize)]
struct HistoryOf {
    run_id: String,
    metric_key: String,
}

async fn metric_history(State(context): State<Context>, Said(asked): Said<HistoryOf>) -> Answer {
    let HistoryOf { run_id, metric_key: key } = asked;
    let run = known_run(&context, &run_id)?;
    let points: Vec<Value> = match shown::own_run_number(&run_id) {
        Some(number) => own_history(&context, number, &run, &key).await?,
        None => {
            let (run, of) = (run_id, key.clone());
            let points = context.ask(|answer| Command::ReadPoints { run, key: of, answer }).await?;
            points.map_err(MlflowError::failed)?.iter().map(|point| shown::point(&key, point)).collect()
        }
    };
    Ok(Json(json!({ "metrics": points })))
}

/// The loss of a training of the hub's own, pass by pass; of its other figures there is one value.
async fn own_history(context: &Context, number: i64, run: &Value, key: &str) -> Result<Vec<Value>, MlflowError> {
    let curve = context.ask(|answer| Command::ReadCurve { run: number, answer }).await?.unwrap_or_default();
    let Some(first) = curve.stages.first().filter(|_| key == "loss") else {
        let metrics = run["data"]["metrics"].as_array().cloned().unwrap_or_default();
        return Ok(metrics.into_iter().filter(|metric| metric["key"] == key).collect());
    };
    let timestamp = run["info"]["start_time"].as_i64().unwrap_or_default();
    let steps = (0..).map(|pass| i64::from(first.every) * pass);
    let points = first.loss.iter().zip(steps).map(|(value, step)| Point { value: *value, timestamp, step });
    Ok(points.map(|point| shown::point(key, &point)).collect())
}

/// The name of something new: 128 random bits, as MLflow's own are.
fn new_id() -> String {
    Secret::new("").digest().to_string()[..32].to_owned()
}
