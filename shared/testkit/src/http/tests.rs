//! The server as a client sees it, byte by byte.

mod refusals;
mod replies;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty};
use hyper_util::client::legacy::Client as PooledClient;
use hyper_util::rt::TokioExecutor;
use rustls::pki_types::ServerName;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncRead, AsyncWrite, AsyncWriteExt as _, BufReader};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::*;
use crate::changes::WAIT_TIMEOUT;
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
    async fn receives_nothing(&mut self, server: &HttpServer) {
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
        let body = response.into_body().collect().await.unwrap().to_bytes();
        assert_eq!(body, "{}");
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
async fn http2_is_not_spoken() {
    let ca = TestCa::new();
    let server = secure_server(&ca).await;
    let socket = handshake(server.addr(), &ca, &["h2", "http/1.1"])
        .await
        .unwrap();
    assert_eq!(socket.get_ref().1.alpn_protocol(), Some(&b"http/1.1"[..]));
    handshake(server.addr(), &ca, &["h2"]).await.unwrap_err();
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
    for reply in replies {
        server.on("GET", "/", reply);
        let mut client = Client::secured(&server, &ca).await;
        client.write(get("/")).await;
        clients.push(client);
    }
    server.wait_for_requests(4).await;
    let shared = Arc::downgrade(&server.shared);
    drop(server);
    let over = async {
        while shared.strong_count() > 0 {
            tokio::task::yield_now().await;
        }
    };
    timeout(WAIT_TIMEOUT, over).await.expect("no task is left");
    for mut client in clients {
        client.rest().await.expect_err("TLS does not say goodbye");
    }
}
