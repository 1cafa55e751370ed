//! Under which name a category is counted. Callers choose categories freely, and each is an attribute of a day's item, which
//! every write pays for: the first [`MAX_NAMED`] of a tenant and day are counted by name, and the others together.
//!
//! The item has the names in a set. A write adds those to it that it is not known to have, on the condition that there is
//! room. Where there is none, the process learns the item's names, and makes the write again with those that fit.

use std::collections::{BTreeSet, HashMap};

use aws_sdk_dynamodb::{
    operation::update_item::builders::UpdateItemFluentBuilder, types::AttributeValue as Attribute,
};
use comms_core::{Channel, Tenant};
use jiff::civil::Date;

use super::{Counter, Counts};

/// Categories of a tenant and day that are counted by name.
pub const MAX_NAMED: usize = 32;
/// What all further ones are counted as. No category has parentheses.
pub const OTHER: &str = "(other)";
/// The attribute of the names.
const NAMES: &str = "categories";
/// Tenants and days of which the names are remembered.
const MAX_REMEMBERED: usize = 1_000;

/// The names under which a tenant's categories of a day are counted.
#[derive(Default)]
struct Named {
    names: BTreeSet<String>,
    /// Of those, which the item is known to have.
    in_item: BTreeSet<String>,
}

/// The categories that were counted by name.
#[derive(Default)]
pub(super) struct Categories(HashMap<(Tenant, Date), Named>);

impl Categories {
    fn named(&mut self, key: &(Tenant, Date)) -> &mut Named {
        if self.0.len() >= MAX_REMEMBERED && !self.0.contains_key(key) {
            // Of a day that is over, rather than of today. What is forgotten is learnt from the item again.
            let oldest = self.0.keys().min_by_key(|(_, day)| *day).cloned();
            oldest.and_then(|oldest| self.0.remove(&oldest));
        }
        self.0.entry(key.clone()).or_default()
    }

    /// The name under which `category` is counted.
    pub(super) fn counted_as(&mut self, key: &(Tenant, Date), category: &str) -> String {
        let names = &mut self.named(key).names;
        if !names.contains(category) {
            if names.len() >= MAX_NAMED {
                return OTHER.to_owned();
            }
            names.insert(category.to_owned());
        }
        category.to_owned()
    }

    /// The names of `counts` that the item is not known to have.
    pub(super) fn new_names(&mut self, key: &(Tenant, Date), counts: &Counts) -> NewNames {
        let in_item = &self.named(key).in_item;
        let by_channel = Channel::ALL.into_iter();
        let names = by_channel.flat_map(|channel| counts.by_category(channel));
        let names = names.map(|(name, _)| name);
        let new = names.filter(|name| *name != OTHER && !in_item.contains(*name));
        NewNames(new.map(str::to_owned).collect())
    }

    /// Remembers that the item has these names now.
    pub(super) fn are_written(&mut self, key: &(Tenant, Date), new: NewNames) {
        self.named(key).in_item.extend(new.0);
    }

    /// Remembers that the item has these names, and had no room for those of a write. Returns the names to count by.
    pub(super) fn learn(
        &mut self,
        key: &(Tenant, Date),
        in_item: BTreeSet<String>,
    ) -> &BTreeSet<String> {
        let named = self.named(key);
        let room = MAX_NAMED.saturating_sub(in_item.len());
        let others = named.names.difference(&in_item).take(room).cloned();
        named.names = others.chain(in_item.iter().cloned()).collect();
        named.in_item = in_item;
        &named.names
    }
}

/// The names in a day's item.
pub(super) fn names_of(item: &HashMap<String, Attribute>) -> BTreeSet<String> {
    let names = item.get(NAMES).and_then(|names| names.as_ss().ok());
    names.into_iter().flatten().cloned().collect()
}

/// The names that a write adds to those of an item.
#[derive(Default)]
pub(super) struct NewNames(BTreeSet<String>);

impl NewNames {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// On which condition there is room for them, and how they are added; `None` where there are none.
    pub(super) fn expressions(&self) -> Option<[&'static str; 2]> {
        (!self.is_empty()).then_some([
            "attribute_not_exists(#names) OR size(#names) <= :room",
            "#names :names",
        ])
    }

    /// Names and values of [`expressions`](Self::expressions).
    pub(super) fn bind(&self, request: UpdateItemFluentBuilder) -> UpdateItemFluentBuilder {
        if self.0.is_empty() {
            return request;
        }
        let room = MAX_NAMED.saturating_sub(self.0.len());
        request
            .expression_attribute_names("#names", NAMES)
            .expression_attribute_values(":names", Attribute::Ss(self.0.iter().cloned().collect()))
            .expression_attribute_values(":room", Attribute::N(room.to_string()))
    }
}

impl Counts {
    /// The same with those categories together that `names` has not.
    pub(super) fn with_categories(self, names: &BTreeSet<String>) -> Self {
        let mut counts = Self::default();
        for ((channel, counter), count) in self.0 {
            let is_unnamed =
                matches!(&counter, Counter::SentInCategory(name) if !names.contains(name));
            let counter = if is_unnamed {
                Counter::SentInCategory(OTHER.to_owned())
            } else {
                counter
            };
            counts.count(channel, counter, count);
        }
        counts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(tenant: usize) -> (Tenant, Date) {
        let tenant = Tenant::parse(&format!("clinic-{tenant}")).unwrap();
        (tenant, jiff::civil::date(2026, 12, 1))
    }

    #[test]
    fn categories_beyond_the_limit_are_counted_together() {
        let mut categories = Categories::default();
        let names = (0..MAX_NAMED + 5).map(|n| format!("category-{n}"));
        let counted: Vec<_> = names
            .map(|name| categories.counted_as(&key(1), &name))
            .collect();
        assert_eq!(
            counted[MAX_NAMED - 1],
            format!("category-{}", MAX_NAMED - 1)
        );
        assert!(counted[MAX_NAMED..].iter().all(|name| name == OTHER));
        assert_eq!(categories.counted_as(&key(1), "category-0"), "category-0");
        assert_eq!(categories.counted_as(&key(2), "new"), "new");
    }

    #[test]
    fn names_of_the_item_come_before_those_of_the_process() {
        let mut categories = Categories::default();
        for name in ["a", "b", "c"] {
            categories.counted_as(&key(1), name);
        }
        let of_others = (1..MAX_NAMED).map(|n| format!("other-{n}"));
        let names = categories.learn(&key(1), of_others.collect());
        assert_eq!(names.len(), MAX_NAMED);
        assert_eq!(
            categories.counted_as(&key(1), "a"),
            "a",
            "there is room for one"
        );
        assert_eq!(categories.counted_as(&key(1), "b"), OTHER);
        assert_eq!(categories.counted_as(&key(1), "other-7"), "other-7");
    }

    #[test]
    fn names_of_today_are_kept_when_there_are_many_tenants() {
        let mut categories = Categories::default();
        for n in 0..MAX_NAMED {
            categories.counted_as(&key(0), &n.to_string());
        }
        for n in 1..=MAX_REMEMBERED {
            let (tenant, day) = key(n);
            categories.counted_as(&(tenant, day.yesterday().unwrap()), "category");
        }
        assert_eq!(categories.0.len(), MAX_REMEMBERED);
        assert_eq!(categories.counted_as(&key(0), "new"), OTHER);
    }
}
