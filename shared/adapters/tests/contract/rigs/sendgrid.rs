//! SendGrid.

use super::*;

pub(super) fn api() -> Api {
    let error = |status: u16, field: Value| {
        Reply::json(
            status,
            json!({"errors": [{"message": ECHO, "field": field, "help": null}]}),
        )
    };
    Api {
        name: "sendgrid",
        provider: |server, http, _| {
            let settings = SendgridConfig {
                api_key: secret("sendgrid-key"),
                from: OwnSender::default(),
                api_url: Some(BaseUrl::parse(&server.url()).unwrap()),
                sandbox: false,
            };
            Box::new(
                SendgridProvider::new(
                    settings,
                    mailbox("appointments@clinic.example", "Clinic"),
                    http,
                )
                .unwrap(),
            )
        },
        path: "/v3/mail/send".into(),
        message: email(),
        message_id: "sendgrid-message-id",
        accepted: Reply::new(202).header("x-message-id", "sendgrid-message-id"),
        refusals: [
            error(400, json!("personalizations.0.to.0.email")),
            error(403, json!("from")),
            error(429, Value::Null),
            error(500, Value::Null),
        ],
        impossible: impossible_emails(),
        questions: vec![(
            "/v3/scopes".into(),
            Reply::json(200, json!({"scopes": ["alerts.read", "mail.send"]})),
        )],
        bad_credentials: error(401, Value::Null),
        verified_stages: reachable_and(&[VerifyStage::Authenticate]),
    }
}
