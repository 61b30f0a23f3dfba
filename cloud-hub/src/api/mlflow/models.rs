//! Registered models and their versions.

use axum::extract::State;
use axum::http::Method;
use axum::{Extension, Json};
use serde::Deserialize;
use serde_json::{Value, json};
use shared::ids::{ModelName, ModelVersion};

use super::super::guard::Route;
use super::super::{Command, Context, FileAsked, FileGiven};
use super::shown::{self, CANARY, CHAMPION, HERE, tracked};
use super::{Answer, Asked, MlflowError, Pair, Said, paged, texts};
use crate::clock;
use crate::core::access::Principal;
use crate::core::access::Role::{Publisher, Viewer};
use crate::core::tracking::Act;
use crate::core::tracking::filter::Filter;

/// How a package's file ends.
const PACKAGE_ENDING: &str = ".tide";

pub(super) fn routes() -> Vec<Route> {
    let (read, write, alter, remove) = (|| Method::GET, || Method::POST, || Method::PATCH, || Method::DELETE);
    vec![
        Route::new(read(), "/api/2.0/mlflow/registered-models/get", Viewer, get_model),
        Route::new(read(), "/api/2.0/mlflow/registered-models/search", Viewer, search_models),
        Route::new(read(), "/api/2.0/mlflow/registered-models/get-latest-versions", Viewer, latest_said),
        Route::new(write(), "/api/2.0/mlflow/registered-models/get-latest-versions", Viewer, latest_asked).quiet(),
        Route::new(write(), "/api/2.0/mlflow/registered-models/create", Publisher, create_model),
        Route::new(alter(), "/api/2.0/mlflow/registered-models/update", Publisher, update_model),
        Route::new(write(), "/api/2.0/mlflow/registered-models/rename", Publisher, rename_model),
        Route::new(remove(), "/api/2.0/mlflow/registered-models/delete", Publisher, delete_model),
        Route::new(write(), "/api/2.0/mlflow/registered-models/set-tag", Publisher, tag_model),
        Route::new(remove(), "/api/2.0/mlflow/registered-models/delete-tag", Publisher, untag_model),
        Route::new(read(), "/api/2.0/mlflow/registered-models/alias", Viewer, get_alias),
        Route::new(write(), "/api/2.0/mlflow/registered-models/alias", Publisher, set_alias),
        Route::new(remove(), "/api/2.0/mlflow/registered-models/alias", Publisher, delete_alias),
        Route::new(read(), "/api/2.0/mlflow/model-versions/get", Viewer, get_version),
        Route::new(read(), "/api/2.0/mlflow/model-versions/search", Viewer, search_versions),
        Route::new(read(), "/api/2.0/mlflow/model-versions/get-download-uri", Viewer, download_uri),
        Route::new(write(), "/api/2.0/mlflow/model-versions/create", Publisher, create_version),
        Route::new(alter(), "/api/2.0/mlflow/model-versions/update", Publisher, update_version),
        Route::new(remove(), "/api/2.0/mlflow/model-versions/delete", Publisher, delete_version),
        Route::new(write(), "/api/2.0/mlflow/model-versions/set-tag", Publisher, tag_version),
        Route::new(remove(), "/api/2.0/mlflow/model-versions/delete-tag", Publisher, untag_version),
    ]
}

#[derive(Deserialize)]
struct Name {
    name: String,
}

fn known_model(context: &Context, name: &str) -> Result<Value, MlflowError> {
    let missing = || MlflowError::missing(format!("there is no registered model {name:?}"));
    shown::model(context, name).ok_or_else(missing)
}

/// The model of the hub's own of this name, if it is one.
fn own_model(context: &Context, name: &str) -> Option<ModelName> {
    context.now().models.iter().find(|(known, _)| known.as_str() == name).map(|(known, _)| known.clone())
}

async fn get_model(State(context): State<Context>, Said(asked): Said<Name>) -> Answer {
    known_model(&context, &asked.name).map(|model| Json(shown::one("registered_model", model)))
}

#[derive(Deserialize)]
struct Search {
    #[serde(default)]
    filter: String,
    max_results: Option<usize>,
    page_token: Option<String>,
}

