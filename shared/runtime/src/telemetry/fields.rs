//! What spans and events say.

use std::{fmt, sync::Arc};

use serde::Serialize;
use tracing::field::{Field, Visit};

/// What a field says. Clones share texts.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(untagged)]
pub(super) enum Said {
    Bool(bool),
    Signed(i64),
    Unsigned(u64),
    Float(f64),
    Text(Arc<str>),
}

impl Said {
    /// A number that can be counted or measured.
    pub(super) const fn as_u64(&self) -> Option<u64> {
        match self {
            Self::Unsigned(number) => Some(*number),
            Self::Bool(_) | Self::Signed(_) | Self::Float(_) | Self::Text(_) => None,
        }
    }
}

/// Fields by their names in the code, in the order in which they were said first. There are some ten of them: to look
/// through all is faster than a map is.
#[derive(Default)]
pub(super) struct Fields(Vec<(&'static str, Said)>);

impl Fields {
    /// Sets a field, in place of its earlier value.
    pub(super) fn set(&mut self, name: &'static str, said: Said) {
        match self.0.iter_mut().find(|(known, _)| *known == name) {
            Some((_, before)) => *before = said,
            None => self.0.push((name, said)),
        }
    }

    /// Adds all fields of `others`, which override the present ones.
    pub(super) fn extend(&mut self, others: &Self) {
        for (name, said) in &others.0 {
            self.set(name, said.clone());
        }
    }

    /// Keeps the fields that `keeps` accepts.
    pub(super) fn retain(&mut self, mut keeps: impl FnMut(&'static str, &Said) -> bool) {
        self.0.retain(|(name, said)| keeps(name, said));
    }

    pub(super) fn get(&self, name: &str) -> Option<&Said> {
        let mut fields = self.0.iter();
        fields.find_map(|(known, said)| (*known == name).then_some(said))
    }

    /// Whether there is a field with this name that is a text.
    pub(super) fn is_text(&self, name: &str) -> bool {
        matches!(self.get(name), Some(Said::Text(_)))
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&'static str, &Said)> + Clone {
        self.0.iter().map(|(name, said)| (*name, said))
    }
}

impl Visit for Fields {
    fn record_f64(&mut self, field: &Field, value: f64) {
        self.set(field.name(), Said::Float(value));
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.set(field.name(), Said::Signed(value));
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.set(field.name(), Said::Unsigned(value));
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.set(field.name(), Said::Bool(value));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.set(field.name(), Said::Text(value.into()));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.set(field.name(), Said::Text(format!("{value:?}").into()));
    }
}
