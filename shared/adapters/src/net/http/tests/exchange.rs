//! One exchange with a server.

use super::*;

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
