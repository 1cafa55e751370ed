//! What the ledger stores fits into an item of DynamoDB's, however much a request has of everything.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test that cannot go on has failed"
)]

use std::time::Duration;

use comms_adapters::registry;
use comms_core::{
    AddressMask, Attempt, AttemptOutcome, Clock, CopyField, DeliveryId, DeliveryStatus,
    Disposition, EmailAddress, EntryId, ErrorKind, FailureReason, HashKey, IdempotencyKey, Mailbox,
    PhoneNumber, Position, ProviderCode, ProviderKind, RefusedCopy, RequestId, SubjectHash, Tenant,
    WaitReason, Waiting,
    delivery::MAX_ATTEMPTS,
    request::{MAX_COPIES, MAX_RECIPIENTS, PlannedDelivery, Target},
};
use comms_delivery::{
    Ledger,
    ledger::{Acceptance, Origin, Outcome, Owner, RequestDetails, RequestRecord, Via},
};
use comms_testkit::{
    aws::LocalAws,
    clock::ManualClock,
    dynamodb::{MAX_ITEM_BYTES, item_bytes},
};

/// The longest of the texts that `shown` makes of `all`.
fn longest<T: Copy>(all: &[T], shown: impl Fn(T) -> usize) -> T {
    *all.iter().max_by_key(|item| shown(**item)).unwrap()
}

/// An attempt of which every text is as long as it may be.
fn long_attempt(outcome: AttemptOutcome) -> Attempt {
    Attempt {
        provider: registry::kinds()
            .max_by_key(|kind| kind.as_str().len())
            .unwrap(),
        entry: EntryId::parse(&"e".repeat(32)).unwrap(),
        position: Position::GlobalFallback(u8::MAX),
        outcome,
        at: None,
        duration: Duration::from_millis(u64::MAX),
        possible_duplicate: true,
        reply_to_dropped: false,
    }
}

fn failed() -> Attempt {
    long_attempt(AttemptOutcome::Failed {
        disposition: longest(&Disposition::ALL, |disposition| disposition.as_str().len()),
        kind: longest(&ErrorKind::ALL, |kind| {
            kind.as_str().len() + kind.detail().len()
        }),
        code: code(),
    })
}

fn accepted() -> Attempt {
    let refused = (0..MAX_COPIES).map(|index| RefusedCopy {
        field: CopyField::Bcc,
        index: u8::try_from(index).unwrap(),
        code: code(),
        is_unknown: false,
    });
    long_attempt(AttemptOutcome::Accepted {
        refused_copies: refused.collect(),
    })
}

fn code() -> Option<ProviderCode> {
    ProviderCode::parse(&"c".repeat(64))
}

/// A mailbox whose masked form is as long as it may be.
fn mailbox(n: usize) -> Mailbox {
    let domain = [
        "b".repeat(63),
        "c".repeat(63),
        "d".repeat(63),
        "e".repeat(52),
    ]
    .join(".");
    let address = EmailAddress::parse(&format!(
        "{}@{domain}",
        char::from(b'a' + u8::try_from(n % 26).unwrap())
    ));
    Mailbox {
        address: address.unwrap(),
        name: None,
    }
}

struct World {
    aws: LocalAws,
    ledger: Ledger,
    clock: ManualClock,
    record: RequestRecord,
}

impl World {
    async fn new() -> Self {
        let aws = LocalAws::start().await;
        let ledger = Ledger::new(&aws.sdk_config(), &aws.resources().deliveries_table);
        let tenant = Tenant::parse(&"c".repeat(64)).unwrap();
        let key = IdempotencyKey::parse("key").unwrap();
        let id = RequestId::derive(&HashKey::from_bytes(&[1; 32]), &tenant, &key);
        let record = RequestRecord {
            id,
            tenant,
            payload_hash: "f".repeat(32),
            details: RequestDetails::default(),
        };
        Self {
            aws,
            ledger,
            clock: ManualClock::new(),
            record,
        }
    }

    /// Bytes of the largest item.
    async fn largest_item(&self) -> usize {
        let table = &self.aws.resources().deliveries_table;
        let items = aws_sdk_dynamodb::Client::new(&self.aws.sdk_config());
        let scanned = items.scan().table_name(table).send().await.unwrap();
        scanned.items().iter().map(item_bytes).max().unwrap()
    }
}

#[tokio::test]
async fn the_acceptance_of_the_most_recipients_on_every_channel_fits_into_an_item() {
    let world = World::new().await;
    let delivery = |n: usize| DeliveryId::parse(&format!("{n:032x}")).unwrap();
    let planned: Vec<_> = (0..MAX_RECIPIENTS)
        .flat_map(|n| {
            [
                Target::Email(mailbox(n)),
                Target::Whatsapp(PhoneNumber::parse("+15550100").unwrap()),
            ]
            .map(|target| {
                let channel = target.channel();
                PlannedDelivery::new(delivery(n), channel, Some(target), AddressMask::Domain)
            })
        })
        .collect();
    let origin = Origin {
        via: Via::Queue,
        by: SubjectHash::of(&HashKey::from_bytes(&[1; 32]), "subject"),
    };
    let accepted = world
        .ledger
        .accept(&world.record, &planned, &origin, None, world.clock.now())
        .await;
    assert_eq!(accepted, Ok(Acceptance::New));
    let largest = world.largest_item().await;
    assert!(largest <= MAX_ITEM_BYTES, "{largest}");
    let read = world
        .ledger
        .read(&world.record.id, world.clock.now())
        .await
        .unwrap()
        .unwrap();
    assert_eq!(read.deliveries.len(), planned.len());
}

#[tokio::test]
async fn a_delivery_with_the_most_and_longest_attempts_fits_into_an_item() {
    let world = World::new().await;
    let mut attempts = vec![failed(); MAX_ATTEMPTS];
    Attempt::remember(&mut attempts, vec![accepted(); 2]);
    assert_eq!(attempts.len(), MAX_ATTEMPTS);

    let target = Target::Email(mailbox(0));
    let id = DeliveryId::parse(&"f".repeat(32)).unwrap();
    let channel = target.channel();
    let planned = PlannedDelivery::new(id, channel, Some(target), AddressMask::Domain);
    let now = world.clock.now();
    let owner = Owner {
        token: "t".repeat(36),
        lease_until: now + Duration::from_secs(30),
    };
    let ledger = &world.ledger;
    ledger
        .claim(&world.record, &planned, &"a".repeat(32), &owner, now)
        .await
        .unwrap();
    let outcome = Outcome {
        receipt: Some((ProviderKind::new("meta_business"), "m".repeat(256))),
        reason: Some(FailureReason::AllProvidersFailed),
        possible_duplicate: true,
        attempts: attempts.clone(),
        not_before: Some(now),
        waiting: Some(Waiting {
            reason: WaitReason::Provider {
                kind: ErrorKind::AccountSuspended,
                entry: EntryId::parse(&"e".repeat(32)).unwrap(),
                position: Some(Position::GlobalFallback(4)),
                until: now,
            },
            since: now,
        }),
        ..Outcome::new(DeliveryStatus::Sent)
    };
    ledger
        .finish(&world.record.id, &planned.id, &owner, &outcome, now)
        .await
        .unwrap();
    let largest = world.largest_item().await;
    assert!(largest <= MAX_ITEM_BYTES, "{largest}");
    let read = ledger.read(&world.record.id, now).await.unwrap().unwrap();
    assert_eq!(read.deliveries[0].attempts, attempts);
}
