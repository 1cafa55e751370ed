//! Dead letters go back to their queues, or are deleted.

use std::{sync::Arc, time::Duration};

use aws_sdk_sqs::types::MessageSystemAttributeName;
use comms_core::{Clock as _, DeadLetterReason};
use comms_operator::{
    dead_letters::{Filter, Outcome, Report, Work, run},
    stop::Stop,
};
use comms_testkit::{aws::Fault, clock::ManualClock};
use serde_json::{Value, json};

use super::{carry_out, communication, outcomes, poison, queues::Queues, tenant};

#[tokio::test]
async fn redriven_dead_letter_keeps_its_body_attributes_and_id() {
    let queues = Queues::new().await;
    let resources = queues.aws.resources().clone();
    queues
        .dead_letter(&communication("clinic-b"), "panicked", "source-1")
        .await;
    let exhausted = queues.exhaust(&communication("clinic-a")).await;
    let report = carry_out(&queues.redrive()).await;
    assert!(report.is_complete(), "{report}");
    assert_eq!(outcomes(&report), [&Outcome::PutBack; 2]);
    assert_eq!(queues.dead().await, (0, 0));

    for (url, clinic, attributes) in [
        (
            &resources.urgent_queue_url,
            "clinic-b",
            json!({"acceptedAs": "0123456789abcdef0123456789abcdef",
                "payloadHash": "123456789abcdef0123456789abcdef0",
                "acceptanceMac": "23456789abcdef0123456789abcdef01", "sourceMessageId": "source-1"}),
        ),
        // What SQS moved has no attribute of the worker's: this one is its sender's.
        (
            &resources.queue_url,
            "clinic-a",
            json!({"reason": "the-senders-own", "sourceMessageId": exhausted}),
        ),
    ] {
        let back = queues.receive(url).await;
        let [message] = &back[..] else {
            panic!("{clinic}: {}", back.len());
        };
        assert_eq!(
            message.body(),
            Some(communication(clinic).to_string().as_str())
        );
        let group = &message.attributes().unwrap()[&MessageSystemAttributeName::MessageGroupId];
        assert_eq!(group, "group-1");
        let own = message.message_attributes().unwrap().iter();
        let own: serde_json::Map<_, _> = own
            .map(|(name, value)| (name.clone(), json!(value.string_value())))
            .collect();
        assert_eq!(Value::from(own), attributes, "{clinic}");
    }
}

#[tokio::test]
async fn only_chosen_dead_letters_are_redriven() {
    let queues = Queues::new().await;
    let a = queues
        .dead_letter(&communication("clinic-a"), "panicked", "source-1")
        .await;
    queues
        .dead_letter(&communication("clinic-b"), "panicked", "source-2")
        .await;
    queues
        .dead_letter(&poison("clinic-a"), "not_a_communication", "source-3")
        .await;
    for (filter, found) in [
        (
            Filter {
                tenants: vec![tenant("clinic-a")],
                ..Filter::default()
            },
            2,
        ),
        (
            Filter {
                reasons: vec![DeadLetterReason::Panicked],
                ..Filter::default()
            },
            2,
        ),
        (
            Filter {
                message_ids: vec![a.clone()],
                ..Filter::default()
            },
            1,
        ),
        (
            Filter {
                older_than: Some(Duration::from_hours(1)),
                ..Filter::default()
            },
            0,
        ),
    ] {
        let mut plan = queues.plan(Work::List);
        plan.filter = filter;
        assert_eq!(
            carry_out(&plan).await.letters.len(),
            found,
            "{:?}",
            plan.filter
        );
    }
    let mut plan = queues.redrive();
    plan.filter.tenants = vec![tenant("clinic-a")];
    plan.filter.reasons = vec![DeadLetterReason::Panicked];
    let report = carry_out(&plan).await;
    assert_eq!((report.seen, report.letters.len()), (3, 1));
    assert_eq!(report.letters[0].message_id, a);
    assert_eq!(queues.dead().await, (2, 0));
}

#[tokio::test]
async fn dead_letters_are_chosen_by_age() {
    let queues = Queues::new().await;
    queues
        .dead_letter(&communication("clinic-a"), "panicked", "source-1")
        .await;
    let clock = ManualClock::new();
    let now = jiff::Timestamp::now().duration_since(clock.now());
    clock.advance(Duration::try_from(now).unwrap() + Duration::from_hours(30));
    let mut plan = queues.plan(Work::List);
    plan.clock = Arc::new(clock);
    plan.filter.older_than = Some(Duration::from_hours(29));
    let report = carry_out(&plan).await;
    let told = report.to_string();
    assert!(told.contains("< 7 d") && told.contains("1 d"), "{told}");
}

