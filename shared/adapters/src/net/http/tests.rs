use std::{future::Future, io};

use async_trait::async_trait;
use comms_core::SystemClock;
use comms_testkit::tls::TestCa;
use http_body::Body as _;
use jiff::SignedDuration;
use serde_json::json;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpListener,
};
use tokio_rustls::TlsAcceptor;

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use comms_core::{Disposition, ErrorKind, Secret};
use http::{
    HeaderName, Method,
    header::{AUTHORIZATION, CONTENT_TYPE},
};
use jiff::Timestamp;
use url::Url;

use super::{answer::NotJson, *};
use crate::net::egress::{EgressError, Resolver};

/// 2026-01-01T00:00:00Z.
const RECEIVED: Timestamp = Timestamp::constant(1_767_225_600, 0);

fn answer(status: u16, headers: &[(&str, &str)], body: &str) -> Answer {
    Answer::of(status, headers, body, RECEIVED)
}

fn reset() -> HeaderName {
    HeaderName::from_static("x-ratelimit-reset")
}

#[test]
fn retry_after_is_read_in_seconds_and_as_a_date() {
    let day = 24 * 3_600;
    for (value, seconds) in [
        ("0", Some(0)),
        ("7", Some(7)),
        (" 7 ", Some(7)),
        ("86400", Some(day)),
        // Nobody is left alone for longer than a day.
        ("86401", Some(day)),
        ("18446744073709551615", Some(day)),
        ("18446744073709551616", None),
        ("Thu, 01 Jan 2026 00:00:30 GMT", Some(30)),
        ("Wed, 31 Dec 2025 23:59:59 GMT", Some(0)),
        ("Fri, 01 Jan 2100 00:00:00 GMT", Some(day)),
        // Not the day of the week that it was.
        ("Mon, 01 Jan 2026 00:00:30 GMT", None),
        ("2026-01-01T00:00:30Z", None),
        ("-1", None),
        ("1.5", None),
        ("soon", None),
        ("", None),
    ] {
        let answer = answer(429, &[("retry-after", value)], "");
        assert_eq!(
            answer.retry_after(None),
            seconds.map(Duration::from_secs),
            "{value:?}"
        );
    }
    assert_eq!(answer(429, &[], "").retry_after(None), None);
}

#[test]
fn the_second_at_which_a_limit_ends_counts_from_when_the_answer_came() {
    for (value, seconds) in [
        ("1767225660", Some(60)),
        ("1767225600", Some(0)),
        ("1392815263", Some(0)),
        ("-5", Some(0)),
        ("253402207200", Some(24 * 3_600)),
        // After the year 9999.
        ("9223372036854775807", None),
        ("9223372036854775808", None),
        ("60.5", None),
        ("soon", None),
        ("", None),
    ] {
        let answer = answer(429, &[("x-ratelimit-reset", value)], "");
        let expected = seconds.map(Duration::from_secs);
        assert_eq!(answer.retry_after(Some(&reset())), expected, "{value:?}");
        assert_eq!(answer.retry_after(None), None);
    }
}

#[test]
fn retry_after_goes_before_the_limits_end_unless_it_is_garbage() {
    let both = |retry_after| {
        let headers = [
            ("retry-after", retry_after),
            ("x-ratelimit-reset", "1767225660"),
        ];
        answer(429, &headers, "").retry_after(Some(&reset()))
    };
    assert_eq!(both("5"), Some(Duration::from_secs(5)));
    assert_eq!(both("soon"), Some(Duration::from_mins(1)));
}

#[test]
fn a_body_is_json_only_if_its_type_says_so() {
    for (content_type, is_json) in [
        ("application/json", true),
        ("application/json; charset=utf-8", true),
        ("APPLICATION/JSON;charset=UTF-8", true),
        ("application/problem+json", true),
        ("Application/Problem+JSON", true),
        ("text/javascript; charset=UTF-8", true),
        ("text/html", false),
        ("text/plain", false),
        ("text/json", false),
        ("application/jsonp", false),
        ("application/octet-stream", false),
        ("", false),
    ] {
        let read = answer(200, &[("content-type", content_type)], "{\"a\":1}").json();
        let expected = if is_json {
            Ok(json!({"a": 1}))
        } else {
            Err(NotJson)
        };
        assert_eq!(read, expected, "{content_type:?}");
    }
    assert_eq!(answer(200, &[], "{}").json(), Err(NotJson));
    let typed = |body| answer(200, &[("content-type", "application/json")], body).json();
    for body in ["", "{", "{}{}", "<html>"] {
        assert_eq!(typed(body), Err(NotJson), "{body:?}");
    }
}

