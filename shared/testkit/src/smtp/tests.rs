//! The server as a client sees it, byte by byte.

use std::time::Duration;

use rustls::pki_types::ServerName;
use tokio::io::{
    AsyncBufReadExt as _, AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, BufReader,
};
use tokio_rustls::TlsConnector;

use super::*;
use crate::tls::TestCa;

trait Transport: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Transport for T {}

/// A client that sends what it is told and reads replies, and knows nothing else of SMTP.
struct Client {
    stream: BufReader<Box<dyn Transport>>,
}

impl Client {
    /// Connects and says nothing.
    async fn dial(server: &SmtpServer) -> Self {
        let socket = TcpStream::connect(server.addr()).await.unwrap();
        socket.set_nodelay(true).unwrap();
        Self {
            stream: BufReader::new(Box::new(socket)),
        }
    }

    /// Connects and reads the greeting.
    async fn greeted(server: &SmtpServer) -> Self {
        let mut client = Self::dial(server).await;
        assert_eq!(client.reply().await, "220 localhost ESMTP ready");
        client
    }

    /// Connects and says EHLO.
    async fn ready(server: &SmtpServer) -> Self {
        let mut client = Self::greeted(server).await;
        assert!(client.say("EHLO client.example").await.starts_with("250"));
        client
    }

    /// Connects, turns on TLS with STARTTLS and says EHLO again.
    async fn secured(server: &SmtpServer, ca: &TestCa) -> Self {
        let mut client = Self::ready(server).await;
        assert_eq!(client.say("STARTTLS").await, "220 2.0.0 go ahead");
        let mut client = client.encrypt(ca).await;
        assert!(client.say("EHLO client.example").await.starts_with("250"));
        client
    }

    async fn encrypt(self, ca: &TestCa) -> Self {
        let name = ServerName::try_from("127.0.0.1").unwrap();
        let tls = TlsConnector::from(ca.client_config())
            .connect(name, self.stream.into_inner())
            .await
            .unwrap();
        Self {
            stream: BufReader::new(Box::new(tls)),
        }
    }

    async fn write(&mut self, bytes: impl AsRef<[u8]>) {
        self.stream.write_all(bytes.as_ref()).await.unwrap();
        self.stream.flush().await.unwrap();
    }

    /// A whole reply, its lines separated by `\n`; empty when the connection ended in good order.
    async fn reply(&mut self) -> String {
        let mut reply = String::new();
        loop {
            let mut line = String::new();
            if self.stream.read_line(&mut line).await.unwrap() == 0 {
                return reply;
            }
            reply.push_str(line.strip_suffix("\r\n").expect("replies end in CRLF"));
            if line.as_bytes().get(3) != Some(&b'-') {
                return reply;
            }
            reply.push('\n');
        }
    }

    async fn say(&mut self, command: &str) -> String {
        self.write(format!("{command}\r\n")).await;
        self.reply().await
    }

    /// Sends a message up to the final dot and returns the reply to it.
    async fn send(&mut self, text: &str) -> String {
        assert_eq!(
            self.say("MAIL FROM:<desk@clinic.example>").await,
            "250 2.1.0 ok"
        );
        assert_eq!(
            self.say("RCPT TO:<patient@example.com>").await,
            "250 2.1.5 ok"
        );
        assert!(self.say("DATA").await.starts_with("354"));
        self.say(&format!("{text}\r\n.")).await
    }

    /// What comes until the connection ends, and how it ends.
    async fn rest(&mut self) -> std::io::Result<Vec<u8>> {
        let mut rest = Vec::new();
        self.stream.read_to_end(&mut rest).await.map(|_| rest)
    }

    async fn is_closed(&mut self) -> bool {
        self.rest().await.unwrap().is_empty()
    }
}

async fn secure_server(ca: &TestCa) -> SmtpServer {
    SmtpServer::builder()
        .tls(TlsMode::StartTls, ca.server_config(&["127.0.0.1"]))
        .credentials("user", "password")
        .start()
        .await
}

fn base64(text: &str) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.encode(text)
}

async fn expect(client: &mut Client, conversation: &[(&str, &str)]) {
    for (command, reply) in conversation {
        assert_eq!(&client.say(command).await, reply, "to {command}");
    }
}

