//! `infra/openapi.yaml` and the code say the same: routes, examples, rules, limits, and what is answered to requests
//! that are made from the document.

mod made;
mod requests;
mod rules;

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::IpAddr,
    sync::{Arc, LazyLock},
    time::Duration,
};

use async_trait::async_trait;
use base64::{Engine, prelude::BASE64_STANDARD};
use comms_adapters::{
    EgressGuard, ProviderFactory, VerifyStage, egress::Resolver, registry, smtp, tls::TlsConfigs,
    twilio,
};
use comms_core::{
    BaseUrl, Channel, DeliveryStatus, Disposition, ErrorKind, FailureReason, HealthState, Position,
    Problems, SystemClock, attachment, delivery::MAX_ATTEMPTS, json as strict_json, request,
};
use comms_delivery::usage;
use comms_runtime::http;
use comms_send::CommunicationOutcome;
use comms_settings::{document, rate_limit};
use comms_testkit::{aws::Fault, clock::ManualClock};
use comms_tests::{
    Answer, CLINIC, World, communication,
    contract::{Contract, Direction, Operation, operation},
    http_event, immediate,
    repository::file,
    routes::{Deployed, declared, deployed, texts},
    service, super_admin,
};
use serde_json::{Map, Value, json};

use self::{
    requests::{Body, without_nulls},
    rules::{Rule, rules},
};

/// Routes of the document that the code does not have yet.
const NOT_YET: &[(&str, &str)] = &[];

const ROLES: [&str; 4] = ["SERVICE", "CLINIC_ADMIN", "CLINIC_MANAGER", "SUPER_ADMIN"];

/// A name system that knows nobody: nothing that a generated request names is reached.
struct Nowhere;

#[async_trait]
impl Resolver for Nowhere {
    async fn resolve(&self, _: &str) -> io::Result<Vec<IpAddr>> {
        Err(io::ErrorKind::NotFound.into())
    }
}

/// A world whose tests of settings find only what is at an address of the loopback, and do not wait to say so.
async fn world() -> World {
    let mut world = World::new().await;
    let egress = EgressGuard::new("127.0.0.0/8".parse().unwrap(), Arc::new(Nowhere));
    let tls = TlsConfigs::new(Some(&world.ca.pem())).unwrap();
    let (sdk, clock) = (world.sdk_of("config-test"), Arc::new(SystemClock));
    world.config_test.factory = ProviderFactory::new(tls, egress, sdk, clock, 1);
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

/// A request of an operation.
#[derive(Debug, Clone)]
struct Request {
    path: Vec<(String, String)>,
    query: Vec<(String, String)>,
    headers: Vec<(String, String)>,
    content_type: String,
    body: Body,
}

impl Request {
    /// With the document's examples as parameters.
    fn of(operation: &Operation, body: Body) -> Self {
        let of_path = operation
            .parameters
            .iter()
            .filter(|parameter| parameter["in"] == "path");
        let path = of_path.map(|parameter| (text(&parameter["name"]), text(&parameter["example"])));
        Self {
            path: path.collect(),
            query: Vec::new(),
            headers: Vec::new(),
            content_type: "application/json".to_owned(),
            body,
        }
    }

    fn at(mut self, clinic: &str) -> Self {
        for (name, value) in &mut self.path {
            if name == "clinicId" {
                clinic.clone_into(value);
            }
        }
        self
    }

    fn with_header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    fn event(&self, operation: &Operation, claims: &Value) -> String {
        let mut path = operation.path.clone();
        for (name, value) in &self.path {
            path = path.replace(&format!("{{{name}}}"), &percent_encoded(value));
        }
        let mut headers: Vec<_> = self
            .headers
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()))
            .collect();
        headers.push(("content-type", &self.content_type));
        let event = http_event(&operation.method, &path, None, claims, &headers);
        let mut event: Value = serde_json::from_str(&event).unwrap();
        let query: Vec<_> = self
            .query
            .iter()
            .map(|(name, value)| format!("{name}={}", percent_encoded(value)))
            .collect();
        event["rawQueryString"] = json!(query.join("&"));
        if !self.query.is_empty() {
            event["queryStringParameters"] = self
                .query
                .iter()
                .map(|(name, value)| (name.clone(), json!(value)))
                .collect::<Map<_, _>>()
                .into();
        }
        match &self.body {
            Body::None => {}
            Body::Json(value) => event["body"] = json!(value.to_string()),
            Body::Bytes(bytes) => {
                event["body"] = json!(BASE64_STANDARD.encode(bytes));
                event["isBase64Encoded"] = json!(true);
            }
        }
        event.to_string()
    }

    async fn ask(&self, world: &World, operation: &Operation, claims: &Value) -> Answer {
        let event = self.event(operation, claims);
        match function_of(operation) {
            "send" => world.ask_send(&event).await,
            "status" => world.ask_status(&event).await,
            "config" => world.ask_config(&event).await,
            "config-test" => world.ask_config_test(&event).await,
            other => panic!("World does not ask {other}"),
        }
    }
}

