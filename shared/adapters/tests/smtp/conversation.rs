//! Commands and replies in their order.

use super::*;

#[tokio::test]
async fn odd_replies_do_not_turn_an_acceptance_into_a_doubt() {
    let blank = "250-mail.example\n250- \n250 AUTH PLAIN";
    let world = World::plain(|server| server.on(Stage::EhloAfterTls, Action::reply(blank))).await;
    world.send().await.unwrap();
    let world = World::plain(|server| server.on(Stage::Body, Action::reply("250 Grüße"))).await;
    world.send().await.unwrap();
    for stage in [
        Stage::Greeting,
        Stage::EhloAfterTls,
        Stage::Mail,
        Stage::Rcpt,
        Stage::Data,
        Stage::Body,
    ] {
        let world = World::plain(|server| server.on(stage, Action::Trickle)).await;
        world.send().await.unwrap();
    }
}

#[tokio::test]
async fn the_whole_conversation_as_it_goes_over_the_wire() {
    let world = World::plain(|server| server).await;
    world
        .send_message(&message_with(
            &["family@example.com"],
            &["desk@example.com"],
        ))
        .await
        .unwrap();
    world.send().await.unwrap();
    insta::assert_snapshot!(world.server.transcript_of(1).join("\n"), @r"
    S: 220 localhost ESMTP ready
    C: EHLO clinic.example
    S: 250-localhost at your service
    S: 250-PIPELINING
    S: 250-SIZE 26214400
    S: 250-8BITMIME
    S: 250-SMTPUTF8
    S: 250-ENHANCEDSTATUSCODES
    S: 250 STARTTLS
    C: STARTTLS
    S: 220 2.0.0 go ahead
    C: EHLO clinic.example
    S: 250-localhost at your service
    S: 250-PIPELINING
    S: 250-SIZE 26214400
    S: 250-8BITMIME
    S: 250-SMTPUTF8
    S: 250-ENHANCEDSTATUSCODES
    S: 250 AUTH PLAIN LOGIN
    C: AUTH PLAIN ***
    S: 235 2.7.0 authenticated
    C: MAIL FROM:<appointments@clinic.example> SIZE=808
    S: 250 2.1.0 ok
    C: RCPT TO:<patient@example.com>
    S: 250 2.1.5 ok
    C: RCPT TO:<family@example.com>
    S: 250 2.1.5 ok
    C: RCPT TO:<desk@example.com>
    S: 250 2.1.5 ok
    C: DATA
    S: 354 end with a line that holds a dot alone
    C: <808 bytes>
    S: 250 2.0.0 accepted as 1.1
    C: MAIL FROM:<appointments@clinic.example> SIZE=784
    S: 250 2.1.0 ok
    C: RCPT TO:<patient@example.com>
    S: 250 2.1.5 ok
    C: DATA
    S: 354 end with a line that holds a dot alone
    C: <784 bytes>
    S: 250 2.0.0 accepted as 1.2
    ");
}

#[tokio::test]
async fn ehlo_says_the_name_that_is_set() {
    for (ehlo_name, said) in [
        (None, "EHLO clinic.example"),
        (Some("out.clinic.example"), "EHLO out.clinic.example"),
        (Some("192.0.2.7"), "EHLO [192.0.2.7]"),
        (Some("2001:db8::7"), "EHLO [IPv6:2001:db8::7]"),
    ] {
        let options = Options {
            ehlo_name,
            ..Options::default()
        };
        let world = World::new(options, |server| server).await;
        world.send().await.unwrap();
        assert_eq!(world.said("EHLO"), [said, said]);
    }
}

#[tokio::test]
async fn a_copy_that_is_refused_does_not_keep_the_message_from_the_others() {
    for pipelining in [true, false] {
        let world = World::plain(|server| {
            let server = server
                .on_rcpt("b@example.com", Action::reply("550 5.1.1 unknown"))
                .on_rcpt("d@example.com", Action::reply("452 4.5.3 too many"))
                .on_rcpt("e@example.com", Action::reply("450 4.2.0 later"));
            if pipelining {
                server
            } else {
                server.without_extension("PIPELINING")
            }
        })
        .await;
        let message = message_with(
            &["a@example.com", "b@example.com"],
            &["c@example.com", "d@example.com", "e@example.com"],
        );
        let receipt = world.send_message(&message).await.unwrap();
        assert_eq!(
            refused_copies(&receipt),
            [
                (CopyField::Cc, 1, Some("550 5.1.1")),
                (CopyField::Bcc, 1, Some("452 4.5.3")),
                (CopyField::Bcc, 2, Some("450 4.2.0")),
            ]
        );
        let messages = world.server.messages();
        assert_eq!(messages.len(), 1);
        assert_eq!(
            messages[0].rcpt_to,
            ["patient@example.com", "a@example.com", "c@example.com"]
        );
        world.send().await.unwrap();
        assert_eq!(world.server.connections(), 1);
    }
}

#[tokio::test]
async fn when_the_recipient_is_refused_nobody_gets_a_copy() {
    for pipelining in [true, false] {
        let world = World::plain(|server| {
            let unknown = Action::reply("550 5.1.1 unknown");
            let server = server.on_rcpt("patient@example.com", unknown);
            if pipelining {
                server
            } else {
                server.without_extension("PIPELINING")
            }
        })
        .await;
        let message = message_with(&["a@example.com"], &["b@example.com"]);
        let result = world.send_message(&message).await;
        assert_eq!(
            verdict(&result),
            (Disposition::Final, ErrorKind::InvalidRecipient)
        );
        // With the next message where it costs no round trip, else at once.
        assert_eq!(world.said("RSET").len(), usize::from(!pipelining));
        assert!(world.said("DATA").is_empty());
        assert!(world.server.messages().is_empty());
        // The transaction is over: the next message is not the refused one's.
        world
            .send_message(&message_to("other@example.com"))
            .await
            .unwrap();
        assert_eq!(world.server.connections(), 1);
        assert_eq!(world.server.messages()[0].rcpt_to, ["other@example.com"]);
    }
}

#[tokio::test]
async fn a_message_that_is_asked_for_although_its_recipient_was_refused_is_ended_by_a_dot() {
    let world = World::plain(|server| {
        let unknown = Action::reply("550 5.1.1 unknown");
        server.data_without_recipients().on(Stage::Rcpt, unknown)
    })
    .await;
    let result = world.send().await;
    assert_eq!(
        verdict(&result),
        (Disposition::Final, ErrorKind::InvalidRecipient)
    );
    assert_eq!(world.said("<"), ["<0 bytes>"]);
    assert!(world.server.messages().is_empty());
    world.send().await.unwrap();
    assert_eq!(
        (world.server.messages().len(), world.server.connections()),
        (1, 1)
    );
}

#[tokio::test]
async fn a_reply_that_is_cut_within_a_group_sends_nothing() {
    for (stage, reply) in [
        (Stage::Mail, "250-half of a reply"),
        (Stage::Rcpt, "250-half of a reply"),
        (Stage::Data, "354-half of a reply"),
    ] {
        let cut = Action::reply_then_close(reply);
        let world = World::plain(|server| server.on(stage, cut)).await;
        assert_eq!(
            verdict(&world.send().await),
            (Disposition::Transient, ErrorKind::Unavailable),
            "{stage:?}"
        );
        assert!(world.server.messages().is_empty());
        // Half a reply is none: the next command's stage was not reached by it.
        let conversation = world.server.transcript().join("\n");
        assert!(!conversation.contains("bytes>"), "{conversation}");
        world.send().await.unwrap();
        assert_eq!(world.server.connections(), 2);
    }
}

/// RFC 2920 section 3.2 wants the replies to a group in one segment; the others here come one by one.
#[tokio::test]
async fn replies_to_a_group_may_come_together() {
    let world = World::plain(|server| {
        server
            .replies_together()
            .on_rcpt("b@example.com", Action::reply("550 5.1.1 unknown"))
            .on_rcpt("gone@example.com", Action::reply("550 5.1.1 unknown"))
    })
    .await;
    world.send().await.unwrap();
    let gone = world.send_message(&message_to("gone@example.com")).await;
    assert_eq!(
        verdict(&gone),
        (Disposition::Final, ErrorKind::InvalidRecipient)
    );
    let copies = message_with(&["a@example.com"], &["b@example.com"]);
    let receipt = world.send_message(&copies).await.unwrap();
    let refused = [(CopyField::Bcc, 0, Some("550 5.1.1"))];
    assert_eq!(refused_copies(&receipt), refused);
    let recipients: Vec<_> = world
        .server
        .messages()
        .into_iter()
        .map(|it| it.rcpt_to)
        .collect();
    let expected = [
        vec!["patient@example.com"],
        vec!["patient@example.com", "a@example.com"],
    ];
    assert_eq!(recipients, expected);
    assert_eq!(world.server.connections(), 1);
}

#[tokio::test]
async fn replies_ahead_of_their_commands_send_nothing() {
    for stage in [Stage::EhloAfterTls, Stage::Auth, Stage::Mail, Stage::Rcpt] {
        let ahead = b"250 ok\r\n250 ok\r\n354 go ahead\r\n250 2.0.0 accepted\r\n".to_vec();
        let world = World::plain(|server| server.on(stage, Action::Inject(ahead))).await;
        assert_eq!(
            verdict(&world.send().await),
            (Disposition::Transient, ErrorKind::Unexpected),
            "{stage:?}"
        );
        assert!(world.server.messages().is_empty(), "{stage:?}");
        let conversation = world.server.transcript().join("\n");
        assert!(!conversation.contains("bytes>"), "{conversation}");
        world.send().await.unwrap();
        assert_eq!(world.server.connections(), 2, "{stage:?}");
    }
}

#[tokio::test]
async fn a_connection_carries_no_more_messages_than_servers_like() {
    let options = Options {
        max_connections: 1,
        ..Options::default()
    };
    let world = World::new(options, |server| server).await;
    for _ in 0..101 {
        world.send().await.unwrap();
    }
    assert_eq!(world.server.connections(), 2);
}

#[tokio::test]
async fn a_server_that_says_good_bye_after_each_message_costs_none() {
    let options = Options {
        max_connections: 1,
        ..Options::default()
    };
    let world = World::new(options, |server| server.max_messages_per_session(1)).await;
    for _ in 0..5 {
        world.send().await.unwrap();
    }
    assert_eq!(world.server.messages().len(), 5);
}

#[tokio::test]
async fn a_reply_more_than_was_asked_for_is_never_taken_for_the_acceptance() {
    let surplus = b"250 2.0.0 accepted\r\n".to_vec();
    let world = World::plain(|server| server.on(Stage::Data, Action::Inject(surplus))).await;
    assert_eq!(
        verdict(&world.send().await),
        (Disposition::Transient, ErrorKind::Unexpected)
    );
    assert!(world.server.messages().is_empty());
    world.send().await.unwrap();
    assert_eq!(world.server.connections(), 2);
}

#[tokio::test]
async fn what_follows_the_acceptance_ends_the_connection_and_not_the_acceptance() {
    let surplus = b"250 2.0.0 and more\r\n".to_vec();
    let world = World::plain(|server| server.on(Stage::Body, Action::Inject(surplus))).await;
    world.send().await.unwrap();
    world.send().await.unwrap();
    assert_eq!(
        (world.server.messages().len(), world.server.connections()),
        (2, 2)
    );
}
