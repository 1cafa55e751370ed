//! Meta.

use super::*;

pub(super) fn api() -> Api {
    let error = |status: u16, code: u32| {
        Reply::json(
            status,
            json!({"error": {"message": ECHO, "type": "OAuthException", "code": code,
                "error_data": {"messaging_product": "whatsapp", "details": ECHO}, "fbtrace_id": "planted"}}),
        )
    };
    Api {
        name: "meta_business",
        provider: |server, http, _| {
            let settings = MetaConfig {
                access_token: secret("meta-token"),
                phone_number_id: GraphId::parse("123456789").unwrap(),
                api_url: Some(BaseUrl::parse(&format!("{}/v23.0", server.url())).unwrap()),
                business_account_id: None,
            };
            Box::new(MetaProvider::new(settings, None, http).unwrap())
        },
        path: "/v23.0/123456789/messages".into(),
        message: whatsapp(Some(template("appointment_confirmed"))),
        message_id: "wamid.HBgLMTU1NTAxMDA=",
        accepted: Reply::json(
            200,
            json!({"messaging_product": "whatsapp", "contacts": [{"input": "+15550100", "wa_id": "15550100"}],
                "messages": [{"id": "wamid.HBgLMTU1NTAxMDA="}]}),
        ),
        refusals: [
            error(400, 131_026),
            error(400, 131_045),
            error(429, 130_429),
            error(500, 131_000),
        ],
        impossible: vec![
            email(),
            with_content(&whatsapp(None), |content| {
                content.body = Some("x".repeat(4_097));
            }),
            with_content(&whatsapp(None), |content| content.body = None),
        ],
        questions: vec![(
            "/v23.0/123456789".into(),
            Reply::json(
                200,
                json!({"verified_name": "Clinic", "code_verification_status": "VERIFIED", "quality_rating": "GREEN",
                    "name_status": "APPROVED", "throughput": {"level": "STANDARD"}, "id": "123456789"}),
            ),
        )],
        bad_credentials: error(401, 190),
        verified_stages: reachable_and(&[VerifyStage::Authenticate, VerifyStage::Sender]),
    }
}
