//! Categories that callers make up without end: neither a day's item nor the statistics grow with them.

use std::collections::HashMap;

use aws_sdk_dynamodb::{Client, types::AttributeValue};
use comms_tests::{CLINIC, World, super_admin};
use jiff::{ToSpan, civil::date};

/// What Lambda lets a function answer is 6 MB (AWS Lambda quotas), escaped and with its headers.
const MAX_ANSWER: usize = 3_000_000;

#[tokio::test]
async fn statistics_of_endless_categories_fit_an_answer() {
    let world = World::saved().await;
    let client = Client::new(&world.aws.sdk_config());
    let first = date(2026, 1, 1);
    for day in 0..30 {
        let name = |n: usize| format!("email/category/{:0>64}", day * 10_000 + n);
        let mut item: HashMap<_, _> = (0..1_500)
            .map(|n| (name(n), AttributeValue::N((n + 1).to_string())))
            .collect();
        let text = |text: String| AttributeValue::S(text);
        item.insert("pk".to_owned(), text(format!("usage#{CLINIC}")));
        let date = first.saturating_add(i64::try_from(day).unwrap().days());
        item.insert("sk".to_owned(), text(date.to_string()));
        let put = client
            .put_item()
            .table_name(&world.aws.resources().deliveries_table);
        put.set_item(Some(item)).send().await.unwrap();
    }
    let path =
        format!("/api/v1/clinics/{CLINIC}/communication/stats?from=2026-01-01&to=2026-01-30");
    let stats = world.config("GET", &path, None, super_admin(), &[]).await;
    let stats = stats.expect(200);
    assert!(stats.text.len() < MAX_ANSWER, "{}", stats.text.len());
    for counts in [&stats.body["totals"], &stats.body["days"][0]["channels"]] {
        let categories = counts["email"]["sentByCategory"].as_object().unwrap();
        assert!(categories.contains_key("(other)"));
        assert!(categories.len() <= 101, "{}", categories.len());
    }
    let totals = stats.body["totals"]["email"]["sentByCategory"]
        .as_object()
        .unwrap();
    let sum: u64 = totals.values().map(|count| count.as_u64().unwrap()).sum();
    assert_eq!(sum, 30 * (1..=1_500).sum::<u64>());
}
