//! The mail inbox: an SMTP server that receives every message of the local stack, and a page to read them.
//!
//! The SMTP side is strict and accepts one user over STARTTLS, like a real relay. The web side treats every message as
//! hostile, since messages contain templates and patients' names: the page inserts text only, and a message's HTML is
//! shown in a sandboxed frame whose policy neither runs scripts nor loads anything from elsewhere.
//!
//! | request | answer |
//! | --- | --- |
//! | `GET /` | the page |
//! | `GET /api/messages` | the newest messages first: `[{id, from, to, subject, receivedAt, size, messageId, attachments, envelope}]` |
//! | `GET /api/messages/{id}` | one message: the same and `headers`, `text`, `html`, `attachments` with names and sizes |
//! | `GET /api/messages/{id}/source` | the message as received |
//! | `GET /api/messages/{id}/html` | its HTML for a sandboxed frame |
//! | `GET /api/messages/{id}/attachments/{number}` | an attachment, as a download |
//! | `DELETE /api/messages` | deletes all |
//! | `GET /api/dead-letters` | the messages in the dead-letter queue: `[{messageId, clinicId, reason, fields, sourceQueue, sentAt}]` |
//! | `GET /api/events` | server-sent events: one when something has changed |

mod message;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::extract::{Path, State};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use comms_testkit::smtp::{ReceivedMessage, SmtpServer, TlsMode};
use comms_testkit::tls::TestCa;
use futures_util::{Stream, stream};
use http::StatusCode;
use http::header::{CONTENT_DISPOSITION, CONTENT_SECURITY_POLICY, CONTENT_TYPE};
use jiff::Timestamp;
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::sync::watch;

use crate::web::{self, not_found};
use message::{InboxMessage, html_with_images, part_name};

/// The only user that the SMTP side accepts.
pub(crate) const USER: &str = "demo@clinic.example";

/// Messages kept at most; the oldest go first.
const MAX_MESSAGES: usize = 1_000;

/// Bytes kept at most, over all messages.
const MAX_BYTES: usize = 200 * 1024 * 1024;

/// Bytes of a message, at most: the limit of the larger providers.
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
    /// The dead letters on the page.
    dead_letters: Mutex<Vec<Value>>,
    /// Counts the changes.
    changed: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Mail {
    /// Oldest first.
    messages: VecDeque<Arc<InboxMessage>>,
    bytes: usize,
    last_id: u64,
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
            // The inbox keeps them.
            .keep_messages(0)
            .on_message(Arc::new(move |message| inbox.put(message.clone())))
            .start()
            .await)
    }

    /// The web side, to be [`web::guarded`].
    pub(crate) fn routes(&self) -> Router {
        Router::new()
            .route("/inbox", get(page))
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
        mail.messages.push_back(Arc::new(InboxMessage {
            id,
            received_at: Timestamp::now(),
            received,
        }));
        // The newest stays even if it exceeds the limit by itself.
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

    /// Replaces the dead letters on the page.
    pub(crate) fn show_dead_letters(&self, letters: Vec<Value>) {
        *self.dead_letters() = letters;
        self.inner.changed.send_modify(|version| *version += 1);
    }

    fn dead_letters(&self) -> MutexGuard<'_, Vec<Value>> {
        let letters = self.inner.dead_letters.lock();
        letters.unwrap_or_else(PoisonError::into_inner)
    }

    fn get(&self, id: u64) -> Option<Arc<InboxMessage>> {
        self.mail()
            .messages
            .iter()
            .find(|message| message.id == id)
            .cloned()
    }
}

async fn page() -> Response {
    web::page(PAGE)
}

async fn list(State(inbox): State<Inbox>) -> Response {
    let messages: Vec<Arc<InboxMessage>> = inbox.mail().messages.iter().rev().cloned().collect();
    let list: Vec<Value> = messages
        .iter()
        .map(|message| message.summary(message.parse().as_ref()))
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
    let Some(message) = inbox.get(id) else {
        return not_found();
    };
    axum::Json(message.details()).into_response()
}

async fn source(State(inbox): State<Inbox>, Path(id): Path<u64>) -> Response {
    let Some(message) = inbox.get(id) else {
        return not_found();
    };
    // Never a content type that a browser would render.
    let headers = [(CONTENT_TYPE, "text/plain; charset=utf-8")];
    (headers, message.received.data.clone()).into_response()
}

async fn html(State(inbox): State<Inbox>, Path(id): Path<u64>) -> Response {
    let html = inbox
        .get(id)
        .and_then(|message| message.parse().as_ref().and_then(html_with_images));
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
    let found = inbox.get(id).and_then(|message| {
        let parsed = message.parse()?;
        let part = parsed.attachment(number)?;
        Some((part_name(part), part.contents().to_vec()))
    });
    let Some((name, bytes)) = found else {
        return not_found();
    };
    // A name of plain characters cannot end the quoted string or the header field.
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
