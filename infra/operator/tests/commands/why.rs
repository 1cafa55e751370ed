//! `why` as an operator starts it: an id goes in, and what became of it comes out.

use comms_delivery::ledger::Via;
use serde_json::{Value, json};

use crate::{
    dead_letters::put_dead_letter,
    program::text,
    stories::{Stories, failed, sent, waits_for_people},
};

/// What `why` printed, which found something.
async fn explained(stories: &Stories, arguments: &[&str]) -> String {
    let output = stories.run(arguments).await;
    let printed = text(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    printed
}

#[tokio::test(flavor = "multi_thread")]
async fn sent_delivery_is_explained_from_acceptance_to_its_provider() {
    let stories = Stories::new().await;
    let story = stories.accepted("key-1", Via::Api).await;
    stories.ended(&story, &sent(&story)).await;
    let printed = explained(&stories, &["why", story.id().as_str()]).await;
    for says in [
        "by HTTP, category reminder, priority high, strategy queued",
        "email to p***@e***.com: sent",
        "accepted by HTTP",
        "taken up for the first time, 3.0 s later",
        "attempt 1, smtp/primary (primary): accepted in 210 ms",
        "sent by smtp",
        "message id    <1@server>",
        "spam folder",
        "dead letters  not looked at",
    ] {
        assert!(printed.contains(says), "{says}: {printed}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn failed_delivery_is_explained_with_its_codes_and_what_to_do() {
    let stories = Stories::new().await;
    let story = stories.accepted("key-1", Via::Queue).await;
    stories.ended(&story, &failed(&story)).await;
    let printed = explained(&stories, &["why", story.id().as_str()]).await;
    let at = |says: &str| {
        let place = printed.find(says);
        place.unwrap_or_else(|| panic!("{says}: {printed}"))
    };
    let order = [
        at("a producer's own message"),
        at(
            "attempt 1, smtp/primary (primary): not accepted after 210 ms (unauthenticated 535 5.7.139)",
        ),
        at("waited 4.7 s for the next attempt"),
        at("left out sendgrid/fallback-2 (fallback[1]): down since"),
        at("attempt 2, aws_ses/fallback-1 (fallback[0]): not accepted"),
        at("failed: No provider of the chain accepted the message"),
        at("smtp/primary: the admin of clinic-a saves the new password or key"),
        at("SMTP AUTH is switched off"),
        at("aws_ses/fallback-1: the provider has suspended the account"),
        at("under a new idempotency key"),
    ];
    assert!(order.is_sorted(), "{order:?}: {printed}");
}

#[tokio::test(flavor = "multi_thread")]
async fn delivery_without_quota_says_since_when_it_waits() {
    let stories = Stories::new().await;
    let story = stories.accepted("key-1", Via::Api).await;
    stories.waits_for_quota(&story).await;
    let printed = explained(&stories, &["why", story.id().as_str()]).await;
    assert!(
        printed.contains("for quota. A limit of the clinic"),
        "{printed}"
    );
    assert!(
        printed.contains("goes out by itself when the window ends"),
        "{printed}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn delivery_that_waits_for_people_names_login_and_next_attempt() {
    let stories = Stories::new().await;
    let story = stories.accepted("key-1", Via::Api).await;
    stories.ended(&story, &waits_for_people(&story)).await;
    let printed = explained(&stories, &["why", story.id().as_str()]).await;
    for says in [
        "for people to mend primary (unauthenticated)",
        "next attempt not before",
        "(in 29 min",
        "Nothing is to be sent anew",
    ] {
        assert!(printed.contains(says), "{says}: {printed}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn delivery_at_a_worker_differs_from_one_on_the_queue() {
    let stories = Stories::new().await;
    let story = stories.accepted("key-1", Via::Api).await;
    let printed = explained(&stories, &["why", story.id().as_str()]).await;
    assert!(
        printed.contains("no worker has recorded anything of it yet"),
        "{printed}"
    );
    stories.claimed(&story).await;
    let printed = explained(&stories, &["why", story.id().as_str()]).await;
    assert!(
        printed.contains("a worker has it; its lease ends"),
        "{printed}"
    );
    assert!(
        printed.contains("another one takes it over after"),
        "{printed}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn key_message_id_and_delivery_id_lead_to_their_request() {
    let stories = Stories::new().await;
    let message = "5d41402a-0d5b-4a11-bbbb-000000000001";
    for key in ["key-1", message] {
        let story = stories.accepted(key, Via::Queue).await;
        stories.ended(&story, &sent(&story)).await;
        let arguments = ["why", key, "--clinic", "clinic-a", "--json"];
        let report: Value = serde_json::from_str(&explained(&stories, &arguments).await).unwrap();
        assert_eq!(report["request"]["requestId"], story.id().as_str());
        assert_eq!(report["foundBy"], "idempotencyKey");
    }
    let story = stories.accepted("key-1", Via::Queue).await;
    let output = stories.run(&["why", &story.delivery_id(), "--json"]).await;
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["foundBy"], "deliveryId");
    assert_eq!(report["request"]["requestId"], story.id().as_str());
    let said = text(&output.stderr);
    assert!(
        said.contains("reading the deliveries table"),
        "a walk is announced: {said}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn unknown_id_names_where_it_was_looked_for_and_ends_with_3() {
    let stories = Stories::new().await;
    let story = stories.accepted("key-1", Via::Api).await;
    let unknown = "0123456789abcdef0123456789abcdef";
    for (arguments, says) in [
        (&["why", "key-1"][..], "for one of a clinic, give --clinic"),
        (
            &["why", "key-1", "--clinic", "clinic-b"],
            "clinic-b has no request",
        ),
        (
            &["why", story.id().as_str(), "--clinic", "clinic-b"],
            "no request has it as its id",
        ),
        (
            &["why", unknown],
            "no delivery of the whole deliveries table",
        ),
        (
            &["why", unknown, "--pages", "0"],
            "deliveries were not looked at",
        ),
    ] {
        let output = stories.run(arguments).await;
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(3), "{said}");
        assert!(output.stdout.is_empty());
        assert!(said.contains(says), "{arguments:?}: {said}");
    }
    for wrong in ["a b", ""] {
        let output = stories.run(&["why", wrong]).await;
        assert_eq!(output.status.code(), Some(2));
        assert!(text(&output.stderr).contains("idempotency key"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn dead_letter_of_a_request_comes_with_its_command() {
    let stories = Stories::new().await;
    let story = stories.accepted("key-1", Via::Queue).await;
    let url = stories.table.aws.resources().dlq_url.clone();
    let body = json!({"titel": "planted", "idempotencyKey": "key-1", "metadata": {"clinicId": "clinic-a"}});
    let sdk = stories.table.aws.sdk_config();
    let letter = put_dead_letter(&sdk, &url, &body, "panicked").await;
    let arguments = ["why", story.id().as_str(), "--dead-letter-queue", &url];
    let printed = explained(&stories, &arguments).await;
    assert!(printed.contains("panicked"), "{printed}");
    let command = format!(
        "--dead-letter-queue {url} --queue \"$QUEUE\" --urgent-queue \"$URGENT\" --message {letter}"
    );
    assert!(printed.contains(&command), "{printed}");

    // By SQS's id, of what was never accepted.
    let other = json!({"titel": "planted", "metadata": {"clinicId": "clinic-a"}});
    let letter = put_dead_letter(&sdk, &url, &other, "not_a_communication").await;
    let printed = explained(&stories, &["why", &letter, "--dead-letter-queue", &url]).await;
    assert!(printed.contains("not_a_communication"), "{printed}");
    assert!(
        printed.contains(&format!("--message {letter} --yes")),
        "{printed}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn json_report_has_stable_names_and_no_address() {
    let stories = Stories::new().await;
    let story = stories.accepted("key-1", Via::Api).await;
    stories.ended(&story, &failed(&story)).await;
    let printed = explained(&stories, &["why", story.id().as_str(), "--json"]).await;
    let mut report: Value = serde_json::from_str(&printed).unwrap();
    let names = |value: &Value| {
        let names: Vec<_> = value.as_object().unwrap().keys().cloned().collect();
        names.join(" ")
    };
    assert_eq!(
        names(&report),
        "foundBy request deliveries deadLetters logsQuery"
    );
    assert_eq!(
        names(&report["request"]),
        "requestId clinicId acceptedAt acceptedVia endedAt category priority strategy replayed deliveries"
    );
    let delivery = &mut report["deliveries"][0];
    assert_eq!(
        names(delivery),
        "deliveryId channel recipient status reason possibleDuplicate timeline nextSteps"
    );
    assert_eq!(delivery["recipient"], "p***@e***.com");
    let timeline = delivery["timeline"].as_array().unwrap().iter();
    let events: Vec<_> = timeline.map(|event| event["event"].clone()).collect();
    let expected = [
        "accepted",
        "firstSeen",
        "attempt",
        "waited",
        "skipped",
        "attempt",
        "ended",
    ];
    assert_eq!(json!(events), json!(expected));
    assert_eq!(report["deadLetters"], Value::Null);
}

#[tokio::test(flavor = "multi_thread")]
async fn narrow_terminal_gets_short_lines_without_colors() {
    let stories = Stories::new().await;
    let story = stories.accepted("key-1", Via::Api).await;
    stories.ended(&story, &failed(&story)).await;
    let narrow = [("COLUMNS", "48")];
    let output = stories
        .run_with(&["why", story.id().as_str()], &narrow)
        .await;
    let printed = text(&output.stdout);
    for line in printed.lines().filter(|line| line.trim().contains(' ')) {
        assert!(line.chars().count() <= 48, "{line:?} of {printed}");
    }
    assert!(!printed.contains('\x1b'));
}
