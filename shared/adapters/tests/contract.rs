//! One suite of tests that every adapter passes, over `&dyn Provider` and a real connection: what it
//! says on the wire, what it makes of every kind of answer and of none, and that nothing of a patient
//! or a secret is left behind.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test that cannot go on has failed"
)]

mod contract {
    pub(crate) mod logs;
    pub(crate) mod rigs;
}

use std::time::Duration;

use comms_adapters::{Capabilities, Deadline, StageOutcome, VerifyStage, registry::ADAPTERS};
use comms_core::{Disposition, ErrorKind, ProviderError, Receipt};
use contract::{
    logs,
    rigs::{self, Rig, Scenario, Trust, Verification},
};

const PLENTY: Duration = Duration::from_secs(30);

/// What must be in no error, no Debug and no log: `planted` begins every secret, text and file, and
/// these are the addresses.
const PRIVATE: [&str; 6] = [
    "planted", "patient@", "family@", "archive@", "15550100", "desk@",
];

async fn send(rig: &dyn Rig) -> Result<Receipt, ProviderError> {
    rig.provider()
        .send(&rig.message(), Deadline::after(PLENTY))
        .await
}

fn assert_private(rig: &dyn Rig, text: &str) {
    for private in PRIVATE {
        assert!(
            !text.contains(private),
            "{}: {private} in {text}",
            rig.name()
        );
    }
}

/// Sends in `scenario` and checks what must hold in every one.
async fn outcome(rig: &dyn Rig, scenario: Scenario) -> Result<Receipt, ProviderError> {
    let result = match scenario.hangs() {
        // The clock stands still until everybody waits, and then goes at once to what they wait for:
        // nothing of this depends on how fast the machine is.
        Some(hang) => {
            let message = rig.message();
            let sending = rig.provider().send(&message, Deadline::after(PLENTY));
            let pausing = async {
                match hang {
                    rigs::Hang::BeforeTls => rig.until_connected().await,
                    rigs::Hang::AfterMessage => rig.until_received().await,
                }
                tokio::time::pause();
            };
            let (result, ()) = tokio::join!(sending, pausing);
            tokio::time::resume();
            result
        }
        None => send(rig).await,
    };
    if let Err(error) = &result {
        assert_private(rig, &format!("{error} {error:?}"));
    }
    assert_private(rig, &format!("{:?}", rig.provider()));
    result
}

fn refusal(result: Result<Receipt, ProviderError>) -> (Disposition, ErrorKind) {
    let error = result.unwrap_err();
    (error.disposition, error.kind)
}

#[tokio::test]
async fn a_message_goes_over_the_wire_as_the_provider_wants_it() {
    for rig in rigs::all(Trust::Given).await {
        rig.script(Scenario::Accept);
        let receipt = send(&*rig).await.unwrap();
        assert_eq!(receipt.message_id, rig.message_id(), "{}", rig.name());
        assert!(receipt.refused_copies.is_empty());
        assert_eq!(rig.taken(), 1, "{}", rig.name());
        insta::assert_snapshot!(rig.name(), rig.wire());
        rig.assert_nothing_unexpected();
    }
}

#[tokio::test]
async fn connections_are_kept_for_the_next_message() {
    for rig in rigs::all(Trust::Given).await {
        for _ in 0..3 {
            rig.script(Scenario::Accept);
            send(&*rig).await.unwrap();
        }
        assert_eq!((rig.taken(), rig.connections()), (3, 1), "{}", rig.name());
    }
}

#[tokio::test]
async fn each_disposition_comes_from_the_providers_own_reply() {
    for (scenario, disposition) in [
        (Scenario::RefuseForGood, Disposition::Final),
        (Scenario::RefuseSender, Disposition::ProviderDown),
        (Scenario::RefuseForNow, Disposition::Transient),
        (Scenario::FailWithMessage, Disposition::Ambiguous),
    ] {
        for rig in rigs::all(Trust::Given).await {
            rig.script(scenario);
            let (found, _) = refusal(outcome(&*rig, scenario).await);
            assert_eq!(found, disposition, "{} {scenario:?}", rig.name());
        }
    }
}

#[tokio::test]
async fn a_wish_to_be_left_alone_is_passed_on() {
    for rig in rigs::http(Trust::Given).await {
        rig.script(Scenario::RefuseForNow);
        let error = send(&*rig).await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::RateLimited, "{}", rig.name());
        let wait = error.retry_after.unwrap();
        assert_eq!(wait, Duration::from_secs(7), "{}", rig.name());
    }
}

