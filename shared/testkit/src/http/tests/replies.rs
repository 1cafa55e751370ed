//! Replies, and faults in their place.

use serde_json::json;
use tokio::time::timeout;

use super::super::reply::FILLER;
use super::*;
use crate::tls::TestCa;

#[tokio::test]
async fn a_reply_has_the_headers_of_the_script_and_its_length() {
    let server = plain_server().await;
    let reply = Reply::json(202, json!({ "id": 7 }))
        .header("X-Message-Id", "one")
        .header("set-cookie", "a=b")
        .header("set-cookie", "c=d");
    server.on("GET", "/json", reply);
    server.on("GET", "/none", Reply::new(204).body("ignored"));
    server.on("GET", "/empty", Reply::new(599));
    server.on(
        "GET",
        "/lie",
        Reply::new(200).body("abc").header("content-length", "2"),
    );
    server.on("HEAD", "/json", Reply::new(200).body("seven"));
    let mut client = Client::dial(&server).await;
    let request = |method: &str, path: &str| format!("{method} {path} HTTP/1.1\r\nhost: h\r\n\r\n");
    for (method, path, head, body) in [
        (
            "GET",
            "/json",
            "HTTP/1.1 202 Accepted\r\ncontent-type: application/json\r\nx-message-id: one\r\n\
             set-cookie: a=b\r\nset-cookie: c=d\r\ncontent-length: 8\r\n\r\n",
            r#"{"id":7}"#,
        ),
        ("GET", "/none", "HTTP/1.1 204 No Content\r\n\r\n", ""),
        (
            "HEAD",
            "/json",
            "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n",
            "",
        ),
        (
            "GET",
            "/empty",
            "HTTP/1.1 599 \r\ncontent-length: 0\r\n\r\n",
            "",
        ),
        (
            "GET",
            "/lie",
            "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n",
            "abc",
        ),
    ] {
        client.write(request(method, path)).await;
        assert_eq!(client.head().await, head);
        assert_eq!(client.bytes(body.len()).await, body.as_bytes());
    }
    assert_eq!(server.bytes_written(), 8 + 3);
}

#[tokio::test]
async fn the_last_reply_closes_the_connection() {
    let server = plain_server().await;
    server.on("GET", "/", Reply::new(200));
    server.on("GET", "/", Reply::new(200).header("connection", "close"));
    let requests = [
        "GET / HTTP/1.1\r\nhost: h\r\nconnection: x, Close\r\n\r\n".to_owned(),
        get("/"),
    ];
    for request in requests {
        let mut client = Client::dial(&server).await;
        client.write(request).await;
        let all = String::from_utf8(client.rest().await.unwrap()).unwrap();
        assert_eq!(all.matches("connection: close\r\n").count(), 1, "{all}");
    }
}

#[tokio::test]
async fn a_request_that_hangs_is_recorded_and_never_answered() {
    let server = plain_server().await;
    server.on("POST", "/", Reply::hang());
    let mut client = Client::dial(&server).await;
    client.write(post("/", "{}")).await;
    assert_eq!(server.wait_for_requests(1).await[0].body, b"{}");
    client.receives_nothing(&server).await;
}

#[tokio::test]
async fn connections_end_without_an_answer() {
    let ca = TestCa::new();
    for encrypted in [false, true] {
        let server = if encrypted {
            secure_server(&ca).await
        } else {
            plain_server().await
        };
        server.on("POST", "/", Reply::close());
        server.on("POST", "/", Reply::reset());
        for reset in [false, true] {
            let mut client = if encrypted {
                Client::secured(&server, &ca).await
            } else {
                Client::dial(&server).await
            };
            client.write(post("/", "{}")).await;
            let end = client.rest().await.map_err(|error| error.kind());
            let expected = match (encrypted, reset) {
                (_, true) => Err(io::ErrorKind::ConnectionReset),
                (true, false) => Err(io::ErrorKind::UnexpectedEof),
                (false, false) => Ok(Vec::new()),
            };
            assert_eq!(end, expected, "encrypted {encrypted}, reset {reset}");
        }
        assert_eq!(server.requests().len(), 2);
        assert_eq!(server.unexpected(), Vec::<String>::new());
    }
}

