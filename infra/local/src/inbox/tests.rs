//! The web side, with hostile messages.

use axum::body::Body;
use comms_testkit::host_guard::{CrossOrigin, HostGuard};
use http::HeaderMap;
use http::header::X_CONTENT_TYPE_OPTIONS;
use http_body_util::BodyExt as _;
use serde_json::json;
use tower::ServiceExt as _;

use super::*;

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
