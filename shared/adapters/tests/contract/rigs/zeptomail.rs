//! ZeptoMail.

use comms_adapters::{
    OwnSender, VerifyStage,
    zeptomail::{Region, ZeptomailConfig, ZeptomailProvider},
};
use comms_core::BaseUrl;
use comms_testkit::http::Reply;
use serde_json::json;

use super::{Api, ECHO, email, impossible_emails, mailbox, reachable_and, secret};

const ID: &str = "2d6f.3dd3c3f49c2fb8fc.m1.3063d370-1063-11ef-a100-525400fa05f6.18f6cfb6a27";

pub(super) fn api() -> Api {
    let error = |status: u16, code: &str, target: &str| {
        let details =
            json!([{"code": code, "message": ECHO, "target": target, "target_value": ECHO}]);
        Reply::json(
            status,
            json!({"error": {"code": "TM_4001", "details": details, "message": ECHO}}),
        )
    };
    Api {
        name: "zeptomail",
        provider: |server, http, _| {
            let config = ZeptomailConfig {
                send_mail_token: secret("zeptomail-token"),
                from: OwnSender::default(),
                region: Region::Com,
                api_url: Some(BaseUrl::parse(&server.url()).unwrap()),
            };
            let sender = mailbox("appointments@clinic.example", "Clinic");
            Box::new(ZeptomailProvider::new(config, sender, http).unwrap())
        },
        path: "/v1.1/email".into(),
        message: email(),
        message_id: ID,
        accepted: Reply::json(
            201,
            json!({"data": [{"code": "EM_104", "additional_info": [], "message": "Email request received"}],
                "message": "OK", "request_id": ID, "object": "email"}),
        ),
        refusals: [
            error(400, "SM_113", "to"),
            error(400, "SM_111", "from"),
            error(429, "", ""),
            error(500, "", ""),
        ],
        impossible: impossible_emails(),
        questions: vec![("/v1.1/email".into(), error(400, "GE_102", "from"))],
        bad_credentials: error(401, "SERR_157", ""),
        verified_stages: reachable_and(&[VerifyStage::Authenticate]),
    }
}
