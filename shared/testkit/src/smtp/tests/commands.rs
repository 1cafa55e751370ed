//! Commands in and out of order, and what is refused.

use super::*;

#[tokio::test]
async fn ehlo_offers_what_is_configured_and_only_that() {
    let server = SmtpServer::builder()
        .max_message_size(1_000)
        .without_extension("8bitmime")
        .start()
        .await;
    let mut client = Client::greeted(&server).await;
    assert_eq!(
        client.say("EHLO client.example").await,
        "250-localhost at your service\n250-PIPELINING\n250-SIZE 1000\n250-SMTPUTF8\n250 ENHANCEDSTATUSCODES"
    );
    assert_eq!(
        client.say("MAIL FROM:<a@example.com> BODY=8BITMIME").await,
        "555 5.5.4 BODY is not offered"
    );

    let bare = SmtpServer::builder().extensions(&[]).start().await;
    let mut client = Client::greeted(&bare).await;
    assert_eq!(
        client.say("EHLO client.example").await,
        "250 localhost at your service"
    );
    assert_eq!(client.say("MAIL FROM:<a@example.com>").await, "250 ok");
}

#[tokio::test]
async fn helo_offers_no_extensions() {
    let server = SmtpServer::builder().start().await;
    let mut client = Client::greeted(&server).await;
    expect(
        &mut client,
        &[
            ("HELO client.example", "250 localhost at your service"),
            (
                "MAIL FROM:<a@example.com> BODY=8BITMIME",
                "555 5.5.4 parameters need EHLO",
            ),
            ("MAIL FROM:<>", "250 2.1.0 ok"),
        ],
    )
    .await;
}

#[tokio::test]
async fn pipelined_commands_are_answered_in_order() {
    let server = SmtpServer::builder().start().await;
    let mut client = Client::ready(&server).await;
    client
        .write("MAIL FROM:<a@example.com>\r\nRCPT TO:<b@example.com>\r\nRCPT TO:<c@example.com>\r\nDATA\r\n")
        .await;
    for code in ["250 2.1.0", "250 2.1.5", "250 2.1.5", "354"] {
        assert!(client.reply().await.starts_with(code));
    }
    client
        .write("Hello\r\n.\r\nMAIL FROM:<a@example.com>\r\nRSET\r\nQUIT\r\n")
        .await;
    for code in ["250 2.0.0", "250 2.1.0", "250 2.0.0", "221"] {
        assert!(client.reply().await.starts_with(code));
    }
    assert_eq!(server.messages().len(), 1);
}

#[tokio::test]
async fn message_without_recipients_can_be_allowed_and_is_refused_at_its_end() {
    let server = SmtpServer::builder()
        .data_without_recipients()
        .on(Stage::Rcpt, Action::reply("550 5.1.1 unknown"))
        .start()
        .await;
    let mut client = Client::ready(&server).await;
    client
        .write("MAIL FROM:<a@example.com>\r\nRCPT TO:<b@example.com>\r\nDATA\r\n")
        .await;
    for code in ["250 2.1.0", "550 5.1.1", "354"] {
        assert!(client.reply().await.starts_with(code));
    }
    assert_eq!(client.say(".").await, "554 5.5.1 no valid recipients");
    assert!(server.messages().is_empty());
    assert_eq!(
        client.say("MAIL FROM:<a@example.com>").await,
        "250 2.1.0 ok"
    );
}

#[tokio::test]
async fn replies_to_pipelined_commands_can_be_sent_together() {
    let server = SmtpServer::builder().replies_together().start().await;
    let mut client = Client::ready(&server).await;
    let group = "MAIL FROM:<a@example.com>\r\nRCPT TO:<b@example.com>\r\nDATA\r\n";
    client.write(group).await;
    let first = client.stream.fill_buf().await.unwrap();
    let text = String::from_utf8_lossy(first).into_owned();
    let codes: Vec<_> = text.lines().map(|line| &line[..3]).collect();
    assert_eq!(codes, ["250", "250", "354"]);
    for _ in codes {
        client.reply().await;
    }
    assert!(client.say("text\r\n.").await.starts_with("250"));
    // What is held is not lost when the connection ends behind it.
    client.write("NOOP\r\nQUIT\r\n").await;
    assert!(client.reply().await.starts_with("250"));
    assert!(client.reply().await.starts_with("221"));
    assert_eq!(client.reply().await, "");
}

#[tokio::test]
async fn pipelining_that_was_not_offered_is_refused() {
    let server = SmtpServer::builder()
        .without_extension("PIPELINING")
        .start()
        .await;
    let mut client = Client::ready(&server).await;
    client.write("NOOP\r\nNOOP\r\n").await;
    assert_eq!(client.reply().await, "250 2.0.0 ok");
    assert!(
        client
            .reply()
            .await
            .starts_with("503 5.5.1 commands came ahead")
    );
    assert_eq!(client.say("NOOP").await, "250 2.0.0 ok");
}

