//! Scripted replies and faults.

use super::*;
use crate::tls::TestCa;

#[tokio::test]
async fn scripted_replies_are_used_once_and_standing_ones_afterwards() {
    let server = SmtpServer::builder()
        .on(Stage::Rcpt, Action::reply("550 5.1.1 no such user"))
        .on(Stage::Rcpt, Action::reply("451 4.7.1 greylisted\n"))
        .always(Stage::Noop, Action::reply("250-still\r\n250 here"))
        .on_rcpt("Bad@example.com", Action::reply("553 5.1.3 bad"))
        .start()
        .await;
    let mut client = Client::ready(&server).await;
    expect(
        &mut client,
        &[
            ("MAIL FROM:<a@example.com>", "250 2.1.0 ok"),
            ("RCPT TO:<bad@EXAMPLE.com>", "553 5.1.3 bad"),
            ("RCPT TO:<b@example.com>", "550 5.1.1 no such user"),
            ("RCPT TO:<b@example.com>", "451 4.7.1 greylisted"),
            ("DATA", "554 5.5.1 no valid recipients"),
            ("RCPT TO:<b@example.com>", "250 2.1.5 ok"),
            ("RCPT TO:<bad@example.com>", "553 5.1.3 bad"),
            ("NOOP", "250-still\n250 here"),
            ("NOOP", "250-still\n250 here"),
        ],
    )
    .await;
    server.on(Stage::Noop, Action::reply("250 once"));
    assert_eq!(client.say("NOOP").await, "250 once");
    server.always(Stage::Quit, Action::Close);
    server.clear_script();
    expect(
        &mut client,
        &[("NOOP", "250 2.0.0 ok"), ("QUIT", "221 2.0.0 bye")],
    )
    .await;
}

#[tokio::test]
async fn a_scripted_reply_changes_the_state_as_its_code_says() {
    let ca = TestCa::new();
    let server = SmtpServer::builder()
        .tls(TlsMode::StartTls, ca.server_config(&["127.0.0.1"]))
        .credentials("user", "password")
        .on(Stage::Ehlo, Action::reply("502 5.5.1 what?"))
        .on(Stage::StartTls, Action::reply("454 4.7.0 not now"))
        .on(Stage::EhloAfterTls, Action::reply("421 4.3.2 later"))
        .on(Stage::Auth, Action::reply("454 4.7.0 later"))
        .on(Stage::Mail, Action::reply("451 4.3.0 later"))
        .on(Stage::Data, Action::reply("451 4.3.0 later"))
        .on(Stage::Body, Action::reply("451 4.3.0 later"))
        .on(Stage::Body, Action::reply("250 queued as 17"))
        .on(Stage::Rset, Action::reply("250 flushed"))
        .start()
        .await;
    let mut client = Client::greeted(&server).await;
    expect(
        &mut client,
        &[
            ("EHLO client.example", "502 5.5.1 what?"),
            ("STARTTLS", "503 5.5.1 say EHLO first"),
            ("HELO client.example", "250 localhost at your service"),
            ("STARTTLS", "454 4.7.0 not now"),
            ("STARTTLS", "220 2.0.0 go ahead"),
        ],
    )
    .await;
    let mut client = client.encrypt(&ca).await;
    expect(
        &mut client,
        &[
            ("EHLO client.example", "421 4.3.2 later"),
            (
                "AUTH PLAIN AHVzZXIAcGFzc3dvcmQ=",
                "503 5.5.1 say EHLO first",
            ),
        ],
    )
    .await;
    assert!(client.say("EHLO client.example").await.starts_with("250"));
    expect(
        &mut client,
        &[
            ("AUTH PLAIN AHVzZXIAcGFzc3dvcmQ=", "454 4.7.0 later"),
            (
                "MAIL FROM:<a@example.com>",
                "530 5.7.0 authentication required",
            ),
            ("AUTH PLAIN AHVzZXIAcGFzc3dvcmQ=", "235 2.7.0 authenticated"),
            ("MAIL FROM:<a@example.com>", "451 4.3.0 later"),
            ("MAIL FROM:<a@example.com>", "250 2.1.0 ok"),
            ("RCPT TO:<b@example.com>", "250 2.1.5 ok"),
            ("DATA", "451 4.3.0 later"),
            ("DATA", "354 end with a line that holds a dot alone"),
            ("Hello\r\n.", "451 4.3.0 later"),
            ("RSET", "250 flushed"),
        ],
    )
    .await;
    assert_eq!(server.messages(), []);
    assert_eq!(client.send("Hello").await, "250 queued as 17");
    assert_eq!(server.wait_for_messages(1).await.len(), 1);
}

