//! Settings as DynamoDB items: attributes in, attributes out. An item that can not be read is an
//! error that names the attribute, never a default.

use std::collections::HashMap;

use aws_sdk_dynamodb::{primitives::Blob, types::AttributeValue};
use comms_core::Tenant;
use jiff::Timestamp;
use serde_json::Value;

use crate::{
    envelope::EncryptedDataKey,
    store::{StoreError, Version},
};

pub(crate) type Item = HashMap<String, AttributeValue>;

/// Names of the attributes of a settings item.
pub(crate) mod attribute {
    pub(crate) const PK: &str = "pk";
    pub(crate) const SK: &str = "sk";
    pub(crate) const VERSION: &str = "version";
    pub(crate) const DOCUMENT: &str = "document";
    pub(crate) const SEALED: &str = "sealed";
    pub(crate) const DATA_KEY: &str = "dataKey";
    pub(crate) const KEY_ARN: &str = "keyArn";
    pub(crate) const SAVED_AT: &str = "savedAt";
    pub(crate) const SAVED_BY: &str = "savedBy";
    pub(crate) const SOURCE_ADDRESS: &str = "sourceAddress";
    pub(crate) const CHANGED: &str = "changed";
}

/// The sort key of a tenant's present settings.
pub(crate) const CURRENT: &str = "settings";

/// The sort key of one version, so that versions sort by number.
pub(crate) fn version_key(version: u64) -> String {
    format!("version#{version:010}")
}

/// One version of a tenant's settings as it is stored.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct SettingsItem {
    pub(crate) version: Version,
    /// The document without credentials, as JSON text.
    pub(crate) document: String,
    /// Sealed credentials by `channel/entry`.
    pub(crate) sealed: HashMap<String, Vec<u8>>,
    pub(crate) data_key: EncryptedDataKey,
}

impl SettingsItem {
    pub(crate) fn to_item(&self, tenant: &Tenant, sort_key: &str) -> Item {
        let sealed = self
            .sealed
            .iter()
            .map(|(place, bytes)| (place.clone(), AttributeValue::B(Blob::new(bytes.clone()))))
            .collect();
        let changed = self
            .version
            .changed
            .iter()
            .cloned()
            .map(AttributeValue::S)
            .collect();
        let mut item = HashMap::from([
            text(attribute::PK, tenant.as_str()),
            text(attribute::SK, sort_key),
            (
                attribute::VERSION.to_owned(),
                AttributeValue::N(self.version.number.to_string()),
            ),
            text(attribute::DOCUMENT, &self.document),
            (attribute::SEALED.to_owned(), AttributeValue::M(sealed)),
            bytes(attribute::DATA_KEY, &self.data_key.ciphertext),
            text(attribute::KEY_ARN, &self.data_key.key_arn),
            text(attribute::SAVED_AT, &self.version.saved_at.to_string()),
            text(attribute::SAVED_BY, &self.version.saved_by),
            (attribute::CHANGED.to_owned(), AttributeValue::L(changed)),
        ]);
        if let Some(address) = &self.version.source_address {
            item.extend([text(attribute::SOURCE_ADDRESS, address)]);
        }
        item
    }

    pub(crate) fn from_item(mut item: Item) -> Result<Self, StoreError> {
        let number = take_text_or_number(&mut item, attribute::VERSION)?;
        let saved_at = take_text_or_number(&mut item, attribute::SAVED_AT)?;
        let sealed = take(&mut item, attribute::SEALED)?;
        let sealed = read_sealed(&sealed).ok_or(StoreError::Corrupt(attribute::SEALED))?;
        let changed = take(&mut item, attribute::CHANGED)?;
        let changed = read_texts(&changed).ok_or(StoreError::Corrupt(attribute::CHANGED))?;
        Ok(Self {
            version: Version {
                number: number
                    .parse()
                    .map_err(|_| StoreError::Corrupt(attribute::VERSION))?,
                saved_at: saved_at
                    .parse::<Timestamp>()
                    .map_err(|_| StoreError::Corrupt(attribute::SAVED_AT))?,
                saved_by: take_text_or_number(&mut item, attribute::SAVED_BY)?,
                source_address: item
                    .contains_key(attribute::SOURCE_ADDRESS)
                    .then(|| take_text_or_number(&mut item, attribute::SOURCE_ADDRESS))
                    .transpose()?,
                changed,
            },
            document: take_text_or_number(&mut item, attribute::DOCUMENT)?,
            sealed,
            data_key: EncryptedDataKey {
                ciphertext: take_bytes(&mut item, attribute::DATA_KEY)?,
                key_arn: take_text_or_number(&mut item, attribute::KEY_ARN)?,
            },
        })
    }