fn text(value: &Value) -> String {
    value
        .as_str()
        .map_or_else(|| value.to_string(), str::to_owned)
}

fn percent_encoded(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    let encoded = |byte: u8| {
        if plain(byte) {
            char::from(byte).to_string()
        } else {
            format!("%{byte:02X}")
        }
    };
    text.bytes().map(encoded).collect()
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

#[test]
fn every_operation_says_who_may_what_may_be_sent_and_what_is_answered_with_examples() {
    let contract = Contract::read();
    for operation in contract.operations() {
        let (method, path) = operation.key();
        for field in ["summary", "description", "operationId"] {
            assert!(
                operation.object[field]
                    .as_str()
                    .is_some_and(|text| !text.is_empty()),
                "{method} {path}: {field}"
            );
        }
        for alternative in operation.object["security"].as_array().unwrap() {
            let [role] = texts(&alternative["token"]).try_into().unwrap();
            assert!(ROLES.contains(&role), "{method} {path}: {role}");
            let description = operation.object["description"].as_str().unwrap();
            assert!(
                description.contains(role),
                "{method} {path} does not say what {role} may"
            );
        }
        for parameter in &operation.parameters {
            assert!(
                !parameter["description"].is_null(),
                "{method} {path}: {parameter}"
            );
            let validator = contract.validator(&parameter["schema"], Direction::Request);
            assert!(
                validator.is_valid(&parameter["example"]),
                "{method} {path}: {parameter}"
            );
        }
        let mut contents: Vec<_> = operation
            .bodies()
            .map(|(_, body)| (Direction::Request, body.clone()))
            .collect();
        for (status, answer) in operation.object["responses"].as_object().unwrap() {
            assert!(
                answer["description"].is_string(),
                "{method} {path} {status}"
            );
            for (content_type, content) in answer["content"].as_object().into_iter().flatten() {
                if content_type == "application/problem+json" {
                    for (name, problem) in contract.examples(content) {
                        assert_eq!(
                            problem["status"].to_string(),
                            *status,
                            "{method} {path}: {name}"
                        );
                        let code = problem["code"].as_str().unwrap();
                        assert_eq!(
                            problem["type"],
                            format!("urn:clinic-comms:problem:{code}"),
                            "{name}"
                        );
                    }
                }
                contents.push((Direction::Answer, content.clone()));
            }
        }
        for (direction, content) in contents {
            let examples = contract.examples(&content);
            assert!(
                !examples.is_empty(),
                "{method} {path}: no example of {content}"
            );
            let validator = contract.validator(&content["schema"], direction);
            for (name, example) in examples {
                let errors: Vec<_> = validator
                    .iter_errors(&example)
                    .map(|error| format!("{}: {error}", error.instance_path()))
                    .collect();
                assert!(errors.is_empty(), "{method} {path}: {name}: {errors:#?}");
            }
        }
    }
}

#[test]
fn names_are_those_of_the_code() {
    let contract = Contract::read();
    let names = |schema: &str| texts(&contract.schema(schema)["enum"]).join(" ");
    let join = |names: &[&str]| names.join(" ");
    assert_eq!(names("Channel"), join(&Channel::ALL.map(Channel::as_str)));
    assert_eq!(
        names("ProviderName"),
        registry::kinds()
            .map(|kind| kind.to_string())
            .collect::<Vec<_>>()
            .join(" ")
    );
    assert_eq!(
        names("ErrorKind"),
        join(&ErrorKind::ALL.map(ErrorKind::as_str))
    );
    assert_eq!(
        names("Disposition"),
        join(&Disposition::ALL.map(Disposition::as_str))
    );
    assert_eq!(
        names("FailureReason"),
        join(&FailureReason::ALL.map(FailureReason::as_str))
    );
    assert_eq!(
        names("DeliveryStatus"),
        join(&DeliveryStatus::ALL.map(DeliveryStatus::as_str))
    );
    assert_eq!(
        names("CommunicationOutcome"),
        join(&CommunicationOutcome::ALL.map(CommunicationOutcome::as_str))
    );
    assert_eq!(
        names("HealthState"),
        format!(
            "untried {}",
            join(&HealthState::ALL.map(HealthState::as_str))
        )
    );
    assert_eq!(
        names("VerifyStage"),
        join(&VERIFY_STAGES.map(verify_stage_name))
    );
    for channel in Channel::ALL {
        let kinds: Vec<_> = registry::of_channel(channel)
            .map(|kind| kind.to_string())
            .collect();
        let (entry, test) = match channel {
            Channel::Email => ("EmailEntry", "TestEmail"),
            Channel::Whatsapp => ("WhatsappEntry", "TestWhatsapp"),
        };
        let provider = &contract.schema(test)["properties"]["provider"];
        assert_eq!(texts(names_of(provider)), kinds, "{test}");
        let entry = contract.schema(entry);
        let branches = entry["oneOf"].as_array().unwrap();
        let mut mapping = Map::new();
        for branch in branches {
            let provider = contract.resolved(branch)["properties"]["provider"].clone();
            let [name] = texts(names_of(&provider)).try_into().unwrap();
            mapping.insert(name.to_owned(), branch["$ref"].clone());
        }
        assert!(mapping.keys().eq(&kinds), "{entry}");
        let discriminator = json!({"propertyName": "provider", "mapping": mapping});
        assert_eq!(entry["discriminator"], discriminator);
    }
}

/// The names that a schema has; SES has another one in requests.
fn names_of(schema: &Value) -> &Value {
    schema.get("enum").unwrap_or(&schema["oneOf"][0]["enum"])
}

#[test]
fn positions_are_those_of_the_code() {
    let contract = Contract::read();
    let positions = contract.validator(contract.schema("Position"), Direction::Answer);
    let last = u8::try_from(document::MAX_FALLBACKS - 1).unwrap();
    for (position, is_one) in [
        (Position::Primary, true),
        (Position::Global, true),
        (Position::Fallback(0), true),
        (Position::Fallback(last), true),
        (Position::GlobalFallback(last), true),
        (Position::Fallback(last + 1), false),
        (Position::GlobalFallback(last + 1), false),
    ] {
        assert_eq!(positions.is_valid(&json!(position)), is_one, "{position}");
    }
}

#[test]
#[allow(clippy::too_many_lines, reason = "one table")]
fn limits_are_those_of_the_code() {
    let contract = Contract::read();
    for (pointer, limit) in [
        (
            "/Communication/properties/recipients/maxItems",
            request::MAX_RECIPIENTS,
        ),
        (
            "/Communication/properties/title/maxLength",
            request::MAX_TITLE,
        ),
        (
            "/Communication/properties/body/maxLength",
            request::MAX_BODY,
        ),
        (
            "/Communication/properties/html/maxLength",
            request::MAX_HTML,
        ),
        (
            "/Communication/properties/attachments/maxItems",
            attachment::MAX_ATTACHMENTS,
        ),
        ("/TemplateTexts/maxItems", request::MAX_TEMPLATE_PARAMS),
        (
            "/TemplateComponents/maxItems",
            request::MAX_TEMPLATE_COMPONENTS,
        ),
        ("/Copies/maxItems", request::MAX_COPIES),
        (
            "/Media/properties/url/maxLength",
            comms_core::PublicUrl::MAX,
        ),
        ("/Metadata/then/maxProperties", request::MAX_METADATA + 1),
        ("/Metadata/else/maxProperties", request::MAX_METADATA),
        (
            "/Deliveries/maxItems",
            request::MAX_RECIPIENTS * Channel::ALL.len(),
        ),
        (
            "/EmailSettings/properties/fallback/maxItems",
            document::MAX_FALLBACKS,
        ),
        (
            "/WhatsappSettings/properties/fallback/maxItems",
            document::MAX_FALLBACKS,
        ),
        (
            "/TestReport/properties/results/maxItems",
            1 + document::MAX_FALLBACKS,
        ),
        (
            "/FallbackStrategy/properties/retryAttempts/oneOf/0/maximum",
            document::MAX_RETRY_ATTEMPTS as usize,
        ),
        (
            "/SmtpCredentials/properties/maxConnections/oneOf/0/maximum",
            smtp::MAX_CONNECTIONS as usize,
        ),
        ("/Rate/oneOf/0/maximum", rate_limit::MAX_RATE as usize),
        (
            "/TwilioCredentials/properties/templates/maxProperties",
            twilio::MAX_TEMPLATES,
        ),
        ("/ApiUrl/maxLength", BaseUrl::MAX),
        ("/MetaCredentials/properties/apiUrl/maxLength", BaseUrl::MAX),
        ("/Problem/properties/errors/maxItems", Problems::MOST),
        (
            "/Stats/properties/days/maxItems",
            usize::from(usage::RETENTION_DAYS),
        ),
        ("/Delivery/properties/attempts/maxItems", MAX_ATTEMPTS),
        (
            "/Communication/properties/templateId/maxLength",
            request::MAX_TEMPLATE_ID,
        ),
        (
            "/TemplateTexts/items/maxLength",
            request::MAX_TEMPLATE_PARAM,
        ),
        (
            "/Metadata/additionalProperties/maxLength",
            request::MAX_METADATA_VALUE,
        ),
        (
            "/Metadata/propertyNames/maxLength",
            request::MAX_METADATA_NAME,
        ),
    ] {
        let schemas = &contract.document()["components"]["schemas"];
        assert_eq!(schemas.pointer(pointer), Some(&json!(limit)), "{pointer}");
    }
    for (said, number) in [
        (
            "at most 4,000,000 bytes together, decoded",
            attachment::MAX_ATTACHMENT_BYTES == 4_000_000,
        ),
        (
            "at most\n        32768 bytes",
            request::MAX_TEMPLATE_COMPONENT_BYTES == 32_768,
        ),
        ("at most 16 levels deep", strict_json::MAX_DEPTH == 16),
        ("at most 399 days after it", usage::RETENTION_DAYS == 400),
        ("days are kept for 400 days", usage::RETENTION_DAYS == 400),
        (
            "at most 20,000 members and\n    elements in all",
            strict_json::MAX_VALUES == 20_000,
        ),
        (
            "A communication may have 6,000,000 bytes",
            request::MAX_BYTES == 6_000_000,
        ),
        (
            "a body with settings in it 1,048,576",
            document::MAX_DOCUMENT_BYTES == 1_048_576,
        ),
    ] {
        assert!(
            file("infra/openapi.yaml").contains(said) && number,
            "{said}"
        );
    }
}

const VERIFY_STAGES: [VerifyStage; 8] = [
    VerifyStage::Resolve,
    VerifyStage::Egress,
    VerifyStage::Connect,
    VerifyStage::Tls,
    VerifyStage::Authenticate,
    VerifyStage::Sender,
    VerifyStage::Quota,
    VerifyStage::Send,
];

/// The name, and a reminder to add a new stage to [`VERIFY_STAGES`] too.
const fn verify_stage_name(stage: VerifyStage) -> &'static str {
    match stage {
        VerifyStage::Resolve => "resolve",
        VerifyStage::Egress => "egress",
        VerifyStage::Connect => "connect",
        VerifyStage::Tls => "tls",
        VerifyStage::Authenticate => "authenticate",
        VerifyStage::Sender => "sender",
        VerifyStage::Quota => "quota",
        VerifyStage::Send => "send",
    }
}

