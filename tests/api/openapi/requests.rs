//! Requests made from the document: bodies that its schemas allow, and bodies with something wrong in them.

mod changes;
mod fields;

use std::{collections::BTreeSet, sync::Arc};

use comms_tests::contract::{Contract, Direction};
use jsonschema::Validator;
use proptest::{
    collection::vec, prelude::*, sample::select, strategy::Union, string::string_regex,
};
use serde_json::{Map, Value, json};

pub(crate) use self::{
    changes::{Body, broken_bodies, changed, changes},
    fields::{at_limits, fields_of, without_nulls},
};

/// What every secret of a generated request begins with. Nothing that is answered has it.
pub(crate) const PLANTED: &str = "planted-";
/// Addresses of every kind.
const ADDRESSES: [&str; 4] = [
    "pat@example.com",
    "kim.o'neil+bills@sub.example.org",
    "jörg@bücher.example",
    "sam@xn--bcher-kva.example",
];

/// URLs of the kinds that one or another field takes.
const URLS: [&str; 8] = [
    "https://graph.example/v20.0",
    "https://graph.example/v21.0",
    "https://graph.example/v21.0/",
    "https://graph.example/v21.1",
    "https://graph.example/v21.0/me",
    "https://api.example",
    "https://api.example/?query",
    "ftp://api.example",
];

/// Values that `schema` allows, the usual ones more often than the odd ones.
pub(crate) fn values(contract: &Contract, schema: &Value) -> BoxedStrategy<Value> {
    let schema = contract.resolved(schema);
    if schema["readOnly"] == true {
        return any_json();
    }
    if let Some(value) = schema.get("const") {
        return Just(value.clone()).boxed();
    }
    if let Some(values) = schema["enum"].as_array() {
        return select(values.clone()).boxed();
    }
    for choice in ["oneOf", "anyOf"] {
        if let Some(branches) = schema[choice].as_array() {
            let branches = branches.iter().map(|branch| {
                let mut whole = schema.clone();
                whole.as_object_mut().unwrap().shift_remove(choice);
                values(contract, &overlaid(whole, &contract.resolved(branch)))
            });
            let branches = Union::new(branches);
            return valid(contract, &schema, branches.boxed());
        }
    }
    let types = match &schema["type"] {
        Value::Array(types) => types.clone(),
        Value::String(one) => vec![json!(one)],
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Object(_) => return any_json(),
    };
    Union::new(types.iter().map(|kind| match kind.as_str().unwrap() {
        "object" => objects(contract, &schema),
        "array" => {
            let least = bound(&schema, "minItems").unwrap_or(0);
            let most = bound(&schema, "maxItems").map_or(least + 2, |most| most.min(least + 2));
            let items = match schema.get("items") {
                Some(items) => values(contract, items),
                None => any_json(),
            };
            vec(items, least..=most).prop_map(Value::from).boxed()
        }
        "string" => texts(&schema),
        "integer" => {
            let least = schema["minimum"].as_i64().unwrap_or(-1);
            let most = schema["maximum"].as_i64().unwrap_or(100_000);
            prop_oneof![least..=most, select(vec![least, most])]
                .prop_map(Value::from)
                .boxed()
        }
        "boolean" => any::<bool>().prop_map(Value::from).boxed(),
        "null" => Just(Value::Null).boxed(),
        other => panic!("a type of no schema: {other}"),
    }))
    .prop_filter("not what the schema allows", filter(contract, &schema))
    .boxed()
}

/// `schema` with what one of its alternatives says of it.
fn overlaid(mut schema: Value, branch: &Value) -> Value {
    for (name, said) in branch.as_object().unwrap() {
        match (name.as_str(), &mut schema[name]) {
            ("required", Value::Array(required)) => {
                required.extend(said.as_array().unwrap().iter().cloned());
            }
            ("properties", Value::Object(properties)) => {
                properties.extend(said.as_object().unwrap().clone());
            }
            (_, here) => *here = said.clone(),
        }
    }
    schema
}

