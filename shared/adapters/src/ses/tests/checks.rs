//! The check of an entry, which sends nothing.

use super::*;

fn healthy() -> Value {
    json!({
        "SendingEnabled": true, "ProductionAccessEnabled": true, "EnforcementStatus": "HEALTHY",
        "SendQuota": {"Max24HourSend": 200.0, "MaxSendRate": 1.0, "SentLast24Hours": 199.0}
    })
}

fn changed(change: impl FnOnce(&mut Value)) -> Reply {
    let mut account = healthy();
    change(&mut account);
    assert!(contract("GetAccountResponse").is_valid(&account));
    ok(&account)
}

fn verified(yes: bool) -> Reply {
    ok(&json!({"VerifiedForSendingStatus": yes}))
}

/// The stages of a check, with what the failed one says.
async fn checked(replies: Vec<Reply>) -> (Vec<VerifyStage>, Option<(ErrorKind, &'static str)>) {
    let double = Double::answering(replies);
    let report = double.provider(keys()).verify(soon()).await;
    let failed = report.iter().find_map(|report| match &report.outcome {
        StageOutcome::Passed => None,
        StageOutcome::Failed { kind, detail, .. } => Some((*kind, *detail)),
    });
    (report.iter().map(|report| report.stage).collect(), failed)
}

const ALL: [VerifyStage; 3] = [
    VerifyStage::Authenticate,
    VerifyStage::Sender,
    VerifyStage::Quota,
];

#[tokio::test]
async fn a_check_of_a_tenant_tells_nothing_of_the_platforms_other_senders() {
    let double = Double::answering([ok(&healthy())]);
    let report = double.provider(platform()).verify(soon()).await;
    let stages: Vec<_> = report.iter().map(|report| report.stage).collect();
    assert_eq!(stages, [VerifyStage::Authenticate]);
    assert_eq!(report[0].outcome, StageOutcome::Passed);
    assert_eq!(double.seen().len(), 1);
}

#[tokio::test]
async fn a_check_asks_for_the_account_and_the_sender_and_sends_nothing() {
    let double = Double::answering([ok(&healthy()), verified(true)]);
    let report = double.provider(keys()).verify(soon()).await;
    assert!(
        report
            .iter()
            .all(|report| report.outcome == StageOutcome::Passed)
    );
    let stages: Vec<_> = report.iter().map(|report| report.stage).collect();
    assert_eq!(stages, ALL);
    let seen = double.seen();
    let asked: Vec<_> = seen
        .iter()
        .map(|seen| (seen.method.as_str(), seen.uri.as_str()))
        .collect();
    let base = "https://email.eu-central-1.amazonaws.com/v2/email";
    let (account, identity) = (
        format!("{base}/account"),
        format!("{base}/identities/appointments%40mail.clinic.example"),
    );
    assert_eq!(asked, [("GET", &*account), ("GET", &*identity)]);
}

#[tokio::test]
async fn the_sender_may_be_verified_by_its_domain_or_one_above() {
    let missing = || error(404, "NotFoundException");
    let double = Double::answering([ok(&healthy()), missing(), verified(false), verified(true)]);
    let report = double.provider(keys()).verify(soon()).await;
    assert!(
        report
            .iter()
            .all(|report| report.outcome == StageOutcome::Passed)
    );
    let seen = double.seen();
    let asked = seen[1..]
        .iter()
        .filter_map(|seen| seen.uri.rsplit('/').next());
    assert_eq!(
        asked.collect::<Vec<_>>(),
        [
            "appointments%40mail.clinic.example",
            "mail.clinic.example",
            "clinic.example"
        ]
    );
    let nowhere = vec![ok(&healthy()), missing(), missing(), missing()];
    let (stages, failed) = checked(nowhere).await;
    assert_eq!(stages, ALL[..2]);
    let (kind, detail) = failed.unwrap();
    assert_eq!(kind, ErrorKind::SenderNotAllowed);
    assert!(detail.contains("Neither"), "{detail}");
    let pending = vec![ok(&healthy()), verified(false), missing(), missing()];
    let (_, failed) = checked(pending).await;
    assert!(failed.unwrap().1.contains("not verified yet"));
}

#[tokio::test]
async fn an_account_that_does_not_send_fails_the_check() {
    let (stages, failed) = checked(vec![changed(|a| a["SendingEnabled"] = false.into())]).await;
    assert_eq!(stages, ALL[..1]);
    assert_eq!(failed.unwrap().0, ErrorKind::AccountSuspended);
    let shut = changed(|a| a["EnforcementStatus"] = "SHUTDOWN".into());
    assert_eq!(
        checked(vec![shut]).await.1.unwrap().0,
        ErrorKind::AccountSuspended
    );
    let probation = changed(|a| a["EnforcementStatus"] = "PROBATION".into());
    assert_eq!(
        checked(vec![probation, verified(true)]).await,
        (ALL.to_vec(), None)
    );
}

#[tokio::test]
async fn a_quota_that_is_used_up_and_the_sandbox_fail_the_check() {
    let used = changed(|a| a["SendQuota"]["SentLast24Hours"] = 200.0.into());
    let (stages, failed) = checked(vec![used, verified(true)]).await;
    assert_eq!(stages, ALL);
    assert_eq!(failed.unwrap().0, ErrorKind::QuotaExceeded);
    let sandbox = changed(|a| a["ProductionAccessEnabled"] = false.into());
    let (_, failed) = checked(vec![sandbox, verified(true)]).await;
    assert!(failed.unwrap().1.contains("sandbox"));
    let unlimited = changed(|a| a["SendQuota"]["Max24HourSend"] = (-1.0).into());
    assert_eq!(checked(vec![unlimited, verified(true)]).await.1, None);
}

#[tokio::test]
async fn credentials_that_may_send_but_not_look_are_told_what_to_allow() {
    let denied = || error(403, "AccessDeniedException");
    let (stages, failed) = checked(vec![denied(), verified(true)]).await;
    assert_eq!(stages, ALL);
    assert!(failed.unwrap().1.contains("ses:GetAccount"));
    let (stages, failed) = checked(vec![ok(&healthy()), denied()]).await;
    assert_eq!(stages, ALL[..2]);
    assert!(failed.unwrap().1.contains("ses:GetEmailIdentity"));
}

#[tokio::test]
async fn a_check_that_fails_says_at_which_stage() {
    for (reply, stage, kind) in [
        (
            error(403, "UnrecognizedClientException"),
            VerifyStage::Authenticate,
            ErrorKind::Unauthenticated,
        ),
        (
            Reply::FailsBefore(io_error),
            VerifyStage::Connect,
            ErrorKind::Unavailable,
        ),
        (
            Reply::FailsBefore(timed_out),
            VerifyStage::Connect,
            ErrorKind::Timeout,
        ),
        (
            Reply::FailsBefore(tls_refused),
            VerifyStage::Tls,
            ErrorKind::Unavailable,
        ),
        (
            Reply::FailsBefore(bad_certificate),
            VerifyStage::Tls,
            ErrorKind::Unauthenticated,
        ),
        (
            error(500, "InternalServiceErrorException"),
            VerifyStage::Authenticate,
            ErrorKind::Unavailable,
        ),
    ] {
        let (stages, failed) = checked(vec![reply]).await;
        assert_eq!(stages, [stage]);
        let (failed_kind, detail) = failed.unwrap();
        assert_eq!(failed_kind, kind, "{detail}");
        assert!(
            !detail.contains("may have taken"),
            "a question sends nothing: {detail}"
        );
    }
}

#[test]
fn a_rate_is_a_whole_number_of_at_least_one() {
    for (said, rate) in [
        (14.0, Some(14)),
        (14.9, Some(14)),
        (1.0, Some(1)),
        (0.2, Some(1)),
        (1e12, Some(1_000_000)),
        (0.0, None),
        (-1.0, None),
        (f64::NAN, None),
    ] {
        assert_eq!(whole_rate(said).map(NonZeroU32::get), rate, "{said}");
    }
}
