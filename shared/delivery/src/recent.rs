//! A map that remembers what was used last.

use std::{collections::HashMap, hash::Hash};

/// Remembers at most so many values by their keys; what was used longest ago is forgotten first.
pub(crate) struct Recent<K, V> {
    capacity: usize,
    uses: u64,
    values: HashMap<K, (u64, V)>,
}

impl<K: Hash + Eq, V> Recent<K, V> {
    /// Remembers at most `capacity`, at least two.
    pub(crate) fn new(capacity: usize) -> Self {
        Self {
            capacity: capacity.max(2),
            uses: 0,
            values: HashMap::new(),
        }
    }

    /// The value of `key`, which `value` makes where there is none.
    pub(crate) fn entry(&mut self, key: K, value: impl FnOnce() -> V) -> &mut V {
        self.uses += 1;
        if self.values.len() >= self.capacity && !self.values.contains_key(&key) {
            // Half of them at once, so that looking for the oldest is not done for every new one.
            let kept = u64::try_from(self.capacity / 2).unwrap_or(u64::MAX);
            let oldest = self.uses.saturating_sub(kept);
            self.values.retain(|_, (last_use, _)| *last_use > oldest);
        }
        let (last_use, value) = self.values.entry(key).or_insert_with(|| (0, value()));
        *last_use = self.uses;
        value
    }

    /// All values, in no order.
    pub(crate) fn values(&self) -> impl Iterator<Item = &V> {
        self.values.values().map(|(_, value)| value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_never_holds_more_than_it_may_and_keeps_what_is_used() {
        let mut recent = Recent::new(10);
        for key in 1..=1_000 {
            recent.entry(key, || key);
            assert_eq!(*recent.entry(0, || 7), if key == 1 { 7 } else { 0 });
            *recent.entry(0, || 7) = 0;
            assert!(recent.values().count() <= 10, "{key}");
            assert_eq!(*recent.entry(key, || 0), key, "the newest is there");
        }
        assert_eq!(*recent.entry(1, || 5), 5, "the oldest is not");
    }
}
