//! `infra/docs/LIMITS.md` and the code say the same; and limits that only the whole can show.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use base64::{Engine, prelude::BASE64_STANDARD};
use comms_core::request::Submission;
use comms_tests::World;
use serde_json::{Value, json};

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
const TABLE: &str = "infra/docs/LIMITS.md";

/// Constants with such names that limit nothing that comes in: what the service does by itself, or a developer's machine.
const OTHERS: &[(&str, &str)] = &[
    ("shared/settings/src/cache.rs", "MAX_BYTES"),
    ("shared/settings/src/gcra.rs", "MAX_TRIES"),
    ("shared/settings/src/test_limits.rs", "MAX_CHAIN_ENTRIES"),
    ("shared/adapters/src/registry.rs", "MAX_CONFIG_BYTES"),
    ("shared/settings/src/version.rs", "MAX_DAYS"),
    ("shared/adapters/src/factory.rs", "MAX_BYTES"),
    ("shared/adapters/src/net/http/idle.rs", "MAX_IDLE"),
    ("shared/adapters/src/net/http/idle.rs", "MAX_IDLE_PER_HOST"),
    ("shared/adapters/src/smtp/deliver.rs", "MAX_REFUSALS"),
    ("shared/adapters/src/ses/checks.rs", "MAX_DOMAINS"),
    ("shared/adapters/src/net/tcp.rs", "MAX_ADDRESSES"),
    ("shared/adapters/src/chain/course.rs", "MAX_RENEWALS"),
    (
        "shared/adapters/src/smtp/further.rs",
        "MAX_FURTHER_TRANSACTIONS",
    ),
    ("shared/adapters/src/html_text/render.rs", "MAX_ATTRIBUTE"),
    (
        "shared/adapters/src/html_text/render.rs",
        "MAX_COUNTED_LISTS",
    ),
    ("shared/adapters/src/mime/encoded_word.rs", "MAX_WORD"),
    ("shared/adapters/src/mime/parameter.rs", "MAX_QUOTED"),
    ("shared/adapters/src/mime/part.rs", "MAX_LINE"),
    // What the queue takes at once, and of messages that are its own already.
    ("functions/send/src/queue.rs", "MAX_PART_BYTES"),
    ("shared/aws/src/queue/batch.rs", "MAX_ENTRIES"),
    ("shared/core/src/dead_letter.rs", "MAX_ATTRIBUTES"),
    ("functions/worker/src/lib.rs", "MAX_PANICS"),
    ("functions/worker/src/crashes.rs", "MAX_CRASHES"),
    // Of a dead letter what anybody says about it is cut, and tries of a write are nobody's input.
    ("infra/operator/src/dead_letters/report.rs", "MAX_FIELDS"),
    // Of a request's deliveries the operator is shown the first.
    ("infra/operator/src/why/report.rs", "MAX_SHOWN"),
    ("infra/operator/src/why/find.rs", "MAX_LETTERS"),
    ("shared/core/src/dead_letter.rs", "MAX_POINTER"),
    ("shared/delivery/src/usage/categories.rs", "MAX_REMEMBERED"),
    ("shared/delivery/src/rate_limit/reservation.rs", "MAX_TRIES"),
    ("shared/delivery/src/permits.rs", "MAX_TRIES"),
    (
        "shared/delivery/src/pipeline/unrecorded.rs",
        "MAX_UNRECORDED",
    ),
    ("shared/delivery/src/quota.rs", "MAX_TRIES"),
];

/// Numbers by the file and the name of their constants.
type Constants = BTreeMap<(String, String), String>;

/// Whether the file says what a provider takes of one message, which is in `PROVIDERS.md`.
fn is_request_of_a_provider(path: &Path) -> bool {
    let is_request = path.file_name().is_some_and(|name| name == "request.rs");
    is_request && path.with_file_name("config.rs").exists()
}

/// Every integer constant of the code, without its tests.
fn constants() -> Constants {
    let mut constants = Constants::new();
    for directory in ["shared", "functions", "infra/operator"] {
        let mut left: Vec<PathBuf> = vec![Path::new(ROOT).join(directory)];
        while let Some(path) = left.pop() {
            let name = path.file_name().unwrap().to_str().unwrap();
            if path.is_dir() {
                let skipped = ["tests", "testkit", "target"].contains(&name);
                let inside = fs::read_dir(&path).unwrap().filter(|_| !skipped);
                left.extend(inside.map(|entry| entry.unwrap().path()));
            } else if path.extension().is_some_and(|extension| extension == "rs")
                && !is_request_of_a_provider(&path)
            {
                let file = path.strip_prefix(ROOT).unwrap().to_str().unwrap();
                let text = fs::read_to_string(&path).unwrap();
                let code = text.split("#[cfg(test)]\nmod tests {").next().unwrap();
                for statement in code.split("const ").skip(1) {
                    let Some((head, _)) = statement.split_once(';') else {
                        continue;
                    };
                    let Some((name, rest)) = head.split_once(": ") else {
                        continue;
                    };
                    let Some((kind, value)) = rest.split_once('=') else {
                        continue;
                    };
                    let is_integer = ["usize", "u8", "u16", "u32", "u64"].contains(&kind.trim());
                    let is_name = name
                        .bytes()
                        .all(|byte| byte.is_ascii_uppercase() || b"_0123456789".contains(&byte));
                    if is_integer && is_name {
                        constants
                            .insert((file.to_owned(), name.to_owned()), value.trim().to_owned());
                    }
                }
            }
        }
    }
    constants
}

