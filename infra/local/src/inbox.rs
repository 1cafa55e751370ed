//! The mail inbox: an SMTP server that every message of the local stack ends in, and a page to read them.
//!
//! The SMTP side is strict and takes one user over STARTTLS, like a real relay. The web side treats every message as
//! hostile, since templates and patients' names end up in them: the page inserts text only, and a message's HTML is
//! shown in a sandboxed frame under a policy that neither runs scripts nor loads anything from elsewhere.
//!
//! | request | answer |
//! | --- | --- |
//! | `GET /` | the page |
//! | `GET /api/messages` | the newest messages first: `[{id, from, to, subject, receivedAt, size, messageId, attachments, envelope}]` |
//! | `GET /api/messages/{id}` | one message: the same and `headers`, `text`, `html`, `attachments` with names and sizes |
//! | `GET /api/messages/{id}/source` | the message as it came |
//! | `GET /api/messages/{id}/html` | its HTML for a sandboxed frame |
//! | `GET /api/messages/{id}/attachments/{number}` | an attachment, as a download |
//! | `DELETE /api/messages` | forgets all |
//! | `GET /api/dead-letters` | what lies in the dead-letter queue: `[{messageId, clinicId, reason, fields, sourceQueue, sentAt}]` |
//! | `GET /api/events` | server-sent events: one when something has changed |

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::extract::{Path, State};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use comms_testkit::smtp::{ReceivedMessage, SmtpServer, TlsMode};
use comms_testkit::tls::TestCa;
use futures_util::{Stream, stream};
use http::StatusCode;
use http::header::{CONTENT_DISPOSITION, CONTENT_SECURITY_POLICY, CONTENT_TYPE};
use jiff::Timestamp;
use mail_parser::{Address, Message, MessageParser, MessagePart, MimeHeaders as _, PartType};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::watch;

use crate::web::{self, not_found};

/// The one user that the SMTP side takes.
pub(crate) const USER: &str = "demo@clinic.example";

/// Messages kept at most; the oldest go first.
const MAX_MESSAGES: usize = 1_000;

/// Bytes kept at most, over all messages.
const MAX_BYTES: usize = 200 * 1024 * 1024;

/// The largest message, in bytes: what the larger providers take.
const MAX_MESSAGE: usize = 40 * 1024 * 1024;

/// The page.
pub(crate) const PAGE: &str = include_str!("inbox.html");

/// For a message's HTML: no script, no form, nothing from anywhere else, no access to the page around it.
const HTML_POLICY: &str = "sandbox; default-src 'none'; img-src data:; style-src 'unsafe-inline'; \
                           font-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'self'";

/// The received mail.
#[derive(Debug, Clone, Default)]
pub(crate) struct Inbox {
    inner: Arc<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    mail: Mutex<Mail>,
    /// What the page shows of the dead letters.
    dead_letters: Mutex<Vec<Value>>,
    /// Counts the changes.
    changed: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Mail {
    /// Oldest first.
    messages: VecDeque<Arc<Mailed>>,
    bytes: usize,
    last_id: u64,
}

#[derive(Debug)]
struct Mailed {
    id: u64,
    received_at: Timestamp,
    received: ReceivedMessage,
}

impl Inbox {
    /// Starts the SMTP side: STARTTLS with a certificate of `ca` for the listener's address, AUTH for [`USER`] only.
    pub(crate) async fn serve_smtp(
        &self,
        listener: TcpListener,
        ca: &TestCa,
        password: &str,
    ) -> std::io::Result<SmtpServer> {
        let host = listener.local_addr()?.ip().to_string();
        let inbox = self.clone();
        Ok(SmtpServer::builder()
            .listener(listener)
            .host_name("inbox.clinic.example")
            .tls(TlsMode::StartTls, ca.server_config(&[&host, "localhost"]))
            .require_tls()
            .credentials(USER, password)
            .max_message_size(MAX_MESSAGE)
            // They are kept here.
            .keep_messages(0)
            .on_message(Arc::new(move |message| inbox.put(message.clone())))
            .start()
            .await)
    }

