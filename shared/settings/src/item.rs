//! Settings as DynamoDB items: attributes in, attributes out. An item that cannot be read is an
//! error that names the attribute, never a default.

use std::collections::HashMap;

use aws_sdk_dynamodb::{primitives::Blob, types::AttributeValue};
use comms_aws::{
    TableError,
    item::{
        bytes, find_number, find_text, number, optional_number, optional_text, required_bytes,
        required_number, required_text, text,
    },
};
use comms_core::Tenant;
use jiff::Timestamp;
use serde_json::Value;

use crate::{
    ceilings::Ceilings,
    envelope::EncryptedDataKey,
    seal::Content,
    store_error::StoreError,
    version::{Change, Version},
};

pub(crate) use comms_aws::Item;

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
    pub(crate) const CHANGE: &str = "change";
    pub(crate) const RESTORED_FROM: &str = "restoredFrom";
    pub(crate) const CHANGED: &str = "changed";
    /// The table's time to live: seconds of the Unix epoch.
    pub(crate) const EXPIRES_AT: &str = "expiresAt";
    /// What makes the version authentic as a whole ([`crate::seal`]).
    pub(crate) const SEAL: &str = "seal";
    /// On a version that lost its content: when, in seconds of the Unix epoch.
    pub(crate) const CONTENT_REMOVED_AT: &str = "contentRemovedAt";
    /// On a version that is to be purged: the `expiresAt` it had before.
    pub(crate) const RETAINED_UNTIL: &str = "retainedUntil";
    /// When a purge takes effect, in seconds of the Unix epoch.
    pub(crate) const PURGE_AT: &str = "purgeAt";
    /// On the counter: up to which version a purge goes.
    pub(crate) const PURGE_THROUGH: &str = "purgeThrough";
    /// On the counter: the versions that still have their content.
    pub(crate) const KEPT: &str = "kept";
    pub(crate) const MAC: &str = "mac";
}

/// The document of a deletion that keeps nothing.
const NO_DOCUMENT: &str = "{}";

/// The sort key of a tenant's present settings.
pub(crate) const CURRENT: &str = "settings";

/// The sort key of one version, so that versions sort by number.
pub(crate) fn version_key(version: u64) -> String {
    format!("version#{version:010}")
}

/// The version whose sort key this is.
pub(crate) fn version_of_key(sort_key: &str) -> Option<u64> {
    sort_key.strip_prefix("version#")?.parse().ok()
}

/// What a settings item may be.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum StoredItem {
    /// Settings.
    Settings(SettingsItem),
    /// That there are none any more.
    Tombstone(Tombstone),
    /// Who changed what, of a version whose content was removed.
    Record(Version),
}

impl StoredItem {
    /// Whether it has a seal. Whether the seal is its own is another question.
    pub(crate) const fn has_seal(&self) -> bool {
        match self {
            Self::Settings(item) => item.seal.is_some(),
            Self::Tombstone(tombstone) => tombstone.seal.is_some(),
            Self::Record(_) => false,
        }
    }
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
    /// `None` for what earlier versions of this service wrote.
    pub(crate) seal: Option<Vec<u8>>,
    /// When the item may be forgotten, in seconds of the Unix epoch. `None` for the present settings.
    pub(crate) expires_at: Option<i64>,
}

/// What stands in the place of deleted settings. It keeps their number, so that no later version has
/// it again: what is sealed is bound to the number.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Tombstone {
    pub(crate) version: Version,
    /// The settings that a deletion keeps, as JSON text: `{}` where it keeps none.
    pub(crate) document: String,
    /// As in [`SettingsItem`].
    pub(crate) seal: Option<Vec<u8>>,
    /// As in [`SettingsItem`].
    pub(crate) expires_at: Option<i64>,
}

impl StoredItem {
    pub(crate) fn from_item(item: &Item) -> Result<Self, StoreError> {
        let deleted = find_text(item, attribute::CHANGE)
            .is_some_and(|change| matches!(change.as_str(), "deleted" | "purged"));
        if deleted {
            // Tombstones of earlier versions of this service have no document.
            let document = optional_text(item, attribute::DOCUMENT)?;
            Ok(Self::Tombstone(Tombstone {
                version: read_version(item)?,
                document: document.map_or_else(|| NO_DOCUMENT.to_owned(), Clone::clone),
                seal: read_seal(item)?,
                expires_at: optional_number(item, attribute::EXPIRES_AT)?,
            }))
        } else if item.contains_key(attribute::CONTENT_REMOVED_AT) {
            Ok(Self::Record(read_version(item)?))
        } else {
            SettingsItem::from_item(item).map(Self::Settings)
        }
    }
}

