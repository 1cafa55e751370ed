//! Postmark.

use comms_adapters::{
    OwnSender, VerifyStage,
    postmark::{PostmarkConfig, PostmarkProvider},
};
use comms_core::BaseUrl;
use comms_testkit::http::Reply;
use serde_json::json;

use super::{Api, ECHO, email, impossible_emails, mailbox, reachable_and, secret};

const ID: &str = "0a129aee-e1cd-480d-b08d-4f48548ff48d";

pub(super) fn api() -> Api {
    let error = |status: u16, code: i64, text: &str| {
        Reply::json(
            status,
            json!({"ErrorCode": code, "Message": format!("{text} {ECHO}")}),
        )
    };
    Api {
        name: "postmark",
        provider: |server, http, _| {
            let config = PostmarkConfig {
                server_token: secret("postmark-token"),
                from: OwnSender::default(),
                message_stream: None,
                api_url: Some(BaseUrl::parse(&server.url()).unwrap()),
            };
            let sender = mailbox("appointments@clinic.example", "Clinic");
            Box::new(PostmarkProvider::new(config, sender, http).unwrap())
        },
        path: "/email".into(),
        message: email(),
        message_id: ID,
        accepted: Reply::json(
            200,
            json!({"To": ECHO, "MessageID": ID, "ErrorCode": 0, "Message": "OK"}),
        ),
        refusals: [
            error(422, 406, "Inactive recipient."),
            error(422, 400, "Sender Signature not found."),
            error(429, 429, "Rate Limit Exceeded."),
            error(500, 0, "Internal Server Error."),
        ],
        impossible: impossible_emails(),
        questions: vec![(
            "/server".into(),
            Reply::json(
                200,
                json!({"ID": 1, "Name": "Clinic", "ApiTokens": [ECHO], "DeliveryType": "Live"}),
            ),
        )],
        bad_credentials: error(401, 10, "Bad or missing API token."),
        verified_stages: reachable_and(&[VerifyStage::Authenticate]),
    }
}
