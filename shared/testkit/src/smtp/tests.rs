//! The server as a client sees it, byte by byte.

mod commands;
mod scripts;
mod tls;

use std::time::Duration;

use rustls::pki_types::ServerName;
use tokio::io::AsyncBufReadExt as _;
use tokio::io::AsyncReadExt as _;
use tokio::io::AsyncWriteExt as _;
use tokio::io::{AsyncRead, AsyncWrite, BufReader};
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
