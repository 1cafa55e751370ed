//! Under which name a category is counted. Callers choose categories freely, and each is an attribute of a day's item, which
//! every write pays for: a process counts so many of a tenant and day by name, and the others together.

use std::collections::{BTreeSet, HashMap};

use comms_core::Tenant;
use jiff::civil::Date;

/// Categories of a tenant and day that one process counts by name.
const MAX_NAMED: usize = 32;
/// Tenants and days of which the names are remembered.
const MAX_REMEMBERED: usize = 1_000;
/// What all further ones are counted as.
const OTHER: &str = "other";

/// The categories that were counted by name.
#[derive(Default)]
pub(super) struct Categories(HashMap<(Tenant, Date), BTreeSet<String>>);

impl Categories {
    /// The name under which `category` is counted.
    pub(super) fn counted_as(&mut self, tenant: &Tenant, day: Date, category: &str) -> String {
        let key = (tenant.clone(), day);
        if self.0.len() >= MAX_REMEMBERED && !self.0.contains_key(&key) {
            self.0.clear();
        }
        let named = self.0.entry(key).or_default();
        if named.contains(category) || named.len() < MAX_NAMED {
            named.insert(category.to_owned());
            category.to_owned()
        } else {
            OTHER.to_owned()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn categories_beyond_the_limit_are_counted_together() {
        let tenant = Tenant::parse("clinic-1").unwrap();
        let day = jiff::civil::date(2026, 12, 1);
        let mut categories = Categories::default();
        let names = (0..MAX_NAMED + 5).map(|n| format!("category-{n}"));
        let counted: Vec<_> = names
            .map(|name| categories.counted_as(&tenant, day, &name))
            .collect();
        assert_eq!(
            counted[MAX_NAMED - 1],
            format!("category-{}", MAX_NAMED - 1)
        );
        assert!(counted[MAX_NAMED..].iter().all(|name| name == OTHER));
        assert_eq!(
            categories.counted_as(&tenant, day, "category-0"),
            "category-0"
        );
        let other = Tenant::parse("clinic-2").unwrap();
        assert_eq!(categories.counted_as(&other, day, "new"), "new");
    }
}