// ---- Examples and rules ------------------------------------------------------------------------------------------

/// Saves what the examples are about: both channels of their clinic.
async fn save_examples(world: &World, contract: &Contract) {
    let put = operation(contract, "putClinic");
    let (_, body) = put.bodies().next().unwrap();
    let chain = &body["examples"]["chain"];
    let chain = contract.resolved(chain)["value"].clone();
    let answer = Request::of(&put, Body::Json(chain))
        .ask(world, &put, &super_admin())
        .await;
    assert!([200, 201].contains(&answer.status), "{}", answer.text);
}

#[tokio::test]
async fn every_example_of_a_request_is_accepted_and_answered_as_documented() {
    let contract = Contract::read();
    let mut number = 0;
    for operation in operations(&contract) {
        for (content_type, body) in operation.bodies() {
            for (name, example) in contract.examples(body) {
                let world = world().await;
                number += 1;
                if operation.object["operationId"] == "postCommunication" {
                    world.save_clinic().await;
                } else {
                    save_examples(&world, &contract).await;
                }
                let _global = match operation.object["operationId"].as_str() {
                    Some("sendReplyToLink") => Some(world.save_global().await),
                    Some(_) | None => None,
                };
                let mut request = Request::of(&operation, Body::Json(example));
                content_type.clone_into(&mut request.content_type);
                let answer = request
                    .ask(&world, &operation, &another_super_admin(number))
                    .await;
                contract.check(&operation, &answer).unwrap();
                assert!(
                    (200..300).contains(&answer.status),
                    "{name}: {}",
                    answer.text
                );
            }
        }
    }
    assert!(number > 10, "{number}");
}