    /// The web side, to be [`web::guarded`].
    pub(crate) fn routes(&self) -> Router {
        Router::new()
            .route("/", get(page))
            .route("/api/messages", get(list).delete(clear))
            .route("/api/messages/{id}", get(one))
            .route("/api/messages/{id}/source", get(source))
            .route("/api/messages/{id}/html", get(html))
            .route("/api/messages/{id}/attachments/{number}", get(attachment))
            .route("/api/dead-letters", get(dead_letters))
            .route("/api/events", get(events))
            .with_state(self.clone())
    }

    fn mail(&self) -> MutexGuard<'_, Mail> {
        self.inner
            .mail
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn put(&self, received: ReceivedMessage) {
        let mut mail = self.mail();
        mail.last_id += 1;
        mail.bytes += received.data.len();
        let id = mail.last_id;
        mail.messages.push_back(Arc::new(Mailed {
            id,
            received_at: Timestamp::now(),
            received,
        }));
        // The newest stays even when it is over the limit by itself.
        while mail.messages.len() > 1
            && (mail.messages.len() > MAX_MESSAGES || mail.bytes > MAX_BYTES)
        {
            if let Some(oldest) = mail.messages.pop_front() {
                mail.bytes -= oldest.received.data.len();
            }
        }
        drop(mail);
        self.inner.changed.send_modify(|version| *version += 1);
    }

    /// Shows these dead letters from now on, in the place of those before.
    pub(crate) fn show_dead_letters(&self, letters: Vec<Value>) {
        *self.dead_letters() = letters;
        self.inner.changed.send_modify(|version| *version += 1);
    }

    fn dead_letters(&self) -> MutexGuard<'_, Vec<Value>> {
        let letters = self.inner.dead_letters.lock();
        letters.unwrap_or_else(PoisonError::into_inner)
    }

    fn get(&self, id: u64) -> Option<Arc<Mailed>> {
        self.mail()
            .messages
            .iter()
            .find(|mailed| mailed.id == id)
            .cloned()
    }
}

async fn page() -> Response {
    web::page(PAGE)
}

async fn list(State(inbox): State<Inbox>) -> Response {
    let messages: Vec<Arc<Mailed>> = inbox.mail().messages.iter().rev().cloned().collect();
    let list: Vec<Value> = messages
        .iter()
        .map(|mailed| mailed.summary(mailed.parse().as_ref()))
        .collect();
    axum::Json(list).into_response()
}

async fn dead_letters(State(inbox): State<Inbox>) -> Response {
    let letters = inbox.dead_letters().clone();
    axum::Json(letters).into_response()
}

async fn clear(State(inbox): State<Inbox>) -> StatusCode {
    let mut mail = inbox.mail();
    mail.messages.clear();
    mail.bytes = 0;
    drop(mail);
    inbox.inner.changed.send_modify(|version| *version += 1);
    StatusCode::NO_CONTENT
}

async fn one(State(inbox): State<Inbox>, Path(id): Path<u64>) -> Response {
    let Some(mailed) = inbox.get(id) else {
        return not_found();
    };
    axum::Json(mailed.details()).into_response()
}

async fn source(State(inbox): State<Inbox>, Path(id): Path<u64>) -> Response {
    let Some(mailed) = inbox.get(id) else {
        return not_found();
    };
    // Never as a kind that a browser would render.
    let headers = [(CONTENT_TYPE, "text/plain; charset=utf-8")];
    (headers, mailed.received.data.clone()).into_response()
}

async fn html(State(inbox): State<Inbox>, Path(id): Path<u64>) -> Response {
    let html = inbox
        .get(id)
        .and_then(|mailed| mailed.parse().as_ref().and_then(html_with_images));
    let Some(html) = html else {
        return not_found();
    };
    let headers = [
        (CONTENT_TYPE, "text/html; charset=utf-8"),
        (CONTENT_SECURITY_POLICY, HTML_POLICY),
    ];
    (headers, html).into_response()
}

async fn attachment(State(inbox): State<Inbox>, Path((id, number)): Path<(u64, u32)>) -> Response {
    let found = inbox.get(id).and_then(|mailed| {
        let message = mailed.parse()?;
        let part = message.attachment(number)?;
        Some((part_name(part), part.contents().to_vec()))
    });
    let Some((name, bytes)) = found else {
        return not_found();
    };
    // A name of plain characters only: nothing that could end the quoted string or the header.
    let name: String = name
        .chars()
        .map(|c| {
            if c.is_ascii_alphanumeric() || ".-_ ".contains(c) {
                c
            } else {
                '_'
            }
        })
        .collect();
    let headers = [
        (CONTENT_TYPE, "application/octet-stream".to_owned()),
        (
            CONTENT_DISPOSITION,
            format!("attachment; filename=\"{name}\""),
        ),
    ];
    (headers, bytes).into_response()
}

