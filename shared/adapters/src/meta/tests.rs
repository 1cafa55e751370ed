use comms_core::BaseUrl;
use comms_core::Disposition;
use comms_core::Secret;
use comms_core::account::GraphId;
use comms_core::request::Media;
use comms_core::request::Template;
use comms_core::request::TemplateParams;
use comms_core::request::TemplateValues;
use comms_core::{
    PublicUrl,
    request::{Content, MediaKind},
};
use serde_json::{Value, json};

use super::{reply::*, request::*, *};
use crate::{
    fixtures::{
        Contract, check_complete, check_template_invalid, check_valid, email, http, replies,
        whatsapp,
    },
    net::http::of_question,
};

/// Every code that has a meaning here; of 200 to 299 the ends.
const CODES: &[i64] = &[
    0, 3, 10, 17, 104, 190, 200, 299, 131_005, // credentials
    33, 803, 131_037, 131_045, 133_000, 133_005, 133_006, 133_010, // number
    368, 131_031, 131_042, 134_011, 130_497, // account, country
    4, 341, 613, 80_007, 80_008, 130_429, 131_048, 131_064, 131_056, // rates
    1, 2, 131_016, 131_057, 133_004, 131_000, // service
    100, 131_008, 131_009, 131_051, 131_053, 135_000, // message
    130_403, 131_021, 131_026, 131_030, 131_062, // recipient
    131_047, 130_472, 131_049, 131_050, // policy
    131_063, 132_000, 132_001, 132_005, 132_007, 132_008, 132_012, 132_015, 132_016, 132_018,
    132_068, 132_069, // template
    9, 101, 300, 131_999, // none of those
];

/// The contract forbids its own text, image, video and document messages: `allOf` asks both for
/// `messaging_product` and for nothing beside `type` and the content. It also allows `index` only by a
/// pattern that its own example "0" does not match.
const WRONG: [&str; 5] = [
    "/components/schemas/TextMessage/allOf/1/additionalProperties",
    "/components/schemas/ImageMessage/allOf/1/additionalProperties",
    "/components/schemas/VideoMessage/allOf/1/additionalProperties",
    "/components/schemas/DocumentMessage/allOf/1/additionalProperties",
    "/components/schemas/TemplateComponent/properties/index/pattern",
];

const CONTRACT: &str = "meta_whatsapp_v23.trim.json";
const MESSAGE: &str = "/paths/~1{Version}~1{Phone-Number-ID}~1messages/post/requestBody/content/application~1json/schema";

/// What goes on the wire, which must be as the contract has it.
fn sent(content: Content) -> Value {
    let message = whatsapp(content);
    let value = serde_json::to_value(wire(&message).unwrap()).unwrap();
    let contract = Contract::read(CONTRACT).without(&WRONG);
    check_valid(&contract.schema(MESSAGE), &value);
    value
}

fn pretty(content: Content) -> String {
    serde_json::to_string_pretty(&sent(content)).unwrap()
}

fn refused(content: Content) -> ProviderError {
    let message = whatsapp(content);
    match wire(&message) {
        Ok(_) => panic!("not refused"),
        Err(error) => error,
    }
}

fn text(body: &str) -> Content {
    Content {
        body: Some(body.to_owned()),
        ..Content::default()
    }
}

fn template(values: TemplateValues) -> Content {
    Content {
        body: Some("for other channels".to_owned()),
        template: Some(Template {
            id: "appointment_confirmed".to_owned(),
            language: Some("en_US".to_owned()),
            values,
        }),
        ..Content::default()
    }
}

fn params(header: &[&str], body: &[&str], buttons: &[&str]) -> TemplateParams {
    let owned = |texts: &[&str]| texts.iter().map(|&text| text.to_owned()).collect();
    TemplateParams {
        header: owned(header),
        body: owned(body),
        buttons: owned(buttons),
    }
}

fn with_params(header: &[&str], body: &[&str], buttons: &[&str]) -> Content {
    template(TemplateValues::Params(params(header, body, buttons)))
}

fn file(kind: MediaKind) -> Media {
    Media {
        kind,
        url: PublicUrl::parse("https://files.clinic.example/a?t=1").unwrap(),
        filename: Some("bill.pdf".to_owned()),
    }
}

