//! Requests that are made from the document, and whether what they are answered is what it says.

mod judge;

use std::{
    cell::Cell,
    collections::{BTreeMap, BTreeSet},
};

use comms_delivery::usage::{RETENTION_DAYS, day_of};
use comms_tests::{
    CLINIC, claims, communication,
    contract::{Contract, Operation},
    immediate,
};
use jiff::{Timestamp, civil::Date};
use proptest::{
    prelude::*,
    sample::{Index, select},
    test_runner::{Config, RngAlgorithm, TestCaseError, TestRng, TestRunner},
};
use serde_json::{Value, json};

use super::{
    Request, operations,
    requests::{Body, at_limits, broken_bodies, changed, changes, fields_of, values},
    text, world,
};

use self::judge::Judge;

/// Requests that are made per operation with a body; a quarter of it where there is none.
const CASES: u32 = 330;
/// What only the platform's own people change in a clinic's settings.
const CEILINGS: &str = "/settings/communicationSettings/ceilings";
/// Where the random numbers begin, so that every run makes the same requests.
const SEED: [u8; 32] = *b"clinic-comms: the HTTP contract.";

/// Who asks.
#[derive(Debug, Clone)]
struct Caller {
    role: &'static str,
    clinic: Option<&'static str>,
    has_token: bool,
}

impl Caller {
    fn claims(&self, number: usize) -> Value {
        if !self.has_token {
            return Value::Null;
        }
        let mut claims = claims(self.role, self.clinic);
        claims["sub"] = json!(format!("user-{number}"));
        claims
    }

    /// Whether the document lets the caller do this for this clinic; `None` is the platform's own account.
    fn may(&self, operation: &Operation, clinic: Option<&str>) -> bool {
        let Some(permitted) = operation.permits(self.role) else {
            return true;
        };
        let own_only = ["CLINIC_ADMIN", "CLINIC_MANAGER"].contains(&self.role);
        let own = clinic.is_some() && clinic == self.clinic;
        self.has_token && permitted && (own || !own_only)
    }
}

fn callers() -> impl Strategy<Value = Caller> {
    let caller = |role, clinic| {
        Just(Caller {
            role,
            clinic,
            has_token: true,
        })
    };
    prop_oneof![
        30 => caller("SUPER_ADMIN", None),
        2 => caller("CLINIC_ADMIN", Some(CLINIC)),
        1 => caller("CLINIC_ADMIN", Some("clinic-of-another")),
        1 => caller("CLINIC_MANAGER", Some(CLINIC)),
        1 => caller("SERVICE", None),
        1 => caller("NOBODY", Some(CLINIC)),
        1 => Just(Caller { role: "SUPER_ADMIN", clinic: None, has_token: false }),
    ]
}

/// Parameters of one kind: those that the document allows, and others.
fn parameters(
    contract: &Contract,
    operation: &Operation,
    place: &str,
    known: &[String],
) -> BoxedStrategy<Vec<(String, String)>> {
    let of_place = operation
        .parameters
        .iter()
        .filter(|parameter| parameter["in"] == place);
    let strategies: Vec<_> = of_place
        .map(|parameter| {
            let name = text(&parameter["name"]);
            let good = values(contract, &parameter["schema"]).prop_map(|value| text(&value));
            let good = if name == "requestId" {
                prop_oneof![4 => select(known.to_vec()), 1 => good].boxed()
            } else {
                good.boxed()
            };
            let odd: Vec<String> = match place {
                "header" => [
                    "",
                    " ",
                    "x",
                    "a b",
                    "\"1\", \"2\"",
                    "W/\"1\"",
                    "*, *",
                    "\"",
                    "\u{fc}",
                ]
                .map(str::to_owned)
                .to_vec(),
                _ => [
                    "_",
                    "a b",
                    "%",
                    "\u{0}",
                    "ä",
                    "-a",
                    "_GLOBAL",
                    "a/b",
                    "0",
                    "-1",
                    "101",
                    "1e3",
                    "18446744073709551616",
                ]
                .map(str::to_owned)
                .to_vec(),
            };
            let long = select(vec![
                "a".repeat(64),
                "a".repeat(65),
                "f".repeat(32),
                "a".repeat(256),
            ]);
            let value = prop_oneof![12 => good, 1 => select(odd), 1 => long];
            let value = value.prop_map(move |value| (name.clone(), value));
            if parameter["required"] == true {
                value.prop_map(Some).boxed()
            } else {
                proptest::option::weighted(0.3, value).boxed()
            }
        })
        .collect();
    strategies
        .prop_map(|parameters| parameters.into_iter().flatten().collect())
        .boxed()
}

