//! A map that remembers what was used last.

use std::{borrow::Borrow, fmt, hash::Hash, num::NonZeroUsize};

use lru::LruCache;

/// Remembers values by their keys; what was used longest ago is forgotten first. It takes memory for what it holds, not for
/// what it may hold.
pub struct Recent<K: Hash + Eq, V>(LruCache<K, V>);

impl<K: Hash + Eq, V> Recent<K, V> {
    /// Remembers at most `capacity` values, and one at least.
    pub fn new(capacity: usize) -> Self {
        let mut values = LruCache::unbounded();
        // Beforehand it would allocate as much as it may ever hold.
        values.resize(NonZeroUsize::new(capacity).unwrap_or(NonZeroUsize::MIN));
        Self(values)
    }

    /// Remembers everything until its owner forgets it.
    pub fn unbounded() -> Self {
        Self(LruCache::unbounded())
    }

    /// The value of `key`, which `value` makes where there is none. It is used now.
    pub fn entry(&mut self, key: K, value: impl FnOnce() -> V) -> &mut V {
        self.0.get_or_insert_mut(key, value)
    }

    /// The value of `key`, which is used now.
    pub fn get_mut<Q: Hash + Eq + ?Sized>(&mut self, key: &Q) -> Option<&mut V>
    where
        K: Borrow<Q>,
    {
        self.0.get_mut(key)
    }

    /// The value of `key`, which is not used by this.
    pub fn peek<Q: Hash + Eq + ?Sized>(&self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
    {
        self.0.peek(key)
    }

    /// The value of `key`, for a change that is no use of it.
    pub fn peek_mut<Q: Hash + Eq + ?Sized>(&mut self, key: &Q) -> Option<&mut V>
    where
        K: Borrow<Q>,
    {
        self.0.peek_mut(key)
    }

    /// Remembers `value`, which is used now.
    pub fn insert(&mut self, key: K, value: V) {
        self.0.put(key, value);
    }

    /// Forgets a value.
    pub fn remove<Q: Hash + Eq + ?Sized>(&mut self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
    {
        self.0.pop(key)
    }

    /// All keys and values, from what was used longest ago.
    pub fn oldest_first(&self) -> impl Iterator<Item = (&K, &V)> {
        self.0.iter().rev()
    }

    /// All values.
    pub fn values(&self) -> impl Iterator<Item = &V> {
        self.0.iter().map(|(_, value)| value)
    }

    /// How many values there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl<K: Hash + Eq, V> Default for Recent<K, V> {
    /// [`Recent::unbounded`].
    fn default() -> Self {
        Self::unbounded()
    }
}

impl<K: Hash + Eq, V> fmt::Debug for Recent<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Recent({})", self.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn never_holds_more_than_it_may_and_keeps_what_is_used() {
        let mut recent = Recent::new(10);
        for key in 1..=1_000 {
            recent.entry(key, || key);
            assert_eq!(*recent.entry(0, || 7), if key == 1 { 7 } else { 0 });
            *recent.entry(0, || 7) = 0;
            assert!(recent.len() <= 10, "{key}");
            assert_eq!(*recent.entry(key, || 0), key, "the newest is there");
        }
        assert_eq!(*recent.entry(1, || 5), 5, "the oldest is not");
    }

    #[test]
    fn what_is_looked_at_without_use_stays_the_oldest() {
        let mut recent = Recent::unbounded();
        for key in 0..3 {
            recent.insert(key, key);
        }
        assert_eq!(recent.peek(&0), Some(&0));
        assert_eq!(recent.get_mut(&1), Some(&mut 1));
        let order: Vec<_> = recent.oldest_first().map(|(key, _)| *key).collect();
        assert_eq!(order, [0, 2, 1]);
    }
}
