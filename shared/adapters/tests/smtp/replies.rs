//! What replies mean in a whole conversation: the first digit decides (RFC 5321 section 4.2.1).

use super::*;

#[tokio::test]
async fn any_success_after_the_message_is_acceptance() {
    for reply in [
        "200 ok",
        "250",
        "251 will forward",
        "252 2.1.5 accepted",
        "299 x",
    ] {
        let world = World::plain(|server| server.on(Stage::Body, Action::reply(reply))).await;
        world.send().await.unwrap();
        world.send().await.unwrap();
        let counts = (world.server.messages().len(), world.server.connections());
        assert_eq!(counts, (2, 1), "{reply}");
    }
}

#[tokio::test]
async fn the_first_digit_decides_at_every_stage() {
    for (stage, reply) in [
        (Stage::Greeting, "221 mail.example"),
        (Stage::StartTls, "250 go"),
        (Stage::EhloAfterTls, "252-mail.example\n252 AUTH PLAIN"),
        (Stage::Auth, "250 welcome"),
        (Stage::Mail, "200 ok"),
        (Stage::Rcpt, "252 2.1.5 cannot verify"),
        (Stage::Data, "350 go on"),
    ] {
        let world = World::plain(|server| server.on(stage, Action::reply(reply))).await;
        let sent = world.send().await;
        assert!(sent.is_ok(), "{stage:?} {reply}: {sent:?}");
        assert_eq!(world.server.messages().len(), 1, "{stage:?} {reply}");
    }
}

#[tokio::test]
async fn good_bye_to_the_message_is_a_refusal_that_passes_and_ends_the_connection() {
    for reply in ["421 4.3.2 shutting down", "421 4.4.2 x", "421 closing"] {
        let script = Action::reply_then_close(reply);
        let world = World::plain(|server| server.on(Stage::Body, script)).await;
        let sent = world.send().await;
        assert_eq!(
            verdict(&sent),
            (Disposition::Transient, ErrorKind::Unavailable),
            "{reply}"
        );
        world.send().await.unwrap();
        let counts = (world.server.messages().len(), world.server.connections());
        assert_eq!(counts, (1, 2), "{reply}");
    }
}

/// The login of a server that offers both and takes only LOGIN.
async fn plain_refused_by(reply: &'static str) -> (World, Result<Receipt, ProviderError>) {
    let world = World::plain(|server| {
        server
            .auth_mechanisms(&["PLAIN", "LOGIN"])
            .on(Stage::Auth, Action::reply(reply))
    })
    .await;
    let sent = world.send().await;
    (world, sent)
}

#[tokio::test]
async fn another_mechanism_is_tried_where_plain_is_not_taken() {
    for reply in [
        "504 5.5.4 Unrecognized authentication type",
        "504 5.7.4 x",
        "534 5.7.9 Authentication mechanism is too weak",
        "501 5.5.2 cannot decode",
        "501 5.7.0 no initial response",
    ] {
        let (world, sent) = plain_refused_by(reply).await;
        assert!(sent.is_ok(), "{reply}: {sent:?}");
        assert_eq!(world.said("AUTH").len(), 2, "{reply}");
        assert_eq!(world.server.connections(), 1, "{reply}");
    }
}

#[tokio::test]
async fn no_other_mechanism_is_tried_where_the_login_is_refused() {
    for reply in [
        "535 5.7.8 Authentication credentials invalid",
        "535 5.7.139 Authentication unsuccessful, basic authentication is disabled.",
        "550 5.7.30 Basic authentication is not supported for Client Submission.",
        "534-5.7.9 Application-specific password required.\n534 5.7.9 See the help pages",
        "530 5.7.0 x",
        "454 4.7.0 later",
    ] {
        let (world, sent) = plain_refused_by(reply).await;
        assert!(sent.is_err(), "{reply}");
        assert_eq!(world.said("AUTH").len(), 1, "{reply}");
    }
}

/// What the server does next is the end of a login that it has refused already.
#[tokio::test]
async fn a_refused_login_stays_refused_when_the_server_then_hangs_up() {
    for refusal in ["504 5.5.4 Unrecognized", "534 5.7.9 too weak"] {
        for end in [Action::Close, Action::reply_then_close("421 4.7.0 bye")] {
            let world = World::plain(|server| {
                server
                    .auth_mechanisms(&["PLAIN", "LOGIN"])
                    .on(Stage::Auth, Action::reply(refusal))
                    .on(Stage::Auth, end)
            })
            .await;
            let sent = world.send().await;
            assert_eq!(
                verdict(&sent),
                (Disposition::ProviderDown, ErrorKind::Unauthenticated),
                "{refusal}"
            );
        }
    }
}

#[tokio::test]
async fn no_second_password_is_given_where_a_login_on_pages_is_wanted() {
    for reply in [
        "534-5.7.9 Please log in with your web browser and then try again. For more\n534 5.7.9 https://support.google.com/mail/?p=WebLoginRequired",
        "534 5.7.14 Please log in through your web browser",
        "534-5.7.14 <https://accounts.google.com/signin/continue> Please log in\n534-5.7.14 via\n534 5.7.14 your web browser",
        "534 5.7.14 other words",
    ] {
        let (world, sent) = plain_refused_by(reply).await;
        assert!(sent.unwrap_err().detail.contains("app password"), "{reply}");
        assert_eq!(world.said("AUTH").len(), 1, "{reply}");
    }
}

/// The server says its reply to DATA once more, and then the one to the message.
#[tokio::test]
async fn a_success_behind_a_request_for_more_is_acceptance() {
    let script = Action::reply("354 go\n250 accepted");
    let world = World::plain(|server| server.on(Stage::Body, script)).await;
    world.send().await.unwrap();
    world.send().await.unwrap();
    assert_eq!(world.server.connections(), 2);
}

#[tokio::test]
async fn a_request_for_more_after_the_message_leaves_a_doubt() {
    for (script, kind) in [
        (Action::reply_then_close("354 go"), ErrorKind::Timeout),
        (Action::reply("354 go\n354 go"), ErrorKind::Unexpected),
    ] {
        let world = World::plain(|server| server.on(Stage::Body, script)).await;
        let sent = world.send().await;
        assert_eq!(verdict(&sent), (Disposition::Ambiguous, kind));
    }
}

#[tokio::test]
async fn a_reply_whose_lines_have_codes_of_one_class_is_one_reply() {
    let script = Action::reply("250-queued\n252 ok");
    let world = World::plain(|server| server.on(Stage::Body, script)).await;
    world.send().await.unwrap();
}

#[tokio::test]
async fn a_sender_that_is_refused_at_the_recipient_is_no_fault_of_the_recipient() {
    let refusal = "553 5.7.1 <appointments@clinic.example>: Sender address rejected: not owned by user clinic-user";
    let world = World::plain(|server| server.on(Stage::Rcpt, Action::reply(refusal))).await;
    let sent = world.send().await;
    assert_eq!(
        verdict(&sent),
        (Disposition::ProviderDown, ErrorKind::SenderNotAllowed)
    );
    assert!(sent.unwrap_err().detail.contains("defaultFrom"));
}