async fn search_models(State(context): State<Context>, Said(asked): Said<Search>) -> Answer {
    let filter = Filter::parse(&asked.filter).map_err(MlflowError::invalid)?;
    let mut found = shown::models(&context);
    found.retain(|model| filter.passes(|field| shown::field(model, field)));
    let (items, next) = paged(found, asked.max_results, asked.page_token.as_deref())?;
    Ok(Json(json!({ "registered_models": items, "next_page_token": next })))
}

async fn latest_said(State(context): State<Context>, Said(asked): Said<Name>) -> Answer {
    latest(&context, &asked.name)
}

async fn latest_asked(State(context): State<Context>, Asked(asked): Asked<Name>) -> Answer {
    latest(&context, &asked.name)
}

fn latest(context: &Context, name: &str) -> Answer {
    let model = known_model(context, name)?;
    Ok(Json(json!({ "model_versions": model["latest_versions"] })))
}

#[derive(Deserialize)]
struct NewModel {
    name: String,
    #[serde(default)]
    description: String,
    #[serde(default)]
    tags: Vec<Pair>,
}

/// Refuses what cannot be the name of a model that the hub does not have itself.
fn check_name(context: &Context, name: &str) -> Result<(), MlflowError> {
    if own_model(context, name).is_some() {
        let says = format!("{name:?} is a model of the hub's own: register versions of it");
        return Err(MlflowError::exists(says));
    }
    if name.is_empty() || name.contains(['/', ':']) || name.chars().any(char::is_control) {
        return Err(MlflowError::invalid("a name is not empty, and has no slash, colon or control character"));
    }
    Ok(())
}

async fn create_model(State(context): State<Context>, Asked(asked): Asked<NewModel>) -> Answer {
    check_name(&context, &asked.name)?;
    let (name, description, tags) = (asked.name, asked.description, texts(asked.tags));
    context.track(Act::CreateModel { name: name.clone(), description, tags }).await?;
    known_model(&context, &name).map(|model| Json(shown::one("registered_model", model)))
}

#[derive(Deserialize)]
struct ModelUpdate {
    name: String,
    #[serde(default)]
    description: String,
}

async fn update_model(State(context): State<Context>, Asked(asked): Asked<ModelUpdate>) -> Answer {
    known_model(&context, &asked.name)?;
    let (name, description) = (asked.name, asked.description);
    context.track(Act::DescribeModel { name: name.clone(), description }).await?;
    known_model(&context, &name).map(|model| Json(shown::one("registered_model", model)))
}

#[derive(Deserialize)]
struct Rename {
    name: String,
    new_name: String,
}

async fn rename_model(State(context): State<Context>, Asked(asked): Asked<Rename>) -> Answer {
    let Rename { name, new_name } = asked;
    not_own(&context, &name)?;
    check_name(&context, &new_name)?;
    context.track(Act::RenameModel { name, new_name: new_name.clone() }).await?;
    known_model(&context, &new_name).map(|model| Json(shown::one("registered_model", model)))
}

/// Refuses to move or throw away what is the hub's own.
fn not_own(context: &Context, name: &str) -> Result<(), MlflowError> {
    if own_model(context, name).is_some() {
        return Err(MlflowError::invalid(format!("{name:?} is a model of the hub's own, and stays")));
    }
    Ok(())
}

async fn delete_model(State(context): State<Context>, Asked(asked): Asked<Name>) -> Answer {
    not_own(&context, &asked.name)?;
    context.track(Act::DeleteModel { name: asked.name }).await?;
    Ok(Json(json!({})))
}

#[derive(Deserialize)]
struct ModelTag {
    name: String,
    key: String,
    value: Option<String>,
}

async fn tag_model(State(context): State<Context>, Asked(asked): Asked<ModelTag>) -> Answer {
    known_model(&context, &asked.name)?;
    let value = Some(asked.value.unwrap_or_default());
    context.track(Act::TagModel { name: asked.name, key: asked.key, value }).await?;
    Ok(Json(json!({})))
}

async fn untag_model(State(context): State<Context>, Asked(asked): Asked<ModelTag>) -> Answer {
    known_model(&context, &asked.name)?;
    context.track(Act::TagModel { name: asked.name, key: asked.key, value: None }).await?;
    Ok(Json(json!({})))
}

#[derive(Deserialize)]
struct Alias {
    name: String,
    alias: String,
    version: Option<String>,
}

