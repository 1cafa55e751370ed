//! The requests that messages are sent with.

use super::*;

#[test]
fn a_message_with_everything_goes_out_in_one_personalization() {
    let wire = wire(&provider(), &full_message());
    insta::assert_snapshot!(serde_json::to_string_pretty(&wire).unwrap(), @r#"
    {
      "personalizations": [
        {
          "to": [
            {
              "email": "patient@example.com",
              "name": "Łukasz Żółć"
            }
          ],
          "cc": [
            {
              "email": "parent@example.com"
            }
          ],
          "bcc": [
            {
              "email": "records@clinic.example"
            },
            {
              "email": "desk@clinic.example"
            }
          ],
          "custom_args": {
            "delivery_id": "abababababababababababababababab"
          }
        }
      ],
      "from": {
        "email": "appointments@clinic.example",
        "name": "Praxis Dr. Müller"
      },
      "reply_to": {
        "email": "desk@clinic.example"
      },
      "subject": "Termin bestätigt",
      "content": [
        {
          "type": "text/plain",
          "value": "Bis Montag, 10 Uhr."
        },
        {
          "type": "text/html",
          "value": "<p>Bis <b>Montag</b>, 10 Uhr.</p>"
        }
      ],
      "attachments": [
        {
          "content": "QkVHSU46VkNBTEVOREFS",
          "type": "text/calendar",
          "filename": "termin.ics",
          "disposition": "attachment"
        },
        {
          "content": "AJ+Slg==",
          "type": "application/pdf",
          "filename": "Rechnung 3_50 €_ Kopie.pdf",
          "disposition": "attachment"
        }
      ],
      "headers": {
        "Auto-Submitted": "auto-generated"
      },
      "tracking_settings": {
        "click_tracking": {
          "enable": false,
          "enable_text": false
        },
        "open_tracking": {
          "enable": false
        },
        "ganalytics": {
          "enable": false
        }
      }
    }
    "#);
    assert_eq!(mail_problems(&wire), Vec::<String>::new());
}

#[test]
fn a_message_with_the_least_says_nothing_that_it_does_not_have() {
    let mut provider = provider();
    provider.api.sender.name = None;
    let wire = wire(&provider, &message_with(|_| {}));
    insta::assert_snapshot!(serde_json::to_string_pretty(&wire).unwrap(), @r#"
    {
      "personalizations": [
        {
          "to": [
            {
              "email": "patient@example.com"
            }
          ],
          "custom_args": {
            "delivery_id": "abababababababababababababababab"
          }
        }
      ],
      "from": {
        "email": "appointments@clinic.example"
      },
      "subject": "Termin bestätigt",
      "content": [
        {
          "type": "text/plain",
          "value": "Bis Montag, 10 Uhr."
        }
      ],
      "headers": {
        "Auto-Submitted": "auto-generated"
      },
      "tracking_settings": {
        "click_tracking": {
          "enable": false,
          "enable_text": false
        },
        "open_tracking": {
          "enable": false
        },
        "ganalytics": {
          "enable": false
        }
      }
    }
    "#);
    assert_eq!(mail_problems(&wire), Vec::<String>::new());
}

#[test]
fn sandbox_mode_is_asked_for_only_where_the_settings_say_so() {
    let sandbox = provider_with(|settings| settings.sandbox = true);
    let message = full_message();
    let sent = wire(&sandbox, &message);
    assert_eq!(
        sent["mail_settings"],
        json!({"sandbox_mode": {"enable": true}})
    );
    assert_eq!(mail_problems(&sent), Vec::<String>::new());
    assert_eq!(wire(&provider(), &message).get("mail_settings"), None);
}

#[test]
fn a_file_goes_with_a_bare_type_and_an_image_with_its_id() {
    let file = |content_type: &str, id: Option<&str>| Attachment {
        filename: "a".to_owned(),
        content_type: MediaType::parse(content_type).unwrap(),
        content: "Größe".as_bytes().into(),
        content_id: id.map(|id| ContentId::parse(id).unwrap()),
    };
    let message = message_with(|content| {
        content.html = Some("<img src=\"cid:logo\">".into());
        content.attachments = vec![
            file("text/calendar; charset=utf-8; method=REQUEST", None),
            file("message/rfc822", None),
            file("image/png", Some("logo")),
        ];
    });
    let wire = wire(&provider(), &message);
    let sent = |field: &str| {
        let files = wire["attachments"].as_array().unwrap().iter();
        files.map(|file| file[field].clone()).collect::<Vec<_>>()
    };
    let types = ["text/calendar", "application/octet-stream", "image/png"];
    assert_eq!(sent("type"), types);
    assert_eq!(sent("disposition"), ["attachment", "attachment", "inline"]);
    assert_eq!(
        sent("content_id"),
        [json!(null), json!(null), json!("logo")]
    );
    assert_eq!(mail_problems(&wire), Vec::<String>::new());
}

#[test]
fn html_alone_has_a_text_made_from_it() {
    let message = message_with(|content| {
        content.body = None;
        content.html = Some("<p>x</p>".into());
    });
    let wire = wire(&provider(), &message);
    assert_eq!(
        wire["content"],
        json!([{"type": "text/plain", "value": "x"}, {"type": "text/html", "value": "<p>x</p>"}])
    );
    assert_eq!(mail_problems(&wire), Vec::<String>::new());
}

#[test]
fn the_contract_finds_what_is_wrong_with_a_request() {
    let good = wire(&provider(), &full_message());
    for (pointer, wrong) in [
        ("/subject", json!("")),
        ("/content/0/value", json!("")),
        ("/attachments/0/content", json!("")),
        ("/attachments/0/disposition", json!("elsewhere")),
        ("/personalizations/0/to", json!("patient@example.com")),
        (
            "/personalizations/0/to/0",
            json!({"mail": "patient@example.com"}),
        ),
        ("/from", json!({"name": "Clinic"})),
        (
            "/tracking_settings",
            json!({"clicktracking": {"enable": false}}),
        ),
    ] {
        let mut bad = good.clone();
        *bad.pointer_mut(pointer).unwrap() = wrong;
        assert_ne!(mail_problems(&bad), Vec::<String>::new(), "{pointer}");
    }
}

#[test]
fn a_receivers_name_goes_without_commas_and_semicolons() {
    for (name, sent) in [
        ("Müller, Anna", json!("Müller Anna")),
        ("a;b,c", json!("a b c")),
        ("Anna Müller", json!("Anna Müller")),
        (" ;, ", Value::Null),
    ] {
        let mut message = message_with(|_| {});
        message.target = Target::Email(Mailbox {
            address: address("patient@example.com"),
            name: Some(name.into()),
        });
        let wire = wire(&provider(), &message);
        assert_eq!(wire["personalizations"][0]["to"][0]["name"], sent, "{name}");
    }
}

#[test]
fn custom_arguments_stay_far_below_their_limit() {
    let wire = wire(&provider(), &full_message());
    let arguments = wire["personalizations"][0]["custom_args"].to_string();
    assert!(arguments.len() < 10_000 / 10, "{arguments}");
}

#[test]
fn what_another_provider_may_carry_is_passed_on_without_blame() {
    let umlaut = || address("jürgen@example.com");
    let mut to = message_with(|_| {});
    to.target = Target::Email(Mailbox {
        address: umlaut(),
        name: None,
    });
    let mut answers = message_with(|_| {});
    answers.reply_to = Some(umlaut());
    let empty_file = message_with(|content| {
        content.attachments = vec![Attachment {
            filename: "a.txt".into(),
            content_type: MediaType::parse("text/plain").unwrap(),
            content_id: None,
            content: [].as_slice().into(),
        }];
    });
    for (message, kind) in [
        (to, ErrorKind::InvalidRecipient),
        (
            message_with(|content| content.cc = vec![umlaut()]),
            ErrorKind::InvalidRecipient,
        ),
        (
            message_with(|content| content.bcc = vec![umlaut()]),
            ErrorKind::InvalidRecipient,
        ),
        (answers, ErrorKind::InvalidMessage),
        (empty_file, ErrorKind::InvalidMessage),
        (
            message_with(|content| content.title = None),
            ErrorKind::InvalidMessage,
        ),
        (
            message_with(|content| content.title = Some(String::new())),
            ErrorKind::InvalidMessage,
        ),
    ] {
        let error = refused(&message);
        assert_eq!(
            (error.disposition, error.kind, error.unhealthy),
            (Disposition::ProviderDown, kind, false),
            "{error}"
        );
    }
    let mut provider = provider();
    provider.api.sender.address = umlaut();
    let message = message_with(|_| {});
    let error = wire_of(&provider, &message).err().unwrap();
    assert_eq!(error.kind, ErrorKind::SenderNotAllowed);
    assert!(!error.unhealthy);
}

#[test]
fn what_no_provider_could_send_is_refused_for_good() {
    let mut whatsapp = message_with(|_| {});
    whatsapp.target = Target::Whatsapp(PhoneNumber::parse("+15005550006").unwrap());
    let copies = |count: usize| {
        let copies = (0..count).map(|n| address(&format!("copy{n}@example.com")));
        copies.collect::<Vec<_>>()
    };
    for message in [
        whatsapp,
        message_with(|content| content.body = None),
        message_with(|content| content.body = Some(String::new())),
        message_with(|content| {
            (content.cc, content.bcc) = (copies(500), copies(500));
        }),
    ] {
        let error = refused(&message);
        assert_eq!(
            (error.disposition, error.kind, error.unhealthy),
            (Disposition::Final, ErrorKind::InvalidMessage, false),
            "{error}"
        );
    }
    let most = message_with(|content| content.cc = copies(999));
    assert_eq!(
        mail_problems(&wire(&provider(), &most)),
        Vec::<String>::new()
    );
}

#[test]
fn a_message_of_30_megabytes_is_refused() {
    assert_eq!(check_size(29_999_999), Ok(()));
    assert!(check_size(30_000_000).is_err());
    // It is the size in base64 that counts.
    let message = message_with(|content| {
        content.attachments = vec![Attachment {
            filename: "a.bin".into(),
            content_type: MediaType::parse("application/octet-stream").unwrap(),
            content_id: None,
            content: vec![0; 22_500_000].into(),
        }];
    });
    let error = request_of(&provider(), &message).err().unwrap();
    assert_eq!(
        (error.disposition, error.kind),
        (Disposition::Final, ErrorKind::InvalidMessage)
    );
}
