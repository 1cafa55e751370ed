//! The problems of a document.

use std::{borrow::Cow, fmt};

use serde::Serialize;

use super::pointer::pointer_to;

/// One error in a document.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// The JSON pointer of the field, empty for the whole document.
    pub pointer: String,
    /// The rule that the value breaks, as a sentence without the value.
    pub detail: String,
    /// Whether the pointer contains a name of the sender's own.
    #[serde(skip)]
    pub has_foreign_name: bool,
    /// The field that the sender probably meant by it.
    #[serde(skip)]
    pub meant: Option<&'static str>,
}

/// All problems of a document, in the order in which they were found, and at most [`Problems::MOST`].
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Problems(Vec<Problem>);

impl Problems {
    /// Problems that are kept: a caller needs no more of a document with a million unknown fields.
    pub const MOST: usize = 100;

    /// A list with one problem.
    pub fn one(pointer: impl Into<String>, detail: impl Into<String>) -> Self {
        let mut problems = Self::default();
        problems.add(pointer, detail);
        problems
    }

    /// Adds a problem.
    pub fn add(&mut self, pointer: impl Into<String>, detail: impl Into<String>) {
        if self.0.len() < Self::MOST {
            self.0.push(Problem {
                pointer: pointer.into(),
                detail: detail.into(),
                has_foreign_name: false,
                meant: None,
            });
        }
    }

    /// Adds a problem with a field whose name the sender made up.
    pub(super) fn add_foreign(&mut self, pointer: String, detail: impl Into<String>) {
        let before = self.0.len();
        self.add(pointer, detail);
        if let Some(added) = self.0.get_mut(before) {
            added.has_foreign_name = true;
        }
    }

    /// Adds a problem with a misspelt field: the sender probably meant `known`.
    pub(super) fn add_misspelt(&mut self, pointer: String, detail: String, known: &'static str) {
        let before = self.0.len();
        self.add_foreign(pointer, detail);
        if let Some(added) = self.0.get_mut(before) {
            added.meant = Some(known);
        }
    }

    /// The pointers that may be logged, each once. A name of the sender's own is replaced by the field that was probably
    /// meant, or left out, so that the pointer names the object around it.
    pub fn known_pointers(&self) -> Vec<Cow<'_, str>> {
        let mut known = Vec::new();
        for problem in &self.0 {
            let pointer = if problem.has_foreign_name {
                let parent = problem
                    .pointer
                    .rsplit_once('/')
                    .map_or("", |(parent, _)| parent);
                match problem.meant {
                    Some(meant) => Cow::Owned(pointer_to(parent, meant)),
                    None => Cow::Borrowed(parent),
                }
            } else {
                Cow::Borrowed(problem.pointer.as_str())
            };
            if !known.contains(&pointer) {
                known.push(pointer);
            }
        }
        known
    }

    /// The problems.
    pub fn as_slice(&self) -> &[Problem] {
        &self.0
    }

    /// True if no further problem is kept.
    pub(super) fn is_full(&self) -> bool {
        self.0.len() >= Self::MOST
    }

    /// True if there is a problem at `pointer`.
    pub(super) fn has(&self, pointer: &str) -> bool {
        self.0.iter().any(|problem| problem.pointer == pointer)
    }

    /// True if the document has no problem.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// `value` if there is no problem, else the problems.
    pub fn or<T>(self, value: Option<T>) -> Result<T, Self> {
        match value {
            Some(value) if self.is_empty() => Ok(value),
            // A reader that returns nothing has added a problem. If it forgot to, this is still an error.
            None if self.is_empty() => Err(Self::one("", "is not readable")),
            Some(_) | None => Err(self),
        }
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.0.iter().enumerate() {
            let separator = if index == 0 { "" } else { "; " };
            write!(f, "{separator}{} {}", problem.pointer, problem.detail)?;
        }
        Ok(())
    }
}

impl std::error::Error for Problems {}
