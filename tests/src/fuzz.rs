//! Fuzz targets of what may be reached from outside of its crate: see [`comms_testkit::fuzz`].

use std::{
    hash::{DefaultHasher, Hash as _, Hasher as _},
    io::BufReader,
    sync::LazyLock,
};

use comms_adapters::egress::EgressAllow;
use comms_core::{
    AddressMask, Attempt, BaseUrl, ClinicId, EmailAddress, EntryId, Host, IdempotencyKey, Mailbox,
    PhoneNumber, Position, Problems, ProviderCode, PublicUrl, RequestId, Tenant,
    attachment::{MAX_ATTACHMENT_BYTES, MAX_ATTACHMENTS},
    json::{self, MAX_DEPTH, MAX_VALUES},
    request::{
        MAX_BODY, MAX_COPIES, MAX_HTML, MAX_METADATA, MAX_RECIPIENTS, MAX_TEMPLATE_COMPONENTS,
        MAX_TEMPLATE_PARAMS, MAX_TITLE, Submission, TemplateValues,
    },
};
use comms_operator::clinics_file::{ClinicItem, ClinicsFile, MAX_ITEM, RefusedItem};
use comms_testkit::fuzz::PLANTED;
use serde_json::Value;

// A JSON value takes up to 72 bytes for two or three of its text, a member of an object twice that, and a vector of them
// twice as much while it grows. A numbering plan's regular expressions are compiled when its first number comes, and take
// some MB together; phonenumber keeps a hundred.
comms_testkit::fuzz_targets! {
    json_texts = crate::fuzz::json_texts, 20_000 + 600 * length;
    requests = crate::fuzz::requests, 10_000_000 + 600 * length;
    names = crate::fuzz::names, 10_000_000 + 200 * length;
    import_files = crate::fuzz::import_files, 100_000 + 600 * length;
}

/// The numbering plans of all countries, once read, stay.
static NUMBERING_PLANS: LazyLock<()> = LazyLock::new(|| {
    allocation_counter::opt_out(|| assert!(PhoneNumber::parse("+15550100").is_ok()));
});

/// No problem tells more than where it is and what would be right; what is logged of them is only what is ours.
fn check_problems(problems: &Problems) {
    assert!(!problems.is_empty() && problems.as_slice().len() <= Problems::MOST);
    for problem in problems.as_slice() {
        assert!(
            !problem.detail.is_empty() && !problem.detail.contains(PLANTED),
            "{problem:?}"
        );
        assert!(problem.pointer.len() < 10_000 && !problem.pointer.contains(char::is_control));
    }
    assert!(
        !problems.known_pointers().join(" ").contains(PLANTED),
        "{problems}"
    );
}

/// How deep a JSON text is nested, and its members and elements in all.
fn size_of_text(text: &[u8]) -> (usize, usize) {
    let (mut depth, mut deepest, mut values) = (0_usize, 0, 0);
    let (mut in_string, mut escaped, mut opened) = (false, false, false);
    for byte in text {
        let is_value = !byte.is_ascii_whitespace() && !matches!(byte, b']' | b'}');
        if opened && !in_string {
            // The first of its array or object; the others are behind a comma.
            values += usize::from(is_value);
            opened = byte.is_ascii_whitespace();
        }
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            _ if in_string => {}
            b'[' | b'{' => {
                depth += 1;
                deepest = deepest.max(depth);
                opened = true;
            }
            b']' | b'}' => depth = depth.saturating_sub(1),
            b',' => values += 1,
            _ => {}
        }
    }
    (deepest, values)
}

/// What our reader of JSON takes, `serde_json` takes for the same; and it is within limits.
fn json_texts(input: &[u8]) {
    fn measure(value: &Value) -> (usize, usize) {
        let children: Vec<&Value> = match value {
            Value::Array(items) => items.iter().collect(),
            Value::Object(fields) => fields.values().collect(),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => return (0, 0),
        };
        let inner: Vec<_> = children.iter().map(|child| measure(child)).collect();
        let depth = inner.iter().map(|(depth, _)| *depth).max().unwrap_or(0);
        (
            depth + 1,
            children.len() + inner.iter().map(|(_, values)| values).sum::<usize>(),
        )
    }
    let theirs = serde_json::from_slice::<Value>(input);
    match json::parse(input) {
        Ok(value) => {
            assert_eq!(Some(&value), theirs.as_ref().ok());
            let (depth, values) = measure(&value);
            assert_eq!(size_of_text(input), (depth, values));
            assert!(
                depth <= MAX_DEPTH && values <= MAX_VALUES,
                "{depth} {values}"
            );
            let written = value.to_string();
            assert_eq!(
                json::parse(written.as_bytes()).as_ref(),
                Ok(&value),
                "{written}"
            );
            let _ = Attempt::from_json(&value).map(|attempt| {
                let again = serde_json::to_value(&attempt).unwrap();
                assert_eq!(Attempt::from_json(&again), Some(attempt));
            });
        }
        Err(problems) => {
            assert_eq!(problems.as_slice().len(), 1);
            assert!(!problems.to_string().contains(PLANTED));
            if theirs.is_ok() {
                // Of the text: of a field that is there twice they show the last alone.
                let (depth, values) = size_of_text(input);
                let says_twice = problems.to_string().contains("repeated");
                assert!(
                    depth > MAX_DEPTH || values > MAX_VALUES || says_twice,
                    "{problems}"
                );
            }
        }
    }
}

