use std::collections::HashMap;

use comms_adapters::registry;
use comms_aws::{TableError, item::number_value};
use comms_core::{
    Attempt, AttemptOutcome, DeliveryId, EntryId, FailureReason, GlobalCause, Position,
    ProviderKind,
};
use comms_testkit::aws::{Fault, LocalAws, Moment};

use super::{
    pending::{MAX_WAITING, WRITTEN_AT_ONCE},
    *,
};

const NOON: Timestamp = Timestamp::constant(1_767_268_800, 0);

fn delivery(status: DeliveryStatus) -> Delivery {
    let id = DeliveryId::parse(&"0".repeat(32)).unwrap();
    let mut delivery = Delivery::queued(id, Channel::Email, "p***@example.com".to_owned());
    delivery.status = status;
    delivery
}

fn sent_at(position: Position) -> Delivery {
    let mut delivery = delivery(DeliveryStatus::Sent);
    delivery.provider = Some(ProviderKind::new("smtp"));
    delivery.attempts = vec![Attempt {
        provider: ProviderKind::new("smtp"),
        entry: EntryId::primary(),
        position,
        outcome: AttemptOutcome::Accepted {
            refused_copies: Vec::new(),
        },
        at: None,
        duration: Duration::from_millis(1),
        possible_duplicate: false,
        reply_to_dropped: false,
    }];
    delivery
}

fn counted(delivery: &Delivery, by_fallback: bool) -> Vec<String> {
    let mut counts = Counts::default();
    counts.count_ended(delivery, by_fallback, None);
    let names = counts.0.into_iter().map(|((channel, counter), count)| {
        assert_eq!((channel, count), (Channel::Email, 1));
        counter.to_string()
    });
    names.collect()
}

#[test]
fn every_end_is_counted_once_and_of_what_was_sent_it_is_counted_how() {
    let own = sent_at(Position::Primary);
    assert_eq!(counted(&own, false), ["sent/smtp"]);
    let mut again = sent_at(Position::Global);
    again.possible_duplicate = true;
    let all = [
        "sent/smtp",
        "sentByFallback",
        "sentByGlobal",
        "possibleDuplicates",
    ];
    assert_eq!(counted(&again, true), all);
    for reason in FailureReason::ALL {
        let mut failed = delivery(DeliveryStatus::Failed);
        failed.reason = Some(reason);
        // Of what was not sent it does not matter how it would have been.
        failed.possible_duplicate = true;
        let name = format!("failed/{}", reason.as_str());
        assert_eq!(counted(&failed, false), [name]);
    }
    assert_eq!(
        counted(&delivery(DeliveryStatus::Unknown), false),
        ["unknown"]
    );
    assert_eq!(
        counted(&delivery(DeliveryStatus::Expired), false),
        ["expired"]
    );
    for status in [DeliveryStatus::Queued, DeliveryStatus::Sending] {
        assert!(counted(&delivery(status), false).is_empty());
    }
}

#[test]
fn names_read_back_and_what_is_not_known_is_none() {
    let mut all = vec![
        Counter::SentByFallback,
        Counter::SentByGlobal,
        Counter::PossibleDuplicates,
        Counter::Unknown,
        Counter::Expired,
        Counter::Deferrals,
    ];
    all.extend(registry::kinds().map(Counter::Sent));
    all.extend(FailureReason::ALL.map(Counter::Failed));
    all.extend(GlobalCause::ALL.map(Counter::SentByGlobalBecause));
    all.push(Counter::SentInCategory("appointment".to_owned()));
    for counter in all {
        assert_eq!(Counter::parse(&counter.to_string()), Some(counter));
    }
    for unknown in ["", "sent", "sent/", "sent/pigeon", "failed/smtp", "queued"] {
        assert_eq!(Counter::parse(unknown), None, "{unknown}");
    }
}

#[test]
fn an_item_is_read_without_what_a_later_version_counts_and_not_without_what_is_no_number() {
    let mut item = HashMap::from([
        ("pk".to_owned(), Attribute::S("usage#clinic-a".to_owned())),
        ("email/sent/smtp".to_owned(), number_value(7)),
        ("email/sent/pigeon".to_owned(), number_value(8)),
        ("fax/sent/smtp".to_owned(), number_value(9)),
    ]);
    let counts = Counts::of_item(&item).unwrap();
    assert_eq!(
        counts.get(Channel::Email, Counter::Sent(ProviderKind::new("smtp"))),
        7
    );
    assert_eq!(counts.0.len(), 1);
    item.insert("email/unknown".to_owned(), Attribute::S("7".to_owned()));
    assert_eq!(Counts::of_item(&item), Err(TableError::Corrupt("usage")));
}

