//! The commands and replies of one transaction, pipelined and not.

use super::*;

#[tokio::test]
async fn with_pipelining_a_message_takes_two_writes_the_last_with_its_final_dot() {
    let script = [
        ("DATA\r\n", "250 ok\r\n250 ok\r\n354 go ahead\r\n"),
        ("\r\n.\r\n", "250 ok\r\n"),
    ];
    let told = converse(&message(&[], &[]), PIPELINING, &script).await;
    assert_eq!((told.result, told.in_step), (Ok(Vec::new()), true));
    assert_eq!(told.writes.len(), 2, "{:?}", told.writes);
    assert_eq!(told.writes[0], format!("{MAIL}{RCPT}DATA\r\n"));
    assert!(told.writes[1].starts_with("From: ") && told.writes[1].ends_with("\r\n.\r\n"));
}

#[tokio::test]
async fn without_pipelining_every_command_waits_for_its_reply() {
    let script = [
        (MAIL, "250 ok\r\n"),
        (RCPT, "250 ok\r\n"),
        ("RCPT TO:<a@example.com>\r\n", "250 ok\r\n"),
        ("DATA\r\n", "354 go ahead\r\n"),
        ("\r\n.\r\n", "250 ok\r\n"),
    ];
    let told = converse(
        &message(&["a@example.com"], &[]),
        ServerCapabilities::default(),
        &script,
    )
    .await;
    assert_eq!((told.result, told.in_step), (Ok(Vec::new()), true));
    assert_eq!(told.writes.len(), 5, "{:?}", told.writes);
}

#[tokio::test]
async fn with_copies_data_waits_until_it_is_known_who_takes_the_message() {
    let script = [
        (
            "RCPT TO:<b@example.com>\r\n",
            "250 ok\r\n250 ok\r\n550 5.1.1 no\r\n452 4.5.3 too many\r\n",
        ),
        ("DATA\r\n", "354 go ahead\r\n"),
        ("\r\n.\r\n", "250 ok\r\n"),
    ];
    let message = message(&["a@example.com"], &["b@example.com"]);
    let told = converse(&message, PIPELINING, &script).await;
    assert_eq!(told.writes.len(), 3, "{:?}", told.writes);
    let refused: Vec<_> = told
        .result
        .unwrap()
        .into_iter()
        .map(|copy| {
            (
                copy.field,
                copy.index,
                copy.code.unwrap().as_str().to_owned(),
            )
        })
        .collect();
    assert_eq!(
        refused,
        [
            (CopyField::Cc, 0, "550 5.1.1".to_owned()),
            (CopyField::Bcc, 0, "452 4.5.3".to_owned()),
        ]
    );
    assert!(told.in_step);
}

#[tokio::test]
async fn a_refusal_within_a_group_counts_and_the_replies_behind_it_are_read() {
    let refused = |stage, code, enhanced| {
        let reply = Reply {
            code,
            enhanced: Some(enhanced),
            throttling: None,
            text_hint: None,
        };
        Err(Failure::new(stage, Cause::Reply(reply)))
    };
    let no_sender = refused(Stage::Mail, 550, (5, 7, 1));
    let no_recipient = refused(Stage::Rcpt, 550, (5, 1, 1));
    for (replies, ends_with_a_dot, result, in_step) in [
        (
            "550 5.7.1 no\r\n503 5.5.1 no\r\n503 5.5.1 no\r\n",
            false,
            no_sender.clone(),
            true,
        ),
        (
            "550 5.7.1 no\r\n503 5.5.1 no\r\n354 go ahead\r\n",
            true,
            no_sender.clone(),
            true,
        ),
        // Somebody would get a message of nothing: not even the dot is sent.
        (
            "550 5.7.1 no\r\n250 ok\r\n354 go ahead\r\n",
            false,
            no_sender,
            false,
        ),
        (
            "250 ok\r\n550 5.1.1 no\r\n503 5.5.1 no\r\n",
            false,
            no_recipient.clone(),
            true,
        ),
        (
            "250 ok\r\n550 5.1.1 no\r\n354 go ahead\r\n",
            true,
            no_recipient.clone(),
            true,
        ),
        (
            "250 ok\r\n550 5.1.1 no\r\n250 what\r\n",
            false,
            no_recipient.clone(),
            false,
        ),
        (
            "250 ok\r\n550 5.1.1 no\r\n421 closing\r\n",
            false,
            no_recipient.clone(),
            false,
        ),
        (
            "250 ok\r\n550 5.1.1 no\r\n554 no\r\n250 one too many\r\n",
            false,
            no_recipient,
            false,
        ),
    ] {
        let script = [("DATA\r\n", replies), ("\r\n.\r\n", ""), (".\r\n", "")];
        let dot = [("DATA\r\n", replies), (".\r\n", "554 5.5.1 nobody\r\n")];
        let script = if ends_with_a_dot {
            &dot[..]
        } else {
            &script[..1]
        };
        let told = converse(&message(&[], &[]), PIPELINING, script).await;
        assert_eq!(
            (told.result, told.in_step),
            (result, in_step),
            "{replies:?}"
        );
        let dots = told.writes.iter().filter(|text| *text == ".\r\n").count();
        assert_eq!(dots, usize::from(ends_with_a_dot), "{replies:?}");
        let said = usize::from(ends_with_a_dot) + 1;
        assert_eq!(told.writes.len(), said, "{:?}", told.writes);
    }
}

