//! STARTTLS, TLS from the first byte, and AUTH.

use rustls::pki_types::ServerName;
use tokio_rustls::TlsConnector;

use super::*;
use crate::tls::TestCa;

#[tokio::test]
async fn starttls_protects_what_follows_and_forgets_what_was_before() {
    let ca = TestCa::new();
    let server = secure_server(&ca).await;
    let mut client = Client::greeted(&server).await;
    assert!(
        client
            .say("EHLO client.example")
            .await
            .ends_with("250 STARTTLS")
    );
    assert_eq!(client.say("STARTTLS").await, "220 2.0.0 go ahead");
    let mut client = client.encrypt(&ca).await;
    assert_eq!(
        client.say("AUTH PLAIN AHVzZXIAcGFzc3dvcmQ=").await,
        "503 5.5.1 say EHLO first"
    );
    let offered = client.say("EHLO client.example").await;
    assert!(offered.ends_with("250 AUTH PLAIN LOGIN"), "{offered}");
    assert!(!offered.contains("STARTTLS"));
    assert_eq!(client.say("STARTTLS").await, "503 5.5.1 TLS is on already");
    assert_eq!(
        client.say("AUTH PLAIN AHVzZXIAcGFzc3dvcmQ=").await,
        "235 2.7.0 authenticated"
    );
    assert!(client.send("Hello").await.starts_with("250"));
    let message = &server.messages()[0];
    assert!(message.over_tls);
    assert_eq!(message.authenticated_as.as_deref(), Some("user"));
}

#[tokio::test]
async fn commands_smuggled_in_behind_starttls_are_dropped() {
    let ca = TestCa::new();
    let server = secure_server(&ca).await;
    let mut client = Client::ready(&server).await;
    client.write("STARTTLS\r\nRSET\r\nNOOP\r\n").await;
    assert!(client.reply().await.starts_with("220"));
    let mut client = client.encrypt(&ca).await;
    assert!(
        client
            .say("EHLO client.example")
            .await
            .starts_with("250-localhost")
    );
    assert_eq!(client.say("NOOP").await, "250 2.0.0 ok");
    assert!(!server.transcript().contains(&"C: RSET".to_owned()));
}

#[tokio::test]
async fn starttls_that_is_hidden_is_not_accepted_either() {
    let ca = TestCa::new();
    let server = SmtpServer::builder()
        .tls(TlsMode::StartTls, ca.server_config(&["127.0.0.1"]))
        .without_extension("STARTTLS")
        .require_tls()
        .start()
        .await;
    let mut client = Client::greeted(&server).await;
    assert!(!client.say("EHLO client.example").await.contains("STARTTLS"));
    expect(
        &mut client,
        &[
            ("STARTTLS", "502 5.5.1 STARTTLS is not offered"),
            (
                "MAIL FROM:<a@example.com>",
                "530 5.7.0 must issue a STARTTLS command first",
            ),
        ],
    )
    .await;
}

#[tokio::test]
async fn implicit_tls_encrypts_from_the_first_byte() {
    let ca = TestCa::new();
    let server = SmtpServer::builder()
        .tls(TlsMode::Implicit, ca.server_config(&["127.0.0.1"]))
        .credentials("user", "password")
        .start()
        .await;
    let mut client = Client::dial(&server).await.encrypt(&ca).await;
    assert_eq!(client.reply().await, "220 localhost ESMTP ready");
    let offered = client.say("EHLO client.example").await;
    assert!(offered.contains("AUTH PLAIN LOGIN") && !offered.contains("STARTTLS"));
    expect(
        &mut client,
        &[
            ("AUTH PLAIN AHVzZXIAcGFzc3dvcmQ=", "235 2.7.0 authenticated"),
            ("QUIT", "221 2.0.0 bye"),
        ],
    )
    .await;
    // A goodbye in good order: read_to_end fails without TLS's close_notify.
    assert!(client.is_closed().await);
}

#[tokio::test]
async fn a_client_that_refuses_the_certificate_is_noticed() {
    let ca = TestCa::new();
    let server = secure_server(&ca).await;
    let mut client = Client::ready(&server).await;
    assert!(client.say("STARTTLS").await.starts_with("220"));
    let name = ServerName::try_from("127.0.0.1").unwrap();
    let refused = TlsConnector::from(TestCa::new().client_config())
        .connect(name, client.stream.into_inner())
        .await;
    assert!(refused.is_err());
    server
        .wait_for_event(|event| matches!(event, Event::HandshakeFailed { connection: 1 }))
        .await;
}

#[tokio::test]
async fn auth_is_demanded_and_refused_in_clear() {
    let ca = TestCa::new();
    let server = secure_server(&ca).await;
    let mut client = Client::greeted(&server).await;
    assert!(!client.say("EHLO client.example").await.contains("AUTH"));
    expect(
        &mut client,
        &[
            (
                "MAIL FROM:<a@example.com>",
                "530 5.7.0 authentication required",
            ),
            (
                "AUTH PLAIN AHVzZXIAcGFzc3dvcmQ=",
                "538 5.7.11 encryption required for requested authentication mechanism",
            ),
        ],
    )
    .await;
}