#[tokio::test]
async fn a_greeting_that_refuses_leaves_only_quit() {
    let server = SmtpServer::builder()
        .on(Stage::Greeting, Action::reply("554 5.3.2 no service"))
        .on(
            Stage::Greeting,
            Action::reply_then_close("421 4.3.2 shutting down"),
        )
        .start()
        .await;
    let mut client = Client::dial(&server).await;
    assert_eq!(client.reply().await, "554 5.3.2 no service");
    expect(
        &mut client,
        &[
            ("EHLO client.example", "503 5.5.1 no service here"),
            ("QUIT", "221 2.0.0 bye"),
        ],
    )
    .await;
    let mut client = Client::dial(&server).await;
    assert_eq!(client.reply().await, "421 4.3.2 shutting down");
    assert!(client.is_closed().await);
}

#[tokio::test]
async fn every_stage_can_end_the_connection_in_place_of_its_reply() {
    let ca = TestCa::new();
    let command = |stage| match stage {
        Stage::Connect | Stage::Greeting => "",
        Stage::Ehlo | Stage::EhloAfterTls => "EHLO client.example",
        Stage::StartTls | Stage::Tls => "EHLO client.example\r\nSTARTTLS",
        Stage::Auth => "EHLO client.example\r\nAUTH PLAIN AHVzZXIAcGFzc3dvcmQ=",
        Stage::Mail => "EHLO client.example\r\nMAIL FROM:<a@example.com>",
        Stage::Rcpt => {
            "EHLO client.example\r\nMAIL FROM:<a@example.com>\r\nRCPT TO:<b@example.com>"
        }
        Stage::Data => {
            "EHLO client.example\r\nMAIL FROM:<a@example.com>\r\nRCPT TO:<b@example.com>\r\nDATA"
        }
        Stage::Body => {
            "EHLO client.example\r\nMAIL FROM:<a@example.com>\r\nRCPT TO:<b@example.com>\r\nDATA\r\nHello\r\n."
        }
        Stage::Rset => "RSET",
        Stage::Noop => "NOOP",
        Stage::Quit => "QUIT",
    };
    for stage in [
        Stage::Connect,
        Stage::Greeting,
        Stage::Ehlo,
        Stage::StartTls,
        Stage::Tls,
        Stage::EhloAfterTls,
        Stage::Auth,
        Stage::Mail,
        Stage::Rcpt,
        Stage::Data,
        Stage::Body,
        Stage::Rset,
        Stage::Noop,
        Stage::Quit,
    ] {
        let server = SmtpServer::builder()
            .tls(TlsMode::StartTls, ca.server_config(&["127.0.0.1"]))
            .auth_mechanisms(&["PLAIN"])
            .auth_without_tls()
            .on(stage, Action::Close)
            .on(stage, Action::Reset)
            .on(stage, Action::Hang)
            .start()
            .await;
        for ending in ["closed", "reset", "hanging"] {
            let mut client = Client::dial(&server).await;
            if stage == Stage::EhloAfterTls {
                client.write("EHLO client.example\r\nSTARTTLS\r\n").await;
                for _ in 0..3 {
                    client.reply().await;
                }
                client = client.encrypt(&ca).await;
            }
            let commands = command(stage);
            if !commands.is_empty() {
                // A connection that is reset before everything was written refuses the rest.
                let _ = client
                    .stream
                    .write_all(format!("{commands}\r\n").as_bytes())
                    .await;
                let _ = client.stream.flush().await;
            }
            let reached = |event: &Event| matches!(event, Event::Reached { stage: at, connection } if *at == stage && *connection == server.connections());
            match ending {
                "closed" => match client.rest().await {
                    Ok(_) => {}
                    // Inside of TLS the missing goodbye shows.
                    Err(error) => {
                        assert_eq!(error.kind(), std::io::ErrorKind::UnexpectedEof, "{stage:?}");
                    }
                },
                "reset" => {
                    let kind = client.rest().await.expect_err("a reset is an error").kind();
                    assert_eq!(kind, std::io::ErrorKind::ConnectionReset, "{stage:?}");
                }
                _ => {
                    server.wait_for_stage(stage, 3).await;
                    assert_eq!(server.open_connections(), 1, "{stage:?}");
                    drop(client);
                    server
                        .wait_for_event(|event| matches!(event, Event::Closed { connection: 3 }))
                        .await;
                }
            }
            server.wait_for_event(reached).await;
        }
        assert_eq!(server.messages(), [], "{stage:?}");
    }
}