/// The number of an expression: products, shifts, and names of other constants.
fn number(constants: &Constants, expression: &str) -> Option<u64> {
    if let Some((left, right)) = expression.split_once("<<") {
        return Some(number(constants, left)? << number(constants, right)?);
    }
    if let Some((left, right)) = expression.split_once('*') {
        return Some(number(constants, left)? * number(constants, right)?);
    }
    let word = expression.trim().replace('_', "");
    if let Ok(number) = word.parse() {
        return Some(number);
    }
    let mut named = constants
        .iter()
        .filter(|((_, name), _)| name == expression.trim());
    let (_, value) = named.next()?;
    number(constants, value)
}

/// A row of the table: its file, its constant, and the number in it.
fn rows() -> Vec<(String, String, u64)> {
    let text = fs::read_to_string(format!("{ROOT}/{TABLE}")).unwrap();
    let mut rows = Vec::new();
    for line in text
        .lines()
        .filter(|line| line.starts_with("| ") && line.contains("](../../"))
    {
        let cells: Vec<_> = line.trim_matches('|').split(" | ").map(str::trim).collect();
        let [_, limit, _, constant] = cells.as_slice() else {
            panic!("{line}");
        };
        let digits: String = limit
            .chars()
            .take_while(|c| c.is_ascii_digit() || *c == ',')
            .filter(|c| *c != ',')
            .collect();
        let (name, file) = constant
            .trim_end_matches([')', '|', ' '])
            .split_once("](../../")
            .unwrap();
        let name = name.trim_start_matches(['[', '`']).trim_end_matches('`');
        rows.push((
            file.to_owned(),
            name.to_owned(),
            digits.parse().unwrap_or_else(|_| panic!("{line}")),
        ));
    }
    rows
}

#[test]
fn the_table_of_limits_has_every_limit_of_the_code_with_its_number() {
    let constants = constants();
    let rows = rows();
    let mut listed = BTreeSet::new();
    for (file, name, limit) in rows {
        let key = (file, name);
        let value = constants
            .get(&key)
            .unwrap_or_else(|| panic!("no constant {key:?}"));
        assert_eq!(number(&constants, value), Some(limit), "{key:?} is {value}");
        listed.insert(key);
    }
    for (file, name) in OTHERS {
        let key = ((*file).to_owned(), (*name).to_owned());
        assert!(constants.contains_key(&key), "there is no {key:?} any more");
        assert!(listed.insert(key), "{file} {name}: a limit or none");
    }
    let is_limit = |name: &str| name.starts_with("MAX") || name.starts_with("MOST");
    let missing: Vec<_> = constants
        .keys()
        .filter(|key| is_limit(&key.1) && !listed.contains(*key))
        .collect();
    assert!(missing.is_empty(), "not in {TABLE}: {missing:#?}");
}

/// A communication with so many bytes as it goes on the queue.
fn as_large_on_the_queue(bytes: usize) -> Value {
    let with = |html: usize| {
        json!({
            "idempotencyKey": "key", "title": "t", "html": "h".repeat(html), "channels": ["email"],
            "recipients": [{"email": "recipient@example.com"}], "metadata": {"clinicId": "clinic-123"},
            "attachments": [{"filename": "a", "contentType": "text/plain",
                "content": BASE64_STANDARD.encode(vec![0; 500_000])}],
        })
    };
    let smallest = Submission::parse(with(1).to_string().as_bytes()).unwrap();
    with(1 + bytes - smallest.to_json().unwrap().len())
}

/// SQS counts the attributes of a message too (Amazon SQS, message quotas). Were they forgotten, it would refuse what
/// was accepted here; 256 bytes are kept for them.
#[tokio::test]
async fn largest_queueable_communication_is_queued_and_a_byte_more_refused() {
    const MOST: usize = 1_048_576 - 256;
    let world = World::saved().await;
    world.post(&as_large_on_the_queue(MOST)).await.expect(202);
    let batch = world.run_worker().await;
    assert!(batch.failed.is_empty(), "{batch:?}");

    let answer = world
        .post(&as_large_on_the_queue(MOST + 1))
        .await
        .expect(413);
    assert!(
        answer.body["detail"]
            .as_str()
            .unwrap()
            .contains(&MOST.to_string()),
        "{}",
        answer.text
    );
}
