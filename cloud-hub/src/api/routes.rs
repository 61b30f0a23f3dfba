//! Every route, and the least role that may use it: the one table that says so.

use axum::http::Method;
use shared::limits::{MAX_PACKAGE_BYTES, MAX_PROGRAM_FILE_BYTES};

use super::guard::Route;
use super::{
    accounts, alarms, asks, dashboard, diagnoses, enrolment, events, fleet, history, install, labels, learning, mlflow,
    models, openapi, programs, rollouts, streams,
};
use crate::core::access::Role::{Admin, Operator, Publisher, Viewer};

/// Bytes of a file of labels: a thousand lines with something to say.
const MAX_IMPORT_BYTES: usize = 1024 * 1024;

/// Every route of the interface.
pub(super) fn all() -> Vec<Route> {
    let (read, make, write, alter, remove) = (Method::GET, Method::POST, Method::PUT, Method::PATCH, Method::DELETE);
    let (read, make, remove) = (|| read.clone(), || make.clone(), || remove.clone());
    let own = vec![
        Route::open(read(), "/", dashboard::index),
        Route::open(read(), "/assets/{file}", dashboard::asset),
        Route::open(read(), "/install.sh", install::script),
        Route::open(read(), "/install/{file}", install::package),
        Route::open(read(), "/livez", super::live),
        Route::open(read(), "/readyz", super::ready),
        Route::open(read(), "/metrics", super::metrics),
        Route::open(read(), "/api/openapi.json", openapi::openapi),
        Route::open(read(), "/api/asyncapi.json", openapi::asyncapi),
        Route::open(make(), "/api/v1/login", accounts::login),
        Route::open(make(), "/api/v1/setup", accounts::setup),
        Route::new(make(), "/api/v1/logout", Viewer, accounts::logout),
        Route::new(read(), "/api/v1/me", Viewer, accounts::me),
        Route::new(write, "/api/v1/me/password", Viewer, accounts::change_password),
        Route::new(read(), "/api/v1/users", Admin, accounts::users),
        Route::new(make(), "/api/v1/users", Admin, accounts::add_user),
        Route::new(read(), "/api/v1/users/{user}", Admin, accounts::user),
        Route::new(alter, "/api/v1/users/{user}", Admin, accounts::change_user),
        Route::new(remove(), "/api/v1/users/{user}", Admin, accounts::remove_user),
        Route::new(read(), "/api/v1/tokens", Viewer, accounts::tokens),
        Route::new(make(), "/api/v1/tokens", Viewer, accounts::add_token),
        Route::new(remove(), "/api/v1/tokens/{token}", Viewer, accounts::remove_token),
        Route::new(read(), "/api/v1/overview", Viewer, fleet::overview),
        Route::new(read(), "/api/v1/fleet-map", Viewer, fleet::map),
        Route::new(read(), "/api/v1/agents", Viewer, fleet::agents),
        Route::new(read(), "/api/v1/agents/{agent}", Viewer, fleet::agent),
        Route::new(make(), "/api/v1/agents/{agent}/diagnosis", Operator, diagnoses::ask),
        Route::new(read(), "/api/v1/agents/{agent}/diagnosis", Operator, diagnoses::diagnosis),
        Route::new(read(), "/api/v1/agents/{agent}/streams/{stream}", Viewer, streams::stream),
        Route::new(read(), "/api/v1/agents/{agent}/streams/{stream}/readings", Viewer, streams::readings),
        Route::new(read(), "/api/v1/agents/{agent}/streams/{stream}/histograms", Viewer, streams::histograms),
        Route::new(read(), "/api/v1/streams", Viewer, streams::streams),
        Route::new(read(), "/api/v1/alarms", Viewer, alarms::list),
        Route::new(read(), "/api/v1/alarms/{alarm}", Viewer, alarms::one),
        Route::new(make(), "/api/v1/alarms/{alarm}/review", Operator, alarms::review),
        Route::new(read(), "/api/v1/labels", Viewer, labels::list),
        Route::new(make(), "/api/v1/labels", Operator, labels::add),
        Route::new(make(), "/api/v1/labels/import", Operator, labels::import).taking(MAX_IMPORT_BYTES),
        Route::new(remove(), "/api/v1/labels/{label}", Operator, labels::remove),
        Route::new(read(), "/api/v1/ledger", Viewer, fleet::ledger),
        Route::new(read(), "/api/v1/models", Viewer, models::models),
        Route::new(read(), "/api/v1/models/{model}", Viewer, models::model),
        Route::new(read(), "/api/v1/models/{model}/versions", Viewer, models::versions),
        Route::new(make(), "/api/v1/models/{model}/versions", Publisher, models::upload)
            .taking(MAX_PACKAGE_BYTES as usize),
        Route::new(read(), "/api/v1/models/{model}/versions/{version}", Viewer, models::version),
        Route::new(read(), "/api/v1/models/{model}/versions/{version}/package", Viewer, models::package),
        Route::new(make(), "/api/v1/models/{model}/rollouts", Publisher, models::roll_out),
        Route::new(make(), "/api/v1/models/{model}/retraining", Operator, learning::retrain),
        Route::new(read(), "/api/v1/rollouts", Viewer, rollouts::list),
        Route::new(read(), "/api/v1/rollouts/{rollout}", Viewer, rollouts::one),
        Route::new(make(), "/api/v1/rollouts/{rollout}/approve", Operator, rollouts::approve),
        Route::new(make(), "/api/v1/rollouts/{rollout}/pause", Operator, rollouts::pause),
        Route::new(make(), "/api/v1/rollouts/{rollout}/resume", Operator, rollouts::resume),
        Route::new(make(), "/api/v1/rollouts/{rollout}/abort", Operator, rollouts::abort),
        Route::new(read(), "/api/v1/drift", Viewer, learning::drift),
        Route::new(read(), "/api/v1/retraining-runs", Viewer, learning::runs),
        Route::new(read(), "/api/v1/retraining-runs/{run}", Viewer, learning::run),
        Route::new(read(), "/api/v1/retraining-runs/{run}/curve", Viewer, learning::curve),
        Route::new(read(), "/api/v1/enrolment-tokens", Operator, enrolment::tokens),
        Route::new(make(), "/api/v1/enrolment-tokens", Operator, enrolment::make_tokens),
        Route::new(remove(), "/api/v1/enrolment-tokens/{token}", Operator, enrolment::remove_token),
        Route::new(read(), "/api/v1/enrolment-asks", Operator, asks::asks),
        Route::new(make(), "/api/v1/enrolment-asks/{ask}/approve", Operator, asks::approve),
        Route::new(remove(), "/api/v1/enrolment-asks/{ask}", Operator, asks::remove),
        Route::new(read(), "/api/v1/identities", Viewer, enrolment::identities),
        Route::new(read(), "/api/v1/identities/{agent}", Viewer, enrolment::identity),
        Route::new(make(), "/api/v1/identities/{agent}/revoke", Operator, enrolment::revoke),
        Route::new(make(), "/api/v1/identities/{agent}/approve", Operator, enrolment::approve),
        Route::new(read(), "/api/v1/programs", Viewer, programs::programs),
        Route::new(make(), "/api/v1/programs", Publisher, programs::bring).taking(MAX_PROGRAM_FILE_BYTES as usize),
        Route::new(read(), "/api/v1/programs/{file}", Viewer, programs::program),
        Route::new(remove(), "/api/v1/programs/{file}", Publisher, programs::remove),
        Route::new(make(), "/api/v1/programs/{file}/offers", Operator, programs::offer),
        Route::new(make(), "/api/v1/programs/{file}/resume", Operator, programs::resume),
        Route::new(read(), "/api/v1/box-programs", Viewer, programs::boxes),
        Route::new(read(), "/api/v1/history", Admin, history::history),
        Route::new(read(), "/api/v1/events", Viewer, events::events),
    ];
    own.into_iter().chain(mlflow::routes()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::access::Role;

    /// Whoever adds a route says here, too, who may use it.
    #[test]
    fn the_table_of_routes_and_roles_is_the_one_that_was_agreed_on() {
        let shown: Vec<String> = all()
            .iter()
            .map(|route| format!("{} {} {}", route.method, route.path, route.role.map_or("anybody", Role::name)))
            .collect();
        let expected = include_str!("routes.txt").lines().collect::<Vec<_>>();
        assert_eq!(shown, expected);
    }

    #[test]
    fn nothing_that_changes_anything_is_for_anybody_but_logging_in() {
        let open: Vec<&str> =
            all().iter().filter(|route| route.role.is_none() && route.method != Method::GET).map(|r| r.path).collect();
        assert_eq!(open, ["/api/v1/login", "/api/v1/setup"]);
    }
}