#[tokio::test]
async fn replies_that_nobody_asked_for_keep_the_message_back() {
    for (replies, cause) in [
        // Taken for the reply to the message, the last would be a success that is none.
        (
            "250 ok\r\n250 ok\r\n354 go ahead\r\n250 accepted\r\n",
            Cause::Malformed,
        ),
        ("250 ok\r\n250 ok\r\n354 go ahead\r\n2", Cause::Malformed),
        // Nor is a refusal of something else the verdict on a message that was never sent.
        (
            "250 ok\r\n250 ok\r\n354 go ahead\r\n550 5.1.1 no\r\n",
            Cause::Malformed,
        ),
        (
            "250 ok\r\n250 ok\r\n354 go ahead\r\n421 closing\r\n",
            Cause::Reply(Reply::new(421, "")),
        ),
    ] {
        let told = converse(&message(&[], &[]), PIPELINING, &[("DATA\r\n", replies)]).await;
        let expected = Err(Failure::new(Stage::Data, cause));
        assert_eq!(
            (told.result, told.in_step),
            (expected, false),
            "{replies:?}"
        );
        assert_eq!(told.writes.len(), 1, "{:?}", told.writes);
    }
}

#[tokio::test]
async fn what_is_said_behind_the_acceptance_does_not_undo_it_but_ends_the_connection() {
    let script = [
        ("DATA\r\n", "250 ok\r\n250 ok\r\n354 go ahead\r\n"),
        ("\r\n.\r\n", "250 ok\r\n250 and more\r\n"),
    ];
    let told = converse(&message(&[], &[]), PIPELINING, &script).await;
    assert_eq!((told.result, told.in_step), (Ok(Vec::new()), false));
}

#[tokio::test]
async fn what_the_last_message_left_unread_is_not_taken_for_a_reply_to_the_next() {
    let (stream, mut server) = tokio::io::duplex(1_024);
    let mut wire = Wire::new(stream, 0);
    server.write_all(b"250 late\r\n").await.unwrap();
    assert!(!wire.is_in_step());
    assert_eq!(wire.write(b"NOOP\r\n", 1).await, Err(Cause::Malformed));
}

fn large_message() -> Message {
    let mut large = message(&[], &[]);
    let mut content = (*large.content).clone();
    content.body = Some("A line of text.\n".repeat(20_000));
    large.content = Arc::new(content);
    large
}

