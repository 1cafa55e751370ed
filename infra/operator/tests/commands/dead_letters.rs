//! What lies in the dead-letter queue is told without its content, goes back to where it came from, and is never lost.

use std::{sync::Arc, time::Duration};

use aws_sdk_sqs::{
    Client,
    types::{Message, MessageAttributeValue, MessageSystemAttributeName, QueueAttributeName},
};
use comms_core::{Clock as _, DeadLetterReason, RequestId, SystemClock, Tenant};
use comms_operator::{
    dead_letters::{
        DeadLetterQueue, Filter, FoundLetter, Outcome, Plan, Report, SourceQueues, Work, run,
    },
    stop::Stop,
};
use comms_testkit::{
    aws::{Fault, LocalAws},
    clock::ManualClock,
};
use serde_json::{Value, json};

/// What no output may have in it.
pub(crate) const CONTENT: &str = "planted-content";

/// Queues with dead letters.
pub(crate) struct Queues {
    pub(crate) aws: LocalAws,
    sqs: Client,
}

/// A communication, whose text no output may have in it.
pub(crate) fn communication(clinic: &str) -> Value {
    json!({
        "title": CONTENT, "body": CONTENT, "channels": ["email"],
        "recipients": [{"email": "planted-patient@example.com", "name": "planted-name"}],
        "metadata": {"clinicId": clinic}})
}

/// Something that is none.
pub(crate) fn poison(clinic: &str) -> Value {
    let mut body = communication(clinic);
    body["planted-field"] = json!(CONTENT);
    body["channels"] = json!("email");
    body
}

/// Puts a dead letter on the queue at `url` as the worker does, and returns its id.
pub(crate) async fn put_dead_letter(
    sdk: &aws_config::SdkConfig,
    url: &str,
    body: &Value,
    reason: &str,
) -> String {
    let reason = MessageAttributeValue::builder()
        .data_type("String")
        .string_value(reason)
        .build();
    let sent = Client::new(sdk)
        .send_message()
        .queue_url(url)
        .message_body(body.to_string())
        .message_attributes("reason", reason.unwrap())
        .send();
    sent.await.unwrap().message_id.unwrap()
}

impl Queues {
    pub(crate) async fn new() -> Self {
        let aws = LocalAws::start().await;
        let sqs = Client::new(&aws.sdk_config());
        Self { aws, sqs }
    }

    fn sources(&self) -> SourceQueues {
        SourceQueues {
            normal: self.aws.resources().queue_url.clone(),
            urgent: self.aws.resources().urgent_queue_url.clone(),
        }
    }

    /// Puts a message on a queue and returns its id.
    async fn send(&self, url: &str, body: &Value, attributes: &[(&str, &str)]) -> String {
        let mut request = self
            .sqs
            .send_message()
            .queue_url(url)
            .message_body(body.to_string())
            .message_group_id("group-1");
        for (name, value) in attributes {
            let value = MessageAttributeValue::builder()
                .data_type("String")
                .string_value(*value)
                .build();
            request = request.message_attributes(*name, value.unwrap());
        }
        request.send().await.unwrap().message_id.unwrap()
    }

    /// A dead letter as the worker makes one, of a message of the queue of what is urgent.
    pub(crate) async fn dead_letter(&self, body: &Value, reason: &str, source_id: &str) -> String {
        let attributes = [
            ("reason", reason),
            ("fields", "/channels"),
            ("sourceQueue", "clinic-comms-urgent"),
            ("sourceMessageId", source_id),
            ("deadAt", "2026-12-01T10:00:00Z"),
            ("acceptedAs", "0123456789abcdef0123456789abcdef"),
            ("payloadHash", "123456789abcdef0123456789abcdef0"),
            ("acceptanceMac", "23456789abcdef0123456789abcdef01"),
        ];
        self.send(&self.aws.resources().dlq_url, body, &attributes)
            .await
    }

    /// A dead letter that SQS moves from the queue of what is not urgent; its sender gave it an attribute.
    async fn exhaust(&self, body: &Value) -> String {
        let resources = self.aws.resources();
        let policy = json!({
            "deadLetterTargetArn": "arn:aws:sqs:us-east-1:123456789012:clinic-comms-dlq", "maxReceiveCount": 1});
        self.sqs
            .set_queue_attributes()
            .queue_url(&resources.queue_url)
            .attributes(QueueAttributeName::RedrivePolicy, policy.to_string())
            .send()
            .await
            .unwrap();
        let id = self
            .send(&resources.queue_url, body, &[("reason", "the-senders-own")])
            .await;
        for message in self.receive(&resources.queue_url).await {
            self.give_back(&resources.queue_url, &message).await;
        }
        assert!(self.receive(&resources.queue_url).await.is_empty());
        id
    }

    async fn receive(&self, url: &str) -> Vec<Message> {
        let received = self
            .sqs
            .receive_message()
            .queue_url(url)
            .max_number_of_messages(10)
            .message_system_attribute_names(MessageSystemAttributeName::All)
            .message_attribute_names("All")
            .send()
            .await;
        received.unwrap().messages.unwrap_or_default()
    }

    async fn give_back(&self, url: &str, message: &Message) {
        self.sqs
            .change_message_visibility()
            .queue_url(url)
            .set_receipt_handle(message.receipt_handle.clone())
            .visibility_timeout(0)
            .send()
            .await
            .unwrap();
    }

    /// How many dead letters can be received, and how many somebody has.
    pub(crate) async fn dead(&self) -> (u64, u64) {
        let answer = self
            .sqs
            .get_queue_attributes()
            .queue_url(&self.aws.resources().dlq_url)
            .attribute_names(QueueAttributeName::All)
            .send()
            .await
            .unwrap();
        let number = |name| answer.attributes().unwrap()[&name].parse().unwrap();
        (
            number(QueueAttributeName::ApproximateNumberOfMessages),
            number(QueueAttributeName::ApproximateNumberOfMessagesNotVisible),
        )
    }

    fn plan(&self, work: Work) -> Plan {
        let (sdk, url) = (self.aws.sdk_config(), &self.aws.resources().dlq_url);
        Plan {
            queue: DeadLetterQueue::new(&sdk, url, Duration::ZERO),
            filter: Filter::default(),
            work,
            limit: 1_000,
            rate: 1_000,
            clock: Arc::new(SystemClock),
        }
    }

    fn redrive(&self) -> Plan {
        self.plan(Work::Redrive(self.sources()))
    }
}

async fn carry_out(plan: &Plan) -> Report {
    let mut report = Report::default();
    run(plan, &mut report, &Stop::default(), &mut |_, _| {})
        .await
        .unwrap();
    report
}

fn outcomes(report: &Report) -> Vec<&Outcome> {
    report
        .letters
        .iter()
        .map(|letter| &letter.outcome)
        .collect()
}

fn of<'a>(report: &'a Report, id: &str) -> &'a FoundLetter {
    let mut letters = report.letters.iter();
    letters.find(|letter| letter.message_id == id).unwrap()
}

fn tenant(id: &str) -> Tenant {
    Tenant::parse(id).unwrap()
}

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
