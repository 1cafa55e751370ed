//! Where routes are written down beside the document: in the template that is deployed, and in the functions' tables.

use comms_functions::{Authorizer, Function};
use serde_json::Value;

use crate::repository::yaml;

/// A route as it is deployed.
#[derive(Debug, PartialEq, Eq)]
pub struct Deployed {
    pub method: String,
    pub path: String,
    pub function: &'static Function,
    /// Whether the authorizer stands before it.
    pub authorized: bool,
}

/// The routes of `template.yaml`.
pub fn deployed() -> Vec<Deployed> {
    let template = yaml("template.yaml");
    let mut routes = Vec::new();
    for (name, resource) in template["Resources"].as_object().unwrap() {
        let events = resource["Properties"]["Events"].as_object();
        for event in events.into_iter().flat_map(serde_json::Map::values) {
            if event["Type"] != "HttpApi" {
                continue;
            }
            let properties = &event["Properties"];
            let text = |field: &str| properties[field].as_str().unwrap().to_owned();
            routes.push(Deployed {
                method: text("Method"),
                path: text("Path"),
                function: comms_functions::ALL
                    .into_iter()
                    .find(|function| function.logical_id() == *name)
                    .unwrap_or_else(|| {
                        panic!("{name} has a route and is not in comms_functions::ALL")
                    }),
                authorized: properties["Auth"]["Authorizer"] != "NONE",
            });
        }
    }
    routes
}

/// The routes of the functions' own tables, by which they dispatch and the local gateway serves them.
pub fn declared() -> Vec<Deployed> {
    let routes = comms_functions::routes().into_iter();
    routes
        .map(|(route, function)| Deployed {
            method: route.method.to_string(),
            path: route.path.to_owned(),
            function,
            authorized: route.authorizer == Authorizer::Jwt,
        })
        .collect()
}

/// The values of `field` in an array of `values`, as texts.
pub fn texts(values: &Value) -> Vec<&str> {
    values
        .as_array()
        .unwrap()
        .iter()
        .map(|value| value.as_str().unwrap())
        .collect()
}
