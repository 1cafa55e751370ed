use aws_sdk_dynamodb::types::AttributeValue;
use comms_aws::{Item, item::number_value};

use super::{wait::MAX_WAIT_DURATION, windows::Window, *};

fn exhausted(period: Period) -> (Exhausted, Timestamp) {
    let now = Timestamp::constant(1_767_225_600, 0);
    let exhausted = Exhausted {
        period,
        limit: 10,
        until: now + Duration::from_secs(period.seconds().unsigned_abs()),
    };
    (exhausted, now)
}

#[test]
fn who_is_refused_waits_until_the_window_ends_and_is_spread_wider_each_time() {
    for (period, until, spreads) in [
        (Period::Second, 1, [1, 2, 4, 1_800]),
        (Period::Minute, 60, [60, 120, 240, 1_800]),
        (Period::Hour, 3_600, [900, 1_800, 3_600, 14_400]),
    ] {
        let (exhausted, now) = exhausted(period);
        for (receives, spread) in [1, 2, 3, 60].into_iter().zip(spreads) {
            let wait = |jitter| wait_for(&exhausted, receives, now, jitter).as_secs();
            assert_eq!(wait(0.0), until, "{period} {receives}");
            assert_eq!(wait(1.0), until + spread, "{period} {receives}");
        }
    }
}

#[test]
fn nobody_waits_longer_than_the_queue_can_hold_a_message_nor_forever() {
    let (exhausted, now) = exhausted(Period::Day);
    assert_eq!(wait_for(&exhausted, 1, now, 0.0), MAX_WAIT_DURATION);
    let queue = include_str!("../../../../template.yaml");
    assert!(queue.contains("MessageRetentionPeriod: 604800"));
    assert!(
        MAX_QUEUE_DURATION + SignedDuration::from_hours(12) < SignedDuration::from_secs(604_800)
    );
    assert!(queue.contains("maxReceiveCount: 100"));
    const { assert!(MAX_RECEIVES < 100) };
}

#[test]
fn an_item_that_cannot_be_read_is_no_empty_one() {
    let mut item = Item::from([("minuteWindow".to_owned(), number_value(1))]);
    assert_eq!(windows(&item), Err(TableError::Corrupt("minuteUsed")));
    item.insert("minuteUsed".to_owned(), AttributeValue::S("x".to_owned()));
    assert_eq!(windows(&item), Err(TableError::Corrupt("minuteUsed")));
    item.insert("minuteUsed".to_owned(), number_value(2));
    let window = Window { number: 1, used: 2 };
    assert_eq!(
        windows(&item),
        Ok(Windows::from([(Period::Minute, window)]))
    );
}
