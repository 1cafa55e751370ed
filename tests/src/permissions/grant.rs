//! Rights as IAM evaluates them: one action on one resource under conditions.

use std::collections::{BTreeMap, BTreeSet};

use comms_testkit::aws::Access;

/// One action on one resource under some conditions: what is left of a statement's lists when each pair of their
/// members is written out.
#[derive(Debug, Clone, PartialEq)]
pub struct Grant {
    pub statement: String,
    pub action: String,
    /// An ARN, with `*` and `?`.
    pub resource: String,
    pub conditions: Vec<Condition>,
}

/// An operator on a key (IAM user guide, "IAM JSON policy elements: Condition operators").
#[derive(Debug, Clone, PartialEq)]
pub struct Condition {
    pub operator: Operator,
    pub key: String,
    pub values: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Operator {
    StringEquals,
    /// True for a key that is not there.
    StringNotEquals,
    StringLike,
    /// True for a key that is not there, as the next one.
    EachStringLike,
    EachStringNotLike,
    Null,
}

impl Operator {
    pub fn parse(name: &str) -> Self {
        match name {
            "StringEquals" => Self::StringEquals,
            "StringNotEquals" => Self::StringNotEquals,
            "StringLike" => Self::StringLike,
            "ForAllValues:StringLike" => Self::EachStringLike,
            "ForAllValues:StringNotLike" => Self::EachStringNotLike,
            "Null" => Self::Null,
            other => panic!("{other} is an operator that is unknown here"),
        }
    }

    /// Whether more values permit more.
    pub fn widens(self) -> bool {
        match self {
            Self::StringEquals | Self::StringLike | Self::EachStringLike => true,
            Self::StringNotEquals | Self::EachStringNotLike | Self::Null => false,
        }
    }
}

impl Condition {
    pub fn holds(&self, context: &BTreeMap<String, BTreeSet<String>>) -> bool {
        let none = BTreeSet::new();
        let given = context.get(&self.key).unwrap_or(&none);
        let known = |value: &String| self.values.iter().any(|pattern| like(pattern, value));
        match self.operator {
            Operator::StringEquals => given.iter().any(|value| self.values.contains(value)),
            Operator::StringNotEquals => !given.iter().any(|value| self.values.contains(value)),
            Operator::StringLike => given.iter().any(known),
            Operator::EachStringLike => given.iter().all(known),
            Operator::EachStringNotLike => !given.iter().any(known),
            Operator::Null => self.values == [given.is_empty().to_string()],
        }
    }
}

impl Grant {
    pub fn permits(&self, access: &Access) -> bool {
        self.action == access.action
            && like(&self.resource, &access.resource)
            && self
                .conditions
                .iter()
                .all(|condition| condition.holds(&access.context))
    }
}

/// Whether `pattern`, in which `*` stands for any text and `?` for any character, stands for `text`.
fn like(pattern: &str, text: &str) -> bool {
    match pattern.chars().next() {
        None => text.is_empty(),
        Some('*') => {
            let rest = &pattern[1..];
            text.char_indices().any(|(at, _)| like(rest, &text[at..])) || like(rest, "")
        }
        Some(first) => {
            let mut characters = text.chars();
            characters
                .next()
                .is_some_and(|found| first == '?' || first == found)
                && like(&pattern[first.len_utf8()..], characters.as_str())
        }
    }
}