#[tokio::test]
async fn a_message_arrives_with_its_envelope() {
    let server = SmtpServer::builder().start().await;
    let mut client = Client::ready(&server).await;
    expect(
        &mut client,
        &[
            (
                "MAIL FROM:<desk@clinic.example> BODY=8BITMIME SIZE=20",
                "250 2.1.0 ok",
            ),
            ("RCPT TO:<a@example.com>", "250 2.1.5 ok"),
            ("rcpt to:<\"b > c\"@example.com>", "250 2.1.5 ok"),
            ("DATA", "354 end with a line that holds a dot alone"),
            (
                "Subject: Hello\r\n\r\nHello\r\n.",
                "250 2.0.0 accepted as 1.1",
            ),
            ("QUIT", "221 2.0.0 bye"),
        ],
    )
    .await;
    assert!(client.is_closed().await);
    assert_eq!(
        server.messages(),
        [ReceivedMessage {
            mail_from: "desk@clinic.example".to_owned(),
            rcpt_to: vec![
                "a@example.com".to_owned(),
                "\"b > c\"@example.com".to_owned()
            ],
            mail_params: vec!["BODY=8BITMIME".to_owned(), "SIZE=20".to_owned()],
            data: b"Subject: Hello\r\n\r\nHello\r\n".to_vec(),
            authenticated_as: None,
            over_tls: false,
            connection: 1,
        }]
    );
    assert_eq!(server.connections(), 1);
}

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
async fn stuffed_dots_are_removed_and_only_crlf_dot_crlf_ends_a_message() {
    let server = SmtpServer::builder().start().await;
    let mut client = Client::ready(&server).await;
    let reply = client
        .send("..first\r\nb..c\r\n..\r\nx\n.\nQUIT\n\r\n.\n\r\n.\rend")
        .await;
    assert_eq!(reply, "250 2.0.0 accepted as 1.1");
    assert_eq!(
        server.messages()[0].text(),
        ".first\r\nb..c\r\n.\r\nx\n.\nQUIT\n\r\n\n\r\n\rend\r\n"
    );
}

#[tokio::test]
async fn a_message_in_many_segments_is_put_together() {
    let server = SmtpServer::builder().start().await;
    let mut client = Client::ready(&server).await;
    expect(
        &mut client,
        &[
            ("MAIL FROM:<a@example.com>", "250 2.1.0 ok"),
            ("RCPT TO:<b@example.com>", "250 2.1.5 ok"),
            ("DATA", "354 end with a line that holds a dot alone"),
        ],
    )
    .await;
    for byte in b"one\r\n..two\r\n.\r\n" {
        client.write([*byte]).await;
    }
    assert!(client.reply().await.starts_with("250"));
    assert_eq!(server.messages()[0].text(), "one\r\n.two\r\n");
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
async fn a_session_takes_only_so_many_messages() {
    let server = SmtpServer::builder()
        .max_messages_per_session(2)
        .start()
        .await;
    let mut client = Client::ready(&server).await;
    for _ in 0..2 {
        assert!(client.send("Hello").await.starts_with("250"));
    }
    assert_eq!(
        client.say("MAIL FROM:<a@example.com>").await,
        "421 4.7.0 enough messages on one connection"
    );
    assert!(client.is_closed().await);
}

#[tokio::test]
async fn only_so_many_connections_are_served_at_a_time() {
    let server = SmtpServer::builder().max_connections(1).start().await;
    let mut first = Client::greeted(&server).await;
    let mut second = Client::dial(&server).await;
    assert_eq!(second.reply().await, "421 4.7.0 too many connections");
    assert!(second.is_closed().await);
    first.say("QUIT").await;
    assert!(first.is_closed().await);
    server
        .wait_for_event(|event| matches!(event, Event::Closed { connection: 1 }))
        .await;
    Client::greeted(&server).await;
}

#[tokio::test]
async fn a_silent_client_is_sent_away() {
    let server = SmtpServer::builder()
        .idle_timeout(Duration::from_millis(20))
        .start()
        .await;
    let mut client = Client::greeted(&server).await;
    assert_eq!(client.reply().await, "421 4.4.2 nothing heard for too long");
    assert!(client.is_closed().await);
}

#[tokio::test]
async fn idle_connections_are_closed_and_busy_ones_are_not() {
    let ca = TestCa::new();
    let server = SmtpServer::builder()
        .tls(TlsMode::StartTls, ca.server_config(&["127.0.0.1"]))
        .start()
        .await;
    let mut idle = Client::ready(&server).await;
    let mut idle_in_tls = Client::secured(&server, &ca).await;
    let mut busy = Client::ready(&server).await;
    assert!(
        busy.say("MAIL FROM:<a@example.com>")
            .await
            .starts_with("250")
    );
    server.close_idle_connections().await;
    assert!(idle.is_closed().await);
    assert!(idle_in_tls.is_closed().await);
    assert_eq!(server.open_connections(), 1);
    assert_eq!(busy.say("RSET").await, "250 2.0.0 ok");
    server.close_idle_connections().await;
    assert!(busy.is_closed().await);
}

#[tokio::test]
async fn newest_messages_are_kept_and_all_counted() {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let seen_by_callback = Arc::clone(&seen);
    let server = SmtpServer::builder()
        .keep_messages(2)
        .on_message(Arc::new(move |message| {
            seen_by_callback.lock().unwrap().push(message.text());
        }))
        .start()
        .await;
    let mut client = Client::ready(&server).await;
    for text in ["one", "two", "three"] {
        client.send(text).await;
    }
    let kept = server.wait_for_messages(3).await;
    assert_eq!(
        kept.iter().map(ReceivedMessage::text).collect::<Vec<_>>(),
        ["two\r\n", "three\r\n"]
    );
    assert_eq!(*seen.lock().unwrap(), ["one\r\n", "two\r\n", "three\r\n"]);
    server.clear_messages();
    assert_eq!(server.messages(), []);
}

#[tokio::test]
async fn dropping_the_server_ends_its_connections() {
    let server = SmtpServer::builder().start().await;
    let mut client = Client::ready(&server).await;
    drop(server);
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