/// What a server says before it has the whole of a message is not its reply to the message: not a
/// success, not a reason to send it again, and no doubt whether it was taken.
#[tokio::test]
async fn a_word_before_the_end_of_a_large_message_is_no_reply_to_it() {
    for (early, cause) in [
        ("250 stray\r\n", Cause::Malformed),
        (
            "451 4.3.0 stray\r\n",
            Cause::Reply(Reply::new(451, "4.3.0")),
        ),
        ("421 closing\r\n", Cause::Reply(Reply::new(421, "closing"))),
    ] {
        let large = large_message();
        let (stream, mut server) = tokio::io::duplex(4_096);
        let server = async {
            let mut heard = Vec::new();
            while !heard.ends_with(b"DATA\r\n") {
                server.read_buf(&mut heard).await.unwrap();
            }
            let replies = "250 ok\r\n250 ok\r\n354 go ahead\r\n";
            server.write_all(replies.as_bytes()).await.unwrap();
            while heard.len() < 10_000 {
                server.read_buf(&mut heard).await.unwrap();
            }
            server.write_all(early.as_bytes()).await.unwrap();
            let _ = server.read_to_end(&mut heard).await;
            heard
        };
        let sending = async {
            let sender = sender();
            let mut draft = Draft::new(&large, &sender, Feedback::Named).unwrap();
            let submission = draft.for_server(&PIPELINING).unwrap();
            let mut wire = Wire::new(stream, 0);
            let deadline = Deadline::after(Duration::from_secs(5));
            let result =
                send_transaction(&mut wire, &PIPELINING, &submission, START, deadline).await;
            (result, wire.is_in_step())
        };
        let ((result, in_step), heard) = tokio::join!(sending, server);
        assert_eq!(result, Err(Failure::new(Stage::Data, cause)), "{early:?}");
        assert!(!in_step);
        assert!(!heard.ends_with(b"\r\n.\r\n"), "{early:?}");
    }
}

/// A server that closes in the middle of a large message cannot have accepted it.
#[tokio::test]
async fn a_message_whose_end_never_left_is_not_in_doubt() {
    for (last_word, cause) in [
        ("", Cause::Closed),
        (
            "552 5.3.4 too big\r\n",
            Cause::Reply(Reply::new(552, "5.3.4")),
        ),
    ] {
        let large = large_message();
        let (stream, mut server) = tokio::io::duplex(4_096);
        let server = async {
            let mut heard = Vec::new();
            while !heard.ends_with(b"DATA\r\n") {
                server.read_buf(&mut heard).await.unwrap();
            }
            let replies = "250 ok\r\n250 ok\r\n354 go ahead\r\n";
            server.write_all(replies.as_bytes()).await.unwrap();
            while heard.len() < 10_000 {
                server.read_buf(&mut heard).await.unwrap();
            }
            server.write_all(last_word.as_bytes()).await.unwrap();
            drop(server);
        };
        let sender = sender();
        let mut draft = Draft::new(&large, &sender, Feedback::Named).unwrap();
        let submission = draft.for_server(&PIPELINING).unwrap();
        let mut wire = Wire::new(stream, 0);
        let deadline = Deadline::after(Duration::from_secs(5));
        let sending = send_transaction(&mut wire, &PIPELINING, &submission, START, deadline);
        let (result, ()) = tokio::join!(sending, server);
        assert_eq!(result, Err(Failure::new(Stage::Data, cause)));
        assert!(!wire.is_in_step());
    }
}

/// RSET after a refused message costs no round trip where commands may go together.
#[tokio::test]
async fn the_reset_after_a_refusal_goes_out_with_the_next_mail() {
    let after = Start {
        after_refusal: true,
        ..START
    };
    let group = "RSET\r\nMAIL FROM:<appointments@clinic.example>\r\nRCPT TO:<patient@example.com>\r\nDATA\r\n";
    let script = [
        ("DATA\r\n", "250 ok\r\n250 ok\r\n250 ok\r\n354 go\r\n"),
        ("\r\n.\r\n", "252 ok\r\n"),
    ];
    let told = converse_from(after, &message(&[], &[]), PIPELINING, &script).await;
    assert_eq!(told.result, Ok(Vec::new()));
    assert!(told.in_step);
    assert_eq!(told.writes[0], group);
    assert_eq!(told.writes.len(), 2);
    // Each on its own elsewhere.
    let capabilities = ServerCapabilities {
        pipelining: false,
        ..PIPELINING
    };
    let script = [
        ("RSET\r\n", "200 ok\r\n"),
        ("example>\r\n", "250 ok\r\n"),
        ("example.com>\r\n", "250 ok\r\n"),
        ("DATA\r\n", "354 go\r\n"),
        ("\r\n.\r\n", "250 ok\r\n"),
    ];
    let told = converse_from(after, &message(&[], &[]), capabilities, &script).await;
    assert_eq!(told.result, Ok(Vec::new()));
    assert_eq!(told.writes[0], "RSET\r\n");
}