/// A request that is a byte or a header too large is refused in the document's words, and one that is not is not.
#[tokio::test]
async fn what_is_larger_than_a_request_may_be_is_refused_as_documented() {
    let contract = Contract::read();
    let world = world().await;
    for (number, operation) in operations(&contract).into_iter().enumerate() {
        let ask = async |request: Request| {
            let claims = another_super_admin(number);
            request.ask(&world, &operation, &claims).await
        };
        let plain = || Request::of(&operation, Body::Json(json!({})));
        let event = plain().event(&operation, &another_super_admin(number));
        let event: Value = serde_json::from_str(&event).unwrap();
        let headers = event["headers"].as_object().unwrap();
        let bytes: usize = headers
            .iter()
            .map(|(name, value)| name.len() + value.as_str().unwrap().len())
            .sum();
        let path = event["rawPath"].as_str().unwrap().len();

        let mut cases = Vec::new();
        for more in [0, 1] {
            let mut many = plain();
            for n in 0..http::MAX_HEADERS - headers.len() + more {
                many = many.with_header(&format!("x-{n}"), "");
            }
            let long = "v".repeat(http::MAX_HEADER_BYTES - bytes - 1 + more);
            let mut target = plain();
            let query = "q".repeat(http::MAX_TARGET_BYTES - path - 3 + more);
            target.query = vec![("q".to_owned(), query)];
            cases.extend([
                (many, 431, more),
                (plain().with_header("x", &long), 431, more),
                (target, 414, more),
            ]);
        }
        for (content_type, _) in operation.bodies() {
            let most = match operation.object["operationId"].as_str() {
                Some("postCommunication") => request::MAX_BYTES,
                Some(_) | None => document::MAX_DOCUMENT_BYTES,
            };
            for more in [0, 1] {
                let mut body = plain();
                content_type.clone_into(&mut body.content_type);
                body.body = Body::Bytes([b"{}".to_vec(), vec![b' '; most - 2 + more]].concat());
                cases.push((body, 413, more));
            }
        }
        for (request, status, more) in cases {
            let answer = ask(request).await;
            let key = operation.key();
            assert_eq!(
                answer.status == status,
                more == 1,
                "{key:?}: {}",
                answer.text
            );
            if more == 1 {
                contract.check(&operation, &answer).unwrap();
            }
        }
    }
}