impl Tombstone {
    pub(crate) fn to_item(&self, tenant: &Tenant, sort_key: &str) -> Item {
        let mut item = version_item(tenant, sort_key, &self.version, self.expires_at);
        item.extend([text(attribute::DOCUMENT, &self.document)]);
        item.extend(self.seal.as_ref().map(|seal| bytes(attribute::SEAL, seal)));
        item
    }

    pub(crate) fn content(&self, tenant: &Tenant) -> Content {
        Content::new(tenant, &self.version, &self.document, [])
    }

    /// The ceilings that the deletion kept.
    pub(crate) fn ceilings(&self) -> Result<Ceilings, StoreError> {
        let document = serde_json::from_str(&self.document);
        let document = document.map_err(|_| StoreError::corrupt(attribute::DOCUMENT))?;
        Ceilings::read_kept(document).map_err(StoreError::Invalid)
    }
}

impl SettingsItem {
    pub(crate) fn to_item(&self, tenant: &Tenant, sort_key: &str) -> Item {
        let sealed = self
            .sealed
            .iter()
            .map(|(place, bytes)| (place.clone(), AttributeValue::B(Blob::new(bytes.clone()))))
            .collect();
        let mut item = version_item(tenant, sort_key, &self.version, self.expires_at);
        item.extend([
            text(attribute::DOCUMENT, &self.document),
            (attribute::SEALED.to_owned(), AttributeValue::M(sealed)),
            bytes(attribute::DATA_KEY, &self.data_key.ciphertext),
            text(attribute::KEY_ARN, &self.data_key.key_arn),
        ]);
        item.extend(self.seal.as_ref().map(|seal| bytes(attribute::SEAL, seal)));
        item
    }

    pub(crate) fn from_item(item: &Item) -> Result<Self, StoreError> {
        let sealed = required(item, attribute::SEALED)?;
        let sealed = read_sealed(sealed).ok_or(StoreError::corrupt(attribute::SEALED))?;
        Ok(Self {
            version: read_version(item)?,
            document: required_text(item, attribute::DOCUMENT)?.clone(),
            sealed,
            data_key: EncryptedDataKey {
                ciphertext: required_bytes(item, attribute::DATA_KEY)?,
                key_arn: required_text(item, attribute::KEY_ARN)?.clone(),
            },
            seal: read_seal(item)?,
            expires_at: optional_number(item, attribute::EXPIRES_AT)?,
        })
    }

    pub(crate) fn content(&self, tenant: &Tenant) -> Content {
        Content::new(tenant, &self.version, &self.document, self.sealed.keys())
    }

    /// Bytes of everything in it that can be long.
    pub(crate) fn size(&self) -> usize {
        let sealed: usize = self.sealed.values().map(Vec::len).sum();
        let changed: usize = self.version.changed.iter().map(String::len).sum();
        self.document.len() + sealed + changed + self.data_key.ciphertext.len()
    }

    pub(crate) fn outline(&self) -> Result<Value, StoreError> {
        serde_json::from_str(&self.document).map_err(|_| StoreError::corrupt(attribute::DOCUMENT))
    }
}

/// The attributes that every version has, whatever it is of.
fn version_item(
    tenant: &Tenant,
    sort_key: &str,
    version: &Version,
    expires_at: Option<i64>,
) -> Item {
    let changed = version.changed.iter().cloned().map(AttributeValue::S);
    let mut item = HashMap::from([
        text(attribute::PK, tenant.as_str()),
        text(attribute::SK, sort_key),
        number(attribute::VERSION, version.number),
        text(attribute::SAVED_AT, &version.saved_at.to_string()),
        text(attribute::SAVED_BY, &version.saved_by),
        text(attribute::CHANGE, version.change.as_str()),
        (
            attribute::CHANGED.to_owned(),
            AttributeValue::L(changed.collect()),
        ),
    ]);
    if let Some(address) = &version.source_address {
        item.extend([text(attribute::SOURCE_ADDRESS, address)]);
    }
    match version.change {
        Change::Saved | Change::Deleted => {}
        Change::Restored { from } => item.extend([number(attribute::RESTORED_FROM, from)]),
        Change::Purged { at } => item.extend([number(attribute::PURGE_AT, at.as_second())]),
    }
    if let Some(expires_at) = expires_at {
        item.extend([number(attribute::EXPIRES_AT, expires_at)]);
    }
    item
}

/// The version in an item of any kind.
pub(crate) fn read_version(item: &Item) -> Result<Version, StoreError> {
    let changed = required(item, attribute::CHANGED)?;
    let saved_at = required_text(item, attribute::SAVED_AT)?.parse();
    Ok(Version {
        number: version_number(item)?,
        saved_at: saved_at.map_err(|_| TableError::Corrupt(attribute::SAVED_AT))?,
        saved_by: required_text(item, attribute::SAVED_BY)?.clone(),
        source_address: optional_text(item, attribute::SOURCE_ADDRESS)?.cloned(),
        change: read_change(item)?,
        changed: read_texts(changed).ok_or(StoreError::corrupt(attribute::CHANGED))?,
    })
}