#[tokio::test]
async fn a_body_is_cut() {
    let server = plain_server().await;
    for (bytes, sent) in [(0, ""), (3, "abc"), (5, "abcde"), (9, "abcde")] {
        server.on("GET", "/", Reply::new(200).body("abcde").cut(bytes));
        let mut client = Client::dial(&server).await;
        client.write(get("/")).await;
        let all = String::from_utf8(client.rest().await.unwrap()).unwrap();
        assert_eq!(
            all,
            format!("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n{sent}")
        );
    }
}

#[tokio::test]
async fn a_body_that_is_cut_over_tls_ends_without_tls_saying_so() {
    let ca = TestCa::new();
    let server = secure_server(&ca).await;
    server.on("GET", "/", Reply::new(200).body("abcde").cut(3));
    let mut client = Client::secured(&server, &ca).await;
    client.write(get("/")).await;
    client.head().await;
    assert_eq!(client.bytes(3).await, b"abc");
    let error = client.rest().await.expect_err("no close_notify");
    assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
}

#[tokio::test]
async fn a_body_stalls() {
    let server = plain_server().await;
    server.on("GET", "/", Reply::new(200).body("abcde").stall(3));
    let mut client = Client::dial(&server).await;
    client.write(get("/")).await;
    assert_eq!(
        client.head().await,
        "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n"
    );
    assert_eq!(client.bytes(3).await, b"abc");
    client.receives_nothing(&server).await;
}

#[tokio::test]
async fn a_body_never_ends() {
    const ENOUGH: usize = 8 * 1024 * 1024;
    let server = plain_server().await;
    server.on(
        "GET",
        "/",
        Reply::endless(200, "application/json").body("[1"),
    );
    let mut client = Client::dial(&server).await;
    client.write(get("/")).await;
    assert_eq!(
        client.head().await,
        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n"
    );
    let start = client.bytes(7 + 6 + FILLER.len() + 2).await;
    assert!(start.starts_with(b"2\r\n[1\r\n4000\r\n   "));
    assert!(start.ends_with(b"   \r\n"));
    client.bytes(ENOUGH).await;
    drop(client);
    let written = server.bytes_written();
    // Sixteen thousand blanks carry eight bytes of framing.
    assert!(written > ENOUGH as u64 - 8 * 1024, "{written}");
    assert!(written < 8 * ENOUGH as u64, "{written}");
}

#[tokio::test]
async fn raw_bytes_come_instead_of_a_response() {
    let ca = TestCa::new();
    let server = secure_server(&ca).await;
    server.on("GET", "/", Reply::raw("220 mail.clinic.example ESMTP\r\n"));
    let mut client = Client::secured(&server, &ca).await;
    client.write(get("/")).await;
    assert_eq!(
        client.rest().await.unwrap(),
        b"220 mail.clinic.example ESMTP\r\n"
    );
}

#[tokio::test]
async fn connections_fail_before_a_request_in_the_order_of_the_script() {
    let ca = TestCa::new();
    let server = secure_server(&ca).await;
    server.always("GET", "/", Reply::new(200));
    server.on_connect(ConnectAction::Close);
    server.on_connect(ConnectAction::CloseInTls);
    server.on_connect(ConnectAction::Hang);
    // Whether the end comes as FIN or RST depends on how much the client had said.
    for _ in 0..2 {
        handshake(server.addr(), &ca, &[]).await.unwrap_err();
    }
    let mut hanging = Box::pin(handshake(server.addr(), &ca, &[]));
    tokio::select! {
        _ = &mut hanging => panic!("the server speaks"),
        () = server.wait_for_connections(3) => {}
    }
    let mut client = Client::secured(&server, &ca).await;
    assert_eq!(client.ask(get("/")).await.0, 200);
    timeout(Duration::ZERO, &mut hanging)
        .await
        .expect_err("the server says nothing");
    drop(server);
    hanging.await.unwrap_err();
}

#[tokio::test]
async fn a_connection_that_is_closed_at_once_says_nothing() {
    let server = plain_server().await;
    server.on_connect(ConnectAction::Close);
    server.on_connect(ConnectAction::CloseInTls);
    server.on_connect(ConnectAction::Close);
    server.clear_script();
    server.on_connect(ConnectAction::Close);
    assert_eq!(Client::dial(&server).await.rest().await.unwrap(), b"");
    assert_eq!(Client::dial(&server).await.ask(get("/")).await.0, 599);
}