/// Asks for what breaks a rule, and for whether it is refused in the rule's words.
async fn check_broken(
    world: &World,
    contract: &Contract,
    operation: &Operation,
    rule: &Rule,
    request: Request,
    number: usize,
) {
    let (_, body) = operation.bodies().next().unwrap();
    let answer = request
        .ask(world, operation, &another_super_admin(number))
        .await;
    contract.check(operation, &answer).unwrap();
    let errors = answer.body["errors"]
        .as_array()
        .cloned()
        .unwrap_or_default();
    // Where a field has two names, under either.
    let same = rules(contract, &body["schema"])
        .into_iter()
        .filter(|same| same.name() == rule.name());
    let says_so = same
        .into_iter()
        .any(|rule| errors.iter().any(|error| rule.explains(error)));
    assert!(answer.status == 422 && says_so, "{rule:?}: {}", answer.text);
}

#[tokio::test]
async fn every_rule_of_the_document_is_a_rule_of_the_code() {
    let contract = Contract::read();
    let world = world().await;
    let (mut all, mut broken) = (BTreeMap::new(), BTreeSet::new());
    let mut number = 0;
    for operation in operations(&contract) {
        for (_, body) in operation.bodies() {
            let validator = contract.validator(&body["schema"], Direction::Request);
            for rule in rules(&contract, &body["schema"]) {
                all.insert(rule.name().to_owned(), rule.clone());
                for (_, example) in contract.examples(body) {
                    let Some(request) = rule.broken(&example) else {
                        continue;
                    };
                    // Another provider's rule, or nothing that the schema would not say by itself.
                    let read = without_nulls(&contract, &request, &body["schema"]);
                    if read == without_nulls(&contract, &example, &body["schema"])
                        || !validator.is_valid(&read)
                    {
                        continue;
                    }
                    number += 1;
                    let mut request = Request::of(&operation, Body::Json(request));
                    for (name, value) in rule.headers.as_object().into_iter().flatten() {
                        request = request.with_header(name, value.as_str().unwrap());
                    }
                    check_broken(&world, &contract, &operation, &rule, request, number).await;
                    broken.insert(rule.name().to_owned());
                }
            }
        }
    }
    save_examples(&world, &contract).await;
    for (id, name, body) in large_violations() {
        let operation = operation(&contract, id);
        let (_, said) = operation.bodies().next().unwrap();
        assert!(
            contract
                .validator(&said["schema"], Direction::Request)
                .is_valid(&body),
            "{name}"
        );
        check_broken(
            &world,
            &contract,
            &operation,
            &all[name],
            Request::of(&operation, Body::Json(body)),
            number,
        )
        .await;
        broken.insert(name.to_owned());
    }
    // Of a patch: that its result has to be right.
    broken.insert(String::new());
    let unbroken: Vec<_> = all.keys().filter(|name| !broken.contains(*name)).collect();
    assert!(
        unbroken.is_empty(),
        "nobody has seen these rules: {unbroken:?}"
    );
}

