//! Every limit of a settings document: at it all is well, one above it is refused at its place, in words that name it.
//! And that what is within all of them fits into an item of DynamoDB's, or is refused before it is sent.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test that cannot go on has failed"
)]

#[path = "../../core/tests/common/at_limits.rs"]
mod at_limits;

use comms_adapters::{smtp::MAX_CONNECTIONS, twilio::MAX_TEMPLATES};
use comms_core::{Problems, Tenant, host::MAX_HOST};
use comms_settings::{
    Author, CommunicationSettings, SettingsStore, StoreError,
    document::{MAX_FALLBACKS, MAX_RETRY_ATTEMPTS},
};
use comms_testkit::{
    aws::LocalAws,
    clock::ManualClock,
    dynamodb::{MAX_ITEM_BYTES, item_bytes},
};
use serde_json::{Map, Value, json};

use self::at_limits::Limit;

const PEM: &str = "-----BEGIN CERTIFICATE-----";
const SMTP: &str = "/email/primary/credentials";
const TWILIO: &str = "/whatsapp/primary/credentials";

fn tenant() -> Tenant {
    Tenant::parse("clinic-1").unwrap()
}

fn example() -> Value {
    json!({
        "email": {
            "primary": {"provider": "smtp", "credentials": {"host": "smtp.clinic.example", "port": 587,
                "secure": false, "user": "u", "password": "planted-password"}},
            "defaultFrom": "desk@clinic.example"
        },
        "whatsapp": {
            "primary": {"provider": "twilio", "credentials": {"accountSid": "AC0123456789abcdef0123456789abcdef",
                "authToken": "planted-token", "fromNumber": "+14155238886"}}
        }
    })
}

/// The example with `value` at the field `name` of what stands at `place`.
fn with(place: &str, name: &str, value: Value) -> Value {
    let mut document = example();
    document.pointer_mut(place).unwrap()[name] = value;
    document
}

/// With an entry of SES in the place of the primary.
fn ses(fields: &Value) -> Value {
    let mut document = example();
    document["email"]["primary"] = json!({"provider": "aws_ses", "credentials": fields});
    document
}

/// A host name of so many characters.
fn host(length: usize) -> String {
    let labels = "abcdefghi.".repeat(length / 10 + 1);
    format!("{}x", &labels[..length - 1])
}

const LIMITS: [Limit; 15] = [
    ("/email/fallback", MAX_FALLBACKS, |n| {
        let entries = (0..n).map(|_| example()["email"]["primary"].clone());
        with("/email", "fallback", entries.collect())
    }),
    (
        "/email/fallbackStrategy/retryAttempts",
        MAX_RETRY_ATTEMPTS as usize,
        |n| with("/email", "fallbackStrategy", json!({"retryAttempts": n})),
    ),
    ("/email/defaultFromName", 128, |n| {
        with("/email", "defaultFromName", json!("ä".repeat(n)))
    }),
    ("/email/primary/id", 32, |n| {
        with("/email/primary", "id", json!("e".repeat(n)))
    }),
    ("/email/primary/credentials/host", MAX_HOST, |n| {
        with(SMTP, "host", json!(host(n)))
    }),
    ("/email/primary/credentials/ehloName", MAX_HOST, |n| {
        with(SMTP, "ehloName", json!(host(n)))
    }),
    ("/email/primary/credentials/user", 320, |n| {
        with(SMTP, "user", json!("ä".repeat(n)))
    }),
    ("/email/primary/credentials/password", 1_024, |n| {
        with(SMTP, "password", json!("ä".repeat(n)))
    }),
    ("/email/primary/credentials/caPem", 32_768, |n| {
        with(
            SMTP,
            "caPem",
            json!(format!("{PEM}{}", "x".repeat(n - PEM.len()))),
        )
    }),
    (
        "/email/primary/credentials/maxConnections",
        MAX_CONNECTIONS as usize,
        |n| with(SMTP, "maxConnections", json!(n)),
    ),
    ("/email/primary/credentials/configurationSet", 64, |n| {
        ses(
            &json!({"region": "eu-central-1", "tenantName": "clinic-1", "configurationSet": "s".repeat(n)}),
        )
    }),
    ("/email/primary/credentials/externalId", 256, |n| {
        let id = format!("clinic-1:{}", "x".repeat(n - 9));
        ses(
            &json!({"region": "eu-central-1", "roleArn": "arn:aws:iam::123456789012:role/r", "externalId": id}),
        )
    }),
    ("/email/primary/credentials/roleArn", 512, |n| {
        let arn = format!("arn:aws:iam::123456789012:role/{}", "r".repeat(n));
        ses(&json!({"region": "eu-central-1", "roleArn": arn, "externalId": "clinic-1"}))
    }),
    ("/whatsapp/primary/credentials/statusCallback", 2_048, |n| {
        with(
            TWILIO,
            "statusCallback",
            json!(format!("https://clinic.example/{}", "x".repeat(n - 23))),
        )
    }),
    (
        "/whatsapp/primary/credentials/templates",
        MAX_TEMPLATES,
        |n| with(TWILIO, "templates", templates(n, 20)),
    ),
];

/// So many templates under names of so many characters.
fn templates(count: usize, length: usize) -> Value {
    let names = (0..count).map(|n| format!("{n:x<length$}"));
    let templates = names.map(|name| (name, json!("HX0123456789abcdef0123456789abcdef")));
    templates.collect::<Map<_, _>>().into()
}

fn read(document: Value) -> Result<CommunicationSettings, Problems> {
    let mut problems = Problems::default();
    let settings = CommunicationSettings::read(document, "", &tenant(), None, &mut problems);
    problems.or(settings)
}