fn filter(contract: &Contract, schema: &Value) -> impl Fn(&Value) -> bool + use<> {
    let validator = contract.validator(schema, Direction::Request);
    move |value| validator.is_valid(value)
}

fn valid(
    contract: &Contract,
    schema: &Value,
    values: BoxedStrategy<Value>,
) -> BoxedStrategy<Value> {
    let filter = filter(contract, schema);
    values
        .prop_filter("not what the schema allows", filter)
        .boxed()
}

fn bound(schema: &Value, name: &str) -> Option<usize> {
    schema[name]
        .as_u64()
        .map(|bound| usize::try_from(bound).unwrap())
}

fn any_json() -> BoxedStrategy<Value> {
    select(vec![
        json!(null),
        json!(1),
        json!("text"),
        json!([]),
        json!({"a": 1}),
    ])
    .boxed()
}

/// A regular expression of the document in the form that strings are made by; `None` where it does not say all.
fn generator(pattern: &str) -> Option<BoxedStrategy<String>> {
    let inner = pattern.strip_prefix('^')?.strip_suffix('$')?;
    string_regex(inner).ok().map(Strategy::boxed)
}

fn texts(schema: &Value) -> BoxedStrategy<Value> {
    let mut kinds: Vec<(u32, BoxedStrategy<String>)> = Vec::new();
    let examples = schema["examples"].as_array().cloned().unwrap_or_default();
    if !examples.is_empty() {
        let texts: Vec<_> = examples
            .iter()
            .map(|text| text.as_str().unwrap().to_owned())
            .collect();
        kinds.push((4, select(texts).boxed()));
    }
    let (least, most) = (
        bound(schema, "minLength").unwrap_or(0),
        bound(schema, "maxLength"),
    );
    match (schema["format"].as_str(), schema["pattern"].as_str()) {
        (Some("idn-email"), _) => {
            kinds.push((4, select(ADDRESSES.map(str::to_owned).to_vec()).boxed()));
            kinds.push((
                16,
                string_regex("[a-z0-9]{1,20}@[a-z]{1,20}\\.example")
                    .unwrap()
                    .boxed(),
            ));
        }
        // A URL of any other kind than the examples may lead somewhere.
        (Some(_), _) => {}
        (None, _) if schema["writeOnly"] == true && most == Some(1_024) => {
            kinds.push((
                8,
                string_regex(&format!("{PLANTED}[a-z0-9]{{12,40}}"))
                    .unwrap()
                    .boxed(),
            ));
        }
        (None, Some(pattern)) => kinds.extend(generator(pattern).map(|texts| (2, texts))),
        (None, None) => {
            let most = most.map_or(least + 20, |most| most.min(least + 20));
            kinds.push((
                2,
                string_regex(&format!("[ -~]{{{least},{most}}}"))
                    .unwrap()
                    .boxed(),
            ));
            kinds.push((
                1,
                string_regex(&format!("(?s).{{{least},{most}}}"))
                    .unwrap()
                    .boxed(),
            ));
        }
    }
    assert!(!kinds.is_empty(), "the schema needs examples: {schema}");
    Union::new_weighted(kinds).prop_map(Value::from).boxed()
}

/// What a condition of an object asks for.
struct Condition {
    applies: Arc<Validator>,
    then: Value,
    otherwise: Value,
}

fn conditions(contract: &Contract, schema: &Value) -> Vec<Condition> {
    let all_of = schema["allOf"].as_array().cloned().unwrap_or_default();
    let parts = std::iter::once(schema).chain(&all_of);
    parts
        .filter(|part| part.get("if").is_some())
        .map(|part| Condition {
            applies: contract.validator(&part["if"], Direction::Request),
            then: part["then"].clone(),
            otherwise: part["else"].clone(),
        })
        .collect()
}

