//! Where routes are written down beside the document: in the template that is deployed, and in the local gateway.

use std::collections::BTreeSet;

use serde_json::Value;

use super::contract::{file, yaml};

/// A function behind the API.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Function {
    Send,
    Status,
    Config,
    ConfigTest,
}

impl Function {
    /// The name of its program.
    pub(crate) fn program(self) -> &'static str {
        match self {
            Self::Send => "send",
            Self::Status => "status",
            Self::Config => "config",
            Self::ConfigTest => "config-test",
        }
    }
}

/// A route as it is deployed.
#[derive(Debug)]
pub(crate) struct Deployed {
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) function: Function,
    /// Whether the authorizer stands before it.
    pub(crate) authorized: bool,
}

/// The routes of `template.yaml`.
pub(crate) fn deployed() -> Vec<Deployed> {
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
                function: match name.as_str() {
                    "SendFunction" => Function::Send,
                    "StatusFunction" => Function::Status,
                    "ConfigFunction" => Function::Config,
                    "ConfigTestFunction" => Function::ConfigTest,
                    other => panic!("{other} has a route and is unknown here"),
                },
                authorized: properties["Auth"]["Authorizer"] != "NONE",
            });
        }
    }
    routes
}

/// The routes of the local gateway, which is a binary: by its text.
pub(crate) fn local() -> BTreeSet<(String, String)> {
    let source = file("infra/local/src/gateway.rs");
    let constant = |name: &str| {
        let (_, rest) = source
            .split_once(&format!("const {name}: &str = \""))
            .unwrap();
        rest.split_once('"').unwrap().0.to_owned()
    };
    let (_, table) = source.split_once("const ROUTES:").unwrap();
    let (table, _) = table.split_once("];").unwrap();
    let table = table.replace("CLINIC,", &format!("{:?},", constant("CLINIC")));
    let texts: Vec<_> = table
        .split('"')
        .skip(1)
        .step_by(2)
        .map(str::to_owned)
        .collect();
    let routes: BTreeSet<_> = texts
        .chunks(2)
        .map(|pair| (pair[0].clone(), pair[1].clone()))
        .collect();
    assert!(
        routes.iter().all(|(method, path)| {
            method.bytes().all(|b| b.is_ascii_uppercase()) && path.starts_with("/api/v1/")
        }),
        "the gateway's table is written in another way now: {routes:?}"
    );
    routes
}

/// The values of `field` in an array of `values`, as texts.
pub(crate) fn texts(values: &Value) -> Vec<&str> {
    values
        .as_array()
        .unwrap()
        .iter()
        .map(|value| value.as_str().unwrap())
        .collect()
}
