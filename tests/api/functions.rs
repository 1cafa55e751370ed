//! Each function is declared once, in its package: the template, the directories and the build agree with it.

use std::{collections::BTreeSet, fs, path::Path, process::Command};

use comms_functions::{Authorizer, Trigger};
use comms_tests::{
    repository::yaml,
    routes::{declared, deployed},
};
use serde_json::Map;

fn workspace() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

#[test]
fn the_list_has_every_function_of_the_directory_and_of_the_template() {
    let listed: BTreeSet<_> = comms_functions::NAMES.map(str::to_owned).into();
    let directories = fs::read_dir(workspace().join("functions")).unwrap();
    let directories: BTreeSet<_> = directories
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    assert_eq!(directories, listed);

    let template = yaml("template.yaml");
    let resources = template["Resources"].as_object().unwrap();
    let deployed: BTreeSet<_> = resources
        .iter()
        .filter(|(_, resource)| resource["Type"] == "AWS::Serverless::Function")
        .map(|(id, _)| id.clone())
        .collect();
    let logical_ids: BTreeSet<_> = comms_functions::ALL
        .map(comms_functions::Function::logical_id)
        .into();
    assert_eq!(deployed, logical_ids);
}

#[test]
fn each_function_has_the_time_limit_and_the_queues_of_the_template() {
    let template = yaml("template.yaml");
    for function in comms_functions::ALL {
        let properties = &template["Resources"][function.logical_id()]["Properties"];
        assert_eq!(
            properties["Timeout"], function.timeout_seconds,
            "{function}"
        );
        let events = properties["Events"].as_object();
        let queues: BTreeSet<_> = events
            .into_iter()
            .flat_map(Map::values)
            .filter(|event| event["Type"] == "SQS")
            .map(|event| event["Properties"]["Queue"].as_str().unwrap().to_owned())
            .collect();
        let declared: BTreeSet<_> = match function.trigger {
            Trigger::Http(_) => BTreeSet::new(),
            Trigger::Sqs(queues) => queues
                .iter()
                .map(|queue| format!("{}.Arn", queue.logical_id()))
                .collect(),
        };
        assert_eq!(queues, declared, "{function}");
    }
}

#[test]
fn each_route_is_deployed_as_declared_with_its_authorizer() {
    let sorted = |mut routes: Vec<_>| {
        routes.sort_by_key(|route: &comms_tests::routes::Deployed| {
            (route.path.clone(), route.method.clone())
        });
        routes
    };
    assert_eq!(sorted(declared()), sorted(deployed()));
    let open = comms_functions::routes()
        .into_iter()
        .filter(|(route, _)| route.authorizer == Authorizer::None)
        .count();
    assert_eq!(open, 3, "routes without a token: each is a decision");
}

/// `sam build` calls the Makefile by the logical id of a function, and cargo by the packages.
#[test]
fn the_build_makes_every_function_by_its_logical_id() {
    let packages = Command::new(workspace().join("infra/ci/functions.sh"))
        .arg("packages")
        .output()
        .unwrap();
    let packages = String::from_utf8(packages.stdout).unwrap();
    for function in comms_functions::ALL {
        let argument = format!("--package {} ", function.package());
        assert!(packages.contains(&argument), "{packages}");

        let programs = tempfile::tempdir().unwrap();
        let artifacts = tempfile::tempdir().unwrap();
        fs::write(programs.path().join(function.name), function.name).unwrap();
        let made = Command::new("make")
            .arg("--makefile")
            .arg(workspace().join("infra/lambda/Makefile"))
            .arg(format!("build-{}", function.logical_id()))
            .env("PROGRAMS", programs.path())
            .env("ARTIFACTS_DIR", artifacts.path())
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&made.stderr);
        assert!(made.status.success(), "{function}: {said}");
        let bootstrap = fs::read_to_string(artifacts.path().join("bootstrap")).unwrap();
        assert_eq!(bootstrap, function.name);
    }
}
