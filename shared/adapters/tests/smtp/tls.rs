//! STARTTLS, implicit TLS and certificates.

use super::*;

#[tokio::test]
async fn a_message_goes_out_over_starttls_and_over_implicit_tls() {
    for tls in [TlsMode::StartTls, TlsMode::Implicit] {
        let world = World::new(
            Options {
                tls,
                ..Options::default()
            },
            |server| server,
        )
        .await;
        let receipt = world.send().await.unwrap();
        let messages = world.server.messages();
        assert_eq!(messages.len(), 1);
        let got = &messages[0];
        assert!(got.over_tls);
        assert_eq!(got.authenticated_as.as_deref(), Some("clinic-user"));
        assert_eq!(got.mail_from, "appointments@clinic.example");
        assert_eq!(got.rcpt_to, ["patient@example.com"]);
        let text = got.text();
        assert!(
            text.contains(&format!("Message-ID: {}\r\n", receipt.message_id)),
            "{text}"
        );
        assert!(
            text.contains("\r\n.\r\nA line with a dot"),
            "dots arrive as they were: {text}"
        );
        assert_eq!(receipt.message_id, format!("<{:032x}@clinic.example>", 1));
    }
}

#[tokio::test]
async fn names_are_resolved_and_the_certificate_is_for_the_name() {
    let options = || Options {
        host: "smtp.clinic.example",
        names: &["smtp.clinic.example"],
        ..Options::default()
    };
    let world = World::new(options(), |server| server).await;
    world.send().await.unwrap();
    let world = World::new(
        Options {
            names: &["other.example"],
            ..options()
        },
        |server| server,
    )
    .await;
    assert_eq!(
        verdict(&world.send().await),
        (Disposition::ProviderDown, ErrorKind::Unauthenticated)
    );
    assert!(world.server.messages().is_empty());
}

#[tokio::test]
async fn a_certificate_that_does_not_verify_ends_the_conversation_before_the_password() {
    for options in [
        Options {
            trusted: false,
            ..Options::default()
        },
        Options {
            expired: true,
            ..Options::default()
        },
        Options {
            tls: TlsMode::Implicit,
            trusted: false,
            ..Options::default()
        },
    ] {
        let world = World::new(options, |server| server).await;
        assert_eq!(
            verdict(&world.send().await),
            (Disposition::ProviderDown, ErrorKind::Unauthenticated)
        );
        assert!(
            !world
                .server
                .transcript()
                .iter()
                .any(|line| line.contains("AUTH P")),
            "{:?}",
            world.server.transcript()
        );
    }
}

#[tokio::test]
async fn a_self_signed_certificate_that_is_given_is_trusted_for_its_own_names() {
    for (names, detail) in [
        (&["mail.example"][..], None),
        (&["other.example"], Some("subjectAltName")),
    ] {
        let options = Options {
            shows_given: true,
            host: "mail.example",
            names,
            ..Options::default()
        };
        let world = World::new(options, |server| server).await;
        let sent = world.send().await;
        match detail {
            None => assert!(sent.is_ok(), "{sent:?}"),
            Some(words) => assert!(sent.unwrap_err().detail.contains(words)),
        }
    }
}

#[tokio::test]
async fn nothing_is_sent_to_a_server_without_starttls() {
    let world = World::plain(|server| server.without_extension("STARTTLS")).await;
    assert_eq!(
        verdict(&world.send().await),
        (Disposition::ProviderDown, ErrorKind::Unauthenticated)
    );
    let said: Vec<_> = world
        .server
        .transcript()
        .into_iter()
        .filter(|line| line.contains("C: "))
        .collect();
    assert_eq!(said.len(), 1, "EHLO and nothing after it: {said:?}");
}

#[tokio::test]
async fn what_arrives_in_clear_with_the_starttls_reply_is_never_taken_for_tls() {
    let injected = b"250-injected\r\n250 AUTH PLAIN\r\n".to_vec();
    let world = World::plain(|server| server.on(Stage::StartTls, Action::Inject(injected))).await;
    assert_eq!(
        verdict(&world.send().await),
        (Disposition::ProviderDown, ErrorKind::Unauthenticated)
    );
    let secured = |event: &Event| matches!(event, Event::Secured { .. });
    assert!(!world.server.events().iter().any(secured));
    assert!(world.server.messages().is_empty());
    assert!(
        !world
            .server
            .transcript()
            .iter()
            .any(|line| line.contains("AUTH PLAIN ") && line.contains("C: "))
    );
}

#[tokio::test]
async fn what_was_offered_before_tls_is_forgotten() {
    let world = World::plain(|server| {
        let reply = "250-mail.example\n250 AUTH PLAIN";
        server.on(Stage::EhloAfterTls, Action::reply(reply))
    })
    .await;
    world.send().await.unwrap();
    assert_eq!(
        world.said("MAIL"),
        ["MAIL FROM:<appointments@clinic.example>"]
    );
}