/// Objects: every field is made, those that are not required are left out more often than not, and what the conditions
/// ask for is put back.
fn objects(contract: &Contract, schema: &Value) -> BoxedStrategy<Value> {
    let required: BTreeSet<_> = schema["required"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect();
    let (mut names, mut fields, mut kept) = (Vec::new(), Vec::new(), Vec::new());
    for (name, property) in schema["properties"].as_object().into_iter().flatten() {
        if *property == false {
            continue;
        }
        let rules = contract.resolved(property)["x-rules"].clone();
        let missed = rules
            .as_array()
            .into_iter()
            .flatten()
            .any(|rule| rule["says"] == "is required");
        kept.push(match (required.contains(name.as_str()), missed) {
            (true, _) => Just(true).boxed(),
            // A secret, which the schema lets be left out where one is stored.
            (false, true) => proptest::bool::weighted(0.9).boxed(),
            (false, false) => proptest::bool::weighted(0.4).boxed(),
        });
        names.push(name.clone());
        fields.push(values(contract, property));
    }
    let further = match schema.get("additionalProperties") {
        Some(further @ Value::Object(_)) => {
            let name = select(vec!["appointmentId", "note", "ключ", "a/b~c", "x y"]);
            vec(
                (name.prop_map(str::to_owned), values(contract, further)),
                0..3,
            )
            .boxed()
        }
        Some(_) | None => Just(Vec::new()).boxed(),
    };
    let schema = Arc::new(schema.clone());
    let conditions = Arc::new(conditions(contract, &schema));
    (fields, kept, further)
        .prop_map(move |(values, kept, further)| {
            let whole: Map<_, _> = names.iter().cloned().zip(values).collect();
            let mut object: Map<_, _> = further.into_iter().collect();
            let kept = whole.iter().zip(kept).filter(|(_, kept)| *kept);
            object.extend(kept.map(|((name, value), _)| (name.clone(), value.clone())));
            mended(object, &whole, &schema, &conditions)
        })
        .boxed()
}

/// The object with the fields that its schema's conditions ask for, as far as that can be seen from here.
fn mended(
    object: Map<String, Value>,
    whole: &Map<String, Value>,
    schema: &Value,
    conditions: &[Condition],
) -> Value {
    let mut object = Value::Object(object);
    let excluded = schema["not"]["required"].as_array();
    if let Some(names) = excluded.filter(|names| {
        names
            .iter()
            .all(|name| object.get(name.as_str().unwrap()).is_some())
    }) {
        object
            .as_object_mut()
            .unwrap()
            .shift_remove(names[0].as_str().unwrap());
    }
    for (name, needed) in schema["dependentRequired"]
        .as_object()
        .into_iter()
        .flatten()
    {
        if object.get(name).is_some() {
            add(&mut object, whole, needed);
        }
    }
    for condition in conditions {
        let asked = if condition.applies.is_valid(&object) {
            &condition.then
        } else {
            &condition.otherwise
        };
        add(&mut object, whole, &asked["required"]);
        let alternatives = asked["anyOf"].as_array().cloned().unwrap_or_default();
        let has_all = |required: &Value| {
            required
                .as_array()
                .into_iter()
                .flatten()
                .all(|name| object.get(name.as_str().unwrap()).is_some())
        };
        if !alternatives.is_empty() && !alternatives.iter().any(|one| has_all(&one["required"])) {
            add(&mut object, whole, &alternatives[0]["required"]);
        }
        for (name, property) in asked["properties"].as_object().into_iter().flatten() {
            if *property == false {
                object.as_object_mut().unwrap().shift_remove(name);
            }
        }
    }
    object
}

fn add(object: &mut Value, whole: &Map<String, Value>, names: &Value) {
    for name in names
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
    {
        if let (None, Some(value)) = (object.get(name), whole.get(name)) {
            object[name] = value.clone();
        }
    }
}