#[tokio::test]
async fn dead_letter_is_deleted_only_after_its_queue_accepted_it() {
    let queues = Queues::new().await;
    queues
        .dead_letter(&communication("clinic-a"), "panicked", "source-1")
        .await;
    queues
        .aws
        .fail_next("sqs", "SendMessage", 1, Fault::AccessDenied);
    let plan = queues.redrive();
    let mut report = Report::default();
    let failed = run(&plan, &mut report, &Stop::default(), &mut |_, _| {}).await;
    assert_eq!(
        failed.unwrap_err().to_string(),
        "SQS SendMessage failed (AccessDenied)"
    );
    assert_eq!(queues.aws.count("sqs", "DeleteMessage"), 0);
    assert_eq!(queues.dead().await, (1, 0));

    // Taken, and not deleted: it is on both queues, and known by the same id on each.
    queues
        .aws
        .fail_next("sqs", "DeleteMessage", 1, Fault::AccessDenied);
    let report = carry_out(&plan).await;
    assert!(
        report
            .to_string()
            .contains("it was put back and is here still"),
        "{report}"
    );
    assert_eq!(queues.dead().await, (1, 0));
    carry_out(&plan).await;
    let twice = queues
        .receive(&queues.aws.resources().urgent_queue_url)
        .await;
    assert_eq!(twice.len(), 2);
    for message in twice {
        let attributes = message.message_attributes().unwrap();
        assert_eq!(
            attributes["sourceMessageId"].string_value(),
            Some("source-1")
        );
    }
}

#[tokio::test]
async fn message_that_fails_again_at_once_is_left() {
    let queues = Queues::new().await;
    for _ in 0..2 {
        queues
            .dead_letter(&poison("clinic-a"), "not_a_communication", "source-1")
            .await;
    }
    let report = carry_out(&queues.redrive()).await;
    assert_eq!(outcomes(&report), [&Outcome::PutBack, &Outcome::DeadAgain]);
    assert!(
        report.to_string().contains("1 left: put back already"),
        "{report}"
    );
    assert_eq!(queues.dead().await, (1, 0));
}

#[tokio::test]
async fn dead_letter_of_another_queue_is_left_and_reported() {
    let queues = Queues::new().await;
    queues
        .dead_letter(&communication("clinic-a"), "panicked", "source-1")
        .await;
    let mut sources = queues.sources();
    sources.urgent = sources.normal.clone();
    let report = carry_out(&queues.plan(Work::Redrive(sources))).await;
    assert!(
        report
            .to_string()
            .contains("neither --queue nor --urgent-queue"),
        "{report}"
    );
    assert_eq!(queues.dead().await, (1, 0));
}

#[tokio::test]
async fn dead_letter_without_a_source_goes_by_its_priority() {
    let queues = Queues::new().await;
    let resources = queues.aws.resources().clone();
    for (priority, url) in [
        ("critical", &resources.urgent_queue_url),
        ("high", &resources.urgent_queue_url),
        ("normal", &resources.queue_url),
        ("low", &resources.queue_url),
    ] {
        let mut body = communication("clinic-a");
        body["priority"] = json!(priority);
        queues.send(&resources.dlq_url, &body, &[]).await;
        carry_out(&queues.redrive()).await;
        assert_eq!(queues.receive(url).await.len(), 1, "{priority}");
    }
}

#[tokio::test]
async fn dead_letters_are_deleted_by_the_same_choice() {
    let queues = Queues::new().await;
    queues
        .dead_letter(&communication("clinic-a"), "panicked", "source-1")
        .await;
    queues
        .dead_letter(&communication("clinic-b"), "panicked", "source-2")
        .await;
    let mut plan = queues.plan(Work::Delete);
    plan.filter.tenants = vec![tenant("clinic-b")];
    let report = carry_out(&plan).await;
    assert_eq!(outcomes(&report), [&Outcome::Deleted]);
    assert!(report.is_complete(), "{report}");
    assert_eq!(queues.dead().await, (1, 0));
}
