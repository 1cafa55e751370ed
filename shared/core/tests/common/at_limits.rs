//! Limits of a document, at the limit and one above it. The tests of other crates include this file as well.

use std::fmt::Debug;

use comms_core::Problems;
use serde_json::Value;

/// A limit: the JSON pointer of its field, its value, and a document with so much in that field.
pub(crate) type Limit = (&'static str, usize, fn(usize) -> Value);

/// Checks that each document is accepted at its limit, and refused one above it: at the field, and with the limit.
pub(crate) fn check<T: Debug>(limits: &[Limit], read: impl Fn(&Value) -> Result<T, Problems>) {
    for (pointer, limit, document) in limits {
        if let Err(problems) = read(&document(*limit)) {
            panic!("{limit} at {pointer}: {problems}");
        }
        let problems = read(&document(limit + 1)).unwrap_err();
        let [problem] = problems.as_slice() else {
            panic!("{pointer}: {problems}");
        };
        assert_eq!(problem.pointer, *pointer, "{problems}");
        let named = problem
            .detail
            .split(|c: char| !c.is_ascii_digit())
            .any(|word| word == limit.to_string());
        assert!(named, "{pointer}: {limit} is not in: {}", problem.detail);
    }
}
