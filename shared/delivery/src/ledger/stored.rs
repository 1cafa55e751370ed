//! Tests of what stands in stored items, which every later release has to read.

use jiff::Timestamp;

use super::{Via, attributes::time_to_live};

#[test]
fn the_ways_of_requests_are_read_by_their_stored_names() {
    for (via, name) in [(Via::Api, "api"), (Via::Queue, "queue")] {
        assert_eq!(via.as_str(), name);
        assert_eq!(Via::parse(name), Some(via));
    }
    for unknown in ["", "API", "sqs"] {
        assert_eq!(Via::parse(unknown), None, "{unknown}");
    }
}

/// DynamoDB counts the time to live in seconds since 1970: an item with less would be gone at once.
#[test]
fn an_item_expires_thirty_days_after_its_write() {
    let now = Timestamp::from_second(1_800_000_000).unwrap();
    assert_eq!(time_to_live(now), 1_800_000_000 + 30 * 24 * 3_600);
}