/// A communication that is accepted keeps every limit, and is the same one when it comes from the queue.
fn requests(input: &[u8]) {
    LazyLock::force(&NUMBERING_PLANS);
    let submission = match Submission::parse(input) {
        Ok(submission) => submission,
        Err(problems) => return check_problems(&problems),
    };
    let text = submission.to_json().unwrap();
    assert_eq!(
        Submission::parse(text.as_bytes()).as_ref(),
        Ok(&submission),
        "{text}"
    );
    // What SQS takes (API reference, `SendMessage`).
    let is_allowed = |c: char| matches!(c, '\t' | '\n' | '\r' | ' '..='\u{fffd}' | '\u{10000}'..);
    assert!(text.chars().all(is_allowed), "{text:?}");
    let debug = format!("{submission:?}");
    assert!(!debug.contains(PLANTED), "{debug}");

    let request = &submission.request;
    let content = &request.content;
    let chars = |text: &Option<String>| text.as_ref().map_or(0, |text| text.chars().count());
    assert!((1..=MAX_RECIPIENTS).contains(&request.recipients.len()));
    assert!((1..=2).contains(&request.channels.len()));
    assert!(
        chars(&content.title) <= MAX_TITLE
            && chars(&content.body) <= MAX_BODY
            && chars(&content.html) <= MAX_HTML
    );
    assert!(
        content.attachments.len() <= MAX_ATTACHMENTS && request.references.len() <= MAX_METADATA
    );
    assert!(
        content
            .attachments
            .iter()
            .map(|file| file.content.len())
            .sum::<usize>()
            <= MAX_ATTACHMENT_BYTES
    );
    assert!(content.cc.len() + content.bcc.len() <= MAX_COPIES);
    assert!(
        content
            .media
            .as_ref()
            .is_none_or(|media| media.url.as_str().len() <= PublicUrl::MAX)
    );
    match content.template.as_ref().map(|template| &template.values) {
        Some(TemplateValues::Params(params)) => {
            assert!(params.iter().count() <= MAX_TEMPLATE_PARAMS);
        }
        Some(TemplateValues::Components(components)) => {
            assert!(components.len() <= MAX_TEMPLATE_COMPONENTS);
        }
        None => {}
    }
    // Nothing that ends a header or a command gets through.
    for file in &content.attachments {
        let content_type = file.content_type.to_string();
        assert!(!content_type.contains(char::is_control), "{content_type:?}");
    }
    let lines = [&content.title].into_iter().flatten();
    let lines = lines.chain(content.attachments.iter().map(|file| &file.filename));
    for line in lines.chain(
        request
            .recipients
            .iter()
            .filter_map(|recipient| recipient.name.as_ref()),
    ) {
        assert!(!line.contains(char::is_control), "{line:?}");
    }
}

