//! Dead letters are listed.

use comms_core::{DeadLetterReason, RequestId};
use comms_operator::{
    dead_letters::{Outcome, Report, Work, run},
    stop::Stop,
};
use comms_testkit::aws::Fault;
use serde_json::json;

use super::{carry_out, communication, of, outcomes, poison, queues::Queues, tenant};

#[tokio::test]
async fn dead_letters_are_listed_by_clinic_reason_and_age_without_content() {
    let queues = Queues::new().await;
    let exhausted = queues.exhaust(&communication("clinic-a")).await;
    let moved_poison = queues.exhaust(&poison("clinic-a")).await;
    let poisoned = queues
        .dead_letter(&poison("clinic-b"), "not_a_communication", "source-1")
        .await;
    for n in 0..2 {
        let source = format!("source-{n}");
        queues
            .dead_letter(&communication("clinic-b"), "panicked", &source)
            .await;
    }
    let report = carry_out(&queues.plan(Work::List)).await;
    assert_eq!((report.seen, report.counted), (5, Some(5)));
    let letter = of(&report, &exhausted);
    assert_eq!(letter.reason, DeadLetterReason::ReceivesExhausted);
    assert_eq!(letter.tenant, Some(tenant("clinic-a")));
    assert_eq!(letter.source_queue.as_deref(), Some("clinic-comms"));
    assert_eq!(letter.source_message_id, exhausted);
    assert_eq!(letter.accepted_as, None);
    let letter = of(&report, &moved_poison);
    assert_eq!(letter.reason, DeadLetterReason::NotACommunication);
    assert_eq!(letter.fields, ["/channels"]);
    let letter = of(&report, &poisoned);
    assert_eq!(letter.tenant, Some(tenant("clinic-b")));
    assert_eq!(letter.source_message_id, "source-1");
    // By which its clinic reads `queued` for as long as the ledger remembers it.
    let accepted_as = "0123456789abcdef0123456789abcdef";
    assert_eq!(letter.accepted_as, RequestId::parse(accepted_as).ok());

    let json = serde_json::to_value(&report).unwrap();
    let groups: Vec<_> = json["groups"]
        .as_array()
        .unwrap()
        .iter()
        .map(|group| {
            (
                group["clinicId"].as_str().unwrap(),
                group["reason"].as_str().unwrap(),
                &group["messages"],
            )
        })
        .collect();
    assert_eq!(
        groups,
        [
            ("clinic-a", "not_a_communication", &json!(1)),
            ("clinic-a", "receives_exhausted", &json!(1)),
            ("clinic-b", "not_a_communication", &json!(1)),
            ("clinic-b", "panicked", &json!(2)),
        ]
    );
    let printed = format!("{report} {json}");
    assert!(
        printed.contains("5 seen; SQS had counted about 5"),
        "{printed}"
    );
    assert!(!printed.contains("planted"), "{printed}");
}

#[tokio::test]
async fn listed_dead_letters_are_visible_at_once() {
    let queues = Queues::new().await;
    for n in 0..25 {
        let body = communication(&format!("clinic-{n}"));
        queues
            .dead_letter(&body, "panicked", &format!("source-{n}"))
            .await;
    }
    for _ in 0..2 {
        let report = carry_out(&queues.plan(Work::List)).await;
        assert_eq!((report.seen, report.hidden), (25, 0));
        assert_eq!(queues.dead().await, (25, 0));
    }
}

#[tokio::test]
async fn failed_or_stopped_listing_makes_its_messages_visible_again() {
    let queues = Queues::new().await;
    for n in 0..25 {
        let body = communication("clinic-a");
        queues
            .dead_letter(&body, "panicked", &format!("source-{n}"))
            .await;
    }
    let plan = queues.plan(Work::List);
    let mut report = Report::default();
    let failed = run(&plan, &mut report, &Stop::default(), &mut |done, _| {
        if done == 10 {
            queues
                .aws
                .fail_next("sqs", "ReceiveMessage", 1, Fault::AccessDenied);
        }
    })
    .await;
    assert_eq!(
        failed.unwrap_err().to_string(),
        "SQS ReceiveMessage failed (AccessDenied)"
    );
    assert_eq!((report.seen, queues.dead().await), (10, (25, 0)));

    let (stop, mut report) = (Stop::default(), Report::default());
    let redrive = queues.redrive();
    run(&redrive, &mut report, &stop, &mut |done, _| {
        if done == 3 {
            stop.request();
        }
    })
    .await
    .unwrap();
    assert!(report.stopped && !report.is_complete());
    let put_back = outcomes(&report)
        .into_iter()
        .filter(|outcome| **outcome == Outcome::PutBack);
    assert_eq!(put_back.count(), 3);
    assert_eq!(queues.dead().await, (22, 0));
}

#[tokio::test]
async fn message_that_stays_invisible_is_reported() {
    let queues = Queues::new().await;
    queues
        .dead_letter(&communication("clinic-a"), "panicked", "source-1")
        .await;
    queues.aws.fail_next(
        "sqs",
        "ChangeMessageVisibilityBatch",
        1,
        Fault::AccessDenied,
    );
    let report = carry_out(&queues.plan(Work::List)).await;
    assert_eq!(report.hidden, 1);
    assert!(
        report
            .to_string()
            .contains("by themselves after five minutes"),
        "{report}"
    );
    assert_eq!(queues.dead().await, (0, 1));
}

#[tokio::test]
async fn incomplete_listing_is_reported() {
    let queues = Queues::new().await;
    for n in 0..3 {
        let body = communication("clinic-a");
        queues
            .dead_letter(&body, "panicked", &format!("source-{n}"))
            .await;
    }
    let mut short = queues.plan(Work::List);
    short.limit = 1;
    let report = carry_out(&short).await;
    assert!(
        report.limited && report.to_string().contains("--limit"),
        "{report}"
    );

    let elsewhere = queues.receive(&queues.aws.resources().dlq_url).await;
    assert_eq!(elsewhere.len(), 3);
    let report = carry_out(&queues.plan(Work::List)).await;
    assert_eq!((report.seen, report.at_work_elsewhere), (0, 3));
    let told = report.to_string();
    assert!(
        told.contains("NOT ALL WERE SEEN") && told.contains("3 more that somebody"),
        "{told}"
    );
    assert!(!report.is_complete());
}
