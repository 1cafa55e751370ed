mod groups;
mod replies;
mod slow;
mod transaction;

use std::{
    io,
    pin::Pin,
    sync::Mutex,
    task::{Context, Poll},
    time::Duration,
};

use comms_core::{
    CopyField, DeliveryId, Disposition, ErrorKind, RefusedCopy,
    request::{Content, Target},
};
use serde_json::{Value, json};
use tokio::io::{
    AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream, ReadBuf,
};

use super::{
    reply::parse_reply,
    server_capabilities::{Mechanisms, ServerCapabilities},
    timeouts::COMMAND_TIMEOUT,
    transaction::{Start, send_transaction},
    wire::Wire,
    *,
};

use crate::{
    config::OwnSender,
    mime::Feedback,
    net::{egress::EgressError, tls::CertificateFault},
};

/// A message on a new connection.
pub(super) const START: Start = Start {
    first_reply: COMMAND_TIMEOUT,
    after_refusal: false,
};

fn sender() -> Mailbox {
    Mailbox {
        address: EmailAddress::parse("appointments@clinic.example").unwrap(),
        name: Some("Clinic, \"Name\"".into()),
    }
}

#[test]
fn nothing_printable_shows_a_password_or_an_address() {
    let settings = SmtpConfig {
        host: Host::parse("127.0.0.1").unwrap(),
        port: 587,
        security: Security::StartTls,
        user: "user".into(),
        password: Secret::new("planted-password".to_owned()),
        ca_pem: None,
        max_connections: 1,
        from: OwnSender::default(),
        ehlo_name: None,
    };
    assert!(!format!("{settings:?}").contains("planted"));
    assert!(!format!("{settings:?}").contains("appointments@"));
    let guard = EgressGuard::new(
        crate::net::egress::EgressAllow::default(),
        Arc::new(crate::net::egress::SystemResolver),
    );
    let provider = SmtpProvider::new(
        settings,
        sender(),
        &TlsConfigs::new(None).unwrap(),
        guard,
        Sockets::default(),
        Arc::new(comms_core::SystemClock),
    );
    assert_eq!(format!("{:?}", provider.unwrap()), "SmtpProvider(…)");
}

#[test]
fn ehlo_says_the_name_that_is_set_or_the_senders_domain_and_writes_addresses_as_literals() {
    let sender = sender().address;
    for (name, said) in [
        (None, "clinic.example"),
        (Some("mta.clinic.example"), "mta.clinic.example"),
        (Some("192.0.2.7"), "[192.0.2.7]"),
        (Some("2001:db8::1"), "[IPv6:2001:db8::1]"),
    ] {
        let name = name.map(|name| Host::parse(name).unwrap());
        assert_eq!(hello(name.as_ref(), &sender), said);
    }
}

/// Our end of a stream, which notes every write.
struct Tapped {
    stream: DuplexStream,
    writes: Arc<Mutex<Vec<String>>>,
}

impl AsyncRead for Tapped {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Tapped {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        if let Poll::Ready(Ok(length)) = &written {
            let text = String::from_utf8_lossy(&bytes[..*length]).into_owned();
            self.writes.lock().unwrap().push(text);
        }
        written
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

/// What one side of a conversation came to.
struct Told {
    result: Result<Vec<RefusedCopy>, Failure>,
    in_step: bool,
    writes: Vec<String>,
}

/// Hands `message` over to a server that says each reply when it has heard what is before it.
async fn converse(
    message: &Message,
    capabilities: ServerCapabilities,
    script: &[(&str, &str)],
) -> Told {
    converse_from(START, message, capabilities, script).await
}

async fn converse_from(
    start: Start,
    message: &Message,
    capabilities: ServerCapabilities,
    script: &[(&str, &str)],
) -> Told {
    let (stream, mut server) = tokio::io::duplex(65_536);
    let writes = Arc::<Mutex<Vec<String>>>::default();
    let tapped = Tapped {
        stream,
        writes: writes.clone(),
    };
    let script: Vec<_> = script
        .iter()
        .map(|(heard, said)| ((*heard).to_owned(), (*said).to_owned()))
        .collect();
    let server = tokio::spawn(async move {
        let mut heard = Vec::new();
        for (until, said) in script {
            while !heard.ends_with(until.as_bytes()) {
                if server.read_buf(&mut heard).await.unwrap_or(0) == 0 {
                    return;
                }
            }
            heard.clear();
            server.write_all(said.as_bytes()).await.unwrap();
        }
        // The end of the script is a connection that stays open and silent.
        let _ = server.read_to_end(&mut heard).await;
    });
    let sender = sender();
    let mut draft = Draft::new(message, &sender, Feedback::Named).unwrap();
    let submission = draft.for_server(&capabilities).unwrap();
    let mut wire = Wire::new(tapped, 0);
    let deadline = Deadline::after(Duration::from_secs(5));
    let result = send_transaction(&mut wire, &capabilities, &submission, start, deadline).await;
    let in_step = wire.is_in_step();
    drop(wire);
    server.await.unwrap();
    let writes = writes.lock().unwrap().clone();
    Told {
        result,
        in_step,
        writes,
    }
}

const PIPELINING: ServerCapabilities = ServerCapabilities {
    start_tls: false,
    pipelining: true,
    eight_bit_mime: false,
    smtputf8: false,
    size: None,
    messages: None,
    mechanisms: Mechanisms::NONE,
};

fn message(cc: &[&str], bcc: &[&str]) -> Message {
    let addresses = |texts: &[&str]| {
        let addresses = texts.iter().map(|text| EmailAddress::parse(text).unwrap());
        addresses.collect()
    };
    Message {
        delivery: DeliveryId::parse(&"ab".repeat(16)).unwrap(),
        target: Target::Email(Mailbox {
            address: EmailAddress::parse("patient@example.com").unwrap(),
            name: None,
        }),
        content: Arc::new(Content {
            title: Some("t".into()),
            body: Some("See you.".into()),
            cc: addresses(cc),
            bcc: addresses(bcc),
            ..Content::default()
        }),
        reply_to: None,
    }
}

const MAIL: &str = "MAIL FROM:<appointments@clinic.example>\r\n";
const RCPT: &str = "RCPT TO:<patient@example.com>\r\n";
