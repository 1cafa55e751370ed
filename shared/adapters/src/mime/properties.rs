//! What is true of every message, whatever an accepted request has in it: read by mail-parser, which shares no code with the
//! writers. infra/ci/mime.py reads such messages with Python's `email`.

use std::sync::Arc;

use base64::{Engine, prelude::BASE64_STANDARD};
use comms_core::{
    DeliveryId, EmailAddress, Mailbox,
    request::{Submission, Target},
};
use mail_parser::{MessageParser, MimeHeaders as _};
use proptest::{collection::vec, prelude::*};
use serde_json::json;

use super::{Feedback, build};
use crate::message::Message;

/// What headers stumble over, in any order, with and without spaces between.
fn odd_text(pieces: std::ops::Range<usize>) -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        4 => "[ -~]{0,12}",
        4 => "[^\\p{C}]{0,12}",
        1 => "[^\\p{C}]{30,80}",
        1 => Just("x".repeat(90)),
        1 => Just("é".repeat(50)),
        2 => Just("=?utf-8?B?aGk=?=".to_owned()),
        1 => Just("=?utf-8?Q?a_b?=".to_owned()),
        1 => Just("José  Ñúñez".to_owned()),
        1 => Just("👩\u{200d}⚕\u{fe0f}".to_owned()),
        1 => Just("\\\"".to_owned()),
        2 => Just(" ".to_owned()),
        1 => Just("   ".to_owned()),
    ];
    vec(piece, pieces).prop_map(|pieces| pieces.concat())
}

fn cut(text: &str, bytes: usize, chars: usize) -> String {
    let end = text
        .char_indices()
        .nth(chars)
        .map_or(text.len(), |(at, _)| at);
    text[..text.floor_char_boundary(end.min(bytes))].to_owned()
}

/// Checks the lines of a message, and gives the header's.
fn checked_lines(bytes: &[u8]) -> Result<Vec<&str>, TestCaseError> {
    let text = std::str::from_utf8(bytes).unwrap();
    prop_assert!(text.ends_with("\r\n"));
    prop_assert!(!text.replace("\r\n", "").contains(['\r', '\n', '\0']));
    prop_assert!(text.split("\r\n").all(|line| line.len() <= 998));
    let head: Vec<_> = text
        .split("\r\n\r\n")
        .next()
        .unwrap()
        .split("\r\n")
        .collect();
    let mut is_header = true;
    let headers = text.split("\r\n").filter(|line| {
        is_header |= line.starts_with("--=_") && !line.ends_with("--");
        is_header &= !line.is_empty();
        is_header
    });
    for line in headers {
        prop_assert!(!line.trim().is_empty());
        // Only what has no place to break makes a line long: an address, an id, a file name that not every reader puts
        // together again.
        prop_assert!(
            line.len() <= 78
                || line.split_whitespace().count() == 1
                || line.starts_with(" filename=\""),
            "{line:?}"
        );
        let is_one_token = line.split_whitespace().count() == 1;
        prop_assert!(
            line.len() <= 76 || is_one_token || !line.contains("=?"),
            "{line:?}"
        );
    }
    Ok(head)
}

const FIELDS: [&str; 12] = [
    "From",
    "To",
    "Cc",
    "Reply-To",
    "Subject",
    "Message-ID",
    "Date",
    "Auto-Submitted",
    "Feedback-ID",
    "MIME-Version",
    "Content-Type",
    "Content-Transfer-Encoding",
];

