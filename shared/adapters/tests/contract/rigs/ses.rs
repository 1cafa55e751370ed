//! Amazon SES.

use super::*;

pub(super) fn api() -> Api {
    let error = |status: u16, code: &str| {
        Reply::json(status, json!({"message": ECHO})).header("x-amzn-errortype", code)
    };
    Api {
        name: "aws_ses",
        provider: |_, _, sdk| {
            let settings = SesConfig {
                region: AwsRegion::parse("eu-central-1").unwrap(),
                account: SesAccount::Keys {
                    access_key_id: AwsAccessKeyId::parse("AKIAIOSFODNN7EXAMPLE").unwrap(),
                    secret_access_key: secret("secret-access-key"),
                },
                from: OwnSender::default(),
                configuration_set: None,
            };
            Box::new(SesProvider::new(
                settings,
                mailbox("appointments@clinic.example", "Clinic"),
                sdk,
            ))
        },
        path: "/v2/email/outbound-emails".into(),
        message: email(),
        message_id: "0100018c-ses-message-id",
        accepted: Reply::json(200, json!({"MessageId": "0100018c-ses-message-id"})),
        refusals: [
            error(400, "MessageRejected"),
            error(400, "MailFromDomainNotVerifiedException"),
            error(429, "TooManyRequestsException"),
            error(500, "InternalFailure"),
        ],
        impossible: impossible_emails(),
        questions: vec![
            (
                "/v2/email/account".into(),
                Reply::json(
                    200,
                    json!({"SendingEnabled": true, "ProductionAccessEnabled": true, "EnforcementStatus": "HEALTHY",
                        "SendQuota": {"Max24HourSend": 50000.0, "MaxSendRate": 14.0, "SentLast24Hours": 12.0}}),
                ),
            ),
            (
                "/v2/email/identities/appointments%40clinic.example".into(),
                Reply::json(
                    200,
                    json!({"IdentityType": "EMAIL_ADDRESS", "VerifiedForSendingStatus": true}),
                ),
            ),
        ],
        bad_credentials: error(403, "InvalidClientTokenId"),
        verified_stages: vec![
            VerifyStage::Authenticate,
            VerifyStage::Sender,
            VerifyStage::Quota,
        ],
    }
}
