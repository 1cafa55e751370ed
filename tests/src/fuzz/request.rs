//! Communications.

use std::sync::LazyLock;

use comms_core::{
    Problems, PublicUrl,
    attachment::{MAX_ATTACHMENT_BYTES, MAX_ATTACHMENTS},
    request::{
        MAX_BODY, MAX_COPIES, MAX_HTML, MAX_METADATA, MAX_RECIPIENTS, MAX_TEMPLATE_COMPONENTS,
        MAX_TEMPLATE_PARAMS, MAX_TITLE, Submission, TemplateValues,
    },
};
use comms_testkit::fuzz::PLANTED;

use super::NUMBERING_PLANS;

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

/// A communication that is accepted keeps every limit, and is the same one when it comes from the queue.
pub(super) fn read_request(input: &[u8]) {
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
