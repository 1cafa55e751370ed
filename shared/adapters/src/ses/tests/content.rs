//! The requests that messages are sent with.

use super::*;

#[tokio::test]
async fn what_ses_would_write_otherwise_goes_in_mime_form() {
    let raw = |body: &Value| {
        let data = body["Content"]["Raw"]["Data"].as_str().unwrap();
        String::from_utf8(BASE64_STANDARD.decode(data).unwrap()).unwrap()
    };
    let typed = message(|content| content.title = Some("=?utf-8?Q?hi?=".to_owned()));
    let mail = raw(&body_of(keys(), &typed).await);
    assert!(
        mail.contains("Subject: =?utf-8?B?PT91dGYtOD9RP2hpPz0=?=\r\n"),
        "{mail}"
    );
    let shown = message(|content| {
        content.attachments.push(Attachment {
            content_id: ContentId::parse("logo@clinic.example").ok(),
            ..attachment(1)
        });
    });
    let mail = raw(&body_of(keys(), &shown).await);
    assert!(
        mail.contains("\r\nContent-ID: <logo@clinic.example>\r\n"),
        "{mail}"
    );
    assert!(mail.contains("multipart/related"), "{mail}");
}

#[tokio::test]
async fn a_message_without_files_is_sent_as_subject_and_bodies() {
    let body = body_of(keys(), &message(|_| {})).await;
    insta::assert_snapshot!(pretty(&body), @r##"
    {
      "Content": {
        "Simple": {
          "Subject": {
            "Data": "Termin bestätigt",
            "Charset": "UTF-8"
          },
          "Body": {
            "Text": {
              "Data": "See you on Monday.",
              "Charset": "UTF-8"
            },
            "Html": {
              "Data": "<p>See you on Monday.</p>",
              "Charset": "UTF-8"
            }
          },
          "Headers": [
            {
              "Name": "Auto-Submitted",
              "Value": "auto-generated"
            }
          ]
        }
      },
      "Destination": {
        "ToAddresses": [
          "\"A. Patient\" <patient@example.com>"
        ]
      },
      "EmailTags": [
        {
          "Name": "delivery_id",
          "Value": "abababababababababababababababab"
        }
      ],
      "FromEmailAddress": "\"Clinic, \\\"Name\\\"\" <appointments@mail.clinic.example>",
      "ReplyToAddresses": [
        "desk@clinic.example"
      ]
    }
    "##);
}

#[tokio::test]
async fn copies_tenant_and_configuration_set_are_named() {
    let double = Double::default();
    let provider = double.provider_of(SesConfig {
        account: platform(),
        configuration_set: Some(SesName::parse("clinic-mail").unwrap()),
        ..settings()
    });
    let mut message = message(|content| {
        content.html = None;
        content.cc = vec![address("parent@example.com")];
        content.bcc = vec![address("archive@clinic.example")];
    });
    message.reply_to = None;
    sent(&provider, &message).await.unwrap();
    let body = double.seen()[0].json();
    assert!(contract("SendEmailRequest").is_valid(&body));
    insta::assert_snapshot!(pretty(&body), @r##"
    {
      "ConfigurationSetName": "clinic-mail",
      "Content": {
        "Simple": {
          "Subject": {
            "Data": "Termin bestätigt",
            "Charset": "UTF-8"
          },
          "Body": {
            "Text": {
              "Data": "See you on Monday.",
              "Charset": "UTF-8"
            }
          },
          "Headers": [
            {
              "Name": "Auto-Submitted",
              "Value": "auto-generated"
            }
          ]
        }
      },
      "Destination": {
        "ToAddresses": [
          "\"A. Patient\" <patient@example.com>"
        ],
        "CcAddresses": [
          "parent@example.com"
        ],
        "BccAddresses": [
          "archive@clinic.example"
        ]
      },
      "EmailTags": [
        {
          "Name": "delivery_id",
          "Value": "abababababababababababababababab"
        }
      ],
      "FromEmailAddress": "\"Clinic, \\\"Name\\\"\" <appointments@mail.clinic.example>",
      "TenantName": "clinic-123"
    }
    "##);
}

#[tokio::test]
async fn a_message_with_files_is_sent_in_mime_form_without_its_blind_copies() {
    let message = message(|content| {
        content.attachments = vec![attachment(10)];
        content.cc = vec![address("parent@example.com")];
        content.bcc = vec![address("archive@clinic.example")];
    });
    let mut body = body_of(keys(), &message).await;
    let data = body["Content"]["Raw"]["Data"].take();
    let raw = BASE64_STANDARD.decode(data.as_str().unwrap()).unwrap();
    insta::assert_snapshot!(pretty(&body), @r##"
    {
      "Content": {
        "Raw": {
          "Data": null
        }
      },
      "Destination": {
        "ToAddresses": [
          "\"A. Patient\" <patient@example.com>"
        ],
        "CcAddresses": [
          "parent@example.com"
        ],
        "BccAddresses": [
          "archive@clinic.example"
        ]
      },
      "EmailTags": [
        {
          "Name": "delivery_id",
          "Value": "abababababababababababababababab"
        }
      ],
      "FromEmailAddress": "\"Clinic, \\\"Name\\\"\" <appointments@mail.clinic.example>"
    }
    "##);
    assert!(!String::from_utf8(raw.clone()).unwrap().contains("archive"));
    let mail = MessageParser::default().parse(&raw).unwrap();
    assert_eq!(mail.subject(), Some("Termin bestätigt"));
    assert_eq!(
        mail.cc().unwrap().first().unwrap().address(),
        Some("parent@example.com")
    );
    assert_eq!(
        mail.reply_to().unwrap().first().unwrap().address(),
        Some("desk@clinic.example")
    );
    assert_eq!(mail.attachment_count(), 1);
}

#[tokio::test]
async fn the_receipt_has_the_id_that_ses_gave() {
    let receipt = sent(&Double::default().provider(keys()), &message(|_| {})).await;
    assert_eq!(receipt.unwrap().message_id, "0107-abc");
}

#[test]
fn the_contract_refuses_what_is_not_in_the_model() {
    let contract = contract("SendEmailRequest");
    assert!(!contract.is_valid(&json!({"Content": {}, "Sender": "x"})));
    assert!(!contract.is_valid(&json!({"FromEmailAddress": "a@example.com"})));
    assert!(!contract.is_valid(&json!({"Content": {"Raw": {"Data": "not base64!"}}})));
}
