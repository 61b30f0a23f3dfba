//! The interface as an OpenAPI 3.1 document, made from the handlers, the table of routes and the types that are shown.

use axum::Json;
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;
use serde::Serialize;
use serde_json::ser::{PrettyFormatter, Serializer};
use utoipa::openapi::path::Operation;
use utoipa::openapi::response::{Response, ResponseBuilder};
use utoipa::openapi::security::{
    ApiKey, ApiKeyValue, HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme,
};
use utoipa::openapi::{Components, ContentBuilder, OpenApi as Document, Ref, RefOr};
use utoipa::{OpenApi, openapi::path::HttpMethod};

use super::error::{PROBLEM_JSON, ProblemView};
use super::guard::SESSION_COOKIE;
use super::{
    accounts, alarms, asks, diagnoses, enrolment, events, fleet, history, labels, learning, models, programs, rollouts,
    routes, streams,
};
use crate::core::access::Role;

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Tideline hub",
        description = "Boxes, their streams, models and everything that happens to them. Times are RFC 3339, in UTC. \
                       Errors are problem details (RFC 9457) whose `code` does not change. Lists come in pages: ask for \
                       the next one with `cursor`.",
    ),
    paths(
        accounts::login, accounts::setup, accounts::logout, accounts::me, accounts::change_password, accounts::users,
        accounts::add_user, accounts::user, accounts::change_user, accounts::remove_user, accounts::tokens,
        accounts::add_token, accounts::remove_token, fleet::overview, fleet::map, fleet::agents, fleet::agent, fleet::ledger,
        diagnoses::ask, diagnoses::diagnosis,
        streams::streams, streams::stream, streams::readings, streams::histograms, models::models, models::model,
        models::versions, models::version, models::package, models::upload, models::roll_out, learning::retrain,
        learning::drift, learning::runs, learning::run, learning::curve, rollouts::list, rollouts::one, rollouts::approve, rollouts::pause,
        rollouts::resume, rollouts::abort, alarms::list, alarms::one, alarms::review, labels::list, labels::add, labels::import, labels::remove, history::history, events::events, enrolment::tokens,
        enrolment::make_tokens, enrolment::remove_token, asks::asks, asks::approve, asks::remove, enrolment::identities, enrolment::identity, enrolment::revoke, enrolment::approve,
        programs::programs, programs::bring, programs::program, programs::remove, programs::offer, programs::resume, programs::boxes,
    ),
    components(schemas(ProblemView<'_>, fleet::AgentOrder)),
    tags(
        (name = "Fleet", description = "Boxes, and what became of their readings"),
        (name = "Streams", description = "Readings, and what was said of them"),
        (name = "Alarms and labels", description = "What models and people say of readings"),
        (name = "Models", description = "Models, their versions and packages"),
        (name = "Learning", description = "Drift and training"),
        (name = "Rollouts", description = "How versions reach boxes"),
        (name = "Live", description = "What happens, as it happens"),
        (name = "Enrolment", description = "How boxes are let in, and kept out"),
        (name = "Programs", description = "The programs that boxes run"),
        (name = "Access", description = "Who may do what"),
        (name = "Audit", description = "Who did what"),
    ),
)]
struct Interface;

/// Where the interface begins in the table of routes; what is before is not for programs that use it.
const INTERFACE: &str = "/api/v1/";

/// The interface as an OpenAPI document.
#[utoipa::path(get, path = "/api/openapi.json", responses((status = 200)))]
pub(super) async fn openapi() -> Json<Document> {
    Json(document())
}

/// What agents publish over MQTT as an AsyncAPI document; `edge-agent asyncapi` makes it.
pub(super) async fn asyncapi() -> impl IntoResponse {
    ([(CONTENT_TYPE, "application/json")], include_str!("../../../docs/asyncapi.json"))
}