async fn events(State(inbox): State<Inbox>) -> Sse<impl Stream<Item = Result<Event, Infallible>>> {
    let changes = stream::unfold(inbox.inner.changed.subscribe(), |mut changed| async {
        changed.changed().await.ok()?;
        let version = *changed.borrow_and_update();
        let event = Event::default().event("changed").data(version.to_string());
        Some((Ok(event), changed))
    });
    Sse::new(changes).keep_alive(KeepAlive::new().interval(Duration::from_secs(15)))
}

impl Mailed {
    fn parse(&self) -> Option<Message<'_>> {
        MessageParser::default().parse(&self.received.data)
    }

    fn summary(&self, message: Option<&Message<'_>>) -> Value {
        json!({
            "id": self.id,
            "from": message.map(|m| addresses(m.from())).unwrap_or_default(),
            "to": message.map(|m| addresses(m.to())).unwrap_or_default(),
            "subject": message.and_then(Message::subject),
            "receivedAt": self.received_at.to_string(),
            "size": self.received.data.len(),
            "messageId": message.and_then(Message::message_id),
            "attachments": message.map_or(0, Message::attachment_count),
            "envelope": {"from": self.received.mail_from, "to": self.received.rcpt_to},
        })
    }

    fn details(&self) -> Value {
        let message = self.parse();
        let message = message.as_ref();
        let mut details = self.summary(message);
        details["cc"] = json!(message.map(|m| addresses(m.cc())).unwrap_or_default());
        details["replyTo"] = json!(message.map(|m| addresses(m.reply_to())).unwrap_or_default());
        details["overTls"] = json!(self.received.over_tls);
        details["authenticatedAs"] = json!(self.received.authenticated_as);
        details["headers"] = message.map(headers).unwrap_or_default().into();
        details["text"] = json!(message.and_then(text));
        details["html"] = json!(message.and_then(|m| html_part(m)));
        details["attachments"] = message
            .map(|m| m.attachments().map(describe).collect::<Vec<_>>())
            .unwrap_or_default()
            .into();
        details
    }
}

/// `Name <address>` of each, for people.
fn addresses(address: Option<&Address<'_>>) -> Vec<String> {
    let all = address.into_iter().flat_map(Address::iter);
    all.map(|one| match (one.name(), one.address()) {
        (Some(name), Some(address)) => format!("{name} <{address}>"),
        (None, Some(address)) => address.to_owned(),
        (name, None) => name.unwrap_or_default().to_owned(),
    })
    .collect()
}

/// The headers as they came, unfolded.
fn headers(message: &Message<'_>) -> Vec<Value> {
    message
        .headers_raw()
        .map(|(name, value)| {
            let value: Vec<&str> = value.lines().map(str::trim).collect();
            json!({"name": name, "value": value.join(" ").trim()})
        })
        .collect()
}

/// The first body that is plain text, if one was sent.
fn text(message: &Message<'_>) -> Option<String> {
    message.text_bodies().find_map(|part| match &part.body {
        PartType::Text(text) => Some(text.clone().into_owned()),
        PartType::Html(_)
        | PartType::Binary(_)
        | PartType::InlineBinary(_)
        | PartType::Message(_)
        | PartType::Multipart(_) => None,
    })
}

/// The first body that is HTML, if one was sent.
fn html_part<'a>(message: &'a Message<'_>) -> Option<&'a str> {
    message.html_bodies().find_map(|part| match &part.body {
        PartType::Html(html) => Some(html.as_ref()),
        PartType::Text(_)
        | PartType::Binary(_)
        | PartType::InlineBinary(_)
        | PartType::Message(_)
        | PartType::Multipart(_) => None,
    })
}

/// The HTML with its inline images put in, since nothing may be loaded.
fn html_with_images(message: &Message<'_>) -> Option<String> {
    let mut html = html_part(message)?.to_owned();
    for part in message.attachments() {
        let (Some(id), Some(kind)) = (part.content_id(), part.content_type()) else {
            continue;
        };
        let image = kind.c_type.eq_ignore_ascii_case("image");
        let subtype = kind.c_subtype.as_deref().unwrap_or_default();
        let plain = subtype.bytes().all(|b| b.is_ascii_alphanumeric());
        let reference = format!("cid:{id}");
        if image && plain && html.contains(&reference) {
            let data = format!(
                "data:image/{subtype};base64,{}",
                BASE64.encode(part.contents())
            );
            html = html.replace(&reference, &data);
        }
    }
    Some(html)
}

