//! What is read of an answer, and what it means.

use super::*;

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