/// What breaks the rules whose examples would be too long for the document, or need something saved before: the
/// operation, the rule and the body.
fn large_violations() -> Vec<(&'static str, &'static str, Value)> {
    let post = |field: &str, value: Value| {
        let mut body = communication();
        body[field] = value;
        body
    };
    let wide = "ä".repeat(200);
    let texts = vec!["x"; 33];
    let file = |bytes: usize| {
        json!({"filename": "a.bin", "contentType": "application/octet-stream",
               "content": BASE64_STANDARD.encode(vec![0; bytes])})
    };
    let mut params = post("templateParams", json!({"header": texts, "body": texts}));
    params["templateId"] = json!("reminder");
    let mut components = post(
        "templateComponents",
        json!([{"type": "body", "text": "x".repeat(32_768)}]),
    );
    components["templateId"] = json!("reminder");
    let copies = |from: u32| {
        (from..from + 25)
            .map(|n| format!("copy-{n}@example.com"))
            .collect::<Vec<_>>()
    };
    let mut many = post("cc", json!(copies(0)));
    many["bcc"] = json!(copies(25));
    let mut named = post("attachments", json!([file(1)]));
    named["attachments"][0]["filename"] = json!(wide);
    let templates = json!({"settings": {"communicationSettings": {"whatsapp": {"primary": {"provider": "twilio",
        "credentials": {"accountSid": "AC0123456789abcdef0123456789abcdef", "authToken": "token",
            "fromNumber": "+14155238886", "templates": {"ä".repeat(128): "HX0123456789abcdef0123456789abcdef"}}}}}}});
    let moved = json!({"settings": {"communicationSettings": {"email": {"defaultFrom": "desk@clinic.example",
        "primary": {"id": "gmail", "provider": "smtp", "credentials":
            {"host": "smtp.example.com", "port": 587, "secure": false, "user": "u"}}}}}});
    vec![
        ("postCommunication", "at most 64 strings together", params),
        (
            "postCommunication",
            "at most 32768 bytes together",
            components,
        ),
        (
            "postCommunication",
            "must name at most 49 addresses together with cc and bcc",
            many,
        ),
        (
            "postCommunication",
            "must be a file name of 1 to 255 bytes",
            named,
        ),
        (
            "postCommunication",
            "must be at most 4000000 bytes together",
            post("attachments", json!([file(4_000_001)])),
        ),
        (
            "postCommunication",
            "under a name of at most 64 bytes",
            post("metadata", json!({"ä".repeat(64): "x"})),
        ),
        ("putClinic", "under a name of 1 to 128 bytes", templates),
        ("putClinic", "must be sent again", moved),
    ]
}

