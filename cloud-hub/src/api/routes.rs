//! Every route, and the least role that may use it: the one table that says so.

use axum::http::Method;
use shared::limits::MAX_PACKAGE_BYTES;

use super::guard::Route;
use super::{accounts, rollouts};
use crate::core::access::Role::{Admin, Operator, Publisher, Viewer};

/// Every route of the interface.
pub(super) fn all() -> Vec<Route> {
    let (read, make, write, alter, remove) = (Method::GET, Method::POST, Method::PUT, Method::PATCH, Method::DELETE);
    let (read, make) = (|| read.clone(), || make.clone());
    vec![
        Route::open(read(), "/livez", || async { "ok" }),
        Route::open(read(), "/readyz", super::ready),
        Route::open(read(), "/metrics", super::metrics),
        Route::open(make(), "/api/v1/login", accounts::login),
        Route::open(make(), "/api/v1/setup", accounts::setup),
        Route::new(make(), "/api/v1/logout", Viewer, accounts::logout),
        Route::new(read(), "/api/v1/me", Viewer, accounts::me),
        Route::new(write, "/api/v1/me/password", Viewer, accounts::change_password),
        Route::new(read(), "/api/v1/users", Admin, accounts::users),
        Route::new(make(), "/api/v1/users", Admin, accounts::add_user),
        Route::new(alter, "/api/v1/users/{user}", Admin, accounts::change_user),
        Route::new(remove.clone(), "/api/v1/users/{user}", Admin, accounts::remove_user),
        Route::new(read(), "/api/v1/tokens", Viewer, accounts::tokens),
        Route::new(make(), "/api/v1/tokens", Viewer, accounts::add_token),
        Route::new(remove, "/api/v1/tokens/{token}", Viewer, accounts::remove_token),
        Route::new(read(), "/api/v1/agents", Viewer, super::agents),
        Route::new(read(), "/api/v1/agents/{agent}", Viewer, super::agent),
        Route::new(read(), "/api/v1/streams", Viewer, super::streams),
        Route::new(read(), "/api/v1/models", Viewer, super::models),
        Route::new(read(), "/api/v1/models/{model}", Viewer, super::model),
        Route::new(read(), "/api/v1/models/{model}/versions", Viewer, super::versions),
        Route::new(make(), "/api/v1/models/{model}/versions", Publisher, rollouts::upload)
            .taking(MAX_PACKAGE_BYTES as usize),
        Route::new(make(), "/api/v1/models/{model}/rollouts", Publisher, rollouts::begin),
        Route::new(make(), "/api/v1/models/{model}/retraining", Operator, super::retrain),
        Route::new(read(), "/api/v1/rollouts", Viewer, rollouts::list),
        Route::new(read(), "/api/v1/rollouts/{rollout}", Viewer, rollouts::one),
        Route::new(make(), "/api/v1/rollouts/{rollout}/{wish}", Operator, rollouts::wish),
        Route::new(read(), "/api/v1/drift", Viewer, super::drift),
        Route::new(read(), "/api/v1/retraining-runs", Viewer, super::runs),
        Route::new(read(), "/api/v1/retraining-runs/{run}", Viewer, super::run),
        Route::new(read(), "/api/v1/ledger", Viewer, super::ledger),
        Route::new(read(), "/api/v1/history", Admin, super::history),
    ]
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