#[tokio::test]
async fn what_was_never_sent_is_transient() {
    for rig in rigs::all(Trust::Given).await {
        rig.script(Scenario::HangBeforeTls);
        let found = refusal(outcome(&*rig, Scenario::HangBeforeTls).await);
        let expected = (Disposition::Transient, ErrorKind::Timeout);
        // SMTP says of a greeting that does not come that the server is not available.
        let greeting = (Disposition::Transient, ErrorKind::Unavailable);
        assert!(
            found == expected || found == greeting,
            "{}: {found:?}",
            rig.name()
        );
        assert_eq!(rig.taken(), 0);
    }
    for rig in rigs::all(Trust::Given).await {
        rig.script(Scenario::CloseAtOnce);
        let (disposition, _) = refusal(outcome(&*rig, Scenario::CloseAtOnce).await);
        assert_eq!(disposition, Disposition::Transient, "{}", rig.name());
    }
    for mut rig in rigs::all(Trust::Given).await {
        rig.stop();
        let (disposition, kind) = refusal(send(&*rig).await);
        assert_eq!(
            (disposition, kind),
            (Disposition::Transient, ErrorKind::Unavailable),
            "{}",
            rig.name()
        );
    }
}

#[tokio::test]
async fn what_may_have_been_taken_is_ambiguous() {
    for scenario in [
        Scenario::HangAfterMessage,
        Scenario::CloseAfterMessage,
        Scenario::ResetAfterMessage,
        Scenario::CutAnswer,
        Scenario::StallInAnswer,
        Scenario::EndlessAnswer,
        Scenario::WrongContentType,
        Scenario::GarbageBody,
        Scenario::NotTheProtocol,
    ] {
        for rig in rigs::all(Trust::Given).await {
            if !rig.script(scenario) {
                continue;
            }
            let (disposition, _) = refusal(outcome(&*rig, scenario).await);
            assert_eq!(
                disposition,
                Disposition::Ambiguous,
                "{} {scenario:?}",
                rig.name()
            );
            assert_eq!(rig.taken(), 1, "{} {scenario:?}", rig.name());
            // Far more than is read, far less than an endless answer would be.
            assert!(rig.bytes_written() < 64 << 20, "{}", rig.name());

            // Whatever that connection was left in, the next message does not meet it.
            rig.clear_script();
            rig.script(Scenario::Accept);
            let receipt = send(&*rig).await.unwrap();
            assert_eq!(receipt.message_id, rig.message_id(), "{}", rig.name());
        }
    }
}

#[tokio::test]
async fn an_answer_that_is_not_the_providers_is_not_taken_for_its_word() {
    for scenario in [Scenario::ForeignNotFound, Scenario::Redirect] {
        for rig in rigs::http(Trust::Given).await {
            if !rig.script(scenario) {
                continue;
            }
            let (disposition, _) = refusal(outcome(&*rig, scenario).await);
            assert_eq!(
                disposition,
                Disposition::ProviderDown,
                "{} {scenario:?}",
                rig.name()
            );
            // One request: a redirect is not followed.
            assert_eq!(rig.taken(), 1, "{} {scenario:?}", rig.name());
            rig.assert_nothing_unexpected();
        }
    }
}

#[tokio::test]
async fn nothing_is_sent_to_who_cannot_prove_who_it_is() {
    for rig in rigs::all(Trust::Missing).await {
        rig.script(Scenario::Accept);
        let found = refusal(outcome(&*rig, Scenario::Accept).await);
        assert_eq!(
            found,
            (Disposition::ProviderDown, ErrorKind::Unauthenticated),
            "{}",
            rig.name()
        );
        assert_eq!(rig.taken(), 0, "{}", rig.name());
    }
}

#[tokio::test]
async fn a_message_of_another_channel_or_over_a_limit_is_refused_without_a_request() {
    for rig in rigs::all(Trust::Given).await {
        for message in rig.impossible_messages() {
            let error = rig
                .provider()
                .send(&message, Deadline::after(PLENTY))
                .await
                .unwrap_err();
            assert_eq!(
                (error.disposition, error.kind),
                (Disposition::Final, ErrorKind::InvalidMessage),
                "{}: {error}",
                rig.name()
            );
        }
        assert_eq!(rig.taken(), 0, "{}", rig.name());
        rig.assert_nothing_unexpected();
    }
}

#[tokio::test]
async fn a_check_goes_through_its_stages_and_sends_nothing() {
    for rig in rigs::all(Trust::Given).await {
        rig.script_verification(Verification::Good);
        let stages = rig.provider().verify(Deadline::after(PLENTY)).await;
        let failed: Vec<_> = stages
            .iter()
            .filter(|stage| stage.outcome != StageOutcome::Passed)
            .collect();
        assert!(failed.is_empty(), "{}: {failed:?}", rig.name());
        let names: Vec<_> = stages.iter().map(|stage| stage.stage).collect();
        assert_eq!(names, rig.verified_stages(), "{}", rig.name());
        assert_eq!(rig.taken(), 0);
        rig.assert_nothing_unexpected();
    }
}

