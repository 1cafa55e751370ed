//! What is true of every answer of a provider.

#![allow(
    clippy::unwrap_used,
    reason = "what is not as it should be is the target's failure"
)]

use std::{sync::Arc, time::Duration};

use comms_core::{
    DeliveryId, Disposition, EmailAddress, Mailbox, ProviderError, Receipt,
    request::{Content, Target},
};
use comms_testkit::fuzz::PLANTED;
use http::{HeaderName, HeaderValue};
use jiff::Timestamp;

use crate::{
    message::Message,
    net::http::{HttpResponse, of_question, provider_id},
};

/// When every answer came in.
const RECEIVED: Timestamp = Timestamp::constant(1_700_000_000, 0);

/// The status line, the headers and the body of an answer: `202`, `name: value` lines, an empty line, the body.
pub(crate) fn parts(input: &[u8]) -> (u16, Vec<(String, String)>, &[u8]) {
    let end = input.windows(2).position(|pair| pair == b"\n\n");
    let (head, body) = end.map_or((input, &b""[..]), |end| (&input[..end], &input[end + 2..]));
    let head = String::from_utf8_lossy(head);
    let mut lines = head.lines();
    let status = lines.next().and_then(|line| line.trim().parse().ok());
    let headers = lines.filter_map(|line| {
        let (name, value) = line.split_once(':')?;
        let fits = HeaderName::from_bytes(name.as_bytes()).is_ok()
            && HeaderValue::from_str(value.trim()).is_ok();
        fits.then(|| (name.to_owned(), value.trim().to_owned()))
    });
    // What is no status of HTTP (RFC 9110 section 15) never gets this far.
    let status = status
        .filter(|status| (100..=999).contains(status))
        .unwrap_or(200);
    (status, headers.collect(), body)
}

/// The answer in an input.
pub(crate) fn answer(input: &[u8]) -> HttpResponse {
    let (status, headers, body) = parts(input);
    let headers: Vec<_> = headers
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_str()))
        .collect();
    HttpResponse::of(status, &headers, body, RECEIVED)
}

/// A mailbox without a name.
pub(crate) fn mailbox(address: &str) -> Mailbox {
    Mailbox {
        address: EmailAddress::parse(address).unwrap(),
        name: None,
    }
}

/// The e-mail that an answer is about: to `patient@example.com`, with copies.
pub(crate) fn email(copies: &[&str]) -> Message {
    Message {
        delivery: DeliveryId::parse("0123456789abcdef0123456789abcdef").unwrap(),
        target: Target::Email(mailbox("patient@example.com")),
        content: Arc::new(Content {
            title: Some("Title".to_owned()),
            body: Some("Body".to_owned()),
            cc: copies.iter().map(|copy| mailbox(copy).address).collect(),
            ..Content::default()
        }),
        reply_to: None,
    }
}

/// What is true of every answer to a message: it is a receipt only where the status is 2xx.
pub(crate) fn check_sent(status: u16, result: Result<Receipt, ProviderError>) {
    match result {
        Ok(receipt) => {
            assert!(
                (200..300).contains(&status),
                "accepted with status {status}"
            );
            assert_eq!(
                provider_id(&receipt.message_id).as_ref(),
                Some(&receipt.message_id)
            );
        }
        Err(error) => check_error(error),
    }
}

/// What is true of every answer to a question: it never leaves a doubt whether a message was sent.
pub(crate) fn check_asked<T>(result: Result<T, ProviderError>) {
    if let Err(error) = result {
        let error = of_question(error);
        assert_ne!(error.disposition, Disposition::Ambiguous);
        check_error(error);
    }
}

/// What is true of every error.
pub(crate) fn check_error(error: ProviderError) {
    assert!(
        error
            .retry_after
            .is_none_or(|wait| wait <= Duration::from_hours(24)),
        "{error:?}"
    );
    // The code is the provider's own. It can have no address in it.
    assert!(
        !error
            .code
            .as_ref()
            .is_some_and(|code| code.as_str().contains(['@', '+'])),
        "{error:?}"
    );
    let text = format!("{0} {0:?}", error.with_code(None));
    assert!(!text.contains(PLANTED), "{text}");
}