#[test]
fn a_day_is_one_of_utc_and_forgotten_when_it_can_no_longer_be_asked_for() {
    let midnight = Timestamp::constant(1_767_225_600, 0);
    let day = day_of(midnight);
    assert_eq!(day.to_string(), "2026-01-01");
    assert_eq!(day_of(NOON), day);
    assert_eq!(
        day_of(Timestamp::constant(1_767_225_599, 999_999_999)).to_string(),
        "2025-12-31"
    );
    let kept = i64::from(RETENTION_DAYS) * 86_400;
    assert_eq!(expires_at(day), midnight.as_second() + kept);
}

#[test]
fn what_waits_is_bounded_and_what_was_tried_before_comes_last() {
    let tenant = |n: usize| Tenant::parse(&format!("clinic-{n}")).unwrap();
    let usage = Usage::new(&SdkConfig::builder().build(), "table");
    let sent = sent_at(Position::Primary);
    for n in 0..=MAX_WAITING {
        usage.count_ended(&tenant(n), &sent, false, None, NOON);
    }
    usage.count_ended(&tenant(0), &sent, false, None, NOON);
    let mut counted = usage.lock();
    assert_eq!((counted.days.len(), counted.dropped), (MAX_WAITING, 1));
    let tried = counted.next_days();
    assert_eq!(tried.len(), WRITTEN_AT_ONCE);
    for key in &tried {
        counted.next_write(key).unwrap();
    }
    let next = counted.next_days();
    assert!(next.iter().all(|key| !tried.contains(key)));
    assert!(
        counted
            .next_write(&(tenant(MAX_WAITING), day_of(NOON)))
            .is_none()
    );
}

#[tokio::test]
async fn a_lost_answer_counts_once_although_others_have_written_in_between() {
    let aws = LocalAws::start().await;
    let process = |place| Usage {
        place,
        ..Usage::new(&aws.sdk_config(), &aws.resources().deliveries_table)
    };
    let (tenant, sent) = (Tenant::Global, sent_at(Position::Global));
    let deadline = || Deadline::after(Duration::from_secs(30));
    let (first, other) = (process(1), process(2));
    for (process, is_answered) in [(&first, false), (&other, true), (&first, false)] {
        process.count_ended(&tenant, &sent, false, None, NOON);
        if !is_answered {
            // The effect of a write, and of its repetitions by the SDK, without an answer.
            aws.watch(|call| {
                let fault = (call.moment != Moment::Arrived).then_some(Fault::ServerError);
                Box::pin(async move { fault })
            });
        }
        process.write(deadline()).await;
        aws.watch(|_| Box::pin(async { None }));
    }
    other.count_ended(&tenant, &sent, false, None, NOON);
    other.write(deadline()).await;
    first.write(deadline()).await;
    let day = day_of(NOON);
    let days = first.read(&tenant, day, day).await.unwrap();
    let count = days[&day].get(Channel::Email, Counter::SentByGlobal);
    assert_eq!(count, 4);
}

#[test]
fn a_write_stays_the_same_until_it_is_confirmed_and_the_next_one_has_the_rest() {
    let (tenant, sent) = (Tenant::Global, sent_at(Position::Global));
    let (mut counted, key) = (PendingCounts::default(), (Tenant::Global, day_of(NOON)));
    let count = |counted: &mut PendingCounts| {
        counted.count(&tenant, day_of(NOON), |counts| {
            counts.count_ended(&sent, false, None);
        });
    };
    count(&mut counted);
    let first = counted.next_write(&key).unwrap();
    count(&mut counted);
    count(&mut counted);
    let again = counted.next_write(&key).unwrap();
    assert_eq!((again.token, &again.counts), (first.token, &first.counts));
    counted.confirm(&key, NewNames::default());
    let rest = counted.next_write(&key).unwrap();
    assert_ne!(rest.token, first.token);
    assert_eq!(rest.counts.get(Channel::Email, Counter::SentByGlobal), 2);
    counted.confirm(&key, NewNames::default());
    assert!(counted.next_write(&key).is_none());
    assert!(counted.days.is_empty(), "nothing is kept");
}
