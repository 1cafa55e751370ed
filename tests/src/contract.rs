//! The HTTP contract as a document: its operations, its schemas, and whether an answer is what it says.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use comms_core::EmailAddress;
use jiff::Timestamp;
use jsonschema::{Draft, Validator};
use serde_json::{Map, Value, json};

use crate::{api_response::ApiResponse, repository::yaml};

/// Headers that mean something to a caller: none may be answered that is not in the document.
const TELLING_HEADERS: [&str; 4] = ["ETag", "Location", "Retry-After", "Accept-Patch"];

/// Which way a body goes: `readOnly` says nothing in a request, and what is `writeOnly` is in no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Direction {
    Request,
    Answer,
}

/// The document.
pub struct Contract {
    document: Value,
    request_schemas: Value,
    answer_schemas: Value,
    /// What was asked for before: making a validator takes longer than using it.
    validators: Mutex<HashMap<(Direction, String), Arc<Validator>>>,
}

/// A method of a path.
#[derive(Debug, Clone)]
pub struct Operation {
    pub method: String,
    pub path: String,
    /// The operation object.
    pub object: Value,
    /// The parameters of the path and of the operation.
    pub parameters: Vec<Value>,
}

impl Operation {
    /// The method and the path.
    pub fn key(&self) -> (&str, &str) {
        (&self.method, &self.path)
    }

    /// The content types of the body with what is said of each.
    pub fn bodies(&self) -> impl Iterator<Item = (&String, &Value)> {
        let content = self.object["requestBody"]["content"].as_object();
        content.into_iter().flatten()
    }

    /// Whether one of `roles` may do this for some clinic; `None` where nobody is asked.
    pub fn permits(&self, role: &str) -> Option<bool> {
        let alternatives = self.object["security"].as_array().unwrap();
        let permits = |alternative: &Value| alternative["token"] == json!([role]);
        (!alternatives.is_empty()).then(|| alternatives.iter().any(permits))
    }
}

impl Contract {
    /// Reads `infra/openapi.yaml`.
    pub fn read() -> Self {
        let document = with_alternatives(&yaml("infra/openapi.yaml"));
        let schemas = &document["components"]["schemas"];
        Self {
            request_schemas: in_direction(schemas, Direction::Request),
            answer_schemas: in_direction(schemas, Direction::Answer),
            document,
            validators: Mutex::default(),
        }
    }

    /// The whole document.
    pub fn document(&self) -> &Value {
        &self.document
    }

    /// A schema of the document by its name, as it is written.
    pub fn schema(&self, name: &str) -> &Value {
        let schema = &self.document["components"]["schemas"][name];
        assert!(schema.is_object(), "{name}");
        schema
    }

    /// Every operation, with its references to parameters and answers resolved.
    pub fn operations(&self) -> Vec<Operation> {
        let mut operations = Vec::new();
        for (path, item) in self.document["paths"].as_object().unwrap() {
            let shared = item["parameters"].as_array().cloned().unwrap_or_default();
            for (method, object) in item.as_object().unwrap() {
                if method == "parameters" {
                    continue;
                }
                let mut object = object.clone();
                for (_, answer) in object["responses"].as_object_mut().unwrap() {
                    *answer = self.resolved(answer);
                }
                let own = object["parameters"].as_array().cloned().unwrap_or_default();
                operations.push(Operation {
                    method: method.to_uppercase(),
                    path: path.clone(),
                    parameters: shared
                        .iter()
                        .chain(&own)
                        .map(|p| self.resolved(p))
                        .collect(),
                    object,
                });
            }
        }
        operations
    }

    /// `value` without its `$ref`: what that points at, under what stands beside it.
    pub fn resolved(&self, value: &Value) -> Value {
        let Some(reference) = value.get("$ref").and_then(Value::as_str) else {
            return value.clone();
        };
        let target = self.document.pointer(reference.strip_prefix('#').unwrap());
        let mut resolved = self.resolved(target.unwrap_or_else(|| panic!("{reference}")));
        for (name, sibling) in value.as_object().unwrap() {
            match (name.as_str(), resolved.get_mut(name)) {
                ("$ref", _) => {}
                // Rules add up; everything else says it again, and better.
                ("x-rules", Some(Value::Array(rules))) => {
                    rules.extend(sibling.as_array().unwrap().iter().cloned());
                }
                _ => resolved[name] = sibling.clone(),
            }
        }
        resolved
    }

    /// What `schema` allows in this direction.
    pub fn validator(&self, schema: &Value, direction: Direction) -> Arc<Validator> {
        let key = (direction, schema.to_string());
        let mut validators = self
            .validators
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let validator = validators
            .entry(key)
            .or_insert_with(|| Arc::new(self.make_validator(schema, direction)));
        validator.clone()
    }

    /// Formats mean what the code's own readers take; the document says in words what that is.
    fn make_validator(&self, schema: &Value, direction: Direction) -> Validator {
        let schemas = match direction {
            Direction::Request => &self.request_schemas,
            Direction::Answer => &self.answer_schemas,
        };
        let root = json!({
            "allOf": [in_direction(schema, direction)],
            "components": {"schemas": schemas},
        });
        let mut options = jsonschema::options()
            .with_draft(Draft::Draft202012)
            .should_validate_formats(true)
            .with_format("idn-email", |text: &str| EmailAddress::parse(text).is_ok())
            .with_format("date-time", |text: &str| text.parse::<Timestamp>().is_ok());
        if direction == Direction::Request {
            // URLs are read as browsers do, which is more than RFC 3986 knows.
            options = options.with_format("uri", |_: &str| true);
        }
        options.build(&root).unwrap()
    }