async fn get_alias(State(context): State<Context>, Said(asked): Said<Alias>) -> Answer {
    let Alias { name, alias, .. } = asked;
    let model = known_model(&context, &name)?;
    let aliases = model["aliases"].as_array().cloned().unwrap_or_default();
    let found = aliases.iter().find(|known| known["alias"] == alias).and_then(|known| known["version"].as_str());
    let Some(version) = found else {
        return Err(MlflowError::missing(format!("{name:?} has no version called {alias:?}")));
    };
    known_version(&context, &name, version).map(|version| Json(shown::one("model_version", version)))
}

async fn set_alias(
    State(context): State<Context>,
    Extension(who): Extension<Principal>,
    Asked(asked): Asked<Alias>,
) -> Answer {
    let Alias { name, alias, version } = asked;
    let version = version.unwrap_or_default();
    known_version(&context, &name, &version)?;
    let number = number(&version)?;
    match (own_model(&context, &name), alias.as_str()) {
        (Some(_), CANARY) => {
            let says = "canary is the version of the rollout that runs; begin one by calling a version champion";
            return Err(MlflowError::invalid(says));
        }
        // What is called champion is what boxes are to get: stage by stage, as with every version.
        (Some(model), CHAMPION) => {
            let serves = context.now().models.iter().any(|(known, of)| *known == model && of.champion == Some(number));
            if !serves {
                context.order(Command::RollOut { model, version: ModelVersion(number), by: who.name }).await?;
            }
        }
        (Some(_) | None, _) => context.track(Act::SetAlias { name, alias, version: Some(number) }).await?,
    }
    Ok(Json(json!({})))
}

async fn delete_alias(State(context): State<Context>, Asked(asked): Asked<Alias>) -> Answer {
    let Alias { name, alias, .. } = asked;
    known_model(&context, &name)?;
    if own_model(&context, &name).is_some() && [CHAMPION, CANARY].contains(&alias.as_str()) {
        return Err(MlflowError::invalid(format!("{alias} of {name} is what its boxes get, and stays")));
    }
    context.track(Act::SetAlias { name, alias, version: None }).await?;
    Ok(Json(json!({})))
}

#[derive(Deserialize)]
struct VersionOf {
    name: String,
    version: String,
}

fn known_version(context: &Context, name: &str, version: &str) -> Result<Value, MlflowError> {
    known_model(context, name)?;
    let found = shown::versions(context, name).into_iter().find(|known| known["version"] == version);
    found.ok_or_else(|| MlflowError::missing(format!("{name:?} has no version {version:?}")))
}

fn number(version: &str) -> Result<u32, MlflowError> {
    version.parse().map_err(|_| MlflowError::invalid(format!("{version:?} is no number of a version")))
}

async fn get_version(State(context): State<Context>, Said(asked): Said<VersionOf>) -> Answer {
    let version = known_version(&context, &asked.name, &asked.version)?;
    Ok(Json(shown::one("model_version", version)))
}

async fn download_uri(State(context): State<Context>, Said(asked): Said<VersionOf>) -> Answer {
    let version = known_version(&context, &asked.name, &asked.version)?;
    Ok(Json(json!({ "artifact_uri": version["source"] })))
}

async fn search_versions(State(context): State<Context>, Said(asked): Said<Search>) -> Answer {
    let filter = Filter::parse(&asked.filter).map_err(MlflowError::invalid)?;
    let names = shown::models(&context);
    let names = names.iter().filter_map(|model| model["name"].as_str());
    let mut found: Vec<Value> = names.flat_map(|name| shown::versions(&context, name)).collect();
    found.retain(|version| filter.passes(|field| shown::field(version, field)));
    let (items, next) = paged(found, asked.max_results, asked.page_token.as_deref())?;
    Ok(Json(json!({ "model_versions": items, "next_page_token": next })))
}

#[derive(Deserialize)]
struct NewVersion {
    name: String,
    source: String,
    #[serde(default)]
    run_id: String,
    #[serde(default)]
    description: String,
    #[serde(default)]
    tags: Vec<Pair>,
}