#[test]
fn a_text_goes_as_text_without_a_preview() {
    insta::assert_snapshot!(pretty(text("See you on Monday.\nhttps://clinic.example")), @r#"
    {
      "messaging_product": "whatsapp",
      "recipient_type": "individual",
      "to": "+15550100",
      "biz_opaque_callback_data": "0123456789abcdef0123456789abcdef",
      "type": "text",
      "text": {
        "body": "See you on Monday.\nhttps://clinic.example",
        "preview_url": false
      }
    }
    "#);
}

#[test]
fn a_template_takes_its_texts_into_header_body_and_buttons() {
    insta::assert_snapshot!(pretty(with_params(&["Anna"], &["Monday", "10:00"], &["a1", "b2"])), @r#"
    {
      "messaging_product": "whatsapp",
      "recipient_type": "individual",
      "to": "+15550100",
      "biz_opaque_callback_data": "0123456789abcdef0123456789abcdef",
      "type": "template",
      "template": {
        "name": "appointment_confirmed",
        "language": {
          "policy": "deterministic",
          "code": "en_US"
        },
        "components": [
          {
            "type": "header",
            "parameters": [
              {
                "type": "text",
                "text": "Anna"
              }
            ]
          },
          {
            "type": "body",
            "parameters": [
              {
                "type": "text",
                "text": "Monday"
              },
              {
                "type": "text",
                "text": "10:00"
              }
            ]
          },
          {
            "type": "button",
            "sub_type": "url",
            "index": "0",
            "parameters": [
              {
                "type": "text",
                "text": "a1"
              }
            ]
          },
          {
            "type": "button",
            "sub_type": "url",
            "index": "1",
            "parameters": [
              {
                "type": "text",
                "text": "b2"
              }
            ]
          }
        ]
      }
    }
    "#);
}

#[test]
fn a_template_without_values_has_no_components() {
    let content = with_params(&[], &[], &[]);
    assert_eq!(
        sent(content)["template"],
        json!({
            "name": "appointment_confirmed",
            "language": {"policy": "deterministic", "code": "en_US"},
        })
    );
}

#[test]
fn media_of_a_template_go_into_its_header() {
    for (kind, header) in [
        (
            MediaKind::Image,
            json!({"type": "image", "image": {"link": "https://files.clinic.example/a?t=1"}}),
        ),
        (
            MediaKind::Video,
            json!({"type": "video", "video": {"link": "https://files.clinic.example/a?t=1"}}),
        ),
        (
            MediaKind::Document,
            json!({"type": "document", "document": {
                "link": "https://files.clinic.example/a?t=1",
                "filename": "bill.pdf",
            }}),
        ),
    ] {
        let content = Content {
            media: Some(file(kind)),
            ..with_params(&[], &["May"], &[])
        };
        assert_eq!(
            sent(content)["template"]["components"],
            json!([
                {"type": "header", "parameters": [header]},
                {"type": "body", "parameters": [{"type": "text", "text": "May"}]},
            ])
        );
    }
}

#[test]
fn components_in_metas_own_form_go_as_they_are() {
    let given = json!([
        {"type": "header", "parameters": [{"type": "location", "location": {"name": "Clinic"}}]},
        {"type": "button", "sub_type": "quick_reply", "index": "1",
         "parameters": [{"type": "payload", "payload": "yes"}]},
    ]);
    let components = given.as_array().unwrap().clone();
    let value = sent(template(TemplateValues::Components(components)));
    assert_eq!(value["template"]["components"], given);
}

#[test]
fn media_go_by_link_with_the_body_as_caption() {
    let content = |kind| Content {
        media: Some(file(kind)),
        ..text("Your bill")
    };
    insta::assert_snapshot!(pretty(content(MediaKind::Document)), @r#"
    {
      "messaging_product": "whatsapp",
      "recipient_type": "individual",
      "to": "+15550100",
      "biz_opaque_callback_data": "0123456789abcdef0123456789abcdef",
      "type": "document",
      "document": {
        "link": "https://files.clinic.example/a?t=1",
        "caption": "Your bill",
        "filename": "bill.pdf"
      }
    }
    "#);
    for (kind, name) in [(MediaKind::Image, "image"), (MediaKind::Video, "video")] {
        let value = sent(content(kind));
        assert_eq!(value["type"], name);
        assert_eq!(
            value[name],
            json!({"link": "https://files.clinic.example/a?t=1", "caption": "Your bill"})
        );
    }
    let silent = sent(Content {
        media: Some(file(MediaKind::Image)),
        ..Content::default()
    });
    assert_eq!(
        silent["image"],
        json!({"link": "https://files.clinic.example/a?t=1"})
    );
}

#[test]
fn the_contract_as_published_takes_no_text_message() {
    let schema = Contract::read(CONTRACT).schema(MESSAGE);
    assert!(!schema.is_valid(&sent(text("x"))));
}

#[test]
fn what_is_over_a_limit_is_refused_by_name_and_the_limit_itself_is_not() {
    let captioned = |length| Content {
        media: Some(file(MediaKind::Image)),
        ..text(&"ä".repeat(length))
    };
    let buttons: Vec<_> = (0..11).map(|_| "x").collect();
    sent(text(&"ä".repeat(4_096)));
    sent(captioned(1_024));
    sent(with_params(&[&"ä".repeat(60)], &[], &[]));
    sent(with_params(&[], &[&"ä".repeat(1_024)], &[]));
    sent(with_params(&[], &["four    spaces"], &buttons[..10]));
    for (content, limit) in [
        (text(&"ä".repeat(4_097)), "4096"),
        (captioned(1_025), "1024"),
        (with_params(&[&"ä".repeat(61)], &[], &[]), "60"),
        (with_params(&[], &[&"ä".repeat(1_025)], &[]), "1024"),
        (with_params(&["a", "b"], &[], &[]), "one parameter"),
        (with_params(&[], &[], &buttons), "10"),
        (with_params(&[], &[""], &[]), "empty"),
        (with_params(&[], &["two\nlines"], &[]), "line break"),
        (with_params(&["a\tb"], &[], &[]), "a tab"),
        (with_params(&[], &[], &["five     spaces"]), "4 spaces"),
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
fn a_header_has_room_for_a_text_or_a_medium_and_not_for_both() {
    for content in [
        with_params(&["a"], &[], &[]),
        template(TemplateValues::Components(vec![json!({"type": "body"})])),
    ] {
        let error = refused(Content {
            media: Some(file(MediaKind::Image)),
            ..content
        });
        assert_eq!(error.disposition, Disposition::Final);
        assert!(error.detail.contains("header"), "{}", error.detail);
    }
}

#[test]
fn a_template_that_another_provider_may_have_goes_on_to_it() {
    let named = |id: &str, language: Option<&str>| Content {
        template: Some(Template {
            id: id.to_owned(),
            language: language.map(str::to_owned),
            values: TemplateValues::Params(TemplateParams::default()),
        }),
        ..Content::default()
    };
    sent(named(&"a".repeat(512), Some("de")));
    for (content, hint) in [
        (named("appointment", None), "send language"),
        (named("", Some("de")), "1 to 512"),
        (named(&"a".repeat(513), Some("de")), "1 to 512"),
        (
            named("HX0123456789abcdef0123456789abcdef", Some("de")),
            "a-z, 0-9 and '_'",
        ),
    ] {
        let error = refused(content);
        check_template_invalid(&error, hint);
    }
}

#[test]
fn an_e_mail_is_none_of_its_business() {
    assert!(wire(&email(text("x"))).is_err());
}

#[test]
fn every_recorded_reply_means_what_is_written_beside_it() {
    let contract = Contract::read(CONTRACT);
    let replies = replies("meta");
    for reply in &replies {
        if reply.body.get("error").is_some() {
            check_valid(
                &contract.schema("/components/schemas/GraphAPIError"),
                &reply.body,
            );
        }
        reply.check(&receipt(&reply.answer));
    }
    check_complete(&replies, CODES, |body| {
        body.get("error")?.get("code")?.as_i64()
    });
}

#[test]
fn what_is_not_about_a_number_is_not_taken_for_one() {
    for (body, is) in [
        (json!({"id": "1"}), true),
        (json!({"verified_name": "Clinic"}), true),
        (json!({}), false),
        (json!([]), false),
        (json!({"id": 1}), false),
        (json!("id"), false),
    ] {
        assert_eq!(is_phone_number(&body), is, "{body}");
    }
}

#[test]
fn a_question_that_fails_took_and_refused_no_message() {
    let error = |disposition, kind| ProviderError::new(disposition, kind, "the message …");
    for (error, disposition, kind, kept) in [
        (
            error(Disposition::Ambiguous, ErrorKind::Unavailable),
            Disposition::Transient,
            ErrorKind::Unavailable,
            false,
        ),
        (
            error(Disposition::Final, ErrorKind::InvalidMessage),
            Disposition::ProviderDown,
            ErrorKind::Unexpected,
            false,
        ),
        (
            error(Disposition::ProviderDown, ErrorKind::Unauthenticated),
            Disposition::ProviderDown,
            ErrorKind::Unauthenticated,
            true,
        ),
    ] {
        let said = of_question(error);
        assert_eq!((said.disposition, said.kind), (disposition, kind));
        assert_eq!(said.detail == "the message …", kept);
    }
}

#[test]
fn the_graphs_url_is_one_and_debug_shows_nothing() {
    let settings = MetaConfig {
        access_token: Secret::new("EAAplanted".to_owned()),
        phone_number_id: GraphId::parse("123456789012345").unwrap(),
        api_url: Some(BaseUrl::parse(MetaConfig::GRAPH_URL).unwrap()),
        business_account_id: None,
    };
    let shown = format!(
        "{settings:?} {:?}",
        MetaProvider::new(settings.clone(), None, http()).unwrap()
    );
    assert_eq!(shown, "MetaConfig(…) HttpApiProvider(meta_business, …)");
}
