//! `infra/openapi.yaml` and the code say the same: routes, examples, rules, limits, and what is answered to requests
//! that are made from the document.

mod answers;
mod examples;
mod made;
mod names;
mod request;
mod requests;
mod rules;

use std::{collections::BTreeSet, sync::LazyLock, time::Duration};

use comms_tests::{
    World,
    contract::{Contract, Operation},
    routes::{Deployed, declared, deployed},
    super_admin,
};
use serde_json::{Value, json};

use self::{request::Request, requests::Body};

/// Routes of the document that the code does not have yet.
const NOT_YET: &[(&str, &str)] = &[];

const ROLES: [&str; 4] = ["SERVICE", "CLINIC_ADMIN", "CLINIC_MANAGER", "SUPER_ADMIN"];

/// A world whose tests of settings find only what is at an address of the loopback, and do not wait to say so.
async fn world() -> World {
    let mut world = World::new().await;
    world.resolve_only(&[]);
    world.config_test.hold_step = Duration::ZERO;
    world
}

/// The operations that the code has.
fn operations(contract: &Contract) -> Vec<Operation> {
    let mut operations = contract.operations();
    operations.retain(|operation| !NOT_YET.contains(&operation.key()));
    operations
}

/// The function that answers an operation.
fn function_of(operation: &Operation) -> &'static str {
    static ROUTES: LazyLock<Vec<Deployed>> = LazyLock::new(declared);
    let mut routes = ROUTES.iter();
    let route =
        routes.find(|route| (route.method.as_str(), route.path.as_str()) == operation.key());
    route.unwrap().function.name
}

fn text(value: &Value) -> String {
    value
        .as_str()
        .map_or_else(|| value.to_string(), str::to_owned)
}

/// The claims of the platform's own people, each time as somebody else: nobody tests settings too often.
fn another_super_admin(number: usize) -> Value {
    let mut claims = super_admin();
    claims["sub"] = json!(format!("user-{number}"));
    claims
}

// ---- Routes ------------------------------------------------------------------------------------------------------

#[tokio::test]
async fn every_route_of_the_document_is_deployed_and_answered() {
    let contract = Contract::read();
    let key = |operation: &Operation| (operation.method.clone(), operation.path.clone());
    let documented: BTreeSet<_> = operations(&contract).iter().map(key).collect();
    let routes = deployed();
    let in_template: BTreeSet<_> = routes
        .iter()
        .map(|route| (route.method.clone(), route.path.clone()))
        .collect();
    assert_eq!(
        in_template, documented,
        "the routes of template.yaml (left) and of the document"
    );
    let not_yet: BTreeSet<_> = NOT_YET
        .iter()
        .map(|(method, path)| ((*method).to_owned(), (*path).to_owned()))
        .collect();
    let of_functions: BTreeSet<_> = declared()
        .into_iter()
        .map(|route| (route.method, route.path))
        .collect();
    let here: BTreeSet<_> = of_functions.difference(&not_yet).cloned().collect();
    assert_eq!(
        here, documented,
        "the routes of the functions (left) and of the document"
    );

    let world = world().await;
    for operation in operations(&contract) {
        let route = routes
            .iter()
            .find(|route| (route.method.as_str(), route.path.as_str()) == operation.key());
        let asks_for_a_token = operation.object["security"] != json!([]);
        assert_eq!(
            route.unwrap().authorized,
            asks_for_a_token,
            "{:?}",
            operation.key()
        );
        let answer = Request::of(&operation, Body::Json(json!({})))
            .ask(&world, &operation, &super_admin())
            .await;
        let unknown = answer.status == 405 || answer.text.contains("There is no such route.");
        assert!(!unknown, "{:?}: {}", operation.key(), answer.text);
    }
}

// ---- The document by itself --------------------------------------------------------------------------------------

// ---- Examples and rules ------------------------------------------------------------------------------------------
