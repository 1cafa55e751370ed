use proptest::prelude::*;

use super::*;

fn parsed(bytes: &[u8]) -> Reply {
    let (length, reply) = parse_reply(bytes).unwrap().unwrap();
    assert_eq!(length, bytes.len());
    reply
}

#[test]
fn codes_are_read_and_texts_are_not_kept() {
    let reply = parsed(b"550-5.1.1 no\r\n550 5.1.1 such user planted@example.com\r\n");
    assert_eq!((reply.code, reply.enhanced), (550, Some((5, 1, 1))));
    assert!(!format!("{reply:?}").contains("planted"));
    assert_eq!(reply.provider_code().unwrap().as_str(), "550 5.1.1");
    assert_eq!(parsed(b"220\r\n").code, 220);
    assert_eq!(parsed(b"599 x\r\n").code, 599);
    assert_eq!(parsed(b"250 Gr\xfc\xdfe\r\n").code, 250);
}

#[test]
fn an_enhanced_code_counts_whichever_line_has_it() {
    for text in [
        "550-5.7.1 first\r\n550 second\r\n",
        "550-first\r\n550 5.7.1 second\r\n",
    ] {
        assert_eq!(parsed(text.as_bytes()).enhanced, Some((5, 7, 1)), "{text}");
    }
}

#[test]
fn an_enhanced_code_is_read_in_the_forms_of_cisco_and_qmail() {
    for text in [
        "#5.7.1 Your access to submit messages has been rejected.",
        "sorry, that domain isn't in my list of allowed rcpthosts (#5.7.1)",
        "sorry (#5.7.1).",
    ] {
        assert_eq!(Reply::new(553, text).enhanced, Some((5, 7, 1)), "{text}");
    }
    for text in ["(#5.7.1) first", "sorry (5.7.1)", "see #5.7.1"] {
        assert_eq!(Reply::new(553, text).enhanced, None, "{text}");
    }
}

#[test]
fn a_phrase_is_found_over_several_lines() {
    let text = "534-5.7.14 Please log in through your\r\n534 5.7.14 web browser.\r\n";
    assert_eq!(
        parsed(text.as_bytes()).text_hint,
        Some(TextHint::AppPassword)
    );
}

#[test]
fn codes_of_one_class_are_one_reply_and_the_last_counts() {
    assert_eq!(parsed(b"250-queued\r\n252 ok\r\n").code, 252);
    assert_eq!(parsed(b"550-5.1.1 no\r\n554 no\r\n").code, 554);
}

#[test]
fn a_reply_that_is_not_over_waits_and_what_follows_it_is_left() {
    assert_eq!(parse_reply(b"250-one\r\n250"), None);
    assert_eq!(parse_reply(b"250 ok"), None);
    let (length, reply) = parse_reply(b"250 ok\r\n550 no\r\n").unwrap().unwrap();
    assert_eq!((length, reply.code), (8, 250));
}

#[test]
fn what_is_no_reply_is_refused() {
    for text in [
        "HTTP/1.1 400 Bad Request\r\n",
        "199 x\r\n",
        "600 x\r\n",
        "25\r\n",
        "2500 x\r\n",
        "\r\n",
        "250-yes\r\n550 no\r\n",
    ] {
        assert_eq!(
            parse_reply(text.as_bytes()),
            Some(Err(MalformedReply)),
            "{text:?}"
        );
    }
}

#[test]
fn only_enhanced_codes_that_are_well_formed_count() {
    for text in ["5.7", "5.7.8.9", "3.1.1 x", "5.7.1000", "x", "", "5..1"] {
        assert_eq!(Reply::new(535, text).enhanced, None, "{text}");
    }
}

#[test]
fn the_limits_that_ses_names_are_told_apart() {
    let rate = "Throttling failure: Maximum sending rate exceeded.";
    let quota = "Throttling failure: Daily message quota exceeded.";
    assert_eq!(Reply::new(454, rate).throttling, Some(Throttling::Rate));
    assert_eq!(Reply::new(454, quota).throttling, Some(Throttling::Quota));
    assert_eq!(Reply::new(454, "4.7.0 later").throttling, None);
    assert_eq!(Reply::new(554, rate).throttling, None);
}

proptest! {
    #[test]
    fn parsing_any_bytes_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
        let _ = parse_reply(&bytes);
    }

    #[test]
    fn any_reply_is_read_however_it_is_cut(lines in proptest::collection::vec("[ -~]{0,20}", 1..4), code in 200_u16..600) {
        let (last, others) = lines.split_last().unwrap();
        let others: Vec<_> = others.iter().map(|line| format!("{code}-{line}\r\n")).collect();
        let text = format!("{}{code} {last}\r\n", others.concat());
        for end in 0..text.len() {
            prop_assert_eq!(parse_reply(&text.as_bytes()[..end]), None);
        }
        prop_assert_eq!(parsed(text.as_bytes()).code, code);
    }
}
