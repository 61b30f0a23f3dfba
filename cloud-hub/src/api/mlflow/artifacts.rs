//! Files: what trainings leave, and packages of the hub's own versions.

use axum::Json;
use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::{Method, header};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use serde_json::{Value, json};
use shared::ids::Digest;
use shared::limits::MAX_PACKAGE_BYTES;

use super::super::guard::Route;
use super::super::{Command, Context, FileAsked, FileGiven};
use super::runs::known_run;
use super::shown::{HERE, OWN_FILES, PACKAGE};
use super::{Answer, MlflowError, Said};
use crate::core::access::Role::{Operator, Viewer};
use crate::view::VersionView;

pub(super) fn routes() -> Vec<Route> {
    const FILE: &str = "/api/2.0/mlflow-artifacts/artifacts/{*path}";
    vec![
        Route::new(Method::GET, "/api/2.0/mlflow-artifacts/artifacts", Viewer, list),
        Route::new(Method::GET, "/api/2.0/mlflow/artifacts/list", Viewer, list_of_run),
        Route::new(Method::GET, FILE, Viewer, read),
        Route::new(Method::PUT, FILE, Operator, write).taking(MAX_PACKAGE_BYTES as usize),
        Route::new(Method::DELETE, FILE, Operator, remove),
    ]
}

#[derive(Deserialize)]
struct Listing {
    #[serde(default)]
    path: String,
}

async fn list(State(context): State<Context>, Said(asked): Said<Listing>) -> Answer {
    let files = listed(&context, asked.path.trim_matches('/')).await?;
    let files = files.into_iter().map(|(name, bytes)| shown(&name, bytes)).collect::<Vec<_>>();
    Ok(Json(json!({ "files": files })))
}

#[derive(Deserialize)]
struct OfRun {
    run_id: String,
    #[serde(default)]
    path: String,
}

async fn list_of_run(State(context): State<Context>, Said(asked): Said<OfRun>) -> Answer {
    let run = known_run(&context, &asked.run_id)?;
    let uri = run["info"]["artifact_uri"].as_str().unwrap_or_default();
    let root = uri.strip_prefix(HERE).unwrap_or_default();
    let path = asked.path.trim_matches('/');
    let folder = if path.is_empty() { root.to_owned() } else { format!("{root}/{path}") };
    let below = |name: &str| if path.is_empty() { name.to_owned() } else { format!("{path}/{name}") };
    let files = listed(&context, &folder).await?;
    let files = files.into_iter().map(|(name, bytes)| shown(&below(&name), bytes)).collect::<Vec<_>>();
    Ok(Json(json!({ "root_uri": uri, "files": files })))
}

fn shown(path: &str, bytes: Option<u64>) -> Value {
    json!({ "path": path, "is_dir": bytes.is_none(), "file_size": bytes })
}

/// What lies in a folder; of the hub's own versions, a package each.
async fn listed(context: &Context, folder: &str) -> Result<Vec<(String, Option<u64>)>, MlflowError> {
    if let Some(version) = own_version(context, folder)? {
        return Ok(vec![(PACKAGE.to_owned(), Some(version.bytes))]);
    }
    let folder = folder.to_owned();
    match context.ask(|answer| Command::OnFile { asked: FileAsked::List(folder), answer }).await?? {
        FileGiven::Listed(files) => Ok(files),
        FileGiven::Bytes(_) | FileGiven::Done => Err(MlflowError::failed("the hub did not list its files")),
    }
}

/// The version of the hub's own whose folder this is; nothing if it is another folder.
fn own_version(context: &Context, folder: &str) -> Result<Option<VersionView>, MlflowError> {
    let parts: Vec<&str> = folder.split('/').collect();
    let [OWN_FILES, model, version] = parts[..] else { return Ok(None) };
    let view = context.now();
    let missing = || MlflowError::missing(format!("{model:?} has no version {version:?}"));
    let of_model = view.models.iter().find(|(known, _)| known.as_str() == model).map(|(_, model)| model);
    let found = of_model.and_then(|model| model.versions.iter().find(|known| known.version.to_string() == version));
    found.cloned().map(Some).ok_or_else(missing)
}

async fn read(State(context): State<Context>, Path(path): Path<String>) -> Result<Response, MlflowError> {
    let own = match path.rsplit_once('/') {
        Some((folder, PACKAGE)) => own_version(&context, folder)?,
        Some(_) | None => None,
    };
    let bytes = match own {
        Some(version) => {
            let digest = Digest::from_hex(&version.digest).ok_or_else(|| MlflowError::failed("its digest is none"))?;
            context.ask(|answer| Command::ReadPackage { digest, answer }).await?.map_err(MlflowError::failed)?
        }
        None => match context.ask(|answer| Command::OnFile { asked: FileAsked::Read(path), answer }).await?? {
            FileGiven::Bytes(bytes) => bytes,
            FileGiven::Listed(_) | FileGiven::Done => {
                return Err(MlflowError::failed("the hub did not read its file"));
            }
        },
    };
    // Whatever somebody left here is shown by no browser as a page of the hub's.
    let headers = [
        (header::CONTENT_TYPE, "application/octet-stream"),
        (header::CONTENT_DISPOSITION, "attachment"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    ];
    Ok((headers, bytes).into_response())
}

async fn write(State(context): State<Context>, Path(path): Path<String>, body: Bytes) -> Answer {
    not_own(&path)?;
    let asked = FileAsked::Write(path, body.to_vec());
    context.ask(|answer| Command::OnFile { asked, answer }).await??;
    Ok(Json(json!({})))
}

async fn remove(State(context): State<Context>, Path(path): Path<String>) -> Answer {
    let path = path.trim_matches('/').to_owned();
    not_own(&path)?;
    let asked = FileAsked::Remove(path);
    context.ask(|answer| Command::OnFile { asked, answer }).await??;
    Ok(Json(json!({})))
}

/// Refuses to change what seems to lie in the folder of the hub's own models.
fn not_own(path: &str) -> Result<(), MlflowError> {
    if path.split('/').next() == Some(OWN_FILES) {
        return Err(MlflowError::invalid(format!("what is below {OWN_FILES}/ is the hub's own")));
    }
    Ok(())
}
