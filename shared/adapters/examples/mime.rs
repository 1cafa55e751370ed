//! Messages for programs that share no code with the MIME builder.
//!
//! `cargo run --package comms-adapters --example mime` writes one JSON object a line: what was posted, and the message. Python
//! reads them (infra/ci/mime.py). `… --example mime -- DIRECTORY FILE…` puts the e-mails of the communications in the files
//! into the directory, as SMTP gets them: an event of tests/events, or a communication itself (infra/ci/spam-score.sh).

#![allow(clippy::print_stdout, reason = "it writes for another program")]

use std::{error::Error, fs, path::Path, sync::Arc};

use base64::{Engine, prelude::BASE64_STANDARD};
use comms_adapters::{
    Message,
    mime::{self, Feedback},
};
use comms_core::{
    DeliveryId, EmailAddress, Mailbox,
    attachment::ContentId,
    media_type::CalendarParameter,
    request::{CommunicationRequest, Recipient, Submission, Target},
};
use serde_json::{Value, json};

/// Messages for Python.
const MESSAGES: usize = 2_000;

/// What headers stumble over.
const PIECES: [&str; 40] = [
    "a",
    "José",
    "Ñúñez",
    "José  Ñúñez",
    "=?utf-8?B?aGk=?=",
    "=?utf-8?Q?a_b?=",
    " ",
    "  ",
    "   ",
    "😀",
    "👩\u{200d}⚕\u{fe0f}",
    "\"",
    "\\",
    "(",
    ")",
    ",",
    ".",
    ";",
    ":",
    "@",
    "=?",
    "?=",
    "_",
    "é",
    "appointment",
    "Здравствуйте",
    "\u{2028}",
    "\u{a0}",
    "\u{feff}",
    "x@example.com",
    "'",
    "[",
    "]",
    "%41",
    "=20",
    "!",
    "\u{fffd}",
    "日本語テキスト",
    "Dr.",
    "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx",
];

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let Some(directory) = arguments.next() else {
        return write_odd_messages();
    };
    for file in arguments {
        write_messages_of(Path::new(&file), Path::new(&directory))?;
    }
    Ok(())
}

/// Numbers that look random and are the same each time (Knuth, MMIX).
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).unwrap_or_default() % limit
    }

    /// A text in some charset, or a calendar with or without parameters.
    fn text_file(&mut self) -> Value {
        let calendar =
            "BEGIN:VCALENDAR\r\nMETHOD:REQ\r\n UEST\r\nX-A:Größe\r\nBEGIN:VEVENT\r\n".as_bytes();
        let texts: [(&str, &[u8]); 6] = [
            ("text/csv", b"Gr\xf6\xdfe"),
            ("text/plain", "Größe\n.\n".as_bytes()),
            (
                "text/x-a-type-with-a-name-as-long-as-no-line-has-room-for-it-and-its-charset",
                "Größe".as_bytes(),
            ),
            ("text/calendar", calendar),
            (
                "text/calendar; method=request; component=VEVENT; name=\"Größe und mehr.ics\"; charset=utf-8",
                calendar,
            ),
            (
                "text/calendar; component=VEVENT",
                b"BEGIN:VCALENDAR\r\nBEGIN:VEVENT\r\n",
            ),
        ];
        let (content_type, content) = texts[self.below(texts.len())];
        json!({"filename": "file.txt", "contentType": content_type, "content": BASE64_STANDARD.encode(content)})
    }

    fn text(&mut self, pieces: usize) -> String {
        let mut text = String::new();
        for _ in 0..=self.below(pieces) {
            let piece = PIECES[self.below(PIECES.len())];
            let times = if self.below(30) == 0 { 40 } else { 1 };
            text.push_str(&piece.repeat(times));
            if self.below(2) == 0 {
                text.push(' ');
            }
        }
        text
    }
}

fn cut(text: &str, characters: usize, bytes: usize) -> String {
    let end = text
        .char_indices()
        .nth(characters)
        .map_or(text.len(), |(at, _)| at);
    text[..text.floor_char_boundary(end.min(bytes))].to_owned()
}