#[test]
fn an_id_is_1_to_256_visible_characters() {
    for id in [
        "a",
        "14c5d75ce93.dfd.64b469",
        "wamid.HBg=",
        &"x".repeat(256),
    ] {
        assert_eq!(provider_id(id).as_deref(), Some(id));
        let named = answer(202, &[("x-message-id", id)], "");
        assert_eq!(named.id_from_header("x-message-id").as_deref(), Some(id));
        assert_eq!(named.id_from_header("X-Message-Id").as_deref(), Some(id));
    }
    for text in [
        "",
        " ",
        "a b",
        "a\tb",
        "a\nb",
        "\u{7f}",
        "ü",
        &"x".repeat(257),
    ] {
        assert_eq!(provider_id(text), None, "{text:?}");
    }
    assert_eq!(answer(202, &[], "").id_from_header("x-message-id"), None);
}

#[test]
fn only_2xx_is_success() {
    for (status, success) in [(199, false), (200, true), (299, true), (300, false)] {
        assert_eq!(answer(status, &[], "").is_success(), success, "{status}");
    }
}

fn polled(body: &mut Tracked) -> Option<Bytes> {
    let mut context = Context::from_waker(std::task::Waker::noop());
    match Pin::new(body).poll_frame(&mut context) {
        Poll::Ready(frame) => frame.map(|frame| frame.unwrap().into_data().unwrap()),
        Poll::Pending => panic!("the body is there from the beginning"),
    }
}

#[test]
fn a_body_is_begun_when_it_is_asked_for_and_not_before() {
    let begun = Arc::new(AtomicBool::new(false));
    let mut body = Tracked::new("text".into(), begun.clone());
    assert!(!body.is_end_stream());
    assert_eq!(body.size_hint().exact(), Some(4));
    assert!(!begun.load(Ordering::Acquire));
    assert_eq!(polled(&mut body).as_deref(), Some(b"text".as_slice()));
    assert!(begun.load(Ordering::Acquire));
    assert!(body.is_end_stream());
    assert_eq!(body.size_hint().exact(), Some(0));
    assert_eq!(polled(&mut body), None);
}

#[test]
fn an_empty_body_is_at_its_end() {
    let mut body = Tracked::new(reqwest::Body::default(), Arc::default());
    assert!(body.is_end_stream());
    assert_eq!(body.size_hint().exact(), Some(0));
    assert_eq!(polled(&mut body), None);
}

#[test]
fn an_answer_with_an_unknown_code_is_classified_by_its_status() {
    use Disposition::{Ambiguous, Final, ProviderDown, Transient};
    use ErrorKind::{InvalidMessage, RateLimited, Unauthenticated, Unavailable, Unexpected};
    for (status, of_the_api, foreign) in [
        (200, (Ambiguous, Unexpected), (Ambiguous, Unexpected)),
        (204, (Ambiguous, Unexpected), (Ambiguous, Unexpected)),
        (301, (ProviderDown, Unexpected), (ProviderDown, Unexpected)),
        (307, (ProviderDown, Unexpected), (ProviderDown, Unexpected)),
        (400, (ProviderDown, Unexpected), (ProviderDown, Unexpected)),
        (
            401,
            (ProviderDown, Unauthenticated),
            (ProviderDown, Unauthenticated),
        ),
        (403, (ProviderDown, Unexpected), (ProviderDown, Unexpected)),
        (404, (ProviderDown, Unexpected), (ProviderDown, Unexpected)),
        (405, (ProviderDown, Unexpected), (ProviderDown, Unexpected)),
        (408, (Transient, Unavailable), (Transient, Unavailable)),
        (422, (ProviderDown, Unexpected), (ProviderDown, Unexpected)),
        (413, (Final, InvalidMessage), (Final, InvalidMessage)),
        (429, (Transient, RateLimited), (Transient, RateLimited)),
        (500, (Ambiguous, Unavailable), (Ambiguous, Unavailable)),
        (502, (Ambiguous, Unavailable), (Ambiguous, Unavailable)),
        (503, (Ambiguous, Unavailable), (Ambiguous, Unavailable)),
        (504, (Ambiguous, Unavailable), (Ambiguous, Unavailable)),
        (599, (Ambiguous, Unavailable), (Ambiguous, Unavailable)),
        (600, (Ambiguous, Unexpected), (Ambiguous, Unexpected)),
        (999, (Ambiguous, Unexpected), (Ambiguous, Unexpected)),
    ] {
        for (content_type, body, expected) in [
            ("application/json", "{}", of_the_api),
            ("text/html", "<html>", foreign),
            ("application/json", "<html>", foreign),
        ] {
            let error = classify_status(&answer(status, &[("content-type", content_type)], body));
            let found = (error.disposition, error.kind);
            assert_eq!(found, expected, "{status} {content_type} {body}");
            // An unknown refusal says nothing of the provider; a page where its API should be does.
            let is_page = body == "<html>" && [403, 404, 405].contains(&status);
            let is_unknown_refusal =
                (400..500).contains(&status) && !is_page && expected.1 == Unexpected;
            let blamed = !matches!(expected, (Final, _) | (_, RateLimited)) && !is_unknown_refusal;
            assert_eq!(error.unhealthy, blamed, "{status}");
            let code = error.code.unwrap();
            assert_eq!(code.as_str(), status.to_string());
        }
    }
}

