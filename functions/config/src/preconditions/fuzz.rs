//! Fuzz targets of conditions.

use super::{Preconditions, Tags, parse};

/// A list of entity tags is read whole or not at all, and `If-Match` holds for no version that it does not name.
pub(crate) fn tags(input: &[u8]) {
    let Some(tags) = parse(input) else {
        return;
    };
    if let Tags::These(these) = &tags {
        assert!(!these.is_empty());
        let between_quotes = input.split(|byte| *byte == b'"').count();
        assert_eq!(between_quotes, 2 * these.len() + 1);
        let written: Vec<_> = these
            .iter()
            .map(|tag| {
                [
                    if tag.weak { &b"W/\""[..] } else { b"\"" },
                    &tag.opaque,
                    b"\"",
                ]
                .concat()
            })
            .collect();
        assert_eq!(parse(&written.join(&b", "[..])).as_ref(), Some(&tags));
    }
    let is_any = matches!(tags, Tags::Any);
    let conditions = Preconditions {
        if_match: Some(tags),
        if_none_match: None,
    };
    for version in [1, 42, u64::MAX] {
        let names = format!("\"{version}\"");
        let is_named = input
            .windows(names.len())
            .any(|part| part == names.as_bytes());
        assert!(conditions.check(Some(version)).is_err() || is_named || is_any);
    }
    assert!(conditions.check(None).is_err());
}
