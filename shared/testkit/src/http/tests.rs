//! The server as a client sees it, byte by byte; over HTTP/2 with a library's eyes.

use http::{Request, Response};
use http_body_util::{BodyExt as _, Empty, Full};
use hyper::body::Incoming;
use hyper::client::conn::http2::SendRequest;
use hyper_util::client::legacy::Client as PooledClient;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::ServerName;
use serde_json::json;
use tokio::io::{AsyncBufReadExt as _, AsyncRead, AsyncWrite, AsyncWriteExt as _, BufReader};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::*;
use crate::tls::TestCa;

trait Transport: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Transport for T {}

/// A client that sends what it is told and reads responses, and knows nothing else of HTTP.
struct Client {
    stream: BufReader<Box<dyn Transport>>,
}

impl Client {
    async fn dial(server: &HttpServer) -> Self {
        Self::over(TcpStream::connect(server.addr()).await.unwrap())
    }

    async fn secured(server: &HttpServer, ca: &TestCa) -> Self {
        Self::over(handshake(server.addr(), ca, &[]).await.unwrap())
    }

    fn over(stream: impl Transport + 'static) -> Self {
        Self {
            stream: BufReader::new(Box::new(stream)),
        }
    }

    async fn write(&mut self, bytes: impl AsRef<[u8]>) {
        self.stream.write_all(bytes.as_ref()).await.unwrap();
        self.stream.flush().await.unwrap();
    }

    /// A response's head up to its empty line, with that; empty when the connection ended in good order.
    async fn head(&mut self) -> String {
        let mut head = String::new();
        loop {
            let mut line = String::new();
            if self.stream.read_line(&mut line).await.unwrap() == 0 || line == "\r\n" {
                return head + &line;
            }
            assert!(line.ends_with("\r\n"), "{line:?}");
            head.push_str(&line);
        }
    }

    async fn bytes(&mut self, count: usize) -> Vec<u8> {
        let mut bytes = vec![0; count];
        self.stream.read_exact(&mut bytes).await.unwrap();
        bytes
    }

    /// The status and the body of a response that says how long it is.
    async fn response(&mut self) -> (u16, String) {
        let head = self.head().await;
        let status = head.split(' ').nth(1).expect("a status line");
        let length = head
            .lines()
            .find_map(|line| line.strip_prefix("content-length: "))
            .map_or(0, |length| length.parse().unwrap());
        let body = self.bytes(length).await;
        (status.parse().unwrap(), String::from_utf8(body).unwrap())
    }

    async fn ask(&mut self, request: impl AsRef<[u8]>) -> (u16, String) {
        self.write(request).await;
        self.response().await
    }

    /// What comes until the connection ends, and how it ends.
    async fn rest(&mut self) -> io::Result<Vec<u8>> {
        let mut rest = Vec::new();
        self.stream.read_to_end(&mut rest).await.map(|_| rest)
    }

    /// Nothing came and nothing ended, although the server had the time to serve somebody else.
    async fn hears_nothing(&mut self, server: &HttpServer) {
        server.on("GET", "/else", Reply::new(200));
        let other = Self::dial(server).await.ask(get("/else")).await;
        assert_eq!(other.0, 200);
        timeout(Duration::ZERO, self.stream.fill_buf())
            .await
            .expect_err("the server has nothing to say");
    }
}

async fn handshake(
    addr: SocketAddr,
    ca: &TestCa,
    protocols: &[&str],
) -> io::Result<TlsStream<TcpStream>> {
    let mut config = (*ca.client_config()).clone();
    config.alpn_protocols = protocols
        .iter()
        .map(|name| name.as_bytes().to_vec())
        .collect();
    let name = ServerName::try_from("localhost").unwrap();
    let socket = TcpStream::connect(addr).await.unwrap();
    TlsConnector::from(Arc::new(config))
        .connect(name, socket)
        .await
}

fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nhost: localhost\r\n\r\n")
}

fn post(path: &str, body: &str) -> String {
    format!(
        "POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n\
         content-length: {}\r\n\r\n{body}",
        body.len()
    )
}

async fn plain_server() -> HttpServer {
    HttpServer::builder().start().await.unwrap()
}

async fn secure_server(ca: &TestCa) -> HttpServer {
    let builder = HttpServer::builder().tls(ca.server_config(&["localhost"]));
    builder.start().await.unwrap()
}