#[tokio::test]
async fn commands_out_of_order_are_refused() {
    let server = SmtpServer::builder().start().await;
    let mut client = Client::greeted(&server).await;
    expect(
        &mut client,
        &[
            ("MAIL FROM:<a@example.com>", "503 5.5.1 say EHLO first"),
            ("NOOP", "250 2.0.0 ok"),
            ("EHLO ", "501 5.5.4 who is there?"),
            ("HELO client.example", "250 localhost at your service"),
            ("RCPT TO:<b@example.com>", "503 5.5.1 need MAIL first"),
            ("DATA", "503 5.5.1 need MAIL first"),
            ("MAIL FROM:<a@example.com>", "250 2.1.0 ok"),
            (
                "MAIL FROM:<a@example.com>",
                "503 5.5.1 a transaction is open already",
            ),
            ("DATA", "554 5.5.1 no valid recipients"),
            ("RSET", "250 2.0.0 ok"),
            ("RCPT TO:<b@example.com>", "503 5.5.1 need MAIL first"),
            ("MAIL FROM:<a@example.com>", "250 2.1.0 ok"),
            ("HELO client.example", "250 localhost at your service"),
            ("RCPT TO:<b@example.com>", "503 5.5.1 need MAIL first"),
            ("STARTTLS", "502 5.5.1 STARTTLS is not offered"),
            (
                "AUTH PLAIN AHVzZXIAcGFzc3dvcmQ=",
                "502 5.5.1 AUTH is not offered",
            ),
            ("VRFY a@example.com", "252 2.1.5 send a message and see"),
            ("EXPN all", "502 5.5.1 not implemented"),
            ("BURL x", "500 5.5.1 unknown command"),
        ],
    )
    .await;
}

#[tokio::test]
async fn addresses_and_parameters_that_are_wrong_are_refused() {
    let server = SmtpServer::builder()
        .max_message_size(100)
        .max_recipients(1)
        .start()
        .await;
    let mut client = Client::ready(&server).await;
    expect(
        &mut client,
        &[
            (
                "MAIL FROM: <a@example.com>",
                "501 5.5.4 syntax: MAIL FROM:<address>",
            ),
            (
                "MAIL FROM:a@example.com",
                "501 5.5.4 syntax: MAIL FROM:<address>",
            ),
            (
                "MAIL FROM:<a@example.com>x",
                "501 5.5.4 syntax: MAIL FROM:<address>",
            ),
            ("MAIL FROM:<a>", "553 5.1.3 that is not an address"),
            (
                "MAIL FROM:<j\u{f6}rg@example.com>",
                "553 5.6.7 the address needs SMTPUTF8",
            ),
            (
                "MAIL FROM:<a@example.com> SIZE=101",
                "552 5.3.4 message too big",
            ),
            (
                "MAIL FROM:<a@example.com> SIZE=x",
                "501 5.5.4 SIZE is a number",
            ),
            (
                "MAIL FROM:<a@example.com> RET=FULL",
                "555 5.5.4 RET is not offered",
            ),
            ("MAIL FROM:<j\u{f6}rg@example.com> SMTPUTF8", "250 2.1.0 ok"),
            ("RCPT TO:<>", "501 5.1.3 an address is missing"),
            (
                "RCPT TO:<b@example.com> NOTIFY=NEVER",
                "555 5.5.4 NOTIFY=NEVER is not offered",
            ),
            ("RCPT TO:<b@example.com>", "250 2.1.5 ok"),
            ("RCPT TO:<c@example.com>", "452 4.5.3 too many recipients"),
        ],
    )
    .await;
}

#[tokio::test]
async fn malformed_lines_are_refused_and_the_session_continues() {
    let server = SmtpServer::builder().start().await;
    let mut client = Client::ready(&server).await;
    let long = format!("NOOP {}", "x".repeat(100_000));
    assert_eq!(client.say(&long).await, "500 5.5.2 line too long");
    client.write("NOOP\n").await;
    let refusal = "500 5.5.2 a command is text that ends in CRLF";
    assert_eq!(client.reply().await, refusal);
    client.write(b"NOOP \0\r\nNOOP \xff\r\n").await;
    assert_eq!(client.reply().await, refusal);
    assert_eq!(client.reply().await, refusal);
    assert_eq!(client.say("NOOP").await, "250 2.0.0 ok");
}

#[tokio::test]
async fn a_peer_that_does_not_speak_smtp_is_sent_away() {
    let server = SmtpServer::builder().start().await;
    let mut client = Client::greeted(&server).await;
    for _ in 0..20 {
        assert!(client.say("GET / HTTP/1.1").await.starts_with("500"));
    }
    assert_eq!(client.say("Host: x").await, "421 4.7.0 too many errors");
    assert!(client.is_closed().await);
}

#[tokio::test]
async fn a_message_over_the_size_limit_is_read_to_its_end_and_refused() {
    let server = SmtpServer::builder().max_message_size(1_000).start().await;
    let mut client = Client::ready(&server).await;
    let line = format!("{}\r\n", "x".repeat(70));
    assert_eq!(
        client.send(line.repeat(100).trim_end()).await,
        "552 5.3.4 message too big"
    );
    assert!(client.send("short").await.starts_with("250"));
    assert_eq!(server.messages().len(), 1);
}

#[tokio::test]
async fn a_line_over_the_limit_is_refused_however_long_it_is() {
    let server = SmtpServer::builder().start().await;
    let mut client = Client::ready(&server).await;
    assert!(client.send(&"x".repeat(998)).await.starts_with("250"));
    let refusal = "554 5.6.0 a line of the message is too long";
    assert_eq!(client.send(&"x".repeat(999)).await, refusal);
    assert_eq!(client.send(&"x".repeat(1_000_000)).await, refusal);
    // A dot in the middle of a line is neither stuffed nor the end, wherever the pieces are cut.
    let server = SmtpServer::builder().max_text_line(100_000).start().await;
    let mut client = Client::ready(&server).await;
    let dots = format!("x{}", ".".repeat(50_000));
    assert!(client.send(&dots).await.starts_with("250"));
    assert_eq!(server.messages()[0].text(), format!("{dots}\r\n"));
}
