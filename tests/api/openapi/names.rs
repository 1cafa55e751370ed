//! Names, positions and limits of the document are those of the code.

use comms_adapters::{VerifyStage, registry, smtp, twilio};
use comms_core::json as strict_json;
use comms_core::{
    BaseUrl, Channel, DeliveryStatus, Disposition, ErrorKind, FailureReason, HealthState, Position,
    Problems, attachment, delivery::MAX_ATTEMPTS, request,
};
use comms_delivery::usage;
use comms_send::CommunicationOutcome;
use comms_settings::{document, rate_limit};
use comms_tests::{
    contract::{Contract, Direction},
    repository::file,
    routes::texts,
};
use serde_json::{Map, Value, json};

use super::ROLES;

#[test]
fn every_operation_documents_roles_bodies_answers_and_examples() {
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