#[test]
fn at_a_limit_all_is_well_and_above_it_the_field_is_refused_with_the_limit() {
    at_limits::check(&LIMITS, |document| read(document.clone()));
}

#[test]
fn the_name_of_a_template_is_bounded_in_bytes() {
    let named = |name: String| {
        with(
            TWILIO,
            "templates",
            json!({name: "HX0123456789abcdef0123456789abcdef"}),
        )
    };
    assert!(read(named("ä".repeat(64))).is_ok());
    let problems = read(named("ä".repeat(65))).unwrap_err().to_string();
    assert!(problems.contains("a name of 1 to 128 bytes"), "{problems}");
}

/// Settings with chains of the longest entries; the last of them has a certificate of `bytes`.
fn largest(bytes: usize) -> CommunicationSettings {
    let entry = |n: usize, pem: usize| {
        // Characters of three bytes.
        let pem = format!("{PEM}{}{}", "€".repeat(pem / 3), "x".repeat(pem % 3));
        json!({"id": format!("entry-{n}"), "provider": "smtp", "credentials": {"host": host(MAX_HOST), "port": 587,
            "secure": false, "user": "u".repeat(320), "password": "p".repeat(1_024), "caPem": pem}})
    };
    let mut document = example();
    document["email"]["primary"] = entry(0, 90_000);
    document["email"]["fallback"] = json!([entry(1, 90_000), entry(2, 60_000), entry(3, bytes)]);
    document["email"]["defaultFromName"] = json!("ä".repeat(128));
    document["whatsapp"]["primary"]["credentials"]["templates"] = templates(MAX_TEMPLATES, 128);
    let twilio = document["whatsapp"]["primary"].clone();
    let fallbacks = (0..MAX_FALLBACKS).map(|n| {
        let mut entry = twilio.clone();
        entry["id"] = json!(format!("fallback-of-{n}"));
        entry
    });
    document["whatsapp"]["fallback"] = fallbacks.collect();
    read(document).unwrap()
}

#[tokio::test]
async fn the_largest_settings_fit_into_an_item_and_larger_ones_are_refused_before_they_are_sent() {
    let aws = LocalAws::start().await;
    let resources = aws.resources();
    let store = SettingsStore::new(
        &aws.sdk_config(),
        &resources.settings_table,
        &resources.kms_key_id,
    );
    let author = Author {
        subject: "ä".repeat(128),
        source_address: Some("2001:db8:ffff:ffff:ffff:ffff:255.255.255.255".to_owned()),
    };
    let tenant = Tenant::parse(&"c".repeat(64)).unwrap();
    let clock = ManualClock::new();
    let mut bytes = 98_000;
    // The first version has the names of all fields in it.
    let saved = loop {
        let settings = largest(bytes);
        match store.save(&tenant, &settings, None, &author, &clock).await {
            Ok(version) => break version,
            Err(StoreError::TooLarge) => {
                assert_eq!(store.present_number(&tenant).await, Ok(None));
                bytes -= 2_000;
            }
            Err(other) => panic!("{bytes}: {other}"),
        }
    };
    assert!(
        saved.number == 1 && bytes < 98_000,
        "the largest of all is too large"
    );
    let items = aws_sdk_dynamodb::Client::new(&aws.sdk_config());
    let scanned = items
        .scan()
        .table_name(&resources.settings_table)
        .send()
        .await
        .unwrap();
    let largest_item = scanned.items().iter().map(item_bytes).max().unwrap();
    assert!(
        (375_000..=MAX_ITEM_BYTES).contains(&largest_item),
        "{largest_item}"
    );
}

#[tokio::test]
async fn a_page_of_versions_ends_where_it_would_become_too_large_and_leads_to_the_next() {
    const SAVES: u64 = 40;
    let aws = LocalAws::start().await;
    let resources = aws.resources();
    let store = SettingsStore::new(
        &aws.sdk_config(),
        &resources.settings_table,
        &resources.kms_key_id,
    );
    let author = Author {
        subject: "user-1".to_owned(),
        source_address: None,
    };
    let (tenant, clock) = (tenant(), ManualClock::new());
    // In a pointer each of these characters is two (RFC 6901 section 3).
    let names = (0..MAX_TEMPLATES).map(|n| format!("{n:/<128}"));
    let sids = names.map(|name| (name, json!("HX0123456789abcdef0123456789abcdef")));
    let templates = sids.collect::<Map<_, _>>().into();
    let settings = read(with(TWILIO, "templates", templates)).unwrap();
    for _ in 0..SAVES {
        // As if the stored ones could not be read: all fields have changed.
        let present = store.present_number(&tenant).await.unwrap();
        let version = match present {
            None => store.save(&tenant, &settings, None, &author, &clock).await,
            Some(number) => {
                store
                    .delete(&tenant, number, &serde_json::json!({}), &author, &clock)
                    .await
                    .unwrap();
                let present = store.load_present(&tenant).await.unwrap();
                store
                    .save(&tenant, &settings, present.basis(), &author, &clock)
                    .await
            }
        };
        version.unwrap();
    }
    let (mut before, mut numbers, mut pages) = (None, Vec::new(), 0);
    loop {
        let page = store.versions(&tenant, before, 100, &clock).await.unwrap();
        let bytes: usize = page
            .versions
            .iter()
            .flat_map(|version| &version.changed)
            .map(String::len)
            .sum();
        assert!((1..=1_000_000).contains(&bytes), "{bytes}");
        numbers.extend(page.versions.iter().map(|version| version.number));
        pages += 1;
        before = page.next;
        if before.is_none() {
            break;
        }
    }
    assert!(pages > 1, "{pages}");
    assert_eq!(numbers, (1..2 * SAVES).rev().collect::<Vec<_>>());
}