async fn create_version(
    State(context): State<Context>,
    Extension(who): Extension<Principal>,
    Asked(asked): Asked<NewVersion>,
) -> Answer {
    let NewVersion { name, source, run_id: run, description, tags } = asked;
    let tags = texts(tags);
    if let Some(model) = own_model(&context, &name) {
        let note =
            |version| Act::NoteVersion { name: name.clone(), version, run, description, user: who.name.clone(), tags };
        // What cannot be said of it is refused before it is brought.
        tracked(&context).perform(clock::unix_ms(), note.clone()(0))?;
        let bytes = package_at(&context, &source).await?;
        let bring = |answer| Command::Bring { model, bytes, by: who.name.clone(), skip_proof: false, answer };
        let (version, _) = context
            .ask(bring)
            .await?
            .map_err(|reason| MlflowError::invalid(format!("the package is refused: {reason}")))?;
        context.track(note(version.0)).await?;
        return known_version(&context, &name, &version.0.to_string())
            .map(|version| Json(shown::one("model_version", version)));
    }
    let user = who.name;
    context.track(Act::CreateVersion { name: name.clone(), source, run, description, user, tags }).await?;
    let made = tracked(&context).model(&name).and_then(|model| model.versions.last().map(|version| version.version));
    let made = made.map(|version| version.to_string()).unwrap_or_default();
    known_version(&context, &name, &made).map(|version| Json(shown::one("model_version", version)))
}

/// The package that a version's source leads to: a file, or the only one in a folder.
async fn package_at(context: &Context, source: &str) -> Result<Vec<u8>, MlflowError> {
    let Some(path) = source.strip_prefix(HERE) else {
        let says =
            format!("a version of the hub's own model comes from a package here ({HERE}...), not from {source:?}");
        return Err(MlflowError::invalid(says));
    };
    let mut path = path.trim_matches('/').to_owned();
    if !path.ends_with(PACKAGE_ENDING) {
        let listed = context.ask(|answer| Command::OnFile { asked: FileAsked::List(path.clone()), answer }).await??;
        let FileGiven::Listed(files) = listed else {
            return Err(MlflowError::failed("the hub did not list its files"));
        };
        let packages: Vec<String> =
            files.into_iter().map(|(name, _)| name).filter(|name| name.ends_with(PACKAGE_ENDING)).collect();
        let [package] = packages.as_slice() else {
            let says = format!("{source} must hold one package (*{PACKAGE_ENDING}), and holds {}", packages.len());
            return Err(MlflowError::invalid(says));
        };
        path = format!("{path}/{package}");
    }
    match context.ask(|answer| Command::OnFile { asked: FileAsked::Read(path), answer }).await?? {
        FileGiven::Bytes(bytes) => Ok(bytes),
        FileGiven::Listed(_) | FileGiven::Done => Err(MlflowError::failed("the hub did not read its file")),
    }
}

#[derive(Deserialize)]
struct VersionUpdate {
    name: String,
    version: String,
    #[serde(default)]
    description: String,
}

async fn update_version(State(context): State<Context>, Asked(asked): Asked<VersionUpdate>) -> Answer {
    let VersionUpdate { name, version, description } = asked;
    known_version(&context, &name, &version)?;
    let act = Act::DescribeVersion { name: name.clone(), version: number(&version)?, description };
    context.track(act).await?;
    known_version(&context, &name, &version).map(|version| Json(shown::one("model_version", version)))
}

async fn delete_version(State(context): State<Context>, Asked(asked): Asked<VersionOf>) -> Answer {
    let VersionOf { name, version } = asked;
    not_own(&context, &name)?;
    context.track(Act::DeleteVersion { name, version: number(&version)? }).await?;
    Ok(Json(json!({})))
}

#[derive(Deserialize)]
struct VersionTag {
    name: String,
    version: String,
    key: String,
    value: Option<String>,
}

async fn tag_version(State(context): State<Context>, Asked(asked): Asked<VersionTag>) -> Answer {
    let VersionTag { name, version, key, value } = asked;
    known_version(&context, &name, &version)?;
    let (version, value) = (number(&version)?, Some(value.unwrap_or_default()));
    context.track(Act::TagVersion { name, version, key, value }).await?;
    Ok(Json(json!({})))
}

async fn untag_version(State(context): State<Context>, Asked(asked): Asked<VersionTag>) -> Answer {
    let VersionTag { name, version, key, .. } = asked;
    known_version(&context, &name, &version)?;
    context.track(Act::TagVersion { name, version: number(&version)?, key, value: None }).await?;
    Ok(Json(json!({})))
}
