//! What is true of every message, whatever an accepted request has in it: read by mail-parser, which shares no code with the
//! writers. infra/ci/mime.py reads such messages with Python's `email`.

use std::sync::Arc;

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
    for line in &head {
        prop_assert!(!line.trim().is_empty());
        // Only what has no place to break makes a line long: an address, an id.
        prop_assert!(
            line.len() <= 78 || line.split_whitespace().count() == 1,
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

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn an_accepted_request_is_read_as_it_was_posted(
        title in odd_text(1..12), name in odd_text(0..8), sender_name in odd_text(0..8), filename in odd_text(1..10),
        copies in 0..49_usize, domain in "[a-z]{1,60}(\\.[a-z]{1,60}){0,2}\\.example", local in "[a-z!#$%&'*+/=?^_`{|}~-]{1,64}",
    ) {
        let title = cut(&title, usize::MAX, 500);
        let filename = cut(&filename.replace(['/', '\\'], "_"), 255, 255);
        let address = format!("{local}@{domain}");
        let copies: Vec<_> = (0..copies).map(|n| format!("copy{n}@{domain}")).collect();
        let request = json!({
            "title": title, "body": "b", "html": "<p>b</p>", "channels": ["email"], "category": "appointment",
            "recipients": [{"email": address, "name": cut(&name, usize::MAX, 128)}], "cc": copies, "replyTo": address,
            "attachments": [{"filename": filename, "contentType": "application/pdf", "content": "eA=="}]});
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
        prop_assert_eq!(read.attachment(0).unwrap().attachment_name(), Some(filename.as_str()));
        prop_assert_eq!(format!("<{}>", read.message_id().unwrap()), mail.message_id);
    }
}
