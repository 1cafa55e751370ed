//! What a request is refused for, and where that is said to be.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use comms_core::{Problems, request::Submission};
use serde_json::{Value, json};

fn request() -> Value {
    json!({"title": "t", "body": "b", "channels": ["email"], "recipients": [{"email": "a@example.com"}]})
}

fn problems(request: &Value) -> Problems {
    match Submission::parse(request.to_string().as_bytes()) {
        Ok(_) => Problems::default(),
        Err(problems) => problems,
    }
}

fn pointers(request: &Value) -> Vec<String> {
    let problems = problems(request);
    let all = problems.as_slice().iter();
    all.map(|problem| problem.pointer.clone()).collect()
}

/// The request with another value in one field.
fn with(name: &str, value: Value) -> Value {
    let mut request = request();
    request[name] = value;
    request
}

#[test]
fn text_without_a_visible_character_is_refused() {
    for blank in [
        " ",
        "   ",
        "\u{a0}",
        "\u{3000}",
        "\u{200b}\u{feff}",
        "\u{2060} \u{ad}",
    ] {
        for name in ["title", "body", "html"] {
            let expected = [format!("/{name}")];
            assert_eq!(pointers(&with(name, json!(blank))), expected, "{blank:?}");
        }
    }
    for name in ["body", "html"] {
        assert_eq!(pointers(&with(name, json!("\r\n\t"))), [format!("/{name}")]);
    }
    for name in ["title", "body", "html"] {
        for visible in [" a ", "🙂", "\u{200f}א", "."] {
            assert_eq!(
                pointers(&with(name, json!(visible))),
                [""; 0],
                "{visible:?}"
            );
        }
    }
}

#[test]
fn a_title_that_turns_or_breaks_the_text_around_it_is_refused() {
    for odd in ['\u{202d}', '\u{202e}', '\u{2028}', '\u{2029}'] {
        assert_eq!(
            pointers(&with("title", json!(format!("a{odd}b")))),
            ["/title"],
            "{odd:?}"
        );
        let named = json!([{"email": "a@example.com", "name": format!("a{odd}b")}]);
        assert_eq!(
            pointers(&with("recipients", named)),
            ["/recipients/0/name"],
            "{odd:?}"
        );
    }
    // Marks that right-to-left writing needs are no overrides.
    assert_eq!(
        pointers(&with("title", json!("\u{2067}שלום\u{2069} \u{200e}1"))),
        [""; 0]
    );
}

#[test]
fn the_element_of_a_list_that_is_wrong_is_named() {
    for name in ["cc", "bcc"] {
        let copies = json!(["a@b.example", "bad", 7, "c@d.example"]);
        let expected = [1, 2].map(|index| format!("/{name}/{index}"));
        assert_eq!(pointers(&with(name, copies)), expected);
        let repeated = json!(["b@b.example", "B@b.example", "c@b.example", "a@example.com"]);
        let expected = [1, 3].map(|index| format!("/{name}/{index}"));
        assert_eq!(pointers(&with(name, repeated)), expected);
        assert_eq!(
            pointers(&with(name, json!("a@b.example"))),
            [format!("/{name}")]
        );
        let many: Vec<_> = (0..50).map(|n| format!("p{n}@b.example")).collect();
        assert_eq!(pointers(&with(name, json!(many))), [format!("/{name}")]);
    }
    assert_eq!(
        pointers(&with("channels", json!(["email", "sms"]))),
        ["/channels/1"]
    );
    assert_eq!(
        pointers(&with("channels", json!(["email", "email"]))),
        ["/channels/1"]
    );
    assert_eq!(pointers(&with("channels", json!([]))), ["/channels"]);
    assert_eq!(
        pointers(&with("recipients", json!(["a@example.com"]))),
        ["/recipients/0"]
    );
    assert_eq!(pointers(&with("recipients", json!([]))), ["/recipients"]);
}