#[tokio::test]
async fn a_communication_that_is_not_the_first_or_not_small_is_answered_as_documented() {
    let contract = Contract::read();
    let post = operation(&contract, "postCommunication");
    let check = |answer: Answer, status: u16| {
        contract.check(&post, &answer.expect(status)).unwrap();
    };
    let world = World::saved().await;
    check(world.post_with_key(&communication(), "key-1").await, 202);
    let mut other = communication();
    other["title"] = json!("Another");
    check(world.post_with_key(&other, "key-1").await, 409);
    check(world.post_with_key(&immediate(), "key-2").await, 200);
    let mut partly = immediate();
    partly["recipients"] = json!([{"email": "pat@example.com"}, {"phoneNumber": "+15550100"}]);
    check(world.post(&partly).await, 207);
    partly["recipients"] = json!([{"phoneNumber": "+15550100"}]);
    check(world.post(&partly).await, 207);
    let mut large = communication();
    large["attachments"] = json!([{"filename": "a.bin", "contentType": "application/octet-stream",
        "content": BASE64_STANDARD.encode(vec![0; 900_000])}]);
    check(world.post(&large).await, 413);
    world
        .aws
        .fail_next("sqs", "SendMessageBatch", 100, Fault::ServerError);
    check(world.post(&communication()).await, 503);
}

#[tokio::test]
async fn a_communication_over_the_clinics_limit_is_answered_as_documented() {
    let contract = Contract::read();
    let post = operation(&contract, "postCommunication");
    let mut world = World::saved().await;
    world.send.pipeline = world.pipeline_with_clock("send", Arc::new(ManualClock::new()));
    let limit = json!({"email": {"rateLimit": {"maxPerHour": "1"}}});
    world.patch_settings(CLINIC, limit).await.expect(200);
    let mut two = immediate();
    two["recipients"] = json!([{"email": "pat@example.com"}, {"email": "sam@example.com"}]);
    for (communication, status) in [(immediate(), 200), (immediate(), 429), (two, 422)] {
        let answer = world.post(&communication).await.expect(status);
        contract.check(&post, &answer).unwrap();
    }
}

#[tokio::test]
async fn statistics_are_answered_as_documented_whatever_is_in_them_and_whatever_is_asked() {
    let contract = Contract::read();
    let stats = operation(&contract, "getStats");
    let world = World::saved().await;
    let ask = async |clinic: &str, query: &[(&str, &str)], claims: &Value| {
        let mut request = Request::of(&stats, Body::None).at(clinic);
        let query = query.iter();
        request.query = query
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect();
        let answer = request.ask(&world, &stats, claims).await;
        contract.check(&stats, &answer).unwrap();
        answer
    };
    let mut both = immediate();
    both["channels"] = json!(["email", "whatsapp"]);
    both["recipients"] = json!([{"email": "pat@example.com", "phoneNumber": "+15550100"}, {"phoneNumber": "+15550101"}]);
    world.post(&both).await.expect(207);
    let counted = ask(CLINIC, &[], &super_admin()).await.expect(200).body;
    assert_eq!(counted["totals"]["email"]["sentByProvider"]["smtp"], 1);
    let failed = &counted["totals"]["whatsapp"]["failedByReason"];
    assert_eq!(*failed, json!({"NO_PROVIDER": 2}));

    let admin = super_admin();
    for (clinic, query, claims, status) in [
        ("clinic-unknown", &[][..], &admin, 200),
        ("_global", &[], &admin, 200),
        (
            CLINIC,
            &[("from", "2025-01-01"), ("to", "2026-02-04")],
            &admin,
            200,
        ),
        (
            CLINIC,
            &[("from", "2025-01-01"), ("to", "2026-02-05")],
            &admin,
            400,
        ),
        (
            CLINIC,
            &[("from", "2026-01-02"), ("to", "2026-01-01")],
            &admin,
            400,
        ),
        (CLINIC, &[("day", "2026-01-01")], &admin, 400),
        ("-", &[], &admin, 404),
        (CLINIC, &[], &service(), 403),
        (CLINIC, &[], &Value::Null, 403),
    ] {
        ask(clinic, query, claims).await.expect(status);
    }
    world
        .aws
        .fail_next("dynamodb", "Query", 100, Fault::ServerError);
    ask(CLINIC, &[], &admin).await.expect(503);
}

