use comms_core::BaseUrl;
use comms_core::Disposition;
use comms_core::PhoneNumber;
use comms_core::Secret;
use comms_core::account::ContentSid;
use comms_core::account::MessagingServiceSid;
use comms_core::account::TwilioAccountSid;
use comms_core::account::TwilioApiKeySid;
use comms_core::request::Template;
use comms_core::request::TemplateValues;
use comms_core::{
    PublicUrl,
    request::{Content, Media, MediaKind, TemplateParams},
};
use serde_json::Map;
use serde_json::Value;
use serde_json::json;
use std::collections::BTreeMap;

use super::{reply::*, request::*, *};
use crate::fixtures::{
    Contract, check_complete, check_template_invalid, check_valid, email, http, json_answer,
    replies, whatsapp,
};

/// Every code that has a meaning here.
const CODES: &[i64] = &[
    20_003, 20_008, 20_404, 70_051, // credentials
    10_001, 20_005, 30_002, 63_020, 63_051, // account
    20_429, 63_017, // rates
    21_611, 30_001, 60_728, 63_018, 63_038, // quotas
    21_211, 21_219, 21_608, 21_614, 63_003, 63_024, 63_015, // recipient
    21_610, 63_033, 21_408, 63_016, 63_013, 63_032, 63_049, // policy
    21_212, 21_606, 21_659, 21_660, 21_701, 21_703, 21_704, 63_001, 63_002, 63_007, // sender
    20_422, 21_602, 21_603, 21_609, 21_617, 21_619, 21_655, 21_656, 21_910, 63_005, 63_021,
    63_031, // message
    63_027, 63_028, 63_030, 63_040, 63_041, 63_042, // template
    20_500, 30_410, 63_009, 63_010, 63_012, // service
    29_999, // none of those
];

const CONTRACT: &str = "twilio_messages_v2010.trim.json";
const CREATE: &str = "/paths/~12010-04-01~1Accounts~1{AccountSid}~1Messages.json/post/requestBody/content/application~1x-www-form-urlencoded/schema";

const ACCOUNT: &str = "AC0123456789abcdef0123456789abcdef";
const SERVICE: &str = "MG0123456789abcdef0123456789abcdef";
const TEMPLATE: &str = "HX0123456789abcdef0123456789abcdef";
const OTHER_TEMPLATE: &str = "HXfedcba9876543210fedcba9876543210";

fn settings() -> TwilioConfig {
    TwilioConfig {
        account_sid: TwilioAccountSid::parse(ACCOUNT).unwrap(),
        login: TwilioLogin::AuthToken(Secret::new("planted-token".to_owned())),
        sender: TwilioSender::Number(PhoneNumber::parse("+15550199").unwrap()),
        api_url: Some(BaseUrl::parse(TwilioConfig::GLOBAL_URL).unwrap()),
        status_callback: None,
        templates: BTreeMap::from([(
            "appointment_confirmed".to_owned(),
            ContentSid::parse(TEMPLATE).unwrap(),
        )]),
    }
}

/// What goes on the wire as an object, which must be as the contract has it. A field that stands there
/// twice would be a list; only `MediaUrl` is one.
fn sent_by(settings: &TwilioConfig, content: Content) -> Value {
    let mut object = Map::new();
    for (name, value) in form(settings, &whatsapp(content)).unwrap() {
        let value = match name {
            "MediaUrl" => json!([value]),
            _ => json!(value),
        };
        assert!(object.insert(name.to_owned(), value).is_none(), "{name}");
    }
    let object = Value::Object(object);
    check_valid(&Contract::read(CONTRACT).schema(CREATE), &object);
    let names: Vec<_> = object.as_object().unwrap().keys().cloned().collect();
    let known = &Contract::read(CONTRACT);
    for name in names {
        assert!(known.has(&format!("{CREATE}/properties/{name}")), "{name}");
    }
    object
}

fn sent(content: Content) -> Value {
    sent_by(&settings(), content)
}

fn pretty(value: &Value) -> String {
    serde_json::to_string_pretty(value).unwrap()
}

fn refused(content: Content) -> ProviderError {
    form(&settings(), &whatsapp(content)).unwrap_err()
}

fn text(body: &str) -> Content {
    Content {
        body: Some(body.to_owned()),
        ..Content::default()
    }
}

fn template(id: &str, values: TemplateValues) -> Content {
    Content {
        body: Some("for other channels".to_owned()),
        template: Some(Template {
            id: id.to_owned(),
            language: None,
            values,
        }),
        ..Content::default()
    }
}

fn params(header: &[&str], body: &[&str], buttons: &[&str]) -> TemplateValues {
    let owned = |texts: &[&str]| texts.iter().map(|&text| text.to_owned()).collect();
    TemplateValues::Params(TemplateParams {
        header: owned(header),
        body: owned(body),
        buttons: owned(buttons),
    })
}