#[tokio::test]
async fn a_message_can_be_accepted_without_a_reply() {
    let server = SmtpServer::builder()
        .on(Stage::Body, Action::AcceptThenClose)
        .on(Stage::Body, Action::Close)
        .start()
        .await;
    for _ in 0..2 {
        let mut client = Client::ready(&server).await;
        assert_eq!(client.send("Hello").await, "");
    }
    assert_eq!(server.messages().len(), 1);
}

#[tokio::test]
async fn a_reply_can_be_the_last_one() {
    let server = SmtpServer::builder()
        .on(
            Stage::Body,
            Action::reply_then_close("421 4.7.0 accepted nothing, closing"),
        )
        .start()
        .await;
    let mut client = Client::ready(&server).await;
    client
        .write("MAIL FROM:<a@example.com>\r\nRCPT TO:<b@example.com>\r\nDATA\r\nHello\r\n.\r\nRSET\r\nNOOP\r\n")
        .await;
    for code in ["250", "250", "354", "421"] {
        assert!(client.reply().await.starts_with(code));
    }
    assert!(client.is_closed().await);
    assert_eq!(server.messages(), []);
}

#[tokio::test]
async fn bytes_can_be_injected_behind_the_reply_to_starttls() {
    let ca = TestCa::new();
    let server = SmtpServer::builder()
        .tls(TlsMode::StartTls, ca.server_config(&["127.0.0.1"]))
        .on(
            Stage::StartTls,
            Action::Inject(b"250 injected\r\n".to_vec()),
        )
        .start()
        .await;
    let mut client = Client::ready(&server).await;
    client.write("STARTTLS\r\n").await;
    let received = client.stream.fill_buf().await.unwrap().to_vec();
    assert_eq!(received, b"220 2.0.0 go ahead\r\n250 injected\r\n");
}

#[tokio::test]
async fn a_reply_can_come_byte_by_byte() {
    let server = SmtpServer::builder()
        .on(Stage::Ehlo, Action::Trickle)
        .start()
        .await;
    let mut client = Client::greeted(&server).await;
    let reply = client.say("EHLO client.example").await;
    assert!(reply.starts_with("250-localhost") && reply.ends_with("250 ENHANCEDSTATUSCODES"));
    assert_eq!(
        client.say("MAIL FROM:<a@example.com>").await,
        "250 2.1.0 ok"
    );
}

#[tokio::test]
async fn something_else_can_come_where_tls_is_due() {
    let ca = TestCa::new();
    let server = SmtpServer::builder()
        .tls(TlsMode::Implicit, ca.server_config(&["127.0.0.1"]))
        .on(Stage::Tls, Action::reply("220 I speak in clear"))
        .start()
        .await;
    let mut client = Client::dial(&server).await;
    assert_eq!(client.reply().await, "220 I speak in clear");
    assert!(client.is_closed().await);
}

#[tokio::test]
async fn responder_answers_unscripted_stages_with_user_and_command() {
    let server = SmtpServer::builder()
        .on(Stage::Rcpt, Action::reply("450 4.2.0 scripted"))
        .start()
        .await;
    let seen = Arc::new(Mutex::new(Vec::new()));
    let notes = seen.clone();
    server.act_with(move |reached| {
        let said = reached.message.map(ReceivedMessage::text);
        let about = reached.recipient.map(str::to_owned).or(said)?;
        notes.lock().unwrap().push((reached.stage, about.clone()));
        match (reached.stage, about.as_str()) {
            (Stage::Rcpt, "nobody@example.com") => Some(Action::reply("550 5.1.1 nobody")),
            (Stage::Body, "refused\r\n") => Some(Action::reply("554 5.6.0 no")),
            _ => None,
        }
    });
    let mut client = Client::ready(&server).await;
    expect(
        &mut client,
        &[
            ("MAIL FROM:<desk@clinic.example>", "250 2.1.0 ok"),
            ("RCPT TO:<patient@example.com>", "450 4.2.0 scripted"),
            ("RCPT TO:<nobody@example.com>", "550 5.1.1 nobody"),
            ("RSET", "250 2.0.0 ok"),
        ],
    )
    .await;
    assert_eq!(client.send("refused").await, "554 5.6.0 no");
    assert!(client.send("taken").await.starts_with("250"));
    let texts: Vec<_> = server
        .messages()
        .iter()
        .map(ReceivedMessage::text)
        .collect();
    assert_eq!(
        texts,
        ["taken\r\n"],
        "what is refused at its end is not accepted"
    );
    let patient = (Stage::Rcpt, "patient@example.com".to_owned());
    let expected = [
        (Stage::Rcpt, "nobody@example.com".to_owned()),
        patient.clone(),
        (Stage::Body, "refused\r\n".to_owned()),
        patient,
        (Stage::Body, "taken\r\n".to_owned()),
    ];
    assert_eq!(*seen.lock().unwrap(), expected);
}
