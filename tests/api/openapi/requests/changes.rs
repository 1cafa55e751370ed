//! Requests with one thing wrong.

use std::collections::BTreeSet;

use comms_tests::contract::Contract;
use proptest::{
    prelude::*,
    sample::{Index, select},
};
use serde_json::{Value, json};

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
