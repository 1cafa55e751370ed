//! Settings of `--data` that an earlier version wrote: the functions refuse them, and the developer has to know.

use comms_settings::{SettingsStore, StoreError};
use comms_testkit::aws::LocalAws;

/// The variable that lets the functions read them for the time being.
pub(crate) const ACCEPT: &str = "ACCEPT_UNSEALED_SETTINGS";

/// Says what to do where settings have no seal.
pub(crate) async fn advice(aws: &LocalAws) -> Result<Option<String>, StoreError> {
    let resources = aws.resources();
    let (table, key) = (&resources.settings_table, &resources.kms_key_id);
    let store = SettingsStore::new(&aws.sdk_config(), table, key);
    let (mut unsealed, mut from) = (0_usize, None);
    loop {
        let page = store.sealed_items(None, from).await?;
        unsealed += page.items.iter().filter(|item| item.is_unsealed).count();
        from = page.next;
        if from.is_none() {
            break;
        }
    }
    Ok((unsealed > 0).then(|| {
        format!(
            "{unsealed} settings in --data were saved by an earlier version and are refused. Delete the directory, or start \
             with {ACCEPT}=true and run `comms-operator seal --table {table} --key {key}` against this stack \
             (infra/docs/OPERATIONS.md)."
        )
    }))
}