/// Requests of an operation: right ones, and ones with something wrong in them.
fn requests(
    contract: &Contract,
    operation: &Operation,
    known: &[String],
) -> BoxedStrategy<Request> {
    let bodies: Vec<_> = operation
        .bodies()
        .map(|(content_type, body)| {
            let good = values(contract, &body["schema"]);
            let examples: Vec<_> = contract
                .examples(body)
                .into_iter()
                .map(|(_, example)| example)
                .collect();
            let wrong = (
                prop_oneof![1 => good.clone(), 2 => select(examples)],
                any::<Index>(),
                changes(contract),
            )
                .prop_map(|(body, place, change)| changed(body, place, &change));
            let types = vec![
                content_type.clone(),
                "application/json; charset=utf-8".to_owned(),
                "text/plain".to_owned(),
                "multipart/form-data; boundary=x".to_owned(),
                String::new(),
            ];
            let content_type = content_type.clone();
            let types = prop_oneof![8 => Just(content_type), 1 => select(types)];
            let body = prop_oneof![
                5 => good.prop_map(Body::Json),
                8 => wrong.prop_map(Body::Json),
                1 => select(broken_bodies()).prop_map(Body::Bytes),
            ];
            (types, body).boxed()
        })
        .collect();
    let bodies = if bodies.is_empty() {
        Just(("application/json".to_owned(), Body::None)).boxed()
    } else {
        proptest::strategy::Union::new(bodies).boxed()
    };
    let [path, query, headers] =
        ["path", "query", "header"].map(|place| parameters(contract, operation, place, known));
    (path, query, headers, bodies)
        .prop_map(|(path, query, headers, (content_type, body))| Request {
            path,
            query,
            headers,
            content_type,
            body,
        })
        .boxed()
}

/// Whether the days of a query are in order and not too many, which is said of none of them alone.
fn days_fit(request: &Request) -> bool {
    let day = |wanted: &str| {
        let given = request.query.iter().find(|(name, _)| name == wanted);
        given.map(|(_, day)| day.parse::<Date>()).transpose()
    };
    let (Ok(from), Ok(to)) = (day("from"), day("to")) else {
        return false;
    };
    let to = to.unwrap_or_else(|| day_of(Timestamp::now()));
    let days = from.map_or(0, |from| from.until(to).unwrap().get_days());
    (0..i32::from(RETENTION_DAYS)).contains(&days)
}

#[tokio::test]
async fn every_limit_of_the_document_is_where_the_code_has_it() {
    let contract = Contract::read();
    let caller = Caller {
        role: "SUPER_ADMIN",
        clinic: None,
        has_token: true,
    };
    let (mut seen, mut number) = (BTreeSet::new(), 0);
    for operation in operations(&contract) {
        let world = world().await;
        let judge = Judge::new(&contract, &operation);
        for (content_type, body) in operation.bodies() {
            for (_, example) in contract.examples(body) {
                let mut fields = Vec::new();
                fields_of(&contract, &body["schema"], &example, "", &mut fields);
                for (pointer, schema) in fields {
                    // One of the items, of the places in a chain, and of the operations that take the same, stands for all.
                    let place = pointer
                        .replace(|c: char| c.is_ascii_digit(), "0")
                        .replace("fallback/0", "primary");
                    if !seen.insert(format!("{place} {schema}")) {
                        continue;
                    }
                    let value = example.pointer(&pointer).unwrap();
                    for limit in at_limits(&contract, &schema, value) {
                        number += 1;
                        let mut body = example.clone();
                        *body.pointer_mut(&pointer).unwrap() = limit;
                        let mut request = Request::of(&operation, Body::Json(body));
                        content_type.clone_into(&mut request.content_type);
                        let answer = request
                            .ask(&world, &operation, &caller.claims(number))
                            .await;
                        judge
                            .judge(&caller, &request, &answer)
                            .unwrap_or_else(|error| panic!("{pointer}: {error}"));
                    }
                }
            }
        }
    }
    assert!(number > 300, "{number}");
}