/// A refusal by an unknown code is nobody's fault that is known here: the next provider is asked, whatever the status.
#[test]
fn a_refusal_that_no_table_knows_goes_to_the_next_provider() {
    for status in (400..500).filter(|status| ![401, 408, 413, 429].contains(status)) {
        let body = r#"{"code":1,"error":{"code":2},"errors":[]}"#;
        let error = classify_status(&answer(
            status,
            &[("content-type", "application/json")],
            body,
        ));
        let found = (error.disposition, error.kind, error.unhealthy);
        let expected = (Disposition::ProviderDown, ErrorKind::Unexpected, false);
        assert_eq!(found, expected, "{status}");
    }
}

#[test]
fn a_rate_limit_says_for_how_long() {
    let limited = answer(429, &[("retry-after", "7")], "");
    let wait = classify_status(&limited).retry_after;
    assert_eq!(wait, Some(Duration::from_secs(7)));
    assert_eq!(classify_status(&answer(429, &[], "")).retry_after, None);
}

#[test]
fn only_what_was_not_begun_is_tried_again() {
    use Disposition::{Ambiguous, ProviderDown, Transient};
    use ErrorKind::{Timeout, Unauthenticated, Unavailable, Unexpected};
    for (failure, disposition, kind, unhealthy) in [
        (
            TransportFailure::Egress(EgressError::Unresolved),
            Transient,
            Unavailable,
            true,
        ),
        (
            TransportFailure::Egress(EgressError::Address),
            ProviderDown,
            Unavailable,
            true,
        ),
        (
            TransportFailure::Egress(EgressError::Port),
            ProviderDown,
            Unavailable,
            true,
        ),
        (TransportFailure::NotConnected, Transient, Unavailable, true),
        (
            TransportFailure::Handshake(HandshakeFailure::Certificate(
                crate::net::tls::CertificateFault::Expired,
            )),
            ProviderDown,
            Unauthenticated,
            true,
        ),
        (
            TransportFailure::Handshake(HandshakeFailure::Refused),
            Transient,
            Unavailable,
            true,
        ),
        (
            TransportFailure::Handshake(HandshakeFailure::Closed),
            Transient,
            Unavailable,
            true,
        ),
        (
            TransportFailure::NoConnectionInTime,
            Transient,
            Timeout,
            true,
        ),
        (TransportFailure::NotBegun, Transient, Unavailable, true),
        (TransportFailure::NoAnswerInTime, Ambiguous, Timeout, true),
        // A question sends nothing.
        (TransportFailure::Unanswered, Transient, Timeout, true),
        (TransportFailure::Interrupted, Ambiguous, Unavailable, true),
        (TransportFailure::AnswerTooLong, Ambiguous, Unexpected, true),
        (TransportFailure::Local, ProviderDown, Unavailable, false),
    ] {
        let error = classify_transport(failure);
        assert_eq!(
            (error.disposition, error.kind, error.unhealthy),
            (disposition, kind, unhealthy),
            "{failure:?}"
        );
    }
}

fn url() -> Url {
    Url::parse("https://api.example/x").unwrap()
}

fn header(request: &HttpRequest, name: &HeaderName) -> String {
    request.request.headers()[name].to_str().unwrap().to_owned()
}

fn sent_body(request: &HttpRequest) -> &[u8] {
    request.request.body().unwrap().as_bytes().unwrap()
}

#[test]
fn a_request_says_what_its_body_is() {
    let json = HttpRequest::post_json(url(), &json!({"name": "Müller"})).unwrap();
    assert_eq!(json.request.method(), Method::POST);
    assert_eq!(header(&json, &CONTENT_TYPE), "application/json");
    assert_eq!(sent_body(&json), "{\"name\":\"Müller\"}".as_bytes());
    assert_eq!(json.body_len(), 18);
    let form = HttpRequest::post_form(url(), &[("To", "whatsapp:+1555"), ("Body", "a & b=ü")]);
    assert_eq!(
        header(&form, &CONTENT_TYPE),
        "application/x-www-form-urlencoded"
    );
    assert_eq!(
        sent_body(&form),
        *b"To=whatsapp%3A%2B1555&Body=a+%26+b%3D%C3%BC"
    );
    let question = HttpRequest::get(url());
    assert_eq!(
        (question.request.method().clone(), question.body_len()),
        (Method::GET, 0)
    );
    assert!(!question.request.headers().contains_key(CONTENT_TYPE));
}

