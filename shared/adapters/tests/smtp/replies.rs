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
