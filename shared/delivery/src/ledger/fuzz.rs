//! Fuzz targets of ledger items.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "what is not as it should be is the target's failure"
)]

use comms_aws::{
    Item, TableError,
    item::{find_text, text_value},
};
use comms_core::{DeliveryStatus, RequestId, Tenant};
use comms_testkit::dynamodb;
use jiff::Timestamp;

use super::{
    Claim, DeliveryHistory, Owner, RequestDetails, RequestRecord,
    claim::{claim_refused, owned},
    items::{attempts, delivery, is_given_up, planned_deliveries},
};
use crate::{health, usage::Counts};

const NOW: Timestamp = Timestamp::constant(1_700_000_000, 0);

/// An item is read as what it says, or is an error: never another state, never without what it has.
pub(crate) fn items(input: &[u8]) {
    let Some(item) = serde_json::from_slice(input)
        .ok()
        .as_ref()
        .and_then(dynamodb::item)
    else {
        return;
    };
    if let Ok(planned) = planned_deliveries(&item) {
        assert!(
            planned
                .iter()
                .all(|delivery| delivery.status == DeliveryStatus::Queued)
        );
    }
    let _ = is_given_up(&item, NOW);
    for value in item.values() {
        let _ = health::record(value);
    }
    assert!(matches!(
        Counts::of_item(&item),
        Ok(_) | Err(TableError::Corrupt("usage"))
    ));
    let has = |name: &str| item.contains_key(name);
    match delivery(&item) {
        Ok(read) => {
            assert_eq!(
                find_text(&item, "status").map(String::as_str),
                Some(read.status.as_str())
            );
            assert_eq!(
                find_text(&item, "channel").map(String::as_str),
                Some(read.channel.as_str())
            );
            assert_eq!(read.provider.is_some(), has("provider"));
            assert_eq!(read.message_id.is_some(), has("messageId"));
            assert_eq!(read.reason.is_some(), has("reason"));
            let flag = item
                .get("possibleDuplicate")
                .map(|value| *value.as_bool().unwrap());
            assert_eq!(read.possible_duplicate, flag.unwrap_or_default());
            let written: Vec<_> = match find_text(&item, "attempts") {
                Some(text) => serde_json::from_str::<Vec<serde_json::Value>>(text).unwrap(),
                None => Vec::new(),
            };
            assert_eq!(read.attempts.len(), written.len());
            let again = serde_json::to_string(&read.attempts).unwrap();
            let text = ("attempts".to_owned(), text_value(&again));
            assert_eq!(attempts(&Item::from([text])), Ok(read.attempts));
        }
        Err(TableError::Corrupt(_)) => {}
        Err(other) => panic!("{other:?}"),
    }
    claims(&item);
}

/// A delivery is ours to send only where the item says that it is queued or ours; it has ended only where it says so.
fn claims(item: &Item) {
    let request = RequestRecord {
        id: RequestId::parse("0123456789abcdef0123456789abcdef").unwrap(),
        tenant: Tenant::Global,
        payload_hash: "hash".to_owned(),
        details: RequestDetails::default(),
    };
    let owner = Owner {
        token: "ours".to_owned(),
        lease_until: NOW,
    };
    let status = find_text(item, "status").map(String::as_str);
    let is_ours = find_text(item, "owner").map(String::as_str) == Some("ours");
    match claim_refused(item, &request, &owner, NOW) {
        Ok(Claim::Owned(_)) => assert!(status == Some("sending") && is_ours),
        Ok(Claim::Abandoned { .. }) => assert!(status == Some("sending") && !is_ours),
        Ok(Claim::Ended(ended)) => {
            assert_eq!(status, Some(ended.status.as_str()));
            assert!(!["queued", "sending"].contains(&ended.status.as_str()));
        }
        Ok(Claim::Busy { until }) => assert!(status == Some("sending") && !is_ours && until > NOW),
        Ok(Claim::NotYet { .. }) => assert_eq!(status, Some("queued")),
        Ok(Claim::OtherPayload) => {
            assert!(
                find_text(item, "payloadHash").is_some_and(|hash| *hash != request.payload_hash)
            );
        }
        Err(error) => assert!(matches!(error, TableError::Corrupt(_)), "{error:?}"),
    }
    if let Ok(Claim::Owned(history)) = owned(item) {
        let DeliveryHistory {
            attempts,
            possible_duplicate,
            deferrals,
            takeovers,
            waiting,
            last_attempt,
        } = history;
        assert!(last_attempt.is_none() || item.contains_key("attemptBy"));
        assert_eq!(waiting.is_some(), item.contains_key("waiting"));
        let no_attempts = find_text(item, "attempts").is_none_or(|text| text.trim() == "[]");
        assert_eq!(attempts.is_empty(), no_attempts, "{item:?}");
        let flag = item.get("possibleDuplicate");
        assert_eq!(
            possible_duplicate,
            flag.is_some_and(|flag| flag.as_bool() == Ok(&true))
        );
        for (count, name) in [(deferrals, "deferrals"), (takeovers, "takeovers")] {
            let counted = item
                .get(name)
                .map(|value| value.as_n().unwrap().parse::<u32>().unwrap());
            assert_eq!(count, counted.unwrap_or_default());
        }
    }
}

#[cfg(test)]
mod tests {
    use comms_aws::item::{number_value, text};

    use super::*;

    /// Were it passed over, a delivery of unknown outcome could be sent again, or its attempts be forgotten.
    #[test]
    fn an_attribute_of_another_kind_is_an_error_and_not_an_absent_one() {
        let seeds = comms_testkit::fuzz::seeds("ledger_items");
        let seeds = seeds
            .iter()
            .map(|seed| serde_json::from_slice(seed).unwrap());
        let mut items = seeds.filter_map(|seed: serde_json::Value| dynamodb::item(&seed));
        let sent = items.find(|item| item.contains_key("messageId")).unwrap();
        assert!(delivery(&sent).is_ok());
        let read = [
            "sk",
            "status",
            "channel",
            "recipient",
            "attempts",
            "possibleDuplicate",
            "provider",
            "messageId",
        ];
        for name in read {
            let mut item = sent.clone();
            item.insert(name.to_owned(), number_value(1));
            assert_eq!(delivery(&item), Err(TableError::Corrupt(name)));
        }
        for name in ["attempts", "possibleDuplicate", "deferrals", "takeovers"] {
            let mut item = sent.clone();
            item.insert(name.to_owned(), text("", "x").1);
            assert_eq!(owned(&item), Err(TableError::Corrupt(name)));
        }
    }
}