#[test]
fn credentials_go_into_a_header_that_is_not_printed() {
    let secret = |text: &str| Secret::new(text.to_owned());
    let bearer = HttpRequest::get(url()).bearer(&secret("planted")).unwrap();
    assert_eq!(header(&bearer, &AUTHORIZATION), "Bearer planted");
    // RFC 7617 section 2.
    let basic = HttpRequest::get(url())
        .basic("Aladdin", &secret("open sesame"))
        .unwrap();
    assert_eq!(
        header(&basic, &AUTHORIZATION),
        "Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ=="
    );
    for request in [bearer, basic] {
        assert!(request.request.headers()[AUTHORIZATION].is_sensitive());
        assert_eq!(format!("{request:?}"), "HttpRequest(…)");
    }
    let error = HttpRequest::get(url())
        .bearer(&secret("planted\r\nx: y"))
        .unwrap_err();
    assert_eq!(error.kind, ErrorKind::Unauthenticated);
    assert!(!error.to_string().contains("planted"));
    let answer = answer(200, &[("x-token", "planted")], "planted");
    assert_eq!(format!("{answer:?}"), "Answer(200, …)");
}

/// A resolver that knows one address for every name, or none at all.
struct Names(Option<IpAddr>);

#[async_trait]
impl Resolver for Names {
    async fn resolve(&self, _: &str) -> io::Result<Vec<IpAddr>> {
        self.0
            .map(|address| vec![address])
            .ok_or_else(|| io::Error::other("no such name"))
    }
}

const LOOPBACK: &str = "127.0.0.1";
const ALLOWED: &str = "127.0.0.0/8";

/// Clients that may go to `allow` beside the public internet, and for which every name is `address`.
fn clients(allow: &str, address: Option<&str>, roots: Option<&str>) -> HttpClients {
    let names = Names(address.map(|address| address.parse().unwrap()));
    let egress = EgressGuard::new(allow.parse().unwrap(), Arc::new(names));
    HttpClients::new(
        TlsConfigs::new(roots).unwrap(),
        egress,
        crate::Sockets::default(),
        Arc::new(SystemClock),
    )
}

