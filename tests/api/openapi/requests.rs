//! Requests made from the document: bodies that its schemas allow, and bodies with something wrong in them.

use std::{collections::BTreeSet, sync::Arc};

use comms_tests::contract::{Contract, Direction};
use jsonschema::Validator;
use proptest::{
    collection::vec,
    prelude::*,
    sample::{Index, select},
    strategy::Union,
    string::string_regex,
};
use serde_json::{Map, Value, json};

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

/// A body.
#[derive(Debug, Clone)]
pub(crate) enum Body {
    None,
    Json(Value),
    Bytes(Vec<u8>),
}

/// A change to a body, mostly for the worse.
#[derive(Debug, Clone)]
pub(crate) enum Change {
    Replace(Value),
    Remove,
    AddUnknown,
    /// A text of so many characters.
    Text(usize),
    /// An array with so many copies of its first item.
    Items(usize),
}

/// The numbers that the schemas have as limits, with those next to them.
fn limits(schemas: &Value, names: &[&str], found: &mut BTreeSet<u64>) {
    match schemas {
        Value::Object(fields) => {
            for (name, value) in fields {
                if let Some(limit) = value.as_u64().filter(|_| names.contains(&name.as_str())) {
                    found.extend([limit.saturating_sub(1), limit, limit + 1]);
                }
                limits(value, names, found);
            }
        }
        Value::Array(items) => items.iter().for_each(|item| limits(item, names, found)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

fn limits_of(contract: &Contract, names: &[&str]) -> Vec<u64> {
    let mut found = BTreeSet::new();
    limits(
        &contract.document()["components"]["schemas"],
        names,
        &mut found,
    );
    found.into_iter().collect()
}

pub(crate) fn changes(contract: &Contract) -> BoxedStrategy<Change> {
    let sizes = |names: &[&str]| -> Vec<usize> {
        let limits = limits_of(contract, names);
        limits
            .into_iter()
            .map(|limit| usize::try_from(limit).unwrap())
            .collect()
    };
    let lengths = [
        sizes(&["maxLength", "minLength"]),
        vec![64, 65, 254, 255, 256, 257, 320, 321],
    ]
    .concat();
    let counts = sizes(&["maxItems", "minItems"])
        .into_iter()
        .filter(|count| *count <= 101);
    let numbers = limits_of(contract, &["minimum", "maximum"]);
    let mut deep = json!(1);
    for _ in 0..20 {
        deep = json!([deep]);
    }
    let odd = vec![
        json!(null),
        json!(true),
        json!(false),
        json!("true"),
        json!(-1),
        json!(0),
        json!(1.5),
        json!(4_294_967_296_u64),
        json!(1e300),
        json!(i64::MIN),
        json!(u64::MAX),
        json!(""),
        json!(" "),
        json!("0"),
        json!("00465"),
        json!("70000"),
        json!("99999999999999999999"),
        json!([]),
        json!({}),
        json!([null]),
        json!([[[]]]),
        json!({"configured": true}),
        json!({"configured": false}),
        json!({"configured": true, "last4": 4}),
        json!("\u{0}"),
        json!("\u{7f}"),
        json!("\r\nBcc: x@example.com"),
        json!("😀\u{202e}abc\u{feff}"),
        json!("e\u{301}\u{fffd}\u{10ffff}"),
        json!("<script>alert(1)</script>"),
        json!("../../etc/passwd"),
        json!("name@example"),
        json!("+999 1234567"),
        json!("10.0.0.1"),
        json!("__proto__"),
        deep,
    ];
    prop_oneof![
        6 => select(odd).prop_map(Change::Replace),
        2 => select(numbers.clone()).prop_map(|number| Change::Replace(json!(number))),
        1 => select(numbers).prop_map(|number| Change::Replace(json!(number.to_string()))),
        3 => Just(Change::Remove),
        3 => Just(Change::AddUnknown),
        3 => select(lengths).prop_map(Change::Text),
        2 => select(counts.collect::<Vec<_>>()).prop_map(Change::Items),
    ]
    .boxed()
}

/// Makes `change` somewhere in `body`.
pub(crate) fn changed(mut body: Value, place: Index, change: &Change) -> Value {
    let mut pointers = Vec::new();
    pointers_into(&body, String::new(), &mut pointers);
    let suits = |pointer: &&String| {
        let value = body.pointer(pointer).unwrap();
        match change {
            Change::Replace(_) => true,
            Change::Remove => !pointer.is_empty(),
            Change::AddUnknown => value.is_object(),
            Change::Text(_) => value.is_string(),
            Change::Items(_) => value.as_array().is_some_and(|items| !items.is_empty()),
        }
    };
    let pointers: Vec<_> = pointers.iter().filter(suits).collect();
    if pointers.is_empty() {
        return body;
    }
    let pointer = (*place.get(&pointers)).clone();
    let value = body.pointer_mut(&pointer).unwrap();
    match change {
        Change::Replace(with) => *value = with.clone(),
        Change::AddUnknown => value["colour"] = json!("red"),
        Change::Text(length) => *value = json!("a".repeat(*length)),
        Change::Items(count) => *value = vec![value[0].clone(); *count].into(),
        Change::Remove => {
            let (parent, name) = pointer.rsplit_once('/').unwrap();
            match body.pointer_mut(parent).unwrap() {
                Value::Object(fields) => {
                    fields.shift_remove(&name.replace("~1", "/").replace("~0", "~"));
                }
                Value::Array(items) => {
                    items.remove(name.parse().unwrap());
                }
                Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {
                    panic!("nothing is in a value that is not composed")
                }
            }
        }
    }
    body
}

fn pointers_into(value: &Value, pointer: String, found: &mut Vec<String>) {
    match value {
        Value::Object(fields) => {
            for (name, field) in fields {
                let name = name.replace('~', "~0").replace('/', "~1");
                pointers_into(field, format!("{pointer}/{name}"), found);
            }
        }
        Value::Array(items) => {
            for (index, item) in items.iter().enumerate() {
                pointers_into(item, format!("{pointer}/{index}"), found);
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
    found.push(pointer);
}

/// What is no JSON document as it is taken, and some that are none of these operations'.
pub(crate) fn broken_bodies() -> Vec<Vec<u8>> {
    let deep = [vec![b'['; 100_000], vec![b']'; 100_000]].concat();
    [
        &b""[..],
        b"null",
        b"[]",
        b"\"text\"",
        b"5",
        b"{}",
        b"{",
        b"{} {}",
        b"{\"a\":1,\"a\":2}",
        b"{\"a\":1e400}",
        b"\xef\xbb\xbf{}",
        b"{\"a\":\"\xff\"}",
        b"{\"a\":\"\\ud800\"}",
        b"{'a':1}",
        b"NaN",
        b"a=b&c=d",
        b"--x\r\nContent-Disposition: form-data",
        deep.as_slice(),
    ]
    .map(<[u8]>::to_vec)
    .to_vec()
}

/// A body as the document reads it: `null` for a field that is named is the same as leaving it out, and so is an empty text
/// in settings. Maps with names of the caller's own, and what is passed on as it is, have no such fields.
pub(crate) fn without_nulls(contract: &Contract, value: &Value, schema: &Value) -> Value {
    without(contract, value, schema, false)
}

fn without(contract: &Contract, value: &Value, schema: &Value, in_settings: bool) -> Value {
    let schema = contract.resolved(schema);
    match value {
        Value::Object(fields) => {
            let fields = fields.iter().filter_map(|(name, field)| {
                let in_settings = in_settings || name == "communicationSettings";
                let is_unset = field.is_null() || (in_settings && field == "");
                match property(contract, &schema, name) {
                    Some(_) if is_unset => None,
                    Some(named) => {
                        Some((name.clone(), without(contract, field, &named, in_settings)))
                    }
                    None => Some((name.clone(), field.clone())),
                }
            });
            Value::Object(fields.collect())
        }
        Value::Array(items) => {
            let schema = item_schema(contract, &schema);
            items
                .iter()
                .map(|item| without(contract, item, &schema, in_settings))
                .collect()
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => value.clone(),
    }
}

/// What the schema, or the alternatives of it together, say of a field.
fn property(contract: &Contract, schema: &Value, name: &str) -> Option<Value> {
    let here = schema["properties"]
        .get(name)
        .filter(|property| property.is_object())
        .cloned();
    let alternatives = ["oneOf", "anyOf"]
        .into_iter()
        .flat_map(|choice| schema[choice].as_array().into_iter().flatten());
    let there: Vec<_> = alternatives
        .filter_map(|branch| property(contract, &contract.resolved(branch), name))
        .collect();
    match (here, there.is_empty()) {
        (here, true) => here,
        // Which of them it is does not matter: a field has the same fields in all that know it.
        (here, false) => Some(json!({"anyOf": here.into_iter().chain(there).collect::<Vec<_>>()})),
    }
}

fn item_schema(contract: &Contract, schema: &Value) -> Value {
    if let Some(items) = schema.get("items") {
        return items.clone();
    }
    let alternatives = ["oneOf", "anyOf"]
        .into_iter()
        .flat_map(|choice| schema[choice].as_array().into_iter().flatten());
    let items = alternatives.map(|branch| item_schema(contract, &contract.resolved(branch)));
    items
        .into_iter()
        .find(|items| !items.is_null())
        .unwrap_or_default()
}

/// The fields of `value` that have a schema, with their pointers.
pub(crate) fn fields_of(
    contract: &Contract,
    schema: &Value,
    value: &Value,
    pointer: &str,
    found: &mut Vec<(String, Value)>,
) {
    let schema = contract.resolved(schema);
    match value {
        Value::Object(fields) => {
            for (name, field) in fields {
                let named = property(contract, &schema, name);
                if let Some(named) = named.or_else(|| schema.get("additionalProperties").cloned()) {
                    fields_of(contract, &named, field, &format!("{pointer}/{name}"), found);
                }
            }
        }
        Value::Array(items) => {
            let schema = item_schema(contract, &schema);
            for (index, item) in items.iter().enumerate() {
                fields_of(
                    contract,
                    &schema,
                    item,
                    &format!("{pointer}/{index}"),
                    found,
                );
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
    found.push((pointer.to_owned(), schema));
}

/// Values at the limits that a schema has for what is `value` now, and next to them.
pub(crate) fn at_limits(contract: &Contract, schema: &Value, value: &Value) -> Vec<Value> {
    let schema = contract.resolved(schema);
    let mut found = Vec::new();
    for choice in ["oneOf", "anyOf"] {
        for branch in schema[choice].as_array().into_iter().flatten() {
            found.extend(at_limits(contract, branch, value));
        }
    }
    let limit = |name: &str| schema[name].as_i64();
    for number in [limit("minimum"), limit("maximum")].into_iter().flatten() {
        for near in [number - 1, number, number + 1] {
            found.extend([json!(near), json!(near.to_string())]);
        }
    }
    let pattern = schema["pattern"].as_str().unwrap_or_default();
    let in_pattern = pattern
        .split(['{', '}', ','])
        .filter_map(|part| part.parse().ok());
    let lengths: BTreeSet<i64> = [limit("minLength"), limit("maxLength")]
        .into_iter()
        .flatten()
        .chain(in_pattern)
        .flat_map(|length: i64| [length - 1, length, length + 1])
        .collect();
    for length in lengths
        .into_iter()
        .filter_map(|length| usize::try_from(length).ok())
    {
        found.push(json!("a".repeat(length)));
        // Characters of several bytes, and digits. Of what is very long, one kind is enough.
        if length < 2_000 {
            found.extend([json!("1".repeat(length)), json!("ä".repeat(length))]);
        }
    }
    if let (Some(text), false) = (value.as_str(), pattern.is_empty()) {
        let mut shorter = text.to_owned();
        let last = shorter.pop();
        found.extend([
            json!(shorter),
            json!(format!("{text}{}", last.unwrap_or('a'))),
        ]);
    }
    if schema["format"] == "uri" {
        found.extend(URLS.map(Value::from));
    }
    if let Some(item) = value.as_array().and_then(|items| items.first()) {
        for count in [limit("minItems"), limit("maxItems")].into_iter().flatten() {
            let counts = [count - 1, count, count + 1].into_iter();
            found.extend(
                counts.filter_map(|count| {
                    Some(vec![item.clone(); usize::try_from(count).ok()?].into())
                }),
            );
        }
    }
    found
}