#[tokio::test]
async fn settings_that_were_saved_or_can_not_be_read_are_answered_as_documented() {
    let contract = Contract::read();
    let (put, get) = (
        operation(&contract, "putClinic"),
        operation(&contract, "getClinic"),
    );
    let world = World::saved().await;
    let read = |clinic: &str| Request::of(&get, Body::None).at(clinic);
    let answer = read(CLINIC)
        .ask(&world, &get, &super_admin())
        .await
        .expect(200);
    contract.check(&get, &answer).unwrap();
    for (name, value, status) in [
        ("if-match", answer.header("etag"), 200),
        ("if-match", "\"7\"", 412),
        ("if-none-match", "*", 412),
    ] {
        let save = Request::of(&put, Body::Json(answer.body.clone())).at(CLINIC);
        let save = save.with_header(name, value);
        let answer = save.ask(&world, &put, &super_admin()).await.expect(status);
        contract.check(&put, &answer).unwrap();
    }
    for (clinic, claims, status) in [
        ("clinic-unknown", super_admin(), 404),
        (CLINIC, Value::Null, 403),
    ] {
        let answer = read(clinic).ask(&world, &get, &claims).await.expect(status);
        contract.check(&get, &answer).unwrap();
    }
    for (service, operation, fault, status) in [
        ("dynamodb", "GetItem", Fault::ServerError, 503),
        ("kms", "Decrypt", Fault::ServerError, 503),
    ] {
        world.aws.fail_next(service, operation, 100, fault);
        let answer = read(CLINIC)
            .ask(&world, &get, &super_admin())
            .await
            .expect(status);
        contract.check(&get, &answer).unwrap();
        world.aws.clear_faults();
    }
}

#[tokio::test]
async fn a_version_that_was_deleted_is_restored_and_its_deletion_is_not() {
    let contract = Contract::read();
    let world = World::saved().await;
    for (id, version, status) in [
        ("deleteClinic", "", 204),
        ("deleteClinic", "", 404),
        ("restoreVersion", "2", 422),
        ("restoreVersion", "3", 404),
        ("restoreVersion", "1", 201),
        ("listVersions", "", 200),
        ("getProviderHealth", "", 200),
    ] {
        let operation = operation(&contract, id);
        let mut request = Request::of(&operation, Body::None).at(CLINIC);
        for (name, value) in &mut request.path {
            if name == "version" {
                version.clone_into(value);
            }
        }
        let answer = request.ask(&world, &operation, &super_admin()).await;
        contract.check(&operation, &answer.expect(status)).unwrap();
    }
}

#[tokio::test]
async fn tests_that_are_one_too_many_are_answered_as_documented() {
    let contract = Contract::read();
    let test = operation(&contract, "testEmail");
    let world = World::saved().await;
    for number in 0..31 {
        let verify = Request::of(&test, Body::Json(json!({"verifyOnly": true}))).at(CLINIC);
        let status = if number < 30 { 200 } else { 429 };
        let answer = verify
            .ask(&world, &test, &another_super_admin(number))
            .await
            .expect(status);
        contract.check(&test, &answer).unwrap();
    }
}