async fn listen() -> (TcpListener, u16) {
    let listener = TcpListener::bind((LOOPBACK, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    (listener, port)
}

/// Whether somebody has connected. The kernel completes a connection to loopback before the one who
/// asked for it is told, so that none is still under way.
fn was_connected_to(listener: TcpListener) -> bool {
    let listener = listener.into_std().unwrap();
    match listener.accept() {
        Ok(_) => true,
        Err(error) => {
            assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
            false
        }
    }
}

/// Enough for a machine that is busy with other things; no test waits for it to pass.
fn deadline() -> Deadline {
    Deadline::after(Duration::from_mins(1))
}

async fn post(clients: &HttpClients, base: &str) -> Result<Answer, TransportFailure> {
    let base = BaseUrl::parse(base).unwrap();
    let request = HttpRequest::post_json(base.join(["messages"]), &json!({"a": 1})).unwrap();
    clients.send(&base, request, deadline()).await
}

async fn get(clients: &HttpClients, base: &str) -> Result<Answer, TransportFailure> {
    let base = BaseUrl::parse(base).unwrap();
    let request = HttpRequest::get(base.join(["account"]));
    clients.send(&base, request, deadline()).await
}

/// Reads a request with the body of [`post`], or none.
async fn read_request(stream: &mut (impl AsyncRead + Unpin)) -> String {
    let mut read = Vec::new();
    loop {
        assert_ne!(stream.read_buf(&mut read).await.unwrap(), 0);
        let text = String::from_utf8(read.clone()).unwrap();
        let whole = if text.starts_with("GET ") {
            text.ends_with("\r\n\r\n")
        } else {
            text.ends_with("\r\n\r\n{\"a\":1}")
        };
        if whole {
            return text;
        }
    }
}

/// Reads a request, answers it and ends the connection.
async fn serve(mut stream: impl AsyncRead + AsyncWrite + Unpin, reply: &[u8]) -> String {
    let request = read_request(&mut stream).await;
    stream.write_all(reply).await.unwrap();
    stream.shutdown().await.unwrap();
    request
}

/// What comes of an exchange with a server of one connection and one request.
async fn exchange(
    sent: impl Future<Output = Result<Answer, TransportFailure>>,
    listener: TcpListener,
    reply: &[u8],
) -> (Result<Answer, TransportFailure>, String) {
    tokio::join!(sent, async {
        let (stream, _) = listener.accept().await.unwrap();
        serve(stream, reply).await
    })
}

const ACCEPTED: &[u8] = b"HTTP/1.1 202 Accepted\r\nX-Message-Id: id\r\nContent-Length: 0\r\n\r\n";

#[tokio::test]
async fn tls_is_set_up_without_a_crypto_provider_of_the_process_and_once() {
    let clients = clients("", None, None);
    let first = clients.tls_config().unwrap();
    assert!(Arc::ptr_eq(&first, &clients.tls_config().unwrap()));
    // What was made used its own, and left none behind for others.
    assert!(rustls::crypto::CryptoProvider::get_default().is_none());
}

#[tokio::test]
async fn an_address_in_a_url_is_connected_to_only_if_it_is_allowed() {
    for scheme in ["http", "https"] {
        for host in [LOOPBACK, "[::ffff:127.0.0.1]"] {
            let (listener, port) = listen().await;
            let sent = post(
                &clients("", None, None),
                &format!("{scheme}://{host}:{port}"),
            )
            .await;
            let refused = TransportFailure::Egress(EgressError::Address);
            assert_eq!(sent.unwrap_err(), refused, "{scheme}://{host}");
            assert!(!was_connected_to(listener), "{scheme}://{host}");
        }
    }
    let (listener, port) = listen().await;
    let allowed = clients(ALLOWED, None, None);
    let base = format!("http://{LOOPBACK}:{port}/v1");
    let (sent, request) = exchange(post(&allowed, &base), listener, ACCEPTED).await;
    assert_eq!(sent.unwrap().status, 202);
    assert!(
        request.starts_with("POST /v1/messages HTTP/1.1\r\n"),
        "{request}"
    );
}

#[tokio::test]
async fn a_name_is_connected_to_only_if_its_address_is_allowed() {
    for scheme in ["http", "https"] {
        let (listener, port) = listen().await;
        let named = clients("", Some(LOOPBACK), None);
        let sent = post(&named, &format!("{scheme}://api.example:{port}")).await;
        let refused = TransportFailure::Egress(EgressError::Address);
        assert_eq!(sent.unwrap_err(), refused, "{scheme}");
        assert!(!was_connected_to(listener), "{scheme}");
    }
    let (listener, port) = listen().await;
    let allowed = clients(ALLOWED, Some(LOOPBACK), None);
    let base = format!("http://api.example:{port}");
    let (sent, request) = exchange(post(&allowed, &base), listener, ACCEPTED).await;
    assert_eq!(sent.unwrap().id_from_header("x-message-id").unwrap(), "id");
    let host = format!("\r\nhost: api.example:{port}\r\n");
    assert!(request.to_ascii_lowercase().contains(&host), "{request}");
}

#[tokio::test]
async fn plain_http_and_other_ports_are_for_allowed_addresses_only() {
    // A public address; nothing is connected to.
    let public = clients(ALLOWED, Some("1.1.1.1"), None);
    for base in [
        "http://1.1.1.1",
        "http://1.1.1.1:443",
        "http://api.example",
        "http://api.example:443",
        "https://1.1.1.1:8443",
        "https://api.example:8443",
    ] {
        let sent = post(&public, base).await;
        let refused = TransportFailure::Egress(EgressError::Port);
        assert_eq!(sent.unwrap_err(), refused, "{base}");
    }
}

#[tokio::test]
async fn a_name_that_does_not_resolve_is_said_to_be_one() {
    let sent = post(&clients("", None, None), "https://api.example").await;
    let unresolved = TransportFailure::Egress(EgressError::Unresolved);
    assert_eq!(sent.unwrap_err(), unresolved);
}

#[tokio::test]
async fn nobody_listening_is_no_connection() {
    let (listener, port) = listen().await;
    drop(listener);
    let allowed = clients(ALLOWED, None, None);
    for scheme in ["http", "https"] {
        let sent = post(&allowed, &format!("{scheme}://{LOOPBACK}:{port}")).await;
        assert_eq!(
            sent.unwrap_err(),
            TransportFailure::NotConnected,
            "{scheme}"
        );
    }
}

#[tokio::test]
async fn a_certificate_counts_only_if_its_root_is_trusted() {
    let ca = TestCa::new();
    let pem = ca.pem();
    for (roots, expected) in [
        (Some(pem.as_str()), Ok(202)),
        (
            None,
            Err(TransportFailure::Handshake(HandshakeFailure::Certificate(
                crate::net::tls::CertificateFault::UnknownRoot,
            ))),
        ),
    ] {
        let (listener, port) = listen().await;
        let clients = clients(ALLOWED, Some(LOOPBACK), roots);
        let acceptor = TlsAcceptor::from(ca.server_config(&["api.example"]));
        let base = format!("https://api.example:{port}");
        let (sent, ()) = tokio::join!(post(&clients, &base), async {
            let (stream, _) = listener.accept().await.unwrap();
            if let Ok(stream) = acceptor.accept(stream).await {
                serve(stream, ACCEPTED).await;
            }
        });
        assert_eq!(sent.map(|answer| answer.status), expected);
    }
}

#[tokio::test]
async fn what_does_not_speak_tls_is_sent_nothing() {
    for (reply, expected) in [
        (
            b"HTTP/1.1 400 Bad Request\r\n\r\n".as_slice(),
            TransportFailure::Handshake(HandshakeFailure::Refused),
        ),
        (
            b"".as_slice(),
            TransportFailure::Handshake(HandshakeFailure::Closed),
        ),
    ] {
        let (listener, port) = listen().await;
        let allowed = clients(ALLOWED, None, None);
        let base = format!("https://{LOOPBACK}:{port}");
        let (sent, ()) = tokio::join!(post(&allowed, &base), async {
            let (mut stream, _) = listener.accept().await.unwrap();
            stream.read_u8().await.unwrap();
            stream.write_all(reply).await.unwrap();
            stream.shutdown().await.unwrap();
            // With bytes unread the end would be a reset, which may overtake the reply.
            let rest = stream.read_to_end(&mut Vec::new()).await;
            assert!(rest.is_ok_and(|bytes| bytes < 16_384));
        });
        assert_eq!(sent.unwrap_err(), expected);
    }
}

#[tokio::test]
async fn an_exchange_that_breaks_after_its_beginning_may_have_worked() {
    for reply in [
        b"".as_slice(),
        b"HTTP/1.1 202",
        b"HTTP/1.1 202 Accepted\r\nContent-Length: 5\r\n\r\n{",
        b"220 smtp.example ESMTP\r\n",
    ] {
        let allowed = clients(ALLOWED, None, None);
        let (listener, port) = listen().await;
        let base = format!("http://{LOOPBACK}:{port}");
        let (sent, _) = exchange(post(&allowed, &base), listener, reply).await;
        assert_eq!(
            sent.unwrap_err(),
            TransportFailure::Interrupted,
            "{reply:?}"
        );
    }
    // A question has no such doubt.
    let allowed = clients(ALLOWED, None, None);
    let (listener, port) = listen().await;
    let base = format!("http://{LOOPBACK}:{port}");
    let cut = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n{";
    let (asked, _) = exchange(get(&allowed, &base), listener, cut).await;
    assert_eq!(asked.unwrap_err(), TransportFailure::Unanswered);
}

#[tokio::test]
async fn no_answer_in_time_may_have_worked_unless_it_was_a_question() {
    async fn time_up(listener: TcpListener) {
        let (mut stream, _) = listener.accept().await.unwrap();
        read_request(&mut stream).await;
        // Only now does the time run, and at once.
        tokio::time::pause();
        tokio::time::advance(REQUEST_TIMEOUT).await;
        tokio::time::resume();
        // The one who gave up ends the connection.
        assert_eq!(stream.read(&mut [0]).await.unwrap_or(0), 0);
    }
    let allowed = clients(ALLOWED, None, None);
    let (listener, port) = listen().await;
    let base = format!("http://{LOOPBACK}:{port}");
    let (sent, ()) = tokio::join!(post(&allowed, &base), time_up(listener));
    assert_eq!(sent.unwrap_err(), TransportFailure::NoAnswerInTime);
    let (listener, port) = listen().await;
    let base = format!("http://{LOOPBACK}:{port}");
    let (asked, ()) = tokio::join!(get(&allowed, &base), time_up(listener));
    assert_eq!(asked.unwrap_err(), TransportFailure::Unanswered);
}

#[tokio::test]
async fn a_handshake_that_never_ends_has_sent_nothing() {
    let allowed = clients(ALLOWED, None, None);
    let (listener, port) = listen().await;
    let base = format!("https://{LOOPBACK}:{port}");
    let (sent, ()) = tokio::join!(post(&allowed, &base), async {
        let (mut stream, _) = listener.accept().await.unwrap();
        stream.read_u8().await.unwrap();
        tokio::time::pause();
        tokio::time::advance(REQUEST_TIMEOUT).await;
        tokio::time::resume();
    });
    assert_eq!(sent.unwrap_err(), TransportFailure::NoConnectionInTime);
}

#[tokio::test]
async fn an_answer_is_read_up_to_its_limit() {
    for (bytes, fits) in [(MAX_ANSWER, true), (MAX_ANSWER + 1, false)] {
        let allowed = clients(ALLOWED, None, None);
        let (listener, port) = listen().await;
        let base = format!("http://{LOOPBACK}:{port}");
        let mut reply = b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n".to_vec();
        reply.resize(reply.len() + bytes, b'x');
        let (sent, _) = tokio::join!(post(&allowed, &base), async {
            let (mut stream, _) = listener.accept().await.unwrap();
            read_request(&mut stream).await;
            // Who has read enough may hang up before the end.
            stream.write_all(&reply).await
        });
        let read = sent.map(|answer| answer.body.len());
        let expected = if fits {
            Ok(bytes)
        } else {
            Err(TransportFailure::AnswerTooLong)
        };
        assert_eq!(read, expected);
    }
}

#[tokio::test]
async fn a_redirect_is_an_answer_and_not_followed() {
    let (elsewhere, other_port) = listen().await;
    let allowed = clients(ALLOWED, None, None);
    for status in [301, 302, 303, 307, 308] {
        let (listener, port) = listen().await;
        let base = format!("http://{LOOPBACK}:{port}");
        let reply = format!(
            "HTTP/1.1 {status} Elsewhere\r\nLocation: http://{LOOPBACK}:{other_port}/\r\nContent-Length: 0\r\n\r\n"
        );
        let (sent, _) = exchange(post(&allowed, &base), listener, reply.as_bytes()).await;
        assert_eq!(sent.unwrap().status, status);
    }
    assert!(!was_connected_to(elsewhere));
}

#[tokio::test]
async fn a_request_says_who_asks_and_takes_the_answer_as_it_is() {
    let allowed = clients(ALLOWED, None, None);
    let (listener, port) = listen().await;
    let base = format!("http://{LOOPBACK}:{port}");
    let (sent, request) = exchange(get(&allowed, &base), listener, ACCEPTED).await;
    let received = sent.unwrap().received;
    assert!(Timestamp::now().duration_since(received) >= SignedDuration::ZERO);
    let request = request.to_ascii_lowercase();
    assert!(
        request.contains("\r\nuser-agent: clinic-comms/"),
        "{request}"
    );
    for name in ["accept-encoding", "cookie", "referer", "content-type"] {
        assert!(!request.contains(&format!("\r\n{name}:")), "{request}");
    }
}

#[tokio::test]
async fn what_is_reached_is_reported_stage_by_stage_up_to_the_first_failure() {
    use VerifyStage::{Connect, Egress, Resolve, Tls};
    async fn stages(clients: &HttpClients, base: &str) -> (bool, Vec<(VerifyStage, bool)>) {
        let mut report = Report::new();
        let base = BaseUrl::parse(base).unwrap();
        let reached = clients
            .verify_reachable(&base, &mut report, deadline())
            .await;
        let stages = report.end().into_iter().map(|stage| {
            let passed = stage.outcome == crate::StageOutcome::Passed;
            (stage.stage, passed)
        });
        (reached, stages.collect())
    }
    let unresolved = stages(&clients("", None, None), "https://api.example").await;
    assert_eq!(unresolved, (false, vec![(Resolve, false)]));
    let (listener, port) = listen().await;
    let base = format!("https://api.example:{port}");
    let refused = stages(&clients("", Some(LOOPBACK), None), &base).await;
    assert_eq!(refused, (false, vec![(Resolve, true), (Egress, false)]));
    assert!(!was_connected_to(listener));
    let allowed = clients(ALLOWED, Some(LOOPBACK), None);
    let nobody = stages(&allowed, &base).await;
    let expected = vec![(Resolve, true), (Egress, true), (Connect, false)];
    assert_eq!(nobody, (false, expected));
    let ca = TestCa::new();
    let pem = ca.pem();
    for (roots, passes) in [(Some(pem.as_str()), true), (None, false)] {
        let (listener, port) = listen().await;
        let clients = clients(ALLOWED, Some(LOOPBACK), roots);
        let acceptor = TlsAcceptor::from(ca.server_config(&["api.example"]));
        let base = format!("https://api.example:{port}");
        let (reached, ()) = tokio::join!(stages(&clients, &base), async {
            let (stream, _) = listener.accept().await.unwrap();
            // Whether it worked is the client's to say.
            drop(acceptor.accept(stream).await);
        });
        let expected = vec![
            (Resolve, true),
            (Egress, true),
            (Connect, true),
            (Tls, passes),
        ];
        assert_eq!(reached, (passes, expected));
    }
    let (listener, port) = listen().await;
    let plain = stages(&allowed, &format!("http://api.example:{port}")).await;
    let expected = vec![(Resolve, true), (Egress, true), (Connect, true)];
    assert_eq!(plain, (true, expected));
    assert!(was_connected_to(listener));
}

/// Answers each request on a connection.
async fn serve_all(stream: &mut (impl AsyncRead + AsyncWrite + Unpin), requests: usize) {
    for _ in 0..requests {
        read_request(stream).await;
        stream.write_all(ACCEPTED).await.unwrap();
    }
}

#[tokio::test]
async fn a_connection_carries_the_next_request_to_the_same_host() {
    let allowed = clients(ALLOWED, None, None);
    let (listener, port) = listen().await;
    let base = format!("http://{LOOPBACK}:{port}");
    let posting = async {
        for _ in 0..3 {
            assert_eq!(post(&allowed, &base).await.unwrap().status, 202);
            assert_eq!(allowed.idle.len(), 1);
        }
    };
    let serving = async {
        let (mut stream, _) = listener.accept().await.unwrap();
        serve_all(&mut stream, 3).await;
        stream
    };
    let ((), _stream) = tokio::join!(posting, serving);
    assert!(!was_connected_to(listener));
}

/// What a provider does with a connection between two requests.
async fn after_a_rest(ends: impl AsyncFnOnce(&mut tokio::net::TcpStream)) {
    let allowed = clients(ALLOWED, None, None);
    let (listener, port) = listen().await;
    let base = format!("http://{LOOPBACK}:{port}");
    let (first, (mut stream, _)) = tokio::join!(post(&allowed, &base), async {
        let mut accepted = listener.accept().await.unwrap();
        serve_all(&mut accepted.0, 1).await;
        accepted
    });
    assert_eq!(first.unwrap().status, 202);
    ends(&mut stream).await;
    let (second, _) = exchange(post(&allowed, &base), listener, ACCEPTED).await;
    assert_eq!(second.unwrap().status, 202);
    // Not a byte went over the first one.
    let rest = stream.read_to_end(&mut Vec::new()).await;
    assert_eq!(rest.unwrap_or(0), 0);
}

#[tokio::test]
async fn a_connection_that_was_closed_while_idle_costs_no_message() {
    after_a_rest(async |stream| stream.shutdown().await.unwrap()).await;
}

#[tokio::test]
async fn a_connection_that_spoke_while_idle_is_not_used_again() {
    after_a_rest(async |stream| stream.write_all(ACCEPTED).await.unwrap()).await;
}

#[tokio::test]
async fn idle_connections_are_closed_after_their_time() {
    let allowed = clients(ALLOWED, None, None);
    let (listener, port) = listen().await;
    let base = format!("http://{LOOPBACK}:{port}");
    let (first, mut stream) = tokio::join!(post(&allowed, &base), async {
        let (mut stream, _) = listener.accept().await.unwrap();
        serve_all(&mut stream, 1).await;
        stream
    });
    assert_eq!(first.unwrap().status, 202);
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(46)).await;
    tokio::time::resume();
    // Of another host, which takes it from nobody.
    let (other, port) = listen().await;
    let base = format!("http://{LOOPBACK}:{port}");
    let (second, _) = exchange(post(&allowed, &base), other, ACCEPTED).await;
    assert_eq!(second.unwrap().status, 202);
    assert_eq!(stream.read(&mut [0]).await.unwrap(), 0);
}

#[tokio::test]
async fn informational_responses_are_read_up_to_their_number() {
    for (number, fits) in [
        (connection::MAX_INFORMATIONAL_RESPONSES, true),
        (connection::MAX_INFORMATIONAL_RESPONSES + 1, false),
    ] {
        let allowed = clients(ALLOWED, None, None);
        let (listener, port) = listen().await;
        let base = format!("http://{LOOPBACK}:{port}");
        let early = b"HTTP/1.1 103 Early Hints\r\n\r\n".repeat(number);
        let (sent, ()) = tokio::join!(post(&allowed, &base), async {
            let (mut stream, _) = listener.accept().await.unwrap();
            read_request(&mut stream).await;
            stream.write_all(&early).await.unwrap();
            // The final response comes once the others were read, or the connection has ended.
            let mut byte = [0];
            let ended = tokio::time::timeout(Duration::from_millis(100), stream.read(&mut byte));
            let _ = ended.await;
            let _ = stream.write_all(ACCEPTED).await;
        });
        let expected = if fits {
            Ok(202)
        } else {
            Err(TransportFailure::AnswerTooLong)
        };
        assert_eq!(sent.map(|answer| answer.status), expected, "{number}");
    }
}