#[test]
fn an_offset_has_the_hours_of_rfc_3339() {
    for wrong in [
        "2099-01-01T00:00:00+24:00",
        "2099-01-01T00:00:00+25:00",
        "2099-01-01T00:00:00-25:59",
    ] {
        assert_eq!(
            pointers(&with("expiresAt", json!(wrong))),
            ["/expiresAt"],
            "{wrong}"
        );
    }
    for right in [
        "2099-01-01T00:00:00+23:59",
        "2099-01-01T00:00:00-12:00",
        "2099-01-01T00:00:00Z",
    ] {
        assert_eq!(
            pointers(&with("expiresAt", json!(right))),
            [""; 0],
            "{right}"
        );
    }
}

#[test]
fn a_file_name_has_a_visible_character() {
    let named =
        |name: &str| json!([{"filename": name, "contentType": "text/plain", "content": "eA=="}]);
    assert_eq!(
        pointers(&with("attachments", named("  "))),
        ["/attachments/0/filename"]
    );
    assert_eq!(pointers(&with("attachments", named("a b"))), [""; 0]);
}

#[test]
fn what_is_shown_inline_is_an_image() {
    let shown = |content_type: &str| {
        let mut request = with("html", json!("<img src=\"cid:x\">"));
        request["attachments"] = json!([{"filename": "x", "contentType": content_type, "content": "eA==", "contentId": "x"}]);
        pointers(&request)
    };
    for content_type in ["application/pdf", "text/calendar"] {
        assert_eq!(
            shown(content_type),
            ["/attachments/0/contentId"],
            "{content_type}"
        );
    }
    assert_eq!(shown("image/png"), [""; 0]);
    assert_eq!(shown("image/svg+xml"), [""; 0]);
}

#[test]
fn a_calendar_is_known_by_its_name_and_its_method_has_to_be_usable() {
    let posted = |filename: &str, content_type: &str, content: &str| {
        use base64::{Engine, prelude::BASE64_STANDARD};
        let content = BASE64_STANDARD.encode(content);
        with(
            "attachments",
            json!([{"filename": filename, "contentType": content_type, "content": content}]),
        )
    };
    let calendar = "BEGIN:VCALENDAR\r\nMETHOD:REQUEST\r\n";
    for content_type in ["application/octet-stream", "application/ics"] {
        for name in ["a.ics", "A.ICS"] {
            let request = posted(name, content_type, calendar);
            let read = Submission::parse(request.to_string().as_bytes()).unwrap();
            let attachment = &read.request.content.attachments[0];
            assert_eq!(
                attachment.content_type.essence(),
                "text/calendar",
                "{content_type}"
            );
            assert_eq!(attachment.method_to_add().as_deref(), Some("REQUEST"));
        }
        // Without a method, or under another name, it is a file like others.
        for (name, content) in [("a.ics", "BEGIN:VCALENDAR\r\n"), ("a.bin", calendar)] {
            let request = posted(name, content_type, content);
            let read = Submission::parse(request.to_string().as_bytes()).unwrap();
            let attachment = &read.request.content.attachments[0];
            assert_eq!(attachment.content_type.essence(), content_type, "{name}");
        }
    }
    let late = format!(
        "BEGIN:VCALENDAR\r\n{}METHOD:REQUEST\r\n",
        "X-A:b\r\n".repeat(10_000)
    );
    for unusable in [
        "BEGIN:VCALENDAR\r\nMETHOD:A B\r\n",
        "BEGIN:VCALENDAR\r\nMETHOD:\r\n",
        &late,
    ] {
        assert_eq!(
            pointers(&posted("a.ics", "text/calendar", unusable)),
            ["/attachments/0/content"]
        );
    }
}

#[test]
fn a_dead_letter_says_at_which_field_it_is_wrong() {
    let fields = |request: &Value| {
        let problems = problems(request);
        problems
            .known_pointers()
            .into_iter()
            .map(|pointer| pointer.to_string())
            .collect::<Vec<_>>()
    };
    let metadata = |name: &str| with("metadata", json!({name: "planted"}));
    assert_eq!(fields(&metadata("clinic_id")), ["/metadata/clinicId"]);
    let wrong = with("metadata", json!({"planted": [1]}));
    assert_eq!(fields(&wrong), ["/metadata"]);
    let recipient = json!([{"email": "a@example.com", "phone": "planted"}]);
    assert_eq!(
        fields(&with("recipients", recipient)),
        ["/recipients/0/phoneNumber"]
    );
    assert_eq!(fields(&with("titel", json!("planted"))), ["/title"]);
}
