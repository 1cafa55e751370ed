//! A received message as a patient sees it.

use comms_testkit::smtp::ReceivedMessage;
use mail_parser::MessageParser;

/// What a patient sees of a message.
#[derive(Debug, PartialEq, Eq)]
pub struct Mail {
    pub from: String,
    pub to: String,
    pub reply_to: Option<String>,
    pub subject: String,
    pub message_id: String,
}

impl Mail {
    pub fn of(message: &ReceivedMessage) -> Self {
        let parsed = MessageParser::default().parse(&message.data).unwrap();
        let address = |address: &mail_parser::Address<'_>| {
            assert_eq!(address.iter().count(), 1, "{address:?}");
            address.first().unwrap().address().unwrap().to_owned()
        };
        Self {
            from: address(parsed.from().unwrap()),
            to: address(parsed.to().unwrap()),
            reply_to: parsed.reply_to().map(address),
            subject: parsed.subject().unwrap().to_owned(),
            message_id: parsed.message_id().unwrap().to_owned(),
        }
    }
}
