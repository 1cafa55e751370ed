//! Keys, roles, and whose name a request is signed in.

use super::*;

#[tokio::test]
async fn a_client_more_costs_no_tls_configuration_more() {
    let double = Double::default();
    for account in [keys(), keys(), role(), platform()] {
        double.provider(account);
    }
    // Making it is the shared client's answer to this question.
    assert_eq!(double.0.validated.load(Ordering::Relaxed), 0);
    let (first, second) = (double.provider(keys()), double.provider(keys()));
    sent(&first, &message(|_| {})).await.unwrap();
    sent(&second, &message(|_| {})).await.unwrap();
    assert_eq!(double.seen().len(), 2, "both go through the shared client");
    assert_eq!(double.0.validated.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn each_account_signs_in_its_own_name_for_its_own_region() {
    for (account, key) in [
        (keys(), "AKIACLINIC0000000000"),
        (platform(), "AKIAPLATFORM00000000"),
    ] {
        let double = Double::default();
        sent(&double.provider(account), &message(|_| {}))
            .await
            .unwrap();
        let authorization = &double.seen()[0].headers["authorization"];
        let credential = format!("Credential={key}/");
        assert!(authorization.contains(&credential), "{authorization}");
        assert!(authorization.contains("/eu-central-1/ses/aws4_request"));
    }
}

fn assumed(expiration: &str) -> Reply {
    let xml = format!(
        "<AssumeRoleResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\"><AssumeRoleResult><Credentials>\
         <AccessKeyId>ASIAROLE000000000000</AccessKeyId><SecretAccessKey>s</SecretAccessKey>\
         <SessionToken>token</SessionToken><Expiration>{expiration}</Expiration></Credentials></AssumeRoleResult>\
         </AssumeRoleResponse>"
    );
    Reply::Answer(200, Vec::new(), xml)
}

fn sts_error(status: u16, code: &str) -> Reply {
    let xml = format!(
        "<ErrorResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\"><Error><Type>Sender</Type>\
         <Code>{code}</Code><Message>m</Message></Error><RequestId>r</RequestId></ErrorResponse>"
    );
    Reply::Answer(status, Vec::new(), xml)
}

#[tokio::test]
async fn a_role_is_assumed_at_the_first_message_and_kept_until_it_ends() {
    let double = Double::answering([assumed("2999-01-01T00:00:00Z")]);
    let provider = double.provider(role());
    assert!(
        double.seen().is_empty(),
        "nothing happens before it is used"
    );
    sent(&provider, &message(|_| {})).await.unwrap();
    sent(&provider, &message(|_| {})).await.unwrap();
    let seen = double.seen();
    let uris: Vec<_> = seen.iter().map(|seen| seen.uri.as_str()).collect();
    let ses = "https://email.eu-central-1.amazonaws.com/v2/email/outbound-emails";
    assert_eq!(uris, ["https://sts.eu-central-1.amazonaws.com/", ses, ses]);
    let form = seen[0].form();
    assert_eq!(
        form["RoleArn"],
        "arn:aws:iam::210987654321:role/clinic-ses/mail"
    );
    assert_eq!(form["ExternalId"], "clinic-123");
    assert_eq!(form["RoleSessionName"], "clinic-comms");
    assert!(seen[0].headers["authorization"].contains("Credential=AKIAPLATFORM00000000/"));
    for request in &seen[1..] {
        assert!(request.headers["authorization"].contains("Credential=ASIAROLE000000000000/"));
        assert_eq!(request.headers["x-amz-security-token"], "token");
    }
}

#[tokio::test]
async fn a_role_that_has_ended_is_assumed_again() {
    let ended = assumed("2001-01-01T00:00:00Z");
    let double = Double::answering([ended, accepted(), assumed("2999-01-01T00:00:00Z")]);
    let provider = double.provider(role());
    sent(&provider, &message(|_| {})).await.unwrap();
    sent(&provider, &message(|_| {})).await.unwrap();
    let asked = |seen: &&Seen| seen.uri.starts_with("https://sts.");
    assert_eq!(double.seen().iter().filter(asked).count(), 2);
}

#[tokio::test(start_paused = true)]
async fn without_credentials_for_the_role_nothing_is_sent() {
    use Disposition::{ProviderDown, Transient};
    use ErrorKind::{Timeout, Unauthenticated, Unavailable, Unexpected};
    let unreadable = Reply::Answer(200, Vec::new(), "<html>".to_owned());
    for (reply, disposition, kind, code) in [
        (
            sts_error(403, "AccessDenied"),
            ProviderDown,
            Unauthenticated,
            "trust policy",
        ),
        (
            sts_error(403, "RegionDisabledException"),
            ProviderDown,
            Unauthenticated,
            "activated STS",
        ),
        (
            sts_error(400, "ValidationError"),
            ProviderDown,
            Unauthenticated,
            "roleArn",
        ),
        (
            sts_error(403, "ExpiredTokenException"),
            ProviderDown,
            Unauthenticated,
            "platform",
        ),
        (
            sts_error(403, "InvalidClientTokenId"),
            ProviderDown,
            Unauthenticated,
            "platform",
        ),
        (sts_error(400, "Throttling"), Transient, Unavailable, "now"),
        (
            sts_error(500, "InternalFailure"),
            Transient,
            Unavailable,
            "now",
        ),
        (unreadable, Transient, Unexpected, "read"),
        (
            Reply::FailsBefore(io_error),
            Transient,
            Unavailable,
            "reached",
        ),
        (
            Reply::FailsAfter(io_error),
            Transient,
            Unavailable,
            "reached",
        ),
        (Reply::FailsAfter(timed_out), Transient, Timeout, "in time"),
        (Reply::HangsAfter, Transient, Timeout, "in time"),
        (
            Reply::FailsBefore(bad_certificate),
            ProviderDown,
            Unauthenticated,
            "STS",
        ),
    ] {
        // As often as the SDK tries it.
        let double = Double::answering(std::iter::repeat_n(reply, 3));
        let error = sent(&double.provider(role()), &message(|_| {}))
            .await
            .unwrap_err();
        assert_eq!(
            (error.disposition, error.kind),
            (disposition, kind),
            "{error}"
        );
        assert!(error.detail.contains(code), "{error}");
        let of_sts = |seen: &Seen| seen.uri.starts_with("https://sts.");
        assert!(double.seen().iter().all(of_sts), "{error}");
    }
}

#[tokio::test]
async fn nothing_that_is_printed_has_a_secret_or_an_address_in_it() {
    for account in [keys(), role(), platform()] {
        let settings = SesConfig {
            account,
            ..settings()
        };
        let printed = format!(
            "{settings:?} {:?} {:?} {:?}",
            settings.account,
            Double::default().provider_of(settings.clone()),
            SealedKey::new(
                AwsAccessKeyId::parse("AKIACLINIC0000000000").unwrap(),
                Secret::new("planted-secret".to_owned())
            ),
        );
        for hidden in ["planted-secret", "AKIACLINIC", "appointments", "clinic-123"] {
            assert!(!printed.contains(hidden), "{printed}");
        }
    }
}
