//! Sizes and addresses beyond ASCII.

use super::*;

#[tokio::test]
async fn a_message_over_the_servers_own_limit_is_not_begun() {
    let world = World::plain(|server| server.max_message_size(4_000)).await;
    let large = changed(|content| content.body = Some("x\n".repeat(4_000)));
    let result = world.send_message(&large).await;
    assert_eq!(
        verdict(&result),
        (Disposition::Final, ErrorKind::InvalidMessage)
    );
    assert!(result.unwrap_err().detail.contains("own limit"));
    assert!(world.said("MAIL").is_empty());
    // The connection was logged in and is as good as before.
    world.send().await.unwrap();
    assert_eq!(world.server.connections(), 1);
}

#[tokio::test]
async fn size_is_declared_as_the_server_counts_it() {
    let world = World::plain(|server| server).await;
    world.send().await.unwrap();
    let got = &world.server.messages()[0];
    assert!(got.text().contains("\r\n.\r\n"), "a dot to be doubled");
    assert_eq!(got.mail_params, [format!("SIZE={}", got.data.len())]);
    let world = World::plain(|server| server.without_extension("SIZE")).await;
    world.send().await.unwrap();
    assert!(world.server.messages()[0].mail_params.is_empty());
}

#[tokio::test]
async fn addresses_beyond_ascii_go_where_smtputf8_is_offered() {
    let options = Options {
        sender: "überweisung@clinic.example",
        ..Options::default()
    };
    let world = World::new(options, |server| server).await;
    let mut message = message_to("jörg@example.com");
    message.reply_to = Some(EmailAddress::parse("größe@clinic.example").unwrap());
    let mut content = (*message.content).clone();
    content.cc = vec![EmailAddress::parse("käthe@example.com").unwrap()];
    content.bcc = vec![EmailAddress::parse("zoë@example.com").unwrap()];
    message.content = Arc::new(content);
    let receipt = world.send_message(&message).await.unwrap();
    assert!(receipt.refused_copies.is_empty());
    let got = &world.server.messages()[0];
    assert_eq!(got.mail_from, "überweisung@clinic.example");
    assert_eq!(
        got.rcpt_to,
        ["jörg@example.com", "käthe@example.com", "zoë@example.com"]
    );
    let size = format!("SIZE={}", got.data.len());
    assert_eq!(
        got.mail_params,
        [size.as_str(), "BODY=8BITMIME", "SMTPUTF8"]
    );
    let text = got.text();
    for line in [
        "From: Clinic <überweisung@clinic.example>\r\n",
        "To: jörg@example.com\r\n",
        "Cc: käthe@example.com\r\n",
        "Reply-To: größe@clinic.example\r\n",
    ] {
        assert!(text.contains(line), "{line:?} in\n{text}");
    }
}

#[tokio::test]
async fn a_blind_copy_beyond_ascii_needs_smtputf8_but_no_8_bit_content() {
    let world = World::plain(|server| server).await;
    world
        .send_message(&message_with(&[], &["zoë@example.com"]))
        .await
        .unwrap();
    let got = &world.server.messages()[0];
    assert_eq!(got.mail_params[1..], ["SMTPUTF8"]);
}

#[tokio::test]
async fn nothing_of_smtputf8_is_said_where_no_address_needs_it() {
    let world = World::plain(|server| server).await;
    let mut message = message_to("patient@bücher.example");
    let mut content = (*message.content).clone();
    content.title = Some("Termin bestätigt".into());
    content.body = Some("Grüße".into());
    message.content = Arc::new(content);
    world.send_message(&message).await.unwrap();
    let got = &world.server.messages()[0];
    assert_eq!(got.rcpt_to, ["patient@xn--bcher-kva.example"]);
    assert_eq!(got.mail_params.len(), 1, "{:?}", got.mail_params);
    assert!(got.data.is_ascii());
}

#[tokio::test]
async fn addresses_beyond_ascii_are_refused_before_mail_where_smtputf8_is_not_offered() {
    use Disposition::ProviderDown;

    let foreign = "überweisung@clinic.example";
    let mut answers = message(1);
    answers.reply_to = Some(EmailAddress::parse("größe@clinic.example").unwrap());
    for (sender, message, expected, unhealthy) in [
        (
            "appointments@clinic.example",
            message_to("jörg@example.com"),
            (ProviderDown, ErrorKind::InvalidRecipient),
            false,
        ),
        (
            foreign,
            message(1),
            (ProviderDown, ErrorKind::SenderNotAllowed),
            true,
        ),
        (
            foreign,
            message_to("jörg@example.com"),
            (ProviderDown, ErrorKind::SenderNotAllowed),
            true,
        ),
        (
            "appointments@clinic.example",
            answers,
            (ProviderDown, ErrorKind::InvalidMessage),
            false,
        ),
    ] {
        let options = Options {
            sender,
            ..Options::default()
        };
        let world = World::new(options, |server| server.without_extension("SMTPUTF8")).await;
        let result = world.send_message(&message).await;
        assert_eq!(verdict(&result), expected);
        assert_eq!(result.unwrap_err().unhealthy, unhealthy);
        assert!(world.said("MAIL").is_empty());
    }
}

#[tokio::test]
async fn copies_beyond_ascii_are_left_out_where_smtputf8_is_not_offered() {
    let world = World::plain(|server| server.without_extension("SMTPUTF8")).await;
    let message = message_with(
        &["käthe@example.com", "a@example.com"],
        &["b@example.com", "zoë@example.com"],
    );
    let receipt = world.send_message(&message).await.unwrap();
    assert_eq!(
        refused_copies(&receipt),
        [(CopyField::Cc, 0, None), (CopyField::Bcc, 1, None)]
    );
    let got = &world.server.messages()[0];
    assert_eq!(
        got.rcpt_to,
        ["patient@example.com", "a@example.com", "b@example.com"]
    );
    assert!(got.data.is_ascii(), "nor is one in the header");
    assert!(got.text().contains("Cc: a@example.com\r\n"));
}

#[tokio::test]
async fn receivers_of_blind_copies_are_in_the_envelope_and_nowhere_else() {
    let world = World::plain(|server| server).await;
    world
        .send_message(&message_with(
            &["seen@example.com"],
            &["unseen@example.com"],
        ))
        .await
        .unwrap();
    let got = &world.server.messages()[0];
    assert_eq!(
        got.rcpt_to,
        [
            "patient@example.com",
            "seen@example.com",
            "unseen@example.com"
        ]
    );
    let text = got.text().to_ascii_lowercase();
    assert!(text.contains("seen@example.com"));
    assert!(!text.contains("unseen") && !text.contains("bcc"), "{text}");
}