#[tokio::test]
async fn a_check_ends_at_refused_credentials_and_says_so() {
    for rig in rigs::all(Trust::Given).await {
        rig.script_verification(Verification::BadCredentials);
        let stages = rig.provider().verify(Deadline::after(PLENTY)).await;
        let last = stages.last().unwrap();
        assert_eq!(last.stage, VerifyStage::Authenticate, "{}", rig.name());
        let StageOutcome::Failed { kind, detail, .. } = &last.outcome else {
            panic!("{}: {stages:?}", rig.name());
        };
        assert_eq!(*kind, ErrorKind::Unauthenticated, "{}", rig.name());
        assert!(!detail.is_empty());
        assert_private(&*rig, &format!("{stages:?}"));
    }
}

#[tokio::test]
async fn a_check_ends_at_a_certificate_that_does_not_verify() {
    for rig in rigs::all(Trust::Missing).await {
        let stages = rig.provider().verify(Deadline::after(PLENTY)).await;
        let last = stages.last().unwrap();
        assert_eq!(last.stage, VerifyStage::Tls, "{}: {stages:?}", rig.name());
        assert!(matches!(
            last.outcome,
            StageOutcome::Failed {
                kind: ErrorKind::Unauthenticated,
                ..
            }
        ));
    }
}

#[tokio::test]
async fn nothing_private_is_logged_at_any_level() {
    let logged = logs::capture(async {
        tracing::trace!("an event");
        log::trace!("a record");
        for scenario in [
            Scenario::Accept,
            Scenario::RefuseForGood,
            Scenario::RefuseSender,
            Scenario::FailWithMessage,
            Scenario::CutAnswer,
            Scenario::GarbageBody,
            Scenario::NotTheProtocol,
        ] {
            for rig in rigs::all(Trust::Given).await {
                if rig.script(scenario) {
                    let _ = outcome(&*rig, scenario).await;
                }
            }
        }
        for rig in rigs::all(Trust::Given).await {
            rig.script_verification(Verification::BadCredentials);
            let _ = rig.provider().verify(Deadline::after(PLENTY)).await;
        }
    })
    .await;
    for heard in ["an event", "a record", "aws_"] {
        assert!(logged.contains(heard), "{heard} is heard");
    }
    for private in PRIVATE {
        let line = logged.lines().find(|line| line.contains(private));
        assert_eq!(line, None, "{private} was logged");
    }
}

#[tokio::test]
async fn every_provider_of_the_registry_has_a_rig() {
    let rigs = rigs::all(Trust::Given).await;
    for adapter in ADAPTERS {
        let name = adapter.kind.to_string();
        let rig = rigs.iter().find(|rig| rig.name() == name);
        let rig = rig.unwrap_or_else(|| panic!("{name} has no rig"));
        assert_eq!(rig.provider().kind(), adapter.kind);
        assert_eq!(
            *rig.provider().capabilities(),
            adapter.capabilities,
            "{name}"
        );
    }
    assert_eq!(rigs.len(), ADAPTERS.len());
}

/// `infra/docs/PROVIDERS.md` is written by hand and held to what the adapters say.
#[test]
fn the_documented_table_is_what_the_adapters_say_of_themselves() {
    let yes = |can: bool| if can { "yes" } else { "–" }.to_owned();
    let limit = |limit: Option<usize>| limit.map_or("–".to_owned(), |limit| limit.to_string());
    let row = |name: &str, cell: &dyn Fn(&Capabilities) -> String| {
        let cells: Vec<_> = ADAPTERS
            .iter()
            .map(|adapter| cell(&adapter.capabilities))
            .collect();
        format!("| {name} | {} |", cells.join(" | "))
    };
    let names: Vec<_> = ADAPTERS
        .iter()
        .map(|adapter| adapter.kind.to_string())
        .collect();
    let table = [
        format!("| | {} |", names.join(" | ")),
        format!("|{}", " --- |".repeat(1 + ADAPTERS.len())),
        row("HTML beside text", &|can| yes(can.html)),
        row("attachments", &|can| yes(can.attachments)),
        row("recipients of one message", &|can| {
            can.recipients.to_string()
        }),
        row("Reply-To", &|can| yes(can.reply_to)),
        row("addresses beyond ASCII", &|can| {
            yes(can.internationalised_addresses)
        }),
        row("templates", &|can| yes(can.templates)),
        row("media by link", &|can| yes(can.media)),
        row("characters of text", &|can| limit(can.text_chars)),
        row("bytes of a message", &|can| limit(can.message_bytes)),
    ]
    .join("\n");
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../infra/docs/PROVIDERS.md");
    let documented = std::fs::read_to_string(path).unwrap();
    assert!(
        documented.contains(&table),
        "infra/docs/PROVIDERS.md does not have this table:\n{table}"
    );
}