fn part_name(part: &MessagePart<'_>) -> String {
    part.attachment_name().unwrap_or("attachment").to_owned()
}

fn describe(part: &MessagePart<'_>) -> Value {
    let kind = part.content_type().map_or_else(
        || "application/octet-stream".to_owned(),
        |kind| match &kind.c_subtype {
            Some(subtype) => format!("{}/{subtype}", kind.c_type),
            None => kind.c_type.clone().into_owned(),
        },
    );
    json!({"name": part_name(part), "contentType": kind, "size": part.contents().len()})
}

#[cfg(test)]
mod tests {
    use axum::body::Body;
    use http::HeaderMap;
    use http::header::X_CONTENT_TYPE_OPTIONS;
    use http_body_util::BodyExt as _;
    use tower::ServiceExt as _;

    use super::*;
    use comms_testkit::host_guard::{CrossOrigin, HostGuard};

    const MESSAGE: &str = "From: Clinic <a@clinic.example>\r\n\
        To: =?utf-8?q?J=C3=B6rg?= <p@example.com>, q@example.com\r\n\
        Subject: <script>alert(1)</script>\r\n\
        Message-ID: <1@clinic.example>\r\n\
        MIME-Version: 1.0\r\n\
        Content-Type: multipart/mixed; boundary=m\r\n\r\n\
        --m\r\nContent-Type: multipart/alternative; boundary=a\r\n\r\n\
        --a\r\nContent-Type: text/plain; charset=utf-8\r\n\r\nHello\r\n\
        --a\r\nContent-Type: text/html; charset=utf-8\r\n\r\n\
        <p>Hello</p><script>document.title='owned'</script><img src=\"cid:logo\">\r\n\
        --a--\r\n\
        --m\r\nContent-Type: image/png; name=\"x.png\"\r\nContent-ID: <logo>\r\n\
        Content-Transfer-Encoding: base64\r\n\r\nAAAA\r\n\
        --m\r\nContent-Type: text/html\r\n\
        Content-Disposition: attachment; filename=\"a\\\"b.html\"\r\n\r\n<script>1</script>\r\n\
        --m--\r\n";

    fn received(data: &str) -> ReceivedMessage {
        ReceivedMessage {
            mail_from: "a@clinic.example".to_owned(),
            rcpt_to: vec!["p@example.com".to_owned()],
            mail_params: Vec::new(),
            data: data.into(),
            authenticated_as: Some(USER.to_owned()),
            over_tls: true,
            connection: 1,
        }
    }

    async fn ask(inbox: &Inbox, method: &str, path: &str) -> (StatusCode, HeaderMap, String) {
        let request = http::Request::builder()
            .method(method)
            .uri(path)
            .header("host", "127.0.0.1:8025")
            .body(Body::empty())
            .unwrap();
        let guard = HostGuard::new(([127, 0, 0, 1], 8025).into(), CrossOrigin::Read, &[]);
        let routes = web::guarded(inbox.routes(), guard);
        let response = routes.oneshot(request).await.unwrap();
        let (parts, body) = response.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        let body = String::from_utf8_lossy(&body).into_owned();
        (parts.status, parts.headers, body)
    }

    async fn ask_json(inbox: &Inbox, path: &str) -> Value {
        serde_json::from_str(&ask(inbox, "GET", path).await.2).unwrap()
    }

    #[tokio::test]
    async fn the_list_has_the_newest_message_first() {
        let inbox = Inbox::default();
        inbox.put(received("Subject: one\r\n\r\n1"));
        inbox.put(received(MESSAGE));
        let list = ask_json(&inbox, "/api/messages").await;
        assert_eq!(list[1]["subject"], "one");
        assert_eq!(list[0]["id"], 2);
        assert_eq!(list[0]["from"], json!(["Clinic <a@clinic.example>"]));
        assert_eq!(
            list[0]["to"],
            json!(["Jörg <p@example.com>", "q@example.com"])
        );
        assert_eq!(list[0]["messageId"], "1@clinic.example");
        assert_eq!(list[0]["envelope"]["to"], json!(["p@example.com"]));
        assert_eq!(list[0]["attachments"], 2);
    }