    /// Bytes of everything in it that can be long.
    pub(crate) fn size(&self) -> usize {
        let sealed: usize = self.sealed.values().map(Vec::len).sum();
        let changed: usize = self.version.changed.iter().map(String::len).sum();
        self.document.len() + sealed + changed + self.data_key.ciphertext.len()
    }

    pub(crate) fn outline(&self) -> Result<Value, StoreError> {
        serde_json::from_str(&self.document).map_err(|_| StoreError::Corrupt(attribute::DOCUMENT))
    }
}

pub(crate) fn text(name: &str, value: &str) -> (String, AttributeValue) {
    (name.to_owned(), AttributeValue::S(value.to_owned()))
}

pub(crate) fn bytes(name: &str, value: &[u8]) -> (String, AttributeValue) {
    (name.to_owned(), AttributeValue::B(Blob::new(value)))
}

fn read_sealed(value: &AttributeValue) -> Option<HashMap<String, Vec<u8>>> {
    let entries = value.as_m().ok()?.iter();
    entries
        .map(|(place, value)| Some((place.clone(), value.as_b().ok()?.as_ref().to_vec())))
        .collect()
}

fn read_texts(value: &AttributeValue) -> Option<Vec<String>> {
    value
        .as_l()
        .ok()?
        .iter()
        .map(|text| text.as_s().ok().cloned())
        .collect()
}

fn take(item: &mut Item, name: &'static str) -> Result<AttributeValue, StoreError> {
    item.remove(name).ok_or(StoreError::Corrupt(name))
}

pub(crate) fn take_text_or_number(
    item: &mut Item,
    name: &'static str,
) -> Result<String, StoreError> {
    let value = take(item, name)?;
    value
        .as_s()
        .or_else(|_| value.as_n())
        .cloned()
        .map_err(|_| StoreError::Corrupt(name))
}

pub(crate) fn take_bytes(item: &mut Item, name: &'static str) -> Result<Vec<u8>, StoreError> {
    let value = take(item, name)?;
    value
        .as_b()
        .map(|bytes| bytes.as_ref().to_vec())
        .map_err(|_| StoreError::Corrupt(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stored() -> SettingsItem {
        SettingsItem {
            version: Version {
                number: 7,
                saved_at: Timestamp::from_second(1_700_000_000).unwrap(),
                saved_by: "admin".into(),
                source_address: Some("192.0.2.1".into()),
                changed: vec!["/email".into()],
            },
            document: "{}".into(),
            sealed: HashMap::from([("email/primary".into(), vec![1, 2, 3])]),
            data_key: EncryptedDataKey {
                ciphertext: vec![4, 5],
                key_arn: "arn".into(),
            },
        }
    }

    #[test]
    fn an_item_reads_back_as_it_was_written() {
        let tenant = Tenant::parse("clinic-1").unwrap();
        let item = stored().to_item(&tenant, CURRENT);
        assert_eq!(SettingsItem::from_item(item).unwrap(), stored());
    }

    #[test]
    fn an_item_that_lacks_an_attribute_is_an_error_that_names_it() {
        let tenant = Tenant::parse("clinic-1").unwrap();
        let whole = stored().to_item(&tenant, CURRENT);
        for name in whole.keys() {
            if matches!(name.as_str(), "pk" | "sk" | "sourceAddress") {
                continue;
            }
            let mut item = whole.clone();
            item.remove(name);
            assert!(
                matches!(SettingsItem::from_item(item), Err(StoreError::Corrupt(at)) if at == name),
                "{name}"
            );
            let mut item = whole.clone();
            item.insert(name.clone(), AttributeValue::Bool(true));
            assert!(SettingsItem::from_item(item).is_err(), "{name}");
        }
    }

    #[test]
    fn versions_sort_by_number() {
        assert!(version_key(9) < version_key(10));
    }
}
