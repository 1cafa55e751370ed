//! Messages that SES cannot carry.

use super::*;

async fn refused(message: &Message) -> ProviderError {
    let double = Double::default();
    let error = sent(&double.provider(keys()), message).await.unwrap_err();
    assert!(double.seen().is_empty(), "a request was made: {error}");
    error
}

#[tokio::test]
async fn what_ses_cannot_take_makes_no_request() {
    let copies = |count: usize| -> Vec<_> {
        (0..count)
            .map(|n| address(&format!("copy{n}@example.com")))
            .collect()
    };
    let full = message(|content| content.cc = copies(49));
    assert!(
        sent(&Double::default().provider(keys()), &full)
            .await
            .is_ok()
    );
    let too_large = "x".repeat(30_000_000);
    for (message, named) in [
        (message(|content| content.cc = copies(50)), "50 recipients"),
        (
            message(|content| (content.cc, content.bcc) = (copies(25), copies(25))),
            "50 recipients",
        ),
        (message(|content| content.html = Some(too_large)), "40 MB"),
        (
            message(|content| content.attachments = vec![attachment(30_000_000)]),
            "40 MB",
        ),
        (message(|content| content.title = None), "subject"),
        (
            message(|content| {
                content.title = None;
                content.attachments = vec![attachment(1)];
            }),
            "subject",
        ),
        (
            message(|content| (content.body, content.html) = (None, None)),
            "body",
        ),
    ] {
        let error = refused(&message).await;
        assert_eq!(error.disposition, Disposition::Final);
        assert_eq!(error.kind, ErrorKind::InvalidMessage);
        assert!(error.detail.contains(named), "{}", error.detail);
    }
}

#[tokio::test]
async fn a_message_for_another_channel_is_refused() {
    let mut other = message(|_| {});
    other.target = Target::Whatsapp(PhoneNumber::parse("+14155550100").unwrap());
    let error = refused(&other).await;
    assert_eq!(
        (error.disposition, error.kind),
        (Disposition::Final, ErrorKind::InvalidMessage)
    );
}

#[tokio::test]
async fn an_address_beyond_ascii_is_left_to_another_provider() {
    let beyond = || address("jürgen@example.com");
    let mut to = message(|_| {});
    to.target = Target::Email(Mailbox {
        address: beyond(),
        name: None,
    });
    let mut reply_to = message(|_| {});
    reply_to.reply_to = Some(beyond());
    let cc = message(|content| content.cc = vec![beyond()]);
    let bcc = message(|content| content.bcc = vec![beyond()]);
    for message in [to, reply_to, cc, bcc] {
        let error = refused(&message).await;
        assert_eq!(error.disposition, Disposition::ProviderDown);
        assert_eq!(error.kind, ErrorKind::InvalidRecipient);
        assert!(!error.unhealthy);
    }
    let double = Double::default();
    let mut sender = sender();
    sender.address = beyond();
    let provider = double.provider_from(settings(), sender);
    let error = sent(&provider, &message(|_| {})).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::SenderNotAllowed);
    assert!(double.seen().is_empty());
}

#[tokio::test]
async fn a_domain_beyond_ascii_is_sent_in_its_ascii_form() {
    let mut message = message(|_| {});
    message.target = Target::Email(Mailbox {
        address: address("patient@bücher.example"),
        name: Some("Jürgen".to_owned()),
    });
    let body = body_of(keys(), &message).await;
    assert_eq!(
        body["Destination"]["ToAddresses"][0],
        "=?utf-8?Q?J=C3=BCrgen?= <patient@xn--bcher-kva.example>"
    );
}

#[test]
fn a_name_that_would_not_fit_is_left_out() {
    let mut mailbox = sender();
    mailbox.name = Some("ü".repeat(60));
    assert_eq!(with_fitting_name(&mailbox), mailbox);
    mailbox.name = Some("ü".repeat(128));
    assert_eq!(with_fitting_name(&mailbox).name, None);
}

proptest! {
    #[test]
    fn a_name_reads_back_from_its_header(name in "\\PC{1,60}") {
        let whole = Mailbox { address: address("a@example.com"), name: Some(name.clone()) };
        let text = mailbox(&whole);
        prop_assert!(text.bytes().all(|b| b == b' ' || b.is_ascii_graphic()), "{text}");
        prop_assert!(text.split(' ').all(|word| !word.starts_with("=?") || word.len() <= 75), "{text}");
        let header = format!("From: {text}\r\n\r\n");
        let mail = MessageParser::default().parse(header.as_bytes()).unwrap();
        let from = mail.from().unwrap();
        prop_assert_eq!(from.iter().count(), 1);
        let from = from.first().unwrap();
        prop_assert_eq!(from.address(), Some("a@example.com"));
        // Spaces at the ends are lost on the way.
        prop_assert_eq!(from.name().unwrap_or_default().trim(), name.trim());
    }
}