#[tokio::test]
async fn every_user_has_a_password_and_a_script_of_their_own() {
    let ca = TestCa::new();
    let server = SmtpServer::builder()
        .tls(TlsMode::StartTls, ca.server_config(&["127.0.0.1"]))
        .credentials("one", "first")
        .credentials("two", "second")
        .always_for("one", Stage::Mail, Action::reply("451 4.3.0 later"))
        .always_for("three", Stage::Auth, Action::reply("454 4.7.0 later"))
        .start()
        .await;
    let login = |user: &str, password: &str| {
        format!("AUTH PLAIN {}", base64(&format!("\0{user}\0{password}")))
    };
    let (mail, wrong) = (
        "MAIL FROM:<a@example.com>",
        "535 5.7.8 authentication credentials invalid",
    );
    let mut one = Client::secured(&server, &ca).await;
    expect(
        &mut one,
        &[
            (login("one", "second").as_str(), wrong),
            (login("three", "third").as_str(), "454 4.7.0 later"),
            (login("one", "first").as_str(), "235 2.7.0 authenticated"),
            (mail, "451 4.3.0 later"),
        ],
    )
    .await;
    server.set_password("two", "third");
    let mut two = Client::secured(&server, &ca).await;
    expect(
        &mut two,
        &[
            (login("two", "second").as_str(), wrong),
            (login("two", "third").as_str(), "235 2.7.0 authenticated"),
            (mail, "250 2.1.0 ok"),
        ],
    )
    .await;
    server.set_password("two", "fourth");
    expect(&mut two, &[("RCPT TO:<b@example.com>", "250 2.1.5 ok")]).await;
}

#[tokio::test]
async fn auth_plain_and_login_take_the_right_password_only() {
    let ca = TestCa::new();
    let server = secure_server(&ca).await;
    let mut client = Client::secured(&server, &ca).await;
    let (user, password) = (base64("user"), base64("password"));
    let wrong = "535 5.7.8 authentication credentials invalid";
    expect(
        &mut client,
        &[
            (&format!("AUTH PLAIN {}", base64("\0user\0wrong")), wrong),
            (
                &format!("AUTH PLAIN {}", base64("\0other\0password")),
                wrong,
            ),
            (
                &format!("AUTH PLAIN {}", base64("boss\0user\0password")),
                "535 5.7.8 nobody may act for somebody else",
            ),
            (
                &format!("AUTH PLAIN {}", base64("user")),
                "501 5.5.2 PLAIN has three fields",
            ),
            ("AUTH PLAIN !", "501 5.5.2 not base64"),
            (
                "AUTH CRAM-MD5",
                "504 5.5.4 unknown authentication mechanism",
            ),
            ("AUTH PLAIN", "334 "),
            ("*", "501 5.7.0 authentication cancelled"),
            ("AUTH LOGIN", "334 VXNlcm5hbWU6"),
            (&user, "334 UGFzc3dvcmQ6"),
            (&base64("wrong"), wrong),
            (&format!("AUTH LOGIN {user}"), "334 UGFzc3dvcmQ6"),
            (&password, "235 2.7.0 authenticated"),
            ("AUTH LOGIN", "503 5.5.1 not now"),
            ("MAIL FROM:<a@example.com>", "250 2.1.0 ok"),
        ],
    )
    .await;

    let mut other = Client::secured(&server, &ca).await;
    expect(
        &mut other,
        &[
            ("AUTH PLAIN", "334 "),
            (&base64("user\0user\0password"), "235 2.7.0 authenticated"),
        ],
    )
    .await;
}

#[tokio::test]
async fn the_transcript_shows_no_credentials_and_no_bodies() {
    let server = SmtpServer::builder()
        .credentials("user", "password")
        .auth_without_tls()
        .extensions(&["ENHANCEDSTATUSCODES"])
        .start()
        .await;
    let mut client = Client::ready(&server).await;
    client
        .say(&format!("AUTH PLAIN {}", base64("\0user\0wrong")))
        .await;
    client.say("AUTH LOGIN").await;
    client.say(&base64("user")).await;
    client.say(&base64("password")).await;
    client.send("A secret").await;
    client.say("QUIT").await;
    assert_eq!(
        server.transcript(),
        [
            "S: 220 localhost ESMTP ready",
            "C: EHLO client.example",
            "S: 250-localhost at your service",
            "S: 250-ENHANCEDSTATUSCODES",
            "S: 250 AUTH PLAIN LOGIN",
            "C: AUTH PLAIN ***",
            "S: 535 5.7.8 authentication credentials invalid",
            "C: AUTH LOGIN",
            "S: 334 VXNlcm5hbWU6",
            "C: ***",
            "S: 334 UGFzc3dvcmQ6",
            "C: ***",
            "S: 235 2.7.0 authenticated",
            "C: MAIL FROM:<desk@clinic.example>",
            "S: 250 2.1.0 ok",
            "C: RCPT TO:<patient@example.com>",
            "S: 250 2.1.5 ok",
            "C: DATA",
            "S: 354 end with a line that holds a dot alone",
            "C: <10 bytes>",
            "S: 250 2.0.0 accepted as 1.1",
            "C: QUIT",
            "S: 221 2.0.0 bye",
        ]
    );
    assert_eq!(server.transcript_of(1), server.transcript());
}