/// Makes requests of these operations to one world, one after another.
#[allow(
    clippy::print_stdout,
    reason = "what was answered, and which rules were the reason, for who looks (--nocapture)"
)]
fn check_requests(ids: &[&str], least: &[(u16, u32)]) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let contract = Contract::read();
    let (world, known) = runtime.block_on(async {
        let world = world().await;
        world.save_clinic().await;
        let known = [communication(), immediate()];
        let mut ids = Vec::new();
        for communication in known {
            ids.push(world.post(&communication).await.request_id());
        }
        (world, ids)
    });
    let number = Cell::new(0);
    let mut statuses = BTreeMap::<u16, u32>::new();
    for operation in operations(&contract) {
        if !ids.contains(&operation.object["operationId"].as_str().unwrap()) {
            continue;
        }
        let judge = Judge::new(&contract, &operation);
        let config = Config {
            cases: if operation.bodies().next().is_some() {
                CASES
            } else {
                CASES / 4
            },
            failure_persistence: None,
            max_shrink_iters: 200,
            ..Config::default()
        };
        let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &SEED);
        let result = TestRunner::new_with_rng(config, rng).run(
            &(callers(), requests(&contract, &operation, &known)),
            |(caller, request)| {
                number.set(number.get() + 1);
                let claims = caller.claims(number.get());
                let answer = runtime.block_on(request.ask(&world, &operation, &claims));
                judge
                    .judge(&caller, &request, &answer)
                    .map_err(TestCaseError::fail)
            },
        );
        println!(
            "{:?}: {:?} {:#?}",
            operation.key(),
            judge.statuses.borrow(),
            judge.refusals.borrow()
        );
        if let Err(error) = result {
            panic!("{:?}: {error}", operation.key());
        }
        for (status, count) in judge.statuses.into_inner() {
            *statuses.entry(status).or_default() += count;
        }
    }
    // So that this does not become a test of refusals, or of nothing.
    for (status, least) in least {
        let count = statuses.get(status).copied().unwrap_or_default();
        assert!(
            count >= *least,
            "{status} was answered {count} times: {statuses:?}"
        );
    }
}

#[test]
fn communications_made_from_the_document_are_answered_as_it_says() {
    check_requests(&["postCommunication"], &[(202, 20), (422, 50)]);
}

#[test]
fn reading_made_from_the_document_is_answered_as_it_says() {
    check_requests(
        &["getCommunication", "getHealth", "getStats"],
        &[(200, 50), (400, 10), (404, 10), (403, 5)],
    );
}

#[test]
fn settings_made_from_the_document_are_answered_as_it_says() {
    check_requests(
        &[
            "putClinic",
            "getClinic",
            "patchClinic",
            "listVersions",
            "restoreVersion",
            "getProviderHealth",
            "deleteClinic",
        ],
        &[
            (200, 100),
            (201, 5),
            (204, 1),
            (304, 1),
            (412, 20),
            (415, 5),
            (422, 50),
        ],
    );
}

#[test]
fn tests_of_settings_made_from_the_document_are_answered_as_it_says() {
    check_requests(
        &["testEmail", "testWhatsapp"],
        &[(200, 20), (404, 5), (422, 50)],
    );
}
