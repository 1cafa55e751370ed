//! The stack's tables, as the commands that only read them name them.

use std::sync::Arc;

use aws_config::SdkConfig;
use clap::Args;
use comms_core::{Clock, HashKey, SystemClock};
use comms_delivery::{Ledger, Quotas, SharedHealth, Usage};
use comms_settings::{HashKeys, SettingsStore, StoreError};

use crate::{AnyError, sdk_config};

/// The tables.
#[derive(Debug, Args)]
pub(crate) struct TableArgs {
    /// The settings table: the stack's output `SettingsTableName`. Without it the variable `SETTINGS_TABLE`.
    #[arg(long, value_name = "TABLE", env = "SETTINGS_TABLE")]
    settings_table: String,
    /// The deliveries table: the stack's output `DeliveriesTableName`. Without it the variable `DELIVERIES_TABLE`.
    #[arg(long, value_name = "TABLE", env = "DELIVERIES_TABLE")]
    deliveries_table: String,
}

/// What is read of a stack.
pub(crate) struct Stack {
    pub(crate) sdk: SdkConfig,
    pub(crate) store: SettingsStore,
    pub(crate) ledger: Ledger,
    pub(crate) health: SharedHealth,
    pub(crate) quotas: Quotas,
    pub(crate) usage: Usage,
    pub(crate) clock: Arc<dyn Clock>,
    keys: HashKeys,
}

impl Stack {
    /// The stack with these tables. Connects to nothing.
    pub(crate) fn new(tables: &TableArgs) -> Result<Self, AnyError> {
        let sdk = sdk_config()?;
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        // Reading needs no key of one's own: each item names the key that it is under.
        let store = SettingsStore::new(&sdk, &tables.settings_table, "");
        Ok(Self {
            ledger: Ledger::new(&sdk, &tables.deliveries_table),
            health: SharedHealth::new(&sdk, &tables.deliveries_table, clock.clone()),
            quotas: Quotas::new(&sdk, &tables.deliveries_table, clock.clone()),
            usage: Usage::new(&sdk, &tables.deliveries_table),
            keys: HashKeys::new(store.clone()),
            store,
            clock,
            sdk,
        })
    }

    /// The key of the hashes; `None` where nothing was ever sent or saved. One read and one KMS Decrypt, once.
    pub(crate) async fn hash_key(&self) -> Result<Option<&HashKey>, StoreError> {
        self.keys.find().await
    }
}