    /// Whether an answer is one that the document has for this operation: its status, content type, body and headers,
    /// and for an error an example of it in the same words.
    pub fn check(&self, operation: &Operation, answer: &ApiResponse) -> Result<(), String> {
        let fail = |what: &str| {
            let (method, path) = operation.key();
            Err(format!("{method} {path}: {what}\n{}", answer.text))
        };
        let documented = &operation.object["responses"][answer.status.to_string()];
        if documented.is_null() {
            return fail("a status that is not in the document");
        }
        let headers = documented["headers"]
            .as_object()
            .cloned()
            .unwrap_or_default();
        for name in TELLING_HEADERS {
            if !answer.header(name).is_empty() && !headers.contains_key(name) {
                return fail(&format!("the header {name} is not in the document"));
            }
        }
        for (name, header) in &headers {
            let header = self.resolved(header);
            let text = answer.header(name);
            let ours = answer.header("content-type") == "application/problem+json";
            if text.is_empty() {
                if header["required"] == true || (ours && name == "Retry-After") {
                    return fail(&format!("the header {name} is missing"));
                }
                continue;
            }
            let value = match header["schema"]["type"].as_str() {
                Some("integer") => text
                    .parse::<u64>()
                    .map_or_else(|_| json!(text), Value::from),
                _ => json!(text),
            };
            let validator = self.validator(&header["schema"], Direction::Answer);
            if let Err(error) = validator.validate(&value) {
                return fail(&format!("the header {name}: {error}"));
            }
        }
        let content_type = answer.header("content-type");
        let Some(content) = documented["content"].as_object() else {
            let empty = content_type.is_empty() && answer.body.is_null();
            return if empty {
                Ok(())
            } else {
                fail("a body where the document has none")
            };
        };
        let Some(content) = content.get(content_type) else {
            return fail("a content type that is not in the document");
        };
        // What may be ours or API Gateway's is told by its content type.
        let schema = match content["schema"]["$ref"].as_str() {
            Some("#/components/schemas/ApiError") => match content_type {
                "application/problem+json" => self.schema("Problem"),
                _ => self.schema("GatewayMessage"),
            },
            Some(_) | None => &content["schema"],
        };
        let validator = self.validator(schema, Direction::Answer);
        let errors: Vec<_> = validator
            .iter_errors(&answer.body)
            .map(|error| format!("{}: {error}", error.instance_path()))
            .collect();
        if !errors.is_empty() {
            return fail(&errors.join("\n"));
        }
        if content_type == "application/problem+json" && !self.has_example_of(content, answer) {
            return fail("no example of this problem");
        }
        Ok(())
    }

    /// Whether one of the examples is the same problem in the same words.
    fn has_example_of(&self, content: &Value, answer: &ApiResponse) -> bool {
        let problem = &answer.body;
        self.examples(content).iter().any(|(_, example)| {
            let same = |field: &str| example[field] == problem[field];
            problem["status"] == answer.status
                && ["type", "title", "status", "code"].into_iter().all(same)
                // Which of four limits is reached, or which header is wrong: one of them is shown.
                && (same("detail") || answer.status == 429 || problem["code"] == "malformed_header")
        })
    }

    /// The examples of a content with their names.
    pub fn examples(&self, content: &Value) -> Vec<(String, Value)> {
        let examples = content["examples"].as_object().cloned().unwrap_or_default();
        let value = |example: &Value| self.resolved(example)["value"].clone();
        examples
            .iter()
            .map(|(name, example)| (name.clone(), value(example)))
            .collect()
    }
}

/// The document with the alternatives that it keeps from generated clients: a schema with `x-also-accepts` becomes a
/// `oneOf` of itself and of what a request may have in its place.
fn with_alternatives(schema: &Value) -> Value {
    let fields = match schema {
        Value::Array(items) => return items.iter().map(with_alternatives).collect(),
        Value::Object(fields) => fields,
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {
            return schema.clone();
        }
    };
    let mut own: Map<_, _> = fields
        .iter()
        .map(|(name, value)| (name.clone(), with_alternatives(value)))
        .collect();
    let Some(mut other) = own.shift_remove("x-also-accepts") else {
        return own.into();
    };
    other["writeOnly"] = json!(true);
    let description = own.shift_remove("description");
    let mut either = json!({"oneOf": [own, other]});
    if let Some(description) = description {
        either["description"] = description;
    }
    either
}

/// Schemas as they hold in one direction. In answers an object has no fields but those that are named: the document
/// leaves room for more only so that a client may ignore what it does not know.
fn in_direction(schema: &Value, direction: Direction) -> Value {
    let fields = match schema {
        Value::Array(items) => {
            return items
                .iter()
                .map(|item| in_direction(item, direction))
                .collect();
        }
        Value::Object(fields) => fields,
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {
            return schema.clone();
        }
    };
    match direction {
        Direction::Request if fields.get("readOnly") == Some(&json!(true)) => return json!(true),
        Direction::Answer if fields.get("writeOnly") == Some(&json!(true)) => return json!(false),
        Direction::Request | Direction::Answer => {}
    }
    let mut directed: Map<_, _> = fields
        .iter()
        .map(|(name, value)| (name.clone(), in_direction(value, direction)))
        .collect();
    let is_object =
        directed.get("type") == Some(&json!("object")) && directed.contains_key("properties");
    if direction == Direction::Answer && is_object && !directed.contains_key("additionalProperties")
    {
        directed.insert("additionalProperties".to_owned(), json!(false));
    }
    directed.into()
}

/// The operation with this `operationId`.
pub fn operation(contract: &Contract, id: &str) -> Operation {
    let mut operations = contract.operations().into_iter();
    operations
        .find(|operation| operation.object["operationId"] == id)
        .unwrap()
}
