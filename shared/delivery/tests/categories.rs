//! Categories that a caller makes up without end cost neither the day's other counts nor dear writes.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::time::Duration;

use comms_adapters::Deadline;
use comms_core::{Channel, Delivery, DeliveryId, DeliveryStatus, ProviderKind, Tenant};
use comms_delivery::{
    Usage,
    usage::{Counter, day_of},
};
use comms_testkit::{
    aws::LocalAws,
    dynamodb::{item, item_bytes},
};
use jiff::Timestamp;

const NOON: Timestamp = Timestamp::constant(1_767_268_800, 0);
/// Environments of the functions that live and end on one day, each of which delivers so many categories.
const PROCESSES: usize = 40;
const CATEGORIES: usize = 32;

fn delivery(status: DeliveryStatus) -> Delivery {
    let id = DeliveryId::parse(&"0".repeat(32)).unwrap();
    let mut delivery = Delivery::queued(id, Channel::Email, "p***@example.com".to_owned());
    delivery.status = status;
    delivery.provider = Some(ProviderKind::new("smtp"));
    delivery
}

fn deadline() -> Deadline {
    Deadline::after(Duration::from_secs(30))
}

#[tokio::test]
async fn endless_categories_keep_the_days_item_small_and_every_count() {
    let aws = LocalAws::start().await;
    let table = aws.resources().deliveries_table.clone();
    let (tenant, sent) = (
        Tenant::parse("clinic-1").unwrap(),
        delivery(DeliveryStatus::Sent),
    );
    for process in 0..PROCESSES {
        let usage = Usage::new(&aws.sdk_config(), &table);
        for n in 0..CATEGORIES {
            let category = format!("{:0>64}", process * CATEGORIES + n);
            usage.count_ended(&tenant, &sent, false, Some(&category), NOON);
            // The one that all have in common.
            usage.count_ended(&tenant, &sent, false, Some("appointment"), NOON);
        }
        usage.write(deadline()).await;
    }
    let items = aws.items(&table).await.unwrap();
    let bytes = item_bytes(&item(&items[0]).unwrap());
    assert!(bytes <= 8_192, "{bytes} bytes");
    let day = day_of(NOON);
    let usage = Usage::new(&aws.sdk_config(), &table);
    let counts = usage
        .read(&tenant, day, day)
        .await
        .unwrap()
        .remove(&day)
        .unwrap();
    let all = u64::try_from(2 * PROCESSES * CATEGORIES).unwrap();
    assert_eq!(
        counts.get(Channel::Email, Counter::Sent(ProviderKind::new("smtp"))),
        all
    );
    let by_category: Vec<_> = counts.by_category(Channel::Email).collect();
    assert_eq!(by_category.iter().map(|(_, count)| count).sum::<u64>(), all);
    let common = by_category.iter().find(|(name, _)| *name == "appointment");
    assert_eq!(common.unwrap().1, all / 2);
}

#[tokio::test]
async fn failed_delivery_takes_no_category_from_others() {
    let aws = LocalAws::start().await;
    let usage = Usage::new(&aws.sdk_config(), &aws.resources().deliveries_table);
    let tenant = Tenant::parse("clinic-1").unwrap();
    for n in 0..100 {
        let failed = delivery(DeliveryStatus::Failed);
        usage.count_ended(&tenant, &failed, false, Some(&format!("failed-{n}")), NOON);
    }
    let sent = delivery(DeliveryStatus::Sent);
    usage.count_ended(&tenant, &sent, false, Some("appointment"), NOON);
    usage.write(deadline()).await;
    let day = day_of(NOON);
    let counts = usage
        .read(&tenant, day, day)
        .await
        .unwrap()
        .remove(&day)
        .unwrap();
    assert_eq!(
        counts.by_category(Channel::Email).collect::<Vec<_>>(),
        [("appointment", 1)]
    );
}