/// A media type with its content and whether the HTML shows it.
fn file() -> impl Strategy<Value = (String, Vec<u8>, bool)> {
    let calendar = || {
        "BEGIN:VCALENDAR\r\nMETHOD:REQ\r\n UEST\r\nX-A:Größe\r\n"
            .as_bytes()
            .to_vec()
    };
    prop_oneof![
        Just(("application/pdf".to_owned(), b"x".to_vec(), false)),
        Just(("image/png".to_owned(), vec![0, 255], true)),
        ("[a-z]{1,127}/[a-z]{1,127}", "\\PC{0,20}").prop_map(|(kind, content)| (
            kind,
            content.into_bytes(),
            false
        )),
        ("text/[a-z]{1,127}", "[a-zü€]{0,20}").prop_map(|(kind, content)| (
            kind,
            content.into_bytes(),
            false
        )),
        Just(("text/calendar".to_owned(), calendar(), false)),
        "[^\\p{C}\"\\\\/]{1,120}".prop_map(move |name| (
            format!(
                "text/calendar; method=REQUEST; component=VEVENT; name=\"{name}\"; charset=utf-8"
            ),
            calendar(),
            false
        )),
        "[a-z =_\\n-]{0,60}".prop_map(|text| (
            "message/rfc822".to_owned(),
            format!("Subject: x\n\n{text}").into_bytes(),
            false
        )),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn an_accepted_request_is_read_as_it_was_posted(
        title in odd_text(1..12), name in odd_text(0..8), sender_name in odd_text(0..8), filename in odd_text(1..10),
        file in file(), copies in 0..49_usize, domain in "[a-z]{1,60}(\\.[a-z]{1,60}){0,2}\\.example", local in "[a-z!#$%&'*+/=?^_`{|}~-]{1,64}",
    ) {
        let title = cut(&title, usize::MAX, 500);
        let filename = cut(&filename.replace(['/', '\\'], "_"), 255, 255);
        let address = format!("{local}@{domain}");
        let copies: Vec<_> = (0..copies).map(|n| format!("copy{n}@{domain}")).collect();
        let request = json!({
            "title": title, "body": "b", "html": "<p>b</p>", "channels": ["email"], "category": "appointment",
            "recipients": [{"email": address, "name": cut(&name, usize::MAX, 128)}], "cc": copies, "replyTo": address,
            "attachments": [{"filename": filename, "contentType": file.0, "content": BASE64_STANDARD.encode(&file.1),
                "contentId": file.2.then_some("logo@clinic.example")}]});
        let Ok(Submission { request, .. }) = Submission::parse(request.to_string().as_bytes()) else {
            return Ok(());
        };
        let recipient = &request.recipients[0];
        let sender = Mailbox {
            address: EmailAddress::parse(&format!("desk@{domain}")).unwrap(),
            name: Mailbox::parse_name(&cut(&sender_name, usize::MAX, 128)).ok().filter(|name| !name.is_empty()),
        };
        let message = Message {
            delivery: DeliveryId::parse(&"ab".repeat(16)).unwrap(),
            target: Target::Email(Mailbox { address: recipient.email.clone().unwrap(), name: recipient.name.clone() }),
            content: Arc::new(request.content.clone()),
            reply_to: request.reply_to.clone(),
        };
        let mail = build(&message, &sender, Feedback::Named).unwrap();
        let head = checked_lines(&mail.bytes)?;
        let mut names: Vec<_> = head.iter().filter(|line| !line.starts_with(' ')).map(|line| line.split(':').next().unwrap()).collect();
        prop_assert!(names.iter().all(|name| FIELDS.contains(name)), "{:?}", names);
        let count = names.len();
        names.sort_unstable();
        names.dedup();
        prop_assert_eq!(names.len(), count);

        let read = MessageParser::new().parse(&mail.bytes).unwrap();
        prop_assert_eq!(read.subject().unwrap_or_default(), &title);
        let named = |list: Option<&mail_parser::Address<'_>>| {
            let address = list.and_then(|list| list.first()).unwrap();
            (address.name().map(str::to_owned), address.address().map(str::to_owned))
        };
        prop_assert_eq!(named(read.to()), (recipient.name.clone(), Some(address.clone())));
        prop_assert_eq!(named(read.from()), (sender.name.clone(), Some(sender.address.as_str().to_owned())));
        let read_copies: Vec<_> = read.cc().map(|cc| cc.iter().map(|copy| copy.address().unwrap().to_owned()).collect()).unwrap_or_default();
        prop_assert_eq!(read_copies, copies);
        let part = read.parts.iter().find(|part| part.content_disposition().is_some()).unwrap();
        prop_assert_eq!(part.attachment_name(), Some(filename.as_str()));
        prop_assert_eq!(part.content_id(), file.2.then_some("logo@clinic.example"));
        if !file.0.starts_with("message/") {
            prop_assert_eq!(part.contents(), file.1.as_slice());
        }
        if file.0.starts_with("text/calendar") {
            prop_assert_eq!(part.content_type().unwrap().attribute("method"), Some("REQUEST"));
        }
        prop_assert_eq!(format!("<{}>", read.message_id().unwrap()), mail.message_id);
    }
}
