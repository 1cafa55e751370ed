//! Attributes of DynamoDB items: written, and read with an error that names the attribute. An attribute of another type
//! than expected is an error, never a default.
//!
//! Not `serde_dynamo`: most items have attributes whose names are data (permits, windows, counters, health records), and
//! a reader must say which attribute is corrupt, which serde's errors say as text only.

use std::{collections::HashMap, fmt::Display, str::FromStr};

use aws_sdk_dynamodb::{primitives::Blob, types::AttributeValue};

use crate::table_error::TableError;

/// An item, or a part of one.
pub type Item = HashMap<String, AttributeValue>;

/// The partition key's attribute in every table.
pub const PK: &str = "pk";
/// The sort key's attribute in every table.
pub const SK: &str = "sk";

/// The key of an item.
pub fn key(partition_key: &str, sort_key: &str) -> Item {
    HashMap::from([text(PK, partition_key), text(SK, sort_key)])
}

/// A value of type `S`.
pub fn text_value(text: &str) -> AttributeValue {
    AttributeValue::S(text.to_owned())
}

/// A value of type `N`.
pub fn number_value(number: impl Display) -> AttributeValue {
    AttributeValue::N(number.to_string())
}

/// An attribute of type `S`.
pub fn text(name: &str, value: &str) -> (String, AttributeValue) {
    (name.to_owned(), text_value(value))
}

/// An attribute of type `N`.
pub fn number(name: &str, value: impl Display) -> (String, AttributeValue) {
    (name.to_owned(), number_value(value))
}

/// An attribute of type `B`.
pub fn bytes(name: &str, value: &[u8]) -> (String, AttributeValue) {
    (name.to_owned(), AttributeValue::B(Blob::new(value)))
}

/// The number in a value; `None` for a value of another type and for a number that is no `T`.
pub fn parse_number<T: FromStr>(value: &AttributeValue) -> Option<T> {
    value.as_n().ok()?.parse().ok()
}

/// A text, where the attribute is one.
pub fn find_text<'a>(item: &'a Item, name: &str) -> Option<&'a String> {
    item.get(name)?.as_s().ok()
}

/// A number, where the attribute is one.
pub fn find_number<T: FromStr>(item: &Item, name: &str) -> Option<T> {
    parse_number(item.get(name)?)
}

/// A text that has to be present.
pub fn required_text<'a>(item: &'a Item, name: &'static str) -> Result<&'a String, TableError> {
    find_text(item, name).ok_or(TableError::Corrupt(name))
}

/// A text that may be absent.
pub fn optional_text<'a>(
    item: &'a Item,
    name: &'static str,
) -> Result<Option<&'a String>, TableError> {
    item.contains_key(name)
        .then(|| required_text(item, name))
        .transpose()
}

/// A number that has to be present.
pub fn required_number<T: FromStr>(item: &Item, name: &'static str) -> Result<T, TableError> {
    find_number(item, name).ok_or(TableError::Corrupt(name))
}

/// A number that may be absent.
pub fn optional_number<T: FromStr>(
    item: &Item,
    name: &'static str,
) -> Result<Option<T>, TableError> {
    item.contains_key(name)
        .then(|| required_number(item, name))
        .transpose()
}

/// Bytes that have to be present.
pub fn required_bytes(item: &Item, name: &'static str) -> Result<Vec<u8>, TableError> {
    item.get(name)
        .and_then(|value| value.as_b().ok())
        .map(|bytes| bytes.as_ref().to_vec())
        .ok_or(TableError::Corrupt(name))
}

/// A flag; an absent one is false.
pub fn flag(item: &Item, name: &'static str) -> Result<bool, TableError> {
    match item.get(name) {
        None => Ok(false),
        Some(value) => value
            .as_bool()
            .copied()
            .map_err(|_| TableError::Corrupt(name)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attribute_of_another_type_is_corrupt_and_an_absent_one_is_not() {
        let item = Item::from([text("text", "7"), number("number", 7)]);
        assert_eq!(required_number(&item, "number"), Ok(7_u32));
        assert_eq!(
            required_number::<u32>(&item, "text"),
            Err(TableError::Corrupt("text"))
        );
        assert_eq!(
            optional_text(&item, "number"),
            Err(TableError::Corrupt("number"))
        );
        assert_eq!(flag(&item, "text"), Err(TableError::Corrupt("text")));
        assert_eq!(optional_number::<u32>(&item, "absent"), Ok(None));
        assert_eq!(optional_text(&item, "absent"), Ok(None));
        assert_eq!(flag(&item, "absent"), Ok(false));
        assert_eq!(
            required_text(&item, "absent"),
            Err(TableError::Corrupt("absent"))
        );
    }

    #[test]
    fn number_out_of_range_is_corrupt() {
        let item = Item::from([number("count", -1)]);
        assert_eq!(
            optional_number::<u32>(&item, "count"),
            Err(TableError::Corrupt("count"))
        );
    }
}