fn media() -> Media {
    Media {
        kind: MediaKind::Document,
        url: PublicUrl::parse("https://files.clinic.example/bill.pdf?t=1").unwrap(),
        filename: Some("bill.pdf".to_owned()),
    }
}

#[test]
fn a_text_goes_from_number_to_number_of_the_channel() {
    insta::assert_snapshot!(pretty(&sent(text("See you on Monday."))), @r#"
    {
      "To": "whatsapp:+15550100",
      "From": "whatsapp:+15550199",
      "Body": "See you on Monday."
    }
    "#);
}

#[test]
fn a_template_goes_by_its_content_sid_with_variables_counted_through() {
    let content = template(
        "appointment_confirmed",
        params(&["Anna"], &["Monday", "\"10:00\""], &["a1"]),
    );
    let value = sent(content);
    insta::assert_snapshot!(pretty(&value), @r#"
    {
      "To": "whatsapp:+15550100",
      "From": "whatsapp:+15550199",
      "ContentSid": "HX0123456789abcdef0123456789abcdef",
      "ContentVariables": "{\"1\":\"Anna\",\"2\":\"Monday\",\"3\":\"\\\"10:00\\\"\",\"4\":\"a1\"}"
    }
    "#);
    let variables: Value =
        serde_json::from_str(value["ContentVariables"].as_str().unwrap()).unwrap();
    assert_eq!(
        variables,
        json!({"1": "Anna", "2": "Monday", "3": "\"10:00\"", "4": "a1"})
    );
}

#[test]
fn a_template_without_values_has_no_variables_and_a_content_sid_stands_for_itself() {
    let value = sent(template(OTHER_TEMPLATE, params(&[], &[], &[])));
    assert_eq!(value["ContentSid"], OTHER_TEMPLATE);
    assert_eq!(value.get("ContentVariables"), None);
    assert_eq!(value.get("Body"), None);
}

#[test]
fn what_a_clinic_calls_a_template_goes_before_what_its_name_looks_like() {
    let mut settings = settings();
    settings.templates.insert(
        OTHER_TEMPLATE.to_owned(),
        ContentSid::parse(TEMPLATE).unwrap(),
    );
    let value = sent_by(&settings, template(OTHER_TEMPLATE, params(&[], &[], &[])));
    assert_eq!(value["ContentSid"], TEMPLATE);
}

#[test]
fn media_go_by_url_with_the_body_as_text() {
    let content = Content {
        media: Some(media()),
        ..text("Your bill")
    };
    insta::assert_snapshot!(pretty(&sent(content)), @r#"
    {
      "To": "whatsapp:+15550100",
      "From": "whatsapp:+15550199",
      "Body": "Your bill",
      "MediaUrl": [
        "https://files.clinic.example/bill.pdf?t=1"
      ]
    }
    "#);
    let silent = sent(Content {
        media: Some(media()),
        ..Content::default()
    });
    assert_eq!(silent.get("Body"), None);
}

#[test]
fn the_sender_is_a_number_a_service_or_both_and_reports_go_where_settings_say() {
    let number = PhoneNumber::parse("+15550199").unwrap();
    let service = MessagingServiceSid::parse(SERVICE).unwrap();
    for (sender, from, of) in [
        (TwilioSender::Number(number.clone()), true, false),
        (TwilioSender::Service(service.clone()), false, true),
        (TwilioSender::NumberOfService(number, service), true, true),
    ] {
        let settings = TwilioConfig {
            sender,
            status_callback: Some("https://hooks.clinic.example/twilio?c=1".to_owned()),
            ..settings()
        };
        let value = sent_by(&settings, text("x"));
        let expected = |there: bool, text: &str| there.then(|| json!(text));
        assert_eq!(
            value.get("From").cloned(),
            expected(from, "whatsapp:+15550199")
        );
        assert_eq!(
            value.get("MessagingServiceSid").cloned(),
            expected(of, SERVICE)
        );
        assert_eq!(
            value["StatusCallback"],
            "https://hooks.clinic.example/twilio?c=1"
        );
    }
}

#[test]
fn the_channels_prefix_stands_there_once() {
    for number in [
        "+15550100",
        "whatsapp:+15550100",
        "whatsapp:whatsapp:+15550100",
    ] {
        assert_eq!(whatsapp_address(number), "whatsapp:+15550100");
    }
}

#[test]
fn what_is_over_a_limit_is_refused_by_name_and_the_limit_itself_is_not() {
    let with_body = |texts: Vec<String>| {
        template(
            "appointment_confirmed",
            TemplateValues::Params(TemplateParams {
                body: texts,
                ..TemplateParams::default()
            }),
        )
    };
    let many = |count: usize| with_body(vec!["x".to_owned(); count]);
    let captioned = Content {
        media: Some(media()),
        ..text(&"ä".repeat(1_601))
    };
    sent(text(&"ä".repeat(1_600)));
    sent(with_body(vec!["ä".repeat(1_600)]));
    sent(many(100));
    for (content, limit) in [
        (text(&"ä".repeat(1_601)), "1600"),
        (captioned, "1600"),
        (with_body(vec!["ä".repeat(1_601)]), "1600"),
        (with_body(vec![String::new()]), "empty"),
        (many(101), "100"),
        (Content::default(), "needs a body"),
    ] {
        let error = refused(content);
        assert_eq!(
            (error.disposition, error.kind, error.unhealthy),
            (Disposition::Final, ErrorKind::InvalidMessage, false)
        );
        assert!(error.detail.contains(limit), "{limit}: {}", error.detail);
    }
}

#[test]
fn a_template_that_another_provider_may_carry_goes_on_to_it() {
    let components = TemplateValues::Components(vec![json!({"type": "body"})]);
    let with_media = Content {
        media: Some(media()),
        ..template("appointment_confirmed", params(&[], &[], &[]))
    };
    for (content, hint) in [
        (
            template("reminder", params(&[], &[], &[])),
            "in the entry's templates",
        ),
        (
            template("appointment_confirmed", components),
            "send templateParams",
        ),
        (with_media, "leave media away"),
    ] {
        let error = refused(content);
        check_template_invalid(&error, hint);
    }
}

#[test]
fn an_e_mail_is_none_of_its_business() {
    assert!(form(&settings(), &email(text("x"))).is_err());
}

#[test]
fn every_recorded_reply_means_what_is_written_beside_it() {
    let replies = replies("twilio");
    for reply in &replies {
        reply.check(&receipt(&reply.answer));
    }
    check_complete(&replies, CODES, |body| body.get("code")?.as_i64());
    check_complete(&replies, &[30_001, 63_016, 29_999], |body| {
        body.get("error_code")?.as_i64()
    });
}

#[test]
fn an_account_sends_while_it_is_active() {
    let account =
        |status: Value| json!({"sid": ACCOUNT, "status": status, "auth_token": "planted"});
    assert_eq!(
        may_send(&json_answer(200, &account(json!("active")))),
        Ok(())
    );
    for (reply, kind) in [
        (
            json_answer(200, &account(json!("suspended"))),
            ErrorKind::AccountSuspended,
        ),
        (
            json_answer(200, &account(json!("closed"))),
            ErrorKind::AccountSuspended,
        ),
        (
            json_answer(200, &account(json!(null))),
            ErrorKind::Unexpected,
        ),
        (
            json_answer(401, &json!({"code": 20_003, "message": "Authenticate"})),
            ErrorKind::Unauthenticated,
        ),
        // What is in an error is not an account's status.
        (
            json_answer(401, &json!({"code": 20_003, "status": "active"})),
            ErrorKind::Unauthenticated,
        ),
    ] {
        assert_eq!(may_send(&reply).unwrap_err().kind, kind);
    }
}

#[test]
fn a_key_is_good_when_it_is_told_that_there_is_no_such_message() {
    assert_eq!(
        is_not_found(&json_answer(404, &json!({"code": 20_404, "status": 404}))),
        Ok(())
    );
    for reply in [
        json_answer(401, &json!({"code": 20_003, "message": "Authenticate"})),
        json_answer(403, &json!({"code": 70_051})),
        json_answer(404, &json!({})),
        json_answer(200, &json!({"code": 20_404})),
    ] {
        assert!(is_not_found(&reply).is_err(), "{reply:?}");
    }
}

#[test]
fn urls_are_those_of_the_contract() {
    let provider = TwilioProvider::new(settings(), None, http()).unwrap();
    let base = format!("https://api.twilio.com/2010-04-01/Accounts/{ACCOUNT}");
    assert_eq!(
        provider
            .api
            .url(&provider.api_url, &["Messages.json"])
            .as_str(),
        format!("{base}/Messages.json")
    );
    assert_eq!(
        provider.api.account_url(&provider.api_url).as_str(),
        format!("{base}.json")
    );
    let sid = NO_MESSAGE.strip_suffix(".json").unwrap();
    let schema = Contract::read(CONTRACT).schema(
        "/paths/~12010-04-01~1Accounts~1{AccountSid}~1Messages~1{Sid}.json/get/parameters/1/schema",
    );
    check_valid(&schema, &json!(sid));
}

#[test]
fn debug_shows_nothing() {
    let settings = TwilioConfig {
        login: TwilioLogin::ApiKey {
            sid: TwilioApiKeySid::parse("SK0123456789abcdef0123456789abcdef").unwrap(),
            secret: Secret::new("planted-secret".to_owned()),
        },
        ..settings()
    };
    let shown = format!(
        "{settings:?} {:?} {:?} {:?}",
        settings.login,
        settings.sender,
        TwilioProvider::new(settings.clone(), None, http()).unwrap()
    );
    assert_eq!(
        shown,
        "TwilioConfig(…) TwilioLogin(…) TwilioSender(…) HttpApiProvider(twilio, …)"
    );
}