/// Names, addresses and URLs: what is taken reads back as the same, in the one spelling that it has then.
fn names(input: &[u8]) {
    LazyLock::force(&NUMBERING_PLANS);
    let Ok(text) = str::from_utf8(input) else {
        return;
    };
    for text in [text, text.lines().next().unwrap_or_default()] {
        if let Ok(host) = Host::parse(text) {
            let written = host.to_string();
            assert!(written.is_ascii() && written.len() <= 253, "{written}");
            // A name that some resolver takes for an address would pass a guard that looks at addresses.
            if let Host::Name(name) = &host {
                let last = name.rsplit('.').next().unwrap_or_default();
                assert!(
                    !last.starts_with("0x") && !last.bytes().all(|byte| byte.is_ascii_digit()),
                    "{name}"
                );
            }
            assert_eq!(Host::parse(&written), Ok(host));
        }
        if let Ok(base) = BaseUrl::parse(text) {
            let written = base.to_string();
            assert!(written.len() <= BaseUrl::MAX, "{written}");
            assert_eq!(BaseUrl::parse(&written).as_ref(), Ok(&base), "{written}");
            let joined = base.join(["v3", "a/b?c#d"]);
            assert_eq!(
                joined.host_str().map(Host::parse),
                Some(Ok(base.host().clone()))
            );
            assert_eq!(
                (joined.query(), joined.fragment()),
                (None, None),
                "{joined}"
            );
        }
        if let Ok(address) = EmailAddress::parse(text) {
            let written = address.as_str();
            assert!(
                written.len() <= 254 && !written.contains([' ', '\r', '\n', '<', '>', '\0']),
                "{written:?}"
            );
            assert_eq!(EmailAddress::parse(written).as_ref(), Ok(&address));
            let masked = address.masked(AddressMask::Domain);
            assert!(
                !masked.starts_with(address.local())
                    || address.local().bytes().all(|byte| byte == b'*'),
                "{masked}"
            );
        }
        if let Ok(phone) = PhoneNumber::parse(text) {
            assert!((8..=16).contains(&phone.as_str().len()));
            assert_eq!(PhoneNumber::parse(phone.as_str()).as_ref(), Ok(&phone));
        }
        if let Ok(name) = Mailbox::parse_name(text) {
            assert_eq!(Mailbox::parse_name(&name).as_ref(), Ok(&name));
        }
        if let Some(position) = Position::parse(text) {
            assert_eq!(Position::parse(&position.to_string()), Some(position));
        }
        if let Some(code) = ProviderCode::parse(text) {
            assert!(code.as_str().len() <= 64 && !code.as_str().contains(['@', '+']));
        }
        for id in [
            ClinicId::parse(text).map(|id| id.as_str().to_owned()),
            RequestId::parse(text).map(|id| id.as_str().to_owned()),
            EntryId::parse(text).map(|id| id.as_str().to_owned()),
            IdempotencyKey::parse(text).map(|key| key.as_str().to_owned()),
        ] {
            assert!(id.is_err() || id.as_deref() == Ok(text));
        }
        let _ = text.parse::<EgressAllow>();
    }
}

/// What reading a file came to.
#[derive(Debug, PartialEq)]
struct Read {
    /// Of all items in their order.
    digest: u64,
    /// Bytes of the file that were read.
    position: u64,
    /// Whether the last item says that the rest was not read.
    says_where: bool,
}

/// Reads a file, `buffer` bytes at a time. One item is kept at a time, as by those who read files.
fn read_file(input: &[u8], buffer: usize, lines: bool) -> Read {
    let mut file = ClinicsFile::new(BufReader::with_capacity(buffer, input), lines);
    let (mut digest, mut items, mut says_where) = (DefaultHasher::new(), 0, false);
    while let Some(item) = file.next_item().unwrap() {
        items += 1;
        assert!(items <= input.len() + 1, "more items than bytes");
        check_item(&item);
        shown(&item).hash(&mut digest);
        says_where = matches!(&item, Err(refused)
            if refused.problems.iter().any(|problem| problem.detail.ends_with("was not read from here on")));
    }
    Read {
        digest: digest.finish(),
        position: file.position(),
        says_where,
    }
}

/// What is refused is not repeated.
fn check_item(item: &Result<ClinicItem, RefusedItem>) {
    match item {
        Ok(item) => {
            assert!(Tenant::parse(item.tenant.as_str()).as_ref() == Ok(&item.tenant));
            assert!(item.document.to_string().len() <= 6 * MAX_ITEM);
        }
        Err(refused) => {
            assert!(!refused.problems.is_empty() && refused.problems.len() <= Problems::MOST);
            for problem in &refused.problems {
                assert!(!problem.detail.contains(PLANTED), "{problem:?}");
            }
        }
    }
}

/// A file is read to its end or says where it is not; whatever is read of it at a time.
fn import_files(input: &[u8]) {
    for lines in [false, true] {
        let read = read_file(input, 8_192, lines);
        assert_eq!(read_file(input, 3, lines), read);
        let rest = &input[usize::try_from(read.position).unwrap()..];
        assert!(
            read.says_where || rest.is_empty(),
            "{} bytes were passed over",
            rest.len()
        );
    }
}

/// What tells two items apart.
fn shown(item: &Result<ClinicItem, RefusedItem>) -> String {
    match item {
        Ok(item) => format!("{} {} {}", item.line, item.tenant, item.document),
        Err(refused) => format!("{refused:?}"),
    }
}