/// The number of an item's version, whatever else may be wrong with the item.
pub(crate) fn version_number(item: &Item) -> Result<u64, StoreError> {
    Ok(required_number(item, attribute::VERSION)?)
}

/// Whether the item's time to live is over: DynamoDB deletes it some days later, and goes on showing
/// it until then.
pub(crate) fn is_expired(item: &Item, now: Timestamp) -> bool {
    find_number::<i64>(item, attribute::EXPIRES_AT)
        .is_some_and(|expires_at| expires_at <= now.as_second())
}

fn read_change(item: &Item) -> Result<Change, TableError> {
    // Items that were written before there was anything but saves do not say so.
    let Some(change) = optional_text(item, attribute::CHANGE)? else {
        return Ok(Change::Saved);
    };
    match change.as_str() {
        "saved" => Ok(Change::Saved),
        "deleted" => Ok(Change::Deleted),
        "purged" => Ok(Change::Purged {
            at: Timestamp::from_second(required_number(item, attribute::PURGE_AT)?)
                .map_err(|_| TableError::Corrupt(attribute::PURGE_AT))?,
        }),
        "restored" => Ok(Change::Restored {
            from: required_number(item, attribute::RESTORED_FROM)?,
        }),
        _ => Err(TableError::Corrupt(attribute::CHANGE)),
    }
}

fn read_seal(item: &Item) -> Result<Option<Vec<u8>>, TableError> {
    item.contains_key(attribute::SEAL)
        .then(|| required_bytes(item, attribute::SEAL))
        .transpose()
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

fn required<'a>(item: &'a Item, name: &'static str) -> Result<&'a AttributeValue, TableError> {
    item.get(name).ok_or(TableError::Corrupt(name))
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
                change: Change::Restored { from: 3 },
                changed: vec!["/email".into()],
            },
            document: "{}".into(),
            sealed: HashMap::from([("email/primary".into(), vec![1, 2, 3])]),
            data_key: EncryptedDataKey {
                ciphertext: vec![4, 5],
                key_arn: "arn".into(),
            },
            seal: Some(vec![6, 7]),
            expires_at: Some(1_734_560_000),
        }
    }

    #[test]
    fn an_item_reads_back_as_it_was_written() {
        let tenant = Tenant::parse("clinic-1").unwrap();
        let item = stored().to_item(&tenant, CURRENT);
        assert_eq!(
            StoredItem::from_item(&item).unwrap(),
            StoredItem::Settings(stored())
        );
        let tombstone = Tombstone {
            version: Version {
                change: Change::Deleted,
                ..stored().version
            },
            document: r#"{"kept":1}"#.into(),
            seal: Some(vec![8]),
            expires_at: None,
        };
        let item = tombstone.to_item(&tenant, CURRENT);
        assert_eq!(
            StoredItem::from_item(&item).unwrap(),
            StoredItem::Tombstone(tombstone)
        );
    }

    #[test]
    fn an_item_that_does_not_say_how_it_came_about_was_saved() {
        let tenant = Tenant::parse("clinic-1").unwrap();
        let mut item = stored().to_item(&tenant, CURRENT);
        item.remove("change");
        let read = SettingsItem::from_item(&item).unwrap();
        assert_eq!(read.version.change, Change::Saved);
    }

    #[test]
    fn an_item_is_expired_from_the_second_that_it_names() {
        let tenant = Tenant::parse("clinic-1").unwrap();
        let item = stored().to_item(&tenant, CURRENT);
        let at = |second| Timestamp::from_second(second).unwrap();
        assert!(!is_expired(&item, at(1_734_559_999)));
        assert!(is_expired(&item, at(1_734_560_000)));
    }

    #[test]
    fn an_item_that_lacks_an_attribute_is_an_error_that_names_it() {
        let tenant = Tenant::parse("clinic-1").unwrap();
        let whole = stored().to_item(&tenant, CURRENT);
        for name in whole.keys() {
            if matches!(name.as_str(), "pk" | "sk") {
                continue;
            }
            let optional =
                ["sourceAddress", "change", "seal", "expiresAt"].contains(&name.as_str());
            let mut item = whole.clone();
            item.remove(name);
            assert!(
                optional
                    || matches!(SettingsItem::from_item(&item), Err(StoreError::Table(TableError::Corrupt(at))) if at == name),
                "{name}"
            );
            let mut item = whole.clone();
            item.insert(name.clone(), AttributeValue::Bool(true));
            assert!(SettingsItem::from_item(&item).is_err(), "{name}");
        }
    }

    #[test]
    fn versions_sort_by_number() {
        assert!(version_key(9) < version_key(10));
    }
}