/// A server that offers HTTP/2, and a client that takes the offer.
async fn http2(ca: &TestCa) -> (HttpServer, SendRequest<Full<Bytes>>) {
    let server = HttpServer::builder()
        .tls(ca.server_config(&["localhost"]))
        .http2()
        .start()
        .await
        .unwrap();
    let socket = handshake(server.addr(), ca, &["h2", "http/1.1"])
        .await
        .unwrap();
    assert_eq!(socket.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    let (client, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(socket))
            .await
            .unwrap();
    tokio::spawn(connection);
    (server, client)
}

fn http2_get(server: &HttpServer, path: &str) -> Request<Full<Bytes>> {
    let uri = format!("{}{path}", server.url());
    Request::get(uri).body(Full::default()).unwrap()
}

async fn text(response: Response<Incoming>) -> String {
    let body = response.into_body().collect().await.unwrap().to_bytes();
    String::from_utf8(body.to_vec()).unwrap()
}

#[tokio::test]
async fn queued_replies_come_in_order_then_the_standing_one() {
    let server = plain_server().await;
    server.always("GET", "/a", Reply::new(200).body("ever"));
    server.on("GET", "/a", Reply::new(503).body("one"));
    server.on("GET", "/b", Reply::new(200).body("other"));
    server.on("GET", "/a", Reply::new(429).body("two"));
    let mut client = Client::dial(&server).await;
    for (path, status, body) in [
        ("/a", 503, "one"),
        ("/a", 429, "two"),
        ("/b", 200, "other"),
        ("/a", 200, "ever"),
        ("/a", 200, "ever"),
    ] {
        assert_eq!(client.ask(get(path)).await, (status, body.to_owned()));
    }
    assert_eq!(server.connections(), 1);
    assert_eq!(server.unexpected(), Vec::<String>::new());
}

#[tokio::test]
async fn unscripted_request_is_answered_599_and_recorded() {
    let server = plain_server().await;
    server.on("GET", "/a", Reply::new(200));
    server.always("GET", "/b", Reply::new(200));
    let mut client = Client::dial(&server).await;
    for request in [post("/a", "{}"), get("/a/"), get("/A")] {
        assert_eq!(client.ask(request).await, (599, String::new()));
    }
    server.clear_script();
    for request in [get("/a"), get("/b")] {
        assert_eq!(client.ask(request).await.0, 599);
    }
    assert_eq!(
        server.unexpected(),
        ["POST /a", "GET /a/", "GET /A", "GET /a", "GET /b"]
    );
    assert_eq!(server.requests().len(), 5);
    server.clear_requests();
    assert_eq!(server.unexpected(), Vec::<String>::new());
    assert_eq!(server.requests(), Vec::new());
}

#[tokio::test]
async fn unscripted_request_may_be_answered_by_a_responder() {
    let server = plain_server().await;
    server.on("POST", "/a", Reply::new(201));
    server.answer_with(|request| (request.body == b"known").then(|| Reply::new(202)));
    let mut client = Client::dial(&server).await;
    for (body, status) in [("known", 201), ("known", 202), ("other", 599)] {
        assert_eq!(client.ask(post("/a", body)).await.0, status);
    }
    assert_eq!(server.requests().len(), 3);
    assert_eq!(server.unexpected(), ["POST /a"]);
}

#[tokio::test]
#[should_panic(expected = "/a?b=c is no path")]
async fn a_route_with_a_query_is_the_tests_mistake() {
    plain_server().await.on("GET", "/a?b=c", Reply::new(200));
}

#[test]
#[should_panic(expected = "100 is not a final status")]
fn an_interim_status_is_the_tests_mistake() {
    let _ = Reply::new(100);
}

#[tokio::test]
async fn a_request_is_recorded_as_it_came() {
    let server = plain_server().await;
    server.always("PUT", "/a%20b/c.json", Reply::new(200));
    Client::dial(&server).await;
    let mut client = Client::dial(&server).await;
    server.wait_for_connections(2).await;
    client
        .ask(
            "PUT /a%20b/c.json?x=%2F&y HTTP/1.1\r\nHost: api.example:8080\r\nX-Two:  b \r\nContent-Type: text/plain\r\n\
             x-two:a\r\nContent-Length: 3\r\n\r\n\0\r\n",
        )
        .await;
    let header = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    assert_eq!(
        server.requests(),
        [ReceivedRequest {
            method: "PUT".to_owned(),
            path: "/a%20b/c.json".to_owned(),
            query: Some("x=%2F&y".to_owned()),
            headers: vec![
                header("host", "api.example:8080"),
                header("x-two", "b"),
                header("content-type", "text/plain"),
                header("x-two", "a"),
                header("content-length", "3"),
            ],
            body: b"\0\r\n".to_vec(),
            connection: 2,
            version: Version::HTTP_11,
        }]
    );
    assert_eq!(server.requests()[0].header("X-TWO"), Some("b"));
    assert_eq!(server.requests()[0].header("x-three"), None);
}

#[tokio::test]
async fn chunks_are_put_together() {
    let server = plain_server().await;
    server.always("POST", "/", Reply::new(200));
    let mut client = Client::dial(&server).await;
    let head = "POST / HTTP/1.1\r\nhost: h\r\ncontent-type: text/plain\r\ntransfer-encoding: Chunked\r\n\r\n";
    let long = "x".repeat(0x1F);
    client
        .ask(format!("{head}3\r\na\r\n\r\n1f\r\n{long}\r\n0\r\n\r\n"))
        .await;
    assert_eq!(client.ask(format!("{head}0\r\n\r\n")).await.0, 200);
    let requests = server.requests();
    assert_eq!(requests[0].body, format!("a\r\n{long}").as_bytes());
    assert_eq!(requests[1].body, b"");
}

#[tokio::test]
async fn a_client_that_waits_to_be_invited_is_invited() {
    let server = plain_server().await;
    server.always("POST", "/", Reply::new(200));
    let mut client = Client::dial(&server).await;
    client
        .write(
            "POST / HTTP/1.1\r\nhost: h\r\ncontent-type: text/plain\r\ncontent-length: 2\r\n\
             expect: 100-continue\r\n\r\n",
        )
        .await;
    assert_eq!(client.head().await, "HTTP/1.1 100 Continue\r\n\r\n");
    assert_eq!(client.ask("hi").await.0, 200);
    assert_eq!(server.requests()[0].body, b"hi");
}

#[tokio::test]
async fn a_body_is_read_as_json_or_as_a_form() {
    let request = |content_type: &str, body: &str| ReceivedRequest {
        method: "POST".to_owned(),
        path: "/".to_owned(),
        query: None,
        headers: vec![("content-type".to_owned(), content_type.to_owned())],
        body: body.as_bytes().to_vec(),
        connection: 1,
        version: Version::HTTP_11,
    };
    let form = request(
        "application/x-www-form-urlencoded; charset=UTF-8",
        "To=%2B15550100&Body=a+b%26c&To=&x",
    );
    let fields = [
        ("To", "+15550100"),
        ("Body", "a b&c"),
        ("To", ""),
        ("x", ""),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()));
    assert_eq!(form.form(), fields);
    assert_eq!(form.json(), Value::Null);
    let json = request("application/json", r#"{"a":[1]}"#);
    assert_eq!(json.json(), json!({ "a": [1] }));
    assert_eq!(json.form(), Vec::new());
}

#[tokio::test]
async fn a_transcript_is_the_same_in_every_run_and_holds_no_credential() {
    let server = plain_server().await;
    server.always("POST", "/v3/mail/send", Reply::new(202));
    Client::dial(&server)
        .await
        .ask(format!(
            "POST /v3/mail/send?a=b HTTP/1.1\r\nHost: localhost:{}\r\nAuthorization: Bearer nobodys\r\n\
             User-Agent: test/1\r\nX-Amz-Date: 20260101T000000Z\r\nX-Amz-Security-Token: nobodys\r\n\
             amz-sdk-invocation-id: 1\r\nAmz-Sdk-Request: attempt=1\r\nContent-Type: application/json\r\n\
             Content-Length: 12\r\n\r\n{{\"a\": \"ü\"}}\n",
            server.port()
        ))
        .await;
    assert_eq!(
        server.requests()[0].transcript(),
        "POST /v3/mail/send?a=b HTTP/1.1\n\
         host: …\n\
         authorization: …\n\
         user-agent: …\n\
         x-amz-date: …\n\
         x-amz-security-token: …\n\
         amz-sdk-invocation-id: …\n\
         amz-sdk-request: …\n\
         content-type: application/json\n\
         content-length: 12\n\
         \n\
         {\"a\": \"ü\"}\n"
    );
}

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
    client.hears_nothing(&server).await;
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
    client.hears_nothing(&server).await;
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

/// Sends each of these, on a connection of its own, and expects the refusal and the connection's end.
async fn expect_refusals(cases: &[(String, u16, &str)]) {
    let server = plain_server().await;
    for (request, status, why) in cases {
        let mut client = Client::dial(&server).await;
        let answer = client.ask(request).await;
        assert_eq!(answer, (*status, (*why).to_owned()), "{request:?}");
        assert_eq!(client.rest().await.unwrap(), b"", "{request:?}");
        assert_eq!(server.unexpected(), [format!("{status} {why}")]);
        assert_eq!(server.requests(), Vec::new());
        server.clear_requests();
    }
}

#[tokio::test]
async fn a_line_that_is_no_request_line_is_refused() {
    let words = "a request line has three words";
    let ascii = "a line is not of visible ASCII";
    let version = "the version is not HTTP/1.1";
    let target = "the target is no path with a query";
    expect_refusals(&[
        ("\r\n".to_owned(), 400, words),
        ("GET /\r\n".to_owned(), 400, words),
        ("GET  / HTTP/1.1\r\n".to_owned(), 400, words),
        ("GET /a b HTTP/1.1\r\n".to_owned(), 400, words),
        ("GET / HTTP/1.1 \r\n".to_owned(), 400, words),
        (
            "GET / HTTP/1.1\n".to_owned(),
            400,
            "a line ends in LF alone",
        ),
        ("GET /ü HTTP/1.1\r\n".to_owned(), 400, ascii),
        ("GET /\r HTTP/1.1\r\n".to_owned(), 400, ascii),
        ("GET / HTTP/1.0\r\n".to_owned(), 505, version),
        ("PRI * HTTP/2.0\r\n".to_owned(), 505, version),
        (
            "get / HTTP/1.1\r\n".to_owned(),
            400,
            "the method is no word in capitals",
        ),
        (get("*"), 400, target),
        (get("http://h/"), 400, target),
        (get("/a#b"), 400, target),
        (get("/a\"b"), 400, target),
        (get("/a%2"), 400, target),
        (get("/a%zz"), 400, target),
        (get("/a?b={}"), 400, target),
    ])
    .await;
}

#[tokio::test]
async fn headers_that_are_malformed_or_missing_are_refused() {
    let request = |headers: &str| format!("GET / HTTP/1.1\r\n{headers}\r\n");
    let header = "a header is a name, a colon and a value";
    let host = "a request has one host";
    expect_refusals(&[
        (request(""), 400, host),
        (request("host: h\r\nHost: h\r\n"), 400, host),
        (request("host:\r\n"), 400, "the host is empty"),
        (request("host : h\r\n"), 400, header),
        (request("host: h\r\n folded\r\n"), 400, header),
        (request("host\r\n"), 400, header),
        (request(": h\r\n"), 400, header),
        (request("host: h\n"), 400, "a line ends in LF alone"),
        (
            request("host: h\r\nexpect: more\r\n"),
            417,
            "only 100-continue can be expected",
        ),
    ])
    .await;
}

#[tokio::test]
async fn a_body_without_a_type_or_a_clear_end_is_refused() {
    let head = "POST / HTTP/1.1\r\nhost: h\r\ncontent-type: text/plain\r\n";
    let sized = |headers: &str| format!("{head}{headers}\r\n");
    let chunked = |chunks: &str| format!("{head}transfer-encoding: chunked\r\n\r\n{chunks}");
    let number = "the body's length is no number";
    let twice = "the body's length is said twice";
    let chunk = "a chunk is a length, its bytes and CRLF";
    let untyped = "POST / HTTP/1.1\r\nhost: h\r\ncontent-length: 1\r\n\r\na";
    expect_refusals(&[
        (
            sized(""),
            411,
            "a request of this method says how long its body is",
        ),
        (sized("content-length: +1\r\n"), 400, number),
        (sized("content-length: 1, 1\r\n"), 400, number),
        (sized("content-length:\r\n"), 400, number),
        (
            sized("content-length: 1\r\ncontent-length: 1\r\n"),
            400,
            twice,
        ),
        (
            sized("content-length: 0\r\ntransfer-encoding: chunked\r\n"),
            400,
            twice,
        ),
        (
            sized("transfer-encoding: gzip, chunked\r\n"),
            501,
            "the only transfer coding is chunked",
        ),
        (chunked("+1\r\n"), 400, chunk),
        (chunked("\r\n"), 400, chunk),
        (chunked("1;a=b\r\n"), 400, chunk),
        (chunked("1\r\nab\r\n"), 400, chunk),
        (chunked("0\r\na: b\r\n\r\n"), 400, chunk),
        (chunked(&"0".repeat(65)), 400, chunk),
        (untyped.to_owned(), 415, "the body has no type"),
        (
            untyped.replace("POST", "GET"),
            400,
            "a request of this method has no body",
        ),
    ])
    .await;
}

#[tokio::test]
async fn oversized_request_is_refused_before_it_is_read() {
    let server = plain_server().await;
    let post = "POST / HTTP/1.1\r\nhost: h\r\ncontent-type: text/plain\r\n";
    let half = "x".repeat(40 * 1024);
    for (request, status) in [
        (format!("GET /{}", "x".repeat(64 * 1024)), 431),
        (format!("GET / HTTP/1.1\r\na: {half}\r\nb: {half}\r\n"), 431),
        (format!("{post}content-length: 67108865\r\n\r\n"), 413),
        (
            format!("{post}content-length: {}\r\n\r\n", "9".repeat(50)),
            413,
        ),
        (
            format!("{post}transfer-encoding: chunked\r\n\r\n4000001\r\n"),
            413,
        ),
        (
            format!("{post}transfer-encoding: chunked\r\n\r\n1\r\na\r\n4000000\r\n"),
            413,
        ),
    ] {
        let mut client = Client::dial(&server).await;
        assert_eq!(client.ask(request).await.0, status);
        assert_eq!(client.rest().await.unwrap(), b"");
    }
}

#[tokio::test]
async fn a_request_that_breaks_off_is_none() {
    let server = plain_server().await;
    for part in ["", "GET / HTTP/1.1\r\nhost: h\r\n", &post("/", "{}")[..70]] {
        let mut client = Client::dial(&server).await;
        client.write(part).await;
        client.stream.shutdown().await.unwrap();
        assert_eq!(client.rest().await.unwrap(), b"");
    }
    assert_eq!(server.connections(), 3);
    assert_eq!(server.requests(), Vec::new());
    assert_eq!(server.unexpected(), Vec::<String>::new());
}

#[tokio::test]
async fn requests_are_waited_for_and_counted_anew_when_forgotten() {
    let server = plain_server().await;
    server.always("GET", "/", Reply::new(200));
    let mut client = Client::dial(&server).await;
    for _ in 0..2 {
        let (requests, _) = tokio::join!(server.wait_for_requests(1), client.ask(get("/")));
        assert_eq!(requests.len(), 1);
        server.clear_requests();
    }
    timeout(Duration::ZERO, server.wait_for_requests(1))
        .await
        .unwrap_err();
}

#[tokio::test]
async fn the_oldest_requests_are_dropped_but_counted() {
    let server = plain_server().await;
    server.always("GET", "/", Reply::new(200));
    let mut client = Client::dial(&server).await;
    client.ask(get("/?first")).await;
    for _ in 0..KEPT_REQUESTS {
        client.ask(get("/")).await;
    }
    let kept = server.wait_for_requests(KEPT_REQUESTS + 1).await;
    assert_eq!(kept.len(), KEPT_REQUESTS);
    assert!(kept.iter().all(|request| request.query.is_none()));
}

#[tokio::test]
async fn the_server_says_where_it_is() {
    let plain = plain_server().await;
    assert_eq!(plain.host(), "127.0.0.1");
    assert_eq!(plain.url(), format!("http://127.0.0.1:{}", plain.port()));
    assert_eq!(plain.addr().port(), plain.port());
    let secure = secure_server(&TestCa::new()).await;
    assert_eq!(secure.host(), "localhost");
    assert_eq!(secure.url(), format!("https://localhost:{}", secure.port()));
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let addr = listener.local_addr().unwrap();
    let given = HttpServer::builder().listener(listener).start().await;
    assert_eq!(given.unwrap().addr(), addr);
}

#[tokio::test]
async fn pooling_client_keeps_its_connection() {
    let server = plain_server().await;
    server.always("GET", "/a", Reply::json(200, json!({})));
    let client = PooledClient::builder(TokioExecutor::new()).build_http::<Empty<Bytes>>();
    for _ in 0..2 {
        let uri = format!("{}/a", server.url()).parse().unwrap();
        let response = client.get(uri).await.unwrap();
        assert_eq!(text(response).await, "{}");
    }
    assert_eq!(server.connections(), 1);
    let host = format!("127.0.0.1:{}", server.port());
    assert_eq!(server.requests()[1].header("host"), Some(&*host));
}

#[tokio::test]
async fn tls_and_the_request_are_for_the_same_host() {
    let ca = TestCa::new();
    let server = secure_server(&ca).await;
    server.always("GET", "/", Reply::new(200));
    let mut client = Client::secured(&server, &ca).await;
    let with_port = "GET / HTTP/1.1\r\nhost: LOCALHOST:443\r\n\r\n";
    assert_eq!(client.ask(with_port).await.0, 200);
    let other = "GET / HTTP/1.1\r\nhost: api.example\r\n\r\n";
    assert_eq!(client.ask(other).await.0, 421);
    assert_eq!(server.unexpected(), ["421 TLS asked for another host"]);
}

#[tokio::test]
async fn a_client_that_distrusts_the_certificate_only_counts_as_a_connection() {
    let ca = TestCa::new();
    let server = secure_server(&ca).await;
    handshake(server.addr(), &TestCa::new(), &[])
        .await
        .unwrap_err();
    assert_eq!(server.connections(), 1);
    assert_eq!(server.unexpected(), Vec::<String>::new());
}

#[tokio::test]
async fn http2_is_not_spoken_unless_it_is_asked_for() {
    let ca = TestCa::new();
    let server = secure_server(&ca).await;
    let socket = handshake(server.addr(), &ca, &["h2", "http/1.1"])
        .await
        .unwrap();
    assert_eq!(socket.get_ref().1.alpn_protocol(), Some(&b"http/1.1"[..]));
    handshake(server.addr(), &ca, &["h2"]).await.unwrap_err();
    let without_tls = HttpServer::builder().http2().start().await;
    assert_eq!(without_tls.unwrap_err().kind(), io::ErrorKind::InvalidInput);
}

#[tokio::test]
async fn http2_is_offered_beside_http1() {
    let ca = TestCa::new();
    let (server, mut http2) = http2(&ca).await;
    server.always("GET", "/", Reply::new(200).body("hi"));
    let mut http1 = Client::secured(&server, &ca).await;
    assert_eq!(http1.ask(get("/")).await, (200, "hi".to_owned()));
    let response = http2.send_request(http2_get(&server, "/")).await.unwrap();
    assert_eq!(text(response).await, "hi");
    let versions = server.requests().into_iter().map(|request| request.version);
    assert_eq!(
        versions.collect::<Vec<_>>(),
        [Version::HTTP_11, Version::HTTP_2]
    );
}

#[tokio::test]
async fn an_http2_request_is_recorded_and_answered() {
    let ca = TestCa::new();
    let (server, mut client) = http2(&ca).await;
    server.on(
        "POST",
        "/a",
        Reply::json(202, json!({ "id": 7 })).header("x-id", "one"),
    );
    server.on("HEAD", "/a", Reply::new(200).body("seven"));
    let uri = format!("{}/a?b=c", server.url());
    let request = Request::post(&uri)
        .header("content-type", "application/json")
        .header("authorization", "Bearer nobodys")
        .body(Full::from("{}"))
        .unwrap();
    let response = client.send_request(request).await.unwrap();
    assert_eq!(response.status(), 202);
    assert_eq!(response.headers()["x-id"], "one");
    assert_eq!(response.headers()["content-length"], "8");
    assert_eq!(text(response).await, r#"{"id":7}"#);
    let request = server.requests().remove(0);
    assert_eq!(request.connection, 1);
    assert_eq!(
        request.transcript(),
        "POST /a?b=c HTTP/2.0\nhost: …\ncontent-type: application/json\nauthorization: …\ncontent-length: 2\n\n{}"
    );
    let host = format!("localhost:{}", server.port());
    assert_eq!(request.header("host"), Some(&*host));

    let head = Request::head(&uri).body(Full::default()).unwrap();
    let response = client.send_request(head).await.unwrap();
    assert_eq!(response.headers()["content-length"], "5");
    assert_eq!(text(response).await, "");

    let missing = client.send_request(http2_get(&server, "/b")).await.unwrap();
    assert_eq!(missing.status(), 599);
    let untyped = Request::post(&uri).body(Full::from("{}")).unwrap();
    let refused = client.send_request(untyped).await.unwrap();
    assert_eq!(refused.status(), 415);
    assert_eq!(server.unexpected(), ["GET /b", "415 the body has no type"]);
}

#[tokio::test]
async fn an_http2_request_hangs_alone() {
    let ca = TestCa::new();
    let (server, mut client) = http2(&ca).await;
    server.on("GET", "/", Reply::hang());
    server.on("GET", "/", Reply::new(200));
    let mut hanging = Box::pin(client.send_request(http2_get(&server, "/")));
    tokio::select! {
        _ = &mut hanging => panic!("the server answers"),
        _ = server.wait_for_requests(1) => {}
    }
    let response = client.send_request(http2_get(&server, "/")).await.unwrap();
    assert_eq!(response.status(), 200);
    timeout(Duration::ZERO, &mut hanging)
        .await
        .expect_err("the server does not answer");
    drop(server);
    hanging.await.unwrap_err();
}

#[tokio::test]
async fn http2_faults_end_a_request() {
    let ca = TestCa::new();
    for (reply, ends_connection) in [
        (Reply::reset(), false),
        (Reply::new(200).body("abcde").cut(3), false),
        (Reply::close(), true),
        (Reply::raw("220 mail.clinic.example ESMTP\r\n"), true),
    ] {
        let (server, mut client) = http2(&ca).await;
        server.on("GET", "/", reply.clone());
        server.on("GET", "/", Reply::new(200));
        let body = match client.send_request(http2_get(&server, "/")).await {
            Ok(response) => response.into_body().collect().await.map(drop),
            Err(error) => Err(error),
        };
        body.expect_err("the fault ends the request");
        let next = client.send_request(http2_get(&server, "/")).await;
        assert_eq!(next.is_err(), ends_connection, "{reply:?}");
    }
}

#[tokio::test]
async fn an_http2_body_stalls_or_never_ends() {
    const ENOUGH: usize = 4 * 1024 * 1024;
    let ca = TestCa::new();
    let (server, mut client) = http2(&ca).await;
    server.on("GET", "/", Reply::new(200).body("abcde").stall(3));
    server.on("GET", "/", Reply::endless(200, "text/plain"));
    let stalled = client.send_request(http2_get(&server, "/")).await.unwrap();
    assert_eq!(stalled.headers()["content-length"], "5");
    let mut stalled = stalled.into_body();
    let frame = stalled.frame().await.unwrap().unwrap();
    assert_eq!(frame.into_data().unwrap(), "abc");

    let endless = client.send_request(http2_get(&server, "/")).await.unwrap();
    let mut endless = endless.into_body();
    let mut read = 0;
    while read < ENOUGH {
        read += endless
            .frame()
            .await
            .unwrap()
            .unwrap()
            .into_data()
            .unwrap()
            .len();
    }
    assert!(server.bytes_written() >= ENOUGH as u64);
    timeout(Duration::ZERO, stalled.frame())
        .await
        .expect_err("the server sends no more");
}

#[tokio::test]
async fn everything_ends_with_the_server() {
    let ca = TestCa::new();
    let server = secure_server(&ca).await;
    let replies = [
        Reply::new(200),
        Reply::hang(),
        Reply::new(200).body("abc").stall(1),
        Reply::endless(200, "text/plain"),
    ];
    let mut clients = Vec::new();
    for reply in replies.clone() {
        server.on("GET", "/", reply);
        let mut client = Client::secured(&server, &ca).await;
        client.write(get("/")).await;
        clients.push(client);
    }
    server.wait_for_requests(4).await;
    let (http2_server, client) = http2(&ca).await;
    let mut answers = JoinSet::new();
    for reply in replies {
        http2_server.on("GET", "/", reply);
        let request = client.clone().send_request(http2_get(&http2_server, "/"));
        answers.spawn(request);
    }
    http2_server.wait_for_requests(4).await;
    for server in [server, http2_server] {
        let shared = Arc::downgrade(&server.shared);
        drop(server);
        let over = async {
            while shared.strong_count() > 0 {
                tokio::task::yield_now().await;
            }
        };
        timeout(PATIENCE, over).await.expect("no task is left");
    }
    for mut client in clients {
        client.rest().await.expect_err("TLS does not say goodbye");
    }
}
