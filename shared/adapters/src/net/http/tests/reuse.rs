//! Connections that carry more than one request.

use super::*;

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
