//! Requests that are refused.

use super::*;

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