/// Writes messages that are accepted, however odd.
fn write_odd_messages() -> Result<(), Box<dyn Error>> {
    let mut numbers = Numbers(7);
    let mut written = 0;
    while written < MESSAGES {
        let filename = cut(&numbers.text(10).replace(['/', '\\'], "_"), 255, 255);
        let message = "From: a@example.com\r\nSubject: x\r\n\r\nSee you.\r\n";
        let mut files = json!([{"filename": filename, "contentType": "text/csv", "content": BASE64_STANDARD.encode(numbers.text(8))}]);
        if let Some(files) = files.as_array_mut() {
            files.push(numbers.text_file());
        }
        if let (0, Some(files)) = (numbers.below(4), files.as_array_mut()) {
            files.push(json!({"filename": "mail.eml", "contentType": "message/rfc822", "content": BASE64_STANDARD.encode(message)}));
        }
        let body = (numbers.below(2) == 0).then(|| numbers.text(20));
        if let (0, Some(files)) = (numbers.below(3), files.as_array_mut()) {
            // Before the others: it is beside the HTML.
            files.insert(0, json!({"filename": "logo.png", "contentType": "image/png", "content": "eA==", "contentId": "logo@clinic.example"}));
        }
        let copies: Vec<_> = (0..numbers.below(49))
            .map(|n| format!("family.member{n}@mail.clinic.example"))
            .collect();
        let request = json!({
            "title": cut(&numbers.text(14), 500, usize::MAX), "body": body, "html": format!("<p>See you on <b>Monday</b>. {}</p><img src=\"cid:logo@clinic.example\">", numbers.text(20)),
            "channels": ["email"], "cc": copies, "attachments": files, "replyTo": "desk@clinic.example",
            "recipients": [{"email": "patient@example.com", "name": cut(&numbers.text(8), 128, usize::MAX)}]});
        let Ok(Submission { request, .. }) = Submission::parse(request.to_string().as_bytes())
        else {
            continue;
        };
        let recipient = &request.recipients[0];
        let sender = Mailbox {
            address: EmailAddress::parse("appointments@clinic.example")?,
            name: Some(Mailbox::parse_name(&cut(
                &numbers.text(8),
                128,
                usize::MAX,
            ))?),
        };
        let mail = built(&request, recipient, &sender)?.ok_or("a recipient without an address")?;
        let content = &request.content;
        let files: Vec<Value> = content.attachments.iter().map(|file| {
            let id = file.content_id.as_ref().map(ContentId::as_str);
            let posted = file.content_type.parameter(CalendarParameter::Method).map(str::to_owned);
            json!({"method": posted.or_else(|| file.method_to_add()), "contentType": file.content_type, "filename": file.filename, "content": BASE64_STANDARD.encode(&file.content), "contentId": id})
        }).collect();
        let case = json!({
            "title": content.title, "name": recipient.name.as_deref().unwrap_or_default(), "to": "patient@example.com",
            "from": sender.address, "senderName": sender.name, "replyTo": request.reply_to, "html": content.html,
            "cc": content.cc, "body": content.body, "files": files, "mail": BASE64_STANDARD.encode(mail)});
        println!("{case}");
        written += 1;
    }
    Ok(())
}

/// Writes the e-mails of an event of a function, or of a communication.
fn write_messages_of(file: &Path, directory: &Path) -> Result<(), Box<dyn Error>> {
    let document: Value = serde_json::from_slice(&fs::read(file)?)?;
    let records = document["Records"].as_array();
    let bodies: Vec<String> = match (records, document["body"].as_str(), document.get("routeKey")) {
        (Some(records), _, _) => records
            .iter()
            .filter_map(|record| record["body"].as_str())
            .map(str::to_owned)
            .collect(),
        (None, Some(body), Some(_)) => vec![body.to_owned()],
        (None, _, _) => vec![document.to_string()],
    };
    let name = file
        .file_stem()
        .ok_or("a file without a name")?
        .to_string_lossy();
    let sender = Mailbox {
        address: EmailAddress::parse("appointments@clinic.example")?,
        name: Some("Clinic Name, Front Desk".to_owned()),
    };
    for (number, body) in bodies.iter().enumerate() {
        // One of the events is there to be refused.
        let Ok(Submission { request, .. }) = Submission::parse(body.as_bytes()) else {
            continue;
        };
        for (recipient, entry) in request.recipients.iter().enumerate() {
            if let Some(mail) = built(&request, entry, &sender)? {
                fs::write(
                    directory.join(format!("{name}-{number}-{recipient}.eml")),
                    mail,
                )?;
            }
        }
    }
    Ok(())
}

/// The e-mail to a recipient, if that has an address.
fn built(
    request: &CommunicationRequest,
    recipient: &Recipient,
    sender: &Mailbox,
) -> Result<Option<Vec<u8>>, Box<dyn Error>> {
    let Some(address) = recipient.email.clone() else {
        return Ok(None);
    };
    let message = Message {
        delivery: DeliveryId::parse(&"0123456789abcdef".repeat(2))?,
        target: Target::Email(Mailbox {
            address,
            name: recipient.name.clone(),
        }),
        content: Arc::new(request.content.clone()),
        reply_to: request.reply_to.clone(),
    };
    let mail = mime::build(&message, sender, Feedback::Named).map_err(|error| error.to_string())?;
    Ok(Some(mail.bytes))
}