/// The interface as an OpenAPI document: what each route takes and gives, and the role it takes to use it.
#[must_use]
pub fn document() -> Document {
    let mut document = Interface::openapi();
    env!("CARGO_PKG_VERSION").clone_into(&mut document.info.version);
    document.info.license = None;
    document.info.contact = None;
    let components = document.components.get_or_insert_with(Components::default);
    let bearer = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).description(Some("A token of a program"));
    let cookie = ApiKeyValue::with_description(SESSION_COOKIE, "The session of a browser");
    components.add_security_scheme("token", SecurityScheme::Http(bearer.build()));
    components.add_security_scheme("session", SecurityScheme::ApiKey(ApiKey::Cookie(cookie)));
    for route in routes::all().into_iter().filter(|route| route.path.starts_with(INTERFACE)) {
        let item = document.paths.paths.get_mut(route.path);
        let operation = item.and_then(|item| match method(&route.method) {
            HttpMethod::Get => item.get.as_mut(),
            HttpMethod::Post => item.post.as_mut(),
            HttpMethod::Put => item.put.as_mut(),
            HttpMethod::Patch => item.patch.as_mut(),
            HttpMethod::Delete => item.delete.as_mut(),
            HttpMethod::Options | HttpMethod::Head | HttpMethod::Trace => None,
        });
        if let Some(operation) = operation {
            complete(operation, route.role);
        }
    }
    document
}

/// What is the same of every route.
fn complete(operation: &mut Operation, role: Option<Role>) {
    for range in ["4XX", "5XX"] {
        operation.responses.responses.insert(range.to_owned(), RefOr::T(problem()));
    }
    let Some(role) = role else {
        operation.security = Some(vec![]);
        return;
    };
    let needs = format!("Takes the role {}.", role.name());
    let said = operation.description.take().map(|said| format!("{said}\n\n{needs}"));
    operation.description = Some(said.unwrap_or(needs));
    let scheme = |name| SecurityRequirement::new::<_, [&str; 0], &str>(name, []);
    operation.security = Some(vec![scheme("token"), scheme("session")]);
}

fn problem() -> Response {
    let schema = Ref::from_schema_name("ProblemView");
    let content = ContentBuilder::new().schema(Some(schema)).build();
    ResponseBuilder::new().description("What is wrong").content(PROBLEM_JSON, content).build()
}

fn method(method: &axum::http::Method) -> HttpMethod {
    match method.as_str() {
        "POST" => HttpMethod::Post,
        "PUT" => HttpMethod::Put,
        "PATCH" => HttpMethod::Patch,
        "DELETE" => HttpMethod::Delete,
        _ => HttpMethod::Get,
    }
}

/// The document as it is published: a line for each value, so that people see what changed, and as little space before it as does.
///
/// # Errors
/// Never, for this document.
pub fn text() -> serde_json::Result<String> {
    let mut bytes = Vec::new();
    let formatter = PrettyFormatter::with_indent(b" ");
    document().serialize(&mut Serializer::with_formatter(&mut bytes, formatter))?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every route of the interface is in the document, and nothing else is.
    #[test]
    fn the_document_and_the_table_of_routes_are_of_the_same_interface() {
        let mut routed: Vec<String> = routes::all()
            .iter()
            .filter(|route| route.path.starts_with(INTERFACE))
            .map(|route| format!("{} {}", route.method.as_str().to_lowercase(), route.path))
            .collect();
        let shown = serde_json::to_value(document()).expect("JSON");
        let paths = shown["paths"].as_object().expect("paths");
        let of_path = |(path, item): (&String, &serde_json::Value)| {
            let methods = item.as_object().expect("operations").keys();
            methods.map(|method| format!("{method} {path}")).collect::<Vec<_>>()
        };
        let mut documented: Vec<String> = paths.iter().flat_map(of_path).collect();
        routed.sort();
        documented.sort();
        assert_eq!(documented, routed);
    }

    #[test]
    fn every_reference_leads_somewhere() {
        let shown = serde_json::to_value(document()).expect("JSON");
        let text = shown.to_string();
        let names = text.split("\"#/components/schemas/").skip(1).filter_map(|rest| rest.split('"').next());
        let missing: Vec<&str> = names.filter(|name| shown["components"]["schemas"][*name].is_null()).collect();
        assert_eq!(missing, [""; 0]);
    }

    /// Programs are written against this document: whoever changes the interface sees here what they change.
    #[test]
    fn the_document_is_the_one_that_is_published() {
        let made = format!("{}\n", text().expect("JSON"));
        let published = include_str!("../../../docs/openapi.json");
        assert!(made == published, "run 'cloud-hub openapi > docs/openapi.json' and look at the difference");
    }
}
