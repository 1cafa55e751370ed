//! Twilio.

use super::*;

const ACCOUNT: &str = "AC0123456789abcdef0123456789abcdef";
const CONTENT: &str = "HX0123456789abcdef0123456789abcdef";

pub(super) fn api() -> Api {
    let error = |status: u16, code: u32| {
        Reply::json(
            status,
            json!({"code": code, "message": ECHO, "status": status,
                "more_info": format!("https://www.twilio.com/docs/errors/{code}")}),
        )
    };
    Api {
        name: "twilio",
        provider: |server, http, _| {
            let settings = TwilioConfig {
                account_sid: TwilioAccountSid::parse(ACCOUNT).unwrap(),
                login: TwilioLogin::AuthToken(secret("auth-token")),
                sender: TwilioSender::Number(PhoneNumber::parse("+14155238886").unwrap()),
                api_url: Some(BaseUrl::parse(&server.url()).unwrap()),
                status_callback: Some("https://clinic.example/status".into()),
                templates: std::collections::BTreeMap::new(),
            };
            Box::new(TwilioProvider::new(settings, None, http).unwrap())
        },
        path: format!("/2010-04-01/Accounts/{ACCOUNT}/Messages.json"),
        message: whatsapp(Some(template(CONTENT))),
        message_id: "SM0123456789abcdef0123456789abcdef",
        accepted: Reply::json(
            201,
            json!({"sid": "SM0123456789abcdef0123456789abcdef", "status": "queued", "error_code": null,
                "error_message": null, "to": "whatsapp:+15550100", "body": ECHO}),
        ),
        refusals: [
            error(400, 21_211),
            error(400, 63_007),
            error(429, 20_429),
            error(500, 20_500),
        ],
        impossible: vec![
            email(),
            with_content(&whatsapp(None), |content| {
                content.body = Some("x".repeat(1_601));
            }),
            with_content(&whatsapp(None), |content| content.body = None),
        ],
        questions: vec![(
            format!("/2010-04-01/Accounts/{ACCOUNT}.json"),
            Reply::json(
                200,
                json!({"sid": ACCOUNT, "status": "active", "auth_token": "planted-auth-token"}),
            ),
        )],
        bad_credentials: error(401, 20_003),
        verified_stages: reachable_and(&[VerifyStage::Authenticate]),
    }
}