    #[tokio::test]
    async fn a_message_is_shown_with_its_parts() {
        let inbox = Inbox::default();
        inbox.put(received(MESSAGE));
        let message = ask_json(&inbox, "/api/messages/1").await;
        assert_eq!(message["text"], "Hello");
        assert!(message["html"].as_str().unwrap().contains("<p>Hello</p>"));
        assert_eq!(message["attachments"][0]["contentType"], "image/png");
        assert_eq!(message["headers"][3]["name"], "Message-ID");
        assert_eq!(message["headers"][3]["value"], "<1@clinic.example>");
        let (status, ..) = ask(&inbox, "GET", "/api/messages/2").await;
        assert_eq!(status, StatusCode::NOT_FOUND);
    }

    #[tokio::test]
    async fn a_messages_html_can_neither_run_nor_load_anything() {
        let inbox = Inbox::default();
        inbox.put(received(MESSAGE));
        let (status, headers, body) = ask(&inbox, "GET", "/api/messages/1/html").await;
        assert_eq!(status, StatusCode::OK);
        let policy = headers[CONTENT_SECURITY_POLICY].to_str().unwrap();
        assert!(
            policy.starts_with("sandbox; default-src 'none'; img-src data:;"),
            "{policy}"
        );
        assert!(!policy.contains("script"), "{policy}");
        assert_eq!(headers[X_CONTENT_TYPE_OPTIONS], "nosniff");
        assert!(
            body.contains("src=\"data:image/png;base64,AAAA\""),
            "{body}"
        );
    }

    #[tokio::test]
    async fn source_and_attachments_are_never_rendered() {
        let inbox = Inbox::default();
        inbox.put(received(MESSAGE));
        let (_, headers, body) = ask(&inbox, "GET", "/api/messages/1/source").await;
        assert_eq!(headers[CONTENT_TYPE], "text/plain; charset=utf-8");
        assert_eq!(body, MESSAGE);
        let (_, headers, body) = ask(&inbox, "GET", "/api/messages/1/attachments/1").await;
        assert_eq!(body.trim(), "<script>1</script>");
        assert_eq!(headers[CONTENT_TYPE], "application/octet-stream");
        assert_eq!(
            headers[CONTENT_DISPOSITION],
            "attachment; filename=\"a_b.html\""
        );
        assert!(
            headers[CONTENT_SECURITY_POLICY]
                .to_str()
                .unwrap()
                .starts_with("sandbox")
        );
    }

    #[tokio::test]
    async fn old_messages_make_room_and_all_can_be_cleared() {
        let inbox = Inbox::default();
        for _ in 0..=MAX_MESSAGES {
            inbox.put(received("Subject: x\r\n\r\n"));
        }
        assert_eq!(inbox.mail().messages.len(), MAX_MESSAGES);
        assert!(inbox.get(1).is_none());
        let (status, ..) = ask(&inbox, "DELETE", "/api/messages").await;
        assert_eq!(status, StatusCode::NO_CONTENT);
        assert_eq!(inbox.mail().bytes, 0);
        assert_eq!(ask_json(&inbox, "/api/messages").await, json!([]));
    }

    #[tokio::test]
    async fn dead_letters_are_shown_and_the_page_is_told_of_them() {
        let inbox = Inbox::default();
        assert_eq!(ask_json(&inbox, "/api/dead-letters").await, json!([]));
        let changed = inbox.inner.changed.subscribe();
        inbox.show_dead_letters(vec![json!({"messageId": "a"})]);
        assert!(changed.has_changed().unwrap());
        assert_eq!(
            ask_json(&inbox, "/api/dead-letters").await,
            json!([{"messageId": "a"}])
        );
    }

    #[tokio::test]
    async fn what_is_no_mail_is_still_listed() {
        let inbox = Inbox::default();
        inbox.put(received(""));
        inbox.put(received("\u{0}\u{1}garbage"));
        assert_eq!(
            ask_json(&inbox, "/api/messages")
                .await
                .as_array()
                .unwrap()
                .len(),
            2
        );
        assert!(ask_json(&inbox, "/api/messages/1").await["html"].is_null());
    }
}
